//! Child processes with everything they start: each in its own process group, found again when they scatter, and
//! never left behind as zombies.
//!
//! What a program starts is found by three marks: its process group, its parents, and a variable that every call adds to
//! its environment. The variable is what finds those that left the group with `setsid` and lost their parents.
//!
//! When the daemon adopts orphans ([`adopt_orphans`]), it also has to take note of their end, without taking the ends of
//! children for whom another thread waits. Those are distinguished by what `std::process::Command` can make: a child in the
//! daemon's session, and there either in the daemon's group or at the head of its own. An orphan that looks the same, as
//! job control makes them, stays in the process table until the daemon ends.

use super::processes::{self, Process};
use super::runner;
use crate::ids;
use crate::sync::lock;
use crate::sys;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, WaitIdStatus, getpid, kill_process, kill_process_group, pidfd_open,
    pidfd_send_signal, set_child_subreaper, test_kill_process, waitid,
};
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// Marks everything that the programs of one session start, by the session's instance id.
pub(crate) const SESSION_VARIABLE: &str = "NATS_PI_BRIDGE_SESSION";
/// Marks what belongs to one call.
const CALL_VARIABLE: &str = "NATS_PI_BRIDGE_CALL";
/// For processes to be gone after SIGKILL; one that sits in the kernel for longer is left to [`reap_orphans`].
const KILL_TIME: Duration = Duration::from_secs(1);
/// More parents than a process has.
const MAX_DEPTH: usize = 10_000;
/// Looks at a process's parents, which may be ending meanwhile.
const DESCENT_ATTEMPTS: usize = 8;
/// Between two looks at dying processes.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// Children that could not be killed in time. Their owners are gone, so that their ends may be taken by anyone.
static LEFT_BEHIND: Mutex<Vec<Pid>> = Mutex::new(Vec::new());

/// Variables, with their values, whose processes are to be killed, by whoever looks next.
static MARKED: Mutex<Vec<(String, String)>> = Mutex::new(Vec::new());
/// Held by who looks for them.
static LOOKS: Mutex<()> = Mutex::new(());

/// The sessions of this process's children, by their numbers.
static SESSIONS: Mutex<BTreeMap<i32, String>> = Mutex::new(BTreeMap::new());

/// The session, by its instance id, for which this process has started the child of that number.
pub(crate) fn session_of(child: i32) -> Option<String> {
    lock(&SESSIONS).get(&child).cloned()
}

/// Takes note of whose a child is, which is `None` once its end was noted.
pub(super) fn belongs_to(child: i32, session: Option<&str>) {
    match session {
        Some(session) => drop(lock(&SESSIONS).insert(child, session.to_owned())),
        None => drop(lock(&SESSIONS).remove(&child)),
    }
}

fn left_behind() -> MutexGuard<'static, Vec<Pid>> {
    lock(&LEFT_BEHIND)
}

/// Makes this process the parent of what its children leave behind, so that it can be found and reaped.
///
/// # Errors
/// What the system says; Linux has it since 3.4.
pub(crate) fn adopt_orphans() -> io::Result<()> {
    Ok(set_child_subreaper(Some(getpid()))?)
}

/// Takes note of the ends of adopted orphans. Costs one system call when no child has ended.
pub(crate) fn reap_orphans() {
    let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    if !matches!(waitid(WaitId::All, look), Ok(Some(_))) {
        return;
    }
    left_behind().retain(|pid| matches!(take_end(*pid), Ok(None)));
    processes::all().iter().filter(|process| process.zombie && is_adopted(process)).for_each(reap);
}

/// Where a process comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Descent {
    /// This process has started it, directly or by others in between, the first of which, a child, is named.
    Own(i32),
    Foreign,
    /// It has ended, or its parents end while they are looked at.
    Unknown,
}

/// Where the process of that number comes from. Nobody gets out of being a descendant by ending, or by losing parents.
pub(crate) fn descent(pid: i32) -> Descent {
    // Numbers of processes that this one cannot see are 0. They are not below it, as it sees all that is.
    if pid == 0 {
        return Descent::Foreign;
    }
    for _ in 0..DESCENT_ATTEMPTS {
        let found = look_at_parents(pid);
        if found != Descent::Unknown {
            return found;
        }
        if processes::find(pid).is_none() {
            break;
        }
    }
    Descent::Unknown
}

fn look_at_parents(pid: i32) -> Descent {
    let own = getpid().as_raw_pid();
    let mut at = pid;
    // The list of parents is no snapshot of one moment, so that it might be a circle.
    for _ in 0..MAX_DEPTH {
        let Some(process) = processes::find(at) else {
            // What is there and cannot be seen belongs to another user, who is none of this one's programs.
            let is_hidden =
                at != pid && Pid::from_raw(at).is_some_and(|at| test_kill_process(at) != Err(rustix::io::Errno::SRCH));
            return if is_hidden { Descent::Foreign } else { Descent::Unknown };
        };
        if process.parent == own {
            return Descent::Own(at);
        }
        if process.parent == 0 {
            return Descent::Foreign;
        }
        at = process.parent;
    }
    Descent::Unknown
}

