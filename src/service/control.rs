//! Control of a session over NATS: each verb has a subject of its own below the session's, so that the server's permissions
//! can grant them one by one.

use super::host::Host;
use super::replies::{send_document, send_error};
use super::services::SessionService;
use crate::contract::control::{Answer, Changes, Control, Deliver, Input, Respond, Settlement};
use crate::contract::error::{ErrorKind, ReplyError, echo};
use crate::contract::sender::AgentSender;
use crate::contract::wire::WireSettings;
use crate::event_log::HistoryQuery;
use crate::governance::budget::Budgets;
use crate::nats::Message;
use crate::threads;
use crate::tools::runner::Narrowing;
use crate::traceparent::{TRACEPARENT, Traceparent};
use serde_json::{Map, Value, json};
use std::sync::Arc;
use std::time::Instant;

/// The verb that only looks.
pub(crate) const INSPECT: &str = "inspect";

/// The verbs, which are also the names of the endpoints.
pub(crate) const VERBS: [&str; 13] = [
    INSPECT,
    "abort",
    "steer",
    "follow_up",
    "clear",
    "compact",
    "history",
    "answer",
    "approve",
    "reject",
    "configure",
    "extend",
    "cancel",
];

/// What a request to a verb asks for.
pub(crate) struct Asked {
    pub control: Control,
    /// What is to be changed of the session's settings on NATS.
    pub settings: WireSettings,
}

/// Reads a session's settings on NATS from a request.
///
/// # Errors
/// The name of a setting that is neither true nor false.
pub(crate) fn wire_settings(request: &Map<String, Value>) -> Result<WireSettings, &'static str> {
    Ok(WireSettings {
        events: flag(request, ["events"; 2])?,
        tool_status: flag(request, ["toolStatus", "tool_status"])?,
    })
}

