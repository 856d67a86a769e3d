//! The file that has what events left out.
//!
//! A session's thread only puts payloads into a bounded queue; a thread of this module's own, begun with the first payload,
//! writes them. One lock guards what both and the readers know, and is never held while the disk is used. The file holds
//! one line of JSON per payload, and is written anew without those of forgotten events when it would become too large.
//!
//! Reasons for which a payload is not there are texts for clients: a line `key=value` for programs, then one for people.

use super::envelope::quoted;
use crate::files::{self, Links, describe, error_code};
use crate::sync::{lock, wait, wait_timeout};
use crate::threads::{SMALL_STACK, Thread, spawn};
use serde_json::Value;
use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Instant;

/// Payloads that may wait, the one that is being written included; the protocol's number.
const MAX_WAITING: usize = 64;
/// Bytes of those (16 MiB); the protocol's number.
const MAX_WAITING_BYTES: usize = 16 << 20;
/// Bytes that are copied at a time when the file is written anew.
const COPY_BUFFER: usize = 64 * 1024;

pub(super) const PENDING: &str = "spill_pending=true\nthe payload is still being stored";
pub(super) const DISABLED: &str = "spill_enabled=false\nraw spill disabled";
pub(super) const NO_SUBSCRIBER: &str = "spill_subscriber=false\nnobody was subscribed when the event happened";
pub(super) const NOT_RETAINED: &str = "raw_retained=false\nthe payload of this event was not kept";
const QUEUE_FULL: &str = "spill_queue_full=true\ntoo many payloads are waiting to be stored";

/// The file of one log. It is removed when this is dropped.
pub(super) struct Spill {
    shared: Arc<SharedSpill>,
    thread: Option<Thread>,
}

struct SharedSpill {
    path: PathBuf,
    /// Bytes of the file; 0 = no limit.
    max_bytes: u64,
    state: Mutex<SpillState>,
    /// Something was queued, or left the queue, or the end has come.
    changed: Condvar,
}

#[derive(Default)]
struct SpillState {
    last_number: u64,
    /// Of events that are not forgotten.
    slots: BTreeMap<u64, Slot>,
    queue: VecDeque<Job>,
    /// Payloads in the queue and in the writer's hands, and their bytes.
    waiting: usize,
    waiting_bytes: usize,
    /// Bytes that `slots` have in the file or will have there.
    live_bytes: u64,
    file: Option<Arc<File>>,
    /// Bytes of the file, those of forgotten events included.
    file_bytes: u64,
    closing: bool,
}

struct Job {
    number: u64,
    line: String,
}

struct Slot {
    bytes: u64,
    place: Place,
}

enum Place {
    Pending,
    At(u64),
    /// Why it could not be stored.
    Failed(String),
}

/// What became of a payload.
#[derive(Debug, PartialEq)]
pub(super) enum Stage {
    Pending,
    Stored,
    /// Why it could not be stored.
    Failed(String),
    /// Its event is forgotten, or the log is gone.
    Gone,
}

impl Spill {
    /// Touches no file and starts no thread.
    pub(super) fn new(path: PathBuf, max_bytes: u64) -> Spill {
        let (state, changed) = (Mutex::default(), Condvar::new());
        Spill { shared: Arc::new(SharedSpill { path, max_bytes, state, changed }), thread: None }
    }

    /// Queues a payload (JSON), and returns the number under which it will be found. `session` names the thread.
    ///
    /// # Errors
    /// Why it is not accepted, as a text for clients.
    pub(super) fn submit(&mut self, session: &str, event: &str, timestamp: &str, payload: &str) -> Result<u64, String> {
        let number = self.shared.submit(event, timestamp, payload)?;
        if self.thread.is_none() {
            let shared = self.shared.clone();
            match spawn(&format!("w-{session}"), SMALL_STACK, move || shared.write_all()) {
                Ok(thread) => self.thread = Some(thread),
                Err(error) => {
                    self.shared.release(number);
                    return Err(failure(&error, None));
                }
            }
        }
        Ok(number)
    }

    /// The event is forgotten, and its payload with it.
    pub(super) fn release(&self, number: u64) {
        self.shared.release(number);
    }

    pub(super) fn reader(&self) -> Reader {
        Reader(self.shared.clone())
    }
}

impl Drop for Spill {
    fn drop(&mut self) {
        let queued = {
            let mut state = self.shared.lock();
            state.closing = true;
            state.slots.clear();
            state.live_bytes = 0;
            state.waiting = 0;
            state.waiting_bytes = 0;
            state.file = None;
            std::mem::take(&mut state.queue)
        };
        drop(queued);
        self.shared.changed.notify_all();
        // What is being written may have to make the file first: it is removed when nobody makes it any more.
        self.thread = None;
        remove(&self.shared.path);
    }
}

fn remove(path: &Path) {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            log::warn!("cannot remove {}: {}", path.display(), describe(&error));
        }
        _ => {}
    }
}

