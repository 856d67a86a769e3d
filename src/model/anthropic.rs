//! The `anthropic-messages` API: `POST {base}/v1/messages`, answered by server-sent events.

use super::answer::{Answer, Failed};
use super::credentials::Scheme;
use super::exchange::{Decoder, Draft, Prepared, Progress, Text, configure, quoted};
use super::ids::sanitize;
use super::sse::Event;
use super::{Model, ThinkingLevel, tolerant_json};
use crate::transcript::{AssistantMessage, Block, Content, Message, StopReason, ToolResultMessage, Usage};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use std::sync::Arc;

const VERSION: &str = "2023-06-01";
const SIGN_IN_BETA: &str = "oauth-2025-04-20";
const INTERLEAVED_BETA: &str = "interleaved-thinking-2025-05-14";
const FINE_GRAINED_BETA: &str = "fine-grained-tool-streaming-2025-05-14";
/// The smallest budget of thought that the API takes, and what has to be left for the answer; tokens.
const MIN_BUDGET: u64 = 1024;

/// The id of another model's tool call in the form that this API takes.
pub fn foreign_id(id: &str) -> String {
    sanitize(id).chars().take(64).collect()
}

#[derive(Serialize)]
struct Body<'a> {
    model: &'a str,
    max_tokens: u64,
    stream: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    system: Vec<Part<'a>>,
    messages: Vec<Turn<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tools: Vec<Tool<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    thinking: Option<Thinking>,
    #[serde(skip_serializing_if = "Option::is_none")]
    output_config: Option<OutputConfig<'a>>,
}

#[derive(Serialize)]
struct Turn<'a> {
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
    input_schema: &'a Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    eager_input_streaming: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cache_control: Option<CacheControl>,
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Thinking {
    Disabled,
    Adaptive { display: &'static str },
    Enabled { budget_tokens: u64, display: &'static str },
}

#[derive(Serialize)]
struct OutputConfig<'a> {
    effort: &'a str,
}

/// The HTTP request.
pub fn prepare(draft: &Draft<'_>) -> Prepared {
    let model = draft.model;
    let request = draft.request;
    let cache = Some(CacheControl {
        ttl: (draft.long_cache && model.flag("supportsLongCacheRetention") != Some(false)).then_some("1h"),
    });
    let (thinking, output_config) = thinking(draft);
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
    let mut messages = turns(draft.messages, model);
    mark_last(&mut messages, cache);
    let body = Body {
        model: &model.id,
        max_tokens: draft.max_tokens,
        stream: true,
        system: if request.system.is_empty() { Vec::new() } else { vec![system] },
        messages,
        tools: tools.collect(),
        thinking,
        output_config,
    };
    let mut betas = Vec::new();
    if draft.authorization.scheme == Scheme::AnthropicSignIn {
        betas.push(SIGN_IN_BETA);
    }
    if matches!(body.thinking, Some(Thinking::Enabled { .. })) {
        betas.push(INTERLEAVED_BETA);
    }
    if !eager && !body.tools.is_empty() {
        betas.push(FINE_GRAINED_BETA);
    }
    let mut headers = draft.headers("x-api-key");
    headers.push(("anthropic-version".to_string(), VERSION.to_string()));
    headers.push(("accept".to_string(), "application/json".to_string()));
    if !betas.is_empty() {
        headers.push(("anthropic-beta".to_string(), betas.join(",")));
    }
    if model.flag("sendSessionAffinityHeaders") == Some(true) {
        let name = if model.provider == "openrouter" { "x-session-id" } else { "x-session-affinity" };
        headers.push((name.to_string(), request.session_id.to_string()));
    }
    configure(&mut headers, draft.authorization);
    Prepared {
        url: format!("{}/v1/messages", model.base_url),
        headers,
        // Serialising strings and numbers into memory has no way to fail.
        body: serde_json::to_vec(&body).unwrap_or_default(),
    }
}

fn thinking<'a>(draft: &Draft<'a>) -> (Option<Thinking>, Option<OutputConfig<'a>>) {
    let (model, level) = (draft.model, draft.request.thinking);
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
        return (Some(Thinking::Adaptive { display: "summarized" }), Some(OutputConfig { effort }));
    }
    let budget = draft.budget.min(draft.max_tokens.saturating_sub(MIN_BUDGET));
    // Where there is no room for thoughts, the answer comes first.
    let enabled = (budget >= MIN_BUDGET).then_some(Thinking::Enabled { budget_tokens: budget, display: "summarized" });
    (enabled.or_else(|| (!model.thinks_always()).then_some(Thinking::Disabled)), None)
}

