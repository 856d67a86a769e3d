//! How a session ends.

use super::{SETTLE_TIMEOUT, Session};
use crate::contract::error::ReplyError;
use crate::contract::event::AgentEvent;
use crate::contract::identity::OnRestart;
use crate::contract::prompt::{EndReason, Next};
use crate::contract::wire::Wire;
use crate::tools::ChangedFiles;
use crate::turn::{self, Settled, Step};
use serde_json::json;
use std::time::Instant;

impl<W: Wire> Session<W> {
    /// Ends the session: every stream gets its end, no child process and no file of the session stays behind. Returns why it
    /// is over, which is not that another host was to go on with it if that one may not have got it.
    #[inline(never)]
    pub(super) fn end(&mut self, reason: EndReason) -> EndReason {
        self.end_storing(reason);
        // What is still heard of a turn that goes on elsewhere is told there.
        let listeners = if reason == EndReason::Moved { std::mem::take(&mut self.listeners) } else { Vec::new() };
        let moved = reason == EndReason::Moved;
        let by_host = reason.is_by_host();
        let goes_on = by_host && (moved || self.goes_on());
        if !goes_on {
            self.reject_questions("shutdown");
            self.withdraw_approvals();
        }
        let ends = self.running.is_some() && !goes_on && self.identity.on_restart == OnRestart::End;
        let remembered = by_host && !moved && (goes_on || self.identity.named && !ends);
        let clean = self.leaving.as_ref().is_some_and(|leaving| leaving.clean);
        let heir = match self.leaving.as_ref().and_then(|leaving| leaving.next.as_ref()) {
            Some(Next::Host(host)) if remembered => Some(host.clone()),
            Some(Next::Host(_) | Next::Process) | None => None,
        };
        if let Some(running) = &mut self.running {
            running.to_be_continued = goes_on;
            let whole = goes_on && running.reply.leave();
            // What waits at a gate must not pass it, and finds that it is cancelled.
            running.cancel.cancel();
            self.leaving = None;
            let settled = self.wait_for_settlement();
            self.end_spending();
            self.end_running(goes_on, whole && clean, settled, self.farewell(reason));
        }
        if moved || remembered && self.keeps_queue() {
            self.leave_queue();
        }
        self.refuse_queue(&self.farewell(reason));
        self.stats.set_running(false);
        if moved {
            // What is here of it is older than what the other host has.
            self.state.iter().for_each(|state| state.forget(&self.identity.id));
        } else if !remembered {
            let waiting = self.steering.take_all().into_iter().chain(self.follow_up.take_all());
            let ids: Vec<String> = waiting.map(|message| message.id).collect();
            if !ids.is_empty() {
                self.record_settled(&ids, "ended");
            }
            self.forget_spent();
            if let Some(state) = &self.state {
                state.forget(&self.identity.id);
            }
        }
        if !moved {
            self.tell_late(true);
        }
        if let Some(wire) = self.wire.take() {
            for prompt in wire.close(by_host) {
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
        let given = heir.is_some_and(|host| self.give_log(&host));
        self.close_log(!remembered && !moved);
        if given {
            self.state.iter().for_each(|state| state.forget(&self.identity.id));
        }
        let reason = if reason == EndReason::Given && !given { EndReason::ShutDown } else { reason };
        self.listeners.extend(listeners);
        self.audit("session_stopped", || json!({"reason": reason.as_str()}));
        self.publish(AgentEvent::BridgeStop { reason: reason.as_str() });
        reason
    }

    /// Whether the next start, or the process that replaces this one, goes on with the prompt that runs. A run whose caller
    /// cannot be reached then is of no use to anybody.
    fn goes_on(&self) -> bool {
        let clean = self.leaving.as_ref().is_some_and(|leaving| leaving.clean);
        self.running.as_ref().is_some_and(|running| {
            running.compaction.is_none()
                && running.aborters.is_empty()
                && (clean || self.identity.on_restart == OnRestart::Continue)
                && (self.identity.named || !running.reply.ends_with_host())
                && self.can_move()
        })
    }

    /// Leaves the prompts that wait to the next start, but for those whose callers cannot be reached then.
    fn leave_queue(&mut self) {
        let (bound, free): (Vec<_>, Vec<_>) =
            self.queue.take_all().into_iter().partition(|prompt| prompt.reply.ends_with_host());
        for prompt in free {
            prompt.reply.leave();
        }
        bound.into_iter().for_each(|prompt| self.queue.push_last(prompt));
    }

    /// Closes what runs when the session ends, unless it `goes_on` elsewhere: `between` two steps, all of which the caller has
    /// heard, or from the middle of one.
    fn end_running(&mut self, goes_on: bool, between: bool, settled: Option<Settled>, farewell: ReplyError) {
        if !goes_on || settled == Some(Settled::Done) {
            let end = settled.clone().unwrap_or_else(|| Settled::Failed(farewell.clone()));
            self.tell_end(&end, ChangedFiles::default());
        }
        let Some(running) = self.running.take() else { return };
        let aborted = !running.aborters.is_empty();
        if goes_on {
            // Without that record the caller hears all of it again.
            if between && let Err(e) = self.memory.handed_over(&running.ids) {
                log::warn!("session {}: {e}", self.identity.id);
            }
        } else if settled == Some(Settled::Done) {
            running.reply.finish(Ok(()));
            self.record_settled(&running.ids, Settled::Done.as_str());
        } else if aborted {
            self.record_settled(&running.ids, Settled::Aborted.as_str());
            self.refuse(&*running.reply, ReplyError::aborted());
        } else {
            self.refuse(&*running.reply, farewell.clone());
            self.record_settled(&running.ids, "ended");
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
                Ok(Step::Settled(settled, changed)) => {
                    self.note(settled.event());
                    // A prompt that is gone on with has not ended.
                    if self.running.as_ref().is_some_and(|running| !running.to_be_continued) {
                        self.tell_end(&settled, changed);
                    }
                    return Some(settled);
                }
                Ok(Step::Event(event)) => self.note(event),
                Ok(Step::Events(events)) => events.into_iter().for_each(|event| self.note(event)),
                Ok(Step::Spent(spent)) => self.spent(spent),
                Ok(Step::Folder(saved)) => self.folder_saved(saved),
                Ok(Step::Gate(_, verdict)) => drop(verdict),
                Ok(Step::Ask { .. } | Step::Compacted { .. } | Step::Shortened(_) | Step::Omitted) => {}
                Err(e) => return e.is_disconnected().then_some(Settled::Aborted),
            }
        }
    }

    pub(super) fn farewell(&self, reason: EndReason) -> ReplyError {
        if let Some(why) = self.is_elsewhere() {
            return why;
        }
        match reason {
            EndReason::Stopped | EndReason::Finished | EndReason::Moved => ReplyError::stopped(),
            EndReason::Expired => ReplyError::expired(self.stats.settings().max_lifetime.as_secs()),
            EndReason::ShutDown | EndReason::Replaced | EndReason::Given => ReplyError::shutting_down(),
        }
    }
}
