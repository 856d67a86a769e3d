use super::*;
use crate::transcript::{Content, StopReason};
use serde_json::json;

/// Restores a file with these entries; those without a parent follow the one before.
fn restored(entries: Value) -> Restored {
    let Value::Array(entries) = entries else { panic!("a list") };
    let mut text = json!({"type":"session","version":3,"id":"s","cwd":"/w"}).to_string();
    for entry in entries {
        text.push('\n');
        text.push_str(&entry.to_string());
    }
    restore(&Contents::parse(text.into_bytes()).expect("a session file"))
}

fn user(id: &str, parent: Option<&str>, text: &str) -> Value {
    json!({"type":"message","id":id,"parentId":parent,"timestamp":"2026-01-02T03:04:05.678Z",
        "message":{"role":"user","content":text,"timestamp":7}})
}

/// Entry ids and texts of the messages.
fn told(restored: &Restored) -> Vec<String> {
    let text = |message: &Message| match message {
        Message::User(UserMessage { content: Content::Text(text), .. }) => text.clone(),
        Message::Assistant(answer) => answer.text(),
        other => format!("{other:?}"),
    };
    restored.entry_ids.iter().zip(&restored.messages).map(|(id, message)| format!("{id}:{}", text(message))).collect()
}

fn summary_of(id: &str, words: &str) -> String {
    format!(
        "{id}:The conversation history before this point was compacted into the following summary:\n\n<summary>\n{words}\n</summary>"
    )
}

#[test]
fn the_active_branch_is_the_one_that_ends_last() {
    let restored = restored(json!([user("a", None, "1"), user("b", Some("a"), "2"), user("c", Some("a"), "3")]));
    assert_eq!(told(&restored), ["a:1", "c:3"]);
}

#[test]
fn a_compaction_replaces_what_it_did_not_keep() {
    let (a, b, c) = (user("a", None, "1"), user("b", Some("a"), "2"), user("c", Some("b"), "3"));
    let compaction = |id: &str, parent: &str, first_kept: &str| {
        json!({"type":"compaction","id":id,"parentId":parent,"summary":format!("S{id}"),"firstKeptEntryId":first_kept,
            "tokensBefore":9,"timestamp":"2026-01-02T03:04:05.678Z"})
    };
    let mark = json!({"type":"label","id":"m","parentId":"b","targetId":"a","label":"x"});
    for (what, entries, expected) in [
        (
            "kept from a message",
            json!([a, b, c, compaction("d", "c", "c"), user("e", Some("d"), "4")]),
            vec!["c:3", "e:4"],
        ),
        (
            "kept from another entry",
            json!([a, b, mark, user("c", Some("m"), "3"), compaction("d", "c", "m"), user("e", Some("d"), "4")]),
            vec!["c:3", "e:4"],
        ),
        ("all kept", json!([a, b, compaction("d", "b", "a")]), vec!["a:1", "b:2"]),
        ("nothing kept", json!([a, b, compaction("d", "b", "lost"), user("e", Some("d"), "4")]), vec!["e:4"]),
        (
            "twice",
            json!([a, b, compaction("x", "b", "b"), user("c", Some("x"), "3"), compaction("d", "c", "c")]),
            vec!["c:3"],
        ),
        (
            "twice, with the first one among the kept",
            json!([a, b, compaction("x", "b", "b"), user("c", Some("x"), "3"), compaction("d", "c", "b")]),
            vec!["b:2", "c:3"],
        ),
    ] {
        let restored = restored(entries);
        let expected: Vec<String> =
            std::iter::once(summary_of("d", "Sd")).chain(expected.into_iter().map(str::to_string)).collect();
        assert_eq!(told(&restored), expected, "{what}");
        let Message::User(summary) = &*restored.messages[0] else { panic!("a user's words") };
        assert_eq!(summary.timestamp, 1_767_323_045_678);
    }
}

#[test]
fn version_one_named_what_it_kept_by_line() {
    let text = [
        r#"{"type":"session","id":"s"}"#,
        r#"{"type":"message","message":{"role":"user","content":"1"}}"#,
        r#"{"type":"message","message":{"role":"user","content":"2"}}"#,
        r#"{"type":"compaction","summary":"S","firstKeptEntryIndex":2}"#,
        r#"{"type":"message","message":{"role":"hookMessage","content":"3"}}"#,
    ];
    let restored = restore(&Contents::parse(text.join("\n").into_bytes()).expect("a session file"));
    assert_eq!(told(&restored), [summary_of("00000002", "S"), "00000001:2".into(), "00000003:3".into()]);
}

#[test]
fn settings_are_those_set_last() {
    let answer = |id: &str, model: &str| json!({"type":"message","id":id,"message":{"role":"assistant","content":[],"provider":"q","model":model}});
    let restored = restored(json!([
        {"type":"model_change","id":"a","provider":"p","modelId":"x"},
        {"type":"thinking_level_change","id":"b","thinkingLevel":"high"},
        {"type":"session_info","id":"c","name":" worker "},
        answer("d", "y"),
        {"type":"thinking_level_change","id":"e"},
        {"type":"model_change","id":"f","provider":"p"}]));
    assert_eq!(restored.model, Some(("q".into(), "y".into())));
    assert_eq!(restored.thinking.as_deref(), Some("high"));
    assert_eq!(restored.name.as_deref(), Some("worker"));
    let cleared = self::restored(json!([answer("d", "y"), {"type":"session_info","id":"a","name":"w"},
        {"type":"model_change","id":"f","provider":"p","modelId":"z"}, {"type":"session_info","id":"b","name":""}]));
    assert_eq!((cleared.name, cleared.model), (None, Some(("p".into(), "z".into()))));
}

