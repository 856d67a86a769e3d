//! What was said in a session: the message model, the file it is kept in, and what is derived from both.

pub mod compaction;
pub mod contents;
pub mod locate;
pub mod message;
pub mod restore;
pub mod session_file;
pub mod shorten;
pub mod stored_message;

pub use crate::clock::{iso_time, now_ms};
pub use message::{
    AssistantMessage, Block, Content, Cost, Message, StopReason, ToolResultMessage, ToolSpec, Usage, UserMessage,
};

use serde_json::{Map, Value};

/// The fields of a JSON object; none of any other value.
pub fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

/// Takes a text out of an object, without copying it.
fn take_text(fields: &mut Map<String, Value>, key: &str) -> Option<String> {
    match fields.get_mut(key)? {
        Value::String(text) => Some(std::mem::take(text)),
        _ => None,
    }
}
