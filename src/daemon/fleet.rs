//! The owner's hosts as one service: how the main thread takes part, and how a session of a host that is gone gets here.

use super::{Daemon, Entry, Fatal, Phase, clones, starting};
use crate::cancel::Cancel;
use crate::clock::now_ms;
use crate::config::Config;
use crate::contract::error::{DaemonError, ReplyError};
use crate::contract::identity::{SessionIdentity, Workspace};
use crate::contract::prompt::{Command, EndReason, Next, Successor};
use crate::contract::reply::Reply;
use crate::files;
use crate::fleet::{Claim, Fleet, Found, Hosts, InboxPrompt, Install, Memory, SessionLog};
use crate::governance::budget::{DayStore, Ledger, SharedDay, StoreError};
use crate::ids;
use crate::nats::jetstream::JetStreamError;
use crate::nats::{Connection, ConnectionEvent};
use crate::quota::HostQuota;
use crate::service::agents::nonces::{self, SignedNonce};
use crate::service::host::Host;
use crate::service::recent;
use crate::service::session_subjects::Subscribed;
use crate::service::stream::Stream;
use crate::session::Storage;
use crate::session::state_dir::{SavedSession, StateDir};
use crate::threads;
use crate::tools::runner::{Runner, Sandbox};
use crate::transcript::locate;
use crate::turn::{GitFolder, TurnOptions};
use crossbeam_channel::{Receiver, bounded};
use serde::Deserialize;
use serde_json::{Value, json};
use std::fmt;
use std::io::{self, ErrorKind, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long NATS may be away when the host starts, seconds below the 90 s that systemd gives a service to start.
const CONNECTS_WITHIN: Duration = Duration::from_secs(60);
/// How long a session that another host gives to this one may be on its way.
const ARRIVES_WITHIN: Duration = Duration::from_secs(15);

/// How long it may take to see whether a session's folder could be had here; the host that asks waits for a second.
const EXAMINES_WITHIN: Duration = Duration::from_millis(900);

/// What a session's log has beside its file.
#[derive(Deserialize)]
struct Kept {
    session: SavedSession,
    /// How often the daemon was started that wrote it, see [`StateDir::starts`].
    starts: u64,
}

/// Puts sessions where this host keeps those of its own.
struct Installer {
    state: Arc<StateDir>,
    session_dir: Option<PathBuf>,
    agent_dir: PathBuf,
    /// What this host is called.
    host: String,
    /// Where and how git may look into a clone.
    options: Arc<TurnOptions>,
    sandbox: Arc<Sandbox>,
    spill_root: PathBuf,
    quota: Arc<HostQuota>,
}

/// A session that another host is about to give to this one.
pub(super) struct Arriving {
    /// What comes for it meanwhile.
    subscribed: Subscribed,
    until: Instant,
}

/// Another host of the fleet, which goes on with one session.
struct NextHost {
    fleet: Arc<Fleet>,
    state: Arc<StateDir>,
}

impl Successor for NextHost {
    fn prepare(&self, session: &SessionIdentity, is_saved: bool) -> Option<Next> {
        // Files that came with its prompts are here only.
        if !is_saved || files::has_entries(&self.state.attachments(&session.id)) {
            return None;
        }
        let saved = self.state.session(&session.id)?;
        let kept = json!({"session": saved, "starts": self.state.starts()}).to_string();
        self.fleet.prepare(&session.id, kept.as_bytes()).map(Next::Host)
    }
}

/// Takes part, if this host is to.
///
/// # Errors
/// What is missing.
pub(super) fn open(config: &Config, connection: &Connection, replaces: bool) -> Result<Option<Arc<Fleet>>, Fatal> {
    let Some(options) = &config.fleet else { return Ok(None) };
    let opened = Fleet::open(connection, options.clone(), replaces);
    opened.map(Some).map_err(|why| Fatal::Unusable(format!("this host cannot be one of a fleet: {why}")))
}

/// Waits for the first connection, without which it is not known what this host has.
///
/// # Errors
/// There is none in time, and why; or the process is told to end.
pub(super) fn wait_connected(
    events: &Receiver<ConnectionEvent>,
    signals: &Receiver<i32>,
) -> Result<ConnectionEvent, Fatal> {
    let (mut is_first, within) = (true, CONNECTS_WITHIN.as_secs());
    let without = "without which this host cannot be one of a fleet";
    starting::wait_connected(events, signals, CONNECTS_WITHIN, without, |why| {
        if std::mem::take(&mut is_first) {
            log::warn!("no connection to {why}; this host waits for NATS up to {within} s before it serves");
        }
    })
}

/// Has requests that are sent again known by all hosts: what they were answered with, and which signatures were used.
///
/// # Errors
/// What is known by now cannot be read.
pub(super) fn share_memory(fleet: &Arc<Fleet>, host: &Arc<Host>) -> Result<Memory, Fatal> {
    let (telling, told) = (fleet.clone(), host.clone());
    host.recent.tell(Box::new(move |name, what, shorter| {
        if !telling.remember(name, recent::WINDOW, &what) {
            telling.remember(name, recent::WINDOW, &shorter());
        }
    }));
    host.senders.set_shared(true);
    let taken = fleet.recall(move |payload| match serde_json::from_slice::<SignedNonce>(payload) {
        Ok(signed) => told.senders.accepted_by_another(&signed, now_ms()),
        Err(_) => told.recent.told(payload, Instant::now()),
    });
    taken.map_err(|why| Fatal::Unusable(format!("this host cannot be one of a fleet: {why}")))
}

/// Has what is spent on a day counted by all hosts together.
///
/// # Errors
/// It cannot be counted where it is limited.
pub(super) fn share_day(fleet: &Arc<Fleet>, ledger: Ledger, config: &Config) -> Result<Ledger, Fatal> {
    let unusable = |why: &dyn fmt::Display| {
        Fatal::Unusable(format!(
            "budgets of a day cannot be counted with the other hosts: {why}; nats-pi-bridge doctor says what is missing"
        ))
    };
    if config.budgets.limits_day() {
        fleet.can_count_days().map_err(|e| unusable(&e))?;
    }
    let day = SharedDay::start(Box::new(Days(fleet.clone())), ids::nuid()).map_err(|e| unusable(&e))?;
    Ok(ledger.with_shared_day(day))
}

/// Where the hosts of the fleet keep what they spend on a day.
struct Days(Arc<Fleet>);

impl DayStore for Days {
    fn read(&self, day: &str) -> Result<(u64, Vec<u8>), StoreError> {
        self.0.day(day).map_err(of_store)
    }

    fn replace(&mut self, day: &str, version: u64, document: &[u8]) -> Result<Option<u64>, StoreError> {
        self.0.replace_day(day, version, document).map_err(of_store)
    }
}

fn of_store(error: JetStreamError) -> StoreError {
    if error.may_pass() { StoreError::Unknown(error.to_string()) } else { StoreError::Refused(error.to_string()) }
}

/// Has all hosts know that a signature was used.
pub(super) fn remember_signed(fleet: &Fleet, signed: &SignedNonce) {
    let what = serde_json::to_vec(signed).unwrap_or_default();
    fleet.remember(&format!("{}\n{}", signed.user, signed.nonce), nonces::REMEMBERED, &what);
}

impl Daemon {
    /// What this host is called among those of its owner, if they are one service.
    pub(super) fn host_name(&self) -> Option<String> {
        self.fleet.as_ref().map(|fleet| fleet.host().to_owned())
    }

    /// Takes part once this process has the host's sessions.
    pub(super) fn join_fleet(&mut self) {
        let Some(fleet) = &self.fleet else { return };
        let Some(state) = self.state.clone() else {
            return log::warn!("sessions of other hosts are not gone on with here, as nothing is kept over a restart");
        };
        let installer = Installer {
            state,
            session_dir: self.session_dir(),
            agent_dir: self.config.agent_dir.clone(),
            host: fleet.host().to_owned(),
            options: self.session_options.turn.clone(),
            sandbox: self.config.sandbox.clone(),
            spill_root: self.spill_root.path().to_path_buf(),
            quota: self.quota.clone(),
        };
        match Hosts::join(fleet, Box::new(installer)) {
            Ok(hosts) => {
                log::info!("this is the host {} of {}", fleet.host(), self.config.owner);
                self.hosts = Some(hosts);
            }
            Err(why) => log::error!("this host does not take part in the fleet: {why}"),
        }
    }

    /// Where a session is stored for other hosts, if it is: one that is in a file and stays.
    pub(super) fn session_log(
        &self,
        identity: &SessionIdentity,
        storage: &Storage,
        claim: Claim,
    ) -> Result<Option<SessionLog>, DaemonError> {
        let (Some(fleet), Some(state), true) = (&self.fleet, &self.state, identity.named) else { return Ok(None) };
        let file = match storage {
            Storage::None | Storage::Run(_) => return Ok(None),
            Storage::New(_) => None,
            Storage::Resume { file, .. } | Storage::Saved { file, .. } => Some(file.clone()),
        };
        let attachments = state.attachments(&identity.id);
        let log = SessionLog::start(fleet, &identity.id, identity.workspace.moves(), claim, file, attachments);
        log.map(Some).map_err(|e| DaemonError::Busy { message: format!("no thread for a session's log: {e}") })
    }

    /// Goes on with a session of a host that is gone, or tells those who ask for it that it waits for its host.
    pub(super) fn found(&mut self, found: Found) {
        match found {
            // Such as what a request was about to make there, which does not begin.
            Found::Session { ref session, .. } if self.named(session).is_some() => {
                self.found_early.insert(session.clone(), found);
            }
            Found::Session { session, last } => {
                if let Some(saved) = self.state.as_ref().and_then(|state| state.session(&session)) {
                    let subscribed = self.arriving.remove(&session).map(|arriving| arriving.subscribed);
                    self.restore_or_warn(saved, subscribed, Claim::Theirs(last));
                }
            }
            Found::Coming { session, state, answer } => {
                let prepared = self.prepare_for(&session, &state);
                let why = prepared.as_ref().err();
                why.inspect(|why| log::debug!("session {session} cannot come here: {why}"));
                answer.answer(prepared.is_ok());
            }
            Found::Down { session, host } => {
                log::warn!("session {session} waits for its host {host}, which is down");
                match Subscribed::refusing(&self.host, &session, ReplyError::host_down(&host)) {
                    Ok(refusing) => drop(self.waits_for_host.insert(session, refusing)),
                    Err(e) => log::warn!("nobody tells that session {session} waits for its host: {e}"),
                }
            }
            Found::Up { session } => drop(self.waits_for_host.remove(&session)),
            Found::Late { prompts, done } => {
                for InboxPrompt { prompt, .. } in prompts {
                    let prompt: Value = serde_json::from_slice(&prompt).unwrap_or_default();
                    let stream = Stream::resume(&self.connection, &self.host.reply_subjects, &prompt["reply"]);
                    stream.into_iter().for_each(|stream| stream.finish(Err(ReplyError::stopped())));
                }
                drop(done);
            }
        }
    }
}

impl Daemon {
    /// Listens for what comes for a session that another host is about to give to this one.
    ///
    /// # Errors
    /// Why it cannot come here.
    fn prepare_for(&mut self, session: &str, state: &[u8]) -> Result<(), String> {
        if !matches!(self.phase, Phase::Serving) || self.slots.is_paused() {
            return Err("this host lets nothing new begin".into());
        }
        if self.named(session).is_some() {
            return Err("the session that was here before has not ended".into());
        }
        let Kept { session: saved, .. } = serde_json::from_slice(state).map_err(|e| e.to_string())?;
        if *saved.id != *session {
            return Err("it is another session's state".into());
        }
        self.services.resolve(&saved.model).map_err(|e| e.to_string())?;
        let identity = self.saved_identity(saved)?;
        let until = Instant::now() + ARRIVES_WITHIN;
        if let Some(arriving) = self.arriving.get_mut(session) {
            arriving.until = until;
            return Ok(());
        }
        let subscribed = Subscribed::to(&self.host, &identity, self.config.max_queue).map_err(|e| e.to_string())?;
        self.arriving.insert(session.to_owned(), Arriving { subscribed, until });
        Ok(())
    }

    /// Does not wait any longer for sessions that were to come: whoever had them has them still, or is gone.
    pub(super) fn give_up_arriving(&mut self) {
        let now = Instant::now();
        let late: Vec<String> =
            self.arriving.iter().filter(|(_, a)| a.until <= now).map(|(id, _)| id.clone()).collect();
        for session in late {
            log::warn!("session {session} was to come here, and has not come");
            let gone = self.arriving.remove(&session);
            gone.into_iter().for_each(|gone| gone.subscribed.refuse_all(&self.host, self.config.max_queue));
        }
    }

    /// Other hosts can go on with a session.
    fn can_go_elsewhere(&self, entry: &Entry) -> bool {
        self.hosts.is_some() && entry.movable && entry.identity.named && entry.identity.workspace.moves()
    }

    /// Has a session go to another host, if it can, while this one lets nothing new begin or ends. To be called for each that
    /// begins meanwhile, and again for those that found no host.
    pub(super) fn send_elsewhere(&self, entry: &Entry) {
        let leaves = match self.phase {
            Phase::Serving => self.slots.is_paused(),
            Phase::Draining(_) | Phase::Ending(_) => true,
            Phase::Handing { .. } => false,
        };
        if let (true, Some(fleet), Some(state)) = (leaves && self.can_go_elsewhere(entry), &self.fleet, &self.state) {
            let next = NextHost { fleet: fleet.clone(), state: state.clone() };
            let _ = entry.commands.try_send(Command::HandOver(Arc::new(next)));
        }
    }

    /// Has all sessions go that can.
    pub(super) fn send_all_elsewhere(&self) {
        self.sessions.values().for_each(|entry| self.send_elsewhere(entry));
    }

    /// How the sessions end that are in the middle of something when the time is up: where other hosts can go on with them they
    /// do.
    pub(super) fn force_end(&self) {
        for entry in self.sessions.values() {
            self.send_elsewhere(entry);
            entry.end(if self.can_go_elsewhere(entry) { EndReason::Given } else { EndReason::ShutDown });
        }
    }
}

impl Install for Installer {
    fn has(&self, session: &str) -> bool {
        self.state.session(session).is_some()
    }

    fn install(&self, _session: &str, state: &[u8], file: &[u8]) -> io::Result<()> {
        let Kept { session: saved, starts } = serde_json::from_slice(state)?;
        has_folder(&saved).map_err(|why| io::Error::new(ErrorKind::NotFound, why))?;
        let folder =
            self.session_dir.clone().unwrap_or_else(|| locate::folder(&self.agent_dir.join("sessions"), &saved.cwd));
        let path = folder.join(saved.file.file_name().ok_or_else(|| io::Error::other("its file has no name"))?);
        files::private::create_folder(&folder)?;
        files::private::replace(&path, |to| to.write_all(file).and_then(|()| files::sync(to)))?;
        // Numbers of events go on behind those of the host before.
        let before = starts.wrapping_sub(saved.created_at_start);
        let created_at_start = self.state.starts().wrapping_sub(before).wrapping_sub(1);
        let comes_from_elsewhere = saved.workspace == Workspace::Git;
        self.state.save(&SavedSession { file: path, created_at_start, comes_from_elsewhere, ..saved })
    }

    fn examine(&self, state: &[u8]) -> Result<(), String> {
        let Kept { session: saved, .. } = serde_json::from_slice(state).map_err(|e| e.to_string())?;
        has_folder(&saved)?;
        if saved.workspace != Workspace::Git {
            return Ok(());
        }
        // Not that of the session itself, which may come before this is gone.
        let private = self.spill_root.join(format!("examined-{}", saved.id));
        let quota = self.quota.session();
        let mark = saved.instance_id.to_string();
        let sandbox = self.sandbox.at_most(saved.sandbox);
        let folder = GitFolder {
            runner: Arc::new(Runner::new(mark, sandbox, saved.cwd.clone(), private.clone(), None, quota.clone())),
            id: saved.id,
            instance_id: saved.instance_id,
            cwd: saved.cwd,
            host: self.host.clone(),
            environment: saved.environment,
            options: self.options.clone(),
            secrets: Arc::default(),
            spill_dir: private.clone(),
            quota,
        };
        let (cancel, (tell, told)) = (Cancel::new(), bounded(1));
        let of_thread = cancel.clone();
        let examine = move || {
            let examined = folder.check(&of_thread);
            folder.runner.end();
            // Where nothing was made there is nothing to remove.
            let _ = std::fs::remove_dir_all(private);
            let _ = tell.send(examined);
        };
        let thread = threads::run("examine", examine).map_err(|e| e.to_string())?;
        let Ok(examined) = told.recv_timeout(EXAMINES_WITHIN) else {
            cancel.cancel();
            thread.abandon();
            return Err("its folder cannot be looked at in time".into());
        };
        examined.map_err(|error| format!("{}: {}", error.code, error.message))
    }
}

/// Looks whether the folder of a session that goes on elsewhere is here.
///
/// # Errors
/// What is missing.
fn has_folder(saved: &SavedSession) -> Result<(), String> {
    match saved.workspace {
        Workspace::Git => clones::check(&saved.cwd),
        Workspace::Local | Workspace::Shared if saved.cwd.is_dir() => Ok(()),
        Workspace::Local | Workspace::Shared => Err(format!("{} is not here", saved.cwd.display())),
    }
}
