//! Whether a failed request is worth another try.

use super::{Model, Outcome};

/// What to do after a failed request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Retry,
    Final,
}

/// Judges by the status of the provider's answer.
pub fn verdict(outcome: &Outcome, _model: &Model) -> Verdict {
    match outcome.failure.as_ref().and_then(|f| f.status) {
        Some(408 | 429 | 500..) => Verdict::Retry,
        _ => Verdict::Final,
    }
}
