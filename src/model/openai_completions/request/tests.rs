use super::*;
use crate::model::google::NO_SIGNATURE;
use crate::model::model_info::{Api, Model};
use crate::model::openai_completions::messages;
use crate::model::test_support::{http_request, test_model};
use crate::transcript::ToolSpec;

fn model(base_url: &str, compat: Value) -> Model {
    Model {
        api: Api::OpenaiCompletions,
        base_url: base_url.to_string(),
        compat: serde_json::from_value(compat).expect("flags"),
        ..test_model()
    }
}

fn tool() -> ToolSpec {
    ToolSpec { name: "t".to_string(), description: "D".to_string(), parameters: json!({"type":"object"}).into() }
}

/// The request's headers and body.
fn request(
    model: &Model,
    level: ThinkingLevel,
    messages: Value,
    tools: &[&ToolSpec],
    long: bool,
) -> (Vec<String>, Value) {
    let (url, headers, body) = http_request(model, (level, 4096, long), messages, tools, prepare);
    assert_eq!(url, format!("{}/chat/completions", model.base_url));
    (headers, body)
}

fn assistant(content: Value) -> Value {
    json!({"role":"assistant","content":content,"api":"openai-completions","provider":"p","model":"m","usage":{},
        "stopReason":"toolUse","timestamp":1})
}

fn result(id: &str, content: Value) -> Value {
    json!({"role":"toolResult","toolCallId":id,"toolName":"t","content":content,"isError":false,"timestamp":1})
}

fn conversation() -> Value {
    let image = json!({"type":"image","data":"AA==","mimeType":"image/png"});
    let text = |t: &str| json!({"type":"text","text":t});
    json!([
        {"role":"user","content":"Hello","timestamp":1},
        assistant(json!([
            {"type":"thinking","thinking":"h","thinkingSignature":"reasoning_content"},
            {"type":"thinking","thinking":"m","thinkingSignature":"reasoning_content"},
            text("a"), text("b"),
            {"type":"toolCall","id":"1","name":"t","arguments":{"x":1}},
            {"type":"toolCall","id":"2","name":"t","arguments":{}},
            {"type":"toolCall","id":"3","name":"t","arguments":{}}])),
        result("1", json!([text("one"), text("two"), image])),
        result("2", json!([image])),
        result("3", json!([])),
        assistant(json!([{"type":"thinking","thinking":"x"}])),
        {"role":"user","content":[text(""), text("Look"), image],"timestamp":1}
    ])
}

#[test]
fn the_whole_request_to_openai() {
    let model = Model { reasoning: true, ..model("https://api.openai.com/v1", json!({"supportsStrictMode":true})) };
    let (headers, body) = request(&model, ThinkingLevel::High, conversation(), &[&tool()], false);
    assert_eq!(headers, ["content-type: application/json", "authorization: Bearer k", "accept: text/event-stream"]);
    let image = json!({"type":"image_url","image_url":{"url":"data:image/png;base64,AA=="}});
    let call =
        |id: &str, arguments: &str| json!({"id":id,"type":"function","function":{"name":"t","arguments":arguments}});
    assert_eq!(
        body,
        json!({"model":"m","messages":[
            {"role":"developer","content":"Be good."},
            {"role":"user","content":"Hello"},
            {"role":"assistant","content":"ab","reasoning_content":"h\nm",
                "tool_calls":[call("1","{\"x\":1}"),call("2","{}"),call("3","{}")]},
            {"role":"tool","tool_call_id":"1","content":"one\ntwo"},
            {"role":"tool","tool_call_id":"2","content":"(see attached image)"},
            {"role":"tool","tool_call_id":"3","content":"(no tool output)"},
            {"role":"user","content":[{"type":"text","text":"Attached image(s) from tool result:"},image,image]},
            {"role":"user","content":[{"type":"text","text":"Look"},image]}],
        "stream":true,"stream_options":{"include_usage":true},"store":false,
        "tools":[{"type":"function","function":{"name":"t","description":"D","parameters":{"type":"object"},"strict":false}}],
        "prompt_cache_key":"s1","max_completion_tokens":4096,"reasoning_effort":"high"})
    );
}

