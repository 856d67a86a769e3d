//! Slots: how many prompts may be worked on at the same time on this host, and whose turn it is when more want one.
//!
//! Callers take turns: of those whose prompts wait, the one that was served longest ago is next, and of its prompts the one
//! that came first. A caller that floods the host therefore delays its own prompts, and nobody else's by more than one each.

use crate::sync::lock;
use crossbeam_channel::{Receiver, Sender, bounded};
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

/// Callers without a prompt here whose last turn is remembered, so that those who ask again at once are not served twice in
/// a row. What is forgotten costs nobody more than one turn.
const REMEMBERED: usize = 1024;

/// The slots of a host.
pub(crate) struct Slots {
    /// Zero is no limit.
    limit: AtomicUsize,
    /// No prompt begins.
    paused: AtomicBool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    used: usize,
    callers: HashMap<String, Caller>,
    /// Counts tickets and turns, and so gives both their order.
    clock: u64,
}

#[derive(Default)]
struct Caller {
    waiting: VecDeque<(u64, Sender<Slot>)>,
    /// When it was served last; zero is never.
    served: u64,
}

/// Leave to work on one prompt. Dropping it lets the next one begin.
pub(crate) struct Slot {
    slots: Arc<Slots>,
}

/// A place in the line of those who wait for a slot. Dropping it leaves the line.
pub(crate) struct Ticket {
    slots: Arc<Slots>,
    caller: String,
    number: u64,
    granted: Receiver<Slot>,
}

impl Slots {
    /// So many prompts at a time; zero is no limit.
    pub(crate) fn new(limit: usize) -> Arc<Slots> {
        let (limit, paused) = (AtomicUsize::new(limit), AtomicBool::default());
        Arc::new(Slots { limit, paused, state: Mutex::default() })
    }

    /// Changes the limit. What is worked on already goes on.
    pub(crate) fn set_limit(self: &Arc<Self>, limit: usize) {
        self.limit.store(limit, SeqCst);
        self.grant();
    }

    pub(crate) fn limit(&self) -> usize {
        self.limit.load(Relaxed)
    }

    /// Whether any prompt may begin from now on. What is worked on already goes on.
    pub(crate) fn pause(self: &Arc<Self>, paused: bool) {
        self.paused.store(paused, SeqCst);
        self.grant();
    }

    pub(crate) fn is_paused(&self) -> bool {
        self.paused.load(SeqCst)
    }

    /// Prompts that are worked on now.
    pub(crate) fn used(&self) -> usize {
        lock(&self.state).used
    }

    #[cfg(test)]
    /// Sessions whose next prompt waits for a slot.
    pub(crate) fn waiting(&self) -> usize {
        lock(&self.state).callers.values().map(|caller| caller.waiting.len()).sum()
    }

    /// Takes a slot for a prompt of this caller, or a ticket for one.
    pub(crate) fn take(self: &Arc<Self>, caller: &str) -> Result<Slot, Ticket> {
        if self.limit() == 0 && !self.is_paused() {
            return Ok(self.take_anyway());
        }
        let (sender, granted) = bounded(1);
        let number = {
            let mut state = lock(&self.state);
            state.clock += 1;
            let number = state.clock;
            let known = state.callers.entry(caller.to_owned()).or_default();
            known.waiting.push_back((number, sender));
            number
        };
        let ticket = Ticket { slots: self.clone(), caller: caller.to_owned(), number, granted };
        self.grant();
        match ticket.granted.try_recv() {
            Ok(slot) => Ok(slot),
            Err(_) => Err(ticket),
        }
    }

    /// Takes a slot, whether one is free or not.
    pub(crate) fn take_anyway(self: &Arc<Self>) -> Slot {
        lock(&self.state).used += 1;
        Slot { slots: self.clone() }
    }

    /// Gives free slots to those who wait.
    fn grant(self: &Arc<Self>) {
        loop {
            let limit = self.limit.load(SeqCst);
            let next = {
                let mut state = lock(&self.state);
                let free = !self.is_paused() && (limit == 0 || state.used < limit);
                let next = if free { state.next() } else { None };
                state.used += usize::from(next.is_some());
                next
            };
            let Some(next) = next else { return };
            // Whoever does not wait any more gives the slot back at once, which must not happen under the lock.
            let _ = next.try_send(Slot { slots: self.clone() });
        }
    }
}

impl State {
    /// Takes the next one out of the line.
    fn next(&mut self) -> Option<Sender<Slot>> {
        let first = |caller: &Caller| Some((caller.served, caller.waiting.front()?.0));
        let next = self.callers.iter().filter_map(|(name, caller)| Some((first(caller)?, name)));
        let name = next.min().map(|(_, name)| name.clone())?;
        self.clock += 1;
        let now = self.clock;
        let caller = self.callers.get_mut(&name)?;
        caller.served = now;
        let (_, sender) = caller.waiting.pop_front()?;
        if self.callers.len() > REMEMBERED {
            self.callers.retain(|_, caller| !caller.waiting.is_empty());
        }
        Some(sender)
    }

