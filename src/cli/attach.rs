//! `pi-bridge attach`: a person's view of a live session, and a place to work in.
//!
//! One thread waits for everything at once: records of the session, keys or lines of the person, signals, and the moment at
//! which the line about what goes on moves. Where the terminal can, there is a line editor at its bottom and output appears
//! above it; anywhere else lines are read as they come and output is only ever appended.

mod approval;
mod commands;
mod front;
mod markdown;
mod outputs;
mod place;
mod question;
mod totals;
mod typed;
mod view;

use super::activity::MOVES;
use super::answer::error_of;
use super::connection::{Connection, Deadline, Record, new_id, same_id};
use super::failure::Failure;
use super::output::one_line;
use super::stream::ends;
use super::style::Style;
use super::terminal::{Signals, drain};
use commands::Session;
pub(super) use commands::sandbox;
use front::{Front, Typing};
pub(super) use place::Place;
use place::{Again, greeting};
use question::Question;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};
pub(super) use totals::{dollars, tokens};
use view::{Missing, View};

/// A second Ctrl-C within this time leaves.
const TWICE: Duration = Duration::from_secs(2);
/// How many bytes of past events are asked for: enough for what is in progress and the messages before it.
const PAST_BYTES: u64 = 512 * 1024;
/// How much of an event that was cut is asked for, bytes.
const OUTPUT_BYTES: u64 = 4 * 1024 * 1024;
/// A terminal sends a key's sequence in one piece; what is not complete after this time is all there is.
const KEY: Duration = Duration::from_millis(50);
/// How often a daemon that is gone is looked for.
const LOOKS: Duration = Duration::from_millis(300);
/// How long a daemon that is there again may take to bring its sessions back.
const BRINGS_BACK: Duration = Duration::from_secs(10);

const ENDED: &str = "The session has ended";

/// What a request was for, which decides what its response means.
enum Purpose {
    Message,
    Abort,
    /// The answer to a question, or its rejection.
    Answer,
    /// The questions that wait.
    Questions,
    /// A change of the session's settings.
    Configure,
    Compact,
    Stop,
    /// What the session and the run that ended used.
    Totals(String),
    /// What the session used, for a person who wants to know.
    Cost,
    Model,
    Queue,
    ClearQueue,
    /// The session's commands, for completion.
    Commands,
    /// The result of a call that was too large for its event; shown as a whole where a person asked for it.
    Output(Box<Missing>, bool),
    /// Whether everything is done, so that who only piped something in can leave.
    Settled,
}

impl Purpose {
    /// What it is called where its response is missing.
    fn as_str(&self) -> &'static str {
        match self {
            Purpose::Message => "message",
            Purpose::Abort => "abort",
            Purpose::Answer => "answer",
            Purpose::Questions => "request for the open questions",
            Purpose::Configure | Purpose::Model => "request about the settings",
            Purpose::Compact => "compaction",
            Purpose::Stop => "stop",
            Purpose::Totals(_) | Purpose::Cost => "request for the totals",
            Purpose::Queue | Purpose::ClearQueue => "request for the queue",
            Purpose::Commands => "request for the commands",
            Purpose::Output(..) => "request for an output",
            Purpose::Settled => "request for the state",
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

/// What comes next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    GoOn,
    Leave,
    /// Another session, as a person names it.
    Switch(String),
}

/// Looking for a daemon that is gone.
struct Gone {
    next: Instant,
    /// When a daemon was there that did not have the session.
    without: Option<Instant>,
}

struct Attach {
    /// Absent while the daemon is gone.
    connection: Option<Connection>,
    place: Place,
    /// The session's id, if it has one.
    id: Option<String>,
    timeout: Option<Duration>,
    front: Front,
    view: View,
    /// What is known of the session beside its events.
    about: Session,
    /// Questions that wait, the one that is asked first.
    questions: VecDeque<Question>,
    requests: Vec<OpenRequest>,
    last_interrupt: Option<Instant>,
    /// The reason with which the session told that it ends.
    stopped: Option<String>,
    /// The person wants it to end.
    stopping: bool,
    gone: Option<Gone>,
    /// The input has ended, and what it asked for is being waited for.
    leaving: bool,
}

/// Shows the session on the connection until the person leaves or wants another one.
///
/// # Errors
/// The session ends, or something breaks; [`Failure::OutputClosed`] when the terminal is gone.
pub(super) fn run(
    connection: Connection,
    place: Place,
    plain: bool,
    timeout: Option<Duration>,
) -> Result<Next, Failure> {
    let signals = Signals::catch()?;
    let mut attach = Attach {
        connection: Some(connection),
        place,
        id: None,
        timeout,
        front: Front::open(plain)?,
        view: View::new(Style::of_output(plain)),
        about: Session::default(),
        questions: VecDeque::new(),
        requests: Vec::new(),
        last_interrupt: None,
        stopped: None,
        stopping: false,
        gone: None,
        leaving: false,
    };
    let result = attach.begin().and_then(|()| attach.serve(&signals));
    attach.view.leave();
    let shown = attach.front.leave(&attach.view.take());
    result.and_then(|next| shown.map(|()| next))
}

impl Attach {
    fn request(&self, kind: &str, fields: Value) -> Value {
        let mut request = json!({"id": new_id(), "type": kind});
        if let (Some(request), Value::Object(fields)) = (request.as_object_mut(), fields) {
            request.extend(fields);
            if let Some(session) = &self.place.session {
                request.insert("session".into(), session.as_str().into());
            }
        }
        request
    }

