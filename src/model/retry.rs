//! What a failed request calls for: trying it again, making room in the context, or giving up.
//!
//! The facts come first (HTTP status, a wait that the server asked for). Many servers say it only in words, so the words
//! are matched too: without regard to case, against tables, with the exceptions first.

use super::error_words::matches_any;
use super::model_info::Model;
use super::overflow::is_overflow;
use super::request::{Failure, Outcome};
use super::settings::RetrySettings;
use crate::transcript::StopReason;

/// What an outcome calls for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The same request may succeed later.
    Retry,
    /// The context is too long, see [`is_overflow`].
    Overflow,
    /// Nothing to be done: success, a cancelled request, or an error that will stay.
    Final,
}

/// What this outcome of a request to `model` calls for.
pub(crate) fn verdict(outcome: &Outcome, model: &Model) -> Verdict {
    let message = &outcome.message;
    if is_overflow(message, model) {
        return Verdict::Overflow;
    }
    if message.stop_reason != StopReason::Error {
        return Verdict::Final;
    }
    let text = message.error_message.as_deref().unwrap_or("").to_lowercase();
    let facts = outcome.failure.clone().unwrap_or_default();
    failed(&text, &facts)
}

/// How long to wait before the request is sent again, in milliseconds, where `attempts` retries were made already.
/// `None` if it is not worth another try.
///
/// A wait that the server asks for is honoured up to the limit of the settings: what is left of a longer one is waited
/// for after the next attempt. One that is longer than all attempts together means "not today".
pub(crate) fn pause_ms(outcome: &Outcome, model: &Model, settings: &RetrySettings, attempts: u32) -> Option<u64> {
    let left = settings.max_retries.saturating_sub(attempts);
    if !settings.enabled || left == 0 || verdict(outcome, model) != Verdict::Retry {
        return None;
    }
    let asked = outcome.failure.as_ref().and_then(|f| f.retry_after).unwrap_or_default();
    let asked = u64::try_from(asked.as_millis()).unwrap_or(u64::MAX);
    let longest = settings.max_requested_delay_ms;
    // The last attempt may wait once more, before it sends anything.
    let all = longest.saturating_mul(u64::from(left) + 1);
    (asked <= all).then(|| settings.delay_ms(attempts + 1).max(asked.min(longest)))
}

/// `text` is in lower case.
fn failed(text: &str, facts: &Failure) -> Verdict {
    let again = match facts.status {
        None if facts.lost => true,
        // What is wrong with the request itself stays wrong, whatever else the server says.
        Some(400 | 401 | 405 | 422) => false,
        _ if facts.retry_after.is_some() => true,
        _ if matches_any(text, NEVER) => false,
        // 499 is what a server says whose own connection to the model was closed.
        Some(408 | 409 | 425 | 429 | 499..) => true,
        Some(_) => false,
        None => matches_any(text, RETRY) || has_retryable_word(text),
    };
    if again { Verdict::Retry } else { Verdict::Final }
}

/// Limits that waiting does not lift: money that is used up, and quotas of which the server does not say when they begin anew.
const NEVER: &[&str] = &[
    // Money.
    "billing",
    "payment required",
    "available balance",
    "insufficient*balance",
    "balance*insufficient",
    "balance is too low",
    "balance too low",
    "not enough balance",
    "insufficient*credit",
    "insufficient*funds",
    "credit balance",
    "enough credit",
    "more credits",
    "no credits",
    "out of credit",
    "credits*exhausted",
    "credits*used up",
    "out of budget",
    "budget*exceeded",
    "spending?limit",
    "spend?limit",
    "arrearage",
    // Quotas.
    "insufficient?quota",
    "insufficient?user?quota",
    "exceeded?current?quota",
    "exceeded your current quota",
    "exceeds your*quota",
    "exhausted your*quota",
    "quota?exceeded",
    "quota*exhausted",
    "quota*used up",
    "quota is not enough",
    "out of quota",
    "usage?limit?reached",
    "gousagelimiterror",
    "freeusagelimiterror",
    "subscription_sharing_usage_limit_exceeded",
    "subscription_sharing_workplace_individual_usage_limit_exceeded",
    // Z.ai's code for the limit of a subscription.
    "\"code\":1308",
    "\"code\":\"1308\"",
    "\"code\": 1308",
    "\"code\": \"1308\"",
    "(1308)",
    ", 1308)",
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
    "connection?closed",
    "connection?reset",
    "connection?aborted",
    "connection?timed?out",
    "broken pipe",
    "unexpected eof",
    "unexpected end of",
    "closed connection",
    "prematurely closed",
    "premature close",
    "premature end",
    "incomplete chunked read",
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
    "websocket?connection?limit?reached",
    "websocket closed",
    "websocket error",
    // A stream that was cut.
    "ended without",
    "stream ended before",
    "stream was interrupted",
    "stream disconnected before completion",
    "cut short after the reply had begun",
    "pending stream has been canceled",
    "unusable event in the stream",
    // An answer that the model itself spoiled.
    "malformed?function?call",
    "malformed_response",
    "unexpected_tool_call",
    "finish_reason: error",
    // Providers that say so.
    "you can retry your request",
    "try your request again",
    "please retry your request",
    "subscription_sharing_usage_unavailable",
    "subscription_sharing_user_unavailable",
];

/// Statuses and the system's errors, as words of their own.
const RETRY_WORDS: &[&str] = &[
    "429",
    "500",
    "502",
    "503",
    "504",
    "520",
    "524",
    "econnreset",
    "econnaborted",
    "econnrefused",
    "etimedout",
    "epipe",
];

fn has_retryable_word(text: &str) -> bool {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').any(|word| RETRY_WORDS.contains(&word))
}

#[cfg(test)]
mod tests;
