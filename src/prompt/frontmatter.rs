//! The head of a Markdown file: a few `key: value` lines between two lines of three dashes.
//!
//! Of YAML only what such heads are written with is understood: plain and quoted values, values that go on in indented
//! lines, and the block forms `|` and `>`. Anything deeper is passed over.

use std::collections::BTreeMap;

/// The values of the head and the text after it. A file without a head is all text.
pub fn parse(text: &str) -> (BTreeMap<String, String>, &str) {
    let Some((head, body)) = split(text) else { return (BTreeMap::new(), text) };
    let mut values = BTreeMap::new();
    let mut lines = head.lines().peekable();
    while let Some(line) = lines.next() {
        let Some((key, first)) = key_and_value(line) else { continue };
        let mut more = Vec::new();
        while let Some(next) = lines.next_if(|next| next.starts_with([' ', '\t']) || next.trim().is_empty()) {
            more.push(next.trim());
        }
        while more.last().is_some_and(|line| line.is_empty()) {
            more.pop();
        }
        values.insert(key.to_owned(), value(first, &more));
    }
    (values, body)
}

fn split(text: &str) -> Option<(&str, &str)> {
    let rest = text.strip_prefix("---")?;
    let rest = rest.strip_prefix("\r\n").or_else(|| rest.strip_prefix('\n'))?;
    let mut at = 0;
    for line in rest.split_inclusive('\n') {
        if line.trim_end() == "---" {
            return Some((&rest[..at], &rest[at + line.len()..]));
        }
        at += line.len();
    }
    None
}

fn key_and_value(line: &str) -> Option<(&str, &str)> {
    let (key, value) = line.split_once(':')?;
    let plain = !key.is_empty() && key.chars().all(|c| c.is_alphanumeric() || c == '-' || c == '_');
    (plain && (value.is_empty() || value.starts_with([' ', '\t']))).then(|| (key, value.trim()))
}

fn value(first: &str, more: &[&str]) -> String {
    match first.trim_end_matches(['+', '-']) {
        "|" => more.join("\n"),
        ">" => folded(more),
        _ => {
            let lines: Vec<&str> =
                std::iter::once(first).chain(more.iter().copied()).filter(|line| !line.is_empty()).collect();
            unquoted(&lines.join(" "))
        }
    }
}

/// Lines joined by spaces; an empty line is a line break.
fn folded(lines: &[&str]) -> String {
    let paragraphs: Vec<String> = lines.split(|line| line.is_empty()).map(|lines| lines.join(" ")).collect();
    paragraphs.join("\n")
}

fn unquoted(text: &str) -> String {
    if let Some(inner) = text.strip_prefix('\'').and_then(|text| text.strip_suffix('\'')) {
        return inner.replace("''", "'");
    }
    if let Some(inner) = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')) {
        let mut result = String::new();
        let mut chars = inner.chars();
        while let Some(c) = chars.next() {
            match (c, c == '\\') {
                (_, true) => match chars.next() {
                    Some('n') => result.push('\n'),
                    Some('t') => result.push('\t'),
                    Some(other) => result.push(other),
                    None => {}
                },
                (c, false) => result.push(c),
            }
        }
        return result;
    }
    // A comment needs a space before it.
    text.split(" #").next().unwrap_or_default().trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_read_in_the_forms_people_use() {
        for (line, expected) in [
            ("key: plain value", "plain value"),
            ("key: it's: fine # comment", "it's: fine"),
            ("key: 'it''s #quoted'", "it's #quoted"),
            ("key: \"a \\\"b\\\" \\n c\"", "a \"b\" \n c"),
            ("key:", ""),
            ("key: goes on\n  in the next\n  line", "goes on in the next line"),
            ("key: >\n  folded\n  text\n\n  and more\n", "folded text\nand more"),
            ("key: >-\n  folded", "folded"),
            ("key: |\n  line one\n  line two\n", "line one\nline two"),
            ("key: x\nother: y", "x"),
            ("key: first\nlist:\n  - a\n  - b", "first"),
        ] {
            let text = format!("---\n{line}\n---\nbody\n");
            let (values, body) = parse(&text);
            assert_eq!((values.get("key").map(String::as_str), body), (Some(expected), "body\n"), "{line}");
        }
        let (values, body) = parse("---\r\nname: x\r\nflag: true\r\n---\r\nbody");
        assert_eq!((values["name"].as_str(), values["flag"].as_str(), body), ("x", "true", "body"));
    }

    #[test]
    fn files_without_a_head_are_all_text() {
        for text in ["", "plain", "---", "---\nname: x\n", "--- \nname: x\n---\n", "text\n---\nname: x\n---\n"] {
            assert_eq!(parse(text), (BTreeMap::new(), text), "{text:?}");
        }
        assert_eq!(parse("---\n---\nbody").1, "body");
    }
}
