//! What a failed request calls for: trying it again, making room in the context, or giving up.
//!
//! The facts come first (HTTP status, a wait that the server asked for). Many servers say it only in words, so the words
//! are matched too: without regard to case, against tables, with the exceptions first.

use super::{Model, Outcome};
use crate::transcript::{StopReason, Usage};

/// What an outcome calls for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The same request may succeed later.
    Retry,
    /// The context is too long. A failed request may succeed after compaction; an answer that came all the same
    /// (stop reason `stop`) is to be kept.
    Overflow,
    /// Nothing to be done: success, a cancelled request, or an error that will stay.
    Final,
}

/// What this outcome of a request to `model` calls for.
pub fn verdict(outcome: &Outcome, model: &Model) -> Verdict {
    let message = &outcome.message;
    match message.stop_reason {
        StopReason::Error => {
            let text = message.error_message.as_deref().unwrap_or("").to_lowercase();
            let facts = outcome.failure.clone().unwrap_or_default();
            failed(&text, facts.status, facts.retry_after.is_some())
        }
        StopReason::Stop | StopReason::Length if overflowed(&message.usage, message.stop_reason, model) => {
            Verdict::Overflow
        }
        _ => Verdict::Final,
    }
}

/// Some providers cut an overlong prompt and answer; some answer nothing.
fn overflowed(usage: &Usage, reason: StopReason, model: &Model) -> bool {
    let prompt = usage.input.saturating_add(usage.cache_read);
    match reason {
        StopReason::Stop => prompt > model.context_window,
        _ => usage.output == 0 && prompt >= model.context_window / 100 * 99 && prompt > 0,
    }
}

/// `text` is in lower case.
fn failed(text: &str, status: Option<u16>, asked_to_wait: bool) -> Verdict {
    let any = |patterns: &[&str]| patterns.iter().any(|pattern| matches(text, pattern));
    // A limit on the rate also speaks of too many tokens.
    let rate = matches!(status, Some(429)) || any(NO_OVERFLOW);
    if !rate && (status == Some(413) || any(OVERFLOW)) {
        return Verdict::Overflow;
    }
    if any(NEVER) {
        return Verdict::Final;
    }
    match status {
        Some(408 | 409 | 425 | 429 | 500..) => return Verdict::Retry,
        Some(401 | 403 | 404) if !asked_to_wait => return Verdict::Final,
        _ => {}
    }
    if asked_to_wait || any(RETRY) || has_retryable_number(text) { Verdict::Retry } else { Verdict::Final }
}

/// Limits that waiting does not lift.
const NEVER: &[&str] = &[
    "gousagelimiterror",
    "freeusagelimiterror",
    "monthly usage limit reached",
    "available balance",
    "insufficient_quota",
    "out of budget",
    "quota exceeded",
    "billing",
    "subscription_sharing_usage_limit_exceeded",
    "subscription_sharing_workplace_individual_usage_limit_exceeded",
    "\"code\":1308",
    "\"code\":\"1308\"",
    "\"code\": 1308",
    "\"code\": \"1308\"",
];

/// Words that look like an overlong prompt and mean something else.
const NO_OVERFLOW: &[&str] = &["^throttling error:", "^service unavailable:", "rate?limit", "too many requests"];

/// `?` stands for one character or none, `#` for a number, `*` for a few words, `^` for the beginning.
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
    "^400*status code (no body)",
    "^413*status code (no body)",
];

const RETRY: &[&str] = &[
    // Load.
    "overloaded",
    "server_busy",
    "servers are currently busy",
    "currently experiencing high demand",
    "model is at capacity",
    "resourceexhausted",
    // Rate.
    "rate?limit",
    "too many requests",
    "retry delay",
    // Server.
    "service?is?temporarily?unavailable",
    "service?temporarily?unavailable",
    "service?is?unavailable",
    "service?unavailable",
    "server?error",
    "internal?error",
    "provider?returned?an?error",
    "provider?returned?error",
    "exceeded request buffer limit while retrying upstream",
    "unable to forward upstream",
    "upstream?request?failed",
    "upstream_stream_read_error",
    "upstream?connect",
    // Network.
    "network?error",
    "connection?error",
    "connection?refused",
    "connection?lost",
    "other side closed",
    "fetch failed",
    "request to*failed, reason:",
    "getaddrinfo",
    "enotfound",
    "eai_again",
    "reset before headers",
    "socket hang up",
    "socket connection was closed",
    "timed? out",
    "timeout",
    "terminated",
    "http2 stream failed",
    "http/2 stream failed",
    "http2 request did not get a response",
    "websocket closed",
    "websocket error",
    // A stream that was cut.
    "ended without",
    "stream ended before",
    "stream was interrupted",
    "stream disconnected before completion",
    "cut short after the reply had begun",
    "pending stream has been canceled",
    // Providers that say so.
    "you can retry your request",
    "try your request again",
    "please retry your request",
    "subscription_sharing_usage_unavailable",
    "subscription_sharing_user_unavailable",
];

/// Statuses that stand in the text as numbers of their own.
const RETRY_NUMBERS: &[&str] = &["429", "500", "502", "503", "504", "520", "524"];

fn has_retryable_number(text: &str) -> bool {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').any(|word| RETRY_NUMBERS.contains(&word))
}

/// How far apart the two sides of a `*` may be, in bytes.
const MAX_GAP: usize = 200;

/// Whether the pattern is somewhere in `text`, or at its beginning if the pattern begins with `^`.
fn matches(text: &str, pattern: &str) -> bool {
    let text = text.as_bytes();
    match pattern.strip_prefix('^') {
        Some(pattern) => matches_here(text, pattern.as_bytes()),
        None => (0..text.len()).any(|at| matches_here(&text[at..], pattern.as_bytes())),
    }
}

fn matches_here(text: &[u8], pattern: &[u8]) -> bool {
    let Some((&symbol, pattern)) = pattern.split_first() else { return true };
    match symbol {
        b'?' => matches_here(text, pattern) || !text.is_empty() && matches_here(&text[1..], pattern),
        b'#' => {
            let length = text.iter().take_while(|b| b.is_ascii_digit() || matches!(b, b',' | b'.' | b'_')).count();
            text.first().is_some_and(u8::is_ascii_digit)
                && (1..=length).rev().any(|n| matches_here(&text[n..], pattern))
        }
        b'*' => (0..=text.len().min(MAX_GAP)).any(|n| matches_here(&text[n..], pattern)),
        symbol => text.first() == Some(&symbol) && matches_here(&text[1..], pattern),
    }
}

#[cfg(test)]
mod tests;
