//! The process in which tools run, from its start to its end.

use super::confine::{self, Confinement, confine};
use super::frame::{self, Answer, CallContext, Order, Setup};
use super::{guard, namespaces};
use crate::cancel::Cancel;
use crate::files::private;
use crate::quota::{Kind, SessionQuota};
use crate::sync::lock;
use crate::threads::{self, TURN_STACK};
use crate::tools::tool::{ToolContext, ToolOutput};
use crate::tools::{by_name, child};
use crossbeam_channel::{Sender, bounded};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::Pid;
use serde_json::{Map, Value};
use std::collections::HashMap;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

/// Seconds without a call after which a runner without programs ends.
const IDLE: i64 = 60;

/// For the daemon to say how much may be kept, which it does at once.
const ROOM_TIME: Duration = Duration::from_secs(5);

/// Folders within the private one, and the variables that name them to programs. Caches are the session's own, since what it
/// puts into shared ones would be taken by the user's builds.
const FOLDERS: [(&str, &str); 7] = [
    ("TMPDIR", "tmp"),
    ("XDG_CACHE_HOME", "cache"),
    ("CARGO_HOME", "cache/cargo"),
    ("npm_config_cache", "cache/npm"),
    ("PIP_CACHE_DIR", "cache/pip"),
    ("GOCACHE", "cache/go-build"),
    ("GOMODCACHE", "cache/go-mod"),
];

/// What the threads of a runner share.
struct Shared {
    socket: Mutex<UnixStream>,
    calls: Mutex<HashMap<u64, Cancel>>,
    /// The session's account, which the daemon has.
    quota: Arc<SessionQuota>,
    /// Who waits for the daemon to say how much may be kept.
    asking: Mutex<HashMap<u64, Sender<(u64, String)>>>,
    asked: AtomicU64,
    /// Variables that come to each call's.
    environment: Vec<(String, String)>,
}

/// The runner: takes its orders from standard input, which is a socket.
pub(crate) fn serve() -> ExitCode {
    let Ok(mut orders) = std::io::stdin().as_fd().try_clone_to_owned().map(UnixStream::from) else {
        return ExitCode::FAILURE;
    };
    let Ok(Some(Order::Setup(setup))) = frame::read(&mut orders) else { return ExitCode::FAILURE };
    let result = set_up(&setup).and_then(|role| match role {
        Role::Guard { runner, signals_are_confined } => Ok(guard::watch(runner, signals_are_confined)),
        Role::Runner(confinement) => begin_to_serve(orders.try_clone()?, &setup.private, confinement),
    });
    result.unwrap_or_else(|error| {
        let _ = frame::write(&mut orders, &Answer::Failed { why: error.to_string() });
        ExitCode::FAILURE
    })
}

/// Tries whether this process, which must have one thread only, can have a runner with processes of its own.
pub(crate) fn try_own_processes() -> ExitCode {
    let tried = namespaces::processes().and_then(|()| guard::divide()).and_then(|runner| match runner {
        Some(runner) => Ok(guard::watch(runner, false)),
        None => namespaces::show_processes().map(|()| ExitCode::SUCCESS),
    });
    tried.unwrap_or(ExitCode::FAILURE)
}

/// What a process is from its division on.
enum Role {
    Guard { runner: Pid, signals_are_confined: bool },
    Runner(Confinement),
}

fn set_up(setup: &Setup) -> io::Result<Role> {
    private::create_folder(&setup.private)?;
    // Nothing that is asked on a terminal is waited for, and what programs leave behind comes to this process.
    rustix::process::setsid()?;
    child::adopt_orphans()?;
    if setup.own_processes {
        namespaces::processes()?;
        if let Some(runner) = guard::divide()? {
            confine::drop_privileges()?;
            return Ok(Role::Guard { runner, signals_are_confined: false });
        }
        namespaces::show_processes()?;
        return confine(setup).map(Role::Runner);
    }
    let confinement = confine(setup)?;
    let signals_are_confined = confinement.signals;
    Ok(match guard::divide()? {
        Some(runner) => Role::Guard { runner, signals_are_confined },
        None => Role::Runner(confinement),
    })
}

/// Takes orders on a thread that programs cannot keep from it: they are started below that thread, in a layer in which no
/// signal of theirs reaches this process.
fn begin_to_serve(orders: UnixStream, private: &Path, confinement: Confinement) -> io::Result<ExitCode> {
    // Only now, since tools of an earlier runner may have put links there.
    for (_, folder) in FOLDERS {
        private::create_folder(&private.join(folder))?;
    }
    // A tool that writes more than a file may have is told so, instead of being ended with all others. Programs have the usual.
    signal_hook::flag::register(libc::SIGXFSZ, Arc::default())?;
    let socket = orders.try_clone()?;
    let shared = Arc::new_cyclic(|shared: &Weak<Shared>| {
        let lender = shared.clone();
        Shared {
            socket: Mutex::new(socket),
            calls: Mutex::default(),
            quota: SessionQuota::lent(Box::new(move |kind, bytes| {
                lender.upgrade().map_or_else(Default::default, |shared| shared.ask_for_room(kind, bytes))
            })),
            asking: Mutex::default(),
            asked: AtomicU64::default(),
            environment: environment(private),
        }
    });
    let thread = {
        let shared = shared.clone();
        threads::spawn("orders", TURN_STACK, move || {
            if let Err(error) = confinement.confine_programs() {
                return shared.say(&Answer::Failed { why: error.to_string() });
            }
            let Confinement { loopback, cut, .. } = &confinement;
            shared.say(&Answer::Ready { level: confinement.level(), loopback: *loopback, cut: cut.clone() });
            take_orders(orders, &shared);
        })?
    };
    drop(thread);
    for cancel in lock(&shared.calls).values() {
        cancel.cancel();
    }
    Ok(ExitCode::SUCCESS)
}

