//! How the daemon begins: it opens its memory, its connection and its side channel.

use super::admission::Shares;
use super::notices::Notifier;
use super::operators::Operators;
use super::peers::Peers;
use super::reloading::{Reloading, Reread};
use super::replacing::{self, Replacing};
use super::spill_root::{self, SpillRoot};
use super::{DISCOVERY_LIMITS, Daemon, ENDED_WAITING, Fatal, INTAKE_LIMITS, Phase, TICK, requests};
use super::{auditing, clients};
use crate::broker::{Broker, sockets};
use crate::config::{self, BrokerPlan, Config};
use crate::governance::budget::Ledger;
use crate::model::Services;
use crate::nats::{Connection, ConnectionEvent, Subscription};
use crate::quota::HostQuota;
use crate::service::agents::QUEUE_GROUP as AGENTS_QUEUE_GROUP;
use crate::service::agents::controller::{self, Controller};
use crate::service::host::Host;
use crate::service::micro;
use crate::service::services::IntakeService;
use crate::service::waiting_room::{Class, WaitingRoom};
use crate::session::state_dir::{OpenError, StateDir};
use crate::slots::Slots;
use crate::supervisor::Supervisor;
use crate::threads;
use crossbeam_channel::{Receiver, after, bounded, select, tick};
use signal_hook::consts::SIGHUP;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

/// Waits for the first connection. `without` says what it means that there is none; `failed` hears of tries in vain.
///
/// # Errors
/// There is none in time, and why; or the process is told to end.
pub(super) fn wait_connected(
    events: &Receiver<ConnectionEvent>,
    signals: &Receiver<i32>,
    within: Duration,
    without: &str,
    mut failed: impl FnMut(&str),
) -> Result<ConnectionEvent, Fatal> {
    let deadline = after(within);
    let mut why = "no answer".to_owned();
    let none = |why: &str| Err(Fatal::Failed(format!("no connection to NATS, {without}: {why}")));
    loop {
        select! {
            recv(events) -> event => match event {
                Ok(connected @ ConnectionEvent::Connected { .. }) => return Ok(connected),
                Ok(ConnectionEvent::ConnectFailed { server, error }) => {
                    why = format!("{server}: {error}");
                    failed(&why);
                }
                Ok(ConnectionEvent::ServerError(error)) => why = error,
                Ok(_) => {}
                Err(_) => return none(&why),
            },
            recv(signals) -> signal => match signal {
                Ok(SIGHUP) => {}
                Ok(_) | Err(_) => return Err(Fatal::Stopped),
            },
            recv(deadline) -> _ => return none(&why),
        }
    }
}

