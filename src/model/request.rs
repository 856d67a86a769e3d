//! One request to a model: what goes in, how the answer is handed over while it streams, and how it ends.

use super::model_info::Model;
use super::thinking::ThinkingLevel;
use crate::transcript::{AssistantMessage, Message, StopReason, ToolSpec};
use std::sync::Arc;
use std::time::Duration;

/// A request to a model.
pub struct Request<'a> {
    pub model: &'a Model,
    pub system: &'a str,
    pub messages: &'a [Arc<Message>],
    pub tools: &'a [&'a ToolSpec],
    pub thinking: ThinkingLevel,
    /// Identifies the session to the provider's prompt cache. `None` for a request whose prompt will not come again, of
    /// which nothing is to be cached.
    pub session_id: Option<&'a str>,
    /// The session that asks, for services that want to know it with every request.
    pub session: &'a str,
}

/// What a streaming answer is made of. `index` counts the blocks of the answer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum StreamEvent<'a> {
    /// The provider accepted the request.
    Start,
    TextStart {
        index: usize,
    },
    TextDelta {
        index: usize,
        delta: &'a str,
    },
    TextEnd {
        index: usize,
    },
    ThinkingStart {
        index: usize,
    },
    ThinkingDelta {
        index: usize,
        delta: &'a str,
    },
    ThinkingEnd {
        index: usize,
    },
    ToolCallStart {
        index: usize,
        id: &'a str,
        name: &'a str,
    },
    /// A fragment of the arguments' JSON text.
    ToolCallDelta {
        index: usize,
        delta: &'a str,
    },
    ToolCallEnd {
        index: usize,
    },
}

/// Takes a streaming answer, on the thread that reads it.
pub trait Sink {
    fn event(&mut self, event: StreamEvent<'_>);
    /// Everything that has arrived so far was handed over and the next read may wait: what was held back for the sake of
    /// batching has to go out now.
    fn drained(&mut self);
}

/// The end of a request. A failed one has a message too, with stop reason `error` or `aborted` and what came before.
pub struct Outcome {
    pub message: AssistantMessage,
    pub failure: Option<Failure>,
}

impl Outcome {
    /// There is no answer to go on with.
    pub fn failed(&self) -> bool {
        matches!(self.message.stop_reason, StopReason::Error | StopReason::Aborted)
    }
}

/// Facts about a failed request, for deciding whether to try again.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Failure {
    /// The HTTP status of the answer, or the one that an error inside a stream stands for.
    pub status: Option<u16>,
    /// How long the server asked to wait.
    pub retry_after: Option<Duration>,
    /// The connection did not come about, or was lost before the answer's end, so that nothing is said about the request.
    pub lost: bool,
}

/// What a cancelled request says.
pub(super) const ABORTED: &str = "Request was aborted";

/// Why a request failed.
#[derive(Debug, Default)]
pub struct RequestError {
    /// For the message: with status and body, as far as they are known, and without secrets.
    pub text: String,
    pub facts: Failure,
    pub aborted: bool,
}

impl RequestError {
    pub fn new(text: impl Into<String>) -> RequestError {
        RequestError { text: text.into(), ..RequestError::default() }
    }

    /// The connection did not come about, or was lost before the answer's end.
    pub fn lost(text: impl Into<String>) -> RequestError {
        RequestError { facts: Failure { lost: true, ..Failure::default() }, ..RequestError::new(text) }
    }

    pub fn aborted() -> RequestError {
        RequestError { aborted: true, ..RequestError::new(ABORTED) }
    }
}
