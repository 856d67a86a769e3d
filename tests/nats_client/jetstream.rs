//! JetStream's requests against real servers: one, and three that replicate.

use crate::server::{Client, PATIENCE, Server, eventually, free_port};
use nats_pi_bridge::nats::RequestError;
use nats_pi_bridge::nats::jetstream::{API_LEVEL, Appended, Discard, JetStream, JetStreamError, StreamConfig};
use std::path::Path;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

const LOG: &str = "LOG";
const HOSTS: &str = "KV_HOSTS";

fn jetstream(dir: &Path) -> String {
    format!("jetstream {{ store_dir: {:?}, max_mem: 16M, max_file: 256M }}\n", dir.join("store"))
}

/// A client of a server with JetStream.
struct Fixture {
    client: Client,
    js: JetStream,
}

impl Fixture {
    fn of(server: &Server) -> Fixture {
        let client = server.connect();
        let js = JetStream::new(client.connection.clone());
        Fixture { client, js }
    }

    fn append(&self, subject: &str, expected: u64, id: &str) -> Result<Appended, JetStreamError> {
        self.js.append(LOG, subject, expected, id, id.as_bytes(), Instant::now() + PATIENCE)
    }

    /// The ids of what is stored on a subject.
    fn ids(&self, subject: &str) -> Vec<String> {
        let page = self.js.next(LOG, subject, 1, 1000, PATIENCE).expect("they are read");
        assert_eq!(page.pending, 0);
        page.messages.iter().map(|stored| String::from_utf8_lossy(&stored.payload).into_owned()).collect()
    }
}

fn log(replicas: usize) -> StreamConfig {
    StreamConfig { num_replicas: replicas, discard: Discard::New, ..StreamConfig::new(LOG, &["log.>"]) }
}

#[test]
fn a_log_is_appended_to_read_back_and_purged() {
    let server = Server::prepared(jetstream);
    let fixture = Fixture::of(&server);
    let js = &fixture.js;
    let account = js.account(PATIENCE).expect("there is JetStream");
    assert!(account.api_level() >= API_LEVEL, "{account:?}");
    assert_eq!(account.limits.max_streams, -1, "nothing is configured");
    assert!(js.stream(LOG, PATIENCE).expect_err("nothing is there yet").is_not_found());
    js.create_stream(&log(1), PATIENCE).expect("it is made");
    let again = js.create_stream(&log(1), PATIENCE).expect("the same once more");
    assert_eq!((again.state.messages, again.config.num_replicas), (0, 1));
    assert!(js.create_stream(&StreamConfig { max_bytes: 1 << 20, ..log(1) }, PATIENCE).is_err(), "it is another one");

    assert_eq!(js.last(LOG, "log.a", PATIENCE), Ok(None));
    assert_eq!(js.next(LOG, "log.a", 1, 10, PATIENCE).expect("an empty page").messages, []);
    assert_eq!(js.last_of_each(LOG, &["log.*"], 10, PATIENCE), Ok(vec![]));
    let mut last = 0;
    for number in 1..=5 {
        let appended = fixture.append("log.a", last, &format!("a{number}")).expect("an answer");
        let Appended::At(sequence) = appended else { panic!("{appended:?}") };
        assert!(sequence > last);
        last = sequence;
        fixture.js.publish("log.b", None, None, None, b"b", PATIENCE).expect("other subjects are nobody's business");
    }
    assert_eq!(fixture.append("log.a", last - 2, "late"), Ok(Appended::Refused));
    assert_eq!(fixture.append("log.a", 0, "new"), Ok(Appended::Refused));
    let found = js.last(LOG, "log.a", PATIENCE).expect("an answer").expect("a message");
    assert_eq!((found.sequence, &*found.subject, &*found.payload), (last, "log.a", &b"a5"[..]));
    assert_eq!(found.header("Nats-Msg-Id"), Some("a5"));
    let page = js.next(LOG, "log.a", 2, 2, PATIENCE).expect("a page");
    assert_eq!(page.messages.iter().map(|stored| &*stored.payload).collect::<Vec<_>>(), [b"a2", b"a3"]);
    assert_eq!(page.pending, 2);
    assert_eq!(fixture.ids("log.a"), ["a1", "a2", "a3", "a4", "a5"]);
    let lasts = js.last_of_each(LOG, &["log.a", "log.b", "log.none"], 10, PATIENCE).expect("one of each");
    let mut lasts: Vec<_> = lasts.iter().map(|stored| (&*stored.subject, &*stored.payload)).collect();
    lasts.sort_unstable();
    assert_eq!(lasts, [("log.a", &b"a5"[..]), ("log.b", b"b")]);
    assert_eq!(js.subjects(LOG, "log.*", PATIENCE), Ok(vec!["log.a".to_owned(), "log.b".to_owned()]));
    assert_eq!(js.subjects(LOG, "log.none", PATIENCE), Ok(vec![]));

    assert_eq!(js.purge(LOG, "log.a", Some(last), PATIENCE), Ok(4));
    assert_eq!(fixture.ids("log.a"), ["a5"]);
    assert!(matches!(fixture.append("log.a", last, "a6"), Ok(Appended::At(_))), "a purge moves no fence");
    assert_eq!(js.purge(LOG, "log.a", None, PATIENCE), Ok(2));
    assert_eq!(js.stream(LOG, PATIENCE).expect("it is there").state.messages, 5);
    assert!(matches!(fixture.append("log.a", 0, "anew"), Ok(Appended::At(_))), "nothing is left of it");
}

