//! Messages and tools in the form of the `openai-completions` API.

use crate::model::compat::Compat;
use crate::model::google::NO_SIGNATURE;
use crate::model::ids::{sanitize, short_hash};
use crate::model::openai_fields::{REASONING_FIELDS, result_text, texts};
use crate::model::protocol::RequestContext;
use crate::transcript::{AssistantMessage, Block, Content, Message, Schema, ToolResultMessage, ToolSpec};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use std::borrow::Cow;

/// The longest tool call id that OpenAI takes.
const MAX_ID: usize = 40;

/// The id of another model's tool call in the form that this API takes.
pub(super) fn foreign_id(id: &str) -> String {
    let plain = id.split('|').map(sanitize).collect::<Vec<_>>().join("_");
    if plain.len() <= MAX_ID {
        return plain;
    }
    // Ids that only differ in their ends have to stay different.
    format!("{}_{}", &plain[..MAX_ID - 9], short_hash(id))
}

#[derive(Serialize)]
#[serde(tag = "role", rename_all = "lowercase")]
pub(super) enum ApiMessage<'a> {
    System {
        content: ApiContent<'a>,
    },
    Developer {
        content: ApiContent<'a>,
    },
    User {
        content: ApiContent<'a>,
    },
    Assistant(ApiAnswer<'a>),
    Tool {
        tool_call_id: &'a str,
        content: ApiContent<'a>,
        #[serde(skip_serializing_if = "Option::is_none")]
        name: Option<&'a str>,
    },
}

#[derive(Default, Serialize)]
pub(super) struct ApiAnswer<'a> {
    content: Option<ApiContent<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_content: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_text: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    reasoning_details: Vec<&'a RawValue>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<Call<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    extra_content: Option<Extra<'a>>,
}

/// What Gemini's endpoint of this kind sends beside a call or a text, and wants back.
#[derive(Serialize)]
#[serde(untagged)]
enum Extra<'a> {
    /// As it came.
    Own(&'a RawValue),
    /// For a call that comes from elsewhere.
    Unsigned(Value),
}

#[derive(Serialize)]
#[serde(untagged)]
pub(super) enum ApiContent<'a> {
    Text(Cow<'a, str>),
    Parts(Vec<Part<'a>>),
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum Part<'a> {
    Text {
        text: Cow<'a, str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        cache_control: Option<CacheControl>,
    },
    ImageUrl {
        image_url: Url,
    },
}

#[derive(Serialize)]
pub(super) struct Url {
    url: String,
}

#[derive(Clone, Copy, Serialize)]
#[serde(tag = "type", rename = "ephemeral")]
pub(super) struct CacheControl {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl: Option<&'static str>,
}

#[derive(Serialize)]
#[serde(tag = "type", rename = "function")]
struct Call<'a> {
    id: &'a str,
    function: CalledFunction<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    extra_content: Option<Extra<'a>>,
}

#[derive(Serialize)]
struct CalledFunction<'a> {
    name: &'a str,
    arguments: String,
}

#[derive(Serialize)]
#[serde(tag = "type", rename = "function")]
pub(super) struct Tool<'a> {
    function: Function<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cache_control: Option<CacheControl>,
}

#[derive(Serialize)]
struct Function<'a> {
    name: &'a str,
    description: &'a str,
    parameters: &'a Schema,
    #[serde(skip_serializing_if = "Option::is_none")]
    strict: Option<bool>,
}

/// The tools; the last one carries the marker for the cache.
pub(super) fn tools<'a>(tools: &'a [&'a ToolSpec], compat: &Compat, cache: Option<CacheControl>) -> Vec<Tool<'a>> {
    let tool = |(at, tool): (usize, &&'a ToolSpec)| Tool {
        function: Function {
            name: &tool.name,
            description: &tool.description,
            parameters: &tool.parameters,
            strict: compat.strict_mode.then_some(false),
        },
        cache_control: cache.filter(|_| at + 1 == tools.len()),
    };
    tools.iter().enumerate().map(tool).collect()
}

/// The whole conversation, with the system prompt at its head. With `signatures`, the first call of each answer has one.
pub(super) fn api_messages<'a>(
    context: &RequestContext<'a>,
    compat: &Compat,
    signatures: bool,
    cache: Option<CacheControl>,
) -> Vec<ApiMessage<'a>> {
    let (system, messages, model) = (context.request.system, context.messages, context.model);
    let mut api_messages = Vec::with_capacity(messages.len() + 1);
    if !system.is_empty() {
        let content = ApiContent::Text(Cow::Borrowed(system));
        let developer = model.reasoning && compat.developer_role;
        api_messages.push(if developer { ApiMessage::Developer { content } } else { ApiMessage::System { content } });
    }
    let mut images: Vec<Part<'a>> = Vec::new();
    for message in messages {
        match &**message {
            Message::ToolResult(result) => {
                images.extend(result.content.iter().filter_map(image));
                api_messages.push(tool_result(result, compat));
            }
            Message::User(user) => {
                show_images(&mut images, &mut api_messages, compat);
                if let Some(content) = user_content(&user.content) {
                    push_user(&mut api_messages, content, compat);
                }
            }
            Message::Assistant(message) => {
                show_images(&mut images, &mut api_messages, compat);
                api_messages.extend(api_answer(message, compat, signatures).map(ApiMessage::Assistant));
            }
        }
    }
    show_images(&mut images, &mut api_messages, compat);
    if let Some(cache) = cache {
        mark(&mut api_messages, cache);
    }
    api_messages
}

