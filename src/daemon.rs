//! The daemon: the main thread, which owns the table of sessions.
//!
//! It takes requests from the intake, starts a thread per session, answers discovery for all of them, and ends them in
//! order when it is told to stop. It never waits for a session.

mod agents;
mod clients;
mod company;
mod requests;

use crate::config::{self, BrokerPlan, Config};
use crate::model::{Services, ThinkingLevel};
use crate::nats::agents::controller::{self, Controller};
use crate::nats::agents::sender::AgentSender;
use crate::nats::agents::{Identity, QUEUE_GROUP as AGENTS_QUEUE_GROUP};
use crate::nats::broker::Broker;
use crate::nats::control::Settings;
use crate::nats::documents::{self, session_subject};
use crate::nats::host::Host;
use crate::nats::intake::{Create, IntakeError};
use crate::nats::micro::{self, Counters};
use crate::nats::services::{IntakeService, SessionService};
use crate::nats::session_subjects::{Place, SessionSubjects};
use crate::nats::{Connection, ConnectionEvent, Message, Subscription};
use crate::reply::Reply;
use crate::session::{self, Command, EndReason, Facts, Info, Parts, Prompt, Setup, Storage};
use crate::socket::{ClientRequest, SessionSocket, SocketServer};
use crate::state_dir::{OpenError, SavedSession, StateDir};
use crate::threads::{self, Thread};
use crate::tools::{self, child};
use crate::transcript::{locate, now_ms};
use crate::turn::Incoming;
use company::Company;
use crossbeam_channel::{Receiver, Sender, after, bounded, never, select, tick};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Requests that may wait for the main thread.
const INTAKE_WAITING: usize = 1024;
/// Commands that may wait for one session: an end, a drain, and room for its clients' requests.
const COMMANDS: usize = 64;
/// Ended programs of tools that nobody waits for are taken note of this often.
const TICK: Duration = Duration::from_secs(2);
/// Time for sessions to end, once their grace period is over.
const END_TIMEOUT: Duration = Duration::from_secs(8);
/// How long leaving the intake to others waits for what the server still has for us.
const LAST_CALL: Duration = Duration::from_millis(500);
/// Time for the last output to reach the server.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Told to those who name no model where none can be chosen for them.
const NO_MODEL: &str = "no model: the request names none, none is configured, and no provider has a key; set one in auth.json \
    or an environment variable such as ANTHROPIC_API_KEY, or name offline/demo to try without a model";

/// Everything that can happen to the daemon.
enum Event {
    Signal,
    Nats(ConnectionEvent),
    Request(Box<Message>),
    /// Another daemon of this owner says something.
    Peer(Box<Message>),
    Discovery(Box<Message>),
    Client(Box<ClientRequest>),
    /// A session is over, and why.
    Ended(String, &'static str),
    /// Time for the agents' signs of life.
    Heartbeat,
    /// The time is up for a phase of the shutdown, or for other daemons to answer.
    Deadline,
    /// Time to look after what programs left behind.
    Tick,
}

/// The main thread's side of a session.
struct Entry {
    info: Arc<Info>,
    facts: Arc<Facts>,
    commands: Sender<Command>,
    /// Absent for ephemeral runs, which are not discoverable.
    service: Option<Arc<SessionService>>,
    /// Those who wait for its end.
    stoppers: Vec<Stopped>,
    thread: Thread,
}

/// Takes `{ok, sessionId}` when a session that was to be stopped is over.
type Stopped = Box<dyn FnOnce(Value) + Send>;

impl Entry {
    fn stop(&mut self, stopped: Stopped) {
        self.stoppers.push(stopped);
        // A session that has not even read its last commands is ending already.
        let _ = self.commands.try_send(Command::End(EndReason::Stopped));
    }
}

/// Who asks for a session.
struct Caller<'a> {
    /// Where the answer to the first prompt goes; made when nothing can be refused any more.
    reply: &'a dyn Fn() -> Arc<dyn Reply>,
    counters: Arc<Counters>,
    sender: Option<AgentSender>,
    received: Instant,
}

/// How far a shutdown has come.
enum Phase {
    Serving,
    /// Running prompts may finish until the deadline.
    Draining(Instant),
    /// All sessions were told to end; what is left at the deadline is left behind.
    Ending(Instant),
}

