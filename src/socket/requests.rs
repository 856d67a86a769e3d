//! What a client asks for: reading a line, with all the aliases and tolerance that existing clients rely on.

use crate::contract::control::{Changes, Deliver, Settlement};
use crate::contract::error::{DaemonError, ErrorKind, ReplyError, echo};
use crate::contract::request;
use crate::event_log::HistoryQuery;
use crate::governance::budget::Budgets;
use crate::json::tolerant;
use crate::tools::runner::Narrowing;
use crate::traceparent::{TRACEPARENT, Traceparent};
use crate::transcript::Block;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::{Map, Value};

/// A request that could be read.
#[derive(Debug)]
pub struct Request {
    pub head: Head,
    pub kind: Kind,
}

/// What every request has.
#[derive(Debug)]
pub struct Head {
    /// Repeated in the answer exactly as it came; absent if there was none.
    pub id: Option<Value>,
    /// The request's type as the client wrote it.
    pub asked: String,
    /// The request's type by its usual name.
    pub command: &'static str,
    /// The session that is meant, on the daemon's socket.
    pub session: Option<String>,
}

/// What is asked for.
#[derive(Debug)]
pub enum Kind {
    Ping,
    State,
    Subscribe {
        enabled: bool,
        since: Option<u64>,
    },
    Emit {
        message: String,
    },
    Commands,
    Prompt(Box<PromptFields>),
    History(HistoryQuery),
    Abort,
    Compact {
        instructions: Option<String>,
    },
    Shutdown {
        confirmed: bool,
    },
    Questions,
    Answer {
        question: String,
        answers: Value,
    },
    Reject {
        question: String,
    },
    Approve(Settlement),
    Inspect,
    Cancel {
        prompt: String,
    },
    Configure(Changes),
    /// Forgets the messages that wait.
    Clear,
    /// The last lines of the log, so many at most.
    Logs {
        limit: usize,
    },
    /// The figures of the daemon.
    Metrics,
    /// Something of the daemon's, by the intake's rules; true = the answer is streamed to the client.
    Intake(Box<request::Request>, bool),
}

/// A message for the model.
#[derive(Debug, PartialEq)]
pub struct PromptFields {
    pub text: String,
    pub images: Vec<ImagePart>,
    pub deliver: Deliver,
    pub from: Option<String>,
    /// The caller's place in a trace.
    pub trace: Option<Traceparent>,
    /// The answer is streamed to the client.
    pub stream: bool,
}

/// An image of a message.
#[derive(Debug, PartialEq)]
pub enum ImagePart {
    Here(Block),
    /// In a descriptor that came along.
    Along {
        mime_type: String,
    },
}

/// Why a request fails, with the code that programs go by.
#[derive(Debug, PartialEq)]
pub enum Failure {
    /// By the rules of the daemon.
    Daemon(DaemonError),
    /// By the rules of a session, or by those of this wire.
    Session(ReplyError),
}

impl Failure {
    pub fn new(kind: ErrorKind, why: impl Into<String>) -> Failure {
        Failure::Session(ReplyError::new(kind, why))
    }

    /// For people.
    pub fn message(&self) -> String {
        match self {
            Failure::Daemon(error) => error.summary(),
            Failure::Session(error) => error.message.clone(),
        }
    }

    /// The code, and what else callers over NATS would get.
    pub fn document(&self) -> Value {
        match self {
            Failure::Daemon(error) => error.document(),
            Failure::Session(error) => error.document(),
        }
    }
}

/// A request that fails, or a line that is none.
#[derive(Debug, PartialEq)]
pub struct Refusal {
    pub id: Option<Value>,
    /// Absent for a line that is too long to be looked into.
    pub command: Option<String>,
    pub failure: Failure,
}

impl Refusal {
    fn new(id: Option<Value>, command: impl Into<String>, failure: Failure) -> Box<Refusal> {
        Box::new(Refusal { id, command: Some(command.into()), failure })
    }
}

