//! One writer per file: calls that change the same file run one after the other, in the order they came, whichever
//! sessions they belong to. Sessions whose tools run in processes of their own keep to that by a lock on the file itself.

use crate::cancel::Cancel;
use crate::{files, sync};
use rustix::fs::FlockOperation;
use rustix::io::Errno;
use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Condvar, LazyLock, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// Who waits for a file, in order; the first one has it.
type Queues = HashMap<PathBuf, VecDeque<u64>>;

#[derive(Default)]
struct Locks {
    queues: Mutex<(Queues, u64)>,
    changed: Condvar,
}

static LOCKS: LazyLock<Locks> = LazyLock::new(Locks::default);

impl Locks {
    fn queues(&self) -> MutexGuard<'_, (Queues, u64)> {
        sync::lock(&self.queues)
    }
}

/// The right to change a file; ends when dropped.
#[derive(Debug)]
pub(super) struct FileLock {
    path: PathBuf,
    id: u64,
    /// Holds the lock that other processes see.
    file: Option<File>,
}

/// The longest wait for a lock of another process, which may be no tool of ours.
const OTHERS: Duration = Duration::from_secs(5);
/// Between two tries to get it.
const TRY_AGAIN: Duration = Duration::from_millis(2);

/// Waits for the right to change the file `path`, which must be a real path, as two links may lead to one file. `None` =
/// cancelled while waiting.
#[must_use]
pub(super) fn lock(path: &Path, cancel: &Cancel) -> Option<FileLock> {
    // Taking the mutex makes sure that a waiter is either before its check of the flag or really waiting.
    let _woken = cancel.on_cancel(|| {
        drop(LOCKS.queues());
        LOCKS.changed.notify_all();
    });
    let mut queues = LOCKS.queues();
    let id = queues.1;
    queues.1 += 1;
    queues.0.entry(path.to_owned()).or_default().push_back(id);
    let mut ticket = FileLock { path: path.to_owned(), id, file: None };
    while !cancel.is_cancelled() {
        if queues.0.get(path).and_then(VecDeque::front) == Some(&id) {
            drop(queues);
            ticket.file = lock_for_others(path, cancel);
            return (!cancel.is_cancelled()).then_some(ticket);
        }
        queues = sync::wait(&LOCKS.changed, queues);
    }
    // The ticket's drop takes the mutex itself.
    drop(queues);
    None
}

/// Locks the file that has this path, once other processes are done with it; `None` = there is none, or no way to lock it.
fn lock_for_others(path: &Path, cancel: &Cancel) -> Option<File> {
    let end = Instant::now() + OTHERS;
    while Instant::now() < end {
        let (file, metadata) = files::open(path, File::options().read(true), files::Links::Refuse).ok()?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            // Meanwhile another file may have taken its place.
            Ok(()) if path.metadata().is_ok_and(|now| now.ino() == metadata.ino() && now.dev() == metadata.dev()) => {
                return Some(file);
            }
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) if !cancel.sleep(TRY_AGAIN) => {}
            Err(_) => return None,
        }
    }
    None
}

impl Drop for FileLock {
    fn drop(&mut self) {
        self.file = None;
        let mut queues = LOCKS.queues();
        if let Some(queue) = queues.0.get_mut(&self.path) {
            queue.retain(|id| *id != self.id);
            if queue.is_empty() {
                queues.0.remove(&self.path);
            }
        }
        drop(queues);
        LOCKS.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiters(path: &Path) -> usize {
        LOCKS.queues().0.get(path).map_or(0, VecDeque::len)
    }

    fn until(condition: impl Fn() -> bool) {
        let end = Instant::now() + Duration::from_secs(30);
        while !condition() {
            assert!(Instant::now() < end, "it did not come about in time");
            std::thread::yield_now();
        }
    }

    #[test]
    fn one_file_is_changed_in_order_and_others_at_once() {
        let path = Path::new("/locks-test/order");
        let cancel = Cancel::new();
        let order = Mutex::new(Vec::new());
        let first = lock(path, &cancel).expect("it is free");
        let other = lock(Path::new("/locks-test/other"), &cancel);
        assert!(other.is_some(), "another file is not affected");
        std::thread::scope(|scope| {
            for n in 0..5 {
                let (order, cancel) = (&order, &cancel);
                scope.spawn(move || {
                    let _lock = lock(path, cancel).expect("it is granted");
                    order.lock().expect("no panic").push(n);
                });
                until(|| waiters(path) == n + 2);
            }
            drop(first);
        });
        assert_eq!(*order.lock().expect("no panic"), [0, 1, 2, 3, 4]);
        assert_eq!(waiters(path), 0, "nothing is kept for a free file");
    }

    #[test]
    fn waiting_ends_when_cancelled() {
        let path = Path::new("/locks-test/cancel");
        let held = lock(path, &Cancel::new()).expect("it is free");
        let cancel = Cancel::new();
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| lock(path, &cancel).is_none());
            until(|| waiters(path) == 2);
            cancel.cancel();
            assert!(waiter.join().expect("no panic"), "a cancelled waiter gets nothing");
        });
        assert_eq!(waiters(path), 1, "the waiter is gone from the queue");
        assert!(lock(path, &cancel).is_none(), "cancelled before waiting");
        drop(held);
        assert!(lock(path, &Cancel::new()).is_some());
    }
}
