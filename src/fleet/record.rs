//! What is stored of a session: records of which each says whose it is, and what they say together.
//!
//! A session file goes to the log as bytes: each shipment is where it begins in the file and what follows from there, in as
//! many parts as the server's largest message demands. A file that was written anew is shipped from its beginning.
//!
//! The log begins with the record that the session is new, or, once older records were removed, with a basis: what a host
//! needs beside the file, and behind it the whole file.

use serde::{Deserialize, Serialize};

/// What a record is.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Kind {
    /// The session begins here, and with this owner.
    New,
    /// The session has this owner from here on.
    Own,
    /// The session has this owner from here on, as the one before wants it. It goes on once that one has taken it.
    Give,
    /// What a host needs to go on with the session, beside its file.
    State,
    /// A part of the session file.
    File,
    /// The session is over.
    End,
}

/// The first line of a record; what it carries follows.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub(super) struct Head {
    pub kind: Kind,
    pub host: String,
    pub boot: String,
    /// Any host may go on with the session.
    #[serde(default)]
    pub shared: bool,
    /// Of a part of the file: where it begins. Of another record: how much of the file is stored. Bytes.
    #[serde(default)]
    pub offset: u64,
    /// Other parts of the same shipment follow.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub more: bool,
    /// The sequence of the session's record before this one, by which whoever reads finds out that one is missing.
    #[serde(default)]
    pub after: u64,
    /// What the records before it take in the stream, bytes.
    #[serde(default)]
    pub logged: u64,
}

/// What a record takes in the stream beside what it carries, bytes.
const OVERHEAD: u64 = 1024;

/// What a record takes in the stream that carries so much, bytes.
pub(super) fn room_of(bytes: &[u8]) -> u64 {
    bytes.len() as u64 + OVERHEAD
}

/// A record as it is stored.
pub(super) fn encode(head: &Head, bytes: &[u8]) -> Vec<u8> {
    let mut record = serde_json::to_vec(head).unwrap_or_default();
    record.push(b'\n');
    record.extend_from_slice(bytes);
    record
}

/// Reads a record; `None` for what is none of this version.
pub(super) fn decode(record: &[u8]) -> Option<(Head, &[u8])> {
    let end = record.iter().position(|byte| *byte == b'\n')?;
    Some((serde_json::from_slice(&record[..end]).ok()?, &record[end + 1..]))
}

/// How much of the file is stored with this record as the last one, bytes; all has to be shipped again behind a shipment that
/// was broken off.
pub(super) fn stored_until(head: &Head, bytes: &[u8]) -> u64 {
    match head.kind {
        Kind::File if head.more => 0,
        Kind::File => head.offset + bytes.len() as u64,
        Kind::New | Kind::Own | Kind::Give | Kind::State | Kind::End => head.offset,
    }
}

/// What the records of a session say together.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Rebuilt {
    pub state: Option<Vec<u8>>,
    pub file: Vec<u8>,
    /// Parts of a shipment that is not whole yet.
    parts: Vec<(usize, Vec<u8>)>,
}

impl Rebuilt {
    /// Whether a log can begin with this record.
    pub(super) fn begins_with(head: &Head) -> bool {
        matches!(head.kind, Kind::New | Kind::State | Kind::End)
    }

    /// Takes the next record. False if a part of the file is missing.
    pub(super) fn take(&mut self, head: &Head, bytes: &[u8]) -> bool {
        match head.kind {
            Kind::New => *self = Rebuilt::default(),
            // Whoever was before does not go on with its shipment.
            Kind::Own | Kind::Give => self.parts.clear(),
            // A basis that was broken off is not gone on with either.
            Kind::State => {
                self.parts.clear();
                self.state = Some(bytes.to_vec());
            }
            Kind::End => *self = Rebuilt::default(),
            Kind::File => {
                let Ok(offset) = usize::try_from(head.offset) else { return false };
                self.parts.push((offset, bytes.to_vec()));
                if !head.more {
                    for (offset, part) in std::mem::take(&mut self.parts) {
                        if offset > self.file.len() {
                            return false;
                        }
                        self.file.truncate(offset);
                        self.file.extend_from_slice(&part);
                    }
                }
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(kind: Kind, offset: u64, more: bool) -> Head {
        Head { kind, host: "h".into(), boot: "b".into(), shared: true, offset, more, after: 6, logged: 7 }
    }

    #[test]
    fn records_survive_the_way() {
        let head = head(Kind::File, 7, true);
        let record = encode(&head, b"{}\nbytes\0");
        assert_eq!(decode(&record), Some((head, &b"{}\nbytes\0"[..])));
        for other in [&b""[..], b"{}", b"{}\n", b"x\ny", b"{\"kind\":\"odd\",\"host\":\"h\",\"boot\":\"b\"}\n"] {
            assert_eq!(decode(other), None);
        }
    }

    #[test]
    fn records_tell_how_much_is_stored() {
        for (record, expected) in [
            (head(Kind::File, 7, false), 10),
            (head(Kind::File, 7, true), 0),
            (head(Kind::State, 7, false), 7),
            (head(Kind::Own, 7, false), 7),
            (head(Kind::Give, 7, false), 7),
        ] {
            assert_eq!(stored_until(&record, b"abc"), expected, "{record:?}");
        }
    }

    #[test]
    fn a_file_is_what_was_shipped_wholly() {
        use Kind::{File, Give, New, Own, State};
        for (records, file) in [
            (vec![(New, 0, false, ""), (File, 0, false, "one\n"), (File, 4, false, "two\n")], Some("one\ntwo\n")),
            // In parts, of which the last one has not come.
            (vec![(File, 0, false, "a\n"), (File, 2, true, "b"), (File, 3, false, "c\n")], Some("a\nbc\n")),
            (vec![(File, 0, false, "a\n"), (File, 2, true, "b")], Some("a\n")),
            // Broken off by the next owner, who ships all of it.
            (
                vec![(File, 0, false, "a\n"), (File, 0, true, "b"), (Own, 2, false, ""), (File, 0, false, "a\nc\n")],
                Some("a\nc\n"),
            ),
            (vec![(File, 0, false, "a\n"), (Give, 2, false, ""), (Own, 2, false, "")], Some("a\n")),
            // Written anew, and shorter.
            (vec![(File, 0, false, "long\n"), (File, 0, false, "x\n")], Some("x\n")),
            // Another session of that name.
            (vec![(File, 0, false, "old\n"), (New, 0, false, ""), (File, 0, false, "new\n")], Some("new\n")),
            (vec![(File, 0, false, "a\n"), (State, 2, false, "{}")], Some("a\n")),
            // A basis, and one that was broken off.
            (vec![(State, 0, false, "{}"), (File, 0, true, "a\n"), (File, 2, false, "b\n")], Some("a\nb\n")),
            (
                vec![
                    (File, 0, false, "a\n"),
                    (State, 0, false, "{}"),
                    (File, 0, true, "x"),
                    (State, 2, false, "{}"),
                    (File, 2, false, "b\n"),
                ],
                Some("a\nb\n"),
            ),
            (vec![(File, 5, false, "there is no beginning")], None),
        ] {
            let mut rebuilt = Rebuilt::default();
            let whole = records
                .iter()
                .all(|(kind, offset, more, text)| rebuilt.take(&head(*kind, *offset, *more), text.as_bytes()));
            assert_eq!(whole.then_some(rebuilt.file), file.map(|text| text.as_bytes().to_vec()), "{records:?}");
        }
    }
}
