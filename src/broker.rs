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
//! | `broker.rs` | options, accepting, stopping |
//! | `admission.rs` | who is let in, and who has to go for it |
//! | `client.rs` | one client's thread: what each operation does |
//! | `peer.rs` | what others may touch of a client: its buffer and its subscriptions |
//! | `router.rs` | who gets a message |
//! | `sockets.rs` | whose the other end of a connection within this host is |
//!
//! What clients can make the broker hold is bounded: connections, those of them that have not said who they are,
//! subscriptions and their bytes for each client and for all, bytes that wait. Where connections have to give way, those
//! that use the broker stay.

mod admission;
mod client;
mod peer;
mod router;
pub mod sockets;

use crate::ids;
use crate::nats::codec::MAX_MESSAGE;
use crate::nats::handshake::{Credentials, ServerInfo};
use crate::nats::waker::{self, Interest, Waker};
use crate::threads::{self, SMALL_STACK, Thread};
use admission::BoundedLog;
use peer::Peer;
use router::Router;
use sockets::Owner;
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, RwLock};
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
    /// So many more are let in, of this process's user, where all are in use and none of them can be sent away.
    pub reserved_connections: usize,
    /// Of those, the ones that have not said who they are, where that is asked for.
    pub max_unauthenticated: usize,
    /// For each connection.
    pub max_subscriptions: usize,
    /// What the subscriptions of one connection may take, in bytes.
    pub max_subscription_bytes: usize,
    /// What those of all connections may take.
    pub max_all_subscription_bytes: usize,
    /// How much may wait for a client that does not read, in bytes, before it is cut off.
    pub max_pending: usize,
    /// A client is asked for a sign of life this often, and cut off when three in a row go unanswered.
    pub ping_interval: Duration,
    /// A client with something to read that takes nothing for this long is cut off.
    pub write_timeout: Duration,
    /// How long a client may take to say who it is, where that is asked for.
    pub auth_timeout: Duration,
    /// How long whoever said something wrong waits until it is told so.
    pub login_delay: Duration,
    /// Whether the socket of that inode is held by a program that must not come in: one that an agent's tool has started.
    pub is_held_by_tool: fn(u64) -> bool,
    /// Whose connection has no limits: a daemon must not be kept from its sessions by what protects it from others.
    pub is_unlimited: fn(&Owner) -> bool,
}

impl Default for BrokerOptions {
    /// nats-server's own values where it has them; fewer connections, subscriptions and bytes, for a small host.
    fn default() -> BrokerOptions {
        BrokerOptions {
            name: "nats-pi-bridge".into(),
            auth: BrokerAuth::None,
            max_payload: 1 << 20,
            max_connections: 256,
            reserved_connections: 32,
            max_unauthenticated: 64,
            max_subscriptions: 65_536,
            max_subscription_bytes: 32 << 20,
            max_all_subscription_bytes: 96 << 20,
            max_pending: 8 << 20,
            ping_interval: Duration::from_secs(120),
            write_timeout: Duration::from_secs(10),
            auth_timeout: Duration::from_secs(2),
            login_delay: Duration::from_secs(1),
            is_held_by_tool: |_| false,
            is_unlimited: |_| false,
        }
    }
}

/// A running broker. Dropping it cuts off all clients and waits for their threads, which takes milliseconds.
pub struct Broker {
    address: SocketAddr,
    listener: Arc<TcpListener>,
    shared: Arc<BrokerState>,
    _thread: Thread,
}

/// What all of the broker's threads have in common.
struct BrokerState {
    options: BrokerOptions,
    info: ServerInfo,
    /// Only this user's own processes and root's are let in.
    same_user_only: bool,
    /// What all subscriptions take, in bytes.
    subscription_bytes: AtomicUsize,
    log: BoundedLog,
    /// Held by whoever looks what holds a socket.
    checking: Mutex<()>,
    router: RwLock<Router>,
    waker: Waker,
    stopping: AtomicBool,
}

/// The version of nats-server whose core messaging this is. Clients use headers and "no responders" from 2.2 on.
const COMPATIBLE_WITH: &str = "2.10.0";
/// How long accepting pauses when the system has no file descriptor or thread left.
const PAUSE: Duration = Duration::from_millis(100);
/// How long accepting waits at most before it looks after ended clients.
const ROUND: Duration = Duration::from_secs(5);

impl Broker {
    /// Listens on an address; with port 0 the system chooses one. The error is that of listening, or of starting a thread.
    pub fn start(listen: SocketAddr, options: BrokerOptions) -> io::Result<Broker> {
        Broker::take_over(TcpListener::bind(listen)?, options)
    }

    /// Serves on a socket that listens already.
    pub fn take_over(listener: TcpListener, options: BrokerOptions) -> io::Result<Broker> {
        let options = BrokerOptions { max_payload: options.max_payload.min(MAX_MESSAGE), ..options };
        listener.set_nonblocking(true)?;
        let listener = Arc::new(listener);
        let address = listener.local_addr()?;
        let info = ServerInfo {
            server_id: ids::nuid(),
            server_name: options.name.clone(),
            version: COMPATIBLE_WITH.into(),
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
            same_user_only: options.auth == BrokerAuth::None && address.ip().is_loopback(),
            options,
            info,
            subscription_bytes: AtomicUsize::new(0),
            log: BoundedLog::default(),
            checking: Mutex::default(),
            router: RwLock::default(),
            waker: Waker::new()?,
            stopping: AtomicBool::new(false),
        });
        let (of_thread, for_thread) = (listener.clone(), shared.clone());
        let accept = move || accept(&of_thread, &for_thread);
        let thread = threads::spawn("broker-accept", SMALL_STACK, accept)?;
        Ok(Broker { address, listener, shared, _thread: thread })
    }

    /// The socket on which it listens, for who takes over.
    pub fn listener(&self) -> &TcpListener {
        &self.listener
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
            Ok((socket, address)) => {
                last_id += 1;
                admission::admit(shared, &mut clients, socket, address, last_id)
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
