//! Streams as the many servers of this API send them.

use super::*;
use crate::model::model_info::{Api, Model};
use crate::model::request::Outcome;
use crate::model::test_support::{brief, decoded, test_model};
use serde_json::json;

fn decode_stream(stream: &str) -> Outcome {
    decoded(&Model { api: Api::OpenaiResponses, ..test_model() }, ResponsesDecoder::default(), stream).0
}

/// The events without names, as some servers send them; with their names, the same has to come of them.
fn decode(events: &[Value]) -> Outcome {
    let unnamed: String = events.iter().map(|event| format!("data: {event}\n\n")).collect();
    let named: String = events
        .iter()
        .map(|event| format!("event: {}\ndata: {event}\n\n", event["type"].as_str().unwrap_or("message")))
        .collect();
    let (one, other) = (decode_stream(&unnamed), decode_stream(&named));
    assert_eq!(brief(&one), brief(&other), "{events:?}");
    one
}

fn event(kind: &str, fields: Value) -> Value {
    let mut event = json!({"type":format!("response.{kind}")});
    event.as_object_mut().expect("an object").extend(fields.as_object().expect("an object").clone());
    event
}

fn added(fields: Value, item: Value) -> Value {
    let mut event = event("output_item.added", fields);
    event["item"] = item;
    event
}

fn done(fields: Value, item: Value) -> Value {
    let mut event = event("output_item.done", fields);
    event["item"] = item;
    event
}

fn completed(output: Value) -> Value {
    event("completed", json!({"response":{"status":"completed","output":output}}))
}

fn call(id: &str, call: &str, arguments: &str) -> Value {
    let mut item = json!({"type":"function_call","name":"f","arguments":arguments});
    for (field, value) in [("id", id), ("call_id", call)] {
        if !value.is_empty() {
            item[field] = json!(value);
        }
    }
    item
}

fn message(id: &str, text: &str) -> Value {
    json!({"type":"message","id":id,"content":[{"type":"output_text","text":text}]})
}

