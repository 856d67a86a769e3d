//! The agent loop: one prompt from the first model request to the last, as straight-line code on a thread of its own.
//!
//! What it does is told upwards as [`Step`]s. It may neither ask the model again nor run a tool before the session's actor
//! said yes; that is the one place for policy, limits and records.

use crate::cancel::Cancel;
use crate::config::Config;
use crate::events::AgentEvent;
use crate::model::retry;
use crate::model::{Outcome, Request, Services, Sink, StreamEvent};
use crate::prompt::{Places, PromptInput, skills, system_prompt, templates};
use crate::reply::Reply;
use crate::session::Info;
use crate::tools::{self, Tool, ToolContext, ToolOutput};
use crate::transcript::{Block, Message, StopReason, ToolResultMessage, ToolSpec, now_ms};
use crossbeam_channel::{Sender, bounded};
use serde_json::{Map, Value};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Marks everything that the programs of one session start, by the session's instance id.
const SESSION_VARIABLE: &str = "NATS_PI_BRIDGE_SESSION";

/// Kills what programs of a session left running in the background. For its end.
pub fn kill_leftovers(info: &Info) {
    tools::child::kill_marked(SESSION_VARIABLE, &info.instance_id);
}

/// What a turn tells its session, in order.
pub enum Step {
    Event(AgentEvent),
    /// The turn waits for the verdict: true = go on.
    Gate(Action, Sender<bool>),
    /// The last step.
    Settled(Settled),
}

