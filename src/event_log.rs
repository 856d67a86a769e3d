//! What happened in a session, for those who listen and those who ask later.
//!
//! | file | has |
//! |---|---|
//! | `event_log.rs` | [`EventLog`]: numbers events, keeps the last ones |
//! | `envelope.rs` | an event as it goes out |
//! | `kept.rs` | an event as the log keeps it |
//! | `truncate.rs` | what of a payload goes into its event |
//! | `history.rs` | queries, and the answers to them |
//! | `spill.rs` | the file that has what events left out |
//!
//! Knows nothing of sockets, NATS or sessions. A log belongs to one thread; an [`Envelope`] is made once and then shared
//! by the log, its listeners and the answers to queries. Where nobody listens, it is made when somebody asks for it.

mod envelope;
mod history;
mod kept;
mod spill;
mod truncate;

use crate::clock::{iso_time, now_ms};
use crate::traceparent::{TRACEPARENT, Traceparent};
pub(crate) use envelope::Envelope;
use envelope::{Rest, quoted};
pub use history::HistoryQuery;
pub(crate) use history::HistorySnapshot;
pub(crate) use kept::Content;
use kept::{Kept, Unworded};
use serde_json::{Value, json};
use spill::Spill;
use std::borrow::Cow;
use std::collections::VecDeque;
use std::fmt::Write;
use std::path::PathBuf;
use std::sync::Arc;
use truncate::{Limits, Loss};

/// Bytes that events without words may hold in one log. They share them with the transcript, which may let go of them.
/// Long answers are counted three times, for the ends of the message, of the turn, and of the run.
const MAX_UNWORDED: usize = 2 << 20;

/// Bounds of a log. The defaults are the protocol's.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// Events that are kept; at least one is.
    pub history_limit: usize,
    /// Bytes of JSON that an event's payload may have before it is truncated.
    pub max_event_bytes: usize,
    /// Bytes of each preview in an event.
    pub preview_bytes: usize,
    /// Bytes of all kept events; the last one is kept even if it is larger. 0 = no limit.
    pub max_history_bytes: usize,
    /// Bytes of the events in one answer, unless the query names another number. 0 = no limit.
    pub max_response_bytes: usize,
    /// What truncated events leave out goes into a file.
    pub spill: bool,
    /// Bytes of that file. 0 = no limit.
    pub max_spill_bytes: u64,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            history_limit: 500,
            max_event_bytes: 8192,
            preview_bytes: 256,
            max_history_bytes: 4 << 20,
            max_response_bytes: 1 << 20,
            spill: true,
            max_spill_bytes: 16 << 20,
        }
    }
}

/// Somebody who listens to a session.
pub(crate) trait EventSink: Send + Sync {
    /// Takes one event; must not wait. False = it takes no more.
    fn event(&self, envelope: &Arc<Envelope>) -> bool;
}

/// The events of one session, owned by its actor.
pub(crate) struct EventLog {
    settings: Settings,
    session: Box<str>,
    spill_path: PathBuf,
    /// Begun with the first payload that is worth a file.
    spill: Option<Spill>,
    ring: VecDeque<Kept>,
    /// Bytes of the records in `ring`.
    ring_bytes: usize,
    /// Bytes that those in `ring` hold that are not in words.
    unworded_bytes: usize,
    last_seq: u64,
    /// What happens now belongs to this trace.
    trace: Option<Traceparent>,
}

impl EventLog {
    /// An empty log whose events are numbered from `last_seq` + 1. The file at `spill_path` and its folder are made when they
    /// are first needed, and the file is removed with the log.
    pub(crate) fn new(settings: Settings, session_id: &str, spill_path: PathBuf, last_seq: u64) -> EventLog {
        EventLog {
            settings,
            session: session_id.into(),
            spill_path,
            spill: None,
            ring: VecDeque::new(),
            ring_bytes: 0,
            unworded_bytes: 0,
            last_seq,
            trace: None,
        }
    }

    /// The number of the last event; 0 before the first.
    pub(crate) fn last_seq(&self) -> u64 {
        self.last_seq
    }

