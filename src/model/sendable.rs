//! The one place that makes a history sendable: whatever is stored, the request that leaves is valid for its provider.
//!
//! Histories hold what models, tools and callers put into them, and what other programs wrote into session files: names
//! that no provider takes back, ids that are empty or there twice, answers of thoughts alone, images that cannot be
//! decoded or are too many. [`sendable`] brings every request's messages, whatever they are, into the form that
//! [`Rules`] describes for each API, which leaves only the translation into JSON to the API's own file. It is a pure
//! function, and what it makes of the beginning of a conversation does not depend on what follows (but for images over a
//! limit), so that providers find it in their caches. The transcript itself stays as it is.
//!
//! What cannot be known beforehand, the provider's refusal tells: [`remedy()`] finds out which piece of the history it
//! complains about, and `services` sends the request once more without. If that is accepted, the piece is kept in
//! [`Refused`], one memory for the whole process, where the next requests to the same model find it: those of this session
//! and of others, since an image that a provider cannot process is no better elsewhere, and a signature belongs to one
//! conversation anyway. A session has nothing to carry, and the session file keeps everything: after a restart, one more
//! refusal teaches the same again.

mod images;
mod names;
mod refused;
mod remedy;

use super::ids;
use super::model_info::Model;
use crate::transcript::{
    AssistantMessage, Block, Content, Message, StopReason, ToolResultMessage, ToolSpec, UserMessage,
};
pub(super) use images::Limits;
use images::{ImageVerdict, Place, replace, verdicts};
pub(super) use names::resolve_tool_name;
use names::{is_sane_name, sanitize_name};
pub(super) use refused::{Habit, Refused};
pub(super) use remedy::{MAX_REPAIRS, Refusal, Remedy, remedy};
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

const NO_RESULT: &str = "No result provided";
/// Stands for a message without content, which no provider takes.
const EMPTY: &str = "(empty message)";
/// Stands before an answer that nobody asked for, which some providers do not take.
const NO_BEGINNING: &str = "(The beginning of this conversation is missing.)";
/// Stands behind an answer that nobody replied to: providers take a request to go on for a prefilled answer, or not at all.
const GO_ON: &str = "Continue.";
/// How deep arguments may be nested. Google reads them as protocol buffers, which count three levels for each of theirs and
/// end at 100.
const MAX_DEPTH: usize = 32;

/// What one provider API takes in a conversation, beyond what holds for all of them.
pub struct Rules {
    /// Brings the id of a tool call into a form that this API takes.
    pub foreign_id: fn(&str) -> String,
    /// Whether an id that this API gave itself is taken back.
    pub takes_id: fn(&str) -> bool,
    /// The longest id of a call, in bytes.
    pub max_id: usize,
    /// No two calls of a request have the same id; otherwise no two of a message.
    pub ids_in_request: bool,
    /// Ids are two, `call|item`; the first one counts.
    pub item_ids: bool,
    /// Takes out of a block what names thoughts that are not sent with it, if this API has such names.
    pub unnamed: fn(&Block) -> Block,
    /// Names of tools begin with a letter or `_`.
    pub letter_first: bool,
    /// Whether a thought with this signature is taken back.
    pub takes_thought: fn(&str) -> bool,
    /// Thoughts may be the last thing in a message.
    pub thought_last: bool,
    /// A blank text may carry a signature.
    pub signed_blanks: bool,
}

impl Rules {
    /// What most APIs take.
    pub const USUAL: Rules = Rules {
        foreign_id: ids::portable,
        takes_id: |id| !id.is_empty(),
        max_id: 64,
        ids_in_request: true,
        item_ids: false,
        unnamed: Block::clone,
        letter_first: false,
        takes_thought: |_| true,
        thought_last: false,
        signed_blanks: false,
    };
}

