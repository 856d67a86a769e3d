//! What an edit changed, for people to look at.

use similar::{ChangeTag, TextDiff};
use std::time::Duration;

/// Lines of unchanged text around each change.
const CONTEXT: usize = 4;
/// A finer diff is not worth more time than this; from then on the changes are told in larger pieces.
const MAX_TIME: Duration = Duration::from_millis(200);

/// Two views of one change.
#[derive(Debug, PartialEq)]
pub struct Diff {
    /// For display: every line with its number.
    pub display: String,
    /// A standard unified diff.
    pub patch: String,
    /// Counted from 1, in the new text.
    pub first_changed_line: Option<usize>,
}

/// The difference between two texts with line feeds as line endings; `path` is named in the patch.
pub fn diff(path: &str, old: &str, new: &str) -> Diff {
    let diff = TextDiff::configure().timeout(MAX_TIME).diff_lines(old, new);
    let width = diff.old_len().max(diff.new_len()).to_string().len();
    let gap = format!(" {:width$} ...\n", "");
    let mut display = String::new();
    let mut first_changed_line = None;
    let mut shown = 0;
    for group in diff.grouped_ops(CONTEXT) {
        if group.first().is_some_and(|op| op.old_range().start > shown) {
            display.push_str(&gap);
        }
        for op in &group {
            for change in diff.iter_changes(op) {
                let (sign, index) = match change.tag() {
                    ChangeTag::Equal => (' ', change.old_index()),
                    ChangeTag::Delete => ('-', change.old_index()),
                    ChangeTag::Insert => ('+', change.new_index()),
                };
                if change.tag() != ChangeTag::Equal {
                    first_changed_line.get_or_insert(op.new_range().start + 1);
                }
                let number = index.map_or(0, |index| index + 1);
                let text = change.value().trim_end_matches('\n');
                display.push_str(&format!("{sign}{number:>width$} {text}\n"));
            }
        }
        shown = group.last().map_or(shown, |op| op.old_range().end);
    }
    if shown > 0 && shown < diff.old_len() {
        display.push_str(&gap);
    }
    display.pop();
    let patch = diff.unified_diff().context_radius(CONTEXT).header(path, path).to_string();
    Diff { display, patch, first_changed_line }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbered(lines: impl Iterator<Item = usize>) -> String {
        lines.map(|n| format!("line {n}\n")).collect()
    }

    #[test]
    fn changes_are_shown_with_numbers_and_context() {
        let old = numbered(1..=30);
        let new = old.replace("line 10\n", "line ten\nline ten and a half\n").replace("line 25\n", "");
        let diff = diff("f.txt", &old, &new);
        let expected = "    ...\n  6 line 6\n  7 line 7\n  8 line 8\n  9 line 9\n-10 line 10\n+10 line ten\n\
            +11 line ten and a half\n 11 line 11\n 12 line 12\n 13 line 13\n 14 line 14\n    ...\n 21 line 21\n \
            22 line 22\n 23 line 23\n 24 line 24\n-25 line 25\n 26 line 26\n 27 line 27\n 28 line 28\n 29 line 29\n    ...";
        assert_eq!(diff.display, expected);
        assert_eq!(diff.first_changed_line, Some(10));
        assert!(diff.patch.starts_with("--- f.txt\n+++ f.txt\n@@ -6,9 +6,10 @@\n line 6\n"), "{}", diff.patch);
    }

    #[test]
    fn small_texts() {
        for (old, new, display, line) in [
            ("a\n", "b\n", "-1 a\n+1 b", Some(1)),
            ("", "a", "+1 a", Some(1)),
            ("a\nb\n", "a\n", " 1 a\n-2 b", Some(2)),
            ("a", "a", "", None),
        ] {
            let diff = diff("f", old, new);
            assert_eq!((diff.display.as_str(), diff.first_changed_line), (display, line), "{old:?} {new:?}");
        }
        let patch = diff("f", "a\n", "b").patch;
        assert_eq!(patch, "--- f\n+++ f\n@@ -1 +1 @@\n-a\n+b\n\\ No newline at end of file\n");
    }
}
