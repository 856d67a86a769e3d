//! The bridge directory: where sockets and registry files are, for this daemon and for every other host of sessions that
//! the same user runs.

use crate::files::private;
use rustix::fs::Mode;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::{Pid, getuid, test_kill_process};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::Metadata;
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The longest path of a socket that every client can connect to, bytes: `sun_path` of unix(7) without its final NUL.
const MAX_SOCKET_PATH: usize = 107;
/// Clients that may wait to be accepted; the kernel takes less if the system says so.
const BACKLOG: i32 = 128;

/// Where clients look when nobody tells them anything else. The folder for temporary files is found by Node's rule,
/// because that is what existing clients use.
pub(crate) fn default_root(environment: impl Fn(&str) -> Option<String>) -> PathBuf {
    let found = ["TMPDIR", "TMP", "TEMP"].into_iter().find_map(|name| environment(name).filter(|v| !v.is_empty()));
    let folder = found.unwrap_or_else(|| "/tmp".into());
    let folder = if folder.len() > 1 { folder.strip_suffix('/').unwrap_or(&folder) } else { &folder };
    Path::new(folder).join(format!("pi-session-bridge-{}", getuid().as_raw()))
}

/// A directory that is ours alone.
#[derive(Debug)]
pub(crate) struct BridgeDirectory {
    root: PathBuf,
    pid: u32,
}

impl BridgeDirectory {
    /// Makes the directory, or takes the one that is there if it is safe.
    ///
    /// # Errors
    /// A text that names the path and says why it is not used.
    pub(crate) fn open(root: &Path) -> Result<BridgeDirectory, String> {
        let directory = BridgeDirectory { root: root.to_path_buf(), pid: std::process::id() };
        let socket = directory.daemon_socket();
        if !fits(&socket) {
            let why = "longer than the path of a socket may be";
            return Err(format!("{}: {why}, which is {MAX_SOCKET_PATH} bytes", socket.display()));
        }
        make_private(root)?;
        make_private(&directory.instances())?;
        Ok(directory)
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// The folder of the registry.
    pub(crate) fn instances(&self) -> PathBuf {
        self.root.join("instances")
    }

    /// The daemon's own socket.
    pub(crate) fn daemon_socket(&self) -> PathBuf {
        self.root.join(format!("pi-{}.sock", self.pid))
    }

    /// A session's own socket. A session with a long name goes by `short` instead; if even that is too long it has none.
    pub(crate) fn session_socket(&self, session_id: &str, short: &str) -> Option<PathBuf> {
        let path = |name: &str| self.root.join(format!("pi-{}-{name}.sock", self.pid));
        [path(session_id), path(short)].into_iter().find(|path| fits(path))
    }

    /// The row that always exists.
    pub(crate) fn daemon_row(&self) -> PathBuf {
        self.instances().join(format!("{}.json", self.pid))
    }

    pub(crate) fn session_row(&self, session_id: &str) -> PathBuf {
        self.instances().join(format!("{}-{session_id}.json", self.pid))
    }

    /// What the events of one session leave out. The name is unique over the session's lives.
    pub(crate) fn raw_file(&self, instance_id: &str) -> PathBuf {
        self.raw().join(format!("{}-{instance_id}.jsonl", self.pid))
    }

    fn raw(&self) -> PathBuf {
        self.root.join("raw")
    }

    /// Removes what an earlier process with our own number left behind. Only before there is anything of our own.
    pub(crate) fn sweep_namesake(&self) {
        self.remove_files(|pid| pid == self.pid);
    }

    /// Removes what dead processes left behind. Nothing of a live process is touched.
    pub(crate) fn sweep(&self) {
        let mut dead = BTreeMap::new();
        self.remove_files(|pid| pid != self.pid && *dead.entry(pid).or_insert_with(|| self.is_dead(pid)));
    }

    /// Removes the files of those processes; no file that does not look like one of ours.
    fn remove_files(&self, mut of: impl FnMut(u32) -> bool) {
        let folders: [(PathBuf, &str, &[&str]); 3] = [
            (self.root.clone(), "pi-", &[".sock"]),
            (self.instances(), "", &[".json", ".json.tmp"]),
            (self.raw(), "", &[".jsonl", ".jsonl.compact"]),
        ];
        for (folder, prefix, suffixes) in folders {
            let Ok(entries) = std::fs::read_dir(&folder) else { continue };
            for entry in entries.flatten() {
                let Some(pid) = owner(&entry.file_name(), prefix, suffixes) else { continue };
                let path = entry.path();
                if of(pid)
                    && let Err(e) = std::fs::remove_file(&path)
                {
                    log::debug!("{} is left over and stays: {e}", path.display());
                }
            }
        }
    }

    /// No such process runs, and nobody serves its socket: that may be done by one of another container, whose numbers
    /// mean nothing here.
    fn is_dead(&self, pid: u32) -> bool {
        let number = i32::try_from(pid).ok().and_then(Pid::from_raw);
        number.is_none_or(|pid| test_kill_process(pid) == Err(rustix::io::Errno::SRCH))
            && !serves(&self.root.join(format!("pi-{pid}.sock")))
    }
}

/// The number of the process that made a file of this name.
fn owner(name: &OsStr, prefix: &str, suffixes: &[&str]) -> Option<u32> {
    let name = std::str::from_utf8(name.as_bytes()).ok()?.strip_prefix(prefix)?;
    let stem = suffixes.iter().find_map(|suffix| name.strip_suffix(suffix))?;
    let number = stem.split_once('-').map_or(stem, |(number, _)| number);
    if number.bytes().all(|b| b.is_ascii_digit()) { number.parse().ok() } else { None }
}

fn fits(path: &Path) -> bool {
    path.as_os_str().len() <= MAX_SOCKET_PATH
}

/// Somebody accepts connections there.
fn serves(path: &Path) -> bool {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let Ok(socket) = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None) else {
        return true;
    };
    let Ok(address) = SocketAddrUnix::new(path) else { return false };
    !matches!(rustix::net::connect(&socket, &address), Err(rustix::io::Errno::CONNREFUSED | rustix::io::Errno::NOENT))
}