/// What a history is made sendable for.
pub(super) struct SendableOptions<'a> {
    pub model: &'a Model,
    pub rules: &'a Rules,
    /// The tools of the request.
    pub offered: &'a [&'a ToolSpec],
    /// The settings forbid images.
    pub block_images: bool,
    pub limits: Limits,
    /// Bytes of images that are to be left out, because the request is longer than the limit by so much.
    pub surplus: usize,
    pub refused: &'a Refused,
}

/// The messages in the form in which they can be sent.
pub(super) fn sendable(messages: &[Arc<Message>], options: &SendableOptions<'_>) -> Vec<Arc<Message>> {
    let mut writer = HistoryWriter {
        options,
        verdicts: verdicts(messages, options),
        out: Vec::with_capacity(messages.len() + 1),
        pending: Vec::new(),
        held: Vec::new(),
        ids: HashSet::new(),
        calls: 0,
    };
    for (number, message) in messages.iter().enumerate() {
        match &**message {
            Message::User(user) => writer.user(number, message, user),
            // Half an answer would only confuse, and its tool calls never ran.
            Message::Assistant(m) if matches!(m.stop_reason, StopReason::Error | StopReason::Aborted) => {}
            Message::Assistant(assistant) => writer.assistant(message, assistant),
            Message::ToolResult(result) => writer.result(number, message, result),
        }
    }
    writer.settle();
    let mut out = writer.out;
    if !matches!(out.first().map(|m| &**m), Some(Message::User(_))) {
        out.insert(0, filler(if out.is_empty() { EMPTY } else { NO_BEGINNING }));
    }
    if matches!(out.last().map(|m| &**m), Some(Message::Assistant(_))) {
        out.push(filler(GO_ON));
    }
    out
}

/// What a user did not say.
fn filler(text: &str) -> Arc<Message> {
    Arc::new(Message::User(UserMessage { content: Content::Text(text.to_string()), timestamp: 0 }))
}

/// A tool call that was sent, and its result once it has come.
struct Pending {
    id: String,
    /// The id and the name as they are sent.
    sent: String,
    name: String,
    result: Option<Arc<Message>>,
}

struct HistoryWriter<'a> {
    options: &'a SendableOptions<'a>,
    verdicts: HashMap<Place, ImageVerdict>,
    out: Vec<Arc<Message>>,
    /// The calls of the last answer.
    pending: Vec<Pending>,
    /// What was said before their results had come: those stand right behind the calls.
    held: Vec<Arc<Message>>,
    /// The ids of calls that are taken.
    ids: HashSet<String>,
    calls: usize,
}

