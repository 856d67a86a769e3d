//! Every thread of the daemon is started here: named, with a stack of its own size, joined when its owner drops it. Only the
//! NATS client, which stands alone, starts its own. `.clippy.toml` sees to it.

use crate::sync::lock;
use crossbeam_channel::{Receiver, Sender, TryRecvError, TrySendError, bounded};
use std::ffi::CString;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, MutexGuard};
use std::thread::{Builder, JoinHandle, Scope, ScopedJoinHandle};
use std::time::Duration;

/// Stack of a session's actor, bytes. It does little, and a thousand of them are usual.
pub(crate) const SESSION_STACK: usize = 128 * 1024;
/// Stack of a turn, bytes. One HTTPS exchange touches 64 KiB (measured); the rest is room for deep JSON.
pub(crate) const TURN_STACK: usize = 1024 * 1024;
/// Stack of a helper thread, bytes.
pub(crate) const SMALL_STACK: usize = 128 * 1024;

/// How long a thread waits for more work before it ends.
const IDLE_TIME: Duration = Duration::from_secs(1);
/// Threads that may wait for more work at the same time.
const MAX_IDLE: usize = 16;

/// Waits for its thread, or for the work that a thread of the pool does, when dropped, so that neither outlives its owner.
#[derive(Debug)]
pub(crate) struct Thread(Option<Kind>);

#[derive(Debug)]
enum Kind {
    Own(JoinHandle<()>),
    /// Disconnected when the work is done.
    Pooled(Receiver<()>),
}

/// Work for a thread of the pool.
struct Job {
    name: String,
    work: Box<dyn FnOnce() + Send>,
    /// Dropped when the work is done.
    done: Sender<()>,
}

/// Threads that are used again.
struct Pool {
    /// The channels of the threads that wait for more work.
    idle: Mutex<Vec<Sender<Job>>>,
    /// How long they wait.
    time: Duration,
}

static POOL: Pool = Pool::new(IDLE_TIME);

/// Starts a thread. The kernel shows at most 15 bytes of `name`.
///
/// # Errors
/// The system refuses another thread (`EAGAIN`), which callers report as "busy".
#[expect(clippy::disallowed_methods, reason = "the only door")]
pub(crate) fn spawn(name: &str, stack: usize, work: impl FnOnce() + Send + 'static) -> io::Result<Thread> {
    let handle = builder(name, stack).spawn(work)?;
    Ok(Thread(Some(Kind::Own(handle))))
}

/// Starts a thread that `scope` waits for.
///
/// # Errors
/// The same as [`spawn`]'s.
#[expect(clippy::disallowed_methods, reason = "the only door")]
pub(crate) fn spawn_scoped<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    name: &str,
    stack: usize,
    work: impl FnOnce() -> T + Send + 'scope,
) -> io::Result<ScopedJoinHandle<'scope, T>> {
    builder(name, stack).spawn_scoped(scope, work)
}

fn builder(name: &str, stack: usize) -> Builder {
    Builder::new().name(shown(name)).stack_size(stack)
}

