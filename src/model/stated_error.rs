//! Errors that servers state inside an answer that was accepted, in the many forms that they have.

use super::error_body::{ErrorBody, KINDS, MESSAGES, quoted};
use super::request::{Failure, RequestError};
use super::waits;
use crate::json::tolerant;
use serde_json::Value;
use serde_json::value::RawValue;

/// Kinds of events that say something to the reader of a connection and nothing of the answer.
const IDLE_TYPES: [&str; 4] = ["ping", "keepalive", "keep-alive", "heartbeat"];

/// An event that is no JSON, of which nobody knows what was lost with it.
pub(super) fn unusable(error: &serde_json::Error) -> RequestError {
    RequestError::new(format!("Unusable event in the stream: {error}"))
}

/// Whether the field `error` of an event says anything: there are servers that send it with everything.
pub(super) fn is_error(raw: Option<&RawValue>) -> bool {
    raw.is_some_and(|raw| !matches!(raw.get(), "null" | "\"\"" | "{}" | "[]" | "false" | "0"))
}

/// An error that came inside a stream, or in place of one, with the facts that it would have as the answer to a request: JSON
/// in any form, an event around it included, or just words.
pub(super) fn provider_error(raw: &str) -> RequestError {
    let ErrorBody { status, text } = ErrorBody::read(raw);
    let text = quoted(text.as_deref().unwrap_or(raw.trim()).as_bytes());
    RequestError {
        text: status.map_or(text.clone(), |s| format!("{s}: {text}")),
        facts: Failure { status, retry_after: waits::in_error(status, raw), lost: false },
        aborted: false,
    }
}

/// Looks for an error in the data of an event that is none of its API, whether or not it has a field `error`.
///
/// # Errors
/// The error that the event states, or that its data is no JSON.
pub(super) fn check(data: &[u8]) -> Result<(), RequestError> {
    let value: Value = tolerant::parse(data, &mut String::new()).map_err(|e| unusable(&e))?;
    find(&value).map_or(Ok(()), |error| Err(provider_error(&error.to_string())))
}

/// Whether data that is all that a server sent is an error: then words will do that elsewhere may say anything.
pub(super) fn is_error_alone(data: &str) -> bool {
    let Ok(value) = serde_json::from_str::<Value>(data) else { return false };
    find(&value).is_some() || has_message(value.get(0).unwrap_or(&value))
}

/// The part of an event or a body that states an error; `None` where it states none.
///
/// OpenAI has an `error` object. Others have a text there, a list `errors` (Cloudflare), the whole object as the error
/// (`"object": "error"` of vLLM and SGLang, `"type": "error"`), FastAPI's `detail`, a bare `message` with a `code`
/// (DashScope), Baidu's `error_msg`, MiniMax's `base_resp`, Groq's `x_groq`, or put it into the choice (OpenRouter).
fn find(value: &Value) -> Option<&Value> {
    let value = if let Value::Array(list) = value { list.first()? } else { value };
    let object = value.as_object()?;
    let field = |name: &str| object.get(name).filter(|found| says_something(found));
    match field("error") {
        // A flag beside the words.
        Some(Value::Bool(_) | Value::Number(_)) => return Some(value),
        // The kind of the error in one word, and the words beside it.
        Some(Value::String(_)) if has_message(value) => return Some(value),
        Some(error) => return Some(error),
        None => {}
    }
    if let Some(errors) = field("errors") {
        return errors.as_array().map_or(Some(errors), |list| list.first());
    }
    if ["object", "type"].iter().any(|name| object.get(*name).and_then(Value::as_str) == Some("error")) {
        return Some(value);
    }
    if let Some(base) = field("base_resp").filter(|base| base.get("status_code").is_some_and(is_failure_code)) {
        return Some(base);
    }
    let nested = [field("x_groq"), object.get("choices").and_then(|choices| choices.get(0))];
    if let Some(error) = nested.into_iter().flatten().filter_map(|at| at.get("error")).find(|e| says_something(e)) {
        return Some(error);
    }
    let idle = object.get("type").and_then(Value::as_str).is_some_and(|kind| IDLE_TYPES.contains(&kind));
    let answers = ["choices", "output", "delta", "usage"].iter().any(|name| object.contains_key(*name));
    if idle || answers || !has_message(value) {
        return None;
    }
    let alone = object.len() == 1;
    let refused = object.get("success") == Some(&Value::Bool(false));
    let plain = ["detail", "error_message", "error_msg"].into_iter().any(|name| field(name).is_some());
    let coded = KINDS.iter().filter_map(|name| field(name)).any(is_failure_code);
    (alone || refused || plain || coded).then_some(value)
}

