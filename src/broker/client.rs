//! One client's thread: reads its operations and does what they say.

use super::BrokerState;
use super::peer::{Peer, Sending, Stage, Subscription};
use super::router::{MAX_WORDS, has_wildcard};
use super::sockets::{self, Owner};
use crate::nats::codec::{self, ClientOp, DecodeError, Decoder, Delivery, Limits, Publication};
use crate::nats::handshake::{self, ConnectInfo, ServerInfo};
use crate::nats::subject::{is_literal, is_pattern, words};
use crate::nats::waker::{self, Interest};
use crate::sync::lock;
use crate::sys;
use std::io::{ErrorKind, Read};
use std::net::{Shutdown, SocketAddr};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};
use std::{fmt, io};

/// Longest control line, in bytes: nats-server's `max_control_line`, which counts what follows the verb, and the verb.
const MAX_LINE: usize = 4096 + "SUB ".len();
/// Longest CONNECT, in bytes.
const MAX_CONNECT: usize = 64 << 10;
/// This many unanswered PINGs mean that nobody is there: nats-server's `ping_max`, and the one that asks once more.
const MAX_UNANSWERED: u32 = 2;
/// How long a client that is cut off may take to read why.
const FAREWELL: Duration = Duration::from_millis(200);

/// So many subscriptions of a client that is gone are removed at once. Nobody is served meanwhile: for less than 1 ms even
/// when each has as many words as it may.
const REMOVED_AT_ONCE: usize = 32;
/// A client whose subscriptions took more than this many bytes leaves memory behind that is worth giving back.
const WORTH_RELEASING: usize = 1 << 20;
/// How much of a client's name the log shows, in characters.
const SHOWN_NAME: usize = 64;
/// What processes are told that may not come in.
const OTHER_USER: &str =
    "Authorization Violation: only processes of the user who runs this server, and of root, may connect";
const TOOL: &str = "Authorization Violation: programs that an agent has started may not connect";

/// Why a client is cut off.
enum End {
    Stopping,
    Left,
    /// Another one needed its place.
    Evicted,
    /// It said the wrong secret, or none.
    LoginFailed,
    Io(io::Error),
    Decode(DecodeError),
    /// The text of the -ERR that tells it.
    Refused(&'static str),
    SlowConsumer,
}

impl fmt::Display for End {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            End::Stopping => write!(out, "the broker stops"),
            End::Left => write!(out, "it left"),
            End::Evicted => write!(out, "it made room for another connection"),
            End::LoginFailed => write!(out, "{}", Self::VIOLATION),
            End::Io(error) => write!(out, "{error}"),
            End::Decode(error) => write!(out, "{error}"),
            End::Refused(text) => write!(out, "{text}"),
            End::SlowConsumer => write!(out, "it does not read what it is sent"),
        }
    }
}

impl End {
    const VIOLATION: &str = "Authorization Violation";

    /// What the client is told, in nats-server's words.
    fn last_words(&self) -> Option<&'static str> {
        match self {
            End::Refused(text) => Some(text),
            End::LoginFailed => Some(Self::VIOLATION),
            // The same as those are told who find no room.
            End::Evicted => Some("maximum connections exceeded"),
            End::Decode(DecodeError::MessageTooLarge { .. }) => Some("Maximum Payload Violation"),
            End::Decode(DecodeError::LineTooLong { .. }) => Some("maximum control line exceeded"),
            End::Decode(DecodeError::UnknownOperation(_) | DecodeError::MissingLineEnd) => {
                Some("Unknown Protocol Operation")
            }
            End::Decode(DecodeError::BadArguments(_)) => Some("Parser Error"),
            End::Stopping | End::Left | End::Io(_) | End::SlowConsumer => None,
        }
    }
}

