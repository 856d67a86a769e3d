//! Requests that were seen before: a caller that got no answer may send its request again under the same `Nats-Msg-Id`, and
//! gets the outcome of the first one instead of a second run.

mod told;

use crate::cancel::Cancel;
use crate::contract::error::{ErrorKind, ReplyError};
use crate::contract::event::AgentEvent;
use crate::contract::reply::{Reply, Restart};
use crate::contract::sender::AgentSender;
use crate::nats::Message;
use crate::sync::lock;
use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};
pub(crate) use told::of_address;

/// The header that names a request.
const HEADER: &str = "Nats-Msg-Id";
/// How long a request is remembered after it came; longer while it is being worked on.
pub(crate) const WINDOW: Duration = Duration::from_secs(120);
/// Longest id that counts, bytes; it is kept.
const MAX_ID: usize = 256;
/// Requests that are remembered.
const MAX_REQUESTS: usize = 4096;
/// Text of one answer that is kept for those who ask again, bytes.
const MAX_TEXT: usize = 1024 * 1024;
/// Text of all answers that is kept, bytes.
const MAX_TOTAL: usize = 32 * 1024 * 1024;

/// What names a request: its subject and its id.
pub(crate) type Key = (String, String);

/// A request that its caller gave an id, and what the same request would be.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub(crate) struct NamedRequest {
    pub key: Key,
    /// SHA-256 of the payload.
    digest: [u8; 32],
    /// The user who signed it.
    user: Option<String>,
}

/// The request's id, if it has one.
pub(crate) fn named(message: &Message, sender: Option<&AgentSender>) -> Option<NamedRequest> {
    let id = message.header(HEADER).filter(|id| (1..=MAX_ID).contains(&id.len()))?;
    let mut payload = [0; 32];
    payload.copy_from_slice(digest(&SHA256, &message.payload).as_ref());
    let user = sender.filter(|sender| sender.verified).map(|sender| sender.user.clone());
    Some(NamedRequest { key: (message.subject.clone(), id.to_string()), digest: payload, user })
}

impl NamedRequest {
    /// Whether somebody who sends `other` may have the answer to this one.
    fn is_same(&self, other: &NamedRequest) -> bool {
        self.digest == other.digest && (self.user.is_none() || self.user == other.user)
    }
}

/// What became of a request.
#[derive(Clone)]
enum Outcome {
    Stream(Arc<SharedReply>),
    Document(Value),
}

/// A request that came, when it did, and what became of it.
struct Seen {
    request: NamedRequest,
    came: Instant,
    outcome: Outcome,
}

/// The requests of the last two minutes. Each subject has one thread that takes its requests, so that looking and
/// remembering need not be one step.
#[derive(Default)]
pub(crate) struct Recent {
    requests: Mutex<HashMap<Key, Seen>>,
    kept: Arc<AtomicUsize>,
    /// Tells the owner's other hosts, where they are one service.
    tell: Arc<OnceLock<told::Tell>>,
}

