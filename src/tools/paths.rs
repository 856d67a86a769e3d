//! From the path a model wrote to a path of the file system.

use std::path::{Component, Path, PathBuf};
use unicode_normalization::UnicodeNormalization;

/// Resolves what a model gave as a path against `cwd`: Unicode spaces become plain ones, one leading `@` goes, `~` is
/// `home`, `file://` URLs are paths, and `.` and `..` are resolved by name. There is no sandbox: any absolute path is fine.
pub(super) fn resolve(path: &str, cwd: &Path, home: Option<&Path>) -> PathBuf {
    let path: String = path.chars().map(|c| if is_unicode_space(c) { ' ' } else { c }).collect();
    let path = path.strip_prefix('@').unwrap_or(&path);
    let expanded = match (path.strip_prefix('~'), path.strip_prefix("file://"), home) {
        (Some(""), _, Some(home)) => home.to_owned(),
        (Some(rest), _, Some(home)) if rest.starts_with('/') => home.join(rest.trim_start_matches('/')),
        (_, Some(url), _) => from_file_url(url),
        _ => PathBuf::from(path),
    };
    normalize(&cwd.join(expanded))
}

/// As [`resolve`], for a file that should exist. macOS gives screenshots names that models do not reproduce exactly: a
/// narrow no-break space before AM or PM, decomposed accents, typographic apostrophes. Those spellings are tried in turn.
pub(super) fn resolve_existing(path: &str, cwd: &Path, home: Option<&Path>) -> PathBuf {
    let resolved = resolve(path, cwd, home);
    let exists = |path: &Path| path.symlink_metadata().is_ok();
    let Some(text) = resolved.to_str().filter(|_| !exists(&resolved)) else {
        return resolved;
    };
    let decomposed: String = text.nfd().collect();
    [
        text.replace(" AM.", "\u{202f}AM.").replace(" PM.", "\u{202f}PM."),
        decomposed.clone(),
        text.replace('\'', "\u{2019}"),
        decomposed.replace('\'', "\u{2019}"),
    ]
    .into_iter()
    .map(PathBuf::from)
    .find(|variant| exists(variant))
    .unwrap_or(resolved)
}

/// The folder or file that a tool was asked to look at, which exists, by default the working directory.
///
/// # Errors
/// The text for the model.
pub(super) fn existing(asked: Option<&str>, cwd: &Path, home: Option<&Path>) -> Result<PathBuf, String> {
    let path = resolve(asked.unwrap_or("."), cwd, home);
    if path.exists() { Ok(path) } else { Err(format!("Path not found: {}", path.display())) }
}

fn is_unicode_space(c: char) -> bool {
    matches!(c, '\u{a0}' | '\u{2000}'..='\u{200a}' | '\u{202f}' | '\u{205f}' | '\u{3000}')
}

/// The path of a `file:` URL whose scheme and slashes are already gone; an authority such as `localhost` is dropped.
fn from_file_url(url: &str) -> PathBuf {
    let path = &url[url.find('/').unwrap_or(0)..];
    let mut decoded = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let [first, tail @ ..] = rest {
        let escaped = tail
            .get(..2)
            .filter(|_| *first == b'%')
            .and_then(|hex| std::str::from_utf8(hex).ok())
            .filter(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()))
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        decoded.push(escaped.unwrap_or(*first));
        rest = if escaped.is_some() { &tail[2..] } else { tail };
    }
    PathBuf::from(String::from_utf8_lossy(&decoded).into_owned())
}

/// Resolves `.` and `..` by name alone, as the path may not exist.
fn normalize(path: &Path) -> PathBuf {
    let mut result = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => {
                result.pop();
            }
            other @ (Component::Prefix(_) | Component::RootDir | Component::Normal(_)) => result.push(other),
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_resolved_against_the_working_directory() {
        for (given, expected) in [
            ("a.txt", "/w/d/a.txt"),
            ("./a/../b.txt", "/w/d/b.txt"),
            ("../../../../etc/passwd", "/etc/passwd"),
            ("/abs/x", "/abs/x"),
            ("@a.txt", "/w/d/a.txt"),
            ("@@a.txt", "/w/d/@a.txt"),
            ("~", "/home/u"),
            ("~/x", "/home/u/x"),
            ("~other/x", "/w/d/~other/x"),
            ("@~/x", "/home/u/x"),
            ("a\u{a0}b\u{3000}c\u{2009}d", "/w/d/a b c d"),
            ("file:///tmp/a%20b%C3%A9.txt", "/tmp/a bé.txt"),
            ("file://localhost/tmp/x", "/tmp/x"),
            ("file:///tmp/100%", "/tmp/100%"),
            ("file:///tmp/%zz%+1", "/tmp/%zz%+1"),
            ("", "/w/d"),
        ] {
            let path = resolve(given, Path::new("/w/d"), Some(Path::new("/home/u")));
            assert_eq!(path, Path::new(expected), "{given:?}");
        }
        assert_eq!(resolve("~/x", Path::new("/w"), None), Path::new("/w/~/x"));
    }

    #[test]
    fn spellings_of_macos_are_found() {
        let dir = tempfile::tempdir().expect("a directory");
        for (on_disk, asked) in [
            ("Shot 9.41.00\u{202f}AM.png", "Shot 9.41.00 AM.png"),
            ("re\u{301}sume\u{301}.txt", "r\u{e9}sum\u{e9}.txt"),
            ("it\u{2019}s.txt", "it's.txt"),
            ("d\u{2019}e\u{301}te\u{301}.txt", "d'\u{e9}t\u{e9}.txt"),
            ("plain.txt", "plain.txt"),
        ] {
            std::fs::write(dir.path().join(on_disk), "x").expect("it is written");
            assert_eq!(resolve_existing(asked, dir.path(), None), dir.path().join(on_disk));
        }
        assert_eq!(resolve_existing("none.txt", dir.path(), None), dir.path().join("none.txt"));
    }
}
