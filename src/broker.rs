//! An embedded NATS server for a host that has none: core messaging for some dozens of clients, on the codec of our client.
//!
//! What it does is what nats-server does with the same bytes: publishing and subscribing with wildcards, queue groups,
//! headers, "no responders", echo, verbose and pedantic mode, one user or a token. What it does not do: clusters, JetStream,
//! accounts, TLS.
//!
//! Each client has one thread, which reads its socket and writes what the socket did not take at once. Whoever publishes
//! appends to the buffers of the receivers and writes them to the non-blocking sockets itself. Nobody ever waits for a
//! client: one that does not read is cut off when its buffer is full, and whatever a client sends costs that client only.
//!
//! | file | what |
//! |---|---|
//! | `mod.rs` | options, accepting, stopping |
//! | `client.rs` | one client's thread: what each operation does |
//! | `peer.rs` | what others may touch of a client: its buffer and its subscriptions |
//! | `router.rs` | who gets a message |

mod client;
mod peer;
mod router;

use crate::ids;
use crate::nats::codec::{self, MAX_MESSAGE};
use crate::nats::handshake::{Credentials, ServerInfo};
use crate::nats::waker::{self, Interest, Waker};
use crate::threads::{self, SMALL_STACK, TURN_STACK, Thread};
use peer::Peer;
use router::Router;
use std::io::{self, ErrorKind, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, RwLock};
use std::time::Duration;

/// Who may connect. It has no `Debug`, because it holds secrets.
#[derive(Clone, PartialEq, Eq)]
pub enum BrokerAuth {
    None,
    UserPassword { user: String, password: String },
    Token(String),
}

/// How the broker behaves.
#[derive(Clone)]
pub struct BrokerOptions {
    pub name: String,
    pub auth: BrokerAuth,
    /// Largest header block and payload of a message, in bytes; 64 MiB at most.
    pub max_payload: usize,
    pub max_connections: usize,
    /// For each connection.
    pub max_subscriptions: usize,
    /// How much may wait for a client that does not read, in bytes, before it is cut off.
    pub max_pending: usize,
    /// A client is asked for a sign of life this often, and cut off when three in a row go unanswered.
    pub ping_interval: Duration,
    /// A client with something to read that takes nothing for this long is cut off.
    pub write_timeout: Duration,
    /// How long a client may take to say who it is, where that is asked for.
    pub auth_timeout: Duration,
}

impl Default for BrokerOptions {
    /// nats-server's own values where it has them; fewer connections, subscriptions and bytes, for a small host.
    fn default() -> BrokerOptions {
        BrokerOptions {
            name: "nats-pi-bridge".into(),
            auth: BrokerAuth::None,
            max_payload: 1 << 20,
            max_connections: 256,
            max_subscriptions: 65_536,
            max_pending: 8 << 20,
            ping_interval: Duration::from_secs(120),
            write_timeout: Duration::from_secs(10),
            auth_timeout: Duration::from_secs(2),
        }
    }
}

/// A running broker. Dropping it cuts off all clients and waits for their threads, which takes milliseconds.
pub struct Broker {
    address: SocketAddr,
    shared: Arc<BrokerState>,
    _thread: Thread,
}

/// What all of the broker's threads have in common.
struct BrokerState {
    options: BrokerOptions,
    info: ServerInfo,
    router: RwLock<Router>,
    waker: Waker,
    stopping: AtomicBool,
}

/// How long accepting pauses when the system has no file descriptor or thread left.
const PAUSE: Duration = Duration::from_millis(100);
/// How long accepting waits at most before it looks after ended clients.
const ROUND: Duration = Duration::from_secs(5);