#[test]
fn arguments_find_their_calls() {
    let (a, b) = (r#"{"c":"a"}"#, r#"{"c":"b"}"#);
    let piece = |fields: Value, delta: &str| {
        let mut event = event("function_call_arguments.delta", fields);
        event["delta"] = json!(delta);
        event
    };
    let whole = |fields: Value, arguments: Value| {
        let mut event = event("function_call_arguments.done", fields);
        event["arguments"] = arguments;
        event
    };
    let none = json!({});
    let two = [r#"x|i f {"c":"a"}"#, r#"y|j f {"c":"b"}"#];
    for (events, expected) in [
        // Interleaved: by numbers, by ids, by ids although all numbers are 0.
        (
            vec![
                added(json!({"output_index":0}), call("i", "x", "")),
                added(json!({"output_index":1}), call("j", "y", "")),
                piece(json!({"output_index":0}), a),
                piece(json!({"output_index":1}), b),
            ],
            two.to_vec(),
        ),
        (
            vec![
                added(none.clone(), call("i", "x", "")),
                added(none.clone(), call("j", "y", "")),
                piece(json!({"item_id":"i"}), a),
                piece(json!({"item_id":"j"}), b),
            ],
            two.to_vec(),
        ),
        (
            vec![
                added(json!({"output_index":0}), call("i", "x", "")),
                added(json!({"output_index":0}), call("j", "y", "")),
                piece(json!({"output_index":0,"item_id":"i"}), &a[..4]),
                piece(json!({"output_index":0,"item_id":"j"}), &b[..4]),
                piece(json!({"output_index":0,"item_id":"i"}), &a[4..]),
                piece(json!({"output_index":0,"item_id":"j"}), &b[4..]),
                done(json!({"output_index":0}), call("j", "y", b)),
                done(json!({"output_index":0}), call("i", "x", a)),
            ],
            two.to_vec(),
        ),
        // By the id of the call, as llama.cpp has it.
        (
            vec![
                added(none.clone(), call("", "x", "")),
                added(none.clone(), call("", "y", "")),
                piece(json!({"item_id":"x"}), a),
                piece(json!({"item_id":"y"}), b),
            ],
            vec![r#"x f {"c":"a"}"#, r#"y f {"c":"b"}"#],
        ),
        // By nothing: one after the other, or from their ends.
        (
            vec![
                added(none.clone(), call("i", "x", "")),
                piece(none.clone(), a),
                done(none.clone(), call("i", "x", a)),
                added(none.clone(), call("j", "y", "")),
                piece(none.clone(), b),
                done(none.clone(), call("j", "y", b)),
            ],
            two.to_vec(),
        ),
        (
            vec![
                added(none.clone(), call("i", "x", "")),
                added(none.clone(), call("j", "y", "")),
                piece(none.clone(), a),
                piece(none.clone(), b),
                done(none.clone(), call("i", "x", a)),
                done(none.clone(), call("j", "y", b)),
            ],
            two.to_vec(),
        ),
        // Pieces of a call that nobody announced reach no other.
        (
            vec![
                added(none.clone(), call("i", "x", "")),
                piece(json!({"item_id":"i"}), a),
                piece(json!({"item_id":"j"}), b),
                done(none.clone(), call("i", "x", "")),
                done(none.clone(), call("j", "y", b)),
            ],
            two.to_vec(),
        ),
        // One id for two items, one for two calls, and both.
        (
            vec![
                added(json!({"output_index":0}), call("i", "x", "")),
                added(json!({"output_index":1}), call("i", "y", "")),
                piece(json!({"output_index":0,"item_id":"i"}), a),
                piece(json!({"output_index":1,"item_id":"i"}), b),
                done(json!({"output_index":0}), call("i", "x", a)),
                done(json!({"output_index":1}), call("i", "y", b)),
            ],
            vec![r#"x|i f {"c":"a"}"#, r#"y f {"c":"b"}"#],
        ),
        (
            vec![
                done(json!({"output_index":0}), call("i", "x", a)),
                done(json!({"output_index":1}), call("j", "x", b)),
            ],
            vec![r#"x|i f {"c":"a"}"#, r#"x_2|j f {"c":"b"}"#],
        ),
        // No ids at all.
        (
            vec![
                added(json!({"output_index":0}), call("", "", "")),
                added(json!({"output_index":1}), call("", "", "")),
                piece(json!({"output_index":0}), a),
                piece(json!({"output_index":1}), b),
            ],
            vec![r#"? f {"c":"a"}"#, r#"? f {"c":"b"}"#],
        ),
        // What comes whole replaces the pieces, unless it is empty; as an object, too.
        (
            vec![
                added(none.clone(), call("i", "x", "")),
                piece(none.clone(), "{\"c\":"),
                whole(json!({"item_id":"i"}), json!({"c":"a"})),
            ],
            vec![two[0]],
        ),
        (
            vec![
                added(none.clone(), call("i", "x", "")),
                piece(none.clone(), a),
                whole(none.clone(), json!("")),
                done(none.clone(), call("i", "x", "{}")),
            ],
            vec![two[0]],
        ),
        // Arguments that are there from the beginning, alone or before their pieces.
        (vec![added(none.clone(), call("i", "x", a))], vec![two[0]]),
        (vec![added(none.clone(), call("i", "x", "{}")), piece(none.clone(), a)], vec![two[0]]),
        // The end comes twice, the beginning too.
        (
            vec![
                added(none.clone(), call("i", "x", "")),
                added(none.clone(), call("i", "x", "")),
                done(none.clone(), call("i", "x", a)),
                done(none.clone(), call("i", "x", a)),
            ],
            vec![two[0]],
        ),
        // A name that comes late.
        (
            vec![
                added(none.clone(), json!({"type":"function_call","id":"i","call_id":"x"})),
                piece(json!({"item_id":"i"}), a),
                done(none.clone(), call("i", "x", a)),
            ],
            vec![two[0]],
        ),
    ] {
        for output in [json!([]), json!(null)] {
            let mut events = events.clone();
            events.push(completed(output));
            assert_eq!(brief(&decode(&events)), expected, "{events:?}");
        }
    }
}

#[test]
fn the_response_fills_in_what_did_not_come() {
    let (a, b) = (r#"{"c":"a"}"#, r#"{"c":"b"}"#);
    let none = json!({});
    let text = |id: &str, delta: &str| event("output_text.delta", json!({"item_id":id,"delta":delta}));
    let empty = |id: &str| json!({"type":"message","id":id,"content":[]});
    for (events, output, expected) in [
        // All of it, also as a lone item, and in other forms.
        (vec![], json!([message("m", "hi"), call("i", "x", a)]), vec!["hi", r#"x|i f {"c":"a"}"#]),
        (vec![], message("m", "hi"), vec!["hi"]),
        (
            vec![],
            json!([{"type":"message","content":"hi"},{"type":"output_text","text":"ho"},{"role":"assistant","content":"ha"}]),
            vec!["hi", "ho", "ha"],
        ),
        (vec![], json!([{"type":"web_search_call","id":"w","name":7},null,message("m", "hi")]), vec!["hi"]),
        // Nothing that is there already, whatever it is called now.
        (vec![text("m", "hi"), done(none.clone(), message("m", "hi"))], json!([message("m", "hi")]), vec!["hi"]),
        (vec![text("m", "hi"), done(none.clone(), message("m", "hi"))], json!([message("n", "hi")]), vec!["hi"]),
        (vec![text("m", "hi"), done(none.clone(), empty("m"))], json!([message("n", "hi")]), vec!["hi"]),
        (vec![text("m", "hi")], json!([{"type":"message","content":[]}]), vec!["hi"]),
        (vec![done(none.clone(), call("i", "x", a))], json!([call("i", "x", a)]), vec![r#"x|i f {"c":"a"}"#]),
        (vec![done(none.clone(), call("i", "x", a))], json!([call("", "x", a)]), vec![r#"x|i f {"c":"a"}"#]),
        (vec![done(none.clone(), call("i", "x", a))], json!([call("j", "y", a)]), vec![r#"x|i f {"c":"a"}"#]),
        // The rest.
        (
            vec![done(none.clone(), call("i", "x", a))],
            json!([message("m", "hi"), call("i", "x", a), call("j", "y", b)]),
            vec![r#"x|i f {"c":"a"}"#, "hi", r#"y|j f {"c":"b"}"#],
        ),
        (vec![done(none.clone(), empty("m"))], json!([message("m", "hi")]), vec!["", "hi"]),
        (
            vec![text("m", "plan"), done(none.clone(), message("m", "plan"))],
            json!([message("m", "plan"), message("n", "answer")]),
            vec!["plan", "answer"],
        ),
        // What did not end.
        (vec![added(none.clone(), call("i", "x", ""))], json!([call("i", "x", a)]), vec![r#"x|i f {"c":"a"}"#]),
        (vec![text("m", "hi")], json!([message("m", "hi")]), vec!["hi"]),
    ] {
        let mut events = events;
        events.push(completed(output));
        assert_eq!(brief(&decode(&events)), expected, "{events:?}");
    }
}

#[test]
fn pieces_without_an_announced_item() {
    let piece = |kind: &str, fields: Value, delta: &str| {
        let mut event = event(&format!("{kind}.delta"), fields);
        event["delta"] = json!(delta);
        event
    };
    let reasoning = json!({"type":"reasoning","id":"r","summary":"hm"});
    for (events, expected) in [
        (vec![piece("output_text", json!({}), "h"), piece("output_text", json!({}), "i")], vec!["hi"]),
        // Another id in each piece.
        (
            vec![
                piece("reasoning_summary_text", json!({"item_id":"a","output_index":0}), "h"),
                piece("reasoning_summary_text", json!({"item_id":"b","output_index":0}), "m"),
                done(json!({"output_index":0}), reasoning.clone()),
                piece("output_text", json!({"item_id":"m","output_index":0}), "hi"),
            ],
            vec!["(hm)", "hi"],
        ),
        // The announcement comes later, the end is late, and all have one number.
        (
            vec![
                piece("output_text", json!({"item_id":"m","output_index":0}), "h"),
                added(json!({"output_index":0}), message("m", "")),
                piece("output_text", json!({"item_id":"m","output_index":0}), "i"),
                done(json!({"output_index":0}), message("m", "hi")),
                piece("output_text", json!({"item_id":"m","output_index":0}), "!"),
                piece("output_text", json!({"item_id":"n","output_index":0}), "ho"),
            ],
            vec!["hi", "ho"],
        ),
        (
            vec![
                added(json!({}), message("m", "")),
                piece("output_text", json!({"item_id":"m"}), "hi"),
                added(json!({}), message("n", "")),
                piece("output_text", json!({"item_id":"n"}), "ho"),
            ],
            vec!["hi", "ho"],
        ),
        (vec![added(json!({}), message("m", "")), event("output_text.done", json!({"text":"hi"}))], vec!["hi"]),
        (vec![event("output_text.done", json!({"text":"hi"})), done(json!({}), message("m", "hi"))], vec!["hi"]),
        (vec![piece("refusal", json!({"output_index":"2"}), "no")], vec!["no"]),
        (vec![json!({"type":"response.output_text.delta","delta":["h",{"text":"i"}],"output_index":-1})], vec!["hi"]),
    ] {
        let mut events = events;
        events.push(event("done", json!({"response":{"status":"completed"}})));
        assert_eq!(brief(&decode(&events)), expected, "{events:?}");
    }
}

#[test]
fn reasoning_is_kept_with_what_it_needs() {
    let item = |encrypted: Value| {
        let mut item = json!({"type":"reasoning","id":"r","summary":[{"type":"summary_text","text":"hm"}]});
        if !encrypted.is_null() {
            item["encrypted_content"] = encrypted;
        }
        item
    };
    let none = json!({});
    for (events, output, expected) in [
        (vec![done(none.clone(), item(json!("E")))], json!([]), json!("E")),
        (vec![done(none.clone(), item(json!(null)))], json!([item(json!("L"))]), json!("L")),
        (vec![done(none.clone(), item(json!("")))], json!([item(json!("L"))]), json!("L")),
        (vec![done(none.clone(), item(json!("E")))], json!([item(json!("L"))]), json!("E")),
        (vec![added(none.clone(), item(json!(null)))], json!([item(json!("L"))]), json!("L")),
        (vec![], json!([item(json!("L"))]), json!("L")),
        (vec![done(none.clone(), item(json!(null)))], json!([]), json!(null)),
    ] {
        let mut events = events;
        events.push(done(none.clone(), message("m", "hi")));
        events.push(completed(output));
        let outcome = decode(&events);
        assert_eq!(outcome.message.text(), "hi");
        let signature = outcome.message.content.iter().find_map(|block| match block {
            Block::Thinking { thinking, thinking_signature, .. } if thinking == "hm" => thinking_signature.clone(),
            _ => None,
        });
        let kept: Value = serde_json::from_str(&signature.expect("a signature")).expect("JSON");
        assert_eq!((&kept["id"], &kept["encrypted_content"]), (&json!("r"), &expected), "{events:?}");
    }
}

#[test]
fn ends() {
    let text = event("output_text.delta", json!({"delta":"hi"}));
    let whole = done(json!({}), message("m", "hi"));
    let ended = |kind: &str, response: Value| event(kind, json!({ "response": response }));
    let stopped = Ok(StopReason::Stop);
    for (events, expected) in [
        (vec![text.clone(), ended("completed", json!({}))], stopped),
        (vec![text.clone(), ended("done", json!({"status":"completed"}))], stopped),
        (vec![text.clone(), ended("completed", json!(null))], stopped),
        (
            vec![text.clone(), ended("incomplete", json!({"incomplete_details":{"reason":"max_output_tokens"}}))],
            Ok(StopReason::Length),
        ),
        (
            vec![text.clone(), ended("done", json!({"status":"incomplete","incomplete_details":null}))],
            Ok(StopReason::Length),
        ),
        (
            vec![text.clone(), ended("incomplete", json!({"incomplete_details":{"reason":"content_filter"}}))],
            Err((None, "Response incomplete: content_filter")),
        ),
        (vec![ended("failed", json!({"error":{"code":429,"message":"slow"}}))], Err((Some(429), "429: slow"))),
        (
            vec![ended("failed", json!({"error":{"type":"server_error","message":"oops"}}))],
            Err((Some(500), "server_error: oops")),
        ),
        (vec![ended("failed", json!({"error":"oops"}))], Err((None, "failed: oops"))),
        (vec![text.clone(), event("failed", json!({"error":{"message":"oops"}}))], Err((None, "failed: oops"))),
        (vec![ended("done", json!({"status":"cancelled"}))], Err((None, "failed: "))),
        // Whole items, and nothing behind them.
        (vec![whole.clone()], stopped),
        (vec![done(json!({}), call("i", "x", "{}"))], Ok(StopReason::ToolUse)),
        (vec![text.clone()], Err((None, "Stream ended before a terminal response event"))),
        (
            vec![whole.clone(), added(json!({}), call("i", "x", ""))],
            Err((None, "Stream ended before a terminal response event")),
        ),
        (
            vec![done(json!({}), json!({"type":"message","id":"m","phase":"commentary","content":"hi"}))],
            Err((None, "Stream ended before a terminal response event")),
        ),
        // Errors without the event's type.
        (vec![json!({"error":{"code":"server_error","message":"oops"}})], Err((Some(500), "500: oops (server_error)"))),
        (vec![json!({"detail":"oops"})], Err((None, "oops"))),
        (
            vec![json!({"type":"invalid_request_error","message":"oops"})],
            Err((Some(400), "400: oops (invalid_request_error)")),
        ),
    ] {
        let outcome = decode(&events);
        match expected {
            Ok(stop) => {
                assert_eq!((outcome.message.stop_reason, outcome.message.error_message), (stop, None), "{events:?}")
            }
            Err((status, text)) => {
                assert_eq!(outcome.message.error_message.as_deref(), Some(text), "{events:?}");
                assert_eq!(outcome.failure.and_then(|failure| failure.status), status, "{events:?}");
            }
        }
    }
    let done = decode_stream(&format!("data: {text}\n\ndata: [DONE]\n\n"));
    assert_eq!((brief(&done), done.message.stop_reason), (vec!["hi".to_string()], StopReason::Stop));
}

#[test]
fn whole_responses_and_events_that_are_passed_over() {
    let whole = json!({"id":"resp","object":"response","status":"completed","model":"x","output":[message("m", "hi")],
        "usage":{"input_tokens":3.0,"output_tokens":-1,"total_tokens":3}});
    for body in [format!("data: {whole}\n\n"), serde_json::to_string_pretty(&whole).expect("JSON")] {
        let outcome = decode_stream(&body);
        assert_eq!(brief(&outcome), ["hi"]);
        assert_eq!((outcome.message.response_id.as_deref(), outcome.message.usage.input), (Some("resp"), 3));
    }
    let by_name =
        "event: response.output_text.delta\ndata: {\"delta\":\"hi\"}\n\nevent: response.completed\ndata: {}\n\n";
    assert_eq!(brief(&decode_stream(by_name)), ["hi"]);
    let text = event("output_text.delta", json!({"delta":"hi"}));
    let skipped = [
        "event: response.in_progress\ndata: {no JSON}\n\n",
        "data: {\"type\":\"response.web_search_call.searching\",no JSON}\n\n",
        "event: keepalive\ndata: {\"type\":\"keepalive\",\"error\":7}\n\n",
        "data: {\"type\":\"response.output_text.annotation.added\",\"annotation\":[[]],\"item\":{\"type\":7}}\n\n",
        "data: {\"type\":\"response.output_item.added\",\"item\":null}\n\n",
        "data: {\"type\":\"response.output_item.done\",\"item\":{\"type\":[],\"type\":\"mcp_call\",\"content\":7}}\n\n",
        "data: {\"type\":\"response.created\",\"response\":[]}\n\n",
    ];
    for event in skipped {
        let end = completed(json!([]));
        let stream = format!("{event}data: {text}\n\n{event}data: {end}\n\n");
        assert_eq!(brief(&decode_stream(&stream)), ["hi"], "{event}");
    }
}
