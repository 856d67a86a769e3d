//! Who is told what happens in a session: the caller whose prompt is worked on, those who listen, and those who ask later.

use super::Session;
use crate::contract::event::AgentEvent;
use crate::contract::wire::Wire;
use crate::event_log::EventSink;
use crate::traceparent::Traceparent;
use std::sync::Arc;

impl<W: Wire> Session<W> {
    /// Tells an event of the session's own to the caller and to those who listen.
    pub(super) fn publish(&mut self, event: AgentEvent) {
        if let Some(running) = &self.running {
            running.reply.event(&event);
        }
        self.record_event(event);
    }

    /// Tells of a prompt that need not be the one that is worked on.
    pub(super) fn in_trace(&mut self, trace: Option<Traceparent>, tell: impl FnOnce(&mut Session<W>)) {
        let of_running = self.log.set_trace(trace);
        tell(self);
        self.log.set_trace(of_running);
    }

    /// Tells an event to those who listen, and keeps it for those who ask later.
    pub(super) fn record_event(&mut self, event: AgentEvent) {
        if self.listeners.is_empty() && event.may_wait() {
            return self.log.keep(event);
        }
        let envelope = self.log.publish(event.name(), event.to_json(), !self.listeners.is_empty());
        let wire = if self.is_silent(&envelope) { self.wire.as_ref().and_then(Wire::listener) } else { None };
        self.thin_out_listeners(|listener| is_same(wire.as_ref(), listener) || listener.event(&envelope));
    }

    /// Tells an event that somebody has to answer, also on NATS where other events are not told. Returns its number, and
    /// whether somebody there may have got it.
    pub(super) fn call_for(&mut self, event: AgentEvent) -> (u64, bool) {
        if let Some(running) = &self.running {
            running.reply.event(&event);
        }
        let envelope = self.log.publish(event.name(), event.to_json(), !self.listeners.is_empty());
        let wire = self.wire.as_ref().and_then(Wire::listener);
        self.thin_out_listeners(|listener| is_same(wire.as_ref(), listener) || listener.event(&envelope));
        let is_silent = self.is_silent(&envelope);
        let may_be_heard = !is_silent && self.wire.as_mut().is_some_and(|wire| wire.call_for(&envelope));
        (envelope.seq, may_be_heard)
    }

    /// Somebody follows the session's events over the side channel.
    pub(super) fn is_watched(&self) -> bool {
        let wire = self.wire.as_ref().and_then(Wire::listener);
        self.listeners.iter().any(|listener| !is_same(wire.as_ref(), listener))
    }

    /// Goes on without the listeners that are not to be kept.
    pub(super) fn thin_out_listeners(&mut self, keep: impl FnMut(&Arc<dyn EventSink>) -> bool) {
        let before = self.listeners.len();
        self.listeners.retain(keep);
        if self.listeners.len() != before {
            self.stats.set_listeners(self.listeners.len());
        }
    }
}

fn is_same(wire: Option<&Arc<dyn EventSink>>, listener: &Arc<dyn EventSink>) -> bool {
    wire.is_some_and(|wire| Arc::ptr_eq(wire, listener))
}
