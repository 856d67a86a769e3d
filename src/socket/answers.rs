//! What each request does, and its answer.

use super::client::Client;
use super::requests::{Failure, Head, ImagePart, Kind, PromptFields, Refusal, Request, Slash, invalid, slash};
use super::routes::{NoRoute, Route};
use super::stream::ChunkStream;
use super::{ClientRequest, DaemonAsk, DaemonRespond, PROTOCOL};
use crate::contract::control::{Control, ControlRequest, Input};
use crate::contract::error::{ErrorKind, ReplyError};
use crate::contract::prompt::{Command, EndReason};
use crate::contract::reply::{Reply, SilentReply};
use crate::contract::request;
use crate::json::object;
use crate::log_buffer;
use crate::prompt::commands;
use crate::sync::lock;
use crate::transcript::Block;
use crossbeam_channel::{Receiver, RecvTimeoutError, SendTimeoutError, bounded, select};
use serde_json::{Value, json};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How long a session or the daemon may take to answer. They answer within one step, so this is never waited for unless
/// something is wrong.
const ANSWER: Duration = Duration::from_secs(10);
/// How long the end of a run or of a session may take: it includes what its programs need to die.
const END: Duration = Duration::from_secs(30);
/// Time for a summary of a long conversation, which a model writes.
const COMPACTION: Duration = Duration::from_secs(600);

impl From<NoRoute> for Failure {
    fn from(why: NoRoute) -> Failure {
        let kind = match &why {
            NoRoute::Unclear(ids) if !ids.is_empty() => ErrorKind::InvalidRequest,
            NoRoute::Unknown(_) | NoRoute::Unclear(_) => ErrorKind::NotFound,
        };
        Failure::new(kind, why.to_string())
    }
}

/// The session ended before it answered.
fn ended() -> Failure {
    Failure::new(ErrorKind::NotFound, "the session has ended")
}

fn busy(why: &str) -> Failure {
    Failure::Session(ReplyError::busy(why))
}

type Outcome = Result<Value, Failure>;

