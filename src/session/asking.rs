//! Questions that tools put to people: opened by the turn, settled by whoever answers first, over whatever wire.

use super::Session;
use super::control::Answer;
use crate::events::AgentEvent;
use crate::questions::{Questions, Settled};
use crate::reply::ReplyError;
use crate::transcript::now_ms;
use crossbeam_channel::Sender;
use serde_json::{Value, json};
use std::collections::HashMap;

/// Takes what became of a question, once.
pub type Asker = Sender<Result<Value, String>>;

/// The open questions, and who waits for them.
#[derive(Default)]
pub struct Asking {
    book: Questions,
    askers: HashMap<String, Asker>,
}

impl Session {
    /// Opens a tool's question, or tells the tool what is wrong with it.
    pub(super) fn ask(&mut self, request: Value, asker: Asker) {
        match self.asking.book.open(request, "tool", now_ms(), None) {
            Ok(opened) => {
                self.asking.askers.insert(opened.id, asker);
                self.publish(&AgentEvent::Question(opened.event));
            }
            Err(reason) => tell(&asker, Err(reason)),
        }
    }

    pub(super) fn questions(&self) -> Answer {
        Answer::Document(self.asking.book.list())
    }

    pub(super) fn answer_question(&mut self, id: &str, answers: &Value, source: &str) -> Result<Answer, ReplyError> {
        let status = if self.asking.book.has(id) { 400 } else { 404 };
        let settled = self.asking.book.answer(id, answers, source, now_ms());
        let id = self.settle_question(settled.map_err(|reason| ReplyError::new(status, reason))?);
        Ok(Answer::Document(json!({"answered": true, "requestId": id})))
    }

    pub(super) fn reject_question(&mut self, id: &str, source: &str) -> Result<Answer, ReplyError> {
        let settled = self.asking.book.reject(id, source, now_ms());
        let id = self.settle_question(settled.map_err(|reason| ReplyError::new(404, reason))?);
        Ok(Answer::Document(json!({"rejected": true, "requestId": id})))
    }

    /// Nobody waits for any answer any more.
    pub(super) fn reject_questions(&mut self, source: &str) {
        for settled in self.asking.book.reject_all(source, now_ms()) {
            self.settle_question(settled);
        }
    }

    /// Tells the end of a question; returns its id.
    fn settle_question(&mut self, settled: Settled) -> String {
        self.publish(&AgentEvent::Question(settled.event));
        if let Some(asker) = self.asking.askers.remove(&settled.id) {
            tell(&asker, Ok(settled.result));
        }
        settled.id
    }
}

fn tell(asker: &Asker, result: Result<Value, String>) {
    // A tool that was cancelled has stopped waiting, and its channel has room for what it was told then only.
    let _ = asker.try_send(result);
}