/// Gives payloads back, on any thread.
#[derive(Clone)]
pub(super) struct Reader(Arc<SharedSpill>);

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Reader").field(&self.0.path).finish()
    }
}

impl Reader {
    /// Waits until none of the payloads is pending any more, or until `deadline`.
    pub(super) fn wait(&self, numbers: &[u64], deadline: Instant) {
        let mut state = self.0.lock();
        while numbers.iter().any(|number| state.is_pending(*number)) {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else { return };
            state = wait_timeout(&self.0.changed, state, left);
        }
    }

    pub(super) fn stage(&self, number: u64) -> Stage {
        match self.0.lock().slots.get(&number).map(|slot| &slot.place) {
            Some(Place::Pending) => Stage::Pending,
            Some(Place::At(_)) => Stage::Stored,
            Some(Place::Failed(reason)) => Stage::Failed(reason.clone()),
            None => Stage::Gone,
        }
    }

    /// The payload.
    ///
    /// # Errors
    /// Why it cannot be read, as a text for clients.
    pub(super) fn read(&self, number: u64) -> Result<Value, String> {
        // The file is taken along with the place in it: when it is written anew meanwhile, the old one still has it.
        let (file, offset, bytes) = {
            let state = self.0.lock();
            let slot = state.slots.get(&number).and_then(|slot| match slot.place {
                Place::At(offset) => Some((offset, slot.bytes)),
                Place::Pending | Place::Failed(_) => None,
            });
            let (Some((offset, bytes)), Some(file)) = (slot, state.file.clone()) else {
                return Err(NOT_RETAINED.into());
            };
            (file, offset, bytes)
        };
        let mut line = vec![0; usize::try_from(bytes).unwrap_or_default()];
        file.read_exact_at(&mut line, offset).map_err(|error| failure(&error, Some(&self.0.path)))?;
        match serde_json::from_slice(&line) {
            Ok(Value::Object(mut record)) if record.get("ref") == Some(&Value::String(number.to_string())) => {
                Ok(record.shift_remove("data").unwrap_or_default())
            }
            _ => Err(format!("raw_ref_offset={offset}\nthe file does not have payload {number} where it should be")),
        }
    }
}

impl SpillState {
    fn is_pending(&self, number: u64) -> bool {
        self.slots.get(&number).is_some_and(|slot| matches!(slot.place, Place::Pending))
    }
}

