//! What a person sees of a session: its events become text for a plain terminal, which is only ever appended to.

use super::totals::Totals;
use crate::cli::connection::Record;
use crate::cli::output::{one_line, printable};
use serde_json::Value;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// How much of a tool's arguments is shown, characters.
const ARGUMENTS: usize = 70;
/// How much of a message is shown where messages are listed, characters.
const SHORT: usize = 100;
/// How many lines of somebody else's message are shown: a skill that was sent may be a book.
const SAID: usize = 12;
/// How many messages of the past are shown.
const PAST: usize = 6;
/// How many of our own messages may wait to come back as events. More are typed by nobody in so short a time.
const SENT: usize = 32;

/// What the line at the cursor holds.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Open {
    /// Nothing: the cursor is at a line's start.
    Nothing,
    Text,
    Thinking,
    /// The begin of this tool call's line.
    Tool(String),
    /// The sign that something can be typed.
    Prompt,
}

struct Tool {
    id: String,
    label: String,
    started: Instant,
}

/// The state of the view. Text to be shown collects until it is taken.
pub(super) struct View {
    /// Whether the terminal may be told to dim text and to clear a line.
    ansi: bool,
    out: String,
    open: Open,
    /// Whether the session works on something.
    pub busy: bool,
    tools: Vec<Tool>,
    /// The text of the message in progress, as far as it was shown.
    streamed: String,
    run: Totals,
    session: Totals,
    /// What was typed here, which need not be shown when it comes back.
    sent: VecDeque<String>,
    last_seq: u64,
}

impl View {
    pub(super) fn new(ansi: bool) -> View {
        View {
            ansi,
            out: String::new(),
            open: Open::Nothing,
            busy: false,
            tools: Vec::new(),
            streamed: String::new(),
            run: Totals::default(),
            session: Totals::default(),
            sent: VecDeque::new(),
            last_seq: 0,
        }
    }

    /// Takes what there is to show.
    pub(super) fn take(&mut self) -> String {
        std::mem::take(&mut self.out)
    }

    /// Shows that something can be typed, if nothing else is going on in the line.
    pub(super) fn prompt(&mut self) {
        if self.open != Open::Prompt {
            self.fresh();
            self.out.push_str("> ");
            self.open = Open::Prompt;
        }
    }

    /// A person ended a line, which put the cursor at the start of the next.
    pub(super) fn typed(&mut self) {
        self.open = Open::Nothing;
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
        self.line(&format!("! {text}"));
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
        let mut lines: Vec<String> = ends.filter_map(|event| past_line(&event["data"])).collect();
        for line in lines.drain(lines.len().saturating_sub(PAST)..) {
            self.line(&line);
        }
        // Tools that run began before the end of the message that is not there yet.
        for event in &events[..after] {
            self.note_tool(event, now);
        }
        let in_progress = if self.busy { &events[after..] } else { &[] };
        for event in in_progress {
            self.event(event, now);
        }
        self.last_seq = events.iter().filter_map(|event| event.get("seq")?.as_u64()).max().unwrap_or(self.last_seq);
    }

    /// Whether an event is already part of what was shown; sessions that do not count their events cannot tell.
    pub(super) fn is_known(&self, event: &Record) -> bool {
        event.get("seq").and_then(Value::as_u64).is_some_and(|seq| seq <= self.last_seq)
    }

