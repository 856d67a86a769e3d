//! Proving who we are and checking who they are.

use crate::keys::{Certificates, Nkey, Tenant};
use crate::server::{Client, PATIENCE, Server, eventually, options};
use crossbeam_channel::bounded;
use nats_pi_bridge::nats::{Auth, Options, Tls};
use std::fs;
use std::path::PathBuf;

/// The connection works in both directions.
fn check(client: &Client) {
    let (to, from) = bounded(1);
    let _subscription = client.connection.subscribe("check", None, to).expect("subscribed");
    client.connection.publish("check", None, &[("K", "v")], b"x").expect("published");
    assert_eq!(from.recv_timeout(PATIENCE).expect("a message").payload, b"x");
}

#[test]
fn user_password_and_token() {
    let server = Server::start("authorization { user: \"u\", password: \"p@s:s\" }");
    let with = |servers: &str| options(&servers.replace("PORT", &server.port.to_string()));
    check(&Client::connect(with("nats://u:p%40s%3As@127.0.0.1:PORT")));
    let auth = Auth::UserPassword { user: "u".into(), password: "p@s:s".into() };
    check(&Client::connect(Options { auth, ..with("127.0.0.1:PORT") }));
    let refused = Client::start(with("u:wrong@127.0.0.1:PORT"));
    assert!(refused.wait_failed().contains("Authorization Violation"));
    assert!(refused.wait_failed().contains("Authorization Violation"), "it goes on trying");
    let server = Server::start("authorization { token: \"s3cret\" }");
    let with = |servers: &str| options(&servers.replace("PORT", &server.port.to_string()));
    check(&Client::connect(with("s3cret@127.0.0.1:PORT")));
    check(&Client::connect(Options { auth: Auth::Token("s3cret".into()), ..with("127.0.0.1:PORT") }));
    assert!(Client::start(with("127.0.0.1:PORT")).wait_failed().contains("Authorization Violation"));
}

#[test]
fn nkey() {
    let (user, stranger) = (Nkey::new(b'U', 1), Nkey::new(b'U', 2));
    let server = Server::start(&format!("authorization {{ users: [ {{ nkey: {} }} ] }}", user.public()));
    let file = server.dir.path().join("user.nk");
    let auth = Auth::NkeyFile(file.clone());
    let ours = Client::start(Options { auth, ..server.options() });
    assert!(ours.wait_failed().contains("user.nk"), "the file is not there yet");
    fs::write(&file, stranger.seed()).expect("written");
    eventually("a wrong key is refused", || ours.wait_failed().contains("Authorization Violation"));
    fs::write(&file, format!("{}\n", user.seed())).expect("written");
    ours.wait_connected();
    check(&ours);
}

#[test]
fn jwt_from_a_creds_file_and_inline() {
    let tenant = Tenant::new();
    let server = Server::start(&tenant.server_config);
    let file = server.dir.path().join("user.creds");
    fs::write(&file, tenant.creds()).expect("written");
    check(&Client::connect(Options { auth: Auth::CredsFile(file), ..server.options() }));
    let jwt = |seed: Option<String>| Auth::Jwt { jwt: tenant.user_jwt.clone(), seed };
    check(&Client::connect(Options { auth: jwt(Some(tenant.user.seed())), ..server.options() }));
    for auth in [jwt(None), jwt(Some(Nkey::new(b'U', 9).seed())), Auth::None] {
        let refused = Client::start(Options { auth, ..server.options() });
        assert!(refused.wait_failed().contains("Authorization Violation"));
    }
}

/// A TLS server and the options that fit it.
fn tls_server(more: &str) -> (Server, Certificates, Options) {
    let mut certificates = None;
    let server = Server::prepared(|dir| {
        let created = Certificates::create(&dir.join("tls"), &["127.0.0.1", "localhost"]);
        let config = created.config(more);
        certificates = Some(created);
        config
    });
    let certificates = certificates.expect("created");
    let options = Options { tls: tls(&certificates.ca), ..server.options() };
    (server, certificates, options)
}

fn tls(ca: impl Into<PathBuf>) -> Tls {
    Tls { ca: Some(ca.into()), ..Tls::default() }
}