struct Daemon {
    config: Arc<Config>,
    services: Arc<Services>,
    connection: Connection,
    /// What the sessions share on it.
    host: Arc<Host>,
    /// By instance id, so that a session that ends cannot be taken for its successor of the same name.
    sessions: BTreeMap<String, Entry>,
    intake: IntakeService,
    controller: Controller,
    company: Company,
    spill_root: tempfile::TempDir,
    /// What is remembered over a restart; absent where that is not possible.
    state: Option<Arc<StateDir>>,
    signals: Receiver<i32>,
    connection_events: Receiver<ConnectionEvent>,
    intake_requests: Receiver<Box<Message>>,
    discovery_requests: Receiver<Box<Message>>,
    ticks: Receiver<Instant>,
    heartbeats: Receiver<Instant>,
    /// Where clients can talk to sessions on this machine, unless there is no such place.
    bridge: Option<SocketServer>,
    client_requests: Receiver<ClientRequest>,
    ended: Receiver<(String, &'static str)>,
    ended_sender: Sender<(String, &'static str)>,
    /// What a failing server said last, so that an outage is one line in the log.
    outage_reported: bool,
    registered: bool,
    phase: Phase,
    /// The intake and the controller, while requests are taken.
    intake_subscriptions: Vec<Subscription>,
    _discovery_subscriptions: Vec<Subscription>,
    /// The last to go, because the connection says good-bye to it.
    _broker: Option<Broker>,
}

/// Why the daemon could not begin.
pub enum Fatal {
    /// Another daemon serves these sessions.
    Taken(String),
    Failed(String),
}

impl Fatal {
    pub fn exit_code(&self) -> u8 {
        match self {
            // EX_CANTCREAT of sysexits.h: supervisors shall not try again at once.
            Fatal::Taken(_) => 73,
            Fatal::Failed(_) => 1,
        }
    }
}

impl fmt::Display for Fatal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fatal::Taken(text) | Fatal::Failed(text) => f.write_str(text),
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
pub fn serve(config: Config, signals: Receiver<i32>) -> Result<(), Fatal> {
    let mut daemon = Daemon::start(config, signals)?;
    daemon.restore_sessions();
    while daemon.handle_next().is_continue() {}
    daemon.close();
    Ok(())
}

impl Daemon {
    fn start(mut config: Config, signals: Receiver<i32>) -> Result<Daemon, Fatal> {
        let state = open_state(&config)?;
        let broker = config.broker.take().map(start_broker).transpose()?.flatten();
        if let Some(broker) = &broker {
            config.nats.servers = vec![config::address_of(broker.address())];
        }
        let servers = config.nats.servers.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        log::info!("connecting to {servers} (context: {})", config.context_name);
        let (event_sender, connection_events) = bounded(64);
        let connection =
            Connection::start(config.nats.clone(), event_sender).map_err(|e| format!("cannot start NATS: {e}"))?;
        let (intake_sender, intake_requests) = bounded(INTAKE_WAITING);
        let (discovery_sender, discovery_requests) = bounded(INTAKE_WAITING);
        let subject = format!("agents.pi-exec.{}", config.owner);
        let subscribe = |subject: &str, queue, to: &Sender<Box<Message>>| {
            connection.subscribe(subject, queue, to.clone()).map_err(|e| format!("{subject}: {e}"))
        };
        let mut intake_subscriptions = vec![subscribe(&subject, Some(micro::QUEUE_GROUP), &intake_sender)?];
        for verb in controller::VERBS {
            let subject = Identity { owner: &config.owner, instance_id: "", session: None }.subject(verb);
            intake_subscriptions.push(subscribe(&subject, Some(AGENTS_QUEUE_GROUP), &intake_sender)?);
        }
        let discovery_subscriptions: Result<Vec<_>, String> =
            micro::subjects().iter().map(|subject| subscribe(subject, None, &discovery_sender)).collect();
        let discovery_subscriptions = discovery_subscriptions?;
        let (ended_sender, ended) = bounded(INTAKE_WAITING);
        let spill_root = tempfile::Builder::new()
            .prefix("nats-pi-bridge-")
            .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o700))
            .tempdir()
            .map_err(|e| format!("no folder for temporary files: {e}"))?;
        let config = Arc::new(config);
        let host = Arc::new(Host::new(&connection, &config));
        let (bridge, client_requests) = clients::start(&config)?;
        Ok(Daemon {
            services: Arc::new(Services::new(&config.agent_dir)),
            intake: IntakeService::new(subject),
            controller: Controller::default(),
            company: Company::new(&host).map_err(|e| e.to_string())?,
            heartbeats: tick(config.heartbeat_interval),
            host,
            config,
            connection,
            sessions: BTreeMap::new(),
            spill_root,
            state,
            signals,
            connection_events,
            intake_requests,
            discovery_requests,
            ticks: tick(TICK),
            bridge,
            client_requests,
            ended,
            ended_sender,
            outage_reported: false,
            registered: false,
            phase: Phase::Serving,
            intake_subscriptions,
            _discovery_subscriptions: discovery_subscriptions,
            _broker: broker,
        })
    }

