//! The process before a runner: it waits for the runner's end, however that comes, and ends all that is left then.
//!
//! Programs may end their runner, by the number of one of the threads that start them, or by taking all memory. The guard has
//! no such threads, and where signals are confined to the sandbox one signal of its own reaches everything in there at once,
//! also what starts others and ends all the time, which no list of processes shows.

use crate::sys;
use crate::tools::child;
use rustix::io::Errno;
use rustix::process::{
    Pid, Signal, WaitOptions, WaitStatus, getpid, getppid, kill_process_group, set_parent_process_death_signal, wait,
};
use std::io;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// To kill what starts others and ends all the time, where that is a matter of luck. The daemon waits a little longer.
const END_TIME: Duration = Duration::from_secs(1);

/// Divides this process, which must have one thread only. It goes on as the runner; in the guard there is the runner's number.
///
/// # Errors
/// What the system says.
pub(super) fn divide() -> io::Result<Option<Pid>> {
    let guard = getpid();
    let runner = sys::fork()?;
    if runner.is_none() {
        child::adopt_orphans()?;
        // What is in a namespace of its own does not see its parent, which may have ended before this.
        set_parent_process_death_signal(Some(Signal::KILL))?;
        if getppid().is_some_and(|parent| parent != guard) {
            return Err(io::ErrorKind::NotConnected.into());
        }
    }
    Ok(runner)
}

/// The guard's part. It holds the runner's end of the socket, so that the daemon learns of the end when all have ended.
/// `signals_are_confined`: none reaches anything outside of the sandbox.
pub(super) fn watch(runner: Pid, signals_are_confined: bool) -> ExitCode {
    let status = loop {
        match wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if pid == runner => break Some(status),
            Ok(_) | Err(Errno::INTR) => {}
            Err(_) => break None,
        }
    };
    if signals_are_confined {
        // To all that this process may signal, which is all in its sandbox but itself. There is no moment in which something
        // that is being started is not reached.
        let _ = kill_process_group(Pid::INIT, Signal::KILL);
        while !wait(WaitOptions::empty()).is_err_and(|error| error == Errno::CHILD) {}
    } else {
        let end = Instant::now() + END_TIME;
        while child::has_children() && Instant::now() < end {
            child::kill_children();
            while let Ok(Some(_)) = wait(WaitOptions::NOHANG) {}
        }
    }
    let in_good_order = status.and_then(WaitStatus::exit_status) == Some(0);
    if in_good_order { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
