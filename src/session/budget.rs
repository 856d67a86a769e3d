//! What the session spends: reserved before a request is sent, settled when it is known what the request came to.
//!
//! Time is reserved in slices while a prompt is worked on, so that sessions which share a day's time do not spend more of it
//! than there is. A slice that is used up is followed by another one, or by the end of the prompt.

use super::Session;
use super::auditing::Line;
use super::storing::LOOK;
use crate::contract::error::{ErrorKind, ReplyError};
use crate::contract::event::AgentEvent;
use crate::contract::wire::Wire;
use crate::governance::budget::{
    Account, Amounts, Budgets, DayOrder, DaySpending, Exceeded, Ledger, OnBudget, Payer, Refused, Reservation,
    SharedDay, Spent,
};
use crate::governance::rules::Target;
use crate::json::object;
use crate::metrics::{Count, METRICS};
use crate::model::{Model, Most};
use crate::turn::{Ruling, ToolCall, Verdict};
use serde_json::json;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The longest slice of time: what a crash costs at most of a budget, and how often there is a line in the ledger.
const SLICE: Duration = Duration::from_secs(10);
/// The prompt of a compaction that somebody asked for.
const COMPACTION: &str = "compaction";

/// What stands for the tool's name where somebody is asked about a request to the model.
pub(super) const MODEL_REQUEST: &str = "model_request";

/// What is reserved at the moment.
#[derive(Default)]
pub(super) struct Spending {
    /// Somebody allowed the next request, whatever the budgets are.
    pub(super) is_approved: bool,
    request: Option<Reservation>,
    time: Option<Slice>,
    /// What the prompt ends with, because its time is over.
    pub(super) exceeded: Option<ReplyError>,
}

/// Why something was not reserved.
struct Unpaid {
    error: ReplyError,
    /// The limit that does not allow it.
    exceeded: Option<Exceeded>,
}

struct Slice {
    reservation: Reservation,
    began: Instant,
    length: Duration,
    /// The same of a day that is shared with other machines, if that is limited.
    of_day: Option<SliceOfDay>,
}

enum SliceOfDay {
    /// It is not known yet whether there is so much; what runs goes on meanwhile.
    Ordered(DayOrder),
    Begun(DaySpending),
}

impl Spending {
    /// When the time that was reserved is over, or is to be looked at again.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let slice = self.time.as_ref()?;
        let end = slice.began + slice.length;
        let is_open = matches!(slice.of_day, Some(SliceOfDay::Ordered(_)));
        Some(if is_open { end.min(Instant::now() + LOOK) } else { end })
    }
}

impl<W: Wire> Session<W> {
    /// Whether the session has to be asked before each request to the model.
    pub(super) fn is_metered(&self) -> bool {
        self.options.audit.is_some() || self.has_budgets()
    }

    /// What the turn reserves its requests from itself, as long as nothing but the ledger has a say in them: it does not wait
    /// for the session then, which has the last events to write and to tell first. Where the ledger says no it asks.
    pub(super) fn account(&self, ids: &[String]) -> Option<Account> {
        let ledger = self.options.ledger.clone().filter(|_| self.options.audit.is_none() && self.has_budgets())?;
        let prompt = ids.first().map_or(COMPACTION, String::as_str).to_owned();
        Some(Account { ledger, session: self.identity.instance_id.to_string(), prompt })
    }

    /// Who says beside the ledger whether the turn may spend something today.
    pub(super) fn shared_day(&self) -> Option<Arc<SharedDay>> {
        self.options.ledger.as_ref().filter(|_| self.has_budgets())?.shared_day().cloned()
    }

    fn has_budgets(&self) -> bool {
        !self.stats.budgets().is_empty()
    }

    /// The verdict on a request to the model that may take so much, and the audit log's lines about it. A day that is shared
    /// with other machines may not allow it.
    pub(super) fn judge_request(
        &mut self,
        model: &Model,
        most: Most,
        over_day: Option<Exceeded>,
    ) -> (Verdict, Vec<Line>) {
        let verdict = self.reserve_request(model, most, over_day);
        if matches!(verdict, Verdict::Refused(_) | Verdict::Asked(..)) {
            METRICS.count(Count::OverBudget);
        }
        if self.options.audit.is_none() {
            return (verdict, Vec::new());
        }
        let mut facts = json!({"allowed": matches!(verdict, Verdict::Reserved(_)), "asked": matches!(verdict, Verdict::Asked(..)), "model": model.spec(),
            "mayTake": {"money": most.dollars, "tokens": most.tokens}});
        if let Verdict::Refused(error) | Verdict::Asked(error, _) = &verdict {
            facts["reason"] = json!(error.message);
        }
        (verdict, vec![("gate", facts)])
    }