    /// Says what trace events belong to from now on; returns what it was before.
    pub(crate) fn set_trace(&mut self, trace: Option<Traceparent>) -> Option<Traceparent> {
        std::mem::replace(&mut self.trace, trace)
    }

    /// Takes note of an event and returns it in the form in which it goes out. What it leaves out of `payload` is worth a
    /// file only while somebody listens (`subscribed`). Never waits for a disk.
    pub(crate) fn publish(
        &mut self,
        event: impl Into<Cow<'static, str>>,
        payload: Value,
        subscribed: bool,
    ) -> Arc<Envelope> {
        // Before the file is asked for room, since this makes room there, too.
        self.make_room();
        self.last_seq += 1;
        let trace = self.trace.clone();
        let envelope = self.envelope(event.into(), payload, (self.last_seq, now_ms(), trace), subscribed);
        self.ring.push_back(Kept::Words(envelope.clone()));
        self.forget_too_much();
        envelope
    }

    /// Takes note of an event that nobody listens to.
    pub(crate) fn keep(&mut self, content: impl Content + 'static) {
        self.make_room();
        self.last_seq += 1;
        let trace = self.trace.clone();
        let unworded = Unworded { seq: self.last_seq, time_ms: now_ms(), trace, bytes: content.bytes(), content };
        self.unworded_bytes += unworded.bytes;
        self.ring.push_back(Kept::Unworded(Box::new(unworded)));
        if self.unworded_bytes > MAX_UNWORDED {
            self.put_into_words();
        }
    }

    /// Holds nothing from here on that is not its own.
    pub(crate) fn put_into_words(&mut self) {
        let mut ring = std::mem::take(&mut self.ring);
        for kept in &mut ring {
            if let Kept::Unworded(unworded) = kept {
                let (content, at) = (&unworded.content, (unworded.seq, unworded.time_ms, unworded.trace.take()));
                let envelope = self.envelope(content.name().into(), content.to_json(), at, false);
                *kept = Kept::Words(envelope);
            }
        }
        self.ring = ring;
        self.unworded_bytes = 0;
        self.forget_too_much();
    }