impl Recent {
    fn requests(&self) -> MutexGuard<'_, HashMap<Key, Seen>> {
        lock(&self.requests)
    }

    fn find(&self, key: &Key) -> Option<Outcome> {
        self.requests().get(key).map(|seen| seen.outcome.clone())
    }

    /// Whether the id was used for another request, or by another user, whose answer is not this caller's business.
    pub(crate) fn is_taken(&self, request: &NamedRequest) -> bool {
        self.requests().get(&request.key).is_some_and(|seen| !seen.request.is_same(request))
    }

    /// Gives a caller the answer to the same request of before, from its beginning. False if there is none.
    /// `reply` is only made if it is needed, because a reply that is not used ends all the same.
    pub(crate) fn join(&self, key: &Key, reply: impl FnOnce() -> Arc<dyn Reply>) -> bool {
        match self.find(key) {
            Some(Outcome::Stream(shared)) if !shared.was_turned_away() => {
                shared.join(reply());
                true
            }
            _ => false,
        }
    }

    /// The document that the same request was answered with before.
    pub(crate) fn document(&self, key: &Key) -> Option<Value> {
        if let Outcome::Document(document) = self.find(key)? { Some(document) } else { None }
    }

    /// Whether the outcome of a request is known, or will be.
    pub(crate) fn has_seen(&self, key: &Key) -> bool {
        match self.find(key) {
            Some(Outcome::Stream(shared)) => !shared.was_turned_away(),
            Some(Outcome::Document(_)) => true,
            None => false,
        }
    }

    /// Remembers a request that is about to be worked on; what comes back takes its answer.
    pub(crate) fn share(&self, request: NamedRequest, reply: Arc<dyn Reply>, now: Instant) -> Arc<dyn Reply> {
        let told = Some((request.clone(), self.tell.clone()));
        let shared = Arc::new(SharedReply::new(reply, self.kept.clone(), told));
        self.remember(request, Outcome::Stream(shared.clone()), now);
        shared
    }

    /// Remembers a request that was answered with a document.
    pub(crate) fn answered(&self, request: NamedRequest, document: Value, now: Instant) {
        self.tell_document(&request, &document);
        self.remember(request, Outcome::Document(document), now);
    }

    /// When there is no room the oldest request is forgotten, since refusing the new one would help nobody.
    fn remember(&self, request: NamedRequest, outcome: Outcome, now: Instant) {
        Recent::insert(&mut self.requests(), Seen { request, came: now, outcome });
    }

    fn insert(requests: &mut HashMap<Key, Seen>, seen: Seen) {
        if requests.len() >= MAX_REQUESTS {
            let oldest = requests.iter().min_by_key(|(_, seen)| seen.came).map(|(key, _)| key.clone());
            oldest.and_then(|key| requests.remove(&key));
        }
        requests.insert(seen.request.key.clone(), seen);
    }

    /// Forgets what is old. To be called every few seconds.
    pub(crate) fn tick(&self, now: Instant) {
        self.requests().retain(|_, seen| {
            let done = match &seen.outcome {
                Outcome::Stream(shared) => shared.has_ended(),
                Outcome::Document(_) => true,
            };
            !done || now.saturating_duration_since(seen.came) < WINDOW
        });
    }
}

/// A request, and who is told what became of it.
type Telling = (NamedRequest, Arc<OnceLock<told::Tell>>);

/// One answer for several callers: each gets all of it, and its own end.
struct SharedReply {
    state: Mutex<State>,
    /// Text that all shared answers keep, bytes.
    kept: Arc<AtomicUsize>,
    told: Option<Telling>,
}

#[derive(Default)]
struct State {
    text: String,
    /// How much of the answer came before `text` and is not kept any more, bytes. Nobody can join then.
    forgotten: usize,
    /// Where the answer began anew, bytes from its beginning.
    restarts: Vec<(usize, Restart)>,
    end: Option<Result<(), ReplyError>>,
    callers: Vec<Caller>,
    /// It is gone on with elsewhere, and nothing more is heard of it here.
    left: bool,
}

struct Caller {
    reply: Arc<dyn Reply>,
    /// How much of the answer it has got, bytes.
    sent: usize,
    /// How many of the restarts it was told of.
    restarts: usize,
    /// A thread is sending to it, and goes on until there is nothing left to send.
    busy: bool,
}