/// Serves one client until it goes or is cut off.
pub(super) fn run(shared: &BrokerState, peer: &Arc<Peer>, address: SocketAddr) {
    log::debug!("broker: client {} connected from {address}", peer.id);
    let mut client = Client {
        shared,
        peer,
        connect: ConnectInfo::default(),
        authorized: !shared.info.auth_required,
        started: Instant::now(),
        address,
        is_unlimited: None,
        next_ping: Instant::now() + shared.options.ping_interval,
        unanswered: 0,
        full: false,
        touched: Vec::new(),
    };
    let limits = Limits { line: MAX_LINE, json_line: MAX_CONNECT, message: shared.options.max_payload };
    let mut decoder = Decoder::new(limits);
    let end = client.serve(&mut decoder);
    client.forget_subscriptions();
    log::debug!("broker: client {} is gone: {end}", peer.id);
    match &end {
        End::Refused(OTHER_USER | TOOL) | End::Stopping | End::Left | End::Evicted | End::Io(_) => {}
        End::LoginFailed => {
            shared.log.warn("logins failed", format_args!("from {address}"));
            client.wait_out(shared.options.login_delay);
        }
        End::Decode(_) | End::Refused(_) | End::SlowConsumer => {
            let name: String = client.connect.name.chars().take(SHOWN_NAME).collect();
            let details = format_args!("client {}, {name:?} from {address}: {end}", peer.id);
            shared.log.warn("a client was cut off", details);
        }
    }
    if let Some(text) = end.last_words() {
        peer.append(|bytes| codec::put_error(bytes, text));
        peer.send();
        client.part();
    }
    let _ = peer.socket.shutdown(Shutdown::Both);
}

struct Client<'a> {
    shared: &'a BrokerState,
    peer: &'a Arc<Peer>,
    connect: ConnectInfo,
    authorized: bool,
    address: SocketAddr,
    /// It has no limits, once somebody has looked.
    is_unlimited: Option<bool>,
    started: Instant,
    next_ping: Instant,
    unanswered: u32,
    /// The socket did not take all that waits.
    full: bool,
    /// Who was sent something by the operations being handled, and gets it written when these are done.
    touched: Vec<Arc<Peer>>,
}

