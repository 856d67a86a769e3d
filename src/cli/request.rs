//! What a subcommand asks for, as the record that goes over the socket.

use super::attachment;
use super::connection::{Record, new_id};
use super::failure::Failure;
use super::parse::{Invocation, leading_integer, seconds};
use super::table::{Flag, Verb};
use serde_json::{Value, json};
use std::os::fd::OwnedFd;

/// Reads standard input to its end.
pub(super) type Stdin<'a> = &'a dyn Fn() -> Result<String, Failure>;

/// The request of a subcommand, with its id. What has to go along with it comes into `along`.
///
/// # Errors
/// Something is missing on the command line, or is not what it has to be.
#[expect(clippy::wildcard_enum_match_arm, reason = "the requests of the other subcommands have no fields of their own")]
pub(super) fn build(
    invocation: &Invocation,
    cwd: &str,
    stdin: Stdin<'_>,
    along: &mut Vec<OwnedFd>,
) -> Result<Record, Failure> {
    let verb = invocation.row.verb;
    if verb == Verb::Request {
        return given(invocation, stdin);
    }
    let mut request = Record::from_iter([("id".to_string(), new_id().into())]);
    let mut put = |key: &str, value: Value| request.insert(key.to_string(), value);
    put("type", kind(verb).into());
    match verb {
        Verb::Stream => {
            put("enabled", true.into());
            if let Some(seq) = number(invocation, Flag::SinceSeq) {
                put("sinceSeq", seq.into());
            }
        }
        Verb::History => {
            if let Some(limit) = invocation.words.first().and_then(|word| leading_integer(word)) {
                put("limit", limit.into());
            }
            if invocation.has(Flag::Raw) {
                put("raw", true.into());
            }
            for (flag, key) in [(Flag::Event, "event"), (Flag::Since, "since")] {
                if let Some(text) = invocation.value(flag) {
                    put(key, text.into());
                }
            }
            if let Some(seq) = number(invocation, Flag::SinceSeq) {
                put("sinceSeq", seq.into());
            }
            if let Some(bytes) = number(invocation, Flag::MaxBytes).filter(|bytes| *bytes > 0) {
                put("maxBytes", bytes.into());
            }
        }
        Verb::Send | Verb::Steer | Verb::FollowUp => {
            let text = message(invocation, stdin)?;
            if invocation.has(Flag::Image) {
                put("content", attachment::content(&text, invocation.all(Flag::Image), along)?);
            } else {
                put("message", text.into());
            }
            if let Some(mode) = deliver_as(invocation) {
                put("deliverAs", mode.into());
            }
            if invocation.has(Flag::Stream) {
                put("stream", true.into());
            }
        }
        Verb::Emit => {
            let text = invocation.message();
            put("message", if text.is_empty() { "test".into() } else { text.into() });
        }
        Verb::Answer => {
            put("requestId", required(invocation, Flag::RequestId)?.into());
            let text = invocation.value(Flag::Answers).or(invocation.words.first().map(String::as_str));
            let text = text.ok_or_else(|| Failure::Usage("Missing answers: --answers JSON".into()))?;
            let answers = serde_json::from_str::<Value>(text)
                .map_err(|e| Failure::Usage(format!("The answers are no JSON: {e}")))?;
            put("answers", answers);
        }
        Verb::Reject => {
            put("requestId", required(invocation, Flag::RequestId)?.into());
        }
        Verb::Cancel => {
            let id = invocation.words.first().ok_or_else(|| Failure::Usage("Missing prompt id".into()))?;
            put("promptId", id.as_str().into());
        }
        Verb::Approve | Verb::Deny => {
            put("requestId", required(invocation, Flag::RequestId)?.into());
            put("hash", required(invocation, Flag::Hash)?.into());
            put("allow", (verb == Verb::Approve).into());
            if invocation.has(Flag::ForSession) {
                put("forSession", true.into());
            }
            if let Some(reason) = invocation.value(Flag::Reason) {
                put("reason", reason.into());
            }
        }
        Verb::Shutdown => {
            put("confirm", true.into());
        }
        Verb::Run | Verb::Session => creation(invocation, cwd, stdin, &mut request)?,
        _ => {}
    }
    Ok(request)
}

