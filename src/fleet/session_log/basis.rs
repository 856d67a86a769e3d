//! How a session's log is kept short: what a host needs to go on with the session is stored anew as a whole, and the records
//! before that are removed.

use super::super::LOGS;
use super::super::record::Kind;
use super::{END_TIME, Stop, Writer};
use crate::sync::lock;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// What a log may take beyond twice the session file, bytes.
const SLACK: u64 = 1 << 20;
/// Where there is no room for a basis it is tried again after this time.
const REST: Duration = Duration::from_secs(600);

/// Whether a basis is worth what it takes: behind a compaction sooner, as less of what is before is needed then.
fn is_due(logged: u64, file: u64, compacted: bool) -> bool {
    if compacted { logged > file + file / 4 } else { logged > 2 * file + SLACK }
}

impl Writer {
    /// Stores a basis if that is due. To be called when everything that was written is stored.
    pub(super) fn shorten(&mut self) -> Result<(), Stop> {
        let compacted = self.shared.compacted.swap(false, Ordering::AcqRel);
        let rests = self.rests_until.is_some_and(|until| Instant::now() < until);
        if rests || !is_due(self.logged, self.stored, compacted) {
            return Ok(());
        }
        let path = lock(&self.shared.file).clone();
        let (Some(path), Some(state)) = (path, self.state.clone()) else { return Ok(()) };
        let stored = self.stored;
        match self.store_basis(&path, &state) {
            Err(Stop::Failed(why)) => {
                log::warn!("session {}: its log stays as long as it is: {why}", self.session);
                self.rests_until = Some(Instant::now() + REST);
                // It says to whoever reads that the basis before it is none.
                self.stored = stored;
                lock(&self.shared.state).get_or_insert(state);
                Ok(())
            }
            done => done,
        }
    }

    fn store_basis(&mut self, path: &Path, state: &[u8]) -> Result<(), Stop> {
        let before = self.logged;
        self.append(&self.head(Kind::State), state)?;
        let basis = self.last;
        self.stored = 0;
        self.ship_file(path)?;
        // Whoever dies right here leaves more than is needed.
        match self.fleet.jetstream.purge(LOGS, &self.subject, Some(basis), END_TIME) {
            Ok(_) => self.logged -= before.min(self.logged),
            Err(e) => log::debug!("session {}: older records of its log stay for now: {e}", self.session),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{SLACK, is_due};

    #[test]
    fn a_log_is_shortened_when_it_is_much_longer_than_the_file() {
        for (logged, file, compacted, expected) in [
            (0, 0, false, false),
            (1000, 900, true, false),
            (1200, 900, true, true),
            (1200, 900, false, false),
            (SLACK + 1, 0, false, true),
            (SLACK + 2000, 1000, false, false),
            (SLACK + 2001, 1000, false, true),
        ] {
            assert_eq!(is_due(logged, file, compacted), expected, "{logged} {file} {compacted}");
        }
    }
}
