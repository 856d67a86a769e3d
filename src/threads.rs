//! Every thread of the daemon is started here: named, with a stack of its own size, joined when its owner lets go.

use std::io;
use std::thread::{Builder, JoinHandle};

/// Stack of a session's actor, bytes. It does little, and a thousand of them are usual.
pub const SESSION_STACK: usize = 128 * 1024;
/// Stack of a turn, bytes. One HTTPS exchange touches 64 KiB (measured); the rest is room for deep JSON.
pub const TURN_STACK: usize = 1024 * 1024;
/// Stack of a helper thread, bytes.
pub const SMALL_STACK: usize = 128 * 1024;

/// Joins its thread when dropped, so that no thread outlives what it works for.
#[derive(Debug)]
pub struct Thread(Option<JoinHandle<()>>);

/// Starts a thread. The kernel shows at most 15 bytes of `name`.
///
/// # Errors
/// The system refuses another thread (`EAGAIN`), which callers report as "busy".
pub fn spawn(name: &str, stack: usize, work: impl FnOnce() + Send + 'static) -> io::Result<Thread> {
    let handle = Builder::new().name(name.chars().take(15).collect()).stack_size(stack).spawn(work)?;
    Ok(Thread(Some(handle)))
}

impl Thread {
    /// Lets the thread go on by itself: for one that is stuck in a call which nothing can interrupt.
    pub fn abandon(mut self) {
        self.0 = None;
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        if let Some(handle) = self.0.take() {
            // A panic was reported where the thread's work is caught; there is nothing to add here.
            let _ = handle.join();
        }
    }
}
