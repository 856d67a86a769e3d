//! Clients that behave: ours, and another library.

use super::{PATIENCE, broker, connect};
use crossbeam_channel::bounded;
use nats_pi_bridge::broker::BrokerOptions;
use nats_pi_bridge::nats::RequestError;
use std::thread;

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
