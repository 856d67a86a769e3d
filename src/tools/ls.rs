//! The `ls` tool: the entries of one folder.

use super::listing::{Listing, limit};
use super::paths;
use super::tool::{Tool, ToolContext, ToolOutput};
use super::truncate::MAX_BYTES;
use crate::files::describe;
use crate::transcript::ToolSpec;
use serde_json::{Map, Value, json};
use std::collections::BinaryHeap;
use std::io;
use std::path::Path;
use std::sync::LazyLock;

const DEFAULT_LIMIT: usize = 500;

pub(super) struct Ls;

static SPEC: LazyLock<ToolSpec> = LazyLock::new(|| ToolSpec {
    name: "ls".into(),
    description: format!(
        "List a directory in alphabetical order, hidden entries included; directories end in a slash. At most \
         {DEFAULT_LIMIT} entries unless limit says otherwise."
    ),
    parameters: json!({
        "type": "object",
        "properties": {
            "path": {"type": "string", "description": "Directory to list; the working directory if left out"},
            "limit": {"type": "number", "description": "Most entries to return"},
        },
        "required": [],
    })
    .into(),
});

impl Tool for Ls {
    fn spec(&self) -> &ToolSpec {
        &SPEC
    }

    fn snippet(&self) -> &'static str {
        "List directory contents"
    }

    fn rules(&self) -> &'static [&'static str] {
        &[]
    }

    fn run(&self, arguments: &Map<String, Value>, context: &ToolContext<'_>) -> ToolOutput {
        let asked = arguments.get("path").and_then(Value::as_str);
        let dir = match paths::existing(asked, context.cwd, context.home()) {
            Ok(path) if path.is_dir() => path,
            Ok(path) => return ToolOutput::error(format!("Not a directory: {}", path.display())),
            Err(text) => return ToolOutput::error(text),
        };
        let limit = limit(arguments, DEFAULT_LIMIT);
        let entries = match first_entries(&dir, limit, context) {
            Ok(Some(entries)) => entries,
            Ok(None) => return ToolOutput::aborted(),
            Err(error) => return ToolOutput::error(format!("{}: {}", describe(&error), dir.display())),
        };
        let mut listing = Listing::default();
        for (_, name) in entries.iter().take(limit) {
            listing.push(name);
        }
        if entries.len() > limit {
            let notice = format!("{limit} entries limit reached. Use limit={} for more", limit.saturating_mul(2));
            listing.limit_reached(notice, "entryLimitReached", limit);
        }
        listing.finish("(empty directory)")
    }
}

/// Lower-case name for the order, then the name as it is shown.
type Entry = (String, String);

/// The first entries of a folder in alphabetical order, one more than `limit` if there are so many. `None` = cancelled.
/// However large the folder, no more entries are held than could be shown.
fn first_entries(dir: &Path, limit: usize, context: &ToolContext<'_>) -> io::Result<Option<Vec<Entry>>> {
    // A row has at least two bytes, so that more rows than this never fit into a result.
    let kept = limit.min(MAX_BYTES / 2 + 1) + 1;
    let mut first: BinaryHeap<Entry> = BinaryHeap::new();
    for entry in dir.read_dir()? {
        if context.cancel.is_cancelled() {
            return Ok(None);
        }
        let entry = entry?;
        // Links are followed, and what leads nowhere is left out.
        let Ok(metadata) = entry.path().metadata() else { continue };
        let mut name = entry.file_name().to_string_lossy().into_owned();
        let order = name.to_lowercase();
        if metadata.is_dir() {
            name.push('/');
        }
        first.push((order, name));
        if first.len() > kept {
            first.pop();
        }
    }
    Ok(Some(first.into_sorted_vec()))
}

#[cfg(test)]
mod tests {
    use super::super::test_support::{Bench, text};
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn entries_are_listed_in_alphabetical_order() {
        let bench = Bench::new();
        for name in ["b", "A", "a2", ".hidden", "Dir/x", "b_", "B2"] {
            bench.write(name, "");
        }
        symlink("Dir", bench.path("link")).expect("a link");
        symlink("missing", bench.path("dangling")).expect("a link");
        bench.fifo("pipe");
        let output = bench.run(&Ls, json!({}));
        assert_eq!(output, ToolOutput::text(".hidden\nA\na2\nb\nB2\nb_\nDir/\nlink/\npipe"));
        assert_eq!(bench.run(&Ls, json!({"path": "Dir"})), ToolOutput::text("x"));
        std::fs::create_dir(bench.path("empty")).expect("it is created");
        assert_eq!(bench.run(&Ls, json!({"path": "empty"})), ToolOutput::text("(empty directory)"));
    }

    #[test]
    fn what_cannot_be_listed_is_named() {
        let bench = Bench::new();
        bench.write("f", "");
        let file = bench.path("f").display().to_string();
        assert_eq!(bench.run(&Ls, json!({"path": "f"})), ToolOutput::error(format!("Not a directory: {file}")));
        let none = bench.path("none").display().to_string();
        assert_eq!(bench.run(&Ls, json!({"path": "none"})), ToolOutput::error(format!("Path not found: {none}")));
        bench.cancel.cancel();
        assert_eq!(bench.run(&Ls, json!({})), ToolOutput::aborted());
    }

    #[test]
    fn long_listings_are_cut() {
        let bench = Bench::new();
        for n in 0..501 {
            bench.write(&format!("{n:03}{}", "x".repeat(120)), "");
        }
        let output = bench.run(&Ls, json!({"limit": 3.9}));
        let end = "\n\n[3 entries limit reached. Use limit=6 for more]";
        assert!(text(&output).starts_with("000x") && text(&output).ends_with(end), "{output:?}");
        assert_eq!((text(&output).lines().count(), output.details), (5, Some(json!({"entryLimitReached": 3}))));
        let output = bench.run(&Ls, json!({}));
        let end = "\n\n[500 entries limit reached. Use limit=1000 for more. 50.0KB limit reached]";
        assert!(text(&output).ends_with(end), "{}", &text(&output)[51_000..]);
        let details = output.details.expect("details");
        assert_eq!(
            (&details["entryLimitReached"], &details["truncation"]["truncatedBy"]),
            (&json!(500), &json!("bytes"))
        );
        assert!(!text(&bench.run(&Ls, json!({"limit": 501}))).contains("entries limit"));
        assert_eq!(text(&bench.run(&Ls, json!({"limit": -5}))).lines().count(), 3);
    }
}
