//! The document of a day: what is spent, and by whose last change.

use super::super::{Amounts, Budgets, Exceeded, Spent};
use super::{Order, Want};
use serde::{Deserialize, Serialize};

/// Processes whose last change a document names: more than an owner has at a time.
const WRITERS: usize = 256;

/// What is stored of a day.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
pub(super) struct Document {
    pub spent: Amounts,
    /// The number of each process's last change, the latest one last: by it a process finds out that a change is stored whose
    /// acknowledgement got lost, however much others have changed since.
    last: Vec<(String, u64)>,
}

impl Document {
    /// Whether this change of a process is in it.
    pub(super) fn has(&self, writer: &str, number: u64) -> bool {
        self.last.iter().any(|(known, last)| known == writer && *last == number)
    }

    /// The document with the next change of a process.
    pub(super) fn changed(&self, writer: &str, number: u64, spent: Amounts) -> Document {
        let mut last = self.last.clone();
        last.retain(|(known, _)| known != writer);
        last.push((writer.to_owned(), number));
        last.drain(..last.len().saturating_sub(WRITERS));
        Document { spent, last }
    }
}

/// Who gets what of a day of which so much is spent, by the orders' numbers, and what is spent then. The first come first.
pub(super) fn rule(spent: Amounts, orders: &[Order]) -> (Amounts, Vec<Ruling>) {
    let mut sum = spent;
    let rulings = orders.iter().map(|order| {
        let now = Spent::default().on_day(sum);
        let most = order.want.of(&order.budgets, &now);
        let granted = order.budgets.exceeded(&now, most).map_or(Ok(most), Err);
        sum = granted.map_or(sum, |granted| sum.plus(granted));
        Ruling { order: order.id, granted }
    });
    let rulings = rulings.collect();
    (sum, rulings)
}

/// What becomes of an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ruling {
    pub order: u64,
    pub granted: Result<Amounts, Exceeded>,
}

impl Want {
    fn of(self, budgets: &Budgets, spent: &Spent) -> Amounts {
        match self {
            Want::All(most) => most,
            Want::Time(longest) => Amounts::millis(budgets.time_left(spent).clamp(1, longest.max(1))),
        }
    }
}
