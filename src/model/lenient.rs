//! Fields of answers that we can do without, read leniently: a value of another type than the documented one is absent and
//! costs nothing else of its event. Servers send nulls for what they do not know, counts as floats or negative, texts as
//! lists of parts, and numbers as strings.

use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

/// A text, borrowed from the event where it has no escapes; `None` for anything that holds no text. A list gives the texts
/// of its elements, an object that of its `text` field: some servers send content in parts also where texts are documented.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Text<'a>(pub Option<Cow<'a, str>>);

impl Text<'_> {
    /// The text; empty if there is none.
    pub(super) fn as_str(&self) -> &str {
        self.0.as_deref().unwrap_or("")
    }

    /// The text if there is one that is not empty.
    pub(super) fn filled(&self) -> Option<&str> {
        self.0.as_deref().filter(|text| !text.is_empty())
    }

    /// The text of its own if there is one that is not empty.
    pub(super) fn owned(self) -> Option<String> {
        self.0.filter(|text| !text.is_empty()).map(Cow::into_owned)
    }
}

/// A count or an index: a whole number, a float without its fraction, a text that is a number; negative ones are 0. `None`
/// for anything else.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Count(pub Option<u64>);

/// The largest whole number that every JSON parser holds. What is larger counts nothing, and sums of it would overflow.
const LARGEST_COUNT: f64 = 9_007_199_254_740_991.0;

/// A number. `None` for anything else.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Number(pub Option<f64>);

/// Yes or no: a boolean, a number that is not 0, a text other than `false` and the empty one. Anything else is a no.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Flag(pub bool);

/// JSON text, such as a tool call's arguments: a text is taken as it is, and an object or a list for the text that it would
/// be. `None` for anything else.
#[derive(Debug, Default, PartialEq)]
pub(super) struct JsonText<'a>(pub Option<Cow<'a, str>>);

/// An object of this form; `None` for anything that is no object.
#[derive(Debug, PartialEq)]
pub(super) struct Object<T>(pub Option<T>);

/// The objects of a list that are of this form; a lone object is a list of one, and anything else an empty list.
#[derive(Debug, PartialEq)]
pub(super) struct List<T>(pub Vec<T>);

/// The first object of such a list, of which no other matters: reading it allocates nothing.
#[derive(Debug, PartialEq)]
pub(super) struct First<T>(pub Option<T>);

impl<T> Default for Object<T> {
    fn default() -> Object<T> {
        Object(None)
    }
}

impl<T> Default for List<T> {
    fn default() -> List<T> {
        List(Vec::new())
    }
}

impl<T> Default for First<T> {
    fn default() -> First<T> {
        First(None)
    }
}

/// What a visitor says of values of types that it can make nothing of: nothing, and reads over them.
macro_rules! absent {
    ($($kind:ident),*) => {
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("any value")
        }
        $(absent!(@$kind);)*
    };
    (@null) => {
        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok(Self::Value::default())
        }
    };
    (@bool) => {
        fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
            Ok(Self::Value::default())
        }
    };
    (@numbers) => {
        fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
            Ok(Self::Value::default())
        }

        fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
            Ok(Self::Value::default())
        }

        fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
            Ok(Self::Value::default())
        }
    };
    (@text) => {
        fn visit_str<E>(self, _: &str) -> Result<Self::Value, E> {
            Ok(Self::Value::default())
        }
    };
    (@list) => {
        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
            while list.next_element::<IgnoredAny>()?.is_some() {}
            Ok(Self::Value::default())
        }
    };
    (@object) => {
        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
            Ok(Self::Value::default())
        }
    };
}

