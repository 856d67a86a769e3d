//! Questions that the model has for people, and the answers that come over any wire.

use super::Session;
use crate::clock::now_ms;
use crate::contract::control::Answer;
use crate::contract::error::{ErrorKind, ReplyError};
use crate::contract::event::AgentEvent;
use crate::contract::wire::Wire;
use crate::session::questions::Settled;
use crate::session::recovery::KeptQuestion;
use crossbeam_channel::Sender;
use serde_json::{Value, json};
use std::time::Duration;

/// Takes what became of a question.
pub(super) type Asker = Sender<Result<Value, String>>;

impl<W: Wire> Session<W> {
    /// Opens a question of the model's, or again one of before a restart, with the time that is left.
    pub(super) fn ask(&mut self, request: Value, asker: Asker) {
        let kept = self.kept_questions.iter().position(|kept| kept.request == request);
        let (mut asked, now) = (request.clone(), now_ms());
        let (opened, deadline, is_new) = match kept.map(|at| self.kept_questions.remove(at)) {
            Some(KeptQuestion { result: Some(result), .. }) => return drop(asker.try_send(Ok(result))),
            Some(kept) => {
                asked["id"] = json!(kept.id);
                (kept.opened, kept.deadline, false)
            }
            None => {
                let timeout = self.options.question_timeout.map(|time| i64::try_from(time.as_millis()));
                (now, timeout.map(|time| now.saturating_add(time.unwrap_or(i64::MAX))), true)
            }
        };
        match self.questions.open(asked, "tool", opened, deadline) {
            Ok(question) => {
                if is_new {
                    let written = self.memory.question(json!({"requestId": question.id, "opened": opened,
                        "deadline": deadline, "request": request}));
                    self.check_written(written);
                    // The time that is left has to be known wherever it is asked again.
                    self.store();
                }
                self.askers.insert(question.id, asker);
                self.publish(AgentEvent::Question(question.event));
            }
            Err(why) => drop(asker.try_send(Err(why))),
        }
    }

    /// What waits for people: questions, and approvals behind them.
    pub(super) fn list_questions(&self) -> Value {
        let mut list = self.questions.list();
        if let Some(list) = list["questions"].as_array_mut() {
            list.extend(self.approvals.list());
        }
        list
    }

    /// An approval has a verb of its own, which permissions grant apart from answers.
    fn check_is_question(&self, id: &str) -> Result<(), ReplyError> {
        if self.approvals.has(id) {
            return Err(ReplyError::new(ErrorKind::BadRequest, "this is an approval, which only approve can settle"));
        }
        Ok(())
    }

    pub(super) fn answer_question(&mut self, id: &str, answers: &Value, source: &str) -> Result<Answer, ReplyError> {
        self.check_is_question(id)?;
        let kind = if self.questions.has(id) { ErrorKind::BadRequest } else { ErrorKind::NotFound };
        let settled = self.questions.answer(id, answers, source, now_ms());
        let settled = settled.map_err(|why| ReplyError::new(kind, why))?;
        self.set_unanswered(false);
        let id = self.question_settled(settled);
        Ok(Answer::Document(json!({"answered": true, "requestId": id})))
    }

    pub(super) fn reject_question(&mut self, id: &str, source: &str) -> Result<Answer, ReplyError> {
        self.check_is_question(id)?;
        let settled = self.questions.reject(id, source, now_ms());
        let settled = settled.map_err(|why| ReplyError::new(ErrorKind::NotFound, why))?;
        let id = self.question_settled(settled);
        Ok(Answer::Document(json!({"rejected": true, "requestId": id})))
    }

    /// Rejects what nobody can be waiting for any more.
    pub(super) fn reject_questions(&mut self, source: &str) {
        for settled in self.questions.reject_all(source, now_ms()) {
            self.question_settled(settled);
        }
    }

    /// Rejects the questions whose time is up.
    pub(super) fn expire_questions(&mut self) {
        for settled in self.questions.expire(now_ms()) {
            self.set_unanswered(true);
            self.question_settled(settled);
        }
    }

    /// How long it is until a question's time is up.
    pub(super) fn next_question_expiry(&self) -> Option<Duration> {
        let left = self.questions.deadline()?.saturating_sub(now_ms());
        Some(Duration::from_millis(u64::try_from(left).unwrap_or_default()))
    }

    fn question_settled(&mut self, settled: Settled) -> String {
        if let Some(asker) = self.askers.remove(&settled.id) {
            // Before whoever answered is told that this is the answer.
            if let Err(e) = self.memory.question(json!({"requestId": settled.id, "result": settled.result})) {
                log::warn!("session {}: an answer is not recorded: {e}", self.identity.id);
            }
            // A turn that does not wait any more was cancelled.
            let _ = asker.try_send(Ok(settled.result));
        }
        self.publish(AgentEvent::Question(settled.event));
        settled.id
    }
}
