//! A user's configuration file that is read again when it has changed.

use crate::files;
use crate::sync::lock;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

/// The largest file that is read, in bytes: these are written by hand, so a larger one is a mistake.
const MAX_BYTES: u64 = 4 << 20;

/// Modification time, size and inode: a change of any means other content. Clocks of file systems are coarse, so that a
/// file which is replaced soon after it was written may differ in its inode only. `None` = there is no file.
type Stamp = Option<(SystemTime, u64, u64)>;

/// What a file was when it was read, and its value or what is wrong with it.
type Content<T> = (Stamp, Result<Arc<T>, String>);

/// Reads a file's text. What of it is left out is added to the list, one line each; the error says that nothing is of use.
type Parse<T> = fn(&str, &mut Vec<String>) -> Result<T, String>;

/// A file that many threads ask for. A missing file is the default value; a broken one is its error, until it changes.
/// What is wrong is logged each time the file has changed, and not each time it is asked for.
pub(super) struct ConfigFile<T> {
    path: PathBuf,
    parse: Parse<T>,
    read: Mutex<Option<Content<T>>>,
}

impl<T: Default> ConfigFile<T> {
    pub(super) fn new(path: PathBuf, parse: Parse<T>) -> ConfigFile<T> {
        ConfigFile { path, parse, read: Mutex::new(None) }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The file's value, or a text that says which file is wrong and how.
    pub(super) fn get(&self) -> Result<Arc<T>, String> {
        let mut read = lock(&self.read);
        let stamp = match std::fs::metadata(&self.path) {
            Ok(meta) => Some((meta.modified().unwrap_or(SystemTime::UNIX_EPOCH), meta.len(), meta.ino())),
            Err(e) if e.kind() == ErrorKind::NotFound => None,
            Err(e) => return Err(format!("{}: {e}", self.path.display())),
        };
        match &*read {
            Some((known, value)) if *known == stamp => value.clone(),
            _ => {
                let value = self.load(stamp);
                *read = Some((stamp, value.clone()));
                value
            }
        }
    }

    /// What is wrong with the file now, one line each.
    pub(super) fn problems(&self) -> Vec<String> {
        let Ok(true) = self.path.try_exists() else { return Vec::new() };
        let mut odd = Vec::new();
        match self.parse(&mut odd) {
            Ok(_) => odd,
            Err(reason) => vec![reason],
        }
    }

    fn load(&self, stamp: Stamp) -> Result<Arc<T>, String> {
        if stamp.is_none() {
            return Ok(Arc::default());
        }
        let mut odd = Vec::new();
        let value = self.parse(&mut odd);
        odd.iter().chain(value.as_ref().err()).for_each(|line| log::warn!("{line}"));
        value.map(Arc::new)
    }

    fn parse(&self, odd: &mut Vec<String>) -> Result<T, String> {
        let text = files::read_text(&self.path, MAX_BYTES);
        let line = |reason: &str| text.as_ref().ok().and_then(|text| line_of(text, reason));
        let named = |reason: String| match line(&reason) {
            Some(line) => format!("{}: {reason} (line {line})", self.path.display()),
            None => format!("{}: {reason}", self.path.display()),
        };
        let value = text.as_ref().map_err(ToString::to_string).and_then(|text| (self.parse)(text, odd));
        odd.iter_mut().for_each(|line| *line = named(std::mem::take(line)));
        value.map_err(named)
    }
}

/// The line, from 1, of the key that a reason names in quotes, such as `"retry.maxRetries"`; absent where the reason has a
/// line already or the key is not found.
fn line_of(text: &str, reason: &str) -> Option<usize> {
    if reason.contains(" at line ") {
        return None;
    }
    let key = reason.split('"').nth(1)?;
    let mut at = 0;
    // A key may have dots itself.
    let whole = place_of(text, key);
    let place = whole.or_else(|| {
        key.split('.').try_fold(0, |_, part| {
            let found = at + place_of(&text[at..], part)?;
            at = found + part.len();
            Some(found)
        })
    })?;
    Some(text[..place].matches('\n').count() + 1)
}

/// Where a key of JSON text begins.
fn place_of(text: &str, key: &str) -> Option<usize> {
    let quoted = format!("\"{key}\"");
    let mut keys = text.match_indices(&quoted);
    keys.find(|(at, _)| text[at + quoted.len()..].trim_start().starts_with(':')).map(|(at, _)| at + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_of_what_is_wrong_is_told() {
        let text = "{\n \"a\": {\"name\": \"b\"},\n \"b\": {\n  \"name\": 5, \"x.y\": 1}\n}";
        for (reason, line) in [
            ("\"b.name\" is left out", Some(4)),
            ("\"a.name\" is left out", Some(2)),
            ("\"x.y\" is left out", Some(4)),
            ("the entry \"b\" is a text", Some(3)),
            ("expected ident at line 3 column 27", None),
            ("\"nowhere\" is left out", None),
            ("no key at all", None),
        ] {
            assert_eq!(line_of(text, reason), line, "{reason}");
        }
    }

    #[test]
    fn a_changed_file_is_read_again() {
        let dir = tempfile::tempdir().expect("a directory");
        let file: ConfigFile<u32> =
            ConfigFile::new(dir.path().join("n"), |t, _| t.trim().parse().map_err(|_| "no number".to_string()));
        assert_eq!(file.get().as_deref(), Ok(&0), "a missing file is the default");
        std::fs::write(file.path(), "1").expect("it writes");
        assert_eq!(file.get().as_deref(), Ok(&1));
        std::fs::write(file.path(), "22").expect("it writes");
        assert_eq!(file.get().as_deref(), Ok(&22));
        std::fs::write(file.path(), "oops").expect("it writes");
        let error = file.get().expect_err("it is broken");
        assert!(error.ends_with("/n: no number"), "{error}");
        assert_eq!(file.problems(), [error]);
        std::fs::remove_file(file.path()).expect("it goes");
        assert_eq!(file.get().as_deref(), Ok(&0));
    }
}