pub(super) use absent;

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Text<'a>, D::Error> {
        struct AnyText<'a>(PhantomData<Text<'a>>);
        impl<'de: 'a, 'a> Visitor<'de> for AnyText<'a> {
            type Value = Text<'a>;

            absent!(null, bool, numbers);

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Text<'a>, E> {
                Ok(Text(Some(Cow::Borrowed(text))))
            }

            fn visit_str<E>(self, text: &str) -> Result<Text<'a>, E> {
                Ok(Text(Some(Cow::Owned(text.to_string()))))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Text<'a>, A::Error> {
                let mut all: Option<Cow<'a, str>> = None;
                while let Some(Text(part)) = list.next_element()? {
                    let Some(part) = part else { continue };
                    match &mut all {
                        None => all = Some(part),
                        Some(text) => text.to_mut().push_str(&part),
                    }
                }
                Ok(Text(all))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Text<'a>, A::Error> {
                let mut found = Text(None);
                while let Some(key) = map.next_key::<Cow<'_, str>>()? {
                    if key == "text" {
                        found = map.next_value()?;
                    } else {
                        map.next_value::<IgnoredAny>()?;
                    }
                }
                Ok(found)
            }
        }
        deserializer.deserialize_any(AnyText(PhantomData))
    }
}

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Number, D::Error> {
        struct AnyNumber;
        impl<'de> Visitor<'de> for AnyNumber {
            type Value = Number;

            absent!(null, bool, list, object);

            fn visit_u64<E>(self, number: u64) -> Result<Number, E> {
                Ok(Number(Some(number as f64)))
            }

            fn visit_i64<E>(self, number: i64) -> Result<Number, E> {
                Ok(Number(Some(number as f64)))
            }

            fn visit_f64<E>(self, number: f64) -> Result<Number, E> {
                Ok(Number(Some(number)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Number, E> {
                Ok(Number(text.trim().parse().ok().filter(|number: &f64| number.is_finite())))
            }
        }
        deserializer.deserialize_any(AnyNumber)
    }
}

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Count, D::Error> {
        // A cast from a float saturates, so that negative ones become 0.
        let fits = |number: &f64| *number <= LARGEST_COUNT;
        Number::deserialize(deserializer).map(|number| Count(number.0.filter(fits).map(|number| number as u64)))
    }
}

impl<'de> Deserialize<'de> for Flag {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Flag, D::Error> {
        struct AnyFlag;
        impl<'de> Visitor<'de> for AnyFlag {
            type Value = Flag;

            absent!(null, list, object);

            fn visit_bool<E>(self, yes: bool) -> Result<Flag, E> {
                Ok(Flag(yes))
            }

            fn visit_u64<E>(self, number: u64) -> Result<Flag, E> {
                Ok(Flag(number != 0))
            }

            fn visit_i64<E>(self, number: i64) -> Result<Flag, E> {
                Ok(Flag(number != 0))
            }

            fn visit_f64<E>(self, number: f64) -> Result<Flag, E> {
                Ok(Flag(number != 0.0))
            }

            fn visit_str<E>(self, text: &str) -> Result<Flag, E> {
                Ok(Flag(!text.is_empty() && !text.eq_ignore_ascii_case("false")))
            }
        }
        deserializer.deserialize_any(AnyFlag)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for JsonText<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<JsonText<'a>, D::Error> {
        struct AnyJson<'a>(PhantomData<JsonText<'a>>);
        impl<'de: 'a, 'a> Visitor<'de> for AnyJson<'a> {
            type Value = JsonText<'a>;

            absent!(null, bool, numbers);

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<JsonText<'a>, E> {
                Ok(JsonText(Some(Cow::Borrowed(text))))
            }

            fn visit_str<E>(self, text: &str) -> Result<JsonText<'a>, E> {
                Ok(JsonText(Some(Cow::Owned(text.to_string()))))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<JsonText<'a>, A::Error> {
                let value = Value::deserialize(SeqAccessDeserializer::new(list))?;
                Ok(JsonText(Some(Cow::Owned(value.to_string()))))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<JsonText<'a>, A::Error> {
                let value = Value::deserialize(MapAccessDeserializer::new(map))?;
                Ok(JsonText(Some(Cow::Owned(value.to_string()))))
            }
        }
        deserializer.deserialize_any(AnyJson(PhantomData))
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Object<T>, D::Error> {
        struct AnyObject<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for AnyObject<T> {
            type Value = Object<T>;

            absent!(null, bool, numbers, text, list);

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Object<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(|object| Object(Some(object)))
            }
        }
        deserializer.deserialize_any(AnyObject(PhantomData))
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for List<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<List<T>, D::Error> {
        struct AnyList<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for AnyList<T> {
            type Value = List<T>;

            absent!(null, bool, numbers, text);

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<List<T>, A::Error> {
                let mut found = Vec::new();
                while let Some(Object(element)) = list.next_element()? {
                    found.extend(element);
                }
                Ok(List(found))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<List<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(|element| List(vec![element]))
            }
        }
        deserializer.deserialize_any(AnyList(PhantomData))
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for First<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<First<T>, D::Error> {
        struct AnyList<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for AnyList<T> {
            type Value = First<T>;

            absent!(null, bool, numbers, text);

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<First<T>, A::Error> {
                while let Some(Object(element)) = list.next_element()? {
                    if element.is_some() {
                        while list.next_element::<IgnoredAny>()?.is_some() {}
                        return Ok(First(element));
                    }
                }
                Ok(First(None))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<First<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(|element| First(Some(element)))
            }
        }
        deserializer.deserialize_any(AnyList(PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::de::DeserializeOwned;

    #[test]
    fn texts() {
        for (json, expected) in [
            (r#""a""#, Some("a")),
            (r#""a\nb""#, Some("a\nb")),
            (r#"[{"type":"text","text":"a"},{"type":"image"},"b",5,null]"#, Some("ab")),
            (r#"{"type":"text","text":"a"}"#, Some("a")),
            (r#"{"text":["a","b"]}"#, Some("ab")),
            ("[]", None),
            ("{}", None),
            ("null", None),
            ("5", None),
            ("true", None),
        ] {
            let text: Text<'_> = serde_json::from_str(json).expect(json);
            assert_eq!(text.0.as_deref(), expected, "{json}");
        }
    }

    #[test]
    fn numbers() {
        for (json, count, number) in [
            ("7", Some(7), Some(7.0)),
            ("7.9", Some(7), Some(7.9)),
            ("-7", Some(0), Some(-7.0)),
            ("-0.5", Some(0), Some(-0.5)),
            (r#"" 7 ""#, Some(7), Some(7.0)),
            ("1e300", None, Some(1e300)),
            ("9007199254740991", Some(9_007_199_254_740_991), Some(9_007_199_254_740_991.0)),
            (r#""many""#, None, None),
            (r#""NaN""#, None, None),
            ("null", None, None),
            ("[7]", None, None),
            (r#"{"n":7}"#, None, None),
            ("true", None, None),
        ] {
            let read = (
                serde_json::from_str::<Count>(json).expect(json).0,
                serde_json::from_str::<Number>(json).expect(json).0,
            );
            assert_eq!(read, (count, number), "{json}");
        }
    }

    #[test]
    fn flags_and_json_texts() {
        for (json, expected) in [
            ("true", true),
            ("false", false),
            ("1", true),
            ("0", false),
            ("0.0", false),
            (r#""true""#, true),
            (r#""False""#, false),
            (r#""""#, false),
            ("null", false),
            ("[true]", false),
            ("{}", false),
        ] {
            assert_eq!(serde_json::from_str::<Flag>(json).expect(json), Flag(expected), "{json}");
        }
        for (json, expected) in [
            (r#""{\"a\":""#, Some(r#"{"a":"#)),
            (r#"{ "b": 1.0, "a": [null] }"#, Some(r#"{"b":1.0,"a":[null]}"#)),
            ("[1, {}]", Some("[1,{}]")),
            (r#""""#, Some("")),
            ("null", None),
            ("7", None),
        ] {
            let text: JsonText<'_> = serde_json::from_str(json).expect(json);
            assert_eq!(text.0.as_deref(), expected, "{json}");
        }
    }

    #[derive(Debug, Default, PartialEq, serde::Deserialize)]
    #[serde(default)]
    struct Point {
        x: Count,
    }

    #[test]
    fn objects_and_lists() {
        fn read<T: DeserializeOwned>(json: &str) -> T {
            serde_json::from_str(json).expect(json)
        }
        let point = |x| Point { x: Count(Some(x)) };
        assert_eq!(read::<Object<Point>>(r#"{"x":1,"y":2}"#), Object(Some(point(1))));
        for json in ["null", "1", "\"x\"", "[{\"x\":1}]", "false"] {
            assert_eq!(read::<Object<Point>>(json), Object(None), "{json}");
        }
        assert_eq!(read::<List<Point>>(r#"[{"x":1},null,5,"x",[1],{"x":"2"}]"#), List(vec![point(1), point(2)]));
        assert_eq!(read::<List<Point>>(r#"{"x":1}"#), List(vec![point(1)]));
        assert_eq!(read::<First<Point>>(r#"[null,7,{"x":1},{"x":2}]"#), First(Some(point(1))));
        assert_eq!(read::<First<Point>>(r#"{"x":3}"#), First(Some(point(3))));
        for json in ["null", "1", "\"x\"", "[]"] {
            assert_eq!(read::<List<Point>>(json), List(Vec::new()), "{json}");
            assert_eq!(read::<First<Point>>(json), First(None), "{json}");
        }
    }
}
