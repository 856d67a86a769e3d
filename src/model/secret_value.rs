//! The syntax of configured secrets: `$NAME` and `${NAME}` are environment variables, `$$` and `$!` a plain `$` and `!`,
//! a leading `!` makes the rest a shell command whose output is the value, everything else stands for itself.

use crate::sys;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use std::fmt;
use std::io::{ErrorKind, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::Once;
use std::time::{Duration, Instant};

/// How long a command may take.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest output of a command, in bytes.
const MAX_OUTPUT: usize = 64 << 10;

/// A key or token. It is shown to nobody but the provider.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn new(value: impl Into<String>) -> Secret {
        Secret(value.into())
    }

    /// The bare value, to be put into a request header and nowhere else.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Looks up an environment variable; an empty one counts as not set.
pub(super) type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The value that `text` stands for, or why there is none. The reason never holds a secret.
pub(super) fn evaluate(text: &str, lookup: Lookup<'_>) -> Result<Secret, String> {
    if let Some(command) = text.strip_prefix('!') {
        return run(command, COMMAND_TIMEOUT).map(Secret);
    }
    if let Some(value) = bare_name(text).and_then(lookup) {
        static WARNED: Once = Once::new();
        WARNED.call_once(|| log::warn!("a bare variable name as a key is outdated: write ${text} instead"));
        return Ok(Secret(value));
    }
    let mut value = String::new();
    for part in parts(text) {
        match part {
            Part::Text(text) => value.push_str(text),
            Part::Variable(name) => {
                value.push_str(&lookup(name).ok_or_else(|| format!("the environment variable {name} is not set"))?);
            }
        }
    }
    if value.is_empty() { Err("the value is empty".to_string()) } else { Ok(Secret(value)) }
}

/// The old way to name a variable: nothing but its name, in capitals.
fn bare_name(text: &str) -> Option<&str> {
    let capital = |b: u8| b.is_ascii_uppercase() || b == b'_';
    let first = *text.as_bytes().first()?;
    (capital(first) && text.bytes().all(|b| capital(b) || b.is_ascii_digit())).then_some(text)
}

enum Part<'a> {
    Text(&'a str),
    Variable(&'a str),
}

fn parts(text: &str) -> impl Iterator<Item = Part<'_>> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let Some(after) = rest.strip_prefix('$') else {
            let end = rest.find('$').unwrap_or(rest.len());
            let (literal, tail) = rest.split_at(end);
            rest = tail;
            return Some(Part::Text(literal));
        };
        if after.starts_with(['$', '!']) {
            let (literal, tail) = after.split_at(1);
            rest = tail;
            return Some(Part::Text(literal));
        }
        if let Some((name, tail)) = after.strip_prefix('{').and_then(|braced| braced.split_once('}')) {
            rest = tail;
            return Some(Part::Variable(name));
        }
        let end = after.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(after.len());
        if end == 0 {
            rest = after;
            return Some(Part::Text("$"));
        }
        let (name, tail) = after.split_at(end);
        rest = tail;
        Some(Part::Variable(name))
    })
}

/// Runs a shell command in a process group of its own, which is killed after `timeout`.
fn run(command: &str, timeout: Duration) -> Result<String, String> {
    let mut builder = Command::new("/bin/sh");
    builder
        .args(["-c", command])
        .env("GIT_TERMINAL_PROMPT", "0")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .process_group(0);
    sys::without_terminal(&mut builder);
    let mut child = builder.spawn().map_err(|e| format!("the key command did not start: {e}"))?;
    let output = collect(&mut child, Instant::now() + timeout);
    let group = Pid::from_child(&child);
    if output.is_err() {
        // Whatever the group still does is not wanted; that it may be gone already is no failure.
        let _ = kill_process_group(group, Signal::KILL);
    }
    let status = child.wait();
    let output = output.map_err(|e| {
        if e.kind() == ErrorKind::TimedOut {
            format!("the key command took longer than {} s", timeout.as_secs())
        } else {
            format!("the key command's output could not be read: {e}")
        }
    })?;
    match status {
        Ok(status) if !status.success() => return Err(format!("the key command failed: {status}")),
        Err(e) => return Err(format!("the key command failed: {e}")),
        Ok(_) => {}
    }
    let output = String::from_utf8(output).map_err(|_| "the key command's output is not text".to_string())?;
    match output.trim() {
        "" => Err("the key command printed nothing".to_string()),
        output => Ok(output.to_string()),
    }
}

/// The child's output until it has ended. A grandchild that keeps the pipe open is not waited for.
fn collect(child: &mut Child, deadline: Instant) -> std::io::Result<Vec<u8>> {
    let ended = pidfd_open(Pid::from_child(child), PidfdFlags::empty())?;
    let mut pipe = child.stdout.take().ok_or(ErrorKind::BrokenPipe)?;
    rustix::io::ioctl_fionbio(&pipe, true)?;
    let (mut output, mut buffer, mut open) = (Vec::new(), [0; 4096], true);
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
        let mut fds = [PollFd::new(&ended, PollFlags::IN), PollFd::new(&pipe, PollFlags::IN)];
        let watched = if open { 2 } else { 1 };
        match poll(&mut fds[..watched], Timespec::try_from(left).ok().as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
        let exited = !fds[0].revents().is_empty();
        while open {
            match pipe.read(&mut buffer) {
                Ok(0) => open = false,
                Ok(n) if output.len() + n > MAX_OUTPUT => return Err(ErrorKind::FileTooLarge.into()),
                Ok(n) => output.extend_from_slice(&buffer[..n]),
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        if exited {
            return Ok(output);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lookup(name: &str) -> Option<String> {
        match name {
            "A" => Some("va".to_string()),
            "B_1" => Some("vb".to_string()),
            _ => None,
        }
    }

    #[test]
    fn values() {
        for (text, expected) in [
            ("sk-plain", Ok("sk-plain")),
            ("$A", Ok("va")),
            ("x${A}y$B_1-$$z$!", Ok("xvayvb-$z!")),
            ("A", Ok("va")),
            ("NOT_SET", Ok("NOT_SET")),
            ("100$ ", Ok("100$ ")),
            ("$NOT_SET", Err("the environment variable NOT_SET is not set")),
            ("", Err("the value is empty")),
            ("!printf ' out \\n'", Ok("out")),
            ("!exit 3", Err("the key command failed: exit status: 3")),
            ("!true", Err("the key command printed nothing")),
        ] {
            let value = evaluate(text, &lookup);
            assert_eq!(value.as_ref().map(Secret::reveal).map_err(String::as_str), expected, "{text}");
        }
        assert_eq!(format!("{:?}", Secret::new("sk")), "Secret(..)");
    }

    #[test]
    fn commands_are_bounded() {
        let begun = Instant::now();
        let error = run("sleep 30", Duration::from_millis(50)).expect_err("too slow");
        assert!(error.contains("took longer"), "{error}");
        assert_eq!(run("sleep 30 & echo key", Duration::from_secs(10)).as_deref(), Ok("key"));
        assert!(run("yes", Duration::from_secs(10)).is_err(), "endless output ends");
        assert!(begun.elapsed() < Duration::from_secs(10));
    }
}
