//! Opening and replacing the files that tools work on, without ever waiting for a pipe or a device.

use super::truncate::size;
use std::fs::{File, Metadata, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// As many symbolic links as Linux itself follows before it gives up.
const MAX_LINKS: usize = 40;

/// The symbol of an error, such as `ENOENT`, for those that file operations meet; models know them.
pub fn error_code(error: &io::Error) -> String {
    use rustix::io::Errno;
    let Some(errno) = Errno::from_io_error(error) else {
        return "EINVAL".to_owned();
    };
    let known = [
        (Errno::NOENT, "ENOENT"),
        (Errno::ACCESS, "EACCES"),
        (Errno::PERM, "EPERM"),
        (Errno::ISDIR, "EISDIR"),
        (Errno::NOTDIR, "ENOTDIR"),
        (Errno::LOOP, "ELOOP"),
        (Errno::NAMETOOLONG, "ENAMETOOLONG"),
        (Errno::EXIST, "EEXIST"),
        (Errno::NOSPC, "ENOSPC"),
        (Errno::DQUOT, "EDQUOT"),
        (Errno::FBIG, "EFBIG"),
        (Errno::ROFS, "EROFS"),
        (Errno::BUSY, "EBUSY"),
        (Errno::TXTBSY, "ETXTBSY"),
        (Errno::MFILE, "EMFILE"),
        (Errno::NFILE, "ENFILE"),
        (Errno::NXIO, "ENXIO"),
        (Errno::AGAIN, "EAGAIN"),
        (Errno::IO, "EIO"),
        (Errno::INVAL, "EINVAL"),
    ];
    known
        .iter()
        .find(|(known, _)| *known == errno)
        .map_or_else(|| format!("errno {}", errno.raw_os_error()), |(_, name)| (*name).to_owned())
}

/// An error as tools tell it: `ENOENT: no such file or directory`.
pub fn describe(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut chars = text.chars();
    let first = chars.next().map(|c| c.to_ascii_lowercase());
    format!("{}: {}{}", error_code(error), first.map(String::from).unwrap_or_default(), chars.as_str())
}

/// Opens a regular file for reading. Anything else is refused, since reading it might wait for ever or never end.
///
/// # Errors
/// What the system says, or of kind `InvalidInput` with a text that names what is there instead of a file.
pub fn open_regular(path: &Path) -> io::Result<(File, Metadata)> {
    // Without the flag the mere opening of a FIFO waits for a writer.
    let flags = rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::NOCTTY;
    let file = File::options().read(true).custom_flags(flags.bits().cast_signed()).open(path)?;
    let metadata = file.metadata()?;
    refuse_special(&metadata)?;
    Ok((file, metadata))
}

/// Refuses what is not a regular file.
fn refuse_special(metadata: &Metadata) -> io::Result<()> {
    let kind = metadata.file_type();
    let what = if kind.is_file() {
        return Ok(());
    } else if kind.is_dir() {
        return Err(io::Error::from_raw_os_error(rustix::io::Errno::ISDIR.raw_os_error()));
    } else if kind.is_fifo() {
        "a named pipe"
    } else if kind.is_symlink() {
        "a symbolic link that leads nowhere"
    } else if kind.is_socket() {
        "a socket"
    } else {
        "a device"
    };
    Err(io::Error::new(io::ErrorKind::InvalidInput, format!("not a regular file but {what}")))
}

/// Reads a whole regular file of at most `limit` bytes.
///
/// # Errors
/// As [`open_regular`], and a text of kind `FileTooLarge` where the file is larger.
pub fn read_regular(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let (file, _) = open_regular(path)?;
    let mut content = Vec::new();
    // The size that the file claims is no promise: files of /proc claim none, and others grow.
    file.take(limit + 1).read_to_end(&mut content)?;
    if content.len() as u64 > limit {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("larger than {}", size(limit))));
    }
    Ok(content)
}

