//! Publishing with an acknowledgement, behind a message that is expected to be its subject's last.
//!
//! The server stores such a message only if nobody else has published on the subject since. Whoever appends therefore
//! knows that it is the only one who did, without a clock and without a lock.

use super::super::error::RequestError;
use super::error::JetStreamError;
use super::{JetStream, pause, read, try_time};
use serde::Deserialize;
use std::time::{Duration, Instant};

/// Headers that the server acts on: the sequence that the subject's last message has to have, what the message is found by,
/// and its [`time_to_live`].
pub const EXPECTED: &str = "Nats-Expected-Last-Subject-Sequence";
pub(super) const ID: &str = "Nats-Msg-Id";
pub const TTL: &str = "Nats-TTL";

/// How long a message is to be kept, as [`TTL`] says it: in whole seconds, at least one.
pub fn time_to_live(ttl: Duration) -> String {
    format!("{}s", ttl.as_secs().max(1))
}

/// The server has stored a message.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
pub struct Receipt {
    #[serde(rename = "seq")]
    pub sequence: u64,
    /// It had a message with this id already, and this is its sequence.
    #[serde(default)]
    pub duplicate: bool,
}

/// What became of a message that was to be appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Appended {
    /// It is the subject's last message, with this sequence.
    At(u64),
    /// It was not stored, because somebody else had published on the subject since.
    Refused,
}

impl JetStream {
    /// Publishes once, and waits for the acknowledgement. With a time to live, in whole seconds, the message is gone after it.
    ///
    /// # Errors
    /// [`JetStreamError`]. After a time-out it is not known whether the message is stored.
    pub fn publish(
        &self,
        subject: &str,
        expected: Option<u64>,
        id: Option<&str>,
        ttl: Option<Duration>,
        payload: &[u8],
        timeout: Duration,
    ) -> Result<Receipt, JetStreamError> {
        let expected = expected.map(|sequence| sequence.to_string());
        let ttl = ttl.map(time_to_live);
        let headers = [(EXPECTED, expected.as_deref()), (ID, id), (TTL, ttl.as_deref())];
        let headers: Vec<(&str, &str)> = headers.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
        let answer = self.connection.request_with(subject, &headers, payload, timeout)?;
        read(&answer.payload)
    }

    /// Appends a message to a subject of `stream` whose last message has the sequence `expected`, 0 = there is none. It goes
    /// on until it is known what became of the message, or the deadline has passed; `id` is what the message is found by, and
    /// must be no other message's.
    ///
    /// # Errors
    /// [`JetStreamError`]. After [`JetStreamError::may_pass`] it is not known whether the message is stored: appending it
    /// again, with the same `id` and the same `expected`, tells.
    pub fn append(
        &self,
        stream: &str,
        subject: &str,
        expected: u64,
        id: &str,
        payload: &[u8],
        deadline: Instant,
    ) -> Result<Appended, JetStreamError> {
        let mut last = JetStreamError::Request(RequestError::TimedOut);
        while let Some(timeout) = try_time(deadline) {
            match self.publish(subject, Some(expected), Some(id), None, payload, timeout) {
                Ok(receipt) => return Ok(Appended::At(receipt.sequence)),
                // Whoever was first may have been this very message, at an earlier try whose answer was lost.
                Err(error) if error.is_wrong_sequence() => {
                    match self.find_behind(stream, subject, expected, id, timeout) {
                        Ok(Some(appended)) => return Ok(appended),
                        // The server that was asked does not have it yet.
                        Ok(None) => last = error,
                        Err(error) if error.may_pass() => last = error,
                        Err(error) => return Err(error),
                    }
                }
                Err(error) if error.may_pass() => last = error,
                Err(error) => return Err(error),
            }
            pause(deadline);
        }
        Err(last)
    }

    /// Whether the first message of the subject behind `expected` is the one with this id; nothing if there is none.
    fn find_behind(
        &self,
        stream: &str,
        subject: &str,
        expected: u64,
        id: &str,
        timeout: Duration,
    ) -> Result<Option<Appended>, JetStreamError> {
        let page = self.next(stream, subject, expected.saturating_add(1), 1, timeout)?;
        Ok(page.messages.first().map(|first| match first.header(ID) {
            Some(found) if found == id => Appended::At(first.sequence),
            _ => Appended::Refused,
        }))
    }
}
