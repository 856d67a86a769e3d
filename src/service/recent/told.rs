//! What hosts that are one service tell each other of requests, so that one which is sent again is answered by any of them.
//!
//! An answer is told when it is over. Of one that is not over its session knows: the request is kept with the address of
//! its caller, so that whoever goes on with the session has it in its own memory.

use super::{NamedRequest, Outcome, Recent, Seen, SharedReply, State};
use crate::contract::error::{ErrorKind, ReplyError};
use crate::contract::reply::Restart;
use crate::sync::lock;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Instant;

/// The field of an address that has the request.
const REQUEST: &str = "request";

/// Tells the others, from any thread and without waiting; the second text is what is told if there is no room for the first.
pub(crate) type Tell = Box<dyn Fn(&str, Vec<u8>, &dyn Fn() -> Vec<u8>) + Send + Sync>;

/// A request and what became of it.
#[derive(Deserialize, Serialize)]
struct Told {
    request: NamedRequest,
    outcome: ToldOutcome,
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
enum ToldOutcome {
    Document(Value),
    Stream {
        /// Absent where it is too long.
        text: Option<String>,
        /// Where it began anew, bytes from its beginning; the number of the attempt, and how many bytes are void.
        restarts: Vec<(usize, u32, Option<usize>)>,
        /// The code and the text of the error that it ended with.
        error: Option<(String, String)>,
    },
}

impl Recent {
    /// Whom to tell from now on what becomes of requests. Only the first call counts.
    pub(crate) fn tell(&self, tell: Tell) {
        let _ = self.tell.set(tell);
    }

    /// Another host has told what became of a request.
    pub(crate) fn told(&self, payload: &[u8], now: Instant) {
        let Ok(Told { request, outcome }) = serde_json::from_slice(payload) else { return };
        let outcome = match outcome {
            ToldOutcome::Document(document) => Outcome::Document(document),
            ToldOutcome::Stream { text, restarts, error } => {
                let forgotten = usize::from(text.is_none());
                let text = text.unwrap_or_default();
                let fits = |(at, ..): &(usize, u32, Option<usize>)| text.is_char_boundary(*at);
                let of_text = restarts.iter().filter(|restart| forgotten == 0 && fits(restart));
                let restarts = of_text
                    .map(|(at, attempt, void_bytes)| (*at, Restart { attempt: *attempt, void_bytes: *void_bytes }));
                let restarts = restarts.collect();
                let end = match error {
                    None => Ok(()),
                    Some((code, message)) => {
                        let kind = ErrorKind::ALL.into_iter().find(|kind| kind.code() == code);
                        Err(ReplyError::new(kind.unwrap_or(ErrorKind::Internal), message))
                    }
                };
                self.kept.fetch_add(text.len(), Ordering::Relaxed);
                let state = State { text, forgotten, restarts, end: Some(end), ..State::default() };
                let shared = SharedReply { state: Mutex::new(state), kept: self.kept.clone(), told: None };
                shared.tidy();
                Outcome::Stream(Arc::new(shared))
            }
        };
        // What this host works on itself is newer.
        let mut requests = lock(&self.requests);
        let is_left = |seen: &Seen| matches!(&seen.outcome, Outcome::Stream(shared) if shared.was_left());
        if requests.get(&request.key).is_none_or(is_left) {
            Recent::insert(&mut requests, Seen { request, came: now, outcome });
        }
    }

    pub(super) fn tell_document(&self, request: &NamedRequest, document: &Value) {
        if let Some(tell) = self.tell.get() {
            let told = Told { request: request.clone(), outcome: ToldOutcome::Document(document.clone()) };
            tell(&name(request), encode(&told), &Vec::new);
        }
    }
}

impl SharedReply {
    /// Tells the others of an answer that is over.
    pub(super) fn tell_end(&self) {
        let Some((request, tell)) = &self.told else { return };
        let Some(tell) = tell.get().filter(|_| !self.was_turned_away()) else { return };
        let state = self.state();
        let told = |text: Option<String>| {
            let restarts = state.restarts.iter().map(|(at, restart)| (*at, restart.attempt, restart.void_bytes));
            let error = state.end.clone().and_then(Result::err);
            let error = error.map(|error| (error.code().to_owned(), error.message));
            let outcome = ToldOutcome::Stream { text, restarts: restarts.collect(), error };
            encode(&Told { request: request.clone(), outcome })
        };
        let whole = (state.forgotten == 0).then(|| state.text.clone());
        tell(&name(request), told(whole), &|| told(None));
    }

    /// The address of the first caller, with the request where others are to know it.
    pub(super) fn address_with_request(&self, mut address: Value) -> Value {
        if let Some((request, _)) = self.told.as_ref().filter(|(_, tell)| tell.get().is_some()) {
            address[REQUEST] = serde_json::to_value(request).unwrap_or_default();
        }
        address
    }
}

/// The request that an address has.
pub(crate) fn of_address(address: &Value) -> Option<NamedRequest> {
    address.get(REQUEST).and_then(|request| NamedRequest::deserialize(request).ok())
}

fn name(request: &NamedRequest) -> String {
    let (subject, id) = &request.key;
    format!("{subject}\n{id}")
}

fn encode(told: &Told) -> Vec<u8> {
    serde_json::to_vec(told).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Record, got, id, request};
    use super::*;
    use crate::cancel::Cancel;
    use serde_json::json;

    #[test]
    fn an_answer_is_given_again_by_whoever_was_told() {
        let (here, there) = (Recent::default(), Arc::new(Recent::default()));
        let other = there.clone();
        here.tell(Box::new(move |_, told, shorter| {
            let told = if told.len() > 2000 { shorter() } else { told };
            other.told(&told, Instant::now());
        }));
        let failed = Err(ReplyError::coded(ErrorKind::BudgetExceeded, "x"));
        for (name, text, end, expected) in
            [("1", "one two", Ok(()), got("[2]one two", &[Ok(())])), ("2", "", failed.clone(), got("[2]", &[failed]))]
        {
            let (_, reply) = super::super::tests::record();
            let shared = here.share(request(name), reply, Instant::now());
            assert_eq!(of_address(&json!({"text": "x"})), None);
            shared.restart(Restart { attempt: 2, void_bytes: None });
            shared.text(text, &Cancel::new());
            assert!(!there.has_seen(&id(name)), "it is not over");
            shared.finish(end);
            let again = Arc::new(Record::default());
            assert!(there.join(&id(name), || again.clone()));
            assert_eq!(again.got(), expected);
        }
        here.answered(request("3"), json!({"ok": true}), Instant::now());
        assert_eq!(there.document(&id("3")), Some(json!({"ok": true})));
        let (_, reply) = super::super::tests::record();
        let long = here.share(request("4"), reply, Instant::now());
        long.text(&"x".repeat(3000), &Cancel::new());
        long.finish(Ok(()));
        let again = Arc::new(Record::default());
        assert!(there.join(&id("4"), || again.clone()));
        let (_, _, ends) = again.got();
        assert!(matches!(&ends[..], [Err(error)] if error.kind == ErrorKind::DuplicateRequest), "{ends:?}");
        for nonsense in ["", "{}", r#"{"request":{},"outcome":{}}"#] {
            there.told(nonsense.as_bytes(), Instant::now());
        }
    }
}
