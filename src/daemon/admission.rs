//! Whether there is room for another session. As long as there is plenty, there is for everybody; of the last places each caller
//! of runs gets its share, so that nobody who floods the host shuts the others out.

use super::Daemon;
use crate::contract::error::DaemonError;
use std::collections::HashMap;

impl Daemon {
    /// Lets a caller begin a session, or a run.
    ///
    /// # Errors
    /// `busy` if there is no room for it.
    pub(super) fn admit(&self, caller: &str, is_run: bool) -> Result<(), DaemonError> {
        let (open, limit) = (self.sessions.len(), self.config.max_sessions);
        let Some(free) = limit.checked_sub(open).filter(|free| *free > 0) else {
            let message = format!("{open} sessions are open, which is the limit");
            return Err(DaemonError::Busy { message });
        };
        let runs = self.sessions.values().filter(|entry| !entry.identity.named).map(|entry| &*entry.caller);
        if is_run && exceeds_share(runs, caller, free) {
            let message = format!("{open} of {limit} sessions are open, and the last places are for other callers");
            return Err(DaemonError::Busy { message });
        }
        Ok(())
    }
}

/// Whether a caller has its share of the places for runs already, while no more are free than there are callers. `runs` has the
/// caller of each run. Somebody who is alone may have all places.
fn exceeds_share<'a>(runs: impl Iterator<Item = &'a str>, caller: &'a str, free: usize) -> bool {
    let mut counts = HashMap::from([(caller, 0_usize)]);
    runs.for_each(|of| *counts.entry(of).or_default() += 1);
    let (callers, places) = (counts.len(), counts.values().sum::<usize>() + free);
    let own = counts.get(caller).copied().unwrap_or_default();
    callers > 1 && free <= callers && own * callers >= places
}

#[cfg(test)]
mod tests {
    use super::exceeds_share;

    #[test]
    fn the_last_places_are_for_those_who_have_less() {
        let runs = |text: &'static str| text.split_terminator(' ');
        for (there, caller, free, exceeds) in [
            ("", "a", 1, false),
            ("a a a a a a a a a", "a", 1, false),
            ("a a a a a a a a", "b", 1, false),
            ("a a a a a a a b", "a", 2, true),
            ("a a a a a a a b", "b", 2, false),
            ("a a a a a a b", "a", 3, false),
            ("a a a a b b b b", "a", 1, false),
            ("a a a a a b b b", "a", 1, true),
            ("a a a a b b c c", "d", 1, false),
        ] {
            assert_eq!(exceeds_share(runs(there), caller, free), exceeds, "{there}: {caller}, {free} free");
        }
    }
}
