//! Prompts on their way to a session, and what else the daemon tells it.

use super::control::ControlRequest;
use super::error::echo;
use super::identity::SessionIdentity;
use super::reply::Reply;
use super::sender::AgentSender;
use crate::quota::Room;
use crate::traceparent::Traceparent;
use crate::transcript::Block;
use std::sync::Arc;
use std::time::Instant;

/// A message from outside on its way into the transcript.
#[derive(Clone, Debug)]
pub(crate) struct Incoming {
    /// Unique in the session.
    pub id: String,
    pub text: String,
    pub images: Vec<Block>,
    /// A text that invokes a skill or a template is to be replaced by its words.
    pub expand: bool,
    /// Its caller's place in a trace.
    pub trace: Option<Traceparent>,
    /// What it takes of the session's quota, as long as it waits.
    pub room: Option<Arc<Room>>,
}

impl Incoming {
    /// A text as it came from outside.
    pub(crate) fn new(text: String) -> Incoming {
        Incoming { id: crate::ids::hex16(), text, images: Vec::new(), expand: true, trace: None, room: None }
    }

    /// How much has to be kept of it while it waits, bytes.
    pub(crate) fn size(&self) -> u64 {
        let image = |block: &Block| if let Block::Image { data, .. } = block { data.len() } else { 0 };
        (self.text.len() + self.images.iter().map(image).sum::<usize>()) as u64
    }
}

/// A prompt that was accepted.
pub(crate) struct Prompt {
    pub message: Incoming,
    /// The label that the caller gave itself.
    pub from: Option<String>,
    /// Who the caller is, where it says so in a way that can be proved.
    pub sender: Option<AgentSender>,
    pub reply: Arc<dyn Reply>,
    pub received: Instant,
}

impl Prompt {
    pub(crate) fn origin(&self) -> Origin {
        Origin { from: self.from.clone(), trace: self.message.trace.clone() }
    }
}

/// Who takes turns with others: the sender, or the name that it gave itself. A name never stands for a sender who proves who it
/// is. Of a long one the beginning counts, since the names of many are kept.
pub(crate) fn caller_name(sender: Option<&AgentSender>, from: Option<&str>) -> String {
    match (sender, from) {
        (Some(sender), _) => format!("{} {}", if sender.verified { "user" } else { "claimed" }, echo(&sender.user)),
        (None, Some(from)) => format!("from {}", echo(from)),
        (None, None) => String::new(),
    }
}

/// Where a prompt came from, as its events tell it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Origin {
    /// The label that the caller gave itself.
    pub from: Option<String>,
    /// The caller's place in a trace.
    pub trace: Option<Traceparent>,
}

/// What the daemon and its clients tell a session.
pub(crate) enum Command {
    /// End now, and tell why to those who wait.
    End(EndReason),
    /// Take nothing more, finish the prompt that is running, then end.
    Drain,
    /// Leave for the process that replaces this one, or for another host, as soon as nothing is in the middle of something.
    HandOver(Arc<dyn Successor>),
    /// Nobody else is to have it: stay.
    Stay,
    Control(Box<ControlRequest>),
}

/// Why a session ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EndReason {
    Stopped,
    Expired,
    ShutDown,
    /// Another process goes on with it.
    Replaced,
    /// Another host has it, and goes on with it.
    Moved,
    /// This host has given it to another one, which goes on with it.
    Given,
    /// The only prompt of an ephemeral run is answered.
    Finished,
}

impl EndReason {
    /// The host ends or gives the session away, and the session is not over.
    pub(crate) fn is_by_host(self) -> bool {
        matches!(self, EndReason::ShutDown | EndReason::Replaced | EndReason::Moved | EndReason::Given)
    }

    /// The reason as clients are told.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            EndReason::Stopped => "stopped",
            EndReason::Expired => "expired",
            EndReason::ShutDown => "shutdown",
            EndReason::Replaced => "replaced",
            EndReason::Moved | EndReason::Given => "moved",
            EndReason::Finished => "finished",
        }
    }
}

/// Who goes on with a session that leaves.
pub(crate) enum Next {
    /// Another process on this host.
    Process,
    /// The host of that name.
    Host(String),
}

/// Who takes the place of this process, for one session or all of them.
pub(crate) trait Successor: Send + Sync {
    /// Makes it listen for what comes for a session, which then ends here. `None` if it cannot, so that the session stays; as it
    /// does if another host would not get its working folder as it is, `is_saved` being false. To be called when all that was said
    /// in the session was handed to the wire; it has arrived when this returns.
    fn prepare(&self, session: &SessionIdentity, is_saved: bool) -> Option<Next>;
}
