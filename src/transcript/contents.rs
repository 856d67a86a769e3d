//! Reading a session file: JSON lines in PI's format, versions 1 to 3, whatever state a crash left them in.
//!
//! Only the lines' places and links are kept beside the file's bytes. Parsed as JSON values a file takes several times its
//! size in memory, and most of a long session's entries are behind a compaction and never looked at again.

use super::message::Usage;
use super::stored_message::usage;
use crate::files::{self, Links};
use crate::json::{Fields, take_text, tolerant};
use serde_json::Value;
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, ErrorKind, Read};
use std::path::Path;

/// The newest version of the format that is understood, and the one that is written.
pub(crate) const VERSION: u64 = 3;
/// Largest session file, bytes: reading it costs about as much memory. Nothing is appended beyond it either.
pub(crate) const MAX_FILE: u64 = 256 * 1024 * 1024;
/// Longest line, bytes. As JSON values a line takes several times its length; this bounds that. The longest in practice
/// hold a prompt's images.
pub(crate) const MAX_LINE: usize = 32 * 1024 * 1024;
/// Most entries: what their places and links take is bounded too.
pub(crate) const MAX_ENTRIES: usize = 1_000_000;
/// How far the header is looked for when nothing else of a file is wanted, bytes; as PI does.
const MAX_HEADER: u64 = 1024 * 1024;
/// A byte order mark, which is no part of the first line.
const MARK: &[u8] = b"\xef\xbb\xbf";

/// An entry's place in the file and among the others.
#[derive(Debug)]
struct Entry {
    id: Box<str>,
    /// Index of the entry that this one follows; always less than its own, so that every path ends.
    parent: Option<u32>,
    start: u32,
    end: u32,
}

/// What a session file holds.
#[derive(Debug)]
pub struct Contents {
    /// Lines that are no JSON object with a `type`, or too long; readers pass over them.
    pub malformed: usize,
    /// Lines that repeat an entry or the header; PI writes such files when it resumes a session without an answer.
    pub duplicates: usize,
    /// What all requests of the file have used, whichever branch they belong to.
    pub usage: Usage,
    /// The version of the format that the header names.
    pub version: u64,
    /// The header's place.
    header: (u32, u32),
    entries: Vec<Entry>,
    bytes: Vec<u8>,
}

/// Reads the session's id from the header of a session file, and nothing else.
///
/// # Errors
/// Those of [`files::open`], and `InvalidData` for what does not begin with a header.
pub fn read_id(path: &Path) -> io::Result<String> {
    session_id(read_header(path)?).map(|(id, _)| id)
}

/// The fields of the first line of a session file that can be read, which is its header in a file that is whole.
///
/// # Errors
/// The file system's; there is no such line.
pub(crate) fn read_header(path: &Path) -> io::Result<Fields> {
    let (file, _) = files::open(path, File::options().read(true), Links::Refuse)?;
    let mut lines = BufReader::new(file.take(MAX_HEADER));
    if lines.fill_buf()?.starts_with(MARK) {
        lines.consume(MARK.len());
    }
    let mut line = Vec::new();
    while lines.read_until(b'\n', &mut line)? > 0 {
        if let Some(fields) = parse_line(&line) {
            return Ok(fields);
        }
        line.clear();
    }
    Err(no_header())
}

/// Reads an open session file from its current position, which is its beginning.
///
/// # Errors
/// The file system's, `FileTooLarge` beyond [`MAX_FILE`], and as [`Contents::parse`].
pub(super) fn read_file(mut file: &File) -> io::Result<Contents> {
    let length = file.metadata()?.len();
    let mut bytes = Vec::new();
    if length <= MAX_FILE {
        // The length is only what to expect; somebody may append at this moment.
        bytes.try_reserve_exact(length as usize)?;
        (&mut file).take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    }
    if length.max(bytes.len() as u64) > MAX_FILE {
        return Err(too_large(format!("the session file is larger than {} MiB", MAX_FILE >> 20)));
    }
    Contents::parse(bytes)
}

pub(super) fn too_large(text: String) -> io::Error {
    io::Error::new(ErrorKind::FileTooLarge, text)
}

fn no_header() -> io::Error {
    io::Error::new(ErrorKind::InvalidData, "not a session file: it does not begin with a session's header")
}

/// A line's JSON object, if it is one that has a type.
pub(super) fn parse_line(line: &[u8]) -> Option<Fields> {
    if line.len() > MAX_LINE {
        return None;
    }
    // JavaScript writes half surrogate pairs, which no Rust string holds, and reads over invalid UTF-8.
    let fields: Fields = tolerant::parse_whole(line).ok()?;
    fields.get("type")?.is_string().then_some(fields)
}

/// The id in a header, which is of a version that is understood, and that version.
fn session_id(mut fields: Fields) -> io::Result<(String, u64)> {
    if fields.get("type").and_then(Value::as_str) != Some("session") {
        return Err(no_header());
    }
    // The first version did not say that it was one.
    let version = fields.get("version").and_then(Value::as_u64).unwrap_or(1);
    if version > VERSION {
        let text = format!("the session file is of version {version}, and only versions up to {VERSION} are known");
        return Err(io::Error::new(ErrorKind::InvalidData, text));
    }
    take_text(&mut fields, "id").map(|id| (id, version)).ok_or_else(no_header)
}

