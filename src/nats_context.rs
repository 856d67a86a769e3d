//! NATS contexts: the connection settings that the nats command keeps by name.

use crate::nats::{Auth, Tls};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// What a context says about a connection.
pub struct Context {
    /// One or more servers, separated by commas.
    pub url: Option<String>,
    pub auth: Auth,
    pub tls: Tls,
    pub inbox_prefix: Option<String>,
}

/// Where contexts are kept.
pub fn folder(environment: &HashMap<String, String>, home: &Path) -> PathBuf {
    let set = |name: &str| environment.get(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("NATS_CONFIG_HOME")
        .or_else(|| Some(set("XDG_CONFIG_HOME")?.join("nats")))
        .unwrap_or_else(|| home.join(".config/nats"))
}

/// Reads a context.
///
/// # Errors
/// Why it cannot be used.
pub fn load(_folder: &Path, name: &str) -> Result<Context, String> {
    Err(format!("context {name:?} cannot be read"))
}
