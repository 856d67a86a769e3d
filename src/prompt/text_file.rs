//! Reading the text files of users and projects, which may be anything.

use super::boundary::Boundary;
use crate::files::open_regular;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// Most bytes of one file (256 KiB); what is larger was hardly written as instructions, and fills the model's context.
const MAX_FILE: usize = 256 * 1024;

/// How files with keys and certificates begin, whatever their names are. Instructions do not.
const ARMOUR: &str = "-----BEGIN ";

/// Whether a path leads to anything but a folder. What is no file is refused, with a word about it, when it is read.
pub(super) fn is_there(path: &Path) -> bool {
    path.metadata().is_ok_and(|metadata| !metadata.is_dir())
}

/// The text of a file that the model gets to see, which has to be inside the boundary: without its byte order mark; what is
/// not UTF-8 is replaced, what is too much is cut, with a note.
///
/// # Errors
/// As [`Boundary::open`], and a text if it is a key.
pub(super) fn read(path: &Path, boundary: &Boundary) -> io::Result<String> {
    let text = text(boundary.open(path)?)?;
    if text.trim_start().starts_with(ARMOUR) {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "it is a key or a certificate"));
    }
    Ok(text)
}

/// The text of a file that only the daemon itself reads, in the same way, wherever it is.
///
/// # Errors
/// As [`open_regular`].
pub(super) fn read_own(path: &Path) -> io::Result<String> {
    text(open_regular(path)?.0)
}

fn text(file: File) -> io::Result<String> {
    let mut bytes = Vec::new();
    file.take(MAX_FILE as u64 + 1).read_to_end(&mut bytes)?;
    let cut = bytes.len() > MAX_FILE;
    bytes.truncate(MAX_FILE);
    let text = String::from_utf8_lossy(&bytes);
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    if !cut {
        return Ok(text.to_owned());
    }
    // The cut may have gone through a character.
    let whole = text.trim_end_matches('\u{fffd}');
    Ok(format!("{whole}\n[The file goes on, but only its first {} KiB are read.]", MAX_FILE / 1024))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_files_are_read_all_the_same() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("f");
        let boundary = Boundary::of_repository(&dir.path().canonicalize().expect("it exists"));
        for (bytes, text) in [
            (&b"plain\r\n"[..], "plain\r\n"),
            ("\u{feff}with mark".as_bytes(), "with mark"),
            (b"caf\xe9", "caf\u{fffd}"),
            (b"", ""),
        ] {
            std::fs::write(&file, bytes).expect("it is written");
            assert_eq!(read(&file, &boundary).expect("it is read"), text);
            assert_eq!(read_own(&file).expect("it is read"), text);
        }
        std::fs::write(&file, "€".repeat(MAX_FILE)).expect("it is written");
        let text = read(&file, &boundary).expect("it is read");
        assert!(
            text.ends_with("€\n[The file goes on, but only its first 256 KiB are read.]"),
            "{}",
            &text[text.len() - 80..]
        );
        assert!(text.len() < MAX_FILE + 100);
        std::fs::write(&file, "\n-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA").expect("it is written");
        assert_eq!(read(&file, &boundary).expect_err("it must fail").to_string(), "it is a key or a certificate");
    }

    #[test]
    fn what_is_no_file_is_refused_at_once() {
        let dir = tempfile::tempdir().expect("a directory");
        let fifo = dir.path().join("fifo");
        rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, rustix::fs::Mode::from_raw_mode(0o600)).expect("a FIFO");
        for path in [fifo.as_path(), Path::new("/dev/zero"), dir.path(), &dir.path().join("none")] {
            assert!(read_own(path).is_err(), "{path:?}");
        }
    }
}
