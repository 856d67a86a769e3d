//! Making room in the model's context: when it is due, what is kept, what is summarised, and what a summary looks like.
//!
//! All of it is pure; `crate::turn::compact` does the work with it. Rules and numbers are those of the PI agent, so that both
//! cut a session at the same place. "Characters" are bytes of text, as in [`Message::chars`].

pub(crate) mod prompts;

use super::elide::{elide, limit_for};
use super::message::{AssistantMessage, Block, Content, Message, StopReason, UserMessage};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Characters that count as one token where the provider did not count.
pub(crate) const CHARS_PER_TOKEN: u64 = 4;
/// How much of a tool's result goes into the text that is summarised, in characters.
const RESULT_CHARS: usize = 2000;
/// No paragraph of that text is made shorter than this many characters; rather some are left out.
const MIN_PARAGRAPH: usize = 400;
const PARAGRAPH_END: &str = "\n\n";
/// How a message begins that stands for the part of the conversation that was summarised. PI's words, as PI must know
/// such a message again.
const LEAD_IN: &str =
    "The conversation history before this point was compacted into the following summary:\n\n<summary>\n";
const LEAD_OUT: &str = "\n</summary>";

/// When a context is compacted, and how much of it is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CompactionSettings {
    /// Whether it happens by itself.
    pub enabled: bool,
    /// Tokens of the window that are kept free for the next answer.
    pub reserve_tokens: u64,
    /// Tokens of the newest messages that stay as they are.
    pub keep_recent_tokens: u64,
}

/// Whether a context of so many tokens is too full for a model whose window has `window` tokens.
pub(crate) fn should_compact(tokens: u64, window: u64, settings: &CompactionSettings) -> bool {
    settings.enabled && tokens > window.saturating_sub(settings.reserve_tokens)
}

/// Tokens that a message takes, estimated.
pub(crate) fn estimate(message: &Message) -> u64 {
    message.chars().div_ceil(CHARS_PER_TOKEN)
}

/// Tokens that messages take together, estimated.
pub(crate) fn tokens(messages: &[Arc<Message>]) -> u64 {
    messages.iter().map(|message| estimate(message)).sum()
}

/// Tokens of the whole context: what the provider counted last, plus an estimate of what came after that. Where nothing
/// was counted, `overhead` is added: the tokens of the system prompt and the tools.
pub(crate) fn context_tokens(messages: &[Arc<Message>], overhead: u64) -> u64 {
    let counted = |m: &AssistantMessage| m.usage.total_tokens > 0 && !failed(m);
    let last = messages.iter().enumerate().rev().find_map(|(at, m)| {
        let Message::Assistant(answer) = &**m else { return None };
        counted(answer).then_some((at + 1, answer.usage.total_tokens))
    });
    let (after, known) = last.unwrap_or((0, overhead));
    known.saturating_add(tokens(&messages[after..]))
}

/// Forgets how many tokens the provider counted up to a message, because something before it was summarised or changed
/// since. To be done with the messages that stay, at the time of the change: their order decides what is out of date,
/// and no clock, which may have been set back meanwhile, or may be another host's. (What was used in all is counted
/// elsewhere.)
pub(crate) fn forget_count(message: &mut Message) {
    if let Message::Assistant(answer) = message {
        answer.usage.total_tokens = 0;
    }
}

/// Does the same to all of `messages`.
pub(crate) fn forget_counts(messages: &mut [Arc<Message>]) {
    for message in messages {
        if matches!(&**message, Message::Assistant(answer) if answer.usage.total_tokens > 0) {
            forget_count(Arc::make_mut(message));
        }
    }
}

/// Such answers stay in the transcript as a record, and no model gets to see them.
fn failed(answer: &AssistantMessage) -> bool {
    matches!(answer.stop_reason, StopReason::Error | StopReason::Aborted)
}

/// Where a conversation is cut.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Cut {
    /// The first message that is kept.
    pub first_kept: usize,
    /// Set when the cut goes through a turn: where that turn begins. What it has before the cut is summarised by itself.
    pub turn_start: Option<usize>,
}

/// A result must not be parted from its call.
fn can_be_first(messages: &[Arc<Message>], at: usize) -> bool {
    !matches!(*messages[at], Message::ToolResult(_))
}

