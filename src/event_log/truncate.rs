//! What of an event's payload goes into the event itself.
//!
//! Clients of the side channel are of three kinds: old ones that read whole payloads, newer ones that read only the
//! compact fields (sizes, previews, identity), and programs that put the history into a model's context and need it small.
//! So a payload that fits into `max_event_bytes` together with its compact fields goes out with both, unmarked, as nothing
//! is missing. A larger one goes out as its compact fields and its small scalar fields, marked as truncated.
//!
//! Streaming events are built from their delta alone: a cumulative message in them is never measured, kept or spilled,
//! since that made the costs of an answer grow with the square of its length.

use crate::json::{self, Fields};
use serde_json::{Value, json};

/// How large the parts of an event may be, in bytes of JSON.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub max_event_bytes: usize,
    /// Of each preview, and of each scalar that a truncated payload keeps.
    pub preview_bytes: usize,
}

/// An event's payload as it goes out.
#[derive(Debug, PartialEq)]
pub(super) struct Truncated {
    /// JSON of the event's `data`.
    pub data: String,
    /// Present if `data` is not all of the payload.
    pub loss: Option<Loss>,
}

/// What a truncated event leaves out.
#[derive(Debug, PartialEq)]
pub(super) struct Loss {
    /// Bytes of the payload's JSON; of the delta alone for an answer's piece, and 0 for a tool's intermediate result.
    pub original_bytes: usize,
    /// JSON of the whole payload, to be kept elsewhere; absent for streaming events.
    pub original: Option<String>,
}

/// Where a piece of an answer may be.
const DELTA: [&str; 3] = ["delta", "text", "content"];

/// Brings a payload into the form in which it goes out.
pub(super) fn truncate(event: &str, payload: Value, limits: Limits) -> Truncated {
    let Value::Object(fields) = payload else { return any(event, &payload, limits) };
    let compact_fields = match event {
        "message_update" => return message_update(&fields, limits),
        "tool_execution_update" => return tool_update(fields, limits),
        "tool_execution_start" | "tool_execution_end" => tool(&fields, limits),
        "input" => input(&fields, limits),
        "agent_end" => agent_end(&fields, limits),
        "session_info_changed" => text_fields("name", fields.get("name").and_then(Value::as_str), limits),
        "session_compact" | "session_tree" => whole(&fields, limits),
        _ => return any(event, &Value::Object(fields), limits),
    };
    let original = json::text(&fields);
    let compact_size: usize = compact_fields.iter().map(|(key, value)| key.len() + value.to_string().len() + 4).sum();
    if original.len() + compact_size <= limits.max_event_bytes {
        let mut data = fields;
        data.extend(compact_fields);
        return Truncated { data: json::text(&data), loss: None };
    }
    let mut data = skeleton(&fields, 0, limits.preview_bytes);
    data.extend(compact_fields);
    if data.contains_key("preview") {
        data.insert("truncated".into(), json!(true));
    }
    let loss = Loss { original_bytes: original.len(), original: Some(original) };
    let mut text = json::text(&data);
    if text.len() > limits.max_event_bytes {
        text = descriptor(event, loss.original_bytes, Fields::new(), limits);
    }
    Truncated { data: text, loss: Some(loss) }
}

/// The rule for events without one of their own.
fn any(event: &str, payload: &Value, limits: Limits) -> Truncated {
    let text = json::text(payload);
    if text.len() <= limits.max_event_bytes {
        return Truncated { data: text, loss: None };
    }
    // Deep enough for `message.usage.cost`.
    let kept = payload.as_object().map(|fields| skeleton(fields, 3, limits.preview_bytes)).unwrap_or_default();
    let loss = Loss { original_bytes: text.len(), original: Some(text) };
    Truncated { data: descriptor(event, loss.original_bytes, kept, limits), loss: Some(loss) }
}

/// What stands in for a payload that is too large: its size, and who and what it is about, if there is room for that.
fn descriptor(event: &str, original_bytes: usize, mut kept: Fields, limits: Limits) -> String {
    let stats = json!({
        "summary": format!("{event}: {original_bytes} bytes, more than an event may have"),
        "truncated": true,
        "originalBytes": original_bytes,
        "maxBytes": limits.max_event_bytes,
    });
    let alone = stats.to_string();
    if let Value::Object(stats) = stats {
        kept.extend(stats);
    }
    let text = json::text(&kept);
    if text.len() > limits.max_event_bytes { alone } else { text }
}

/// The scalars of at most `max` bytes, also of the objects within, down to `depth`: role, stop reason, usage, ids.
fn skeleton(fields: &Fields, depth: usize, max: usize) -> Fields {
    let mut kept = Fields::new();
    for (key, value) in fields {
        match value {
            Value::String(text) if text.len() > max => {}
            Value::Array(_) => {}
            Value::Object(inner) => {
                if depth > 0 {
                    let inner = skeleton(inner, depth - 1, max);
                    if !inner.is_empty() {
                        kept.insert(key.clone(), Value::Object(inner));
                    }
                }
            }
            scalar @ (Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_)) => {
                kept.insert(key.clone(), scalar.clone());
            }
        }
    }
    kept
}

