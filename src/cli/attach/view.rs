//! What a person sees of a session: its events become text for a terminal, which is only ever appended to.

use super::markdown::Markdown;
use super::outputs::{Outputs, excerpt};
use super::totals::Totals;
use crate::cli::activity::{Activity, tool_id, tool_label};
use crate::cli::connection::Record;
use crate::cli::output::{one_line, printable};
use crate::cli::style::{Role, Style};
use serde_json::Value;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// How much of a message is shown where messages are listed, characters.
const SHORT: usize = 100;
/// How many lines of somebody else's message are shown: a skill that was sent may be a book.
const SAID: usize = 12;
/// How many messages of the past are shown.
const PAST: usize = 6;
/// How many of our own messages may wait to come back as events. More are typed by nobody in so short a time.
const SENT: usize = 32;
/// How many lines of a failure's reason are shown.
const REASON: usize = 5;

/// What the line at the cursor holds.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Open {
    /// Nothing: the cursor is at a line's start.
    Nothing,
    Text,
    Thinking,
}

/// A call whose result was too large for its event.
pub(super) struct Missing {
    pub event: Record,
    pub label: String,
    pub number: usize,
}

/// The state of the view. Text to be shown collects until it is taken.
pub(super) struct View {
    style: Style,
    markdown: Markdown,
    out: String,
    open: Open,
    /// Whether the session works on something.
    pub busy: bool,
    pub activity: Activity,
    pub outputs: Outputs,
    /// Calls whose results have to be asked for.
    pub missing: Vec<Missing>,
    /// The text of the message in progress, as far as it was shown.
    streamed: String,
    /// What the run in progress used so far, and what all did that were seen from here.
    pub run: Totals,
    pub seen: Totals,
    /// A run ended, and what it used is not shown yet.
    pub ended: bool,
    /// The messages that wait.
    pub queue: Vec<String>,
    /// What was typed here, which need not be shown when it comes back.
    sent: VecDeque<String>,
    pub last_seq: u64,
}

impl View {
    pub(super) fn new(style: Style) -> View {
        View {
            style,
            markdown: Markdown::new(style),
            out: String::new(),
            open: Open::Nothing,
            busy: false,
            activity: Activity::default(),
            outputs: Outputs::default(),
            missing: Vec::new(),
            streamed: String::new(),
            run: Totals::default(),
            seen: Totals::default(),
            ended: false,
            queue: Vec::new(),
            sent: VecDeque::new(),
            last_seq: 0,
        }
    }

    /// Takes what there is to show.
    pub(super) fn take(&mut self) -> String {
        std::mem::take(&mut self.out)
    }

    /// Shows what was typed here, where the line that it was typed in is gone.
    pub(super) fn echo(&mut self, text: &str) {
        self.fresh();
        self.out.push_str(&self.style.paint(Role::Strong, &printable(&format!("> {text}"))));
        self.out.push('\n');
    }

    /// Remembers a message that was sent from here.
    pub(super) fn sent(&mut self, text: &str) {
        if self.sent.len() == SENT {
            self.sent.pop_front();
        }
        self.sent.push_back(text.to_string());
    }

    /// Shows a line about the session or about this view.
    pub(super) fn note(&mut self, text: &str) {
        self.line(&format!("-- {text}"));
    }

    /// Shows that something went wrong.
    pub(super) fn error(&mut self, text: &str) {
        self.fresh();
        self.out.push_str(&self.style.paint(Role::Error, &printable(&format!("! {text}"))));
        self.out.push('\n');
    }

    /// Shows what a run used, which matters less than what it said.
    pub(super) fn totals(&mut self, text: &str) {
        self.quiet_line(&format!("-- {text}"));
    }

    /// Shows lines as they are.
    pub(super) fn block(&mut self, text: &str) {
        self.fresh();
        self.out.push_str(text);
    }

