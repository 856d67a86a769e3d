//! Which sessions there are, across restarts of the daemon: one small file per session in a folder that one daemon owns.
//!
//! What was said in a session is in its session file; here is what the daemon has to know to offer it again.

use crate::clock::now_ms;
use crate::contract::environment::SessionEnvironment;
use crate::contract::identity::{OnRestart, Workspace};
use crate::contract::ids::{InstanceId, SessionId};
use crate::fault;
use crate::files::{self, private};
use crate::sync::lock;
use crate::tools::runner::Narrowing;
use crate::transcript::contents;
use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, test_kill_process};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// The largest file that is read, in bytes; one of a session has less than a thousandth of it.
const MAX_FILE: u64 = 1 << 20;
/// A program that a daemon was just starting when it was killed has the daemon's locks until it runs, which is at once.
pub(super) const LAST_CHILDREN: Duration = Duration::from_secs(1);
/// Ends the names of files that were set aside because nothing could be read from them.
const DAMAGED: &str = "bad";

/// Why a folder cannot be used.
#[derive(Debug)]
pub(crate) enum OpenError {
    /// Another daemon uses it; the text is its process number, if known.
    Taken(String),
    Io(io::Error),
}

/// A session as it is remembered.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SavedSession {
    #[serde(rename = "sessionId")]
    pub id: SessionId,
    pub instance_id: InstanceId,
    /// The session file, absolute.
    pub file: PathBuf,
    pub cwd: PathBuf,
    /// `provider/model`.
    pub model: String,
    #[serde(rename = "thinkingLevel")]
    pub thinking: String,
    pub name: Option<String>,
    pub from: Option<String>,
    /// The session with which it ends.
    #[serde(default)]
    pub parent: Option<InstanceId>,
    /// It is a run, which ends with its prompt.
    #[serde(default)]
    pub run: bool,
    #[serde(default)]
    pub workspace: Workspace,
    /// It has come from another host, and its working folder has not.
    #[serde(default)]
    pub comes_from_elsewhere: bool,
    #[serde(default)]
    pub on_restart: OnRestart,
    pub tools: Vec<String>,
    /// What they are confined to at most.
    #[serde(default)]
    pub sandbox: Narrowing,
    /// The rules that its request added.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<Value>,
    /// What somebody allowed for the rest of the session.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub grants: Vec<String>,
    /// What may be spent in it at most.
    #[serde(default)]
    pub budgets: Value,
    /// Their variables; of secrets the names only.
    #[serde(default)]
    pub environment: SessionEnvironment,
    /// The start of the daemon, counted by [`StateDir::starts`], at which the session was created.
    #[serde(default, rename = "createdAtStart")]
    pub created_at_start: u64,
    /// Its events are published on NATS.
    #[serde(default)]
    pub events: bool,
    /// Callers of the agent protocol are told of tool calls and costs.
    #[serde(default)]
    pub tool_status: bool,
    /// Zero means no end.
    #[serde(with = "seconds")]
    pub max_lifetime: Duration,
    /// Unix time in milliseconds; absent = no end.
    #[serde(rename = "endsAt")]
    pub ends_ms: Option<i64>,
    /// Unix time in milliseconds.
    #[serde(rename = "createdAt")]
    pub created_ms: i64,
}

/// The field of a session file's header that says what is remembered of a run.
#[derive(Deserialize, Serialize)]
pub(super) struct RunHeader {
    pub run: SavedSession,
}

/// The folder of one daemon. Dropping it lets another one use it.
pub(crate) struct StateDir {
    folder: PathBuf,
    starts: Mutex<Option<u64>>,
    lock: File,
}

