//! How sessions begin and end: requests are checked and carried out, saved sessions are brought back.

use super::{Caller, Daemon, Entry, clones};
use crate::clock::now_ms;
use crate::contract::environment::SessionEnvironment;
use crate::contract::error::DaemonError;
use crate::contract::identity::{SessionIdentity, Workspace};
use crate::contract::ids::{InstanceId, SessionId};
use crate::contract::prompt::{EndReason, Incoming, Prompt, caller_name};
use crate::contract::request::Create;
use crate::contract::session::{SessionSettings, SessionStats};
use crate::contract::wire::WireSettings;
use crate::fleet::Claim;
use crate::governance::budget::Budgets;
use crate::model::{Services, ThinkingLevel};
use crate::nats::PublishError;
use crate::service::session_subjects::{Place, SessionSubjects, Subscribed, session_subject};
use crate::service::stream::Stream;
use crate::session::state_dir::SavedSession;
use crate::session::{self, Callers, Parts, Storage};
use crate::socket::SessionSocket;
use crate::tools::runner::Profile;
use crate::transcript::locate;
use crate::transcript::session_file::SessionFile;
use crate::{threads, tools};
use crossbeam_channel::bounded;
use serde_json::json;
use std::os::unix::fs::MetadataExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Commands that may wait for one session: an end, a drain, and room for its clients' requests.
const COMMANDS: usize = 16;
/// Told to those who name no model where none can be chosen for them.
const NO_MODEL: &str = "no model: the request names none, none is configured, and no provider has a key; set one in auth.json \
    or an environment variable such as ANTHROPIC_API_KEY, or name offline/demo to try without a model";

/// What a session begins with.
struct Begin {
    settings: WireSettings,
    socket: Option<SessionSocket>,
    storage: Storage,
    first: Option<Prompt>,
    /// See [`Parts::can_be_left`].
    can_be_left: bool,
    /// What came for it before.
    subscribed: Option<Subscribed>,
    /// Whose it is so far.
    claim: Claim,
    /// It was another host's, and its working folder is not here yet.
    comes_from_elsewhere: bool,
}

