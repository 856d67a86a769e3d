//! The `anthropic-messages` API: `POST {base}/v1/messages`, answered by server-sent events.

mod request;
mod stream;

use super::ids;
use super::protocol::Protocol;
use super::sendable::Rules;

/// How this API is spoken.
pub(super) const PROTOCOL: Protocol = Protocol {
    rules: Rules { takes_id: |id| !id.is_empty() && ids::sanitize(id) == id, ..Rules::USUAL },
    prepare: request::prepare,
    decoder: |_| Box::new(stream::AnthropicDecoder::default()),
};