/// The request's `type`.
fn kind(verb: Verb) -> &'static str {
    match verb {
        Verb::State => "get_state",
        Verb::Commands => "get_commands",
        Verb::Stream => "subscribe",
        Verb::History => "history",
        Verb::Send => "prompt",
        Verb::Steer => "steer",
        Verb::FollowUp => "follow_up",
        Verb::Abort => "abort",
        Verb::Questions => "questions",
        Verb::Answer => "answer",
        Verb::Reject => "reject",
        Verb::Approve | Verb::Deny => "approve",
        Verb::Emit => "emit",
        Verb::Run => "run",
        Verb::Session => "session",
        Verb::Sessions => "list",
        Verb::Inspect => "inspect",
        Verb::Logs => "logs",
        Verb::Cancel => "cancel",
        Verb::Stop => "stop",
        Verb::Drain => "drain",
        Verb::Undrain => "undrain",
        Verb::Metrics => "metrics",
        Verb::Shutdown => "shutdown",
        // These ask nothing, or several things.
        Verb::List | Verb::Top | Verb::Attach | Verb::Request | Verb::Completions | Verb::Help => "ping",
    }
}

/// The fields of a new session or run.
fn creation(invocation: &Invocation, cwd: &str, stdin: Stdin<'_>, request: &mut Record) -> Result<(), Failure> {
    let mut put = |key: &str, value: Value| request.insert(key.to_string(), value);
    let mut words = invocation.words.as_slice();
    if invocation.row.verb == Verb::Session {
        let Some((id, rest)) = words.split_first() else { return Err(Failure::Usage("Missing session id".into())) };
        put("sessionId", id.as_str().into());
        words = rest;
    }
    put("body", text(words, stdin)?.into());
    let directory = std::path::Path::new(cwd).join(invocation.value(Flag::Directory).unwrap_or_default());
    // Only the shape is changed: `/srv/app/.` and `/srv/app/` become `/srv/app`.
    put("cwd", directory.components().collect::<std::path::PathBuf>().to_string_lossy().into());
    for (flag, key) in [(Flag::Model, "model"), (Flag::Thinking, "thinkingLevel"), (Flag::From, "from")] {
        if let Some(value) = invocation.value(flag) {
            put(key, value.into());
        }
    }
    if let Some(value) = invocation.value(Flag::MaxLifetime) {
        put("maxLifetime", json!(seconds(Flag::MaxLifetime, value)?));
    }
    if !invocation.has(Flag::Detach) {
        put("stream", true.into());
    }
    Ok(())
}

/// The record of `request`: as it was given, with an id if it has none.
fn given(invocation: &Invocation, stdin: Stdin<'_>) -> Result<Record, Failure> {
    let text = match invocation.words.first().map(String::as_str) {
        None => return Err(Failure::Usage("Missing request: JSON, or - for standard input".into())),
        Some("-") => stdin()?,
        Some(text) => text.to_string(),
    };
    let request: Value =
        serde_json::from_str(&text).map_err(|e| Failure::Usage(format!("The request is no JSON: {e}")))?;
    let Value::Object(mut request) = request else {
        return Err(Failure::Usage("The request has to be a JSON object".into()));
    };
    if request.get("type").and_then(Value::as_str).is_none_or(str::is_empty) {
        return Err(Failure::Usage("The request has to have a type".into()));
    }
    // What counts as no id is what JavaScript takes for false.
    let none = match request.get("id") {
        None | Some(Value::Null | Value::Bool(false)) => true,
        Some(Value::String(id)) => id.is_empty(),
        Some(id) => id.as_f64() == Some(0.0),
    };
    if none {
        request.insert("id".into(), new_id().into());
    }
    Ok(request)
}

