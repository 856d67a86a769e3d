//! Takes a session's secrets out of what its tools return, whatever simple form programs print them in: as they are, as URLs
//! and JSON texts write them, in base64, also as a part of something longer.

use super::tool::ToolOutput;
use crate::transcript::Block;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::Value;

/// Shorter values, in bytes, cannot be told from ordinary text.
pub(crate) const MIN_SECRET: usize = 4;
/// Of a secret with several lines, such as a key in a file, each line that is at least this long is a secret, too.
const MIN_LINE: usize = 8;

/// What is to be taken out, with the words that take its place.
pub(crate) struct Redaction {
    patterns: Vec<Pattern>,
}

struct Pattern {
    bytes: Vec<u8>,
    form: Form,
    /// `[secret NAME]`.
    replacement: String,
}

#[derive(Clone, Copy, PartialEq)]
enum Form {
    /// Each byte as it is, or escaped as in URLs or JSON texts.
    Text,
    /// Base64 of either alphabet, which line breaks may interrupt.
    Base64,
}

/// How a pattern compares to what is at one place of a text.
#[derive(Debug, PartialEq)]
enum Found {
    /// It is there, and this long.
    Whole(usize),
    /// The text ends in the middle of it.
    Begun,
    Nothing,
}

impl Redaction {
    /// From names and values.
    pub(crate) fn new<'s>(secrets: impl IntoIterator<Item = (&'s str, &'s str)>) -> Redaction {
        let mut patterns = Vec::new();
        for (name, value) in secrets {
            let replacement = format!("[secret {name}]");
            let lines = value.lines().map(str::trim);
            let lines = lines.filter(|line| line.len() >= MIN_LINE && !line.starts_with("-----"));
            for bytes in std::iter::once(value.trim_end_matches(['\n', '\r'])).chain(lines).map(str::as_bytes) {
                let replacement = replacement.clone();
                patterns.push(Pattern { bytes: bytes.to_vec(), form: Form::Text, replacement });
            }
            for offset in 0..3 {
                let (bytes, replacement) = (base64_core(value.trim_end().as_bytes(), offset), replacement.clone());
                patterns.push(Pattern { bytes, form: Form::Base64, replacement });
            }
        }
        patterns.retain(|pattern| pattern.bytes.len() >= MIN_SECRET);
        Redaction { patterns }
    }

    /// A result without the secrets. Of an intermediate one, `partial`, the end is left out where it may be the beginning of
    /// a secret, since the next one shows it.
    pub(crate) fn output(&self, mut output: ToolOutput, partial: bool) -> ToolOutput {
        if self.patterns.is_empty() {
            return output;
        }
        for block in &mut output.content {
            if let Block::Text { text, .. } = block
                && let Some(clean) = self.text(text, partial)
            {
                *text = clean;
            }
        }
        if let Some(details) = &mut output.details {
            self.value(details);
        }
        output
    }

    fn value(&self, value: &mut Value) {
        match value {
            Value::String(text) => {
                if let Some(clean) = self.text(text, false) {
                    *text = clean;
                }
            }
            Value::Array(list) => list.iter_mut().for_each(|value| self.value(value)),
            Value::Object(fields) => fields.values_mut().for_each(|value| self.value(value)),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    /// The text without secrets; `None` = there are none in it.
    fn text(&self, text: &str, partial: bool) -> Option<String> {
        let bytes = text.as_bytes();
        let (mut clean, mut kept, mut at) = (String::new(), 0, 0);
        while at < bytes.len() {
            let mut longest: Option<(usize, &Pattern)> = None;
            let mut begun = false;
            for pattern in &self.patterns {
                match pattern.at(bytes, at) {
                    Found::Whole(length) if longest.is_none_or(|(other, _)| other < length) => {
                        longest = Some((length, pattern));
                    }
                    Found::Whole(_) | Found::Nothing => {}
                    Found::Begun => begun = true,
                }
            }
            if let Some((length, pattern)) = longest {
                clean.push_str(&String::from_utf8_lossy(&bytes[kept..at]));
                clean.push_str(&pattern.replacement);
                at += length;
                kept = at;
            } else if begun && partial {
                clean.push_str(&String::from_utf8_lossy(&bytes[kept..at]));
                return Some(clean);
            } else {
                at += 1;
            }
        }
        if kept == 0 {
            return None;
        }
        clean.push_str(&String::from_utf8_lossy(&bytes[kept..]));
        Some(clean)
    }
}

impl Pattern {
    fn at(&self, text: &[u8], start: usize) -> Found {
        let mut at = start;
        for byte in &self.bytes {
            if self.form == Form::Base64 && at > start {
                at += text[at..].iter().take_while(|byte| matches!(byte, b'\n' | b'\r')).count();
            }
            let rest = &text[at..];
            let length = match (rest, self.form) {
                ([], _) => return Found::Begun,
                (_, Form::Text) => written_as(*byte, rest),
                ([next, ..], Form::Base64) => usize::from(standard(*next) == *byte),
            };
            if length == 0 {
                return Found::Nothing;
            }
            at += length;
        }
        Found::Whole(at - start)
    }
}

/// How many bytes at the beginning of a text stand for `byte`: itself, or an escape of URLs or JSON texts; 0 = none do.
fn written_as(byte: u8, text: &[u8]) -> usize {
    let hex = |digits: &[u8]| std::str::from_utf8(digits).ok().and_then(|digits| u8::from_str_radix(digits, 16).ok());
    match text {
        [b'%', high, low, ..] if hex(&[*high, *low]) == Some(byte) => 3,
        [b'\\', b'u', b'0', b'0', high, low, ..] if hex(&[*high, *low]) == Some(byte) => 6,
        [b'\\', escaped, ..] if (*escaped, byte) == (b'n', b'\n') || (*escaped, byte) == (b't', b'\t') => 2,
        [b'\\', escaped @ (b'"' | b'\\' | b'/'), ..] if *escaped == byte => 2,
        [b'+', ..] if byte == b' ' => 1,
        [same, ..] if *same == byte => 1,
        _ => 0,
    }
}

/// A character of base64's alphabet for URLs as the usual one has it.
fn standard(byte: u8) -> u8 {
    match byte {
        b'-' => b'+',
        b'_' => b'/',
        other => other,
    }
}

/// The characters of base64 that only `value` decides where it stands `offset` bytes behind a multiple of three.
fn base64_core(value: &[u8], offset: usize) -> Vec<u8> {
    let text = BASE64.encode([&[0; 2][..offset], value].concat());
    // Six bits a character: the first ones are shared with what stands before, the last one with what follows.
    let (first, last) = ((offset * 8).div_ceil(6), (offset + value.len()) * 8 / 6);
    text.as_bytes().get(first..last).unwrap_or_default().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const VALUE: &str = "p@ss/w\u{f6}rd \"7\"+x";

    fn clean(text: &str) -> String {
        Redaction::new([("KEY", VALUE)]).text(text, false).unwrap_or_else(|| text.to_owned())
    }

    #[test]
    fn a_secret_is_found_in_all_its_forms() {
        let url = "p%40ss%2Fw%C3%B6rd%20%227%22%2Bx";
        let json = json!(VALUE).to_string();
        for form in
            [VALUE, url, &url.to_lowercase(), &url.replace("%20", "+").replace("%2F", "/"), json.trim_matches('"')]
        {
            assert_eq!(clean(&format!("a{form}b {form}")), "a[secret KEY]b [secret KEY]", "{form}");
        }
        for before in ["", "u", "u:", "use", "user:", "user: "] {
            for after in ["", "\n", "@h", "@ho", "@host"] {
                let text = BASE64.encode(format!("{before}{VALUE}{after}"));
                let wrapped = text.as_bytes().chunks(7).map(String::from_utf8_lossy).collect::<Vec<_>>().join("\n");
                for text in [&text, &wrapped, &text.replace('+', "-").replace('/', "_")] {
                    let clean = clean(text);
                    assert!(clean.contains("[secret KEY]") && clean.len() < 40, "{before}{after}: {clean}");
                }
            }
        }
        for other in ["", "p@ss", "p@ss/w\u{f6}rd", "p%40", "KEY"] {
            assert_eq!(clean(other), other);
        }
    }

    #[test]
    fn lines_of_a_secret_are_secrets() {
        let redaction = Redaction::new([("PEM", "-----BEGIN KEY-----\nabcdefgh1234\nshort\n-----END KEY-----\n")]);
        let found = |text| redaction.text(text, false);
        assert_eq!(found("x abcdefgh1234 short").as_deref(), Some("x [secret PEM] short"));
        assert_eq!(found("-----BEGIN KEY-----"), None);
        let whole = r#"{"key":"-----BEGIN KEY-----\nabcdefgh1234\nshort\n-----END KEY-----\n"}"#;
        assert_eq!(found(whole).as_deref(), Some(r#"{"key":"[secret PEM]\n"}"#));
    }

    #[test]
    fn results_are_cleaned_throughout() {
        let redaction = Redaction::new([("A", "s3cr"), ("B", "s3cret-long"), ("SHORT", "abc")]);
        let output = ToolOutput {
            content: vec![Block::text("s3cret-long s3cr abc")],
            details: Some(json!({"diff": ["+s3cret-long", 1, {"s3cr": "s3cr"}]})),
            is_error: true,
        };
        let clean = redaction.output(output, false);
        assert_eq!(clean.content, [Block::text("[secret B] [secret A] abc")]);
        assert_eq!(clean.details, Some(json!({"diff": ["+[secret B]", 1, {"s3cr": "[secret A]"}]})));
        let half = redaction.output(ToolOutput::text("x s3cret-lo"), false);
        assert_eq!(half.content, [Block::text("x [secret A]et-lo")], "the longest that is there");
        let half = redaction.output(ToolOutput::text("x s3c"), true);
        assert_eq!(half.content, [Block::text("x ")], "the next one shows what it is");
    }
}