/// Runs short work, such as a prompt, on a thread of the pool, whose stack has [`TURN_STACK`] bytes. A thread that has just
/// finished other work is taken before a new one is started: that costs less, and on a busy machine far less, since the
/// kernel lets a new thread wait for its first turn behind all others.
///
/// # Errors
/// The same as [`spawn`]'s.
pub(crate) fn run(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<Thread> {
    POOL.run(name, Box::new(work))
}

impl Pool {
    const fn new(time: Duration) -> Pool {
        Pool { idle: Mutex::new(Vec::new()), time }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Sender<Job>>> {
        lock(&self.idle)
    }

    fn run(&'static self, name: &str, work: Box<dyn FnOnce() + Send>) -> io::Result<Thread> {
        let (done, wait) = bounded(0);
        let job = Job { name: shown(name), work, done };
        let worker = self.idle().pop();
        let refused = match worker {
            Some(worker) => worker.try_send(job).err().map(TrySendError::into_inner),
            None => Some(job),
        };
        if let Some(job) = refused {
            // The thread waits for work by itself, so that nobody has to join it.
            #[expect(clippy::disallowed_methods, reason = "the only door")]
            builder(&job.name, TURN_STACK).spawn(move || self.serve(job))?;
        }
        Ok(Thread(Some(Kind::Pooled(wait))))
    }

    /// What a thread of the pool does: its first job, then whatever comes soon enough after the last one.
    fn serve(&self, mut job: Job) {
        let (channel, jobs) = bounded(1);
        loop {
            // Reported where the work is caught; here it only must not end the thread.
            let _ = catch_unwind(AssertUnwindSafe(job.work));
            set_name("idle");
            {
                let mut idle = self.idle();
                if idle.len() >= MAX_IDLE {
                    return;
                }
                idle.push(channel.clone());
            }
            drop(job.done);
            job = match jobs.recv_timeout(self.time) {
                Ok(job) => job,
                Err(_) if self.cancel_idle(&channel) => return,
                Err(_) => match jobs.recv() {
                    Ok(job) => job,
                    Err(_) => return,
                },
            };
            set_name(&job.name);
        }
    }

    /// Removes a thread's channel from the idle ones. False = a caller of [`run`] has taken it, so that a job is on it or comes at
    /// once.
    fn cancel_idle(&self, channel: &Sender<Job>) -> bool {
        let mut idle = self.idle();
        let place = idle.iter().position(|other| other.same_channel(channel));
        place.map(|place| idle.remove(place)).is_some()
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
    /// Whether the thread, or the work in the pool, has ended.
    pub(crate) fn is_finished(&self) -> bool {
        match &self.0 {
            Some(Kind::Own(handle)) => handle.is_finished(),
            Some(Kind::Pooled(done)) => matches!(done.try_recv(), Err(TryRecvError::Disconnected)),
            None => true,
        }
    }

    /// Lets the thread go on by itself: for one that is stuck in a call which nothing can interrupt.
    pub(crate) fn abandon(mut self) {
        self.0 = None;
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        // A panic was reported where the thread's work is caught; there is nothing to add here.
        match self.0.take() {
            Some(Kind::Own(handle)) => drop(handle.join()),
            Some(Kind::Pooled(done)) => drop(done.recv()),
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

    /// Runs work that says which thread it is on and then waits until the sender is dropped.
    fn run_one(pool: &'static Pool) -> (ThreadId, Thread, Sender<()>) {
        let (to, from) = bounded(1);
        let (hold, held) = bounded::<()>(0);
        let work = move || {
            to.send(current().id()).expect("somebody waits");
            held.recv().expect_err("nothing is sent");
        };
        let thread = pool.run("test", Box::new(work)).expect("a thread");
        (from.recv_timeout(DEADLINE).expect("it works"), thread, hold)
    }

    #[test]
    fn a_thread_is_used_again_but_not_while_it_is_busy() {
        static POOL: Pool = Pool::new(DEADLINE);
        let (first, first_thread, hold_first) = run_one(&POOL);
        let (second, _second_thread, _hold_second) = run_one(&POOL);
        assert_ne!(first, second);
        drop(hold_first);
        drop(first_thread);
        let (third, _third_thread, _hold_third) = run_one(&POOL);
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
        drop(POOL.run("panics", Box::new(work)).expect("a thread"));
        assert_eq!(from.try_recv(), Ok(()));
    }

    #[test]
    fn a_thread_ends_when_there_is_no_more_work() {
        static POOL: Pool = Pool::new(Duration::ZERO);
        for _ in 0..100 {
            let (_, _thread, _hold) = run_one(&POOL);
        }
        let end = Instant::now() + DEADLINE;
        while !POOL.idle().is_empty() {
            assert!(Instant::now() < end);
            std::thread::yield_now();
        }
    }

    #[test]
    fn one_that_is_stuck_can_be_left() {
        static POOL: Pool = Pool::new(DEADLINE);
        let (_, thread, hold) = run_one(&POOL);
        thread.abandon();
        drop(hold);
    }
}
