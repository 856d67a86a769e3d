//! JSON Schemas of what tools take.

use serde::{Serialize, Serializer};
use serde_json::Value;
use serde_json::value::{RawValue, to_raw_value};

/// A JSON Schema of type `object`, with its text: every request to a model has the schemas of all tools in it, and
/// writing them anew each time took more than all else that is done for a request.
#[derive(Clone, Debug)]
pub struct Schema {
    value: Value,
    text: Box<RawValue>,
}

impl Schema {
    pub fn value(&self) -> &Value {
        &self.value
    }

    pub fn text(&self) -> &str {
        self.text.get()
    }
}

impl From<Value> for Schema {
    fn from(value: Value) -> Schema {
        // Serialising into memory has no way to fail.
        let text = to_raw_value(&value).unwrap_or_default();
        Schema { value, text }
    }
}

impl Serialize for Schema {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.text.serialize(serializer)
    }
}
