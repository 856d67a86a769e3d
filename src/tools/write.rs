//! The `write` tool: creates a file or replaces it as a whole.

use super::tool::{Tool, ToolContext, ToolOutput};
use super::{locks, paths};
use crate::files::{check_writable, describe, real_path, replace};
use crate::transcript::ToolSpec;
use serde_json::{Map, Value, json};
use std::path::Path;
use std::sync::LazyLock;

pub(super) struct Write;

static SPEC: LazyLock<ToolSpec> = LazyLock::new(|| ToolSpec {
    name: "write".into(),
    description: "Write a file: it is created, with its parent directories, or replaced as a whole.".into(),
    parameters: json!({
        "type": "object",
        "properties": {
            "path": {"type": "string", "description": "File to write, absolute or relative to the working directory"},
            "content": {"type": "string", "description": "The whole new content"},
        },
        "required": ["path", "content"],
    })
    .into(),
});

impl Tool for Write {
    fn spec(&self) -> &ToolSpec {
        &SPEC
    }

    fn snippet(&self) -> &'static str {
        "Create or overwrite files"
    }

    fn rules(&self) -> &'static [&'static str] {
        &["Use write only for new files and complete rewrites"]
    }

    fn run(&self, arguments: &Map<String, Value>, context: &ToolContext<'_>) -> ToolOutput {
        let text = |name: &str| arguments.get(name).and_then(Value::as_str).unwrap_or_default();
        let (given, content) = (text("path"), text("content"));
        let path = paths::resolve(given, context.cwd, context.home());
        let shown = paths::shown(given, &path, context.cwd);
        let (target, given) = (real_path(&path), shown.as_str());
        let Some(_lock) = locks::lock(&target, context.cancel) else {
            return ToolOutput::aborted();
        };
        let written = check_writable(&target)
            .and_then(|_| std::fs::create_dir_all(target.parent().unwrap_or(Path::new("/"))))
            .and_then(|()| replace(&target, content.as_bytes()));
        match written {
            Ok(()) => ToolOutput::text(format!("Successfully wrote to {given}")),
            Err(error) => ToolOutput::error(format!("Could not write file: {given}. {}", describe(&error))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_support::{Bench, text};
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::time::Duration;

    #[test]
    fn writes_new_files_with_their_folders_and_replaces_old_ones() {
        let bench = Bench::new();
        for content in ["first\n", "second, with ümläuts"] {
            let output = bench.run(&Write, json!({"path": "a/b/c.txt", "content": content}));
            assert_eq!(output, ToolOutput::text("Successfully wrote to a/b/c.txt"));
            assert_eq!(bench.file("a/b/c.txt"), content);
        }
        assert_eq!(bench.path("a/b").read_dir().expect("it is listed").count(), 1, "no temporary file is left");
    }

    #[test]
    fn a_link_is_followed_and_stays_a_link() {
        let bench = Bench::new();
        bench.write("real.txt", "old");
        symlink("real.txt", bench.path("link")).expect("a link");
        symlink("missing.txt", bench.path("dangling")).expect("a link");
        assert!(!bench.run(&Write, json!({"path": "link", "content": "new"})).is_error);
        assert!(!bench.run(&Write, json!({"path": "dangling", "content": "made"})).is_error);
        assert_eq!((bench.file("real.txt"), bench.file("missing.txt")), ("new".into(), "made".into()));
        assert!(bench.path("link").is_symlink() && bench.path("dangling").is_symlink());
    }

    #[test]
    fn what_is_no_file_is_refused_at_once() {
        let bench = Bench::new();
        bench.fifo("fifo");
        bench.write("file", "x");
        for (path, reason) in [
            ("fifo", "EINVAL: not a regular file but a named pipe"),
            (".", "EISDIR: is a directory"),
            ("/dev/null", "EINVAL: not a regular file but a device"),
            ("file/below", "ENOTDIR: not a directory"),
            ("a\0b", "EINVAL: file name contained an unexpected NUL byte"),
        ] {
            let output = bench.run(&Write, json!({"path": path, "content": "x"}));
            assert_eq!(text(&output), format!("Could not write file: {path}. {reason}"));
            assert!(output.is_error);
        }
    }

    #[test]
    fn a_cancelled_call_writes_nothing() {
        let bench = Bench::new();
        bench.cancel.cancel();
        assert_eq!(bench.run(&Write, json!({"path": "f", "content": "x"})), ToolOutput::aborted());
        assert!(!bench.path("f").exists());
    }

    #[test]
    fn a_link_swapped_under_the_writer_never_redirects_it() {
        let bench = Bench::new();
        bench.write("inside", "");
        bench.write("outside", "untouched");
        symlink("inside", bench.path("link")).expect("a link");
        // Once the target is resolved, what the link says no longer matters.
        let target = real_path(&bench.path("link"));
        let stop = crate::cancel::Cancel::new();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.sleep(Duration::ZERO) {
                    let _ = std::fs::remove_file(bench.path("inside"));
                    let _ = symlink("outside", bench.path("inside"));
                }
            });
            for _ in 0..1000 {
                let _ = replace(&target, b"evil");
            }
            stop.cancel();
        });
        assert_eq!(bench.file("outside"), "untouched");
    }

    #[test]
    fn a_folder_that_takes_no_new_file_still_has_its_files_written() {
        let bench = Bench::new();
        bench.write("d/f", "old");
        std::fs::set_permissions(bench.path("d"), std::fs::Permissions::from_mode(0o555)).expect("it is set");
        let output = bench.run(&Write, json!({"path": "d/f", "content": "new"}));
        assert_eq!((output.is_error, bench.file("d/f").as_str()), (false, "new"));
        std::fs::set_permissions(bench.path("d"), std::fs::Permissions::from_mode(0o755)).expect("it is set");
    }
}
