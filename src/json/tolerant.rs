//! JSON as models write it: raw control characters in strings and escapes that do not exist are repaired.

use serde::Deserialize;
use serde::de::{DeserializeOwned, Error};
use serde_json::{Map, Value};

/// How much of an unusable text is quoted, in characters.
const MAX_QUOTE: usize = 1000;
/// How deep a tool call's arguments may be nested. They are kept inside a message inside an entry of a session file, and
/// come with events inside more than that; what is nested deeper than 127 as a whole, serde_json does not read again.
const MAX_DEPTH: usize = 100;

/// Where the halves of surrogate pairs are kept that stand at the beginning or the end of a text: the last characters that
/// Unicode has, which are for private use.
const HALVES: u32 = 0x0010_f800;
const SURROGATES: u32 = 0xd800;
const LOW_SURROGATES: u32 = 0xdc00;

/// Parses an event of a stream, after a repair if it does not parse as it is: of keys that are there twice the last one
/// counts, and half a surrogate pair at the beginning or the end of a text is kept for [`split_halves`]. The repaired text
/// goes into `repaired`, which the value may borrow from.
///
/// # Errors
///
/// The parser's complaint about the text as it came.
pub fn parse<'a, T: Deserialize<'a>>(data: &'a [u8], repaired: &'a mut String) -> Result<T, serde_json::Error> {
    read(data).or_else(|error| {
        let Ok(value) = serde_json::from_str::<Value>(&repair(&String::from_utf8_lossy(data), Halves::Keep)) else {
            return Err(error);
        };
        *repaired = value.to_string();
        serde_json::from_str(repaired).map_err(|_| error)
    })
}

/// Parses a text that nothing follows, after a repair if it does not parse as it is.
///
/// # Errors
///
/// The parser's complaint about the text as it came.
pub fn parse_whole<T: DeserializeOwned>(data: &[u8]) -> Result<T, serde_json::Error> {
    read(data)
        .or_else(|error| serde_json::from_str(&repair(&String::from_utf8_lossy(data), Halves::Drop)).map_err(|_| error))
}

/// Parses a text as it is. That it is UTF-8 is found out once and not for each string in it.
fn read<'a, T: Deserialize<'a>>(data: &'a [u8]) -> Result<T, serde_json::Error> {
    serde_json::from_str(std::str::from_utf8(data).map_err(serde_json::Error::custom)?)
}

/// Takes the halves of surrogate pairs off a piece of text: the second half of one at its beginning, what is between, and
/// the first half of one at its end.
pub(crate) fn split_halves(text: &str) -> (Option<u16>, &str, Option<u16>) {
    // The first byte of those characters, which are four bytes long.
    const FIRST: u8 = 0xf4;
    let bytes = text.as_bytes();
    let (mut second, mut middle, mut first) = (None, text, None);
    if bytes.first() == Some(&FIRST)
        && let Some(half) = middle.chars().next().and_then(half).filter(|half| u32::from(*half) >= LOW_SURROGATES)
    {
        (second, middle) = (Some(half), &middle[4..]);
    }
    if bytes.len() >= 4
        && bytes[bytes.len() - 4] == FIRST
        && let Some(half) = middle.chars().next_back().and_then(half).filter(|half| u32::from(*half) < LOW_SURROGATES)
    {
        (first, middle) = (Some(half), &middle[..middle.len() - 4]);
    }
    (second, middle, first)
}

/// The half of a surrogate pair that this character stands for.
fn half(c: char) -> Option<u16> {
    u16::try_from(u32::from(c).checked_sub(HALVES)? + SURROGATES).ok()
}

/// What becomes of half a surrogate pair at the beginning or the end of a text.
#[derive(Clone, Copy, PartialEq)]
enum Halves {
    Keep,
    Drop,
}

/// A tool call's arguments from their JSON text. No text at all means no arguments.
///
/// # Errors
///
/// Why the text is no JSON object, and the text itself.
pub fn arguments(text: &str) -> Result<Map<String, Value>, String> {
    if text.trim().is_empty() {
        return Ok(Map::new());
    }
    let reason = match parse_whole(text.as_bytes()) {
        Ok(value) if depth(&value) > MAX_DEPTH => format!("nested deeper than {MAX_DEPTH}"),
        Ok(Value::Object(map)) => return Ok(map),
        Ok(_) => "not a JSON object".to_string(),
        Err(e) => e.to_string(),
    };
    let quote: String = text.chars().take(MAX_QUOTE).collect();
    let more = if quote.len() < text.len() { "…" } else { "" };
    Err(format!("{reason}\nReceived: {quote}{more}"))
}

/// How many lists and objects are inside each other; what the parser lets through never is so many that this would matter
/// to the stack.
fn depth(value: &Value) -> usize {
    match value {
        Value::Array(list) => 1 + list.iter().map(depth).max().unwrap_or(0),
        Value::Object(map) => 1 + map.values().map(depth).max().unwrap_or(0),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => 0,
    }
}

/// The same text with what is wrong inside its strings put right. Half surrogate pairs are left out, because nothing
/// can hold them, unless those are to be kept whose other half may follow or went before.
fn repair(text: &str, halves: Halves) -> String {
    let mut out = String::with_capacity(text.len() + 16);
    let mut in_string = false;
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        rest = &rest[c.len_utf8()..];
        match c {
            '"' => {
                in_string = !in_string;
                out.push(c);
            }
            '\\' if in_string => rest = escape(rest, halves, &mut out),
            '\u{0}'..='\u{1f}' if in_string => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            _ => out.push(c),
        }
    }
    out
}

