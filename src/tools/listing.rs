//! What grep, find and ls have in common: rows of text, cut to what a model should have to read, with notices.

use super::tool::ToolOutput;
use super::truncate::{self, MAX_BYTES};
use crate::files::size;
use crate::files::walk::nests_too_deep;
use crate::transcript::Block;
use serde_json::{Map, Value};

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

    /// The result; `empty` is its text if there are no rows.
    pub(super) fn finish(mut self, empty: &str) -> ToolOutput {
        if self.rows.is_empty() {
            return ToolOutput::text(empty);
        }
        let rows = self.rows.trim_end_matches('\n');
        let cut = truncate::head(rows, None);
        let mut too_long = None;
        if cut.truncated() {
            too_long = Some(format!("{} limit reached", size(MAX_BYTES as u64)));
            self.details.insert("truncation".into(), cut.to_json());
        }
        let notices: Vec<String> = [self.limit, too_long, self.remark].into_iter().flatten().collect();
        let mut text = cut.content;
        if !notices.is_empty() {
            text = format!("{text}\n\n[{}]", notices.join(". "));
        }
        let details = (!self.details.is_empty()).then(|| self.details.into());
        ToolOutput { content: vec![Block::text(text)], details, is_error: false }
    }
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
