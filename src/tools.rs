//! The tools a model can call; one file per tool.

mod bash;
mod changes;
pub(crate) mod child;
mod edit;
mod edit_diff;
mod edit_match;
mod environment;
mod find;
mod grep;
mod listing;
mod locks;
mod ls;
mod output;
mod paths;
mod processes;
mod question;
mod read;
mod redact;
pub(crate) mod runner;
#[cfg(test)]
mod test_support;
mod tool;
mod truncate;
mod validate;
mod watched;
mod write;

use crate::files::real_path;
pub(crate) use changes::{ChangedFiles, Changes};
pub use edit_diff::diff;
pub use edit_match::{Edit as Replacement, Mismatch, apply, with_lf};
pub(crate) use environment::{child_environment, without_hooks};
pub(crate) use redact::{MIN_SECRET, Redaction};
use serde_json::{Map, Value};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
pub(crate) use tool::{Tool, ToolContext, ToolOutput};
pub(crate) use validate::check;

/// The tools that a session has unless it is told otherwise, in the order in which models see them.
pub(crate) const DEFAULT_TOOLS: [&str; 4] = ["read", "bash", "edit", "write"];

/// The tool that asks people.
pub(crate) const QUESTION: &str = "question";

static ALL: [&dyn Tool; 8] =
    [&read::Read, &bash::Bash, &edit::Edit, &write::Write, &grep::Grep, &find::Find, &ls::Ls, &question::Question];

/// The tool of that name.
pub(crate) fn by_name(name: &str) -> Option<&'static dyn Tool> {
    ALL.into_iter().find(|tool| tool.spec().name == name)
}

/// One file, whatever its names are.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) enum FileId {
    /// The numbers of its device and of itself.
    There(u64, u64),
    NotYet(PathBuf),
}

/// The file that a call of a tool reads or changes, as far as its arguments say so.
pub(crate) fn file_of(tool: &dyn Tool, arguments: &Map<String, Value>, cwd: &Path, home: &Path) -> Option<FileId> {
    let one_file = matches!(&*tool.spec().name, "read" | "edit" | "write" | "grep");
    let path = arguments.get("path").filter(|_| one_file)?.as_str()?;
    let path = paths::resolve(path, cwd, Some(home));
    match path.metadata() {
        Ok(found) if found.is_dir() => None,
        Ok(file) => Some(FileId::There(file.dev(), file.ino())),
        Err(_) => Some(FileId::NotYet(real_path(&path))),
    }
}

/// The file or folder that a call is about, by its name and without links, as far as its arguments say so.
pub(crate) fn path_of(
    tool: &dyn Tool,
    arguments: &Map<String, Value>,
    cwd: &Path,
    home: &Path,
) -> Option<(PathBuf, PathBuf)> {
    let path = match (&*tool.spec().name, arguments.get("path").and_then(Value::as_str)) {
        ("read" | "edit" | "write" | "ls" | "grep" | "find", Some(path)) => path,
        ("ls" | "grep" | "find", None) => ".",
        _ => return None,
    };
    let named = paths::resolve(path, cwd, Some(home));
    let real = without_links(&named);
    Some((named, real))
}

/// The path without links, also where folders on its way are still to be made.
fn without_links(path: &Path) -> PathBuf {
    match (path.canonicalize(), path.parent(), path.file_name()) {
        (Ok(real), ..) => real,
        (Err(_), Some(parent), Some(name)) => real_path(&without_links(parent).join(name)),
        (Err(_), ..) => path.to_owned(),
    }
}

/// The tools that a list of names stands for: the names themselves, `*` for all; or changes to `usual`, if every name
/// begins with `+` or `-`.
///
/// # Errors
/// A text that names what is no tool, or says that the two forms do not mix.
pub(crate) fn select(names: &[String], usual: &[String]) -> Result<Vec<String>, String> {
    let change = |name: &String| name.starts_with(['+', '-']);
    let known = |name: &str| match by_name(name) {
        Some(_) => Ok(name.to_owned()),
        None => Err(format!("there is no tool {name:?}; there are {}", all_names().join(", "))),
    };
    if names.iter().all(change) && !names.is_empty() {
        let mut selected = usual.to_vec();
        for name in names {
            let tool = known(&name[1..])?;
            selected.retain(|other| *other != tool);
            if name.starts_with('+') {
                selected.push(tool);
            }
        }
        return Ok(selected);
    }
    if names.iter().any(change) {
        return Err("Invalid tools option: names and changes (+name, -name) do not mix".into());
    }
    if names.iter().any(|name| name == "*") {
        return Ok(all_names());
    }
    names.iter().map(|name| known(name)).collect()
}

fn all_names() -> Vec<String> {
    ALL.iter().map(|tool| tool.spec().name.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::select;

    #[test]
    fn tools_are_selected_by_name_or_by_change() {
        let strings = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        let usual = strings(&["read", "bash"]);
        for (names, expected) in [
            (&[][..], Some(&[][..])),
            (&["grep", "read"], Some(&["grep", "read"])),
            (&["+grep", "-bash"], Some(&["read", "grep"])),
            (&["+read"], Some(&["bash", "read"])),
            (&["-ls"], Some(&["read", "bash"])),
            (&["nope"], None),
            (&["+nope"], None),
            (&["read", "+grep"], None),
        ] {
            assert_eq!(select(&strings(names), &usual).ok(), expected.map(strings), "{names:?}");
        }
        assert!(select(&strings(&["*"]), &usual).is_ok_and(|all| all.len() >= 7));
    }
}