impl Broker {
    /// Listens on an address; with port 0 the system chooses one. The error is that of listening, or of starting a thread.
    pub fn start(listen: SocketAddr, options: BrokerOptions) -> io::Result<Broker> {
        let options = BrokerOptions { max_payload: options.max_payload.min(MAX_MESSAGE), ..options };
        let listener = TcpListener::bind(listen)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let info = ServerInfo {
            server_id: ids::nuid(),
            server_name: options.name.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            go: "rust".into(),
            host: address.ip().to_string(),
            port: address.port(),
            headers: true,
            max_payload: options.max_payload as u64,
            auth_required: options.auth != BrokerAuth::None,
            proto: 1,
            ..ServerInfo::default()
        };
        let shared = Arc::new(BrokerState {
            options,
            info,
            router: RwLock::default(),
            waker: Waker::new()?,
            stopping: AtomicBool::new(false),
        });
        let for_thread = shared.clone();
        let accept = move || accept(&listener, &for_thread);
        let thread = threads::spawn("broker-accept", SMALL_STACK, accept)?;
        Ok(Broker { address, shared, _thread: thread })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::Release);
        self.shared.waker.wake();
    }
}

/// One client's thread, which is told to end and waited for when this is dropped.
struct Running {
    peer: Arc<Peer>,
    thread: Thread,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.peer.waker.wake();
    }
}

/// Accepts clients until the broker stops, then ends them.
fn accept(listener: &TcpListener, shared: &Arc<BrokerState>) {
    let mut clients: Vec<Running> = Vec::new();
    let mut last_id = 0;
    while !shared.stopping.load(Ordering::Acquire) {
        clients.retain(|client| !client.thread.is_finished());
        let accepted = match listener.accept() {
            Ok((socket, _)) if clients.len() >= shared.options.max_connections => refuse(socket),
            Ok((socket, address)) => {
                last_id += 1;
                start_client(shared, socket, address, last_id).map(|client| clients.push(client))
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                let _ = waker::wait(&shared.waker, Some(Interest::read_socket(listener.as_fd())), ROUND);
                Ok(())
            }
            Err(error) => Err(error),
        };
        if let Err(error) = accepted {
            log::warn!("broker: a connection could not be accepted: {error}");
            let _ = waker::wait(&shared.waker, None, PAUSE);
        }
    }
    for client in &clients {
        client.peer.waker.wake();
    }
}

fn start_client(shared: &Arc<BrokerState>, socket: TcpStream, address: SocketAddr, id: u64) -> io::Result<Running> {
    socket.set_nonblocking(true)?;
    socket.set_nodelay(true)?;
    let peer = Arc::new(Peer::new(id, socket, shared.options.max_pending)?);
    let (shared, for_thread) = (shared.clone(), peer.clone());
    // Thread names hold 15 bytes; an id has up to 10 of them here and is shown in full in the log.
    let name = format!("nats-{}", id % 10_000_000_000);
    // Matching goes one call deeper with every word of a subject, and a line has room for 2,000.
    let thread = threads::spawn(&name, TURN_STACK, move || client::run(&shared, &for_thread, address))?;
    Ok(Running { peer, thread })
}

fn refuse(mut socket: TcpStream) -> io::Result<()> {
    let mut bytes = Vec::new();
    codec::put_error(&mut bytes, "maximum connections exceeded");
    socket.set_nonblocking(true)?;
    // An empty socket takes this much, and if not it is refused without words.
    let _ = socket.write(&bytes);
    Ok(())
}

impl BrokerAuth {
    fn accepts(&self, credentials: &Credentials) -> bool {
        let same = |expected: &str, given: &Option<String>| {
            given.as_deref().is_some_and(|given| same_secret(expected.as_bytes(), given.as_bytes()))
        };
        match self {
            BrokerAuth::None => true,
            BrokerAuth::UserPassword { user, password } => {
                same(user, &credentials.user) & same(password, &credentials.pass)
            }
            BrokerAuth::Token(token) => same(token, &credentials.auth_token),
        }
    }
}

/// Compares without telling by its duration how much is right.
fn same_secret(expected: &[u8], given: &[u8]) -> bool {
    let differences = expected.iter().zip(given).fold(0, |all, (one, other)| all | (one ^ other));
    expected.len() == given.len() && differences == 0
}
