//! The controller: the agent that starts, stops and lists the others. Its requests and answers are those of the hosts that
//! came after `pi-exec`, so that their scripts and web interfaces work here.

use super::AgentIdentity;
use crate::clock::{iso_time, now_ms};
use crate::contract::error::DaemonError;
use crate::contract::identity::SessionIdentity;
use crate::contract::request::{self, Create, Request};
use crate::contract::session::SessionStats;
use crate::nats::Connection;
use crate::service::host::Host;
use crate::service::micro::{Counters, Instance};
use crate::service::replies::send_error;
use serde_json::{Map, Value, json};
use std::time::Instant;

/// The verbs of its endpoints.
pub(crate) const VERBS: [&str; 5] = ["prompt", "status", "spawn", "stop", "list"];

/// Fields of a request for a session: their names here, and in requests to the intake.
const FIELDS: [(&str, &str); 7] = [
    ("session_id", "sessionId"),
    ("model", "model"),
    ("thinking_level", "thinkingLevel"),
    ("max_lifetime_s", "maxLifetime"),
    ("on_restart", "onRestart"),
    ("tool_status", "toolStatus"),
    ("cwd", "cwd"),
];

/// The instance that discovery shows, and its statistics.
pub(crate) struct Controller {
    counters: [Counters; VERBS.len()],
    /// Unix time in milliseconds.
    started_ms: i64,
}

impl Default for Controller {
    fn default() -> Controller {
        Controller { counters: [const { Counters::new() }; VERBS.len()], started_ms: now_ms() }
    }
}

impl Controller {
    /// Statistics of an endpoint.
    pub(crate) fn counters(&self, verb: &str) -> Option<&Counters> {
        VERBS.iter().zip(&self.counters).find_map(|(known, counters)| (*known == verb).then_some(counters))
    }

    /// What discovery shows of it as one of the agents that it is; `id` is that of its instance.
    pub(crate) fn instance<'a>(&'a self, id: &'a str, identity: AgentIdentity<'_>, host: &Host) -> Instance<'a> {
        let endpoints = VERBS.iter().zip(&self.counters).map(|(verb, counters)| match *verb {
            "prompt" => identity.prompt_endpoint(host.terms(false), counters),
            verb => identity.endpoint(verb, counters),
        });
        Instance {
            service: super::SERVICE,
            id,
            description: format!("controller of {}'s sessions", host.owner),
            metadata: identity.metadata(host.connection.identity().as_deref()),
            endpoints: endpoints.collect(),
            started_ms: self.started_ms,
        }
    }
}

/// Reads a request to one of the endpoints that manage sessions.
///
/// # Errors
/// The first check that fails.
pub(crate) fn parse(verb: &str, payload: &[u8]) -> Result<Request, DaemonError> {
    let mut fields = match payload.trim_ascii() {
        b"" => Map::new(),
        text => serde_json::from_slice(text).map_err(|e| DaemonError::InvalidJson { message: e.to_string() })?,
    };
    for (ours, intakes) in FIELDS {
        if let Some(value) = fields.remove(ours).filter(|value| !value.is_null()) {
            fields.insert(intakes.to_string(), value);
        }
    }
    match verb {
        "spawn" => {
            fields.entry("sessionId").or_insert_with(|| json!(format!("sess-{:08x}", fastrand::u32(..))));
            Create::without_prompt(fields).map(Request::Create)
        }
        "stop" => request::read("stop", fields),
        _ => request::read("list", fields),
    }
}

/// A session, as the agent that it is by the name that the controller was called by.
pub(crate) fn descriptor(
    agent: AgentIdentity<'_>,
    identity: &SessionIdentity,
    stats: &SessionStats,
    now: Instant,
) -> Value {
    let settings = stats.settings();
    let left = settings.deadline.map(|end| end.saturating_duration_since(now).as_secs());
    let mut descriptor = json!({
        "session_id": identity.id,
        "subject": agent.subject("prompt"),
        "heartbeat_subject": agent.subject("hb"),
        "status_subject": agent.subject("status"),
        "cwd": identity.cwd.to_string_lossy(),
        "model": settings.model.spec(),
        "thinking_level": settings.thinking.as_str(),
        "max_lifetime_s": settings.max_lifetime.as_secs(),
        "remaining_lifetime_s": left,
        "created_at": iso_time(identity.created_ms),
        "last_activity": iso_time(stats.last_activity_ms()),
        "active_request": stats.running(),
        "queued_requests": stats.queued(),
        "instance_id": agent.instance_id(),
    });
    if let Some(host) = &identity.host {
        descriptor["host"] = json!(host);
    }
    descriptor
}

/// Answers with an error. The agent protocol has no number for a host that is about to leave.
pub(crate) fn refuse(connection: &Connection, reply: &str, error: &DaemonError) {
    let status = if error.status() == 503 { 500 } else { error.status() };
    send_error(connection, reply, status, &error.summary(), &error.document(), false);
}

/// What a prompt to the controller is answered with.
pub(crate) fn help(identity: AgentIdentity<'_>) -> String {
    let subject = |verb: &str| identity.subject(verb);
    format!(
        "I start, stop and list agent sessions on this machine; I do not work on prompts myself. Send JSON requests to:\n\
         - {} {{\"cwd\": \"/path\", \"session_id\"?, \"model\"?, \"thinking_level\"?, \"max_lifetime_s\"?}}: starts a \
         session and answers with its subjects\n\
         - {} {{\"session_id\"}}: stops a session\n\
         - {} {{}}: lists the sessions\n\
         Then prompt a session on its own subject.",
        subject("spawn"),
        subject("stop"),
        subject("list"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::request::Page;

    #[test]
    fn requests_are_those_of_the_intake_in_other_words() {
        let Ok(Request::Create(create)) = parse("spawn", br#"{"cwd":"/tmp","model":"a/b","max_lifetime_s":60}"#) else {
            panic!("no request")
        };
        assert!(create.session_id.as_ref().is_some_and(|id| id.len() == 13 && id.starts_with("sess-")));
        assert_eq!((create.cwd.as_str(), create.body.as_deref()), ("/tmp", None));
        assert_eq!(
            (create.model(), create.max_lifetime().map(|l| l.map(|l| l.as_secs()))),
            (Ok(Some("a/b")), Ok(Some(60)))
        );
        let named = parse("spawn", br#"{"cwd":"/tmp","session_id":"w1","thinking_level":"high"}"#);
        assert!(matches!(named, Ok(Request::Create(create)) if create.session_id.as_deref() == Some("w1")));
        assert_eq!(
            parse("stop", br#"{"session_id":"w1"}"#),
            Ok(Request::Stop { session_id: "w1".to_owned().try_into().expect("an id") })
        );
        assert_eq!(parse("list", b""), Ok(Request::List(Page::default())));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        for (verb, payload, code) in [
            ("spawn", "{", "invalid_json"),
            ("spawn", "[]", "invalid_json"),
            ("spawn", "", "missing_fields"),
            ("spawn", r#"{"cwd":7}"#, "missing_fields"),
            ("spawn", r#"{"cwd":"/","session_id":"a.b"}"#, "invalid_sessionId"),
            ("spawn", r#"{"cwd":"/","session_id":7}"#, "invalid_sessionId"),
            ("stop", "{}", "missing_fields"),
            ("stop", r#"{"session_id":"*"}"#, "invalid_sessionId"),
        ] {
            assert_eq!(
                parse(verb, payload.as_bytes()).map_err(|e| e.code()).expect_err(payload),
                code,
                "{verb} {payload}"
            );
        }
    }
}
