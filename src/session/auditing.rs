//! What the session writes into the audit log: who was let in, what was decided, what was done. No words of callers, models and
//! tools are in it, but hashes of them.

use super::budget::MODEL_REQUEST;
use super::recovery::Accepted;
use super::{Held, Session};
use crate::contract::control::Deliver;
use crate::contract::denial::{Denial, DeniedBy};
use crate::contract::error::{ErrorKind, ReplyError};
use crate::contract::prompt::Incoming;
use crate::contract::sender::AgentSender;
use crate::contract::wire::Wire;
use crate::governance::audit::sha256;
use crate::json::object;
use crate::tools::runner::Sandbox;
use crate::transcript::Block;
use crate::turn::{Ruling, ToolCall, Verdict};
use crossbeam_channel::Sender;
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::sync::Arc;

/// What stands before the exit code in the last line of a command's result that has one.
const EXITED: &str = "Command exited with code ";

/// Hashes of the arguments of the calls that were decided on last, by the calls' ids.
pub(super) type Arguments = HashMap<String, String>;

/// A call that waited for an approval, and who settled that.
pub(super) struct ApprovedCall<'a> {
    pub approval: &'a str,
    pub call: &'a str,
    pub tool: &'a str,
    /// What it was settled over.
    pub source: &'static str,
    pub sender: Option<&'a AgentSender>,
}

