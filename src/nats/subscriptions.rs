//! The table of subscriptions: who gets which messages.

use super::codec::{self, Delivery};
use super::inbox::Inbox;
use super::message::{Headers, Message};
use super::options::ConnectionEvent;
use super::output::{Lifetime, Output};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often a slow subscriber is reported at most.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// Where a subscription's messages go.
pub(super) enum Target {
    Inbox(Arc<dyn Inbox>),
    /// The inbox that all pending requests share.
    Requests,
}

struct Entry {
    subject: String,
    queue: Option<String>,
    to: Target,
    /// UNSUB was sent; what still arrives is delivered, and a reconnect does not bring it back.
    retired: bool,
    /// Messages that found no room and are not yet reported.
    refused: u64,
    reported: Option<Instant>,
}

/// All subscriptions of a connection. They outlive reconnects.
#[derive(Default)]
pub(super) struct Subscriptions {
    last_sid: u64,
    entries: HashMap<u64, Entry>,
    /// Some entry has refusals that are not reported yet.
    unreported: bool,
}

/// What to do with a message that came for a subscription.
pub(super) enum Delivered {
    Done,
    ForRequest(Box<Message>),
    /// The inbox has no room: it has to answer the message, and this is to be told.
    Refused(Arc<dyn Inbox>, Box<Message>, Option<ConnectionEvent>),
}

impl Subscriptions {
    /// Adds a subscription and returns its id, which is never used again.
    pub(super) fn add(&mut self, subject: &str, queue: Option<&str>, to: Target) -> u64 {
        self.last_sid += 1;
        let entry = Entry {
            subject: subject.into(),
            queue: queue.map(Into::into),
            to,
            retired: false,
            refused: 0,
            reported: None,
        };
        self.entries.insert(self.last_sid, entry);
        self.last_sid
    }

    /// Forgets a subscription; true when the server knows already.
    pub(super) fn remove(&mut self, sid: u64) -> bool {
        self.entries.remove(&sid).is_none_or(|entry| entry.retired)
    }

    pub(super) fn retire(&mut self, sid: u64) {
        if let Some(entry) = self.entries.get_mut(&sid) {
            entry.retired = true;
        }
    }

    /// Forgets all of them, which lets their channels end.
    pub(super) fn clear(&mut self) {
        self.entries.clear();
    }

    /// The SUB operations for a new connection, oldest first.
    pub(super) fn operations(&self) -> Output {
        let mut live: Vec<_> = self.entries.iter().filter(|(_, entry)| !entry.retired).collect();
        live.sort_unstable_by_key(|(sid, _)| **sid);
        let mut output = Output::default();
        for (sid, entry) in live {
            output.push(Lifetime::ThisConnection, |bytes| {
                codec::put_sub(bytes, &entry.subject, entry.queue.as_deref(), *sid);
            });
        }
        output
    }

    /// Hands a message to its subscriber without waiting. A message for a subscription that has just ended is nobody's.
    pub(super) fn deliver(&mut self, delivery: &Delivery<'_>, now: impl FnOnce() -> Instant) -> Delivered {
        let sid = std::str::from_utf8(delivery.sid).ok().and_then(|sid| sid.parse().ok());
        let Some(entry) = sid.and_then(|sid: u64| self.entries.get_mut(&sid)) else { return Delivered::Done };
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let message = Box::new(Message {
            subject: text(delivery.subject),
            reply: delivery.reply.map(text),
            headers: delivery.headers.map(|block| Headers::from_block(block.to_vec())),
            payload: delivery.payload.to_vec(),
        });
        let to = match &entry.to {
            Target::Inbox(to) => to.clone(),
            Target::Requests => return Delivered::ForRequest(message),
        };
        match to.put(message) {
            Ok(()) => Delivered::Done,
            Err(message) => {
                entry.refused += 1;
                let report = entry.report(now());
                self.unreported |= report.is_none();
                Delivered::Refused(to, message, report)
            }
        }
    }

