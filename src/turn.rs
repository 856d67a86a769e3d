//! The agent loop: one prompt from the first model request to the last, as straight-line code on a thread of its own.
//!
//! What it does is told upwards as [`Step`]s. It may neither ask the model again nor run a tool before the session's actor
//! said yes; that is the one place for policy, limits and records.

mod calls;
mod compact;
mod git_folder;
mod room;
mod secrets;
mod spending;
mod steps;
mod streaming;

use crate::cancel::Cancel;
use crate::clock::now_ms;
use crate::contract::error::{ErrorKind, ReplyError};
use crate::contract::event::AgentEvent;
use crate::contract::identity::SessionIdentity;
use crate::contract::prompt::Incoming;
use crate::contract::reply::{Reply, Restart};
use crate::contract::session::SessionStats;
use crate::governance::budget::{Account, SharedDay};
use crate::model::{Model, Outcome, Request, Services, ThinkingLevel, overflow::is_overflow, retry};
use crate::prompt::{PromptInput, ToolText, UserFolders, commands, skills, system_prompt};
use crate::quota::SessionQuota;
use crate::tools::runner::Runner;
use crate::tools::{self, Changes, Tool};
use crate::traceparent::Traceparent;
use crate::transcript::{AssistantMessage, Block, Content, Message, StopReason, ToolSpec, Usage, UserMessage};
use calls::calls;
use compact::CompactError;
use crossbeam_channel::{Sender, bounded};
pub(crate) use git_folder::{Brought, FolderError, GitFolder};
pub(crate) use secrets::{SecretTable, SessionSecrets};
use spending::Requests;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
pub(crate) use steps::{Action, Durable, Ruling, Settled, Step, ToolCall, Verdict, Wait, Work};
use streaming::Streaming;

/// Kills what programs of a session left running in the background. For its end.
pub(crate) fn kill_leftovers(identity: &SessionIdentity) {
    tools::child::kill_marked(tools::child::SESSION_VARIABLE, &identity.instance_id);
}

/// The settings that turns share.
pub(crate) struct TurnOptions {
    pub folders: UserFolders,
    /// The whole environment of child processes.
    pub tool_environment: Vec<(String, String)>,
    /// How long a command may take that names no limit; `None` = no limit.
    pub bash_timeout: Option<Duration>,
    /// What sessions may have as variables by naming it.
    pub secrets: SecretTable,
}

/// Everything a turn works with.
pub(crate) struct Turn {
    pub options: Arc<TurnOptions>,
    pub services: Arc<Services>,
    pub identity: Arc<SessionIdentity>,
    pub stats: Arc<SessionStats>,
    pub model: Arc<Model>,
    pub thinking: ThinkingLevel,
    pub transcript: Vec<Arc<Message>>,
    pub reply: Arc<dyn Reply>,
    pub cancel: Cancel,
    pub steps: Sender<Step>,
    /// Where tools may put what does not fit into a result.
    pub spill_dir: PathBuf,
    /// How much of that.
    pub quota: Arc<SessionQuota>,
    /// Where they run.
    pub runner: Arc<Runner>,
    /// What they get and must not show.
    pub secrets: Arc<SessionSecrets>,
    /// The caller's place in a trace.
    pub trace: Option<Traceparent>,
    /// What this run added to the transcript.
    pub produced: Vec<Arc<Message>>,
    /// Tokens of the system prompt and the tools, estimated; 0 until they are known.
    pub overhead: u64,
    /// The caller has heard something, and the session has a record of that.
    pub has_spoken: bool,
    /// What its tools change.
    pub changes: Changes,
    /// The session has to be asked before each request to the model.
    pub is_metered: bool,
    /// But not where it can reserve what it may take from this.
    pub account: Option<Account>,
    /// The commit of its working folder that was pushed last, where the folder goes on elsewhere with its session.
    pub pushed: Option<String>,
    /// Who says beside the session whether something may be spent today, if that is shared with other machines.
    pub shared_day: Option<Arc<SharedDay>>,
}

/// How far a run has come.
struct Run {
    /// The number of the turn, from 0.
    turn: u64,
    /// Attempts after the first one, since the last success.
    attempt: u32,
    /// How often in a row the context was made smaller because it was too long.
    overflows: u32,
    /// The model was asked again because its answer had nothing in it, and no other answer has come since.
    emptied: bool,
    /// Requests for the answer that is due.
    requests: u32,
    /// How much text of the latest of them the caller has got, bytes.
    heard: usize,
    /// The caller has got text that is void, of which it is to be told before it gets anything else.
    restart: Option<Restart>,
}

