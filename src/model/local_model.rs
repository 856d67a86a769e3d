//! Models that answer inside this process.

use super::answer::Answer;
use super::request::{Request, RequestError};
use crate::cancel::Cancel;
use crate::transcript::StopReason;

/// A model without a provider. Tests bring their own; else it is the one that is built in.
pub(crate) trait LocalModel: Send + Sync {
    /// Answers the request, as a provider's API would.
    ///
    /// # Errors
    /// Why there is no answer, or no more of it.
    fn run(&self, request: &Request<'_>, cancel: &Cancel, answer: &mut Answer<'_>) -> Result<StopReason, RequestError>;
}
