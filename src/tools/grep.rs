//! The `grep` tool: lines that match a pattern, found as ripgrep finds them.

pub(super) mod decode;
mod pattern;
mod search;

use super::listing::{self, Listing, checked_glob, limit};
use super::paths;
use super::tool::{Tool, ToolContext, ToolOutput};
use crate::cancel::Cancel;
use crate::files::walk::entries;
use crate::files::{describe, open_regular};
use crate::transcript::ToolSpec;
use ignore::overrides::OverrideBuilder;
use search::{Binary, Line, Searcher};
use serde_json::{Map, Value, json};
use std::fmt::Write;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::LazyLock;

const DEFAULT_LIMIT: usize = 100;
/// Characters of one line; the rest of it is seldom what is looked for.
const MAX_LINE: usize = 500;
/// More lines of context than this are a whole file, for which there is `read`.
const MAX_CONTEXT: f64 = 1000.0;

pub(super) struct Grep;

static SPEC: LazyLock<ToolSpec> = LazyLock::new(|| ToolSpec {
    name: "grep".into(),
    description: format!(
        "Search the contents of files for a regular expression and return the matching lines with file and line number. \
         What .gitignore excludes is left out; hidden files are not. At most {DEFAULT_LIMIT} matches unless limit says \
         otherwise; lines are cut to {MAX_LINE} characters."
    ),
    parameters: json!({
        "type": "object",
        "properties": {
            "pattern": {"type": "string", "description": "Regular expression, or plain text with literal"},
            "path": {"type": "string", "description": "File or directory to search; the working directory if left out"},
            "glob": {"type": "string", "description": "Only files that match this glob pattern, such as *.ts"},
            "ignoreCase": {"type": "boolean", "description": "Do not distinguish upper and lower case"},
            "literal": {"type": "boolean", "description": "The pattern is plain text"},
            "context": {"type": "number", "description": "Lines to show before and after each match"},
            "limit": {"type": "number", "description": "Most matches to return"},
        },
        "required": ["pattern"],
    })
    .into(),
});

impl Tool for Grep {
    fn spec(&self) -> &ToolSpec {
        &SPEC
    }

    fn snippet(&self) -> &'static str {
        "Search file contents for patterns (respects .gitignore)"
    }

    fn rules(&self) -> &'static [&'static str] {
        &[]
    }

    fn run(&self, arguments: &Map<String, Value>, context: &ToolContext<'_>) -> ToolOutput {
        match grep(arguments, context) {
            Ok(_) if context.cancel.is_cancelled() => ToolOutput::aborted(),
            Ok(listing) => listing.finish("No matches found"),
            Err(text) => ToolOutput::error(text),
        }
    }
}

fn grep(arguments: &Map<String, Value>, context: &ToolContext<'_>) -> Result<Listing, String> {
    let text = |name: &str| arguments.get(name).and_then(Value::as_str);
    let flag = |name: &str| arguments.get(name).and_then(Value::as_bool).unwrap_or_default();
    let lines =
        arguments.get("context").and_then(Value::as_f64).map_or(0, |lines| lines.clamp(0.0, MAX_CONTEXT) as usize);
    let target = paths::existing(text("path"), context.cwd, context.home())?;
    let pattern = text("pattern").unwrap_or_default();
    let pattern = pattern::compile(pattern, flag("literal"), flag("ignoreCase"), context.cancel)?;
    let mut search = Search {
        searcher: Searcher::new(pattern, lines),
        cancel: context.cancel,
        found: Found { limit: limit(arguments, DEFAULT_LIMIT), context: lines, ..Found::default() },
    };
    if target.is_dir() {
        search.folder(&target, text("glob"))?;
    } else {
        search.file(&target)?;
    }
    Ok(search.found.into_listing())
}

struct Search<'a> {
    searcher: Searcher,
    cancel: &'a Cancel,
    found: Found,
}

