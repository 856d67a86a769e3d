//! The line on standard error that says what goes on while an answer is waited for. It is there on a terminal only.

use super::activity::{Activity, MOVES};
use super::connection::{Connection, Deadline, Record};
use super::failure::Failure;
use super::terminal::screen::cut;
use super::terminal::{knows_sequences, size};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

/// How long an answer may stop in the middle of a line before that line is ended, so that this one can be shown.
const PAUSE: Duration = Duration::from_secs(1);

pub(super) struct Moving {
    is_on: bool,
    /// Text of the answer appears in the same terminal.
    is_shared: bool,
    activity: Activity,
    /// It is on the screen.
    is_shown: bool,
    /// When something of the answer came last.
    last: Instant,
}

/// Whether somebody sees it.
pub(super) fn is_wanted() -> bool {
    io::stderr().is_terminal() && knows_sequences()
}

impl Moving {
    pub(super) fn new() -> Moving {
        let now = Instant::now();
        let mut activity = Activity::default();
        activity.asked(now);
        Moving { is_on: is_wanted(), is_shared: io::stdout().is_terminal(), activity, is_shown: false, last: now }
    }

    /// Whether events of the session are of use.
    pub(super) fn is_on(&self) -> bool {
        self.is_on
    }

    pub(super) fn event(&mut self, event: &Record) {
        if self.is_on {
            self.activity.event(event, Instant::now());
        }
    }

    /// Waits for the next record. Absent when the peer has closed the connection.
    ///
    /// `line_is_open` says whether the answer's text stands in an unfinished line, which may have to be ended.
    ///
    /// # Errors
    /// The connection broke.
    pub(super) fn next(
        &mut self,
        connection: &mut Connection,
        line_is_open: &mut bool,
    ) -> Result<Option<Record>, Failure> {
        loop {
            if let Some(record) = connection.arrived() {
                return Ok(Some(record));
            }
            self.show(line_is_open);
            if self.is_on {
                let mut waits = [PollFd::new(connection, PollFlags::IN)];
                let time = Timespec::try_from(MOVES).ok();
                if !matches!(poll(&mut waits, time.as_ref()), Ok(1..)) {
                    continue;
                }
            }
            if !connection.receive(Deadline::after(None))? {
                return Ok(None);
            }
        }
    }

    /// Makes room for what is about to be printed.
    pub(super) fn clear(&mut self) {
        self.last = Instant::now();
        if std::mem::take(&mut self.is_shown) {
            write("\r\x1b[K");
        }
    }

    fn show(&mut self, line_is_open: &mut bool) {
        let now = Instant::now();
        let Some(line) = self.activity.line(now).filter(|_| self.is_on) else { return };
        if self.is_shared && *line_is_open {
            if now.duration_since(self.last) < PAUSE {
                return;
            }
            write("\n");
            *line_is_open = false;
        }
        write(&format!("\r{}\x1b[K", cut(&line, size().0.saturating_sub(1))));
        self.is_shown = true;
    }
}

impl Drop for Moving {
    fn drop(&mut self) {
        self.clear();
    }
}

fn write(text: &str) {
    let mut out = io::stderr().lock();
    // Who reads nothing there misses nothing else.
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}
