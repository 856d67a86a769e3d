//! Requests to the daemon over NATS: to the intake of the `pi-exec` wire, and to the controller of the agent protocol.
//!
//! A request without a reply subject is done as well, unless all that it asks for is an answer.

use super::{Caller, Daemon, Entry};
use crate::cancel::Cancel;
use crate::clock::now_ms;
use crate::contract::documents;
use crate::contract::error::{DaemonError, ReplyError};
use crate::contract::ids::SessionId;
use crate::contract::reply::{Reply, SilentReply};
use crate::contract::request::{Page, Request};
use crate::contract::sender::AgentSender;
use crate::nats::{Connection, Message};
use crate::service::agents::CalledAs;
use crate::service::agents::controller;
use crate::service::agents::nonces::SignedNonce;
use crate::service::intake;
use crate::service::micro::Counters;
use crate::service::recent::{self, NamedRequest};
use crate::service::replies::{CountedReply, send_document, send_error};
use crate::service::stream::{Form, Stream};
use crate::service::waiting_room::Class;
use crate::traceparent::{TRACEPARENT, Traceparent};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Instant;

/// What a request came over.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Wire {
    Intake,
    /// The verb of the controller's endpoint, and by which name it was called.
    Controller(&'static str, CalledAs),
}

/// A request that was understood, on its way to being done here or elsewhere.
pub(super) struct Work {
    pub message: Message,
    pub wire: Wire,
    pub request: Request,
    /// Names the request, if its caller did.
    pub named: Option<NamedRequest>,
    /// Tells a signed request from every other one.
    pub signed: Option<SignedNonce>,
    sender: Option<AgentSender>,
    received: Instant,
}

/// Who asks, if that is said, and what tells the request from every other one, if it is signed.
type Identified = (Option<AgentSender>, Option<SignedNonce>);

/// The wire of a request's subject, if it is one of ours.
fn wire(subject: &str) -> Option<Wire> {
    match subject.split('.').nth(1) {
        Some("pi-exec") => Some(Wire::Intake),
        verb => {
            let verb = controller::VERBS.into_iter().find(|known| Some(*known) == verb)?;
            Some(Wire::Controller(verb, CalledAs::by_subject(subject)))
        }
    }
}

/// The longest request that is looked into before it is read, bytes; one that stops a session is much shorter.
const MAX_GLANCE: usize = 1024;

/// Whether a request ends work, at a glance.
pub(super) fn class(message: &Message) -> Class {
    let stop = match wire(&message.subject) {
        Some(Wire::Controller(verb, _)) => verb == "stop",
        _ => {
            let has = |word: &str| memchr::memmem::find(&message.payload, word.as_bytes()).is_some();
            message.payload.len() <= MAX_GLANCE && ["\"stop\"", "\"drain\""].into_iter().any(has)
        }
    };
    if stop { Class::Urgent } else { Class::Work }
}

/// What answers requests for which there is no room.
pub(super) fn refuse_unread(connection: &Connection, counters: &Arc<Counters>) -> Box<dyn Fn(&Message) + Send + Sync> {
    let (connection, counters) = (connection.clone(), counters.clone());
    Box::new(move |message| {
        let error = DaemonError::Busy { message: "too many requests wait; try again".into() };
        counters.count_request();
        counters.count_error(error.status(), &error.summary());
        if let (Some(reply), Some(wire)) = (&message.reply, wire(&message.subject)) {
            send_refusal(&connection, wire, message, reply, &error);
        }
    })
}

fn send_refusal(connection: &Connection, wire: Wire, message: &Message, reply: &str, error: &DaemonError) {
    match wire {
        Wire::Intake => {
            let stream = crate::service::intake::expects_stream(&message.payload);
            send_error(connection, reply, error.status(), &error.summary(), &error.document(), stream);
        }
        Wire::Controller(..) => controller::refuse(connection, reply, error),
    }
}

