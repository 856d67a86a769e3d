//! The working folder of a session whose folder goes on elsewhere with it (`workspace: "git"`): what of it is saved, how it gets
//! here, and what the model is told of that. Git itself runs in `turn/git_folder.rs`.

use super::Session;
use super::recovery::SavedFolder;
use crate::cancel::Cancel;
use crate::clock::now_ms;
use crate::contract::control::Deliver;
use crate::contract::error::ReplyError;
use crate::contract::event::AgentEvent;
use crate::contract::prompt::{EndReason, Incoming};
use crate::contract::wire::Wire;
use crate::threads;
use crate::transcript::{Content, Message, UserMessage};
use crate::turn::{Brought, FolderError, GitFolder};
use crossbeam_channel::{bounded, select};
use serde_json::json;
use std::io;
use std::sync::Arc;

/// How much of a commit's number people are shown, characters.
const SHORT: usize = 12;

/// What is known of the folder.
#[derive(Default)]
pub(super) struct Folder {
    pub(super) saved: SavedFolder,
    /// The session has come from another host, and its folder has not.
    pub(super) is_missing: bool,
    /// What it was brought to here, until it is known what the model is to be told of that.
    brought: Option<Brought>,
    /// What it is told at the end of the prompt that goes on.
    words: Option<String>,
}

impl Folder {
    pub(super) fn new(is_missing: bool) -> Folder {
        Folder { is_missing, ..Folder::default() }
    }
}

impl<W: Wire> Session<W> {
    /// Brings the folder here, before the session is this host's: if that is not possible it is left to others. Returns why the
    /// session ends then.
    pub(super) fn bring_folder(&mut self) -> Option<EndReason> {
        self.folder.as_ref().filter(|folder| folder.is_missing)?;
        let options = &self.options.turn;
        let git = GitFolder::of(&self.identity, options, &self.secrets, &self.runner, &self.spill_dir, &self.quota);
        let (cancel, (tell, told)) = (Cancel::new(), bounded(1));
        let of_thread = cancel.clone();
        let bring = move || drop(tell.send(git.bring(&of_thread)));
        // It waits for its end.
        let _thread = match threads::run(&format!("w-{}", self.identity.id), bring) {
            Ok(thread) => thread,
            Err(e) => return Some(self.pass(&format!("no thread to bring it: {e}"))),
        };
        loop {
            select! {
                recv(told) -> brought => match brought {
                    Ok(Ok(brought)) => {
                        log::info!("session {}: its folder is {}", self.identity.id, brought.commit().unwrap_or("as it was"));
                        self.folder = Some(Box::new(Folder { brought: Some(brought), ..Folder::default() }));
                        return None;
                    }
                    Ok(Err(error)) => return Some(self.pass(&format!("{}: {}", error.code, error.message))),
                    Err(_) => return Some(self.pass("git_failed: its thread is gone")),
                },
                recv(self.commands) -> command => {
                    if self.is_too_early(command.ok(), "the session waits for its working folder").is_some() {
                        cancel.cancel();
                        return Some(self.pass("the host ends before it is there"));
                    }
                }
            }
        }
    }

    /// Leaves the session to other hosts.
    fn pass(&mut self, why: &str) -> EndReason {
        log::warn!("session {}: it is left to other hosts, as its folder cannot be had here: {why}", self.identity.id);
        self.leave_to_others(ReplyError::folder_missing(why));
        self.runner.end();
        // Where it could not be made there is none.
        let _ = std::fs::remove_dir_all(&self.spill_dir);
        EndReason::Moved
    }

    /// Takes note of whether the folder is saved, and tells so.
    pub(super) fn folder_saved(&mut self, saved: Result<String, FolderError>) {
        let Some(folder) = &mut self.folder else { return };
        // Git has run as tools do.
        self.used_tools = true;
        let (name, data) = match saved {
            Ok(commit) => {
                let saved = SavedFolder { commit: Some(commit.clone()), is_changed: false };
                if folder.saved == saved {
                    return;
                }
                folder.saved = saved;
                ("workspace_saved", json!({"commit": commit}))
            }
            Err(error) => {
                log::warn!("session {}: its folder is not saved: {}: {}", self.identity.id, error.code, error.message);
                folder.saved.is_changed = true;
                ("workspace_not_saved", error.document())
            }
        };
        let written = self.memory.folder(&data);
        self.check_written(written);
        self.publish(AgentEvent::Bridge { name, data });
    }

    /// Tools are about to change the folder, as far as that is known.
    pub(super) fn folder_changes(&mut self) {
        if let Some(folder) = &mut self.folder {
            folder.saved.is_changed = true;
        }
    }

    /// Another host would get the folder as it is.
    pub(super) fn is_folder_saved(&self) -> bool {
        self.folder.as_ref().is_none_or(|folder| folder.saved.commit.is_some() && !folder.saved.is_changed)
    }

