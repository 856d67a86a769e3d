//! What all hosts spend on a day: a document that each of them replaces only if it has seen the one that is there.

use super::{ASK_TIME, Fleet, MEMORY, NOWHERE, STREAMS_WITHIN, asked};
use crate::nats::RequestError;
use crate::nats::jetstream::JetStreamError;
use std::time::{Duration, Instant};

/// How long a day's document stays behind its last change: as many days as a ledger on a disk has.
const KEPT: Duration = Duration::from_secs(8 * 24 * 3600);

impl Fleet {
    /// A day's document and its version, 0 if there is none; it may be a moment old.
    ///
    /// # Errors
    /// [`JetStreamError`].
    pub(crate) fn day(&self, day: &str) -> Result<(u64, Vec<u8>), JetStreamError> {
        self.connected()?;
        let last = self.jetstream.last(MEMORY, &self.options.day_subject(day), ASK_TIME)?;
        Ok(last.map_or_else(Default::default, |last| (last.sequence, last.payload)))
    }

    /// Puts a document in the place of the one with this version, 0 = there is none. Returns the new version, or nothing if
    /// another document is there.
    ///
    /// # Errors
    /// [`JetStreamError`]. After [`JetStreamError::may_pass`] it is not known whether the document is there.
    pub(crate) fn replace_day(&self, day: &str, version: u64, document: &[u8]) -> Result<Option<u64>, JetStreamError> {
        self.connected()?;
        let subject = self.options.day_subject(day);
        match self.jetstream.publish(&subject, Some(version), None, Some(KEPT), document, ASK_TIME) {
            Ok(receipt) => Ok(Some(receipt.sequence)),
            Err(e) if e.is_wrong_sequence() => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Makes sure that this host may count what is spent on days, without counting anything.
    ///
    /// # Errors
    /// [`JetStreamError`].
    pub(crate) fn can_count_days(&self) -> Result<(), JetStreamError> {
        let deadline = Instant::now() + STREAMS_WITHIN;
        asked(deadline, JetStreamError::may_pass, || self.replace_day("none", NOWHERE, b"")).map(drop)
    }

    /// While there is no connection it is no use to wait for an answer.
    fn connected(&self) -> Result<(), JetStreamError> {
        if self.connection.is_connected() { Ok(()) } else { Err(RequestError::TimedOut.into()) }
    }
}
