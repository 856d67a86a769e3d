//! The thread that changes the documents, one change at a time: nothing else is sent before it is known what became of the last.

use super::document::{Document, Ruling, rule};
use super::{Book, Change, DayReservation, DaySpending, DayStore, Shared, StoreError};
use crate::governance::budget::Refused;
use crate::sync::lock;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What others spend is looked at this often, where somebody wants to know.
const LOOK: Duration = Duration::from_secs(2);
/// With nothing to do and nobody who wants to know the thread looks around this often.
const LOOK_AROUND: Duration = Duration::from_secs(3600);
/// Before the second try, and at most before each further one.
const PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(20);
/// What the store refuses is tried again after so long, or when somebody else wants something.
const RETRY: Duration = Duration::from_secs(1);
/// How long orders wait before there is a line in the log.
const SILENT: Duration = Duration::from_secs(1);
/// How long what was settled last may take to be stored when the process ends.
const END_TIME: Duration = Duration::from_secs(2);

pub(super) struct Writer {
    store: Box<dyn DayStore>,
    /// This process's name in documents.
    name: String,
    shared: Arc<Shared>,
    wake: Sender<()>,
    /// The number of the last change.
    number: u64,
    /// The document that was read or written last.
    known: Option<Known>,
    /// The change of which it is not known what became.
    sent: Option<Attempt>,
    trouble: Option<Trouble>,
}

struct Known {
    day: String,
    version: u64,
    document: Document,
}

/// A change as it is sent, always the same until its fate is known.
struct Attempt {
    day: String,
    /// The version of the document that it is to replace.
    version: u64,
    document: Document,
    change: Change,
    rulings: Vec<Ruling>,
}

/// The store does not answer.
struct Trouble {
    since: Instant,
    is_told: bool,
}

impl Writer {
    pub(super) fn new(store: Box<dyn DayStore>, name: String, shared: Arc<Shared>, wake: Sender<()>) -> Writer {
        Writer { store, name, shared, wake, number: 0, known: None, sent: None, trouble: None }
    }

    pub(super) fn run(&mut self, woken: &Receiver<()>) {
        let (mut end, mut pause) = (None, PAUSE);
        loop {
            let (ends, is_watched) = {
                let book = lock(&self.shared.book);
                (book.ends, book.is_watched)
            };
            if ends && *end.get_or_insert_with(|| Instant::now() + END_TIME) <= Instant::now() {
                return log::warn!("what was spent last is not settled, and all that was reserved for it stays spent");
            }
            let wait = match self.step() {
                Ok(true) => Duration::ZERO,
                Ok(false) if ends => return,
                Ok(false) if is_watched => {
                    if self.known.as_ref().is_none_or(|known| known.day != self.shared.today()) {
                        self.look();
                    }
                    LOOK
                }
                Ok(false) => LOOK_AROUND,
                Err(StoreError::Unknown(why)) => {
                    self.complain(&why);
                    std::thread::sleep(pause);
                    pause = LONGEST_PAUSE.min(pause * 2);
                    continue;
                }
                Err(StoreError::Refused(why)) => {
                    self.refuse_all(&why);
                    RETRY
                }
            };
            pause = PAUSE;
            if self.trouble.take().is_some_and(|trouble| trouble.is_told) {
                log::info!("it is known again what all hosts spend");
            }
            match woken.recv_timeout(wait) {
                Err(RecvTimeoutError::Timeout) if wait == LOOK => self.look(),
                Ok(()) | Err(_) => {}
            }
        }
    }

    /// Has one change made, and its orders answered. False if there is nothing to do.
    fn step(&mut self) -> Result<bool, StoreError> {
        let attempt = match self.sent.take() {
            Some(attempt) => attempt,
            None => match self.next()? {
                Some(attempt) => attempt,
                None => return Ok(false),
            },
        };
        if attempt.changes_nothing() {
            self.answer(attempt);
            return Ok(true);
        }
        let document = serde_json::to_vec(&attempt.document).map_err(|e| StoreError::Refused(e.to_string()))?;
        match self.store.replace(&attempt.day, attempt.version, &document) {
            Ok(Some(version)) => {
                self.stored(attempt, version);
                Ok(true)
            }
            Ok(None) | Err(StoreError::Unknown(_)) => self.find_out(attempt).map(|()| true),
            Err(refused) => {
                self.sent = Some(attempt);
                Err(refused)
            }
        }
    }

