//! Talking to models: which there are, how to pay for them, and one file per provider API.
//!
//! | part | files |
//! |---|---|
//! | which models there are | `catalog`, `definition`, `models_json`, `registry`, `settings`, `config_file`, `odd_values` |
//! | who pays | `credentials`, `secret_value`, `oauth` |
//! | transport | `http`, `http_proxy`, `http_resolver`, `http_tls`, `http_watch`, `sse`, `throttle` |
//! | one request | `services` (the way in), `sendable`, `exchange`, `reading`, `answer`, `lenient`, `usage`, `thinking`, `retry`, `overflow`, `error_body`, `error_words`, `stated_error`, `waits` |
//! | provider APIs | `protocol` (what they share), `ids`, `anthropic`, `openai_completions` (with `openai_messages`, `compat`), `openai_responses`, `openai_fields`, `openai_usage`, `google`, `offline` |

mod answer;
mod anthropic;
mod catalog;
mod compat;
mod config_file;
mod credentials;
mod definition;
mod error_body;
mod error_words;
mod exchange;
mod google;
mod http;
mod http_proxy;
mod http_resolver;
mod http_tls;
mod http_watch;
mod ids;
mod lenient;
mod models_json;
mod oauth;
mod odd_values;
pub mod offline;
mod openai_completions;
mod openai_fields;
mod openai_messages;
mod openai_responses;
mod openai_usage;
pub mod overflow;
mod protocol;
mod reading;
mod registry;
pub mod retry;
mod secret_value;
mod sendable;
mod services;
mod settings;
mod sse;
mod stated_error;
#[cfg(test)]
pub(crate) mod test_support;
mod thinking;
mod throttle;
mod usage;
mod waits;

#[cfg(fuzzing)]
pub use answer::Answer;
pub use oauth::Endpoints as OauthEndpoints;
#[cfg(fuzzing)]
pub use protocol::{Decoder, Progress, Protocol};
#[cfg(fuzzing)]
pub use reading::{Source, read};
pub use secret_value::Secret;
pub use sendable::settle_calls;
pub use services::Services;
pub use settings::{QueueMode, QueueModes, RetrySettings, ToolSettings};
#[cfg(fuzzing)]
pub use sse::{Event, Events};

use crate::transcript::{AssistantMessage, Message, StopReason, ToolSpec};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// A model of the catalog, of `models.json`, or the offline one.
#[derive(Clone, Debug, PartialEq)]
pub struct Model {
    pub id: String,
    pub name: String,
    pub provider: String,
    pub api: Api,
    /// Where the API is; the API's own path (`/v1/messages`, `/chat/completions`) is appended.
    pub base_url: String,
    /// The model can think before it answers.
    pub reasoning: bool,
    /// The model takes images.
    pub images: bool,
    pub rates: Rates,
    /// What long prompts cost instead, in ascending order.
    pub tiers: Vec<Tier>,
    /// Tokens of prompt and answer together.
    pub context_window: u64,
    /// Tokens of one answer.
    pub max_tokens: u64,
    /// The most images that one request may hold, where a limit is known.
    pub max_images: Option<u64>,
    /// The largest body of a request, in bytes, where a limit is known.
    pub max_request_bytes: Option<u64>,
    /// Level -> the value the provider wants; `None` = the level is not supported.
    pub thinking_level_map: BTreeMap<String, Option<String>>,
    /// Extra request headers; values in the syntax of `secret_value`.
    pub headers: Vec<(String, Secret)>,
    /// Explicit compatibility flags, which beat what is detected.
    pub compat: serde_json::Map<String, serde_json::Value>,
}

/// US dollars per million tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rates {
    pub input: f64,
    pub output: f64,
    pub cache_read: f64,
    pub cache_write: f64,
}

/// The rates of requests whose prompt has more than `above` tokens, whether read from a cache or not.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tier {
    pub above: u64,
    pub rates: Rates,
}

/// The provider APIs that are spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Api {
    AnthropicMessages,
    OpenaiCompletions,
    OpenaiResponses,
    GoogleGenerativeAi,
    /// No API at all: the built-in offline model.
    Offline,
}

/// How much a model thinks before it answers, in ascending order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ThinkingLevel {
    Off,
    Minimal,
    Low,
    Medium,
    High,
    Xhigh,
    Max,
}

/// One request to a model.
pub struct Request<'a> {
    pub model: &'a Model,
    pub system: &'a str,
    pub messages: &'a [Arc<Message>],
    pub tools: &'a [ToolSpec],
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

/// Why a model cannot be had.
#[derive(Clone, Debug, PartialEq)]
pub enum ModelError {
    /// No model has that name; `near` are names that resemble it.
    Unknown { spec: String, near: Vec<String> },
    /// Several providers have a model of that name.
    Ambiguous { spec: String, candidates: Vec<String> },
    /// A configuration file is wrong; the text names it.
    Invalid(String),
    /// There is no key for the provider, or it is of no use; `fix` says what to do.
    Credentials { provider: String, fix: String },
}

impl std::fmt::Display for ModelError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ModelError::Unknown { spec, near } if near.is_empty() => write!(f, "Unknown model \"{spec}\""),
            ModelError::Unknown { spec, near } => {
                write!(f, "Unknown model \"{spec}\"; similar: {}", near.join(", "))
            }
            ModelError::Ambiguous { spec, candidates } => {
                write!(f, "Model \"{spec}\" is offered by several providers; name one: {}", candidates.join(", "))
            }
            ModelError::Invalid(reason) => f.write_str(reason),
            ModelError::Credentials { provider, fix } => write!(f, "No usable credentials for {provider}: {fix}"),
        }
    }
}

impl std::error::Error for ModelError {}

impl Model {
    /// The model's full name, `provider/id`.
    pub fn spec(&self) -> String {
        format!("{}/{}", self.provider, self.id)
    }

    /// An explicit compatibility flag.
    fn flag(&self, name: &str) -> Option<bool> {
        self.compat.get(name)?.as_bool()
    }
}

const API_NAMES: [(Api, &str); 5] = [
    (Api::AnthropicMessages, "anthropic-messages"),
    (Api::OpenaiCompletions, "openai-completions"),
    (Api::OpenaiResponses, "openai-responses"),
    (Api::GoogleGenerativeAi, "google-generative-ai"),
    (Api::Offline, "offline"),
];

impl Api {
    /// The API's name, as configuration files and session files have it.
    pub fn as_str(self) -> &'static str {
        API_NAMES[self as usize].1
    }

    /// The API of that name. The offline one cannot be configured.
    fn parse(name: &str) -> Option<Api> {
        let known = API_NAMES.iter().find(|(api, known)| *known == name && *api != Api::Offline);
        known.map(|(api, _)| *api)
    }
}
