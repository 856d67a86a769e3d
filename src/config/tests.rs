use super::*;
use crate::nats::Auth;
use serde_json::{Value, json};

/// Resolves a configuration in a home folder of its own.
struct Case {
    home: tempfile::TempDir,
    environment: HashMap<String, String>,
}

impl Case {
    fn new() -> Case {
        let home = tempfile::tempdir().expect("a folder");
        let environment = HashMap::from([("HOME".to_string(), home.path().display().to_string())]);
        Case { home, environment }
    }

    fn write(&self, name: &str, text: &str) -> &Case {
        let path = self.home.path().join(name);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("folders");
        std::fs::write(path, text).expect("a file");
        self
    }

    fn file(self, value: Value) -> Case {
        self.write(".pi-exec/config.json", &value.to_string());
        self
    }

    fn env(mut self, name: &str, value: &str) -> Case {
        self.environment.insert(name.into(), value.into());
        self
    }

    fn run(&self, arguments: &[&str]) -> Result<Command, ConfigError> {
        from_command_line(arguments.iter().map(Into::into).collect(), self.environment.clone())
    }

    fn config(&self, arguments: &[&str]) -> Config {
        match self.run(arguments) {
            Ok(Command::Serve { config, .. } | Command::Check(config)) => *config,
            Ok(Command::Print(text)) => panic!("{text}"),
            Err(e) => panic!("{e}"),
        }
    }

    fn error(&self, arguments: &[&str]) -> ConfigError {
        match self.run(arguments) {
            Ok(_) => panic!("{arguments:?} is accepted"),
            Err(e) => e,
        }
    }
}

