//! The one writer of a session file: JSON lines in version 3 of PI's format.
//!
//! A line is one write, so that a crash tears at most the last line, and one that fails is taken back: whatever happens,
//! the file stays one that can be read and appended to. Nothing is ever changed or removed but a torn last line; a file of
//! an older version is written anew in this one before something is added to it, as PI does it when it reads one.
//!
//! PI takes no lock. [`SessionFile::change`] tells what others did to the file.

use super::contents::{self, Contents, MAX_ENTRIES, MAX_FILE, MAX_LINE, VERSION, too_large};
use super::restore::first_kept;
use crate::clock::{iso_time, now_ms};
use crate::fault;
use crate::files::{self, Links};
use crate::ids;
use crate::json::{self, Fields, object};
use rustix::fs::{FlockOperation, flock};
use serde::Serialize;
use serde_json::{Value, json};
use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::HashSet;
use std::fs::File;
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

/// The longest list of locks that is looked through, bytes; a line has about 60.
const MAX_LOCKS: u64 = 1 << 20;

/// The writing end of a session file. The file is locked against other writers while this exists.
#[derive(Debug)]
pub struct SessionFile {
    path: PathBuf,
    file: File,
    /// Bytes of whole lines.
    length: u64,
    /// What a failed write left behind `length` could not be taken back yet.
    torn: bool,
    /// The entry that the next one follows.
    leaf: Option<String>,
    /// The ids in the file that a new one could be equal to.
    ids: HashSet<u32>,
    /// How many entries there are.
    entries: usize,
    /// The version of the format that the file is in.
    version: u64,
    /// The header's line, without its end.
    header: String,
    /// Folders whose new names are not on the disk yet: that of the file, and those that were made for it.
    unsynced: Vec<PathBuf>,
}

/// The header of a new file.
#[derive(Serialize)]
struct Header<'a, F> {
    #[serde(rename = "type")]
    kind: &'a str,
    version: u64,
    id: &'a str,
    timestamp: &'a str,
    cwd: Cow<'a, str>,
    #[serde(flatten)]
    more: F,
}

/// An entry as it is written.
#[derive(Serialize)]
struct Entry<'a, F> {
    #[serde(rename = "type")]
    kind: &'a str,
    id: &'a str,
    #[serde(rename = "parentId")]
    parent_id: Option<&'a str>,
    timestamp: String,
    #[serde(flatten)]
    fields: &'a F,
}

/// What others did to a session file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Change {
    None,
    /// There is more than we wrote.
    Appended,
    /// There is less.
    Shortened,
    /// Another file has its name.
    Replaced,
    Deleted,
}

impl SessionFile {
    /// Makes a new session file with its header. The file is for its owner only (0600), as are the folders that have to be
    /// made for it (0700). `created` is in the form of [`iso_time`]; `more` are further fields of the header.
    ///
    /// # Errors
    /// The file system's; `AlreadyExists` where there is something at that path.
    pub fn create(path: &Path, id: &str, created: &str, cwd: &Path, more: impl Serialize) -> io::Result<SessionFile> {
        let mut unsynced = Vec::new();
        if let Some(folder) = path.parent() {
            unsynced.extend(folder.ancestors().take_while(|dir| !dir.exists()).filter_map(Path::parent));
            unsynced.insert(0, folder);
            files::private::create_folder(folder)?;
        }
        let unsynced = unsynced.into_iter().map(Path::to_path_buf).collect();
        let (file, _) = files::open(path, File::options().read(true).append(true).create_new(true), Links::Refuse)?;
        lock(&file)?;
        let header = json::text(&Header {
            kind: "session",
            version: VERSION,
            id,
            timestamp: created,
            cwd: cwd.to_string_lossy(),
            more,
        });
        let path = path.to_path_buf();
        let mut session = SessionFile {
            path,
            file,
            length: 0,
            torn: false,
            leaf: None,
            ids: HashSet::new(),
            entries: 0,
            version: VERSION,
            header: header.clone(),
            unsynced,
        };
        if let Err(error) = session.write_line(header) {
            // A file without a header is no session file, and nobody could make one in its place.
            let _ = std::fs::remove_file(&session.path);
            return Err(error);
        }
        Ok(session)
    }

