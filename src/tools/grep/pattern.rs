//! Regular expressions that stay within one line.

use regex_automata::meta::Regex;
use regex_syntax::ParserBuilder;
use regex_syntax::hir::{Class, ClassBytes, ClassBytesRange, ClassUnicode, ClassUnicodeRange, Hir, HirKind};

/// Bytes (100 MiB) for one compiled expression; what ripgrep allows.
const MAX_COMPILED: usize = 100 * 1024 * 1024;
const IN_TWO_LINES: &str = r#"the literal "\n" is not allowed in a regex"#;

/// Compiles `pattern` so that it matches within lines only, with `^` and `$` at their ends.
///
/// # Errors
/// A text that shows what is wrong with the pattern.
pub(super) fn compile(pattern: &str, literal: bool, ignore_case: bool) -> Result<Regex, String> {
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
    let config = Regex::config().utf8_empty(false).nfa_size_limit(Some(MAX_COMPILED));
    Regex::builder().configure(config).build_from_hir(&within_lines).map_err(|error| match error.size_limit() {
        Some(limit) => format!("compiled regex exceeds size limit of {limit}"),
        None => error.to_string(),
    })
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
            let regex = compile(pattern, literal, ignore_case).expect(pattern);
            assert_eq!(regex.find(text).map(|found| found.start()), expected, "{pattern}");
        }
    }

    #[test]
    fn wrong_patterns_are_told() {
        for (pattern, literal) in [("a\nb", true), ("a\nb", false), (r"(a|b\n)+", false), (r"[\n]", false)] {
            assert_eq!(compile(pattern, literal, false).err().as_deref(), Some(IN_TWO_LINES), "{pattern:?}");
        }
        let text = compile(r"\w{1000}{1000}", false, false).err();
        assert_eq!(text.as_deref(), Some("compiled regex exceeds size limit of 104857600"));
        assert!(compile("a(", false, false).is_err_and(|text| text.starts_with("regex parse error:\n    a(\n")));
    }
}
