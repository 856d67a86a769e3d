//! Whatever a history holds, the body that is sent passes a checker of its provider's documented rules.

use super::*;
use crate::model::credentials::{Authorization, Scheme};
use crate::model::model_info::Api;
use crate::model::protocol::RequestContext;
use crate::model::provider_apis;
use crate::model::request::Request;
use crate::model::test_support::{test_model, test_request};
use crate::model::thinking::{Budgets, ThinkingLevel};
use serde_json::{Value, json};

const PNG: &str = "iVBORw0KGgo=";
const APIS: [Api; 4] = [Api::AnthropicMessages, Api::OpenaiCompletions, Api::OpenaiResponses, Api::GoogleGenerativeAi];

/// One of the values.
fn pick<'a>(random: &mut fastrand::Rng, values: &[&'a str]) -> &'a str {
    values[random.usize(..values.len())]
}

fn blocks(random: &mut fastrand::Rng) -> Value {
    let block = |random: &mut fastrand::Rng| match random.u8(..3) {
        0 => json!({"type":"image","data":pick(random, &[PNG, "AAAA", "", "!", "/9j/4A=="]),"mimeType":"image/png"}),
        _ => json!({"type":"text","text":pick(random, &["a", "", " \n", "\u{0}\u{fffd}b"])}),
    };
    (0..random.usize(..4)).map(|_| block(random)).collect()
}

fn answer_block(random: &mut fastrand::Rng) -> Value {
    let reasoning = |id: &str, encrypted: &str| {
        format!("{{\"type\":\"reasoning\",\"id\":\"{id}\",\"summary\":[],\"encrypted_content\":{encrypted}}}")
    };
    let signatures = [
        "QUJD".to_string(),
        "reasoning_content".to_string(),
        "[{\"type\":\"reasoning.text\",\"text\":\"x\"}]".to_string(),
        reasoning("rs_1", "\"E\""),
        reasoning("rs_2", "null"),
        "{\"google\":{\"thought_signature\":\"QUJD\"}}".to_string(),
        "{\"v\":1,\"id\":\"msg_1\"}".to_string(),
        "not base64".to_string(),
    ];
    let signatures: Vec<&str> = signatures.iter().map(String::as_str).collect();
    let signature = if random.bool() { json!(pick(random, &signatures)) } else { Value::Null };
    let mut block = match random.u8(..4) {
        0 => json!({"type":"thinking","thinking":pick(random, &["hm", "", " "]),"thinkingSignature":signature}),
        1 => json!({"type":"text","text":pick(random, &["a", "", " "]),"textSignature":signature}),
        2 if random.bool() => json!({"type":"thinking","thinking":"r","thinkingSignature":"data","redacted":true}),
        _ => {
            let ids = ["", "a", "b", "a|fc_1", "|fc_2", "a_2", "functions.bash:0", &"x".repeat(99)];
            let names = ["bash", "", "functions.bash", "a b", "7z", &"n".repeat(99), "工"];
            json!({"type":"toolCall","id":pick(random, &ids),"name":pick(random, &names),"arguments":{"x":1},
                "thoughtSignature":signature})
        }
    };
    if let Value::Object(fields) = &mut block {
        fields.retain(|_, value| !value.is_null());
    }
    block
}

/// Messages of any kind in any order, by this model and by others.
fn history(random: &mut fastrand::Rng, api: Api) -> Vec<Arc<Message>> {
    let mut messages = Vec::new();
    for _ in 0..random.usize(..12) {
        let message = match random.u8(..5) {
            0 => json!({"role":"user","content":pick(random, &["hello", "", " "]),"timestamp":1}),
            1 => json!({"role":"user","content":blocks(random),"timestamp":1}),
            2 => {
                json!({"role":"toolResult","toolCallId":pick(random, &["a", "", "a|fc_1", "z"]),"toolName":pick(random, &["bash", "", "x y"]),
                "content":blocks(random),"isError":random.bool(),"timestamp":1})
            }
            _ => {
                let content: Vec<Value> = (0..random.usize(..5)).map(|_| answer_block(random)).collect();
                let same = random.u8(..3) > 0;
                json!({"role":"assistant","content":content,"provider":"p","model":if same { "gemini-3-pro" } else { "other" },
                    "api":if same { api } else { APIS[random.usize(..4)] }.as_str(),"usage":{},
                    "stopReason":pick(random, &["stop", "toolUse", "toolUse", "length", "error"]),"timestamp":1})
            }
        };
        // The calls of an answer are answered as a rule.
        let calls: Vec<Value> =
            message["content"].as_array().into_iter().flatten().filter(|b| b["type"] == "toolCall").cloned().collect();
        messages.push(message);
        for call in &calls {
            if random.u8(..4) == 0 {
                continue;
            }
            messages.push(
                json!({"role":"toolResult","toolCallId":call["id"],"toolName":call["name"],"content":blocks(random),
                "isError":random.bool(),"timestamp":1}),
            );
        }
    }
    messages.into_iter().map(|message| Arc::new(serde_json::from_value(message).expect("a message"))).collect()
}