impl Run {
    /// The model is to be asked once more for the same answer.
    fn again(&mut self) {
        self.requests += 1;
        let void_bytes =
            std::mem::take(&mut self.heard) + self.restart.and_then(|restart| restart.void_bytes).unwrap_or(0);
        self.restart = (void_bytes > 0).then_some(Restart { attempt: self.requests, void_bytes: Some(void_bytes) });
    }

    /// The answer is there; the next request is for another one.
    fn answered(&mut self) {
        (self.attempt, self.emptied) = (0, false);
        (self.requests, self.heard, self.restart) = (1, 0, None);
    }

    /// A context with new words in it has its own chances to be made smaller.
    fn heard_from_user(&mut self, messages: &[Incoming]) {
        if !messages.is_empty() {
            self.overflows = 0;
        }
    }
}

impl Turn {
    /// Works on one prompt until it settles. Panics inside are caught and count as failures.
    pub(crate) fn run(mut self, work: Work) {
        let settled = catch_unwind(AssertUnwindSafe(|| self.work(work)))
            .unwrap_or_else(|_| Settled::Failed(ReplyError::internal("the turn panicked; the session goes on")));
        self.reply.event(&settled.event());
        self.step(Step::Settled(settled, self.changes.after()));
    }

    /// Tells the session. It is gone only after it gave up on this turn, and then nobody is left to tell.
    fn step(&self, step: Step) {
        let _ = self.steps.send(step);
    }

    /// Tells the caller and the session of an event: the caller from here, so that it comes in order with the text.
    fn emit(&self, event: AgentEvent) {
        if let AgentEvent::MessageEnd(message) = &event
            && let Message::Assistant(answer) = &**message
        {
            self.stats.add_usage(&answer.usage);
        }
        self.reply.event(&event);
        self.step(Step::Event(event));
    }

    /// Tells of two events that happen at once, neither of them an answer's end.
    fn emit_both(&self, events: [AgentEvent; 2]) {
        events.iter().for_each(|event| self.reply.event(event));
        self.step(Step::Events(Box::new(events)));
    }

    /// Asks for leave; `None` = no.
    fn gate(&self, action: Action) -> Option<Vec<Incoming>> {
        match self.verdict(action) {
            Verdict::Go(messages) => Some(messages),
            Verdict::No | Verdict::Calls(_) | Verdict::Refused(_) | Verdict::Asked(..) | Verdict::Reserved(_) => None,
        }
    }

    fn verdict(&self, action: Action) -> Verdict {
        if self.stats.leaving() && matches!(action, Action::Model | Action::Tools(_)) {
            self.save_folder();
        }
        let (verdict, answer) = bounded(1);
        self.step(Step::Gate(action, verdict));
        answer.recv().unwrap_or(Verdict::No)
    }

    /// The messages that the turn takes in before it does `action`; `None` = it must not. The session need not be asked
    /// when nothing waits, which saves two changes of thread. What comes in just then is not lost: the session makes it a
    /// prompt of its own.
    fn waiting(&self, action: Action) -> Option<Vec<Incoming>> {
        let nothing_waits = self.stats.pending() == 0 && !self.stats.leaving();
        if nothing_waits { Some(Vec::new()) } else { self.gate(action) }
    }

    /// Adds a complete message to the transcript.
    fn add(&mut self, message: Message) -> Arc<Message> {
        let message = Arc::new(message);
        self.keep(message.clone());
        self.emit(AgentEvent::MessageEnd(message.clone()));
        message
    }

    fn keep(&mut self, message: Arc<Message>) {
        self.transcript.push(message.clone());
        self.produced.push(message);
    }

    /// Adds a message that did not stream, and is none of the model's.
    fn add_whole(&mut self, message: Message) -> Arc<Message> {
        let message = Arc::new(message);
        self.keep(message.clone());
        self.emit_both([AgentEvent::MessageStart(message.clone()), AgentEvent::MessageEnd(message.clone())]);
        message
    }

