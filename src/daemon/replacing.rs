//! How the main thread lets another process take over (`--replace`), and how it takes over itself. See `handover.rs` for what the
//! two say.

use super::handover::predecessor::{Hearing, Predecessor};
use super::handover::successor::{Door, Successor, open_door};
use super::handover::{Notice, Said};
use super::requests::Work;
use super::{Daemon, Entry, Fatal, LAST_CALL, Phase, starting};
use crate::broker::Broker;
use crate::config::Config;
use crate::contract::ids::SessionId;
use crate::contract::prompt::{Command, EndReason};
use crate::contract::request::Request;
use crate::fleet::Claim;
use crate::nats::ConnectionEvent;
use crate::service::session_subjects::Subscribed;
use crate::session::state_dir::{OpenError, StateDir};
use crossbeam_channel::{Receiver, Sender, bounded, never};
use std::collections::BTreeMap;
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What the other process says may wait for the main thread; the thread that hears it waits if there is more.
const WAITING: usize = 1024;
/// How long a new process may take to reach its NATS server, before anything changes.
const CONNECTS_WITHIN: Duration = Duration::from_secs(10);

/// Who takes over from whom.
pub(super) struct Replacing {
    pub notices: Receiver<Notice>,
    sender: Sender<Notice>,
    /// There while nobody else has the sessions.
    door: Option<Door>,
    successor: Option<Arc<Successor>>,
    predecessor: Option<Hearing>,
    /// No request can be taken yet, as the predecessor has not said which it took.
    pub waits: bool,
    /// What comes for sessions that are about to come.
    coming: BTreeMap<SessionId, Subscribed>,
    /// Requests about them.
    held: Vec<Work>,
}

impl Replacing {
    pub(super) fn new() -> Replacing {
        let (sender, notices) = bounded(WAITING);
        Replacing {
            notices,
            sender,
            door: None,
            successor: None,
            predecessor: None,
            waits: false,
            coming: BTreeMap::new(),
            held: Vec::new(),
        }
    }
}

/// The folder of the sessions, or the process that has it.
///
/// # Errors
/// It cannot be asked.
pub(super) fn find(config: &Config) -> Result<(Option<Arc<StateDir>>, Option<Predecessor>), Fatal> {
    let folder = config.state_dir.display();
    match StateDir::open(&config.state_dir) {
        Ok(state) => {
            log::info!("there is no process to replace");
            Ok((Some(Arc::new(state)), None))
        }
        Err(OpenError::Taken(pid)) => match Predecessor::find(&config.state_dir) {
            Ok(predecessor) => Ok((None, Some(predecessor))),
            Err(e) => {
                Err(Fatal::Taken(format!("process {pid}, which serves the sessions in {folder}, cannot be asked: {e}")))
            }
        },
        Err(OpenError::Io(e)) => Err(Fatal::Failed(format!("{folder}: {e}"))),
    }
}

/// Waits for the first connection, without which nobody must take over.
///
/// # Errors
/// There is none in time, and why.
pub(super) fn wait_connected(events: &Receiver<ConnectionEvent>) -> Result<ConnectionEvent, Fatal> {
    let without = "so that nothing begins and nothing is taken over";
    starting::wait_connected(events, &never(), CONNECTS_WITHIN, without, |_| ())
}

impl Daemon {
    /// Begins alone with all sessions, or hears the process that has them.
    ///
    /// # Errors
    /// Those of the system.
    pub(super) fn begin_serving(&mut self, predecessor: Option<Predecessor>) -> Result<(), Fatal> {
        let Some(predecessor) = predecessor else {
            self.serve_alone();
            return Ok(());
        };
        let hearing = predecessor.hear(&self.connection, &self.replacing.sender);
        self.replacing.predecessor = Some(hearing.map_err(|e| e.to_string())?);
        self.replacing.waits = true;
        Ok(())
    }

    fn serve_alone(&mut self) {
        self.restore_sessions();
        if let Some(state) = &self.state {
            match open_door(state.folder(), &self.connection, &self.replacing.sender) {
                Ok(door) => self.replacing.door = Some(door),
                Err(e) => log::warn!("no other process can take over from this one: {e}"),
            }
        }
        self.join_fleet();
        self.supervisor.ready();
    }

    /// New work is taken, here or by the other process.
    pub(super) fn takes_work(&self) -> bool {
        matches!(self.phase, Phase::Serving | Phase::Handing { .. })
    }

