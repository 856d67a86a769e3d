//! The subjects of a named session on both wires: prompts, inspection and control on `pi-exec`, prompts and status of the
//! agent protocol. Only the daemon that has the session subscribes to them, so that it never matters which other daemons
//! the owner has.

use super::agents::attachments::{Attachments, images};
use super::agents::envelope::Envelope;
use super::agents::queries::Queries;
use super::agents::stream::AgentStream;
use super::agents::{self, AgentIdentity, CalledAs, envelope};
use super::control::{self, INSPECT, Responder};
use super::events::{self, EventPublisher};
use super::host::Host;
use super::micro::QUEUE_GROUP;
use super::presence::Presence;
use super::recent;
use super::replies::{CountedReply, send_document, send_error};
use super::services::SessionService;
use super::stream::{Form, Stream};
use super::waiting_room::{Class, Limits, WaitingRoom};
use crate::clock::now_ms;
use crate::contract::control::{Control, ControlRequest};
use crate::contract::error::{ErrorKind, ReplyError};
use crate::contract::identity::SessionIdentity;
use crate::contract::prompt::{Incoming, Prompt};
use crate::contract::reply::{Reply, SilentReply};
use crate::contract::sender::AgentSender;
use crate::contract::session::SessionStats;
use crate::contract::wire::{Wire, WireRequest, WireSettings};
use crate::event_log::{self, EventSink};
use crate::nats::{Connection, Message, PublishError, Subscription};
use crate::quota::SessionQuota;
use crate::traceparent::{TRACEPARENT, Traceparent};
use crossbeam_channel::Receiver;
use serde_json::Value;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Prompts that may wait for a session's actor beside those that its queue has room for.
const WAITING: usize = 64;
/// Bytes of prompts that may wait for it.
const WAITING_BYTES: usize = 64 << 20;
/// Other requests that may wait for it: those that it answers in one step, and those that end work or are waited for.
const QUERIES: Limits = Limits { requests: 16 * 1024, bytes: 16 << 20 };
const URGENT: Limits = Limits { requests: 4 * 1024, bytes: 16 << 20 };
/// How long the end of a session waits for what the server still has for it.
const LAST_CALL: Duration = Duration::from_millis(500);

/// The subject on which a session takes prompts.
pub(crate) fn session_subject(owner: &str, id: &str) -> String {
    format!("agents.pi-exec.{owner}.{id}")
}

/// What a session needs to be there on NATS.
pub(crate) struct Place {
    pub host: Arc<Host>,
    pub identity: Arc<SessionIdentity>,
    pub stats: Arc<SessionStats>,
    /// Where files that come with prompts are kept.
    pub attachments: PathBuf,
    /// How much may be kept there.
    pub quota: Arc<SessionQuota>,
    pub settings: WireSettings,
}

/// The subscriptions of one session. Dropping them ends them.
pub(crate) struct SessionSubjects {
    room: Arc<WaitingRoom>,
    requests: Receiver<Box<Message>>,
    subscriptions: Vec<Subscription>,
    reader: Reader,
}

/// Understands the messages to a session.
struct Reader {
    host: Arc<Host>,
    service: Arc<SessionService>,
    identity: Arc<SessionIdentity>,
    stats: Arc<SessionStats>,
    queries: Arc<Queries>,
    attachments: Attachments,
    /// Callers of the agent protocol are told of tool calls and costs.
    tool_status: bool,
    /// There while events are published.
    publisher: Option<Arc<dyn EventSink>>,
    room: Arc<WaitingRoom>,
    /// There once the session had an approval.
    presence: Option<Presence>,
}

/// Whether prompts are taken.
enum Admission {
    /// The session takes them, unless it says why not.
    Open { closed: Option<ReplyError> },
    /// The session is over: whoever sends one is told so by it.
    Over,
}

/// The end of a subject that says what is asked.
#[derive(Debug, PartialEq, Eq)]
enum Asks<'a> {
    Prompt(Form),
    Status,
    /// A word below the session's subject.
    Verb(&'a str),
    /// The subject of a question.
    Query,
}

/// Reads a subject that one of a session's subscriptions stands for.
fn asks(subject: &str) -> Asks<'_> {
    let mut words = subject.split('.');
    match (words.next(), words.next()) {
        (Some("agents"), Some("prompt")) => Asks::Prompt(Form::Agent),
        (Some("agents"), Some("status")) => Asks::Status,
        // The owner and the session come before the verb.
        (Some("agents"), Some("pi-exec")) => words.nth(2).map_or(Asks::Prompt(Form::Text), Asks::Verb),
        _ => Asks::Query,
    }
}

