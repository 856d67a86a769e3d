//! Room in the model's context: when there is too little, and what is done then.

use super::{Run, Settled, Step, Turn};
use crate::compact::{CompactError, Compactor};
use crate::events::{AgentEvent, CompactionReason};
use crate::model::Outcome;
use crate::reply::ReplyError;
use crate::transcript::compaction::{context_tokens, should_compact};
use crate::transcript::{Message, StopReason};
use serde_json::json;

impl Turn {
    /// Makes the context smaller before it comes too close to the model's limit. Failing to do so is no reason to stop: the
    /// next request may fit all the same.
    pub(super) fn keep_room(&mut self) {
        let settings = self.services.compaction_settings(&self.model);
        if should_compact(context_tokens(&self.transcript), self.model.context_window, &settings) {
            let _ = self.make_room(CompactionReason::Threshold, None, false);
        }
    }

    /// Replaces the older part of the transcript by a summary.
    ///
    /// # Errors
    /// [`CompactError`]; the transcript is as it was.
    pub(super) fn make_room(
        &mut self,
        reason: CompactionReason,
        focus: Option<&str>,
        will_retry: bool,
    ) -> Result<(), CompactError> {
        let steps = self.steps.clone();
        let emit = |event: AgentEvent| drop(steps.send(Step::Event(event)));
        let mut on_retry = |retry: crate::compact::SummaryRetry| emit(retry.event(reason));
        let mut compactor = Compactor {
            services: &self.services,
            model: &self.model,
            thinking: self.thinking,
            session: &self.info.instance_id,
            cancel: &self.cancel,
            on_retry: &mut on_retry,
        };
        let plan = compactor.plan(&self.transcript)?;
        emit(AgentEvent::CompactionStart { reason });
        match compactor.compact(&self.transcript, plan, focus) {
            Ok(done) => {
                let entry = json!({"summary": done.summary, "tokensBefore": done.tokens_before,
                    "details": done.details.details(), "usage": done.usage});
                let mut result = entry.clone();
                result["estimatedTokensAfter"] = json!(done.tokens_after);
                self.transcript.splice(..done.first_kept, [done.message.clone()]);
                let (message, first_kept, usage) = (done.message, done.first_kept, done.usage);
                self.step(Step::Compacted { message, first_kept, usage, entry });
                self.emit(AgentEvent::CompactionEnd {
                    reason,
                    result: Some(result),
                    aborted: false,
                    will_retry,
                    error: None,
                });
                Ok(())
            }
            Err(error) => {
                let aborted = error == CompactError::Cancelled;
                let error_text = (!aborted).then(|| match reason {
                    CompactionReason::Overflow => format!("Context overflow recovery failed: {error}"),
                    CompactionReason::Threshold => format!("Auto-compaction failed: {error}"),
                    CompactionReason::Manual => error.to_string(),
                });
                let end =
                    AgentEvent::CompactionEnd { reason, result: None, aborted, will_retry: false, error: error_text };
                self.emit(end);
                Err(error)
            }
        }
    }

    /// Deals with a context that was too long, or left no room for the answer: makes it smaller and asks once more, but
    /// only once in a row. `None` means that the model is to be asked again.
    pub(super) fn overflowed(&mut self, outcome: Outcome, run: &mut Run) -> Option<Settled> {
        let error = outcome.message.error_message.clone().unwrap_or_else(|| "the answer was cut off".into());
        let cut = outcome.message.stop_reason == StopReason::Length;
        let message = self.add(Message::Assistant(outcome.message));
        if run.recovered {
            self.emit(AgentEvent::CompactionEnd {
                reason: CompactionReason::Overflow,
                result: None,
                aborted: false,
                will_retry: false,
                error: Some("Context overflow recovery failed after one compact-and-retry attempt".into()),
            });
            let settled = if cut { Settled::Done } else { Settled::Failed(ReplyError::model(error)) };
            return Some(self.end_run(run, Some(message), settled));
        }
        run.recovered = true;
        self.end_turn(run, Some(message), Vec::new());
        self.emit(self.agent_end(true));
        // The attempt is left out of the context, or the next one would answer it.
        self.transcript.pop();
        self.step(Step::Omitted);
        match self.make_room(CompactionReason::Overflow, None, true) {
            Ok(()) => {
                self.begin_run(run);
                None
            }
            Err(CompactError::Cancelled) => Some(Settled::Aborted),
            // Nothing can be left out, so what there is of an answer is the answer.
            Err(_) if cut => Some(Settled::Done),
            Err(why) => {
                let error = format!("{error} (context overflow recovery failed: {why})");
                Some(Settled::Failed(ReplyError::model(error)))
            }
        }
    }
}
