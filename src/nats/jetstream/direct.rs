//! Reading back what is stored, with direct requests, which any server that has a replica answers. What they say may be a
//! moment old: it is good for looking, and only an append decides.

use super::super::error::RequestError;
use super::super::message::{Headers, Message};
use super::error::JetStreamError;
use super::{JetStream, PREFIX};
use crossbeam_channel::{RecvTimeoutError, bounded};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Statuses of the answers: the end of a batch, nothing of that kind, a request that makes no sense.
const END_OF_BATCH: u16 = 204;
const NOT_FOUND: u16 = 404;
const BAD_REQUEST: u16 = 408;
const TOO_MANY: u16 = 413;
const NO_RESPONDERS: u16 = 503;

/// A message as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    pub subject: String,
    pub sequence: u64,
    pub payload: Vec<u8>,
    headers: Option<Headers>,
}

impl Stored {
    /// The first value of a header, see [`Headers::get`].
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.as_ref()?.get(name)
    }
}

/// Some messages of a subject, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    pub messages: Vec<Stored>,
    /// How many follow them.
    pub pending: u64,
}

impl JetStream {
    /// The last message of a subject, if there is one.
    ///
    /// # Errors
    /// [`JetStreamError`].
    pub fn last(&self, stream: &str, subject: &str, timeout: Duration) -> Result<Option<Stored>, JetStreamError> {
        let body = json!({"last_by_subj": subject}).to_string();
        let answer = self.connection.request(&direct(stream), body.as_bytes(), timeout)?;
        match answer.status() {
            Some(NOT_FOUND) => Ok(None),
            _ => stored(*answer).map(Some),
        }
    }

    /// The first `most` messages of a subject, which may have wildcards, from a sequence on.
    ///
    /// # Errors
    /// [`JetStreamError`].
    pub fn next(
        &self,
        stream: &str,
        subject: &str,
        from: u64,
        most: usize,
        timeout: Duration,
    ) -> Result<Page, JetStreamError> {
        let most = most.max(1);
        let body = json!({"next_by_subj": subject, "seq": from.max(1), "batch": most});
        self.batch(stream, &body, most, timeout)
    }

    /// The last message of each of these subjects, which may have wildcards; `most` are expected at most.
    ///
    /// # Errors
    /// [`JetStreamError`]. More than the server gives at a time, 1,024, are an error, too.
    pub fn last_of_each(
        &self,
        stream: &str,
        subjects: &[&str],
        most: usize,
        timeout: Duration,
    ) -> Result<Vec<Stored>, JetStreamError> {
        let body = json!({"multi_last": subjects, "batch": most});
        self.batch(stream, &body, most, timeout).map(|page| page.messages)
    }

    /// Asks for several messages, of which an empty one with a status is the end.
    fn batch(&self, stream: &str, body: &Value, most: usize, timeout: Duration) -> Result<Page, JetStreamError> {
        let deadline = Instant::now() + timeout;
        let inbox = self.connection.new_inbox();
        let (to, answers) = bounded(most + 1);
        let _subscription = self.connection.subscribe(&inbox, None, to).map_err(RequestError::from)?;
        let body = body.to_string();
        self.connection.publish(&direct(stream), Some(&inbox), &[], body.as_bytes()).map_err(RequestError::from)?;
        let mut page = Page::default();
        loop {
            let answer = answers.recv_deadline(deadline).map_err(|error| match error {
                RecvTimeoutError::Timeout => RequestError::TimedOut,
                RecvTimeoutError::Disconnected => RequestError::Closed,
            })?;
            match answer.status() {
                Some(END_OF_BATCH) => {
                    page.pending = number(&answer, "Nats-Num-Pending").unwrap_or_default();
                    return Ok(page);
                }
                Some(NOT_FOUND) => return Ok(page),
                _ => page.messages.push(stored(*answer)?),
            }
        }
    }
}

fn direct(stream: &str) -> String {
    format!("{PREFIX}.DIRECT.GET.{stream}")
}

fn number(message: &Message, header: &str) -> Option<u64> {
    message.header(header)?.parse().ok()
}

/// The message that an answer is.
fn stored(answer: Message) -> Result<Stored, JetStreamError> {
    let sequence = number(&answer, "Nats-Sequence");
    let subject = answer.header("Nats-Subject").map(str::to_owned);
    match (sequence, subject, answer.status()) {
        (Some(sequence), Some(subject), _) => {
            Ok(Stored { subject, sequence, payload: answer.payload, headers: answer.headers })
        }
        (_, _, Some(NO_RESPONDERS)) => Err(RequestError::NoResponders.into()),
        (_, _, Some(status @ (BAD_REQUEST | TOO_MANY))) => {
            let why = answer.headers.as_ref().and_then(Headers::description).unwrap_or_default();
            Err(JetStreamError::unreadable(format_args!("{status} {why}")))
        }
        _ => Err(JetStreamError::unreadable("it is no stored message")),
    }
}
