//! What grep, find and ls have in common: rows of text, cut to what a model should have to read, with notices.

use super::tool::ToolOutput;
use super::truncate::{self, MAX_BYTES};
use crate::cancel::Cancel;
use crate::files::walk::nests_too_deep;
use crate::files::{self, size};
use crate::transcript::Block;
use ignore::WalkBuilder;
use ignore::gitignore::Gitignore;
use serde_json::{Map, Value};
use std::path::Path;

/// Most bytes of a file with ignore rules that is looked at (1 MiB).
const MAX_RULES: u64 = 1024 * 1024;

/// Most bytes of a glob pattern (4 KiB, as of a path).
const MAX_GLOB: usize = 4096;

/// Rows that are being collected.
#[derive(Default)]
pub(super) struct Listing {
    rows: String,
    /// What limited the search itself.
    limit: Option<String>,
    /// What is to be known about single rows.
    remark: Option<String>,
    /// What is to be known about the search, also if it finds nothing.
    note: Option<String>,
    details: Map<String, Value>,
}

impl Listing {
    pub(super) fn push(&mut self, row: &str) {
        self.rows.push_str(row);
        self.rows.push('\n');
    }

    /// More rows could not be shown anyway.
    pub(super) fn is_full(&self) -> bool {
        self.rows.len() > MAX_BYTES
    }

    /// There is more than the limit that was asked for; the fact goes into the details under `name`.
    pub(super) fn limit_reached(&mut self, notice: String, name: &str, limit: usize) {
        self.limit = Some(notice);
        self.details.insert(name.to_owned(), limit.into());
    }

    /// Something is to be known about single rows; the details say so under `name`.
    pub(super) fn remark(&mut self, notice: String, name: &str) {
        self.remark = Some(notice);
        self.details.insert(name.to_owned(), true.into());
    }

    /// Something is to be known about the search, also if it finds nothing.
    pub(super) fn note(&mut self, note: String) {
        self.note = Some(note);
    }

    /// The result; `empty` is its text if there are no rows.
    pub(super) fn finish(mut self, empty: &str) -> ToolOutput {
        if self.rows.is_empty() {
            let note = self.note.map(|note| format!("\n\n[{note}]")).unwrap_or_default();
            return ToolOutput::text(format!("{empty}{note}"));
        }
        let rows = self.rows.trim_end_matches('\n');
        let cut = truncate::head(rows, None);
        let mut too_long = None;
        if cut.truncated() {
            too_long = Some(format!("{} limit reached", size(MAX_BYTES as u64)));
            self.details.insert("truncation".into(), cut.to_json());
        }
        let notices: Vec<String> = [self.limit, too_long, self.remark, self.note].into_iter().flatten().collect();
        let mut text = cut.content;
        if !notices.is_empty() {
            text = format!("{text}\n\n[{}]", notices.join(". "));
        }
        let details = (!self.details.is_empty()).then(|| self.details.into());
        ToolOutput { content: vec![Block::text(text)], details, is_error: false }
    }
}

/// A walk through `dir`. Where that itself is ignored, whoever names it means what is in it: no rules apply then, which the
/// note says that comes with it.
///
/// # Errors
/// The text for the model.
pub(super) fn walk(dir: &Path, cancel: &Cancel) -> Result<(WalkBuilder, Option<String>), String> {
    let cancel = cancel.clone();
    let mut walk = files::walk::walk(dir, move |_| !cancel.is_cancelled())?;
    let note = is_ignored(dir).then(|| {
        walk.git_ignore(false).git_global(false).git_exclude(false).ignore(false).parents(false);
        format!("{} is ignored by version control; it was searched all the same", dir.display())
    });
    Ok((walk, note))
}

/// Whether a folder is left out of searches that begin above it, by a `.gitignore` of its repository.
pub(super) fn is_ignored(dir: &Path) -> bool {
    let rules = |above: &Path| {
        let file = above.join(".gitignore");
        files::open_regular(&file).is_ok_and(|(_, metadata)| metadata.len() <= MAX_RULES)
            && Gitignore::new(file).0.matched_path_or_any_parents(dir, true).is_ignore()
    };
    let root = dir.ancestors().find(|above| above.join(".git").exists());
    let within = |above: &&Path| root.is_none_or(|root| above.starts_with(root));
    dir.ancestors().skip(1).take_while(within).any(rules)
}

/// A glob pattern that is neither too long nor nested too deep.
///
/// # Errors
/// The text for the model.
pub(super) fn checked_glob(glob: &str) -> Result<&str, String> {
    if glob.len() > MAX_GLOB {
        Err(format!("The glob pattern is longer than {MAX_GLOB} bytes"))
    } else if nests_too_deep(glob.as_bytes()) {
        Err("The glob pattern has too many braces within each other".into())
    } else {
        Ok(glob)
    }
}

/// The `limit` argument: at least 1, without a fraction.
pub(super) fn limit(arguments: &Map<String, Value>, default: usize) -> usize {
    let asked = arguments.get("limit").and_then(Value::as_f64);
    asked.map_or(default, |limit| (limit as usize).max(1))
}
