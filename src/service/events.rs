//! The events of a session on subjects of their own, for dashboards and recorders.

use crate::event_log::{Envelope, EventSink};
use crate::metrics::{Count, METRICS};
use crate::nats::{Connection, PublishError};
use serde_json::json;
use std::sync::Arc;

/// Publishes every event on `agents.ev.<owner>.<session>.<event>`, so that the server's permissions can grant a part of
/// them, such as questions only.
pub(crate) struct EventPublisher {
    connection: Connection,
    /// The subject without its last word.
    prefix: String,
}

/// The subject of a session's events of that name.
pub(crate) fn subject(owner: &str, session_id: &str, event: &str) -> String {
    format!("agents.ev.{owner}.{session_id}.{event}")
}

impl EventPublisher {
    pub(crate) fn new(connection: &Connection, owner: &str, session_id: &str) -> EventPublisher {
        EventPublisher { connection: connection.clone(), prefix: format!("agents.ev.{owner}.{session_id}") }
    }
}

impl EventSink for EventPublisher {
    fn event(&self, envelope: &Arc<Envelope>) -> bool {
        let subject = format!("{}.{}", self.prefix, envelope.event);
        let result = match self.connection.publish(&subject, None, &[], envelope.line.as_bytes()) {
            Err(PublishError::TooLarge { size, .. }) => {
                let (event, timestamp) = (&envelope.event, envelope.timestamp());
                let notice = json!({"type": "event", "event": event, "timestamp": timestamp, "seq": envelope.seq,
                    "data": {"type": event}, "truncated": true, "originalBytes": size});
                self.connection.publish(&subject, None, &[], notice.to_string().as_bytes())
            }
            other => other,
        };
        if let Err(error) = &result {
            METRICS.count(Count::DroppedEvent);
            // Whoever listens sees the gap in the numbers.
            log::debug!("event {} of {} is lost: {error}", envelope.seq, self.prefix);
        }
        result != Err(PublishError::Closed)
    }
}