/// What a message is, for the sake of room.
fn class(message: &Message) -> Class {
    match asks(&message.subject) {
        Asks::Prompt(_) => Class::Work,
        Asks::Verb("steer" | "follow_up" | "compact") => Class::Work,
        Asks::Verb("abort" | "answer" | "approve" | "reject" | "cancel") | Asks::Query => Class::Urgent,
        Asks::Verb(_) | Asks::Status => Class::Query,
    }
}

/// What comes for a session that is not there yet waits here.
pub(crate) struct Subscribed {
    service: Arc<SessionService>,
    room: Arc<WaitingRoom>,
    requests: Receiver<Box<Message>>,
    subscriptions: Vec<Subscription>,
}

impl Subscribed {
    /// Subscribes to a session's subjects. `max_queue` prompts may wait in its queue.
    ///
    /// # Errors
    /// The connection takes no more.
    pub(crate) fn to(
        host: &Arc<Host>,
        identity: &SessionIdentity,
        max_queue: usize,
    ) -> Result<Subscribed, PublishError> {
        let service = Arc::<SessionService>::default();
        let connection = &host.connection;
        let limits = [Limits { requests: max_queue + WAITING, bytes: WAITING_BYTES }, QUERIES, URGENT];
        let (room, requests) = WaitingRoom::new(
            limits,
            class,
            refuse_unread(host, &service, max_queue, None),
            host.reply_subjects.clone(),
        );
        let subscribe = |subject: &str, queue| connection.subscribe(subject, Some(queue), room.clone());
        let subject = session_subject(&host.owner, &identity.id);
        let mut subscriptions =
            vec![subscribe(&subject, QUEUE_GROUP)?, subscribe(&format!("{subject}.*"), QUEUE_GROUP)?];
        for agent in host.agents(Some(identity)) {
            for verb in ["prompt", "status"] {
                subscriptions.push(subscribe(&agent.subject(verb), agents::QUEUE_GROUP)?);
            }
        }
        Ok(Subscribed { service, room, requests, subscriptions })
    }

    /// Refuses what comes for a session that is not here, and says why, until it is dropped.
    ///
    /// # Errors
    /// The connection takes no more.
    pub(crate) fn refusing(host: &Arc<Host>, session: &str, why: ReplyError) -> Result<Subscribed, PublishError> {
        let service = Arc::<SessionService>::default();
        let refuse = refuse_unread(host, &service, 0, Some(why));
        let none = [Limits { requests: 0, bytes: 0 }; 3];
        let (room, requests) = WaitingRoom::new(none, class, refuse, host.reply_subjects.clone());
        let subject = session_subject(&host.owner, session);
        let mut subjects = vec![(subject.clone(), QUEUE_GROUP), (format!("{subject}.*"), QUEUE_GROUP)];
        for agent in host.agents(None) {
            let agent = AgentIdentity { session: Some(session), ..agent };
            subjects.extend(["prompt", "status"].map(|verb| (agent.subject(verb), agents::QUEUE_GROUP)));
        }
        let subscribe =
            |(subject, queue): &(String, &str)| host.connection.subscribe(subject, Some(queue), room.clone());
        let subscriptions = subjects.iter().map(subscribe).collect::<Result<_, _>>()?;
        Ok(Subscribed { service, room, requests, subscriptions })
    }

    /// Takes nothing more, and refuses what has come: the session has not come here after all.
    pub(crate) fn refuse_all(self, host: &Arc<Host>, max_queue: usize) {
        drain(&host.connection, self.subscriptions);
        let why = ReplyError::moved_on();
        let refuse = refuse_unread(host, &self.service, max_queue, Some(why));
        self.requests.try_iter().for_each(|message| refuse(&message));
    }

    pub(crate) fn service(&self) -> &Arc<SessionService> {
        &self.service
    }
}

