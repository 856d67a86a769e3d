//! The `find` tool: files by the pattern of their name or path.

use super::listing::{self, Listing, checked_glob, is_ignored, limit};
use super::paths;
use super::tool::{Tool, ToolContext, ToolOutput};
use crate::files::describe;
use crate::files::walk::entries;
use crate::transcript::ToolSpec;
use globset::{GlobBuilder, GlobMatcher};
use serde_json::{Map, Value, json};
use std::path::Path;
use std::sync::LazyLock;

const DEFAULT_LIMIT: usize = 1000;

pub(super) struct Find;

static SPEC: LazyLock<ToolSpec> = LazyLock::new(|| {
    ToolSpec {
    name: "find".into(),
    description: format!(
        "Find files and directories by a glob pattern such as *.rs or src/**/*.test.ts. What .gitignore excludes is left \
         out; hidden files are not. Paths are relative to the searched directory; at most {DEFAULT_LIMIT} of them unless \
         limit says otherwise."
    ),
    parameters: json!({
        "type": "object",
        "properties": {
            "pattern": {
                "type": "string",
                "description": "Glob pattern; with a slash in it, it is matched against the path, else against the name",
            },
            "path": {"type": "string", "description": "Directory to search; the working directory if left out"},
            "limit": {"type": "number", "description": "Most results to return"},
        },
        "required": ["pattern"],
    })
    .into(),
}
});

impl Tool for Find {
    fn spec(&self) -> &ToolSpec {
        &SPEC
    }

    fn snippet(&self) -> &'static str {
        "Find files by glob pattern (respects .gitignore)"
    }

    fn rules(&self) -> &'static [&'static str] {
        &[]
    }

    fn run(&self, arguments: &Map<String, Value>, context: &ToolContext<'_>) -> ToolOutput {
        let text = |name: &str| arguments.get(name).and_then(Value::as_str);
        match find(text("pattern").unwrap_or_default(), text("path"), limit(arguments, DEFAULT_LIMIT), context) {
            Ok(Some(listing)) => listing.finish("No files found matching pattern"),
            Ok(None) => ToolOutput::aborted(),
            Err(text) => ToolOutput::error(text),
        }
    }
}

/// `None` = cancelled.
fn find(pattern: &str, path: Option<&str>, limit: usize, context: &ToolContext<'_>) -> Result<Option<Listing>, String> {
    let dir = paths::existing(path, context.cwd, context.home())?;
    if !dir.is_dir() {
        return Err(format!("Not a directory: {}", dir.display()));
    }
    let matcher = Matcher::new(checked_glob(pattern)?)?;
    let (mut walk, note) = listing::walk(&dir, context.cancel)?;
    // Outside of any repository, .gitignore files are meant all the same.
    walk.require_git(dir.ancestors().any(|dir| dir.join(".git").exists()));
    let mut listing = Listing::default();
    let left_out = || {
        ignored_in(pattern, &dir)
            .map(|name| format!("{name} is ignored by version control; name it as path to search it"))
    };
    if let Some(note) = note.or_else(left_out) {
        listing.note(note);
    }
    let mut found = 0;
    let entries = entries(&walk, context.cancel).map_err(|error| describe(&error))?;
    for entry in entries.filter(|entry| entry.depth() > 0) {
        let is_folder = entry.file_type().is_some_and(|kind| kind.is_dir());
        if !matcher.matches(entry.path(), is_folder) {
            continue;
        }
        if found == limit {
            let notice = format!(
                "{limit} results limit reached. Use limit={} for more, or refine pattern",
                limit.saturating_mul(2)
            );
            listing.limit_reached(notice, "resultLimitReached", limit);
            break;
        }
        found += 1;
        let path = entry.path().strip_prefix(&dir).unwrap_or(entry.path());
        let slash = if is_folder { "/" } else { "" };
        listing.push(&format!("{}{slash}", path.display()));
        if listing.is_full() {
            break;
        }
    }
    // A walk that is cancelled just ends.
    Ok((!context.cancel.is_cancelled()).then_some(listing))
}

/// The ignored folder of `dir` that a pattern names without any wildcard.
fn ignored_in<'p>(pattern: &'p str, dir: &Path) -> Option<&'p str> {
    let name = pattern.trim_start_matches("./").split('/').next()?;
    let folder = dir.join(name);
    let is_plain = !name.is_empty() && !name.contains(['*', '?', '[', '{', '\\']);
    (is_plain && folder.is_dir() && is_ignored(&folder) && !is_ignored(dir)).then_some(name)
}

/// A glob pattern as fd takes it: for the name, or with a slash in it for the whole path; without regard to case unless
/// it has capitals itself.
struct Matcher {
    glob: GlobMatcher,
    whole_path: bool,
    /// The pattern ends in a slash.
    folders_only: bool,
}

impl Matcher {
    fn new(pattern: &str) -> Result<Matcher, String> {
        let mut pattern = pattern;
        while let Some(rest) = pattern.strip_prefix("./") {
            pattern = rest.trim_start_matches('/');
        }
        let folders_only = pattern.len() > 1 && pattern.ends_with('/');
        let pattern = if folders_only { pattern.trim_end_matches('/') } else { pattern };
        let whole_path = pattern.contains('/');
        let anchored = !whole_path || pattern.starts_with('/') || pattern.starts_with("**/");
        let full = if anchored { pattern.to_owned() } else { format!("**/{pattern}") };
        let glob = GlobBuilder::new(&full)
            .literal_separator(true)
            .case_insensitive(!pattern.chars().any(char::is_uppercase))
            .build()
            .map_err(|error| error.to_string())?;
        Ok(Matcher { glob: glob.compile_matcher(), whole_path, folders_only })
    }

