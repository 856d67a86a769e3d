//! The gate: the one place where a session says yes or no to what its turn wants to do next.

use super::Session;
use crate::contract::wire::Wire;
use crate::turn::{Action, Verdict};
use crossbeam_channel::Sender;

impl<W: Wire> Session<W> {
    /// The verdict on what the turn wants to do next, with the messages that are to be taken in first. It is yes as long as
    /// what has to be on disk is there.
    pub(super) fn judge(&mut self, action: &Action, verdict: &Sender<Verdict>) {
        log::trace!("session {}: leave for {action:?}", self.identity.id);
        let modes = self.services.queue_modes();
        let messages = match action {
            Action::Tools(calls) => {
                let written = self.memory.intends(calls);
                self.check_written(written);
                if let Some(running) = &mut self.running {
                    running.batch = calls.len();
                }
                Vec::new()
            }
            Action::Speak => {
                let ids = self.running.as_ref().map(|running| running.ids.clone()).unwrap_or_default();
                let written = self.memory.heard(&ids);
                self.check_written(written);
                Vec::new()
            }
            Action::Request(model, most) => {
                let (answer, lines) = self.judge_request(model, *most);
                return self.give(verdict, answer, lines);
            }
            Action::Model => self.steering.take(modes.steering),
            Action::Stop if self.steering.len() > 0 => self.steering.take(modes.steering),
            Action::Stop => self.follow_up.take(modes.follow_up),
        };
        let Some(running) = &mut self.running else { return };
        let ids: Vec<String> = messages.iter().map(|message| message.id.clone()).collect();
        running.ids.extend(ids.iter().cloned());
        let allowed = running.storage_error.is_none();
        let answer = if allowed { Verdict::Go(messages) } else { Verdict::No };
        let lines = if let Action::Tools(calls) = action { self.lines_of_calls(calls, allowed) } else { Vec::new() };
        self.give(verdict, answer, lines);
        if !ids.is_empty() {
            self.taken.extend(ids);
            self.queues_changed();
        }
    }
}