    /// Shows an event.
    pub(super) fn event(&mut self, event: &Record, now: Instant) {
        let (Some(name), Some(data)) = (event.get("event").and_then(Value::as_str), event.get("data")) else { return };
        match name {
            "agent_start" => {
                self.busy = true;
                self.run = Totals::default();
            }
            "agent_end" => {
                self.busy = data["willRetry"] == true;
                if !self.busy && !self.run.is_empty() {
                    let text = format!("{} (session: {})", self.run, self.session);
                    self.quiet_line(&format!("-- {text}"));
                }
            }
            "message_start" => self.streamed.clear(),
            "message_update" => self.delta(data),
            "message_end" => self.message(data),
            "tool_execution_start" => {
                let label = self.note_tool(event, now);
                if let Some(label) = label.filter(|_| self.ansi) {
                    self.fresh();
                    self.out.push_str(&label);
                    self.out.push_str(" -> ");
                    self.open = Open::Tool(tool_id(data).to_string());
                }
            }
            "tool_execution_end" => self.tool_ended(event, now),
            "auto_retry_start" => {
                let error =
                    one_line(data["error"].as_str().or(data["errorMessage"].as_str()).unwrap_or("failed"), SHORT);
                let seconds = data["delayMs"].as_f64().unwrap_or_default() / 1000.0;
                self.error(&format!("{error}; trying again in {seconds:.1} s"));
            }
            "bridge_restart" => self.note("the answer begins anew"),
            "compaction_start" => self.note("making the context smaller"),
            "compaction_end" => match data["errorMessage"].as_str() {
                Some(error) => self.error(&one_line(error, SHORT)),
                None => self.note("the context is smaller now"),
            },
            "session_compact" => self.note("the context was made smaller"),
            "model_select" => self.changed("model", &data["model"]["id"]),
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
            self.dim(open == Open::Thinking, prefix);
        }
        if open == Open::Text {
            self.streamed.push_str(text);
        }
        self.dim(open == Open::Thinking, &shown);
        self.open = if open == Open::Text && shown.ends_with('\n') { Open::Nothing } else { open };
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
                self.session.add(usage);
                let reason = message["stopReason"].as_str().or(data["stopReason"].as_str());
                let error = message["errorMessage"].as_str().or(data["errorMessage"].as_str());
                match (reason, error) {
                    (Some("aborted"), _) => self.note("aborted"),
                    (Some("error"), error) => self.error(&one_line(error.unwrap_or("the model's answer failed"), 300)),
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
                self.out.push_str(&printable(rest));
                self.open = if rest.ends_with('\n') { Open::Nothing } else { Open::Text };
                self.fresh();
            }
            Some(Err(whole)) => {
                self.note("parts of this answer were missed; the whole of it:");
                self.block(&printable(whole));
                self.open = Open::Text;
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

    /// Remembers a tool call that begins and forgets one that ended; returns the begin of the line of the former.
    fn note_tool(&mut self, event: &Record, now: Instant) -> Option<String> {
        let data = event.get("data")?;
        let id = tool_id(data);
        match event.get("event")?.as_str()? {
            "tool_execution_start" => {
                let label = tool_label(data);
                self.tools.retain(|tool| tool.id != id);
                self.tools.push(Tool { id: id.to_string(), label: label.clone(), started: now });
                Some(label)
            }
            "tool_execution_end" => {
                self.tools.retain(|tool| tool.id != id);
                None
            }
            _ => None,
        }
    }

    fn tool_ended(&mut self, event: &Record, now: Instant) {
        let data = &event["data"];
        let id = tool_id(data);
        let known = self.tools.iter().position(|tool| tool.id == id).map(|at| self.tools.remove(at));
        let measured = data["durationMs"].as_u64().map(Duration::from_millis);
        let time = measured.or(known.as_ref().map(|tool| now.saturating_duration_since(tool.started)));
        let outcome = if data["isError"] == true { "failed" } else { "ok" };
        let time = time.map_or(String::new(), |time| format!(" ({:.1} s)", time.as_secs_f64()));
        if self.open == Open::Tool(id.to_string()) {
            self.out.push_str(&format!("{outcome}{time}\n"));
            self.open = Open::Nothing;
        } else {
            let label = known.map_or_else(|| tool_label(data), |tool| tool.label);
            self.line(&format!("{label} -> {outcome}{time}"));
        }
    }

    fn line(&mut self, text: &str) {
        self.fresh();
        self.out.push_str(&printable(text));
        self.out.push('\n');
    }

    /// A line that matters less.
    fn quiet_line(&mut self, text: &str) {
        self.fresh();
        self.dim(true, &printable(text));
        self.out.push('\n');
    }

    fn dim(&mut self, dim: bool, text: &str) {
        if dim && self.ansi && !text.is_empty() {
            self.out.push_str(&format!("\x1b[2m{text}\x1b[22m"));
        } else {
            self.out.push_str(text);
        }
    }

    /// Goes to the start of a line.
    fn fresh(&mut self) {
        match self.open {
            Open::Nothing => {}
            // What may have been typed behind it stays with the terminal, which Ctrl-R shows again.
            Open::Prompt if self.ansi => self.out.push_str("\r\x1b[K"),
            Open::Text | Open::Thinking | Open::Tool(_) | Open::Prompt => self.out.push('\n'),
        }
        self.open = Open::Nothing;
    }

    /// Leaves the terminal with the cursor at the start of a line.
    pub(super) fn leave(&mut self) {
        if self.open != Open::Nothing {
            self.out.push('\n');
            self.open = Open::Nothing;
        }
    }
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

fn tool_id(data: &Value) -> &str {
    data["toolCallId"].as_str().or(data["toolUseId"].as_str()).unwrap_or_default()
}

/// The name of a tool with what tells most of its arguments.
fn tool_label(data: &Value) -> String {
    let name = data["toolName"].as_str().unwrap_or("tool");
    let preview = || serde_json::from_str(data["argsPreview"].as_str()?).ok();
    let arguments = if data["args"].is_object() { data["args"].clone() } else { preview().unwrap_or_default() };
    let telling = ["command", "path", "file_path", "pattern", "query", "url"];
    let text = match telling.iter().find_map(|key| arguments[*key].as_str()) {
        Some(text) => text.to_string(),
        None if arguments.as_object().is_some_and(|map| !map.is_empty()) => arguments.to_string(),
        // What is left of arguments that were too long is cut JSON.
        None => data["argsPreview"].as_str().filter(|_| arguments.is_null()).unwrap_or_default().to_string(),
    };
    one_line(&format!("[{name}] {text}"), ARGUMENTS)
}

#[cfg(test)]
mod tests;
