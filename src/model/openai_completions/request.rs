//! The request.

use super::messages::{ApiMessage, CacheControl, Tool, api_messages, tools};
use crate::model::compat::{Affinity, Compat, ThinkingFormat};
use crate::model::google::Family;
use crate::model::protocol::{HttpRequest, RequestContext, configure};
use crate::model::sendable::Habit;
use crate::model::thinking::ThinkingLevel;
use crate::transcript::Message;
use serde::Serialize;
use serde_json::{Map, Value, json};

/// What has to be left for the answer beside the thoughts; tokens.
const MIN_ANSWER: u64 = 1024;
/// The longest cache key that OpenAI takes, in characters.
const MAX_CACHE_KEY: usize = 64;

#[derive(Serialize)]
struct Body<'a> {
    model: &'a str,
    messages: Vec<ApiMessage<'a>>,
    stream: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    stream_options: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    store: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tools: Option<Vec<Tool<'a>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_cache_key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_cache_retention: Option<&'static str>,
    /// What only some servers take: the limit under its name, thinking, routing, sampling.
    #[serde(flatten)]
    special: Map<String, Value>,
}

/// Writes the HTTP request.
pub(super) fn prepare(context: &RequestContext<'_>) -> HttpRequest {
    let (model, request) = (context.model, context.request);
    let mut compat = Compat::of(model);
    compat.developer_role &= !context.has(Habit::NoDeveloperRole);
    compat.reasoning_content_always |= context.has(Habit::WantsReasoning);
    let gemini =
        model.base_url.contains("generativelanguage.googleapis.com") && Family::of(&model.id).wants_signatures();
    let signatures = gemini || context.has(Habit::WantsSignatures);
    let long = context.long_cache && compat.long_cache_retention;
    let marked = compat.cache_markers && request.session_id.is_some();
    let cache = marked.then(|| CacheControl { ttl: long.then_some("1h") });
    let declared = tools(request.tools, &compat, cache);
    let history = || {
        let has_calls = |m: &std::sync::Arc<Message>| matches!(&**m, Message::Assistant(m) if m.has_tool_calls());
        compat.tools_with_tool_history && context.messages.iter().any(has_calls)
    };
    let mut special = Map::new();
    special.insert(compat.max_tokens_field.to_string(), json!(context.max_tokens));
    if model.reasoning {
        think(context, &compat, &mut special);
    }
    if compat.tool_stream && !declared.is_empty() {
        special.insert("tool_stream".to_string(), json!(true));
    }
    for (flag, field) in [("openRouterRouting", "provider"), ("vllmPriority", "priority")] {
        if let Some(value) = model.compat.get(flag) {
            special.insert(field.to_string(), value.clone());
        }
    }
    if let Some(routing) = model.compat.get("vercelGatewayRouting") {
        special.insert("providerOptions".to_string(), json!({ "gateway": routing }));
    }
    if let Some(Value::Object(params)) = model.compat.get("samplingParams") {
        special.extend(params.clone());
    }
    let body = Body {
        model: &model.id,
        messages: api_messages(context, &compat, signatures, cache),
        stream: true,
        stream_options: compat.usage_in_streaming.then(|| json!({"include_usage": true})),
        store: compat.store.then_some(false),
        tools: (!declared.is_empty() || history()).then_some(declared),
        prompt_cache_key: request
            .session_id
            .filter(|_| compat.prompt_cache_key || long)
            .map(|id| id.chars().take(MAX_CACHE_KEY).collect()),
        prompt_cache_retention: long.then_some("24h"),
        special,
    };
    let mut headers = context.headers("authorization");
    headers.push(("accept".to_string(), "text/event-stream".to_string()));
    let affinity: &[&str] = match compat.affinity {
        Affinity::None => &[],
        Affinity::Openai { session_id: true } => &["session_id", "x-client-request-id", "x-session-affinity"],
        Affinity::Openai { session_id: false } => &["x-client-request-id", "x-session-affinity"],
        Affinity::Openrouter => &["x-session-id"],
    };
    headers.extend(
        request.session_id.iter().flat_map(|id| affinity.iter().map(|name| (name.to_string(), id.to_string()))),
    );
    configure(&mut headers, context.authorization);
    HttpRequest {
        url: format!("{}/chat/completions", model.base_url),
        headers,
        // Serialising strings and numbers into memory has no way to fail.
        body: serde_json::to_vec(&body).unwrap_or_default(),
    }
}