impl Daemon {
    /// Checks a request for a session and starts it; returns its instance id.
    pub(super) fn create(&mut self, create: &Create, caller: Caller<'_>) -> Result<InstanceId, DaemonError> {
        let Caller { reply, sender, trace, received } = caller;
        if let Some(session_id) = &create.session_id
            && self.named(session_id).is_some()
        {
            let subject = session_subject(&self.config.owner, session_id);
            return Err(DaemonError::SessionExists { session_id: session_id.clone(), subject });
        }
        if self.slots.is_paused() {
            return Err(DaemonError::Draining);
        }
        let cwd = working_directory(&create.cwd)?;
        let failed = |message: String| DaemonError::SessionCreateFailed { message };
        let project_trusted = self.trusts(&cwd);
        let services = self.services_for(&cwd, project_trusted);
        let (model, level) = match create.model()?.or(self.config.default_model.as_deref()) {
            Some(spec) => services.resolve(spec).map_err(|e| failed(e.to_string()))?,
            None => (services.default_model().ok_or_else(|| failed(NO_MODEL.into()))?, None),
        };
        let thinking = create.thinking()?.or(level).or(self.config.default_thinking);
        let thinking = model.clamp(thinking.unwrap_or_else(|| services.default_thinking(&model)));
        let max_lifetime = create.max_lifetime()?.unwrap_or(self.config.default_max_lifetime);
        let from = match self.parent(create)? {
            Some(parent) => Some(format!("session:{}", parent.identity.id)),
            None => create.from()?.map(str::to_string),
        };
        services.check_credentials(&model).map_err(|e| failed(e.to_string()))?;
        self.admit(&caller_name(sender.as_ref(), from.as_deref()), create.session_id.is_none())?;
        let parent = self.parent(create)?;
        let usual = self.usual_tools(&services, create.session_id.is_some());
        let tools = match create.tools()? {
            Some(names) => tools::select(&names, &usual).map_err(|message| DaemonError::InvalidRequest { message })?,
            None => usual,
        };
        // What an agent starts may do no more than itself.
        let more = parent.map(|parent| parent.identity.rules.narrowing().to_vec()).unwrap_or_default();
        let rules = self.config.session_rules([create.rules()?, more].concat(), &cwd);
        let rules = rules.map_err(|message| DaemonError::InvalidRequest { message })?;
        let allowed = parent.map_or(self.config.budgets, |parent| parent.stats.budgets());
        let budgets = allowed.narrowed(create.budgets()?);
        let budgets = budgets.map_err(|message| DaemonError::InvalidRequest { message })?;
        let is_known = |name: &str| self.config.secrets.contains_key(name);
        let environment = SessionEnvironment::of_request(create.options(), is_known)?;
        let sandbox = self.sandbox_of(create, parent, &cwd, &environment)?;
        let workspace = create.workspace()?;
        if workspace == Workspace::Git {
            clones::check(&cwd).map_err(failed)?;
            if sandbox.profile == Profile::ReadOnly {
                let message = "workspace git needs a sandbox in which tools may write".to_owned();
                return Err(DaemonError::InvalidRequest { message });
            }
        }
        let stays = create.switch("detached")?.unwrap_or(false);
        let identity = Arc::new(SessionIdentity {
            id: create.session_id.clone().unwrap_or_else(SessionId::of_run),
            subject: create.session_id.as_ref().map(|id| session_subject(&self.config.owner, id)),
            instance_id: InstanceId::random(),
            named: create.session_id.is_some(),
            cwd,
            from: from.clone(),
            parent: create.parent.clone().filter(|_| !stays),
            on_restart: create.on_restart()?.unwrap_or(self.config.on_restart),
            host: self.host_name(),
            workspace,
            project_trusted,
            tools,
            rules,
            environment,
            created_at_start: self
                .state
                .as_ref()
                .filter(|_| create.session_id.is_some())
                .map_or(0, |state| state.starts()),
            created_ms: now_ms(),
        });
        let storage = self.storage(create, &identity)?;
        let invalid = |name: &str| DaemonError::InvalidRequest { message: format!("{name} must be true or false") };
        let wire_settings = crate::service::control::wire_settings(create.options()).map_err(invalid)?;
        let deadline = if max_lifetime.is_zero() { None } else { received.checked_add(max_lifetime) };
        let name = create.name()?.map(str::to_owned);
        let settings = SessionSettings { model, thinking, name, max_lifetime, deadline, sandbox, file: None };
        let socket = self.open_socket(&identity)?;
        let first = create.body.clone().map(|body| Prompt {
            message: Incoming { trace: trace.or_else(|| create.trace()), ..Incoming::new(body) },
            from,
            sender,
            reply: reply(),
            received,
        });
        let instance_id = identity.instance_id.clone();
        let stats = Arc::new(SessionStats::new(settings));
        stats.set_budgets(budgets);
        let begin = Begin {
            settings: wire_settings,
            socket,
            storage,
            first,
            can_be_left: create.is_plain(),
            subscribed: None,
            claim: Claim::New,
            comes_from_elsewhere: false,
        };
        self.start_session(identity, stats, begin)?;
        Ok(instance_id)
    }

    /// The operator trusts the project in this folder: the daemon's configuration says so, or the user's own settings trust
    /// all projects. A project's settings are not asked.
    fn trusts(&self, cwd: &Path) -> bool {
        self.config.trusts(cwd) || self.services.trusts_projects()
    }

    /// What sessions in this folder have to work with, which is the project's business where the operator trusts it.
    fn services_for(&self, cwd: &Path, project_trusted: bool) -> Arc<Services> {
        if project_trusted { Arc::new(self.services.of_project(cwd)) } else { self.services.clone() }
    }

    /// The tools of a session that names none. Only a named one can be found by those who could answer questions.
    fn usual_tools(&self, services: &Services, named: bool) -> Vec<String> {
        if let Some(configured) = &self.config.tools {
            return configured.clone();
        }
        let mut usual = tools::DEFAULT_TOOLS.map(str::to_owned).to_vec();
        if let Some(preferred) = services.default_tools() {
            match tools::select(&preferred, &usual) {
                Ok(preferred) => usual = preferred,
                Err(reason) => log::warn!("defaultTools of the settings are left out: {reason}"),
            }
        }
        if named && !usual.iter().any(|name| name == tools::QUESTION) {
            usual.push(tools::QUESTION.to_owned());
        }
        usual
    }

