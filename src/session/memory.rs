//! What a session remembers: its transcript, and the session file that keeps it.
//!
//! Everything is in the file before anybody is told of it: a prompt before it is accepted, the intent to run a tool before
//! the tool runs. After a crash the file tells what was accepted and not begun, and what was begun and not finished.

use super::recovery::{
    ACCEPTED, APPROVAL, CONFINED, CONTINUED, FOLDER, HANDED_OVER, HEARD, INTENT, QUESTION, SETTLED, Unfinished,
};
use crate::contract::control::Deliver;
use crate::contract::prompt::Incoming;
use crate::contract::sender::AgentSender;
use crate::contract::session::{SessionStats, Totals};
use crate::files;
use crate::json::object;
use crate::tools::runner::Narrowing;
use crate::traceparent::Traceparent;
use crate::transcript::compaction::forget_counts;
use crate::transcript::contents::MAX_FILE;
use crate::transcript::restore::{Restored, restore};
use crate::transcript::session_file::{Change, SessionFile};
use crate::transcript::{Block, Message, ToolResultMessage};
use serde::Serialize;
use serde_json::{Map, Value, json};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The memory of one session, owned by its actor.
#[derive(Default)]
pub(super) struct Memory {
    messages: Vec<Arc<Message>>,
    /// The entry in the file of each message; empty for a message that could not be written yet.
    ids: Vec<String>,
    file: Option<SessionFile>,
    /// The file, of which nothing is in memory now.
    asleep: Option<PathBuf>,
    /// How many messages there were before it fell asleep.
    slept_with: usize,
    /// How many entries the file had then, where that is known.
    slept_entries: Option<usize>,
    /// How long the file was then, bytes.
    slept_size: u64,
    /// What others did to the file, to be told.
    pub(super) foreign: Vec<Foreign>,
    /// Results that are in the file and not yet among the messages: the calls' ids and the entries'.
    early: Vec<(String, String)>,
    /// The file is there for the sake of a restart only; without it everything goes on.
    pub(super) dispensable: bool,
}

/// What others did to the session file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Foreign {
    /// They appended so many entries, and the conversation goes on from those.
    Entries(usize),
    /// They appended something while a turn was running, which is another branch now.
    Writer,
    /// They deleted or shortened the file, which was written once more.
    Restored(&'static str),
    /// They shortened the file, of which nothing was in memory.
    Shortened,
}

impl Memory {
    /// A memory that is kept in a new file.
    pub(super) fn in_file(file: SessionFile) -> Memory {
        Memory { file: Some(file), ..Memory::default() }
    }

    /// A memory whose file is read when it is needed.
    pub(super) fn asleep(path: PathBuf) -> Memory {
        Memory { slept_size: size(&path), asleep: Some(path), ..Memory::default() }
    }

    /// Says how many messages a sleeping memory has.
    pub(super) fn set_count(&mut self, messages: usize) {
        self.slept_with = messages;
    }

    /// How many messages there are.
    pub(super) fn count(&self) -> usize {
        if self.is_asleep() { self.slept_with } else { self.messages.len() }
    }

    /// The file that it is kept in.
    pub(super) fn path(&self) -> Option<&Path> {
        self.file.as_ref().map(SessionFile::path).or(self.asleep.as_deref())
    }

    /// It could sleep: everything is in a file.
    pub(super) fn can_sleep(&self) -> bool {
        self.file.is_some() && self.ids.iter().all(|id| !id.is_empty())
    }

    pub(super) fn is_asleep(&self) -> bool {
        self.asleep.is_some()
    }

    /// Forgets what can be read again. Only between two prompts.
    pub(super) fn sleep(&mut self) {
        if self.can_sleep()
            && let Some(file) = self.file.take()
        {
            self.asleep = Some(file.path().to_path_buf());
            self.slept_size = size(file.path());
            self.slept_with = self.messages.len();
            self.slept_entries = Some(file.entries());
            self.messages = Vec::new();
            self.ids = Vec::new();
        }
    }

    /// Reads the file, if nothing of it is in memory. Returns what it says beside the messages.
    ///
    /// # Errors
    /// The file cannot be read or written; the memory sleeps on.
    pub(super) fn wake(&mut self) -> io::Result<Option<(Restored, Unfinished)>> {
        let Some(path) = &self.asleep else { return Ok(None) };
        let is_shorter = size(path) < self.slept_size;
        let (file, contents) = SessionFile::open(path)?;
        let unfinished = Unfinished::of(&contents);
        let restored = restore(&contents);
        if let Some(more) = self.slept_entries.take().and_then(|before| file.entries().checked_sub(before))
            && more > 0
        {
            self.foreign.push(Foreign::Entries(more));
        }
        if is_shorter {
            self.foreign.push(Foreign::Shortened);
        }
        self.take_over(&restored);
        self.file = Some(file);
        self.asleep = None;
        Ok(Some((restored, unfinished)))
    }

