//! Finds out what a provider's refusal complains about, and what to leave out so that it has nothing to complain about.

use super::refused::{Habit, Omission, Piece, Refused, habit_piece, thought};
use crate::model::model_info::{Api, Model};
use crate::transcript::{Block, Content, Message, StopReason};
use serde_json::Value;
use std::sync::Arc;

/// How often a refused request is repaired and sent again. What a refusal names is left out at once; where that is a guess,
/// more follows the next time.
pub(crate) const MAX_REPAIRS: usize = 3;

/// A request that was refused.
pub(crate) struct Refusal<'a> {
    pub model: &'a Model,
    /// The provider's words, with the status before them.
    pub text: &'a str,
    pub status: Option<u16>,
    /// The context was too long, which is not for this place to mend.
    pub overflow: bool,
    /// The messages and the body that were sent.
    pub sent: &'a [Arc<Message>],
    pub body: &'a [u8],
    /// How many repairs have not helped.
    pub repairs: usize,
}

/// What to leave out, and the words for it.
#[derive(Debug)]
pub(crate) struct Remedy {
    pieces: Vec<(Piece, Omission)>,
    pub what: &'static str,
}

impl Remedy {
    /// Remembers what to leave out.
    pub(crate) fn add_to(&self, refused: &mut Refused) {
        for (piece, why) in &self.pieces {
            refused.add(*piece, *why);
        }
    }
}

/// What a refusal is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Complaint {
    /// The body is too large.
    TooLarge,
    /// There are more images than this number, or than one that the refusal does not name.
    TooManyImages(Option<usize>),
    Image,
    Thoughts,
    /// Signatures of calls and texts.
    Signatures,
    Habit(Habit),
    /// The refusal does not say. What is new in the request may be meant.
    Something,
}

