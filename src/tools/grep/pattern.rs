//! Regular expressions that stay within one line, and searches with them that can be cancelled.

use crate::cancel::Cancel;
use memchr::{memchr, memrchr};
use regex_automata::Input;
use regex_automata::hybrid::dfa::{Cache, DFA};
use regex_automata::meta::Regex;
use regex_automata::nfa::thompson::{self, NFA, WhichCaptures};
use regex_syntax::ParserBuilder;
use regex_syntax::hir::{Class, ClassBytes, ClassBytesRange, ClassUnicode, ClassUnicodeRange, Hir, HirKind};
use std::io;
use std::ops::Range;

/// Bytes (10 MB) for one compiled expression. There are two of each, forwards and backwards, with as much again to search with.
const MAX_COMPILED: usize = 10_000_000;
/// Bytes (4 KiB) of a pattern. What it means can take nine thousand times as much memory before it is compiled: half a million
/// times `\w` took 9.2 GB (measured).
const MAX_PATTERN: usize = 4096;
/// The work that is done without a look at whether it is still wanted: bytes times states of the automaton. In the worst
/// case each is tried with each, at a few nanoseconds.
const UNASKED: usize = 4_000_000;
/// The same for a line that cannot be searched in another way. Seconds in the worst case.
const MOST_UNASKED: usize = 100 * UNASKED;
const IN_TWO_LINES: &str = r#"the literal "\n" is not allowed in a regex"#;

/// A compiled expression, which matches within lines only.
pub(super) struct Pattern {
    regex: Regex,
    automaton: NFA,
    /// For long lines; made when there is one.
    by_steps: Option<(DFA, Cache)>,
    /// Bytes that are searched without a look at `cancel`.
    piece: usize,
    cancel: Cancel,
}

