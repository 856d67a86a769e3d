//! `pi-bridge stream`: every record as it comes.

use super::answer::error_of;
use super::connection::{Connection, Deadline, Record, same_id};
use super::failure::Failure;
use super::output;
use rustix::event::{PollFd, PollFlags, poll};
use serde_json::Value;
use std::io;
use std::os::fd::AsFd;

/// The first line of standard error when the session ends the stream; scripts look for it.
const CLOSED: &str = "bridge-stream-closed";

/// Subscribes and prints every line as it was sent, until one of the two ends closes. The socket is not read while standard
/// output takes nothing, so that what waits, waits at the session, which bounds it.
///
/// `session` is the one that is meant, where the socket is not its own and stays open when it ends.
///
/// # Errors
/// The session ends or refuses the subscription; [`Failure::OutputClosed`] when nobody reads any more.
pub(super) fn run(
    connection: &mut Connection,
    request: &Value,
    session: Option<&str>,
    deadline: Deadline,
) -> Result<(), Failure> {
    connection.send(request, deadline)?;
    let closed = || Err(Failure::Local(CLOSED.into()));
    let mut confirmed = false;
    loop {
        let mut lines = Vec::new();
        let mut end = None;
        while let (None, Some(line)) = (&end, connection.line()) {
            if (!confirmed || session.is_some())
                && let Ok(record) = serde_json::from_slice::<Record>(&line)
            {
                if record.get("id").is_some_and(|id| same_id(id, &request["id"])) {
                    confirmed = record.get("success") == Some(&Value::Bool(true));
                    end = (!confirmed).then(|| error_of(&record));
                } else if session.is_some_and(|session| ends(&record, session)) {
                    end = Some(CLOSED.to_string());
                }
            }
            lines.extend(line);
        }
        output::print_bytes(&lines)?;
        if let Some(end) = end {
            return Err(Failure::Local(end));
        }
        if !confirmed {
            if !connection.receive(deadline)? {
                return closed();
            }
            continue;
        }
        wait(connection)?;
        if !connection.receive(Deadline::after(None))? {
            output::print_bytes(&connection.take_rest())?;
            return closed();
        }
    }
}

/// Whether a record tells that the session has ended.
pub(super) fn ends(record: &Record, session: &str) -> bool {
    record.get("event").and_then(Value::as_str) == Some("bridge_stop")
        && record.get("session").is_none_or(|found| found == session)
}

/// Waits until something arrives. Notices at once when standard output is closed, so that a pipeline ends when its last
/// part does and not with the session's next event.
fn wait(connection: &Connection) -> Result<(), Failure> {
    let stdout = io::stdout();
    let mut waits =
        [PollFd::new(connection, PollFlags::IN), PollFd::from_borrowed_fd(stdout.as_fd(), PollFlags::empty())];
    loop {
        match poll(&mut waits, None) {
            Ok(_) if waits[1].revents().intersects(PollFlags::ERR | PollFlags::HUP) => {
                return Err(Failure::OutputClosed);
            }
            Ok(_) if !waits[0].revents().is_empty() => return Ok(()),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(Failure::Local(format!("Cannot wait: {e}"))),
        }
    }
}
