//! How a session ends.

use super::{SETTLE_TIMEOUT, Session};
use crate::contract::error::ReplyError;
use crate::contract::event::AgentEvent;
use crate::contract::prompt::EndReason;
use crate::contract::session::OnRestart;
use crate::contract::wire::Wire;
use crate::tools::ChangedFiles;
use crate::turn::{self, Settled, Step};
use serde_json::json;
use std::time::Instant;

impl<W: Wire> Session<W> {
    /// Ends the session: every stream gets its end, no child process and no file of the session stays behind.
    #[inline(never)]
    pub(super) fn end(&mut self, reason: EndReason) {
        let goes_on = reason == EndReason::ShutDown && self.goes_on();
        if !goes_on {
            self.reject_questions("shutdown");
        }
        let ends = self.running.is_some() && self.identity.on_restart == OnRestart::End;
        let remembered = reason == EndReason::ShutDown && (goes_on || self.identity.named && !ends);
        if let Some(running) = &mut self.running {
            running.to_be_continued = goes_on;
            running.cancel.cancel();
            let settled = self.wait_for_settlement();
            self.end_running(goes_on, settled, self.farewell(reason));
        }
        self.refuse_queue(&self.farewell(reason));
        self.stats.set_running(false);
        if !remembered {
            let waiting = self.steering.take_all().into_iter().chain(self.follow_up.take_all());
            let ids: Vec<String> = waiting.map(|message| message.id).collect();
            if !ids.is_empty() {
                self.record_settled(&ids, "ended");
            }
            if let Some(state) = &self.state {
                state.forget(&self.identity.id);
            }
        }
        if let Some(wire) = self.wire.take() {
            for prompt in wire.close(reason == EndReason::ShutDown) {
                self.refuse(&*prompt.reply, self.farewell(reason));
            }
        }
        if self.used_tools {
            self.runner.end();
            turn::kill_leftovers(&self.identity);
            if let Err(e) = std::fs::remove_dir_all(&self.spill_dir)
                && e.kind() != std::io::ErrorKind::NotFound
            {
                log::warn!("cannot remove {}: {e}", self.spill_dir.display());
            }
        }
        self.publish(&AgentEvent::Bridge { name: "bridge_stop", data: json!({"reason": reason.as_str()}) });
    }

    /// Whether the next start goes on with the prompt that runs. A run whose caller is told that it ends is of no use to
    /// anybody.
    fn goes_on(&self) -> bool {
        self.running.as_ref().is_some_and(|running| {
            running.compaction.is_none()
                && self.identity.on_restart == OnRestart::Continue
                && (self.identity.named || running.reply.address().is_none())
                && self.state.is_some()
                && self.memory.path().is_some()
        })
    }

    /// Closes what runs when the session ends.
    fn end_running(&mut self, goes_on: bool, settled: Option<Settled>, farewell: ReplyError) {
        let end = settled.clone().unwrap_or_else(|| Settled::Failed(farewell.clone()));
        if !goes_on || settled == Some(Settled::Done) {
            self.tell_end(&end, ChangedFiles::default());
        }
        let Some(running) = self.running.take() else { return };
        if settled == Some(Settled::Done) {
            self.record_settled(&running.ids, Settled::Done.as_str());
            running.reply.finish(Ok(()));
        } else {
            if !goes_on {
                self.record_settled(&running.ids, "ended");
            } else if let Err(e) = self.memory.interrupted(&running.ids) {
                log::warn!("session {}: {e}", self.identity.id);
            }
            self.refuse(&*running.reply, farewell.clone());
        }
        if settled.is_some() {
            drop(running.thread);
        } else {
            log::warn!("session {}: its turn is stuck and was left behind", self.identity.id);
            running.thread.abandon();
        }
        running.compaction.into_iter().for_each(|respond| respond(Err(farewell.clone())));
        for respond in running.aborters {
            respond(Ok(self.state_answer("abort")));
        }
    }

    /// How the turn settled, if it did so in time. What it still says belongs to the transcript.
    fn wait_for_settlement(&mut self) -> Option<Settled> {
        let steps = self.running.as_ref()?.steps.clone();
        let deadline = Instant::now() + SETTLE_TIMEOUT;
        loop {
            match steps.recv_deadline(deadline) {
                Ok(Step::Settled(settled)) => return Some(settled),
                Ok(Step::Event(event)) => self.note(event),
                Ok(Step::Gate(_, verdict)) => drop(verdict),
                Ok(Step::Ended(settled, changed)) => {
                    // A prompt that is gone on with has not ended.
                    if self.running.as_ref().is_some_and(|running| !running.to_be_continued) {
                        self.tell_end(&settled, changed);
                    }
                }
                Ok(Step::Ask { .. } | Step::Compacted { .. } | Step::Shortened(_) | Step::Omitted) => {}
                Err(e) => return e.is_disconnected().then_some(Settled::Aborted),
            }
        }
    }

    fn farewell(&self, reason: EndReason) -> ReplyError {
        match reason {
            EndReason::Stopped | EndReason::Finished => ReplyError::stopped(),
            EndReason::Expired => ReplyError::expired(self.stats.settings().max_lifetime.as_secs()),
            EndReason::ShutDown => ReplyError::shutting_down(),
        }
    }
}
