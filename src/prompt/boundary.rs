//! How far links may lead from the files that say how the agent works.
//!
//! Whoever writes into a repository writes its links, too, and what such a file leads to becomes part of every request to
//! the model. So it may be a link only inside of the repository that it is in, and never one to keys or to what the kernel
//! shows as files. What counts is where the opened file really is: folders on the way may be links as well, and all of them
//! may change at any moment.

use super::places::Places;
use crate::files::open_regular;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Component, Path, PathBuf};

/// What the kernel shows as files, and where secrets are handed to programs.
const SYSTEM: [&str; 4] = ["/dev", "/proc", "/run", "/sys"];
/// Folders of keys.
const KEY_FOLDERS: [&str; 13] = [
    "/.ssh/",
    "/.gnupg/",
    "/.aws/",
    "/.azure/",
    "/.kube/",
    "/.docker/",
    "/.password-store/",
    "/.pi-exec/",
    "/.config/gcloud/",
    "/.config/gh/",
    "/.config/nats/",
    "/.local/share/keyrings/",
    "/.mozilla/",
];
/// How the names of files with keys begin.
const KEY_NAMES: [&str; 15] = [
    ".credentials",
    ".env",
    ".git-credentials",
    ".netrc",
    ".npmrc",
    ".pgpass",
    ".pypirc",
    "_netrc",
    "auth.json",
    "credentials",
    "id_dsa",
    "id_ecdsa",
    "id_ed25519",
    "id_rsa",
    "oauth_creds",
];
/// How they end.
const KEY_ENDINGS: [&str; 9] = [".creds", ".jks", ".kdbx", ".key", ".nk", ".p12", ".pem", ".pfx", ".ppk"];

/// The folders below which a file must really be.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Boundary(Vec<PathBuf>);

impl Boundary {
    /// For what is in `folder`, a path without links: the repository around it, else the folder itself. That the path had no
    /// links when the session began is what holds: if one has come since, nothing there is below it any more.
    pub(super) fn of_repository(folder: &Path) -> Boundary {
        Boundary(vec![repository(folder).unwrap_or(folder).to_owned()])
    }

    /// For what is in the folder of the user's own configuration: its repository, and the user's home, where many keep one for
    /// such files. Nobody but the user writes there.
    pub(super) fn of_user(places: &Places<'_>) -> Boundary {
        let real = |path: &Path| path.canonicalize().unwrap_or(path.to_owned());
        let agent_dir = real(places.agent_dir);
        let own = repository(&agent_dir).map(Path::to_owned).unwrap_or(agent_dir);
        Boundary(vec![own, real(places.home)])
    }

    /// For what settings name by its path: this boundary where the path stays inside it by name, else the place itself.
    pub(super) fn of_named(&self, path: &Path) -> Boundary {
        let mut by_name = PathBuf::new();
        for component in path.components() {
            if component == Component::ParentDir {
                by_name.pop();
            } else {
                by_name.push(component);
            }
        }
        if self.0.iter().any(|root| by_name.starts_with(root)) {
            return self.clone();
        }
        let real = path.canonicalize().unwrap_or(by_name);
        let folder = if real.is_dir() { &real } else { real.parent().unwrap_or(&real) };
        Boundary::of_repository(folder)
    }

    /// Opens a regular file that is inside.
    ///
    /// # Errors
    /// As [`open_regular`], and of kind `PermissionDenied` with a text that names where the path leads.
    pub(super) fn open(&self, path: &Path) -> io::Result<File> {
        let (file, _) = open_regular(path)?;
        // The kernel's own word for what was opened, which no change of a link can come before.
        self.check(&std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()))?)?;
        Ok(file)
    }

    /// Whether a folder, which may be a link, is inside; the log tells if it is not.
    pub(super) fn admits_folder(&self, folder: &Path) -> bool {
        match folder.canonicalize().and_then(|real| self.check(&real)) {
            Ok(()) => true,
            Err(error) => {
                log::warn!("what is in {} is left out: {error}", folder.display());
                false
            }
        }
    }

    /// Checks a path without links.
    fn check(&self, real: &Path) -> io::Result<()> {
        let refused = |why: String| Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
        let Some(root) = self.0.iter().find(|root| real.starts_with(root)) else {
            let outside = self.0.first().map(|root| root.display().to_string()).unwrap_or_default();
            return refused(format!("it leads out of {outside}, to {}", real.display()));
        };
        let below = real.strip_prefix(root).unwrap_or(real);
        let is_system = SYSTEM.iter().any(|system| real.starts_with(system) && !root.starts_with(system));
        if is_system || is_key(below) {
            return refused(format!("it leads to {}, which is no place for instructions", real.display()));
        }
        Ok(())
    }
}

/// The nearest folder from `folder` upwards that is a repository.
pub(super) fn repository(folder: &Path) -> Option<&Path> {
    folder.ancestors().find(|dir| dir.join(".git").exists())
}

fn is_key(path: &Path) -> bool {
    let path = format!("/{}/", path.to_string_lossy().to_ascii_lowercase());
    let name = path.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    KEY_FOLDERS.iter().any(|folder| path.contains(folder))
        || KEY_NAMES.iter().any(|start| name.starts_with(start))
        || KEY_ENDINGS.iter().any(|end| name.ends_with(end))
}

