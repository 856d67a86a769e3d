//! The events of an answer.

use crate::model::answer::{Answer, Failed};
use crate::model::compat::Compat;
use crate::model::openai_messages::REASONING_FIELDS;
use crate::model::protocol::{Decoder, Progress, Text, provider_error};
use crate::model::sse::Event;
use crate::tolerant_json;
use crate::transcript::{Block, StopReason, Usage};
use serde::de::{IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use serde_json::value::RawValue;
use std::fmt;
use std::marker::PhantomData;

/// Understands the answer's events.
pub struct Stream {
    /// The server says why it stopped.
    says_why: bool,
    text: Option<usize>,
    thinking: Option<usize>,
    details: Vec<Value>,
    tools: Vec<Call>,
    identified: bool,
    finish: Option<String>,
    done: bool,
}

/// A tool call in progress.
#[derive(Default)]
struct Call {
    /// The server's number for it.
    number: Option<u64>,
    id: String,
    name: String,
    /// Arguments that came before the name or the id.
    waiting: String,
    /// The answer's block, once name and id are known.
    block: Option<usize>,
}

#[derive(Deserialize)]
struct Chunk<'a> {
    #[serde(borrow)]
    id: Option<Text<'a>>,
    #[serde(borrow)]
    model: Option<Text<'a>>,
    #[serde(borrow, default)]
    choices: First<Choice<'a>>,
    usage: Option<Box<Counts>>,
    #[serde(borrow)]
    error: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Choice<'a> {
    #[serde(borrow)]
    delta: Option<Delta<'a>>,
    #[serde(borrow)]
    finish_reason: Option<Text<'a>>,
    usage: Option<Box<Counts>>,
}

#[derive(Deserialize)]
struct Delta<'a> {
    #[serde(borrow)]
    content: Option<Text<'a>>,
    #[serde(borrow)]
    reasoning_content: Option<Text<'a>>,
    #[serde(borrow)]
    reasoning: Option<Text<'a>>,
    #[serde(borrow)]
    reasoning_text: Option<Text<'a>>,
    reasoning_details: Option<Vec<Value>>,
    #[serde(borrow)]
    refusal: Option<Text<'a>>,
    #[serde(borrow)]
    tool_calls: Option<Vec<CallDelta<'a>>>,
}

#[derive(Deserialize)]
struct CallDelta<'a> {
    index: Option<u64>,
    #[serde(borrow)]
    id: Option<Text<'a>>,
    #[serde(borrow)]
    function: Option<FunctionDelta<'a>>,
}

#[derive(Deserialize)]
struct FunctionDelta<'a> {
    #[serde(borrow)]
    name: Option<Text<'a>>,
    #[serde(borrow)]
    arguments: Option<Text<'a>>,
}

#[derive(Deserialize)]
struct Counts {
    #[serde(default)]
    prompt_tokens: Option<u64>,
    completion_tokens: Option<u64>,
    prompt_tokens_details: Option<PromptDetails>,
    completion_tokens_details: Option<CompletionDetails>,
    prompt_cache_hit_tokens: Option<u64>,
    cached_tokens: Option<u64>,
    /// OpenRouter names the price itself; US dollars.
    cost: Option<f64>,
    is_byok: Option<bool>,
}

#[derive(Deserialize)]
struct PromptDetails {
    cached_tokens: Option<u64>,
    cache_write_tokens: Option<u64>,
}

#[derive(Deserialize)]
struct CompletionDetails {
    reasoning_tokens: Option<u64>,
}

impl Counts {
    fn apply(&self, usage: &mut Usage) {
        let details = self.prompt_tokens_details.as_ref();
        let cached = details.and_then(|d| d.cached_tokens).or(self.prompt_cache_hit_tokens).or(self.cached_tokens);
        usage.cache_read = cached.unwrap_or(0);
        usage.cache_write = details.and_then(|d| d.cache_write_tokens).unwrap_or(0);
        usage.input =
            self.prompt_tokens.unwrap_or(0).saturating_sub(usage.cache_read).saturating_sub(usage.cache_write);
        usage.output = self.completion_tokens.unwrap_or(0);
        usage.reasoning = self.completion_tokens_details.as_ref().and_then(|d| d.reasoning_tokens);
        if let Some(cost) = self.cost.filter(|_| self.is_byok != Some(true)) {
            usage.cost.total = cost;
            usage.cost.total_from_provider = true;
        }
    }
}

