//! Which images of a conversation go into a request, and what stands in place of the others.

use super::SendableOptions;
use super::refused::Omission;
use crate::images::sniff;
use crate::model::model_info::{Api, Model};
use crate::transcript::{Block, Content, Message};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::collections::HashMap;
use std::sync::Arc;

/// The message's number and the block's number in it.
pub(super) type Place = (usize, usize);

const BLIND_USER: &str = "(image omitted: model does not support images)";
const BLIND_TOOL: &str = "(tool image omitted: model does not support images)";
const BLOCKED: &str = "Image reading is disabled.";
const DAMAGED: &str = "(image omitted: it is damaged, or of a format that models do not take)";
const REFUSED: &str = "(image omitted: the model's provider could not process it)";
const TOO_MUCH: &str = "(image omitted: the conversation has more images than fit into one request)";

/// How many characters of base64 hold the bytes by which an image's format is known; a multiple of 4.
const HEAD: usize = 64;
/// Where images exceed a limit, as many more are left out as make this part of it, so that not every further image changes
/// the beginning of the conversation, which the provider has in its cache.
const STEPS: usize = 4;

/// How much one request may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// The size of the whole body.
    pub bytes: usize,
    pub images: usize,
}

impl Limits {
    /// The documented limits of the providers that have some, and the strictest of them for servers that nobody knows.
    pub(crate) fn of(model: &Model) -> Limits {
        const MIB: usize = 1024 * 1024;
        let usual = match (model.provider.as_str(), model.api) {
            (_, Api::AnthropicMessages) => {
                Limits { bytes: 32 * MIB, images: if model.context_window <= 200_000 { 100 } else { 600 } }
            }
            (_, Api::GoogleGenerativeAi) => Limits { bytes: 20 * MIB, images: 3600 },
            ("openai", _) => Limits { bytes: 512 * MIB, images: 1500 },
            _ => Limits { bytes: 50 * MIB, images: 500 },
        };
        let stated = |limit: Option<u64>| limit.and_then(|limit| usize::try_from(limit).ok());
        Limits {
            bytes: stated(model.max_request_bytes).unwrap_or(usual.bytes),
            images: stated(model.max_images).unwrap_or(usual.images),
        }
    }
}

/// What becomes of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ImageVerdict {
    /// The image is sent, under the type that its bytes have.
    Send(&'static str),
    /// A remark stands in the image's place.
    Remark(&'static str),
}

/// Decides about all images of the messages. `surplus` bytes of those that could be sent, at least, are left out, and as
/// many as exceed the limit's number; the oldest first.
pub(super) fn verdicts(messages: &[Arc<Message>], options: &SendableOptions<'_>) -> HashMap<Place, ImageVerdict> {
    let mut verdicts = HashMap::new();
    let mut sent: Vec<(Place, usize)> = Vec::new();
    for (number, message) in messages.iter().enumerate() {
        let (blocks, of_tool) = match &**message {
            Message::User(user) => match &user.content {
                Content::Blocks(blocks) => (blocks, false),
                Content::Text(_) => continue,
            },
            Message::ToolResult(result) => (&result.content, true),
            Message::Assistant(_) => continue,
        };
        for (at, block) in blocks.iter().enumerate() {
            let Block::Image { data, .. } = block else { continue };
            let verdict = if options.block_images {
                ImageVerdict::Remark(BLOCKED)
            } else if !options.model.images {
                ImageVerdict::Remark(if of_tool { BLIND_TOOL } else { BLIND_USER })
            } else {
                match (options.refused.why(options.model, data), format(data)) {
                    (Some(Omission::Refused), _) => ImageVerdict::Remark(REFUSED),
                    (Some(Omission::TooMuch), _) => ImageVerdict::Remark(TOO_MUCH),
                    (None, None) => ImageVerdict::Remark(DAMAGED),
                    (None, Some(mime_type)) => ImageVerdict::Send(mime_type),
                }
            };
            if matches!(verdict, ImageVerdict::Send(_)) {
                sent.push(((number, at), data.len()));
            }
            verdicts.insert((number, at), verdict);
        }
    }
    let Limits { bytes, images } = options.limits;
    let mut number = in_steps(sent.len().saturating_sub(images), images);
    let mut surplus = in_steps(options.surplus, bytes);
    for (place, length) in sent {
        if number == 0 && surplus == 0 {
            break;
        }
        number = number.saturating_sub(1);
        surplus = surplus.saturating_sub(length);
        verdicts.insert(place, ImageVerdict::Remark(TOO_MUCH));
    }
    verdicts
}

/// The excess, rounded up to whole steps of the limit.
fn in_steps(excess: usize, limit: usize) -> usize {
    excess.next_multiple_of((limit / STEPS).max(1))
}

/// What an image is by its first bytes, whatever it was said to be: one of the formats that models take. `None` = it is none
/// of them, or its base64 is broken.
fn format(data: &str) -> Option<&'static str> {
    let digits = data.as_bytes();
    let padding = digits.iter().rev().take(2).take_while(|b| **b == b'=').count();
    let plain = digits.get(..digits.len() - padding)?;
    let sound =
        digits.len().is_multiple_of(4) && plain.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/'));
    let head = sound.then(|| STANDARD.decode(digits.get(..HEAD).unwrap_or(digits)).ok()).flatten()?;
    sniff(&head).filter(|format| format.is_supported()).map(|format| format.mime_type())
}

