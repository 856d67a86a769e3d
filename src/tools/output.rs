//! What a program prints: a bounded tail of it for the model, all of it in a spill file when it is more than that.

use super::truncate::{self, MAX_BYTES, MAX_LINES, TruncatedBy, Truncation};
use crate::files::{describe, private, size};
use crate::ids;
use crate::quota::{Kind, SessionQuota};
use serde_json::{Map, Value};
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The tail is cut to [`TAIL_KEPT`] bytes when it exceeds this many (200 KiB); in between nothing has to be moved.
const TAIL_MAX: usize = 200 * 1024;
/// Twice what is shown (100 KiB), so that the cut never reaches the shown part.
const TAIL_KEPT: usize = 2 * MAX_BYTES;
/// Largest spill file in bytes (16 MiB), its closing note included.
const SPILL_MAX: u64 = 16 * 1024 * 1024;
const SPILL_NOTE: &str = "\n[The output went on, but no more of it is kept.]\n";

/// Collects the output of one program. Memory is bounded by the tail and by what precedes the spill file.
pub(super) struct Output {
    spill_dir: PathBuf,
    quota: Arc<SessionQuota>,
    /// Everything so far, as long as there is no spill file.
    unspilled: Vec<u8>,
    spill: Spill,
    /// The last bytes of a read, which may be the start of a character.
    pending: Vec<u8>,
    /// Decoded; its start is lost once it grows over [`TAIL_MAX`].
    tail: String,
    /// Bytes of decoded text.
    total_bytes: u64,
    newlines: u64,
    /// Bytes of decoded text since the last newline.
    last_line: u64,
    /// Bytes of decoded text between the last two newlines, for an output that ends with one.
    line_before: u64,
}

enum Spill {
    /// Everything can still be shown.
    NotNeeded,
    Open {
        file: File,
        path: PathBuf,
        written: u64,
    },
    /// As open, but a limit is reached, after so many bytes.
    Full(PathBuf, u64),
    /// Why there is no file.
    Failed(String),
}

/// What there is to show.
pub(super) struct Shown {
    pub text: String,
    /// `truncation` and `fullOutputPath`, if something is not shown.
    pub details: Option<Value>,
}

impl Output {
    /// A collector that puts its spill file, if one is needed, into `spill_dir`, as far as `quota` has room.
    pub(super) fn new(spill_dir: &Path, quota: &Arc<SessionQuota>) -> Output {
        Output {
            spill_dir: spill_dir.to_owned(),
            quota: quota.clone(),
            unspilled: Vec::new(),
            spill: Spill::NotNeeded,
            pending: Vec::new(),
            tail: String::new(),
            total_bytes: 0,
            newlines: 0,
            last_line: 0,
            line_before: 0,
        }
    }