/// The first of two spellings of a field that is there and not null.
fn field<'a>(request: &'a Map<String, Value>, names: [&'static str; 2]) -> Option<&'a Value> {
    names.iter().find_map(|name| request.get(*name)).filter(|value| !value.is_null())
}

fn flag(request: &Map<String, Value>, names: [&'static str; 2]) -> Result<Option<bool>, &'static str> {
    field(request, names).map(|value| value.as_bool().ok_or(names[0])).transpose()
}

fn text(request: &Map<String, Value>, names: [&'static str; 2]) -> Result<Option<String>, ReplyError> {
    let wrong = || invalid(&format!("{} must be a text", names[0]));
    field(request, names).map(|value| value.as_str().map(str::to_string).ok_or_else(wrong)).transpose()
}

fn invalid(why: &str) -> ReplyError {
    ReplyError::coded(ErrorKind::InvalidRequest, why)
}

/// Reads a request to a verb.
///
/// # Errors
/// 404 for an unknown verb, 400 for a request that does not fit.
pub(crate) fn parse(verb: &str, message: &Message, sender: Option<&AgentSender>) -> Result<Asked, ReplyError> {
    let payload = &message.payload;
    let mut settings = WireSettings::default();
    let control = match verb {
        "steer" => input(message, Deliver::Steer, sender)?,
        "follow_up" => input(message, Deliver::FollowUp, sender)?,
        INSPECT => Control::Inspect,
        "abort" => Control::Abort,
        "clear" => Control::Clear,
        "compact" => Control::Compact { instructions: text(&object(payload)?, ["instructions"; 2])? },
        "history" => Control::History(HistoryQuery::from_json(&object(payload)?)),
        "answer" => {
            let mut request = object(payload)?;
            let answers = request.remove("answers").ok_or_else(|| invalid("answers required"))?;
            Control::Answer { id: request_id(&request)?, answers, source: SOURCE }
        }
        "cancel" => {
            let id = text(&object(payload)?, ["promptId", "prompt_id"])?.filter(|id| !id.is_empty());
            Control::Cancel { id: id.ok_or_else(|| invalid("promptId required"))? }
        }
        "approve" => {
            let settlement = Settlement::read(&object(payload)?, SOURCE, sender.cloned());
            Control::Approve(settlement.map_err(|why| invalid(&why))?)
        }
        "reject" => Control::Reject { id: request_id(&object(payload)?)?, source: SOURCE },
        "configure" => {
            let request = object(payload)?;
            settings = wire_settings(&request).map_err(|name| invalid(&format!("{name} must be true or false")))?;
            Control::Configure(Changes {
                model: text(&request, ["model"; 2])?,
                thinking: text(&request, ["thinkingLevel", "thinking_level"])?,
                name: text(&request, ["name"; 2])?,
                sandbox: narrowing(&request)?,
                budgets: field(&request, ["budgets"; 2])
                    .map_or(Ok(Budgets::default()), Budgets::parse)
                    .map_err(|why| invalid(&why))?,
            })
        }
        "extend" => {
            let request = object(payload)?;
            let seconds = field(&request, ["maxLifetime", "max_lifetime_s"]).and_then(Value::as_f64);
            let seconds = seconds.filter(|seconds| (0.0..1e10).contains(seconds));
            Control::Extend { seconds: seconds.ok_or_else(|| invalid("maxLifetime must be a number of seconds >= 0"))? }
        }
        other => return Err(ReplyError::coded(ErrorKind::UnknownVerb, format_args!("{other:.40}"))),
    };
    Ok(Asked { control, settings })
}

fn narrowing(request: &Map<String, Value>) -> Result<Narrowing, ReplyError> {
    let word = |key| Ok(text(request, [key; 2])?.as_deref().map(echo));
    let (profile, network) = (word("sandbox")?, word("network")?);
    Narrowing::read(profile.as_deref(), network.as_deref()).map_err(|why| invalid(&why))
}

/// How answers over NATS are marked in the events.
pub(crate) const SOURCE: &str = "nats";

/// The fields of a request; an empty payload has none.
fn object(payload: &[u8]) -> Result<Map<String, Value>, ReplyError> {
    if payload.trim_ascii().is_empty() {
        return Ok(Map::new());
    }
    serde_json::from_slice(payload).map_err(|error| ReplyError::coded(ErrorKind::InvalidJson, error))
}

fn request_id(request: &Map<String, Value>) -> Result<String, ReplyError> {
    let id = text(request, ["requestId", "request_id"])?.map(|id| id.trim().to_string()).filter(|id| !id.is_empty());
    id.ok_or_else(|| invalid("requestId required"))
}

fn input(message: &Message, deliver: Deliver, sender: Option<&AgentSender>) -> Result<Control, ReplyError> {
    let request = crate::service::intake::parse_prompt(&message.payload).map_err(ReplyError::empty_prompt)?;
    let from = request.from;
    let (text, sender) = (request.text, sender.cloned());
    Ok(Control::Prompt(Input {
        text,
        expand: true,
        images: Vec::new(),
        deliver,
        from,
        sender,
        trace: message.header(TRACEPARENT).and_then(Traceparent::parse),
        source: "rpc",
        reply: None,
    }))
}

/// Where the answer to a control request goes. If the session ends before it answers, the caller is told so.
#[derive(Clone)]
pub(crate) struct Responder {
    host: Arc<Host>,
    service: Arc<SessionService>,
    /// The place of the verb in [`VERBS`]; absent for one that is not there.
    verb: Option<usize>,
    /// Absent if the caller wants no answer.
    reply: Option<String>,
    received: Instant,
}

impl Responder {
    /// For a request to a verb that has just come.
    pub(crate) fn new(host: Arc<Host>, service: Arc<SessionService>, verb: &str, request: &Message) -> Responder {
        let verb = VERBS.iter().position(|known| *known == verb);
        Responder { host, service, verb, reply: request.reply.clone(), received: Instant::now() }
    }

    /// For the session, which must not wait.
    pub(crate) fn into_respond(self) -> Respond {
        let mut pending = Pending(Some(self));
        Box::new(move |answer| {
            if let Some(responder) = pending.0.take() {
                responder.respond(answer);
            }
        })
    }

    pub(crate) fn respond(self, answer: Result<Answer, ReplyError>) {
        match answer {
            Ok(Answer::Document(document)) => self.document(&document),
            Ok(history @ Answer::History(_)) => self.render(history),
            Err(error) => self.error(&error),
        }
    }

    fn document(&self, document: &Value) {
        if let Some(reply) = &self.reply {
            send_document(&self.host.connection, reply, document);
        }
        self.count(None);
    }

    fn error(&self, error: &ReplyError) {
        if let Some(reply) = &self.reply {
            send_error(&self.host.connection, reply, error.status(), &error.message, &error.document(), false);
        }
        self.count(Some(error));
    }

    fn count(&self, error: Option<&ReplyError>) {
        let Some(counters) = self.verb.and_then(|verb| self.service.control(verb)) else { return };
        counters.count_request();
        counters.add_time(self.received.elapsed());
        if let Some(error) = error {
            counters.count_error(error.status(), &error.message);
        }
    }

    /// Renders a history on a thread of its own, because that may wait for a disk.
    fn render(self, history: Answer) {
        if !self.host.begin_rendering() {
            return self.error(&ReplyError::busy("too many histories are asked for at a time"));
        }
        let spare = self.clone();
        let work = move || {
            let limit = self.host.connection.max_payload();
            self.document(&fit(history.into_document(), limit));
            self.host.end_rendering();
        };
        match threads::spawn("history", threads::SMALL_STACK, work) {
            Ok(thread) => thread.abandon(),
            Err(error) => {
                spare.host.end_rendering();
                spare.error(&ReplyError::busy(&format!("no thread for the history: {error}")));
            }
        }
    }
}

/// An answer that is not given yet.
struct Pending(Option<Responder>);

impl Drop for Pending {
    fn drop(&mut self) {
        if let Some(responder) = self.0.take() {
            responder.error(&ReplyError::stopped());
        }
    }
}

/// A history of at most `limit` bytes: what does not fit is left out, oldest first.
fn fit(mut document: Value, limit: usize) -> Value {
    let mut size = document.to_string().len();
    if size <= limit {
        return document;
    }
    document["responseTruncated"] = json!(true);
    // The change of that field may have made the whole longer by a few bytes.
    size += 8;
    if let Some(Value::Array(events)) = document.get_mut("events") {
        let mut left_out = 0;
        while size > limit && left_out < events.len() {
            size -= events[left_out].to_string().len() + 1;
            left_out += 1;
        }
        events.drain(..left_out);
    }
    document
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(payload: &str) -> Message {
        Message { subject: "x".into(), reply: None, headers: None, payload: payload.into() }
    }

    #[test]
    fn requests_become_what_the_session_understands() {
        let sender = AgentSender { account: "A".into(), user: "U".into(), name: None, verified: true };
        let asked = |verb: &str, payload: &str| parse(verb, &message(payload), None).map(|a| a.control);
        assert!(matches!(asked("abort", ""), Ok(Control::Abort)));
        assert!(matches!(asked("clear", "{}"), Ok(Control::Clear)));
        assert!(matches!(asked("history", r#"{"limit":3}"#), Ok(Control::History(query)) if query.limit == Some(3)));
        assert!(
            matches!(asked("extend", r#"{"max_lifetime_s":60}"#), Ok(Control::Extend { seconds }) if seconds == 60.0)
        );
        assert!(matches!(asked("reject", r#"{"request_id":" q "}"#), Ok(Control::Reject { id, .. }) if id == "q"));
        assert!(matches!(
            asked("answer", r#"{"requestId":"q","answers":[["a"]]}"#),
            Ok(Control::Answer { id, answers, .. }) if id == "q" && answers == json!([["a"]])
        ));
        assert!(matches!(asked("cancel", r#"{"promptId":"p"}"#), Ok(Control::Cancel { id }) if id == "p"));
        let Ok(Control::Prompt(input)) = asked("steer", r#"{"prompt":"left","from":"me"}"#) else {
            panic!("no prompt")
        };
        assert_eq!((input.text.as_str(), input.from.as_deref(), input.deliver), ("left", Some("me"), Deliver::Steer));
        let Ok(Asked { control: Control::Prompt(input), .. }) = parse("follow_up", &message("more"), Some(&sender))
        else {
            panic!("no prompt")
        };
        assert_eq!((input.from, input.sender, input.deliver), (None, Some(sender), Deliver::FollowUp));
        let changes = r#"{"model":"a/b","thinking_level":"low","events":true,"name":""}"#;
        let asked = parse("configure", &message(changes), None);
        let Ok(Asked { control: Control::Configure(changes), settings }) = asked else { panic!("no changes") };
        assert_eq!(
            (changes.model.as_deref(), changes.thinking.as_deref(), changes.name.as_deref()),
            (Some("a/b"), Some("low"), Some(""))
        );
        assert_eq!(settings, WireSettings { events: Some(true), tool_status: None });
    }

    #[test]
    fn what_does_not_fit_is_refused_with_a_code() {
        for (verb, payload, status, code) in [
            ("explode", "", 404, "unknown_verb"),
            ("steer", "", 400, "bad_request"),
            ("history", "[]", 400, "invalid_json"),
            ("history", "{", 400, "invalid_json"),
            ("answer", r#"{"requestId":"q"}"#, 400, "invalid_request"),
            ("answer", r#"{"answers":[]}"#, 400, "invalid_request"),
            ("reject", r#"{"requestId":7}"#, 400, "invalid_request"),
            ("configure", r#"{"model":7}"#, 400, "invalid_request"),
            ("configure", r#"{"toolStatus":"yes"}"#, 400, "invalid_request"),
            ("extend", "{}", 400, "invalid_request"),
            ("cancel", r#"{"promptId":""}"#, 400, "invalid_request"),
            ("extend", r#"{"maxLifetime":-1}"#, 400, "invalid_request"),
        ] {
            let error = parse(verb, &message(payload), None).map(drop).expect_err(payload);
            assert_eq!((error.status(), error.code()), (status, code), "{verb} {payload}");
        }
    }

    #[test]
    fn a_long_history_loses_its_oldest_events() {
        let events: Vec<Value> = (0..100).map(|n| json!({"seq": n, "text": "x".repeat(50)})).collect();
        let whole = json!({"events": events, "totalEvents": 100, "responseTruncated": false});
        assert_eq!(fit(whole.clone(), 1_000_000), whole);
        let cut = fit(whole, 1000);
        assert!(cut.to_string().len() <= 1000);
        let kept = cut["events"].as_array().expect("a list");
        assert!(kept.len() > 8 && kept.last().expect("some")["seq"] == 99);
        assert_eq!((&cut["totalEvents"], &cut["responseTruncated"]), (&json!(100), &json!(true)));
    }
}
