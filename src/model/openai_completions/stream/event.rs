//! The form of an answer's chunks. All of it is read leniently, see [`lenient`](crate::model::lenient).

use crate::model::lenient::{Count, JsonText, List, Object, Text, absent};
use crate::model::openai_fields::{Content, Id};
use crate::model::openai_usage::ReportedUsage;
use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use std::fmt;
use std::marker::PhantomData;

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Chunk<'a> {
    #[serde(borrow)]
    pub id: Text<'a>,
    #[serde(borrow)]
    pub model: Text<'a>,
    #[serde(borrow)]
    pub object: Text<'a>,
    #[serde(borrow)]
    pub choices: Choices<'a>,
    pub usage: Object<Box<ReportedUsage>>,
    #[serde(borrow)]
    pub error: Option<&'a RawValue>,
    /// Where Groq puts the counts.
    pub x_groq: Object<Box<Groq>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Groq {
    pub usage: Object<Box<ReportedUsage>>,
}

/// The choices of a chunk. We ask for one; Copilot sends the text in one and the calls in another. Reading the first allocates
/// nothing.
#[derive(Default)]
pub(super) struct Choices<'a> {
    pub first: Option<Choice<'a>>,
    pub others: Vec<Choice<'a>>,
}

impl<'de: 'a, 'a> Deserialize<'de> for Choices<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Choices<'a>, D::Error> {
        struct AnyChoices<'a>(PhantomData<Choices<'a>>);
        impl<'de: 'a, 'a> Visitor<'de> for AnyChoices<'a> {
            type Value = Choices<'a>;

            absent!(null, bool, numbers, text);

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Choices<'a>, A::Error> {
                let mut choices = Choices::default();
                while let Some(Object(choice)) = list.next_element()? {
                    match (&choices.first, choice) {
                        (_, None) => {}
                        (None, choice) => choices.first = choice,
                        (Some(_), choice) => choices.others.extend(choice),
                    }
                }
                Ok(choices)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Choices<'a>, A::Error> {
                let first = Choice::deserialize(MapAccessDeserializer::new(map))?;
                Ok(Choices { first: Some(first), others: Vec::new() })
            }
        }
        deserializer.deserialize_any(AnyChoices(PhantomData))
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Choice<'a> {
    #[serde(borrow)]
    pub delta: Object<Delta<'a>>,
    /// The whole message, where a server does not stream or ends a stream with it.
    #[serde(borrow)]
    pub message: Object<Box<Delta<'a>>>,
    /// The text, where a server answers in the form of the older Completions API.
    #[serde(borrow)]
    pub text: Text<'a>,
    #[serde(borrow)]
    pub finish_reason: Text<'a>,
    /// Where Moonshot puts the counts.
    pub usage: Object<Box<ReportedUsage>>,
    #[serde(borrow)]
    pub error: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Delta<'a> {
    #[serde(borrow)]
    pub content: Content<'a>,
    #[serde(borrow)]
    pub reasoning_content: Text<'a>,
    #[serde(borrow)]
    pub reasoning: Text<'a>,
    #[serde(borrow)]
    pub reasoning_text: Text<'a>,
    pub reasoning_details: List<Map<String, Value>>,
    #[serde(borrow)]
    pub refusal: Text<'a>,
    #[serde(borrow)]
    pub tool_calls: List<CallDelta<'a>>,
    /// The only call, in the form from before there were several.
    #[serde(borrow)]
    pub function_call: Object<FunctionDelta<'a>>,
    #[serde(borrow)]
    pub extra_content: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct CallDelta<'a> {
    pub index: Count,
    #[serde(borrow)]
    pub id: Id<'a>,
    #[serde(borrow)]
    pub function: Object<FunctionDelta<'a>>,
    #[serde(borrow)]
    pub extra_content: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct FunctionDelta<'a> {
    /// Where llama.cpp had the call's id.
    #[serde(borrow)]
    pub id: Id<'a>,
    #[serde(borrow)]
    pub name: Text<'a>,
    #[serde(borrow)]
    pub arguments: JsonText<'a>,
}

/// The extra content that goes back with what it came with: an object that says something.
pub(super) fn extra(raw: Option<&RawValue>) -> Option<&str> {
    raw.map(RawValue::get).filter(|text| text.starts_with('{') && text.len() > "{}".len())
}
