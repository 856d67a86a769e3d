//! Who is let in, and who has to go for it.
//!
//! A connection that can do without its place loses it to a new one: first those that were refused and wait for their
//! answer, then those that have said nothing, then those that have subscribed to nothing, in each case the one that was
//! heard last the longest ago. That takes time, so that a flood of connections finds its bound in the waiting; whoever wants to
//! come in meanwhile waits for some milliseconds, too, but is the last to be sent away again.

use super::peer::{Peer, Stage, Standing};
use super::sockets::{self, Owner};
use super::{BrokerState, Running, client};
use crate::nats::codec;
use crate::nats::waker;
use crate::sync::lock;
use crate::threads::{self, SMALL_STACK};
use std::collections::HashMap;
use std::fmt::Display;
use std::io::{self, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// How long accepting pauses for each connection that has to go.
const PAUSE: Duration = Duration::from_millis(5);
/// This many connections may be about to end, beyond those that count.
const MAX_ENDING: usize = 64;
/// What happens again and again is logged once in this time.
const LOG_AGAIN: Duration = Duration::from_secs(60);

/// Says things that others can cause at will no more than once a minute.
#[derive(Default)]
pub(super) struct BoundedLog(Mutex<HashMap<&'static str, Said>>);

struct Said {
    at: Instant,
    /// How often it has happened since without being said.
    held_back: u64,
}

impl BoundedLog {
    pub(super) fn warn(&self, what: &'static str, details: impl Display) {
        let mut table = lock(&self.0);
        let now = Instant::now();
        let mut held_back = 0;
        if let Some(said) = table.get_mut(what) {
            if now.saturating_duration_since(said.at) < LOG_AGAIN {
                said.held_back += 1;
                return;
            }
            held_back = said.held_back;
        }
        table.insert(what, Said { at: now, held_back: 0 });
        drop(table);
        match held_back {
            0 => log::warn!("broker: {what} ({details})"),
            times => log::warn!("broker: {what} ({details}), and {times} times more since this was said last"),
        }
    }
}

/// Starts serving a client, if there is room, if need be after sending another one away.
pub(super) fn admit(
    shared: &Arc<BrokerState>,
    clients: &mut Vec<Running>,
    socket: TcpStream,
    address: SocketAddr,
    id: u64,
) -> io::Result<()> {
    let local = socket.local_addr()?;
    let owner = if shared.same_user_only { sockets::owner(address, local) } else { None };
    if !make_room(shared, clients) && !has_reserve(shared, clients, owner.or_else(|| sockets::owner(address, local))) {
        let max = shared.options.max_connections;
        shared
            .log
            .warn("connections were refused, as many as are allowed are in use", format_args!("{max}, {address}"));
        return refuse(socket);
    }
    socket.set_nonblocking(true)?;
    socket.set_nodelay(true)?;
    let peer = Arc::new(Peer::new(id, socket, shared.options.max_pending)?);
    if shared.same_user_only {
        let _ = peer.owner.set(owner);
        if !owner.is_some_and(|owner| owner.is_same_user()) {
            peer.standing().stage = Stage::Refused;
        }
    }
    let (shared, for_thread) = (shared.clone(), peer.clone());
    // Thread names hold 15 bytes; an id has up to 10 of them here and is shown in full in the log.
    let name = format!("nats-{}", id % 10_000_000_000);
    let thread = threads::spawn(&name, SMALL_STACK, move || client::run(&shared, &for_thread, address))?;
    clients.push(Running { peer, thread });
    Ok(())
}

/// Sends somebody away where that is necessary; false where nobody can be.
fn make_room(shared: &BrokerState, clients: &mut Vec<Running>) -> bool {
    let options = &shared.options;
    let present = || clients.iter().map(|client| &client.peer).filter(|peer| !peer.is_evicted());
    let unknown = |peer: &Peer| peer.standing().stage < Stage::Connected;
    let (all, unauthenticated) = (present().count(), present().filter(|peer| unknown(peer)).count());
    let full = all >= options.max_connections;
    if !full && (!shared.info.auth_required || unauthenticated < options.max_unauthenticated) {
        return true;
    }
    let candidates = present().filter(|peer| (full || unknown(peer)) && peer.subscriptions().is_empty());
    let standing = |peer: &&Arc<Peer>| -> Standing { *peer.standing() };
    let Some(victim) = candidates.min_by_key(standing) else { return false };
    victim.evict();
    shared.log.warn(
        "connections that did nothing had to make room for others",
        format_args!("{all} connections, {unauthenticated} of them not logged in"),
    );
    let _ = waker::wait(&shared.waker, None, PAUSE);
    clients.retain(|client| !client.thread.is_finished());
    clients.len() < options.max_connections + MAX_ENDING
}

/// Whether there is room that only this user and this daemon have.
fn has_reserve(shared: &BrokerState, clients: &[Running], owner: Option<Owner>) -> bool {
    let Some(owner) = owner.filter(Owner::is_same_user) else { return false };
    clients.len() < shared.options.max_connections + shared.options.reserved_connections
        || (shared.options.is_unlimited)(&owner)
}

fn refuse(mut socket: TcpStream) -> io::Result<()> {
    let mut bytes = Vec::new();
    codec::put_error(&mut bytes, "maximum connections exceeded");
    socket.set_nonblocking(true)?;
    // An empty socket takes this much, and if not it is refused without words.
    let _ = socket.write(&bytes);
    Ok(())
}
