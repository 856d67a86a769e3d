//! What an edit changed, for people to look at.

use similar::algorithms::{Capture, Compact, Replace, myers};
use similar::{DiffOp, DiffTag, group_diff_ops};
use std::collections::HashMap;
use std::ops::Range;
use std::time::{Duration, Instant};

/// Lines of unchanged text around each change.
const CONTEXT: usize = 4;
/// A finer diff is not worth more time than this; from then on the changes are shown in larger pieces.
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
    let old: Vec<&str> = old.split_inclusive('\n').collect();
    let new: Vec<&str> = new.split_inclusive('\n').collect();
    let width = old.len().max(new.len()).to_string().len();
    let gap = format!(" {:width$} ...\n", "");
    let mut display = String::new();
    let mut patch = String::new();
    let mut first_changed_line = None;
    let mut shown = 0;
    for group in group_diff_ops(operations(&old, &new), CONTEXT) {
        let (Some(first), Some(last)) = (group.first(), group.last()) else { continue };
        if first.old_range().start > shown {
            display.push_str(&gap);
        }
        if patch.is_empty() {
            patch = format!("--- {path}\n+++ {path}\n");
        }
        let before = place(first.old_range().start..last.old_range().end);
        let after = place(first.new_range().start..last.new_range().end);
        patch.push_str(&format!("@@ -{before} +{after} @@\n"));
        for op in &group {
            if op.tag() != DiffTag::Equal {
                first_changed_line.get_or_insert(op.new_range().start + 1);
            }
            let (gone, came) = if op.tag() == DiffTag::Equal { (' ', None) } else { ('-', Some('+')) };
            let gone = numbered(gone, &old, op.old_range());
            let came = came.into_iter().flat_map(|sign| numbered(sign, &new, op.new_range()));
            for (sign, number, line) in gone.chain(came) {
                display.push_str(&format!("{sign}{number:>width$} {}\n", line.trim_end_matches('\n')));
                patch.push(sign);
                patch.push_str(line);
                if !line.ends_with('\n') {
                    patch.push_str("\n\\ No newline at end of file\n");
                }
            }
        }
        shown = last.old_range().end;
    }
    if shown > 0 && shown < old.len() {
        display.push_str(&gap);
    }
    display.pop();
    Diff { display, patch, first_changed_line }
}

/// What makes the new lines of the old ones. Numbers stand for the lines, and the algorithm is named rather than chosen at
/// run time, since each further type and algorithm would add to the size of the program.
fn operations(old: &[&str], new: &[&str]) -> Vec<DiffOp> {
    let mut numbers = HashMap::new();
    let all: Vec<usize> = old
        .iter()
        .chain(new)
        .map(|line| {
            let next = numbers.len();
            *numbers.entry(*line).or_insert(next)
        })
        .collect();
    let (old, new) = all.split_at(old.len());
    compare(old, new)
}

/// What makes the new lines of the old ones, each of which a number stands for.
pub(super) fn compare(old: &[usize], new: &[usize]) -> Vec<DiffOp> {
    let mut operations = Compact::new(Replace::new(Capture::new()), old, new);
    let deadline = Some(Instant::now() + MAX_TIME);
    let Ok(()) = myers::diff_deadline(&mut operations, old, 0..old.len(), new, 0..new.len(), deadline);
    operations.into_inner().into_inner().into_ops()
}

/// A range of lines as the heads of a unified diff have it.
fn place(lines: Range<usize>) -> String {
    match lines.len() {
        0 => format!("{},0", lines.start),
        1 => (lines.start + 1).to_string(),
        count => format!("{},{count}", lines.start + 1),
    }
}

/// The lines of a range with a sign and their numbers, counted from 1.
fn numbered<'a>(sign: char, lines: &'a [&'a str], range: Range<usize>) -> impl Iterator<Item = (char, usize, &'a str)> {
    range.filter_map(move |index| lines.get(index).map(|line| (sign, index + 1, *line)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(lines: impl Iterator<Item = usize>) -> String {
        lines.map(|n| format!("line {n}\n")).collect()
    }

    #[test]
    fn changes_are_shown_with_numbers_and_context() {
        let old = counted(1..=30);
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
    fn hunks_have_their_own_heads() {
        let old = counted(1..=30);
        let new = format!("first\n{}", old.replace("line 25\nline 26\n", ""));
        let diff = diff("f", &old, &new);
        let expected = "--- f\n+++ f\n@@ -1,4 +1,5 @@\n+first\n line 1\n line 2\n line 3\n line 4\n@@ -21,10 +22,8 @@\n \
            line 21\n line 22\n line 23\n line 24\n-line 25\n-line 26\n line 27\n line 28\n line 29\n line 30\n";
        assert_eq!(diff.patch, expected);
        assert_eq!(super::diff("f", "", "a\n").patch, "--- f\n+++ f\n@@ -0,0 +1 @@\n+a\n");
        assert_eq!(super::diff("f", "a", "a").patch, "");
    }

    #[test]
    fn large_texts_without_common_lines_take_bounded_time() {
        let old = counted(1..=40_000);
        let new = old.replace("line", "row").replace("row 20000\n", "line 20000\n");
        let started = Instant::now();
        assert_eq!(diff("f", &old, &new).first_changed_line, Some(1));
        // The tenfold, as the machine may be busy.
        assert!(started.elapsed() < 10 * MAX_TIME);
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
