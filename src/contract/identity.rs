//! What a session was created with, and what its registry row says of it.

use super::environment::SessionEnvironment;
use super::ids::{InstanceId, SessionId};
use crate::governance::rules::Rules;
use crate::model::{Model, ThinkingLevel};
use serde::ser::SerializeMap;
use serde::{Deserialize, Serialize, Serializer};
use std::path::PathBuf;
use std::sync::Arc;

/// What becomes of a prompt that was being worked on when the host ended.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum OnRestart {
    /// It is gone on with.
    #[default]
    Continue,
    /// It is closed; the session waits for the next one.
    Hold,
    /// It is closed, and the session with it.
    End,
}

impl OnRestart {
    /// Reads the name in the configuration and in requests.
    pub(crate) fn parse(text: &str) -> Option<OnRestart> {
        [OnRestart::Continue, OnRestart::Hold, OnRestart::End].into_iter().find(|policy| policy.as_str() == text)
    }

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            OnRestart::Continue => "continue",
            OnRestart::Hold => "hold",
            OnRestart::End => "end",
        }
    }
}

/// Where else a session's working folder is, and so where the session can go on.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Workspace {
    /// Nowhere.
    #[default]
    Local,
    /// It is the same folder on every host.
    Shared,
    /// Other hosts have clones of its repository, and get its content over that one's remote.
    Git,
}

impl Workspace {
    /// Reads the name in requests.
    pub(crate) fn parse(text: &str) -> Option<Workspace> {
        [Workspace::Local, Workspace::Shared, Workspace::Git].into_iter().find(|kind| kind.as_str() == text)
    }

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Workspace::Local => "local",
            Workspace::Shared => "shared",
            Workspace::Git => "git",
        }
    }

    /// Other hosts can go on with the session.
    pub(crate) fn moves(self) -> bool {
        self != Workspace::Local
    }
}

/// What a session was created with; never changes.
#[derive(Debug)]
pub(crate) struct SessionIdentity {
    pub id: SessionId,
    /// Where the session takes prompts on NATS, if it does.
    pub subject: Option<String>,
    /// Identifies this one life of the session: to discovery, to the model's prompt cache, to commands.
    pub instance_id: InstanceId,
    /// A named session stays until it is stopped or expires; another one ends with its only prompt.
    pub named: bool,
    pub cwd: PathBuf,
    /// The label that the creator gave itself.
    pub from: Option<String>,
    /// The session with which it ends, since a tool of that one has started it.
    pub parent: Option<InstanceId>,
    pub on_restart: OnRestart,
    /// What the host is called that has it, where it is one of several.
    pub host: Option<String>,
    pub workspace: Workspace,
    /// The operator trusts the project in `cwd`: its own `.pi` and `.agents` folders count.
    pub project_trusted: bool,
    /// Names of the tools that the model is offered.
    pub tools: Vec<String>,
    /// What they may be called with.
    pub rules: Arc<Rules>,
    /// Variables that they get.
    pub environment: SessionEnvironment,
    /// How often the daemon had been started when the session was created; 0 where nobody counts.
    pub created_at_start: u64,
    /// Unix time in milliseconds.
    pub created_ms: i64,
}

/// The session in the fields of the side channel's registry, as it was at one moment.
#[derive(Clone, Debug)]
pub(crate) struct SessionState {
    pub(super) identity: Arc<SessionIdentity>,
    pub(super) file: Option<PathBuf>,
    pub(super) name: Option<String>,
    pub(super) model: Arc<Model>,
    pub(super) thinking: ThinkingLevel,
    pub(super) is_idle: bool,
    pub(super) has_pending_messages: bool,
}

impl Serialize for SessionState {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_map(None)?;
        fields.serialize_entry("cwd", &self.identity.cwd.to_string_lossy())?;
        fields.serialize_entry("sessionId", &self.identity.id)?;
        if let Some(file) = &self.file {
            fields.serialize_entry("sessionFile", &file.to_string_lossy())?;
        }
        // Clients choose sessions by name, so one without a name goes by its id.
        fields.serialize_entry("sessionName", self.name.as_deref().unwrap_or(&self.identity.id))?;
        fields.serialize_entry("model", &ModelFacts::of(&self.model))?;
        fields.serialize_entry("thinkingLevel", self.thinking.as_str())?;
        fields.serialize_entry("isIdle", &self.is_idle)?;
        fields.serialize_entry("hasPendingMessages", &self.has_pending_messages)?;
        fields.end()
    }
}

/// A model as events and states name it.
#[derive(Serialize)]
pub(crate) struct ModelFacts<'a> {
    provider: &'a str,
    id: &'a str,
    name: &'a str,
}

impl ModelFacts<'_> {
    pub(crate) fn of(model: &Model) -> ModelFacts<'_> {
        ModelFacts { provider: &model.provider, id: &model.id, name: &model.name }
    }
}
