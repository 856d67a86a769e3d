//! Which files a turn changed: their state before its first call that may change any is held against the state after it.
//!
//! Calls that name their file are looked at there. A command may change anything, so that before the first one the working
//! folder is walked as `find` walks it, without what version control ignores. Of the text of files only a number for each
//! line is kept, which is enough to count what came and went. At the end only the files that are known are looked at, unless
//! one of the folders says that something came or went in it.

use super::edit_diff::compare;
use super::paths;
use crate::clock::now_ms;
use crate::files;
use crate::sync::lock;
use crate::threads;
use crossbeam_channel::bounded;
use serde::Serialize;
use serde_json::{Map, Value, json};
use similar::DiffTag;
use std::collections::BTreeMap;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Tools that change no file.
const READING: [&str; 5] = ["read", "grep", "find", "ls", super::QUESTION];
/// Tools that change the file that they name, and no other.
const WRITING: [&str; 2] = ["edit", "write"];
/// Files of a folder that are looked at, and how long that may take; it delays the first command of a turn and its end.
const MAX_FILES: usize = 20_000;
const MAX_TIME: Duration = Duration::from_millis(200);
/// For how many seconds a folder has to have been left alone before it is walked, so that another change afterwards shows in
/// its time: file systems count in up to 2 s (FAT).
const SETTLED: i64 = 3;
/// Bytes of a file, and of all of a folder, whose lines are counted.
const MAX_FILE: u64 = 1 << 20;
const MAX_TEXT: u64 = 4 << 20;
/// Changes that are told one by one.
const MAX_TOLD: usize = 200;

/// What a turn changes.
pub(crate) struct Changes {
    cwd: PathBuf,
    home: PathBuf,
    before: Mutex<Before>,
    settled: i64,
}

#[derive(Default)]
struct Before {
    /// `None` = there was none.
    files: BTreeMap<PathBuf, Option<State>>,
    walked: Option<Walked>,
}

/// What was seen of the folder.
#[derive(Default)]
struct Walked {
    complete: bool,
    /// All folders in it as they were, if it can be told by them whether something comes or goes.
    folders: Option<Vec<(PathBuf, Identity)>>,
}

/// The number of a file or folder, its size and the time of its last change, of whatever kind that was.
type Identity = (u64, u64, i64, i64);

/// A regular file as it was.
struct State {
    identity: Identity,
    lines: Option<Vec<u32>>,
}

/// What is told of the changes.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct ChangedFiles {
    /// `{path, kind, added, removed}` each; the last two only where the lines are known.
    pub files: Vec<Value>,
    /// How many more there are.
    #[serde(rename = "moreFiles", skip_serializing_if = "is_default")]
    pub more: usize,
    /// The folder is too large for all of it to have been looked at.
    #[serde(rename = "filesIncomplete", skip_serializing_if = "is_default")]
    pub incomplete: bool,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl Changes {
    pub(crate) fn new(cwd: &Path, home: &Path) -> Changes {
        Changes { cwd: cwd.to_path_buf(), home: home.to_path_buf(), before: Mutex::default(), settled: SETTLED }
    }

    /// To be called before tools run, with their names and arguments.
    pub(crate) fn before<'a>(&self, calls: impl Iterator<Item = (&'a str, &'a Map<String, Value>)>) {
        let mut before = lock(&self.before);
        for (tool, arguments) in calls.filter(|(tool, _)| !READING.contains(tool)) {
            if WRITING.contains(&tool) {
                let Some(path) = arguments.get("path").and_then(Value::as_str) else { continue };
                let path = paths::resolve(path, &self.cwd, Some(&self.home));
                before.files.entry(path).or_insert_with_key(|path| State::now(path));
            } else if before.walked.is_none() {
                let (found, walked) = walk(&self.cwd, Some(self.settled));
                before.walked = Some(walked);
                for (path, state) in found {
                    // What was looked at before an earlier call is the older state.
                    before.files.entry(path).or_insert(Some(state));
                }
            }
        }
    }

    /// What has changed since.
    pub(crate) fn after(&self) -> ChangedFiles {
        let before = std::mem::take(&mut *lock(&self.before));
        let mut told = ChangedFiles::default();
        let mut tell = |path: &Path, kind: &str, counts: Option<(usize, usize)>| {
            if told.files.len() == MAX_TOLD {
                told.more += 1;
                return;
            }
            let mut file =
                json!({"path": path.strip_prefix(&self.cwd).unwrap_or(path).to_string_lossy(), "kind": kind});
            if let Some((added, removed)) = counts {
                file["added"] = json!(added);
                file["removed"] = json!(removed);
            }
            told.files.push(file);
        };
        let seen = before.walked.as_ref().is_none_or(|walked| walked.complete);
        // What came is known only where all that was there is known.
        let may_have_come = before.walked.as_ref().is_some_and(|walked| walked.complete && !walked.is_settled());
        let (after, again) = if may_have_come {
            walk(&self.cwd, None)
        } else {
            (BTreeMap::new(), Walked { complete: true, folders: None })
        };
        for (path, old) in &before.files {
            let identity = after.get(path).map(|state| state.identity).or_else(|| {
                let metadata = path.symlink_metadata().ok().filter(Metadata::is_file)?;
                Some(identity(&metadata))
            });
            if old.as_ref().map(|old| old.identity) == identity {
                continue;
            }
            let new = identity.and_then(|_| State::now(path));
            match (old, &new) {
                (Some(old), Some(new)) if old.lines.is_some() && old.lines == new.lines => {}
                (Some(old), Some(new)) => tell(path, "modified", counts(old.lines.as_deref(), new.lines.as_deref())),
                (Some(old), None) => tell(path, "deleted", counts(old.lines.as_deref(), Some(&[]))),
                (None, Some(new)) => tell(path, "created", counts(Some(&[]), new.lines.as_deref())),
                (None, None) => {}
            }
        }
        if may_have_come {
            for path in after.keys().filter(|path| !before.files.contains_key(*path)) {
                let lines = State::now(path).and_then(|state| state.lines);
                tell(path, "created", counts(Some(&[]), lines.as_deref()));
            }
        }
        told.files.sort_by(|one, other| one["path"].as_str().cmp(&other["path"].as_str()));
        told.incomplete = !seen || !again.complete;
        told
    }
}