    /// Takes a message from outside in. One that invokes what cannot be read stays as it is.
    fn take_in(&mut self, incoming: Incoming) {
        let places = self.options.folders.places(&self.identity.cwd, self.identity.project_trusted);
        let text = match incoming.expand.then(|| commands::expand(&incoming.text, &places)).flatten() {
            Some(Ok(expanded)) => expanded.text,
            Some(Err(why)) => {
                log::warn!("session {}: a command cannot be invoked: {why}", self.identity.id);
                incoming.text
            }
            None => incoming.text,
        };
        let content = self.content(text, incoming.images);
        self.add_whole(Message::User(UserMessage { content, timestamp: now_ms() }));
    }

    /// A user's words with those of the images that models can use; the words say what became of the others.
    fn content(&self, mut text: String, images: Vec<Block>) -> Content {
        if images.is_empty() {
            return Content::Text(text);
        }
        let resize = self.services.tool_settings().resize_images;
        let mut usable = Vec::new();
        let mut notes = Vec::new();
        for image in images {
            let Block::Image { data, .. } = &image else { continue };
            // Whoever cancelled does not wait for it.
            let Some(prepared) = crate::images::prepare_base64(data, resize, &self.cancel) else { continue };
            notes.extend(prepared.notes);
            usable.extend(prepared.data.map(|data| Block::image(data, prepared.mime_type)));
        }
        if !notes.is_empty() {
            text =
                [text, notes.join("\n")].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("\n\n");
        }
        if usable.is_empty() {
            return Content::Text(text);
        }
        Content::Blocks(std::iter::once(Block::text(text)).chain(usable).collect())
    }

    fn work(&mut self, work: Work) -> Settled {
        let messages = match work {
            Work::Prompt(messages) => Some(messages),
            Work::Continue { said, attempt } => {
                if let Some(attempt) = attempt {
                    let restart = Restart { attempt, void_bytes: None };
                    self.reply.restart(restart);
                    self.emit(AgentEvent::Bridge { name: "bridge_restart", data: restart.document() });
                    self.reply.text(&said, &self.cancel);
                    self.reply.flush();
                    self.has_spoken = true;
                }
                None
            }
            Work::Compact(focus) => {
                return match self.compact(focus.as_deref()) {
                    Ok(()) => Settled::Done,
                    Err(CompactError::Cancelled) => Settled::Aborted,
                    Err(CompactError::Failed(why)) => Settled::Failed(ReplyError::model(why)),
                    Err(CompactError::Refused(error)) => Settled::Failed(error),
                    Err(why) => Settled::Failed(ReplyError::new(ErrorKind::Conflict, why.to_string())),
                };
            }
        };
        let settled = self.answer(messages);
        self.save_folder();
        // Nothing comes after a run, so its caller need not wait for a summary.
        if settled == Settled::Done && self.identity.named {
            self.keep_room();
        }
        settled
    }