#[test]
fn whoever_lost_its_acknowledgement_finds_its_message() {
    let server = Server::prepared(jetstream);
    let fixture = Fixture::of(&server);
    let config = StreamConfig { duplicate_window: Duration::from_millis(100), ..log(1) };
    fixture.js.create_stream(&config, PATIENCE).expect("it is made");
    let publish = |subject: &str, id: &str| fixture.js.publish(subject, None, Some(id), None, id.as_bytes(), PATIENCE);
    let first = publish("log.a", "mine").expect("stored");
    assert_eq!(fixture.append("log.a", 0, "mine"), Ok(Appended::At(first.sequence)), "the server knows the id");
    // Ids are forgotten in the order in which they came.
    publish("log.other", "marker").expect("stored");
    eventually("the ids are forgotten", || !publish("log.other", "marker").expect("an answer").duplicate);
    assert_eq!(fixture.append("log.a", 0, "mine"), Ok(Appended::At(first.sequence)), "it is looked for");
    publish("log.a", "theirs").expect("stored");
    assert_eq!(fixture.append("log.a", first.sequence, "next"), Ok(Appended::Refused));
    assert_eq!(fixture.ids("log.a"), ["mine", "theirs"]);
}

#[test]
fn an_outage_delays_an_append_and_stores_it_once() {
    let mut server = Server::prepared(jetstream);
    let fixture = Fixture::of(&server);
    fixture.js.create_stream(&log(1), PATIENCE).expect("it is made");
    server.kill();
    fixture.client.wait_disconnected();
    let soon = Instant::now() + Duration::from_millis(100);
    let unknown = fixture.js.append(LOG, "log.a", 0, "one", b"one", soon).expect_err("nobody answers");
    assert!(unknown.may_pass(), "{unknown}");
    let waiting = thread::scope(|scope| {
        let waiting = scope.spawn(|| fixture.append("log.a", 0, "one"));
        server.resume();
        waiting.join().expect("no panic")
    });
    assert!(matches!(waiting, Ok(Appended::At(_))), "{waiting:?}");
    assert_eq!(fixture.ids("log.a"), ["one"]);
}

#[test]
fn a_full_stream_says_so() {
    let server = Server::prepared(jetstream);
    let fixture = Fixture::of(&server);
    let config = StreamConfig { max_bytes: 1000, ..log(1) };
    fixture.js.create_stream(&config, PATIENCE).expect("it is made");
    let append = |payload: &[u8]| fixture.js.append(LOG, "log.a", 0, "id", payload, Instant::now() + PATIENCE);
    let full = append(&[0; 2000]).expect_err("there is no room");
    assert!(full.is_full() && !full.may_pass(), "{full:?}");
    let enough = StreamConfig { max_bytes: 4000, ..log(1) };
    fixture.js.update_stream(&enough, PATIENCE).expect("it is changed");
    assert!(matches!(append(&[0; 2000]), Ok(Appended::At(_))), "now there is");
}

#[test]
fn a_card_expires_and_is_made_anew_over_its_marker() {
    let server = Server::prepared(jetstream);
    let fixture = Fixture::of(&server);
    let config = StreamConfig {
        max_msgs_per_subject: 1,
        allow_msg_ttl: true,
        subject_delete_marker_ttl: Duration::from_secs(60),
        ..StreamConfig::new(HOSTS, &["$KV.HOSTS.>"])
    };
    fixture.js.create_stream(&config, PATIENCE).expect("it is made");
    let put = |expected, ttl: u64| {
        let ttl = Some(Duration::from_secs(ttl));
        fixture.js.publish("$KV.HOSTS.a", Some(expected), None, ttl, b"card", PATIENCE)
    };
    let made = put(0, 60).expect("it is made").sequence;
    let renewed = put(made, 1).expect("it is renewed").sequence;
    assert!(put(made, 1).expect_err("it is another one by now").is_wrong_sequence());
    let card = || fixture.js.last(HOSTS, "$KV.HOSTS.a", PATIENCE).expect("an answer").expect("something is there");
    let mut found = card();
    assert_eq!((found.sequence, found.header("Nats-Marker-Reason")), (renewed, None));
    eventually("it expires", || {
        found = card();
        found.header("Nats-Marker-Reason") == Some("MaxAge")
    });
    assert!(put(0, 60).expect_err("the marker is there").is_wrong_sequence());
    put(found.sequence, 60).expect("it is made anew");
}