    /// Where the session files of a working directory are.
    fn session_folder(&self, cwd: &Path) -> PathBuf {
        match self.session_dir() {
            Some(folder) => folder,
            None => locate::folder(&self.config.agent_dir.join("sessions"), cwd),
        }
    }

    /// The one folder for all session files, if there is one.
    pub(super) fn session_dir(&self) -> Option<PathBuf> {
        self.config.session_dir.clone().or_else(|| self.services.session_dir().map(PathBuf::from))
    }

    /// Where a new session's transcript is kept.
    fn storage(&self, create: &Create, identity: &SessionIdentity) -> Result<Storage, DaemonError> {
        let cwd = identity.cwd.as_path();
        if let Some(wanted) = create.resume()? {
            let root = self.session_dir().unwrap_or_else(|| self.config.agent_dir.join("sessions"));
            let file = locate::find(&root, cwd, wanted)
                .map_err(|e| DaemonError::SessionCreateFailed { message: format!("resume {wanted:?}: {e}") })?;
            let refused =
                |why: String| DaemonError::SessionCreateFailed { message: format!("resume {wanted:?}: {why}") };
            // A session that sleeps does not hold its file's lock.
            let number = |path: &Path| path.metadata().map(|file| (file.dev(), file.ino())).ok();
            let this = number(&file);
            let has_it = |entry: &&Entry| entry.stats.settings().file.is_some_and(|own| number(&own) == this);
            if let Some(other) = self.sessions.values().find(has_it).filter(|_| this.is_some()) {
                return Err(refused(format!("the session file is in use by session {:?}", other.identity.id)));
            }
            SessionFile::check(&file).map_err(|e| refused(e.to_string()))?;
            let (model, thinking) = (create.model()?.is_none(), create.thinking()?.is_none());
            return Ok(Storage::Resume { file, model, thinking });
        }
        let keep = match create.session_id {
            Some(_) => create.switch("persist")?.unwrap_or(self.config.persist),
            None => create.switch("keep")?.unwrap_or(false),
        };
        Ok(match &self.state {
            _ if keep => Storage::New(self.session_folder(cwd)),
            Some(state) if !identity.named => Storage::Run(state.run_file(&identity.id)),
            _ => Storage::None,
        })
    }

    /// Brings back the sessions of before the restart.
    pub(super) fn restore_sessions(&mut self) {
        for saved in self.state.as_ref().map(|state| state.sessions()).unwrap_or_default() {
            if self.by_id(&saved.id).is_none() {
                self.restore_or_warn(saved, None, Claim::Ours);
            }
        }
        self.end_orphans();
    }

    /// Brings one back, with what has come for it meanwhile.
    pub(super) fn restore_or_warn(&mut self, saved: SavedSession, subscribed: Option<Subscribed>, claim: Claim) {
        let id = saved.id.clone();
        if let Err(why) = self.restore_session(saved, subscribed, claim) {
            log::warn!("session {id} cannot be brought back: {why}");
        }
    }

    pub(super) fn saved_identity(&self, saved: SavedSession) -> Result<SessionIdentity, String> {
        let rules = self.config.session_rules(saved.rules, &saved.cwd)?;
        Ok(SessionIdentity {
            subject: (!saved.run).then(|| session_subject(&self.config.owner, &saved.id)),
            id: saved.id,
            instance_id: saved.instance_id,
            named: !saved.run,
            project_trusted: self.trusts(&saved.cwd),
            cwd: saved.cwd,
            from: saved.from,
            parent: saved.parent,
            on_restart: saved.on_restart,
            host: self.host_name(),
            workspace: saved.workspace,
            tools: saved.tools,
            rules,
            environment: saved.environment,
            created_at_start: saved.created_at_start,
            created_ms: saved.created_ms,
        })
    }