impl SessionSubjects {
    /// Serves a session on the subjects that were subscribed to for it.
    pub(crate) fn open(subscribed: Subscribed, place: Place) -> SessionSubjects {
        let Subscribed { service, room, requests, subscriptions } = subscribed;
        let Place { host, identity, stats, attachments, quota, settings } = place;
        let mut reader = Reader {
            queries: Arc::new(Queries::new(&host.connection, room.clone())),
            attachments: Attachments::new(attachments, quota),
            tool_status: false,
            publisher: None,
            room: room.clone(),
            presence: None,
            host,
            service,
            identity,
            stats,
        };
        let events = settings.events.unwrap_or(reader.host.events);
        reader.apply(WireSettings { events: Some(events), ..settings });
        SessionSubjects { room, requests, subscriptions, reader }
    }
}

impl Wire for SessionSubjects {
    type Message = Message;

    fn messages(&self) -> &Receiver<Box<Message>> {
        &self.requests
    }

    fn read(&mut self, message: &Message, closed: Option<ReplyError>) -> Vec<WireRequest> {
        self.room.taken(message);
        self.reader.read(message, Admission::Open { closed })
    }

    fn listener(&self) -> Option<Arc<dyn EventSink>> {
        self.reader.publisher.clone()
    }

    fn call_for(&mut self, envelope: &Arc<event_log::Envelope>) -> bool {
        let Reader { host, identity, room, presence, .. } = &mut self.reader;
        if presence.is_none() {
            *presence = Presence::new(&host.connection, room.clone());
        }
        let subject = events::subject(&host.owner, &identity.id, &envelope.event);
        presence.as_ref().is_some_and(|presence| presence.publish(&host.connection, &subject, envelope))
    }

    fn settings(&self) -> WireSettings {
        WireSettings { events: Some(self.reader.publisher.is_some()), tool_status: Some(self.reader.tool_status) }
    }

    fn reply_to(&self, address: &Value) -> Option<Arc<dyn Reply>> {
        let reply = self.reader.resume(address)?;
        Some(match recent::of_address(address) {
            Some(request) => self.reader.host.recent.share(request, reply, Instant::now()),
            None => reply,
        })
    }

    fn joins(&self, address: &Value) -> bool {
        let recent = &self.reader.host.recent;
        let Some(request) = recent::of_address(address).filter(|request| recent.has_seen(&request.key)) else {
            return false;
        };
        let Some(reply) = self.reader.resume(address) else { return true };
        if recent.is_taken(&request) {
            reply.finish(Err(taken()));
            return true;
        }
        recent.join(&request.key, || reply)
    }

    fn stop(&mut self) {
        drain(&self.reader.host.connection, std::mem::take(&mut self.subscriptions));
    }

    fn close(mut self, goes_on: bool) -> Vec<Prompt> {
        self.stop();
        let SessionSubjects { room: _, requests, subscriptions: _, mut reader } = self;
        let late: Vec<_> = requests.try_iter().collect();
        let mut prompts = Vec::new();
        for request in late.iter().flat_map(|message| reader.read(message, Admission::Over)) {
            match request {
                WireRequest::Prompt(prompt) => prompts.push(prompt),
                WireRequest::Refused { reply, error } => reply.finish(Err(error)),
                // Whoever asked for control is told by the end of the request.
                WireRequest::Control(_) => {}
            }
        }
        if !(goes_on && reader.stats.settings().file.is_some())
            && let Err(e) = reader.attachments.remove()
        {
            log::warn!("session {}: its attachments cannot be removed: {e}", reader.identity.id);
        }
        prompts
    }
}

/// Ends subscriptions when all has come that the server has sent by now, where it can be asked.
fn drain(connection: &Connection, subscriptions: Vec<Subscription>) {
    let deadline = Instant::now() + LAST_CALL;
    for subscription in subscriptions.into_iter().filter(|_| connection.is_connected()) {
        subscription.drain(deadline.saturating_duration_since(Instant::now()));
    }
}

/// The answer of a prompt whose caller wants none.
fn silent() -> Arc<dyn Reply> {
    Arc::new(SilentReply)
}

fn taken() -> ReplyError {
    ReplyError::coded(ErrorKind::DuplicateRequest, "the Nats-Msg-Id was used for another request")
}

/// Refuses a request that has an answer of one message.
fn refuse(host: &Host, reply: &str, error: &ReplyError) {
    send_error(&host.connection, reply, error.status(), &error.message, &error.document(), false);
}

