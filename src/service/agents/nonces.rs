//! Which signed requests were accepted, here or by another daemon of the owner, so that nobody can send one again, also after
//! a restart.
//!
//! The file is written whole when the daemon ends in good order. While it runs, the file says only that it runs: whoever
//! starts and finds that knows that the one before was cut off, and refuses what was signed before its own start. Requests
//! whose time is ahead of our clock may be later than that start, so that the file also says how late the latest one was.
//! Only the first request and, once a second, those of senders with a clock that is ahead wait for such a small note.

use crate::files::{self, private};
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, HashSet};
use std::io::{self, ErrorKind, Write};
use std::path::PathBuf;
use std::time::Duration;

/// How far a request's time may be from ours, milliseconds.
pub(super) const WINDOW_MS: i64 = 30_000;
/// How long others have to know that a request was accepted: until its time is refused, whichever clock is ahead.
pub(crate) const REMEMBERED: Duration = Duration::from_millis(2 * WINDOW_MS as u64);
/// Requests of one key that are remembered. A window holds twice its length, so this is 66 a second.
pub(super) const MAX_OF_KEY: usize = 4_000;
/// Requests that are remembered where any key is taken. At some 130 bytes each this is the memory that senders can make us
/// spend; only requests with a good signature count.
const MAX_OF_ALL: usize = 20_000;
/// How much later than the latest request the file says, so that it need not be written for each, milliseconds.
const NOTE_AHEAD_MS: i64 = 1000;
/// The largest file that is read, bytes: every remembered request at its longest.
const MAX_FILE: u64 = 64 << 20;

/// Why a request is not accepted.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    UsedBefore,
    /// Before this daemon's start, when another one may have accepted it.
    BeforeStart,
    Full,
}

/// What tells a signed request from every other one.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub(crate) struct SignedNonce {
    /// The user's public key.
    pub user: String,
    pub nonce: String,
    /// Unix time in milliseconds.
    pub time: i64,
}

/// The file's content.
#[derive(Default, Deserialize, Serialize)]
struct Record {
    /// Whoever wrote it has ended, and this is all.
    complete: bool,
    /// No accepted request was later than this and than the end of whoever wrote it. Unix time in milliseconds.
    latest: i64,
    /// Unix time in milliseconds, by nonce, by key.
    accepted: HashMap<String, HashMap<String, i64>>,
}

/// The requests that were accepted within the window.
pub(super) struct Nonces {
    /// Unix time in milliseconds, by nonce, by key.
    accepted: HashMap<String, HashMap<String, i64>>,
    /// Those of them that another daemon accepted, by key and nonce. That daemon may hand one on.
    by_others: HashSet<(String, String)>,
    count: usize,
    max: usize,
    /// Unix time in milliseconds.
    not_before: i64,
    file: Option<PathBuf>,
    /// What the file says of the latest request; `None` while it does not say that we run.
    noted: Option<i64>,
}

impl Nonces {
    /// With `known_keys` that are the only ones, each has its full room.
    pub(super) fn new(known_keys: usize) -> Nonces {
        Nonces {
            accepted: HashMap::new(),
            by_others: HashSet::new(),
            count: 0,
            max: MAX_OF_ALL.max(known_keys.saturating_mul(MAX_OF_KEY)),
            not_before: i64::MIN,
            file: None,
            noted: None,
        }
    }

    /// Takes up what the daemon before has left in `file`.
    pub(super) fn kept_in(mut self, file: PathBuf, now_ms: i64) -> Nonces {
        let read = files::read(&file, MAX_FILE).and_then(|text| Ok(serde_json::from_slice::<Record>(&text)?));
        match read {
            Err(e) if e.kind() == ErrorKind::NotFound => {
                self.file = Some(file);
                return self;
            }
            Ok(Record { complete: true, accepted, .. }) => {
                for (key, nonces) in accepted {
                    self.accepted.entry(key).or_default().extend(nonces);
                }
                self.forget_old(now_ms);
            }
            // Times in whole seconds are cut off, so that the second of the start belongs to the time before.
            cut_off => {
                let latest = cut_off.map_or(now_ms + WINDOW_MS, |record| record.latest.min(now_ms + WINDOW_MS));
                self.not_before = (latest.max(now_ms).div_euclid(1000) + 1) * 1000;
            }
        }
        self.file = Some(file);
        // A second crash shall not make them count either.
        let latest = self.accepted.values().flat_map(HashMap::values).copied().max().unwrap_or(i64::MIN);
        self.note(latest.max(self.not_before));
        self
    }

    /// Accepts a request that was signed at `time_ms`, once.
    ///
    /// # Errors
    /// [`Refusal`].
    pub(super) fn accept(&mut self, key: &str, nonce: &str, time_ms: i64, now_ms: i64) -> Result<(), Refusal> {
        if time_ms < self.not_before {
            return Err(Refusal::BeforeStart);
        }
        // What is older than the window is refused for its time already.
        if self.knows(key, nonce).is_some_and(|time| time >= now_ms - WINDOW_MS) {
            return Err(Refusal::UsedBefore);
        }
        self.remember(key, nonce, time_ms, now_ms)
    }

