//! Publishing, subscribing, requests and reconnects, with the `nats` crate as the other side.

use crate::server::{Client, PATIENCE, Server, eventually};
use crossbeam_channel::bounded;
use nats_pi_bridge::nats::{ConnectionEvent, PublishError, RequestError};
use std::thread;
use std::time::{Duration, Instant};

#[test]
fn exchanges_messages_with_another_client() {
    let server = Server::plain();
    let ours = server.connect();
    let peer = server.peer();
    let theirs = peer.subscribe("to.them.>").expect("subscribed");
    peer.flush().expect("flushed");
    let (to, from) = bounded(10);
    let _subscription = ours.connection.subscribe("to.us.*", None, to).expect("subscribed");
    assert!(ours.connection.round_trip(PATIENCE));

    let headers = [("Name", "value: with colon"), ("Name", "again"), ("Empty", "")];
    ours.connection.publish("to.them.a", Some("back"), &headers, b"hi\r\n").expect("published");
    let message = theirs.next_timeout(PATIENCE).expect("a message");
    assert_eq!((message.subject.as_str(), message.reply.as_deref()), ("to.them.a", Some("back")));
    assert_eq!(message.data, b"hi\r\n");
    let received = message.headers.expect("headers");
    assert!(received.iter().any(|(name, values)| name == "Name" && values.contains("value: with colon")));

    let headers = nats::HeaderMap::from_iter([("Key".to_string(), "wert".to_string())]);
    peer.publish_with_reply_or_headers("to.us.b", Some("r.1"), Some(&headers), b"").expect("published");
    let message = from.recv_timeout(PATIENCE).expect("a message");
    assert_eq!((message.subject.as_str(), message.reply.as_deref()), ("to.us.b", Some("r.1")));
    assert_eq!((message.header("key"), message.payload.as_slice()), (Some("wert"), &b""[..]));
    ours.connection.close(PATIENCE);
}

#[test]
fn answers_and_asks_requests() {
    let server = Server::plain();
    let ours = server.connect();
    let peer = server.peer();
    let service = peer.subscribe("peer.double").expect("subscribed");
    peer.flush().expect("flushed");
    let answering = thread::spawn(move || {
        for _ in 0..100 {
            let message = service.next_timeout(PATIENCE).expect("a request");
            message.respond([&message.data[..], &message.data[..]].concat()).expect("answered");
        }
    });
    let asking: Vec<_> = (0..10)
        .map(|thread| {
            let connection = ours.connection.clone();
            thread::spawn(move || {
                for round in 0..10 {
                    let question = format!("{thread}-{round}.");
                    let answer = connection.request("peer.double", question.as_bytes(), PATIENCE).expect("an answer");
                    assert_eq!(answer.payload, question.repeat(2).as_bytes());
                }
            })
        })
        .collect();
    for thread in asking.into_iter().chain([answering]) {
        thread.join().expect("no panic");
    }

    let (to, from) = bounded(1);
    let _subscription = ours.connection.subscribe("ours", Some("q"), to).expect("subscribed");
    assert!(ours.connection.round_trip(PATIENCE));
    let connection = ours.connection.clone();
    let answering = thread::spawn(move || {
        let message = from.recv_timeout(PATIENCE).expect("a request");
        let reply = message.reply.expect("a reply subject");
        connection.publish(&reply, None, &[], b"pong").expect("published");
    });
    assert_eq!(peer.request_timeout("ours", "ping", PATIENCE).expect("an answer").data, b"pong");
    answering.join().expect("no panic");
}

#[test]
fn a_request_that_nobody_answers_fails_at_once_or_in_time() {
    let server = Server::plain();
    let ours = server.connect();
    let start = Instant::now();
    assert_eq!(ours.connection.request("nobody", b"", PATIENCE), Err(RequestError::NoResponders));
    assert!(start.elapsed() < PATIENCE / 2, "the server said so");
    let peer = server.peer();
    let _silent = peer.subscribe("silent").expect("subscribed");
    peer.flush().expect("flushed");
    let timeout = Duration::from_millis(50);
    assert_eq!(ours.connection.request("silent", b"", timeout), Err(RequestError::TimedOut));
    let refused = ours.connection.request("a b", b"", timeout);
    assert_eq!(refused, Err(RequestError::Publish(PublishError::BadSubject("a b".into()))));
}

