//! The working folder of a session that goes on elsewhere with it: saved as a commit of its repository, and brought to it.
//!
//! Git does what `.git/config` says, which the agent may write: filters, helpers and transports are programs. So it runs like
//! the agent's own commands, in the session's runner, with their variables and within their sandbox, and never as the daemon.

use super::{Action, SessionSecrets, Step, Turn, TurnOptions};
use crate::cancel::Cancel;
use crate::contract::environment::SessionEnvironment;
use crate::contract::identity::{SessionIdentity, Workspace};
use crate::contract::ids::{InstanceId, SessionId};
use crate::json::object;
use crate::quota::SessionQuota;
use crate::tools::child::SESSION_VARIABLE;
use crate::tools::runner::Runner;
use crate::tools::{self, ToolContext};
use crate::transcript::Block;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

const SCRIPT: &str = include_str!("git_folder.sh");
/// The program that runs it.
const SHELL: &str = "/bin/sh";
/// What the line of the script begins with that says what came of it.
const OUTCOME: &str = "workspace ";
/// How long the end of a turn waits at most for its folder to be saved.
const SAVE_TIME: Duration = Duration::from_secs(30);
/// How long it may take to bring a folder here.
const BRING_TIME: Duration = Duration::from_secs(120);
/// How long it may take to see whether that can be, while the session's host waits for a second.
const CHECK_TIME: Duration = Duration::from_millis(800);
/// Somebody else has pushed what is not known here.
pub(super) const BEHIND: &str = "push_behind";
/// What the script says went wrong.
const CODES: [&str; 8] = [
    BEHIND,
    "push_failed",
    "commit_failed",
    "fetch_failed",
    "folder_changed",
    "incomplete",
    "no_remote",
    "no_repository",
];

/// Why a folder is not saved, or not brought here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FolderError {
    /// One of [`CODES`], or `git_failed`.
    pub code: &'static str,
    pub message: String,
}

/// What a folder was brought to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Brought {
    /// The commits that were saved, the latest first, which is what the folder has now. Without any it is as it was.
    pub commits: Vec<String>,
}

impl Brought {
    pub(crate) fn commit(&self) -> Option<&str> {
        self.commits.first().map(String::as_str)
    }
}

/// The working folder of one session, and what it takes to run git there as its tools run.
pub(crate) struct GitFolder {
    pub id: SessionId,
    pub instance_id: InstanceId,
    pub cwd: PathBuf,
    /// What this host is called.
    pub host: String,
    pub environment: SessionEnvironment,
    pub options: Arc<TurnOptions>,
    pub secrets: Arc<SessionSecrets>,
    pub runner: Arc<Runner>,
    pub spill_dir: PathBuf,
    pub quota: Arc<SessionQuota>,
}

impl GitFolder {
    /// That of a session that is here.
    pub(crate) fn of(
        identity: &SessionIdentity,
        options: &Arc<TurnOptions>,
        secrets: &Arc<SessionSecrets>,
        runner: &Arc<Runner>,
        spill_dir: &Path,
        quota: &Arc<SessionQuota>,
    ) -> GitFolder {
        GitFolder {
            id: identity.id.clone(),
            instance_id: identity.instance_id.clone(),
            cwd: identity.cwd.clone(),
            host: identity.host.clone().unwrap_or_default(),
            environment: identity.environment.clone(),
            options: options.clone(),
            secrets: secrets.clone(),
            runner: runner.clone(),
            spill_dir: spill_dir.to_path_buf(),
            quota: quota.clone(),
        }
    }

    /// Commits all that is in the folder and not ignored to `refs/agents/<session>`, and pushes that; returns the commit. One that
    /// is known to be `pushed` is not pushed again. What another host has pushed meanwhile is only passed `over`, with its commit
    /// as a parent, if this is said, as this host may be the one that is not to push any more.
    ///
    /// # Errors
    /// [`FolderError`]; also when it takes too long or is cancelled.
    pub(crate) fn save(&self, pushed: Option<&str>, over: bool, cancel: &Cancel) -> Result<String, FolderError> {
        let more = [("AGENT_PUSHED", pushed.unwrap_or_default()), ("AGENT_OVER", if over { "1" } else { "" })];
        let words = self.run("save", SAVE_TIME, &more, cancel)?;
        words.into_iter().next().ok_or_else(|| failed("git names no commit"))
    }

    /// Brings the folder to what was saved last, without touching the user's index, HEAD and branches. What is in the folder must
    /// be in the commit that HEAD is, or in one of the session's.
    ///
    /// # Errors
    /// [`FolderError`]: the folder is as it was, and may not be the session's.
    pub(crate) fn bring(&self, cancel: &Cancel) -> Result<Brought, FolderError> {
        self.run("bring", BRING_TIME, &[], cancel).map(|commits| Brought { commits })
    }

