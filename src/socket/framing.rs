//! Lines out of a stream of bytes, and what must not be in one.

use std::borrow::Cow;

/// What a stream of bytes holds.
#[derive(Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// A line without its end; never blank.
    Line(&'a [u8]),
    /// The beginning of a line that is longer than allowed. It is told once, and what belongs to it is left out.
    TooLong(&'a [u8]),
}

/// Cuts what arrives into lines that end in LF or CRLF. Blank lines are left out.
pub struct Framer {
    /// The beginning of a line whose end has not come.
    held: Vec<u8>,
    /// The rest of the line is left out.
    skipping: bool,
    limit: usize,
}

/// What is kept allocated between lines, bytes. Requests are short; after a long one the memory goes back.
const KEPT: usize = 4096;

impl Framer {
    /// `limit`: the length of the longest line with its LF, bytes.
    pub fn new(limit: usize) -> Framer {
        Framer { held: Vec::new(), skipping: false, limit }
    }

    /// Takes the next bytes, and hands on every line that they complete.
    pub fn feed(&mut self, mut bytes: &[u8], mut each: impl FnMut(Frame<'_>)) {
        while let Some(end) = memchr::memchr(b'\n', bytes) {
            let (part, rest) = (&bytes[..end], &bytes[end + 1..]);
            if self.skipping {
                self.skipping = false;
            } else if self.held.len() + part.len() + 1 > self.limit {
                each(Frame::TooLong(self.beginning(part)));
            } else if self.held.is_empty() {
                line(part, &mut each);
            } else {
                self.held.extend_from_slice(part);
                line(&self.held, &mut each);
            }
            self.held.clear();
            self.held.shrink_to(KEPT);
            bytes = rest;
        }
        if self.skipping {
            return;
        }
        if self.held.len() + bytes.len() >= self.limit {
            self.skipping = true;
            each(Frame::TooLong(self.beginning(bytes)));
            self.held = Vec::new();
        } else {
            self.held.extend_from_slice(bytes);
        }
    }
}

impl Framer {
    /// The first bytes of a line of which `more` is what has come last; not many.
    fn beginning(&mut self, more: &[u8]) -> &[u8] {
        self.held.truncate(KEPT);
        self.held.extend_from_slice(&more[..more.len().min(KEPT - self.held.len())]);
        &self.held
    }
}

fn line(bytes: &[u8], each: &mut impl FnMut(Frame<'_>)) {
    let bytes = bytes.strip_suffix(b"\r").unwrap_or(bytes);
    if !bytes.trim_ascii().is_empty() {
        each(Frame::Line(bytes));
    }
}

/// JSON without U+2028 and U+2029, which JSON allows inside a text and many readers of lines take for the end of one: they
/// are escaped.
pub(crate) fn escape_separators(json: &str) -> Cow<'_, str> {
    // Both begin with these two bytes, which a text without them is searched for once.
    if memchr::memmem::find(json.as_bytes(), b"\xe2\x80").is_none() {
        return Cow::Borrowed(json);
    }
    match json.contains(['\u{2028}', '\u{2029}']) {
        true => Cow::Owned(json.replace('\u{2028}', "\\u2028").replace('\u{2029}', "\\u2029")),
        false => Cow::Borrowed(json),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: usize = 8;

    /// The frames of a stream that arrives in pieces of a size; `!` is a line that is too long.
    fn frames(stream: &str, piece: usize) -> Vec<String> {
        let mut framer = Framer::new(LIMIT);
        let mut found = Vec::new();
        for bytes in stream.as_bytes().chunks(piece) {
            framer.feed(bytes, |frame| {
                found.push(match frame {
                    Frame::Line(line) => String::from_utf8_lossy(line).into_owned(),
                    Frame::TooLong(beginning) => {
                        assert!(stream.contains(&*String::from_utf8_lossy(beginning)));
                        "!".to_string()
                    }
                });
            });
        }
        found
    }

    #[test]
    fn lines_are_the_same_however_they_arrive() {
        for (stream, expected) in [
            ("", &[][..]),
            ("half", &[]),
            ("a\nb\n", &["a", "b"]),
            ("a\r\nb\r\n", &["a", "b"]),
            ("a\rb\r\r\n", &["a\rb\r"]),
            ("\n\r\n \t\n  \r\na\n\n", &["a"]),
            (" a \n", &[" a "]),
            // With its LF a line may have just as many bytes as allowed.
            ("1234567\nb\n", &["1234567", "b"]),
            ("12345678\nb\n", &["!", "b"]),
            ("a\n123456789012345678901234567890\nb\n", &["a", "!", "b"]),
            ("123456789\n123456789\nb\n", &["!", "!", "b"]),
            ("12345678901234567890", &["!"]),
            // Many short lines are no long one.
            ("a\nb\nc\nd\ne\nf\ng\nh\n", &["a", "b", "c", "d", "e", "f", "g", "h"]),
            ("        \n", &["!"]),
        ] {
            for piece in 1..=stream.len().max(1) {
                assert_eq!(frames(stream, piece), expected, "{stream:?} in pieces of {piece}");
            }
        }
    }

    #[test]
    fn separators_are_escaped() {
        let json = "{\"a\":\"one\u{2028}two\u{2029}three\u{2019}\"}";
        assert_eq!(escape_separators(json), "{\"a\":\"one\\u2028two\\u2029three\u{2019}\"}");
        assert!(matches!(escape_separators("\u{2019}"), Cow::Borrowed(_)));
        assert!(matches!(escape_separators("plain"), Cow::Borrowed(_)));
    }

    #[test]
    fn a_long_line_leaves_no_memory_behind() {
        let mut framer = Framer::new(1 << 20);
        let mut lines = 0;
        for bytes in [&vec![b'x'; 1 << 19][..], b"\na\nb"] {
            framer.feed(bytes, |_| lines += 1);
        }
        assert_eq!(lines, 2);
        assert!(framer.held.capacity() <= KEPT);
        framer.feed(&vec![b'x'; 1 << 20], |_| lines += 1);
        assert_eq!((lines, framer.held.capacity()), (3, 0));
    }
}
