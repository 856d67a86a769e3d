//! The embedded broker: the same bytes as from nats-server (found in `NATS_SERVER` or the PATH), other clients' libraries,
//! and clients that misbehave.
#![allow(deprecated)] // The peer library is kept for being independent of our code, not for new projects.

use crossbeam_channel::bounded;
use nats_pi_bridge::broker::{Broker, BrokerAuth, BrokerOptions};
use nats_pi_bridge::nats::{Connection, Options, RequestError, ServerAddress};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Longer than anything in these tests takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

fn broker(options: BrokerOptions) -> Broker {
    Broker::start(([127, 0, 0, 1], 0).into(), options).expect("it starts")
}

/// A connection that speaks the protocol by hand.
struct Raw(TcpStream, Vec<u8>);

impl Raw {
    /// Connects and reads the INFO.
    fn connect(address: SocketAddr) -> Raw {
        let stream = TcpStream::connect(address).expect("connected");
        stream.set_read_timeout(Some(PATIENCE)).expect("set");
        stream.set_write_timeout(Some(PATIENCE)).expect("set");
        let mut raw = Raw(stream, Vec::new());
        assert!(raw.line().starts_with("INFO {"));
        raw
    }

    fn say(&mut self, text: impl AsRef<[u8]>) {
        // Whoever is cut off while it speaks finds out by reading.
        let _ = self.0.write_all(text.as_ref());
    }

    /// One more piece; false at the end of the stream, however it comes.
    fn more(&mut self) -> bool {
        let mut piece = [0; 65536];
        match self.0.read(&mut piece) {
            Ok(count) => {
                self.1.extend_from_slice(&piece[..count]);
                count > 0
            }
            Err(error) if error.kind() == ErrorKind::ConnectionReset => false,
            Err(error) => panic!("{error} after {:?}", String::from_utf8_lossy(&self.1)),
        }
    }

    /// The next line without its end; empty at the end of the stream.
    fn line(&mut self) -> String {
        loop {
            if let Some(end) = self.1.windows(2).position(|two| two == b"\r\n") {
                let rest = self.1.split_off(end + 2);
                let line = std::mem::replace(&mut self.1, rest);
                return String::from_utf8_lossy(&line[..end]).into_owned();
            }
            if !self.more() {
                return String::new();
            }
        }
    }

    /// Everything that is said in answer to `script`.
    fn answers(mut self, script: &[u8]) -> String {
        let count = |text: &[u8], part: &[u8]| {
            text.windows(part.len()).filter(|window| window.eq_ignore_ascii_case(part)).count()
        };
        self.say([script, b"PING\r\n"].concat());
        // The answer to the last PING is the end, unless the connection ends before.
        let pings = count(script, b"PING\r\n") + 1;
        while count(&self.1, b"PONG\r\n") < pings && self.more() {}
        let text = String::from_utf8_lossy(&self.1).into_owned();
        // INFO differs in its contents, and comes once more from servers with accounts.
        text.split_inclusive("\r\n").filter(|line| !line.starts_with("INFO ")).collect()
    }
}