    /// Whether the folder could be brought to something, as far as that can be seen without the remote.
    ///
    /// # Errors
    /// [`FolderError`].
    pub(crate) fn check(&self, cancel: &Cancel) -> Result<(), FolderError> {
        self.run("check", CHECK_TIME, &[], cancel).map(drop)
    }

    fn run(
        &self,
        task: &str,
        time: Duration,
        more: &[(&str, &str)],
        cancel: &Cancel,
    ) -> Result<Vec<String>, FolderError> {
        let found = self.secrets.environment(&self.environment, &self.options);
        let (mut environment, secrets) = found.map_err(|why| failed(&why))?;
        let message = format!("Working folder of session {} at host {}", self.id, self.host);
        let reference = format!("refs/agents/{}", self.id);
        let own = [
            (SESSION_VARIABLE, &*self.instance_id),
            ("AGENT_DO", task),
            ("AGENT_REF", &reference),
            ("AGENT_MESSAGE", &message),
        ];
        for (name, value) in own.iter().chain(more) {
            environment.push(((*name).to_owned(), (*value).to_owned()));
        }
        let context = ToolContext {
            cwd: &self.cwd,
            cancel,
            environment: &environment,
            spill_dir: &self.spill_dir,
            quota: &self.quota,
            images: false,
            resize_images: false,
            shell: Some(Path::new(SHELL)),
            command_prefix: None,
            default_timeout: None,
            on_update: &|_| {},
            ask: &|_| Err("there is nobody to ask".into()),
        };
        let bash = tools::by_name("bash").ok_or_else(|| failed("there is no tool that runs commands"))?;
        let arguments = object(json!({"command": SCRIPT, "timeout": time.as_secs_f64()}));
        let output = secrets.redaction.output(self.runner.call(bash, &arguments, &context), false);
        let text = output.content.iter().filter_map(|block| match block {
            Block::Text { text, .. } => Some(text.as_str()),
            Block::Thinking { .. } | Block::ToolCall { .. } | Block::Image { .. } => None,
        });
        outcome(&text.collect::<String>())
    }
}

fn failed(why: &str) -> FolderError {
    FolderError { code: "git_failed", message: why.to_owned() }
}

/// Reads what the script has printed: the words behind that of what was done.
fn outcome(text: &str) -> Result<Vec<String>, FolderError> {
    let line = text.lines().rev().find_map(|line| line.strip_prefix(OUTCOME));
    // Without that line it was ended, which the last one says.
    let Some(line) = line else { return Err(failed(text.lines().next_back().unwrap_or("git said nothing"))) };
    let mut words = line.split_whitespace();
    if words.next() != Some("failed") {
        return Ok(words.map(str::to_owned).collect());
    }
    let code = words.next().unwrap_or_default();
    let message = words.collect::<Vec<_>>().join(" ");
    Err(match CODES.into_iter().find(|known| *known == code) {
        Some(code) => FolderError { code, message },
        None => failed(&message),
    })
}

impl Turn {
    /// Saves the folder if it goes on elsewhere with its session, and has that stored together with what was said. So what is said
    /// to be done is there, too, also if the host dies at once. Whoever aborted wants quiet: then the next turn saves it.
    pub(super) fn save_folder(&self) {
        if self.identity.workspace != Workspace::Git || self.cancel.is_cancelled() {
            return;
        }
        let folder =
            GitFolder::of(&self.identity, &self.options, &self.secrets, &self.runner, &self.spill_dir, &self.quota);
        let mut over = false;
        loop {
            let saved = folder.save(self.pushed.as_deref(), over, &self.cancel);
            if saved.is_err() && self.cancel.is_cancelled() {
                return;
            }
            let is_behind = saved.as_ref().is_err_and(|error| error.code == BEHIND);
            self.step(Step::Folder(saved));
            // Of two hosts that take the session for theirs only its owner gets leave, and may pass over what was pushed.
            if self.gate(Action::Store).is_none() || !is_behind || over {
                return;
            }
            over = true;
        }
    }
}

impl FolderError {
    /// As events and records say it.
    pub(crate) fn document(&self) -> Value {
        json!({"code": self.code, "message": self.message})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_script_says_is_read() {
        let error = |code, message: &str| Err(FolderError { code, message: message.into() });
        for (text, expected) in [
            ("workspace saved abc\n", Ok(vec!["abc".to_owned()])),
            ("noise\nworkspace brought a b \nnoise", Ok(vec!["a".to_owned(), "b".to_owned()])),
            ("workspace brought \n", Ok(Vec::new())),
            ("workspace failed push_failed fatal: no way", error("push_failed", "fatal: no way")),
            ("workspace failed odd why", error("git_failed", "why")),
            ("x\n\nCommand timed out after 30 seconds", error("git_failed", "Command timed out after 30 seconds")),
            ("", error("git_failed", "git said nothing")),
        ] {
            assert_eq!(outcome(text), expected, "{text:?}");
        }
    }
}
