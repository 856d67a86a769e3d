//! Requests on their way from the connection to the thread that answers them. There is room for a number of them and their
//! bytes; whatever finds none is refused at once, so that no caller waits for an answer that will never come. What ends
//! work, or lets it go on, has room of its own, which work cannot fill.

use super::reply_subjects::ReplySubjects;
use crate::nats::{Headers, Inbox, Message};
use crossbeam_channel::{Receiver, Sender, unbounded};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What a request is, for the sake of room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// Starts work, or adds to it.
    Work,
    /// Is answered in one step.
    Query,
    /// Ends work, or is what work waits for.
    Urgent,
}

/// How many requests of a class may wait, and their bytes together. A request that comes alone may be of any size.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub requests: usize,
    pub bytes: usize,
}

/// The requests of a class that wait.
#[derive(Default)]
struct Waiting {
    requests: AtomicUsize,
    bytes: AtomicUsize,
}

/// Answers a request that found no room.
type Refuse = Box<dyn Fn(&Message) + Send + Sync>;

/// The way in of one thread's requests.
pub(crate) struct WaitingRoom {
    to: Sender<Box<Message>>,
    class: fn(&Message) -> Class,
    /// By class.
    limits: [Limits; 3],
    waiting: [Waiting; 3],
    refuse: Refuse,
    replies: Arc<ReplySubjects>,
}

impl WaitingRoom {
    /// A room with these limits, for work, queries and what is urgent; `class` tells them apart. A request that wants its
    /// answer where none may go comes in as one that wants none. The receiver's thread has to
    /// call [`WaitingRoom::taken`] for each request that it receives.
    pub(crate) fn new(
        limits: [Limits; 3],
        class: fn(&Message) -> Class,
        refuse: Refuse,
        replies: Arc<ReplySubjects>,
    ) -> (Arc<WaitingRoom>, Receiver<Box<Message>>) {
        // The limits bound it; a bounded channel would take memory for all of them in each idle session.
        let (to, from) = unbounded();
        (Arc::new(WaitingRoom { to, class, limits, waiting: Default::default(), refuse, replies }), from)
    }

    /// A request has left the room.
    pub(crate) fn taken(&self, message: &Message) {
        let waiting = &self.waiting[(self.class)(message) as usize];
        waiting.requests.fetch_sub(1, Ordering::AcqRel);
        waiting.bytes.fetch_sub(size(message), Ordering::AcqRel);
    }
}

fn size(message: &Message) -> usize {
    message.subject.len() + message.headers.as_ref().map_or(0, Headers::size) + message.payload.len()
}

impl Inbox for WaitingRoom {
    fn put(&self, mut message: Box<Message>) -> Result<(), Box<Message>> {
        self.replies.check(&mut message);
        let class = (self.class)(&message) as usize;
        let (limits, waiting, size) = (&self.limits[class], &self.waiting[class], size(&message));
        // Only the connection's I/O thread adds, so that nothing comes in between.
        let (requests, bytes) = (waiting.requests.load(Ordering::Acquire), waiting.bytes.load(Ordering::Acquire));
        if requests >= limits.requests || (requests > 0 && bytes + size > limits.bytes) {
            return Err(message);
        }
        waiting.requests.fetch_add(1, Ordering::AcqRel);
        waiting.bytes.fetch_add(size, Ordering::AcqRel);
        // A receiver that is gone has told its callers that it goes.
        let _ = self.to.send(message);
        Ok(())
    }

    fn refuse(&self, message: &Message) {
        (self.refuse)(message);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    fn message(subject: &str, bytes: usize) -> Box<Message> {
        Box::new(Message { subject: subject.into(), reply: None, headers: None, payload: vec![b'x'; bytes] })
    }

    fn class(message: &Message) -> Class {
        match message.subject.as_str() {
            "w" => Class::Work,
            "q" => Class::Query,
            _ => Class::Urgent,
        }
    }

    #[test]
    fn each_class_has_room_of_its_own() {
        let limits = |requests, bytes| Limits { requests, bytes };
        let limits = [limits(2, 100), limits(1, 100), limits(1, 100)];
        let refused = Arc::new(Mutex::new(Vec::new()));
        let seen = refused.clone();
        let refuse = Box::new(move |m: &Message| seen.lock().expect("no panic").push(m.subject.clone()));
        let replies = Arc::new(ReplySubjects::new(Vec::new()));
        let (room, requests) = WaitingRoom::new(limits, class, refuse, replies);
        let put = |subject: &str, bytes| match room.put(message(subject, bytes)) {
            Ok(()) => true,
            Err(message) => {
                room.refuse(&message);
                false
            }
        };
        assert!(put("w", 1_000_000), "one alone may be of any size");
        assert!(!put("w", 1), "the bytes are full");
        assert!(put("q", 1) && put("u", 1), "other classes are not");
        room.taken(&requests.try_recv().expect("the first"));
        assert!(put("w", 1) && put("w", 1) && !put("w", 1), "two fit");
        assert!(!put("q", 1) && !put("u", 1), "the queries are not taken yet");
        for request in requests.try_iter() {
            room.taken(&request);
        }
        assert!(put("w", 1) && put("q", 1) && put("u", 1), "all is free again");
        assert_eq!(*refused.lock().expect("no panic"), ["w", "w", "q", "u"]);
    }
}
