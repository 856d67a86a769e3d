//! What can go wrong with what clients ask: one enum for requests to the daemon, one for prompts and other requests to a session.

use super::ids::{InvalidId, SessionId};
use crate::quota::QuotaExceeded;
use serde_json::{Value, json};
use std::fmt;
use std::time::Duration;

/// How much of a caller's text an error repeats, characters.
pub(crate) const MAX_ECHO: usize = 200;
/// Longest explanation in an error, characters: room for any of ours with what it repeats of a usual request.
const MAX_MESSAGE: usize = 1000;
/// Told to those who ask for work while the operator lets none begin.
const DRAINING: &str = "this host takes no new work for now; try another one, or later";

/// A refusal, with the code that is part of the protocol.
#[derive(Clone, Debug, PartialEq)]
pub enum DaemonError {
    InvalidJson {
        message: String,
    },
    InvalidRequest {
        message: String,
    },
    InvalidSessionMode {
        mode: String,
    },
    MissingFields {
        required: &'static [&'static str],
    },
    InvalidSessionId {
        session_id: String,
    },
    SessionExists {
        session_id: SessionId,
        subject: String,
    },
    SessionCreateFailed {
        message: String,
    },
    NotFound {
        session_id: SessionId,
    },
    /// The system refuses another thread, or too many requests wait.
    Busy {
        message: String,
    },
    /// All the sessions that there may be are open, or the free places are other callers'.
    NoPlace {
        message: String,
        retry_after: Duration,
    },
    ShuttingDown,
    /// The operator lets it begin nothing new.
    Draining,
    /// The id of a request was used for another one.
    DuplicateRequest,
    /// The request is not signed as it has to be.
    Unauthorized {
        message: String,
    },
    /// The request is signed by somebody who is not let in.
    Forbidden {
        message: String,
    },
}

impl DaemonError {
    pub fn code(&self) -> &'static str {
        match self {
            DaemonError::InvalidJson { .. } => "invalid_json",
            DaemonError::InvalidRequest { .. } => "invalid_request",
            DaemonError::InvalidSessionMode { .. } => "invalid_sessionMode",
            DaemonError::MissingFields { .. } => "missing_fields",
            DaemonError::InvalidSessionId { .. } => "invalid_sessionId",
            DaemonError::SessionExists { .. } => "session_exists",
            DaemonError::SessionCreateFailed { .. } => "session_create_failed",
            DaemonError::NotFound { .. } => "not_found",
            DaemonError::Busy { .. } | DaemonError::NoPlace { .. } => "busy",
            DaemonError::ShuttingDown => "shutting_down",
            DaemonError::Draining => "draining",
            DaemonError::DuplicateRequest => "duplicate_request",
            DaemonError::Unauthorized { .. } => "unauthorized",
            DaemonError::Forbidden { .. } => "forbidden",
        }
    }

    /// The number for the `Nats-Service-Error-Code` header.
    pub fn status(&self) -> u16 {
        match self {
            DaemonError::SessionExists { .. } | DaemonError::DuplicateRequest => 409,
            DaemonError::NotFound { .. } => 404,
            DaemonError::Unauthorized { .. } => 401,
            DaemonError::Forbidden { .. } => 403,
            DaemonError::Busy { .. } | DaemonError::NoPlace { .. } => 429,
            DaemonError::ShuttingDown | DaemonError::Draining => 503,
            DaemonError::InvalidJson { .. }
            | DaemonError::InvalidRequest { .. }
            | DaemonError::InvalidSessionMode { .. }
            | DaemonError::MissingFields { .. }
            | DaemonError::InvalidSessionId { .. }
            | DaemonError::SessionCreateFailed { .. } => 400,
        }
    }

    /// The JSON document of the reply.
    pub fn document(&self) -> Value {
        let code = self.code();
        match self {
            DaemonError::InvalidJson { message }
            | DaemonError::InvalidRequest { message }
            | DaemonError::SessionCreateFailed { message }
            | DaemonError::Unauthorized { message }
            | DaemonError::Forbidden { message }
            | DaemonError::Busy { message } => json!({"error": code, "message": cut(message, MAX_MESSAGE)}),
            DaemonError::NoPlace { message, retry_after } => {
                json!({"error": code, "message": message, "retryAfter": retry_after.as_secs_f64()})
            }
            DaemonError::InvalidSessionMode { mode } => json!({"error": code, "sessionMode": mode}),
            DaemonError::MissingFields { required } => json!({"error": code, "required": required}),
            DaemonError::InvalidSessionId { session_id } => json!({"error": code, "sessionId": session_id,
                "message": format!("{InvalidId}")}),
            DaemonError::SessionExists { session_id, subject } => json!({"error": code, "sessionId": session_id,
                "subject": subject, "message": format!("session {session_id:?} exists; stop it first or use its subject")}),
            DaemonError::NotFound { session_id } => json!({"error": code, "sessionId": session_id}),
            DaemonError::ShuttingDown => json!({"error": code}),
            DaemonError::Draining => json!({"error": code, "message": DRAINING}),
            DaemonError::DuplicateRequest => {
                json!({"error": code, "message": "the Nats-Msg-Id was used for another request"})
            }
        }
    }

    /// One line for the `Nats-Service-Error` header and the statistics.
    pub fn summary(&self) -> String {
        match self.document().get("message").and_then(Value::as_str) {
            Some(message) => format!("{}: {message}", self.code()),
            None => self.code().to_string(),
        }
    }
}

