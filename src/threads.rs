//! Every thread of the daemon is started here: named, with a stack of its own size, waited for when its owner lets go.

use crate::sync::lock;
use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use std::ffi::CString;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, MutexGuard};
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

/// Threads that are lent.
struct Pool {
    /// The ways to those that wait for more work.
    spare: Mutex<Vec<Sender<Job>>>,
    /// How long they wait.
    time: Duration,
}

static POOL: Pool = Pool::new(SPARE_TIME);

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
    POOL.lend(name, Box::new(work))
}

impl Pool {
    const fn new(time: Duration) -> Pool {
        Pool { spare: Mutex::new(Vec::new()), time }
    }

    fn spare(&self) -> MutexGuard<'_, Vec<Sender<Job>>> {
        lock(&self.spare)
    }

    fn lend(&'static self, name: &str, work: Box<dyn FnOnce() + Send>) -> io::Result<Thread> {
        let (done, wait) = bounded(0);
        let job = Job { name: shown(name), work, done };
        let worker = self.spare().pop();
        let refused = match worker {
            Some(worker) => worker.try_send(job).err().map(TrySendError::into_inner),
            None => Some(job),
        };
        if let Some(job) = refused {
            Builder::new().name(job.name.clone()).stack_size(TURN_STACK).spawn(move || self.serve(job))?;
        }
        Ok(Thread(Some(Kind::Lent(wait))))
    }

    /// The life of a thread that is lent: its first job, then whatever comes soon enough after the last one.
    fn serve(&self, mut job: Job) {
        let (way, jobs) = bounded(1);
        loop {
            // Reported where the work is caught; here it only must not end the thread.
            let _ = catch_unwind(AssertUnwindSafe(job.work));
            set_name("spare");
            {
                let mut spare = self.spare();
                if spare.len() >= MAX_SPARE {
                    return;
                }
                spare.push(way.clone());
            }
            drop(job.done);
            job = match jobs.recv_timeout(self.time) {
                Ok(job) => job,
                Err(_) if self.withdraw(&way) => return,
                Err(_) => match jobs.recv() {
                    Ok(job) => job,
                    Err(_) => return,
                },
            };
            set_name(&job.name);
        }
    }

    /// Takes a way back from those that wait. False = somebody has taken it, so that a job is on it or comes at once.
    fn withdraw(&self, way: &Sender<Job>) -> bool {
        let mut spare = self.spare();
        let place = spare.iter().position(|other| other.same_channel(way));
        place.map(|place| spare.remove(place)).is_some()
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
    use std::time::Instant;

    const DEADLINE: Duration = Duration::from_secs(60);

    /// Has work done that says where that is and then waits until the sender is dropped.
    fn lend_one(pool: &'static Pool) -> (ThreadId, Thread, Sender<()>) {
        let (to, from) = bounded(1);
        let (hold, held) = bounded::<()>(0);
        let work = move || {
            to.send(current().id()).expect("somebody waits");
            held.recv().expect_err("nothing is sent");
        };
        let thread = pool.lend("test", Box::new(work)).expect("a thread");
        (from.recv_timeout(DEADLINE).expect("it works"), thread, hold)
    }

    #[test]
    fn a_thread_is_lent_again_but_not_while_it_is_busy() {
        static POOL: Pool = Pool::new(DEADLINE);
        let (first, first_thread, hold_first) = lend_one(&POOL);
        let (second, _second_thread, _hold_second) = lend_one(&POOL);
        assert_ne!(first, second);
        drop(hold_first);
        drop(first_thread);
        let (third, _third_thread, _hold_third) = lend_one(&POOL);
        assert_eq!(third, first);
    }

    #[test]
    fn dropping_waits_for_the_work_even_if_it_panics() {
        static POOL: Pool = Pool::new(DEADLINE);
        let (to, from) = bounded(1);
        let work = move || {
            to.send(()).expect("there is room");
            panic!("on purpose");
        };
        drop(POOL.lend("panics", Box::new(work)).expect("a thread"));
        assert_eq!(from.try_recv(), Ok(()));
    }

    #[test]
    fn a_thread_ends_when_there_is_no_more_work() {
        static POOL: Pool = Pool::new(Duration::ZERO);
        for _ in 0..100 {
            let (_, _thread, _hold) = lend_one(&POOL);
        }
        let end = Instant::now() + DEADLINE;
        while !POOL.spare().is_empty() {
            assert!(Instant::now() < end);
            std::thread::yield_now();
        }
    }

    #[test]
    fn one_that_is_stuck_can_be_left() {
        static POOL: Pool = Pool::new(DEADLINE);
        let (_, thread, hold) = lend_one(&POOL);
        thread.abandon();
        drop(hold);
    }
}
