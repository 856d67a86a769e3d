//! Walking folders as developers expect it: what version control ignores is left out, hidden files are not.

use super::open::read;
use crate::cancel::{Cancel, OnCancel};
use crate::threads::{self, Thread};
use crossbeam_channel::{Receiver, Sender, bounded, select};
use ignore::{DirEntry, WalkBuilder};
use std::fs::Metadata;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

/// Files with ignore rules that are read in every folder on the way, beside those of git that need no name here.
const CUSTOM_RULES: [&str; 2] = [".rgignore", ".fdignore"];
/// All files with ignore rules that a walk may read.
const RULES: [&str; 5] = [".gitignore", ".ignore", CUSTOM_RULES[0], CUSTOM_RULES[1], ".git/info/exclude"];
/// Most bytes of a file with ignore rules (1 MiB).
const MAX_RULES: u64 = 1024 * 1024;
/// Entries that a walk may be ahead of whoever takes them.
const AHEAD: usize = 256;
/// Braces within braces of a glob pattern. They are read by recursion: two thousand of them overflow a thread's stack, which
/// ends the process.
const MAX_NESTING: usize = 50;

/// A walk through `dir` in the order of names, without following links, git's own folder and what `keep` refuses.
///
/// # Errors
/// A text if the ignore rules that apply to `dir` cannot be read safely.
pub(crate) fn walk(
    dir: &Path,
    keep: impl Fn(&DirEntry) -> bool + Send + Sync + 'static,
) -> Result<WalkBuilder, String> {
    if let Some(odd) = odd_global().or_else(|| dir.ancestors().find_map(odd_rules)) {
        let odd = odd.display();
        return Err(format!("The ignore rules in {odd} are no regular file, too large, or have too many braces"));
    }
    let mut builder = WalkBuilder::new(dir);
    builder.hidden(false).current_dir(dir).sort_by_file_name(std::ffi::OsStr::cmp).filter_entry(move |entry| {
        let is_safe = || !entry.file_type().is_some_and(|kind| kind.is_dir()) || odd_rules(entry.path()).is_none();
        entry.file_name() != ".git" && keep(entry) && is_safe()
    });
    for name in CUSTOM_RULES {
        builder.add_custom_ignore_filename(name);
    }
    Ok(builder)
}

/// What a walk finds, in its order. It goes on ahead on a thread of its own: a folder is read and sorted as a whole, which takes
/// seconds for a million entries, and nothing can interrupt it. So who cancels does not wait; the walk ends at its next entry.
pub(crate) struct Entries {
    found: Receiver<DirEntry>,
    cancelled: Receiver<()>,
    _wakes: OnCancel,
    thread: Option<Thread>,
}

/// Starts a walk. What cannot be read is left out.
///
/// # Errors
/// The system refuses another thread.
pub(crate) fn entries(walk: &WalkBuilder, cancel: &Cancel) -> io::Result<Entries> {
    let (to, found) = bounded(AHEAD);
    let (waiting, cancelled): (Sender<()>, _) = bounded(0);
    let walk = walk.build();
    let work = move || drop(walk.filter_map(Result::ok).try_for_each(|entry| to.send(entry)));
    let thread = Some(threads::run("walk", work)?);
    Ok(Entries { found, cancelled, _wakes: cancel.on_cancel(move || drop(waiting)), thread })
}

impl Iterator for Entries {
    type Item = DirEntry;

    /// `None` = there are no more, or the walk was cancelled.
    fn next(&mut self) -> Option<DirEntry> {
        select! {
            recv(self.found) -> entry => entry.ok(),
            recv(self.cancelled) -> _ => None,
        }
    }
}

impl Drop for Entries {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            thread.abandon();
        }
    }
}

/// Whether a glob pattern, or one of those in the lines of a file, has more braces within each other than can be read.
pub(crate) fn nests_too_deep(globs: &[u8]) -> bool {
    let mut depth = 0_usize;
    globs.iter().any(|byte| {
        depth = match byte {
            b'{' => depth + 1,
            b'}' => depth.saturating_sub(1),
            b'\n' => 0,
            _ => depth,
        };
        depth > MAX_NESTING
    })
}

/// A file with ignore rules in `dir` that must not be read, as a pipe of that name would be waited for, a device or a huge
/// file would fill the memory, and some patterns overflow the stack.
fn odd_rules(dir: &Path) -> Option<PathBuf> {
    RULES.iter().map(|name| dir.join(name)).find(|path| is_odd(path)).or_else(|| odd_worktree(&dir.join(".git")))
}

fn is_odd(path: &Path) -> bool {
    let is_odd = |metadata: Metadata| {
        !metadata.is_file()
            || metadata.len() > MAX_RULES
            || read(path, MAX_RULES).is_ok_and(|text| nests_too_deep(&text))
    };
    path.metadata().is_ok_and(is_odd)
        // The usual way to have none.
        && path.canonicalize().ok().as_deref() != Some(Path::new("/dev/null"))
}

/// The same for what a linked worktree's `.git`, which is a file, leads to: the main repository has its rules.
fn odd_worktree(link: &Path) -> Option<PathBuf> {
    if !link.is_file() {
        return None;
    }
    let first_line = |path: &Path| match read(path, MAX_RULES) {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).lines().next().unwrap_or_default().to_owned()),
        Err(error) if matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::FileTooLarge) => Err(path.to_owned()),
        Err(_) => Ok(String::new()),
    };
    let rules = || {
        let Some(folder) = first_line(link)?.strip_prefix("gitdir: ").map(PathBuf::from) else { return Ok(None) };
        let main = folder.join(first_line(&folder.join("commondir"))?);
        Ok(Some(main.join("info/exclude")).filter(|path| is_odd(path)))
    };
    rules().unwrap_or_else(Some)
}

