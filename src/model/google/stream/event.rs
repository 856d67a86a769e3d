//! The form of an answer's chunks. All of it is read leniently, see [`lenient`](crate::model::lenient). Some gateways write
//! names in snake case, or a field under both names: those are fields of their own here (`snake_…`), because a field that
//! comes twice would make the whole chunk unusable.

use crate::model::lenient::{Count, First, Flag, JsonText, List, Object, Text};
use crate::transcript::Usage;
use serde::Deserialize;
use serde_json::value::RawValue;

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Chunk<'a> {
    #[serde(borrow)]
    pub candidates: First<Candidate<'a>>,
    pub usage_metadata: Object<ReportedUsage>,
    #[serde(rename = "usage_metadata")]
    pub snake_usage_metadata: Object<ReportedUsage>,
    #[serde(borrow)]
    pub response_id: Text<'a>,
    #[serde(borrow)]
    pub model_version: Text<'a>,
    #[serde(borrow)]
    pub prompt_feedback: Object<Feedback<'a>>,
    #[serde(borrow)]
    pub error: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Candidate<'a> {
    #[serde(borrow)]
    pub content: Object<Parts<'a>>,
    #[serde(borrow)]
    pub finish_reason: Text<'a>,
    #[serde(borrow, rename = "finish_reason")]
    pub snake_finish_reason: Text<'a>,
    #[serde(borrow)]
    pub finish_message: Text<'a>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Parts<'a> {
    #[serde(borrow)]
    pub parts: List<Part<'a>>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Part<'a> {
    #[serde(borrow)]
    pub text: Text<'a>,
    pub thought: Flag,
    #[serde(borrow)]
    pub thought_signature: Text<'a>,
    #[serde(borrow, rename = "thought_signature")]
    pub snake_thought_signature: Text<'a>,
    #[serde(borrow)]
    pub function_call: Object<FunctionCall<'a>>,
    #[serde(borrow, rename = "function_call")]
    pub snake_function_call: Object<FunctionCall<'a>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct FunctionCall<'a> {
    #[serde(borrow)]
    pub id: Text<'a>,
    #[serde(borrow)]
    pub name: Text<'a>,
    #[serde(borrow)]
    pub args: JsonText<'a>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Feedback<'a> {
    #[serde(borrow)]
    pub block_reason: Text<'a>,
    #[serde(borrow)]
    pub block_reason_message: Text<'a>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct ReportedUsage {
    pub prompt_token_count: Count,
    pub candidates_token_count: Count,
    pub thoughts_token_count: Count,
    pub cached_content_token_count: Count,
    pub total_token_count: Count,
}

impl ReportedUsage {
    pub(super) fn apply(&self, usage: &mut Usage) {
        let [prompt, candidates, thoughts, cached, total] = [
            self.prompt_token_count,
            self.candidates_token_count,
            self.thoughts_token_count,
            self.cached_content_token_count,
            self.total_token_count,
        ]
        .map(|count| count.0.unwrap_or(0));
        usage.cache_read = cached;
        usage.input = prompt.saturating_sub(cached);
        usage.output = candidates.saturating_add(thoughts);
        usage.reasoning = (thoughts > 0).then_some(thoughts);
        usage.total_tokens = total;
    }
}
