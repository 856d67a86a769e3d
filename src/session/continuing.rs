//! How a session goes on after a restart with what the last process did not finish.

use super::Session;
use super::opening::Callers;
use super::prompts::SAID_WITHIN;
use super::recovery::{Accepted, LeftOpen, Unfinished, closing_results};
use crate::contract::control::Deliver;
use crate::contract::error::{ErrorKind, ReplyError};
use crate::contract::event::AgentEvent;
use crate::contract::identity::OnRestart;
use crate::contract::prompt::{EndReason, Incoming, Prompt};
use crate::contract::reply::{Reply, SilentReply};
use crate::contract::wire::Wire;
use crate::transcript::Message;
use crate::turn::{Settled, Work};
use serde_json::json;
use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::Arc;
use std::time::Instant;

/// So often a prompt may be interrupted in a row, with no tool that came to its end in between, before it is left alone:
/// the prompt may be what ends the host, and each attempt costs money.
const MAX_INTERRUPTIONS: u32 = 3;

impl<W: Wire> Session<W> {
    /// Goes on after a crash: what was begun is gone on with, or closed if that is not wanted; what had only been accepted
    /// waits for its turn. Returns a reason to end at once.
    pub(super) fn take_up(&mut self, unfinished: Unfinished, callers: &Callers) -> Option<EndReason> {
        let (said, handed_over) = (unfinished.said(), unfinished.was_handed_over());
        let calls_waiting = unfinished.waiting_calls();
        let Unfinished { waiting, interrupted, intents, questions, approvals, aborted, folder, .. } = unfinished;
        self.audit_resumed(interrupted.iter().chain(&waiting));
        let answered =
            matches!(self.memory.messages().last().map(|m| &**m), Some(Message::Assistant(last)) if last.is_final());
        let exhausted = |accepted: &Accepted| !accepted.handed_over && accepted.continued + 1 >= MAX_INTERRUPTIONS;
        // A run that nobody waits for any more, though somebody did, is over.
        let first = interrupted.first().or(waiting.first());
        // Made once for each, because a reply that is not used ends all the same.
        let accepted = interrupted.iter().chain(&waiting);
        let found = accepted.filter_map(|accepted| Some((accepted.id.clone(), self.reply_of(accepted, callers)?)));
        let mut replies: HashMap<String, Arc<dyn Reply>> = found.collect();
        let lost = |accepted: &Accepted| accepted.reply.is_some() && !replies.contains_key(&accepted.id);
        let left = !self.identity.named && first.is_some_and(lost);
        let mut reply_to = |id: &str| replies.remove(id).unwrap_or_else(|| Arc::new(SilentReply));
        let policy = match (interrupted.first(), self.identity.on_restart) {
            _ if left => OnRestart::End,
            _ if handed_over => OnRestart::Continue,
            (Some(first), OnRestart::Continue) if exhausted(first) => OnRestart::Hold,
            (Some(_), policy) => policy,
            (None, _) => OnRestart::Continue,
        };
        if let Some(first) = interrupted.first().filter(|_| !handed_over) {
            let facts = json!({"action": policy.as_str(), "interruptions": first.continued + 1});
            let event = AgentEvent::Bridge { name: "turn_interrupted", data: facts };
            self.in_trace(first.trace.clone(), |session| session.publish(event));
        }
        let ids: Vec<String> = interrupted.iter().map(|accepted| accepted.id.clone()).collect();
        let goes_on = !ids.is_empty() && policy == OnRestart::Continue;
        let left_open = match (goes_on, handed_over) {
            (true, true) => LeftOpen::NotBegun,
            (true, false) => LeftOpen::Asked(&calls_waiting),
            (false, _) => LeftOpen::None,
        };
        let asked = !(questions.is_empty() && calls_waiting.is_empty());
        let written = self.close_calls(&intents, left_open).and_then(|()| {
            match (goes_on, waiting.first()) {
                // To wait for people costs nothing, however often it begins.
                (true, _) if asked && !handed_over => Ok(()),
                (true, _) => self.memory.continued(&ids),
                // It may be what ended the host before a word of it was in the conversation.
                (false, Some(next)) if ids.is_empty() => self.memory.continued(std::slice::from_ref(&next.id)),
                _ => Ok(()),
            }
        });
        let written = written.and_then(|()| self.tell_of_folder(folder, goes_on, answered));
        if let Err(e) = written {
            let error = ReplyError::storage(&e);
            for accepted in interrupted.iter().chain(&waiting) {
                self.tell_unworked(std::slice::from_ref(&accepted.id), accepted.origin(), &error);
                reply_to(&accepted.id).finish(Err(error.clone()));
            }
            log::error!("session {}: its file cannot be used: {e}", self.identity.id);
            self.stats.progress.failed(&error.message);
            return (!self.identity.named).then_some(EndReason::Finished);
        }
        if !ids.is_empty() && !goes_on {
            let done = answered && !left;
            log::info!("session {}: the prompt that was interrupted is closed", self.identity.id);
            if let Some(first) = interrupted.first() {
                let error = (!done).then(|| interrupted_error(exhausted(first)));
                self.tell_closed(&ids, first.origin(), error.as_ref());
            }
            for accepted in &interrupted {
                let reply = reply_to(&accepted.id);
                if done {
                    reply.finish(Ok(()))
                } else {
                    self.refuse(&*reply, interrupted_error(exhausted(accepted)))
                }
                reply.wait_said(SAID_WITHIN);
            }
            // Last, because whoever waits shall rather hear the end twice, after a crash right here, than not at all.
            self.record_settled(&ids, if done { Settled::Done.as_str() } else { "interrupted" });
        }
        for accepted in waiting {
            // What an abort left behind waits on, as whoever aborted wants quiet.
            let taken_in = goes_on || aborted && ids.is_empty();
            let reply = reply_to(&accepted.id);
            if ids.is_empty() && exhausted(&accepted) {
                self.tell_unworked(std::slice::from_ref(&accepted.id), accepted.origin(), &interrupted_error(true));
                self.refuse(&*reply, interrupted_error(true));
                reply.wait_said(SAID_WITHIN);
                self.record_settled(std::slice::from_ref(&accepted.id), "interrupted");
                continue;
            }
            let Accepted { id, text, images, expanded, from, trace, deliver, .. } = accepted;
            let message = self.with_room(Incoming { id, text, images, expand: !expanded, trace, room: None });
            match deliver {
                Some(Deliver::Steer) if taken_in => self.steering.push(message),
                Some(_) if taken_in => self.follow_up.push(message),
                _ => {
                    self.queue.push_last(Prompt { message, from, sender: None, reply, received: Instant::now() });
                    self.stats.count_prompt();
                }
            }
        }
        if self.steering.len() + self.follow_up.len() > 0 {
            self.queues_changed();
        }
        if policy == OnRestart::End {
            return Some(EndReason::Stopped);
        }
        if let Some(first) = interrupted.into_iter().next().filter(|_| goes_on) {
            self.kept_questions = questions;
            self.kept_approvals = approvals;
            let how = if handed_over { "handed over" } else { "interrupted" };
            log::info!("session {}: the prompt that was {how} is gone on with", self.identity.id);
            let reply = reply_to(&first.id);
            let attempt = first.heard.then_some(first.continued + 2);
            self.begin(Work::Continue { said, attempt }, ids, first.origin(), reply);
        }
        self.start_next();
        (!self.has_work() && !self.identity.named).then_some(EndReason::Finished)
    }

