//! Fields that both OpenAI APIs have, in the forms that their servers give them.

use super::lenient::{Text, absent};
use crate::transcript::Block;
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

/// The names under which servers send thoughts; a thinking block's signature says which one it came by.
pub(super) const REASONING_FIELDS: [&str; 3] = ["reasoning_content", "reasoning", "reasoning_text"];

/// What identifies a call or an item: a text, or a number, of which the digits will do.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Id<'a>(pub Option<Cow<'a, str>>);

impl Id<'_> {
    /// The id; empty if there is none.
    pub(super) fn as_str(&self) -> &str {
        self.0.as_deref().unwrap_or("")
    }
}

/// The content of a message: a text, a part, or a list of such. Mistral sends its thoughts as parts of the content.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Content<'a> {
    pub text: Text<'a>,
    pub thoughts: Text<'a>,
}

/// The texts of a list of parts, one by one.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Parts<'a>(pub Vec<Text<'a>>);

pub(super) fn texts(blocks: &[Block]) -> impl Iterator<Item = &str> {
    blocks.iter().filter_map(Block::as_text)
}

/// A tool result's text, or what stands in for it.
pub(super) fn result_text(blocks: &[Block]) -> Cow<'_, str> {
    let text = texts(blocks).collect::<Vec<_>>().join("\n");
    match text.as_str() {
        "" if blocks.iter().any(|b| matches!(b, Block::Image { .. })) => Cow::Borrowed("(see attached image)"),
        "" => Cow::Borrowed("(no tool output)"),
        _ => Cow::Owned(text),
    }
}

impl Parts<'_> {
    /// The paragraphs as one text.
    pub(super) fn joined(&self) -> String {
        self.0.iter().filter_map(Text::filled).collect::<Vec<_>>().join("\n\n")
    }
}

impl<'a> Content<'a> {
    fn add(&mut self, part: Content<'a>) {
        for (text, more) in [(&mut self.text.0, part.text.0), (&mut self.thoughts.0, part.thoughts.0)] {
            match (text, more) {
                (_, None) => {}
                (Some(text), Some(more)) => text.to_mut().push_str(&more),
                (text @ None, more) => *text = more,
            }
        }
    }

