//! Files that came with prompts: kept where only we can read them, for as long as the session lives, because a later prompt
//! may be about them too.

use super::envelope::{Attachment, MAX_FILENAME};
use crate::contract::error::ReplyError;
use crate::files::private;
use crate::images::sniff;
use crate::quota::{Kind, SessionQuota};
use crate::transcript::Block;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::fs::Metadata;
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// So many images of a prompt are shown to the model. Of others it has the paths, as of all files.
const MAX_IMAGES: usize = 16;
/// How many folders of earlier prompts are passed over when a session continues where another process left it.
const MAX_FOLDERS: u32 = 100_000;

/// The files of one session.
pub(crate) struct Attachments {
    /// Absolute; made when the first file comes.
    root: PathBuf,
    /// The folder that the last prompt's files went to.
    last: u32,
    quota: Arc<SessionQuota>,
}

impl Attachments {
    /// Keeps files in `root`, as far as `quota` has room. What is there already counts.
    pub(crate) fn new(root: PathBuf, quota: Arc<SessionQuota>) -> Attachments {
        quota.take_anyway(Kind::Attachments, stored(&root)).keep();
        Attachments { root, last: 0, quota }
    }

    /// Stores the files of one prompt; returns the prompt with their paths in front of it.
    ///
    /// # Errors
    /// There is no room, or the system's reason; then nothing of them is left.
    pub(crate) fn stage(&mut self, files: &[Attachment], prompt: &str) -> Result<String, ReplyError> {
        if files.is_empty() {
            return Ok(prompt.to_string());
        }
        let bytes = files.iter().map(|file| file.content.len() as u64).sum();
        let room = self.quota.take(Kind::Attachments, bytes).map_err(|why| ReplyError::quota_exceeded(&why))?;
        let folder = self.new_folder().map_err(|e| ReplyError::storage(&e))?;
        let stored: io::Result<Vec<PathBuf>> = files.iter().map(|file| store(&folder, file)).collect();
        match stored {
            Ok(paths) => {
                room.keep();
                Ok(with_paths(&paths, prompt))
            }
            Err(error) => {
                // What is left behind is removed with the session at the latest.
                let _ = std::fs::remove_dir_all(&folder);
                Err(ReplyError::storage(&error))
            }
        }
    }

    fn new_folder(&mut self) -> io::Result<PathBuf> {
        private::create_folder(&self.root)?;
        while self.last < MAX_FOLDERS {
            self.last += 1;
            let folder = self.root.join(self.last.to_string());
            match private::create_new_folder(&folder) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
                Ok(()) => return Ok(folder),
            }
        }
        Err(io::Error::other("the session has too many attachments"))
    }

    /// Removes all files.
    ///
    /// # Errors
    /// The system's reason; that there are none is no error.
    pub(crate) fn remove(&self) -> io::Result<()> {
        match std::fs::remove_dir_all(&self.root) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }
}

/// The files that are images, for models to see. Whatever their names are, their bytes tell.
pub(crate) fn images(files: &[Attachment]) -> Vec<Block> {
    let image = |file: &Attachment| {
        let format = sniff(&file.content)?;
        Some(Block::image(STANDARD.encode(&file.content), format.mime_type()))
    };
    files.iter().filter_map(image).take(MAX_IMAGES).collect()
}

/// Bytes of the files of earlier prompts.
fn stored(root: &Path) -> u64 {
    let folders = std::fs::read_dir(root).into_iter().flatten().flatten();
    let files = folders.filter_map(|folder| std::fs::read_dir(folder.path()).ok()).flatten().flatten();
    files.filter_map(|file| file.metadata().ok()).filter(Metadata::is_file).map(|metadata| metadata.len()).sum()
}

/// Stores a file; a second one of the same name gets a number.
fn store(folder: &Path, file: &Attachment) -> io::Result<PathBuf> {
    let mut path = folder.join(&file.filename);
    let mut number: u32 = 1;
    loop {
        match private::create_new(&path) {
            Ok(mut opened) => {
                opened.write_all(&file.content)?;
                return Ok(path);
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                number += 1;
                path = folder.join(numbered(number, &file.filename));
            }
            Err(error) => return Err(error),
        }
    }
}

/// The name with a number before it. The end of a long name is kept, because of the extension.
fn numbered(number: u32, name: &str) -> String {
    let prefix = format!("{number}-");
    let most = MAX_FILENAME - prefix.len();
    let begin = (name.len().saturating_sub(most)..name.len()).find(|at| name.is_char_boundary(*at)).unwrap_or_default();
    prefix + &name[begin..]
}

