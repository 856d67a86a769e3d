//! The handle of a subscription.

use super::shared::Shared;
use std::sync::Arc;
use std::time::Duration;

/// A live subscription. Dropping it ends it; messages that already lie in its channel stay there.
#[must_use = "dropping it ends the subscription"]
pub struct Subscription {
    shared: Arc<Shared>,
    sid: u64,
}

impl Subscription {
    pub(super) fn new(shared: Arc<Shared>, sid: u64) -> Subscription {
        Subscription { shared, sid }
    }

    /// Ends the subscription without losing a message: the server sends no more, and what it had sent by then is in the
    /// channel when this returns true. False when the server did not confirm it in time.
    pub fn drain(self, timeout: Duration) -> bool {
        self.shared.subscriptions().retire(self.sid);
        self.shared.send_unsub(self.sid);
        self.shared.round_trip(timeout)
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let retired = self.shared.subscriptions().remove(self.sid);
        if !retired {
            self.shared.send_unsub(self.sid);
        }
    }
}
