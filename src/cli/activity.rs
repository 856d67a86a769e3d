//! What goes on in a session, told in one line that moves, from the events that it sends.

use super::connection::Record;
use super::output::{one_line, printable};
use serde_json::Value;
use std::time::{Duration, Instant};

/// How much of a tool's arguments is shown, characters.
pub(super) const ARGUMENTS: usize = 70;
/// How much of an error is shown beside a retry, characters.
const ERROR: usize = 60;
/// How often the line moves.
pub(super) const MOVES: Duration = Duration::from_millis(250);
const WHEEL: [char; 4] = ['|', '/', '-', '\\'];

#[derive(Clone, Debug, Default, PartialEq)]
enum Doing {
    #[default]
    Nothing,
    /// The model was asked.
    Waiting,
    Thinking,
    Answering,
    /// The arguments of this tool's call are coming.
    Calling(String),
    /// The pause before the next attempt, with which it will be.
    Retry {
        text: String,
        until: Instant,
    },
    Compacting,
}

/// A tool that runs.
pub(super) struct Tool {
    pub id: String,
    pub label: String,
    pub started: Instant,
}

/// What goes on.
#[derive(Default)]
pub(super) struct Activity {
    doing: Doing,
    since: Option<Instant>,
    pub tools: Vec<Tool>,
    /// Messages that wait to be read.
    waiting: usize,
}

impl Activity {
    /// Takes up an event.
    pub(super) fn event(&mut self, event: &Record, now: Instant) {
        let (Some(name), Some(data)) = (event.get("event").and_then(Value::as_str), event.get("data")) else { return };
        match name {
            "agent_start" => {
                self.tools.clear();
                self.go_on(Doing::Waiting, now);
            }
            "turn_start" | "bridge_restart" | "auto_retry_end" | "summarization_retry_attempt_start" => {
                self.go_on(Doing::Waiting, now);
            }
            "agent_end" if data["willRetry"] == true => {}
            "agent_end" | "agent_settled" | "compaction_end" | "bridge_stop" => {
                self.tools.clear();
                self.go_on(Doing::Nothing, now);
            }
            "message_update" => self.piece(data, now),
            "tool_execution_start" => {
                self.tool_ended(data);
                let (id, label) = (tool_id(data).to_string(), tool_label(data));
                self.tools.push(Tool { id, label, started: now });
            }
            "tool_execution_end" => {
                self.tool_ended(data);
                if self.tools.is_empty() {
                    self.go_on(Doing::Waiting, now);
                }
            }
            "auto_retry_start" | "summarization_retry_scheduled" => {
                let until = now + Duration::from_millis(data["delayMs"].as_u64().unwrap_or_default().min(86_400_000));
                let text = format!("retry {}{}", data["attempt"], of(&data["maxAttempts"]));
                let error = data["error"].as_str().or(data["errorMessage"].as_str()).unwrap_or_default();
                let text = if error.is_empty() { text } else { format!("{text} after {:?}", one_line(error, ERROR)) };
                self.go_on(Doing::Retry { text, until }, now);
            }
            "compaction_start" => self.go_on(Doing::Compacting, now),
            "queue_update" => {
                let count = |key: &str| data[key].as_array().map_or(0, Vec::len);
                self.waiting = count("steering") + count("followUp");
            }
            _ => {}
        }
    }

    /// Something was sent whose answer is waited for.
    pub(super) fn asked(&mut self, now: Instant) {
        if self.doing == Doing::Nothing {
            self.go_on(Doing::Waiting, now);
        }
    }

    /// Nothing goes on.
    pub(super) fn settled(&mut self) {
        (self.doing, self.since) = (Doing::Nothing, None);
        self.tools.clear();
    }

    /// Takes a tool that has ended out of those that run.
    fn tool_ended(&mut self, data: &Value) {
        let id = tool_id(data);
        self.tools.retain(|tool| tool.id != id);
    }

    fn go_on(&mut self, doing: Doing, now: Instant) {
        if self.doing != doing {
            (self.doing, self.since) = (doing, Some(now));
        }
    }

    fn piece(&mut self, data: &Value, now: Instant) {
        let inner = &data["assistantMessageEvent"];
        match inner["type"].as_str().or(data["type"].as_str()).unwrap_or_default() {
            "text_delta" | "text_start" => self.go_on(Doing::Answering, now),
            "thinking_delta" | "thinking_start" => self.go_on(Doing::Thinking, now),
            "toolcall_start" => {
                let name = printable(inner["toolName"].as_str().unwrap_or("a tool")).into_owned();
                self.go_on(Doing::Calling(name), now);
            }
            _ => {}
        }
    }

