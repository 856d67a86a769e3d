//! Finding the texts to replace and replacing them. Pure: from one content to the next.

use std::borrow::Cow;
use std::ops::Range;
use unicode_normalization::char::canonical_combining_class;
use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfkc, is_nfkc_quick};

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
/// Line endings do not matter for matching. What is not there literally is looked for in a tolerant form of the content, in
/// which typographic quotes, dashes and spaces, trailing spaces and Unicode variants are levelled. Either way only what was
/// found is replaced: everything else keeps its bytes, its line endings included.
///
/// # Errors
/// The first [`Mismatch`]; nothing is applied then.
pub fn apply(content: &str, edits: &[Edit]) -> Result<String, Mismatch> {
    let lines = split_lines(content);
    let literal = View::new(&lines, Form::Literal);
    let tolerant = View::new(&lines, Form::Tolerant);
    if let Some(index) = edits.iter().position(|edit| edit.old.is_empty()) {
        return Err(Mismatch::EmptyOld(index));
    }
    let mut places = Vec::with_capacity(edits.len());
    for (index, edit) in edits.iter().enumerate() {
        let old = with_lf(&edit.old);
        let found = literal.find(&Wanted { text: &old, start_trimmed: false, end_trimmed: false });
        let levelled = old.split('\n').map(level).collect::<Vec<_>>().join("\n");
        // A text of nothing but spaces would be found at the end of every line.
        let alike = if levelled.trim().is_empty() {
            Vec::new()
        } else {
            tolerant.find(&Wanted {
                text: &levelled,
                start_trimmed: levelled.starts_with('\n') && !old.starts_with('\n'),
                end_trimmed: old.ends_with(|c: char| c != '\n' && c.is_whitespace()),
            })
        };
        match found.len().max(alike.len()) {
            0 => return Err(Mismatch::NotFound(index)),
            1 => {}
            several => return Err(Mismatch::Several(index, several)),
        }
        places.extend(found.into_iter().chain(alike).take(1).map(|range| Place { range, index }));
    }
    places.sort_by_key(|place| place.range.start);
    if let Some(pair) = places.windows(2).find(|pair| pair[0].range.end > pair[1].range.start) {
        return Err(Mismatch::Overlap(pair[0].index, pair[1].index));
    }
    let mut result = String::with_capacity(content.len());
    let mut kept = 0;
    for place in &places {
        result.push_str(&content[kept..place.range.start]);
        let ending = ending_at(&lines, place.range.start);
        result.push_str(&with_lf(&edits[place.index].new).replace('\n', ending));
        kept = place.range.end;
    }
    result.push_str(&content[kept..]);
    if result == content { Err(Mismatch::NoChange) } else { Ok(result) }
}

/// Every line ending as a line feed.
pub fn with_lf(text: &str) -> Cow<'_, str> {
    if text.contains('\r') { text.replace("\r\n", "\n").replace('\r', "\n").into() } else { text.into() }
}

/// Bytes of the content that an edit replaces.
struct Place {
    range: Range<usize>,
    index: usize,
}

struct Line<'a> {
    /// Where it begins in the content.
    start: usize,
    text: &'a str,
    /// Empty only at the end of the content.
    ending: &'a str,
}

fn split_lines(content: &str) -> Vec<Line<'_>> {
    let mut lines = Vec::new();
    let mut start = 0;
    while start < content.len() {
        let left = &content[start..];
        let (text, rest) = left.split_at(left.find(['\r', '\n']).unwrap_or(left.len()));
        let ending = match rest {
            rest if rest.starts_with("\r\n") => &rest[..2],
            "" => "",
            rest => &rest[..1],
        };
        lines.push(Line { start, text, ending });
        start += text.len() + ending.len();
    }
    lines
}

/// The line ending for text inserted at `at`: that of the line there, or the content's usual one on a last line without any.
fn ending_at<'a>(lines: &[Line<'a>], at: usize) -> &'a str {
    let here = lines.partition_point(|line| line.start <= at).checked_sub(1).and_then(|index| lines.get(index));
    [here, lines.first()]
        .into_iter()
        .flatten()
        .map(|line| line.ending)
        .find(|ending| !ending.is_empty())
        .unwrap_or("\n")
}

