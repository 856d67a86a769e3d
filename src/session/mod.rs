//! The session actor: one thread that owns one session.
//!
//! It never does anything that can hang, so that a stop, an inspection or "queue full" is answered in one step of its
//! loop even while a tool has been stuck for an hour. What can hang happens in the turn's thread (see `turn`).

pub mod control;
mod controls;
mod facts;
mod prompts;
mod queue;
mod waiting;

use crate::cancel::Cancel;
use crate::config::Config;
use crate::event_log::{EventLog, EventSink, Settings};
use crate::events::AgentEvent;
use crate::model::Services;
use crate::nats::micro::Counters;
use crate::nats::session_subjects::{SessionRequest, SessionSubjects};
use crate::reply::{Reply, ReplyError};
use crate::threads::Thread;
use crate::transcript::{Message, StopReason};
use crate::turn::{self, Action, Incoming, Settled, Step, Verdict};
use control::{ControlRequest, Respond};
use crossbeam_channel::{Receiver, Sender, never, select};
pub use facts::{Facts, Info, Setup, model_facts, state};
use queue::Queue;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
pub use waiting::QueueMode;
use waiting::Waiting;

/// How long a cancelled turn may take to settle before the session goes on without it. Only name lookup and connecting
/// cannot be interrupted.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(2);
/// With no deadline at hand the loop looks around this often, which costs nothing and hides no wake-up that got lost.
const LOOK_AROUND: Duration = Duration::from_secs(3600);

/// A prompt that was accepted.
pub struct Prompt {
    pub message: Incoming,
    /// The label that the caller gave itself.
    pub from: Option<String>,
    pub reply: Arc<dyn Reply>,
    /// Statistics of the endpoint that it came to.
    pub counters: Arc<Counters>,
    pub received: Instant,
}

/// What the daemon and its clients tell a session.
pub enum Command {
    /// End now, and tell why to those who wait.
    End(EndReason),
    /// Take nothing more, finish the prompt that is running, then end.
    Drain,
    Control(Box<ControlRequest>),
}

/// Why a session ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndReason {
    Stopped,
    Expired,
    ShutDown,
    /// The only prompt of an ephemeral run is answered.
    Finished,
}

/// What a session is made of.
pub struct Parts {
    pub config: Arc<Config>,
    pub services: Arc<Services>,
    pub info: Arc<Info>,
    pub facts: Arc<Facts>,
    /// The session's own subjects; absent for an ephemeral run.
    pub subjects: Option<SessionSubjects>,
    pub commands: Receiver<Command>,
    /// Where tools may put what does not fit into a result; removed with the session.
    pub spill_dir: PathBuf,
    /// The prompt that the session was created with.
    pub first: Prompt,
}

/// The prompt that is being worked on.
struct Running {
    from: Option<String>,
    reply: Arc<dyn Reply>,
    counters: Arc<Counters>,
    received: Instant,
    started: Instant,
    tool_calls: u64,
    cancel: Cancel,
    steps: Receiver<Step>,
    thread: Thread,
    /// Those who wait for its end after an abort.
    aborters: Vec<Respond>,
}

struct Session {
    config: Arc<Config>,
    services: Arc<Services>,
    info: Arc<Info>,
    facts: Arc<Facts>,
    subjects: Option<SessionSubjects>,
    commands: Receiver<Command>,
    spill_dir: PathBuf,
    transcript: Vec<Arc<Message>>,
    context_tokens: u64,
    last_error: Option<String>,
    /// Prompts that wait for their turn.
    queue: Queue,
    steering: Waiting,
    follow_up: Waiting,
    running: Option<Running>,
    log: EventLog,
    listeners: Vec<Arc<dyn EventSink>>,
    /// Tools ran, so that there may be something to clean up.
    used_tools: bool,
    draining: bool,
}

/// Everything that can happen to a session.
enum Event {
    Command(Command),
    Request(Box<crate::nats::Message>),
    Step(Step),
    /// The turn's thread is gone without a word.
    TurnLost,
    Tick,
}

