//! From an address to a connection that the server has accepted, within one deadline.

use super::address::ServerAddress;
use super::auth::{self, AuthError};
use super::codec::{self, DecodeError, Decoder, Limits, ServerOp};
use super::handshake::{self, ConnectInfo, ServerInfo};
use super::identity::{Known, UserIdentity, WHO_AM_I};
use super::options::Options;
use super::shared::{Shared, deadline_after, random_token};
use super::tls::{self, TlsError};
use super::transport::Transport;
use super::waker::{self, Interest};
use crossbeam_channel::{TryRecvError, bounded};
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{fmt, io, thread};

/// How long the server may take to say who we are.
const IDENTITY_TIMEOUT: Duration = Duration::from_secs(2);
/// The subscription for that answer; all others have larger numbers.
const IDENTITY_SID: u64 = 0;

/// A connection that is ready for use.
pub(super) struct Established {
    pub(super) transport: Transport,
    /// May hold bytes that came behind the server's answer.
    pub(super) decoder: Decoder,
    pub(super) info: ServerInfo,
    /// Who we are on this server, if we have a key there.
    pub(super) identity: Option<UserIdentity>,
}

/// Why there is no connection.
#[derive(Debug)]
pub(super) enum ConnectError {
    /// The connection object is being closed.
    Closing,
    TimedOut(Step),
    Io(Step, io::Error),
    NoAddress,
    /// The server's own words.
    Refused(String),
    Decode(DecodeError),
    /// Something else than what belongs there.
    Unexpected(&'static str),
    BadInfo(serde_json::Error),
    TlsNotOffered,
    Tls(TlsError),
    Auth(AuthError),
}

/// What was being done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Resolve,
    Tcp,
    Info,
    Tls,
    Accept,
}

impl fmt::Display for Step {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Step::Resolve => "resolving the host name",
            Step::Tcp => "connecting",
            Step::Info => "waiting for the server's INFO",
            Step::Tls => "TLS handshake",
            Step::Accept => "waiting for the server to accept us",
        })
    }
}

impl fmt::Display for ConnectError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConnectError::Closing => write!(out, "closing"),
            ConnectError::TimedOut(Step::Info) => write!(out, "{}: timed out; is that a NATS server?", Step::Info),
            ConnectError::TimedOut(step) => write!(out, "{step}: timed out"),
            ConnectError::Io(step, error) => write!(out, "{step}: {error}"),
            ConnectError::NoAddress => write!(out, "the host name has no address"),
            ConnectError::Refused(text) => write!(out, "the server refused us: {text}"),
            ConnectError::Decode(error) => write!(out, "that is no NATS server, it does not speak NATS: {error}"),
            ConnectError::Unexpected(what) => write!(out, "{what}"),
            ConnectError::BadInfo(error) => write!(out, "the server's INFO is malformed: {error}"),
            ConnectError::TlsNotOffered => write!(out, "TLS is required, and the server does not offer it"),
            ConnectError::Tls(error) => write!(out, "{error}"),
            ConnectError::Auth(error) => write!(out, "credentials: {error}"),
        }
    }
}

impl From<DecodeError> for ConnectError {
    fn from(error: DecodeError) -> ConnectError {
        ConnectError::Decode(error)
    }
}

