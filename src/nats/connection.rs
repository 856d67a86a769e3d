//! The handle through which the rest of the program speaks NATS.
//!
//! Publishing appends to one bounded buffer of whole operations. On a plain connection the calling thread then writes that
//! buffer to the non-blocking socket itself, which saves a message the way over another thread; only what the socket does
//! not take at once, and everything on a TLS connection, is left to the thread `nats-io` (see `io.rs`). No call here waits
//! for the server unless it says so and takes a timeout.

use super::error::{PublishError, RequestError};
use super::identity::UserIdentity;
use super::inbox::Inbox;
use super::io as io_thread;
use super::message::Message;
use super::options::{ConnectionEvent, Options};
use super::shared::{Link, Shared, deadline_after, random_token};
use super::subject::{MAX_SUBJECT, valid_pattern, valid_subject};
use super::subscription::Subscription;
use super::subscriptions::Target;
use crossbeam_channel::{Receiver, Sender, bounded};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use std::{io, thread};

/// Held output goes out without being asked for when this much of it waits, in bytes.
const HELD: usize = 32 << 10;
/// The longest control line of a message, in bytes: two subjects and the sizes.
const CONTROL_LINE: usize = 2 * MAX_SUBJECT + 64;
/// How long dropping the last handle waits for the I/O thread.
const DROP_TIMEOUT: Duration = Duration::from_secs(1);

/// A connection to a NATS server that reconnects by itself. Clones share it; when the last one is dropped it is closed.
#[derive(Clone)]
pub struct Connection {
    shared: Arc<Shared>,
    owner: Arc<Owner>,
}

/// Closes the connection when the last handle goes.
struct Owner {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// Disconnected when the thread has ended.
    ended: Receiver<()>,
}

impl Connection {
    /// Starts connecting in the background and returns at once. It goes on for ever, from server to server, until
    /// [`Connection::close`]. Events are dropped when their channel is full. An error means that the system gave no
    /// thread or file descriptor.
    pub fn start(options: Options, events: Sender<ConnectionEvent>) -> io::Result<Connection> {
        let shared = Arc::new(Shared::new(options, events)?);
        let (alive, ended) = bounded(0);
        let for_thread = shared.clone();
        let thread = thread::Builder::new().name("nats-io".into()).spawn(move || {
            let _alive = alive;
            io_thread::run(&for_thread);
        })?;
        let owner = Arc::new(Owner { shared: shared.clone(), thread: Mutex::new(Some(thread)), ended });
        Ok(Connection { shared, owner })
    }

    pub fn is_connected(&self) -> bool {
        self.shared.connected.load(Ordering::Acquire)
    }

    /// How many connections were made so far, the current one included.
    pub fn generation(&self) -> u64 {
        self.shared.generation.load(Ordering::Acquire)
    }

    /// The largest message (header block and payload, in bytes) that the server accepts; 1 MiB before the first connection.
    pub fn max_payload(&self) -> usize {
        self.shared.max_payload.load(Ordering::Acquire)
    }

    /// The server in use, or the one used last, as `host:port`; empty before the first connection.
    pub fn server(&self) -> String {
        self.shared.wire().server.clone()
    }

    /// The server passes headers on, as all do that are not told otherwise.
    pub fn takes_headers(&self) -> bool {
        self.shared.headers.load(Ordering::Acquire)
    }

    /// Who we are on the server in use, or on the one used last, if we have a key there.
    pub fn identity(&self) -> Option<Arc<UserIdentity>> {
        self.shared.identity().clone()
    }

    /// Publishes a message, which goes out at once, or after a reconnect if there is no connection now. Never blocks. To a
    /// server that takes no headers the message goes without them.
    pub fn publish(
        &self,
        subject: &str,
        reply: Option<&str>,
        headers: &[(&str, &str)],
        payload: &[u8],
    ) -> Result<(), PublishError> {
        let headers = self.sendable(headers);
        self.shared.check(subject, reply, headers, payload)?;
        let mut wire = self.shared.append(subject, reply, headers, payload)?;
        self.shared.send(&mut wire);
        Ok(())
    }

    /// Publishes a message that goes out with the next [`Connection::flush`] or [`Connection::publish`], or when 32 KiB wait.
    pub fn publish_held(&self, subject: &str, headers: &[(&str, &str)], payload: &[u8]) -> Result<(), PublishError> {
        let headers = self.sendable(headers);
        self.shared.check(subject, None, headers, payload)?;
        let mut wire = self.shared.append(subject, None, headers, payload)?;
        if wire.output.len() >= HELD {
            self.shared.send(&mut wire);
        }
        Ok(())
    }

