//! Answers, and refusals, that mean that the context is too long for the model.

use super::Model;
use super::error_words::matches_any;
use crate::transcript::{AssistantMessage, StopReason};

/// Whether the model's context was too long. What helps depends on the stop reason:
///
/// - `error`: the server refused the prompt. After compaction the same request may succeed.
/// - `length`: the answer was cut before it reached the model's own limit, as the window was full. The same holds.
/// - `stop`: the server took a prompt that is longer than the model's window, and dropped part of it. The answer is
///   to be kept; compaction is due before the next request.
pub fn is_overflow(message: &AssistantMessage, model: &Model) -> bool {
    let usage = &message.usage;
    match message.stop_reason {
        StopReason::Error => {
            let text = message.error_message.as_deref().unwrap_or("").to_lowercase();
            !matches_any(&text, NO_OVERFLOW) && matches_any(&text, OVERFLOW)
        }
        StopReason::Stop => usage.input.saturating_add(usage.cache_read) > model.context_window,
        StopReason::Length => usage.output < model.max_tokens,
        StopReason::ToolUse | StopReason::Aborted => false,
    }
}

/// Words that look like an overlong prompt and mean something else.
const NO_OVERFLOW: &[&str] =
    &["^throttling error:", "^service unavailable:", "^429", "rate?limit", "too many requests"];

/// The words of servers whose limit was passed.
const OVERFLOW: &[&str] = &[
    "prompt is too long",
    "prompt too long",
    "prompt exceeds max length",
    "request_too_large",
    "input is too long for requested model",
    "exceeds the context window",
    "exceeds the maximum context length",
    "exceeds maximum context length",
    "exceeds the model's maximum context length",
    "exceeds model's maximum context length",
    "context window exceeded",
    "input token count*exceeds the maximum",
    "maximum prompt length is #",
    "reduce the length of the messages",
    "maximum context length is # tokens",
    "exceeds maximum allowed input length of # tokens",
    "exceeds the maximum allowed input length of # tokens",
    "input (# tokens) is longer than the model's context length (# tokens)",
    "exceeds the limit of #",
    "exceeds the available context size",
    "greater than the context length",
    "context window exceeds limit",
    "exceeded model token limit",
    "too large for model with # maximum context length",
    "prompt has # tokens, but the configured context size is # tokens",
    "model_context_window_exceeded",
    "exceeded context length",
    "exceeded max context length",
    "range of input length should be",
    "context?length?exceeded",
    "too many tokens",
    "token limit exceeded",
    "^413",
    "api error (413):",
    // Cerebras says no more than this.
    "^400*status code (no body)",
    "^413*status code (no body)",
];

#[cfg(test)]
mod tests;
