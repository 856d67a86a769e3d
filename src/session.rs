//! The session actor: one thread that owns one session.
//!
//! It never does anything that can hang, so that a stop, an inspection or "queue full" is answered in one step of its
//! loop even while a tool has been stuck for an hour. What can hang happens in the turn's thread (see `turn`).

mod approvals;
mod asking;
mod auditing;
mod budget;
mod commands;
mod continuing;
mod ending;
mod folder;
mod gate;
mod inbox;
mod leaving;
mod listeners;
mod memory;
mod opening;
mod prompts;
mod questions;
mod queue;
mod recovery;
mod settling;
pub(crate) mod state_dir;
mod storing;
#[cfg(test)]
mod tests;
mod turns;
mod waiting;

use crate::cancel::Cancel;
use crate::clock::now_ms;
use crate::contract::control::Respond;
use crate::contract::error::ReplyError;
use crate::contract::event::AgentEvent;
use crate::contract::identity::{SessionIdentity, Workspace};
use crate::contract::prompt::{Command, EndReason, Origin, Prompt};
use crate::contract::reply::Reply;
use crate::contract::session::{SessionStats, Unattended};
use crate::contract::wire::{Wire, WireRequest};
use crate::event_log::{self, EventLog, EventSink};
use crate::fleet::{SessionLog, Told};
use crate::governance::audit::Audit;
use crate::governance::budget::{Ledger, OnBudget};
use crate::model::Services;
use crate::quota::SessionQuota;
use crate::session::questions::Questions;
use crate::session::state_dir::StateDir;
use crate::slots::{Slot, Slots, Ticket};
use crate::sys;
use crate::threads::Thread;
use crate::tools::ChangedFiles;
use crate::tools::runner::Runner;
use crate::transcript::{Message, StopReason, ToolResultMessage};
use crate::turn::{SessionSecrets, Settled, Step, TurnOptions};
use approvals::Approvals;
use asking::Asker;
use auditing::Arguments;
use budget::Spending;
use crossbeam_channel::{Receiver, never, select};
use folder::Folder;
use leaving::Leaving;
use memory::Memory;
pub(crate) use opening::{Callers, Storage};
use queue::Queue;
pub(crate) use recovery::settled_totals;
use recovery::{KeptApproval, KeptQuestion};
use serde_json::Value;
pub(crate) use settling::Notices;
use std::collections::{HashMap, VecDeque};
use std::io;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use storing::{Held, Storing};
use waiting::Waiting;

/// How long a cancelled turn may take to settle before the session goes on without it. Only name lookup and connecting
/// cannot be interrupted.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(2);
/// A session that did nothing for so long keeps its transcript in its file only (reliability goal C2).
const SLEEPS_AFTER: Duration = Duration::from_secs(600);
/// Numbers of events that a session has for each start of the daemon, so that they grow over restarts, crashes included,
/// without a write for each. At 10,000 events a second they last for 115 days; 90,000 starts stay below 2^53, where numbers
/// in JavaScript end.
const EVENTS_PER_START: u64 = 100_000_000_000;
/// With no deadline at hand the loop looks around this often, which costs nothing and hides no wake-up that got lost.
const LOOK_AROUND: Duration = Duration::from_secs(3600);

/// The settings that sessions share.
pub(crate) struct SessionOptions {
    /// Prompts that may wait for the one that is worked on.
    pub max_queue: usize,
    /// Bounds of the events that are kept.
    pub event_log: event_log::Settings,
    /// How long the model's questions wait for an answer; `None` = no limit.
    pub question_timeout: Option<Duration>,
    /// Where everything is recorded that is decided and done, if it is.
    pub audit: Option<Arc<Audit>>,
    /// How long approvals wait for somebody; `None` = no limit.
    pub approval_timeout: Option<Duration>,
    /// What becomes of an approval that nobody sees.
    pub unattended: Unattended,
    /// What becomes of a request that a budget does not allow.
    pub on_budget: OnBudget,
    /// Where it is kept what is spent; absent where nothing can be kept.
    pub ledger: Option<Arc<Ledger>>,
    pub turn: Arc<TurnOptions>,
    /// Who is told of prompts that are settled.
    pub notices: Option<Notices>,
}

