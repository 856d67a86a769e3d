//! Walking folders as developers expect it: what version control ignores is left out, hidden files are not.

use super::paths;
use ignore::WalkBuilder;
use std::path::{Path, PathBuf};

/// Files with ignore rules that are read in every folder on the way, beside those of git that need no name here.
const CUSTOM_RULES: [&str; 2] = [".rgignore", ".fdignore"];
/// All files with ignore rules that a walk may read.
const RULES: [&str; 5] = [".gitignore", ".ignore", CUSTOM_RULES[0], CUSTOM_RULES[1], ".git/info/exclude"];
/// Most bytes of a file with ignore rules (1 MiB).
const MAX_RULES: u64 = 1024 * 1024;

/// A walk through `dir` in the order of names, without following links and without git's own folder.
///
/// # Errors
/// A text if the ignore rules that apply to `dir` cannot be read safely.
pub fn walk(dir: &Path) -> Result<WalkBuilder, String> {
    if let Some(odd) = dir.ancestors().find_map(odd_rules) {
        return Err(format!("The ignore rules in {} are no regular file or too large", odd.display()));
    }
    let mut builder = WalkBuilder::new(dir);
    builder
        .hidden(false)
        .current_dir(dir)
        .sort_by_file_name(std::ffi::OsStr::cmp)
        .filter_entry(|entry| entry.file_name() != ".git" && odd_rules(entry.path()).is_none());
    for name in CUSTOM_RULES {
        builder.add_custom_ignore_filename(name);
    }
    Ok(builder)
}

/// A file with ignore rules in `dir` that must not be opened, as a pipe of that name would be waited for, and a device or
/// a huge file would fill the memory.
fn odd_rules(dir: &Path) -> Option<PathBuf> {
    RULES
        .iter()
        .map(|name| dir.join(name))
        .find(|path| path.metadata().is_ok_and(|metadata| !metadata.is_file() || metadata.len() > MAX_RULES))
}

/// The folder or file that a tool was asked to look at, which exists, by default the working directory.
///
/// # Errors
/// The text for the model.
pub fn target(asked: Option<&str>, cwd: &Path, home: Option<&Path>) -> Result<PathBuf, String> {
    let path = paths::resolve(asked.unwrap_or("."), cwd, home);
    if path.exists() { Ok(path) } else { Err(format!("Path not found: {}", path.display())) }
}

#[cfg(test)]
mod tests {
    use super::super::test_support::Bench;
    use super::*;

    fn walked(bench: &Bench) -> Vec<String> {
        let name = |entry: ignore::DirEntry| {
            let path = entry.path().strip_prefix(&bench.cwd).expect("it is below").to_owned();
            path.to_str().expect("a plain name").to_owned()
        };
        let walk = walk(&bench.cwd).expect("the rules are fine").build();
        walk.filter_map(Result::ok).map(name).filter(|name| !name.is_empty()).collect()
    }

    #[test]
    fn ignored_files_are_left_out_and_hidden_ones_are_not() {
        let bench = Bench::new();
        for name in ["b.rs", "a.rs", ".hidden", "out/x", "no.tmp", "kept/y", "fd", "rg", ".git/config", "kept/.git/z"] {
            bench.write(name, "");
        }
        bench.write(".gitignore", "out\n*.tmp\n");
        bench.write(".fdignore", "fd\n");
        bench.write(".rgignore", "rg\n");
        assert_eq!(
            walked(&bench),
            [".fdignore", ".gitignore", ".hidden", ".rgignore", "a.rs", "b.rs", "kept", "kept/y"]
        );
    }

    #[test]
    fn rules_that_could_hang_or_fill_the_memory_are_not_read() {
        let bench = Bench::new();
        bench.write("d/x", "");
        bench.write("e/x", "");
        bench.write("f/x", "");
        bench.fifo("d/.gitignore");
        std::os::unix::fs::symlink("/dev/zero", bench.path("e/.ignore")).expect("a link");
        let sparse = std::fs::File::create(bench.path("f/.fdignore")).expect("it is created");
        sparse.set_len(4 << 30).expect("it is enlarged");
        assert!(walked(&bench).is_empty());
        for name in ["d", "e", "f"] {
            assert!(walk(&bench.path(name)).is_err_and(|text| text.contains(&format!("/{name}/."))));
        }
    }
}