    fn take_over(&mut self, restored: &Restored) {
        self.messages.clone_from(&restored.messages);
        self.ids.clone_from(&restored.entry_ids);
    }

    /// Takes in what others have appended to the file. Only between two prompts. Returns what the file says then.
    ///
    /// # Errors
    /// The file cannot be read or written, or is another one.
    pub(super) fn refresh(&mut self) -> io::Result<Option<Restored>> {
        let all_written = self.ids.iter().all(|id| !id.is_empty());
        let Some(file) = self.file.as_mut().filter(|_| all_written) else { return Ok(None) };
        let before = file.entries();
        let contents = match file.change()? {
            Change::Appended => file.reload()?,
            Change::Replaced => file.reopen()?,
            Change::None | Change::Shortened | Change::Deleted => return self.look_after().map(|()| None),
        };
        let more = file.entries().saturating_sub(before);
        let restored = restore(&contents);
        self.take_over(&restored);
        self.foreign.push(Foreign::Entries(more));
        Ok(Some(restored))
    }

    /// Makes the file one that can be appended to, whatever others did to it.
    ///
    /// # Errors
    /// That is not possible.
    fn look_after(&mut self) -> io::Result<()> {
        let Some(file) = &mut self.file else { return Ok(()) };
        let done = match file.change()? {
            Change::None => return Ok(()),
            Change::Appended => {
                file.pass_over()?;
                Foreign::Writer
            }
            Change::Deleted => {
                file.put_back()?;
                Foreign::Restored("deleted")
            }
            Change::Shortened => {
                let entries = self.ids.iter().zip(&self.messages);
                let entries = entries.map(|(id, message)| (id.clone(), "message", message_fields(message)));
                self.ids = file.write_anew(entries.collect())?;
                Foreign::Restored("shortened")
            }
            Change::Replaced => return Err(io::Error::other("the session file was replaced by another file")),
        };
        self.foreign.push(done);
        Ok(())
    }

    /// What was said, as the model gets it.
    pub(super) fn messages(&self) -> &[Arc<Message>] {
        &self.messages
    }

    /// Writes an entry, if there is a file.
    fn append(&mut self, kind: &str, fields: &impl Serialize) -> io::Result<String> {
        // Nobody else knows of a dispensable file.
        let looked = if self.dispensable { Ok(()) } else { self.look_after() };
        let Some(file) = &mut self.file else { return Ok(String::new()) };
        match looked.and_then(|()| file.append(kind, fields)) {
            Err(e) if self.dispensable => {
                log::warn!("{}: {e}; the run would not be gone on with after a restart", file.path().display());
                self.file = None;
                Ok(String::new())
            }
            written => written,
        }
    }

    fn append_custom(&mut self, kind: &str, data: impl Serialize) -> io::Result<()> {
        self.append("custom", &CustomEntry { custom_type: kind, data }).map(drop)
    }

    /// Makes what was written so far survive a power cut; but not a file that only a restart needs: its run would wait for the
    /// disk several times as long as for all else.
    pub(super) fn sync(&mut self) {
        if let Some(file) = &mut self.file
            && !self.dispensable
            && let Err(e) = file.sync()
        {
            log::warn!("{}: {e}", file.path().display());
        }
    }

    /// Writes what could not be written before; new things may only be begun when nothing is missing.
    fn catch_up(&mut self) -> io::Result<()> {
        if self.file.is_none() {
            return Ok(());
        }
        for at in 0..self.ids.len() {
            if self.ids[at].is_empty() {
                let message = self.messages[at].clone();
                self.ids[at] = self.append("message", &MessageEntry { message: &message, prompt_id: None })?;
            }
        }
        Ok(())
    }

    /// A message was accepted.
    ///
    /// # Errors
    /// It could not be written, so it is not accepted.
    pub(super) fn accepted(
        &mut self,
        message: &Incoming,
        from: Option<&str>,
        sender: Option<&AgentSender>,
        reply: Option<Value>,
        deliver: Option<Deliver>,
    ) -> io::Result<()> {
        if self.file.is_none() {
            return Ok(());
        }
        self.catch_up()?;
        self.append_custom(ACCEPTED, AcceptedData::of(message, from, sender, reply, deliver))
    }

    /// Whether the file has a message of this id, which nobody could guess.
    pub(super) fn has_accepted(&self, id: &str) -> bool {
        let file = self.path().and_then(|path| files::read(path, MAX_FILE).ok()).unwrap_or_default();
        memchr::memmem::find(&file, id.as_bytes()).is_some()
    }