/// Whether a process that this one has started, directly or by others in between, holds the socket of that inode, or may
/// hold it. A program can let nobody look, or have the socket wait where no process has it, in the queue of another one. So
/// where there are such programs at all, somebody else must be seen with it; at least there must be another daemon, which
/// lets nobody look either, if no program does that. Takes some 10 µs for each process of the machine then.
pub(crate) fn descendant_holds_socket(inode: u64) -> bool {
    let name = format!("socket:[{inode}]");
    let holds = |process: &Process| {
        let files = std::fs::read_dir(format!("/proc/{}/fd", process.pid))?;
        Ok(files.flatten().any(|file| std::fs::read_link(file.path()).is_ok_and(|target| target.as_os_str() == &*name)))
    };
    let is_hidden =
        |held: &io::Result<bool>| held.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied);
    let descendants = descendants();
    let mut a_program_hides = false;
    for process in &descendants {
        let held = holds(process);
        if held.as_ref().is_ok_and(|held| *held) {
            return true;
        }
        a_program_hides |= is_hidden(&held) && !process.zombie && !runner::is_runner(process.pid, process.parent);
    }
    if descendants.is_empty() {
        return false;
    }
    let own = processes::name(getpid().as_raw_pid());
    let mut a_daemon_hides = false;
    for other in processes::all().iter().filter(|other| descendants.iter().all(|process| process.pid != other.pid)) {
        let held = holds(other);
        if held.as_ref().is_ok_and(|held| *held) {
            return false;
        }
        a_daemon_hides |= is_hidden(&held) && processes::name(other.pid) == own;
    }
    a_program_hides || !a_daemon_hides
}

/// What descends from this process. Since it adopts orphans, nobody gets out of that by losing parents. Costs one system
/// call when there is nothing.
fn descendants() -> Vec<Process> {
    let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    if waitid(WaitId::All, look).is_err_and(|error| error == rustix::io::Errno::CHILD) {
        return Vec::new();
    }
    let own = getpid().as_raw_pid();
    let mut members = processes::with_descendants(&processes::all(), |process| process.parent == own);
    members.retain(|process| process.pid != own);
    members
}

/// A child of this process that it did not start itself.
fn is_adopted(process: &Process) -> bool {
    // Read from /proc like the others': in a container both numbers may be 0, which rustix takes for impossible.
    let own = getpid().as_raw_pid();
    process.parent == own
        && processes::find(own).is_some_and(|this| {
            let member_of_other_group = process.group != this.group && process.group != process.pid;
            process.session != this.session || member_of_other_group
        })
}

fn reap(process: &Process) {
    if let Some(pid) = Pid::from_raw(process.pid) {
        // Another thread may have been first.
        let _ = take_end(pid);
    }
}

/// Takes note of the end of a child; `None` = it runs.
fn take_end(pid: Pid) -> rustix::io::Result<Option<WaitIdStatus>> {
    waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOHANG)
}

/// Kills every process that was started with this variable, and what descends from it. For what a session leaves behind.
/// Of many threads that want that at the same time one looks at the processes for all.
pub(crate) fn kill_marked(name: &str, value: &str) {
    let mark = (name.to_owned(), value.to_owned());
    lock(&MARKED).push(mark.clone());
    let _looks = lock(&LOOKS);
    let marks = {
        let mut marked = lock(&MARKED);
        if !marked.contains(&mark) {
            // Whoever looked before has taken it along.
            return;
        }
        std::mem::take(&mut *marked)
    };
    kill_all(|process| processes::has_any(process, &marks));
}

/// Kills everything that this process has started, and what descends from it. For an end without good order.
pub(crate) fn kill_children() {
    let own = getpid().as_raw_pid();
    kill_all(|process| process.parent == own);
}

/// Kills the process of that number, and first everything that descends from it, so that nothing gets another parent.
pub(crate) fn kill_tree(root: i32) {
    kill_all(|process| process.parent == root);
    kill_all(|process| process.pid == root);
}

/// The numbers of the processes that this one has adopted.
pub(crate) fn adopted() -> Vec<i32> {
    if !has_children() {
        return Vec::new();
    }
    processes::all().iter().filter(|process| is_adopted(process)).map(|process| process.pid).collect()
}

/// Kills what this process has adopted, but for those of these numbers, and for what carries the mark of another session than
/// `session`, if one is named. Marks are believed of what is no more confined than this process: what is came from a
/// runner, in which anything may be said, and which has ended, since it would have adopted that otherwise.
pub(crate) fn kill_adopted(except: &[i32], session: Option<&str>) {
    let own = processes::find(getpid().as_raw_pid()).map_or(0, |this| processes::filters(&this));
    let is_other = |process: &Process| {
        session.is_some_and(|own_session| {
            processes::filters(process) <= own
                && processes::variable(process, SESSION_VARIABLE).is_some_and(|mark| mark != own_session.as_bytes())
        })
    };
    kill_all(|process| is_adopted(process) && !except.contains(&process.pid) && !is_other(process));
}

