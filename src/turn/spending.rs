//! Requests to the model, which cost something: each is sent through here, after the session has reserved what it may take.

use super::{Action, Durable, Settled, Step, Turn, Verdict};
use crate::contract::denial::{Denial, DeniedBy};
use crate::contract::error::ReplyError;
use crate::governance::budget::{Amounts, DayOrder, DayReservation, DaySpending, Exceeded, Refused, Reservation};
use crate::metrics::{self, METRICS};
use crate::model::{Most, Outcome, Request, Sink, StreamEvent, spent};
use crate::transcript::StopReason;
use crossbeam_channel::{bounded, select};
use std::time::Instant;

/// Sends requests to the model.
pub(super) trait Requests {
    /// Sends a request and takes in its answer.
    ///
    /// # Errors
    /// It must not be sent: the turn settles like this.
    fn send(&self, request: &Request<'_>, sink: &mut dyn Sink) -> Result<Outcome, Settled>;
}

impl Requests for Turn {
    // Where requests are not counted, nobody is asked for leave.
    fn send(&self, request: &Request<'_>, sink: &mut dyn Sink) -> Result<Outcome, Settled> {
        if !self.is_metered {
            return Ok(self.stream(request, sink).0);
        }
        let most = self.services.most(request);
        let mut day = self.order_day(most)?;
        let reserved = if matches!(day, Day::Exceeded(_)) { None } else { self.reserve(most) };
        let durable = match &reserved {
            Some(reservation) => reservation.durable()(),
            None => self.ask_to_send(most, &mut day)?(),
        };
        durable.map_err(|e| Settled::Failed(ReplyError::storage(&e)))?;
        let day = day.begin();
        let (outcome, accepted) = self.stream(request, sink);
        let spent = spent(request, &outcome, accepted);
        if let Some(day) = day {
            day.settle(Amounts::request(spent.dollars, spent.tokens));
        }
        match &reserved {
            Some(reservation) => self.settle_reservation(reservation, spent),
            None => self.step(Step::Spent(spent)),
        }
        Ok(outcome)
    }
}

/// What a request may take of a day that is shared with other machines.
enum Day {
    /// Nothing is limited there.
    Unlimited,
    Reserved(DayReservation),
    Exceeded(Exceeded),
}

impl Day {
    fn begin(self) -> Option<DaySpending> {
        match self {
            Day::Reserved(reservation) => reservation.begin(),
            Day::Unlimited | Day::Exceeded(_) => None,
        }
    }
}

impl Turn {
    /// Reserves what a request may take of the day, where that is shared with other machines and limited. While nobody knows
    /// what they have spent it waits.
    ///
    /// # Errors
    /// How the turn settles: nobody wants it any more, or nothing can be reserved.
    fn order_day(&self, most: Most) -> Result<Day, Settled> {
        let Some(day) = &self.shared_day else { return Ok(Day::Unlimited) };
        let budgets = self.stats.budgets();
        if !budgets.limits_day() {
            return Ok(Day::Unlimited);
        }
        self.wait_for_day(&day.order(&budgets, Amounts::request(most.dollars, most.tokens)))
    }

    fn wait_for_day(&self, order: &DayOrder) -> Result<Day, Settled> {
        let (cancels, cancelled) = bounded::<()>(0);
        let _guard = self.cancel.on_cancel(move || drop(cancels));
        select! {
            recv(order.answer()) -> answer => match answer {
                Ok(Ok(reservation)) => Ok(Day::Reserved(reservation)),
                Ok(Err(Refused::Exceeded(exceeded))) => Ok(Day::Exceeded(exceeded)),
                Ok(Err(Refused::Io(error))) => Err(Settled::Failed(ReplyError::storage(&error))),
                Err(_) => Err(Settled::Aborted),
            },
            recv(cancelled) -> _ => Err(Settled::Aborted),
        }
    }

    /// Reserves what a request may take, where nothing but the ledger has a say in that, and it says yes.
    fn reserve(&self, most: Most) -> Option<Reservation> {
        let budgets = self.stats.budgets();
        // Time is the session's to reserve.
        let account = self.account.as_ref().filter(|_| !budgets.limits_time())?;
        let most = Amounts::request(most.dollars, most.tokens);
        let (reservation, spent) = account.ledger.reserve(account.payer(&budgets), most).ok()?;
        self.stats.set_spent(spent);
        Some(reservation)
    }

