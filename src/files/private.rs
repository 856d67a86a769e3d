//! Folders and files that only their owner can enter or read.

use super::open::{Links, open};
use std::fs::{DirBuilder, File, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;

/// The mode of private folders.
const FOLDER_MODE: u32 = 0o700;

/// Makes a folder (0700), and those above it that are missing. One that is there stays as it is.
///
/// # Errors
/// What the system says.
pub(crate) fn create_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(path)
}

/// Makes a folder (0700) that is not there yet.
///
/// # Errors
/// What the system says; `AlreadyExists` where something is there.
pub(crate) fn create_new_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().mode(FOLDER_MODE).create(path)
}

/// Takes a folder's rights from everybody but its owner.
///
/// # Errors
/// What the system says.
pub(crate) fn close_folder(path: &Path) -> io::Result<()> {
    std::fs::set_permissions(path, Permissions::from_mode(FOLDER_MODE))
}

/// Makes a file (0600) that is not there yet, for writing.
///
/// # Errors
/// What the system says; `AlreadyExists` where something is there.
pub(crate) fn create_new(path: &Path) -> io::Result<File> {
    open(path, File::options().write(true).create_new(true), Links::Refuse).map(|(file, _)| file)
}

/// Opens a file (0600) for reading and writing, which is made if it is not there.
///
/// # Errors
/// As [`open`]; a link is refused.
pub(crate) fn open_or_create(path: &Path) -> io::Result<File> {
    open(path, File::options().read(true).write(true).create(true).truncate(false), Links::Refuse).map(|(file, _)| file)
}

/// Replaces a file by one (0600) that `write` fills: readers see the old content or the new, never a part. The new file
/// is called as the old one with `.tmp` behind it until it is whole, so that what a crash leaves behind is found and used
/// again; there must be one writer only.
///
/// # Errors
/// What the system says, and those of `write`; the old content is then still there.
pub(crate) fn replace(path: &Path, write: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".tmp");
    let temporary = Path::new(&temporary);
    match std::fs::remove_file(temporary) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let written = create_new(temporary).and_then(|mut file| write(&mut file));
    let replaced = written.and_then(|()| std::fs::rename(temporary, path));
    if replaced.is_err() {
        let _ = std::fs::remove_file(temporary);
    }
    replaced
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn mode(path: &Path) -> u32 {
        path.metadata().expect("it exists").permissions().mode() & 0o7777
    }

    #[test]
    fn what_is_made_is_for_its_owner_only() {
        let home = tempfile::tempdir().expect("a folder");
        let path = |name: &str| home.path().join(name);
        create_folder(&path("a/b")).expect("they are made");
        create_folder(&path("a/b")).expect("it is there");
        assert_eq!((mode(&path("a")), mode(&path("a/b"))), (0o700, 0o700));
        assert_eq!(create_new_folder(&path("a/b")).expect_err("it is there").kind(), ErrorKind::AlreadyExists);
        create_new_folder(&path("a/c")).expect("it is made");
        assert!(create_new_folder(&path("x/y")).is_err(), "its parent is missing");
        std::fs::set_permissions(path("a"), Permissions::from_mode(0o755)).expect("it is opened");
        close_folder(&path("a")).expect("it is closed");
        assert_eq!((mode(&path("a")), mode(&path("a/c"))), (0o700, 0o700));

        create_new(&path("f")).expect("it is made").write_all(b"abc").expect("it is written");
        assert_eq!(create_new(&path("f")).expect_err("it is there").kind(), ErrorKind::AlreadyExists);
        open_or_create(&path("f")).expect("it is there").write_all(b"X").expect("it is written");
        assert_eq!(std::fs::read(path("f")).expect("it is read"), b"Xbc");
        open_or_create(&path("g")).expect("it is made");
        std::os::unix::fs::symlink("f", path("link")).expect("a link");
        assert!(open_or_create(&path("link")).is_err());
        assert_eq!((mode(&path("f")), mode(&path("g"))), (0o600, 0o600));
    }

    #[test]
    fn a_file_is_replaced_as_a_whole_or_not_at_all() {
        let home = tempfile::tempdir().expect("a folder");
        let path = home.path().join("f");
        std::fs::write(&path, "old").expect("it is written");
        let full = |file: &mut File| file.write_all(b"ne").and(Err(io::Error::from(ErrorKind::StorageFull)));
        assert_eq!(replace(&path, full).expect_err("the disk is full").kind(), ErrorKind::StorageFull);
        assert_eq!(std::fs::read(&path).expect("it is read"), b"old");
        std::os::unix::fs::symlink("/dev/full", home.path().join("f.tmp")).expect("a link");
        replace(&path, |file| file.write_all(b"new")).expect("what is in the way goes");
        assert_eq!((std::fs::read(&path).expect("it is read").as_slice(), mode(&path)), (&b"new"[..], 0o600));
        assert_eq!(home.path().read_dir().expect("it is listed").count(), 1, "nothing is left beside it");
    }
}
