//! `pi-bridge top`: the table of all sessions and runs, all the time.

use super::connection::{Connection, Deadline, new_id};
use super::failure::Failure;
use super::output;
use super::overview::{self, Column, Entry};
use super::registry;
use super::terminal::keys::{Decoder, Key};
use super::terminal::{self, RawMode, Signals, drain};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::{Value, json};
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

/// How often the table is made anew.
const REFRESH: Duration = Duration::from_secs(1);
/// A terminal sends a key's sequence in one piece; what is not complete after this time is all there is.
const KEY: Duration = Duration::from_millis(50);
/// How long a stop may take: its programs need time to die.
const STOP: Duration = Duration::from_secs(35);
const KEYS: &str = "Enter attach   s stop   / filter   < > sort   r reverse   q quit";

/// What the person does next, outside of the table.
pub(super) enum Wish {
    Leave,
    /// To attach to the session of this id.
    Attach(String),
}

/// The table, as it is kept from one attaching to the next.
pub(super) struct Top {
    entries: Vec<Entry>,
    /// The id of the row that keys act on.
    selected: String,
    sort: Column,
    backwards: bool,
    filter: String,
    /// The filter is being typed.
    filtering: bool,
    /// The id that a second `s` stops.
    to_stop: Option<String>,
    /// Stands in place of the keys until the next one.
    pub message: Option<String>,
}

impl Top {
    pub(super) fn new() -> Top {
        Top {
            entries: Vec::new(),
            selected: String::new(),
            sort: Column::Session,
            backwards: false,
            filter: String::new(),
            filtering: false,
            to_stop: None,
            message: None,
        }
    }

    /// Shows the table until the person wants something else.
    ///
    /// # Errors
    /// There is no terminal that can show it, or it is gone.
    pub(super) fn run(&mut self, directory: &Path) -> Result<Wish, Failure> {
        if !terminal::is_capable() {
            return Err(Failure::Local("top needs a terminal; pi-bridge list prints the table once".into()));
        }
        let signals = Signals::catch()?;
        let _raw = RawMode::for_screen()?;
        let mut decoder = Decoder::default();
        let mut shown = String::new();
        let mut next = Instant::now();
        loop {
            if next <= Instant::now() {
                let rows = registry::read(directory, false)?;
                self.entries = overview::gather(&rows.iter().collect::<Vec<_>>(), true);
                next = Instant::now() + REFRESH;
            }
            let (columns, rows) = terminal::size();
            let frame = self.frame(columns, rows);
            if frame != shown {
                output::print(&frame)?;
                shown = frame;
            }
            let mut wait = next.saturating_duration_since(Instant::now());
            if decoder.is_waiting() {
                wait = wait.min(KEY);
            }
            let stdin = io::stdin();
            let mut waits = [
                PollFd::from_borrowed_fd(stdin.as_fd(), PollFlags::IN),
                PollFd::new(&signals.resizes, PollFlags::IN),
                PollFd::new(&signals.interrupts, PollFlags::IN),
                PollFd::new(&signals.ends, PollFlags::IN),
            ];
            let found = match poll(&mut waits, Timespec::try_from(wait).ok().as_ref()) {
                Err(rustix::io::Errno::INTR) => continue,
                Err(e) => return Err(Failure::Local(format!("Cannot wait: {e}"))),
                Ok(found) => found,
            };
            let [typed, resized, interrupted, ended] = waits.map(|wait| !wait.revents().is_empty());
            if interrupted || ended {
                return Ok(Wish::Leave);
            }
            if resized {
                drain(&signals.resizes);
                shown.clear();
            }
            let mut keys = Vec::new();
            if typed {
                let mut chunk = [0; 256];
                match rustix::io::read(io::stdin(), &mut chunk) {
                    Ok(0) => return Ok(Wish::Leave),
                    Ok(length) => decoder.push(&chunk[..length]),
                    Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => {}
                    Err(_) => return Err(Failure::OutputClosed),
                }
                keys.extend(std::iter::from_fn(|| decoder.next_key()));
            } else if found == 0 {
                keys.extend(decoder.give_up());
            }
            for key in keys {
                match self.key(key) {
                    Act::Nothing => {}
                    Act::Wish(wish) => return Ok(wish),
                    Act::Stop(entry) => {
                        self.message = Some(format!("stopping {} ...", entry.title()));
                        output::print(&self.frame(columns, rows))?;
                        self.message = Some(match stop(&entry) {
                            Ok(()) => format!("{} is stopped", entry.title()),
                            Err(why) => format!("{} is not stopped: {why}", entry.title()),
                        });
                        shown.clear();
                        next = Instant::now();
                    }
                }
            }
        }
    }

    /// The entries that the filter lets through, sorted.
    fn visible(&self) -> Vec<Entry> {
        let mut entries: Vec<Entry> =
            self.entries.iter().filter(|entry| entry.contains(&self.filter)).cloned().collect();
        overview::sort(&mut entries, self.sort, self.backwards);
        entries
    }

    /// The place of the selected row: that of its session, or the first.
    fn place(&self, entries: &[Entry]) -> usize {
        entries.iter().position(|entry| entry.id == self.selected).unwrap_or_default()
    }

