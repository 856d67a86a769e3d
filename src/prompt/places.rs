//! Where the files of a user and a project are looked for.

use std::path::Path;

/// Where the files of a user and a project are looked for.
#[derive(Clone, Copy)]
pub struct Places<'a> {
    /// The session's working directory, absolute.
    pub cwd: &'a Path,
    /// The folder of the user's own configuration.
    pub agent_dir: &'a Path,
    pub home: &'a Path,
    /// The project's own `.pi` and `.agents` folders may say how the agent works. Instruction files are read regardless.
    pub project_trusted: bool,
}
