//! Shortening: what becomes of texts that are too long for the model, so that no conversation dies of its own history.
//!
//! A compaction replaces old messages by a summary. It cannot help where a single message, or the results of a single
//! turn, are longer than the model's window: what was said last has to stay. Of such messages the longest texts are cut
//! inside: their head and their tail stay, and a note between them says how much is missing, so that the model knows, can
//! say so, or can ask for the missing part with a smaller call.
//!
//! A shortened message is kept as an edit in the session file (PI's `context_edit`, which replaces the content for the
//! model and leaves the original entry as it is). So the next request does not overflow again, a restart and PI see the
//! same conversation, and the provider's prompt cache stays valid, none of which would hold if every request were
//! shortened anew by estimates that move with the conversation. A prompt that is longer than the window is shortened like
//! everything else, and answered: the note tells the model what it has not seen, where an error would tell nobody but
//! the caller, and would have to be remembered in the conversation all the same.
//!
//! What gives way, in this order: long results of tools, long words of the user, images from the oldest on, then shorter
//! ones of both, at last what the model itself said and wrote into its calls. Thoughts stay whole: they are signed.
//! All of it is pure, and depends on nothing but the messages and the budget.

use super::compaction::{CHARS_PER_TOKEN, is_summary};
use super::elide::{MIN_TEXT, elide, limit_for};
use super::message::{Block, Content, IMAGE_CHARS, Message, UserMessage};
use serde_json::Value;
use std::sync::Arc;

const IMAGE_NOTE: &str = "[An image is left out here, because the conversation is too long for the model.]";

/// Who a text comes from.
#[derive(PartialEq, Eq)]
enum Source {
    Tool,
    User,
    Model,
}

/// The messages of which something had to be cut, with their indexes, so that all `messages` together take about `budget`
/// tokens; empty if they do as they are, or if there is nothing to cut. A summary is never touched.
pub(crate) fn shorten(messages: &[Arc<Message>], budget: u64) -> Vec<(usize, Arc<Message>)> {
    let budget = usize::try_from(budget.saturating_mul(CHARS_PER_TOKEN)).unwrap_or(usize::MAX);
    let long = (budget / 8).max(MIN_TEXT);
    let mut now = messages.to_vec();
    cut_texts(&mut now, budget, &[Source::Tool], long);
    cut_texts(&mut now, budget, &[Source::User], long);
    drop_images(&mut now, budget);
    cut_texts(&mut now, budget, &[Source::Tool, Source::User], MIN_TEXT);
    cut_texts(&mut now, budget, &[Source::Model], MIN_TEXT);
    let now = now.into_iter().enumerate();
    now.filter(|(at, message)| *message != messages[*at]).collect()
}

/// How many bytes the messages are over the budget.
fn excess(messages: &[Arc<Message>], budget: usize) -> usize {
    let total: u64 = messages.iter().map(|message| message.chars()).sum();
    usize::try_from(total).unwrap_or(usize::MAX).saturating_sub(budget)
}

/// Cuts the longest texts of these sources until the budget is kept or no text is longer than `least`.
fn cut_texts(messages: &mut [Arc<Message>], budget: usize, sources: &[Source], least: usize) {
    let excess = excess(messages, budget);
    if excess == 0 {
        return;
    }
    let mut each = |work: &mut dyn FnMut(&mut String)| {
        for message in messages.iter_mut().filter(|message| source(message).is_some_and(|s| sources.contains(&s))) {
            each_text(Arc::make_mut(message), work);
        }
    };
    let mut lengths = Vec::new();
    each(&mut |text| lengths.push(text.len()));
    let total: usize = lengths.iter().sum();
    let limit = limit_for(lengths, total.saturating_sub(excess), least);
    each(&mut |text| {
        if text.len() > limit {
            *text = elide(text, limit);
        }
    });
}

fn source(message: &Message) -> Option<Source> {
    match message {
        Message::User(_) if is_summary(message) => None,
        Message::User(_) => Some(Source::User),
        Message::Assistant(_) => Some(Source::Model),
        Message::ToolResult(_) => Some(Source::Tool),
    }
}

/// Every text of a message that may be cut.
fn each_text(message: &mut Message, work: &mut dyn FnMut(&mut String)) {
    if let Message::User(UserMessage { content: Content::Text(text), .. }) = message {
        return work(text);
    }
    for block in blocks(message) {
        match block {
            Block::Text { text, .. } => work(text),
            Block::ToolCall { arguments, .. } => arguments.values_mut().for_each(|value| each_string(value, work)),
            Block::Thinking { .. } | Block::Image { .. } => {}
        }
    }
}

fn each_string(value: &mut Value, work: &mut dyn FnMut(&mut String)) {
    match value {
        Value::String(text) => work(text),
        Value::Array(values) => values.iter_mut().for_each(|value| each_string(value, work)),
        Value::Object(values) => values.values_mut().for_each(|value| each_string(value, work)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn blocks(message: &mut Message) -> &mut [Block] {
    match message {
        Message::User(UserMessage { content: Content::Blocks(blocks), .. }) => blocks,
        Message::User(UserMessage { content: Content::Text(_), .. }) => &mut [],
        Message::Assistant(message) => &mut message.content,
        Message::ToolResult(message) => &mut message.content,
    }
}

/// Puts a note in the place of images, the oldest first, until the budget is kept.
fn drop_images(messages: &mut [Arc<Message>], budget: usize) {
    let mut excess = excess(messages, budget);
    for message in messages {
        if excess == 0 {
            return;
        }
        // Nothing else counts for so much.
        if message.chars() < IMAGE_CHARS {
            continue;
        }
        for block in blocks(Arc::make_mut(message)) {
            if matches!(block, Block::Image { .. }) && excess > 0 {
                *block = Block::text(IMAGE_NOTE);
                excess = excess.saturating_sub(IMAGE_CHARS as usize - IMAGE_NOTE.len());
            }
        }
    }
}

#[cfg(test)]
mod tests;
