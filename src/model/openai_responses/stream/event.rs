//! The form of an answer's events. All of it is read leniently, see [`lenient`](crate::model::lenient).

use crate::json::tolerant;
use crate::model::lenient::{Count, JsonText, Object, Text};
use crate::model::openai_fields::{Content, Id, Parts};
use crate::model::openai_usage::ReportedUsage;
use serde::Deserialize;
use serde_json::value::RawValue;

/// A piece of text or thought.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Delta<'a> {
    pub output_index: Count,
    #[serde(borrow)]
    pub item_id: Id<'a>,
    #[serde(borrow)]
    pub delta: Text<'a>,
}

/// Any other event, or a whole response, where a server does not stream.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Any<'a> {
    #[serde(borrow, rename = "type")]
    pub kind: Text<'a>,
    #[serde(borrow)]
    pub object: Text<'a>,
    pub output_index: Count,
    #[serde(borrow)]
    pub item_id: Id<'a>,
    #[serde(borrow)]
    pub item: Option<&'a RawValue>,
    #[serde(borrow)]
    pub delta: JsonText<'a>,
    #[serde(borrow)]
    pub arguments: JsonText<'a>,
    #[serde(borrow)]
    pub text: Text<'a>,
    #[serde(borrow)]
    pub response: Option<&'a RawValue>,
    #[serde(borrow)]
    pub error: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Response<'a> {
    #[serde(borrow)]
    pub id: Text<'a>,
    #[serde(borrow)]
    pub model: Text<'a>,
    #[serde(borrow)]
    pub status: Text<'a>,
    #[serde(borrow)]
    pub error: Option<&'a RawValue>,
    #[serde(borrow)]
    pub incomplete_details: Object<Incomplete<'a>>,
    pub usage: Object<Box<ReportedUsage>>,
    #[serde(borrow)]
    pub output: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Incomplete<'a> {
    #[serde(borrow)]
    pub reason: Text<'a>,
}

/// An item of the answer.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct OutputItem<'a> {
    #[serde(borrow, rename = "type")]
    pub kind: Text<'a>,
    #[serde(borrow)]
    pub id: Id<'a>,
    #[serde(borrow)]
    pub call_id: Id<'a>,
    #[serde(borrow)]
    pub name: Text<'a>,
    #[serde(borrow)]
    pub arguments: JsonText<'a>,
    #[serde(borrow)]
    pub phase: Text<'a>,
    #[serde(borrow)]
    pub content: Content<'a>,
    #[serde(borrow)]
    pub text: Text<'a>,
    #[serde(borrow)]
    pub encrypted_content: Text<'a>,
}

/// The thoughts of an item, in paragraphs.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Thoughts<'a> {
    #[serde(borrow)]
    summary: Parts<'a>,
    #[serde(borrow)]
    content: Parts<'a>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Kind {
    Text,
    Thinking,
    Tool,
}

impl OutputItem<'_> {
    /// What the item is to us. Work that the provider does for itself is no part of the answer.
    pub(super) fn kind(&self) -> Option<Kind> {
        match self.kind.as_str() {
            "reasoning" => Some(Kind::Thinking),
            "message" | "text" | "output_text" => Some(Kind::Text),
            "function_call" => Some(Kind::Tool),
            "" if self.name.filled().is_some() => Some(Kind::Tool),
            "" if !self.text().is_empty() => Some(Kind::Text),
            _ => None,
        }
    }

    /// What a message says.
    pub(super) fn text(&self) -> &str {
        self.content.text.filled().unwrap_or_else(|| self.text.as_str())
    }

    /// The arguments of a call, where there are some.
    pub(super) fn arguments(&self) -> Option<&str> {
        self.arguments.0.as_deref().filter(|arguments| !arguments.trim().is_empty())
    }
}

/// The thoughts of a reasoning item: the summary, or else what there is.
pub(super) fn thoughts(item: &RawValue) -> String {
    let mut repaired = String::new();
    let thoughts: Thoughts<'_> = tolerant::parse(item.get().as_bytes(), &mut repaired).unwrap_or_default();
    let summary = thoughts.summary.joined();
    if summary.is_empty() { thoughts.content.joined() } else { summary }
}

/// The items of a response.
pub(super) fn items(output: Option<&RawValue>) -> Vec<&RawValue> {
    let Some(output) = output else { return Vec::new() };
    // One item alone stands for a list of it.
    serde_json::from_str(output.get()).unwrap_or_else(|_| vec![output])
}
