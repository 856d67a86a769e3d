//! Compaction: the older part of a conversation is replaced by a summary, which the session's own model writes.
//!
//! Runs on the turn's thread. What is kept and how a summary looks is decided in `transcript::compaction`. A summary request
//! that is too long itself is made shorter and sent again; where there is no summary to be had, excerpts take its place.

use super::Settled;
use super::spending::Requests;
use crate::cancel::Cancel;
use crate::clock::now_ms;
use crate::contract::error::ReplyError;
use crate::contract::event::{AgentEvent, CompactionReason};
use crate::model::overflow::is_overflow;
use crate::model::retry;
use crate::model::{Model, Request, Services, Sink, StreamEvent, ThinkingLevel};
use crate::transcript::compaction::{self, Cut, Files, prompts};
use crate::transcript::elide::elide;
use crate::transcript::{AssistantMessage, Message, StopReason, Usage};
use std::sync::Arc;
use std::time::Duration;

/// How often a summary request that is too long is made shorter, each time by half.
const SHORTER_REQUESTS: u32 = 3;
/// A summary request of fewer characters is not too long for any model; another limit is meant.
const SHORT_REQUEST: usize = 4000;

/// What a compaction came to.
#[derive(Debug)]
pub(super) struct Compaction {
    /// The whole summary, for the session file.
    pub summary: String,
    /// The summary as the message that takes the place of everything before `first_kept`.
    pub message: Arc<Message>,
    /// Index into the messages that were given: the first one that stays.
    pub first_kept: usize,
    /// Tokens of the context before and, estimated, after.
    pub tokens_before: u64,
    pub tokens_after: u64,
    /// The files that were touched in everything that was summarised so far.
    pub details: Files,
    /// What the summary cost.
    pub usage: Usage,
}

/// Why there was no compaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum CompactError {
    /// Nothing was said since the last compaction.
    AlreadyCompacted,
    /// Everything there is belongs to what is kept.
    Nothing,
    Cancelled,
    /// There is no summary; the text says why.
    Failed(String),
    /// The model must not be asked.
    Refused(ReplyError),
}

impl std::fmt::Display for CompactError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            CompactError::AlreadyCompacted => "Already compacted",
            CompactError::Nothing => "Nothing to compact (session too small)",
            CompactError::Cancelled => "Compaction cancelled",
            CompactError::Failed(reason) => reason,
            CompactError::Refused(error) => &error.message,
        })
    }
}

impl std::error::Error for CompactError {}

/// What is told of a summary request that failed and may succeed yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum SummaryRetry {
    /// Attempt 1, 2, ... of `max_attempts` follows after the delay.
    Scheduled { attempt: u32, max_attempts: u32, delay_ms: u64, error: String },
    /// The delay is over.
    AttemptStart,
    /// No more attempts follow: the last one succeeded, or failed for good.
    Finished,
}

impl SummaryRetry {
    /// The event that tells it, in a compaction for this reason.
    pub(super) fn event(self, reason: CompactionReason) -> AgentEvent {
        match self {
            SummaryRetry::Scheduled { attempt, max_attempts, delay_ms, error } => {
                AgentEvent::SummarizationRetryScheduled { attempt, max_attempts, delay_ms, error }
            }
            SummaryRetry::AttemptStart => AgentEvent::SummarizationRetryAttemptStart { reason },
            SummaryRetry::Finished => AgentEvent::SummarizationRetryFinished,
        }
    }
}

/// Everything a compaction works with.
pub(super) struct Compactor<'a> {
    pub services: &'a Services,
    pub model: &'a Model,
    pub thinking: ThinkingLevel,
    /// The session whose conversation it is.
    pub session: &'a str,
    pub cancel: &'a Cancel,
    pub on_retry: &'a mut dyn FnMut(SummaryRetry),
    pub requests: &'a dyn Requests,
}

