//! How a session goes to another host while its own one lives: that host listens for it first, then the log says that the session
//! is that host's, behind everything that was written, and last that host takes it from the log.
//!
//! The log decides here, too. What the two hosts say to each other only makes it quick: a session whose new host was not told
//! is found by it in the log, and by any other host if that one is gone.

use super::hosts::{Found, Install};
use super::record::{Kind, decode};
use super::session_log::read;
use super::{ASK_TIME, Fleet, LOGS};
use crate::nats::Message;
use crate::nats::jetstream::JetStreamError;
use crate::sync::lock;
use crossbeam_channel::Sender;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How long a host that is asked to listen for a session may take.
const PREPARES_WITHIN: Duration = Duration::from_secs(1);
/// How many hosts are asked at most, so that a session does not wait for long.
const ASKED_AT_MOST: usize = 3;
/// How often a host is told that a session is its own now.
const TOLD_AT_MOST: usize = 3;
/// The answers of a host.
const HERE: &[u8] = b"here";
const YES: &[u8] = b"yes";
const NO: &[u8] = b"no";

/// What one host says to another; the host that is asked nothing says that it is there.
#[derive(Debug, PartialEq, Eq)]
enum Said<'a> {
    AreYouThere,
    /// Listen for what comes for a session, which is yours soon. With what is needed of it beside its file.
    Prepare(&'a str, &'a [u8]),
    /// The session is yours now.
    Take(&'a str),
}

impl<'a> Said<'a> {
    fn read(payload: &'a [u8]) -> Option<Said<'a>> {
        if payload.is_empty() {
            return Some(Said::AreYouThere);
        }
        let line = payload.split(|byte| *byte == b'\n').next()?;
        let rest = payload.get(line.len() + 1..).unwrap_or_default();
        match std::str::from_utf8(line).ok()?.split_once(' ')? {
            ("prepare", session) => Some(Said::Prepare(session, rest)),
            ("take", session) => Some(Said::Take(session)),
            _ => None,
        }
    }

    fn write(&self) -> Vec<u8> {
        match self {
            Said::AreYouThere => Vec::new(),
            Said::Prepare(session, state) => [format!("prepare {session}\n").as_bytes(), state].concat(),
            Said::Take(session) => format!("take {session}\n").into_bytes(),
        }
    }
}

/// Says whether this host listens for a session that is about to come.
pub(crate) struct Preparing {
    fleet: Arc<Fleet>,
    reply: String,
}

impl Preparing {
    pub(crate) fn answer(self, is_prepared: bool) {
        let answer = if is_prepared { YES } else { NO };
        // A host that hears nothing asks another one, or keeps its session.
        let _ = self.fleet.connection.publish(&self.reply, None, &[], answer);
    }
}

/// Takes sessions from their logs to this host.
pub(super) struct Taker {
    pub fleet: Arc<Fleet>,
    pub install: Box<dyn Install>,
    pub found: Sender<Found>,
    /// One at a time, so that none is put over one that is there already.
    pub taking: Mutex<()>,
}

impl Taker {
    /// Answers another host, or hears that something was put into the inbox of a session.
    pub(super) fn hear(&self, message: &Message) {
        let inbox = self.fleet.options.inbox_subject("");
        if let Some(session) = message.subject.strip_prefix(&inbox) {
            self.fleet.look_into_inbox(session);
            return;
        }
        let Some(reply) = &message.reply else { return };
        let say = |answer| drop(self.fleet.connection.publish(reply, None, &[], answer));
        match Said::read(&message.payload) {
            Some(Said::AreYouThere) => say(HERE),
            Some(Said::Prepare(session, state)) => {
                if let Err(why) = self.install.examine(state) {
                    log::info!("session {session} cannot come here: {why}");
                    return say(NO);
                }
                let answer = Preparing { fleet: self.fleet.clone(), reply: reply.clone() };
                self.tell(Found::Coming { session: session.to_owned(), state: state.to_vec(), answer });
            }
            Some(Said::Take(session)) => {
                say(YES);
                match self.take_given(session) {
                    Ok(true) => {}
                    Ok(false) => log::warn!("session {session} was to come here, and its log says otherwise"),
                    Err(e) => log::warn!("session {session} is to be found by a later look: {e}"),
                }
            }
            None => say(NO),
        }
    }

    pub(super) fn tell(&self, found: Found) {
        // Nobody takes part any more when the main thread is gone.
        let _ = self.found.send(found);
    }

    /// Takes a session that its host gave to this one.
    fn take_given(&self, session: &str) -> Result<bool, JetStreamError> {
        let last = self.fleet.jetstream.last(LOGS, &self.fleet.options.log_subject(session), ASK_TIME)?;
        let head = last.as_ref().and_then(|last| Some(decode(&last.payload)?.0));
        match head {
            Some(head) if head.kind == Kind::Give && head.host == self.fleet.host() => {
                log::info!("session {session}: it goes on here");
                self.take(session)
            }
            // It was found before it was told of.
            Some(head) => Ok(head.host == self.fleet.host()),
            None => Ok(false),
        }
    }

    /// Brings a session here. Whether it is ours its next record decides. False if it cannot be brought here.
    pub(super) fn take(&self, session: &str) -> Result<bool, JetStreamError> {
        let _one = lock(&self.taking);
        if self.install.has(session) {
            return Ok(true);
        }
        let Some((rebuilt, last)) = read(&self.fleet, session)? else { return Ok(false) };
        // Without it nothing was accepted.
        let Some(state) = rebuilt.state else { return Ok(true) };
        match self.install.install(session, &state, &rebuilt.file) {
            Ok(()) => {
                self.tell(Found::Session { session: session.to_owned(), last });
                Ok(true)
            }
            Err(e) => {
                log::warn!("session {session} cannot be gone on with here: {e}");
                Ok(false)
            }
        }
    }
}

impl Fleet {
    /// Finds a host that listens for what comes for a session from now on; with what it needs beside the session's file.
    pub(crate) fn prepare(&self, session: &str, state: &[u8]) -> Option<String> {
        if !self.connection.is_connected() {
            return None;
        }
        let hosts = self.cards().inspect_err(|e| log::debug!("the other hosts cannot be looked at: {e}")).ok()?;
        let others = hosts.into_iter().filter(|host| host != self.host()).collect();
        let said = Said::Prepare(session, state).write();
        super::rank::in_order(session, others).into_iter().take(ASKED_AT_MOST).find(|host| {
            let answer = self.connection.request(&self.options.here_subject(host), &said, PREPARES_WITHIN);
            answer.is_ok_and(|answer| answer.payload == YES)
        })
    }

    /// Tells a host that a session is its own now.
    pub(super) fn tell_given(&self, session: &str, host: &str) {
        let told = |_| {
            self.connection.request(&self.options.here_subject(host), &Said::Take(session).write(), PREPARES_WITHIN)
        };
        if !(0..TOLD_AT_MOST).map(told).any(|answer| answer.is_ok()) {
            log::warn!("session {session} is the host {host}'s now, which does not answer");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Said;

    #[test]
    fn what_hosts_say_survives_the_way() {
        for said in [Said::AreYouThere, Said::Prepare("s", b"{\"a\":\n1}"), Said::Prepare("s", b""), Said::Take("s")] {
            assert_eq!(Said::read(&said.write()), Some(said));
        }
        for other in [&b"x"[..], b"give s\n", b"\xff s\n", b"\n"] {
            assert_eq!(Said::read(other), None);
        }
    }
}