/// The independent server.
struct Reference(Child, SocketAddr, #[allow(dead_code)] tempfile::TempDir);

impl Reference {
    fn start(config: &str) -> Reference {
        let dir = tempfile::tempdir().expect("a directory");
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        drop(listener);
        let file = dir.path().join("conf");
        std::fs::write(&file, format!("listen: \"{address}\"\n{config}")).expect("written");
        let program = std::env::var_os("NATS_SERVER").unwrap_or_else(|| "nats-server".into());
        let child = Command::new(&program).arg("-c").arg(file).stderr(Stdio::null()).spawn();
        let child = child.unwrap_or_else(|error| panic!("{error}; name a nats-server in NATS_SERVER"));
        let start = Instant::now();
        while TcpStream::connect(address).is_err() {
            assert!(start.elapsed() < PATIENCE, "nats-server does not listen");
            thread::sleep(Duration::from_millis(5));
        }
        Reference(child, address, dir)
    }
}

impl Drop for Reference {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn compare(address: SocketAddr, reference: SocketAddr, scripts: &[&[u8]]) {
    for script in scripts {
        let [ours, theirs] = [address, reference].map(|address| Raw::connect(address).answers(script));
        let shown = String::from_utf8_lossy(&script[..script.len().min(300)]).into_owned();
        assert_eq!(ours, theirs, "{shown:?}");
        assert!(!ours.is_empty(), "{shown:?}");
    }
}

#[test]
fn answers_as_nats_server_does() {
    let reference = Reference::start("max_payload: 1000");
    let broker = broker(BrokerOptions { max_payload: 1000, ..BrokerOptions::default() });
    let quiet = |text: &str| [b"CONNECT {\"verbose\":false,\"pedantic\":false}\r\n", text.as_bytes()].concat();
    let pedantic = |text: &str| [b"CONNECT {\"verbose\":false}\r\n", text.as_bytes()].concat();
    let full = |text: &str| {
        let connect = b"CONNECT {\"verbose\":false,\"headers\":true,\"no_responders\":true}\r\n";
        [&connect[..], text.as_bytes()].concat()
    };
    let plain = |text: &str| text.as_bytes().to_vec();
    let long = "x".repeat(5000);
    let scripts = [
        // Without CONNECT, and with its defaults: verbose and pedantic.
        plain("PING\r\n"),
        plain("SUB a 1\r\nPUB a 2\r\nhi\r\nUNSUB 1\r\nPONG\r\n"),
        plain("CONNECT {}\r\nCONNECT {\"verbose\":false}\r\nPING\r\n"),
        plain("CONNECT {\"verbose\":true,\"pedantic\":true}\r\nSUB a..b 1\r\nPUB a.* 1\r\nx\r\nPUB a 1\r\nx\r\n"),
        plain("CONNECT {\"verbose\":true}\r\nSUB a 1\r\nSUB a 1\r\nUNSUB 1 1\r\nUNSUB 1\r\nUNSUB 1\r\nPUB a 0\r\n\r\n"),
        plain("connect {\"verbose\":false}\r\nsub a 1\r\npub a 1\r\nx\r\nping\r\n"),
        plain("CONNECT {\"protocol\":3}\r\n"),
        plain("CONNECT {\"no_responders\":true}\r\n"),
        plain("CONNECT {\"verbose\":false} \r\nPING\r\n"),
        // Subjects.
        quiet("SUB a..b 1\r\nSUB a. 2\r\nSUB .a 3\r\nSUB a.>.b 4\r\nSUB * 5\r\nPUB a 0\r\n\r\n"),
        quiet("SUB a* 1\r\nPUB a* 1\r\nx\r\nPUB ab 1\r\ny\r\n"),
        quiet("SUB a.* 1\r\nSUB a.b 2\r\nPUB a.* 1\r\nx\r\nPUB a.> 1\r\nx\r\n"),
        quiet("SUB > 1\r\nPUB a.* 1\r\nx\r\nPUB a..b 1\r\ny\r\nPUB .a 1\r\nz\r\n"),
        pedantic("SUB > 1\r\nPUB a.* 1\r\nx\r\nPUB a..b 1\r\ny\r\nPUB .a 1\r\nz\r\n"),
        quiet("SUB a.> 3\r\nPUB a 0\r\n\r\nPUB a.b.c 0\r\n\r\nPUB b 0\r\n\r\n"),
        quiet("SUB *.b 1\r\nPUB a.b 0\r\n\r\nPUB a.b.c 0\r\n\r\n"),
        quiet("SUB a 1\r\nPUB a r* 1\r\nx\r\nPUB a b.> 1\r\nx\r\nPUB a b 0\r\n\r\n"),
        quiet("PUB  a\t 0 \r\n\r\nSUB\ta\t 999999999999999999999999\r\nPUB a 0\r\n\r\n"),
        // Ending subscriptions.
        quiet("SUB a 1\r\nSUB a 1\r\nPUB a 1\r\nx\r\n"),
        quiet("SUB a 1\r\nUNSUB 1 2\r\nPUB a 1\r\n1\r\nPUB a 1\r\n2\r\nPUB a 1\r\n3\r\nUNSUB 9\r\n"),
        quiet("SUB a 1\r\nPUB a 1\r\n1\r\nPUB a 1\r\n2\r\nPUB a 1\r\n3\r\nUNSUB 1 2\r\nPUB a 1\r\n4\r\n"),
        quiet("SUB a 1\r\nUNSUB 1 0\r\nPUB a 1\r\nx\r\n"),
        quiet("SUB a 1\r\nUNSUB 1 1\r\nPUB a 0\r\n\r\nSUB a 1\r\nPUB a 0\r\n\r\n"),
        // Headers and no responders.
        full("SUB a 1\r\nHPUB a 12 14\r\nNATS/1.0\r\n\r\nhi\r\n"),
        full("SUB a 1\r\nHPUB a r 5 7\r\nabcdehi\r\nHPUB a 0 2\r\nhi\r\n"),
        full("SUB r.* 7\r\nPUB nobody r.1 2\r\nhi\r\nPUB nobody 0\r\n\r\nPUB nobody other 0\r\n\r\n"),
        full("SUB r 7\r\nHPUB nobody r 12 14\r\nNATS/1.0\r\n\r\nhi\r\n"),
        quiet("SUB r 7\r\nPUB nobody r 2\r\nhi\r\n"),
        plain(
            "CONNECT {\"verbose\":true,\"headers\":true,\"no_responders\":true}\r\nSUB r 7\r\nPUB nobody r 0\r\n\r\n",
        ),
        plain(
            "CONNECT {\"verbose\":false,\"echo\":false,\"headers\":true,\"no_responders\":true}\r\n\
             SUB a 1\r\nSUB r 2\r\nPUB a r 1\r\nx\r\n",
        ),
        plain("CONNECT {\"verbose\":false,\"echo\":false}\r\nSUB a 1\r\nPUB a 1\r\nx\r\n"),
        // What ends the connection.
        quiet("FOO\r\n"),
        plain("FOO\r\n"),
        plain(" PING\r\n"),
        quiet("\r\n"),
        quiet("PUB a 2\r\nxyz\r\n"),
        quiet("SUB a 1\r\nPUB a 1\r\nx\nPING\r\n"),
        quiet("PUB a 1001\r\n"),
        quiet("MSG a 1 1\r\nx\r\n"),
        quiet(&format!("SUB {long} 1\r\n")),
        quiet(&format!("PUB {long} 0\r\n\r\n")),
    ];
    let scripts: Vec<&[u8]> = scripts.iter().map(Vec::as_slice).collect();
    compare(broker.address(), reference.1, &scripts);
}

#[test]
fn asks_for_credentials_as_nats_server_does() {
    let connect = |text: &str| format!("CONNECT {{\"verbose\":false{text}}}\r\nSUB a 1\r\nPUB a 1\r\nx\r\n");
    let user = |user: &str, pass: &str| connect(&format!(",\"user\":\"{user}\",\"pass\":\"{pass}\""));
    let token = |token: &str| connect(&format!(",\"auth_token\":\"{token}\""));
    let scripts: Vec<String> = vec![
        user("u", "p"),
        user("u", "x"),
        user("x", "p"),
        user("u", ""),
        user("", ""),
        token("t"),
        token("tt"),
        token(""),
        connect(""),
        "PING\r\n".into(),
        "SUB a 1\r\n".into(),
        connect(",\"user\":\"u\""),
    ];
    let scripts: Vec<&[u8]> = scripts.iter().map(String::as_bytes).collect();
    let options = |auth| BrokerOptions { auth, auth_timeout: Duration::from_millis(500), ..BrokerOptions::default() };
    let password = BrokerAuth::UserPassword { user: "u".into(), password: "p".into() };
    for (auth, config) in [
        (password, "authorization { user: u, password: p, timeout: 1 }"),
        (BrokerAuth::Token("t".into()), "authorization { token: t, timeout: 1 }"),
    ] {
        let (broker, reference) = (broker(options(auth)), Reference::start(config));
        compare(broker.address(), reference.1, &scripts);
        for address in [broker.address(), reference.1] {
            let mut silent = Raw::connect(address);
            assert_eq!((silent.line().as_str(), silent.more()), ("-ERR 'Authentication Timeout'", false));
        }
    }
}

fn connect(address: SocketAddr) -> Connection {
    let (to, events) = bounded(100);
    let servers = ServerAddress::parse_list(&address.to_string()).expect("an address");
    let connection = Connection::start(Options::new(servers), to).expect("started");
    events.recv_timeout(PATIENCE).expect("connected");
    assert!(connection.is_connected());
    connection
}

#[test]
fn serves_our_client_and_another_library() {
    let broker = broker(BrokerOptions::default());
    let ours = connect(broker.address());
    let theirs = nats::connect(broker.address().to_string()).expect("connected");
    let service = theirs.queue_subscribe("double", "q").expect("subscribed");
    theirs.flush().expect("flushed");
    let answering = thread::spawn(move || {
        for _ in 0..200 {
            let request = service.next_timeout(PATIENCE).expect("a request");
            request.respond([&request.data[..], &request.data[..]].concat()).expect("answered");
        }
    });
    let asking: Vec<_> = (0..4)
        .map(|_| {
            let connection = ours.clone();
            thread::spawn(move || {
                for count in 0..50 {
                    let question = vec![b'x'; count * 97];
                    let answer = connection.request("double", &question, PATIENCE).expect("an answer");
                    assert_eq!(answer.payload.len(), question.len() * 2);
                }
            })
        })
        .collect();
    asking.into_iter().chain([answering]).for_each(|thread| thread.join().expect("no panic"));
    assert_eq!(ours.request("nobody", b"", PATIENCE), Err(RequestError::NoResponders));

    let (to, from) = bounded(10);
    let _subscription = ours.subscribe("to.*", None, to).expect("subscribed");
    assert!(ours.round_trip(PATIENCE));
    let headers = nats::HeaderMap::from_iter([("Key".to_owned(), "value".to_owned())]);
    theirs.publish_with_reply_or_headers("to.us", Some("r"), Some(&headers), "hi").expect("published");
    let message = from.recv_timeout(PATIENCE).expect("a message");
    assert_eq!((message.header("Key"), message.reply.as_deref()), (Some("value"), Some("r")));
}

#[test]
fn many_publishers_and_subscribers_get_everything_in_order() {
    const PUBLISHERS: usize = 8;
    const MESSAGES: usize = 2000;
    let broker = broker(BrokerOptions::default());
    let receivers: Vec<_> = (0..4)
        .map(|_| {
            let connection = connect(broker.address());
            let (to, from) = bounded(PUBLISHERS * MESSAGES);
            let subscription = connection.subscribe("n.*", None, to).expect("subscribed");
            assert!(connection.round_trip(PATIENCE));
            (connection, subscription, from)
        })
        .collect();
    let address = broker.address();
    let publishers: Vec<_> = (0..PUBLISHERS)
        .map(|publisher| {
            thread::spawn(move || {
                let connection = connect(address);
                let subject = format!("n.{publisher}");
                for count in 0..MESSAGES {
                    connection.publish_held(&subject, &[], count.to_string().as_bytes()).expect("published");
                }
                assert!(connection.round_trip(PATIENCE));
                connection.close(PATIENCE);
            })
        })
        .collect();
    for (_, _, from) in &receivers {
        let mut next = [0; PUBLISHERS];
        for _ in 0..PUBLISHERS * MESSAGES {
            let message = from.recv_timeout(PATIENCE).expect("a message");
            let publisher: usize = message.subject[2..].parse().expect("a number");
            assert_eq!(message.payload, next[publisher].to_string().as_bytes());
            next[publisher] += 1;
        }
    }
    publishers.into_iter().for_each(|thread| thread.join().expect("no panic"));
}

#[test]
fn queue_groups_share_the_work() {
    let broker = broker(BrokerOptions::default());
    let workers: Vec<_> = (0..3)
        .map(|_| {
            let connection = connect(broker.address());
            let (to, from) = bounded(1000);
            let subscription = connection.subscribe("work", Some("q"), to).expect("subscribed");
            assert!(connection.round_trip(PATIENCE));
            (connection, subscription, from)
        })
        .collect();
    let publisher = connect(broker.address());
    for _ in 0..600 {
        publisher.publish("work", None, &[], b"").expect("published");
    }
    assert!(publisher.round_trip(PATIENCE));
    let counts: Vec<usize> = workers
        .iter()
        .map(|(connection, _, from)| {
            assert!(connection.round_trip(PATIENCE));
            from.len()
        })
        .collect();
    assert_eq!(counts.iter().sum::<usize>(), 600);
    assert!(counts.iter().all(|count| *count > 100), "{counts:?}");
}

/// While `harm` happens to other connections, two good clients talk on.
fn unharmed(options: BrokerOptions, harm: impl FnOnce(SocketAddr)) {
    let broker = broker(options);
    let (one, two) = (connect(broker.address()), connect(broker.address()));
    let (to, from) = bounded(10);
    let _subscription = two.subscribe("good", None, to).expect("subscribed");
    assert!(two.round_trip(PATIENCE));
    harm(broker.address());
    one.publish("good", None, &[], b"x").expect("published");
    assert_eq!(from.recv_timeout(PATIENCE).expect("a message").payload, b"x");
    assert_eq!((one.generation(), two.generation()), (1, 1));
}

#[test]
fn garbage_costs_the_one_who_sends_it() {
    unharmed(BrokerOptions::default(), |address| {
        let mut random = fastrand::Rng::with_seed(3);
        for _ in 0..50 {
            let mut raw = Raw::connect(address);
            let noise: Vec<u8> = (0..random.usize(1..5000)).map(|_| random.u8(..)).collect();
            raw.say(noise);
            raw.say("\r\n");
            while raw.more() {}
        }
        for (text, reason) in [
            ("PUB a 2147483648\r\n", "-ERR 'Maximum Payload Violation'"),
            ("PUB a 99999999999999999999\r\n", "-ERR 'Parser Error'"),
            ("HPUB a 5 2\r\n", "-ERR 'Parser Error'"),
            ("CONNECT {\"verbose\":1}\r\n", "-ERR 'Parser Error'"),
            ("CONNECT {\"headers\":false}\r\nHPUB a 12 12\r\nNATS/1.0\r\n\r\n\r\n", "+OK"),
        ] {
            let mut raw = Raw::connect(address);
            raw.say(text);
            assert_eq!(raw.line(), reason, "{text:?}");
            while raw.more() {}
        }
        let mut half = Raw::connect(address);
        half.say("PUB good 100\r\nonly ha");
        drop(half);
    });
}

#[test]
fn a_client_that_does_not_read_is_cut_off() {
    let options = BrokerOptions { max_pending: 1 << 20, ..BrokerOptions::default() };
    unharmed(options.clone(), |address| {
        let mut slow = Raw::connect(address);
        slow.say("CONNECT {\"verbose\":false}\r\nSUB flood 1\r\nPING\r\n");
        assert_eq!(slow.line(), "PONG");
        let flooding = connect(address);
        let mut received = 0;
        for _ in 0..300 {
            // More than one buffer and the kernel's together, in bits that the flooding connection itself survives.
            flooding.publish("flood", None, &[], &[0; 100_000]).expect("published");
            assert!(flooding.round_trip(PATIENCE), "nobody waits for the slow one");
        }
        while slow.more() {
            received += slow.1.len();
            slow.1.clear();
        }
        assert!(received < 300 * 100_000, "it was cut off before it had everything");
    });
    // One that takes nothing at all is cut off by the clock.
    unharmed(BrokerOptions { write_timeout: Duration::from_millis(200), ..BrokerOptions::default() }, |address| {
        let mut slow = Raw::connect(address);
        slow.say("CONNECT {\"verbose\":false}\r\nSUB flood 1\r\nPING\r\n");
        assert_eq!(slow.line(), "PONG");
        let flooding = connect(address);
        let start = Instant::now();
        // As soon as it is gone nobody is left to answer.
        while flooding.request("flood", &[0; 100_000], Duration::from_millis(20)) != Err(RequestError::NoResponders) {
            assert!(start.elapsed() < PATIENCE);
        }
    });
}

#[test]
fn a_client_that_does_not_answer_is_cut_off() {
    let options = BrokerOptions { ping_interval: Duration::from_millis(100), ..BrokerOptions::default() };
    unharmed(options, |address| {
        let mut silent = Raw::connect(address);
        for _ in 0..3 {
            assert_eq!(silent.line(), "PING");
        }
        assert_eq!((silent.line().as_str(), silent.more()), ("-ERR 'Stale Connection'", false));
    });
}

#[test]
fn limits_hold() {
    let options = BrokerOptions { max_connections: 3, max_subscriptions: 2, ..BrokerOptions::default() };
    unharmed(options, |address| {
        let mut third = Raw::connect(address);
        let mut fourth = Raw(TcpStream::connect(address).expect("connected"), Vec::new());
        assert_eq!(fourth.line(), "-ERR 'maximum connections exceeded'");
        third.say("CONNECT {\"verbose\":false}\r\nSUB a 1\r\nSUB b 2\r\nUNSUB 1\r\nSUB c 3\r\nPING\r\n");
        assert_eq!(third.line(), "PONG");
        third.say("SUB d 4\r\n");
        assert_eq!((third.line().as_str(), third.more()), ("-ERR 'maximum subscriptions exceeded'", false));
        drop(third);
        let start = Instant::now();
        loop {
            let mut next = Raw(TcpStream::connect(address).expect("connected"), Vec::new());
            if next.line().starts_with("INFO") {
                break;
            }
            assert!(start.elapsed() < PATIENCE, "places become free again");
        }
    });
}

#[test]
fn stopping_ends_everything() {
    let broker = broker(BrokerOptions::default());
    let address = broker.address();
    let mut raw = Raw::connect(address);
    let start = Instant::now();
    drop(broker);
    assert!(start.elapsed() < PATIENCE / 4);
    assert!(!raw.more());
    assert!(TcpStream::connect(address).is_err());
    Broker::start(address, BrokerOptions::default()).expect("the port is free again");
}
