//! What `scripts/bench` measures: the daemon between a model and a caller that are both threads of this program, so that
//! they share a clock, and whose own cost is in every figure.
//!
//! Every wait ends: what is waited for has a deadline, and missing it is a panic, which ends the program and with it what it
//! has started.

mod client;
mod instructions;
mod measure;
mod model;
mod pieces;
mod processes;
mod report;

use client::Client;
use model::Order;
use nats_pi_bridge::nats::codec;
use pieces::{Faults, Received};
use processes::{Daemon, Setup, Ticks};
use report::Report;
use serde_json::json;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// How long a process rests before its memory is read: nothing says when it has given back what it no longer needs.
const REST: Duration = Duration::from_millis(500);
/// What is done before the samples of one-shot runs and prompts, so that connections are open and memory is there.
const WARM_UP: usize = 20;
/// Sessions that share the follow-up prompts, so that no conversation grows long.
const PROMPTED: usize = 10;

/// One-shot runs that come at once.
const AT_ONCE: usize = 20;

/// How much is measured.
struct Scale {
    starts: usize,
    /// Daemons that get 100 sessions and are stopped with them.
    crowds: usize,
    /// One-shot runs, and prompts.
    requests: usize,
    /// Sessions that are created one after the other.
    creations: usize,
    /// How often so many runs as [`AT_ONCE`] come at once.
    rounds: usize,
    /// Seconds of paced streams.
    seconds: usize,
    /// Pieces of an answer that comes as fast as it is read, and how many of these answers.
    burst: (usize, usize),
    tool_runs: usize,
    /// With 1,000 sessions and 100 streams, and with 2,000 idle sessions as well.
    full: bool,
}

impl Scale {
    const QUICK: Scale = Scale {
        starts: 3,
        crowds: 1,
        requests: 20,
        creations: 20,
        rounds: 2,
        seconds: 1,
        burst: (2_000, 2),
        tool_runs: 2,
        full: false,
    };
    const USUAL: Scale = Scale {
        starts: 10,
        crowds: 3,
        requests: 200,
        creations: 200,
        rounds: 20,
        seconds: 10,
        burst: (20_000, 5),
        tool_runs: 20,
        full: false,
    };
    const FULL: Scale = Scale { full: true, ..Scale::USUAL };
}

/// A prompt to a subject, in the form that the subject takes.
struct Request {
    subject: String,
    payload: String,
    order: Order,
}

/// Somebody who sends prompts and receives answers.
struct Caller {
    client: Client,
    /// For the tools.
    cwd: String,
    /// How many requests were sent; each has a reply subject of its own.
    sent: usize,
    faults: Faults,
}

impl Caller {
    fn new(daemon: &Daemon) -> Caller {
        let client = Client::connect(daemon.address, Some("_INBOX.*"));
        Caller { client, cwd: daemon.home.path().display().to_string(), sent: 0, faults: Faults::default() }
    }

    fn intake() -> String {
        format!("agents.pi-exec.{}", Daemon::OWNER)
    }

    fn run(&self, order: Order) -> Request {
        let payload = json!({"sessionMode": "run", "body": order.prompt(), "cwd": self.cwd}).to_string();
        Request { subject: Caller::intake(), payload, order }
    }

    fn prompt(session: &str, order: Order) -> Request {
        Request { subject: format!("{}.{session}", Caller::intake()), payload: order.prompt(), order }
    }

    /// Creates a session, with a trivial prompt; returns how long that took, in milliseconds.
    fn create(&mut self, session: &str) -> f64 {
        let order = Order::pieces(1);
        let payload = json!({"sessionMode": "session", "sessionId": session, "body": order.prompt(), "cwd": self.cwd});
        millis(self.ask(&[Request { subject: Caller::intake(), payload: payload.to_string(), order }]).0)
    }

    /// Sends requests all at once and waits until all are answered; returns how long that took, and the answers.
    fn ask(&mut self, requests: &[Request]) -> (Duration, Vec<Received>) {
        let first = self.sent;
        self.sent += requests.len();
        let mut bytes = Vec::new();
        for (index, request) in requests.iter().enumerate() {
            let reply = format!("_INBOX.{}", first + index);
            codec::put_pub(&mut bytes, &request.subject, Some(&reply), &[], request.payload.as_bytes());
        }
        let mut answers: Vec<_> = requests.iter().map(|request| Received::new(request.order.pieces)).collect();
        let (faults, mut open) = (&mut self.faults, requests.len());
        let begin = pieces::now();
        client::write(&self.client.output, &bytes);
        self.client.until(|delivery| {
            let at = pieces::now();
            // Only a failure has headers.
            if delivery.headers.is_some() {
                panic!("the daemon answers {:?}", String::from_utf8_lossy(delivery.payload));
            }
            let number = std::str::from_utf8(delivery.subject).ok().and_then(|subject| subject.strip_prefix("_INBOX."));
            let number: usize = number.and_then(|number| number.parse().ok()).expect("a reply subject");
            match number.checked_sub(first).map(|index| &mut answers[index]) {
                Some(answer) if answer.ended == 0 && delivery.payload.is_empty() => {
                    answer.end(at, faults);
                    open -= 1;
                }
                Some(answer) if answer.ended == 0 => answer.take(delivery.payload, at, faults),
                _ => faults.foreign += 1,
            }
            open == 0
        });
        (Duration::from_nanos(pieces::now() - begin), answers)
    }