    fn sendable<'a>(&self, headers: &'a [(&'a str, &'a str)]) -> &'a [(&'a str, &'a str)] {
        if self.takes_headers() { headers } else { &[] }
    }

    /// Makes held output go out. Never blocks.
    pub fn flush(&self) {
        self.shared.send(&mut self.shared.wire());
    }

    /// Waits until a message of `bytes` (header block and payload) fits into the output buffer; false when it does not in
    /// time, or never will.
    pub fn wait_for_room(&self, bytes: usize, timeout: Duration) -> bool {
        let Some(max) = self.shared.options.max_pending.checked_sub(bytes.saturating_add(CONTROL_LINE)) else {
            return false;
        };
        self.shared.wait_until(deadline_after(timeout), |wire| match wire.closed {
            true => Some(false),
            false => (wire.output.len() <= max).then_some(true),
        })
    }

    /// Subscribes to a subject, which may have wildcards, as a member of a queue group or alone. Messages are handed to `to`
    /// without waiting: what it has no room for is given to its [`Inbox::refuse`], counted and reported. Works without a
    /// connection too, and lasts over reconnects.
    pub fn subscribe(
        &self,
        subject: &str,
        queue: Option<&str>,
        to: impl Inbox + 'static,
    ) -> Result<Subscription, PublishError> {
        if !valid_pattern(subject) {
            return Err(PublishError::BadSubject(subject.into()));
        }
        if let Some(queue) = queue.filter(|queue| !valid_subject(queue)) {
            return Err(PublishError::BadSubject(queue.into()));
        }
        let sid = self.shared.subscribe(subject, queue, Target::Inbox(Arc::new(to)))?;
        Ok(Subscription::new(self.shared.clone(), sid))
    }

    /// A subject that nobody else knows or can guess, for answers to us.
    pub fn new_inbox(&self) -> String {
        format!("{}.{}", self.shared.options.inbox_prefix, random_token::<22>())
    }

    /// Sends a request and waits for the first answer. All requests share one subscription.
    pub fn request(&self, subject: &str, payload: &[u8], timeout: Duration) -> Result<Box<Message>, RequestError> {
        self.request_with(subject, &[], payload, timeout)
    }

    /// Like [`Connection::request`], with headers.
    pub fn request_with(
        &self,
        subject: &str,
        headers: &[(&str, &str)],
        payload: &[u8],
        timeout: Duration,
    ) -> Result<Box<Message>, RequestError> {
        let deadline = deadline_after(timeout);
        let inbox = self.shared.request_inbox()?;
        let token = random_token::<11>();
        let (to, answer) = bounded(1);
        self.shared.requests().insert(token.clone(), to);
        let result = self
            .publish(subject, Some(&format!("{inbox}.{token}")), headers, payload)
            .map_err(RequestError::from)
            .and_then(|()| {
                answer.recv_deadline(deadline).map_err(|error| match error {
                    crossbeam_channel::RecvTimeoutError::Timeout => RequestError::TimedOut,
                    crossbeam_channel::RecvTimeoutError::Disconnected => RequestError::Closed,
                })
            });
        self.shared.requests().remove(&token);
        match result {
            Ok(message) if message.status() == Some(503) && message.payload.is_empty() => {
                Err(RequestError::NoResponders)
            }
            other => other,
        }
    }

    /// Asks the server for an answer: true means that everything published before has reached it. Without a connection it
    /// waits for one; when the connection breaks while it waits, what was under way may be lost, and it returns false.
    pub fn round_trip(&self, timeout: Duration) -> bool {
        self.shared.round_trip(timeout)
    }

    /// Waits until all that was published has left this process, so that its end does not take any of it away. False if that
    /// has not happened in time.
    pub fn written(&self, timeout: Duration) -> bool {
        self.shared.wait_until(deadline_after(timeout), |wire| {
            let waits = matches!(wire.link, Link::Down) || !wire.output.is_empty();
            (wire.closed || !waits).then_some(!waits)
        })
    }

    /// Waits until the server has everything that was published, then ends the connection; both together take `timeout` at
    /// most. Without a connection it does not wait for one. What is not sent by then is lost.
    pub fn close(&self, timeout: Duration) {
        let deadline = deadline_after(timeout);
        if self.is_connected() {
            self.round_trip(timeout);
        }
        // Ending the thread takes a moment even if the server took all the time there was.
        self.owner.stop(deadline.max(deadline_after(Duration::from_millis(100))));
    }
}

impl Owner {
    fn stop(&self, deadline: Instant) {
        self.shared.wire().closed = true;
        self.shared.closing.store(true, Ordering::Release);
        self.shared.waker.wake();
        // Nothing is ever sent: the channel ends with the thread.
        let _ = self.ended.recv_deadline(deadline);
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread.filter(JoinHandle::is_finished) {
            // A panic in it has been reported by the panic hook.
            let _ = thread.join();
        }
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.stop(deadline_after(DROP_TIMEOUT));
    }
}
