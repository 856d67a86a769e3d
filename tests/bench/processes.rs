//! The processes that `bench-load` starts: nats-server and daemons. Each of them is gone when its value is dropped.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use tempfile::TempDir;

use crate::client::PATIENCE;

/// How often it is looked whether a process has ended: what its end is measured to.
const LOOK: Duration = Duration::from_millis(1);
/// How often a port is chosen before a server counts as broken; another program may take each one first.
const PORTS: usize = 20;

/// A process that does not outlive its value.
pub struct Process(Child);

impl Process {
    pub fn id(&self) -> u32 {
        self.0.id()
    }

    fn running(&mut self) -> bool {
        self.0.try_wait().expect("waited").is_none()
    }

    /// Asks the process to end; returns how long that took.
    pub fn terminate(mut self) -> Duration {
        let begin = Instant::now();
        kill_process(Pid::from_child(&self.0), Signal::TERM).expect("signalled");
        while begin.elapsed() < PATIENCE {
            if let Some(status) = self.0.try_wait().expect("waited") {
                assert!(status.success(), "the daemon ends with {status}");
                return begin.elapsed();
            }
            thread::sleep(LOOK);
        }
        panic!("the daemon does not end");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Neither fails but for a process that has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts a NATS server with the flags that nats-server and the embedded broker's program share.
pub fn start_server(program: &Path, work: &Path) -> (Process, SocketAddr) {
    let config = work.join("nats.conf");
    fs::write(&config, "").expect("written");
    for _ in 0..PORTS {
        let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port");
        let mut command = Command::new(program);
        command.arg("--config").arg(&config).arg("--log").arg(work.join("nats.log"));
        command.args(["--addr", "127.0.0.1", "--port", &free.port().to_string()]);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let mut server = Process(child.unwrap_or_else(|error| panic!("{}: {error}", program.display())));
        let begin = Instant::now();
        while server.running() && begin.elapsed() < PATIENCE {
            if TcpStream::connect(free).is_ok() && server.running() {
                return (server, free);
            }
            thread::sleep(LOOK);
        }
    }
    panic!("{} does not start", program.display());
}

/// What every daemon is started with.
pub struct Setup {
    pub program: PathBuf,
    /// None for the daemon's own broker.
    pub server: Option<SocketAddr>,
    pub model_url: String,
    /// A folder for the daemons' homes.
    pub work: PathBuf,
}

pub struct Daemon {
    /// First, so that it has ended when its home goes.
    pub process: Process,
    pub home: TempDir,
    /// Of the NATS server that it uses.
    pub address: SocketAddr,
    /// From the start of the process to the line in its log that says that its intake is registered.
    pub start: Duration,
}

impl Daemon {
    pub const OWNER: &str = "bench";

    /// Starts a daemon in a new home and waits until it is registered.
    pub fn start(setup: &Setup) -> Daemon {
        let home = tempfile::tempdir_in(&setup.work).expect("made");
        let write = |name: &str, text: String| {
            let path = home.path().join(name);
            fs::create_dir_all(path.parent().expect("it has one")).expect("made");
            fs::write(path, text).expect("written");
        };
        let mut config = json!({"owner": Daemon::OWNER, "defaultModel": "bench/bench"});
        match setup.server {
            Some(server) => config["server"] = server.to_string().into(),
            None => config["listen"] = "127.0.0.1:0".into(),
        }
        write(".pi-exec/config.json", config.to_string());
        let model = json!({"id": "bench", "contextWindow": 10_000_000, "maxTokens": 1_000_000});
        let provider =
            json!({"baseUrl": setup.model_url, "api": "anthropic-messages", "apiKey": "none", "models": [model]});
        write(".pi/agent/models.json", json!({"providers": {"bench": provider}}).to_string());

        let mut command = Command::new(&setup.program);
        command
            .env_clear()
            .env("HOME", home.path())
            .env("USER", "bench")
            .env("PI_BRIDGE_DIR", home.path().join("bridge"));
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default()).current_dir(home.path());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let begin = Instant::now();
        let mut process = Process(command.spawn().expect("the daemon's program starts"));
        let log = process.0.stderr.take().expect("piped");
        let (to, registered) = bounded(1);
        thread::Builder::new().name("log".into()).spawn(move || read_log(log, &to)).expect("started");
        match registered.recv_timeout(PATIENCE) {
            Ok(Ok((at, own_address))) => {
                let address = setup.server.or(own_address).expect("it names its address");
                Daemon { process, home, address, start: at.saturating_duration_since(begin) }
            }
            Ok(Err(text)) => panic!("the daemon has ended:\n{text}"),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => panic!("the daemon does not register"),
        }
    }
}

/// When the daemon was registered, and the address that it serves NATS on itself; or what it said before it ended.
type Registered = Result<(Instant, Option<SocketAddr>), String>;

/// Reads the log to its end, because a full pipe would stop the daemon.
fn read_log(log: ChildStderr, to: &Sender<Registered>) {
    let mut log = BufReader::new(log);
    let (mut text, mut line, mut address) = (String::new(), String::new(), None);
    while log.read_line(&mut line).is_ok_and(|count| count > 0) {
        if let Some((_, own)) = line.split_once("serving one on ") {
            address = own.trim().parse().ok();
        }
        if line.contains("intake registered") {
            let _ = to.try_send(Ok((Instant::now(), address)));
            // What follows are warnings about what the measurements notice themselves.
            let _ = std::io::copy(&mut log, &mut std::io::sink());
            return;
        }
        text += &line;
        line.clear();
    }
    let _ = to.try_send(Err(text));
}
