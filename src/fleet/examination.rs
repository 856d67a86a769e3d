//! What a host needs of the server: looked at without changing anything, for `doctor`.

use super::{ASK_TIME, CARDS, FleetOptions, LOGS, MEMORY, NOWHERE, hosts, streams};
use crate::ids;
use crate::nats::Connection;
use crate::nats::jetstream::{EXPECTED, JetStream, JetStreamError, StreamConfig, StreamInfo};
use serde_json::json;

/// A message that changes nothing: its subject, a header, and what it carries.
pub(crate) type Harmless = (String, Option<(&'static str, String)>, String);

/// A stream that does not fit, and why; or one that is not there yet.
pub(crate) enum Unfit {
    /// It is made at the start.
    Missing(String),
    /// It works, and keeps less than was asked for.
    Replicas { stream: String, has: usize, wanted: usize },
    /// Hosts cannot work with it.
    Setting { stream: String, setting: &'static str },
}

/// What is there.
pub(crate) struct Examination {
    pub unfit: Vec<Unfit>,
    /// The hosts with a card, in the order of their names.
    pub hosts: Vec<String>,
}

/// What a host listens to, beside what every daemon does.
pub(crate) fn subscriptions(options: &FleetOptions) -> [String; 3] {
    [options.here_subject(&options.host), options.inbox_subject("*"), options.memory_subject("*")]
}

/// A message for each kind of subject that a host publishes to. The server lets them through or says that it does not.
pub(crate) fn harmless_messages(options: &FleetOptions) -> Vec<Harmless> {
    // The names of no session and no host.
    let nobody = ids::nuid();
    let nowhere = || Some((EXPECTED, NOWHERE.to_string()));
    let log = options.log_subject(&nobody);
    let mut messages = vec![
        (log.clone(), nowhere(), String::new()),
        (options.inbox_subject(&nobody), nowhere(), String::new()),
        (options.card_subject(&nobody), nowhere(), String::new()),
        (options.here_subject(&nobody), None, String::new()),
        (options.memory_subject(&nobody), nowhere(), String::new()),
        (options.day_subject(&nobody), nowhere(), String::new()),
        // A purge without a filter would be one of everything.
        (format!("$JS.API.STREAM.PURGE.{LOGS}"), None, json!({"filter": log}).to_string()),
    ];
    for stream in [LOGS, CARDS, MEMORY] {
        messages.push((format!("$JS.API.STREAM.INFO.{stream}"), None, String::new()));
        // Without a name it is refused.
        messages.push((format!("$JS.API.STREAM.CREATE.{stream}"), None, "{}".into()));
        messages.push((format!("$JS.API.DIRECT.GET.{stream}"), None, json!({"last_by_subj": log}).to_string()));
    }
    messages
}

/// Looks at the streams and the cards.
///
/// # Errors
/// [`JetStreamError`].
pub(crate) fn examine(connection: &Connection, options: &FleetOptions) -> Result<Examination, JetStreamError> {
    let jetstream = JetStream::new(connection.clone());
    let mut unfit = Vec::new();
    for wanted in streams(options.replicas) {
        match jetstream.stream(&wanted.name, ASK_TIME) {
            Ok(found) => unfit.extend(differences(&wanted, &found)),
            Err(e) if e.is_not_found() => unfit.push(Unfit::Missing(wanted.name)),
            Err(e) => return Err(e),
        }
    }
    let can_be_read = |unfit: &Unfit| matches!(unfit, Unfit::Replicas { .. });
    let hosts = match unfit.iter().all(can_be_read) {
        true => hosts::with_card(&jetstream, options)?.into_iter().collect(),
        false => Vec::new(),
    };
    Ok(Examination { unfit, hosts })
}

/// What of a stream's settings hosts depend on.
fn differences(wanted: &StreamConfig, found: &StreamInfo) -> Vec<Unfit> {
    let has = &found.config;
    // One that is wider than it need be does as well.
    let covers = |pattern: &String, subject: &String| {
        pattern.strip_suffix('>').is_some_and(|prefix| subject.starts_with(prefix))
    };
    let takes = |subject: &String| has.subjects.iter().any(|pattern| covers(pattern, subject));
    let settings = [
        (wanted.subjects.iter().all(takes), "subjects"),
        (has.allow_direct, "allow_direct"),
        (has.discard == wanted.discard, "discard"),
        (has.allow_msg_ttl || !wanted.allow_msg_ttl, "allow_msg_ttl"),
        (has.max_msgs_per_subject == wanted.max_msgs_per_subject, "max_msgs_per_subject"),
    ];
    let stream = || wanted.name.clone();
    let wrong = settings.into_iter().filter(|(fits, _)| !fits);
    let mut unfit: Vec<Unfit> = wrong.map(|(_, setting)| Unfit::Setting { stream: stream(), setting }).collect();
    if has.num_replicas < wanted.num_replicas {
        unfit.push(Unfit::Replicas { stream: stream(), has: has.num_replicas, wanted: wanted.num_replicas });
    }
    unfit
}
