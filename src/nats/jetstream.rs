//! JetStream for a synchronous client: its requests, each of which waits for its answer until a deadline.
//!
//! There are no consumers. Messages are stored with an acknowledgement and read back with direct requests, which is what
//! a log with one writer at a time needs. The server has to be 2.11 or newer ([`API_LEVEL`]).

mod account;
mod append;
mod direct;
mod error;
mod stream;

use super::connection::Connection;
pub use account::{Account, Limits};
pub use append::{Appended, EXPECTED, Receipt, TTL, time_to_live};
pub use direct::{Page, Stored};
pub use error::JetStreamError;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::time::{Duration, Instant};
pub use stream::{Discard, StreamConfig, StreamInfo, StreamState};

/// The API level of the first server that has all that is used here: direct requests in batches, a time to live for each
/// message, and markers of what has expired (nats-server 2.11).
pub const API_LEVEL: u32 = 1;
/// What the subjects of requests begin with.
const PREFIX: &str = "$JS.API";
/// A request that got no answer in this time is asked again while there is time left: the server that should have
/// answered may be gone, and another one leads by now.
const TRY_TIME: Duration = Duration::from_secs(2);
/// Between two tries, so that a server that says no at once is not asked in a busy loop.
const PAUSE: Duration = Duration::from_millis(20);

/// JetStream by way of a connection.
#[derive(Clone)]
pub struct JetStream {
    connection: Connection,
}

/// An answer of the API: an error, or what was asked for.
#[derive(Deserialize)]
struct Envelope {
    error: Option<error::ApiError>,
}

impl JetStream {
    pub fn new(connection: Connection) -> JetStream {
        JetStream { connection }
    }

    /// Asks the API once.
    fn ask<T: DeserializeOwned>(&self, verb: &str, body: &[u8], timeout: Duration) -> Result<T, JetStreamError> {
        let answer = self.connection.request(&format!("{PREFIX}.{verb}"), body, timeout)?;
        read(&answer.payload)
    }
}

/// Reads an answer of the API.
fn read<T: DeserializeOwned>(payload: &[u8]) -> Result<T, JetStreamError> {
    let envelope: Envelope = serde_json::from_slice(payload).map_err(JetStreamError::unreadable)?;
    match envelope.error {
        Some(error) => Err(JetStreamError::Api(error)),
        None => serde_json::from_slice(payload).map_err(JetStreamError::unreadable),
    }
}

/// How long one try may take, of what is left until the deadline; nothing when that has passed.
fn try_time(deadline: Instant) -> Option<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    (!left.is_zero()).then(|| left.min(TRY_TIME))
}

/// Waits before the next try, at most until the deadline.
fn pause(deadline: Instant) {
    std::thread::sleep(PAUSE.min(deadline.saturating_duration_since(Instant::now())));
}