/// What answers requests to a session for which there is no room. It is called on the connection's own thread.
fn refuse_unread(
    host: &Arc<Host>,
    service: &Arc<SessionService>,
    max_queue: usize,
    why: Option<ReplyError>,
) -> Box<dyn Fn(&Message) + Send + Sync> {
    let (host, service) = (host.clone(), service.clone());
    let busy = why.clone().unwrap_or_else(|| ReplyError::busy("too many requests wait"));
    let full = why.unwrap_or_else(|| ReplyError::queue_full(max_queue));
    Box::new(move |message| match asks(&message.subject) {
        Asks::Prompt(form) => {
            let (counters, error) = (service.prompt_counters(form), full.clone());
            counters.count_request();
            counters.count_error(error.status(), &error.message);
            if let Some(reply) = message.reply.clone() {
                Stream::new(&host.connection, reply, form).refuse(error);
            }
        }
        Asks::Verb(verb) => {
            let (host, service) = (host.clone(), service.clone());
            Responder::new(host, service, verb, message).respond(Err(busy.clone()));
        }
        Asks::Status => {
            let error = busy.clone();
            service.agent_status.count_request();
            service.agent_status.count_error(error.status(), &error.message);
            message.reply.iter().for_each(|reply| refuse(&host, reply, &error));
        }
        // Nobody waits for an answer to an answer; the connection reports that there was no room.
        Asks::Query => {}
    })
}

impl Reader {
    fn read(&mut self, message: &Message, admission: Admission) -> Vec<WireRequest> {
        match asks(&message.subject) {
            Asks::Verb(verb) => self.control(message, verb),
            Asks::Query => self.unattended(message).or_else(|| self.answer(message)).into_iter().collect(),
            Asks::Prompt(form) => self.prompt(message, form, admission).into_iter().collect(),
            Asks::Status => {
                message.reply.iter().for_each(|reply| self.status(reply, CalledAs::by_subject(&message.subject)));
                Vec::new()
            }
        }
    }

    /// A prompt without reply subject is worked on like any other; its answer is in the history and in the events.
    fn prompt(&mut self, message: &Message, form: Form, admission: Admission) -> Option<WireRequest> {
        let received = Instant::now();
        let counters = self.service.prompt_counters(form).clone();
        counters.count_request();
        let counted = |reply| -> Arc<dyn Reply> { Arc::new(CountedReply::new(reply, counters.clone(), received)) };
        let refused = |reply, error| Some(WireRequest::Refused { reply: counted(reply), error });
        let stream = message.reply.clone().map(|reply| Stream::new(&self.host.connection, reply, form));
        let (envelope, from, sender) = match self.understand(message, form) {
            Ok(understood) => understood,
            Err(error) => return refused(stream.map_or_else(silent, |stream| Arc::new(stream)), error),
        };
        let mut reply: Arc<dyn Reply> = match (stream, form) {
            (None, _) => silent(),
            (Some(stream), Form::Text) => Arc::new(stream),
            (Some(stream), Form::Agent) => self.agent_reply(stream),
        };
        let named = recent::named(message, sender.as_ref());
        if let Some(request) = &named {
            if self.host.recent.is_taken(request) {
                return refused(reply, taken());
            }
            if self.host.recent.join(&request.key, || reply.clone()) {
                return None;
            }
        }
        let (text, images) = match admission {
            Admission::Open { closed: Some(error) } => return refused(reply, error),
            Admission::Open { closed: None } => match self.attachments.stage(&envelope.attachments, &envelope.prompt) {
                Ok(text) => (text, images(&envelope.attachments)),
                Err(error) => return refused(reply, error),
            },
            Admission::Over => (envelope.prompt, Vec::new()),
        };
        if let Some(request) = named {
            reply = self.host.recent.share(request, reply, received);
        }
        let reply = counted(reply);
        let trace = message.header(TRACEPARENT).and_then(Traceparent::parse);
        let message = Incoming { images, trace, ..Incoming::new(text) };
        Some(WireRequest::Prompt(Prompt { message, from, sender, reply, received }))
    }

    /// A prompt with its files, the name that its sender gave itself, and who it is.
    fn understand(
        &self,
        message: &Message,
        form: Form,
    ) -> Result<(Envelope, Option<String>, Option<AgentSender>), ReplyError> {
        match form {
            Form::Text => {
                let request =
                    crate::service::intake::parse_prompt(&message.payload).map_err(ReplyError::empty_prompt)?;
                let envelope = Envelope { prompt: request.text, attachments: Vec::new() };
                Ok((envelope, request.from, self.host.senders.identify(message, now_ms())?))
            }
            Form::Agent => {
                let envelope = envelope::parse(&message.payload)?;
                Ok((envelope, None, self.host.senders.identify(message, now_ms())?))
            }
        }
    }

