//! What other threads may touch of a client: the buffer of what it is to be sent, and its subscriptions.

use crate::nats::output::{Lifetime, Output};
use crate::nats::waker::Waker;
use crate::sync::lock;
use std::collections::HashMap;
use std::io::{self, ErrorKind, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
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
}

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
        })
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
        }
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
