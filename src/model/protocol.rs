//! What the provider APIs have in common: what they get, what they give, and which of them a model speaks.

use super::answer::{Answer, Failed};
use super::compat::Compat;
use super::credentials::{Authorization, Scheme};
use super::error_body::ErrorBody;
use super::sendable::{Habit, Refused, Rules};
use super::sse::Event;
use super::thinking::Budgets;
use super::{
    Api, Failure, Model, Request, anthropic, catalog, google, ids, openai_completions, openai_responses, waits,
};
use crate::transcript::{Block, Message, StopReason};
use serde_json::value::RawValue;
use std::sync::Arc;

/// How much of a provider's own words goes into an error message, in characters.
pub const MAX_ERROR_CHARS: usize = 4000;

/// What a provider API makes of a request.
pub struct Prepared {
    pub url: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

/// A request as the provider APIs see it.
pub struct Draft<'a> {
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

impl Draft<'_> {
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
            headers.push(match self.authorization.scheme {
                Scheme::Key if own != "authorization" && key_header.is_none() => {
                    (own.to_string(), secret.reveal().to_string())
                }
                _ => (key_header.unwrap_or("authorization").to_string(), format!("Bearer {}", secret.reveal())),
            });
        }
        if let Some(name) = provider.and_then(|p| p.session_header) {
            headers.push((name.to_string(), self.request.session.to_string()));
        }
        headers
    }
}

/// Adds the configured headers, which replace computed ones of the same name.
pub fn configure(headers: &mut Vec<(String, String)>, authorization: &Authorization) {
    for (name, value) in &authorization.headers {
        headers.retain(|(known, _)| !known.eq_ignore_ascii_case(name));
        headers.push((name.clone(), value.reveal().to_string()));
    }
}

/// Whether more is to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    More,
    /// That was the last event. Nothing that may follow matters.
    Done,
}

/// Understands the events of one answer.
pub trait Decoder {
    /// Takes in one event: its data is an object, or [`DONE`].
    fn event(&mut self, event: Event<'_>, answer: &mut Answer<'_>) -> Result<Progress, Failed>;

    /// Whether an event has said how the answer ended, so that nothing is lost if no other comes.
    fn is_finished(&self) -> bool;

    /// Ends what is open, where an answer is cut off.
    fn cut(&mut self, answer: &mut Answer<'_>);

    /// The stream is over: how the answer ended, or why it is no whole answer.
    fn end(&mut self, answer: &mut Answer<'_>) -> Result<StopReason, Failed>;
}

/// A provider API: what differs between them.
pub struct Protocol {
    /// What it takes in a conversation.
    pub rules: Rules,
    pub prepare: fn(&Draft<'_>) -> Prepared,
    pub decoder: fn(&Model) -> Box<dyn Decoder>,
}

impl Protocol {
    /// `None` for the offline model, which speaks to nobody.
    pub fn of(api: Api) -> Option<Protocol> {
        Some(match api {
            Api::AnthropicMessages => Protocol {
                rules: Rules {
                    foreign_id: ids::portable,
                    takes_id: |id| !id.is_empty() && ids::sanitize(id) == id,
                    max_id: 64,
                    ids_in_request: true,
                    item_ids: false,
                    unnamed: Block::clone,
                    letter_first: false,
                    takes_thought: |_| true,
                    thought_last: false,
                    signed_blanks: false,
                },
                prepare: anthropic::prepare,
                decoder: |_| Box::new(anthropic::Stream::default()),
            },
            Api::OpenaiCompletions => Protocol {
                rules: Rules {
                    foreign_id: openai_completions::foreign_id,
                    takes_id: |id| !id.is_empty(),
                    max_id: 40,
                    ids_in_request: false,
                    item_ids: false,
                    unnamed: Block::clone,
                    letter_first: false,
                    takes_thought: |_| true,
                    // Thoughts have fields of their own here.
                    thought_last: true,
                    signed_blanks: false,
                },
                prepare: openai_completions::prepare,
                decoder: |model| Box::new(openai_completions::Stream::new(&Compat::of(model))),
            },
            Api::OpenaiResponses => Protocol {
                rules: Rules {
                    foreign_id: openai_responses::foreign_id,
                    takes_id: openai_responses::takes_id,
                    max_id: 64,
                    ids_in_request: true,
                    item_ids: true,
                    unnamed: openai_responses::unnamed,
                    letter_first: false,
                    takes_thought: openai_responses::takes_thought,
                    thought_last: false,
                    signed_blanks: false,
                },
                prepare: openai_responses::prepare,
                decoder: |_| Box::new(openai_responses::Stream::default()),
            },
            Api::GoogleGenerativeAi => Protocol {
                rules: Rules {
                    foreign_id: ids::portable,
                    takes_id: |id| !id.is_empty(),
                    max_id: 64,
                    ids_in_request: true,
                    item_ids: false,
                    unnamed: Block::clone,
                    letter_first: true,
                    takes_thought: |_| true,
                    thought_last: true,
                    signed_blanks: true,
                },
                prepare: google::prepare,
                decoder: |_| Box::new(google::Stream::default()),
            },
            Api::Offline => return None,
        })
    }
}

/// A provider's words inside a stream, cut to what a message may hold.
pub fn quoted(data: &[u8]) -> String {
    String::from_utf8_lossy(data).chars().take(MAX_ERROR_CHARS).collect()
}

/// What some servers send as the last event's data, without a name.
pub const DONE: &[u8] = b"[DONE]";

/// An event that is no JSON, of which nobody knows what was lost with it.
pub fn unusable(error: &serde_json::Error) -> Failed {
    Failed::new(format!("Unusable event in the stream: {error}"))
}

/// How the answer ended, where the provider says that it just did.
pub fn stopped(answer: &Answer<'_>) -> StopReason {
    // Servers exist that do not say that the model wants its calls made.
    if answer.message.has_tool_calls() { StopReason::ToolUse } else { StopReason::Stop }
}

/// How the answer ended, where the provider says so in a word that is none of its API: as above, with the word kept.
pub fn stopped_by(reason: &str, answer: &mut Answer<'_>) -> StopReason {
    answer.message.raw_stop_reason = Some(quoted(reason.as_bytes()));
    stopped(answer)
}

/// Whether the field `error` of an event says anything: there are servers that send it with everything.
pub fn is_error(raw: Option<&RawValue>) -> bool {
    raw.is_some_and(|raw| !matches!(raw.get(), "null" | "\"\"" | "{}" | "[]" | "false" | "0"))
}

/// An error that came inside a stream, or in place of one, with the facts that it would have as the answer to a request: JSON
/// in any form, an event around it included, or just words.
pub fn provider_error(raw: &str) -> Failed {
    let ErrorBody { status, text } = ErrorBody::read(raw);
    let text = quoted(text.as_deref().unwrap_or(raw.trim()).as_bytes());
    Failed {
        text: status.map_or(text.clone(), |s| format!("{s}: {text}")),
        facts: Failure { status, retry_after: waits::in_error(status, raw), lost: false },
        aborted: false,
    }
}
