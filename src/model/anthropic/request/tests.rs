use super::*;
use crate::model::credentials::Authorization;
use crate::model::secret_value::Secret;
use crate::model::sendable::Refused;
use crate::model::test_support::{http_request, test_model, test_request};
use crate::transcript::ToolSpec;
use serde_json::json;

fn authorization(scheme: Scheme) -> Authorization {
    Authorization { secret: Some(Secret::new("k")), scheme, headers: Vec::new() }
}

/// The request's headers and body.
fn request(
    model: &Model,
    level: ThinkingLevel,
    messages: Value,
    tools: &[&ToolSpec],
    long: bool,
) -> (Vec<String>, Value) {
    let (url, headers, body) = http_request(model, (level, model.max_tokens, long), messages, tools, prepare);
    assert_eq!(url, "http://127.0.0.1:9/v1/messages");
    (headers, body)
}

fn assistant(content: Value) -> Value {
    json!({"role":"assistant","content":content,"api":"anthropic-messages","provider":"p","model":"m","usage":{},
        "stopReason":"toolUse","timestamp":1})
}

#[test]
fn the_whole_request() {
    let image = json!({"type":"image","data":"AA==","mimeType":"image/png"});
    let result = |id: &str, content: Value, error: bool| json!({"role":"toolResult","toolCallId":id,"toolName":"t","content":content,"isError":error,"timestamp":1});
    let messages = json!([
        {"role":"user","content":"Hello","timestamp":1},
        assistant(json!([
            {"type":"thinking","thinking":"hm","thinkingSignature":"sig"},
            {"type":"thinking","thinking":"[Reasoning redacted]","thinkingSignature":"enc","redacted":true},
            {"type":"thinking","thinking":"unsigned"},
            {"type":"text","text":" "},
            {"type":"toolCall","id":"a","name":"t","arguments":{"x":1}},
            {"type":"toolCall","id":"b","name":"t","arguments":{}},
            {"type":"toolCall","id":"c","name":"t","arguments":{}}])),
        result("a", json!([{"type":"text","text":"one"},image]), false),
        result("b", json!([image]), false),
        result("c", json!([image]), true),
        {"role":"user","content":[{"type":"text","text":""},{"type":"text","text":"Look"},image],"timestamp":1}
    ]);
    let schema = json!({"type":"object","properties":{}});
    let tool = |name: &str| ToolSpec {
        name: name.to_string(),
        description: "D".to_string(),
        parameters: schema.clone().into(),
    };
    let (headers, body) = request(&test_model(), ThinkingLevel::Off, messages, &[&tool("t"), &tool("u")], false);
    assert_eq!(
        headers,
        ["content-type: application/json", "x-api-key: k", "anthropic-version: 2023-06-01", "accept: application/json"]
    );
    let source = json!({"type":"base64","media_type":"image/png","data":"AA=="});
    let picture = json!({"type":"image","source":source});
    let text = |text: &str| json!({"type":"text","text":text});
    let mark = json!({"type":"ephemeral"});
    assert_eq!(
        body,
        json!({"model":"m","max_tokens":8192,"stream":true,
        "system":[{"type":"text","text":"Be good.","cache_control":mark}],
        "messages":[
            {"role":"user","content":[text("Hello")]},
            {"role":"assistant","content":[
                {"type":"thinking","thinking":"hm","signature":"sig"},
                {"type":"redacted_thinking","data":"enc"},
                text("unsigned"),
                {"type":"tool_use","id":"a","name":"t","input":{"x":1}},
                {"type":"tool_use","id":"b","name":"t","input":{}},
                {"type":"tool_use","id":"c","name":"t","input":{}}]},
            {"role":"user","content":[
                {"type":"tool_result","tool_use_id":"a","content":[text("one"),picture],"is_error":false},
                {"type":"tool_result","tool_use_id":"b","content":[text("(see attached image)"),picture],"is_error":false},
                {"type":"tool_result","tool_use_id":"c","content":[text("(image follows the tool results)")],"is_error":true},
                text("Images of failed tool calls:"),
                picture]},
            {"role":"user","content":[text("Look"),{"type":"image","source":source,"cache_control":mark}]}],
        "tools":[
            {"name":"t","description":"D","input_schema":schema,"eager_input_streaming":true},
            {"name":"u","description":"D","input_schema":schema,"eager_input_streaming":true,"cache_control":mark}]})
    );
}