    /// Sends requests one after the other; returns how long each took, in milliseconds.
    fn times(&mut self, requests: &[Request]) -> Vec<f64> {
        requests.chunks(1).map(|request| millis(self.ask(request).0)).collect()
    }
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// KiB that a daemon at rest has in memory.
fn resident(daemon: &Daemon) -> f64 {
    std::thread::sleep(REST);
    measure::memory(daemon.process.id()).0 as f64
}

fn starts(setup: &Setup, count: usize, report: &mut Report) {
    // The first one reads the program from the disk, which is the disk's time.
    Daemon::start(setup);
    let (mut times, mut memory) = (Vec::new(), Vec::new());
    for _ in 0..count {
        let daemon = Daemon::start(setup);
        times.push(millis(daemon.start));
        memory.push(resident(&daemon) / 1024.0);
    }
    report.row("start to registered", "ms", times, None);
    report.row("memory with no session", "MiB", memory, None);
}

/// What many sessions add to the memory of daemons, and how long these take to end with them.
fn crowds(setup: &Setup, daemons: usize, sessions: usize, report: &mut Report) -> Faults {
    let (mut each, mut ends) = (Vec::new(), Vec::new());
    let mut faults = Faults::default();
    for _ in 0..daemons {
        let daemon = Daemon::start(setup);
        let before = resident(&daemon);
        let mut caller = Caller::new(&daemon);
        for number in 0..sessions {
            caller.create(&format!("s{number}"));
        }
        each.push((resident(&daemon) - before) / sessions as f64);
        ends.push(millis(daemon.process.terminate()));
        faults.add(&caller.faults);
    }
    report.row(&format!("memory of an idle session, of {sessions}"), "KiB", each, None);
    report.row(&format!("shutdown with {sessions} sessions"), "ms", ends, None);
    faults
}

/// Orders for streams at a pace, all at once.
fn paced(count: usize, rate: usize, seconds: usize) -> impl Iterator<Item = Order> {
    let period = Duration::from_secs(1) / rate as u32;
    // Spread over one period, and neighbours not next to each other.
    let phase = move |index| period * (index * 37 % count) as u32 / count as u32;
    (0..count).map(move |index| Order { period, phase: phase(index), ..Order::pieces(rate * seconds) })
}

/// Latency of each piece of streams, in microseconds.
fn latencies(answers: &[Received]) -> Vec<f64> {
    answers.iter().flat_map(|answer| &answer.latencies).map(|nanos| *nanos as f64 / 1e3).collect()
}

fn streams(caller: &mut Caller, count: usize, rate: usize, seconds: usize, report: &mut Report) {
    let requests: Vec<_> = paced(count, rate, seconds).map(|order| caller.run(order)).collect();
    let (_, answers) = caller.ask(&requests);
    let plural = if count == 1 { "" } else { "s" };
    let name = format!("latency of a chunk, {count} stream{plural} at {rate}/s");
    report.row(&name, "us", latencies(&answers), Some(0.99));
}

/// 1,000 sessions, of which 100 answer at 50 chunks a second: what the streams' chunks wait, and what the daemon takes
/// meanwhile.
fn busy_crowd(setup: &Setup, seconds: usize, report: &mut Report) -> Faults {
    const SESSIONS: usize = 1000;
    const STREAMS: usize = 100;
    const RATE: usize = 50;
    let daemon = Daemon::start(setup);
    let mut caller = Caller::new(&daemon);
    let session = |number: usize| format!("s{number}");
    for number in 0..SESSIONS {
        caller.create(&session(number));
    }
    let request = |(index, order)| Caller::prompt(&session(index * SESSIONS / STREAMS), order);
    let requests: Vec<_> = paced(STREAMS, RATE, seconds).enumerate().map(request).collect();
    let before = processes::processor_time(daemon.process.id());
    let (took, answers) = caller.ask(&requests);
    let processor = processes::processor_time(daemon.process.id()).saturating_sub(before);
    let about = format!("{STREAMS} streams in {SESSIONS} sessions");
    report.row(&format!("latency of a chunk, {about}"), "us", latencies(&answers), Some(0.99));
    let share = processor.as_secs_f64() * 100.0 / took.as_secs_f64();
    report.row(&format!("processor, {about}"), "%", vec![share], None);
    let memory = measure::memory(daemon.process.id()).0 as f64 / 1024.0;
    report.row(&format!("memory, {about}"), "MiB", vec![memory], None);
    daemon.process.terminate();
    caller.faults
}

fn measure(setup: &Setup, scale: &Scale, report: &mut Report) -> Faults {
    let size = std::fs::metadata(&setup.program).expect("the daemon's program is there").len();
    report.row("size of the binary", "MiB", vec![size as f64 / f64::from(1 << 20)], None);
    starts(setup, scale.starts, report);
    let mut faults = crowds(setup, scale.crowds, 100, report);
    if scale.full {
        faults.add(&crowds(setup, 1, 2000, report));
        faults.add(&busy_crowd(setup, scale.seconds, report));
    }

    let daemon = Daemon::start(setup);
    let mut caller = Caller::new(&daemon);
    let one = Order::pieces(1);
    let requests: Vec<_> = (0..WARM_UP + scale.requests).map(|_| caller.run(one)).collect();
    report.row("one-shot run", "ms", caller.times(&requests).split_off(WARM_UP), Some(0.95));
    for session in 0..PROMPTED {
        caller.create(&format!("p{session}"));
    }
    let prompt = |number: usize| Caller::prompt(&format!("p{}", number % PROMPTED), one);
    let requests: Vec<_> = (0..WARM_UP + scale.requests).map(prompt).collect();
    report.row("follow-up prompt", "ms", caller.times(&requests).split_off(WARM_UP), Some(0.95));
    let at_once = |_| {
        let requests: Vec<_> = (0..AT_ONCE).map(|_| caller.run(one)).collect();
        AT_ONCE as f64 / caller.ask(&requests).0.as_secs_f64()
    };
    let rates = (0..scale.rounds).map(at_once).collect();
    report.row(&format!("one-shot runs, {AT_ONCE} at once"), "1/s", rates, None);
    let creations = (0..scale.creations).map(|number| caller.create(&format!("c{number}"))).collect();
    report.row("creation of a session, with a prompt", "ms", creations, Some(0.95));

    streams(&mut caller, 1, 500, scale.seconds, report);
    if scale.full {
        streams(&mut caller, 100, 50, scale.seconds, report);
    }

    caller.create("burst");
    let (length, count) = scale.burst;
    let rate = |_| {
        let (_, answers) = caller.ask(&[Caller::prompt("burst", Order::pieces(length))]);
        let nanos = answers[0].last_received - answers[0].first_written;
        length as f64 / Duration::from_nanos(nanos).as_secs_f64()
    };
    let rates = (0..count).map(rate).collect();
    report.row("chunks of one session, unpaced", "1/s", rates, None);

    let tools = Order { tools: 10, ..one };
    let requests: Vec<_> = (0..scale.tool_runs).map(|_| caller.run(tools)).collect();
    report.row("run with ten turns of bash `echo hi`", "ms", caller.times(&requests), None);
    daemon.process.terminate();
    faults.add(&caller.faults);
    faults
}

fn main() -> Result<ExitCode, Box<dyn std::error::Error>> {
    let mut arguments = pico_args::Arguments::from_env();
    let path = |text: &std::ffi::OsStr| Ok::<_, std::convert::Infallible>(PathBuf::from(text));
    let program = arguments.value_from_os_str("--daemon", path)?;
    let work = arguments.value_from_os_str("--work", path)?;
    let server = arguments.opt_value_from_os_str("--server", path)?;
    let save = arguments.opt_value_from_os_str("--save", path)?;
    let compare = arguments.opt_value_from_os_str("--compare", path)?;
    let valgrind = arguments.opt_value_from_os_str("--instructions", path)?;
    let hold = arguments.opt_value_from_os_str("--hold", path)?;
    let scale = match (arguments.contains("--quick"), arguments.contains("--full")) {
        (true, _) => Scale::QUICK,
        (false, true) => Scale::FULL,
        (false, false) => Scale::USUAL,
    };

    let before = Ticks::now();
    let server = server.map(|server| processes::start_server(&server, &work));
    let model_url = model::start()?;
    let server_address = server.as_ref().map(|(_, address)| *address);
    let setup = Setup { program, server: server_address, model_url, work, valgrind };
    let mut report = Report::new(compare.as_deref())?;
    if setup.valgrind.is_some() {
        let counts = instructions::count(&setup, &mut report);
        if let Some(path) = save {
            report.save(&path)?;
        }
        let grown = hold.map_or_else(|| Ok(Vec::new()), |file| instructions::grown(&counts, &file))?;
        grown.iter().for_each(|grown| println!("{grown}"));
        return Ok(if grown.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    let faults = measure(&setup, &scale, &mut report);
    // So that its time counts as this program's.
    drop(server);
    report.row("processors used by others meanwhile", "%", vec![Ticks::now().others_since(before)], None);
    if let Some(path) = save {
        report.save(&path)?;
    }
    let Faults { lost, doubled, reordered, foreign } = faults;
    println!("chunks: {lost} lost, {doubled} doubled, {reordered} out of order, {foreign} of something else");
    Ok(if faults.any() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