    /// Gives every call that was interrupted a result that says so, because nothing else is known of it.
    /// Calls that are `left` open are run.
    pub(super) fn close_calls(&mut self, intents: &HashSet<String>, left: LeftOpen<'_>) -> io::Result<()> {
        for result in closing_results(self.memory.messages(), intents, left) {
            self.record_event(AgentEvent::ToolExecutionEnd {
                id: result.tool_call_id.clone(),
                name: result.tool_name.clone(),
                content: result.content.clone(),
                details: result.details.clone(),
                is_error: true,
                duration_ms: None,
                sandbox: None,
            });
            self.memory.push(Arc::new(Message::ToolResult(result)), None)?;
        }
        Ok(())
    }

    fn reply_of(&self, accepted: &Accepted, callers: &Callers) -> Option<Arc<dyn Reply>> {
        let address = accepted.reply.as_ref()?;
        match &self.wire {
            Some(wire) => wire.reply_to(address),
            None => callers(address),
        }
    }
}

fn interrupted_error(exhausted: bool) -> ReplyError {
    let often = format!(", {MAX_INTERRUPTIONS} times in a row, and it is not tried again");
    let why =
        format!("the host was restarted while it worked on this prompt{}", if exhausted { often.as_str() } else { "" });
    ReplyError::coded(ErrorKind::Interrupted, why)
}
