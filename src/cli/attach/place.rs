//! Where the session is, so that it is found again when its daemon was gone.

use crate::cli::connection::{Connection, Deadline, Record};
use crate::cli::failure::Failure;
use crate::cli::resolve;
use crate::socket::PROTOCOL;
use serde_json::Value;
use std::path::PathBuf;

/// Where a session is.
#[derive(Clone, Debug)]
pub(in crate::cli) struct Place {
    /// Where sessions are registered.
    pub directory: PathBuf,
    pub socket: PathBuf,
    /// The session to name in requests, where the socket is not its own.
    pub session: Option<String>,
}

/// What became of an attempt to find it again.
pub(super) enum Again {
    Connected(Connection),
    /// Nobody is there yet.
    Later,
    /// A daemon is there, and it does not have the session.
    Gone,
}

impl Place {
    /// Looks for the session of this id and connects.
    pub(super) fn again(&mut self, id: Option<&str>, deadline: Deadline) -> Again {
        let found = match id {
            Some(id) => resolve::again(&self.directory, id, deadline),
            None => resolve::Found::Nothing,
        };
        let (socket, session) = match found {
            resolve::Found::Session(target) => (target.socket, target.session),
            resolve::Found::OnlyDaemon => return Again::Gone,
            // What is not registered may still be where it was.
            resolve::Found::Nothing => (self.socket.clone(), self.session.clone()),
        };
        match Connection::open(&socket, deadline) {
            Ok(connection) => {
                (self.socket, self.session) = (socket, session);
                Again::Connected(connection)
            }
            Err(_) => Again::Later,
        }
    }
}

/// Takes the first record of a connection; returns the session's state in it.
///
/// # Errors
/// What listens there speaks something else, or nothing.
pub(super) fn greeting(connection: &mut Connection, deadline: Deadline) -> Result<Record, Failure> {
    let mut hello = connection.record(deadline)?.unwrap_or_default();
    if hello.get("protocol").and_then(Value::as_str) != Some(PROTOCOL) {
        return Err(Failure::Local(format!("What listens there does not speak {PROTOCOL}")));
    }
    match hello.remove("state") {
        Some(Value::Object(state)) => Ok(state),
        _ => Ok(Record::new()),
    }
}
