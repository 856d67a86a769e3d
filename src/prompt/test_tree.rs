//! A file tree of a user and a project.

use super::places::Places;
use std::path::{Path, PathBuf};

/// Removed when dropped.
pub(super) struct Tree {
    _removed: tempfile::TempDir,
    /// Without links, as sessions' folders are.
    root: PathBuf,
    agent_dir: PathBuf,
    home: PathBuf,
}

impl Tree {
    /// A tree with these files.
    pub(super) fn new(files: &[(&str, &str)]) -> Tree {
        let removed = tempfile::tempdir().expect("a directory");
        let root = removed.path().canonicalize().expect("it exists");
        let tree = Tree { _removed: removed, agent_dir: root.join("agent"), home: root.join("home"), root };
        for (name, content) in files {
            tree.write(name, content.as_bytes());
        }
        tree
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Writes a file, with its folders.
    pub(super) fn write(&self, name: &str, content: &[u8]) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().expect("it has a parent")).expect("it is created");
        std::fs::write(path, content).expect("it is written");
    }

    /// The places of a session in `cwd`. They borrow a path that lives as long as the test.
    pub(super) fn places(&self, cwd: &str, project_trusted: bool) -> Places<'_> {
        let cwd: &'static Path = Box::leak(self.path(cwd).into_boxed_path());
        Places { cwd, agent_dir: &self.agent_dir, home: &self.home, project_trusted }
    }
}
