//! What was spent, as the lines of the ledger say it.
//!
//! A reservation counts as spent from the line that makes it on. A later line says what it came to; without one, as after a
//! crash, all of it stays spent.

use super::{Amounts, Period};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// Days that are remembered: a clock that is set back and forth finds what was spent on each of them.
const DAYS: usize = 8;
/// A session of which nothing was heard for so long is forgotten, seconds: a year.
const FORGOTTEN_AFTER: i64 = 366 * 24 * 3600;
/// A reservation is not settled any more after so long, seconds.
const SETTLED_WITHIN: i64 = 7 * 24 * 3600;

/// A line of the ledger.
#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Line {
    /// So much may be spent.
    Reserve(Pending),
    /// So much may be spent, and is in the sums of the lines before already.
    Pending(Pending),
    /// So much it came to.
    Settle { id: String, spent: Amounts },
    /// The session is over.
    End { session: String },
    /// What was spent on a day.
    Day { day: String, spent: Amounts },
    /// What was spent in a session, and on its last prompt of that.
    Session { session: String, spent: Amounts, prompt: String, on_prompt: Amounts, at: i64 },
}

/// What was spent, of each period.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Spent([Amounts; 3]);

impl Spent {
    pub(super) fn new(prompt: Amounts, session: Amounts, day: Amounts) -> Spent {
        Spent([prompt, session, day])
    }

    pub(crate) fn of(&self, period: Period) -> Amounts {
        let [prompt, session, day] = self.0;
        match period {
            Period::Prompt => prompt,
            Period::Session => session,
            Period::Day => day,
        }
    }

    /// The same with what others spent on the day.
    pub(crate) fn on_day(self, day: Amounts) -> Spent {
        let [prompt, session, _] = self.0;
        Spent([prompt, session, day])
    }
}

struct SessionBalance {
    spent: Amounts,
    prompt: String,
    on_prompt: Amounts,
    /// Unix time in seconds.
    at: i64,
}

/// A reservation of which it is not known what it came to.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Pending {
    pub id: String,
    pub day: String,
    pub session: String,
    pub prompt: String,
    /// Unix time in seconds.
    pub at: i64,
    pub most: Amounts,
}

/// The sums of all lines.
#[derive(Default)]
pub(super) struct Balances {
    days: Vec<(String, Amounts)>,
    sessions: HashMap<String, SessionBalance>,
    pending: HashMap<String, Pending>,
}

impl Balances {
    pub(super) fn apply(&mut self, line: Line) {
        match line {
            Line::Reserve(pending) => {
                let Pending { day, session, prompt, at, most, .. } = &pending;
                *self.day(day) = self.on_day(day).plus(*most);
                let balance = self.session(session, *at);
                if balance.prompt != *prompt {
                    (balance.prompt, balance.on_prompt) = (prompt.clone(), Amounts::default());
                }
                balance.spent = balance.spent.plus(*most);
                balance.on_prompt = balance.on_prompt.plus(*most);
                self.apply(Line::Pending(pending));
            }
            Line::Pending(pending) => drop(self.pending.insert(pending.id.clone(), pending)),
            Line::Settle { id, spent } => {
                let Some(Pending { day, session, prompt, most, .. }) = self.pending.remove(&id) else { return };
                let settled = |sum: Amounts| sum.minus(most).plus(spent);
                *self.day(&day) = settled(self.on_day(&day));
                if let Some(balance) = self.sessions.get_mut(&session) {
                    balance.spent = settled(balance.spent);
                    if balance.prompt == prompt {
                        balance.on_prompt = settled(balance.on_prompt);
                    }
                }
            }
            Line::End { session } => drop(self.sessions.remove(&session)),
            Line::Day { day, spent } => *self.day(&day) = spent,
            Line::Session { session, spent, prompt, on_prompt, at } => {
                self.sessions.insert(session, SessionBalance { spent, prompt, on_prompt, at });
            }
        }
    }

    /// What was spent on a day, to be changed; the day is the last one that is forgotten.
    fn day(&mut self, day: &str) -> &mut Amounts {
        let known = match self.days.iter().position(|(known, _)| known == day) {
            Some(at) => self.days.remove(at),
            None => (day.to_owned(), Amounts::default()),
        };
        if self.days.len() >= DAYS {
            self.days.remove(0);
        }
        self.days.push(known);
        let last = self.days.len() - 1;
        &mut self.days[last].1
    }

    pub(super) fn on_day(&self, day: &str) -> Amounts {
        self.days.iter().find(|(known, _)| known == day).map(|(_, spent)| *spent).unwrap_or_default()
    }

    fn session(&mut self, session: &str, at: i64) -> &mut SessionBalance {
        let fresh =
            || SessionBalance { spent: Amounts::default(), prompt: String::new(), on_prompt: Amounts::default(), at };
        let balance = self.sessions.entry(session.to_owned()).or_insert_with(fresh);
        balance.at = at;
        balance
    }

    /// What was spent on a prompt, in its session and on a day.
    pub(super) fn spent(&self, session: &str, prompt: &str, day: &str) -> Spent {
        let balance = self.sessions.get(session);
        let on_prompt = balance.filter(|balance| balance.prompt == prompt).map(|balance| balance.on_prompt);
        let in_session = balance.map(|balance| balance.spent);
        Spent::new(on_prompt.unwrap_or_default(), in_session.unwrap_or_default(), self.on_day(day))
    }

    /// As few lines as say the same; `now` is Unix time in seconds.
    pub(super) fn lines(&self, now: i64) -> Vec<Line> {
        let days = self.days.iter().map(|(day, spent)| Line::Day { day: day.clone(), spent: *spent });
        let kept = self.sessions.iter().filter(|(_, balance)| now.saturating_sub(balance.at) < FORGOTTEN_AFTER);
        let sessions = kept.map(|(session, balance)| Line::Session {
            session: session.clone(),
            spent: balance.spent,
            prompt: balance.prompt.clone(),
            on_prompt: balance.on_prompt,
            at: balance.at,
        });
        let pending = self.pending.values().filter(|pending| now.saturating_sub(pending.at) < SETTLED_WITHIN);
        days.chain(sessions).chain(pending.cloned().map(Line::Pending)).collect()
    }
}
