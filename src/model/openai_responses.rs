//! The `openai-responses` API: `POST {base}/responses`, answered by server-sent events.

use super::answer::{Answer, Failed};
use super::ids::{sanitize, short_hash};
use super::openai_messages::result_text;
use super::protocol::{Decoder, Draft, Prepared, Progress, Text, configure, quoted};
use super::sse::Event;
use super::{Model, ThinkingLevel};
use crate::tolerant_json;
use crate::transcript::{AssistantMessage, Block, Content, Message, StopReason, ToolResultMessage, Usage};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use std::borrow::Cow;

/// The longest id that the API takes, in characters.
const MAX_ID: usize = 64;
/// The smallest limit for an answer that the API takes; tokens.
const MIN_OUTPUT: u64 = 16;

/// The id of another model's tool call in the form that this API takes: the call's part alone, since the item that the
/// other part names is not sent.
pub fn foreign_id(id: &str) -> String {
    let call = sanitize(id.split('|').next().unwrap_or(id));
    call.chars().take(MAX_ID).collect()
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
}

#[derive(Serialize)]
#[serde(tag = "type", rename = "function")]
struct Tool<'a> {
    name: &'a str,
    description: &'a str,
    parameters: &'a Value,
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
        content: [Said<'a>; 1],
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
struct Said<'a> {
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
struct TextSignature {
    v: u32,
    id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    phase: Option<String>,
}

/// The HTTP request.
pub fn prepare(draft: &Draft<'_>) -> Prepared {
    let (model, request) = (draft.model, draft.request);
    let on = request.thinking != ThinkingLevel::Off;
    let mapped = model.mapped(request.thinking);
    let reasoning = match (model.reasoning, on) {
        (false, _) => None,
        (true, true) => Some(json!({"effort": mapped.unwrap_or(request.thinking.as_str()), "summary": "auto"})),
        (true, false) => (!model.thinks_always()).then(|| json!({"effort": mapped.unwrap_or("none")})),
    };
    // xAI's models think whether asked or not, and want their thoughts back.
    let include = model.reasoning && (on || model.provider == "xai");
    let long = draft.long_cache && model.flag("supportsLongCacheRetention") != Some(false);
    let tools = request.tools.iter().map(|tool| Tool {
        name: &tool.name,
        description: &tool.description,
        parameters: &tool.parameters,
        strict: false,
    });
    let body = Body {
        model: &model.id,
        input: input(draft),
        stream: true,
        store: false,
        max_output_tokens: (model.flag("supportsMaxOutputTokens") != Some(false))
            .then(|| draft.max_tokens.max(MIN_OUTPUT)),
        tools: tools.collect(),
        reasoning,
        include: include.then_some(["reasoning.encrypted_content"]),
        prompt_cache_key: request.session_id.map(|id| id.chars().take(MAX_ID).collect()),
        prompt_cache_retention: long.then_some("24h"),
    };
    let mut headers = draft.headers("authorization");
    headers.push(("accept".to_string(), "text/event-stream".to_string()));
    let affinity: &[&str] =
        if model.provider == "openrouter" { &["x-session-id"] } else { &["session-id", "x-client-request-id"] };
    headers.extend(
        request.session_id.iter().flat_map(|id| affinity.iter().map(|name| (name.to_string(), id.to_string()))),
    );
    configure(&mut headers, draft.authorization);
    Prepared {
        url: format!("{}/responses", model.base_url),
        headers,
        // Serialising strings and numbers into memory has no way to fail.
        body: serde_json::to_vec(&body).unwrap_or_default(),
    }
}

fn input<'a>(draft: &Draft<'a>) -> Vec<Item<'a>> {
    let model = draft.model;
    let mut items = Vec::with_capacity(draft.messages.len() + 1);
    if !draft.request.system.is_empty() {
        let developer = model.reasoning && model.flag("supportsDeveloperRole") != Some(false);
        let role = if developer { "developer" } else { "system" };
        items.push(Item::Prompt { role, content: draft.request.system });
    }
    for (number, message) in draft.messages.iter().enumerate() {
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
            Message::Assistant(message) => answered(message, number, model, &mut items),
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
        _ => None,
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

/// An answer's items, in the order of its blocks.
fn answered<'a>(message: &'a AssistantMessage, number: usize, model: &Model, items: &mut Vec<Item<'a>>) {
    let own = message.model == model.id && message.provider == model.provider;
    for (at, block) in message.content.iter().enumerate() {
        match block {
            Block::Thinking { thinking_signature: Some(item), .. } => {
                items.extend(serde_json::from_str(item).ok().map(Item::Verbatim));
            }
            Block::Text { text, text_signature } if !text.is_empty() => {
                let known = text_signature.as_deref().map(|signature| {
                    serde_json::from_str(signature).unwrap_or_else(|_| TextSignature {
                        v: 1,
                        id: signature.to_string(),
                        phase: None,
                    })
                });
                let TextSignature { id, phase, .. } =
                    known.unwrap_or_else(|| TextSignature { v: 1, id: format!("msg_{number}_{at}"), phase: None });
                let id = if id.len() > MAX_ID { format!("msg_{}", short_hash(&id)) } else { id };
                let content = [Said { text, annotations: [] }];
                items.push(Item::Typed(Typed::Message { role: "assistant", status: "completed", id, phase, content }));
            }
            Block::ToolCall { id, name, arguments, .. } => {
                let (call_id, item) = id.split_once('|').map_or((id.as_str(), None), |(call, item)| (call, Some(item)));
                items.push(Item::Typed(Typed::FunctionCall {
                    id: item.filter(|item| own && item.starts_with("fc_")),
                    call_id,
                    name,
                    arguments: serde_json::to_string(arguments).unwrap_or_else(|_| "{}".to_string()),
                }));
            }
            Block::Thinking { .. } | Block::Text { .. } | Block::Image { .. } => {}
        }
    }
}