/// The first element of a list that has at most one that matters: reading it allocates nothing.
struct First<T>(Option<T>);

impl<T> Default for First<T> {
    fn default() -> First<T> {
        First(None)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for First<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<First<T>, D::Error> {
        struct List<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for List<T> {
            type Value = First<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list")
            }

            fn visit_unit<E>(self) -> Result<First<T>, E> {
                Ok(First(None))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<First<T>, A::Error> {
                let first = list.next_element()?;
                while list.next_element::<IgnoredAny>()?.is_some() {}
                Ok(First(first))
            }
        }
        deserializer.deserialize_any(List(PhantomData))
    }
}

impl Stream {
    pub fn new(compat: &Compat) -> Stream {
        Stream {
            says_why: compat.finish_reason,
            text: None,
            thinking: None,
            details: Vec::new(),
            tools: Vec::new(),
            identified: false,
            finish: None,
            done: false,
        }
    }
}

impl Decoder for Stream {
    fn event(&mut self, event: Event<'_>, answer: &mut Answer<'_>) -> Result<Progress, Failed> {
        if event.data.starts_with(b"[DONE]") {
            self.done = true;
            return Ok(Progress::Done);
        }
        let mut repaired = String::new();
        let chunk: Chunk<'_> = tolerant_json::parse(event.data, &mut repaired)
            .map_err(|e| Failed::new(format!("Unusable event in the stream: {e}")))?;
        if let Some(error) = chunk.error.filter(|e| e.get() != "null") {
            return Err(provider_error(error.get()));
        }
        if !self.identified {
            self.identified = true;
            answer.message.response_id = chunk.id.map(|id| id.0.into_owned()).filter(|id| !id.is_empty());
            let model = chunk.model.map(|m| m.0.into_owned());
            answer.message.response_model = model.filter(|m| !m.is_empty() && *m != answer.message.model);
        }
        if let Some(counts) = chunk.usage {
            counts.apply(&mut answer.message.usage);
        }
        let Some(choice) = chunk.choices.0 else { return Ok(Progress::More) };
        if let Some(counts) = choice.usage {
            counts.apply(&mut answer.message.usage);
        }
        if let Some(delta) = choice.delta {
            self.delta(delta, answer);
        }
        if let Some(reason) = choice.finish_reason.filter(|r| !r.0.is_empty()) {
            self.finish = Some(reason.0.into_owned());
        }
        Ok(Progress::More)
    }

    fn is_finished(&self) -> bool {
        self.finish.is_some()
    }

    fn end(&mut self, answer: &mut Answer<'_>) -> Result<StopReason, Failed> {
        let stopped = match self.finish.as_deref() {
            Some("stop" | "end" | "tool_calls" | "function_call") => Ok(()),
            Some("length") => Err(StopReason::Length),
            Some(other) => return Err(Failed::new(format!("Provider finish_reason: {other}"))),
            None if self.says_why || !self.done && answer.message.content.is_empty() => {
                return Err(Failed::new("Stream ended without finish_reason"));
            }
            None => Ok(()),
        };
        self.close(answer);
        // Some servers say "stop" after tool calls too.
        Ok(match stopped {
            Err(length) => length,
            Ok(()) if answer.message.has_tool_calls() => StopReason::ToolUse,
            Ok(()) => StopReason::Stop,
        })
    }
}

impl Stream {
    fn delta(&mut self, delta: Delta<'_>, answer: &mut Answer<'_>) {
        // Servers that send thoughts under two names send the same ones.
        let fields = [delta.reasoning_content, delta.reasoning, delta.reasoning_text];
        let thought = fields
            .iter()
            .zip(REASONING_FIELDS)
            .find_map(|(text, field)| text.as_ref().filter(|t| !t.0.is_empty()).map(|t| (&*t.0, field)));
        if let Some((text, field)) = thought {
            let index = *self.thinking.get_or_insert_with(|| {
                let index = answer.start_thinking();
                if let Some(signature) = answer.thinking_signature(index) {
                    signature.push_str(field);
                }
                index
            });
            answer.thinking(index, text);
        }
        for detail in delta.reasoning_details.into_iter().flatten() {
            collect_detail(&mut self.details, detail);
        }
        for text in [delta.content, delta.refusal].into_iter().flatten().filter(|t| !t.0.is_empty()) {
            let index = *self.text.get_or_insert_with(|| answer.start_text());
            answer.text(index, &text.0);
        }
        for call in delta.tool_calls.into_iter().flatten() {
            self.call(&call, answer);
        }
    }

