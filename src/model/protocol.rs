//! What the provider APIs have in common: what they get, what they give, and which of them a model speaks.

use super::answer::{Answer, Failed};
use super::compat::Compat;
use super::credentials::{Authorization, Scheme};
use super::sse::Event;
use super::thinking::Budgets;
use super::{Api, Failure, Model, Request, anthropic, google, ids, openai_completions, openai_responses};
use crate::tolerant_json;
use crate::transcript::{Message, StopReason};
use serde_json::Value;
use serde_json::value::RawValue;
use std::sync::Arc;

/// How much of a provider's own words goes into an error message, in characters.
pub const MAX_ERROR_CHARS: usize = 4000;

/// What a provider API makes of a request.
pub struct Prepared {
    pub url: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

/// A request as the provider APIs see it.
pub struct Draft<'a> {
    pub request: &'a Request<'a>,
    pub model: &'a Model,
    /// The messages, fit for this model.
    pub messages: &'a [Arc<Message>],
    pub authorization: &'a Authorization,
    /// The limit for the answer, in tokens.
    pub max_tokens: u64,
    /// Tokens of thought per level.
    pub budgets: Budgets,
    /// Prompt parts may be cached for as long as the provider offers.
    pub long_cache: bool,
}

impl Draft<'_> {
    /// Tokens of thought for the level asked for; 0 = no thinking.
    pub fn budget(&self) -> u64 {
        self.budgets.tokens(self.request.thinking)
    }

    /// The headers of every request: the content's type, the key in the header `own` (or as bearer token), the configured ones.
    pub fn headers(&self, own: &str) -> Vec<(String, String)> {
        let mut headers = vec![("content-type".to_string(), "application/json".to_string())];
        if let Some(secret) = &self.authorization.secret {
            headers.push(match self.authorization.scheme {
                Scheme::Key if own != "authorization" => (own.to_string(), secret.reveal().to_string()),
                _ => ("authorization".to_string(), format!("Bearer {}", secret.reveal())),
            });
        }
        headers
    }
}

/// Adds the configured headers, which replace computed ones of the same name.
pub fn configure(headers: &mut Vec<(String, String)>, authorization: &Authorization) {
    for (name, value) in &authorization.headers {
        headers.retain(|(known, _)| !known.eq_ignore_ascii_case(name));
        headers.push((name.clone(), value.reveal().to_string()));
    }
}

/// Whether more is to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    More,
    /// That was the last event. Nothing that may follow matters.
    Done,
}

/// Understands the events of one answer.
pub trait Decoder {
    /// Takes in one event: its data is an object, or [`DONE`].
    fn event(&mut self, event: Event<'_>, answer: &mut Answer<'_>) -> Result<Progress, Failed>;

    /// Whether an event has said how the answer ended, so that nothing is lost if no other comes.
    fn is_finished(&self) -> bool;

