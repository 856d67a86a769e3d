//! Servers that are slow, silent, broken or hostile, and networks that break at the wrong moment.

use crate::fake::{FakeServer, INFO};
use crate::server::{Client, PATIENCE, Server, eventually, options};
use crossbeam_channel::bounded;
use nats_pi_bridge::nats::{ConnectionEvent, Options, PublishError};
use std::time::{Duration, Instant};

/// So short that a test waits for it, so long that a busy machine does not run into it by accident where it must not.
const SHORT: Duration = Duration::from_millis(300);

#[test]
fn a_server_that_says_nothing_costs_one_timeout() {
    let server = FakeServer::new();
    let start = Instant::now();
    let ours = Client::start(Options { connect_timeout: SHORT, ..server.options() });
    let silent = server.accept();
    assert_eq!(ours.wait_failed(), "waiting for the server's INFO: timed out; is that a NATS server?");
    assert!(start.elapsed() >= SHORT && start.elapsed() < PATIENCE / 2);
    drop(silent);
    let mut half = server.accept();
    half.say("INFO {\"server");
    assert_eq!(ours.wait_failed(), "waiting for the server's INFO: timed out; is that a NATS server?");
    let mut no_pong = server.accept();
    no_pong.say(INFO);
    assert_eq!(ours.wait_failed(), "waiting for the server to accept us: timed out");
    server.greet();
    assert_eq!(ours.wait_connected(), 1);
}

#[test]
fn info_may_come_in_pieces_and_more_than_once() {
    let server = FakeServer::new();
    let ours = Client::start(server.options());
    let mut client = server.accept();
    let long = INFO.replace("\"fake\"", &format!("\"{}\"", "x".repeat(200_000)));
    let (first, second) = long.split_at(70_000);
    client.say(first);
    client.say(second);
    assert!(client.line().starts_with("CONNECT {"));
    assert_eq!(client.line(), "PING");
    client.say(INFO);
    client.say(INFO.replace("1048576", "77"));
    client.say("PING\r\nPONG\r\n");
    assert_eq!((client.line(), client.line()), ("PONG".into(), "PING".into()));
    ours.wait_connected();
    assert_eq!(ours.connection.max_payload(), 77);
    client.say(INFO.replace("1048576", "99"));
    client.say("PING\r\n");
    assert_eq!(client.line(), "PONG");
    assert_eq!(ours.connection.max_payload(), 99, "INFO may come at any time");
}

#[test]
fn what_is_no_nats_server_is_refused_with_a_reason() {
    let server = FakeServer::new();
    let ours = Client::start(server.options());
    let table: &[(&[u8], &str)] = &[
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "does not speak NATS"),
        (b"\x16\x03\x01\x02\n", "does not speak NATS"),
        (b"PING\r\n", "did not begin with INFO"),
        (b"INFO {\"max_payload\":-1}\r\n", "INFO is malformed"),
        (b"INFO \xff\r\n", "INFO is malformed"),
        (b"-ERR 'maximum connections exceeded'\r\n", "refused us: maximum connections exceeded"),
        (b"", "end of file"),
    ];
    for (text, expected) in table {
        server.accept().say(text);
        let error = ours.wait_failed();
        assert!(error.contains(expected), "{error}");
    }
    let mut endless = server.accept();
    endless.say(vec![b'x'; 40 << 10]);
    assert!(ours.wait_failed().contains("longer than"));
}

