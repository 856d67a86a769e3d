use super::*;
use crate::model::credentials::{Authorization, Scheme};
use crate::model::model_info::Api;
use crate::model::request::Request;
use crate::model::sendable::Refused;
use crate::model::test_support::{http_request, test_model, test_request};
use crate::model::thinking::Budgets;
use crate::transcript::ToolSpec;

fn model() -> Model {
    Model { api: Api::OpenaiResponses, reasoning: true, ..test_model() }
}

fn assistant(model: &str, content: Value) -> Value {
    json!({"role":"assistant","content":content,"api":"openai-responses","provider":"p","model":model,"usage":{},
        "stopReason":"toolUse","timestamp":1})
}

#[test]
fn the_whole_request() {
    let image = json!({"type":"image","data":"AA==","mimeType":"image/png"});
    let text = |t: &str| json!({"type":"text","text":t});
    let result = |id: &str, content: Value| json!({"role":"toolResult","toolCallId":id,"toolName":"t","content":content,"isError":false,"timestamp":1});
    let reasoning = json!({"type":"reasoning","id":"rs_1","summary":[],"encrypted_content":"e"});
    let long = "i".repeat(65);
    let messages = json!([
        {"role":"user","content":[text(""), text("Look"), image],"timestamp":1},
        assistant("m", json!([
            {"type":"thinking","thinking":"hm","thinkingSignature":reasoning.to_string()},
            {"type":"thinking","thinking":"unsigned"},
            {"type":"text","text":"a","textSignature":"{\"v\":1,\"id\":\"msg_1\",\"phase\":\"final\"}"},
            {"type":"text","text":"b","textSignature":"msg_old"},
            {"type":"text","text":"c","textSignature":long},
            text("d"),
            {"type":"toolCall","id":"call_1|fc_1","name":"t","arguments":{"x":1}},
            {"type":"toolCall","id":"call_2|other","name":"t","arguments":{}}])),
        result("call_1|fc_1", json!([text("one"), text("two")])),
        result("call_2|other", json!([image])),
        assistant("n", json!([{"type":"toolCall","id":"call_3|fc_3","name":"t","arguments":{}}])),
        result("call_3|fc_3", json!([]))
    ]);
    let tool =
        ToolSpec { name: "t".to_string(), description: "D".to_string(), parameters: json!({"type":"object"}).into() };
    let (url, headers, body) = http_request(&model(), (ThinkingLevel::High, 4096, true), messages, &[&tool], prepare);
    assert_eq!(url, "http://127.0.0.1:9/responses");
    assert_eq!(
        headers,
        [
            "content-type: application/json",
            "authorization: Bearer k",
            "accept: text/event-stream",
            "session-id: s1",
            "x-client-request-id: s1"
        ]
    );
    let said = |id: &str, text: &str| json!({"type":"message","role":"assistant","status":"completed","id":id,"content":[{"type":"output_text","text":text,"annotations":[]}]});
    let mut phased = said("msg_1", "a");
    phased["phase"] = json!("final");
    let picture = json!({"type":"input_image","detail":"auto","image_url":"data:image/png;base64,AA=="});
    assert_eq!(
        body,
        json!({"model":"m","input":[
            {"role":"developer","content":"Be good."},
            {"role":"user","content":[{"type":"input_text","text":"Look"},picture]},
            reasoning,
            phased,
            said("msg_old", "b"),
            said(&format!("msg_{}", short_hash(&long)), "c"),
            said("msg_1_5", "d"),
            {"type":"function_call","id":"fc_1","call_id":"call_1","name":"t","arguments":"{\"x\":1}"},
            {"type":"function_call","call_id":"call_2","name":"t","arguments":"{}"},
            {"type":"function_call_output","call_id":"call_1","output":"one\ntwo"},
            {"type":"function_call_output","call_id":"call_2","output":[picture]},
            {"type":"function_call","call_id":"call_3","name":"t","arguments":"{}"},
            {"type":"function_call_output","call_id":"call_3","output":"(no tool output)"}],
        "stream":true,"store":false,"max_output_tokens":4096,
        "tools":[{"type":"function","name":"t","description":"D","parameters":{"type":"object"},"strict":false}],
        "reasoning":{"effort":"high","summary":"auto"},"include":["reasoning.encrypted_content"],
        "prompt_cache_key":"s1","prompt_cache_retention":"24h"})
    );
}

#[test]
fn items_keep_their_ids_unless_their_reasoning_is_left_out_and_each_only_once() {
    let reasoning = |id: &str| {
        let item = json!({"type":"reasoning","id":id,"summary":[],"encrypted_content":"e"});
        json!({"type":"thinking","thinking":"hm","thinkingSignature":item.to_string()})
    };
    let said = json!({"type":"text","text":"a","textSignature":"{\"v\":1,\"id\":\"msg_1\",\"phase\":\"final\"}"});
    let call = |id: &str| json!({"type":"toolCall","id":id,"name":"t","arguments":{}});
    let messages = json!([
        assistant("m", json!([said, call("a|fc_1")])),
        assistant("m", json!([reasoning("rs_1"), said, call("b|fc_1")])),
        assistant("m", json!([reasoning("rs_1"), said, call("c|fc_2")])),
        assistant("m", json!([reasoning("rs_2"), said, call("d|fc_1")]))
    ]);
    let (_, _, body) = http_request(&model(), (ThinkingLevel::Off, 1, false), messages, &[], prepare);
    let items = body["input"].as_array().expect("a list");
    let ids: Vec<&str> = items.iter().skip(1).map(|item| item["id"].as_str().unwrap_or("-")).collect();
    let expected = ["msg_1", "fc_1", "rs_1", "msg_1_1", "-", "msg_2_1", "-", "rs_2", "msg_3_1", "-"];
    assert_eq!(ids, expected);
    assert_eq!(items[1]["phase"], "final");
}

