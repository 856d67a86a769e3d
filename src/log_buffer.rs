//! The last lines of the log, by session, so that a person who looks at a session sees what the daemon said about it
//! without access to where the log goes.

use crate::clock::{iso_time, now_ms};
use crate::sync::lock;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::sync::Mutex;

/// Lines that are kept of all, and of one session, so that a talkative one does not push out the others.
const LINES: usize = 2000;
const LINES_OF_ONE: usize = 200;
/// Characters of a session's id that the kernel has room for in the name of a thread, behind `s-` or `t-`.
const IN_THREAD_NAME: usize = 13;
/// How much of a line is kept, bytes; with that all lines together take at most 1 MiB.
const LENGTH: usize = 500;

struct Line {
    /// Unix time in milliseconds.
    time: i64,
    level: log::Level,
    /// The session that it is about; absent for the daemon itself.
    session: Option<String>,
    text: String,
}

#[derive(Default)]
struct Buffer(VecDeque<Line>);

static BUFFER: Mutex<Buffer> = Mutex::new(Buffer(VecDeque::new()));

/// Keeps a line that this thread logs.
pub(crate) fn keep(level: log::Level, text: &str) {
    let text = text[..text.floor_char_boundary(LENGTH)].to_string();
    // The kernel's name: threads of the pool get a new one with each piece of work, which the standard library does not know.
    let thread = rustix::thread::name().ok().and_then(|name| name.into_string().ok()).unwrap_or_default();
    let session = session_of(&thread, &text).map(str::to_string);
    lock(&BUFFER).push(Line { time: now_ms(), level, session, text });
}

/// The last lines about a session, or all where none is named: `{lines: [{time, level, session?, text}]}`.
pub(crate) fn lines(session: Option<&str>, limit: usize) -> Value {
    let buffer = lock(&BUFFER);
    let about = |line: &&Line| session.is_none_or(|id| line.is_about(id));
    let mut lines: Vec<Value> = buffer.0.iter().rev().filter(about).take(limit).map(Line::document).collect();
    lines.reverse();
    json!({"lines": lines})
}

impl Buffer {
    fn push(&mut self, line: Line) {
        let same = |other: &Line| other.session == line.session;
        if self.0.iter().filter(|other| same(other)).count() >= LINES_OF_ONE
            && let Some(oldest) = self.0.iter().position(same)
        {
            self.0.remove(oldest);
        }
        if self.0.len() >= LINES {
            self.0.pop_front();
        }
        self.0.push_back(line);
    }
}

impl Line {
    fn is_about(&self, id: &str) -> bool {
        self.session.as_deref().is_some_and(|session| {
            session == id || (session.chars().count() == IN_THREAD_NAME && id.starts_with(session))
        })
    }

    fn document(&self) -> Value {
        let level = self.level.as_str().to_ascii_lowercase();
        let mut document = json!({"time": iso_time(self.time), "level": level});
        if let Some(session) = &self.session {
            document["session"] = json!(session);
        }
        document["text"] = json!(self.text);
        document
    }
}

/// The session that a line is about: the one that it begins with, else the one whose thread wrote it, whose id may be cut.
fn session_of<'a>(thread: &'a str, text: &'a str) -> Option<&'a str> {
    let named = text.strip_prefix("session ").or_else(|| text.strip_prefix("run "));
    let named = named.and_then(|rest| rest.split([' ', ':']).next());
    named.or_else(|| thread.strip_prefix("s-").or_else(|| thread.strip_prefix("t-")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_belong_to_the_session_that_they_name_or_that_writes_them() {
        for (thread, text, session) in [
            ("main", "session demo started in /w", Some("demo")),
            ("main", "session demo: attempt 1", Some("demo")),
            ("main", "run r-1: its file cannot be used", Some("r-1")),
            ("s-demo", "cannot remove /x", Some("demo")),
            ("t-demo", "the image is damaged", Some("demo")),
            ("main", "connected to NATS", None),
            ("nats-io", "s-demo", None),
        ] {
            assert_eq!(session_of(thread, text), session, "{thread} {text}");
        }
    }

    #[test]
    fn an_id_that_a_threads_name_cuts_is_recognised() {
        let line = |session: &str| Line {
            time: 0,
            level: log::Level::Warn,
            session: Some(session.to_string()),
            text: String::new(),
        };
        assert!(line("0123456789abc").is_about("0123456789abcdef"));
        assert!(!line("0123456789ab").is_about("0123456789abcdef"));
        assert!(!line("0123456789abcdef").is_about("0123456789abc"));
    }

    #[test]
    fn one_session_keeps_its_last_lines_and_pushes_out_no_other() {
        let mut buffer = Buffer::default();
        let line = |session: Option<&str>, text: usize| Line {
            time: 0,
            level: log::Level::Info,
            session: session.map(str::to_string),
            text: text.to_string(),
        };
        buffer.push(line(Some("quiet"), 0));
        (0..3 * LINES).for_each(|n| buffer.push(line(Some("loud"), n)));
        let of = |buffer: &Buffer, id: &str| {
            buffer.0.iter().filter(|line| line.session.as_deref() == Some(id)).map(|line| line.text.clone()).collect()
        };
        let (quiet, loud): (Vec<String>, Vec<String>) = (of(&buffer, "quiet"), of(&buffer, "loud"));
        assert_eq!((quiet.len(), loud.len()), (1, LINES_OF_ONE));
        assert_eq!(loud.last().map(String::as_str), Some((3 * LINES - 1).to_string().as_str()));
        (0..2 * LINES).for_each(|n| buffer.push(line(Some(&n.to_string()), n)));
        assert_eq!(buffer.0.len(), LINES);
    }
}
