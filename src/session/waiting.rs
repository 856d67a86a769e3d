//! Messages that wait to be taken into the running prompt: steering, and what follows when it would be done.

use crate::contract::prompt::Incoming;
use crate::model::QueueMode;
use std::collections::VecDeque;

/// One queue.
#[derive(Default)]
pub(super) struct Waiting(VecDeque<Incoming>);

impl Waiting {
    pub(super) fn push(&mut self, message: Incoming) {
        self.0.push_back(message);
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// What the next turn takes in.
    pub(super) fn take(&mut self, mode: QueueMode) -> Vec<Incoming> {
        match mode {
            QueueMode::OneAtATime => self.0.pop_front().into_iter().collect(),
            QueueMode::All => self.take_all(),
        }
    }

    /// Takes out the message of this id.
    pub(super) fn remove(&mut self, id: &str) -> Option<Incoming> {
        let at = self.0.iter().position(|message| message.id == id)?;
        self.0.remove(at)
    }

    pub(super) fn take_all(&mut self) -> Vec<Incoming> {
        std::mem::take(&mut self.0).into()
    }

    /// The texts, as `queue_update` tells them.
    pub(super) fn texts(&self) -> Vec<String> {
        self.0.iter().map(|message| message.text.clone()).collect()
    }
}
