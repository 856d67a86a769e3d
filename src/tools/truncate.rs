//! Cutting text to what a model should have to read: whole lines from the start or from the end.

use serde_json::{Value, json};

/// Lines of one result; the limit that PI's tools have.
pub(super) const MAX_LINES: usize = 2000;
/// Bytes of one result (50 KiB); the limit that PI's tools have.
pub(super) const MAX_BYTES: usize = 51_200;

/// Which limit cut the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TruncatedBy {
    Lines,
    Bytes,
}

/// A text after cutting, with what it was before.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Truncation {
    /// What is left: the whole text, or its lines joined without a trailing newline.
    pub content: String,
    /// `None` = nothing was cut.
    pub by: Option<TruncatedBy>,
    pub total_lines: usize,
    pub total_bytes: usize,
    pub output_lines: usize,
    /// The content is only the end of one line, which alone exceeds the limit ([`tail`]).
    pub last_line_partial: bool,
    /// The content is empty, because the first line alone exceeds the limit ([`head`]).
    pub first_line_exceeds_limit: bool,
    /// The limit on lines that was applied, for `details`.
    pub max_lines: Option<usize>,
}

impl Truncation {
    pub(super) fn truncated(&self) -> bool {
        self.by.is_some()
    }

    /// The facts for a result's `details`, named as PI names them. The content is left out, because it is the result
    /// itself and would double what is stored and sent.
    pub(super) fn to_json(&self) -> Value {
        json!({
            "truncated": self.truncated(),
            "truncatedBy": match self.by {
                None => Value::Null,
                Some(TruncatedBy::Lines) => "lines".into(),
                Some(TruncatedBy::Bytes) => "bytes".into(),
            },
            "totalLines": self.total_lines,
            "totalBytes": self.total_bytes,
            "outputLines": self.output_lines,
            "outputBytes": self.content.len(),
            "lastLinePartial": self.last_line_partial,
            "firstLineExceedsLimit": self.first_line_exceeds_limit,
            "maxLines": self.max_lines,
            "maxBytes": MAX_BYTES,
        })
    }
}

/// The number of lines; a trailing newline begins no line.
pub(super) fn count_lines(text: &str) -> usize {
    memchr::memchr_iter(b'\n', text.as_bytes()).count() + usize::from(!text.is_empty() && !text.ends_with('\n'))
}

/// Keeps whole lines from the start, at most [`MAX_BYTES`] and, if given, `max_lines` of them.
pub(super) fn head(text: &str, max_lines: Option<usize>) -> Truncation {
    cut(text, max_lines, Lines::First)
}

/// Keeps whole lines from the end, at most [`MAX_LINES`] and [`MAX_BYTES`]. If the last line alone is larger, its end is
/// kept, from a character boundary on.
pub(super) fn tail(text: &str) -> Truncation {
    cut(text, Some(MAX_LINES), Lines::Last)
}

#[derive(Clone, Copy, PartialEq)]
enum Lines {
    First,
    Last,
}

fn cut(text: &str, max_lines: Option<usize>, keep: Lines) -> Truncation {
    let total_lines = count_lines(text);
    let mut result = Truncation {
        content: String::new(),
        by: None,
        total_lines,
        total_bytes: text.len(),
        output_lines: total_lines,
        last_line_partial: false,
        first_line_exceeds_limit: false,
        max_lines,
    };
    if text.len() <= MAX_BYTES && max_lines.is_none_or(|max| total_lines <= max) {
        result.content = text.to_owned();
        return result;
    }
    let body = text.strip_suffix('\n').unwrap_or(text);
    let mut kept = Kept { bytes: 0, lines: 0, by: TruncatedBy::Lines };
    match keep {
        Lines::First => kept.count(body.split('\n'), max_lines),
        Lines::Last => kept.count(body.rsplit('\n'), max_lines),
    }
    result.by = Some(kept.by);
    result.output_lines = kept.lines;
    result.content = match keep {
        Lines::First => body[..kept.bytes].to_owned(),
        Lines::Last => body[body.len() - kept.bytes..].to_owned(),
    };
    if kept.lines == 0 {
        match keep {
            Lines::First => result.first_line_exceeds_limit = true,
            Lines::Last => {
                result.content = body[body.ceil_char_boundary(body.len() - MAX_BYTES)..].to_owned();
                result.output_lines = 1;
                result.last_line_partial = true;
            }
        }
    }
    result
}