fn turns<'a>(messages: &'a [Arc<Message>], model: &Model) -> Vec<Turn<'a>> {
    let mut turns: Vec<Turn<'a>> = Vec::new();
    let mut results: Vec<&ToolResultMessage> = Vec::new();
    for message in messages {
        if let Message::ToolResult(result) = &**message {
            results.push(result);
            continue;
        }
        push(&mut turns, "user", tool_results(&mut results));
        match &**message {
            Message::User(user) => push(
                &mut turns,
                "user",
                match &user.content {
                    Content::Text(text) => parts(std::slice::from_ref(text).iter().map(String::as_str).map(text_part)),
                    Content::Blocks(blocks) => parts(blocks.iter().filter_map(user_part)),
                },
            ),
            Message::Assistant(m) => push(&mut turns, "assistant", assistant_parts(m, model)),
            Message::ToolResult(_) => {}
        }
    }
    push(&mut turns, "user", tool_results(&mut results));
    turns
}

/// Adds a turn, unless there is nothing in it.
fn push<'a>(turns: &mut Vec<Turn<'a>>, role: &'static str, content: Vec<Part<'a>>) {
    if !content.is_empty() {
        turns.push(Turn { role, content });
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
fn mark_last(turns: &mut [Turn<'_>], cache: Option<CacheControl>) {
    let Some(last) = turns.last_mut().filter(|turn| turn.role == "user").and_then(|turn| turn.content.last_mut())
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

/// Understands the answer's events.
#[derive(Default)]
pub struct Stream {
    blocks: Vec<Open>,
    begun: bool,
    finished: bool,
    /// The stop reason as it was sent, and the provider's words to it.
    stop: Option<(String, Option<String>)>,
}

/// A block that has begun and not ended.
struct Open {
    /// The provider's number for it.
    number: u64,
    index: usize,
    kind: Kind,
}

#[derive(Clone, PartialEq)]
enum Kind {
    Text,
    Thinking,
    /// With the arguments that came with the block's start, as some servers do it.
    Tool {
        input: Option<String>,
    },
}

#[derive(Deserialize)]
struct DeltaEvent<'a> {
    #[serde(default)]
    index: u64,
    #[serde(borrow)]
    delta: Delta<'a>,
}

#[derive(Deserialize)]
struct Delta<'a> {
    #[serde(borrow)]
    text: Option<Text<'a>>,
    #[serde(borrow)]
    thinking: Option<Text<'a>>,
    #[serde(borrow)]
    partial_json: Option<Text<'a>>,
    #[serde(borrow)]
    signature: Option<Text<'a>>,
}

/// Every other event; absent fields are those of other events.
#[derive(Deserialize)]
struct AnyEvent<'a> {
    #[serde(borrow, rename = "type")]
    kind: Option<Text<'a>>,
    #[serde(default)]
    index: u64,
    message: Option<Opening>,
    #[serde(borrow)]
    content_block: Option<BlockStart<'a>>,
    delta: Option<Closing>,
    usage: Option<Counts>,
    #[serde(borrow)]
    error: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Opening {
    id: Option<String>,
    model: Option<String>,
    usage: Option<Counts>,
}

#[derive(Deserialize)]
struct BlockStart<'a> {
    #[serde(borrow, rename = "type")]
    kind: Text<'a>,
    #[serde(borrow)]
    text: Option<Text<'a>>,
    #[serde(borrow)]
    thinking: Option<Text<'a>>,
    #[serde(borrow)]
    signature: Option<Text<'a>>,
    #[serde(borrow)]
    data: Option<Text<'a>>,
    #[serde(borrow)]
    id: Option<Text<'a>>,
    #[serde(borrow)]
    name: Option<Text<'a>>,
    input: Option<Map<String, Value>>,
}

#[derive(Deserialize)]
struct Closing {
    stop_reason: Option<String>,
    stop_details: Option<StopDetails>,
}

#[derive(Deserialize)]
struct StopDetails {
    explanation: Option<String>,
}

#[derive(Deserialize)]
struct Counts {
    input_tokens: Option<u64>,
    output_tokens: Option<u64>,
    cache_read_input_tokens: Option<u64>,
    cache_creation_input_tokens: Option<u64>,
    cache_creation: Option<CacheCreation>,
    output_tokens_details: Option<OutputDetails>,
}

#[derive(Deserialize)]
struct CacheCreation {
    ephemeral_1h_input_tokens: Option<u64>,
}

#[derive(Deserialize)]
struct OutputDetails {
    thinking_tokens: Option<u64>,
}

impl Counts {
    /// Takes over what is there: servers leave out what has not changed.
    fn apply(&self, usage: &mut Usage) {
        let set = |field: &mut u64, value: Option<u64>| *field = value.unwrap_or(*field);
        set(&mut usage.input, self.input_tokens);
        set(&mut usage.output, self.output_tokens);
        set(&mut usage.cache_read, self.cache_read_input_tokens);
        set(&mut usage.cache_write, self.cache_creation_input_tokens);
        let hour = self.cache_creation.as_ref().and_then(|c| c.ephemeral_1h_input_tokens);
        usage.cache_write_1h = hour.or(usage.cache_write_1h);
        let thoughts = self.output_tokens_details.as_ref().and_then(|d| d.thinking_tokens);
        usage.reasoning = thoughts.or(usage.reasoning);
    }
}

fn unusable(error: &serde_json::Error) -> Failed {
    Failed::new(format!("Unusable event in the stream: {error}"))
}

impl Decoder for Stream {
    fn event(&mut self, event: Event<'_>, answer: &mut Answer<'_>) -> Result<Progress, Failed> {
        if event.name == b"content_block_delta" {
            return self.delta(event.data, answer);
        }
        let mut repaired = String::new();
        let parsed: AnyEvent<'_> = tolerant_json::parse(event.data, &mut repaired).map_err(|e| unusable(&e))?;
        let name =
            if event.name.is_empty() { parsed.kind.as_ref().map_or("", |k| &k.0).as_bytes() } else { event.name };
        match name {
            // A server that names no events pays with a second parse per delta.
            b"content_block_delta" => return self.delta(event.data, answer),
            b"message_start" => {
                self.begun = true;
                if let Some(opening) = parsed.message {
                    answer.message.response_id = opening.id;
                    answer.message.response_model = opening.model.filter(|m| *m != answer.message.model);
                    if let Some(counts) = opening.usage {
                        counts.apply(&mut answer.message.usage);
                    }
                }
            }
            b"content_block_start" => {
                if let Some(start) = parsed.content_block {
                    self.start(parsed.index, start, answer);
                }
            }
            b"content_block_stop" => self.stop_block(parsed.index, answer),
            b"message_delta" => {
                if let Some(counts) = parsed.usage {
                    counts.apply(&mut answer.message.usage);
                }
                if let Some(Closing { stop_reason: Some(reason), stop_details }) = parsed.delta {
                    self.stop = Some((reason, stop_details.and_then(|d| d.explanation)));
                }
            }
            b"message_stop" => {
                self.finished = true;
                return Ok(Progress::Done);
            }
            b"error" => {
                let error = parsed.error.map_or(event.data, |raw| raw.get().as_bytes());
                return Err(Failed::new(quoted(error)));
            }
            _ => {}
        }
        Ok(Progress::More)
    }

    fn end(&mut self, answer: &mut Answer<'_>) -> Result<StopReason, Failed> {
        if !self.begun || !self.finished {
            return Err(Failed::new("Stream ended before message_stop"));
        }
        let (reason, words) = self.stop.take().unwrap_or_default();
        match reason.as_str() {
            // A server that names no reason has said all the same that the message is whole.
            "" if answer.message.has_tool_calls() => Ok(StopReason::ToolUse),
            "" | "end_turn" | "pause_turn" | "stop_sequence" => Ok(StopReason::Stop),
            "max_tokens" => Ok(StopReason::Length),
            "tool_use" => Ok(StopReason::ToolUse),
            "refusal" => Err(Failed::new(words.unwrap_or_else(|| "The model refused to answer (refusal)".to_string()))),
            "sensitive" => Err(Failed::new("The provider withheld the answer (sensitive)")),
            other => Err(Failed::new(format!("Unhandled stop reason: {other}"))),
        }
    }
}

impl Stream {
    fn open(&self, number: u64) -> Option<&Open> {
        self.blocks.iter().rev().find(|open| open.number == number)
    }

    /// The hot path: one piece of text, thought or arguments.
    fn delta(&mut self, data: &[u8], answer: &mut Answer<'_>) -> Result<Progress, Failed> {
        let mut repaired = String::new();
        let event: DeltaEvent<'_> = tolerant_json::parse(data, &mut repaired).map_err(|e| unusable(&e))?;
        let Some(&Open { index, ref kind, .. }) = self.open(event.index) else { return Ok(Progress::More) };
        let delta = event.delta;
        match kind {
            Kind::Text => {
                if let Some(text) = delta.text {
                    answer.text(index, &text.0);
                }
            }
            Kind::Thinking => {
                if let Some(text) = delta.thinking {
                    answer.thinking(index, &text.0);
                }
                if let Some(text) = delta.signature
                    && let Some(signature) = answer.thinking_signature(index)
                {
                    signature.push_str(&text.0);
                }
            }
            Kind::Tool { .. } => {
                if let Some(json) = delta.partial_json {
                    answer.tool_arguments(index, &json.0);
                }
            }
        }
        Ok(Progress::More)
    }

    fn start(&mut self, number: u64, start: BlockStart<'_>, answer: &mut Answer<'_>) {
        let some = |text: Option<Text<'_>>| text.map(|t| t.0.into_owned()).unwrap_or_default();
        let (index, kind) = match &*start.kind.0 {
            "text" => {
                let index = answer.start_text();
                answer.text(index, &some(start.text));
                (index, Kind::Text)
            }
            "thinking" => {
                let index = answer.start_thinking();
                answer.thinking(index, &some(start.thinking));
                let given = some(start.signature);
                if let Some(signature) = answer.thinking_signature(index).filter(|_| !given.is_empty()) {
                    signature.push_str(&given);
                }
                (index, Kind::Thinking)
            }
            "redacted_thinking" => return answer.redacted_thinking(&some(start.data)),
            "tool_use" => {
                let index = answer.start_tool_call(&some(start.id), &some(start.name));
                let input = start.input.filter(|map| !map.is_empty());
                (index, Kind::Tool { input: input.map(|map| Value::Object(map).to_string()) })
            }
            // What is not known cannot be shown.
            _ => return,
        };
        self.blocks.push(Open { number, index, kind });
    }

    fn stop_block(&mut self, number: u64, answer: &mut Answer<'_>) {
        let Some(at) = self.blocks.iter().rposition(|open| open.number == number) else { return };
        let open = self.blocks.remove(at);
        match open.kind {
            Kind::Text => answer.end_text(open.index),
            Kind::Thinking => answer.end_thinking(open.index),
            Kind::Tool { input } => {
                if answer.tool_arguments_len(open.index) == 0 {
                    answer.tool_arguments(open.index, &input.unwrap_or_default());
                }
                answer.end_tool_call(open.index);
            }
        }
    }
}

#[cfg(test)]
mod tests;