/// The same for git's configuration of the user and the system, which may name a file with rules for all repositories.
fn odd_global() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let home = set("HOME");
    let named = [set("GIT_CONFIG_GLOBAL"), set("GIT_CONFIG_SYSTEM").or_else(|| Some("/etc/gitconfig".into()))];
    let own = [
        home.as_ref().map(|home| home.join(".gitconfig")),
        set("XDG_CONFIG_HOME").or_else(|| Some(home?.join(".config"))).map(|folder| folder.join("git/config")),
    ];
    let configuration = named.into_iter().chain(own).flatten().find(|path| is_odd(path));
    // Looked for only once the configuration may be read.
    configuration.or_else(|| ignore::gitignore::gitconfig_excludes_path().filter(|path| path.is_file() && is_odd(path)))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Tree(tempfile::TempDir);

    impl Tree {
        fn new(files: &[(&str, &str)]) -> Tree {
            let tree = Tree(tempfile::tempdir().expect("a folder"));
            for (name, text) in files {
                let path = tree.path(name);
                std::fs::create_dir_all(path.parent().expect("a folder")).expect("it is made");
                std::fs::write(path, text).expect("it is written");
            }
            tree
        }

        fn path(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }
    }

    fn walked(tree: &Tree) -> Vec<String> {
        let root = tree.0.path();
        let name = |entry: DirEntry| {
            let path = entry.path().strip_prefix(root).expect("it is below").to_owned();
            path.to_str().expect("a plain name").to_owned()
        };
        let walk = walk(root, |_| true).expect("the rules are fine").build();
        walk.filter_map(Result::ok).map(name).filter(|name| !name.is_empty()).collect()
    }

    #[test]
    fn ignored_files_are_left_out_and_hidden_ones_are_not() {
        let names = ["b.rs", "a.rs", ".hidden", "out/x", "no.tmp", "kept/y", "fd", "rg", ".git/config", "kept/.git/z"];
        let rules = [(".gitignore", "out\n*.tmp\n"), (".fdignore", "fd\n"), (".rgignore", "rg\n")];
        let tree = Tree::new(&[&names.map(|name| (name, ""))[..], &rules].concat());
        assert_eq!(
            walked(&tree),
            [".fdignore", ".gitignore", ".hidden", ".rgignore", "a.rs", "b.rs", "kept", "kept/y"]
        );
    }

    #[test]
    fn who_cancels_does_not_wait_for_the_walk() {
        let tree = Tree::new(&[("a", ""), ("b", "")]);
        let (hold, held) = bounded::<()>(0);
        let walk = walk(tree.0.path(), move |entry| entry.file_name() != "b" || held.recv().is_ok());
        let cancel = Cancel::new();
        let mut entries = entries(&walk.expect("the rules are fine"), &cancel).expect("a thread");
        assert_eq!(entries.by_ref().take(2).count(), 2, "the folder itself and its first file");
        let canceller = cancel.clone();
        let other = std::thread::spawn(move || canceller.cancel());
        assert!(entries.next().is_none());
        other.join().expect("it does not panic");
        // Until here the walk was stuck at the second file.
        drop(entries);
        drop(hold);
    }

    #[test]
    fn rules_that_could_hang_or_fill_the_memory_are_not_read() {
        let tree =
            Tree::new(&[("d/x", ""), ("e/x", ""), ("f/x", ""), ("g/x", ""), ("h/x", ""), ("i/x", ""), ("j/x", "")]);
        std::fs::write(tree.path("j/.gitignore"), format!("x\n{}{}\n", "{".repeat(5000), "}".repeat(5000)))
            .expect("it is written");
        let fifo = tree.path("d/.gitignore");
        rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, rustix::fs::Mode::from_raw_mode(0o600)).expect("a FIFO");
        std::os::unix::fs::symlink("/dev/zero", tree.path("e/.ignore")).expect("a link");
        let sparse = std::fs::File::create(tree.path("f/.fdignore")).expect("it is created");
        sparse.set_len(4 << 30).expect("it is enlarged");
        // No rules at all are fine.
        std::os::unix::fs::symlink("/dev/null", tree.path("i/.gitignore")).expect("a link");
        // Worktrees whose repositories are odd themselves.
        let link = |name: &str, to: &str| {
            std::fs::write(tree.path(name).join(".git"), format!("gitdir: {}\n", tree.path(to).display()))
                .expect("it is written");
        };
        std::fs::create_dir_all(tree.path(".git/worktrees/g")).expect("a folder");
        link("g", ".git/worktrees/g");
        std::os::unix::fs::symlink(&fifo, tree.path(".git/worktrees/g/commondir")).expect("a link");
        std::fs::create_dir_all(tree.path("i/.repo/info")).expect("a folder");
        std::fs::create_dir_all(tree.path(".git/worktrees/h")).expect("a folder");
        link("h", ".git/worktrees/h");
        std::fs::write(tree.path(".git/worktrees/h/commondir"), "../../../i/.repo\n").expect("it is written");
        std::os::unix::fs::symlink("/dev/zero", tree.path("i/.repo/info/exclude")).expect("a link");
        assert_eq!(walked(&tree), ["i", "i/.gitignore", "i/.repo", "i/.repo/info", "i/.repo/info/exclude", "i/x"]);
        for (name, odd) in [
            ("d", "/d/.gitignore"),
            ("e", "/e/.ignore"),
            ("f", "/f/.fdignore"),
            ("g", "/.git/worktrees/g/commondir"),
            ("h", "/../../../i/.repo/info/exclude"),
            ("j", "/j/.gitignore"),
        ] {
            assert!(walk(&tree.path(name), |_| true).is_err_and(|text| text.contains(odd)), "{name}");
        }
    }
}