impl Search<'_> {
    fn folder(&mut self, dir: &Path, glob: Option<&str>) -> Result<(), String> {
        let (mut walk, note) = listing::walk(dir, self.cancel)?;
        if let Some(note) = note {
            self.found.listing.note(note);
        }
        if let Some(glob) = glob {
            let glob = checked_glob(glob)?;
            let mut overrides = OverrideBuilder::new(dir);
            overrides.add(glob.strip_prefix("./").unwrap_or(glob)).map_err(|error| error.to_string())?;
            walk.overrides(overrides.build().map_err(|error| error.to_string())?);
        }
        for entry in entries(&walk, self.cancel).map_err(|error| describe(&error))? {
            if self.cancel.is_cancelled() || self.found.is_complete() {
                break;
            }
            if entry.file_type().is_some_and(|kind| kind.is_file())
                && let Ok((file, _)) = open_regular(entry.path())
            {
                let name = entry.path().strip_prefix(dir).unwrap_or(entry.path());
                // One file that cannot be read to its end does not stop the search.
                let _ = self.contents(file, name, Binary::Skip);
            }
        }
        Ok(())
    }

    /// Searches a file that was named itself, whatever is in it.
    fn file(&mut self, path: &Path) -> Result<(), String> {
        let name = path.file_name().map_or(path, Path::new);
        open_regular(path)
            .and_then(|(file, _)| self.contents(file, name, Binary::Split))
            .map_err(|error| format!("{}: {}", describe(&error), path.display()))
    }

    fn contents(&mut self, file: File, name: &Path, binary: Binary) -> io::Result<()> {
        self.found.name = name.to_string_lossy().into_owned();
        self.found.shown_to = 0;
        let file = Cancellable { file, cancel: self.cancel };
        let result =
            decode::text(file).and_then(|text| self.searcher.search(text, binary, |line| self.found.add(line)));
        if self.cancel.is_cancelled() { Ok(()) } else { result }
    }
}

/// A file whose reading ends early when cancelled, so that not even a huge one delays that.
struct Cancellable<'a> {
    file: File,
    cancel: &'a Cancel,
}

impl io::Read for Cancellable<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.cancel.is_cancelled() { Ok(0) } else { self.file.read(buffer) }
    }
}

/// What was found so far, over all files.
#[derive(Default)]
struct Found {
    listing: Listing,
    /// Of the file that is being searched.
    name: String,
    limit: usize,
    matches: usize,
    /// Lines of context that belong to a match.
    context: usize,
    /// Number of the last line of this file that belongs to a match that is shown, its context included.
    shown_to: u64,
    /// There was one more match than is shown.
    more: bool,
    lines_cut: bool,
}

impl Found {
    fn is_complete(&self) -> bool {
        self.more || self.listing.is_full()
    }

    /// Adds the row of one line. `false` = no more are needed.
    fn add(&mut self, line: Line<'_>) -> bool {
        if line.matches && self.matches == self.limit {
            self.more = true;
            return false;
        }
        // That of a match that is not shown any more.
        if !line.matches && self.matches == self.limit && line.number > self.shown_to {
            return true;
        }
        if line.matches {
            self.matches += 1;
            self.shown_to = line.number + self.context as u64;
        }
        let mark = if line.matches { ':' } else { '-' };
        let number = line.number;
        let line = String::from_utf8_lossy(line.bytes);
        let line = line.trim_end_matches(['\r', '\n']);
        let mut row = String::new();
        // Writing to a string cannot fail.
        let _ = write!(row, "{}{mark}{number}{mark} ", self.name);
        match line.char_indices().nth(MAX_LINE) {
            None => row.push_str(line),
            Some((end, _)) => {
                row.push_str(&line[..end]);
                row.push_str("... [truncated]");
                self.lines_cut = true;
            }
        }
        self.listing.push(&row);
        !self.listing.is_full()
    }

