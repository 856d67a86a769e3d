//! The `openai-completions` API: `POST {base}/chat/completions`, answered by server-sent events. Every local server and
//! most hosted ones speak it, each in its own way: see `compat`.

mod messages;
mod request;
mod stream;

use super::compat::Compat;
use super::protocol::Protocol;
use super::sendable::Rules;

/// How this API is spoken.
pub(super) const PROTOCOL: Protocol = Protocol {
    rules: Rules {
        foreign_id: messages::foreign_id,
        max_id: 40,
        ids_in_request: false,
        // Thoughts have fields of their own here.
        thought_last: true,
        ..Rules::USUAL
    },
    prepare: request::prepare,
    decoder: |model| Box::new(stream::CompletionsDecoder::new(&Compat::of(model))),
};
