use super::*;
use crate::model::request::Outcome;
use crate::model::test_support::{Recorder, decoded, test_model, test_request};
use crate::transcript::Block;
use serde_json::{Value, json};

fn decode(stream: &str) -> (Outcome, Recorder) {
    decoded(&test_model(), AnthropicDecoder::default(), stream)
}

/// A stream from events whose name is their data's type.
fn stream(events: &[Value]) -> String {
    events.iter().map(|e| format!("event: {}\ndata: {e}\n\n", e["type"].as_str().unwrap_or_default())).collect()
}

fn message_start() -> Value {
    json!({"type":"message_start","message":{"id":"msg_1","model":"m-2026","usage":{"input_tokens":10,"output_tokens":1,
        "cache_read_input_tokens":5,"cache_creation_input_tokens":4,"cache_creation":{"ephemeral_1h_input_tokens":4}}}})
}

fn start(index: u64, block: Value) -> Value {
    json!({"type":"content_block_start","index":index,"content_block":block})
}

fn delta(index: u64, delta: Value) -> Value {
    json!({"type":"content_block_delta","index":index,"delta":delta})
}

fn stop(index: u64) -> Value {
    json!({"type":"content_block_stop","index":index})
}

fn ending(reason: &str) -> [Value; 2] {
    [
        json!({"type":"message_delta","delta":{"stop_reason":reason},"usage":{"output_tokens":20,"input_tokens":null,
            "output_tokens_details":{"thinking_tokens":7}}}),
        json!({"type":"message_stop"}),
    ]
}

#[test]
fn a_whole_answer() {
    let mut events = vec![
        message_start(),
        json!({"type":"ping"}),
        start(0, json!({"type":"thinking","thinking":"","signature":""})),
        delta(0, json!({"type":"thinking_delta","thinking":"hm"})),
        delta(0, json!({"type":"signature_delta","signature":"si"})),
        delta(0, json!({"type":"signature_delta","signature":"g"})),
        stop(0),
        start(1, json!({"type":"redacted_thinking","data":"enc"})),
        stop(1),
        start(2, json!({"type":"text","text":""})),
        delta(2, json!({"type":"text_delta","text":"Hel\n"})),
        delta(2, json!({"type":"text_delta","text":"lo"})),
        stop(2),
        start(3, json!({"type":"server_tool_use","id":"x","name":"y"})),
        delta(3, json!({"type":"input_json_delta","partial_json":"{"})),
        stop(3),
        start(4, json!({"type":"tool_use","id":"t1","name":"bash","input":{}})),
        delta(4, json!({"type":"input_json_delta","partial_json":""})),
        delta(4, json!({"type":"input_json_delta","partial_json":"{\"command\":"})),
        delta(4, json!({"type":"input_json_delta","partial_json":"\"ls\"}"})),
        stop(4),
        start(5, json!({"type":"tool_use","id":"t2","name":"read","input":{"path":"x"}})),
        stop(5),
    ];
    events.extend(ending("tool_use"));
    let (outcome, recorder) = decode(&stream(&events));
    assert_eq!(
        recorder.events(),
        [
            "thinking0",
            "thinking0+hm",
            "thinking0.",
            "thinking1",
            "thinking1.",
            "text2",
            "text2+Hel\n",
            "text2+lo",
            "text2.",
            "tool3 t1 bash",
            "tool3+{\"command\":",
            "tool3+\"ls\"}",
            "tool3.",
            "tool4 t2 read",
            "tool4+{\"path\":\"x\"}",
            "tool4.",
        ]
    );
    assert_eq!(outcome.failure, None);
    let message = serde_json::to_value(&outcome.message).expect("JSON");
    assert_eq!(
        message["content"],
        json!([{"type":"thinking","thinking":"hm","thinkingSignature":"sig"},
            {"type":"thinking","thinking":"[Reasoning redacted]","thinkingSignature":"enc","redacted":true},
            {"type":"text","text":"Hel\nlo"},
            {"type":"toolCall","id":"t1","name":"bash","arguments":{"command":"ls"}},
            {"type":"toolCall","id":"t2","name":"read","arguments":{"path":"x"}}])
    );
    assert_eq!((&message["stopReason"], &message["responseId"]), (&json!("toolUse"), &json!("msg_1")));
    assert_eq!(message["responseModel"], "m-2026");
    let usage = outcome.message.usage;
    assert_eq!((usage.input, usage.output, usage.cache_read, usage.cache_write), (10, 20, 5, 4));
    assert_eq!((usage.cache_write_1h, usage.reasoning, usage.total_tokens), (Some(4), Some(7), 39));
}

