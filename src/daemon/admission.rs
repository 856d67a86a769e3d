//! Whether there is room for another session or run, and for whom.
//!
//! As long as there is room for all who ask, whoever asks gets it. Where somebody was refused, the next places are for those
//! who hold the fewest, and among equals for the one that was served longest ago, however often the others ask meanwhile. What
//! is kept for a caller is kept for a short time only, so that a caller that is alone may have everything.

use super::Daemon;
use crate::contract::error::DaemonError;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// How long after a refusal a place is kept for the caller: it may try again late, or twice in vain. So long a place that
/// somebody has asked for and does not take may be empty.
const KEPT: Duration = Duration::from_secs(1);
/// When somebody who was refused shall try again: a few times while a place would be kept, yet so rarely that thousands who
/// do cost little (a refusal takes less than 0.1 ms).
const RETRY_AFTER: Duration = Duration::from_millis(250);
/// How long the place of a run that ended is kept from those who hold more: most who have one run after the other ask for the
/// next within a round trip.
const RETURN: Duration = Duration::from_millis(100);
/// Callers without a place that are remembered. Who is forgotten loses its place in the line, and no more.
const REMEMBERED: usize = 1024;

/// What callers hold, and what they wait for.
#[derive(Default)]
pub(super) struct Shares {
    callers: HashMap<String, Caller>,
    /// Places that are taken.
    open: usize,
    /// Counts what is noted of callers, and so gives it an order.
    clock: u64,
}

#[derive(Clone, Default)]
struct Caller {
    runs: usize,
    sessions: usize,
    /// When it got a place, or its run ended, last; until it has got one, when it asked first.
    served: u64,
    has_been_served: bool,
    /// When it was refused last, unless it has got a place since; and whether that was a run.
    refused: Option<Instant>,
    wants_run: bool,
    /// Runs that ended of late and that nothing came after, and when the last one did.
    returns: usize,
    returned: Option<Instant>,
}

impl Caller {
    /// What counts against it: named sessions only where it wants another one, because it may need them as long as it lives.
    fn held(&self, is_run: bool) -> usize {
        self.runs + if is_run { 0 } else { self.sessions }
    }

    fn is_refused(&self, now: Instant) -> bool {
        self.refused.is_some_and(|since| now.saturating_duration_since(since) < KEPT)
    }

    /// Places that it had a moment ago, and probably asks for again.
    fn returning(&self, now: Instant) -> usize {
        self.returned.filter(|since| now.saturating_duration_since(*since) < RETURN).map_or(0, |_| self.returns)
    }

    fn matters(&self, now: Instant) -> bool {
        self.runs + self.sessions > 0 || self.is_refused(now) || self.returning(now) > 0
    }
}

impl Shares {
    /// Whether one of so many free places is this caller's. If not, one is kept for it for a while, once it is its turn.
    fn ask(&mut self, name: &str, is_run: bool, free: usize, now: Instant) -> bool {
        let newcomer = Caller { served: self.clock + 1, ..Caller::default() };
        let own = self.callers.get(name).unwrap_or(&newcomer);
        let gets = self.kept_from(name, own, is_run, free, now) < free;
        if !gets && let Some(caller) = self.known(name, now) {
            (caller.refused, caller.wants_run) = (Some(now), is_run);
        }
        gets
    }

    /// How many of the free places are kept for others than this caller.
    fn kept_from(&self, name: &str, own: &Caller, is_run: bool, free: usize, now: Instant) -> usize {
        let (mut kept, mut kept_for_newcomers) = (0, 0_usize);
        let held = own.held(is_run);
        for (_, other) in self.callers.iter().filter(|(other, _)| *other != name) {
            // What counts is what the other one wants, so that of two who want different things one comes first for both.
            let (wanting, running) = (other.held(other.wants_run), other.held(true));
            let comes_first = other.is_refused(now) && (wanting < held || wanting == held && other.served < own.served);
            let counted = if other.has_been_served { &mut kept } else { &mut kept_for_newcomers };
            *counted += usize::from(comes_first);
            kept += other.returning(now).min(held.saturating_sub(running + usize::from(comes_first)));
        }
        // Names cost nothing, and whoever makes them up may never come back with one: they keep half of what is free at most.
        kept + kept_for_newcomers.min(free.div_ceil(2))
    }

    /// This caller got a place.
    pub(super) fn began(&mut self, name: &str, is_run: bool) {
        self.clock += 1;
        let caller = self.callers.entry(name.to_owned()).or_default();
        self.open += 1;
        *(if is_run { &mut caller.runs } else { &mut caller.sessions }) += 1;
        (caller.served, caller.has_been_served) = (self.clock, true);
        caller.refused = None;
        caller.returns = caller.returns.saturating_sub(1);
    }

