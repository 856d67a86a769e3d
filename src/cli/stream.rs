//! `pi-bridge stream`: every record as it comes.

use super::answer::error_of;
use super::connection::{Connection, Deadline, same_id};
use super::failure::Failure;
use super::output;
use rustix::event::{PollFd, PollFlags, poll};
use serde_json::Value;
use std::io;

/// The first line of standard error when the session ends the stream; scripts look for it.
const CLOSED: &str = "bridge-stream-closed";

/// Subscribes and prints whatever arrives, byte by byte as it was sent, until one of the two ends closes. The socket is not
/// read while standard output takes nothing, so that what waits, waits at the session, which bounds it.
///
/// # Errors
/// The session ends the stream or refuses the subscription; [`Failure::OutputClosed`] when nobody reads any more.
pub fn run(connection: &mut Connection, request: &Value, deadline: Deadline) -> Result<(), Failure> {
    connection.send(request, deadline)?;
    // Until the subscription is confirmed, lines are looked at.
    loop {
        let Some(line) = connection.line(deadline)? else { return Err(Failure::Local(CLOSED.into())) };
        output::print_bytes(&line.bytes)?;
        let Some(record) = line.record else { continue };
        if record.get("type").and_then(Value::as_str) == Some("response")
            && record.get("id").is_some_and(|id| same_id(id, &request["id"]))
        {
            if record.get("success").and_then(Value::as_bool) != Some(true) {
                return Err(Failure::Local(error_of(&record)));
            }
            break;
        }
    }
    output::print_bytes(&connection.take_rest())?;
    loop {
        wait(connection)?;
        let bytes = connection.receive_bytes(Deadline::after(None))?;
        if bytes.is_empty() {
            return Err(Failure::Local(CLOSED.into()));
        }
        output::print_bytes(&bytes)?;
    }
}

/// Waits until something arrives. Notices at once when standard output is closed, so that a pipeline ends when its last
/// part does and not with the session's next event.
fn wait(connection: &Connection) -> Result<(), Failure> {
    let stdout = io::stdout();
    let mut waits = [
        PollFd::new(connection, PollFlags::IN),
        PollFd::from_borrowed_fd(std::os::fd::AsFd::as_fd(&stdout), PollFlags::empty()),
    ];
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