/// One attempt.
pub(super) fn connect(address: &ServerAddress, shared: &Shared) -> Result<Established, ConnectError> {
    let options = &shared.options;
    let attempt = Attempt { shared, deadline: deadline_after(options.connect_timeout) };
    let socket = attempt.tcp(&attempt.resolve(address)?)?;
    let want_tls = address.tls || options.tls.is_required();
    let mut transport =
        if options.tls.first { attempt.tls(socket, address, options)? } else { Transport::Plain(Arc::new(socket)) };
    let mut decoder = Decoder::new(Limits::default());
    let mut info = attempt.first_info(&mut transport, &mut decoder)?;
    attempt.check_server(&transport)?;
    if !options.tls.first && (want_tls || info.tls_required) {
        if !info.tls_required && !info.tls_available {
            return Err(ConnectError::TlsNotOffered);
        }
        // Bytes from before the handshake must not be taken for what the authenticated server said.
        if decoder.buffered() > 0 {
            return Err(ConnectError::Unexpected("the server sent data before the TLS handshake"));
        }
        let Transport::Plain(socket) = transport else { return Err(ConnectError::Unexpected("TLS within TLS")) };
        let socket = Arc::into_inner(socket).ok_or(ConnectError::Unexpected("the socket is in use already"))?;
        transport = attempt.tls(socket, address, options)?;
    }
    let auth = options.current_auth.as_ref().and_then(|read| read());
    let auth = address.auth(auth.as_ref().unwrap_or(&options.auth));
    let (credentials, known) =
        auth::credentials(auth, options.read_file, info.nonce.as_deref()).map_err(ConnectError::Auth)?;
    let connect = ConnectInfo {
        verbose: false,
        pedantic: false,
        tls_required: matches!(transport, Transport::Tls(_)),
        name: options.name.clone(),
        lang: "rust".into(),
        version: env!("CARGO_PKG_VERSION").into(),
        protocol: 1,
        echo: true,
        // "No responders" is told in a header.
        headers: info.headers,
        no_responders: info.headers,
        credentials,
    };
    let mut bytes = Vec::new();
    codec::put_connect(&mut bytes, &serde_json::to_vec(&connect).map_err(ConnectError::BadInfo)?);
    bytes.extend_from_slice(codec::PING);
    attempt.write_all(&mut transport, &bytes)?;
    attempt.accepted(&mut transport, &mut decoder, &mut info)?;
    let identity = attempt.identity(known, &mut transport, &mut decoder, &mut info)?;
    Ok(Established { transport, decoder, info, identity })
}

struct Attempt<'a> {
    shared: &'a Shared,
    deadline: Instant,
}

