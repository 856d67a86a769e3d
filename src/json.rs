//! JSON objects, and JSON that is not quite JSON: as people write it, and as models do.

pub(crate) mod comments;
pub(crate) mod tolerant;

use memchr::memchr2;
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

/// The text at the beginning of some JSON, and what follows it; `None` if there is none, or if it cannot be had without a
/// parser: because of escapes, or because it is not as it has to be.
pub(crate) fn plain_text(json: &[u8]) -> Option<(&str, &[u8])> {
    let (text, rest) =
        json.strip_prefix(b"\"").and_then(|inner| inner.split_at_checked(memchr2(b'"', b'\\', inner)?))?;
    let rest = rest.strip_prefix(b"\"")?;
    let is_plain = text.iter().all(|byte| *byte >= b' ');
    std::str::from_utf8(text).ok().filter(|_| is_plain).map(|text| (text, rest))
}

/// Takes a text out of an object, without copying it.
pub(crate) fn take_text(fields: &mut Fields, key: &str) -> Option<String> {
    let Value::String(text) = fields.get_mut(key)? else { return None };
    Some(std::mem::take(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_texts_are_had_without_a_parser() {
        for (json, expected) in [
            (&b"\"ab\"}}"[..], Some(("ab", &b"}}"[..]))),
            ("\"\u{e4} \u{1f600}\"".as_bytes(), Some(("\u{e4} \u{1f600}", b""))),
            (b"\"\",", Some(("", b","))),
            (b"\"a\\n\"", None),
            (b"\"a\\\"\"", None),
            (b"\"a\nb\"", None),
            (b"\"\xff\"", None),
            (b"\"open", None),
            (b"5", None),
            (b"", None),
        ] {
            assert_eq!(plain_text(json), expected, "{}", String::from_utf8_lossy(json));
        }
    }
}