#[test]
fn reasoning_is_taken_back_with_its_content_only() {
    for (item, expected) in [
        (json!({"type":"reasoning","id":"rs_1","summary":[],"encrypted_content":"e"}), true),
        (json!({"type":"reasoning","id":"rs_1","summary":[],"encrypted_content":""}), false),
        (json!({"type":"reasoning","id":"rs_1","summary":[],"encrypted_content":null}), false),
        (json!({"type":"reasoning","id":"rs_1","summary":[]}), false),
        (json!("reasoning_content"), false),
    ] {
        assert_eq!(takes_thought(&item.to_string()), expected, "{item}");
    }
    assert_eq!(
        [takes_id(""), takes_id("|fc_1"), takes_id("a|fc_1"), takes_id(&"x".repeat(65))],
        [false, false, true, false]
    );
}

#[test]
fn thinking_and_flags() {
    let map = |value: Value| serde_json::from_value(value).expect("levels");
    for (reasoning, levels, provider, level, expected, include) in [
        (false, json!({}), "p", ThinkingLevel::High, json!(null), false),
        (true, json!({"high":"max"}), "p", ThinkingLevel::High, json!({"effort":"max","summary":"auto"}), true),
        (true, json!({}), "p", ThinkingLevel::Off, json!({"effort":"none"}), false),
        (true, json!({"off":"minimal"}), "p", ThinkingLevel::Off, json!({"effort":"minimal"}), false),
        (true, json!({"off":null}), "p", ThinkingLevel::Off, json!(null), false),
        (true, json!({"off":null}), "xai", ThinkingLevel::Off, json!(null), true),
    ] {
        let model =
            Model { reasoning, thinking_level_map: map(levels.clone()), provider: provider.to_string(), ..model() };
        let (_, _, body) = http_request(&model, (level, 5, false), json!([]), &[], prepare);
        assert_eq!(
            (&body["reasoning"], body["include"].is_array()),
            (&expected, include),
            "{levels} {provider} {level:?}"
        );
        assert_eq!(body["max_output_tokens"], MIN_OUTPUT);
    }
    let compat = map(json!({}));
    let mut model = Model { provider: "openrouter".to_string(), thinking_level_map: compat, ..model() };
    model.compat.insert("supportsMaxOutputTokens".to_string(), json!(false));
    model.compat.insert("supportsDeveloperRole".to_string(), json!(false));
    let (_, headers, body) = http_request(&model, (ThinkingLevel::Off, 5, false), json!([]), &[], prepare);
    assert_eq!((&body["max_output_tokens"], &body["input"][0]["role"]), (&json!(null), &json!("system")));
    assert!(headers.contains(&"x-session-id: s1".to_string()), "{headers:?}");
}

/// What requests to each model say of caches and sessions, in three kinds of requests: for a short time, for a long one, and one
/// whose prompt will not come again.
#[test]
fn words_for_the_cache() {
    let absent = json!(null);
    for (flags, expected) in [
        (json!({}), [(&absent, &absent), (&json!("24h"), &absent), (&absent, &absent)]),
        (
            json!({"supportsExplicitPromptCacheMode":true}),
            [(&absent, &absent), (&absent, &json!({"ttl":"30m"})), (&absent, &json!({"mode":"explicit"}))],
        ),
        (
            json!({"supportsExplicitPromptCacheMode":true,"supportsLongCacheRetention":false}),
            [(&absent, &absent), (&absent, &absent), (&absent, &json!({"mode":"explicit"}))],
        ),
    ] {
        let model = Model { compat: serde_json::from_value(flags.clone()).expect("flags"), ..model() };
        for ((session_id, long_cache), expected) in
            [(Some("s1"), false), (Some("s1"), true), (None, false)].into_iter().zip(expected)
        {
            let request = Request { session_id, ..test_request(&model, &[]) };
            let authorization = Authorization { secret: None, scheme: Scheme::Key, headers: Vec::new() };
            let body = prepare(&RequestContext {
                request: &request,
                model: &model,
                messages: &[],
                authorization: &authorization,
                max_tokens: 100,
                budgets: Budgets::default(),
                long_cache,
                refused: &Refused::default(),
            })
            .body;
            let body: Value = serde_json::from_slice(&body).expect("JSON");
            let found = (&body["prompt_cache_retention"], &body["prompt_cache_options"]);
            assert_eq!(found, expected, "{flags} {session_id:?} {long_cache}");
        }
    }
    for (format, expected) in [
        (json!(null), vec!["session-id: s1", "x-client-request-id: s1"]),
        (json!("openai-nosession"), vec!["x-client-request-id: s1"]),
        (json!("openrouter"), vec!["x-session-id: s1"]),
    ] {
        let mut model = model();
        model.compat.insert("sessionAffinityFormat".to_string(), format);
        let (_, headers, _) = http_request(&model, (ThinkingLevel::Off, 5, false), json!([]), &[], prepare);
        let found: Vec<&str> = headers.iter().map(String::as_str).filter(|h| h.ends_with(": s1")).collect();
        assert_eq!(found, expected);
    }
}

#[test]
fn foreign_ids_are_made_fit() {
    assert_eq!(foreign_id("toolu_1.x|y"), "toolu_1_x");
    assert_eq!(foreign_id(&"x".repeat(100)).len(), MAX_ID);
}
