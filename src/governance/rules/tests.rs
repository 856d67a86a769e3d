use super::*;
use serde_json::json;

fn places() -> Places<'static> {
    Places { home: Path::new("/home/ada"), cwd: Path::new("/srv/project") }
}

fn is_tool(name: &str) -> bool {
    PATH_TOOLS.contains(&name) || matches!(name, COMMAND_TOOL | QUESTION)
}

fn rules(list: Value, otherwise: Effect) -> Result<Rules, String> {
    Rules::parse(&list, otherwise, places().home, &is_tool)?.narrowed(Vec::new(), places(), &is_tool)
}

#[test]
fn the_strictest_rule_wins() {
    let rules = rules(
        json!([
            {"tool": "bash", "match": "git push*", "do": "ask"},
            {"tool": "bash", "match": "git push --force*", "do": "deny"},
            {"tool": "bash", "match": "cargo test*", "do": "allow"},
            {"tool": "bash", "match": "git *", "do": "allow"},
            {"tool": "bash", "match": "ls*", "do": "allow"},
        ]),
        Effect::Ask,
    )
    .expect("they are rules");
    for (command, effect, rule) in [
        ("cargo test --all", Effect::Allow, Some("bash cargo test*")),
        ("cargo test && ls", Effect::Allow, Some("bash cargo test*")),
        ("git status", Effect::Allow, Some("bash git *")),
        ("git push origin", Effect::Ask, Some("bash git push*")),
        ("cargo test; git push --force", Effect::Deny, Some("bash git push --force*")),
        ("/usr/bin/git push --force", Effect::Deny, Some("bash git push --force*")),
        ("sudo git push --force", Effect::Deny, Some("bash git push --force*")),
        // It could become anything.
        ("git $X", Effect::Deny, Some("bash git push --force*")),
        ("[[ x ]]", Effect::Deny, Some("bash git push --force*")),
        // What has more than commands that are allowed is not allowed.
        ("cargo test > out", Effect::Ask, None),
        ("A=1 cargo test", Effect::Ask, None),
        ("nice cargo test", Effect::Ask, None),
        ("cargo test $(ls)", Effect::Ask, None),
        ("cargo test; make", Effect::Ask, None),
        ("'cargo test/../x'", Effect::Ask, None),
        ("cargo test 2>&1 | tail", Effect::Ask, None),
        ("cargo test $X", Effect::Allow, Some("bash cargo test*")),
        ("", Effect::Ask, None),
    ] {
        let decision = rules.decide("bash", &Target::command(command, None));
        assert_eq!((decision.effect, decision.rule.as_deref()), (effect, rule), "{command}");
    }
    assert_eq!(rules.decide("bash", &Target::command("ls", Some("/usr/bin/fish"))).effect, Effect::Deny);
    assert_eq!(rules.decide("read", &Target::Other).effect, Effect::Ask);
    assert_eq!(rules.decide("question", &Target::Other).effect, Effect::Allow);
    assert!(!rules.is_open() && Rules::default().is_open());
}

#[test]
fn paths_are_matched_as_they_are_named_and_as_they_are() {
    let rules = rules(
        json!([
            {"tool": "write", "path": "/etc/**", "do": "deny"},
            {"tool": "read", "path": "~/.ssh/**", "do": "deny"},
            {"tool": "grep", "path": "/etc/**", "do": "ask"},
            {"tool": "write", "path": "src/*.rs", "do": "allow"},
            {"tool": "ls", "do": "deny"},
        ]),
        Effect::Ask,
    )
    .expect("they are rules");
    for (tool, named, real, effect) in [
        ("write", "/etc/passwd", "/etc/passwd", Effect::Deny),
        ("write", "/etc", "/etc", Effect::Deny),
        ("write", "/srv/project/link/x", "/etc/x", Effect::Deny),
        ("write", "/etc/x", "/elsewhere/x", Effect::Deny),
        ("write", "/srv/project/src/a.rs", "/srv/project/src/a.rs", Effect::Allow),
        ("write", "/srv/project/src/a.rs", "/srv/other.rs", Effect::Ask),
        ("write", "/srv/project/src/b/a.rs", "/srv/project/src/b/a.rs", Effect::Ask),
        ("read", "/home/ada/.ssh/id", "/home/ada/.ssh/id", Effect::Deny),
        ("grep", "/", "/", Effect::Ask),
        ("grep", "/etc/ssh", "/etc/ssh", Effect::Ask),
        ("ls", "/", "/", Effect::Deny),
    ] {
        let target = Target::path(Path::new(named), Path::new(real));
        assert_eq!(rules.decide(tool, &target).effect, effect, "{tool} {named}");
    }
}

#[test]
fn the_links_in_a_rules_path_are_followed() {
    let folder = tempfile::tempdir().expect("a folder");
    let real = folder.path().canonicalize().expect("it is there");
    std::fs::create_dir(real.join("there")).expect("a folder");
    std::os::unix::fs::symlink(real.join("there"), real.join("link")).expect("a link");
    let list = json!([{"tool": "write", "path": real.join("link/**"), "do": "deny"}]);
    let rules = rules(list, Effect::Allow).expect("they are rules");
    let file = real.join("there/x");
    assert_eq!(rules.decide("write", &Target::path(&file, &file)).effect, Effect::Deny);
}