impl Compactor<'_> {
    /// Decides where `messages` are cut, which may begin with the summary of an earlier compaction.
    ///
    /// # Errors
    /// There is nothing to summarise: [`CompactError::AlreadyCompacted`] or [`CompactError::Nothing`].
    pub(super) fn plan(&self, messages: &[Arc<Message>]) -> Result<Cut, CompactError> {
        let start = compaction::summaries(messages);
        let keep_recent = self.services.compaction_settings(self.model).keep_recent_tokens;
        let nothing = if start > 0 { CompactError::AlreadyCompacted } else { CompactError::Nothing };
        compaction::cut(messages, start, keep_recent).ok_or(nothing)
    }

    /// Summarises the part of `messages` before the cut. `focus` is what the user wants the summary to look at in
    /// particular.
    ///
    /// # Errors
    /// [`CompactError::Cancelled`] and [`CompactError::Failed`]. The messages are as good as before.
    pub(super) fn compact(
        &mut self,
        messages: &[Arc<Message>],
        cut: &Cut,
        focus: Option<&str>,
    ) -> Result<Compaction, CompactError> {
        let Parts { previous, history, turn, details } = Parts::of(messages, cut);
        let mut usage = Usage::default();
        let history = match history {
            [] => previous.map(str::to_string),
            history => {
                let prompt = |text: &str, previous: Option<&str>| prompts::history(text, previous, focus);
                Some(self.summarise(history, previous, &prompt, &mut usage)?)
            }
        };
        let turn = match turn {
            [] => None,
            turn => {
                let prompt = |text: &str, _: Option<&str>| prompts::turn_prefix(text);
                Some(self.summarise(turn, None, &prompt, &mut usage)?)
            }
        };
        let summary = compaction::summary_text(history.as_deref(), turn.as_deref(), &details);
        Ok(done(messages, cut, summary, details, usage))
    }

    /// What takes the place of a summary that cannot be had, for the reason given: excerpts of the part of `messages`
    /// before the cut, of at most about `max_chars` characters. No model is asked.
    pub(super) fn excerpt(&self, messages: &[Arc<Message>], cut: &Cut, why: &str, max_chars: usize) -> Compaction {
        let Parts { previous, details, .. } = Parts::of(messages, cut);
        let start = compaction::summaries(messages);
        let half = max_chars / 2;
        let mut text = format!("(The model could not write a summary: {}. These are excerpts.)", elide(why, 0));
        for part in [
            previous.map(|words| elide(words, half)),
            Some(compaction::serialise(&messages[start..cut.first_kept], half)),
        ] {
            if let Some(part) = part.filter(|part| !part.is_empty()) {
                text.push_str("\n\n");
                text.push_str(&part);
            }
        }
        let summary = compaction::summary_text(Some(&text), None, &details);
        done(messages, cut, summary, details, Usage::default())
    }

    /// One part of the summary. A request that turns out to be too long is made shorter; `prompt` makes it of the
    /// conversation and the previous summary.
    fn summarise(
        &mut self,
        messages: &[Arc<Message>],
        previous: Option<&str>,
        prompt: &dyn Fn(&str, Option<&str>) -> String,
        usage: &mut Usage,
    ) -> Result<String, CompactError> {
        // Three quarters of the window, at three characters a token, which is on the safe side.
        let quarter = usize::try_from(self.model.context_window / 4).unwrap_or(usize::MAX);
        let mut room = quarter.saturating_mul(9);
        let mut left = SHORTER_REQUESTS;
        loop {
            let previous = previous.map(|words| elide(words, room / 2));
            let for_previous = previous.as_ref().map_or(0, String::len);
            let conversation = compaction::serialise(messages, room.saturating_sub(for_previous));
            let sent = conversation.len() + for_previous;
            match self.ask(prompt(&conversation, previous.as_deref()), usage) {
                Err(NoSummary::TooLong(_)) if left > 0 && sent > SHORT_REQUEST => {
                    left -= 1;
                    room = sent / 2;
                }
                Err(NoSummary::TooLong(why) | NoSummary::Failed(why)) => return Err(CompactError::Failed(why)),
                Err(NoSummary::Cancelled) => return Err(CompactError::Cancelled),
                Err(NoSummary::Refused(error)) => return Err(CompactError::Refused(error)),
                Ok(summary) => return Ok(summary),
            }
        }
    }

    /// One summary request, tried again as the retry settings say. What it cost is added to `usage`.
    fn ask(&mut self, prompt: String, usage: &mut Usage) -> Result<String, NoSummary> {
        let settings = self.services.retry_settings();
        let messages = [Arc::new(Message::user(prompt))];
        let request = Request {
            model: self.model,
            system: prompts::SYSTEM,
            messages: &messages,
            tools: &[],
            thinking: self.thinking,
            session_id: None,
            session: self.session,
        };
        let mut attempt = 0;
        loop {
            let outcome = match self.requests.send(&request, &mut Discard) {
                Ok(outcome) => outcome,
                Err(Settled::Failed(error)) => return Err(NoSummary::Refused(error)),
                Err(Settled::Done | Settled::Aborted) => return Err(NoSummary::Cancelled),
            };
            *usage += &outcome.message.usage;
            let pause = retry::pause_ms(&outcome, self.model, &settings, attempt);
            let result = summary(&outcome.message);
            if self.cancel.is_cancelled() {
                return Err(NoSummary::Cancelled);
            }
            let (Some(delay_ms), Err(error)) = (pause, &result) else {
                if attempt > 0 {
                    (self.on_retry)(SummaryRetry::Finished);
                }
                // A summary that was cut off may have had too little room behind what it was to summarise.
                let length = outcome.message.stop_reason == StopReason::Length;
                let too_long = length || is_overflow(&outcome.message, self.model);
                return result.map_err(if too_long { NoSummary::TooLong } else { NoSummary::Failed });
            };
            attempt += 1;
            let (max_attempts, error) = (settings.max_retries, error.clone());
            (self.on_retry)(SummaryRetry::Scheduled { attempt, max_attempts, delay_ms, error });
            if self.cancel.sleep(Duration::from_millis(delay_ms)) {
                return Err(NoSummary::Cancelled);
            }
            (self.on_retry)(SummaryRetry::AttemptStart);
        }
    }
}

