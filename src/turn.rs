//! The agent loop: one prompt from the first model request to the last, as straight-line code on a thread of its own.
//!
//! What it does is told upwards as [`Step`]s. It may neither ask the model again nor run a tool before the session's actor
//! said yes; that is the one place for policy, limits and records.

use crate::cancel::Cancel;
use crate::config::Config;
use crate::events::{AgentEvent, Delta, DeltaKind};
use crate::model::{Model, Outcome, Request, Services, Sink, StreamEvent, ThinkingLevel, retry};
use crate::prompt::{Places, PromptInput, commands, skills, system_prompt};
use crate::reply::Reply;
use crate::session::{Facts, Info};
use crate::tools::{self, Tool, ToolContext, ToolOutput};
use crate::transcript::{
    AssistantMessage, Block, Content, Message, StopReason, ToolResultMessage, ToolSpec, Usage, UserMessage, now_ms,
};
use crossbeam_channel::{Sender, bounded};
use serde_json::{Map, Value};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A server that asks for a longer pause than this is not waited for, milliseconds (the PI agent's cap).
const MAX_REQUESTED_DELAY_MS: u64 = 60_000;

/// Marks everything that the programs of one session start, by the session's instance id.
const SESSION_VARIABLE: &str = "NATS_PI_BRIDGE_SESSION";

/// Kills what programs of a session left running in the background. For its end.
pub fn kill_leftovers(info: &Info) {
    tools::child::kill_marked(SESSION_VARIABLE, &info.instance_id);
}

/// What a turn tells its session, in order.
pub enum Step {
    Event(AgentEvent),
    /// The turn waits for the verdict.
    Gate(Action, Sender<Verdict>),
    /// The last step.
    Settled(Settled),
}

/// What a turn asks leave for.
#[derive(Debug)]
pub enum Action {
    /// To ask the model again.
    Model,
    Tool {
        id: String,
        name: String,
    },
    /// To be done; messages make it go on.
    Stop,
}

/// The answer to an [`Action`].
pub enum Verdict {
    No,
    /// Go on, after these messages were taken in.
    Go(Vec<Incoming>),
}

/// A message from outside on its way into the transcript.
#[derive(Clone, Debug)]
pub struct Incoming {
    pub text: String,
    pub images: Vec<Block>,
    /// A text that calls up a skill or a template is to be replaced by its words.
    pub expand: bool,
}

/// How a prompt ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Settled {
    Done,
    Failed(String),
    Aborted,
}

/// Everything a turn works with.
pub struct Turn {
    pub config: Arc<Config>,
    pub services: Arc<Services>,
    pub info: Arc<Info>,
    pub facts: Arc<Facts>,
    pub model: Arc<Model>,
    pub thinking: ThinkingLevel,
    pub transcript: Vec<Arc<Message>>,
    pub reply: Arc<dyn Reply>,
    pub cancel: Cancel,
    pub steps: Sender<Step>,
    /// Where tools may put what does not fit into a result.
    pub spill_dir: PathBuf,
}

/// How far a run has come.
struct Run {
    /// The first message that belongs to it.
    begun: usize,
    /// The number of the turn, from 0.
    turn: u64,
    /// Attempts after the first one, since the last success.
    attempt: u32,
}

/// A tool call of the model, as it stands in its message.
struct Call {
    id: String,
    name: String,
    arguments: Map<String, Value>,
    arguments_error: Option<String>,
}

impl Turn {
    /// Works on one prompt until it settles. Panics inside are caught and count as failures.
    pub fn run(mut self, messages: Vec<Incoming>) {
        let settled = catch_unwind(AssertUnwindSafe(|| self.work(messages)))
            .unwrap_or_else(|_| Settled::Failed("internal_error: the turn panicked; the session goes on".into()));
        self.emit(AgentEvent::AgentSettled { aborted: settled == Settled::Aborted });
        self.step(Step::Settled(settled));
    }

    /// Tells the session. It is gone only after it gave up on this turn, and then nobody is left to tell.
    fn step(&self, step: Step) {
        let _ = self.steps.send(step);
    }

    fn emit(&self, event: AgentEvent) {
        self.step(Step::Event(event));
    }

