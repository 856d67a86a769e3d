//! The messages of an answer as the agent protocol has them: JSON objects with a type and data.

use serde_json::json;

/// What stands around the text of a piece of an answer.
const BEFORE_TEXT: &[u8] = br#"{"type":"response","data":"#;
const AFTER_TEXT: &[u8] = b"}";
/// Bytes that a piece takes beside its escaped text: what stands around it, and two quotation marks.
const AROUND_TEXT: usize = BEFORE_TEXT.len() + AFTER_TEXT.len() + 2;
/// The longest escape that JSON has for one byte: `\u001b`.
const LONGEST_ESCAPE: usize = 6;

/// The message that tells a caller at once that the prompt was taken.
pub(crate) const ACK: &str = "ack";
/// The message that tells a caller of a long silence that work goes on.
pub(crate) const WORKING: &str = "working";

/// A piece of the answer's text.
pub(crate) fn response(text: &str) -> Vec<u8> {
    let mut message = Vec::with_capacity(text.len() + AROUND_TEXT + text.len() / 8);
    message.extend_from_slice(BEFORE_TEXT);
    // Writing a text into a vector cannot fail.
    let _ = serde_json::to_writer(&mut message, text);
    message.extend_from_slice(AFTER_TEXT);
    message
}

/// Where the first piece of `text` ends whose message is no longer than `limit` bytes. Always at a character's boundary,
/// and after one character at least.
pub(crate) fn response_end(text: &str, limit: usize) -> usize {
    let room = limit.saturating_sub(AROUND_TEXT);
    if text.len() <= room / LONGEST_ESCAPE {
        return text.len();
    }
    let mut used = 0;
    for (at, character) in text.char_indices() {
        used += escaped_length(character);
        if used > room && at > 0 {
            return at;
        }
    }
    text.len()
}

/// Bytes that a character takes in a JSON text.
fn escaped_length(character: char) -> usize {
    match character {
        '"' | '\\' | '\u{8}' | '\u{c}' | '\n' | '\r' | '\t' => 2,
        '\0'..='\u{1f}' => LONGEST_ESCAPE,
        other => other.len_utf8(),
    }
}

/// A status; callers ignore those that they do not know.
pub(crate) fn status(token: &str) -> String {
    json!({"type": "status", "data": token}).to_string()
}

/// A question whose answer is expected at `reply_subject`.
pub(crate) fn query(id: &str, reply_subject: &str, prompt: &str) -> String {
    json!({"type": "query", "data": {"id": id, "reply_subject": reply_subject, "prompt": prompt}}).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[test]
    fn a_piece_is_an_object_with_the_text() {
        for text in ["", "a", "ä€😀", "\"quoted\" \\ \n\r\t\u{8}\u{c}\u{1b}\0", "\u{7f}\u{2028}"] {
            let message: Value = serde_json::from_slice(&response(text)).expect("JSON");
            assert_eq!(message, json!({"type": "response", "data": text}));
        }
    }

    #[test]
    fn pieces_fit_however_much_the_text_grows_when_it_is_escaped() {
        let texts = ["x".repeat(300), "\"".repeat(300), "\u{1b}".repeat(300), "€".repeat(300), "a\n€\0😀".repeat(60)];
        for text in &texts {
            for limit in [AROUND_TEXT + 6, 64, 100, 101, 102, 103, 500, 4000] {
                let (mut rest, mut pieces) = (text.as_str(), 0);
                while !rest.is_empty() {
                    let end = response_end(rest, limit);
                    let (piece, later) = rest.split_at(end);
                    let message = response(piece);
                    assert!(message.len() <= limit, "{} > {limit}: {piece:?}", message.len());
                    if let Some(next) = later.chars().next() {
                        assert!(message.len() + escaped_length(next) > limit, "a piece is shorter than it could be");
                    }
                    (rest, pieces) = (later, pieces + 1);
                }
                assert!(pieces >= 1);
            }
        }
        assert_eq!(response_end("€uro", 1), 3, "one character goes out whatever the limit says");
        assert_eq!(response_end("", 1), 0);
    }

    #[test]
    fn other_messages() {
        assert_eq!(status("ack"), r#"{"type":"status","data":"ack"}"#);
        let message: Value = serde_json::from_str(&query("q", "_INBOX.x", "Go?")).expect("JSON");
        assert_eq!(
            message,
            json!({"type": "query", "data": {"id": "q", "reply_subject": "_INBOX.x", "prompt": "Go?"}})
        );
    }
}