impl Daemon {
    /// Takes a request that came from a caller.
    pub(super) fn request(&mut self, message: Message) {
        if let Some(work) = self.understand(message, false) {
            self.begin(work);
        }
    }

    /// Understands a request, which another daemon may have handed on; what is no work is answered at once.
    pub(super) fn understand(&mut self, message: Message, handed_on: bool) -> Option<Work> {
        let received = Instant::now();
        let wire = wire(&message.subject)?;
        self.counters(wire, Counters::count_request);
        let request = match wire {
            Wire::Intake => intake::parse(&message.payload),
            Wire::Controller("prompt", called) => {
                self.controller_prompt(message.reply?, called);
                return None;
            }
            Wire::Controller("status", called) => {
                let document = self.host.status(self.host.agent(called, None), now_ms());
                send_document(&self.connection, &message.reply?, &document);
                return None;
            }
            Wire::Controller(verb, _) => controller::parse(verb, &message.payload),
        };
        let request = request.and_then(|request| Ok((self.identify(&message, &request, handed_on)?, request)));
        match request {
            Ok(((sender, signed), request)) => {
                let named = recent::named(&message, sender.as_ref())
                    .filter(|_| !matches!(request, Request::List(_) | Request::Drain(_)));
                Some(Work { message, wire, request, named, signed, sender, received })
            }
            Err(error) => {
                self.refuse(wire, &message, &error);
                None
            }
        }
    }

    /// The controller does not work on prompts itself; it says what it is there for.
    fn controller_prompt(&self, reply: String, called: CalledAs) {
        let stream = Stream::new(&self.connection, reply, Form::Agent);
        stream.accepted();
        stream.text(&controller::help(self.host.agent(called, None)), &Cancel::new());
        stream.finish(Ok(()));
    }

    /// Who asks, where that matters.
    fn identify(&self, message: &Message, request: &Request, handed_on: bool) -> Result<Identified, DaemonError> {
        if matches!(request, Request::List(_)) {
            return Ok((None, None));
        }
        self.host.senders.identify_signed(message, now_ms(), handed_on).map_err(|ReplyError { kind, message }| {
            match kind.status() {
                401 => DaemonError::Unauthorized { message },
                403 => DaemonError::Forbidden { message },
                429 => DaemonError::Busy { message },
                _ => DaemonError::InvalidRequest { message },
            }
        })
    }

    /// Does what a request asks.
    pub(super) fn perform(&mut self, work: Work) {
        let Work { message, wire, request, named, sender, received, .. } = work;
        if named.as_ref().is_some_and(|named| self.host.recent.is_taken(named)) {
            return self.refuse(wire, &message, &DaemonError::DuplicateRequest);
        }
        if let Some(document) = named.as_ref().and_then(|named| self.host.recent.document(&named.key)) {
            return self.answer(wire, &message, &document, received);
        }
        let result = match request {
            _ if !self.takes_work() => Err(DaemonError::ShuttingDown),
            Request::List(page) => Ok(Some(self.list(wire, &page))),
            Request::Drain(drain) => self.drain(&drain).map(Some),
            Request::Stop { session_id } => self.stop(session_id, wire, &message, received).map(|document| {
                self.remember(named, document);
                None
            }),
            Request::Create(create) => {
                let host = self.host.clone();
                let text = || -> Arc<dyn Reply> {
                    match message.reply.clone() {
                        Some(reply) => Arc::new(Stream::new(&host.connection, reply, Form::Text)),
                        None => Arc::new(SilentReply),
                    }
                };
                if named.as_ref().is_some_and(|named| host.recent.join(&named.key, text)) {
                    return;
                }
                let stream = || match named.clone() {
                    Some(named) => host.recent.share(named, text(), received),
                    None => text(),
                };
                let counters = self.intake.counters.clone();
                let reply = || -> Arc<dyn Reply> { Arc::new(CountedReply::new(stream(), counters.clone(), received)) };
                let trace = message.header(TRACEPARENT).and_then(Traceparent::parse);
                let created = self.create(&create, Caller { reply: &reply, sender, trace, received });
                match (created, wire) {
                    (Ok(_), Wire::Intake) => Ok(None),
                    (Ok(instance_id), Wire::Controller(_, called)) => {
                        let now = Instant::now();
                        let entry = self.sessions.get(&instance_id);
                        let document = entry.map(|entry| self.descriptor(entry, called, now));
                        let document = document.unwrap_or_default();
                        self.remember(named, document.clone());
                        let (connection, reply) = (self.connection.clone(), message.reply.clone());
                        self.when_written(move || {
                            reply.iter().for_each(|reply| send_document(&connection, reply, &document));
                        });
                        self.counters(wire, |counters| counters.add_time(received.elapsed()));
                        Ok(None)
                    }
                    (Err(error), _) => Err(error),
                }
            }
        };
        match result {
            // The answer comes when the session is done, or found, and its time with it.
            Ok(None) => {}
            Ok(Some(document)) => self.answer(wire, &message, &document, received),
            Err(error) => self.refuse(wire, &message, &error),
        }
    }

