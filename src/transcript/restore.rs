//! From a session file's entries to the messages for the model: pure.

use super::compaction::{forget_count, summary_message};
use super::contents::Contents;
use super::message::{Block, Message, Usage, UserMessage};
use super::stored_message::{self, blocks, content};
use crate::clock::parse_time;
use crate::json::{Fields, take_text};
use serde_json::Value;
use std::collections::HashMap;
use std::sync::Arc;

/// What a session file says of its session, along its active branch.
#[derive(Debug, Default)]
pub struct Restored {
    pub name: Option<String>,
    /// Provider and id of the model used last.
    pub model: Option<(String, String)>,
    pub thinking: Option<String>,
    /// The messages for the model, oldest first.
    pub messages: Vec<Arc<Message>>,
    /// The id of the entry that each of `messages` comes from.
    pub entry_ids: Vec<String>,
    /// What all requests of the file have used, those of other branches included.
    pub usage: Usage,
}

/// A message with the place of its entry in the active branch.
struct ContextMessage {
    at: usize,
    entry_id: String,
    message: Message,
}

/// Follows the active branch and builds from it the messages for the model. Entries of unknown types, and those that make no
/// sense, are passed over.
pub fn restore(contents: &Contents) -> Restored {
    let mut restored = Restored { usage: contents.usage, ..Restored::default() };
    let path = contents.active_path();
    let mut summary: Option<ContextMessage> = None;
    let mut context: Vec<ContextMessage> = Vec::new();
    // The latest edit of an entry counts.
    let mut edits: HashMap<String, Value> = HashMap::new();
    for (at, &index) in path.iter().enumerate() {
        let (Some(mut entry), Some(id)) = (contents.entry(index), contents.id(index)) else { continue };
        let mut text = |key: &str| take_text(&mut entry, key);
        match text("type").unwrap_or_default().as_str() {
            "model_change" => restored.model = text("provider").zip(text("modelId")).or(restored.model),
            "thinking_level_change" => restored.thinking = text("thinkingLevel").or(restored.thinking),
            "session_info" => {
                let name = text("name").unwrap_or_default();
                restored.name = Some(name.trim().to_string()).filter(|name| !name.is_empty());
            }
            "context_edit" => {
                let replacement = entry.remove("replacement").unwrap_or_default();
                if let Some(target) = take_text(&mut entry, "targetId") {
                    let edited = context.iter().position(|item| item.entry_id == target).unwrap_or(context.len());
                    context[edited..].iter_mut().for_each(|item| forget_count(&mut item.message));
                    edits.insert(target, replacement);
                }
            }
            "compaction" => {
                let Some(words) = text("summary") else { continue };
                // What was kept may begin with an entry that is no message. One that is not there means that nothing was.
                let first_kept = first_kept(&entry, contents);
                let is_first = |index: &usize| contents.id(*index) == first_kept.as_deref();
                let kept = path[..at].iter().position(is_first).unwrap_or(at);
                context.retain(|item| item.at >= kept);
                context.iter_mut().for_each(|item| forget_count(&mut item.message));
                let message = summary_message(&words, timestamp(&entry, context.last()));
                summary = Some(ContextMessage { at, entry_id: id.to_string(), message });
            }
            kind => {
                let timestamp = timestamp(&entry, context.last());
                let Some(message) = message(kind, entry, timestamp) else { continue };
                if let Message::Assistant(answer) = &message
                    && !answer.model.is_empty()
                {
                    restored.model = Some((answer.provider.clone(), answer.model.clone()));
                }
                context.push(ContextMessage { at, entry_id: id.to_string(), message });
            }
        }
    }
    context.retain_mut(|item| edits.get(&item.entry_id).is_none_or(|edit| apply(edit, &mut item.message)));
    order_results(&mut context);
    for item in summary.into_iter().chain(context) {
        restored.entry_ids.push(item.entry_id);
        restored.messages.push(Arc::new(item.message));
    }
    restored
}

/// Brings results of calls that ran at the same time, which are in the file as they came, into the order of the calls.
fn order_results(context: &mut [ContextMessage]) {
    let mut rest = context;
    while let Some((first, after)) = rest.split_first_mut() {
        let results = after.iter().take_while(|item| matches!(item.message, Message::ToolResult(_))).count();
        if let (Message::Assistant(answer), 2..) = (&first.message, results) {
            let call = |item: &ContextMessage| match &item.message {
                Message::ToolResult(result) => answer
                    .content
                    .iter()
                    .position(|block| matches!(block, Block::ToolCall { id, .. } if *id == result.tool_call_id)),
                Message::User(_) | Message::Assistant(_) => None,
            };
            // Those of calls that are not there stay behind the others.
            after[..results].sort_by_key(|item| call(item).unwrap_or(usize::MAX));
        }
        rest = after;
    }
}

/// The id of the first entry that a compaction kept.
pub(super) fn first_kept(compaction: &Fields, contents: &Contents) -> Option<String> {
    if let Some(id) = compaction.get("firstKeptEntryId").and_then(Value::as_str) {
        return Some(id.to_string());
    }
    // Version 1 had the number of its line instead, the header's being 0.
    let line = compaction.get("firstKeptEntryIndex").and_then(Value::as_u64)?;
    contents.id(usize::try_from(line).ok()?.checked_sub(1)?).map(str::to_string)
}

/// When an entry was written, Unix time in milliseconds; where it does not say, the time of the message before it.
fn timestamp(entry: &Fields, before: Option<&ContextMessage>) -> i64 {
    let written = entry.get("timestamp").and_then(|time| parse_time(time.as_str()?));
    let before = || before.map_or(0, |item| item.message.timestamp());
    written.unwrap_or_else(before)
}

/// The message for the model that an entry stands for, if there is one.
fn message(kind: &str, mut entry: Fields, timestamp: i64) -> Option<Message> {
    match kind {
        "message" => {
            let Value::Object(message) = entry.remove("message")? else { return None };
            stored_message::for_model(message, timestamp)
        }
        "custom_message" => {
            let content = content(entry.remove("content")?)?;
            Some(Message::User(UserMessage { content, timestamp }))
        }
        "branch_summary" => {
            let summary = entry.get("summary")?.as_str().filter(|summary| !summary.is_empty())?;
            Some(stored_message::branch_summary(summary, timestamp))
        }
        _ => None,
    }
}

/// Puts an edit's content in the place of a message's; `false` if the edit takes the message away.
fn apply(edit: &Value, message: &mut Message) -> bool {
    let Some(replacement) = edit.get("content") else { return !edit.is_null() };
    match message {
        Message::User(message) => {
            if let Some(content) = content(replacement.clone()) {
                message.content = content;
            }
        }
        Message::Assistant(message) => message.content = blocks(replacement.clone()),
        Message::ToolResult(message) => message.content = blocks(replacement.clone()),
    }
    true
}

#[cfg(test)]
mod tests;