    fn handle_next(&mut self) -> ControlFlow<()> {
        let event = self.next_event();
        self.handle_event(event);
        match self.phase {
            Phase::Serving => ControlFlow::Continue(()),
            Phase::Draining(_) | Phase::Ending(_) if !self.sessions.is_empty() => ControlFlow::Continue(()),
            Phase::Draining(_) | Phase::Ending(_) => ControlFlow::Break(()),
        }
    }

    fn next_event(&self) -> Event {
        let shutdown = match self.phase {
            Phase::Serving => None,
            Phase::Draining(end) | Phase::Ending(end) => Some(end),
        };
        let deadline = shutdown.into_iter().chain(self.company.deadline()).min();
        let deadline = deadline.map_or_else(never, |end| after(end.saturating_duration_since(Instant::now())));
        let requests = if self.company.is_settled() { self.intake_requests.clone() } else { never() };
        select! {
            recv(self.signals) -> _ => Event::Signal,
            recv(self.ended) -> ended => ended.map_or(Event::Deadline, |(id, reason)| Event::Ended(id, reason)),
            recv(self.connection_events) -> event => Event::Nats(event.unwrap_or(ConnectionEvent::Closed)),
            recv(requests) -> message => message.map_or(Event::Deadline, Event::Request),
            recv(self.company.messages()) -> message => message.map_or(Event::Deadline, Event::Peer),
            recv(self.discovery_requests) -> message => message.map_or(Event::Deadline, Event::Discovery),
            recv(self.client_requests) -> request => request.map_or(Event::Deadline, |r| Event::Client(Box::new(r))),
            recv(deadline) -> _ => Event::Deadline,
            recv(self.ticks) -> _ => Event::Tick,
            recv(self.heartbeats) -> _ => Event::Heartbeat,
        }
    }

    fn handle_event(&mut self, event: Event) {
        match event {
            Event::Signal => self.advance_shutdown(),
            Event::Nats(event) => self.connection_event(event),
            Event::Request(message) => self.request(*message),
            Event::Peer(message) => self.peer(*message),
            Event::Discovery(message) => self.discovery(&message),
            Event::Client(request) => self.client(*request),
            Event::Ended(instance_id, reason) => self.forget(&instance_id, reason),
            Event::Tick => {
                child::reap_orphans();
                self.host.tick(Instant::now());
            }
            Event::Heartbeat => {
                self.company.announce();
                self.heartbeats();
            }
            Event::Deadline => {
                self.advance_company();
                if let Phase::Draining(end) | Phase::Ending(end) = self.phase
                    && end <= Instant::now()
                {
                    self.advance_shutdown();
                }
            }
        }
    }

    fn connection_event(&mut self, event: ConnectionEvent) {
        match event {
            ConnectionEvent::Connected { server, .. } => {
                self.outage_reported = false;
                if self.registered {
                    log::info!("reconnected to {server}");
                } else {
                    self.registered = true;
                    log::info!("connected");
                    log::info!("intake registered on {}", self.intake.subject);
                }
                self.company.connected();
                self.heartbeats();
            }
            ConnectionEvent::Disconnected { reason } => log::warn!("disconnected: {reason}"),
            ConnectionEvent::ConnectFailed { server, error } => {
                if self.outage_reported {
                    log::debug!("no connection to {server}: {error}");
                } else {
                    self.outage_reported = true;
                    log::warn!("no connection to {server}: {error}; trying again until there is one");
                }
            }
            ConnectionEvent::ServerError(text) => log::warn!("the NATS server says: {text}"),
            ConnectionEvent::SlowConsumer { subject, dropped } => {
                log::warn!("{dropped} messages to {subject} were dropped: too many at a time");
            }
            ConnectionEvent::LameDuck => log::info!("the NATS server is about to shut down"),
            ConnectionEvent::Closed => log::debug!("connection closed"),
        }
    }