#[test]
fn malformed_operations_end_the_connection_and_nothing_else() {
    let server = FakeServer::new();
    let ours = Client::start(server.options());
    let (to, from) = bounded(10);
    let _subscription = ours.connection.subscribe("a", None, to).expect("subscribed");
    let table: &[(&[u8], &str)] = &[
        (b"MSG a 1 4294967295\r\n", "4294967295 bytes"),
        (b"MSG a 1 99999999999999999999999999\r\n", "malformed protocol line"),
        (b"MSG a 1 -5\r\n", "malformed protocol line"),
        (b"HMSG a 1 9 5\r\n", "malformed protocol line"),
        (b"MSG a 1 2\r\nxyz\r\n", "line end"),
        (b"garbage\r\n", "unknown protocol operation"),
        (b"INFO {\r\n", "malformed INFO"),
        (b"MSG a 1 100\r\nonly half", "closed the connection"),
    ];
    for (text, expected) in table {
        let mut client = server.greet();
        assert_eq!(client.line(), "SUB a 1", "the subscription comes first each time");
        client.say("MSG a 1 2\r\nok\r\n");
        assert_eq!(from.recv_timeout(PATIENCE).expect("a message").payload, b"ok");
        client.say(text);
        drop(client);
        let reason = ours.wait_disconnected();
        assert!(reason.contains(expected) || reason.contains("reset"), "{reason}");
        assert!(from.is_empty());
    }
    let mut client = server.greet();
    assert_eq!(client.line(), "SUB a 1");
    client.say(vec![b'x'; 40 << 10]);
    assert!(ours.wait_disconnected().contains("longer than"));
}

#[test]
fn subscribed_is_said_when_the_server_has_answered_behind_the_subscriptions() {
    let server = FakeServer::new();
    let ours = Client::start(server.options());
    let (to, _from) = bounded(1);
    let _subscription = ours.connection.subscribe("a", None, to).expect("subscribed");
    let mut client = server.greet();
    client.pings_to_skip = 0;
    assert_eq!((client.line(), client.line()), ("SUB a 1".into(), "PING".into()));
    ours.wait_connected();
    assert!(ours.events.is_empty());
    client.say("PONG\r\n");
    assert_eq!(ours.event(), ConnectionEvent::Subscribed);
}

#[test]
fn malformed_headers_cost_nothing() {
    let server = FakeServer::new();
    let ours = Client::start(server.options());
    let (to, from) = bounded(10);
    let _subscription = ours.connection.subscribe("a", None, to).expect("subscribed");
    let mut client = server.greet();
    let blocks: [&[u8]; 4] = [b"no version\r\n\r\n", b"NATS/1.0\r\nno colon\r\n\r\n", b"\xff\xfe", b""];
    for block in blocks {
        client.say(format!("HMSG a 1 {} {}\r\n", block.len(), block.len() + 2));
        client.say([block, b"ok\r\n"].concat());
        let message = from.recv_timeout(PATIENCE).expect("a message");
        assert_eq!((message.payload.as_slice(), message.header("K"), message.status()), (&b"ok"[..], None, None));
    }
    client.say("MSG unknown 77 0\r\n\r\nMSG unknown x 0\r\n\r\nPING\r\n");
    assert_eq!((client.line(), client.line()), ("SUB a 1".into(), "PONG".into()));
    assert_eq!(ours.connection.generation(), 1);
}

/// The server stops in the middle of an operation. What it got a part of is gone, all later messages arrive once, whole
/// and in order.
#[test]
fn a_break_in_the_middle_of_a_message_leaves_the_stream_in_step() {
    let server = FakeServer::new();
    let ours = Client::start(server.options());
    let mut first = server.greet();
    ours.wait_connected();
    // More than the kernel's buffers hold, so that something is left with us.
    let payload = |count: u32| [&count.to_be_bytes()[..], &[b'x'; 10_000]].concat();
    let mut published = 0;
    while ours.connection.publish("a", None, &[], &payload(published)).is_ok() {
        published += 1;
    }
    assert!(published > 800, "max_pending holds that many alone");
    first.skip(12_345);
    drop(first);
    ours.wait_disconnected();
    let mut second = server.greet();
    let (_, start) = second.message();
    let mut expected = u32::from_be_bytes([start[0], start[1], start[2], start[3]]);
    assert!(expected > 1);
    expected += 1;
    while expected < published {
        let (subject, message) = second.message();
        assert_eq!((subject.as_str(), &message[..4]), ("a", &expected.to_be_bytes()[..]));
        expected += 1;
    }
    ours.connection.publish("b", None, &[], b"").expect("there is room again");
    assert_eq!(second.message(), ("b".into(), Vec::new()));
}

