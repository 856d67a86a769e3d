//! The request.

use crate::model::credentials::Scheme;
use crate::model::model_info::Model;
use crate::model::protocol::{HttpRequest, RequestContext, configure};
use crate::model::sendable::Habit;
use crate::model::thinking::ThinkingLevel;
use crate::transcript::{AssistantMessage, Block, Content, Message, Schema, ToolResultMessage};
use serde::Serialize;
use serde_json::{Map, Value};
use std::sync::Arc;

const VERSION: &str = "2023-06-01";
const SIGN_IN_BETA: &str = "oauth-2025-04-20";
const INTERLEAVED_BETA: &str = "interleaved-thinking-2025-05-14";
/// Lets a request say what becomes of thoughts that are bound to another beginning of the conversation.
const BINDING_BETA: &str = "thinking-binding-controls-2026-08-01";
const FINE_GRAINED_BETA: &str = "fine-grained-tool-streaming-2025-05-14";
/// The smallest budget of thought that the API takes, and what has to be left for the answer; tokens.
const MIN_BUDGET: u64 = 1024;

#[derive(Serialize)]
struct Body<'a> {
    model: &'a str,
    max_tokens: u64,
    stream: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    system: Vec<Part<'a>>,
    messages: Vec<ApiMessage<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tools: Vec<Tool<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    thinking: Option<Thinking>,
    #[serde(skip_serializing_if = "Option::is_none")]
    output_config: Option<OutputConfig<'a>>,
}

#[derive(Serialize)]
struct ApiMessage<'a> {
    role: &'static str,
    content: Vec<Part<'a>>,
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Part<'a> {
    Text {
        text: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        cache_control: Option<CacheControl>,
    },
    Image {
        source: Source<'a>,
        #[serde(skip_serializing_if = "Option::is_none")]
        cache_control: Option<CacheControl>,
    },
    Thinking {
        thinking: &'a str,
        signature: &'a str,
    },
    RedactedThinking {
        data: &'a str,
    },
    ToolUse {
        id: &'a str,
        name: &'a str,
        input: &'a Map<String, Value>,
    },
    ToolResult {
        tool_use_id: &'a str,
        content: Vec<Part<'a>>,
        is_error: bool,
        #[serde(skip_serializing_if = "Option::is_none")]
        cache_control: Option<CacheControl>,
    },
}

#[derive(Serialize)]
#[serde(tag = "type", rename = "base64")]
struct Source<'a> {
    media_type: &'a str,
    data: &'a str,
}

#[derive(Clone, Copy, Serialize)]
#[serde(tag = "type", rename = "ephemeral")]
struct CacheControl {
    #[serde(skip_serializing_if = "Option::is_none")]
    ttl: Option<&'static str>,
}

#[derive(Serialize)]
struct Tool<'a> {
    name: &'a str,
    description: &'a str,
    input_schema: &'a Schema,
    #[serde(skip_serializing_if = "Option::is_none")]
    eager_input_streaming: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cache_control: Option<CacheControl>,
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Thinking {
    Disabled,
    Adaptive {
        display: &'static str,
        #[serde(skip_serializing_if = "Option::is_none")]
        block_binding: Option<BlockBinding>,
    },
    Enabled {
        budget_tokens: u64,
        display: &'static str,
    },
}

/// The newest models' thoughts are bound to everything that stood before them. Once that has changed (a summary, an edited
/// AGENTS.md, another set of tools), the request is refused, unless it asks for such thoughts to be dropped.
#[derive(Serialize)]
struct BlockBinding {
    prefix_mismatch_behavior: &'static str,
}

#[derive(Serialize)]
struct OutputConfig<'a> {
    effort: &'a str,
}