#[test]
fn thinking_effort_and_betas() {
    use ThinkingLevel::*;
    let model = |compat: Value, map: Value, max_tokens: u64| Model {
        reasoning: true,
        max_tokens,
        compat: serde_json::from_value(compat).expect("flags"),
        thinking_level_map: serde_json::from_value(map).expect("levels"),
        ..test_model()
    };
    let adaptive = json!({"forceAdaptiveThinking":true});
    let adaptively = json!({"type":"adaptive","display":"summarized"});
    let binding = json!({"forceAdaptiveThinking":true,"supportsMidConvoEffort":true});
    let bound =
        json!({"type":"adaptive","display":"summarized","block_binding":{"prefix_mismatch_behavior":"drop_block"}});
    let off = json!({"type":"disabled"});
    let budget = |tokens: u64| json!({"type":"enabled","budget_tokens":tokens,"display":"summarized"});
    for (compat, map, max_tokens, level, thinking, effort, beta) in [
        (adaptive.clone(), json!({}), 8192, Minimal, adaptively.clone(), json!("low"), None),
        (adaptive.clone(), json!({}), 8192, Medium, adaptively.clone(), json!("medium"), None),
        (adaptive.clone(), json!({"max":"max"}), 8192, Max, adaptively.clone(), json!("max"), None),
        (adaptive.clone(), json!({}), 8192, Off, off.clone(), json!(null), None),
        (adaptive, json!({"off":null}), 8192, Off, json!(null), json!(null), None),
        (binding.clone(), json!({}), 8192, Low, bound, json!("low"), Some(BINDING_BETA)),
        (binding, json!({}), 8192, Off, off.clone(), json!(null), None),
        (json!({}), json!({}), 64_000, High, budget(8192), json!(null), Some(INTERLEAVED_BETA)),
        (json!({}), json!({}), 4096, High, budget(3072), json!(null), Some(INTERLEAVED_BETA)),
        (json!({}), json!({}), 1500, High, off.clone(), json!(null), None),
        (json!({}), json!({}), 8192, Off, off, json!(null), None),
    ] {
        let model = model(compat, map, max_tokens);
        let (headers, body) = request(&model, level, json!([]), &[], false);
        assert_eq!((&body["thinking"], &body["output_config"]["effort"]), (&thinking, &effort), "{level:?} {body}");
        let betas = headers.iter().find_map(|h| h.strip_prefix("anthropic-beta: "));
        assert_eq!(betas, beta, "{level:?} {body}");
    }
    let (_, body) = request(&test_model(), ThinkingLevel::High, json!([]), &[], false);
    assert!(body.get("thinking").is_none(), "a model that cannot think is not asked to");
}

#[test]
fn no_result_is_empty() {
    let result = json!({"role":"toolResult","toolCallId":"a","toolName":"t","content":[],"isError":true,"timestamp":1});
    let (_, body) = request(&test_model(), ThinkingLevel::Off, json!([result]), &[], false);
    assert_eq!(body["messages"][0]["content"][0]["content"], json!([{"type":"text","text":"(no tool output)"}]));
}

#[test]
fn compat_flags() {
    let flags = |value: Value| Model { compat: serde_json::from_value(value).expect("flags"), ..test_model() };
    let tool = ToolSpec { name: "t".to_string(), description: String::new(), parameters: json!({}).into() };
    let user = json!([{"role":"user","content":"x","timestamp":1}]);
    let model = flags(json!({"supportsEagerToolInputStreaming":false,"supportsCacheControlOnTools":false,
        "sendSessionAffinityHeaders":true,"supportsLongCacheRetention":false}));
    let (headers, body) = request(&model, ThinkingLevel::Off, user.clone(), &[&tool], true);
    assert_eq!(body["tools"], json!([{"name":"t","description":"","input_schema":{}}]));
    assert_eq!(body["system"][0]["cache_control"], json!({"type":"ephemeral"}));
    assert!(headers.contains(&format!("anthropic-beta: {FINE_GRAINED_BETA}")), "{headers:?}");
    assert!(headers.contains(&"x-session-affinity: s1".to_string()), "{headers:?}");
    let openrouter = Model { provider: "openrouter".to_string(), ..test_model() };
    let (headers, _) = request(&openrouter, ThinkingLevel::Off, user.clone(), &[], true);
    assert!(headers.contains(&"x-session-id: s1".to_string()), "{headers:?}");
    let (_, body) = request(&test_model(), ThinkingLevel::Off, user, &[], true);
    assert_eq!(body["messages"][0]["content"][0]["cache_control"], json!({"type":"ephemeral","ttl":"1h"}));
    let unsigned = json!([assistant(json!([{"type":"thinking","thinking":"x"}]))]);
    let (_, body) = request(&flags(json!({"allowEmptySignature":true})), ThinkingLevel::Off, unsigned, &[], false);
    assert_eq!(body["messages"][0]["content"][0], json!({"type":"thinking","thinking":"x","signature":""}));
}

#[test]
fn signed_in_users_send_a_bearer_token_and_the_beta_alone() {
    let (model, authorization) = (test_model(), authorization(Scheme::AnthropicSignIn));
    let request = test_request(&model, &[]);
    let context = RequestContext {
        request: &request,
        model: &model,
        messages: &[],
        authorization: &authorization,
        max_tokens: 1,
        budgets: crate::model::thinking::Budgets { high: Some(8192), ..Default::default() },
        long_cache: false,
        refused: &Refused::default(),
    };
    let headers = prepare(&context).headers;
    let value = |name: &str| headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str());
    assert_eq!((value("authorization"), value("anthropic-beta")), (Some("Bearer k"), Some(SIGN_IN_BETA)));
    assert_eq!((value("x-api-key"), headers.len()), (None, 5));
}

#[test]
fn configured_headers_replace_computed_ones() {
    let model = test_model();
    let mut authorization = authorization(Scheme::Key);
    authorization.headers = vec![("X-Api-Key".to_string(), Secret::new("other")), ("H".to_string(), Secret::new("v"))];
    let request = test_request(&model, &[]);
    let context = RequestContext {
        request: &request,
        model: &model,
        messages: &[],
        authorization: &authorization,
        max_tokens: 1,
        budgets: crate::model::thinking::Budgets { high: Some(8192), ..Default::default() },
        long_cache: false,
        refused: &Refused::default(),
    };
    let headers = prepare(&context).headers;
    let keys: Vec<_> =
        headers.iter().filter(|(n, _)| n.eq_ignore_ascii_case("x-api-key")).map(|(_, v)| v.as_str()).collect();
    assert_eq!(keys, ["other"]);
    assert!(headers.contains(&("H".to_string(), "v".to_string())));
}
