//! The side channel: sessions over Unix sockets, for programs and people of this user on this machine.
//!
//! One thread accepts for all sockets, one writes the registry, and two serve each client: a reader, which asks the
//! session's actor and writes the answer itself, and a writer, which alone waits for the client. What the daemon itself has
//! to decide goes up to its main thread as a [`ClientRequest`].

mod agents;
mod answers;
mod client;
mod descriptors;
pub(crate) mod directory;
mod framing;
mod link;
mod registry;
mod requests;
mod routes;
mod server;
mod stream;

use crate::cancel::Cancel;
use crate::contract::error::DaemonError;
use crate::contract::identity::SessionIdentity;
use crate::contract::ids::SessionId;
use crate::contract::prompt::Command;
use crate::contract::reply::Reply;
use crate::contract::request::{Create, Drain, Page};
use crate::contract::session::{SessionStats, Watcher};
use crate::prompt::UserFolders;
use crate::sync::lock;
use crate::threads::{self, Thread};
pub(crate) use agents::AgentControl;
use crossbeam_channel::Sender;
pub(crate) use descriptors::MAX_DESCRIPTORS;
use directory::BridgeDirectory;
pub(crate) use framing::escape_separators;
pub use framing::{Frame, Framer};
use link::Link;
use registry::Identity;
pub use requests::{ImagePart, Kind, PromptFields, Request, Slash, parse, slash};
use routes::{Route, Table};
use rustix::event::{EventfdFlags, epoll, eventfd};
use serde_json::{Value, json};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

/// The protocol's name, which every registry row and hello carries.
pub(crate) const PROTOCOL: &str = "pi-session-bridge.v1";

/// Marks what is no session's in epoll: the daemon's socket, and the wake-up of the accepting thread.
const DAEMON: u64 = 0;
const WAKE_UP: u64 = u64::MAX;

/// Something that a client asks of the daemon, and where the answer goes.
pub(crate) struct ClientRequest {
    pub ask: DaemonAsk,
    pub respond: DaemonRespond,
}

/// Takes the daemon's answer. Is called on its main thread and must not wait.
pub(crate) type DaemonRespond = Box<dyn FnOnce(Result<Value, DaemonError>) + Send>;

pub(crate) enum DaemonAsk {
    /// A new session or run: its row of `list`.
    Create { create: Create, reply: Arc<dyn Reply> },
    /// `{ok, sessionId}`, once it is over.
    Stop { session_id: SessionId },
    /// A page of `list`.
    List(Page),
    /// What [`Drain`] is answered with.
    Drain(Drain),
    /// `{metrics, text}`: the figures of the daemon, by name and as Prometheus reads them.
    Metrics,
    /// `{requested: true}`.
    ShutDown,
}

/// What all threads of the side channel have in common.
struct Shared {
    folders: UserFolders,
    agent_control: AgentControl,
    directory: BridgeDirectory,
    identity: Identity,
    table: Mutex<Table>,
    /// Watches all listening sockets, so that adding one wakes nobody.
    epoll: OwnedFd,
    /// Wakes the accepting thread.
    wake_up: OwnedFd,
    registry: Arc<registry::Waker>,
    requests: Sender<ClientRequest>,
    stopping: Cancel,
}

impl Shared {
    fn table(&self) -> MutexGuard<'_, Table> {
        lock(&self.table)
    }

    /// The connections that `which` chooses.
    fn links(&self, which: impl Fn(&Link) -> bool) -> Vec<Arc<Link>> {
        self.table().clients.values().filter(|link| which(link)).cloned().collect()
    }

    fn wake_accept(&self) {
        // It fails only when the counter is full, and then the wake-up is due anyway.
        let _ = rustix::io::write(&self.wake_up, &1u64.to_ne_bytes());
    }
}

/// The plain record that every client gets before its connection is closed.
fn stop_line(reason: &str) -> String {
    json!({"type": "bridge_stop", "reason": reason}).to_string()
}

/// The running side channel. The daemon's main thread owns it.
pub(crate) struct SocketServer {
    shared: Arc<Shared>,
    last_token: u64,
    // Joined in this order.
    accept: Option<Thread>,
    registry: Option<Thread>,
}

/// A session's socket before the session is there, so that it can be refused while that is still possible.
pub(crate) struct SessionSocket {
    path: PathBuf,
    listener: Option<OwnedFd>,
}