impl Pattern {
    /// The end of a match in `text`, the earliest from `start` on, which is the start of a line. `None` = there is none, or the
    /// search was cancelled.
    ///
    /// # Errors
    /// A line is too long for this pattern.
    pub(super) fn find(&mut self, text: &[u8], mut start: usize) -> io::Result<Option<usize>> {
        while start < text.len() && !self.cancel.is_cancelled() {
            let lines = start..end_of_lines(text, start, self.piece);
            start = lines.end;
            let by_steps = if lines.len() > self.piece { self.find_by_steps(text, lines.clone()) } else { None };
            let found = match by_steps {
                Some(found) => found,
                None if lines.len() > self.piece && lines.len() > MOST_UNASKED / self.automaton.states().len() => {
                    return Err(io::Error::other("a line is too long for this pattern"));
                }
                None => self.regex.search_half(&Input::new(text).range(lines).earliest(true)).map(|half| half.offset()),
            };
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    /// The same for one line, byte by byte: slower, but to be cancelled at each of them. The outer `None` = cannot be told in
    /// this way, because of word boundaries beside characters that are not ASCII.
    fn find_by_steps(&mut self, text: &[u8], line: Range<usize>) -> Option<Option<usize>> {
        if self.by_steps.is_none() {
            let config = DFA::config().unicode_word_boundary(true).skip_cache_capacity_check(true);
            let dfa = DFA::builder().configure(config).build_from_nfa(self.automaton.clone()).ok()?;
            let cache = dfa.create_cache();
            self.by_steps = Some((dfa, cache));
        }
        let (dfa, cache) = self.by_steps.as_mut()?;
        let input = Input::new(text).range(line.clone()).earliest(true);
        let mut state = dfa.start_state_forward(cache, &input).ok()?;
        for (at, byte) in line.clone().zip(&text[line.clone()]) {
            if self.cancel.is_cancelled() {
                return Some(None);
            }
            state = dfa.next_state(cache, state, *byte).ok()?;
            if state.is_match() {
                // It is known one byte after its end.
                return Some(Some(at));
            } else if state.is_dead() {
                return Some(None);
            } else if state.is_quit() {
                return None;
            }
        }
        let last = match text.get(line.end) {
            Some(byte) => dfa.next_state(cache, state, *byte),
            None => dfa.next_eoi_state(cache, state),
        };
        let last = last.ok()?;
        if last.is_quit() { None } else { Some(last.is_match().then_some(line.end)) }
    }
}

/// The end of as many lines from `start` on as `length` bytes have room for, but of at least one.
fn end_of_lines(text: &[u8], start: usize, length: usize) -> usize {
    let Some(piece) = text[start..].get(..length) else { return text.len() };
    let end = start + piece.len();
    match memrchr(b'\n', piece) {
        Some(at) => start + at + 1,
        None => memchr(b'\n', &text[end..]).map_or(text.len(), |at| end + at + 1),
    }
}

/// Compiles `pattern` so that it matches within lines only, with `^` and `$` at their ends.
///
/// # Errors
/// A text that shows what is wrong with the pattern.
pub(super) fn compile(pattern: &str, literal: bool, ignore_case: bool, cancel: &Cancel) -> Result<Pattern, String> {
    if pattern.len() > MAX_PATTERN {
        return Err(format!("The pattern is longer than {MAX_PATTERN} bytes; use a shorter one"));
    }
    let escaped;
    let pattern = if literal {
        escaped = regex_syntax::escape(pattern);
        &escaped
    } else {
        pattern
    };
    let mut parser = ParserBuilder::new();
    let parsed = parser.utf8(false).multi_line(true).case_insensitive(ignore_case).build().parse(pattern);
    let within_lines = without_line_feeds(parsed.map_err(|error| error.to_string())?)?;
    // Without the UTF-8 mode, files in other encodings can be searched as well.
    let too_large = |limit| format!("compiled regex exceeds size limit of {limit} bytes; use a simpler pattern");
    let config = NFA::config().utf8(false).which_captures(WhichCaptures::None).nfa_size_limit(Some(MAX_COMPILED));
    let automaton = thompson::Compiler::new().configure(config).build_from_hir(&within_lines);
    let automaton = automaton.map_err(|error| error.size_limit().map_or_else(|| error.to_string(), too_large))?;
    let config = Regex::config().utf8_empty(false).nfa_size_limit(Some(MAX_COMPILED));
    let regex = Regex::builder().configure(config).build_from_hir(&within_lines);
    let regex = regex.map_err(|error| error.size_limit().map_or_else(|| error.to_string(), too_large))?;
    let piece = (UNASKED / automaton.states().len()).max(1);
    Ok(Pattern { regex, automaton, by_steps: None, piece, cancel: cancel.clone() })
}

/// Takes the line feeds out of all classes of characters, such as `\s`, so that whole files can be searched at once and
/// yet no match reaches from one line into the next. A line feed that stands for itself is an error.
fn without_line_feeds(expression: Hir) -> Result<Hir, String> {
    let all = |parts: Vec<Hir>| parts.into_iter().map(without_line_feeds).collect::<Result<Vec<Hir>, String>>();
    Ok(match expression.into_kind() {
        HirKind::Empty => Hir::empty(),
        HirKind::Look(look) => Hir::look(look),
        HirKind::Literal(literal) if literal.0.contains(&b'\n') => return Err(IN_TWO_LINES.into()),
        HirKind::Literal(literal) => Hir::literal(literal.0),
        HirKind::Class(mut class) => {
            let was_empty = is_empty(&class);
            match &mut class {
                Class::Unicode(class) => class.difference(&ClassUnicode::new([ClassUnicodeRange::new('\n', '\n')])),
                Class::Bytes(class) => class.difference(&ClassBytes::new([ClassBytesRange::new(b'\n', b'\n')])),
            }
            if is_empty(&class) && !was_empty {
                return Err(IN_TWO_LINES.into());
            }
            Hir::class(class)
        }
        HirKind::Repetition(mut repetition) => {
            repetition.sub = Box::new(without_line_feeds(*repetition.sub)?);
            Hir::repetition(repetition)
        }
        HirKind::Capture(mut capture) => {
            capture.sub = Box::new(without_line_feeds(*capture.sub)?);
            Hir::capture(capture)
        }
        HirKind::Concat(parts) => Hir::concat(all(parts)?),
        HirKind::Alternation(parts) => Hir::alternation(all(parts)?),
    })
}

fn is_empty(class: &Class) -> bool {
    match class {
        Class::Unicode(class) => class.ranges().is_empty(),
        Class::Bytes(class) => class.ranges().is_empty(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compile(pattern: &str, literal: bool, ignore_case: bool) -> Result<Pattern, String> {
        super::compile(pattern, literal, ignore_case, &Cancel::new())
    }

    #[test]
    fn matches_stay_within_a_line() {
        for (pattern, literal, ignore_case, text, expected) in [
            (r"a\s*b", false, false, "a\nb a \tb", Some(4)),
            (r"x[^y]*z", false, false, "x\nxz", Some(2)),
            (r"(?s)a.+b", false, false, "a\nb", None),
            (r"(?s-u)a.+b", false, false, "a\nb", None),
            (r"a[\n\r]", false, false, "a\na\r\n", Some(2)),
            (r"^b$", false, false, "a\nb\nc", Some(2)),
            (r"É\b", false, true, "né né", Some(1)),
            ("a.c", true, true, "abc A.C", Some(4)),
        ] {
            let pattern = compile(pattern, literal, ignore_case).expect(pattern);
            assert_eq!(pattern.regex.find(text).map(|found| found.start()), expected);
        }
    }

    #[test]
    fn lines_are_searched_alike_in_pieces_and_by_steps() {
        let long = "x".repeat(300);
        for text in ["", "\n", "a\nb\nc", "ab\r\nfoo bar\n\nné foo\n", "foo", &long, &format!("{long}foo\n{long}\n")] {
            for pattern in ["", "^", "$", "^$", "foo$", r"\bfoo\b", "b$", r"\w{3}", "é", "(?i)FOO", r"o\s", "x{299}"] {
                let whole = compile(pattern, false, false).expect(pattern).find(text.as_bytes(), 0).expect(pattern);
                for piece in [1, 2, 7, 100] {
                    let mut pattern = compile(pattern, false, false).expect(pattern);
                    pattern.piece = piece;
                    let found = pattern.find(text.as_bytes(), 0).expect("no line is too long");
                    assert_eq!(found, whole, "{:?} in {text:?} by {piece}", pattern.regex);
                }
            }
        }
    }

    #[test]
    fn a_search_is_cancelled_in_the_middle_of_a_line() {
        let cancel = Cancel::new();
        let mut pattern = super::compile(r"(?:\w+\s+){40}zz", false, false, &cancel).expect("it is small enough");
        let line = "word ".repeat(1_000_000);
        let started = std::time::Instant::now();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(std::time::Duration::from_millis(50));
                cancel.cancel();
            });
            assert_eq!(pattern.find(line.as_bytes(), 0).expect("it is no error"), None);
        });
        assert!(started.elapsed() < std::time::Duration::from_millis(1000), "{:?}", started.elapsed());
    }

    #[test]
    fn wrong_patterns_are_told() {
        for (pattern, literal) in [("a\nb", true), ("a\nb", false), (r"(a|b\n)+", false), (r"[\n]", false)] {
            assert_eq!(compile(pattern, literal, false).err().as_deref(), Some(IN_TWO_LINES), "{pattern:?}");
        }
        let too_large = "compiled regex exceeds size limit of 10000000 bytes; use a simpler pattern";
        for pattern in [r"\w{1000}{1000}", r"(?i)(\w{1000}|\W{1000}){50}"] {
            assert_eq!(compile(pattern, false, false).err().as_deref(), Some(too_large), "{pattern}");
        }
        let long = r"\w".repeat(MAX_PATTERN);
        assert!(compile(&long, false, false).is_err_and(|text| text.contains("longer than 4096 bytes")));
        assert!(compile("a(", false, false).is_err_and(|text| text.starts_with("regex parse error:\n    a(\n")));
    }
}
