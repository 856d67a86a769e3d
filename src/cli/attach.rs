//! `pi-bridge attach`: a person's view of a live session in a plain terminal.
//!
//! One thread waits for three things at once: records of the session, lines of the person, and Ctrl-C. The terminal stays
//! in its usual line mode, so that it works over any connection and is never left in a strange state.

mod approval;
mod question;
mod totals;
mod typed;
mod view;

use super::answer::error_of;
use super::connection::{Connection, Deadline, Record, new_id, same_id};
use super::failure::Failure;
use super::lines::LineBuffer;
use super::output::{self, one_line};
use super::stream::ends;
use crate::socket::PROTOCOL;
use question::{Question, Reply};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};
use typed::Typed;
use view::View;

/// A second Ctrl-C within this time leaves.
const TWICE: Duration = Duration::from_secs(2);
/// How many bytes of past events are asked for: enough for what is in progress and the messages before it.
const PAST_BYTES: u64 = 512 * 1024;
/// Longest line that a person may type, bytes. The session takes no longer record either.
const MAX_LINE: usize = 1024 * 1024;
/// Read from the terminal at a time, bytes.
const CHUNK: usize = 4096;

const ENDED: &str = "The session has ended";

const HELP: &str = "\
-- a line prompts the session, or steers it while it is busy; with a question open, it is the answer
-- /follow TEXT  after the current work      /steer TEXT  also while a question is open
-- /abort  end the current work              /skip, /reject  for a question      /quit  leave
-- other lines that begin with / are commands of the session (pi-bridge commands)
";

/// What a request was for, which decides what its response means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    Message,
    Abort,
    /// The answer to a question, or its rejection.
    Answer,
    /// The questions that wait.
    Questions,
}

impl Purpose {
    /// What it is called where its response is missing.
    fn as_str(self) -> &'static str {
        match self {
            Purpose::Message => "message",
            Purpose::Abort => "abort",
            Purpose::Answer => "answer",
            Purpose::Questions => "request for the open questions",
        }
    }
}

/// A request that has no response yet.
struct OpenRequest {
    id: Value,
    purpose: Purpose,
    /// When to say that there is no response; absent for never.
    until: Option<Instant>,
}

/// Whether to go on.
#[derive(PartialEq, Eq)]
enum Next {
    GoOn,
    Leave,
}

struct Attach {
    connection: Connection,
    /// The session to name in requests, where the socket is not its own.
    session: Option<String>,
    timeout: Option<Duration>,
    view: View,
    /// Questions that wait, the one that is asked first.
    questions: VecDeque<Question>,
    requests: Vec<OpenRequest>,
    last_interrupt: Option<Instant>,
    /// The session told that it ends.
    stopped: bool,
}

/// Shows the session on the connection until the person leaves.
///
/// # Errors
/// The session ends, or the connection breaks; [`Failure::OutputClosed`] when the terminal is gone.
pub(super) fn run(connection: Connection, session: Option<String>, timeout: Option<Duration>) -> Result<(), Failure> {
    let view = View::new(is_ansi());
    let mut attach = Attach {
        connection,
        session,
        timeout,
        view,
        questions: VecDeque::new(),
        requests: Vec::new(),
        last_interrupt: None,
        stopped: false,
    };
    let interrupts = interrupts()?;
    let result = attach.begin().and_then(|()| attach.serve(&interrupts));
    attach.view.leave();
    let shown = output::print(&attach.view.take());
    result.and(shown)
}

/// Whether standard output is a terminal that knows the few control sequences that are used.
fn is_ansi() -> bool {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    io::stdout().is_terminal() && set("NO_COLOR").is_none() && set("TERM").is_some_and(|term| term != "dumb")
}

/// A socket that a byte arrives on with every Ctrl-C.
fn interrupts() -> Result<UnixStream, Failure> {
    let failed = |e: String| Failure::Local(format!("Cannot handle Ctrl-C: {e}"));
    let (reader, writer) = UnixStream::pair().map_err(|e| failed(e.to_string()))?;
    for end in [&reader, &writer] {
        end.set_nonblocking(true).map_err(|e| failed(e.to_string()))?;
    }
    ctrlc::set_handler(move || {
        // When it is full there are more than enough in it.
        let _ = (&writer).write(&[0]);
    })
    .map_err(|e| failed(e.to_string()))?;
    Ok(reader)
}

impl Attach {
    fn request(&self, kind: &str, fields: Value) -> Value {
        let mut request = json!({"id": new_id(), "type": kind});
        if let (Some(request), Value::Object(fields)) = (request.as_object_mut(), fields) {
            request.extend(fields);
            if let Some(session) = &self.session {
                request.insert("session".into(), session.as_str().into());
            }
        }
        request
    }

