//! One process per session in which its tools run, away from the daemon's keys and memory: `nats-pi-bridge __runner`.
//!
//! It is started at the session's first tool call, confined before it is given any work ([`confine`]), and adopts whatever
//! its programs leave behind, so that nothing outlives the session. The daemon and the runner speak over a socket pair, one
//! [`frame`] a message. Calls run at the same time, each on a thread of the runner. A runner with nothing to do and without
//! programs in the background ends by itself; one that does not answer an abort is killed. Before each there is a [`guard`],
//! the daemon's child, which ends what a runner leaves behind, however that has ended.

mod confine;
mod frame;
mod guard;
mod namespaces;
mod policy;
mod serve;

use super::child;
use super::tool::{Tool, ToolContext, ToolOutput};
use super::watched::Watched;
use crate::fault;
use crate::files::private;
use crate::quota::SessionQuota;
use crate::sync::lock;
use crate::threads::{self, SMALL_STACK, Thread};
use confine::own_processes;
pub(crate) use confine::reachable;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, never, select};
use frame::{Answer, CallContext, Order, Setup};
pub(crate) use policy::{Level, Narrowing, Profile, Sandbox, UNCONFINED};
use rustix::process::Pid;
use serde_json::{Map, Value};
pub(crate) use serve::{serve, try_own_processes};
use std::collections::HashMap;
use std::io;
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// The argument that makes this program a runner.
pub(crate) const ARGUMENT: &str = "__runner";
/// The argument behind it that has it try only whether it can have processes of its own.
pub(crate) const TRY: &str = "try";

/// For a runner to confine itself; it takes a few milliseconds on an idle machine.
const START_TIME: Duration = Duration::from_secs(20);
/// For a runner to read what it is sent, which it does at once unless it is stopped.
const WRITE_TIME: Duration = Duration::from_secs(5);
/// For a tool of the runner's own to notice that it is cancelled.
const ABORT_TIME: Duration = Duration::from_millis(250);
/// The same for commands, whose processes may take a second to die.
const ABORT_COMMAND_TIME: Duration = Duration::from_millis(1500);
/// For a runner to end in good order.
const END_TIME: Duration = Duration::from_millis(1500);
/// Answers that may wait for a call; of updates each replaces the one before, so that one may be left out.
const WAITING_ANSWERS: usize = 16;

/// What of the daemon's environment a runner has itself: where git's rules for all repositories are.
const PASSED: [&str; 4] = ["HOME", "XDG_CONFIG_HOME", "GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM"];

/// The guards of the runners that there are, by which they are told from what a dead one leaves behind.
static RUNNERS: Mutex<Vec<i32>> = Mutex::new(Vec::new());

/// Whether a process, of which the parent is named as well, is a runner or the guard of one.
pub(super) fn is_runner(pid: i32, parent: i32) -> bool {
    let runners = lock(&RUNNERS);
    runners.contains(&pid) || runners.contains(&parent)
}

/// Where the tools of one session run.
pub(crate) struct Runner {
    /// The session, by its instance id.
    session: String,
    sandbox: Mutex<Arc<Sandbox>>,
    cwd: PathBuf,
    /// The session's own folder, which tools may write to.
    private: PathBuf,
    /// Where the files are that come with its prompts.
    attachments: Option<PathBuf>,
    /// What its outputs count to.
    quota: Arc<SessionQuota>,
    watched: Watched,
    /// Ends what the process before left running of the session.
    leftovers: Mutex<Option<Thread>>,
    live: Mutex<Option<Arc<Live>>>,
}

/// A runner that is there.
struct Live {
    socket: Arc<Mutex<UnixStream>>,
    pid: i32,
    level: Level,
    next: AtomicU64,
    calls: Calls,
    /// Disconnected when the process has ended.
    ended: Receiver<()>,
    _reader: Thread,
}

/// Who waits for answers, by the number of the call.
type Calls = Arc<Mutex<HashMap<u64, Sender<Answer>>>>;

/// How a call came out.
enum Outcome {
    Done(ToolOutput),
    /// The runner had ended before it began; another one can do it.
    NotBegun,
}

