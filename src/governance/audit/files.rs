//! The files of the log, one a month.

use super::chain::{Head, NO_HASH, Record, read};
use crate::clock::{iso_time, now_ms};
use crate::fault;
use crate::files::{self, open_regular, private, sync_folder};
use crate::ids;
use crate::json::object;
use rustix::fs::{FlockOperation, flock};
use serde_json::{Value, json};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// How much of a file's end is looked at for the last line, bytes; a line has less than a tenth of it.
const TAIL: u64 = 1 << 20;
/// The longest first line, bytes.
const FIRST_LINE: u64 = 4096;

/// The names of a log's files, in the order of their months.
pub(super) fn months(folder: &Path) -> io::Result<Vec<String>> {
    let is_month = |name: &String| {
        name.len() == "2026-11.jsonl".len()
            && name.ends_with(".jsonl")
            && name
                .bytes()
                .take(7)
                .enumerate()
                .all(|(at, byte)| if at == 4 { byte == b'-' } else { byte.is_ascii_digit() })
    };
    let names = folder.read_dir()?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    let mut names: Vec<String> = names.collect::<io::Result<Vec<_>>>()?.into_iter().filter(is_month).collect();
    names.sort();
    Ok(names)
}

/// The id of the log that a file belongs to, which its first line says.
pub(super) fn log_of(path: &Path) -> io::Result<Option<String>> {
    let (file, _) = open_regular(path)?;
    let mut line = Vec::new();
    BufReader::new(file.take(FIRST_LINE)).read_until(b'\n', &mut line)?;
    let line: Value = serde_json::from_slice(&line).unwrap_or_default();
    Ok(line["log"].as_str().map(str::to_owned))
}

/// The end of a log. A process and the one that takes its place may both write for a while.
pub(super) struct LogFiles {
    folder: PathBuf,
    /// Locked while something is read or written.
    lock: File,
    end: End,
    unsynced: bool,
}

/// Where the next line goes.
struct End {
    /// The file of the last month, and its name; absent before the first line.
    file: Option<(String, File)>,
    /// Its size, bytes.
    size: u64,
    head: Head,
}

impl End {
    /// Finds the end of a log, whose last line a crash may have torn: that is taken away. Without one a new log begins.
    fn find(folder: &Path) -> io::Result<End> {
        let head = Head { log: ids::hex16(), seq: 0, hash: NO_HASH.to_owned(), time: String::new() };
        let mut end = End { file: None, size: 0, head };
        for name in months(folder)?.into_iter().rev() {
            let path = folder.join(&name);
            let mut file = private::open_or_create(&path)?;
            let length = file.metadata()?.len();
            let start = length.saturating_sub(TAIL);
            let mut tail = Vec::new();
            file.seek(SeekFrom::Start(start))?;
            (&file).take(TAIL).read_to_end(&mut tail)?;
            let whole = tail.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
            let size = start + whole as u64;
            if size < length {
                log::warn!("{}: the last line was torn by a crash and is taken away", path.display());
                file.set_len(size)?;
            }
            if end.file.is_none() {
                (end.file, end.size) = (Some((name, file)), size);
            }
            let Some(lines) = tail[..whole].strip_suffix(b"\n") else { continue };
            let last = &lines[lines.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1)..];
            let wrong = || {
                let path = path.display();
                io::Error::other(format!(
                    "{path}: the last line does not fit; look at it with `audit verify`, and move the log away"
                ))
            };
            let (line, id) = (read(last).ok_or_else(wrong)?, log_of(&path)?.ok_or_else(wrong)?);
            let hash = String::from_utf8_lossy(line.hash).into_owned();
            end.head = Head { log: id, seq: line.seq, hash, time: iso_time(now_ms()) };
            break;
        }
        Ok(end)
    }

    /// Nobody else has written since.
    fn is_last(&self, folder: &Path) -> io::Result<bool> {
        let last = months(folder)?.pop();
        Ok(match &self.file {
            Some((name, file)) => {
                let (here, there) = (file.metadata()?, std::fs::metadata(folder.join(name)));
                let same = there.is_ok_and(|there| (there.dev(), there.ino()) == (here.dev(), here.ino()));
                same && here.len() == self.size && last.as_ref() == Some(name)
            }
            None => last.is_none(),
        })
    }
}

impl LogFiles {
    /// Opens the log, or begins one.
    ///
    /// # Errors
    /// The system's; or the last line does not fit, so that nothing can follow it.
    pub(super) fn open(folder: &Path) -> io::Result<LogFiles> {
        private::create_folder(folder)?;
        private::close_folder(folder)?;
        let lock = private::open_or_create(&folder.join("lock"))?;
        flock(&lock, FlockOperation::LockExclusive)?;
        let end = End::find(folder);
        flock(&lock, FlockOperation::Unlock)?;
        Ok(LogFiles { folder: folder.to_path_buf(), lock, end: end?, unsynced: false })
    }

    pub(super) fn head(&self) -> &Head {
        &self.end.head
    }

    /// Writes records, all or none of them.
    ///
    /// # Errors
    /// The system's, or what was written before is gone; then none is there.
    pub(super) fn append(&mut self, records: &[Record]) -> io::Result<()> {
        if records.is_empty() {
            return Ok(());
        }
        flock(&self.lock, FlockOperation::LockExclusive)?;
        let written = self.append_alone(records);
        // It cannot fail for a lock that is held.
        let _ = flock(&self.lock, FlockOperation::Unlock);
        written
    }

    fn append_alone(&mut self, records: &[Record]) -> io::Result<()> {
        if !self.end.is_last(&self.folder)? {
            let end = End::find(&self.folder)?;
            if end.head.seq < self.end.head.seq {
                return Err(io::Error::other(format!("lines of the log in {} are gone", self.folder.display())));
            }
            self.end = end;
        }
        let at = records.first().map_or_else(now_ms, |record| record.at);
        // A clock that was set back does not lead back to an older file.
        let month: String = iso_time(at).chars().take(7).chain(".jsonl".chars()).collect();
        if self.end.file.as_ref().is_none_or(|(current, _)| *current < month) {
            self.sync()?;
            let file = private::open_or_create(&self.folder.join(&month))?;
            (self.end.file, self.end.size) = (Some((month, file)), 0);
            sync_folder(&self.folder)?;
        }
        let (mut head, mut text) = (self.end.head.clone(), Vec::new());
        if self.end.size == 0 {
            let facts = object(json!({"log": head.log, "version": 1}));
            head.extend(&Record { at, event: "opened", facts }, &mut text);
        }
        records.iter().for_each(|record| head.extend(record, &mut text));
        let Some((_, file)) = &mut self.end.file else { return Ok(()) };
        file.seek(SeekFrom::Start(self.end.size))?;
        if let Err(error) = fault::write_all(file, &text) {
            // What cannot be taken away either is a line that was torn.
            let _ = file.set_len(self.end.size);
            return Err(error);
        }
        self.end.size += text.len() as u64;
        (self.end.head, self.unsynced) = (head, true);
        Ok(())
    }

    /// Makes what was written survive a power cut.
    ///
    /// # Errors
    /// The system's.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        if self.unsynced
            && let Some((_, file)) = &self.end.file
        {
            files::sync(file)?;
            self.unsynced = false;
        }
        Ok(())
    }
}
