//! One connection: a request, its answer, and the end.

use super::{Answer, Response};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Instant;

/// The longest head of a request, bytes.
const MAX_HEAD: usize = 8 * 1024;
/// Header fields of a request. None of them matters.
const MAX_HEADERS: usize = 64;

/// Whether there is more to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Open,
    Over,
}

enum Phase {
    Reads(Vec<u8>),
    Writes {
        bytes: Vec<u8>,
        written: usize,
    },
    /// All is said. What the client still sends is read, since the system would take the answer back otherwise.
    Ends,
}

pub(super) struct Connection {
    pub stream: TcpStream,
    pub ends: Instant,
    phase: Phase,
}

impl Connection {
    pub(super) fn new(stream: TcpStream, ends: Instant) -> Option<Connection> {
        stream.set_nonblocking(true).ok()?;
        Some(Connection { stream, ends, phase: Phase::Reads(Vec::new()) })
    }

    pub(super) fn writes(&self) -> bool {
        matches!(self.phase, Phase::Writes { .. })
    }

    /// Does what can be done without a wait.
    pub(super) fn go_on(&mut self, answer: &mut Answer) -> State {
        match self.step(answer) {
            Ok(state) => state,
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => State::Open,
            Err(_) => State::Over,
        }
    }

    fn step(&mut self, answer: &mut Answer) -> io::Result<State> {
        if let Phase::Reads(head) = &mut self.phase {
            let mut bytes = [0; 1024];
            let read = self.stream.read(&mut bytes)?;
            head.extend_from_slice(&bytes[..read]);
            let Some(bytes) = reply(head, answer) else {
                return Ok(if read == 0 { State::Over } else { State::Open });
            };
            self.phase = Phase::Writes { bytes, written: 0 };
        }
        if let Phase::Writes { bytes, written } = &mut self.phase {
            while let Some(rest) = bytes.get(*written..).filter(|rest| !rest.is_empty()) {
                *written += self.stream.write(rest)?;
            }
            self.stream.shutdown(Shutdown::Write)?;
            self.phase = Phase::Ends;
        }
        let mut rest = [0; 1024];
        Ok(if self.stream.read(&mut rest)? == 0 { State::Over } else { State::Open })
    }
}

/// The answer to what came so far; `None` = more has to come.
fn reply(bytes: &[u8], answer: &mut Answer) -> Option<Vec<u8>> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    let parsed = request.parse(bytes);
    let (method, path) = (request.method.unwrap_or_default(), request.path.unwrap_or_default());
    let response = match parsed {
        Ok(httparse::Status::Partial) if bytes.len() <= MAX_HEAD => return None,
        Ok(httparse::Status::Partial) | Err(httparse::Error::TooManyHeaders) => error(431),
        Err(_) => error(400),
        Ok(httparse::Status::Complete(_)) if !matches!(method, "GET" | "HEAD") => error(405),
        Ok(httparse::Status::Complete(_)) => {
            let path = path.split('?').next().unwrap_or_default();
            answer(path).unwrap_or_else(|| error(404))
        }
    };
    let mut out = format!(
        "HTTP/1.1 {} {}\r\nContent-Type: {}\r\nContent-Length: {}\r\nCache-Control: no-store\r\nConnection: close\r\n",
        response.status,
        reason(response.status),
        response.content_type,
        response.body.len()
    );
    if response.status == 405 {
        out.push_str("Allow: GET, HEAD\r\n");
    }
    out.push_str("\r\n");
    if method != "HEAD" {
        out.push_str(&response.body);
    }
    Some(out.into_bytes())
}

fn error(status: u16) -> Response {
    Response::text(status, format!("{}\n", reason(status)))
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        400 => "Bad Request",
        404 => "Not Found",
        405 => "Method Not Allowed",
        431 => "Request Header Fields Too Large",
        503 => "Service Unavailable",
        _ => "Error",
    }
}