    /// Reports refusals that had to wait because another report was less than a second ago.
    pub(super) fn overdue_reports(&mut self, now: Instant) -> Vec<ConnectionEvent> {
        if !self.unreported {
            return Vec::new();
        }
        let events = self.entries.values_mut().filter_map(|entry| entry.report(now)).collect();
        self.unreported = self.entries.values().any(|entry| entry.refused > 0);
        events
    }

    /// How long until [`Subscriptions::overdue_reports`] may have something; `None` when nothing waits.
    pub(super) fn next_report(&self) -> Option<Duration> {
        self.unreported.then_some(REPORT_INTERVAL)
    }
}

impl Entry {
    fn report(&mut self, now: Instant) -> Option<ConnectionEvent> {
        let due = self.reported.is_none_or(|reported| now.duration_since(reported) >= REPORT_INTERVAL);
        if self.refused == 0 || !due {
            return None;
        }
        self.reported = Some(now);
        let refused = std::mem::take(&mut self.refused);
        Some(ConnectionEvent::SlowConsumer { subject: self.subject.clone(), refused })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crossbeam_channel::bounded;

    fn delivery(sid: &[u8]) -> Delivery<'_> {
        Delivery { subject: b"a.b", sid, reply: Some(b"r"), headers: Some(b"NATS/1.0 503\r\n\r\n"), payload: b"hi" }
    }

    fn reported(delivered: Delivered) -> Option<u64> {
        match delivered {
            Delivered::Refused(_, _, Some(ConnectionEvent::SlowConsumer { refused, .. })) => Some(refused),
            _ => None,
        }
    }

    #[test]
    fn delivers_and_refuses_what_does_not_fit() {
        let mut subscriptions = Subscriptions::default();
        let (to, from) = bounded(1);
        let sid = subscriptions.add("a.*", None, Target::Inbox(Arc::new(to))).to_string();
        let start = Instant::now();
        let mut deliver = |at| reported(subscriptions.deliver(&delivery(sid.as_bytes()), || start + at));
        assert_eq!(deliver(Duration::ZERO), None);
        assert_eq!(deliver(Duration::ZERO), Some(1), "the first refusal is reported at once");
        assert_eq!(deliver(Duration::from_millis(400)), None);
        assert_eq!(deliver(Duration::from_millis(999)), None);
        assert_eq!(deliver(Duration::from_millis(1000)), Some(3));
        assert_eq!(deliver(Duration::from_millis(1500)), None);
        assert!(subscriptions.overdue_reports(start + Duration::from_millis(1900)).is_empty());
        assert_eq!(subscriptions.next_report(), Some(REPORT_INTERVAL));
        let expected = ConnectionEvent::SlowConsumer { subject: "a.*".into(), refused: 1 };
        assert_eq!(subscriptions.overdue_reports(start + Duration::from_millis(2000)), [expected]);
        assert_eq!(subscriptions.next_report(), None);
        let message = from.try_recv().expect("the first message");
        assert_eq!((message.subject.as_str(), message.reply.as_deref()), ("a.b", Some("r")));
        assert_eq!((message.payload.as_slice(), message.status()), (&b"hi"[..], Some(503)));
        for unknown in [&b"2"[..], b"", b"x", b"99999999999999999999999"] {
            assert!(matches!(subscriptions.deliver(&delivery(unknown), || start), Delivered::Done));
        }
    }

    #[test]
    fn comes_back_after_a_reconnect_unless_it_was_ended() {
        let mut subscriptions = Subscriptions::default();
        let (to, _from) = bounded(1);
        let mut add = |subject, queue| subscriptions.add(subject, queue, Target::Inbox(Arc::new(to.clone())));
        let (first, second) = (add("a", Some("q")), add("b.>", None));
        assert_eq!((first, second, add("c", None), add("d", None)), (1, 2, 3, 4));
        assert!(!subscriptions.remove(3));
        assert!(subscriptions.remove(3), "the server was told the first time");
        subscriptions.retire(4);
        assert_eq!(subscriptions.operations().unsent(), b"SUB a q 1\r\nSUB b.> 2\r\n");
        assert!(subscriptions.remove(4));
    }
}