fn cut_at(messages: &[Arc<Message>], start: usize, first_kept: usize) -> Cut {
    let starts_turn = |at: &usize| matches!(*messages[*at], Message::User(_));
    let turn_start = (start..=first_kept).rev().find(starts_turn).filter(|&at| at != first_kept);
    Cut { first_kept, turn_start }
}

/// Chooses the cut so that about `keep_recent` tokens stay. Messages before `start` (an earlier summary) are not
/// looked at. `None` if there would be nothing to summarise.
pub(crate) fn cut(messages: &[Arc<Message>], start: usize, keep_recent: u64) -> Option<Cut> {
    let valid = |at: &usize| can_be_first(messages, *at);
    let mut kept = 0;
    let reached = (start..messages.len()).rev().find(|&at| {
        kept += estimate(&messages[at]);
        kept >= keep_recent
    })?;
    let first_kept = (reached..messages.len()).find(valid).or_else(|| (start..reached).rev().find(valid))?;
    (first_kept > start).then(|| cut_at(messages, start, first_kept))
}

/// Chooses the cut so that at most `limit` tokens stay, or as few as possible: for contexts of which what [`cut`] keeps is
/// too long. `None` if there would be nothing to summarise; an earlier summary that takes half of the limit by itself is
/// something.
pub(crate) fn cut_within(messages: &[Arc<Message>], start: usize, limit: u64) -> Option<Cut> {
    let (mut kept, mut first_kept) = (0, None);
    for at in (start..messages.len()).rev() {
        kept += estimate(&messages[at]);
        if kept > limit && first_kept.is_some() {
            break;
        }
        if can_be_first(messages, at) {
            first_kept = Some(at);
        }
    }
    let worth_it = |at: &usize| *at > start || tokens(&messages[..start]) > limit / 2;
    let first_kept = first_kept.filter(worth_it)?;
    Some(cut_at(messages, start, first_kept))
}

/// The conversation as plain text, in which a model finds nothing to go on with. At most about `max_chars` long: of a
/// longer one the long paragraphs are shortened, so that neither a long task nor what was said before it vanishes. Only
/// where they are too many for that, the oldest are left out: first of what the model and its tools said, then of the
/// user's words.
pub(crate) fn serialise(messages: &[Arc<Message>], max_chars: usize) -> String {
    let paragraphs = messages.iter().map(|message| (paragraph(message), matches!(**message, Message::User(_))));
    let mut paragraphs: Vec<(String, bool)> = paragraphs.filter(|(text, _)| !text.is_empty()).collect();
    let lengths: Vec<usize> = paragraphs.iter().map(|(text, _)| text.len() + PARAGRAPH_END.len()).collect();
    let limit = limit_for(lengths.clone(), max_chars, MIN_PARAGRAPH);
    let mut excess = lengths.iter().map(|&length| length.min(limit)).sum::<usize>().saturating_sub(max_chars);
    let mut left_out = 0;
    for users in [false, true] {
        paragraphs.retain(|(text, user)| {
            let leave_out = excess > 0 && *user == users;
            if leave_out {
                excess = excess.saturating_sub((text.len() + PARAGRAPH_END.len()).min(limit));
                left_out += 1;
            }
            !leave_out
        });
    }
    let texts = paragraphs.iter().map(|(text, _)| if text.len() > limit { elide(text, limit) } else { text.clone() });
    let note = (left_out > 0).then(|| format!("[{left_out} older messages left out]"));
    note.into_iter().chain(texts).collect::<Vec<_>>().join(PARAGRAPH_END)
}

fn paragraph(message: &Message) -> String {
    match message {
        Message::User(m) => match &m.content {
            Content::Text(text) => format!("[User]: {text}"),
            Content::Blocks(blocks) => format!("[User]: {}", texts(blocks)),
        },
        Message::Assistant(m) if failed(m) => String::new(),
        Message::Assistant(m) => {
            let mut parts = Vec::new();
            let text = texts(&m.content);
            if !text.is_empty() {
                parts.push(format!("[Assistant]: {text}"));
            }
            let calls: Vec<String> = m.content.iter().filter_map(call).collect();
            if !calls.is_empty() {
                parts.push(format!("[Assistant tool calls]: {}", calls.join("; ")));
            }
            parts.join("\n\n")
        }
        Message::ToolResult(m) => format!("[Tool result]: {}", shortened(&texts(&m.content))),
    }
}

fn texts(blocks: &[Block]) -> String {
    blocks.iter().filter_map(Block::as_text).collect::<Vec<_>>().join("\n")
}