#[test]
fn a_server_that_stops_reading_stalls_nobody() {
    let server = FakeServer::new();
    let ours = Client::start(Options { ping_interval: SHORT, max_pending: 1 << 20, ..server.options() });
    let stalled = server.greet();
    ours.wait_connected();
    let mut longest = Duration::ZERO;
    let result = loop {
        let start = Instant::now();
        let result = ours.connection.publish("a", None, &[], &[0; 5000]);
        longest = longest.max(start.elapsed());
        if result.is_err() {
            break result;
        }
    };
    assert_eq!(result, Err(PublishError::Full));
    assert!(longest < PATIENCE / 4, "publishing took {longest:?}");
    assert!(!ours.connection.wait_for_room(5000, Duration::from_millis(10)));
    let (to, _from) = bounded(1);
    drop(ours.connection.subscribe("b", None, to).expect("there is a reserve for this"));
    assert_eq!(ours.wait_disconnected(), "the server did not answer 2 PINGs");
    drop(stalled);
    let mut next = server.greet();
    assert_eq!(next.message().1, [0; 5000]);
    assert!(ours.connection.wait_for_room(5000, PATIENCE), "what was kept goes out");
}

#[test]
fn closing_is_bounded_when_the_server_stalls() {
    let server = FakeServer::new();
    let ours = Client::start(server.options());
    let _stalled = server.greet();
    ours.wait_connected();
    while ours.connection.publish("a", None, &[], &[0; 100_000]).is_ok() {}
    let start = Instant::now();
    ours.connection.close(SHORT);
    assert!(start.elapsed() < PATIENCE / 2, "{:?}", start.elapsed());
    ours.wait_for(|event| (*event == ConnectionEvent::Closed).then_some(()));
    // Also while it connects.
    let ours = Client::start(server.options());
    let _silent = server.accept();
    let start = Instant::now();
    ours.connection.close(PATIENCE);
    assert!(start.elapsed() < PATIENCE / 2, "{:?}", start.elapsed());
}

#[test]
fn a_server_that_never_reads_cannot_make_control_operations_pile_up() {
    let server = FakeServer::new();
    let ours = Client::start(Options { max_pending: 1 << 20, ..server.options() });
    let _stalled = server.greet();
    ours.wait_connected();
    while ours.connection.publish("a", None, &[], &[0; 100_000]).is_ok() {}
    let subject = "x".repeat(1000);
    let start = Instant::now();
    while ours.connection.is_connected() {
        let (to, _from) = bounded(1);
        drop(ours.connection.subscribe(&subject, None, to).expect("subscribed"));
        assert!(start.elapsed() < PATIENCE);
    }
    assert_eq!(ours.wait_disconnected(), "the server does not read what we send");
}

#[test]
fn a_frozen_server_is_noticed_although_we_publish() {
    let server = Server::plain();
    let ours = Client::connect(Options { ping_interval: SHORT, connect_timeout: SHORT, ..server.options() });
    server.signal("-STOP");
    let start = Instant::now();
    let mut reason = None;
    while reason.is_none() {
        ours.connection.publish("heartbeat", None, &[], b"x").expect("published");
        reason = ours.events.recv_timeout(Duration::from_millis(20)).ok();
        assert!(start.elapsed() < PATIENCE);
    }
    let expected = ConnectionEvent::Disconnected { reason: "the server did not answer 2 PINGs".into() };
    assert_eq!(reason, Some(expected));
    assert!(ours.wait_failed().contains("timed out"), "the frozen server's kernel still accepts");
    server.signal("-CONT");
    assert_eq!(ours.wait_connected(), 2);
    assert!(ours.connection.round_trip(PATIENCE));
}

