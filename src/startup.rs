//! What the process sets up before it serves: the log, limits, signals.

mod audit;
mod doctor;

use crate::config::{self, Config};
use crate::daemon::{Fatal, Reread};
use crate::model::{Model, Services};
use crate::tools::{child, runner};
use crate::{daemon, log_buffer, supervisor, sys, threads};
use crossbeam_channel::{Sender, bounded};
use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::collections::HashMap;
use std::ffi::OsString;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::Duration;

/// Where glibc looks for settings of its allocator, and the one that matters here: every thread keeps freed pieces of
/// memory for itself, seven of each size up to 1 KiB, which with a thread per session is half of what an idle session takes
/// (measured: 46 KiB of 69). A few pieces of up to 128 bytes are what the speed comes from.
const ALLOCATOR_VARIABLE: &str = "GLIBC_TUNABLES";
const ALLOCATOR_SETTINGS: &str = "glibc.malloc.tcache_max=128:glibc.malloc.tcache_count=2";

/// After a second signal: how long the main thread may take to notice, and how long all may take to end in good order.
const STUCK_AFTER: Duration = Duration::from_secs(2);
const END_AFTER: Duration = Duration::from_secs(10);

/// The daemon, from its command line to its exit code.
pub fn main(arguments: Vec<OsString>) -> ExitCode {
    match &*arguments {
        [first] if first == runner::ARGUMENT => return runner::serve(),
        [first, second] if first == runner::ARGUMENT && second == runner::TRY => return runner::try_own_processes(),
        _ => {}
    }
    let environment = std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)));
    if arguments.first().is_some_and(|first| first == "audit") {
        return audit::run(arguments.into_iter().skip(1).collect(), environment.collect());
    }
    let environment: HashMap<String, String> = environment.collect();
    if arguments.first().is_some_and(|first| first == "doctor") {
        return doctor::run(arguments.into_iter().skip(1).collect(), environment);
    }
    match config::from_command_line(arguments.clone(), environment.clone()) {
        Ok(config::Command::Print(text)) => print!("{text}"),
        Ok(config::Command::Check(config)) => {
            for warning in &config.warnings {
                eprintln!("pi-exec: warning: {warning}");
            }
            // Some of the agent's files are only read when they are needed.
            let services = Services::new(&config.agent_dir, config.oauth_refresh.clone());
            let project =
                std::env::current_dir().ok().filter(|folder| config.trusts(folder) || services.trusts_projects());
            for problem in project.map_or_else(|| services.problems(), |folder| services.of_project(&folder).problems())
            {
                eprintln!("pi-exec: warning: {problem}");
            }
            print!("{}{}", config.report, model_in_use(&config, &services));
        }
        Ok(config::Command::Serve { config, replaces }) => {
            configure_allocator();
            let reread = move || match config::from_command_line(arguments.clone(), environment.clone()) {
                Ok(config::Command::Serve { config, .. }) => Ok(config),
                Ok(config::Command::Check(_) | config::Command::Print(_)) => Err("it is not to be served".to_string()),
                Err(e) => Err(e.to_string()),
            };
            if let Err(e) = run(*config, Arc::new(reread), replaces) {
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

/// Which model those get who name none, and why, in the form of a line of [`Config::report`].
fn model_in_use(config: &Config, services: &Services) -> String {
    let chosen = match &config.default_model {
        Some(spec) => services.resolve(spec).map(|(model, _)| (Some(model), "defaultModel")).map_err(|e| e.to_string()),
        None => Ok((
            services.default_model(),
            "no defaultModel, so that of settings.json or of the first provider with a key",
        )),
    };
    let usable = |(model, why): (Option<Arc<Model>>, &str)| {
        let model = model.ok_or("no provider has a key")?;
        services.check_credentials(&model).map_err(|e| e.to_string())?;
        Ok(format!("{}  ({why}; {})", model.spec(), services.credentials_origin(&model)))
    };
    let line = chosen.and_then(usable).unwrap_or_else(|why: String| format!("-  ({why})"));
    format!("model = {line}\n")
}

/// Starts this program once more, as the same process, with the allocator's settings in its environment, since glibc takes
/// them from nowhere else. Where that is not possible, or somebody has set them already, all goes on as it is.
fn configure_allocator() {
    if cfg!(target_env = "gnu")
        && std::env::var_os(ALLOCATOR_VARIABLE).is_none()
        && let Ok(program) = std::env::current_exe()
    {
        let mut arguments = std::env::args_os();
        let mut command = Command::new(program);
        command.arg0(arguments.next().unwrap_or_default()).args(arguments);
        // Returns only if it fails.
        let _ = command.env(ALLOCATOR_VARIABLE, ALLOCATOR_SETTINGS).exec();
    }
}

/// Sets the process up and serves until a signal ends it.
///
/// # Errors
/// A text that says what could not be set up.
fn run(config: Config, reread: Reread, replaces: bool) -> Result<(), Fatal> {
    start_log(&config.log);
    sys::tune_allocator();
    sys::forbid_foreign_name_services();
    sys::keep_files_from_children();
    raise_file_limit();
    // Programs that a tool left behind become our children, so that they can be found and ended.
    if let Err(e) = child::adopt_orphans() {
        log::warn!("cannot adopt orphans of tools: {e}");
    }
    // Keys are in this process's memory: no core file, and no look at it for others of the same user.
    if let Err(e) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        log::warn!("cannot protect this process's memory: {e}");
    }
    let (sender, receiver) = bounded(8);
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).map_err(|e| format!("cannot handle signals: {e}"))?;
    let handle = signals.handle();
    let thread = threads::spawn("signals", threads::SMALL_STACK, move || {
        // Nothing is logged here: whoever should read the log may be what hangs.
        let mut received = 0;
        for signal in signals.forever() {
            // More signals than the main thread can take say nothing new.
            let _ = sender.try_send(signal);
            received += usize::from(signal != SIGHUP);
            match received {
                0 | 1 => {}
                2 if signal != SIGHUP => end_soon(sender.clone(), signal),
                2 => {}
                _ => end_now(signal),
            }
        }
    })
    .map_err(|e| format!("cannot handle signals: {e}"))?;
    // Only now, when a signal ends a process whose log nobody reads.
    for warning in &config.warnings {
        log::warn!("{warning}");
    }
    let result = daemon::serve(config, reread, receiver, replaces);
    handle.close();
    drop(thread);
    result
}

/// Ends the process in a while, if it has not ended by then, whatever its other threads are stuck in.
fn end_soon(waiting: Sender<i32>, signal: i32) {
    let watch = move || {
        std::thread::sleep(STUCK_AFTER);
        // Signals that the main thread has not taken by now are those of a main thread that hangs.
        if waiting.is_empty() {
            std::thread::sleep(END_AFTER.saturating_sub(STUCK_AFTER));
        }
        end_now(signal);
    };
    match threads::spawn("last-resort", threads::SMALL_STACK, watch) {
        Ok(thread) => thread.abandon(),
        Err(_) => end_now(signal),
    }
}

/// Ends the process and what its tools run, with the exit code that shells give to what a signal has ended.
fn end_now(signal: i32) {
    child::kill_children();
    signal_hook::low_level::exit(128 + signal);
}

fn start_log(level: &str) {
    let mut builder = env_logger::Builder::new();
    // All of this crate's passes here: what is wanted is decided before, since it can change.
    builder.filter_module("nats_pi_bridge", log::LevelFilter::Trace);
    let journal = supervisor::logs_to_journal();
    builder.format(move |out, record| {
        log_buffer::keep(record.level(), &record.args().to_string());
        let (priority, level) = match record.level() {
            log::Level::Error => ("<3>", "error: "),
            log::Level::Warn => ("<4>", "warning: "),
            log::Level::Info => ("<6>", ""),
            log::Level::Debug | log::Level::Trace => ("<7>", "debug: "),
        };
        match journal {
            // Each line of a text needs its level.
            true => record.args().to_string().lines().try_for_each(|line| writeln!(out, "{priority}{line}")),
            false => writeln!(out, "pi-exec: {level}{}", record.args()),
        }
    });
    builder.init();
    log::set_max_level(level.parse().unwrap_or(log::LevelFilter::Info));
}

/// A thousand sessions with a tool each need more than the usual 1024 files.
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    if let Err(e) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }) {
        log::warn!("cannot raise the limit of open files: {e}");
    }
}
