//! The gate: the one place where a session says yes or no to what its turn wants to do next.

use super::Session;
use crate::contract::denial::{Denial, DeniedBy};
use crate::contract::wire::Wire;
use crate::governance::rules::Effect;
use crate::metrics::{Count, METRICS};
use crate::turn::{Action, Ruling, ToolCall, Verdict};
use crossbeam_channel::Sender;

impl<W: Wire> Session<W> {
    /// The verdict on what the turn wants to do next, with the messages that are to be taken in first. It is yes as long as
    /// what has to be on disk is there, and for calls of tools as the rules say.
    pub(super) fn judge(&mut self, action: &Action, verdict: &Sender<Verdict>) {
        log::trace!("session {}: leave for {action:?}", self.identity.id);
        let modes = self.services.queue_modes();
        let messages = match action {
            Action::Tools(calls) => {
                let rulings = self.judge_calls(calls);
                let goes_on = self.running.as_ref().is_some_and(|running| running.storage_error.is_none());
                let lines = self.lines_of_calls(calls, &rulings, goes_on);
                return self.give(verdict, if goes_on { Verdict::Calls(rulings) } else { Verdict::No }, lines);
            }
            Action::Speak => {
                let ids = self.running.as_ref().map(|running| running.ids.clone()).unwrap_or_default();
                let written = self.memory.heard(&ids);
                self.check_written(written);
                Vec::new()
            }
            Action::Request(model, most, over_day) => {
                let (answer, lines) = self.judge_request(model, *most, *over_day);
                return self.give(verdict, answer, lines);
            }
            Action::Model => self.steering.take(modes.steering),
            Action::Store => Vec::new(),
            Action::Stop if self.steering.len() > 0 => self.steering.take(modes.steering),
            Action::Stop => self.follow_up.take(modes.follow_up),
        };
        let Some(running) = &mut self.running else { return };
        let ids: Vec<String> = messages.iter().map(|message| message.id.clone()).collect();
        running.ids.extend(ids.iter().cloned());
        let answer = if running.storage_error.is_some() { Verdict::No } else { Verdict::Go(messages) };
        self.give(verdict, answer, Vec::new());
        if !ids.is_empty() {
            self.taken.extend(ids);
            self.queues_changed();
        }
    }

    /// What becomes of each call. Of those that may run the intent is on disk then; of those that people are asked about it is
    /// when they said yes.
    fn judge_calls(&mut self, calls: &[ToolCall]) -> Vec<Ruling> {
        let mut rulings = Vec::new();
        let mut intents = Vec::new();
        let mut asked = Vec::new();
        for (at, call) in calls.iter().enumerate() {
            let decision = self.identity.rules.decide(&call.tool, &call.target);
            let effect =
                if decision.effect == Effect::Ask && self.is_granted(call) { Effect::Allow } else { decision.effect };
            METRICS.count(match effect {
                Effect::Allow => Count::Allowed,
                Effect::Deny => Count::Denied,
                Effect::Ask => Count::Asked,
            });
            rulings.push(match effect {
                Effect::Deny => {
                    log::info!("session {}: a call of {} is denied by a rule", self.identity.id, call.tool);
                    Ruling::Denied(Denial { by: DeniedBy::Rule, rule: decision.rule })
                }
                Effect::Allow => {
                    intents.push((call.id.clone(), call.tool.clone()));
                    Ruling::Run
                }
                Effect::Ask => {
                    asked.push((at, decision.rule));
                    Ruling::Run
                }
            });
        }
        if let Some(running) = &mut self.running {
            running.batch = intents.len() + asked.len();
            running.begun = intents.iter().map(|(call, _)| call.clone()).collect();
        }
        let written = self.memory.intends(&intents);
        self.check_written(written);
        for (at, rule) in asked {
            rulings[at] = self.ask_for_approval(&calls[at], rule);
        }
        rulings
    }
}
