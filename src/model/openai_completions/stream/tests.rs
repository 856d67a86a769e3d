use super::*;
use crate::model::model_info::{Api, Model};
use crate::model::request::Outcome;
use crate::model::test_support::{Recorder, decoded, test_model};
use serde_json::json;

fn model(base_url: &str, compat: Value) -> Model {
    Model {
        api: Api::OpenaiCompletions,
        base_url: base_url.to_string(),
        compat: serde_json::from_value(compat).expect("flags"),
        ..test_model()
    }
}

fn decode_with(compat: Value, stream: &str) -> (Outcome, Recorder) {
    let model = model("https://h/v1", compat);
    decoded(&model, CompletionsDecoder::new(&Compat::of(&model)), stream)
}

fn decode(chunks: &[Value]) -> (Outcome, Recorder) {
    decode_with(json!({}), &stream(chunks))
}

fn stream(chunks: &[Value]) -> String {
    chunks.iter().map(|c| format!("data: {c}\n\n")).collect::<String>() + "data: [DONE]\n\n"
}

fn delta(delta: Value) -> Value {
    json!({"id":"c1","model":"m-x","object":"chat.completion.chunk","choices":[{"index":0,"delta":delta,"finish_reason":null}]})
}

fn finish(reason: &str) -> Value {
    json!({"id":"c1","choices":[{"index":0,"delta":{},"finish_reason":reason}]})
}

fn calls(list: Value) -> Value {
    delta(json!({ "tool_calls": list }))
}

#[test]
fn a_whole_answer() {
    let (outcome, recorder) = decode(&[
        delta(json!({"role":"assistant","content":""})),
        delta(json!({"content":null,"reasoning_content":"h","reasoning":"h"})),
        delta(json!({"reasoning_content":"m"})),
        delta(json!({"content":"Hel\n"})),
        delta(json!({"content":"lo"})),
        calls(json!([{"index":0,"id":"t1","type":"function","function":{"name":"bash","arguments":""}}])),
        calls(json!([{"index":0,"function":{"arguments":"{\"a\":"}}])),
        calls(json!([{"index":1,"id":"t2","type":"function","function":{"name":"read","arguments":"{}"}}])),
        calls(json!([{"index":0,"function":{"arguments":"1}"}}])),
        finish("tool_calls"),
        json!({"id":"c1","choices":[],"usage":{"prompt_tokens":100,"completion_tokens":20,
            "prompt_tokens_details":{"cached_tokens":30,"cache_write_tokens":5},"completion_tokens_details":{"reasoning_tokens":7}}}),
    ]);
    assert_eq!(
        recorder.events(),
        [
            "thinking0",
            "thinking0+h",
            "thinking0+m",
            "text1",
            "text1+Hel\n",
            "text1+lo",
            "tool2 t1 bash",
            "tool2+{\"a\":",
            "tool3 t2 read",
            "tool2+1}",
            "tool3+{}",
            "thinking0.",
            "text1.",
            "tool2.",
            "tool3.",
        ]
    );
    assert_eq!(outcome.failure, None);
    let message = serde_json::to_value(&outcome.message).expect("JSON");
    assert_eq!(
        message["content"],
        json!([{"type":"thinking","thinking":"hm","thinkingSignature":"reasoning_content"},
            {"type":"text","text":"Hel\nlo"},
            {"type":"toolCall","id":"t1","name":"bash","arguments":{"a":1}},
            {"type":"toolCall","id":"t2","name":"read","arguments":{}}])
    );
    assert_eq!((&message["responseId"], &message["responseModel"]), (&json!("c1"), &json!("m-x")));
    assert_eq!(outcome.message.stop_reason, StopReason::ToolUse);
    let usage = outcome.message.usage;
    assert_eq!((usage.input, usage.output, usage.cache_read, usage.cache_write), (65, 20, 30, 5));
    assert_eq!((usage.reasoning, usage.total_tokens), (Some(7), 120));
}

/// Names, ids and arguments of the calls in these pieces.
fn called(pieces: &[Value]) -> Vec<String> {
    let mut chunks: Vec<Value> = pieces.iter().map(|p| calls(p.clone())).collect();
    chunks.push(finish("stop"));
    let (outcome, _) = decode(&chunks);
    assert_eq!(outcome.message.stop_reason, StopReason::ToolUse, "{pieces:?}");
    let call = |block: &Block| match block {
        Block::ToolCall { id, name, arguments, .. } => {
            Some(format!("{id} {name} {}", Value::Object(arguments.clone())))
        }
        _ => None,
    };
    outcome.message.content.iter().filter_map(call).collect()
}

