//! The daemon `nats-pi-bridge`: the command line, then one call into the library.

use nats_pi_bridge::config::{self, Command};
use nats_pi_bridge::model::Services;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments = std::env::args_os().skip(1).collect();
    let environment = std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)));
    match config::from_command_line(arguments, environment.collect()) {
        Ok(Command::Print(text)) => print!("{text}"),
        Ok(Command::Check(config)) => {
            for warning in &config.warnings {
                eprintln!("pi-exec: warning: {warning}");
            }
            // Some of the agent's files are only read when they are needed.
            for problem in Services::new(&config.agent_dir, config.oauth_refresh.clone()).problems() {
                eprintln!("pi-exec: warning: {problem}");
            }
            print!("{}", config.report);
        }
        Ok(Command::Serve(config)) => {
            nats_pi_bridge::startup::configure_allocator();
            if let Err(e) = nats_pi_bridge::startup::run(*config) {
                eprintln!("pi-exec: fatal: {e}");
                return ExitCode::from(e.exit_code());
            }
        }
        Err(e) => {
            eprintln!("pi-exec: {e}");
            return ExitCode::from(e.exit_code());
        }
    }
    ExitCode::SUCCESS
}
