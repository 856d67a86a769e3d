//! Why JetStream did not do something.

use super::super::error::RequestError;
use serde::Deserialize;
use std::fmt;

/// What the API says went wrong. The numbers are those of nats-server's `errors.json`.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub struct ApiError {
    #[serde(default)]
    pub code: u16,
    #[serde(default)]
    pub err_code: u32,
    #[serde(default)]
    pub description: String,
}

/// Why a request to JetStream failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JetStreamError {
    /// The server said no.
    Api(ApiError),
    /// There was no answer, or nobody there to give one. Whether the request was carried out is not known.
    Request(RequestError),
    /// The answer is none that this client can read.
    Unreadable(String),
}

/// The subject has other messages than the publisher expects, and which is the last one.
const WRONG_LAST_SEQUENCE: u32 = 10071;
/// The same, without a sequence, where another message of the subject is being stored at this moment.
const IN_FLIGHT: u32 = 10164;
/// The stream, or a message, is not there.
const NOT_FOUND: [u32; 2] = [10037, 10059];
/// The stream or its account has no room: too many bytes or messages, or the storage is used up.
const FULL: [u32; 6] = [10002, 10023, 10028, 10047, 10077, 10122];
/// JetStream is not enabled in the server, or not for this account.
const NOT_ENABLED: [u32; 2] = [10039, 10076];
/// The server cannot do it now: it has no leader, shuts down, or is too busy.
const FOR_NOW: [u32; 5] = [10008, 10009, 10013, 10106, 10167];

impl JetStreamError {
    pub(super) fn unreadable(error: impl fmt::Display) -> JetStreamError {
        JetStreamError::Unreadable(error.to_string())
    }

    fn is_one_of(&self, codes: &[u32]) -> bool {
        matches!(self, JetStreamError::Api(error) if codes.contains(&error.err_code))
    }

    /// Another message was stored on the subject behind the one that was expected to be the last.
    pub fn is_wrong_sequence(&self) -> bool {
        self.is_one_of(&[WRONG_LAST_SEQUENCE])
    }

    /// Another message of the subject is being stored at this moment.
    pub fn is_in_flight(&self) -> bool {
        self.is_one_of(&[IN_FLIGHT])
    }

    pub fn is_not_found(&self) -> bool {
        self.is_one_of(&NOT_FOUND)
    }

    /// There is no room for what was to be stored.
    pub fn is_full(&self) -> bool {
        self.is_one_of(&FULL)
    }

    /// There is no JetStream for this user.
    pub fn is_not_enabled(&self) -> bool {
        self.is_one_of(&NOT_ENABLED)
    }

    /// Nobody listens to requests to JetStream.
    pub fn is_absent(&self) -> bool {
        *self == JetStreamError::Request(RequestError::NoResponders)
    }

    /// It may go well a moment later: the server is away, has no leader, or did not answer.
    pub fn may_pass(&self) -> bool {
        match self {
            JetStreamError::Request(RequestError::NoResponders | RequestError::TimedOut) => true,
            JetStreamError::Request(_) | JetStreamError::Unreadable(_) => false,
            JetStreamError::Api(_) => self.is_in_flight() || self.is_one_of(&FOR_NOW),
        }
    }
}

impl fmt::Display for JetStreamError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            JetStreamError::Api(error) => write!(out, "JetStream: {} ({})", error.description, error.err_code),
            JetStreamError::Request(error) => write!(out, "JetStream: {error}"),
            JetStreamError::Unreadable(why) => write!(out, "JetStream gave an answer that cannot be read: {why}"),
        }
    }
}

impl std::error::Error for JetStreamError {}

impl From<RequestError> for JetStreamError {
    fn from(error: RequestError) -> JetStreamError {
        JetStreamError::Request(error)
    }
}