fn deliver_as(invocation: &Invocation) -> Option<&'static str> {
    let modes = [(Flag::Auto, "auto"), (Flag::Steer, "steer"), (Flag::FollowUp, "followUp"), (Flag::Now, "now")];
    let last = invocation.last_of(&modes.map(|(flag, _)| flag))?;
    modes.iter().find(|(flag, _)| *flag == last).map(|(_, mode)| *mode)
}

/// The number that an option's value begins with. A text that begins with none counts as no option.
fn number(invocation: &Invocation, flag: Flag) -> Option<i64> {
    leading_integer(invocation.value(flag)?)
}

fn required(invocation: &Invocation, flag: Flag) -> Result<&str, Failure> {
    invocation.value(flag).ok_or_else(|| Failure::Usage(format!("Missing {}", flag.row().names[0])))
}

fn message(invocation: &Invocation, stdin: Stdin<'_>) -> Result<String, Failure> {
    text(&invocation.words, stdin)
}

/// Words as one message; `-` alone stands for standard input.
fn text(words: &[String], stdin: Stdin<'_>) -> Result<String, Failure> {
    let text = match words {
        [word] if word == "-" => stdin()?,
        words => words.join(" "),
    };
    match text.trim() {
        "" => Err(Failure::Usage("Missing message".into())),
        text => Ok(text.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::parse::{Parsed, parse};
    use super::*;

    /// What a command line, with `|` between the arguments, asks for; without the id.
    fn built(line: &str) -> Result<Value, String> {
        let arguments: Vec<String> = line.split('|').map(str::to_string).collect();
        let invocation = match parse(&arguments) {
            Ok(Parsed::Do(invocation)) => invocation,
            other => panic!("{line}: {other:?}"),
        };
        let mut request = build(&invocation, "/srv/app", &|| Ok(" from stdin\n".into()), &mut Vec::new())
            .map_err(|failure| failure.to_string())?;
        let id = request.shift_remove("id").expect("every request has an id");
        assert!(!id.is_string() || id != "", "{line}");
        Ok(Value::Object(request))
    }

    #[test]
    fn requests() {
        for (line, expected) in [
            ("state", json!({"type": "get_state"})),
            ("commands", json!({"type": "get_commands"})),
            ("stream", json!({"type": "subscribe", "enabled": true})),
            ("stream|--since-seq|7", json!({"type": "subscribe", "enabled": true, "sinceSeq": 7})),
            ("history", json!({"type": "history"})),
            ("history|20", json!({"type": "history", "limit": 20})),
            ("history|many", json!({"type": "history"})),
            ("history|--verbose", json!({"type": "history", "raw": true})),
            ("history|--max-bytes|lots", json!({"type": "history"})),
            ("history|--max-bytes|0", json!({"type": "history"})),
            (
                "history|5|--raw|--event|input|--since|2026-01-01|--max-bytes|900|--since-seq|3",
                json!({"type": "history", "limit": 5, "raw": true, "event": "input", "since": "2026-01-01",
                    "sinceSeq": 3, "maxBytes": 900}),
            ),
            ("send| two | words ", json!({"type": "prompt", "message": "two   words"})),
            ("send|--followUp|x", json!({"type": "prompt", "message": "x", "deliverAs": "followUp"})),
            ("send|--now|--auto|x", json!({"type": "prompt", "message": "x", "deliverAs": "auto"})),
            ("send|--stream|x", json!({"type": "prompt", "message": "x", "stream": true})),
            ("send|-", json!({"type": "prompt", "message": "from stdin"})),
            ("steer|--now|x", json!({"type": "steer", "message": "x", "deliverAs": "now"})),
            ("followUp|x", json!({"type": "follow_up", "message": "x"})),
            ("question-list", json!({"type": "questions"})),
            ("emit", json!({"type": "emit", "message": "test"})),
            ("emit|a|b", json!({"type": "emit", "message": "a b"})),
            ("emit|-", json!({"type": "emit", "message": "-"})),
            ("reply|--request-id|q|[[\"a\"]]", json!({"type": "answer", "requestId": "q", "answers": [["a"]]})),
            ("answer|--request-id|q|--answers|[[]]", json!({"type": "answer", "requestId": "q", "answers": [[]]})),
            ("reject|--request-id|q", json!({"type": "reject", "requestId": "q"})),
            (
                "approve|--request-id|q|--hash|h|--for-session",
                json!({"type": "approve", "requestId": "q", "hash": "h", "allow": true, "forSession": true}),
            ),
            (
                "deny|--request-id|q|--hash|h|--reason|use make",
                json!({"type": "approve", "requestId": "q", "hash": "h", "allow": false, "reason": "use make"}),
            ),
            ("abort", json!({"type": "abort"})),
            ("shutdown", json!({"type": "shutdown", "confirm": true})),
            ("sessions", json!({"type": "list"})),
            ("cancel|p1", json!({"type": "cancel", "promptId": "p1"})),
            ("drain", json!({"type": "drain"})),
            ("run|do|it", json!({"type": "run", "body": "do it", "cwd": "/srv/app", "stream": true})),
            (
                "run|--cwd|sub/|--model|p/m|--thinking|low|--max-lifetime|90|--from|me|--detach|-",
                json!({"type": "run", "body": "from stdin", "cwd": "/srv/app/sub", "model": "p/m", "thinkingLevel": "low",
                    "from": "me", "maxLifetime": 90.0}),
            ),
            ("run|--cwd|/|x", json!({"type": "run", "body": "x", "cwd": "/", "stream": true})),
            (
                "session|s1|hello|you",
                json!({"type": "session", "sessionId": "s1", "body": "hello you", "cwd": "/srv/app", "stream": true}),
            ),
            ("raw|{\"type\":\"x\",\"a\":[1]}", json!({"type": "x", "a": [1]})),
        ] {
            assert_eq!(built(line), Ok(expected), "{line}");
        }
    }

    #[test]
    fn what_is_missing_is_told() {
        for (line, part) in [
            ("send", "Missing message"),
            ("send| ", "Missing message"),
            ("run", "Missing message"),
            ("session", "Missing session id"),
            ("session|s1", "Missing message"),
            ("run|--max-lifetime|long|x", "--max-lifetime"),
            ("answer|[[]]", "Missing --request-id"),
            ("answer|--request-id|q", "--answers"),
            ("answer|--request-id|q|[[", "no JSON"),
            ("reject", "Missing --request-id"),
            ("cancel", "Missing prompt id"),
            ("approve|--request-id|q", "Missing --hash"),
            ("request", "Missing request"),
            ("request|{", "no JSON"),
            ("request|-", "no JSON"),
            ("request|[]", "JSON object"),
            ("request|{}", "type"),
            ("request|{\"type\":\"\"}", "type"),
            ("request|{\"type\":5}", "type"),
        ] {
            let error = built(line).expect_err(line);
            assert!(error.contains(part), "{line}: {error}");
        }
    }

    #[test]
    fn a_given_id_is_kept_unless_it_is_none() {
        let id = |id: &str| {
            let words = vec!["request".to_string(), format!("{{\"type\":\"x\",\"id\":{id}}}")];
            let Ok(Parsed::Do(invocation)) = parse(&words) else { panic!("{id}") };
            build(&invocation, "/", &|| Ok(String::new()), &mut Vec::new()).expect("a request")["id"].clone()
        };
        for kept in ["\"1\"", "7", "-1.5", "{\"a\":1}", "[]", "true"] {
            assert_eq!(id(kept).to_string(), kept);
        }
        for replaced in ["null", "false", "0", "\"\""] {
            assert!(id(replaced).as_str().is_some_and(|id| id.contains('-')), "{replaced}");
        }
    }
}