impl Attempt<'_> {
    /// Waits for the socket or a wake-up. Every way out of time or out of the connection's life ends here.
    fn wait(&self, step: Step, deadline: Instant, interest: Option<Interest<'_>>) -> Result<(), ConnectError> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ConnectError::TimedOut(step));
        }
        waker::wait(&self.shared.waker, interest, left).map_err(|error| ConnectError::Io(step, error))?;
        if self.shared.is_closing() { Err(ConnectError::Closing) } else { Ok(()) }
    }

    /// The addresses of a host. The system's resolver can neither be given a deadline nor be cancelled, so it has a thread
    /// of its own, which is left behind when it takes too long and ends with the resolver's own timeout.
    fn resolve(&self, address: &ServerAddress) -> Result<Vec<SocketAddr>, ConnectError> {
        if let Ok(ip) = address.host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(ip, address.port)]);
        }
        let (to, answer) = bounded(1);
        let waker = self.shared.waker.clone();
        let (host, port) = (address.host.clone(), address.port);
        let resolve = move || {
            let _ = to.try_send((host.as_str(), port).to_socket_addrs().map(Vec::from_iter));
            waker.wake();
        };
        thread::Builder::new()
            .name("nats-dns".into())
            .spawn(resolve)
            .map_err(|error| ConnectError::Io(Step::Resolve, error))?;
        loop {
            match answer.try_recv() {
                Ok(Ok(list)) if list.is_empty() => return Err(ConnectError::NoAddress),
                Ok(result) => return result.map_err(|error| ConnectError::Io(Step::Resolve, error)),
                Err(TryRecvError::Empty) => self.wait(Step::Resolve, self.deadline, None)?,
                Err(TryRecvError::Disconnected) => return Err(ConnectError::NoAddress),
            }
        }
    }

    /// Connects to the first address that answers; each gets its share of the time that is left.
    fn tcp(&self, addresses: &[SocketAddr]) -> Result<TcpStream, ConnectError> {
        let mut result = Err(ConnectError::NoAddress);
        for (index, address) in addresses.iter().enumerate() {
            let left = self.deadline.saturating_duration_since(Instant::now());
            let share = left / u32::try_from(addresses.len() - index).unwrap_or(u32::MAX);
            result = self.tcp_one(address, Instant::now() + share);
            if matches!(result, Ok(_) | Err(ConnectError::Closing)) {
                break;
            }
        }
        result
    }

    fn tcp_one(&self, address: &SocketAddr, deadline: Instant) -> Result<TcpStream, ConnectError> {
        let failed = |error: rustix::io::Errno| ConnectError::Io(Step::Tcp, error.into());
        let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None).map_err(failed)?;
        // Small messages must not wait for each other: a chunk of an answer is worth most at once.
        sockopt::set_tcp_nodelay(&socket, true).map_err(failed)?;
        match rustix::net::connect(&socket, address) {
            Ok(()) => return Ok(TcpStream::from(socket)),
            Err(rustix::io::Errno::INPROGRESS) => {}
            Err(error) => return Err(failed(error)),
        }
        loop {
            self.wait(Step::Tcp, deadline, Some(Interest::write(socket.as_fd())))?;
            sockopt::socket_error(&socket).map_err(failed)?.map_err(failed)?;
            // A wake-up is no sign that it is connected; having a peer is.
            if rustix::net::getpeername(&socket).is_ok() {
                return Ok(TcpStream::from(socket));
            }
        }
    }

    /// Done once the server has spoken: before, nobody holds its end of the connection yet.
    fn check_server(&self, transport: &Transport) -> Result<(), ConnectError> {
        let socket = transport.socket();
        let own = rustix::net::getsockname(socket).ok().and_then(|end| SocketAddr::try_from(end).ok());
        let server = rustix::net::getpeername(socket).ok().flatten().and_then(|end| SocketAddr::try_from(end).ok());
        let (Some(own), Some(server)) = (own, server) else {
            return Err(ConnectError::Unexpected("the connection is gone already"));
        };
        (self.shared.options.check_server)(own, server).map_err(ConnectError::Unexpected)
    }

    fn tls(&self, socket: TcpStream, address: &ServerAddress, options: &Options) -> Result<Transport, ConnectError> {
        let name = address.tls_name.as_ref().unwrap_or(&address.host);
        let mut transport = Transport::tls(tls::session(options, name).map_err(ConnectError::Tls)?, socket);
        let failed = |error| ConnectError::Io(Step::Tls, error);
        loop {
            transport.handshake().map_err(failed)?;
            if !transport.is_handshaking() {
                return Ok(transport);
            }
            self.wait(Step::Tls, self.deadline, Some(Interest::read(&transport)))?;
        }
    }

    /// Reads something, waiting for it if need be.
    fn read(&self, step: Step, transport: &mut Transport, decoder: &mut Decoder) -> Result<(), ConnectError> {
        loop {
            match transport.read(decoder.space()) {
                Ok(0) => return Err(ConnectError::Io(step, io::ErrorKind::UnexpectedEof.into())),
                Ok(count) => {
                    decoder.filled(count);
                    return Ok(());
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.wait(step, self.deadline, Some(Interest::read(transport)))?;
                }
                Err(error) => return Err(ConnectError::Io(step, error)),
            }
        }
    }

    fn write_all(&self, transport: &mut Transport, mut bytes: &[u8]) -> Result<(), ConnectError> {
        while !bytes.is_empty() || transport.wants_write() {
            let result = if bytes.is_empty() { transport.flush().map(|()| 0) } else { transport.write(bytes) };
            match result {
                Ok(count) => bytes = &bytes[count..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(ConnectError::Io(Step::Accept, error)),
            }
            if !bytes.is_empty() || transport.wants_write() {
                self.wait(Step::Accept, self.deadline, Some(Interest::write(transport.socket())))?;
            }
        }
        Ok(())
    }

    /// The server speaks first.
    fn first_info(&self, transport: &mut Transport, decoder: &mut Decoder) -> Result<ServerInfo, ConnectError> {
        loop {
            match decoder.next_server_op()? {
                Some(ServerOp::Info(json)) => return handshake::read(json).map_err(ConnectError::BadInfo),
                Some(ServerOp::Error(text)) => return Err(refused(text)),
                Some(_) => return Err(ConnectError::Unexpected("that is no NATS server: it did not begin with INFO")),
                None => self.read(Step::Info, transport, decoder)?,
            }
        }
    }

    /// Waits for the answer to our PING, which comes after a verdict on our credentials. Any number of INFO may come before
    /// it.
    fn accepted(
        &self,
        transport: &mut Transport,
        decoder: &mut Decoder,
        info: &mut ServerInfo,
    ) -> Result<(), ConnectError> {
        loop {
            match decoder.next_server_op()? {
                Some(ServerOp::Pong) => return Ok(()),
                Some(ServerOp::Info(json)) => *info = handshake::read(json).map_err(ConnectError::BadInfo)?,
                Some(ServerOp::Error(text)) => return Err(refused(text)),
                Some(ServerOp::Ping) => self.write_all(transport, codec::PONG)?,
                Some(ServerOp::Ok | ServerOp::Message(_)) => {}
                None => self.read(Step::Accept, transport, decoder)?,
            }
        }
    }
}

