//! The session actor: one thread that owns one session.
//!
//! It never does anything that can hang, so that a stop, an inspection or "queue full" is answered in one step of its
//! loop even while a tool has been stuck for an hour. What can hang happens in the turn's thread (see `turn`).

mod facts;
mod queue;

use crate::cancel::Cancel;
use crate::config::Config;
use crate::events::AgentEvent;
use crate::model::Services;
use crate::nats::documents::{self, Activity, CurrentPrompt, QueuedPrompt};
use crate::nats::micro::Counters;
use crate::nats::session_subjects::{SessionRequest, SessionSubjects};
use crate::reply::{Reply, ReplyError};
use crate::threads::{self, Thread};
use crate::transcript::{Message, StopReason};
use crate::turn::{self, Action, Settled, Step, Turn};
use crossbeam_channel::{Receiver, Sender, bounded, never, select};
pub use facts::{Facts, Info};
use queue::Queue;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Steps of a turn that may be under way; a turn that is faster than its session waits.
const STEPS: usize = 64;
/// How long a cancelled turn may take to settle before the session goes on without it. Only name lookup and connecting
/// cannot be interrupted.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(2);
/// With no deadline at hand the loop looks around this often, which costs nothing and hides no wake-up that got lost.
const LOOK_AROUND: Duration = Duration::from_secs(3600);

/// A prompt that was accepted.
pub struct Prompt {
    pub text: String,
    /// The label that the caller gave itself.
    pub from: Option<String>,
    pub reply: Arc<dyn Reply>,
    /// Statistics of the endpoint that it came to.
    pub counters: Arc<Counters>,
    pub received: Instant,
}

/// What the daemon tells a session.
pub enum Command {
    /// End now, and tell why to those who wait.
    End(EndReason),
    /// Take nothing more, finish the prompt that is running, then end.
    Drain,
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
    queue: Queue,
    running: Option<Running>,
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
        let wait = self.info.deadline().map_or(LOOK_AROUND, |end| end.saturating_duration_since(Instant::now()));
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
            Event::Request(message) => self.request(*message),
            Event::Step(Step::Event(event)) => self.note(event),
            Event::Step(Step::Gate(action, verdict)) => self.judge(&action, &verdict),
            Event::Step(Step::Settled(settled)) => self.settle(settled),
            Event::TurnLost => self.settle(Settled::Failed("internal_error: the turn is gone".into())),
            Event::Tick => {}
        }
        if self.info.deadline().is_some_and(|end| end <= Instant::now()) {
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

    fn accept(&mut self, prompt: Prompt) {
        self.facts.touch();
        if self.draining {
            return self.refuse_prompt(&prompt, ReplyError::shutting_down());
        }
        if let Err(prompt) = self.queue.push(prompt) {
            return self.refuse_prompt(&prompt, ReplyError::queue_full(self.queue.len()));
        }
        self.facts.count_prompt();
        self.start_next();
    }

    /// Ends an answer with an error, and counts it.
    fn refuse(&mut self, reply: &dyn Reply, counters: &Counters, error: ReplyError) {
        counters.count_error(error.status, &error.message);
        self.facts.count_error();
        self.last_error = Some(error.message.clone());
        reply.finish(Err(error));
    }

    /// Ends the answer to a prompt that never began.
    fn refuse_prompt(&mut self, prompt: &Prompt, error: ReplyError) {
        prompt.counters.add_time(prompt.received.elapsed());
        self.refuse(&*prompt.reply, &prompt.counters, error);
    }

    fn start_next(&mut self) {
        while self.running.is_none() {
            let Some(prompt) = self.queue.pop() else { break };
            let (steps, receiver) = bounded(STEPS);
            let cancel = Cancel::new();
            let turn = Turn {
                config: self.config.clone(),
                services: self.services.clone(),
                info: self.info.clone(),
                transcript: self.transcript.clone(),
                reply: prompt.reply.clone(),
                cancel: cancel.clone(),
                steps,
                spill_dir: self.spill_dir.clone(),
            };
            let text = prompt.text;
            let name = format!("t-{}", self.info.id);
            match threads::spawn(&name, threads::TURN_STACK, move || turn.run(text)) {
                Ok(thread) => {
                    self.running = Some(Running {
                        from: prompt.from,
                        reply: prompt.reply,
                        counters: prompt.counters,
                        received: prompt.received,
                        started: Instant::now(),
                        tool_calls: 0,
                        cancel,
                        steps: receiver,
                        thread,
                    });
                }
                Err(e) => {
                    let error = ReplyError::busy(&format!("no thread for the prompt: {e}"));
                    self.refuse(&*prompt.reply, &prompt.counters, error);
                }
            }
        }
        self.facts.set_queued(self.queue.len());
        self.facts.set_running(self.running.is_some());
    }

    /// Keeps what an event says about the session.
    fn note(&mut self, event: AgentEvent) {
        log::trace!("session {}: {}", self.info.id, event.name());
        self.facts.touch();
        match event {
            AgentEvent::MessageEnd(message) => {
                if let Message::Assistant(answer) = &*message {
                    self.facts.add_usage(&answer.usage);
                    if !matches!(answer.stop_reason, StopReason::Error | StopReason::Aborted) {
                        self.context_tokens = answer.usage.total_tokens;
                    }
                }
                self.transcript.push(message);
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
    }

    /// The verdict on what the turn wants to do next. As long as the session is not ending it is yes.
    fn judge(&self, action: &Action, verdict: &Sender<bool>) {
        log::trace!("session {}: leave for {action:?}", self.info.id);
        // A turn that does not wait for its verdict any more was cancelled.
        let _ = verdict.try_send(true);
    }

    fn settle(&mut self, settled: Settled) {
        let Some(running) = self.running.take() else { return };
        running.counters.add_time(running.received.elapsed());
        // The next prompt is on its way, and what others see of the session is true, before the caller hears the end.
        self.start_next();
        self.facts.touch();
        match settled {
            Settled::Done => running.reply.finish(Ok(())),
            Settled::Failed(error) => self.refuse(&*running.reply, &running.counters, ReplyError::failed(error)),
            Settled::Aborted => {
                self.refuse(&*running.reply, &running.counters, ReplyError::failed("the prompt was aborted"));
            }
        }
    }

    fn drain(&mut self) {
        self.draining = true;
        for prompt in self.queue.take_all() {
            self.refuse_prompt(&prompt, ReplyError::shutting_down());
        }
        self.facts.set_queued(0);
    }

    fn inspection(&self) -> serde_json::Value {
        let now = Instant::now();
        let millis = |since: Instant| u64::try_from(now.duration_since(since).as_millis()).unwrap_or(u64::MAX);
        let activity = Activity {
            current: self.running.as_ref().map(|r| CurrentPrompt {
                from: r.from.clone(),
                running_ms: millis(r.started),
                tool_calls: r.tool_calls,
            }),
            queue: self
                .queue
                .iter()
                .map(|p| QueuedPrompt { from: p.from.clone(), waiting_ms: millis(p.received), bytes: p.text.len() })
                .collect(),
            messages: self.transcript.len(),
            context_tokens: self.context_tokens,
            last_error: self.last_error.clone(),
        };
        documents::inspection(&self.config.owner, &self.info, &self.facts, &activity, now)
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
            EndReason::Expired => ReplyError::expired(self.info.max_lifetime.as_secs()),
            EndReason::ShutDown => ReplyError::shutting_down(),
        }
    }
}
