//! Streams: made, changed, looked at, purged.

use super::JetStream;
use super::error::JetStreamError;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::json;
use std::collections::BTreeMap;
use std::time::Duration;

/// What becomes of new messages when a stream is full.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Discard {
    /// They take the place of the oldest ones.
    #[default]
    Old,
    /// They are refused.
    New,
}

/// How a stream is to be. It is kept in files, and what it stores stays until a limit or a purge removes it.
#[derive(Clone, Debug, Serialize)]
pub struct StreamConfig {
    pub name: String,
    pub subjects: Vec<String>,
    pub num_replicas: usize,
    pub discard: Discard,
    /// Bytes; below zero = no limit.
    pub max_bytes: i64,
    /// Below zero = no limit.
    pub max_msgs_per_subject: i64,
    /// How long the ids of messages are remembered, so that one that is sent twice is stored once.
    #[serde(serialize_with = "nanoseconds")]
    pub duplicate_window: Duration,
    /// Messages may name a time to live.
    pub allow_msg_ttl: bool,
    /// How long a marker stays that says that the last message of a subject expired; zero = there are none. It is also
    /// the least that the time to live of a message may be, unless a subject keeps one message only.
    #[serde(serialize_with = "nanoseconds", skip_serializing_if = "Duration::is_zero")]
    pub subject_delete_marker_ttl: Duration,
}

/// What is the same for all streams that this client makes.
#[derive(Serialize)]
struct Request<'a> {
    #[serde(flatten)]
    config: &'a StreamConfig,
    retention: &'static str,
    storage: &'static str,
    allow_direct: bool,
}

impl StreamConfig {
    /// A stream of these subjects with one replica, without limits.
    pub fn new(name: &str, subjects: &[&str]) -> StreamConfig {
        StreamConfig {
            name: name.into(),
            subjects: subjects.iter().map(|subject| (*subject).into()).collect(),
            num_replicas: 1,
            discard: Discard::Old,
            max_bytes: -1,
            max_msgs_per_subject: -1,
            duplicate_window: Duration::from_secs(120),
            allow_msg_ttl: false,
            subject_delete_marker_ttl: Duration::ZERO,
        }
    }
}

/// The API has durations in nanoseconds.
fn nanoseconds<S: Serializer>(duration: &Duration, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_u64(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX))
}

/// A stream as it is.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub struct StreamInfo {
    pub state: StreamState,
    pub config: InForce,
}

/// What a stream was told, as far as it is of interest afterwards.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub struct InForce {
    /// The patterns of what it stores.
    pub subjects: Vec<String>,
    pub num_replicas: usize,
    pub discard: Discard,
    pub allow_direct: bool,
    pub allow_msg_ttl: bool,
    pub max_msgs_per_subject: i64,
}

/// What a stream has.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub struct StreamState {
    pub messages: u64,
    pub bytes: u64,
    pub last_seq: u64,
}

#[derive(Deserialize)]
struct Subjects {
    state: SubjectsState,
}

#[derive(Deserialize)]
struct SubjectsState {
    #[serde(default)]
    subjects: BTreeMap<String, u64>,
}

#[derive(Deserialize)]
struct Purged {
    purged: u64,
}

impl JetStream {
    /// Makes a stream. That it is there already, made the same way, is no error.
    ///
    /// # Errors
    /// [`JetStreamError`], also where there is a stream of that name that was made in another way.
    pub fn create_stream(&self, config: &StreamConfig, timeout: Duration) -> Result<StreamInfo, JetStreamError> {
        self.configure("CREATE", config, timeout)
    }

    /// Changes a stream.
    ///
    /// # Errors
    /// [`JetStreamError`], also where it cannot be changed in this way.
    pub fn update_stream(&self, config: &StreamConfig, timeout: Duration) -> Result<StreamInfo, JetStreamError> {
        self.configure("UPDATE", config, timeout)
    }

    fn configure(&self, verb: &str, config: &StreamConfig, timeout: Duration) -> Result<StreamInfo, JetStreamError> {
        let request = Request { config, retention: "limits", storage: "file", allow_direct: true };
        let body = serde_json::to_vec(&request).map_err(JetStreamError::unreadable)?;
        self.ask(&format!("STREAM.{verb}.{}", config.name), &body, timeout)
    }

    /// Looks at a stream.
    ///
    /// # Errors
    /// [`JetStreamError::is_not_found`] where there is none of that name.
    pub fn stream(&self, name: &str, timeout: Duration) -> Result<StreamInfo, JetStreamError> {
        self.ask(&format!("STREAM.INFO.{name}"), b"", timeout)
    }

    /// The subjects of a stream's messages that fit a pattern: 100,000 of them at most, which is what the server tells.
    ///
    /// # Errors
    /// [`JetStreamError`].
    pub fn subjects(&self, name: &str, pattern: &str, timeout: Duration) -> Result<Vec<String>, JetStreamError> {
        let body = json!({"subjects_filter": pattern}).to_string();
        let info: Subjects = self.ask(&format!("STREAM.INFO.{name}"), body.as_bytes(), timeout)?;
        Ok(info.state.subjects.into_keys().collect())
    }

    /// Removes the messages of a subject below a sequence, or all of them without one; returns how many there were.
    ///
    /// # Errors
    /// [`JetStreamError`].
    pub fn purge(
        &self,
        name: &str,
        subject: &str,
        below: Option<u64>,
        timeout: Duration,
    ) -> Result<u64, JetStreamError> {
        let mut body = json!({"filter": subject});
        if let Some(below) = below {
            body["seq"] = json!(below);
        }
        let purged: Purged = self.ask(&format!("STREAM.PURGE.{name}"), body.to_string().as_bytes(), timeout)?;
        Ok(purged.purged)
    }
}