impl StateDir {
    /// Opens the folder, for this process alone. It is made if it is not there.
    ///
    /// # Errors
    /// [`OpenError`].
    pub(crate) fn open(folder: &Path) -> Result<StateDir, OpenError> {
        let is_new = !folder.exists();
        private::create_folder(folder).and_then(|()| private::close_folder(folder)).map_err(OpenError::Io)?;
        if is_new {
            // So that a power cut does not take it, and with it all sessions: the names of the folder and of those around it.
            folder.ancestors().skip(1).take(3).for_each(|around| drop(files::sync_folder(around)));
        }
        let path = folder.join("lock");
        let lock = private::open_or_create(&path).map_err(OpenError::Io)?;
        let deadline = Instant::now() + LAST_CHILDREN;
        while let Err(e) = flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            if e != rustix::io::Errno::WOULDBLOCK {
                return Err(OpenError::Io(e.into()));
            }
            let holder = files::read_text(&path, 32).unwrap_or_default();
            if is_alive(&holder) || Instant::now() >= deadline {
                return Err(OpenError::Taken(holder));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let state = StateDir { folder: folder.to_path_buf(), starts: Mutex::default(), lock };
        state.claim();
        Ok(state)
    }

    /// Uses the folder together with the process that has it and gave us its `lock`.
    pub(crate) fn share(folder: &Path, lock: OwnedFd) -> StateDir {
        StateDir { folder: folder.to_path_buf(), starts: Mutex::default(), lock: lock.into() }
    }

    /// Says that the folder is this process's.
    pub(crate) fn claim(&self) {
        let number = std::process::id().to_string();
        let _ = self.lock.set_len(0).and_then(|()| self.lock.write_all_at(number.as_bytes(), 0));
    }

    pub(crate) fn lock(&self) -> BorrowedFd<'_> {
        self.lock.as_fd()
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// How often a daemon that had sessions was started on this folder, this time included. It is counted on disk when it is
    /// first asked for, because a start need not wait for the disk.
    pub(crate) fn starts(&self) -> u64 {
        *lock(&self.starts).get_or_insert_with(|| {
            let path = self.folder.join("starts");
            let before = files::read_text(&path, 32).ok().and_then(|text| text.trim().parse::<u64>().ok());
            let starts = before.unwrap_or_default().saturating_add(1);
            let counted = private::replace(&path, |file| {
                file.write_all(starts.to_string().as_bytes())?;
                files::sync(file)
            });
            if let Err(e) = counted {
                log::warn!("numbers of events may come again after a restart: {}: {e}", path.display());
            }
            starts
        })
    }

    /// Another daemon was started on this folder and has ended, so that this one counts as started once more.
    pub(crate) fn start_again(&self) {
        *lock(&self.starts) = None;
    }

    fn path(&self, id: &str) -> PathBuf {
        self.folder.join(format!("{id}.json"))
    }

    /// All sessions that have not come to their end. A file that makes no sense is set aside.
    pub(crate) fn sessions(&self) -> Vec<SavedSession> {
        let Ok(entries) = self.folder.read_dir() else { return Vec::new() };
        let mut sessions = Vec::new();
        for path in entries.flatten().map(|entry| entry.path()) {
            let found = match path.extension().and_then(OsStr::to_str) {
                Some("json") => saved_in(&path),
                Some("jsonl") => run_in(&path),
                _ => continue,
            };
            match found {
                Some(session) if session.ends_ms.is_some_and(|end| end <= now_ms()) => {
                    log::info!("session {} expired meanwhile", session.id);
                    self.forget(&session.id);
                }
                Some(session) => sessions.push(session),
                None => {
                    log::warn!("{} is damaged and was set aside", path.display());
                    let _ = std::fs::rename(&path, path.with_extension(DAMAGED));
                }
            }
        }
        sessions.sort_by_key(|session| session.created_ms);
        sessions
    }

    /// One of them.
    pub(crate) fn session(&self, id: &str) -> Option<SavedSession> {
        saved_in(&self.path(id)).or_else(|| run_in(&self.run_file(id)))
    }

    /// The session file of a run that keeps none. What is remembered of the run is in its header, because it may take no
    /// longer than it has to.
    pub(crate) fn run_file(&self, id: &str) -> PathBuf {
        self.folder.join(format!("{id}.jsonl"))
    }

    /// Remembers a session, in place of what was remembered of it.
    ///
    /// # Errors
    /// What the system says; then the former state is still there.
    pub(crate) fn save(&self, session: &SavedSession) -> io::Result<()> {
        self.write(session, files::sync)
    }

    /// Remembers a new session. When this returns, that survives the end of this process; [`StateDir::sync_new`] makes it
    /// survive that of the machine.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn save_new(&self, session: &SavedSession) -> io::Result<()> {
        self.write(session, |_| Ok(()))
    }

    fn write(&self, session: &SavedSession, sync: fn(&File) -> io::Result<()>) -> io::Result<()> {
        let content = serde_json::to_vec(session)?;
        private::replace(&self.path(&session.id), |file| {
            fault::write_all(file, &content)?;
            sync(file)
        })
    }

    /// Waits until what is remembered of a new session is on the disk, and that there is something.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn sync_new(&self, id: &str) -> io::Result<()> {
        let (file, _) = files::open_regular(&self.path(id))?;
        files::sync(&file)?;
        files::sync_folder(&self.folder)
    }

    /// Where it is kept which signed requests were accepted.
    pub(crate) fn nonces(&self) -> PathBuf {
        self.folder.join("nonces")
    }

    /// Where the files are kept that came with a session's prompts.
    pub(crate) fn attachments(&self, id: &str) -> PathBuf {
        self.folder.join(format!("{id}.files"))
    }

    /// Forgets a session and its files. That none is remembered is no error.
    pub(crate) fn forget(&self, id: &str) {
        let (path, run, files) = (self.path(id), self.run_file(id), self.attachments(id));
        for (path, removed) in [
            (&path, std::fs::remove_file(&path)),
            (&run, std::fs::remove_file(&run)),
            (&files, std::fs::remove_dir_all(&files)),
        ] {
            if let Err(e) = removed
                && e.kind() != io::ErrorKind::NotFound
            {
                log::warn!("cannot remove {}: {e}", path.display());
            }
        }
    }
}