#[test]
fn refuses_what_would_harm_the_connection() {
    let server = Server::start("max_payload: 1000");
    let ours = server.connect();
    let connection = &ours.connection;
    assert_eq!(connection.max_payload(), 1000);
    let publish = |subject: &str, reply: Option<&str>, headers: &[(&str, &str)], payload: &[u8]| {
        connection.publish(subject, reply, headers, payload)
    };
    for subject in ["", "a b", "a.", ">", "a.*", "a\r\nPUB x 0\r\n"] {
        assert_eq!(publish(subject, None, &[], b""), Err(PublishError::BadSubject(subject.into())));
        assert_eq!(publish("a", Some(subject), &[], b""), Err(PublishError::BadSubject(subject.into())));
        assert_eq!(connection.publish_held(subject, &[], b""), Err(PublishError::BadSubject(subject.into())));
    }
    assert_eq!(publish("a", None, &[("K", "v\r\nL: w")], b""), Err(PublishError::BadHeader("K".into())));
    assert_eq!(publish("a", None, &[], &[0; 1001]), Err(PublishError::TooLarge { size: 1001, max: 1000 }));
    let sized = publish("a", None, &[("K", "v")], &[0; 1000]);
    assert_eq!(sized, Err(PublishError::TooLarge { size: 1018, max: 1000 }));
    let (to, _from) = bounded(1);
    for (subject, queue) in [("a..b", None), ("a", Some("q q")), ("a", Some("")), ("a", Some(">"))] {
        assert!(connection.subscribe(subject, queue, to.clone()).is_err(), "{subject} {queue:?}");
    }
    publish("a", None, &[("K", "v")], &[0; 982]).expect("exactly as large as allowed");
    publish("a", None, &[], &[0; 1000]).expect("exactly as large as allowed");
    assert!(connection.round_trip(PATIENCE));
    assert_eq!(connection.generation(), 1, "the server had nothing to complain about");
    assert!(ours.events.is_empty());
}

#[test]
fn comes_back_after_the_server_was_killed_and_loses_nothing_it_kept() {
    let mut server = Server::plain();
    let ours = server.connect();
    let (to, from) = bounded(1000);
    let _subscription = ours.connection.subscribe("a", None, to.clone()).expect("subscribed");
    let ended = ours.connection.subscribe("a", None, to.clone()).expect("subscribed");
    ours.connection.publish("a", None, &[], b"first").expect("published");
    assert!(ours.connection.round_trip(PATIENCE));
    for _ in 0..2 {
        assert_eq!(from.recv_timeout(PATIENCE).expect("once per subscription").payload, b"first");
    }
    server.kill();
    ours.wait_disconnected();
    assert!(!ours.connection.is_connected());
    drop(ended);
    let while_down = ours.connection.subscribe("b", None, to).expect("subscribed without a connection");
    for count in 0..500 {
        let subject = if count % 2 == 0 { "a" } else { "b" };
        ours.connection.publish(subject, None, &[], count.to_string().as_bytes()).expect("kept");
    }
    assert!(!ours.connection.round_trip(Duration::from_millis(20)), "nobody answers");
    server.resume();
    assert_eq!(ours.wait_connected(), 2);
    for count in 0..500 {
        let message = from.recv_timeout(PATIENCE).expect("a message");
        assert_eq!(message.payload, count.to_string().as_bytes(), "in order, once");
    }
    assert!(ours.connection.round_trip(PATIENCE));
    assert!(from.is_empty());
    drop(while_down);
    ours.connection.publish("b", None, &[], b"").expect("published");
    assert!(ours.connection.round_trip(PATIENCE));
    assert!(from.is_empty(), "the dropped subscription is gone from the server");
}

#[test]
fn starts_before_the_server_does() {
    let mut server = Server::plain();
    server.kill();
    let ours = Client::start(server.options());
    assert!(ours.wait_failed().contains("refused"));
    assert_eq!((ours.connection.generation(), ours.connection.is_connected()), (0, false));
    ours.connection.publish("a", None, &[], b"early").expect("kept");
    let answer = thread::spawn({
        let connection = ours.connection.clone();
        move || connection.round_trip(PATIENCE)
    });
    server.resume();
    assert_eq!(ours.wait_connected(), 1);
    assert!(answer.join().expect("no panic"), "it waited for the connection");
    assert_eq!(ours.connection.server(), server.address());
}

#[test]
fn threads_keep_their_order() {
    const THREADS: usize = 50;
    const MESSAGES: usize = 400;
    let server = Server::plain();
    let ours = server.connect();
    let peer = server.peer();
    let received = peer.subscribe("o.*").expect("subscribed");
    peer.flush().expect("flushed");
    let threads: Vec<_> = (0..THREADS)
        .map(|thread| {
            let connection = ours.connection.clone();
            thread::spawn(move || {
                let subject = format!("o.{thread}");
                for count in 0..MESSAGES {
                    let payload = count.to_string();
                    if count % 3 == 0 {
                        connection.publish(&subject, None, &[], payload.as_bytes()).expect("published");
                    } else {
                        connection.publish_held(&subject, &[], payload.as_bytes()).expect("published");
                    }
                }
                connection.flush();
            })
        })
        .collect();
    let mut next = [0; THREADS];
    for _ in 0..THREADS * MESSAGES {
        let message = received.next_timeout(PATIENCE).expect("a message");
        let thread: usize = message.subject[2..].parse().expect("a number");
        assert_eq!(message.data, next[thread].to_string().as_bytes());
        next[thread] += 1;
    }
    for thread in threads {
        thread.join().expect("no panic");
    }
    assert_eq!(next, [MESSAGES; THREADS]);
}