    /// Shows the session as it is now.
    fn begin(&mut self) -> Result<(), Failure> {
        let deadline = Deadline::after(self.timeout);
        if let Some(connection) = &mut self.connection {
            greeting(connection, deadline)?;
        }
        // Events from here on. They are kept until the past, which may hold some of them, is shown.
        let mut events = Vec::new();
        self.ask("subscribe", json!({"enabled": true}), deadline, &mut events)?;
        let state = self.ask("get_state", json!({}), deadline, &mut events)?;
        let past = self.ask("history", json!({"maxBytes": PAST_BYTES}), deadline, &mut events)?;
        let later = events.len();
        let facts = self.ask("inspect", json!({}), deadline, &mut events)?;
        let questions = self.ask("questions", json!({}), deadline, &mut events)?;
        self.id = state["sessionId"].as_str().map(str::to_string);
        self.view.busy = state["isIdle"] == false;
        self.about = Session::read(&state, &facts);
        self.view.note(&self.about.header(self.view.busy));
        let past: Vec<Record> =
            past["events"].as_array().into_iter().flatten().filter_map(|event| event.as_object().cloned()).collect();
        let now = Instant::now();
        View::prompts(&past).for_each(|text| self.front.remember(&text));
        self.view.past(&past, now);
        if self.view.busy {
            self.view.activity.asked(now);
        }
        for (at, event) in events.into_iter().enumerate() {
            // A session that does not count its events answers in the order in which things happen.
            if !self.view.is_known(&event) && (at >= later || event.contains_key("seq")) {
                self.record(event, now)?;
            }
        }
        for question in questions["questions"].as_array().into_iter().flatten() {
            self.opened(question);
        }
        self.send("get_commands", json!({}), Purpose::Commands)
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
        let Some(connection) = &mut self.connection else { return Err(Failure::Local(ENDED.into())) };
        connection.send(&request, deadline)?;
        while let Some(mut record) = connection.record(deadline)? {
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
    fn serve(&mut self, signals: &Signals) -> Result<Next, Failure> {
        let (stdin, stdout) = (io::stdin(), io::stdout());
        loop {
            self.take_records()?;
            self.look_again()?;
            self.follow_up()?;
            if self.leaving && self.is_done() {
                return Ok(Next::Leave);
            }
            self.show()?;
            let nothing = PollFlags::empty();
            let input = if self.leaving { nothing } else { PollFlags::IN };
            let mut waits = vec![
                PollFd::from_borrowed_fd(stdout.as_fd(), nothing),
                PollFd::new(&signals.interrupts, PollFlags::IN),
                PollFd::new(&signals.resizes, PollFlags::IN),
                PollFd::new(&signals.ends, PollFlags::IN),
            ];
            if !self.leaving {
                waits.push(PollFd::from_borrowed_fd(stdin.as_fd(), input));
            }
            if let Some(connection) = &self.connection {
                waits.push(PollFd::new(connection, PollFlags::IN));
            }
            match poll(&mut waits, self.longest_wait().as_ref()) {
                Err(rustix::io::Errno::INTR) => continue,
                Err(e) => return Err(Failure::Local(format!("Cannot wait: {e}"))),
                // A key that has begun and does not go on.
                Ok(0) if self.front.is_waiting() => self.front.give_up()?,
                Ok(_) => {}
            }
            let ready: Vec<PollFlags> = waits.iter().map(PollFd::revents).collect();
            drop(waits);
            let is_ready = |at: usize| ready.get(at).is_some_and(|flags| !flags.is_empty());
            if ready[0].intersects(PollFlags::ERR | PollFlags::HUP) {
                return Err(Failure::OutputClosed);
            }
            if is_ready(3) {
                return Err(Failure::Local("Ended by a signal".into()));
            }
            if is_ready(2) {
                drain(&signals.resizes);
                self.front.resize()?;
            }
            let records = if self.leaving { 4 } else { 5 };
            if is_ready(records)
                && let Some(connection) = &mut self.connection
                && !connection.receive(Deadline::after(self.timeout))?
            {
                self.take_records()?;
                self.lost()?;
            }
            if is_ready(1) {
                drain(&signals.interrupts);
                self.view.leave();
                let next = self.interrupted()?;
                if next != Next::GoOn {
                    return Ok(next);
                }
            }
            if !self.leaving && is_ready(4) {
                let mut typings = VecDeque::from(self.front.read(!self.questions.is_empty())?);
                while let Some(typing) = typings.pop_front() {
                    let is_completion = typing == Typing::Complete;
                    let next = self.typed(typing)?;
                    if next != Next::GoOn {
                        return Ok(next);
                    }
                    if is_completion {
                        typings.extend(self.front.go_on()?);
                    }
                }
            }
        }
    }

    fn take_records(&mut self) -> Result<(), Failure> {
        while let Some(record) = self.connection.as_mut().and_then(Connection::arrived) {
            self.record(record, Instant::now())?;
        }
        Ok(())
    }

    fn show(&mut self) -> Result<(), Failure> {
        let now = Instant::now();
        self.expire(now);
        let status = match (&self.gone, self.front.moves()) {
            (_, false) => None,
            (Some(_), true) => Some("the daemon is gone; it is looked for (Ctrl-C leaves)".to_string()),
            // What is waited for is the person.
            (None, true) if !self.questions.is_empty() => None,
            (None, true) => self.view.activity.line(now),
        };
        let may_type = !self.leaving && (!self.view.busy || !self.questions.is_empty());
        self.front.show(&self.view.take(), status, may_type)
    }

    /// Until something has to be done that nobody sends.
    fn longest_wait(&self) -> Option<Timespec> {
        let now = Instant::now();
        let overdue = self.requests.iter().filter_map(|request| request.until).min();
        let moves = (self.front.moves() && self.questions.is_empty() && self.view.activity.line(now).is_some())
            .then(|| now + MOVES);
        let key = self.front.is_waiting().then(|| now + KEY);
        let look = self.gone.as_ref().map(|gone| gone.next);
        let until = [overdue, moves, key, look].into_iter().flatten().min()?;
        Timespec::try_from(until.saturating_duration_since(now)).ok()
    }

    fn expire(&mut self, now: Instant) {
        let due = |request: &OpenRequest| request.until.is_some_and(|until| until <= now);
        for request in self.requests.extract_if(.., |request| due(request)).collect::<Vec<_>>() {
            self.view.error(&format!("no response in time to the {}", request.purpose.as_str()));
            if matches!(request.purpose, Purpose::Message) && !self.view.busy {
                self.view.activity.settled();
            }
        }
    }

    /// Asks for what the last records left open.
    fn follow_up(&mut self) -> Result<(), Failure> {
        if self.connection.is_none() {
            return Ok(());
        }
        if std::mem::take(&mut self.view.ended) {
            self.send("inspect", json!({}), Purpose::Totals(self.view.run.to_string()))?;
        }
        for missing in std::mem::take(&mut self.view.missing) {
            self.ask_output(missing, false)?;
        }
        if self.leaving && self.requests.is_empty() && !self.view.busy && self.questions.is_empty() {
            self.send("get_state", json!({}), Purpose::Settled)?;
        }
        Ok(())
    }

    /// Asks for the result of a call.
    fn ask_output(&mut self, missing: Missing, whole: bool) -> Result<(), Failure> {
        let seq = missing.event.get("seq").and_then(Value::as_u64).unwrap_or_default();
        let fields = json!({"raw": true, "event": "tool_execution_end", "sinceSeq": seq.saturating_sub(1),
            "maxBytes": OUTPUT_BYTES});
        self.send("history", fields, Purpose::Output(Box::new(missing), whole))
    }

    /// Whether nothing that was piped in is waited for any more.
    fn is_done(&mut self) -> bool {
        if !self.questions.is_empty() {
            self.view.note("a question waits for an answer; pi-bridge questions shows it");
            return true;
        }
        self.about.settled
    }

    /// Ctrl-C: ends the current work; when there is none, or again, leaves.
    fn interrupted(&mut self) -> Result<Next, Failure> {
        let now = Instant::now();
        let again = self.last_interrupt.is_some_and(|last| now.duration_since(last) < TWICE);
        if !self.view.busy || again || self.connection.is_none() {
            return Ok(Next::Leave);
        }
        self.last_interrupt = Some(now);
        self.view.note("aborting; Ctrl-C again leaves");
        self.abort()?;
        Ok(Next::GoOn)
    }

    fn send(&mut self, kind: &str, fields: Value, purpose: Purpose) -> Result<(), Failure> {
        let request = self.request(kind, fields);
        let Some(connection) = &mut self.connection else {
            self.view.error("the daemon is gone; that is not sent");
            return Ok(());
        };
        if connection.send(&request, Deadline::after(self.timeout)).is_err() {
            self.view.error(&format!("the {} could not be sent", purpose.as_str()));
            return self.lost();
        }
        // A summary takes a model's time.
        let waits = !matches!(purpose, Purpose::Compact);
        let until = self.timeout.filter(|_| waits).map(|timeout| Instant::now() + timeout);
        self.requests.push(OpenRequest { id: request["id"].clone(), purpose, until });
        Ok(())
    }

    /// The connection is gone: for good if the session said so, and else until its daemon is there again.
    fn lost(&mut self) -> Result<(), Failure> {
        self.connection = None;
        if self.stopping && self.stopped.as_deref() == Some("stopped") {
            (self.leaving, self.about.settled) = (true, true);
            return Ok(());
        }
        if let Some(reason) = self.stopped.as_ref().filter(|reason| *reason != "shutdown") {
            return Err(Failure::Local(format!("{ENDED}: {reason}")));
        }
        if self.leaving || self.id.is_none() {
            return Err(Failure::Local(format!("{ENDED}: the daemon is gone")));
        }
        self.view.note("the daemon is gone; waiting for it to come back (Ctrl-C leaves)");
        if self.requests.iter().any(|request| matches!(request.purpose, Purpose::Message | Purpose::Answer)) {
            self.view.error("there was no response to the last message; it may not have arrived");
        }
        self.requests.clear();
        self.questions.clear();
        self.view.activity.settled();
        self.gone = Some(Gone { next: Instant::now() + LOOKS, without: None });
        Ok(())
    }

    /// Looks whether the daemon is there again; with it comes what was missed.
    fn look_again(&mut self) -> Result<(), Failure> {
        let now = Instant::now();
        let Some(gone) = self.gone.as_mut().filter(|gone| gone.next <= now) else { return Ok(()) };
        gone.next = now + LOOKS;
        let deadline = Deadline::after(Some(LOOKS * 10));
        match self.place.again(self.id.as_deref(), deadline) {
            Again::Later => gone.without = None,
            Again::Gone if gone.without.get_or_insert(now).elapsed() < BRINGS_BACK => {}
            Again::Gone => return Err(Failure::Local(format!("{ENDED}: the daemon is back without it"))),
            Again::Connected(mut connection) => {
                let greeted = greeting(&mut connection, deadline);
                // A daemon that is about to serve may not have the session yet.
                let usual = greeted.ok().filter(|state| {
                    let found = state.get("sessionId").and_then(Value::as_str);
                    self.place.session.is_some() || found == self.id.as_deref()
                });
                if usual.is_some() {
                    self.connection = Some(connection);
                    if self.resume(deadline).is_err() {
                        self.connection = None;
                    }
                }
            }
        }
        Ok(())
    }

    /// Takes up the session where it was left.
    fn resume(&mut self, deadline: Deadline) -> Result<(), Failure> {
        let mut records = Vec::new();
        self.ask("subscribe", json!({"enabled": true, "sinceSeq": self.view.last_seq}), deadline, &mut records)?;
        let state = self.ask("get_state", json!({}), deadline, &mut records)?;
        let questions = self.ask("questions", json!({}), deadline, &mut records)?;
        self.gone = None;
        let told_its_end = self.stopped.take().is_some();
        self.view.note("connected again");
        self.view.busy = state["isIdle"] == false;
        let now = Instant::now();
        if self.view.busy {
            self.view.activity.asked(now);
        }
        let named = |record: &Record, name: &str| record.get("event").and_then(Value::as_str) == Some(name);
        // A session that is started anew counts on from a higher number. If it told its end, nothing was missed before that.
        if let Some(at) =
            records.windows(2).position(|two| named(&two[0], "bridge_gap") && named(&two[1], "bridge_start"))
        {
            records.remove(at);
            if !told_its_end {
                self.view.note("the session was started anew; what it told last before that may be missing");
            }
        }
        for record in records {
            if !self.view.is_known(&record) {
                self.record(record, now)?;
            }
        }
        for question in questions["questions"].as_array().into_iter().flatten() {
            self.opened(question);
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
                    if self.place.session.as_deref().is_some_and(|session| ends(&record, session)) {
                        return self.lost();
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
        if self.stopped.is_none() {
            let reason = one_line(record.get("reason").and_then(Value::as_str).unwrap_or("no reason given"), 100);
            self.view.note(&format!("the session ends: {reason}"));
            self.stopped = Some(reason);
        }
    }
}
