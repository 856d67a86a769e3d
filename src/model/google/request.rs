//! The request.

use super::family::{Family, NO_SIGNATURE};
use crate::model::model_info::Model;
use crate::model::protocol::{HttpRequest, RequestContext, configure};
use crate::model::sendable::Habit;
use crate::model::thinking::ThinkingLevel;
use crate::transcript::{AssistantMessage, Block, Content, Message, ToolResultMessage};
use serde::Serialize;
use serde_json::{Map, Value, json};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Body<'a> {
    contents: Vec<ApiMessage<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    system_instruction: Option<ApiMessage<'a>>,
    generation_config: Value,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tools: Vec<Value>,
}

#[derive(Serialize)]
struct ApiMessage<'a> {
    role: &'static str,
    parts: Vec<Part<'a>>,
}

/// One part of a message; its fields say of which kind it is.
#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Part<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'a str>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    thought: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    inline_data: Option<InlineData<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    function_call: Option<FunctionCall<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    function_response: Option<FunctionResponse<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    thought_signature: Option<&'a str>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct InlineData<'a> {
    mime_type: &'a str,
    data: &'a str,
}

#[derive(Serialize)]
struct FunctionCall<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    name: &'a str,
    args: &'a Map<String, Value>,
}

#[derive(Serialize)]
struct FunctionResponse<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    name: &'a str,
    response: Value,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    parts: Vec<Part<'a>>,
}

/// Writes the HTTP request.
pub(super) fn prepare(context: &RequestContext<'_>) -> HttpRequest {
    let (model, request) = (context.model, context.request);
    let mut config = json!({"maxOutputTokens": context.max_tokens});
    if let Some(thinking) = thinking(context) {
        config["thinkingConfig"] = thinking;
    }
    let declare = |tool: &&crate::transcript::ToolSpec| {
        let mut schema = tool.parameters.value().clone();
        constants_to_enums(&mut schema);
        json!({"name": tool.name, "description": tool.description, "parametersJsonSchema": schema})
    };
    let declarations: Vec<Value> = request.tools.iter().map(declare).collect();
    let system = ApiMessage { role: "user", parts: vec![Part { text: Some(request.system), ..Part::default() }] };
    let body = Body {
        contents: api_messages(context),
        system_instruction: (!request.system.is_empty()).then_some(system),
        generation_config: config,
        tools: if declarations.is_empty() { Vec::new() } else { vec![json!({"functionDeclarations": declarations})] },
    };
    let mut headers = context.headers("x-goog-api-key");
    configure(&mut headers, context.authorization);
    HttpRequest {
        url: format!("{}/models/{}:streamGenerateContent?alt=sse", model.base_url, model.id),
        headers,
        // Serialising strings and numbers into memory has no way to fail.
        body: serde_json::to_vec(&body).unwrap_or_default(),
    }
}

fn thinking(context: &RequestContext<'_>) -> Option<Value> {
    let (model, level) = (context.model, context.request.thinking);
    if !model.reasoning {
        return None;
    }
    let named = |level: ThinkingLevel| {
        let name = model.mapped(level).unwrap_or(match level {
            ThinkingLevel::Off | ThinkingLevel::Minimal => "MINIMAL",
            ThinkingLevel::Low => "LOW",
            ThinkingLevel::Medium => "MEDIUM",
            ThinkingLevel::High | ThinkingLevel::Xhigh | ThinkingLevel::Max => "HIGH",
        });
        name.to_ascii_uppercase()
    };
    let off = level == ThinkingLevel::Off;
    if Family::of(&model.id).levels {
        // These models cannot stop thinking: the least they can do is what "off" comes to.
        return Some(if off {
            json!({"thinkingLevel": named(model.clamp(ThinkingLevel::Minimal))})
        } else {
            json!({"includeThoughts": true, "thinkingLevel": named(level)})
        });
    }
    if off {
        return (!model.thinks_always()).then(|| json!({"thinkingBudget": 0}));
    }
    let budget = context.budgets.configured(level).map_or_else(|| budget(&model.id, level), |tokens| json!(tokens));
    Some(json!({"includeThoughts": true, "thinkingBudget": budget}))
}

/// Tokens of thought for models that take a number; -1 leaves it to the model.
fn budget(id: &str, level: ThinkingLevel) -> Value {
    let steps: [i64; 4] = if id.contains("2.5-pro") {
        [128, 2048, 8192, 32_768]
    } else if id.contains("2.5-flash-lite") {
        [512, 2048, 8192, 24_576]
    } else if id.contains("2.5-flash") {
        [128, 2048, 8192, 24_576]
    } else {
        [-1; 4]
    };
    json!(match level {
        ThinkingLevel::Off | ThinkingLevel::Minimal => steps[0],
        ThinkingLevel::Low => steps[1],
        ThinkingLevel::Medium => steps[2],
        ThinkingLevel::High | ThinkingLevel::Xhigh | ThinkingLevel::Max => steps[3],
    })
}

