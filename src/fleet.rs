//! Many hosts as one service: the log of each session in JetStream, which decides who may act, and the cards of the hosts.
//!
//! What a session file gets goes to the log of the session as well, each record behind the last one that this host knows
//! of. The server refuses a record behind another one, so that of two hosts that take themselves for the owner one finds
//! out before it acts. What waits for a record to be stored is the session's business; here nothing is known of sessions
//! but their ids, their files and a document that a host needs to go on with them.
//!
//! | file | what |
//! |---|---|
//! | `record.rs` | what is stored: records, and what a session's records say together; no I/O |
//! | `session_log.rs` | the thread that stores what one session writes; in its folder: how the log is read and kept short |
//! | `inbox.rs` | prompts that wait for the next owner of a session that has none |
//! | `hosts.rs` | the thread that keeps this host's card and looks for sessions of hosts that are gone |
//! | `moving.rs` | how a session goes to another host while its own one lives |
//! | `examination.rs` | what a host needs of the server, looked at without changing anything |
//! | `memory.rs` | what all hosts remember for a while |
//! | `day.rs` | what all hosts spend on a day |
//! | `rank.rs` | which host goes on with a session |

mod day;
mod examination;
mod hosts;
mod inbox;
mod memory;
mod moving;
mod rank;
mod record;
mod session_log;

use crate::ids;
use crate::nats::Connection;
use crate::nats::jetstream::{API_LEVEL, Discard, JetStream, JetStreamError, StreamConfig};
use crate::sync::lock;
use crossbeam_channel::Sender;
pub(crate) use examination::{Examination, Unfit, examine, harmless_messages, subscriptions};
pub(crate) use hosts::{Found, Hosts, Install};
pub(crate) use inbox::{InboxError, InboxPrompt};
pub(crate) use memory::Memory;
use record::{Head, Kind};
pub(crate) use session_log::{Claim, Lease, SessionLog, Told};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

/// The streams: what sessions write, the cards of the hosts, and what all hosts remember for a while.
const LOGS: &str = "AGL";
const CARDS: &str = "KV_AGH";
const MEMORY: &str = "AGM";
/// How long a marker says that a host's card has expired.
const MARKER_TTL: Duration = Duration::from_secs(60);
/// Room for what a message has beside what it carries: its headers, and the head of a record, bytes.
const HEAD_ROOM: usize = 2048;
/// The sequence of no message, as whole numbers go in JSON: what is published behind it is refused.
const NOWHERE: u64 = (1 << 53) - 1;
/// How long one request of those that are asked again may take.
const ASK_TIME: Duration = Duration::from_secs(2);
/// How long a server that has just begun may take to listen to requests to JetStream.
const LISTENS_WITHIN: Duration = Duration::from_secs(2);
/// How long a session that cannot be gone on with here is left to others before it is tried again.
const PASSED_FOR: Duration = Duration::from_secs(60);
/// How long the streams may take to be there when a daemon starts: servers that have just begun elect who leads first.
const STREAMS_WITHIN: Duration = Duration::from_secs(20);

/// How a host takes part.
#[derive(Clone, Debug)]
pub(crate) struct FleetOptions {
    /// One subject token.
    pub owner: String,
    /// What this host is called among those of its owner; one subject token.
    pub host: String,
    pub replicas: usize,
    /// How long after its last sign of life a host's card is gone, in whole seconds.
    pub card_ttl: Duration,
}

impl FleetOptions {
    /// What a session writes.
    fn log_subject(&self, session: &str) -> String {
        format!("ag.log.{}.{session}", self.owner)
    }

    /// Prompts for a session that has no owner.
    fn inbox_subject(&self, session: &str) -> String {
        format!("ag.in.{}.{session}", self.owner)
    }

    /// Where a host's card is.
    fn card_subject(&self, host: &str) -> String {
        format!("$KV.AGH.{}.{host}", self.owner)
    }

