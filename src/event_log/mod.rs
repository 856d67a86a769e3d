//! What happened in a session, for those who ask later and those who listen.

use serde_json::{Map, Value, json};
use std::borrow::Cow;
use std::path::PathBuf;
use std::sync::Arc;

/// Bounds of a log.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Events that are kept.
    pub history_limit: usize,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings { history_limit: 500 }
    }
}

/// One event as it goes out.
pub struct Envelope {
    /// Grows by one with every event of a session.
    pub seq: u64,
    pub event: Cow<'static, str>,
    /// RFC 3339 with milliseconds, UTC.
    pub timestamp: String,
    /// The whole record: one line of JSON without its end.
    pub line: Arc<str>,
}

/// Somebody who listens to a session.
pub trait EventSink: Send + Sync {
    /// Takes one event; must not wait. False = it takes no more.
    fn event(&self, envelope: &Arc<Envelope>) -> bool;
}

/// What of the past is asked for.
#[derive(Clone, Debug, Default)]
pub struct HistoryQuery {
    pub limit: Option<usize>,
    pub since_seq: Option<u64>,
}

impl HistoryQuery {
    /// Reads a request, leniently.
    pub fn from_json(request: &Map<String, Value>) -> HistoryQuery {
        HistoryQuery {
            limit: request.get("limit").and_then(Value::as_u64).and_then(|n| usize::try_from(n).ok()),
            since_seq: request.get("sinceSeq").and_then(Value::as_u64),
        }
    }
}

/// The answer to a query, cheap to take and rendered where it is needed.
pub struct HistorySnapshot {
    envelopes: Vec<Arc<Envelope>>,
}

impl HistorySnapshot {
    /// The document. May wait for what is being stored.
    pub fn render(self) -> Value {
        let events: Vec<Value> =
            self.envelopes.iter().map(|e| serde_json::from_str(&e.line).unwrap_or_default()).collect();
        json!({"events": events, "totalEvents": events.len(), "responseTruncated": false, "rawSpillPath": ""})
    }
}

/// The events of one session, owned by its actor.
pub struct EventLog {
    settings: Settings,
    session: String,
    ring: std::collections::VecDeque<Arc<Envelope>>,
    last_seq: u64,
}

impl EventLog {
    pub fn new(settings: Settings, session_id: &str, _spill_path: PathBuf) -> EventLog {
        EventLog { settings, session: session_id.into(), ring: std::collections::VecDeque::new(), last_seq: 0 }
    }

    pub fn last_seq(&self) -> u64 {
        self.last_seq
    }

    /// Takes note of an event. `subscribed`: somebody listens.
    pub fn publish(&mut self, event: impl Into<Cow<'static, str>>, payload: Value, _subscribed: bool) -> Arc<Envelope> {
        let event = event.into();
        self.last_seq += 1;
        let timestamp = crate::transcript::iso_time(crate::transcript::now_ms());
        let line = json!({"type": "event", "event": event, "timestamp": timestamp, "seq": self.last_seq,
            "session": self.session, "data": payload})
        .to_string();
        let envelope = Arc::new(Envelope { seq: self.last_seq, event, timestamp, line: line.into() });
        if self.ring.len() >= self.settings.history_limit {
            self.ring.pop_front();
        }
        self.ring.push_back(envelope.clone());
        envelope
    }

    pub fn history(&self, query: &HistoryQuery) -> HistorySnapshot {
        let envelopes = self.ring.iter().filter(|e| query.since_seq.is_none_or(|since| e.seq > since)).cloned();
        let mut envelopes: Vec<_> = envelopes.collect();
        let limit = query.limit.unwrap_or(self.settings.history_limit);
        envelopes.drain(..envelopes.len().saturating_sub(limit));
        HistorySnapshot { envelopes }
    }

    /// What came after number `since`, oldest first. What is not kept any more is told by a leading envelope `bridge_gap`
    /// with the `seq` of the last lost event and `{from, to}` as data.
    pub fn replay(&self, since: u64) -> Vec<Arc<Envelope>> {
        self.ring.iter().filter(|e| e.seq > since).cloned().collect()
    }
}
