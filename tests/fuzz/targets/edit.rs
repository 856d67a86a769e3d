//! A text and replacements, separated by NUL: what the edit tool makes of them is what replacing by hand gives, nothing
//! but the touched lines changes, and the diff, applied as a patch, gives the new text.
#![no_main]

use libfuzzer_sys::fuzz_target;
use nats_pi_bridge::fuzzing::tools::{Mismatch, Replacement, apply, diff, with_lf};

fuzz_target!(|input: &[u8]| {
    let input = String::from_utf8_lossy(input);
    let mut fields = input.split('\0');
    let content = fields.next().unwrap_or_default();
    let mut edits = Vec::new();
    while let (Some(old), Some(new)) = (fields.next(), fields.next()) {
        edits.push(Replacement { old: old.to_string(), new: new.to_string() });
    }
    let applied = apply(content, &edits);
    match &applied {
        Ok(result) => {
            assert_ne!(result, content);
            if !content.contains('\r') {
                by_hand(content, &edits, result);
            }
            if let [edit] = &edits[..]
                && !has_lone_cr(content)
            {
                touched_lines(content, edit, result);
            }
            patch(&with_lf(content), &with_lf(result));
        }
        Err(Mismatch::EmptyOld(index)) => assert_eq!(edits[*index].old, ""),
        // With several edits, one that is there to the byte may be missing from the form in which another one is found.
        Err(Mismatch::NotFound(index)) => assert!(edits.len() > 1 || !content.contains(&edits[*index].old)),
        Err(Mismatch::Several(index, count)) => assert!(*count > 1 && *index < edits.len()),
        Err(Mismatch::Overlap(one, other)) => assert!(one != other && one.max(other) < &edits.len()),
        Err(Mismatch::NoChange) => {}
    }
    // Line ends do not matter for matching.
    if !has_lone_cr(content) {
        match (applied, apply(&with_lf(content), &edits)) {
            (Ok(result), Ok(same)) => assert_eq!(with_lf(&result), same),
            (Ok(result), Err(Mismatch::NoChange)) => assert_eq!(with_lf(&result), with_lf(content)),
            (result, same) => assert_eq!(result.err(), same.err()),
        }
    }
    // Any two texts, not only those that an edit makes of each other.
    for edit in &edits {
        patch(&with_lf(&edit.old), &with_lf(&edit.new));
    }
});

/// Whether there is a line end that is a CR alone. A LF that comes to stand behind one makes a single line end with it, so
/// that not all holds for them that holds for others.
fn has_lone_cr(content: &str) -> bool {
    content.replace("\r\n", "\n").contains('\r')
}

/// Where every text is there to the byte, and once, replacing them one after the other from the end gives the same.
fn by_hand(content: &str, edits: &[Replacement], result: &str) {
    let old: Vec<_> = edits.iter().map(|edit| with_lf(&edit.old)).collect();
    if !old.iter().all(|old| content.contains(&**old)) {
        return;
    }
    let mut places = Vec::new();
    for (old, edit) in old.iter().zip(edits) {
        let at = content.find(&**old);
        assert_eq!(at, content.rfind(&**old), "{old:?} is there more than once");
        places.extend(at.map(|at| (at, at + old.len(), with_lf(&edit.new))));
    }
    places.sort();
    let mut expected = content.to_string();
    for (start, end, new) in places.into_iter().rev() {
        expected.replace_range(start..end, &new);
    }
    assert_eq!(result, expected);
}

/// No more lines change than the text to replace has.
fn touched_lines(content: &str, edit: &Replacement, result: &str) {
    let before: Vec<_> = content.split_inclusive('\n').collect();
    let after: Vec<_> = result.split_inclusive('\n').collect();
    let same = before.iter().zip(&after).take_while(|(old, new)| old == new).count();
    let (before, after) = (&before[same..], &after[same..]);
    let same = before.iter().rev().zip(after.iter().rev()).take_while(|(old, new)| old == new).count();
    let touched = with_lf(&edit.old).matches('\n').count() + 1;
    assert!(before.len() - same <= touched, "{} lines changed, not {touched}", before.len() - same);
}

/// Applies a diff's patch.
fn patch(old: &str, new: &str) {
    let diff = diff("f", old, new);
    assert_eq!(diff.first_changed_line.is_none(), old == new);
    assert_eq!(diff.patch.is_empty(), old == new);
    assert_eq!(diff.display.is_empty(), old == new);
    let (old_lines, new_lines): (Vec<&str>, Vec<&str>) =
        (old.split_inclusive('\n').collect(), new.split_inclusive('\n').collect());
    if let Some(line) = diff.first_changed_line {
        assert_eq!(old_lines[..line - 1], new_lines[..line - 1]);
    }
    let mut made = String::new();
    let mut at = 0;
    let mut left = (0, 0);
    let mut lines = diff.patch.split_inclusive('\n').skip(2).peekable();
    while let Some(line) = lines.next() {
        if left == (0, 0) {
            let Some(ranges) = line.strip_prefix("@@ -").and_then(|line| line.strip_suffix(" @@\n")) else {
                panic!("no hunk's head: {line:?}")
            };
            let Some((gone, came)) = ranges.split_once(" +") else { panic!("no two ranges: {line:?}") };
            let (start, count) = range(gone);
            made.extend(old_lines[at..start].iter().copied());
            at = start;
            assert_eq!(made.split_inclusive('\n').count(), range(came).0);
            left = (count, range(came).1);
            continue;
        }
        let text = match lines.next_if(|next| next.starts_with('\\')) {
            Some(_) => line.strip_suffix('\n').unwrap_or(line),
            None => line,
        };
        let (sign, text) = text.split_at(1);
        if sign != "+" {
            assert_eq!(old_lines[at], text);
            (at, left.0) = (at + 1, left.0 - 1);
        }
        if sign != "-" {
            made.push_str(text);
            left.1 -= 1;
        }
    }
    assert_eq!(left, (0, 0));
    made.extend(old_lines[at..].iter().copied());
    assert_eq!(made, new);
    let signs = |text: &str, sign: char| text.lines().filter(|line| line.starts_with(sign)).count();
    let heads = usize::from(!diff.patch.is_empty());
    for sign in ['+', '-'] {
        assert_eq!(signs(&diff.display, sign) + heads, signs(&diff.patch, sign), "{}", diff.display);
    }
}

/// How many lines come before a hunk's range, and how many it has.
fn range(text: &str) -> (usize, usize) {
    let number = |text: &str| text.parse::<usize>().unwrap_or_else(|_| panic!("no number: {text:?}"));
    let (start, count) = text.split_once(',').map_or((text, 1), |(start, count)| (start, number(count)));
    (number(start) - usize::from(count > 0), count)
}
