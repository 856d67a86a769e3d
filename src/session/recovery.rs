//! What a crash left undone, as the session file tells it.

use crate::clock::now_ms;
use crate::contract::control::Deliver;
use crate::contract::prompt::Origin;
use crate::files;
use crate::tools::QUESTION as QUESTION_TOOL;
use crate::tools::runner::Narrowing;
use crate::traceparent::{TRACEPARENT, Traceparent};
use crate::transcript::contents::Contents;
use crate::transcript::{Block, Message, StopReason, ToolResultMessage};
use serde_json::{Map, Value, json};
use std::collections::HashSet;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::Arc;

/// Kinds of our own records in a session file, which the PI agent keeps and ignores: a message was accepted, its
/// caller is about to hear the first words of its answer, a tool is about to run, a question to people was
/// opened or came to its end, or an approval, messages are answered; another process was to go on with messages right there; after a restart
/// messages are worked on once more.
pub(super) const ACCEPTED: &str = "nats-pi-bridge.accepted";
pub(super) const HEARD: &str = "nats-pi-bridge.heard";
pub(super) const INTENT: &str = "nats-pi-bridge.intent";
pub(super) const QUESTION: &str = "nats-pi-bridge.question";
pub(super) const APPROVAL: &str = "nats-pi-bridge.approval";
pub(super) const SETTLED: &str = "nats-pi-bridge.settled";
pub(super) const HANDED_OVER: &str = "nats-pi-bridge.handed_over";
pub(super) const CONTINUED: &str = "nats-pi-bridge.continued";
/// The session was confined to less than the configuration says, which holds for whoever goes on with it.
pub(super) const CONFINED: &str = "nats-pi-bridge.confined";
/// The working folder was saved, or why it was not.
pub(super) const FOLDER: &str = "nats-pi-bridge.folder";
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
    pub trace: Option<Traceparent>,
    /// Where its answer was to go; absent where nobody waits for it.
    pub reply: Option<Value>,
    /// Its caller may have heard some of the answer.
    pub heard: bool,
    /// The process before left it between two steps, for this one.
    pub handed_over: bool,
    /// How it was to reach the model, if not as a prompt of its own.
    pub deliver: Option<Deliver>,
    /// How often it was worked on once more after a restart, since a tool came to its end.
    pub continued: u32,
}

/// A question to people that the model has no result of yet.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct KeptQuestion {
    pub id: String,
    /// Unix time in milliseconds, as the next one.
    pub opened: i64,
    /// When nobody waits for an answer any more.
    pub deadline: Option<i64>,
    /// As the tool asked it.
    pub request: Value,
    /// What became of it, if that is known.
    pub result: Option<Value>,
}

/// An approval of a call that the model has no result of yet.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct KeptApproval {
    pub id: String,
    pub call_id: String,
    pub hash: String,
    /// Unix time in milliseconds, as the next one.
    pub opened: i64,
    /// When it is denied for want of an answer.
    pub deadline: Option<i64>,
    /// What became of it, if that is known: `None` in it is a yes, or else why not.
    pub settled: Option<Option<Value>>,
}

