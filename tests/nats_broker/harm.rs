//! Clients that misbehave.

use super::raw::Raw;
use super::{PATIENCE, broker, connect};
use crossbeam_channel::bounded;
use nats_pi_bridge::broker::sockets::Owner;
use nats_pi_bridge::broker::{Broker, BrokerAuth, BrokerOptions};
use nats_pi_bridge::nats::{Connection, Options, RequestError, ServerAddress};
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

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
