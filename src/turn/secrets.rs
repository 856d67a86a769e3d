//! The secrets of a session, which its tools get as variables and which are taken out of what they return.

use super::TurnOptions;
use crate::contract::environment::SessionEnvironment;
use crate::model::host_secret;
use crate::sync::lock;
use crate::tools::{MIN_SECRET, Redaction};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// What the operator's table says of each secret, by its name: a text as `auth.json` has them.
pub(crate) type SecretTable = BTreeMap<String, String>;

/// The secrets that one session names. Their values are found out at its first call of a tool, since that may run a program,
/// and kept until it ends.
#[derive(Default)]
pub(crate) struct SessionSecrets(Mutex<Option<Arc<Secrets>>>);

/// Variables of programs: names and values.
type Variables = Vec<(String, String)>;

/// Their values.
pub(super) struct Secrets {
    variables: Variables,
    pub redaction: Redaction,
}

impl SessionSecrets {
    /// The variables that all programs of a session get, and the secrets among them.
    ///
    /// # Errors
    /// A text without any value that says which secret cannot be had, and why.
    pub(super) fn environment(
        &self,
        wanted: &SessionEnvironment,
        options: &TurnOptions,
    ) -> Result<(Variables, Arc<Secrets>), String> {
        let secrets = self.values(&wanted.secrets, &options.secrets)?;
        let mut environment = options.tool_environment.clone();
        let own: Vec<(&String, &String)> =
            wanted.env.iter().chain(secrets.variables.iter().map(|(name, value)| (name, value))).collect();
        environment.retain(|(name, _)| !own.iter().any(|(own, _)| *own == name));
        environment.extend(own.into_iter().map(|(name, value)| (name.clone(), value.clone())));
        Ok((environment, secrets))
    }

    fn values(&self, names: &[String], table: &SecretTable) -> Result<Arc<Secrets>, String> {
        let mut kept = lock(&self.0);
        if let Some(secrets) = &*kept {
            return Ok(secrets.clone());
        }
        let mut variables = Vec::new();
        for name in names {
            let failed = |why: &str| format!("The tool was not run: the session's secret {name} cannot be had: {why}.");
            let text = table.get(name).ok_or_else(|| failed("the host has no such secret any more"))?;
            let value = host_secret(text).map_err(|why| failed(&why))?;
            if value.reveal().len() < MIN_SECRET || value.reveal().contains('\0') {
                return Err(failed(&format!("it is shorter than {MIN_SECRET} bytes, or no text")));
            }
            variables.push((name.clone(), value.reveal().to_owned()));
        }
        let redaction = Redaction::new(variables.iter().map(|(name, value)| (&**name, &**value)));
        let secrets = Arc::new(Secrets { variables, redaction });
        *kept = Some(secrets.clone());
        Ok(secrets)
    }
}