/// What a session is made of.
pub(crate) struct Parts<W> {
    pub options: Arc<SessionOptions>,
    pub services: Arc<Services>,
    pub identity: Arc<SessionIdentity>,
    pub stats: Arc<SessionStats>,
    /// What the session can be reached on beside the side channel; absent for an ephemeral run.
    pub wire: Option<W>,
    pub commands: Receiver<Command>,
    /// Where tools may put what does not fit into a result; removed with the session.
    pub spill_dir: PathBuf,
    /// Where the files are that come with prompts; `None` where none can come.
    pub attachments: Option<PathBuf>,
    /// What of it, of waiting prompts and of files that came with them may be kept.
    pub quota: Arc<SessionQuota>,
    /// Leave to work on prompts, which all sessions share.
    pub slots: Arc<Slots>,
    /// What events leave out; made when first needed, removed with the session.
    pub raw_file: PathBuf,
    /// The daemon's memory of its sessions.
    pub state: Option<Arc<StateDir>>,
    pub storage: Storage,
    /// Where it is stored for other hosts, if it is.
    pub log: Option<SessionLog>,
    /// It was another host's, and its working folder is not here yet.
    pub comes_from_elsewhere: bool,
    /// The prompt that the session was created with; none after a restart.
    pub first: Option<Prompt>,
    /// Its request asks for nothing else, so that it can be left to a session of that name which there is already.
    pub can_be_left: bool,
}

/// The prompt that is being worked on.
struct Running {
    /// The messages from outside that it answers.
    ids: Vec<String>,
    origin: Origin,
    reply: Arc<dyn Reply>,
    started: Instant,
    tool_calls: u64,
    cancel: Cancel,
    steps: Receiver<Step>,
    thread: Thread,
    /// What could not be written, which is why it is ended.
    storage_error: Option<ReplyError>,
    /// Calls of the model's last message that were allowed to run.
    batch: usize,
    /// The ids of those of them that may have begun, and have not ended.
    begun: Vec<String>,
    /// The host ends in the middle of it, and it is gone on with after the next start.
    to_be_continued: bool,
    /// Those who wait for its end after an abort.
    aborters: Vec<Respond>,
    /// A question of the model's was open until its time was up, and none was answered since.
    unanswered: bool,
    /// Those who listen were told how it ended.
    told: bool,
    /// Whoever asked for a compaction, which this is.
    compaction: Option<Respond>,
    /// What it takes of the host; nothing for a compaction.
    slot: Option<Slot>,
}

struct Session<W> {
    options: Arc<SessionOptions>,
    services: Arc<Services>,
    identity: Arc<SessionIdentity>,
    stats: Arc<SessionStats>,
    wire: Option<W>,
    commands: Receiver<Command>,
    spill_dir: PathBuf,
    quota: Arc<SessionQuota>,
    slots: Arc<Slots>,
    /// The place of the next prompt among those of the host that wait for a slot.
    ticket: Option<Ticket>,
    /// Where the tools run.
    runner: Arc<Runner>,
    secrets: Arc<SessionSecrets>,
    memory: Memory,
    state: Option<Arc<StateDir>>,
    context_tokens: u64,
    /// The session file's entry of the latest compaction.
    last_compaction: Option<Value>,
    /// Prompts that wait for their turn.
    queue: Queue,
    steering: Waiting,
    follow_up: Waiting,
    running: Option<Running>,
    spending: Spending,
    arguments: Arguments,
    /// Ids of the messages that the turn was given and that are not yet in the transcript.
    taken: VecDeque<String>,
    idle_since: Instant,
    questions: Questions,
    /// Questions of before a restart, which the turn that goes on asks again.
    kept_questions: Vec<KeptQuestion>,
    approvals: Approvals,
    /// Approvals of before a restart, which the turn that goes on asks for again.
    kept_approvals: Vec<KeptApproval>,
    /// What somebody allowed for the rest of the session.
    grants: Vec<String>,
    /// Those who wait for an answer, by the question's id.
    askers: HashMap<String, Asker>,
    log: EventLog,
    listeners: Vec<Arc<dyn EventSink>>,
    /// Tools ran, so that there may be something to clean up.
    used_tools: bool,
    draining: bool,
    /// There where other hosts can go on with the session.
    storing: Option<Box<Storing>>,
    /// There while it is to go on in another process.
    leaving: Option<Box<Leaving>>,
    /// There where the working folder goes on elsewhere with the session.
    folder: Option<Box<Folder>>,
    /// It is new, and may not be on the disk yet: the model need not wait for that.
    is_new: bool,
}

