//! How attach talks with its person: with a line editor at the bottom of a terminal, or in plain lines.

use crate::cli::failure::Failure;
use crate::cli::lines::LineBuffer;
use crate::cli::output;
use crate::cli::terminal::editor::{Edited, Editor};
use crate::cli::terminal::keys::{Decoder, MAX_PASTE};
use crate::cli::terminal::screen::{Below, Screen};
use crate::cli::terminal::{self, RawMode};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;

/// Read at a time, bytes.
const CHUNK: usize = 4096;
/// The longest line that a terminal in its line mode gives out; Linux drops the rest of a longer one.
const LONGEST_LINE: usize = 4095;
/// Lines that come within this time are no one's typing but a pasted text, from a terminal that does not say so.
const PASTED: Timespec = Timespec { tv_sec: 0, tv_nsec: 10_000_000 };

/// What a person did.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Typing {
    /// A line, or a text of several that was pasted.
    Line(String),
    /// Ctrl-C, when nothing was typed.
    Interrupt,
    /// The end of the input.
    End,
    /// What can stand at the cursor is asked for.
    Complete,
    /// A text that is not sent, and why.
    Refused(&'static str),
}

pub(super) enum Front {
    Plain {
        lines: LineBuffer,
        /// The sign to type stands at the cursor.
        prompted: bool,
    },
    Lines(Box<LineFront>),
}

/// A line editor, with output above it.
pub(super) struct LineFront {
    raw: RawMode,
    decoder: Decoder,
    editor: Editor,
    screen: Screen,
}

impl Front {
    /// # Errors
    /// The terminal cannot be set up.
    pub(super) fn open(plain: bool) -> Result<Front, Failure> {
        if plain || !terminal::is_capable() {
            return Ok(Front::Plain { lines: LineBuffer::default(), prompted: false });
        }
        let (columns, rows) = terminal::size();
        Ok(Front::Lines(Box::new(LineFront {
            raw: RawMode::for_lines()?,
            decoder: Decoder::default(),
            editor: Editor::new(),
            screen: Screen::new(columns, rows, true),
        })))
    }

    /// Whether the line about what goes on moves here.
    pub(super) fn moves(&self) -> bool {
        matches!(self, Front::Lines(_))
    }

    /// A key has begun, and it is not known whether more belongs to it.
    pub(super) fn is_waiting(&self) -> bool {
        matches!(self, Front::Lines(front) if front.decoder.is_waiting())
    }

    /// Shows text, and below it what goes on and what is being typed.
    ///
    /// # Errors
    /// Nobody reads any more.
    pub(super) fn show(&mut self, text: &str, status: Option<String>, may_type: bool) -> Result<(), Failure> {
        let out = match self {
            Front::Lines(front) => {
                let (prompt, input, cursor) = front.editor.shown();
                let below = Below { status, input: input.to_string(), cursor, prompt };
                front.screen.draw(text, &below)
            }
            Front::Plain { prompted, .. } => {
                let mut out = String::new();
                if *prompted && !text.is_empty() {
                    out.push('\n');
                    *prompted = false;
                }
                out.push_str(text);
                if may_type && !*prompted && io::stdout().is_terminal() {
                    out.push_str("> ");
                    *prompted = true;
                }
                out
            }
        };
        if out.is_empty() { Ok(()) } else { output::print(&out) }
    }

    /// Reads what was typed. Lines that come all at once are one text, unless they `are_answers` or one is a command.
    ///
    /// # Errors
    /// Nobody reads what is shown.
    pub(super) fn read(&mut self, are_answers: bool) -> Result<Vec<Typing>, Failure> {
        let is_terminal = io::stdin().is_terminal();
        let mut typings = Vec::new();
        loop {
            let mut chunk = [0; CHUNK];
            // Past the standard library's buffer, of which poll(2) knows nothing.
            let length = match rustix::io::read(io::stdin(), &mut chunk) {
                Ok(length) => length,
                Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => break,
                // The terminal is gone.
                Err(_) => 0,
            };
            self.take(&chunk[..length], is_terminal, &mut typings)?;
            if length == 0 {
                typings.push(Typing::End);
            }
            let pasting = is_terminal && length > 0 && matches!(typings.last(), Some(Typing::Line(_)));
            let stdin = io::stdin();
            let mut more = [PollFd::from_borrowed_fd(stdin.as_fd(), PollFlags::IN)];
            if !pasting || !matches!(poll(&mut more, Some(&PASTED)), Ok(1..)) {
                break;
            }
        }
        let is_message = |typing: &Typing| matches!(typing, Typing::Line(text) if !text.trim_start().starts_with('/'));
        if is_terminal && !are_answers && typings.iter().all(is_message) {
            typings = self.join(typings);
        }
        Ok(typings)
    }