    fn matches(&self, path: &Path, is_folder: bool) -> bool {
        if self.folders_only && !is_folder {
            false
        } else if self.whole_path {
            self.glob.is_match(path)
        } else {
            path.file_name().is_some_and(|name| self.glob.is_match(name))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_support::{Bench, text};
    use super::*;

    #[test]
    fn patterns_match_names_or_paths() {
        let bench = Bench::new();
        for name in ["a.rs", "src/B.rs", "src/lib/c.rs", "src/lib/c.txt", "target/x.rs", ".hidden/d.rs", "README"] {
            bench.write(name, "");
        }
        bench.write(".gitignore", "target\n");
        for (pattern, path, expected) in [
            ("*.rs", None, &[".hidden/d.rs", "a.rs", "src/B.rs", "src/lib/c.rs"][..]),
            ("*.rs", Some("src"), &["B.rs", "lib/c.rs"]),
            ("b.rs", None, &["src/B.rs"]),
            ("A.rs", None, &[]),
            ("readme", None, &["README"]),
            ("src/*.rs", None, &["src/B.rs"]),
            ("src/**/*.rs", None, &["src/B.rs", "src/lib/c.rs"]),
            ("./src/*.rs", None, &["src/B.rs"]),
            ("././a.rs", None, &["a.rs"]),
            ("lib/", None, &["src/lib/"]),
            ("./src/lib/", None, &["src/lib/"]),
            ("a.rs/", None, &[]),
            ("**/c.*", None, &["src/lib/c.rs", "src/lib/c.txt"]),
            ("lib", None, &["src/lib/"]),
            ("{a,c}.rs", None, &["a.rs", "src/lib/c.rs"]),
            ("**", Some("src"), &["B.rs", "lib/", "lib/c.rs", "lib/c.txt"]),
            ("x.rs", None, &[]),
        ] {
            let output = bench.run(&Find, json!({"pattern": pattern, "path": path}));
            let expected =
                if expected.is_empty() { "No files found matching pattern".to_owned() } else { expected.join("\n") };
            assert_eq!(output, ToolOutput::text(expected), "{pattern}");
        }
        let absolute = bench.path("src/*.rs").display().to_string();
        assert_eq!(text(&bench.run(&Find, json!({"pattern": absolute}))), "src/B.rs");
    }

    #[test]
    fn ignore_rules_need_no_repository_unless_there_is_one() {
        let bench = Bench::new();
        bench.write("repo/.git/HEAD", "");
        bench.write("repo/x", "");
        bench.write(".gitignore", "x\n");
        bench.write("plain/x", "");
        assert_eq!(
            text(&bench.run(&Find, json!({"pattern": "x", "path": "plain"}))),
            "No files found matching pattern"
        );
        assert_eq!(text(&bench.run(&Find, json!({"pattern": "x", "path": "repo"}))), "x");
    }

    #[test]
    fn ignored_folders_that_are_named_are_told() {
        let bench = Bench::new();
        for name in [".git/HEAD", "target/x.rs", "target/y.tmp"] {
            bench.write(name, "");
        }
        bench.write(".gitignore", "target/\n*.tmp\n");
        let found = |pattern: &str, path: Option<&str>| {
            text(&bench.run(&Find, json!({"pattern": pattern, "path": path}))).to_owned()
        };
        let target = bench.path("target").display().to_string();
        let searched = format!("\n\n[{target} is ignored by version control; it was searched all the same]");
        assert_eq!(found("*", Some("target")), format!("x.rs\ny.tmp{searched}"));
        assert_eq!(found("none", Some("target")), format!("No files found matching pattern{searched}"));
        let left_out = "[target is ignored by version control; name it as path to search it]";
        for pattern in ["target/**", "./target/x.rs", "target", "target/"] {
            assert_eq!(found(pattern, None), format!("No files found matching pattern\n\n{left_out}"), "{pattern}");
        }
        assert_eq!(found("none", None), "No files found matching pattern");
    }

    #[test]
    fn limits_are_told() {
        let bench = Bench::new();
        for n in 0..300 {
            bench.write(&format!("{n:03}{}", "x".repeat(200)), "");
        }
        let output = bench.run(&Find, json!({"pattern": "*", "limit": 2}));
        assert!(text(&output).ends_with("\n\n[2 results limit reached. Use limit=4 for more, or refine pattern]"));
        assert_eq!(output.details, Some(json!({"resultLimitReached": 2})));
        let output = bench.run(&Find, json!({"pattern": "*", "limit": 300}));
        assert!(text(&output).ends_with("\n\n[50.0KB limit reached]"), "{}", &text(&output)[50_000..]);
        let few = bench.run(&Find, json!({"pattern": "00*", "limit": 10}));
        assert_eq!(few.details, None, "exactly as many as asked for");
    }

    #[test]
    fn what_cannot_be_searched_is_named() {
        let bench = Bench::new();
        bench.write("f", "");
        let shown = |name: &str| bench.path(name).display().to_string();
        for (arguments, expected) in [
            (json!({"pattern": "*", "path": "none"}), format!("Path not found: {}", shown("none"))),
            (json!({"pattern": "*", "path": "f"}), format!("Not a directory: {}", shown("f"))),
        ] {
            assert_eq!(bench.run(&Find, arguments), ToolOutput::error(expected));
        }
        let output = bench.run(&Find, json!({"pattern": "a["}));
        assert!(output.is_error && text(&output).contains("error parsing glob 'a['"), "{output:?}");
        bench.cancel.cancel();
        assert_eq!(bench.run(&Find, json!({"pattern": "*"})), ToolOutput::aborted());
    }
}
