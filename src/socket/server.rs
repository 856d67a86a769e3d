//! The thread `accept`: takes in the clients of every socket, and joins their threads when they leave.

use super::agents;
use super::client::Client;
use super::link::{Link, error_line};
use super::{DAEMON, Shared, WAKE_UP, stop_line};
use crate::threads::{self, Thread};
use rustix::event::{Timespec, epoll};
use rustix::io::Errno;
use rustix::net::SocketFlags;
use rustix::net::sockopt::socket_peercred;
use rustix::process::getuid;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

/// Clients at a time. Each costs two threads and, if it does not read, 8 MiB.
const MAX_CLIENTS: usize = 256;
/// How long accepting pauses when the system has nothing left to give.
const PAUSE: Duration = Duration::from_millis(100);
/// The wait for the next client is renewed this often, which hides no wake-up that got lost.
const ROUND: Timespec = Timespec { tv_sec: 3600, tv_nsec: 0 };
/// Stack of a reader, bytes: JSON may be 128 levels deep. Only what is touched counts.
const READER_STACK: usize = 1 << 20;

/// Accepts clients until the side channel stops, then ends them.
pub(super) fn run(shared: &Arc<Shared>) {
    let mut accept = Accept { shared, threads: BTreeMap::new(), last_id: 0, reserve: reserve() };
    let mut ready = Vec::with_capacity(16);
    while !shared.stopping.is_cancelled() {
        ready.clear();
        match epoll::wait(&shared.epoll, rustix::buffer::spare_capacity(&mut ready), Some(&ROUND)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(e) => {
                log::error!("side channel: no more clients are taken: {e}");
                break;
            }
        }
        for event in &ready {
            match event.data.u64() {
                WAKE_UP => accept.join_finished(),
                token => accept.accept(token),
            }
        }
    }
    let last = stop_line("shutdown");
    for link in shared.links(|_| true) {
        link.stop(&last);
    }
    // Their threads are joined here, which takes no longer than a client's grace.
}

struct Accept<'a> {
    shared: &'a Arc<Shared>,
    /// The clients' readers, by the client's number.
    threads: BTreeMap<u64, Thread>,
    last_id: u64,
    /// Given up for a moment to tell a client that there is no file descriptor for it.
    reserve: Option<File>,
}

#[expect(clippy::disallowed_methods, reason = "a device that neither blocks nor is read")]
fn reserve() -> Option<File> {
    File::open("/dev/null").ok()
}

impl Accept<'_> {
    fn accept(&mut self, token: u64) {
        let accepted = self.next(token);
        let error = match accepted {
            Ok(None) => return,
            Ok(Some(socket)) => match self.admit(token, socket) {
                Ok(()) => return,
                Err(e) => e,
            },
            Err(e) => e,
        };
        if matches!(error.raw_os_error().map(Errno::from_raw_os_error), Some(Errno::MFILE | Errno::NFILE)) {
            self.reserve = None;
            if let Ok(Some(socket)) = self.next(token) {
                refuse(&socket.into(), "busy: no file descriptor is left");
            }
            self.reserve = reserve();
        }
        log::warn!("side channel: a client could not be taken in: {error}");
        self.shared.stopping.sleep(PAUSE);
    }

    /// The next connection to a socket, if there is one and the socket still exists.
    fn next(&self, token: u64) -> io::Result<Option<OwnedFd>> {
        let table = self.shared.table();
        let Some(listener) = table.listeners.get(&token) else { return Ok(None) };
        match rustix::net::accept_with(listener, SocketFlags::CLOEXEC) {
            Ok(socket) => Ok(Some(socket)),
            Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// Starts the threads of a client, or tells it why not.
    fn admit(&mut self, token: u64, socket: OwnedFd) -> io::Result<()> {
        let peer = socket_peercred(&socket)?;
        let socket = UnixStream::from(socket);
        if peer.uid != getuid() && !peer.uid.is_root() {
            let uid = peer.uid.as_raw();
            log::warn!("side channel: a client of user {uid} (process {}) was refused", peer.pid.as_raw_nonzero());
            refuse(&socket, "this socket is for its owner only");
            return Ok(());
        }
        let agent = match agents::caller(self.shared, peer.pid.as_raw_pid()) {
            Ok(agent) => agent,
            Err(why) => {
                log::warn!("side channel: process {} was refused: {why}", peer.pid.as_raw_pid());
                refuse(&socket, why);
                return Ok(());
            }
        };
        self.join_finished();
        if self.threads.len() >= MAX_CLIENTS {
            log::warn!("side channel: {MAX_CLIENTS} clients are connected, which is the limit; another was refused");
            refuse(&socket, &format!("busy: {MAX_CLIENTS} clients are connected, which is the limit"));
            return Ok(());
        }
        self.last_id += 1;
        let id = self.last_id;
        let link = Arc::new(Link::new(id, Some(token).filter(|token| *token != DAEMON), socket)?);
        let (shared, of_thread) = (self.shared.clone(), link.clone());
        self.shared.table().clients.insert(id, link.clone());
        let thread = threads::spawn(&format!("c{id}-r"), READER_STACK, move || {
            if catch_unwind(AssertUnwindSafe(|| Client::new(&shared, &of_thread, agent).serve())).is_err() {
                log::error!("internal_error: a client's thread panicked; its connection ends");
            }
            shared.table().clients.remove(&id);
            shared.wake_accept();
        });
        match thread {
            Ok(thread) => drop(self.threads.insert(id, thread)),
            Err(e) => {
                self.shared.table().clients.remove(&id);
                refuse(link.socket(), "busy: no thread is left");
                return Err(e);
            }
        }
        Ok(())
    }

    /// Joins the threads of clients that have left.
    fn join_finished(&mut self) {
        let _ = rustix::io::read(&self.shared.wake_up, &mut [0u8; 8]);
        let table = self.shared.table();
        let gone: Vec<u64> = self.threads.keys().filter(|id| !table.clients.contains_key(id)).copied().collect();
        drop(table);
        for id in gone {
            self.threads.remove(&id);
        }
    }
}

/// Tells a client why it is not served, if it listens.
fn refuse(socket: &UnixStream, why: &str) {
    let _ = socket.set_nonblocking(true);
    let mut line = error_line(why, "server");
    line.push('\n');
    // An empty socket takes this much, and if not the client is refused without words.
    let _ = (&*socket).write(line.as_bytes());
}
