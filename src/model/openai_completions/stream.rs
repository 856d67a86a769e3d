//! The events of an answer.

mod calls;
mod details;
mod event;

use crate::json::tolerant;
use crate::model::answer::Answer;
use crate::model::compat::Compat;
use crate::model::lenient::Text;
use crate::model::openai_fields::REASONING_FIELDS;
use crate::model::openai_usage::{KnownUsage, ReportedUsage};
use crate::model::protocol::{DONE, Decoder, Progress, stopped, stopped_by};
use crate::model::request::{Failure, RequestError};
use crate::model::sse::Event;
use crate::model::stated_error::{self, is_error, provider_error, unusable};
use crate::transcript::{Block, StopReason};
use calls::Calls;
use details::Details;
use event::{CallDelta, Choice, Chunk, Delta};
use serde_json::Value;
use std::borrow::Cow;

/// Understands the answer's events.
pub(super) struct CompletionsDecoder {
    /// The server says why it stopped.
    says_why: bool,
    text: Option<usize>,
    thinking: Option<usize>,
    details: Details,
    calls: Calls,
    identified: bool,
    counts: KnownUsage,
    /// Something came in pieces, so that a whole message is a repetition.
    in_pieces: bool,
    /// The content is a thought up to its closing tag.
    in_thought: bool,
    /// What goes back with the message.
    extra: Option<String>,
    finish: Option<String>,
    /// The server said that nothing will follow.
    done: bool,
}

impl CompletionsDecoder {
    pub(super) fn new(compat: &Compat) -> CompletionsDecoder {
        CompletionsDecoder {
            says_why: compat.finish_reason,
            text: None,
            thinking: None,
            details: Details::default(),
            calls: Calls::default(),
            identified: false,
            counts: KnownUsage::default(),
            in_pieces: false,
            in_thought: false,
            extra: None,
            finish: None,
            done: false,
        }
    }
}

impl Decoder for CompletionsDecoder {
    fn event(&mut self, event: Event<'_>, answer: &mut Answer<'_>) -> Result<Progress, RequestError> {
        if event.data == DONE {
            self.done = true;
            return Ok(Progress::Done);
        }
        let mut repaired = String::new();
        let chunk: Chunk<'_> = tolerant::parse(event.data, &mut repaired).map_err(|e| unusable(&e))?;
        if let Some(error) = chunk.error.filter(|error| is_error(Some(error))) {
            return Err(provider_error(error.get()));
        }
        if !self.identified {
            self.identify(chunk.id, chunk.model, answer);
        }
        let groq = chunk.x_groq.0.map(|groq| groq.usage);
        let counted = chunk.usage.0.or(groq.and_then(|usage| usage.0));
        let is_counted = counted.is_some();
        self.count(counted, answer);
        let Some(choice) = chunk.choices.first else {
            // Such a chunk says something of the request, like the first one of Azure, or is an error.
            if !is_counted {
                stated_error::check(event.data)?;
            }
            return Ok(Progress::More);
        };
        let is_chunk = chunk.object.as_str() == "chat.completion.chunk";
        self.choice(choice, is_chunk, answer)?;
        for choice in chunk.choices.others {
            self.choice(choice, is_chunk, answer)?;
        }
        Ok(Progress::More)
    }

    fn is_finished(&self) -> bool {
        self.finish.is_some()
    }

    fn cut(&mut self, answer: &mut Answer<'_>) {
        self.close(answer);
    }

    fn end(&mut self, answer: &mut Answer<'_>) -> Result<StopReason, RequestError> {
        let finish = self.finish.take();
        let ending = finish.as_deref().map(Ending::of);
        match (&ending, &finish) {
            (Some(Ending::Failure { status }), Some(reason)) => {
                return Err(RequestError {
                    facts: Failure { status: *status, ..Failure::default() },
                    ..RequestError::new(format!("Provider finish_reason: {reason}"))
                });
            }
            (None, _)
                if !self.done && (self.says_why || answer.message.content.is_empty() && self.calls.is_empty()) =>
            {
                return Err(RequestError::new("Stream ended without finish_reason"));
            }
            _ => {}
        }
        self.close(answer);
        Ok(match (ending, finish) {
            (Some(Ending::Length), _) => StopReason::Length,
            (Some(Ending::Unknown), Some(reason)) => stopped_by(&reason, answer),
            // Some servers say "stop" after tool calls too.
            _ => stopped(answer),
        })
    }
}

/// What a finish reason says.
enum Ending {
    Stop,
    Length,
    /// A word that is none of the API, nor of those of its relatives that say something else than that it ended.
    Unknown,
    /// The answer is not whole, for another reason than its length. The HTTP status is that of an error of this kind.
    Failure {
        status: Option<u16>,
    },
}