impl Client<'_> {
    fn serve(&mut self, decoder: &mut Decoder) -> End {
        let client_ip = self.address.ip().to_string();
        let info = ServerInfo { client_id: self.peer.id, client_ip, ..self.shared.info.clone() };
        match serde_json::to_vec(&info) {
            Ok(json) => self.peer.append(|bytes| codec::put_info(bytes, &json)),
            Err(error) => return End::Io(error.into()),
        }
        self.peer.send();
        if let Err(end) = self.check_owner() {
            return end;
        }
        loop {
            if let Err(end) = self.step(decoder) {
                return end;
            }
        }
    }

    /// Who the process at the other end is, where that decides.
    fn check_owner(&self) -> Result<(), End> {
        if !self.shared.same_user_only {
            return Ok(());
        }
        let owner = self.peer.owner.get().copied().flatten();
        let Some(owner) = owner.filter(Owner::is_same_user) else {
            let user =
                owner.map_or("of a process that was gone already".into(), |owner| format!("of user {}", owner.uid));
            self.shared.log.warn(
                "connections of other users were refused; set user and password, or a token, if they are to come in",
                format_args!("one {user}, from {}", self.address),
            );
            return Err(End::Refused(OTHER_USER));
        };
        // One after the other: a burst of connections must leave a processor to those that are served.
        let _one_at_a_time = lock(&self.shared.checking);
        // A program that is being started holds this process's own sockets for a moment, which says nothing.
        if (self.shared.options.is_held_by_tool)(owner.inode) && !owner.is_this_process() {
            self.peer.standing().stage = Stage::Refused;
            self.shared
                .log
                .warn("programs that an agent has started were refused", format_args!("from {}", self.address));
            return Err(End::Refused(TOOL));
        }
        Ok(())
    }

    fn step(&mut self, decoder: &mut Decoder) -> Result<(), End> {
        let interest = Interest::read_socket(self.peer.socket.as_fd());
        let interest = if self.full { interest.or_write() } else { interest };
        let ready = waker::wait(&self.peer.waker, Some(interest), self.timeout()).map_err(End::Io)?;
        if self.shared.stopping.load(Ordering::Acquire) {
            return Err(End::Stopping);
        }
        if self.peer.is_evicted() {
            return Err(End::Evicted);
        }
        self.tick(decoder)?;
        if self.full || ready.woken {
            self.full = match self.peer.resume() {
                Sending::Done => false,
                Sending::Full(time) if time < self.shared.options.write_timeout => true,
                Sending::Full(_) | Sending::Overrun => return Err(End::SlowConsumer),
            };
        }
        if ready.readable {
            self.peer.standing().heard = Instant::now();
            self.read(decoder)?;
        }
        Ok(())
    }

    fn timeout(&self) -> Duration {
        let mut timeout = self.next_ping.saturating_duration_since(Instant::now());
        if !self.authorized {
            timeout = timeout.min(self.shared.options.auth_timeout.saturating_sub(self.started.elapsed()));
        }
        if self.full {
            timeout = timeout.min(self.shared.options.write_timeout);
        }
        timeout
    }

    /// Does what is due by the clock.
    fn tick(&mut self, decoder: &mut Decoder) -> Result<(), End> {
        if !self.authorized && self.started.elapsed() >= self.shared.options.auth_timeout {
            return Err(End::Refused("Authentication Timeout"));
        }
        if Instant::now() >= self.next_ping {
            if self.unanswered > MAX_UNANSWERED {
                return Err(End::Refused("Stale Connection"));
            }
            self.unanswered += 1;
            self.next_ping = Instant::now() + self.shared.options.ping_interval;
            decoder.shrink();
            self.peer.append(|bytes| bytes.extend_from_slice(codec::PING));
            self.peer.send();
        }
        Ok(())
    }

    fn read(&mut self, decoder: &mut Decoder) -> Result<(), End> {
        match (&self.peer.socket).read(decoder.space()) {
            Ok(0) => return Err(End::Left),
            Ok(count) => decoder.filled(count),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => return Ok(()),
            Err(error) => return Err(End::Io(error)),
        }
        let result = self.handle_all(decoder);
        // One write for each receiver, however many messages it got; also for those from before a mistake.
        for peer in self.touched.drain(..) {
            peer.send();
        }
        result
    }

    fn handle_all(&mut self, decoder: &mut Decoder) -> Result<(), End> {
        while let Some(operation) = decoder.next_client_op().map_err(End::Decode)? {
            self.handle(&operation)?;
        }
        Ok(())
    }

    fn handle(&mut self, operation: &ClientOp<'_>) -> Result<(), End> {
        if !self.authorized && !matches!(operation, ClientOp::Connect(_)) {
            return Err(End::LoginFailed);
        }
        match operation {
            ClientOp::Connect(json) => self.connect(json)?,
            ClientOp::Publish(publication) => return self.publish(publication),
            ClientOp::Subscribe { subject, queue, sid } => return self.subscribe(subject, *queue, sid),
            ClientOp::Unsubscribe { sid, max } => self.unsubscribe(sid, *max),
            ClientOp::Ping => {
                self.answer(codec::PONG);
                return Ok(());
            }
            ClientOp::Pong => {
                self.unanswered = 0;
                return Ok(());
            }
        }
        self.ok();
        Ok(())
    }

    fn connect(&mut self, json: &[u8]) -> Result<(), End> {
        let connect: ConnectInfo =
            handshake::read(json).map_err(|_| End::Decode(DecodeError::BadArguments("CONNECT".into())))?;
        if !self.shared.options.auth.accepts(&connect.credentials) {
            return Err(End::LoginFailed);
        }
        if connect.protocol > 1 {
            return Err(End::Refused("invalid client protocol"));
        }
        if connect.no_responders && !connect.headers {
            return Err(End::Refused("no responders requires headers support"));
        }
        self.authorized = true;
        self.peer.standing().stage = Stage::Connected;
        self.peer.headers.store(connect.headers, Ordering::Release);
        self.connect = connect;
        Ok(())
    }

    fn subscribe(&mut self, subject: &[u8], queue: Option<&[u8]>, sid: &[u8]) -> Result<(), End> {
        if !is_pattern(subject) {
            self.append(self.peer, |bytes| codec::put_error(bytes, "Invalid Subject"));
            return Ok(());
        }
        if has_wildcard(subject) && words(subject).count() > MAX_WORDS {
            let subject = String::from_utf8_lossy(subject);
            let text = format!("Permissions Violation for Subscription to \"{subject}\", too many tokens");
            self.append(self.peer, |bytes| codec::put_error(bytes, &text));
            return Ok(());
        }
        let subscription = Arc::new(Subscription::new(self.peer.clone(), subject, queue, sid));
        if !self.has_room_for(&subscription) && !self.is_unlimited() {
            return Err(End::Refused("maximum subscriptions exceeded"));
        }
        let mut subscriptions = self.peer.subscriptions();
        if !subscriptions.contains_key(sid) {
            self.peer.subscription_bytes.fetch_add(subscription.size(), Ordering::AcqRel);
            self.shared.subscription_bytes.fetch_add(subscription.size(), Ordering::AcqRel);
            subscriptions.insert(sid.into(), subscription.clone());
            self.shared.router.write().unwrap_or_else(PoisonError::into_inner).add(subscription);
        }
        drop(subscriptions);
        self.ok();
        Ok(())
    }

    /// Whether a client, and all of them together, may have one more subscription.
    fn has_room_for(&self, subscription: &Subscription) -> bool {
        let options = &self.shared.options;
        let with = |bytes: &AtomicUsize| bytes.load(Ordering::Acquire) + subscription.size();
        self.peer.subscriptions().len() < options.max_subscriptions
            && with(&self.peer.subscription_bytes) <= options.max_subscription_bytes
            && with(&self.shared.subscription_bytes) <= options.max_all_subscription_bytes
    }

    fn is_unlimited(&mut self) -> bool {
        *self.is_unlimited.get_or_insert_with(|| {
            let local = self.peer.socket.local_addr().ok();
            let looked_up = || local.and_then(|local| sockets::owner(self.address, local));
            self.peer.owner.get_or_init(looked_up).is_some_and(|owner| (self.shared.options.is_unlimited)(&owner))
        })
    }

    fn unsubscribe(&mut self, sid: &[u8], max: Option<u64>) {
        let subscription = self.peer.subscriptions().get(sid).cloned();
        let Some(subscription) = subscription else { return };
        if max.filter(|max| *max > 0).is_none_or(|max| subscription.end_after(max)) {
            self.shared.end(&subscription);
        }
    }

    fn publish(&mut self, publication: &Publication<'_>) -> Result<(), End> {
        if publication.headers.is_some() && !self.connect.headers {
            return Err(End::Refused("message headers not supported"));
        }
        if self.connect.pedantic && !is_literal(publication.subject) {
            self.append(self.peer, |bytes| codec::put_error(bytes, "Invalid Publish Subject"));
        }
        self.ok();
        let delivered = self.deliver(publication);
        if let (false, true, Some(reply)) = (delivered, self.connect.no_responders, publication.reply) {
            self.no_responders(publication.subject, reply);
        }
        Ok(())
    }

    /// Hands a message to its receivers; false when there are none.
    fn deliver(&mut self, publication: &Publication<'_>) -> bool {
        let Publication { subject, reply, headers, payload } = *publication;
        let (echo, own) = (self.connect.echo, self.peer.id);
        let targets = self.shared.targets(subject, |other| echo || other.peer.id != own);
        if headers.is_some_and(is_trace_only) {
            return !targets.is_empty();
        }
        let mut delivered = false;
        for subscription in targets {
            let (due, last) = subscription.count();
            if due {
                delivered = true;
                let peer = &subscription.peer;
                // An empty block is none, and who does not know headers gets the payload alone.
                let headers = headers.filter(|block| !block.is_empty() && peer.headers.load(Ordering::Acquire));
                let message = Delivery { subject, sid: &subscription.sid, reply, headers, payload };
                self.append(peer, |bytes| codec::put_msg(bytes, &message));
            }
            if last {
                self.shared.end(&subscription);
            }
        }
        delivered
    }

    /// Tells the client on the subscription that waits for the reply, if it has one, that there will be none.
    fn no_responders(&mut self, subject: &[u8], reply: &[u8]) {
        let own = self.peer.id;
        let targets =
            self.shared.targets(reply, |subscription| subscription.peer.id == own && subscription.queue.is_none());
        let Some(subscription) = targets.first() else { return };
        let block = [&b"NATS/1.0 503\r\nNats-Subject: "[..], subject, b"\r\n\r\n"].concat();
        let message =
            Delivery { subject: reply, sid: &subscription.sid, reply: None, headers: Some(&block), payload: b"" };
        self.append(self.peer, |bytes| codec::put_msg(bytes, &message));
    }

    fn ok(&mut self) {
        if self.connect.verbose {
            self.answer(codec::OK);
        }
    }

    fn answer(&mut self, text: &[u8]) {
        self.append(self.peer, |bytes| bytes.extend_from_slice(text));
    }

    fn append(&mut self, peer: &Arc<Peer>, write: impl FnOnce(&mut Vec<u8>)) {
        peer.append(write);
        // Most often it is the one that was last.
        if !self.touched.iter().rev().any(|other| Arc::ptr_eq(other, peer)) {
            self.touched.push(peer.clone());
        }
    }

    /// Removes all subscriptions, by and by: others are served in between.
    fn forget_subscriptions(&self) {
        let subscriptions: Vec<_> = std::mem::take(&mut *self.peer.subscriptions()).into_values().collect();
        for some in subscriptions.chunks(REMOVED_AT_ONCE) {
            let mut router = self.shared.router.write().unwrap_or_else(PoisonError::into_inner);
            some.iter().for_each(|subscription| router.remove(subscription));
            drop(router);
            std::thread::yield_now();
        }
        let bytes = self.peer.subscription_bytes.swap(0, Ordering::AcqRel);
        self.shared.subscription_bytes.fetch_sub(bytes, Ordering::AcqRel);
        drop(subscriptions);
        if bytes >= WORTH_RELEASING {
            sys::release_free_memory();
        }
    }

    /// Lets time pass, whatever the client says or does, unless its place is needed.
    fn wait_out(&self, time: Duration) {
        self.peer.standing().stage = Stage::Refused;
        let end = Instant::now() + time;
        while !self.peer.is_evicted() && !self.shared.stopping.load(Ordering::Acquire) {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() || waker::wait(&self.peer.waker, None, left).is_err() {
                return;
            }
        }
    }

    /// Closes our direction and reads until the client has closed its own: closing at once would make the kernel throw away
    /// the words that say why.
    fn part(&self) {
        let _ = self.peer.socket.shutdown(Shutdown::Write);
        let end = Instant::now() + FAREWELL;
        let mut ignored = [0; 4096];
        loop {
            match (&self.peer.socket).read(&mut ignored) {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    let interest = Interest::read_socket(self.peer.socket.as_fd());
                    let left = end.saturating_duration_since(Instant::now());
                    let _ = waker::wait(&self.peer.waker, Some(interest), left);
                }
                Err(_) => return,
            }
            if Instant::now() >= end || self.peer.is_evicted() || self.shared.stopping.load(Ordering::Acquire) {
                return;
            }
        }
    }
}