    fn remember(&mut self, key: &str, nonce: &str, time_ms: i64, now_ms: i64) -> Result<(), Refusal> {
        if self.is_full(key) {
            self.forget_old(now_ms);
            if self.is_full(key) {
                return Err(Refusal::Full);
            }
        }
        if self.noted.is_none_or(|latest| time_ms > now_ms.max(latest)) {
            self.note(time_ms.max(now_ms) + NOTE_AHEAD_MS);
        }
        let before = self.accepted.entry(key.to_string()).or_default().insert(nonce.to_string(), time_ms);
        self.count += usize::from(before.is_none());
        Ok(())
    }

    fn knows(&self, key: &str, nonce: &str) -> Option<i64> {
        self.accepted.get(key)?.get(nonce).copied()
    }

    /// Another daemon accepted a request.
    pub(super) fn accepted_by_another(&mut self, signed: &SignedNonce, now_ms: i64) {
        let SignedNonce { user, nonce, time } = signed;
        // Where there is no room for it, there is none for the request either.
        if (now_ms - time).abs() <= WINDOW_MS
            && self.knows(user, nonce).is_none()
            && self.remember(user, nonce, *time, now_ms).is_ok()
        {
            self.leave_to_another(user, nonce);
        }
    }

    /// Whether this daemon accepted a request itself.
    pub(super) fn is_ours(&self, signed: &SignedNonce) -> bool {
        let SignedNonce { user, nonce, .. } = signed;
        self.knows(user, nonce).is_some() && !self.by_others.contains(&(user.clone(), nonce.clone()))
    }

    /// What was accepted here counts as accepted by another daemon.
    pub(super) fn leave_to_another(&mut self, user: &str, nonce: &str) {
        self.by_others.insert((user.to_string(), nonce.to_string()));
    }

    /// Takes over, once, what another daemon accepted. False if there is nothing of the kind.
    pub(super) fn take_over(&mut self, user: &str, nonce: &str) -> bool {
        self.by_others.remove(&(user.to_string(), nonce.to_string()))
    }

    fn is_full(&self, key: &str) -> bool {
        self.count >= self.max || self.accepted.get(key).is_some_and(|nonces| nonces.len() >= MAX_OF_KEY)
    }

    /// Forgets what is refused for its time already.
    pub(super) fn forget_old(&mut self, now_ms: i64) {
        self.accepted.retain(|_, nonces| {
            nonces.retain(|_, time| *time >= now_ms - WINDOW_MS);
            !nonces.is_empty()
        });
        let accepted = &self.accepted;
        self.by_others.retain(|(user, nonce)| accepted.get(user).is_some_and(|nonces| nonces.contains_key(nonce)));
        self.count = self.accepted.values().map(HashMap::len).sum();
    }

    /// Says in the file that we run, and that nothing later than `latest` was accepted ahead of time.
    fn note(&mut self, latest: i64) {
        self.noted = Some(latest);
        self.write(&Record { latest, ..Record::default() });
    }

    /// Leaves all of it to the next daemon, and accepts nothing more.
    pub(super) fn hand_over(&mut self) {
        if self.noted.is_some() {
            let accepted = std::mem::take(&mut self.accepted);
            self.write(&Record { complete: true, accepted, ..Record::default() });
            self.not_before = i64::MAX;
        }
    }

    /// Leaves what was accepted so far to another daemon that begins on the same file, and writes there no more.
    pub(super) fn lend(&mut self) {
        if self.noted.is_some() {
            self.write(&Record { complete: true, accepted: self.accepted.clone(), ..Record::default() });
        }
        self.file = None;
    }

    /// That daemon has ended.
    pub(super) fn take_back(&mut self, file: PathBuf) {
        self.file = Some(file);
        self.noted.into_iter().for_each(|latest| self.note(latest));
    }

