//! Who sent a request, where that is told in a way that can be proved.

use serde_json::{Value, json};

/// The sender of a request. Who may speak for the account is the server's matter; we check the user's signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentSender {
    pub account: String,
    /// The user's public key, `U...`.
    pub user: String,
    /// For people.
    pub name: Option<String>,
    /// The request was signed by the user; otherwise all this is only claimed.
    pub verified: bool,
}

impl AgentSender {
    /// The sender as events and session files have it.
    pub fn document(&self) -> Value {
        let mut document = json!({"account": self.account, "user": self.user, "verified": self.verified});
        if let Some(name) = &self.name {
            document["name"] = json!(name);
        }
        document
    }
}