    fn reserve_request(&mut self, model: &Model, most: Most, over_day: Option<Exceeded>) -> Verdict {
        let budgets = self.stats.budgets();
        if budgets.is_empty() {
            return Verdict::Reserved(Box::new(|| Ok(())));
        }
        let most = Amounts::request(most.dollars, most.tokens);
        let reserved = if std::mem::take(&mut self.spending.is_approved) {
            self.pay(&budgets, |ledger, payer| ledger.reserve_anyway(payer, most))
        } else if let Some(exceeded) = over_day {
            Err(self.unpaid(Refused::Exceeded(exceeded)))
        } else {
            let timed = self.reserve_time(&budgets);
            timed.and_then(|()| self.pay(&budgets, |ledger, payer| ledger.reserve(payer, most)))
        };
        match reserved {
            Ok(reservation) => self.reserved(reservation),
            Err(Unpaid { error, exceeded: Some(exceeded) }) if self.options.on_budget == OnBudget::Ask => {
                self.ask_for_budget(model, most, error, exceeded)
            }
            Err(Unpaid { error, .. }) => Verdict::Refused(error),
        }
    }

    /// Asks people whether a request may be sent that a budget does not allow.
    fn ask_for_budget(&mut self, model: &Model, most: Amounts, error: ReplyError, exceeded: Exceeded) -> Verdict {
        let mut arguments = object(exceeded.document());
        arguments.insert("model".into(), model.spec().into());
        let prompt = self.running.as_ref().and_then(|running| running.ids.first());
        let call = ToolCall {
            id: format!("{MODEL_REQUEST}:{}", prompt.map_or(COMPACTION, String::as_str)),
            tool: MODEL_REQUEST.to_owned(),
            arguments: Arc::new(arguments),
            target: Target::Budget(exceeded.limit()),
        };
        let rule = Some(format!("budget {}", exceeded.limit()).into());
        let ruling = if self.is_granted(&call) { Ruling::Run } else { self.ask_for_approval(&call, rule) };
        match ruling {
            Ruling::Wait(wait) => Verdict::Asked(error, wait),
            Ruling::Denied(denial) => {
                Verdict::Refused(ReplyError::new(error.kind, format!("{}; {}", error.message, denial.reason())))
            }
            Ruling::Run => {
                let reserved = self.pay(&self.stats.budgets(), |ledger, payer| ledger.reserve_anyway(payer, most));
                reserved.map_or_else(|unpaid| Verdict::Refused(unpaid.error), |reservation| self.reserved(reservation))
            }
        }
    }

    fn reserved(&mut self, reservation: Reservation) -> Verdict {
        let durable = reservation.durable();
        self.spending.request = Some(reservation);
        Verdict::Reserved(Box::new(durable))
    }

    /// A request came to this.
    pub(super) fn spent(&mut self, spent: Most) {
        if let Some(reservation) = self.spending.request.take() {
            self.settle_reservation(&reservation, Amounts::request(spent.dollars, spent.tokens));
        }
    }

    /// The prompt is not worked on any more. Of a request that was left behind it stays unknown what it came to.
    pub(super) fn end_spending(&mut self) -> Option<ReplyError> {
        self.settle_time();
        self.spending.request = None;
        self.spending.is_approved = false;
        self.spending.exceeded.take()
    }

    /// Goes on with another slice of time where one is over, or ends the prompt.
    pub(super) fn renew_time(&mut self) {
        let reserved = match self.begin_slice_of_day() {
            Ok(()) if self.spending.deadline().is_none_or(|end| Instant::now() < end) => return,
            Ok(()) => {
                self.settle_time();
                self.reserve_time(&self.stats.budgets())
            }
            Err(unpaid) => Err(unpaid),
        };
        if let Err(Unpaid { error, .. }) = reserved
            && let Some(running) = &self.running
        {
            running.cancel.cancel();
            self.reject_questions("tool");
            self.spending.exceeded = Some(error);
        }
    }

    /// Takes in what others left of the day for the slice that has begun.
    fn begin_slice_of_day(&mut self) -> Result<(), Unpaid> {
        let Some(slice) = &mut self.spending.time else { return Ok(()) };
        let Some(SliceOfDay::Ordered(order)) = &slice.of_day else { return Ok(()) };
        let Ok(answer) = order.answer().try_recv() else { return Ok(()) };
        slice.of_day = None;
        match answer {
            Ok(reservation) => {
                slice.of_day = reservation.begin().map(|spending| {
                    slice.length = slice.length.min(Duration::from_millis(spending.most.time_millis()));
                    SliceOfDay::Begun(spending)
                });
                Ok(())
            }
            Err(refused) => Err(self.unpaid(refused)),
        }
    }

