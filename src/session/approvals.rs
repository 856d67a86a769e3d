//! Approvals: calls of tools, and requests to the model beyond a budget, that wait until somebody allows them.
//!
//! An approval is bound to one call by its hash, is settled once, and is on disk before anybody is told of it. A tool runs
//! only after both the approval and the intent to run it are there.

use super::Session;
use super::auditing::ApprovedCall;
use super::budget::MODEL_REQUEST;
use crate::clock::{iso_time, now_ms};
use crate::contract::control::{Answer, Settlement};
use crate::contract::denial::{Denial, DeniedBy};
use crate::contract::error::{ErrorKind, ReplyError};
use crate::contract::event::AgentEvent;
use crate::contract::session::Unattended;
use crate::contract::wire::Wire;
use crate::governance::call::{call_hash, likeness, shown_arguments};
use crate::ids;
use crate::session::recovery::KeptApproval;
use crate::turn::{Ruling, ToolCall, Wait};
use crossbeam_channel::{Sender, bounded};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

/// Approvals that may be open in one session at a time, which are more than calls that one answer may have.
const MAX_OPEN: usize = 128;
/// The longest words of a person that are passed on, characters.
const MAX_REASON: usize = 1000;

/// The open approvals of one session, oldest first.
#[derive(Default)]
pub(super) struct Approvals {
    open: Vec<Approval>,
}

struct Approval {
    id: String,
    call_id: String,
    tool: String,
    hash: String,
    /// What calls like this one have in common.
    likeness: String,
    rule: Option<Arc<str>>,
    /// Unix time in milliseconds, as the next one.
    opened: i64,
    /// When it is denied for want of an answer.
    deadline: Option<i64>,
    /// As people see it.
    request: Value,
    /// The number of its event, while nobody is known to have got it.
    unheard: Option<u64>,
    settle: Sender<Result<(), Denial>>,
}

impl Approvals {
    /// How many calls wait for one.
    pub(super) fn count(&self) -> usize {
        self.open.len()
    }

    /// As `questions` lists them, oldest first.
    pub(super) fn list(&self) -> impl Iterator<Item = Value> {
        self.open.iter().map(|approval| {
            json!({"requestId": approval.id, "openedAt": iso_time(approval.opened), "kind": "approval",
                "request": approval.request})
        })
    }

    /// The approval is open.
    pub(super) fn has(&self, id: &str) -> bool {
        self.open.iter().any(|approval| approval.id == id.trim())
    }

    /// The approval that a call waits for.
    pub(super) fn of_call(&self, call: &str) -> Option<&str> {
        self.open.iter().find(|approval| approval.call_id == call).map(|approval| approval.id.as_str())
    }

    /// When the next one is denied for want of an answer, Unix time in milliseconds.
    pub(super) fn deadline(&self) -> Option<i64> {
        self.open.iter().filter_map(|approval| approval.deadline).min()
    }

    fn due(&self, now: i64) -> Option<usize> {
        self.open.iter().position(|approval| approval.deadline.is_some_and(|deadline| deadline <= now))
    }

    /// The one that is meant, if it is open and for that call.
    fn find(&self, settlement: &Settlement) -> Result<usize, ReplyError> {
        let stale = |why: String| ReplyError::coded(ErrorKind::StaleAnswer, why);
        let id = settlement.id.trim();
        let at = self.open.iter().position(|approval| approval.id == id);
        let at = at.ok_or_else(|| stale(format!("no approval {:?} is open", crate::contract::error::echo(id))))?;
        // Compared as a whole, since nothing about it is secret from whoever may see the approval.
        if self.open[at].hash == settlement.hash {
            Ok(at)
        } else {
            Err(stale(format!("the hash is not that of the call that waits for approval {id:?}")))
        }
    }
}

/// How an approval came to its end.
enum Outcome<'s> {
    Settled(&'s Settlement),
    Denied(DeniedBy),
}

impl<W: Wire> Session<W> {
    /// Somebody allowed calls like this one for the rest of the session.
    pub(super) fn is_granted(&self, call: &ToolCall) -> bool {
        !self.grants.is_empty() && self.grants.contains(&likeness(&call.tool, &call.target, &call.arguments))
    }