/// Writes the HTTP request.
pub(super) fn prepare(context: &RequestContext<'_>) -> HttpRequest {
    let model = context.model;
    let request = context.request;
    let cache = request.session_id.map(|_| CacheControl {
        ttl: (context.long_cache && model.flag("supportsLongCacheRetention") != Some(false)).then_some("1h"),
    });
    let (thinking, output_config) = thinking(context);
    let eager = model.flag("supportsEagerToolInputStreaming") != Some(false);
    let last = request.tools.len().wrapping_sub(1);
    let tools = request.tools.iter().enumerate().map(|(at, tool)| Tool {
        name: &tool.name,
        description: &tool.description,
        input_schema: &tool.parameters,
        eager_input_streaming: eager.then_some(true),
        cache_control: cache.filter(|_| at == last && model.flag("supportsCacheControlOnTools") != Some(false)),
    });
    let system = Part::Text { text: request.system, cache_control: cache };
    let mut messages = api_messages(context.messages, model);
    mark_last(&mut messages, cache);
    let body = Body {
        model: &model.id,
        max_tokens: context.max_tokens,
        stream: true,
        system: if request.system.is_empty() { Vec::new() } else { vec![system] },
        messages,
        tools: tools.collect(),
        thinking,
        output_config,
    };
    let mut betas = Vec::new();
    if context.authorization.scheme == Scheme::AnthropicSignIn {
        betas.push(SIGN_IN_BETA);
    }
    if matches!(body.thinking, Some(Thinking::Enabled { .. })) {
        betas.push(INTERLEAVED_BETA);
    }
    if matches!(body.thinking, Some(Thinking::Adaptive { block_binding: Some(_), .. })) {
        betas.push(BINDING_BETA);
    }
    if !eager && !body.tools.is_empty() {
        betas.push(FINE_GRAINED_BETA);
    }
    let mut headers = context.headers("x-api-key");
    headers.push(("anthropic-version".to_string(), VERSION.to_string()));
    headers.push(("accept".to_string(), "application/json".to_string()));
    if !betas.is_empty() {
        headers.push(("anthropic-beta".to_string(), betas.join(",")));
    }
    if let Some(session_id) = request.session_id
        && model.flag("sendSessionAffinityHeaders").unwrap_or(model.provider == "openrouter")
    {
        let name = if model.provider == "openrouter" { "x-session-id" } else { "x-session-affinity" };
        headers.push((name.to_string(), session_id.to_string()));
    }
    configure(&mut headers, context.authorization);
    HttpRequest {
        url: format!("{}/v1/messages", model.base_url),
        headers,
        // Serialising strings and numbers into memory has no way to fail.
        body: serde_json::to_vec(&body).unwrap_or_default(),
    }
}

fn thinking<'a>(context: &RequestContext<'a>) -> (Option<Thinking>, Option<OutputConfig<'a>>) {
    let (model, level) = (context.model, context.request.thinking);
    if !model.reasoning {
        return (None, None);
    }
    if level == ThinkingLevel::Off {
        return (if model.thinks_always() { None } else { Some(Thinking::Disabled) }, None);
    }
    if model.flag("forceAdaptiveThinking") == Some(true) {
        let effort = model.mapped(level).unwrap_or(match level {
            ThinkingLevel::Off | ThinkingLevel::Minimal | ThinkingLevel::Low => "low",
            ThinkingLevel::Medium => "medium",
            ThinkingLevel::High | ThinkingLevel::Xhigh | ThinkingLevel::Max => "high",
        });
        // The catalog has one flag for the models that take effort in mid-conversation and for those that bind thoughts.
        let binds = model.flag("supportsMidConvoEffort") == Some(true) && !context.has(Habit::NoBlockBinding);
        let block_binding = binds.then_some(BlockBinding { prefix_mismatch_behavior: "drop_block" });
        return (Some(Thinking::Adaptive { display: "summarized", block_binding }), Some(OutputConfig { effort }));
    }
    let budget = context.budget().min(context.max_tokens.saturating_sub(MIN_BUDGET));
    // Where there is no room for thoughts, the answer comes first.
    let enabled = (budget >= MIN_BUDGET).then_some(Thinking::Enabled { budget_tokens: budget, display: "summarized" });
    (enabled.or_else(|| (!model.thinks_always()).then_some(Thinking::Disabled)), None)
}

