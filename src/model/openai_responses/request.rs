//! The request.

use crate::model::ids::{sanitize, short_hash};
use crate::model::model_info::Model;
use crate::model::openai_fields::result_text;
use crate::model::protocol::{HttpRequest, RequestContext, configure};
use crate::model::sendable::Habit;
use crate::model::thinking::ThinkingLevel;
use crate::transcript::{AssistantMessage, Block, Content, Message, Schema, ToolResultMessage};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use std::borrow::Cow;
use std::collections::HashSet;

/// The longest id that the API takes, in characters.
const MAX_ID: usize = 64;
/// The smallest limit for an answer that the API takes; tokens.
const MIN_OUTPUT: u64 = 16;

/// The id of another model's tool call in the form that this API takes: the call's part alone, since the item that the
/// other part names is not sent.
pub(super) fn foreign_id(id: &str) -> String {
    let call = sanitize(id.split('|').next().unwrap_or(id));
    call.chars().take(MAX_ID).collect()
}

/// Whether an id that this API gave is taken back: the call's part has to be there, and not too long.
pub(super) fn takes_id(id: &str) -> bool {
    let call = id.split('|').next().unwrap_or(id);
    (1..=MAX_ID).contains(&call.len())
}

/// Whether a thought is taken back: nothing is stored at the provider, so that only a reasoning item with its encrypted
/// content means something to it.
pub(super) fn takes_thought(signature: &str) -> bool {
    #[derive(Deserialize)]
    struct Reasoning {
        #[serde(rename = "type")]
        kind: String,
        encrypted_content: String,
    }
    serde_json::from_str(signature)
        .is_ok_and(|item: Reasoning| item.kind == "reasoning" && !item.encrypted_content.is_empty())
}

#[derive(Serialize)]
struct Body<'a> {
    model: &'a str,
    input: Vec<Item<'a>>,
    stream: bool,
    store: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_output_tokens: Option<u64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tools: Vec<Tool<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    include: Option<[&'static str; 1]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_cache_key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_cache_retention: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_cache_options: Option<Value>,
}