/// Understands the answer's events.
#[derive(Default)]
pub struct Stream {
    open: Vec<Open>,
    /// How the response ended.
    ending: Option<Ending>,
}

/// An item that has begun and not ended.
struct Open {
    /// The item's number in the output.
    number: u64,
    index: usize,
    kind: Kind,
    /// A part of the thoughts has ended: what follows is another paragraph.
    paragraph: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Text,
    Thinking,
    Tool,
}

#[derive(Deserialize)]
struct DeltaEvent<'a> {
    #[serde(default)]
    output_index: u64,
    #[serde(borrow)]
    delta: Option<Text<'a>>,
}

#[derive(Deserialize)]
struct AnyEvent<'a> {
    #[serde(borrow, rename = "type")]
    kind: Option<Text<'a>>,
    #[serde(default)]
    output_index: u64,
    #[serde(borrow)]
    item: Option<&'a RawValue>,
    #[serde(borrow)]
    arguments: Option<Text<'a>>,
    response: Option<Ending>,
    #[serde(borrow)]
    code: Option<&'a RawValue>,
    #[serde(borrow)]
    message: Option<Text<'a>>,
}

#[derive(Default, Deserialize)]
struct Ending {
    id: Option<String>,
    model: Option<String>,
    status: Option<String>,
    error: Option<ResponseError>,
    incomplete_details: Option<Incomplete>,
    usage: Option<Counts>,
}

#[derive(Deserialize)]
struct ResponseError {
    code: Option<String>,
    message: Option<String>,
}

#[derive(Deserialize)]
struct Incomplete {
    reason: Option<String>,
}

#[derive(Deserialize)]
struct Counts {
    input_tokens: Option<u64>,
    output_tokens: Option<u64>,
    total_tokens: Option<u64>,
    input_tokens_details: Option<InputDetails>,
    output_tokens_details: Option<OutputDetails>,
}

#[derive(Deserialize)]
struct InputDetails {
    cached_tokens: Option<u64>,
    cache_write_tokens: Option<u64>,
}

#[derive(Deserialize)]
struct OutputDetails {
    reasoning_tokens: Option<u64>,
}

impl Counts {
    fn apply(&self, usage: &mut Usage) {
        let details = self.input_tokens_details.as_ref();
        usage.cache_read = details.and_then(|d| d.cached_tokens).unwrap_or(0);
        usage.cache_write = details.and_then(|d| d.cache_write_tokens).unwrap_or(0);
        usage.input = self.input_tokens.unwrap_or(0).saturating_sub(usage.cache_read).saturating_sub(usage.cache_write);
        usage.output = self.output_tokens.unwrap_or(0);
        usage.reasoning = self.output_tokens_details.as_ref().and_then(|d| d.reasoning_tokens);
        usage.total_tokens = self.total_tokens.unwrap_or(0);
    }
}

