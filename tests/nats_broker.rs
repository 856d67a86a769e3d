//! The embedded broker: the same bytes as from nats-server (found in `NATS_SERVER` or the PATH), other clients' libraries,
//! and clients that misbehave.
#![allow(deprecated)] // The peer library is kept for being independent of our code, not for new projects.

use crossbeam_channel::bounded;
use nats_pi_bridge::broker::sockets::Owner;
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
        // The subscriptions end before the last PING is answered: those of a connection that is only closed may still be
        // there when the next script is played, and would get its messages.
        let is_sub = |line: &&str| line.get(..4).is_some_and(|verb| verb.eq_ignore_ascii_case("SUB "));
        let text = String::from_utf8_lossy(script);
        let sids = text.lines().filter(is_sub).filter_map(|line| line.split_whitespace().next_back());
        let ends: String = sids.map(|sid| format!("UNSUB {sid}\r\n")).collect();
        let count = |text: &[u8], part: &[u8]| {
            text.windows(part.len()).filter(|window| window.eq_ignore_ascii_case(part)).count()
        };
        self.say([script, ends.as_bytes(), b"PING\r\n"].concat());
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

/// At the end of a connection nats-server often says nothing, where the broker says why.
fn is_same(ours: &str, theirs: &str) -> bool {
    let closed =
        ours.strip_suffix("-ERR 'Parser Error'\r\n").or(ours.strip_suffix("-ERR 'message headers not supported'\r\n"));
    let unknown = "-ERR 'Unknown Protocol Operation'\r\n";
    ours == theirs || closed.is_some_and(|before| before == theirs || Some(before) == theirs.strip_suffix(unknown))
}

