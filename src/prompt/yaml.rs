//! The part of YAML that heads of Markdown files are written in: one mapping of names to texts, in every form that people
//! and YAML writers give to a text. Lists and mappings within it are passed over, anchors and tags as well. What is no
//! valid YAML is taken as the text that it looks like, since a file should not be lost by a colon too many.

use std::collections::BTreeMap;

/// What parts words; other characters that look empty are part of a text.
const BLANKS: [char; 2] = [' ', '\t'];

/// The texts of a mapping, by name. Numbers and truth values are the texts that they are written as, and nothing (`null`,
/// `~`) is an empty text. Of several values with one name the last one counts.
pub(super) fn texts(yaml: &str) -> BTreeMap<String, String> {
    let yaml = yaml.replace("\r\n", "\n");
    if let Some(inner) = yaml.trim_start().strip_prefix('{') {
        return flow_mapping(inner);
    }
    let mut texts = BTreeMap::new();
    // How far the names are indented.
    let mut margin = None;
    let mut rest = yaml.as_str();
    while !rest.is_empty() {
        let (line, after) = first_line(rest);
        let indent = indent(line);
        let content = &line[indent..];
        let name = if content.starts_with('#') { None } else { name(content) };
        rest = match name {
            Some((name, length)) if indent == *margin.get_or_insert(indent) => {
                let (text, after) = value(&rest[indent + length..], indent);
                texts.extend(text.map(|text| (name, text)));
                after
            }
            _ => after,
        };
    }
    texts
}

/// A line without its end, and what follows it.
fn first_line(text: &str) -> (&str, &str) {
    text.split_once('\n').unwrap_or((text, ""))
}

fn indent(line: &str) -> usize {
    line.len() - line.trim_start_matches(BLANKS).len()
}

/// The name that `line` begins with, and its length with the colon behind it.
fn name(line: &str) -> Option<(String, usize)> {
    if let Some((name, length)) = quoted(line) {
        let colon = line[length..].trim_start_matches(BLANKS).strip_prefix(':')?;
        return Some((name, line.len() - colon.len()));
    }
    let (colon, _) = line.match_indices(':').find(|(at, _)| is_end(&line[at + 1..]))?;
    let name = line[..colon].trim_end_matches(BLANKS);
    // What begins with a dash is an entry of a list.
    (!name.is_empty() && !is_marked(name, '-')).then(|| (name.to_owned(), colon + 1))
}

/// Whether the word before `rest` is over.
fn is_end(rest: &str) -> bool {
    rest.is_empty() || rest.starts_with(BLANKS) || rest.starts_with('\n')
}

fn is_marked(text: &str, mark: char) -> bool {
    text.strip_prefix(mark).is_some_and(is_end)
}

/// The text that stands behind a name, and what follows its lines. `None` = it is a list or a mapping.
fn value(text: &str, margin: usize) -> (Option<String>, &str) {
    let text = without_properties(text);
    let (line, after) = first_line(text);
    if let Some(block) = Block::parse(line) {
        let (text, after) = block.read(after, margin);
        return (Some(text), after);
    }
    if !without_comment(line).is_empty() {
        return flow(text, margin);
    }
    // The value begins in a line of its own, if it is not empty.
    let blank = |line: &str| without_comment(line).is_empty();
    let mut rest = after;
    while !rest.is_empty() && blank(first_line(rest).0) {
        rest = first_line(rest).1;
    }
    let (line, _) = first_line(rest);
    if rest.is_empty() || indent(line) <= margin {
        return (Some(String::new()), after);
    }
    let content = &line[indent(line)..];
    if is_marked(content, '-') || name(content).is_some() {
        return (None, after);
    }
    flow(&rest[indent(line)..], margin)
}

/// What stands behind tag and anchor, which begin with `!` and `&`.
fn without_properties(text: &str) -> &str {
    let mut text = text.trim_start_matches(BLANKS);
    while text.starts_with(['!', '&']) {
        let word = text.find(char::is_whitespace).unwrap_or(text.len());
        text = text[word..].trim_start_matches(BLANKS);
    }
    text
}

/// A quoted or plain text, which may go on in the lines below.
fn flow(text: &str, margin: usize) -> (Option<String>, &str) {
    if let Some((value, length)) = quoted(text) {
        let (line, after) = first_line(&text[length..]);
        if without_comment(line).is_empty() {
            return (Some(value), after);
        }
    }
    let (line, mut rest) = first_line(text);
    let mut lines = vec![without_comment(line)];
    // Nothing follows a comment.
    let mut over = lines[0].len() < line.trim_end_matches(BLANKS).len();
    while !over && !rest.is_empty() {
        let (line, after) = first_line(rest);
        let content = &line[indent(line)..];
        if !content.is_empty() && (indent(line) <= margin || content.starts_with('#')) {
            break;
        }
        lines.push(without_comment(content));
        over = lines.last().is_some_and(|kept| kept.len() < content.trim_end_matches(BLANKS).len());
        rest = after;
    }
    while lines.last().is_some_and(|line| line.is_empty()) {
        lines.pop();
    }
    let text = folded(&lines);
    (Some(if is_null(&text) { String::new() } else { text }), rest)
}

