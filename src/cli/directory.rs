//! Where sessions are registered.

use super::failure::Failure;
use crate::socket::directory::default_root;
use std::ffi::OsString;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

/// Looks a variable of the environment up.
pub(super) type Environment<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// The bridge directory: the option's, else `PI_BRIDGE_DIR`, else the one that daemons use when nobody tells them.
///
/// # Errors
/// The default directory is somebody else's. Its name can be guessed, so anybody could have made it, to read what is sent
/// to the sessions that it pretends to have. A directory that was named is taken as it is.
pub(super) fn resolve(option: Option<&str>, environment: Environment<'_>) -> Result<PathBuf, Failure> {
    let variable = || environment("PI_BRIDGE_DIR").filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(path) = option.map(PathBuf::from).or_else(variable) {
        return Ok(path);
    }
    let path = default_root(|name| environment(name)?.into_string().ok());
    match std::fs::symlink_metadata(&path) {
        Ok(found) if !found.is_dir() || found.uid() != rustix::process::getuid().as_raw() => {
            Err(Failure::Local(format!("{} is not a directory of yours; it is not used", path.display())))
        }
        // One that is not there is no error: then there are no sessions.
        _ => Ok(path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_option_comes_before_the_variable_before_the_default() {
        let default = format!("/nowhere/t/pi-session-bridge-{}", rustix::process::getuid().as_raw());
        for (option, environment, expected) in [
            (Some("/o"), &[("PI_BRIDGE_DIR", "/e"), ("TMPDIR", "/t")][..], "/o"),
            (None, &[("PI_BRIDGE_DIR", "/e"), ("TMPDIR", "/t")], "/e"),
            (None, &[("PI_BRIDGE_DIR", " ")], " "),
            (None, &[("PI_BRIDGE_DIR", ""), ("TMPDIR", "/nowhere/t/")], &default),
            (None, &[("TMPDIR", ""), ("TMP", "/nowhere/t"), ("TEMP", "/c")], &default),
            (None, &[("TEMP", "/nowhere/t")], &default),
        ] {
            let look_up = |name: &str| environment.iter().find(|(n, _)| *n == name).map(|(_, value)| value.into());
            let found = resolve(option, &look_up).expect("nothing is there that could be somebody else's");
            assert_eq!(found, PathBuf::from(expected));
        }
    }

    #[test]
    fn a_default_directory_that_may_lead_elsewhere_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let tmpdir = |name: &str| (name == "TMPDIR").then(|| folder.path().as_os_str().to_owned());
        let path = resolve(None, &tmpdir).expect("it is not there yet");
        std::fs::create_dir(&path).expect("a folder");
        assert_eq!(resolve(None, &tmpdir).expect("it is ours"), path);
        std::fs::rename(&path, folder.path().join("real")).expect("renamed");
        std::os::unix::fs::symlink("real", &path).expect("a link");
        assert!(resolve(None, &tmpdir).is_err());
        assert_eq!(resolve(path.to_str(), &tmpdir).expect("it was named"), path);
    }
}
