//! Where the answer to a prompt goes, whatever wire the prompt came over.

use crate::cancel::Cancel;
use crate::events::AgentEvent;
use serde_json::Value;
use std::fmt;

/// The receiving end of one answer. The turn's thread writes text; the session's actor ends it.
pub trait Reply: Send + Sync {
    /// The prompt was taken: it will be worked on, perhaps later, and is not lost over a restart.
    fn accepted(&self) {}
    /// Takes a piece of the answer. May wait, until cancelled, while the receiver takes nothing and too much is held.
    fn text(&self, text: &str, cancel: &Cancel);
    /// Nothing more is at hand for now: what was held back for the sake of batching goes out.
    fn flush(&self);
    /// Takes note of what happens while the answer is made, in order with its text. Called on the session's thread; must
    /// not wait. For callers who are told more than the text.
    fn event(&self, _event: &AgentEvent) {}
    /// Ends the answer, in success or with an error. Only the first call counts; dropping an answer ends it too.
    fn finish(&self, result: Result<(), ReplyError>);
    /// Where the answer goes, in a form that can be kept over a restart; `None` if nobody can be reached then.
    fn address(&self) -> Option<Value> {
        None
    }
}

/// For prompts whose answer nobody waits for; those who listen see it in the events.
pub struct SilentReply;

impl Reply for SilentReply {
    fn text(&self, _text: &str, _cancel: &Cancel) {}
    fn flush(&self) {}
    fn finish(&self, _result: Result<(), ReplyError>) {}
}

/// Why an answer is not complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplyError {
    /// A number in the manner of HTTP, for programs.
    pub status: u16,
    /// For people; one line is best.
    pub message: String,
}

impl ReplyError {
    pub fn new(status: u16, message: impl Into<String>) -> ReplyError {
        ReplyError { status, message: message.into() }
    }

    /// The word for programs: what stands before the colon of the message, or what fits the number.
    pub fn code(&self) -> &str {
        let word = self.message.split(':').next().unwrap_or_default();
        let snake_case = word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
        match self.status {
            _ if snake_case && !word.is_empty() => word,
            400 => "bad_request",
            401 => "unauthorized",
            403 => "forbidden",
            404 => "not_found",
            409 => "conflict",
            429 => "rate_limited",
            503 => "unavailable",
            _ => "internal_error",
        }
    }

    pub fn empty_prompt(why: &str) -> ReplyError {
        ReplyError::new(400, why)
    }

    pub fn queue_full(waiting: usize) -> ReplyError {
        ReplyError::new(429, format!("queue_full: {waiting} prompts are waiting already"))
    }

    pub fn busy(why: &str) -> ReplyError {
        ReplyError::new(429, format!("busy: {why}"))
    }

    pub fn shutting_down() -> ReplyError {
        ReplyError::new(503, "shutting_down")
    }

    pub fn stopped() -> ReplyError {
        ReplyError::new(404, "session stopped")
    }

    pub fn expired(seconds: u64) -> ReplyError {
        ReplyError::new(409, format!("session expired: its lifetime of {seconds} s is over"))
    }

    /// What was to be kept cannot be written.
    pub fn storage(error: &std::io::Error) -> ReplyError {
        ReplyError::new(500, format!("storage_error: {error}"))
    }

    pub fn failed(message: impl Into<String>) -> ReplyError {
        ReplyError::new(500, message)
    }
}

impl fmt::Display for ReplyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_have_a_word_for_programs() {
        for (error, code) in [
            (ReplyError::shutting_down(), "shutting_down"),
            (ReplyError::queue_full(3), "queue_full"),
            (ReplyError::stopped(), "not_found"),
            (ReplyError::expired(3), "conflict"),
            (ReplyError::empty_prompt("the prompt is empty"), "bad_request"),
            (ReplyError::failed("HTTP 500: overloaded"), "internal_error"),
            (ReplyError::failed(""), "internal_error"),
        ] {
            assert_eq!(error.code(), code, "{error}");
        }
    }
}