/// How much of a text fits into the limits.
struct Kept {
    /// Bytes of the lines and of the newlines between them.
    bytes: usize,
    lines: usize,
    by: TruncatedBy,
}

impl Kept {
    fn count<'a>(&mut self, lines: impl Iterator<Item = &'a str>, max_lines: Option<usize>) {
        for line in lines {
            if max_lines.is_some_and(|max| self.lines >= max) {
                self.by = TruncatedBy::Lines;
                return;
            }
            let bytes = self.bytes + line.len() + usize::from(self.lines > 0);
            if bytes > MAX_BYTES {
                self.by = TruncatedBy::Bytes;
                return;
            }
            self.bytes = bytes;
            self.lines += 1;
        }
        // Every line fits; only the trailing newline was one byte too many.
        self.by = TruncatedBy::Bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbered(lines: usize) -> String {
        (1..=lines).map(|n| format!("{n}\n")).collect()
    }

    #[test]
    fn lines_are_counted_without_the_one_after_a_trailing_newline() {
        for (text, lines) in [("", 0), ("a", 1), ("a\n", 1), ("\n", 1), ("a\n\n", 2), ("a\nb", 2), ("a\r\nb\r\n", 2)] {
            assert_eq!(count_lines(text), lines, "{text:?}");
        }
    }

    #[test]
    fn text_within_the_limits_is_untouched() {
        for text in [String::new(), "a\n".into(), numbered(2000), "x".repeat(51_200)] {
            for cut in [head(&text, Some(MAX_LINES)), tail(&text)] {
                assert_eq!((cut.content.as_str(), cut.truncated()), (text.as_str(), false));
            }
        }
    }

    #[test]
    fn too_many_lines_lose_the_far_end() {
        let text = numbered(2001);
        let cut = head(&text, Some(MAX_LINES));
        assert_eq!((cut.by, cut.total_lines, cut.output_lines), (Some(TruncatedBy::Lines), 2001, 2000));
        assert!(cut.content.starts_with("1\n") && cut.content.ends_with("\n2000"));
        let cut = tail(&text);
        assert_eq!((cut.by, cut.total_lines, cut.output_lines), (Some(TruncatedBy::Lines), 2001, 2000));
        assert!(cut.content.starts_with("2\n3\n") && cut.content.ends_with("\n2001"));
        assert!(!head(&text, None).truncated(), "without a line limit only bytes count");
    }

    #[test]
    fn too_many_bytes_lose_whole_lines() {
        // 1,024 lines of 50 bytes are exactly the limit.
        let line = format!("{}\n", "y".repeat(49));
        let text = line.repeat(1024);
        assert_eq!(text.len(), MAX_BYTES);
        assert!(!head(&text, Some(MAX_LINES)).truncated());
        let text = format!("{text}z");
        let cut = head(&text, Some(MAX_LINES));
        assert_eq!((cut.by, cut.output_lines, cut.content.len()), (Some(TruncatedBy::Bytes), 1024, 51_199));
        let cut = tail(&text);
        assert_eq!((cut.by, cut.output_lines), (Some(TruncatedBy::Bytes), 1024));
        assert!(cut.content.ends_with("\nz") && !cut.last_line_partial);
    }

    #[test]
    fn a_single_line_over_the_limit() {
        let text = "x".repeat(51_201);
        let cut = head(&text, Some(MAX_LINES));
        assert!(cut.first_line_exceeds_limit && cut.content.is_empty() && cut.output_lines == 0);
        let cut = tail(&text);
        assert!(cut.last_line_partial && cut.content.len() == 51_200 && cut.output_lines == 1);
        // The cut falls into a character of three bytes, which is dropped whole.
        let text = "€".repeat(20_000);
        let cut = tail(&text);
        assert_eq!(cut.content.len(), 51_198);
        assert!(cut.content.chars().all(|c| c == '€'));
        let cut = tail(&format!("first\n{text}\n"));
        assert!(cut.last_line_partial && cut.total_lines == 2);
    }

    #[test]
    fn details_have_the_names_that_peers_read() {
        let json = head(&numbered(2001), Some(MAX_LINES)).to_json();
        assert_eq!(json["truncatedBy"], "lines");
        assert_eq!(json["totalLines"], 2001);
        assert_eq!(json["maxBytes"], 51_200);
        assert_eq!(json.get("content"), None);
    }
}
