//! Whether a log is as it was written: every line is what its hash says and follows the one before, and heads that were seen
//! elsewhere are in it.

use super::chain::{Head, NO_HASH, read};
use super::files::{log_of, months};
use crate::files::open_regular;
use serde_json::Value;
use std::fmt;
use std::io::{self, BufRead, BufReader};
use std::path::Path;

/// How much is read at once, bytes.
const BUFFER: usize = 1 << 20;

/// A head that was published, as somebody has kept it.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub head: Head,
    /// Who signed it, and the signature.
    pub signature: Option<(String, String)>,
}

impl Seen {
    /// Reads the published document of a head.
    pub(crate) fn parse(text: &str) -> Option<Seen> {
        let value: Value = serde_json::from_str(text).ok()?;
        let text = |key: &str| value[key].as_str().map(str::to_owned);
        let head = Head { log: text("log")?, seq: value["seq"].as_u64()?, hash: text("hash")?, time: text("time")? };
        Some(Seen { head, signature: text("user").zip(text("sig")) })
    }
}

/// What a log was found to be.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Verified {
    /// The numbers of the first and the last line; 0 for none.
    pub first: u64,
    pub last: u64,
    /// Bytes of a line that a crash has torn.
    pub torn: usize,
    /// Heads that are in it.
    pub heads: usize,
    /// Heads of other logs.
    pub foreign: usize,
}

/// What does not fit.
#[derive(Debug)]
pub(crate) enum Unfit {
    /// A line, by its file and its number in that.
    Line {
        file: String,
        line: u64,
        why: String,
    },
    /// A head that was seen is not in it.
    Head {
        seq: u64,
        time: String,
        why: String,
    },
    Io(io::Error),
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unfit::Line { file, line, why } => write!(f, "{file}:{line}: {why}"),
            Unfit::Head { seq, time, why } => write!(f, "head {seq} of {time}: {why}"),
            Unfit::Io(error) => error.fmt(f),
        }
    }
}

impl From<io::Error> for Unfit {
    fn from(error: io::Error) -> Unfit {
        Unfit::Io(error)
    }
}

/// Checks the log in a folder. Of the heads those of other logs and those from before its first line say nothing about it.
///
/// # Errors
/// The first thing that does not fit.
pub(crate) fn verify(folder: &Path, seen: &[Seen]) -> Result<Verified, Unfit> {
    let months = months(folder)?;
    let log = months.first().map(|name| log_of(&folder.join(name))).transpose()?.flatten();
    let given = seen.len();
    let mut seen: Vec<&Head> =
        seen.iter().map(|seen| &seen.head).filter(|head| Some(&head.log) == log.as_ref()).collect();
    seen.sort_by_key(|head| head.seq);
    let foreign = given - seen.len();
    let mut seen = seen.into_iter().peekable();
    let (mut verified, mut hash) = (Verified { foreign, ..Verified::default() }, NO_HASH.as_bytes().to_vec());
    let mut text = Vec::new();
    for (at, name) in months.iter().enumerate() {
        let (file, _) = open_regular(&folder.join(name))?;
        let mut file = BufReader::with_capacity(BUFFER, file);
        for number in 1.. {
            text.clear();
            if file.read_until(b'\n', &mut text)? == 0 {
                break;
            }
            let unfit = |why: String| Unfit::Line { file: name.clone(), line: number, why };
            let Some(line) = text.strip_suffix(b"\n") else {
                if at + 1 < months.len() {
                    return Err(unfit("the line has no end, and more was written after it".to_owned()));
                }
                verified.torn = text.len();
                break;
            };
            let line =
                read(line).ok_or_else(|| unfit("the line is not what its hash says: it was changed".to_owned()))?;
            if verified.last == 0 {
                // Months before may have been put away.
                verified.first = line.seq;
                if line.seq == 1 && line.prev != NO_HASH.as_bytes() || line.seq == 0 {
                    return Err(unfit("the first line of all follows nothing".to_owned()));
                }
            } else if line.seq != verified.last + 1 || line.prev != hash {
                let (last, seq) = (verified.last, line.seq);
                return Err(unfit(format!(
                    "line {seq} follows line {last}: {}",
                    match seq {
                        _ if seq == last => "a line is there twice",
                        _ if seq < last => "a line is out of its order, or there twice",
                        _ if seq == last + 1 => "the line before is another one than was written",
                        _ => "lines are missing",
                    }
                )));
            }
            verified.last = line.seq;
            hash.clear();
            hash.extend_from_slice(line.hash);
            while let Some(head) = seen.next_if(|head| head.seq <= line.seq) {
                if head.seq == line.seq {
                    if head.hash.as_bytes() != line.hash {
                        let why = "the log has another line there".to_owned();
                        return Err(Unfit::Head { seq: head.seq, time: head.time.clone(), why });
                    }
                    verified.heads += 1;
                }
            }
        }
    }
    if let Some(head) = seen.next() {
        let why = format!("the log ends with line {}: its end was cut off", verified.last);
        return Err(Unfit::Head { seq: head.seq, time: head.time.clone(), why });
    }
    Ok(verified)
}