/// Why a request brought no summary.
enum NoSummary {
    Cancelled,
    /// The request left no room for it.
    TooLong(String),
    Failed(String),
    /// It was not sent.
    Refused(ReplyError),
}

/// What is to be summarised, in the parts that are treated differently.
struct Parts<'a> {
    /// The words of an earlier summary.
    previous: Option<&'a str>,
    history: &'a [Arc<Message>],
    /// The beginning of the turn that is cut through.
    turn: &'a [Arc<Message>],
    /// The files that were touched in all of them.
    details: Files,
}

impl Parts<'_> {
    fn of<'a>(messages: &'a [Arc<Message>], cut: &Cut) -> Parts<'a> {
        let start = compaction::summaries(messages);
        let summary = messages[..start].first().and_then(|message| compaction::summary_of(message));
        let (previous, mut details) = summary.map_or((None, Files::default()), |summary| {
            let (words, files) = Files::split(summary);
            (Some(words), files)
        });
        details.note(&messages[start..cut.first_kept]);
        let history_end = cut.turn_start.unwrap_or(cut.first_kept);
        Parts {
            previous,
            history: &messages[start..history_end],
            turn: &messages[history_end..cut.first_kept],
            details,
        }
    }
}

/// The result of a compaction that came to this summary.
fn done(messages: &[Arc<Message>], cut: &Cut, summary: String, details: Files, usage: Usage) -> Compaction {
    let message = Arc::new(compaction::summary_message(&summary, now_ms()));
    Compaction {
        tokens_after: compaction::estimate(&message) + compaction::tokens(&messages[cut.first_kept..]),
        tokens_before: compaction::context_tokens(messages, 0),
        summary,
        message,
        first_kept: cut.first_kept,
        details,
        usage,
    }
}

/// The summary in an answer, or why it is none. A summary without its end would be taken for a whole one later.
fn summary(answer: &AssistantMessage) -> Result<String, String> {
    match answer.stop_reason {
        StopReason::Error | StopReason::Aborted => {
            Err(answer.error_message.clone().unwrap_or_else(|| "the model gave no reason".to_string()))
        }
        StopReason::Length => Err("the summary was cut off by the output limit".to_string()),
        _ if answer.has_tool_calls() => Err("the model called a tool in place of a summary".to_string()),
        StopReason::Stop | StopReason::ToolUse => Some(answer.text().trim().to_string())
            .filter(|text| !text.is_empty())
            .ok_or_else(|| "the model's summary is empty".to_string()),
    }
}

/// A summary is of no use before it is complete.
struct Discard;

impl Sink for Discard {
    fn event(&mut self, _: StreamEvent<'_>) {}

    fn drained(&mut self) {}
}

#[cfg(test)]
mod tests;
