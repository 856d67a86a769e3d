//! The Synadia Agent Protocol for NATS, version 0.3: every named session is an agent that any client of the protocol can
//! find and prompt, beside the `pi-exec` wire and on the same connection.
//!
//! | file | what |
//! |---|---|
//! | `agents.rs` | names, subjects, what discovery and heartbeats say of an agent |
//! | `envelope.rs`, `attachments.rs` | requests; the files that come with them |
//! | `sender.rs`, `nonces.rs` | who sent a request, and the proof of it; none counts twice |
//! | `chunks.rs`, `stream.rs` | the messages of an answer; the answer |
//! | `queries.rs` | questions in the middle of an answer |
//! | `controller.rs` | the agent that starts, stops and lists the others |

pub(crate) mod attachments;
pub(crate) mod chunks;
pub(crate) mod controller;
pub(crate) mod envelope;
pub(crate) mod nonces;
pub(crate) mod queries;
pub(crate) mod sender;
pub(crate) mod stream;

use crate::clock::iso_time;
use crate::ids;
use crate::json::object;
use crate::nats::UserIdentity;
use crate::service::micro::{Counters, Endpoint};
use serde::Serialize;
use serde_json::{Map, Value, json};
use std::borrow::Cow;
use std::time::Duration;

/// Name of the service, the same for all agents of the protocol.
pub(crate) const SERVICE: &str = "agents";
/// Queue group of the endpoints, as the protocol demands.
pub(crate) const QUEUE_GROUP: &str = "agents";
/// What kind of agent we are.
pub(crate) const AGENT: &str = "pi-exec";
const PROTOCOL_VERSION: &str = "0.3";
/// The first line of what is signed to show whose agent this is.
const ID_TAG: &str = "AGENT-ID-V1";
/// The name of the agent that starts, stops and lists the others.
const CONTROLLER: &str = "control";

/// Whom the prompt endpoints listen to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SenderTrust {
    #[default]
    Any,
    /// Only to those who sign their requests.
    Signed,
}

impl SenderTrust {
    /// Reads the name on the wire and in the configuration.
    pub fn parse(text: &str) -> Option<SenderTrust> {
        [SenderTrust::Any, SenderTrust::Signed].into_iter().find(|trust| trust.as_str() == text)
    }

    pub fn as_str(self) -> &'static str {
        match self {
            SenderTrust::Any => "any",
            SenderTrust::Signed => "signed",
        }
    }
}

/// By which of the names of its kind an agent is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CalledAs {
    /// [`AGENT`]
    Itself,
    /// The name that the settings add, for interfaces that look for other kinds of agents.
    Alias,
}

impl CalledAs {
    /// The name that a request's subject has; there are no subscriptions to others.
    pub(crate) fn by_subject(subject: &str) -> CalledAs {
        if subject.split('.').nth(2) == Some(AGENT) { CalledAs::Itself } else { CalledAs::Alias }
    }
}

/// What an agent is called.
#[derive(Clone, Copy)]
pub(crate) struct AgentIdentity<'a> {
    /// What kind of agent it is.
    pub agent: &'a str,
    pub owner: &'a str,
    /// Identifies this one life of the session, or of the daemon for the controller.
    pub life: &'a str,
    /// The session that it stands for; absent for the controller.
    pub session: Option<&'a str>,
}

