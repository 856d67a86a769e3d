//! Streams as the many servers of this API send them.

use super::*;
use crate::model::model_info::{Api, Model};
use crate::model::request::Outcome;
use crate::model::test_support::{brief, decoded, test_model};
use serde_json::json;

fn decode(stream: &str) -> Outcome {
    let model = Model { api: Api::OpenaiCompletions, ..test_model() };
    decoded(&model, CompletionsDecoder::new(&Compat::of(&model)), stream).0
}

fn stream(chunks: &[Value]) -> String {
    chunks.iter().map(|chunk| format!("data: {chunk}\n\n")).collect()
}

fn chunk(delta: Value) -> Value {
    json!({"id":"c","object":"chat.completion.chunk","choices":[{"index":0,"delta":delta}]})
}

fn finish(reason: &str) -> Value {
    json!({"choices":[{"delta":{},"finish_reason":reason}]})
}

/// What deltas come to, as content of a session file.
fn content(deltas: &[Value]) -> Value {
    let chunks: Vec<_> = deltas.iter().cloned().map(chunk).chain([finish("stop")]).collect();
    let outcome = decode(&stream(&chunks));
    assert_eq!(outcome.message.error_message, None, "{deltas:?}");
    serde_json::to_value(&outcome.message.content).expect("JSON")
}

/// A piece of a call: a number below 0 stands for none, and empty texts are left out.
fn piece(number: i64, id: &str, name: &str, arguments: &str) -> Value {
    let mut call = json!({"function":{}});
    if number >= 0 {
        call["index"] = json!(number);
    }
    if !id.is_empty() {
        call["id"] = json!(id);
    }
    for (field, value) in [("name", name), ("arguments", arguments)] {
        if !value.is_empty() {
            call["function"][field] = json!(value);
        }
    }
    call
}