/// A line of the log: what happened, and the facts.
pub(super) type Line = (&'static str, Value);

impl<W: Wire> Session<W> {
    fn facts(&self, facts: Value) -> Map<String, Value> {
        let mut line = object(json!({"session": self.identity.id, "instance": self.identity.instance_id}));
        line.extend(object(facts));
        line
    }

    /// Records what has happened. Where that is not possible what runs is ended.
    pub(super) fn audit(&mut self, event: &'static str, facts: impl FnOnce() -> Value) {
        let Some(audit) = self.options.audit.clone() else { return };
        if !audit.record(event, self.facts(facts()))
            && let Some(running) = &mut self.running
        {
            running.storage_error = Some(ReplyError::coded(ErrorKind::Storage, "the audit log is full"));
            running.cancel.cancel();
        }
    }

    /// Gives the turn its verdict, once what it rests on is stored and these lines are on the disk, where they have to be there.
    pub(super) fn give(&mut self, verdict: &Sender<Verdict>, answer: Verdict, lines: Vec<Line>) {
        self.once_stored(Held::Verdict(verdict.clone(), answer, lines));
    }

    pub(super) fn give_now(&self, verdict: &Sender<Verdict>, answer: Verdict, lines: Vec<Line>) {
        match &self.options.audit {
            Some(audit) if !lines.is_empty() => {
                let verdict = verdict.clone();
                let lines = lines.into_iter().map(|(event, facts)| (event, self.facts(facts))).collect();
                audit.record_first(
                    lines,
                    Box::new(move |written| {
                        let refused = |why: String| Verdict::Refused(ReplyError::coded(ErrorKind::Storage, why));
                        let _ = verdict.try_send(written.map_or_else(refused, |()| answer));
                    }),
                );
            }
            // A turn that does not wait for its verdict any more was cancelled.
            Some(_) | None => drop(verdict.try_send(answer)),
        }
    }

    /// The session begins, or is as it was before a restart.
    pub(super) fn audit_session(&mut self, event: &'static str) {
        let (identity, settings) = (self.identity.clone(), self.stats.settings());
        let budgets = self.stats.budgets().document();
        self.audit(event, || {
            json!({"cwd": identity.cwd.to_string_lossy(), "from": identity.from, "named": identity.named,
                "model": settings.model.spec(), "thinkingLevel": settings.thinking.as_str(), "tools": identity.tools,
                "sandbox": settings.sandbox.facts(), "budgets": budgets})
        });
    }

    /// A message was accepted.
    pub(super) fn audit_prompt(
        &mut self,
        message: &Incoming,
        from: Option<&str>,
        sender: Option<&AgentSender>,
        deliver: Deliver,
    ) {
        let (id, images) = (message.id.clone(), message.images.len());
        self.audit("prompt", || {
            json!({"prompt": id, "from": from, "sender": sender.map(AgentSender::document), "deliver": deliver.as_str(),
                "text": sha256(message.text.as_bytes()), "images": images})
        });
    }

    /// Messages of before a restart are taken up. The restart may have come before the log had them.
    pub(super) fn audit_resumed<'a>(&mut self, messages: impl Iterator<Item = &'a Accepted>) {
        for message in messages {
            self.audit("prompt", || {
                json!({"prompt": message.id, "from": message.from, "text": sha256(message.text.as_bytes()),
                    "images": message.images.len(), "resumed": true})
            });
        }
    }

    /// The lines about calls that were decided on: the decisions, and those that begin.
    pub(super) fn lines_of_calls(&mut self, calls: &[ToolCall], rulings: &[Ruling], allowed: bool) -> Vec<Line> {
        if self.options.audit.is_none() {
            return Vec::new();
        }
        self.arguments.clear();
        let (mut decided, mut begun) = (Vec::new(), Vec::new());
        for (call, ruling) in calls.iter().zip(rulings) {
            let arguments = sha256(&serde_json::to_vec(&*call.arguments).unwrap_or_default());
            let mut line = json!({"call": call.id, "tool": call.tool, "arguments": arguments,
                "rule": self.identity.rules.decide(&call.tool, &call.target).rule.as_deref()});
            match ruling {
                Ruling::Run => {
                    line["do"] = json!("run");
                    begun.push(self.line_of_begun(&call.id, &call.tool, &arguments));
                }
                Ruling::Denied(denial) => {
                    (line["do"], line["by"]) = (json!("deny"), json!(denial.by()));
                }
                Ruling::Wait { .. } => {
                    (line["do"], line["approval"]) = (json!("ask"), json!(self.approvals.of_call(&call.id)));
                }
            }
            self.arguments.insert(call.id.clone(), arguments);
            decided.push(line);
        }
        let mut lines = vec![("gate", json!({"allowed": allowed, "tools": decided}))];
        if allowed {
            lines.append(&mut begun);
        }
        lines
    }

    fn line_of_begun(&self, call: &str, tool: &str, arguments: &str) -> Line {
        let sandbox = self.runner.sandbox().level.as_str();
        ("tool_begun", json!({"call": call, "tool": tool, "arguments": arguments, "sandbox": sandbox}))
    }

    /// Tells the turn what became of an approval; of one that is given only once that is recorded.
    pub(super) fn settle_audited(
        &mut self,
        settle: Option<&Sender<Result<(), Denial>>>,
        denied: Option<Denial>,
        rule: Option<Arc<str>>,
        about: &ApprovedCall<'_>,
    ) {
        let by = denied.as_ref().map_or("person", Denial::by);
        let line = json!({"approval": about.approval, "call": about.call, "tool": about.tool, "rule": rule.as_deref(),
            "allowed": denied.is_none(), "by": by, "source": about.source, "sender": about.sender.map(AgentSender::document)});
        let audit = self.options.audit.clone();
        match (audit, denied, settle) {
            (audit, None, Some(settle)) => {
                let mut lines = vec![("approval", line)];
                if audit.is_some() && about.tool != MODEL_REQUEST {
                    let arguments = self.arguments.get(about.call).cloned().unwrap_or_default();
                    lines.push(self.line_of_begun(about.call, about.tool, &arguments));
                }
                self.once_stored(Held::Call { settle: settle.clone(), rule, lines });
            }
            (_, denied, settle) => {
                self.audit("approval", || line);
                // A turn that does not wait any more was cancelled.
                settle.map(|settle| settle.try_send(denied.map_or(Ok(()), Err)));
            }
        }
    }

    /// Lets a call run that somebody allowed, once these lines are on the disk, where they have to be there.
    pub(super) fn run_allowed(&self, settle: Sender<Result<(), Denial>>, rule: Option<Arc<str>>, lines: Vec<Line>) {
        let Some(audit) = &self.options.audit else {
            // A turn that does not wait any more was cancelled.
            return drop(settle.try_send(Ok(())));
        };
        let lines = lines.into_iter().map(|(event, facts)| (event, self.facts(facts))).collect();
        let then = move |written: Result<(), String>| {
            let _ = settle.try_send(written.map_err(|_| Denial { by: DeniedBy::End, rule }));
        };
        audit.record_first(lines, Box::new(then));
    }

    /// A call came to its end. One that never began has no line.
    pub(super) fn audit_result(
        &mut self,
        (id, tool): (&str, &str),
        content: &[Block],
        is_error: bool,
        (duration_ms, sandbox): (Option<u64>, Option<&Arc<Sandbox>>),
    ) {
        let Some(duration_ms) = duration_ms else { return };
        let level = sandbox.map(|sandbox| sandbox.level.as_str());
        self.audit("tool_ended", || {
            let text = serde_json::to_vec(content).unwrap_or_default();
            json!({"call": id, "tool": tool, "result": sha256(&text), "error": is_error,
                "exit": exit_code(tool, content, is_error), "ms": duration_ms, "sandbox": level})
        });
    }

    /// A prompt is settled: the world learns how far the log is.
    pub(super) fn audit_settled(&self) {
        if let Some(audit) = &self.options.audit {
            audit.publish_head();
        }
    }
}

/// The exit code of a command, if it had one.
fn exit_code(tool: &str, content: &[Block], is_error: bool) -> Option<i64> {
    if tool != "bash" {
        return None;
    }
    let text = content.last().and_then(Block::as_text)?;
    let last = text.lines().last().unwrap_or_default();
    if is_error { last.strip_prefix(EXITED)?.parse().ok() } else { Some(0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_those_of_commands() {
        for (tool, text, is_error, expected) in [
            ("bash", "(no output)", false, Some(0)),
            ("bash", "x\n\nCommand exited with code 3", true, Some(3)),
            ("bash", "Command exited with code 3\n\nCommand aborted", true, None),
            ("bash", "Command exited with code 3", false, Some(0)),
            ("read", "Command exited with code 3", true, None),
        ] {
            assert_eq!(exit_code(tool, &[Block::text(text)], is_error), expected, "{text}");
        }
    }
}
