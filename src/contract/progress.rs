//! What a session does at this moment and what it used today, for tables that somebody looks at all the time.
//!
//! The session's thread keeps it up to date with each event of its turn; who reads it asks the session nothing.

use super::event::AgentEvent;
use crate::clock::now_ms;
use crate::metrics::{Count, METRICS};
use crate::sync::lock;
use crate::transcript::{Message, Usage};
use serde::Serialize;
use serde_json::{Map, Value, json};
use std::sync::Mutex;
use std::time::Duration;

/// How much of a tool's command or path is kept, characters: more than a column of a table shows.
const LABEL: usize = 100;
/// How much of an error is kept, characters.
const ERROR: usize = 300;
const DAY_MS: i64 = 86_400_000;

/// One thing that goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Step {
    /// `waiting`, `answering`, `tool`, `retry` or `compaction`.
    what: &'static str,
    /// The tool's call; empty for everything else.
    call: String,
    /// What tells one from others of the same kind.
    label: String,
    /// Unix time in milliseconds.
    since: i64,
}

/// What the requests to models of one day took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Day {
    /// Days since 1970, UTC.
    #[serde(rename = "day")]
    number: i64,
    tokens: u64,
    /// US dollars.
    cost: f64,
}

#[derive(Debug, Default)]
struct State {
    steps: Vec<Step>,
    context_tokens: u64,
    last_error: Option<String>,
    today: Day,
}

/// What a session does, readable from any thread.
#[derive(Debug, Default)]
pub(crate) struct Progress(Mutex<State>);

impl Progress {
    /// Takes up an event of the turn.
    #[expect(clippy::wildcard_enum_match_arm, reason = "the other events begin and end nothing that takes time")]
    pub(crate) fn note(&self, event: &AgentEvent, context_tokens: u64) {
        // Pieces of an answer change nothing, and there are thousands of them.
        if matches!(event, AgentEvent::MessageUpdate(_) | AgentEvent::ToolExecutionUpdate { .. }) {
            return;
        }
        count(event);
        let now = now_ms();
        let mut state = lock(&self.0);
        state.context_tokens = context_tokens;
        let mut only = |what: &'static str, label: String| {
            state.steps = vec![Step { what, call: String::new(), label, since: now }];
        };
        match event {
            AgentEvent::AgentStart | AgentEvent::TurnStart { .. } => only("waiting", String::new()),
            AgentEvent::MessageStart(message) if matches!(**message, Message::Assistant(_)) => {
                only("answering", String::new());
            }
            AgentEvent::AutoRetryStart { attempt, max_attempts, delay_ms, error }
            | AgentEvent::SummarizationRetryScheduled { attempt, max_attempts, delay_ms, error } => {
                let seconds = *delay_ms as f64 / 1000.0;
                only("retry", short(&format!("{attempt} of {max_attempts} in {seconds:.1} s: {error}"), LABEL));
            }
            AgentEvent::CompactionStart { reason } => only("compaction", reason.as_str().to_string()),
            AgentEvent::ToolExecutionStart { id, name, arguments, .. } => {
                state.steps.retain(|step| step.what == "tool");
                let label = short(&tool_label(name, arguments), LABEL);
                state.steps.push(Step { what: "tool", call: id.clone(), label, since: now });
            }
            AgentEvent::ToolExecutionEnd { id, .. } => {
                state.steps.retain(|step| step.call != *id);
                if state.steps.is_empty() {
                    state.steps = vec![Step { what: "waiting", call: String::new(), label: String::new(), since: now }];
                }
            }
            AgentEvent::AgentSettled { .. } | AgentEvent::CompactionEnd { .. } => state.steps.clear(),
            _ => {}
        }
    }

    /// Why the last prompt failed.
    pub(crate) fn failed(&self, error: &str) {
        lock(&self.0).last_error = Some(short(error, ERROR));
    }

    /// Counts a request to a model.
    pub(crate) fn add_usage(&self, usage: &Usage) {
        let mut state = lock(&self.0);
        state.today = at(state.today, now_ms());
        state.today.tokens += usage.input + usage.output + usage.cache_read + usage.cache_write;
        state.today.cost += usage.cost.total.max(0.0);
    }

    /// What of today is kept over a restart.
    pub(crate) fn today(&self) -> Day {
        lock(&self.0).today
    }

    /// Takes up what [`Progress::today`] made.
    pub(crate) fn restore(&self, today: &Value) {
        let number = today["day"].as_i64().unwrap_or_default();
        let (tokens, cost) = (today["tokens"].as_u64().unwrap_or_default(), today["cost"].as_f64().unwrap_or_default());
        lock(&self.0).today = Day { number, tokens, cost };
    }

    /// Adds its fields to a row of `list`.
    pub(crate) fn describe(&self, row: &mut Map<String, Value>, context_window: u64) {
        let state = lock(&self.0);
        let today = at(state.today, now_ms());
        let doing = state.steps.first().map_or(
            Value::Null,
            |step| json!({"what": step.what, "label": step.label, "sinceMs": (now_ms() - step.since).max(0)}),
        );
        row.insert("doing".into(), doing);
        row.insert("today".into(), json!({"tokens": today.tokens, "cost": today.cost}));
        row.insert("contextTokens".into(), json!(state.context_tokens));
        row.insert("contextWindow".into(), json!(context_window));
        row.insert("lastError".into(), json!(state.last_error));
    }
}

