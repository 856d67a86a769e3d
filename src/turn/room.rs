//! Room in the model's context: when there is too little, and what is done then.
//!
//! There are three occasions: the context comes close to the window (between the turns and before a prompt), it has grown
//! past it just now (by a prompt or by results of tools, before the next request), or the server refused it as too long,
//! or had no room left for an answer. And there are three means, each of which is tried where the one before it is of no
//! use: the older part is replaced by a summary that the model writes; the longest texts of what has to stay are
//! shortened (`transcript::shorten`); the older part is replaced by excerpts, without a model. All of them stay: they
//! are in the session file, so that neither the next request nor a restart begins from the start again.
//!
//! Windows and token counts are estimates: the server may have a smaller window than was configured, and texts may have
//! more tokens than their length suggests (what the server counted last is heeded). So a refused context is halved with
//! each refusal in a row, up to [`MAX_RECOVERIES`]; the number of requests is bounded by that.

use super::{Run, Settled, Step, Turn};
use crate::contract::error::ReplyError;
use crate::contract::event::{AgentEvent, CompactionReason};
use crate::model::Outcome;
use crate::transcript::compaction::{self, Cut, context_tokens, should_compact, tokens};
use crate::transcript::shorten::shorten;
use crate::transcript::{Message, StopReason, ToolSpec};
use crate::turn::compact::{CompactError, Compaction, Compactor, SummaryRetry};
use serde_json::json;
use std::sync::Arc;

/// How often in a row a context that the server refuses is made smaller.
const MAX_RECOVERIES: u32 = 3;
/// Tokens that a cut has to leave out to be worth a summary, if it is not the usual cut.
const WORTH_A_CUT: u64 = 500;
/// Excerpts may be so long even where little is known to fit, in characters: about 1000 tokens.
const LEAST_EXCERPTS: u64 = 4000;

/// What the context may take, in tokens of its messages.
struct Limits {
    /// More than this is not left behind a cut.
    kept: u64,
    /// To this much it is shortened, which is less, so that it does not have to be done again after every answer.
    shortened: u64,
    /// How long excerpts in the place of a summary may be, in characters.
    excerpts: usize,
}

impl Turn {
    /// Makes the context smaller before it comes too close to the model's limit. Failing to do so is no reason to stop: the
    /// next request may fit all the same.
    pub(super) fn keep_room(&mut self) {
        let settings = self.services.compaction_settings(&self.model);
        if should_compact(context_tokens(&self.transcript, self.overhead), self.model.context_window, &settings) {
            let _ = self.relieve(CompactionReason::Threshold, None);
        }
    }

    /// Makes the context smaller if what was taken in just now has made it longer than the window, or leaves hardly any room
    /// for an answer. The server would refuse it, or drop part of it silently. If nothing helps, the request is sent all
    /// the same: the server knows better.
    pub(super) fn fit(&mut self) {
        let window = self.model.context_window;
        let settings = self.services.compaction_settings(&self.model);
        let for_answer = if settings.enabled { (settings.reserve_tokens / 2).min(window / 8) } else { 0 };
        let tokens = context_tokens(&self.transcript, self.overhead);
        if tokens > window - for_answer {
            let reason = if tokens > window { CompactionReason::Overflow } else { CompactionReason::Threshold };
            let _ = self.relieve(reason, None);
        }
    }

    /// Replaces the older part of the transcript by a summary, because somebody asked for it.
    ///
    /// # Errors
    /// [`CompactError`]; the transcript is as it was.
    pub(super) fn compact(&mut self, focus: Option<&str>) -> Result<(), CompactError> {
        let size = tokens(&self.transcript);
        let limits = self.limits(size, None);
        let cut = self.compactor(&mut |_| ()).plan(&self.transcript);
        let cut = cut.or_else(|why| self.worthwhile_cut(limits.kept, size).ok_or(why))?;
        self.make_room(&cut, &limits, CompactionReason::Manual, focus, false)
    }

    fn compactor<'a>(&'a self, on_retry: &'a mut dyn FnMut(SummaryRetry)) -> Compactor<'a> {
        Compactor {
            services: &self.services,
            model: &self.model,
            thinking: self.thinking,
            session: &self.identity.instance_id,
            cancel: &self.cancel,
            on_retry,
            requests: self,
        }
    }