#[test]
fn each_mistake_names_its_rule() {
    for (rule, error) in [
        (json!("x"), "rule 1: it is no object"),
        (json!({"do": "deny"}), "rule 1 (?): it names no tool"),
        (json!({"tool": "nope", "do": "deny"}), "rule 1 (nope): there is no tool \"nope\""),
        (json!({"tool": "bash", "do": "no"}), "rule 1 (bash): do is not allow, ask or deny"),
        (json!({"tool": "bash"}), "rule 1 (bash): do is not allow, ask or deny"),
        (json!({"tool": "bash", "match": 7, "do": "deny"}), "rule 1 (bash): match must be a text"),
        (
            json!({"tool": "bash", "path": "/x", "do": "deny"}),
            "rule 1 (bash /x): path is for read, write, edit, ls, grep, find",
        ),
        (json!({"tool": "read", "match": "x", "do": "deny"}), "rule 1 (read x): match is for bash"),
        (json!({"tool": "bash", "when": "x", "do": "deny"}), "rule 1 (bash): it has an unknown key \"when\""),
        (
            json!({"tool": "bash", "match": "git push*", "do": "ask", "examples": {"match": ["git pull"]}}),
            "rule 1 (bash git push*): it does not match its example \"git pull\"",
        ),
        (
            json!({"tool": "bash", "match": "git push*", "do": "ask", "examples": {"not": ["ls; sudo git push"]}}),
            "rule 1 (bash git push*): it matches its example \"ls; sudo git push\"",
        ),
        (
            json!({"tool": "bash", "match": "ls*", "do": "allow", "examples": {"match": ["ls > x"]}}),
            "rule 1 (bash ls*): it does not match its example \"ls > x\"",
        ),
        (
            json!({"tool": "bash", "do": "deny", "examples": {"match": ["ls"]}}),
            "rule 1 (bash): it matches every call, so that examples say nothing",
        ),
        (
            json!({"tool": "bash", "match": "x", "do": "deny", "examples": {"matches": []}}),
            "rule 1 (bash x): examples must be {\"match\": [...], \"not\": [...]} with texts",
        ),
    ] {
        assert_eq!(rules(json!([rule]), Effect::Allow).map(drop), Err(error.to_owned()), "{rule}");
    }
    let good = json!([{"tool": "write", "path": "/etc/**", "do": "deny",
        "examples": {"match": ["/etc/passwd", "/etc"], "not": ["/srv/etc/x", "etcetera"]}}]);
    assert!(rules(good, Effect::Allow).is_ok());
}

/// What rules add to a call, printed: `cargo test --release --lib -- --ignored --nocapture what_rules_cost`.
#[test]
#[ignore = "it measures"]
fn what_rules_cost() {
    let mut list: Vec<Value> =
        (0..50).map(|n| json!({"tool": "bash", "match": format!("program{n} *"), "do": "deny"})).collect();
    list.push(json!({"tool": "write", "path": "/etc/**", "do": "deny"}));
    let rules = rules(json!(list), Effect::Allow).expect("they are rules");
    let path = Path::new("/srv/project/src/main.rs");
    // Of many rounds the quickest, as others use the machine as well.
    let quickest = |what: &str, decide: &dyn Fn() -> Decision| {
        let round = || {
            let begun = std::time::Instant::now();
            (0..100).for_each(|_| assert_eq!(decide().effect, Effect::Allow));
            begun.elapsed() / 100
        };
        println!("{:?}  {what}", (0..100).map(|_| round()).min().expect("there are some"));
    };
    for command in [
        "ls",
        "cd /srv/project && cargo test --all -- --nocapture 2>&1 | tail -40",
        "for f in src/*.rs; do wc -l \"$f\"; done",
    ] {
        quickest(command, &|| rules.decide("bash", &Target::command(command, None)));
    }
    quickest("write", &|| rules.decide("write", &Target::path(path, path)));
}

#[test]
fn a_request_may_only_narrow() {
    let base =
        Rules::parse(&json!([{"tool": "bash", "match": "ls*", "do": "allow"}]), Effect::Deny, places().home, &is_tool)
            .expect("they are rules");
    let narrow = |rule: Value| base.narrowed(vec![rule], places(), &is_tool);
    let wrong = narrow(json!({"tool": "bash", "do": "allow"})).map(drop);
    assert_eq!(wrong, Err("rule bash: a request may only add rules that ask or deny".to_owned()));
    let narrowed = narrow(json!({"tool": "bash", "match": "ls /*", "do": "ask"})).expect("it is one");
    for (command, effect) in [("ls", Effect::Allow), ("ls /", Effect::Ask), ("rm", Effect::Deny)] {
        assert_eq!(narrowed.decide("bash", &Target::command(command, None)).effect, effect, "{command}");
    }
    assert_eq!(narrowed.narrowing(), [json!({"tool": "bash", "match": "ls /*", "do": "ask"})]);
}
