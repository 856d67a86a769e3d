//! One event as a log keeps it: in words, or as what its words are made of.

use super::envelope::Envelope;
use crate::traceparent::Traceparent;
use serde_json::Value;
use std::sync::Arc;

/// What an event says, as long as nobody has asked for its words. Most events are forgotten before anybody does, and
/// writing them took a third of all that a short prompt costs.
pub(crate) trait Content: Send {
    fn name(&self) -> &'static str;

    /// The payload.
    fn to_json(&self) -> Value;

    /// About how many bytes of memory it holds, were nobody else to share them.
    fn bytes(&self) -> usize;
}

pub(super) enum Kept {
    Words(Arc<Envelope>),
    Unworded(Box<Unworded<dyn Content>>),
}

/// An event that is not in words yet. All of it is in one box, so that a log's list of events stays small.
pub(super) struct Unworded<C: ?Sized> {
    pub seq: u64,
    pub time_ms: i64,
    pub trace: Option<Traceparent>,
    pub bytes: usize,
    pub content: C,
}

impl Kept {
    pub(super) fn seq(&self) -> u64 {
        match self {
            Kept::Words(envelope) => envelope.seq,
            Kept::Unworded(unworded) => unworded.seq,
        }
    }

    pub(super) fn words(&self) -> Option<&Arc<Envelope>> {
        match self {
            Kept::Words(envelope) => Some(envelope),
            Kept::Unworded(_) => None,
        }
    }
}