    /// The stream is over: how the answer ended, or why it is no whole answer.
    fn end(&mut self, answer: &mut Answer<'_>) -> Result<StopReason, Failed>;
}

/// A provider API: what differs between them.
pub struct Protocol {
    /// Brings the id of another model's tool call into a form that this API takes.
    pub foreign_id: fn(&str) -> String,
    pub prepare: fn(&Draft<'_>) -> Prepared,
    pub decoder: fn(&Model) -> Box<dyn Decoder>,
}

impl Protocol {
    /// `None` for the offline model, which speaks to nobody.
    pub fn of(api: Api) -> Option<Protocol> {
        Some(match api {
            Api::AnthropicMessages => Protocol {
                foreign_id: ids::portable,
                prepare: anthropic::prepare,
                decoder: |_| Box::new(anthropic::Stream::default()),
            },
            Api::OpenaiCompletions => Protocol {
                foreign_id: openai_completions::foreign_id,
                prepare: openai_completions::prepare,
                decoder: |model| Box::new(openai_completions::Stream::new(&Compat::of(model))),
            },
            Api::OpenaiResponses => Protocol {
                foreign_id: openai_responses::foreign_id,
                prepare: openai_responses::prepare,
                decoder: |_| Box::new(openai_responses::Stream::default()),
            },
            Api::GoogleGenerativeAi => Protocol {
                foreign_id: ids::portable,
                prepare: google::prepare,
                decoder: |_| Box::new(google::Stream::default()),
            },
            Api::Offline => return None,
        })
    }
}

/// A provider's words inside a stream, cut to what a message may hold.
pub fn quoted(data: &[u8]) -> String {
    String::from_utf8_lossy(data).chars().take(MAX_ERROR_CHARS).collect()
}

/// What some servers send as the last event's data, without a name.
pub const DONE: &[u8] = b"[DONE]";

/// An event that is no JSON, of which nobody knows what was lost with it.
pub fn unusable(error: &serde_json::Error) -> Failed {
    Failed::new(format!("Unusable event in the stream: {error}"))
}

/// How the answer ended, where the provider says that it just did.
pub fn stopped(answer: &Answer<'_>) -> StopReason {
    // Servers exist that do not say that the model wants its calls made.
    if answer.message.has_tool_calls() { StopReason::ToolUse } else { StopReason::Stop }
}

/// How the answer ended, where the provider says so in a word that is none of its API: as above, with the word kept.
pub fn stopped_by(reason: &str, answer: &mut Answer<'_>) -> StopReason {
    answer.message.raw_stop_reason = Some(quoted(reason.as_bytes()));
    stopped(answer)
}

/// Whether the field `error` of an event says anything: there are servers that send it with everything.
pub fn is_error(raw: Option<&RawValue>) -> bool {
    raw.is_some_and(|raw| !matches!(raw.get(), "null" | "\"\"" | "{}" | "[]" | "false" | "0"))
}

/// An error that came inside a stream, or in place of one: an object that is the error or has it in its field `error`, a list
/// around it, or just words. It is classified as the same error with an HTTP status would be.
pub fn provider_error(raw: &str) -> Failed {
    let whole: Value = tolerant_json::parse_whole(raw.as_bytes()).unwrap_or_default();
    let (mut error, mut status) = (&whole, status(&whole));
    loop {
        let inner = match error {
            Value::Array(list) => list.first(),
            Value::Object(fields) => fields.get("error").filter(|inner| match inner {
                Value::String(text) => !text.is_empty(),
                Value::Object(fields) => !fields.is_empty(),
                Value::Array(list) => !list.is_empty(),
                _ => false,
            }),
            _ => None,
        };
        let Some(inner) = inner else { break };
        (error, status) = (inner, self::status(inner).or(status));
    }
    let field = |name: &str| error.get(name).and_then(Value::as_str);
    let words = match (error, field("type"), field("message")) {
        (Value::String(words), ..) => words.clone(),
        // The Responses API's own form, with numbers of events around the words.
        (_, Some("error"), Some(message)) => {
            let code = error.get("code").filter(|code| !code.is_null());
            let code = code.map_or("unknown".to_string(), |code| code.to_string().trim_matches('"').to_string());
            format!("Error Code {code}: {message}")
        }
        (Value::Null, ..) => raw.trim().to_string(),
        _ => error.to_string(),
    };
    let words = quoted(words.as_bytes());
    let text = match status {
        Some(Status { number, named: false }) => format!("{number}: {words}"),
        _ => words,
    };
    let facts = Failure { status: status.map(|status| status.number), retry_after: None };
    Failed { text, facts, aborted: false }
}

/// The HTTP status that an error stands for.
#[derive(Clone, Copy)]
struct Status {
    number: u16,
    /// The server gave it a name, and no number.
    named: bool,
}

/// The status that the fields of an error name, if one does. What is most special comes first.
fn status(error: &Value) -> Option<Status> {
    let number = |number: u64| u16::try_from(number).ok().filter(|number| (400..600).contains(number));
    let fields =
        || ["code", "status", "status_code", "statusCode", "http_code", "type"].iter().filter_map(|f| error.get(f));
    let numbered = fields().find_map(|field| {
        number(field.as_u64().or_else(|| field.as_str()?.parse().ok())?).map(|number| Status { number, named: false })
    });
    numbered.or_else(|| {
        fields().filter_map(Value::as_str).find_map(|name| {
            let known = STATUS_NAMES.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
            known.map(|(_, number)| Status { number: *number, named: true })
        })
    })
}

/// The names that the providers' documentation has for its errors, with the HTTP status of each.
const STATUS_NAMES: &[(&str, u16)] = &[
    ("invalid_request_error", 400),
    ("invalid_argument", 400),
    ("failed_precondition", 400),
    ("invalid_prompt", 400),
    ("context_length_exceeded", 400),
    ("authentication_error", 401),
    ("unauthenticated", 401),
    ("invalid_api_key", 401),
    ("billing_error", 402),
    ("permission_error", 403),
    ("permission_denied", 403),
    ("not_found_error", 404),
    ("not_found", 404),
    ("model_not_found", 404),
    ("request_too_large", 413),
    ("rate_limit_error", 429),
    ("rate_limit_exceeded", 429),
    ("resource_exhausted", 429),
    ("insufficient_quota", 429),
    ("api_error", 500),
    ("server_error", 500),
    ("internal_server_error", 500),
    ("internal", 500),
    ("server_is_overloaded", 503),
    ("slow_down", 503),
    ("unavailable", 503),
    ("timeout_error", 504),
    ("deadline_exceeded", 504),
    ("overloaded_error", 529),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_without_a_status_of_their_own() {
        let object = r#"{"code":503,"message":"m"}"#;
        for (raw, status, text) in [
            (object, Some(503), format!("503: {object}")),
            (r#"{"error":{"code":503,"message":"m"}}"#, Some(503), format!("503: {object}")),
            (r#"[{"error":{"code":503,"message":"m"}}]"#, Some(503), format!("503: {object}")),
            (
                r#"{"type":"error","error":{"type":"overloaded_error"},"request_id":"r"}"#,
                Some(529),
                r#"{"type":"overloaded_error"}"#.into(),
            ),
            (r#"{"error":"no more","status":"429"}"#, Some(429), "429: no more".into()),
            (
                r#"{"error":{"type":"invalid_request_error","code":"invalid_api_key"}}"#,
                Some(401),
                r#"{"type":"invalid_request_error","code":"invalid_api_key"}"#.into(),
            ),
            (r#"{"error":{"status":"UNAVAILABLE"}}"#, Some(503), r#"{"status":"UNAVAILABLE"}"#.into()),
            (r#"{"type":"error","sequence_number":2,"code":7,"message":"m"}"#, None, "Error Code 7: m".into()),
            (r#"{"type":"error","code":null,"message":"m"}"#, None, "Error Code unknown: m".into()),
            (r#"{"error":true,"detail":"d"}"#, None, r#"{"error":true,"detail":"d"}"#.into()),
            (" just words\n", None, "just words".into()),
            (r#"{"code":200}"#, None, r#"{"code":200}"#.into()),
        ] {
            let failed = provider_error(raw);
            assert_eq!((failed.facts.status, failed.text), (status, text), "{raw}");
        }
    }
}