fn api_messages<'a>(messages: &'a [Arc<Message>], model: &Model) -> Vec<ApiMessage<'a>> {
    let mut api_messages: Vec<ApiMessage<'a>> = Vec::new();
    let mut results: Vec<&ToolResultMessage> = Vec::new();
    for message in messages {
        if let Message::ToolResult(result) = &**message {
            results.push(result);
            continue;
        }
        push(&mut api_messages, "user", tool_results(&mut results));
        match &**message {
            Message::User(user) => push(
                &mut api_messages,
                "user",
                match &user.content {
                    Content::Text(text) => parts(std::slice::from_ref(text).iter().map(String::as_str).map(text_part)),
                    Content::Blocks(blocks) => parts(blocks.iter().filter_map(user_part)),
                },
            ),
            Message::Assistant(m) => push(&mut api_messages, "assistant", assistant_parts(m, model)),
            Message::ToolResult(_) => {}
        }
    }
    push(&mut api_messages, "user", tool_results(&mut results));
    api_messages
}

/// Adds a turn, unless there is nothing in it.
fn push<'a>(api_messages: &mut Vec<ApiMessage<'a>>, role: &'static str, content: Vec<Part<'a>>) {
    if !content.is_empty() {
        api_messages.push(ApiMessage { role, content });
    }
}

fn text_part(text: &str) -> Part<'_> {
    Part::Text { text, cache_control: None }
}

fn user_part(block: &Block) -> Option<Part<'_>> {
    match block {
        Block::Text { text, .. } => Some(text_part(text)),
        Block::Image { data, mime_type } => {
            Some(Part::Image { source: Source { media_type: mime_type, data }, cache_control: None })
        }
        Block::Thinking { .. } | Block::ToolCall { .. } => None,
    }
}

/// The parts without the blank texts, which the API refuses.
fn parts<'a>(parts: impl Iterator<Item = Part<'a>>) -> Vec<Part<'a>> {
    parts.filter(|part| !matches!(part, Part::Text { text, .. } if text.trim().is_empty())).collect()
}

fn assistant_parts<'a>(message: &'a AssistantMessage, model: &Model) -> Vec<Part<'a>> {
    let part = |block: &'a Block| match block {
        Block::Text { text, .. } => Some(text_part(text)),
        Block::Thinking { thinking_signature: Some(data), redacted: true, .. } => Some(Part::RedactedThinking { data }),
        Block::Thinking { thinking, thinking_signature, .. } => match thinking_signature.as_deref().unwrap_or("") {
            "" if model.flag("allowEmptySignature") != Some(true) => Some(text_part(thinking)),
            signature => Some(Part::Thinking { thinking, signature }),
        },
        Block::ToolCall { id, name, arguments, .. } => Some(Part::ToolUse { id, name, input: arguments }),
        Block::Image { .. } => None,
    };
    parts(message.content.iter().filter_map(part))
}

/// One user turn with all results of a batch. Images of failed calls follow behind them, because the API takes only
/// text in an error.
fn tool_results<'a>(results: &mut Vec<&'a ToolResultMessage>) -> Vec<Part<'a>> {
    let mut content = Vec::with_capacity(results.len());
    let mut behind = Vec::new();
    for result in results.drain(..) {
        let mut inner: Vec<Part<'a>> = Vec::new();
        for block in &result.content {
            match (user_part(block), result.is_error) {
                (Some(image @ Part::Image { .. }), true) => {
                    if behind.is_empty() {
                        behind.push(text_part("Images of failed tool calls:"));
                    }
                    behind.push(image);
                    inner.push(text_part("(image follows the tool results)"));
                }
                (part, _) => inner.extend(part),
            }
        }
        let mut inner = parts(inner.into_iter());
        if !inner.is_empty() && inner.iter().all(|part| matches!(part, Part::Image { .. })) {
            inner.insert(0, text_part("(see attached image)"));
        }
        // An error without content is refused.
        if inner.is_empty() {
            inner.push(text_part("(no tool output)"));
        }
        content.push(Part::ToolResult {
            tool_use_id: &result.tool_call_id,
            content: inner,
            is_error: result.is_error,
            cache_control: None,
        });
    }
    content.extend(behind);
    content
}

/// Everything up to the end of the last user turn may be cached.
fn mark_last(api_messages: &mut [ApiMessage<'_>], cache: Option<CacheControl>) {
    let Some(last) =
        api_messages.last_mut().filter(|turn| turn.role == "user").and_then(|turn| turn.content.last_mut())
    else {
        return;
    };
    if let Part::Text { cache_control, .. }
    | Part::Image { cache_control, .. }
    | Part::ToolResult { cache_control, .. } = last
    {
        *cache_control = cache;
    }
}

#[cfg(test)]
mod tests;
