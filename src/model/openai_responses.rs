//! The `openai-responses` API: `POST {base}/responses`, answered by server-sent events.

mod request;
mod stream;

use super::protocol::Protocol;
use super::sendable::Rules;

/// How this API is spoken.
pub(super) const PROTOCOL: Protocol = Protocol {
    rules: Rules {
        foreign_id: request::foreign_id,
        takes_id: request::takes_id,
        item_ids: true,
        unnamed: request::unnamed,
        takes_thought: request::takes_thought,
        ..Rules::USUAL
    },
    prepare: request::prepare,
    decoder: |_| Box::new(stream::ResponsesDecoder::default()),
};