fn servers(config: &Config) -> String {
    config.nats.servers.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

#[test]
fn flags_beat_the_environment_which_beats_the_file_which_beats_the_default() {
    let name = "PI_EXEC_DEFAULT_MAX_LIFETIME";
    let lifetime = |case: &Case, arguments: &[&str]| case.config(arguments).default_max_lifetime.as_secs();
    assert_eq!(lifetime(&Case::new(), &[]), 1800);
    let case = Case::new().file(json!({"defaultMaxLifetime": 7}));
    assert_eq!(lifetime(&case, &[]), 7);
    let case = case.env(name, "0");
    assert_eq!(lifetime(&case, &[]), 0, "zero is a value");
    assert_eq!(lifetime(&case, &["--max-lifetime", "9"]), 9);
    assert_eq!(lifetime(&case.env(name, ""), &[]), 7, "an empty variable is none");
}

#[test]
fn the_server_is_on_this_machine_unless_it_is_named() {
    let context = r#"{"url":"nats://ctx:1","user":"u","password":"p"}"#;
    let with_context = || {
        let case = Case::new();
        case.write(".config/nats/context/c.json", context);
        case
    };
    for (case, arguments, expected) in [
        (Case::new(), vec![], "127.0.0.1:4222"),
        (Case::new().env("NATS_URL", "env:2"), vec![], "env:2"),
        (Case::new().env("NATS_URL", "env:2"), vec!["--server", "flag:3,other"], "flag:3,other:4222"),
        (with_context(), vec!["--context", "c"], "ctx:1"),
        (with_context(), vec!["--context", "c", "--server", "flag:3"], "flag:3"),
        (with_context().env("NATS_URL", "env:2"), vec!["--context", "c"], "ctx:1"),
        (with_context().env("NATS_URL", "env:2").env("NATS_CONTEXT", "c"), vec![], "env:2"),
        (with_context().file(json!({"server": "file:4"})).env("NATS_CONTEXT", "c"), vec![], "ctx:1"),
    ] {
        assert_eq!(servers(&case.config(&arguments)), expected, "{arguments:?}");
    }
    let config = with_context().config(&["--context", "c", "--server", "flag:3"]);
    let own = Auth::UserPassword { user: "u".into(), password: "p".into() };
    assert!(config.nats.auth == own, "the context's credentials stay");
    let config = with_context().config(&["--context", "c", "--token", "t"]);
    assert!(config.nats.auth == Auth::Token("t".into()), "own credentials replace the context's");
    let public = Case::new().config(&["--server", "demo.nats.io"]);
    let warned = |config: &Config| config.warnings.iter().any(|warning| warning.contains("public"));
    assert!(warned(&public), "{:?}", public.warnings);
    assert!(!warned(&Case::new().config(&[])));
}

#[test]
fn mistakes_are_named_with_their_place() {
    for (case, arguments, code, words) in [
        (Case::new(), vec!["--bogus"], 2, vec!["--bogus"]),
        (Case::new(), vec!["--max-queue", "none"], 2, vec!["--max-queue", "none"]),
        (Case::new(), vec!["--max-queue", "0"], 2, vec!["--max-queue"]),
        (Case::new(), vec!["--server"], 2, vec!["--server"]),
        (Case::new(), vec!["--server", "ws://x"], 2, vec!["--server", "ws"]),
        (Case::new(), vec!["--context", "gone"], 78, vec!["--context", "gone"]),
        (Case::new(), vec!["--config", "/nowhere/x.json"], 78, vec!["/nowhere/x.json"]),
        (
            Case::new().env("PI_EXEC_DEFAULT_THINKING_LEVEL", "huge"),
            vec![],
            78,
            vec!["$PI_EXEC_DEFAULT_THINKING_LEVEL"],
        ),
        (Case::new().file(json!({"modle": "x"})), vec![], 78, vec!["config.json", "modle"]),
        (Case::new().file(json!({"maxQueue": "x"})), vec![], 78, vec!["config.json", "maxQueue"]),
        (Case::new().file(json!({"log": "loud"})), vec![], 78, vec!["config.json", "log", "loud"]),
        (Case::new().file(json!({"oauthRefresh": "x"})), vec![], 78, vec!["config.json", "oauthRefresh"]),
        (
            Case::new().file(json!({"oauthRefresh": {"xai": {"tokenUrl": "http://h/", "clientId": "c"}}})),
            vec![],
            78,
            vec!["config.json", "oauthRefresh", "xai", "tokenUrl"],
        ),
        (Case::new().file(json!([])), vec![], 78, vec!["config.json"]),
    ] {
        let error = case.error(&arguments);
        assert_eq!(error.exit_code(), code, "{error}");
        for word in words {
            assert!(error.to_string().contains(word), "{word:?} in {error}");
        }
    }
    let case = Case::new();
    case.write(".pi-exec/config.json", "{\n\"log\": \n}");
    assert!(case.error(&[]).to_string().contains("line 3"));
}

#[test]
fn the_report_has_origins_and_no_secrets() {
    let case = Case::new().file(json!({"token": "s3cret-file", "toolEnvironment": ["CARGO_HOME"]}));
    let report = case.env("PI_EXEC_OWNER", "CI Bot").config(&["--password", "s3cret-flag", "--check"]).report;
    for line in [
        "server = 127.0.0.1:4222  (default)",
        "owner = ci-bot  ($PI_EXEC_OWNER)",
        "subject = agents.pi-exec.ci-bot  (owner)",
        "password = set  (--password)",
        "maxQueue = 32  (default)",
        "creds = -  (default)",
    ] {
        assert!(report.lines().any(|l| l == line), "{line:?} in:\n{report}");
    }
    assert!(!report.contains("s3cret"), "{report}");
    let with_user = Case::new().config(&["--server", "nats://me:s3cret@h:1", "--check"]).report;
    assert!(!with_user.contains("s3cret"), "{with_user}");
}

#[test]
fn sign_ins_are_refreshed_where_the_file_says() {
    let setting = json!({"xai": {"tokenUrl": "https://h/token", "clientId": "c"}});
    let case = Case::new().file(json!({"oauthRefresh": setting}));
    let config = case.config(&["--check"]);
    assert!(config.oauth_refresh.get("xai").is_some());
    let line = format!("oauthRefresh = {setting}  (");
    assert!(config.report.lines().any(|l| l.starts_with(&line)), "{line:?} in:\n{}", config.report);
    assert_eq!(Case::new().config(&[]).oauth_refresh, OauthEndpoints::default());
}

#[test]
fn owners_become_one_subject_token() {
    for (name, token) in [
        ("mario", "mario"),
        ("Mario Rossi", "mario-rossi"),
        ("a.b>c*", "a-b-c"),
        ("", "unknown"),
        ("..", "unknown"),
        ("é", "unknown"),
    ] {
        assert_eq!(sanitise_owner(name), token, "{name:?}");
    }
    assert_eq!(Case::new().env("USER", "Root").config(&[]).owner, "root");
    let own = crate::sys::user_name().map_or("unknown".to_string(), |name| sanitise_owner(&name));
    assert_eq!(Case::new().config(&[]).owner, own);
}

#[test]
fn the_help_names_every_flag() {
    let Ok(Command::Print(help)) = Case::new().run(&["--help"]) else { panic!("no help") };
    for row in ROWS {
        assert!(help.contains(row.flag), "{}", row.flag);
    }
    // What has a line of its own is explained in the next one.
    let gap = format!("\n{:width$}", "", width = super::HELP_COLUMN);
    let below: Vec<&str> = help.split(&gap).filter_map(|text| text.lines().last()).collect();
    for line in help.lines().filter(|line| line.starts_with("  ") && !below.contains(line)) {
        let (left, right) = line.split_at(line.len().min(super::HELP_COLUMN));
        assert!(right.is_empty() || left.ends_with(' ') && !right.starts_with(' '), "{line}");
    }
}