impl Client<'_> {
    /// Does what is asked and writes the response.
    pub(super) fn answer(&mut self, request: Request) {
        let Request { head, mut kind } = request;
        let stream = if let Kind::Intake(asked, stream) = &kind {
            *stream && matches!(**asked, request::Request::Create(_))
        } else {
            matches!(&kind, Kind::Prompt(fields) if fields.stream)
        };
        let stream = stream.then(|| Arc::new(ChunkStream::new(self.link.clone(), head.id.clone())));
        let outcome = match self.permit(&head, &mut kind) {
            Ok(()) => self.work(&head, kind, stream.as_ref()),
            Err(failure) => Err(failure),
        };
        match outcome {
            Ok(data) => {
                self.succeed(&head, data);
                if let Some(stream) = stream {
                    stream.open();
                }
            }
            Err(failure) => {
                if let Some(stream) = stream {
                    stream.discard();
                }
                // The reference throws in these handlers, and answers what was thrown under the name that was asked for.
                let asked = matches!(head.command, "answer" | "reject");
                let command = if asked { head.asked.clone() } else { head.command.to_string() };
                self.refuse(Refusal { id: head.id, command: Some(command), failure });
            }
        }
    }

    fn work(&mut self, head: &Head, kind: Kind, stream: Option<&Arc<ChunkStream>>) -> Outcome {
        let reply = stream.map(|stream| stream.clone() as Arc<dyn Reply>);
        match kind {
            Kind::Ping => {
                let state = match self.route(head) {
                    Ok(route) => self.state(&route, "ping")?,
                    // The daemon itself is there in any case.
                    Err(_) if head.session.is_none() => {
                        json!(self.shared.identity.front(&self.shared.table(), "ping"))
                    }
                    Err(why) => return Err(why),
                };
                Ok(json!({"protocol": PROTOCOL, "state": state}))
            }
            Kind::State => self.state(&*self.route(head)?, "get_state"),
            Kind::Subscribe { enabled: false, .. } => self.unsubscribe(head),
            Kind::Subscribe { enabled: true, since } => {
                let route = self.route(head)?;
                self.subscribe(&route, since)
            }
            Kind::Emit { message } => {
                let data = json!({"message": message});
                self.ask(&*self.route(head)?, Control::Emit { event: "bridge_emit", data })
            }
            Kind::Commands => Ok(self.commands(&*self.route(head)?)),
            Kind::Prompt(fields) => self.prompt(&*self.route(head)?, *fields, reply),
            Kind::History(query) => self.ask(&*self.route(head)?, Control::History(query)),
            Kind::Abort => {
                let route = self.route(head)?;
                let state = self.ask_within(&route, Control::Abort, END)?;
                Ok(self.with_socket(&route, state, "abort"))
            }
            Kind::Compact { instructions } => {
                self.ask_within(&*self.route(head)?, Control::Compact { instructions }, COMPACTION)
            }
            Kind::Shutdown { confirmed: false } => Err(invalid("Set confirm:true to shutdown this Pi session")),
            Kind::Shutdown { confirmed: true } if self.own.is_none() && head.session.is_none() => {
                self.ask_daemon(DaemonAsk::ShutDown, ANSWER)
            }
            Kind::Shutdown { confirmed: true } => {
                let route = self.route(head)?;
                // A session whose inbox is full or closed is ending already.
                let _ = route.commands.send_timeout(Command::End(EndReason::Stopped), ANSWER);
                Ok(json!({"requested": true}))
            }
            Kind::Questions => self.ask(&*self.route(head)?, Control::Questions),
            Kind::Answer { question: id, answers } => {
                self.ask(&*self.route(head)?, Control::Answer { id, answers, source: "bridge" })
            }
            Kind::Reject { question: id } => self.ask(&*self.route(head)?, Control::Reject { id, source: "bridge" }),
            Kind::Approve(settlement) => self.ask(&*self.route(head)?, Control::Approve(settlement)),
            Kind::Inspect => self.ask(&*self.route(head)?, Control::Inspect),
            Kind::Cancel { prompt } => self.ask(&*self.route(head)?, Control::Cancel { id: prompt }),
            Kind::Configure(changes) => self.ask(&*self.route(head)?, Control::Configure(changes)),
            Kind::Clear => self.ask(&*self.route(head)?, Control::Clear),
            Kind::Logs { limit } => {
                // Lines about a session outlive it, so that it need not be there.
                let own = self.own.as_ref().map(|own| own.identity.id.to_string());
                Ok(log_buffer::lines(own.or(head.session.clone()).as_deref(), limit))
            }
            Kind::Metrics => match &self.own {
                None => self.ask_daemon(DaemonAsk::Metrics, ANSWER),
                Some(_) => Err(self.at_the_daemon()),
            },
            Kind::Intake(asked, _) => self.intake(*asked, reply),
        }
    }

    /// The session that a request is for.
    pub(super) fn route(&self, head: &Head) -> Result<Arc<Route>, Failure> {
        match (&self.own, &head.session) {
            (Some(own), None) => Ok(own.clone()),
            (Some(own), Some(id)) if **id == *own.identity.id => Ok(own.clone()),
            (Some(own), Some(_)) => Err(invalid(format!("this is the socket of session {:?}", own.identity.id))),
            (None, id) => Ok(self.shared.table().find(id.as_deref())?),
        }
    }

    /// Asks a session for something that takes it one step.
    pub(super) fn ask(&self, route: &Route, control: Control) -> Outcome {
        self.ask_within(route, control, ANSWER)
    }

    fn ask_within(&self, route: &Route, control: Control, time: Duration) -> Outcome {
        let (sender, receiver) = bounded(1);
        let respond = Box::new(move |answer| {
            // There is room for the only answer; a client that does not wait any more has none to take.
            let _ = sender.try_send(answer);
        });
        let command = Command::Control(Box::new(ControlRequest { control, respond }));
        match route.commands.send_timeout(command, time) {
            Ok(()) => {}
            Err(SendTimeoutError::Timeout(_)) => return Err(busy("the session takes no request")),
            Err(SendTimeoutError::Disconnected(_)) => return Err(ended()),
        }
        match self.wait(&receiver, time) {
            Ok(Ok(answer)) => Ok(answer.into_document()),
            Ok(Err(error)) => Err(Failure::Session(error)),
            Err(RecvTimeoutError::Disconnected) => Err(ended()),
            Err(RecvTimeoutError::Timeout) => {
                Err(busy(&format!("the session did not answer within {} s", time.as_secs())))
            }
        }
    }

    /// Waits for an answer, but not longer than for the client.
    fn wait<T>(&self, answer: &Receiver<T>, time: Duration) -> Result<T, RecvTimeoutError> {
        select! {
            recv(answer) -> answer => answer.map_err(|_| RecvTimeoutError::Disconnected),
            recv(self.link.gone()) -> _ => Err(RecvTimeoutError::Timeout),
            default(time) => Err(RecvTimeoutError::Timeout),
        }
    }

    fn ask_daemon(&self, ask: DaemonAsk, time: Duration) -> Outcome {
        self.ask_daemon_or(ask, time, |_| {})
    }

    /// Asks the daemon; an answer that comes when it is not waited for any more goes to `unheard`, on the daemon's thread.
    fn ask_daemon_or(&self, ask: DaemonAsk, time: Duration, unheard: impl FnOnce(Value) + Send + 'static) -> Outcome {
        let (sender, receiver) = bounded(1);
        let waits = Arc::new(Mutex::new(true));
        let asker = waits.clone();
        let respond: DaemonRespond = Box::new(move |answer| {
            let waits = lock(&asker);
            if *waits {
                // There is room for the only answer.
                let _ = sender.try_send(answer);
            } else if let Ok(answer) = answer {
                unheard(answer);
            }
        });
        if self.shared.requests.send_timeout(ClientRequest { ask, respond }, time).is_err() {
            return Err(busy("the daemon takes no request"));
        }
        let answer = self.wait(&receiver, time).or_else(|_| {
            *lock(&waits) = false;
            // It may have come in the last moment.
            receiver.try_recv()
        });
        match answer {
            Ok(answer) => answer.map_err(Failure::Daemon),
            Err(_) => Err(busy(&format!("the daemon did not answer within {} s", time.as_secs()))),
        }
    }

    fn state(&self, route: &Route, reason: &str) -> Outcome {
        let state = self.ask(route, Control::State)?;
        Ok(self.with_socket(route, state, reason))
    }

    /// A session's own idea of its state, with what only the side channel knows.
    fn with_socket(&self, route: &Route, state: Value, reason: &str) -> Value {
        let row = match &self.own {
            Some(_) => self.shared.identity.own(route, route.stats.running(), reason),
            None => {
                self.shared.identity.session(route, &self.shared.identity.daemon_socket, route.stats.running(), reason)
            }
        };
        let mut row = object(json!(row));
        let mut state = object(state);
        state.remove("lastReason");
        row.extend(state);
        Value::Object(row)
    }

    /// The events of a session from now on, after those that came after number `since`.
    pub(super) fn subscribe(&mut self, route: &Arc<Route>, since: Option<u64>) -> Outcome {
        let data = self.ask(route, Control::Subscribe { sink: self.link.clone(), since })?;
        self.link.mute(false);
        self.subscribed.retain(|known| known.token != route.token);
        // Sessions that are over have nothing more to tell.
        let table = self.shared.table();
        self.subscribed.retain(|known| table.routes.contains_key(&known.token));
        drop(table);
        self.subscribed.push(route.clone());
        Ok(data)
    }

    /// No more events: of one session, or of any.
    fn unsubscribe(&mut self, head: &Head) -> Outcome {
        let id = head.session.as_deref();
        let (ended, kept) = std::mem::take(&mut self.subscribed)
            .into_iter()
            .partition(|route| id.is_none_or(|id| *id == *route.identity.id));
        self.subscribed = kept;
        self.link.mute(self.subscribed.is_empty());
        for route in ended {
            // One that is over sends no more events either.
            let _ = self.ask(&route, Control::Unsubscribe { sink: self.link.clone() });
        }
        Ok(json!({"enabled": false}))
    }

    fn commands(&self, route: &Route) -> Value {
        let own = [
            ("bridge:status", "Tell where the socket and the registry file are"),
            ("bridge:ping", "Answer with an event bridge_pong, without the model"),
        ];
        let own = own.map(|(name, text)| json!({"name": name, "description": text, "source": "extension"}));
        let found = commands::list(&self.shared.folders.places(&route.identity.cwd, route.identity.project_trusted));
        json!({"commands": own.into_iter().chain(found).collect::<Vec<_>>()})
    }

    fn prompt(&mut self, route: &Route, mut fields: PromptFields, reply: Option<Arc<dyn Reply>>) -> Outcome {
        let mut expanded = None;
        match slash(&fields.text) {
            Slash::None => {}
            Slash::Status => return without_model(reply, self.status(route)),
            Slash::Ping(text) => return without_model(reply, self.pong(route, &fields, text)),
            Slash::Command(name) => {
                let found = commands::expand(
                    &fields.text,
                    &self.shared.folders.places(&route.identity.cwd, route.identity.project_trusted),
                );
                let failed = |why| Failure::new(ErrorKind::BadRequest, format!("Slash expansion failed: {why}"));
                if let Some(found) = found.transpose().map_err(failed)? {
                    expanded = Some((found.kind, found.command));
                    fields.text = match found.again {
                        Some(again) if !route.first_time(again.key) => again.reminder,
                        _ => found.text,
                    };
                } else if !Path::new("/").join(name).exists() {
                    let why = format!("Unknown command: /{name} (get_commands lists those that there are)");
                    return Err(Failure::new(ErrorKind::NotFound, why));
                }
            }
        }
        let input = Input {
            text: fields.text,
            expand: expanded.is_none(),
            images: self.images(fields.images)?,
            deliver: fields.deliver,
            sender: None,
            from: fields.from,
            trace: fields.trace,
            source: "extension",
            reply,
        };
        let mut data = self.ask(route, Control::Prompt(input))?;
        if let Some((kind, command)) = expanded {
            data["expandedAs"] = json!(kind);
            data["expandedCommand"] = json!(command);
        }
        Ok(data)
    }

    /// The images of a message, with those that came along with it.
    fn images(&mut self, parts: Vec<ImagePart>) -> Result<Vec<Block>, Failure> {
        let image = |part| match part {
            ImagePart::Here(image) => Ok(image),
            ImagePart::Along { mime_type } => {
                let data = self.descriptors.take_image().map_err(invalid)?;
                Ok(Block::Image { data, mime_type })
            }
        };
        parts.into_iter().map(image).collect()
    }

    /// `/bridge:status`: where everything is, after the registry was told to look.
    fn status(&self, route: &Route) -> Outcome {
        route.stats.outdated("bridge:status");
        let own = self.shared.table().only().is_none();
        let directory = &self.shared.directory;
        let row = if own { directory.session_row(&route.identity.id) } else { directory.daemon_row() };
        let socket = route.socket.as_ref().unwrap_or(&self.shared.identity.daemon_socket);
        let idle = !route.stats.running();
        Ok(json!({"deliveredAs": "now", "idleBeforeSend": idle, "socketPath": socket.to_string_lossy(),
            "registryPath": row.to_string_lossy()}))
    }

    /// `/bridge:ping`: a sign of life of the session, without its model.
    fn pong(&self, route: &Route, fields: &PromptFields, text: &str) -> Outcome {
        let idle = !route.stats.running();
        let source = "extension";
        self.ask(route, Control::Emit { event: "input", data: json!({"text": fields.text, "source": source}) })?;
        self.ask(route, Control::Emit { event: "bridge_pong", data: json!({"text": text, "source": source}) })?;
        let delivered = if idle { "now" } else { "steer" };
        Ok(json!({"deliveredAs": delivered, "idleBeforeSend": idle}))
    }

    /// Only the daemon can do it, and it has a socket of its own.
    fn at_the_daemon(&self) -> Failure {
        let daemon = self.shared.identity.daemon_socket.display();
        let own = self.own.as_ref().map(|own| own.identity.id.to_string()).unwrap_or_default();
        invalid(format!("this is the socket of session {own:?}; the daemon's is {daemon}"))
    }

    /// What only the daemon can do.
    fn intake(&mut self, asked: request::Request, reply: Option<Arc<dyn Reply>>) -> Outcome {
        if self.own.is_some() {
            return Err(self.at_the_daemon());
        }
        match asked {
            request::Request::Drain(drain) => self.ask_daemon(DaemonAsk::Drain(drain), ANSWER),
            request::Request::List(page) => self.ask_daemon(DaemonAsk::List(page), ANSWER),
            request::Request::Stop { session_id } => self.ask_daemon(DaemonAsk::Stop { session_id }, END),
            request::Request::Create(create) => {
                let watched = reply.is_some() && create.session_id.is_none();
                let reply = reply.unwrap_or_else(|| Arc::new(SilentReply));
                let shared = self.shared.clone();
                let made =
                    move |row: &Value| row["sessionId"].as_str().and_then(|id| shared.table().find(Some(id)).ok());
                let find = made.clone();
                // Nobody is left to whom the answer of a run could matter, if its only client does not even know it.
                let unheard = move |row: Value| {
                    if let Some(run) = find(&row).filter(|_| watched) {
                        // The inbox of a new run has room.
                        let _ = run.commands.try_send(Command::End(EndReason::Stopped));
                    }
                };
                let mut row = self.ask_daemon_or(DaemonAsk::Create { create, reply }, ANSWER, unheard)?;
                let route = made(&row);
                if let Some(socket) = route.as_ref().and_then(|route| route.socket.as_ref()) {
                    row["socketPath"] = json!(socket.to_string_lossy());
                }
                let table = self.shared.table();
                self.runs.retain(|run| table.routes.contains_key(&run.token));
                self.runs.extend(route.filter(|_| watched));
                Ok(row)
            }
        }
    }
}

/// What was done without the model has no answer to stream.
fn without_model(reply: Option<Arc<dyn Reply>>, outcome: Outcome) -> Outcome {
    if let Some(reply) = reply {
        reply.finish(Ok(()));
    }
    outcome
}
