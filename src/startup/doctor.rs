//! `nats-pi-bridge doctor`: whether this machine, the configuration and what the daemon needs of others fit together.
//!
//! It changes nothing and may run beside the daemon. Each line is fine, a warning, or a failure, with what to do about it.

mod fleet;
mod machine;
mod nats;
mod place;

use super::model_in_use;
use crate::config::{self, Command, Config};
use crate::model::Services;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::ffi::OsString;
use std::process::ExitCode;

const USAGE: &str = "usage: nats-pi-bridge doctor [--json] [options of the daemon that is meant, such as --owner]";

/// How well something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Health {
    Ok,
    Warning,
    /// The daemon will not work like this.
    Failure,
}

impl Health {
    fn as_str(self) -> &'static str {
        match self {
            Health::Ok => "ok",
            Health::Warning => "warning",
            Health::Failure => "failure",
        }
    }
}

/// What was found out about one thing.
struct Finding {
    health: Health,
    about: &'static str,
    text: String,
    /// What to do about it; empty where nothing has to be done.
    fix: String,
}

impl Finding {
    fn ok(about: &'static str, text: impl Into<String>) -> Finding {
        Finding { health: Health::Ok, about, text: text.into(), fix: String::new() }
    }

    fn warning(about: &'static str, text: impl Into<String>, fix: impl Into<String>) -> Finding {
        Finding { health: Health::Warning, about, text: text.into(), fix: fix.into() }
    }

    fn failure(about: &'static str, text: impl Into<String>, fix: impl Into<String>) -> Finding {
        Finding { health: Health::Failure, about, text: text.into(), fix: fix.into() }
    }

    fn lines(&self) -> String {
        let fix = if self.fix.is_empty() { String::new() } else { format!("{:21}fix: {}\n", "", self.fix) };
        format!("{:<8} {:<11} {}\n{fix}", self.health.as_str(), self.about, self.text.replace('\n', " "))
    }

    fn document(&self) -> Value {
        let mut document = json!({"health": self.health.as_str(), "about": self.about, "text": self.text});
        if !self.fix.is_empty() {
            document["fix"] = json!(self.fix);
        }
        document
    }
}

/// Looks at everything and prints it. The exit code is 1 where something will not work.
pub(super) fn run(mut arguments: Vec<OsString>, environment: HashMap<String, String>) -> ExitCode {
    let before = arguments.len();
    arguments.retain(|argument| argument != "--json");
    let as_json = arguments.len() < before;
    let config = match config::from_command_line(arguments, environment) {
        Ok(Command::Serve { config, .. }) => Ok(config),
        Ok(Command::Check(_) | Command::Print(_)) => {
            eprintln!("pi-exec: {USAGE}");
            return ExitCode::from(2);
        }
        Err(e) if e.exit_code() == 2 => {
            eprintln!("pi-exec: {e}; {USAGE}");
            return ExitCode::from(2);
        }
        Err(e) => Err(e.to_string()),
    };
    let mut findings = vec![Finding::ok("version", format!("nats-pi-bridge {}", env!("CARGO_PKG_VERSION")))];
    match config {
        Ok(config) => findings.extend(examine(&config)),
        Err(why) => findings.push(Finding::failure("settings", why, "correct the place that it names")),
    }
    let failed = findings.iter().any(|finding| finding.health == Health::Failure);
    if as_json {
        let documents: Vec<Value> = findings.iter().map(Finding::document).collect();
        println!("{}", json!({"ok": !failed, "findings": documents}));
    } else {
        print!("{}", findings.iter().map(Finding::lines).collect::<String>());
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn examine(config: &Config) -> Vec<Finding> {
    let mut findings =
        vec![Finding::ok("settings", format!("owner {}, context {}", config.owner, config.context_name))];
    let about = config.warnings.iter().filter(|warning| !warning.starts_with("the sandbox reaches"));
    findings.extend(about.map(|text| Finding::warning("settings", text.as_str(), "")));
    findings.extend(machine::examine(config));
    findings.extend(place::examine(config));
    findings.extend(keys(config));
    findings.extend(nats::examine(config));
    findings
}

/// Which providers can be paid, and whether the default model is one of theirs. No key is told.
fn keys(config: &Config) -> Vec<Finding> {
    let services = Services::new(&config.agent_dir, config.oauth_refresh.clone());
    let wrong = services.problems().into_iter().map(|why| Finding::warning("keys", why, "correct the file"));
    let mut findings: Vec<Finding> = wrong.collect();
    let origins = services.providers_with_keys();
    findings.extend(origins.iter().map(|(provider, origin)| Finding::ok("keys", format!("{provider}: {origin}"))));
    let fix =
        "set a variable such as ANTHROPIC_API_KEY for the daemon, write the key to auth.json, or set defaultModel";
    let line = model_in_use(config, &services);
    let line = line.trim_end().trim_start_matches("model = ");
    findings.push(match line.strip_prefix("-  ") {
        Some(why) => Finding::failure("model", format!("requests that name no model are refused {why}"), fix),
        None => Finding::ok("model", line),
    });
    findings
}