/// Everything that can happen to a session.
enum Event<M> {
    Command(Command),
    Message(Box<M>),
    Step(Step),
    /// The next prompt may begin.
    Slot(Slot),
    /// What becomes of the session's log.
    Stored(Told),
    /// The turn's thread is gone without a word.
    TurnLost,
    Tick,
}

/// Lives as long as the session: its first prompt, then those of its subjects, until it ends; returns why it did.
///
/// What stands on the stack here stays there for all that time, in each session; so everything large is in a box, and
/// what is only done once is in functions of its own.
pub(crate) fn run<W: Wire>(parts: Box<Parts<W>>) -> EndReason {
    let can_be_left = parts.can_be_left;
    let (mut session, storage, first) = Session::new(parts);
    let reason = match session.bring_folder().or_else(|| session.wait_owned(first.is_some())) {
        None => session.begin_with(storage, first).unwrap_or_else(|| session.serve()),
        Some(reason) => session.never_begin(&storage, first, can_be_left, reason),
    };
    session.end(reason)
}

impl<W: Wire> Session<W> {
    #[inline(never)]
    #[expect(clippy::boxed_local, reason = "on the caller's stack they would stay there for good")]
    fn new(parts: Box<Parts<W>>) -> (Box<Session<W>>, Storage, Option<Box<Prompt>>) {
        let parts = *parts;
        let restarts = match &parts.state {
            Some(state) if parts.identity.named => state.starts().wrapping_sub(parts.identity.created_at_start),
            Some(_) | None => 0,
        };
        let last_seq = restarts.saturating_mul(EVENTS_PER_START);
        let sandbox = parts.stats.settings().sandbox;
        let runner = Runner::new(
            parts.identity.instance_id.to_string(),
            sandbox,
            parts.identity.cwd.clone(),
            parts.spill_dir.clone(),
            parts.attachments,
            parts.quota.clone(),
        );
        let is_missing = parts.comes_from_elsewhere;
        let folder = (parts.identity.workspace == Workspace::Git).then(|| Box::new(Folder::new(is_missing)));
        let session = Session {
            queue: Queue::new(parts.options.max_queue),
            steering: Waiting::default(),
            follow_up: Waiting::default(),
            log: EventLog::new(parts.options.event_log.clone(), &parts.identity.id, parts.raw_file, last_seq),
            listeners: parts.wire.as_ref().and_then(Wire::listener).into_iter().collect(),
            questions: Questions::default(),
            kept_questions: Vec::new(),
            approvals: Approvals::default(),
            kept_approvals: Vec::new(),
            grants: Vec::new(),
            askers: HashMap::new(),
            options: parts.options,
            services: parts.services,
            identity: parts.identity,
            stats: parts.stats,
            wire: parts.wire,
            commands: parts.commands,
            runner: Arc::new(runner),
            secrets: Arc::default(),
            spill_dir: parts.spill_dir,
            quota: parts.quota,
            slots: parts.slots,
            ticket: None,
            memory: Memory::default(),
            state: parts.state,
            spending: Spending::default(),
            arguments: Arguments::default(),
            taken: VecDeque::new(),
            idle_since: Instant::now(),
            context_tokens: 0,
            last_compaction: None,
            running: None,
            used_tools: false,
            draining: false,
            storing: parts.log.map(|log| Box::new(Storing::new(log))),
            leaving: None,
            folder,
            is_new: false,
        };
        (Box::new(session), parts.storage, parts.first.map(Box::new))
    }

    /// The first event of a session.
    fn announce(&mut self) {
        let state = self.stats.state(&self.identity, self.stats.running());
        self.publish(AgentEvent::BridgeStart(Box::new(state)));
    }

    fn serve(&mut self) -> EndReason {
        loop {
            let event = self.next_event();
            self.tell_late(false);
            if let ControlFlow::Break(reason) = self.handle_event(event) {
                return reason;
            }
            if self.running.is_none() {
                sys::release_unused_stack();
            }
        }
    }