/// Takes up an event in the figures of the whole process.
#[expect(clippy::wildcard_enum_match_arm, reason = "the other events are not counted")]
fn count(event: &AgentEvent) {
    match event {
        // A call that did not run has no duration, and the name that a model made up for its tool.
        AgentEvent::ToolExecutionEnd { name, is_error, duration_ms: Some(time), .. } => {
            METRICS.tool(name, Duration::from_millis(*time), *is_error);
        }
        AgentEvent::AutoRetryStart { .. } | AgentEvent::SummarizationRetryScheduled { .. } => {
            METRICS.count(Count::Retry);
        }
        AgentEvent::CompactionStart { .. } => METRICS.count(Count::Compaction),
        _ => {}
    }
}

/// The figures of a day, which begin anew when it is another.
fn at(day: Day, now: i64) -> Day {
    let number = now.div_euclid(DAY_MS);
    if day.number == number { day } else { Day { number, ..Day::default() } }
}

/// The name of a tool with what tells most of its arguments.
fn tool_label(name: &str, arguments: &Map<String, Value>) -> String {
    let telling = ["command", "path", "file_path", "pattern", "query", "url"];
    match telling.iter().find_map(|key| arguments.get(*key)?.as_str()) {
        Some(text) => format!("{name} {text}"),
        None => name.to_string(),
    }
}

/// The first line of a text, at most so many characters.
fn short(text: &str, limit: usize) -> String {
    text.lines().next().unwrap_or_default().chars().take(limit).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::event::CompactionReason;
    use crate::transcript::Cost;

    fn row(progress: &Progress) -> Map<String, Value> {
        let mut row = Map::new();
        progress.describe(&mut row, 1000);
        row
    }

    fn doing(progress: &Progress) -> String {
        let doing = &row(progress)["doing"];
        format!("{} {}", doing["what"].as_str().unwrap_or("-"), doing["label"].as_str().unwrap_or("-"))
    }

    fn tool(id: &str, arguments: &Value) -> AgentEvent {
        AgentEvent::ToolExecutionStart {
            id: id.into(),
            name: "bash".into(),
            arguments: arguments.as_object().expect("arguments").clone(),
            sandbox: None,
        }
    }

    fn end(id: &str) -> AgentEvent {
        AgentEvent::ToolExecutionEnd {
            id: id.into(),
            name: "bash".into(),
            content: Vec::new(),
            details: None,
            is_error: false,
            duration_ms: Some(1),
            sandbox: None,
        }
    }

    #[test]
    fn the_oldest_thing_that_goes_on_is_told() {
        let progress = Progress::default();
        assert_eq!(doing(&progress), "- -");
        for (event, expected) in [
            (AgentEvent::AgentStart, "waiting "),
            (tool("1", &json!({"command": "make\nall"})), "tool bash make"),
            (tool("2", &json!({"x": 1})), "tool bash make"),
            (end("1"), "tool bash"),
            (end("2"), "waiting "),
            (
                AgentEvent::AutoRetryStart { attempt: 2, max_attempts: 5, delay_ms: 2500, error: "429".into() },
                "retry 2 of 5 in 2.5 s: 429",
            ),
            (AgentEvent::CompactionStart { reason: CompactionReason::Threshold }, "compaction threshold"),
            (AgentEvent::AgentSettled { aborted: false }, "- -"),
        ] {
            progress.note(&event, 7);
            assert_eq!(doing(&progress), expected, "{}", event.name());
        }
        assert_eq!(row(&progress)["contextTokens"], 7);
        progress.failed("one\ntwo");
        assert_eq!(row(&progress)["lastError"], "one");
    }

    #[test]
    fn a_day_ends_at_midnight() {
        let usage = Usage { input: 10, output: 5, cost: Cost { total: 0.5, ..Cost::default() }, ..Usage::default() };
        let progress = Progress::default();
        progress.add_usage(&usage);
        progress.add_usage(&usage);
        assert_eq!(row(&progress)["today"], json!({"tokens": 30, "cost": 1.0}));
        let again = Progress::default();
        again.restore(&json!(progress.today()));
        assert_eq!(row(&again)["today"], json!({"tokens": 30, "cost": 1.0}));
        let day = Day { number: 3, tokens: 4, cost: 0.1 };
        assert_eq!(at(day, 4 * DAY_MS - 1), day);
        assert_eq!(at(day, 4 * DAY_MS), Day { number: 4, tokens: 0, cost: 0.0 });
    }
}
