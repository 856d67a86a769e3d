//! NATS micro services (ADR-32): discovery requests, the documents that answer them, statistics.

use crate::clock::iso_time;
use crate::sync::lock;
use serde_json::{Map, Value, json};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// Name of the service on the `pi-exec` wire; that of the agent protocol is [`super::agents::SERVICE`].
pub(crate) const SERVICE: &str = "pi-exec";
/// Queue group of the `pi-exec` endpoints, the default of ADR-32.
pub(crate) const QUEUE_GROUP: &str = "q";
/// Our services, each of which is discovered by its name.
const SERVICES: [&str; 2] = [SERVICE, super::agents::SERVICE];

/// What a discovery request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verb {
    Ping,
    Info,
    Stats,
}

/// The subjects on which discovery requests for our services arrive.
pub(crate) fn subjects() -> Vec<String> {
    let mut subjects = Vec::new();
    for verb in ["PING", "INFO", "STATS"] {
        subjects.push(format!("$SRV.{verb}"));
        for service in SERVICES {
            subjects.extend([format!("$SRV.{verb}.{service}"), format!("$SRV.{verb}.{service}.*")]);
        }
    }
    subjects
}

/// Which instances a discovery request asks, and for what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Query<'a> {
    pub verb: Verb,
    /// The name of the only service that shall answer.
    service: Option<&'a str>,
    /// The id of the only instance that shall answer.
    id: Option<&'a str>,
}

impl Query<'_> {
    /// Whether an instance is asked.
    pub(crate) fn asks(&self, service: &str, id: &str) -> bool {
        self.service.is_none_or(|asked| asked == service) && self.id.is_none_or(|asked| asked == id)
    }
}

/// Reads the subject of a discovery request.
pub(crate) fn parse_subject(subject: &str) -> Option<Query<'_>> {
    let mut tokens = subject.split('.');
    let verb = match (tokens.next()?, tokens.next()?) {
        ("$SRV", "PING") => Verb::Ping,
        ("$SRV", "INFO") => Verb::Info,
        ("$SRV", "STATS") => Verb::Stats,
        _ => return None,
    };
    let (service, id) = (tokens.next(), tokens.next());
    let known = service.is_none_or(|service| SERVICES.contains(&service));
    (known && tokens.next().is_none()).then_some(Query { verb, service, id })
}

/// Statistics of one endpoint.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    requests: AtomicU64,
    errors: AtomicU64,
    /// Nanoseconds from a request's arrival to the end of its answer.
    processing: AtomicU64,
    last_error: Mutex<String>,
}

impl Counters {
    pub(crate) const fn new() -> Counters {
        Counters {
            requests: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            processing: AtomicU64::new(0),
            last_error: Mutex::new(String::new()),
        }
    }

    pub(crate) fn count_request(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts an error reply; `code` and `text` are what the reply's headers said.
    pub(crate) fn count_error(&self, code: u16, text: &str) {
        self.errors.fetch_add(1, Ordering::Relaxed);
        *lock(&self.last_error) = format!("{code}:{text}");
    }

    pub(crate) fn add_time(&self, time: std::time::Duration) {
        self.processing.fetch_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    pub(crate) fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    pub(crate) fn errors(&self) -> u64 {
        self.errors.load(Ordering::Relaxed)
    }
}

/// One endpoint of an instance.
pub(crate) struct Endpoint<'a> {
    pub name: &'static str,
    pub subject: String,
    pub queue_group: &'static str,
    pub metadata: Map<String, Value>,
    pub counters: &'a Counters,
    /// What statistics say beside the usual.
    pub data: Map<String, Value>,
}

impl<'a> Endpoint<'a> {
    /// An endpoint of the `pi-exec` wire.
    pub(crate) fn new(name: &'static str, subject: String, counters: &'a Counters) -> Endpoint<'a> {
        Endpoint { name, subject, queue_group: QUEUE_GROUP, metadata: Map::new(), counters, data: Map::new() }
    }
}

