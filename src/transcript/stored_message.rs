//! Messages as session files have them, in the form for the model.
//!
//! Read by hand instead of by serde's derive, so that a field which another program left out or wrote in its own way costs
//! that field and not the message.

use super::compaction::summary_message;
use super::message::{
    AssistantMessage, Block, Content, Cost, Message, StopReason, ToolResultMessage, Usage, UserMessage,
};
use crate::json::{Fields, take_text};
use serde_json::Value;

/// What introduces the summary of a branch to the model. PI uses the same words, so that a session reads the same on both
/// sides.
const BRANCH_LEAD_IN: &str = "The following is a summary of a branch that this conversation came back from:";

/// The message for the model that has the summary of a branch that was left. `timestamp` is Unix time in milliseconds.
pub(crate) fn branch_summary(summary: &str, timestamp: i64) -> Message {
    user(Content::Text(format!("{BRANCH_LEAD_IN}\n\n<summary>\n{summary}</summary>")), timestamp)
}

/// The message for the model from a stored one of any role. Roles that only an application knows become a user's words.
/// `None` for what is not for the model: system messages, commands that were kept from it, unknown roles, and what lacks
/// an essential part. `timestamp` is used where the message has none, Unix time in milliseconds.
pub(crate) fn for_model(mut message: Fields, timestamp: i64) -> Option<Message> {
    let timestamp = message.get("timestamp").and_then(Value::as_i64).unwrap_or(timestamp);
    match message.get("role")?.as_str()? {
        // Version 2 called the custom role by another name.
        "user" | "custom" | "hookMessage" => Some(user(content(message.remove("content")?)?, timestamp)),
        "assistant" => Some(Message::Assistant(assistant(message, timestamp)?)),
        "toolResult" => Some(Message::ToolResult(ToolResultMessage {
            tool_call_id: take_text(&mut message, "toolCallId")?,
            tool_name: take_text(&mut message, "toolName").unwrap_or_default(),
            content: message.remove("content").map(blocks).unwrap_or_default(),
            details: message.remove("details").filter(|details| !details.is_null()),
            is_error: flag(&message, "isError"),
            duration_ms: message.get("durationMs").and_then(Value::as_u64),
            timestamp,
        })),
        "bashExecution" if flag(&message, "excludeFromContext") => None,
        "bashExecution" => Some(user(Content::Text(bash_execution(&message)), timestamp)),
        "compactionSummary" => Some(summary_message(message.get("summary")?.as_str()?, timestamp)),
        "branchSummary" => Some(branch_summary(message.get("summary")?.as_str()?, timestamp)),
        _ => None,
    }
}

fn user(content: Content, timestamp: i64) -> Message {
    Message::User(UserMessage { content, timestamp })
}

fn assistant(mut message: Fields, timestamp: i64) -> Option<AssistantMessage> {
    let content = blocks(message.remove("content")?);
    let stop_reason = match message.get("stopReason").and_then(Value::as_str) {
        Some("length") => StopReason::Length,
        Some("toolUse") => StopReason::ToolUse,
        Some("error") => StopReason::Error,
        Some("aborted") => StopReason::Aborted,
        _ => StopReason::Stop,
    };
    let mut text = |key: &str| take_text(&mut message, key);
    Some(AssistantMessage {
        api: text("api").unwrap_or_default(),
        provider: text("provider").unwrap_or_default(),
        model: text("model").unwrap_or_default(),
        response_model: text("responseModel"),
        response_id: text("responseId"),
        error_message: text("errorMessage"),
        raw_stop_reason: text("rawStopReason"),
        thinking_level: text("thinkingLevel"),
        content,
        usage: message.get("usage").map(usage).unwrap_or_default(),
        stop_reason,
        timestamp,
        duration_ms: message.get("durationMs").and_then(Value::as_u64),
    })
}

/// A message's content: text, or blocks. `None` for anything else.
pub(super) fn content(value: Value) -> Option<Content> {
    match value {
        Value::String(text) => Some(Content::Text(text)),
        Value::Array(_) => Some(Content::Blocks(blocks(value))),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => None,
    }
}

/// Blocks as they are stored; a plain text counts as one. Unknown kinds are left out.
pub(super) fn blocks(value: Value) -> Vec<Block> {
    match value {
        Value::String(text) => vec![Block::text(text)],
        Value::Array(list) => list.into_iter().filter_map(block).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => Vec::new(),
    }
}

