//! JSON objects, and JSON that is not quite JSON: as people write it, and as models do.

pub(crate) mod comments;
pub(crate) mod tolerant;

use serde::Serialize;
use serde_json::{Map, Value};

/// The fields of a JSON object, in their order.
pub(crate) type Fields = Map<String, Value>;

/// The fields of a JSON object; none of any other value.
pub fn object(value: Value) -> Fields {
    if let Value::Object(fields) = value { fields } else { Fields::new() }
}

/// The text of a value, or of an object's fields. The `to_string` of a [`Value`] says the same, but formats it piece by piece,
/// which takes several times as long.
pub(crate) fn text(value: &impl Serialize) -> String {
    // Serialising into memory has no way to fail.
    serde_json::to_string(value).unwrap_or_default()
}

/// Takes a text out of an object, without copying it.
pub(crate) fn take_text(fields: &mut Fields, key: &str) -> Option<String> {
    let Value::String(text) = fields.get_mut(key)? else { return None };
    Some(std::mem::take(text))
}