#[test]
fn the_latest_edit_of_an_entry_counts() {
    let edit = |id: &str, target: &str, replacement: Value| json!({"type":"context_edit","id":id,"targetId":target,"replacement":replacement});
    let answer = json!({"type":"message","id":"c","message":{"role":"assistant","content":"3","stopReason":"stop"}});
    let restored = restored(json!([
        user("a", None, "1"),
        user("b", Some("a"), "2"),
        answer,
        user("d", Some("c"), "4"),
        user("e", Some("d"), "5"),
        user("f", Some("e"), "6"),
        edit("1", "a", Value::Null),
        edit("2", "b", json!({"content":"two"})),
        edit("3", "c", json!({"content":[{"type":"text","text":"three"}]})),
        edit("4", "d", Value::Null),
        edit("5", "d", json!({"content":"four"})),
        edit("6", "e", json!({"content":7})),
        edit("7", "f", json!({"content":"six"})),
        edit("8", "f", Value::Null),
        edit("9", "nobody", Value::Null)
    ]));
    assert_eq!(told(&restored), ["b:two", "c:three", "d:four", "e:5"]);
}

#[test]
fn other_entries_become_words_or_nothing() {
    let restored = restored(json!([
        {"type":"message","id":"a","message":{"role":"system","content":"x"}},
        {"type":"message","id":"b","message":{"role":"bashExecution","command":"ls","output":"","exitCode":2}},
        {"type":"custom_message","id":"c","customType":"c","content":"note","display":true},
        {"type":"branch_summary","id":"d","fromId":"x","summary":"left"},
        {"type":"branch_summary","id":"e","fromId":"x","summary":""},
        {"type":"from_the_future","id":"f","data":1},
        {"type":"usage","id":"g","usage":{"input":4}},
        {"type":"label","id":"h","targetId":"a"},
        {"type":"message","id":"i","message":"?"},
        {"type":"message","id":"j"},
        {"type":"compaction","id":"k","firstKeptEntryId":"c"}]));
    let branch =
        "d:The following is a summary of a branch that this conversation came back from:\n\n<summary>\nleft</summary>";
    assert_eq!(told(&restored), ["b:Ran `ls`\n(no output)\n\nCommand exited with code 2", "c:note", branch]);
    assert_eq!(restored.usage.input, 4);
}

#[test]
fn an_entry_without_a_time_has_that_of_the_message_before() {
    let restored = restored(json!([user("a", None, "1"),
        {"type":"custom_message","id":"b","content":"x"}, {"type":"custom_message","id":"c","content":"x","timestamp":"?"},
        {"type":"message","id":"d","message":{"role":"assistant","content":[],"stopReason":"error"}}]));
    let times: Vec<i64> = restored
        .messages
        .iter()
        .map(|message| match &**message {
            Message::User(m) => m.timestamp,
            Message::Assistant(m) => {
                assert_eq!(m.stop_reason, StopReason::Error);
                m.timestamp
            }
            Message::ToolResult(m) => m.timestamp,
        })
        .collect();
    assert_eq!(times, [7; 4]);
}

#[test]
fn what_was_counted_before_a_compaction_or_an_edit_is_forgotten_whatever_the_dates() {
    let counted = |id: &str| {
        json!({"type":"message","id":id,"message":{"role":"assistant","content":"x","stopReason":"stop",
            "usage":{"totalTokens":7},"timestamp":1}})
    };
    let future = "2099-01-01T00:00:00.000Z";
    let counts = |entries: Value| -> Vec<u64> {
        let messages = restored(entries).messages;
        let count = |message: &Arc<Message>| match &**message {
            Message::Assistant(answer) => Some(answer.usage.total_tokens),
            _ => None,
        };
        messages.iter().filter_map(count).collect()
    };
    let compaction = json!({"type":"compaction","id":"c","summary":"S","firstKeptEntryId":"a","timestamp":future});
    assert_eq!(counts(json!([user("u", None, "1"), counted("a"), compaction, counted("b")])), [0, 7]);
    let edit = json!({"type":"context_edit","id":"e","targetId":"b","replacement":{"content":"y"},"timestamp":future});
    assert_eq!(counts(json!([counted("a"), counted("b"), counted("c"), edit, counted("d")])), [7, 0, 0, 7]);
}

#[test]
fn results_stand_in_the_order_of_their_calls() {
    let call = |id: &str| json!({"type":"toolCall","id":id,"name":"ls","arguments":{}});
    let answer = json!({"role":"assistant","content":[call("a"), call("b"), call("c")],"api":"a","provider":"p",
        "model":"m","usage":{},"stopReason":"toolUse","timestamp":1});
    let result = |id: &str| {
        json!({"type":"message","id":id,"message":{"role":"toolResult","toolCallId":id,"toolName":"ls","content":[],
            "isError":false,"timestamp":1}})
    };
    let entry = json!({"type":"message","id":"m","message":answer});
    let found = restored(json!([entry, result("c"), result("x"), result("a"), result("b"), user("u", None, "1")]));
    // The user's words begin another branch.
    assert_eq!(found.entry_ids, ["u"]);
    let found = restored(json!([entry, result("c"), result("x"), result("a"), result("b")]));
    assert_eq!(found.entry_ids, ["m", "a", "b", "c", "x"]);
}