fn is_null(text: &str) -> bool {
    matches!(text, "~" | "null" | "Null" | "NULL")
}

/// A line without its comment, which needs a blank before it, and without the blanks at its end.
fn without_comment(line: &str) -> &str {
    let hash = line.match_indices('#').find(|(at, _)| *at == 0 || line[..*at].ends_with(BLANKS));
    line[..hash.map_or(line.len(), |(at, _)| at)].trim_end_matches(BLANKS)
}

/// Lines as one: a line end is a blank, and empty lines are line ends.
fn folded(lines: &[&str]) -> String {
    let mut text = String::new();
    let mut empty = 0;
    for (at, line) in lines.iter().enumerate() {
        if line.is_empty() {
            empty += 1;
            continue;
        }
        if at > 0 {
            push_break(&mut text, empty);
        }
        text.push_str(line);
        empty = 0;
    }
    text
}

/// What stands for a line end with so many empty lines behind it.
fn push_break(text: &mut String, empty: usize) {
    if empty == 0 {
        text.push(' ');
    }
    text.extend(std::iter::repeat_n('\n', empty));
}

/// A text in lines of its own, whose line ends are kept (`|`) or folded (`>`).
struct Block {
    folds: bool,
    /// How much further than the name its lines are indented, if they do not show it.
    indent: Option<usize>,
}

impl Block {
    /// Reads the line that it begins with: the mark, then perhaps a digit and a sign for the end, in any order. The sign
    /// says what becomes of line ends behind the text, which mean nothing here and are always left out.
    fn parse(line: &str) -> Option<Block> {
        let folds = line.starts_with('>');
        let header = without_comment(line.strip_prefix(['|', '>'])?);
        let digits: String = header.chars().filter(|c| !matches!(c, '+' | '-')).collect();
        let signs = header.len() - digits.len();
        let indent = match digits.as_str() {
            "" => None,
            digit => Some(digit.parse().ok().filter(|n| (1..=9).contains(n))?),
        };
        (signs <= 1).then_some(Block { folds, indent })
    }

    fn read<'t>(&self, text: &'t str, margin: usize) -> (String, &'t str) {
        let mut rest = text;
        let mut lines: Vec<&str> = Vec::new();
        let mut depth = self.indent.map(|more| margin + more);
        while !rest.is_empty() {
            let (line, after) = first_line(rest);
            let spaces = line.len() - line.trim_start_matches(' ').len();
            let blank = spaces == line.len();
            if !blank && spaces < *depth.get_or_insert(spaces.max(margin + 1)) {
                break;
            }
            lines.push(line.get(depth.unwrap_or(spaces)..).unwrap_or_default());
            rest = after;
        }
        while lines.last().is_some_and(|line| line.is_empty()) {
            lines.pop();
        }
        (if self.folds { folded_block(&lines) } else { lines.join("\n") }, rest)
    }
}

/// As [`folded`], but lines that begin with a blank stand for themselves.
fn folded_block(lines: &[&str]) -> String {
    let stands = |line: &str| line.starts_with(BLANKS);
    let mut text = String::new();
    let mut before: Option<&str> = None;
    let mut empty = 0;
    for &line in lines {
        if line.is_empty() {
            empty += 1;
            continue;
        }
        match before {
            Some(before) if !stands(before) && !stands(line) => push_break(&mut text, empty),
            before => text.extend(std::iter::repeat_n('\n', empty + usize::from(before.is_some()))),
        }
        text.push_str(line);
        (before, empty) = (Some(line), 0);
    }
    text
}

/// The text in quotes that `text` begins with, and its length. `None` = there is none, or it has no end.
fn quoted(text: &str) -> Option<(String, usize)> {
    let quote = text.chars().next().filter(|c| matches!(c, '"' | '\''))?;
    let mut rest = &text[1..];
    let mut value = String::new();
    // Blanks before a line end are left out, but not those that were written as escapes.
    let mut kept = 0;
    loop {
        let c = rest.chars().next()?;
        rest = &rest[c.len_utf8()..];
        match c {
            '\'' if quote == c && rest.starts_with('\'') => {
                value.push(c);
                rest = &rest[1..];
            }
            c if c == quote => return Some((value, text.len() - rest.len())),
            '\\' if quote == '"' => {
                if let Some(next) = rest.strip_prefix('\n') {
                    let (empty, next) = line_ends(next);
                    value.extend(std::iter::repeat_n('\n', empty));
                    rest = next;
                } else {
                    rest = escape(rest, &mut value)?;
                }
                kept = value.len();
            }
            '\n' => {
                value.truncate(kept + value[kept..].trim_end_matches(BLANKS).len());
                let (empty, next) = line_ends(rest);
                push_break(&mut value, empty);
                rest = next;
                kept = value.len();
            }
            c => value.push(c),
        }
    }
}