impl SharedSpill {
    fn lock(&self) -> MutexGuard<'_, SpillState> {
        lock(&self.state)
    }

    fn exceeds(&self, bytes: u64) -> bool {
        self.max_bytes > 0 && bytes > self.max_bytes
    }

    fn too_large(&self) -> String {
        format!("spill_max_bytes={0}\nraw spill exceeds maxRawSpillBytes ({0})", self.max_bytes)
    }

    fn submit(&self, event: &str, timestamp: &str, payload: &str) -> Result<u64, String> {
        let mut state = self.lock();
        let number = state.last_number + 1;
        // None of the other fields needs to be escaped but the event's name.
        let event = quoted(event);
        let size = 64 + event.len() + timestamp.len() + payload.len();
        if state.waiting >= MAX_WAITING || state.waiting_bytes + size > MAX_WAITING_BYTES {
            return Err(QUEUE_FULL.into());
        }
        if self.exceeds(state.live_bytes + size as u64) {
            return Err(self.too_large());
        }
        let mut line = String::with_capacity(size);
        // Writing to a string cannot fail.
        let _ = writeln!(line, r#"{{"ref":"{number}","event":{event},"timestamp":"{timestamp}","data":{payload}}}"#);
        let bytes = line.len() as u64;
        state.last_number = number;
        state.waiting += 1;
        state.waiting_bytes += line.len();
        state.live_bytes += bytes;
        state.slots.insert(number, Slot { bytes, place: Place::Pending });
        state.queue.push_back(Job { number, line });
        drop(state);
        self.changed.notify_all();
        Ok(number)
    }

    fn release(&self, number: u64) {
        let mut state = self.lock();
        let Some(slot) = state.slots.remove(&number) else { return };
        if !matches!(slot.place, Place::Failed(_)) {
            state.live_bytes -= slot.bytes;
        }
        if let Some(at) = state.queue.iter().position(|job| job.number == number)
            && let Some(job) = state.queue.remove(at)
        {
            state.waiting -= 1;
            state.waiting_bytes -= job.line.len();
        }
    }

    /// Writes until the end, on the writer's thread.
    fn write_all(&self) {
        loop {
            let mut state = self.lock();
            // Waits for as long as the log lives, whose end sets the flag.
            while state.queue.is_empty() && !state.closing {
                state = wait(&self.changed, state);
            }
            if state.closing {
                return;
            }
            let Some(job) = state.queue.pop_front() else { continue };
            drop(state);
            self.write(&job);
        }
    }

    fn write(&self, job: &Job) {
        let written = self.append(job.line.as_bytes());
        if let Err(reason) = &written {
            log::warn!("cannot store a payload: {}", reason.replace('\n', ": "));
        }
        let mut state = self.lock();
        if state.closing {
            return;
        }
        state.waiting -= 1;
        state.waiting_bytes -= job.line.len();
        let failed = written.is_err();
        if let Some(slot) = state.slots.get_mut(&job.number) {
            slot.place = match written {
                Ok(offset) => Place::At(offset),
                Err(reason) => Place::Failed(reason),
            };
            let bytes = slot.bytes;
            if failed {
                state.live_bytes -= bytes;
            }
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Puts a line at the end of the file, and returns where it begins.
    fn append(&self, line: &[u8]) -> Result<u64, String> {
        let (file, end) = {
            let state = self.lock();
            (state.file.clone(), state.file_bytes)
        };
        let bytes = line.len() as u64;
        let (file, end) = match file {
            None => (self.create()?, 0),
            Some(_) if self.exceeds(end + bytes) => self.compact()?,
            Some(file) => (file, end),
        };
        if self.exceeds(end + bytes) {
            return Err(self.too_large());
        }
        // What a failed write left behind the end is written over by the next.
        file.write_all_at(line, end).map_err(|error| failure(&error, Some(&self.path)))?;
        self.lock().file_bytes = end + bytes;
        Ok(end)
    }

    fn create(&self) -> Result<Arc<File>, String> {
        let folder = self.path.parent().unwrap_or(Path::new("/"));
        let file = files::private::create_folder(folder)
            .and_then(|()| private_file(&self.path))
            .map_err(|error| failure(&error, Some(&self.path)))?;
        let file = Arc::new(file);
        let mut state = self.lock();
        if !state.closing {
            state.file = Some(file.clone());
        }
        Ok(file)
    }

    /// Writes the file anew, without the payloads of forgotten events. Returns it, and its bytes. If that fails, the old
    /// file stays in use.
    fn compact(&self) -> Result<(Arc<File>, u64), String> {
        let (old, live) = {
            let state = self.lock();
            let live: Vec<(u64, u64, u64)> = state
                .slots
                .iter()
                .filter_map(|(number, slot)| match slot.place {
                    Place::At(offset) => Some((*number, offset, slot.bytes)),
                    Place::Pending | Place::Failed(_) => None,
                })
                .collect();
            (state.file.clone(), live)
        };
        let Some(old) = old else { return Err(NOT_RETAINED.into()) };
        let mut name = self.path.clone().into_os_string();
        name.push(".compact");
        let copy_path = PathBuf::from(name);
        let copied = self.copy(&old, &live, &copy_path).and_then(|copied| {
            std::fs::rename(&copy_path, &self.path).map_err(|error| failure(&error, Some(&self.path)))?;
            Ok(copied)
        });
        let (file, end) = copied.inspect_err(|_| remove(&copy_path))?;
        let mut state = self.lock();
        let mut offset = 0;
        for (number, _, bytes) in live {
            if let Some(slot) = state.slots.get_mut(&number) {
                slot.place = Place::At(offset);
            }
            offset += bytes;
        }
        if !state.closing {
            state.file = Some(file.clone());
        }
        state.file_bytes = end;
        Ok((file, end))
    }

    /// Copies the `(number, offset, bytes)` of `live` to a new file, one behind the other.
    fn copy(&self, old: &File, live: &[(u64, u64, u64)], to: &Path) -> Result<(Arc<File>, u64), String> {
        let file = private_file(to).map_err(|error| failure(&error, Some(to)))?;
        let mut buffer = vec![0; COPY_BUFFER];
        let mut end = 0;
        for (_, offset, bytes) in live {
            let mut done = 0;
            while done < *bytes {
                let size = usize::try_from(bytes - done).unwrap_or(COPY_BUFFER).min(COPY_BUFFER);
                let piece = &mut buffer[..size];
                old.read_exact_at(piece, offset + done).map_err(|error| failure(&error, Some(&self.path)))?;
                file.write_all_at(piece, end).map_err(|error| failure(&error, Some(to)))?;
                done += size as u64;
                end += size as u64;
            }
        }
        Ok((Arc::new(file), end))
    }
}

/// A new, empty file that only its owner may read, since payloads can hold secrets. What is there already is emptied, as
/// it is of a dead process that had our number; a link is not followed.
fn private_file(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    files::open(path, options.read(true).write(true).create(true).truncate(true), Links::Refuse).map(|(file, _)| file)
}

/// What went wrong with a file, as a text for clients.
fn failure(error: &io::Error, path: Option<&Path>) -> String {
    // The file ends too early: somebody else cut it.
    let code = if error.kind() == io::ErrorKind::UnexpectedEof { "EIO".to_owned() } else { error_code(error) };
    let path = path.map(|path| format!(" path={}", path.display())).unwrap_or_default();
    format!("error_code={code}{path}\n{}", describe(error))
}

#[cfg(test)]
mod tests;
