//! What is spent on a day by all hosts of the owner together: a document that each of them changes by compare-and-set.
//!
//! The sum of a day has everything in it that somebody may spend, until it is known what that came to. Whoever wants to spend
//! something leaves an order; one thread puts all orders that wait, and what was settled meanwhile, into one change of the
//! document, and answers them when that is stored. So what hosts may spend together is never more than the limit, and a process
//! that dies leaves counted what it had reserved. While the store is away orders wait, and those who wait may give up.

mod document;
mod writer;

use super::local_day::{date, local_zone};
use super::{Amounts, Budgets, Refused};
use crate::clock::now_ms;
use crate::sync::lock;
use crate::threads::{self, Thread};
use crossbeam_channel::{Receiver, Sender, bounded};
use jiff::tz::TimeZone;
use std::io;
use std::sync::{Arc, Mutex};
use writer::Writer;

/// Why the store did not do something.
#[derive(Debug)]
pub(crate) enum StoreError {
    /// It may do it later, or may have done it: nobody knows.
    Unknown(String),
    /// It says no.
    Refused(String),
}

/// Where the documents of days are.
pub(crate) trait DayStore: Send {
    /// A day's document and its version; 0 if there is none. It may be a moment old.
    ///
    /// # Errors
    /// [`StoreError`].
    fn read(&self, day: &str) -> Result<(u64, Vec<u8>), StoreError>;

    /// Puts a document in the place of the one with this version, 0 = there is none. Returns the new version, or nothing if
    /// there is another one.
    ///
    /// # Errors
    /// [`StoreError`].
    fn replace(&mut self, day: &str, version: u64, document: &[u8]) -> Result<Option<u64>, StoreError>;
}

/// What all hosts spend on a day.
pub(crate) struct SharedDay {
    shared: Arc<Shared>,
    wake: Sender<()>,
    writer: Mutex<Option<Thread>>,
}

/// What those who spend and the thread have in common.
struct Shared {
    zone: TimeZone,
    book: Mutex<Book>,
}

#[derive(Default)]
struct Book {
    /// The number of the next order.
    next: u64,
    orders: Vec<Order>,
    /// What is not in the documents yet.
    changes: Vec<(String, Change)>,
    /// A day, and what its document says.
    known: (String, Amounts),
    /// Somebody wants to know what is spent.
    is_watched: bool,
    ends: bool,
}

/// Somebody waits for leave to spend something.
struct Order {
    id: u64,
    want: Want,
    /// The limits that hold; none where somebody allowed it whatever they are.
    budgets: Budgets,
    answer: Sender<Result<DayReservation, Refused>>,
}

#[derive(Clone, Copy)]
enum Want {
    All(Amounts),
    /// So many milliseconds, or what is left of the time.
    Time(u64),
}

/// What a sum changes by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Change {
    /// Reservations that are settled.
    back: Amounts,
    /// What they came to.
    spent: Amounts,
}

impl Change {
    fn of(self, sum: Amounts) -> Amounts {
        sum.minus(self.back).plus(self.spent)
    }

    fn plus(self, other: Change) -> Change {
        Change { back: self.back.plus(other.back), spent: self.spent.plus(other.spent) }
    }

    fn minus(self, other: Change) -> Change {
        Change { back: self.back.minus(other.back), spent: self.spent.minus(other.spent) }
    }
}

impl Book {
    fn change(&mut self, day: &str, change: Change) {
        if change == Change::default() {
            return;
        }
        match self.changes.iter_mut().find(|(known, _)| known == day) {
            Some((_, sum)) => *sum = sum.plus(change),
            None => self.changes.push((day.to_owned(), change)),
        }
    }

    fn change_of(&self, day: &str) -> Change {
        self.changes.iter().find(|(known, _)| known == day).map(|(_, change)| *change).unwrap_or_default()
    }

    /// A part of a day's change is in its document.
    fn stored(&mut self, day: &str, part: Change) {
        self.changes.iter_mut().filter(|(known, _)| known == day).for_each(|(_, sum)| *sum = sum.minus(part));
        self.changes.retain(|(_, sum)| *sum != Change::default());
    }
}

impl Shared {
    fn today(&self) -> String {
        date(&self.zone, now_ms())
    }
}

/// An order that waits. Whoever drops it has given up.
pub(crate) struct DayOrder {
    id: u64,
    answer: Receiver<Result<DayReservation, Refused>>,
    shared: Arc<Shared>,
}

