//! How a session begins: new, with a session file that is gone on with, or as it was before the daemon's restart.

use super::Session;
use super::memory::Memory;
use super::recovery::{Accepted, Unfinished, closing_results};
use crate::clock::{iso_time, now_ms};
use crate::contract::error::{ErrorKind, ReplyError};
use crate::contract::prompt::{Incoming, Prompt};
use crate::contract::reply::{Reply, SilentReply};
use crate::contract::wire::Wire;
use crate::ids;
use crate::json::object;
use crate::model::ThinkingLevel;
use crate::session::state_dir::SavedSession;
use crate::transcript::restore::Restored;
use crate::transcript::session_file::SessionFile;
use crate::transcript::{Message, locate};
use crate::turn::{Settled, Work, kill_leftovers};
use serde_json::{Value, json};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

/// Where a session's transcript is kept.
pub(crate) enum Storage {
    /// In memory only.
    None,
    /// In a new file in this folder.
    New(PathBuf),
    /// In a session file that is there; what the request did not choose is taken from it.
    Resume { file: PathBuf, model: bool, thinking: bool },
    /// As before the restart, with the figures of then. Without figures a crash left something undone.
    Saved { file: PathBuf, totals: Option<Value> },
}

impl<W: Wire> Session<W> {
    /// Makes the session's memory, before anything is accepted.
    ///
    /// # Errors
    /// The session file cannot be made, read or written.
    pub(super) fn open(&mut self, storage: Storage) -> io::Result<()> {
        match storage {
            Storage::None => Ok(()),
            Storage::New(folder) => {
                self.create_file(&folder)?;
                self.save();
                Ok(())
            }
            Storage::Resume { file, model, thinking } => {
                self.memory = Memory::asleep(file.clone());
                self.stats.change(|settings| settings.file = Some(file));
                if let Some((restored, unfinished)) = self.memory.wake()? {
                    self.adopt(&restored, model, thinking);
                    self.close_interrupted(&unfinished)?;
                }
                self.save();
                Ok(())
            }
            Storage::Saved { file, totals } => {
                self.memory = Memory::asleep(file);
                if let Some(totals) = totals {
                    let messages = totals["messages"].as_u64().unwrap_or_default();
                    self.memory.set_count(usize::try_from(messages).unwrap_or(usize::MAX));
                    return Ok(());
                }
                // Whatever the last process had started is still running, and would go on unseen.
                kill_leftovers(&self.identity);
                if let Some((restored, unfinished)) = self.memory.wake()? {
                    self.stats.restore_usage(&restored.usage);
                    self.take_up(unfinished)?;
                }
                Ok(())
            }
        }
    }

    fn create_file(&mut self, folder: &Path) -> io::Result<()> {
        let (created, id) = (self.identity.created_ms, ids::uuid(self.identity.created_ms));
        let path = folder.join(locate::file_name(created, &id));
        let mut file = SessionFile::create(&path, &id, &iso_time(created), &self.identity.cwd, None)?;
        let settings = self.stats.settings();
        if self.identity.named {
            let name = settings.name.as_deref().unwrap_or(&self.identity.id);
            file.append("session_info", object(json!({"name": name})))?;
        }
        let model = json!({"provider": settings.model.provider, "modelId": settings.model.id});
        file.append("model_change", object(model))?;
        file.append("thinking_level_change", object(json!({"thinkingLevel": settings.thinking.as_str()})))?;
        self.memory = Memory::in_file(file);
        self.stats.change(|settings| settings.file = Some(path));
        Ok(())
    }

    /// Takes over what a file says of its session, as far as the request left it open.
    fn adopt(&mut self, restored: &Restored, model: bool, thinking: bool) {
        self.stats.restore_usage(&restored.usage);
        let found = restored.model.as_ref().filter(|_| model).and_then(|(provider, id)| {
            let (model, _) = self.services.resolve(&format!("{provider}/{id}")).ok()?;
            self.services.check_credentials(&model).is_ok().then_some(model)
        });
        let level = restored.thinking.as_deref().filter(|_| thinking).and_then(ThinkingLevel::parse);
        self.stats.change(|settings| {
            if let Some(model) = found {
                settings.model = model;
            }
            settings.thinking = settings.model.clamp(level.unwrap_or(settings.thinking));
            settings.name = settings.name.take().or_else(|| restored.name.clone());
        });
    }

    /// Gives every call that was interrupted a result that says so, because nothing else is known of it.
    fn close_interrupted(&mut self, unfinished: &Unfinished) -> io::Result<()> {
        for result in closing_results(self.memory.messages(), &unfinished.intents) {
            self.memory.push(Arc::new(Message::ToolResult(result)), None)?;
        }
        Ok(())
    }