    /// Makes an event's record, and counts its bytes as kept.
    fn envelope(
        &mut self,
        event: Cow<'static, str>,
        payload: Value,
        (seq, time_ms, trace): (u64, i64, Option<Traceparent>),
        subscribed: bool,
    ) -> Arc<Envelope> {
        let limits =
            Limits { max_event_bytes: self.settings.max_event_bytes, preview_bytes: self.settings.preview_bytes };
        let truncated = truncate::truncate(&event, payload, limits);
        let timestamp = iso_time(time_ms);
        let mut line = self.record(&event, &timestamp, seq, &truncated.data);
        if let Some(trace) = trace {
            let _ = write!(line, r#","{TRACEPARENT}":"{}""#, trace.as_str());
        }
        let rest = match truncated.loss {
            None => Rest::None,
            Some(loss) => self.record_loss(loss, &event, &timestamp, &mut line, subscribed),
        };
        line.push('}');
        self.ring_bytes += line.len();
        Arc::new(Envelope { seq, event, time_ms, line: line.into(), rest })
    }

    fn make_room(&mut self) {
        while self.ring.len() >= self.settings.history_limit.max(1) {
            self.forget_oldest();
        }
    }

    fn forget_too_much(&mut self) {
        let most = self.settings.max_history_bytes;
        while most > 0 && self.ring_bytes > most && self.ring.len() > 1 {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        match self.ring.pop_front() {
            Some(Kept::Words(envelope)) => {
                self.ring_bytes -= envelope.line.len();
                if let (Rest::Spilled(number), Some(spill)) = (envelope.rest, &self.spill) {
                    spill.release(number);
                }
            }
            Some(Kept::Unworded(unworded)) => self.unworded_bytes -= unworded.bytes,
            None => {}
        }
    }

    /// The record of an event, to which fields may be added before it is closed.
    fn record(&self, event: &str, timestamp: &str, seq: u64, data: &str) -> String {
        let mut line = String::with_capacity(data.len() + 160);
        let (event, session) = (quoted(event), quoted(&self.session));
        // Writing to a string cannot fail.
        let _ = write!(
            line,
            r#"{{"type":"event","event":{event},"timestamp":"{timestamp}","seq":{seq},"session":{session},"data":{data}"#
        );
        line
    }

    /// Says in a record what is missing in it, and sees to it that the whole payload is kept elsewhere.
    fn record_loss(&mut self, loss: Loss, event: &str, timestamp: &str, line: &mut String, subscribed: bool) -> Rest {
        let _ = write!(line, r#","truncated":true,"originalBytes":{}"#, loss.original_bytes);
        let Some(original) = loss.original else { return Rest::Dropped };
        match self.spill(event, timestamp, &original, subscribed) {
            Ok(number) => {
                let path = quoted(&self.spill_path.to_string_lossy());
                let pending = quoted(spill::PENDING);
                let _ = write!(line, r#","rawEventPath":{path},"rawEventRef":"{number}","rawError":{pending}"#);
                Rest::Spilled(number)
            }
            Err(reason) => {
                let _ = write!(line, r#","rawError":{}"#, quoted(&reason));
                Rest::Refused
            }
        }
    }

    /// Hands a payload to the file's writer.
    fn spill(&mut self, event: &str, timestamp: &str, original: &str, subscribed: bool) -> Result<u64, String> {
        if !self.settings.spill {
            return Err(spill::DISABLED.into());
        }
        if !subscribed {
            return Err(spill::NO_SUBSCRIBER.into());
        }
        let (path, most) = (&self.spill_path, self.settings.max_spill_bytes);
        let spill = self.spill.get_or_insert_with(|| Spill::new(path.clone(), most));
        spill.submit(&self.session, event, timestamp, original)
    }

    /// What is asked for, cheap to take; it is rendered elsewhere.
    pub(crate) fn history(&mut self, query: &HistoryQuery) -> HistorySnapshot {
        let limit = query.limit.unwrap_or(usize::MAX).min(self.settings.history_limit);
        let (mut envelopes, gap) = self.after(query.since_seq.unwrap_or_default());
        envelopes.retain(|envelope| query.matches(envelope));
        envelopes.drain(..envelopes.len().saturating_sub(limit));
        HistorySnapshot {
            envelopes,
            gap: gap.filter(|_| query.since_seq.is_some()),
            raw: query.raw,
            max_bytes: query.max_bytes.unwrap_or(self.settings.max_response_bytes),
            spill_path: self.spill_path.to_string_lossy().into_owned(),
            spill: self.spill.as_ref().map(Spill::reader),
        }
    }

    /// The events that a listener missed whose last one was `since`, oldest first. What is not kept any more is replaced by a leading
    /// envelope `bridge_gap`, with the number of the last lost event as its own and `{from, to}` as its data.
    ///
    /// A number that this log has not reached is one of an earlier life of the session: then everything was missed.
    pub(crate) fn replay(&mut self, since: u64) -> Vec<Arc<Envelope>> {
        let (envelopes, gap) = self.after(since);
        let gap = gap.map(|(from, to)| {
            let (event, time_ms) = (Cow::Borrowed("bridge_gap"), now_ms());
            let mut line = self.record(&event, &iso_time(time_ms), to, &json!({"from": from, "to": to}).to_string());
            line.push('}');
            Arc::new(Envelope { seq: to, event, time_ms, line: line.into(), rest: Rest::None })
        });
        gap.into_iter().chain(envelopes).collect()
    }

    /// The events after `since`, and the first and the last number of those that are not kept any more.
    fn after(&mut self, since: u64) -> (Vec<Arc<Envelope>>, Option<(u64, u64)>) {
        self.put_into_words();
        let since = if since > self.last_seq { 0 } else { since };
        let first = self.ring.front().map_or(self.last_seq + 1, Kept::seq);
        let envelopes = self.ring.iter().filter_map(Kept::words).filter(|envelope| envelope.seq > since);
        let envelopes = envelopes.cloned().collect();
        (envelopes, (since + 1 < first).then(|| (since + 1, first - 1)))
    }
}

#[cfg(test)]
mod tests;
