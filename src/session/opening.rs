//! How a session begins: new, with a session file that is gone on with, or as it was before the daemon's restart.

use super::Session;
use super::memory::Memory;
use super::recovery::{LeftOpen, Unfinished};
use crate::clock::{iso_time, now_ms};
use crate::contract::error::ReplyError;
use crate::contract::prompt::{EndReason, Prompt};
use crate::contract::reply::Reply;
use crate::contract::wire::Wire;
use crate::ids;
use crate::json::Fields;
use crate::model::ThinkingLevel;
use crate::session::state_dir::{LAST_CHILDREN, RunHeader, SavedSession, StateDir};
use crate::threads;
use crate::transcript::locate;
use crate::transcript::restore::Restored;
use crate::transcript::session_file::SessionFile;
use crate::turn::kill_leftovers;
use serde::Serialize;
use serde_json::{Value, json};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Where a session's transcript is kept.
pub(crate) enum Storage {
    /// In memory only.
    None,
    /// In a new file in this folder.
    New(PathBuf),
    /// In a session file that is there; what the request did not choose is taken from it.
    Resume { file: PathBuf, model: bool, thinking: bool },
    /// For a run that keeps nothing: in this new file, so that it is gone on with after a restart, and only until it is over.
    Run(PathBuf),
    /// As before the restart, with the figures of then. Without figures a crash left something undone.
    Saved {
        file: PathBuf,
        totals: Option<Value>,
        /// The session file goes with the session.
        dispensable: bool,
        /// What somebody allowed for the rest of the session.
        grants: Vec<String>,
        /// Finds callers of before the restart again, where the session has no wire.
        callers: Callers,
    },
}

/// Where the answer to a prompt of before a restart goes, by [`Reply::address`]; `None` if that cannot be reached.
pub(crate) type Callers = Box<dyn Fn(&Value) -> Option<Arc<dyn Reply>> + Send>;

impl<W: Wire> Session<W> {
    /// The session is another host's, or ends before that is known.
    #[inline(never)]
    pub(super) fn never_begin(
        &mut self,
        storage: &Storage,
        first: Option<Box<Prompt>>,
        can_be_left: bool,
        reason: EndReason,
    ) -> EndReason {
        if !matches!(storage, Storage::Saved { .. }) {
            // What this host remembers under the name is of another session, which may be coming here right now.
            self.state = None;
        }
        if let Some(first) = first {
            let left = if can_be_left { self.leave_to_next(&first, reason) } else { Err(self.farewell(reason)) };
            match left {
                Ok(()) => {
                    first.reply.accepted();
                    first.reply.leave();
                }
                Err(error) => self.refuse(&*first.reply, error),
            }
        }
        reason
    }

    /// Opens its memory, and takes its first prompt or those that have waited for it; returns a reason to end at once.
    #[inline(never)]
    pub(super) fn begin_with(&mut self, storage: Storage, first: Option<Box<Prompt>>) -> Option<EndReason> {
        let ends = self.open_with(storage, first);
        self.take_inbox();
        ends
    }

    /// Opens its memory and takes its first prompt; returns a reason to end at once.
    #[inline(never)]
    fn open_with(&mut self, storage: Storage, first: Option<Box<Prompt>>) -> Option<EndReason> {
        self.stats.set_listeners(self.listeners.len());
        self.show_spent(matches!(storage, Storage::None | Storage::New(_) | Storage::Run(_)));
        let begins = if matches!(storage, Storage::Saved { .. }) { "session_restored" } else { "session_created" };
        self.audit_session(begins);
        match (self.open(storage), first) {
            (Ok(unfinished), first) => {
                self.store_state();
                self.announce();
                if let Some(first) = first {
                    self.arrive(*first);
                }
                self.sync_new();
                match unfinished {
                    Some((unfinished, callers)) => self.take_up(*unfinished, &callers),
                    None => (!self.has_work() && !self.identity.named).then_some(EndReason::Finished),
                }
            }
            (Err(e), Some(first)) => {
                self.refuse(&*first.reply, ReplyError::storage(&e));
                Some(EndReason::Finished)
            }
            (Err(e), None) if !self.identity.named => {
                log::error!("run {}: its file cannot be used, so it is over: {e}", self.identity.id);
                Some(EndReason::Finished)
            }
            (Err(e), None) => {
                // The session stays, and every prompt is told why it is of no use, until somebody stops it.
                log::error!("session {}: its file cannot be used: {e}", self.identity.id);
                self.stats.progress.failed(&ReplyError::storage(&e).message);
                None
            }
        }
    }