    /// Shows the session as it is now.
    fn begin(&mut self) -> Result<(), Failure> {
        let deadline = Deadline::after(self.timeout);
        let hello = self.connection.record(deadline)?.unwrap_or_default();
        if hello.get("protocol").and_then(Value::as_str) != Some(PROTOCOL) {
            return Err(Failure::Local(format!("What listens there does not speak {PROTOCOL}")));
        }
        // Events from here on. They are kept until the past, which may hold some of them, is shown.
        let mut events = Vec::new();
        self.ask("subscribe", json!({"enabled": true}), deadline, &mut events)?;
        let state = self.ask("get_state", json!({}), deadline, &mut events)?;
        let past = self.ask("history", json!({"maxBytes": PAST_BYTES}), deadline, &mut events)?;
        let later = events.len();
        let questions = self.ask("questions", json!({}), deadline, &mut events)?;
        self.view.busy = state["isIdle"] == false;
        self.view.note(&describe(&state));
        let past: Vec<Record> =
            past["events"].as_array().into_iter().flatten().filter_map(|event| event.as_object().cloned()).collect();
        let now = Instant::now();
        self.view.past(&past, now);
        for (at, event) in events.into_iter().enumerate() {
            // A session that does not count its events answers in the order in which things happen.
            if !self.view.is_known(&event) && (at >= later || event.contains_key("seq")) {
                self.record(event, now)?;
            }
        }
        for question in questions["questions"].as_array().into_iter().flatten() {
            self.opened(question);
        }
        Ok(())
    }

    /// Asks and keeps the records that come before the response. A refusal counts as an empty answer, except for the
    /// subscription, without which there is nothing to see.
    fn ask(
        &mut self,
        kind: &str,
        fields: Value,
        deadline: Deadline,
        records: &mut Vec<Record>,
    ) -> Result<Value, Failure> {
        let request = self.request(kind, fields);
        self.connection.send(&request, deadline)?;
        while let Some(mut record) = self.connection.record(deadline)? {
            if record.get("id").is_some_and(|id| same_id(id, &request["id"])) {
                if record.get("success") != Some(&Value::Bool(true)) && kind == "subscribe" {
                    return Err(Failure::Local(error_of(&record)));
                }
                return Ok(record.remove("data").unwrap_or_default());
            }
            records.push(record);
        }
        Err(Failure::Local(ENDED.into()))
    }

    /// The loop.
    fn serve(&mut self, interrupts: &UnixStream) -> Result<(), Failure> {
        let (stdin, stdout) = (io::stdin(), io::stdout());
        let mut typed = LineBuffer::default();
        loop {
            while let Some(record) = self.connection.arrived() {
                self.record(record, Instant::now())?;
            }
            self.expire(Instant::now());
            if stdout.is_terminal() && (!self.view.busy || !self.questions.is_empty()) {
                self.view.prompt();
            }
            output::print(&self.view.take())?;
            let mut waits = [
                PollFd::new(&self.connection, PollFlags::IN),
                PollFd::from_borrowed_fd(stdin.as_fd(), PollFlags::IN),
                PollFd::new(interrupts, PollFlags::IN),
                PollFd::from_borrowed_fd(stdout.as_fd(), PollFlags::empty()),
            ];
            match poll(&mut waits, self.longest_wait().as_ref()) {
                Err(rustix::io::Errno::INTR) => continue,
                Err(e) => return Err(Failure::Local(format!("Cannot wait: {e}"))),
                Ok(_) => {}
            }
            let [records, lines, interrupted, gone] = waits.map(|wait| wait.revents());
            if gone.intersects(PollFlags::ERR | PollFlags::HUP) {
                return Err(Failure::OutputClosed);
            }
            if !records.is_empty() && !self.connection.receive(Deadline::after(self.timeout))? {
                while let Some(record) = self.connection.arrived() {
                    self.record(record, Instant::now())?;
                }
                return Err(Failure::Local(ENDED.into()));
            }
            if !interrupted.is_empty() && self.interrupted(interrupts)? == Next::Leave {
                return Ok(());
            }
            if !lines.is_empty() && self.type_in(&stdin, &mut typed)? == Next::Leave {
                return Ok(());
            }
        }
    }

    /// Until the first response is overdue.
    fn longest_wait(&self) -> Option<Timespec> {
        let until = self.requests.iter().filter_map(|request| request.until).min()?;
        Timespec::try_from(until.saturating_duration_since(Instant::now())).ok()
    }

