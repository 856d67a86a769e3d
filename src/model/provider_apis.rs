//! The table of the provider APIs.

use super::model_info::Api;
use super::protocol::Protocol;
use super::{anthropic, google, openai_completions, openai_responses};

/// How an API is spoken; `None` for the offline model, which speaks to nobody.
pub fn protocol(api: Api) -> Option<Protocol> {
    match api {
        Api::AnthropicMessages => Some(anthropic::PROTOCOL),
        Api::OpenaiCompletions => Some(openai_completions::PROTOCOL),
        Api::OpenaiResponses => Some(openai_responses::PROTOCOL),
        Api::GoogleGenerativeAi => Some(google::PROTOCOL),
        Api::Offline => None,
    }
}
