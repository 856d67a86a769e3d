//! An answer in the making: what streams in goes to the sink and into the message at the same time.

use super::request::{Outcome, Request, RequestError, Sink, StreamEvent};
use super::sendable::resolve_tool_name;
use super::usage;
use crate::clock::now_ms;
use crate::json::tolerant;
use crate::transcript::{AssistantMessage, Block, StopReason, Usage};
use serde_json::Map;
use std::collections::HashSet;
use std::time::Instant;

/// How much text, thinking and arguments one answer may have together, signatures and what else is kept with it included;
/// bytes. No model's output limit allows for so much: an answer that is longer does not end by itself.
const MAX_ANSWER: usize = 16 << 20;
/// What a block counts for before anything is in it; bytes.
const BLOCK_SIZE: usize = 1 << 10;
/// Most answers have one or two blocks, and they are kept for as long as their session: up to here, there is room for as
/// many as there are, and no more.
const FEW_BLOCKS: usize = 8;

/// The answer to one request. Blocks are named by the index that their start returned.
pub struct Answer<'a> {
    pub message: AssistantMessage,
    sink: &'a mut dyn Sink,
    /// How many calls have begun.
    calls: usize,
    /// The ids that the calls have: the parts before a `|`, and with it those behind.
    ids: HashSet<String>,
    /// The arguments' JSON text of the tool calls that have not ended, by index.
    arguments: Vec<(usize, String)>,
    /// The block whose last piece ended in the first half of a character, and that half.
    half: Option<(usize, u16)>,
    /// How much is kept; bytes.
    size: usize,
    /// Something had to be left out.
    is_full: bool,
    /// The thinking block whose signature was given out to be written to, and how long it was then.
    signed: Option<(usize, usize)>,
    begun: Instant,
}