    /// Makes the session's memory, before anything is accepted. Returns what a crash left undone, and how to find those who
    /// wait for it.
    ///
    /// # Errors
    /// The session file cannot be made, read or written.
    pub(super) fn open(&mut self, storage: Storage) -> io::Result<Option<(Box<Unfinished>, Callers)>> {
        match storage {
            Storage::None => {}
            Storage::New(folder) => {
                let (created, id) = (self.identity.created_ms, ids::uuid(self.identity.created_ms));
                let path = folder.join(locate::file_name(created, &id));
                let mut file = self.create_file(&path, &id, Fields::new())?;
                if self.identity.named {
                    let name = self.stats.settings().name.unwrap_or_else(|| self.identity.id.to_string());
                    file.append("session_info", &json!({"name": name}))?;
                }
                let settings = self.stats.settings();
                let model = json!({"provider": settings.model.provider, "modelId": settings.model.id});
                file.append("model_change", &model)?;
                file.append("thinking_level_change", &json!({"thinkingLevel": settings.thinking.as_str()}))?;
                self.memory = Memory::in_file(file);
                if settings.sandbox.is_narrowed {
                    self.memory.confined(settings.sandbox.narrowing())?;
                }
                self.stats.change(|settings| settings.file = Some(path));
                self.save_by(StateDir::save_new);
                self.is_new = true;
            }
            Storage::Run(path) => {
                let id = ids::uuid(self.identity.created_ms);
                match self.create_file(&path, &id, RunHeader { run: self.saved(path.clone()) }) {
                    Ok(file) => {
                        self.memory = Memory::in_file(file);
                        self.memory.dispensable = true;
                    }
                    Err(e) => log::warn!("{}: {e}; the run would not be gone on with after a restart", path.display()),
                }
            }
            Storage::Resume { file, model, thinking } => {
                self.memory = Memory::asleep(file.clone());
                self.stats.change(|settings| settings.file = Some(file));
                if let Some((restored, mut unfinished)) = self.memory.wake()? {
                    self.adopt(&restored, model, thinking);
                    self.confine(self.stats.settings().sandbox.at_most(unfinished.confined));
                    self.close_calls(&unfinished.intents, LeftOpen::None)?;
                    // They were another session's, and nobody expects them of this one.
                    let ids: Vec<String> = unfinished.all().map(|accepted| accepted.id.clone()).collect();
                    if !ids.is_empty() {
                        self.record_settled(&ids, "ended");
                    }
                }
                self.save();
            }
            Storage::Saved { file, totals, dispensable, grants, callers } => {
                self.grants = grants;
                self.memory = Memory::asleep(file);
                self.memory.dispensable = dispensable;
                if let Some(totals) = totals {
                    let messages = totals["messages"].as_u64().unwrap_or_default();
                    self.memory.set_count(usize::try_from(messages).unwrap_or(usize::MAX));
                    return Ok(None);
                }
                let deadline = Instant::now() + LAST_CHILDREN;
                let woken = loop {
                    match self.memory.wake() {
                        Err(e) if e.kind() == io::ErrorKind::WouldBlock && Instant::now() < deadline => {
                            std::thread::sleep(Duration::from_millis(5));
                        }
                        woken => break woken?,
                    }
                };
                // Whatever the last process had started may still be running, and would go on unseen.
                if !woken.as_ref().is_some_and(|(_, unfinished)| unfinished.was_handed_over()) {
                    let identity = self.identity.clone();
                    match threads::spawn("leftovers", threads::SMALL_STACK, move || kill_leftovers(&identity)) {
                        Ok(thread) => self.runner.begin_after(thread),
                        Err(_) => kill_leftovers(&self.identity),
                    }
                }
                if let Some((restored, unfinished)) = woken {
                    self.stats.restore_usage(&restored.usage);
                    return Ok(Some((Box::new(unfinished), callers)));
                }
            }
        }
        Ok(None)
    }

    fn create_file(&self, path: &Path, id: &str, more: impl Serialize) -> io::Result<SessionFile> {
        SessionFile::create(path, id, &iso_time(self.identity.created_ms), &self.identity.cwd, more)
    }