/// Lives as long as the session: its first prompt, then those of its subjects, until it ends.
pub fn run(parts: Parts) {
    let first = parts.first;
    let mut session = Session {
        queue: Queue::new(parts.config.max_queue),
        steering: Waiting::default(),
        follow_up: Waiting::default(),
        log: EventLog::new(Settings::default(), &parts.info.id, parts.spill_dir.join("events.jsonl")),
        listeners: Vec::new(),
        config: parts.config,
        services: parts.services,
        info: parts.info,
        facts: parts.facts,
        subjects: parts.subjects,
        commands: parts.commands,
        spill_dir: parts.spill_dir,
        transcript: Vec::new(),
        context_tokens: 0,
        last_error: None,
        running: None,
        used_tools: false,
        draining: false,
    };
    session.accept(first);
    let reason = session.serve();
    session.end(reason);
}

impl Session {
    fn serve(&mut self) -> EndReason {
        loop {
            let event = self.next_event();
            if let ControlFlow::Break(reason) = self.handle_event(event) {
                return reason;
            }
        }
    }

    fn next_event(&self) -> Event {
        let steps = self.running.as_ref().map_or_else(never, |r| r.steps.clone());
        let requests = self.subjects.as_ref().map_or_else(never, |s| s.requests().clone());
        let wait = self.facts.deadline().map_or(LOOK_AROUND, |end| end.saturating_duration_since(Instant::now()));
        select! {
            recv(steps) -> step => step.map_or(Event::TurnLost, Event::Step),
            recv(requests) -> request => request.map_or(Event::Tick, Event::Request),
            // The daemon is gone only when the process ends.
            recv(self.commands) -> command => Event::Command(command.unwrap_or(Command::End(EndReason::ShutDown))),
            default(wait) => Event::Tick,
        }
    }

    fn handle_event(&mut self, event: Event) -> ControlFlow<EndReason> {
        match event {
            Event::Command(Command::End(reason)) => return ControlFlow::Break(reason),
            Event::Command(Command::Drain) => self.drain(),
            Event::Command(Command::Control(request)) => self.control(request.control, request.respond),
            Event::Request(message) => self.request(*message),
            Event::Step(Step::Event(event)) => self.note(event),
            Event::Step(Step::Gate(action, verdict)) => self.judge(&action, &verdict),
            Event::Step(Step::Settled(settled)) => self.settle(settled),
            Event::TurnLost => self.settle(Settled::Failed("internal_error: the turn is gone".into())),
            Event::Tick => {}
        }
        if self.facts.deadline().is_some_and(|end| end <= Instant::now()) {
            return ControlFlow::Break(EndReason::Expired);
        }
        match (&self.running, self.info.named, self.draining) {
            (Some(_), ..) | (None, true, false) => ControlFlow::Continue(()),
            (None, _, true) => ControlFlow::Break(EndReason::ShutDown),
            (None, false, false) => ControlFlow::Break(EndReason::Finished),
        }
    }

    /// A message to one of the session's subjects.
    fn request(&mut self, message: crate::nats::Message) {
        let Some(subjects) = &self.subjects else { return };
        match subjects.read(message) {
            SessionRequest::Prompt(prompt) => self.accept(prompt),
            SessionRequest::Refused { reply, counters, error } => self.refuse(&*reply, &counters, error),
            SessionRequest::Inspect { reply } => {
                let document = self.inspection();
                subjects.answer_inspect(&reply, &document);
            }
            SessionRequest::Unanswerable => log::debug!("session {}: a message without reply subject", self.info.id),
        }
    }

