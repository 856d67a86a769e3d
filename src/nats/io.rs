//! The thread `nats-io`: the only reader of the socket, and its writer whenever writing takes longer than one call.
//!
//! It connects, hands what it reads to the subscribers without waiting for any of them, keeps the connection alive, and
//! starts over when the connection ends.

use super::address::ServerAddress;
use super::codec::{DecodeError, Decoder, MAX_MESSAGE, ServerOp};
use super::connect::{self, ConnectError, Established};
use super::handshake::{self, ServerInfo};
use super::options::ConnectionEvent;
use super::pool::Pool;
use super::shared::{Link, Pong, Shared, deadline_after};
use super::subscriptions::Delivered;
use super::transport::Transport;
use super::waker::{self, Interest};
use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use std::{fmt, io};

/// This many unanswered PINGs mean that nobody is there any more.
const MAX_UNANSWERED: u32 = 2;
/// The most that is sent in one go, in bytes, before the lock is given to publishers again.
const SEND_SLICE: usize = 256 << 10;
/// How long leaving a server that is about to stop may take.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(2);
/// What a server may send above its own `max_payload`, in bytes: headers that it adds on the way.
const EXTRA_HEADERS: usize = 64 << 10;

/// Runs until the connection object is closed.
pub(super) fn run(shared: &Shared) {
    let _end = AtEnd(shared);
    let mut pool = Pool::new(shared.options.servers.clone());
    while !shared.is_closing() {
        let Some((server, wait)) = pool.next_attempt(fastrand::f64()) else {
            shared.emit(ConnectionEvent::ConnectFailed { server: String::new(), error: "no server configured".into() });
            return;
        };
        if sleep(shared, wait) {
            return;
        }
        match connect::connect(&server, shared) {
            Ok(established) => {
                let started = Instant::now();
                let mut session = ServerSession::begin(shared, &mut pool, server, established);
                let end = session.run();
                session.transport.finish();
                shared.link_down();
                let leaving = session.leaving.is_some();
                pool.disconnected(started.elapsed(), leaving);
                if !matches!(end, End::Closing) {
                    shared.emit(ConnectionEvent::Disconnected { reason: end.to_string() });
                }
            }
            Err(ConnectError::Closing) => return,
            Err(error) => {
                shared.emit(ConnectionEvent::ConnectFailed { server: server.to_string(), error: error.to_string() });
            }
        }
    }
}

/// Tells everybody that the thread is gone, however it went.
struct AtEnd<'a>(&'a Shared);

impl Drop for AtEnd<'_> {
    fn drop(&mut self) {
        self.0.link_down();
        self.0.ended();
    }
}

/// True when the connection object was closed meanwhile.
fn sleep(shared: &Shared, time: Duration) -> bool {
    let end = Instant::now() + time;
    while !shared.is_closing() {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() || waker::wait(&shared.waker, None, left).is_err() {
            return false;
        }
    }
    true
}

/// Why a session ended.
enum End {
    Closing,
    Io(io::Error),
    /// The server closed the connection; with what it said before, if it did.
    ByServer(Option<String>),
    Decode(DecodeError),
    BadInfo(serde_json::Error),
    Stale,
    Overrun,
    Left,
}

impl fmt::Display for End {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            End::Closing => write!(out, "closed"),
            End::Io(error) => write!(out, "{error}"),
            End::ByServer(None) => write!(out, "the server closed the connection"),
            End::ByServer(Some(error)) => write!(out, "the server closed the connection: {error}"),
            End::Decode(error) => write!(out, "malformed data from the server: {error}"),
            End::BadInfo(error) => write!(out, "malformed INFO from the server: {error}"),
            End::Stale => write!(out, "the server did not answer {MAX_UNANSWERED} PINGs"),
            End::Overrun => write!(out, "the server does not read what we send"),
            End::Left => write!(out, "left a server that is about to stop"),
        }
    }
}

/// One established connection.
struct ServerSession<'a> {
    shared: &'a Shared,
    pool: &'a mut Pool,
    server: ServerAddress,
    transport: Transport,
    decoder: Decoder,
    next_ping: Instant,
    unanswered: u32,
    /// The socket took less than there was; poll(2) tells when it takes more.
    blocked: bool,
    last_error: Option<String>,
    leaving: Option<Leaving>,
}

