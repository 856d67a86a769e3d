//! One answer as it streams: its text to the caller, and all of its pieces to the session while somebody listens.

use super::{Action, Turn};
use crate::contract::event::{AgentEvent, Delta, DeltaKind};
use crate::contract::reply::Restart;
use crate::model::{Sink, StreamEvent};

/// Hands the text of an answer to the caller, on the thread that reads it from the model; and, while somebody listens,
/// every piece of the answer to the session.
pub(super) struct Streaming<'a> {
    pub turn: &'a Turn,
    /// The provider has accepted the request.
    pub started: bool,
    /// How much text of this answer the caller has got, bytes.
    pub heard: usize,
    /// The caller has got text of an attempt before this one, and was not told yet that it is void.
    pub restart: Option<Restart>,
    /// A piece that the session could not take yet, to which the next ones are added.
    pub delta: Option<Delta>,
    /// The session knows that the caller hears something.
    pub speaks: bool,
}

impl Streaming<'_> {
    /// Tells the session of a piece. If it has many to take already, pieces of one kind are told together.
    fn tell(&mut self, next: Delta) {
        if let Some(held) = &mut self.delta {
            let same = (held.kind, held.index) == (next.kind, next.index);
            if same && self.turn.steps.is_full() {
                held.text.push_str(&next.text);
                return;
            }
        }
        self.finish();
        if self.turn.steps.is_full() {
            self.delta = Some(next);
        } else {
            self.turn.emit(AgentEvent::MessageUpdate(next));
        }
    }

    /// Tells that what came of the attempt before is void.
    fn begin_anew(&mut self) {
        if let Some(restart) = self.restart.take() {
            self.turn.reply.restart(restart);
            self.turn.emit(AgentEvent::Bridge { name: "bridge_restart", data: restart.document() });
        }
    }

    /// Tells what was held back.
    pub(super) fn finish(&mut self) {
        if let Some(held) = self.delta.take() {
            self.turn.emit(AgentEvent::MessageUpdate(held));
        }
    }
}

impl Sink for Streaming<'_> {
    fn event(&mut self, event: StreamEvent<'_>) {
        if let StreamEvent::Start = event {
            // A request that is repaired begins a second time.
            if !self.started {
                self.started = true;
                self.turn.emit(AgentEvent::MessageStart(self.turn.empty_answer()));
            }
        } else if self.restart.is_some() {
            self.begin_anew();
        }
        if let StreamEvent::TextDelta { delta, .. } = event {
            self.speaks = self.speaks || self.turn.reply.address().is_none() || self.turn.gate(Action::Speak).is_some();
            if self.speaks {
                self.heard += delta.len();
                self.turn.reply.text(delta, &self.turn.cancel);
            }
        }
        if self.turn.stats.listened_to()
            && let Some(delta) = delta(&event)
        {
            self.tell(delta);
        }
    }

    fn drained(&mut self) {
        self.turn.reply.flush();
        self.finish();
    }
}

/// A stream's event as the session is told of it.
fn delta(event: &StreamEvent<'_>) -> Option<Delta> {
    let (kind, index, text) = match *event {
        StreamEvent::Start => return None,
        StreamEvent::TextStart { index } => (DeltaKind::TextStart, index, ""),
        StreamEvent::TextDelta { index, delta } => (DeltaKind::Text, index, delta),
        StreamEvent::TextEnd { index } => (DeltaKind::TextEnd, index, ""),
        StreamEvent::ThinkingStart { index } => (DeltaKind::ThinkingStart, index, ""),
        StreamEvent::ThinkingDelta { index, delta } => (DeltaKind::Thinking, index, delta),
        StreamEvent::ThinkingEnd { index } => (DeltaKind::ThinkingEnd, index, ""),
        StreamEvent::ToolCallStart { index, .. } => (DeltaKind::ToolCallStart, index, ""),
        StreamEvent::ToolCallDelta { index, delta } => (DeltaKind::ToolCall, index, delta),
        StreamEvent::ToolCallEnd { index } => (DeltaKind::ToolCallEnd, index, ""),
    };
    let call = if let StreamEvent::ToolCallStart { id, name, .. } = *event {
        Some((id.to_owned(), name.to_owned()))
    } else {
        None
    };
    Some(Delta { kind, index, text: text.to_owned(), call })
}
