//! Answers of one message: documents and coded errors.

use super::micro::Counters;
use crate::contract::error::ReplyError;
use crate::contract::reply::{Layer, Reply};
use crate::metrics::{Count, METRICS};
use crate::nats::{Connection, PublishError};
use serde_json::Value;
use std::fmt::Display;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// Longest header value; the SDKs cut there as well.
const MAX_HEADER: usize = 200;

/// The micro-service headers of an error (ADR-32): values are ASCII and one line.
pub(crate) fn error_headers(status: u16, text: &str) -> [(&'static str, String); 2] {
    let line = text.chars().take(MAX_HEADER).map(|c| if c.is_ascii_graphic() || c == ' ' { c } else { '?' }).collect();
    [("Nats-Service-Error-Code", status.to_string()), ("Nats-Service-Error", line)]
}

fn publish_error(connection: &Connection, subject: &str, status: u16, text: &str, payload: &[u8]) {
    let headers = error_headers(status, text);
    let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    report(subject, connection.publish(subject, None, &headers, payload));
}

pub(super) fn report(subject: &str, result: Result<(), PublishError>) {
    if let Err(e) = result {
        METRICS.count(Count::DroppedReply);
        log::debug!("no reply to {subject}: {e}");
    }
}

/// Sends one JSON document as the answer.
pub(crate) fn send_document(connection: &Connection, subject: &str, document: &impl Display) {
    report(subject, connection.publish(subject, None, &[], document.to_string().as_bytes()));
}

/// Sends a coded error, and the empty message behind it where the caller waits for a stream.
pub(crate) fn send_error(
    connection: &Connection,
    subject: &str,
    status: u16,
    text: &str,
    document: &Value,
    stream: bool,
) {
    publish_error(connection, subject, status, text, document.to_string().as_bytes());
    if stream {
        report(subject, connection.publish(subject, None, &[], &[]));
    }
}

/// The reply to a prompt that came to an endpoint with statistics: its end counts.
pub(crate) struct CountedReply {
    reply: Arc<dyn Reply>,
    counters: Arc<Counters>,
    received: Instant,
    finished: AtomicBool,
}

impl CountedReply {
    pub(crate) fn new(reply: Arc<dyn Reply>, counters: Arc<Counters>, received: Instant) -> CountedReply {
        CountedReply { reply, counters, received, finished: AtomicBool::new(false) }
    }
}

impl Layer for CountedReply {
    fn inner(&self) -> &dyn Reply {
        &*self.reply
    }

    fn ends(&self, result: &Result<(), ReplyError>) {
        if !self.finished.swap(true, Ordering::Relaxed) {
            self.counters.add_time(self.received.elapsed());
            if let Err(error) = result {
                self.counters.count_error(error.status(), &error.message);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_headers_are_one_ascii_line() {
        let [code, text] = error_headers(404, &format!("a\r\nb ä{}", "x".repeat(300)));
        assert_eq!(code, ("Nats-Service-Error-Code", "404".to_string()));
        assert_eq!(text.1.len(), MAX_HEADER);
        assert!(text.1.starts_with("a??b ?x"), "{}", text.1);
    }
}