fn compare(address: SocketAddr, reference: SocketAddr, scripts: &[&[u8]]) {
    let different: Vec<String> = scripts
        .iter()
        .filter_map(|script| {
            let [ours, theirs] = [address, reference].map(|address| Raw::connect(address).answers(script));
            let shown = String::from_utf8_lossy(&script[..script.len().min(300)]).into_owned();
            assert!(!ours.is_empty(), "{shown:?}");
            (!is_same(&ours, &theirs)).then(|| format!("{shown:?}\n  ours   {ours:?}\n  theirs {theirs:?}"))
        })
        .collect();
    assert!(different.is_empty(), "{}", different.join("\n"));
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
fn takes_odd_lines_as_nats_server_does() {
    let reference = Reference::start("");
    let broker = broker(BrokerOptions::default());
    let connected = |options: &str, text: &str| format!("CONNECT {{\"verbose\":false{options}}}\r\n{text}");
    let quiet = |text: &str| connected(",\"pedantic\":false", text);
    let full = |text: &str| connected(",\"headers\":true,\"no_responders\":true", text);
    let words = |count: usize| vec!["a"; count].join(".");
    let headers = |lines: &str, payload: &str| {
        let block = format!("NATS/1.0\r\n{lines}\r\n");
        format!("{} {}\r\n{block}{payload}\r\n", block.len(), block.len() + payload.len())
    };
    let mut scripts = vec![
        // What clients write into CONNECT.
        connected(",\"name\":null,\"user\":null,\"jwt\":null,\"headers\":null", "PING\r\n"),
        connected(",\"verbose\":true,\"verbose\":false,\"lang\":\"a\",\"lang\":\"b\"", "SUB a 1\r\n"),
        connected(",\"verbose\":false,\"verbose\":true", "SUB a 1\r\n"),
        connected(",\"Pedantic\":true,\"ECHO\":false", "SUB a 1\r\nPUB a 0\r\n\r\nPUB b..c 0\r\n\r\n"),
        connected(",\"unknown\":[{\"x\":null}],\"protocol\":1", "PING\r\n"),
        connected(",\"user\":\"nobody\",\"pass\":\"asked\"", "PING\r\n"),
        connected(",\"auth_token\":\"x\",\"nkey\":\"y\",\"sig\":\"z\"", "PING\r\n"),
        "CONNECT\r\n".into(),
        "CONNECT {\r\n".into(),
        "CONNECT []\r\n".into(),
        "CONNECT {\"verbose\":\"no\"}\r\n".into(),
        quiet("CONNECT {\"verbose\":true}\r\nSUB a 1\r\nCONNECT {\"verbose\":false}\r\nSUB a 2\r\n"),
        // Too few words, too many, wrong ones.
        quiet("SUB\r\n"),
        quiet("SUB a\r\n"),
        quiet("SUB a q 1 2\r\n"),
        quiet("UNSUB\r\n"),
        quiet("UNSUB 1 x\r\n"),
        quiet("UNSUB 1 -1\r\n"),
        quiet("UNSUB 1 2 3\r\n"),
        quiet("PUB\r\n"),
        quiet("PUB a\r\n"),
        quiet("PUB a -1\r\n"),
        quiet("PUB a +1\r\nx\r\n"),
        quiet("PUB a r x 1\r\n"),
        quiet("PUB a 0x1\r\n"),
        full("HPUB a 5\r\n"),
        full("HPUB a 13 12\r\n"),
        full("HPUB a x 12\r\n"),
        full("HPUB a r s 12 12\r\n"),
        quiet("HPUB a 12 12\r\nNATS/1.0\r\n\r\n\r\n"),
        quiet("PONG\r\nPONG\r\nPING\r\n"),
        quiet("PING x\r\n"),
        quiet("PUBLISH a 0\r\n\r\n"),
        quiet("PING\nPING\n"),
        quiet("SUB a 1\nPUB a 1\nx\r\n"),
        quiet("sUb a 1\r\npUb a 1\r\nx\r\nuNsUb 1\r\nPuB a 1\r\ny\r\n"),
        full("SUB a 1\r\nhpub a 12 13\r\nNATS/1.0\r\n\r\nx\r\n"),
        // Subscriptions that end, queue groups, no echo.
        quiet("SUB a q 1\r\nSUB a q 1\r\nPUB a 1\r\nx\r\nUNSUB 1\r\nPUB a 1\r\ny\r\n"),
        quiet("SUB a q 1\r\nUNSUB 1 2\r\nPUB a 1\r\n1\r\nPUB a 1\r\n2\r\nPUB a 1\r\n3\r\n"),
        quiet("SUB a 1\r\nUNSUB 1 5\r\nUNSUB 1 1\r\nPUB a 1\r\n1\r\nPUB a 1\r\n2\r\n"),
        quiet("SUB a q*.x 1\r\nPUB a 1\r\nx\r\n"),
        connected(",\"echo\":false", "SUB a q 1\r\nSUB > 2\r\nPUB a r 1\r\nx\r\n"),
        connected(
            ",\"echo\":false,\"headers\":true,\"no_responders\":true",
            "SUB r 1\r\nSUB a q 2\r\nPUB a r 1\r\nx\r\n",
        ),
        // Nobody answers.
        full("SUB r.> q 7\r\nPUB nobody r.1 0\r\n\r\n"),
        full("SUB r 7\r\nUNSUB 7 1\r\nPUB nobody r 0\r\n\r\nPUB nobody r 0\r\n\r\nPUB r 1\r\nx\r\n"),
        full("SUB r 7\r\nSUB > 8\r\nPUB nobody r 0\r\n\r\n"),
        full("SUB r 7\r\nPUB no..body r 0\r\n\r\n"),
        full("SUB r 7\r\nPUB nobody r* 0\r\n\r\nPUB nobody > 0\r\n\r\n"),
        // Long lines and many words.
        quiet(&format!("SUB {} 1\r\nPUB {0} 1\r\nx\r\nUNSUB 1\r\n", words(2000))),
        quiet(&format!("SUB a.> 1\r\nPUB {} 0\r\n\r\n", words(2000))),
        quiet(&format!("SUB {}.* 1\r\nPUB {0}.a 0\r\n\r\n", words(63))),
        // Messages of which only the trace is wanted.
        full(&format!("SUB a 1\r\nHPUB a {}", headers("Nats-Trace-Dest: t\r\nNats-Trace-Only: true\r\n", "x"))),
        full(&format!("SUB a 1\r\nHPUB a {}", headers("nats-trace-dest: t\r\nnats-trace-only: 1\r\n", "x"))),
        full(&format!("SUB a 1\r\nHPUB a {}", headers("Nats-Trace-Dest: t\r\nNats-Trace-Only: false\r\n", "x"))),
        full(&format!("SUB a 1\r\nHPUB a {}", headers("Nats-Trace-Only: true\r\n", "x"))),
        full(&format!("SUB a 1\r\nHPUB a {}", headers("Nats-Trace-Dest: t\r\n", "x"))),
        full(&format!("SUB *  1\r\nHPUB n r {}", headers("Nats-Trace-Dest: t.u\r\nNats-Trace-Only: true\r\n", "x"))),
        full(&format!("SUB r 1\r\nHPUB n r {}", headers("Nats-Trace-Dest: t\r\nNats-Trace-Only: on\r\n", "x"))),
    ];
    for length in [4096, 4097, 4099, 4100, 4101, 4102] {
        scripts.push(quiet(&format!("SUB {} 1\r\n", "x".repeat(length - "SUB  1".len()))));
    }
    let scripts: Vec<&[u8]> = scripts.iter().map(String::as_bytes).collect();
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
    // Whoever has subscribed to something is not sent away for others.
    let _stays = one.subscribe("stays", None, to.clone()).expect("subscribed");
    assert!(one.round_trip(PATIENCE));
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
    let options =
        BrokerOptions { max_connections: 3, reserved_connections: 0, max_subscriptions: 2, ..BrokerOptions::default() };
    unharmed(options, |address| {
        let mut third = Raw::connect(address);
        third.say("CONNECT {\"verbose\":false}\r\nSUB a 1\r\nPING\r\n");
        assert_eq!(third.line(), "PONG");
        let mut fourth = Raw(TcpStream::connect(address).expect("connected"), Vec::new());
        assert_eq!(fourth.line(), "-ERR 'maximum connections exceeded'");
        third.say("SUB b 2\r\nUNSUB 1\r\nSUB c 3\r\nPING\r\n");
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

/// How long a request and its answer take between two clients that are there already, at worst of many.
fn worst_answer(asking: &Connection, rounds: usize) -> Duration {
    let times = (0..rounds).map(|_| {
        let start = Instant::now();
        asking.request("list", b"", PATIENCE).expect("an answer");
        start.elapsed()
    });
    times.max().unwrap_or_default()
}

/// Serves requests to `list` while `harm` happens, and says how long the worst answer took from then on until it ended.
fn answers_during(options: BrokerOptions, harm: impl FnOnce(SocketAddr) + Send) -> Duration {
    let token = match &options.auth {
        BrokerAuth::Token(token) => format!("{token}@"),
        BrokerAuth::None | BrokerAuth::UserPassword { .. } => String::new(),
    };
    let broker = broker(options);
    let address = broker.address();
    let connect = || {
        let (to, events) = bounded(100);
        let servers = ServerAddress::parse_list(&format!("nats://{token}{address}")).expect("an address");
        let connection = Connection::start(Options::new(servers), to).expect("started");
        events.recv_timeout(PATIENCE).expect("connected");
        connection
    };
    let (serving, asking) = (connect(), connect());
    let (to, requests) = bounded(10);
    let _subscription = serving.subscribe("list", None, to).expect("subscribed");
    assert!(serving.round_trip(PATIENCE));
    thread::scope(|scope| {
        let answering = serving.clone();
        scope.spawn(move || {
            while let Ok(request) = requests.recv_timeout(PATIENCE) {
                if request.payload == b"end" {
                    return;
                }
                let reply = request.reply.as_deref().expect("a reply subject");
                answering.publish(reply, None, &[], b"").expect("answered");
            }
        });
        let harming = scope.spawn(move || harm(address));
        let mut worst = Duration::ZERO;
        while !harming.is_finished() {
            worst = worst.max(worst_answer(&asking, 5));
            thread::sleep(Duration::from_millis(1));
        }
        harming.join().expect("no panic");
        // A newcomer of this user is let in at once, whatever there is.
        let start = Instant::now();
        let newcomer = connect();
        assert!(newcomer.is_connected());
        assert!(start.elapsed() < QUICK, "{:?}", start.elapsed());
        worst = worst.max(worst_answer(&newcomer, 5));
        assert_eq!((serving.generation(), newcomer.generation()), (1, 1));
        asking.publish("list", None, &[], b"end").expect("published");
        worst
    })
}

/// What is asked of a daemon's `list` with whatever neighbours, with room for this machine's other work in a debug build.
const QUICK: Duration = Duration::from_secs(5);

#[test]
fn queue_groups_without_number_disturb_nobody() {
    let worst = answers_during(BrokerOptions::default(), |address| {
        let mut raw = Raw::connect(address);
        raw.say("CONNECT {\"verbose\":false}\r\n");
        let subscribe: String = (0..65_000).map(|number| format!("SUB a q{number} {number}\r\n")).collect();
        raw.say(subscribe + "PING\r\n");
        assert_eq!(raw.line(), "PONG");
        raw.say("PUB a 0\r\n\r\nPING\r\n");
        for _ in 0..65_000 {
            assert!(raw.line().starts_with("MSG a "));
            assert_eq!(raw.line(), "");
        }
        assert_eq!(raw.line(), "PONG");
    });
    assert!(worst < QUICK, "{worst:?}");
}

#[test]
fn subscriptions_are_bounded_by_their_bytes_and_words() {
    let worst = answers_during(BrokerOptions::default(), |address| {
        let mut raw = Raw::connect(address);
        raw.say("CONNECT {\"verbose\":false}\r\n");
        let many = |count: usize| vec!["a"; count].join(".");
        raw.say(format!("SUB {}.> 1\r\nSUB {} 2\r\nPUB {1} 0\r\n\r\n", many(1900), many(2000)));
        assert!(raw.line().starts_with("-ERR 'Permissions Violation for Subscription to \"a.a."), "too many words");
        assert!(raw.line().starts_with("MSG a.a."), "a literal one may be as long as a line");
        assert_eq!(raw.line(), "");
        for number in 0..20_000 {
            raw.say(format!("SUB {number}.{}.* {number}\r\n", many(60)));
        }
        while raw.line() != "-ERR 'maximum subscriptions exceeded'" {}
        assert!(!raw.more());
    });
    assert!(worst < QUICK, "{worst:?}");
}

#[test]
fn the_subscriptions_of_all_are_bounded_too() {
    let options = BrokerOptions {
        max_subscription_bytes: 200_000,
        max_all_subscription_bytes: 200_000,
        ..BrokerOptions::default()
    };
    let broker = broker(BrokerOptions { is_unlimited: Owner::is_this_process, ..options.clone() });
    let own = connect(broker.address());
    let (to, _from) = bounded(1);
    let subscriptions: Vec<_> =
        (0..1000).map(|number| own.subscribe(&format!("own{number}"), None, to.clone()).expect("subscribed")).collect();
    assert!(own.round_trip(PATIENCE), "the daemon's own connection is not bounded");
    drop(subscriptions);
    let broker = self::broker(options);
    let subscribe: String = (0..300).map(|number| format!("SUB a{number} {number}\r\n")).collect();
    let subscribe = format!("CONNECT {{\"verbose\":false}}\r\n{subscribe}PING\r\n");
    let client = || {
        let mut raw = Raw::connect(broker.address());
        raw.say(&subscribe);
        let answer = raw.line();
        (raw, answer)
    };
    let (one, two) = (client(), client());
    assert_eq!((one.1.as_str(), two.1.as_str()), ("PONG", "-ERR 'maximum subscriptions exceeded'"));
    drop((one, two));
    // What they took is given back.
    let start = Instant::now();
    while client().1 != "PONG" {
        assert!(start.elapsed() < PATIENCE);
    }
}

#[test]
fn connections_that_do_nothing_make_room() {
    for says in ["", "CONNECT {\"verbose\":false}\r\n"] {
        let mut idle = Vec::new();
        let worst = answers_during(BrokerOptions::default(), |address| {
            for _ in 0..300 {
                let mut raw = Raw::connect(address);
                raw.say(says);
                idle.push(raw);
            }
        });
        assert!(worst < QUICK, "{worst:?}");
    }
}

#[test]
fn wrong_secrets_are_slowed_down_and_keep_nobody_out() {
    let token = BrokerAuth::Token("right".into());
    let mut guesses = 0;
    let worst = answers_during(BrokerOptions { auth: token.clone(), ..BrokerOptions::default() }, |address| {
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(2) {
            let Ok(mut stream) = TcpStream::connect(address) else { continue };
            let _ = stream.write_all(b"CONNECT {\"auth_token\":\"wrong\"}\r\n");
            guesses += 1;
        }
    });
    assert!(worst < QUICK, "{worst:?}");
    println!("{guesses} guesses");
    // Whoever waits for the answer waits for a while.
    let options = BrokerOptions { auth: token, login_delay: Duration::from_millis(300), ..BrokerOptions::default() };
    let broker = broker(options);
    let mut raw = Raw::connect(broker.address());
    let start = Instant::now();
    raw.say("CONNECT {\"auth_token\":\"wrong\"}\r\n");
    assert_eq!((raw.line().as_str(), raw.more()), ("-ERR 'Authorization Violation'", false));
    assert!(start.elapsed() >= Duration::from_millis(300));
}

#[test]
fn programs_that_an_agent_has_started_are_refused() {
    let broker = broker(BrokerOptions { is_held_by_tool: |_| true, ..BrokerOptions::default() });
    // This process's own sockets are its own, even while a program that it starts holds copies of them.
    assert!(connect(broker.address()).is_connected());
    let port = broker.address().port();
    let script = format!("exec 3<>/dev/tcp/127.0.0.1/{port}; head -n 2 <&3");
    let done = Command::new("bash").args(["-c", &script]).output().expect("bash runs");
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(
        text.contains("-ERR 'Authorization Violation: programs that an agent has started may not connect'"),
        "{text}"
    );
}

#[test]
fn other_users_of_the_host_are_refused() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can try it as another user");
        return;
    }
    let script = |port: u16| format!("exec 3<>/dev/tcp/127.0.0.1/{port}; head -n 2 <&3");
    let as_stranger = |port: u16| {
        let stranger = ["--reuid", "54321", "--regid", "54321", "--clear-groups", "timeout", "10", "bash", "-c"];
        let done = Command::new("setpriv").args(stranger).arg(script(port)).output().expect("setpriv runs");
        String::from_utf8_lossy(&done.stdout).into_owned()
    };
    let open = broker(BrokerOptions::default());
    let text = as_stranger(open.address().port());
    assert!(text.contains("-ERR 'Authorization Violation: only processes of the user"), "{text}");
    // Whoever has said it all and gone before it is looked at is nobody, although the kernel shows root for it.
    let (to, from) = bounded(10);
    let own = connect(open.address());
    let _subscription = own.subscribe("victim", None, to).expect("subscribed");
    assert!(own.round_trip(PATIENCE));
    let port = open.address().port();
    let quick = format!(
        "for i in $(seq 50); do exec 3<>/dev/tcp/127.0.0.1/{port}; \
         printf 'CONNECT {{}}\\r\\nPUB victim 1\\r\\nx\\r\\n' >&3; exec 3>&-; done"
    );
    let stranger = ["--reuid", "54321", "--regid", "54321", "--clear-groups", "bash", "-c"];
    let done = Command::new("setpriv").args(stranger).arg(quick).status().expect("setpriv runs");
    assert!(done.success() && own.round_trip(PATIENCE));
    assert!(from.recv_timeout(Duration::from_millis(300)).is_err(), "nothing of a stranger's arrives");
    // With a secret to say, who runs a program does not matter.
    let closed = broker(BrokerOptions { auth: BrokerAuth::Token("t".into()), ..BrokerOptions::default() });
    let script = format!(
        "exec 3<>/dev/tcp/127.0.0.1/{}; printf 'CONNECT {{\"auth_token\":\"t\"}}\\r\\nPING\\r\\n' >&3; head -n 3 <&3",
        closed.address().port()
    );
    let done = Command::new("setpriv").args(stranger).arg(script).output().expect("setpriv runs");
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(text.contains("PONG") && !text.contains("-ERR"), "{text}");
}