#[test]
fn a_local_server_gets_only_what_all_understand() {
    let model = Model { reasoning: true, ..model("http://localhost:11434/v1", json!({})) };
    let user = json!([{"role":"user","content":"Hello","timestamp":1}]);
    let (_, body) = request(&model, ThinkingLevel::High, user, &[], true);
    assert_eq!(
        body,
        json!({"model":"m","messages":[{"role":"system","content":"Be good."},{"role":"user","content":"Hello"}],
            "stream":true,"stream_options":{"include_usage":true},"max_tokens":4096})
    );
}

#[test]
fn what_servers_require() {
    let flags = json!({"requiresToolResultName":true,"requiresAssistantAfterToolResult":true,"requiresThinkingAsText":true,
        "requiresReasoningContentOnAssistantMessages":true,"supportsUsageInStreaming":false,"zaiToolStream":true,
        "openRouterRouting":{"order":["a"]},"vercelGatewayRouting":{"only":["b"]},"vllmPriority":5,
        "samplingParams":{"temperature":0.5,"max_tokens":7},"sendSessionAffinityHeaders":true});
    let (headers, body) =
        request(&model("https://llm.example.com/v1", flags), ThinkingLevel::Off, conversation(), &[&tool()], false);
    let text = |text: &str| json!({"type":"text","text":text});
    let turns = body["messages"].as_array().expect("a list");
    assert_eq!(turns[2]["content"], json!([text("h\nm"), text("ab")]));
    assert_eq!((&turns[2]["reasoning_content"], &turns[3]["name"]), (&json!(""), &json!("t")));
    assert_eq!(turns[6], json!({"role":"assistant","content":"I have seen the tool results."}));
    assert_eq!(turns[8], json!({"role":"assistant","content":[text("x")],"reasoning_content":""}));
    for (field, value) in [
        ("stream_options", json!(null)),
        ("tool_stream", json!(true)),
        ("provider", json!({"order":["a"]})),
        ("providerOptions", json!({"gateway":{"only":["b"]}})),
        ("priority", json!(5)),
        ("temperature", json!(0.5)),
        ("max_tokens", json!(7)),
    ] {
        assert_eq!(body[field], value, "{field}");
    }
    for name in ["session_id", "x-client-request-id", "x-session-affinity"] {
        assert!(headers.contains(&format!("{name}: s1")), "{headers:?}");
    }
    let history = json!([assistant(json!([{"type":"toolCall","id":"1","name":"t","arguments":{}}]))]);
    for (required, tools) in [(true, json!([])), (false, json!(null))] {
        let model = model(
            "https://h/v1",
            json!({"requiresToolsWithToolHistory":required,"requiresNonNullAssistantContent":required}),
        );
        let (_, body) = request(&model, ThinkingLevel::Off, history.clone(), &[], false);
        assert_eq!(body["tools"], tools);
        assert_eq!(body["messages"][1]["content"], if required { json!("") } else { json!(null) });
    }
}

