use super::*;
use crate::model::model_info::{Api, Model};
use crate::model::request::Outcome;
use crate::model::test_support::{Recorder, decoded, test_model};
use serde_json::json;

fn model() -> Model {
    Model { api: Api::OpenaiResponses, ..test_model() }
}

fn decode(events: &[Value]) -> (Outcome, Recorder) {
    let stream: String =
        events.iter().map(|e| format!("event: {}\ndata: {e}\n\n", e["type"].as_str().unwrap_or_default())).collect();
    decoded(&model(), ResponsesDecoder::default(), &stream)
}

fn added(number: u64, item: Value) -> Value {
    json!({"type":"response.output_item.added","output_index":number,"item":item})
}

fn done(number: u64, item: Value) -> Value {
    json!({"type":"response.output_item.done","output_index":number,"item":item})
}

fn delta(kind: &str, number: u64, delta: &str) -> Value {
    json!({"type":format!("response.{kind}.delta"),"output_index":number,"delta":delta})
}

fn completed(response: Value) -> Value {
    json!({"type":"response.completed","response":response})
}

#[test]
fn a_whole_answer() {
    let reasoning = json!({"type":"reasoning","id":"rs_1","summary":[{"type":"summary_text","text":"one"},{"type":"summary_text","text":"two"}]});
    let (outcome, recorder) = decode(&[
        json!({"type":"response.created","response":{"id":"resp_1","model":"m-2026"}}),
        json!({"type":"response.in_progress"}),
        added(0, json!({"type":"reasoning","id":"rs_1","summary":[]})),
        delta("reasoning_summary_text", 0, "one"),
        json!({"type":"response.reasoning_summary_part.done","output_index":0}),
        delta("reasoning_summary_text", 0, "two"),
        json!({"type":"response.reasoning_summary_part.done","output_index":0}),
        done(0, reasoning.clone()),
        added(1, json!({"type":"web_search_call","id":"ws"})),
        done(1, json!({"type":"web_search_call","id":"ws"})),
        added(2, json!({"type":"message","id":"msg_1","content":[]})),
        delta("output_text", 2, "Hel\n"),
        delta("refusal", 2, "lo"),
        done(
            2,
            json!({"type":"message","id":"msg_1","phase":"final","content":[{"type":"output_text","text":"Hel\nlo"}]}),
        ),
        added(3, json!({"type":"function_call","id":"fc_1","call_id":"call_1","name":"bash","arguments":""})),
        delta("function_call_arguments", 3, "{\"a\":"),
        json!({"type":"response.function_call_arguments.done","output_index":3,"arguments":"{\"a\":1}"}),
        done(3, json!({"type":"function_call","id":"fc_1","call_id":"call_1","name":"bash","arguments":"{\"a\":1}"})),
        done(4, json!({"type":"function_call","id":"fc_2","call_id":"call_2","name":"read","arguments":"{}"})),
        completed(json!({"status":"completed","usage":{"input_tokens":100,"output_tokens":20,"total_tokens":120,
            "input_tokens_details":{"cached_tokens":30,"cache_write_tokens":5},"output_tokens_details":{"reasoning_tokens":7}}})),
    ]);
    assert_eq!(
        recorder.events(),
        [
            "thinking0",
            "thinking0+one",
            "thinking0+\n\n",
            "thinking0+two",
            "thinking0.",
            "text1",
            "text1+Hel\n",
            "text1+lo",
            "text1.",
            "tool2 call_1|fc_1 bash",
            "tool2+{\"a\":",
            "tool2.",
            "tool3 call_2|fc_2 read",
            "tool3+{}",
            "tool3.",
        ]
    );
    assert_eq!(outcome.message.error_message, None);
    let message = serde_json::to_value(&outcome.message).expect("JSON");
    assert_eq!(
        message["content"],
        json!([{"type":"thinking","thinking":"one\n\ntwo","thinkingSignature":reasoning.to_string()},
            {"type":"text","text":"Hel\nlo","textSignature":"{\"v\":1,\"id\":\"msg_1\",\"phase\":\"final\"}"},
            {"type":"toolCall","id":"call_1|fc_1","name":"bash","arguments":{"a":1}},
            {"type":"toolCall","id":"call_2|fc_2","name":"read","arguments":{}}])
    );
    assert_eq!((&message["responseId"], &message["responseModel"]), (&json!("resp_1"), &json!("m-2026")));
    assert_eq!(outcome.message.stop_reason, StopReason::ToolUse);
    let usage = outcome.message.usage;
    assert_eq!((usage.input, usage.output, usage.cache_read, usage.cache_write), (65, 20, 30, 5));
    assert_eq!((usage.reasoning, usage.total_tokens), (Some(7), 120));
}

#[test]
fn items_that_come_only_at_their_end() {
    let (outcome, _) = decode(&[
        done(0, json!({"type":"reasoning","id":"r","summary":[],"content":[{"text":"a"},{"text":"b"}]})),
        done(
            1,
            json!({"type":"message","id":"m","content":[{"type":"output_text","text":"x"},{"type":"refusal","refusal":"y"}]}),
        ),
        completed(json!({"status":"completed"})),
    ]);
    assert_eq!(outcome.message.text(), "xy");
    assert!(matches!(&outcome.message.content[0], Block::Thinking { thinking, .. } if thinking == "a\n\nb"));
    assert_eq!(outcome.message.stop_reason, StopReason::Stop);
}

#[test]
fn endings() {
    let terminal = |kind: &str, response: Value| json!({"type":format!("response.{kind}"),"response":response});
    let call = added(0, json!({"type":"function_call","id":"fc","call_id":"c","name":"n"}));
    for (events, expected) in [
        (vec![completed(json!({}))], Ok(StopReason::Stop)),
        (
            vec![terminal(
                "incomplete",
                json!({"status":"incomplete","incomplete_details":{"reason":"max_output_tokens"}}),
            )],
            Ok(StopReason::Length),
        ),
        (
            vec![terminal(
                "incomplete",
                json!({"status":"incomplete","incomplete_details":{"reason":"content_filter"}}),
            )],
            Err("Response incomplete: content_filter"),
        ),
        (
            vec![terminal("failed", json!({"status":"failed","error":{"code":"server_error","message":"oops"}}))],
            Err("server_error: oops"),
        ),
        (vec![terminal("failed", json!({"status":"cancelled"}))], Err("failed: ")),
        (vec![json!({"type":"error","code":"rate_limit","message":"slow"})], Err("429: slow (rate_limit)")),
        (vec![call, completed(json!({"status":"completed"}))], Ok(StopReason::ToolUse)),
        (vec![delta("output_text", 0, "x")], Err("Stream ended before a terminal response event")),
        (vec![], Err("Stream ended before a terminal response event")),
    ] {
        let message = decode(&events).0.message;
        match expected {
            Ok(stop) => assert_eq!((message.stop_reason, message.error_message), (stop, None), "{events:?}"),
            Err(text) => assert_eq!(message.error_message.as_deref(), Some(text), "{events:?}"),
        }
    }
}
