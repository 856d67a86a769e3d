//! Reading the text files of users and projects, which may be anything.

use crate::files::open_regular;
use std::io::{self, Read};
use std::path::Path;

/// Most bytes of one file (256 KiB); what is larger was hardly written as instructions, and fills the model's context.
const MAX_FILE: usize = 256 * 1024;

/// A text file without its byte order mark; what is not UTF-8 is replaced, what is too much is cut, with a note.
///
/// # Errors
/// As [`open_regular`].
pub(super) fn read(path: &Path) -> io::Result<String> {
    let (file, _) = open_regular(path)?;
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
        for (bytes, text) in [
            (&b"plain\r\n"[..], "plain\r\n"),
            ("\u{feff}with mark".as_bytes(), "with mark"),
            (b"caf\xe9", "caf\u{fffd}"),
            (b"", ""),
        ] {
            std::fs::write(&file, bytes).expect("it is written");
            assert_eq!(read(&file).expect("it is read"), text);
        }
        std::fs::write(&file, "€".repeat(MAX_FILE)).expect("it is written");
        let text = read(&file).expect("it is read");
        assert!(
            text.ends_with("€\n[The file goes on, but only its first 256 KiB are read.]"),
            "{}",
            &text[text.len() - 80..]
        );
        assert!(text.len() < MAX_FILE + 100);
    }

    #[test]
    fn what_is_no_file_is_refused_at_once() {
        let dir = tempfile::tempdir().expect("a directory");
        let fifo = dir.path().join("fifo");
        rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, rustix::fs::Mode::from_raw_mode(0o600)).expect("a FIFO");
        for path in [fifo.as_path(), Path::new("/dev/zero"), dir.path(), &dir.path().join("none")] {
            assert!(read(path).is_err(), "{path:?}");
        }
    }
}
