//! The registry: one small file for each session that clients can find, written by a thread of its own.
//!
//! While there is exactly one session, `<pid>.json` stands for it, so that a client that knows of no daemons finds it.
//! Otherwise that row is the daemon's, and with two sessions or more each has a row `<pid>-<id>.json`.

use super::directory::BridgeDirectory;
use super::routes::{Route, Table};
use super::{PROTOCOL, Shared};
use crate::clock::{iso_time, now_ms};
use crate::contract::identity::SessionState;
use crate::contract::session::Watcher;
use crate::files::{self, private};
use crate::sync::lock;
use crossbeam_channel::{Receiver, Sender, bounded, select};
use serde::Serialize;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::Write;
use std::ops::Bound::{Excluded, Unbounded};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// Rows are written anew this often, so that they show that somebody still cares for them (the reference's number).
const HEARTBEAT: Duration = Duration::from_secs(15);
/// Rows of sessions that one heartbeat writes anew, in turn: a thousand idle sessions shall neither wear out a flash disk nor
/// take time. Clients tell rows that nobody cares for by the process and its socket, never by their age.
const HEARTBEAT_ROWS: usize = 16;
/// How long a change waits until it is written down, unless somebody waits for that.
const PAUSE: Duration = Duration::from_millis(50);
/// A pause is at least this many times as long as the round before it took, so that writing never takes a tenth of a core.
const REST: u32 = 10;

/// What of the daemon is the same in every row.
pub(super) struct Identity {
    pub pid: u32,
    pub hostname: String,
    pub root: PathBuf,
    pub daemon_socket: PathBuf,
    pub cwd: PathBuf,
    /// Unix time in milliseconds.
    pub started_ms: i64,
}

/// What a file of the registry says, and what clients are told of whom they have reached.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Row<'a> {
    protocol: &'static str,
    pid: u32,
    hostname: &'a str,
    #[serde(flatten)]
    subject: Subject<'a>,
    socket_path: Cow<'a, str>,
    daemon_socket_path: Cow<'a, str>,
    bridge_dir: Cow<'a, str>,
    started_at: String,
    updated_at: String,
    last_reason: &'a str,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Subject<'a> {
    Daemon { cwd: Cow<'a, str>, role: &'static str, sessions: usize },
    Session(SessionState),
}

impl Identity {
    pub(super) fn new(directory: &BridgeDirectory) -> Identity {
        let hostname = files::read_text(Path::new("/proc/sys/kernel/hostname"), 256).unwrap_or_default();
        Identity {
            pid: std::process::id(),
            hostname: hostname.trim().to_string(),
            root: directory.root().to_path_buf(),
            daemon_socket: directory.daemon_socket(),
            cwd: std::env::current_dir().unwrap_or_default(),
            started_ms: now_ms(),
        }
    }

    fn row<'a>(&'a self, subject: Subject<'a>, socket: &'a Path, started_ms: i64, reason: &'a str) -> Row<'a> {
        Row {
            protocol: PROTOCOL,
            pid: self.pid,
            hostname: &self.hostname,
            subject,
            socket_path: socket.to_string_lossy(),
            daemon_socket_path: self.daemon_socket.to_string_lossy(),
            bridge_dir: self.root.to_string_lossy(),
            started_at: iso_time(started_ms),
            updated_at: iso_time(now_ms()),
            last_reason: reason,
        }
    }

    /// The daemon itself, where it does not stand for a session.
    pub(super) fn daemon<'a>(&'a self, sessions: usize, reason: &'a str) -> Row<'a> {
        let subject = Subject::Daemon { cwd: self.cwd.to_string_lossy(), role: "daemon", sessions };
        self.row(subject, &self.daemon_socket, self.started_ms, reason)
    }

    /// A session, reached over `socket`.
    pub(super) fn session<'a>(&'a self, route: &Route, socket: &'a Path, running: bool, reason: &'a str) -> Row<'a> {
        let subject = Subject::Session(route.stats.state(&route.identity, running));
        self.row(subject, socket, route.identity.created_ms, reason)
    }

    /// A session as its own row and its own socket show it.
    pub(super) fn own<'a>(&'a self, route: &'a Route, running: bool, reason: &'a str) -> Row<'a> {
        self.session(route, route.socket.as_deref().unwrap_or(&self.daemon_socket), running, reason)
    }

    /// What the daemon's own socket stands for at the moment.
    pub(super) fn front<'a>(&'a self, table: &Table, reason: &'a str) -> Row<'a> {
        match table.only() {
            Some(route) => self.session(route, &self.daemon_socket, route.stats.running(), reason),
            None => self.daemon(table.named().count(), reason),
        }
    }
}

