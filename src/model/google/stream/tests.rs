use super::*;
use crate::model::model_info::{Api, Model};
use crate::model::request::Outcome;
use crate::model::test_support::{Recorder, decoded, test_model};
use crate::transcript::Block;
use serde_json::{Value, json};

fn model() -> Model {
    Model { api: Api::GoogleGenerativeAi, id: "g".to_string(), ..test_model() }
}

fn decode(chunks: &[Value]) -> (Outcome, Recorder) {
    let stream: String = chunks.iter().map(|c| format!("data: {c}\r\n\r\n")).collect();
    decoded(&model(), GoogleDecoder::default(), &stream)
}

fn parts(parts: Value) -> Value {
    json!({"candidates":[{"content":{"role":"model","parts":parts}}],"responseId":"r1","modelVersion":"g-2026"})
}

fn finish(reason: &str) -> Value {
    json!({"candidates":[{"finishReason":reason}],"usageMetadata":{"promptTokenCount":100,"candidatesTokenCount":20,
        "thoughtsTokenCount":7,"cachedContentTokenCount":30,"totalTokenCount":127}})
}

#[test]
fn a_whole_answer() {
    let (outcome, recorder) = decode(&[
        parts(json!([{"text":"h","thought":true}])),
        parts(json!([{"text":"m","thought":true,"thoughtSignature":"AAAA"}])),
        parts(json!([{"text":"Hel\n"}, {"text":"lo"}])),
        parts(json!([{"text":"","thoughtSignature":"BBBB"}])),
        parts(
            json!([{"functionCall":{"name":"bash","args":{"a":1}},"thoughtSignature":"CCCC"}, {"functionCall":{"name":"bash"}}]),
        ),
        parts(
            json!([{"functionCall":{"id":"x","name":"read","args":{}}}, {"functionCall":{"id":"x","name":"read","args":{}}}]),
        ),
        finish("STOP"),
    ]);
    let message = &outcome.message;
    let ids: Vec<&str> = message
        .content
        .iter()
        .filter_map(|block| match block {
            Block::ToolCall { id, .. } => Some(id.as_str()),
            _ => None,
        })
        .collect();
    let at = message.timestamp;
    assert_eq!(ids, [format!("call_{at:x}_2").as_str(), &format!("call_{at:x}_3"), "x", "x_4"]);
    assert_eq!(
        recorder.events()[..9],
        [
            "thinking0",
            "thinking0+h",
            "thinking0+m",
            "thinking0.",
            "text1",
            "text1+Hel\n",
            "text1+lo",
            "text1.",
            &format!("tool2 {} bash", ids[0])
        ]
    );
    assert_eq!(recorder.events()[9..11], ["tool2+{\"a\":1}", "tool2."]);
    let content = serde_json::to_value(&message.content).expect("JSON");
    assert_eq!(content[0], json!({"type":"thinking","thinking":"hm","thinkingSignature":"AAAA"}));
    assert_eq!(content[1], json!({"type":"text","text":"Hel\nlo","textSignature":"BBBB"}));
    assert_eq!((&content[2]["arguments"], &content[2]["thoughtSignature"]), (&json!({"a":1}), &json!("CCCC")));
    assert_eq!((message.response_id.as_deref(), message.response_model.as_deref()), (Some("r1"), Some("g-2026")));
    assert_eq!((message.stop_reason, message.error_message.as_deref()), (StopReason::ToolUse, None));
    let usage = message.usage;
    assert_eq!(
        (usage.input, usage.output, usage.cache_read, usage.reasoning, usage.total_tokens),
        (70, 27, 30, Some(7), 127)
    );
}

#[test]
fn endings() {
    let text = parts(json!([{"text":"x"}]));
    for (chunks, expected) in [
        (vec![text.clone(), finish("STOP")], Ok(StopReason::Stop)),
        (vec![text.clone(), finish("MAX_TOKENS")], Ok(StopReason::Length)),
        (vec![text.clone(), json!({"candidates":[{"finishReason":"STOP"}]})], Ok(StopReason::Stop)),
        (vec![text.clone(), finish("SAFETY")], Err("Provider stopped with: SAFETY")),
        (
            vec![json!({"promptFeedback":{"blockReason":"PROHIBITED_CONTENT"}})],
            Err("Provider stopped with: PROHIBITED_CONTENT"),
        ),
        (
            vec![
                json!({"promptFeedback":{"blockReason":"OTHER","blockReasonMessage":"why"}}),
                text.clone(),
                finish("STOP"),
            ],
            Err("Provider stopped with: OTHER: why"),
        ),
        (vec![text.clone()], Err("Stream ended without a finish reason")),
        (vec![text.clone(), json!("[DONE]")], Ok(StopReason::Stop)),
        (vec![json!("[DONE]")], Err("Stream ended without a finish reason")),
        (vec![text.clone(), finish("stop")], Ok(StopReason::Stop)),
        (vec![text.clone(), finish("CONTINUATION")], Ok(StopReason::Length)),
        (vec![text.clone(), finish("length")], Ok(StopReason::Length)),
        (vec![text.clone(), finish("WEARY")], Ok(StopReason::Stop)),
        (vec![finish("STOP"), text.clone(), finish("STOP"), text.clone()], Ok(StopReason::Stop)),
        (vec![finish("STOP"), parts(json!([{"functionCall":{"name":"t"}}]))], Ok(StopReason::ToolUse)),
        (
            vec![json!({"candidates":[{"finishReason":"MALFORMED_FUNCTION_CALL","finishMessage":"bash("}]})],
            Err("Provider stopped with: MALFORMED_FUNCTION_CALL: bash("),
        ),
        (
            vec![json!({"error":null,"candidates":{"content":{"parts":{"text":"x"}},"finish_reason":"STOP"}})],
            Ok(StopReason::Stop),
        ),
        (vec![text, json!({"error":{"code":503,"message":"m"}})], Err("503: m")),
    ] {
        let message = decode(&chunks).0.message;
        match expected {
            Ok(stop) => assert_eq!((message.stop_reason, message.error_message), (stop, None), "{chunks:?}"),
            Err(text) => assert_eq!(message.error_message.as_deref(), Some(text), "{chunks:?}"),
        }
        let weary = chunks.last() == Some(&finish("WEARY"));
        assert_eq!(message.raw_stop_reason.as_deref(), weary.then_some("WEARY"));
    }
}