impl HistoryWriter<'_> {
    fn user(&mut self, number: usize, message: &Arc<Message>, user: &UserMessage) {
        let fitted = match &user.content {
            Content::Text(text) if text.trim().is_empty() => filler(EMPTY),
            Content::Text(_) => message.clone(),
            Content::Blocks(blocks) if blocks.iter().all(is_blank) => filler(EMPTY),
            Content::Blocks(blocks) => match replace(blocks, number, &self.verdicts) {
                Some(blocks) => {
                    let content = Content::Blocks(blocks);
                    Arc::new(Message::User(UserMessage { content, timestamp: user.timestamp }))
                }
                None => message.clone(),
            },
        };
        if self.pending.is_empty() { self.out.push(fitted) } else { self.held.push(fitted) }
    }

    /// A result without its call is refused by every provider, so it is left out. Of calls with the same id, the first one
    /// without result is meant.
    fn result(&mut self, number: usize, message: &Arc<Message>, result: &ToolResultMessage) {
        let waits = |call: &&mut Pending| call.id == result.tool_call_id && call.result.is_none();
        let Some(call) = self.pending.iter_mut().find(waits) else { return };
        let replaced = replace(&result.content, number, &self.verdicts);
        let same = call.sent == result.tool_call_id && call.name == result.tool_name;
        call.result = Some(if same && replaced.is_none() {
            message.clone()
        } else {
            Arc::new(Message::ToolResult(ToolResultMessage {
                tool_call_id: call.sent.clone(),
                tool_name: call.name.clone(),
                content: replaced.unwrap_or_else(|| result.content.clone()),
                details: None,
                ..*result
            }))
        });
    }

    /// Every call gets its result right behind it, in the calls' order; those that have none get one that says so.
    fn settle(&mut self) {
        for call in self.pending.drain(..) {
            self.out.push(call.result.unwrap_or_else(|| {
                Arc::new(Message::ToolResult(ToolResultMessage {
                    tool_call_id: call.sent,
                    tool_name: call.name,
                    content: vec![Block::text(NO_RESULT)],
                    details: None,
                    is_error: true,
                    duration_ms: None,
                    timestamp: 0,
                }))
            }));
        }
        self.out.append(&mut self.held);
    }

    fn assistant(&mut self, message: &Arc<Message>, assistant: &AssistantMessage) {
        self.settle();
        let model = self.options.model;
        let same =
            assistant.provider == model.provider && assistant.api == model.api.as_str() && assistant.model == model.id;
        if !self.options.rules.ids_in_request {
            self.ids.clear();
        }
        let mut content: Vec<Cow<'_, Block>> = Vec::with_capacity(assistant.content.len());
        for block in &assistant.content {
            if let Some(sent) = self.block(block, same) {
                if let (Block::ToolCall { id, .. }, Block::ToolCall { id: sent, name, .. }) = (block, &*sent) {
                    let (id, sent, name) = (id.clone(), sent.clone(), name.clone());
                    self.pending.push(Pending { id, sent, name, result: None });
                }
                content.push(sent);
            }
        }
        let is_thought = |block: &Cow<'_, Block>| matches!(**block, Block::Thinking { .. });
        while content.last().is_some_and(is_thought)
            && (!self.options.rules.thought_last || content.iter().all(is_thought))
        {
            content.pop();
        }
        if content.is_empty() {
            return;
        }
        let thoughts = assistant.content.iter().filter(|block| matches!(block, Block::Thinking { .. })).count();
        if self.options.rules.item_ids && content.iter().filter(|block| is_thought(block)).count() < thoughts {
            content = content.iter().map(|block| Cow::Owned((self.options.rules.unnamed)(block))).collect();
            let calls = content.iter().filter_map(|block| match &**block {
                Block::ToolCall { id, .. } => Some(id),
                Block::Text { .. } | Block::Thinking { .. } | Block::Image { .. } => None,
            });
            self.pending.iter_mut().zip(calls).for_each(|(call, id)| call.sent.clone_from(id));
        }
        let whole = content.len() == assistant.content.len();
        self.out.push(if whole && content.iter().all(|block| matches!(block, Cow::Borrowed(_))) {
            message.clone()
        } else {
            let content = content.into_iter().map(Cow::into_owned).collect();
            Arc::new(Message::Assistant(AssistantMessage { content, ..assistant.clone() }))
        });
    }

    /// A block of an answer as it is sent, if it is; `same` says that this model wrote it.
    fn block<'b>(&mut self, block: &'b Block, same: bool) -> Option<Cow<'b, Block>> {
        let SendableOptions { model, rules, refused, .. } = *self.options;
        let refuses = |signature: &Option<String>| {
            signature.as_ref().is_some_and(|signature| !same || refused.why(model, signature).is_some())
        };
        match block {
            Block::Thinking { thinking, thinking_signature, redacted } => {
                let signature = thinking_signature.as_deref().unwrap_or("");
                let whole = if signature.is_empty() {
                    !redacted && !thinking.trim().is_empty()
                } else {
                    (rules.takes_thought)(signature)
                };
                (same && whole && !refused.thinking(model, block)).then_some(Cow::Borrowed(block))
            }
            Block::Text { text, text_signature } => {
                let signed = rules.signed_blanks && text_signature.as_ref().is_some_and(|s| !s.is_empty());
                let refuses = refuses(text_signature);
                if text.trim().is_empty() && (!signed || refuses) {
                    None
                } else if refuses {
                    Some(Cow::Owned(Block::text(text.clone())))
                } else {
                    Some(Cow::Borrowed(block))
                }
            }
            Block::ToolCall { id, name, arguments, thought_signature, arguments_error } => {
                let sent_id = self.id(id, same);
                let sent_name = self.name(name);
                let shallow = arguments.values().all(|value| is_shallow(value, MAX_DEPTH));
                let refuses = refuses(thought_signature);
                if shallow && !refuses && *sent_id == **id && *sent_name == **name {
                    return Some(Cow::Borrowed(block));
                }
                Some(Cow::Owned(Block::ToolCall {
                    id: sent_id.into_owned(),
                    name: sent_name.into_owned(),
                    arguments: if shallow { arguments.clone() } else { Map::new() },
                    thought_signature: thought_signature.clone().filter(|_| !refuses),
                    arguments_error: arguments_error.clone(),
                }))
            }
            Block::Image { .. } => None,
        }
    }

    fn name<'n>(&self, name: &'n str) -> Cow<'n, str> {
        let letter_first = self.options.rules.letter_first;
        if is_sane_name(name, letter_first) {
            return Cow::Borrowed(name);
        }
        let offered = self.options.offered.iter().map(|tool| tool.name.as_str());
        let meant = resolve_tool_name(name, offered).map(str::to_string);
        Cow::Owned(meant.unwrap_or_else(|| sanitize_name(name, letter_first)))
    }

    /// The id of a call as it is sent: of the API's form, and no other call's.
    fn id<'i>(&mut self, id: &'i str, same: bool) -> Cow<'i, str> {
        let rules = self.options.rules;
        self.calls += 1;
        let mut sent =
            if same && (rules.takes_id)(id) { Cow::Borrowed(id) } else { Cow::Owned((rules.foreign_id)(id)) };
        let (call, _) = parts(&sent, rules.item_ids);
        if call.is_empty() || self.ids.contains(call) {
            sent = Cow::Owned(other_id(&sent, self.calls, rules, &self.ids));
        }
        self.ids.insert(parts(&sent, rules.item_ids).0.to_string());
        sent
    }
}