/// Makes the registry's thread look around.
pub(super) struct Waker {
    soon: Sender<()>,
    now: Sender<()>,
    /// What is to be done once everything is written down that is true by then.
    waiting: Mutex<Vec<Box<dyn FnOnce() + Send>>>,
}

/// The other end of a [`Waker`].
pub(super) struct WakeUps {
    soon: Receiver<()>,
    now: Receiver<()>,
}

impl Waker {
    pub(super) fn new() -> (Arc<Waker>, WakeUps) {
        let ((soon, wake_soon), (now, wake_now)) = (bounded(1), bounded(1));
        (Arc::new(Waker { soon, now, waiting: Mutex::default() }), WakeUps { soon: wake_soon, now: wake_now })
    }

    /// Has everything written down at once.
    pub(super) fn now(&self) {
        // A wake-up that is not yet noticed is enough.
        let _ = self.now.try_send(());
    }

    fn waiting(&self) -> MutexGuard<'_, Vec<Box<dyn FnOnce() + Send>>> {
        lock(&self.waiting)
    }
}

impl Watcher for Waker {
    fn outdated(&self) {
        let _ = self.soon.try_send(());
    }

    fn when_written(&self, then: Box<dyn FnOnce() + Send>) {
        self.waiting().push(then);
        self.now();
    }
}

/// Writes the registry until told to stop, then removes what it wrote. The work of a thread of its own.
pub(super) fn run(shared: &Shared, wake_ups: &WakeUps) {
    let mut registry = Registry { shared, front: None, written: BTreeMap::new(), turn: 0, failed: false };
    let mut heartbeat = Instant::now() + HEARTBEAT;
    registry.round(Some("startup"));
    // Only now, because clients shall find the daemon as early as possible.
    shared.directory.sweep();
    let mut pause = PAUSE;
    while !shared.stopping.is_cancelled() {
        let beat = select! {
            recv(wake_ups.now) -> _ => false,
            // What is over sooner than that is never written down, and what changes often is written once.
            recv(wake_ups.soon) -> _ => {
                let _ = wake_ups.now.recv_timeout(pause);
                false
            }
            default(heartbeat.saturating_duration_since(Instant::now())) => true,
        };
        let begun = Instant::now();
        if beat {
            heartbeat = begun + HEARTBEAT;
        }
        let waiting = std::mem::take(&mut *shared.registry.waiting());
        registry.round(beat.then_some("heartbeat"));
        waiting.into_iter().for_each(|then| then());
        pause = PAUSE.max(begun.elapsed() * REST);
    }
    registry.remove_all();
    std::mem::take(&mut *shared.registry.waiting()).into_iter().for_each(|then| then());
}

/// What the `registry` thread knows of its files.
struct Registry<'a> {
    shared: &'a Shared,
    /// The session that `<pid>.json` stood for when it was written last, or 0 and how many there were.
    front: Option<(u64, usize)>,
    /// The sessions that have a row, by token.
    written: BTreeMap<u64, String>,
    /// The session whose row the last heartbeat wrote last.
    turn: u64,
    /// The last attempt to write failed.
    failed: bool,
}

impl Registry<'_> {
    /// Brings the files up to date. `all`: why rows are written that did not change.
    fn round(&mut self, all: Option<&'static str>) {
        let (routes, front) = {
            let table = self.shared.table();
            let front = table.only().map_or((0, table.named().count()), |route| (route.token, 1));
            (table.named().cloned().collect::<Vec<Arc<Route>>>(), front)
        };
        let gone: Vec<u64> = match routes.as_slice() {
            [] | [_] => self.written.keys().copied().collect(),
            _ => {
                let lives = |token: &u64| routes.binary_search_by_key(token, |route| route.token).is_ok();
                self.written.keys().filter(|token| !lives(token)).copied().collect()
            }
        };
        for token in gone {
            if let Some(id) = self.written.remove(&token) {
                remove(&self.shared.directory.session_row(&id));
            }
        }
        let identity = &self.shared.identity;
        let changed = (self.front != Some(front)).then_some("session_start");
        let path = self.shared.directory.daemon_row();
        match routes.as_slice() {
            [route] => {
                if let Some(reason) = route.stats.take_outdated().or(changed).or(all) {
                    self.write(
                        &path,
                        &identity.session(route, &identity.daemon_socket, route.stats.show_running(), reason),
                    );
                }
            }
            routes => {
                if let Some(reason) = all.or(changed) {
                    self.write(&path, &identity.daemon(routes.len(), reason));
                }
                let turn = if all.is_some() { next_turn(&self.written, self.turn) } else { Vec::new() };
                self.turn = turn.last().copied().unwrap_or(self.turn);
                for route in routes {
                    let fresh = (!self.written.contains_key(&route.token)).then_some("session_start");
                    let beat = turn.contains(&route.token).then_some("heartbeat");
                    if let Some(reason) = route.stats.take_outdated().or(fresh).or(beat) {
                        let path = self.shared.directory.session_row(&route.identity.id);
                        self.write(&path, &identity.own(route, route.stats.show_running(), reason));
                        self.written.insert(route.token, route.identity.id.to_string());
                    }
                }
            }
        }
        self.front = Some(front);
    }

    fn write(&mut self, path: &Path, row: &Row<'_>) {
        let text = serde_json::to_string_pretty(row).unwrap_or_default() + "\n";
        match private::replace(path, |file| file.write_all(text.as_bytes())) {
            Ok(()) => self.failed = false,
            Err(e) => {
                let why = format!("{}: {e}", path.display());
                // A full disk is told once, not four times a minute.
                if !std::mem::replace(&mut self.failed, true) {
                    log::warn!("side channel: {why}");
                }
                for link in self.shared.links(|_| true) {
                    link.report(&why, "writeRegistry");
                }
            }
        }
    }

    fn remove_all(&mut self) {
        for id in std::mem::take(&mut self.written).into_values() {
            remove(&self.shared.directory.session_row(&id));
        }
        remove(&self.shared.directory.daemon_row());
    }
}