    /// Where the answer to a prompt goes that came to another process, if that can be reached.
    fn resume(&self, address: &Value) -> Option<Arc<dyn Reply>> {
        let stream = Stream::resume(&self.host.connection, &self.host.reply_subjects, address)?;
        Some(match stream.form() {
            Form::Text => Arc::new(stream),
            Form::Agent => self.agent_reply(stream),
        })
    }

    fn agent_reply(&self, stream: Stream) -> Arc<dyn Reply> {
        self.host.keep_alive.watch(&stream);
        Arc::new(AgentStream::new(stream, &self.stats, &self.queries, self.tool_status))
    }

    fn status(&self, reply: &str, called: CalledAs) {
        let begun = Instant::now();
        self.service.agent_status.count_request();
        let document = self.host.status(self.host.agent(called, Some(&self.identity)), now_ms());
        send_document(&self.host.connection, reply, &document);
        self.service.agent_status.add_time(begun.elapsed());
    }

    fn control(&mut self, message: &Message, verb: &str) -> Vec<WireRequest> {
        let responder = Responder::new(self.host.clone(), self.service.clone(), verb, message);
        // Whoever only looks need not prove who it is.
        let sender = if verb == INSPECT { Ok(None) } else { self.host.senders.identify(message, now_ms()) };
        match sender.and_then(|sender| control::parse(verb, message, sender.as_ref())) {
            Err(error) => {
                responder.respond(Err(error));
                Vec::new()
            }
            Ok(asked) => {
                let mut requests: Vec<WireRequest> = self.apply(asked.settings).into_iter().collect();
                let request = ControlRequest { control: asked.control, respond: responder.into_respond() };
                requests.push(WireRequest::Control(request));
                requests
            }
        }
    }

    /// Changes settings; returns what the session has to do for that.
    fn apply(&mut self, settings: WireSettings) -> Option<WireRequest> {
        self.tool_status = settings.tool_status.unwrap_or(self.tool_status);
        let control = match (settings.events, self.publisher.take()) {
            (Some(true), None) => {
                let publisher = EventPublisher::new(&self.host.connection, &self.host.owner, &self.identity.id);
                let sink: Arc<dyn EventSink> = Arc::new(publisher);
                self.publisher = Some(sink.clone());
                Control::Subscribe { sink, since: None }
            }
            (Some(false), Some(sink)) => Control::Unsubscribe { sink },
            (_, unchanged) => {
                self.publisher = unchanged;
                return None;
            }
        };
        // The answer of the request that changed the settings is the one that its caller gets.
        Some(WireRequest::Control(ControlRequest { control, respond: Box::new(|_| {}) }))
    }

    /// The server's word that nobody got an event that has to be answered.
    fn unattended(&self, message: &Message) -> Option<WireRequest> {
        let seq = self.presence.as_ref()?.nobody_got(message)?;
        let control = Control::Unattended { seq };
        Some(WireRequest::Control(ControlRequest { control, respond: Box::new(|_| {}) }))
    }

    /// An answer to a question that was asked in the middle of an answer.
    fn answer(&self, message: &Message) -> Option<WireRequest> {
        let answer = self.queries.read(message)?;
        let id = self.identity.id.clone();
        let respond = Box::new(move |result: Result<_, ReplyError>| {
            if let Err(error) = result {
                log::info!("session {id}: an answer was refused: {error}");
            }
        });
        let control = answer.into_control();
        Some(WireRequest::Control(ControlRequest { control, respond }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects_say_what_is_asked() {
        for (subject, expected) in [
            ("agents.pi-exec.ada.worker", Asks::Prompt(Form::Text)),
            ("agents.pi-exec.ada.worker.inspect", Asks::Verb("inspect")),
            ("agents.pi-exec.ada.worker.follow_up", Asks::Verb("follow_up")),
            ("agents.prompt.pi-exec.ada.worker", Asks::Prompt(Form::Agent)),
            ("agents.status.pi-exec.ada.worker", Asks::Status),
            ("_INBOX.abc", Asks::Query),
            ("agents", Asks::Query),
        ] {
            assert_eq!(asks(subject), expected, "{subject}");
        }
    }
}
