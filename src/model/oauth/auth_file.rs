//! Changing one sign-in in `auth.json`, and nothing else of it.

use super::endpoint::Renewed;
use crate::files::{self, Links};
use serde_json::{Map, Value};
use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;

/// The largest file that is read, in bytes.
const MAX_BYTES: u64 = 4 << 20;

/// The whole file, with whatever others keep in it.
pub(super) struct AuthDocument(Map<String, Value>);

/// What a refresh needs of a provider's entry.
pub(super) struct SignIn {
    pub access: String,
    pub refresh: String,
    /// Unix time in milliseconds.
    pub expires: i64,
}

impl AuthDocument {
    /// # Errors
    /// What is wrong with the file, without its content.
    pub(super) fn read(path: &Path) -> Result<AuthDocument, String> {
        let wrong = |e: &dyn std::fmt::Display| format!("{}: {e}", path.display());
        let text = files::read_text(path, MAX_BYTES).map_err(|e| wrong(&e))?;
        // The parser's own words could quote a key.
        let broken = |e: serde_json::Error| wrong(&format!("not a JSON object (line {})", e.line()));
        serde_json::from_str(text.trim_start_matches('\u{feff}')).map(AuthDocument).map_err(broken)
    }

    /// The provider's sign-in, if it has one that can be refreshed.
    pub(super) fn sign_in(&self, provider: &str) -> Option<SignIn> {
        let entry = self.0.get(provider).filter(|entry| entry["type"] == "oauth")?;
        let text = |name: &str| entry[name].as_str().filter(|text| !text.is_empty()).map(str::to_string);
        let expires = entry["expires"].as_i64().unwrap_or(0);
        Some(SignIn { access: text("access").unwrap_or_default(), refresh: text("refresh")?, expires })
    }

    /// Puts the new tokens where the refresh token `used` is. False if it is there no more.
    pub(super) fn renew(&mut self, provider: &str, used: &str, renewed: &Renewed) -> bool {
        if self.sign_in(provider).is_none_or(|there| there.refresh != used) {
            return false;
        }
        let Some(Value::Object(entry)) = self.0.get_mut(provider) else { return false };
        entry.insert("access".to_string(), renewed.access.clone().into());
        if let Some(refresh) = &renewed.refresh {
            entry.insert("refresh".to_string(), refresh.clone().into());
        }
        entry.insert("expires".to_string(), renewed.expires.into());
        true
    }

    /// The file's new text, laid out as PI does it.
    pub(super) fn text(&self) -> String {
        // Serialising into memory has no way to fail.
        serde_json::to_string_pretty(&self.0).unwrap_or_default()
    }
}

/// A file that is about to be replaced. All that can be is done before the content is known, since a refresh token is
/// spent by then, and what came for it must not be lost.
pub(super) struct Replacement {
    target: PathBuf,
    new: NamedTempFile,
}

impl Replacement {
    /// Prepares to replace `target`, whose symbolic links have been followed, by a file of the same mode and owner.
    ///
    /// # Errors
    /// What the system says; a file that is read-only is not replaced either.
    pub(super) fn prepare(target: &Path) -> io::Result<Replacement> {
        rustix::fs::access(target, rustix::fs::Access::WRITE_OK)?;
        let old = target.metadata()?;
        let mut new =
            tempfile::Builder::new().prefix(".auth-").tempfile_in(target.parent().unwrap_or(Path::new("/")))?;
        // Shows at once that there is room.
        new.write_all(&vec![b' '; usize::try_from(old.len()).unwrap_or(0)])?;
        files::keep_access(new.as_file(), &old)?;
        Ok(Replacement { target: target.to_path_buf(), new })
    }

    /// Replaces the file: readers see the old content or the new.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn finish(self, content: &str) -> io::Result<()> {
        let Replacement { target, new } = self;
        overwrite(new.as_file(), content)?;
        match new.persist(&target) {
            Ok(_) => {
                // The rename is known to the disk when its folder is.
                let _ = target.parent().map(files::sync_folder);
                Ok(())
            }
            // Containers have single files mounted, which cannot be replaced, but take new content as PI writes it.
            Err(failed) if failed.error.kind() == ErrorKind::ResourceBusy => {
                overwrite(&files::open(&target, File::options().write(true), Links::Refuse)?.0, content)
            }
            Err(failed) => Err(failed.error),
        }
    }
}

