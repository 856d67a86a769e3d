//! The daemon's side of the side channel: what its clients ask of the daemon itself.

use super::{Caller, Daemon, Fatal};
use crate::config::Config;
use crate::contract::documents;
use crate::contract::error::DaemonError;
use crate::contract::identity::SessionIdentity;
use crate::contract::reply::Reply;
use crate::contract::request::Create;
use crate::nats::Connection;
use crate::socket::{ClientRequest, DaemonAsk, DaemonRespond, SessionSocket, SocketServer};
use crossbeam_channel::{Receiver, bounded, never};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Clients' requests that may wait for the main thread; a client waits when there are more.
const WAITING: usize = 64;
/// The longest page of `list`, bytes: a line of 1 MiB, without what stands around the document.
const LIST: usize = (1 << 20) - 4096;
/// How long a NATS server may take to know the subject of a session that a client of the side channel began.
const SUBSCRIBED: Duration = Duration::from_millis(500);

/// Starts the side channel. Without one the daemon serves all the same, unless it was asked for.
///
/// # Errors
/// The directory that the operator named cannot be used.
pub(super) fn start(config: &Config) -> Result<(Option<SocketServer>, Receiver<ClientRequest>), Fatal> {
    let Some(plan) = &config.bridge else { return Ok((None, never())) };
    let (sender, requests) = bounded(WAITING);
    match SocketServer::start(&plan.root, config.folders(), config.agent_control, sender) {
        Ok(server) => Ok((Some(server), requests)),
        Err(why) if plan.required => Err(Fatal::Failed(format!("no side channel: {why}"))),
        Err(why) => {
            log::warn!("there is no side channel: {why}");
            Ok((None, never()))
        }
    }
}

/// A client's request for a session.
pub(super) struct NewSession {
    pub create: Create,
    pub reply: Arc<dyn Reply>,
    pub respond: DaemonRespond,
}

impl Daemon {
    /// Does what a client asks, by the rules of the intake.
    pub(super) fn client(&mut self, request: ClientRequest) {
        let ClientRequest { ask, respond } = request;
        let serving = self.takes_work();
        match ask {
            DaemonAsk::ShutDown => {
                respond(Ok(json!({"requested": true})));
                // A client that asks twice does not mean that the sessions shall be cut off.
                if serving {
                    self.advance_shutdown();
                }
            }
            _ if !serving => respond(Err(DaemonError::ShuttingDown)),
            DaemonAsk::Drain(drain) => respond(self.drain(&drain)),
            DaemonAsk::Metrics => respond(Ok(self.metrics())),
            DaemonAsk::List(page) => respond(Ok(self.listing(&page, LIST))),
            DaemonAsk::Create { create, reply } => self.begin_for_client(NewSession { create, reply, respond }),
            DaemonAsk::Stop { session_id } => match self.by_id(&session_id) {
                Some(entry) => entry.stop(Box::new(|document| respond(Ok(document)))),
                None => respond(Err(DaemonError::NotFound { session_id })),
            },
        }
    }

    /// The socket of a session that is about to begin. That it cannot be had is found out before anybody waits for an
    /// answer of the session.
    pub(super) fn open_socket(&self, identity: &SessionIdentity) -> Result<Option<SessionSocket>, DaemonError> {
        let Some(bridge) = &self.bridge else { return Ok(None) };
        bridge
            .open_session(identity)
            .map_err(|e| DaemonError::Busy { message: format!("no socket for a session: {e}") })
    }

    /// Makes a session for a client, after the others were asked whether it is theirs.
    pub(super) fn create_for_client(&mut self, new: NewSession) {
        let NewSession { create, reply, respond } = new;
        if !self.takes_work() {
            return respond(Err(DaemonError::ShuttingDown));
        }
        let now = Instant::now();
        let caller = Caller { reply: &|| reply.clone(), sender: None, trace: None, received: now };
        let created = self.create(&create, caller).map(|instance_id| {
            let entry = self.sessions.get(&instance_id);
            entry.map_or(Value::Null, |e| documents::summary(&e.identity, &e.stats, now))
        });
        let connection = (created.is_ok() && create.session_id.is_some()).then(|| self.connection.clone());
        self.when_written(move || {
            // Who hears on this wire that there is a session may ask for it on the other one.
            if let Some(connection) = connection.filter(Connection::is_connected) {
                connection.round_trip(SUBSCRIBED);
            }
            respond(created);
        });
    }
}
