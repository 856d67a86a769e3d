//! Variables that a session's tools get beside the usual ones: plain ones, and secrets, of which callers only know the names.

use super::error::{DaemonError, echo};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// Variables of both kinds that a session may have.
const MAX_VARIABLES: usize = 256;
/// Bytes of all values together (64 KiB), half of what Linux takes for one of them.
const MAX_BYTES: usize = 64 * 1024;

/// What a request says of the tools' environment; part of what survives a restart.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub(crate) struct SessionEnvironment {
    pub env: BTreeMap<String, String>,
    /// Names in the host's table of secrets, which are the names of the variables.
    pub secrets: Vec<String>,
}

impl SessionEnvironment {
    /// Reads `env`, an object of texts, and `secrets`, a list of names that the host must have.
    ///
    /// # Errors
    /// `invalid_request` for anything else.
    pub(crate) fn of_request(
        request: &Map<String, Value>,
        is_known: impl Fn(&str) -> bool,
    ) -> Result<SessionEnvironment, DaemonError> {
        let invalid = |message: String| DaemonError::InvalidRequest { message };
        let mut found = SessionEnvironment::default();
        match request.get("env") {
            None | Some(Value::Null) => {}
            Some(Value::Object(variables)) => {
                for (name, value) in variables {
                    if !is_variable(name) {
                        return Err(invalid(format!("env: {:?} is no name of a variable", echo(name))));
                    }
                    let value = value.as_str().filter(|value| !value.contains('\0'));
                    let value = value.ok_or_else(|| invalid(format!("env: {} must be a string", echo(name))))?;
                    found.env.insert(name.clone(), value.to_owned());
                }
            }
            Some(_) => return Err(invalid("env must be an object of strings".to_owned())),
        }
        match request.get("secrets") {
            None | Some(Value::Null) => {}
            Some(Value::Array(names)) => {
                for name in names {
                    let name = name.as_str().ok_or_else(|| invalid("secrets must be a list of names".to_owned()))?;
                    if !is_known(name) {
                        return Err(invalid(format!("secrets: this host has no secret {:?}", echo(name))));
                    }
                    if !found.secrets.iter().any(|other| other == name) {
                        found.secrets.push(name.to_owned());
                    }
                }
            }
            Some(_) => return Err(invalid("secrets must be a list of names".to_owned())),
        }
        let bytes: usize = found.env.iter().map(|(name, value)| name.len() + value.len()).sum();
        if found.env.len() + found.secrets.len() > MAX_VARIABLES || bytes > MAX_BYTES {
            return Err(invalid(format!("env: more than {MAX_VARIABLES} variables or {MAX_BYTES} bytes")));
        }
        Ok(found)
    }
}

/// The name is one that every program and shell takes.
pub(crate) fn is_variable(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|first| first.is_ascii_alphabetic() || first == b'_')
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(request: &Value) -> Result<SessionEnvironment, String> {
        let request = request.as_object().expect("an object");
        SessionEnvironment::of_request(request, |name| name == "TOKEN").map_err(|error| error.summary())
    }

    #[test]
    fn variables_and_names_of_secrets_are_read() {
        let found = read(&json!({"env": {"A": "1", "_b2": ""}, "secrets": ["TOKEN", "TOKEN"]})).expect("it is right");
        assert_eq!(
            found.env.into_iter().collect::<Vec<_>>(),
            [("A".into(), "1".into()), ("_b2".into(), String::new())]
        );
        assert_eq!(found.secrets, ["TOKEN"]);
        assert_eq!(read(&json!({"env": null, "secrets": null})), Ok(SessionEnvironment::default()));
        for (wrong, word) in [
            (json!({"env": []}), "object"),
            (json!({"env": {"A": 1}}), "must be a string"),
            (json!({"env": {"A": "\0"}}), "must be a string"),
            (json!({"env": {"1A": ""}}), "no name"),
            (json!({"env": {"": ""}}), "no name"),
            (json!({"env": {"A=B": ""}}), "no name"),
            (json!({"env": {"A": "x".repeat(70_000)}}), "bytes"),
            (json!({"secrets": {}}), "list of names"),
            (json!({"secrets": [1]}), "list of names"),
            (json!({"secrets": ["OTHER"]}), "no secret"),
        ] {
            let why = read(&wrong).expect_err("it is wrong");
            assert!(why.contains(word), "{wrong}: {why}");
        }
    }
}
