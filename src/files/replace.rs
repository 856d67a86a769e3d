//! Replacing files as a whole: readers see the old content or the new, never a part.

use super::open::{Links, open, refuse_special};
use rustix::fs::{FallocateFlags, Mode, OFlags, XattrFlags};
use rustix::io::Errno;
use std::fs::{File, Metadata};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;

/// Bytes of all names of a file's attributes, and of the value of one; Linux allows no more (64 KiB).
const MAX_ATTRIBUTES: usize = 64 * 1024;
/// As many symbolic links as Linux itself follows before it gives up.
const MAX_LINKS: usize = 40;

/// The file that a path stands for once all symbolic links are followed, whether or not it exists yet.
pub(crate) fn real_path(path: &Path) -> PathBuf {
    let mut path = path.to_owned();
    for _ in 0..MAX_LINKS {
        if let Ok(real) = path.canonicalize() {
            return real;
        }
        let real = match (path.parent().and_then(|parent| parent.canonicalize().ok()), path.file_name()) {
            (Some(parent), Some(name)) => parent.join(name),
            _ => return path,
        };
        // A link whose target is missing is followed by hand: the target is what gets created.
        match real.read_link() {
            Ok(target) => path = real.parent().unwrap_or(Path::new("/")).join(target),
            Err(_) => return real,
        }
    }
    path
}

/// Checks that `target` (a [`real_path`]) can be replaced or created. `None` = there is nothing yet.
///
/// # Errors
/// As the system says, or as [`open`] for what is no file.
pub(crate) fn check_writable(target: &Path) -> io::Result<Option<Metadata>> {
    let metadata = match target.symlink_metadata() {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    refuse_special(&metadata)?;
    // Replacing needs no right on the old file, but whoever made it read-only meant it.
    rustix::fs::access(target, rustix::fs::Access::WRITE_OK)?;
    Ok(Some(metadata))
}

/// Replaces or creates the file `target` (a [`real_path`]) as a whole: readers see the old content or the new, never a
/// part. Mode, owner, access lists and other attributes of a replaced file are kept; where another file could not have them,
/// or has other names that mean this one, it is the file itself that takes the new content. A new one gets mode 0666 less the
/// umask, as any editor does it.
///
/// # Errors
/// As [`check_writable`], and what the system says while writing; the old content is then still there.
pub(crate) fn replace(target: &Path, content: &[u8]) -> io::Result<()> {
    let Some(old) = check_writable(target)? else {
        return new_file(target, 0o666, content)?.persist(target).map(drop).map_err(|failed| failed.error);
    };
    // Other names would go on meaning the old content.
    if old.nlink() > 1 {
        return write_in_place(target, content);
    }
    match replace_by_rename(target, content, &old) {
        Ok(true) => Ok(()),
        Ok(false) => write_in_place(target, content),
        // A folder that takes no new file, or a file that is a mount point, as containers have: the file itself may
        // still take new content, though not all at once.
        Err(error) if cannot_rename(&error) => write_in_place(target, content),
        Err(error) => Err(error),
    }
}

fn cannot_rename(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::ACCESS | Errno::PERM | Errno::BUSY | Errno::ROFS))
}

/// `false` = nothing was done, since the new file cannot have all that the old one has.
fn replace_by_rename(target: &Path, content: &[u8], old: &Metadata) -> io::Result<bool> {
    // Created private, as the old one may be; the final mode follows before the rename.
    let file = new_file(target, 0o600, content)?;
    // The folder may give new files an access list that the old one does not have.
    let _ = rustix::fs::fremovexattr(file.as_file(), "system.posix_acl_access");
    keep_access(file.as_file(), old)?;
    let new = file.as_file().metadata()?;
    let same_owner = (new.uid(), new.gid()) == (old.uid(), old.gid());
    if !same_owner || !keep_attributes(file.as_file(), target)? {
        return Ok(false);
    }
    file.persist(target).map_err(|failed| failed.error)?;
    Ok(true)
}

/// A file beside `target` that is gone unless it gets its name.
fn new_file(target: &Path, mode: u32, content: &[u8]) -> io::Result<NamedTempFile> {
    let folder = target.parent().unwrap_or(Path::new("/"));
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    // Opened here, since the crate's own errors hide those of the system, by which others are told apart.
    let open = |path: &Path| Ok(File::from(rustix::fs::open(path, flags, Mode::from_raw_mode(mode))?));
    let mut file = tempfile::Builder::new().prefix(".tmp-").make_in(folder, open)?;
    file.write_all(content)?;
    Ok(file)
}