/// The remedy, if the refusal names something of the history that can be left out. A second one goes further than the first.
pub(crate) fn remedy(refusal: &Refusal<'_>) -> Option<Remedy> {
    let model = refusal.model;
    let complaint = complaint(&refusal.text.to_lowercase(), refusal.status, refusal.overflow)?;
    let images = || images(refusal.sent);
    let left_out = |data: Vec<&str>, why: Omission, what: &'static str| {
        let pieces: Vec<(Piece, Omission)> = data.into_iter().map(|data| (Piece::new(model, data), why)).collect();
        (!pieces.is_empty()).then_some(Remedy { pieces, what })
    };
    let habit = |habit: Habit, what: &'static str| {
        Some(Remedy { pieces: vec![(habit_piece(model, habit), Omission::Refused)], what })
    };
    let again = refusal.repairs > 0;
    match complaint {
        Complaint::TooLarge => {
            let all: usize = images().map(|image| image.data.len()).sum();
            let mut kept = if refusal.repairs + 1 < MAX_REPAIRS { all / 2 } else { 0 };
            // The newest are kept, as many as fit into one half.
            let mut oldest: Vec<&str> = images().map(|image| image.data).collect();
            while let Some(newest) = oldest.last().filter(|data| data.len() <= kept) {
                kept -= newest.len();
                oldest.pop();
            }
            left_out(oldest, Omission::TooMuch, "the oldest images")
        }
        Complaint::TooManyImages(limit) => {
            let all: Vec<&str> = images().map(|image| image.data).collect();
            let kept = match limit {
                Some(limit) if limit < all.len() && !again => limit,
                _ if again => 0,
                _ => all.len() / 2,
            };
            let oldest = all.get(..all.len() - kept).unwrap_or_default().to_vec();
            left_out(oldest, Omission::TooMuch, "the oldest images")
        }
        Complaint::Image | Complaint::Something => {
            let all = || images().map(|image| image.data);
            let named = named(refusal.text, refusal.body);
            let named: Vec<&str> = all().filter(|data| named.iter().any(|named| named.ends_with(data))).collect();
            // A provider that has answered to an image can process it.
            let new: Vec<&str> = images().filter(|image| image.new).map(|image| image.data).collect();
            let data = match (complaint, again) {
                (Complaint::Something, false) => new,
                (Complaint::Something, true) => Vec::new(),
                (_, true) => all().collect(),
                _ if !named.is_empty() => named,
                _ if !new.is_empty() => new,
                _ => all().collect(),
            };
            left_out(data, Omission::Refused, "the images that it may be about")
        }
        Complaint::Thoughts => {
            let blocks = |messages: &[Arc<Message>]| -> Vec<(Piece, Omission)> {
                let thoughts = messages.iter().flat_map(|message| answer(message)).filter_map(thought);
                thoughts.map(|data| (Piece::new(model, data), Omission::Refused)).collect()
            };
            // Claude's models that think by budget want the thoughts of the turn that is going on.
            let by_budget = model.api == Api::AnthropicMessages && model.flag("forceAdaptiveThinking") != Some(true);
            let turn = refusal.sent.iter().rposition(|message| matches!(&**message, Message::User(_))).unwrap_or(0);
            let earlier = blocks(refusal.sent.get(..turn).unwrap_or_default());
            let pieces = if by_budget && !earlier.is_empty() { earlier } else { blocks(refusal.sent) };
            (!pieces.is_empty()).then_some(Remedy { pieces, what: "the thoughts of earlier answers" })
        }
        Complaint::Signatures => {
            let signatures = refusal.sent.iter().flat_map(|message| answer(message)).filter_map(signature);
            let mut pieces: Vec<_> = signatures.map(|data| (Piece::new(model, data), Omission::Refused)).collect();
            pieces.push((habit_piece(model, Habit::WantsSignatures), Omission::Refused));
            (!again).then_some(Remedy { pieces, what: "the signatures of calls" })
        }
        Complaint::Habit(Habit::NoDeveloperRole) => {
            memchr::memmem::find(refusal.body, b"\"role\":\"developer\"")?;
            habit(Habit::NoDeveloperRole, "the role \"developer\"")
        }
        Complaint::Habit(Habit::NoBlockBinding) => {
            memchr::memmem::find(refusal.body, b"\"block_binding\"")?;
            habit(Habit::NoBlockBinding, "block_binding")
        }
        Complaint::Habit(wanted) => {
            (!again).then(|| habit(wanted, "answers that lack their field for thoughts")).flatten()
        }
    }
}

/// What the words, in lower case, complain about.
fn complaint(text: &str, status: Option<u16>, overflow: bool) -> Option<Complaint> {
    let any = |words: &[&str]| words.iter().any(|word| text.contains(word));
    // These are about the key, the account, the load, or a gateway.
    if matches!(status, Some(401..=403 | 408 | 429 | 502..=504 | 520..=530)) {
        return None;
    }
    if any(&["bound to a different conversation", "items are not persisted"]) {
        return Some(Complaint::Thoughts);
    }
    if any(&["block_binding"]) {
        return Some(Complaint::Habit(Habit::NoBlockBinding));
    }
    if any(&["thought_signature", "thought signature", "thoughtsignature"]) {
        return Some(Complaint::Signatures);
    }
    if any(&["reasoning_content"]) && any(&["missing", "must be passed back", "is required"]) {
        return Some(Complaint::Habit(Habit::WantsReasoning));
    }
    if any(&["thinking", "reasoning", "encrypted_content", "encrypted content"])
        && any(&["signature", "block", "item", "encrypted", "reasoning_content", "reasoning_details"])
    {
        return Some(Complaint::Thoughts);
    }
    if status == Some(413)
        || any(&["request_too_large", "request too large", "body is too large", "body too large"])
        || any(&["payload too large", "entity too large", "payload size exceeds", "request size exceeds"])
    {
        return Some(Complaint::TooLarge);
    }
    if any(&["image", "picture", "media_type", "multimodal", "multi-modal"]) {
        let limit = ["at most ", "up to ", "maximum of ", "limit of ", "more than "]
            .iter()
            .filter_map(|words| number_behind(text, words))
            .find_map(|(number, rest)| rest.starts_with("image").then_some(number));
        let many = limit.is_some() || any(&["too many", "many-image", "number of images", "image count"]);
        return Some(if many { Complaint::TooManyImages(limit) } else { Complaint::Image });
    }
    if any(&["developer"])
        || (any(&["role"]) && any(&["unexpected", "unknown", "invalid", "unsupported", "not support"]))
    {
        return Some(Complaint::Habit(Habit::NoDeveloperRole));
    }
    (matches!(status, Some(400 | 422)) && !overflow).then_some(Complaint::Something)
}

