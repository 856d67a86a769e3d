//! The daemon: the main thread, which owns the table of sessions.
//!
//! It takes requests from the intake, starts a thread per session, answers discovery for all of them, and ends them in
//! order when it is told to stop. It never waits for a session.

mod admission;
mod agents;
mod auditing;
mod children;
mod clients;
mod clones;
mod drain;
mod fleet;
mod handover;
mod notices;
mod operators;
mod peers;
mod reloading;
mod replacing;
mod requests;
mod sessions;
mod spill_root;
mod starting;

use crate::broker::Broker;
use crate::config::{BrokerPlan, Config};
use crate::contract::documents;
use crate::contract::identity::SessionIdentity;
use crate::contract::ids::InstanceId;
use crate::contract::prompt::{Command, EndReason};
use crate::contract::reply::Reply;
use crate::contract::request::Page;
use crate::contract::sender::AgentSender;
use crate::contract::session::SessionStats;
use crate::fleet::{Fleet, Found, Hosts, Memory};
use crate::governance::audit::Audit;
use crate::governance::budget::{Ledger, Spent};
use crate::model::Services;
use crate::nats::{Connection, ConnectionEvent, Message, Subscription};
use crate::quota::HostQuota;
use crate::service::agents::controller::Controller;
use crate::service::host::Host;
use crate::service::services::{IntakeService, SessionService};
use crate::service::session_subjects::Subscribed;
use crate::service::waiting_room::{Limits, WaitingRoom};
use crate::session::SessionOptions;
use crate::session::state_dir::StateDir;
use crate::slots::Slots;
use crate::socket::{ClientRequest, SocketServer};
use crate::supervisor::Supervisor;
use crate::sys;
use crate::threads::Thread;
use crate::tools::child;
use crate::traceparent::Traceparent;
use admission::Shares;
use crossbeam_channel::{Receiver, Sender, after, never, select};
use fleet::Arriving;
use handover::Notice;
use notices::Notifier;
use operators::{Asked, Operators};
use peers::Peers;
pub(crate) use reloading::Reread;
use reloading::{Reloaded, Reloading};
use replacing::Replacing;
use serde_json::Value;
use signal_hook::consts::{SIGHUP, SIGTERM};
use spill_root::SpillRoot;
use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Discovery requests that may wait for the main thread; the protocol has no answer for those that find no room.
const DISCOVERY_LIMITS: [Limits; 3] = [Limits { requests: 16 * 1024, bytes: 4 << 20 }; 3];
/// Requests that may wait for the main thread: those for work, and beside them those that end it.
const INTAKE_LIMITS: [Limits; 3] = [
    Limits { requests: 16 * 1024, bytes: 64 << 20 },
    Limits { requests: 16 * 1024, bytes: 16 << 20 },
    Limits { requests: 4 * 1024, bytes: 4 << 20 },
];
/// Sessions that may have ended without the main thread having taken note of it.
const ENDED_WAITING: usize = 1024;
/// Ended programs of tools that nobody waits for are taken note of this often.
const TICK: Duration = Duration::from_secs(1);
/// Time for sessions to end, once their grace period is over.
const END_TIMEOUT: Duration = Duration::from_secs(8);
/// A complaint of the server that goes on is told again after this time.
const TELL_AGAIN: Duration = Duration::from_secs(60);
/// How long leaving the intake to others waits for what the server still has for us.
const LAST_CALL: Duration = Duration::from_millis(500);
/// Causes of one outage that are told at most; a server may have its own words for each.
const MAX_OUTAGE_CAUSES: usize = 16;
/// A server that was found on the address has this long to come back before a broker of ours takes its place.
const STANDS_IN_AFTER: Duration = Duration::from_secs(3);
/// Time for the last output to reach the server.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Everything that can happen to the daemon.
enum Event {
    Signal(i32),
    Nats(ConnectionEvent),
    Request(Box<Message>),
    /// A message of another daemon of this owner.
    Peer(Box<Message>),
    Discovery(Box<Message>),
    Client(Box<ClientRequest>),
    /// A session is over, and why.
    Ended(InstanceId, &'static str),
    /// A session of a host that is gone is to be gone on with here.
    Found(Found),
    /// What the process says that takes over, or from which we do.
    Handover(Notice),
    /// What is asked over HTTP.
    Operator(Asked),
    /// The configuration was read again.
    Reloaded(Reloaded),
    /// Time for the agents' heartbeats.
    Heartbeat,
    /// The time is up for a phase of the shutdown, or for other daemons to answer.
    Deadline,
    /// Time to look after what programs left behind.
    Tick,
}

/// The main thread's side of a session.
struct Entry {
    identity: Arc<SessionIdentity>,
    stats: Arc<SessionStats>,
    /// Who takes turns with others for what it was created with.
    caller: String,
    commands: Sender<Command>,
    /// Absent for ephemeral runs, which are not discoverable.
    service: Option<Arc<SessionService>>,
    /// Those who wait for its end.
    stoppers: Vec<Stopped>,
    /// All of it is on disk, so that another process can go on with it.
    movable: bool,
    thread: Thread,
}

/// Takes `{ok, sessionId}` when a session that was to be stopped is over.
type Stopped = Box<dyn FnOnce(Value) + Send>;

impl Entry {
    fn stop(&mut self, stopped: Stopped) {
        self.stoppers.push(stopped);
        self.end(EndReason::Stopped);
    }