/// Whether there is a process of that number, which may be nobody's by now.
fn is_alive(pid: &str) -> bool {
    let pid = pid.trim().parse().ok().and_then(Pid::from_raw);
    pid.is_some_and(|pid| test_kill_process(pid) != Err(rustix::io::Errno::SRCH))
}

fn saved_in(path: &Path) -> Option<SavedSession> {
    let text = files::read(path, MAX_FILE).ok()?;
    serde_json::from_slice(&text).ok()
}

/// What the header of a run's session file says of the run.
fn run_in(path: &Path) -> Option<SavedSession> {
    let header = contents::read_header(path).ok()?;
    serde_json::from_value(Value::Object(header)).ok().map(|RunHeader { run }| run)
}

/// A lifetime in seconds.
mod seconds {
    use serde::de::Error as _;
    use serde::{Deserialize, Deserializer, Serializer};
    use std::time::Duration;

    pub(super) fn serialize<S: Serializer>(lifetime: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_f64(lifetime.as_secs_f64())
    }

    pub(super) fn deserialize<'a, D: Deserializer<'a>>(from: D) -> Result<Duration, D::Error> {
        Duration::try_from_secs_f64(f64::deserialize(from)?).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transcript::session_file::SessionFile;
    use std::os::unix::fs::PermissionsExt;

    fn session(id: &str) -> SavedSession {
        SavedSession {
            id: id.to_owned().try_into().expect("an id"),
            instance_id: "i".to_owned().try_into().expect("an id"),
            file: "/f.jsonl".into(),
            cwd: "/w".into(),
            model: "a/b".into(),
            thinking: "off".into(),
            name: None,
            from: Some("ci".into()),
            run: false,
            workspace: Workspace::Local,
            comes_from_elsewhere: false,
            on_restart: OnRestart::Hold,
            tools: vec!["read".into()],
            sandbox: Narrowing::default(),
            rules: Vec::new(),
            grants: Vec::new(),
            budgets: Value::Null,
            environment: SessionEnvironment::default(),
            parent: None,
            created_at_start: 3,
            events: true,
            tool_status: false,
            max_lifetime: Duration::from_secs(1800),
            ends_ms: Some(now_ms() + 1_000_000),
            created_ms: 1,
        }
    }

    #[test]
    fn sessions_are_remembered_until_they_are_forgotten() {
        let dir = tempfile::tempdir().expect("a folder");
        let folder = dir.path().join("state/me");
        let state = StateDir::open(&folder).expect("it opens");
        let sessions = [session("a"), SavedSession { created_ms: 2, ends_ms: None, ..session("b") }];
        sessions.iter().for_each(|session| state.save(session).expect("it is saved"));
        state.save(&SavedSession { ends_ms: Some(now_ms() - 1), ..session("late") }).expect("it is saved");
        std::fs::write(folder.join("torn.json"), "{\"sessionId\":").expect("it is written");
        assert_eq!(state.sessions(), sessions);
        assert!(folder.join("torn.bad").exists());
        assert!(!folder.join("late.json").exists());
        state.forget("a");
        state.forget("a");
        assert_eq!(state.sessions(), sessions[1..]);
        for path in ["", "b.json", "lock"].map(|name| folder.join(name)) {
            let mode = path.metadata().expect("it is there").permissions().mode() & 0o777;
            assert_eq!(mode, if path.is_dir() { 0o700 } else { 0o600 }, "{}", path.display());
        }
    }

    #[test]
    fn runs_are_remembered_in_their_files() {
        let dir = tempfile::tempdir().expect("a folder");
        let state = StateDir::open(dir.path()).expect("it opens");
        let run = SavedSession { run: true, file: state.run_file("r"), ..session("r") };
        let header = RunHeader { run: run.clone() };
        SessionFile::create(&run.file, "x", "now", Path::new("/w"), header).expect("it is made");
        std::fs::write(state.run_file("torn"), "{\"type\":\"session\",").expect("it is written");
        std::fs::write(state.run_file("odd"), "{\"type\":\"session\",\"run\":7}\n").expect("it is written");
        assert_eq!(state.sessions(), [run]);
        assert!(dir.path().join("torn.bad").exists() && dir.path().join("odd.bad").exists());
        state.forget("r");
        assert_eq!(state.sessions(), []);
    }

    #[test]
    fn one_daemon_at_a_time() {
        let dir = tempfile::tempdir().expect("a folder");
        let first = StateDir::open(dir.path()).expect("it opens");
        match StateDir::open(dir.path()) {
            Err(OpenError::Taken(pid)) => assert_eq!(pid, std::process::id().to_string()),
            other => panic!("{:?}", other.map(|_| ())),
        }
        drop(first);
        assert!(StateDir::open(dir.path()).is_ok());
    }
}
