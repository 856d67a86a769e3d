//! The load that `scripts/bench-broker` puts on a NATS server: many clients at a steady rate while the memory of the
//! server's process is watched, or two clients as fast as they can.
//!
//! It speaks through the codec on plain sockets, so that what is measured is the server more than a client. It is a program
//! of its own and not part of the broker's, because its memory must not count as the broker's.
//!
//! Every wait ends: reading and writing time out, and a panic, which is what a time-out becomes, ends the program.

mod client;
mod measure;

use client::{Client, PATIENCE, write};
use crossbeam_channel::{Receiver, Sender, bounded};
use measure::{memory, percentile};
use nats_pi_bridge::nats::codec;
use std::net::SocketAddr;
use std::process::exit;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

const CLIENTS: usize = 200;
/// Of all clients together, in a second.
const RATE: u64 = 10_000;
/// How often the clients send; what is due in between leaves together.
const TICK: Duration = Duration::from_millis(1);
/// Bytes in a message.
const PAYLOAD: usize = 200;
/// How often memory is reported.
const REPORT: Duration = Duration::from_secs(10);
/// Messages from one publisher to one subscriber.
const STREAM: u64 = 500_000;
/// How far the publisher may be ahead of the subscriber: servers cut off whoever falls too far behind, which is not what
/// is measured here.
const AHEAD: u64 = 10_000;
/// How much the publisher writes at once, in bytes.
const BATCH: usize = 32 << 10;
const REQUESTS: usize = 10_000;
/// Measurements of each server, in turns, so that a busy moment of the machine does not hit one of them only.
const ROUNDS: usize = 3;

/// Starts a thread whose panic ends the program: the others would wait for it in vain.
fn start<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    let guarded = move || {
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).unwrap_or_else(|_| {
            // The panic hook has said why.
            exit(1)
        })
    };
    // A thread that only reads needs little, and there are hundreds.
    thread::Builder::new().stack_size(256 << 10).spawn(guarded).expect("started")
}

fn report_memory(process: u32, when: &str) {
    let (all, anonymous) = memory(process);
    println!("memory {when}: {all} KiB resident, {anonymous} KiB of it its own data");
}

fn micros(time: Duration) -> u32 {
    time.as_micros().try_into().unwrap_or(u32::MAX)
}

/// What one client of the load has received.
#[derive(Default)]
struct Received {
    micros: Vec<u32>,
    out_of_order: u64,
}