impl SharedReply {
    fn new(reply: Arc<dyn Reply>, kept: Arc<AtomicUsize>, told: Option<Telling>) -> SharedReply {
        let callers = vec![Caller { reply, sent: 0, restarts: 0, busy: false }];
        SharedReply { state: Mutex::new(State { callers, ..State::default() }), kept, told }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn has_ended(&self) -> bool {
        let state = self.state();
        state.left || state.end.is_some()
    }

    fn was_left(&self) -> bool {
        self.state().left
    }

    /// The request was refused for lack of room, so that sending it again is what its caller should do; or whoever goes on with it
    /// has to be asked.
    fn was_turned_away(&self) -> bool {
        let state = self.state();
        let refused = matches!(&state.end, Some(Err(error)) if matches!(error.status(), 429 | 503));
        state.left || refused && state.text.is_empty() && state.forgotten == 0
    }

    fn join(&self, reply: Arc<dyn Reply>) {
        let mut state = self.state();
        if state.forgotten > 0 {
            drop(state);
            let why = "it was sent before, and its answer is too long to be repeated";
            return reply.finish(Err(ReplyError::coded(ErrorKind::DuplicateRequest, why)));
        }
        state.callers.push(Caller { reply: reply.clone(), sent: 0, restarts: 0, busy: false });
        drop(state);
        reply.accepted();
        // A session's thread must not wait for the caller's connection.
        let at_once = Cancel::new();
        at_once.cancel();
        self.send_to(&reply, &at_once);
        self.tidy();
    }

    fn replies(&self) -> Vec<Arc<dyn Reply>> {
        self.state().callers.iter().map(|caller| caller.reply.clone()).collect()
    }

    fn send_to_all(&self, cancel: &Cancel) {
        for reply in self.replies() {
            self.send_to(&reply, cancel);
        }
        self.tidy();
    }

    /// Sends one caller what it has not got yet, unless another thread is doing so. No lock is held while it is sent.
    fn send_to(&self, reply: &Arc<dyn Reply>, cancel: &Cancel) {
        let mut mine = false;
        loop {
            let (restart, piece, end) = {
                let mut state = self.state();
                let State { text, forgotten, restarts, end, callers, .. } = &mut *state;
                let Some(at) = callers.iter().position(|caller| Arc::ptr_eq(&caller.reply, reply)) else { return };
                let caller = &mut callers[at];
                if caller.busy && !mine {
                    return;
                }
                let restart =
                    restarts.get(caller.restarts).filter(|(at, _)| *at == caller.sent).map(|(_, restart)| *restart);
                caller.restarts += usize::from(restart.is_some());
                let until = restarts.get(caller.restarts).map_or(text.len(), |(at, _)| at - *forgotten);
                let piece = text[caller.sent - *forgotten..until].to_string();
                caller.sent += piece.len();
                caller.busy = restart.is_some() || !piece.is_empty();
                mine = caller.busy;
                let end = end.clone().filter(|_| !mine);
                if end.is_some() {
                    callers.remove(at);
                }
                (restart, piece, end)
            };
            if let Some(end) = end {
                return reply.finish(end);
            }
            if !mine {
                return;
            }
            if let Some(restart) = restart {
                reply.restart(restart);
            }
            if !piece.is_empty() {
                reply.text(&piece, cancel);
            }
        }
    }

    /// Lets go of text that is too much to keep, as far as everybody has got it.
    fn tidy(&self) {
        let mut state = self.state();
        if state.text.len() <= MAX_TEXT && self.kept.load(Ordering::Relaxed) <= MAX_TOTAL {
            return;
        }
        let total = state.forgotten + state.text.len();
        let got = state.callers.iter().map(|caller| caller.sent).min().unwrap_or(total);
        let bytes = got - state.forgotten;
        state.text.drain(..bytes);
        state.text.shrink_to_fit();
        state.forgotten = got;
        self.kept.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Reply for SharedReply {
    fn accepted(&self) {
        for reply in self.replies() {
            reply.accepted();
        }
    }

    fn text(&self, text: &str, cancel: &Cancel) {
        {
            let mut state = self.state();
            if state.end.is_some() {
                return;
            }
            state.text.push_str(text);
            self.kept.fetch_add(text.len(), Ordering::Relaxed);
        }
        self.send_to_all(cancel);
    }

    fn restart(&self, restart: Restart) {
        {
            let mut state = self.state();
            if state.end.is_some() {
                return;
            }
            let at = state.forgotten + state.text.len();
            state.restarts.push((at, restart));
        }
        let at_once = Cancel::new();
        at_once.cancel();
        self.send_to_all(&at_once);
    }

    fn flush(&self) {
        for reply in self.replies() {
            reply.flush();
        }
    }

    fn wait_said(&self, within: Duration) {
        for reply in self.replies() {
            reply.wait_said(within);
        }
    }

    fn event(&self, event: &AgentEvent) {
        for reply in self.replies() {
            reply.event(event);
        }
    }

    fn finish(&self, result: Result<(), ReplyError>) {
        {
            let mut state = self.state();
            if state.end.is_some() {
                return;
            }
            state.end = Some(result);
        }
        // The others know it before a caller does.
        self.tell_end();
        let at_once = Cancel::new();
        at_once.cancel();
        self.send_to_all(&at_once);
    }

    /// The first caller's [`Reply::address`] is the one that is kept; the others may ask again.
    fn leave(&self) -> bool {
        self.state().left = true;
        let mut replies = self.replies().into_iter();
        let left = replies.next().is_none_or(|first| first.leave());
        replies.for_each(|other| other.finish(Err(ReplyError::shutting_down())));
        left
    }

    /// After a restart the first caller gets the answer; the others have asked again by then.
    fn address(&self) -> Option<Value> {
        Some(self.address_with_request(self.replies().first()?.address()?))
    }
}

impl Drop for SharedReply {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        self.kept.fetch_sub(state.text.len(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