    fn call(&mut self, delta: &CallDelta<'_>, answer: &mut Answer<'_>) {
        let id = delta.id.as_ref().map_or("", |t| &*t.0);
        let name = delta.function.as_ref().and_then(|f| f.name.as_ref()).map_or("", |t| &*t.0);
        let arguments = delta.function.as_ref().and_then(|f| f.arguments.as_ref()).map_or("", |t| &*t.0);
        let known = match delta.index {
            Some(number) => self.tools.iter().rposition(|call| call.number == Some(number)),
            None if id.is_empty() => self.tools.len().checked_sub(1),
            None => self.tools.iter().position(|call| call.id == id),
        };
        // Servers exist that number every call 0: another name under another id is another call.
        let another = |call: &Call| !name.is_empty() && !id.is_empty() && !call.id.is_empty() && call.id != id;
        let at = known.filter(|at| !another(&self.tools[*at])).unwrap_or_else(|| {
            self.tools.push(Call { number: delta.index, ..Call::default() });
            self.tools.len() - 1
        });
        let call = &mut self.tools[at];
        if call.id.is_empty() {
            call.id = id.to_string();
        }
        if call.name.is_empty() {
            call.name = name.to_string();
        }
        if call.block.is_none() && !call.id.is_empty() && !call.name.is_empty() {
            let block = answer.start_tool_call(&call.id, &call.name);
            answer.tool_arguments(block, &std::mem::take(&mut call.waiting));
            call.block = Some(block);
        }
        match call.block {
            Some(block) => answer.tool_arguments(block, arguments),
            None => call.waiting.push_str(arguments),
        }
    }

    /// Ends all blocks, which this API leaves open up to the end.
    fn close(&mut self, answer: &mut Answer<'_>) {
        if !self.details.is_empty() {
            let index = *self.thinking.get_or_insert_with(|| answer.start_thinking());
            if let Some(signature) = answer.thinking_signature(index) {
                *signature = Value::Array(std::mem::take(&mut self.details)).to_string();
            }
        }
        for (at, call) in self.tools.iter_mut().enumerate() {
            if call.block.is_none() {
                if call.id.is_empty() {
                    call.id = format!("call_{:x}_{at}", answer.message.timestamp);
                }
                let block = answer.start_tool_call(&call.id, &call.name);
                answer.tool_arguments(block, &call.waiting);
                call.block = Some(block);
            }
        }
        for index in 0..answer.message.content.len() {
            match answer.message.content[index] {
                Block::Text { .. } => answer.end_text(index),
                Block::Thinking { .. } => answer.end_thinking(index),
                Block::ToolCall { .. } => answer.end_tool_call(index),
                Block::Image { .. } => {}
            }
        }
    }
}

/// Adds a piece of OpenRouter's reasoning details: text and summaries go on where the last piece of their kind stopped.
fn collect_detail(details: &mut Vec<Value>, detail: Value) {
    let same = |last: &Value| ["type", "index", "format"].iter().all(|key| last.get(key) == detail.get(key));
    let Some(last) = details.last_mut().filter(|last| same(last)) else { return details.push(detail) };
    let grows = ["text", "summary"].into_iter().find(|key| detail.get(key).is_some_and(Value::is_string));
    let (Some(key), Value::Object(last), Value::Object(piece)) = (grows, &mut *last, &detail) else {
        return details.push(detail);
    };
    for (name, value) in piece {
        match (last.get_mut(name), value) {
            (Some(Value::String(text)), Value::String(more)) if name == key => text.push_str(more),
            (_, Value::Null) => {}
            _ => {
                last.insert(name.clone(), value.clone());
            }
        }
    }
}