    /// Opens an approval for a call, or again one of before a restart, with the time that is left.
    pub(super) fn ask_for_approval(&mut self, call: &ToolCall, rule: Option<Arc<str>>) -> Ruling {
        let hash = call_hash(&call.id, &call.tool, &call.arguments);
        let kept = self.kept_approvals.iter().position(|kept| kept.call_id == call.id && kept.hash == hash);
        let kept = kept.map(|at| self.kept_approvals.remove(at));
        match kept.as_ref().and_then(|kept| kept.settled.as_ref()) {
            Some(None) => {
                // It was allowed, and had not begun.
                if call.tool != MODEL_REQUEST {
                    let written = self.memory.intends_more(&call.id, &call.tool);
                    self.has_begun(&call.id);
                    self.check_written(written);
                }
                return Ruling::Run;
            }
            Some(Some(denial)) => return Ruling::Denied(Denial::from_record(denial, rule)),
            None => {}
        }
        if self.approvals.open.len() >= MAX_OPEN {
            return Ruling::Denied(Denial { by: DeniedBy::Nobody, rule });
        }
        let now = now_ms();
        let is_new = kept.is_none();
        let (id, opened, deadline) = match kept {
            Some(KeptApproval { id, opened, deadline, .. }) => (id, opened, deadline),
            None => {
                let timeout = self.options.approval_timeout.map(milliseconds);
                (format!("apr_{}", ids::nuid()), now, timeout.map(|time| now.saturating_add(time)))
            }
        };
        let request = json!({"id": id, "toolCallId": call.id, "tool": call.tool, "arguments": shown_arguments(&call.arguments),
            "hash": hash, "rule": rule.as_deref(), "deadline": deadline.map(iso_time)});
        let (settle, settled) = bounded(2);
        let approval = Approval {
            id: id.clone(),
            call_id: call.id.clone(),
            tool: call.tool.clone(),
            likeness: likeness(&call.tool, &call.target, &call.arguments),
            hash,
            rule,
            opened,
            deadline,
            request,
            unheard: None,
            settle: settle.clone(),
        };
        if is_new {
            let written = self.memory.approval(json!({"requestId": id, "toolCallId": call.id, "hash": approval.hash,
                "opened": opened, "deadline": deadline}));
            self.check_written(written);
        }
        log::info!("session {}: a call of {} waits for approval {id}", self.identity.id, call.tool);
        let event = json!({"action": "opened", "kind": "approval", "requestId": id, "openedAt": iso_time(opened),
            "source": "gate", "request": approval.request});
        self.approvals.open.push(approval);
        let (seq, may_be_heard) = self.call_for(AgentEvent::Question(event));
        let is_watched = self.is_watched();
        if let Some(approval) = self.approvals.open.last_mut().filter(|_| is_new && !is_watched) {
            approval.unheard = Some(seq);
            if !may_be_heard {
                self.nobody_heard(seq);
            }
        }
        Ruling::Wait(Wait { settle, settled })
    }

    /// Somebody says yes or no.
    ///
    /// # Errors
    /// The approval is not open any more, or was for another call.
    pub(super) fn approve(&mut self, settlement: &Settlement) -> Result<Answer, ReplyError> {
        let at = self.approvals.find(settlement)?;
        // One whose time is up is not open, even if nobody has looked at the clock since.
        if self.approvals.open[at].deadline.is_some_and(|deadline| deadline <= now_ms()) {
            self.expire_approvals();
            let why = format!("the time of approval {:?} is up", settlement.id.trim());
            return Err(ReplyError::coded(ErrorKind::StaleAnswer, why));
        }
        let id = self.approvals.open[at].id.clone();
        self.settle_approval(at, &Outcome::Settled(settlement))?;
        Ok(Answer::Document(json!({"requestId": id, "allowed": settlement.allow})))
    }