/// This process has children, be it those that have ended.
pub(crate) fn has_children() -> bool {
    let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    waitid(WaitId::All, look).is_ok()
}

/// Kills what `is_member` names, with all descendants, until nothing of it is left or [`KILL_TIME`] has passed. Looks
/// more than once, as processes may be starting others meanwhile.
fn kill_all(is_member: impl Fn(&Process) -> bool) {
    let end = Instant::now() + KILL_TIME;
    let own = getpid().as_raw_pid();
    loop {
        let members =
            processes::with_descendants(&processes::all(), |process| process.pid != own && is_member(process));
        let mut living = false;
        for process in members.iter().filter(|process| process.pid != own) {
            if !process.zombie {
                living = true;
                kill(process);
            } else if is_adopted(process) {
                reap(process);
            }
        }
        if !living || Instant::now() >= end {
            return;
        }
        std::thread::sleep(LOOK_AGAIN);
    }
}

/// Kills this very process, not another one that has got its number since.
fn kill(process: &Process) {
    let Some(pid) = Pid::from_raw(process.pid) else { return };
    let Ok(handle) = pidfd_open(pid, PidfdFlags::empty()) else {
        // Before Linux 5.3 there is only the number.
        let _ = kill_process(pid, Signal::KILL);
        return;
    };
    if processes::find(process.pid).is_some_and(|found| found.start == process.start) {
        let _ = pidfd_send_signal(handle, Signal::KILL);
    }
}

/// A child process that leads its own process group. Its number stays its own until this is dropped, since its end is
/// only then noted for good. Dropping kills what still runs of the child itself and its group.
pub(crate) struct Group {
    child: Child,
    pid: Pid,
    /// Becomes readable when the child has ended; `None` where the system has no such thing.
    handle: Option<OwnedFd>,
    mark: String,
}

impl Group {
    /// # Errors
    /// What the system says.
    pub(crate) fn spawn(command: &mut Command) -> io::Result<Group> {
        let mark = ids::hex16();
        command.env(CALL_VARIABLE, &mark).process_group(0);
        sys::without_terminal(command);
        let child = command.spawn()?;
        let pid = Pid::from_child(&child);
        let session =
            command.get_envs().find(|(name, _)| *name == SESSION_VARIABLE).and_then(|(_, value)| value?.to_str());
        belongs_to(pid.as_raw_pid(), session);
        Ok(Group { child, pid, handle: pidfd_open(pid, PidfdFlags::empty()).ok(), mark })
    }

    /// The child's standard input, where it is a pipe of ours and was not taken yet.
    pub(crate) fn take_input(&mut self) -> Option<ChildStdin> {
        self.child.stdin.take()
    }

    /// What becomes readable when the child has ended, if the system has such a thing.
    pub(crate) fn handle(&self) -> Option<BorrowedFd<'_>> {
        self.handle.as_ref().map(AsFd::as_fd)
    }

    /// The child's exit code, 128 + number if a signal ended it; `None` = it runs. Asking again gives the same answer.
    pub(crate) fn exit_code(&self) -> Option<i32> {
        let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        let status = waitid(WaitId::Pid(self.pid), look).ok().flatten()?;
        status.exit_status().or_else(|| status.terminating_signal().map(|signal| 128 + signal))
    }

    /// Kills the child and everything that it started, including what left its process group.
    pub(crate) fn kill_all(&mut self) {
        let group = self.pid.as_raw_pid();
        // What began before the child cannot be its work; its environment need not be looked at.
        let begun = processes::find(group).map_or(0, |child| child.start);
        // Looked up before the first of them dies, while all of them still have their parents.
        let members = processes::with_descendants(&processes::all(), |process| process.group == group);
        let _ = kill_process_group(self.pid, Signal::KILL);
        members.iter().for_each(kill);
        kill_all(|process| {
            process.group == group
                || members.iter().any(|member| (member.pid, member.start) == (process.pid, process.start))
                || (process.start >= begun && processes::has_variable(process, CALL_VARIABLE, &self.mark))
        });
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        belongs_to(self.pid.as_raw_pid(), None);
        if self.exit_code().is_none() {
            let _ = kill_process_group(self.pid, Signal::KILL);
            let end = Instant::now() + KILL_TIME;
            while self.exit_code().is_none() && Instant::now() < end {
                std::thread::sleep(LOOK_AGAIN);
            }
        }
        // Without waiting, as what could not be killed by now may take for ever.
        if !matches!(self.child.try_wait(), Ok(Some(_))) {
            left_behind().push(self.pid);
        }
    }
}

#[cfg(test)]
mod tests;
