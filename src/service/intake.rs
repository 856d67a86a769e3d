//! Requests as they come to the intake's subject, and prompts as they come to a session's.

use crate::contract::error::{DaemonError, echo};
use crate::contract::request::{Request, read};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

/// True if the caller waits for a stream, and so for the empty message that ends it. A request that is too broken to tell
/// counts as one: an empty message more than expected harms no caller, one that never comes does.
pub(crate) fn expects_stream(payload: &[u8]) -> bool {
    !serde_json::from_slice::<Map<String, Value>>(payload).is_ok_and(|map| {
        matches!(map.get("sessionMode").and_then(Value::as_str), Some("list" | "stop" | "drain" | "undrain"))
    })
}

/// Reads a request, with the checks in the protocol's order.
///
/// # Errors
/// The first check that fails.
pub(crate) fn parse(payload: &[u8]) -> Result<Request, DaemonError> {
    let value: Value =
        serde_json::from_slice(payload).map_err(|e| DaemonError::InvalidJson { message: echo(&e.to_string()) })?;
    let no_mode = || DaemonError::InvalidRequest { message: "sessionMode required".into() };
    let Value::Object(map) = value else { return Err(no_mode()) };
    let mode = map.get("sessionMode").and_then(Value::as_str).ok_or_else(no_mode)?.to_string();
    read(&mode, map)
}

/// A prompt sent to a session's own subject.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct PromptRequest {
    pub text: String,
    pub from: Option<String>,
}

/// The fields of a prompt in JSON. They are raw because values are skipped without recursion: a session's thread has a
/// small stack, and the depth of a value is the caller's choice.
#[derive(Deserialize)]
struct PromptFields<'a> {
    #[serde(borrow)]
    body: Option<&'a RawValue>,
    #[serde(borrow)]
    prompt: Option<&'a RawValue>,
    #[serde(borrow)]
    from: Option<&'a RawValue>,
}