    fn restore_session(
        &mut self,
        saved: SavedSession,
        subscribed: Option<Subscribed>,
        claim: Claim,
    ) -> Result<(), String> {
        let (model, _) = self.services.resolve(&saved.model).map_err(|e| e.to_string())?;
        let thinking = ThinkingLevel::parse(&saved.thinking).unwrap_or(ThinkingLevel::Off);
        let totals = session::settled_totals(&saved.file).unwrap_or_default();
        let left = saved.ends_ms.map(|end| Duration::from_millis(u64::try_from(end - now_ms()).unwrap_or_default()));
        let dispensable = self.state.as_ref().is_some_and(|state| saved.file == state.run_file(&saved.id));
        let stats = Arc::new(SessionStats::new(SessionSettings {
            thinking: model.clamp(thinking),
            model,
            name: saved.name.clone(),
            max_lifetime: saved.max_lifetime,
            deadline: left.and_then(|left| Instant::now().checked_add(left)),
            sandbox: self.config.sandbox.at_most(saved.sandbox),
            file: Some(saved.file.clone()).filter(|_| !dispensable),
        }));
        if let Some(totals) = &totals {
            stats.restore(totals);
        }
        stats.set_budgets(self.config.budgets.at_most(Budgets::parse(&saved.budgets).unwrap_or_default()));
        let host = self.host.clone();
        let callers: Callers = Box::new(move |address| {
            let stream = Stream::resume(&host.connection, &host.reply_subjects, address)?;
            Some(Arc::new(stream))
        });
        let (file, grants, comes_from_elsewhere) =
            (saved.file.clone(), saved.grants.clone(), saved.comes_from_elsewhere);
        // What is known of a folder that goes on elsewhere stands in the file, which is read therefore.
        let totals = totals.filter(|_| saved.workspace != Workspace::Git);
        let storage = Storage::Saved { file, totals, dispensable, grants, callers };
        let settings = WireSettings { events: Some(saved.events), tool_status: Some(saved.tool_status) };
        let identity = Arc::new(self.saved_identity(saved)?);
        let socket = self.open_socket(&identity).map_err(|e| e.summary())?;
        let begin = Begin {
            settings,
            socket,
            storage,
            first: None,
            can_be_left: false,
            subscribed,
            claim,
            comes_from_elsewhere,
        };
        self.start_session(identity, stats, begin).map_err(|e| e.summary())
    }

