//! The form of an answer's events. All of it is read leniently, see [`lenient`](crate::model::lenient).

use crate::model::lenient::{Count, JsonText, List, Object, Text};
use crate::transcript::Usage;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct DeltaEvent<'a> {
    pub index: Count,
    #[serde(borrow)]
    pub delta: Object<Delta<'a>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Delta<'a> {
    #[serde(borrow)]
    pub text: Text<'a>,
    #[serde(borrow)]
    pub thinking: Text<'a>,
    #[serde(borrow)]
    pub partial_json: JsonText<'a>,
    #[serde(borrow)]
    pub signature: Text<'a>,
}

/// Every other event; absent fields are those of other events. A message that came whole has those of its start and its end.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct AnyEvent<'a> {
    #[serde(borrow, rename = "type")]
    pub kind: Text<'a>,
    pub index: Count,
    #[serde(borrow)]
    pub message: Object<Opening<'a>>,
    #[serde(borrow)]
    pub content_block: Object<BlockStart<'a>>,
    #[serde(borrow)]
    pub delta: Object<Closing<'a>>,
    pub usage: Object<ReportedUsage>,
    #[serde(borrow)]
    pub error: Option<&'a RawValue>,
    #[serde(borrow)]
    pub id: Text<'a>,
    #[serde(borrow)]
    pub model: Text<'a>,
    #[serde(borrow)]
    pub content: List<BlockStart<'a>>,
    #[serde(borrow)]
    pub stop_reason: Text<'a>,
    pub stop_details: Value,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Opening<'a> {
    #[serde(borrow)]
    pub id: Text<'a>,
    #[serde(borrow)]
    pub model: Text<'a>,
    pub usage: Object<ReportedUsage>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct BlockStart<'a> {
    #[serde(borrow, rename = "type")]
    pub kind: Text<'a>,
    #[serde(borrow)]
    pub text: Text<'a>,
    #[serde(borrow)]
    pub thinking: Text<'a>,
    #[serde(borrow)]
    pub signature: Text<'a>,
    #[serde(borrow)]
    pub data: Text<'a>,
    #[serde(borrow)]
    pub id: Text<'a>,
    #[serde(borrow)]
    pub name: Text<'a>,
    #[serde(borrow)]
    pub input: JsonText<'a>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Closing<'a> {
    #[serde(borrow)]
    pub stop_reason: Text<'a>,
    pub stop_details: Value,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct ReportedUsage {
    pub input_tokens: Count,
    pub output_tokens: Count,
    pub cache_read_input_tokens: Count,
    pub cache_creation_input_tokens: Count,
    pub cache_creation: Object<CacheCreation>,
    pub output_tokens_details: Object<OutputDetails>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct CacheCreation {
    pub ephemeral_1h_input_tokens: Count,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct OutputDetails {
    pub thinking_tokens: Count,
}

impl ReportedUsage {
    /// Takes over what is there: servers leave out what has not changed.
    pub(super) fn apply(&self, usage: &mut Usage) {
        let set = |field: &mut u64, value: Count| *field = value.0.unwrap_or(*field);
        set(&mut usage.input, self.input_tokens);
        set(&mut usage.output, self.output_tokens);
        set(&mut usage.cache_read, self.cache_read_input_tokens);
        set(&mut usage.cache_write, self.cache_creation_input_tokens);
        let hour = self.cache_creation.0.as_ref().and_then(|creation| creation.ephemeral_1h_input_tokens.0);
        usage.cache_write_1h = hour.or(usage.cache_write_1h);
        let thoughts = self.output_tokens_details.0.as_ref().and_then(|details| details.thinking_tokens.0);
        usage.reasoning = thoughts.or(usage.reasoning);
    }
}
