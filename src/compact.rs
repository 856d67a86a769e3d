//! Compaction: the older part of a conversation is replaced by a summary, which the session's own model writes.
//!
//! Runs on the turn's thread. What is kept and how a summary looks is decided in `transcript::compaction`.

use crate::cancel::Cancel;
use crate::events::{AgentEvent, CompactionReason};
use crate::model::retry;
use crate::model::{Model, Request, Services, Sink, StreamEvent, ThinkingLevel};
use crate::transcript::compaction::{self, Cut, Files, prompts};
use crate::transcript::{AssistantMessage, Message, StopReason, Usage, now_ms};
use std::sync::Arc;
use std::time::Duration;

/// What a compaction came to.
#[derive(Debug)]
pub struct Compaction {
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
pub enum CompactError {
    /// Nothing was said since the last compaction.
    AlreadyCompacted,
    /// Everything there is belongs to what is kept.
    Nothing,
    Cancelled,
    /// There is no summary; the text says why.
    Failed(String),
}

impl std::fmt::Display for CompactError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            CompactError::AlreadyCompacted => "Already compacted",
            CompactError::Nothing => "Nothing to compact (session too small)",
            CompactError::Cancelled => "Compaction cancelled",
            CompactError::Failed(reason) => reason,
        })
    }
}

impl std::error::Error for CompactError {}

/// What is told of a summary request that failed and may succeed yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SummaryRetry {
    /// Attempt 1, 2, ... of `max_attempts` follows after the delay.
    Scheduled { attempt: u32, max_attempts: u32, delay_ms: u64, error: String },
    /// The delay is over.
    AttemptStart,
    /// No more attempts follow: the last one succeeded, or failed for good.
    Finished,
}

impl SummaryRetry {
    /// The event that tells it, in a compaction for this reason.
    pub fn event(self, reason: CompactionReason) -> AgentEvent {
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
pub struct Compactor<'a> {
    pub services: &'a Services,
    pub model: &'a Model,
    pub thinking: ThinkingLevel,
    /// The session whose conversation it is.
    pub session: &'a str,
    pub cancel: &'a Cancel,
    pub on_retry: &'a mut dyn FnMut(SummaryRetry),
}

impl Compactor<'_> {
    /// Decides where `messages` are cut, which may begin with the summary of an earlier compaction.
    ///
    /// # Errors
    /// There is nothing to summarise: [`CompactError::AlreadyCompacted`] or [`CompactError::Nothing`].
    pub fn plan(&self, messages: &[Arc<Message>]) -> Result<Cut, CompactError> {
        let previous = messages.first().is_some_and(|m| compaction::is_summary(m));
        if let ([first, .., last], true) = (messages, previous)
            && last.timestamp() < first.timestamp()
        {
            return Err(CompactError::AlreadyCompacted);
        }
        let keep_recent = self.services.compaction_settings(self.model).keep_recent_tokens;
        compaction::cut(messages, usize::from(previous), keep_recent).ok_or(CompactError::Nothing)
    }

    /// Summarises the part of `messages` before the cut. `focus` is what the user wants the summary to look at in
    /// particular.
    ///
    /// # Errors
    /// [`CompactError::Cancelled`] and [`CompactError::Failed`]. The messages are as good as before.
    pub fn compact(
        &mut self,
        messages: &[Arc<Message>],
        cut: Cut,
        focus: Option<&str>,
    ) -> Result<Compaction, CompactError> {
        let previous = messages.first().and_then(|m| compaction::summary_of(m));
        let start = usize::from(previous.is_some());
        let (previous, mut details) = previous.map_or((None, Files::default()), |summary| {
            let (words, files) = Files::split(summary);
            (Some(words), files)
        });
        details.note(&messages[start..cut.first_kept]);

        let mut usage = Usage::default();
        let history_end = cut.turn_start.unwrap_or(cut.first_kept);
        let history = match &messages[start..history_end] {
            [] => previous.map(str::to_string),
            history => {
                let conversation = compaction::serialise(history, self.room(previous));
                Some(self.ask(prompts::history(&conversation, previous, focus), &mut usage)?)
            }
        };
        let turn = match &messages[history_end..cut.first_kept] {
            [] => None,
            prefix => {
                let conversation = compaction::serialise(prefix, self.room(None));
                Some(self.ask(prompts::turn_prefix(&conversation), &mut usage)?)
            }
        };
        let summary = compaction::summary_text(history.as_deref(), turn.as_deref(), &details);
        let message = Arc::new(compaction::summary_message(&summary, now_ms()));
        let kept = &messages[cut.first_kept..];
        let tokens_after = compaction::estimate(&message) + kept.iter().map(|m| compaction::estimate(m)).sum::<u64>();
        Ok(Compaction {
            summary,
            message,
            first_kept: cut.first_kept,
            tokens_before: compaction::context_tokens(messages),
            tokens_after,
            details,
            usage,
        })
    }

    /// How long a conversation may be in a summary request, in characters, so that the request does not overflow itself:
    /// three quarters of the window, at three characters a token, which is on the safe side.
    fn room(&self, previous: Option<&str>) -> usize {
        let window = usize::try_from(self.model.context_window).unwrap_or(usize::MAX);
        (window / 4 * 9).saturating_sub(previous.map_or(0, str::len))
    }

    /// One summary request, tried again as the retry settings say. What it cost is added to `usage`.
    fn ask(&mut self, prompt: String, usage: &mut Usage) -> Result<String, CompactError> {
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
            let outcome = self.services.stream(&request, self.cancel, &mut Discard);
            *usage += &outcome.message.usage;
            let pause = retry::pause_ms(&outcome, self.model, &settings, attempt);
            let result = summary(&outcome.message);
            if self.cancel.is_cancelled() {
                return Err(CompactError::Cancelled);
            }
            let (Some(delay_ms), Err(error)) = (pause, &result) else {
                if attempt > 0 {
                    (self.on_retry)(SummaryRetry::Finished);
                }
                return result.map_err(CompactError::Failed);
            };
            attempt += 1;
            let (max_attempts, error) = (settings.max_retries, error.clone());
            (self.on_retry)(SummaryRetry::Scheduled { attempt, max_attempts, delay_ms, error });
            if self.cancel.sleep(Duration::from_millis(delay_ms)) {
                return Err(CompactError::Cancelled);
            }
            (self.on_retry)(SummaryRetry::AttemptStart);
        }
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
        _ => Some(answer.text().trim().to_string())
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
