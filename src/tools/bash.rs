//! The `bash` tool: runs a shell command and returns what it prints.

use super::child::{self, Group};
use super::output::{Output, Shown};
use super::tool::{Tool, ToolContext, ToolOutput};
use super::truncate::{MAX_BYTES, MAX_LINES};
use crate::files::{describe, size};
use crate::threads;
use crate::transcript::{Block, ToolSpec};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;
use serde_json::{Map, Value, json};
use std::io::{self, PipeReader, Read};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

/// Longest timeout in seconds that can be asked for: what fits into 31 bits of milliseconds.
const MAX_TIMEOUT: f64 = 2_147_483.647;
/// From this number of seconds on a timeout may be one in milliseconds, in which models that learned other tools think.
const LIKE_MILLISECONDS: f64 = 1000.0;
/// Longest command in bytes: Linux takes no single argument of 128 KiB or more.
const MAX_COMMAND: usize = 128 * 1024 - 1;
/// Once the shell has ended, its output is over when nothing came for this long, even if somebody holds the pipe.
const QUIET: Duration = Duration::from_millis(100);
/// Once the shell has ended, the call does not last longer than this, even if somebody goes on writing.
const LINGER: Duration = Duration::from_secs(1);
/// At least this long between two updates.
const UPDATE_EVERY: Duration = Duration::from_millis(100);
/// How often to ask whether the shell has ended, where the system cannot tell by itself.
const ASK_EVERY: Duration = Duration::from_millis(10);
/// Bytes per read, as much as a pipe holds.
const CHUNK: usize = 64 * 1024;
/// Bytes per read of what programs in the background print, for as long as they do.
const KEPT_OPEN_CHUNK: usize = 4 * 1024;
/// Most bytes that are still taken from the pipe after a kill (1 MiB, the most a pipe can be made to hold).
const MAX_DRAIN: usize = 1024 * 1024;

pub(super) struct Bash;

static SPEC: LazyLock<ToolSpec> = LazyLock::new(|| {
    ToolSpec {
    name: "bash".into(),
    description: format!(
        "Run a command with bash in the working directory and return what it prints, standard output and standard error \
         together. Only the last {MAX_LINES} lines or {} are returned; if there is more, all of it is in a file that is \
         named then. Standard input is empty.",
        size(MAX_BYTES as u64)
    ),
    parameters: json!({
        "type": "object",
        "properties": {
            "command": {"type": "string", "description": "The command"},
            "timeout": {"type": "number", "description": "Seconds (not milliseconds) after which the command is killed"},
        },
        "required": ["command"],
    })
    .into(),
}
});

impl Tool for Bash {
    fn spec(&self) -> &ToolSpec {
        &SPEC
    }

    fn snippet(&self) -> &'static str {
        "Execute bash commands (ls, grep, find, etc.)"
    }

    fn rules(&self) -> &'static [&'static str] {
        &[]
    }

    fn run(&self, arguments: &Map<String, Value>, context: &ToolContext<'_>) -> ToolOutput {
        let command = arguments.get("command").and_then(Value::as_str).unwrap_or_default();
        let timeout = match timeout(arguments.get("timeout"), context.default_timeout) {
            Ok(timeout) => timeout,
            Err(text) => return ToolOutput::error(text),
        };
        if let Some(problem) = problem(command, context.cwd) {
            return ToolOutput::error(problem);
        }
        if context.cancel.is_cancelled() {
            return ToolOutput::error("Command aborted");
        }
        (context.on_update)(ToolOutput { content: Vec::new(), details: None, is_error: false });
        let mut output = Output::new(context.spill_dir, context.quota);
        let result = match execute(command, timeout, context, &mut output) {
            Ok((end, pipe)) => {
                output.finish();
                let result = conclude(output.show(), end, timeout);
                if let Some(pipe) = pipe {
                    keep_open(pipe, output);
                }
                result
            }
            Err(error) => ToolOutput::error(format!("Could not run the command: {}", describe(&error))),
        };
        child::reap_orphans();
        result
    }
}

/// How a command came to its end.
#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    /// With the shell's exit code.
    Exited(i32),
    TimedOut,
    Aborted,
}

/// How long a command may take.
#[derive(Clone, Copy, Debug)]
struct Limit {
    time: Duration,
    /// The call asked for more, as models do that mean milliseconds.
    less_than_asked: bool,
}

