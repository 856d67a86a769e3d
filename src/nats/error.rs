//! Why something was not published, or got no answer.

use std::fmt;

/// Why something was not published or subscribed to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PublishError {
    BadSubject(String),
    BadHeader(String),
    /// Header block and payload are larger than the server accepts; both in bytes.
    TooLarge {
        size: usize,
        max: usize,
    },
    /// The message means nothing without its headers, and the server takes none.
    NoHeaders,
    /// More output waits than allowed; see [`super::Connection::wait_for_room`].
    Full,
    Closed,
}

impl fmt::Display for PublishError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PublishError::BadSubject(subject) => write!(out, "bad subject {subject:?}"),
            PublishError::BadHeader(name) => write!(out, "bad header {name:?}"),
            PublishError::TooLarge { size, max } => write!(out, "message of {size} bytes, the server accepts {max}"),
            PublishError::NoHeaders => write!(out, "the server takes no headers"),
            PublishError::Full => write!(out, "too much output waits for the server"),
            PublishError::Closed => write!(out, "the connection is closed"),
        }
    }
}

impl std::error::Error for PublishError {}

/// Why a request got no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestError {
    Publish(PublishError),
    NoResponders,
    TimedOut,
    Closed,
}

impl fmt::Display for RequestError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RequestError::Publish(error) => write!(out, "{error}"),
            RequestError::NoResponders => write!(out, "nobody answers requests on this subject"),
            RequestError::TimedOut => write!(out, "no answer in time"),
            RequestError::Closed => write!(out, "the connection was closed"),
        }
    }
}

impl std::error::Error for RequestError {}

impl From<PublishError> for RequestError {
    fn from(error: PublishError) -> RequestError {
        if let PublishError::Closed = error { RequestError::Closed } else { RequestError::Publish(error) }
    }
}
