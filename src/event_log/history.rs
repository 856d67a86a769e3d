//! Queries to the log, and the answers to them.

use super::envelope::{Envelope, Rest, quoted};
use super::spill::{self, Reader};
use crate::clock::{iso_time, parse_time};
use serde_json::{Map, Value, json};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long an answer with raw payloads waits for those that are still being written. Far more than 16 MiB take.
const MAX_WAIT: Duration = Duration::from_secs(2);

/// What of the past is asked for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HistoryQuery {
    /// Only the last so many events.
    pub limit: Option<usize>,
    /// Only events of this name.
    pub event: Option<String>,
    /// Only events of this time or later: RFC 3339 in UTC with milliseconds. What is no time is compared as text.
    pub since: Option<String>,
    /// Only events after this number.
    pub since_seq: Option<u64>,
    /// With whole payloads, as far as they are kept.
    pub raw: bool,
    /// Bytes of the events in the answer; the newest always fits. 0 = no limit.
    pub max_bytes: Option<usize>,
}

impl HistoryQuery {
    /// Reads a request. Clients send numbers as texts, and `null` for what is none: whatever makes no sense is ignored.
    pub fn from_json(request: &Map<String, Value>) -> HistoryQuery {
        let text = |name: &str| {
            let text = request.get(name).and_then(Value::as_str).unwrap_or_default().trim();
            if text.is_empty() { None } else { Some(text) }
        };
        let number = |name: &str| request.get(name).and_then(floor);
        let size = |name: &str| number(name).filter(|n| *n > 0).and_then(|n| usize::try_from(n).ok());
        let flag = |name: &str| request.get(name) == Some(&Value::Bool(true));
        HistoryQuery {
            limit: size("limit"),
            event: text("event").map(str::to_owned),
            since: text("since").map(|text| parse_time(text).map_or_else(|| text.to_owned(), iso_time)),
            since_seq: number("sinceSeq"),
            raw: flag("raw") || flag("verbose"),
            max_bytes: size("maxBytes").or_else(|| size("max_bytes")),
        }
    }

    /// The event has the name and the time that are asked for.
    pub(super) fn matches(&self, envelope: &Envelope) -> bool {
        self.event.as_ref().is_none_or(|event| *event == envelope.event)
            && self.since.as_ref().is_none_or(|since| *since <= envelope.timestamp())
    }
}

/// A number, or a text that is one, rounded down; none if it is negative or not finite.
fn floor(value: &Value) -> Option<u64> {
    let number = match value {
        Value::Number(number) => number.as_f64()?,
        Value::String(text) => text.trim().parse().ok()?,
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => return None,
    };
    (number.is_finite() && number >= 0.0).then_some(number as u64)
}

/// The answer to a query, to be rendered on the thread of whoever asked.
#[derive(Debug)]
pub(crate) struct HistorySnapshot {
    pub(super) envelopes: Vec<Arc<Envelope>>,
    pub(super) gap: Option<(u64, u64)>,
    pub(super) raw: bool,
    /// 0 = no limit.
    pub(super) max_bytes: usize,
    pub(super) spill_path: String,
    pub(super) spill: Option<Reader>,
}