#[test]
fn signatures_go_back_where_they_came_from() {
    let google = json!({"google":{"thought_signature":"QUJD"}});
    let detail = json!({"type":"reasoning.encrypted","id":"1","data":"E"});
    let list = json!([{"type":"reasoning.text","text":"hm","signature":"S","index":0}]);
    let call =
        |signature: Value| json!({"type":"toolCall","id":"1","name":"t","arguments":{},"thoughtSignature":signature});
    let plain = json!({"type":"toolCall","id":"2","name":"t","arguments":{}});
    let turn = |url: &str, id: &str, content: Value| {
        let model = Model { id: id.to_string(), ..model(url, json!({})) };
        let (_, mut body) = request(&model, ThinkingLevel::Off, json!([assistant(content)]), &[], false);
        body["messages"][1].take()
    };
    let host = "https://h/v1";
    let message = turn(host, "m", json!([call(json!(google.to_string())), plain]));
    assert_eq!(message["tool_calls"][0]["extra_content"], google);
    assert_eq!(message["tool_calls"][1].get("extra_content"), None);
    let message = turn(host, "m", json!([{"type":"text","text":"a","textSignature":google.to_string()}]));
    assert_eq!(message["extra_content"], google);
    // PI keeps one detail with a call.
    let thought = json!({"type":"thinking","thinking":"hm","thinkingSignature":list.to_string()});
    let message = turn(host, "m", json!([thought, call(json!(detail.to_string()))]));
    assert_eq!(message["reasoning_details"], json!([list[0], detail]));
    assert_eq!(message["tool_calls"][0].get("extra_content"), None);
    let message = turn(host, "m", json!([call(json!("no JSON"))]));
    assert_eq!((message["tool_calls"][0].get("extra_content"), message.get("reasoning_details")), (None, None));
    // Gemini 3 refuses calls from elsewhere without a signature that says so.
    let gemini = "https://generativelanguage.googleapis.com/v1beta/openai";
    for (id, expected) in [("gemini-3-pro", json!(NO_SIGNATURE)), ("gemini-2.5-pro", json!(null))] {
        let message = turn(gemini, id, json!([plain, plain]));
        assert_eq!(message["tool_calls"][0]["extra_content"]["google"]["thought_signature"], expected);
        assert_eq!(message["tool_calls"][1].get("extra_content"), None);
    }
}

#[test]
fn cache_markers_and_retention() {
    let model = Model { id: "anthropic/m".to_string(), ..model("https://openrouter.ai/api/v1", json!({})) };
    let messages = json!([{"role":"user","content":"Hello","timestamp":1}, assistant(json!([{"type":"toolCall","id":"1","name":"t","arguments":{}}]))]);
    let (headers, body) = request(&model, ThinkingLevel::Off, messages, &[&tool(), &tool()], true);
    let mark = json!({"type":"ephemeral","ttl":"1h"});
    assert_eq!(body["messages"][0]["content"], json!([{"type":"text","text":"Be good.","cache_control":mark}]));
    assert_eq!(body["messages"][1]["content"], json!([{"type":"text","text":"Hello","cache_control":mark}]));
    assert_eq!((&body["tools"][0]["cache_control"], &body["tools"][1]["cache_control"]), (&json!(null), &mark));
    assert_eq!((&body["prompt_cache_key"], &body["prompt_cache_retention"]), (&json!("s1"), &json!("24h")));
    assert!(headers.contains(&"x-session-id: s1".to_string()));
}

