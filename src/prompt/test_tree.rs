//! A file tree of a user and a project.

use super::places::Places;
use std::path::{Path, PathBuf};

/// Removed when dropped.
pub(super) struct Tree {
    root: tempfile::TempDir,
    agent_dir: PathBuf,
    home: PathBuf,
}

impl Tree {
    /// A tree with these files.
    pub(super) fn new(files: &[(&str, &str)]) -> Tree {
        let root = tempfile::tempdir().expect("a directory");
        let tree = Tree { agent_dir: root.path().join("agent"), home: root.path().join("home"), root };
        for (name, content) in files {
            tree.write(name, content.as_bytes());
        }
        tree
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
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