#[derive(Serialize)]
#[serde(tag = "type", rename = "function")]
struct Tool<'a> {
    name: &'a str,
    description: &'a str,
    parameters: &'a Schema,
    strict: bool,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Item<'a> {
    Prompt {
        role: &'static str,
        content: &'a str,
    },
    User {
        role: &'static str,
        content: Vec<Part<'a>>,
    },
    /// A reasoning item, as it came.
    Verbatim(&'a RawValue),
    Typed(Typed<'a>),
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Typed<'a> {
    Message {
        role: &'static str,
        status: &'static str,
        id: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        phase: Option<String>,
        content: [OutputText<'a>; 1],
    },
    FunctionCall {
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a str>,
        call_id: &'a str,
        name: &'a str,
        arguments: String,
    },
    FunctionCallOutput {
        call_id: &'a str,
        output: Output<'a>,
    },
}

#[derive(Serialize)]
#[serde(tag = "type", rename = "output_text")]
struct OutputText<'a> {
    text: &'a str,
    annotations: [(); 0],
}

#[derive(Serialize)]
#[serde(untagged)]
enum Output<'a> {
    Text(Cow<'a, str>),
    Parts(Vec<Part<'a>>),
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Part<'a> {
    InputText { text: &'a str },
    InputImage { detail: &'static str, image_url: String },
}

/// What a text block's signature holds: which item the text was.
#[derive(Serialize, Deserialize)]
pub(super) struct TextSignature {
    pub v: u32,
    pub id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<String>,
}

/// Writes the HTTP request.
pub(super) fn prepare(context: &RequestContext<'_>) -> HttpRequest {
    let (model, request) = (context.model, context.request);
    let on = request.thinking != ThinkingLevel::Off;
    let mapped = model.mapped(request.thinking);
    let reasoning = match (model.reasoning, on) {
        (false, _) => None,
        (true, true) => Some(json!({"effort": mapped.unwrap_or(request.thinking.as_str()), "summary": "auto"})),
        (true, false) => (!model.thinks_always()).then(|| json!({"effort": mapped.unwrap_or("none")})),
    };
    // xAI's models think whether asked or not, and want their thoughts back.
    let include = model.reasoning && (on || model.provider == "xai");
    let long = context.long_cache && model.flag("supportsLongCacheRetention") != Some(false);
    // The newest models take other words for how their cache is used; without any, they cache for a short time.
    let explicit = model.flag("supportsExplicitPromptCacheMode") == Some(true);
    let tools = request.tools.iter().map(|tool| Tool {
        name: &tool.name,
        description: &tool.description,
        parameters: &tool.parameters,
        strict: false,
    });
    let body = Body {
        model: &model.id,
        input: input(context),
        stream: true,
        store: false,
        max_output_tokens: (model.flag("supportsMaxOutputTokens") != Some(false))
            .then(|| context.max_tokens.max(MIN_OUTPUT)),
        tools: tools.collect(),
        reasoning,
        include: include.then_some(["reasoning.encrypted_content"]),
        prompt_cache_key: request.session_id.map(|id| id.chars().take(MAX_ID).collect()),
        prompt_cache_retention: (long && !explicit).then_some("24h"),
        prompt_cache_options: match request.session_id {
            None if explicit => Some(json!({"mode": "explicit"})),
            Some(_) if explicit && long => Some(json!({"ttl": "30m"})),
            _ => None,
        },
    };
    let mut headers = context.headers("authorization");
    headers.push(("accept".to_string(), "text/event-stream".to_string()));
    let affinity: &[&str] = match model.compat.get("sessionAffinityFormat").and_then(Value::as_str) {
        Some("openai-nosession") => &["x-client-request-id"],
        Some("openrouter") => &["x-session-id"],
        None if model.provider == "openrouter" => &["x-session-id"],
        _ => &["session-id", "x-client-request-id"],
    };
    headers.extend(
        request.session_id.iter().flat_map(|id| affinity.iter().map(|name| (name.to_string(), id.to_string()))),
    );
    configure(&mut headers, context.authorization);
    HttpRequest {
        url: format!("{}/responses", model.base_url),
        headers,
        // Serialising strings and numbers into memory has no way to fail.
        body: serde_json::to_vec(&body).unwrap_or_default(),
    }
}

fn input<'a>(context: &RequestContext<'a>) -> Vec<Item<'a>> {
    let model = context.model;
    let mut items = Vec::with_capacity(context.messages.len() + 1);
    let mut ids = HashSet::new();
    if !context.request.system.is_empty() {
        let developer = model.reasoning
            && model.flag("supportsDeveloperRole") != Some(false)
            && !context.has(Habit::NoDeveloperRole);
        let role = if developer { "developer" } else { "system" };
        items.push(Item::Prompt { role, content: context.request.system });
    }
    for (number, message) in context.messages.iter().enumerate() {
        match &**message {
            Message::User(user) => {
                let content = match &user.content {
                    Content::Text(text) => vec![Part::InputText { text }],
                    Content::Blocks(blocks) => parts(blocks),
                };
                if !content.is_empty() {
                    items.push(Item::User { role: "user", content });
                }
            }
            Message::Assistant(message) => assistant_items(message, number, model, &mut ids, &mut items),
            Message::ToolResult(result) => items.push(Item::Typed(tool_result(result))),
        }
    }
    items
}

fn parts<'a>(blocks: &'a [Block]) -> Vec<Part<'a>> {
    let part = |block: &'a Block| match block {
        Block::Text { text, .. } if !text.is_empty() => Some(Part::InputText { text }),
        Block::Image { data, mime_type } => {
            Some(Part::InputImage { detail: "auto", image_url: format!("data:{mime_type};base64,{data}") })
        }
        Block::Text { .. } | Block::Thinking { .. } | Block::ToolCall { .. } => None,
    };
    blocks.iter().filter_map(part).collect()
}