/// Makes a folder that only its owner can enter, or makes sure that the one that is there is such a folder.
fn make_private(path: &Path) -> Result<(), String> {
    let failed = |e: io::Error| format!("{}: {e}", path.display());
    let stats = match path.symlink_metadata() {
        Err(e) if e.kind() == ErrorKind::NotFound => {
            private::create_folder(path).map_err(failed)?;
            path.symlink_metadata().map_err(failed)?
        }
        other => other.map_err(failed)?,
    };
    if let Some(why) = unsafe_because(&stats, getuid().as_raw()) {
        return Err(format!("{} {why}", path.display()));
    }
    if stats.mode() & 0o077 != 0 {
        log::info!("{} was open to other users and is private now", path.display());
        private::close_folder(path).map_err(failed)?;
    }
    Ok(())
}

fn unsafe_because(stats: &Metadata, uid: u32) -> Option<String> {
    if stats.is_symlink() {
        Some("is a symbolic link, which somebody else may turn elsewhere".into())
    } else if !stats.is_dir() {
        Some("is no directory".into())
    } else if stats.uid() != uid {
        Some(format!("belongs to another user (uid {})", stats.uid()))
    } else {
        None
    }
}

/// Listens on a socket that only its owner can connect to. What is there already was left by a dead process.
///
/// # Errors
/// Those of the system; the path must not be too long.
pub(crate) fn listen(path: &Path) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    // The file gets the permissions that its socket has when it is bound, so that it never has any others.
    rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    let address = SocketAddrUnix::new(path)?;
    match rustix::net::bind(&socket, &address) {
        Err(rustix::io::Errno::ADDRINUSE) => {
            std::fs::remove_file(path)?;
            rustix::net::bind(&socket, &address)?;
        }
        other => other?,
    }
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixStream;

    fn folder() -> tempfile::TempDir {
        tempfile::tempdir().expect("a folder")
    }

    fn mode(path: &Path) -> u32 {
        path.symlink_metadata().expect("it exists").mode() & 0o777
    }

    #[test]
    fn the_default_directory_follows_nodes_rule() {
        let name = format!("pi-session-bridge-{}", getuid().as_raw());
        for (variables, parent) in [
            (&[][..], "/tmp"),
            (&[("TMPDIR", "/a/"), ("TMP", "/b")], "/a"),
            (&[("TMPDIR", ""), ("TMP", "/b")], "/b"),
            (&[("TEMP", "/c")], "/c"),
            (&[("TMPDIR", "/")], "/"),
        ] {
            let root = default_root(|name| {
                variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_string())
            });
            assert_eq!(root, Path::new(parent).join(&name), "{variables:?}");
        }
    }

    #[test]
    fn a_directory_is_made_private_and_tightened() {
        let home = folder();
        let root = home.path().join("a/bridge");
        let directory = BridgeDirectory::open(&root).expect("it is made");
        assert_eq!((mode(&root), mode(&directory.instances())), (0o700, 0o700));
        for path in [&root, &directory.instances()] {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777)).expect("opened");
        }
        BridgeDirectory::open(&root).expect("it is taken");
        assert_eq!((mode(&root), mode(&directory.instances())), (0o700, 0o700));
    }

    #[test]
    fn what_somebody_else_controls_is_refused() {
        let home = folder();
        let (target, link, file) = (home.path().join("t"), home.path().join("link"), home.path().join("file"));
        std::fs::create_dir(&target).expect("a folder");
        symlink(&target, &link).expect("a link");
        std::fs::write(&file, "").expect("a file");
        let error = |path: &Path| BridgeDirectory::open(path).expect_err("refused");
        assert!(error(&link).contains("symbolic link"), "{}", error(&link));
        assert!(error(&file).contains("no directory"), "{}", error(&file));
        symlink(home.path().join("nowhere"), home.path().join("dangling")).expect("a link");
        assert!(error(&home.path().join("dangling")).contains("symbolic link"));
        // The folder within counts as well.
        let root = home.path().join("b");
        std::fs::create_dir(&root).expect("a folder");
        symlink(&target, root.join("instances")).expect("a link");
        assert!(error(&root).contains("symbolic link"));
        let stats = target.symlink_metadata().expect("it exists");
        assert_eq!(unsafe_because(&stats, stats.uid()), None);
        assert!(unsafe_because(&stats, stats.uid() + 1).is_some_and(|why| why.contains("another user")));
    }

    #[test]
    fn paths_that_no_client_could_use_are_shortened_or_refused() {
        let home = folder();
        let error = BridgeDirectory::open(&home.path().join("x".repeat(100))).expect_err("refused");
        assert!(error.contains("107 bytes"), "{error}");
        let directory = BridgeDirectory { root: "/tmp/pi-session-bridge-1000".into(), pid: 4_194_304 };
        let socket = |id: &str| directory.session_socket(id, &"i".repeat(22)).expect("one fits");
        assert_eq!(socket("a"), Path::new("/tmp/pi-session-bridge-1000/pi-4194304-a.sock"));
        assert!(socket(&"x".repeat(64)).display().to_string().contains("-iiii"));
        let directory = BridgeDirectory { root: format!("/{}", "x".repeat(90)).into(), pid: 1 };
        assert_eq!(directory.session_socket("long-name", &"i".repeat(22)), None);
    }

    #[test]
    fn files_are_told_apart_by_their_names() {
        for (name, prefix, expected) in [
            ("12.json", "", Some(12)),
            ("12-a.json", "", Some(12)),
            ("12-a-b.json", "", Some(12)),
            ("12.json.tmp", "", None),
            ("12a.json", "", None),
            ("-a.json", "", None),
            (".json", "", None),
            ("99999999999.json", "", None),
            ("pi-12.json", "pi-", Some(12)),
            ("12.json", "pi-", None),
            ("pi-12-x.txt", "pi-", None),
        ] {
            assert_eq!(owner(OsStr::new(name), prefix, &[".json"]), expected, "{name}");
        }
    }

    #[test]
    fn the_dead_are_swept_and_nobody_else() {
        let home = folder();
        let directory = BridgeDirectory::open(home.path()).expect("a directory");
        // A number that no process can have, one that this machine's first process has, and one whose socket is served.
        let (dead, alive, served) = (4_194_305, 1, 4_194_306);
        let _listener = listen(&home.path().join(format!("pi-{served}.sock"))).expect("it listens");
        std::fs::create_dir(home.path().join("raw")).expect("a folder");
        let files = |pid: u32| {
            [
                home.path().join(format!("pi-{pid}-a.sock")),
                directory.instances().join(format!("{pid}.json")),
                directory.instances().join(format!("{pid}-a.json")),
                directory.instances().join(format!("{pid}-a.json.tmp")),
                home.path().join(format!("raw/{pid}.jsonl")),
            ]
        };
        let foreign = directory.instances().join("notes.json");
        let own = [directory.daemon_row(), directory.session_row("old")];
        let all = [dead, alive, served].into_iter().flat_map(files).chain([foreign.clone()]).chain(own.clone());
        for path in all {
            std::fs::write(path, "{}").expect("a file");
        }
        drop(listen(&home.path().join(format!("pi-{dead}.sock"))).expect("it listens for a moment"));
        directory.sweep();
        assert!(files(dead).iter().all(|path| !path.exists()));
        assert!(!home.path().join(format!("pi-{dead}.sock")).exists());
        let others = || files(alive).into_iter().chain(files(served)).chain([foreign.clone()]);
        for path in others().chain(own.clone()) {
            assert!(path.exists(), "{}", path.display());
        }
        directory.sweep_namesake();
        for path in others() {
            assert!(path.exists(), "{}", path.display());
        }
        assert!(own.iter().all(|path| !path.exists()), "what an earlier process of our number left");
    }

    #[test]
    fn sockets_are_private_and_replaced() {
        let home = folder();
        let path = home.path().join("pi-1.sock");
        drop(listen(&path).expect("it listens"));
        let listener = listen(&path).expect("a stale file is replaced");
        assert_eq!(mode(&path), 0o600);
        UnixStream::connect(&path).expect("connected");
        drop(listener);
    }
}
