//! From the path a model wrote to a path of the file system.

use std::path::{Component, Path, PathBuf};
use unicode_normalization::UnicodeNormalization;

/// Entries of a folder among which a name that reads the same is looked for.
const MAX_ENTRIES: usize = 20_000;

/// Resolves what a model gave as a path against `cwd`; `.` and `..` are resolved by name. What is there under the very name
/// that was given is meant. Otherwise one leading `@` is a mention, `~` is `home`, `file://` URLs are paths, and each part of
/// the path may be written a little differently on the disk: with other blanks, accents or apostrophes, as macOS names
/// screenshots, which models do not reproduce exactly. There is no sandbox: any absolute path is fine.
pub(super) fn resolve(path: &str, cwd: &Path, home: Option<&Path>) -> PathBuf {
    let literal = normalize(&cwd.join(path));
    if exists(&literal) {
        return literal;
    }
    let plain: String = path.chars().map(|c| if is_unicode_space(c) { ' ' } else { c }).collect();
    let plain = plain.strip_prefix('@').unwrap_or(&plain);
    let expanded = match (plain.strip_prefix('~'), plain.strip_prefix("file://"), home) {
        (Some(""), _, Some(home)) => home.to_owned(),
        (Some(rest), _, Some(home)) if rest.starts_with('/') => home.join(rest.trim_start_matches('/')),
        (_, Some(url), _) => from_file_url(url),
        _ => PathBuf::from(plain),
    };
    let expanded = on_disk(&normalize(&cwd.join(expanded)));
    let literal = on_disk(&literal);
    let has_its_folder = || path.starts_with('@') && path.contains('/') && literal.parent().is_some_and(exists);
    if exists(&literal) || (!exists(&expanded) && has_its_folder()) { literal } else { expanded }
}

/// How a result names the file that a call was about: as it was given, unless what that means is a matter of taste.
pub(super) fn shown(given: &str, resolved: &Path, cwd: &Path) -> String {
    let stands_for_home = given.starts_with('~') && !resolved.starts_with(cwd);
    if stands_for_home || normalize(&cwd.join(given)) == resolved {
        return given.to_owned();
    }
    resolved.strip_prefix(cwd).unwrap_or(resolved).display().to_string()
}

/// The path as it is written on the disk, as far as it is there.
fn on_disk(path: &Path) -> PathBuf {
    let mut found = PathBuf::new();
    for part in path.components() {
        let next = found.join(part);
        found = if exists(&next) { next } else { alike(&found, part).unwrap_or(next) };
    }
    found
}

/// The only entry of a folder whose name reads the same.
fn alike(folder: &Path, part: Component<'_>) -> Option<PathBuf> {
    let wanted = levelled(part.as_os_str().to_str()?);
    let entries = folder.read_dir().ok()?.take(MAX_ENTRIES).flatten();
    let mut same = entries.filter(|entry| entry.file_name().to_str().is_some_and(|name| levelled(name) == wanted));
    let only = same.next()?;
    same.next().is_none().then(|| only.path())
}

fn levelled(name: &str) -> String {
    let level = |c| match c {
        '\u{2018}' | '\u{2019}' => '\'',
        c if is_unicode_space(c) => ' ',
        c => c,
    };
    name.nfc().map(level).collect()
}

fn exists(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
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
            assert_eq!(resolve(asked, dir.path(), None), dir.path().join(on_disk));
        }
        assert_eq!(resolve("none.txt", dir.path(), None), dir.path().join("none.txt"));
    }

    #[test]
    fn what_is_there_comes_first() {
        let dir = tempfile::tempdir().expect("a directory");
        for folder in ["@types", "src", "a\u{a0}b"] {
            std::fs::create_dir(dir.path().join(folder)).expect("it is made");
        }
        for file in ["@types/x", "src/x", "a\u{a0}b/c\u{202f}d", "@x", "two words", "two\u{a0}words", "y"] {
            std::fs::write(dir.path().join(file), "x").expect("it is written");
        }
        for (given, expected, shown) in [
            ("@types/x", "@types/x", "@types/x"),
            ("@types/new", "@types/new", "@types/new"),
            ("@src/x", "src/x", "src/x"),
            ("@src/new", "src/new", "src/new"),
            ("@y", "y", "y"),
            ("@x", "@x", "@x"),
            ("@new", "new", "new"),
            ("a b/c d", "a\u{a0}b/c\u{202f}d", "a\u{a0}b/c\u{202f}d"),
            ("a b/new\u{a0}one", "a\u{a0}b/new one", "a\u{a0}b/new one"),
            ("./y", "y", "./y"),
            ("two words", "two words", "two words"),
            ("two\u{2009}words", "two words", "two words"),
        ] {
            let resolved = resolve(given, dir.path(), None);
            assert_eq!(resolved, dir.path().join(expected), "{given}");
            assert_eq!(super::shown(given, &resolved, dir.path()), shown, "{given}");
        }
    }
}