    /// Asks for leave; `None` = no.
    fn gate(&self, action: Action) -> Option<Vec<Incoming>> {
        let (verdict, answer) = bounded(1);
        self.step(Step::Gate(action, verdict));
        match answer.recv() {
            Ok(Verdict::Go(messages)) => Some(messages),
            Ok(Verdict::No) | Err(_) => None,
        }
    }

    /// Adds a complete message to the transcript.
    fn add(&mut self, message: Message) -> Arc<Message> {
        let message = Arc::new(message);
        self.transcript.push(message.clone());
        self.emit(AgentEvent::MessageEnd(message.clone()));
        message
    }

    /// Adds a message that did not stream.
    fn add_whole(&mut self, message: Message) -> Arc<Message> {
        self.emit(AgentEvent::MessageStart(Arc::new(message.clone())));
        self.add(message)
    }

    fn places(&self) -> Places<'_> {
        Places {
            cwd: &self.info.cwd,
            agent_dir: &self.config.agent_dir,
            home: &self.config.home,
            project_trusted: false,
        }
    }

    /// Takes a message from outside in.
    fn take_in(&mut self, incoming: Incoming) {
        let text = match incoming.expand.then(|| commands::expand(&incoming.text, &self.places())).flatten() {
            Some(expanded) => expanded.text,
            None => incoming.text,
        };
        let content = if incoming.images.is_empty() {
            Content::Text(text)
        } else {
            Content::Blocks(std::iter::once(Block::text(text)).chain(incoming.images).collect())
        };
        self.add_whole(Message::User(UserMessage { content, timestamp: now_ms() }));
    }

    fn work(&mut self, messages: Vec<Incoming>) -> Settled {
        let tools: Vec<&'static dyn Tool> = self.info.tools.iter().filter_map(|name| tools::by_name(name)).collect();
        let specs: Vec<ToolSpec> = tools.iter().map(|tool| tool.spec().clone()).collect();
        let places = self.places();
        let skills = skills::discover(&places, &[]);
        let system = system_prompt(&PromptInput { places, tools: &tools, skills: &skills, context_files: true });
        // The session approved the first request when it started the turn.
        let mut approved = true;
        let mut run = Run { begun: self.transcript.len(), turn: 0, attempt: 0 };
        self.emit(AgentEvent::AgentStart);
        self.emit(AgentEvent::TurnStart { index: 0 });
        for message in messages {
            self.take_in(message);
        }
        loop {
            if !std::mem::take(&mut approved) {
                let Some(messages) = self.gate(Action::Model) else {
                    return self.end_run(&run, None, Settled::Aborted);
                };
                for message in messages {
                    self.take_in(message);
                }
            }
            let outcome = self.ask(&system, &specs);
            if outcome.failed() {
                match self.failed(outcome, &mut run) {
                    Some(settled) => return settled,
                    None => continue,
                }
            }
            if run.attempt > 0 {
                self.emit(AgentEvent::AutoRetryEnd { success: true, attempt: run.attempt, final_error: None });
                run.attempt = 0;
            }
            let cut = outcome.message.stop_reason == StopReason::Length;
            let calls = calls(&outcome.message.content);
            let answer = self.add(Message::Assistant(outcome.message));
            let done = calls.is_empty();
            let results =
                if cut { calls.iter().map(|call| self.not_executed(call)).collect() } else { self.execute(calls) };
            let results = results.into_iter().map(|result| self.add_whole(Message::ToolResult(result))).collect();
            if self.cancel.is_cancelled() {
                self.end_turn(&run, Some(answer), results);
                self.emit(self.agent_end(&run, false));
                return Settled::Aborted;
            }
            let more = if done { self.gate(Action::Stop).unwrap_or_default() } else { Vec::new() };
            self.end_turn(&run, Some(answer), results);
            if done && more.is_empty() {
                self.emit(self.agent_end(&run, false));
                return Settled::Done;
            }
            run.turn += 1;
            self.emit(AgentEvent::TurnStart { index: run.turn });
            for message in more {
                self.take_in(message);
            }
        }
    }

    fn end_turn(&self, run: &Run, message: Option<Arc<Message>>, results: Vec<Arc<Message>>) {
        self.emit(AgentEvent::TurnEnd { index: run.turn, message, results });
    }

    fn agent_end(&self, run: &Run, will_retry: bool) -> AgentEvent {
        AgentEvent::AgentEnd { messages: self.transcript[run.begun.min(self.transcript.len())..].to_vec(), will_retry }
    }

    fn end_run(&self, run: &Run, message: Option<Arc<Message>>, settled: Settled) -> Settled {
        self.end_turn(run, message, Vec::new());
        self.emit(self.agent_end(run, false));
        settled
    }

    /// One request, streamed to the caller.
    fn ask(&self, system: &str, tools: &[ToolSpec]) -> Outcome {
        let request = Request {
            model: &self.model,
            system,
            messages: &self.transcript,
            tools,
            thinking: self.thinking,
            session_id: &self.info.instance_id,
        };
        let mut sink = Streaming { turn: self, started: false, delta: None };
        let outcome = self.services.stream(&request, &self.cancel, &mut sink);
        sink.finish();
        if !sink.started {
            self.emit(AgentEvent::MessageStart(self.empty_answer()));
        }
        outcome
    }

    /// An assistant's message that has just begun.
    fn empty_answer(&self) -> Arc<Message> {
        Arc::new(Message::Assistant(AssistantMessage {
            content: Vec::new(),
            api: self.model.api.as_str().into(),
            provider: self.model.provider.clone(),
            model: self.model.id.clone(),
            response_model: None,
            response_id: None,
            usage: Usage::default(),
            stop_reason: StopReason::Stop,
            error_message: None,
            thinking_level: None,
            timestamp: now_ms(),
            duration_ms: None,
        }))
    }

    /// Deals with a failed request: `None` means that it is worth another try, and that the pause for it is over.
    ///
    /// The failed message stays in the transcript as a record; requests leave it out.
    fn failed(&mut self, outcome: Outcome, run: &mut Run) -> Option<Settled> {
        let error = outcome.message.error_message.clone().unwrap_or_else(|| "the model gave no reason".into());
        let verdict = retry::verdict(&outcome, &self.model);
        let asked = outcome.failure.as_ref().and_then(|f| f.retry_after).map_or(0, |d| d.as_millis() as u64);
        let aborted = self.cancel.is_cancelled() || outcome.message.stop_reason == StopReason::Aborted;
        let message = self.add(Message::Assistant(outcome.message));
        let settings = self.services.retry_settings();
        let again = verdict == retry::Verdict::Retry && settings.enabled && run.attempt < settings.max_retries;
        if aborted || !again || asked > MAX_REQUESTED_DELAY_MS {
            if run.attempt > 0 {
                let final_error = if aborted { "Retry cancelled".to_string() } else { error.clone() };
                let attempt = run.attempt;
                self.emit(AgentEvent::AutoRetryEnd { success: false, attempt, final_error: Some(final_error) });
            }
            let settled = if aborted { Settled::Aborted } else { Settled::Failed(error) };
            return Some(self.end_run(run, Some(message), settled));
        }
        self.end_turn(run, Some(message), Vec::new());
        self.emit(self.agent_end(run, true));
        run.attempt += 1;
        let delay_ms = settings.delay_ms(run.attempt).max(asked);
        self.emit(AgentEvent::AutoRetryStart {
            attempt: run.attempt,
            max_attempts: settings.max_retries,
            delay_ms,
            error,
        });
        let cancelled = self.cancel.sleep(Duration::from_millis(delay_ms));
        if cancelled {
            let final_error = Some("Retry cancelled".to_string());
            self.emit(AgentEvent::AutoRetryEnd { success: false, attempt: run.attempt, final_error });
            return Some(Settled::Aborted);
        }
        run.turn = 0;
        run.begun = self.transcript.len();
        self.emit(AgentEvent::AgentStart);
        self.emit(AgentEvent::TurnStart { index: 0 });
        None
    }

    /// Runs the calls of one message: prepared in order, run at the same time, answered in order.
    fn execute(&self, calls: Vec<Call>) -> Vec<ToolResultMessage> {
        let prepared: Vec<_> = calls
            .into_iter()
            .map(|call| {
                self.begin(&call);
                let ready = self.prepare(&call);
                (call, ready)
            })
            .collect();
        if let [(call, ready)] = prepared.as_slice() {
            return vec![self.run_tool(call, ready)];
        }
        std::thread::scope(|scope| {
            let running: Vec<_> = prepared
                .iter()
                .map(|(call, ready)| {
                    let work = move || self.run_tool(call, ready);
                    // Without a thread for it the call runs right here, only not at the same time as the others.
                    match std::thread::Builder::new().name("tool".into()).spawn_scoped(scope, work) {
                        Ok(handle) => Ok(handle),
                        Err(_) => Err(Box::new(self.run_tool(call, ready))),
                    }
                })
                .collect();
            running
                .into_iter()
                .zip(&prepared)
                .map(|(running, (call, _))| match running {
                    Ok(handle) => handle
                        .join()
                        .unwrap_or_else(|_| result(call, ToolOutput::error("internal_error: the tool panicked"), None)),
                    Err(done) => *done,
                })
                .collect()
        })
    }

    /// Finds the tool and checks its arguments, or says what is wrong with the call.
    fn prepare(&self, call: &Call) -> Result<(&'static dyn Tool, Map<String, Value>), String> {
        let tool = self
            .info
            .tools
            .contains(&call.name)
            .then(|| tools::by_name(&call.name))
            .flatten()
            .ok_or_else(|| format!("Tool {} not found", call.name))?;
        if let Some(error) = &call.arguments_error {
            return Err(format!("Invalid arguments for tool \"{}\": {error}", call.name));
        }
        let arguments = tools::check(tool.spec(), tool.prepare(call.arguments.clone()))?;
        let action = Action::Tool { id: call.id.clone(), name: call.name.clone() };
        if self.gate(action).is_none() || self.cancel.is_cancelled() {
            return Err("Operation aborted".into());
        }
        Ok((tool, arguments))
    }

    fn run_tool(
        &self,
        call: &Call,
        ready: &Result<(&'static dyn Tool, Map<String, Value>), String>,
    ) -> ToolResultMessage {
        let begun = Instant::now();
        let (output, duration_ms) = match ready {
            Err(why) => (ToolOutput::error(why), None),
            Ok((tool, arguments)) => {
                let output = self.call_tool(*tool, arguments, call);
                (output, Some(u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX)))
            }
        };
        self.finished(call, output, duration_ms)
    }

    /// Tells the end of a call; returns its result.
    fn finished(&self, call: &Call, output: ToolOutput, duration_ms: Option<u64>) -> ToolResultMessage {
        self.emit(AgentEvent::ToolExecutionEnd {
            id: call.id.clone(),
            name: call.name.clone(),
            content: output.content.clone(),
            details: output.details.clone(),
            is_error: output.is_error,
            duration_ms,
        });
        result(call, output, duration_ms)
    }

    /// The result of a call whose arguments may have been cut off.
    fn not_executed(&self, call: &Call) -> ToolResultMessage {
        let text = "The tool call was not executed: the answer hit the output limit, so that its arguments may be \
                    incomplete. Call the tool again, with less in one call.";
        self.begin(call);
        self.finished(call, ToolOutput::error(text), None)
    }

    fn begin(&self, call: &Call) {
        self.emit(AgentEvent::ToolExecutionStart {
            id: call.id.clone(),
            name: call.name.clone(),
            arguments: call.arguments.clone(),
        });
    }

    fn call_tool(&self, tool: &dyn Tool, arguments: &Map<String, Value>, call: &Call) -> ToolOutput {
        let mut environment = self.config.tool_environment.clone();
        for (name, value) in [
            (SESSION_VARIABLE, self.info.instance_id.as_str()),
            ("PI_SESSION_ID", &self.info.id),
            ("PI_PROVIDER", &self.model.provider),
            ("PI_MODEL", &self.model.id),
            ("PI_REASONING_LEVEL", self.thinking.as_str()),
        ] {
            environment.push((name.to_string(), value.to_string()));
        }
        let update = |partial: ToolOutput| {
            if !self.facts.listened_to() {
                return;
            }
            self.emit(AgentEvent::ToolExecutionUpdate {
                id: call.id.clone(),
                name: call.name.clone(),
                partial: partial.content,
            });
        };
        let context = ToolContext {
            cwd: &self.info.cwd,
            cancel: &self.cancel,
            environment: &environment,
            spill_dir: &self.spill_dir,
            images: self.model.images,
            default_timeout: self.config.bash_timeout,
            on_update: &update,
            ask: &|_| Err("questions cannot be asked here".into()),
        };
        catch_unwind(AssertUnwindSafe(|| tool.run(arguments, &context)))
            .unwrap_or_else(|_| ToolOutput::error("internal_error: the tool panicked"))
    }
}