/// What other hosts can get of a working folder.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct SavedFolder {
    /// The last commit that was pushed.
    pub commit: Option<String>,
    /// There may be changes that are in no commit that was pushed.
    pub is_changed: bool,
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
    /// Questions of the model's last answer.
    pub questions: Vec<KeptQuestion>,
    /// Approvals of calls of that answer.
    pub approvals: Vec<KeptApproval>,
    /// The prompt that came to an end last was aborted.
    pub aborted: bool,
    /// What its tools were confined to.
    pub confined: Narrowing,
    /// Where it goes on elsewhere with the session.
    pub folder: SavedFolder,
    /// The complete answers of the model to the interrupted prompt: their entries' ids and their texts.
    said: Vec<(String, String)>,
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
            let named = |accepted: &Accepted| {
                data["ids"].as_array().is_some_and(|ids| ids.iter().any(|id| id == accepted.id.as_str()))
            };
            match entry.get("customType").and_then(Value::as_str) {
                None => unfinished.read(&entry),
                Some(ACCEPTED) => unfinished.waiting.push(Accepted::from_json(&data)),
                Some(INTENT) => {
                    unfinished.folder.is_changed = true;
                    unfinished.intents.extend(text(&data, "toolCallId"));
                }
                Some(FOLDER) => match text(&data, "commit") {
                    Some(commit) => unfinished.folder = SavedFolder { commit: Some(commit), is_changed: false },
                    None => unfinished.folder.is_changed = true,
                },
                Some(CONFINED) => unfinished.confined = serde_json::from_value(data).unwrap_or(Narrowing::MOST),
                Some(QUESTION) => unfinished.question(&data),
                Some(APPROVAL) => unfinished.approval(&data),
                Some(SETTLED) => {
                    unfinished.waiting.retain(|accepted| !named(accepted));
                    unfinished.interrupted.retain(|accepted| !named(accepted));
                    unfinished.aborted = data["outcome"] == "aborted";
                    if unfinished.interrupted.is_empty() {
                        unfinished.said.clear();
                    }
                }
                Some(HEARD) => unfinished.all().filter(|a| named(a)).for_each(|accepted| accepted.heard = true),
                Some(HANDED_OVER) => unfinished.all().filter(|a| named(a)).for_each(|accepted| {
                    (accepted.handed_over, accepted.heard) = (true, false);
                }),
                // That it was handed over was no interruption.
                Some(CONTINUED) => unfinished.all().filter(|a| named(a)).for_each(|accepted| {
                    accepted.continued += u32::from(!std::mem::take(&mut accepted.handed_over));
                }),
                Some(_) => {}
            }
        }
        unfinished
    }

    pub(super) fn all(&mut self) -> impl Iterator<Item = &mut Accepted> {
        self.waiting.iter_mut().chain(&mut self.interrupted)
    }

    fn question(&mut self, data: &Value) {
        let Some(id) = text(data, "requestId") else { return };
        match (data.get("request"), self.questions.iter_mut().find(|question| question.id == id)) {
            (Some(request), None) => self.questions.push(KeptQuestion {
                id,
                opened: data["opened"].as_i64().unwrap_or_default(),
                deadline: data["deadline"].as_i64(),
                request: request.clone(),
                result: None,
            }),
            (None, Some(question)) => question.result = data.get("result").cloned(),
            _ => {}
        }
    }

    fn approval(&mut self, data: &Value) {
        let Some(id) = text(data, "requestId") else { return };
        let known = self.approvals.iter_mut().find(|approval| approval.id == id);
        match (data.get("result"), known) {
            (Some(result), Some(approval)) => {
                approval.settled = Some(Some(result.clone()).filter(|result| result["allow"] != true));
            }
            (None, Some(approval)) => approval.deadline = data["deadline"].as_i64(),
            (None, None) => self.approvals.push(KeptApproval {
                id,
                call_id: text(data, "toolCallId").unwrap_or_default(),
                hash: text(data, "hash").unwrap_or_default(),
                opened: data["opened"].as_i64().unwrap_or_default(),
                deadline: data["deadline"].as_i64(),
                settled: None,
            }),
            (Some(_), None) => {}
        }
    }

    /// Calls that an approval is the last known of, so that they have not begun.
    pub(super) fn waiting_calls(&self) -> HashSet<String> {
        let calls = self.approvals.iter().map(|approval| approval.call_id.clone());
        calls.filter(|call| !self.intents.contains(call)).collect()
    }

    /// Takes note of an entry that is no record of ours.
    fn read(&mut self, entry: &Map<String, Value>) {
        let field = |key: &str| entry.get(key).unwrap_or(&Value::Null);
        let message = field("message");
        match (field("type").as_str(), message["role"].as_str()) {
            (Some("message"), Some("assistant")) => {
                // The ids of calls are the model's, and may come again with another answer.
                self.intents.clear();
                self.questions.clear();
                self.approvals.clear();
                if !self.interrupted.is_empty() && !matches!(message["stopReason"].as_str(), Some("error" | "aborted"))
                {
                    let blocks = message["content"].as_array().map_or(&[][..], Vec::as_slice);
                    let words = blocks.iter().filter(|block| block["type"] == "text");
                    let words = words.filter_map(|block| block["text"].as_str()).collect();
                    self.said.push((field("id").as_str().unwrap_or_default().to_owned(), words));
                }
            }
            (Some("message"), Some("toolResult")) if message["details"][BY_RESTART] != true => {
                self.interrupted.iter_mut().for_each(|accepted| accepted.continued = 0);
            }
            (Some("context_edit"), _) if field("replacement").is_null() => {
                self.said.retain(|(id, _)| field("targetId") != id.as_str());
            }
            _ => {}
        }
    }

    /// The process before has left the prompt that is worked on to this one, and nothing of its own running.
    pub(super) fn was_handed_over(&self) -> bool {
        self.interrupted.first().is_some_and(|first| first.handed_over)
    }

    /// What the model has said to the interrupted prompt, without what is void.
    pub(super) fn said(&self) -> String {
        self.said.iter().map(|(_, text)| text.as_str()).collect()
    }
}

impl Accepted {
    pub(super) fn from_json(data: &Value) -> Accepted {
        Accepted {
            id: text(data, "id").unwrap_or_default(),
            text: text(data, "text").unwrap_or_default(),
            images: data.get("images").and_then(|v| serde_json::from_value(v.clone()).ok()).unwrap_or_default(),
            expanded: data["expanded"] == true,
            from: text(data, "from"),
            trace: data[TRACEPARENT].as_str().and_then(Traceparent::parse),
            reply: data.get("reply").cloned(),
            deliver: [Deliver::Steer, Deliver::FollowUp].into_iter().find(|way| data["deliver"] == way.as_str()),
            heard: false,
            handed_over: false,
            continued: 0,
        }
    }