impl Runner {
    pub(crate) fn new(
        session: String,
        sandbox: Arc<Sandbox>,
        cwd: PathBuf,
        private: PathBuf,
        attachments: Option<PathBuf>,
        quota: Arc<SessionQuota>,
    ) -> Runner {
        Runner {
            session,
            sandbox: Mutex::new(sandbox),
            cwd,
            private,
            attachments,
            quota,
            watched: Watched::default(),
            leftovers: Mutex::default(),
            live: Mutex::default(),
        }
    }

    /// Runs a call: here where nothing is to be confined, or people are asked; else in the runner, which is started if there
    /// is none.
    pub(crate) fn call(
        &self,
        tool: &dyn Tool,
        arguments: &Map<String, Value>,
        context: &ToolContext<'_>,
    ) -> ToolOutput {
        // What a call starts has the same mark as what is being ended. Whoever calls meanwhile waits for the lock.
        drop(lock(&self.leftovers).take());
        if self.sandbox().is_off() || tool.spec().name == super::QUESTION {
            return tool.run(arguments, context);
        }
        // The second time for a runner that ended by itself just now.
        for _ in 0..2 {
            let live = match self.live() {
                Ok(live) => live,
                Err(why) => return ToolOutput::error(why),
            };
            match live.call(&tool.spec().name, arguments, context) {
                Outcome::Done(output) => return output,
                Outcome::NotBegun => self.forget(&live),
            }
        }
        ToolOutput::error("The process that runs tools could not be started.")
    }

    /// Has calls wait for the end of this thread, which ends what the process before left running of the session.
    pub(crate) fn begin_after(&self, leftovers: Thread) {
        *lock(&self.leftovers) = Some(leftovers);
    }

    /// Takes note of the files that make programs run later. Before the first call.
    pub(crate) fn watch(&self) {
        self.watched.begin(&self.cwd);
    }

    /// Those of them that were changed since they were looked at last.
    pub(crate) fn watched_changes(&self) -> Vec<PathBuf> {
        self.watched.changes(&self.cwd)
    }

    /// The repository's hooks were changed while this session had tools.
    pub(crate) fn hooks_changed(&self) -> bool {
        self.watched.hooks_changed()
    }

    /// What tools are confined to.
    pub(crate) fn sandbox(&self) -> Arc<Sandbox> {
        lock(&self.sandbox).clone()
    }

    /// Confines the calls from now on. What is returned ends what is confined otherwise, which takes a moment.
    pub(crate) fn confine(&self, sandbox: Arc<Sandbox>) -> impl FnOnce() + Send + use<> {
        *lock(&self.sandbox) = sandbox;
        let live = lock(&self.live).take();
        move || live.into_iter().for_each(|live| live.end())
    }

    /// Ends the runner with everything that its programs have started.
    pub(crate) fn end(&self) {
        if let Some(live) = lock(&self.live).take() {
            live.end();
        }
    }

    fn live(&self) -> Result<Arc<Live>, String> {
        let mut slot = lock(&self.live);
        if let Some(live) = slot.as_ref().filter(|live| !live.has_ended()) {
            return Ok(live.clone());
        }
        let sandbox = self.sandbox();
        let live = Live::start(&sandbox, self)
            .map_err(|error| format!("The process that runs tools could not be started: {error}"))?;
        let live = Arc::new(live);
        if let Some(required) = sandbox.required.filter(|required| live.level < *required) {
            live.end();
            return Err(format!(
                "Tools are refused: the sandbox reaches level {}, and sandboxRequired is {}.",
                live.level.as_str(),
                required.as_str()
            ));
        }
        *slot = Some(live.clone());
        Ok(live)
    }

    fn forget(&self, ended: &Arc<Live>) {
        let mut slot = lock(&self.live);
        if slot.as_ref().is_some_and(|live| Arc::ptr_eq(live, ended)) {
            *slot = None;
        }
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        self.end();
    }
}

