//! The instruction files of the user and of the project, from the general to the particular.

use super::boundary::{Boundary, repository};
use super::places::Places;
use super::text_file::{is_there, read, read_own};
use super::xml;
use std::path::{Path, PathBuf};

/// The names under which instructions are found; the first one that a folder has and that may be read is taken.
const NAMES: [&str; 5] = ["AGENTS.override.md", "AGENTS.md", "AGENTS.MD", "CLAUDE.md", "CLAUDE.MD"];

/// The text of the section on instruction files: that of the user's own folder, then those from the root of the file system
/// down to the working directory. `None` = there is none.
pub(super) fn section(places: &Places<'_>) -> Option<String> {
    let skipped = shadowed_repository(places.cwd);
    let project = places.cwd.ancestors().filter(|dir| skipped.as_deref() != Some(*dir));
    let mut dirs: Vec<(&Path, bool)> = project.map(|dir| (dir, false)).collect();
    dirs.push((places.agent_dir, true));
    let mut seen: Vec<PathBuf> = Vec::new();
    let mut blocks = Vec::new();
    for (dir, of_user) in dirs.into_iter().rev() {
        for path in instructions_in(dir) {
            let Ok(real) = path.canonicalize() else { continue };
            if seen.contains(&real) {
                break;
            }
            let boundary = if of_user { Boundary::of_user(places) } else { Boundary::of_repository(dir) };
            match read(&path, &boundary) {
                Ok(text) => {
                    seen.push(real);
                    let shown = path.to_string_lossy();
                    let end = text.trim_end_matches('\n');
                    blocks.push(format!(
                        "<project_instructions path=\"{}\">\n{end}\n</project_instructions>",
                        xml::escaped(&shown)
                    ));
                    break;
                }
                Err(error) => log::warn!("instructions in {} are left out: {error}", path.display()),
            }
        }
    }
    if blocks.is_empty() {
        return None;
    }
    Some(format!("Instructions that come with this machine and project:\n\n{}", blocks.join("\n\n")))
}

/// The files of instructions in a folder, the one that counts most first.
fn instructions_in(dir: &Path) -> impl Iterator<Item = PathBuf> {
    // One path for all of them: most folders have none.
    let mut path = PathBuf::with_capacity(dir.as_os_str().len() + 32);
    path.push(dir);
    NAMES.iter().filter_map(move |name| {
        path.push(name);
        let found = is_there(&path).then(|| path.clone());
        path.pop();
        found
    })
}

/// The root of the main repository around a linked worktree that lies inside it and has instructions of its own: those
/// of the main repository are for the same project, and most often the same.
fn shadowed_repository(cwd: &Path) -> Option<PathBuf> {
    let worktree = repository(cwd)?;
    let link = worktree.join(".git");
    if !link.is_file() {
        return None;
    }
    let text = read_own(&link).ok()?;
    let git_dir = worktree.join(text.strip_prefix("gitdir:")?.trim());
    let worktrees = git_dir.parent().filter(|dir| dir.ends_with(".git/worktrees"))?;
    let main = worktrees.parent()?.parent()?;
    let nested = worktree != main && worktree.starts_with(main);
    (nested && instructions_in(worktree).next().is_some()).then(|| main.to_owned())
}

#[cfg(test)]
mod tests {
    use super::super::test_tree::Tree;
    use super::*;
    use std::os::unix::fs::symlink;

    impl Tree {
        /// The contents of the files that were taken, in order.
        fn taken(&self, cwd: &str) -> Vec<String> {
            let text = section(&self.places(cwd, false)).unwrap_or_default();
            text.split("<project_instructions path=\"")
                .skip(1)
                .filter_map(|block| {
                    Some(block.split_once("\">\n")?.1.split_once("\n</project_instructions>")?.0.to_owned())
                })
                .collect()
        }
    }

    #[test]
    fn files_come_from_the_general_to_the_particular() {
        let tree = Tree::new(&[
            ("p/q/AGENTS.md", "inner"),
            ("p/CLAUDE.md", "outer"),
            ("agent/AGENTS.md", "user"),
            ("p/q/below/AGENTS.md", "not above the working directory"),
        ]);
        assert_eq!(tree.taken("p/q"), ["user", "outer", "inner"]);
        let text = section(&tree.places("p/q", false)).expect("there are some");
        let path = format!("<project_instructions path=\"{}\">\nouter\n", tree.path("p/CLAUDE.md").display());
        assert!(text.contains(&path), "{text}");
        assert_eq!(section(&Tree::new(&[]).places("p", false)), None);
    }

    #[test]
    fn one_file_per_folder_and_each_only_once() {
        let tree = Tree::new(&[
            ("a/AGENTS.override.md", "override"),
            ("a/AGENTS.md", "plain"),
            ("a/b/AGENTS.md", "agents"),
            ("a/b/CLAUDE.md", "claude"),
        ]);
        std::fs::create_dir_all(tree.path("a/b/c/AGENTS.md")).expect("a folder of that name");
        symlink(tree.path("a/b/AGENTS.md"), tree.path("a/b/c/CLAUDE.md")).expect("a link");
        symlink("missing", tree.path("a/b/c/AGENTS.MD")).expect("a link");
        assert_eq!(tree.taken("a/b/c"), ["override", "agents"]);
        symlink(tree.path("a"), tree.path("agent")).expect("a link");
        assert_eq!(tree.taken("a/b"), ["override", "agents"], "the same file by another path");
    }

    #[test]
    fn odd_files_do_no_harm() {
        let tree = Tree::new(&[("w/AGENTS.md", "\u{feff}with mark\n\n")]);
        assert_eq!(tree.taken("w"), ["with mark"]);
        let _ = std::fs::remove_file(tree.path("w/AGENTS.md"));
        rustix::fs::mkfifoat(rustix::fs::CWD, tree.path("w/AGENTS.md"), rustix::fs::Mode::from_raw_mode(0o600))
            .expect("a FIFO");
        assert!(tree.taken("w").is_empty());
    }

    #[test]
    fn a_nested_worktree_shadows_its_repository() {
        let tree = Tree::new(&[("main/AGENTS.md", "main"), ("main/wt/AGENTS.md", "worktree"), ("main/wt/d/x", "")]);
        std::fs::create_dir_all(tree.path("main/.git/worktrees/wt")).expect("a folder");
        assert_eq!(tree.taken("main/wt/d"), ["main", "worktree"]);
        tree.write("main/wt/.git", format!("gitdir: {}\n", tree.path("main/.git/worktrees/wt").display()).as_bytes());
        assert_eq!(tree.taken("main/wt/d"), ["worktree"]);
        assert_eq!(tree.taken("main"), ["main"]);
        let _ = std::fs::remove_file(tree.path("main/wt/AGENTS.md"));
        assert_eq!(tree.taken("main/wt/d"), ["main"], "a worktree without instructions has those of its repository");
    }
}
