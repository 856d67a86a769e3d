//! Prompts: taken in, worked on one at a time in the order of their arrival, answered.

use super::memory::Foreign;
use super::{Held, Running, Session};
use crate::cancel::Cancel;
use crate::contract::control::{Answer, Deliver};
use crate::contract::documents::{self, Activity, CurrentPrompt, QueuedPrompt};
use crate::contract::error::{ErrorKind, ReplyError};
use crate::contract::event::AgentEvent;
use crate::contract::prompt::{Incoming, Origin, Prompt};
use crate::contract::reply::{Reply, SilentReply};
use crate::contract::wire::Wire;
use crate::quota::Kind;
use crate::slots::Slot;
use crate::threads;
use crate::tools::{ChangedFiles, Changes};
use crate::turn::{Settled, Turn, Work};
use crossbeam_channel::bounded;
use serde_json::json;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Steps of a turn that may be under way; a turn that is faster than its session waits.
const STEPS: usize = 16;

/// How long the end of an answer waits until those who look the session up find it idle. Writing that down takes less than
/// a millisecond; a disk that hangs must not keep answers back for long.
const SHOWN_WITHIN: Duration = Duration::from_secs(1);
/// How long the record of an answer's end waits until the end has left this process, which takes a write to a socket, and after
/// a restart a question to the server first. Without a server or a caller it stays here, and the session goes on.
pub(super) const SAID_WITHIN: Duration = Duration::from_millis(500);

impl<W: Wire> Session<W> {
    /// Takes a prompt that came straight from its caller.
    pub(super) fn arrive(&mut self, mut prompt: Prompt) {
        let admitted = self.closed().map_or(Ok(()), Err).and_then(|()| self.make_room(&mut prompt.message));
        if let Err(error) = admitted {
            self.stats.touch();
            return self.refuse(&*prompt.reply, error);
        }
        self.tell_input(&prompt);
        // Whoever sent it hears of a refusal through its reply.
        let _ = self.accept(prompt);
    }

    /// Tells those who listen of a prompt that has come.
    pub(super) fn tell_input(&mut self, prompt: &Prompt) {
        let event = AgentEvent::Input {
            text: prompt.message.text.clone(),
            images: prompt.message.images.len(),
            source: "rpc",
            behavior: None,
            from: prompt.from.clone(),
            sender: prompt.sender.clone().map(Box::new),
        };
        self.in_trace(prompt.message.trace.clone(), |session| session.publish(event));
    }

    /// Why no prompt can be taken now, if none can.
    pub(super) fn closed(&self) -> Option<ReplyError> {
        // One that leaves takes its queue along.
        let goes_on = self.leaving.is_some() && self.keeps_queue();
        if self.draining && !goes_on {
            Some(ReplyError::shutting_down())
        } else if self.slots.is_paused() && !goes_on {
            Some(ReplyError::draining())
        } else if self.queue.is_full() {
            Some(ReplyError::queue_full(self.queue.len()))
        } else {
            None
        }
    }

    /// Takes room for a message that is to wait.
    ///
    /// # Errors
    /// There is none.
    pub(super) fn make_room(&self, message: &mut Incoming) -> Result<(), ReplyError> {
        let room = self.quota.take(Kind::Prompts, message.size()).map_err(|why| ReplyError::quota_exceeded(&why))?;
        message.room = Some(Arc::new(room));
        Ok(())
    }

    /// A message that waited before a restart, with the room that it takes.
    pub(super) fn with_room(&self, message: Incoming) -> Incoming {
        let room = self.quota.take_anyway(Kind::Prompts, message.size());
        Incoming { room: Some(Arc::new(room)), ..message }
    }

    /// Takes in a prompt for which there is room.
    ///
    /// # Errors
    /// Why it was refused all the same, which its caller was told.
    pub(super) fn accept(&mut self, prompt: Prompt) -> Result<(), ReplyError> {
        self.stats.touch();
        if let Err(e) = self.keep(&prompt) {
            let error = ReplyError::storage(&e);
            self.refuse(&*prompt.reply, error.clone());
            return Err(error);
        }
        self.once_stored(Held::Prompt(Box::new(prompt)));
        Ok(())
    }

    /// Takes in a prompt that is written down.
    pub(super) fn accept_kept(&mut self, prompt: Prompt) {
        self.audit_prompt(&prompt.message, prompt.from.as_deref(), prompt.sender.as_ref(), Deliver::Queue);
        let (reply, id, origin) = (prompt.reply.clone(), prompt.message.id.clone(), prompt.origin());
        self.queue.push_last(prompt);
        // In this order, so that nobody takes a run that has just come for one that is over.
        self.stats.set_queued(self.queue.len());
        self.stats.count_prompt();
        self.start_next();
        // The turn is on its way meanwhile; nobody hears of the prompt before this is done.
        self.memory.sync();
        self.sync_new();
        reply.accepted();
        self.tell_position(&*reply, &id, origin);
    }