    fn next_event(&self) -> Event<W::Message> {
        let current = self.is_current();
        let steps = self.running.as_ref().filter(|_| current).map_or_else(never, |r| r.steps.clone());
        let told = self.told();
        let messages = self.wire.as_ref().filter(|_| current).map_or_else(never, |wire| wire.messages().clone());
        let sleep = (!self.has_work() && self.memory.can_sleep()).then(|| self.idle_since + SLEEPS_AFTER);
        let next = self.stats.deadline().into_iter().chain(sleep).chain(self.spending.deadline()).min();
        let wait = next.map_or(LOOK_AROUND, |time| time.saturating_duration_since(Instant::now()));
        // While a compaction runs the slot waits for its end.
        let slot = self.ticket.as_ref().filter(|_| self.running.is_none()).map_or_else(never, |t| t.granted().clone());
        let asked = self.next_question_expiry().into_iter().chain(self.next_approval_expiry()).min();
        let wait = asked.map_or(wait, |left| wait.min(left));
        let wait = if current { wait } else { storing::LOOK };
        select! {
            recv(steps) -> step => step.map_or(Event::TurnLost, Event::Step),
            recv(told) -> told => told.map_or(Event::Command(Command::End(EndReason::ShutDown)), Event::Stored),
            recv(slot) -> slot => slot.map_or(Event::Tick, Event::Slot),
            recv(messages) -> message => message.map_or(Event::Tick, Event::Message),
            // The daemon is gone only when the process ends.
            recv(self.commands) -> command => Event::Command(command.unwrap_or(Command::End(EndReason::ShutDown))),
            default(wait) => Event::Tick,
        }
    }

    #[inline(never)]
    fn handle_event(&mut self, event: Event<W::Message>) -> ControlFlow<EndReason> {
        match event {
            Event::Command(Command::End(EndReason::Replaced | EndReason::Given)) => {
                return ControlFlow::Break(self.leave(false).unwrap_or(EndReason::ShutDown));
            }
            Event::Command(Command::End(reason)) => return ControlFlow::Break(reason),
            Event::Command(Command::HandOver(successor)) => self.hand_over(successor),
            Event::Command(Command::Stay) => self.stay(),
            Event::Command(Command::Drain) => self.drain(),
            Event::Command(Command::Control(request)) => self.control(request.control, request.respond),
            Event::Message(message) => self.message(&message),
            Event::Slot(slot) => self.start_with(slot),
            Event::Stored(told) => self.stored(told)?,
            Event::Step(Step::Event(event)) => self.note(event),
            Event::Step(Step::Events(events)) => events.into_iter().for_each(|event| self.note(event)),
            Event::Step(Step::Gate(action, verdict)) => self.at_gate(action, verdict),
            Event::Step(Step::Spent(spent)) => self.spent(spent),
            Event::Step(Step::Ask { request, answer }) => self.ask(request, answer),
            Event::Step(Step::Compacted { message, first_kept, entry }) => {
                let written = self.memory.compacted(message, first_kept, &entry);
                self.check_written(written);
                self.tell_compacted();
                self.last_compaction = Some(entry);
            }
            Event::Step(Step::Shortened(messages)) => {
                log::info!(
                    "session {}: {} messages are shortened, to fit into the model's window",
                    self.identity.id,
                    messages.len()
                );
                let written = self.memory.shortened(messages);
                self.check_written(written);
            }
            Event::Step(Step::Folder(saved)) => self.folder_saved(saved),
            Event::Step(Step::Omitted) => {
                let written = self.memory.omit_last();
                self.check_written(written);
            }
            // Whoever hears of the end and asks at once finds the session idle, because all of it is one step.
            Event::Step(Step::Settled(settled, changed)) => {
                self.note(settled.event());
                self.settle(settled, changed);
            }
            Event::TurnLost => {
                let lost = Settled::Failed(ReplyError::internal("the turn is gone"));
                self.settle(lost, ChangedFiles::default());
            }
            Event::Tick => {
                self.expire_questions();
                self.expire_approvals();
                if !self.has_work() && self.idle_since.elapsed() >= SLEEPS_AFTER {
                    self.memory.sleep();
                    self.log.put_into_words();
                }
            }
        }
        self.renew_time();
        if self.stats.deadline().is_some_and(|end| end <= Instant::now()) {
            return ControlFlow::Break(EndReason::Expired);
        }
        if let Some(reason) = self.leave_if_quiet() {
            return ControlFlow::Break(reason);
        }
        match (self.running.is_some(), self.identity.named || self.has_work(), self.draining) {
            (true, ..) | (false, true, false) => ControlFlow::Continue(()),
            (false, _, true) => ControlFlow::Break(EndReason::ShutDown),
            (false, false, false) => ControlFlow::Break(EndReason::Finished),
        }
    }

