//! What clients ask of a session, whatever wire they use.

use crate::contract::error::ReplyError;
use crate::contract::reply::Reply;
use crate::contract::sender::AgentSender;
use crate::event_log::{EventSink, HistoryQuery, HistorySnapshot};
use crate::governance::budget::Budgets;
use crate::tools::runner::Narrowing;
use crate::traceparent::Traceparent;
use crate::transcript::Block;
use serde_json::{Map, Value};
use std::sync::Arc;

/// How a message is brought to the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deliver {
    /// At once if the session is idle, else like `Steer`.
    Auto,
    /// At once; refused while a prompt is being worked on.
    Now,
    /// Into the running prompt, between two of its requests.
    Steer,
    /// Into the running prompt, when it would otherwise be done.
    FollowUp,
    /// As a prompt of its own, behind those that wait.
    Queue,
}

impl Deliver {
    /// The name on the wire, as answers have it.
    pub fn as_str(self) -> &'static str {
        match self {
            Deliver::Auto => "auto",
            Deliver::Now => "now",
            Deliver::Steer => "steer",
            Deliver::FollowUp => "followUp",
            Deliver::Queue => "queue",
        }
    }
}

/// A message for the model.
pub(crate) struct Input {
    pub text: String,
    /// A text that invokes a skill or a template is to be replaced by its words.
    pub expand: bool,
    pub images: Vec<Block>,
    pub deliver: Deliver,
    /// The label that the caller gave itself.
    pub from: Option<String>,
    /// Who the caller is, where it says so in a way that can be proved.
    pub sender: Option<AgentSender>,
    /// The caller's place in a trace.
    pub trace: Option<Traceparent>,
    /// What the message came over: `rpc` for programs, `interactive` for people.
    pub source: &'static str,
    /// Where the answer shall be streamed to; such a message is always a prompt of its own.
    pub reply: Option<Arc<dyn Reply>>,
}

/// A request to a session. The answer's form is told with each.
pub(crate) enum Control {
    /// `{cwd, sessionId, sessionFile?, sessionName?, model, thinkingLevel, isIdle, hasPendingMessages, lastSeq}`.
    State,
    /// The document of `inspect`.
    Inspect,
    /// `{deliveredAs, idleBeforeSend}`.
    Prompt(Input),
    /// The state, once nothing runs any more.
    Abort,
    /// Forgets the messages that wait: `{steering: [...], followUp: [...]}`.
    Clear,
    /// Makes the context smaller now: the compaction's result.
    Compact { instructions: Option<String> },
    /// [`Answer::History`].
    History(HistoryQuery),
    /// `{enabled: true, lastSeq}`; what came after `since` is sent to the sink first.
    Subscribe { sink: Arc<dyn EventSink>, since: Option<u64> },
    /// `{enabled: false}`.
    Unsubscribe { sink: Arc<dyn EventSink> },
    /// Publishes an event of the side channel: its data.
    Emit { event: &'static str, data: Value },
    /// `{available, questions}`.
    Questions,
    /// `{answered: true, requestId}`.
    Answer { id: String, answers: Value, source: &'static str },
    /// `{requestId, allowed}`.
    Approve(Settlement),
    /// Nobody on NATS got the event with this number, which somebody has to answer: `{}`.
    Unattended { seq: u64 },
    /// `{rejected: true, requestId}`.
    Reject { id: String, source: &'static str },
    /// Changes what later requests to the model use: the state.
    Configure(Changes),
    /// Takes back a prompt that waits: `{cancelled: true, promptId}`.
    Cancel { id: String },
    /// A new lifetime in seconds from now, 0 = no end: `{maxLifetime, remainingLifetime}`.
    Extend { seconds: f64 },
}

/// What somebody says to an approval.
#[derive(Clone, Debug, PartialEq)]
pub struct Settlement {
    pub id: String,
    /// The hash of the call that it is about.
    pub hash: String,
    pub allow: bool,
    /// Calls like this one need no approval any more in this session.
    pub for_session: bool,
    /// For the model, where it is no.
    pub reason: Option<String>,
    pub source: &'static str,
    /// Who it is, where that is told in a way that can be proved.
    pub sender: Option<AgentSender>,
}

impl Settlement {
    /// Reads a request.
    ///
    /// # Errors
    /// What is missing or wrong.
    pub(crate) fn read(
        fields: &Map<String, Value>,
        source: &'static str,
        sender: Option<AgentSender>,
    ) -> Result<Settlement, String> {
        let text = |key: &str| match fields.get(key).filter(|value| !value.is_null()) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.trim().to_owned()).filter(|text| !text.is_empty())),
            Some(_) => Err(format!("{key} must be a text")),
        };
        let switch = |key: &str| match fields.get(key).filter(|value| !value.is_null()) {
            None => Ok(None),
            Some(Value::Bool(on)) => Ok(Some(*on)),
            Some(_) => Err(format!("{key} must be true or false")),
        };
        let id = match text("requestId")? {
            Some(id) => Some(id),
            None => text("request_id")?,
        };
        Ok(Settlement {
            id: id.ok_or("requestId required")?,
            hash: text("hash")?.ok_or("hash required: that of the call that is approved")?,
            allow: switch("allow")?.ok_or("allow required: true or false")?,
            for_session: switch("forSession")?.unwrap_or(false),
            reason: text("reason")?,
            source,
            sender,
        })
    }
}

/// What to change; absent = as it is.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    /// `provider/model`, `provider/model:level` or an id that is unique.
    pub model: Option<String>,
    pub thinking: Option<String>,
    /// Empty removes it.
    pub name: Option<String>,
    /// What tools are confined to from now on, if it is less.
    pub(crate) sandbox: Narrowing,
    /// Limits to what may be spent, which only become narrower.
    pub budgets: Budgets,
}

/// The answer to a request.
pub(crate) enum Answer {
    Document(Value),
    /// To be rendered where it is needed, as that may take time.
    History(HistorySnapshot),
}

impl Answer {
    /// The document. May wait for a moment, so not on a session's thread.
    pub(crate) fn into_document(self) -> Value {
        match self {
            Answer::Document(document) => document,
            Answer::History(snapshot) => snapshot.render(),
        }
    }
}

/// Takes the answer. Is called on the session's thread and must not wait; dropped uncalled if the session is gone.
pub(crate) type Respond = Box<dyn FnOnce(Result<Answer, ReplyError>) + Send>;

/// A request, and where its answer goes.
pub(crate) struct ControlRequest {
    pub control: Control,
    pub respond: Respond,
}
