//! What all hosts of an owner remember for a while: each host tells the others over the stream's subjects, and one that comes
//! later reads what is stored there.

use super::{ASK_TIME, Fleet, HEAD_ROOM, MEMORY, asked};
use crate::ids;
use crate::nats::jetstream::{JetStreamError, TTL, time_to_live};
use crate::nats::{Message, Subscription};
use crate::threads::{self, Thread};
use crossbeam_channel::bounded;
use ring::digest::{SHA256, digest};
use std::time::{Duration, Instant};

/// The header that says which process a message is of.
const FROM: &str = "Pi-Exec-Boot";
/// Messages of other hosts that may wait.
const WAITING: usize = 4096;
/// How many messages are read at a time.
const BATCH: usize = 256;
/// How long it may take to read what is stored.
const READ_WITHIN: Duration = Duration::from_secs(10);

/// What others tell is taken in while this is there.
pub(crate) struct Memory {
    _told: Subscription,
    _thread: Thread,
}

impl Fleet {
    /// Has all hosts remember something for `ttl`, in whole seconds, without waiting for anything. Of what has the same `name`
    /// only the latest is kept. False if there is no room for it in a message.
    pub(crate) fn remember(&self, name: &str, ttl: Duration, what: &[u8]) -> bool {
        if what.len() + HEAD_ROOM > self.connection.max_payload() {
            return false;
        }
        let subject = self.options.memory_subject(&token(name));
        let headers = [(TTL, &*time_to_live(ttl)), (FROM, &self.boot)];
        if let Err(e) = self.connection.publish(&subject, None, &headers, what) {
            log::warn!("the other hosts do not remember what this one does: {e}");
        }
        true
    }

    /// Takes in what is remembered by now, and then, on a thread, what other hosts tell.
    ///
    /// # Errors
    /// What is stored cannot be read, or the system has no thread.
    pub(crate) fn recall(&self, take: impl Fn(&[u8]) + Send + 'static) -> Result<Memory, String> {
        let (to, told) = bounded::<Box<Message>>(WAITING);
        let pattern = self.options.memory_subject("*");
        let subscription = self.connection.subscribe(&pattern, None, to).map_err(|e| e.to_string())?;
        self.read_memory(&pattern, &take).map_err(|e| format!("stream {MEMORY}: {e}"))?;
        let boot = self.boot.clone();
        let work = move || {
            let theirs = told.iter().filter(|message| message.header(FROM).is_some_and(|from| from != boot));
            theirs.for_each(|message| take(&message.payload));
        };
        let thread = threads::spawn("fleet-memory", threads::SMALL_STACK, work).map_err(|e| e.to_string())?;
        Ok(Memory { _told: subscription, _thread: thread })
    }

    fn read_memory(&self, pattern: &str, take: &impl Fn(&[u8])) -> Result<(), JetStreamError> {
        let deadline = Instant::now() + READ_WITHIN;
        let mut last = 0;
        loop {
            let page = asked(deadline, JetStreamError::may_pass, || {
                self.jetstream.next(MEMORY, pattern, last + 1, BATCH, ASK_TIME)
            })?;
            for stored in &page.messages {
                last = stored.sequence;
                take(&stored.payload);
            }
            if page.messages.is_empty() || page.pending == 0 {
                return Ok(());
            }
        }
    }
}

/// A name as a token of a subject.
fn token(name: &str) -> String {
    let mut hash = ids::hex(digest(&SHA256, name.as_bytes()).as_ref());
    // 128 bits are enough.
    hash.truncate(32);
    hash
}
