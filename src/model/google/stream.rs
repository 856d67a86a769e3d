//! The events of an answer. Each is a piece of a response; there is no event that says "that was all".

use crate::model::answer::{Answer, Failed};
use crate::model::protocol::{Decoder, Progress, Text, provider_error};
use crate::model::sse::Event;
use crate::tolerant_json;
use crate::transcript::{Block, StopReason, Usage};
use serde::Deserialize;
use serde_json::value::RawValue;

/// Understands the answer's events.
#[derive(Default)]
pub struct Stream {
    /// The block that text goes into, and whether it is one of thoughts.
    open: Option<(usize, bool)>,
    finish: Option<String>,
    calls: usize,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Chunk<'a> {
    #[serde(borrow, default)]
    candidates: Vec<Candidate<'a>>,
    usage_metadata: Option<Counts>,
    response_id: Option<String>,
    model_version: Option<String>,
    prompt_feedback: Option<Feedback>,
    #[serde(borrow)]
    error: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Candidate<'a> {
    #[serde(borrow)]
    content: Option<Parts<'a>>,
    finish_reason: Option<String>,
}

#[derive(Deserialize)]
struct Parts<'a> {
    #[serde(borrow, default)]
    parts: Vec<Part<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Part<'a> {
    #[serde(borrow)]
    text: Option<Text<'a>>,
    #[serde(default)]
    thought: bool,
    thought_signature: Option<String>,
    #[serde(borrow)]
    function_call: Option<FunctionCall<'a>>,
}

#[derive(Deserialize)]
struct FunctionCall<'a> {
    id: Option<String>,
    name: String,
    #[serde(borrow)]
    args: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Feedback {
    block_reason: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Counts {
    #[serde(default)]
    prompt_token_count: u64,
    #[serde(default)]
    candidates_token_count: u64,
    #[serde(default)]
    thoughts_token_count: u64,
    #[serde(default)]
    cached_content_token_count: u64,
    #[serde(default)]
    total_token_count: u64,
}

impl Counts {
    fn apply(&self, usage: &mut Usage) {
        usage.cache_read = self.cached_content_token_count;
        usage.input = self.prompt_token_count.saturating_sub(usage.cache_read);
        usage.output = self.candidates_token_count.saturating_add(self.thoughts_token_count);
        usage.reasoning = (self.thoughts_token_count > 0).then_some(self.thoughts_token_count);
        usage.total_tokens = self.total_token_count;
    }
}

impl Decoder for Stream {
    fn event(&mut self, event: Event<'_>, answer: &mut Answer<'_>) -> Result<Progress, Failed> {
        let mut repaired = String::new();
        let chunk: Chunk<'_> = tolerant_json::parse(event.data, &mut repaired)
            .map_err(|e| Failed::new(format!("Unusable event in the stream: {e}")))?;
        if let Some(error) = chunk.error {
            return Err(provider_error(error.get()));
        }
        if answer.message.response_id.is_none() {
            answer.message.response_id = chunk.response_id;
            answer.message.response_model = chunk.model_version.filter(|m| *m != answer.message.model);
        }
        if let Some(reason) = chunk.prompt_feedback.and_then(|f| f.block_reason) {
            self.finish = Some(reason);
        }
        let counted = chunk.usage_metadata.is_some();
        if let Some(counts) = chunk.usage_metadata {
            counts.apply(&mut answer.message.usage);
        }
        let Some(candidate) = chunk.candidates.into_iter().next() else { return Ok(Progress::More) };
        for part in candidate.content.into_iter().flat_map(|content| content.parts) {
            self.part(part, answer);
        }
        if let Some(reason) = candidate.finish_reason {
            self.finish = Some(reason);
        }
        // With the reason and the count, everything is there: waiting for the end of the body would gain nothing.
        Ok(if self.finish.is_some() && counted { Progress::Done } else { Progress::More })
    }

    fn end(&mut self, answer: &mut Answer<'_>) -> Result<StopReason, Failed> {
        self.close(answer);
        match self.finish.as_deref() {
            Some("STOP") if answer.message.has_tool_calls() => Ok(StopReason::ToolUse),
            Some("STOP") => Ok(StopReason::Stop),
            Some("MAX_TOKENS") => Ok(StopReason::Length),
            Some(other) => Err(Failed::new(format!("Provider stopped with: {other}"))),
            None => Err(Failed::new("Stream ended without a finish reason")),
        }
    }
}

impl Stream {
    fn part(&mut self, part: Part<'_>, answer: &mut Answer<'_>) {
        if let Some(call) = part.function_call {
            self.close(answer);
            return self.call(call, part.thought_signature, answer);
        }
        let Some(text) = part.text else { return };
        let index = match self.open {
            Some((index, thought)) if thought == part.thought => index,
            _ => {
                self.close(answer);
                let index = if part.thought { answer.start_thinking() } else { answer.start_text() };
                self.open = Some((index, part.thought));
                index
            }
        };
        if part.thought {
            answer.thinking(index, &text.0);
        } else {
            answer.text(index, &text.0);
        }
        let Some(signature) = part.thought_signature.filter(|s| !s.is_empty()) else { return };
        match answer.thinking_signature(index) {
            Some(kept) => *kept = signature,
            None => answer.sign_text(index, signature),
        }
    }

    /// Calls arrive whole.
    fn call(&mut self, call: FunctionCall<'_>, signature: Option<String>, answer: &mut Answer<'_>) {
        self.calls += 1;
        let taken = |id: &String| {
            answer.message.content.iter().any(|block| matches!(block, Block::ToolCall { id: known, .. } if known == id))
        };
        let id = call
            .id
            .filter(|id| !id.is_empty() && !taken(id))
            .unwrap_or_else(|| format!("{}_{}_{}", call.name, answer.message.timestamp, self.calls));
        let index = answer.start_tool_call(&id, &call.name);
        answer.tool_arguments(index, call.args.map_or("{}", RawValue::get));
        if let Some(signature) = signature {
            answer.sign_tool_call(index, signature);
        }
        answer.end_tool_call(index);
    }

    fn close(&mut self, answer: &mut Answer<'_>) {
        match self.open.take() {
            Some((index, true)) => answer.end_thinking(index),
            Some((index, false)) => answer.end_text(index),
            None => {}
        }
    }
}