    /// Makes the context smaller. `refusals` is how many contexts the server has refused in a row before this one, which it
    /// refused too; `None` if it was not asked. Only what is near the window, but not known to be too long, is left as it
    /// is where no summary can be had.
    ///
    /// # Errors
    /// Nothing could be made smaller: the reason is that of the summary, if one was tried.
    fn relieve(&mut self, reason: CompactionReason, refusals: Option<u32>) -> Result<(), CompactError> {
        let must = reason == CompactionReason::Overflow;
        let size = tokens(&self.transcript);
        let limits = self.limits(size, refusals);
        let mut result = Err(CompactError::Nothing);
        if self.services.compaction_settings(&self.model).enabled {
            let usual = self.compactor(&mut |_| ()).plan(&self.transcript);
            let usual = usual.ok().filter(|cut| tokens(&self.transcript[cut.first_kept..]) <= limits.kept);
            if let Some(cut) = usual.or_else(|| self.worthwhile_cut(limits.kept, size)) {
                result = self.make_room(&cut, &limits, reason, None, refusals.is_some());
                if result == Err(CompactError::Cancelled) || (result.is_err() && !must) {
                    return result;
                }
            }
        }
        if tokens(&self.transcript) > limits.kept || (refusals.is_some() && result.is_err()) {
            let shortened = shorten(&self.transcript, limits.shortened);
            if !shortened.is_empty() {
                self.replace(shortened);
                result = Ok(());
            }
        }
        if must
            && (result.is_err() || tokens(&self.transcript) > limits.kept)
            && let Some(cut) = self.worthwhile_cut(limits.shortened, size)
        {
            self.emit(AgentEvent::CompactionStart { reason });
            let (why, chars) = ("there was no room for it", limits.excerpts);
            let done = self.compactor(&mut |_| ()).excerpt(&self.transcript, &cut, why, chars);
            self.compacted(done, reason, refusals.is_some());
            result = Ok(());
        }
        result
    }

    fn limits(&self, size: u64, refusals: Option<u32>) -> Limits {
        let counted = context_tokens(&self.transcript, self.overhead);
        limits(self.model.context_window, self.overhead, size, counted, refusals)
    }

    /// A cut behind which at most `limit` tokens stay, or as few as possible, if it leaves out enough.
    fn worthwhile_cut(&self, limit: u64, size: u64) -> Option<Cut> {
        let start = compaction::summaries(&self.transcript);
        let cut = compaction::cut_within(&self.transcript, start, limit)?;
        let left_out = tokens(&self.transcript[..cut.first_kept]);
        (left_out >= WORTH_A_CUT.max(size / 16)).then_some(cut)
    }

    /// Puts shortened messages in the place of the whole ones.
    fn replace(&mut self, shortened: Vec<(usize, Arc<Message>)>) {
        if let Some((first, _)) = shortened.first() {
            compaction::forget_counts(&mut self.transcript[*first..]);
        }
        for (at, message) in &shortened {
            self.transcript[*at] = message.clone();
        }
        self.step(Step::Shortened(shortened));
    }