    /// Opens a session file to go on with it behind its last entry, and reads it: both under the lock, so that nothing is
    /// appended in between. Of a torn last line, what is no JSON is cut off, and an entry that only lacks its line end gets
    /// it; nothing else of the file changes.
    ///
    /// # Errors
    /// The file system's, and:
    ///
    /// | kind | when |
    /// |---|---|
    /// | `WouldBlock` | another writer has the file |
    /// | `InvalidInput`, `IsADirectory` | it is a symbolic link, or no regular file |
    /// | `InvalidData` | it is no session file: empty, or its first readable line is no header |
    /// | `FileTooLarge` | it is larger than [`MAX_FILE`], or has more than [`MAX_ENTRIES`] entries |
    pub fn open(path: &Path) -> io::Result<(SessionFile, Contents)> {
        let (file, _) = files::open(path, File::options().read(true).append(true), Links::Refuse)?;
        lock(&file)?;
        let contents = contents::read_file(&file)?;
        if contents.malformed + contents.duplicates > 0 {
            let (malformed, duplicates) = (contents.malformed, contents.duplicates);
            log::warn!("{}: {malformed} damaged and {duplicates} repeated lines are passed over", path.display());
        }
        let tail = contents.tail();
        let is_whole = contents::parse_line(tail).is_some();
        let mut session = SessionFile {
            path: path.to_path_buf(),
            length: file.metadata()?.len(),
            file,
            torn: false,
            leaf: None,
            ids: HashSet::new(),
            entries: 0,
            version: VERSION,
            header: String::new(),
            unsynced: Vec::new(),
        };
        session.take_over(&contents);
        if is_whole {
            session.write(b"\n")?;
        } else if !tail.is_empty() {
            session.length = session.length.saturating_sub(tail.len() as u64);
            session.file.set_len(session.length)?;
        }
        Ok((session, contents))
    }

    /// Looks whether a file could be opened now: it is a session file, and nobody else writes to it.
    ///
    /// # Errors
    /// As [`SessionFile::open`], as far as the header tells.
    pub(crate) fn check(path: &Path) -> io::Result<()> {
        contents::read_id(path)?;
        let (file, _) = files::open(path, File::options().read(true).append(true), Links::Refuse)?;
        lock(&file)?;
        Ok(flock(&file, FlockOperation::Unlock)?)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How many entries there are.
    pub(crate) fn entries(&self) -> usize {
        self.entries
    }

    fn take_over(&mut self, contents: &Contents) {
        self.leaf = contents.leaf().map(str::to_string);
        self.ids = contents.ids().filter_map(short_id).collect();
        self.entries = contents.ids().count();
        self.version = contents.version;
        self.header = json::text(&contents.header());
    }

    /// What others did to the file since the last time that something was written or read.
    ///
    /// # Errors
    /// The file system's.
    pub(crate) fn change(&self) -> io::Result<Change> {
        let ours = self.file.metadata()?;
        let there = match self.path.symlink_metadata() {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Change::Deleted),
            there => there?,
        };
        if (ours.dev(), ours.ino()) != (there.dev(), there.ino()) {
            return Ok(Change::Replaced);
        }
        Ok(match ours.len().cmp(&self.length) {
            // What is there too much is our own.
            _ if self.torn => Change::None,
            Ordering::Equal => Change::None,
            Ordering::Greater => Change::Appended,
            Ordering::Less => Change::Shortened,
        })
    }

    /// Reads what others appended, to go on behind it.
    ///
    /// # Errors
    /// As [`SessionFile::open`].
    pub(crate) fn reload(&mut self) -> io::Result<Contents> {
        self.file.seek(SeekFrom::Start(0))?;
        let contents = contents::read_file(&self.file)?;
        self.take_over(&contents);
        self.pass_over()?;
        Ok(contents)
    }

    /// Goes on with the file that has the name now, if that is the same session's.
    ///
    /// # Errors
    /// As [`SessionFile::open`]; `InvalidData` for another session's.
    pub(crate) fn reopen(&mut self) -> io::Result<Contents> {
        let (file, contents) = SessionFile::open(&self.path)?;
        if file.header_fields().get("id") != self.header_fields().get("id") {
            return Err(io::Error::new(ErrorKind::InvalidData, "the session file was replaced by another session's"));
        }
        *self = file;
        Ok(contents)
    }

