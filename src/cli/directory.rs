//! Where sessions are registered.

use super::failure::Failure;
use std::ffi::OsString;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Looks a variable of the environment up.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// The bridge directory: the option's, else `PI_BRIDGE_DIR`, else `pi-session-bridge-<uid>` in the folder for temporary
/// files.
///
/// # Errors
/// The default directory is somebody else's. Its name can be guessed, so anybody could have made it, to read what is sent
/// to the sessions that it pretends to have. A directory that was named is taken as it is.
pub fn resolve(option: Option<&str>, environment: Environment<'_>, uid: u32) -> Result<PathBuf, Failure> {
    let variable = |name: &str| environment(name).filter(|value| !value.is_empty());
    if let Some(path) = option.map(PathBuf::from).or_else(|| variable("PI_BRIDGE_DIR").map(PathBuf::from)) {
        return Ok(path);
    }
    let path = temporary(&variable).join(format!("pi-session-bridge-{uid}"));
    match std::fs::symlink_metadata(&path) {
        Ok(found) if !found.is_dir() || found.uid() != uid => {
            Err(Failure::Local(format!("{} is not a directory of yours; it is not used", path.display())))
        }
        // One that is not there is no error: then there are no sessions.
        _ => Ok(path),
    }
}

/// The folder for temporary files, by the rule of Node's `os.tmpdir`.
fn temporary(variable: &dyn Fn(&str) -> Option<OsString>) -> PathBuf {
    let path = ["TMPDIR", "TMP", "TEMP"].into_iter().find_map(variable).unwrap_or_else(|| "/tmp".into());
    // Joining makes nothing of one trailing slash; it matters only where the path is shown.
    Path::new(&path).components().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_option_comes_before_the_variable_before_the_default() {
        for (option, environment, expected) in [
            (Some("/o"), &[("PI_BRIDGE_DIR", "/e"), ("TMPDIR", "/t")][..], "/o"),
            (None, &[("PI_BRIDGE_DIR", "/e"), ("TMPDIR", "/t")], "/e"),
            (None, &[("PI_BRIDGE_DIR", " ")], " "),
            (None, &[("PI_BRIDGE_DIR", ""), ("TMPDIR", "/nowhere/t/")], "/nowhere/t/pi-session-bridge-7"),
            (None, &[("TMPDIR", ""), ("TMP", "/nowhere/b"), ("TEMP", "/c")], "/nowhere/b/pi-session-bridge-7"),
            (None, &[("TEMP", "/nowhere/c")], "/nowhere/c/pi-session-bridge-7"),
        ] {
            let look_up = |name: &str| environment.iter().find(|(n, _)| *n == name).map(|(_, value)| value.into());
            let found = resolve(option, &look_up, 7).expect("nothing is there that could be somebody else's");
            assert_eq!(found, Path::new(expected));
        }
        assert_eq!(temporary(&|_| None), Path::new("/tmp"));
    }

    #[test]
    fn a_default_directory_of_somebody_else_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let uid = rustix::process::getuid().as_raw();
        let tmpdir = |name: &str| (name == "TMPDIR").then(|| folder.path().as_os_str().to_owned());
        let path = folder.path().join(format!("pi-session-bridge-{uid}"));
        std::fs::create_dir(&path).expect("a folder");
        assert_eq!(resolve(None, &tmpdir, uid).expect("it is ours"), path);
        let others = folder.path().join(format!("pi-session-bridge-{}", uid + 1));
        std::fs::create_dir(&others).expect("a folder");
        assert!(resolve(None, &tmpdir, uid + 1).is_err(), "it is not that user's");
        std::fs::rename(&path, folder.path().join("real")).expect("renamed");
        std::os::unix::fs::symlink("real", &path).expect("a link");
        assert!(resolve(None, &tmpdir, uid).is_err(), "a link may lead anywhere");
    }
}
