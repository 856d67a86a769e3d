//! Budgets: how much money, how many tokens and requests and how much time may be spent on a prompt, in a session, on a day.
//!
//! What may be spent is here; what was spent is in the [`Ledger`].

mod balances;
mod ledger;
mod local_day;
mod shared_day;

pub(crate) use balances::Spent;
pub(crate) use ledger::{Account, Ledger, Payer, Refused, Reservation};
pub(crate) use shared_day::{DayOrder, DayReservation, DaySpending, DayStore, SharedDay, StoreError};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::fmt;

/// Money is counted in billionths of a US dollar, so that sums are exact.
const NANO: f64 = 1e9;
/// The largest number that a limit may be, in its unit: more than a life's worth of each, and whole in a float.
const MAX_LIMIT: f64 = 1e9;

/// What is limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    /// US dollars, at list price.
    Money,
    /// Input that was not read from a cache, and output.
    Tokens,
    /// Requests to models.
    Requests,
    /// Seconds in which a prompt was worked on.
    Time,
}

impl Unit {
    const ALL: [Unit; 4] = [Unit::Money, Unit::Tokens, Unit::Requests, Unit::Time];

    fn name(self) -> &'static str {
        match self {
            Unit::Money => "money",
            Unit::Tokens => "tokens",
            Unit::Requests => "requests",
            Unit::Time => "time",
        }
    }

    /// How many of what is counted make one of what people write.
    fn scale(self) -> f64 {
        match self {
            Unit::Money => NANO,
            Unit::Tokens | Unit::Requests => 1.0,
            Unit::Time => 1000.0,
        }
    }

    /// An amount as documents have it: a whole number where it is one.
    fn document(self, amount: u64) -> Value {
        let number = amount as f64 / self.scale();
        if number.fract() == 0.0 { json!(number as u64) } else { json!(number) }
    }

    /// An amount for people.
    fn text(self, amount: u64) -> String {
        match self {
            Unit::Money => format!("${:.4}", amount as f64 / NANO),
            Unit::Tokens | Unit::Requests => amount.to_string(),
            Unit::Time => format!("{} s", amount as f64 / self.scale()),
        }
    }
}

/// What a limit is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Period {
    Prompt,
    Session,
    /// From one local midnight to the next, for all sessions of the owner together.
    Day,
}

impl Period {
    const ALL: [Period; 3] = [Period::Prompt, Period::Session, Period::Day];

    fn name(self) -> &'static str {
        match self {
            Period::Prompt => "prompt",
            Period::Session => "session",
            Period::Day => "day",
        }
    }
}

/// How much of each unit: billionths of a US dollar, tokens, requests, milliseconds.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
pub(crate) struct Amounts([u64; 4]);

impl Amounts {
    /// A request to a model, with what it costs in US dollars.
    pub(crate) fn request(dollars: f64, tokens: u64) -> Amounts {
        // A cast from a float saturates, and makes nothing of what is no number.
        Amounts([(dollars.max(0.0) * NANO).ceil() as u64, tokens, 1, 0])
    }

    pub(crate) fn millis(millis: u64) -> Amounts {
        Amounts([0, 0, 0, millis])
    }

    pub(crate) fn time_millis(&self) -> u64 {
        self.of(Unit::Time)
    }

    pub(crate) fn of(&self, unit: Unit) -> u64 {
        let [money, tokens, requests, time] = self.0;
        match unit {
            Unit::Money => money,
            Unit::Tokens => tokens,
            Unit::Requests => requests,
            Unit::Time => time,
        }
    }

    fn plus(self, other: Amounts) -> Amounts {
        self.with(other, u64::saturating_add)
    }

    fn minus(self, other: Amounts) -> Amounts {
        self.with(other, u64::saturating_sub)
    }

    fn with(mut self, other: Amounts, both: fn(u64, u64) -> u64) -> Amounts {
        for (one, other) in self.0.iter_mut().zip(other.0) {
            *one = both(*one, other);
        }
        self
    }
}

/// What may be spent; absent = no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Budgets([[Option<u64>; 4]; 3]);

impl Budgets {
    /// Reads `{"prompt"|"session"|"day": {"money"|"tokens"|"requests"|"time": number}}`.
    ///
    /// # Errors
    /// A text that names what is wrong.
    pub(crate) fn parse(value: &Value) -> Result<Budgets, String> {
        let mut budgets = Budgets::default();
        for (name, limits) in value.as_object().ok_or("budgets must be an object")? {
            let (at, _) = named(name, Period::ALL.map(Period::name)).ok_or_else(|| {
                format!("budgets.{name:.40} is no budget; there are {}", Period::ALL.map(Period::name).join(", "))
            })?;
            for (key, number) in limits.as_object().ok_or_else(|| format!("budgets.{name} must be an object"))? {
                let (unit_at, unit) = named(key, Unit::ALL.map(Unit::name))
                    .and_then(|(at, _)| Some((at, *Unit::ALL.get(at)?)))
                    .ok_or_else(|| {
                        let known = Unit::ALL.map(Unit::name).join(", ");
                        format!("budgets.{name}.{key:.40} is no limit; there are {known}")
                    })?;
                let limit = number.as_f64().filter(|limit| (0.0..=MAX_LIMIT * unit.most_written()).contains(limit));
                let limit = limit.ok_or_else(|| format!("budgets.{name}.{key} must be a number >= 0"))?;
                budgets.0[at][unit_at] = Some((limit * unit.scale()).round() as u64);
            }
        }
        Ok(budgets)
    }