fn block(value: Value) -> Option<Block> {
    let Value::Object(mut fields) = value else { return None };
    let kind = take_text(&mut fields, "type")?;
    let mut text = |key: &str| take_text(&mut fields, key);
    Some(match kind.as_str() {
        "text" => Block::Text { text: text("text")?, text_signature: text("textSignature") },
        "thinking" => Block::Thinking {
            thinking: text("thinking").unwrap_or_default(),
            thinking_signature: text("thinkingSignature"),
            redacted: flag(&fields, "redacted"),
        },
        "toolCall" => Block::ToolCall {
            id: text("id")?,
            name: text("name")?,
            thought_signature: text("thoughtSignature"),
            arguments_error: text("argumentsError"),
            arguments: match fields.remove("arguments") {
                Some(Value::Object(arguments)) => arguments,
                _ => Fields::new(),
            },
        },
        "image" => Block::Image { data: text("data")?, mime_type: text("mimeType")? },
        _ => return None,
    })
}

/// Token counts and cost as they are stored; what is missing counts as nothing.
pub(super) fn usage(value: &Value) -> Usage {
    let tokens = |key: &str| value.get(key).and_then(count);
    let cost = value.get("cost");
    let dollars = |key: &str| cost.and_then(|cost| cost.get(key)?.as_f64()).unwrap_or(0.0);
    Usage {
        input: tokens("input").unwrap_or(0),
        output: tokens("output").unwrap_or(0),
        cache_read: tokens("cacheRead").unwrap_or(0),
        cache_write: tokens("cacheWrite").unwrap_or(0),
        cache_write_1h: tokens("cacheWrite1h"),
        reasoning: tokens("reasoning"),
        total_tokens: tokens("totalTokens").unwrap_or(0),
        cost: Cost {
            input: dollars("input"),
            output: dollars("output"),
            cache_read: dollars("cacheRead"),
            cache_write: dollars("cacheWrite"),
            total: dollars("total"),
            total_from_provider: cost.and_then(|cost| cost.get("totalFromProvider")?.as_bool()).unwrap_or(false),
        },
    }
}

/// A number of things. JavaScript has only one kind of number, so that a count may have become a fraction.
fn count(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_f64().filter(|number| *number >= 0.0).map(|number| number as u64))
}

fn flag(fields: &Fields, key: &str) -> bool {
    fields.get(key).and_then(Value::as_bool) == Some(true)
}

