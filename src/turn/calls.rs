//! The tools that an answer calls: prepared in order, run at the same time, answered in order. Those on one file run one
//! after the other, in the order in which they stand in the answer.

use super::{Action, Ruling, Step, ToolCall, Turn, Verdict, Wait};
use crate::clock::now_ms;
use crate::contract::denial::{Denial, DeniedBy};
use crate::contract::event::AgentEvent;
use crate::governance::rules::Target;
use crate::threads::{self, TURN_STACK};
use crate::tools::child::SESSION_VARIABLE;
use crate::tools::runner::Sandbox;
use crate::tools::{self, FileId, Tool, ToolContext, ToolOutput};
use crate::traceparent::TRACEPARENT_VARIABLE;
use crate::transcript::{Block, Message, StopReason, ToolResultMessage};
use crossbeam_channel::bounded;
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

/// The variable that names the session's file to programs.
const SESSION_FILE_VARIABLE: &str = "PI_SESSION_FILE";

/// Calls of one answer that run at the same time; the others wait. Each may take a thread, a process and a few pipes.
const AT_A_TIME: usize = 8;
/// Calls of one answer that run at all. No model is known to make so many on purpose.
const MAX_CALLS: usize = 128;
const TOO_MANY: &str = "The tool call was not executed: the answer has more than 128 calls. Make fewer at a time.";

/// A tool call of the model, as it stands in its message.
pub(super) struct Call {
    id: String,
    name: String,
    arguments: Map<String, Value>,
    arguments_error: Option<String>,
}

