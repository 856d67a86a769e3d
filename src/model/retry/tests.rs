use super::*;
use crate::model::request::Failure;
use crate::model::test_support::{test_model, test_request};
use std::time::Duration;

fn outcome(text: &str, failure: Failure) -> Outcome {
    let model = test_model();
    let mut recorder = crate::model::test_support::Recorder::default();
    let answer = crate::model::answer::Answer::new(&test_request(&model, &[]), &mut recorder);
    let failed = crate::model::request::RequestError { text: text.to_string(), facts: failure, aborted: false };
    answer.finish(&test_request(&model, &[]), Err(failed))
}

/// The verdict on an error whose status is known only from its text, if at all.
fn on_text(text: &str) -> Verdict {
    verdict(&outcome(text, Failure::default()), &test_model())
}

fn on_status(status: u16, text: &str) -> Verdict {
    verdict(&outcome(text, Failure { status: Some(status), ..Failure::default() }), &test_model())
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
        "connection closed before the message was complete",
        "Connection reset by peer",
        "read ECONNRESET",
        "write EPIPE",
        "unexpected EOF",
        "peer closed connection without sending complete message body (incomplete chunked read)",
        "Invalid response body while trying to fetch https://h: Premature close",
        "Connection prematurely closed BEFORE response",
        "Unusable event in the stream: expected value",
        "Provider stopped with: MALFORMED_FUNCTION_CALL",
        "Provider finish_reason: error",
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
        "429: Usage is over (1308)",
        "429: The quota of this account is used up",
        "429: You exceeded your current quota, please check your plan",
        "429: You have run out of credits",
        "Insufficient Balance; rate limit",
        "a rate limit is part of a pipeline: onepipe, but the spending limit counts",
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
fn facts_come_before_words() {
    for (status, text, expected) in [
        (429, "429: slow down", Verdict::Retry),
        (429, "429: too many tokens", Verdict::Retry),
        (429, "429: insufficient_quota", Verdict::Final),
        (429, "429: Resource has been exhausted (e.g. check quota).", Verdict::Retry),
        (402, "402: this needs more money, 429", Verdict::Final),
        (408, "408: x", Verdict::Retry),
        (409, "409: x", Verdict::Retry),
        (425, "425: x", Verdict::Retry),
        (499, "499: The operation was cancelled.", Verdict::Retry),
        (500, "x", Verdict::Retry),
        (529, "x", Verdict::Retry),
        (413, "413: x", Verdict::Overflow),
        (400, "400: prompt is too long", Verdict::Overflow),
        (400, "400: bad", Verdict::Final),
        (400, "400: Provider returned error", Verdict::Final),
        (400, "400: no default is allowed in timeout; 503 try again in 5s", Verdict::Final),
        (401, "401: timeout of your session", Verdict::Final),
        (403, "403: rate limit", Verdict::Final),
        (404, "404: no such model, rate limit 429", Verdict::Final),
        (422, "422: overloaded", Verdict::Final),
    ] {
        assert_eq!(on_status(status, text), expected, "{status} {text}");
    }
    let waiting = |status| {
        let facts = Failure { status: Some(status), retry_after: Some(Duration::from_secs(1)), lost: false };
        verdict(&outcome("insufficient_quota, see billing", facts), &test_model())
    };
    for (status, expected) in [
        (400, Verdict::Final),
        (401, Verdict::Final),
        (402, Verdict::Retry),
        (403, Verdict::Retry),
        (404, Verdict::Retry),
        (418, Verdict::Retry),
        (422, Verdict::Final),
        (429, Verdict::Retry),
        (503, Verdict::Retry),
    ] {
        assert_eq!(waiting(status), expected, "{status} with a wait");
    }
    let lost = outcome("billing", Failure { lost: true, ..Failure::default() });
    assert_eq!(verdict(&lost, &test_model()), Verdict::Retry);
}

/// Errors inside a stream are judged like the same error as an answer.
#[test]
fn errors_inside_streams() {
    for (raw, expected) in [
        (r#"{"type":"overloaded_error","message":"Overloaded"}"#, Verdict::Retry),
        (r#"{"type":"api_error","message":"Internal"}"#, Verdict::Retry),
        (r#"{"type":"rate_limit_error","message":"m"}"#, Verdict::Retry),
        (r#"{"type":"invalid_request_error","message":"no default in timeout"}"#, Verdict::Final),
        (r#"{"type":"authentication_error","message":"503"}"#, Verdict::Final),
        (r#"{"code":"insufficient_quota","message":"pay"}"#, Verdict::Final),
        (r#"{"code":"insufficient_quota","message":"Please try again in 2s"}"#, Verdict::Retry),
        (r#"{"code":503,"status":"UNAVAILABLE","message":"m"}"#, Verdict::Retry),
        (r#"{"message":"read ECONNRESET","type":"upstream"}"#, Verdict::Retry),
        (
            r#"{"message":"This account is not active","type":"account_error","code":"account_deactivated"}"#,
            Verdict::Final,
        ),
        (
            r#"{"code":400,"message":"this request exceeds the available context size (4096 tokens)"}"#,
            Verdict::Overflow,
        ),
        (r#"{"type":"request_too_large","message":"m"}"#, Verdict::Overflow),
        (r#""overloaded""#, Verdict::Retry),
    ] {
        let failed = crate::model::stated_error::provider_error(raw);
        assert_eq!(verdict(&outcome(&failed.text, failed.facts), &test_model()), expected, "{raw}");
    }
}

#[test]
fn pauses_follow_the_settings_and_the_server() {
    let settings = |text: &str| crate::model::settings::Settings::parse(text).expect("it parses").retry();
    let (usual, off) = (settings("{}"), settings(r#"{"retry":{"enabled":false}}"#));
    let short = settings(r#"{"retry":{"provider":{"maxRetryDelayMs":1000}}}"#);
    for (settings, text, asked, attempts, expected) in [
        (usual, "529: overloaded", 0, 0, Some(2000)),
        (usual, "529: overloaded", 0, 2, Some(8000)),
        (usual, "529: overloaded", 0, 3, None),
        (usual, "400: bad", 0, 0, None),
        (usual, "413: too big", 0, 0, None),
        (off, "529: overloaded", 0, 0, None),
        // The server's wait counts where it is longer than ours.
        (usual, "429: slow down", 1, 0, Some(2000)),
        (usual, "429: slow down", 30, 0, Some(30_000)),
        (usual, "429: slow down", 120, 0, Some(60_000)),
        (usual, "429: slow down", 240, 0, Some(60_000)),
        (usual, "429: slow down", 241, 0, None),
        (usual, "429: slow down", 121, 2, None),
        (short, "429: slow down", 4, 0, Some(2000)),
        (short, "429: slow down", 5, 0, None),
    ] {
        let retry_after = (asked > 0).then(|| Duration::from_secs(asked));
        let outcome = outcome(text, Failure { retry_after, ..Failure::default() });
        assert_eq!(pause_ms(&outcome, &test_model(), &settings, attempts), expected, "{text} {asked} {attempts}");
    }
}
