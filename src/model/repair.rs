//! Makes a transcript fit for one request: for a model that cannot see, for another model than the one that wrote it,
//! and after turns that were cut short. The transcript itself stays as it is.

use super::Model;
use crate::transcript::{AssistantMessage, Block, Content, Message, StopReason, ToolResultMessage, UserMessage};
use std::sync::Arc;

/// What stands in place of images.
#[derive(Clone, Copy)]
struct Remarks {
    of_user: &'static str,
    of_tool: &'static str,
}

const BLIND: Remarks = Remarks {
    of_user: "(image omitted: model does not support images)",
    of_tool: "(tool image omitted: model does not support images)",
};
const BLOCKED: Remarks = Remarks { of_user: "Image reading is disabled.", of_tool: "Image reading is disabled." };
const NO_RESULT: &str = "No result provided";

/// The messages to send, without images if they are to be blocked or the model takes none. `foreign_id` brings the id of
/// another model's tool call into a form that this API takes.
pub fn repair(
    messages: &[Arc<Message>],
    model: &Model,
    block_images: bool,
    foreign_id: fn(&str) -> String,
) -> Vec<Arc<Message>> {
    let remarks = if block_images { Some(BLOCKED) } else { (!model.images).then_some(BLIND) };
    let mut out = Vec::with_capacity(messages.len());
    let mut pending: Vec<Pending> = Vec::new();
    for message in messages {
        match &**message {
            Message::User(user) => {
                settle(&mut pending, &mut out);
                out.push(fit_user(message, user, remarks));
            }
            // Half an answer would only confuse, and its tool calls never ran.
            Message::Assistant(m) if matches!(m.stop_reason, StopReason::Error | StopReason::Aborted) => {}
            Message::Assistant(assistant) => {
                settle(&mut pending, &mut out);
                let fitted = fit_assistant(message, assistant, model, foreign_id);
                if let Message::Assistant(sent) = &*fitted {
                    pending = calls(assistant)
                        .zip(calls(sent))
                        .map(|((id, name), (sent, _))| Pending {
                            id: id.to_string(),
                            sent: sent.to_string(),
                            name: name.to_string(),
                        })
                        .collect();
                }
                out.push(fitted);
            }
            Message::ToolResult(result) => {
                // A result without its call is refused by every provider.
                if let Some(at) = pending.iter().position(|call| call.id == result.tool_call_id) {
                    let call = pending.remove(at);
                    out.push(fit_result(message, result, remarks, call.sent));
                }
            }
        }
    }
    settle(&mut pending, &mut out);
    out
}

/// A tool call whose result has not come yet.
struct Pending {
    id: String,
    /// The id as it is sent.
    sent: String,
    name: String,
}

fn calls(message: &AssistantMessage) -> impl Iterator<Item = (&str, &str)> {
    message.content.iter().filter_map(|block| match block {
        Block::ToolCall { id, name, .. } => Some((id.as_str(), name.as_str())),
        _ => None,
    })
}

/// Every call needs a result, so those that have none get one.
fn settle(pending: &mut Vec<Pending>, out: &mut Vec<Arc<Message>>) {
    for call in pending.drain(..) {
        out.push(Arc::new(Message::ToolResult(ToolResultMessage {
            tool_call_id: call.sent,
            tool_name: call.name,
            content: vec![Block::text(NO_RESULT)],
            details: None,
            is_error: true,
            duration_ms: None,
            timestamp: 0,
        })));
    }
}

/// `remarks` take the place of images; without them, images stay.
fn fit_user(message: &Arc<Message>, user: &UserMessage, remarks: Option<Remarks>) -> Arc<Message> {
    match (&user.content, remarks) {
        (Content::Blocks(blocks), Some(remarks)) if has_images(blocks) => {
            let content = Content::Blocks(without_images(blocks, remarks.of_user));
            Arc::new(Message::User(UserMessage { content, timestamp: user.timestamp }))
        }
        _ => message.clone(),
    }
}