fn tool_result(result: &ToolResultMessage) -> Typed<'_> {
    let images = result.content.iter().any(|block| matches!(block, Block::Image { .. }));
    Typed::FunctionCallOutput {
        call_id: result.tool_call_id.split('|').next().unwrap_or(&result.tool_call_id),
        output: if images { Output::Parts(parts(&result.content)) } else { Output::Text(result_text(&result.content)) },
    }
}

/// An answer's items, in the order of its blocks. No two of a request have the same id, and those that do not go back with
/// the reasoning that they came with do not name theirs: the service looks for it otherwise.
fn assistant_items<'a>(
    message: &'a AssistantMessage,
    number: usize,
    model: &Model,
    ids: &mut HashSet<Cow<'a, str>>,
    items: &mut Vec<Item<'a>>,
) {
    let mut own = message.model == model.id && message.provider == model.provider;
    for (at, block) in message.content.iter().enumerate() {
        match block {
            Block::Thinking { thinking_signature: Some(item), .. } => {
                let Ok(Named { id }) = serde_json::from_str(item) else { continue };
                if id.is_none_or(|id| ids.insert(id)) {
                    items.extend(serde_json::from_str(item).ok().map(Item::Verbatim));
                } else {
                    own = false;
                }
            }
            Block::Text { text, text_signature } if !text.is_empty() => {
                let known = text_signature.as_deref().map(|signature| {
                    serde_json::from_str(signature).unwrap_or_else(|_| TextSignature {
                        v: 1,
                        id: signature.to_string(),
                        phase: None,
                    })
                });
                let (id, phase) = known.map_or((None, None), |known| (Some(known.id), known.phase));
                let id = id.filter(|id| own && !id.is_empty());
                let id = id.map(|id| if id.len() > MAX_ID { format!("msg_{}", short_hash(&id)) } else { id });
                let id = id.filter(|id| ids.insert(Cow::Owned(id.clone())));
                let id = id.unwrap_or_else(|| format!("msg_{number}_{at}"));
                let content = [OutputText { text, annotations: [] }];
                items.push(Item::Typed(Typed::Message { role: "assistant", status: "completed", id, phase, content }));
            }
            Block::ToolCall { id, name, arguments, .. } => {
                let (call_id, item) = id.split_once('|').map_or((id.as_str(), None), |(call, item)| (call, Some(item)));
                let item = item.filter(|item| own && item.starts_with("fc_") && item.len() <= MAX_ID);
                items.push(Item::Typed(Typed::FunctionCall {
                    id: item.filter(|item| ids.insert(Cow::Borrowed(*item))),
                    call_id,
                    name,
                    arguments: serde_json::to_string(arguments).unwrap_or_else(|_| "{}".to_string()),
                }));
            }
            Block::Thinking { .. } | Block::Text { .. } | Block::Image { .. } => {}
        }
    }
}

/// A block of an answer whose reasoning is not sent: it does not name its item.
pub(super) fn unnamed(block: &Block) -> Block {
    match block {
        Block::Text { text, text_signature } => {
            let known = text_signature.as_deref().and_then(|known| serde_json::from_str::<TextSignature>(known).ok());
            let kept =
                known.filter(|known| known.phase.is_some()).map(|known| TextSignature { id: String::new(), ..known });
            let text_signature = kept.and_then(|kept| serde_json::to_string(&kept).ok());
            Block::Text { text: text.clone(), text_signature }
        }
        Block::ToolCall { id, name, arguments, thought_signature, arguments_error } => Block::ToolCall {
            id: id.split('|').next().unwrap_or(id).to_string(),
            name: name.clone(),
            arguments: arguments.clone(),
            thought_signature: thought_signature.clone(),
            arguments_error: arguments_error.clone(),
        },
        block @ (Block::Thinking { .. } | Block::Image { .. }) => block.clone(),
    }
}

/// A reasoning item, as far as it names itself.
#[derive(Deserialize)]
struct Named<'a> {
    #[serde(default, borrow)]
    id: Option<Cow<'a, str>>,
}

#[cfg(test)]
mod tests;