    /// The limits in the form that [`Budgets::parse`] reads.
    pub(crate) fn document(&self) -> Value {
        let mut document = Map::new();
        for (period, limits) in self.periods() {
            let set = limits.filter_map(|(unit, limit)| Some((unit.name().to_owned(), unit.document(limit?))));
            let limits: Map<String, Value> = set.collect();
            if !limits.is_empty() {
                document.insert(period.name().to_owned(), Value::Object(limits));
            }
        }
        Value::Object(document)
    }

    fn periods(&self) -> impl Iterator<Item = (Period, impl Iterator<Item = (Unit, Option<u64>)>)> {
        Period::ALL.into_iter().zip(self.0).map(|(period, limits)| (period, Unit::ALL.into_iter().zip(limits)))
    }

    /// Nothing is limited.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.iter().flatten().all(Option::is_none)
    }

    /// Whether time is limited.
    pub(crate) fn limits_time(&self) -> bool {
        self.periods().any(|(_, mut limits)| limits.any(|(unit, limit)| unit == Unit::Time && limit.is_some()))
    }

    /// Whether anything is limited that all sessions of the owner spend on a day.
    pub(crate) fn limits_day(&self) -> bool {
        !self.of_day().is_empty()
    }

    /// These limits made narrower.
    ///
    /// # Errors
    /// One of them would be made wider; the text names it.
    pub(crate) fn narrowed(self, by: Budgets) -> Result<Budgets, String> {
        for ((period, own), (_, other)) in self.periods().zip(by.periods()) {
            for ((unit, own), (_, other)) in own.zip(other) {
                if let (Some(own), Some(other)) = (own, other)
                    && other > own
                {
                    return Err(format!(
                        "budgets.{}.{} can only be made narrower than {}",
                        period.name(),
                        unit.name(),
                        unit.document(own)
                    ));
                }
            }
        }
        Ok(self.at_most(by))
    }

    /// The narrower one of each two limits.
    pub(crate) fn at_most(mut self, other: Budgets) -> Budgets {
        for (own, other) in self.0.iter_mut().flatten().zip(other.0.into_iter().flatten()) {
            *own = [*own, other].into_iter().flatten().min();
        }
        self
    }

    /// The first limit that `spent` together with `more` exceeds.
    fn exceeded(&self, spent: &Spent, more: Amounts) -> Option<Exceeded> {
        self.periods().find_map(|(period, mut limits)| {
            limits.find_map(|(unit, allowed)| {
                let (used, needed, allowed) = (spent.of(period).of(unit), more.of(unit), allowed?);
                let exceeds = needed > 0 && used.saturating_add(needed) > allowed;
                exceeds.then_some(Exceeded { period, unit, used, allowed, needed })
            })
        })
    }

    /// How much of the time that is limited is left, milliseconds.
    fn time_left(&self, spent: &Spent) -> u64 {
        let left = self.periods().filter_map(|(period, mut limits)| {
            let (_, allowed) = limits.find(|(unit, _)| *unit == Unit::Time)?;
            Some(allowed?.saturating_sub(spent.of(period).of(Unit::Time)))
        });
        left.min().unwrap_or(u64::MAX)
    }

    /// Only the limits of the day, which are those of all sessions.
    pub(crate) fn of_day(self) -> Budgets {
        let [_, _, day] = self.0;
        Budgets([[None; 4], [None; 4], day])
    }

    /// All limits but those of the day.
    fn without_day(self) -> Budgets {
        let [prompt, session, _] = self.0;
        Budgets([prompt, session, [None; 4]])
    }

    /// What is allowed and what is used of it, as `list`, `inspect` and statistics have it: `{period: {unit: {used, allowed}}}`.
    pub(crate) fn figures(&self, spent: &Spent) -> Value {
        let mut document = self.document();
        for (period, limits) in self.periods() {
            for (unit, allowed) in limits.filter_map(|(unit, allowed)| Some((unit, allowed?))) {
                document[period.name()][unit.name()] = json!({"used": unit.document(spent.of(period).of(unit)),
                    "allowed": unit.document(allowed)});
            }
        }
        document
    }
}

impl Unit {
    /// Tokens come in larger numbers than all else.
    fn most_written(self) -> f64 {
        if self == Unit::Tokens { 1e6 } else { 1.0 }
    }
}

fn named<'a, const N: usize>(name: &str, names: [&'a str; N]) -> Option<(usize, &'a str)> {
    names.into_iter().enumerate().find(|(_, known)| *known == name)
}

/// A limit that does not allow what is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Exceeded {
    period: Period,
    unit: Unit,
    used: u64,
    allowed: u64,
    needed: u64,
}

/// What becomes of a request that a budget does not allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OnBudget {
    /// The prompt ends.
    Stop,
    /// It needs an approval.
    Ask,
}

impl OnBudget {
    pub(crate) fn parse(text: &str) -> Option<OnBudget> {
        match text {
            "stop" => Some(OnBudget::Stop),
            "ask" => Some(OnBudget::Ask),
            _ => None,
        }
    }
}

impl Exceeded {
    /// The name of the limit, such as `day.money`.
    pub(crate) fn limit(&self) -> String {
        format!("{}.{}", self.period.name(), self.unit.name())
    }

    /// The facts as an event has them.
    pub(crate) fn document(&self) -> Value {
        let number = |amount| self.unit.document(amount);
        json!({"limit": self.limit(), "used": number(self.used),
            "allowed": number(self.allowed), "needed": number(self.needed)})
    }
}

impl fmt::Display for Exceeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |amount| self.unit.text(amount);
        write!(f, "{}: {} of {} are used", self.limit(), text(self.used), text(self.allowed))?;
        if self.unit == Unit::Time {
            return Ok(());
        }
        write!(f, ", and the next request may take {}", text(self.needed))
    }
}

#[cfg(test)]
mod tests;