/// Asks for thoughts, or for none, in the server's way.
fn think(context: &RequestContext<'_>, compat: &Compat, out: &mut Map<String, Value>) {
    let (model, level) = (context.model, context.request.thinking);
    let on = level != ThinkingLevel::Off;
    // The level by the model's own name for it. Switched off, that is the name of "off".
    let mapped = model.mapped(level);
    let effort = mapped.unwrap_or(level.as_str());
    let off_allowed = !model.thinks_always();
    let off = mapped.unwrap_or("none");
    let mut set = |name: &str, value: Value| {
        out.insert(name.to_string(), value);
    };
    let also_effort = match compat.thinking_format {
        ThinkingFormat::Openai => {
            if !on
                && compat.reasoning_effort
                && let Some(off) = mapped
            {
                set("reasoning_effort", json!(off));
            }
            true
        }
        ThinkingFormat::Openrouter => {
            if on {
                set("reasoning", json!({ "effort": effort }));
            } else if off_allowed {
                set("reasoning", json!({ "effort": off }));
            }
            false
        }
        ThinkingFormat::Deepseek => {
            if on {
                set("thinking", json!({"type": "enabled"}));
            } else if off_allowed {
                set("thinking", json!({"type": "disabled"}));
            }
            true
        }
        ThinkingFormat::Zai => {
            if on {
                set("thinking", json!({"type": "enabled", "clear_thinking": false}));
            } else if off_allowed {
                set("thinking", json!({"type": "disabled"}));
            }
            true
        }
        ThinkingFormat::Qwen => {
            set("enable_thinking", json!(on));
            true
        }
        ThinkingFormat::QwenChatTemplate => {
            set("chat_template_kwargs", json!({"enable_thinking": on, "preserve_thinking": true}));
            false
        }
        ThinkingFormat::ChatTemplate | ThinkingFormat::Baseten => {
            for (flag, field) in
                [("chatTemplateKwargs", "chat_template_kwargs"), ("chatTemplateArgs", "chat_template_args")]
            {
                if let Some(Value::Object(template)) = model.compat.get(flag) {
                    set(field, Value::Object(fill(template, on, effort, context.budget())));
                }
            }
            compat.thinking_format == ThinkingFormat::Baseten
        }
        ThinkingFormat::Together => {
            set("reasoning", json!({ "enabled": on }));
            true
        }
        ThinkingFormat::StringThinking => {
            if on {
                set("thinking", json!(effort));
            } else if off_allowed {
                set("thinking", json!(off));
            }
            false
        }
        ThinkingFormat::AntLing => {
            if on && let Some(effort) = mapped {
                set("reasoning", json!({ "effort": effort }));
            }
            false
        }
    };
    if on && also_effort && compat.reasoning_effort {
        set("reasoning_effort", json!(effort));
    }
    if on && let Some(field) = model.compat.get("thinkingTokenBudgetField").and_then(Value::as_str) {
        set(field, json!(context.budget().min(context.max_tokens.saturating_sub(MIN_ANSWER))));
    }
}

/// A template's arguments with their variables replaced.
fn fill(template: &Map<String, Value>, on: bool, effort: &str, budget: u64) -> Map<String, Value> {
    let mut out = Map::new();
    for (name, value) in template {
        let Some(variable) = value.get("$var").and_then(Value::as_str) else {
            out.insert(name.clone(), value.clone());
            continue;
        };
        if !on && value.get("omitWhenOff").and_then(Value::as_bool) == Some(true) {
            continue;
        }
        let value = match variable {
            "thinking.enabled" => json!(on),
            "thinking.effort" => json!(effort),
            "thinking.budget" => json!(budget),
            _ => continue,
        };
        out.insert(name.clone(), value);
    }
    out
}

#[cfg(test)]
mod tests;