fn call(block: &Block) -> Option<String> {
    let Block::ToolCall { name, arguments, .. } = block else { return None };
    let arguments: Vec<String> = arguments.iter().map(|(key, value)| format!("{key}={value}")).collect();
    Some(format!("{name}({})", arguments.join(", ")))
}

fn shortened(text: &str) -> String {
    if text.len() <= RESULT_CHARS {
        return text.to_string();
    }
    let end = text.floor_char_boundary(RESULT_CHARS);
    format!("{}\n\n[... {} more characters left out]", &text[..end], text.len() - end)
}

/// The files that tool calls read, and those that they changed. A changed file is not listed as read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Files {
    pub read: BTreeSet<String>,
    pub modified: BTreeSet<String>,
}

const READ_FILES: &str = "read-files";
const MODIFIED_FILES: &str = "modified-files";

impl Files {
    /// Adds what the calls in `messages` touched.
    pub(crate) fn note(&mut self, messages: &[Arc<Message>]) {
        for message in messages {
            let Message::Assistant(answer) = &**message else { continue };
            if failed(answer) {
                continue;
            }
            for block in &answer.content {
                let Block::ToolCall { name, arguments, .. } = block else { continue };
                let Some(path) = arguments.get("path").and_then(Value::as_str) else { continue };
                match name.as_str() {
                    "read" => _ = self.read.insert(path.to_string()),
                    "write" | "edit" => _ = self.modified.insert(path.to_string()),
                    _ => {}
                }
            }
        }
        self.read.retain(|path| !self.modified.contains(path));
    }

    /// The lists as session files have them.
    pub(crate) fn details(&self) -> Value {
        json!({"readFiles": self.read, "modifiedFiles": self.modified})
    }

    /// The lists as they stand at the end of a summary.
    fn blocks(&self) -> String {
        let list = |name: &str, paths: &BTreeSet<String>| match paths.is_empty() {
            true => String::new(),
            false => format!("\n\n<{name}>\n{}\n</{name}>", paths.iter().cloned().collect::<Vec<_>>().join("\n")),
        };
        list(READ_FILES, &self.read) + &list(MODIFIED_FILES, &self.modified)
    }

    /// Parts a whole summary into the model's words and the lists at its end.
    pub(crate) fn split(summary: &str) -> (&str, Files) {
        let (summary, modified) = split_list(summary, MODIFIED_FILES);
        let (summary, read) = split_list(summary, READ_FILES);
        (summary, Files { read, modified })
    }
}

fn split_list<'a>(text: &'a str, name: &str) -> (&'a str, BTreeSet<String>) {
    let found =
        text.trim_end().strip_suffix(&format!("\n</{name}>")).and_then(|t| t.rsplit_once(&format!("<{name}>\n")));
    match found {
        Some((before, paths)) => (before.trim_end(), paths.lines().map(str::to_string).collect()),
        None => (text, BTreeSet::new()),
    }
}

/// The text of a whole summary: that of the older messages, that of the beginning of the turn that was cut through,
/// and the lists of files.
pub(crate) fn summary_text(history: Option<&str>, turn: Option<&str>, files: &Files) -> String {
    let mut text = history.unwrap_or("No prior history.").to_string();
    if let Some(turn) = turn {
        text.push_str("\n\n---\n\n**Turn Context (split turn):**\n\n");
        text.push_str(turn);
    }
    text + &files.blocks()
}

/// The message that stands in the context for everything that was summarised. `timestamp` is when that was done, Unix
/// time in milliseconds.
pub(crate) fn summary_message(summary: &str, timestamp: i64) -> Message {
    Message::User(UserMessage { content: Content::Text(format!("{LEAD_IN}{summary}{LEAD_OUT}")), timestamp })
}

/// Whether the message stands for a part of the conversation that was summarised.
pub(crate) fn is_summary(message: &Message) -> bool {
    summary_of(message).is_some()
}

/// How many messages at the beginning of a context are a summary: one or none.
pub(crate) fn summaries(messages: &[Arc<Message>]) -> usize {
    usize::from(messages.first().is_some_and(|message| is_summary(message)))
}

/// The summary in a message of [`summary_message`].
pub(crate) fn summary_of(message: &Message) -> Option<&str> {
    let Message::User(UserMessage { content: Content::Text(text), .. }) = message else { return None };
    text.strip_prefix(LEAD_IN)?.strip_suffix(LEAD_OUT)
}

#[cfg(test)]
mod tests;
