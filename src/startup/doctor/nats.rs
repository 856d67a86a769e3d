//! The NATS server: whether it is one, which, and what it lets this user do.

use super::{Finding, Health, fleet};
use crate::config::Config;
use crate::nats::jetstream::{API_LEVEL, Account, JetStream};
use crate::nats::{Connection, ConnectionEvent, Message, Options, ServerAddress, Subscription};
use crate::service::micro;
use crossbeam_channel::{Receiver, bounded};
use serde_json::Value;
use std::io::{BufRead, BufReader, Read};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

/// How long a server may take for each answer.
pub(super) const PATIENCE: Duration = Duration::from_secs(3);
/// The longest INFO that is read, bytes.
const MAX_INFO: u64 = 64 * 1024;
/// The server's own words of what it does not let us do.
const VIOLATION: &str = "Permissions Violation";

pub(super) fn examine(config: &Config) -> Vec<Finding> {
    let options = &config.nats;
    let Some(server) = options.servers.first() else { return Vec::new() };
    match greeting(server, options.tls.first) {
        Ok(told) => {
            let mut findings: Vec<Finding> = Vec::new();
            let jetstream = told.as_ref().is_some_and(|(_, jetstream)| *jetstream);
            findings.extend(told.map(|(finding, _)| finding));
            findings.extend(connected(config, jetstream));
            findings
        }
        Err(e) if config.broker.is_some() => {
            vec![Finding::ok(
                "NATS",
                format!("nothing serves on {server} ({e}): the daemon serves a broker of its own there"),
            )]
        }
        Err(e) => {
            vec![Finding::failure("NATS", format!("{server}: {e}"), "start the server, or name another with --server")]
        }
    }
}

/// What the server says of itself before anybody has said who they are, and whether it has JetStream; nothing where TLS comes
/// first.
fn greeting(server: &ServerAddress, tls_first: bool) -> Result<Option<(Finding, bool)>, String> {
    let place = (server.host.as_str(), server.port).to_socket_addrs().map_err(|e| e.to_string())?.next();
    let place = place.ok_or("the name has no address")?;
    let stream = TcpStream::connect_timeout(&place, PATIENCE).map_err(|e| e.to_string())?;
    if tls_first {
        return Ok(None);
    }
    stream.set_read_timeout(Some(PATIENCE)).map_err(|e| e.to_string())?;
    let mut line = String::new();
    let read = BufReader::new(stream.take(MAX_INFO)).read_line(&mut line);
    let info = line.strip_prefix("INFO ").and_then(|info| serde_json::from_str::<Value>(info).ok());
    let Some(info) = info.filter(|_| read.is_ok()) else {
        let (text, fix) = (format!("{server}: that is no NATS server"), "name the server with --server");
        return Ok(Some((Finding::failure("NATS", text, fix), false)));
    };
    let text = |key: &str| info[key].as_str().unwrap_or("?").to_string();
    let has_jetstream = info["jetstream"] == true;
    let jetstream = if has_jetstream { "with" } else { "without" };
    let payload = info["max_payload"].as_u64().unwrap_or_default();
    let told = format!(
        "{server}: version {}, {jetstream} JetStream, which is not needed; messages up to {payload} bytes",
        text("version")
    );
    let finding = if info["headers"] == false {
        Finding::failure(
            "NATS",
            format!("{told}, no headers"),
            "remove no_header_support from the server's configuration",
        )
    } else {
        Finding::ok("NATS", told)
    };
    Ok(Some((finding, has_jetstream)))
}

/// What this user may do there.
fn connected(config: &Config, jetstream: bool) -> Vec<Finding> {
    let (sender, events) = bounded(256);
    let options = Options { name: "nats-pi-bridge doctor".into(), ..config.nats.clone() };
    let connection = match Connection::start(options, sender) {
        Ok(connection) => connection,
        Err(e) => return vec![Finding::failure("NATS", e.to_string(), "raise the limits of this process")],
    };
    if let Err(why) = wait_connected(&events) {
        connection.close(Duration::ZERO);
        let fix = "check creds, nkey, user and password, or token, and the TLS settings";
        return vec![Finding::failure("NATS", format!("no connection: {why}"), fix)];
    }
    let mut findings = permissions(config, &connection, &events);
    if jetstream || config.fleet.is_some() {
        findings.push(stored(&JetStream::new(connection.clone()), config.fleet.is_some()));
    }
    if let Some(options) = &config.fleet
        && findings.iter().all(|finding| finding.health != Health::Failure)
    {
        findings.extend(fleet::examine(config, options, &connection, &events));
    }
    connection.close(PATIENCE);
    findings
}