impl Live {
    fn start(sandbox: &Sandbox, runner: &Runner) -> io::Result<Live> {
        let (ours, theirs) = UnixStream::pair()?;
        let (child, pid) = {
            let mut runners = lock(&RUNNERS);
            let child = program().stdin(OwnedFd::from(theirs)).spawn()?;
            let pid = Pid::from_child(&child).as_raw_pid();
            runners.push(pid);
            child::belongs_to(pid, Some(&runner.session));
            (child, pid)
        };
        let ready = greet(&ours, sandbox, runner);
        let level = match ready {
            Ok(level) => level,
            Err(error) => {
                reap(child, pid);
                return Err(error);
            }
        };
        let calls = Calls::default();
        let (alive, ended) = bounded(0);
        let (answers, waiting) = (ours.try_clone()?, calls.clone());
        let socket = Arc::new(Mutex::new(ours));
        let (orders, quota) = (socket.clone(), runner.quota.clone());
        let reader = threads::spawn("runner", SMALL_STACK, move || {
            read_answers(answers, &waiting, &orders, &quota);
            lock(&waiting).clear();
            reap(child, pid);
            drop::<Sender<()>>(alive);
        })?;
        Ok(Live { socket, pid, level, next: AtomicU64::new(1), calls, ended, _reader: reader })
    }

    fn has_ended(&self) -> bool {
        !matches!(self.ended.recv_timeout(Duration::ZERO), Err(RecvTimeoutError::Timeout))
    }

    fn send(&self, order: &Order) -> io::Result<()> {
        frame::write(&mut *lock(&self.socket), order)
    }

    fn call(&self, tool: &str, arguments: &Map<String, Value>, context: &ToolContext<'_>) -> Outcome {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (answer, answers) = bounded(WAITING_ANSWERS);
        lock(&self.calls).insert(id, answer);
        let order = Order::Call {
            id,
            tool: tool.to_owned(),
            arguments: arguments.clone(),
            context: Box::new(CallContext::of(context)),
        };
        let outcome = match self.send(&order) {
            Ok(()) => self.wait(id, &answers, tool, context),
            Err(_) => Outcome::NotBegun,
        };
        lock(&self.calls).remove(&id);
        outcome
    }

    fn wait(&self, id: u64, answers: &Receiver<Answer>, tool: &str, context: &ToolContext<'_>) -> Outcome {
        let (cancel, cancelled) = bounded(1);
        let _registered = context.cancel.on_cancel(move || {
            // It has room for one, and there is one.
            let _ = cancel.try_send(());
        });
        let mut begun = false;
        let mut cancelled = &cancelled;
        let (never_cancelled, mut too_late) = (never(), never());
        loop {
            select! {
                recv(answers) -> answer => match answer {
                    Ok(Answer::Begun { .. }) => begun = true,
                    Ok(Answer::Update { output, .. }) => (context.on_update)(output),
                    Ok(Answer::Done { output, .. }) => return Outcome::Done(output),
                    Ok(Answer::Ready { .. } | Answer::Failed { .. } | Answer::Keep { .. }) => {}
                    Err(_) if !begun && !context.cancel.is_cancelled() => return Outcome::NotBegun,
                    Err(_) if context.cancel.is_cancelled() => return Outcome::Done(ToolOutput::aborted()),
                    Err(_) => return Outcome::Done(ToolOutput::error(
                        "The process that runs tools was killed during this call, perhaps for want of memory.",
                    )),
                },
                recv(cancelled) -> _ => {
                    let _ = self.send(&Order::Cancel { id });
                    cancelled = &never_cancelled;
                    let time = if tool == "bash" { ABORT_COMMAND_TIME } else { ABORT_TIME };
                    too_late = crossbeam_channel::after(time);
                }
                recv(too_late) -> _ => {
                    self.kill();
                    return Outcome::Done(ToolOutput::aborted());
                }
            }
        }
    }

    /// Ends the runner, which ends everything below it.
    fn end(&self) {
        let _ = lock(&self.socket).shutdown(Shutdown::Write);
        if matches!(self.ended.recv_timeout(END_TIME), Err(RecvTimeoutError::Timeout)) {
            self.kill();
        }
    }

