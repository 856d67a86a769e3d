//! An answer in the making: what streams in goes to the sink and into the message at the same time.

use super::{Failure, Outcome, Request, Sink, StreamEvent, usage};
use crate::tolerant_json;
use crate::transcript::{AssistantMessage, Block, StopReason, Usage, now_ms};
use serde_json::Map;
use std::time::Instant;

/// What a cancelled request says.
pub const ABORTED: &str = "Request was aborted";

/// Why a request failed.
#[derive(Debug, Default)]
pub struct Failed {
    /// For the message: with status and body, as far as they are known, and without secrets.
    pub text: String,
    pub facts: Failure,
    pub aborted: bool,
}

impl Failed {
    pub fn new(text: impl Into<String>) -> Failed {
        Failed { text: text.into(), ..Failed::default() }
    }

    /// The connection did not come about, or was lost before the answer's end.
    pub fn lost(text: impl Into<String>) -> Failed {
        Failed { facts: Failure { lost: true, ..Failure::default() }, ..Failed::new(text) }
    }

    pub fn aborted() -> Failed {
        Failed { aborted: true, ..Failed::new(ABORTED) }
    }
}

/// The answer to one request. Blocks are named by the index that their start returned.
pub struct Answer<'a> {
    pub message: AssistantMessage,
    sink: &'a mut dyn Sink,
    /// The arguments' JSON text of the tool calls that have not ended, by index.
    arguments: Vec<(usize, String)>,
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
                thinking_level: Some(request.thinking.as_str().to_string()),
                timestamp: now_ms(),
                duration_ms: None,
            },
            sink,
            arguments: Vec::new(),
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

    fn push(&mut self, block: Block) -> usize {
        // Most answers have one or two blocks, and they are kept for as long as their session.
        self.message.content.reserve_exact(1);
        self.message.content.push(block);
        self.message.content.len() - 1
    }

    pub fn start_text(&mut self) -> usize {
        let index = self.push(Block::text(""));
        self.sink.event(StreamEvent::TextStart { index });
        index
    }

    pub fn text(&mut self, index: usize, delta: &str) {
        if let Some(Block::Text { text, .. }) = self.message.content.get_mut(index)
            && !delta.is_empty()
        {
            text.push_str(delta);
            self.sink.event(StreamEvent::TextDelta { index, delta });
        }
    }

    /// Keeps what the provider wants to get back with a text block.
    pub fn sign_text(&mut self, index: usize, signature: String) {
        if let Some(Block::Text { text_signature, .. }) = self.message.content.get_mut(index) {
            *text_signature = Some(signature);
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
        if let Some(Block::Thinking { thinking, .. }) = self.message.content.get_mut(index)
            && !delta.is_empty()
        {
            thinking.push_str(delta);
            self.sink.event(StreamEvent::ThinkingDelta { index, delta });
        }
    }

    pub fn end_thinking(&mut self, index: usize) {
        if let Some(Block::Thinking { thinking, .. }) = self.message.content.get_mut(index) {
            thinking.shrink_to_fit();
        }
        self.sink.event(StreamEvent::ThinkingEnd { index });
    }

    /// The signature of a thinking block, for the provider code to write to.
    pub fn thinking_signature(&mut self, index: usize) -> Option<&mut String> {
        match self.message.content.get_mut(index) {
            Some(Block::Thinking { thinking_signature, .. }) => Some(thinking_signature.get_or_insert_default()),
            _ => None,
        }
    }

    /// A whole block of thoughts that the provider keeps to itself.
    pub fn redacted_thinking(&mut self, data: &str) {
        let index = self.push(Block::Thinking {
            thinking: "[Reasoning redacted]".to_string(),
            thinking_signature: Some(data.to_string()),
            redacted: true,
        });
        self.sink.event(StreamEvent::ThinkingStart { index });
        self.sink.event(StreamEvent::ThinkingEnd { index });
    }

    pub fn start_tool_call(&mut self, id: &str, name: &str) -> usize {
        let index = self.push(Block::ToolCall {
            id: id.to_string(),
            name: name.to_string(),
            arguments: Map::new(),
            thought_signature: None,
            arguments_error: None,
        });
        self.arguments.push((index, String::new()));
        self.sink.event(StreamEvent::ToolCallStart { index, id, name });
        index
    }

    pub fn tool_arguments(&mut self, index: usize, delta: &str) {
        if let Some((_, text)) = self.arguments.iter_mut().find(|(at, _)| *at == index)
            && !delta.is_empty()
        {
            text.push_str(delta);
            self.sink.event(StreamEvent::ToolCallDelta { index, delta });
        }
    }

    /// Whether some of a call's arguments have arrived.
    pub fn has_tool_arguments(&self, index: usize) -> bool {
        self.arguments.iter().any(|(at, text)| *at == index && !text.is_empty())
    }

    /// The whole arguments of a call, for providers that send them again at its end. What has streamed in before is
    /// replaced; if nothing has, this is it.
    pub fn whole_tool_arguments(&mut self, index: usize, whole: &str) {
        match self.arguments.iter_mut().find(|(at, text)| *at == index && !text.is_empty()) {
            Some((_, text)) => whole.clone_into(text),
            None => self.tool_arguments(index, whole),
        }
    }

    /// Keeps what the provider wants to get back with a tool call.
    pub fn sign_tool_call(&mut self, index: usize, signature: String) {
        if let Some(Block::ToolCall { thought_signature, .. }) = self.message.content.get_mut(index) {
            *thought_signature = Some(signature);
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
            match tolerant_json::arguments(&text) {
                Ok(map) => *arguments = map,
                Err(reason) => *arguments_error = Some(reason),
            }
        }
    }

    /// The end: prices the request, and turns a failure into the message's.
    pub fn finish(mut self, request: &Request<'_>, result: Result<StopReason, Failed>) -> Outcome {
        for index in 0..self.message.content.len() {
            self.parse_arguments(index);
        }
        let mut message = self.message;
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
