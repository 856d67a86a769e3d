//! What a crash left undone, as the session file tells it.

use crate::clock::now_ms;
use crate::files;
use crate::transcript::contents::Contents;
use crate::transcript::{Block, Message, ToolResultMessage};
use serde_json::{Map, Value};
use std::collections::HashSet;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::Arc;

/// Kinds of our own records in a session file, which the PI agent keeps and ignores: a message was accepted, a tool is
/// about to run, messages are answered.
pub(super) const ACCEPTED: &str = "nats-pi-bridge.accepted";
pub(super) const INTENT: &str = "nats-pi-bridge.intent";
pub(super) const SETTLED: &str = "nats-pi-bridge.settled";
/// In a user message's entry: the accepted message that it is.
pub(super) const PROMPT_ID: &str = "promptId";

/// How much of a file's end is looked at for the last record, bytes; such a record is far smaller.
const TAIL: u64 = 64 * 1024;

/// A message that was accepted and is not answered.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Accepted {
    pub id: String,
    pub text: String,
    pub images: Vec<Block>,
    /// The text has taken the place of a command already.
    pub expanded: bool,
    pub from: Option<String>,
    /// Where its answer was to go.
    pub reply: Option<Value>,
}

/// What is undone.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Unfinished {
    /// Messages that were not begun, in the order of their arrival.
    pub waiting: Vec<Accepted>,
    /// Messages of the prompt that was being worked on.
    pub interrupted: Vec<Accepted>,
    /// Calls of tools that may have run.
    pub intents: HashSet<String>,
}

impl Unfinished {
    /// Reads the records of a file's active path.
    pub(super) fn of(contents: &Contents) -> Unfinished {
        Unfinished::from_entries(contents.active_path().into_iter().filter_map(|at| contents.entry(at)))
    }

    fn from_entries(entries: impl Iterator<Item = Map<String, Value>>) -> Unfinished {
        let mut unfinished = Unfinished::default();
        for mut entry in entries {
            if let Some(id) = entry.get(PROMPT_ID).and_then(Value::as_str)
                && let Some(at) = unfinished.waiting.iter().position(|waiting| waiting.id == id)
            {
                let begun = unfinished.waiting.remove(at);
                unfinished.interrupted.push(begun);
            }
            let data = entry.remove("data").unwrap_or_default();
            match entry.get("customType").and_then(Value::as_str) {
                Some(ACCEPTED) => unfinished.waiting.push(Accepted::from_json(&data)),
                Some(INTENT) => unfinished.intents.extend(text(&data, "toolCallId")),
                Some(SETTLED) => {
                    let ids = data["ids"].as_array().map_or(&[][..], Vec::as_slice);
                    let settled = |accepted: &Accepted| ids.iter().any(|id| id == accepted.id.as_str());
                    unfinished.waiting.retain(|accepted| !settled(accepted));
                    unfinished.interrupted.retain(|accepted| !settled(accepted));
                }
                _ => {}
            }
        }
        unfinished
    }
}

impl Accepted {
    fn from_json(data: &Value) -> Accepted {
        Accepted {
            id: text(data, "id").unwrap_or_default(),
            text: text(data, "text").unwrap_or_default(),
            images: data.get("images").and_then(|v| serde_json::from_value(v.clone()).ok()).unwrap_or_default(),
            expanded: data["expanded"] == true,
            from: text(data, "from"),
            reply: data.get("reply").cloned(),
        }
    }
}

fn text(data: &Value, key: &str) -> Option<String> {
    data.get(key)?.as_str().map(str::to_owned)
}

/// The results that close what was interrupted: for every call of the last answer that has none.
pub(super) fn closing_results(messages: &[Arc<Message>], intents: &HashSet<String>) -> Vec<ToolResultMessage> {
    let Some(last) = messages.iter().rposition(|m| matches!(**m, Message::Assistant(_))) else { return Vec::new() };
    let Message::Assistant(answer) = &*messages[last] else { return Vec::new() };
    let answered = |id: &str| {
        messages[last..].iter().any(|m| matches!(&**m, Message::ToolResult(result) if result.tool_call_id == id))
    };
    let open = answer.content.iter().filter_map(|block| {
        let Block::ToolCall { id, name, .. } = block else { return None };
        (!answered(id)).then_some((id, name))
    });
    open.map(|(id, name)| ToolResultMessage {
        tool_call_id: id.clone(),
        tool_name: name.clone(),
        content: vec![Block::text(if intents.contains(id) {
            "interrupted, outcome unknown: the host was restarted while the tool ran. It was not run again; look at what \
             it may have done before you repeat it."
        } else {
            "interrupted before it began: the host was restarted. The tool was not run."
        })],
        details: None,
        is_error: true,
        duration_ms: None,
        timestamp: now_ms(),
    })
    .collect()
}