/// Tool results hold only text here, so that their images follow in a message of the user's.
fn show_images<'a>(images: &mut Vec<Part<'a>>, api_messages: &mut Vec<ApiMessage<'a>>, compat: &Compat) {
    if !images.is_empty() {
        let mut parts = vec![text_part("Attached image(s) from tool result:")];
        parts.append(images);
        push_user(api_messages, ApiContent::Parts(parts), compat);
    }
}

fn push_user<'a>(api_messages: &mut Vec<ApiMessage<'a>>, content: ApiContent<'a>, compat: &Compat) {
    if compat.assistant_after_tool_result && matches!(api_messages.last(), Some(ApiMessage::Tool { .. })) {
        let content = Some(ApiContent::Text(Cow::Borrowed("I have seen the tool results.")));
        api_messages.push(ApiMessage::Assistant(ApiAnswer { content, ..ApiAnswer::default() }));
    }
    api_messages.push(ApiMessage::User { content });
}

fn text_part(text: &str) -> Part<'_> {
    Part::Text { text: Cow::Borrowed(text), cache_control: None }
}

fn image(block: &Block) -> Option<Part<'_>> {
    match block {
        Block::Image { data, mime_type } => {
            Some(Part::ImageUrl { image_url: Url { url: format!("data:{mime_type};base64,{data}") } })
        }
        Block::Text { .. } | Block::Thinking { .. } | Block::ToolCall { .. } => None,
    }
}

fn user_content(content: &Content) -> Option<ApiContent<'_>> {
    match content {
        Content::Text(text) => Some(ApiContent::Text(Cow::Borrowed(text))),
        Content::Blocks(blocks) => {
            let blank = |block: &&Block| matches!(block, Block::Text { text, .. } if text.is_empty());
            let part = |block| texts(std::slice::from_ref(block)).next().map(text_part).or_else(|| image(block));
            let parts: Vec<_> = blocks.iter().filter(|b| !blank(b)).filter_map(part).collect();
            (!parts.is_empty()).then_some(ApiContent::Parts(parts))
        }
    }
}

fn tool_result<'a>(result: &'a ToolResultMessage, compat: &Compat) -> ApiMessage<'a> {
    ApiMessage::Tool {
        tool_call_id: &result.tool_call_id,
        content: ApiContent::Text(result_text(&result.content)),
        name: compat.tool_result_name.then_some(&result.tool_name),
    }
}