/// The first of `keys` that is there and not null.
fn first<'v>(fields: &'v Fields, keys: &[&str]) -> Option<&'v Value> {
    keys.iter().filter_map(|key| fields.get(*key)).find(|value| !value.is_null())
}

fn object<'v>(fields: &'v Fields, key: &str) -> Option<&'v Fields> {
    fields.get(key).and_then(Value::as_object)
}

/// Copies what is there of `names`.
fn copy(from: &Fields, to: &mut Fields, names: &[&str]) {
    for name in names {
        if let Some(value) = first(from, &[name]) {
            to.insert((*name).into(), value.clone());
        }
    }
}

/// The text of a value: itself if it is a string, else its JSON.
fn text_of(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// As much of the beginning as fits into `max` bytes.
fn preview(text: &str, max: usize) -> &str {
    &text[..text.floor_char_boundary(max)]
}

/// `<name>Bytes` (UTF-8), `<name>Length` (UTF-16 units, as the protocol's first clients count), `<name>Preview`, and
/// `<name>Truncated` if the preview is not all.
fn text_fields(name: &str, text: Option<&str>, limits: Limits) -> Fields {
    let mut fields = Fields::new();
    if let Some(text) = text {
        let preview = preview(text, limits.preview_bytes);
        fields.insert(format!("{name}Bytes"), json!(text.len()));
        fields.insert(format!("{name}Length"), json!(text.encode_utf16().count()));
        fields.insert(format!("{name}Preview"), json!(preview));
        if preview.len() < text.len() {
            fields.insert(format!("{name}Truncated"), json!(true));
        }
    }
    fields
}

fn input(fields: &Fields, limits: Limits) -> Fields {
    let text = first(fields, &["text"]).map(text_of);
    let mut compact = text_fields("text", text.as_deref(), limits);
    copy(fields, &mut compact, &["source"]);
    let behavior = match first(fields, &["streamingBehavior", "streaming_behavior"]).and_then(Value::as_str) {
        Some("steer") => Some("steer"),
        Some("followUp" | "follow_up" | "follow-up") => Some("followUp"),
        _ => None,
    };
    if let Some(behavior) = behavior {
        compact.insert("streamingBehavior".into(), json!(behavior));
    }
    if let Some(images) = fields.get("images").and_then(Value::as_array).filter(|images| !images.is_empty()) {
        compact.insert("imagesCount".into(), json!(images.len()));
    }
    compact
}

/// A piece of an answer: the delta in full if it fits, so that who listens can put the answer together.
fn message_update(fields: &Fields, limits: Limits) -> Truncated {
    let event = object(fields, "assistantMessageEvent");
    let message = object(fields, "message");
    let nested = event.and_then(|event| object(event, "message"));
    // Without an event of the model's stream the message is all there is; with one it is what has come so far, again.
    let last = if event.is_none() { message } else { None };
    let sources = || [Some(fields), nested, event, last].into_iter().flatten();
    let identity = || [Some(fields), nested, event, message].into_iter().flatten();

    let mut data = Fields::new();
    copy(fields, &mut data, &["type"]);
    if let Some(role) = message.and_then(|message| first(message, &["role"])) {
        data.insert("message".into(), json!({"role": role}));
    }
    for (name, keys) in [
        ("role", &["role"][..]),
        ("messageId", &["messageId", "message_id"]),
        ("contentIndex", &["contentIndex", "content_index"]),
    ] {
        if let Some(value) = identity().find_map(|source| first(source, keys)) {
            data.insert(name.into(), value.clone());
        }
    }
    if !data.contains_key("messageId")
        && let Some(id) = [nested, message].into_iter().flatten().find_map(|source| first(source, &["id"]))
    {
        data.insert("messageId".into(), id.clone());
    }
    if !data.contains_key("type")
        && let Some(kind) = [nested, event].into_iter().flatten().find_map(|source| first(source, &["type"]))
    {
        data.insert("type".into(), kind.clone());
    }
    if let Some(event) = event {
        let mut kept = skeleton(event, 0, limits.preview_bytes);
        for repeated in DELTA {
            kept.shift_remove(repeated);
        }
        data.insert("assistantMessageEvent".into(), Value::Object(kept));
    }
    let Some(delta) = sources().find_map(|source| first(source, &DELTA)).map(text_of) else {
        return Truncated { data: json::text(&data), loss: None };
    };
    data.insert("deltaLength".into(), json!(delta.encode_utf16().count()));
    data.insert("deltaBytes".into(), json!(delta.len()));
    data.insert("deltaPreview".into(), json!(preview(&delta, limits.preview_bytes)));
    if delta.len() <= limits.max_event_bytes {
        let mut whole = data.clone();
        // Where clients look that read whole payloads.
        match whole.get_mut("assistantMessageEvent") {
            Some(Value::Object(event)) if first(fields, &DELTA).is_none() => event.insert("delta".into(), json!(delta)),
            _ => whole.insert("delta".into(), json!(delta)),
        };
        let text = json::text(&whole);
        if text.len() <= limits.max_event_bytes {
            return Truncated { data: text, loss: None };
        }
    }
    data.insert("deltaTruncated".into(), json!(true));
    Truncated { data: json::text(&data), loss: Some(Loss { original_bytes: delta.len(), original: None }) }
}

/// What identifies a tool call, wherever in the payload it is.
fn tool_identity(fields: &Fields) -> Fields {
    let nested = ["toolUse", "toolCall", "tool_call", "toolExecution"].into_iter().find_map(|key| object(fields, key));
    let mut identity = Fields::new();
    for (name, keys) in [
        ("toolName", &["toolName", "tool_name", "name"][..]),
        ("toolUseId", &["toolUseId", "tool_use_id", "toolCallId", "tool_call_id", "id"]),
        ("status", &["status"]),
        ("isError", &["isError", "is_error"]),
        ("artifactPath", &["artifactPath", "artifact_path"]),
        ("logPath", &["logPath", "log_path"]),
        ("detailPath", &["detailPath", "detail_path"]),
    ] {
        let value = [Some(fields), nested].into_iter().flatten().find_map(|source| first(source, keys));
        if let Some(value) = value {
            identity.insert(name.into(), value.clone());
        }
    }
    identity
}

fn tool(fields: &Fields, limits: Limits) -> Fields {
    let mut compact = tool_identity(fields);
    for key in ["input", "arguments", "args", "result", "output", "content", "error", "delta"] {
        if let Some(value) = first(fields, &[key]) {
            let text = text_of(value);
            compact.insert(format!("{key}Bytes"), json!(text.len()));
            compact.insert(format!("{key}Preview"), json!(preview(&text, limits.preview_bytes)));
        }
    }
    compact
}

/// An intermediate result of a tool, as a whole or not at all.
fn tool_update(mut fields: Fields, limits: Limits) -> Truncated {
    let identity = tool_identity(&fields);
    let mut room = limits.max_event_bytes;
    if fields.values().all(|value| may_fit(value, &mut room)) {
        fields.extend(identity.clone());
        let text = json::text(&fields);
        if text.len() <= limits.max_event_bytes {
            return Truncated { data: text, loss: None };
        }
    }
    let mut data = skeleton(&fields, 0, limits.preview_bytes);
    data.extend(identity);
    Truncated { data: json::text(&data), loss: Some(Loss { original_bytes: 0, original: None }) }
}

/// False if the value's JSON certainly needs more than `room` bytes, without making that JSON.
fn may_fit(value: &Value, room: &mut usize) -> bool {
    let size = value.as_str().map_or(1, |text| text.len() + 2);
    if size > *room {
        return false;
    }
    *room -= size;
    match value {
        Value::Array(items) => items.iter().all(|item| may_fit(item, room)),
        Value::Object(fields) => fields.values().all(|value| may_fit(value, room)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => true,
    }
}

fn agent_end(fields: &Fields, limits: Limits) -> Fields {
    let messages = fields.get("messages").and_then(Value::as_array);
    let single = first(fields, &["message"]);
    let final_text = messages
        .and_then(|messages| messages.iter().rev().find_map(last_text))
        .or_else(|| [single, fields.get("content")].into_iter().flatten().find_map(last_text))
        .or_else(|| ["text", "finalText"].into_iter().filter_map(|key| fields.get(key)).find_map(last_text));
    let mut compact = Fields::new();
    copy(fields, &mut compact, &["status", "stopReason", "willRetry", "usage"]);
    let count = messages.map(Vec::len).or(single.map(|_| 1));
    if let Some(count) = count {
        compact.insert("messagesCount".into(), json!(count));
    }
    compact.extend(text_fields("finalText", final_text, limits));
    compact
}

/// The last text that is not blank in a message, a list of blocks, a block or a string.
fn last_text(value: &Value) -> Option<&str> {
    match value {
        Value::String(text) => Some(text.as_str()).filter(|text| !text.trim().is_empty()),
        Value::Array(items) => items.iter().rev().find_map(last_text),
        Value::Object(fields) => ["content", "text"].iter().filter_map(|key| fields.get(*key)).find_map(last_text),
        Value::Null | Value::Bool(_) | Value::Number(_) => None,
    }
}

/// For events whose payload has no form that is known here.
fn whole(fields: &Fields, limits: Limits) -> Fields {
    let text = json::text(fields);
    let mut compact = Fields::new();
    compact.insert("bytes".into(), json!(text.len()));
    compact.insert("preview".into(), json!(preview(&text, limits.preview_bytes)));
    compact
}

#[cfg(test)]
mod tests;
