use super::*;
use crate::model::Failure;
use crate::model::test_support::{test_model, test_request};
use std::time::Duration;

fn outcome(text: &str, failure: Failure) -> Outcome {
    let model = test_model();
    let mut recorder = crate::model::test_support::Recorder::default();
    let answer = crate::model::answer::Answer::new(&test_request(&model, &[]), &mut recorder);
    let failed = crate::model::answer::Failed { text: text.to_string(), facts: failure, aborted: false };
    answer.finish(&test_request(&model, &[]), Err(failed))
}

/// The verdict on an error whose status is known only from its text, if at all.
fn on_text(text: &str) -> Verdict {
    verdict(&outcome(text, Failure::default()), &test_model())
}

fn on_status(status: u16, text: &str) -> Verdict {
    verdict(&outcome(text, Failure { status: Some(status), retry_after: None }), &test_model())
}

#[test]
fn words_that_call_for_a_retry() {
    for text in [
        "Overloaded",
        "server_busy",
        "Servers are currently busy",
        "We are currently experiencing high demand",
        "Model is at capacity",
        "RESOURCEEXHAUSTED",
        "rate limit",
        "rate-limit",
        "RateLimit exceeded",
        "Too Many Requests",
        "Server requested 90s retry delay (max: 60s).",
        "error 429",
        "500 oops",
        "HTTP 502",
        "(503)",
        "504: x",
        "520",
        "status=524",
        "529 overloaded",
        "service unavailable",
        "Service is temporarily unavailable",
        "service_unavailable",
        "Server error",
        "server_error",
        "internal error",
        "Internal_Error",
        "Provider returned error",
        "provider returned an error",
        "exceeded request buffer limit while retrying upstream",
        "unable to forward upstream",
        "upstream request failed",
        "upstream_stream_read_error",
        "upstream connect error",
        "network error",
        "Connection error: x",
        "connection refused",
        "Connection lost: x",
        "other side closed",
        "fetch failed",
        "request to https://h failed, reason: x",
        "getaddrinfo x",
        "ENOTFOUND",
        "EAI_AGAIN",
        "reset before headers",
        "socket hang up",
        "The socket connection was closed",
        "Request timed out: x",
        "time out? no: timeout",
        "terminated",
        "HTTP/2 stream failed",
        "http2 stream failed",
        "http2 request did not get a response",
        "WebSocket closed",
        "websocket error",
        "Stream ended without finish_reason",
        "Stream ended before message_stop",
        "x ended before a terminal response event: stream ended before it",
        "stream was interrupted",
        "stream disconnected before completion",
        "cut short after the reply had begun",
        "pending stream has been canceled",
        "You can retry your request",
        "try your request again",
        "Please retry your request",
        "subscription_sharing_usage_unavailable",
        "subscription_sharing_user_unavailable",
    ] {
        assert_eq!(on_text(text), Verdict::Retry, "{text}");
    }
}

#[test]
fn words_that_call_for_none() {
    for text in [
        "429: GoUsageLimitError",
        "FreeUsageLimitError 429",
        "Monthly usage limit reached (rate limit)",
        "429 available balance is 0",
        "429: insufficient_quota",
        "rate limit: out of budget",
        "429 Quota exceeded",
        "503 see billing",
        "429 subscription_sharing_usage_limit_exceeded",
        "429 subscription_sharing_workplace_individual_usage_limit_exceeded",
        "429: {\"code\":\"1308\"}",
        "429: {\"code\": 1308}",
        "invalid request",
        "4290",
        "x500x",
        "error_503",
        "",
        "The model refused to answer (refusal)",
        "Unhandled stop reason: pause",
    ] {
        assert_eq!(on_text(text), Verdict::Final, "{text}");
    }
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
        assert_eq!(on_text(text), Verdict::Overflow, "{text}");
    }
    for (text, expected) in [
        ("Throttling error: Too many tokens, please wait before trying again.", Verdict::Final),
        ("Service unavailable: too many tokens", Verdict::Retry),
        ("rate limit: too many tokens per minute", Verdict::Retry),
        ("Too many requests, too many tokens", Verdict::Retry),
        ("maximum context length is many tokens", Verdict::Final),
        ("error 413 in the middle", Verdict::Final),
    ] {
        assert_eq!(on_text(text), expected, "{text}");
    }
}

#[test]
fn facts_come_before_words() {
    for (status, text, expected) in [
        (429, "429: slow down", Verdict::Retry),
        (429, "429: too many tokens", Verdict::Retry),
        (429, "429: insufficient_quota", Verdict::Final),
        (408, "408: x", Verdict::Retry),
        (500, "x", Verdict::Retry),
        (529, "x", Verdict::Retry),
        (413, "x", Verdict::Overflow),
        (400, "400: prompt is too long", Verdict::Overflow),
        (400, "400: bad", Verdict::Final),
        (400, "400: Provider returned error", Verdict::Retry),
        (401, "401: timeout of your session", Verdict::Final),
        (404, "404: no such model, rate limit 429", Verdict::Final),
    ] {
        assert_eq!(on_status(status, text), expected, "{status} {text}");
    }
    let waiting = outcome("418: later", Failure { status: Some(418), retry_after: Some(Duration::from_secs(1)) });
    assert_eq!(verdict(&waiting, &test_model()), Verdict::Retry);
}

#[test]
fn answers_that_overflowed() {
    let model = test_model();
    for (reason, input, cache_read, output, expected) in [
        (StopReason::Stop, 100_000, 100_001, 5, Verdict::Overflow),
        (StopReason::Stop, 100_000, 100_000, 5, Verdict::Final),
        (StopReason::Length, 100_000, 98_000, 0, Verdict::Overflow),
        (StopReason::Length, 100_000, 97_999, 0, Verdict::Final),
        (StopReason::Length, 100_000, 98_000, 1, Verdict::Final),
        (StopReason::ToolUse, 300_000, 0, 1, Verdict::Final),
        (StopReason::Aborted, 300_000, 0, 1, Verdict::Final),
    ] {
        let mut outcome = outcome("", Failure::default());
        outcome.message.stop_reason = reason;
        outcome.message.usage = Usage { input, cache_read, output, ..Usage::default() };
        assert_eq!(verdict(&outcome, &model), expected, "{reason:?} {input} {cache_read} {output}");
    }
}

#[test]
fn long_texts_take_no_long_time() {
    let begun = std::time::Instant::now();
    assert_eq!(on_text(&"input token count ".repeat(250)), Verdict::Final);
    assert!(begun.elapsed() < Duration::from_secs(5));
}