    /// Writes a prompt down, so that it is not lost from here on.
    pub(super) fn keep(&mut self, prompt: &Prompt) -> io::Result<()> {
        self.look_at_file()?;
        let (from, sender) = (prompt.from.as_deref(), prompt.sender.as_ref());
        self.memory.accepted(&prompt.message, from, sender, prompt.reply.address(), None)
    }

    /// Reads the session file if nothing of it is in memory, or if others have appended to it while nothing runs.
    pub(super) fn look_at_file(&mut self) -> io::Result<()> {
        let restored = match self.memory.wake()? {
            Some((restored, _)) => Some(restored).filter(|_| !self.memory.foreign.is_empty()),
            None if self.running.is_none() => self.memory.refresh()?,
            None => None,
        };
        if let Some(restored) = restored {
            self.stats.restore_usage(&restored.usage);
        }
        self.tell_foreign();
        Ok(())
    }

    /// Tells what others did to the session file.
    pub(super) fn tell_foreign(&mut self) {
        for foreign in std::mem::take(&mut self.memory.foreign) {
            let (name, data) = match foreign {
                Foreign::Entries(entries) => {
                    ("foreign_entries", json!({"entries": entries, "messages": self.memory.count()}))
                }
                Foreign::Writer => ("foreign_writer", json!({})),
                Foreign::Restored(cause) => ("session_file_restored", json!({"cause": cause})),
                Foreign::Shortened => ("session_file_shortened", json!({"messages": self.memory.count()})),
            };
            log::warn!("session {}: another program changed its file: {name} {data}", self.identity.id);
            self.publish(AgentEvent::Bridge { name, data });
        }
    }

    /// Ends an answer with an error, and counts it.
    pub(super) fn refuse(&mut self, reply: &dyn Reply, error: ReplyError) {
        self.stats.count_error();
        self.stats.progress.failed(&error.message);
        reply.finish(Err(error));
    }

    pub(super) fn start(&mut self, prompt: Prompt, slot: Slot) {
        let origin = prompt.origin();
        // What an aborted prompt left behind follows the new one's words.
        let mut messages = vec![prompt.message];
        let left_behind = self.steering.take_all();
        if !left_behind.is_empty() {
            messages.extend(left_behind);
            self.queues_changed();
        }
        let ids: Vec<String> = messages.iter().map(|message| message.id.clone()).collect();
        self.taken.extend(ids.iter().cloned());
        self.begin(Work::Prompt(messages), ids, origin, prompt.reply);
        if let Some(running) = &mut self.running {
            running.slot = Some(slot);
        }
    }

    /// Starts a turn.
    pub(super) fn begin(&mut self, work: Work, ids: Vec<String>, origin: Origin, reply: Arc<dyn Reply>) {
        let (steps, receiver) = bounded(STEPS);
        let cancel = Cancel::new();
        let settings = self.stats.settings();
        let turn = Turn {
            options: self.options.turn.clone(),
            services: self.services.clone(),
            identity: self.identity.clone(),
            stats: self.stats.clone(),
            model: settings.model,
            thinking: settings.thinking,
            transcript: self.memory.messages().to_vec(),
            reply: self.leased(reply.clone(), &cancel),
            cancel: cancel.clone(),
            steps,
            spill_dir: self.spill_dir.clone(),
            quota: self.quota.clone(),
            runner: self.runner.clone(),
            secrets: self.secrets.clone(),
            trace: origin.trace.clone(),
            produced: Vec::new(),
            overhead: 0,
            has_spoken: false,
            changes: Changes::new(&self.identity.cwd, &self.options.turn.folders.home),
            is_metered: self.is_metered(),
            account: self.account(&ids),
            pushed: self.folder.as_ref().and_then(|folder| folder.saved.commit.clone()),
            shared_day: self.shared_day(),
        };
        // What was begun before a restart had its turn then.
        let slot = matches!(work, Work::Continue { .. }).then(|| self.slots.take_anyway());
        let name = format!("t-{}", self.identity.id);
        match threads::run(&name, move || turn.run(work)) {
            Ok(thread) => {
                self.log.set_trace(origin.trace.clone());
                self.running = Some(Running {
                    ids,
                    origin,
                    reply,
                    started: Instant::now(),
                    tool_calls: 0,
                    cancel,
                    steps: receiver,
                    thread,
                    storage_error: None,
                    batch: 0,
                    begun: Vec::new(),
                    to_be_continued: false,
                    aborters: Vec::new(),
                    unanswered: false,
                    told: false,
                    compaction: None,
                    slot,
                });
            }
            Err(e) => {
                self.taken.clear();
                self.record_settled(&ids, "refused");
                let error = ReplyError::busy(&format!("no thread for the prompt: {e}"));
                self.tell_unworked(&ids, origin, &error);
                self.refuse(&*reply, error);
            }
        }
    }