    pub(super) fn origin(&self) -> Origin {
        Origin { from: self.from.clone(), trace: self.trace.clone() }
    }
}

fn text(data: &Value, key: &str) -> Option<String> {
    data.get(key)?.as_str().map(str::to_owned)
}

/// In the details of a result that a restart made, because the call has no other.
const BY_RESTART: &str = "interrupted";

/// Which calls of the last answer are left open, to be run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LeftOpen<'a> {
    None,
    /// To ask again changes nothing: questions, and these calls, which wait for an approval.
    Asked(&'a HashSet<String>),
    /// Nothing has happened of what was not begun.
    NotBegun,
}

/// The results that close what was interrupted: for every call of the last answer that has none and is not left open. Of calls
/// that may have run, the first tells the model what that means for all of them.
pub(super) fn closing_results(
    messages: &[Arc<Message>],
    intents: &HashSet<String>,
    left: LeftOpen<'_>,
) -> Vec<ToolResultMessage> {
    let Some(last) = messages.iter().rposition(|m| matches!(**m, Message::Assistant(_))) else { return Vec::new() };
    let Message::Assistant(answer) = &*messages[last] else { return Vec::new() };
    // The calls of a failed answer are left out with it.
    if matches!(answer.stop_reason, StopReason::Error | StopReason::Aborted) {
        return Vec::new();
    }
    let mut told = false;
    let mut text = |id: &str| match (intents.contains(id), told) {
        (false, _) => "not run: the host was restarted before this began.",
        (true, true) => "interrupted, outcome unknown, like the first",
        (true, false) => {
            told = true;
            "interrupted, outcome unknown: the host was restarted while this ran, and it was not run again. Look at what it \
             may have done before you repeat it."
        }
    };
    let answered = |id: &str| {
        messages[last..].iter().any(|m| matches!(&**m, Message::ToolResult(result) if result.tool_call_id == id))
    };
    let open = answer.content.iter().filter_map(|block| {
        let Block::ToolCall { id, name, .. } = block else { return None };
        let is_left = match left {
            LeftOpen::None => false,
            LeftOpen::Asked(calls) => name == QUESTION_TOOL || calls.contains(id),
            LeftOpen::NotBegun => name == QUESTION_TOOL || !intents.contains(id),
        };
        (!answered(id) && !is_left).then_some((id, name))
    });
    open.map(|(id, name)| ToolResultMessage {
        tool_call_id: id.clone(),
        tool_name: name.clone(),
        content: vec![Block::text(text(id))],
        details: Some(json!({BY_RESTART: true})),
        is_error: true,
        duration_ms: None,
        timestamp: now_ms(),
    })
    .collect()
}