impl Ending {
    fn of(reason: &str) -> Ending {
        let reason = reason.to_ascii_lowercase();
        let has = |words: &[&str]| words.iter().any(|word| reason.contains(word));
        match reason.as_str() {
            "stop" | "end" | "tool_calls" | "function_call" => Ending::Stop,
            // Google, Anthropic.
            "recitation" | "blocklist" | "prohibited_content" | "spii" | "refusal" => Ending::Failure { status: None },
            // DeepSeek has no room for the request.
            "insufficient_system_resource" => Ending::Failure { status: Some(503) },
            // vLLM and SGLang end requests so when they stop; Google has a call that it cannot read itself.
            "abort" | "aborted" | "cancelled" | "malformed_function_call" => Ending::Failure { status: Some(500) },
            // OpenAI's `length`, `max_tokens` of Anthropic, Google and Cohere, `model_length` of Mistral, Zhipu's window.
            _ if has(&["length", "max_tokens", "max_output", "max_new_tokens", "token_limit", "window_exceeded"]) => {
                Ending::Length
            }
            // OpenAI's `content_filter`, Zhipu's `sensitive`, Google's `SAFETY`.
            _ if has(&["filter", "sensitive", "safety"]) => Ending::Failure { status: None },
            // `error` of OpenRouter, Mistral and Cohere, Zhipu's `network_error`.
            _ if has(&["error"]) => Ending::Failure { status: Some(500) },
            _ => Ending::Unknown,
        }
    }
}

impl CompletionsDecoder {
    fn identify(&mut self, id: Text<'_>, model: Text<'_>, answer: &mut Answer<'_>) {
        answer.message.response_id = id.owned();
        answer.message.response_model = model.owned().filter(|model| *model != answer.message.model);
        // The first chunk of Azure has neither.
        self.identified = answer.message.response_id.is_some();
    }

    fn count(&mut self, counts: Option<Box<ReportedUsage>>, answer: &mut Answer<'_>) {
        if let Some(counts) = counts {
            self.counts.learn(&counts);
            self.counts.write(&counts, &mut answer.message.usage);
        }
    }

    fn choice(&mut self, choice: Choice<'_>, is_chunk: bool, answer: &mut Answer<'_>) -> Result<(), RequestError> {
        if let Some(error) = choice.error.filter(|error| is_error(Some(error))) {
            return Err(provider_error(error.get()));
        }
        self.count(choice.usage.0, answer);
        if let Some(delta) = choice.delta.0 {
            self.delta(delta, answer);
        }
        self.say(choice.text.as_str(), answer);
        if let Some(message) = choice.message.0 {
            self.message(*message, answer);
            // Such a message comes once, and nothing comes behind it.
            self.done |= !is_chunk;
        }
        if let Some(reason) = choice.finish_reason.owned() {
            self.finish = Some(reason);
        }
        Ok(())
    }

    fn delta(&mut self, delta: Delta<'_>, answer: &mut Answer<'_>) {
        let thought = thought(&delta);
        self.in_pieces |= thought.is_some()
            || !delta.tool_calls.0.is_empty()
            || delta.function_call.0.is_some()
            || [&delta.content.text, &delta.refusal].into_iter().any(|text| text.filled().is_some());
        if let Some((words, field)) = thought {
            self.think(words, field, answer);
        }
        let has_thought = thought.is_some();
        for detail in delta.reasoning_details.0 {
            if let Some(words) = details::words(&detail).filter(|_| !has_thought) {
                self.think(words, "", answer);
            }
            answer.count(details::size(&detail));
            self.details.add(detail);
        }
        let flagged = delta.extra_content.is_some_and(|extra| self.learn_extra(extra.get()));
        if flagged || self.in_thought {
            self.thought_in_content(delta.content.text.as_str(), flagged, answer);
        } else {
            self.say(delta.content.text.as_str(), answer);
        }
        self.say(delta.refusal.as_str(), answer);
        for call in &delta.tool_calls.0 {
            self.calls.piece(call, answer);
        }
        if delta.tool_calls.0.is_empty() && delta.function_call.0.is_some() {
            self.calls.piece(&CallDelta { function: delta.function_call, ..CallDelta::default() }, answer);
        }
    }

