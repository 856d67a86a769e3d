//! A real nats-server for one test.

use crossbeam_channel::{Receiver, bounded};
use nats_pi_bridge::nats::{Connection, ConnectionEvent, Options, ServerAddress};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

/// Longer than anything in these tests takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub struct Server {
    child: Option<Child>,
    pub port: u16,
    pub dir: tempfile::TempDir,
}

impl Server {
    pub fn plain() -> Server {
        Server::start("")
    }

    /// Starts a server with more lines of configuration. Files that these name belong into the directory that `prepare`
    /// gets.
    pub fn start(config: &str) -> Server {
        Server::prepared(|_| config.to_owned())
    }

    pub fn prepared(prepare: impl FnOnce(&Path) -> String) -> Server {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let config = prepare(dir.path());
        fs::write(dir.path().join("server.conf"), config).expect("the configuration is written");
        let mut server = Server { child: None, port: free_port(), dir };
        server.resume();
        server
    }

    /// Starts the server again, on the same port.
    pub fn resume(&mut self) {
        let program = env::var_os("NATS_SERVER").map_or_else(|| PathBuf::from("nats-server"), PathBuf::from);
        let log = fs::File::create(self.dir.path().join("log")).expect("a log file");
        let child = Command::new(&program)
            .args(["-a", "127.0.0.1", "-p", &self.port.to_string(), "-c"])
            .arg(self.dir.path().join("server.conf"))
            .stderr(log)
            .stdout(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}; name a nats-server in NATS_SERVER", program.display()));
        self.child = Some(child);
        let start = Instant::now();
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            assert!(start.elapsed() < PATIENCE, "nats-server does not listen: {}", self.log());
            thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// Ends the server as a power failure would.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    pub fn signal(&self, signal: &str) {
        let id = self.child.as_ref().expect("it runs").id().to_string();
        assert!(Command::new("kill").args([signal, &id]).status().expect("kill runs").success());
    }

    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub fn options(&self) -> Options {
        options(&self.address())
    }

    pub fn connect(&self) -> Client {
        Client::connect(self.options())
    }

    /// The independent peer.
    pub fn peer(&self) -> nats::Connection {
        nats::connect(self.address()).expect("the peer connects")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Free at this moment. Another process may take it before it is used; the kernel hands out others first.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port").port()
}

pub fn options(servers: &str) -> Options {
    Options { name: "test".into(), ..Options::new(ServerAddress::parse_list(servers).expect("addresses")) }
}

/// Our connection and its events.
pub struct Client {
    pub connection: Connection,
    pub events: Receiver<ConnectionEvent>,
}

impl Client {
    /// Starts, without waiting for the connection.
    pub fn start(options: Options) -> Client {
        let (to, events) = bounded(1000);
        Client { connection: Connection::start(options, to).expect("a thread"), events }
    }

    pub fn connect(options: Options) -> Client {
        let client = Client::start(options);
        match (client.event(), client.event()) {
            (ConnectionEvent::Connected { .. }, ConnectionEvent::Subscribed) => client,
            other => panic!("not connected: {other:?}"),
        }
    }

    pub fn event(&self) -> ConnectionEvent {
        self.events.recv_timeout(PATIENCE).expect("an event")
    }

    /// The next event that `wanted` has a use for.
    pub fn wait_for<T>(&self, mut wanted: impl FnMut(&ConnectionEvent) -> Option<T>) -> T {
        let start = Instant::now();
        loop {
            let left = PATIENCE.checked_sub(start.elapsed()).expect("the event comes in time");
            if let Some(found) = wanted(&self.events.recv_timeout(left).expect("the event comes")) {
                return found;
            }
        }
    }

    pub fn wait_connected(&self) -> u64 {
        self.wait_for(|event| match event {
            ConnectionEvent::Connected { generation, .. } => Some(*generation),
            _ => None,
        })
    }

    pub fn wait_disconnected(&self) -> String {
        self.wait_for(|event| match event {
            ConnectionEvent::Disconnected { reason } => Some(reason.clone()),
            _ => None,
        })
    }

    /// The error of a failed attempt.
    pub fn wait_failed(&self) -> String {
        self.wait_for(|event| match event {
            ConnectionEvent::ConnectFailed { error, .. } => Some(error.clone()),
            _ => None,
        })
    }
}

/// Waits for something that no event tells.
pub fn eventually(what: &str, mut check: impl FnMut() -> bool) {
    let start = Instant::now();
    while !check() {
        assert!(start.elapsed() < PATIENCE, "{what}");
        thread::sleep(Duration::from_millis(2));
    }
}
