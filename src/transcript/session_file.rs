//! The one writer of a session file: JSON lines in version 3 of PI's format.
//!
//! A line is one write, so that a crash tears at most the last line, and one that fails is taken back: whatever happens,
//! the file stays one that can be read and appended to. Nothing is ever changed or removed but a torn last line.

use super::contents::{self, Contents, MAX_ENTRIES, MAX_FILE, MAX_LINE, VERSION, too_large};
use crate::clock::{iso_time, now_ms};
use crate::fault;
use crate::files::{self, Links};
use crate::ids;
use crate::json::{Fields, object};
use rustix::fs::{FlockOperation, flock};
use serde_json::{Value, json};
use std::collections::HashSet;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

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
}

impl SessionFile {
    /// Makes a new session file with its header. The file is for its owner only (0600), as are the folders that have to be
    /// made for it (0700). `created` is in the form of [`iso_time`]; `parent` is the session file that this one goes on
    /// from.
    ///
    /// # Errors
    /// The file system's; `AlreadyExists` where there is something at that path.
    pub fn create(path: &Path, id: &str, created: &str, cwd: &Path, parent: Option<&Path>) -> io::Result<SessionFile> {
        if let Some(folder) = path.parent() {
            files::private::create_folder(folder)?;
        }
        let (file, _) = files::open(path, File::options().append(true).create_new(true), Links::Refuse)?;
        lock(&file)?;
        let mut header = object(json!({
            "type": "session", "version": VERSION, "id": id, "timestamp": created, "cwd": cwd.to_string_lossy(),
        }));
        if let Some(parent) = parent {
            header.insert("parentSession".into(), json!(parent.to_string_lossy()));
        }
        let path = path.to_path_buf();
        let mut session = SessionFile { path, file, length: 0, torn: false, leaf: None, ids: HashSet::new() };
        if let Err(error) = session.write_line(Value::Object(header)) {
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
            leaf: contents.leaf().map(str::to_string),
            ids: contents.ids().filter_map(short_id).collect(),
        };
        if is_whole {
            session.write(b"\n")?;
        } else if !tail.is_empty() {
            session.length = session.length.saturating_sub(tail.len() as u64);
            session.file.set_len(session.length)?;
        }
        Ok((session, contents))
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Appends an entry of type `kind` behind the last one, with `fields` beside those that every entry has; returns its
    /// id. When this returns, the entry survives the end of this process; [`SessionFile::sync`] makes it survive that of
    /// the machine.
    ///
    /// # Errors
    /// The file system's, and `FileTooLarge` for what could not be read again. The file is then as it was before, and a
    /// later call may succeed.
    pub fn append(&mut self, kind: &str, fields: Fields) -> io::Result<String> {
        if self.ids.len() >= MAX_ENTRIES {
            return Err(too_large(format!("a session file takes at most {MAX_ENTRIES} entries")));
        }
        let number = std::iter::repeat_with(ids::number).find(|number| !self.ids.contains(number));
        let number = number.unwrap_or_default();
        let id = format!("{number:08x}");
        let mut entry = object(json!({"type": kind, "id": id, "parentId": self.leaf, "timestamp": iso_time(now_ms())}));
        entry.extend(fields);
        self.write_line(Value::Object(entry))?;
        self.ids.insert(number);
        self.leaf = Some(id.clone());
        Ok(id)
    }

    /// Waits until everything appended so far is on the disk itself.
    ///
    /// # Errors
    /// The file system's; what was appended may then be lost with the machine.
    pub fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn write_line(&mut self, entry: Value) -> io::Result<()> {
        let mut line = entry.to_string();
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
            self.length = after;
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
            io::Error::new(ErrorKind::WouldBlock, "the session file is in use by another session or daemon")
        }
        error => error,
    })
}

/// The number that an id of eight hexadecimal digits stands for; other ids are never made here.
fn short_id(id: &str) -> Option<u32> {
    (id.len() == 8).then(|| u32::from_str_radix(id, 16).ok())?
}

#[cfg(test)]
mod tests;