    pub(super) fn notice(&mut self, notice: Notice) {
        match notice {
            Notice::Asked(successor) => self.asked_to_hand_over(successor),
            Notice::Ready => self.hand_over(),
            Notice::Stuck => self.call_off(),
            Notice::Go => {
                self.replacing.waits = false;
                self.state.iter().for_each(|state| self.host.senders.keep_in(state.nonces()));
            }
            Notice::Prepare(id, answer) => {
                let prepared =
                    self.prepare(&id).inspect_err(|why| log::warn!("session {id} cannot be taken over: {why}"));
                let _ = answer.try_send(prepared.is_ok());
            }
            Notice::Take(id) => {
                let subscribed = self.replacing.coming.remove(&id);
                if let Some(saved) = self.state.as_ref().and_then(|state| state.session(&id)) {
                    self.restore_or_warn(saved, subscribed, Claim::Ours);
                }
                self.release_held();
            }
            Notice::Dropped(id) => {
                self.replacing.coming.remove(&id);
                self.release_held();
            }
            Notice::Done(listener) => self.taken_over(listener),
            Notice::Gone if self.replacing.predecessor.is_some() => self.taken_over(None),
            Notice::Gone => self.take_back(),
            Notice::Off => {
                self.failure = Some("the process that was to be replaced goes on with the sessions".into());
                self.tell_all(|| Command::End(EndReason::ShutDown));
                self.phase = Phase::Ending(Instant::now() + super::END_TIMEOUT);
            }
        }
    }

    // In the process that is replaced.

    fn asked_to_hand_over(&mut self, successor: Arc<Successor>) {
        let why = match &self.state {
            _ if !matches!(self.phase, Phase::Serving) => Some("this process is ending".to_owned()),
            _ if successor.owner != self.config.owner => Some(format!("it serves the owner {:?}", self.config.owner)),
            Some(_) => None,
            None => Some("it keeps no sessions".to_owned()),
        };
        let said = match (why, &self.state) {
            (None, Some(state)) => successor.writer.say(&Said::Agreed, Some(state.lock())),
            (why, _) => {
                let refused = successor.writer.say(&Said::Refused { why: why.unwrap_or_default() }, None);
                successor.writer.close();
                return drop(refused);
            }
        };
        match said {
            Ok(()) => self.replacing.successor = Some(successor),
            Err(e) => log::warn!("process {} wanted to take over and is gone: {e}", successor.pid),
        }
    }

    /// The new process takes requests, so that this one leaves them to it, and then the sessions, each between two steps.
    fn hand_over(&mut self) {
        let Some(successor) = self.replacing.successor.clone().filter(|_| matches!(self.phase, Phase::Serving)) else {
            return;
        };
        log::info!("process {} takes over ({} sessions)", successor.pid, self.sessions.len());
        self.host.senders.lend();
        for subscription in self.intake_subscriptions.drain(..) {
            subscription.drain(LAST_CALL);
        }
        let _ = successor.writer.say(&Said::Go, None);
        self.phase = Phase::Handing { end: Instant::now() + self.config.grace, forced: false };
        self.sessions.values().for_each(|entry| self.hand_over_session(entry));
    }

    /// Tells a session to leave, if it can. To be called for each that begins while others leave.
    pub(super) fn hand_over_session(&self, entry: &Entry) {
        if let (Phase::Handing { .. }, Some(successor), true) = (&self.phase, &self.replacing.successor, entry.movable)
        {
            let _ = entry.commands.try_send(Command::HandOver(successor.clone()));
        }
    }

    /// A session is over here.
    pub(super) fn session_left(&self, session: &SessionId, reason: &str) {
        if let (Phase::Handing { .. }, Some(successor)) = (&self.phase, &self.replacing.successor) {
            let session = session.clone();
            let left = reason == EndReason::Replaced.as_str();
            let said = if left { Said::Take { session } } else { Said::Dropped { session } };
            let _ = successor.writer.say(&said, None);
        }
    }

    /// When all that can leave has left, the rest ends as with a signal.
    pub(super) fn end_if_handed_over(&mut self) {
        if let Phase::Handing { end, .. } = self.phase
            && !self.sessions.is_empty()
            && !self.sessions.values().any(|entry| entry.movable)
        {
            self.tell_all(|| Command::Drain);
            self.phase = Phase::Draining(end);
        }
    }

