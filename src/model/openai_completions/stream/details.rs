//! OpenRouter's reasoning details, which go back with the answer as they came, once their pieces are put together.

use serde_json::{Map, Value};

/// The details of an answer.
#[derive(Default)]
pub(super) struct Details(Vec<Map<String, Value>>);

/// What a detail says, which comes in pieces.
const WORDS: [&str; 3] = ["text", "summary", "data"];
/// So many details are kept; an answer has a handful.
const MAX_DETAILS: usize = 1000;

impl Details {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The details as the JSON text of a list; none are left.
    pub(super) fn take(&mut self) -> String {
        Value::Array(std::mem::take(&mut self.0).into_iter().map(Value::Object).collect()).to_string()
    }

    /// Adds a detail, or a piece of one. Pieces of one type and number are one detail: the signature of a thought covers all
    /// of its text, and is refused beside a part of it.
    pub(super) fn add(&mut self, piece: Map<String, Value>) {
        let Some(detail) = self.0.iter_mut().rev().find(|detail| is_one(detail, &piece)) else {
            if self.0.len() < MAX_DETAILS {
                self.0.push(piece);
            }
            return;
        };
        for (name, value) in piece {
            match (detail.get_mut(&name), value) {
                (_, Value::Null) => {}
                (Some(Value::String(text)), Value::String(more)) if WORDS.contains(&name.as_str()) => {
                    // What is encrypted is sent again by some servers, whole.
                    if name != "data" || *text != more {
                        text.push_str(&more);
                    }
                }
                (_, value) => {
                    detail.insert(name, value);
                }
            }
        }
    }
}

/// The words of a piece that are to be shown.
pub(super) fn words(piece: &Map<String, Value>) -> Option<&str> {
    ["text", "summary"].iter().find_map(|key| piece.get(*key)?.as_str()).filter(|words| !words.is_empty())
}

/// How much a piece holds, in bytes.
pub(super) fn size(piece: &Map<String, Value>) -> usize {
    // Other values take several times their text in memory.
    let held =
        |value: &Value| value.as_str().map_or_else(|| size_of::<Value>().max(16 * value.to_string().len()), str::len);
    piece.iter().map(|(name, value)| name.len() + held(value)).sum()
}

/// Whether a piece belongs to a detail.
fn is_one(detail: &Map<String, Value>, piece: &Map<String, Value>) -> bool {
    fn field<'v>(of: &'v Map<String, Value>, name: &str) -> Option<&'v Value> {
        of.get(name).filter(|value| !value.is_null())
    }
    let differs = |name: &str| matches!((field(detail, name), field(piece, name)), (Some(a), Some(b)) if a != b);
    if detail.get("type") != piece.get("type") || differs("id") || differs("format") {
        return false;
    }
    match (field(detail, "index"), field(piece, "index")) {
        (Some(a), Some(b)) => a == b,
        (Some(_), None) | (None, Some(_)) => false,
        // Without numbers, a signature ends a detail, and what is encrypted comes whole.
        (None, None) => {
            field(detail, "data").is_none() && (field(detail, "signature").is_none() || words(piece).is_none())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn piece(value: Value) -> Map<String, Value> {
        serde_json::from_value(value).expect("an object")
    }

    #[test]
    fn what_is_kept_has_bounds() {
        let mut details = Details::default();
        for index in 0..2 * MAX_DETAILS {
            details.add(piece(json!({"type":"reasoning.text","index":index,"text":"a"})));
        }
        // Pieces of those that are kept are still taken in.
        details.add(piece(json!({"type":"reasoning.text","index":0,"text":"b"})));
        let kept: Vec<Value> = serde_json::from_str(&details.take()).expect("a list");
        assert_eq!((kept.len(), &kept[0]["text"]), (MAX_DETAILS, &json!("ab")));
        assert!(details.is_empty());
    }

    #[test]
    fn sizes_are_no_less_than_what_is_held() {
        assert_eq!(size(&piece(json!({"text":"four"}))), 8);
        assert!(size(&piece(json!({"n":1}))) > size_of::<Value>());
        assert!(size(&piece(json!({"list":vec![0; 100]}))) >= 16 * "[0]".len() * 50);
    }
}