impl Contents {
    /// Understands a whole file's bytes.
    ///
    /// # Errors
    /// `InvalidData` for what is no session file: it is empty, or its first readable line is no header; `FileTooLarge` for
    /// one of more than [`MAX_ENTRIES`].
    pub fn parse(bytes: Vec<u8>) -> io::Result<Contents> {
        let mut found: Option<Contents> = None;
        let mut malformed = 0;
        // The last entry of each id: where a damaged file has an id twice, children mean the one before them.
        let mut latest: HashMap<Box<str>, u32> = HashMap::new();
        let mut start = if bytes.starts_with(MARK) { MARK.len() } else { 0 };
        while start < bytes.len() {
            let end = memchr::memchr(b'\n', &bytes[start..]).map_or(bytes.len(), |at| start + at);
            let line = &bytes[start..end];
            let place = (start as u32, end as u32);
            start = end + 1;
            if line.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            let Some(fields) = parse_line(line) else {
                malformed += 1;
                continue;
            };
            match &mut found {
                None => {
                    let (_, version) = session_id(fields)?;
                    found = Some(Contents {
                        version,
                        header: place,
                        malformed: 0,
                        duplicates: 0,
                        usage: Usage::default(),
                        entries: Vec::new(),
                        bytes: Vec::new(),
                    });
                }
                Some(contents) => contents.add(fields, place, &mut latest, &bytes)?,
            }
        }
        let mut contents = found.ok_or_else(|| match bytes.is_empty() {
            true => io::Error::new(ErrorKind::InvalidData, "not a session file: it is empty"),
            false => no_header(),
        })?;
        contents.malformed = malformed;
        contents.bytes = bytes;
        Ok(contents)
    }

    fn add(
        &mut self,
        mut fields: Fields,
        (start, end): (u32, u32),
        latest: &mut HashMap<Box<str>, u32>,
        bytes: &[u8],
    ) -> io::Result<()> {
        let same = |id: &str| latest.get(id).and_then(|at| self.entries.get(*at as usize));
        let id = fields.get("id").and_then(Value::as_str);
        let twin = id.and_then(same).and_then(|twin| parse_line(&bytes[twin.start as usize..twin.end as usize]));
        let is_header = fields.get("type").and_then(Value::as_str) == Some("session");
        if is_header || twin.is_some_and(|twin| repeats(&fields, &twin)) {
            self.duplicates += 1;
            return Ok(());
        }
        let index = self.entries.len() as u32;
        if self.entries.len() >= MAX_ENTRIES {
            return Err(too_large(format!("the session file has more than {MAX_ENTRIES} entries")));
        }
        // Entries follow each other unless they say otherwise. That holds for version 1, which had no ids, and is the
        // best guess where the line of a parent was damaged: what came before it would be forgotten otherwise.
        let previous = index.checked_sub(1);
        let parent = match fields.get("parentId") {
            Some(Value::Null) if id.is_some() => None,
            Some(Value::String(parent)) => latest.get(parent.as_str()).copied().or(previous),
            _ => previous,
        };
        let id: Box<str> = id.map_or_else(|| made_up_id(index as usize), Box::from);
        latest.insert(id.clone(), index);
        self.entries.push(Entry { id, parent, start, end });
        let message = fields.get_mut("message").and_then(|message| message.get_mut("usage")).map(Value::take);
        if let Some(used) = message.or_else(|| fields.remove("usage")) {
            self.usage += &usage(&used);
        }
        Ok(())
    }

    /// Ids of all entries, in the file's order.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().map(|entry| &*entry.id)
    }

    /// The id of the entry at `index`: its own, or one made up where the file's version had none.
    pub fn id(&self, index: usize) -> Option<&str> {
        self.entries.get(index).map(|entry| &*entry.id)
    }

    /// The id of the last entry, which the next one follows.
    pub fn leaf(&self) -> Option<&str> {
        self.entries.last().map(|entry| &*entry.id)
    }

    /// The fields of the entry at `index`.
    pub fn entry(&self, index: usize) -> Option<Fields> {
        let entry = self.entries.get(index)?;
        parse_line(self.bytes.get(entry.start as usize..entry.end as usize)?)
    }

    /// The id of the entry that the one at `index` follows.
    pub(super) fn parent_id(&self, index: usize) -> Option<&str> {
        self.id(self.entries.get(index)?.parent? as usize)
    }

    /// The fields of the header.
    pub(super) fn header(&self) -> Fields {
        let (start, end) = self.header;
        self.bytes.get(start as usize..end as usize).and_then(parse_line).unwrap_or_default()
    }

    /// Indices of the entries of the active branch, oldest first: the one that ends in the file's last entry.
    pub fn active_path(&self) -> Vec<usize> {
        let mut path = Vec::new();
        let mut next = self.entries.len().checked_sub(1);
        while let Some((index, entry)) = next.and_then(|index| Some((index, self.entries.get(index)?))) {
            path.push(index);
            next = entry.parent.map(|parent| parent as usize);
        }
        path.reverse();
        path
    }

    /// The bytes after the last line end: an entry that lacks its own, or what a crash left of one.
    pub(super) fn tail(&self) -> &[u8] {
        let start = memchr::memrchr(b'\n', &self.bytes).map_or(0, |at| at + 1);
        self.bytes.get(start..).unwrap_or_default()
    }
}

/// The id of an entry that has none. Another reading of the file makes up the same.
fn made_up_id(index: usize) -> Box<str> {
    format!("{index:08x}").into()
}

/// Whether a line is an entry that was there already. Another program may have written its numbers in another way.
fn repeats(entry: &Fields, twin: &Fields) -> bool {
    let same = |key: &str| entry.get(key) == twin.get(key);
    entry == twin || (entry.contains_key("timestamp") && ["type", "parentId", "timestamp"].into_iter().all(same))
}

#[cfg(test)]
mod tests;