    fn remember(&self, named: Option<NamedRequest>, document: Value) {
        if let Some(named) = named {
            self.host.recent.answered(named, document, Instant::now());
        }
    }

    pub(super) fn list(&self, wire: Wire, page: &Page) -> Value {
        let bytes = self.connection.max_payload();
        match wire {
            Wire::Intake => self.listing(page, bytes),
            Wire::Controller(_, called) => {
                let now = Instant::now();
                let named = self.entries_of(page).filter(|entry| entry.identity.named);
                let row = |entry: &Entry| (true, self.descriptor(entry, called, now));
                documents::listing(named.map(row), page.limit, bytes)
            }
        }
    }

    fn descriptor(&self, entry: &Entry, called: CalledAs, now: Instant) -> Value {
        let agent = self.host.agent(called, Some(&entry.identity));
        controller::descriptor(agent, &entry.identity, &entry.stats, now)
    }

    /// Stops a session; its caller hears of it when it is over. Returns what it will hear.
    fn stop(
        &mut self,
        session_id: SessionId,
        wire: Wire,
        message: &Message,
        received: Instant,
    ) -> Result<Value, DaemonError> {
        let (connection, reply) = (self.connection.clone(), message.reply.clone());
        let counters = self.intake.counters.clone();
        let document = match wire {
            Wire::Intake => json!({"ok": true, "sessionId": session_id}),
            Wire::Controller(..) => json!({"ok": true, "session_id": session_id}),
        };
        let answer = document.clone();
        let Some(entry) = self.by_id(&session_id) else { return Err(DaemonError::NotFound { session_id }) };
        entry.stop(Box::new(move |_| {
            if let Some(reply) = reply {
                send_document(&connection, &reply, &answer);
            }
            if wire == Wire::Intake {
                counters.add_time(received.elapsed());
            }
        }));
        Ok(document)
    }

    /// Answers with a document.
    pub(super) fn answer(&self, wire: Wire, message: &Message, document: &Value, received: Instant) {
        if let Some(reply) = &message.reply {
            send_document(&self.connection, reply, document);
        }
        self.counters(wire, |counters| counters.add_time(received.elapsed()));
    }

    /// Answers with an error.
    pub(super) fn refuse(&self, wire: Wire, message: &Message, error: &DaemonError) {
        self.counters(wire, |counters| counters.count_error(error.status(), &error.summary()));
        if let Some(reply) = &message.reply {
            send_refusal(&self.connection, wire, message, reply, error);
        }
    }

    fn counters(&self, wire: Wire, count: impl FnOnce(&Counters)) {
        match wire {
            Wire::Intake => count(&self.intake.counters),
            Wire::Controller(verb, _) => {
                if let Some(counters) = self.controller.counters(verb) {
                    count(counters);
                }
            }
        }
    }
}