/// Hands the text of an answer to the caller, on the thread that reads it from the model; and, while somebody listens,
/// every piece of the answer to the session.
struct Streaming<'a> {
    turn: &'a Turn,
    started: bool,
    /// A piece that the session could not take yet, to which the next ones are added.
    delta: Option<Delta>,
}

impl Streaming<'_> {
    /// Tells the session of a piece. If it has many to take already, pieces of one kind are told together.
    fn tell(&mut self, next: Delta) {
        if let Some(held) = &mut self.delta {
            let same = (held.kind, held.index) == (next.kind, next.index);
            if same && self.turn.steps.is_full() {
                held.text.push_str(&next.text);
                return;
            }
        }
        self.finish();
        if self.turn.steps.is_full() {
            self.delta = Some(next);
        } else {
            self.turn.emit(AgentEvent::MessageUpdate(next));
        }
    }

    /// Tells what was held back.
    fn finish(&mut self) {
        if let Some(held) = self.delta.take() {
            self.turn.emit(AgentEvent::MessageUpdate(held));
        }
    }
}

impl Sink for Streaming<'_> {
    fn event(&mut self, event: StreamEvent<'_>) {
        match event {
            StreamEvent::TextDelta { delta, .. } => self.turn.reply.text(delta, &self.turn.cancel),
            StreamEvent::Start => {
                self.started = true;
                self.turn.emit(AgentEvent::MessageStart(self.turn.empty_answer()));
            }
            _ => {}
        }
        if self.turn.facts.listened_to()
            && let Some(delta) = delta(&event)
        {
            self.tell(delta);
        }
    }

    fn drained(&mut self) {
        self.turn.reply.flush();
        self.finish();
    }
}