/// The part of an id that names the call, and the rest.
fn parts(id: &str, item_ids: bool) -> (&str, &str) {
    id.split_at(if item_ids { id.find('|').unwrap_or(id.len()) } else { id.len() })
}

/// An id for the call with this number that is not taken, as like its own as can be.
fn other_id(id: &str, number: usize, rules: &Rules, taken: &HashSet<String>) -> String {
    let (call, item) = parts(id, rules.item_ids);
    let base = if call.is_empty() { format!("call_{number}") } else { call.to_string() };
    let mut candidate = base.clone();
    let mut attempt = 1;
    while taken.contains(&candidate) {
        attempt += 1;
        let end = format!("_{attempt}");
        let room = base.floor_char_boundary(rules.max_id.saturating_sub(end.len()));
        candidate = format!("{}{end}", base.get(..room).unwrap_or_default());
    }
    candidate + item
}

/// Whether no more than `depth` lists and objects are inside each other.
fn is_shallow(value: &Value, depth: usize) -> bool {
    match value {
        Value::Array(list) => depth > 1 && list.iter().all(|value| is_shallow(value, depth - 1)),
        Value::Object(map) => depth > 1 && map.values().all(|value| is_shallow(value, depth - 1)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => true,
    }
}

fn is_blank(block: &Block) -> bool {
    match block {
        Block::Text { text, .. } => text.trim().is_empty(),
        Block::Image { .. } => false,
        Block::Thinking { .. } | Block::ToolCall { .. } => true,
    }
}

#[cfg(test)]
mod random_histories;
#[cfg(test)]
mod tests;
