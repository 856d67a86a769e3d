//! NATS micro services (ADR-32): one responder that answers discovery for every instance of the daemon.

use super::shared::random_token;
use crate::transcript::{iso_time, now_ms};
use serde_json::{Map, Value, json};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Name of the service.
pub const SERVICE: &str = "pi-exec";
/// Queue group of every endpoint, the default of ADR-32.
pub const QUEUE_GROUP: &str = "q";

/// What a discovery request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    Ping,
    Info,
    Stats,
}

/// The subjects on which discovery requests for the service arrive.
pub fn subjects() -> Vec<String> {
    ["PING", "INFO", "STATS"]
        .iter()
        .flat_map(|verb| [format!("$SRV.{verb}"), format!("$SRV.{verb}.{SERVICE}"), format!("$SRV.{verb}.{SERVICE}.*")])
        .collect()
}

/// Reads the subject of a discovery request: the verb, and the id of the only instance that shall answer.
pub fn parse_subject(subject: &str) -> Option<(Verb, Option<&str>)> {
    let mut tokens = subject.split('.');
    let verb = match (tokens.next()?, tokens.next()?) {
        ("$SRV", "PING") => Verb::Ping,
        ("$SRV", "INFO") => Verb::Info,
        ("$SRV", "STATS") => Verb::Stats,
        _ => return None,
    };
    match (tokens.next(), tokens.next(), tokens.next()) {
        (None | Some(SERVICE), id, None) => Some((verb, id)),
        _ => None,
    }
}

/// Statistics of one endpoint.
#[derive(Debug, Default)]
pub struct Counters {
    requests: AtomicU64,
    errors: AtomicU64,
    /// Nanoseconds from a request's arrival to the end of its answer.
    processing: AtomicU64,
    last_error: Mutex<String>,
}

impl Counters {
    pub fn count_request(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts an error reply; `code` and `text` are what the reply's headers said.
    pub fn count_error(&self, code: u16, text: &str) {
        self.errors.fetch_add(1, Ordering::Relaxed);
        *self.last_error.lock().unwrap_or_else(PoisonError::into_inner) = format!("{code}:{text}");
    }

    pub fn add_time(&self, time: std::time::Duration) {
        self.processing.fetch_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    pub fn errors(&self) -> u64 {
        self.errors.load(Ordering::Relaxed)
    }
}

/// One endpoint of an instance.
pub struct Endpoint {
    pub name: &'static str,
    pub subject: String,
    pub counters: Arc<Counters>,
}

impl Endpoint {
    pub fn new(name: &'static str, subject: String) -> Endpoint {
        Endpoint { name, subject, counters: Arc::default() }
    }
}

/// One instance of the service: the intake, or a session.
pub struct Instance {
    pub id: String,
    pub description: String,
    pub metadata: Map<String, Value>,
    pub endpoints: Vec<Endpoint>,
    /// RFC 3339 with milliseconds, UTC.
    pub started: String,
}

impl Instance {
    pub fn new(description: String, metadata: Map<String, Value>, endpoints: Vec<Endpoint>) -> Instance {
        Instance { id: new_id(), description, metadata, endpoints, started: iso_time(now_ms()) }
    }

    /// The reply to a discovery request.
    pub fn document(&self, verb: Verb) -> Value {
        let mut document = json!({
            "type": match verb {
                Verb::Ping => "io.nats.micro.v1.ping_response",
                Verb::Info => "io.nats.micro.v1.info_response",
                Verb::Stats => "io.nats.micro.v1.stats_response",
            },
            "name": SERVICE,
            "id": self.id,
            "version": env!("CARGO_PKG_VERSION"),
            "metadata": self.metadata,
        });
        match verb {
            Verb::Ping => {}
            Verb::Info => {
                document["description"] = json!(self.description);
                document["endpoints"] = self.endpoints.iter().map(Endpoint::info).collect();
            }
            Verb::Stats => {
                document["started"] = json!(self.started);
                document["endpoints"] = self.endpoints.iter().map(Endpoint::stats).collect();
            }
        }
        document
    }
}

impl Endpoint {
    fn info(&self) -> Value {
        json!({"name": self.name, "subject": self.subject, "queue_group": QUEUE_GROUP, "metadata": {}})
    }

    /// All fields that any of the known clients insists on: natscli wants `last_error` to be a string and `data` an
    /// object; nats-py wants every field to be there.
    fn stats(&self) -> Value {
        let (requests, errors) = (self.counters.requests(), self.counters.errors());
        let processing = self.counters.processing.load(Ordering::Relaxed);
        json!({
            "name": self.name,
            "subject": self.subject,
            "queue_group": QUEUE_GROUP,
            "num_requests": requests,
            "num_errors": errors,
            "last_error": *self.counters.last_error.lock().unwrap_or_else(PoisonError::into_inner),
            "processing_time": processing,
            "average_processing_time": processing.checked_div(requests).unwrap_or(0),
            "data": {},
        })
    }
}

/// A unique id in the form of a NUID: 22 letters and digits.
pub fn new_id() -> String {
    random_token::<22>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn discovery_subjects_are_understood() {
        for (subject, expected) in [
            ("$SRV.PING", Some((Verb::Ping, None))),
            ("$SRV.INFO.pi-exec", Some((Verb::Info, None))),
            ("$SRV.STATS.pi-exec.ABC", Some((Verb::Stats, Some("ABC")))),
            ("$SRV.STATS.other", None),
            ("$SRV.PING.pi-exec.a.b", None),
            ("$SRV.EXPLODE", None),
            ("x.PING", None),
            ("", None),
        ] {
            assert_eq!(parse_subject(subject), expected, "{subject}");
        }
        assert_eq!(subjects().len(), 9);
    }

    #[test]
    fn documents_have_what_clients_insist_on() {
        let instance = Instance::new("intake".into(), Map::new(), vec![Endpoint::new("intake", "a.b".into())]);
        let counters = &instance.endpoints[0].counters;
        counters.count_request();
        counters.count_request();
        counters.count_error(404, "not_found");
        counters.add_time(std::time::Duration::from_nanos(10));
        let stats = instance.document(Verb::Stats);
        assert_eq!(
            stats["endpoints"][0],
            json!({"name":"intake","subject":"a.b","queue_group":"q","num_requests":2,"num_errors":1,
                "last_error":"404:not_found","processing_time":10,"average_processing_time":5,"data":{}})
        );
        assert_eq!(instance.document(Verb::Ping)["type"], "io.nats.micro.v1.ping_response");
        assert_eq!(instance.document(Verb::Info)["description"], "intake");
        assert_eq!(instance.id.len(), 22);
    }
}