/// How many empty lines `text` begins with, and what follows them without the blanks before it.
fn line_ends(text: &str) -> (usize, &str) {
    let mut rest = text.trim_start_matches(BLANKS);
    let mut empty = 0;
    while let Some(next) = rest.strip_prefix('\n') {
        empty += 1;
        rest = next.trim_start_matches(BLANKS);
    }
    (empty, rest)
}

/// Adds the character that is written as a backslash and `text`; gives what follows it.
fn escape<'t>(text: &'t str, value: &mut String) -> Option<&'t str> {
    let c = text.chars().next()?;
    let rest = &text[c.len_utf8()..];
    let digits = match c {
        'x' => 2,
        'u' => 4,
        'U' => 8,
        _ => {
            value.push(match c {
                '0' => '\0',
                'a' => '\u{7}',
                'b' => '\u{8}',
                't' => '\t',
                'n' => '\n',
                'v' => '\u{b}',
                'f' => '\u{c}',
                'r' => '\r',
                'e' => '\u{1b}',
                'N' => '\u{85}',
                '_' => '\u{a0}',
                'L' => '\u{2028}',
                'P' => '\u{2029}',
                other => other,
            });
            return Some(rest);
        }
    };
    let code = |text: &str, digits: usize| u32::from_str_radix(text.get(..digits)?, 16).ok();
    let Some(first) = code(rest, digits) else {
        value.push(c);
        return Some(rest);
    };
    let rest = &rest[digits..];
    // JSON, which is YAML too, writes characters beyond 16 bits as two halves.
    let second = rest.strip_prefix("\\u").and_then(|rest| code(rest, 4)).filter(|low| (0xdc00..0xe000).contains(low));
    if let (0xd800..0xdc00, Some(second)) = (first, second) {
        value.extend(char::from_u32(0x1_0000 + ((first - 0xd800) << 10) + (second - 0xdc00)));
        return Some(&rest[6..]);
    }
    value.push(char::from_u32(first).unwrap_or(char::REPLACEMENT_CHARACTER));
    Some(rest)
}

/// The texts of a mapping in braces, of which `text` is what follows the first one.
fn flow_mapping(text: &str) -> BTreeMap<String, String> {
    let mut texts = BTreeMap::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches([' ', '\t', '\n', ',']);
        if rest.is_empty() || rest.starts_with('}') {
            return texts;
        }
        let (name, after) = flow_item(rest, true);
        rest = after.trim_start_matches([' ', '\t', '\n']);
        let Some(after) = rest.strip_prefix(':') else { continue };
        rest = after.trim_start_matches([' ', '\t', '\n']);
        if rest.starts_with(['{', '[']) {
            rest = after_collection(rest);
        } else {
            let (text, after) = flow_item(rest, false);
            texts.insert(name, text);
            rest = after;
        }
    }
}

/// A name or a text within braces, and what follows it.
fn flow_item(text: &str, is_name: bool) -> (String, &str) {
    if let Some((value, length)) = quoted(text) {
        return (value, &text[length..]);
    }
    let ends = |(at, c): &(usize, char)| match c {
        ',' | '}' | ']' => true,
        ':' => is_name && is_end(&text[at + 1..]),
        _ => false,
    };
    let end = text.char_indices().find(ends).map_or(text.len(), |(at, _)| at);
    let lines: Vec<&str> = text[..end].lines().map(|line| without_comment(line).trim_start_matches(BLANKS)).collect();
    let value = folded(&lines);
    // At least one character, so that reading goes on.
    let end = if end == 0 { text.chars().next().map_or(0, char::len_utf8) } else { end };
    (if is_null(&value) { String::new() } else { value }, &text[end..])
}

/// What follows the list or mapping in brackets that `text` begins with.
fn after_collection(text: &str) -> &str {
    let mut depth = 0_usize;
    // A quote within a plain text is part of it.
    let mut begins = true;
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        if begins && let Some((_, length)) = quoted(rest) {
            (rest, begins) = (&rest[length..], false);
            continue;
        }
        rest = &rest[c.len_utf8()..];
        match c {
            '{' | '[' => depth += 1,
            '}' | ']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth == 0 {
            break;
        }
        begins = matches!(c, '{' | '[' | ',' | ':') || begins && matches!(c, ' ' | '\t' | '\n');
    }
    rest
}

#[cfg(test)]
mod tests;
