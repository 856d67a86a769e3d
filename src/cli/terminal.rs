//! The terminal of a person: raw keys in, a screen out, and the terminal as it was afterwards.

pub(super) mod editor;
pub(super) mod keys;
pub(super) mod screen;

use super::failure::Failure;
use rustix::process::{Signal, getpid, kill_process};
use rustix::termios::{
    InputModes, LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcgetwinsize, tcsetattr,
};
use signal_hook::SigId;
use signal_hook::consts::{SIGCONT, SIGHUP, SIGINT, SIGTERM, SIGWINCH};
use std::io::{self, IsTerminal, Read, Write};
use std::os::unix::net::UnixStream;

/// Where a terminal does not tell its size, it is that of the first ones.
const USUAL_SIZE: (usize, usize) = (80, 24);
/// Pasted text comes in brackets.
const PASTE_ON: &str = "\x1b[?2004h";
const PASTE_OFF: &str = "\x1b[?2004l";

/// Whether both ends are a terminal that understands control sequences.
pub(super) fn is_capable() -> bool {
    io::stdin().is_terminal() && io::stdout().is_terminal() && knows_sequences()
}

/// Whether the terminal, if there is one, understands control sequences.
pub(super) fn knows_sequences() -> bool {
    set("TERM").is_some_and(|term| term != "dumb")
}

/// Whether colours are wanted, see <https://no-color.org>.
pub(super) fn wants_colour() -> bool {
    set("NO_COLOR").is_none()
}

fn set(name: &str) -> Option<std::ffi::OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

/// Columns and rows.
pub(super) fn size() -> (usize, usize) {
    match tcgetwinsize(io::stdout()) {
        Ok(size) if size.ws_col > 0 && size.ws_row > 0 => (size.ws_col.into(), size.ws_row.into()),
        _ => USUAL_SIZE,
    }
}

/// A terminal whose keys arrive one by one. It is as it was before once this is dropped.
pub(super) struct RawMode {
    before: Termios,
    /// What was switched on beside that, and what switches it off.
    on: &'static str,
    off: &'static str,
}

impl RawMode {
    /// For a line editor: pasted text comes in brackets.
    ///
    /// # Errors
    /// Standard input is no terminal.
    pub(super) fn for_lines() -> Result<RawMode, Failure> {
        RawMode::enter(PASTE_ON, PASTE_OFF)
    }

    /// For the whole screen: what is on it comes back at the end, and there is no cursor.
    ///
    /// # Errors
    /// Standard input is no terminal.
    pub(super) fn for_screen() -> Result<RawMode, Failure> {
        // Where there is no second screen, at least nothing is left on the only one.
        RawMode::enter("\x1b[?1049h\x1b[?25l\x1b[H\x1b[J", "\x1b[H\x1b[J\x1b[?25h\x1b[?1049l")
    }

    fn enter(on: &'static str, off: &'static str) -> Result<RawMode, Failure> {
        let failed = |e: rustix::io::Errno| Failure::Local(format!("Cannot set the terminal up: {e}"));
        let mode = RawMode { before: tcgetattr(io::stdin()).map_err(failed)?, on, off };
        mode.set_up().map_err(failed)?;
        Ok(mode)
    }

    fn set_up(&self) -> rustix::io::Result<()> {
        let mut raw = self.before.clone();
        raw.local_modes -= LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG | LocalModes::IEXTEN;
        raw.input_modes -= InputModes::ICRNL | InputModes::INLCR | InputModes::IXON;
        raw.special_codes[SpecialCodeIndex::VMIN] = 1;
        raw.special_codes[SpecialCodeIndex::VTIME] = 0;
        // What was typed before is not lost.
        tcsetattr(io::stdin(), OptionalActions::Drain, &raw)?;
        write(self.on);
        Ok(())
    }

    /// Stops the process until somebody continues it, with the terminal as it was.
    pub(super) fn suspend(&self) {
        self.restore();
        let _ = kill_process(getpid(), Signal::TSTP);
        let _ = self.set_up();
    }

    fn restore(&self) {
        write(self.off);
        // A terminal that is gone needs nothing.
        let _ = tcsetattr(io::stdin(), OptionalActions::Drain, &self.before);
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        self.restore();
    }
}

fn write(text: &str) {
    let mut out = io::stdout().lock();
    // Whoever reads next notices that nobody is there.
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// Signals as bytes that can be waited for. Once this is dropped they mean nothing, which is as the process ends.
pub(super) struct Signals {
    /// Ctrl-C, where the terminal makes a signal of it.
    pub interrupts: UnixStream,
    /// The terminal has another size, or its screen may show something else.
    pub resizes: UnixStream,
    /// The process shall end.
    pub ends: UnixStream,
    ids: Vec<SigId>,
}

impl Signals {
    /// # Errors
    /// The system allows no handlers.
    pub(super) fn catch() -> Result<Signals, Failure> {
        let failed = |e: io::Error| Failure::Local(format!("Cannot handle signals: {e}"));
        let mut ids = Vec::new();
        let mut pipe = |signals: &[i32]| -> io::Result<UnixStream> {
            let (reader, writer) = UnixStream::pair()?;
            reader.set_nonblocking(true)?;
            for signal in signals {
                ids.push(signal_hook::low_level::pipe::register(*signal, writer.try_clone()?)?);
            }
            Ok(reader)
        };
        let interrupts = pipe(&[SIGINT]).map_err(failed)?;
        let resizes = pipe(&[SIGWINCH, SIGCONT]).map_err(failed)?;
        let ends = pipe(&[SIGTERM, SIGHUP]).map_err(failed)?;
        Ok(Signals { interrupts, resizes, ends, ids })
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        for id in self.ids.drain(..) {
            signal_hook::low_level::unregister(id);
        }
    }
}

/// Takes what a signal left in its pipe.
pub(super) fn drain(mut pipe: &UnixStream) {
    let _ = pipe.read(&mut [0; 64]);
}
