//! Cancelling one unit of work from another thread.
//!
//! A [`Cancel`] is shared by the one who may cancel (a session's actor) and the ones who work (the turn's thread and its
//! tools). Work that polls asks [`Cancel::is_cancelled`]; work that sleeps uses [`Cancel::sleep`]; work that is stuck in a
//! blocking call registers an action with [`Cancel::on_cancel`] that makes the call return.

use crate::sync::{lock, wait_timeout};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

type Action = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Actions {
    next_id: u64,
    list: Vec<(u64, Action)>,
}

#[derive(Default)]
struct CancelState {
    cancelled: AtomicBool,
    actions: Mutex<Actions>,
    changed: Condvar,
}

/// A flag that goes from "go on" to "stop" once, and wakes those who wait for it. Clones share the flag.
#[derive(Clone, Default)]
pub struct Cancel(Arc<CancelState>);

impl Cancel {
    pub fn new() -> Cancel {
        Cancel::default()
    }

    fn actions(&self) -> MutexGuard<'_, Actions> {
        lock(&self.0.actions)
    }

    /// Cancels, runs the registered actions on the calling thread, and wakes sleepers. Later calls do nothing.
    pub fn cancel(&self) {
        let list = {
            let mut actions = self.actions();
            self.0.cancelled.store(true, Ordering::Release);
            std::mem::take(&mut actions.list)
        };
        self.0.changed.notify_all();
        for (_, action) in list {
            action();
        }
    }

    pub fn is_cancelled(&self) -> bool {
        self.0.cancelled.load(Ordering::Acquire)
    }

    /// Waits for `time` at most; true means that it was cancelled.
    pub fn sleep(&self, time: Duration) -> bool {
        let end = Instant::now() + time;
        let mut actions = self.actions();
        loop {
            if self.is_cancelled() {
                return true;
            }
            let now = Instant::now();
            if now >= end {
                return false;
            }
            actions = wait_timeout(&self.0.changed, actions, end - now);
        }
    }

    /// Registers `action` to run when this is cancelled, at once if it already is. Dropping the guard takes it back, so
    /// that an action never outlives what it acts on. Actions must be quick and must not wait.
    #[must_use = "dropping the guard takes the action back"]
    pub fn on_cancel(&self, action: impl FnOnce() + Send + 'static) -> OnCancel {
        let mut actions = self.actions();
        let id = actions.next_id;
        actions.next_id += 1;
        if self.is_cancelled() {
            drop(actions);
            action();
        } else {
            actions.list.push((id, Box::new(action)));
        }
        OnCancel { cancel: self.clone(), id }
    }
}

/// Keeps an action of [`Cancel::on_cancel`] registered.
pub struct OnCancel {
    cancel: Cancel,
    id: u64,
}

impl Drop for OnCancel {
    fn drop(&mut self) {
        self.cancel.actions().list.retain(|(id, _)| *id != self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    #[test]
    fn wakes_a_sleeper_and_runs_actions_once() {
        let (cancel, runs) = (Cancel::new(), Arc::new(AtomicUsize::new(0)));
        let counter = runs.clone();
        let _kept = cancel.on_cancel(move || {
            counter.fetch_add(1, Ordering::SeqCst);
        });
        let counter = runs.clone();
        drop(cancel.on_cancel(move || {
            counter.fetch_add(100, Ordering::SeqCst);
        }));
        let other = cancel.clone();
        let sleeper = std::thread::spawn(move || other.sleep(Duration::from_secs(30)));
        cancel.cancel();
        cancel.cancel();
        assert!(sleeper.join().expect("the sleeper returns"));
        assert_eq!(runs.load(Ordering::SeqCst), 1);
        let counter = runs.clone();
        let _late = cancel.on_cancel(move || {
            counter.fetch_add(1, Ordering::SeqCst);
        });
        assert_eq!(runs.load(Ordering::SeqCst), 2, "an action registered late runs at once");
        assert!(!Cancel::new().sleep(Duration::from_millis(1)));
    }
}
