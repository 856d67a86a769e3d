//! Finding the texts to replace and replacing them. Pure: from one content to the next.

use std::borrow::Cow;
use unicode_normalization::{UnicodeNormalization, is_nfkc};

#[derive(Clone, Debug, PartialEq)]
pub struct Edit {
    pub old: String,
    pub new: String,
}

/// Why edits do not apply. Numbers are indexes of edits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mismatch {
    EmptyOld(usize),
    NotFound(usize),
    /// So many occurrences.
    Several(usize, usize),
    /// The two edits, in the order of the text.
    Overlap(usize, usize),
    /// Every replacement is equal to what it replaces.
    NoChange,
}

/// Applies all edits to `content`; each is matched against the content as it was, not as earlier edits left it.
///
/// Line endings do not matter for matching. If a text is not there literally, all edits are matched against a tolerant
/// form of the content, in which typographic quotes, dashes and spaces, trailing spaces and Unicode variants are levelled;
/// then only the lines that an edit touches take that form. Everything else keeps its bytes, its line endings included.
///
/// # Errors
/// The first [`Mismatch`]; nothing is applied then.
pub fn apply(content: &str, edits: &[Edit]) -> Result<String, Mismatch> {
    let lines = split_lines(content);
    let literal = View::new(&lines, Cow::Borrowed);
    let tolerant = View::new(&lines, level);
    let mut wanted = Vec::with_capacity(edits.len());
    for (index, edit) in edits.iter().enumerate() {
        if edit.old.is_empty() {
            return Err(Mismatch::EmptyOld(index));
        }
        let old = with_lf(&edit.old);
        let levelled = old.split('\n').map(level).collect::<Vec<_>>().join("\n");
        wanted.push((old, levelled));
    }
    for (index, (old, levelled)) in wanted.iter().enumerate() {
        match occurrences(&literal.text, old).max(occurrences(&tolerant.text, levelled)) {
            0 => return Err(Mismatch::NotFound(index)),
            1 => {}
            several => return Err(Mismatch::Several(index, several)),
        }
    }
    let all_literal = wanted.iter().all(|(old, _)| literal.text.contains(old.as_ref()));
    let view = if all_literal { &literal } else { &tolerant };
    let mut places = Vec::with_capacity(edits.len());
    for (index, (old, levelled)) in wanted.iter().enumerate() {
        let old = if all_literal { old.as_ref() } else { levelled };
        let start = view.text.find(old).filter(|_| !old.is_empty()).ok_or(Mismatch::NotFound(index))?;
        places.push(Place { start, end: start + old.len(), index });
    }
    places.sort_by_key(|place| place.start);
    if let Some(pair) = places.windows(2).find(|pair| pair[0].end > pair[1].start) {
        return Err(Mismatch::Overlap(pair[0].index, pair[1].index));
    }
    let mut result = String::with_capacity(content.len());
    let mut kept = 0;
    for place in &places {
        view.copy(kept, place.start, &mut result);
        let ending = view.ending_at(place.start);
        result.push_str(&with_lf(&edits[place.index].new).replace('\n', ending));
        kept = place.end;
    }
    view.copy(kept, view.text.len(), &mut result);
    if result == content { Err(Mismatch::NoChange) } else { Ok(result) }
}

/// How often `wanted` is in a text. Of places that overlap not every one is counted, but several never count as one.
fn occurrences(text: &str, wanted: &str) -> usize {
    if wanted.is_empty() {
        return 0;
    }
    match text.matches(wanted).count() {
        1 if text.find(wanted) != text.rfind(wanted) => 2,
        count => count,
    }
}

/// Every line ending as a line feed.
pub fn with_lf(text: &str) -> Cow<'_, str> {
    if text.contains('\r') { text.replace("\r\n", "\n").replace('\r', "\n").into() } else { text.into() }
}

struct Place {
    start: usize,
    end: usize,
    index: usize,
}

struct Line<'a> {
    text: &'a str,
    /// Empty only at the end of the content.
    ending: &'a str,
}

fn split_lines(mut content: &str) -> Vec<Line<'_>> {
    let mut lines = Vec::new();
    while !content.is_empty() {
        let end = content.find(['\r', '\n']).unwrap_or(content.len());
        let (text, rest) = content.split_at(end);
        let ending = match rest {
            rest if rest.starts_with("\r\n") => &rest[..2],
            "" => "",
            rest => &rest[..1],
        };
        lines.push(Line { text, ending });
        content = &rest[ending.len()..];
    }
    lines
}

