//! The operator's command that is told of each prompt that is settled: `onSettled`.
//!
//! It gets one JSON document on its standard input, and of the daemon's environment only what tools get as well. It is the
//! daemon's own child and not a runner's, so that no sandbox and no end of a session touches it.

use crate::config::Config;
use crate::session::Notices;
use crate::threads::{self, Thread};
use crate::tools::child::Group;
use crossbeam_channel::{Receiver, bounded};
use serde_json::{Value, json};
use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Notices that may wait; what comes then is left out and logged.
const WAITING: usize = 256;
/// Commands that run at the same time.
const AT_A_TIME: usize = 4;
/// How long a command may take.
const DEADLINE: Duration = Duration::from_secs(10);
/// How long the end of the daemon waits for the last of them.
const LAST: Duration = Duration::from_secs(5);
/// The longest document, bytes: a pipe takes it at once (64 KiB), whether the command reads it or not.
const MAX_DOCUMENT: usize = 60_000;
/// Between two looks at a command, where the system cannot tell of its end.
const LOOK: Duration = Duration::from_millis(20);

/// The threads that run the command.
pub(super) struct Notifier {
    notices: Notices,
    /// Disconnected when all threads are done.
    done: Receiver<()>,
    threads: Vec<Thread>,
}

impl Notifier {
    /// Starts what runs the command, if there is one.
    ///
    /// # Errors
    /// The system refuses a thread.
    pub(super) fn start(config: &Config) -> Result<Option<Notifier>, String> {
        let Some(command) = &config.on_settled else { return Ok(None) };
        let (notices, waiting) = bounded(WAITING);
        let (alive, done) = bounded::<()>(0);
        let command: Arc<str> = command.as_str().into();
        let mut threads = Vec::new();
        for _ in 0..AT_A_TIME {
            let (waiting, alive, command) = (waiting.clone(), alive.clone(), command.clone());
            let environment = config.tool_environment.clone();
            let work = move || {
                let _alive = alive;
                // Null says that nothing more comes.
                for notice in waiting.iter().take_while(|notice: &Value| !notice.is_null()) {
                    if let Err(why) = run(&command, &environment, notice) {
                        log::warn!("onSettled: {why}");
                    }
                }
            };
            let thread = threads::spawn("notices", threads::SMALL_STACK, work);
            threads.push(thread.map_err(|e| format!("no thread for onSettled: {e}"))?);
        }
        Ok(Some(Notifier { notices, done, threads }))
    }

    /// Where sessions tell of prompts.
    pub(super) fn notices(&self) -> Notices {
        self.notices.clone()
    }

    /// Lets the last commands come to their end; nobody tells anything any more.
    pub(super) fn close(self) {
        let Notifier { notices, done, threads } = self;
        let end = Instant::now() + LAST;
        for _ in &threads {
            // Where there is no room in time, the commands are left behind.
            let _ = notices.send_deadline(Value::Null, end);
        }
        // Nothing is ever sent: this is the end of all threads, or of the time.
        if done.recv_deadline(end).is_err_and(|e| e.is_timeout()) {
            log::warn!("onSettled: the last commands are left behind");
            threads.into_iter().for_each(Thread::abandon);
        }
    }
}

/// Runs the command for one notice.
fn run(command: &str, environment: &[(String, String)], mut notice: Value) -> Result<(), String> {
    let mut document = notice.to_string();
    if document.len() > MAX_DOCUMENT {
        let files = notice["data"]["files"].as_array().map_or(0, Vec::len);
        notice["data"]["moreFiles"] = json!(notice["data"]["moreFiles"].as_u64().unwrap_or(0) + files as u64);
        notice["data"]["files"] = json!([]);
        document = notice.to_string();
    }
    let mut program = Command::new("/bin/sh");
    program.arg("-c").arg(command).current_dir("/").env_clear().envs(environment.iter().cloned());
    program.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut group = Group::spawn(&mut program).map_err(|e| e.to_string())?;
    if let Some(mut input) = group.take_input() {
        // A command that has ended without reading needs nothing of it.
        let _ = input.write_all(document.as_bytes()).and_then(|()| input.write_all(b"\n"));
    }
    let end = Instant::now() + DEADLINE;
    loop {
        match group.exit_code() {
            Some(0) => return Ok(()),
            Some(code) => return Err(format!("the command ended with exit code {code}")),
            None if Instant::now() >= end => {
                group.kill_all();
                return Err(format!("the command was ended after {} s", DEADLINE.as_secs()));
            }
            None => std::thread::sleep(LOOK),
        }
    }
}
