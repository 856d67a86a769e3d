//! Where the files of a user and a project are looked for.

use std::path::{Path, PathBuf};

/// Where a user's own files are looked for.
#[derive(Clone)]
pub(crate) struct UserFolders {
    /// The folder of the user's own configuration.
    pub agent_dir: PathBuf,
    pub home: PathBuf,
}

impl UserFolders {
    /// Where the files are that say how the agent works in the folder `cwd`. Those of a project count if the operator trusts it.
    pub(crate) fn places<'a>(&'a self, cwd: &'a Path, project_trusted: bool) -> Places<'a> {
        Places { cwd, agent_dir: &self.agent_dir, home: &self.home, project_trusted }
    }
}

/// Where the files of a user and a project are looked for.
#[derive(Clone, Copy)]
pub(crate) struct Places<'a> {
    /// The session's working directory, absolute.
    pub cwd: &'a Path,
    /// The folder of the user's own configuration.
    pub agent_dir: &'a Path,
    pub home: &'a Path,
    /// The project's own `.pi` and `.agents` folders may say how the agent works. Instruction files are read regardless.
    pub project_trusted: bool,
}
