//! The lines of the log and what ties them together.
//!
//! A line is a JSON object that begins with the hash of the line before and its own number, and ends with its own hash: that of
//! all that stands before it in the line.

use crate::clock::iso_time;
use ring::digest::{SHA256, digest};
use serde_json::{Map, Value, json};

/// What the first line of all has in the place of a hash.
pub(super) const NO_HASH: &str = "0000000000000000000000000000000000000000000000000000000000000000";
const HASH: usize = NO_HASH.len();
const PREV: &[u8] = b"{\"prev\":\"";
const SEQ: &[u8] = b"\",\"seq\":";
const OWN: &[u8] = b",\"hash\":\"";
const END: &[u8] = b"\"}";

/// The SHA-256 of bytes, in hexadecimal digits.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    digits(bytes).into_iter().map(char::from).collect()
}

fn digits(bytes: &[u8]) -> [u8; HASH] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut digits = [0; HASH];
    for (two, byte) in digits.chunks_exact_mut(2).zip(digest(&SHA256, bytes).as_ref()) {
        two.copy_from_slice(&[DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
    }
    digits
}

/// Something to be written down.
#[derive(Clone, Debug)]
pub(super) struct Record {
    /// Unix time in milliseconds.
    pub at: i64,
    pub event: &'static str,
    pub facts: Map<String, Value>,
}

impl Record {
    pub(super) fn new(event: &'static str, facts: Map<String, Value>) -> Record {
        Record { at: crate::clock::now_ms(), event, facts }
    }
}

/// The last line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    /// Which log it is of.
    pub log: String,
    /// Lines are numbered from 1.
    pub seq: u64,
    pub hash: String,
    pub time: String,
}

impl Head {
    /// The lines that are signed.
    pub(crate) fn lines(&self) -> [String; 5] {
        ["audit".to_owned(), self.log.clone(), self.seq.to_string(), self.hash.clone(), self.time.clone()]
    }

    /// What is published of it.
    pub(crate) fn document(&self) -> Value {
        json!({"log": self.log, "seq": self.seq, "hash": self.hash, "time": self.time})
    }

    /// Appends a line that follows this one, and is the head from then on.
    pub(super) fn extend(&mut self, record: &Record, out: &mut Vec<u8>) {
        let start = out.len();
        let time = iso_time(record.at);
        let seq = self.seq + 1;
        let opening =
            format!("{{\"prev\":\"{}\",\"seq\":{seq},\"time\":\"{time}\",\"event\":\"{}\"", self.hash, record.event);
        out.extend_from_slice(opening.as_bytes());
        let facts = serde_json::to_vec(&record.facts).unwrap_or_default();
        if let [b'{', inner @ .., b'}'] = &*facts
            && !inner.is_empty()
        {
            out.push(b',');
            out.extend_from_slice(inner);
        }
        let hash = sha256(&out[start..]);
        for part in [OWN, hash.as_bytes(), END, b"\n"] {
            out.extend_from_slice(part);
        }
        (self.seq, self.hash, self.time) = (seq, hash, time);
    }
}

/// A line that is what its hash says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Line<'a> {
    pub prev: &'a [u8],
    pub seq: u64,
    pub hash: &'a [u8],
}

/// Reads a line without its line feed; `None` if its hash is not that of what it says.
pub(super) fn read(line: &[u8]) -> Option<Line<'_>> {
    let (body, end) = line.split_at_checked(line.len().checked_sub(OWN.len() + HASH + END.len())?)?;
    let hash = end.strip_prefix(OWN)?.strip_suffix(END)?;
    let (prev, rest) = body.strip_prefix(PREV)?.split_at_checked(HASH)?;
    let number = rest.strip_prefix(SEQ)?;
    let length = number.iter().position(|byte| !byte.is_ascii_digit())?;
    let seq = std::str::from_utf8(&number[..length]).ok()?.parse().ok()?;
    (digits(body) == hash).then_some(Line { prev, seq, hash })
}
