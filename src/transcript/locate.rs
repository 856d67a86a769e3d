//! Where session files are: PI's folder layout, and finding a session to go on with.

use super::contents;
use crate::clock::iso_time;
use std::fmt;
use std::fs::DirEntry;
use std::path::{Path, PathBuf};

/// Most files and folders that are looked at for one session: even so many take well under a second.
const MAX_LOOKED_AT: usize = 50_000;

/// The folder for the sessions of a working directory, an absolute path: `--home-u-project--`. Two directories may have
/// the same; the header of a file says which it belongs to.
pub(crate) fn folder(sessions_root: &Path, cwd: &Path) -> PathBuf {
    let text = cwd.to_string_lossy();
    let name = text.strip_prefix('/').unwrap_or(&text).replace(['/', '\\', ':'], "-");
    sessions_root.join(format!("--{name}--"))
}

/// The name of a session's file: when it was made (Unix time in milliseconds), and its id.
pub(crate) fn file_name(created_ms: i64, id: &str) -> String {
    format!("{}_{id}.jsonl", iso_time(created_ms).replace([':', '.'], "-"))
}

/// Why no session file was found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum FindError {
    NotFound,
    /// An id's beginning that several sessions have: their files, at most [`FindError::SHOWN`].
    Ambiguous(Vec<PathBuf>),
    /// There are more files than are looked at.
    TooMany,
}

impl FindError {
    /// How many candidates an error lists.
    pub(crate) const SHOWN: usize = 5;
}

impl fmt::Display for FindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FindError::NotFound => f.write_str("no such session file"),
            FindError::Ambiguous(files) => {
                f.write_str("several session files match:")?;
                files.iter().try_for_each(|file| write!(f, " {}", file.display()))
            }
            FindError::TooMany => f.write_str("there are too many session files to look for one; name its path"),
        }
    }
}

impl std::error::Error for FindError {}

/// How well a file matches, best first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Match {
    Here,
    Elsewhere,
    BeginsHere,
    BeginsElsewhere,
}

/// Finds the file of the session that `wanted` names: a path (absolute, or below `cwd`), a file's name, a session's id, or
/// the beginning of one. Sessions of `cwd` go before those of other folders, and a whole id before a beginning. Only names
/// and headers are read.
///
/// # Errors
/// See [`FindError`]; folders that cannot be read count as empty.
pub(crate) fn find(sessions_root: &Path, cwd: &Path, wanted: &str) -> Result<PathBuf, FindError> {
    if wanted.is_empty() {
        return Err(FindError::NotFound);
    }
    if wanted.contains('/') {
        let path = cwd.join(wanted);
        return if path.is_file() { Ok(path) } else { Err(FindError::NotFound) };
    }
    let mut best: Option<(Match, Vec<PathBuf>)> = None;
    let mut looked_at = 0;
    // Files may also be in the root itself, where the settings name a flat folder.
    let here = folder(sessions_root, cwd);
    let others = list(sessions_root).map(|entry| entry.path()).filter(|path| *path != here && path.is_dir());
    for folder in [here.clone(), sessions_root.to_path_buf()].into_iter().chain(others) {
        for file in list(&folder) {
            looked_at += 1;
            if looked_at > MAX_LOOKED_AT {
                return Err(FindError::TooMany);
            }
            let Some(found) = matches(&file, wanted, folder == here) else { continue };
            match &mut best {
                Some((known, files)) if *known == found => files.push(file.path()),
                Some((known, _)) if *known < found => {}
                _ => best = Some((found, vec![file.path()])),
            }
        }
        if matches!(best, Some((Match::Here, _))) {
            break;
        }
    }
    let (_, mut files) = best.ok_or(FindError::NotFound)?;
    if files.len() > 1 {
        files.sort();
        files.truncate(FindError::SHOWN);
        return Err(FindError::Ambiguous(files));
    }
    files.pop().ok_or(FindError::NotFound)
}

fn list(folder: &Path) -> impl Iterator<Item = DirEntry> + use<> {
    std::fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok)
}

