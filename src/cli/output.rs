//! Standard output.

use super::failure::Failure;
use crate::socket::escape_separators;
use serde_json::Value;
use std::borrow::Cow;
use std::io::{self, IsTerminal, Write};

/// Writes text and sees to it that it is out.
///
/// # Errors
/// [`Failure::OutputClosed`] if nobody reads it any more.
pub(super) fn print(text: &str) -> Result<(), Failure> {
    print_bytes(text.as_bytes())
}

/// Like [`print()`], for bytes.
///
/// # Errors
/// As [`print()`].
pub(super) fn print_bytes(bytes: &[u8]) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).map_err(Failure::output)
}

/// Writes a document over several lines.
///
/// # Errors
/// As [`print()`].
pub(super) fn print_json(value: &Value) -> Result<(), Failure> {
    print(&escape_separators(&format!("{value:#}\n")))
}

/// Writes a piece of a model's answer. A terminal gets it without control characters, anything else as it is.
///
/// # Errors
/// As [`print()`].
pub(super) fn print_answer(text: &str) -> Result<(), Failure> {
    if io::stdout().is_terminal() { print(&printable(text)) } else { print(text) }
}

/// The text without what would make a terminal do more than show it: control characters become `?`, except for LF and
/// tabs; CR, which is half of a line end or would let text be written over, goes. A model's answer and a session's name can
/// hold anything.
pub(super) fn printable(text: &str) -> Cow<'_, str> {
    let harmless = |c: char| !c.is_control() || matches!(c, '\n' | '\t');
    if text.chars().all(harmless) {
        Cow::Borrowed(text)
    } else {
        Cow::Owned(text.chars().filter(|c| *c != '\r').map(|c| if harmless(c) { c } else { '?' }).collect())
    }
}

/// The first line of a text, at most so many characters, with a sign where something is missing.
pub(super) fn one_line(text: &str, limit: usize) -> String {
    let text = text.trim();
    let line = text.lines().next().unwrap_or_default().trim_end();
    let mut short: String = printable(line).replace('\t', " ").chars().take(limit).collect();
    if short.chars().count() < line.chars().count() || line.len() < text.len() {
        short.push_str("...");
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_is_not_commanded() {
        assert_eq!(printable("a\tb\nc é"), "a\tb\nc é");
        assert_eq!(printable("\u{1b}[2J\u{9b}1m\r\u{7}"), "?[2J?1m?");
    }

    #[test]
    fn one_line_tells_that_there_is_more() {
        for (text, limit, line) in [
            ("short", 10, "short"),
            ("  one \n two", 10, "one..."),
            ("exactly10!", 10, "exactly10!"),
            ("ééé", 2, "éé..."),
            ("a\tb", 5, "a b"),
            ("", 5, ""),
        ] {
            assert_eq!(one_line(text, limit), line, "{text:?}");
        }
    }
}