/// The blocks as they are sent: each run of images with the same remark gives way to one text.
pub(super) fn replace(blocks: &[Block], number: usize, verdicts: &HashMap<Place, ImageVerdict>) -> Option<Vec<Block>> {
    let verdict = |at: usize, block: &Block| match block {
        Block::Image { mime_type, .. } => verdicts
            .get(&(number, at))
            .copied()
            .filter(|verdict| !matches!(verdict, ImageVerdict::Send(is) if is == mime_type)),
        Block::Text { .. } | Block::Thinking { .. } | Block::ToolCall { .. } => None,
    };
    if !blocks.iter().enumerate().any(|(at, block)| verdict(at, block).is_some()) {
        return None;
    }
    let mut out = Vec::with_capacity(blocks.len());
    let mut last = None;
    for (at, block) in blocks.iter().enumerate() {
        let next = match (verdict(at, block), block) {
            (Some(ImageVerdict::Remark(remark)), _) => {
                if last != Some(remark) {
                    out.push(Block::text(remark));
                }
                Some(remark)
            }
            (Some(ImageVerdict::Send(mime_type)), Block::Image { data, .. }) => {
                out.push(Block::Image { data: data.clone(), mime_type: mime_type.to_string() });
                None
            }
            _ => {
                out.push(block.clone());
                None
            }
        };
        last = next;
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::test_support::test_model;

    #[test]
    fn formats_are_known_by_the_first_bytes() {
        let encode = |bytes: &[u8]| STANDARD.encode(bytes);
        for (data, expected) in [
            (encode(b"\x89PNG\r\n\x1a\n"), Some("image/png")),
            (encode(b"\xff\xd8\xff\xe0xyz"), Some("image/jpeg")),
            (encode(b"GIF89a\x01\x00\x01\x00"), Some("image/gif")),
            (encode(b"RIFF....WEBPVP8 "), Some("image/webp")),
            (encode(&[b"\x89PNG\r\n\x1a\n".as_slice(), &[0; 200]].concat()), Some("image/png")),
            (encode(b"%PDF-1.7"), None),
            (String::new(), None),
            ("====".to_string(), None),
            ("iVBORw0KGgo".to_string(), None),
            ("iVBORw0KGgo!".to_string(), None),
            ("iVBORw0K\nGgo".to_string(), None),
        ] {
            assert_eq!(format(&data), expected, "{data}");
        }
    }

    #[test]
    fn stated_limits_come_before_those_of_the_provider() {
        let model = Model { max_images: Some(3), max_request_bytes: Some(1000), ..test_model() };
        assert_eq!(Limits::of(&model), Limits { bytes: 1000, images: 3 });
        let model = Model { max_images: Some(3), ..test_model() };
        assert_eq!(Limits::of(&model), Limits { images: 3, ..Limits::of(&test_model()) });
    }

    #[test]
    fn limits_follow_the_provider() {
        let anthropic = test_model();
        assert_eq!(Limits::of(&anthropic).images, 100);
        assert_eq!(Limits::of(&Model { context_window: 1_000_000, ..anthropic }).images, 600);
        assert_eq!((in_steps(0, 100), in_steps(1, 100), in_steps(26, 100), in_steps(2, 3)), (0, 25, 50, 2));
    }
}
