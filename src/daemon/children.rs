//! Sessions that a tool of another session has started: they may do no more than that one, and end with it unless it was asked
//! otherwise.

use super::{Daemon, Entry};
use crate::contract::environment::SessionEnvironment;
use crate::contract::error::DaemonError;
use crate::contract::ids::InstanceId;
use crate::contract::prompt::EndReason;
use crate::contract::request::Create;
use crate::tools::runner::Sandbox;
use std::path::Path;
use std::sync::Arc;

impl Daemon {
    /// The session of whose tools one asks for a new one, if one does.
    ///
    /// # Errors
    /// It is over.
    pub(super) fn parent(&self, create: &Create) -> Result<Option<&Entry>, DaemonError> {
        let Some(parent) = &create.parent else { return Ok(None) };
        let gone = || DaemonError::Forbidden { message: "the session that asks for another one is over".to_owned() };
        self.sessions.get(parent).map(Some).ok_or_else(gone)
    }

    /// What a new session's tools are confined to.
    ///
    /// # Errors
    /// The request asks for more than the configuration, or its parent, has.
    pub(super) fn sandbox_of(
        &self,
        create: &Create,
        parent: Option<&Entry>,
        cwd: &Path,
        environment: &SessionEnvironment,
    ) -> Result<Arc<Sandbox>, DaemonError> {
        let most = parent.map_or_else(|| self.config.sandbox.clone(), |parent| parent.stats.settings().sandbox);
        if let Some(parent) = parent {
            let forbidden = |message: String| Err(DaemonError::Forbidden { message });
            // A folder is what its sandbox lets a session write to.
            if !most.is_off() && !cwd.starts_with(&parent.identity.cwd) {
                return forbidden("an agent's sessions work within its own folder".to_owned());
            }
            let own = &parent.identity.environment.secrets;
            if let Some(other) = environment.secrets.iter().find(|name| !own.contains(name)) {
                return forbidden(format!("the agent's own session does not have the secret {other}"));
            }
        }
        most.narrowed(create.sandbox()?).map_err(|message| DaemonError::InvalidRequest { message })
    }

    /// Ends what a session that is over has started, unless it was to stay.
    pub(super) fn end_children(&self, parent: &InstanceId) {
        for child in self.sessions.values().filter(|child| child.identity.parent.as_ref() == Some(parent)) {
            child.end(EndReason::Stopped);
        }
    }

    /// Ends those whose parents a restart has not brought back.
    pub(super) fn end_orphans(&self) {
        let is_gone = |parent: &InstanceId| !self.sessions.contains_key(parent);
        for child in self.sessions.values().filter(|child| child.identity.parent.as_ref().is_some_and(is_gone)) {
            child.end(EndReason::Stopped);
        }
    }
}