    /// Takes over what a file says of its session, as far as the request left it open.
    fn adopt(&mut self, restored: &Restored, model: bool, thinking: bool) {
        self.stats.restore_usage(&restored.usage);
        let found = restored.model.as_ref().filter(|_| model).and_then(|(provider, id)| {
            let (model, _) = self.services.resolve(&format!("{provider}/{id}")).ok()?;
            self.services.check_credentials(&model).is_ok().then_some(model)
        });
        let level = restored.thinking.as_deref().filter(|_| thinking).and_then(ThinkingLevel::parse);
        self.stats.change(|settings| {
            if let Some(model) = found {
                settings.model = model;
            }
            settings.thinking = settings.model.clamp(level.unwrap_or(settings.thinking));
            settings.name = settings.name.take().or_else(|| restored.name.clone());
        });
    }

    /// Makes the daemon remember the session as it is now. A session that is kept in memory only is not remembered, and a run
    /// that keeps nothing as it was at its beginning.
    pub(super) fn save(&mut self) {
        self.save_by(StateDir::save);
        self.store_state();
    }

    fn save_by(&self, save: fn(&StateDir, &SavedSession) -> io::Result<()>) {
        let (Some(state), Some(file)) = (&self.state, self.memory.path()) else { return };
        if !self.memory.dispensable
            && let Err(e) = save(state, &self.saved(file.to_path_buf()))
        {
            log::warn!("session {} will not be there after a restart: {e}", self.identity.id);
        }
    }

    /// Makes a new session survive a power cut, if it does not yet.
    pub(super) fn sync_new(&mut self) {
        if std::mem::take(&mut self.is_new)
            && let Some(state) = &self.state
            && let Err(e) = state.sync_new(&self.identity.id)
        {
            log::warn!("session {} would not be there after a power cut: {e}", self.identity.id);
        }
    }

    pub(super) fn saved(&self, file: PathBuf) -> SavedSession {
        let settings = self.stats.settings();
        let wire = self.wire.as_ref().map(Wire::settings).unwrap_or_default();
        let left = settings.deadline.map(|end| end.saturating_duration_since(Instant::now()));
        SavedSession {
            id: self.identity.id.clone(),
            instance_id: self.identity.instance_id.clone(),
            file,
            run: !self.identity.named,
            cwd: self.identity.cwd.clone(),
            model: settings.model.spec(),
            thinking: settings.thinking.as_str().to_owned(),
            name: settings.name,
            from: self.identity.from.clone(),
            parent: self.identity.parent.clone(),
            workspace: self.identity.workspace,
            comes_from_elsewhere: self.folder.as_ref().is_some_and(|folder| folder.is_missing),
            on_restart: self.identity.on_restart,
            tools: self.identity.tools.clone(),
            sandbox: settings.sandbox.narrowing(),
            rules: self.identity.rules.narrowing().to_vec(),
            grants: self.grants.clone(),
            budgets: self.stats.budgets().document(),
            environment: self.identity.environment.clone(),
            created_at_start: self.identity.created_at_start,
            events: wire.events.unwrap_or(false),
            tool_status: wire.tool_status.unwrap_or(false),
            max_lifetime: settings.max_lifetime,
            ends_ms: left.map(|left| now_ms().saturating_add(i64::try_from(left.as_millis()).unwrap_or(i64::MAX))),
            created_ms: self.identity.created_ms,
        }
    }

    /// Writes an entry about the session, if it has a file and that is open. What cannot be written is only reported.
    pub(super) fn record(&mut self, kind: &str, entry: Value) {
        if let Err(e) = self.look_at_file() {
            log::warn!("session {}: {e}", self.identity.id);
        }
        if let Err(e) = self.memory.note(kind, entry) {
            log::warn!("session {}: {kind} is not recorded: {e}", self.identity.id);
        }
    }

    /// Records that messages are answered, refused or given up.
    pub(super) fn record_settled(&mut self, ids: &[String], outcome: &str) {
        let waiting =
            self.queue.len() + self.steering.len() + self.follow_up.len() + usize::from(self.running.is_some());
        if let Err(e) = self.memory.settled(ids, outcome, &self.stats, waiting) {
            log::warn!("session {}: the end of a prompt is not recorded: {e}", self.identity.id);
        }
    }
}