fn matches(file: &DirEntry, wanted: &str, is_here: bool) -> Option<Match> {
    let name = file.file_name();
    let name = name.to_str()?;
    let stem = name.strip_suffix(".jsonl")?;
    let (whole, begins) = if name == wanted {
        (true, true)
    } else {
        // A file that was given another name has its id in the header only.
        let id = match stem.split_once('_').filter(|(time, _)| is_time(time)) {
            Some((_, id)) => id.to_string(),
            None => contents::read_id(&file.path()).ok()?,
        };
        (id == wanted, id.starts_with(wanted))
    };
    match (whole, is_here) {
        (true, true) => Some(Match::Here),
        (true, false) => Some(Match::Elsewhere),
        (false, true) => begins.then_some(Match::BeginsHere),
        (false, false) => begins.then_some(Match::BeginsElsewhere),
    }
}

/// Whether a text is the time in a file's name: `2026-01-02T03-04-05-678Z`.
fn is_time(text: &str) -> bool {
    text.len() == 24 && text.ends_with('Z') && text.as_bytes().get(10) == Some(&b'T')
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn names_are_those_of_the_other_agent() {
        for (cwd, expected) in
            [("/home/u/p:x", "/r/--home-u-p-x--"), ("/", "/r/----"), ("/a\\b", "/r/--a-b--"), ("//a", "/r/---a--")]
        {
            assert_eq!(folder(Path::new("/r"), Path::new(cwd)), Path::new(expected));
        }
        assert_eq!(file_name(1_767_323_045_678, "abc"), "2026-01-02T03-04-05-678Z_abc.jsonl");
        assert!(is_time("2026-01-02T03-04-05-678Z"));
    }

    #[test]
    fn sessions_are_found_by_path_name_id_and_beginning() {
        let home = tempfile::tempdir().expect("a folder");
        let (root, cwd) = (home.path().join("sessions"), Path::new("/w"));
        let time = "2026-01-02T03-04-05-678Z";
        let put = |folder: PathBuf, name: &str, id: &str| {
            fs::create_dir_all(&folder).expect("a folder");
            let path = folder.join(name);
            fs::write(&path, format!("{{\"type\":\"session\",\"version\":3,\"id\":\"{id}\"}}\n")).expect("a file");
            path
        };
        let here = folder(&root, cwd);
        let there = folder(&root, Path::new("/other"));
        let one = put(here.clone(), &format!("{time}_0199-aa.jsonl"), "0199-aa");
        let two = put(here.clone(), &format!("{time}_0199-ab.jsonl"), "0199-ab");
        let three = put(there.clone(), &format!("{time}_0199-ac.jsonl"), "0199-ac");
        let renamed = put(there.clone(), "mine.jsonl", "renamed-id");
        let flat = put(root.clone(), &format!("{time}_flat.jsonl"), "flat");
        let longer = put(here.clone(), &format!("{time}_work-2.jsonl"), "work-2");
        let whole = put(there.clone(), &format!("{time}_work.jsonl"), "work");
        let copied = put(there.clone(), "copied.jsonl", "0199-aa");
        let copy_a = put(there.clone(), "a.jsonl", "copy");
        let copy_b = put(folder(&root, Path::new("/third")), "b.jsonl", "copy");
        put(here.clone(), "notes.txt", "0199-aa");
        fs::write(here.join("broken.jsonl"), "nonsense").expect("a file");
        let find = |wanted: &str| find(&root, cwd, wanted);
        for (wanted, expected) in [
            (one.to_str().expect("a text"), Ok(one.clone())),
            (&*format!("{time}_0199-ab.jsonl"), Ok(two.clone())),
            ("0199-aa", Ok(one.clone())),
            ("0199-ab", Ok(two.clone())),
            ("0199-ac", Ok(three)),
            ("0199-a", Err(FindError::Ambiguous(vec![one.clone(), two]))),
            ("rena", Ok(renamed.clone())),
            ("mine.jsonl", Ok(renamed)),
            ("copied.jsonl", Ok(copied)),
            ("fl", Ok(flat)),
            ("work", Ok(whole)),
            ("wor", Ok(longer)),
            ("copy", Err(FindError::Ambiguous(vec![copy_a, copy_b]))),
            ("0199-ad", Err(FindError::NotFound)),
            ("notes.txt", Err(FindError::NotFound)),
            ("/w/none.jsonl", Err(FindError::NotFound)),
            ("", Err(FindError::NotFound)),
        ] {
            assert_eq!(find(wanted), expected, "{wanted}");
        }
    }
}
