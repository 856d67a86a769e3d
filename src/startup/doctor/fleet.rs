//! What a host that is one of several needs of the NATS server, beside what every daemon does.

use super::Finding;
use super::nats::{PATIENCE, violations};
use crate::config::Config;
use crate::fleet::{Examination, FleetOptions, Unfit, examine as look, harmless_messages, subscriptions};
use crate::ids;
use crate::nats::{Connection, ConnectionEvent, Message};
use crossbeam_channel::{Receiver, bounded};

const ABOUT: &str = "fleet";

pub(super) fn examine(
    config: &Config,
    options: &FleetOptions,
    connection: &Connection,
    events: &Receiver<ConnectionEvent>,
) -> Vec<Finding> {
    let mut findings = permissions(options, connection, events);
    if findings.is_empty() {
        findings.push(Finding::ok(ABOUT, "the streams, the cards of hosts and the other hosts may be used"));
        match look(connection, options) {
            Ok(found) => findings.extend(streams(options, found)),
            Err(e) => {
                findings.push(Finding::failure(
                    ABOUT,
                    e.to_string(),
                    "look at the server's log and nats stream report",
                ));
            }
        }
    }
    findings.extend(answers(config, connection, events));
    findings
}

/// Does what a host does, in ways that change nothing.
fn permissions(options: &FleetOptions, connection: &Connection, events: &Receiver<ConnectionEvent>) -> Vec<Finding> {
    let (unread, _messages) = bounded::<Box<Message>>(1);
    let heard = subscriptions(options).map(|subject| connection.subscribe(&subject, None, unread.clone()));
    for (subject, header, payload) in harmless_messages(options) {
        let header = header.as_ref().map(|(name, value)| (*name, &**value));
        let sent = connection.publish(&subject, None, header.as_slice(), payload.as_bytes());
        if let Err(e) = sent {
            return vec![Finding::failure(ABOUT, format!("{subject}: {e}"), "look at the server's log")];
        }
    }
    connection.flush();
    let passed = connection.round_trip(PATIENCE);
    drop(heard);
    if !passed {
        return vec![Finding::failure(ABOUT, "the server does not answer", "look at the server's log")];
    }
    let fix = "let the daemon's user do it; tests/examples/fleet.conf has all that a host needs";
    violations(events).into_iter().map(|text| Finding::failure(ABOUT, text, fix)).collect()
}

fn streams(options: &FleetOptions, found: Examination) -> Vec<Finding> {
    let mut findings: Vec<Finding> = found.unfit.into_iter().map(of_stream).collect();
    let others: Vec<String> = found.hosts.into_iter().filter(|host| *host != options.host).collect();
    let others = if others.is_empty() { "no other".to_owned() } else { others.join(", ") };
    findings
        .push(Finding::ok(ABOUT, format!("this is the host {}; the others that are there: {others}", options.host)));
    let text = "what is stored survives the death of any process; a power cut of all servers only with \
        sync_interval: always in their configuration, which cannot be seen from here";
    findings.push(Finding::ok(ABOUT, text));
    findings
}

fn of_stream(unfit: Unfit) -> Finding {
    match unfit {
        Unfit::Missing(stream) => Finding::ok(ABOUT, format!("stream {stream}: it is made when the first host starts")),
        Unfit::Replicas { stream, has, wanted } => {
            let text = format!("stream {stream} has {has} replicas, and fleetReplicas is {wanted}");
            Finding::warning(ABOUT, text, format!("nats stream edit {stream} --replicas {wanted}"))
        }
        Unfit::Setting { stream, setting } => {
            let text = format!("stream {stream} was made with another {setting} than hosts need");
            Finding::failure(
                ABOUT,
                text,
                format!("make it as src/config/SETTINGS.md says, or remove it: nats stream rm {stream}"),
            )
        }
    }
}

/// A host answers requests that came to another one, so that leave to answer what it was asked itself is not enough.
fn answers(config: &Config, connection: &Connection, events: &Receiver<ConnectionEvent>) -> Option<Finding> {
    let prefix = config.host_options(None).reply_prefixes.into_iter().next()?;
    let sent = connection.publish(&format!("{prefix}{}", ids::nuid()), None, &[], b"").is_ok();
    connection.flush();
    if sent && connection.round_trip(PATIENCE) && violations(events).is_empty() {
        return None;
    }
    let text = format!(
        "the callers of sessions that come here from other hosts get no answers: {prefix}> may not be published to"
    );
    Some(Finding::warning(ABOUT, text, "let the daemon's user publish to it; allow_responses is not enough"))
}