/// The first rule that the body breaks.
fn check(api: Api, body: &Value) -> Result<(), String> {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let name = |name: &Value| {
        let name = name.as_str().unwrap_or_default();
        let letter = api != Api::GoogleGenerativeAi || name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
        let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
        ((1..=64).contains(&name.len()) && plain && letter).then_some(()).ok_or(format!("name {name:?}"))
    };
    let full = |text: &Value| {
        let blank = text.as_str().is_none_or(|text| text.trim().is_empty());
        if blank { Err(format!("blank text {text}")) } else { Ok(()) }
    };
    let mut ids: HashSet<String> = HashSet::new();
    let mut fresh = |id: &Value| match id.as_str() {
        Some(id) if !id.is_empty() && ids.insert(id.to_string()) => Ok(()),
        _ => Err(format!("id {id}")),
    };
    let mut open: Vec<String> = Vec::new();
    let close = |open: &mut Vec<String>, id: &Value| {
        let at = open.iter().position(|open| Some(open.as_str()) == id.as_str()).ok_or(format!("result of {id}"))?;
        open.remove(at);
        Ok::<(), String>(())
    };
    let settled = |open: &[String]| if open.is_empty() { Ok(()) } else { Err(format!("without result: {open:?}")) };
    match api {
        Api::AnthropicMessages => {
            let messages = list(&body["messages"]);
            for message in &messages {
                let content = list(&message["content"]);
                if content.is_empty() {
                    return Err("an empty message".into());
                }
                if content[0]["type"] != "tool_result" {
                    settled(&open)?;
                }
                for block in &content {
                    match block["type"].as_str().unwrap_or_default() {
                        "text" => full(&block["text"])?,
                        "thinking" => full(&block["signature"])?,
                        "tool_use" => {
                            fresh(&block["id"])?;
                            name(&block["name"])?;
                            open.push(block["id"].as_str().unwrap_or_default().to_string());
                        }
                        "tool_result" => {
                            close(&mut open, &block["tool_use_id"])?;
                            let inner = list(&block["content"]);
                            inner.iter().filter(|b| b["type"] == "text").try_for_each(|b| full(&b["text"]))?;
                            if inner.is_empty() {
                                return Err("an empty result".into());
                            }
                        }
                        _ => {}
                    }
                }
                let last = content.last().map(|b| b["type"].clone()).unwrap_or_default();
                if message["role"] == "assistant" && (last == "thinking" || last == "redacted_thinking") {
                    return Err("thinking at the end".into());
                }
            }
            if messages.last().is_none_or(|m| m["role"] != "user") || messages[0]["role"] != "user" {
                return Err("the user is not at both ends".into());
            }
        }
        Api::OpenaiCompletions => {
            for message in list(&body["messages"]) {
                if message["role"] != "tool" {
                    settled(&open)?;
                }
                match message["role"].as_str().unwrap_or_default() {
                    "tool" => {
                        if message["content"].as_str().is_none_or(str::is_empty) {
                            return Err("an empty result".into());
                        }
                        close(&mut open, &message["tool_call_id"])?;
                    }
                    "user" if message["content"].is_string() => full(&message["content"])?,
                    "assistant" => {
                        let calls = list(&message["tool_calls"]);
                        if calls.is_empty() {
                            full(&message["content"])?;
                        }
                        let mut own = HashSet::new();
                        for call in calls {
                            let id = call["id"].as_str().unwrap_or_default().to_string();
                            if id.is_empty() || !own.insert(id.clone()) {
                                return Err(format!("id {id:?}"));
                            }
                            open.push(id);
                            name(&call["function"]["name"])?;
                            let arguments = call["function"]["arguments"].as_str().unwrap_or_default();
                            serde_json::from_str::<Map<String, Value>>(arguments).map_err(|e| e.to_string())?;
                        }
                    }
                    _ => {}
                }
            }
        }
        Api::OpenaiResponses => {
            let mut items: HashSet<String> = HashSet::new();
            let mut reasoned = false;
            for item in list(&body["input"]) {
                let kind = item["type"].as_str().unwrap_or_default();
                if let Some(id) = item["id"].as_str()
                    && !items.insert(id.to_string())
                {
                    return Err(format!("item id {id} twice"));
                }
                if reasoned && kind != "reasoning" && kind != "function_call" && item["role"] != "assistant" {
                    return Err("reasoning without its item".into());
                }
                reasoned = kind == "reasoning";
                if item["role"] == "user" {
                    settled(&open)?;
                }
                match kind {
                    "reasoning" => full(&item["encrypted_content"])?,
                    "function_call" => {
                        fresh(&item["call_id"])?;
                        name(&item["name"])?;
                        open.push(item["call_id"].as_str().unwrap_or_default().to_string());
                    }
                    "function_call_output" => close(&mut open, &item["call_id"])?,
                    _ => {}
                }
            }
            if reasoned {
                return Err("reasoning at the end".into());
            }
        }
        Api::GoogleGenerativeAi => {
            let contents = list(&body["contents"]);
            for (at, turn) in contents.iter().enumerate() {
                let parts = list(&turn["parts"]);
                let empty = |part: &Value| part["text"] == "" && part["thoughtSignature"].is_null();
                if parts.is_empty() || parts.iter().any(|part| empty(part) || part == &json!({})) {
                    return Err("an empty part".into());
                }
                let names = |key: &str| -> Vec<Value> {
                    parts.iter().filter(|p| !p[key].is_null()).map(|p| p[key]["name"].clone()).collect()
                };
                let (called, answered) = (names("functionCall"), names("functionResponse"));
                called.iter().try_for_each(name)?;
                if let Some(first) = parts.iter().find(|part| !part["functionCall"].is_null()) {
                    full(&first["thoughtSignature"])?;
                    if at == 0 || contents[at - 1]["role"] != "user" {
                        return Err("a call behind no user".into());
                    }
                    let next = contents.get(at + 1).map(|turn| list(&turn["parts"])).unwrap_or_default();
                    let results: Vec<Value> = next
                        .iter()
                        .filter(|p| !p["functionResponse"].is_null())
                        .map(|p| p["functionResponse"]["name"].clone())
                        .collect();
                    if results != called || results.len() != next.len() {
                        return Err(format!("{called:?} answered by {results:?}"));
                    }
                } else if !answered.is_empty() && (at == 0 || !contents[at - 1].to_string().contains("functionCall")) {
                    return Err("results without calls".into());
                }
            }
        }
        Api::Offline => {}
    }
    settled(&open)
}