impl AgentIdentity<'_> {
    /// The id of its instance. Ids have to differ between instances, also of different services and names.
    pub(crate) fn instance_id(&self) -> String {
        let kind = match (self.agent == AGENT, self.session) {
            (true, None) => "",
            (true, Some(_)) => "A",
            (false, _) => "B",
        };
        format!("{}{kind}", self.life)
    }

    /// The last word of the agent's subjects. A session that is called like the controller gets a character that no other
    /// session's name has.
    fn name(&self) -> Cow<'_, str> {
        match self.session {
            None => CONTROLLER.into(),
            Some(CONTROLLER) => format!("{CONTROLLER}~").into(),
            Some(session) => session.into(),
        }
    }

    /// The agent's subject for a verb of the protocol, such as `prompt`.
    pub(crate) fn subject(&self, verb: &str) -> String {
        format!("agents.{verb}.{}.{}.{}", self.agent, self.owner, self.name())
    }

    /// What discovery says of every agent.
    /// Where the daemon's user has a key, that includes who it is, with a proof that this agent is its own.
    pub(crate) fn metadata(&self, user: Option<&UserIdentity>) -> Map<String, Value> {
        let subject = self.subject("prompt");
        let known = user.map(|user| {
            let proof = user.sign(&[&ID_TAG, &user.user, &user.account, &self.agent, &self.owner, &subject]);
            [("user_nkey", Some(user.user.clone())), ("account", Some(user.account.clone())), ("id_sig", proof)]
        });
        let session = self.session.unwrap_or(CONTROLLER);
        [("agent", self.agent), ("owner", self.owner), ("protocol_version", PROTOCOL_VERSION), ("session", session)]
            .into_iter()
            .chain([("role", if self.session.is_some() { "session" } else { "controller" })])
            .map(|(key, value)| (key, Some(value.to_string())))
            .chain(known.into_iter().flatten())
            .filter_map(|(key, value)| Some((key.to_string(), json!(value?))))
            .collect()
    }

    /// The endpoint that takes prompts.
    pub(crate) fn prompt_endpoint<'a>(&self, terms: Terms, counters: &'a Counters) -> Endpoint<'a> {
        Endpoint { metadata: terms.metadata(), ..self.endpoint("prompt", counters) }
    }

    /// An endpoint whose name is its verb.
    pub(crate) fn endpoint<'a>(&self, verb: &'static str, counters: &'a Counters) -> Endpoint<'a> {
        Endpoint { queue_group: QUEUE_GROUP, ..Endpoint::new(verb, self.subject(verb), counters) }
    }

    /// The header that proves a sign of life to be this agent's; its time is the document's.
    pub(crate) fn heartbeat_header(&self, user: &UserIdentity, document: &str, now_ms: i64) -> Option<String> {
        let signed = sender::SignedParts {
            account: &user.account,
            user: &user.user,
            subject: &self.subject("hb"),
            time: &iso_time(now_ms),
            nonce: &ids::nuid(),
        };
        signed.header(document.as_bytes(), |lines| user.sign(lines))
    }

    /// A sign of life, also the answer of the status endpoint. With it a listener knows enough to send a prompt. Every agent
    /// gives one every few seconds, so it is written as text without a tree of values.
    pub(crate) fn heartbeat(&self, terms: Terms, interval: Duration, now_ms: i64) -> String {
        let prompt = PromptEndpoint { subject: self.subject("prompt"), metadata: terms.facts() };
        let heartbeat = Heartbeat {
            agent: self.agent,
            owner: self.owner,
            session: self.session.unwrap_or(CONTROLLER),
            instance_id: self.instance_id(),
            ts: iso_time(now_ms),
            interval_s: interval.as_secs(),
            protocol_version: PROTOCOL_VERSION,
            endpoints: Endpoints { prompt },
        };
        serde_json::to_string(&heartbeat).unwrap_or_default()
    }
}

#[derive(Serialize)]
struct Heartbeat<'a> {
    agent: &'a str,
    owner: &'a str,
    session: &'a str,
    instance_id: String,
    ts: String,
    interval_s: u64,
    protocol_version: &'static str,
    endpoints: Endpoints,
}

#[derive(Serialize)]
struct Endpoints {
    prompt: PromptEndpoint,
}

#[derive(Serialize)]
struct PromptEndpoint {
    subject: String,
    metadata: TermsFacts,
}

/// [`Terms`] as they are told. All values are strings, as everywhere in discovery: the nats command refuses anything else.
#[derive(Serialize)]
struct TermsFacts {
    max_payload: String,
    attachments_ok: &'static str,
    min_sender_trust: &'static str,
}

/// What a prompt endpoint accepts.
#[derive(Clone, Copy)]
pub(crate) struct Terms {
    /// The largest message that the server takes, bytes.
    pub max_payload: usize,
    pub trust: SenderTrust,
    pub attachments: bool,
}

impl Terms {
    fn facts(self) -> TermsFacts {
        TermsFacts {
            max_payload: size_text(self.max_payload),
            attachments_ok: if self.attachments { "true" } else { "false" },
            min_sender_trust: self.trust.as_str(),
        }
    }