/// A stream's event as the session is told of it.
fn delta(event: &StreamEvent<'_>) -> Option<Delta> {
    let (kind, index, text) = match *event {
        StreamEvent::Start => return None,
        StreamEvent::TextStart { index } => (DeltaKind::TextStart, index, ""),
        StreamEvent::TextDelta { index, delta } => (DeltaKind::Text, index, delta),
        StreamEvent::TextEnd { index } => (DeltaKind::TextEnd, index, ""),
        StreamEvent::ThinkingStart { index } => (DeltaKind::ThinkingStart, index, ""),
        StreamEvent::ThinkingDelta { index, delta } => (DeltaKind::Thinking, index, delta),
        StreamEvent::ThinkingEnd { index } => (DeltaKind::ThinkingEnd, index, ""),
        StreamEvent::ToolCallStart { index, .. } => (DeltaKind::ToolCallStart, index, ""),
        StreamEvent::ToolCallDelta { index, delta } => (DeltaKind::ToolCall, index, delta),
        StreamEvent::ToolCallEnd { index } => (DeltaKind::ToolCallEnd, index, ""),
    };
    let call = match *event {
        StreamEvent::ToolCallStart { id, name, .. } => Some((id.to_owned(), name.to_owned())),
        _ => None,
    };
    Some(Delta { kind, index, text: text.to_owned(), call })
}

fn calls(content: &[Block]) -> Vec<Call> {
    content
        .iter()
        .filter_map(|block| match block {
            Block::ToolCall { id, name, arguments, arguments_error, .. } => Some(Call {
                id: id.clone(),
                name: name.clone(),
                arguments: arguments.clone(),
                arguments_error: arguments_error.clone(),
            }),
            _ => None,
        })
        .collect()
}

fn result(call: &Call, output: ToolOutput, duration_ms: Option<u64>) -> ToolResultMessage {
    ToolResultMessage {
        tool_call_id: call.id.clone(),
        tool_name: call.name.clone(),
        content: output.content,
        details: output.details,
        is_error: output.is_error,
        duration_ms,
        timestamp: now_ms(),
    }
}
