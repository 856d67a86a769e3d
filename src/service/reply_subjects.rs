//! Where answers may go. A caller chooses its reply subject, and what is said there is published with the daemon's rights: were
//! every subject good, somebody who may only prompt could have text of a model's, or an error, published as a request.

use crate::nats::{Message, valid_subject};
use crate::sync::lock;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// What the daemon and its sessions listen on, and what servers do.
const NEVER: [&str; 2] = ["agents.", "$"];
/// A refusal is logged again after this time.
const TELL_AGAIN: Duration = Duration::from_secs(60);

/// The subjects to which answers may go.
pub(crate) struct ReplySubjects {
    prefixes: Vec<String>,
    told: Mutex<Option<Instant>>,
}

impl ReplySubjects {
    /// Allows the subjects that begin with one of these.
    pub(crate) fn new(prefixes: Vec<String>) -> ReplySubjects {
        ReplySubjects { prefixes, told: Mutex::default() }
    }

    /// Whether answers may go there: below a prefix, one subject without wildcards, and none of ours or of the server's.
    pub(crate) fn allow(&self, subject: &str) -> bool {
        valid_subject(subject)
            && !NEVER.iter().any(|never| subject.starts_with(never))
            && self.prefixes.iter().any(|prefix| subject.starts_with(prefix.as_str()))
    }

    /// Takes a reply subject from a message to which nothing may be published; the request is then one without answer.
    pub(crate) fn check(&self, message: &mut Message) {
        if let Some(reply) = message.reply.take_if(|reply| !self.allow(reply)) {
            self.report(&reply);
        }
    }

    /// Says in the log, once a minute, that somebody wanted answers where none go.
    pub(crate) fn report(&self, reply: &str) {
        let mut told = lock(&self.told);
        if told.is_none_or(|told| told.elapsed() >= TELL_AGAIN) {
            *told = Some(Instant::now());
            log::warn!("no answer goes to the reply subject {reply:?}, which begins with none of replyPrefixes");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_go_to_inboxes_only() {
        let inboxes = ReplySubjects::new(vec!["_INBOX.".into(), "_R_.".into()]);
        let anything = ReplySubjects::new(vec![String::new()]);
        for (subject, inbox, other) in [
            ("_INBOX.abc.1", true, true),
            ("_R_.x.y", true, true),
            ("_INBOX", false, true),
            ("_INBOX.", false, false),
            ("_INBOX.>", false, false),
            ("_INBOX.*.a", false, false),
            ("_INBOX.a b", false, false),
            ("replies.ci", false, true),
            ("agents.pi-exec.ada", false, false),
            ("agents.pi-exec.ada.worker.abort", false, false),
            ("$SYS.REQ.SERVER.PING", false, false),
            ("$JS.API.STREAM.DELETE.x", false, false),
            ("", false, false),
        ] {
            assert_eq!((inboxes.allow(subject), anything.allow(subject)), (inbox, other), "{subject}");
        }
    }
}
