//! What other threads may touch of a client: the buffer of what it is to be sent, and its subscriptions.

use super::router::has_wildcard;
use super::sockets::Owner;
use crate::nats::output::{Lifetime, Output};
use crate::nats::subject::words;
use crate::nats::waker::Waker;
use crate::sync::lock;
use std::collections::HashMap;
use std::io::{self, ErrorKind, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::{Duration, Instant};

/// A connected client.
pub(super) struct Peer {
    pub(super) id: u64,
    pub(super) socket: TcpStream,
    /// Wakes the client's thread.
    pub(super) waker: Waker,
    /// It understands HMSG. Others get messages without their headers.
    pub(super) headers: AtomicBool,
    max_pending: usize,
    outbox: Mutex<Outbox>,
    subscriptions: Mutex<HashMap<Box<[u8]>, Arc<Subscription>>>,
    standing: Mutex<Standing>,
    /// Another client takes its place.
    evicted: AtomicBool,
    /// Who holds the other end, where that was looked up.
    pub(super) owner: OnceLock<Option<Owner>>,
    /// What its subscriptions take, in bytes.
    pub(super) subscription_bytes: AtomicUsize,
}

/// What decides who has to go where there is no more room: the smaller ones first, of equal ones the one that was heard
/// last the longest ago.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Standing {
    pub(super) stage: Stage,
    pub(super) heard: Instant,
}

/// How far a client has come.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stage {
    /// It may not come in, and is about to be told so.
    Refused,
    /// It has not said who it is.
    Silent,
    Connected,
}

#[derive(Default)]
struct Outbox {
    output: Output,
    /// Since when the socket takes nothing more. The client's thread waits for it, and nobody else writes meanwhile.
    full_since: Option<Instant>,
    /// More waited than may wait: the client is cut off.
    overrun: bool,
}

/// What the client's thread has to know about the outbox.
pub(super) enum Sending {
    Done,
    /// The socket has taken nothing for so long.
    Full(Duration),
    Overrun,
}

/// One SUB of a client.
pub(super) struct Subscription {
    pub(super) peer: Arc<Peer>,
    pub(super) pattern: Box<[u8]>,
    pub(super) queue: Option<Box<[u8]>>,
    pub(super) sid: Box<[u8]>,
    /// Messages so far, and the number after which it ends; 0 for no end.
    delivered: AtomicU64,
    max: AtomicU64,
    /// Where it is among the subscriptions with its pattern; the router's business.
    pub(super) place: AtomicUsize,
}

/// What one subscription takes beside its texts, in bytes, and what each word of a pattern with wildcards does (both
/// measured, rounded up).
const SUBSCRIPTION: usize = 400;
const WORD: usize = 400;

impl Peer {
    pub(super) fn new(id: u64, socket: TcpStream, max_pending: usize) -> io::Result<Peer> {
        Ok(Peer {
            id,
            socket,
            waker: Waker::new()?,
            headers: AtomicBool::new(false),
            max_pending,
            outbox: Mutex::default(),
            subscriptions: Mutex::default(),
            standing: Mutex::new(Standing { stage: Stage::Silent, heard: Instant::now() }),
            evicted: AtomicBool::new(false),
            owner: OnceLock::new(),
            subscription_bytes: AtomicUsize::new(0),
        })
    }

    pub(super) fn standing(&self) -> MutexGuard<'_, Standing> {
        lock(&self.standing)
    }

    /// Takes its place away from it.
    pub(super) fn evict(&self) {
        self.evicted.store(true, Ordering::Release);
        self.waker.wake();
    }

    pub(super) fn is_evicted(&self) -> bool {
        self.evicted.load(Ordering::Acquire)
    }

    fn outbox(&self) -> MutexGuard<'_, Outbox> {
        lock(&self.outbox)
    }

    pub(super) fn subscriptions(&self) -> MutexGuard<'_, HashMap<Box<[u8]>, Arc<Subscription>>> {
        lock(&self.subscriptions)
    }

    /// Appends one operation; [`Peer::send`] lets it out.
    pub(super) fn append(&self, write: impl FnOnce(&mut Vec<u8>)) {
        let mut outbox = self.outbox();
        if outbox.overrun {
            return;
        }
        outbox.output.push(Lifetime::ThisConnection, write);
        if outbox.output.len() > self.max_pending {
            outbox.overrun = true;
            outbox.output = Output::default();
            self.waker.wake();
        }
    }

    /// Writes what waits, as far as the socket takes it, unless the client's thread is at it.
    pub(super) fn send(&self) {
        let mut outbox = self.outbox();
        if outbox.full_since.is_none() {
            self.write(&mut outbox);
            if outbox.full_since.is_some() {
                self.waker.wake();
            }
        }
    }

    /// The same for the client's own thread, which goes on where the socket was full.
    pub(super) fn resume(&self) -> Sending {
        let mut outbox = self.outbox();
        self.write(&mut outbox);
        match (outbox.overrun, outbox.full_since) {
            (true, _) => Sending::Overrun,
            (false, Some(since)) => Sending::Full(since.elapsed()),
            (false, None) => Sending::Done,
        }
    }

    fn write(&self, outbox: &mut Outbox) {
        while !outbox.output.is_empty() {
            match (&self.socket).write(outbox.output.unsent()) {
                Ok(count) => {
                    outbox.output.consume(count);
                    outbox.full_since = None;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // Full, or broken: reading tells which.
                Err(_) => {
                    outbox.full_since.get_or_insert_with(Instant::now);
                    return;
                }
            }
        }
        outbox.full_since = None;
    }
}

impl Subscription {
    pub(super) fn new(peer: Arc<Peer>, pattern: &[u8], queue: Option<&[u8]>, sid: &[u8]) -> Subscription {
        Subscription {
            peer,
            pattern: pattern.into(),
            queue: queue.map(Into::into),
            sid: sid.into(),
            delivered: AtomicU64::new(0),
            max: AtomicU64::new(0),
            place: AtomicUsize::new(0),
        }
    }

    /// The memory that it takes, in bytes.
    pub(super) fn size(&self) -> usize {
        let words = if has_wildcard(&self.pattern) { words(&self.pattern).count() } else { 0 };
        let texts = 2 * (self.pattern.len() + self.sid.len()) + self.queue.as_deref().map_or(0, <[u8]>::len);
        SUBSCRIPTION + texts + words * WORD
    }

    /// Counts a message; whether it may still be delivered, and whether it is the last one.
    pub(super) fn count(&self) -> (bool, bool) {
        let count = self.delivered.fetch_add(1, Ordering::AcqRel) + 1;
        match self.max.load(Ordering::Acquire) {
            0 => (true, false),
            max => (count <= max, count >= max),
        }
    }

    /// Sets the number of messages after which it ends; true when it has had that many already.
    pub(super) fn end_after(&self, max: u64) -> bool {
        self.max.store(max, Ordering::Release);
        max <= self.delivered.load(Ordering::Acquire)
    }
}