/// The API does not know constants, but lists with one element.
fn constants_to_enums(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            if let Some(constant) = map.get("const").filter(|c| c.is_string() || c.is_number()).cloned() {
                map.remove("const");
                map.insert("enum".to_string(), json!([constant]));
            }
            map.values_mut().for_each(constants_to_enums);
        }
        Value::Array(list) => list.iter_mut().for_each(constants_to_enums),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn api_messages<'a>(context: &RequestContext<'a>) -> Vec<ApiMessage<'a>> {
    let model = context.model;
    let mut api_messages: Vec<ApiMessage<'a>> = Vec::new();
    let mut results: Vec<&'a ToolResultMessage> = Vec::new();
    for message in context.messages {
        if let Message::ToolResult(result) = &**message {
            results.push(result);
            continue;
        }
        tool_results(&mut results, model, &mut api_messages);
        let (role, parts) = match &**message {
            Message::User(user) => (
                "user",
                match &user.content {
                    Content::Text(text) => vec![Part { text: Some(text), ..Part::default() }],
                    Content::Blocks(blocks) => blocks.iter().filter_map(user_part).collect(),
                },
            ),
            Message::Assistant(message) => ("model", assistant_parts(message, model)),
            Message::ToolResult(_) => continue,
        };
        match api_messages.last_mut() {
            // A call is refused behind a turn of the model's own.
            Some(last) if role == "model" && last.role == "model" => last.parts.extend(parts),
            _ if parts.is_empty() => {}
            _ => api_messages.push(ApiMessage { role, parts }),
        }
    }
    tool_results(&mut results, model, &mut api_messages);
    if Family::of(&model.id).wants_signatures() || context.has(Habit::WantsSignatures) {
        for turn in &mut api_messages {
            if let Some(call) = turn.parts.iter_mut().find(|part| part.function_call.is_some()) {
                call.thought_signature.get_or_insert(NO_SIGNATURE);
            }
        }
    }
    api_messages
}

fn user_part(block: &Block) -> Option<Part<'_>> {
    match block {
        Block::Text { text, .. } => (!text.is_empty()).then(|| Part { text: Some(text), ..Part::default() }),
        Block::Image { data, mime_type } => {
            Some(Part { inline_data: Some(InlineData { mime_type, data }), ..Part::default() })
        }
        Block::Thinking { .. } | Block::ToolCall { .. } => None,
    }
}

fn assistant_parts<'a>(message: &'a AssistantMessage, model: &Model) -> Vec<Part<'a>> {
    let own = message.provider == model.provider && message.model == model.id;
    // A signature is base64; anything else would fail the whole request.
    let valid = |signature: &&str| own && !signature.is_empty() && signature.len().is_multiple_of(4);
    let ids = Family::of(&model.id).sends_ids(&model.id);
    let part = |block: &'a Block| match block {
        Block::Text { text, text_signature } => {
            let thought_signature = text_signature.as_deref().filter(valid);
            (!text.is_empty() || thought_signature.is_some()).then(|| Part {
                text: Some(text),
                thought_signature,
                ..Part::default()
            })
        }
        Block::Thinking { thinking, thinking_signature, .. } => {
            let thought_signature = thinking_signature.as_deref().filter(valid);
            (!thinking.is_empty() || thought_signature.is_some()).then(|| Part {
                text: Some(thinking),
                thought: true,
                thought_signature,
                ..Part::default()
            })
        }
        Block::ToolCall { id, name, arguments, thought_signature, .. } => Some(Part {
            function_call: Some(FunctionCall { id: ids.then_some(id), name, args: arguments }),
            thought_signature: thought_signature.as_deref().filter(valid),
            ..Part::default()
        }),
        Block::Image { .. } => None,
    };
    message.content.iter().filter_map(part).collect()
}

/// One user turn with all results of a batch. Older models take images only in a turn of their own.
fn tool_results<'a>(results: &mut Vec<&'a ToolResultMessage>, model: &Model, api_messages: &mut Vec<ApiMessage<'a>>) {
    if results.is_empty() {
        return;
    }
    let family = Family::of(&model.id);
    let ids = family.sends_ids(&model.id);
    let (mut parts, mut images) = (Vec::with_capacity(results.len()), Vec::new());
    for result in results.drain(..) {
        let texts: Vec<&str> = result.content.iter().filter_map(Block::as_text).collect();
        let seen: Vec<Part<'a>> =
            result.content.iter().filter(|b| matches!(b, Block::Image { .. })).filter_map(user_part).collect();
        let text = texts.join("\n");
        let text = if text.is_empty() && !seen.is_empty() { "(see attached image)".to_string() } else { text };
        let nested = if family.images_in_results() {
            seen
        } else {
            images.extend(seen);
            Vec::new()
        };
        parts.push(Part {
            function_response: Some(FunctionResponse {
                id: ids.then_some(&result.tool_call_id),
                name: &result.tool_name,
                response: if result.is_error { json!({ "error": text }) } else { json!({ "output": text }) },
                parts: nested,
            }),
            ..Part::default()
        });
    }
    api_messages.push(ApiMessage { role: "user", parts });
    if !images.is_empty() {
        images.insert(0, Part { text: Some("Tool result image:"), ..Part::default() });
        api_messages.push(ApiMessage { role: "user", parts: images });
    }
}

#[cfg(test)]
mod tests;