impl DayOrder {
    /// The answer comes here, once. It does not come any more if this ends.
    pub(crate) fn answer(&self) -> &Receiver<Result<DayReservation, Refused>> {
        &self.answer
    }
}

impl Drop for DayOrder {
    fn drop(&mut self) {
        lock(&self.shared.book).orders.retain(|order| order.id != self.id);
    }
}

/// Leave to spend something, which is given back unless it is used.
pub(crate) struct DayReservation(Option<DaySpending>);

impl DayReservation {
    /// From now on it is spent, until it is settled.
    pub(crate) fn begin(mut self) -> Option<DaySpending> {
        self.0.take()
    }
}

impl Drop for DayReservation {
    fn drop(&mut self) {
        self.0.take().into_iter().for_each(|unused| unused.settle(Amounts::default()));
    }
}

/// Something that may be spent, and counts as spent as long as nobody says what it came to.
pub(crate) struct DaySpending {
    day: String,
    pub most: Amounts,
    shared: Arc<Shared>,
    wake: Sender<()>,
}

impl DaySpending {
    /// Says what it came to, without waiting for anything.
    pub(crate) fn settle(self, spent: Amounts) {
        lock(&self.shared.book).change(&self.day, Change { back: self.most, spent });
        let _ = self.wake.try_send(());
    }
}

impl SharedDay {
    /// Counts in this store. `name` is no other process's.
    ///
    /// # Errors
    /// The system has no thread.
    pub(crate) fn start(store: Box<dyn DayStore>, name: String) -> io::Result<SharedDay> {
        let (wake, woken) = bounded(1);
        let shared = Arc::new(Shared { zone: local_zone(), book: Mutex::default() });
        let mut writer = Writer::new(store, name, shared.clone(), wake.clone());
        let thread = threads::spawn("fleet-day", threads::SMALL_STACK, move || writer.run(&woken))?;
        Ok(SharedDay { shared, wake, writer: Mutex::new(Some(thread)) })
    }

    /// Orders leave to spend all of this, within the limits of the day.
    pub(crate) fn order(&self, budgets: &Budgets, most: Amounts) -> DayOrder {
        self.order_with(budgets.of_day(), Want::All(most))
    }

    /// Orders leave to spend this whatever the limits are.
    pub(crate) fn order_anyway(&self, most: Amounts) -> DayOrder {
        self.order_with(Budgets::default(), Want::All(most))
    }

    /// Orders at most `longest` milliseconds of the day's time that is left.
    pub(crate) fn order_time(&self, budgets: &Budgets, longest: u64) -> DayOrder {
        self.order_with(budgets.of_day(), Want::Time(longest))
    }

    fn order_with(&self, budgets: Budgets, want: Want) -> DayOrder {
        let (answer, receiver) = bounded(1);
        let mut book = lock(&self.shared.book);
        let id = book.next;
        book.next += 1;
        book.orders.push(Order { id, want, budgets, answer });
        book.is_watched = true;
        drop(book);
        let _ = self.wake.try_send(());
        DayOrder { id, answer: receiver, shared: self.shared.clone() }
    }

    /// This was spent without leave.
    pub(crate) fn spend(&self, spent: Amounts) {
        let day = self.shared.today();
        lock(&self.shared.book).change(&day, Change { back: Amounts::default(), spent });
        let _ = self.wake.try_send(());
    }

    /// What all hosts have spent today, as this one knows it: it looks every two seconds once somebody has asked. Waits for
    /// nothing.
    pub(crate) fn spent_today(&self) -> Amounts {
        let today = self.shared.today();
        let mut book = lock(&self.shared.book);
        if !std::mem::replace(&mut book.is_watched, true) {
            let _ = self.wake.try_send(());
        }
        let (day, spent) = &book.known;
        book.change_of(&today).of(if *day == today { *spent } else { Amounts::default() })
    }

    /// Waits until what was settled is stored, which may take a few seconds. Nobody gets an answer any more.
    pub(crate) fn end(&self) {
        lock(&self.shared.book).ends = true;
        let _ = self.wake.try_send(());
        let writer = lock(&self.writer).take();
        drop(writer);
    }
}

impl Drop for SharedDay {
    fn drop(&mut self) {
        self.end();
    }
}

#[cfg(test)]
mod tests;
