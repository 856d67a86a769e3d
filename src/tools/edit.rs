//! The `edit` tool: replaces texts in a file.

use super::edit_diff::diff;
use super::edit_match::{Edit as Replacement, Mismatch, apply, with_lf};
use super::tool::{Tool, ToolContext, ToolOutput};
use super::{locks, paths};
use crate::files::{self, check_writable, describe, error_code, real_path, replace};
use crate::json::tolerant;
use crate::transcript::{Block, ToolSpec};
use serde_json::{Map, Value, json};
use std::io;
use std::sync::LazyLock;

/// Largest file in bytes (16 MiB): several copies of it are held while it is edited.
const MAX_FILE: u64 = 16 * 1024 * 1024;
/// A diff of more bytes than this (256 KiB) is left out of the details, which are stored with the session.
const MAX_DIFF: usize = 256 * 1024;
const BOM: &str = "\u{feff}";

pub(super) struct Edit;

static SPEC: LazyLock<ToolSpec> = LazyLock::new(|| ToolSpec {
    name: "edit".into(),
    description:
        "Replace exact texts in one file. Every oldText is matched against the file as it is before the call, \
                  must occur exactly once and must not overlap another one; merge changes that are close together into \
                  one edit."
            .into(),
    parameters: json!({
        "type": "object",
        "properties": {
            "path": {"type": "string", "description": "File to edit, absolute or relative to the working directory"},
            "edits": {
                "type": "array",
                "description": "The replacements",
                "items": {
                    "type": "object",
                    "properties": {
                        "oldText": {"type": "string", "description": "Exact text to replace; unique in the file"},
                        "newText": {"type": "string", "description": "What to put in its place"},
                    },
                    "required": ["oldText", "newText"],
                },
            },
        },
        "required": ["path", "edits"],
    })
    .into(),
});

impl Tool for Edit {
    fn spec(&self) -> &ToolSpec {
        &SPEC
    }

    fn snippet(&self) -> &'static str {
        "Make precise file edits with exact text replacement, including multiple disjoint edits in one call"
    }

    fn rules(&self) -> &'static [&'static str] {
        &[
            "Use edit for targeted changes, with all changes to one file in one call",
            "Keep each oldText of edit as short as it can be while it is unique in the file; never let two overlap",
        ]
    }

    /// Takes `edits`, or each of them, as JSON text, and the older form with one `oldText` and `newText` beside the path.
    fn prepare(&self, mut arguments: Map<String, Value>) -> Map<String, Value> {
        if let Some(edits) = arguments.get_mut("edits") {
            read_text(edits);
            edits.as_array_mut().into_iter().flatten().for_each(read_text);
        }
        let is_text = |name: &str| arguments.get(name).is_some_and(Value::is_string);
        if is_text("oldText") && is_text("newText") {
            let edit: Map<String, Value> = ["oldText", "newText"]
                .into_iter()
                .filter_map(|name| Some((name.to_owned(), arguments.shift_remove(name)?)))
                .collect();
            match arguments.entry("edits").or_insert_with(|| Value::Array(Vec::new())) {
                Value::Array(edits) => edits.push(edit.into()),
                Value::Null => {
                    arguments.insert("edits".into(), json!([edit]));
                }
                first @ (Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_)) => {
                    *first = json!([first.take(), edit])
                }
            }
        }
        arguments
    }

    fn run(&self, arguments: &Map<String, Value>, context: &ToolContext<'_>) -> ToolOutput {
        let given = arguments.get("path").and_then(Value::as_str).unwrap_or_default();
        let text = |edit: &Value, name: &str| edit[name].as_str().unwrap_or_default().to_owned();
        let edits: Vec<Replacement> = arguments
            .get("edits")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .map(|edit| Replacement { old: text(edit, "oldText"), new: text(edit, "newText") })
            .collect();
        if edits.is_empty() {
            return ToolOutput::error("Edit tool input is invalid. edits must contain at least one replacement.");
        }
        let path = paths::resolve(given, context.cwd, context.home());
        let shown = paths::shown(given, &path, context.cwd);
        let (target, given) = (real_path(&path), shown.as_str());
        let Some(_lock) = locks::lock(&target, context.cancel) else {
            return ToolOutput::aborted();
        };
        let content = match files::read(&target, MAX_FILE).and_then(|bytes| {
            check_writable(&target)?;
            Ok(bytes)
        }) {
            Ok(bytes) => match String::from_utf8(bytes) {
                Ok(content) => content,
                Err(error) => return ToolOutput::error(not_utf8(given, error.utf8_error().valid_up_to())),
            },
            Err(error) => return ToolOutput::error(unreadable(given, &error)),
        };
        let (bom, old, edits) = match content.strip_prefix(BOM) {
            Some(rest) => (BOM, rest, edits.into_iter().map(without_bom).collect()),
            None => ("", content.as_str(), edits),
        };
        let new = match apply(old, &edits) {
            Ok(new) => new,
            Err(mismatch) => return ToolOutput::error(explain(mismatch, given, edits.len())),
        };
        if context.cancel.is_cancelled() {
            return ToolOutput::aborted();
        }
        if let Err(error) = replace(&target, [bom, &new].concat().as_bytes()) {
            return ToolOutput::error(unreadable(given, &error));
        }
        ToolOutput {
            content: vec![Block::text(format!("Successfully replaced {} block(s) in {given}.", edits.len()))],
            details: Some(details(given, old, &new)),
            is_error: false,
        }
    }
}