/// A text as an error repeats it.
pub(crate) fn echo(text: &str) -> String {
    cut(text, MAX_ECHO).to_string()
}

/// The first `characters` of a text.
fn cut(text: &str, characters: usize) -> &str {
    text.char_indices().nth(characters).map_or(text, |(end, _)| &text[..end])
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
    /// The signature is good, and its user is not among the trusted ones.
    SenderForbidden,
    /// A rule, or whoever was asked, did not allow a call of a tool.
    Denied,
    /// The session or the question is not there, or not any more.
    NotFound,
    /// What is asked cannot be done now.
    Conflict,
    DuplicateRequest,
    /// Nobody approved a call of a tool in time.
    ApprovalExpired,
    /// The approval is settled, or was asked for another call.
    StaleAnswer,
    /// A prompt is being worked on.
    Working,
    /// There is no room for more.
    Busy,
    QueueFull,
    /// What the session, or all of them, may keep is used up.
    QuotaExceeded,
    /// What may be spent on the prompt, in the session or today is used up.
    BudgetExceeded,
    ShuttingDown,
    /// The operator lets the host begin nothing new.
    Draining,
    Storage,
    /// Another host has the session.
    Moved,
    /// The host that has the session is down, and no other one can go on with it.
    HostDown,
    Interrupted,
    Aborted,
    /// The model failed; the message has the provider's words.
    Model,
    /// The model answered with nothing, twice.
    EmptyAnswer,
    Internal,
}

impl ErrorKind {
    pub const ALL: [ErrorKind; 33] = [
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
        ErrorKind::SenderForbidden,
        ErrorKind::Denied,
        ErrorKind::NotFound,
        ErrorKind::Conflict,
        ErrorKind::DuplicateRequest,
        ErrorKind::ApprovalExpired,
        ErrorKind::StaleAnswer,
        ErrorKind::Working,
        ErrorKind::Busy,
        ErrorKind::QueueFull,
        ErrorKind::QuotaExceeded,
        ErrorKind::BudgetExceeded,
        ErrorKind::ShuttingDown,
        ErrorKind::Draining,
        ErrorKind::Storage,
        ErrorKind::Moved,
        ErrorKind::HostDown,
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
            ErrorKind::SenderForbidden => "sender_forbidden",
            ErrorKind::Denied => "denied",
            ErrorKind::NotFound => "not_found",
            ErrorKind::Conflict => "conflict",
            ErrorKind::DuplicateRequest => "duplicate_request",
            ErrorKind::ApprovalExpired => "approval_expired",
            ErrorKind::StaleAnswer => "stale_answer",
            ErrorKind::Working | ErrorKind::Busy => "busy",
            ErrorKind::QueueFull => "queue_full",
            ErrorKind::QuotaExceeded => "quota_exceeded",
            ErrorKind::BudgetExceeded => "budget_exceeded",
            ErrorKind::ShuttingDown => "shutting_down",
            ErrorKind::Draining => "draining",
            ErrorKind::Storage => "storage_error",
            ErrorKind::Moved => "moved",
            ErrorKind::HostDown => "host_down",
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
            ErrorKind::BudgetExceeded => 402,
            ErrorKind::SenderForbidden | ErrorKind::Denied => 403,
            ErrorKind::UnknownVerb | ErrorKind::NotFound => 404,
            ErrorKind::Conflict
            | ErrorKind::DuplicateRequest
            | ErrorKind::ApprovalExpired
            | ErrorKind::StaleAnswer
            | ErrorKind::Working
            | ErrorKind::Moved => 409,
            ErrorKind::Busy | ErrorKind::QueueFull => 429,
            ErrorKind::ShuttingDown | ErrorKind::Draining | ErrorKind::HostDown => 503,
            ErrorKind::QuotaExceeded => 507,
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

    pub(crate) fn quota_exceeded(why: &QuotaExceeded) -> ReplyError {
        ReplyError::coded(ErrorKind::QuotaExceeded, why)
    }

    pub fn busy(why: &str) -> ReplyError {
        ReplyError::coded(ErrorKind::Busy, why)
    }

    pub fn shutting_down() -> ReplyError {
        ReplyError::new(ErrorKind::ShuttingDown, ErrorKind::ShuttingDown.code())
    }

    pub fn draining() -> ReplyError {
        ReplyError::coded(ErrorKind::Draining, DRAINING)
    }

    pub(crate) fn aborted() -> ReplyError {
        ReplyError::new(ErrorKind::Aborted, "the prompt was aborted")
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

    pub(crate) fn moved(host: &str) -> ReplyError {
        ReplyError::coded(ErrorKind::Moved, format!("the session is at the host {host}; send it again"))
    }

    /// The session was to come to this host, and has not.
    pub(crate) fn moved_on() -> ReplyError {
        ReplyError::coded(ErrorKind::Moved, "the session is on its way between two hosts; send it again")
    }

    /// The session waits for its host.
    pub(crate) fn host_down(host: &str) -> ReplyError {
        ReplyError::coded(ErrorKind::HostDown, format!("the session waits for its host {host}, which is down"))
    }

    /// The session waits for a host that can have its working folder, which is not this one.
    pub(crate) fn folder_missing(why: &str) -> ReplyError {
        let message =
            format!("the session waits for a host that can have its working folder, and this one cannot: {why}");
        ReplyError::coded(ErrorKind::HostDown, message)
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