impl<'a> Answer<'a> {
    pub fn new(request: &Request<'_>, sink: &'a mut dyn Sink) -> Answer<'a> {
        let model = request.model;
        Answer {
            message: AssistantMessage {
                content: Vec::new(),
                api: model.api.as_str().to_string(),
                provider: model.provider.clone(),
                model: model.id.clone(),
                response_model: None,
                response_id: None,
                usage: Usage::default(),
                stop_reason: StopReason::Stop,
                error_message: None,
                raw_stop_reason: None,
                thinking_level: Some(request.thinking.as_str().to_string()),
                timestamp: now_ms(),
                duration_ms: None,
            },
            sink,
            calls: 0,
            ids: HashSet::new(),
            arguments: Vec::new(),
            half: None,
            size: 0,
            is_full: false,
            signed: None,
            begun: Instant::now(),
        }
    }

    /// The provider accepted the request.
    pub fn accepted(&mut self) {
        self.sink.event(StreamEvent::Start);
    }

    /// Everything that has arrived was handed over.
    pub fn drained(&mut self) {
        self.sink.drained();
    }

    /// Whether the answer has reached the limit of what is kept of one: nothing more goes in.
    pub fn is_full(&mut self) -> bool {
        self.count_signature();
        self.is_full
    }

    /// Whether nothing has come so far, not even the name of the answer.
    pub fn is_untouched(&self) -> bool {
        self.message.content.is_empty() && self.message.response_id.is_none()
    }

    /// Counts what is kept of the answer, or with it.
    pub fn count(&mut self, bytes: usize) {
        self.size = self.size.saturating_add(bytes);
        self.is_full |= self.size > MAX_ANSWER;
    }

    fn count_signature(&mut self) {
        if let Some((index, before)) = self.signed.take()
            && let Some(Block::Thinking { thinking_signature: Some(signature), .. }) = self.message.content.get(index)
        {
            self.count(signature.len().saturating_sub(before));
        }
    }

    fn push(&mut self, block: Block) -> usize {
        self.count(BLOCK_SIZE);
        if self.message.content.len() < FEW_BLOCKS {
            self.message.content.reserve_exact(1);
        }
        self.message.content.push(block);
        self.message.content.len() - 1
    }

    /// Adds a piece to a block: puts a character together that was cut between two pieces, and leaves out what is beyond the
    /// limit. `push` gets what is not empty.
    fn add(&mut self, index: usize, delta: &str, push: fn(&mut Answer<'a>, usize, &str)) {
        if delta.is_empty() {
            return;
        }
        let (second, mut rest, first) = tolerant::split_halves(delta);
        if let Some((_, half)) = self.half.take().filter(|(at, _)| *at == index)
            && let Some(second) = second
            && let Some(Ok(character)) = char::decode_utf16([half, second]).next()
        {
            self.count(character.len_utf8());
            push(self, index, character.encode_utf8(&mut [0; 4]));
        }
        self.half = first.map(|half| (index, half));
        let room = MAX_ANSWER.saturating_sub(self.size);
        if rest.len() > room {
            rest = &rest[..rest.floor_char_boundary(room)];
            self.is_full = true;
        }
        self.size += rest.len();
        if !rest.is_empty() {
            push(self, index, rest);
        }
    }

    pub fn start_text(&mut self) -> usize {
        let index = self.push(Block::text(""));
        self.sink.event(StreamEvent::TextStart { index });
        index
    }

    pub fn text(&mut self, index: usize, delta: &str) {
        self.add(index, delta, |answer, index, delta| {
            if let Some(Block::Text { text, .. }) = answer.message.content.get_mut(index) {
                text.push_str(delta);
                answer.sink.event(StreamEvent::TextDelta { index, delta });
            }
        });
    }

    /// Keeps what the provider wants to get back with a text block.
    pub fn sign_text(&mut self, index: usize, signature: String) {
        if let Some(Block::Text { text_signature, .. }) = self.message.content.get_mut(index) {
            let before = text_signature.replace(signature).map_or(0, |signature| signature.len());
            let length = text_signature.as_ref().map_or(0, String::len);
            self.count(length.saturating_sub(before));
        }
    }

    pub fn end_text(&mut self, index: usize) {
        if let Some(Block::Text { text, .. }) = self.message.content.get_mut(index) {
            text.shrink_to_fit();
        }
        self.sink.event(StreamEvent::TextEnd { index });
    }

    pub fn start_thinking(&mut self) -> usize {
        let block = Block::Thinking { thinking: String::new(), thinking_signature: None, redacted: false };
        let index = self.push(block);
        self.sink.event(StreamEvent::ThinkingStart { index });
        index
    }

    pub fn thinking(&mut self, index: usize, delta: &str) {
        self.add(index, delta, |answer, index, delta| {
            if let Some(Block::Thinking { thinking, .. }) = answer.message.content.get_mut(index) {
                thinking.push_str(delta);
                answer.sink.event(StreamEvent::ThinkingDelta { index, delta });
            }
        });
    }

    pub fn end_thinking(&mut self, index: usize) {
        if let Some(Block::Thinking { thinking, .. }) = self.message.content.get_mut(index) {
            thinking.shrink_to_fit();
        }
        self.sink.event(StreamEvent::ThinkingEnd { index });
    }

    /// The signature of a thinking block, for the provider code to write to.
    pub fn thinking_signature(&mut self, index: usize) -> Option<&mut String> {
        self.count_signature();
        match self.message.content.get_mut(index) {
            Some(Block::Thinking { thinking_signature, .. }) => {
                let signature = thinking_signature.get_or_insert_default();
                self.signed = Some((index, signature.len()));
                Some(signature)
            }
            _ => None,
        }
    }

    /// A whole block of thoughts that the provider keeps to itself.
    pub fn redacted_thinking(&mut self, data: &str) {
        self.count(data.len());
        let index = self.push(Block::Thinking {
            thinking: "[Reasoning redacted]".to_string(),
            thinking_signature: Some(data.to_string()),
            redacted: true,
        });
        self.sink.event(StreamEvent::ThinkingStart { index });
        self.sink.event(StreamEvent::ThinkingEnd { index });
    }

    /// Begins a call. Every call of a message gets an id of its own, because calls and results belong together by it.
    pub fn start_tool_call(&mut self, id: &str, name: &str) -> usize {
        let id = self.unique_id(id);
        self.count(id.len() + name.len());
        let index = self.push(Block::ToolCall {
            id: id.clone(),
            name: name.to_string(),
            arguments: Map::new(),
            thought_signature: None,
            arguments_error: None,
        });
        self.arguments.push((index, String::new()));
        self.sink.event(StreamEvent::ToolCallStart { index, id: &id, name });
        index
    }

    /// The id of a call, or another one if it is empty or was used in this message before. What stands behind a `|` names
    /// the provider's item: results do not need it, but no two calls may name the same one.
    fn unique_id(&mut self, id: &str) -> String {
        let (call, item) = id.split_at(id.find('|').unwrap_or(id.len()));
        self.calls += 1;
        let base = match call.trim() {
            // The time makes it differ from those of other answers.
            "" => format!("call_{:x}_{}", self.message.timestamp, self.message.content.len()),
            _ => call.to_string(),
        };
        let (mut unique, mut number) = (base.clone(), self.calls);
        while self.ids.contains(&unique) {
            unique = format!("{base}_{number}");
            number += 1;
        }
        self.ids.insert(unique.clone());
        if item.len() > 1 && self.ids.insert(item.to_string()) {
            unique.push_str(item);
        }
        unique
    }

    pub fn tool_arguments(&mut self, index: usize, delta: &str) {
        self.add(index, delta, |answer, index, delta| {
            if let Some((_, text)) = answer.arguments.iter_mut().rev().find(|(at, _)| *at == index) {
                text.push_str(delta);
                answer.sink.event(StreamEvent::ToolCallDelta { index, delta });
            }
        });
    }

    /// The arguments of a call, as far as they have arrived, up to its end.
    pub fn tool_arguments_so_far(&self, index: usize) -> &str {
        self.arguments.iter().find(|(at, _)| *at == index).map_or("", |(_, text)| text)
    }

    /// Whether some of a call's arguments have arrived.
    pub fn has_tool_arguments(&self, index: usize) -> bool {
        self.arguments.iter().any(|(at, text)| *at == index && !text.is_empty())
    }

    /// The whole arguments of a call, for providers that send them again at its end. What has streamed in before is
    /// replaced; if nothing has, this is it.
    pub fn whole_tool_arguments(&mut self, index: usize, whole: &str) {
        match self.arguments.iter_mut().find(|(at, text)| *at == index && !text.is_empty()) {
            Some((_, text)) => {
                let more = whole.len().saturating_sub(text.len());
                whole.clone_into(text);
                self.count(more);
            }
            None => self.tool_arguments(index, whole),
        }
    }

    /// Keeps what the provider wants to get back with a tool call.
    pub fn sign_tool_call(&mut self, index: usize, signature: String) {
        if let Some(Block::ToolCall { thought_signature, .. }) = self.message.content.get_mut(index) {
            let length = signature.len();
            *thought_signature = Some(signature);
            self.count(length);
        }
    }

    pub fn end_tool_call(&mut self, index: usize) {
        self.parse_arguments(index);
        self.sink.event(StreamEvent::ToolCallEnd { index });
    }

    fn parse_arguments(&mut self, index: usize) {
        let Some(at) = self.arguments.iter().position(|(known, _)| *known == index) else { return };
        let (_, text) = self.arguments.swap_remove(at);
        if let Some(Block::ToolCall { arguments, arguments_error, .. }) = self.message.content.get_mut(index) {
            match tolerant::arguments(&text) {
                Ok(map) => *arguments = map,
                Err(reason) => *arguments_error = Some(reason),
            }
        }
    }

    /// The end: prices the request, turns a failure into the message's, and puts the offered tools' names in place of other
    /// forms of them.
    pub fn finish(mut self, request: &Request<'_>, result: Result<StopReason, RequestError>) -> Outcome {
        for index in 0..self.message.content.len() {
            self.parse_arguments(index);
        }
        let mut message = self.message;
        let offered = request.tools.iter().map(|tool| tool.name.as_str());
        for block in &mut message.content {
            if let Block::ToolCall { name, .. } = block
                && let Some(meant) = resolve_tool_name(name, offered.clone())
                && meant != name
            {
                *name = meant.to_string();
            }
        }
        usage::price(request.model, &mut message.usage);
        message.duration_ms = Some(u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX));
        let failure = match result {
            Ok(reason) => {
                message.stop_reason = reason;
                None
            }
            Err(failed) => {
                message.stop_reason = if failed.aborted { StopReason::Aborted } else { StopReason::Error };
                message.error_message = Some(failed.text);
                Some(failed.facts)
            }
        };
        Outcome { message, failure }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::test_support::{Recorder, test_model, test_request};
    use crate::transcript::ToolSpec;

    #[test]
    fn calls_are_put_right_when_they_arrive() {
        let tools = ["bash", "read"].map(|name| ToolSpec {
            name: name.to_string(),
            description: String::new(),
            parameters: serde_json::json!({}).into(),
        });
        let model = test_model();
        let request = Request { tools: &tools.each_ref(), ..test_request(&model, &[]) };
        let mut recorder = Recorder::default();
        let mut answer = Answer::new(&request, &mut recorder);
        for (id, name) in [
            ("a", "functions.bash"),
            ("a", "Bash"),
            ("c|fc_1", "x y"),
            ("c|fc_1", "bash"),
            ("a_6", "bash"),
            ("a", "bash"),
            ("", "bash"),
            (" |fc_3", "bash"),
        ] {
            let index = answer.start_tool_call(id, name);
            answer.end_tool_call(index);
        }
        let message = answer.finish(&request, Ok(StopReason::ToolUse)).message;
        let calls: Vec<(&str, &str)> = message
            .content
            .iter()
            .filter_map(|block| match block {
                Block::ToolCall { id, name, .. } => Some((id.as_str(), name.as_str())),
                Block::Text { .. } | Block::Thinking { .. } | Block::Image { .. } => None,
            })
            .collect();
        let expected =
            [("a", "bash"), ("a_2", "bash"), ("c|fc_1", "x y"), ("c_4", "bash"), ("a_6", "bash"), ("a_7", "bash")];
        assert_eq!(calls[..6], expected);
        assert!(calls[6].0.starts_with("call_") && calls[7].0.starts_with("call_") && calls[7].0.ends_with("|fc_3"));
        assert_ne!(calls[6].0, calls[7].0);
    }
}
