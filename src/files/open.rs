//! Opening files that users name or that lie where others may write: what is there may be anything.

use super::size::size;
use rustix::fs::OFlags;
use rustix::io::Errno;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

/// Whether a path may be a symbolic link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Links {
    Follow,
    /// The path must be no link itself; its folders may be.
    Refuse,
}

/// Opens a regular file as `options` say; a file that they create is for its owner only (0600). Anything but a regular file
/// is refused at once, since reading it might wait for ever or never end. No other way to open a file by its path is
/// allowed; `.clippy.toml` sees to it.
///
/// # Errors
/// What the system says, or of kind `InvalidInput` with a text that names what is there instead of a file.
#[expect(clippy::disallowed_methods, reason = "the only door")]
pub(crate) fn open(path: &Path, options: &mut OpenOptions, links: Links) -> io::Result<(File, Metadata)> {
    // Without the first flag the mere opening of a FIFO waits for its other end; a terminal must not become ours.
    let mut flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    flags.set(OFlags::NOFOLLOW, links == Links::Refuse);
    let file = match options.mode(0o600).custom_flags(flags.bits().cast_signed()).open(path) {
        Err(error) if links == Links::Refuse && Errno::from_io_error(&error) == Some(Errno::LOOP) => {
            return Err(not_regular("a symbolic link"));
        }
        other => other?,
    };
    let metadata = file.metadata()?;
    refuse_special(&metadata)?;
    Ok((file, metadata))
}

/// Opens a regular file for reading; links are followed.
///
/// # Errors
/// As [`open`].
pub(crate) fn open_regular(path: &Path) -> io::Result<(File, Metadata)> {
    open(path, File::options().read(true), Links::Follow)
}

/// Reads a whole regular file of at most `limit` bytes.
///
/// # Errors
/// As [`open`], and a text of kind `FileTooLarge` where the file is larger.
pub(crate) fn read(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let (file, _) = open_regular(path)?;
    let mut content = Vec::new();
    // The size that the file claims is no promise: files of /proc claim none, and others grow.
    file.take(limit + 1).read_to_end(&mut content)?;
    if content.len() as u64 > limit {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("larger than {}", size(limit))));
    }
    Ok(content)
}

/// Reads a whole regular file of at most `limit` bytes as text.
///
/// # Errors
/// As [`read`], and of kind `InvalidData` where it is not UTF-8.
pub(crate) fn read_text(path: &Path, limit: u64) -> io::Result<String> {
    String::from_utf8(read(path, limit)?).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "not UTF-8"))
}

/// Refuses what is not a regular file.
pub(super) fn refuse_special(metadata: &Metadata) -> io::Result<()> {
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
    Err(not_regular(what))
}

fn not_regular(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("not a regular file but {what}"))
}

#[cfg(test)]
mod tests {
    use super::super::{check_writable, describe};
    use super::*;

    #[test]
    fn only_regular_files_are_opened() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = |name: &str| dir.path().join(name);
        rustix::fs::mkfifoat(rustix::fs::CWD, path("fifo"), rustix::fs::Mode::from_raw_mode(0o600)).expect("a FIFO");
        let _listener = std::os::unix::net::UnixListener::bind(path("socket")).expect("a socket");
        std::fs::write(path("file"), "x").expect("it is written");
        for (link, target) in [("link", "file"), ("to-fifo", "fifo"), ("to-device", "/dev/zero"), ("nowhere", "none")] {
            std::os::unix::fs::symlink(target, path(link)).expect("a link");
        }
        const FIFO: &str = "EINVAL: not a regular file but a named pipe";
        const DEVICE: &str = "EINVAL: not a regular file but a device";
        const LINK: &str = "EINVAL: not a regular file but a symbolic link";
        const NONE: &str = "ENOENT: no such file or directory";
        const NO_DEVICE: &str = "ENXIO: no such device or address";
        const FOLDER: &str = "EISDIR: is a directory";
        // What is there; how it is read with its links followed, and without; how it is opened for writing.
        for (name, followed, refused, written) in [
            (".", FOLDER, FOLDER, FOLDER),
            ("fifo", FIFO, FIFO, NO_DEVICE),
            ("/dev/zero", DEVICE, DEVICE, DEVICE),
            ("socket", NO_DEVICE, NO_DEVICE, NO_DEVICE),
            ("nowhere", NONE, LINK, LINK),
            ("to-fifo", FIFO, LINK, LINK),
            ("to-device", DEVICE, LINK, LINK),
            ("none", NONE, NONE, NONE),
            ("link", "", LINK, LINK),
            ("file", "", "", ""),
        ] {
            let path = path(name);
            let tried = |options: &mut OpenOptions, links| match open(&path, options, links) {
                Ok(_) => String::new(),
                Err(error) => describe(&error),
            };
            assert_eq!(tried(File::options().read(true), Links::Follow), followed, "{name}");
            assert_eq!(tried(File::options().read(true), Links::Refuse), refused, "{name}");
            assert_eq!(tried(File::options().write(true), Links::Refuse), written, "{name}");
            assert_eq!(check_writable(&path).is_ok(), ["none", "file"].contains(&name), "{name}");
        }
    }

    #[test]
    fn reading_stops_at_the_limit() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(&file, "12345").expect("it is written");
        assert_eq!(read(file.path(), 5).expect("it fits"), b"12345");
        let error = read(file.path(), 4).expect_err("it must fail");
        assert_eq!((error.kind(), error.to_string().as_str()), (io::ErrorKind::FileTooLarge, "larger than 4B"));
        assert!(!read(Path::new("/proc/self/status"), 1 << 20).expect("it is read").is_empty());
    }

    #[test]
    fn a_text_is_utf_8() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(&file, "ü").expect("it is written");
        assert_eq!(read_text(file.path(), 2).expect("it is read"), "ü");
        std::fs::write(&file, b"\xfc").expect("it is written");
        assert_eq!(read_text(file.path(), 2).expect_err("it must fail").kind(), io::ErrorKind::InvalidData);
    }
}
