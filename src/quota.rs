//! Room for what callers and models make the daemon keep: files that came with prompts, outputs of programs, prompts that wait.
//! Of each of these a session has a share of its own, and all sessions have one together. The kinds are apart, so that long
//! outputs leave room for prompts.

use crate::files::size;
use crate::sync::lock;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

/// What is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) enum Kind {
    Attachments,
    Outputs,
    Prompts,
}

/// Bytes that are kept, of each kind.
#[derive(Default)]
struct Used([AtomicU64; 3]);

impl Used {
    fn of(&self, kind: Kind) -> &AtomicU64 {
        let [attachments, outputs, prompts] = &self.0;
        match kind {
            Kind::Attachments => attachments,
            Kind::Outputs => outputs,
            Kind::Prompts => prompts,
        }
    }
}

/// What all sessions keep together.
pub(crate) struct HostQuota {
    /// Bytes of each session.
    session_limit: u64,
    limit: u64,
    used: Used,
}

/// What one session keeps. Whatever is still counted when it ends is given back to the host.
pub(crate) struct SessionQuota {
    host: Arc<HostQuota>,
    used: Used,
    /// Has the account, if that is in another process: takes as many of these bytes as there are, and says what if it is less.
    lender: Option<Lender>,
    refusal: Mutex<String>,
}

/// Returns how many bytes were taken, and why not all.
pub(crate) type Lender = Box<dyn Fn(Kind, u64) -> (u64, String) + Send + Sync>;

/// Room that was taken, and is given back when this is dropped.
pub(crate) struct Room {
    quota: Arc<SessionQuota>,
    kind: Kind,
    bytes: u64,
}

/// There is no room.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct QuotaExceeded {
    kind: Kind,
    whose: &'static str,
    limit: u64,
}

impl HostQuota {
    /// Limits in bytes of each kind, of a session and of all; zero is no limit.
    pub(crate) fn new(session_limit: u64, limit: u64) -> Arc<HostQuota> {
        let bytes = |limit: u64| if limit == 0 { u64::MAX } else { limit };
        Arc::new(HostQuota { session_limit: bytes(session_limit), limit: bytes(limit), used: Used::default() })
    }

    /// The share of a new session.
    pub(crate) fn session(self: &Arc<Self>) -> Arc<SessionQuota> {
        self.account(None)
    }

    fn account(self: &Arc<Self>, lender: Option<Lender>) -> Arc<SessionQuota> {
        Arc::new(SessionQuota { host: self.clone(), used: Used::default(), lender, refusal: Mutex::default() })
    }
}

impl SessionQuota {
    /// The share of a session whose account is in another process.
    pub(crate) fn lent(lender: Lender) -> Arc<SessionQuota> {
        HostQuota::new(0, 0).account(Some(lender))
    }

    /// Takes room for all of so many bytes.
    ///
    /// # Errors
    /// The session or the host has not so much left; nothing is taken then.
    pub(crate) fn take(self: &Arc<Self>, kind: Kind, bytes: u64) -> Result<Room, QuotaExceeded> {
        let room = Room { quota: self.clone(), kind, bytes: self.reserve(kind, bytes) };
        if room.bytes == bytes {
            return Ok(room);
        }
        drop(room);
        Err(self.exceeded(kind, bytes))
    }

    /// Takes room for what is there already, whether there is any or not.
    pub(crate) fn take_anyway(self: &Arc<Self>, kind: Kind, bytes: u64) -> Room {
        self.used.of(kind).fetch_add(bytes, SeqCst);
        self.host.used.of(kind).fetch_add(bytes, SeqCst);
        Room { quota: self.clone(), kind, bytes }
    }

    /// Takes room for as many of these bytes as there is, until the session ends; returns for how many.
    pub(crate) fn keep_up_to(&self, kind: Kind, bytes: u64) -> u64 {
        let Some(lender) = &self.lender else { return self.reserve(kind, bytes) };
        let (taken, why) = lender(kind, bytes);
        if taken < bytes {
            *lock(&self.refusal) = why;
        }
        taken
    }

    /// Why [`SessionQuota::keep_up_to`] has taken less than so many bytes.
    pub(crate) fn refusal(&self, kind: Kind, bytes: u64) -> String {
        match self.lender {
            Some(_) => lock(&self.refusal).clone(),
            None => self.exceeded(kind, bytes).to_string(),
        }
    }

