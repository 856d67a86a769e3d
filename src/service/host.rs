//! What all sessions of the daemon share on NATS.

use super::agents::SenderTrust;
use super::agents::sender::{self, Senders};
use super::agents::{AGENT, AgentIdentity, CalledAs, Terms};
use super::recent::Recent;
use super::replies::report;
use super::reply_subjects::ReplySubjects;
use super::stream::KeepAlive;
use crate::clock::now_ms;
use crate::contract::identity::SessionIdentity;
use crate::ids;
use crate::nats::Connection;
use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Histories that are rendered at the same time. Each takes a thread and up to a few MiB for a moment.
const MAX_RENDERING: usize = 4;

/// The settings of what the daemon says on NATS.
pub(crate) struct HostOptions {
    /// One subject token.
    pub owner: String,
    /// A further name of the kind of agent that the controller and the sessions are; one subject token.
    pub agent_alias: Option<String>,
    /// Between two heartbeats of an agent.
    pub heartbeat_interval: Duration,
    /// Sessions publish their events unless told otherwise.
    pub events: bool,
    pub min_sender_trust: SenderTrust,
    /// What the reply subjects of requests have to begin with.
    pub reply_prefixes: Vec<String>,
    /// Public keys of the only users whose signatures count then; empty = all.
    pub trusted_senders: HashSet<String>,
    /// Where it is kept over restarts which signed requests were accepted.
    pub nonces: Option<PathBuf>,
}

/// Shared by the main thread and the sessions.
pub(crate) struct Host {
    pub connection: Connection,
    /// One subject token.
    pub owner: String,
    agent_alias: Option<String>,
    /// Identifies this process among the hosts of its owner; also the controller's instance id.
    pub id: String,
    /// Between two heartbeats of an agent.
    pub heartbeat_interval: Duration,
    /// Sessions publish their events unless told otherwise.
    pub events: bool,
    pub senders: Senders,
    pub recent: Recent,
    pub keep_alive: KeepAlive,
    pub reply_subjects: Arc<ReplySubjects>,
    rendering: AtomicUsize,
}

impl Host {
    pub(crate) fn new(connection: &Connection, options: HostOptions) -> Host {
        Host {
            connection: connection.clone(),
            owner: options.owner,
            agent_alias: options.agent_alias,
            id: ids::nuid(),
            heartbeat_interval: options.heartbeat_interval,
            events: options.events,
            senders: Senders::trusting(options.min_sender_trust, options.trusted_senders, options.nonces),
            recent: Recent::default(),
            keep_alive: KeepAlive::default(),
            reply_subjects: Arc::new(ReplySubjects::new(options.reply_prefixes)),
            rendering: AtomicUsize::default(),
        }
    }

    /// What the agents' prompt endpoints accept now; the server of the next connection may have another limit.
    pub(crate) fn terms(&self, attachments: bool) -> Terms {
        Terms { max_payload: self.connection.max_payload(), trust: self.senders.trust(), attachments }
    }

    /// A session, or the controller, as an agent of the name that it is called by.
    pub(crate) fn agent<'a>(&'a self, called: CalledAs, session: Option<&'a SessionIdentity>) -> AgentIdentity<'a> {
        let agent = match called {
            CalledAs::Itself => AGENT,
            CalledAs::Alias => self.agent_alias.as_deref().unwrap_or(AGENT),
        };
        let life = session.map_or(&*self.id, |session| &*session.instance_id);
        AgentIdentity { agent, owner: &self.owner, life, session: session.map(|session| &*session.id) }
    }

    /// A session, or the controller, as the agents that it is.
    pub(crate) fn agents<'a>(
        &'a self,
        session: Option<&'a SessionIdentity>,
    ) -> impl Iterator<Item = AgentIdentity<'a>> {
        let alias = self.agent_alias.as_ref().map(|_| CalledAs::Alias);
        std::iter::once(CalledAs::Itself).chain(alias).map(move |called| self.agent(called, session))
    }

    /// A sign of life, as the answer of a status endpoint.
    pub(crate) fn status(&self, identity: AgentIdentity<'_>, now_ms: i64) -> String {
        identity.heartbeat(self.terms(identity.session.is_some()), self.heartbeat_interval, now_ms)
    }

    /// Publishes a sign of life. While there is no connection it would only wait, and be old when it goes out.
    pub(crate) fn heartbeat(&self, identity: AgentIdentity<'_>, now_ms: i64) {
        if self.connection.is_connected() {
            let (subject, document) = (identity.subject("hb"), self.status(identity, now_ms));
            let user = self.connection.identity();
            let proof = user.and_then(|user| identity.heartbeat_header(&user, &document, now_ms));
            let headers = proof.as_deref().map(|proof| (sender::HEADER, proof));
            report(&subject, self.connection.publish_held(&subject, headers.as_slice(), document.as_bytes()));
        }
    }

    /// What has to be looked after every few seconds.
    pub(crate) fn tick(&self, now: Instant) {
        self.keep_alive.tick(now);
        self.recent.tick(now);
        self.senders.tick(now_ms());
    }

    /// Leave to render one more history; it ends when `work` was done. False if too many are being rendered.
    pub(crate) fn begin_rendering(&self) -> bool {
        self.rendering
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |n| (n < MAX_RENDERING).then_some(n + 1))
            .is_ok()
    }

    pub(crate) fn end_rendering(&self) {
        self.rendering.fetch_sub(1, Ordering::AcqRel);
    }
}