/// Each client sends to the next one, all together [`RATE`] messages in a second. False when messages were lost.
fn load(address: SocketAddr, process: u32, seconds: u64) -> bool {
    report_memory(process, "at the start");
    let clients: Vec<_> = (0..CLIENTS).map(|index| Client::connect(address, Some(&format!("load.{index}")))).collect();
    report_memory(process, &format!("with {CLIENTS} clients"));
    let outputs: Vec<_> = clients.iter().map(|client| client.output.clone()).collect();
    let (begin, over, count) = (Instant::now(), Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let readers: Vec<_> = clients
        .into_iter()
        .map(|client| {
            let (over, count) = (over.clone(), count.clone());
            start(move || receive(client, begin, &over, &count))
        })
        .collect();

    let total = RATE * seconds;
    let (mut bytes, mut worst) = (Vec::new(), Duration::ZERO);
    let mut next_report = REPORT;
    let subjects: Vec<_> = (0..CLIENTS).map(|index| format!("load.{}", (index + 1) % CLIENTS)).collect();
    for number in 0..total {
        let due = Duration::from_micros(number * 1_000_000 / RATE / 1000 * 1000);
        thread::sleep(due.saturating_sub(begin.elapsed()));
        worst = worst.max(begin.elapsed().saturating_sub(due));
        let sender = number as usize % CLIENTS;
        let mut payload = [b'x'; PAYLOAD];
        // The time at which it is due and not the one at which it leaves: a server that holds a sender up is late.
        payload[..8].copy_from_slice(&(due.as_micros() as u64).to_le_bytes());
        payload[8..16].copy_from_slice(&(number / CLIENTS as u64).to_le_bytes());
        bytes.clear();
        codec::put_pub(&mut bytes, &subjects[sender], None, &[], &payload);
        write(&outputs[sender], &bytes);
        if begin.elapsed() >= next_report {
            report_memory(process, &format!("after {} s", next_report.as_secs()));
            next_report += REPORT;
        }
    }
    let took = begin.elapsed();
    let end = Instant::now() + PATIENCE;
    while count.load(Ordering::Relaxed) < total && Instant::now() < end {
        thread::sleep(TICK);
    }
    report_memory(process, "at the end of the load");
    over.store(true, Ordering::Relaxed);
    let received: Vec<_> = readers.into_iter().map(|reader| reader.join().expect("it has not panicked")).collect();
    drop(outputs);
    // Time for the server's threads to notice that everybody has left.
    thread::sleep(Duration::from_secs(1));
    report_memory(process, "1 s after all clients left");

    let out_of_order: u64 = received.iter().map(|received| received.out_of_order).sum();
    let mut all: Vec<u32> = received.into_iter().flat_map(|received| received.micros).collect();
    all.sort_unstable();
    let lost = total.saturating_sub(all.len() as u64);
    println!(
        "load: {total} messages of {PAYLOAD} bytes by {CLIENTS} clients in {:.1} s ({:.0}/s, the sender at most {} ms late)",
        took.as_secs_f64(),
        total as f64 / took.as_secs_f64(),
        worst.as_millis()
    );
    println!("load: {lost} lost, {out_of_order} out of order");
    let [half, most, last] = [0.5, 0.99, 1.0].map(|share| percentile(&all, share));
    println!("load: latency p50 {half} µs, p99 {most} µs, longest {last} µs");
    lost == 0 && out_of_order == 0
}

fn receive(mut client: Client, begin: Instant, over: &AtomicBool, count: &AtomicU64) -> Received {
    // Short, because the end is looked for in between.
    client.socket.set_read_timeout(Some(Duration::from_millis(200))).expect("set");
    let (mut received, mut next) = (Received::default(), 0);
    while !over.load(Ordering::Relaxed) {
        if !client.read() {
            continue;
        }
        let now = begin.elapsed();
        client.messages(|delivery| {
            let number = |at: usize| u64::from_le_bytes(delivery.payload[at..at + 8].try_into().expect("8 bytes"));
            received.micros.push(micros(now.saturating_sub(Duration::from_micros(number(0)))));
            received.out_of_order += u64::from(number(8) != next);
            next = number(8) + 1;
            count.fetch_add(1, Ordering::Relaxed);
        });
    }
    received
}

/// Messages in a second from one publisher to one subscriber.
fn throughput(address: SocketAddr) -> f64 {
    let mut subscriber = Client::connect(address, Some("stream"));
    let publisher = Client::connect(address, None);
    let (to, progress): (Sender<u64>, Receiver<u64>) = bounded(STREAM as usize);
    let begin = Instant::now();
    let reading = start(move || {
        let mut received = 0;
        while received < STREAM {
            assert!(subscriber.read(), "a message comes in time");
            subscriber.messages(|_| received += 1);
            to.send(received).expect("the publisher lives");
        }
    });
    let (mut sent, mut received) = (0, 0);
    let mut bytes = Vec::with_capacity(2 * BATCH);
    while received < STREAM {
        while sent < STREAM && sent < received + AHEAD && bytes.len() < BATCH {
            codec::put_pub(&mut bytes, "stream", None, &[], &[b'x'; PAYLOAD]);
            sent += 1;
        }
        if bytes.is_empty() {
            received = progress.recv_timeout(PATIENCE).expect("messages arrive");
        } else {
            write(&publisher.output, &bytes);
            bytes.clear();
        }
        while let Ok(news) = progress.try_recv() {
            received = news;
        }
    }
    let took = begin.elapsed();
    reading.join().expect("it has not panicked");
    STREAM as f64 / took.as_secs_f64()
}

/// How long each of many requests took, one after the other; sorted, in microseconds.
fn requests(address: SocketAddr) -> Vec<u32> {
    let mut responder = Client::connect(address, Some("question"));
    let answering = start(move || {
        let (mut bytes, mut answered) = (Vec::new(), 0);
        let output = responder.output.clone();
        responder.until(|request| {
            bytes.clear();
            let reply = std::str::from_utf8(request.reply.expect("an inbox")).expect("text");
            codec::put_pub(&mut bytes, reply, None, &[], request.payload);
            write(&output, &bytes);
            answered += 1;
            answered == REQUESTS
        });
    });
    let mut requester = Client::connect(address, Some("inbox.*"));
    let output = requester.output.clone();
    let mut times = Vec::with_capacity(REQUESTS);
    let mut bytes = Vec::new();
    for number in 0..REQUESTS {
        let inbox = format!("inbox.{number}");
        let begin = Instant::now();
        bytes.clear();
        codec::put_pub(&mut bytes, "question", Some(&inbox), &[], &[b'x'; PAYLOAD]);
        write(&output, &bytes);
        requester.until(|answer| answer.subject == inbox.as_bytes());
        times.push(micros(begin.elapsed()));
    }
    answering.join().expect("it has not panicked");
    times.sort_unstable();
    times
}

/// Measures servers beside each other.
fn compare(servers: &[(String, SocketAddr)]) {
    for round in 1..=ROUNDS {
        for (name, address) in servers {
            let rate = throughput(*address);
            let times = requests(*address);
            let [half, most] = [0.5, 0.99].map(|share| percentile(&times, share));
            println!(
                "round {round}, {name}: {rate:.0} messages/s ({:.0} MB/s of payload), request p50 {half} µs, p99 {most} µs",
                rate * PAYLOAD as f64 / 1e6
            );
        }
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["load", address, process, seconds] => {
            let address = address.parse().expect("an address");
            if !load(address, process.parse().expect("a process"), seconds.parse().expect("seconds")) {
                exit(1);
            }
        }
        ["compare", ref servers @ ..] if !servers.is_empty() => {
            let server = |text: &&str| {
                let (name, address) = text.split_once('=').expect("NAME=ADDRESS");
                (name.to_string(), address.parse().expect("an address"))
            };
            compare(&servers.iter().map(server).collect::<Vec<_>>());
        }
        _ => {
            eprintln!("usage: broker-load load ADDRESS PID SECONDS | broker-load compare NAME=ADDRESS...");
            exit(2);
        }
    }
}
