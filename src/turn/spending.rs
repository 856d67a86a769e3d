//! Requests to the model, which cost something: each is sent through here, after the session has reserved what it may take.

use super::{Action, Settled, Step, Turn, Verdict};
use crate::contract::error::ReplyError;
use crate::model::{Outcome, Request, Sink, StreamEvent, spent};

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
            return Ok(self.services.stream(request, &self.cancel, sink));
        }
        match self.verdict(Action::Request(self.model.clone(), self.services.most(request))) {
            Verdict::Reserved(durable) => durable().map_err(|e| Settled::Failed(ReplyError::storage(&e)))?,
            Verdict::Refused(error) => return Err(Settled::Failed(error)),
            Verdict::Go(_) | Verdict::No | Verdict::Calls(_) => return Err(Settled::Aborted),
        }
        let mut sink = Metered { sink, accepted: false };
        let outcome = self.services.stream(request, &self.cancel, &mut sink);
        self.step(Step::Spent(spent(request, &outcome, sink.accepted)));
        Ok(outcome)
    }
}

/// Takes note of whether the provider has accepted the request.
struct Metered<'a> {
    sink: &'a mut dyn Sink,
    accepted: bool,
}

impl Sink for Metered<'_> {
    fn event(&mut self, event: StreamEvent<'_>) {
        self.accepted = true;
        self.sink.event(event);
    }

    fn drained(&mut self) {
        self.sink.drained();
    }
}
