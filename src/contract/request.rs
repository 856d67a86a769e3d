//! Requests to the intake subject: their form, the checks that need no daemon, and the coded errors.

use crate::model::ThinkingLevel;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use std::time::Duration;

/// A checked request.
#[derive(Debug, PartialEq)]
pub enum Request {
    /// Modes `run` and `session`.
    Create(Create),
    Stop {
        session_id: String,
    },
    List,
}

/// A request for a new session. Model, thinking level and lifetime are checked after the working directory, in the order
/// that the protocol gives them, so they are kept as they came.
#[derive(Debug, PartialEq)]
pub struct Create {
    /// Absent for an ephemeral run.
    pub session_id: Option<String>,
    /// The first prompt; absent if the session shall wait for one.
    pub body: Option<String>,
    pub cwd: String,
    options: Map<String, Value>,
}

/// A refusal, with the code that is part of the protocol.
#[derive(Clone, Debug, PartialEq)]
pub enum IntakeError {
    InvalidJson {
        message: String,
    },
    InvalidRequest {
        message: String,
    },
    InvalidSessionMode {
        mode: String,
    },
    MissingFields {
        required: &'static [&'static str],
    },
    InvalidSessionId {
        session_id: String,
    },
    SessionExists {
        session_id: String,
        subject: String,
    },
    SessionCreateFailed {
        message: String,
    },
    NotFound {
        session_id: String,
    },
    /// The daemon has all the sessions that it may have, or the system refuses another thread.
    Busy {
        message: String,
    },
    ShuttingDown,
    /// The request is not signed as it has to be.
    Unauthorized {
        message: String,
    },
}

/// Longest session id, so that subjects stay far below the limit of 256 bytes.
const MAX_SESSION_ID: usize = 64;
/// How much of a caller's text an error repeats, characters.
const MAX_ECHO: usize = 200;
/// Longest explanation in an error, characters: room for any of ours with what it repeats of a usual request.
const MAX_MESSAGE: usize = 1000;
/// Longest model, thinking level or caller's name, bytes. A name stays in every list; no such value needs more.
pub const MAX_OPTION: usize = 1024;

impl IntakeError {
    pub fn code(&self) -> &'static str {
        match self {
            IntakeError::InvalidJson { .. } => "invalid_json",
            IntakeError::InvalidRequest { .. } => "invalid_request",
            IntakeError::InvalidSessionMode { .. } => "invalid_sessionMode",
            IntakeError::MissingFields { .. } => "missing_fields",
            IntakeError::InvalidSessionId { .. } => "invalid_sessionId",
            IntakeError::SessionExists { .. } => "session_exists",
            IntakeError::SessionCreateFailed { .. } => "session_create_failed",
            IntakeError::NotFound { .. } => "not_found",
            IntakeError::Busy { .. } => "busy",
            IntakeError::ShuttingDown => "shutting_down",
            IntakeError::Unauthorized { .. } => "unauthorized",
        }
    }

    /// The number for the `Nats-Service-Error-Code` header.
    pub fn status(&self) -> u16 {
        match self {
            IntakeError::SessionExists { .. } => 409,
            IntakeError::NotFound { .. } => 404,
            IntakeError::Unauthorized { .. } => 401,
            IntakeError::Busy { .. } => 429,
            IntakeError::ShuttingDown => 503,
            _ => 400,
        }
    }

    /// The JSON document of the reply.
    pub fn document(&self) -> Value {
        let code = self.code();
        match self {
            IntakeError::InvalidJson { message }
            | IntakeError::InvalidRequest { message }
            | IntakeError::SessionCreateFailed { message }
            | IntakeError::Unauthorized { message }
            | IntakeError::Busy { message } => json!({"error": code, "message": cut(message, MAX_MESSAGE)}),
            IntakeError::InvalidSessionMode { mode } => json!({"error": code, "sessionMode": mode}),
            IntakeError::MissingFields { required } => json!({"error": code, "required": required}),
            IntakeError::InvalidSessionId { session_id } => json!({"error": code, "sessionId": session_id,
                "message": format!("a sessionId is 1 to {MAX_SESSION_ID} of the characters A-Z a-z 0-9 _ -")}),
            IntakeError::SessionExists { session_id, subject } => json!({"error": code, "sessionId": session_id,
                "subject": subject, "message": format!("session {session_id:?} exists; stop it first or use its subject")}),
            IntakeError::NotFound { session_id } => json!({"error": code, "sessionId": session_id}),
            IntakeError::ShuttingDown => json!({"error": code}),
        }
    }

    /// One line for the `Nats-Service-Error` header and the statistics.
    pub fn summary(&self) -> String {
        match self.document().get("message").and_then(Value::as_str) {
            Some(message) => format!("{}: {message}", self.code()),
            None => self.code().to_string(),
        }
    }
}

/// A text as an error repeats it.
fn echo(text: &str) -> String {
    cut(text, MAX_ECHO).to_string()
}