/// The message itself is for nobody: its sender wants to know where it would go. We do not say that, but do not deliver it
/// either.
fn is_trace_only(block: &[u8]) -> bool {
    let value = |name: &[u8]| {
        let mut lines = block.split(|byte| *byte == b'\n');
        lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(b":")).map(<[u8]>::trim_ascii)
    };
    let is_on = |value: &[u8]| [&b"1"[..], b"true", b"on"].iter().any(|on| on.eq_ignore_ascii_case(value));
    value(b"Nats-Trace-Only").is_some_and(is_on) && value(b"Nats-Trace-Dest").is_some_and(is_literal)
}

impl BrokerState {
    fn targets(&self, subject: &[u8], wanted: impl Fn(&Subscription) -> bool) -> Vec<Arc<Subscription>> {
        self.router.read().unwrap_or_else(PoisonError::into_inner).targets(subject, wanted)
    }

    /// Ends a subscription, on whichever thread its end was noticed.
    fn end(&self, subscription: &Arc<Subscription>) {
        let mut subscriptions = subscription.peer.subscriptions();
        // The client may have used its id for another one meanwhile.
        if subscriptions.get(&subscription.sid).is_some_and(|other| Arc::ptr_eq(other, subscription)) {
            subscriptions.remove(&subscription.sid);
            subscription.peer.subscription_bytes.fetch_sub(subscription.size(), Ordering::AcqRel);
            self.subscription_bytes.fetch_sub(subscription.size(), Ordering::AcqRel);
        }
        drop(subscriptions);
        self.router.write().unwrap_or_else(PoisonError::into_inner).remove(subscription);
    }
}