/// One instance of a service as discovery shows it, made when somebody asks: a thousand sessions that nobody looks at
/// cost no memory for this.
pub(crate) struct Instance<'a> {
    pub service: &'static str,
    pub id: &'a str,
    pub description: String,
    pub metadata: Map<String, Value>,
    pub endpoints: Vec<Endpoint<'a>>,
    /// Unix time in milliseconds.
    pub started_ms: i64,
}

impl Instance<'_> {
    /// The reply to a discovery request.
    pub(crate) fn document(&self, verb: Verb) -> Value {
        let mut document = json!({
            "type": match verb {
                Verb::Ping => "io.nats.micro.v1.ping_response",
                Verb::Info => "io.nats.micro.v1.info_response",
                Verb::Stats => "io.nats.micro.v1.stats_response",
            },
            "name": self.service,
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
                document["started"] = json!(iso_time(self.started_ms));
                document["endpoints"] = self.endpoints.iter().map(Endpoint::stats).collect();
            }
        }
        document
    }
}

impl Endpoint<'_> {
    fn info(&self) -> Value {
        json!({"name": self.name, "subject": self.subject, "queue_group": self.queue_group, "metadata": self.metadata})
    }

    /// All fields that any of the known clients insists on: natscli wants `last_error` to be a string and `data` an
    /// object; nats-py wants every field to be there.
    fn stats(&self) -> Value {
        let (requests, errors) = (self.counters.requests(), self.counters.errors());
        let processing = self.counters.processing.load(Ordering::Relaxed);
        json!({
            "name": self.name,
            "subject": self.subject,
            "queue_group": self.queue_group,
            "num_requests": requests,
            "num_errors": errors,
            "last_error": *lock(&self.counters.last_error),
            "processing_time": processing,
            "average_processing_time": processing.checked_div(requests).unwrap_or(0),
            "data": self.data,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn discovery_subjects_are_understood() {
        for (subject, expected) in [
            ("$SRV.PING", Some((Verb::Ping, None, None))),
            ("$SRV.INFO.pi-exec", Some((Verb::Info, Some("pi-exec"), None))),
            ("$SRV.INFO.agents", Some((Verb::Info, Some("agents"), None))),
            ("$SRV.STATS.pi-exec.ABC", Some((Verb::Stats, Some("pi-exec"), Some("ABC")))),
            ("$SRV.STATS.other", None),
            ("$SRV.PING.pi-exec.a.b", None),
            ("$SRV.EXPLODE", None),
            ("x.PING", None),
            ("", None),
        ] {
            let expected = expected.map(|(verb, service, id)| Query { verb, service, id });
            assert_eq!(parse_subject(subject), expected, "{subject}");
        }
        assert_eq!(subjects().len(), 15);
    }

    #[test]
    fn a_query_asks_all_instances_or_those_of_a_service_or_one() {
        for (subject, asked) in [
            ("$SRV.PING", [true, true, true]),
            ("$SRV.PING.agents", [false, true, true]),
            ("$SRV.PING.agents.A", [false, true, false]),
            ("$SRV.PING.pi-exec.A", [true, false, false]),
        ] {
            let query = parse_subject(subject).expect(subject);
            let instances = [("pi-exec", "A"), ("agents", "A"), ("agents", "B")];
            assert_eq!(instances.map(|(service, id)| query.asks(service, id)), asked, "{subject}");
        }
    }

    #[test]
    fn documents_have_what_clients_insist_on() {
        let counters = Counters::default();
        let instance = Instance {
            service: SERVICE,
            id: "I",
            description: "intake".into(),
            metadata: Map::new(),
            endpoints: vec![Endpoint::new("intake", "a.b".into(), &counters)],
            started_ms: 1_700_000_000_120,
        };
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
        assert_eq!(stats["started"], "2023-11-14T22:13:20.120Z");
    }
}