#[test]
fn a_server_without_jetstream_is_told_from_one_that_is_away() {
    let server = Server::plain();
    let fixture = Fixture::of(&server);
    let error = fixture.js.account(PATIENCE).expect_err("there is none");
    assert!(error.is_not_enabled() || error == JetStreamError::Request(RequestError::NoResponders), "{error:?}");
    let server = Server::prepared(|dir| {
        let accounts = "accounts { A { users: [{ user: u, password: p }] } }\nno_auth_user: u\n";
        format!("{}{accounts}", jetstream(dir))
    });
    let fixture = Fixture::of(&server);
    let error = fixture.js.account(PATIENCE).expect_err("the account has none");
    assert!(error.is_not_enabled() || error == JetStreamError::Request(RequestError::NoResponders), "{error:?}");
}

/// As many threads as there are appends, all behind the same message: one of them is stored.
fn one_of_many_wins(fixtures: &[Fixture]) {
    let mut last = 0;
    for round in 0..20 {
        let barrier = Arc::new(Barrier::new(fixtures.len() * 2));
        let results: Vec<_> = thread::scope(|scope| {
            let appending: Vec<_> = (0..fixtures.len() * 2)
                .map(|at| {
                    let (fixture, barrier) = (&fixtures[at / 2], barrier.clone());
                    scope.spawn(move || {
                        barrier.wait();
                        fixture
                            .append("log.race", last, &format!("{round}.{at}"))
                            .expect("it is known what became of it")
                    })
                })
                .collect();
            appending.into_iter().map(|thread| thread.join().expect("no panic")).collect()
        });
        let won: Vec<u64> = results
            .iter()
            .filter_map(|done| if let Appended::At(sequence) = done { Some(*sequence) } else { None })
            .collect();
        let [sequence] = won[..] else { panic!("{results:?}") };
        last = sequence;
    }
}

#[test]
fn of_those_who_append_at_once_one_wins() {
    let server = Server::prepared(jetstream);
    let fixtures: Vec<_> = (0..4).map(|_| Fixture::of(&server)).collect();
    fixtures[0].js.create_stream(&log(1), PATIENCE).expect("it is made");
    one_of_many_wins(&fixtures);
    assert_eq!(fixtures[0].ids("log.race").len(), 20);
}

#[test]
fn three_servers_keep_what_they_acknowledged_when_one_goes() {
    let routes: Vec<u16> = (0..3).map(|_| free_port()).collect();
    let urls = routes.iter().map(|port| format!("nats://127.0.0.1:{port}")).collect::<Vec<_>>().join(", ");
    let mut servers: Vec<Server> = routes
        .iter()
        .map(|port| {
            Server::prepared(|dir| {
                let cluster = format!("cluster {{ name: c, listen: \"127.0.0.1:{port}\", routes: [{urls}] }}\n");
                format!("server_name: n{port}\n{}{cluster}", jetstream(dir))
            })
        })
        .collect();
    let fixtures: Vec<_> = servers.iter().map(Fixture::of).collect();
    // Until the servers have elected who leads, nobody answers.
    let short = Duration::from_millis(500);
    eventually("the stream is made", || fixtures[0].js.create_stream(&log(3), short).is_ok());
    one_of_many_wins(&fixtures);
    let stored = |fixture: &Fixture| {
        let page = fixture.js.next(LOG, "log.race", 1, 1000, Duration::from_secs(2));
        // While a server goes, nobody may be there to answer.
        page.map_or(Vec::new(), |page| page.messages)
    };
    servers[0].kill();
    // Any replica answers, and may be a moment behind.
    let mut last = 0;
    eventually("two of three have everything", || {
        let found = stored(&fixtures[1]);
        last = found.last().map_or(0, |stored| stored.sequence);
        found.len() == 20
    });
    assert!(matches!(fixtures[2].append("log.race", last, "after"), Ok(Appended::At(_))), "two of three go on");
    eventually("both have it", || stored(&fixtures[1]).len() == 21);
}