    /// Replaces the part of the transcript before the cut by a summary; where the context must get smaller and there is no
    /// summary to be had, by excerpts.
    ///
    /// # Errors
    /// [`CompactError`]; the transcript is as it was.
    fn make_room(
        &mut self,
        cut: &Cut,
        limits: &Limits,
        reason: CompactionReason,
        focus: Option<&str>,
        will_retry: bool,
    ) -> Result<(), CompactError> {
        self.emit(AgentEvent::CompactionStart { reason });
        let mut on_retry = |retry: SummaryRetry| self.emit(retry.event(reason));
        let mut compactor = self.compactor(&mut on_retry);
        let done = match compactor.compact(&self.transcript, cut, focus) {
            Err(why @ (CompactError::Failed(_) | CompactError::Refused(_))) if reason == CompactionReason::Overflow => {
                Ok(compactor.excerpt(&self.transcript, cut, &why.to_string(), limits.excerpts))
            }
            done => done,
        };
        match done {
            Ok(done) => {
                self.compacted(done, reason, will_retry);
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

    fn compacted(&mut self, done: Compaction, reason: CompactionReason, will_retry: bool) {
        let entry = json!({"summary": done.summary, "tokensBefore": done.tokens_before,
            "details": done.details.details(), "usage": done.usage});
        let mut result = entry.clone();
        result["estimatedTokensAfter"] = json!(done.tokens_after);
        self.transcript.splice(..done.first_kept, [done.message.clone()]);
        compaction::forget_counts(&mut self.transcript);
        self.stats.add_usage(&done.usage);
        self.step(Step::Compacted { message: done.message, first_kept: done.first_kept, entry });
        self.emit(AgentEvent::CompactionEnd { reason, result: Some(result), aborted: false, will_retry, error: None });
    }

    /// Deals with a context that was too long, or left no room for the answer: makes it smaller and asks once more, a few
    /// times in a row. `None` means that the model is to be asked again.
    pub(super) fn overflowed(&mut self, outcome: Outcome, run: &mut Run) -> Option<Settled> {
        let cut = outcome.message.stop_reason == StopReason::Length;
        let said = !outcome.message.text().trim().is_empty();
        let error = outcome.message.error_message.clone();
        let error = error.unwrap_or_else(|| "the model's context window left no room for an answer".into());
        // What was said of an answer is the answer, if there will be no other.
        let given_up = |why: String| if said && cut { Settled::Done } else { Settled::Failed(ReplyError::model(why)) };
        let message = self.add(Message::Assistant(outcome.message));
        if run.overflows >= MAX_RECOVERIES {
            let error_text = format!("Context overflow recovery failed after {MAX_RECOVERIES} attempts");
            self.emit(AgentEvent::CompactionEnd {
                reason: CompactionReason::Overflow,
                result: None,
                aborted: false,
                will_retry: false,
                error: Some(error_text),
            });
            return Some(self.end_run(run, Some(message), given_up(error)));
        }
        self.emit_both([Turn::turn_end(run, Some(message.clone()), Vec::new()), self.agent_end(true)]);
        // The attempt is left out of the context, or the next one would answer it; but half an answer not before it is sure
        // that there is another.
        self.transcript.pop();
        if !cut {
            self.step(Step::Omitted);
        }
        let relieved = self.relieve(CompactionReason::Overflow, Some(run.overflows));
        run.overflows += 1;
        match relieved {
            Ok(()) => {
                if cut {
                    self.step(Step::Omitted);
                }
                self.begin_run(run);
                return None;
            }
            Err(_) if cut => self.transcript.push(message),
            Err(_) => {}
        }
        if self.cancel.is_cancelled() {
            return Some(Settled::Aborted);
        }
        let window = self.model.context_window;
        Some(given_up(if self.overhead >= window / 4 * 3 {
            let overhead = self.overhead;
            format!(
                "{error} (the system prompt and the tools alone take about {overhead} tokens of the {window} of {})",
                self.model.spec()
            )
        } else {
            format!("{error} (context overflow recovery failed: there is nothing left to make shorter)")
        }))
    }
}

/// Tokens of what every request has beside the messages, estimated.
pub(super) fn overhead(system: &str, tools: &[&ToolSpec]) -> u64 {
    let tool = |tool: &&ToolSpec| tool.name.len() + tool.description.len() + tool.parameters.text().len();
    let chars = system.len() + tools.iter().map(tool).sum::<usize>();
    (chars as u64).div_ceil(compaction::CHARS_PER_TOKEN)
}

/// What the messages may take of the window beside the overhead, which is what the system prompt and the tools take.
/// They are estimated at `size` now; where both together were `counted` as more, the estimate is too low by as much. With
/// `refusals`, the server has refused them, after so many others.
fn limits(window: u64, overhead: u64, size: u64, counted: u64, refusals: Option<u32>) -> Limits {
    let room = window.saturating_sub(overhead).max(window / 8);
    let estimated = u128::from(size.saturating_add(overhead));
    let room = u128::from(room) * estimated.max(1) / u128::from(counted).max(estimated).max(1);
    let room = u64::try_from(room).unwrap_or(u64::MAX);
    let three_quarters = |tokens: u64| tokens / 4 * 3;
    let (kept, shortened) = match refusals {
        None => (three_quarters(room), room / 2),
        // The first time the window is taken for what it is said to be: what is too long is what is older.
        Some(0) => (three_quarters(room), room.min(size) / 2),
        Some(refusals) => {
            let size = room.min(size) >> refusals.min(MAX_RECOVERIES);
            (three_quarters(size), size / 2)
        }
    };
    // As many characters as tokens are about a quarter of them.
    let excerpts = usize::try_from(shortened.max(LEAST_EXCERPTS).min(window / 4)).unwrap_or(usize::MAX);
    Limits { kept, shortened, excerpts }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_messages_may_take() {
        for (window, overhead, size, counted, refusals, kept, shortened) in [
            // Near the window, and over it by our own count.
            (200_000, 4000, 230_000, 234_000, None, 147_000, 98_000),
            (8000, 3000, 9000, 2000, None, 3750, 2500),
            // The server counts twice as many tokens.
            (200_000, 0, 100_000, 200_000, None, 75_000, 50_000),
            // Each refusal in a row halves what there is to be.
            (200_000, 4000, 230_000, 0, Some(0), 147_000, 98_000),
            (200_000, 4000, 120_000, 0, Some(0), 147_000, 60_000),
            (200_000, 4000, 120_000, 0, Some(1), 45_000, 30_000),
            (200_000, 4000, 30_000, 0, Some(2), 5625, 3750),
            (200_000, 4000, 80, 0, Some(90), 6, 5),
            // There is no room at all; the messages are not to blame, but something has to be sent.
            (8000, 9000, 400, 9400, None, 750, 500),
            (0, 0, 0, 0, Some(0), 0, 0),
            (u64::MAX, 0, u64::MAX, u64::MAX, None, u64::MAX / 4 * 3, u64::MAX / 2),
        ] {
            let limits = limits(window, overhead, size, counted, refusals);
            assert_eq!(
                (limits.kept, limits.shortened),
                (kept, shortened),
                "{window} {overhead} {size} {counted} {refusals:?}"
            );
        }
    }
}