    fn write(&self, record: &Record) {
        let Some(file) = &self.file else { return };
        let written = serde_json::to_vec(record).map_err(io::Error::from);
        let written = written.and_then(|content| private::replace(file, |out| out.write_all(&content)));
        if let Err(e) = written {
            log::warn!("signed requests could be sent again after a restart: {}: {e}", file.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A whole second.
    const NOW: i64 = 1_767_323_045_000;

    #[test]
    fn one_key_cannot_take_the_room_of_others() {
        let mut nonces = Nonces::new(0);
        for n in 0..MAX_OF_KEY {
            assert_eq!(nonces.accept("a", &n.to_string(), NOW, NOW), Ok(()));
        }
        assert_eq!(nonces.accept("a", "more", NOW, NOW), Err(Refusal::Full));
        assert_eq!(nonces.accept("b", "1", NOW, NOW), Ok(()));
        assert_eq!(nonces.accept("b", "1", NOW, NOW), Err(Refusal::UsedBefore));
        let later = NOW + WINDOW_MS + 1;
        assert_eq!(nonces.accept("a", "more", later, later), Ok(()));
        assert_eq!(nonces.count, 1, "what is over is forgotten");
    }

    #[test]
    fn memory_is_bounded_over_all_keys_unless_they_are_known() {
        for (known, room) in [(0, MAX_OF_ALL), (6, 6 * MAX_OF_KEY)] {
            let mut nonces = Nonces::new(known);
            let accepted =
                (0..room + 1).filter(|n| nonces.accept(&(n % 8).to_string(), &n.to_string(), NOW, NOW).is_ok()).count();
            assert_eq!(accepted, room);
        }
    }

    #[test]
    fn what_was_accepted_is_known_to_the_next_daemon() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("nonces");
        let open = |now_ms| Nonces::new(0).kept_in(file.clone(), now_ms);
        let mut first = open(NOW);
        assert!(!file.exists(), "nothing is written before there is something to know");
        assert_eq!(first.accept("a", "1", NOW, NOW), Ok(()));
        first.hand_over();
        assert_eq!(first.accept("a", "2", NOW, NOW), Err(Refusal::BeforeStart));
        let mut second = open(NOW + 500);
        assert_eq!(second.accept("a", "1", NOW, NOW + 500), Err(Refusal::UsedBefore));
        assert_eq!(second.accept("a", "2", NOW, NOW + 500), Ok(()));
        // It is cut off here.
        drop(second);
        let mut third = open(NOW + 900);
        for nonce in ["1", "2", "3"] {
            assert_eq!(third.accept("a", nonce, NOW, NOW + 900), Err(Refusal::BeforeStart));
        }
        assert_eq!(third.accept("a", "3", NOW + 1000, NOW + 1000), Ok(()));
        third.hand_over();
        for damage in ["", "{", "[]", r#"{"complete":true}"#] {
            std::fs::write(&file, damage).expect("written");
            assert_eq!(open(NOW).accept("a", "4", NOW, NOW), Err(Refusal::BeforeStart), "{damage}");
        }
    }

    #[test]
    fn what_was_accepted_ahead_of_time_is_not_accepted_again_after_a_crash() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("nonces");
        let open = |now_ms| Nonces::new(0).kept_in(file.clone(), now_ms);
        let ahead = NOW + 20_000;
        let mut first = open(NOW);
        assert_eq!(first.accept("a", "1", NOW, NOW), Ok(()));
        assert_eq!(first.accept("a", "2", ahead, NOW), Ok(()));
        drop(first);
        for now_ms in [NOW + 10_000, ahead] {
            assert_eq!(open(now_ms).accept("a", "2", ahead, now_ms), Err(Refusal::BeforeStart));
        }
        // What was handed over is known to the next, and the one after a crash of that.
        let mut third = open(NOW + 40_000);
        assert_eq!(third.accept("a", "late", NOW + 60_000, NOW + 41_000), Ok(()));
        third.hand_over();
        drop(open(NOW + 42_000));
        assert_eq!(open(NOW + 43_000).accept("a", "late", NOW + 60_000, NOW + 43_000), Err(Refusal::BeforeStart));
    }

    #[test]
    fn what_another_daemon_accepted_is_taken_over_once() {
        let mut nonces = Nonces::new(0);
        let signed = |nonce: &str, time| SignedNonce { user: "a".into(), nonce: nonce.into(), time };
        nonces.accepted_by_another(&signed("1", NOW), NOW);
        assert_eq!(nonces.accept("a", "1", NOW, NOW), Err(Refusal::UsedBefore));
        assert!(!nonces.is_ours(&signed("1", NOW)));
        assert!(nonces.take_over("a", "1") && nonces.is_ours(&signed("1", NOW)) && !nonces.take_over("a", "1"));
        nonces.accepted_by_another(&signed("1", NOW), NOW);
        assert!(nonces.is_ours(&signed("1", NOW)), "it stays ours");
        nonces.leave_to_another("a", "1");
        assert!(!nonces.is_ours(&signed("1", NOW)));
        nonces.accepted_by_another(&signed("old", NOW - WINDOW_MS - 1), NOW);
        assert_eq!(nonces.count, 1);
        nonces.forget_old(NOW + WINDOW_MS + 1);
        assert!(nonces.by_others.is_empty());
    }

    #[test]
    fn a_file_that_cannot_be_written_stops_nobody() {
        let mut nonces = Nonces::new(0).kept_in("/nonexistent/nonces".into(), NOW);
        assert_eq!(nonces.accept("a", "1", NOW, NOW), Ok(()));
        nonces.hand_over();
    }
}
