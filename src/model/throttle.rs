//! One back-off for all who use the same key at the same server. When a server makes one request wait, the others wait too,
//! and afterwards they go on one after another, so that a hundred sessions do not run into the limit together.

use super::request::{Failure, RequestError};
use crate::cancel::Cancel;
use crate::sync::lock;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// The first wait, where the server names none; it doubles with every refusal in a row.
const FIRST_WAIT: Duration = Duration::from_millis(500);
const LONGEST_WAIT: Duration = Duration::from_secs(8);
/// A wait that a server asks for is remembered no longer than this: a limit of hours may be that of one model only, or be
/// lifted by a payment, so that it is worth a request now and then. More than all attempts of one request wait together.
const LONGEST_REMEMBERED: Duration = Duration::from_secs(300);
/// Between two requests that go on after a wait.
const SPACING: Duration = Duration::from_millis(50);
/// More keys than this are not watched at a time; the limit that ends first is forgotten.
const MAX_LIMITS: usize = 256;

/// Whose limit it is: a server and a key, of which only a hash is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Account(u64);

impl Account {
    pub(super) fn new(url: &str, key: &str) -> Account {
        let mut hasher = DefaultHasher::new();
        (url, key).hash(&mut hasher);
        Account(hasher.finish())
    }
}

/// The limits that are known.
#[derive(Default)]
pub(super) struct Throttle(Mutex<Vec<Limit>>);

struct Limit {
    account: Account,
    /// Nobody sends anything before this.
    until: Instant,
    /// When the next of those who waited may go on.
    next: Instant,
    /// Refusals in a row.
    strikes: u32,
}

impl Throttle {
    fn limits(&self) -> MutexGuard<'_, Vec<Limit>> {
        lock(&self.0)
    }

    /// Waits until a request may be sent.
    ///
    /// # Errors
    ///
    /// The wait would be longer than `longest`, or was cancelled.
    pub(super) fn wait(&self, account: Account, longest: Duration, cancel: &Cancel) -> Result<(), RequestError> {
        loop {
            let now = Instant::now();
            let Some((until, slot)) = self.slot(account, now, longest) else { return Ok(()) };
            let asked = until.saturating_duration_since(now);
            if asked > longest {
                let facts = Failure { retry_after: Some(asked), ..Failure::default() };
                let text = too_long(asked, longest, "An earlier request with the same key was refused.");
                return Err(RequestError { facts, ..RequestError::new(text) });
            }
            log::info!("waiting {} ms, because the provider limits this key", (slot - now).as_millis());
            if cancel.sleep(slot - now) {
                return Err(RequestError::aborted());
            }
            // In the meantime another request may have been refused.
            if self.until(account).is_none_or(|until| until <= slot) {
                return Ok(());
            }
        }
    }

    fn until(&self, account: Account) -> Option<Instant> {
        self.limits().iter().find(|limit| limit.account == account).map(|limit| limit.until)
    }

    /// The end of the limit, and when the caller may go on; nobody else gets the same time. `None` = at once.
    fn slot(&self, account: Account, now: Instant, longest: Duration) -> Option<(Instant, Instant)> {
        let mut limits = self.limits();
        let limit = limits.iter_mut().find(|limit| limit.account == account)?;
        let slot = limit.until.max(limit.next);
        if slot <= now {
            return None;
        }
        // Who gives up takes no place in the queue.
        if limit.until.saturating_duration_since(now) <= longest {
            limit.next = slot + SPACING;
        }
        Some((limit.until, slot))
    }

    /// A request was refused because of a limit; `asked` is the wait that the server asked for.
    pub(super) fn refused(&self, account: Account, asked: Option<Duration>, now: Instant) {
        let mut limits = self.limits();
        let at = limits.iter().position(|limit| limit.account == account).unwrap_or_else(|| {
            if limits.len() >= MAX_LIMITS
                && let Some(first) = (0..limits.len()).min_by_key(|at| limits[*at].until)
            {
                limits.remove(first);
            }
            limits.push(Limit { account, until: now, next: now, strikes: 0 });
            limits.len() - 1
        });
        let limit = &mut limits[at];
        // Requests that were under way together count as one.
        if limit.until <= now {
            limit.strikes += 1;
        }
        let own = (FIRST_WAIT * (1 << limit.strikes.saturating_sub(1).min(8))).min(LONGEST_WAIT);
        let wait = asked.map_or(own, |asked| asked.min(LONGEST_REMEMBERED));
        limit.until = limit.until.max(now + wait);
    }

    /// A request was accepted: the limit is over, unless it was set while that request was under way.
    pub(super) fn accepted(&self, account: Account, now: Instant) {
        self.limits().retain_mut(|limit| {
            if limit.account == account && limit.until <= now {
                limit.strikes = 0;
                return limit.next > now;
            }
            true
        });
    }
}