/// The limit that was asked for; the operator's, `usual`, if none was, or one that is more and looks like milliseconds.
fn timeout(asked: Option<&Value>, usual: Option<Duration>) -> Result<Option<Limit>, String> {
    let limit = |time, less_than_asked| Limit { time, less_than_asked };
    let Some(asked) = asked else { return Ok(usual.map(|usual| limit(usual, false))) };
    let seconds = asked.as_f64().unwrap_or(f64::NAN);
    if seconds > 0.0 && seconds <= MAX_TIMEOUT {
        let asked = Duration::from_secs_f64(seconds);
        let less = usual.filter(|usual| *usual < asked && seconds >= LIKE_MILLISECONDS);
        return Ok(Some(less.map_or(limit(asked, false), |usual| limit(usual, true))));
    }
    Err(format!("Invalid timeout: {asked}. It must be more than 0 and at most {MAX_TIMEOUT} seconds."))
}

/// Why the command cannot be started at all.
fn problem(command: &str, cwd: &Path) -> Option<String> {
    if command.contains('\0') {
        return Some("The command contains a NUL character, which no program can take as an argument.".to_owned());
    }
    if command.len() > MAX_COMMAND {
        let length = size(command.len() as u64);
        return Some(format!("The command is too long ({length}); write it to a file and run that."));
    }
    if !cwd.is_dir() {
        return Some(format!("Working directory does not exist: {}\nCannot execute bash commands.", cwd.display()));
    }
    None
}

/// Bash where it usually is, else from PATH, else the shell that every system has.
fn shell(environment: &[(String, String)]) -> PathBuf {
    let path = environment.iter().find(|(name, _)| name == "PATH").map_or("", |(_, value)| value.as_str());
    std::iter::once(PathBuf::from("/bin/bash"))
        .chain(path.split(':').filter(|dir| dir.starts_with('/')).map(|dir| Path::new(dir).join("bash")))
        .find(|candidate| candidate.is_file())
        .unwrap_or_else(|| PathBuf::from("/bin/sh"))
}

/// Runs a command to its end. What comes beside that is the pipe that programs in the background still hold.
fn execute(
    command: &str,
    timeout: Option<Limit>,
    context: &ToolContext<'_>,
    output: &mut Output,
) -> io::Result<(End, Option<PipeReader>)> {
    // A point in time too far away to be represented is no limit.
    let deadline = timeout.and_then(|limit| Instant::now().checked_add(limit.time));
    let cancelled = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
    let wake = cancelled.clone();
    let _registered = context.cancel.on_cancel(move || {
        // It can only fail when it is signalled already.
        let _ = rustix::io::write(&wake, &1u64.to_ne_bytes());
    });
    let (pipe, writer) = io::pipe()?;
    // One pipe for both keeps what was printed in order. Nothing here may need code to run in the child before the new
    // program, since that would cost a copy of the daemon's page tables for each command.
    let shell = context.shell.map_or_else(|| shell(context.environment), Path::to_path_buf);
    let prefixed = context.command_prefix.map(|prefix| format!("{prefix}\n{command}"));
    let mut builder = Command::new(shell);
    builder
        .args(["-c", prefixed.as_deref().unwrap_or(command)])
        .current_dir(context.cwd)
        .env_clear()
        .envs(context.environment.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(writer.try_clone()?)
        .stderr(writer);
    let mut group = Group::spawn(&mut builder)?;
    // The builder holds the pipe's other end, without whose closing the output would never be over.
    drop(builder);
    let mut run = Run { pipe: Some(pipe), chunk: vec![0; CHUNK], output, context };
    let end = run.until_end(&group, deadline, &cancelled)?;
    if !matches!(end, End::Exited(_)) {
        group.kill_all();
        run.drain()?;
    }
    Ok((end, run.pipe))
}

/// Goes on taking what programs in the background print, since a program whose output nobody holds is ended by its next line.
/// What follows the call goes into the spill file, as far as that may grow. Ends with those programs, at the latest with their
/// session.
fn keep_open(mut pipe: PipeReader, mut output: Output) {
    let work = move || {
        let mut chunk = vec![0; KEPT_OPEN_CHUNK];
        while let Ok(length @ 1..) = pipe.read(&mut chunk) {
            output.spill_only(&chunk[..length]);
        }
    };
    match threads::spawn("tool-output", threads::SMALL_STACK, work) {
        Ok(thread) => thread.abandon(),
        Err(error) => log::warn!("the output of a program in the background is closed: {error}"),
    }
}

/// A command that is running, seen from its output.
struct Run<'r> {
    /// `None` = everybody has closed the other end.
    pipe: Option<PipeReader>,
    chunk: Vec<u8>,
    output: &'r mut Output,
    context: &'r ToolContext<'r>,
}