    /// Tells the model that its folder was brought here, if it was: at once where nothing goes on, else before its next answer. If it
    /// has `answered` the prompt that goes on, and nothing is missing, there is nothing to do for it before the next prompt.
    ///
    /// # Errors
    /// It cannot be written.
    pub(super) fn tell_of_folder(&mut self, saved: SavedFolder, goes_on: bool, answered: bool) -> io::Result<()> {
        let Some(folder) = &mut self.folder else { return Ok(()) };
        let Some(brought) = folder.brought.take() else {
            folder.saved = saved;
            return Ok(());
        };
        self.used_tools = true;
        let host = self.identity.host.as_deref().unwrap_or_default();
        let text = words(&saved, &brought, host, &self.identity.cwd.to_string_lossy());
        // What it has now is all that there is.
        folder.saved = SavedFolder { commit: brought.commit().map(str::to_owned), is_changed: false };
        self.memory.folder(&json!({"commit": brought.commit()}))?;
        if !goes_on {
            return self.add_words(text);
        }
        if answered && brought.is_whole(&saved) {
            folder.words = Some(text);
            return Ok(());
        }
        let message = Incoming { expand: false, ..Incoming::new(text) };
        self.memory.accepted(&message, None, None, None, Some(Deliver::Steer))?;
        self.steering.push(message);
        // The folder is here from now on, also after a restart.
        self.save();
        Ok(())
    }

    /// Tells the model what waited for the end of the prompt.
    pub(super) fn tell_late_of_folder(&mut self) {
        if let Some(text) = self.folder.as_mut().and_then(|folder| folder.words.take()) {
            let written = self.add_words(text);
            self.check_written(written);
        }
    }

    fn add_words(&mut self, text: String) -> io::Result<()> {
        let message = Arc::new(Message::User(UserMessage { content: Content::Text(text), timestamp: now_ms() }));
        self.record_event(AgentEvent::MessageStart(message.clone()));
        self.record_event(AgentEvent::MessageEnd(message.clone()));
        self.memory.push(message, None)?;
        self.save();
        Ok(())
    }
}

impl Brought {
    /// Nothing of what is known to have been changed is missing.
    fn is_whole(&self, saved: &SavedFolder) -> bool {
        match (self.commit(), &saved.commit) {
            (None, _) => false,
            (Some(commit), Some(last)) if commit == last => !saved.is_changed,
            (Some(_), last) => last.as_ref().is_none_or(|last| self.commits.contains(last)),
        }
    }
}

/// What the model is told of a folder that was `saved` as far as the conversation goes, and was `brought` here.
fn words(saved: &SavedFolder, brought: &Brought, host: &str, cwd: &str) -> String {
    let short = |commit: &str| commit.chars().take(SHORT).collect::<String>();
    let has = match (brought.commit(), &saved.commit) {
        (None, _) => "as it stands in that clone, since nothing of it was found at the remote".to_owned(),
        (Some(commit), Some(last)) if commit == last && saved.is_changed => format!(
            "brought to commit {}, the last that was saved. What was changed after that, in a turn that did not come to its end or \
             could not be saved, is not in it",
            short(commit)
        ),
        (Some(commit), Some(last)) if commit == last => {
            format!("brought to commit {}, with everything that was changed so far", short(commit))
        }
        (Some(commit), Some(last)) if !brought.commits.contains(last) => format!(
            "brought to commit {}, which is older than or other than {}, the last that was saved: changes are missing",
            short(commit),
            short(last)
        ),
        (Some(commit), _) => {
            format!("brought to commit {}, which has changes that this conversation does not know of", short(commit))
        }
    };
    format!(
        "[The session goes on at another host, {host}. The working folder {cwd} is that host's own clone of the repository, {has}. \
         HEAD, index, branches and ignored files are those of that clone, and programs in the background are gone. Look at what is \
         there before you rely on it.]"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_model_is_told_what_the_folder_has() {
        for (last, is_changed, commits, expected) in [
            (Some("a"), false, vec!["a"], "brought to commit a, with everything"),
            (Some("a"), true, vec!["a", "z"], "is not in it"),
            (Some("a"), false, vec!["z"], "other than a, the last that was saved: changes are missing"),
            (Some("a"), true, vec!["b", "a"], "brought to commit b, which has changes that"),
            (None, true, vec!["b"], "brought to commit b, which has changes that"),
            (Some("a"), false, vec![], "nothing of it was found"),
            (None, true, vec![], "nothing of it was found"),
        ] {
            let saved = SavedFolder { commit: last.map(str::to_owned), is_changed };
            let brought = Brought { commits: commits.iter().map(ToString::to_string).collect() };
            let told = words(&saved, &brought, "h1", "/w");
            assert!(told.contains(expected) && told.contains("another host, h1."), "{told}");
            let is_whole = told.contains("everything") || told.contains("does not know of");
            assert_eq!(brought.is_whole(&saved), is_whole, "{told}");
        }
    }
}