#[derive(Deserialize)]
struct OutputItem {
    #[serde(rename = "type")]
    kind: String,
    id: Option<String>,
    call_id: Option<String>,
    name: Option<String>,
    arguments: Option<String>,
    phase: Option<String>,
    content: Option<Vec<ItemPart>>,
    summary: Option<Vec<ItemPart>>,
}

#[derive(Deserialize)]
struct ItemPart {
    #[serde(alias = "refusal")]
    text: Option<String>,
}

fn unusable(error: &serde_json::Error) -> Failed {
    Failed::new(format!("Unusable event in the stream: {error}"))
}

impl Decoder for Stream {
    fn event(&mut self, event: Event<'_>, answer: &mut Answer<'_>) -> Result<Progress, Failed> {
        if event.name == b"response.output_text.delta" {
            self.delta(event.data, answer)?;
            return Ok(Progress::More);
        }
        if event.data.starts_with(b"[DONE]") {
            return Ok(Progress::More);
        }
        let mut repaired = String::new();
        let parsed: AnyEvent<'_> = tolerant_json::parse(event.data, &mut repaired).map_err(|e| unusable(&e))?;
        let kind = parsed.kind.as_ref().map_or("", |k| &*k.0);
        match kind {
            "response.output_text.delta"
            | "response.refusal.delta"
            | "response.reasoning_summary_text.delta"
            | "response.reasoning_text.delta"
            | "response.function_call_arguments.delta" => self.delta(event.data, answer)?,
            "response.reasoning_summary_part.done" => {
                if let Some(open) = self.find(parsed.output_index) {
                    open.paragraph = true;
                }
            }
            "response.function_call_arguments.done" => {
                if let (Some(open), Some(arguments)) = (self.find(parsed.output_index), parsed.arguments) {
                    answer.whole_tool_arguments(open.index, &arguments.0);
                }
            }
            "response.created" => {
                let response = parsed.response.unwrap_or_default();
                answer.message.response_id = response.id;
                answer.message.response_model = response.model.filter(|m| *m != answer.message.model);
            }
            "response.output_item.added" => {
                if let Some(raw) = parsed.item {
                    self.start(parsed.output_index, &item(raw)?, answer);
                }
            }
            "response.output_item.done" => {
                if let Some(raw) = parsed.item {
                    self.finish(parsed.output_index, raw, &item(raw)?, answer);
                }
            }
            "response.completed" | "response.incomplete" | "response.failed" => {
                let response = parsed.response.unwrap_or_default();
                if let Some(counts) = &response.usage {
                    counts.apply(&mut answer.message.usage);
                }
                self.ending = Some(response);
                return Ok(Progress::Done);
            }
            "error" => {
                let code = parsed.code.map_or("unknown", |c| c.get().trim_matches('"'));
                let words = parsed.message.map_or_else(|| quoted(event.data), |m| quoted(m.0.as_bytes()));
                return Err(Failed::new(format!("Error Code {code}: {words}")));
            }
            _ => {}
        }
        Ok(Progress::More)
    }

    fn end(&mut self, answer: &mut Answer<'_>) -> Result<StopReason, Failed> {
        let Some(ending) = self.ending.take() else {
            return Err(Failed::new("Stream ended before a terminal response event"));
        };
        let incomplete = ending.incomplete_details.and_then(|d| d.reason);
        match (ending.status.as_deref(), incomplete) {
            (Some("incomplete"), Some(reason)) if reason == "max_output_tokens" => Ok(StopReason::Length),
            (Some("incomplete"), reason) => {
                Err(Failed::new(format!("Response incomplete: {}", reason.as_deref().unwrap_or("unknown"))))
            }
            (Some("failed" | "cancelled"), _) => {
                let error = ending.error.unwrap_or(ResponseError { code: None, message: None });
                let code = error.code.unwrap_or_else(|| "failed".to_string());
                let words = quoted(error.message.unwrap_or_default().as_bytes());
                Err(Failed::new(format!("{code}: {words}")))
            }
            _ if self.open.iter().any(|open| open.kind == Kind::Tool) => {
                Err(Failed::new("Stream ended without the end of a tool call"))
            }
            _ if answer.message.has_tool_calls() => Ok(StopReason::ToolUse),
            _ => Ok(StopReason::Stop),
        }
    }
}