/// The tool, and its arguments as they were found to be right.
type Ready = (&'static dyn Tool, Arc<Map<String, Value>>);

impl Turn {
    /// Runs the calls of one message: prepared in order, run at the same time, answered in order.
    pub(super) fn execute(&self, calls: Vec<Call>) -> Vec<ToolResultMessage> {
        let mut prepared: Vec<(Call, Result<Ready, Box<ToolResultMessage>>)> = calls
            .into_iter()
            .enumerate()
            .map(|(index, call)| {
                self.begin(&call);
                let ready = if index < MAX_CALLS { self.prepare(&call) } else { Err(TOO_MANY.into()) };
                // A call that cannot run has ended before the next one begins.
                let ready = ready.map_err(|why| Box::new(self.finished(&call, ToolOutput::error(why), None)));
                (call, ready)
            })
            .collect();
        let asked: Vec<ToolCall> = prepared
            .iter()
            .filter_map(|(call, ready)| ready.as_ref().ok().map(|ready| self.for_the_gate(call, ready)))
            .collect();
        // Asked for all of them at once, since the session waits for its disk before it agrees.
        let rulings = match asked.is_empty() {
            true => Vec::new(),
            false => match self.verdict(Action::Tools(asked)) {
                Verdict::Calls(rulings) if !self.cancel.is_cancelled() => rulings,
                Verdict::Calls(_)
                | Verdict::No
                | Verdict::Go(_)
                | Verdict::Refused(_)
                | Verdict::Asked(..)
                | Verdict::Reserved(_) => Vec::new(),
            },
        };
        let mut rulings = rulings.into_iter();
        let mut waits = Vec::new();
        for (call, ready) in &mut prepared {
            let settled = match ready.as_ref().ok().map(|_| rulings.next()) {
                None | Some(Some(Ruling::Run)) => None,
                Some(Some(Ruling::Denied(denial))) => {
                    *ready = Err(Box::new(self.denied(call, &denial)));
                    None
                }
                Some(Some(Ruling::Wait(wait))) => Some(wait),
                Some(None) => {
                    *ready = Err(Box::new(self.finished(call, ToolOutput::error("Operation aborted"), None)));
                    None
                }
            };
            waits.push(settled);
        }
        self.changes.before(prepared.iter().filter_map(|(call, ready)| Some((&*call.name, &*ready.as_ref().ok()?.1))));
        let results: Vec<OnceLock<ToolResultMessage>> = prepared.iter().map(|_| OnceLock::new()).collect();
        let home = &self.options.folders.home;
        let file = |ready: &Ready| tools::file_of(ready.0, &ready.1, &self.identity.cwd, home);
        let mut chains = chains(prepared.iter().map(|(_, ready)| ready.as_ref().ok().and_then(file)));
        // What waits for people must not keep others from running.
        chains.sort_by_key(|chain| chain.iter().any(|at| waits[*at].is_some()));
        let next = AtomicUsize::new(0);
        let work = || {
            while let Some(chain) = chains.get(next.fetch_add(1, Ordering::Relaxed)) {
                for at in chain {
                    let (call, ready) = &prepared[*at];
                    let settled = waits[*at].as_ref().map(|wait| self.wait_for(wait));
                    let result = match ready {
                        Ok(_) if let Some(Err(denial)) = &settled => self.denied(call, denial),
                        Ok(ready) => self.run_tool(call, ready),
                        Err(done) => ToolResultMessage::clone(done),
                    };
                    // Each index is taken once.
                    let _ = results[*at].set(result);
                }
            }
        };
        std::thread::scope(|scope| {
            // The turn's own thread is one of those that work; where the system refuses others, it does all.
            for _ in 1..chains.len().min(AT_A_TIME) {
                let _ = threads::spawn_scoped(scope, "tool", TURN_STACK, work);
            }
            work();
        });
        results.into_iter().filter_map(OnceLock::into_inner).collect()
    }

    /// A call as the gate looks at it. What it is about is found out here, since that may take a disk.
    fn for_the_gate(&self, call: &Call, (tool, arguments): &Ready) -> ToolCall {
        let target = match &*call.name {
            _ if self.identity.rules.is_open() => Target::Other,
            "bash" => {
                let command = arguments.get("command").and_then(Value::as_str).unwrap_or_default();
                Target::command(
                    command,
                    self.services.tool_settings().shell.as_deref().and_then(std::path::Path::to_str),
                )
            }
            _ => match tools::path_of(*tool, arguments, &self.identity.cwd, &self.options.folders.home) {
                Some((named, real)) => Target::path(&named, &real),
                None => Target::Other,
            },
        };
        ToolCall { id: call.id.clone(), tool: call.name.clone(), arguments: arguments.clone(), target }
    }

    /// Waits until it is settled what may be done.
    pub(super) fn wait_for(&self, wait: &Wait) -> Result<(), Denial> {
        let end = Denial { by: DeniedBy::End, rule: None };
        let (settle, ended) = (wait.settle.clone(), end.clone());
        let _guard = self.cancel.on_cancel(move || drop(settle.try_send(Err(ended))));
        let settled = wait.settled.recv().unwrap_or_else(|_| Err(end.clone()));
        if self.cancel.is_cancelled() { Err(end) } else { settled }
    }

    fn denied(&self, call: &Call, denial: &Denial) -> ToolResultMessage {
        let text = if denial.by == DeniedBy::End { "Operation aborted".into() } else { denial.text() };
        let details = Some(json!({"denied": denial.document()}));
        self.finished(call, ToolOutput { details, ..ToolOutput::error(text) }, None)
    }

    /// The calls of the last answer that a restart left open: those of which it is known that nothing happened, questions, and
    /// calls that wait for an approval.
    pub(super) fn open_calls(&self) -> Vec<Call> {
        let is_result = |message: &Arc<Message>| matches!(**message, Message::ToolResult(_));
        let Some(at) = self.transcript.iter().rposition(|message| !is_result(message)) else { return Vec::new() };
        let Message::Assistant(answer) = &*self.transcript[at] else { return Vec::new() };
        if matches!(answer.stop_reason, StopReason::Error | StopReason::Aborted) {
            return Vec::new();
        }
        let answered = |call: &Call| {
            let mut results = self.transcript[at..].iter();
            results.any(|m| matches!(&**m, Message::ToolResult(result) if result.tool_call_id == call.id))
        };
        calls(&answer.content).into_iter().filter(|call| !answered(call)).collect()
    }

    /// Finds the tool and checks its arguments, or says what is wrong with the call.
    fn prepare(&self, call: &Call) -> Result<Ready, String> {
        let tool = self
            .identity
            .tools
            .contains(&call.name)
            .then(|| tools::by_name(&call.name))
            .flatten()
            .ok_or_else(|| format!("Tool {} not found", call.name))?;
        if let Some(error) = &call.arguments_error {
            return Err(format!("Invalid arguments for tool \"{}\": {error}", call.name));
        }
        let arguments = tools::check(tool.spec(), tool.prepare(call.arguments.clone()))?;
        Ok((tool, Arc::new(arguments)))
    }

    fn run_tool(&self, call: &Call, (tool, arguments): &Ready) -> ToolResultMessage {
        let begun = Instant::now();
        let output = self.call_tool(*tool, arguments, call);
        let duration_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.finished(call, output, Some(duration_ms))
    }

    /// Puts a question to people and waits for what becomes of it, or until the turn is cancelled.
    fn ask_people(&self, request: Value) -> Result<Value, String> {
        let (answer, received) = bounded(2);
        let cancelled = answer.clone();
        let _guard = self.cancel.on_cancel(move || drop(cancelled.try_send(Err("Operation aborted".into()))));
        self.step(Step::Ask { request, answer });
        received.recv().unwrap_or_else(|_| Err("the session has ended".into()))
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
            sandbox: self.sandbox(&call.name),
        });
        result(call, output, duration_ms)
    }

    /// The result of a call whose arguments may have been cut off.
    pub(super) fn not_executed(&self, call: &Call) -> ToolResultMessage {
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
            sandbox: self.sandbox(&call.name),
        });
    }

    /// What a tool is confined to; `None` = it does what the daemon may do.
    fn sandbox(&self, tool: &str) -> Option<Arc<Sandbox>> {
        Some(self.runner.sandbox()).filter(|sandbox| !sandbox.is_off() && tool != tools::QUESTION)
    }

    fn call_tool(&self, tool: &dyn Tool, arguments: &Map<String, Value>, call: &Call) -> ToolOutput {
        let (mut environment, secrets) = match self.secrets.environment(&self.identity.environment, &self.options) {
            Ok(found) => found,
            Err(why) => return ToolOutput::error(why),
        };
        if self.runner.hooks_changed() {
            tools::without_hooks(&mut environment);
        }
        // That of a session whose tool has started the daemon is not ours.
        let is_of_prompt = |name: &str| name == TRACEPARENT_VARIABLE && self.trace.is_some();
        environment.retain(|(name, _)| name != SESSION_FILE_VARIABLE && !is_of_prompt(name));
        let file = self.stats.settings().file;
        let file = file.as_ref().map(|file| file.to_string_lossy());
        for (name, value) in [
            (SESSION_VARIABLE, &*self.identity.instance_id),
            ("PI_SESSION_ID", &self.identity.id),
            ("PI_PROVIDER", &self.model.provider),
            ("PI_MODEL", &self.model.id),
            ("PI_REASONING_LEVEL", self.thinking.as_str()),
        ]
        .into_iter()
        .chain(file.as_deref().map(|file| (SESSION_FILE_VARIABLE, file)))
        .chain(self.trace.as_ref().map(|trace| (TRACEPARENT_VARIABLE, trace.as_str())))
        {
            environment.push((name.to_string(), value.to_string()));
        }
        let update = |partial: ToolOutput| {
            if !self.stats.listened_to() {
                return;
            }
            self.emit(AgentEvent::ToolExecutionUpdate {
                id: call.id.clone(),
                name: call.name.clone(),
                partial: secrets.redaction.output(partial, true).content,
            });
        };
        let settings = self.services.tool_settings();
        let context = ToolContext {
            cwd: &self.identity.cwd,
            cancel: &self.cancel,
            environment: &environment,
            spill_dir: &self.spill_dir,
            quota: &self.quota,
            images: self.model.images,
            resize_images: settings.resize_images,
            shell: settings.shell.as_deref(),
            command_prefix: settings.command_prefix.as_deref(),
            default_timeout: self.options.bash_timeout,
            on_update: &update,
            ask: &|request| self.ask_people(request),
        };
        let writes = matches!(&*call.name, "bash" | "edit" | "write");
        if writes {
            self.runner.watch();
        }
        let output = catch_unwind(AssertUnwindSafe(|| self.runner.call(tool, arguments, &context)))
            .unwrap_or_else(|_| ToolOutput::error("internal_error: the tool panicked"));
        let changed = if writes { self.runner.watched_changes() } else { Vec::new() };
        if !changed.is_empty() {
            self.emit(AgentEvent::SensitiveFilesChanged {
                id: call.id.clone(),
                name: call.name.clone(),
                paths: changed,
            });
        }
        secrets.redaction.output(output, false)
    }
}

