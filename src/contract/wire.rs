//! What a session asks of the wire that it can be reached on beside the side channel.

use super::control::ControlRequest;
use super::error::ReplyError;
use super::prompt::Prompt;
use super::reply::Reply;
use crate::event_log::{Envelope, EventSink};
use crossbeam_channel::Receiver;
use serde_json::Value;
use std::sync::Arc;

/// The session's end of a wire. The session selects on [`Wire::messages`] itself, so that a message takes no way through
/// another thread; what a message says, only the wire knows.
pub(crate) trait Wire: Send + 'static {
    /// A message as the wire received it.
    type Message: Send;

    /// The messages to the session, in the order of their arrival.
    fn messages(&self) -> &Receiver<Box<Self::Message>>;

    /// Reads one of them. What needs no session is answered by the wire, and asks nothing of the session. While the session
    /// is `closed` to prompts, and why, nothing is kept for one.
    fn read(&mut self, message: &Self::Message, closed: Option<ReplyError>) -> Vec<WireRequest>;

    /// Who listens to the session's events from its beginning, if anybody does.
    fn listener(&self) -> Option<Arc<dyn EventSink>>;

    /// Publishes an event that somebody has to answer, also where events are not published. If nobody gets it, the session
    /// hears of that as [`super::control::Control::Unattended`]; false = that is sure already.
    fn call_for(&mut self, envelope: &Arc<Envelope>) -> bool;

    /// The settings in force.
    fn settings(&self) -> WireSettings;

    /// Where the answer to a prompt of before a restart goes, by [`Reply::address`]; `None` if that cannot be reached.
    fn reply_to(&self, address: &Value) -> Option<Arc<dyn Reply>>;

    /// Gives the caller at this address the answer to the same request that came before, or an error if it is not the same. False
    /// if none came.
    fn joins(&self, _address: &Value) -> bool {
        false
    }

    /// Takes no more messages. Those that had come by then are still to be read.
    fn stop(&mut self);

    /// Takes no more messages; returns the prompts that were on their way, whose callers have to be told. What the wire keeps
    /// for the session stays if the session `goes_on` after a restart.
    fn close(self, goes_on: bool) -> Vec<Prompt>;
}

/// What a message asks of a session.
pub(crate) enum WireRequest {
    Prompt(Prompt),
    /// A prompt that cannot be one.
    Refused {
        reply: Arc<dyn Reply>,
        error: ReplyError,
    },
    Control(ControlRequest),
}

/// How a session behaves on its wire; absent = as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct WireSettings {
    /// Events are published.
    pub events: Option<bool>,
    /// Callers of the agent protocol are told of tool calls and costs.
    pub tool_status: Option<bool>,
}
