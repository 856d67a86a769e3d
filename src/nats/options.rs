//! What a connection is told at its start, and what it reports while it lives.

use super::address::ServerAddress;
use super::auth::{Auth, ReadFile};
use rustls::RootCertStore;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// How to reach and convince a server. It has no `Debug`, because it holds secrets.
#[derive(Clone)]
pub struct Options {
    /// Tried in turn; servers of the cluster that these tell us about are tried as well.
    pub servers: Vec<ServerAddress>,
    /// Shown by the server's monitoring.
    pub name: String,
    pub auth: Auth,
    /// Asked at each connection for credentials that may have changed; without an answer it is [`Options::auth`].
    pub current_auth: Option<Arc<dyn Fn() -> Option<Auth> + Send + Sync>>,
    pub tls: Tls,
    /// What the reply subjects made by [`super::Connection::new_inbox`] begin with. Users who may subscribe only to inboxes
    /// of their own need another one than the usual `_INBOX`.
    pub inbox_prefix: String,
    /// For one attempt from the TCP connection to the server's first PONG.
    pub connect_timeout: Duration,
    /// The server is asked for a sign of life this often, whatever else is sent; when two remain unanswered the connection
    /// is given up.
    pub ping_interval: Duration,
    /// Authorities to trust where [`Tls::ca`] names none. They are asked for when TLS is used and not before, as loading them
    /// takes milliseconds that a plain connection's start must not pay.
    pub authorities: fn() -> Arc<RootCertStore>,
    /// Reads the files that [`Auth`] and [`Tls`] name.
    pub read_file: ReadFile,
    /// Says why a server must not be told our credentials and used, from the two ends of the connection, ours first.
    pub check_server: fn(SocketAddr, SocketAddr) -> Result<(), &'static str>,
    /// How much output may wait, in bytes, while the server does not read or is away.
    pub max_pending: usize,
}

impl Options {
    /// The usual settings for `servers`: no credentials, the public authorities, TLS only if an address or the server demands it.
    pub fn new(servers: Vec<ServerAddress>) -> Options {
        Options {
            servers,
            name: String::new(),
            auth: Auth::None,
            current_auth: None,
            tls: Tls::default(),
            inbox_prefix: "_INBOX".into(),
            connect_timeout: Duration::from_secs(5),
            ping_interval: Duration::from_secs(5),
            authorities: || Arc::new(RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() }),
            read_file: |path| std::fs::read(path),
            check_server: |_, _| Ok(()),
            max_pending: 8 << 20,
        }
    }
}

/// TLS settings. TLS is used when they, the server's address or the server ask for it; a certificate or a CA given here
/// counts as asking.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    pub required: bool,
    /// The handshake comes before the server's INFO (`handshake_first` of the server).
    pub first: bool,
    /// PEM file of the authorities to trust instead of the usual ones.
    pub ca: Option<PathBuf>,
    /// PEM files of our own certificate and its key.
    pub cert: Option<PathBuf>,
    pub key: Option<PathBuf>,
}

impl Tls {
    pub(super) fn is_required(&self) -> bool {
        self.required || self.first || self.ca.is_some() || self.cert.is_some()
    }
}

/// What happens to a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConnectionEvent {
    Connected {
        server: String,
        generation: u64,
    },
    /// The server has taken the subscriptions with which the connection began: what others publish now arrives.
    Subscribed,
    /// A connection that stood has ended; the next attempt is under way.
    Disconnected {
        reason: String,
    },
    /// An attempt failed; the next one follows.
    ConnectFailed {
        server: String,
        error: String,
    },
    /// The server said `-ERR`. When it means the end of the connection, [`ConnectionEvent::Disconnected`] follows.
    ServerError(String),
    /// A subscriber had no room for messages: so many since the last such event.
    SlowConsumer {
        subject: String,
        refused: u64,
    },
    /// The server is about to stop.
    LameDuck,
    Closed,
}
