use super::*;
use crate::model::test_support::{answered, test_model};
use crate::transcript::Usage;
use std::time::{Duration, Instant};

/// Whether an error with this text counts as overflow.
fn on_text(text: &str) -> bool {
    let message = AssistantMessage {
        stop_reason: StopReason::Error,
        error_message: Some(text.to_string()),
        ..answered(&test_model())
    };
    is_overflow(&message, &test_model())
}

#[test]
fn words_of_an_overlong_prompt() {
    for text in [
        "400: prompt is too long: 213462 tokens > 200000 maximum",
        "prompt too long; exceeded max context length by 5 tokens",
        "Prompt exceeds max length",
        "413: request_too_large",
        "Input is too long for requested model",
        "Your input exceeds the context window of this model",
        "exceeds the maximum context length of 1,000 tokens",
        "exceeds the model's maximum context length (128000)",
        "context window exceeded",
        "The input token count (1196265) exceeds the maximum number of tokens allowed",
        "maximum prompt length is 131072",
        "Please reduce the length of the messages",
        "This model's maximum context length is 8192 tokens",
        "exceeds the maximum allowed input length of 99,999 tokens",
        "The input (516368 tokens) is longer than the model's context length (262144 tokens)",
        "prompt token count exceeds the limit of 128000",
        "the request exceeds the available context size",
        "tokens to keep is greater than the context length",
        "context window exceeds limit (2013)",
        "exceeded model token limit",
        "prompt too large for model with 262144 maximum context length",
        "prompt has 9,000 tokens, but the configured context size is 8,192 tokens",
        "Unhandled stop reason: model_context_window_exceeded",
        "exceeded context length",
        "Range of input length should be [1, 98304]",
        "context_length_exceeded",
        "context length exceeded",
        "too many tokens",
        "token limit exceeded",
        "413 payload",
        "OpenAI API error (413): too big",
        "413: status code (no body)",
        "400: status code (no body)",
    ] {
        assert!(on_text(text), "{text}");
    }
}

#[test]
fn words_that_only_look_like_it() {
    for text in [
        "Throttling error: Too many tokens, please wait before trying again.",
        "Service unavailable: too many tokens",
        "rate limit: too many tokens per minute",
        "Too many requests, too many tokens",
        "429: too many tokens",
        "maximum context length is many tokens",
        "error 413 in the middle",
        "overloaded",
        "",
    ] {
        assert!(!on_text(text), "{text}");
    }
}

#[test]
fn answers_that_overflowed() {
    let model = test_model();
    for (stop_reason, input, cache_read, output, expected) in [
        // The window has 200,000 tokens.
        (StopReason::Stop, 100_000, 100_001, 5, true),
        (StopReason::Stop, 100_000, 100_000, 5, false),
        (StopReason::Length, 100_000, 98_000, 0, true),
        // The model's limit for an answer is 8192 tokens.
        (StopReason::Length, 100_000, 0, 8191, true),
        (StopReason::Length, 100_000, 0, 8192, false),
        (StopReason::ToolUse, 300_000, 0, 1, false),
        (StopReason::Aborted, 300_000, 0, 1, false),
    ] {
        let usage = Usage { input, cache_read, output, ..Usage::default() };
        let message = AssistantMessage { stop_reason, usage, ..answered(&model) };
        assert_eq!(is_overflow(&message, &model), expected, "{stop_reason:?} {input} {cache_read} {output}");
    }
}

#[test]
fn long_texts_take_no_long_time() {
    let begun = Instant::now();
    assert!(!on_text(&"input token count ".repeat(250)));
    assert!(begun.elapsed() < Duration::from_secs(5));
}
