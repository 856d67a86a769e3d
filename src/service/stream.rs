//! Answers of many messages: text as it comes, and one empty message that ends it, whatever happened.

use crate::cancel::Cancel;
use crate::contract::error::ReplyError;
use crate::contract::reply::{Reply, Restart};
use crate::nats::{Connection, Message, PublishError};
use crate::service::agents::chunks;
use crate::service::replies::{error_headers, report};
use crate::service::reply_subjects::ReplySubjects;
use crate::sync::lock;
use crate::threads;
use crossbeam_channel::bounded;
use serde_json::{Value, json};
use std::borrow::Cow;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError, Weak};
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
/// A daemon that has just begun has reached its NATS server by then, if there is one.
const CONNECTS_WITHIN: Duration = Duration::from_secs(2);
/// Between two attempts to send what is held.
const HELD_RETRY: Duration = Duration::from_millis(20);
/// Room for the headers of an error within `max_payload`, bytes.
const HEADER_ROOM: usize = 512;
/// The headers of the line in a stream of plain text behind which the answer begins anew: the attempt's number, and how many
/// bytes of the text before it are void.
const RESTART_HEADER: &str = "Pi-Exec-Restart";
const VOID_HEADER: &str = "Pi-Exec-Void-Bytes";
/// The header of an error in a stream of plain text that has its code.
const CODE_HEADER: &str = "Pi-Exec-Error";
/// A caller of the agent protocol hears something this often. Its clients give up after 60 s of silence, so that one lost
/// message is survived.
const MAX_SILENCE: Duration = Duration::from_secs(20);

/// How a wire wants its answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// The `pi-exec` wire: nothing but the text.
    Text,
    /// The agent protocol: JSON objects with a type.
    Agent,
}

impl Form {
    /// The name by which an address has it.
    fn name(self) -> &'static str {
        match self {
            Form::Text => "text",
            Form::Agent => "agent",
        }
    }

    /// Where the first piece of `text` ends whose message has at most `limit` bytes, at a character's boundary.
    fn piece_end(self, text: &str, limit: usize) -> usize {
        match self {
            Form::Text => piece_end(text, limit),
            Form::Agent => chunks::response_end(text, limit),
        }
    }

    fn text(self, text: &str) -> Cow<'_, [u8]> {
        match self {
            Form::Text => Cow::Borrowed(text.as_bytes()),
            Form::Agent => Cow::Owned(chunks::response(text)),
        }
    }

    /// The message behind which the answer begins anew.
    fn restart(self, restart: Restart) -> String {
        match self {
            Form::Text => restart.line(),
            Form::Agent => chunks::status(&format!("restart:{}", restart.document())),
        }
    }

    /// What an error's message says beside its headers, at most `limit` bytes.
    fn error(self, error: &ReplyError, limit: usize) -> String {
        match self {
            Form::Text => {
                let mut text = format!("error: {error}");
                text.truncate(piece_end(&text, limit));
                text
            }
            Form::Agent => {
                // Escaping makes a text at most six times as long.
                let message = &error.message[..piece_end(&error.message, limit.saturating_sub(100) / 6)];
                json!({"error": error.code(), "message": message}).to_string()
            }
        }
    }
}

/// A stream to one caller. Pieces go out as they come.
///
/// The caller of a stream is lost for a moment when the server restarts: its client has to reconnect and subscribe again.
/// What is said in that time is held, and sent once the caller is there again, so that a restart costs nothing but what
/// was under way.
#[derive(Clone)]
pub(crate) struct Stream(Arc<SharedStream>);

struct SharedStream {
    connection: Connection,
    subject: String,
    form: Form,
    state: Mutex<State>,
}

struct State {
    /// What could not be sent yet.
    held: VecDeque<Held>,
    held_bytes: usize,
    /// How the stream ends, once that is known and as long as it is not sent.
    end: Option<Result<(), ReplyError>>,
    ended: bool,
    /// The connection over which the caller was last known to be reachable.
    generation: u64,
    /// When the search for the caller began, and when to look next.
    search: Option<(Instant, Instant)>,
    /// When the caller last heard something.
    last_sent: Instant,
    /// The first message, as long as it is not sent.
    greeting: Option<String>,
}