    /// A place of this caller is free again.
    pub(super) fn ended(&mut self, name: &str, is_run: bool, now: Instant) {
        let Some(caller) = self.callers.get_mut(name) else { return };
        self.open = self.open.saturating_sub(1);
        if is_run {
            caller.runs = caller.runs.saturating_sub(1);
            caller.returns = caller.returning(now) + 1;
            caller.returned = Some(now);
            // Whoever was refused while it ran is next.
            self.clock += 1;
            caller.served = self.clock;
        } else {
            caller.sessions = caller.sessions.saturating_sub(1);
        }
        self.forget(now);
    }

    /// What is remembered of a caller, if there is room for it.
    fn known(&mut self, name: &str, now: Instant) -> Option<&mut Caller> {
        self.forget(now);
        self.clock += 1;
        let (served, room) = (self.clock, self.callers.len() <= self.open + REMEMBERED);
        if !room && !self.callers.contains_key(name) {
            return None;
        }
        Some(self.callers.entry(name.to_owned()).or_insert_with(|| Caller { served, ..Caller::default() }))
    }

    /// Forgets those who neither hold nor want anything, if they are many.
    fn forget(&mut self, now: Instant) {
        if self.callers.len() > self.open + REMEMBERED {
            self.callers.retain(|_, caller| caller.matters(now));
        }
    }
}