/// Reads a line.
///
/// # Errors
/// What is to be answered instead.
pub fn parse(line: &[u8]) -> Result<Request, Box<Refusal>> {
    // JavaScript writes half of a surrogate pair where it cuts a text, which is no reason to refuse all of it.
    let value: Value = tolerant::parse_whole(line).map_err(|e| {
        Refusal::new(id_of(line), "parse", Failure::new(ErrorKind::InvalidJson, format!("SyntaxError: {e}")))
    })?;
    let missing = || invalid("Unknown command type: <missing>");
    let Value::Object(mut fields) = value else { return Err(Refusal::new(None, "unknown", missing())) };
    let id = fields.remove("id");
    let Some(Value::String(asked)) = fields.remove("type") else { return Err(Refusal::new(id, "unknown", missing())) };
    let refused = |failure| Refusal::new(id.clone(), asked.clone(), failure);
    let session = match fields.get("session") {
        None | Some(Value::Null) => None,
        Some(Value::String(session)) => Some(session.clone()),
        Some(_) => return Err(refused(invalid("session must be a string"))),
    };
    // The intake's name for it, which requests to the intake use for themselves.
    let named = fields.get("sessionId").and_then(Value::as_str).map(str::to_string);
    let (command, kind) = kind(&asked, fields).map_err(refused)?;
    let session = if matches!(kind, Kind::Intake(..)) { session } else { session.or(named) };
    Ok(Request { head: Head { id, asked, command, session }, kind })
}

/// The id in a line that cannot be read as a whole, so that its sender can tell which request was refused: the value of the
/// first `id` of the outermost object, if everything before it can be read.
pub(super) fn id_of(line: &[u8]) -> Option<Value> {
    let mut rest = line.trim_ascii_start().strip_prefix(b"{")?;
    loop {
        let name: String = next_value(&mut rest)?;
        rest = rest.trim_ascii_start().strip_prefix(b":")?;
        if name == "id" {
            return next_value::<Value>(&mut rest).filter(|id| id.is_string() || id.is_number());
        }
        next_value::<IgnoredAny>(&mut rest)?;
        rest = rest.trim_ascii_start().strip_prefix(b",")?;
    }
}

/// Takes the JSON value that `rest` begins with.
fn next_value<T: DeserializeOwned>(rest: &mut &[u8]) -> Option<T> {
    let mut values = serde_json::Deserializer::from_slice(rest).into_iter::<T>();
    let value = values.next()?.ok()?;
    let end = values.byte_offset();
    *rest = &rest[end..];
    Some(value)
}

/// What was sent makes no request.
pub(super) fn invalid(why: impl Into<String>) -> Failure {
    Failure::new(ErrorKind::InvalidRequest, why)
}