#[test]
fn every_history_can_be_sent() {
    for api in APIS {
        let protocol = provider_apis::protocol(api).expect("an API");
        let model = Model { api, id: "gemini-3-pro".to_string(), reasoning: true, ..test_model() };
        let authorization = Authorization { secret: None, scheme: Scheme::Key, headers: Vec::new() };
        let tools =
            [&ToolSpec { name: "bash".to_string(), description: "D".to_string(), parameters: json!({}).into() }];
        for seed in 0..400 {
            let messages = history(&mut fastrand::Rng::with_seed(seed), api);
            let refused = Refused::default();
            let (rules, limits) = (&protocol.rules, Limits { bytes: usize::MAX, images: 3 });
            let options = SendableOptions {
                model: &model,
                rules,
                offered: &tools,
                block_images: false,
                limits,
                surplus: 0,
                refused: &refused,
            };
            let sent = sendable(&messages, &options);
            let again = sendable(&sent, &options);
            assert_eq!(again, sent, "{api:?} {seed}: what is sendable stays as it is");
            let request = Request { tools: &tools, thinking: ThinkingLevel::High, ..test_request(&model, &messages) };
            let http_request = (protocol.prepare)(&RequestContext {
                request: &request,
                model: &model,
                messages: &sent,
                authorization: &authorization,
                max_tokens: 4096,
                budgets: Budgets::default(),
                long_cache: false,
                refused: &refused,
            });
            let body: Value = serde_json::from_slice(&http_request.body).expect("JSON");
            if let Err(why) = check(api, &body) {
                panic!("{api:?}, seed {seed}: {why}\n{body:#}");
            }
        }
    }
}
