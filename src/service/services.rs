//! What discovery shows of the daemon: the intake, and for each named session one instance on either wire.

use super::agents::AgentIdentity;
use super::control::VERBS;
use super::host::Host;
use super::micro::{self, Counters, Endpoint, Instance, Query, Verb};
use super::session_subjects::session_subject;
use super::stream::Form;
use crate::clock::now_ms;
use crate::contract::identity::SessionIdentity;
use crate::contract::session::SessionStats;
use crate::ids;
use serde_json::{Map, Value, json};
use std::sync::{Arc, OnceLock};

/// The instance that takes requests for sessions.
pub(crate) struct IntakeService {
    id: String,
    pub subject: String,
    /// Unix time in milliseconds.
    pub started_ms: i64,
    pub counters: Arc<Counters>,
}

impl IntakeService {
    pub(crate) fn new(subject: String) -> IntakeService {
        IntakeService { id: ids::nuid(), subject, started_ms: now_ms(), counters: Arc::default() }
    }

    /// The answer to a discovery request, if the intake is asked, with what its statistics say beside the usual.
    pub(crate) fn answer(&self, query: Query<'_>, data: impl FnOnce() -> Map<String, Value>) -> Option<Value> {
        if !query.asks(micro::SERVICE, &self.id) {
            return None;
        }
        let data = if query.verb == Verb::Stats { data() } else { Map::new() };
        let instance = Instance {
            service: micro::SERVICE,
            id: &self.id,
            description: "intake".into(),
            metadata: Map::new(),
            endpoints: vec![Endpoint { data, ..Endpoint::new("intake", self.subject.clone(), &self.counters) }],
            started_ms: self.started_ms,
        };
        Some(instance.document(query.verb))
    }
}

/// What statistics say of budgets.
pub(crate) fn budgets(figures: Option<Value>) -> Map<String, Value> {
    figures.map(|figures| ("budgets".to_owned(), figures)).into_iter().collect()
}

/// Statistics of control endpoints that were never used.
static UNUSED: [Counters; VERBS.len()] = [const { Counters::new() }; VERBS.len()];

/// The instances of one session, and their statistics.
pub(crate) struct SessionService {
    /// Unix time in milliseconds; later than the creation of a session that was taken up again.
    started_ms: i64,
    pub prompt: Arc<Counters>,
    pub agent_prompt: Arc<Counters>,
    pub agent_status: Counters,
    /// In the order of [`VERBS`]. Most sessions are never controlled over NATS, and an idle session shall stay small.
    control: OnceLock<Box<[Counters; VERBS.len()]>>,
}

impl Default for SessionService {
    fn default() -> SessionService {
        SessionService {
            started_ms: now_ms(),
            prompt: Arc::default(),
            agent_prompt: Arc::default(),
            agent_status: Counters::default(),
            control: OnceLock::new(),
        }
    }
}

impl SessionService {
    /// Statistics of the endpoint that takes prompts on this wire.
    pub(crate) fn prompt_counters(&self, form: Form) -> &Arc<Counters> {
        match form {
            Form::Text => &self.prompt,
            Form::Agent => &self.agent_prompt,
        }
    }

    /// Statistics of a control endpoint, by its place in [`VERBS`].
    pub(crate) fn control(&self, verb: usize) -> Option<&Counters> {
        self.control.get_or_init(Box::default).get(verb)
    }

    /// The answers to a discovery request, of those instances that are asked.
    pub(crate) fn answer(
        &self,
        query: Query<'_>,
        host: &Host,
        identity: &SessionIdentity,
        stats: &SessionStats,
    ) -> Vec<Value> {
        let mut answers = Vec::new();
        if query.asks(micro::SERVICE, &identity.instance_id) {
            answers.push(self.session(host, identity, stats).document(query.verb));
        }
        for agent in host.agents(Some(identity)) {
            let id = agent.instance_id();
            if query.asks(super::agents::SERVICE, &id) {
                answers.push(self.agent(&id, agent, host, identity, stats).document(query.verb));
            }
        }
        answers
    }

    fn session<'a>(&'a self, host: &Host, identity: &'a SessionIdentity, stats: &SessionStats) -> Instance<'a> {
        let subject = session_subject(&host.owner, &identity.id);
        let cwd = identity.cwd.to_string_lossy();
        let metadata = [("sessionId", &*identity.id), ("owner", &host.owner), ("cwd", &cwd)];
        let mut endpoints = vec![Endpoint {
            data: budgets(stats.budget_figures()),
            ..Endpoint::new("prompt", subject.clone(), &self.prompt)
        }];
        let control = VERBS.iter().zip(self.control.get().map_or(&UNUSED, |used| used));
        endpoints.extend(control.map(|(verb, counters)| Endpoint::new(verb, format!("{subject}.{verb}"), counters)));
        Instance {
            service: micro::SERVICE,
            id: &identity.instance_id,
            description: format!("{} — {cwd}", identity.id),
            metadata: metadata.into_iter().map(|(key, value)| (key.to_string(), json!(value))).collect(),
            endpoints,
            started_ms: self.started_ms,
        }
    }

    fn agent<'a>(
        &'a self,
        id: &'a str,
        agent: AgentIdentity<'_>,
        host: &Host,
        identity: &'a SessionIdentity,
        stats: &SessionStats,
    ) -> Instance<'a> {
        let settings = stats.settings();
        let cwd = identity.cwd.to_string_lossy();
        let mut metadata = agent.metadata(host.connection.identity().as_deref());
        for (key, value) in [
            ("cwd", cwd.to_string()),
            ("model", settings.model.spec()),
            ("thinking_level", settings.thinking.as_str().to_string()),
            ("max_lifetime_s", settings.max_lifetime.as_secs().to_string()),
        ] {
            metadata.insert(key.to_string(), json!(value));
        }
        Instance {
            service: super::agents::SERVICE,
            id,
            description: format!("{} — {cwd}", identity.id),
            metadata,
            endpoints: vec![
                agent.prompt_endpoint(host.terms(true), &self.agent_prompt),
                agent.endpoint("status", &self.agent_status),
            ],
            started_ms: self.started_ms,
        }
    }
}
