//! Patterns of rules, and texts of which a part is not known yet.

use super::shell::ANY;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    Is(char),
    /// Any one character but a slash.
    One,
    /// Any text without a slash.
    Part,
    /// Any text.
    Text,
}

/// A pattern.
#[derive(Clone, Debug)]
pub(crate) struct Pattern {
    tokens: Vec<Token>,
    /// The text that it begins with, by which most of what does not match is known.
    beginning: String,
}

impl From<Vec<Token>> for Pattern {
    fn from(tokens: Vec<Token>) -> Pattern {
        let beginning =
            tokens.iter().map_while(|token| if let Token::Is(c) = token { Some(*c) } else { None }).collect();
        Pattern { tokens, beginning }
    }
}

impl Pattern {
    /// In which `*` stands for any text.
    pub(crate) fn of_commands(text: &str) -> Pattern {
        // Commands have one blank between their words.
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        text.chars().map(|c| if c == '*' { Token::Text } else { Token::Is(c) }).collect::<Vec<_>>().into()
    }

    /// What a text with unknown parts may become.
    pub(super) fn becoming(text: &str) -> Pattern {
        text.chars().map(|c| if c == ANY { Token::Text } else { Token::Is(c) }).collect::<Vec<_>>().into()
    }

    /// In which `**` stands for any text, `*` and `?` for text and a character without a slash.
    pub(crate) fn of_paths(text: &str) -> Pattern {
        let mut tokens = Vec::new();
        let mut chars = text.chars().peekable();
        while let Some(c) = chars.next() {
            tokens.push(match c {
                '*' if chars.next_if_eq(&'*').is_some() => Token::Text,
                '*' => Token::Part,
                '?' => Token::One,
                c => Token::Is(c),
            });
        }
        tokens.into()
    }

    /// The text matches for some of what its unknown parts may become.
    pub(crate) fn may_match(&self, text: &str) -> bool {
        self.matches(text, false)
    }

    /// The text matches whatever its unknown parts become.
    pub(crate) fn surely_matches(&self, text: &str) -> bool {
        self.matches(text, true)
    }

    /// Goes through the text with all places of the pattern at once, which takes no more than their product.
    fn matches(&self, text: &str, surely: bool) -> bool {
        let known = text.find(ANY).map_or(text, |at| &text[..at]);
        if !known.starts_with(&self.beginning) && (known.len() == text.len() || !self.beginning.starts_with(known)) {
            return false;
        }
        let tokens = &self.tokens;
        let end = tokens.len();
        let mut here = vec![false; end + 1];
        let mut next = vec![false; end + 1];
        here[0] = true;
        for c in text.chars() {
            // What may be nothing is passed over.
            for at in 0..end {
                here[at + 1] |= here[at] && matches!(tokens[at], Token::Text | Token::Part);
            }
            if end > 0 && here[end - 1] && tokens[end - 1] == Token::Text {
                return true;
            }
            next.fill(false);
            let mut lives = false;
            for at in (0..=end).filter(|at| here[*at]) {
                if c == ANY && !surely {
                    // It may become whatever the rest of the pattern, or a part of it, wants.
                    next[at..].fill(true);
                    lives = true;
                    break;
                }
                let Some(token) = tokens.get(at) else { continue };
                let (stays, goes) = match token {
                    Token::Is(wanted) => (false, *wanted == c),
                    Token::One => (false, c != '/' && c != ANY),
                    Token::Part => (c != '/' && c != ANY, false),
                    Token::Text => (true, false),
                };
                next[at] |= stays;
                if goes {
                    next[at + 1] = true;
                }
                lives |= stays || goes;
            }
            if !lives {
                return false;
            }
            std::mem::swap(&mut here, &mut next);
        }
        for at in 0..end {
            here[at + 1] |= here[at] && matches!(tokens[at], Token::Text | Token::Part);
        }
        here[end]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_texts() {
        for (pattern, text, may, surely) in [
            ("git push*", "git push", true, true),
            ("git push*", "git push origin", true, true),
            ("git push*", "git pull", false, false),
            ("git push", "git push origin", false, false),
            ("*", "", true, true),
            ("", "", true, true),
            ("", "a", false, false),
            ("a*b*c", "axxbyyc", true, true),
            ("a*b*c", "axxbyy", false, false),
            ("git push*", "git \0", true, false),
            ("git push*", "git push \0", true, true),
            ("git push*", "git\0", true, false),
            ("git push*", "\0", true, false),
            ("git push*", "echo \0", false, false),
            ("git push", "\0git push", true, false),
            ("rm * -f", "rm \0x", false, false),
            ("rm * -f", "rm \0f", true, false),
            ("git push*", "git pu\0h", true, false),
        ] {
            let pattern = Pattern::of_commands(pattern);
            assert_eq!((pattern.may_match(text), pattern.surely_matches(text)), (may, surely), "{pattern:?} {text:?}");
        }
        for (pattern, path, expected) in [
            ("/etc/**", "/etc/ssh/key", true),
            ("/etc/*", "/etc/passwd", true),
            ("/etc/*", "/etc/ssh/key", false),
            ("/etc/**/key", "/etc/a/b/key", true),
            ("/a/?.rs", "/a/b.rs", true),
            ("/a/?.rs", "/a//.rs", false),
            ("/etc/**", "/etcetera", false),
        ] {
            assert_eq!(Pattern::of_paths(pattern).surely_matches(path), expected, "{pattern} {path}");
        }
    }
}
