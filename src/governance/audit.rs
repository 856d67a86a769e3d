//! The audit log: who was let in, what was decided, what was done, in files that cannot be changed unnoticed.
//!
//! Each line has the hash of the one before it. What an effect waits for is on the disk before it happens: whoever asks for
//! one hands over what is to be done then. One thread writes, so that nobody else waits for a disk.

mod chain;
mod files;
mod verify;

pub(crate) use chain::{Head, sha256};
pub(crate) use verify::{Seen, Verified, verify};

use crate::json::object;
use crate::threads::{self, Thread};
use chain::Record;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use files::LogFiles;
use serde_json::{Map, Value, json};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Sets of records that may wait for the disk.
const WAITING: usize = 4096;
/// As many of them are written at once.
const AT_ONCE: usize = 256;
/// How often the head is published without a cause.
const PUBLISHED_EVERY: Duration = Duration::from_secs(60);
/// How soon what could not be written is tried again.
const TRY_AGAIN: Duration = Duration::from_millis(500);
/// Records of what has happened that may be held back while the disk takes none; with more of them nothing is taken.
const HELD_BACK: usize = 16 * 1024;

/// Called once the records are on the disk, or with the reason why they are not; must not wait.
pub(crate) type Then = Box<dyn FnOnce(Result<(), String>) + Send>;
/// Tells the world of a head; must not wait.
pub(crate) type Publish = Box<dyn Fn(&Head) + Send>;

/// What the thread is told.
enum Entry {
    /// Written together; without `then` they are of what has happened already, and written as soon as that is possible.
    Records(Vec<Record>, Option<Then>),
    PublishHead,
}

/// The way into the log.
pub(crate) struct Audit {
    entries: Sender<Entry>,
    /// Records that were lost because there was no room for them, and are to be told of.
    lost: Arc<AtomicU64>,
    /// Ends when there is no sender any more.
    _thread: Thread,
}

impl Audit {
    /// Opens the log in this folder, or begins one, and starts the thread that writes it; `publish` is told its heads.
    ///
    /// # Errors
    /// There is no such folder to be had, or the log's end does not fit.
    pub(crate) fn start(folder: &Path, publish: Publish) -> io::Result<Audit> {
        let files = LogFiles::open(folder)?;
        let (entries, received) = bounded(WAITING);
        let lost = Arc::<AtomicU64>::default();
        let counter = lost.clone();
        let writer =
            Writer { files, publish, lost: counter, held: Vec::new(), published: Instant::now(), failing: false };
        let thread = threads::spawn("audit", threads::SMALL_STACK, move || writer.run(&received))?;
        Ok(Audit { entries, lost, _thread: thread })
    }

    /// Records what has happened. False if there is no room for it, so that nothing more must happen.
    pub(crate) fn record(&self, event: &'static str, facts: Map<String, Value>) -> bool {
        let taken = self.entries.try_send(Entry::Records(vec![Record::new(event, facts)], None)).is_ok();
        if !taken {
            self.lost.fetch_add(1, Relaxed);
        }
        taken
    }

    /// Records what is about to happen, which `then` lets happen.
    pub(crate) fn record_first(&self, records: Vec<(&'static str, Map<String, Value>)>, then: Then) {
        let records = records.into_iter().map(|(event, facts)| Record::new(event, facts)).collect();
        if let Err(refused) = self.entries.try_send(Entry::Records(records, Some(then)))
            && let Entry::Records(_, Some(then)) = refused.into_inner()
        {
            then(Err("too much waits to be written".to_owned()));
        }
    }

    /// Publishes the head of what was recorded so far.
    pub(crate) fn publish_head(&self) {
        // There is another one within a minute.
        let _ = self.entries.try_send(Entry::PublishHead);
    }

    /// Waits until everything so far is written, for `timeout` at most.
    pub(crate) fn flush(&self, timeout: Duration) {
        let (written, wait) = bounded(1);
        self.publish_head();
        self.record_first(Vec::new(), Box::new(move |_| written.try_send(()).unwrap_or_default()));
        let _ = wait.recv_timeout(timeout);
    }
}

/// What the thread owns.
struct Writer {
    files: LogFiles,
    publish: Publish,
    lost: Arc<AtomicU64>,
    /// What has happened and could not be written yet.
    held: Vec<Record>,
    published: Instant,
    failing: bool,
}

impl Writer {
    fn run(mut self, entries: &Receiver<Entry>) {
        loop {
            let wait = if self.held.is_empty() {
                (self.published + PUBLISHED_EVERY).saturating_duration_since(Instant::now())
            } else {
                TRY_AGAIN
            };
            if self.held.len() >= HELD_BACK {
                // Those who want to go on find no room.
                std::thread::sleep(TRY_AGAIN);
                self.write(Vec::new());
                continue;
            }
            match entries.recv_timeout(wait) {
                Ok(first) => self.write(std::iter::once(first).chain(entries.try_iter().take(AT_ONCE)).collect()),
                Err(RecvTimeoutError::Timeout) if self.held.is_empty() => self.publish(),
                Err(RecvTimeoutError::Timeout) => self.write(Vec::new()),
                Err(RecvTimeoutError::Disconnected) => {
                    self.write(Vec::new());
                    return self.publish();
                }
            }
        }
    }

    /// Writes what is held back, then these.
    fn write(&mut self, entries: Vec<Entry>) {
        let (mut records, mut done, mut publish) = (std::mem::take(&mut self.held), Vec::new(), false);
        let lost = self.lost.swap(0, Relaxed);
        if lost > 0 {
            records.push(Record::new("lost", object(json!({"records": lost}))));
        }
        // What may only happen once it is written has not happened where that fails, and is no record then.
        let mut wishes = Vec::new();
        for entry in entries {
            match entry {
                Entry::Records(more, None) => records.extend(more),
                Entry::Records(more, Some(then)) => {
                    wishes.push(records.len()..records.len() + more.len());
                    records.extend(more);
                    done.push(then);
                }
                Entry::PublishHead => publish = true,
            }
        }
        let written =
            self.files.append(&records).and_then(|()| if done.is_empty() { Ok(()) } else { self.files.sync() });
        match written {
            Ok(()) => {
                if std::mem::take(&mut self.failing) {
                    log::info!("the audit log can be written again");
                }
                if publish {
                    self.publish();
                }
                done.into_iter().for_each(|then| then(Ok(())));
            }
            Err(error) => {
                if !std::mem::replace(&mut self.failing, true) {
                    log::error!("the audit log cannot be written, so nothing is done that has to be in it: {error}");
                }
                let is_wish = |at: &usize| wishes.iter().any(|wish| wish.contains(at));
                let all = records.into_iter().enumerate();
                self.held = all.filter(|(at, _)| !is_wish(at)).map(|(_, record)| record).collect();
                done.into_iter().for_each(|then| then(Err(format!("the audit log cannot be written: {error}"))));
            }
        }
    }

    fn publish(&mut self) {
        self.published = Instant::now();
        // A head that is known elsewhere must not be lost with a power cut.
        if self.held.is_empty() && self.files.sync().is_ok() {
            (self.publish)(self.files.head());
        }
    }
}

#[cfg(test)]
mod tests;