fn overwrite(mut file: &File, content: &str) -> io::Result<()> {
    use std::io::Seek;
    file.rewind()?;
    file.write_all(content.as_bytes())?;
    file.set_len(content.len() as u64)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    const BEFORE: &str = "\u{feff}{\"z\":{\"type\":\"api_key\",\"key\":\"k\",\"more\":[1,2.5]},\
        \"p\":{\"account\":\"a\",\"type\":\"oauth\",\"refresh\":\"r\",\"expires\":5,\"access\":\"x\",\"last\":null},\"a\":7}";

    fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("auth.json");
        std::fs::write(&path, text).expect("it writes");
        std::fs::set_permissions(&path, Permissions::from_mode(0o640)).expect("it is set");
        (dir, path)
    }

    fn renewed(refresh: Option<&str>) -> Renewed {
        Renewed { access: "new".to_string(), refresh: refresh.map(str::to_string), expires: 9 }
    }

    #[test]
    fn only_the_tokens_change() {
        let (dir, path) = file(BEFORE);
        let mut auth = AuthDocument::read(&path).expect("it reads");
        assert!(auth.renew("p", "r", &renewed(Some("s"))));
        Replacement::prepare(&path).and_then(|r| r.finish(&auth.text())).expect("it is replaced");
        let after = std::fs::read_to_string(&path).expect("it reads");
        let expected = BEFORE.trim_start_matches('\u{feff}').replace("\"r\"", "\"s\"").replace(":5", ":9");
        let expected: Value = serde_json::from_str(&expected.replace("\"x\"", "\"new\"")).expect("JSON");
        assert_eq!(after, serde_json::to_string_pretty(&expected).expect("JSON"), "in this order");
        assert_eq!(path.metadata().expect("it is there").permissions().mode() & 0o777, 0o640);
        assert_eq!(std::fs::read_dir(dir.path()).expect("it reads").count(), 1, "nothing is left beside it");
    }

    #[test]
    fn the_former_refresh_token_may_stay() {
        let (_dir, path) = file(BEFORE);
        let mut auth = AuthDocument::read(&path).expect("it reads");
        assert!(auth.renew("p", "r", &renewed(None)));
        let after = auth.sign_in("p").expect("it is there");
        assert_eq!((after.access.as_str(), after.refresh.as_str(), after.expires), ("new", "r", 9));
    }

    #[test]
    fn what_was_changed_meanwhile_is_left_alone() {
        for text in [
            r#"{"p":{"type":"oauth","refresh":"other","access":"x"}}"#,
            r#"{"p":{"type":"api_key","key":"k","refresh":"r"}}"#,
            r#"{"p":{"type":"oauth","refresh":"","access":"x"}}"#,
            r#"{"p":"r"}"#,
            "{}",
        ] {
            let (_dir, path) = file(text);
            let mut auth = AuthDocument::read(&path).expect("it reads");
            assert!(!auth.renew("p", "r", &renewed(None)), "{text}");
            assert_eq!(auth.text().replace([' ', '\n'], ""), text, "nothing changed");
        }
    }

    #[test]
    fn a_replacement_that_is_given_up_leaves_no_trace() {
        let (dir, path) = file(BEFORE);
        drop(Replacement::prepare(&path).expect("it can be"));
        assert_eq!(std::fs::read_to_string(&path).expect("it reads"), BEFORE);
        assert_eq!(std::fs::read_dir(dir.path()).expect("it reads").count(), 1);
    }

    #[test]
    fn errors_name_the_file_and_not_its_content() {
        for text in ["{\"p\":\"s3cret\",}", "\"s3cret\""] {
            let (_dir, path) = file(text);
            let error = AuthDocument::read(&path).err().expect("it is broken");
            assert!(error.contains("auth.json: not a JSON object") && !error.contains("s3cret"), "{error}");
        }
    }
}
