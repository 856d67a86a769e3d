//! Files of a working folder that make programs run later, outside of any sandbox: for people who use git or their shell
//! there, and for services that build what is pushed. Tools may write them; that they did is told.

use crate::sync::lock;
use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

const HOOKS: &str = ".git/hooks";
/// Git's examples, which never run.
const SAMPLE: &str = "sample";
const FILES: [&str; 9] = [
    ".git/config",
    ".envrc",
    ".gitlab-ci.yml",
    ".travis.yml",
    ".woodpecker.yml",
    ".drone.yml",
    "Jenkinsfile",
    "azure-pipelines.yml",
    "bitbucket-pipelines.yml",
];
/// With everything in them.
const FOLDERS: [&str; 7] =
    [HOOKS, ".pi", ".github/workflows", ".gitea/workflows", ".forgejo/workflows", ".circleci", ".woodpecker"];
const MAX_DEPTH: usize = 4;
/// Entries that are looked at in all; each takes some 2 µs.
const MAX_ENTRIES: usize = 500;

/// What tells a file from another one, or from itself before it was changed. Programs can set each time but that of the
/// last change of status.
#[derive(PartialEq)]
struct Mark {
    inode: u64,
    size: u64,
    changed: (i64, i64),
}

type Marks = BTreeMap<PathBuf, Mark>;

/// The files as they were seen last.
#[derive(Default)]
pub(super) struct Watched {
    seen: Mutex<Option<Marks>>,
    hooks_changed: AtomicBool,
}

impl Watched {
    /// Takes note of the files as they are before the first call.
    pub(super) fn begin(&self, cwd: &Path) {
        lock(&self.seen).get_or_insert_with(|| look(cwd));
    }

    /// Those that were made, changed or removed since they were looked at last.
    pub(super) fn changes(&self, cwd: &Path) -> Vec<PathBuf> {
        let mut seen = lock(&self.seen);
        let now = look(cwd);
        let before = seen.take().unwrap_or_default();
        let is_new = |(path, mark): &(&PathBuf, &Mark)| before.get(*path) != Some(*mark);
        let mut changes: Vec<PathBuf> = now.iter().filter(is_new).map(|(path, _)| path.clone()).collect();
        changes.extend(before.keys().filter(|path| !now.contains_key(*path)).cloned());
        changes.sort();
        *seen = Some(now);
        if changes.iter().any(|path| path.starts_with(HOOKS)) {
            self.hooks_changed.store(true, Ordering::Relaxed);
        }
        changes
    }

    pub(super) fn hooks_changed(&self) -> bool {
        self.hooks_changed.load(Ordering::Relaxed)
    }
}

fn look(cwd: &Path) -> Marks {
    let mut marks = Marks::new();
    // A worktree's is a file, which says where the repository is.
    if cwd.join(".git").symlink_metadata().is_ok_and(|git| !git.is_dir()) {
        take(cwd, Path::new(".git"), &mut marks);
    }
    for file in FILES {
        take(cwd, Path::new(file), &mut marks);
    }
    for folder in FOLDERS {
        take_all(cwd, Path::new(folder), MAX_DEPTH, &mut marks);
    }
    marks
}

fn take(cwd: &Path, path: &Path, marks: &mut Marks) {
    let Ok(file) = cwd.join(path).symlink_metadata() else { return };
    let mark = Mark { inode: file.ino(), size: file.size(), changed: (file.ctime(), file.ctime_nsec()) };
    marks.insert(path.to_owned(), mark);
}

fn take_all(cwd: &Path, folder: &Path, depth: usize, marks: &mut Marks) {
    let Ok(entries) = cwd.join(folder).read_dir() else { return };
    for entry in entries.flatten().take(MAX_ENTRIES.saturating_sub(marks.len())) {
        let path = folder.join(entry.file_name());
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            if path.extension().is_none_or(|extension| extension != SAMPLE) {
                take(cwd, &path, marks);
            }
        } else if depth > 0 {
            take_all(cwd, &path, depth - 1, marks);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_changed_is_named_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let cwd = folder.path();
        let put = |path: &str, text: &str| {
            let path = cwd.join(path);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("it is made");
            std::fs::write(path, text).expect("it is written");
        };
        let watched = Watched::default();
        let changes = || watched.changes(cwd).iter().map(|path| path.display().to_string()).collect::<Vec<_>>();
        put(".git/config", "as it was");
        put(".git/hooks/pre-commit.sample", "x");
        watched.begin(cwd);
        assert_eq!(changes(), [""; 0]);
        for path in ["src/main.rs", ".git/HEAD", ".git/hooks/post-commit.sample", ".github/CODEOWNERS"] {
            put(path, "x");
        }
        assert_eq!((changes(), watched.hooks_changed()), (vec![], false));
        for path in [".envrc", ".git/config", ".pi/extensions/a/index.ts", ".github/workflows/ci.yml"] {
            put(path, "other");
        }
        let expected = [".envrc", ".git/config", ".github/workflows/ci.yml", ".pi/extensions/a/index.ts"];
        assert_eq!((changes(), watched.hooks_changed()), (expected.map(str::to_owned).to_vec(), false));
        put(".git/hooks/pre-commit", "x");
        std::fs::remove_file(cwd.join(".envrc")).expect("it is removed");
        assert_eq!((changes(), watched.hooks_changed()), (vec![".envrc".into(), ".git/hooks/pre-commit".into()], true));
        assert_eq!(changes(), [""; 0]);
    }
}