impl Walked {
    /// Whether nothing has come to any of the folders, or went from it.
    fn is_settled(&self) -> bool {
        let is_same =
            |(path, old): &(PathBuf, Identity)| path.symlink_metadata().is_ok_and(|now| identity(&now) == *old);
        self.folders.as_ref().is_some_and(|folders| folders.iter().all(is_same))
    }
}

fn identity(metadata: &Metadata) -> Identity {
    (metadata.ino(), metadata.len(), metadata.ctime(), metadata.ctime_nsec())
}

impl State {
    /// The file of this path.
    fn now(path: &Path) -> Option<State> {
        let mut room = MAX_FILE;
        State::of(path, &mut room)
    }

    /// The file of this path, with its lines if they take no more than so many bytes of what is left.
    fn of(path: &Path, left: &mut u64) -> Option<State> {
        let metadata = path.symlink_metadata().ok().filter(Metadata::is_file)?;
        let fits = metadata.len() <= MAX_FILE.min(*left);
        let text = fits.then(|| files::read(path, MAX_FILE).ok()).flatten();
        *left = left.saturating_sub(text.as_ref().map_or(0, |text| text.len() as u64));
        Some(State { identity: identity(&metadata), lines: text.and_then(|text| lines(&text)) })
    }
}

/// A number for each line (FNV-1a, 32 bits); `None` for what is no text.
fn lines(text: &[u8]) -> Option<Vec<u32>> {
    if memchr::memchr(0, text).is_some() {
        return None;
    }
    let hash = |line: &[u8]| {
        line.iter().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
    };
    Some(text.split_inclusive(|byte| *byte == b'\n').map(hash).collect())
}

/// Lines that came, and lines that went.
fn counts(old: Option<&[u32]>, new: Option<&[u32]>) -> Option<(usize, usize)> {
    let numbers = |lines: &[u32]| lines.iter().map(|line| *line as usize).collect::<Vec<usize>>();
    let (old, new) = (numbers(old?), numbers(new?));
    let (mut added, mut removed) = (0, 0);
    for operation in compare(&old, &new).iter().filter(|operation| operation.tag() != DiffTag::Equal) {
        removed += operation.old_range().len();
        added += operation.new_range().len();
    }
    Some((added, removed))
}