    /// How many are served before the ticket of this number, as things are now.
    fn ahead(&self, name: &str, number: u64) -> Option<usize> {
        let own = self.callers.get(name)?;
        let rounds = own.waiting.iter().position(|(waiting, _)| *waiting == number)?;
        let others = self.callers.iter().filter(|(other, _)| *other != name);
        let others = others.map(|(other, caller)| {
            // One more for those who come first in each round.
            let sooner = (caller.served, caller.waiting.front().map(|(n, _)| *n), other.as_str())
                < (own.served, own.waiting.front().map(|(n, _)| *n), name);
            caller.waiting.len().min(rounds + usize::from(sooner))
        });
        Some(rounds + others.sum::<usize>())
    }
}

impl Ticket {
    /// Where the slot comes to.
    pub(crate) fn granted(&self) -> &Receiver<Slot> {
        &self.granted
    }

    /// How many prompts of this host get a slot before this one, as things are now.
    pub(crate) fn ahead(&self) -> usize {
        lock(&self.slots.state).ahead(&self.caller, self.number).unwrap_or_default()
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(caller) = lock(&self.slots.state).callers.get_mut(&self.caller) {
            caller.waiting.retain(|(number, _)| *number != self.number);
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        lock(&self.slots.state).used -= 1;
        self.slots.grant();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wait(slots: &Arc<Slots>, caller: &str) -> Ticket {
        slots.take(caller).err().expect("no slot is free")
    }

    #[test]
    fn without_a_limit_everybody_gets_one_unless_it_is_paused() {
        let slots = Slots::new(0);
        let taken: Vec<Slot> = (0..100).map(|_| slots.take("a").ok().expect("a slot")).collect();
        slots.pause(true);
        let ticket = wait(&slots, "a");
        assert_eq!((slots.used(), slots.waiting(), ticket.ahead()), (100, 1, 0));
        slots.pause(false);
        assert!(ticket.granted().try_recv().is_ok());
        drop((taken, ticket));
        assert_eq!((slots.used(), slots.waiting()), (0, 0));
    }

    #[test]
    fn callers_take_turns_however_much_one_of_them_asks_for() {
        let slots = Slots::new(1);
        let mut running = slots.take("flood").ok();
        let mut line: Vec<(String, Ticket)> = Vec::new();
        for name in ["flood"; 30].into_iter().chain(["b", "c", "b", "c"]) {
            line.push((name.to_owned(), wait(&slots, name)));
        }
        let last = |name: &str| line.iter().rfind(|(of, _)| of == name).map(|(_, ticket)| ticket.ahead());
        assert_eq!((last("b"), last("c"), last("flood")), (Some(3), Some(4), Some(33)));
        let mut served = Vec::new();
        while running.take().is_some() {
            let at = line.iter().position(|(_, ticket)| !ticket.granted().is_empty());
            let Some(at) = at else { break };
            let (name, ticket) = line.remove(at);
            running = ticket.granted().try_recv().ok();
            served.push(name);
        }
        assert_eq!(served[..6].concat(), "bcfloodbcflood");
        assert_eq!((served.len(), slots.used()), (34, 0));
    }

    #[test]
    fn who_asks_again_only_when_it_is_served_gets_its_share_and_no_more() {
        let slots = Slots::new(1);
        let flood: Vec<Ticket> = {
            let _first = slots.take("flood");
            (0..50).map(|_| wait(&slots, "flood")).collect()
        };
        let mut counts = [0, 0];
        let mut granted = flood.iter().map(|ticket| ticket.granted().clone());
        let mut flooding = granted.next().and_then(|granted| granted.try_recv().ok());
        for _ in 0..20 {
            // Asks while the other one is worked on, as somebody does who has just got an answer.
            let ticket = wait(&slots, "polite");
            drop(flooding.take());
            counts[0] += 1;
            let slot = ticket.granted().try_recv().expect("it is its turn");
            drop(slot);
            counts[1] += 1;
            flooding = granted.next().and_then(|granted| granted.try_recv().ok());
        }
        assert_eq!(counts, [20, 20]);
    }

    #[test]
    fn a_ticket_that_is_given_up_takes_no_slot_with_it() {
        let slots = Slots::new(1);
        let running = slots.take("a").ok();
        let (first, second) = (wait(&slots, "b"), wait(&slots, "b"));
        drop(first);
        assert_eq!(second.ahead(), 0);
        drop(running);
        // It was granted and never looked at.
        drop(second);
        assert_eq!((slots.used(), slots.waiting()), (0, 0));
        slots.set_limit(2);
        assert_eq!((slots.take("a").is_ok(), slots.limit()), (true, 2));
    }

    #[test]
    fn what_goes_on_after_a_restart_counts() {
        let slots = Slots::new(1);
        let both = [slots.take_anyway(), slots.take_anyway()];
        let ticket = wait(&slots, "a");
        let [one, other] = both;
        drop(one);
        assert!(ticket.granted().is_empty());
        drop(other);
        assert!(!ticket.granted().is_empty());
    }
}
