//! What the bodies of errors say, in the many forms that services, gateways and local servers give them: `{"error": …}` with
//! a text, an object or a list in it, `{"detail": …}`, an upstream's body as a text inside another body, and so on.

use serde_json::{Map, Value};

/// What an error says of itself.
#[derive(Debug, Default, PartialEq)]
pub(super) struct ErrorBody {
    /// The HTTP status that it names, or that its kind stands for.
    pub status: Option<u16>,
    /// Its words for people, with its kinds behind them; `None` if it is not of a known form.
    pub text: Option<String>,
}

/// How much of a provider's own words goes into an error message, in characters.
pub(super) const MAX_ERROR_CHARS: usize = 4000;
/// Bodies within bodies are followed so deep; more than three were never seen.
const MAX_DEPTH: usize = 8;
/// So many words and kinds are kept; more say nothing more.
const MAX_PIECES: usize = 32;
/// The fields under which servers write what went wrong.
pub(super) const MESSAGES: &[&str] = &[
    "message",
    "msg",
    "error_message",
    "error_msg",
    "errorMessage",
    "Message",
    "status_msg",
    "detail",
    "error_description",
];
/// Fields that say in an error what went wrong, and elsewhere may say anything.
const DESCRIPTIONS: &[&str] = &["description", "title"];
/// Where a body has another one inside. `raw` is OpenRouter's copy of the upstream's answer, `base_resp` is MiniMax's.
const NESTED: &[&str] = &["error", "errors", "response", "metadata", "raw", "base_resp"];
/// The fields under which servers write what kind of error it is, the most specific one first.
pub(super) const KINDS: &[&str] = &[
    "code",
    "error_code",
    "errorCode",
    "type",
    "error_type",
    "__type",
    "status",
    "status_code",
    "statusCode",
    "http_status",
    "param",
];
/// Words in these places that say no more than that there is an error.
const EMPTY_KINDS: &[&str] = &["error", "failed", "none", "unknown"];

impl ErrorBody {
    /// Reads a body: JSON, or an event of a stream with JSON in it. Of any other text nothing is said.
    pub(super) fn read(raw: &str) -> ErrorBody {
        let raw = raw.trim();
        let event = || raw.lines().find_map(|line| line.strip_prefix("data:"));
        let body = serde_json::from_str(raw).ok().or_else(|| serde_json::from_str(event()?.trim()).ok());
        let mut found = Found::default();
        if let Some(body) = body {
            found.visit(&body, 0);
        }
        let named = found.kinds.iter().find_map(|kind| kind.parse().ok().filter(|code| (400..600).contains(code)));
        let status = named.or_else(|| found.kinds.iter().find_map(|kind| status_of_kind(kind)));
        ErrorBody { status, text: found.text(status) }
    }
}

#[derive(Default)]
struct Found {
    words: Vec<String>,
    kinds: Vec<String>,
}

