//! The same bytes as from nats-server.

use super::raw::Raw;
use super::{PATIENCE, broker};
use nats_pi_bridge::broker::{BrokerAuth, BrokerOptions};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

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