    /// Tells the session to end. If its clients have filled its inbox, the next tick tells it again.
    fn end(&self, reason: EndReason) {
        let _ = self.commands.try_send(Command::End(reason));
    }
}

/// Who asks for a session.
struct Caller<'a> {
    /// Where the answer to the first prompt goes; made when nothing can be refused any more.
    reply: &'a dyn Fn() -> Arc<dyn Reply>,
    sender: Option<AgentSender>,
    /// The caller's place in a trace.
    trace: Option<Traceparent>,
    received: Instant,
}

/// How far a shutdown has come.
enum Phase {
    Serving,
    /// Another process takes over, and sessions leave one after the other. What has not left at the end is forced to.
    Handing {
        end: Instant,
        forced: bool,
    },
    /// Running prompts may finish until the deadline.
    Draining(Instant),
    /// All sessions were told to end; what is left at the deadline is left behind.
    Ending(Instant),
}

struct Daemon {
    config: Config,
    session_options: Arc<SessionOptions>,
    services: Arc<Services>,
    connection: Connection,
    /// What the sessions share on it.
    host: Arc<Host>,
    /// By instance id, so that a session that ends cannot be taken for its successor of the same name.
    sessions: BTreeMap<InstanceId, Entry>,
    intake: IntakeService,
    controller: Controller,
    peers: Peers,
    /// There while the owner's hosts are one service.
    fleet: Option<Arc<Fleet>>,
    _memory: Option<Memory>,
    hosts: Option<Hosts>,
    /// Sessions that other hosts are about to give to this one.
    arriving: BTreeMap<String, Arriving>,
    /// Sessions to go on with here once what has their name here has ended.
    found_early: BTreeMap<String, Found>,
    /// Sessions that only their host can go on with, which is down.
    waits_for_host: BTreeMap<String, Subscribed>,
    spill_root: SpillRoot,
    quota: Arc<HostQuota>,
    /// Leave to work on prompts.
    slots: Arc<Slots>,
    /// Who gets the next place for a session or a run.
    shares: Shares,
    ledger: Arc<Ledger>,
    audit: Option<Arc<Audit>>,
    /// What is remembered over a restart; absent where that is not possible.
    state: Option<Arc<StateDir>>,
    signals: Receiver<i32>,
    connection_events: Receiver<ConnectionEvent>,
    intake_room: Arc<WaitingRoom>,
    intake_requests: Receiver<Box<Message>>,
    discovery_room: Arc<WaitingRoom>,
    discovery_requests: Receiver<Box<Message>>,
    ticks: Receiver<Instant>,
    supervisor: Supervisor,
    heartbeats: Receiver<Instant>,
    /// Where clients can talk to sessions on this machine, unless there is no such place.
    bridge: Option<SocketServer>,
    /// What tells the operator's command of settled prompts, if there is one.
    notifier: Option<Notifier>,
    /// What is served over HTTP.
    operators: Operators,
    client_requests: Receiver<ClientRequest>,
    ended: Receiver<(InstanceId, &'static str)>,
    ended_sender: Sender<(InstanceId, &'static str)>,
    /// Why there is no connection. Of one outage each cause is one line in the log.
    outage_causes: HashSet<String>,
    /// When connecting failed first since there was a connection.
    outage_since: Option<Instant>,
    /// What the server complained of, and when that was told.
    server_errors: BTreeMap<String, Instant>,
    registered: bool,
    replacing: Replacing,
    reloading: Reloading,
    /// Why the process ends before its time.
    failure: Option<String>,
    phase: Phase,
    /// Sessions so far.
    started: u64,
    /// Sessions and prompts so far when free memory was given back last.
    released_after: (u64, u64),
    /// The intake and the controller, while requests are taken.
    intake_subscriptions: Vec<Subscription>,
    _discovery_subscriptions: Vec<Subscription>,
    /// How to serve a broker in place of the server that was found on the address, should that go away.
    standby: Option<BrokerPlan>,
    /// The last to go, because the connection says good-bye to it.
    broker: Option<Broker>,
}

/// Why the daemon could not begin.
pub(crate) enum Fatal {
    /// Another daemon serves these sessions.
    Taken(String),
    /// What it needs of others is not there, and will not come by itself.
    Unusable(String),
    Failed(String),
    /// It was told to end before.
    Stopped,
}

impl Fatal {
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            // EX_CANTCREAT of sysexits.h: supervisors shall not try again at once.
            Fatal::Taken(_) => 73,
            // EX_CONFIG.
            Fatal::Unusable(_) => 78,
            Fatal::Failed(_) => 1,
            Fatal::Stopped => 0,
        }
    }
}

