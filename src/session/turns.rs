//! Whose turn it is: prompts wait for the one before them in their session, and for a slot of the host.

use super::Session;
use crate::contract::control::Answer;
use crate::contract::error::{ErrorKind, ReplyError};
use crate::contract::event::AgentEvent;
use crate::contract::prompt::{Origin, Prompt, caller_name};
use crate::contract::reply::Reply;
use crate::contract::wire::Wire;
use crate::slots::Slot;
use serde_json::json;

impl<W: Wire> Session<W> {
    /// Whether something runs, or waits until it may.
    pub(super) fn has_work(&self) -> bool {
        self.running.is_some() || !self.queue.is_empty() || self.has_held_prompts()
    }

    /// What waits is not left to the next start, or to another process.
    fn may_start(&self) -> bool {
        !self.draining && !self.has_left()
    }

    /// Starts what is next, if nothing runs and there is a slot for it.
    pub(super) fn start_next(&mut self) {
        while self.may_start()
            && self.running.is_none()
            && self.ticket.is_none()
            && let Some(next) = self.queue.first()
        {
            match self.slots.take(&self.caller(next)) {
                Ok(slot) => self.start_first(slot),
                Err(ticket) => self.ticket = Some(ticket),
            }
        }
        self.count();
    }

    /// Starts what is next with the slot that it waited for.
    pub(super) fn start_with(&mut self, slot: Slot) {
        self.ticket = None;
        if self.may_start() {
            self.start_first(slot);
        }
        self.start_next();
    }

    fn start_first(&mut self, slot: Slot) {
        if let Some(prompt) = self.queue.pop() {
            self.start(prompt, slot);
        }
    }

    fn count(&self) {
        // In this order, so that nobody takes a run that has just begun for one that is over.
        self.stats.set_running(self.running.is_some());
        self.stats.set_queued(self.queue.len());
    }

    /// Who takes turns with others; a prompt without a name has that of the session's creator.
    fn caller(&self, prompt: &Prompt) -> String {
        caller_name(prompt.sender.as_ref(), prompt.from.as_ref().or(self.identity.from.as_ref()).map(String::as_str))
    }

    /// How many prompts are begun until the one at this place of the queue is, itself included. Those of other sessions count
    /// as far as they are before the first one of this session.
    pub(super) fn position(&self, at: usize) -> usize {
        self.ticket.as_ref().map_or(0, |ticket| ticket.ahead()) + at + 1
    }

    /// Tells a caller, and those who listen, that its prompt has to wait.
    pub(super) fn tell_position(&mut self, reply: &dyn Reply, id: &str, origin: Origin) {
        let Some(at) = self.queue.iter().position(|prompt| prompt.message.id == id) else { return };
        let mut data = json!({"promptId": id, "position": self.position(at)});
        if let Some(from) = origin.from {
            data["from"] = json!(from);
        }
        let event = AgentEvent::Bridge { name: "prompt_queued", data };
        reply.event(&event);
        self.in_trace(origin.trace, |session| session.record_event(event));
    }

    /// Takes back a message that waits.
    pub(super) fn cancel(&mut self, id: &str) -> Result<Answer, ReplyError> {
        let first = self.queue.first().is_some_and(|prompt| prompt.message.id == id);
        if let Some(prompt) = self.queue.remove(id) {
            if first {
                // The next one may be another caller's.
                self.ticket = None;
            }
            self.record_settled(&[id.to_owned()], "cancelled");
            let error = ReplyError::new(ErrorKind::Aborted, "the prompt was cancelled");
            let origin = prompt.origin();
            self.tell_unworked(&[prompt.message.id], origin, &error);
            self.refuse(&*prompt.reply, error);
            if !self.has_work() {
                self.prompt_leftovers();
            }
            self.start_next();
        } else if self.steering.remove(id).or_else(|| self.follow_up.remove(id)).is_some() {
            self.record_settled(&[id.to_owned()], "cancelled");
            self.queues_changed();
        } else if self.running.as_ref().is_some_and(|running| running.ids.iter().any(|known| known == id)) {
            return Err(ReplyError::coded(ErrorKind::Working, "the prompt is being worked on; abort it"));
        } else {
            return Err(ReplyError::coded(ErrorKind::NotFound, "no prompt of this id waits"));
        }
        Ok(Answer::Document(json!({"cancelled": true, "promptId": id})))
    }
}