impl Drop for SessionSocket {
    fn drop(&mut self) {
        if self.listener.is_some() {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

impl SocketServer {
    /// Serves the daemon's own socket in a directory.
    ///
    /// # Errors
    /// A text that says why there can be no side channel.
    pub(crate) fn start(
        root: &Path,
        folders: UserFolders,
        agent_control: AgentControl,
        requests: Sender<ClientRequest>,
    ) -> Result<SocketServer, String> {
        let directory = BridgeDirectory::open(root)?;
        directory.sweep_namesake();
        let path = directory.daemon_socket();
        let failed = |e: io::Error| format!("{}: {e}", path.display());
        let listener = directory::listen(&path).map_err(failed)?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(|e| failed(e.into()))?;
        let wake_up = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(|e| failed(e.into()))?;
        for (socket, token) in [(&listener, DAEMON), (&wake_up, WAKE_UP)] {
            watch(&epoll, socket, token).map_err(failed)?;
        }
        let (registry, wake_registry) = registry::Waker::new();
        let identity = Identity::new(&directory);
        let mut table = Table::default();
        table.listeners.insert(DAEMON, listener);
        let shared = Arc::new(Shared {
            folders,
            agent_control,
            directory,
            identity,
            table: Mutex::new(table),
            epoll,
            wake_up,
            registry,
            requests,
            stopping: Cancel::new(),
        });
        let mut server = SocketServer { shared: shared.clone(), last_token: DAEMON, accept: None, registry: None };
        let for_accept = shared.clone();
        let accept = threads::spawn("accept", threads::SMALL_STACK, move || server::run(&for_accept));
        server.accept = Some(accept.map_err(failed)?);
        let registry = threads::spawn("registry", threads::SMALL_STACK, move || registry::run(&shared, &wake_registry));
        server.registry = Some(registry.map_err(failed)?);
        log::info!("side channel on {}", path.display());
        Ok(server)
    }

    /// Makes the socket of a session that is about to be created. Without one it can be reached over the daemon's socket.
    ///
    /// # Errors
    /// The system refuses another socket.
    pub(crate) fn open_session(&self, identity: &SessionIdentity) -> io::Result<Option<SessionSocket>> {
        let named = identity.named.then(|| self.shared.directory.session_socket(&identity.id, &identity.instance_id));
        let Some(path) = named.flatten() else { return Ok(None) };
        let listener = Some(directory::listen(&path)?);
        Ok(Some(SessionSocket { path, listener }))
    }

    /// Where a session keeps what its events leave out.
    pub(crate) fn raw_file(&self, identity: &SessionIdentity) -> PathBuf {
        self.shared.directory.raw_file(&identity.instance_id)
    }

    /// A session is there: clients can reach it from now on.
    pub(crate) fn session_started(
        &mut self,
        socket: Option<SessionSocket>,
        identity: &Arc<SessionIdentity>,
        stats: &Arc<SessionStats>,
        commands: &Sender<Command>,
    ) {
        self.last_token += 1;
        let token = self.last_token;
        let (path, listener) = match socket {
            Some(mut socket) => (Some(socket.path.clone()), socket.listener.take()),
            None => (None, None),
        };
        let route = Route::new(token, identity.clone(), stats.clone(), commands.clone(), path);
        let mut table = self.shared.table();
        table.routes.insert(token, Arc::new(route));
        if let Some(listener) = listener {
            if let Err(e) = watch(&self.shared.epoll, &listener, token) {
                log::warn!("side channel: session {} has no socket of its own: {e}", identity.id);
            }
            table.listeners.insert(token, listener);
        }
        drop(table);
        if identity.named {
            stats.watch(self.shared.registry.clone());
            self.shared.registry.now();
        }
    }

    /// A session is over: its socket goes, with the connections to it.
    pub(crate) fn session_ended(&mut self, instance_id: &str, reason: &str) {
        let mut table = self.shared.table();
        let Some(token) = table.routes.values().find(|r| *r.identity.instance_id == *instance_id).map(|r| r.token)
        else {
            return;
        };
        let route = table.routes.remove(&token);
        // Closing it takes it out of epoll.
        table.listeners.remove(&token);
        drop(table);
        if let Some(path) = route.as_ref().and_then(|route| route.socket.as_ref()) {
            let _ = std::fs::remove_file(path);
        }
        for link in self.shared.links(|link| link.session == Some(token)) {
            link.stop(&stop_line(reason));
        }
        if route.is_some_and(|route| route.identity.named) {
            self.shared.registry.now();
        }
    }

    /// Does `then`, which must not wait, once the registry shows the sessions as they are now.
    pub(crate) fn when_written(&self, then: Box<dyn FnOnce() + Send>) {
        self.shared.registry.when_written(then);
    }
}

impl Drop for SocketServer {
    /// Says good-bye to the clients that are left, and removes every file. Takes two seconds at most.
    fn drop(&mut self) {
        self.shared.stopping.cancel();
        self.shared.wake_accept();
        self.shared.registry.now();
        self.accept = None;
        self.registry = None;
        let table = std::mem::take(&mut *self.shared.table());
        let sockets = table.routes.values().filter_map(|route| route.socket.clone());
        for path in sockets.chain([self.shared.directory.daemon_socket()]) {
            let _ = std::fs::remove_file(path);
        }
    }
}

fn watch(epoll: &OwnedFd, socket: &OwnedFd, token: u64) -> io::Result<()> {
    Ok(epoll::add(epoll, socket, epoll::EventData::new_u64(token), epoll::EventFlags::IN)?)
}
