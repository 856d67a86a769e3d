//! Clones of repositories as working folders that other hosts have, too (`workspace: "git"`): what can be seen of them without git,
//! which runs only where tools do.

use crate::files;
use std::path::Path;

/// Longest configuration of a repository that is looked at, bytes.
const MAX_CONFIG: u64 = 1 << 20;
/// What a remote's part of it begins with.
const REMOTE: &str = "[remote \"";

/// Looks whether a folder is the top of a git work tree that has a remote.
///
/// # Errors
/// What is missing.
pub(super) fn check(folder: &Path) -> Result<(), String> {
    let name = folder.display();
    let git = folder.join(".git");
    // That of a linked work tree is a file, and leads to where tools may not write.
    if !git.is_dir() {
        return Err(format!("{name} is not the top folder of a git work tree with its repository in it"));
    }
    let config = files::read(&git.join("config"), MAX_CONFIG).map_err(|e| format!("{name}/.git/config: {e}"))?;
    let has_remote = String::from_utf8_lossy(&config).lines().any(|line| line.trim_start().starts_with(REMOTE));
    if has_remote { Ok(()) } else { Err(format!("the git repository in {name} has no remote")) }
}

#[cfg(test)]
mod tests {
    use super::check;

    #[test]
    fn a_clone_has_a_repository_and_a_remote() {
        let folder = tempfile::tempdir().expect("a folder");
        let why = || check(folder.path()).expect_err("it is none");
        assert!(why().contains("is not the top folder of a git work tree"));
        std::fs::write(folder.path().join(".git"), "gitdir: elsewhere").expect("it is written");
        assert!(why().contains("is not the top folder of a git work tree"));
        std::fs::remove_file(folder.path().join(".git")).expect("it is removed");
        std::fs::create_dir(folder.path().join(".git")).expect("it is made");
        assert!(why().contains(".git/config: "));
        let config = folder.path().join(".git/config");
        std::fs::write(&config, "[core]\n\tbare = false\n").expect("it is written");
        assert!(why().ends_with("has no remote"));
        std::fs::write(&config, "[core]\n  [remote \"origin\"]\n\turl = /r.git\n").expect("it is written");
        assert_eq!(check(folder.path()), Ok(()));
    }
}