#[test]
fn a_slow_subscriber_loses_messages_and_nobody_else_does() {
    let server = Server::plain();
    let ours = server.connect();
    let (to_slow, slow) = bounded(10);
    let (to_quick, quick) = bounded(1000);
    let _slow = ours.connection.subscribe("a", None, to_slow).expect("subscribed");
    let _quick = ours.connection.subscribe("a", None, to_quick).expect("subscribed");
    for _ in 0..500 {
        ours.connection.publish("a", None, &[], b"x").expect("published");
    }
    assert!(ours.connection.round_trip(PATIENCE));
    assert_eq!((slow.len(), quick.len()), (10, 500));
    let mut dropped = 0;
    while dropped < 490 {
        dropped += ours.wait_for(|event| match event {
            ConnectionEvent::SlowConsumer { subject, refused } if subject == "a" => Some(*refused),
            _ => None,
        });
    }
    assert_eq!(dropped, 490);
}

#[test]
fn draining_loses_nothing() {
    let server = Server::plain();
    let ours = server.connect();
    let peer = server.peer();
    let (to, from) = bounded(100_000);
    let subscription = ours.connection.subscribe("work", Some("q"), to).expect("subscribed");
    let rest = peer.queue_subscribe("work", "q").expect("subscribed");
    peer.flush().expect("flushed");
    assert!(ours.connection.round_trip(PATIENCE));
    let publisher = server.connect();
    let (stop, stopped) = bounded::<()>(0);
    let publishing = thread::spawn(move || {
        let mut count = 0;
        while stopped.is_empty() && stopped.try_recv() == Err(crossbeam_channel::TryRecvError::Empty) {
            publisher.connection.publish("work", None, &[], b"").expect("published");
            count += 1;
            if count % 100 == 0 {
                assert!(publisher.connection.round_trip(PATIENCE));
            }
        }
        publisher.connection.close(PATIENCE);
        count
    });
    eventually("work arrives", || from.len() > 200);
    assert!(subscription.drain(PATIENCE));
    let done = from.len();
    drop(stop);
    let sent = publishing.join().expect("no panic");
    let mut others = 0;
    while done + others < sent {
        rest.next_timeout(PATIENCE).unwrap_or_else(|_| panic!("{done} + {others} of {sent}"));
        others += 1;
    }
    assert_eq!(from.len(), done, "nothing came after the drain");
}

#[test]
fn closing_sends_everything_and_ends_every_wait() {
    let server = Server::plain();
    let ours = server.connect();
    let peer = server.peer();
    let received = peer.subscribe("a").expect("subscribed");
    let silent = peer.subscribe("silent").expect("subscribed");
    peer.flush().expect("flushed");
    let (to, from) = bounded(1);
    let subscription = ours.connection.subscribe("b", None, to).expect("subscribed");
    let asking = thread::spawn({
        let connection = ours.connection.clone();
        move || connection.request("silent", b"", Duration::MAX)
    });
    silent.next_timeout(PATIENCE).expect("the request is under way");
    for _ in 0..1000 {
        ours.connection.publish_held("a", &[], b"x").expect("published");
    }
    ours.connection.close(PATIENCE);
    for _ in 0..1000 {
        received.next_timeout(PATIENCE).expect("all of them");
    }
    assert_eq!(ours.wait_for(|event| (*event == ConnectionEvent::Closed).then_some(())), ());
    assert_eq!(asking.join().expect("no panic"), Err(RequestError::Closed));
    assert!(from.recv_timeout(PATIENCE).is_err(), "the channel has ended");
    assert_eq!(ours.connection.publish("a", None, &[], b""), Err(PublishError::Closed));
    assert!(!ours.connection.wait_for_room(1, PATIENCE));
    assert!(!ours.connection.round_trip(PATIENCE));
    assert_eq!(ours.connection.request("silent", b"", PATIENCE), Err(RequestError::Closed));
    ours.connection.close(PATIENCE);
    drop(subscription);
}

#[test]
fn dropping_the_last_handle_closes() {
    let server = Server::plain();
    let Client { connection, events } = server.connect();
    let other = connection.clone();
    drop(connection);
    assert!(other.round_trip(PATIENCE));
    drop(other);
    assert_eq!(events.recv_timeout(PATIENCE), Ok(ConnectionEvent::Closed));
    assert!(events.recv_timeout(PATIENCE).is_err(), "nobody is left to send events");
}