    /// A message belongs to the transcript; `accepted` is its id if it came from outside.
    ///
    /// # Errors
    /// It could not be written. It is remembered all the same, and written before the next prompt.
    pub(super) fn push(&mut self, message: Arc<Message>, accepted: Option<&str>) -> io::Result<()> {
        let early = match &*message {
            Message::ToolResult(result) => self.early.iter().position(|(call, _)| *call == result.tool_call_id),
            Message::User(_) | Message::Assistant(_) => None,
        };
        let written = match early {
            Some(at) => Ok(self.early.swap_remove(at).1),
            None => self.append("message", &MessageEntry { message: &message, prompt_id: accepted }),
        };
        self.messages.push(message);
        match written {
            Ok(id) => {
                self.ids.push(id);
                Ok(())
            }
            Err(e) => {
                self.ids.push(String::new());
                Err(e)
            }
        }
    }

    /// The caller of these prompts is about to hear the first words of the answer.
    ///
    /// # Errors
    /// It could not be written, so the caller must hear nothing.
    pub(super) fn heard(&mut self, ids: &[String]) -> io::Result<()> {
        self.append_custom(HEARD, HeardData { ids })
    }

    /// A question was opened, or came to its end.
    ///
    /// # Errors
    /// It could not be written. At worst it is asked once more after a restart.
    pub(super) fn question(&mut self, data: Value) -> io::Result<()> {
        self.append_custom(QUESTION, data)
    }

    /// The working folder was saved, or not.
    ///
    /// # Errors
    /// It could not be written.
    pub(super) fn folder(&mut self, data: &Value) -> io::Result<()> {
        self.append_custom(FOLDER, data)
    }

    /// An approval was opened, got another deadline, or was settled.
    ///
    /// # Errors
    /// It could not be written, so nothing may follow from it.
    pub(super) fn approval(&mut self, data: Value) -> io::Result<()> {
        self.append_custom(APPROVAL, data)
    }

    /// A call has come to its end before others of its message. Its result is written now, so that a crash does not lose it.
    ///
    /// # Errors
    /// It could not be written; it is tried again with the other results.
    pub(super) fn finished(&mut self, result: ToolResultMessage) -> io::Result<()> {
        // Of two calls with one id nobody could tell whose result this is.
        if self.file.is_none() || self.early.iter().any(|(call, _)| *call == result.tool_call_id) {
            return Ok(());
        }
        self.catch_up()?;
        let call = result.tool_call_id.clone();
        let entry = self.append("message", &MessageEntry { message: &Message::ToolResult(result), prompt_id: None })?;
        self.early.push((call, entry));
        Ok(())
    }

    /// Tools are about to run: the ids of the calls, and the tools' names.
    ///
    /// # Errors
    /// It could not be written, so none of them must run.
    pub(super) fn intends(&mut self, calls: &[(String, String)]) -> io::Result<()> {
        if self.file.is_none() {
            return Ok(());
        }
        self.catch_up()?;
        self.early.clear();
        for (call_id, tool) in calls {
            self.append_custom(INTENT, json!({"toolCallId": call_id, "toolName": tool}))?;
        }
        self.sync();
        Ok(())
    }

    /// A call of the message whose other calls were intended before is about to run, too.
    ///
    /// # Errors
    /// It could not be written, so it must not run.
    pub(super) fn intends_more(&mut self, call_id: &str, tool: &str) -> io::Result<()> {
        self.append_custom(INTENT, json!({"toolCallId": call_id, "toolName": tool}))?;
        self.sync();
        Ok(())
    }

    /// The prompts of these ids are answered, refused or given up; with the session's figures, so that they can be had
    /// without reading the file, unless other messages that were accepted are `waiting`.
    ///
    /// # Errors
    /// It could not be written. At worst somebody is told once more, after a restart, that a prompt was interrupted.
    pub(super) fn settled(
        &mut self,
        ids: &[String],
        outcome: &str,
        stats: &SessionStats,
        waiting: usize,
    ) -> io::Result<()> {
        if self.file.is_none() {
            return Ok(());
        }
        self.catch_up()?;
        let totals = stats.totals(self.messages.len());
        self.append_custom(SETTLED, SettledData { ids, outcome, totals, waiting: Some(waiting).filter(|n| *n > 0) })
    }

    /// Another process goes on with these prompts where they are. Their callers have heard all that was said.
    ///
    /// # Errors
    /// It could not be written. At worst their callers hear it once more.
    pub(super) fn handed_over(&mut self, ids: &[String]) -> io::Result<()> {
        self.append_custom(HANDED_OVER, json!({"ids": ids}))
    }

    /// After a restart these prompts are worked on once more.
    ///
    /// # Errors
    /// It could not be written, so they must not be.
    pub(super) fn continued(&mut self, ids: &[String]) -> io::Result<()> {
        self.append_custom(CONTINUED, json!({"ids": ids}))?;
        self.sync();
        Ok(())
    }

