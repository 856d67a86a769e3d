//! Where the messages of a subscription go.

use super::message::Message;
use crossbeam_channel::{Sender, TrySendError};
use std::sync::Arc;

/// Takes the messages of a subscription, on the connection's I/O thread: nothing here may wait.
pub trait Inbox: Send + Sync {
    /// Takes a message, or gives it back when there is no room for it. The table of subscriptions is locked meanwhile, so that
    /// the connection must not be used.
    ///
    /// # Errors
    /// The message, for which there is no room.
    fn put(&self, message: Box<Message>) -> Result<(), Box<Message>>;

    /// Answers a message for which there was no room. Nothing is locked, so that it may publish.
    fn refuse(&self, message: &Message);
}

/// A bounded channel drops what does not fit, which the connection counts and reports.
impl Inbox for Sender<Box<Message>> {
    fn put(&self, message: Box<Message>) -> Result<(), Box<Message>> {
        match self.try_send(message) {
            // A receiver that is gone wants no messages; its subscription is about to be dropped.
            Ok(()) | Err(TrySendError::Disconnected(_)) => Ok(()),
            Err(TrySendError::Full(message)) => Err(message),
        }
    }

    fn refuse(&self, _: &Message) {}
}

impl<I: Inbox + ?Sized> Inbox for Arc<I> {
    fn put(&self, message: Box<Message>) -> Result<(), Box<Message>> {
        (**self).put(message)
    }

    fn refuse(&self, message: &Message) {
        (**self).refuse(message);
    }
}