    /// Shows the last messages among the events of the past in short, and takes over what is in progress.
    pub(super) fn past(&mut self, events: &[Record], now: Instant) {
        let of_kind = |event: &Record, name: &str| event.get("event").and_then(Value::as_str) == Some(name);
        let after = events.iter().rposition(|event| of_kind(event, "message_end")).map_or(0, |at| at + 1);
        let ends = events[..after].iter().filter(|event| of_kind(event, "message_end"));
        let mut lines: Vec<String> = ends.filter_map(|event| past_line(event.get("data")?)).collect();
        for line in lines.drain(lines.len().saturating_sub(PAST)..) {
            self.line(&line);
        }
        // What goes on began before the end of the message that is not there yet.
        events[..after].iter().for_each(|event| self.activity.event(event, now));
        if !self.busy {
            self.activity.settled();
        }
        let in_progress = if self.busy { &events[after..] } else { &[] };
        for event in in_progress {
            self.event(event, now);
        }
        self.last_seq = events.iter().filter_map(|event| event.get("seq")?.as_u64()).max().unwrap_or(self.last_seq);
    }

    /// What people sent to the session, the oldest first.
    pub(super) fn prompts(events: &[Record]) -> impl Iterator<Item = String> {
        let messages = events.iter().filter_map(|event| event.get("data")?.get("message"));
        let of_users = messages.filter(|message| message["role"] == "user");
        of_users.filter_map(|message| text_of(&message["content"]))
    }

    /// Whether an event is already part of what was shown; sessions that do not count their events cannot tell.
    pub(super) fn is_known(&self, event: &Record) -> bool {
        event.get("seq").and_then(Value::as_u64).is_some_and(|seq| seq <= self.last_seq)
    }

    /// Shows an event.
    pub(super) fn event(&mut self, event: &Record, now: Instant) {
        let (Some(name), Some(data)) = (event.get("event").and_then(Value::as_str), event.get("data")) else { return };
        if let Some(seq) = event.get("seq").and_then(Value::as_u64) {
            self.last_seq = self.last_seq.max(seq);
        }
        let label = self.running(data);
        self.activity.event(event, now);
        match name {
            "agent_start" => {
                self.busy = true;
                self.run = Totals::default();
            }
            "agent_end" => {
                self.busy = data["willRetry"] == true;
                self.ended = !self.busy && !self.run.is_empty();
            }
            "agent_settled" => self.busy = false,
            "queue_update" => {
                let texts = |key: &str| data[key].as_array().cloned().unwrap_or_default();
                let all = [texts("steering"), texts("followUp")].concat();
                self.queue = all.iter().filter_map(Value::as_str).map(str::to_string).collect();
            }
            "message_start" => self.streamed.clear(),
            "message_update" => self.delta(data),
            "message_end" => self.message(data),
            "tool_execution_end" => self.tool_ended(event, label, now),
            "auto_retry_start" => {
                let error = reason(data["error"].as_str().or(data["errorMessage"].as_str()).unwrap_or("failed"));
                let seconds = data["delayMs"].as_f64().unwrap_or_default() / 1000.0;
                let of = data["maxAttempts"].as_u64().map_or(String::new(), |most| format!(" of {most}"));
                let attempt = data["attempt"].as_u64().map_or(String::new(), |n| format!(" (attempt {n}{of})"));
                self.error(&format!("{error}; trying again in {seconds:.1} s{attempt}"));
            }
            "bridge_restart" => self.note("the answer begins anew"),
            "compaction_start" => self.note("making the context smaller"),
            "compaction_end" => match data["errorMessage"].as_str() {
                Some(error) => self.error(&reason(error)),
                None => self.note("the context is smaller now"),
            },
            "session_compact" => self.note("the context was made smaller"),
            "model_select" => self.changed("model", &data["model"]["id"]),
            "session_info_changed" => match data["name"].as_str() {
                Some(name) => self.note(&format!("name: {}", one_line(name, SHORT))),
                None => self.note("the session has no name any more"),
            },
            "thinking_level_select" => self.changed("thinking level", &data["level"]),
            "bridge_gap" => {
                self.note(&format!("the events {} to {} were missed", data["from"], data["to"]));
            }
            "bridge_pong" => {
                self.note(&format!("pong: {}", one_line(data["text"].as_str().unwrap_or_default(), SHORT)))
            }
            "bridge_emit" => {
                self.note(&format!("emit: {}", one_line(data["message"].as_str().unwrap_or_default(), SHORT)))
            }
            _ => {}
        }
    }