    /// Where a host says that it is there.
    fn here_subject(&self, host: &str) -> String {
        format!("agents.peer.pi-exec.{}.{host}", self.owner)
    }

    /// Where hosts tell what they remember; `token` stands for what it is.
    fn memory_subject(&self, token: &str) -> String {
        format!("ag.mem.{}.{token}", self.owner)
    }

    /// Where it is kept what is spent on a day.
    fn day_subject(&self, day: &str) -> String {
        format!("ag.mem.{}.day.{day}", self.owner)
    }
}

/// The log of one of this host's sessions.
struct WatchedLog {
    session: String,
    shared: Weak<session_log::Shared>,
    wake: Sender<()>,
}

/// This host's part in the fleet.
pub(crate) struct Fleet {
    connection: Connection,
    jetstream: JetStream,
    options: FleetOptions,
    /// Identifies this process among those that the host ever had.
    boot: String,
    /// The logs of this host's sessions.
    logs: Mutex<Vec<WatchedLog>>,
    /// Sessions that cannot be gone on with here, and since when that is known.
    passed: Mutex<BTreeMap<String, Instant>>,
    /// When the others last had a sign of life of this host, in milliseconds after `begun`.
    seen: AtomicU64,
    begun: Instant,
}

impl Fleet {
    /// Looks whether the server can do it, and makes the streams where they are not there. Only a process that `replaces`
    /// another one may have the name of a host that is there.
    ///
    /// # Errors
    /// A text that says what is missing.
    pub(crate) fn open(connection: &Connection, options: FleetOptions, replaces: bool) -> Result<Arc<Fleet>, String> {
        let jetstream = JetStream::new(connection.clone());
        let deadline = Instant::now() + STREAMS_WITHIN;
        let begun = Instant::now();
        // Servers that elect who leads are silent; where nobody listens nobody will.
        let may_pass = |e: &JetStreamError| e.may_pass() && !(e.is_absent() && begun.elapsed() >= LISTENS_WITHIN);
        let account = asked(deadline, may_pass, || jetstream.account(ASK_TIME)).map_err(|e| match e {
            e if e.is_absent() || e.is_not_enabled() => format!("the NATS server has no JetStream for this user: {e}"),
            e => format!("the NATS server does not say what JetStream it has: {e}"),
        })?;
        if account.api_level() < API_LEVEL {
            let level = account.api_level();
            return Err(format!("its JetStream has API level {level}, and {API_LEVEL} is needed (nats-server 2.11)"));
        }
        for stream in streams(options.replicas) {
            // One that is there and was made by somebody in another way is used as it is.
            let made = asked(deadline, JetStreamError::may_pass, || match jetstream.stream(&stream.name, ASK_TIME) {
                Err(e) if e.is_not_found() => jetstream.create_stream(&stream, ASK_TIME),
                there => there,
            });
            made.map_err(|e| format!("stream {}: {e}; nats-pi-bridge doctor says what is missing", stream.name))?;
        }
        let fleet = Fleet {
            connection: connection.clone(),
            jetstream,
            options,
            boot: ids::nuid(),
            logs: Mutex::default(),
            passed: Mutex::default(),
            seen: AtomicU64::new(0),
            begun,
        };
        if !replaces && fleet.is_there(fleet.host()).map_err(|e| e.to_string())? {
            return Err(format!("another host is called {}; name this one with fleetHost", fleet.host()));
        }
        Ok(Arc::new(fleet))
    }

    /// What this host is called.
    pub(crate) fn host(&self) -> &str {
        &self.options.host
    }

    /// The others had a sign of life of this host.
    fn is_seen(&self, at: Instant) {
        let millis = at.saturating_duration_since(self.begun).as_millis();
        self.seen.store(u64::try_from(millis).unwrap_or(u64::MAX), Ordering::Release);
    }

