//! The tools a model can call; one file per tool.

mod bash;
pub mod child;
mod edit;
mod edit_diff;
mod edit_match;
mod environment;
mod find;
mod grep;
mod listing;
mod locks;
mod ls;
mod output;
mod paths;
mod processes;
mod question;
mod read;
mod truncate;
mod validate;
mod write;

#[cfg(fuzzing)]
pub use edit_diff::diff;
#[cfg(fuzzing)]
pub use edit_match::{Edit as Replacement, Mismatch, apply, with_lf};
pub use environment::child_environment;
pub use validate::check;

use crate::cancel::Cancel;
use crate::transcript::{Block, ToolSpec};
use serde_json::{Map, Value};
use std::path::Path;
use std::time::Duration;

/// The tools that a session has unless it is told otherwise, in the order in which models see them.
pub const DEFAULT_TOOLS: [&str; 4] = ["read", "bash", "edit", "write"];

/// The tool that asks people.
pub const QUESTION: &str = "question";

static ALL: [&dyn Tool; 8] =
    [&read::Read, &bash::Bash, &edit::Edit, &write::Write, &grep::Grep, &find::Find, &ls::Ls, &question::Question];

/// The tool of that name.
pub fn by_name(name: &str) -> Option<&'static dyn Tool> {
    ALL.into_iter().find(|tool| tool.spec().name == name)
}

/// The tools that a list of names stands for: the names themselves, `*` for all; or changes to `usual`, if every name
/// begins with `+` or `-`.
///
/// # Errors
/// A text that names what is no tool, or says that the two forms do not mix.
pub fn select(names: &[String], usual: &[String]) -> Result<Vec<String>, String> {
    let change = |name: &String| name.starts_with(['+', '-']);
    let known = |name: &str| match by_name(name) {
        Some(_) => Ok(name.to_owned()),
        None => Err(format!("there is no tool {name:?}; there are {}", all_names().join(", "))),
    };
    if names.iter().all(change) && !names.is_empty() {
        let mut selected = usual.to_vec();
        for name in names {
            let tool = known(&name[1..])?;
            selected.retain(|other| *other != tool);
            if name.starts_with('+') {
                selected.push(tool);
            }
        }
        return Ok(selected);
    }
    if names.iter().any(change) {
        return Err("Invalid tools option: names and changes (+name, -name) do not mix".into());
    }
    if names.iter().any(|name| name == "*") {
        return Ok(all_names());
    }
    names.iter().map(|name| known(name)).collect()
}

fn all_names() -> Vec<String> {
    ALL.iter().map(|tool| tool.spec().name.clone()).collect()
}

/// A tool. Tools know nothing of sessions or models: what they need comes with the call.
pub trait Tool: Send + Sync {
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
pub struct ToolContext<'a> {
    /// The session's working directory, absolute.
    pub cwd: &'a Path,
    pub cancel: &'a Cancel,
    /// The whole environment of child processes.
    pub environment: &'a [(String, String)],
    /// Where spill files go; private to the session. Created when first needed.
    pub spill_dir: &'a Path,
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
    /// `{requestId, answers}`, or `{requestId, cancelled: true, error?}`. An error says why it cannot be asked, or is not
    /// waited for any more.
    pub ask: &'a (dyn Fn(Value) -> Result<Value, String> + Sync),
}

/// What a tool call came to.
#[derive(Clone, Debug, PartialEq)]
pub struct ToolOutput {
    pub content: Vec<Block>,
    /// Facts for people and programs; never sent to the model.
    pub details: Option<Value>,
    pub is_error: bool,
}

impl ToolContext<'_> {
    /// What `~` stands for: the home directory that child processes see, too.
    fn home(&self) -> Option<&Path> {
        self.environment.iter().find(|(name, _)| name == "HOME").map(|(_, value)| Path::new(value))
    }
}

impl ToolOutput {
    pub fn text(text: impl Into<String>) -> ToolOutput {
        ToolOutput { content: vec![Block::text(text)], details: None, is_error: false }
    }

    pub fn error(text: impl Into<String>) -> ToolOutput {
        ToolOutput { content: vec![Block::text(text)], details: None, is_error: true }
    }

    /// The result of a call that was cancelled before it changed anything.
    pub fn aborted() -> ToolOutput {
        ToolOutput::error("Operation aborted")
    }
}

#[cfg(test)]
mod tests {
    use super::select;

    #[test]
    fn tools_are_selected_by_name_or_by_change() {
        let strings = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        let usual = strings(&["read", "bash"]);
        for (names, expected) in [
            (&[][..], Some(&[][..])),
            (&["grep", "read"], Some(&["grep", "read"])),
            (&["+grep", "-bash"], Some(&["read", "grep"])),
            (&["+read"], Some(&["bash", "read"])),
            (&["-ls"], Some(&["read", "bash"])),
            (&["nope"], None),
            (&["+nope"], None),
            (&["read", "+grep"], None),
        ] {
            assert_eq!(select(&strings(names), &usual).ok(), expected.map(strings), "{names:?}");
        }
        assert!(select(&strings(&["*"]), &usual).is_ok_and(|all| all.len() >= 7));
    }
}

#[cfg(test)]
mod test_support;