/// The regular files of a folder, and what was seen of it. With `settled`, which is [`SETTLED`], the lines of files are read,
/// and folders are taken note of. It is done on a thread of its own, because nothing can interrupt the reading of a
/// huge folder, or of one on a disk that hangs.
fn walk(folder: &Path, settled: Option<i64>) -> (BTreeMap<PathBuf, State>, Walked) {
    let late = Arc::new(AtomicBool::new(false));
    let (sender, found) = bounded(1);
    let (folder, is_late) = (folder.to_path_buf(), late.clone());
    let work = move || {
        let stop = is_late.clone();
        let Ok(walk) = files::walk::walk(&folder, move |_| !stop.load(Relaxed)) else { return };
        let mut left = if settled.is_some() { MAX_TEXT } else { 0 };
        let latest = settled.map(|settled| now_ms() / 1000 - settled);
        let (mut states, mut folders) = (BTreeMap::new(), latest.map(|_| Vec::new()));
        let mut complete = true;
        for entry in walk.build().filter_map(Result::ok) {
            let kind = entry.file_type();
            if kind.is_some_and(|kind| kind.is_dir()) {
                let settled =
                    entry.metadata().ok().filter(|metadata| latest.is_some_and(|latest| metadata.ctime() < latest));
                match (&mut folders, settled) {
                    (Some(folders), Some(metadata)) => folders.push((entry.into_path(), identity(&metadata))),
                    (_, None) | (None, _) => folders = None,
                }
                continue;
            }
            if !kind.is_some_and(|kind| kind.is_file()) {
                continue;
            }
            if states.len() == MAX_FILES || is_late.load(Relaxed) {
                complete = false;
                break;
            }
            if let Some(state) = State::of(entry.path(), &mut left) {
                states.insert(entry.into_path(), state);
            }
        }
        let _ = sender.try_send((states, Walked { complete, folders }));
    };
    if let Ok(thread) = threads::run("walk", work) {
        thread.abandon();
    }
    found.recv_timeout(MAX_TIME).unwrap_or_else(|_| {
        late.store(true, Relaxed);
        Default::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(path: &str) -> Map<String, Value> {
        json!({"path": path}).as_object().cloned().expect("an object")
    }

    fn rows(told: &ChangedFiles) -> Vec<String> {
        told.files.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_tools_name_and_what_commands_touch_is_told() {
        let folder = tempfile::tempdir().expect("a folder");
        let cwd = folder.path().join("work");
        let path = |name: &str| cwd.join(name);
        let write = |name: &str, text: &str| std::fs::write(path(name), text).expect("it is written");
        std::fs::create_dir_all(path(".git")).expect("a folder");
        for (name, text) in [("kept", "a\nb\n"), ("edited", "a\nb\nc\n"), ("gone", "1\n2\n"), ("touched", "x\n")] {
            write(name, text);
        }
        write(".gitignore", "ignored\n");
        write("binary", "a\0b");
        let changes = Changes::new(&cwd, folder.path());
        changes.before([("read", &call("kept"))].into_iter());
        assert_eq!(changes.after(), ChangedFiles::default());

        let (new, outside) = (call("new"), call("../outside"));
        changes.before([("write", &new), ("edit", &outside)].into_iter());
        write("new", "1\n2\n3");
        std::fs::write(folder.path().join("outside"), "o\n").expect("it is written");
        changes.before([("bash", &Map::new())].into_iter());
        write("edited", "a\nB\nc\nd\n");
        write("touched", "x\n");
        write("binary", "a\0c");
        write("ignored", "x\n");
        write("made", "");
        std::fs::remove_file(path("gone")).expect("it is removed");
        let told = changes.after();
        let outside = folder.path().join("outside");
        let outside = format!("{{\"path\":{},\"kind\":\"created\",\"added\":1,\"removed\":0}}", json!(outside));
        assert_eq!(
            rows(&told),
            [
                &*outside,
                r#"{"path":"binary","kind":"modified"}"#,
                r#"{"path":"edited","kind":"modified","added":2,"removed":1}"#,
                r#"{"path":"gone","kind":"deleted","added":0,"removed":2}"#,
                r#"{"path":"made","kind":"created","added":0,"removed":0}"#,
                r#"{"path":"new","kind":"created","added":3,"removed":0}"#,
            ]
        );
        assert!(!told.incomplete);
    }

    #[test]
    fn a_folder_where_nothing_came_or_went_is_not_walked_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let inside = folder.path().join("a/b");
        std::fs::create_dir_all(&inside).expect("a folder");
        std::fs::write(inside.join("kept"), "1\n").expect("it is written");
        let now = |settled| walk(folder.path(), settled).1;
        assert!(!now(Some(SETTLED)).is_settled() && !now(None).is_settled(), "the folders are new");
        // As if they were not.
        let mut changes = Changes::new(folder.path(), folder.path());
        changes.settled = -1000;
        let before = || changes.before([("bash", &Map::new())].into_iter());
        before();
        assert!(lock(&changes.before).walked.as_ref().is_some_and(Walked::is_settled));
        std::fs::write(inside.join("kept"), "1\n2\n").expect("it is written");
        assert_eq!(rows(&changes.after()), [r#"{"path":"a/b/kept","kind":"modified","added":1,"removed":0}"#]);
        before();
        let walked = || lock(&changes.before).walked.as_ref().is_some_and(Walked::is_settled);
        let new = inside.join("new");
        // The time of a folder goes on in steps of some milliseconds.
        while walked() {
            std::fs::write(&new, "").and_then(|()| std::fs::remove_file(&new)).expect("it comes and goes");
        }
        std::fs::write(&new, "").expect("it is written");
        assert_eq!(rows(&changes.after()), [r#"{"path":"a/b/new","kind":"created","added":0,"removed":0}"#]);
    }

    #[test]
    fn a_folder_that_is_too_large_is_told_as_such() {
        let folder = tempfile::tempdir().expect("a folder");
        let changes = Changes::new(folder.path(), folder.path());
        changes.before([("bash", &Map::new())].into_iter());
        for number in 0..MAX_TOLD + 7 {
            std::fs::write(folder.path().join(format!("f{number:03}")), "x").expect("it is written");
        }
        let told = changes.after();
        assert_eq!((told.files.len(), told.more), (MAX_TOLD, 7));
    }
}