    fn expire(&mut self, now: Instant) {
        let due = |request: &OpenRequest| request.until.is_some_and(|until| until <= now);
        for request in self.requests.extract_if(.., |request| due(request)).collect::<Vec<_>>() {
            self.view.error(&format!("no response in time to the {}", request.purpose.as_str()));
        }
    }

    /// Reads what was typed and acts on its lines.
    fn type_in(&mut self, stdin: &io::Stdin, typed: &mut LineBuffer) -> Result<Next, Failure> {
        let mut chunk = [0; CHUNK];
        // Past the standard library's buffer, of which poll(2) knows nothing.
        let length = match rustix::io::read(stdin, &mut chunk) {
            Ok(length) => length,
            Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => return Ok(Next::GoOn),
            // The terminal is gone.
            Err(_) => 0,
        };
        typed.push(&chunk[..length]);
        while let Some(line) = typed.next_line() {
            self.view.typed();
            if self.line(&String::from_utf8_lossy(&line))? == Next::Leave {
                return Ok(Next::Leave);
            }
        }
        if typed.partial() > MAX_LINE {
            typed.take_rest();
            self.view.error("that line is too long; it is not sent");
        }
        Ok(if length == 0 { Next::Leave } else { Next::GoOn })
    }

    /// Acts on a typed line.
    fn line(&mut self, line: &str) -> Result<Next, Failure> {
        match typed::read(line) {
            Typed::Nothing => {}
            Typed::Quit => return Ok(Next::Leave),
            Typed::Help => self.view.block(HELP),
            Typed::Incomplete(why) => self.view.error(why),
            Typed::Abort => self.send("abort", json!({}), Purpose::Abort)?,
            Typed::FollowUp(text) => self.send_message("follow_up", &text)?,
            Typed::Steer(text) => self.send_message("steer", &text)?,
            Typed::Command(text) => self.send_message("prompt", &text)?,
            Typed::Text(text) => match self.questions.front_mut() {
                Some(question) => {
                    let reply = question.answer(&text);
                    self.replied(reply)?;
                }
                None => self.send_message("prompt", &text)?,
            },
            Typed::Skip => match self.questions.front_mut() {
                Some(question) => {
                    let reply = question.skip();
                    self.replied(reply)?;
                }
                None => self.view.error("no question is open"),
            },
            Typed::Reject => match self.questions.pop_front() {
                Some(question) => {
                    match &question.hash {
                        Some(hash) => {
                            let no = approval::settlement(&question.id, hash, &Value::Null);
                            self.send("approve", no, Purpose::Answer)?;
                        }
                        None => self.send("reject", json!({"requestId": question.id}), Purpose::Answer)?,
                    }
                    self.ask_question();
                }
                None => self.view.error("no question is open"),
            },
        }
        Ok(Next::GoOn)
    }

    fn send_message(&mut self, kind: &str, text: &str) -> Result<(), Failure> {
        self.view.sent(text);
        self.send(kind, json!({"message": text}), Purpose::Message)
    }

    fn send(&mut self, kind: &str, fields: Value, purpose: Purpose) -> Result<(), Failure> {
        let request = self.request(kind, fields);
        self.connection.send(&request, Deadline::after(self.timeout))?;
        let until = self.timeout.map(|timeout| Instant::now() + timeout);
        self.requests.push(OpenRequest { id: request["id"].clone(), purpose, until });
        Ok(())
    }

    /// Goes on with the question that is asked.
    fn replied(&mut self, reply: Reply) -> Result<(), Failure> {
        match reply {
            Reply::Again(why) => self.view.error(&why),
            Reply::Next => self.ask_question(),
            Reply::Done(answers) => {
                // From here on it is the session's; if the answer is refused, the question is looked up again.
                if let Some(question) = self.questions.pop_front() {
                    match &question.hash {
                        Some(hash) => {
                            let fields = approval::settlement(&question.id, hash, &answers);
                            self.send("approve", fields, Purpose::Answer)?;
                        }
                        None => {
                            let fields = json!({"requestId": question.id, "answers": answers});
                            self.send("answer", fields, Purpose::Answer)?;
                        }
                    }
                }
                self.ask_question();
            }
        }
        Ok(())
    }

    /// Shows the question that is to be answered now, if there is one.
    fn ask_question(&mut self) {
        if let Some(question) = self.questions.front() {
            self.view.block(&question.ask());
        }
    }

    /// A question waits for an answer.
    fn opened(&mut self, entry: &Value) {
        if let Some(question) = Question::read(entry)
            && !self.questions.iter().any(|other| other.id == question.id)
        {
            self.questions.push_back(question);
            if self.questions.len() == 1 {
                self.ask_question();
            }
        }
    }