/// Reads a prompt: a JSON object with a string `body` or `prompt`, or else the plain text.
///
/// # Errors
/// The reason why there is nothing to ask the model.
pub(crate) fn parse_prompt(payload: &[u8]) -> Result<PromptRequest, &'static str> {
    let string = |value: Option<&RawValue>| serde_json::from_str::<String>(value?.get()).ok();
    let object = match payload.iter().find(|b| !b.is_ascii_whitespace()) {
        Some(b'{') => serde_json::from_slice::<PromptFields<'_>>(payload).ok(),
        _ => None,
    };
    let request = object.and_then(|fields| {
        let text = string(fields.body).or_else(|| string(fields.prompt))?;
        Some(PromptRequest { text, from: string(fields.from).map(|from| echo(&from)) })
    });
    let request = match request {
        Some(request) => request,
        None => match std::str::from_utf8(payload) {
            Ok(text) => PromptRequest { text: text.to_string(), from: None },
            Err(_) => return Err("the prompt is not UTF-8"),
        },
    };
    if request.text.trim().is_empty() { Err("the prompt is empty") } else { Ok(request) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::error::MAX_ECHO;
    use crate::contract::request::Page;
    use crate::model::ThinkingLevel;
    use serde_json::json;
    use std::time::Duration;

    #[test]
    fn requests_are_checked_in_the_protocols_order() {
        let deep = format!("{}1{}", "[".repeat(10_000), "]".repeat(10_000));
        for (payload, code) in [
            ("", "invalid_json"),
            ("{", "invalid_json"),
            ("\u{feff}{}", "invalid_json"),
            (r#"{"sessionMode":"\ud800"}"#, "invalid_json"),
            (deep.as_str(), "invalid_json"),
            ("null", "invalid_request"),
            ("[]", "invalid_request"),
            ("{}", "invalid_request"),
            (r#"{"sessionMode":1}"#, "invalid_request"),
            (r#"{"sessionMode":"Run"}"#, "invalid_sessionMode"),
            (r#"{"sessionMode":""}"#, "invalid_sessionMode"),
            (r#"{"sessionMode":"run"}"#, "missing_fields"),
            (r#"{"sessionMode":"run","body":"","cwd":"/"}"#, "missing_fields"),
            (r#"{"sessionMode":"run","body":" \n","cwd":"/"}"#, "missing_fields"),
            (r#"{"sessionMode":"run","body":1,"cwd":"/"}"#, "missing_fields"),
            (r#"{"sessionMode":"session","body":"x","cwd":"/"}"#, "missing_fields"),
            (r#"{"sessionMode":"session","body":"x","sessionId":"a b"}"#, "missing_fields"),
            (r#"{"sessionMode":"session","body":"x","cwd":"/","sessionId":"a.b"}"#, "invalid_sessionId"),
            (r#"{"sessionMode":"stop"}"#, "missing_fields"),
            (r#"{"sessionMode":"stop","sessionId":">"}"#, "invalid_sessionId"),
            (r#"{"sessionMode":"list","after":7}"#, "invalid_request"),
            (r#"{"sessionMode":"list","limit":0}"#, "invalid_request"),
            (r#"{"sessionMode":"list","limit":1.5}"#, "invalid_request"),
            (r#"{"sessionMode":"drain","host":7}"#, "invalid_request"),
        ] {
            let error = parse(payload.as_bytes()).expect_err(payload);
            assert_eq!(error.code(), code, "{payload}");
            assert_eq!(error.document()["error"], code);
        }
        let missing = parse(br#"{"sessionMode":"session"}"#).expect_err("fields are missing");
        assert_eq!(missing.document()["required"], json!(["body", "cwd", "sessionId"]));
        assert_eq!(parse(br#"{"sessionMode":"list","body":7}"#), Ok(Request::List(Page::default())));
        let page = Page { after: Some("a".into()), limit: Some(7) };
        assert_eq!(parse(br#"{"sessionMode":"list","after":"a","limit":7}"#), Ok(Request::List(page)));
        assert_eq!(
            parse(br#"{"sessionMode":"stop","sessionId":"a-B_9"}"#),
            Ok(Request::Stop { session_id: "a-B_9".to_owned().try_into().expect("an id") })
        );
    }

    #[test]
    fn options_of_a_session_are_checked_by_type_and_range() {
        let create = |options: &str| {
            let payload = format!(r#"{{"sessionMode":"run","body":"x","cwd":"/",{options}}}"#);
            match parse(payload.as_bytes()) {
                Ok(Request::Create(create)) => create,
                other => panic!("{other:?}"),
            }
        };
        let code = |result: Result<(), DaemonError>| result.map_err(|e| e.code());
        for options in
            [r#""maxLifetime":-1"#, r#""maxLifetime":"60""#, r#""maxLifetime":1e300"#, r#""maxLifetime":true"#]
        {
            assert_eq!(code(create(options).max_lifetime().map(drop)), Err("invalid_request"), "{options}");
        }
        assert_eq!(create(r#""maxLifetime":0"#).max_lifetime(), Ok(Some(Duration::ZERO)));
        assert_eq!(create(r#""maxLifetime":1.5"#).max_lifetime(), Ok(Some(Duration::from_millis(1500))));
        assert_eq!(create(r#""maxLifetime":null"#).max_lifetime(), Ok(None));
        assert_eq!(code(create(r#""thinkingLevel":"huge""#).thinking().map(drop)), Err("invalid_request"));
        assert_eq!(create(r#""thinkingLevel":"high""#).thinking(), Ok(Some(ThinkingLevel::High)));
        assert_eq!(code(create(r#""model":7"#).model().map(drop)), Err("invalid_request"));
        assert_eq!(code(create(r#""from":[]"#).from().map(drop)), Err("invalid_request"));
        assert_eq!(create(r#""from":"ci""#).from(), Ok(Some("ci")));
    }

    #[test]
    fn only_plain_answers_end_without_an_empty_message() {
        for (payload, stream) in [
            (r#"{"sessionMode":"list"}"#, false),
            (r#"{"sessionMode":"stop","sessionId":"x"}"#, false),
            (r#"{"sessionMode":"stop"}"#, false),
            (r#"{"sessionMode":"undrain"}"#, false),
            (r#"{"sessionMode":"run"}"#, true),
            (r#"{"sessionMode":"explode"}"#, true),
            ("{", true),
        ] {
            assert_eq!(expects_stream(payload.as_bytes()), stream, "{payload}");
        }
    }

    #[test]
    fn prompts_are_text_or_an_object_with_text() {
        let ok = |text: &str, from: Option<&str>| Ok(PromptRequest { text: text.into(), from: from.map(Into::into) });
        for (payload, expected) in [
            (&b"hello"[..], ok("hello", None)),
            (br#"{"body":"hi","from":"ci"}"#, ok("hi", Some("ci"))),
            (br#" {"prompt":"hi"}"#, ok("hi", None)),
            (br#"{"other":"hi"}"#, ok(r#"{"other":"hi"}"#, None)),
            (br#"{"body":7}"#, ok(r#"{"body":7}"#, None)),
            (b"{broken", ok("{broken", None)),
            (b"", Err("the prompt is empty")),
            (b" \n\t", Err("the prompt is empty")),
            (br#"{"body":" "}"#, Err("the prompt is empty")),
            (b"\xff\xfe", Err("the prompt is not UTF-8")),
        ] {
            assert_eq!(parse_prompt(payload), expected, "{}", String::from_utf8_lossy(payload));
        }
    }

    #[test]
    fn a_deep_prompt_needs_no_deep_stack() {
        let nested = |depth: usize| format!("{}1{}", r#"{"body":"#.repeat(depth), "}".repeat(depth));
        let read =
            move || [100, 100_000].map(|depth| parse_prompt(nested(depth).as_bytes()).map(|prompt| prompt.text.len()));
        let thread = std::thread::Builder::new().stack_size(crate::threads::SESSION_STACK).spawn(read);
        let lengths = thread.expect("a thread").join().expect("no overflow");
        assert_eq!(lengths, [Ok(901), Ok(900_001)]);
    }

    #[test]
    fn what_callers_write_is_kept_short() {
        let long = "ä".repeat(100_000);
        let payload = json!({"sessionMode": "run", "body": "x", "cwd": "/", "from": long, "model": long}).to_string();
        let Ok(Request::Create(create)) = parse(payload.as_bytes()) else { panic!("it is a request") };
        for error in [create.from().map(drop), create.model().map(drop)] {
            assert_eq!(error.map_err(|e| e.code()), Err("invalid_request"));
        }
        let error = DaemonError::SessionCreateFailed { message: long.clone() };
        assert_eq!(error.document()["message"], "ä".repeat(1000));
        let prompt = parse_prompt(json!({"body": "x", "from": long}).to_string().as_bytes()).expect("a prompt");
        assert_eq!(prompt.from, Some("ä".repeat(MAX_ECHO)));
    }
}
