//! What a tool is, what it is given, and what it returns.

use crate::cancel::Cancel;
use crate::quota::SessionQuota;
use crate::transcript::{Block, ToolSpec};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// A tool. Tools know nothing of sessions or models: what they need comes with the call.
pub(crate) trait Tool: Send + Sync {
    fn spec(&self) -> &ToolSpec;
    /// One line for the system prompt's list of tools.
    fn snippet(&self) -> &'static str;
    /// Rules for the system prompt.
    fn rules(&self) -> &'static [&'static str];
    /// Brings arguments of older or sloppier form into the schema's form, before they are validated.
    fn prepare(&self, arguments: Map<String, Value>) -> Map<String, Value> {
        arguments
    }
    /// Runs on the caller's thread until done, failed or cancelled. Failures are outputs too.
    fn run(&self, arguments: &Map<String, Value>, context: &ToolContext<'_>) -> ToolOutput;
}

/// What a tool call has to work with.
pub(crate) struct ToolContext<'a> {
    /// The session's working directory, absolute.
    pub cwd: &'a Path,
    pub cancel: &'a Cancel,
    /// The whole environment of child processes.
    pub environment: &'a [(String, String)],
    /// Where spill files go; private to the session. Created when first needed.
    pub spill_dir: &'a Path,
    /// How much may go there.
    pub quota: &'a Arc<SessionQuota>,
    /// The model takes images.
    pub images: bool,
    /// Images that are too large for models are made smaller.
    pub resize_images: bool,
    /// The program that runs commands; `None` = bash, or what comes nearest.
    pub shell: Option<&'a Path>,
    /// Runs before each command, in the same shell.
    pub command_prefix: Option<&'a str>,
    /// For programs whose call names no timeout; `None` = no limit.
    pub default_timeout: Option<Duration>,
    /// Takes intermediate results, each of which replaces the one before.
    pub on_update: &'a (dyn Fn(ToolOutput) + Sync),
    /// Puts a question (as the `questions` module takes it) to the session's people and waits for what comes of it:
    /// `{requestId, answers}`, or `{requestId, cancelled: true, error?}`. An error says why the question cannot be asked, or is
    /// not waited for any more.
    pub ask: &'a (dyn Fn(Value) -> Result<Value, String> + Sync),
}

/// What a tool call came to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ToolOutput {
    pub content: Vec<Block>,
    /// Facts for people and programs; never sent to the model.
    pub details: Option<Value>,
    pub is_error: bool,
}

impl ToolContext<'_> {
    /// What `~` stands for: the home directory that child processes see, too.
    pub(super) fn home(&self) -> Option<&Path> {
        self.environment.iter().find(|(name, _)| name == "HOME").map(|(_, value)| Path::new(value))
    }
}

impl ToolOutput {
    pub(crate) fn text(text: impl Into<String>) -> ToolOutput {
        ToolOutput { content: vec![Block::text(text)], details: None, is_error: false }
    }

    pub(crate) fn error(text: impl Into<String>) -> ToolOutput {
        ToolOutput { content: vec![Block::text(text)], details: None, is_error: true }
    }

    /// The result of a call that was cancelled before it changed anything.
    pub(crate) fn aborted() -> ToolOutput {
        ToolOutput::error("Operation aborted")
    }
}
