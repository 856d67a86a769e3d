//! The files of the log, one a month.

use super::chain::{Head, NO_HASH, Record, read};
use crate::clock::{iso_time, now_ms};
use crate::fault;
use crate::files::{open_regular, private, sync_folder};
use crate::ids;
use serde_json::{Value, json};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
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

/// The end of a log.
pub(super) struct LogFiles {
    folder: PathBuf,
    /// The file of the last month, and its name; absent before the first line.
    file: Option<(String, File)>,
    /// Its size, bytes.
    size: u64,
    head: Head,
    unsynced: bool,
}

impl LogFiles {
    /// Opens the log, whose last line a crash may have torn: that is taken away.
    ///
    /// # Errors
    /// The system's; or the last line does not fit, so that nothing can follow it.
    pub(super) fn open(folder: &Path) -> io::Result<LogFiles> {
        private::create_folder(folder)?;
        private::close_folder(folder)?;
        let head = Head { log: ids::hex16(), seq: 0, hash: NO_HASH.to_owned(), time: String::new() };
        let mut log = LogFiles { folder: folder.to_path_buf(), file: None, size: 0, head, unsynced: false };
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
            if log.file.is_none() {
                (log.file, log.size) = (Some((name, file)), size);
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
            log.head = Head { log: id, seq: line.seq, hash, time: iso_time(now_ms()) };
            break;
        }
        Ok(log)
    }

    pub(super) fn head(&self) -> &Head {
        &self.head
    }

    /// Writes records, all or none of them.
    ///
    /// # Errors
    /// The system's; then none is there.
    pub(super) fn append(&mut self, records: &[Record]) -> io::Result<()> {
        let Some(first) = records.first() else { return Ok(()) };
        // A clock that was set back does not lead back to an older file.
        let month: String = iso_time(first.at).chars().take(7).chain(".jsonl".chars()).collect();
        let name = match &self.file {
            Some((name, _)) if *name >= month => name.clone(),
            _ => month,
        };
        if self.file.as_ref().is_none_or(|(current, _)| *current != name) {
            self.sync()?;
            self.file = Some((name.clone(), private::open_or_create(&self.folder.join(&name))?));
            self.size = 0;
            sync_folder(&self.folder)?;
        }
        let (mut head, mut text) = (self.head.clone(), Vec::new());
        if self.size == 0 {
            let facts = json!({"log": head.log, "version": 1});
            let opened =
                Record { at: first.at, event: "opened", facts: facts.as_object().cloned().unwrap_or_default() };
            head.extend(&opened, &mut text);
        }
        records.iter().for_each(|record| head.extend(record, &mut text));
        let Some((_, file)) = &mut self.file else { return Ok(()) };
        file.seek(SeekFrom::Start(self.size))?;
        if let Err(error) = fault::write_all(file, &text) {
            // What cannot be taken away either is written over by what is written next.
            let _ = file.set_len(self.size);
            return Err(error);
        }
        self.size += text.len() as u64;
        (self.head, self.unsynced) = (head, true);
        Ok(())
    }

    /// Makes what was written survive a power cut.
    ///
    /// # Errors
    /// The system's.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        if self.unsynced
            && let Some((_, file)) = &self.file
        {
            file.sync_data()?;
            self.unsynced = false;
        }
        Ok(())
    }
}