/// What a turn asks leave for.
#[derive(Debug)]
pub enum Action {
    Model,
    Tool(String),
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
    pub transcript: Vec<Arc<Message>>,
    pub reply: Arc<dyn Reply>,
    pub cancel: Cancel,
    pub steps: Sender<Step>,
    /// Where tools may put what does not fit into a result.
    pub spill_dir: PathBuf,
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
    pub fn run(mut self, prompt: String) {
        let settled = catch_unwind(AssertUnwindSafe(|| self.work(prompt)))
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

    fn gate(&self, action: Action) -> bool {
        let (verdict, answer) = bounded(1);
        self.step(Step::Gate(action, verdict));
        answer.recv().unwrap_or(false)
    }

    /// Adds a complete message to the transcript.
    fn add(&mut self, message: Message) {
        let message = Arc::new(message);
        self.transcript.push(message.clone());
        self.emit(AgentEvent::MessageEnd(message));
    }

    fn work(&mut self, prompt: String) -> Settled {
        let tools: Vec<&'static dyn Tool> =
            tools::DEFAULT_TOOLS.iter().filter_map(|name| tools::by_name(name)).collect();
        let specs: Vec<ToolSpec> = tools.iter().map(|tool| tool.spec().clone()).collect();
        let places = Places {
            cwd: &self.info.cwd,
            agent_dir: &self.config.agent_dir,
            home: &self.config.home,
            project_trusted: false,
        };
        let skills = skills::discover(&places, &[]);
        let system = system_prompt(&PromptInput { places, tools: &tools, skills: &skills, context_files: true });
        let prompt = expand(prompt, &places, &skills);
        self.emit(AgentEvent::AgentStart);
        self.emit(AgentEvent::TurnStart);
        self.add(Message::user(prompt));
        let mut attempt = 0;
        let mut approved = true;
        loop {
            // The session approved the first request when it started the turn.
            if !std::mem::take(&mut approved) && !self.gate(Action::Model) {
                return self.end_run(Settled::Aborted);
            }
            let outcome = self.ask(&system, &specs);
            if outcome.failed() {
                match self.failed(outcome, &mut attempt) {
                    Some(settled) => return self.end_run(settled),
                    None => continue,
                }
            }
            if attempt > 0 {
                self.emit(AgentEvent::AutoRetryEnd { success: true, attempt, final_error: None });
                attempt = 0;
            }
            let cut = outcome.message.stop_reason == StopReason::Length;
            let calls = calls(&outcome.message.content);
            self.add(Message::Assistant(outcome.message));
            if calls.is_empty() {
                return self.end_run(Settled::Done);
            }
            let results = if cut { calls.iter().map(not_executed).collect() } else { self.execute(calls) };
            for result in results {
                self.add(Message::ToolResult(result));
            }
            self.emit(AgentEvent::TurnEnd);
            if self.cancel.is_cancelled() {
                self.emit(AgentEvent::AgentEnd { will_retry: false });
                return Settled::Aborted;
            }
            self.emit(AgentEvent::TurnStart);
        }
    }

    fn end_run(&self, settled: Settled) -> Settled {
        self.emit(AgentEvent::TurnEnd);
        self.emit(AgentEvent::AgentEnd { will_retry: false });
        settled
    }

    /// One request, streamed to the caller.
    fn ask(&self, system: &str, tools: &[ToolSpec]) -> Outcome {
        let request = Request {
            model: &self.info.model,
            system,
            messages: &self.transcript,
            tools,
            thinking: self.info.thinking,
            session_id: Some(&self.info.instance_id),
        };
        self.services.stream(&request, &self.cancel, &mut Streaming { turn: self })
    }

    /// Deals with a failed request: `None` means that it is worth another try, and that the pause for it is over.
    ///
    /// The failed message stays in the transcript as a record; requests leave it out.
    fn failed(&mut self, outcome: Outcome, attempt: &mut u32) -> Option<Settled> {
        let error = outcome.message.error_message.clone().unwrap_or_else(|| "the model gave no reason".into());
        let aborted = self.cancel.is_cancelled() || outcome.message.stop_reason == StopReason::Aborted;
        let settings = self.services.retry_settings();
        let pause = retry::pause_ms(&outcome, &self.info.model, &settings, *attempt).filter(|_| !aborted);
        self.add(Message::Assistant(outcome.message));
        let Some(delay_ms) = pause else {
            if *attempt > 0 {
                let final_error = if aborted { "Retry cancelled".to_string() } else { error.clone() };
                let attempt = *attempt;
                self.emit(AgentEvent::AutoRetryEnd { success: false, attempt, final_error: Some(final_error) });
            }
            return Some(if aborted { Settled::Aborted } else { Settled::Failed(error) });
        };
        self.emit(AgentEvent::TurnEnd);
        self.emit(AgentEvent::AgentEnd { will_retry: true });
        *attempt += 1;
        self.emit(AgentEvent::AutoRetryStart {
            attempt: *attempt,
            max_attempts: settings.max_retries,
            delay_ms,
            error,
        });
        let cancelled = self.cancel.sleep(Duration::from_millis(delay_ms));
        self.emit(AgentEvent::AgentStart);
        self.emit(AgentEvent::TurnStart);
        cancelled.then_some(Settled::Aborted)
    }

    /// Runs the calls of one message: prepared in order, run at the same time, answered in order.
    fn execute(&self, calls: Vec<Call>) -> Vec<ToolResultMessage> {
        let prepared: Vec<_> = calls
            .into_iter()
            .map(|call| {
                self.emit(AgentEvent::ToolExecutionStart {
                    id: call.id.clone(),
                    name: call.name.clone(),
                    arguments: call.arguments.clone(),
                });
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
        let tool = tools::DEFAULT_TOOLS
            .contains(&call.name.as_str())
            .then(|| tools::by_name(&call.name))
            .flatten()
            .ok_or_else(|| format!("Tool {} not found", call.name))?;
        if let Some(error) = &call.arguments_error {
            return Err(format!("Invalid arguments for tool \"{}\": {error}", call.name));
        }
        let arguments = tools::check(tool.spec(), tool.prepare(call.arguments.clone()))?;
        if !self.gate(Action::Tool(call.name.clone())) || self.cancel.is_cancelled() {
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
        self.emit(AgentEvent::ToolExecutionEnd {
            id: call.id.clone(),
            name: call.name.clone(),
            is_error: output.is_error,
            duration_ms,
        });
        result(call, output, duration_ms)
    }

    fn call_tool(&self, tool: &dyn Tool, arguments: &Map<String, Value>, call: &Call) -> ToolOutput {
        let mut environment = self.config.tool_environment.clone();
        for (name, value) in [
            (SESSION_VARIABLE, self.info.instance_id.as_str()),
            ("PI_SESSION_ID", &self.info.id),
            ("PI_PROVIDER", &self.info.model.provider),
            ("PI_MODEL", &self.info.model.id),
            ("PI_REASONING_LEVEL", self.info.thinking.as_str()),
        ] {
            environment.push((name.to_string(), value.to_string()));
        }
        let update = |partial: ToolOutput| {
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
            images: self.info.model.images,
            default_timeout: self.config.bash_timeout,
            on_update: &update,
        };
        catch_unwind(AssertUnwindSafe(|| tool.run(arguments, &context)))
            .unwrap_or_else(|_| ToolOutput::error("internal_error: the tool panicked"))
    }
}

/// A prompt that calls up a skill or a template becomes its text; anything else stays as it is.
fn expand(prompt: String, places: &Places<'_>, skills: &[skills::Skill]) -> String {
    if !prompt.starts_with('/') {
        return prompt;
    }
    skills::expand(&prompt, skills)
        .or_else(|| templates::expand(&prompt, &templates::discover(places, &[])))
        .unwrap_or(prompt)
}

/// Hands the text of an answer to the caller, on the thread that reads it from the model.
struct Streaming<'a> {
    turn: &'a Turn,
}

impl Sink for Streaming<'_> {
    fn event(&mut self, event: StreamEvent<'_>) {
        match event {
            StreamEvent::TextDelta { delta, .. } => self.turn.reply.text(delta, &self.turn.cancel),
            StreamEvent::Start => self.turn.emit(AgentEvent::MessageStart),
            _ => {}
        }
    }

    fn drained(&mut self) {
        self.turn.reply.flush();
    }
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

/// The result of a call whose arguments may have been cut off.
fn not_executed(call: &Call) -> ToolResultMessage {
    let text = "The tool call was not executed: the answer hit the output limit, so that its arguments may be incomplete. \
                Call the tool again, with less in one call.";
    result(call, ToolOutput::error(text), None)
}
