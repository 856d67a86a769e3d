//! The head of a Markdown file: YAML between two lines of three dashes.

use super::yaml;
use std::collections::BTreeMap;

/// The texts of the head by name, and what follows the head. A file without a head is all text.
pub(super) fn parse(text: &str) -> (BTreeMap<String, String>, &str) {
    match split(text) {
        Some((head, body)) => (yaml::texts(head), body),
        None => (BTreeMap::new(), text),
    }
}

fn split(text: &str) -> Option<(&str, &str)> {
    let (first, rest) = text.split_once('\n')?;
    if first.trim_end() != "---" {
        return None;
    }
    let mut at = 0;
    for line in rest.split_inclusive('\n') {
        if line.trim_end() == "---" {
            return Some((&rest[..at], &rest[at + line.len()..]));
        }
        at += line.len();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_parted_from_texts() {
        for text in ["---\nname: x\n---\nbody", "---\r\nname: x\r\n---\r\nbody", "--- \t\nname: x\n---  \nbody"] {
            let (values, body) = parse(text);
            assert_eq!((values.get("name").map(String::as_str), body), (Some("x"), "body"), "{text:?}");
        }
        let (values, body) = parse("---\nname: |\n  ---\n  x\n---\nbody\n---\n");
        assert_eq!((values["name"].as_str(), body), ("---\nx", "body\n---\n"));
        assert_eq!(parse("---\n---\nbody").1, "body");
    }

    #[test]
    fn files_without_a_head_are_all_text() {
        for text in ["", "plain", "---", "---\nname: x\n", "----\nname: x\n---\n", "text\n---\nname: x\n---\n"] {
            assert_eq!(parse(text), (BTreeMap::new(), text), "{text:?}");
        }
    }
}
