//! The lock that PI takes before it writes `auth.json`: a folder beside the file, whose making either succeeds or not.
//! The holder touches it now and then; one that nobody has touched for long was left behind by a process that died.

use crate::cancel::Cancel;
use crate::threads::{self, Thread};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use std::convert::Infallible;
use std::ffi::OsString;
use std::fs::{DirBuilder, File};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

/// PI takes a lock for abandoned that was not touched for this long.
const STALE: Duration = Duration::from_secs(30);
/// Where PI cannot wait it is less patient, and takes 10 s for abandoned.
const TOUCH_EVERY: Duration = Duration::from_secs(3);
/// How long another holder is waited for, and the pauses between two attempts; as PI does it.
const DEADLINE: Duration = Duration::from_secs(30);
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// The lock while it is held; dropping it gives it back.
pub(super) struct Lock {
    // Dropped first: this makes the keeper give the lock back before its thread is joined.
    _held: Sender<Infallible>,
    _keeper: Thread,
}

impl Lock {
    /// Takes the lock of the file `target`, whose symbolic links have been followed. Waits for another holder.
    ///
    /// # Errors
    /// A text that names the lock: it cannot be made, is held for too long, or `cancel` came first.
    pub(super) fn acquire(target: &Path, cancel: &Cancel) -> Result<Lock, String> {
        let path = path_of(target);
        let failed = |e: io::Error| format!("cannot lock {}: {e}", target.display());
        let end = Instant::now() + DEADLINE;
        let mut pause = FIRST_PAUSE;
        loop {
            match DirBuilder::new().create(&path) {
                Ok(()) => return hold(path).map_err(failed),
                Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
                Err(e) => return Err(failed(e)),
            }
            if is_stale(&path, SystemTime::now()) && std::fs::remove_dir(&path).is_ok() {
                continue;
            }
            if pause == FIRST_PAUSE {
                log::debug!("waiting for the lock {}", path.display());
            }
            if Instant::now() >= end {
                return Err(format!("another process does not give back the lock {}", path.display()));
            }
            if cancel.sleep(pause.mul_f64(1.0 - fastrand::f64() / 2.0)) {
                return Err(format!("gave up waiting for the lock {}", path.display()));
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}

fn path_of(target: &Path) -> PathBuf {
    let mut path = OsString::from(target);
    path.push(".lock");
    PathBuf::from(path)
}

fn touched(path: &Path) -> io::Result<SystemTime> {
    std::fs::symlink_metadata(path)?.modified()
}

fn is_stale(path: &Path, now: SystemTime) -> bool {
    touched(path).is_ok_and(|then| now.duration_since(then).is_ok_and(|age| age > STALE))
}

/// Keeps the lock that was just made. Gives it back if that cannot be.
fn hold(path: PathBuf) -> io::Result<Lock> {
    let (held, released) = bounded(0);
    let own = path.clone();
    let keeper = touched(&path)
        .and_then(|stamp| threads::spawn("auth-lock", threads::SMALL_STACK, move || keep(&own, stamp, &released)));
    match keeper {
        Ok(keeper) => Ok(Lock { _held: held, _keeper: keeper }),
        Err(e) => {
            // It turns stale if this fails too.
            let _ = std::fs::remove_dir(&path);
            Err(e)
        }
    }
}

/// Touches the lock until it is released, then gives it back. A lock with another time than the one that was put there
/// has become somebody else's, as this process was stopped for too long.
fn keep(path: &Path, mut stamp: SystemTime, released: &Receiver<Infallible>) {
    loop {
        let over = released.recv_timeout(TOUCH_EVERY) != Err(RecvTimeoutError::Timeout);
        if !touched(path).is_ok_and(|now| now == stamp) {
            log::warn!("the lock {} was taken away by another process", path.display());
            return;
        }
        let done = if over {
            std::fs::remove_dir(path)
        } else {
            #[expect(clippy::disallowed_methods, reason = "a folder of our own, which opens at once")]
            let touch = || File::open(path)?.set_modified(SystemTime::now());
            // Read back, because file systems round.
            touch().and_then(|()| touched(path)).map(|now| stamp = now)
        };
        if let Err(e) = done {
            log::warn!("the lock {}: {e}", path.display());
        }
        if over {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    fn target() -> (tempfile::TempDir, PathBuf, PathBuf) {
        let dir = tempfile::tempdir().expect("a directory");
        let target = dir.path().join("auth.json");
        let lock = dir.path().join("auth.json.lock");
        (dir, target, lock)
    }

    #[test]
    fn one_holder_at_a_time() {
        let (_dir, target, path) = target();
        let lock = Lock::acquire(&target, &Cancel::new()).expect("nobody has it");
        assert!(path.is_dir());
        let (sender, receiver) = mpsc::channel();
        let other = std::thread::spawn(move || {
            let lock = Lock::acquire(&target, &Cancel::new());
            sender.send(lock.is_ok()).expect("the test waits");
        });
        assert!(receiver.recv_timeout(Duration::from_millis(50)).is_err(), "it has to wait");
        drop(lock);
        assert_eq!(receiver.recv_timeout(Duration::from_secs(20)), Ok(true));
        other.join().expect("no panic");
        assert!(!path.exists());
    }

    #[test]
    fn waiting_can_be_cancelled() {
        let (_dir, target, path) = target();
        std::fs::create_dir(&path).expect("it is made");
        let cancel = Cancel::new();
        cancel.cancel();
        let error = Lock::acquire(&target, &cancel).err().expect("another has it");
        assert!(error.contains("auth.json.lock"), "{error}");
        assert!(path.is_dir(), "it stays with its holder");
    }

    #[test]
    fn a_lock_of_a_dead_process_is_taken_over() {
        let (_dir, target, path) = target();
        std::fs::create_dir(&path).expect("it is made");
        let age = |age| File::open(&path).and_then(|f| f.set_modified(SystemTime::now() - age)).expect("it is set");
        age(STALE - Duration::from_secs(10));
        assert!(!is_stale(&path, SystemTime::now()));
        age(STALE + Duration::from_secs(1));
        drop(Lock::acquire(&target, &Cancel::new()).expect("it is stale"));
        assert!(!path.exists());
    }

    #[test]
    fn a_lock_that_became_anothers_is_left_alone() {
        let (_dir, target, path) = target();
        let lock = Lock::acquire(&target, &Cancel::new()).expect("nobody has it");
        let later = SystemTime::now() + Duration::from_secs(5);
        File::open(&path).and_then(|f| f.set_modified(later)).expect("it is set");
        drop(lock);
        assert!(path.is_dir());
    }

    #[test]
    fn a_place_for_no_lock_is_an_error() {
        let error = Lock::acquire(Path::new("/no/such/auth.json"), &Cancel::new()).err().expect("no folder");
        assert!(error.starts_with("cannot lock /no/such/auth.json: "), "{error}");
    }
}