#[test]
fn stop_reasons() {
    for (reason, expected) in [
        ("end_turn", Ok(StopReason::Stop)),
        ("pause_turn", Ok(StopReason::Stop)),
        ("stop_sequence", Ok(StopReason::Stop)),
        ("max_tokens", Ok(StopReason::Length)),
        ("tool_use", Ok(StopReason::Stop)),
        ("length", Ok(StopReason::Length)),
        ("weary", Ok(StopReason::Stop)),
        ("safety", Err("The provider withheld the answer (safety)")),
        ("refusal", Err("The model refused to answer (refusal)")),
        ("model_context_window_exceeded", Err("Unhandled stop reason: model_context_window_exceeded")),
    ] {
        let mut events = vec![message_start()];
        events.extend(ending(reason));
        let (outcome, _) = decode(&stream(&events));
        match expected {
            Ok(stop) => {
                assert_eq!((outcome.message.stop_reason, outcome.message.error_message), (stop, None), "{reason}");
                let raw = outcome.message.raw_stop_reason;
                assert_eq!(raw.as_deref(), Some(reason).filter(|reason| *reason == "weary"));
            }
            Err(text) => assert_eq!(outcome.message.error_message.as_deref(), Some(text), "{reason}"),
        }
    }
}

#[test]
fn broken_streams_are_errors_and_keep_what_came() {
    let text = [start(0, json!({"type":"text","text":""})), delta(0, json!({"type":"text_delta","text":"half"}))];
    let error = json!({"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}});
    for (events, expected) in [
        (vec![], "Stream ended before message_stop"),
        (vec![message_start(), text[0].clone(), text[1].clone()], "Stream ended before message_stop"),
        (vec![message_start(), text[0].clone(), text[1].clone(), error], "529: Overloaded (overloaded_error)"),
    ] {
        let (outcome, _) = decode(&stream(&events));
        assert_eq!(outcome.message.error_message.as_deref(), Some(expected));
        assert_eq!(outcome.message.stop_reason, StopReason::Error);
        assert_eq!(outcome.message.text(), if events.is_empty() { "" } else { "half" });
    }
    let (outcome, _) = decode("event: content_block_delta\ndata: {nonsense\n\n");
    assert!(outcome.message.error_message.is_some_and(|e| e.starts_with("Unusable event in the stream")));
}

#[test]
fn sloppy_streams_are_understood() {
    let unnamed: String = [message_start(), start(0, json!({"type":"text","text":"a"})), delta(0, json!({"text":"b"}))]
        .iter()
        .chain(&ending("end_turn"))
        .map(|e| format!("data: {e}\n\n"))
        .collect();
    assert_eq!(decode(&unnamed).0.message.text(), "ab");
    let raw = stream(&[message_start(), start(0, json!({"type":"text"}))])
        + "event: content_block_delta\ndata: {\"index\":0,\"delta\":{\"text\":\"a\tb\\ud800\"}}\n\n"
        + &stream(&ending("end_turn"));
    let (outcome, _) = decode(&raw);
    assert_eq!((outcome.message.text().as_str(), outcome.message.stop_reason), ("a\tb", StopReason::Stop));
}

/// The content in a short form: kind, text or arguments, and `!` with what is signed or wrong.
fn content(outcome: &Outcome) -> Vec<String> {
    let blocks = outcome.message.content.iter().map(|block| match block {
        Block::Text { text, .. } => format!("text {text}"),
        Block::Thinking { thinking, thinking_signature, redacted } => {
            let signature = thinking_signature.as_ref().map_or(String::new(), |signature| format!(" !{signature}"));
            format!("{} {thinking}{signature}", if *redacted { "redacted" } else { "thinking" })
        }
        Block::ToolCall { id, name, arguments, arguments_error, .. } => {
            let wrong = if arguments_error.is_some() { " !" } else { "" };
            format!("call {id} {name} {}{wrong}", Value::Object(arguments.clone()))
        }
        Block::Image { .. } => "image".to_string(),
    });
    blocks.collect()
}

#[test]
fn blocks_in_any_order_and_form() {
    let text = |index: Value, text: &str| json!({"type":"content_block_delta","index":index,"delta":{"type":"text_delta","text":text}});
    let json =
        |index: Value, json: Value| json!({"type":"content_block_delta","index":index,"delta":{"partial_json":json}});
    let thought =
        |index: Value, text: &str| json!({"type":"content_block_delta","index":index,"delta":{"thinking":text}});
    let sign =
        |index: Value, text: &str| json!({"type":"content_block_delta","index":index,"delta":{"signature":text}});
    let begin = |index: Value, block: Value| json!({"type":"content_block_start","index":index,"content_block":block});
    let end = |index: Value| json!({"type":"content_block_stop","index":index});
    let (words, thinking) = (json!({"type":"text","text":""}), json!({"type":"thinking"}));
    let tool = |id: &str| json!({"type":"tool_use","id":id,"name":"t"});
    let none = || json!(null);
    for (events, expected) in [
        // Nobody announced the blocks.
        (vec![text(json!(0), "a"), text(json!(0), "b"), end(json!(0))], &["text ab"][..]),
        (vec![thought(json!(0), "a"), text(json!(1), "b"), text(json!(1), "c")], &["thinking a", "text bc"]),
        (vec![json(json!(0), json!("{}")), text(json!(0), "b")], &["text b"]),
        // Without numbers, or with numbers as texts.
        (vec![begin(none(), words.clone()), text(none(), "a"), end(none())], &["text a"]),
        (vec![begin(json!("1"), words.clone()), text(json!(1), "a"), end(json!("1"))], &["text a"]),
        (vec![begin(json!(1.0), words.clone()), text(none(), "a"), text(json!([]), "b")], &["text ab"]),
        (
            vec![
                begin(none(), tool("a")),
                json(none(), json!("{\"x\":1}")),
                begin(none(), tool("b")),
                json(none(), json!("{\"y\":2}")),
                end(none()),
            ],
            &[r#"call a t {"x":1}"#, r#"call b t {"y":2}"#],
        ),
        // All under one number.
        (
            vec![
                begin(json!(0), thinking.clone()),
                thought(json!(0), "a"),
                begin(json!(0), tool("a")),
                sign(json!(0), "S"),
                json(json!(0), json!("{\"x\":1}")),
                end(json!(0)),
                end(json!(0)),
            ],
            &["thinking a !S", r#"call a t {"x":1}"#],
        ),
        // Text goes on behind the end of its block.
        (
            vec![begin(json!(0), words.clone()), text(json!(0), "a"), end(json!(0)), text(json!(0), "b")],
            &["text a", "text b"],
        ),
        // Signatures that come late, and those for nobody.
        (vec![begin(json!(0), thinking.clone()), end(json!(0)), sign(json!(0), "S")], &["thinking  !S"]),
        (
            vec![
                begin(json!(0), json!({"type":"thinking","thinking":"a","signature":"S"})),
                end(json!(0)),
                sign(json!(7), "X"),
            ],
            &["thinking a !S"],
        ),
        (vec![sign(json!(7), "X"), text(json!(0), "a")], &["text a"]),
        (
            vec![begin(json!(0), json!({"type":"redacted_thinking","data":"E"})), text(json!(1), "a")],
            &["redacted [Reasoning redacted] !E", "text a"],
        ),
        // Input in any form.
        (
            vec![begin(json!(0), json!({"type":"tool_use","id":7,"name":"t","input":"{\"x\":1}"})), end(json!(0))],
            &[r#"call call_7_0 t {"x":1}"#],
        ),
        (
            vec![
                begin(json!(0), json!({"type":"tool_use","id":"a","name":"t","input":{"x":0}})),
                json(json!(0), json!({"x":1})),
            ],
            &[r#"call a t {"x":1}"#],
        ),
        (
            vec![
                begin(json!(0), json!({"type":"tool_use","id":"a","name":"t","input":[]})),
                end(json!(0)),
                begin(json!(1), json!({"type":"tool_use","id":"a","input":null})),
                end(json!(1)),
            ],
            &["call a t {}", "call a_2  {}"],
        ),
        // What is not known.
        (
            vec![
                begin(json!(0), json!({"type":"fallback"})),
                text(json!(0), "x"),
                json(json!(0), json!("{")),
                end(json!(0)),
                begin(json!(1), json!("text")),
                json!({"type":"new","content_block":7}),
                text(json!(1), "a"),
            ],
            &["text a"],
        ),
        // Texts in parts, characters in halves.
        (
            vec![
                json!({"type":"content_block_delta","index":0,"delta":{"text":[{"text":"a"},"b"]}}),
                json!({"type":"content_block_delta","index":0,"delta":"x"}),
                text(json!(0), "c"),
            ],
            &["text abc"],
        ),
    ] {
        for named in [true, false] {
            let mut stream: String = [message_start()]
                .iter()
                .chain(&events)
                .chain(&ending("end_turn"))
                .map(|event| {
                    let name = if named {
                        format!("event: {}\n", event["type"].as_str().unwrap_or_default())
                    } else {
                        String::new()
                    };
                    format!("{name}data: {event}\n\n")
                })
                .collect();
            // What says nothing is not parsed, whatever is in it.
            stream.insert_str(0, "event: ping\ndata: {pong\n\nevent: news\ndata: {\n\n");
            let (outcome, _) = decode_at(&stream, 7);
            assert_eq!(content(&outcome), expected, "{stream}");
            assert_eq!(outcome.message.error_message, None, "{stream}");
            let calls = outcome.message.has_tool_calls();
            assert_eq!(
                outcome.message.stop_reason,
                if calls { StopReason::ToolUse } else { StopReason::Stop },
                "{stream}"
            );
        }
    }
}

/// Decodes with made-up ids that have this time in them.
fn decode_at(stream: &str, timestamp: i64) -> (Outcome, Recorder) {
    let model = test_model();
    let request = test_request(&model, &[]);
    let mut recorder = Recorder::default();
    let mut answer = crate::model::answer::Answer::new(&request, &mut recorder);
    answer.message.timestamp = timestamp;
    let mut events = crate::model::sse::Events::new(stream.as_bytes());
    let result = crate::model::reading::read(
        &mut events,
        &mut AnthropicDecoder::default(),
        &mut answer,
        &crate::cancel::Cancel::new(),
    );
    (answer.finish(&request, result.map(|(stop, _)| stop)), recorder)
}

#[test]
fn characters_in_halves() {
    let halves = [
        r#"{"text":"x\ud83d"}"#,
        r#"{"text":"\ude00y\ud83d"}"#,
        r#"{"text":""}"#,
        r#"{"text":"\ude01"}"#,
        r#"{"text":"\ude02z\ud83d"}"#,
    ];
    let deltas = halves.map(|delta| format!("data: {{\"type\":\"content_block_delta\",\"delta\":{delta}}}\n\n"));
    let (outcome, recorder) = decode(&(deltas.concat() + &stream(&ending("end_turn"))));
    assert_eq!(outcome.message.text(), "x😀y😁z");
    assert_eq!(recorder.events(), ["text0", "text0+x", "text0+😀", "text0+y", "text0+😁", "text0+z", "text0."]);
}

#[test]
fn endings_of_all_kinds() {
    let text = delta(0, json!({"text":"a"}));
    let [stopped, stop] = ending("end_turn");
    let closing = |delta: Value, usage: Value| json!({"type":"message_delta","delta":delta,"usage":usage});
    for (events, expected) in [
        (vec![text.clone(), stopped.clone()], Ok(StopReason::Stop)),
        (vec![text.clone(), stop.clone()], Ok(StopReason::Stop)),
        (vec![text.clone(), json!("[DONE]")], Ok(StopReason::Stop)),
        (vec![text.clone(), stopped.clone(), json!("[DONE]"), stop.clone()], Ok(StopReason::Stop)),
        (vec![text.clone()], Err("Stream ended before message_stop")),
        (vec![json!("[DONE]")], Err("Stream ended before message_stop")),
        (
            vec![text.clone(), closing(json!({"stop_reason":"max_tokens","stop_details":7}), json!(7))],
            Ok(StopReason::Length),
        ),
        (
            vec![text.clone(), json!({"type":"message_delta","stop_reason":"max_tokens","delta":null})],
            Ok(StopReason::Length),
        ),
        (vec![text.clone(), closing(json!({"stop_reason":null}), json!(null)), stop.clone()], Ok(StopReason::Stop)),
        (vec![closing(json!({"stop_reason":"refusal","stop_details":{"explanation":"No."}}), json!({}))], Err("No.")),
        (vec![closing(json!({"stop_reason":"refusal","stop_details":"No!"}), json!({}))], Err("No!")),
        (
            vec![closing(json!({"stop_reason":"refusal","stop_details":[]}), json!({}))],
            Err("The model refused to answer (refusal)"),
        ),
        (vec![text.clone(), json!({"error":{"type":"api_error","message":"m"}})], Err("500: m (api_error)")),
        (
            vec![text.clone(), json!({"type":"error","code":"overloaded","message":"Busy"})],
            Err("529: Busy (overloaded)"),
        ),
        (vec![text, json!({"type":"content_block_stop","error":""}), stop], Ok(StopReason::Stop)),
    ] {
        let stream: String = events.iter().map(|event| format!("data: {event}\n\n")).collect();
        let message = decode(&stream).0.message;
        match expected {
            Ok(stop) => assert_eq!((message.stop_reason, message.error_message), (stop, None), "{stream}"),
            Err(words) => assert_eq!(message.error_message.as_deref(), Some(words), "{stream}"),
        }
    }
}

#[test]
fn usage_in_any_form() {
    let counts = json!({"input_tokens":100.0,"output_tokens":-3,"cache_read_input_tokens":"5","cache_creation_input_tokens":{},
        "cache_creation":7,"output_tokens_details":{"thinking_tokens":2.9}});
    let start = json!({"type":"message_start","message":{"id":7,"model":null,"usage":counts}});
    let [stopped, _] = ending("end_turn");
    let usage = decode(&stream(&[start.clone(), stopped])).0.message.usage;
    assert_eq!((usage.input, usage.output, usage.cache_read, usage.reasoning), (100, 20, 5, Some(7)));
    let late = json!({"type":"message_delta","usage":{"input_tokens":null,"output_tokens":null},"delta":{"stop_reason":"end_turn"}});
    let usage = decode(&stream(&[start, late])).0.message.usage;
    assert_eq!((usage.input, usage.output, usage.cache_write, usage.reasoning), (100, 0, 0, Some(2)));
}

#[test]
fn a_message_that_comes_whole() {
    let message = json!({"id":"msg_1","type":"message","role":"assistant","model":"m-2026","content":[
        {"type":"thinking","thinking":"hm","signature":"S"},{"type":"text","text":"hello","citations":null},
        {"type":"tool_use","id":"a","name":"t","input":{"x":1}},{"type":"server_tool_use","id":"b","name":"u","input":{}},
        {"type":"tool_use","id":"c","name":"t","input":{}}],
        "stop_reason":"tool_use","stop_sequence":null,"usage":{"input_tokens":100,"output_tokens":20}});
    for body in [message.to_string(), format!("data: {message}\n\n"), format!("event: message\ndata: {message}\n\n")] {
        let (outcome, recorder) = decode(&body);
        assert_eq!(content(&outcome), ["thinking hm !S", "text hello", r#"call a t {"x":1}"#, "call c t {}"]);
        let message = outcome.message;
        assert_eq!((message.stop_reason, message.error_message), (StopReason::ToolUse, None));
        assert_eq!(
            (message.response_id.as_deref(), message.response_model.as_deref()),
            (Some("msg_1"), Some("m-2026"))
        );
        assert_eq!((message.usage.input, message.usage.output), (100, 20));
        assert_eq!(recorder.events().last(), Some(&"tool3."));
    }
}

#[test]
fn deltas_that_need_no_parser_are_read_as_the_parser_reads_them() {
    for (data, is_plain) in [
        (r#"{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"Hä \u0041"}}"#, false),
        (r#"{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"Hä {}"}}"#, true),
        (r#"{"type":"content_block_delta","index":7,"delta":{"type":"text_delta","text":"a"}    }"#, true),
        (r#"{"type":"content_block_delta","index":12,"delta":{"type":"text_delta","text":"a"}}"#, false),
        (r#"{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":""}}"#, false),
        (r#"{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"a"},"text":"b"}"#, false),
        (r#"{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"a","text":"b"}}"#, false),
        (r#"{"type":"content_block_delta","index":0,"delta":{"type":"thinking_delta","thinking":"a"}}"#, false),
        (r#"{"index":0,"type":"content_block_delta","delta":{"type":"text_delta","text":"a"}}"#, false),
        (r#"{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"a"#, false),
    ] {
        let plain = plain_delta(data.as_bytes());
        assert_eq!(plain.is_some(), is_plain, "{data}");
        let Some((number, text)) = plain else { continue };
        let parsed: DeltaEvent<'_> = serde_json::from_str(data).expect("it is JSON");
        assert_eq!((parsed.index.0, parsed.delta.0.expect("a delta").text.as_str()), (Some(number), text), "{data}");
    }
}
