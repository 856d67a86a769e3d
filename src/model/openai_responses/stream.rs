//! The events of an answer.

use super::TextSignature;
use crate::model::answer::{Answer, Failed};
use crate::model::protocol::{Decoder, Progress, Text, quoted};
use crate::model::sse::Event;
use crate::tolerant_json;
use crate::transcript::{Block, StopReason, Usage};
use serde::Deserialize;
use serde_json::value::RawValue;

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

    fn is_finished(&self) -> bool {
        self.ending.is_some()
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
