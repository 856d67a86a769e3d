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
    /// Reads a sender as [`AgentSender::document`] writes it.
    pub(crate) fn read(document: &Value) -> Option<AgentSender> {
        let text = |key: &str| Some(document[key].as_str()?.to_owned());
        let verified = document["verified"] == true;
        Some(AgentSender { account: text("account")?, user: text("user")?, name: text("name"), verified })
    }

    /// The sender as events and session files have it.
    pub fn document(&self) -> Value {
        let mut document = json!({"account": self.account, "user": self.user, "verified": self.verified});
        if let Some(name) = &self.name {
            document["name"] = json!(name);
        }
        document
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sender_is_read_as_it_is_written() {
        let sender = |name: Option<&str>, verified| AgentSender {
            account: "A".into(),
            user: "U".into(),
            name: name.map(Into::into),
            verified,
        };
        for sender in [sender(None, false), sender(Some("ada"), true)] {
            assert_eq!(AgentSender::read(&sender.document()), Some(sender));
        }
        assert_eq!(AgentSender::read(&Value::Null), None);
    }
}