/// Writes the escape whose text after the backslash begins `rest`; returns what follows it.
fn escape<'a>(rest: &'a str, halves: Halves, out: &mut String) -> &'a str {
    match rest.chars().next() {
        Some(c @ ('"' | '\\' | '/' | 'b' | 'f' | 'n' | 'r' | 't')) => {
            out.push('\\');
            out.push(c);
            &rest[1..]
        }
        Some('u') => match hex(&rest[1..]) {
            Some(high @ 0xd800..=0xdbff) => {
                let low = rest[5..].strip_prefix("\\u").and_then(hex);
                if matches!(low, Some(0xdc00..=0xdfff)) {
                    out.push('\\');
                    out.push_str(&rest[..11]);
                    &rest[11..]
                } else {
                    if halves == Halves::Keep && rest[5..].starts_with('"') {
                        out.extend(char::from_u32(high - SURROGATES + HALVES));
                    }
                    &rest[5..]
                }
            }
            Some(low @ 0xdc00..=0xdfff) => {
                // Inside a string, a quotation mark without a backslash is the one that begins it.
                if halves == Halves::Keep && out.ends_with('"') && !out.ends_with("\\\"") {
                    out.extend(char::from_u32(low - SURROGATES + HALVES));
                }
                &rest[5..]
            }
            Some(_) => {
                out.push('\\');
                out.push_str(&rest[..5]);
                &rest[5..]
            }
            None => {
                out.push_str("\\\\");
                rest
            }
        },
        // The backslash was meant as one.
        _ => {
            out.push_str("\\\\");
            rest
        }
    }
}

/// The number that the first four characters are, in hexadecimal.
fn hex(text: &str) -> Option<u32> {
    let digits = text.get(..4)?;
    digits.bytes().all(|b| b.is_ascii_hexdigit()).then(|| u32::from_str_radix(digits, 16).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn arguments_are_repaired() {
        for (text, expected) in [
            ("", json!({})),
            (" \n", json!({})),
            (r#"{"a":"b"}"#, json!({"a":"b"})),
            ("{\"a\":\"line\nnext\tx\"}", json!({"a":"line\nnext\tx"})),
            (r#"{"re":"\d+\.\w"}"#, json!({"re":"\\d+\\.\\w"})),
            (r#"{"p":"C:\users\u12"}"#, json!({"p":"C:\\users\\u12"})),
            (r#"{"s":"a\ud800b\udc00c\ud83d\ude00\q"}"#, json!({"s":"abc😀\\q"})),
            (r#"{"s":"\ud83d\u0041\x"}"#, json!({"s":"A\\x"})),
            (r#"{"ü":"ö\ä"}"#, json!({"ü":"ö\\ä"})),
        ] {
            assert_eq!(arguments(text).map(Value::Object), Ok(expected), "{text}");
        }
    }

    #[test]
    fn events_keep_halves_of_pairs_at_the_ends_of_texts() {
        #[derive(Deserialize)]
        struct Event<'a> {
            #[serde(borrow)]
            text: std::borrow::Cow<'a, str>,
        }
        for (json, expected) in [
            (r#"{"text":"x\ud83d"}"#, (None, "x", Some(0xd83d))),
            (r#"{"text":"\ude00y"}"#, (Some(0xde00), "y", None)),
            (r#"{"text":"\ude00\ud83d"}"#, (Some(0xde00), "", Some(0xd83d))),
            (r#"{"text":"\udbff"}"#, (None, "", Some(0xdbff))),
            (r#"{"text":"\udfff"}"#, (Some(0xdfff), "", None)),
            (r#"{"text":"a\ud83db\ude00c"}"#, (None, "abc", None)),
            (r#"{"text":"\"\ude00"}"#, (None, "\"", None)),
            (r#"{"text":"\ud83d\ude00"}"#, (None, "😀", None)),
            (r#"{"text":"a","x":1,"text":"b","x":2}"#, (None, "b", None)),
        ] {
            let mut repaired = String::new();
            let event: Event<'_> = parse(json.as_bytes(), &mut repaired).expect(json);
            assert_eq!(split_halves(&event.text), expected, "{json}");
        }
        for text in ["", "a", "\u{10ffff}\u{10f800}", "\u{10f7ff}", "\u{100000}x"] {
            let (second, middle, first) = split_halves(text);
            assert_eq!(middle.len() + 4 * (usize::from(second.is_some()) + usize::from(first.is_some())), text.len());
        }
    }

    #[test]
    fn what_is_no_object_is_quoted() {
        for text in [r#"{"a":"#, "[1]", "\"x\"", "{\"a\":\"\\", "nonsense", r#"{"a":"\ud83"#] {
            let error = arguments(text).expect_err(text);
            assert!(error.ends_with(&format!("\nReceived: {text}")), "{error}");
        }
        let nested = |depth: usize| format!("{}1{}", r#"{"a":"#.repeat(depth), "}".repeat(depth));
        assert!(arguments(&nested(MAX_DEPTH)).is_ok());
        for depth in [MAX_DEPTH + 1, 127, 128, 10_000] {
            let error = arguments(&nested(depth)).expect_err("too deep");
            assert!(error.contains("nested deeper") || error.contains("recursion limit"), "{error}");
        }
        let error = arguments(&"ü".repeat(5000)).expect_err("too long");
        assert!(error.ends_with("ü…") && error.chars().count() < MAX_QUOTE + 100);
    }
}
