//! The `google-generative-ai` API: `POST {base}/models/{id}:streamGenerateContent`, answered by server-sent events.

mod family;
mod request;
mod stream;

use super::protocol::Protocol;
use super::sendable::Rules;
pub(super) use family::{Family, NO_SIGNATURE};

/// How this API is spoken.
pub(super) const PROTOCOL: Protocol = Protocol {
    rules: Rules { letter_first: true, thought_last: true, signed_blanks: true, ..Rules::USUAL },
    prepare: request::prepare,
    decoder: |_| Box::new(stream::GoogleDecoder::default()),
};