impl Found {
    fn visit(&mut self, value: &Value, depth: usize) {
        match value {
            _ if depth > MAX_DEPTH => {}
            Value::Object(fields) => self.object(fields, depth + 1),
            Value::Array(items) => items.iter().for_each(|item| self.visit(item, depth + 1)),
            Value::String(text) => match serde_json::from_str::<Value>(text) {
                Ok(inner @ (Value::Object(_) | Value::Array(_))) => self.visit(&inner, depth + 1),
                _ => self.say(text),
            },
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    fn object(&mut self, fields: &Map<String, Value>, depth: usize) {
        let room = MAX_PIECES.saturating_sub(self.kinds.len());
        for kind in KINDS.iter().filter_map(|key| fields.get(*key)).take(room) {
            match kind {
                Value::String(word) if !word.is_empty() => self.kinds.push(word.clone()),
                Value::Number(number) => self.kinds.push(number.to_string()),
                Value::Null | Value::Bool(_) | Value::String(_) | Value::Array(_) | Value::Object(_) => {}
            }
        }
        for key in MESSAGES.iter().chain(DESCRIPTIONS).chain(NESTED) {
            if let Some(value) = fields.get(*key) {
                self.visit(value, depth);
            }
        }
    }

    /// Keeps words for people, which often stand in several places of a body.
    fn say(&mut self, text: &str) {
        let text = text.trim();
        if self.words.len() < MAX_PIECES && !text.is_empty() && !self.words.iter().any(|said| said.contains(text)) {
            self.words.push(text.to_string());
        }
    }

    fn text(&self, status: Option<u16>) -> Option<String> {
        let mut text = self.words.join(": ");
        if text.is_empty() {
            return None;
        }
        let number = status.map(|status| status.to_string());
        let mut kinds: Vec<&str> = Vec::new();
        for kind in &self.kinds {
            let empty = EMPTY_KINDS.contains(&kind.as_str()) || number.as_ref() == Some(kind);
            if !empty && !kinds.contains(&kind.as_str()) && !text.contains(kind.as_str()) {
                kinds.push(kind);
            }
        }
        if !kinds.is_empty() {
            text = format!("{text} ({})", kinds.join(", "));
        }
        Some(text)
    }
}

/// A provider's words inside a stream, cut to what a message may hold.
pub(super) fn quoted(data: &[u8]) -> String {
    String::from_utf8_lossy(data).chars().take(MAX_ERROR_CHARS).collect()
}

/// The status that an error of this kind has where it is the answer to a request: as the services document it, and as the
/// error classes of their client libraries are named, which gateways write into their answers.
fn status_of_kind(kind: &str) -> Option<u16> {
    // `rate_limit_error`, `RateLimitError` and `rate-limit` are one kind.
    let kind: String = kind.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect();
    let kind = ["error", "exception"].iter().fold(kind.as_str(), |kind, end| kind.strip_suffix(end).unwrap_or(kind));
    let known = STATUS_OF_KIND.iter().find(|(_, kinds)| kinds.contains(&kind));
    known.map(|(status, _)| *status)
}

const STATUS_OF_KIND: &[(u16, &[&str])] = &[
    (
        400,
        &[
            "badrequest",
            "contentfilter",
            "contentpolicyviolation",
            "contextlengthexceeded",
            "contextwindowexceeded",
            "failedprecondition",
            "invalidargument",
            "invalidparameter",
            "invalidprompt",
            "invalidrequest",
            "invalidtype",
            "invalidvalue",
            "outofrange",
            "unsupportedparameter",
            "unsupportedparams",
            "validation",
        ],
    ),
    (
        401,
        &[
            "authentication",
            "incorrectapikey",
            "invalidapikey",
            "invalidauthentication",
            "unauthenticated",
            "unauthorized",
        ],
    ),
    (402, &["billing", "insufficientbalance", "insufficientcredits", "insufficientfunds", "paymentrequired"]),
    (403, &["accessdenied", "forbidden", "permission", "permissiondenied"]),
    (404, &["modelnotfound", "notfound", "resourcenotfound"]),
    (408, &["modeltimeout", "requesttimeout"]),
    (409, &["aborted", "conflict"]),
    (413, &["contenttoolarge", "payloadtoolarge", "requestentitytoolarge", "requesttoolarge"]),
    (422, &["unprocessableentity"]),
    (
        429,
        &[
            "exceededcurrentquota",
            "insufficientquota",
            "modelnotready",
            "quotaexceeded",
            "ratelimit",
            "ratelimited",
            "ratelimitexceeded",
            "ratelimitreached",
            "resourceexhausted",
            "throttled",
            "throttling",
            "toomanyrequests",
            "usagelimitreached",
        ],
    ),
    (499, &["cancelled"]),
    (500, &["api", "dataloss", "internal", "internalserver", "modelstream", "server", "serverinternal"]),
    (502, &["apiconnection", "badgateway", "connection", "upstream"]),
    (
        503,
        &[
            "provideroverloaded",
            "providerunavailable",
            "serverbusy",
            "serverisoverloaded",
            "serviceunavailable",
            "slowdown",
            "unavailable",
        ],
    ),
    (504, &["apitimeout", "deadlineexceeded", "gatewaytimeout", "timeout"]),
    (529, &["engineoverloaded", "modeloverloaded", "overloaded"]),
];

#[cfg(test)]
mod tests;