    /// Keeps what an event says about the session, and tells it to those who listen.
    fn note(&mut self, event: AgentEvent) {
        log::trace!("session {}: {}", self.info.id, event.name());
        self.facts.touch();
        match &event {
            AgentEvent::MessageEnd(message) => {
                if let Message::Assistant(answer) = &**message {
                    self.facts.add_usage(&answer.usage);
                    if !matches!(answer.stop_reason, StopReason::Error | StopReason::Aborted) {
                        self.context_tokens = answer.usage.total_tokens;
                    }
                }
                self.transcript.push(message.clone());
            }
            AgentEvent::ToolExecutionStart { name, .. } => {
                log::debug!("session {}: tool {name}", self.info.id);
                self.used_tools = true;
                if let Some(running) = &mut self.running {
                    running.tool_calls += 1;
                }
            }
            AgentEvent::AutoRetryStart { attempt, max_attempts, delay_ms, error } => {
                log::info!(
                    "session {}: attempt {attempt} of {max_attempts} in {delay_ms} ms after: {error}",
                    self.info.id
                );
            }
            _ => {}
        }
        self.publish(&event);
    }

    /// Tells an event to those who listen, and keeps it for those who ask later.
    fn publish(&mut self, event: &AgentEvent) {
        let envelope = self.log.publish(event.name(), event.to_json(), !self.listeners.is_empty());
        let before = self.listeners.len();
        self.listeners.retain(|listener| listener.event(&envelope));
        if self.listeners.len() != before {
            self.facts.set_listeners(self.listeners.len());
        }
    }

    /// The verdict on what the turn wants to do next: yes as long as the session is not ending, with the messages that are
    /// to be taken in first.
    fn judge(&mut self, action: &Action, verdict: &Sender<Verdict>) {
        log::trace!("session {}: leave for {action:?}", self.info.id);
        let mode = QueueMode::default();
        let messages = match action {
            Action::Model => self.steering.take(mode),
            Action::Tool { .. } => Vec::new(),
            Action::Stop if self.steering.len() > 0 => self.steering.take(mode),
            Action::Stop => self.follow_up.take(mode),
        };
        let taken = !messages.is_empty();
        // A turn that does not wait for its verdict any more was cancelled.
        let _ = verdict.try_send(Verdict::Go(messages));
        if taken {
            self.queues_changed();
        }
    }

    /// Ends the session: every stream gets its end, no child process and no file of the session stays behind.
    fn end(mut self, reason: EndReason) {
        if let Some(running) = self.running.take() {
            running.cancel.cancel();
            let settled = self.wait_for_settlement(&running);
            running.counters.add_time(running.received.elapsed());
            self.refuse(&*running.reply, &running.counters, self.farewell(reason));
            if settled {
                drop(running.thread);
            } else {
                log::warn!("session {}: its turn is stuck and was left behind", self.info.id);
                running.thread.abandon();
            }
            for respond in running.aborters {
                respond(Ok(self.state_answer("abort")));
            }
        }
        for prompt in self.queue.take_all() {
            self.refuse_prompt(&prompt, self.farewell(reason));
        }
        self.facts.set_running(false);
        self.facts.set_queued(0);
        if let Some(subjects) = self.subjects.take() {
            for prompt in subjects.close() {
                self.refuse_prompt(&prompt, self.farewell(reason));
            }
        }
        if self.used_tools {
            turn::kill_leftovers(&self.info);
            if let Err(e) = std::fs::remove_dir_all(&self.spill_dir)
                && e.kind() != std::io::ErrorKind::NotFound
            {
                log::warn!("cannot remove {}: {e}", self.spill_dir.display());
            }
        }
    }

    /// True if the turn settled in time. What it still says belongs to the transcript.
    fn wait_for_settlement(&mut self, running: &Running) -> bool {
        let deadline = Instant::now() + SETTLE_TIMEOUT;
        loop {
            match running.steps.recv_deadline(deadline) {
                Ok(Step::Settled(_)) => return true,
                Ok(Step::Event(event)) => self.note(event),
                Ok(Step::Gate(_, verdict)) => drop(verdict),
                Err(e) => return e.is_disconnected(),
            }
        }
    }

    fn farewell(&self, reason: EndReason) -> ReplyError {
        match reason {
            EndReason::Stopped | EndReason::Finished => ReplyError::stopped(),
            EndReason::Expired => ReplyError::expired(self.facts.setup().max_lifetime.as_secs()),
            EndReason::ShutDown => ReplyError::shutting_down(),
        }
    }
}