/// `None` if nothing is left to say.
fn api_answer<'a>(message: &'a AssistantMessage, compat: &Compat, signatures: bool) -> Option<ApiAnswer<'a>> {
    let mut out = ApiAnswer::default();
    let text: String = texts(&message.content).collect();
    let thoughts = |wanted: Option<&str>| {
        let thought = |block: &'a Block| match block {
            Block::Thinking { thinking, thinking_signature, .. } => {
                let fits = wanted.is_none_or(|w| thinking_signature.as_deref() == Some(w));
                (fits && !thinking.is_empty()).then_some(thinking.as_str())
            }
            Block::Text { .. } | Block::ToolCall { .. } | Block::Image { .. } => None,
        };
        let thoughts: Vec<_> = message.content.iter().filter_map(thought).collect();
        (!thoughts.is_empty()).then(|| thoughts.join("\n"))
    };
    let as_text = if compat.thinking_as_text { thoughts(None) } else { None };
    let text = Cow::Owned::<str>(text);
    out.content = match as_text {
        Some(thinking) => {
            let mut parts = vec![Part::Text { text: Cow::Owned(thinking), cache_control: None }];
            if !text.is_empty() {
                parts.push(Part::Text { text, cache_control: None });
            }
            Some(ApiContent::Parts(parts))
        }
        None if !text.is_empty() => Some(ApiContent::Text(text)),
        None if compat.non_null_assistant_content || compat.assistant_after_tool_result => Some(ApiContent::Text(text)),
        None => None,
    };
    if !compat.thinking_as_text {
        let [content, reasoning, text] = REASONING_FIELDS.map(|field| thoughts(Some(field)));
        (out.reasoning_content, out.reasoning, out.reasoning_text) = (content, reasoning, text);
        out.reasoning_details = message.content.iter().flat_map(details).collect();
    }
    let signature = |block: &'a Block| match block {
        Block::Text { text_signature, .. } => text_signature.as_deref(),
        Block::Thinking { .. } | Block::ToolCall { .. } | Block::Image { .. } => None,
    };
    out.extra_content = message.content.iter().filter_map(signature).find_map(extra_content);
    out.tool_calls.extend(message.content.iter().filter_map(|block| match block {
        Block::ToolCall { id, name, arguments, thought_signature, .. } => {
            let arguments = serde_json::to_string(arguments).unwrap_or_else(|_| "{}".to_string());
            let extra_content = thought_signature.as_deref().and_then(extra_content);
            Some(Call { id, function: CalledFunction { name, arguments }, extra_content })
        }
        Block::Text { .. } | Block::Thinking { .. } | Block::Image { .. } => None,
    }));
    if let Some(first) = out.tool_calls.first_mut().filter(|_| signatures) {
        let unsigned = || Extra::Unsigned(json!({"google": {"thought_signature": NO_SIGNATURE}}));
        first.extra_content.get_or_insert_with(unsigned);
    }
    let nothing = texts(&message.content).all(str::is_empty) && !matches!(out.content, Some(ApiContent::Parts(_)));
    if nothing && out.tool_calls.is_empty() {
        return None;
    }
    if compat.reasoning_content_always {
        out.reasoning_content.get_or_insert_default();
    }
    Some(out)
}

/// The reasoning details that a block holds: the list of a thought, and the single one that PI keeps with a call.
fn details(block: &Block) -> Vec<&RawValue> {
    if let Block::Thinking { thinking_signature: Some(list), .. } = block
        && list.starts_with('[')
    {
        serde_json::from_str(list).unwrap_or_default()
    } else if let Block::ToolCall { thought_signature: Some(one), .. } = block
        && is_detail(one)
    {
        serde_json::from_str(one).ok().into_iter().collect()
    } else {
        Vec::new()
    }
}

/// Whether a signature is a reasoning detail.
fn is_detail(signature: &str) -> bool {
    #[derive(Deserialize)]
    struct Detail<'a> {
        #[serde(borrow, rename = "type")]
        kind: Cow<'a, str>,
    }
    serde_json::from_str(signature).is_ok_and(|detail: Detail<'_>| detail.kind.starts_with("reasoning."))
}

/// What a signature holds, if that is the content of a field `extra_content`.
fn extra_content(signature: &str) -> Option<Extra<'_>> {
    let object = signature.starts_with('{') && !is_detail(signature);
    object.then(|| serde_json::from_str(signature).ok()).flatten().map(Extra::Own)
}

/// Marks the system prompt and the last message with text, up to which everything may be cached.
fn mark(api_messages: &mut [ApiMessage<'_>], cache: CacheControl) {
    let mark = |turn: &mut ApiMessage<'_>| {
        let content = match turn {
            ApiMessage::System { content }
            | ApiMessage::Developer { content }
            | ApiMessage::User { content }
            | ApiMessage::Tool { content, .. } => content,
            ApiMessage::Assistant(ApiAnswer { content: Some(content), .. }) => content,
            ApiMessage::Assistant(_) => return false,
        };
        if let ApiContent::Text(text) = content {
            let text = std::mem::take(text);
            *content = ApiContent::Parts(vec![Part::Text { text, cache_control: None }]);
        }
        let ApiContent::Parts(parts) = content else { return false };
        let last = parts.iter_mut().rev().find_map(|part| {
            let Part::Text { text, cache_control } = part else { return None };
            (!text.is_empty()).then_some(cache_control)
        });
        last.map(|last| *last = Some(cache)).is_some()
    };
    let (head, tail) = api_messages.split_at_mut(usize::from(matches!(
        api_messages.first(),
        Some(ApiMessage::System { .. } | ApiMessage::Developer { .. })
    )));
    head.iter_mut().for_each(|turn| {
        mark(turn);
    });
    tail.iter_mut().rev().any(mark);
}