impl Daemon {
    /// Lets a caller begin a session, or a run.
    ///
    /// # Errors
    /// `busy` if there is no room for it.
    pub(super) fn admit(&mut self, caller: &str, is_run: bool) -> Result<(), DaemonError> {
        let (open, limit) = (self.sessions.len(), self.config.max_sessions);
        let free = limit.saturating_sub(open);
        if self.shares.ask(caller, is_run, free, Instant::now()) {
            return Ok(());
        }
        let message = match free {
            0 => format!("{open} sessions are open, which is the limit"),
            _ => {
                format!("{open} of {limit} sessions are open, and the free places are kept for callers that have fewer")
            }
        };
        Err(DaemonError::NoPlace { message, retry_after: RETRY_AFTER })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    /// A host of so many places, and how often it was refused.
    struct House {
        shares: Shares,
        open: Vec<String>,
        places: usize,
        now: Instant,
    }

    impl House {
        fn new(places: usize) -> House {
            House { shares: Shares::default(), open: Vec::new(), places, now: Instant::now() }
        }

        fn asks(&mut self, name: &str, is_run: bool) -> bool {
            let gets = self.shares.ask(name, is_run, self.places - self.open.len(), self.now);
            if gets {
                self.shares.began(name, is_run);
                self.open.push(name.to_owned());
            }
            gets
        }

        fn run(&mut self, name: &str) -> bool {
            self.asks(name, true)
        }

        /// A run of this caller ends.
        fn end(&mut self, name: &str) {
            let at = self.open.iter().position(|open| open == name).expect("it runs");
            self.open.remove(at);
            self.shares.ended(name, true, self.now);
        }

        fn wait(&mut self, time: Duration) {
            self.now += time;
        }
    }

    #[test]
    fn who_is_alone_may_have_everything() {
        let mut house = House::new(3);
        assert_eq!([(); 5].map(|()| house.run("a")), [true, true, true, false, false]);
        for _ in 0..10 {
            house.end("a");
            assert!(house.run("a") && !house.run("a"));
        }
    }

    #[test]
    fn a_place_is_kept_for_who_was_refused_and_has_fewer() {
        let mut house = House::new(3);
        assert_eq!(["a", "a", "a", "b"].map(|name| house.run(name)), [true, true, true, false]);
        house.end("a");
        assert!(!house.run("a"), "b was refused, and has none");
        assert!(house.run("b"));
        house.end("a");
        assert!(house.run("b"), "both have one, and a had another one until now");
    }

    #[test]
    fn a_place_that_nobody_fetches_is_free_again() {
        let mut house = House::new(2);
        assert_eq!(["a", "a", "b"].map(|name| house.run(name)), [true, true, false]);
        house.end("a");
        house.wait(KEPT - Duration::from_millis(1));
        assert!(!house.run("a"));
        house.wait(Duration::from_millis(1));
        assert!(house.run("a"));
    }

    #[test]
    fn equals_take_turns_however_often_one_of_them_asks() {
        let mut house = House::new(1);
        assert!(house.run("a"));
        let mut served = String::new();
        for _ in 0..9 {
            for name in ["a", "a", "a", "b", "a", "c"] {
                assert!(!house.run(name));
            }
            let running = house.open[0].clone();
            house.end(&running);
            for name in ["a", "a", "b", "c", "a"] {
                if house.run(name) {
                    served.push_str(name);
                }
            }
        }
        assert_eq!(served, "bcabcabca");
    }

    #[test]
    fn who_has_one_after_the_other_keeps_its_place_against_those_who_have_more_and_no_others() {
        let mut house = House::new(4);
        assert_eq!(["a", "a", "a", "b"].map(|name| house.run(name)), [true; 4]);
        house.end("b");
        assert!(!house.run("a"));
        assert!(house.run("b"), "it had it a moment ago");
        house.end("b");
        assert!(house.run("c"), "it has none either");
        house.end("a");
        house.wait(RETURN);
        assert!(house.run("c"), "b does not come again");
    }

    #[test]
    fn named_sessions_count_where_another_one_is_wanted() {
        let mut house = House::new(5);
        assert_eq!(["a", "a", "a"].map(|name| house.asks(name, false)), [true; 3]);
        assert_eq!(["b", "b", "c"].map(|name| house.run(name)), [true, true, false]);
        house.end("b");
        assert!(!house.asks("a", false) && house.run("a"), "c has been refused, and a has no run");
        assert!(!house.run("c"));
        house.end("b");
        assert!(!house.asks("a", false) && house.run("c"));
    }

    #[test]
    fn of_two_who_want_different_things_one_gets_its_own() {
        let mut house = House::new(4);
        assert_eq!(["a", "a"].map(|name| house.asks(name, false)), [true; 2]);
        assert_eq!(["c", "c"].map(|name| house.run(name)), [true; 2]);
        assert!(!house.asks("a", false) && !house.run("b"));
        house.end("c");
        assert!(!house.asks("a", false), "it has two");
        assert!(house.run("b"), "though a asked first, and has no run");
    }

    #[test]
    fn names_that_never_come_again_keep_few_places_and_little_memory() {
        let mut house = House::new(4);
        assert_eq!(["a"; 4].map(|name| house.run(name)), [true; 4]);
        for number in 0..2 * REMEMBERED {
            assert!(!house.run(&format!("made up {number}")));
        }
        assert!(house.shares.callers.len() <= REMEMBERED + 5);
        house.end("a");
        house.end("a");
        assert!(house.run("a") && !house.run("a"), "half of what is free is kept");
        house.wait(KEPT);
        assert!(house.run("a"));
        for number in 0..REMEMBERED + 100 {
            let name = format!("one after the other {number}");
            house.end("a");
            assert!(
                house.run(&name) || {
                    house.wait(KEPT);
                    house.run(&name)
                }
            );
            house.end(&name);
            house.wait(RETURN);
            assert!(house.run("a"));
        }
        assert!(house.shares.callers.len() <= REMEMBERED + 5);
    }

    /// Callers of so many requests each, which try again after so many milliseconds; returns how many runs each had in 15 s.
    fn overload(places: usize, callers: &[(&'static str, usize, u64)]) -> BTreeMap<&'static str, u64> {
        let mut house = House::new(places);
        let mut done = BTreeMap::new();
        // Who asks or, with a run, ends when; in milliseconds.
        let mut agenda: BTreeMap<(u64, u64), (&'static str, u64, bool)> = BTreeMap::new();
        let (mut number, mut noise) = (0, 7_u64);
        let mut count = || {
            number += 1;
            number
        };
        for (name, requests, again) in callers {
            agenda.extend((0..*requests).map(|_| ((0, count()), (*name, *again, false))));
        }
        let begin = house.now;
        while let Some(((at, _), (name, again, runs))) = agenda.pop_first().filter(|((at, _), _)| *at < 15_000) {
            house.now = begin + Duration::from_millis(at);
            noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let random = (noise >> 33) % 7;
            let (next, runs) = match runs {
                true => {
                    house.end(name);
                    *done.entry(name).or_default() += 1;
                    (random, false)
                }
                false if house.run(name) => (90 + 3 * random, true),
                false => (again + random, false),
            };
            agenda.insert((at + next, count()), (name, again, runs));
        }
        done
    }

    #[test]
    fn under_overload_nobody_has_more_than_its_share() {
        let polite = ["b", "c", "d", "e", "f", "g", "h", "i", "j"];
        for (places, requests, again) in [(20, 2, 20), (20, 2, 300), (10, 2, 20), (4, 2, 20), (4, 2, 250), (1, 2, 20)] {
            let callers: Vec<_> = polite.iter().map(|name| (*name, requests, again)).chain([("a", 61, 20)]).collect();
            let done = overload(places, &callers);
            let all = done.values().sum::<u64>();
            let most = done.values().max().copied().unwrap_or_default();
            assert!(done.len() == 10 && most * 10 <= all * 12 / 10, "{places} places, {again} ms: {done:?}");
        }
        // What the others do not want is not lost.
        let callers: Vec<_> = polite.iter().map(|name| (*name, 1, 20)).chain([("a", 61, 20)]).collect();
        let done = overload(20, &callers);
        assert!(done["a"] >= 11 * 125 && polite.iter().all(|name| done[name] >= 125), "{done:?}");
    }
}
