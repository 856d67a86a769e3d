//! What JetStream lets the account of this user do.

use super::JetStream;
use super::error::JetStreamError;
use serde::Deserialize;
use std::time::Duration;

/// What is used and what may be, in bytes and numbers.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
pub struct Account {
    /// Bytes in streams that are kept in files.
    #[serde(default)]
    pub storage: u64,
    #[serde(default)]
    pub streams: u64,
    #[serde(default)]
    pub limits: Limits,
    #[serde(default)]
    api: Api,
}

/// The bounds of an account. A number below zero means that there is none.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub struct Limits {
    pub max_storage: i64,
    pub max_streams: i64,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
struct Api {
    #[serde(default)]
    level: u32,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { max_storage: -1, max_streams: -1 }
    }
}

impl Account {
    /// The level of the API that the server has; 0 before nats-server 2.11, which names none.
    pub fn api_level(&self) -> u32 {
        self.api.level
    }
}

impl JetStream {
    /// What there is for this user.
    ///
    /// # Errors
    /// [`JetStreamError::is_not_enabled`] or no responders where there is no JetStream.
    pub fn account(&self, timeout: Duration) -> Result<Account, JetStreamError> {
        self.ask("INFO", b"", timeout)
    }
}
