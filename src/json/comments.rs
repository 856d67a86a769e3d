//! JSON as people write it: `//` and `/* */` comments, trailing commas and a byte order mark are allowed.

use serde_json::Value;

/// Reads such a document.
///
/// # Errors
/// What is wrong with it, and where.
pub fn parse(text: &str) -> Result<Value, String> {
    serde_json::from_str(&to_json(text)).map_err(|e| e.to_string())
}

/// Plain JSON with the same values. Comments and trailing commas become spaces, so that the positions in a parser's
/// complaints stay true.
pub fn to_json(text: &str) -> String {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut out = Vec::with_capacity(text.len());
    let bytes = text.as_bytes();
    let mut at = 0;
    // Where the last comma is that nothing but space has followed.
    let mut comma = None;
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'"' => {
                let end = string_end(bytes, at);
                out.extend_from_slice(&bytes[at..end]);
                (at, comma) = (end, None);
                continue;
            }
            b'/' if bytes.get(at + 1) == Some(&b'/') => {
                let end = bytes[at..].iter().position(|b| *b == b'\n').map_or(bytes.len(), |n| at + n);
                out.resize(out.len() + end - at, b' ');
                at = end;
                continue;
            }
            b'/' if bytes.get(at + 1) == Some(&b'*') => {
                let end = text[at + 2..].find("*/").map_or(bytes.len(), |n| at + 2 + n + 2);
                out.extend(bytes[at..end].iter().map(|b| if *b == b'\n' { b'\n' } else { b' ' }));
                at = end;
                continue;
            }
            b',' => comma = Some(out.len()),
            b'}' | b']' => {
                if let Some(comma) = comma.take() {
                    out[comma] = b' ';
                }
            }
            byte if byte.is_ascii_whitespace() => {}
            _ => comma = None,
        }
        out.push(byte);
        at += 1;
    }
    // Only whole comments and ASCII commas were replaced, so this is UTF-8 still; the lossy form merely avoids a panic.
    String::from_utf8(out).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned())
}

/// The position after the string that begins at `start`, or the end of an unfinished one.
fn string_end(bytes: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'"' => return at + 1,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn people_s_json_becomes_json() {
        for (text, value) in [
            ("\u{feff}{\"a\":1,}", json!({"a":1})),
            ("{ // one, two\n\"a\": [1, 2, /* three,\n */ ], }// end", json!({"a":[1,2]})),
            (r#"{"url":"http://x/*y*/","q":"a\",//b",}"#, json!({"url":"http://x/*y*/","q":"a\",//b"})),
            (r#"["ü" , /* ö */ ]"#, json!(["ü"])),
            (r#"["\\",]"#, json!(["\\"])),
        ] {
            let parsed = serde_json::from_str::<Value>(&to_json(text)).unwrap_or_default();
            assert_eq!(parsed, value, "{text}");
        }
    }

    #[test]
    fn unfinished_input_ends() {
        for text in ["\"a\\", "/*", "//", "[1,", "\"", "{\"a\": \"\\\""] {
            assert!(serde_json::from_str::<Value>(&to_json(text)).is_err(), "{text}");
        }
    }
}
