//! The rules for subjects: words separated by dots, where a word `*` stands for any one word and a last word `>` for one
//! or more.

/// The longest subject, queue group or inbox that we send, in bytes. Two of them and the sizes fit into one control line
/// of nats-server, which ends the connection when a line is longer than 4096 bytes (its `max_control_line`).
pub const MAX_SUBJECT: usize = 1024;

/// Whether a message may be published to `subject`: no empty words, no white space or control characters, no wildcards.
pub fn valid_subject(subject: &str) -> bool {
    may_leave(subject) && is_literal(subject.as_bytes())
}

/// Whether `pattern` may be subscribed to: like a subject, and words may be wildcards.
pub fn valid_pattern(pattern: &str) -> bool {
    may_leave(pattern) && is_pattern(pattern.as_bytes())
}

/// What would end a word or a line early, or makes the line too long, never leaves.
fn may_leave(subject: &str) -> bool {
    subject.len() <= MAX_SUBJECT && !subject.bytes().any(|byte| byte <= b' ' || byte == 0x7f)
}

/// The words of a subject.
pub fn words(subject: &[u8]) -> impl Iterator<Item = &[u8]> {
    subject.split(|byte| *byte == b'.')
}

/// Whether the words make a pattern: none is empty, and `>` is the last one if it occurs.
pub fn is_pattern(pattern: &[u8]) -> bool {
    let mut words = words(pattern).peekable();
    while let Some(word) = words.next() {
        if word.is_empty() || (word == b">" && words.peek().is_some()) {
            return false;
        }
    }
    true
}

/// Whether the words make a subject without wildcards.
pub fn is_literal(subject: &[u8]) -> bool {
    words(subject).all(|word| !matches!(word, b"" | b"*" | b">"))
}

/// Whether `token` can stand as one word of a subject whatever it came from: not empty, no dot, no wildcard character, no
/// white space or control characters.
pub fn valid_token(token: &str) -> bool {
    valid_subject(token) && !token.contains(['.', '*', '>'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_subjects_patterns_and_tokens_apart() {
        // (text, subject, pattern, token)
        let long = "x".repeat(MAX_SUBJECT + 1);
        let table = [
            ("a", true, true, true),
            ("a.b-c_D.$1", true, true, false),
            ("grüße", true, true, true),
            ("a*b.c>d", true, true, false),
            ("*", false, true, false),
            (">", false, true, false),
            ("a.*.c.>", false, true, false),
            ("a.>.c", false, false, false),
            ("", false, false, false),
            (".", false, false, false),
            ("a.", false, false, false),
            (".a", false, false, false),
            ("a..b", false, false, false),
            ("a b", false, false, false),
            ("a\tb", false, false, false),
            ("a\r\nPUB b 0", false, false, false),
            ("a\0", false, false, false),
            ("a\u{7f}", false, false, false),
            (&long, false, false, false),
        ];
        for (text, subject, pattern, token) in table {
            assert_eq!(
                (valid_subject(text), valid_pattern(text), valid_token(text)),
                (subject, pattern, token),
                "{text:?}"
            );
        }
    }
}