impl Daemon {
    pub(super) fn start(
        mut config: Config,
        reread: Reread,
        signals: Receiver<i32>,
        replaces: bool,
    ) -> Result<Daemon, Fatal> {
        let supervisor = Supervisor::from_environment();
        let (state, mut predecessor) = match replaces {
            true => replacing::find(&config)?,
            false => (open_state(&config)?, None),
        };
        let plan = config.broker.take();
        let broker = plan.as_ref().map(start_broker).transpose()?.flatten();
        let standby = plan.filter(|_| broker.is_none());
        if let Some(broker) = &broker {
            config.nats.servers = vec![config::address_of(broker.address())];
        }
        let servers = config.nats.servers.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        log::info!("connecting to {servers} (context: {})", config.context_name);
        let (event_sender, connection_events) = bounded(64);
        let connection =
            Connection::start(config.nats.clone(), event_sender).map_err(|e| format!("cannot start NATS: {e}"))?;
        let spill_root = SpillRoot::make().map_err(|e| format!("no folder for temporary files: {e}"))?;
        let (bridge, client_requests) = clients::start(&config)?;
        let ledger = open_ledger(&config)?;
        let notifier = Notifier::start(&config)?;
        let notices = notifier.as_ref().map(Notifier::notices);
        let audit = auditing::start(&config, &connection)?;
        // Up to here nothing has changed for the process that is to be replaced.
        let connected = match (&predecessor, &config.fleet) {
            (Some(_), _) => Some(replacing::wait_connected(&connection_events)?),
            (None, Some(_)) => Some(super::fleet::wait_connected(&connection_events, &signals)?),
            (None, None) => None,
        };
        let fleet = super::fleet::open(&config, &connection, predecessor.is_some())?;
        let nonces = state.as_ref().map(|state| state.nonces());
        let state = match &mut predecessor {
            None => state,
            Some(predecessor) => {
                let lock = predecessor.ask(&config.owner).map_err(|why| {
                    Fatal::Taken(format!("the process that serves these sessions does not hand them over: {why}"))
                })?;
                Some(Arc::new(StateDir::share(&config.state_dir, lock)))
            }
        };
        let host = Arc::new(Host::new(&connection, config.host_options(nonces)));
        let ledger = match &fleet {
            Some(fleet) => super::fleet::share_day(fleet, ledger, &config)?,
            None => ledger,
        };
        let ledger = Arc::new(ledger);
        let memory = fleet.as_ref().map(|fleet| super::fleet::share_memory(fleet, &host)).transpose()?;
        let (discovery_room, discovery_requests) =
            WaitingRoom::new(DISCOVERY_LIMITS, |_| Class::Query, Box::new(|_| ()), host.reply_subjects.clone());
        let intake = IntakeService::new(format!("agents.pi-exec.{}", config.owner));
        let refuse = requests::refuse_unread(&connection, &intake.counters);
        let (intake_room, intake_requests) =
            WaitingRoom::new(INTAKE_LIMITS, requests::class, refuse, host.reply_subjects.clone());
        let intake_subscriptions = subscribe_to_intake(&host, &intake.subject, &intake_room)?;
        let mut discovery_subscriptions = Vec::new();
        for subject in micro::subjects() {
            let subscription = connection.subscribe(&subject, None, discovery_room.clone());
            discovery_subscriptions.push(subscription.map_err(|e| format!("{subject}: {e}"))?);
        }
        let quota = HostQuota::new(config.max_session_bytes, config.max_host_bytes);
        let slots = Slots::new(config.max_running);
        let (ended_sender, ended) = bounded(ENDED_WAITING);
        let mut daemon = Daemon {
            services: Arc::new(Services::new(&config.agent_dir, config.oauth_refresh.clone())),
            intake,
            controller: Controller::default(),
            peers: Peers::new(&host, fleet.as_ref()).map_err(|e| e.to_string())?,
            heartbeats: tick(config.heartbeat_interval),
            host,
            fleet,
            _memory: memory,
            hosts: None,
            arriving: BTreeMap::new(),
            found_early: BTreeMap::new(),
            waits_for_host: BTreeMap::new(),
            session_options: Arc::new(config.session_options(ledger.clone(), audit.clone(), notices)),
            ledger,
            audit,
            config,
            connection,
            sessions: BTreeMap::new(),
            spill_root,
            quota,
            slots,
            shares: Shares::default(),
            state,
            signals,
            connection_events,
            intake_room,
            intake_requests,
            discovery_room,
            discovery_requests,
            ticks: tick(supervisor.period().map_or(TICK, |period| period.min(TICK))),
            supervisor,
            bridge,
            notifier,
            operators: Operators::new(),
            client_requests,
            ended,
            ended_sender,
            outage_causes: HashSet::new(),
            outage_since: None,
            server_errors: BTreeMap::new(),
            registered: false,
            replacing: Replacing::new(),
            reloading: Reloading::new(reread),
            failure: None,
            phase: Phase::Serving,
            started: 0,
            released_after: (0, 0),
            intake_subscriptions,
            _discovery_subscriptions: discovery_subscriptions,
            standby,
            broker,
        };
        match daemon.operators.listen(&daemon.config, &daemon.services) {
            Err(why) if !replaces => return Err(why.into()),
            Ok(()) | Err(_) => {}
        }
        connected.into_iter().for_each(|event| daemon.connection_event(event));
        daemon.begin_serving(predecessor)?;
        // Nobody waits for it, and there may be much.
        match threads::spawn("sweep", threads::SMALL_STACK, || spill_root::sweep(&std::env::temp_dir())) {
            Ok(thread) => thread.abandon(),
            Err(e) => log::debug!("what other daemons left behind stays: {e}"),
        }
        Ok(daemon)
    }
}

/// Takes requests to the intake and to the controller, shared with the other daemons of the owner.
///
/// # Errors
/// The connection takes no more subscriptions.
pub(super) fn subscribe_to_intake(
    host: &Host,
    intake: &str,
    room: &Arc<WaitingRoom>,
) -> Result<Vec<Subscription>, String> {
    let subscribe = |subject: &str, queue| {
        host.connection.subscribe(subject, Some(queue), room.clone()).map_err(|e| format!("{subject}: {e}"))
    };
    let mut subscriptions = vec![subscribe(intake, micro::QUEUE_GROUP)?];
    for agent in host.agents(None) {
        for verb in controller::VERBS {
            subscriptions.push(subscribe(&agent.subject(verb), AGENTS_QUEUE_GROUP)?);
        }
    }
    Ok(subscriptions)
}

/// Serves a broker, unless something listens there already that may be taken for the server.
pub(super) fn start_broker(plan: &BrokerPlan) -> Result<Option<Broker>, String> {
    match Broker::start(plan.listen, plan.options.clone()) {
        Ok(broker) => {
            log::info!("no NATS server is configured: serving one on {}", broker.address());
            Ok(Some(broker))
        }
        Err(e) if e.kind() == std::io::ErrorKind::AddrInUse => match sockets::listener(plan.listen) {
            // Who listens may have gone meanwhile, and is looked at again when there is a connection.
            None => Ok(None),
            Some(owner) if owner.may_serve() => Ok(None),
            Some(owner) => Err(format!(
                "{} is in use by another user (uid {}), who could see and say everything there; name a free address with \
                 --listen, or this server with --server if it is to be used",
                plan.listen, owner.uid
            )),
        },
        Err(e) => Err(format!("cannot serve a NATS broker on {}: {e}", plan.listen)),
    }
}

/// Where it is kept what sessions spend. Without it a daemon that has to heed budgets serves nobody.
fn open_ledger(config: &Config) -> Result<Ledger, Fatal> {
    let ledger = Ledger::new(config.budget_dir.clone());
    if !config.budgets.is_empty() {
        ledger.open().map_err(|e| format!("no budgets can be kept in {}: {e}", config.budget_dir.display()))?;
    }
    Ok(ledger)
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