fn fit_result(
    message: &Arc<Message>,
    result: &ToolResultMessage,
    remarks: Option<Remarks>,
    id: String,
) -> Arc<Message> {
    let remarks = remarks.filter(|_| has_images(&result.content));
    if remarks.is_none() && result.tool_call_id == id {
        return message.clone();
    }
    let content = match remarks {
        Some(remarks) => without_images(&result.content, remarks.of_tool),
        None => result.content.clone(),
    };
    Arc::new(Message::ToolResult(ToolResultMessage { tool_call_id: id, content, details: None, ..result.clone() }))
}

fn has_images(blocks: &[Block]) -> bool {
    blocks.iter().any(|block| matches!(block, Block::Image { .. }))
}

/// The blocks with each run of images replaced by one remark.
fn without_images(blocks: &[Block], remark: &str) -> Vec<Block> {
    let mut out = Vec::with_capacity(blocks.len());
    let mut in_run = false;
    for block in blocks {
        let image = matches!(block, Block::Image { .. });
        if !image {
            out.push(block.clone());
        } else if !in_run {
            out.push(Block::text(remark));
        }
        in_run = image;
    }
    out
}

fn fit_assistant(
    message: &Arc<Message>,
    assistant: &AssistantMessage,
    model: &Model,
    foreign_id: fn(&str) -> String,
) -> Arc<Message> {
    let same =
        assistant.provider == model.provider && assistant.api == model.api.as_str() && assistant.model == model.id;
    let keep = |block: &Block| match block {
        Block::Thinking { thinking, thinking_signature, redacted } => {
            same && (*redacted
                || thinking_signature.as_ref().is_some_and(|s| !s.is_empty())
                || !thinking.trim().is_empty())
        }
        _ => true,
    };
    if same && assistant.content.iter().all(keep) {
        return message.clone();
    }
    let own = |block: &Block| match block {
        Block::Text { text, .. } if !same => Block::text(text.clone()),
        Block::ToolCall { id, name, arguments, arguments_error, .. } if !same => Block::ToolCall {
            id: foreign_id(id),
            name: name.clone(),
            arguments: arguments.clone(),
            thought_signature: None,
            arguments_error: arguments_error.clone(),
        },
        block => block.clone(),
    };
    let content = assistant.content.iter().filter(|b| keep(b)).map(own).collect();
    Arc::new(Message::Assistant(AssistantMessage { content, ..assistant.clone() }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::test_support::{test_messages, test_model};
    use serde_json::{Value, json};

    fn upper(id: &str) -> String {
        id.to_uppercase()
    }

    fn assistant(model: &str, stop: &str, content: Value) -> Value {
        json!({"role":"assistant","content":content,"api":"anthropic-messages","provider":"p","model":model,
            "usage":{},"stopReason":stop,"timestamp":1})
    }

    fn result(id: &str, content: Value) -> Value {
        json!({"role":"toolResult","toolCallId":id,"toolName":"t","content":content,"isError":false,"timestamp":1})
    }

    fn call(id: &str) -> Value {
        json!({"type":"toolCall","id":id,"name":"t","arguments":{}})
    }

    /// Role, tool call id and the blocks' texts of every message after the repair.
    fn run(model: &Model, messages: &[Value]) -> Vec<String> {
        let messages: Vec<Arc<Message>> =
            messages.iter().map(|m| Arc::new(serde_json::from_value(m.clone()).expect("a message"))).collect();
        let describe = |blocks: &[Block]| {
            let parts: Vec<String> = blocks
                .iter()
                .map(|b| match b {
                    Block::Text { text, text_signature } => {
                        format!("{text}{}", text_signature.as_deref().unwrap_or(""))
                    }
                    Block::Thinking { thinking, .. } => format!("thinking:{thinking}"),
                    Block::ToolCall { id, .. } => format!("call:{id}"),
                    Block::Image { .. } => "image".to_string(),
                })
                .collect();
            parts.join(",")
        };
        repair(&messages, model, false, upper)
            .iter()
            .map(|m| match &**m {
                Message::User(UserMessage { content: Content::Text(text), .. }) => format!("user {text}"),
                Message::User(UserMessage { content: Content::Blocks(blocks), .. }) => {
                    format!("user {}", describe(blocks))
                }
                Message::Assistant(m) => format!("assistant {}", describe(&m.content)),
                Message::ToolResult(m) => format!("result {} {}", m.tool_call_id, describe(&m.content)),
            })
            .collect()
    }

    #[test]
    fn messages_are_made_fit() {
        let image = json!({"type":"image","data":"AA==","mimeType":"image/png"});
        let text = |t: &str| json!({"type":"text","text":t,"textSignature":"#"});
        let user = json!({"role":"user","content":"u","timestamp":1});
        let blocks = json!({"role":"user","content":[text("a"),image,image,text("b"),image],"timestamp":1});
        let thoughts = json!([{"type":"thinking","thinking":"x"},{"type":"thinking","thinking":"","thinkingSignature":"s"},
            {"type":"thinking","thinking":" "},text("t"),call("c")]);
        let blind = Model { images: false, ..test_model() };
        let cases: Vec<(&str, Model, Vec<Value>, Vec<&str>)> = vec![
            ("images kept", test_model(), vec![blocks.clone()], vec!["user a#,image,image,b#,image"]),
            (
                "images replaced",
                blind.clone(),
                vec![blocks],
                vec![
                    "user a#,(image omitted: model does not support images),b#,(image omitted: model does not support images)",
                ],
            ),
            (
                "tool images replaced",
                blind,
                vec![assistant("m", "toolUse", json!([call("c")])), result("c", json!([image]))],
                vec!["assistant call:c", "result c (tool image omitted: model does not support images)"],
            ),
            (
                "own thoughts",
                test_model(),
                vec![assistant("m", "stop", thoughts.clone()), result("c", json!([]))],
                vec!["assistant thinking:x,thinking:,t#,call:c", "result c "],
            ),
            (
                "another model's thoughts and ids",
                test_model(),
                vec![assistant("n", "stop", thoughts), result("c", json!([]))],
                vec!["assistant t,call:C", "result C "],
            ),
            (
                "failed answers are left out",
                test_model(),
                vec![
                    user.clone(),
                    assistant("m", "error", json!([call("c")])),
                    result("c", json!([])),
                    assistant("m", "aborted", json!([text("t")])),
                ],
                vec!["user u"],
            ),
            (
                "missing results",
                test_model(),
                vec![
                    assistant("m", "toolUse", json!([call("a"), call("b")])),
                    result("b", json!([text("r")])),
                    user,
                    assistant("m", "toolUse", json!([call("c")])),
                ],
                vec![
                    "assistant call:a,call:b",
                    "result b r#",
                    "result a No result provided",
                    "user u",
                    "assistant call:c",
                    "result c No result provided",
                ],
            ),
            ("orphaned results", test_model(), vec![result("x", json!([]))], vec![]),
        ];
        for (name, model, messages, expected) in cases {
            assert_eq!(run(&model, &messages), expected, "{name}");
        }
    }

    #[test]
    fn images_can_be_blocked_whatever_the_model_takes() {
        let image = json!({"type":"image","data":"AA==","mimeType":"image/png"});
        let messages = test_messages(json!([
            {"role":"user","content":[image],"timestamp":1},
            assistant("m", "toolUse", json!([call("c")])),
            result("c", json!([image])),
        ]));
        let sent = format!("{:?}", repair(&messages, &test_model(), true, upper));
        assert_eq!(sent.matches("Image reading is disabled.").count(), 2);
        assert!(!sent.contains("image/png"), "{sent}");
    }
}