    /// Takes in a whole message. What came in pieces before it is repeated in it; of a message that grows with each chunk,
    /// the rest is new.
    fn message(&mut self, mut message: Delta<'_>, answer: &mut Answer<'_>) {
        let in_pieces = self.in_pieces;
        let so_far = |block: Option<usize>| match block.and_then(|block| answer.message.content.get(block)) {
            Some(Block::Text { text, .. }) => text.as_str(),
            Some(Block::Thinking { thinking, .. }) => thinking.as_str(),
            _ => "",
        };
        let thoughts = [
            &mut message.reasoning_content,
            &mut message.reasoning,
            &mut message.reasoning_text,
            &mut message.content.thoughts,
        ];
        for thought in thoughts {
            leave_new(thought, so_far(self.thinking), in_pieces);
        }
        for text in [&mut message.content.text, &mut message.refusal] {
            leave_new(text, so_far(self.text), in_pieces);
        }
        if self.thinking.is_some() || !self.details.is_empty() {
            message.reasoning_details.0.clear();
        }
        let calls = std::mem::take(&mut message.tool_calls);
        self.delta(message, answer);
        self.in_pieces = in_pieces;
        for (position, call) in calls.0.iter().enumerate() {
            self.calls.whole(position, call, answer);
        }
    }

    fn think(&mut self, words: &str, field: &str, answer: &mut Answer<'_>) {
        let index = *self.thinking.get_or_insert_with(|| {
            let index = answer.start_thinking();
            if !field.is_empty()
                && let Some(signature) = answer.thinking_signature(index)
            {
                signature.push_str(field);
            }
            index
        });
        answer.thinking(index, words);
    }

    fn say(&mut self, text: &str, answer: &mut Answer<'_>) {
        if !text.is_empty() {
            let index = *self.text.get_or_insert_with(|| answer.start_text());
            answer.text(index, text);
        }
    }

    /// Gemini's endpoint of this API has the thoughts in the content: between tags, and with a flag in the extra content of
    /// all their chunks. The closing tag is at the beginning of the chunk that follows.
    fn thought_in_content(&mut self, content: &str, flagged: bool, answer: &mut Answer<'_>) {
        let opened = ["<thought>", "<think>"].iter().find_map(|tag| content.strip_prefix(tag)).unwrap_or(content);
        let closed = ["</thought>", "</think>"].iter().find_map(|tag| opened.split_once(tag));
        let (thought, text) = match closed {
            Some((thought, text)) => (thought, text),
            None if flagged => (opened, ""),
            None => ("", opened),
        };
        if !thought.is_empty() {
            self.think(thought, "", answer);
        }
        self.in_thought = closed.is_none() && (flagged || content.is_empty());
        self.say(text, answer);
    }

    /// Keeps the extra content of a message, without the flag for thoughts: whether that is set.
    fn learn_extra(&mut self, extra: &str) -> bool {
        let Ok(Value::Object(mut extra)) = serde_json::from_str::<Value>(extra) else { return false };
        let mut flagged = false;
        if let Some(Value::Object(google)) = extra.get_mut("google") {
            flagged = google.remove("thought") == Some(Value::Bool(true));
            if google.is_empty() {
                extra.remove("google");
            }
        }
        if !extra.is_empty() {
            self.extra = Some(Value::Object(extra).to_string());
        }
        flagged
    }

    /// Ends all blocks, which this API leaves open up to the end.
    fn close(&mut self, answer: &mut Answer<'_>) {
        if !self.details.is_empty() {
            let index = *self.thinking.get_or_insert_with(|| answer.start_thinking());
            if let Some(signature) = answer.thinking_signature(index) {
                *signature = self.details.take();
            }
        }
        if let Some(extra) = self.extra.take() {
            self.calls.sign_first(&extra);
            if let Some(text) = self.text {
                answer.sign_text(text, extra);
            }
        }
        self.calls.finish(answer);
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

/// The thoughts of a delta, and the name of the field they came by; empty if they have to go back in none. Servers that send
/// thoughts under two names send the same ones.
fn thought<'d>(delta: &'d Delta<'_>) -> Option<(&'d str, &'static str)> {
    let fields = [&delta.reasoning_content, &delta.reasoning, &delta.reasoning_text];
    let fields = fields.into_iter().zip(REASONING_FIELDS).chain([(&delta.content.thoughts, "")]);
    fields.into_iter().find_map(|(text, field)| Some((text.filled()?, field)))
}

/// Leaves of a text what is not in the one so far.
fn leave_new(text: &mut Text<'_>, so_far: &str, in_pieces: bool) {
    let Some(whole) = text.filled().filter(|_| !so_far.is_empty()) else { return };
    match whole.strip_prefix(so_far) {
        Some(rest) => *text = Text(Some(Cow::Owned(rest.to_string()))),
        None if in_pieces => *text = Text(None),
        None => {}
    }
}

#[cfg(test)]
mod server_tests;
#[cfg(test)]
mod tests;
