//! Where the answer to a prompt goes, whatever wire the prompt came over.

use super::error::ReplyError;
use crate::cancel::Cancel;
use crate::contract::event::AgentEvent;
use serde_json::{Value, json};
use std::time::Duration;

/// The receiving end of one answer. The turn's thread writes text; the session's actor ends it.
pub(crate) trait Reply: Send + Sync {
    /// The prompt was taken: it will be worked on, perhaps later, and is not lost over a restart.
    fn accepted(&self) {}
    /// Takes a piece of the answer. May wait, until cancelled, while the receiver takes nothing and too much is held.
    fn text(&self, text: &str, cancel: &Cancel);
    /// The last piece of the text is void, and the answer begins anew. In order with the text; does not wait.
    fn restart(&self, restart: Restart);
    /// Nothing more is at hand for now: what was held back for the sake of batching goes out.
    fn flush(&self);
    /// Takes note of what happens while the answer is made, for callers who are told more than the text. What the turn does
    /// comes in order with the text; what the session adds (questions, queues) comes on the session's thread. Must not wait.
    fn event(&self, _event: &AgentEvent) {}
    /// Ends the answer, in success or with an error. Only the first call counts; dropping an answer ends it too.
    fn finish(&self, result: Result<(), ReplyError>);
    /// Waits until all that was said has left this process, as far as that takes no longer: what is recorded as said after that
    /// has been said.
    fn wait_said(&self, _within: Duration) {}
    /// Says nothing more and no end, because the answer is gone on with elsewhere or after a restart. True if all of it so far
    /// is on its way. A receiver that [`Reply::ends_with_host`] is told that the host ends.
    fn leave(&self) -> bool {
        true
    }
    /// Nobody can be reached any more when this process ends, though somebody waits now.
    fn ends_with_host(&self) -> bool {
        false
    }
    /// Where the answer goes, in a form that can be kept over a restart; `None` if nobody can be reached then.
    fn address(&self) -> Option<Value> {
        None
    }
}

/// A reply that adds something to another one, to which everything is passed on.
pub(crate) trait Layer: Send + Sync {
    fn inner(&self) -> &dyn Reply;
    /// Called before anything is said but the end, and may wait then; false = it is not to be said.
    fn may_speak(&self) -> bool {
        true
    }
    /// Called before the answer's end is passed on.
    fn ends(&self, _result: &Result<(), ReplyError>) {}
}

impl<L: Layer> Reply for L {
    fn accepted(&self) {
        if self.may_speak() {
            self.inner().accepted();
        }
    }

    fn text(&self, text: &str, cancel: &Cancel) {
        if self.may_speak() {
            self.inner().text(text, cancel);
        }
    }

    fn restart(&self, restart: Restart) {
        if self.may_speak() {
            self.inner().restart(restart);
        }
    }

    fn flush(&self) {
        if self.may_speak() {
            self.inner().flush();
        }
    }

    fn event(&self, event: &AgentEvent) {
        if self.may_speak() {
            self.inner().event(event);
        }
    }

    fn finish(&self, result: Result<(), ReplyError>) {
        self.ends(&result);
        self.inner().finish(result);
    }

    fn wait_said(&self, within: Duration) {
        self.inner().wait_said(within);
    }

    fn leave(&self) -> bool {
        self.inner().leave()
    }

    fn ends_with_host(&self) -> bool {
        self.inner().ends_with_host()
    }

    fn address(&self) -> Option<Value> {
        self.inner().address()
    }
}

/// For prompts whose answer nobody waits for; those who listen see it in the events.
pub(crate) struct SilentReply;

impl Reply for SilentReply {
    fn text(&self, _text: &str, _cancel: &Cancel) {}
    fn restart(&self, _restart: Restart) {}
    fn flush(&self) {}
    fn finish(&self, _result: Result<(), ReplyError>) {}
}

/// A second beginning: the model is asked again after some of its answer was handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Restart {
    /// The number of the request whose answer comes now, counted from 1 for each answer of the model.
    pub attempt: u32,
    /// How much of the text right before is void, bytes. It ends where the model's last complete answer, or the attempt before
    /// this one, ended. `None` = all of it: the host was restarted and does not know what arrived, so that the answer to the
    /// prompt comes from its very beginning.
    pub void_bytes: Option<usize>,
}

impl Restart {
    /// For those who take an answer for plain text.
    pub(crate) fn line(&self) -> String {
        let host = if self.void_bytes.is_none() { "The host was restarted. " } else { "" };
        format!("[{host}The answer begins anew: attempt {}]", self.attempt)
    }

    /// How much is void, for programs: a number of bytes, or `all`.
    pub(crate) fn void(&self) -> String {
        self.void_bytes.map_or_else(|| "all".into(), |bytes| bytes.to_string())
    }

    /// For programs.
    pub(crate) fn document(&self) -> Value {
        match self.void_bytes {
            Some(bytes) => json!({"attempt": self.attempt, "voidBytes": bytes}),
            None => json!({"attempt": self.attempt, "voidBytes": self.void(), "reason": "host_restarted"}),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::lock;
    use std::sync::Mutex;

    /// Writes down what it is asked for.
    #[derive(Default)]
    struct Record(Mutex<Vec<&'static str>>);

    impl Record {
        fn note(&self, what: &'static str) {
            lock(&self.0).push(what);
        }
    }

    impl Reply for Record {
        fn accepted(&self) {
            self.note("accepted");
        }
        fn text(&self, _text: &str, _cancel: &Cancel) {
            self.note("text");
        }
        fn restart(&self, _restart: Restart) {
            self.note("restart");
        }
        fn flush(&self) {
            self.note("flush");
        }
        fn event(&self, _event: &AgentEvent) {
            self.note("event");
        }
        fn finish(&self, _result: Result<(), ReplyError>) {
            self.note("finish");
        }
        fn ends_with_host(&self) -> bool {
            true
        }
    }

    struct Around(Record, bool);

    impl Layer for Around {
        fn inner(&self) -> &dyn Reply {
            &self.0
        }
        fn may_speak(&self) -> bool {
            self.1
        }
        fn ends(&self, result: &Result<(), ReplyError>) {
            assert!(result.is_ok());
            self.0.note("ends");
        }
    }

    #[test]
    fn a_layer_passes_everything_on_or_all_but_the_end() {
        for (may_speak, expected) in [(true, "accepted text restart flush event ends finish"), (false, "ends finish")] {
            let reply = Around(Record::default(), may_speak);
            reply.accepted();
            reply.text("x", &Cancel::new());
            reply.restart(Restart { attempt: 2, void_bytes: None });
            reply.flush();
            reply.event(&AgentEvent::AgentStart);
            reply.finish(Ok(()));
            assert!(reply.ends_with_host());
            assert_eq!(lock(&reply.0.0).join(" "), expected);
        }
    }
}
