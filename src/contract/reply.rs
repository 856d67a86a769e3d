//! Where the answer to a prompt goes, whatever wire the prompt came over.

use crate::cancel::Cancel;
use crate::contract::event::AgentEvent;
use serde_json::{Value, json};
use std::fmt;

/// The receiving end of one answer. The turn's thread writes text; the session's actor ends it.
pub trait Reply: Send + Sync {
    /// The prompt was taken: it will be worked on, perhaps later, and is not lost over a restart.
    fn accepted(&self) {}
    /// Takes a piece of the answer. May wait, until cancelled, while the receiver takes nothing and too much is held.
    fn text(&self, text: &str, cancel: &Cancel);
    /// The last piece of the text is void, and the answer begins anew. In order with the text; does not wait.
    fn restart(&self, restart: Restart);
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
    fn restart(&self, _restart: Restart) {}
    fn flush(&self) {}
    fn finish(&self, _result: Result<(), ReplyError>) {}
}

/// A second beginning: the model is asked again after some of its answer was handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restart {
    /// The number of the request whose answer comes now, counted from 1 for each answer of the model.
    pub attempt: u32,
    /// How much of the text right before is void, bytes. It ends where the model's last complete answer, or the attempt before
    /// this one, ended.
    pub void_bytes: usize,
}

impl Restart {
    /// For those who take an answer for plain text.
    pub fn line(&self) -> String {
        format!("[The answer begins anew: attempt {}]", self.attempt)
    }

    /// For programs.
    pub fn document(&self) -> Value {
        json!({"attempt": self.attempt, "voidBytes": self.void_bytes})
    }
}

/// What can go wrong with a prompt or another request to a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The request makes no sense here.
    BadRequest,
    InvalidJson,
    InvalidRequest,
    InvalidText,
    InvalidAttachment,
    InvalidSender,
    MissingPrompt,
    EmptyPrompt,
    UnknownVerb,
    SignatureRequired,
    SenderRejected,
    /// The session or the question is not there, or not any more.
    NotFound,
    /// What is asked cannot be done now.
    Conflict,
    DuplicateRequest,
    /// A prompt is being worked on.
    Working,
    /// There is no room for more.
    Busy,
    QueueFull,
    ShuttingDown,
    Storage,
    Interrupted,
    Aborted,
    /// The model failed; the message has the provider's words.
    Model,
    /// The model answered with nothing, twice.
    EmptyAnswer,
    Internal,
}

impl ErrorKind {
    #[cfg(test)]
    pub const ALL: [ErrorKind; 24] = [
        ErrorKind::BadRequest,
        ErrorKind::InvalidJson,
        ErrorKind::InvalidRequest,
        ErrorKind::InvalidText,
        ErrorKind::InvalidAttachment,
        ErrorKind::InvalidSender,
        ErrorKind::MissingPrompt,
        ErrorKind::EmptyPrompt,
        ErrorKind::UnknownVerb,
        ErrorKind::SignatureRequired,
        ErrorKind::SenderRejected,
        ErrorKind::NotFound,
        ErrorKind::Conflict,
        ErrorKind::DuplicateRequest,
        ErrorKind::Working,
        ErrorKind::Busy,
        ErrorKind::QueueFull,
        ErrorKind::ShuttingDown,
        ErrorKind::Storage,
        ErrorKind::Interrupted,
        ErrorKind::Aborted,
        ErrorKind::Model,
        ErrorKind::EmptyAnswer,
        ErrorKind::Internal,
    ];