    /// A prompt is done.
    pub(super) fn settle(&mut self, settled: Settled, changed: ChangedFiles) {
        self.tell_end(&settled, changed);
        let Some(mut running) = self.running.take() else { return };
        self.log.set_trace(None);
        // A tool that was left behind with a broken turn does not take an answer any more.
        self.reject_questions("tool");
        self.withdraw_approvals();
        self.taken.clear();
        self.tell_late_of_folder();
        let exceeded = self.end_spending();
        let settled = running.storage_error.or(exceeded).map_or(settled, Settled::Failed);
        self.idle_since = Instant::now();
        let outcome = settled.as_str();
        if settled != Settled::Aborted {
            self.prompt_leftovers();
        }
        self.audit_settled();
        // The next prompt is on its way, and what others see of the session is true, before the caller hears the end.
        self.start_next();
        // Only now, so that the next prompt of this caller takes its place among the others' first.
        running.slot = None;
        self.stats.touch();
        if let Some(respond) = running.compaction {
            respond(match &settled {
                Settled::Done => Ok(Answer::Document(self.last_compaction.clone().unwrap_or_default())),
                Settled::Failed(error) => Err(error.clone()),
                Settled::Aborted => Err(ReplyError::new(ErrorKind::Conflict, "Compaction cancelled")),
            });
        }
        self.stats.wait_until_shown_idle(SHOWN_WITHIN);
        let aborted = settled == Settled::Aborted;
        if aborted {
            // What whoever aborted takes for ended must not go on after a crash.
            self.record_settled(&running.ids, outcome);
        }
        match settled {
            Settled::Done => running.reply.finish(Ok(())),
            Settled::Failed(error) => self.refuse(&*running.reply, error),
            Settled::Aborted => {
                self.refuse(&*running.reply, ReplyError::aborted());
            }
        }
        for respond in running.aborters {
            respond(Ok(self.state_answer("abort")));
        }
        // Last, because whoever waits shall rather hear the end twice, after a crash right here, than not at all.
        // A file that is removed with its run at once needs no record of the run's end.
        if !aborted && !self.memory.dispensable {
            running.reply.wait_said(SAID_WITHIN);
            self.record_settled(&running.ids, outcome);
        }
        self.store();
    }

    /// Messages that a failed run did not come to take in become a prompt of their own. After an abort they wait for the
    /// next prompt, because whoever aborted wants quiet.
    pub(super) fn prompt_leftovers(&mut self) {
        let mut messages = self.steering.take_all();
        messages.extend(self.follow_up.take_all());
        if messages.is_empty() {
            return;
        }
        for message in messages.into_iter().rev() {
            self.queue.push_first(Prompt {
                message,
                from: None,
                sender: None,
                reply: Arc::new(SilentReply),
                received: Instant::now(),
            });
        }
        self.queues_changed();
    }

    pub(super) fn drain(&mut self) {
        self.draining = true;
        if !self.keeps_queue() {
            self.refuse_queue(&ReplyError::shutting_down());
        }
    }

    /// Refuses everything that waits.
    pub(super) fn refuse_queue(&mut self, error: &ReplyError) {
        let prompts = self.queue.take_all();
        if prompts.is_empty() {
            return;
        }
        let ids: Vec<String> = prompts.iter().map(|prompt| prompt.message.id.clone()).collect();
        for prompt in prompts {
            let origin = prompt.origin();
            self.tell_unworked(&[prompt.message.id], origin, error);
            self.refuse(&*prompt.reply, error.clone());
        }
        self.record_settled(&ids, "refused");
        self.ticket = None;
        self.stats.set_queued(0);
    }

    pub(super) fn inspection(&self) -> serde_json::Value {
        let now = Instant::now();
        let millis = |since: Instant| u64::try_from(now.duration_since(since).as_millis()).unwrap_or(u64::MAX);
        let activity = Activity {
            current: self.running.as_ref().map(|r| CurrentPrompt {
                from: r.origin.from.clone(),
                running_ms: millis(r.started),
                tool_calls: r.tool_calls,
            }),
            queue: self
                .queue
                .iter()
                .enumerate()
                .map(|(at, p)| QueuedPrompt {
                    id: p.message.id.clone(),
                    position: self.position(at),
                    from: p.from.clone(),
                    waiting_ms: millis(p.received),
                    bytes: p.message.text.len(),
                })
                .collect(),
            messages: self.memory.count(),
        };
        documents::inspection(&self.identity, &self.stats, &activity, now)
    }
}
