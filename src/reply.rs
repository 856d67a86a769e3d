//! Where the answer to a prompt goes, whatever wire the prompt came over.

use crate::cancel::Cancel;
use serde_json::Value;
use std::fmt;

/// The receiving end of one answer. The turn's thread writes text; the session's actor ends it.
pub trait Reply: Send + Sync {
    /// Takes a piece of the answer. May wait, until cancelled, while the receiver takes nothing and too much is held.
    fn text(&self, text: &str, cancel: &Cancel);
    /// Nothing more is at hand for now: what was held back for the sake of batching goes out.
    fn flush(&self);
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