    /// The word for programs, the same on every wire.
    pub fn code(self) -> &'static str {
        match self {
            ErrorKind::BadRequest => "bad_request",
            ErrorKind::InvalidJson => "invalid_json",
            ErrorKind::InvalidRequest => "invalid_request",
            ErrorKind::InvalidText => "invalid_text",
            ErrorKind::InvalidAttachment => "invalid_attachment",
            ErrorKind::InvalidSender => "invalid_sender",
            ErrorKind::MissingPrompt => "missing_prompt",
            ErrorKind::EmptyPrompt => "empty_prompt",
            ErrorKind::UnknownVerb => "unknown_verb",
            ErrorKind::SignatureRequired => "signature_required",
            ErrorKind::SenderRejected => "sender_rejected",
            ErrorKind::NotFound => "not_found",
            ErrorKind::Conflict => "conflict",
            ErrorKind::DuplicateRequest => "duplicate_request",
            ErrorKind::Working | ErrorKind::Busy => "busy",
            ErrorKind::QueueFull => "queue_full",
            ErrorKind::ShuttingDown => "shutting_down",
            ErrorKind::Storage => "storage_error",
            ErrorKind::Interrupted => "interrupted",
            ErrorKind::Aborted => "aborted",
            ErrorKind::Model => "model_error",
            ErrorKind::EmptyAnswer => "empty_answer",
            ErrorKind::Internal => "internal_error",
        }
    }

    /// The number for programs, in the manner of HTTP.
    pub fn status(self) -> u16 {
        match self {
            ErrorKind::BadRequest
            | ErrorKind::InvalidJson
            | ErrorKind::InvalidRequest
            | ErrorKind::InvalidText
            | ErrorKind::InvalidAttachment
            | ErrorKind::InvalidSender
            | ErrorKind::MissingPrompt
            | ErrorKind::EmptyPrompt => 400,
            ErrorKind::SignatureRequired | ErrorKind::SenderRejected => 401,
            ErrorKind::UnknownVerb | ErrorKind::NotFound => 404,
            ErrorKind::Conflict | ErrorKind::DuplicateRequest | ErrorKind::Working => 409,
            ErrorKind::Busy | ErrorKind::QueueFull => 429,
            ErrorKind::ShuttingDown => 503,
            ErrorKind::Storage
            | ErrorKind::Interrupted
            | ErrorKind::Aborted
            | ErrorKind::Model
            | ErrorKind::EmptyAnswer
            | ErrorKind::Internal => 500,
        }
    }
}

/// Why an answer is not complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplyError {
    pub kind: ErrorKind,
    /// For people; one line is best.
    pub message: String,
}

impl ReplyError {
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> ReplyError {
        ReplyError { kind, message: message.into() }
    }

    /// An error whose message begins with its code, for those who read nothing else.
    pub fn coded(kind: ErrorKind, why: impl fmt::Display) -> ReplyError {
        ReplyError { kind, message: format!("{}: {why}", kind.code()) }
    }

    pub fn code(&self) -> &'static str {
        self.kind.code()
    }

    pub fn status(&self) -> u16 {
        self.kind.status()
    }

    /// The JSON document of an error.
    pub fn document(&self) -> Value {
        json!({"error": self.code(), "message": self.message})
    }

    pub fn empty_prompt(why: &str) -> ReplyError {
        ReplyError::new(ErrorKind::BadRequest, why)
    }

    pub fn queue_full(waiting: usize) -> ReplyError {
        ReplyError::coded(ErrorKind::QueueFull, format_args!("{waiting} prompts are waiting already"))
    }

    pub fn busy(why: &str) -> ReplyError {
        ReplyError::coded(ErrorKind::Busy, why)
    }

    pub fn shutting_down() -> ReplyError {
        ReplyError::new(ErrorKind::ShuttingDown, ErrorKind::ShuttingDown.code())
    }

    pub fn stopped() -> ReplyError {
        ReplyError::new(ErrorKind::NotFound, "session stopped")
    }

    pub fn expired(seconds: u64) -> ReplyError {
        ReplyError::new(ErrorKind::Conflict, format!("session expired: its lifetime of {seconds} s is over"))
    }

    /// What was to be kept cannot be written.
    pub fn storage(error: &std::io::Error) -> ReplyError {
        ReplyError::coded(ErrorKind::Storage, error)
    }

    /// The model, or the way to it, failed.
    pub fn model(message: impl Into<String>) -> ReplyError {
        ReplyError::new(ErrorKind::Model, message)
    }

    pub fn internal(why: &str) -> ReplyError {
        ReplyError::coded(ErrorKind::Internal, why)
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
    fn codes_are_words_of_ours() {
        for kind in ErrorKind::ALL {
            let code = kind.code();
            assert!(code.bytes().all(|b| b.is_ascii_lowercase() || b == b'_') && code.as_bytes()[0] != b'_', "{code}");
            assert!((400..600).contains(&kind.status()), "{code}");
        }
    }

    #[test]
    fn a_providers_words_are_no_code() {
        for words in ["529: overloaded", "queue_full: x", "529", "insufficient_quota: pay", ""] {
            let error = ReplyError::model(words);
            assert_eq!((error.code(), error.status(), error.to_string().as_str()), ("model_error", 500, words));
            assert_eq!(error.document(), json!({"error": "model_error", "message": words}));
        }
    }

    #[test]
    fn messages_of_before() {
        for (error, status, message) in [
            (ReplyError::shutting_down(), 503, "shutting_down"),
            (ReplyError::queue_full(3), 429, "queue_full: 3 prompts are waiting already"),
            (ReplyError::stopped(), 404, "session stopped"),
            (ReplyError::expired(3), 409, "session expired: its lifetime of 3 s is over"),
            (ReplyError::internal("x"), 500, "internal_error: x"),
            (ReplyError::busy("x"), 429, "busy: x"),
        ] {
            assert_eq!((error.status(), error.message.as_str()), (status, message));
        }
    }
}