    fn start_session(
        &mut self,
        identity: Arc<SessionIdentity>,
        stats: Arc<SessionStats>,
        begin: Begin,
    ) -> Result<(), DaemonError> {
        let Begin { settings, socket, storage, first, can_be_left, subscribed, claim, comes_from_elsewhere } = begin;
        let sender = first.as_ref().and_then(|first| first.sender.as_ref());
        let caller = caller_name(sender, identity.from.as_deref());
        let failed = |e: PublishError| DaemonError::SessionCreateFailed { message: e.to_string() };
        let subscribed = match subscribed {
            None if identity.named => {
                Some(Subscribed::to(&self.host, &identity, self.config.max_queue).map_err(failed)?)
            }
            subscribed => subscribed.filter(|_| identity.named),
        };
        let service = subscribed.as_ref().map(|subscribed| subscribed.service().clone());
        let quota = self.quota.session();
        let spill_root = self.spill_root.path();
        let spill_dir = spill_root.join(&*identity.instance_id);
        // Tools may write to the folder above, and could put links there.
        let beside = |what: &str| spill_root.join(format!("{}.{what}", identity.instance_id));
        let movable = self.state.is_some() && !matches!(storage, Storage::None);
        let kept = self.state.as_ref().filter(|_| movable);
        let attachments = kept.map_or_else(|| beside("files"), |state| state.attachments(&identity.id));
        let attachments = Some(attachments).filter(|_| identity.named);
        let wire = subscribed.map(|subscribed| {
            let place = Place {
                host: self.host.clone(),
                identity: identity.clone(),
                stats: stats.clone(),
                attachments: attachments.clone().unwrap_or_default(),
                quota: quota.clone(),
                settings,
            };
            SessionSubjects::open(subscribed, place)
        });
        let log = self.session_log(&identity, &storage, claim)?;
        let (commands, receiver) = bounded(COMMANDS);
        let parts = Box::new(Parts {
            options: self.session_options.clone(),
            services: self.services_for(&identity.cwd, identity.project_trusted),
            identity: identity.clone(),
            stats: stats.clone(),
            wire,
            commands: receiver,
            raw_file: match &self.bridge {
                Some(bridge) => bridge.raw_file(&identity),
                None => beside("events.jsonl"),
            },
            spill_dir,
            attachments,
            quota,
            slots: self.slots.clone(),
            state: self.state.clone(),
            storage,
            log,
            comes_from_elsewhere,
            first,
            can_be_left,
        });
        let (ended, instance_id) = (self.ended_sender.clone(), identity.instance_id.clone());
        let work = move || {
            let reason = catch_unwind(AssertUnwindSafe(|| session::run(parts)));
            if reason.is_err() {
                log::error!("internal_error: a session panicked and is over");
            }
            // The daemon waits for this until it ends itself.
            let _ = ended.send((instance_id, reason.map_or("internal_error", EndReason::as_str)));
        };
        // Before its thread runs, so that clients find it when its first prompt is answered.
        if let Some(bridge) = &mut self.bridge {
            bridge.session_started(socket, &identity, &stats, &commands);
        }
        let name = format!("s-{}", identity.id);
        let thread = if identity.named {
            threads::spawn(&name, threads::SESSION_STACK, work)
        } else {
            threads::run(&name, work)
        };
        let thread = thread.map_err(|e| {
            if let Some(bridge) = &mut self.bridge {
                bridge.session_ended(&identity.instance_id, "busy");
            }
            DaemonError::Busy { message: format!("no thread for a session: {e}") }
        })?;
        if identity.named {
            log::info!("session {} started in {}", identity.id, identity.cwd.display());
        }
        let entry = Entry { identity, stats, caller, commands, service, stoppers: Vec::new(), movable, thread };
        self.heartbeat(&entry);
        self.hand_over_session(&entry);
        self.send_elsewhere(&entry);
        self.started += 1;
        self.shares.began(&entry.caller, !entry.identity.named);
        self.sessions.insert(entry.identity.instance_id.clone(), entry);
        Ok(())
    }

    /// A session is over: tells those who waited for that.
    pub(super) fn forget(&mut self, instance_id: &InstanceId, reason: &str) {
        let Some(entry) = self.sessions.remove(instance_id) else { return };
        self.shares.ended(&entry.caller, !entry.identity.named, Instant::now());
        if ![EndReason::ShutDown, EndReason::Replaced, EndReason::Moved].map(EndReason::as_str).contains(&reason) {
            self.end_children(instance_id);
        }
        drop(entry.thread);
        if let Some(found) = self.found_early.remove(&*entry.identity.id) {
            self.found(found);
        }
        self.session_left(&entry.identity.id, reason);
        if let Some(bridge) = &mut self.bridge {
            bridge.session_ended(instance_id, reason);
        }
        if entry.identity.named {
            log::info!("session {} ended", entry.identity.id);
        }
        if !entry.stoppers.is_empty() {
            self.when_written(move || {
                for stopped in entry.stoppers {
                    stopped(json!({"ok": true, "sessionId": entry.identity.id}));
                }
            });
        }
    }

    /// Does `then`, which must not wait, once clients find the sessions as they are now.
    pub(super) fn when_written(&self, then: impl FnOnce() + Send + 'static) {
        match &self.bridge {
            Some(bridge) => bridge.when_written(Box::new(then)),
            None => then(),
        }
    }
}

/// The working directory of a session: absolute, without links, `.` and `..`, so that it is the same folder for good.
fn working_directory(cwd: &str) -> Result<PathBuf, DaemonError> {
    let failed = |why: String| DaemonError::SessionCreateFailed { message: format!("cwd {cwd:?}: {why}") };
    match std::fs::metadata(cwd) {
        Ok(stats) if stats.is_dir() => std::fs::canonicalize(cwd).map_err(|e| failed(e.to_string())),
        Ok(_) => Err(failed("not a directory".into())),
        Err(e) => Err(failed(e.to_string())),
    }
}