/// The sessions whose rows a heartbeat writes, after the one that the last heartbeat ended with.
fn next_turn(written: &BTreeMap<u64, String>, last: u64) -> Vec<u64> {
    let behind = written.range((Excluded(last), Unbounded));
    behind.chain(written.range(..=last)).take(HEARTBEAT_ROWS).map(|(token, _)| *token).collect()
}

fn remove(path: &Path) {
    if let Err(e) = std::fs::remove_file(path)
        && e.kind() != std::io::ErrorKind::NotFound
    {
        log::debug!("{}: {e}", path.display());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::socket::routes::tests::route;
    use serde_json::json;

    #[test]
    fn heartbeats_come_round_to_every_session() {
        let rows = |tokens: &[u64]| -> BTreeMap<u64, String> { tokens.iter().map(|t| (*t, t.to_string())).collect() };
        for (tokens, last, expected) in [
            (&[][..], 0, &[][..]),
            (&[], 7, &[]),
            (&[3], 0, &[3]),
            (&[3], 3, &[3]),
            (&[1, 5, 9], 0, &[1, 5, 9]),
            (&[1, 5, 9], 5, &[9, 1, 5]),
            (&[1, 5, 9], 6, &[9, 1, 5]),
        ] {
            assert_eq!(next_turn(&rows(tokens), last), expected, "{tokens:?} after {last}");
        }
        let many: Vec<u64> = (1..=40).collect();
        let (mut last, mut seen) = (0, Vec::new());
        for _ in 0..3 {
            let turn = next_turn(&rows(&many), last);
            assert_eq!(turn.len(), HEARTBEAT_ROWS);
            last = turn[HEARTBEAT_ROWS - 1];
            seen.extend(turn);
        }
        assert!(many.iter().all(|token| seen.contains(token)), "three heartbeats reach 40 sessions");
    }

    #[test]
    fn the_front_stands_for_the_only_session_and_else_for_the_daemon() {
        let identity = Identity {
            pid: 7,
            hostname: "host".into(),
            root: "/b".into(),
            daemon_socket: "/b/pi-7.sock".into(),
            cwd: "/".into(),
            started_ms: 0,
        };
        let mut table = Table::default();
        let front = |table: &Table| json!(identity.front(table, "test"));
        let daemon = front(&table);
        assert_eq!(
            (&daemon["role"], &daemon["sessions"], &daemon["lastReason"]),
            (&json!("daemon"), &json!(0), &json!("test"))
        );
        assert_eq!(daemon["startedAt"], "1970-01-01T00:00:00.000Z");
        table.routes.insert(1, route(1, "run-1", false).0);
        assert_eq!(front(&table)["role"], "daemon", "a run is not what a client without a target means");
        table.routes.insert(2, route(2, "a", true).0);
        let session = front(&table);
        assert_eq!((&session["sessionId"], &session["sessionName"]), (&json!("a"), &json!("a")));
        assert_eq!((&session["socketPath"], session.get("role")), (&json!("/b/pi-7.sock"), None));
        for (key, value) in
            [("protocol", json!(PROTOCOL)), ("pid", json!(7)), ("bridgeDir", json!("/b")), ("isIdle", json!(true))]
        {
            assert_eq!(session[key], value, "{key}");
        }
        table.routes.insert(3, route(3, "b", true).0);
        assert_eq!(front(&table)["sessions"], 2);
    }
}
