//! What tools may be called with, and what becomes of what needs an approval, from their settings.

use super::{Config, ConfigError, Settings};
use crate::contract::session::Unattended;
use crate::governance::budget::OnBudget;
use crate::governance::rules::{Effect, Places, Rules};
use crate::tools;
use serde_json::Value;
use std::path::Path;
use std::sync::Arc;

impl Settings {
    pub(super) fn rules(&self) -> Result<Rules, ConfigError> {
        let otherwise = self.text("otherwise").unwrap_or_default();
        let otherwise = Effect::parse(otherwise)
            .ok_or_else(|| self.wrong("otherwise", &format!("{otherwise:?} is not {}", Effect::NAMES)))?;
        // The file's values are JSON.
        let list = self.text("rules").and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
        Rules::parse(&list, otherwise, &self.home, &is_tool).map_err(|why| self.wrong("rules", &why))
    }

    pub(super) fn unattended(&self) -> Result<Unattended, ConfigError> {
        let text = self.text("unattended").unwrap_or_default();
        let why = || self.wrong("unattended", &format!("{text:?} is neither deny nor wait nor a number of seconds"));
        Unattended::parse(text).ok_or_else(why)
    }

    pub(super) fn on_budget(&self) -> Result<OnBudget, ConfigError> {
        let text = self.text("onBudget").unwrap_or_default();
        OnBudget::parse(text).ok_or_else(|| self.wrong("onBudget", &format!("{text:?} is neither stop nor ask")))
    }
}

impl Config {
    /// The rules of a session in this folder, with those that its request adds.
    ///
    /// # Errors
    /// What is wrong with the request.
    pub(crate) fn session_rules(&self, narrowing: Vec<Value>, cwd: &Path) -> Result<Arc<Rules>, String> {
        let places = Places { home: &self.home, cwd };
        Ok(Arc::new(self.rules.narrowed(narrowing, places, &is_tool)?))
    }
}

fn is_tool(name: &str) -> bool {
    tools::by_name(name).is_some()
}
