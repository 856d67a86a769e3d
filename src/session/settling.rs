//! Notices: what is told of each prompt when it is settled, once: in an event, and to the operator's command.

use super::Session;
use crate::contract::error::{ErrorKind, ReplyError};
use crate::contract::event::{AgentEvent, SettledPrompts};
use crate::contract::prompt::Origin;
use crate::contract::wire::Wire;
use crate::metrics::{Count, METRICS};
use crate::tools::ChangedFiles;
use crate::traceparent::TRACEPARENT;
use crate::turn::Settled;
use crossbeam_channel::Sender;
use serde_json::{Value, json};
use std::time::Duration;

/// Takes what the operator's command is to be told. A session does not wait for room there.
pub(crate) type Notices = Sender<Value>;

/// Why nothing more comes of a prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    /// It is answered.
    Final,
    /// It is answered without what the model asked for, since nobody told it in time.
    NeedsAnswer,
    Error,
    /// It would have taken more than its budget.
    Budget,
    /// Somebody ended it, or the session.
    Stopped,
}

impl Reason {
    /// The reason of an answer that came to this end.
    pub(super) fn of(end: &Result<(), ReplyError>, unanswered: bool) -> Reason {
        match end {
            Ok(()) if unanswered => Reason::NeedsAnswer,
            Ok(()) => Reason::Final,
            Err(error) if error.kind == ErrorKind::BudgetExceeded => Reason::Budget,
            Err(error) if is_stop(error.kind) => Reason::Stopped,
            Err(_) => Reason::Error,
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Reason::Final => "final",
            Reason::NeedsAnswer => "needs_answer",
            Reason::Error => "error",
            Reason::Budget => "budget",
            Reason::Stopped => "stopped",
        }
    }
}

/// Somebody wanted the end, be it of the prompt, of the session (stopped, expired) or of the daemon.
fn is_stop(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::Aborted | ErrorKind::NotFound | ErrorKind::Conflict | ErrorKind::ShuttingDown)
}

impl<W: Wire> Session<W> {
    /// Takes note of whether the model waits in vain for what it asked.
    pub(super) fn set_unanswered(&mut self, unanswered: bool) {
        if let Some(running) = &mut self.running {
            running.unanswered = unanswered;
        }
    }

    /// Tells how what is worked on ended, and what it changed, once.
    pub(super) fn tell_end(&mut self, settled: &Settled, changed: ChangedFiles) {
        let Some(running) = self.running.as_mut().filter(|running| running.compaction.is_none()) else { return };
        if std::mem::replace(&mut running.told, true) {
            return;
        }
        let (ids, origin, unanswered) = (running.ids.clone(), running.origin.clone(), running.unanswered);
        let worked = Some((running.started.elapsed(), running.tool_calls, changed));
        let exceeded = self.spending.exceeded.clone();
        let (reason, error) = match (running.storage_error.clone().or(exceeded), settled) {
            (Some(error), _) => (Reason::of(&Err(error.clone()), unanswered), Some(error)),
            (None, Settled::Done) => (Reason::of(&Ok(()), unanswered), None),
            (None, Settled::Aborted) => (Reason::Stopped, None),
            (None, Settled::Failed(error)) => (Reason::of(&Err(error.clone()), unanswered), Some(error.clone())),
        };
        self.tell(&ids, origin, reason, error.as_ref(), worked);
    }

    /// Tells the end of accepted prompts that nothing was done about.
    pub(super) fn tell_unworked(&mut self, ids: &[String], origin: Origin, error: &ReplyError) {
        self.tell_closed(ids, origin, Some(error));
    }

    /// Tells the end of what an earlier process worked on.
    pub(super) fn tell_closed(&mut self, ids: &[String], origin: Origin, error: Option<&ReplyError>) {
        let end = error.cloned().map_or(Ok(()), Err);
        self.tell(ids, origin, Reason::of(&end, false), error, None);
    }

    fn tell(
        &mut self,
        ids: &[String],
        origin: Origin,
        reason: Reason,
        error: Option<&ReplyError>,
        worked: Option<(Duration, u64, ChangedFiles)>,
    ) {
        let (time, tool_calls, changed) = worked.unwrap_or_default();
        METRICS.prompt(reason.as_str(), time);
        let prompts = SettledPrompts {
            reason: reason.as_str(),
            prompt_ids: ids.to_vec(),
            from: origin.from,
            error: error.map(ReplyError::document),
            duration_ms: u64::try_from(time.as_millis()).unwrap_or(u64::MAX),
            tool_calls,
            changed,
        };
        if let Some(notices) = &self.options.notices {
            let settings = self.stats.settings();
            let mut notice = json!({"event": "settled", "session": self.identity.id, "named": self.identity.named,
                "cwd": self.identity.cwd.to_string_lossy(), "name": settings.name, "model": settings.model.spec()});
            notice["data"] = json!(prompts);
            if let Some(trace) = &origin.trace {
                notice[TRACEPARENT] = json!(trace.as_str());
            }
            if notices.try_send(notice).is_err() {
                METRICS.count(Count::DroppedNotice);
                log::warn!("session {}: onSettled is not told: too much waits for it", self.identity.id);
            }
        }
        let event = AgentEvent::Settled(Box::new(prompts));
        self.in_trace(origin.trace, |session| session.record_event(event));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_have_reasons() {
        let failed = |kind| Err(ReplyError::new(kind, "why"));
        for (end, unanswered, expected) in [
            (Ok(()), false, "final"),
            (Ok(()), true, "needs_answer"),
            (failed(ErrorKind::Model), true, "error"),
            (failed(ErrorKind::Storage), false, "error"),
            (failed(ErrorKind::BudgetExceeded), false, "budget"),
            (failed(ErrorKind::Interrupted), false, "error"),
            (failed(ErrorKind::Aborted), false, "stopped"),
            (Err(ReplyError::stopped()), false, "stopped"),
            (Err(ReplyError::expired(3)), false, "stopped"),
            (Err(ReplyError::shutting_down()), false, "stopped"),
        ] {
            assert_eq!(Reason::of(&end, unanswered).as_str(), expected, "{end:?}");
        }
    }
}