    /// Reserves time for the prompt, where that is limited and none is reserved.
    fn reserve_time(&mut self, budgets: &Budgets) -> Result<(), Unpaid> {
        if self.spending.time.is_some() || !budgets.limits_time() {
            return Ok(());
        }
        let longest = u64::try_from(SLICE.as_millis()).unwrap_or(u64::MAX);
        let reservation = self.pay(budgets, |ledger, payer| ledger.reserve_time(payer, longest))?;
        let length = reservation.most.time_millis();
        let day = self.shared_day().filter(|_| budgets.limits_day());
        let of_day = day.map(|day| SliceOfDay::Ordered(day.order_time(budgets, length)));
        let length = Duration::from_millis(length);
        self.spending.time = Some(Slice { reservation, began: Instant::now(), length, of_day });
        Ok(())
    }

    fn settle_time(&mut self) {
        if let Some(Slice { reservation, began, length, of_day }) = self.spending.time.take() {
            let used = began.elapsed().min(length);
            let used = Amounts::millis(u64::try_from(used.as_millis()).unwrap_or(u64::MAX));
            self.settle_reservation(&reservation, used);
            match (of_day, self.shared_day()) {
                (Some(SliceOfDay::Begun(spending)), _) => spending.settle(used),
                // The time has gone by all the same.
                (Some(SliceOfDay::Ordered(_)), Some(day)) => day.spend(used),
                (Some(SliceOfDay::Ordered(_)), None) | (None, _) => {}
            }
        }
    }

    fn settle_reservation(&self, reservation: &Reservation, spent: Amounts) {
        let budgets = self.stats.budgets();
        let Some(ledger) = &self.options.ledger else { return };
        if let Some(spent) = ledger.settle(self.payer(&budgets), reservation, spent) {
            self.stats.set_spent(spent);
        }
    }

    /// Reserves something, or says why it may not be spent.
    fn pay(
        &mut self,
        budgets: &Budgets,
        reserve: impl FnOnce(&Ledger, Payer<'_>) -> Result<(Reservation, Spent), Refused>,
    ) -> Result<Reservation, Unpaid> {
        let Some(ledger) = self.options.ledger.clone() else {
            let error = ReplyError::coded(ErrorKind::Storage, "there is no place to keep what is spent");
            return Err(Unpaid { error, exceeded: None });
        };
        match reserve(&ledger, self.payer(budgets)) {
            Ok((reservation, spent)) => {
                self.stats.set_spent(spent);
                Ok(reservation)
            }
            Err(refused) => Err(self.unpaid(refused)),
        }
    }

    fn unpaid(&mut self, refused: Refused) -> Unpaid {
        match refused {
            Refused::Exceeded(exceeded) => {
                self.publish(AgentEvent::Bridge { name: "budget_exceeded", data: exceeded.document() });
                Unpaid { error: ReplyError::coded(ErrorKind::BudgetExceeded, exceeded), exceeded: Some(exceeded) }
            }
            Refused::Io(error) => Unpaid { error: ReplyError::storage(&error), exceeded: None },
        }
    }

    fn payer<'a>(&'a self, budgets: &'a Budgets) -> Payer<'a> {
        let prompt = self.running.as_ref().and_then(|running| running.ids.first());
        Payer { session: &self.identity.instance_id, prompt: prompt.map_or(COMPACTION, String::as_str), budgets }
    }

    /// Shows what is spent. A session that `is_new` has spent nothing, which need not be looked up.
    pub(super) fn show_spent(&self, is_new: bool) {
        let budgets = self.stats.budgets();
        if let Some(ledger) = self.options.ledger.as_ref().filter(|_| !budgets.is_empty()) {
            self.stats.set_ledger(ledger.clone());
            if !is_new && let Some(spent) = ledger.spent(self.payer(&budgets)) {
                self.stats.set_spent(spent);
            }
        }
    }

    /// Forgets what was spent in the session, which does not come back.
    pub(super) fn forget_spent(&self) {
        if let Some(ledger) = self.options.ledger.as_ref().filter(|_| self.has_budgets()) {
            ledger.forget(&self.identity.instance_id);
        }
    }

    /// Makes the budgets narrower.
    ///
    /// # Errors
    /// One of them would be made wider.
    pub(super) fn narrow_budgets(&self, by: Budgets) -> Result<(), ReplyError> {
        let narrowed = self.stats.budgets().narrowed(by).map_err(|why| ReplyError::new(ErrorKind::BadRequest, why))?;
        self.stats.set_budgets(narrowed);
        self.show_spent(false);
        Ok(())
    }
}