    /// Leaves what others appended beside our own entries, which go on from ours: another branch.
    ///
    /// # Errors
    /// The file system's.
    pub(crate) fn pass_over(&mut self) -> io::Result<()> {
        self.length = self.file.metadata()?.len();
        let mut last = [0];
        if self.file.read_at(&mut last, self.length.saturating_sub(1))? == 1 && last != *b"\n" {
            self.write(b"\n")?;
        }
        Ok(())
    }

    /// Writes a file that was deleted once more, as it was.
    ///
    /// # Errors
    /// The file system's.
    pub(crate) fn put_back(&mut self) -> io::Result<()> {
        let mut all = Vec::new();
        self.file.seek(SeekFrom::Start(0))?;
        (&self.file).take(self.length).read_to_end(&mut all)?;
        self.replace(&all)
    }

    /// Writes the file anew with these entries: their ids, their types, and the other fields. New ids are made for those
    /// that are empty; returns all of them.
    ///
    /// # Errors
    /// The file system's; the file is then as it was.
    pub(crate) fn write_anew(&mut self, entries: Vec<(String, &str, Fields)>) -> io::Result<Vec<String>> {
        let mut lines = format!("{}\n", self.header);
        let mut parent: Option<String> = None;
        let mut ids = Vec::new();
        for (id, kind, fields) in entries {
            let id = if id.is_empty() { format!("{:08x}", self.new_number()) } else { id };
            let mut entry =
                object(json!({"type": kind, "id": id, "parentId": parent, "timestamp": iso_time(now_ms())}));
            entry.extend(fields);
            lines.push_str(&json::text(&entry));
            lines.push('\n');
            self.ids.extend(short_id(&id));
            parent = Some(id.clone());
            ids.push(id);
        }
        self.replace(lines.as_bytes())?;
        (self.leaf, self.entries) = (parent, ids.len());
        Ok(ids)
    }

    /// Brings a file of an older version into the newest one, in the way in which it is read.
    fn upgrade(&mut self) -> io::Result<()> {
        self.file.seek(SeekFrom::Start(0))?;
        let contents = contents::read_file(&self.file)?;
        let mut header = self.header_fields();
        header.insert("version".into(), json!(VERSION));
        let header = json::text(&header);
        let mut lines = format!("{header}\n");
        for index in 0..contents.ids().count() {
            let Some(mut entry) = contents.entry(index) else { continue };
            entry.insert("id".into(), json!(contents.id(index)));
            entry.insert("parentId".into(), json!(contents.parent_id(index)));
            if entry.get("type").and_then(Value::as_str) == Some("compaction") {
                entry.insert("firstKeptEntryId".into(), json!(first_kept(&entry, &contents)));
                entry.remove("firstKeptEntryIndex");
            }
            if let Some(role) = entry.get_mut("message").and_then(|message| message.get_mut("role"))
                && role == "hookMessage"
            {
                *role = json!("custom");
            }
            lines.push_str(&json::text(&entry));
            lines.push('\n');
        }
        self.replace(lines.as_bytes())?;
        (self.version, self.header) = (VERSION, header);
        Ok(())
    }

    /// Puts another file in the place of this one, which stays locked.
    fn replace(&mut self, bytes: &[u8]) -> io::Result<()> {
        if let Some(folder) = self.path.parent() {
            files::private::create_folder(folder)?;
        }
        files::private::replace(&self.path, |file| fault::write_all(file, bytes).and_then(|()| files::sync(file)))?;
        let (file, _) = files::open(&self.path, File::options().read(true).append(true), Links::Refuse)?;
        lock(&file)?;
        self.file = file;
        (self.length, self.torn) = (bytes.len() as u64, false);
        Ok(())
    }

    fn header_fields(&self) -> Fields {
        serde_json::from_str(&self.header).unwrap_or_default()
    }

    fn new_number(&self) -> u32 {
        std::iter::repeat_with(ids::number).find(|number| !self.ids.contains(number)).unwrap_or_default()
    }