/// What JetStream has for this user. Only a host that `needs` it for others' sake is of no use without.
fn stored(jetstream: &JetStream, needs: bool) -> Finding {
    match jetstream.account(PATIENCE) {
        Ok(account) if needs && account.api_level() < API_LEVEL => {
            Finding::failure("JetStream", described(&account), "fleet needs nats-server 2.11 or newer")
        }
        Err(e) if needs => {
            let fix = "enable JetStream in the server and for this user's account, or unset fleet";
            Finding::failure("JetStream", format!("it is not for this user: {e}"), fix)
        }
        Ok(account) => Finding::ok("JetStream", described(&account)),
        Err(e) => Finding::ok("JetStream", format!("it is not for this user, and is not needed: {e}")),
    }
}

fn described(account: &Account) -> String {
    let of = |most: i64| if most < 0 { String::new() } else { format!(" of {most}") };
    let level = account.api_level();
    let old = if level < API_LEVEL {
        format!(", and {API_LEVEL} is what this version knows (nats-server 2.11)")
    } else {
        String::new()
    };
    let (bytes, streams) = (of(account.limits.max_storage), of(account.limits.max_streams));
    format!("API level {level}{old}; {}{bytes} bytes, {}{streams} streams are used", account.storage, account.streams)
}

fn wait_connected(events: &Receiver<ConnectionEvent>) -> Result<(), String> {
    let end = Instant::now() + PATIENCE + PATIENCE;
    while let Ok(event) = events.recv_deadline(end) {
        match event {
            ConnectionEvent::Connected { .. } => return Ok(()),
            ConnectionEvent::ConnectFailed { error, .. } => return Err(error),
            ConnectionEvent::ServerError(why) => return Err(why),
            ConnectionEvent::Closed
            | ConnectionEvent::Disconnected { .. }
            | ConnectionEvent::LameDuck
            | ConnectionEvent::SlowConsumer { .. }
            | ConnectionEvent::Subscribed => {}
        }
    }
    Err("the server does not answer".into())
}

/// What the server did not let us do.
pub(super) fn violations(events: &Receiver<ConnectionEvent>) -> Vec<String> {
    let errors = events
        .try_iter()
        .filter_map(|event| if let ConnectionEvent::ServerError(text) = event { Some(text) } else { None });
    errors.filter(|text| text.contains(VIOLATION)).collect()
}

/// Subscribes to what the daemon does, beside those who are in its queue groups and in none of them, so that no request
/// is taken from anybody; and publishes an answer that nobody waits for.
fn permissions(config: &Config, connection: &Connection, events: &Receiver<ConnectionEvent>) -> Vec<Finding> {
    let owner = &config.owner;
    let (unread, _messages) = bounded::<Box<Message>>(1);
    let mut subjects = vec![format!("agents.pi-exec.{owner}"), format!("agents.peer.pi-exec.{owner}")];
    subjects.extend(["prompt", "status"].map(|verb| format!("agents.{verb}.pi-exec.{owner}.control")));
    subjects.extend(micro::subjects().into_iter().take(1));
    let kept: Vec<Subscription> =
        subjects.iter().filter_map(|subject| connection.subscribe(subject, None, unread.clone()).ok()).collect();
    let answered = connection.publish(&connection.new_inbox(), None, &[], b"").is_ok();
    connection.flush();
    let passed = connection.round_trip(PATIENCE);
    drop(kept);
    if !passed || !answered {
        return vec![Finding::failure("NATS", "the server does not answer", "look at the server's log")];
    }
    let violations = violations(events);
    let mut findings = Vec::new();
    for text in violations.iter().filter(|text| text.contains("Subscription")) {
        let fix = format!("let the daemon's user subscribe to it; README lists all subjects of the owner {owner}");
        findings.push(Finding::failure("permissions", text.as_str(), fix));
    }
    if findings.is_empty() {
        findings.push(Finding::ok("permissions", "requests, discovery and the owner's other daemons are heard"));
    }
    findings.push(match violations.iter().any(|text| text.contains("Publish")) {
        false => Finding::ok("permissions", format!("answers may be published to {}.>", config.nats.inbox_prefix)),
        true => Finding::warning(
            "permissions",
            format!("answers may not be published to {}.>", config.nats.inbox_prefix),
            "give the daemon's user allow_responses, with room for streams (max and expires), or that subject",
        ),
    });
    findings
}