    /// Goes on after a crash: what was begun is closed or, if nothing had happened yet, begun again; what had only been
    /// accepted waits for its turn.
    fn take_up(&mut self, unfinished: Unfinished) -> io::Result<()> {
        self.close_interrupted(&unfinished)?;
        let Unfinished { waiting, interrupted, .. } = unfinished;
        let last = self.memory.messages().last().map(|message| &**message);
        let untouched = matches!(last, Some(Message::User(_)));
        let complete = matches!(last, Some(Message::Assistant(answer)) if answer.is_final());
        if !interrupted.is_empty() && complete {
            let ids: Vec<String> = interrupted.iter().map(|accepted| accepted.id.clone()).collect();
            interrupted.iter().for_each(|accepted| self.reply_of(accepted).finish(Ok(())));
            self.record_settled(&ids, Settled::Done.as_str());
        } else if !interrupted.is_empty() && untouched {
            log::info!("session {}: the prompt that was interrupted is answered now", self.identity.id);
            let reply = self.reply_of(&interrupted[0]);
            let ids = interrupted.into_iter().map(|accepted| accepted.id).collect();
            self.begin(Work::Continue, ids, None, reply);
        } else if !interrupted.is_empty() {
            log::info!("session {}: the prompt that was interrupted is closed", self.identity.id);
            let ids: Vec<String> = interrupted.iter().map(|accepted| accepted.id.clone()).collect();
            self.record_settled(&ids, "interrupted");
            self.stats.count_error();
            let why = "the host was restarted while it worked on this prompt";
            let error = ReplyError::coded(ErrorKind::Interrupted, why);
            self.last_error = Some(error.message.clone());
            for accepted in &interrupted {
                self.reply_of(accepted).finish(Err(error.clone()));
            }
        }
        for accepted in waiting {
            let reply = self.reply_of(&accepted);
            let Accepted { id, text, images, expanded, from, .. } = accepted;
            self.queue.push_last(Prompt {
                message: Incoming { id, text, images, expand: !expanded },
                from,
                sender: None,
                reply,
                received: Instant::now(),
            });
            self.stats.count_prompt();
        }
        self.start_next();
        Ok(())
    }

    fn reply_of(&self, accepted: &Accepted) -> Arc<dyn Reply> {
        let found = accepted.reply.as_ref().and_then(|address| self.wire.as_ref()?.reply_to(address));
        found.unwrap_or_else(|| Arc::new(SilentReply))
    }

    /// Makes the daemon remember the session as it is now. A session that is kept in memory only is not remembered.
    pub(super) fn save(&self) {
        let (Some(state), true) = (&self.state, self.identity.named) else { return };
        let settings = self.stats.settings();
        let Some(file) = settings.file else { return };
        let wire = self.wire.as_ref().map(Wire::settings).unwrap_or_default();
        let left = settings.deadline.map(|end| end.saturating_duration_since(Instant::now()));
        let saved = SavedSession {
            id: self.identity.id.clone(),
            instance_id: self.identity.instance_id.clone(),
            file,
            cwd: self.identity.cwd.clone(),
            model: settings.model.spec(),
            thinking: settings.thinking.as_str().to_owned(),
            name: settings.name,
            from: self.identity.from.clone(),
            tools: self.identity.tools.clone(),
            sandbox: self.identity.sandbox.narrowing(),
            created_at_start: self.identity.created_at_start,
            events: wire.events.unwrap_or(false),
            tool_status: wire.tool_status.unwrap_or(false),
            max_lifetime: settings.max_lifetime,
            ends_ms: left.map(|left| now_ms().saturating_add(i64::try_from(left.as_millis()).unwrap_or(i64::MAX))),
            created_ms: self.identity.created_ms,
        };
        if let Err(e) = state.save(&saved) {
            log::warn!("session {} will not be there after a restart: {e}", self.identity.id);
        }
    }

    /// Writes an entry about the session, if it has a file and that is open. What cannot be written is only reported.
    pub(super) fn record(&mut self, kind: &str, entry: Value) {
        if self.memory.is_asleep() {
            let _ = self.memory.wake().map_err(|e| log::warn!("session {}: {e}", self.identity.id));
        }
        if let Err(e) = self.memory.note(kind, entry) {
            log::warn!("session {}: {kind} is not recorded: {e}", self.identity.id);
        }
    }

    /// Records that messages are answered, refused or given up.
    pub(super) fn record_settled(&mut self, ids: &[String], outcome: &str) {
        if let Err(e) = self.memory.settled(ids, outcome, &self.stats) {
            log::warn!("session {}: the end of a prompt is not recorded: {e}", self.identity.id);
        }
    }
}