    /// Asks the model and runs its tools until it has nothing more to do. Without messages it goes on with what the
    /// transcript ends with.
    fn answer(&mut self, messages: Option<Vec<Incoming>>) -> Settled {
        let tools: Vec<&'static dyn Tool> =
            self.identity.tools.iter().filter_map(|name| tools::by_name(name)).collect();
        let specs: Vec<&ToolSpec> = tools.iter().map(|tool| tool.spec()).collect();
        let places = self.options.folders.places(&self.identity.cwd, self.identity.project_trusted);
        let skills = skills::discover(&places);
        let text = |tool: &&'static dyn Tool| ToolText {
            name: &tool.spec().name,
            snippet: tool.snippet(),
            rules: tool.rules(),
        };
        let texts: Vec<ToolText<'_>> = tools.iter().map(text).collect();
        let system = system_prompt(&PromptInput { places, tools: &texts, skills: &skills });
        self.overhead = room::overhead(&system, &specs);
        self.keep_room();
        let mut run = Run { turn: 0, attempt: 0, overflows: 0, emptied: false, requests: 1, heard: 0, restart: None };
        self.begin_run(&mut run);
        // The session approved the first request when it started the turn; before one that goes on, more may wait.
        let mut approved = messages.is_some();
        messages.into_iter().flatten().for_each(|message| self.take_in(message));
        let open = if approved { Vec::new() } else { self.open_calls() };
        if !open.is_empty() {
            for result in self.execute(open) {
                self.add_whole(Message::ToolResult(result));
            }
            if self.cancel.is_cancelled() {
                return self.end_run(&run, None, Settled::Aborted);
            }
        }
        if matches!(self.transcript.last().map(|m| &**m), Some(Message::Assistant(last)) if last.is_final()) {
            let more = self.waiting(Action::Stop).unwrap_or_default();
            if more.is_empty() {
                return self.end_run(&run, None, Settled::Done);
            }
            more.into_iter().for_each(|message| self.take_in(message));
        }
        loop {
            if !std::mem::take(&mut approved) {
                let Some(messages) = self.waiting(Action::Model) else {
                    return self.end_run(&run, None, Settled::Aborted);
                };
                run.heard_from_user(&messages);
                messages.into_iter().for_each(|message| self.take_in(message));
            }
            self.fit();
            let mut outcome = match self.ask(&system, &specs, &mut run) {
                Ok(outcome) => outcome,
                Err(settled) => return self.end_run(&run, None, settled),
            };
            let (failed, stop_reason) = (outcome.failed(), outcome.message.stop_reason);
            // Calls of an answer that was cut off get results that say so; those of a failed one are left out with it.
            let may_overflow = failed || stop_reason == StopReason::Length && !outcome.message.has_tool_calls();
            let overflow = may_overflow && is_overflow(&outcome.message, &self.model);
            let nothing = says_nothing(&outcome.message);
            let empty = nothing && !failed && !overflow && !self.cancel.is_cancelled();
            if empty {
                // As a failed message it is a record only, which no request has in it.
                outcome.message.stop_reason = StopReason::Error;
                outcome.message.error_message = Some(EMPTY.into());
            }
            if failed || overflow || empty {
                let settled = if overflow && !self.cancel.is_cancelled() {
                    self.overflowed(outcome, &mut run)
                } else {
                    self.failed(outcome, empty, &mut run)
                };
                match settled {
                    Some(Settled::Done) if nothing => return Settled::Failed(nothing_said()),
                    Some(settled) => return settled,
                    None => run.again(),
                }
                continue;
            }
            if run.attempt > 0 {
                self.emit(AgentEvent::AutoRetryEnd { success: true, attempt: run.attempt, final_error: None });
            }
            run.answered();
            if stop_reason != StopReason::Length {
                run.overflows = 0;
            }
            let calls = calls(&outcome.message.content);
            let answer = self.add(Message::Assistant(outcome.message));
            let done = calls.is_empty();
            let results = if stop_reason == StopReason::Length {
                calls.iter().map(|call| self.not_executed(call)).collect()
            } else {
                self.execute(calls)
            };
            let results = results.into_iter().map(|result| self.add_whole(Message::ToolResult(result))).collect();
            if self.cancel.is_cancelled() {
                return self.end_run_with(&run, Some(answer), results, Settled::Aborted);
            }
            let more = if done { self.waiting(Action::Stop).unwrap_or_default() } else { Vec::new() };
            if done && more.is_empty() {
                return self.end_run_with(&run, Some(answer), results, Settled::Done);
            }
            self.emit(Turn::turn_end(&run, Some(answer), results));
            self.keep_room();
            run.turn += 1;
            self.emit(AgentEvent::TurnStart { index: run.turn });
            run.heard_from_user(&more);
            more.into_iter().for_each(|message| self.take_in(message));
        }
    }

    fn begin_run(&mut self, run: &mut Run) {
        run.turn = 0;
        self.produced.clear();
        self.emit_both([AgentEvent::AgentStart, AgentEvent::TurnStart { index: 0 }]);
    }

    fn turn_end(run: &Run, message: Option<Arc<Message>>, results: Vec<Arc<Message>>) -> AgentEvent {
        AgentEvent::TurnEnd { index: run.turn, message, results }
    }

    fn agent_end(&self, will_retry: bool) -> AgentEvent {
        AgentEvent::AgentEnd { messages: self.produced.clone(), will_retry }
    }

    fn end_run(&self, run: &Run, message: Option<Arc<Message>>, settled: Settled) -> Settled {
        self.end_run_with(run, message, Vec::new(), settled)
    }

    fn end_run_with(
        &self,
        run: &Run,
        message: Option<Arc<Message>>,
        results: Vec<Arc<Message>>,
        settled: Settled,
    ) -> Settled {
        self.emit_both([Turn::turn_end(run, message, results), self.agent_end(false)]);
        settled
    }

    /// One request, streamed to the caller.
    ///
    /// # Errors
    /// It must not be sent, and the run ends like this.
    fn ask(&mut self, system: &str, tools: &[&ToolSpec], run: &mut Run) -> Result<Outcome, Settled> {
        let request = Request {
            model: &self.model,
            system,
            messages: &self.transcript,
            tools,
            thinking: self.thinking,
            session_id: Some(&self.identity.instance_id),
            session: &self.identity.instance_id,
        };
        let restart = run.restart.take();
        let mut sink =
            Streaming { turn: self, started: false, heard: 0, restart, delta: None, speaks: self.has_spoken };
        let outcome = self.send(&request, &mut sink)?;
        sink.finish();
        // Tools may take long, and what was said before them must not wait for their end.
        self.reply.flush();
        (run.heard, run.restart) = (sink.heard, sink.restart);
        let (started, speaks) = (sink.started, sink.speaks);
        self.has_spoken = speaks;
        if !started {
            self.emit(AgentEvent::MessageStart(self.empty_answer()));
        }
        Ok(outcome)
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
            raw_stop_reason: None,
            thinking_level: None,
            timestamp: now_ms(),
            duration_ms: None,
        }))
    }

    /// Deals with a failed request, or one whose answer is `empty`: `None` means that it is worth another try, and that the
    /// pause for it is over. After an empty answer the model is asked once more, at once and whatever the settings for
    /// failures are, since a caller cannot tell it from work that is done.
    ///
    /// The failed message stays in the transcript as a record; requests leave it out.
    fn failed(&mut self, outcome: Outcome, empty: bool, run: &mut Run) -> Option<Settled> {
        let error = outcome.message.error_message.clone().unwrap_or_else(|| "the model gave no reason".into());
        let aborted = self.cancel.is_cancelled() || outcome.message.stop_reason == StopReason::Aborted;
        let settings = self.services.retry_settings();
        let pause = if empty {
            (!std::mem::replace(&mut run.emptied, true)).then_some(0)
        } else {
            retry::pause_ms(&outcome, &self.model, &settings, run.attempt).filter(|_| !aborted)
        };
        let message = self.add(Message::Assistant(outcome.message));
        let Some(delay_ms) = pause else {
            if run.attempt > 0 {
                let final_error = if aborted { "Retry cancelled".to_string() } else { error.clone() };
                let attempt = run.attempt;
                self.emit(AgentEvent::AutoRetryEnd { success: false, attempt, final_error: Some(final_error) });
            }
            let settled = if aborted {
                Settled::Aborted
            } else {
                Settled::Failed(if empty { nothing_said() } else { ReplyError::model(error) })
            };
            return Some(self.end_run(run, Some(message), settled));
        };
        self.emit_both([Turn::turn_end(run, Some(message), Vec::new()), self.agent_end(true)]);
        if empty {
            log::info!("session {}: the model's answer was empty; it is asked once more", self.identity.id);
            self.begin_run(run);
            return None;
        }
        run.attempt += 1;
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
        self.begin_run(run);
        None
    }
}