#[test]
fn thinking_formats() {
    use ThinkingLevel::{High, Off};
    let template = json!({"a":{"$var":"thinking.enabled"},"b":{"$var":"thinking.effort","omitWhenOff":true},"c":1,
        "d":{"$var":"thinking.budget"},"e":{"$var":"unknown"}});
    for (format, level, map, expected) in [
        ("openai", High, json!({}), json!({"reasoning_effort":"high"})),
        ("openai", High, json!({"high":"max"}), json!({"reasoning_effort":"max"})),
        ("openai", Off, json!({}), json!({})),
        ("openai", Off, json!({"off":"none"}), json!({"reasoning_effort":"none"})),
        ("openrouter", High, json!({}), json!({"reasoning":{"effort":"high"}})),
        ("openrouter", Off, json!({}), json!({"reasoning":{"effort":"none"}})),
        ("openrouter", Off, json!({"off":null}), json!({})),
        ("deepseek", High, json!({}), json!({"thinking":{"type":"enabled"},"reasoning_effort":"high"})),
        ("deepseek", Off, json!({}), json!({"thinking":{"type":"disabled"}})),
        ("deepseek", Off, json!({"off":null}), json!({})),
        (
            "zai",
            High,
            json!({}),
            json!({"thinking":{"type":"enabled","clear_thinking":false},"reasoning_effort":"high"}),
        ),
        ("zai", Off, json!({}), json!({"thinking":{"type":"disabled"}})),
        ("qwen", High, json!({}), json!({"enable_thinking":true,"reasoning_effort":"high"})),
        ("qwen", Off, json!({}), json!({"enable_thinking":false})),
        (
            "qwen-chat-template",
            High,
            json!({}),
            json!({"chat_template_kwargs":{"enable_thinking":true,"preserve_thinking":true}}),
        ),
        (
            "qwen-chat-template",
            Off,
            json!({}),
            json!({"chat_template_kwargs":{"enable_thinking":false,"preserve_thinking":true}}),
        ),
        ("chat-template", High, json!({}), json!({"chat_template_kwargs":{"a":true,"b":"high","c":1,"d":8192}})),
        ("chat-template", Off, json!({}), json!({"chat_template_kwargs":{"a":false,"c":1,"d":0}})),
        (
            "baseten",
            High,
            json!({}),
            json!({"chat_template_kwargs":{"a":true,"b":"high","c":1,"d":8192},"reasoning_effort":"high"}),
        ),
        ("together", High, json!({}), json!({"reasoning":{"enabled":true},"reasoning_effort":"high"})),
        ("together", Off, json!({}), json!({"reasoning":{"enabled":false}})),
        ("string-thinking", High, json!({"high":"deep"}), json!({"thinking":"deep"})),
        ("string-thinking", Off, json!({}), json!({"thinking":"none"})),
        ("ant-ling", High, json!({}), json!({})),
        ("ant-ling", High, json!({"high":"h"}), json!({"reasoning":{"effort":"h"}})),
    ] {
        let flags = json!({"thinkingFormat":format,"supportsReasoningEffort":true,"chatTemplateKwargs":template});
        let thinking_level_map = serde_json::from_value(map.clone()).expect("levels");
        let model = Model { reasoning: true, thinking_level_map, ..model("https://h/v1", flags) };
        let (_, body) = request(&model, level, json!([]), &[], false);
        let mut found = body.as_object().expect("an object").clone();
        for common in ["model", "messages", "stream", "stream_options", "max_tokens"] {
            found.remove(common);
        }
        assert_eq!(Value::Object(found), expected, "{format} {level:?} {map}");
    }
    let model = Model {
        reasoning: true,
        ..model("http://localhost/v1", json!({"thinkingTokenBudgetField":"thinking_budget"}))
    };
    assert_eq!(request(&model, High, json!([]), &[], false).1["thinking_budget"], 3072);
    assert_eq!(request(&model, Off, json!([]), &[], false).1["thinking_budget"], json!(null));
}

#[test]
fn reasoning_details_are_sent_back() {
    let details = json!([{"type":"reasoning.text","index":0,"text":"ab","signature":"s"},
        {"type":"reasoning.encrypted","index":1,"data":"e"}]);
    let content =
        json!([{"type":"thinking","thinking":"ab","thinkingSignature":details.to_string()},{"type":"text","text":"x"}]);
    let (_, body) = request(
        &model("https://openrouter.ai/api/v1", json!({})),
        ThinkingLevel::Off,
        json!([assistant(content)]),
        &[],
        false,
    );
    assert_eq!(body["messages"][1], json!({"role":"assistant","content":"x","reasoning_details":details}));
}

#[test]
fn foreign_ids_are_made_fit_and_stay_different() {
    assert_eq!(messages::foreign_id("call_1|fc:2"), "call_1_fc_2");
    let (a, b) = (messages::foreign_id(&("x".repeat(50) + "a")), messages::foreign_id(&("x".repeat(50) + "b")));
    assert_eq!((a.len(), b.len(), a == b), (40, 40, false));
}