#[test]
fn pieces_of_calls_find_their_calls() {
    let (a, b) = (r#"{"c":"a"}"#, r#"{"c":"b"}"#);
    for (pieces, expected) in [
        // By numbers, interleaved.
        (
            vec![piece(0, "x", "f", "{"), piece(1, "y", "g", "{"), piece(0, "", "", "}"), piece(1, "", "", "}")],
            vec!["x f {}", "y g {}"],
        ),
        // Ollama and bridges of the Responses API number every call 0.
        (vec![piece(0, "x", "f", a), piece(0, "y", "f", b)], vec![r#"x f {"c":"a"}"#, r#"y f {"c":"b"}"#]),
        (
            vec![
                piece(0, "x", "f", ""),
                piece(0, "y", "f", ""),
                piece(0, "x", "", r#"{"c":"#),
                piece(0, "y", "", r#"{"c":"b"}"#),
                piece(0, "x", "", r#""a"}"#),
            ],
            vec![r#"x f {"c":"a"}"#, r#"y f {"c":"b"}"#],
        ),
        (
            vec![
                piece(0, "x", "f", r#"{"c":"#),
                piece(0, "", "", r#""a"}"#),
                piece(0, "y", "f", ""),
                piece(0, "", "", r#"{"c":"#),
                piece(0, "", "", r#""b"}"#),
            ],
            vec![r#"x f {"c":"a"}"#, r#"y f {"c":"b"}"#],
        ),
        (
            vec![
                piece(0, "x", "f", r#"{"c"#),
                piece(0, "y", "f", r#"{"c"#),
                piece(0, "x", "", r#"":"a"}"#),
                piece(0, "y", "", r#"":"b"}"#),
            ],
            vec![r#"x f {"c":"a"}"#, r#"y f {"c":"b"}"#],
        ),
        // The second call begins under the number of the first.
        (
            vec![
                piece(0, "x", "f", ""),
                piece(0, "", "", a),
                piece(0, "y", "f", ""),
                piece(1, "", "", &b[..4]),
                piece(1, "", "", &b[4..]),
            ],
            vec![r#"x f {"c":"a"}"#, r#"y f {"c":"b"}"#],
        ),
        // The id of another call comes before its name.
        (
            vec![piece(0, "x", "f", a), piece(0, "y", "", ""), piece(0, "", "f", b)],
            vec![r#"x f {"c":"a"}"#, r#"y f {"c":"b"}"#],
        ),
        // Without ids, and without numbers: a name behind whole arguments begins another call.
        (vec![piece(0, "", "f", a), piece(0, "", "f", a)], vec![r#"? f {"c":"a"}"#, r#"? f {"c":"a"}"#]),
        (vec![piece(-1, "", "f", a), piece(-1, "", "g", b)], vec![r#"? f {"c":"a"}"#, r#"? g {"c":"b"}"#]),
        (
            vec![piece(-1, "", "f", ""), piece(-1, "", "", a), piece(-1, "", "f", ""), piece(-1, "", "", b)],
            vec![r#"? f {"c":"a"}"#, r#"? f {"c":"b"}"#],
        ),
        // A name that is no continuation of one that has arguments.
        (vec![piece(-1, "", "f", ""), piece(-1, "", "g", b)], vec!["? f {}", r#"? g {"c":"b"}"#]),
        // So does an object behind a whole one.
        (vec![piece(0, "x", "f", a), piece(0, "", "", b)], vec![r#"x f {"c":"a"}"#, r#"? f {"c":"b"}"#]),
        (vec![piece(0, "x", "f", &format!("{a}{b}"))], vec![r#"x f {"c":"a"}"#, r#"? f {"c":"b"}"#]),
        (
            vec![piece(0, "x", "f", &format!("{a}\n{b}\n{{\"c\":")), piece(0, "", "", "1}")],
            vec![r#"x f {"c":"a"}"#, r#"? f {"c":"b"}"#, r#"? f {"c":1}"#],
        ),
        // But not the same one again: some servers send it whole at the end.
        (vec![piece(0, "x", "f", &a[..4]), piece(0, "", "", &a[4..]), piece(0, "", "", a)], vec![r#"x f {"c":"a"}"#]),
        (vec![piece(0, "x", "f", a), piece(0, "x", "f", a)], vec![r#"x f {"c":"a"}"#]),
        (vec![piece(0, "x", "f", &format!("{a}{a}"))], vec![r#"x f {"c":"a"}"#]),
        // An object inside an object begins nothing.
        (vec![piece(0, "x", "f", r#"{"c":"#), piece(0, "", "", r#"{"d":1}}"#)], vec![r#"x f {"c":{"d":1}}"#]),
        (
            vec![piece(0, "x", "f", r#"{"c":[{},"#), piece(0, "", "", r#"{"d":"}{"}]}"#)],
            vec![r#"x f {"c":[{},{"d":"}{"}]}"#],
        ),
        (vec![piece(0, "x", "f", r#"{"c":"\""#), piece(0, "", "", r#"{\"}"}"#)], vec![r#"x f {"c":"\"{\"}"}"#]),
        // Id, name, or both in every piece; one that is new each time.
        (vec![piece(0, "x", "f", r#"{"c":"#), piece(0, "x", "f", "1}")], vec![r#"x f {"c":1}"#]),
        (vec![piece(-1, "x", "f", r#"{"c":"#), piece(-1, "x", "f", "1}")], vec![r#"x f {"c":1}"#]),
        (vec![piece(0, "", "f", r#"{"c":"#), piece(0, "", "f", "1}")], vec![r#"? f {"c":1}"#]),
        (
            vec![piece(0, "x", "f", r#"{"c":"#), piece(0, "y", "f", "1"), piece(0, "z", "f", "}")],
            vec![r#"x f {"c":1}"#],
        ),
        (
            vec![piece(0, "x", "f", ""), piece(0, "y", "f", r#"{"c":"#), piece(0, "z", "f", "1}")],
            vec![r#"x f {"c":1}"#],
        ),
        (vec![piece(0, "x", "f", r#"{"c":"#), piece(0, "y", "", "1}")], vec![r#"x f {"c":1}"#]),
        (vec![piece(-1, "x", "f", r#"{"c":"#), piece(-1, "y", "f", "1}")], vec![r#"x f {"c":1}"#]),
        // One call, its pieces numbered.
        (vec![piece(0, "x", "f", r#"{"c":"#), piece(1, "", "", "1"), piece(2, "", "", "}")], vec![r#"x f {"c":1}"#]),
        (vec![piece(0, "x", "f", r#"{"c":"#), piece(1, "x", "f", "1}")], vec![r#"x f {"c":1}"#]),
        // The same id twice: by numbers and by arguments, two calls.
        (vec![piece(0, "x", "f", a), piece(1, "x", "f", a)], vec![r#"x f {"c":"a"}"#, r#"x_2 f {"c":"a"}"#]),
        (vec![piece(0, "x", "f", a), piece(0, "x", "f", b)], vec![r#"x f {"c":"a"}"#, r#"x_2 f {"c":"b"}"#]),
        (
            vec![piece(0, "x", "f", ""), piece(1, "x", "g", ""), piece(0, "", "", a), piece(1, "", "", b)],
            vec![r#"x f {"c":"a"}"#, r#"x_2 g {"c":"b"}"#],
        ),
        // Name, id and number come late.
        (vec![piece(0, "x", "", ""), piece(0, "", "f", ""), piece(0, "", "", a)], vec![r#"x f {"c":"a"}"#]),
        (vec![piece(0, "", "f", a), piece(0, "x", "", "")], vec![r#"x f {"c":"a"}"#]),
        (vec![piece(0, "", "", a), piece(0, "x", "f", "")], vec![r#"x f {"c":"a"}"#]),
        (vec![piece(-1, "x", "f", ""), piece(0, "", "", a)], vec![r#"x f {"c":"a"}"#]),
        // Gateways to Anthropic send an empty object first.
        (
            vec![piece(0, "x", "f", "{}"), piece(0, "", "", &a[..4]), piece(0, "", "", &a[4..])],
            vec![r#"x f {"c":"a"}"#],
        ),
        (vec![piece(0, "x", "f", &format!("{{}}{a}"))], vec![r#"x f {"c":"a"}"#]),
        (vec![piece(0, "x", "f", "{}")], vec!["x f {}"]),
        (vec![piece(0, "x", "f", "{}"), piece(1, "y", "g", "{}")], vec!["x f {}", "y g {}"]),
        // Each piece holds all so far.
        (
            vec![piece(0, "x", "f", r#"{"c":"#), piece(0, "x", "f", r#"{"c":1"#), piece(0, "x", "f", r#"{"c":1}"#)],
            vec![r#"x f {"c":1}"#],
        ),
        (vec![piece(0, "x", "f", "{"), piece(0, "", "", a)], vec![r#"x f {"c":"a"}"#]),
        // What has neither a name nor arguments is no call, and without arguments there are none.
        (vec![piece(0, "x", "f", a), piece(0, "y", "", "")], vec![r#"x f {"c":"a"}"#]),
        (vec![piece(0, "x", "", a)], vec![r#"x  {"c":"a"}"#]),
        (vec![piece(0, "x", "f", "")], vec!["x f {}"]),
        (vec![piece(0, "x", "f", &format!("{a}}}"))], vec!["x f unusable"]),
    ] {
        for together in [false, true] {
            let mut chunks: Vec<_> = match together {
                true => vec![chunk(json!({ "tool_calls": pieces }))],
                false => pieces.iter().map(|piece| chunk(json!({"tool_calls":[piece]}))).collect(),
            };
            chunks.push(finish("tool_calls"));
            assert_eq!(brief(&decode(&stream(&chunks))), expected, "{pieces:?}");
        }
    }
}

#[test]
fn calls_in_other_forms() {
    let called = r#"? f {"c":1}"#;
    for (delta, expected) in [
        (json!({"tool_calls":[{"index":"0","id":7,"function":{"name":"f","arguments":{"c":1}}}]}), r#"7 f {"c":1}"#),
        (json!({"tool_calls":{"id":"x","function":{"name":"f","arguments":"{\"c\":1}"}}}), r#"x f {"c":1}"#),
        (json!({"tool_calls":[null,{"index":0.0,"id":null,"function":{"name":"f","arguments":{"c":1}}}]}), called),
        (json!({"function_call":{"name":"f","arguments":"{\"c\":1}"}}), called),
        (
            json!({"tool_calls":[{"id":"x","function":{"name":"f","arguments":"{\"c\":1}"}}],
                "function_call":{"name":"f","arguments":"{\"c\":1}"}}),
            r#"x f {"c":1}"#,
        ),
        (json!({"tool_calls":[{"id":"x","function":{"name":"f","arguments":null}}]}), "x f {}"),
    ] {
        assert_eq!(brief(&decode(&stream(&[chunk(delta.clone()), finish("function_call")]))), [expected], "{delta}");
    }
    let legacy = [
        json!({"function_call":{"name":"f","arguments":""}}),
        json!({"function_call":{"arguments":"{\"c\":"}}),
        json!({"function_call":{"arguments":"1}"}}),
    ];
    assert_eq!(content(&legacy)[0]["arguments"], json!({"c":1}));
}

#[test]
fn content_and_thoughts_in_other_forms() {
    let text = |deltas: &[Value]| {
        let chunks: Vec<_> = deltas.iter().cloned().map(chunk).chain([finish("stop")]).collect();
        brief(&decode(&stream(&chunks)))
    };
    for (deltas, expected) in [
        (vec![json!({"content":[{"type":"text","text":"a"}]}), json!({"content":"b"})], vec!["ab"]),
        (vec![json!({"content":{"type":"text","text":"a"}})], vec!["a"]),
        (
            vec![
                json!({"content":[{"type":"thinking","thinking":[{"type":"text","text":"h"}]}]}),
                json!({"content":[{"type":"thinking","thinking":[{"type":"text","text":"m"}]},{"type":"text","text":"a"}]}),
            ],
            vec!["(hm)", "a"],
        ),
        (vec![json!({"content":"","refusal":"no"})], vec!["no"]),
        (vec![json!({"content":5,"role":7,"reasoning":{},"tool_calls":"x"}), json!({"content":"a"})], vec!["a"]),
        (vec![json!({"reasoning_content":"hm","reasoning":"hm","reasoning_text":"hm"})], vec!["(hm)"]),
        (vec![json!({"reasoning_content":"","reasoning":"hm"})], vec!["(hm)"]),
        (vec![json!({"reasoning_content":[{"type":"text","text":"hm"}]})], vec!["(hm)"]),
        (vec![json!({"reasoning_details":[{"type":"reasoning.summary","summary":"hm"}]})], vec!["(hm)"]),
        (vec![json!({"reasoning":"hm","reasoning_details":[{"type":"reasoning.text","text":"hm"}]})], vec!["(hm)"]),
        // Gemini's endpoint of this API.
        (
            vec![
                json!({"content":"<thought>h","extra_content":{"google":{"thought":true}}}),
                json!({"content":"m","extra_content":{"google":{"thought":true}}}),
                json!({"content":"</thought>a"}),
                json!({"content":"</thought>"}),
            ],
            vec!["(hm)", "a</thought>"],
        ),
        (
            vec![
                json!({"content":"<thought>hm</thought>a","extra_content":{"google":{"thought":true}}}),
                json!({"content":"b"}),
            ],
            vec!["(hm)", "ab"],
        ),
        (
            vec![json!({"content":"<thought>hm","extra_content":{"google":{"thought":true}}}), json!({"content":"a"})],
            vec!["(hm)", "a"],
        ),
        (vec![json!({"content":"<thought>a"})], vec!["<thought>a"]),
    ] {
        assert_eq!(text(&deltas), expected, "{deltas:?}");
    }
    assert_eq!(
        content(&[json!({"content":[{"type":"thinking","thinking":"hm"}]})]),
        json!([{"type":"thinking","thinking":"hm"}])
    );
}

#[test]
fn whole_messages() {
    let whole = |message: Value| json!({"id":"c","object":"chat.completion","choices":[{"index":0,"message":message}]});
    let message = json!({"role":"assistant","content":"ab","reasoning_content":"hm",
        "tool_calls":[{"id":"x","type":"function","function":{"name":"f","arguments":"{\"c\":1}"}},
            {"id":"y","type":"function","function":{"name":"f","arguments":{"c":2}}}]});
    let all = ["(hm)", "ab", r#"x f {"c":1}"#, r#"y f {"c":2}"#];
    // Alone, in a stream or as the body, on one line or on many.
    assert_eq!(brief(&decode(&stream(&[whole(message.clone())]))), all);
    assert_eq!(brief(&decode(&whole(message.clone()).to_string())), all);
    assert_eq!(brief(&decode(&serde_json::to_string_pretty(&whole(message.clone())).expect("JSON"))), all);
    // Behind its pieces, as far as they came.
    let call =
        |number: i64, id: &str, arguments: &str| chunk(json!({"tool_calls":[piece(number, id, "f", arguments)]}));
    for pieces in [
        vec![],
        vec![chunk(json!({"reasoning_content":"hm"})), chunk(json!({"content":"a"}))],
        vec![
            chunk(json!({"reasoning_content":"h"})),
            chunk(json!({"content":"ab"})),
            call(0, "x", "{\"c\""),
            call(1, "y", "{\"c\":2}"),
        ],
    ] {
        let mut chunks = pieces.clone();
        chunks.push(json!({"object":"chat.completion.chunk","choices":[{"message":message,"finish_reason":"stop"}]}));
        assert_eq!(brief(&decode(&stream(&chunks))), all, "{pieces:?}");
    }
    // Text and calls in several choices.
    let split = json!({"object":"chat.completion","choices":[{"message":{"content":"a"},"finish_reason":"tool_calls"},
        {"message":{"content":null,"tool_calls":[{"function":{"id":"x","name":"f","arguments":"{}"}}]},"finish_reason":"tool_calls"}]});
    assert_eq!(brief(&decode(&split.to_string())), ["a", "x f {}"]);
    // One that grows, and pieces under its name.
    for texts in [["a", "ab", "abc"], ["a", "b", "c"]] {
        let messages = texts.map(|text| json!({"choices":[{"message":{"content":text}}]}));
        assert_eq!(brief(&decode(&stream(&messages))), ["abc"]);
    }
    assert_eq!(
        brief(&decode(&stream(&[
            json!({"choices":{"text":"a"}}),
            json!({"choices":[null,{"text":"b","finish_reason":"stop"}]})
        ]))),
        ["ab"]
    );
}

#[test]
fn details_are_put_together() {
    let details = |pieces: &[Value]| {
        let deltas: Vec<_> = pieces.iter().map(|piece| json!({"reasoning_details":[piece]})).collect();
        let content = content(&deltas);
        let signature = content[0]["thinkingSignature"].as_str().expect("a signature").to_string();
        serde_json::from_str::<Value>(&signature).expect("JSON")
    };
    let text = |fields: Value| {
        let mut detail = json!({"type":"reasoning.text"});
        detail.as_object_mut().expect("an object").extend(fields.as_object().expect("an object").clone());
        detail
    };
    let encrypted = |id: &str, data: &str| json!({"type":"reasoning.encrypted","id":id,"index":0,"data":data});
    for (pieces, expected) in [
        (
            vec![
                text(json!({"index":0,"text":"a","signature":null})),
                text(json!({"index":0,"text":"b","format":"anthropic-claude-v1"})),
                text(json!({"index":0,"signature":"S"})),
            ],
            vec![text(json!({"index":0,"text":"ab","signature":"S","format":"anthropic-claude-v1"}))],
        ),
        // Pieces of several, and kinds of one number.
        (
            vec![
                text(json!({"index":0,"text":"a"})),
                text(json!({"index":1,"text":"b"})),
                text(json!({"index":0,"signature":"S"})),
                json!({"type":"reasoning.summary","index":0,"summary":"s"}),
                json!({"type":"reasoning.summary","index":0,"summary":"t"}),
            ],
            vec![
                text(json!({"index":0,"text":"a","signature":"S"})),
                text(json!({"index":1,"text":"b"})),
                json!({"type":"reasoning.summary","index":0,"summary":"st"}),
            ],
        ),
        // Without numbers, a signature ends one.
        (
            vec![
                text(json!({"text":"a"})),
                text(json!({"text":"b"})),
                text(json!({"signature":"S"})),
                text(json!({"text":"c"})),
            ],
            vec![text(json!({"text":"ab","signature":"S"})), text(json!({"text":"c"}))],
        ),
        // Those of several calls, and one that is sent twice.
        (
            vec![encrypted("x", "QQ=="), encrypted("y", "Qg=="), encrypted("x", "QQ==")],
            vec![encrypted("x", "QQ=="), encrypted("y", "Qg==")],
        ),
    ] {
        assert_eq!(details(&pieces), Value::Array(expected), "{pieces:?}");
    }
}

#[test]
fn extra_content_is_kept() {
    let signed = |signature: &str| json!({"google":{"thought_signature":signature}});
    let call = |id: &str, extra: Value| json!({"id":id,"function":{"name":"f","arguments":"{}"},"extra_content":extra});
    let kept = |deltas: &[Value]| -> Vec<Value> {
        let content = content(deltas);
        let signature = |block: &Value| {
            let signature = block.get("thoughtSignature").or_else(|| block.get("textSignature"))?;
            serde_json::from_str(signature.as_str()?).ok()
        };
        content.as_array().expect("a list").iter().map(|block| signature(block).unwrap_or_default()).collect()
    };
    for (deltas, expected) in [
        (vec![json!({"tool_calls":[call("x", signed("S")), call("y", json!(null))]})], vec![signed("S"), json!(null)]),
        // In a piece of its own, and beside the calls.
        (
            vec![
                json!({"tool_calls":[call("x", json!(null))]}),
                json!({"tool_calls":[{"id":"x","extra_content":signed("S")}]}),
            ],
            vec![signed("S")],
        ),
        (vec![json!({"tool_calls":[call("x", json!({}))],"extra_content":signed("S")})], vec![signed("S")]),
        (vec![json!({"tool_calls":[call("x", signed("A"))],"extra_content":signed("B")})], vec![signed("A")]),
        // With a text.
        (vec![json!({"content":"a"}), json!({"content":"","extra_content":signed("S")})], vec![signed("S")]),
        (
            vec![
                json!({"content":"<thought>a</thought>b","extra_content":{"google":{"thought":true,"thought_signature":"S"}}}),
            ],
            vec![json!(null), signed("S")],
        ),
        (vec![json!({"content":"a","extra_content":"S"})], vec![json!(null)]),
    ] {
        assert_eq!(kept(&deltas), expected, "{deltas:?}");
    }
}

#[test]
fn reasons_to_stop() {
    for (reason, expected, raw) in [
        ("stop", Ok(StopReason::Stop), None),
        ("eos", Ok(StopReason::Stop), Some("eos")),
        ("COMPLETE", Ok(StopReason::Stop), Some("COMPLETE")),
        ("STOP", Ok(StopReason::Stop), None),
        ("length", Ok(StopReason::Length), None),
        ("MAX_TOKENS", Ok(StopReason::Length), None),
        ("model_length", Ok(StopReason::Length), None),
        ("max_output_tokens", Ok(StopReason::Length), None),
        ("model_context_window_exceeded", Ok(StopReason::Length), None),
        ("content_filter", Err(None), None),
        ("sensitive", Err(None), None),
        ("content_filtered_by_policy", Err(None), None),
        ("max_new_tokens", Ok(StopReason::Length), None),
        ("model_error", Err(Some(500)), None),
        ("SAFETY", Err(None), None),
        ("insufficient_system_resource", Err(Some(503)), None),
        ("network_error", Err(Some(500)), None),
        ("error", Err(Some(500)), None),
        ("abort", Err(Some(500)), None),
    ] {
        let outcome = decode(&stream(&[chunk(json!({"content":"a"})), finish(reason)]));
        let message = &outcome.message;
        match expected {
            Ok(stop) => assert_eq!((message.stop_reason, &message.error_message), (stop, &None), "{reason}"),
            Err(status) => {
                assert_eq!(message.error_message, Some(format!("Provider finish_reason: {reason}")));
                assert_eq!(outcome.failure.and_then(|failure| failure.status), status, "{reason}");
            }
        }
        assert_eq!(message.raw_stop_reason.as_deref(), raw, "{reason}");
    }
    let call = chunk(json!({"tool_calls":[piece(0, "x", "f", "{}")]}));
    for (end, expected) in [
        ("data: [DONE]\n\n", StopReason::ToolUse),
        ("data: \"[DONE]\"\n\n", StopReason::ToolUse),
        ("", StopReason::Error),
    ] {
        assert_eq!(decode(&(stream(std::slice::from_ref(&call)) + end)).message.stop_reason, expected, "{end:?}");
    }
}

#[test]
fn chunks_in_other_forms() {
    let text = |body: &str| brief(&decode(&format!("{body}data: [DONE]\n\n")));
    for body in [
        "data: {\"choices\":[{\"delta\":{\"content\":\"b\",\"content\":\"a\"},\"index\":0,\"index\":0}],\"id\":1,\"id\":\"x\"}\n\n",
        "data: {\"choices\":{\"delta\":{\"content\":\"a\"}}}\n\n",
        "data: {\"id\":{},\"model\":[],\"object\":7,\"choices\":[{\"delta\":{\"content\":\"a\"},\"finish_reason\":{\"type\":\"stop\"}}],\"usage\":\"x\"}\n\n",
        "data: null\n\ndata: [1,null]\n\ndata:\n\ndata: 5\n\ndata: {}\n\ndata: {\"choices\":[]}\n\ndata: {\"choices\":null}\n\ndata: {\"choices\":[{\"delta\":null}]}\n\ndata: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n",
        "event: ping\ndata: {\"type\":\"ping\"}\n\ndata: {\"choices\":[{\"delta\":{\"content\":\"a\"},\"error\":null}],\"error\":{}}\n\n",
    ] {
        assert_eq!(text(body), ["a"], "{body}");
    }
}

#[test]
fn errors_in_other_forms() {
    for (event, status) in [
        (json!({"object":"error","message":"no","type":"BadRequestError","code":400}), Some(400)),
        (json!({"message":"no","type":"invalid_request_error"}), Some(400)),
        (json!({"detail":"no"}), None),
        (json!({"error":"no"}), None),
        (json!({"error":{"message":"no","type":"overloaded_error"}}), Some(529)),
        (json!({"choices":[{"delta":{},"finish_reason":"error","error":{"code":502,"message":"no"}}]}), Some(502)),
        (json!({"choices":null,"base_resp":{"status_code":1008,"status_msg":"no"}}), None),
        (json!({"choices":[],"x_groq":{"error":"no"}}), None),
    ] {
        let outcome = decode(&stream(&[chunk(json!({"content":"a"})), event.clone()]));
        let text = outcome.message.error_message.unwrap_or_default();
        let words = status.map_or("no".to_string(), |status| format!("{status}: no"));
        assert!(text.starts_with(&words), "{event}: {text}");
        assert_eq!(outcome.failure.and_then(|failure| failure.status), status, "{event}");
    }
}

#[test]
fn counts_in_other_forms() {
    let counted = |usages: &[Value]| {
        let mut chunks = vec![chunk(json!({"content":"a"}))];
        chunks.extend(usages.iter().map(|usage| json!({"choices":[],"usage":usage})));
        chunks.push(finish("stop"));
        let usage = decode(&stream(&chunks)).message.usage;
        (usage.input, usage.output, usage.cache_read, usage.reasoning)
    };
    for (usages, expected) in [
        (vec![json!({"prompt_tokens":10.0,"completion_tokens":"2"})], (10, 2, 0, None)),
        (vec![json!({"prompt_tokens":10,"completion_tokens":-2})], (10, 0, 0, None)),
        (vec![json!({"prompt_tokens":1e300,"completion_tokens":2})], (0, 2, 0, None)),
        (
            vec![json!({"input_tokens":10,"output_tokens":2,"input_tokens_details":{"cached_tokens":4}})],
            (6, 2, 4, None),
        ),
        (
            vec![
                json!({"prompt_tokens":10,"completion_tokens":2,"input_tokens":0,"output_tokens":0,"input_tokens_details":null}),
            ],
            (10, 2, 0, None),
        ),
        // In parts, and taken back by nothing.
        (
            vec![
                json!({"prompt_tokens":10}),
                json!({"completion_tokens":1}),
                json!({"completion_tokens":2}),
                json!({}),
                json!(null),
            ],
            (10, 2, 0, None),
        ),
        (
            vec![
                json!({"prompt_tokens":10,"completion_tokens":2,"prompt_tokens_details":{"cached_tokens":4}}),
                json!({"prompt_tokens":0,"completion_tokens":0,"prompt_tokens_details":{"cached_tokens":0}}),
            ],
            (6, 2, 4, None),
        ),
        (vec![json!({"prompt_tokens":1,"completion_tokens":9,"reasoning_tokens":7})], (1, 9, 0, Some(7))),
        (
            vec![json!({"prompt_tokens":1,"completion_tokens":9,"completion_tokens_details":{"reasoning_tokens":0}})],
            (1, 9, 0, Some(0)),
        ),
    ] {
        assert_eq!(counted(&usages), expected, "{usages:?}");
    }
    let groq = json!({"choices":[],"x_groq":{"id":"r","usage":{"prompt_tokens":3,"completion_tokens":4}}});
    let usage = decode(&stream(&[chunk(json!({"content":"a"})), finish("stop"), groq])).message.usage;
    assert_eq!((usage.input, usage.output), (3, 4));
}