#[derive(Clone, Copy, PartialEq)]
enum Form {
    Literal,
    Tolerant,
}

/// A text to look for, in the form of the view.
struct Wanted<'w> {
    text: &'w str,
    /// Spaces of the first line, all it had, are left out; the text begins where a line's text ends.
    start_trimmed: bool,
    /// Spaces behind the last line are left out; they can only be meant where a line ends.
    end_trimmed: bool,
}

/// A content in the form in which it is searched, line by line aligned with the original.
struct View<'a> {
    lines: &'a [Line<'a>],
    form: Form,
    text: String,
    /// Where each line starts in the text.
    starts: Vec<usize>,
}

impl<'a> View<'a> {
    fn new(lines: &'a [Line<'a>], form: Form) -> View<'a> {
        let mut text = String::new();
        let mut starts = Vec::with_capacity(lines.len());
        for line in lines {
            starts.push(text.len());
            match form {
                Form::Literal => text.push_str(line.text),
                Form::Tolerant => text.push_str(&level(line.text)),
            }
            if !line.ending.is_empty() {
                text.push('\n');
            }
        }
        View { lines, form, text, starts }
    }

    /// Where `wanted` is in the original. Of places that overlap not every one is told, but several never as one.
    fn find(&self, wanted: &Wanted<'_>) -> Vec<Range<usize>> {
        let mut found = self.find_apart(wanted, 0, usize::MAX);
        if let [(at, _)] = found[..] {
            found.extend(self.find_apart(wanted, at + 1, 1));
        }
        found.into_iter().map(|(_, range)| range).collect()
    }

    /// The first places from `from` on that do not overlap, at most so many, each with its offset in this form.
    fn find_apart(&self, wanted: &Wanted<'_>, from: usize, most: usize) -> Vec<(usize, Range<usize>)> {
        let mut found = Vec::new();
        let mut from = self.text.ceil_char_boundary(from);
        while found.len() < most
            && let Some(at) = self.text.get(from..).and_then(|rest| rest.find(wanted.text)).map(|at| from + at)
        {
            let end = at + wanted.text.len();
            from = match (self.original_start(at, wanted), self.original_end(end, wanted)) {
                (Some(start), Some(stop)) => {
                    found.push((at, start..stop));
                    end
                }
                _ => self.text.ceil_char_boundary(at + 1),
            };
        }
        found
    }

    /// Where the original of what begins at `at` begins.
    fn original_start(&self, at: usize, wanted: &Wanted<'_>) -> Option<usize> {
        let (line, offset) = self.line_at(at)?;
        if wanted.text.starts_with('\n') && !wanted.start_trimmed {
            return Some(line.start + line.text.len());
        }
        self.original_in(line, offset)
    }

    /// Where the original of what ends at `at` ends.
    fn original_end(&self, at: usize, wanted: &Wanted<'_>) -> Option<usize> {
        if wanted.text.ends_with('\n') {
            return Some(self.starts.binary_search(&at).map_or(self.length(), |index| self.lines[index].start));
        }
        let (line, offset) = self.line_at(at.checked_sub(1)?)?;
        let offset = offset + 1;
        if !wanted.end_trimmed {
            return self.original_in(line, offset);
        }
        (self.text[at..].is_empty() || self.text[at..].starts_with('\n')).then_some(line.start + line.text.len())
    }

    /// The line that the text has at `at`, and how far into it that is.
    fn line_at(&self, at: usize) -> Option<(&Line<'a>, usize)> {
        let index = self.starts.partition_point(|start| *start <= at).checked_sub(1)?;
        let offset = at - self.starts[index];
        (at < self.text.len()).then(|| (&self.lines[index], offset))
    }

    fn length(&self) -> usize {
        self.lines.last().map_or(0, |line| line.start + line.text.len() + line.ending.len())
    }

    /// The place in the original of what is so many bytes into a line; `None` = within what was levelled as one.
    fn original_in(&self, line: &Line<'_>, offset: usize) -> Option<usize> {
        if self.form == Form::Literal || line.text.is_ascii() {
            return Some(line.start + offset);
        }
        let (mut original, mut levelled) = (0, 0);
        let mut pieces = pieces(line.text);
        while levelled < offset {
            let piece = pieces.next()?;
            original += piece.len();
            levelled += piece.nfkc().map(|c| level_char(c).len_utf8()).sum::<usize>();
        }
        (levelled == offset).then_some(line.start + original)
    }
}