    /// All of it as thoughts.
    fn into_thoughts(mut self) -> Content<'a> {
        let text = self.text.0.take();
        self.add(Content { text: Text(None), thoughts: Text(text) });
        self
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Id<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Id<'a>, D::Error> {
        struct AnyId<'a>(PhantomData<Id<'a>>);
        impl<'de: 'a, 'a> Visitor<'de> for AnyId<'a> {
            type Value = Id<'a>;

            absent!(null, bool, list, object);

            fn visit_borrowed_str<E>(self, id: &'de str) -> Result<Id<'a>, E> {
                Ok(Id(Some(Cow::Borrowed(id))))
            }

            fn visit_str<E>(self, id: &str) -> Result<Id<'a>, E> {
                Ok(Id(Some(Cow::Owned(id.to_string()))))
            }

            fn visit_u64<E>(self, id: u64) -> Result<Id<'a>, E> {
                Ok(Id(Some(Cow::Owned(id.to_string()))))
            }

            fn visit_i64<E>(self, id: i64) -> Result<Id<'a>, E> {
                Ok(Id(Some(Cow::Owned(id.to_string()))))
            }

            fn visit_f64<E>(self, id: f64) -> Result<Id<'a>, E> {
                Ok(Id(Some(Cow::Owned(id.to_string()))))
            }
        }
        deserializer.deserialize_any(AnyId(PhantomData))
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Content<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Content<'a>, D::Error> {
        struct AnyContent<'a>(PhantomData<Content<'a>>);
        impl<'de: 'a, 'a> Visitor<'de> for AnyContent<'a> {
            type Value = Content<'a>;

            absent!(null, bool, numbers);

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Content<'a>, E> {
                Ok(Content { text: Text(Some(Cow::Borrowed(text))), thoughts: Text(None) })
            }

            fn visit_str<E>(self, text: &str) -> Result<Content<'a>, E> {
                Ok(Content { text: Text(Some(Cow::Owned(text.to_string()))), thoughts: Text(None) })
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Content<'a>, A::Error> {
                let mut all = Content::default();
                while let Some(part) = list.next_element()? {
                    all.add(part);
                }
                Ok(all)
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Content<'a>, A::Error> {
                let (mut all, mut thinks) = (Content::default(), false);
                while let Some(key) = map.next_key::<Cow<'_, str>>()? {
                    match &*key {
                        "type" => {
                            let kind: Text<'_> = map.next_value()?;
                            thinks = matches!(kind.as_str(), "thinking" | "thought" | "reasoning" | "reasoning_text");
                        }
                        "text" | "content" | "parts" | "refusal" | "value" => all.add(map.next_value()?),
                        "thinking" | "reasoning" | "reasoning_content" => {
                            all.add(map.next_value::<Content<'_>>()?.into_thoughts());
                        }
                        _ => {
                            map.next_value::<IgnoredAny>()?;
                        }
                    }
                }
                Ok(if thinks { all.into_thoughts() } else { all })
            }
        }
        deserializer.deserialize_any(AnyContent(PhantomData))
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Parts<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Parts<'a>, D::Error> {
        struct AnyParts<'a>(PhantomData<Parts<'a>>);
        impl<'de: 'a, 'a> Visitor<'de> for AnyParts<'a> {
            type Value = Parts<'a>;

            absent!(null, bool, numbers);

            fn visit_str<E>(self, text: &str) -> Result<Parts<'a>, E> {
                Ok(Parts(vec![Text(Some(Cow::Owned(text.to_string())))]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Parts<'a>, A::Error> {
                let mut all = Vec::new();
                while let Some(part) = list.next_element()? {
                    all.push(part);
                }
                Ok(Parts(all))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Parts<'a>, A::Error> {
                let part = Text::deserialize(serde::de::value::MapAccessDeserializer::new(map))?;
                Ok(Parts(vec![part]))
            }
        }
        deserializer.deserialize_any(AnyParts(PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contents() {
        for (json, text, thoughts) in [
            (r#""a\n""#, Some("a\n"), None),
            (r#"[{"type":"text","text":"a"},{"type":"refusal","refusal":"b"},"c",5,null]"#, Some("abc"), None),
            (r#"{"type":"text","text":"a"}"#, Some("a"), None),
            (r#"{"parts":["a",{"text":{"value":"b"}}]}"#, Some("ab"), None),
            (
                r#"[{"type":"thinking","thinking":[{"type":"text","text":"h"},{"type":"text","text":"m"}]},{"type":"text","text":"a"}]"#,
                Some("a"),
                Some("hm"),
            ),
            (r#"[{"text":"hm","type":"reasoning"},{"type":"reference","reference_ids":[1]}]"#, None, Some("hm")),
            (r#"{"type":"thinking","thinking":"hm","text":"!"}"#, None, Some("hm!")),
            ("null", None, None),
            ("5", None, None),
            ("{}", None, None),
            ("[]", None, None),
        ] {
            let content: Content<'_> = serde_json::from_str(json).expect(json);
            assert_eq!((content.text.0.as_deref(), content.thoughts.0.as_deref()), (text, thoughts), "{json}");
        }
    }

    #[test]
    fn ids_and_parts() {
        for (json, id) in
            [(r#""a""#, "a"), ("7", "7"), ("-7", "-7"), ("null", ""), ("{}", ""), ("[7]", ""), ("true", "")]
        {
            assert_eq!(serde_json::from_str::<Id<'_>>(json).expect(json).as_str(), id, "{json}");
        }
        for (json, text) in [
            (r#"[{"type":"summary_text","text":"a"},{"text":""},{"text":"b"},null]"#, "a\n\nb"),
            (r#""a""#, "a"),
            (r#"{"text":"a"}"#, "a"),
            ("null", ""),
            ("7", ""),
        ] {
            assert_eq!(serde_json::from_str::<Parts<'_>>(json).expect(json).joined(), text, "{json}");
        }
    }
}