/// The number that follows these words, and the text behind it.
fn number_behind<'t>(text: &'t str, words: &str) -> Option<(usize, &'t str)> {
    let rest = text.get(text.find(words)? + words.len()..)?;
    let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    Some((rest.get(..digits)?.parse().ok()?, rest.get(digits..)?.trim_start()))
}

struct Image<'a> {
    data: &'a str,
    /// No answer has come since.
    new: bool,
}

/// The images of the messages, the oldest first.
fn images(messages: &[Arc<Message>]) -> impl Iterator<Item = Image<'_>> {
    let answered = messages
        .iter()
        .rposition(|m| matches!(&**m, Message::Assistant(m) if !matches!(m.stop_reason, StopReason::Error)))
        .map_or(0, |at| at + 1);
    messages.iter().enumerate().flat_map(move |(number, message)| {
        let blocks: &[Block] = match &**message {
            Message::User(user) => match &user.content {
                Content::Blocks(blocks) => blocks,
                Content::Text(_) => &[],
            },
            Message::ToolResult(result) => &result.content,
            Message::Assistant(_) => &[],
        };
        blocks.iter().filter_map(move |block| match block {
            Block::Image { data, .. } => Some(Image { data, new: number >= answered }),
            Block::Text { .. } | Block::Thinking { .. } | Block::ToolCall { .. } => None,
        })
    })
}

/// The blocks of an answer.
fn answer(message: &Message) -> &[Block] {
    match message {
        Message::Assistant(message) => &message.content,
        Message::User(_) | Message::ToolResult(_) => &[],
    }
}

fn signature(block: &Block) -> Option<&str> {
    match block {
        Block::Text { text_signature: signature, .. }
        | Block::ToolCall { thought_signature: signature, .. }
        | Block::Thinking { thinking_signature: signature, .. } => signature.as_deref(),
        Block::Image { .. } => None,
    }
}

/// The strings of the body at the position that the text names, such as `messages.3.content.1` or `input[3].content[1]`.
fn named(text: &str, body: &[u8]) -> Vec<String> {
    let place = ["messages", "input", "contents"].iter().find_map(|root| {
        let mut places = text.match_indices(root).filter_map(|(at, _)| text.get(at + root.len()..));
        Some((*root, places.find(|rest| rest.starts_with(['.', '[']))?))
    });
    let Some((root, path)) = place else { return Vec::new() };
    let Ok(body) = serde_json::from_slice::<Value>(body) else { return Vec::new() };
    let Some(mut node) = body.get(root) else { return Vec::new() };
    let mut found = false;
    let end =
        path.find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '[' | ']' | '_'))).unwrap_or(path.len());
    for step in path.get(..end).unwrap_or_default().split(['.', '[', ']']).filter(|step| !step.is_empty()) {
        let next = step.parse::<usize>().ok().map_or_else(|| node.get(step), |index| node.get(index));
        let Some(next) = next else { break };
        node = next;
        found |= node.is_object();
    }
    let mut strings = Vec::new();
    if found {
        collect(node, &mut strings);
    }
    strings
}

fn collect(value: &Value, strings: &mut Vec<String>) {
    match value {
        Value::String(text) => strings.push(text.clone()),
        Value::Array(list) => list.iter().for_each(|value| collect(value, strings)),
        Value::Object(map) => map.values().for_each(|value| collect(value, strings)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

#[cfg(test)]
mod tests;