/// A server said that it is about to stop, and we know another one. Everything written so far is sent, our direction is
/// closed, and what the server still has to say is read: nothing is lost on the way out.
struct Leaving {
    until: Instant,
    finished: bool,
}

impl<'a> ServerSession<'a> {
    fn begin(
        shared: &'a Shared,
        pool: &'a mut Pool,
        server: ServerAddress,
        established: Established,
    ) -> ServerSession<'a> {
        let Established { transport, decoder, info, identity } = established;
        let link = match &transport {
            Transport::Plain(socket) => Link::Direct { socket: socket.clone(), full: false },
            Transport::Tls(_) => Link::ThroughIo,
        };
        let mut session = ServerSession {
            shared,
            pool,
            server,
            transport,
            decoder,
            next_ping: deadline_after(shared.options.ping_interval),
            unanswered: 0,
            blocked: false,
            last_error: None,
            leaving: None,
        };
        // Before the first message is let out: it is checked against what this server accepts.
        session.apply(info);
        *shared.identity() = identity.map(Arc::new);
        let name = session.server.to_string();
        let generation = shared.link_up(link, name.clone());
        shared.emit(ConnectionEvent::Connected { server: name, generation });
        session
    }

    fn run(&mut self) -> End {
        // The handshake may have read more than its own part.
        let mut result = self.handle_buffered().and_then(|()| self.send());
        loop {
            if let Err(end) = result {
                return end;
            }
            result = self.step();
        }
    }

    fn step(&mut self) -> Result<(), End> {
        let interest = Interest::read(&self.transport);
        let interest = if self.blocked { interest.or_write() } else { interest };
        let timeout = if self.transport.has_buffered() { Duration::ZERO } else { self.timeout() };
        let ready = waker::wait(&self.shared.waker, Some(interest), timeout).map_err(End::Io)?;
        if self.shared.is_closing() {
            // What waits goes out if the socket takes it; closing in good order was done by the one who closes.
            return self.send().and(Err(End::Closing));
        }
        self.tick()?;
        if ready.woken || ready.writable {
            self.send()?;
        }
        if ready.readable || self.transport.has_buffered() {
            self.read()?;
        }
        Ok(())
    }

    fn timeout(&self) -> Duration {
        let mut next = self.next_ping;
        if let Some(leaving) = &self.leaving {
            next = next.min(leaving.until);
        }
        let timeout = next.saturating_duration_since(Instant::now());
        match self.shared.subscriptions().next_report() {
            Some(report) => timeout.min(report),
            None => timeout,
        }
    }

    /// Does what is due by the clock.
    fn tick(&mut self) -> Result<(), End> {
        let now = Instant::now();
        for report in self.shared.subscriptions().overdue_reports(now) {
            self.shared.emit(report);
        }
        if self.leaving.as_ref().is_some_and(|leaving| now >= leaving.until) {
            return Err(End::Left);
        }
        if now >= self.next_ping {
            if self.unanswered >= MAX_UNANSWERED {
                return Err(End::Stale);
            }
            self.unanswered += 1;
            self.next_ping = deadline_after(self.shared.options.ping_interval);
            self.shared.keep_alive();
            self.decoder.shrink();
        }
        Ok(())
    }

    /// Sends what waits, as far as the socket takes it.
    fn send(&mut self) -> Result<(), End> {
        let mut wire = self.shared.wire();
        if wire.overrun {
            return Err(End::Overrun);
        }
        let mut left = SEND_SLICE;
        let mut blocked = false;
        let mut failed = None;
        while !matches!(wire.link, Link::Down) && !wire.output.is_empty() && !blocked && failed.is_none() {
            let bytes = wire.output.unsent();
            match self.transport.write(&bytes[..bytes.len().min(left)]) {
                Ok(count) => {
                    wire.output.consume(count);
                    left -= count;
                    // The rest goes out when poll(2) says that the socket takes more, which may be at once.
                    blocked = left == 0;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => blocked = true,
                Err(error) => failed = Some(error),
            }
        }
        self.blocked = blocked && !wire.output.is_empty();
        if let Link::Direct { full, .. } = &mut wire.link {
            *full = self.blocked;
        }
        if wire.output.is_empty()
            && let Some(leaving) = self.leaving.as_mut().filter(|leaving| !leaving.finished)
        {
            leaving.finished = true;
            wire.link = Link::Down;
            self.transport.finish();
        }
        self.shared.tell_waiting(&wire);
        drop(wire);
        match failed.map_or_else(|| self.transport.flush(), Err) {
            Ok(()) => Ok(()),
            Err(error) => Err(self.explain(error)),
        }
    }

    /// Why writing failed: what the server said before it closed the connection tells more than the error.
    fn explain(&mut self, error: io::Error) -> End {
        // What it said is in the kernel's buffer already, so few reads suffice; none of them waits.
        for _ in 0..8 {
            if let Err(end) = self.read() {
                return end;
            }
        }
        End::Io(error)
    }

    fn read(&mut self) -> Result<(), End> {
        match self.transport.read(self.decoder.space()) {
            Ok(0) if self.leaving.is_some() => Err(End::Left),
            Ok(0) => Err(End::ByServer(self.last_error.take())),
            Ok(count) => {
                self.decoder.filled(count);
                self.handle_buffered()
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(()),
            // A server that closes in anger has said why before.
            Err(error) if error.kind() == ErrorKind::ConnectionReset && self.last_error.is_some() => {
                Err(End::ByServer(self.last_error.take()))
            }
            Err(error) => Err(End::Io(error)),
        }
    }

    fn handle_buffered(&mut self) -> Result<(), End> {
        let mut new_info = None;
        while let Some(operation) = self.decoder.next_server_op().map_err(End::Decode)? {
            match operation {
                ServerOp::Message(delivery) => {
                    let delivered = self.shared.subscriptions().deliver(&delivery, Instant::now);
                    match delivered {
                        Delivered::Done => {}
                        Delivered::ForRequest(message) => self.shared.answer_request(message),
                        Delivered::Refused(inbox, message, report) => {
                            inbox.refuse(&message);
                            report.into_iter().for_each(|event| self.shared.emit(event));
                        }
                    }
                }
                ServerOp::Ping => self.shared.answer_ping(),
                ServerOp::Pong => {
                    let asked = self.shared.wire().pongs.pop_front();
                    match asked {
                        Some(Pong::Subscribed) => self.shared.emit(ConnectionEvent::Subscribed),
                        Some(Pong::RoundTrip(to)) => drop(to.try_send(())),
                        Some(Pong::KeepAlive) | None => {}
                    }
                    self.unanswered = 0;
                }
                ServerOp::Ok => {}
                ServerOp::Error(text) => {
                    let text = String::from_utf8_lossy(text).into_owned();
                    self.last_error = Some(text.clone());
                    self.shared.emit(ConnectionEvent::ServerError(text));
                }
                ServerOp::Info(json) => {
                    new_info = Some(handshake::read::<ServerInfo>(json).map_err(End::BadInfo)?);
                }
            }
        }
        if let Some(info) = new_info {
            let lame_duck = info.ldm;
            self.apply(info);
            if lame_duck {
                self.leave()?;
            }
        }
        Ok(())
    }

    /// Takes over what the server says about itself.
    fn apply(&mut self, info: ServerInfo) {
        let max = self.shared.set_max_payload(info.max_payload);
        self.shared.headers.store(info.headers, Ordering::Release);
        self.decoder.limits.message = (max + EXTRA_HEADERS).min(MAX_MESSAGE);
        if let Some(urls) = &info.connect_urls {
            self.pool.discovered(&self.server, urls);
        }
    }

    fn leave(&mut self) -> Result<(), End> {
        if self.leaving.is_some() {
            return Ok(());
        }
        self.shared.emit(ConnectionEvent::LameDuck);
        if self.pool.len() > 1 {
            self.leaving = Some(Leaving { until: Instant::now() + LEAVE_TIMEOUT, finished: false });
            self.send()?;
        }
        Ok(())
    }
}
