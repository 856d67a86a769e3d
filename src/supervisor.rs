//! What the process tells the supervisor that started it: systemd's protocol of sd_notify(3), one datagram a message.
//!
//! The library for it blocks while nobody reads the supervisor's socket, which the main thread must not.

use rustix::time::{ClockId, clock_gettime};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// A connection to the supervisor; without one, nothing is told.
pub(crate) struct Supervisor {
    socket: Option<UnixDatagram>,
    /// The supervisor restarts a process that has not said for so long that it is alive.
    watchdog: Option<Duration>,
    status: String,
}

impl Supervisor {
    /// Whoever started this process, as its environment says (`NOTIFY_SOCKET`, `WATCHDOG_USEC`, `WATCHDOG_PID`).
    pub(crate) fn from_environment() -> Supervisor {
        let number = |name: &str| std::env::var(name).ok()?.parse::<u64>().ok();
        let is_ours = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
        let watchdog = number("WATCHDOG_USEC").filter(|_| is_ours).map(Duration::from_micros);
        Supervisor { socket: connect(), watchdog, status: String::new() }
    }

    /// How often [`Supervisor::alive`] has to be said at least.
    pub(crate) fn period(&self) -> Option<Duration> {
        self.watchdog.map(|time| time / 2)
    }

    /// The process serves.
    pub(crate) fn ready(&self) {
        self.tell("READY=1");
    }

    /// The main loop goes round.
    pub(crate) fn alive(&self) {
        if self.watchdog.is_some() {
            self.tell("WATCHDOG=1");
        }
    }

    /// The process is about to end.
    pub(crate) fn stopping(&self) {
        self.tell("STOPPING=1");
    }

    /// The process takes up another configuration, until it is ready again.
    pub(crate) fn reloading(&self) {
        let now = clock_gettime(ClockId::Monotonic);
        let micros = now.tv_sec * 1_000_000 + now.tv_nsec / 1000;
        self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={micros}"));
    }

    /// Another process goes on in our place.
    pub(crate) fn replaced_by(&self, pid: i32) {
        self.tell(&format!("MAINPID={pid}"));
    }

    /// What the process does, in one line for people.
    pub(crate) fn status(&mut self, status: impl FnOnce() -> String) {
        let Some(status) = self.socket.as_ref().map(|_| status()).filter(|status| *status != self.status) else {
            return;
        };
        self.tell(&format!("STATUS={status}"));
        self.status = status;
    }

    fn tell(&self, message: &str) {
        // What the supervisor does not take now it does not need; the next message says as much.
        let _ = self.socket.as_ref().map(|socket| socket.send(message.as_bytes()));
    }
}

fn connect() -> Option<UnixDatagram> {
    let name = std::env::var_os("NOTIFY_SOCKET")?;
    let address = match name.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(&name),
    };
    let socket = UnixDatagram::unbound().ok()?;
    let connected = address.and_then(|address| socket.connect_addr(&address));
    if let Err(e) = connected.and_then(|()| socket.set_nonblocking(true)) {
        log::warn!("NOTIFY_SOCKET {}: {e}", name.display());
        return None;
    }
    Some(socket)
}

/// Standard error is the journal's, which takes the level of a line from its beginning (sd-daemon(3)) and has the time
/// itself. `JOURNAL_STREAM` names that stream, and is inherited by those who have another.
pub(crate) fn logs_to_journal() -> bool {
    let stream = std::env::var("JOURNAL_STREAM").ok();
    let error = std::fs::metadata("/proc/self/fd/2").ok();
    stream.zip(error).is_some_and(|(stream, error)| stream == format!("{}:{}", error.dev(), error.ino()))
}
