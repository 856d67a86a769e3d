//! What the handles of a connection and its I/O thread have in common, and the way out to the server.
//!
//! Locks are taken in this order: subscriptions, wire. Neither is held while anything is waited for.

use super::codec;
use super::error::PublishError;
use super::identity::UserIdentity;
use super::message::Message;
use super::message::valid_header;
use super::options::{ConnectionEvent, Options};
use super::output::{Lifetime, Output};
use super::subject::{valid_pattern, valid_subject};
use super::subscriptions::{Subscriptions, Target};
use super::waker::Waker;
use crossbeam_channel::{Sender, bounded};
use ring::rand::{SecureRandom, SystemRandom};
use std::collections::{HashMap, VecDeque};
use std::io::{self, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// What SUB, UNSUB and PING may take of the buffer above `max_pending`, in bytes: room for some 10,000 of them, so that
/// ending a subscription does not fail for want of room.
const RESERVE: usize = 1 << 20;
/// What a server accepts when it has not said otherwise yet, in bytes: nats-server's default.
const DEFAULT_MAX_PAYLOAD: usize = 1 << 20;

/// What the handles and the I/O thread have in common.
pub(super) struct Shared {
    pub(super) options: Options,
    events: Sender<ConnectionEvent>,
    wire: Mutex<Wire>,
    /// Something in `wire` changed that a thread may wait for: room, a connection, the end.
    changed: Condvar,
    subscriptions: Mutex<Subscriptions>,
    /// Who waits for which answer, by the last word of its reply subject.
    requests: Mutex<HashMap<String, Sender<Box<Message>>>>,
    /// The inbox shared by all requests, without its last word.
    request_inbox: OnceLock<String>,
    pub(super) waker: Arc<Waker>,
    pub(super) closing: AtomicBool,
    pub(super) connected: AtomicBool,
    pub(super) generation: AtomicU64,
    pub(super) max_payload: AtomicUsize,
    /// The server takes headers.
    pub(super) headers: AtomicBool,
    identity: Mutex<Option<Arc<UserIdentity>>>,
}

/// The way out.
pub(super) struct Wire {
    pub(super) output: Output,
    pub(super) link: Link,
    /// One entry per PING that the server has not answered.
    pub(super) pongs: VecDeque<Pong>,
    pub(super) server: String,
    /// More SUB, UNSUB and PING wait than `RESERVE` allows: the connection is of no use any more.
    pub(super) overrun: bool,
    pub(super) closed: bool,
    /// How many threads wait on `changed`.
    waiting: usize,
}

/// Who may write to the socket.
pub(super) enum Link {
    /// Nobody: there is none, or it is being left.
    Down,
    /// Any thread that holds the lock, unless the socket was `full` the last time: then the I/O thread waits for it.
    Direct { socket: Arc<TcpStream>, full: bool },
    /// The I/O thread only, for it owns the TLS session.
    ThroughIo,
}

/// Who asked for a PONG.
pub(super) enum Pong {
    /// The connection has just begun, with all subscriptions.
    Subscribed,
    KeepAlive,
    RoundTrip(Sender<()>),
}

impl Shared {
    pub(super) fn new(options: Options, events: Sender<ConnectionEvent>) -> io::Result<Shared> {
        Ok(Shared {
            options,
            events,
            wire: Mutex::new(Wire {
                output: Output::default(),
                link: Link::Down,
                pongs: VecDeque::new(),
                server: String::new(),
                overrun: false,
                closed: false,
                waiting: 0,
            }),
            changed: Condvar::new(),
            subscriptions: Mutex::default(),
            requests: Mutex::default(),
            request_inbox: OnceLock::new(),
            waker: Arc::new(Waker::new()?),
            closing: AtomicBool::new(false),
            connected: AtomicBool::new(false),
            generation: AtomicU64::new(0),
            max_payload: AtomicUsize::new(DEFAULT_MAX_PAYLOAD),
            headers: AtomicBool::new(true),
            identity: Mutex::default(),
        })
    }

    pub(super) fn wire(&self) -> MutexGuard<'_, Wire> {
        self.wire.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn subscriptions(&self) -> MutexGuard<'_, Subscriptions> {
        self.subscriptions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn requests(&self) -> MutexGuard<'_, HashMap<String, Sender<Box<Message>>>> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn identity(&self) -> MutexGuard<'_, Option<Arc<UserIdentity>>> {
        self.identity.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }

    pub(super) fn emit(&self, event: ConnectionEvent) {
        // Whoever does not keep up with events loses some; the connection must not wait for them.
        let _ = self.events.try_send(event);
    }

    /// Takes over the server's limit and returns it; a server that names none has the usual one.
    pub(super) fn set_max_payload(&self, max: u64) -> usize {
        let max = usize::try_from(max).unwrap_or(usize::MAX).min(codec::MAX_MESSAGE);
        let max = if max == 0 { DEFAULT_MAX_PAYLOAD } else { max };
        self.max_payload.store(max, Ordering::Release);
        max
    }

    pub(super) fn check(
        &self,
        subject: &str,
        reply: Option<&str>,
        headers: &[(&str, &str)],
        payload: &[u8],
    ) -> Result<(), PublishError> {
        for subject in std::iter::once(subject).chain(reply) {
            if !valid_subject(subject) {
                return Err(PublishError::BadSubject(subject.into()));
            }
        }
        if let Some((name, _)) = headers.iter().find(|(name, value)| !valid_header(name, value)) {
            return Err(PublishError::BadHeader((*name).into()));
        }
        let size = codec::header_block_size(headers) + payload.len();
        let max = self.max_payload.load(Ordering::Acquire);
        if size > max { Err(PublishError::TooLarge { size, max }) } else { Ok(()) }
    }

    pub(super) fn append(
        &self,
        subject: &str,
        reply: Option<&str>,
        headers: &[(&str, &str)],
        payload: &[u8],
    ) -> Result<MutexGuard<'_, Wire>, PublishError> {
        let mut wire = self.wire();
        if wire.closed {
            return Err(PublishError::Closed);
        }
        // Control line included, so that many empty messages cannot outgrow the bound.
        let size = codec::header_block_size(headers) + payload.len() + subject.len() + reply.map_or(0, str::len) + 32;
        if wire.output.len() + size > self.options.max_pending {
            return Err(PublishError::Full);
        }
        wire.output.push(Lifetime::Kept, |bytes| codec::put_pub(bytes, subject, reply, headers, payload));
        Ok(wire)
    }

    /// Appends an operation that means something only on this connection, and sends it. Returns false without a
    /// connection; the next one begins with all subscriptions anyway.
    fn control(&self, wire: &mut Wire, write: impl FnOnce(&mut Vec<u8>)) -> bool {
        if matches!(wire.link, Link::Down) {
            return false;
        }
        if wire.output.len() > self.options.max_pending + RESERVE {
            wire.overrun = true;
            self.waker.wake();
            return false;
        }
        wire.output.push(Lifetime::ThisConnection, write);
        self.send(wire);
        true
    }

    /// Moves output towards the server as far as that is possible without waiting.
    pub(super) fn send(&self, wire: &mut Wire) {
        let Wire { output, link, .. } = wire;
        match link {
            Link::Down | Link::Direct { full: true, .. } => return,
            Link::ThroughIo if output.is_empty() => return,
            Link::ThroughIo => return self.waker.wake(),
            Link::Direct { socket, full } => {
                while !output.is_empty() {
                    match (&**socket).write(output.unsent()) {
                        Ok(count) => output.consume(count),
                        Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                        // The socket is full, or broken: the I/O thread finds out which.
                        Err(_) => {
                            *full = true;
                            self.waker.wake();
                            break;
                        }
                    }
                }
            }
        }
        self.tell_waiting(wire);
    }

    /// Wakes the threads that wait for something in `wire` to change.
    pub(super) fn tell_waiting(&self, wire: &Wire) {
        if wire.waiting > 0 {
            self.changed.notify_all();
        }
    }

    /// Waits until `ready` returns a verdict; false when it does not by `deadline`.
    pub(super) fn wait_until(&self, deadline: Instant, mut ready: impl FnMut(&mut Wire) -> Option<bool>) -> bool {
        let mut wire = self.wire();
        loop {
            if let Some(verdict) = ready(&mut wire) {
                return verdict;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            wire.waiting += 1;
            wire = self.changed.wait_timeout(wire, left).unwrap_or_else(PoisonError::into_inner).0;
            wire.waiting -= 1;
        }
    }

    pub(super) fn round_trip(&self, timeout: Duration) -> bool {
        let deadline = deadline_after(timeout);
        let (to, answer) = bounded(1);
        let mut to = Some(to);
        let asked = self.wait_until(deadline, |wire| {
            if wire.closed {
                return Some(false);
            }
            if matches!(wire.link, Link::Down) {
                return None;
            }
            wire.pongs.push_back(Pong::RoundTrip(to.take()?));
            Some(self.control(wire, |bytes| bytes.extend_from_slice(codec::PING)))
        });
        asked && answer.recv_deadline(deadline).is_ok()
    }

    pub(super) fn keep_alive(&self) {
        let mut wire = self.wire();
        wire.pongs.push_back(Pong::KeepAlive);
        self.control(&mut wire, |bytes| bytes.extend_from_slice(codec::PING));
    }

    pub(super) fn answer_ping(&self) {
        self.control(&mut self.wire(), |bytes| bytes.extend_from_slice(codec::PONG));
    }

    pub(super) fn subscribe(&self, subject: &str, queue: Option<&str>, to: Target) -> Result<u64, PublishError> {
        // Both locks, so that a reconnect sees the subscription either in the list or behind it in the output.
        let mut subscriptions = self.subscriptions();
        let mut wire = self.wire();
        if wire.closed {
            return Err(PublishError::Closed);
        }
        let sid = subscriptions.add(subject, queue, to);
        self.control(&mut wire, |bytes| codec::put_sub(bytes, subject, queue, sid));
        Ok(sid)
    }

    pub(super) fn send_unsub(&self, sid: u64) {
        self.control(&mut self.wire(), |bytes| codec::put_unsub(bytes, sid));
    }

    pub(super) fn request_inbox(&self) -> Result<&str, PublishError> {
        if let Some(inbox) = self.request_inbox.get() {
            return Ok(inbox);
        }
        let inbox = format!("{}.{}", self.options.inbox_prefix, random_token::<22>());
        let pattern = format!("{inbox}.*");
        if !valid_pattern(&pattern) {
            return Err(PublishError::BadSubject(pattern));
        }
        // Of two first requests at a time one subscribes in vain, which is harmless.
        self.subscribe(&pattern, None, Target::Requests)?;
        Ok(self.request_inbox.get_or_init(|| inbox))
    }

    /// Hands an answer to the request that waits for it, if one still does.
    pub(super) fn answer_request(&self, message: Box<Message>) {
        let token = message.subject.rsplit('.').next().unwrap_or_default();
        let waiting = self.requests().remove(token);
        if let Some(waiting) = waiting {
            let _ = waiting.try_send(message);
        }
    }

    /// Opens the way out: all subscriptions first, then what was left over from the last connection.
    pub(super) fn link_up(&self, link: Link, server: String) -> u64 {
        let subscriptions = self.subscriptions();
        let mut wire = self.wire();
        let mut first = subscriptions.operations();
        // Its PONG tells that the server has them.
        first.push(Lifetime::ThisConnection, |bytes| bytes.extend_from_slice(codec::PING));
        wire.output.prepend(first);
        wire.pongs.push_back(Pong::Subscribed);
        wire.link = link;
        wire.server = server;
        wire.overrun = false;
        let generation = self.generation.fetch_add(1, Ordering::AcqRel) + 1;
        self.connected.store(true, Ordering::Release);
        self.send(&mut wire);
        self.changed.notify_all();
        generation
    }

    /// Closes the way out. What was not sent is kept for the next connection.
    pub(super) fn link_down(&self) {
        let mut wire = self.wire();
        wire.link = Link::Down;
        wire.output.start_over();
        wire.pongs.clear();
        self.connected.store(false, Ordering::Release);
        self.changed.notify_all();
    }

    /// The I/O thread has ended: nothing will ever happen again, and everybody who waits is told.
    pub(super) fn ended(&self) {
        let mut wire = self.wire();
        wire.closed = true;
        wire.output = Output::default();
        wire.pongs.clear();
        self.connected.store(false, Ordering::Release);
        self.changed.notify_all();
        drop(wire);
        // After `closed` is set: a request or subscription that comes later is refused, so none is left waiting.
        self.subscriptions().clear();
        self.requests().clear();
        self.emit(ConnectionEvent::Closed);
    }
}

/// A moment in the future. A caller who means "for ever" and names a time that no clock can show gets a year.
pub(super) fn deadline_after(timeout: Duration) -> Instant {
    const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
    Instant::now() + timeout.min(YEAR)
}

/// A word of `LENGTH` letters and digits that cannot be guessed: 22 of them are 131 bits, 11 are 65.
pub(super) fn random_token<const LENGTH: usize>() -> String {
    const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let random = SystemRandom::new();
    let mut token = String::with_capacity(LENGTH);
    let mut bytes = [0u8; 32];
    while token.len() < LENGTH {
        if random.fill(&mut bytes).is_err() {
            // The kernel's generator cannot fail once it is seeded; before that an inbox is only hard to guess.
            fastrand::fill(&mut bytes);
        }
        // 248 is the largest multiple of 62 in a byte: what is above would make the first digits more frequent.
        let digits = bytes.iter().filter(|byte| **byte < 248).map(|byte| char::from(DIGITS[usize::from(byte % 62)]));
        token.extend(digits.take(LENGTH - token.len()));
    }
    token
}

#[cfg(test)]
mod tests {
    use super::super::subject::valid_token;
    use super::*;

    #[test]
    fn tokens_are_words_and_differ() {
        let tokens: std::collections::HashSet<String> = (0..1000).map(|_| random_token::<22>()).collect();
        assert_eq!(tokens.len(), 1000);
        assert!(tokens.iter().all(|token| token.len() == 22 && valid_token(token)));
    }
}
