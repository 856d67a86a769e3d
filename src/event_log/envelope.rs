//! One event in the form in which it goes out.

use crate::clock::iso_time;
use std::borrow::Cow;
use std::sync::Arc;

/// One event as it goes out.
#[derive(Debug)]
pub(crate) struct Envelope {
    /// Grows by one with every event of a log.
    pub seq: u64,
    pub event: Cow<'static, str>,
    /// Unix time in milliseconds.
    pub(super) time_ms: i64,
    /// The whole record: one line of JSON without its end.
    pub line: Arc<str>,
    pub(super) rest: Rest,
}

impl Envelope {
    /// When it happened: RFC 3339 with milliseconds, UTC.
    pub(crate) fn timestamp(&self) -> String {
        iso_time(self.time_ms)
    }
}

/// What became of the part of a payload that its event leaves out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Rest {
    /// Nothing is left out.
    None,
    /// Nobody keeps it, and nothing in the record says why.
    Dropped,
    /// It was not accepted for the file; the record's `rawError` says why.
    Refused,
    /// It is in the file, or on its way there, under this number.
    Spilled(u64),
}

impl Rest {
    /// Its number in the file.
    pub(super) fn number(self) -> Option<u64> {
        match self {
            Rest::Spilled(number) => Some(number),
            Rest::None | Rest::Dropped | Rest::Refused => None,
        }
    }
}

/// The text as a JSON string.
pub(super) fn quoted(text: &str) -> String {
    serde_json::to_string(text).unwrap_or_default()
}