/// Gives a file the extended attributes of another, access lists included. `false` = it cannot have all of them.
fn keep_attributes(new: &File, old: &Path) -> io::Result<bool> {
    let mut names = vec![0; MAX_ATTRIBUTES];
    let length = match rustix::fs::llistxattr(old, &mut names) {
        Ok(length) => length,
        Err(Errno::NOTSUP) => return Ok(true),
        Err(error) => return Err(error.into()),
    };
    let mut value = vec![0; MAX_ATTRIBUTES];
    for name in names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let length = rustix::fs::lgetxattr(old, name, &mut value)?;
        let set = rustix::fs::fsetxattr(new, name, &value[..length], XattrFlags::empty());
        // What the system itself gives to every new file, such as a label, may be there already.
        if set.is_err() && !has_attribute(new, name, &value[..length]) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn has_attribute(file: &File, name: &[u8], value: &[u8]) -> bool {
    let mut found = vec![0; MAX_ATTRIBUTES];
    rustix::fs::fgetxattr(file, name, &mut found).is_ok_and(|length| found[..length] == *value)
}

/// Gives a file that is to replace another the owner and the mode of that one.
///
/// # Errors
/// What the system says.
pub(crate) fn keep_access(new: &File, old: &Metadata) -> io::Result<()> {
    let own = new.metadata()?;
    if (own.uid(), own.gid()) != (old.uid(), old.gid()) {
        // Only root may give files away; for others the new owner is who wrote last, as with most editors.
        let _ = std::os::unix::fs::fchown(new, Some(old.uid()), Some(old.gid()));
    }
    new.set_permissions(old.permissions())
}

/// Waits until the names in a folder are on the disk: a file that was renamed is known to it only then.
///
/// # Errors
/// What the system says.
#[expect(clippy::disallowed_methods, reason = "a folder, which opens at once")]
pub(crate) fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

fn write_in_place(target: &Path, content: &[u8]) -> io::Result<()> {
    let (mut file, _) = open(target, File::options().write(true), Links::Refuse)?;
    let length = content.len() as u64;
    // Room first, so that a full disk does not cost the old content. Not every file system can promise it.
    let room = rustix::fs::fallocate(&file, FallocateFlags::KEEP_SIZE, 0, length.max(1));
    if let Err(error @ (Errno::NOSPC | Errno::DQUOT | Errno::FBIG)) = room {
        return Err(error.into());
    }
    file.write_all(content)?;
    file.set_len(length)
}

#[cfg(test)]
mod tests {
    use super::super::open::read;
    use super::*;
    use std::fs::Permissions;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn dir() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().canonicalize().expect("it exists");
        (dir, path)
    }

    fn mode(path: &Path) -> u32 {
        path.metadata().expect("it exists").permissions().mode() & 0o7777
    }

    #[test]
    fn links_are_followed_even_to_what_is_missing() {
        let (_dir, path) = dir();
        std::fs::create_dir(path.join("d")).expect("a directory");
        symlink("d/missing", path.join("link")).expect("a link");
        symlink("link", path.join("link2")).expect("a link");
        symlink("loop", path.join("loop")).expect("a link");
        assert_eq!(real_path(&path.join("link2")), path.join("d/missing"));
        assert_eq!(real_path(&path.join("new")), path.join("new"));
        assert_eq!(real_path(&path.join("loop")), path.join("loop"));
        assert_eq!(real_path(Path::new("/nonexistent/a/b")), Path::new("/nonexistent/a/b"));
    }

    #[test]
    fn replacing_keeps_the_mode_and_leaves_nothing_behind() {
        let (_dir, path) = dir();
        let file = path.join("run.sh");
        std::fs::write(&file, "old").expect("it is written");
        std::fs::set_permissions(&file, Permissions::from_mode(0o751)).expect("it is set");
        replace(&file, b"new").expect("it is replaced");
        assert_eq!((std::fs::read(&file).expect("it is there").as_slice(), mode(&file)), (&b"new"[..], 0o751));

        std::fs::write(path.join("by-std"), "").expect("it is written");
        replace(&path.join("by-us"), b"").expect("it is created");
        assert_eq!(mode(&path.join("by-us")), mode(&path.join("by-std")), "the umask applies as to any new file");
        assert_eq!(path.read_dir().expect("it is listed").count(), 3);
    }

    #[test]
    fn other_names_and_attributes_stay() {
        let (_dir, path) = dir();
        let (file, other) = (path.join("f"), path.join("g"));
        std::fs::write(&file, "old and longer").expect("it is written");
        std::fs::hard_link(&file, &other).expect("a link");
        replace(&file, b"new").expect("it is replaced");
        assert_eq!(std::fs::read(&other).expect("it is there"), b"new");
        std::fs::remove_file(&other).expect("it is removed");

        // u::rw, u:65534:rw, g::---, m::rw, o::---, as the kernel keeps it.
        let entry = |tag: u16, rights: u16, id: u32| {
            [&tag.to_le_bytes()[..], &rights.to_le_bytes(), &id.to_le_bytes()].concat()
        };
        let list = [
            2_u32.to_le_bytes().to_vec(),
            entry(1, 6, u32::MAX),
            entry(2, 6, 65_534),
            entry(4, 0, u32::MAX),
            entry(0x10, 6, u32::MAX),
            entry(0x20, 0, u32::MAX),
        ]
        .concat();
        let set = |name: &str, value: &[u8]| rustix::fs::setxattr(&file, name, value, XattrFlags::empty()).is_ok();
        let kept: Vec<(&str, &[u8])> = [("system.posix_acl_access", &*list), ("user.note", b"mine")]
            .into_iter()
            .filter(|(name, value)| set(name, value))
            .collect();
        let before = mode(&file);
        replace(&file, b"newer").expect("it is replaced");
        for (name, value) in kept {
            let mut found = vec![0; MAX_ATTRIBUTES];
            let length = rustix::fs::getxattr(&file, name, &mut found).expect("it is there");
            assert_eq!(&found[..length], value, "{name}");
        }
        assert_eq!((std::fs::read(&file).expect("it is there").as_slice(), mode(&file)), (&b"newer"[..], before));
    }

    #[test]
    fn a_reader_never_sees_a_part() {
        let (_dir, path) = dir();
        let file = path.join("f");
        let contents = [vec![b'a'; 300_000], vec![b'b'; 300_000]];
        replace(&file, &contents[0]).expect("it is created");
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for n in 0..100 {
                    replace(&file, &contents[n % 2]).expect("it is replaced");
                }
            });
            for _ in 0..100 {
                let seen = read(&file, 1 << 20).expect("it is read");
                assert!(contents.contains(&seen), "{} bytes, first {:?}", seen.len(), seen.first());
            }
        });
    }
}