    /// The line, without a line end; absent while nothing goes on.
    pub(super) fn line(&self, now: Instant) -> Option<String> {
        let (text, since) = match (self.tools.first(), &self.doing) {
            (Some(tool), _) => {
                let others = match self.tools.len() - 1 {
                    0 => String::new(),
                    1 => " and one more".into(),
                    others => format!(" and {others} more"),
                };
                (format!("{}{others}", tool.label), Some(tool.started))
            }
            (None, Doing::Nothing) => return None,
            (None, Doing::Waiting) => ("waiting for the model".into(), self.since),
            (None, Doing::Thinking) => ("thinking".into(), self.since),
            (None, Doing::Answering) => ("answering".into(), self.since),
            (None, Doing::Calling(name)) => (format!("writing the call of {name}"), self.since),
            (None, Doing::Compacting) => ("making the context smaller".into(), self.since),
            (None, Doing::Retry { text, until }) => {
                let left = until.saturating_duration_since(now).as_secs_f64().ceil();
                return Some(format!("{} {text}, in {left} s", self.wheel(now)));
            }
        };
        let seconds = since.map_or(0, |since| now.saturating_duration_since(since).as_secs());
        let waiting = match self.waiting {
            0 => String::new(),
            1 => "; one message waits".into(),
            count => format!("; {count} messages wait"),
        };
        Some(format!("{} {text}, {}{waiting}", self.wheel(now), time(seconds)))
    }

    fn wheel(&self, now: Instant) -> char {
        let since = self.since.map_or(0, |since| now.saturating_duration_since(since).as_millis());
        WHEEL[(since / MOVES.as_millis()) as usize % WHEEL.len()]
    }
}

fn of(most: &Value) -> String {
    most.as_u64().map_or(String::new(), |most| format!(" of {most}"))
}

/// A time that somebody waits.
pub(super) fn time(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
    }
}

pub(super) fn tool_id(data: &Value) -> &str {
    data["toolCallId"].as_str().or(data["toolUseId"].as_str()).unwrap_or_default()
}

/// The name of a tool with what tells most of its arguments.
pub(super) fn tool_label(data: &Value) -> String {
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
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_line_says_what_goes_on_and_for_how_long() {
        let mut activity = Activity::default();
        let start = Instant::now();
        let delta = |kind: &str| json!({"assistantMessageEvent": {"type": kind, "delta": "x", "toolName": "edit"}});
        let retry = json!({"attempt": 2, "maxAttempts": 5, "delayMs": 9500, "errorMessage": "overloaded\nmore"});
        let bash = json!({"toolCallId": "1", "toolName": "bash", "args": {"command": "make all"}});
        let read = json!({"toolCallId": "2", "toolName": "read", "args": {"path": "/a"}});
        let steps = [
            ("agent_settled", json!({}), None),
            ("agent_start", json!({}), Some("| waiting for the model, 5 s")),
            ("message_update", delta("thinking_delta"), Some("| thinking, 5 s")),
            ("message_update", delta("thinking_delta"), Some("| thinking, 10 s")),
            ("message_update", delta("text_delta"), Some("| answering, 5 s")),
            ("message_update", delta("toolcall_start"), Some("| writing the call of edit, 5 s")),
            ("message_update", delta("toolcall_delta"), Some("| writing the call of edit, 10 s")),
            ("tool_execution_start", bash, Some("| [bash] make all, 5 s")),
            ("tool_execution_start", read, Some("| [bash] make all and one more, 10 s")),
            ("tool_execution_end", json!({"toolCallId": "1"}), Some("| [read] /a, 10 s")),
            ("tool_execution_end", json!({"toolCallId": "2"}), Some("| waiting for the model, 5 s")),
            ("auto_retry_start", retry, Some("| retry 2 of 5 after \"overloaded...\", in 5 s")),
            ("turn_start", json!({}), Some("| waiting for the model, 5 s")),
            (
                "queue_update",
                json!({"steering": ["x"], "followUp": []}),
                Some("| waiting for the model, 10 s; one message waits"),
            ),
            ("queue_update", json!({"steering": [], "followUp": []}), Some("| waiting for the model, 15 s")),
            ("compaction_start", json!({}), Some("| making the context smaller, 5 s")),
            ("compaction_end", json!({}), None),
        ];
        for (number, (name, data, expected)) in (0..).zip(steps) {
            let now = start + Duration::from_secs(5 * number);
            let Value::Object(event) = json!({"event": name, "data": data}) else { unreachable!() };
            activity.event(&event, now);
            let line = activity.line(now + Duration::from_secs(5));
            let line = line.map(|line| format!("|{}", &line[1..]));
            assert_eq!(line.as_deref(), expected, "{name}");
        }
    }

    #[test]
    fn times() {
        for (seconds, text) in [(0, "0 s"), (59, "59 s"), (61, "1 min 1 s"), (7320, "2 h 2 min")] {
            assert_eq!(time(seconds), text);
        }
    }
}