    fn changed(&mut self, what: &str, value: &Value) {
        if let Some(value) = value.as_str() {
            self.note(&format!("{what}: {}", one_line(value, SHORT)));
        }
    }

    /// A piece of the message in progress.
    fn delta(&mut self, data: &Value) {
        let inner = &data["assistantMessageEvent"];
        let kind = inner["type"].as_str().or(data["type"].as_str()).unwrap_or_default();
        let text = [&data["delta"], &inner["delta"], &data["deltaPreview"]].into_iter().find_map(Value::as_str);
        let (open, prefix) = match kind {
            "text_delta" => (Open::Text, ""),
            "thinking_delta" => (Open::Thinking, "[thinking] "),
            // The arguments of a tool call; or a piece of which the session does not say what it is, so that only the
            // whole message tells.
            _ => return,
        };
        let Some(text) = text.filter(|text| !text.is_empty()) else { return };
        let shown = printable(text);
        if self.open != open {
            self.fresh();
            self.quiet(open == Open::Thinking, prefix);
        }
        if open == Open::Text {
            self.streamed.push_str(text);
            self.text(&shown);
        } else {
            self.quiet(true, &shown);
            self.open = open;
        }
    }

    /// Shows a piece of an answer's text.
    fn text(&mut self, text: &str) {
        let shown = self.markdown.push(text);
        self.out.push_str(&shown);
        self.open = if text.ends_with('\n') { Open::Nothing } else { Open::Text };
    }

    /// The tool that an event is about, if it runs.
    fn running(&self, data: &Value) -> Option<(String, Instant)> {
        let id = tool_id(data);
        self.activity.tools.iter().find(|tool| tool.id == id).map(|tool| (tool.label.clone(), tool.started))
    }

    /// A complete message.
    fn message(&mut self, data: &Value) {
        let message = &data["message"];
        let role = message["role"].as_str().or(data["role"].as_str());
        let text = text_of(&message["content"]);
        match role {
            Some("assistant") => {
                self.rest_of_answer(text.as_deref());
                let usage = if message["usage"].is_object() { &message["usage"] } else { &data["usage"] };
                self.run.add(usage);
                self.seen.add(usage);
                let stop = message["stopReason"].as_str().or(data["stopReason"].as_str());
                let error = message["errorMessage"].as_str().or(data["errorMessage"].as_str());
                match (stop, error) {
                    (Some("aborted"), _) => self.note("aborted"),
                    (Some("error"), error) => self.error(&reason(error.unwrap_or("the model's answer failed"))),
                    (Some("length"), _) => self.note("the answer was cut at the model's limit"),
                    _ => {}
                }
            }
            Some("user") => {
                let text = text.unwrap_or_default();
                match self.sent.iter().position(|sent| *sent == text.trim()) {
                    Some(at) => drop(self.sent.remove(at)),
                    None => self.said(&text),
                }
            }
            _ => {}
        }
    }

    /// What somebody else sent to the session.
    fn said(&mut self, text: &str) {
        let mut lines = text.trim_end().lines();
        for line in lines.by_ref().take(SAID) {
            self.line(&format!("> {line}"));
        }
        match lines.count() {
            0 => {}
            more => self.note(&format!("and {more} more lines")),
        }
    }