fn item(raw: &RawValue) -> Result<OutputItem, Failed> {
    serde_json::from_str(raw.get()).map_err(|e| unusable(&e))
}

impl Stream {
    fn find(&mut self, number: u64) -> Option<&mut Open> {
        self.open.iter_mut().rev().find(|open| open.number == number)
    }

    /// The hot path: one piece of text, thought or arguments.
    fn delta(&mut self, data: &[u8], answer: &mut Answer<'_>) -> Result<(), Failed> {
        let mut repaired = String::new();
        let event: DeltaEvent<'_> = tolerant_json::parse(data, &mut repaired).map_err(|e| unusable(&e))?;
        let (Some(open), Some(delta)) = (self.find(event.output_index), event.delta) else { return Ok(()) };
        match open.kind {
            Kind::Text => answer.text(open.index, &delta.0),
            Kind::Thinking => {
                if std::mem::take(&mut open.paragraph) {
                    answer.thinking(open.index, "\n\n");
                }
                answer.thinking(open.index, &delta.0);
            }
            Kind::Tool => answer.tool_arguments(open.index, &delta.0),
        }
        Ok(())
    }

    fn start(&mut self, number: u64, item: &OutputItem, answer: &mut Answer<'_>) {
        let (index, kind) = match item.kind.as_str() {
            "reasoning" => (answer.start_thinking(), Kind::Thinking),
            "message" => (answer.start_text(), Kind::Text),
            "function_call" => {
                let call = item.call_id.as_deref().or(item.id.as_deref()).unwrap_or_default();
                let id = item.id.as_ref().map_or_else(|| call.to_string(), |item| format!("{call}|{item}"));
                let index = answer.start_tool_call(&id, item.name.as_deref().unwrap_or_default());
                answer.tool_arguments(index, item.arguments.as_deref().unwrap_or_default());
                (index, Kind::Tool)
            }
            // Work that the provider does for itself is not part of the answer.
            _ => return,
        };
        self.open.push(Open { number, index, kind, paragraph: false });
    }

    fn finish(&mut self, number: u64, raw: &RawValue, item: &OutputItem, answer: &mut Answer<'_>) {
        if self.find(number).is_none() {
            self.start(number, item, answer);
        }
        let Some(at) = self.open.iter().rposition(|open| open.number == number) else { return };
        let Open { index, kind, .. } = self.open.remove(at);
        let texts = |parts: &Option<Vec<ItemPart>>, between: &str| {
            let texts: Vec<_> = parts.iter().flatten().filter_map(|part| part.text.as_deref()).collect();
            texts.join(between)
        };
        let silent = match answer.message.content.get(index) {
            Some(Block::Text { text, .. }) => text.is_empty(),
            Some(Block::Thinking { thinking, .. }) => thinking.is_empty(),
            _ => false,
        };
        match kind {
            Kind::Text => {
                if silent {
                    answer.text(index, &texts(&item.content, ""));
                }
                let signature =
                    TextSignature { v: 1, id: item.id.clone().unwrap_or_default(), phase: item.phase.clone() };
                answer.sign_text(index, serde_json::to_string(&signature).unwrap_or_default());
                answer.end_text(index);
            }
            Kind::Thinking => {
                if silent {
                    let words = [&item.summary, &item.content].map(|parts| texts(parts, "\n\n"));
                    answer.thinking(index, words.iter().find(|text| !text.is_empty()).map_or("", |text| text));
                }
                if let Some(signature) = answer.thinking_signature(index) {
                    raw.get().clone_into(signature);
                }
                answer.end_thinking(index);
            }
            Kind::Tool => {
                if let Some(arguments) = &item.arguments {
                    answer.whole_tool_arguments(index, arguments);
                }
                answer.end_tool_call(index);
            }
        }
    }
}

#[cfg(test)]
mod tests;
