//! The answer to a prompt of the agent protocol: the text, and on demand what the agent does meanwhile.

use super::chunks;
use super::queries::Queries;
use crate::cancel::Cancel;
use crate::contract::error::ReplyError;
use crate::contract::event::AgentEvent;
use crate::contract::reply::{Reply, Restart};
use crate::contract::session::SessionStats;
use crate::service::stream::Stream;
use crate::sync::lock;
use crate::transcript::{Block, Message};
use serde_json::{Map, Value, json};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

/// How much of a tool's output, and of each text among its arguments, a caller is shown, bytes. Other hosts cut at the same.
const MAX_SHOWN: usize = 4096;
/// Arguments that are longer than this after all are not shown, bytes.
const MAX_ARGUMENTS: usize = 16 * 1024;

/// An answer on its way to one caller.
pub(crate) struct AgentStream {
    stream: Stream,
    stats: Arc<SessionStats>,
    queries: Arc<Queries>,
    /// The caller is told of tool calls and costs.
    tool_status: bool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// What the requests for this answer cost so far, US dollars.
    cost: f64,
    /// The questions that the caller was asked.
    asked: Vec<String>,
}

impl AgentStream {
    pub(crate) fn new(
        stream: Stream,
        stats: &Arc<SessionStats>,
        queries: &Arc<Queries>,
        tool_status: bool,
    ) -> AgentStream {
        AgentStream { stream, stats: stats.clone(), queries: queries.clone(), tool_status, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn status(&self, word: &str, data: &Value) {
        self.stream.message(chunks::status(&format!("{word}:{data}")));
    }

    fn question(&self, data: &Value) {
        let Some(id) = data["requestId"].as_str() else { return };
        if data["action"] != "opened" {
            return self.queries.close(id);
        }
        if let Some(message) = self.queries.open(id, &data["request"]) {
            self.state().asked.push(id.to_string());
            self.stream.message(message);
            self.stream.flush();
        }
    }
}

impl Reply for AgentStream {
    fn accepted(&self) {
        self.stream.accepted();
    }

    fn text(&self, text: &str, cancel: &Cancel) {
        self.stream.text(text, cancel);
    }

    fn restart(&self, restart: Restart) {
        self.stream.restart(restart);
    }

    fn flush(&self) {
        self.stream.flush();
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "callers of an agent are told of these events only")]
    fn event(&self, event: &AgentEvent) {
        match event {
            AgentEvent::Question(data) => self.question(data),
            AgentEvent::Bridge { name: "prompt_queued", data } => self.status("queued", data),
            AgentEvent::MessageEnd(message) => {
                if let Message::Assistant(answer) = &**message {
                    self.state().cost += answer.usage.cost.total;
                }
            }
            AgentEvent::ToolExecutionStart { id, name, arguments, .. } if self.tool_status => {
                self.status("tool_use", &json!({"id": id, "name": name, "input": shown_arguments(arguments)}));
            }
            AgentEvent::ToolExecutionEnd { id, content, is_error, .. } if self.tool_status => {
                let result = json!({"tool_use_id": id, "output": shown_output(content), "is_error": is_error});
                self.status("tool_result", &result);
            }
            AgentEvent::AgentEnd { will_retry: false, .. } if self.tool_status => {
                let cost = self.state().cost;
                self.status("cost", &json!({"turn_cost_usd": cost, "total_cost_usd": self.stats.cost()}));
            }
            _ => {}
        }
    }

    fn finish(&self, result: Result<(), ReplyError>) {
        for id in std::mem::take(&mut self.state().asked) {
            self.queries.close(&id);
        }
        self.stream.finish(result);
    }

    fn wait_said(&self, within: Duration) {
        self.stream.wait_said(within);
    }

    fn leave(&self) -> bool {
        for id in std::mem::take(&mut self.state().asked) {
            self.queries.close(&id);
        }
        self.stream.leave()
    }

    fn address(&self) -> Option<Value> {
        self.stream.address()
    }
}

/// The beginning of a text.
fn shown(text: &str) -> &str {
    &text[..text.floor_char_boundary(MAX_SHOWN)]
}

fn shown_arguments(arguments: &Map<String, Value>) -> Value {
    let cut = |value: &Value| value.as_str().map_or_else(|| value.clone(), |text| json!(shown(text)));
    let input: Map<String, Value> = arguments.iter().map(|(name, value)| (name.clone(), cut(value))).collect();
    let input = Value::Object(input);
    if input.to_string().len() > MAX_ARGUMENTS { json!({}) } else { input }
}

fn shown_output(content: &[Block]) -> String {
    let texts: Vec<&str> = content
        .iter()
        .filter_map(|block| if let Block::Text { text, .. } = block { Some(&**text) } else { None })
        .collect();
    shown(&texts.join("\n")).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_of_tools_is_bounded() {
        let arguments = |value: Value| value.as_object().cloned().expect("an object");
        let long = "ä".repeat(MAX_SHOWN);
        let input = shown_arguments(&arguments(json!({"path": "a", "content": long, "limit": 3})));
        assert_eq!((&input["path"], &input["limit"]), (&json!("a"), &json!(3)));
        assert_eq!(input["content"].as_str().map(str::len), Some(MAX_SHOWN));
        assert_eq!(shown_arguments(&arguments(json!({"edits": vec![long.clone(); 4]}))), json!({}));
        assert_eq!(shown_output(&[Block::text("one"), Block::text("two")]), "one\ntwo");
        assert_eq!(shown_output(&[Block::text(long)]).len(), MAX_SHOWN);
    }
}