    /// What of an answer's text was not shown while it was streamed: pieces may have been cut or missed.
    fn rest_of_answer(&mut self, text: Option<&str>) {
        let streamed = std::mem::take(&mut self.streamed);
        match text.map(|text| text.strip_prefix(streamed.as_str()).ok_or(text)) {
            Some(Ok("")) => self.fresh(),
            Some(Ok(rest)) => {
                if self.open != Open::Text {
                    self.fresh();
                }
                self.text(&printable(rest));
                self.fresh();
            }
            Some(Err(whole)) => {
                self.note("parts of this answer were missed; the whole of it:");
                self.fresh();
                self.text(&printable(whole));
                self.fresh();
            }
            None => {
                self.fresh();
                if streamed.is_empty() {
                    self.note("an answer that is too long to be shown here; pi-bridge history --raw has it");
                }
            }
        }
    }

    fn tool_ended(&mut self, event: &Record, known: Option<(String, Instant)>, now: Instant) {
        let data = &event["data"];
        let measured = data["durationMs"].as_u64().map(Duration::from_millis);
        let time = measured.or(known.as_ref().map(|(_, started)| now.saturating_duration_since(*started)));
        let label = known.map_or_else(|| tool_label(data), |(label, _)| label);
        let number = self.outputs.add(&label, event);
        let time = time.map_or(String::new(), |time| format!(" ({:.1} s)", time.as_secs_f64()));
        let (role, outcome) = if data["isError"] == true { (Role::Error, "failed") } else { (Role::Strong, "ok") };
        let line = format!("{label} -> {outcome}{time}");
        if data["result"].is_null() && data["resultPreview"].is_string() && event.contains_key("seq") {
            self.missing.push(Missing { event: event.clone(), label: self.style.paint(role, &line), number });
            return;
        }
        self.tool_line(&self.style.paint(role, &line), data, number);
    }

    /// Shows a call that has ended, with the first and last lines of what it gave back.
    pub(super) fn tool_line(&mut self, line: &str, data: &Value, number: usize) {
        self.fresh();
        self.out.push_str(line);
        self.out.push('\n');
        self.out.push_str(&excerpt(self.style, data, number));
    }

    fn line(&mut self, text: &str) {
        self.fresh();
        self.out.push_str(&printable(text));
        self.out.push('\n');
    }

    /// A line that matters less.
    fn quiet_line(&mut self, text: &str) {
        self.fresh();
        self.quiet(true, &printable(text));
        self.out.push('\n');
    }

    fn quiet(&mut self, quiet: bool, text: &str) {
        let shown = if quiet { self.style.paint(Role::Quiet, text) } else { text.to_string() };
        self.out.push_str(&shown);
    }

    /// Goes to the start of a line.
    fn fresh(&mut self) {
        if self.open == Open::Text {
            let rest = self.markdown.finish();
            self.out.push_str(&rest);
        }
        if std::mem::replace(&mut self.open, Open::Nothing) != Open::Nothing {
            self.out.push('\n');
        }
    }

    /// Leaves the terminal with the cursor at the start of a line.
    pub(super) fn leave(&mut self) {
        self.fresh();
    }
}

/// The first lines of a reason.
fn reason(text: &str) -> String {
    let mut lines = text.trim().lines();
    let shown = lines.by_ref().take(REASON).map(|line| one_line(line, 3 * SHORT)).collect::<Vec<_>>().join("\n  ");
    if lines.next().is_some() { format!("{shown}\n  ...") } else { shown }
}

/// The text of a message's content; absent where the session left the content out because of its size.
fn text_of(content: &Value) -> Option<String> {
    match content {
        Value::String(text) => Some(text.clone()),
        Value::Array(blocks) => {
            let texts =
                blocks.iter().filter(|block| block["type"] == "text").filter_map(|block| block["text"].as_str());
            Some(texts.collect())
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => None,
    }
}

/// A message of the past in one line.
fn past_line(data: &Value) -> Option<String> {
    let message = &data["message"];
    let text = text_of(&message["content"]).filter(|text| !text.trim().is_empty())?;
    match message["role"].as_str()? {
        "user" => Some(format!("> {}", one_line(&text, SHORT))),
        "assistant" => Some(one_line(&text, SHORT)),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
