//! Walking folders as developers expect it: what version control ignores is left out, hidden files are not.

use ignore::{DirEntry, WalkBuilder};
use std::path::{Path, PathBuf};

/// Files with ignore rules that are read in every folder on the way, beside those of git that need no name here.
const CUSTOM_RULES: [&str; 2] = [".rgignore", ".fdignore"];
/// All files with ignore rules that a walk may read.
const RULES: [&str; 5] = [".gitignore", ".ignore", CUSTOM_RULES[0], CUSTOM_RULES[1], ".git/info/exclude"];
/// Most bytes of a file with ignore rules (1 MiB).
const MAX_RULES: u64 = 1024 * 1024;

/// A walk through `dir` in the order of names, without following links, git's own folder and what `keep` refuses.
///
/// # Errors
/// A text if the ignore rules that apply to `dir` cannot be read safely.
pub fn walk(dir: &Path, keep: fn(&DirEntry) -> bool) -> Result<WalkBuilder, String> {
    if let Some(odd) = dir.ancestors().find_map(odd_rules) {
        return Err(format!("The ignore rules in {} are no regular file or too large", odd.display()));
    }
    let mut builder = WalkBuilder::new(dir);
    builder
        .hidden(false)
        .current_dir(dir)
        .sort_by_file_name(std::ffi::OsStr::cmp)
        .filter_entry(move |entry| entry.file_name() != ".git" && keep(entry) && odd_rules(entry.path()).is_none());
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

#[cfg(test)]
mod tests {
    use super::*;

    struct Tree(tempfile::TempDir);

    impl Tree {
        fn new(files: &[(&str, &str)]) -> Tree {
            let tree = Tree(tempfile::tempdir().expect("a folder"));
            for (name, text) in files {
                let path = tree.path(name);
                std::fs::create_dir_all(path.parent().expect("a folder")).expect("it is made");
                std::fs::write(path, text).expect("it is written");
            }
            tree
        }

        fn path(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }
    }

    fn walked(tree: &Tree) -> Vec<String> {
        let root = tree.0.path();
        let name = |entry: DirEntry| {
            let path = entry.path().strip_prefix(root).expect("it is below").to_owned();
            path.to_str().expect("a plain name").to_owned()
        };
        let walk = walk(root, |_| true).expect("the rules are fine").build();
        walk.filter_map(Result::ok).map(name).filter(|name| !name.is_empty()).collect()
    }

    #[test]
    fn ignored_files_are_left_out_and_hidden_ones_are_not() {
        let names = ["b.rs", "a.rs", ".hidden", "out/x", "no.tmp", "kept/y", "fd", "rg", ".git/config", "kept/.git/z"];
        let rules = [(".gitignore", "out\n*.tmp\n"), (".fdignore", "fd\n"), (".rgignore", "rg\n")];
        let tree = Tree::new(&[&names.map(|name| (name, ""))[..], &rules].concat());
        assert_eq!(
            walked(&tree),
            [".fdignore", ".gitignore", ".hidden", ".rgignore", "a.rs", "b.rs", "kept", "kept/y"]
        );
    }

    #[test]
    fn rules_that_could_hang_or_fill_the_memory_are_not_read() {
        let tree = Tree::new(&[("d/x", ""), ("e/x", ""), ("f/x", "")]);
        let fifo = tree.path("d/.gitignore");
        rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, rustix::fs::Mode::from_raw_mode(0o600)).expect("a FIFO");
        std::os::unix::fs::symlink("/dev/zero", tree.path("e/.ignore")).expect("a link");
        let sparse = std::fs::File::create(tree.path("f/.fdignore")).expect("it is created");
        sparse.set_len(4 << 30).expect("it is enlarged");
        assert!(walked(&tree).is_empty());
        for name in ["d", "e", "f"] {
            assert!(walk(&tree.path(name), |_| true).is_err_and(|text| text.contains(&format!("/{name}/."))));
        }
    }
}