    /// Appends an entry of type `kind` behind the last one, with the fields of an object beside those that every entry has;
    /// returns its id. When this returns, the entry survives the end of this process; [`SessionFile::sync`] makes it survive that of
    /// the machine.
    ///
    /// # Errors
    /// The file system's, and `FileTooLarge` for what could not be read again. The file is then as it was before, and a
    /// later call may succeed.
    pub fn append(&mut self, kind: &str, fields: &impl Serialize) -> io::Result<String> {
        if self.ids.len() >= MAX_ENTRIES {
            return Err(too_large(format!("a session file takes at most {MAX_ENTRIES} entries")));
        }
        if self.version < VERSION {
            self.upgrade()?;
        }
        let number = self.new_number();
        let id = format!("{number:08x}");
        let entry = Entry { kind, id: &id, parent_id: self.leaf.as_deref(), timestamp: iso_time(now_ms()), fields };
        let line = json::text(&entry);
        self.write_line(line)?;
        self.ids.insert(number);
        self.leaf = Some(id.clone());
        self.entries += 1;
        Ok(id)
    }

    /// Waits until everything appended so far is on the disk itself, and a new file's name as well.
    ///
    /// # Errors
    /// The file system's; what was appended may then be lost with the machine.
    pub fn sync(&mut self) -> io::Result<()> {
        files::sync(&self.file)?;
        std::mem::take(&mut self.unsynced).iter().try_for_each(|folder| files::sync_folder(folder))
    }

    fn write_line(&mut self, mut line: String) -> io::Result<()> {
        if line.len() > MAX_LINE {
            return Err(too_large(format!("a session's entry has at most {} MiB", MAX_LINE >> 20)));
        }
        line.push('\n');
        self.write(line.as_bytes())
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.torn {
            self.file.set_len(self.length)?;
            self.torn = false;
        }
        // Asked anew each time: PI takes no lock, and what it appends is not ours to take back.
        let before = self.file.metadata()?.len();
        let after = before + bytes.len() as u64;
        if after > MAX_FILE {
            return Err(too_large(format!("a session file has at most {} MiB", MAX_FILE >> 20)));
        }
        let written = fault::write_all(&mut self.file, bytes);
        if written.is_err() {
            // A full disk leaves half a line.
            self.length = before;
            self.torn = self.file.set_len(before).is_err();
        } else {
            // What others have appended at this moment is seen with the next look.
            self.length += bytes.len() as u64;
        }
        written
    }
}

impl Drop for SessionFile {
    fn drop(&mut self) {
        // Closing would do, were it not for programs that other threads are just starting: until they are, they hold a copy
        // of the file, and whoever opens it next would find it taken.
        let _ = flock(&self.file, FlockOperation::Unlock);
    }
}

/// Takes the lock of the only writer. The system lets go of it when the process ends, however it does.
fn lock(file: &File) -> io::Result<()> {
    flock(file, FlockOperation::NonBlockingLockExclusive).map_err(|error| match io::Error::from(error) {
        error if error.kind() == ErrorKind::WouldBlock => {
            let holder = holder(file).map_or_else(|| "another process".into(), |pid| format!("process {pid}"));
            io::Error::new(ErrorKind::WouldBlock, format!("the session file is in use by {holder}"))
        }
        error => error,
    })
}

/// The process that has the lock of a file, as far as the system tells.
fn holder(file: &File) -> Option<u32> {
    let inode = format!(":{}", file.metadata().ok()?.ino());
    // `1: FLOCK  ADVISORY  WRITE 4711 08:01:1234567 0 EOF`
    let locks = files::read_text(Path::new("/proc/locks"), MAX_LOCKS).ok()?;
    let words = locks.lines().map(|line| line.split_whitespace().skip(1).collect::<Vec<_>>());
    let found = words
        .filter(|words| words.first() == Some(&"FLOCK"))
        .find(|words| words.get(4).is_some_and(|id| id.ends_with(&inode)));
    found?.get(3)?.parse().ok()
}

/// The number that an id of eight hexadecimal digits stands for; other ids are never made here.
fn short_id(id: &str) -> Option<u32> {
    (id.len() == 8).then(|| u32::from_str_radix(id, 16).ok())?
}

#[cfg(test)]
mod tests;
