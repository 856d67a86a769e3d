//! Figures instead of verdicts: `cargo test --release --test nats_client probe -- --ignored --nocapture --test-threads 1`.

use crate::server::{PATIENCE, Server};
use crossbeam_channel::bounded;
use nats_pi_bridge::nats::codec::{Decoder, Limits, ServerOp, put_pub};
use nats_pi_bridge::nats::{Connection, PublishError};
use std::fs;
use std::hint::black_box;
use std::thread;
use std::time::{Duration, Instant};

fn publish(connection: &Connection, held: bool, payload: &[u8]) {
    loop {
        let result = match held {
            true => connection.publish_held("probe.a", &[], payload),
            false => connection.publish("probe.a", None, &[], payload),
        };
        match result {
            Ok(()) => return,
            Err(PublishError::Full) => assert!(connection.wait_for_room(1 << 20, PATIENCE)),
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
#[ignore = "a measurement"]
fn throughput_of_publishing() {
    let server = Server::plain();
    let ours = server.connect();
    for (threads, held) in [(1, true), (50, true), (1, false), (50, false)] {
        let total = if held { 2_000_000 } else { 200_000 };
        let start = Instant::now();
        thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    for _ in 0..total / threads {
                        publish(&ours.connection, held, &[b'x'; 200]);
                    }
                });
            }
        });
        assert!(ours.connection.round_trip(PATIENCE));
        let rate = total as f64 / start.elapsed().as_secs_f64();
        println!("{threads} threads, held {held}: {rate:.0} messages/s of 200 bytes");
    }
}

#[test]
#[ignore = "a measurement"]
fn latency_of_a_request() {
    let server = Server::plain();
    let (asking, answering) = (server.connect(), server.connect());
    let (to, from) = bounded(100);
    let subscription = answering.connection.subscribe("probe", None, to).expect("subscribed");
    assert!(answering.connection.round_trip(PATIENCE));
    let service = thread::spawn(move || {
        while let Ok(message) = from.recv_timeout(Duration::from_millis(500)) {
            let reply = message.reply.expect("a reply subject");
            answering.connection.publish(&reply, None, &[], &message.payload).expect("published");
        }
    });
    let mut times: Vec<Duration> = (0..20_000)
        .map(|_| {
            let start = Instant::now();
            asking.connection.request("probe", &[b'x'; 200], PATIENCE).expect("an answer");
            start.elapsed()
        })
        .collect();
    service.join().expect("no panic");
    drop(subscription);
    times.sort_unstable();
    println!("request: p50 {:?}, p99 {:?}, max {:?}", times[10_000], times[19_800], times[19_999]);
}

#[test]
#[ignore = "a measurement"]
fn cost_of_the_codec() {
    const ROUNDS: u32 = 1_000_000;
    let mut out = Vec::new();
    let start = Instant::now();
    for _ in 0..ROUNDS {
        out.clear();
        put_pub(&mut out, black_box("agents.pi-exec.owner.session"), Some("_INBOX.abc.1"), &[], &[b'x'; 100]);
        black_box(&out);
    }
    println!("encode: {:?} per message", start.elapsed() / ROUNDS);
    let message = [&b"MSG agents.pi-exec.owner.session 12 _INBOX.abc.1 100\r\n"[..], &[b'x'; 100], b"\r\n"].concat();
    let batch = message.repeat(400);
    let mut decoder = Decoder::new(Limits::default());
    let start = Instant::now();
    let mut count = 0;
    while count < ROUNDS {
        let mut rest = &batch[..];
        while !rest.is_empty() {
            let space = decoder.space();
            let size = space.len().min(rest.len());
            space[..size].copy_from_slice(&rest[..size]);
            decoder.filled(size);
            rest = &rest[size..];
            while let Some(ServerOp::Message(delivery)) = decoder.next_server_op().expect("valid") {
                black_box(delivery.payload);
                count += 1;
            }
        }
    }
    println!("decode: {:?} per message", start.elapsed() / count);
}

#[test]
#[ignore = "a measurement"]
fn memory_and_threads_of_connections() {
    let server = Server::plain();
    let status = || {
        let text = fs::read_to_string("/proc/self/status").expect("readable");
        let number = |name: &str| {
            let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
            line.split_whitespace().nth(1).and_then(|number| number.parse::<u64>().ok()).unwrap_or_default()
        };
        (number("VmRSS"), number("Threads"))
    };
    let before = status();
    let clients: Vec<_> = (0..100).map(|_| server.connect()).collect();
    let connected = status();
    println!("{} KiB, {} threads per connection", (connected.0 - before.0) / 100, (connected.1 - before.1) / 100);
    let subscriptions: Vec<_> = (0..10_000)
        .map(|count| {
            let (to, from) = bounded(1);
            (clients[0].connection.subscribe(&format!("probe.{count}"), None, to).expect("subscribed"), from)
        })
        .collect();
    assert!(clients[0].connection.round_trip(PATIENCE));
    println!("{} bytes per subscription", (status().0 - connected.0) * 1024 / 10_000);
    drop(subscriptions);
}
