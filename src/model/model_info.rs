//! What is known of a model, whoever described it, and why a model cannot be had.

use super::secret_value::Secret;
use std::collections::BTreeMap;

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
    /// The length of prompt and answer together, in tokens.
    pub context_window: u64,
    /// The longest answer, in tokens.
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

/// Why a model cannot be had.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum ModelError {
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
    pub fn flag(&self, name: &str) -> Option<bool> {
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
    pub fn parse(name: &str) -> Option<Api> {
        let known = API_NAMES.iter().find(|(api, known)| *known == name && *api != Api::Offline);
        known.map(|(api, _)| *api)
    }
}
