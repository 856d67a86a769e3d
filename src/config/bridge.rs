//! Settings of the side channel and of the events that it shows.

use super::{ConfigError, Settings, expand};
use crate::event_log;
use crate::socket::directory;
use std::collections::HashMap;
use std::path::PathBuf;

/// Where to serve the side channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BridgePlan {
    /// Absolute.
    pub root: PathBuf,
    /// The operator named the folder, so that going without it is no option.
    pub required: bool,
}

impl Settings {
    /// The side channel, unless it is forbidden.
    pub(super) fn bridge(&self, environment: &HashMap<String, String>) -> Result<Option<BridgePlan>, ConfigError> {
        if self.text("noBridge") == Some("true") {
            return Ok(None);
        }
        let named = self.text("bridgeDir").map(str::trim).filter(|text| !text.is_empty());
        let root = match named {
            Some(text) => expand(text, &self.home),
            None => directory::default_root(|name| environment.get(name).cloned()),
        };
        let root = std::path::absolute(root).map_err(|e| self.wrong("bridgeDir", &e.to_string()))?;
        Ok(Some(BridgePlan { root, required: named.is_some() }))
    }

    /// The bounds of every session's events.
    pub(super) fn event_log(&self) -> event_log::Settings {
        let number = |key: &str| usize::try_from(self.number(key)).unwrap_or(usize::MAX);
        event_log::Settings {
            history_limit: number("historyLimit"),
            max_event_bytes: number("maxEventBytes"),
            preview_bytes: number("eventPreviewBytes"),
            max_history_bytes: number("maxHistoryBytes"),
            max_response_bytes: number("maxHistoryResponseBytes"),
            spill: self.text("noRawEvents") != Some("true"),
            max_spill_bytes: self.number("maxRawSpillBytes"),
        }
    }
}