#[cfg(test)]
mod tests {
    use super::super::test_tree::Tree;
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn links_lead_no_further_than_their_repository() {
        let tree = Tree::new(&[
            ("r/.git/HEAD", ""),
            ("r/shared/rules.md", "rules"),
            ("r/.ssh/config", "x"),
            ("r/deep/d/x.md", "x"),
            ("plain/in.md", "in"),
            ("out.md", "out"),
            ("r-too/out.md", "the same beginning is another folder"),
        ]);
        for (link, target) in [
            ("r/AGENTS.md", "shared/rules.md"),
            ("r/absolute", tree.path("r/shared/rules.md").to_str().expect("a plain name")),
            ("r/folder", "shared"),
            ("r/deep/d/up.md", "../../shared/rules.md"),
            ("r/again", "AGENTS.md"),
            ("r/out", "../out.md"),
            ("r/out-again", "out"),
            ("r/elsewhere", ".."),
            ("r/there-and-back", "../r/shared/rules.md"),
            ("r/too", "../r-too/out.md"),
            ("r/key", ".ssh/config"),
            ("r/kernel", "/proc/self/status"),
            ("r/by-kernel", "/proc/self/root/etc/passwd"),
            ("r/device", "/dev/zero"),
            ("plain/link", "../out.md"),
            ("plain/own", "in.md"),
        ] {
            symlink(target, tree.path(link)).expect("a link");
        }
        for (folder, file, expected) in [
            ("r", "r/AGENTS.md", true),
            ("r", "r/absolute", true),
            ("r", "r/folder/rules.md", true),
            ("r/deep/d", "r/deep/d/up.md", true),
            ("r", "r/again", true),
            ("r", "r/there-and-back", true),
            ("r", "r/elsewhere/r/shared/rules.md", true),
            ("r", "r/out", false),
            ("r", "r/out-again", false),
            ("r", "r/elsewhere/out.md", false),
            ("r", "r/../out.md", false),
            ("r", "r/too", false),
            ("r", "r/key", false),
            ("r", "r/kernel", false),
            ("r", "r/by-kernel", false),
            ("r", "r/device", false),
            ("plain", "plain/link", false),
            ("plain", "plain/own", true),
        ] {
            let opened = Boundary::of_repository(&tree.path(folder)).open(&tree.path(file));
            assert_eq!(opened.is_ok(), expected, "{file}: {opened:?}");
        }
    }

    #[test]
    fn keys_and_the_kernels_files_are_refused_wherever_they_are() {
        let root = Boundary(vec!["/".into()]);
        for path in ["/proc/1/environ", "/sys/x", "/dev/shm/x", "/run/secrets/x", "/home/u/.ssh/id", "/a/auth.json"] {
            assert!(root.check(Path::new(path)).is_err(), "{path}");
        }
        let home = Boundary(vec!["/home/u".into()]);
        for path in [
            ".netrc",
            ".config/nats/context/x.json",
            "x/ID_RSA",
            "id_ed25519_work",
            "tls/server.key",
            "a.creds",
            ".env.local",
            ".aws",
        ] {
            assert!(home.check(&Path::new("/home/u").join(path)).is_err(), "{path}");
        }
        for path in ["AGENTS.md", "auth/json.md", "keys.md", "nats/x.md", "environment.md"] {
            assert!(home.check(&Path::new("/home/u").join(path)).is_ok(), "{path}");
        }
        // A repository on a disk of memory is one all the same.
        assert!(Boundary(vec!["/dev/shm/r".into()]).check(Path::new("/dev/shm/r/x.md")).is_ok());
    }

    #[test]
    fn named_places_are_boundaries_of_their_own() {
        let tree = Tree::new(&[("p/.git/HEAD", ""), ("p/in/x.md", ""), ("q/x.md", "")]);
        symlink("../q", tree.path("p/link")).expect("a link");
        let project = Boundary::of_repository(&tree.path("p"));
        for (path, own) in [("p/.pi/../in", false), ("p/link/x.md", false), ("p/.pi/../../q", true), ("q/x.md", true)] {
            let expected = if own { Boundary(vec![tree.path("q")]) } else { project.clone() };
            assert_eq!(project.of_named(&tree.path(path)), expected, "{path}");
        }
    }

    #[test]
    fn a_link_that_changes_is_never_followed_outwards() {
        let tree = Tree::new(&[("r/.git/HEAD", ""), ("r/in.md", "in"), ("out.md", "out")]);
        let (link, next) = (tree.path("r/AGENTS.md"), tree.path("r/next"));
        let boundary = Boundary::of_repository(&tree.path("r"));
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for target in ["in.md", "../out.md"].into_iter().cycle() {
                    if done.load(std::sync::atomic::Ordering::Relaxed) {
                        break;
                    }
                    symlink(target, &next).expect("a link");
                    std::fs::rename(&next, &link).expect("it is replaced");
                }
            });
            let mut seen = (0, 0);
            while seen.0 < 100 || seen.1 < 100 {
                match boundary.open(&link).and_then(std::io::read_to_string) {
                    Ok(text) => {
                        assert_eq!(text, "in");
                        seen.0 += 1;
                    }
                    Err(_) => seen.1 += 1,
                }
            }
            done.store(true, std::sync::atomic::Ordering::Relaxed);
        });
    }
}
