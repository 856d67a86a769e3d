//! Ids of sessions. Each is a single safe word wherever it comes from: it becomes a token of subjects and a part of paths.

use crate::ids;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::ops::Deref;

/// The longest id, bytes, so that subjects stay far below the limit of 256 bytes.
pub(crate) const MAX_ID: usize = 64;

/// Names a session among those of its owner, in its subject and for its callers.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct SessionId(String);

/// Names one life of a session: to discovery, to the model's prompt cache, to the programs that it starts.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct InstanceId(String);

/// The text is no id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidId;

impl fmt::Display for InvalidId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an id is 1 to {MAX_ID} of the characters A-Z a-z 0-9 _ -")
    }
}

fn checked(text: String) -> Result<String, InvalidId> {
    let safe = text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    if safe && (1..=MAX_ID).contains(&text.len()) { Ok(text) } else { Err(InvalidId) }
}

macro_rules! id {
    ($name:ident) => {
        impl TryFrom<String> for $name {
            type Error = InvalidId;

            fn try_from(text: String) -> Result<$name, InvalidId> {
                checked(text).map($name)
            }
        }

        impl Deref for $name {
            type Target = str;

            fn deref(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        /// In messages an id stands in quotation marks, as any text does.
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }
    };
}

impl SessionId {
    /// The id of a run, which is not found under it by callers.
    pub fn of_run() -> SessionId {
        SessionId(format!("run-{}", ids::hex8()))
    }
}

impl InstanceId {
    pub(crate) fn random() -> InstanceId {
        InstanceId(ids::nuid())
    }
}

id!(SessionId);
id!(InstanceId);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_single_safe_words() {
        for (id, valid) in [
            ("a", true),
            ("worker-1_B", true),
            ("", false),
            ("..", false),
            ("a.b", false),
            ("*", false),
            (">", false),
            ("a b", false),
            ("ä", false),
            ("a\0", false),
            ("a/b", false),
        ] {
            assert_eq!(SessionId::try_from(id.to_owned()).is_ok(), valid, "{id:?}");
        }
        assert!(InstanceId::try_from("x".repeat(MAX_ID)).is_ok());
        assert_eq!(InstanceId::try_from("x".repeat(MAX_ID + 1)), Err(InvalidId));
    }
}