    /// Something else that the file knows an entry for, such as `model_change`.
    ///
    /// # Errors
    /// It could not be written.
    pub(super) fn note(&mut self, kind: &str, entry: Value) -> io::Result<()> {
        self.append(kind, &entry).map(drop)
    }

    /// The tools are confined to less than before, or than the configuration says.
    ///
    /// # Errors
    /// It could not be written.
    pub(super) fn confined(&mut self, narrowing: Narrowing) -> io::Result<()> {
        if self.file.is_some() { self.append_custom(CONFINED, json!(narrowing)) } else { Ok(()) }
    }

    /// The messages before `first_kept` are replaced by a summary; `entry` is the file's entry without the kept one's id.
    ///
    /// # Errors
    /// It could not be written; nothing has changed.
    pub(super) fn compacted(&mut self, summary: Arc<Message>, first_kept: usize, entry: &Value) -> io::Result<()> {
        self.catch_up()?;
        let mut entry = object(entry.clone());
        let kept = self.ids.get(first_kept).cloned().unwrap_or_default();
        entry.insert("firstKeptEntryId".into(), json!(kept));
        let id = self.append("compaction", &entry)?;
        self.messages.splice(..first_kept.min(self.messages.len()), [summary]);
        self.ids.splice(..first_kept.min(self.ids.len()), [id]);
        forget_counts(&mut self.messages);
        Ok(())
    }

    /// These messages, by index, take the place of longer ones, which the file keeps.
    ///
    /// # Errors
    /// It could not be written; what is not written is longer again when the file is read.
    pub(super) fn shortened(&mut self, messages: Vec<(usize, Arc<Message>)>) -> io::Result<()> {
        self.catch_up()?;
        for (at, message) in messages {
            let Some(after) = self.messages.get_mut(at..) else { continue };
            forget_counts(after);
            let content = serde_json::to_value(&*message)?["content"].take();
            self.messages[at] = message;
            let edit = json!({"targetId": self.ids[at], "replacement": {"content": content}});
            self.append("context_edit", &edit)?;
        }
        Ok(())
    }

    /// The last message is left out of the context; the file keeps it.
    ///
    /// # Errors
    /// It could not be written; the message is left out all the same until the file is read again.
    pub(super) fn omit_last(&mut self) -> io::Result<()> {
        self.messages.pop();
        match self.ids.pop() {
            Some(id) if !id.is_empty() => {
                self.append("context_edit", &json!({"targetId": id, "replacement": null})).map(drop)
            }
            _ => Ok(()),
        }
    }
}

/// An entry of what the host itself keeps, `custom` in the file.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct CustomEntry<'a, D> {
    custom_type: &'a str,
    data: D,
}

/// [`ACCEPTED`].
#[derive(Serialize)]
pub(super) struct AcceptedData<'a> {
    id: &'a str,
    text: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    images: Option<&'a [Block]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expanded: Option<bool>,
    #[serde(rename = "traceparent", skip_serializing_if = "Option::is_none")]
    trace: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sender: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reply: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    deliver: Option<&'a str>,
}

impl<'a> AcceptedData<'a> {
    pub(super) fn of(
        message: &'a Incoming,
        from: Option<&'a str>,
        sender: Option<&AgentSender>,
        reply: Option<Value>,
        deliver: Option<Deliver>,
    ) -> AcceptedData<'a> {
        AcceptedData {
            id: &message.id,
            text: &message.text,
            images: Some(&message.images[..]).filter(|images| !images.is_empty()),
            expanded: (!message.expand).then_some(true),
            trace: message.trace.as_ref().map(Traceparent::as_str),
            from,
            sender: sender.map(AgentSender::document),
            reply,
            deliver: deliver.map(Deliver::as_str),
        }
    }
}

/// [`HEARD`].
#[derive(Serialize)]
struct HeardData<'a> {
    ids: &'a [String],
}

/// [`SETTLED`].
#[derive(Serialize)]
struct SettledData<'a> {
    ids: &'a [String],
    outcome: &'a str,
    totals: Totals,
    #[serde(skip_serializing_if = "Option::is_none")]
    waiting: Option<usize>,
}

/// A message's entry; if the message came from outside, with its id ([`super::recovery::PROMPT_ID`]).
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct MessageEntry<'a> {
    message: &'a Message,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_id: Option<&'a str>,
}

fn message_fields(message: &Message) -> Map<String, Value> {
    object(json!({"message": message}))
}

/// How long a file is, bytes; of one that is not there nothing is missing.
fn size(path: &Path) -> u64 {
    path.metadata().map_or(0, |file| file.len())
}