/// The first `characters` of a text.
fn cut(text: &str, characters: usize) -> &str {
    text.char_indices().nth(characters).map_or(text, |(end, _)| &text[..end])
}

/// True for a text that may be the last token of a subject and a part of a path.
pub fn valid_session_id(text: &str) -> bool {
    (1..=MAX_SESSION_ID).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

/// True if the caller waits for a stream, and so for the empty message that ends it. A request that is too broken to tell
/// counts as one: an empty message more than expected harms no caller, one that never comes does.
pub fn expects_stream(payload: &[u8]) -> bool {
    !serde_json::from_slice::<Map<String, Value>>(payload)
        .is_ok_and(|map| matches!(map.get("sessionMode").and_then(Value::as_str), Some("list" | "stop")))
}

/// Reads a request, with the checks in the protocol's order.
///
/// # Errors
/// The first check that fails.
pub fn parse(payload: &[u8]) -> Result<Request, IntakeError> {
    let value: Value =
        serde_json::from_slice(payload).map_err(|e| IntakeError::InvalidJson { message: echo(&e.to_string()) })?;
    let no_mode = || IntakeError::InvalidRequest { message: "sessionMode required".into() };
    let Value::Object(map) = value else { return Err(no_mode()) };
    let mode = map.get("sessionMode").and_then(Value::as_str).ok_or_else(no_mode)?.to_string();
    read(&mode, map)
}

/// Checks the fields of a request whose mode is known.
///
/// # Errors
/// The first check that fails.
pub fn read(mode: &str, mut map: Map<String, Value>) -> Result<Request, IntakeError> {
    let (required, named): (&'static [&'static str], bool) = match mode {
        "run" => (&["body", "cwd"], false),
        "session" => (&["body", "cwd", "sessionId"], true),
        "stop" => (&["sessionId"], true),
        "list" => return Ok(Request::List),
        other => return Err(IntakeError::InvalidSessionMode { mode: echo(other) }),
    };
    let stop = mode == "stop";
    let present = |key: &&str| map.get(*key).and_then(Value::as_str).is_some_and(|text| !text.trim().is_empty());
    if !required.iter().all(present) {
        return Err(IntakeError::MissingFields { required });
    }
    let mut take = |key: &str| match map.remove(key) {
        Some(Value::String(text)) => text,
        _ => String::new(),
    };
    let session_id = named.then(|| take("sessionId"));
    if let Some(id) = session_id.as_deref().filter(|id| !valid_session_id(id)) {
        return Err(IntakeError::InvalidSessionId { session_id: echo(id) });
    }
    match session_id {
        Some(session_id) if stop => Ok(Request::Stop { session_id }),
        session_id => {
            let (body, cwd) = (Some(take("body")), take("cwd"));
            Ok(Request::Create(Create { session_id, body, cwd, options: map }))
        }
    }
}

impl Create {
    /// A request for a session that waits for its first prompt.
    ///
    /// # Errors
    /// The first check that fails.
    pub fn without_prompt(mut options: Map<String, Value>) -> Result<Create, IntakeError> {
        let cwd = match options.remove("cwd") {
            Some(Value::String(cwd)) if !cwd.trim().is_empty() => cwd,
            _ => return Err(IntakeError::MissingFields { required: &["cwd"] }),
        };
        match options.remove("sessionId") {
            Some(Value::String(id)) if valid_session_id(&id) => {
                Ok(Create { session_id: Some(id), body: None, cwd, options })
            }
            Some(Value::String(id)) => Err(IntakeError::InvalidSessionId { session_id: echo(&id) }),
            other => Err(IntakeError::InvalidSessionId { session_id: echo(&other.unwrap_or_default().to_string()) }),
        }
    }

    /// The fields that are not required.
    pub fn options(&self) -> &Map<String, Value> {
        &self.options
    }

    fn option(&self, key: &str) -> Option<&Value> {
        self.options.get(key).filter(|value| !value.is_null())
    }

    fn text(&self, key: &str) -> Result<Option<&str>, IntakeError> {
        match self.option(key) {
            None => Ok(None),
            Some(Value::String(text)) if text.len() > MAX_OPTION => {
                Err(IntakeError::InvalidRequest { message: format!("{key} is longer than {MAX_OPTION} bytes") })
            }
            Some(Value::String(text)) => Ok(Some(text.as_str()).filter(|text| !text.is_empty())),
            Some(_) => Err(IntakeError::InvalidRequest { message: format!("{key} must be a string") }),
        }
    }

    /// The caller's name for itself; a label, never an authority.
    ///
    /// # Errors
    /// `invalid_request` for another type than string, and for a very long one.
    pub fn from(&self) -> Result<Option<&str>, IntakeError> {
        self.text("from")
    }

    /// The model asked for.
    ///
    /// # Errors
    /// `invalid_request` for another type than string, and for a very long one.
    pub fn model(&self) -> Result<Option<&str>, IntakeError> {
        self.text("model")
    }