/// A command that the user ran past the model, as words for the model.
fn bash_execution(message: &Fields) -> String {
    let field = |key: &str| message.get(key).and_then(Value::as_str).unwrap_or_default();
    let output = match field("output") {
        "" => "(no output)".to_string(),
        output => format!("```\n{output}\n```"),
    };
    let mut text = format!("Ran `{}`\n{output}", field("command"));
    let code = message.get("exitCode").and_then(Value::as_i64);
    if flag(message, "cancelled") {
        text.push_str("\n\n(command cancelled)");
    } else if let Some(code) = code.filter(|code| *code != 0) {
        text.push_str(&format!("\n\nCommand exited with code {code}"));
    }
    if flag(message, "truncated") && !field("fullOutputPath").is_empty() {
        text.push_str(&format!("\n\n[Output truncated. Full output: {}]", field("fullOutputPath")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(message: Value) -> Option<Message> {
        let Value::Object(fields) = message else { panic!("a message is an object") };
        for_model(fields, 5)
    }

    #[test]
    fn every_kind_of_message_comes_back_as_it_was_written() {
        let usage = Usage {
            input: 1,
            output: 2,
            cache_read: 3,
            cache_write: 4,
            cache_write_1h: Some(2),
            reasoning: Some(1),
            total_tokens: 10,
            cost: Cost {
                input: 0.1,
                output: 0.2,
                cache_read: 0.3,
                cache_write: 0.4,
                total: 1.0,
                total_from_provider: true,
            },
        };
        let full = AssistantMessage {
            content: vec![
                Block::Thinking { thinking: "hm".into(), thinking_signature: Some("s".into()), redacted: true },
                Block::Text { text: "a\0\u{2028}\"ü😀".into(), text_signature: Some("t".into()) },
                Block::ToolCall {
                    id: "c".into(),
                    name: "bash".into(),
                    arguments: Fields::from_iter([
                        ("command".into(), json!("ls")),
                        ("n".into(), json!([1, {"x": null}])),
                    ]),
                    thought_signature: Some("g".into()),
                    arguments_error: Some("bad".into()),
                },
            ],
            api: "anthropic-messages".into(),
            provider: "anthropic".into(),
            model: "m".into(),
            response_model: Some("m-1".into()),
            response_id: Some("r".into()),
            raw_stop_reason: Some("eos".to_string()),
            usage,
            stop_reason: StopReason::ToolUse,
            error_message: Some("e".into()),
            thinking_level: Some("high".into()),
            timestamp: 7,
            duration_ms: Some(8),
        };
        let bare = AssistantMessage {
            content: vec![Block::Thinking { thinking: String::new(), thinking_signature: None, redacted: false }],
            response_model: None,
            response_id: None,
            usage: Usage::default(),
            error_message: None,
            thinking_level: None,
            duration_ms: None,
            ..full.clone()
        };
        let image = Block::Image { data: "AA==".into(), mime_type: "image/png".into() };
        let result = ToolResultMessage {
            tool_call_id: "c".into(),
            tool_name: "bash".into(),
            content: vec![Block::text("ok"), image.clone()],
            details: Some(json!({"diff": "x"})),
            is_error: true,
            duration_ms: Some(3),
            timestamp: 9,
        };
        let mut messages = vec![
            Message::User(UserMessage { content: Content::Text("hi".into()), timestamp: 1 }),
            Message::User(UserMessage { content: Content::Blocks(vec![Block::text("hi"), image]), timestamp: -1 }),
            Message::Assistant(full.clone()),
            Message::Assistant(bare.clone()),
            Message::ToolResult(result.clone()),
            Message::ToolResult(ToolResultMessage { details: None, duration_ms: None, is_error: false, ..result }),
        ];
        for stop_reason in [StopReason::Stop, StopReason::Length, StopReason::Error, StopReason::Aborted] {
            messages.push(Message::Assistant(AssistantMessage { stop_reason, ..bare.clone() }));
        }
        for message in messages {
            let stored = serde_json::to_value(&message).expect("it is written");
            assert_eq!(read(stored.clone()), Some(message), "{stored}");
        }
    }

    #[test]
    fn roles_of_applications_become_a_user_s_words() {
        for (message, expected) in [
            (json!({"role":"bashExecution","command":"ls","output":"a\nb","exitCode":0}), "Ran `ls`\n```\na\nb\n```"),
            (
                json!({"role":"bashExecution","command":"ls","output":"","exitCode":2}),
                "Ran `ls`\n(no output)\n\nCommand exited with code 2",
            ),
            (
                json!({"role":"bashExecution","command":"x","output":"","exitCode":2,"cancelled":true,"truncated":true,
                    "fullOutputPath":"/tmp/o"}),
                "Ran `x`\n(no output)\n\n(command cancelled)\n\n[Output truncated. Full output: /tmp/o]",
            ),
            (json!({"role":"bashExecution","command":"x","output":"","truncated":true}), "Ran `x`\n(no output)"),
            (json!({"role":"custom","customType":"c","content":"note","display":false}), "note"),
            (json!({"role":"hookMessage","content":"old note"}), "old note"),
            (
                json!({"role":"compactionSummary","summary":"S","tokensBefore":9}),
                "The conversation history before this point was compacted into the following summary:\n\n<summary>\nS\n</summary>",
            ),
            (
                json!({"role":"branchSummary","summary":"S","fromId":"x"}),
                "The following is a summary of a branch that this conversation came back from:\n\n<summary>\nS</summary>",
            ),
        ] {
            let expected = Message::User(UserMessage { content: Content::Text(expected.into()), timestamp: 5 });
            assert_eq!(read(message.clone()), Some(expected), "{message}");
        }
    }

    #[test]
    fn what_the_model_is_not_told_is_dropped() {
        for message in [
            json!({"role":"system","content":"x"}),
            json!({"role":"from the future","content":"x"}),
            json!({"role":"bashExecution","command":"x","output":"secret","excludeFromContext":true}),
            json!({"role":"user","content":5}),
            json!({"role":"user"}),
            json!({"role":"assistant"}),
            json!({"role":"toolResult","content":[]}),
            json!({"role":1,"content":"x"}),
            json!({"content":"x"}),
        ] {
            assert_eq!(read(message.clone()), None, "{message}");
        }
    }

    #[test]
    fn a_field_of_another_form_costs_only_itself() {
        let message = json!({"role":"assistant","content":[{"type":"text","text":"a"},{"type":"hologram"},5,{"type":"text"},
            {"type":"toolCall","id":"c","name":"n","arguments":"{"}],
            "usage":{"input":3.0,"output":-1,"totalTokens":"many","cost":{"total":1}},"stopReason":"deferred","model":5});
        let Some(Message::Assistant(message)) = read(message) else { panic!("an answer") };
        let call = Block::ToolCall {
            id: "c".into(),
            name: "n".into(),
            arguments: Fields::new(),
            thought_signature: None,
            arguments_error: None,
        };
        assert_eq!(message.content, [Block::text("a"), call]);
        assert_eq!((message.usage.input, message.usage.output, message.usage.cost.total), (3, 0, 1.0));
        assert_eq!((message.stop_reason, message.timestamp, message.model.as_str()), (StopReason::Stop, 5, ""));
        let Some(Message::Assistant(message)) = read(json!({"role":"assistant","content":"plain"})) else {
            panic!("an answer")
        };
        assert_eq!(message.text(), "plain");
    }
}