/// Whether there is anything in it: empty values stand in fields for which a server has nothing to say.
fn says_something(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(flag) => *flag,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.trim().is_empty(),
        Value::Array(list) => list.iter().any(says_something),
        Value::Object(map) => map.values().any(says_something),
    }
}

/// Whether this code stands for a failure: some servers write `0`, `200` or `ok` where nothing is wrong.
fn is_failure_code(code: &Value) -> bool {
    match code {
        Value::Number(number) => !matches!(number.as_i64(), Some(0 | 200..=299)),
        Value::String(text) => !matches!(text.to_ascii_lowercase().as_str(), "" | "0" | "200" | "ok" | "success"),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => false,
    }
}

/// Whether the error has words of its own.
fn has_message(error: &Value) -> bool {
    MESSAGES.iter().any(|name| error.get(*name).is_some_and(says_something))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn errors_in_all_their_forms() {
        let whole = [
            json!({"error":"invalid_request","message":"no"}),
            json!({"error":true,"message":"no"}),
            json!({"object":"error","message":"no","type":"BadRequestError","param":null,"code":400}),
            json!({"type":"error","code":"server_error","message":"no","sequence_number":4}),
            json!({"detail":"no"}),
            json!({"detail":[{"loc":["body"],"msg":"no"}]}),
            json!({"message":"no"}),
            json!({"message":"no","type":"invalid_request_error"}),
            json!({"code":"InvalidParameter","message":"no","request_id":"r"}),
            json!({"code":500,"msg":"no","success":false}),
            json!({"error_code":336100,"error_msg":"no"}),
        ];
        for event in whole {
            assert_eq!(find(&event), Some(&event), "{event}");
        }
        let inside = json!({"message":"no","code":7});
        for event in [
            json!({"error":inside}),
            json!([{"error":inside}]),
            json!({"type":"error","error":inside}),
            json!({"success":false,"errors":[inside],"result":null}),
            json!({"choices":[],"x_groq":{"id":"r","error":inside}}),
            json!({"choices":[{"error":inside,"finish_reason":"error"}]}),
        ] {
            assert_eq!(find(&event), Some(&inside), "{event}");
        }
        let base = json!({"status_code":1008,"status_msg":"no"});
        assert_eq!(find(&json!({"choices":null,"base_resp":base})), Some(&base));
    }

    #[test]
    fn what_is_no_error() {
        for event in [
            json!({"choices":[{"delta":{"content":"x"}}],"error":""}),
            json!({"choices":[],"error":null}),
            json!({"choices":[],"error":{}}),
            json!({"choices":[],"error":{"code":0,"message":""}}),
            json!({"choices":[],"prompt_filter_results":[{"prompt_index":0}]}),
            json!({"choices":[],"base_resp":{"status_code":0,"status_msg":""}}),
            json!({"choices":[],"x_groq":{"id":"r"}}),
            json!({"type":"ping","message":"still here"}),
            json!({"code":200,"msg":"ok"}),
            json!({"id":"x","object":"chat.completion.chunk"}),
            json!({}),
            json!(null),
            json!([]),
            json!("text"),
        ] {
            assert_eq!(find(&event), None, "{event}");
        }
    }
}