    /// A question is settled; if it was open here, somebody else did it.
    fn settled(&mut self, data: &Value) {
        let Some(at) = self.questions.iter().position(|question| data["requestId"] == question.id.as_str()) else {
            return;
        };
        self.questions.remove(at);
        let answers = data["result"]["answers"].as_array().into_iter().flatten();
        let labels: Vec<&str> =
            answers.flat_map(|labels| labels.as_array().into_iter().flatten()).filter_map(Value::as_str).collect();
        match data["action"].as_str() {
            _ if data["kind"] == "approval" => self.view.note(&approval::outcome(data)),
            Some("rejected") => self.view.note("the question was rejected elsewhere"),
            _ => self.view.note(&format!("the question was answered elsewhere: {}", one_line(&labels.join(", "), 100))),
        }
        if at == 0 {
            self.ask_question();
        }
    }

    /// Acts on a record of the session.
    fn record(&mut self, record: Record, now: Instant) -> Result<(), Failure> {
        match record.get("type").and_then(Value::as_str) {
            Some("event") => match (record.get("event").and_then(Value::as_str), record.get("data")) {
                (Some("bridge_stop"), Some(Value::Object(data))) => {
                    self.stops(data);
                    // The daemon's socket stays open when one of its sessions ends.
                    if self.session.as_deref().is_some_and(|session| ends(&record, session)) {
                        return Err(Failure::Local(ENDED.into()));
                    }
                }
                (Some("question"), Some(data)) if data["action"] == "opened" => self.opened(data),
                (Some("question"), Some(data)) => self.settled(data),
                _ => self.view.event(&record, now),
            },
            Some("response") => self.response(record)?,
            Some("bridge_error") => self.view.error(&error_of(&record)),
            Some("bridge_stop") => self.stops(&record),
            _ => {}
        }
        Ok(())
    }

    /// The session told that it ends, which it does as an event and as a record of its own.
    fn stops(&mut self, record: &Record) {
        if !self.stopped {
            self.stopped = true;
            let reason = record.get("reason").and_then(Value::as_str).unwrap_or("no reason given");
            self.view.note(&format!("the session ends: {}", one_line(reason, 100)));
        }
    }

    fn response(&mut self, response: Record) -> Result<(), Failure> {
        let Some(id) = response.get("id") else { return Ok(()) };
        let Some(at) = self.requests.iter().position(|request| same_id(&request.id, id)) else { return Ok(()) };
        let purpose = self.requests.remove(at).purpose;
        let data = response.get("data").unwrap_or(&Value::Null);
        let success = response.get("success") == Some(&Value::Bool(true));
        if !success {
            self.view.error(&error_of(&response));
        }
        match purpose {
            // The question may still be open: it was taken from the list when it was answered.
            Purpose::Answer if !success => self.send("questions", json!({}), Purpose::Questions)?,
            Purpose::Questions => {
                data["questions"].as_array().into_iter().flatten().for_each(|entry| self.opened(entry))
            }
            Purpose::Message if success && data["idleBeforeSend"] == false => match data["deliveredAs"].as_str() {
                Some("steer") => self.view.note("it will read that at its next step"),
                Some("followUp") => self.view.note("it will read that when it is done"),
                _ => {}
            },
            Purpose::Message | Purpose::Abort | Purpose::Answer => {}
        }
        Ok(())
    }

    /// Ctrl-C: ends the current work; when there is none, or again, leaves.
    fn interrupted(&mut self, mut interrupts: &UnixStream) -> Result<Next, Failure> {
        let _ = interrupts.read(&mut [0; 16]);
        let now = Instant::now();
        // The terminal shows ^C and forgets what was typed.
        self.view.leave();
        if !self.view.busy || self.last_interrupt.is_some_and(|last| now.duration_since(last) < TWICE) {
            return Ok(Next::Leave);
        }
        self.last_interrupt = Some(now);
        self.view.note("aborting; Ctrl-C again leaves");
        self.send("abort", json!({}), Purpose::Abort)?;
        Ok(Next::GoOn)
    }
}

/// The session in one line.
fn describe(state: &Value) -> String {
    let text = |key: &str| state[key].as_str().filter(|text| !text.is_empty());
    let mut out = format!("session {}", text("sessionName").or(text("sessionId")).unwrap_or("without a name"));
    if let Some(cwd) = text("cwd") {
        out.push_str(&format!(" in {cwd}"));
    }
    if let Some(model) = state["model"]["id"].as_str() {
        out.push_str(&format!(", {model}"));
    }
    out.push_str(if state["isIdle"] == false { ", busy" } else { ", idle" });
    out.push_str(" (/help)");
    out
}
