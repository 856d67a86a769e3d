//! What is said in answer to a request: single documents, and streams of text that end with one empty message.

use crate::cancel::Cancel;
use crate::nats::{Connection, Message, PublishError};
use crate::reply::{Reply, ReplyError};
use crate::threads;
use crossbeam_channel::bounded;
use serde_json::{Value, json};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Text that a stream holds while the server takes nothing, bytes; beyond it the model has to wait.
const MAX_HELD: usize = 1024 * 1024;
/// How long a stream waits for its caller to come back after a reconnect. Clients of all languages reconnect within a few
/// seconds; a caller that stays away has left.
const CALLER_RETURNS: Duration = Duration::from_secs(10);
/// How long the end of a stream waits for the connection itself.
const SERVER_RETURNS: Duration = Duration::from_secs(120);
/// Between two looks whether the caller is back.
const PROBE_INTERVAL: Duration = Duration::from_millis(200);
/// Bound of a probe's round trip.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);
/// Between two attempts to send what is held.
const HELD_RETRY: Duration = Duration::from_millis(20);
/// Room for the headers of an error within `max_payload`, bytes.
const HEADER_ROOM: usize = 512;
/// Longest header value; the SDKs cut there as well.
const MAX_HEADER: usize = 200;

/// The micro-service headers of an error (ADR-32): values are ASCII and one line.
pub fn error_headers(status: u16, text: &str) -> [(&'static str, String); 2] {
    let line = text.chars().take(MAX_HEADER).map(|c| if c.is_ascii_graphic() || c == ' ' { c } else { '?' }).collect();
    [("Nats-Service-Error-Code", status.to_string()), ("Nats-Service-Error", line)]
}

fn publish_error(connection: &Connection, subject: &str, status: u16, text: &str, payload: &[u8]) {
    let headers = error_headers(status, text);
    let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    report(subject, connection.publish(subject, None, &headers, payload));
}

fn report(subject: &str, result: Result<(), PublishError>) {
    if let Err(e) = result {
        log::debug!("no reply to {subject}: {e}");
    }
}

/// Sends one JSON document as the answer.
pub fn send_document(connection: &Connection, subject: &str, document: &Value) {
    report(subject, connection.publish(subject, None, &[], document.to_string().as_bytes()));
}

/// Sends a coded error, and the empty message behind it where the caller waits for a stream.
pub fn send_error(connection: &Connection, subject: &str, status: u16, text: &str, document: &Value, stream: bool) {
    publish_error(connection, subject, status, text, document.to_string().as_bytes());
    if stream {
        report(subject, connection.publish(subject, None, &[], &[]));
    }
}

/// A stream of text to one caller. Pieces go out as they come; one empty message ends it, whatever happened.
///
/// The caller of a stream is lost for a moment when the server restarts: its client has to reconnect and subscribe again.
/// Text of that time is held, and sent once the caller is there again, so that a restart costs no text but what was
/// under way.
#[derive(Clone)]
pub struct TextStream(Arc<Shared>);

struct Shared {
    connection: Connection,
    subject: String,
    state: Mutex<State>,
}

struct State {
    /// Text that could not be sent yet.
    held: String,
    /// How the stream ends, once that is known and as long as it is not sent.
    end: Option<Result<(), ReplyError>>,
    ended: bool,
    /// The connection over which the caller was last known to be reachable.
    generation: u64,
    /// When the search for the caller began, and when to look next.
    search: Option<(Instant, Instant)>,
}

enum Piece<'a> {
    Text(&'a str),
    Error(&'a ReplyError),
    End,
}

impl TextStream {
    /// A stream to the reply subject of a request.
    pub fn new(connection: &Connection, subject: String) -> TextStream {
        let generation = connection.generation();
        let state = Mutex::new(State { held: String::new(), end: None, ended: false, generation, search: None });
        TextStream(Arc::new(Shared { connection: connection.clone(), subject, state }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the stream. What cannot be sent at once is left to a thread of its own, so that no session waits for it.
    fn end(&self, result: Result<(), ReplyError>) {
        let mut state = self.state();
        if state.ended || state.end.is_some() {
            return;
        }
        state.end = Some(result);
        if self.0.advance(&mut state) {
            return;
        }
        let stream = self.clone();
        let late = threads::spawn("reply-late", threads::SMALL_STACK, move || {
            let deadline = Instant::now() + SERVER_RETURNS;
            while !stream.0.advance(&mut stream.state()) && Instant::now() < deadline {
                std::thread::sleep(HELD_RETRY);
            }
            stream.state().ended = true;
        });
        match late {
            Ok(thread) => thread.abandon(),
            Err(e) => log::warn!("the end of a stream is lost: {e}"),
        }
    }
}

impl Shared {
    /// Sends what is held, as far as that is possible now. True if nothing is left to send.
    fn advance(&self, state: &mut State) -> bool {
        while !state.ended {
            if !self.connection.is_connected() {
                return false;
            }
            let piece = match &state.end {
                _ if !state.held.is_empty() => {
                    Piece::Text(&state.held[..piece_end(&state.held, self.connection.max_payload())])
                }
                Some(Err(error)) => Piece::Error(error),
                Some(Ok(())) => Piece::End,
                None => return true,
            };
            let generation = self.connection.generation();
            if state.generation == generation {
                if self.publish(&piece, None).is_err() {
                    return false;
                }
            } else if !self.found(&piece, &mut state.search) {
                return false;
            }
            state.generation = generation;
            match piece {
                Piece::Text(text) => drop(state.held.drain(..text.len())),
                Piece::Error(_) => state.end = Some(Ok(())),
                Piece::End => state.ended = true,
            }
        }
        true
    }

    /// After a reconnect: sends a piece and finds out whether the caller got it, so that it is listening again. A caller
    /// that does not come back in time counts as found, because there is nobody left to hold text for.
    fn found(&self, piece: &Piece<'_>, search: &mut Option<(Instant, Instant)>) -> bool {
        let now = Instant::now();
        let (begun, next) = *search.get_or_insert((now, now));
        if now < next {
            return false;
        }
        if self.probe(piece) || now.duration_since(begun) > CALLER_RETURNS {
            *search = None;
            return true;
        }
        *search = Some((begun, Instant::now() + PROBE_INTERVAL));
        false
    }

    /// Sends a piece with a reply subject of ours: if nobody listens to the piece's subject, the server says so there.
    fn probe(&self, piece: &Piece<'_>) -> bool {
        let inbox = self.connection.new_inbox();
        let (sender, answers) = bounded::<Box<Message>>(1);
        let Ok(_subscription) = self.connection.subscribe(&inbox, None, sender) else { return false };
        self.publish(piece, Some(&inbox)).is_ok()
            && self.connection.round_trip(PROBE_TIMEOUT)
            && answers.try_recv().is_err()
    }

    fn publish(&self, piece: &Piece<'_>, reply: Option<&str>) -> Result<(), PublishError> {
        let (headers, payload);
        match piece {
            Piece::Text(text) => {
                headers = None;
                payload = (*text).to_string();
            }
            Piece::Error(error) => {
                headers = Some(error_headers(error.status, &error.message));
                let text = format!("error: {error}");
                payload =
                    text[..piece_end(&text, self.connection.max_payload().saturating_sub(HEADER_ROOM))].to_string();
            }
            Piece::End => {
                headers = None;
                payload = String::new();
            }
        }
        let headers: Vec<(&str, &str)> = headers.iter().flatten().map(|(n, v)| (*n, v.as_str())).collect();
        match self.connection.publish(&self.subject, reply, &headers, payload.as_bytes()) {
            Err(e @ (PublishError::Full | PublishError::Closed)) => Err(e),
            other => {
                // Anything else will not get better by trying again.
                report(&self.subject, other);
                Ok(())
            }
        }
    }
}

impl Reply for TextStream {
    fn text(&self, text: &str, cancel: &Cancel) {
        let mut rest = text;
        loop {
            let mut state = self.state();
            if state.ended || state.end.is_some() {
                return;
            }
            let connection = &self.0.connection;
            let direct = connection.is_connected() && state.generation == connection.generation();
            while direct && state.held.is_empty() && !rest.is_empty() {
                let end = piece_end(rest, connection.max_payload());
                if let Err(e) = connection.publish_held(&self.0.subject, &rest.as_bytes()[..end]) {
                    if e != PublishError::Full {
                        log::debug!("text for {} is lost: {e}", self.0.subject);
                        return;
                    }
                    break;
                }
                rest = &rest[end..];
            }
            if rest.is_empty() && state.held.is_empty() {
                return;
            }
            state.held.push_str(rest);
            rest = "";
            if self.0.advance(&mut state) || state.held.len() < MAX_HELD || cancel.is_cancelled() {
                return;
            }
            drop(state);
            cancel.sleep(HELD_RETRY);
        }
    }

    fn flush(&self) {
        self.0.connection.flush();
    }

    fn finish(&self, result: Result<(), ReplyError>) {
        self.end(result);
    }

    fn address(&self) -> Option<Value> {
        Some(json!({"text": self.0.subject}))
    }
}

/// The reply that [`Reply::address`] told of, after a restart.
pub fn reply_to(connection: &Connection, address: &Value) -> Option<Arc<dyn Reply>> {
    let subject = address.get("text")?.as_str()?;
    Some(Arc::new(TextStream::new(connection, subject.to_owned())))
}

impl Drop for Shared {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        if !state.ended {
            // Nobody ended the stream, so something broke; the caller shall not wait for it.
            report(&self.subject, self.connection.publish(&self.subject, None, &[], &[]));
        }
    }
}

/// Where the first piece of `text` ends that is no longer than `limit` bytes, at a character's boundary.
fn piece_end(text: &str, limit: usize) -> usize {
    if text.len() <= limit {
        return text.len();
    }
    let first = text.chars().next().map_or(0, char::len_utf8);
    text.floor_char_boundary(limit).max(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_end_at_characters() {
        for (text, limit, end) in [
            ("", 4, 0),
            ("abc", 4, 3),
            ("abcd", 4, 4),
            ("abcde", 4, 4),
            ("aäö", 2, 1),
            ("aäö", 3, 3),
            ("€€", 4, 3),
            ("€", 1, 3),
        ] {
            assert_eq!(piece_end(text, limit), end, "{text:?} {limit}");
        }
    }

    #[test]
    fn error_headers_are_one_ascii_line() {
        let [code, text] = error_headers(404, &format!("a\r\nb ä{}", "x".repeat(300)));
        assert_eq!(code, ("Nats-Service-Error-Code", "404".to_string()));
        assert_eq!(text.1.len(), MAX_HEADER);
        assert!(text.1.starts_with("a??b ?x"), "{}", text.1);
    }
}
