//! How a session's log is read as a whole, and its file made anew from that.

use super::super::record::{Rebuilt, decode};
use super::super::{ASK_TIME, Fleet, LOGS};
use super::{BATCH, Stop, Writer};
use crate::files;
use crate::nats::jetstream::JetStreamError;
use crate::sync::lock;
use std::io::Write;

/// How often a log is read that is made shorter meanwhile.
const READS: usize = 5;

/// Reads everything that is stored of a session; with the sequence of the last record. `None` if records are missing.
pub(in crate::fleet) fn read(fleet: &Fleet, session: &str) -> Result<Option<(Rebuilt, u64)>, JetStreamError> {
    for _ in 0..READS {
        let whole = read_once(fleet, session)?;
        if whole.is_some() {
            return Ok(whole);
        }
    }
    log::warn!("session {session}: records of its log are missing");
    Ok(None)
}

/// Reads it once; `None` if its owner removed records from under the reader.
fn read_once(fleet: &Fleet, session: &str) -> Result<Option<(Rebuilt, u64)>, JetStreamError> {
    let subject = fleet.options.log_subject(session);
    let (mut rebuilt, mut last) = (Rebuilt::default(), 0);
    loop {
        let page = fleet.jetstream.next(LOGS, &subject, last + 1, BATCH, ASK_TIME)?;
        for stored in &page.messages {
            let before = std::mem::replace(&mut last, stored.sequence);
            let Some((head, bytes)) = decode(&stored.payload) else {
                log::warn!("session {session}: record {last} of its log is of another version");
                continue;
            };
            let follows = if before == 0 { Rebuilt::begins_with(&head) } else { head.after == before };
            if !follows {
                return Ok(None);
            }
            if !rebuilt.take(&head, bytes) {
                log::warn!("session {session}: record {last} of its log does not fit");
            }
        }
        if page.messages.is_empty() || page.pending == 0 {
            return Ok(Some((rebuilt, last)));
        }
    }
}

impl Writer {
    /// A power cut may have taken the end of a file that is stored.
    pub(super) fn restore_file(&mut self, stored: u64) -> Result<(), Stop> {
        let Some(path) = lock(&self.shared.file).clone() else { return Ok(()) };
        if path.metadata().map_or(0, |file| file.len()) >= stored {
            return Ok(());
        }
        let Some((rebuilt, _)) = self.ask(|| read(&self.fleet, &self.session))? else {
            return Err(Stop::Failed("records of the session's log are missing".into()));
        };
        log::warn!("{}: its end is missing and is taken from the session's log", path.display());
        files::private::replace(&path, |file| file.write_all(&rebuilt.file).and_then(|()| files::sync(file)))
            .map_err(|e| Stop::Failed(format!("{}: {e}", path.display())))
    }
}