#[test]
fn tool_calls_in_pieces() {
    let call = |id: &str, name: &str, arguments: &str| json!({"id":id,"function":{"name":name,"arguments":arguments}});
    let numbered = |number: u64, mut call: Value| {
        call["index"] = json!(number);
        call
    };
    for (pieces, expected) in [
        // Without numbers: by id, or the last one.
        (
            vec![json!([call("a", "f", "{")]), json!([call("b", "g", "{}")]), json!([call("a", "", "}")])],
            vec!["a f {}", "b g {}"],
        ),
        (vec![json!([call("a", "f", "{")]), json!([{"function":{"arguments":"}"}}])], vec!["a f {}"]),
        // Name and id may come late.
        (
            vec![json!([numbered(0, call("", "", "{\"x\""))]), json!([numbered(0, call("a", "f", ":1}"))])],
            vec!["a f {\"x\":1}"],
        ),
        // Two calls under one number.
        (
            vec![json!([numbered(0, call("a", "f", "{}"))]), json!([numbered(0, call("b", "g", "{}"))])],
            vec!["a f {}", "b g {}"],
        ),
        (vec![json!([numbered(0, call("a", "f", "{}")), numbered(1, call("b", "g", "{}"))])], vec!["a f {}", "b g {}"]),
    ] {
        assert_eq!(called(&pieces), expected, "{pieces:?}");
    }
    let nameless = called(&[json!([{"index":0,"function":{"name":"f","arguments":"{}"}}])]);
    assert!(nameless.len() == 1 && nameless[0].starts_with("call_") && nameless[0].ends_with(" f {}"), "{nameless:?}");
}

#[test]
fn endings() {
    let text = delta(json!({"content":"x"}));
    for (reason, expected) in [
        ("stop", Ok(StopReason::Stop)),
        ("end", Ok(StopReason::Stop)),
        ("length", Ok(StopReason::Length)),
        ("content_filter", Err("Provider finish_reason: content_filter")),
        ("", Ok(StopReason::Stop)),
    ] {
        let (outcome, _) = decode(&[text.clone(), finish(reason)]);
        match expected {
            Ok(stop) => {
                assert_eq!((outcome.message.stop_reason, outcome.message.error_message), (stop, None), "{reason}")
            }
            Err(error) => assert_eq!(outcome.message.error_message.as_deref(), Some(error), "{reason}"),
        }
        assert_eq!(outcome.message.content, [Block::text("x")]);
    }
    let without = format!("data: {text}\n\n");
    let silent = json!({"supportsFinishReason":false});
    assert_eq!(decode_with(silent.clone(), &without).0.message.stop_reason, StopReason::Stop);
    assert_eq!(decode_with(silent, "").0.message.stop_reason, StopReason::Error);
    assert_eq!(decode_with(json!({}), &without).0.message.stop_reason, StopReason::Error);
    let no_done = format!("data: {text}\n\ndata: {}\n\n", finish("stop"));
    assert_eq!(decode_with(json!({}), &no_done).0.message.stop_reason, StopReason::Stop);
}

#[test]
fn errors_in_the_stream() {
    let raw = json!({"error":{"code":429,"message":"slow","metadata":{"raw":"upstream says no"}}});
    let (outcome, _) = decode(&[raw]);
    let text = outcome.message.error_message.expect("an error");
    assert!(text.starts_with("429: slow") && text.contains("upstream says no"), "{text}");
    assert_eq!(outcome.failure.and_then(|f| f.status), Some(429));
    let (outcome, _) = decode(&[json!({"error":"overloaded"})]);
    assert_eq!(outcome.message.error_message.as_deref(), Some("overloaded"));
    let (outcome, _) = decode(&[json!({"error":null,"choices":[{"delta":{"content":"x"},"finish_reason":"stop"}]})]);
    assert_eq!(outcome.message.stop_reason, StopReason::Stop);
}

#[test]
fn usage_in_its_many_places() {
    for (usage, expected) in [
        (json!({"prompt_tokens":10,"completion_tokens":2,"prompt_cache_hit_tokens":4}), (6, 2, 4)),
        (json!({"prompt_tokens":10,"completion_tokens":2,"cached_tokens":3}), (7, 2, 3)),
        (json!({"prompt_tokens":10,"completion_tokens":null,"prompt_tokens_details":null}), (10, 0, 0)),
        (json!({"prompt_tokens":1,"completion_tokens":1,"cached_tokens":9}), (0, 1, 9)),
    ] {
        let mut last = finish("stop");
        last["choices"][0]["usage"] = usage.clone();
        let found = decode(&[last]).0.message.usage;
        assert_eq!((found.input, found.output, found.cache_read), expected, "{usage}");
    }
    for (byok, cost) in [(false, 0.25), (true, 0.0)] {
        let chunk =
            json!({"choices":null,"usage":{"prompt_tokens":1,"completion_tokens":1,"cost":0.25,"is_byok":byok}});
        let usage = decode(&[finish("stop"), chunk]).0.message.usage;
        assert_eq!((usage.cost.total, usage.cost.total_from_provider), (cost, !byok));
    }
}

#[test]
fn reasoning_details_are_kept() {
    let detail = |detail: Value| delta(json!({ "reasoning_details": [detail] }));
    let (outcome, _) = decode(&[
        detail(json!({"type":"reasoning.text","index":0,"text":"a","signature":null})),
        detail(json!({"type":"reasoning.text","index":0,"text":"b","signature":"s"})),
        detail(json!({"type":"reasoning.encrypted","index":1,"data":"e"})),
        delta(json!({"content":"x"})),
        finish("stop"),
    ]);
    let details = json!([{"type":"reasoning.text","index":0,"text":"ab","signature":"s"},
        {"type":"reasoning.encrypted","index":1,"data":"e"}]);
    let signature = outcome.message.content.iter().find_map(|block| match block {
        Block::Thinking { thinking_signature, .. } => thinking_signature.clone(),
        _ => None,
    });
    assert_eq!(signature.as_deref().and_then(|s| serde_json::from_str::<Value>(s).ok()), Some(details));
}
