//! What a turn and its session say to each other.

use super::FolderError;
use crate::contract::denial::Denial;
use crate::contract::error::ReplyError;
use crate::contract::event::AgentEvent;
use crate::contract::prompt::Incoming;
use crate::governance::budget::Exceeded;
use crate::governance::rules::Target;
use crate::model::{Model, Most};
use crate::tools::ChangedFiles;
use crate::transcript::Message;
use crossbeam_channel::{Receiver, Sender};
use serde_json::{Map, Value};
use std::fmt;
use std::io;
use std::sync::Arc;

/// What a turn tells its session, in order.
pub(crate) enum Step {
    Event(AgentEvent),
    /// Several that happen at once: to hand them over takes more than to note them.
    Events(Box<[AgentEvent; 2]>),
    /// The turn waits for the verdict.
    Gate(Action, Sender<Verdict>),
    /// A summary takes the place of the messages before `first_kept`; `entry` is the session file's.
    Compacted {
        message: Arc<Message>,
        first_kept: usize,
        entry: Value,
    },
    /// A request to the model that was reserved for came to this.
    Spent(Most),
    /// The turn waits for people.
    Ask {
        request: Value,
        answer: Sender<Result<Value, String>>,
    },
    /// These messages, by index, take the place of longer ones.
    Shortened(Vec<(usize, Arc<Message>)>),
    /// The last message is left out of the context.
    Omitted,
    /// The working folder was saved as this commit, or not.
    Folder(Result<String, FolderError>),
    /// The last step: how the prompt ended, and what the turn's tools changed.
    Settled(Settled, ChangedFiles),
}

/// What a turn asks leave for.
#[derive(Debug)]
pub(crate) enum Action {
    /// To ask the model again.
    Model,
    /// To send a request to this model, which may take so much. The last thing that is asked before it is sent. Where the day
    /// is shared with other machines it may not allow it.
    Request(Arc<Model>, Most, Option<Exceeded>),
    /// To hand the first words of the answer to somebody who could be reached after a restart, and would hear them twice.
    Speak,
    /// To run these.
    Tools(Vec<ToolCall>),
    /// To be done; messages make it go on.
    Stop,
    /// To go on once what was told so far is stored.
    Store,
}

/// Makes sure that what is reserved stays so after a power cut.
pub(crate) type Durable = Box<dyn FnOnce() -> io::Result<()> + Send>;

/// The answer to an [`Action`].
pub(crate) enum Verdict {
    No,
    /// No request may be sent.
    Refused(ReplyError),
    /// The request exceeds a budget, and somebody is asked about it. After a yes it is judged once more.
    Asked(ReplyError, Wait),
    /// The request may be sent, once this has made sure that what it may take stays reserved.
    Reserved(Durable),
    /// Go on, after these messages were taken in.
    Go(Vec<Incoming>),
    /// What becomes of each of the calls.
    Calls(Vec<Ruling>),
}

/// A call that a turn asks leave for.
pub(crate) struct ToolCall {
    pub id: String,
    pub tool: String,
    pub arguments: Arc<Map<String, Value>>,
    /// What it is about, where that matters.
    pub target: Target,
}

/// Without what a model said, which is in no log.
impl fmt::Debug for ToolCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.tool, self.id)
    }
}

/// Something that is settled later. Whoever gives up waiting says so by `settle`.
pub(crate) struct Wait {
    pub settle: Sender<Result<(), Denial>>,
    pub settled: Receiver<Result<(), Denial>>,
}

/// What becomes of a call.
pub(crate) enum Ruling {
    Run,
    Denied(Denial),
    Wait(Wait),
}

/// What a turn has to do.
pub(crate) enum Work {
    /// Answer these messages.
    Prompt(Vec<Incoming>),
    /// Go on with what the transcript ends with, because the host was restarted. The answer to its prompt begins anew with
    /// what was `said`, since nobody knows how much of that arrived, and with a mark that
    /// has this number, unless its caller had heard nothing yet.
    Continue { said: String, attempt: Option<u32> },
    /// Make the context smaller, with regard to these words.
    Compact(Option<String>),
}

/// How a prompt ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Settled {
    Done,
    Failed(ReplyError),
    Aborted,
}

impl Settled {
    /// The outcome, as records have it.
    pub(crate) fn as_str(&self) -> &'static str {
        match self {
            Settled::Done => "done",
            Settled::Failed(_) => "failed",
            Settled::Aborted => "aborted",
        }
    }

    /// What events say of it.
    pub(crate) fn event(&self) -> AgentEvent {
        AgentEvent::AgentSettled { aborted: *self == Settled::Aborted }
    }
}
