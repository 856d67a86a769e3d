//! The events of an answer.

use crate::model::answer::{Answer, Failed};
use crate::model::protocol::{Decoder, Progress, Text, quoted};
use crate::model::sse::Event;
use crate::tolerant_json;
use crate::transcript::{StopReason, Usage};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

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
                if let Some(input) = input.filter(|_| !answer.has_tool_arguments(open.index)) {
                    answer.tool_arguments(open.index, &input);
                }
                answer.end_tool_call(open.index);
            }
        }
    }
}