    /// No other host takes this one for gone. After a while without a sign of life, such as one in which this process was
    /// stopped, what it takes for its own may be another's.
    fn is_current(&self) -> bool {
        let seen = self.seen.load(Ordering::Acquire);
        // A process that takes over from another one of this host shows no card before it has everything.
        seen == 0 || self.begun.elapsed() < Duration::from_millis(seen) + self.options.card_ttl
    }

    /// A session cannot be gone on with here, and other hosts may have it.
    fn pass(&self, session: &str) {
        lock(&self.passed).insert(session.to_owned(), Instant::now());
    }

    /// Whether that was found out a short time ago, after which it is tried again.
    fn has_passed(&self, session: &str) -> bool {
        let mut passed = lock(&self.passed);
        passed.retain(|_, since| since.elapsed() < PASSED_FOR);
        passed.contains_key(session)
    }

    fn watch(&self, session: &str, shared: &Arc<session_log::Shared>, wake: &Sender<()>) {
        let mut logs = lock(&self.logs);
        logs.retain(|log| log.shared.strong_count() > 0);
        logs.push(WatchedLog { session: session.to_owned(), shared: Arc::downgrade(shared), wake: wake.clone() });
    }

    /// Has all sessions find out whether they are still this host's: it was away for longer than others wait.
    fn verify(&self) {
        for log in lock(&self.logs).iter() {
            log.shared.upgrade().iter().for_each(|shared| shared.verify());
            let _ = log.wake.try_send(());
        }
    }

    /// Has a session of this host look into its inbox. False if it is none of this host's.
    fn look_into_inbox(&self, session: &str) -> bool {
        let logs = lock(&self.logs);
        let log = logs.iter().find(|log| log.session == session && log.shared.strong_count() > 0);
        if let Some(log) = log {
            log.shared.upgrade().iter().for_each(|shared| shared.look());
            let _ = log.wake.try_send(());
        }
        log.is_some()
    }

    /// Removes what is stored of a session of this host that ended while that could not be said; `last` is its last record.
    fn clear(&self, session: &str, last: u64) -> Result<(), JetStreamError> {
        if lock(&self.logs).iter().any(|log| log.session == session && log.shared.strong_count() > 0) {
            return Ok(());
        }
        log::info!("session {session} ended, and its log is removed");
        session_log::end(self, session, last, 0)
    }

    /// What a record of this host begins with.
    fn head(&self, kind: Kind) -> Head {
        let (host, boot) = (self.options.host.clone(), self.boot.clone());
        Head { kind, host, boot, shared: false, offset: 0, more: false, after: 0, logged: 0 }
    }
}

/// The streams, as they are made where they are not there.
fn streams(replicas: usize) -> [StreamConfig; 3] {
    let logs = StreamConfig::new(LOGS, &["ag.log.>", "ag.in.>"]);
    let logs = StreamConfig { num_replicas: replicas, discard: Discard::New, ..logs };
    let cards = StreamConfig {
        num_replicas: replicas,
        max_msgs_per_subject: 1,
        allow_msg_ttl: true,
        subject_delete_marker_ttl: MARKER_TTL,
        ..StreamConfig::new(CARDS, &["$KV.AGH.>"])
    };
    let memory = StreamConfig {
        num_replicas: replicas,
        max_msgs_per_subject: 1,
        allow_msg_ttl: true,
        ..StreamConfig::new(MEMORY, &["ag.mem.>"])
    };
    [logs, cards, memory]
}

/// Asks again while that may help and there is time.
fn asked<T>(
    deadline: Instant,
    may_pass: impl Fn(&JetStreamError) -> bool,
    ask: impl Fn() -> Result<T, JetStreamError>,
) -> Result<T, JetStreamError> {
    loop {
        match ask() {
            Err(e) if may_pass(&e) && Instant::now() < deadline => std::thread::sleep(Duration::from_millis(50)),
            done => return done,
        }
    }
}