    /// What brings the whole screen up to date.
    fn frame(&mut self, columns: usize, rows: usize) -> String {
        let entries = self.visible();
        let place = self.place(&entries);
        self.selected = entries.get(place).map(|entry| entry.id.clone()).unwrap_or_default();
        let lines = overview::table(&entries, &overview::columns(&self.entries, false), Some(self.sort));
        let room = rows.saturating_sub(3).max(1);
        let first = place.saturating_sub(room - 1);
        let bottom = match (&self.message, self.filtering) {
            (_, true) => format!("filter: {}_   (Enter keeps it, Escape forgets it)", self.filter),
            (Some(message), false) => message.clone(),
            (None, false) if !self.filter.is_empty() => format!("filter: {}   {KEYS}", self.filter),
            (None, false) => KEYS.into(),
        };
        let mut out = String::from("\x1b[H");
        let mut row = |text: &str, code: &str| {
            let text = overview::fitted(text, columns);
            let end = if code.is_empty() { "" } else { "\x1b[0m" };
            out.push_str(&format!("{code}{text}{end}\x1b[K"));
        };
        row(&overview::summary(&self.entries), "\x1b[1m");
        let mut lines = lines.iter();
        for (number, line) in lines.next().into_iter().chain(lines.skip(first).take(room)).enumerate() {
            row("\r\n", "");
            let is_selected = number > 0 && first + number - 1 == place;
            row(line, if is_selected { "\x1b[7m" } else { "" });
        }
        out.push_str(&format!("\x1b[J\x1b[{rows};1H"));
        out.push_str(&overview::fitted(&bottom, columns.saturating_sub(1)));
        out.push_str("\x1b[K");
        out
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "the other keys do nothing here")]
    fn key(&mut self, key: Key) -> Act {
        let to_stop = self.to_stop.take();
        self.message = None;
        if self.filtering {
            match key {
                Key::Char(char) => self.filter.push(char),
                Key::Paste(text) => self.filter.push_str(text.lines().next().unwrap_or_default()),
                Key::Backspace => drop(self.filter.pop()),
                Key::Ctrl('u') => self.filter.clear(),
                Key::Ctrl('c') | Key::Escape => {
                    self.filter.clear();
                    self.filtering = false;
                }
                Key::Enter => self.filtering = false,
                _ => {}
            }
            return Act::Nothing;
        }
        let entries = self.visible();
        let place = self.place(&entries);
        let last = entries.len().saturating_sub(1);
        let mut select = |place: usize| {
            self.selected = entries.get(place.min(last)).map(|entry| entry.id.clone()).unwrap_or_default();
        };
        match key {
            Key::Char('q') | Key::Ctrl('c' | 'd') => return Act::Wish(Wish::Leave),
            Key::Up | Key::Char('k') => select(place.saturating_sub(1)),
            Key::Down | Key::Char('j') => select(place + 1),
            Key::PageUp => select(place.saturating_sub(10)),
            Key::PageDown => select(place + 10),
            Key::Home | Key::Char('g') => select(0),
            Key::End | Key::Char('G') => select(last),
            Key::Char('/') => self.filtering = true,
            Key::Escape => self.filter.clear(),
            Key::Char('<') | Key::Left => self.sort_by(-1),
            Key::Char('>') | Key::Right => self.sort_by(1),
            Key::Char('r') => self.backwards = !self.backwards,
            Key::Enter => {
                if let Some(entry) = entries.get(place) {
                    return Act::Wish(Wish::Attach(entry.id.clone()));
                }
            }
            Key::Char('s') => {
                if let Some(entry) = entries.get(place) {
                    if to_stop.as_deref() == Some(entry.id.as_str()) {
                        return Act::Stop(Box::new(entry.clone()));
                    }
                    self.message = Some(format!("s again stops {}", entry.title()));
                    self.to_stop = Some(entry.id.clone());
                }
            }
            _ => {}
        }
        Act::Nothing
    }

    /// Sorts by the column so many places further.
    fn sort_by(&mut self, step: isize) {
        let columns = overview::columns(&self.entries, false);
        let at = columns.iter().position(|column| *column == self.sort).unwrap_or_default();
        let next = (at as isize + step).rem_euclid(columns.len().max(1) as isize);
        if let Some(column) = columns.get(next as usize) {
            self.sort = *column;
        }
    }
}

/// What a key leads to beside another picture.
enum Act {
    Nothing,
    Wish(Wish),
    Stop(Box<Entry>),
}

/// Ends a session or a run.
fn stop(entry: &Entry) -> Result<(), String> {
    let deadline = Deadline::after(Some(STOP));
    let request = match entry.of_daemon {
        true => json!({"id": new_id(), "type": "stop", "sessionId": entry.id}),
        false => json!({"id": new_id(), "type": "shutdown", "confirm": true}),
    };
    let answer =
        Connection::open(&entry.socket, deadline).and_then(|mut connection| connection.ask(&request, deadline));
    match answer {
        Ok(answer) if answer["success"] == true => Ok(()),
        Ok(Value::Object(answer)) => Err(super::answer::error_of(&answer)),
        Ok(_) => Err("no answer".into()),
        Err(e) => Err(e.to_string()),
    }
}