    /// Makes one text of lines that came all at once. One whose end is missing is not sent yet.
    fn join(&mut self, typings: Vec<Typing>) -> Vec<Typing> {
        let rest = match self {
            Front::Lines(front) => front.editor.text(),
            Front::Plain { .. } => "",
        };
        if typings.is_empty() || (typings.len() == 1 && rest.is_empty()) || rest.starts_with('/') {
            return typings;
        }
        let mut text = String::new();
        for typing in typings {
            if let Typing::Line(line) = typing {
                text.push_str(line.trim_end_matches(['\r', '\n']));
                text.push('\n');
            }
        }
        text.push_str(rest);
        match self {
            Front::Lines(front) if !front.editor.text().is_empty() => {
                front.editor.replace(&text);
                Vec::new()
            }
            Front::Lines(_) | Front::Plain { .. } => vec![Typing::Line(text)],
        }
    }

    fn take(&mut self, bytes: &[u8], is_terminal: bool, typings: &mut Vec<Typing>) -> Result<(), Failure> {
        match self {
            Front::Lines(front) => {
                front.decoder.push(bytes);
                front.keys(typings)
            }
            Front::Plain { lines, prompted } => {
                lines.push(bytes);
                while let Some(line) = lines.next_line() {
                    *prompted = false;
                    let is_cut = is_terminal && line.len() > LONGEST_LINE;
                    typings.push(match String::from_utf8(line) {
                        _ if is_cut => Typing::Refused("the terminal cuts lines that long; it is not sent"),
                        Ok(line) => Typing::Line(line),
                        Err(e) => Typing::Line(String::from_utf8_lossy(e.as_bytes()).into_owned()),
                    });
                }
                if lines.partial() > MAX_PASTE {
                    lines.take_rest();
                    typings.push(Typing::Refused("that line is too long; it is not sent"));
                } else if bytes.is_empty() && lines.partial() > 0 {
                    // What is piped in need not end with a line end.
                    let rest = lines.take_rest();
                    typings.push(Typing::Line(String::from_utf8_lossy(&rest).into_owned()));
                }
                Ok(())
            }
        }
    }

    /// What the keys behind a completion, which changes what they are typed into, led to.
    ///
    /// # Errors
    /// As [`Front::show`].
    pub(super) fn go_on(&mut self) -> Result<Vec<Typing>, Failure> {
        let mut typings = Vec::new();
        if let Front::Lines(front) = self {
            front.keys(&mut typings)?;
        }
        Ok(typings)
    }

    /// Takes the key that has begun for what it is.
    ///
    /// # Errors
    /// As [`Front::show`].
    pub(super) fn give_up(&mut self) -> Result<(), Failure> {
        if let Front::Lines(front) = self
            && let Some(key) = front.decoder.give_up()
        {
            front.editor.key(key);
        }
        Ok(())
    }

    /// The text before the cursor.
    pub(super) fn before_cursor(&self) -> &str {
        match self {
            Front::Lines(front) => front.editor.before_cursor(),
            Front::Plain { .. } => "",
        }
    }

    /// Puts in what `candidates` have in common in place of the text from byte `start` to the cursor; returns them where
    /// that is nothing.
    pub(super) fn complete<'a>(&mut self, start: usize, candidates: &'a [String]) -> &'a [String] {
        match self {
            Front::Lines(front) => front.editor.complete(start, candidates),
            Front::Plain { .. } => &[],
        }
    }

    /// Makes a text that was sent before findable.
    pub(super) fn remember(&mut self, text: &str) {
        if let Front::Lines(front) = self {
            front.editor.remember(text);
        }
    }

    /// The terminal has another size, or shows something else now.
    ///
    /// # Errors
    /// As [`Front::show`].
    pub(super) fn resize(&mut self) -> Result<(), Failure> {
        if let Front::Lines(front) = self {
            let (columns, rows) = terminal::size();
            output::print(&front.screen.resize(columns, rows))?;
        }
        Ok(())
    }

    /// Leaves the cursor at the start of a line, with nothing below the text.
    ///
    /// # Errors
    /// As [`Front::show`].
    pub(super) fn leave(&mut self, text: &str) -> Result<(), Failure> {
        self.show(text, None, false)?;
        let out = match self {
            Front::Lines(front) => front.screen.leave(),
            Front::Plain { prompted: true, .. } => "\n".into(),
            Front::Plain { .. } => String::new(),
        };
        output::print(&out)
    }
}

impl LineFront {
    fn keys(&mut self, typings: &mut Vec<Typing>) -> Result<(), Failure> {
        while let Some(key) = self.decoder.next_key() {
            typings.push(match self.editor.key(key) {
                Edited::Shown | Edited::Interrupt { was_empty: false } => continue,
                Edited::Submit(text) => Typing::Line(text),
                Edited::Interrupt { was_empty: true } => Typing::Interrupt,
                Edited::End => Typing::End,
                Edited::Complete => {
                    typings.push(Typing::Complete);
                    break;
                }
                Edited::TooLong => Typing::Refused("that text is too long; it is not taken"),
                Edited::ClearScreen => {
                    output::print(&self.screen.clear())?;
                    continue;
                }
                Edited::Suspend => {
                    output::print(&self.screen.leave())?;
                    self.raw.suspend();
                    continue;
                }
            });
        }
        Ok(())
    }
}
