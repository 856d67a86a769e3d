//! One client: the thread that reads its requests, one after the other, and the thread that writes.

use super::descriptors::Descriptors;
use super::framing::{Frame, Framer};
use super::link::{Link, error_line};
use super::registry::Row;
use super::requests::{self, Head, Refusal};
use super::routes::Route;
use super::{PROTOCOL, Shared};
use crate::contract::control::Control;
use crate::contract::prompt::{Command, EndReason};
use crate::threads;
use serde_json::{Map, Value, json};
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

/// The longest line of a client with its end, bytes (the reference's number).
const MAX_LINE: usize = 1 << 20;
/// How long the end of a run waits for room among what its other clients ask of it.
const END_RUN: Duration = Duration::from_secs(1);
/// What is read at a time, bytes.
const READ: usize = 8192;

/// What the reading thread knows of its client.
pub(super) struct Client<'a> {
    pub shared: &'a Arc<Shared>,
    pub link: &'a Arc<Link>,
    /// The session whose socket this is; absent on the daemon's.
    pub own: Option<Arc<Route>>,
    /// The session of whose tools the client is one.
    pub agent: Option<Arc<Route>>,
    /// The sessions whose events the client gets.
    pub subscribed: Vec<Arc<Route>>,
    /// The runs whose answers are streamed to the client, and to nobody else.
    pub runs: Vec<Arc<Route>>,
    pub descriptors: Descriptors,
}

impl<'a> Client<'a> {
    pub(super) fn new(shared: &'a Arc<Shared>, link: &'a Arc<Link>, agent: Option<Arc<Route>>) -> Client<'a> {
        let own = link.session.and_then(|token| shared.table().routes.get(&token).cloned());
        Client {
            shared,
            link,
            own,
            agent,
            subscribed: Vec::new(),
            runs: Vec::new(),
            descriptors: Descriptors::default(),
        }
    }

    /// Serves until the client leaves or the connection is ended.
    pub(super) fn serve(mut self) {
        self.greet();
        let link = self.link.clone();
        let writer = threads::spawn(&format!("c{}-w", link.id), threads::SMALL_STACK, move || link.write_lines());
        let writer = match writer {
            Ok(thread) => thread,
            Err(e) => {
                log::warn!("side channel: no thread for client {}: {e}", self.link.id);
                self.leave();
                self.link.stop("");
                // Without a writer it is written right here, as far as the client takes it.
                return self.link.write_lines();
            }
        };
        // The writer is joined last, so whatever happens here the connection has to end before.
        let _writer = writer;
        let _end = EndOnPanic(self.link);
        self.read();
        self.leave();
        if !self.link.read_to_end() {
            self.end_runs();
        }
    }

    /// The hello, which must be the first line; and the events, which come from before it is read.
    fn greet(&mut self) {
        let hello = |state: Row<'_>| json!({"type": "bridge_hello", "protocol": PROTOCOL, "state": state});
        let (hello, route) = match &self.own {
            Some(route) => {
                (hello(self.shared.identity.own(route, route.stats.running(), "hello")), Some(route.clone()))
            }
            None => {
                let table = self.shared.table();
                (hello(self.shared.identity.front(&table, "hello")), table.only().cloned())
            }
        };
        self.link.send(hello.to_string());
        if let Some(route) = route.filter(|route| !self.is_own_session(route)) {
            // A session that ends just now has no events to tell.
            let _ = self.subscribe(&route, None);
        }
    }

    fn read(&mut self) {
        let mut framer = Framer::new(MAX_LINE);
        let mut bytes = [0; READ];
        let link = self.link.clone();
        loop {
            match self.descriptors.read(link.socket(), &mut bytes) {
                Ok(0) => return,
                Ok(count) => framer.feed(&bytes[..count], |frame| {
                    if link.is_open() {
                        self.frame(frame);
                    }
                }),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return log::debug!("side channel: client {}: {e}", link.id),
            }
        }
    }

    fn frame(&mut self, frame: Frame<'_>) {
        let line = match frame {
            Frame::TooLong(beginning) => {
                let failure = requests::invalid("Input line exceeds 1 MiB");
                return self.refuse(Refusal { id: requests::id_of(beginning), command: None, failure });
            }
            Frame::Line(line) => line,
        };
        match requests::parse(line) {
            Ok(request) => {
                let link = self.link.clone();
                link.while_answering(|| self.answer(request));
            }
            Err(refusal) => self.refuse(*refusal),
        }
    }

    pub(super) fn refuse(&self, refusal: Refusal) {
        let details = refusal.failure.document();
        let mut response = response(refusal.id, refusal.command.as_deref());
        response.insert("success".into(), json!(false));
        response.insert("error".into(), json!(refusal.failure.message()));
        response.insert("code".into(), details["error"].clone());
        response.insert("details".into(), details);
        self.link.send(Value::Object(response).to_string());
    }

    pub(super) fn succeed(&self, head: &Head, data: Value) {
        let mut response = response(head.id.clone(), Some(head.command));
        response.insert("success".into(), json!(true));
        response.insert("data".into(), data);
        self.link.send(Value::Object(response).to_string());
    }

    /// The client is gone while its runs work: nobody is left to whom their answers could matter.
    fn end_runs(&mut self) {
        for run in std::mem::take(&mut self.runs) {
            // One whose inbox is closed is over. This thread has nothing else to do, and may wait for room.
            let _ = run.commands.send_timeout(Command::End(EndReason::Stopped), END_RUN);
        }
    }

    /// The client listens no more.
    fn leave(&mut self) {
        for route in std::mem::take(&mut self.subscribed) {
            let sink = self.link.clone();
            // A session that is gone has forgotten it already.
            let _ = self.ask(&route, Control::Unsubscribe { sink });
        }
    }
}

/// Ends the connection when its reader panics.
struct EndOnPanic<'a>(&'a Link);

impl Drop for EndOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.stop(&error_line("internal_error: the connection is given up", "server"));
        }
    }
}

fn response(id: Option<Value>, command: Option<&str>) -> Map<String, Value> {
    let mut response = Map::from_iter([("type".to_string(), json!("response"))]);
    if let Some(id) = id {
        response.insert("id".into(), id);
    }
    if let Some(command) = command {
        response.insert("command".into(), json!(command));
    }
    response
}