    /// The session file to go on with: its path, its session's id, or the beginning of that.
    ///
    /// # Errors
    /// `invalid_request` for another type than string, and for a very long one.
    pub fn resume(&self) -> Result<Option<&str>, IntakeError> {
        self.text("resume")
    }

    /// A name for people.
    ///
    /// # Errors
    /// `invalid_request` for another type than string, and for a very long one.
    pub fn name(&self) -> Result<Option<&str>, IntakeError> {
        self.text("name")
    }

    /// The tools asked for, as `tools::select` takes them.
    ///
    /// # Errors
    /// `invalid_request` for anything but a list of strings.
    pub fn tools(&self) -> Result<Option<Vec<String>>, IntakeError> {
        let Some(value) = self.option("tools") else { return Ok(None) };
        let names = value.as_array().map(|names| names.iter().map(|name| name.as_str().map(str::to_owned)).collect());
        names
            .flatten()
            .map(Some)
            .ok_or_else(|| IntakeError::InvalidRequest { message: "tools must be a list of names".into() })
    }

    /// A switch that the request sets.
    ///
    /// # Errors
    /// `invalid_request` for another type than boolean.
    pub fn switch(&self, key: &str) -> Result<Option<bool>, IntakeError> {
        match self.option(key) {
            None => Ok(None),
            Some(Value::Bool(on)) => Ok(Some(*on)),
            Some(_) => Err(IntakeError::InvalidRequest { message: format!("{key} must be true or false") }),
        }
    }

    /// The thinking level asked for.
    ///
    /// # Errors
    /// `invalid_request` for what is no level.
    pub fn thinking(&self) -> Result<Option<ThinkingLevel>, IntakeError> {
        let Some(text) = self.text("thinkingLevel")? else { return Ok(None) };
        ThinkingLevel::parse(text).map(Some).ok_or_else(|| IntakeError::InvalidRequest {
            message: format!("thinkingLevel {:?} is none of off, minimal, low, medium, high, xhigh, max", echo(text)),
        })
    }

    /// The lifetime asked for; zero means no end.
    ///
    /// # Errors
    /// `invalid_request` for anything but a finite number of seconds from 0 up.
    pub fn max_lifetime(&self) -> Result<Option<Duration>, IntakeError> {
        let Some(value) = self.option("maxLifetime") else { return Ok(None) };
        value
            .as_f64()
            .filter(|seconds| (0.0..1e10).contains(seconds))
            .map(|seconds| Some(Duration::from_secs_f64(seconds)))
            .ok_or_else(|| IntakeError::InvalidRequest {
                message: "maxLifetime must be a number of seconds >= 0".into(),
            })
    }
}

/// A prompt sent to a session's own subject.
#[derive(Debug, PartialEq, Eq)]
pub struct PromptRequest {
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
pub fn parse_prompt(payload: &[u8]) -> Result<PromptRequest, &'static str> {
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
        ] {
            let error = parse(payload.as_bytes()).expect_err(payload);
            assert_eq!(error.code(), code, "{payload}");
            assert_eq!(error.document()["error"], code);
        }
        let missing = parse(br#"{"sessionMode":"session"}"#).expect_err("fields are missing");
        assert_eq!(missing.document()["required"], json!(["body", "cwd", "sessionId"]));
        assert_eq!(parse(br#"{"sessionMode":"list","body":7}"#), Ok(Request::List));
        assert_eq!(
            parse(br#"{"sessionMode":"stop","sessionId":"a-B_9"}"#),
            Ok(Request::Stop { session_id: "a-B_9".into() })
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
        let code = |result: Result<(), IntakeError>| result.map_err(|e| e.code());
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
    fn session_ids_are_single_safe_tokens() {
        for (id, valid) in [
            ("a", true),
            ("worker-1_B", true),
            ("", false),
            ("..", false),
            ("a.b", false),
            ("*", false),
            (">", false),
            ("a b", false),
            ("ä", false),
            ("a\0", false),
            ("a/b", false),
        ] {
            assert_eq!(valid_session_id(id), valid, "{id:?}");
        }
        assert!(valid_session_id(&"x".repeat(64)));
        assert!(!valid_session_id(&"x".repeat(65)));
    }

    #[test]
    fn only_plain_answers_end_without_an_empty_message() {
        for (payload, stream) in [
            (r#"{"sessionMode":"list"}"#, false),
            (r#"{"sessionMode":"stop","sessionId":"x"}"#, false),
            (r#"{"sessionMode":"stop"}"#, false),
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
        let error = IntakeError::SessionCreateFailed { message: long.clone() };
        assert_eq!(error.document()["message"], "ä".repeat(MAX_MESSAGE));
        let prompt = parse_prompt(json!({"body": "x", "from": long}).to_string().as_bytes()).expect("a prompt");
        assert_eq!(prompt.from, Some("ä".repeat(MAX_ECHO)));
    }
}
