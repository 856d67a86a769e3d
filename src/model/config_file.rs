//! A user's configuration file that is read again when it has changed.

use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

/// The largest file that is read, in bytes: these are written by hand, so a larger one is a mistake.
const MAX_BYTES: u64 = 4 << 20;

/// Modification time, size and inode: a change of any means other content. Clocks of file systems are coarse, so that a
/// file which is replaced soon after it was written may differ in its inode only. `None` = there is no file.
type Stamp = Option<(SystemTime, u64, u64)>;

/// What a file was when it was read, and its value or what is wrong with it.
type Content<T> = (Stamp, Result<Arc<T>, String>);

/// A file that many threads ask for. A missing file is the default value; a broken one is its error, until it changes.
pub struct ConfigFile<T> {
    path: PathBuf,
    parse: fn(&str) -> Result<T, String>,
    read: Mutex<Option<Content<T>>>,
}

impl<T: Default> ConfigFile<T> {
    pub fn new(path: PathBuf, parse: fn(&str) -> Result<T, String>) -> ConfigFile<T> {
        ConfigFile { path, parse, read: Mutex::new(None) }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file's value, or a text that says which file is wrong and how.
    pub fn get(&self) -> Result<Arc<T>, String> {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let stamp = match std::fs::metadata(&self.path) {
            Ok(meta) if !meta.is_file() => return Err(format!("{}: not a file", self.path.display())),
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

    fn load(&self, stamp: Stamp) -> Result<Arc<T>, String> {
        let Some((_, len, _)) = stamp else { return Ok(Arc::default()) };
        let text = if len > MAX_BYTES {
            Err(format!("larger than {MAX_BYTES} bytes"))
        } else {
            std::fs::read_to_string(&self.path).map_err(|e| e.to_string())
        };
        text.and_then(|text| (self.parse)(&text))
            .map(Arc::new)
            .map_err(|reason| format!("{}: {reason}", self.path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_file_is_read_again() {
        let dir = tempfile::tempdir().expect("a directory");
        let file: ConfigFile<u32> =
            ConfigFile::new(dir.path().join("n"), |t| t.trim().parse().map_err(|_| "no number".to_string()));
        assert_eq!(file.get().as_deref(), Ok(&0), "a missing file is the default");
        std::fs::write(file.path(), "1").expect("it writes");
        assert_eq!(file.get().as_deref(), Ok(&1));
        std::fs::write(file.path(), "22").expect("it writes");
        assert_eq!(file.get().as_deref(), Ok(&22));
        std::fs::write(file.path(), "oops").expect("it writes");
        let error = file.get().expect_err("it is broken");
        assert!(error.ends_with("/n: no number"), "{error}");
        std::fs::remove_file(file.path()).expect("it goes");
        assert_eq!(file.get().as_deref(), Ok(&0));
    }
}