/// Puts what a JSON text stands for in its place; raw line ends and escapes that do not exist are taken as meant.
fn read_text(value: &mut Value) {
    if let Value::String(text) = value
        && let Ok(read @ (Value::Array(_) | Value::Object(_))) = tolerant::parse_whole(text.as_bytes())
    {
        *value = read;
    }
}

/// An edit without the byte order mark, which `read` shows as the first character of a file, and which is not touched.
fn without_bom(edit: Replacement) -> Replacement {
    match edit.old.strip_prefix(BOM) {
        Some(old) => {
            Replacement { old: old.to_owned(), new: edit.new.strip_prefix(BOM).unwrap_or(&edit.new).to_owned() }
        }
        None => edit,
    }
}

fn details(path: &str, old: &str, new: &str) -> Value {
    let diff = diff(path, &with_lf(old), &with_lf(new));
    let mut details = Map::new();
    for (name, text) in [("diff", diff.display), ("patch", diff.patch)] {
        if text.len() <= MAX_DIFF {
            details.insert(name.into(), text.into());
        }
    }
    if let Some(line) = diff.first_changed_line {
        details.insert("firstChangedLine".into(), line.into());
    }
    details.into()
}

/// An error for the model: the symbol alone of those that the system has one for, the words of our own.
fn unreadable(path: &str, error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(_) => format!("Could not edit file: {path}. Error code: {}.", error_code(error)),
        None if error.kind() == io::ErrorKind::FileTooLarge => {
            format!("Could not edit file: {path}. It is {error}; use bash to change it.")
        }
        None => format!("Could not edit file: {path}. {}.", describe(error)),
    }
}

fn not_utf8(path: &str, at: usize) -> String {
    format!("Could not edit file: {path}. It is not UTF-8 text (first at byte {at}); use bash to change it.")
}