impl fmt::Display for Fatal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fatal::Taken(text) | Fatal::Unusable(text) | Fatal::Failed(text) => f.write_str(text),
            Fatal::Stopped => f.write_str("stopped before it had begun"),
        }
    }
}

impl From<String> for Fatal {
    fn from(text: String) -> Fatal {
        Fatal::Failed(text)
    }
}

/// Serves until told to stop by a signal.
///
/// # Errors
/// A text that says why it could not begin.
pub(crate) fn serve(config: Config, reread: Reread, signals: Receiver<i32>, replaces: bool) -> Result<(), Fatal> {
    let mut daemon = Daemon::start(config, reread, signals, replaces)?;
    daemon.tell_status();
    while daemon.handle_next().is_continue() {}
    let failure = daemon.failure.take();
    daemon.close();
    failure.map_or(Ok(()), |why| Err(Fatal::Failed(why)))
}

impl Daemon {
    fn handle_next(&mut self) -> ControlFlow<()> {
        let event = self.next_event();
        self.handle_event(event);
        self.end_if_handed_over();
        let ends = !matches!(self.phase, Phase::Serving) && self.sessions.is_empty();
        if ends { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    fn next_event(&self) -> Event {
        let shutdown = match self.phase {
            Phase::Serving => None,
            Phase::Handing { end, .. } | Phase::Draining(end) | Phase::Ending(end) => Some(end),
        };
        let deadline = shutdown.into_iter().chain(self.peers.deadline()).min();
        let deadline = deadline.map_or_else(never, |end| after(end.saturating_duration_since(Instant::now())));
        let found = self.hosts.as_ref().map_or_else(never, |hosts| hosts.found().clone());
        let ready = self.peers.is_ready() && !self.replacing.waits;
        let requests = if ready { self.intake_requests.clone() } else { never() };
        select! {
            recv(self.signals) -> signal => signal.map_or(Event::Deadline, Event::Signal),
            recv(self.ended) -> ended => ended.map_or(Event::Deadline, |(id, reason)| Event::Ended(id, reason)),
            recv(self.connection_events) -> event => Event::Nats(event.unwrap_or(ConnectionEvent::Closed)),
            recv(requests) -> message => message.map_or(Event::Deadline, Event::Request),
            recv(self.peers.messages()) -> message => message.map_or(Event::Deadline, Event::Peer),
            recv(self.discovery_requests) -> message => message.map_or(Event::Deadline, Event::Discovery),
            recv(self.client_requests) -> request => request.map_or(Event::Deadline, |r| Event::Client(Box::new(r))),
            recv(deadline) -> _ => Event::Deadline,
            recv(found) -> found => found.map_or(Event::Deadline, Event::Found),
            recv(self.ticks) -> _ => Event::Tick,
            recv(self.replacing.notices) -> notice => notice.map_or(Event::Deadline, Event::Handover),
            recv(self.operators.requests) -> asked => asked.map_or(Event::Deadline, Event::Operator),
            recv(self.reloading.results) -> read => read.map_or(Event::Deadline, Event::Reloaded),
            recv(self.heartbeats) -> _ => Event::Heartbeat,
        }
    }

    fn handle_event(&mut self, event: Event) {
        match event {
            Event::Signal(SIGHUP) => self.reload(),
            Event::Signal(signal) => {
                log::info!("received {}", if signal == SIGTERM { "SIGTERM" } else { "SIGINT" });
                self.advance_shutdown();
            }
            Event::Nats(event) => self.connection_event(event),
            Event::Request(message) => {
                self.intake_room.taken(&message);
                self.request(*message);
            }
            Event::Peer(message) => self.peer(*message),
            Event::Discovery(message) => {
                self.discovery_room.taken(&message);
                self.discovery(&message);
            }
            Event::Client(request) => self.client(*request),
            Event::Ended(instance_id, reason) => self.forget(&instance_id, reason),
            Event::Found(found) => self.found(found),
            Event::Handover(notice) => self.notice(notice),
            Event::Operator(asked) => self.tell_operator(&asked),
            Event::Reloaded(read) => self.reloaded(read),
            Event::Tick => {
                child::reap_orphans();
                self.listen_for_operators();
                self.host.tick(Instant::now());
                self.supervisor.alive();
                self.tell_status();
                self.remind();
                self.give_up_arriving();
                self.release_memory();
            }
            Event::Heartbeat => {
                self.peers.announce();
                self.note_company();
                self.share_intake();
                self.heartbeats();
            }
            Event::Deadline => {
                self.advance_peers();
                if let Phase::Handing { end, .. } | Phase::Draining(end) | Phase::Ending(end) = self.phase
                    && end <= Instant::now()
                {
                    self.advance_shutdown();
                }
            }
        }
    }

    /// What all sessions may spend today and what they have spent, if that is limited.
    fn day_figures(&self) -> Option<Value> {
        let budgets = self.config.budgets.of_day();
        (!budgets.is_empty()).then(|| budgets.figures(&Spent::default().on_day(self.ledger.spent_today())))
    }

    /// Gives back what prompts needed for a while, once all is quiet: half of a session's memory, measured.
    fn release_memory(&mut self) {
        let prompts = self.sessions.values().map(|entry| entry.stats.prompts()).sum::<u64>();
        let work = (self.started, prompts);
        let quiet = self.sessions.values().all(|entry| !entry.stats.running());
        if quiet && work != self.released_after {
            sys::release_free_memory();
            self.released_after = work;
        }
    }

    fn connection_event(&mut self, event: ConnectionEvent) {
        match event {
            ConnectionEvent::Connected { server, .. } => {
                self.outage_causes.clear();
                self.outage_since = None;
                if self.registered {
                    log::info!("reconnected to {server}");
                } else {
                    log::info!("connected");
                }
                self.peers.connected();
                self.heartbeats();
            }
            // Only now: who reads it and sends a request at once is heard.
            ConnectionEvent::Subscribed if self.registered => {}
            ConnectionEvent::Subscribed => {
                self.registered = true;
                log::info!("intake registered on {}", self.intake.subject);
            }
            ConnectionEvent::Disconnected { reason } => log::warn!("disconnected: {reason}"),
            ConnectionEvent::ConnectFailed { server, error } => {
                self.stand_in();
                let cause = format!("no connection to {server}: {error}");
                if self.outage_causes.len() < MAX_OUTAGE_CAUSES && self.outage_causes.insert(cause.clone()) {
                    log::warn!("{cause}; trying again until there is one");
                } else {
                    log::debug!("{cause}");
                }
            }
            ConnectionEvent::ServerError(text) => self.server_error(&text),
            ConnectionEvent::SlowConsumer { subject, refused } => {
                log::warn!("{refused} messages to {subject} were refused: too many at a time");
            }
            ConnectionEvent::LameDuck => log::info!("the NATS server is about to shut down"),
            ConnectionEvent::Closed => log::debug!("connection closed"),
        }
    }

    /// Serves a broker where the server that was found on the address is gone. Of several daemons that try it, the one that
    /// gets the address does.
    fn stand_in(&mut self) {
        let Some(plan) = &self.standby else { return };
        let since = *self.outage_since.get_or_insert_with(Instant::now);
        if since.elapsed() < STANDS_IN_AFTER || !matches!(self.phase, Phase::Serving) {
            return;
        }
        match starting::start_broker(plan) {
            Ok(None) => {}
            Ok(started) => {
                self.broker = started;
                self.standby = None;
            }
            Err(why) => log::debug!("{why}"),
        }
    }

    /// What a server refuses it refuses again with every heartbeat of every session, so each cause is told once a minute.
    fn server_error(&mut self, text: &str) {
        let now = Instant::now();
        // The subject comes in quotation marks behind the cause.
        let cause = text.split('"').next().unwrap_or_default().to_string();
        self.server_errors.retain(|_, told| now.saturating_duration_since(*told) < TELL_AGAIN);
        let mut level = log::Level::Debug;
        self.server_errors.entry(cause).or_insert_with(|| {
            level = log::Level::Warn;
            now
        });
        log::log!(level, "the NATS server says: {text}");
    }

    /// A page of `list`, of at most so many bytes.
    fn listing(&self, page: &Page, bytes: usize) -> Value {
        let now = Instant::now();
        let row = |entry: &Entry| (entry.identity.named, documents::summary(&entry.identity, &entry.stats, now));
        documents::listing(self.entries_of(page).map(row), page.limit, bytes)
    }

    /// The sessions and runs that a page of `list` may begin with, in its order.
    fn entries_of(&self, page: &Page) -> impl Iterator<Item = &Entry> {
        // A run whose caller has heard the end is gone, though its thread may not have put everything away yet.
        let is_over = |entry: &Entry| {
            let stats = &entry.stats;
            !entry.identity.named && stats.prompts() > 0 && stats.queued() == 0 && !stats.running()
        };
        let there = |entry: &&Entry| page.reaches(&entry.identity.id) && !is_over(entry);
        let mut entries: Vec<&Entry> = self.sessions.values().filter(there).collect();
        entries.sort_by(|one, other| one.identity.id.cmp(&other.identity.id));
        entries.into_iter()
    }

    /// The session of that id, named or an ephemeral run; ids of runs are never those of named sessions that live.
    fn by_id(&mut self, session_id: &str) -> Option<&mut Entry> {
        self.sessions.values_mut().find(|entry| *entry.identity.id == *session_id)
    }

    fn named(&mut self, session_id: &str) -> Option<&mut Entry> {
        self.sessions.values_mut().find(|entry| entry.identity.named && *entry.identity.id == *session_id)
    }

    /// Serving -> draining -> ending -> leaving behind; by a signal, or because a phase took too long.
    fn advance_shutdown(&mut self) {
        let now = Instant::now();
        match self.phase {
            Phase::Serving => {
                self.supervisor.stopping();
                log::info!("shutting down ({} sessions)", self.sessions.len());
                // Peers takes over what comes from now on.
                if self.peers.leave() {
                    self.intake_subscriptions.drain(..).for_each(|subscription| {
                        subscription.drain(LAST_CALL);
                    });
                }
                self.phase = Phase::Draining(now + self.config.grace);
                // First, since one that is idle ends at the second word.
                self.send_all_elsewhere();
                self.tell_all(|| Command::Drain);
            }
            Phase::Draining(_) => {
                self.phase = Phase::Ending(now + END_TIMEOUT);
                self.force_end();
            }
            Phase::Handing { forced: false, .. } => self.force_handing(),
            Phase::Handing { end, .. } | Phase::Ending(end) if end <= now => {
                for (_, entry) in std::mem::take(&mut self.sessions) {
                    log::warn!("session {} does not end and is left behind", entry.identity.id);
                    entry.thread.abandon();
                }
            }
            Phase::Handing { .. } | Phase::Ending(_) => {}
        }
    }

    /// Says in one line for `systemctl status` what goes on.
    fn tell_status(&mut self) {
        let (connection, sessions, slots) = (&self.connection, &self.sessions, &self.slots);
        self.supervisor.status(|| {
            let nats = if connection.is_connected() { "connected" } else { "no NATS server" };
            let running = sessions.values().filter(|entry| entry.stats.running()).count();
            let draining = if slots.is_paused() { ", draining" } else { "" };
            format!("{nats}, {} sessions, {running} running{draining}", sessions.len())
        });
    }

    fn tell_all(&self, command: impl Fn() -> Command) {
        for entry in self.sessions.values() {
            let _ = entry.commands.try_send(command());
        }
    }

    /// Says again what must not get lost where clients had filled a session's inbox.
    fn remind(&self) {
        match self.phase {
            Phase::Serving => {
                let stopping = self.sessions.values().filter(|entry| !entry.stoppers.is_empty());
                stopping.for_each(|entry| entry.end(EndReason::Stopped));
                self.send_all_elsewhere();
            }
            Phase::Handing { .. } => self.remind_of_handing(),
            Phase::Draining(_) => {
                self.send_all_elsewhere();
                self.tell_all(|| Command::Drain);
            }
            Phase::Ending(_) => self.force_end(),
        }
    }

    fn close(mut self) {
        drop(self.hosts.take());
        self.peers.leave();
        drop(self.bridge.take());
        self.notifier.take().into_iter().for_each(Notifier::close);
        if let Some(audit) = &self.audit {
            auditing::end(audit);
        }
        self.ledger.shared_day().into_iter().for_each(|day| day.end());
        self.connection.close(CLOSE_TIMEOUT);
        self.host.senders.hand_over();
        self.say_done();
        log::info!("stopped");
    }
}