impl Run<'_> {
    fn until_end(&mut self, group: &Group, deadline: Option<Instant>, cancelled: &OwnedFd) -> io::Result<End> {
        let mut exit: Option<i32> = None;
        let mut quiet_at = None;
        let mut linger_until = None;
        let mut update_at = Instant::now() + UPDATE_EVERY;
        let mut shown_all = true;
        loop {
            let now = Instant::now();
            if self.context.cancel.is_cancelled() {
                return Ok(End::Aborted);
            }
            if let Some(code) = exit {
                if self.pipe.is_none() || [quiet_at, linger_until].into_iter().flatten().any(|at| at <= now) {
                    return Ok(End::Exited(code));
                }
            } else if deadline.is_some_and(|at| at <= now) {
                return Ok(End::TimedOut);
            }
            if !shown_all && update_at <= now {
                self.update();
                shown_all = true;
                update_at = now + UPDATE_EVERY;
            }
            let handle = if exit.is_none() { group.handle() } else { None };
            let ask_at = (exit.is_none() && handle.is_none()).then(|| now + ASK_EVERY);
            let show_at = (!shown_all).then_some(update_at);
            let deadline = deadline.filter(|_| exit.is_none());
            let until = [deadline, quiet_at, linger_until, ask_at, show_at].into_iter().flatten().min();
            let mut waits = vec![PollFd::new(cancelled, PollFlags::IN)];
            waits.extend(handle.iter().map(|handle| PollFd::new(handle, PollFlags::IN)));
            waits.extend(self.pipe.iter().map(|pipe| PollFd::new(pipe, PollFlags::IN)));
            wait(&mut waits, until.map(|at| at.saturating_duration_since(now)))?;
            let output_ready = self.pipe.is_some() && waits.last().is_some_and(|pipe| !pipe.revents().is_empty());
            if output_ready && self.take()? > 0 {
                shown_all = false;
                quiet_at = quiet_at.map(|_| Instant::now() + QUIET);
            }
            if exit.is_none() {
                exit = group.exit_code();
                quiet_at = exit.map(|_| Instant::now() + QUIET);
                linger_until = exit.map(|_| Instant::now() + LINGER);
            }
        }
    }

    /// Takes what is in the pipe, which must be ready; returns the number of bytes.
    fn take(&mut self) -> io::Result<usize> {
        let Some(pipe) = &mut self.pipe else { return Ok(0) };
        let length = pipe.read(&mut self.chunk)?;
        if length == 0 {
            self.pipe = None;
        }
        self.output.push(&self.chunk[..length]);
        Ok(length)
    }

    /// Takes what is still in the pipe after a kill, without waiting for more.
    fn drain(&mut self) -> io::Result<()> {
        let mut drained = 0;
        while let Some(pipe) = &self.pipe
            && drained < MAX_DRAIN
        {
            let mut waits = [PollFd::new(pipe, PollFlags::IN)];
            wait(&mut waits, Some(Duration::ZERO))?;
            if waits[0].revents().is_empty() {
                break;
            }
            drained += self.take()?;
        }
        Ok(())
    }

    fn update(&self) {
        let shown = self.output.show();
        (self.context.on_update)(ToolOutput {
            content: vec![Block::text(shown.text)],
            details: shown.details,
            is_error: false,
        });
    }
}

/// Waits for one of `waits`; `None` = without limit. An interruption counts as being ready for nothing.
fn wait(waits: &mut [PollFd<'_>], limit: Option<Duration>) -> io::Result<()> {
    let limit = limit.and_then(|limit| Timespec::try_from(limit).ok());
    match poll(waits, limit.as_ref()) {
        Err(Errno::INTR) => {
            waits.iter_mut().for_each(PollFd::clear_revents);
            Ok(())
        }
        result => Ok(result.map(|_| ())?),
    }
}

/// The result for the model: the output, then how the command ended where that is not well.
fn conclude(shown: Shown, end: End, timeout: Option<Limit>) -> ToolOutput {
    let Shown { mut text, details } = shown;
    if let End::Exited(_) = end
        && text.is_empty()
    {
        text.push_str("(no output)");
    }
    let status = match end {
        End::Exited(0) => None,
        End::Exited(code) => Some(format!("Command exited with code {code}")),
        End::Aborted => Some("Command aborted".to_owned()),
        End::TimedOut => {
            let seconds = timeout.map_or(0.0, |limit| limit.time.as_secs_f64());
            let more = if timeout.is_some_and(|limit| limit.less_than_asked) {
                ", the most that is allowed here. The timeout is a number of seconds, not of milliseconds."
            } else {
                ""
            };
            Some(format!("Command timed out after {seconds} seconds{more}"))
        }
    };
    let is_error = status.is_some();
    if let Some(status) = status {
        if !text.is_empty() {
            text.push_str("\n\n");
        }
        text.push_str(&status);
    }
    ToolOutput { content: vec![Block::text(text)], details, is_error }
}

#[cfg(test)]
mod tests;