    /// The change that is due: that of today if somebody waits for an answer.
    fn next(&mut self) -> Result<Option<Attempt>, StoreError> {
        let today = self.shared.today();
        let day = {
            let book = lock(&self.shared.book);
            let first = book.changes.first().map(|(day, _)| day.clone());
            if book.orders.is_empty() { first } else { Some(today.clone()) }
        };
        let Some(day) = day else { return Ok(None) };
        let mut is_fresh = false;
        loop {
            let known = self.known.take().filter(|known| known.day == day);
            let known = match known {
                Some(known) => known,
                None => {
                    is_fresh = true;
                    self.read(&day)?
                }
            };
            let book = lock(&self.shared.book);
            let change = book.change_of(&day);
            let orders = if day == today { &*book.orders } else { &[] };
            let (spent, rulings) = rule(change.of(known.document.spent), orders);
            drop(book);
            // Others may have given something back since.
            if !is_fresh && rulings.iter().any(|ruling| ruling.granted.is_err()) {
                continue;
            }
            self.number += 1;
            let document = known.document.changed(&self.name, self.number, spent);
            let version = known.version;
            self.learn(known);
            return Ok(Some(Attempt { day, version, document, change, rulings }));
        }
    }

    /// Looks what became of a change. Where the document is behind the one that was to be replaced the change is in it, or will
    /// never be.
    fn find_out(&mut self, mut attempt: Attempt) -> Result<(), StoreError> {
        let found = match self.read(&attempt.day) {
            Ok(found) => found,
            Err(e) => {
                self.sent = Some(attempt);
                return Err(e);
            }
        };
        if found.version > attempt.version {
            if found.document.has(&self.name, self.number) {
                self.stored(Attempt { document: found.document, ..attempt }, found.version);
            } else {
                self.learn(found);
            }
            return Ok(());
        }
        if found.version == 0 {
            // Somebody has removed it; what was spent is known here.
            attempt.version = 0;
        }
        self.sent = Some(attempt);
        Err(StoreError::Unknown("nobody has what was sent yet".into()))
    }

    fn read(&self, day: &str) -> Result<Known, StoreError> {
        let (version, document) = self.store.read(day)?;
        let read = if version == 0 { Ok(Document::default()) } else { serde_json::from_slice(&document) };
        let document = read.map_err(|e| StoreError::Refused(format!("what is spent on {day} cannot be read: {e}")))?;
        Ok(Known { day: day.to_owned(), version, document })
    }

    /// Takes in what others have spent.
    fn look(&mut self) {
        let today = self.shared.today();
        if let Ok(found) = self.read(&today)
            && self.known.as_ref().is_none_or(|known| known.day != today || known.version < found.version)
        {
            self.learn(found);
        }
    }

    fn learn(&mut self, known: Known) {
        self.show(&mut lock(&self.shared.book), &known);
        self.known = Some(known);
    }

    fn show(&self, book: &mut Book, known: &Known) {
        if known.day == self.shared.today() {
            book.known = (known.day.clone(), known.document.spent);
        }
    }

    fn stored(&mut self, attempt: Attempt, version: u64) {
        let Attempt { day, document, .. } = &attempt;
        let known = Known { day: day.clone(), version, document: document.clone() };
        // Both at once, so that nobody sees a sum with one of them.
        let mut book = lock(&self.shared.book);
        book.stored(day, attempt.change);
        self.show(&mut book, &known);
        drop(book);
        self.known = Some(known);
        self.answer(attempt);
    }

    /// Answers those who still wait, and takes back what the others were granted.
    fn answer(&self, attempt: Attempt) {
        let mut answers = Vec::new();
        let mut book = lock(&self.shared.book);
        for Ruling { order, granted } in attempt.rulings {
            let spending = |most| DaySpending {
                day: attempt.day.clone(),
                most,
                shared: self.shared.clone(),
                wake: self.wake.clone(),
            };
            match book.orders.iter().position(|waiting| waiting.id == order) {
                Some(at) => {
                    let answer = granted.map(|most| DayReservation(Some(spending(most)))).map_err(Refused::Exceeded);
                    answers.push((book.orders.remove(at).answer, answer));
                }
                None => {
                    let back = granted.unwrap_or_default();
                    book.change(&attempt.day, Change { back, ..Change::default() });
                }
            }
        }
        drop(book);
        // What somebody does not take any more is given back when it is dropped.
        answers.into_iter().for_each(|(to, answer)| drop(to.try_send(answer)));
    }

    /// The store says no, and so do those who wait hear.
    fn refuse_all(&self, why: &str) {
        let orders = std::mem::take(&mut lock(&self.shared.book).orders);
        for order in orders {
            let _ = order.answer.try_send(Err(Refused::Io(io::Error::other(why.to_owned()))));
        }
    }

    fn complain(&mut self, why: &str) {
        let trouble = self.trouble.get_or_insert_with(|| Trouble { since: Instant::now(), is_told: false });
        let waits = !lock(&self.shared.book).orders.is_empty();
        if waits && !trouble.is_told && trouble.since.elapsed() >= SILENT {
            trouble.is_told = true;
            log::warn!("requests to models wait, as it is not known what all hosts have spent today: {why}");
        }
    }
}

impl Attempt {
    fn changes_nothing(&self) -> bool {
        self.change == Change::default() && self.rulings.iter().all(|ruling| ruling.granted.is_err())
    }
}