/// The session's figures, if a file ends with the record that everything in it is settled and nothing waits.
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
    let settled = entry["customType"] == SETTLED && entry["data"].get("waiting").is_none();
    Ok(settled.then(|| entry["data"]["totals"].clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn what_is_saved_of_a_folder_is_known() {
        let record = |kind: &str, data: Value| json!({"type": "custom", "customType": kind, "data": data});
        let saved = |commit: &str| record(FOLDER, json!({"commit": commit}));
        let failed = || record(FOLDER, json!({"code": "push_failed", "message": "why"}));
        let tool = || record(INTENT, json!({"toolCallId": "t"}));
        for (entries, commit, is_changed) in [
            (vec![], None, false),
            (vec![tool()], None, true),
            (vec![tool(), saved("a")], Some("a"), false),
            (vec![saved("a"), saved("b")], Some("b"), false),
            (vec![saved("a"), tool()], Some("a"), true),
            (vec![saved("a"), failed()], Some("a"), true),
            (vec![saved("a"), failed(), saved("b")], Some("b"), false),
        ] {
            let expected = SavedFolder { commit: commit.map(str::to_owned), is_changed };
            assert_eq!(unfinished(&entries).folder, expected, "{entries:?}");
        }
    }

    #[test]
    fn questions_are_kept_until_the_model_goes_on() {
        let record = |data: Value| json!({"type": "custom", "customType": QUESTION, "data": data});
        let opened = record(json!({"requestId": "q", "opened": 5, "deadline": 9, "request": {"a": 1}}));
        let answered = record(json!({"requestId": "q", "result": {"b": 2}}));
        let answer = json!({"type": "message", "message": {"role": "assistant", "content": []}});
        let kept = |result: Option<Value>| KeptQuestion {
            id: "q".into(),
            opened: 5,
            deadline: Some(9),
            request: json!({"a": 1}),
            result,
        };
        for (entries, expected) in [
            (vec![opened.clone()], vec![kept(None)]),
            (vec![opened.clone(), answered.clone()], vec![kept(Some(json!({"b": 2})))]),
            (vec![answered], vec![]),
            (vec![opened, answer], vec![]),
        ] {
            assert_eq!(unfinished(&entries).questions, expected);
        }
    }

    #[test]
    fn what_the_caller_was_told_and_what_was_tried_again_is_known() {
        let answer = |id: &str, text: &str, reason: &str| {
            json!({"type": "message", "id": id, "message": {"role": "assistant", "stopReason": reason,
                "content": [{"type": "text", "text": text}, {"type": "toolCall", "id": "t"}]}})
        };
        let record = |kind: &str| json!({"type": "custom", "customType": kind, "data": {"ids": ["a"]}});
        let result = |details: Value| json!({"type": "message", "message": {"role": "toolResult", "details": details}});
        let intent = json!({"type": "custom", "customType": INTENT, "data": {"toolCallId": "t"}});
        let omitted = json!({"type": "context_edit", "targetId": "2", "replacement": null});
        let (closed, ran) = (result(json!({BY_RESTART: true})), result(Value::Null));
        let begin = [accepted("a"), begun("a"), answer("1", "one ", "toolUse")];
        for (then, said, continued, intents) in [
            (vec![], "one ", 0, 0),
            (vec![intent.clone(), record(CONTINUED), record(CONTINUED)], "one ", 2, 1),
            (vec![intent, answer("2", "two", "stop")], "one two", 0, 0),
            (vec![record(CONTINUED), closed], "one ", 1, 0),
            (vec![record(CONTINUED), ran], "one ", 0, 0),
            (vec![answer("2", "two", "error"), answer("3", "three", "stop")], "one three", 0, 0),
            (vec![answer("2", "two", "length"), omitted], "one ", 0, 0),
        ] {
            let found = unfinished(&[&begin[..], &then[..]].concat());
            assert_eq!(
                (found.said().as_str(), found.interrupted[0].continued, found.intents.len()),
                (said, continued, intents),
                "{then:?}"
            );
        }
        assert_eq!(unfinished(&[&begin[..], &[record(SETTLED)]].concat()).said(), "");
        let (heard, handed_over, continued) = (record(HEARD), record(HANDED_OVER), record(CONTINUED));
        for (then, expected) in [
            (vec![heard.clone()], (true, false, 0)),
            (vec![heard.clone(), handed_over.clone()], (false, true, 0)),
            (vec![heard.clone(), handed_over.clone(), continued.clone()], (false, false, 0)),
            (vec![heard.clone(), handed_over, continued.clone(), heard, continued], (true, false, 1)),
        ] {
            let found = unfinished(&[&begin[..], &then[..]].concat());
            let Accepted { heard, handed_over, continued, .. } = found.interrupted[0];
            assert_eq!((heard, handed_over, continued), expected, "{then:?}");
        }
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
        let results = closing_results(&messages, &HashSet::from(["t1".to_owned(), "t2".to_owned()]), LeftOpen::None);
        let texts: Vec<(String, String)> = results
            .iter()
            .map(|r| {
                (r.tool_call_id.clone(), serde_json::to_value(&r.content).expect("it is JSON")[0]["text"].to_string())
            })
            .collect();
        assert_eq!(texts.len(), 2);
        assert!(texts[0].0 == "t1" && texts[0].1.contains("interrupted, outcome unknown"), "{texts:?}");
        assert!(texts[1].0 == "t3" && texts[1].1.contains("not run: "), "{texts:?}");
        let all = closing_results(&messages[..2], &["t1", "t2", "t3"].map(str::to_owned).into(), LeftOpen::None);
        let long = |result: &ToolResultMessage| result.content[0].as_text().is_some_and(|text| text.len() > 60);
        assert_eq!(all.iter().map(long).collect::<Vec<_>>(), [true, false, false], "it is told once");
        let begun = HashSet::from(["t1".to_owned()]);
        let closed = closing_results(&messages[..2], &begun, LeftOpen::NotBegun);
        assert_eq!(closed.iter().map(|result| &*result.tool_call_id).collect::<Vec<_>>(), ["t1"]);
        assert!(closing_results(&messages[..1], &HashSet::new(), LeftOpen::None).is_empty());
    }

    #[test]
    fn a_settled_file_is_known_by_its_end() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("f.jsonl");
        let record = json!({"type": "custom", "customType": SETTLED, "data": {"ids": [], "totals": {"prompts": 3}}});
        for (text, expected) in [
            (format!("{{\"type\":\"session\"}}\n{record}\n"), Some(json!({"prompts": 3}))),
            (format!("{}\n", json!({"customType": SETTLED, "data": {"totals": {}, "waiting": 1}})), None),
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