fn kind(asked: &str, fields: Map<String, Value>) -> Result<(&'static str, Kind), Failure> {
    let stream = fields.get("stream") == Some(&Value::Bool(true));
    let confirmed = fields.get("confirm") == Some(&Value::Bool(true));
    Ok(match asked {
        "ping" => ("ping", Kind::Ping),
        "get_state" | "state" => ("get_state", Kind::State),
        "subscribe" => {
            // Only the word itself mutes; whatever else is there means yes.
            let enabled = fields.get("enabled") != Some(&Value::Bool(false));
            ("subscribe", Kind::Subscribe { enabled, since: fields.get("sinceSeq").and_then(Value::as_u64) })
        }
        "emit" => ("emit", Kind::Emit { message: text(&fields, "message").unwrap_or_else(|| "test".into()) }),
        "get_commands" | "commands" => ("get_commands", Kind::Commands),
        "prompt" | "send" => ("prompt", prompt(&fields, Deliver::Auto, stream)?),
        "steer" => ("steer", prompt(&fields, Deliver::Steer, stream)?),
        "follow_up" | "followUp" => ("follow_up", prompt(&fields, Deliver::FollowUp, stream)?),
        "history" => ("history", Kind::History(HistoryQuery::from_json(&fields))),
        "abort" => ("abort", Kind::Abort),
        "compact" => ("compact", Kind::Compact { instructions: text(&fields, "instructions") }),
        "shutdown" => ("shutdown", Kind::Shutdown { confirmed }),
        "questions" | "question_list" => ("questions", Kind::Questions),
        "answer" | "question_reply" => {
            let answers = fields.get("answers").cloned().unwrap_or_default();
            ("answer", Kind::Answer { question: question(&fields)?, answers })
        }
        "reject" | "question_reject" => ("reject", Kind::Reject { question: question(&fields)? }),
        "approve" => ("approve", Kind::Approve(Settlement::read(&fields, "bridge", None).map_err(invalid)?)),
        "inspect" => ("inspect", Kind::Inspect),
        "cancel" => {
            let prompt = text(&fields, "promptId").filter(|id| !id.is_empty());
            ("cancel", Kind::Cancel { prompt: prompt.ok_or_else(|| invalid("promptId required"))? })
        }
        "configure" => ("configure", Kind::Configure(changes(&fields)?)),
        "clear" => ("clear", Kind::Clear),
        "logs" => {
            let limit = fields.get("limit").and_then(Value::as_u64).and_then(|limit| usize::try_from(limit).ok());
            ("logs", Kind::Logs { limit: limit.unwrap_or(usize::MAX) })
        }
        "metrics" => ("metrics", Kind::Metrics),
        "run" => ("run", intake("run", fields, stream)?),
        "session" => ("session", intake("session", fields, stream)?),
        "stop" => ("stop", intake("stop", fields, stream)?),
        "list" => ("list", intake("list", fields, stream)?),
        "drain" => ("drain", intake("drain", fields, stream)?),
        "undrain" => ("undrain", intake("undrain", fields, stream)?),
        _ => return Err(Failure::new(ErrorKind::UnknownVerb, format!("Unknown command type: {asked}"))),
    })
}

fn text(fields: &Map<String, Value>, key: &str) -> Option<String> {
    fields.get(key).and_then(Value::as_str).map(str::to_owned)
}

/// What is to be changed of a session.
fn changes(fields: &Map<String, Value>) -> Result<Changes, Failure> {
    let wanted = |key: &str| match fields.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(_) => Err(invalid(format!("{key} must be a text"))),
    };
    let budgets = fields.get("budgets").map(Budgets::parse).transpose().map_err(invalid)?.unwrap_or_default();
    let (profile, network) = (wanted("sandbox")?, wanted("network")?);
    let short = |text: &Option<String>| text.as_deref().map(echo);
    let sandbox = Narrowing::read(short(&profile).as_deref(), short(&network).as_deref()).map_err(invalid)?;
    Ok(Changes { model: wanted("model")?, thinking: wanted("thinkingLevel")?, name: wanted("name")?, sandbox, budgets })
}

fn intake(mode: &str, fields: Map<String, Value>, stream: bool) -> Result<Kind, Failure> {
    let request = request::read(mode, fields).map_err(Failure::Daemon)?;
    Ok(Kind::Intake(Box::new(request), stream))
}

fn question(fields: &Map<String, Value>) -> Result<String, Failure> {
    let id = ["requestId", "request_id"].into_iter().find_map(|key| text(fields, key));
    id.map(|id| id.trim().to_string())
        .filter(|id| !id.is_empty())
        .ok_or_else(|| invalid("Error: Expected requestId/request_id"))
}

fn prompt(fields: &Map<String, Value>, usual: Deliver, stream: bool) -> Result<Kind, Failure> {
    let content = fields.get("content").filter(|c| c.is_string() || c.is_array()).or_else(|| fields.get("message"));
    let no_content = || invalid("Expected string message or content array");
    let (text, mut images) = content.and_then(parts).ok_or_else(no_content)?;
    if let Some(more) = fields.get("images").filter(|images| !images.is_null()) {
        let (text, more) = parts(more).ok_or_else(|| invalid("images must be a list of images"))?;
        if !text.is_empty() {
            return Err(invalid("images must be a list of images"));
        }
        images.extend(more);
    }
    let named = |key: &str| fields.get(key).and_then(Value::as_str);
    let deliver = match named("deliverAs").or_else(|| named("streamingBehavior")) {
        Some("auto") => Deliver::Auto,
        Some("now") => Deliver::Now,
        Some("steer") => Deliver::Steer,
        Some("followUp" | "follow_up" | "follow-up") => Deliver::FollowUp,
        Some("queue") => Deliver::Queue,
        _ => usual,
    };
    if stream && matches!(deliver, Deliver::Steer | Deliver::FollowUp) {
        let why = "only a prompt of its own can be streamed: deliver it as auto, now or queue";
        return Err(invalid(why));
    }
    let from = self::text(fields, "from").filter(|from| !from.is_empty());
    if from.as_ref().is_some_and(|from| from.len() > request::MAX_OPTION) {
        return Err(invalid(format!("from is longer than {} bytes", request::MAX_OPTION)));
    }
    let trace = named(TRACEPARENT).and_then(Traceparent::parse);
    Ok(Kind::Prompt(Box::new(PromptFields { text, images, deliver, from, trace, stream })))
}

