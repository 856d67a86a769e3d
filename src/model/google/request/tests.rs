use super::*;
use crate::model::model_info::Api;
use crate::model::test_support::{http_request, test_model};
use crate::transcript::ToolSpec;

fn model(id: &str) -> Model {
    Model { api: Api::GoogleGenerativeAi, id: id.to_string(), ..test_model() }
}

fn conversation(id: &str) -> Value {
    let image = json!({"type":"image","data":"AA==","mimeType":"image/png"});
    let text = |t: &str| json!({"type":"text","text":t});
    let result = |id: &str, content: Value, error: bool| json!({"role":"toolResult","toolCallId":id,"toolName":"t","content":content,"isError":error,"timestamp":1});
    json!([
        {"role":"user","content":[text(""), text("Look"), image],"timestamp":1},
        {"role":"assistant","content":[
            {"type":"thinking","thinking":"hm","thinkingSignature":"AAAA"},
            {"type":"thinking","thinking":"","thinkingSignature":"BBBB"},
            {"type":"text","text":"a","textSignature":"not base64"},
            text(""),
            {"type":"toolCall","id":"c1","name":"t","arguments":{"x":1},"thoughtSignature":"CCCC"},
            {"type":"toolCall","id":"c2","name":"t","arguments":{}}],
        "api":"google-generative-ai","provider":"p","model":id,"usage":{},"stopReason":"toolUse","timestamp":1},
        result("c1", json!([text("one"), text("two")]), false),
        result("c2", json!([image]), true),
        {"role":"user","content":"Go on","timestamp":1}
    ])
}

#[test]
fn the_whole_request() {
    let tool = ToolSpec {
        name: "t".to_string(),
        description: "D".to_string(),
        parameters:
            json!({"type":"object","properties":{"k":{"const":"x"},"const":{"anyOf":[{"const":1},{"const":true}]}}})
                .into(),
    };
    let id = "gemini-3-pro-preview";
    let (url, headers, body) =
        http_request(&model(id), (ThinkingLevel::High, 4096, false), conversation(id), &[&tool], prepare);
    assert_eq!(url, format!("http://127.0.0.1:9/models/{id}:streamGenerateContent?alt=sse"));
    assert_eq!(headers, ["content-type: application/json", "x-goog-api-key: k"]);
    let picture = json!({"inlineData":{"mimeType":"image/png","data":"AA=="}});
    assert_eq!(
        body,
        json!({"contents":[
            {"role":"user","parts":[{"text":"Look"},picture]},
            {"role":"model","parts":[
                {"text":"hm","thought":true,"thoughtSignature":"AAAA"},
                {"text":"","thought":true,"thoughtSignature":"BBBB"},
                {"text":"a"},
                {"functionCall":{"id":"c1","name":"t","args":{"x":1}},"thoughtSignature":"CCCC"},
                {"functionCall":{"id":"c2","name":"t","args":{}}}]},
            {"role":"user","parts":[
                {"functionResponse":{"id":"c1","name":"t","response":{"output":"one\ntwo"}}},
                {"functionResponse":{"id":"c2","name":"t","response":{"error":"(see attached image)"},"parts":[picture]}}]},
            {"role":"user","parts":[{"text":"Go on"}]}],
        "systemInstruction":{"role":"user","parts":[{"text":"Be good."}]},
        "generationConfig":{"maxOutputTokens":4096},
        "tools":[{"functionDeclarations":[{"name":"t","description":"D","parametersJsonSchema":
            {"type":"object","properties":{"k":{"enum":["x"]},"const":{"anyOf":[{"enum":[1]},{"const":true}]}}}}]}]})
    );
}

#[test]
fn older_models_get_images_apart_and_no_ids() {
    let id = "gemini-2.5-flash";
    let (_, _, body) = http_request(&model(id), (ThinkingLevel::Off, 1, false), conversation(id), &[], prepare);
    let contents = &body["contents"];
    assert_eq!(contents[1]["parts"][3], json!({"functionCall":{"name":"t","args":{"x":1}},"thoughtSignature":"CCCC"}));
    assert_eq!(
        contents[2]["parts"][1],
        json!({"functionResponse":{"name":"t","response":{"error":"(see attached image)"}}})
    );
    let picture = json!({"inlineData":{"mimeType":"image/png","data":"AA=="}});
    assert_eq!(contents[3], json!({"role":"user","parts":[{"text":"Tool result image:"},picture]}));
    assert_eq!(body.get("tools"), None);
}

