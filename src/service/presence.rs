//! Whether anybody gets an event that has to be answered: it is published with a reply subject, and where nobody is there the
//! server says so ("no responders").

use crate::event_log::Envelope;
use crate::nats::{Connection, Message, Subscription};
use crate::service::waiting_room::WaitingRoom;
use std::sync::Arc;

/// The status of the server's answer for nobody.
const NO_RESPONDERS: u16 = 503;

/// Where the server's answers for one session come to.
pub(crate) struct Presence {
    inbox: String,
    _subscription: Subscription,
}

impl Presence {
    /// Takes answers in with the session's other messages; `None` if the connection takes no more.
    pub(crate) fn new(connection: &Connection, to: Arc<WaitingRoom>) -> Option<Presence> {
        let inbox = connection.new_inbox();
        let subscription = connection.subscribe(&format!("{inbox}.*"), None, to).ok()?;
        Some(Presence { inbox, _subscription: subscription })
    }

    /// Publishes an event; false = it is sure that nobody gets it, or the server could not say.
    pub(crate) fn publish(&self, connection: &Connection, subject: &str, envelope: &Envelope) -> bool {
        let reply = format!("{}.{}", self.inbox, envelope.seq);
        let published = connection.publish(subject, Some(&reply), &[], envelope.line.as_bytes());
        connection.is_connected() && connection.takes_headers() && published.is_ok()
    }

    /// The number of the event that nobody got, if this is the server's word of that.
    pub(crate) fn nobody_got(&self, message: &Message) -> Option<u64> {
        let number = message.subject.strip_prefix(&*self.inbox)?.strip_prefix('.')?;
        if message.status() == Some(NO_RESPONDERS) { number.parse().ok() } else { None }
    }
}