/// A content in the form in which it is searched, line by line aligned with the original.
struct View<'a> {
    lines: &'a [Line<'a>],
    text: String,
    /// Where each line starts in the text.
    starts: Vec<usize>,
}

impl<'a> View<'a> {
    fn new(lines: &'a [Line<'a>], form: impl Fn(&'a str) -> Cow<'a, str>) -> View<'a> {
        let mut text = String::new();
        let mut starts = Vec::with_capacity(lines.len());
        for line in lines {
            starts.push(text.len());
            text.push_str(&form(line.text));
            if !line.ending.is_empty() {
                text.push('\n');
            }
        }
        View { lines, text, starts }
    }

    fn line_at(&self, at: usize) -> usize {
        self.starts.partition_point(|start| *start <= at).saturating_sub(1)
    }

    /// The line ending for text inserted at `at`: that of the line there, or the content's usual one on a last line
    /// without any.
    fn ending_at(&self, at: usize) -> &'a str {
        let usual = || self.lines.first().map(|line| line.ending);
        let here = self.lines.get(self.line_at(at)).map(|line| line.ending);
        here.filter(|ending| !ending.is_empty()).or_else(usual).filter(|ending| !ending.is_empty()).unwrap_or("\n")
    }

    /// Appends a part of the text that no edit replaces: whole lines as they were originally, parts of lines in this form.
    fn copy(&self, from: usize, to: usize, result: &mut String) {
        let mut at = from;
        let mut index = self.line_at(from);
        while at < to {
            let line = &self.lines[index];
            let line_end = self.starts.get(index + 1).copied().unwrap_or(self.text.len());
            let part = &self.text[at..to.min(line_end)];
            if at == self.starts[index] && to >= line_end {
                result.push_str(line.text);
                result.push_str(line.ending);
            } else {
                match part.strip_suffix('\n') {
                    Some(text) => result.extend([text, line.ending]),
                    None => result.push_str(part),
                }
            }
            at += part.len();
            index += 1;
        }
        // A last line of nothing but spaces may have no text in this form.
        if to == self.text.len() && self.starts.last() == Some(&to) {
            result.extend(self.lines.last().map(|line| line.text));
        }
    }
}

/// The tolerant form of one line.
fn level(line: &str) -> Cow<'_, str> {
    if line.is_ascii() {
        return line.trim_end().into();
    }
    let composed: Cow<'_, str> = if is_nfkc(line) { line.into() } else { line.nfkc().collect::<String>().into() };
    composed.trim_end().chars().map(level_char).collect::<String>().into()
}

