//! The folder for what tools and events put aside: removed with the daemon, or, where that was killed, by the next one.
//!
//! Whoever has such a folder holds its lock, which the kernel takes away with the process, whatever its number and wherever it
//! runs. A folder without one is therefore nobody's.

use rustix::fs::{FlockOperation, Mode, OFlags, flock, fstat};
use rustix::process::getuid;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use tempfile::TempDir;

const PREFIX: &str = "nats-pi-bridge-spill-";
/// Another daemon may take a new folder for one that is left over, before it is locked.
const ATTEMPTS: usize = 8;

pub(super) struct SpillRoot {
    folder: TempDir,
    _lock: OwnedFd,
}

impl SpillRoot {
    /// Makes a folder that only this user can enter.
    ///
    /// # Errors
    /// Those of the system.
    pub(super) fn make() -> io::Result<SpillRoot> {
        for _ in 0..ATTEMPTS {
            let mut builder = tempfile::Builder::new();
            let folder = builder.prefix(PREFIX).permissions(PermissionsExt::from_mode(0o700)).tempdir()?;
            if let Ok(lock) = lock_folder(folder.path())
                && folder
                    .path()
                    .symlink_metadata()
                    .is_ok_and(|found| fstat(&lock).is_ok_and(|ours| found.ino() == ours.st_ino))
            {
                return Ok(SpillRoot { folder, _lock: lock });
            }
        }
        Err(io::ErrorKind::ResourceBusy.into())
    }

    pub(super) fn path(&self) -> &Path {
        self.folder.path()
    }
}

/// Removes the folders of this user that a daemon left behind.
pub(super) fn sweep(temporary: &Path) {
    for entry in temporary.read_dir().into_iter().flatten().flatten() {
        if !entry.file_name().to_str().is_some_and(|name| name.starts_with(PREFIX)) {
            continue;
        }
        // Held until it is gone.
        let Ok(lock) = lock_folder(&entry.path()) else { continue };
        if fstat(&lock).is_ok_and(|folder| folder.st_uid == getuid().as_raw())
            && let Err(e) = std::fs::remove_dir_all(entry.path())
        {
            log::debug!("{} is left over and stays: {e}", entry.path().display());
        }
    }
}

/// Locks a folder that nobody has, if it is one and no link.
fn lock_folder(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let folder = rustix::fs::open(path, flags, Mode::empty())?;
    flock(&folder, FlockOperation::NonBlockingLockExclusive)?;
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn only_what_nobody_has_is_removed() {
        let dir = tempfile::tempdir().expect("a folder");
        let make = |name: &str| {
            let path = dir.path().join(name);
            std::fs::create_dir(&path).expect("a folder");
            std::fs::write(path.join("file"), "x").expect("a file");
            path
        };
        let left = make("nats-pi-bridge-spill-a");
        let used = make("nats-pi-bridge-spill-b");
        let other = make("something-else");
        let lock = lock_folder(&used).expect("it is locked");
        let (link, file) = (dir.path().join("nats-pi-bridge-spill-c"), dir.path().join("nats-pi-bridge-spill-d"));
        symlink(&other, &link).expect("a link");
        std::fs::write(&file, "x").expect("a file");
        sweep(dir.path());
        assert!(!left.exists());
        for path in [&used.join("file"), &other.join("file"), &link, &file] {
            assert!(path.exists(), "{}", path.display());
        }
        drop(lock);
        sweep(dir.path());
        assert!(!used.exists());
    }
}