/// The text and the images of a message's content, if it is such content.
fn parts(content: &Value) -> Option<(String, Vec<ImagePart>)> {
    let parts = match content {
        Value::String(text) => return Some((text.clone(), Vec::new())),
        Value::Array(parts) => parts,
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => return None,
    };
    let (mut texts, mut images) = (Vec::new(), Vec::new());
    for part in parts {
        let field = |key: &str| part.get(key).and_then(Value::as_str);
        let along = part.get("descriptor") == Some(&Value::Bool(true));
        match (part.as_str().or_else(|| field("text")), field("data"), field("mimeType")) {
            (Some(text), None, _) => texts.push(text),
            (_, Some(data), Some(mime_type)) => {
                let image = Block::Image { data: data.to_string(), mime_type: mime_type.to_string() };
                images.push(ImagePart::Here(image));
            }
            (None, None, Some(mime_type)) if along => {
                images.push(ImagePart::Along { mime_type: mime_type.to_string() })
            }
            _ => return None,
        }
    }
    Some((texts.join("\n"), images))
}

/// A text that begins with a slash.
#[derive(Debug, PartialEq, Eq)]
pub enum Slash<'a> {
    /// No command: other text, or a path such as `/etc/hosts`.
    None,
    /// `/bridge:status`
    Status,
    /// `/bridge:ping`, with what is to be sent back.
    Ping(&'a str),
    /// Something that a skill or a template may stand for, or a path of one word.
    Command(&'a str),
}

/// Whether a text is a command.
pub fn slash(text: &str) -> Slash<'_> {
    let Some(rest) = text.strip_prefix('/') else { return Slash::None };
    let (name, arguments) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    match name {
        "bridge:status" => Slash::Status,
        "bridge:ping" => Slash::Ping(Some(arguments.trim()).filter(|a| !a.is_empty()).unwrap_or("pong")),
        "" => Slash::None,
        name if name.contains('/') => Slash::None,
        name => Slash::Command(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(request: &Value) -> Result<Request, Box<Refusal>> {
        parse(request.to_string().as_bytes())
    }

    #[test]
    fn ids_are_found_in_lines_that_cannot_be_read() {
        for (line, expected) in [
            (r#"{"id":"h1","type":"emit""#, Some(json!("h1"))),
            (r#" { "type" : "emit" , "x":[1,{"id":"no"}], "id" : 7, nonsense"#, Some(json!(7))),
            (r#"{"id":{"a":1},"type""#, None),
            (r#"{"type":"emit","message":"never ends"#, None),
            (r#"{"type":"emit" "id":"h1"}"#, None),
            ("{", None),
            ("[1]", None),
            ("no JSON", None),
        ] {
            assert_eq!(id_of(line.as_bytes()), expected, "{line}");
        }
        let cut = parse(br#"{"id":"h1","type":"emit","message":"cut \ud83d"}"#).expect("half a pair is no harm");
        assert_eq!((cut.head.id, cut.head.command), (Some(json!("h1")), "emit"));
        assert!(matches!(cut.kind, Kind::Emit { message } if message == "cut "));
        assert_eq!(parse(br#"{"id":"h1","type":}"#).expect_err("no JSON").id, Some(json!("h1")));
    }

    #[test]
    fn a_session_can_be_named_by_the_intakes_word_too() {
        let named = |request: Value| read(&request).expect("a request").head.session;
        assert_eq!(named(json!({"type":"inspect","sessionId":"a"})), Some("a".to_string()));
        assert_eq!(named(json!({"type":"inspect","session":"b","sessionId":"a"})), Some("b".to_string()));
        assert_eq!(named(json!({"type":"stop","sessionId":"a"})), None);
    }

    #[test]
    fn ids_come_back_as_they_were() {
        for id in [json!(7), json!(1.5), json!("x"), json!(null), json!({"a": [1]}), json!(true), json!([])] {
            let request = json!({"type": "ping", "id": id});
            assert_eq!(read(&request).expect("a request").head.id, Some(id.clone()));
            let wrong = json!({"type": "nonsense", "id": id});
            assert_eq!(read(&wrong).expect_err("no request").id, Some(id));
        }
        assert_eq!(read(&json!({"type": "ping"})).expect("a request").head.id, None);
    }

    #[test]
    fn what_is_no_request_is_answered_in_the_protocols_words() {
        for (line, command, error) in [
            ("{", "parse", "SyntaxError: "),
            ("\u{fffd}", "parse", "SyntaxError: "),
            ("null", "unknown", "Unknown command type: <missing>"),
            ("7", "unknown", "Unknown command type: <missing>"),
            ("\"ping\"", "unknown", "Unknown command type: <missing>"),
            ("[1]", "unknown", "Unknown command type: <missing>"),
            ("{}", "unknown", "Unknown command type: <missing>"),
            (r#"{"type":5}"#, "unknown", "Unknown command type: <missing>"),
            (r#"{"type":"x y"}"#, "x y", "Unknown command type: x y"),
            (r#"{"type":"prompt"}"#, "prompt", "Expected string message or content array"),
            (r#"{"type":"send","message":5}"#, "send", "Expected string message or content array"),
            (r#"{"type":"steer","content":{}}"#, "steer", "Expected string message or content array"),
            (r#"{"type":"prompt","content":[{"type":"image"}]}"#, "prompt", "Expected string message"),
            (r#"{"type":"answer"}"#, "answer", "Error: Expected requestId/request_id"),
            (r#"{"type":"question_reject","requestId":" "}"#, "question_reject", "Error: Expected requestId"),
            (r#"{"type":"ping","session":5}"#, "ping", "session must be a string"),
            (r#"{"type":"run","cwd":"/"}"#, "run", "missing_fields"),
            (r#"{"type":"session","body":"x","cwd":"/","sessionId":"a b"}"#, "session", "invalid_sessionId"),
            (r#"{"type":"stop"}"#, "stop", "missing_fields"),
            (r#"{"type":"steer","message":"x","stream":true}"#, "steer", "only a prompt of its own"),
        ] {
            let refusal = parse(line.as_bytes()).expect_err(line);
            assert_eq!(refusal.command.as_deref(), Some(command), "{line}");
            assert!(refusal.failure.message().starts_with(error), "{line}: {:?}", refusal.failure);
        }
        let deep = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
        assert_eq!(parse(deep.as_bytes()).expect_err("too deep").command.as_deref(), Some("parse"));
        let broken = parse(br#"{"type":"stop","sessionId":">"}"#).expect_err("no id");
        assert_eq!(broken.failure.document()["error"], "invalid_sessionId");
    }

    #[test]
    fn aliases_have_one_name() {
        for (asked, command) in [
            ("state", "get_state"),
            ("commands", "get_commands"),
            ("question_list", "questions"),
            ("get_state", "get_state"),
            ("list", "list"),
        ] {
            let request = read(&json!({"type": asked})).expect("a request");
            assert_eq!((request.head.command, request.head.asked.as_str()), (command, asked));
        }
        for (asked, command) in [("send", "prompt"), ("followUp", "follow_up"), ("follow_up", "follow_up")] {
            assert_eq!(read(&json!({"type": asked, "message": "x"})).expect("a request").head.command, command);
        }
        let request = read(&json!({"type": "question_reply", "request_id": " q ", "answers": [["a"]]}));
        match request.expect("a request").kind {
            Kind::Answer { question, answers } => assert_eq!((question.as_str(), answers), ("q", json!([["a"]]))),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn only_the_word_false_mutes() {
        for (enabled, expected) in
            [(json!(false), false), (json!(true), true), (json!(0), true), (json!(null), true), (json!("false"), true)]
        {
            match read(&json!({"type": "subscribe", "enabled": enabled})).expect("a request").kind {
                Kind::Subscribe { enabled: found, since: None } => assert_eq!(found, expected, "{enabled}"),
                other => panic!("{other:?}"),
            }
        }
        for (since, expected) in [(json!(7), Some(7)), (json!(-1), None), (json!("7"), None)] {
            match read(&json!({"type": "subscribe", "sinceSeq": since})).expect("a request").kind {
                Kind::Subscribe { since: found, .. } => assert_eq!(found, expected),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn messages_are_delivered_as_asked() {
        for (asked, deliver, expected) in [
            ("prompt", json!(null), Deliver::Auto),
            ("prompt", json!("now"), Deliver::Now),
            ("prompt", json!("follow-up"), Deliver::FollowUp),
            ("prompt", json!("nonsense"), Deliver::Auto),
            ("steer", json!(null), Deliver::Steer),
            ("steer", json!("now"), Deliver::Now),
            ("follow_up", json!(7), Deliver::FollowUp),
            ("follow_up", json!("auto"), Deliver::Auto),
            ("prompt", json!("queue"), Deliver::Queue),
        ] {
            for key in ["deliverAs", "streamingBehavior"] {
                let request = read(&json!({"type": asked, "message": "x", key: deliver})).expect("a request");
                match request.kind {
                    Kind::Prompt(fields) => assert_eq!(fields.deliver, expected, "{asked} {deliver}"),
                    other => panic!("{other:?}"),
                }
            }
        }
        let both = json!({"type": "prompt", "message": "x", "deliverAs": "now", "streamingBehavior": "steer"});
        assert!(matches!(read(&both).expect("a request").kind, Kind::Prompt(f) if f.deliver == Deliver::Now));
    }

    #[test]
    fn content_is_text_or_parts_and_wins_over_a_message() {
        let mime_type = || "image/png".to_string();
        let image = || ImagePart::Here(Block::Image { data: "AA==".into(), mime_type: mime_type() });
        let along = ImagePart::Along { mime_type: mime_type() };
        for (content, message, text, images) in [
            (json!("a"), json!("b"), "a", vec![]),
            (json!(5), json!("b"), "b", vec![]),
            (json!(""), json!("b"), "", vec![]),
            (json!([]), json!("b"), "", vec![]),
            (json!([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]), json!(null), "a\nb", vec![]),
            (
                json!([{"type": "image", "data": "AA==", "mimeType": "image/png"}, {"type": "text", "text": "see"}]),
                json!(null),
                "see",
                vec![image()],
            ),
            (json!([{"type": "image", "descriptor": true, "mimeType": "image/png"}]), json!(null), "", vec![along]),
        ] {
            let request = json!({"type": "prompt", "content": content, "message": message});
            match read(&request).expect("a request").kind {
                Kind::Prompt(fields) => assert_eq!((fields.text.as_str(), &fields.images), (text, &images)),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn commands_are_told_from_text() {
        for (text, expected) in [
            ("hello", Slash::None),
            ("", Slash::None),
            ("/", Slash::None),
            ("/ x", Slash::None),
            (" /x", Slash::None),
            ("/etc/hosts is odd", Slash::None),
            ("/bridge:status", Slash::Status),
            ("/bridge:ping", Slash::Ping("pong")),
            ("/bridge:ping  hello you ", Slash::Ping("hello you")),
            ("/bridge:pingx", Slash::Command("bridge:pingx")),
            ("/skill:a b\nc", Slash::Command("skill:a")),
            ("/fix\nthis", Slash::Command("fix")),
        ] {
            assert_eq!(slash(text), expected, "{text:?}");
        }
    }
}