fn level_char(c: char) -> char {
    match c {
        '\u{2018}'..='\u{201b}' => '\'',
        '\u{201c}'..='\u{201f}' => '"',
        '\u{2010}'..='\u{2015}' | '\u{2212}' => '-',
        '\u{a0}' | '\u{2002}'..='\u{200a}' | '\u{202f}' | '\u{205f}' | '\u{3000}' => ' ',
        c => c,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applied(content: &str, edits: &[(&str, &str)]) -> Result<String, Mismatch> {
        let edits: Vec<Edit> =
            edits.iter().map(|(old, new)| Edit { old: (*old).to_owned(), new: (*new).to_owned() }).collect();
        apply(content, &edits)
    }

    #[test]
    fn replaces_and_keeps_the_rest_to_the_byte() {
        for (content, edits, expected) in [
            ("a b c", &[("b", "B")][..], "a B c"),
            ("one\ntwo\nthree\n", &[("three", "3"), ("one", "1")], "1\ntwo\n3\n"),
            ("a b", &[("a", "b"), ("b", "a")], "b a"),
            ("x\n", &[("x\n", "")], ""),
            ("ab", &[("a", ""), ("b", "")], ""),
            // Line endings: matched across kinds, kept where untouched, taken over where inserted.
            ("a\r\nb\r\nc\r\n", &[("a\nb", "1\n2\n3")], "1\r\n2\r\n3\r\nc\r\n"),
            ("a\r\nb\nc\rd", &[("c", "x\ny")], "a\r\nb\nx\ry\rd"),
            ("a\r\nb\nc\n", &[("b", "x\r\ny")], "a\r\nx\ny\nc\n"),
            ("a\r\nlast", &[("last", "1\n2")], "a\r\n1\r\n2"),
            ("last", &[("last", "1\r\n2")], "1\n2"),
            ("a\n\n\nb\n", &[("a\n\n\nb", "a\nb")], "a\nb\n"),
            ("tail  \nx = 1\n", &[("x = 1", "x = 2")], "tail  \nx = 2\n"),
        ] {
            assert_eq!(applied(content, edits).as_deref(), Ok(expected), "{content:?} {edits:?}");
        }
    }

    #[test]
    fn typography_and_trailing_spaces_are_tolerated() {
        for (content, edits, expected) in [
            ("say \u{201c}hi\u{201d}\n", &[("say \"hi\"", "say \"ho\"")][..], "say \"ho\"\n"),
            ("it\u{2019}s \u{2013} so\n", &[("it's - so", "no")], "no\n"),
            ("a\u{a0}b\u{3000}c", &[("a b c", "d")], "d"),
            ("fun()   \n  end\t\nrest  \n", &[("fun()\n  end", "x")], "x\nrest  \n"),
            ("x\n", &[("x   ", "y")], "y\n"),
            ("\u{fb01}le caf\u{e9}\n", &[("file cafe\u{301}", "ok")], "ok\n"),
            // Only touched lines take the tolerant form; what is left of a touched line does.
            (
                "\u{201c}keep\u{201d}  \r\n\u{201c}a\u{201d} b\u{2019}s  \r\nkeep\u{2026}  \r\n",
                &[("\"a\"", "A")],
                "\u{201c}keep\u{201d}  \r\nA b's\r\nkeep\u{2026}  \r\n",
            ),
            // One tolerant match makes all edits tolerant.
            ("q\u{2019}s  \nplain\u{2014}  \n", &[("q's", "1"), ("plain", "2")], "1\n2-\n"),
            // The newline that an edit takes belongs to the touched line, not to the next one.
            ("a\u{2019}  \nb\u{2019}  \n", &[("a'\n", "")], "b\u{2019}  \n"),
            // A last line of spaces has nothing that could be touched.
            ("a\u{2019}\nb\n  ", &[("a'", "x")], "x\nb\n  "),
            ("a\u{2019}\n  ", &[("a'\n", "")], "  "),
        ] {
            assert_eq!(applied(content, edits).as_deref(), Ok(expected), "{content:?} {edits:?}");
        }
    }

    #[test]
    fn what_does_not_apply_is_told() {
        for (content, edits, expected) in [
            ("a", &[("", "x")][..], Mismatch::EmptyOld(0)),
            ("a", &[("a", "x"), ("", "x")], Mismatch::EmptyOld(1)),
            ("a b", &[("a", "x"), ("c", "x")], Mismatch::NotFound(1)),
            ("", &[("a", "x")], Mismatch::NotFound(0)),
            ("a  b", &[("a b", "x")], Mismatch::NotFound(0)),
            ("a a", &[("a", "x")], Mismatch::Several(0, 2)),
            ("}\n}\n}\n", &[("}\n}\n", "x\n")], Mismatch::Several(0, 2)),
            // One is literal, but the other reads the same.
            ("say \"x\"\nsay \u{201c}x\u{201d}\n", &[("say \"x\"", "y")], Mismatch::Several(0, 2)),
            ("abcdef", &[("cde", "x"), ("abc", "y")], Mismatch::Overlap(1, 0)),
            ("abc", &[("abc", "x"), ("b", "y")], Mismatch::Overlap(0, 1)),
            ("abc", &[("b", "b")], Mismatch::NoChange),
            ("a\r\nb", &[("a\nb", "a\r\nb")], Mismatch::NoChange),
            // Nothing but spaces is no text that could be found tolerantly.
            ("ab", &[("   ", "x")], Mismatch::NotFound(0)),
        ] {
            assert_eq!(applied(content, edits), Err(expected), "{content:?} {edits:?}");
        }
        assert_eq!(applied("abcdef", &[("abc", "1"), ("def", "2")]).as_deref(), Ok("12"), "neighbours do not overlap");
        assert_eq!(applied("a   b", &[("   ", " ")]).as_deref(), Ok("a b"), "spaces are found literally");
    }

    #[test]
    fn splitting_into_lines_loses_nothing() {
        for content in ["", "\n", "\r", "\r\n", "\n\r\n\r\r", "a\rb\nc\r\nd", "é\r\n"] {
            let lines = split_lines(content);
            let joined: String = lines.iter().flat_map(|line| [line.text, line.ending]).collect();
            assert_eq!(joined, content);
            let view = View::new(&lines, Cow::Borrowed);
            assert_eq!(view.text, with_lf(content));
            let mut copied = String::new();
            view.copy(0, view.text.len(), &mut copied);
            assert_eq!(copied, content);
        }
    }
}
