//! One connection to a session's or daemon's socket: requests go out, records come in, one JSON object a line.

use super::failure::Failure;
use super::lines::LineBuffer;
use crate::clock::now_ms;
use crate::ids;
use crate::socket::MAX_DESCRIPTORS;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
    connect, sendmsg, socket_with,
};
use serde_json::{Map, Value};
use std::io::{self, IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Longest record that is accepted, bytes: far above what a session may answer (its raw history is bounded by some MiB),
/// so that only something else than a session reaches it.
const MAX_RECORD: usize = 64 * 1024 * 1024;
/// Read at a time, bytes.
const CHUNK: usize = 64 * 1024;

/// One JSON object of the wire.
pub(super) type Record = Map<String, Value>;

/// A point in time until which something may take, or none.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deadline(Option<Instant>);

impl Deadline {
    /// After this time from now; absent for none.
    pub(super) fn after(time: Option<Duration>) -> Deadline {
        Deadline(time.map(|time| Instant::now() + time))
    }

    /// The time that is left, absent for no limit.
    ///
    /// # Errors
    /// [`io::ErrorKind::TimedOut`] if none is left.
    fn left(self) -> io::Result<Option<Duration>> {
        match self.0.map(|end| end.saturating_duration_since(Instant::now())) {
            Some(Duration::ZERO) => Err(io::ErrorKind::TimedOut.into()),
            left => Ok(left),
        }
    }
}

/// An id for a request: milliseconds and a random number.
pub(super) fn new_id() -> String {
    format!("{}-{}", now_ms(), ids::hex8())
}

/// A connected client.
pub(super) struct Connection {
    socket: UnixStream,
    path: PathBuf,
    lines: LineBuffer,
    /// Goes along with the next record.
    along: Vec<OwnedFd>,
}

impl Connection {
    /// Connects. A listener that does not accept makes this wait.
    ///
    /// # Errors
    /// Nobody listens there, or not until the deadline.
    pub(super) fn open(path: &Path, deadline: Deadline) -> Result<Connection, Failure> {
        let failed = |e: io::Error| Failure::Local(format!("Cannot connect to {}: {}", path.display(), explain(&e)));
        let connected = || -> io::Result<UnixStream> {
            let address = SocketAddrUnix::new(path)?;
            let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
            // The limit for sending is the one for connecting as well, on Linux.
            set_socket_timeout(&socket, Timeout::Send, deadline.left()?)?;
            connect(&socket, &address)?;
            Ok(UnixStream::from(socket))
        };
        let socket = connected().map_err(failed)?;
        Ok(Connection { socket, path: path.to_path_buf(), lines: LineBuffer::default(), along: Vec::new() })
    }

    /// Has these go along with the next record.
    pub(super) fn send_along(&mut self, descriptors: Vec<OwnedFd>) {
        self.along = descriptors;
    }

    /// Sends a record.
    ///
    /// # Errors
    /// The peer is gone, or takes nothing until the deadline.
    pub(super) fn send(&mut self, record: &Value, deadline: Deadline) -> Result<(), Failure> {
        let line = format!("{record}\n");
        let sent = deadline.left().and_then(|left| {
            self.socket.set_write_timeout(left)?;
            let begun = self.begin(line.as_bytes())?;
            self.socket.write_all(line.as_bytes().get(begun..).unwrap_or_default())
        });
        sent.map_err(|e| self.broken("send to", &e))
    }

    /// Sends the beginning of a line with what goes along with it; returns how much that was, bytes.
    fn begin(&mut self, line: &[u8]) -> io::Result<usize> {
        let along = std::mem::take(&mut self.along);
        if along.is_empty() {
            return Ok(0);
        }
        let descriptors: Vec<BorrowedFd<'_>> = along.iter().map(AsFd::as_fd).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        control.push(SendAncillaryMessage::ScmRights(&descriptors));
        Ok(sendmsg(&self.socket, &[IoSlice::new(line)], &mut control, SendFlags::NOSIGNAL)?)
    }

    /// The next record; lines that are no JSON object are passed over. Absent when the peer has closed the connection.
    ///
    /// # Errors
    /// The connection broke, or there is none until the deadline.
    pub(super) fn record(&mut self, deadline: Deadline) -> Result<Option<Record>, Failure> {
        loop {
            if let Some(record) = self.arrived() {
                return Ok(Some(record));
            }
            if !self.receive(deadline)? {
                return Ok(None);
            }
        }
    }

    /// The next record that has been received already.
    pub(super) fn arrived(&mut self) -> Option<Record> {
        loop {
            if let Ok(Value::Object(record)) = serde_json::from_slice(&self.lines.next_line()?) {
                return Some(record);
            }
        }
    }

    /// The next line that has been received already, whatever is in it, as it was sent.
    pub(super) fn line(&mut self) -> Option<Vec<u8>> {
        self.lines.next_line()
    }

    /// What has been received and is no complete line.
    pub(super) fn take_rest(&mut self) -> Vec<u8> {
        self.lines.take_rest()
    }

    /// Receives more; false when the peer has closed the connection.
    ///
    /// # Errors
    /// The connection broke, there is nothing until the deadline, or a record is absurdly long.
    pub(super) fn receive(&mut self, deadline: Deadline) -> Result<bool, Failure> {
        if self.lines.partial() > MAX_RECORD {
            return Err(Failure::Local(format!("A record of {} is too long", self.path.display())));
        }
        let mut chunk = vec![0; CHUNK];
        loop {
            let read = deadline.left().and_then(|left| {
                self.socket.set_read_timeout(left)?;
                self.socket.read(&mut chunk)
            });
            match read {
                Ok(length) => {
                    self.lines.push(&chunk[..length]);
                    return Ok(length > 0);
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                // A daemon that is killed while it has not read all we sent; for us it is gone all the same.
                Err(e) if e.kind() == io::ErrorKind::ConnectionReset => return Ok(false),
                Err(e) => return Err(self.broken("read from", &e)),
            }
        }
    }

    /// Sends a request, which must have an id, and waits for its response.
    ///
    /// # Errors
    /// There is no response.
    pub(super) fn ask(&mut self, request: &Value, deadline: Deadline) -> Result<Value, Failure> {
        self.send(request, deadline)?;
        self.response(&request["id"], deadline)
    }

    /// Waits for the response to the only request that is open.
    ///
    /// # Errors
    /// There is none.
    pub(super) fn response(&mut self, id: &Value, deadline: Deadline) -> Result<Value, Failure> {
        while let Some(record) = self.record(deadline)? {
            if is_response(&record, id) {
                return Ok(Value::Object(record));
            }
        }
        Err(Failure::Local(format!("Socket closed before response: {}", self.path.display())))
    }

    fn broken(&self, what: &str, error: &io::Error) -> Failure {
        Failure::Local(format!("Cannot {what} {}: {}", self.path.display(), explain(error)))
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Whether a record answers the only open request. A failure without an id does: it is told of a line that could not be
/// read, or was too long, and only ours was sent.
fn is_response(record: &Record, id: &Value) -> bool {
    record.get("type").and_then(Value::as_str) == Some("response")
        && match record.get("id") {
            Some(found) => same_id(found, id),
            None => record.get("success").and_then(Value::as_bool) == Some(false),
        }
}

/// Whether two ids are the same. Numbers are compared as such, as the peer may write 1.0 as 1.
pub(super) fn same_id(a: &Value, b: &Value) -> bool {
    match (a.as_f64(), b.as_f64()) {
        (Some(a), Some(b)) => a == b,
        _ => a == b,
    }
}

/// An error of the system in words that fit a connection.
#[expect(clippy::wildcard_enum_match_arm, reason = "the system has words for the other kinds")]
fn explain(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "there is no such socket (has the session ended?)".to_string(),
        io::ErrorKind::ConnectionRefused => "nobody listens there (has the session ended?)".to_string(),
        // A limit of the socket's own shows as "would block".
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => "no answer in time (see --timeout)".to_string(),
        io::ErrorKind::BrokenPipe => "the connection was closed".to_string(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::os::unix::net::UnixListener;

    #[test]
    fn a_response_is_known_by_its_id() {
        for (record, id, expected) in [
            (json!({"type": "response", "id": "1", "success": true}), json!("1"), true),
            (json!({"type": "response", "id": "2", "success": true}), json!("1"), false),
            (json!({"type": "response", "id": 1, "success": true}), json!(1.0), true),
            (json!({"type": "response", "id": 1, "success": true}), json!("1"), false),
            (json!({"type": "response", "id": {"a": [1]}, "success": true}), json!({"a": [1]}), true),
            (json!({"type": "response", "command": "parse", "success": false}), json!("1"), true),
            (json!({"type": "response", "success": true}), json!("1"), false),
            (json!({"type": "event", "id": "1"}), json!("1"), false),
        ] {
            assert_eq!(is_response(record.as_object().expect("a record"), &id), expected, "{record} {id}");
        }
    }

    #[test]
    fn ids_are_unlike() {
        assert_ne!(new_id(), new_id());
        assert!(new_id().split_once('-').is_some_and(|(ms, hex)| ms.len() == 13 && hex.len() == 8));
    }

    #[test]
    fn a_deadline_ends_every_wait() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("s");
        let soon = || Deadline::after(Some(Duration::from_millis(20)));
        let line = |failure: Failure| failure.to_string();
        assert!(Connection::open(&path, soon()).map_err(line).is_err_and(|e| e.contains("no such socket")));
        let listener = UnixListener::bind(&path).expect("bound");
        let mut connection = Connection::open(&path, soon()).map_err(line).expect("connected");
        assert!(connection.record(soon()).map_err(line).is_err_and(|e| e.contains("--timeout")));
        // Nobody reads: the socket's buffer is full before all is sent.
        let long = json!({"message": "x".repeat(8 << 20)});
        assert!(connection.send(&long, soon()).map_err(line).is_err_and(|e| e.contains("--timeout")));
        // Nobody accepts: at some point the listener takes no further connection.
        let mut held = Vec::new();
        let refused = loop {
            match Connection::open(&path, soon()) {
                Ok(connection) => held.push(connection),
                Err(e) => break line(e),
            }
        };
        assert!(refused.contains("--timeout"), "{refused}");
        drop(listener);
        assert!(Connection::open(&path, soon()).map_err(line).is_err_and(|e| e.contains("nobody listens")));
        let long = folder.path().join("x".repeat(200));
        assert!(Connection::open(&long, soon()).is_err());
    }
}