#[test]
fn a_forbidden_subject_is_an_event_and_not_the_end() {
    let server = Server::start(
        "authorization { users: [ { user: u, password: p,
           permissions: { publish: { deny: [\"secret.>\"] }, subscribe: { deny: [\"secret.>\"] } } } ] }",
    );
    let ours = Client::connect(options(&format!("u:p@{}", server.address())));
    let error = || {
        ours.wait_for(|event| match event {
            ConnectionEvent::ServerError(text) => Some(text.clone()),
            _ => None,
        })
    };
    ours.connection.publish("secret.a", None, &[], b"x").expect("sent");
    assert_eq!(error(), "Permissions Violation for Publish to \"secret.a\"");
    let (to, _from) = bounded(1);
    let _subscription = ours.connection.subscribe("secret.b", None, to).expect("sent");
    assert_eq!(error(), "Permissions Violation for Subscription to \"secret.b\"");
    assert!(ours.connection.round_trip(PATIENCE));
    assert_eq!(ours.connection.generation(), 1);
}

#[test]
fn the_servers_last_words_are_the_reason() {
    let server = FakeServer::new();
    let ours = Client::start(server.options());
    for _ in 0..20 {
        let mut client = server.greet();
        ours.wait_connected();
        client.say("-ERR 'Enough of this'\r\n");
        drop(client);
        // Writing into the closed connection fails, perhaps before the words are read.
        while ours.connection.is_connected() {
            ours.connection.publish("a", None, &[], b"x").expect("published");
        }
        assert_eq!(ours.wait_disconnected(), "the server closed the connection: Enough of this");
    }
}

#[test]
fn goes_to_another_server_when_one_is_about_to_stop_and_loses_nothing() {
    let (leaving, staying) = (Server::plain(), Server::plain());
    let ours = Client::connect(options(&format!("{},{}", leaving.address(), staying.address())));
    let (to, from) = bounded(10);
    let _subscription = ours.connection.subscribe("a", None, to).expect("subscribed");
    let peers = [leaving.peer(), staying.peer()];
    let received = peers.each_ref().map(|peer| {
        let subscription = peer.subscribe("b").expect("subscribed");
        peer.flush().expect("flushed");
        subscription
    });
    let mut published = 0;
    let mut publish = |count: usize| {
        for _ in 0..count {
            ours.connection.publish("b", None, &[], published.to_string().as_bytes()).expect("published");
            published += 1;
        }
    };
    publish(500);
    leaving.signal("-USR2");
    let start = Instant::now();
    while ours.connection.generation() == 1 {
        publish(10);
        assert!(start.elapsed() < PATIENCE);
    }
    publish(500);
    ours.wait_for(|event| (*event == ConnectionEvent::LameDuck).then_some(()));
    ours.wait_connected();
    assert_eq!(ours.connection.server(), staying.address());
    let mut numbers: [Vec<usize>; 2] = Default::default();
    eventually("every message arrives", || {
        for (from, numbers) in received.iter().zip(&mut numbers) {
            let text = |message: nats::Message| String::from_utf8(message.data).expect("digits");
            numbers.extend(from.try_iter().map(|message| text(message).parse::<usize>().expect("a number")));
        }
        numbers.iter().map(Vec::len).sum::<usize>() >= published
    });
    assert!(numbers.concat().into_iter().eq(0..published), "in order, once, first here and then there");
    peers[1].publish("a", "x").expect("published");
    assert_eq!(from.recv_timeout(PATIENCE).expect("a message").payload, b"x");
}

#[test]
fn learns_of_other_servers_of_the_cluster() {
    let ports = [crate::server::free_port(), crate::server::free_port()];
    let cluster = |own: usize| {
        format!(
            "cluster {{ name: c, listen: \"127.0.0.1:{}\", routes: [\"nats://127.0.0.1:{}\"] }}",
            ports[own],
            ports[1 - own]
        )
    };
    let (mut first, second) = (Server::start(&cluster(0)), Server::start(&cluster(1)));
    let ours = Client::connect(first.options());
    // The routes are up when a message crosses them; the addresses were told before that.
    let (to, from) = bounded(1000);
    let _subscription = ours.connection.subscribe("a", None, to).expect("subscribed");
    let other = second.connect();
    let start = Instant::now();
    while from.is_empty() {
        other.connection.publish("a", None, &[], b"").expect("published");
        assert!(other.connection.round_trip(PATIENCE) && start.elapsed() < PATIENCE);
    }
    assert!(ours.connection.round_trip(PATIENCE));
    first.kill();
    ours.wait_connected();
    assert_eq!(ours.connection.server(), second.address());
}