    /// A message over the session's wire.
    fn message(&mut self, message: &W::Message) {
        let closed = self.closed();
        let requests = self.wire.as_mut().map_or_else(Vec::new, |wire| wire.read(message, closed));
        for request in requests {
            match request {
                WireRequest::Prompt(prompt) => self.arrive(prompt),
                WireRequest::Refused { reply, error } => self.refuse(&*reply, error),
                WireRequest::Control(request) => self.control(request.control, request.respond),
            }
        }
    }

    /// Keeps what an event of the turn says about the session, and tells it to those who listen.
    #[expect(clippy::wildcard_enum_match_arm, reason = "the other events change nothing that the session keeps")]
    fn note(&mut self, event: AgentEvent) {
        log::trace!("session {}: {}", self.identity.id, event.name());
        self.stats.touch();
        if let AgentEvent::ToolExecutionEnd { id, name, content, is_error, duration_ms, sandbox, .. } = &event {
            if let Some(running) = &mut self.running
                && let Some(at) = running.begun.iter().position(|begun| begun == id)
            {
                running.begun.swap_remove(at);
            }
            self.audit_result((id, name), content, *is_error, (*duration_ms, sandbox.as_ref()));
        }
        match &event {
            // What only shows that the turn is interrupted is not told, as it is gone on with.
            AgentEvent::MessageEnd(message) if self.is_void(message) => return,
            AgentEvent::MessageEnd(message) => {
                if let Message::Assistant(answer) = &**message
                    && !matches!(answer.stop_reason, StopReason::Error | StopReason::Aborted)
                {
                    self.context_tokens = answer.usage.total_tokens;
                }
                let accepted = if matches!(**message, Message::User(_)) { self.taken.pop_front() } else { None };
                let written = self.memory.push(message.clone(), accepted.as_deref());
                self.check_written(written);
            }
            AgentEvent::ToolExecutionStart { name, .. } => {
                log::debug!("session {}: tool {name}", self.identity.id);
                self.used_tools = true;
                self.folder_changes();
                if let Some(running) = &mut self.running {
                    running.tool_calls += 1;
                }
            }
            AgentEvent::ToolExecutionEnd {
                id,
                name,
                content,
                details,
                is_error,
                duration_ms: Some(duration_ms),
                sandbox: _,
            } if self.running.as_ref().is_some_and(|running| running.batch > 1) => {
                let result = ToolResultMessage {
                    tool_call_id: id.clone(),
                    tool_name: name.clone(),
                    content: content.clone(),
                    details: details.clone(),
                    is_error: *is_error,
                    duration_ms: Some(*duration_ms),
                    timestamp: now_ms(),
                };
                if !self.is_void(&Message::ToolResult(result.clone())) {
                    let written = self.memory.finished(result);
                    self.check_written(written);
                }
            }
            AgentEvent::AutoRetryStart { attempt, max_attempts, delay_ms, error } => {
                log::info!(
                    "session {}: attempt {attempt} of {max_attempts} in {delay_ms} ms after: {error}",
                    self.identity.id
                );
            }
            AgentEvent::CompactionEnd { result: Some(result), .. } => {
                self.context_tokens = result.get("estimatedTokensAfter").and_then(Value::as_u64).unwrap_or(0);
            }
            AgentEvent::CompactionEnd { error: Some(error), .. } => log::warn!("session {}: {error}", self.identity.id),
            AgentEvent::TurnEnd { .. } | AgentEvent::AgentEnd { .. } | AgentEvent::AgentSettled { .. }
                if self.running.as_ref().is_some_and(|running| running.to_be_continued) =>
            {
                return;
            }
            _ => {}
        }
        self.stats.progress.note(&event, self.context_tokens);
        self.record_event(event);
    }

    /// A message that is only there because the host ends in the middle of a turn that will be gone on with. What it says of
    /// a call or of an answer is not what became of it.
    fn is_void(&self, message: &Message) -> bool {
        let to_be_continued = self.running.as_ref().is_some_and(|running| running.to_be_continued);
        to_be_continued
            && match message {
                Message::Assistant(answer) => matches!(answer.stop_reason, StopReason::Error | StopReason::Aborted),
                Message::ToolResult(result) => result.is_error,
                Message::User(_) => false,
            }
    }

    /// What cannot be kept must not go on happening.
    fn check_written(&mut self, written: io::Result<()>) {
        self.tell_foreign();
        let Err(error) = &written else { return };
        log::error!("session {}: {error}", self.identity.id);
        if let Some(running) = &mut self.running {
            running.storage_error = Some(ReplyError::storage(error));
            running.cancel.cancel();
        }
    }
}