    fn metadata(self) -> Map<String, Value> {
        serde_json::to_value(self.facts()).map(object).unwrap_or_default()
    }
}

/// A size in the largest unit that divides it evenly.
fn size_text(bytes: usize) -> String {
    let units = [("GB", 1 << 30), ("MB", 1 << 20), ("KB", 1 << 10)];
    match units.into_iter().find(|(_, size)| bytes >= *size && bytes.is_multiple_of(*size)) {
        Some((unit, size)) => format!("{}{unit}", bytes / size),
        None => format!("{bytes}B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TERMS: Terms = Terms { max_payload: 1 << 20, trust: SenderTrust::Any, attachments: true };

    fn identity(session: Option<&str>) -> AgentIdentity<'_> {
        AgentIdentity { agent: AGENT, owner: "ada", life: "I", session }
    }

    #[test]
    fn sizes_use_the_largest_unit_that_fits() {
        for (bytes, text) in [
            (0, "0B"),
            (1023, "1023B"),
            (1024, "1KB"),
            (1 << 20, "1MB"),
            ((1 << 20) + 1024, "1025KB"),
            (8 << 20, "8MB"),
            (3 << 30, "3GB"),
            ((1 << 20) + 1, "1048577B"),
        ] {
            assert_eq!(size_text(bytes), text);
        }
    }

    #[test]
    fn every_agent_has_subjects_of_its_own() {
        for (session, subject) in [
            (None, "agents.prompt.pi-exec.ada.control"),
            (Some("worker"), "agents.prompt.pi-exec.ada.worker"),
            (Some("Worker_7"), "agents.prompt.pi-exec.ada.Worker_7"),
            (Some("control"), "agents.prompt.pi-exec.ada.control~"),
        ] {
            assert_eq!(identity(session).subject("prompt"), subject);
            assert!(crate::nats::valid_subject(subject));
        }
    }

    #[test]
    fn an_agent_has_subjects_and_ids_by_each_of_its_names() {
        let called = |agent, session| AgentIdentity { agent, ..identity(session) };
        for (identity, subject, id) in [
            (called(AGENT, None), "agents.hb.pi-exec.ada.control", "I"),
            (called(AGENT, Some("w")), "agents.hb.pi-exec.ada.w", "IA"),
            (called("pi-headless", None), "agents.hb.pi-headless.ada.control", "IB"),
            (called("pi-headless", Some("w")), "agents.hb.pi-headless.ada.w", "IB"),
        ] {
            assert_eq!((identity.subject("hb").as_str(), identity.instance_id().as_str()), (subject, id));
            assert_eq!(identity.metadata(None)["agent"], identity.agent);
            assert_eq!(CalledAs::by_subject(subject) == CalledAs::Itself, identity.agent == AGENT);
        }
    }

    #[test]
    fn documents_have_what_the_protocol_demands() {
        let counters = Counters::default();
        let worker = identity(Some("worker"));
        assert_eq!(
            Value::Object(worker.metadata(None)),
            json!({"agent": "pi-exec", "owner": "ada", "protocol_version": "0.3", "session": "worker", "role": "session"})
        );
        assert_eq!(identity(None).metadata(None)["role"], "controller");
        let endpoint = worker.prompt_endpoint(TERMS, &counters);
        assert_eq!((endpoint.name, endpoint.queue_group), ("prompt", "agents"));
        let terms = json!({"max_payload": "1MB", "attachments_ok": "true", "min_sender_trust": "any"});
        assert_eq!(Value::Object(endpoint.metadata), terms);
        assert_eq!(
            serde_json::from_str::<Value>(&worker.heartbeat(TERMS, Duration::from_secs(5), 1_700_000_000_120)).ok(),
            Some(json!({"agent": "pi-exec", "owner": "ada", "session": "worker", "instance_id": "IA",
                "ts": "2023-11-14T22:13:20.120Z", "interval_s": 5, "protocol_version": "0.3",
                "endpoints": {"prompt": {"subject": "agents.prompt.pi-exec.ada.worker", "metadata": terms}}}))
        );
    }
}