impl HistorySnapshot {
    /// The document `{events, totalEvents, responseTruncated, rawSpillPath, rawErrors?, gap?}`, events oldest first.
    /// `gap` is `{from, to}`, the numbers of events that are not kept any more though they were asked for. With raw
    /// payloads this waits for those that are still being written, for two seconds at most.
    pub(crate) fn render(self) -> Value {
        let mut response = Response { room: self.room(), truncated: false, errors: Vec::new(), alone: true };
        let mut chosen = Vec::new();
        for envelope in self.envelopes.iter().rev() {
            if !chosen.is_empty() && envelope.line.len() > response.room {
                response.truncated = true;
                break;
            }
            response.room = response.room.saturating_sub(envelope.line.len());
            chosen.push(envelope);
        }
        response.alone = chosen.len() == 1;
        if let (true, Some(spill)) = (self.raw, &self.spill) {
            let numbers: Vec<u64> = chosen.iter().filter_map(|envelope| envelope.rest.number()).collect();
            spill.wait(&numbers, Instant::now() + MAX_WAIT);
        }
        let mut events: Vec<Value> = chosen
            .iter()
            .map(|envelope| {
                let mut event: Value = serde_json::from_str(&envelope.line).unwrap_or_default();
                if let Value::Object(fields) = &mut event {
                    if let Some(number) = envelope.rest.number() {
                        self.complete(number, envelope, fields, &mut response);
                    } else if self.raw && envelope.rest == Rest::Dropped {
                        response.note(fields, spill::NOT_RETAINED);
                    }
                }
                event
            })
            .collect();
        events.reverse();
        let mut document = json!({
            "events": events,
            "totalEvents": self.envelopes.len(),
            "responseTruncated": response.truncated,
            "rawSpillPath": self.spill_path,
        });
        if !response.errors.is_empty() {
            response.errors.reverse();
            document["rawErrors"] = response.errors.into();
        }
        if let Some((from, to)) = self.gap {
            document["gap"] = json!({"from": from, "to": to});
        }
        document
    }

    fn room(&self) -> usize {
        if self.max_bytes == 0 { usize::MAX } else { self.max_bytes }
    }

    /// Brings an event up to date whose payload went to the file, and puts that payload back in if it is asked for.
    fn complete(&self, number: u64, envelope: &Envelope, fields: &mut Map<String, Value>, response: &mut Response) {
        let Some(spill) = &self.spill else { return };
        match spill.stage(number) {
            spill::Stage::Pending => {}
            spill::Stage::Gone => {
                fields.shift_remove("rawError");
                if self.raw {
                    response.note(fields, spill::NOT_RETAINED);
                }
            }
            spill::Stage::Failed(reason) => {
                fields.insert("rawError".into(), json!(reason));
                if self.raw {
                    response.errors.push(format!("{}#{number}: {reason}", envelope.event));
                }
            }
            spill::Stage::Stored => {
                fields.shift_remove("rawError");
                if self.raw {
                    self.restore(spill, number, envelope, fields, response);
                }
            }
        }
    }

    fn restore(
        &self,
        spill: &Reader,
        number: u64,
        envelope: &Envelope,
        fields: &mut Map<String, Value>,
        response: &mut Response,
    ) {
        // The flag that is added is shorter than the note about the pending payload that went away.
        let original = fields.get("originalBytes").and_then(Value::as_u64).and_then(|n| usize::try_from(n).ok());
        let compact = fields.get("data").map_or(0, |data| data.to_string().len());
        let growth = original.unwrap_or(usize::MAX).saturating_sub(compact);
        if !response.take(growth) {
            return;
        }
        match spill.read(number) {
            Ok(data) => {
                fields.insert("data".into(), data);
                fields.insert("rawRestored".into(), json!(true));
            }
            Err(reason) => {
                response.room = response.room.saturating_add(growth);
                fields.insert("rawError".into(), json!(reason));
                response.errors.push(format!("{}#{number}: {reason}", envelope.event));
            }
        }
    }
}

/// An answer in the making. Events are added from the newest to the oldest.
struct Response {
    /// Bytes that may still be added.
    room: usize,
    /// Something was left out for want of room.
    truncated: bool,
    errors: Vec<String>,
    /// There is one event only, which may be as large as it likes.
    alone: bool,
}

impl Response {
    /// Takes room for so many bytes; false if there is not enough.
    fn take(&mut self, bytes: usize) -> bool {
        if bytes > self.room && !self.alone {
            self.truncated = true;
            return false;
        }
        self.room = self.room.saturating_sub(bytes);
        true
    }

    /// Says in an event why its payload cannot be put back.
    fn note(&mut self, fields: &mut Map<String, Value>, reason: &str) {
        if self.take(quoted(reason).len() + r#","rawError":"#.len()) {
            fields.insert("rawError".into(), json!(reason));
        }
    }
}