/// The file that a path stands for once all symbolic links are followed, whether or not it exists yet.
pub fn real_path(path: &Path) -> PathBuf {
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
/// As the system says, or as [`open_regular`] for what is no file.
pub fn check_writable(target: &Path) -> io::Result<Option<Metadata>> {
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
/// part. Mode and owner of a replaced file are kept; a new one gets mode 0666 less the umask, as any editor does it.
///
/// # Errors
/// As [`check_writable`], and what the system says while writing; the old content is then still there.
pub fn replace(target: &Path, content: &[u8]) -> io::Result<()> {
    let old = check_writable(target)?;
    match replace_by_rename(target, content, old.as_ref()) {
        // A folder that takes no new file, or a file that is a mount point, as containers have: the file itself may
        // still take new content, though not all at once.
        Err(error) if old.is_some() && cannot_rename(&error) => write_in_place(target, content),
        result => result,
    }
}

fn cannot_rename(error: &io::Error) -> bool {
    use rustix::io::Errno;
    matches!(Errno::from_io_error(error), Some(Errno::ACCESS | Errno::PERM | Errno::BUSY | Errno::ROFS))
}

fn replace_by_rename(target: &Path, content: &[u8], old: Option<&Metadata>) -> io::Result<()> {
    let folder = target.parent().unwrap_or(Path::new("/"));
    // Created private where it replaces a file that may be private; the final mode follows before the rename.
    let mode = if old.is_some() { 0o600 } else { 0o666 };
    let mut file =
        tempfile::Builder::new().prefix(".tmp-").permissions(Permissions::from_mode(mode)).tempfile_in(folder)?;
    file.write_all(content)?;
    if let Some(old) = old {
        let new = file.as_file().metadata()?;
        if (new.uid(), new.gid()) != (old.uid(), old.gid()) {
            // Only root may give files away; for others the new owner is who wrote last, as with most editors.
            let _ = std::os::unix::fs::fchown(file.as_file(), Some(old.uid()), Some(old.gid()));
        }
        file.as_file().set_permissions(old.permissions())?;
    }
    file.persist(target).map_err(|failed| failed.error)?;
    Ok(())
}

fn write_in_place(target: &Path, content: &[u8]) -> io::Result<()> {
    let flags = rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::NOCTTY | rustix::fs::OFlags::NOFOLLOW;
    let mut file = File::options().write(true).custom_flags(flags.bits().cast_signed()).open(target)?;
    refuse_special(&file.metadata()?)?;
    file.set_len(0)?;
    file.write_all(content)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn dir() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().canonicalize().expect("it exists");
        (dir, path)
    }

    fn mode(path: &Path) -> u32 {
        path.metadata().expect("it exists").permissions().mode() & 0o7777
    }

    #[test]
    fn errors_are_named_by_their_symbol() {
        let error = File::open("/nonexistent/x").expect_err("it must fail");
        assert_eq!(describe(&error), "ENOENT: no such file or directory");
        let error = File::open("a\0b").expect_err("it must fail");
        assert!(describe(&error).starts_with("EINVAL: "), "{}", describe(&error));
        assert_eq!(error_code(&io::Error::from_raw_os_error(71)), "errno 71");
    }

    #[test]
    fn only_regular_files_are_opened() {
        let (_dir, path) = dir();
        let fifo = path.join("fifo");
        rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, rustix::fs::Mode::from_raw_mode(0o600)).expect("a FIFO");
        let socket = path.join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).expect("a socket");
        for (path, text) in [
            (path.as_path(), "EISDIR: is a directory"),
            (fifo.as_path(), "EINVAL: not a regular file but a named pipe"),
            (Path::new("/dev/zero"), "EINVAL: not a regular file but a device"),
            (socket.as_path(), "ENXIO: no such device or address"),
        ] {
            assert_eq!(describe(&open_regular(path).expect_err("it must fail")), text);
            assert!(check_writable(path).is_err(), "{path:?} must not be writable");
        }
    }

    #[test]
    fn reading_stops_at_the_limit() {
        let (_dir, path) = dir();
        let file = path.join("f");
        std::fs::write(&file, "12345").expect("it is written");
        assert_eq!(read_regular(&file, 5).expect("it fits"), b"12345");
        assert_eq!(read_regular(&file, 4).expect_err("it must fail").kind(), io::ErrorKind::FileTooLarge);
        assert!(!read_regular(Path::new("/proc/self/status"), 1 << 20).expect("it is read").is_empty());
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
                let seen = read_regular(&file, 1 << 20).expect("it is read");
                assert!(contents.contains(&seen), "{} bytes, first {:?}", seen.len(), seen.first());
            }
        });
    }
}