    /// Why there is no room for so many bytes.
    fn exceeded(&self, kind: Kind, bytes: u64) -> QuotaExceeded {
        let own = self.host.session_limit.saturating_sub(self.used.of(kind).load(SeqCst));
        if own < bytes {
            QuotaExceeded { kind, whose: "session", limit: self.host.session_limit }
        } else {
            QuotaExceeded { kind, whose: "host", limit: self.host.limit }
        }
    }

    /// Takes as many of these bytes as there are left.
    fn reserve(&self, kind: Kind, bytes: u64) -> u64 {
        let own = reserve(self.used.of(kind), self.host.session_limit, bytes);
        let taken = reserve(self.host.used.of(kind), self.host.limit, own);
        self.used.of(kind).fetch_sub(own - taken, SeqCst);
        taken
    }
}

fn reserve(used: &AtomicU64, limit: u64, bytes: u64) -> u64 {
    let mut taken = 0;
    // The function never refuses, so that there is always a value.
    let _ = used.fetch_update(SeqCst, SeqCst, |used| {
        taken = bytes.min(limit.saturating_sub(used));
        Some(used + taken)
    });
    taken
}

impl Room {
    /// Keeps it until the session ends.
    pub(crate) fn keep(mut self) {
        self.bytes = 0;
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.quota.used.of(self.kind).fetch_sub(self.bytes, SeqCst);
        self.quota.host.used.of(self.kind).fetch_sub(self.bytes, SeqCst);
    }
}

impl Drop for SessionQuota {
    fn drop(&mut self) {
        for kind in [Kind::Attachments, Kind::Outputs, Kind::Prompts] {
            self.host.used.of(kind).fetch_sub(self.used.of(kind).load(SeqCst), SeqCst);
        }
    }
}

impl fmt::Debug for Room {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Room({:?}, {})", self.kind, self.bytes)
    }
}

impl fmt::Display for QuotaExceeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let QuotaExceeded { kind, whose, limit } = self;
        let what = match kind {
            Kind::Attachments => "attachments",
            Kind::Outputs => "outputs of programs",
            Kind::Prompts => "waiting prompts",
        };
        write!(f, "the {whose}'s {} for {what} are used up", size(*limit))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_taken_and_given_back() {
        let host = HostQuota::new(100, 150);
        let (one, other) = (host.session(), host.session());
        let room = one.take(Kind::Outputs, 60).expect("there is room");
        assert_eq!(
            one.take(Kind::Outputs, 41).err(),
            Some(QuotaExceeded { kind: Kind::Outputs, whose: "session", limit: 100 })
        );
        assert!(one.take(Kind::Outputs, 40).is_ok(), "what was not kept is given back");
        assert!(one.take(Kind::Prompts, 100).is_ok(), "another kind has room of its own");
        other.take(Kind::Outputs, 80).expect("there is room").keep();
        assert_eq!(
            other.take(Kind::Outputs, 20).err(),
            Some(QuotaExceeded { kind: Kind::Outputs, whose: "host", limit: 150 })
        );
        drop(room);
        assert_eq!(other.keep_up_to(Kind::Outputs, 30), 20, "the session's end is nearer than the host's");
        assert_eq!((one.keep_up_to(Kind::Outputs, 70), host.used.of(Kind::Outputs).load(SeqCst)), (50, 150));
        drop(other);
        assert_eq!(host.used.of(Kind::Outputs).load(SeqCst), 50);
        drop(one);
        assert_eq!(host.used.of(Kind::Outputs).load(SeqCst), 0);
    }

    #[test]
    fn what_is_there_counts_even_where_it_is_too_much() {
        let quota = HostQuota::new(10, 0).session();
        let there = quota.take_anyway(Kind::Outputs, 20);
        assert!(
            quota.take(Kind::Outputs, 1).is_err()
                && quota.keep_up_to(Kind::Outputs, 1) == 0
                && quota.take(Kind::Outputs, 0).is_ok()
        );
        drop(there);
        assert!(quota.take(Kind::Outputs, 10).is_ok());
        assert!(HostQuota::new(0, 0).session().take(Kind::Outputs, u64::MAX).is_ok());
    }

    #[test]
    fn threads_never_take_more_than_there_is() {
        let host = HostQuota::new(1000, 1500);
        let sessions = [host.session(), host.session()];
        let taken: u64 = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..8)
                .map(|n| {
                    let quota = &sessions[n % 2];
                    scope.spawn(move || (0..100).map(|_| quota.keep_up_to(Kind::Outputs, 7)).sum::<u64>())
                })
                .collect();
            workers.into_iter().map(|worker| worker.join().expect("no panic")).sum()
        });
        assert_eq!((taken, host.used.of(Kind::Outputs).load(SeqCst)), (1500, 1500));
    }
}