    /// The document of `list`, of at most so many bytes.
    fn listing(&self, limit: usize) -> Value {
        let now = Instant::now();
        let mut entries: Vec<&Entry> = self.sessions.values().collect();
        entries.sort_by_key(|entry| entry.info.created_ms);
        let (sessions, runs): (Vec<&Entry>, Vec<&Entry>) = entries.into_iter().partition(|e| e.info.named);
        let rows = |entries: Vec<&Entry>| {
            entries.iter().map(|e| documents::summary(&self.config.owner, &e.info, &e.facts, now)).collect()
        };
        documents::listing(rows(sessions), rows(runs), limit)
    }

    fn named(&mut self, session_id: &str) -> Option<&mut Entry> {
        self.sessions.values_mut().find(|entry| entry.info.named && entry.info.id == session_id)
    }

    /// Checks a request for a session and starts it; returns its instance id.
    fn create(&mut self, create: &Create, caller: Caller<'_>) -> Result<String, IntakeError> {
        let Caller { reply, counters, sender, received } = caller;
        if let Some(session_id) = &create.session_id
            && self.named(session_id).is_some()
        {
            let subject = session_subject(&self.config.owner, session_id);
            return Err(IntakeError::SessionExists { session_id: session_id.clone(), subject });
        }
        let cwd = working_directory(&create.cwd)?;
        let failed = |message: String| IntakeError::SessionCreateFailed { message };
        let services = self.services_for(&cwd);
        let (model, level) = match create.model()?.or(self.config.default_model.as_deref()) {
            Some(spec) => services.resolve(spec).map_err(|e| failed(e.to_string()))?,
            None => (services.default_model().ok_or_else(|| failed(NO_MODEL.into()))?, None),
        };
        let thinking = create.thinking()?.or(level).or(self.config.default_thinking);
        let thinking = model.clamp(thinking.unwrap_or_else(|| services.default_thinking(&model)));
        let max_lifetime = create.max_lifetime()?.unwrap_or(self.config.default_max_lifetime);
        let from = create.from()?.map(str::to_string);
        services.check_credentials(&model).map_err(|e| failed(e.to_string()))?;
        if self.sessions.len() >= self.config.max_sessions {
            let message = format!("{} sessions are open, which is the limit", self.sessions.len());
            return Err(IntakeError::Busy { message });
        }
        let usual = self.usual_tools(&services, create.session_id.is_some());
        let tools = match create.tools()? {
            Some(names) => tools::select(&names, &usual).map_err(|message| IntakeError::InvalidRequest { message })?,
            None => usual,
        };
        let storage = self.storage(create, &cwd)?;
        let invalid = |name: &str| IntakeError::InvalidRequest { message: format!("{name} must be true or false") };
        let settings = Settings::from_json(create.options()).map_err(invalid)?;
        let info = Arc::new(Info {
            id: create.session_id.clone().unwrap_or_else(|| format!("run-{:08x}", fastrand::u32(..))),
            instance_id: micro::new_id(),
            named: create.session_id.is_some(),
            cwd,
            from: from.clone(),
            tools,
            created_ms: now_ms(),
        });
        let deadline = if max_lifetime.is_zero() { None } else { received.checked_add(max_lifetime) };
        let name = create.name()?.map(str::to_owned);
        let setup = Setup { model, thinking, name, max_lifetime, deadline, file: None };
        let socket = self.open_socket(&info)?;
        let first = create.body.clone().map(|body| Prompt {
            message: Incoming::new(body),
            from,
            sender,
            reply: reply(),
            counters,
            received,
        });
        let instance_id = info.instance_id.clone();
        self.start_session(info, Arc::new(Facts::new(setup)), settings, socket, storage, first)?;
        Ok(instance_id)
    }