/// A prompt with the paths of its files in front, in the form that other hosts of the protocol use.
fn with_paths(paths: &[PathBuf], prompt: &str) -> String {
    let mut text = String::from("[Attachments available at the following absolute paths]\n");
    for path in paths {
        text.push_str(&format!("- {}\n", path.display()));
    }
    text + "\n" + prompt
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quota::HostQuota;
    use std::os::unix::fs::PermissionsExt;

    fn unlimited() -> Arc<SessionQuota> {
        HostQuota::new(0, 0).session()
    }

    fn file(filename: &str, content: &[u8]) -> Attachment {
        Attachment { filename: filename.into(), content: content.into() }
    }

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).expect("it exists").permissions().mode() & 0o777
    }

    #[test]
    fn files_are_stored_as_far_as_the_quota_has_room_and_count_after_a_restart() {
        let place = tempfile::tempdir().expect("a folder");
        let root = place.path().join("files");
        let host = HostQuota::new(10, 0);
        let mut attachments = Attachments::new(root.clone(), host.session());
        attachments.stage(&[file("a", b"12345"), file("a", b"67")], "x").expect("stored");
        let refused = attachments.stage(&[file("b", b"8901")], "x").map_err(|e| e.code());
        assert_eq!(refused, Err("quota_exceeded"));
        assert!(!root.join("2").exists(), "nothing is made for what is refused");
        attachments.stage(&[file("b", b"890")], "x").expect("stored");
        drop(attachments);
        let mut again = Attachments::new(root.clone(), host.session());
        assert_eq!(again.stage(&[file("b", b"1")], "x").map_err(|e| e.code()), Err("quota_exceeded"));
        // What could not be written is not counted.
        again.remove().expect("removed");
        let mut empty = Attachments::new(root, host.session());
        assert!(empty.stage(&[file("fine", b"1234567890"), file("n/", b"")], "x").is_err());
        empty.stage(&[file("b", b"1234567890")], "x").expect("stored");
    }

    #[test]
    fn a_number_makes_no_name_too_long() {
        let long = format!("{}ä.txt", "x".repeat(MAX_FILENAME - 6));
        for name in ["a.txt", &long, &"ä".repeat(127), &"€".repeat(85)] {
            let numbered = numbered(10, name);
            let kept = numbered.strip_prefix("10-").expect("the number");
            assert!(name.ends_with(kept) && (name == kept || (252..=255).contains(&numbered.len())), "{numbered}");
        }
    }

    #[test]
    fn files_are_private_and_stay_until_the_session_ends() {
        let place = tempfile::tempdir().expect("a folder");
        let root = place.path().join("not/yet");
        let mut attachments = Attachments::new(root.clone(), unlimited());
        assert_eq!(attachments.stage(&[], "plain").expect("no files"), "plain");
        assert!(!root.exists(), "nothing is made for prompts without files");
        let text = attachments.stage(&[file("a.txt", b"one"), file("a.txt", b"two")], "look").expect("stored");
        let (first, second) = (root.join("1/a.txt"), root.join("1/2-a.txt"));
        let expected = format!(
            "[Attachments available at the following absolute paths]\n- {}\n- {}\n\nlook",
            first.display(),
            second.display()
        );
        assert_eq!(text, expected);
        assert_eq!(std::fs::read(&second).expect("stored"), b"two");
        assert_eq!((mode(&root), mode(&root.join("1")), mode(&first)), (0o700, 0o700, 0o600));
        // Another process goes on with the session.
        let mut attachments = Attachments::new(root.clone(), unlimited());
        attachments.stage(&[file("b", b"")], "more").expect("stored");
        assert!(root.join("2/b").exists() && first.exists());
        attachments.remove().expect("removed");
        attachments.remove().expect("nothing left to remove");
        assert!(!root.exists());
    }

    #[test]
    fn a_failure_leaves_nothing_behind() {
        let place = tempfile::tempdir().expect("a folder");
        let mut attachments = Attachments::new(place.path().join("files"), unlimited());
        // Longer than a request may have it, and than the file system takes.
        let name = "n".repeat(MAX_FILENAME + 1);
        assert!(attachments.stage(&[file("fine", b""), file(&name, b"")], "x").is_err());
        assert!(!place.path().join("files/1").exists());
        attachments.stage(&[file("fine", b"")], "x").expect("the next prompt works");
    }
}