#[test]
fn tls_with_our_own_authority() {
    let (server, certificates, good) = tls_server("");
    check(&Client::connect(good.clone()));
    let by_name = options(&format!("tls://localhost:{}", server.port));
    check(&Client::connect(Options { tls: good.tls.clone(), ..by_name }));
    let demanded_by_server = Client::start(server.options());
    assert!(demanded_by_server.wait_failed().contains("UnknownIssuer"), "public authorities do not vouch for it");
    let other = Certificates::create(&server.dir.path().join("other"), &["127.0.0.1"]);
    assert!(Client::start(Options { tls: tls(other.ca), ..good.clone() }).wait_failed().contains("certificate"));
    let missing = Client::start(Options { tls: tls(server.dir.path().join("no.pem")), ..good.clone() });
    assert!(missing.wait_failed().contains("no.pem"));
    let no_certificate = Client::start(Options { tls: tls(&certificates.server.1), ..good });
    assert!(no_certificate.wait_failed().contains("no certificate"));
}

#[test]
fn tls_checks_the_name() {
    let mut ca = PathBuf::new();
    let server = Server::prepared(|dir| {
        let certificates = Certificates::create(dir, &["elsewhere.example"]);
        ca.clone_from(&certificates.ca);
        certificates.config("")
    });
    let ours = Client::start(Options { tls: tls(ca), ..server.options() });
    assert!(ours.wait_failed().contains("not valid for name"));
}

#[test]
fn tls_is_not_given_up_for_a_server_without_it() {
    let server = Server::plain();
    let demanded = Client::start(options(&format!("tls://{}", server.address())));
    assert!(demanded.wait_failed().contains("does not offer"));
    let first = Client::start(Options { tls: Tls { first: true, ..Tls::default() }, ..server.options() });
    assert!(first.wait_failed().contains("TLS handshake"));
}

#[test]
fn tls_with_client_certificates() {
    let (_server, certificates, good) = tls_server("verify: true");
    let (cert, key) = certificates.client.clone();
    let with = |cert, key| Options { tls: Tls { cert, key, ..good.tls.clone() }, ..good.clone() };
    check(&Client::connect(with(Some(cert.clone()), Some(key.clone()))));
    assert!(!Client::start(good.clone()).wait_failed().is_empty(), "no certificate, no connection");
    assert!(Client::start(with(Some(cert), None)).wait_failed().contains("needs its key"));
}

#[test]
fn tls_before_info() {
    let (_server, _certificates, good) = tls_server("handshake_first: true");
    let first = Options { tls: Tls { first: true, ..good.tls.clone() }, ..good.clone() };
    check(&Client::connect(first));
    let impatient = std::time::Duration::from_millis(300);
    let waits = Client::start(Options { connect_timeout: impatient, ..good });
    assert!(waits.wait_failed().contains("INFO"), "both wait for the other to begin");
}

/// TLS has buffers of its own below ours; whatever the sizes, bytes go in and out whole and in order.
#[test]
fn tls_carries_large_messages_both_ways() {
    let (mut server, _certificates, good) = tls_server("");
    let (sender, receiver) = (Client::connect(good.clone()), Client::connect(good));
    let (to, from) = bounded(10_000);
    let _subscription = receiver.connection.subscribe("a", None, to).expect("subscribed");
    assert!(receiver.connection.round_trip(PATIENCE));
    let send = |sizes: &[usize]| {
        for (count, size) in sizes.iter().enumerate() {
            let payload: Vec<u8> = (0..*size).map(|at| (at * 31 + count) as u8).collect();
            assert!(sender.connection.wait_for_room(size + 100, PATIENCE), "room comes back");
            sender.connection.publish("a", None, &[], &payload).expect("published");
        }
        for (count, size) in sizes.iter().enumerate() {
            let message = from.recv_timeout(PATIENCE).expect("a message");
            assert_eq!(message.payload.len(), *size);
            assert!(message.payload.iter().enumerate().all(|(at, byte)| *byte == (at * 31 + count) as u8));
        }
    };
    let many: Vec<usize> = (0..3000).map(|count| count % 400).collect();
    send(&many);
    send(&[900_000; 30]);
    send(&[0, 1, 16_383, 16_384, 16_385, 65_535, 65_536, 1_000_000]);
    server.kill();
    sender.wait_disconnected();
    receiver.wait_disconnected();
    server.resume();
    sender.wait_connected();
    receiver.wait_connected();
    assert!(receiver.connection.round_trip(PATIENCE));
    send(&[5; 10]);
}