fn environment(private: &Path) -> Vec<(String, String)> {
    FOLDERS
        .iter()
        .map(|(name, folder)| ((*name).to_owned(), private.join(folder).to_string_lossy().into_owned()))
        .collect()
}

/// Does what the daemon says until it is gone, or until there has been nothing to do for long.
fn take_orders(mut orders: UnixStream, shared: &Arc<Shared>) {
    let idle = Timespec { tv_sec: IDLE, tv_nsec: 0 };
    loop {
        match poll(&mut [PollFd::new(&orders, PollFlags::IN)], Some(&idle)) {
            Err(rustix::io::Errno::INTR) => continue,
            Err(_) => return,
            Ok(0) => {
                child::reap_orphans();
                if lock(&shared.calls).is_empty() && !child::has_children() {
                    return;
                }
                continue;
            }
            Ok(_) => {}
        }
        match frame::read(&mut orders) {
            Ok(Some(Order::Call { id, tool, arguments, context })) => begin(id, tool, arguments, *context, shared),
            Ok(Some(Order::Cancel { id })) => {
                let cancel = lock(&shared.calls).get(&id).cloned();
                if let Some(cancel) = cancel {
                    cancel.cancel();
                }
            }
            Ok(Some(Order::Room { id, bytes, why })) => {
                let asking = lock(&shared.asking).remove(&id);
                // Whoever asked may have given up.
                asking.into_iter().for_each(|asking| drop(asking.try_send((bytes, why.clone()))));
            }
            Ok(Some(Order::Setup(_)) | None) | Err(_) => return,
        }
    }
}

fn begin(id: u64, tool: String, arguments: Map<String, Value>, context: CallContext, shared: &Arc<Shared>) {
    let cancel = Cancel::new();
    lock(&shared.calls).insert(id, cancel.clone());
    shared.say(&Answer::Begun { id });
    let work = {
        let shared = shared.clone();
        move || {
            let output = shared.run(id, &tool, &arguments, context, &cancel);
            lock(&shared.calls).remove(&id);
            shared.say(&Answer::Done { id, output });
        }
    };
    match threads::spawn("tool", TURN_STACK, work) {
        // It tells its end by itself, and the process ends without waiting for it.
        Ok(thread) => thread.abandon(),
        Err(error) => {
            lock(&shared.calls).remove(&id);
            let output = ToolOutput::error(format!("The tool could not be started: {error}"));
            shared.say(&Answer::Done { id, output });
        }
    }
}

impl Shared {
    fn say(&self, answer: &Answer) {
        let mut socket = lock(&self.socket);
        match frame::write(&mut *socket, answer) {
            // Nobody is there any more, which the thread that reads notices.
            Ok(()) | Err(_) => {}
        }
    }

    /// Takes room on the session's account, as much of that as there is.
    fn ask_for_room(&self, kind: Kind, bytes: u64) -> (u64, String) {
        let id = self.asked.fetch_add(1, Ordering::Relaxed);
        let (answer, room) = bounded(1);
        lock(&self.asking).insert(id, answer);
        self.say(&Answer::Keep { id, kind, bytes });
        let room = room.recv_timeout(ROOM_TIME).unwrap_or_else(|_| (0, "the daemon does not answer".to_owned()));
        lock(&self.asking).remove(&id);
        room
    }

    fn run(
        &self,
        id: u64,
        tool: &str,
        arguments: &Map<String, Value>,
        context: CallContext,
        cancel: &Cancel,
    ) -> ToolOutput {
        let Some(tool) = by_name(tool) else { return ToolOutput::error(format!("Tool {tool} not found")) };
        let mut environment = context.environment;
        environment.retain(|(name, _)| !self.environment.iter().any(|(own, _)| own == name));
        environment.extend(self.environment.iter().cloned());
        let shell: Option<PathBuf> = context.shell;
        let context = ToolContext {
            cwd: &context.cwd,
            cancel,
            environment: &environment,
            spill_dir: &context.spill_dir,
            quota: &self.quota,
            images: context.images,
            resize_images: context.resize_images,
            shell: shell.as_deref(),
            command_prefix: context.command_prefix.as_deref(),
            default_timeout: context.default_timeout,
            on_update: &|output| self.say(&Answer::Update { id, output }),
            ask: &|_| Err("questions are asked by the daemon".into()),
        };
        let before = child::adopted();
        let output = catch_unwind(AssertUnwindSafe(|| tool.run(arguments, &context)))
            .unwrap_or_else(|_| ToolOutput::error("internal_error: the tool panicked"));
        // What has come meanwhile without any mark is this call's if there is no other.
        if cancel.is_cancelled() && lock(&self.calls).len() == 1 {
            child::kill_adopted(&before, None);
        }
        output
    }
}