impl Attempt<'_> {
    /// Who we are on this server. It is asked now, as nothing else is under way yet and all that is said later can rely on
    /// it. A server that forbids the question or does not answer it in time leaves us without an identity.
    fn identity(
        &self,
        known: Known,
        transport: &mut Transport,
        decoder: &mut Decoder,
        info: &mut ServerInfo,
    ) -> Result<Option<UserIdentity>, ConnectError> {
        if !matches!(known, Known::User(_)) {
            return Ok(known.complete(None));
        }
        let inbox = format!("{}.{}", self.shared.options.inbox_prefix, random_token::<22>());
        let mut bytes = Vec::new();
        codec::put_sub(&mut bytes, &inbox, None, IDENTITY_SID);
        codec::put_pub(&mut bytes, WHO_AM_I, Some(&inbox), &[], b"");
        self.write_all(transport, &bytes)?;
        let asking = Attempt { shared: self.shared, deadline: self.deadline.min(deadline_after(IDENTITY_TIMEOUT)) };
        let answer = asking.answer(transport, decoder, info);
        if matches!(answer, Err(ConnectError::Closing | ConnectError::Io(..))) {
            return answer.map(|_| None);
        }
        let mut bytes = Vec::new();
        codec::put_unsub(&mut bytes, IDENTITY_SID);
        self.write_all(transport, &bytes)?;
        Ok(known.complete(answer.ok().as_deref()))
    }

    /// Waits for the only message there can be.
    fn answer(
        &self,
        transport: &mut Transport,
        decoder: &mut Decoder,
        info: &mut ServerInfo,
    ) -> Result<Vec<u8>, ConnectError> {
        loop {
            match decoder.next_server_op()? {
                Some(ServerOp::Message(delivery)) => return Ok(delivery.payload.to_vec()),
                Some(ServerOp::Info(json)) => *info = handshake::read(json).map_err(ConnectError::BadInfo)?,
                Some(ServerOp::Error(text)) => return Err(refused(text)),
                Some(ServerOp::Ping) => self.write_all(transport, codec::PONG)?,
                Some(ServerOp::Ok | ServerOp::Pong) => {}
                None => self.read(Step::Accept, transport, decoder)?,
            }
        }
    }
}

fn refused(text: &[u8]) -> ConnectError {
    ConnectError::Refused(String::from_utf8_lossy(text).into_owned())
}