fn explain(mismatch: Mismatch, path: &str, edits: usize) -> String {
    let named = |index: usize, alone: &str| if edits == 1 { alone.to_owned() } else { format!("edits[{index}]") };
    match mismatch {
        Mismatch::EmptyOld(_) if edits == 1 => format!("oldText must not be empty in {path}."),
        Mismatch::EmptyOld(index) => format!("edits[{index}].oldText must not be empty in {path}."),
        Mismatch::NotFound(index) => format!(
            "Could not find {} in {path}. The old text must match exactly including all whitespace and newlines.",
            named(index, "the exact text")
        ),
        Mismatch::Several(index, count) => format!(
            "Found {count} occurrences of {} in {path}. The text must be unique. Add more of the lines around it.",
            named(index, "the text")
        ),
        Mismatch::Overlap(first, second) => format!(
            "edits[{first}] and edits[{second}] overlap in {path}. Merge them into one edit or make them disjoint."
        ),
        Mismatch::NoChange => {
            format!("No changes made to {path}. The replacement is equal to what is already there.")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_support::{Bench, text};
    use super::*;

    fn edit(bench: &Bench, edits: Value) -> ToolOutput {
        bench.run(&Edit, json!({"path": "f", "edits": edits}))
    }

    #[test]
    fn a_file_with_bom_and_crlf_keeps_both() {
        let bench = Bench::new();
        bench.write("f", "\u{feff}one\r\ntwo \u{201c}x\u{201d}\r\nthree\r\n");
        let output = edit(
            &bench,
            json!([{"oldText": "one\ntwo \"x\"", "newText": "1\n2"}, {"oldText": "three", "newText": "3"}]),
        );
        assert_eq!(text(&output), "Successfully replaced 2 block(s) in f.");
        assert_eq!(bench.file("f"), "\u{feff}1\r\n2\r\n3\r\n");
        let details = output.details.expect("details");
        assert_eq!(details["firstChangedLine"], 1);
        // As `read` shows it.
        assert!(!edit(&bench, json!([{"oldText": "\u{feff}1", "newText": "\u{feff}one"}])).is_error);
        assert_eq!(bench.file("f"), "\u{feff}one\r\n2\r\n3\r\n");
        assert!(details["diff"].as_str().is_some_and(|diff| diff.contains("+1 1\n")), "{details}");
        assert!(details["patch"].as_str().is_some_and(|patch| patch.starts_with("--- f\n+++ f\n")), "{details}");
    }

    #[test]
    fn older_and_sloppier_forms_are_accepted() {
        let one = json!({"oldText": "a", "newText": "b"});
        for arguments in [
            json!({"path": "f", "edits": [one]}),
            json!({"path": "f", "edits": one}),
            json!({"path": "f", "edits": one.to_string()}),
            json!({"path": "f", "edits": json!([one]).to_string()}),
            json!({"path": "f", "edits": [one.to_string()]}),
            json!({"path": "f", "edits": ["{\"oldText\": \"a\", \"newText\": \"b c\nnew\tline\"}"]}),
            json!({"path": "f", "edits": "[{\"oldText\":\"a\",\"newText\":\"b c\nline one\n\tline two \\d\"}]"}),
            json!({"path": "f", "oldText": "a", "newText": "b"}),
            json!({"path": "f", "edits": [], "oldText": "a", "newText": "b"}),
            json!({"path": "f", "edits": null, "oldText": "a", "newText": "b"}),
            json!({"path": "f", "edits": {"oldText": "c", "newText": "c!"}, "oldText": "a", "newText": "b"}),
        ] {
            let bench = Bench::new();
            bench.write("f", "a c");
            let output = bench.run(&Edit, arguments.clone());
            assert!(!output.is_error, "{arguments}: {output:?}");
            assert!(bench.file("f").starts_with("b c"));
        }
        let bench = Bench::new();
        bench.write("f", "a");
        let output = bench.run(&Edit, json!({"path": "f", "edits": "nonsense"}));
        assert!(text(&output).contains("  - edits.0: must be object\n"), "{output:?}");
    }

    #[test]
    fn what_does_not_fit_is_explained_and_nothing_is_written() {
        let bench = Bench::new();
        let content = "one two two\n";
        bench.write("f", content);
        for (edits, expected) in [
            (json!([]), "Edit tool input is invalid. edits must contain at least one replacement."),
            (
                json!([{"oldText": "x", "newText": ""}]),
                "Could not find the exact text in f. The old text must match exactly including all whitespace and newlines.",
            ),
            (
                json!([{"oldText": "one", "newText": "1"}, {"oldText": "x", "newText": ""}]),
                "Could not find edits[1] in f. The old text must match exactly including all whitespace and newlines.",
            ),
            (
                json!([{"oldText": "two", "newText": "2"}]),
                "Found 2 occurrences of the text in f. The text must be unique. Add more of the lines around it.",
            ),
            (
                json!([{"oldText": "two", "newText": "2"}, {"oldText": "one", "newText": "1"}]),
                "Found 2 occurrences of edits[0] in f. The text must be unique. Add more of the lines around it.",
            ),
            (json!([{"oldText": "", "newText": "2"}]), "oldText must not be empty in f."),
            (
                json!([{"oldText": "one", "newText": "1"}, {"oldText": "", "newText": "2"}]),
                "edits[1].oldText must not be empty in f.",
            ),
            (
                json!([{"oldText": "e two", "newText": "1"}, {"oldText": "one", "newText": "2"}]),
                "edits[1] and edits[0] overlap in f. Merge them into one edit or make them disjoint.",
            ),
            (
                json!([{"oldText": "one", "newText": "one"}]),
                "No changes made to f. The replacement is equal to what is already there.",
            ),
        ] {
            assert_eq!(edit(&bench, edits.clone()), ToolOutput::error(expected), "{edits}");
            assert_eq!(bench.file("f"), content);
        }
    }

    #[test]
    fn what_cannot_be_edited_is_named() {
        let bench = Bench::new();
        bench.fifo("fifo");
        bench.write("latin", b"caf\xe9");
        let sparse = std::fs::File::create(bench.path("sparse")).expect("it is created");
        sparse.set_len(4 << 30).expect("it is enlarged");
        for (path, expected) in [
            ("none", "Error code: ENOENT."),
            (".", "Error code: EISDIR."),
            ("fifo", "EINVAL: not a regular file but a named pipe."),
            ("/dev/zero", "EINVAL: not a regular file but a device."),
            ("latin", "It is not UTF-8 text (first at byte 3); use bash to change it."),
            ("sparse", "It is larger than 16.0MB; use bash to change it."),
            ("a\0b", "EINVAL: file name contained an unexpected NUL byte."),
        ] {
            let output = bench.run(&Edit, json!({"path": path, "oldText": "a", "newText": "b"}));
            assert_eq!(output, ToolOutput::error(format!("Could not edit file: {path}. {expected}")));
        }
    }

    #[test]
    fn parallel_edits_of_one_file_all_arrive() {
        let bench = Bench::new();
        bench.write("f", (0..20).map(|n| format!("<{n}>\n")).collect::<String>());
        std::os::unix::fs::symlink("f", bench.path("link")).expect("a link");
        std::thread::scope(|scope| {
            for n in 0..20 {
                let bench = &bench;
                scope.spawn(move || {
                    let path = if n % 2 == 0 { "f" } else { "link" };
                    let (old, new) = (format!("<{n}>"), format!("[{n}]"));
                    let output = bench.run(&Edit, json!({"path": path, "oldText": old, "newText": new}));
                    assert!(!output.is_error, "{output:?}");
                });
            }
        });
        assert_eq!(bench.file("f"), (0..20).map(|n| format!("[{n}]\n")).collect::<String>());
    }

    #[test]
    fn a_cancelled_call_changes_nothing() {
        let bench = Bench::new();
        bench.write("f", "a");
        bench.cancel.cancel();
        assert_eq!(edit(&bench, json!([{"oldText": "a", "newText": "b"}])), ToolOutput::aborted());
        assert_eq!(bench.file("f"), "a");
    }

    #[test]
    fn a_huge_diff_is_left_out() {
        let bench = Bench::new();
        bench.write("f", "a".repeat(MAX_DIFF) + "b");
        let details = edit(&bench, json!([{"oldText": "b", "newText": "c"}])).details.expect("details");
        assert_eq!(details, json!({"firstChangedLine": 1}));
    }
}