    /// Takes what a read returned; characters may be cut between two reads.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.keep_raw(bytes);
        let joined;
        let bytes = if self.pending.is_empty() {
            bytes
        } else {
            joined = [std::mem::take(&mut self.pending).as_slice(), bytes].concat();
            &joined
        };
        for chunk in bytes.utf8_chunks() {
            self.push_text(chunk.valid());
            let invalid = chunk.invalid();
            if invalid.is_empty() {
                continue;
            }
            let at_the_end = bytes.as_ptr_range().end == invalid.as_ptr_range().end;
            if at_the_end && may_continue(invalid) {
                self.pending = invalid.to_vec();
            } else {
                self.push_text("\u{fffd}");
            }
        }
        if self.is_more_than_shown() {
            self.spill_now();
        }
    }

    /// Nothing more comes: a character that is still incomplete never will be complete.
    pub(super) fn finish(&mut self) {
        if !std::mem::take(&mut self.pending).is_empty() {
            self.push_text("\u{fffd}");
        }
        if self.is_more_than_shown() {
            self.spill_now();
        }
    }

    /// Takes what follows after the output was shown for the last time.
    pub(super) fn spill_only(&mut self, bytes: &[u8]) {
        self.tail = String::new();
        self.spill_now();
        self.write_spill(bytes);
    }

    fn push_text(&mut self, text: &str) {
        let bytes = text.as_bytes();
        match memchr::memrchr(b'\n', bytes) {
            None => self.last_line += bytes.len() as u64,
            Some(last) => {
                self.newlines += memchr::memchr_iter(b'\n', bytes).count() as u64;
                self.line_before = match memchr::memrchr(b'\n', &bytes[..last]) {
                    Some(before) => (last - before - 1) as u64,
                    None => self.last_line + last as u64,
                };
                self.last_line = (bytes.len() - last - 1) as u64;
            }
        }
        self.total_bytes += text.len() as u64;
        self.tail.push_str(text);
        if self.tail.len() > TAIL_MAX {
            let from = self.tail.ceil_char_boundary(self.tail.len() - TAIL_KEPT);
            self.tail.drain(..from);
        }
    }

    fn total_lines(&self) -> u64 {
        self.newlines + u64::from(self.last_line > 0)
    }

    fn is_more_than_shown(&self) -> bool {
        self.total_bytes > MAX_BYTES as u64 || self.total_lines() > MAX_LINES as u64
    }

    fn keep_raw(&mut self, bytes: &[u8]) {
        match &mut self.spill {
            Spill::NotNeeded => self.unspilled.extend_from_slice(bytes),
            Spill::Open { .. } => self.write_spill(bytes),
            Spill::Full(..) | Spill::Failed(_) => {}
        }
    }

    /// Begins the spill file, unless that was tried already, with everything that came before.
    fn spill_now(&mut self) {
        if !matches!(self.spill, Spill::NotNeeded) {
            return;
        }
        // A file in which there is room for nothing is not made.
        let note = SPILL_NOTE.len() as u64;
        self.spill = if self.quota.keep_up_to(Kind::Outputs, note) < note {
            Spill::Failed(self.quota.refusal(Kind::Outputs, note))
        } else {
            match create_spill(&self.spill_dir) {
                Ok((file, path)) => Spill::Open { file, path, written: 0 },
                Err(error) => Spill::Failed(describe(&error)),
            }
        };
        let before = std::mem::take(&mut self.unspilled);
        self.write_spill(&before);
    }

    fn write_spill(&mut self, bytes: &[u8]) {
        let Spill::Open { file, path, written } = &mut self.spill else {
            return;
        };
        let room = SPILL_MAX - SPILL_NOTE.len() as u64 - *written;
        let room = self.quota.keep_up_to(Kind::Outputs, room.min(bytes.len() as u64));
        let part = &bytes[..usize::try_from(room).map_or(bytes.len(), |room| room.min(bytes.len()))];
        let mut result = file.write_all(part);
        *written += part.len() as u64;
        if part.len() < bytes.len() {
            result = result.and_then(|()| file.write_all(SPILL_NOTE.as_bytes()));
            self.spill = Spill::Full(std::mem::take(path), *written + SPILL_NOTE.len() as u64);
        }
        if let Err(error) = result {
            self.spill = Spill::Failed(describe(&error));
        }
    }

    /// What a model gets to see of the output so far.
    pub(super) fn show(&self) -> Shown {
        let mut cut = truncate::tail(&self.tail);
        if !cut.truncated() {
            return Shown { text: cut.content, details: None };
        }
        // The tail is not everything; the numbers are those of everything.
        cut.total_lines = usize::try_from(self.total_lines()).unwrap_or(usize::MAX);
        cut.total_bytes = usize::try_from(self.total_bytes).unwrap_or(usize::MAX);
        let mut details = Map::new();
        details.insert("truncation".into(), cut.to_json());
        let kept = match &self.spill {
            Spill::Open { path, .. } | Spill::Full(path, _) => {
                details.insert("fullOutputPath".into(), path.to_string_lossy().into());
                let limit = match &self.spill {
                    Spill::Full(_, kept) => format!(" (its first {})", size(*kept)),
                    Spill::Open { .. } | Spill::NotNeeded | Spill::Failed(_) => String::new(),
                };
                format!("Full output: {}{limit}", path.display())
            }
            Spill::Failed(error) => format!("Full output could not be kept: {error}"),
            Spill::NotNeeded => "Full output is not kept".to_owned(),
        };
        let text = format!("{}\n\n[{}. {kept}]", cut.content, self.range(&cut));
        Shown { text, details: Some(details.into()) }
    }

    /// Which part of the output is shown.
    fn range(&self, cut: &Truncation) -> String {
        let total = cut.total_lines;
        if cut.last_line_partial {
            let whole = if self.last_line > 0 { self.last_line } else { self.line_before };
            return format!(
                "Showing last {} of line {total} (line is {})",
                size(cut.content.len() as u64),
                size(whole)
            );
        }
        let why = match cut.by {
            Some(TruncatedBy::Bytes) => format!(" ({} limit)", size(MAX_BYTES as u64)),
            _ => String::new(),
        };
        format!("Showing lines {}-{total} of {total}{why}", total + 1 - cut.output_lines)
    }
}

