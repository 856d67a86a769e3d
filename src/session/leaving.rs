//! How a session leaves for the process that replaces this one, or for another host: between two steps of its turn, so that its
//! caller notices nothing. What comes meanwhile is written down here and done there.

use super::Session;
use crate::contract::identity::OnRestart;
use crate::contract::prompt::{Command, EndReason, Next, Successor};
use crate::contract::wire::Wire;
use crate::turn::{Action, Verdict};
use crossbeam_channel::Sender;
use std::sync::Arc;

/// How far a session has come that is to leave.
pub(super) struct Leaving {
    successor: Arc<dyn Successor>,
    /// What the turn asked for at the gate where it waits.
    gate: Option<(Action, Sender<Verdict>)>,
    /// Who gets what comes from now on, and what waits; `None` as long as nobody does.
    pub(super) next: Option<Next>,
    /// Nothing was in the middle of something then.
    pub(super) clean: bool,
}

impl<W: Wire> Session<W> {
    /// Another process can go on with the session, as all of it is on disk.
    pub(super) fn can_move(&self) -> bool {
        self.state.is_some() && self.memory.path().is_some()
    }

    /// Prompts that wait when the host ends are worked on after the next start.
    pub(super) fn keeps_queue(&self) -> bool {
        self.can_move() && self.identity.on_restart != OnRestart::End
    }

    pub(super) fn hand_over(&mut self, successor: Arc<dyn Successor>) {
        if !self.can_move() {
            return self.drain();
        }
        self.stats.set_leaving(true);
        self.leaving.get_or_insert_with(|| Box::new(Leaving { successor, gate: None, next: None, clean: false }));
    }

    /// Everything is as before.
    pub(super) fn stay(&mut self) {
        self.stats.set_leaving(false);
        if let Some((action, verdict)) = self.leaving.take().and_then(|leaving| leaving.gate) {
            self.judge(&action, &verdict);
        }
        self.start_next();
    }

    /// The turn waits for leave: where the session is to leave, before the next request or tool, it goes on elsewhere.
    pub(super) fn at_gate(&mut self, action: Action, verdict: Sender<Verdict>) {
        match &mut self.leaving {
            Some(leaving) if matches!(action, Action::Model | Action::Tools(_)) => {
                leaving.gate = Some((action, verdict));
            }
            _ => self.judge(&action, &verdict),
        }
    }

    /// Whether all that the turn waits for is people's word: about questions, calls, or a request beyond a budget.
    fn waits_for_people(&self) -> bool {
        let (asked, approvals) = (self.askers.len(), self.approvals.count());
        // A question is a call that has begun; one that waits for an approval has not.
        asked + approvals > 0 && self.running.as_ref().is_some_and(|running| running.begun.len() == asked)
    }

    /// A call that people allowed is about to run.
    pub(super) fn has_begun(&mut self, call: &str) {
        if let Some(running) = &mut self.running {
            running.begun.push(call.to_owned());
        }
    }

    /// The turn goes on elsewhere from now on.
    pub(super) fn has_left(&self) -> bool {
        self.leaving.as_ref().is_some_and(|leaving| leaving.next.is_some())
    }

    /// Leaves if the session is to, and nothing is in the middle of something: not where a client on a socket waits for an
    /// answer, which cannot be reached from elsewhere.
    pub(super) fn leave_if_quiet(&mut self) -> Option<EndReason> {
        let leaving = self.leaving.as_ref()?;
        let bound = self.has_held_prompts() || self.queue.iter().any(|prompt| prompt.reply.ends_with_host());
        let quiet = match &self.running {
            None => true,
            // People can answer elsewhere as well.
            Some(running) => {
                !running.reply.ends_with_host()
                    && running.compaction.is_none()
                    && (leaving.gate.is_some() || self.waits_for_people())
            }
        };
        if quiet && !bound {
            return self.leave(true);
        }
        if let Some((action, verdict)) = self.leaving.as_mut().and_then(|leaving| leaving.gate.take()) {
            self.judge(&action, &verdict);
        }
        None
    }

    /// Leaves now, if the successor listens. What came by then is taken in here, because its callers may have been told so.
    pub(super) fn leave(&mut self, clean: bool) -> Option<EndReason> {
        let successor = self.leaving.as_ref()?.successor.clone();
        // From the middle of something it leaves as after a crash, and the model is told.
        let Some(next) = successor.prepare(&self.identity, !clean || self.is_folder_saved()) else {
            self.stay();
            return None;
        };
        let reason = if matches!(next, Next::Host(_)) { EndReason::Given } else { EndReason::Replaced };
        let leaving = self.leaving.as_mut()?;
        (leaving.next, leaving.clean) = (Some(next), clean);
        if let Some(wire) = &mut self.wire {
            wire.stop();
        }
        while let Some(message) = self.wire.as_ref().and_then(|wire| wire.messages().try_recv().ok()) {
            self.message(&message);
        }
        while let Ok(command) = self.commands.try_recv() {
            match command {
                Command::End(EndReason::Replaced | EndReason::Given)
                | Command::Drain
                | Command::HandOver(_)
                | Command::Stay => {}
                Command::End(reason) => return Some(reason),
                Command::Control(request) => self.control(request.control, request.respond),
            }
        }
        Some(reason)
    }
}