/// Which calls have to run one after the other, by their indices: those on one file. All chains may run at the same time.
fn chains(files: impl Iterator<Item = Option<FileId>>) -> Vec<Vec<usize>> {
    let mut chains: Vec<Vec<usize>> = Vec::new();
    let mut by_file: HashMap<FileId, usize> = HashMap::new();
    for (at, file) in files.enumerate() {
        let chain = file.map_or(chains.len(), |file| *by_file.entry(file).or_insert(chains.len()));
        match chains.get_mut(chain) {
            Some(chain) => chain.push(at),
            None => chains.push(vec![at]),
        }
    }
    chains
}

/// The calls of an answer.
pub(super) fn calls(content: &[Block]) -> Vec<Call> {
    content
        .iter()
        .filter_map(|block| match block {
            Block::ToolCall { id, name, arguments, arguments_error, .. } => Some(Call {
                id: id.clone(),
                name: name.clone(),
                arguments: arguments.clone(),
                arguments_error: arguments_error.clone(),
            }),
            Block::Text { .. } | Block::Thinking { .. } | Block::Image { .. } => None,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_on_one_file_are_a_chain() {
        let file = |number| Some(FileId::There(1, number));
        for (files, expected) in [
            (vec![], vec![]),
            (vec![None, None], vec![vec![0], vec![1]]),
            (vec![file(1), None, file(2), file(1), file(1)], vec![vec![0, 3, 4], vec![1], vec![2]]),
            (
                vec![Some(FileId::NotYet("/a".into())), file(1), Some(FileId::NotYet("/a".into()))],
                vec![vec![0, 2], vec![1]],
            ),
        ] {
            assert_eq!(chains(files.into_iter()), expected);
        }
    }
}
