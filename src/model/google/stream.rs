//! The events of an answer. Each is a piece of a response; there is no event that says "that was all": a reason to finish
//! may come with every piece, and what follows it belongs to the answer.

mod event;

use crate::json::tolerant;
use crate::model::answer::Answer;
use crate::model::lenient::Flag;
use crate::model::protocol::{DONE, Decoder, Progress, stopped, stopped_by};
use crate::model::request::RequestError;
use crate::model::sse::Event;
use crate::model::stated_error::{self, is_error, provider_error, unusable};
use crate::transcript::StopReason;
use event::{Chunk, FunctionCall, Part};

/// Understands the answer's events.
#[derive(Default)]
pub(super) struct GoogleDecoder {
    /// The block that text goes into, and whether it is one of thoughts.
    open: Option<(usize, bool)>,
    /// Why the model stopped, in the provider's word, and in more words where it has them.
    finish: Option<(String, Option<String>)>,
    /// Why the prompt was refused, likewise.
    blocked: Option<(String, Option<String>)>,
    /// The stream said that it is over, as those of another API do.
    done: bool,
}

impl Decoder for GoogleDecoder {
    fn event(&mut self, event: Event<'_>, answer: &mut Answer<'_>) -> Result<Progress, RequestError> {
        if event.data == DONE {
            self.done = true;
            return Ok(Progress::More);
        }
        let mut repaired = String::new();
        let chunk: Chunk<'_> = tolerant::parse(event.data, &mut repaired).map_err(|e| unusable(&e))?;
        if is_error(chunk.error) {
            return Err(provider_error(&String::from_utf8_lossy(event.data)));
        }
        if answer.message.response_id.is_none() {
            answer.message.response_id = chunk.response_id.owned();
            answer.message.response_model = chunk.model_version.owned().filter(|m| *m != answer.message.model);
        }
        let counts = chunk.usage_metadata.0.or(chunk.snake_usage_metadata.0);
        if chunk.candidates.0.is_none() && chunk.prompt_feedback.0.is_none() && counts.is_none() {
            stated_error::check(event.data)?;
        }
        let feedback = chunk.prompt_feedback.0.unwrap_or_default();
        if let Some(reason) = feedback.block_reason.owned().filter(|reason| reason != "BLOCK_REASON_UNSPECIFIED") {
            self.blocked = Some((reason, feedback.block_reason_message.owned()));
        }
        if let Some(counts) = counts {
            counts.apply(&mut answer.message.usage);
        }
        let candidate = chunk.candidates.0.unwrap_or_default();
        for part in candidate.content.0.into_iter().flat_map(|content| content.parts.0) {
            self.part(part, answer);
        }
        if let Some(reason) = candidate.finish_reason.owned().or_else(|| candidate.snake_finish_reason.owned()) {
            self.finish = Some((reason, candidate.finish_message.owned()));
        }
        Ok(Progress::More)
    }

    fn is_finished(&self) -> bool {
        self.finish.is_some() || self.blocked.is_some() || self.done
    }

    fn cut(&mut self, answer: &mut Answer<'_>) {
        self.close(answer);
    }

    fn end(&mut self, answer: &mut Answer<'_>) -> Result<StopReason, RequestError> {
        self.close(answer);
        let has_content = !answer.message.content.is_empty();
        let failed = |(reason, words): &(String, Option<String>)| {
            let words = words.as_ref().map_or(String::new(), |words| format!(": {words}"));
            Err(RequestError::new(format!("Provider stopped with: {reason}{words}")))
        };
        if let Some(blocked) = &self.blocked {
            return failed(blocked);
        }
        let Some(finish) = self.finish.take() else {
            // A gateway that has no reason to tell says all the same that this was all.
            return match self.done && has_content {
                true => Ok(stopped(answer)),
                false => Err(RequestError::new("Stream ended without a finish reason")),
            };
        };
        match finish.0.to_ascii_uppercase().as_str() {
            "STOP" | "FINISH_REASON_UNSPECIFIED" => Ok(stopped(answer)),
            "MAX_TOKENS" | "CONTINUATION" => Ok(StopReason::Length),
            reason if NO_ANSWER.contains(&reason) => failed(&finish),
            // The other API's words, from gateways that do not translate them.
            "LENGTH" => Ok(StopReason::Length),
            "TOOL_CALLS" | "END_TURN" => Ok(stopped(answer)),
            _ => Ok(stopped_by(&finish.0, answer)),
        }
    }
}

/// Reasons to finish that mean that there is no answer, or none that could be relied on.
const NO_ANSWER: &[&str] = &[
    "SAFETY",
    "RECITATION",
    "LANGUAGE",
    "BLOCKLIST",
    "PROHIBITED_CONTENT",
    "SPII",
    "MODEL_ARMOR",
    "CONTENT_FILTER",
    "OTHER",
    "MALFORMED_FUNCTION_CALL",
    "MALFORMED_RESPONSE",
    "UNEXPECTED_TOOL_CALL",
    "TOO_MANY_TOOL_CALLS",
    "MISSING_THOUGHT_SIGNATURE",
    "IMAGE_SAFETY",
    "IMAGE_PROHIBITED_CONTENT",
    "IMAGE_RECITATION",
    "IMAGE_OTHER",
    "NO_IMAGE",
];

impl GoogleDecoder {
    fn part(&mut self, part: Part<'_>, answer: &mut Answer<'_>) {
        let (text, Flag(thought)) = (part.text, part.thought);
        let function_call = part.function_call.0.or(part.snake_function_call.0);
        let camel = part.thought_signature;
        let signature = if camel.filled().is_some() { camel } else { part.snake_thought_signature };
        let is_call = function_call.is_some();
        // A part may be nothing but a signature, which goes back in its place.
        if text.filled().is_some() || !is_call && signature.filled().is_some() {
            let index = match self.open {
                Some((index, kind)) if kind == thought => index,
                _ => {
                    self.close(answer);
                    let index = if thought { answer.start_thinking() } else { answer.start_text() };
                    self.open = Some((index, thought));
                    index
                }
            };
            if thought {
                answer.thinking(index, text.as_str());
            } else {
                answer.text(index, text.as_str());
            }
            if let Some(signature) = signature.filled().filter(|_| !is_call) {
                match answer.thinking_signature(index) {
                    Some(kept) => signature.clone_into(kept),
                    None => answer.sign_text(index, signature.to_string()),
                }
            }
        }
        if let Some(call) = function_call {
            self.close(answer);
            add_call(&call, signature.owned(), answer);
        }
    }

    fn close(&mut self, answer: &mut Answer<'_>) {
        match self.open.take() {
            Some((index, true)) => answer.end_thinking(index),
            Some((index, false)) => answer.end_text(index),
            None => {}
        }
    }
}

/// Adds a call, which arrives whole.
fn add_call(call: &FunctionCall<'_>, signature: Option<String>, answer: &mut Answer<'_>) {
    let index = answer.start_tool_call(call.id.as_str(), call.name.as_str());
    answer.tool_arguments(index, call.args.0.as_deref().unwrap_or("{}"));
    if let Some(signature) = signature {
        answer.sign_tool_call(index, signature);
    }
    answer.end_tool_call(index);
}

#[cfg(test)]
mod tests;