    /// Kills the runner with everything below it, whatever it is doing.
    fn kill(&self) {
        if !self.has_ended() {
            child::kill_tree(self.pid);
        }
        let _ = lock(&self.socket).shutdown(Shutdown::Both);
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        // The thread that reads ends with the process.
        self.end();
    }
}

/// This program as a runner. No keys are in its environment: what tools may see comes with each call.
fn program() -> Command {
    let mut program = Command::new("/proc/self/exe");
    program
        .arg0("nats-pi-bridge")
        .arg(ARGUMENT)
        .env_clear()
        .envs(PASSED.iter().chain(fault::VARIABLES).filter_map(|name| Some((name, std::env::var_os(name)?))))
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    program
}

/// Whether runners can have processes of their own: a process tries it.
fn can_have_own_processes() -> bool {
    program().arg(TRY).stdin(Stdio::null()).status().is_ok_and(|status| status.success())
}

/// Tells a new runner what it may do, and waits until it is confined to that.
fn greet(mut socket: &UnixStream, sandbox: &Sandbox, runner: &Runner) -> io::Result<Level> {
    socket.set_write_timeout(Some(WRITE_TIME))?;
    socket.set_read_timeout(Some(START_TIME))?;
    // What comes with later prompts is in there as well, and a rule needs a folder.
    runner.attachments.iter().try_for_each(|folder| private::create_folder(folder))?;
    let setup = Order::Setup(Box::new(Setup {
        sandbox: sandbox.clone(),
        cwd: runner.cwd.clone(),
        private: runner.private.clone(),
        attachments: runner.attachments.clone(),
        own_processes: own_processes(sandbox),
    }));
    frame::write(&mut socket, &setup)?;
    let level = match frame::read(&mut socket)? {
        Some(Answer::Ready { level, loopback, cut }) => {
            sandbox.found_loopback(loopback);
            for folder in cut {
                log::warn!(
                    "{}: there are too many entries beside a secret to allow each, so that tools cannot read some of the files",
                    folder.display()
                );
            }
            level
        }
        Some(Answer::Failed { why }) => return Err(io::Error::other(why)),
        _ => return Err(io::ErrorKind::UnexpectedEof.into()),
    };
    socket.set_read_timeout(None)?;
    Ok(level)
}

/// Hands answers to those who wait for them until the runner has ended.
fn read_answers(mut socket: UnixStream, calls: &Calls, orders: &Mutex<UnixStream>, quota: &Arc<SessionQuota>) {
    while let Ok(Some(answer)) = frame::read::<Answer>(&mut socket) {
        if let Answer::Keep { id, kind, bytes } = answer {
            let taken = quota.keep_up_to(kind, bytes);
            let why = if taken < bytes { quota.refusal(kind, bytes) } else { String::new() };
            // If it cannot be told, the runner has ended.
            let _ = frame::write(&mut *lock(orders), &Order::Room { id, bytes: taken, why });
            continue;
        }
        let (Answer::Begun { id } | Answer::Update { id, .. } | Answer::Done { id, .. }) = answer else { continue };
        let waiting = lock(calls).get(&id).cloned();
        let Some(waiting) = waiting else { continue };
        if matches!(answer, Answer::Update { .. }) {
            // One that finds no room is followed by another, or by the end.
            if waiting.len() < WAITING_ANSWERS / 2 {
                let _ = waiting.try_send(answer);
            }
        } else {
            let _ = waiting.try_send(answer);
        }
    }
}

/// Takes note of the runner's end. Its socket is closed, so that there is nothing left for it to do. What it had adopted is
/// the daemon's now if somebody has killed it, and ends as well, but for what is known to be another session's.
fn reap(mut child: Child, pid: i32) {
    let _ = child.kill();
    // Whoever reaps orphans may have been first.
    let in_good_order = child.wait().is_ok_and(|status| status.success());
    let session = child::session_of(pid);
    child::belongs_to(pid, None);
    let mut runners = lock(&RUNNERS);
    runners.retain(|other| *other != pid);
    if !in_good_order {
        child::kill_adopted(&runners, session.as_deref());
    }
}
