//! JSON as models write it: raw control characters in strings and escapes that do not exist are repaired.

use serde::Deserialize;
use serde_json::{Map, Value};

/// How much of an unusable text is quoted, in characters.
const MAX_QUOTE: usize = 1000;
/// How deep a tool call's arguments may be nested. They are kept inside a message inside an entry of a session file, and
/// come with events inside more than that; what is nested deeper than 127 as a whole, serde_json does not read again.
const MAX_DEPTH: usize = 100;

/// Parses `data`, after a repair if it does not parse as it is. The repaired text goes into `repaired`, which the value
/// may borrow from.
///
/// # Errors
///
/// The parser's complaint about the text as it came.
pub fn parse<'a, T: Deserialize<'a>>(data: &'a [u8], repaired: &'a mut String) -> Result<T, serde_json::Error> {
    serde_json::from_slice(data).or_else(|error| {
        *repaired = repair(&String::from_utf8_lossy(data));
        serde_json::from_str(repaired).map_err(|_| error)
    })
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
    let reason = match parse(text.as_bytes(), &mut String::new()) {
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
        _ => 0,
    }
}

/// The same text with what is wrong inside its strings put right. Half surrogate pairs are left out, because nothing
/// can hold them.
fn repair(text: &str) -> String {
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
            '\\' if in_string => rest = escape(rest, &mut out),
            '\u{0}'..='\u{1f}' if in_string => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            _ => out.push(c),
        }
    }
    out
}

/// Writes the escape whose text after the backslash begins `rest`; returns what follows it.
fn escape<'a>(rest: &'a str, out: &mut String) -> &'a str {
    match rest.chars().next() {
        Some(c @ ('"' | '\\' | '/' | 'b' | 'f' | 'n' | 'r' | 't')) => {
            out.push('\\');
            out.push(c);
            &rest[1..]
        }
        Some('u') => match hex(&rest[1..]) {
            Some(0xd800..=0xdbff) => {
                let low = rest[5..].strip_prefix("\\u").and_then(hex);
                if matches!(low, Some(0xdc00..=0xdfff)) {
                    out.push('\\');
                    out.push_str(&rest[..11]);
                    &rest[11..]
                } else {
                    &rest[5..]
                }
            }
            Some(0xdc00..=0xdfff) => &rest[5..],
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