    /// Nobody on NATS got the event with this number.
    pub(super) fn nobody_heard(&mut self, seq: u64) {
        let Some(at) = self.approvals.open.iter().position(|approval| approval.unheard == Some(seq)) else { return };
        if self.is_watched() {
            return;
        }
        self.approvals.open[at].unheard = None;
        match self.options.unattended {
            Unattended::Wait => {}
            Unattended::Deny => drop(self.settle_approval(at, &Outcome::Denied(DeniedBy::Nobody))),
            Unattended::After(time) => {
                let approval = &mut self.approvals.open[at];
                let deadline = approval.opened.saturating_add(milliseconds(time));
                let deadline = approval.deadline.map_or(deadline, |other| other.min(deadline));
                approval.deadline = Some(deadline);
                let record = json!({"requestId": approval.id, "toolCallId": approval.call_id, "hash": approval.hash,
                    "opened": approval.opened, "deadline": deadline});
                let written = self.memory.approval(record);
                self.check_written(written);
            }
        }
    }

    /// Denies those whose time is up.
    pub(super) fn expire_approvals(&mut self) {
        while let Some(at) = self.approvals.due(now_ms()) {
            let approval = &self.approvals.open[at];
            let waited = approval.deadline.unwrap_or_default().saturating_sub(approval.opened);
            let seconds = u64::try_from(waited).unwrap_or_default().div_ceil(1000);
            drop(self.settle_approval(at, &Outcome::Denied(DeniedBy::Time(seconds))));
        }
    }

    /// Closes those that nobody waits for any more.
    pub(super) fn withdraw_approvals(&mut self) {
        while !self.approvals.open.is_empty() {
            drop(self.settle_approval(0, &Outcome::Denied(DeniedBy::End)));
        }
    }

    /// Settles an approval: first on disk, then for the tool, then for those who listen.
    ///
    /// # Errors
    /// It cannot be written, so that it is a no, and the prompt ends.
    fn settle_approval(&mut self, at: usize, outcome: &Outcome<'_>) -> Result<(), ReplyError> {
        let approval = self.approvals.open.remove(at);
        let (allow, source, by) = match outcome {
            Outcome::Settled(settlement) => {
                let said = settlement.reason.as_deref().unwrap_or_default().chars().take(MAX_REASON).collect();
                (settlement.allow, settlement.source, DeniedBy::Person(said))
            }
            Outcome::Denied(by) => (false, "gate", by.clone()),
        };
        let denial = Denial { by, rule: approval.rule.clone() };
        let record = if allow { json!({"allow": true}) } else { denial.record() };
        let mut written = self.memory.approval(json!({"requestId": approval.id, "result": record}));
        // Where the turn goes on elsewhere, that is where it hears of this, and where the tool runs.
        let left = self.has_left();
        if allow && !left && written.is_ok() && approval.tool != MODEL_REQUEST {
            written = self.memory.intends_more(&approval.call_id, &approval.tool);
            self.has_begun(&approval.call_id);
        }
        let failed = written.as_ref().err().map(ReplyError::storage);
        let allowed = allow && failed.is_none();
        if approval.tool == MODEL_REQUEST {
            self.spending.is_approved = allowed;
        }
        if allow {
            self.check_written(written);
        }
        let sender = if let Outcome::Settled(settlement) = outcome { settlement.sender.as_ref() } else { None };
        let about =
            ApprovedCall { approval: &approval.id, call: &approval.call_id, tool: &approval.tool, source, sender };
        let denied = (!allowed).then(|| denial.clone());
        self.settle_audited((!left).then_some(&approval.settle), denied, approval.rule.clone(), &about);
        let mut result = json!({"requestId": approval.id, "allowed": allowed});
        if !allowed {
            result["denied"] = denial.document();
        }
        let mut event = json!({"action": if allowed { "allowed" } else { "denied" }, "kind": "approval",
            "requestId": approval.id, "openedAt": iso_time(approval.opened), "closedAt": iso_time(now_ms()), "source": source,
            "request": approval.request, "result": result});
        if let Outcome::Settled(settlement) = outcome {
            if let Some(sender) = &settlement.sender {
                event["sender"] = sender.document();
            }
            if allowed && settlement.for_session {
                event["forSession"] = json!(true);
                self.grants.push(approval.likeness);
                self.save();
            }
        }
        self.call_for(AgentEvent::Question(event));
        failed.map_or(Ok(()), Err)
    }

    /// How long it is until an approval's time is up.
    pub(super) fn next_approval_expiry(&self) -> Option<Duration> {
        let left = self.approvals.deadline()?.saturating_sub(now_ms());
        Some(Duration::from_millis(u64::try_from(left).unwrap_or_default()))
    }
}

fn milliseconds(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}