/// The session's figures, if a file ends with the record that everything in it is settled.
///
/// # Errors
/// The file cannot be read.
pub(crate) fn settled_totals(path: &Path) -> io::Result<Option<Value>> {
    let (mut file, metadata) = files::open_regular(path)?;
    file.seek(SeekFrom::Start(metadata.len().saturating_sub(TAIL)))?;
    let mut tail = Vec::new();
    file.take(TAIL).read_to_end(&mut tail)?;
    let Some(lines) = tail.strip_suffix(b"\n") else { return Ok(None) };
    let start = lines.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
    let entry: Value = serde_json::from_slice(&lines[start..]).unwrap_or_default();
    let settled = entry["customType"] == SETTLED;
    Ok(settled.then(|| entry["data"]["totals"].clone()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn unfinished(entries: &[Value]) -> Unfinished {
        Unfinished::from_entries(entries.iter().filter_map(|entry| entry.as_object().cloned()))
    }

    fn accepted(id: &str) -> Value {
        json!({"type": "custom", "customType": ACCEPTED, "data": {"id": id, "text": format!("text {id}"), "from": "ci"}})
    }

    fn begun(id: &str) -> Value {
        json!({"type": "message", "promptId": id, "message": {"role": "user", "content": "x"}})
    }

    fn settled(ids: &[&str]) -> Value {
        json!({"type": "custom", "customType": SETTLED, "data": {"ids": ids}})
    }

    #[test]
    fn records_tell_what_is_undone() {
        let ids = |list: &[Accepted]| list.iter().map(|a| a.id.clone()).collect::<Vec<_>>();
        for (entries, waiting, interrupted) in [
            (vec![], vec![], vec![]),
            (vec![accepted("a")], vec!["a"], vec![]),
            (vec![accepted("a"), begun("a")], vec![], vec!["a"]),
            (vec![accepted("a"), begun("a"), settled(&["a"])], vec![], vec![]),
            (vec![accepted("a"), accepted("b"), begun("a")], vec!["b"], vec!["a"]),
            (vec![accepted("a"), accepted("b"), begun("a"), begun("b")], vec![], vec!["a", "b"]),
            (vec![accepted("a"), accepted("b"), begun("a"), begun("b"), settled(&["a", "b"])], vec![], vec![]),
            (vec![accepted("a"), accepted("b"), settled(&["a"])], vec!["b"], vec![]),
            (vec![begun("unknown"), settled(&["other"])], vec![], vec![]),
        ] {
            let found = unfinished(&entries);
            assert_eq!(
                (ids(&found.waiting), ids(&found.interrupted)),
                (
                    waiting.iter().map(ToString::to_string).collect(),
                    interrupted.iter().map(ToString::to_string).collect()
                ),
                "{entries:?}"
            );
        }
        let intent = json!({"type": "custom", "customType": INTENT, "data": {"toolCallId": "t1"}});
        let found = unfinished(&[accepted("a"), intent]);
        assert!(found.intents.contains("t1"));
        let waiting = &found.waiting[0];
        assert_eq!((waiting.text.as_str(), waiting.from.as_deref(), waiting.expanded), ("text a", Some("ci"), false));
    }

    #[test]
    fn open_calls_are_closed_without_being_run() {
        let call = |id: &str| json!({"type": "toolCall", "id": id, "name": "bash", "arguments": {}});
        let message = |value: Value| Arc::new(serde_json::from_value::<Message>(value).expect("a message"));
        let messages = [
            message(json!({"role": "user", "content": "go", "timestamp": 1})),
            message(json!({"role": "assistant", "content": [call("t1"), call("t2"), call("t3")], "api": "a",
                "provider": "p", "model": "m", "usage": {}, "stopReason": "toolUse", "timestamp": 1})),
            message(json!({"role": "toolResult", "toolCallId": "t2", "toolName": "bash", "content": [],
                "isError": false, "timestamp": 1})),
        ];
        let results = closing_results(&messages, &HashSet::from(["t1".to_owned(), "t2".to_owned()]));
        let texts: Vec<(String, String)> = results
            .iter()
            .map(|r| {
                (r.tool_call_id.clone(), serde_json::to_value(&r.content).expect("it is JSON")[0]["text"].to_string())
            })
            .collect();
        assert_eq!(texts.len(), 2);
        assert!(texts[0].0 == "t1" && texts[0].1.contains("interrupted, outcome unknown"), "{texts:?}");
        assert!(texts[1].0 == "t3" && texts[1].1.contains("was not run"), "{texts:?}");
        assert!(closing_results(&messages[..1], &HashSet::new()).is_empty());
    }

    #[test]
    fn a_settled_file_is_known_by_its_end() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("f.jsonl");
        let record = json!({"type": "custom", "customType": SETTLED, "data": {"ids": [], "totals": {"prompts": 3}}});
        for (text, expected) in [
            (format!("{{\"type\":\"session\"}}\n{record}\n"), Some(json!({"prompts": 3}))),
            (format!("{}\n{record}\n", "x".repeat(100_000)), Some(json!({"prompts": 3}))),
            (format!("{record}\n{}\n", accepted("a")), None),
            (format!("{record}"), None),
            (format!("{record}\n{{\"type\":"), None),
            (String::new(), None),
        ] {
            std::fs::write(&path, &text).expect("it is written");
            assert_eq!(settled_totals(&path).expect("it is read"), expected, "{}", text.len());
        }
        assert!(settled_totals(&dir.path().join("none")).is_err());
    }
}