    fn settle_reservation(&self, reservation: &Reservation, spent: Most) {
        let budgets = self.stats.budgets();
        let Some(account) = &self.account else { return };
        let spent = Amounts::request(spent.dollars, spent.tokens);
        if let Some(spent) = account.ledger.settle(account.payer(&budgets), reservation, spent) {
            self.stats.set_spent(spent);
        }
    }

    /// Asks the session, and perhaps people, whether a request may be sent. Returns what makes its reservation durable. What
    /// somebody allows is reserved of the `day` whatever its limits are.
    fn ask_to_send(&self, most: Most, day: &mut Day) -> Result<Durable, Settled> {
        loop {
            let over_day = if let Day::Exceeded(exceeded) = day { Some(*exceeded) } else { None };
            match self.verdict(Action::Request(self.model.clone(), most, over_day)) {
                Verdict::Reserved(durable) => {
                    if let (Some(_), Some(shared)) = (over_day, &self.shared_day) {
                        let amounts = Amounts::request(most.dollars, most.tokens);
                        *day = self.wait_for_day(&shared.order_anyway(amounts))?;
                    }
                    return Ok(durable);
                }
                Verdict::Asked(error, wait) => {
                    // While people think about it the others may spend it.
                    *day = Day::Unlimited;
                    self.wait_for(&wait).map_err(|denial| refused(&error, &denial))?;
                    *day = self.order_day(most)?;
                }
                Verdict::Refused(error) => return Err(Settled::Failed(error)),
                Verdict::Go(_) | Verdict::No | Verdict::Calls(_) => return Err(Settled::Aborted),
            }
        }
    }

    /// Sends a request. Returns its outcome, and whether the provider has accepted it.
    fn stream(&self, request: &Request<'_>, sink: &mut dyn Sink) -> (Outcome, bool) {
        let begun = Instant::now();
        let mut sink = Metered { sink, accepted: false, first_chunk: None };
        let outcome = self.services.stream(request, &self.cancel, &mut sink);
        let ended = match outcome.message.stop_reason {
            _ if self.cancel.is_cancelled() => metrics::Outcome::Cancelled,
            StopReason::Aborted => metrics::Outcome::Cancelled,
            StopReason::Error => metrics::Outcome::Failed,
            StopReason::Stop | StopReason::Length | StopReason::ToolUse => metrics::Outcome::Done,
        };
        let usage = &outcome.message.usage;
        let tokens = metrics::Tokens {
            input: usage.input,
            output: usage.output,
            cache_read: usage.cache_read,
            cache_write: usage.cache_write,
            cost: usage.cost.total,
        };
        let model = [&*request.model.provider, &*request.model.id];
        METRICS.request(model, begun.elapsed(), ended, &tokens);
        if let Some(first_chunk) = sink.first_chunk {
            METRICS.first_chunk(model, first_chunk.duration_since(begun));
        }
        (outcome, sink.accepted)
    }
}

/// Nobody let a request be sent that a budget does not allow.
fn refused(error: &ReplyError, denial: &Denial) -> Settled {
    match denial.by {
        DeniedBy::End => Settled::Aborted,
        DeniedBy::Rule | DeniedBy::Nobody | DeniedBy::Person(_) | DeniedBy::Time(_) => {
            Settled::Failed(ReplyError::new(error.kind, format!("{}; {}", error.message, denial.reason())))
        }
    }
}

/// Takes note of whether the provider has accepted the request, and of when its answer began.
struct Metered<'a> {
    sink: &'a mut dyn Sink,
    accepted: bool,
    /// When the first piece of the answer came, be it a thought, text or a call.
    first_chunk: Option<Instant>,
}

impl Sink for Metered<'_> {
    fn event(&mut self, event: StreamEvent<'_>) {
        self.accepted = true;
        if self.first_chunk.is_none() && !matches!(event, StreamEvent::Start) {
            self.first_chunk = Some(Instant::now());
        }
        self.sink.event(event);
    }

    fn drained(&mut self) {
        self.sink.drained();
    }
}
