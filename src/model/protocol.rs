//! What the provider APIs have in common: what they get and what they give.

use super::answer::Answer;
use super::catalog;
use super::credentials::{Authorization, Scheme};
use super::error_body::quoted;
use super::model_info::Model;
use super::request::{Request, RequestError};
use super::sendable::{Habit, Refused, Rules};
use super::sse::Event;
use super::thinking::Budgets;
use crate::transcript::{Message, StopReason};
use std::sync::Arc;

/// What a provider API makes of a request.
pub struct HttpRequest {
    pub url: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

/// A request as the provider APIs see it.
pub struct RequestContext<'a> {
    pub request: &'a Request<'a>,
    pub model: &'a Model,
    /// The messages, fit for this model.
    pub messages: &'a [Arc<Message>],
    pub authorization: &'a Authorization,
    /// The limit for the answer, in tokens.
    pub max_tokens: u64,
    /// Tokens of thought per level.
    pub budgets: Budgets,
    /// Prompt parts may be cached for as long as the provider offers.
    pub long_cache: bool,
    /// What was learned of the server from its refusals.
    pub refused: &'a Refused,
}

impl RequestContext<'_> {
    /// Whether the server has shown this habit.
    pub fn has(&self, habit: Habit) -> bool {
        self.refused.has(self.model, habit)
    }

    /// Tokens of thought for the level asked for; 0 = no thinking.
    pub fn budget(&self) -> u64 {
        self.budgets.tokens(self.request.thinking)
    }

    /// The headers of every request: the content's type, the key in the header `own` (or as bearer token), and what the
    /// provider wants beside them.
    pub fn headers(&self, own: &str) -> Vec<(String, String)> {
        let provider = catalog::provider(&self.model.provider);
        let mut headers = vec![("content-type".to_string(), "application/json".to_string())];
        if let Some(secret) = &self.authorization.secret {
            let key_header = provider.and_then(|p| p.key_header);
            let is_key = matches!(self.authorization.scheme, Scheme::Key);
            headers.push(if is_key && own != "authorization" && key_header.is_none() {
                (own.to_string(), secret.reveal().to_string())
            } else {
                (key_header.unwrap_or("authorization").to_string(), format!("Bearer {}", secret.reveal()))
            });
        }
        if let Some(name) = provider.and_then(|p| p.session_header) {
            headers.push((name.to_string(), self.request.session.to_string()));
        }
        headers
    }
}

/// Adds the configured headers, which replace computed ones of the same name.
pub(super) fn configure(headers: &mut Vec<(String, String)>, authorization: &Authorization) {
    for (name, value) in &authorization.headers {
        headers.retain(|(known, _)| !known.eq_ignore_ascii_case(name));
        headers.push((name.clone(), value.reveal().to_string()));
    }
}

/// Whether more events are to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    More,
    /// The event was the last one. Nothing that may follow matters.
    Done,
}

/// Understands the events of one answer.
pub trait Decoder {
    /// Takes in one event: its data is an object, or [`DONE`].
    fn event(&mut self, event: Event<'_>, answer: &mut Answer<'_>) -> Result<Progress, RequestError>;

    /// Whether an event has said how the answer ended, so that nothing is lost if no other comes.
    fn is_finished(&self) -> bool;

    /// Ends what is open, where an answer is cut off.
    fn cut(&mut self, answer: &mut Answer<'_>);

    /// The stream is over: how the answer ended, or why it is no whole answer.
    fn end(&mut self, answer: &mut Answer<'_>) -> Result<StopReason, RequestError>;
}

/// A provider API: what differs between them.
pub struct Protocol {
    /// What it takes in a conversation.
    pub rules: Rules,
    pub prepare: fn(&RequestContext<'_>) -> HttpRequest,
    pub decoder: fn(&Model) -> Box<dyn Decoder>,
}

/// What some servers send as the last event's data, without a name.
pub(super) const DONE: &[u8] = b"[DONE]";

/// How the answer ended, where the provider says that it just did.
pub(super) fn stopped(answer: &Answer<'_>) -> StopReason {
    // Servers exist that do not say that the model wants its calls made.
    if answer.message.has_tool_calls() { StopReason::ToolUse } else { StopReason::Stop }
}

/// How the answer ended, where the provider says so in a word that is none of its API: as above, with the word kept.
pub(super) fn stopped_by(reason: &str, answer: &mut Answer<'_>) -> StopReason {
    answer.message.raw_stop_reason = Some(quoted(reason.as_bytes()));
    stopped(answer)
}
