//! Prompts for a session that has no owner at the moment: its host is gone, or it is on its way between two hosts. Any host
//! stores them, and the next owner takes them before anything else.
//!
//! Whoever has the session listens to nothing but its own log, so that all hosts hear of what is stored on the inboxes of their
//! owner, and the one that has the session looks. A prompt is removed once the session's log has it.

use super::session_log::TRY;
use super::{ASK_TIME, Fleet, HEAD_ROOM, LOGS, asked};
use crate::ids;
use crate::nats::jetstream::JetStreamError;
use std::time::{Duration, Instant};

/// How many prompts are read at a time.
const BATCH: usize = 64;
/// How long it may take to store a prompt.
const STORED_WITHIN: Duration = Duration::from_secs(5);

/// A prompt that waits for a session's owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct InboxPrompt {
    pub sequence: u64,
    /// As it was stored.
    pub prompt: Vec<u8>,
    /// It was meant for a session of that name which is over.
    pub is_late: bool,
}

/// Why a prompt was not stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum InboxError {
    /// So many wait already.
    Full(usize),
    /// Why it cannot be stored.
    Failed(String),
}

impl Fleet {
    /// Stores a prompt for the next owner of a session, in whose inbox at most `most` may wait.
    pub(super) fn put_into_inbox(&self, session: &str, prompt: &[u8], most: usize) -> Result<(), InboxError> {
        let failed = |e: JetStreamError| InboxError::Failed(e.to_string());
        if prompt.len() + HEAD_ROOM > self.connection.max_payload() {
            return Err(InboxError::Failed("the prompt is too long to wait for the session's next host".into()));
        }
        let subject = self.options.inbox_subject(session);
        let page = self.jetstream.next(LOGS, &subject, 1, 1, ASK_TIME).map_err(failed)?;
        let waiting = page.messages.len() + usize::try_from(page.pending).unwrap_or(usize::MAX - 1);
        if waiting >= most {
            return Err(InboxError::Full(waiting));
        }
        let (id, deadline) = (ids::nuid(), Instant::now() + STORED_WITHIN);
        let put = || self.jetstream.publish(&subject, None, Some(&id), None, prompt, TRY);
        asked(deadline, JetStreamError::may_pass, put).map(drop).map_err(failed)
    }

    /// The prompts behind this sequence that wait for a session's owner, in order.
    pub(super) fn inbox(&self, session: &str, after: u64) -> Result<Vec<InboxPrompt>, JetStreamError> {
        let (subject, mut prompts, mut last) = (self.options.inbox_subject(session), Vec::new(), after);
        loop {
            let page = self.jetstream.next(LOGS, &subject, last + 1, BATCH, ASK_TIME)?;
            let is_last = page.messages.is_empty() || page.pending == 0;
            for stored in page.messages {
                last = stored.sequence;
                prompts.push(InboxPrompt { sequence: last, prompt: stored.payload, is_late: false });
            }
            if is_last {
                return Ok(prompts);
            }
        }
    }

    /// Removes prompts from a session's inbox, the last of which has this sequence.
    pub(super) fn clear_inbox(&self, session: &str, last: u64) -> Result<u64, JetStreamError> {
        self.jetstream.purge(LOGS, &self.options.inbox_subject(session), Some(last + 1), ASK_TIME)
    }
}