#[test]
fn parts_in_any_form() {
    let signed = |text: &str, signature: &str| json!({"type":"text","text":text,"textSignature":signature});
    for (given, expected) in [
        (json!(null), json!([])),
        (json!([]), json!([])),
        (json!([null, 7, "x", {}, {"text":""}, {"text":null}, {"inlineData":{}}]), json!([])),
        (json!({"text":"a"}), json!([{"type":"text","text":"a"}])),
        (json!([{"text":"a"},{"thoughtSignature":"QUJD"}]), json!([signed("a", "QUJD")])),
        (json!([{"thoughtSignature":"QUJD"}]), json!([signed("", "QUJD")])),
        (json!([{"text":"a","thought_signature":"QUJD"},{"text":"b","thought":null}]), json!([signed("ab", "QUJD")])),
        (
            json!([{"text":"a","thought":"true"},{"text":"b","thought":1},{"text":"c","thought":"false"}]),
            json!([{"type":"thinking","thinking":"ab"},{"type":"text","text":"c"}]),
        ),
        (json!([{"text":["a",{"text":"b"}]}]), json!([{"type":"text","text":"ab"}])),
        (
            json!([{"text":"a","functionCall":{"id":"i","name":"t","args":"{\"x\":1}"},"thoughtSignature":"QUJD"}]),
            json!([{"type":"text","text":"a"},
                {"type":"toolCall","id":"i","name":"t","arguments":{"x":1},"thoughtSignature":"QUJD"}]),
        ),
        (
            json!([{"functionCall":{"id":"i","name":"t","args":null}},{"functionCall":{"id":"j","name":"u","args":""}}]),
            json!([{"type":"toolCall","id":"i","name":"t","arguments":{}},{"type":"toolCall","id":"j","name":"u","arguments":{}}]),
        ),
    ] {
        let (outcome, _) = decode(&[parts(given.clone()), finish("STOP")]);
        assert_eq!(serde_json::to_value(&outcome.message.content).expect("JSON"), expected, "{given}");
        assert_eq!(outcome.message.error_message, None, "{given}");
    }
}

#[test]
fn usage_in_any_form() {
    let usage = |counts: Value| decode(&[finish("STOP"), json!({"usageMetadata":counts})]).0.message.usage;
    let counts = usage(
        json!({"promptTokenCount":100.0,"candidatesTokenCount":null,"thoughtsTokenCount":-5,"totalTokenCount":"100"}),
    );
    assert_eq!((counts.input, counts.output, counts.reasoning, counts.total_tokens), (100, 0, None, 100));
    assert_eq!(usage(json!([])).input, 70, "what is no object takes nothing back");
}

#[test]
fn names_in_camel_case_and_snake_case_together() {
    let (outcome, _) = decode(&[json!({
        "candidates":[{"finishReason":"MAX_TOKENS","finish_reason":"MAX_TOKENS","content":{"parts":[
            {"functionCall":{"id":"a","name":"bash"},"function_call":{"id":"a","name":"bash"},
                "thoughtSignature":"AAAA","thought_signature":"AAAA"},
            {"function_call":{"id":"b","name":"read"},"thought_signature":"BBBB"}]}}],
        "usageMetadata":{"promptTokenCount":7},"usage_metadata":{"promptTokenCount":7}
    })]);
    let message = outcome.message;
    assert_eq!((message.stop_reason, message.usage.input), (StopReason::Length, 7), "{:?}", message.error_message);
    let content = serde_json::to_value(&message.content).expect("JSON");
    let call = |id: &str, name: &str, signature: &str| json!({"type":"toolCall","id":id,"name":name,"arguments":{},"thoughtSignature":signature});
    assert_eq!(content, json!([call("a", "bash", "AAAA"), call("b", "read", "BBBB")]));
}

#[test]
fn errors_without_a_field_for_them() {
    for (error, expected) in [
        (json!({"message":"Too many requests","code":429}), Some("429: Too many requests")),
        (json!({"detail":"upstream closed"}), Some("upstream closed")),
        (json!({"responseId":"r1","modelVersion":"g"}), None),
        (json!({"type":"ping","message":"still here"}), None),
    ] {
        let message = decode(&[parts(json!([{"text":"x"}])), error.clone(), finish("STOP")]).0.message;
        assert_eq!(message.error_message.as_deref(), expected, "{error}");
    }
}
