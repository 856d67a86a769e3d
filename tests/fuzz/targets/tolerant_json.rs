//! Any bytes, read as JSON that models and people write: what is JSON is read as serde_json reads it, what is repaired is
//! JSON, and what is known to be meant is what comes out.
#![no_main]

use libfuzzer_sys::fuzz_target;
use nats_pi_bridge::json::{comments, tolerant};
use serde_json::{Value, json};

fuzz_target!(|bytes: &[u8]| {
    let strict = serde_json::from_slice::<Value>(bytes);
    let mut repaired = String::new();
    match (tolerant::parse::<Value>(bytes, &mut repaired), &strict) {
        (Ok(value), Ok(same)) => {
            assert_eq!(value, *same);
            assert_eq!(repaired, "", "nothing was to be repaired");
        }
        (Ok(value), Err(_)) => assert_eq!(serde_json::from_str::<Value>(&repaired).ok(), Some(value)),
        (Err(error), Err(same)) => assert_eq!(error.to_string(), same.to_string()),
        (Err(error), Ok(_)) => panic!("{error}"),
    }
    match (tolerant::parse_whole::<Value>(bytes), &strict) {
        (Ok(value), Ok(same)) => assert_eq!(value, *same),
        (Err(error), Err(same)) => assert_eq!(error.to_string(), same.to_string()),
        (Err(error), Ok(_)) => panic!("{error}"),
        (Ok(_), Err(_)) => {}
    }
    let text = String::from_utf8_lossy(bytes);
    strings(&text);
    let units: Vec<u16> = bytes.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]])).collect();
    surrogates(&units);
    match (tolerant::arguments(&text), strict) {
        (Ok(map), Ok(value)) => assert_eq!(Value::Object(map), value),
        (Ok(map), Err(_)) => assert!(!map.is_empty() || text.trim().is_empty() || text.trim().starts_with('{')),
        (Err(why), value) => {
            let deep = why.starts_with("nested deeper");
            assert!(deep || value.is_err() || !text.trim().starts_with('{'), "{why}");
            assert!(why.contains("\nReceived: ") && why.chars().count() <= 1200, "{why}");
        }
    }
    comments(&text);
});

/// A text in quotation marks whose control characters are as they are, and whose backslashes are doubled only where they
/// would mean something.
fn strings(text: &str) {
    let mut written = String::from("{\"a\":\"");
    let mut letters = text.chars().peekable();
    while let Some(letter) = letters.next() {
        written.push_str(match (letter, letters.peek()) {
            ('"', _) => "\\",
            ('\\', None | Some('"' | '\\' | '/' | 'b' | 'f' | 'n' | 'r' | 't' | 'u')) => "\\",
            _ => "",
        });
        written.push(letter);
    }
    written.push_str("\"}");
    assert_eq!(tolerant::arguments(&written).map(Value::Object), Ok(json!({"a": text})), "{written}");
}

/// A text in the escapes that JavaScript writes. Half surrogate pairs are left out.
fn surrogates(units: &[u16]) {
    let escapes: String = units.iter().map(|unit| format!("\\u{unit:04x}")).collect();
    let text: String = char::decode_utf16(units.iter().copied()).filter_map(Result::ok).collect();
    let written = format!("{{\"a\":\"{escapes}\"}}");
    assert_eq!(tolerant::arguments(&written).map(Value::Object), Ok(json!({"a": text})), "{written}");
}

/// JSON without comments stays as it is, and with comments it means the same.
fn comments(text: &str) {
    let plain = comments::to_json(text);
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    assert_eq!(plain.len(), text.len());
    for (is, was) in plain.bytes().zip(text.bytes()) {
        assert!(is == was || is == b' ' && was != b'\n', "only comments and commas become spaces: {plain:?}");
    }
    let Ok(value) = serde_json::from_str::<Value>(text) else { return };
    assert_eq!(plain, text);
    let Ok(pretty) = serde_json::to_string_pretty(&value) else { panic!("it is written") };
    let mut written = String::from("\u{feff}");
    let mut lines = pretty
        .lines()
        .zip([" // x, \" ] /*\n", " /* , \" }\n // */\n", "\n", "\r\n//\n/**/"].iter().cycle())
        .peekable();
    while let Some((line, comment)) = lines.next() {
        written.push_str(line);
        written.push_str(comment);
        let closes = lines.peek().is_some_and(|(next, _)| next.trim_start().starts_with([']', '}']));
        if closes && !line.ends_with(['[', '{']) {
            written.push(',');
            written.push_str(comment);
        }
    }
    assert_eq!(comments::parse(&written), Ok(serde_json::from_str(&pretty).unwrap_or_default()), "{written}");
}
