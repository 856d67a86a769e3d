//! Talking to models: which there are, how to pay for them, and one folder per provider API.
//!
//! | part | files |
//! |---|---|
//! | which models there are | `model_info`, `thinking`, `catalog`, `definition`, `models_json`, `registry`, `settings`, `config_file`, `odd_values` |
//! | who pays | `credentials`, `secret_value`, `oauth` |
//! | transport | `http`, `sse`, `throttle` |
//! | one request | `services` (the way in), `request`, `sendable`, `exchange`, `reading`, `answer`, `lenient`, `usage`, `retry`, `overflow` |
//! | errors | `error_body`, `error_words`, `stated_error`, `waits` |
//! | provider APIs | `provider_apis` (the table), `protocol` (what all of them have in common), `anthropic`, `openai_completions` (with `compat`), `openai_responses`, `google`, `offline`; `ids`, `openai_fields` and `openai_usage` are shared by several |
//!
//! This file names what the rest of the program uses. The modules import each other directly and never through it, and no
//! two of them import each other. Each provider API has its request in `request` and its answer in `stream`.

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
mod ids;
mod lenient;
mod local_model;
mod model_info;
mod models_json;
mod oauth;
mod odd_values;
pub(crate) mod offline;
mod openai_completions;
mod openai_fields;
mod openai_responses;
mod openai_usage;
pub(crate) mod overflow;
mod protocol;
mod provider_apis;
mod reading;
mod registry;
mod request;
pub(crate) mod retry;
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

pub use answer::Answer;
pub(crate) use credentials::host_secret;
#[cfg(test)]
pub(crate) use local_model::LocalModel;
pub use model_info::Model;
pub use model_info::{Api, Rates};
pub(crate) use oauth::Endpoints as OauthEndpoints;
pub use provider_apis::protocol;
pub use reading::{Source, read};
#[cfg(test)]
pub(crate) use request::RequestError;
pub use request::{Outcome, Request, Sink, StreamEvent};
pub(crate) use services::Services;
pub(crate) use settings::QueueMode;
pub use sse::Events;
pub use thinking::ThinkingLevel;
pub(crate) use usage::{Most, spent};
