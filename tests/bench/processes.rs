//! The processes that `bench-load` starts: nats-server and daemons. Each of them is gone when its value is dropped.

use crate::client::PATIENCE;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How often it is looked whether something has happened, which is how exact the times of a start and an end are.
const LOOK: Duration = Duration::from_micros(200);
/// How often a port is chosen before a server counts as broken; another program may take each one first.
const PORTS: usize = 20;

/// Looks until there is something; returns it, and how long that took.
fn wait<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> (T, Duration) {
    let begin = Instant::now();
    loop {
        if let Some(found) = look() {
            return (found, begin.elapsed());
        }
        assert!(begin.elapsed() < PATIENCE, "{what}");
        thread::sleep(LOOK);
    }
}

/// A process that does not outlive its value.
pub(crate) struct Process(Child);

impl Process {
    /// Output and errors go to the end of a file.
    fn start(command: &mut Command, log: &Path) -> Process {
        let log = File::options().create(true).append(true).open(log).expect("opened");
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("cloned")).stderr(log);
        Process(command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}")))
    }

    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }

    fn running(&mut self) -> bool {
        self.0.try_wait().expect("waited").is_none()
    }

    /// Asks the process to end; returns how long that took.
    pub(crate) fn terminate(mut self) -> Duration {
        kill_process(Pid::from_child(&self.0), Signal::TERM).expect("signalled");
        let (status, took) = wait("the daemon ends", || self.0.try_wait().expect("waited"));
        assert!(status.success(), "the daemon ends with {status}");
        took
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
pub(crate) fn start_server(program: &Path, work: &Path) -> (Process, SocketAddr) {
    let (config, log) = (work.join("nats.conf"), work.join("nats.log"));
    fs::write(&config, "").expect("written");
    for _ in 0..PORTS {
        let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port");
        let mut command = Command::new(program);
        command.arg("--config").arg(&config).arg("--log").arg(&log);
        command.args(["--addr", "127.0.0.1", "--port", &free.port().to_string()]);
        let mut server = Process::start(&mut command, &log);
        let listens = |server: &mut Process| TcpStream::connect(free).is_ok() && server.running();
        wait("the server listens", || (listens(&mut server) || !server.running()).then_some(()));
        if server.running() {
            return (server, free);
        }
    }
    panic!("{} does not start:\n{}", program.display(), fs::read_to_string(log).unwrap_or_default());
}

/// Processor time in ticks: all that the machine had since its start, what of it was idle, and what this program and those
/// of its processes that have ended used. The differences of two such readings tell how much went to others.
#[derive(Clone, Copy)]
pub(crate) struct Ticks {
    all: u64,
    idle: u64,
    own: u64,
}

impl Ticks {
    pub(crate) fn now() -> Ticks {
        let numbers = |path: &str| -> Vec<u64> {
            let text = fs::read_to_string(path).expect("read");
            // After the name, which may have spaces in it.
            let rest = text.rsplit_once(')').map_or(text.as_str(), |(_, rest)| rest);
            let words = rest.lines().next().unwrap_or_default().split_whitespace();
            words.skip(1).map(|word| word.parse().unwrap_or_default()).collect()
        };
        let (machine, own) = (numbers("/proc/stat"), numbers("/proc/self/stat"));
        // user, nice, system, idle, iowait, irq, softirq, steal; then utime, stime, cutime, cstime. See proc(5).
        let (all, idle) = (machine[..8].iter().sum(), machine[3] + machine[4]);
        Ticks { all, idle, own: own[10..14].iter().sum() }
    }

    /// The share of the machine that other programs have had since `before`, in percent.
    pub(crate) fn others_since(self, before: Ticks) -> f64 {
        let (all, idle, own) = (self.all - before.all, self.idle.saturating_sub(before.idle), self.own - before.own);
        all.saturating_sub(idle + own) as f64 * 100.0 / all.max(1) as f64
    }
}

/// What a process has used of the processors since its start, in the kernel's ticks of 10 ms.
pub(crate) fn processor_time(process: u32) -> Duration {
    let text = fs::read_to_string(format!("/proc/{process}/stat")).expect("the daemon still runs");
    // After the name, which may have spaces in it: utime and stime are the fields 14 and 15 of the line, see proc(5).
    let (_, rest) = text.rsplit_once(')').expect("a name");
    let ticks: u64 = rest.split_whitespace().skip(11).take(2).filter_map(|word| word.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 10)
}

/// What every daemon is started with.
pub(crate) struct Setup {
    pub program: PathBuf,
    /// None for the daemon's own broker.
    pub server: Option<SocketAddr>,
    pub model_url: String,
    /// A folder for the daemons' homes.
    pub work: PathBuf,
    /// Counts the instructions of the daemons.
    pub valgrind: Option<PathBuf>,
}

pub(crate) struct Daemon {
    /// First, so that it has ended when its home goes.
    pub process: Process,
    pub home: TempDir,
    /// Of the NATS server that it uses.
    pub address: SocketAddr,
    /// From the start of the process to the line in its log that says that its intake is registered.
    pub start: Duration,
}

impl Daemon {
    pub(crate) const OWNER: &str = "bench";

    /// Starts a daemon in a new home and waits until it is registered.
    pub(crate) fn start(setup: &Setup) -> Daemon {
        let home = tempfile::tempdir_in(&setup.work).expect("made");
        let path = |name: &str| home.path().join(name);
        let mut config = json!({"owner": Daemon::OWNER, "defaultModel": "bench/bench"});
        match setup.server {
            Some(server) => config["server"] = server.to_string().into(),
            None => config["listen"] = "127.0.0.1:0".into(),
        }
        let model = json!({"id": "bench", "contextWindow": 10_000_000, "maxTokens": 1_000_000});
        let provider =
            json!({"baseUrl": setup.model_url, "api": "anthropic-messages", "apiKey": "none", "models": [model]});
        fs::write(path("config.json"), config.to_string()).expect("written");
        fs::write(path("models.json"), json!({"providers": {"bench": provider}}).to_string()).expect("written");

        let mut command = match &setup.valgrind {
            Some(valgrind) => counted(valgrind, &setup.program),
            None => Command::new(&setup.program),
        };
        command.arg("--config").arg(path("config.json")).arg("--agent-dir").arg(home.path()).current_dir(home.path());
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("USER", Daemon::OWNER);
        command.env("HOME", home.path()).env("PI_BRIDGE_DIR", path("bridge"));
        if setup.valgrind.is_some() {
            // What the daemon would start itself anew for, which valgrind does not follow.
            command.env("GLIBC_TUNABLES", "glibc.malloc.tcache_max=128:glibc.malloc.tcache_count=2");
        }
        let begin = Instant::now();
        let mut process = Process::start(&mut command, &path("log"));
        let (log, _) = wait("the daemon registers", || {
            let log = fs::read_to_string(path("log")).unwrap_or_default();
            assert!(process.running(), "the daemon has ended:\n{log}");
            log.contains("intake registered").then_some(log)
        });
        let start = begin.elapsed();
        let own = log.split_once("serving one on ").and_then(|(_, rest)| rest.lines().next()?.parse().ok());
        Daemon { process, home, address: setup.server.or(own).expect("the daemon names its address"), start }
    }

    /// Ends a daemon whose instructions are counted; returns their number, which the tool writes into the log then.
    pub(crate) fn instructions(self) -> u64 {
        self.process.terminate();
        let log = fs::read_to_string(self.home.path().join("log")).expect("read");
        let (_, count) = log.rsplit_once("I   refs:").expect("valgrind tells the instructions");
        let digits: String = count.lines().next().unwrap_or_default().chars().filter(char::is_ascii_digit).collect();
        digits.parse().expect("a number")
    }
}

/// Runs a program in valgrind's simplest tool that counts instructions, which keeps no other figures.
fn counted(valgrind: &Path, program: &Path) -> Command {
    let mut command = Command::new(valgrind);
    command.args(["--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null"]).arg(program);
    command
}