/// What a request says whose wait is too long to be waited here.
pub(super) fn too_long(asked: Duration, longest: Duration, why: &str) -> String {
    // The words "retry delay" tell callers to try again later.
    format!("Server requested {}s retry delay (max: {}s). {why}", asked.as_secs_f64().ceil(), longest.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn those_who_wait_go_on_one_after_another() {
        let (throttle, now) = (Throttle::default(), Instant::now());
        let (a, b) = (Account::new("s", "a"), Account::new("s", "b"));
        assert_ne!(a, b);
        assert_eq!(throttle.slot(a, now, LONG), None);
        throttle.refused(a, Some(ms(1000)), now);
        let slots: Vec<_> = (0..3).filter_map(|_| throttle.slot(a, now, LONG)).map(|(_, slot)| slot - now).collect();
        assert_eq!(slots, [ms(1000), ms(1050), ms(1100)]);
        assert_eq!(throttle.slot(b, now, LONG), None, "another key is not concerned");
        // After the limit, newcomers queue behind those who waited, as long as there are any.
        assert_eq!(throttle.slot(a, now + ms(1100), LONG).map(|(_, slot)| slot - now), Some(ms(1150)));
        assert_eq!(throttle.slot(a, now + ms(1200), LONG), None);
        throttle.accepted(a, now + ms(1200));
        assert!(throttle.limits().is_empty());
    }

    #[test]
    fn waits_grow_with_refusals_in_a_row() {
        let (throttle, mut now) = (Throttle::default(), Instant::now());
        let account = Account::new("s", "k");
        for expected in [500, 1000, 2000, 4000, 8000, 8000] {
            // A hundred at once are one refusal.
            (0..100).for_each(|_| throttle.refused(account, None, now));
            let wait = throttle.until(account).map(|until| until - now);
            assert_eq!(wait, Some(ms(expected)));
            throttle.accepted(account, now);
            assert!(throttle.until(account).is_some(), "an older request's success ends no limit");
            now += ms(expected);
        }
        throttle.accepted(account, now);
        throttle.refused(account, None, now);
        assert_eq!(throttle.until(account), Some(now + ms(500)), "success starts anew");
    }

    #[test]
    fn long_waits_are_refused_and_others_can_be_cancelled() {
        let throttle = Throttle::default();
        let account = Account::new("s", "k");
        throttle.refused(account, Some(Duration::from_secs(120)), Instant::now());
        let failed = throttle.wait(account, LONG, &Cancel::new()).expect_err("too long");
        assert!(failed.text.starts_with("Server requested 120s retry delay (max: 60s). "), "{}", failed.text);
        assert!(failed.facts.retry_after.is_some_and(|wait| wait > LONG));
        let cancel = Cancel::new();
        cancel.cancel();
        let failed = throttle.wait(account, Duration::from_secs(600), &cancel).expect_err("cancelled");
        assert!(failed.aborted);
        assert!(throttle.wait(Account::new("s", "other"), LONG, &Cancel::new()).is_ok());
    }

    #[test]
    fn a_limit_of_hours_is_asked_about_again() {
        let (throttle, now) = (Throttle::default(), Instant::now());
        let account = Account::new("s", "k");
        throttle.refused(account, Some(Duration::from_secs(18 * 3600)), now);
        assert_eq!(throttle.until(account), Some(now + LONGEST_REMEMBERED));
    }

    #[test]
    fn what_is_remembered_has_a_bound() {
        let (throttle, now) = (Throttle::default(), Instant::now());
        for n in 0..2 * MAX_LIMITS as u64 {
            throttle.refused(Account(n), Some(ms(n)), now);
        }
        assert_eq!(throttle.limits().len(), MAX_LIMITS);
        assert_eq!(throttle.until(Account(0)), None);
    }
}