/// What a message says that had nothing in it.
const EMPTY: &str = "The model's answer was empty";

fn nothing_said() -> ReplyError {
    ReplyError::coded(ErrorKind::EmptyAnswer, "the model's answer was empty, also when it was asked again")
}

/// Whether there is neither a call nor a visible character in a message. Thoughts are for the model itself.
fn says_nothing(message: &AssistantMessage) -> bool {
    let invisible = |c: char| c.is_whitespace() || matches!(c, '\u{200b}' | '\u{feff}');
    message.content.iter().all(|block| match block {
        Block::Text { text, .. } => text.chars().all(invisible),
        Block::ToolCall { .. } => false,
        Block::Thinking { .. } | Block::Image { .. } => true,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_answer_without_calls_and_visible_text_says_nothing() {
        let call = json!({"type": "toolCall", "id": "c", "name": "ls", "arguments": {}});
        let text = |text: &str| json!({"type": "text", "text": text});
        let thinking = json!({"type": "thinking", "thinking": "hm"});
        for (content, expected) in [
            (json!([]), true),
            (json!([text("")]), true),
            (json!([text(" \n\t\u{a0}\u{200b}\u{feff}")]), true),
            (json!([thinking, text("")]), true),
            (json!([thinking]), true),
            (json!([text(""), text(".")]), false),
            (json!([thinking, call]), false),
        ] {
            let message = json!({"role": "assistant", "content": content, "api": "a", "provider": "p", "model": "m",
                "usage": Usage::default(), "stopReason": "stop", "timestamp": 1});
            let message: Message = serde_json::from_value(message).expect("a message");
            let Message::Assistant(message) = message else { panic!("not an answer") };
            assert_eq!(says_nothing(&message), expected, "{content}");
        }
    }
}
