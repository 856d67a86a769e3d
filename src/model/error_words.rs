//! Small patterns for the words of error messages, in place of regular expressions, which a static binary pays for.
//!
//! `?` stands for one character or none, `#` for a number, `*` for a few words, `^` for the beginning.

/// How far apart the two sides of a `*` may be, in bytes.
const MAX_GAP: usize = 200;

/// Whether one of the patterns is in `text`, which has to be in lower case.
pub(super) fn matches_any(text: &str, patterns: &[&str]) -> bool {
    patterns.iter().any(|pattern| matches(text, pattern))
}

/// Whether the pattern is somewhere in `text`, or at its beginning if the pattern begins with `^`.
fn matches(text: &str, pattern: &str) -> bool {
    let text = text.as_bytes();
    match pattern.strip_prefix('^') {
        Some(pattern) => matches_here(text, pattern.as_bytes()),
        None => (0..text.len()).any(|at| matches_here(&text[at..], pattern.as_bytes())),
    }
}

fn matches_here(text: &[u8], pattern: &[u8]) -> bool {
    let Some((&symbol, pattern)) = pattern.split_first() else { return true };
    match symbol {
        b'?' => matches_here(text, pattern) || !text.is_empty() && matches_here(&text[1..], pattern),
        b'#' => {
            let length = text.iter().take_while(|b| b.is_ascii_digit() || matches!(b, b',' | b'.' | b'_')).count();
            text.first().is_some_and(u8::is_ascii_digit)
                && (1..=length).rev().any(|n| matches_here(&text[n..], pattern))
        }
        b'*' => (0..=text.len().min(MAX_GAP)).any(|n| matches_here(&text[n..], pattern)),
        symbol => text.first() == Some(&symbol) && matches_here(&text[1..], pattern),
    }
}