/// A line cut where nothing that follows can change what came before when both are levelled: an accent stays with its letter.
fn pieces(line: &str) -> impl Iterator<Item = &str> {
    let mut rest = line;
    std::iter::from_fn(move || {
        let next = rest.char_indices().skip(1).find(|(_, c)| stands_alone(*c));
        let (piece, left) = rest.split_at(next.map_or(rest.len(), |(at, _)| at));
        rest = left;
        (!piece.is_empty()).then_some(piece)
    })
}

/// Levelling never joins the character with one before it.
fn stands_alone(c: char) -> bool {
    let first = std::iter::once(c).nfkd().next().unwrap_or(c);
    canonical_combining_class(first) == 0 && is_nfkc_quick(std::iter::once(first)) != IsNormalized::Maybe
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
            ("fun()   \n  end\t\nrest  \n", &[("fun()\n  end", "x")], "x\t\nrest  \n"),
            ("x\n", &[("x   ", "y")], "y\n"),
            ("\u{fb01}le caf\u{e9}\n", &[("file cafe\u{301}", "ok")], "ok\n"),
            // All but what was found keeps its bytes, in its line too.
            (
                "\u{201c}keep\u{201d}  \r\n\u{201c}a\u{201d} b\u{2019}s  \r\nkeep\u{2026}  \r\n",
                &[("\"a\"", "A")],
                "\u{201c}keep\u{201d}  \r\nA b\u{2019}s  \r\nkeep\u{2026}  \r\n",
            ),
            (
                "print(\"\u{4f60}\u{597d}\u{ff0c}\u{4e16}\u{754c}\u{ff1a}ok\")  # say \u{201c}hi\u{201d}\n",
                &[("say \"hi\"", "say \"ho\"")],
                "print(\"\u{4f60}\u{597d}\u{ff0c}\u{4e16}\u{754c}\u{ff1a}ok\")  # say \"ho\"\n",
            ),
            ("q\u{2019}s  \nplain\u{2014}  \n", &[("q's", "1"), ("plain", "2")], "1  \n2\u{2014}  \n"),
            // Spaces that were asked for are those at the end of the line.
            ("foo\nbar  \nx", &[("bar\t", "baz ")], "foo\nbaz \nx"),
            ("foo", &[("foo ", "bar")], "bar"),
            ("a\u{2019} \nb", &[("a'\t\nb", "c")], "c"),
            ("a  \nb\u{2019}", &[("\nb'", "")], "a  "),
            ("a  \nb\u{2019}", &[("\t\nb'", "")], "a"),
            ("e\u{301}\u{2019}x", &[("'x", "y")], "e\u{301}y"),
            ("\u{ff76}\u{ff9e}\u{2019}", &[("\u{30ac}'", "x")], "x"),
            ("\u{1112}\u{1161}\u{11ab}\u{2019}", &[("\u{d55c}'", "x")], "x"),
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
            ("a\nb", &[("  \n", "x")], Mismatch::NotFound(0)),
            // The blank that was asked for is not there.
            ("foobar = 1", &[("foo ", "qux ")], Mismatch::NotFound(0)),
            ("foo\u{2019}bar = 1", &[("foo' ", "qux ")], Mismatch::NotFound(0)),
            ("foo bar", &[("foo\u{a0}", "x")], Mismatch::NotFound(0)),
            // Half a character cannot be replaced.
            ("\u{fb01}le", &[("ile", "x")], Mismatch::NotFound(0)),
            ("caf\u{e9}\u{2019}", &[("\u{301}'", "x")], Mismatch::NotFound(0)),
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
            let view = View::new(&lines, Form::Literal);
            assert_eq!((&*view.text, view.length()), (&*with_lf(content), content.len()));
        }
        for line in ["e\u{301}\u{fb01}\u{ff76}\u{ff9e} \u{2026}", "\u{1112}\u{1161}\u{11ab}a\u{323}\u{302}", ""] {
            let levelled: String = pieces(line).flat_map(|piece| piece.nfkc().map(level_char)).collect();
            assert_eq!(levelled, level(line), "{line}");
        }
    }
}