enum Held {
    /// Text that is cut into pieces when it is sent.
    Text(String),
    /// A whole message.
    Message(String),
    /// The answer begins anew.
    Restart(Restart),
}

enum Piece<'a> {
    Text(&'a str),
    Message(&'a str),
    Restart(Restart),
    Error(&'a ReplyError),
    End,
}

impl Stream {
    /// A stream to the reply subject of a request. A caller of the agent protocol is told that the request was taken as soon
    /// as it is, however long it may have to wait.
    pub(crate) fn new(connection: &Connection, subject: String, form: Form) -> Stream {
        let greeting = (form == Form::Agent).then(|| chunks::status(chunks::ACK));
        Stream::with_greeting(connection, subject, form, greeting)
    }

    /// The stream that [`Reply::address`] told of, after a restart.
    pub(crate) fn resume(connection: &Connection, allowed: &ReplySubjects, address: &Value) -> Option<Stream> {
        let of_form = |form: Form| Some((form, address.get(form.name())?.as_str()?));
        let (form, subject) = [Form::Text, Form::Agent].into_iter().find_map(of_form)?;
        // The file that it was kept in can be written by others than us.
        if !allowed.allow(subject) {
            allowed.report(subject);
            return None;
        }
        Some(Stream::with_greeting(connection, subject.to_owned(), form, None))
    }

    /// How its wire wants its answers.
    pub(crate) fn form(&self) -> Form {
        self.0.form
    }

    fn with_greeting(connection: &Connection, subject: String, form: Form, greeting: Option<String>) -> Stream {
        let state = State {
            held: VecDeque::new(),
            held_bytes: 0,
            end: None,
            ended: false,
            generation: connection.generation(),
            search: None,
            last_sent: Instant::now(),
            greeting,
        };
        Stream(Arc::new(SharedStream { connection: connection.clone(), subject, form, state: Mutex::new(state) }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.0.state)
    }

    /// Sends one whole message in its place between the pieces of text. It may get lost if too much waits already. Does not
    /// wait: if the caller has to be looked for first, the message goes out with what comes next, or a little later.
    pub(crate) fn message(&self, message: String) {
        let mut state = self.state();
        if state.over() || state.held_bytes > MAX_HELD {
            return;
        }
        state.greet();
        state.hold_message(message);
        self.0.advance_directly(&mut state);
    }

    /// Ends the stream with an error now or never: for the connection's own thread, which must neither wait nor start threads.
    pub(crate) fn refuse(&self, error: ReplyError) {
        let mut state = self.state();
        if state.over() {
            return;
        }
        state.end = Some(Err(error));
        self.0.advance_directly(&mut state);
        state.ended = true;
    }

    /// Ends the stream. What cannot be sent at once is left to a thread of its own, so that no session waits for it.
    fn end(&self, result: Result<(), ReplyError>) {
        let mut state = self.state();
        if state.over() {
            return;
        }
        if result.is_ok() {
            state.greet();
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

impl State {
    /// Nothing more can be added.
    fn over(&self) -> bool {
        self.ended || self.end.is_some()
    }

    /// Lets the first message go before everything else.
    fn greet(&mut self) {
        if let Some(greeting) = self.greeting.take() {
            self.hold_message(greeting);
        }
    }

    fn hold_message(&mut self, message: String) {
        self.held_bytes += message.len();
        self.held.push_back(Held::Message(message));
    }

    fn hold(&mut self, text: &str) {
        if text.is_empty() {
            return;
        }
        self.held_bytes += text.len();
        match self.held.back_mut() {
            Some(Held::Text(held)) => held.push_str(text),
            _ => self.held.push_back(Held::Text(text.to_string())),
        }
    }

    /// Takes note that the first `bytes` of what is held were sent.
    fn sent(&mut self, bytes: usize) {
        self.held_bytes -= bytes;
        match self.held.front_mut() {
            Some(Held::Text(text)) if bytes < text.len() => drop(text.drain(..bytes)),
            _ => drop(self.held.pop_front()),
        }
    }
}

impl SharedStream {
    /// Sends what is held, as far as that is possible now. True if nothing is left to send.
    fn advance(&self, state: &mut State) -> bool {
        while !state.ended {
            if !self.connection.is_connected() {
                return false;
            }
            let piece = match (state.held.front(), &state.end) {
                (Some(Held::Text(text)), _) => {
                    Piece::Text(&text[..self.form.piece_end(text, self.connection.max_payload())])
                }
                (Some(Held::Message(message)), _) => Piece::Message(message),
                (Some(Held::Restart(restart)), _) => Piece::Restart(*restart),
                (None, Some(Err(error))) => Piece::Error(error),
                (None, Some(Ok(()))) => Piece::End,
                (None, None) => return true,
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
            state.last_sent = Instant::now();
            match piece {
                Piece::Text(text) | Piece::Message(text) => {
                    let bytes = text.len();
                    state.sent(bytes);
                }
                Piece::Restart(_) => state.sent(0),
                Piece::Error(_) => state.end = Some(Ok(())),
                Piece::End => state.ended = true,
            }
        }
        true
    }

    /// The caller can be reached without looking for it.
    fn is_direct(&self, state: &State) -> bool {
        self.connection.is_connected() && state.generation == self.connection.generation()
    }

    /// Sends what is held, unless that could take time.
    fn advance_directly(&self, state: &mut State) {
        if self.is_direct(state) {
            self.advance(state);
        }
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
        let mut headers: Vec<(&str, String)> = Vec::new();
        match (piece, self.form) {
            (Piece::Error(error), form) => {
                headers.extend(error_headers(self.status(error), &error.message));
                if form == Form::Text {
                    headers.push((CODE_HEADER, error.code().to_string()));
                }
            }
            (Piece::Restart(restart), Form::Text) => {
                headers.push((RESTART_HEADER, restart.attempt.to_string()));
                headers.push((VOID_HEADER, restart.void()));
            }
            _ => {}
        }
        let payload = match piece {
            Piece::Text(text) => self.form.text(text),
            Piece::Message(message) => message.as_bytes().into(),
            Piece::Restart(restart) => self.form.restart(*restart).into_bytes().into(),
            Piece::Error(error) => {
                self.form.error(error, self.connection.max_payload().saturating_sub(HEADER_ROOM)).into_bytes().into()
            }
            Piece::End => Cow::default(),
        };
        let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        match self.connection.publish(&self.subject, reply, &headers, &payload) {
            Err(e @ (PublishError::Full | PublishError::Closed)) => Err(e),
            other => {
                // Anything else will not get better by trying again.
                report(&self.subject, other);
                Ok(())
            }
        }
    }

    /// The number of an error. The agent protocol has none for a host that is about to leave or has no room left.
    fn status(&self, error: &ReplyError) -> u16 {
        match (self.form, error.status()) {
            (Form::Agent, 503 | 507) => 500,
            (_, status) => status,
        }
    }

    /// Lets the caller know that work goes on, if it has heard nothing for long. Does not wait for those who are sending.
    fn break_silence(self: &Arc<SharedStream>, now: Instant) {
        let mut state = match self.state.try_lock() {
            Ok(state) => state,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return,
        };
        if state.over() {
            return;
        }
        if !state.held.is_empty() && self.connection.is_connected() {
            // Nobody else may come by for long to look for the caller, which takes time.
            let stream = self.clone();
            let look = move || {
                stream.advance(&mut Stream(stream.clone()).state());
            };
            match threads::spawn("reply-late", threads::SMALL_STACK, look) {
                Ok(thread) => thread.abandon(),
                Err(e) => log::warn!("a caller is not looked for: {e}"),
            }
        }
        let silent = now.saturating_duration_since(state.last_sent) >= MAX_SILENCE;
        if silent && state.held.is_empty() && self.is_direct(&state) {
            state.last_sent = now;
            let status = chunks::status(chunks::WORKING);
            report(&self.subject, self.connection.publish(&self.subject, None, &[], status.as_bytes()));
        }
    }
}

impl Reply for Stream {
    fn accepted(&self) {
        let mut state = self.state();
        if !state.over() {
            state.greet();
            self.0.advance_directly(&mut state);
        }
    }

    fn text(&self, text: &str, cancel: &Cancel) {
        let mut rest = text;
        loop {
            let mut state = self.state();
            if state.over() {
                return;
            }
            if state.greeting.is_some() {
                state.greet();
                self.0.advance(&mut state);
            }
            let SharedStream { connection, subject, form, .. } = &*self.0;
            let direct = self.0.is_direct(&state);
            while direct && state.held.is_empty() && !rest.is_empty() {
                let end = form.piece_end(rest, connection.max_payload());
                if let Err(e) = connection.publish_held(subject, &[], &form.text(&rest[..end])) {
                    if e != PublishError::Full {
                        log::debug!("text for {subject} is lost: {e}");
                        return;
                    }
                    break;
                }
                state.last_sent = Instant::now();
                rest = &rest[end..];
            }
            if rest.is_empty() && state.held.is_empty() {
                return;
            }
            state.hold(rest);
            rest = "";
            if self.0.advance(&mut state) || state.held_bytes < MAX_HELD || cancel.is_cancelled() {
                return;
            }
            drop(state);
            cancel.sleep(HELD_RETRY);
        }
    }

    fn restart(&self, restart: Restart) {
        let mut state = self.state();
        if !state.over() {
            state.held.push_back(Held::Restart(restart));
            self.0.advance_directly(&mut state);
        }
    }

    fn flush(&self) {
        self.0.connection.flush();
    }

    fn finish(&self, result: Result<(), ReplyError>) {
        self.end(result);
    }

    fn wait_said(&self, within: Duration) {
        if self.0.connection.generation() == 0 {
            // Until the first connection nobody hears anything.
            self.0.connection.written(CONNECTS_WITHIN);
        }
        let deadline = Instant::now() + within;
        let left = || deadline.saturating_duration_since(Instant::now());
        // What was said before a reconnect may be held until its caller is found.
        while !self.state().ended && !left().is_zero() {
            std::thread::sleep(HELD_RETRY);
        }
        self.0.connection.written(left());
    }

    fn leave(&self) -> bool {
        let mut state = self.state();
        if state.over() {
            return false;
        }
        let whole = state.held.is_empty() && self.0.is_direct(&state);
        state.ended = true;
        whole
    }

    fn address(&self) -> Option<Value> {
        Some(json!({self.0.form.name(): self.0.subject}))
    }
}

impl Drop for SharedStream {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        if state.ended {
            return;
        }
        // Where nobody ended the stream something broke: the caller shall neither wait nor take the answer for complete.
        let end = state.end.take().unwrap_or_else(|| Err(ReplyError::internal("the answer was given up")));
        let pieces = [end.as_ref().err().map(Piece::Error), Some(Piece::End)];
        for piece in pieces.iter().flatten() {
            let _ = self.publish(piece, None);
        }
    }
}

/// The streams whose callers must not be left in silence.
#[derive(Default)]
pub(crate) struct KeepAlive(Mutex<Vec<Weak<SharedStream>>>);

impl KeepAlive {
    /// Looks after a stream until it is gone.
    pub(crate) fn watch(&self, stream: &Stream) {
        lock(&self.0).push(Arc::downgrade(&stream.0));
    }

    /// Breaks the silence where it has been long. To be called every few seconds.
    pub(crate) fn tick(&self, now: Instant) {
        lock(&self.0).retain(|stream| match stream.upgrade() {
            Some(stream) => {
                stream.break_silence(now);
                true
            }
            None => false,
        });
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
mod tests;