    /// What sessions in this folder have to work with, which is the project's business where the operator trusts it.
    fn services_for(&self, cwd: &Path) -> Arc<Services> {
        if self.config.trusts(cwd) { Arc::new(self.services.of_project(cwd)) } else { self.services.clone() }
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
    fn session_dir(&self) -> Option<PathBuf> {
        self.config.session_dir.clone().or_else(|| self.services.session_dir().map(PathBuf::from))
    }

    /// Where a new session's transcript is kept.
    fn storage(&self, create: &Create, cwd: &Path) -> Result<Storage, IntakeError> {
        if let Some(wanted) = create.resume()? {
            let root = self.session_dir().unwrap_or_else(|| self.config.agent_dir.join("sessions"));
            let file = locate::find(&root, cwd, wanted)
                .map_err(|e| IntakeError::SessionCreateFailed { message: format!("resume {wanted:?}: {e}") })?;
            let (model, thinking) = (create.model()?.is_none(), create.thinking()?.is_none());
            return Ok(Storage::Resume { file, model, thinking });
        }
        let keep = match create.session_id {
            Some(_) => create.switch("persist")?.unwrap_or(self.config.persist),
            None => create.switch("keep")?.unwrap_or(false),
        };
        Ok(if keep { Storage::New(self.session_folder(cwd)) } else { Storage::None })
    }

    /// Brings back the sessions of before the restart.
    fn restore_sessions(&mut self) {
        for saved in self.state.as_ref().map(|state| state.sessions()).unwrap_or_default() {
            let id = saved.id.clone();
            if let Err(why) = self.restore_session(saved) {
                log::warn!("session {id} cannot be brought back: {why}");
            }
        }
    }

    fn restore_session(&mut self, saved: SavedSession) -> Result<(), String> {
        let (model, _) = self.services.resolve(&saved.model).map_err(|e| e.to_string())?;
        let thinking = ThinkingLevel::parse(&saved.thinking).unwrap_or(ThinkingLevel::Off);
        let totals = session::settled_totals(&saved.file).unwrap_or_default();
        let left = saved.ends_ms.map(|end| Duration::from_millis(u64::try_from(end - now_ms()).unwrap_or_default()));
        let info = Arc::new(Info {
            id: saved.id,
            instance_id: saved.instance_id,
            named: true,
            cwd: saved.cwd,
            from: saved.from,
            tools: saved.tools,
            created_ms: saved.created_ms,
        });
        let facts = Arc::new(Facts::new(Setup {
            thinking: model.clamp(thinking),
            model,
            name: saved.name,
            max_lifetime: saved.max_lifetime,
            deadline: left.and_then(|left| Instant::now().checked_add(left)),
            file: Some(saved.file.clone()),
        }));
        if let Some(totals) = &totals {
            facts.restore(totals);
        }
        let storage = Storage::Saved { file: saved.file, totals };
        let socket = self.open_socket(&info).map_err(|e| e.summary())?;
        self.start_session(info, facts, Settings::default(), socket, storage, None).map_err(|e| e.summary())
    }

    fn start_session(
        &mut self,
        info: Arc<Info>,
        facts: Arc<Facts>,
        settings: Settings,
        socket: Option<SessionSocket>,
        storage: Storage,
        first: Option<Prompt>,
    ) -> Result<(), IntakeError> {
        let service = info.named.then(Arc::<SessionService>::default);
        let spill_dir = self.spill_root.path().join(&info.instance_id);
        let subjects = match &service {
            None => None,
            Some(service) => {
                let kept = self.state.as_ref().filter(|_| !matches!(storage, Storage::None));
                let place = Place {
                    host: self.host.clone(),
                    service: service.clone(),
                    info: info.clone(),
                    facts: facts.clone(),
                    attachments: kept
                        .map_or_else(|| spill_dir.join("attachments"), |state| state.attachments(&info.id)),
                    settings,
                };
                let opened = SessionSubjects::open(place);
                Some(opened.map_err(|e| IntakeError::SessionCreateFailed { message: e.to_string() })?)
            }
        };
        let (commands, receiver) = bounded(COMMANDS);
        let spill_dir = self.spill_root.path().join(&info.instance_id);
        let parts = Parts {
            config: self.config.clone(),
            services: self.services_for(&info.cwd),
            info: info.clone(),
            facts: facts.clone(),
            subjects,
            commands: receiver,
            raw_file: match &self.bridge {
                Some(bridge) => bridge.raw_file(&info),
                None => spill_dir.join("events.jsonl"),
            },
            spill_dir,
            state: self.state.clone(),
            storage,
            first,
        };
        let (ended, instance_id) = (self.ended_sender.clone(), info.instance_id.clone());
        let thread = threads::spawn(&format!("s-{}", info.id), threads::SESSION_STACK, move || {
            let reason = catch_unwind(AssertUnwindSafe(|| session::run(parts)));
            if reason.is_err() {
                log::error!("internal_error: a session panicked and is over");
            }
            // The daemon waits for this until it ends itself.
            let _ = ended.send((instance_id, reason.map_or("internal_error", EndReason::as_str)));
        })
        .map_err(|e| IntakeError::Busy { message: format!("no thread for a session: {e}") })?;
        if info.named {
            log::info!("session {} started in {}", info.id, info.cwd.display());
        }
        if let Some(bridge) = &mut self.bridge {
            bridge.session_started(socket, &info, &facts, &commands);
        }
        let entry = Entry { info, facts, commands, service, stoppers: Vec::new(), thread };
        self.heartbeat(&entry);
        self.sessions.insert(entry.info.instance_id.clone(), entry);
        Ok(())
    }

    /// A session is over: tells those who waited for that.
    fn forget(&mut self, instance_id: &str, reason: &str) {
        let Some(entry) = self.sessions.remove(instance_id) else { return };
        drop(entry.thread);
        if let Some(bridge) = &mut self.bridge {
            bridge.session_ended(instance_id, reason);
        }
        if entry.info.named {
            log::info!("session {} ended", entry.info.id);
        }
        for stopped in entry.stoppers {
            stopped(json!({"ok": true, "sessionId": entry.info.id}));
        }
    }

    /// Serving -> draining -> ending -> leaving behind; by a signal, or because a phase took too long.
    fn advance_shutdown(&mut self) {
        let now = Instant::now();
        match self.phase {
            Phase::Serving => {
                log::info!("shutting down ({} sessions)", self.sessions.len());
                // Company takes over what comes from now on.
                if self.company.leave() {
                    self.intake_subscriptions.drain(..).for_each(|subscription| {
                        subscription.drain(LAST_CALL);
                    });
                }
                self.tell_all(|| Command::Drain);
                self.phase = Phase::Draining(now + self.config.grace);
            }
            Phase::Draining(_) => {
                self.tell_all(|| Command::End(EndReason::ShutDown));
                self.phase = Phase::Ending(now + END_TIMEOUT);
            }
            Phase::Ending(end) if end <= now => {
                for (_, entry) in std::mem::take(&mut self.sessions) {
                    log::warn!("session {} does not end and is left behind", entry.info.id);
                    entry.thread.abandon();
                }
            }
            Phase::Ending(_) => {}
        }
    }

    fn tell_all(&self, command: impl Fn() -> Command) {
        for entry in self.sessions.values() {
            // A session with a full inbox is ending already.
            let _ = entry.commands.try_send(command());
        }
    }

    fn close(self) {
        drop(self.bridge);
        self.connection.close(CLOSE_TIMEOUT);
        log::info!("stopped");
    }
}

/// Serves a broker, unless something listens there already, which then is taken for the server.
fn start_broker(plan: BrokerPlan) -> Result<Option<Broker>, String> {
    match Broker::start(plan.listen, plan.options) {
        Ok(broker) => {
            log::info!("no NATS server is configured: serving one on {}", broker.address());
            Ok(Some(broker))
        }
        Err(e) if e.kind() == std::io::ErrorKind::AddrInUse => Ok(None),
        Err(e) => Err(format!("cannot serve a NATS broker on {}: {e}", plan.listen)),
    }
}

/// The memory of sessions over a restart. Without one the daemon serves all the same.
fn open_state(config: &Config) -> Result<Option<Arc<StateDir>>, Fatal> {
    let folder = config.state_dir.display();
    match StateDir::open(&config.state_dir) {
        Ok(state) => Ok(Some(Arc::new(state))),
        Err(OpenError::Taken(pid)) => Err(Fatal::Taken(format!(
            "another nats-pi-bridge (process {pid}) serves the sessions in {folder}; stop it, or set another --state-dir"
        ))),
        Err(OpenError::Io(e)) => {
            log::warn!("sessions will not be kept over a restart: {folder}: {e}");
            Ok(None)
        }
    }
}

/// The working directory of a session, absolute.
fn working_directory(cwd: &str) -> Result<PathBuf, IntakeError> {
    let failed = |why: String| IntakeError::SessionCreateFailed { message: format!("cwd {cwd:?}: {why}") };
    let path = std::path::absolute(cwd).map_err(|e| failed(e.to_string()))?;
    match std::fs::metadata(&path) {
        Ok(facts) if facts.is_dir() => Ok(path),
        Ok(_) => Err(failed("not a directory".into())),
        Err(e) => Err(failed(e.to_string())),
    }
}