/// The bytes could be the start of a valid character.
fn may_continue(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_err_and(|error| error.error_len().is_none())
}

/// A new file that only its owner may read, since outputs can hold secrets.
fn create_spill(dir: &Path) -> io::Result<(File, PathBuf)> {
    private::create_folder(dir)?;
    let path = dir.join(format!("bash-{}.log", ids::hex16()));
    Ok((private::create_new(&path)?, path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quota::HostQuota;
    use std::os::unix::fs::PermissionsExt;

    struct Dir(tempfile::TempDir);

    impl Dir {
        fn new() -> Dir {
            Dir(tempfile::tempdir().expect("a directory"))
        }

        fn spill(&self) -> PathBuf {
            self.0.path().join("a/b")
        }

        fn files(&self) -> Vec<PathBuf> {
            let Ok(list) = self.spill().read_dir() else { return Vec::new() };
            list.map(|entry| entry.expect("it is listed").path()).collect()
        }
    }

    fn numbered(lines: usize) -> String {
        (1..=lines).map(|n| format!("{n}\n")).collect()
    }

    fn shown(dir: &Dir, bytes: &[u8]) -> Shown {
        let spill = dir.spill();
        let unlimited = HostQuota::new(0, 0).session();
        let mut output = Output::new(&spill, &unlimited);
        bytes.chunks(4099).for_each(|chunk| output.push(chunk));
        output.finish();
        output.show()
    }

    #[test]
    fn what_fits_is_shown_as_it_is_and_leaves_no_file() {
        let dir = Dir::new();
        for text in ["", "a\n", "  a\r\n\n", &numbered(2000), &"x".repeat(51_200)] {
            let shown = shown(&dir, text.as_bytes());
            assert_eq!((shown.text.as_str(), shown.details), (text, None));
        }
        assert!(dir.files().is_empty() && !dir.spill().exists());
    }

    #[test]
    fn too_many_lines_show_the_last_and_spill_all() {
        let dir = Dir::new();
        let text = numbered(2001);
        let shown = shown(&dir, text.as_bytes());
        let path = dir.files().pop().expect("a spill file");
        let notice = format!("\n2001\n\n[Showing lines 2-2001 of 2001. Full output: {}]", path.display());
        assert!(shown.text.starts_with("2\n3\n") && shown.text.ends_with(&notice), "{}", &shown.text[8000..]);
        assert_eq!(std::fs::read_to_string(&path).expect("it is read"), text);
        let details = shown.details.expect("details");
        assert_eq!(details["fullOutputPath"], path.to_str().expect("a plain path"));
        assert_eq!(details["truncation"]["totalLines"], 2001);
        let mode = |path: &Path| path.metadata().expect("it exists").permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(&dir.spill())), (0o600, 0o700));
        let name = path.file_name().and_then(|name| name.to_str()).expect("a plain name");
        let digits = name.strip_prefix("bash-").and_then(|name| name.strip_suffix(".log")).expect("the usual name");
        assert!(digits.len() == 16 && digits.bytes().all(|b| b.is_ascii_hexdigit()), "{name}");
    }

    #[test]
    fn too_many_bytes_show_the_last_lines() {
        let dir = Dir::new();
        let line = format!("{}\n", "y".repeat(99));
        let shown = shown(&dir, line.repeat(10_000).as_bytes());
        assert!(
            shown.text.contains("[Showing lines 9489-10000 of 10000 (50.0KB limit). Full output: "),
            "{}",
            &shown.text[51_000..]
        );
        assert_eq!(shown.text.split("\n\n[").next().map(str::len), Some(512 * 100 - 1));
        assert_eq!(shown.details.expect("details")["truncation"]["totalBytes"], 1_000_000);
    }

    #[test]
    fn a_single_line_over_the_limit_shows_its_end() {
        for newline in ["", "\n"] {
            let dir = Dir::new();
            let shown = shown(&dir, format!("first\n{}{newline}", "x".repeat(61_440)).as_bytes());
            let expected = "x\n\n[Showing last 50.0KB of line 2 (line is 60.0KB). Full output: ";
            assert!(shown.text.contains(expected), "{}", &shown.text[51_000..]);
            assert!(shown.text.starts_with(&"x".repeat(51_200)));
        }
    }

    #[test]
    fn characters_may_be_cut_anywhere() {
        let unlimited = HostQuota::new(0, 0).session();
        let text = "aé€😀\u{fffd}z\n";
        for size in 1..text.len() {
            let mut output = Output::new(Path::new("/nonexistent"), &unlimited);
            text.as_bytes().chunks(size).for_each(|chunk| output.push(chunk));
            output.finish();
            assert_eq!(output.show().text, text, "in pieces of {size}");
        }
        for (bytes, expected) in [
            (&b"a\xff\xfeb"[..], "a\u{fffd}\u{fffd}b"),
            (b"caf\xe9\n", "caf\u{fffd}\n"),
            (b"open \xe2\x82", "open \u{fffd}"),
            (b"nul\0\x1b[1m", "nul\0\x1b[1m"),
        ] {
            let mut output = Output::new(Path::new("/nonexistent"), &unlimited);
            bytes.iter().for_each(|byte| output.push(&[*byte]));
            output.finish();
            assert_eq!(output.show().text, expected);
            assert_eq!(expected, String::from_utf8_lossy(bytes), "as decoding it at once does it");
        }
    }

    #[test]
    fn memory_and_disk_stay_bounded() {
        let unlimited = HostQuota::new(0, 0).session();
        let dir = Dir::new();
        let spill = dir.spill();
        let mut output = Output::new(&spill, &unlimited);
        let chunk = format!("{}\n", "z".repeat(65_535)).into_bytes();
        for _ in 0..400 {
            output.push(&chunk);
            assert!(output.tail.capacity() + output.unspilled.capacity() < 700 * 1024);
        }
        output.finish();
        let path = dir.files().pop().expect("a spill file");
        let content = std::fs::read(&path).expect("it is read");
        assert_eq!(content.len() as u64, SPILL_MAX);
        assert!(content.ends_with(SPILL_NOTE.as_bytes()));
        let end = format!("(line is 64.0KB). Full output: {} (its first 16.0MB)]", path.display());
        let text = output.show().text;
        assert!(text.ends_with(&end), "{}", &text[51_000..]);
        assert_eq!(dir.files().len(), 1);
    }

    #[test]
    fn files_take_room_of_the_quota_as_far_as_there_is() {
        let dir = Dir::new();
        let (spill, quota) = (dir.spill(), HostQuota::new(100_000, 0).session());
        let show = || {
            let mut output = Output::new(&spill, &quota);
            "line\n".repeat(30_000).as_bytes().chunks(4099).for_each(|chunk| output.push(chunk));
            output.finish();
            output.show().text
        };
        let text = show();
        assert!(text.ends_with("(its first 97.7KB)]"), "{}", &text[text.len() - 200..]);
        let file = dir.files().pop().expect("a spill file");
        let content = std::fs::read(file).expect("it is read");
        assert!(content.len() == 100_000 && content.ends_with(SPILL_NOTE.as_bytes()), "{}", content.len());
        let text = show();
        assert!(text.contains("Full output could not be kept: the session's 97.7KB"), "{}", &text[text.len() - 200..]);
        assert_eq!(dir.files().len(), 1);
    }

    #[test]
    fn a_spill_file_that_cannot_be_made_is_told() {
        let unlimited = HostQuota::new(0, 0).session();
        let mut output = Output::new(Path::new("/proc/nowhere"), &unlimited);
        output.push(numbered(3000).as_bytes());
        output.push(numbered(10).as_bytes());
        let shown = output.show();
        assert!(
            shown.text.ends_with(
                "[Showing lines 1011-3010 of 3010. Full output could not be kept: ENOENT: no such file or directory]"
            ),
            "{}",
            &shown.text[8000..]
        );
        assert_eq!(shown.details.expect("details").get("fullOutputPath"), None);
    }
}