    /// What has not come to a gate by now is interrupted, and goes on elsewhere as after a crash.
    pub(super) fn force_handing(&mut self) {
        for entry in self.sessions.values() {
            entry.end(if entry.movable { EndReason::Replaced } else { EndReason::ShutDown });
        }
        self.phase = Phase::Handing { end: Instant::now() + super::END_TIMEOUT, forced: true };
    }

    /// Says again what must not get lost.
    pub(super) fn remind_of_handing(&self) {
        let forced = matches!(self.phase, Phase::Handing { forced: true, .. });
        for entry in self.sessions.values().filter(|entry| entry.movable) {
            if forced { entry.end(EndReason::Replaced) } else { self.hand_over_session(entry) }
        }
    }

    /// The new process does not do its part, and is to end. What it has comes back when it has.
    fn call_off(&mut self) {
        if let (Some(successor), Phase::Handing { .. }) = (&self.replacing.successor, &self.phase) {
            log::warn!("process {} does not take over", successor.pid);
            let _ = successor.writer.say(&Said::Off, None);
            self.stay();
        }
    }

    /// The new process has ended: everything is as before, with what it had.
    fn take_back(&mut self) {
        let Some(successor) = self.replacing.successor.take() else { return };
        log::warn!("process {} ended before it had taken over", successor.pid);
        if matches!(self.phase, Phase::Handing { .. }) {
            self.stay();
        }
        self.restore_sessions();
    }

    /// Goes on as if nobody had asked.
    fn stay(&mut self) {
        self.phase = Phase::Serving;
        self.tell_all(|| Command::Stay);
        self.share_intake();
        if let Some(state) = &self.state {
            state.start_again();
            self.host.senders.take_back(state.nonces());
        }
    }

    /// Everything has left: the new process has it from now on.
    pub(super) fn say_done(&self) {
        if let Some(successor) = &self.replacing.successor {
            let listener = self.broker.as_ref().map(|broker| broker.listener().as_fd());
            if let Err(e) = successor.writer.say(&Said::Done, listener) {
                log::error!("process {} is gone: {e}", successor.pid);
            }
            self.supervisor.replaced_by(successor.pid);
            // What was said is still read there; nothing more is heard here.
            successor.writer.close();
        }
    }

    // In the new process.

    /// Listens for what comes for a session.
    fn prepare(&mut self, id: &SessionId) -> Result<(), String> {
        let saved = self.state.as_ref().and_then(|state| state.session(id)).ok_or("nothing is known of it")?;
        self.services.resolve(&saved.model).map_err(|e| e.to_string())?;
        let identity = self.saved_identity(saved)?;
        let subscribed = Subscribed::to(&self.host, &identity, self.config.max_queue).map_err(|e| e.to_string())?;
        self.replacing.coming.insert(id.clone(), subscribed);
        Ok(())
    }

    /// Keeps a request that is about a session on its way to us. Returns any other.
    pub(super) fn hold(&mut self, work: Work) -> Option<Work> {
        let coming = &self.replacing.coming;
        let waits = match &work.request {
            Request::Stop { session_id } => coming.contains_key(session_id),
            Request::Create(create) => create.session_id.as_ref().is_some_and(|id| coming.contains_key(id)),
            Request::List(_) => !coming.is_empty(),
            Request::Drain(_) => false,
        };
        if !waits {
            return Some(work);
        }
        self.replacing.held.push(work);
        None
    }

    fn release_held(&mut self) {
        for work in std::mem::take(&mut self.replacing.held) {
            self.begin(work);
        }
    }

    /// The predecessor has nothing any more, and left its broker's socket to us if it had one.
    fn taken_over(&mut self, listener: Option<OwnedFd>) {
        self.replacing.predecessor = None;
        self.replacing.waits = false;
        self.replacing.coming.clear();
        if let (Some(listener), Some(plan)) = (listener, &self.standby) {
            match Broker::take_over(TcpListener::from(listener), plan.options.clone()) {
                Ok(broker) => {
                    self.broker = Some(broker);
                    self.standby = None;
                }
                Err(e) => log::warn!("the NATS broker cannot be taken over at once: {e}"),
            }
        }
        self.state.iter().for_each(|state| state.claim());
        self.serve_alone();
        self.release_held();
        log::info!("took over ({} sessions)", self.sessions.len());
    }
}
