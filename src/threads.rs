//! Every thread of the daemon is started here: named, with a stack of its own size, waited for when its owner lets go.

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use std::ffi::CString;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

/// Stack of a session's actor, bytes. It does little, and a thousand of them are usual.
pub const SESSION_STACK: usize = 128 * 1024;
/// Stack of a turn, bytes. One HTTPS exchange touches 64 KiB (measured); the rest is room for deep JSON.
pub const TURN_STACK: usize = 1024 * 1024;
/// Stack of a helper thread, bytes.
pub const SMALL_STACK: usize = 128 * 1024;

/// How long a thread waits for more work before it ends.
const SPARE_TIME: Duration = Duration::from_secs(1);
/// Threads that may wait for more work at the same time.
const MAX_SPARE: usize = 16;

/// Waits for its thread, or for what a lent thread works on, when dropped, so that neither outlives what it is for.
#[derive(Debug)]
pub struct Thread(Option<Kind>);

#[derive(Debug)]
enum Kind {
    Own(JoinHandle<()>),
    /// Disconnected when the work is done.
    Lent(Receiver<()>),
}

/// Work for a thread that is lent.
struct Job {
    name: String,
    work: Box<dyn FnOnce() + Send>,
    /// Dropped when the work is done.
    done: Sender<()>,
}

/// The ways to the threads that wait for more work.
static SPARE: Mutex<Vec<Sender<Job>>> = Mutex::new(Vec::new());

fn spare() -> MutexGuard<'static, Vec<Sender<Job>>> {
    SPARE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts a thread. The kernel shows at most 15 bytes of `name`.
///
/// # Errors
/// The system refuses another thread (`EAGAIN`), which callers report as "busy".
pub fn spawn(name: &str, stack: usize, work: impl FnOnce() + Send + 'static) -> io::Result<Thread> {
    let handle = Builder::new().name(shown(name)).stack_size(stack).spawn(work)?;
    Ok(Thread(Some(Kind::Own(handle))))
}

/// Has work done that is over soon, such as a prompt, on a thread with a stack of [`TURN_STACK`] bytes. It may be one that
/// has just done something else: that costs less than to start one, and on a busy machine far less, since the kernel lets
/// a new thread wait for its first turn behind all others.
///
/// # Errors
/// The same as [`spawn`]'s.
pub fn lend(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<Thread> {
    let (done, wait) = bounded(0);
    let job = Job { name: shown(name), work: Box::new(work), done };
    let worker = spare().pop();
    let refused = match worker {
        Some(worker) => worker.try_send(job).err().map(TrySendError::into_inner),
        None => Some(job),
    };
    if let Some(job) = refused {
        Builder::new().name(job.name.clone()).stack_size(TURN_STACK).spawn(move || serve(job))?;
    }
    Ok(Thread(Some(Kind::Lent(wait))))
}

/// The life of a thread that is lent: its first job, then whatever comes within [`SPARE_TIME`] of the last one.
fn serve(mut job: Job) {
    let (way, jobs) = bounded(1);
    loop {
        // Reported where the work is caught; here it only must not end the thread.
        let _ = catch_unwind(AssertUnwindSafe(job.work));
        set_name("spare");
        {
            let mut spare = spare();
            if spare.len() >= MAX_SPARE {
                return;
            }
            spare.push(way.clone());
        }
        drop(job.done);
        job = match jobs.recv_timeout(SPARE_TIME) {
            Ok(job) => job,
            Err(_) => {
                let mut spare = spare();
                match spare.iter().position(|other| other.same_channel(&way)) {
                    Some(place) => {
                        spare.remove(place);
                        return;
                    }
                    // Somebody has just taken this way, so that a job is on it.
                    None => match jobs.recv() {
                        Ok(job) => job,
                        Err(_) => return,
                    },
                }
            }
        };
        set_name(&job.name);
    }
}

fn set_name(name: &str) {
    // A name is for people; a thread works without.
    if let Ok(name) = CString::new(name) {
        let _ = rustix::thread::set_name(&name);
    }
}

/// What the kernel has room for.
fn shown(name: &str) -> String {
    name.chars().take(15).collect()
}

impl Thread {
    /// Lets the thread go on by itself: for one that is stuck in a call which nothing can interrupt.
    pub fn abandon(mut self) {
        self.0 = None;
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        // A panic was reported where the thread's work is caught; there is nothing to add here.
        match self.0.take() {
            Some(Kind::Own(handle)) => drop(handle.join()),
            Some(Kind::Lent(done)) => drop(done.recv()),
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread::{ThreadId, current};

    const DEADLINE: Duration = Duration::from_secs(10);

    /// Has work done that says where that is and then waits until the sender is dropped.
    fn lend_one() -> (ThreadId, Sender<()>, Thread) {
        let (to, from) = bounded(1);
        let (hold, held) = bounded::<()>(0);
        let work = move || {
            to.send(current().id()).expect("somebody waits");
            held.recv().expect_err("nothing is sent");
        };
        let thread = lend("test", work).expect("a thread");
        (from.recv_timeout(DEADLINE).expect("it works"), hold, thread)
    }

    #[test]
    fn a_thread_is_lent_again_but_not_while_it_is_busy() {
        let (first, hold_first, first_thread) = lend_one();
        let (second, hold_second, second_thread) = lend_one();
        assert_ne!(first, second);
        drop(hold_first);
        drop(first_thread);
        // Another test may have it for a moment.
        let again = (0..100).any(|_| {
            let (thread, hold, _waits) = lend_one();
            drop(hold);
            assert_ne!(thread, second);
            thread == first
        });
        assert!(again);
        drop(hold_second);
        drop(second_thread);
    }

    #[test]
    fn dropping_waits_for_the_work_even_if_it_panics() {
        let (to, from) = bounded(1);
        let work = move || {
            to.send(()).expect("there is room");
            panic!("on purpose");
        };
        drop(lend("panics", work).expect("a thread"));
        assert_eq!(from.try_recv(), Ok(()));
    }

    #[test]
    fn one_that_is_stuck_can_be_left() {
        let (_, hold, thread) = lend_one();
        thread.abandon();
        drop(hold);
    }
}