    fn into_listing(self) -> Listing {
        let Found { mut listing, limit, more, lines_cut, .. } = self;
        if more {
            let doubled = limit.saturating_mul(2);
            let notice = format!("{limit} matches limit reached. Use limit={doubled} for more, or refine pattern");
            listing.limit_reached(notice, "matchLimitReached", limit);
        }
        if lines_cut {
            let notice = format!("Some lines truncated to {MAX_LINE} chars. Use read tool to see full lines");
            listing.remark(notice, "linesTruncated");
        }
        listing
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_support::{Bench, text};
    use super::*;

    #[test]
    fn matching_lines_are_listed_with_file_and_number() {
        let bench = Bench::new();
        bench.write("b.rs", "fn one() {}\nfn two() {}\r\nstruct X;\n");
        bench.write("a/.hidden.txt", "fn hidden\n");
        bench.write("a/fn.bin", b"fn \0 binary");
        bench.write("latin", b"fn caf\xe9\n");
        bench.write("target/x.rs", "fn ignored\n");
        bench.write(".git/x", "fn of git\n");
        bench.write(".gitignore", "target\n");
        for (arguments, expected) in [
            (
                json!({"pattern": "fn"}),
                "a/.hidden.txt:1: fn hidden\nb.rs:1: fn one() {}\nb.rs:2: fn two() {}\nlatin:1: fn caf\u{fffd}",
            ),
            (json!({"pattern": "^fn t\\w+"}), "b.rs:2: fn two() {}"),
            (json!({"pattern": "\\{\\}$"}), "b.rs:1: fn one() {}"),
            (json!({"pattern": "FN ONE"}), "No matches found"),
            (json!({"pattern": "FN ONE", "ignoreCase": true}), "b.rs:1: fn one() {}"),
            (json!({"pattern": "two() {", "literal": true}), "b.rs:2: fn two() {}"),
            (json!({"pattern": "fn", "glob": "*.txt"}), "a/.hidden.txt:1: fn hidden"),
            (json!({"pattern": "fn", "glob": "./*.rs"}), "b.rs:1: fn one() {}\nb.rs:2: fn two() {}"),
            (json!({"pattern": "fn", "path": "a"}), ".hidden.txt:1: fn hidden"),
            (json!({"pattern": "fn", "path": "target/x.rs"}), "x.rs:1: fn ignored"),
            (json!({"pattern": "two", "context": 1}), "b.rs-1- fn one() {}\nb.rs:2: fn two() {}\nb.rs-3- struct X;"),
            (json!({"pattern": "-e"}), "No matches found"),
        ] {
            assert_eq!(bench.run(&Grep, arguments.clone()), ToolOutput::text(expected), "{arguments}");
        }
        assert!(text(&bench.run(&Grep, json!({"pattern": "fn", "path": "a/fn.bin"}))).starts_with("fn.bin:1: fn "));
    }

    #[test]
    fn context_of_matches_beyond_the_limit_is_not_shown() {
        let bench = Bench::new();
        bench.write("f", "a\nhit\nb\nc\nd\nhit\ne\n");
        let output = bench.run(&Grep, json!({"pattern": "hit", "context": 1, "limit": 1}));
        let notice = "\n\n[1 matches limit reached. Use limit=2 for more, or refine pattern]";
        assert_eq!(text(&output), format!("f-1- a\nf:2: hit\nf-3- b{notice}"));
    }

    #[test]
    fn context_is_told_once_and_across_the_ends_of_chunks() {
        let bench = Bench::new();
        bench.write("f", "a\nhit\nb\nc\nhit\nhit\nd\ne\nf\ng\nhit");
        let expected = "f-1- a\nf:2: hit\nf-3- b\nf-4- c\nf:5: hit\nf:6: hit\nf-7- d\nf-10- g\nf:11: hit";
        assert_eq!(text(&bench.run(&Grep, json!({"pattern": "hit", "context": 1}))), expected);
        assert_eq!(text(&bench.run(&Grep, json!({"pattern": "^$"}))), "No matches found");
        assert!(text(&bench.run(&Grep, json!({"pattern": "z*"}))).ends_with("f:10: g\nf:11: hit"));
        // Lines of 10 bytes, and matches at all distances from the ends of what is read at once.
        let line = |n: usize| format!("{}{n:08}", if n % 6553 < 12 { 'x' } else { '.' });
        let lines: Vec<String> = (1..40_000).map(line).collect();
        bench.write("f", lines.join("\n"));
        let is_hit = |n: usize| lines.get(n.wrapping_sub(1)).is_some_and(|line| line.starts_with('x'));
        let expected: Vec<String> = (1..40_000)
            .filter(|&n: &usize| (n.saturating_sub(3)..=n + 3).any(is_hit))
            .map(|n| format!("f{0}{n}{0} {1}", if is_hit(n) { ':' } else { '-' }, lines[n - 1]))
            .collect();
        let output = bench.run(&Grep, json!({"pattern": "^x", "context": 3}));
        assert_eq!(text(&output), expected.join("\n"));
    }

    #[test]
    fn other_encodings_are_searched_if_they_are_marked() {
        let bench = Bench::new();
        bench.write("utf8", "\u{feff}fn a\n");
        let utf16: Vec<u8> = "\u{feff}fn \u{1f600}\r\nfn b\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
        bench.write("utf16", utf16);
        let output = bench.run(&Grep, json!({"pattern": "^fn"}));
        assert_eq!(text(&output), "utf16:1: fn \u{1f600}\nutf16:2: fn b\nutf8:1: fn a");
    }

    #[test]
    fn limits_are_told() {
        let bench = Bench::new();
        bench.write("f", "match\n".repeat(101));
        let output = bench.run(&Grep, json!({"pattern": "match"}));
        let end = "\nf:100: match\n\n[100 matches limit reached. Use limit=200 for more, or refine pattern]";
        assert!(text(&output).ends_with(end), "{output:?}");
        assert_eq!(output.details, Some(json!({"matchLimitReached": 100})));
        assert_eq!(bench.run(&Grep, json!({"pattern": "match", "limit": 101})).details, None);
        bench.write("f", format!("{}\n", "ä".repeat(501)));
        bench.write("g", format!("{}\n", "ä".repeat(500)));
        let output = bench.run(&Grep, json!({"pattern": "ä"}));
        let expected = format!(
            "f:1: {0}... [truncated]\ng:1: {0}\n\n[Some lines truncated to 500 chars. Use read tool to see full lines]",
            "ä".repeat(500)
        );
        assert_eq!(text(&output), expected);
        bench.write("f", format!("{}\n", "x".repeat(600)).repeat(300));
        let output = bench.run(&Grep, json!({"pattern": "x", "limit": 1e18}));
        let end = "\n\n[50.0KB limit reached. Some lines truncated to 500 chars. Use read tool to see full lines]";
        assert!(text(&output).ends_with(end), "{}", &text(&output)[50_000..]);
    }

    #[test]
    fn what_cannot_be_searched_is_named() {
        let bench = Bench::new();
        bench.fifo("fifo");
        let shown = |name: &str| bench.path(name).display().to_string();
        for (arguments, expected) in [
            (json!({"pattern": "x", "path": "none"}), format!("Path not found: {}", shown("none"))),
            (
                json!({"pattern": "x", "path": "fifo"}),
                format!("EINVAL: not a regular file but a named pipe: {}", shown("fifo")),
            ),
        ] {
            assert_eq!(bench.run(&Grep, arguments), ToolOutput::error(expected));
        }
        for (arguments, part) in [
            (json!({"pattern": "a("}), "unclosed group"),
            (json!({"pattern": "a", "glob": "a["}), "error parsing glob 'a['"),
        ] {
            let output = bench.run(&Grep, arguments);
            assert!(output.is_error && text(&output).contains(part), "{output:?}");
        }
        assert_eq!(text(&bench.run(&Grep, json!({"pattern": "x"}))), "No matches found", "pipes are passed over");
        bench.cancel.cancel();
        assert_eq!(bench.run(&Grep, json!({"pattern": "x"})), ToolOutput::aborted());
    }

    #[test]
    fn huge_files_are_searched_in_bounded_memory() {
        let bench = Bench::new();
        // Sparse, thus full of NUL bytes: in a folder it is passed over at once.
        let sparse = File::create(bench.path("sparse")).expect("it is created");
        sparse.set_len(4 << 30).expect("it is enlarged");
        // A line beyond the limit does not keep the others from being found.
        bench.write("a-long", format!("first match\n{}\nlast match\n", "y".repeat(search::MAX_LINE_BYTES + 1)));
        bench.write("short", "match\n");
        let output = bench.run(&Grep, json!({"pattern": "match"}));
        assert_eq!(output, ToolOutput::text("a-long:1: first match\nshort:1: match"));
    }
}