#[test]
fn the_first_call_of_a_turn_has_a_signature_where_the_model_wants_one() {
    let answer = |model: &str, signature: &str| {
        json!({"role":"assistant","content":[
            {"type":"text","text":"a"},
            {"type":"toolCall","id":"c","name":"t","arguments":{},"thoughtSignature":signature},
            {"type":"toolCall","id":"d","name":"t","arguments":{}}],
            "api":"google-generative-ai","provider":"p","model":model,"usage":{},"stopReason":"toolUse","timestamp":1})
    };
    for (id, by, signature, expected) in [
        ("gemini-3-pro", "gemini-3-pro", "AAAA", json!(["AAAA", null])),
        ("gemini-3-pro", "gemini-3-pro", "not base64", json!([NO_SIGNATURE, null])),
        ("gemini-4-argon", "other", "AAAA", json!([NO_SIGNATURE, null])),
        ("gemini-2.5-pro", "other", "AAAA", json!([null, null])),
    ] {
        let (_, _, body) =
            http_request(&model(id), (ThinkingLevel::Off, 1, false), json!([answer(by, signature)]), &[], prepare);
        let parts = &body["contents"][0]["parts"];
        assert_eq!(json!([parts[1]["thoughtSignature"], parts[2]["thoughtSignature"]]), expected, "{id} {signature}");
    }
    let twice = json!([answer("x", "AAAA"), answer("x", "AAAA")]);
    let (_, _, body) = http_request(&model("gemini-3-pro"), (ThinkingLevel::Off, 1, false), twice, &[], prepare);
    assert_eq!(body["contents"].as_array().map(Vec::len), Some(1), "two turns of the model in a row are one");
}

#[test]
fn thinking_by_level_or_budget() {
    use ThinkingLevel::*;
    for (id, map, level, expected) in [
        ("gemini-3-pro-preview", json!({}), High, json!({"includeThoughts":true,"thinkingLevel":"HIGH"})),
        ("gemini-3.1-flash", json!({"xhigh":"HIGH"}), Xhigh, json!({"includeThoughts":true,"thinkingLevel":"HIGH"})),
        (
            "gemini-3-pro",
            json!({"off":null,"minimal":null,"low":"LOW","medium":null,"high":"HIGH"}),
            Off,
            json!({"thinkingLevel":"LOW"}),
        ),
        ("gemini-4-argon", json!({}), Off, json!({"thinkingLevel":"MINIMAL"})),
        ("gemini-flash-latest", json!({}), Medium, json!({"includeThoughts":true,"thinkingLevel":"MEDIUM"})),
        ("models/gemma-4-x", json!({}), Low, json!({"includeThoughts":true,"thinkingLevel":"LOW"})),
        ("gemini-2.5-pro", json!({}), Medium, json!({"includeThoughts":true,"thinkingBudget":8192})),
        ("gemini-2.5-pro", json!({"off":null}), Off, json!(null)),
        ("gemini-2.5-flash-lite", json!({}), Minimal, json!({"includeThoughts":true,"thinkingBudget":512})),
        ("gemini-2.5-flash", json!({}), Minimal, json!({"includeThoughts":true,"thinkingBudget":128})),
        ("gemini-2.5-flash", json!({}), Off, json!({"thinkingBudget":0})),
        ("gemini-2.0-flash", json!({}), Low, json!({"includeThoughts":true,"thinkingBudget":-1})),
        // The tests' settings have a budget for "high".
        ("gemini-2.5-flash", json!({}), High, json!({"includeThoughts":true,"thinkingBudget":8192})),
    ] {
        let thinking_level_map = serde_json::from_value(map.clone()).expect("levels");
        let model = Model { reasoning: true, thinking_level_map, ..model(id) };
        let (_, _, body) = http_request(&model, (level, 1, false), json!([]), &[], prepare);
        assert_eq!(body["generationConfig"]["thinkingConfig"], expected, "{id} {map} {level:?}");
    }
}
