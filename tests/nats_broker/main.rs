//! The embedded broker: the same bytes as from nats-server (found in `NATS_SERVER` or the PATH), other clients' libraries,
//! and clients that misbehave.
#![allow(deprecated)] // The peer library is kept for being independent of our code, not for new projects.

mod clients;
mod harm;
mod raw;
mod reference;

use crossbeam_channel::bounded;
use nats_pi_bridge::broker::{Broker, BrokerOptions};
use nats_pi_bridge::nats::{Connection, Options, ServerAddress};
use std::net::SocketAddr;
use std::time::Duration;

/// Longer than anything in these tests takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

fn broker(options: BrokerOptions) -> Broker {
    Broker::start(([127, 0, 0, 1], 0).into(), options).expect("it starts")
}

fn connect(address: SocketAddr) -> Connection {
    let (to, events) = bounded(100);
    let servers = ServerAddress::parse_list(&address.to_string()).expect("an address");
    let connection = Connection::start(Options::new(servers), to).expect("started");
    events.recv_timeout(PATIENCE).expect("connected");
    assert!(connection.is_connected());
    connection
}
