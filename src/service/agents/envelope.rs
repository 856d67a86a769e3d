//! Requests of the agent protocol: a text, or a JSON object with a prompt and files.

use crate::contract::error::{ErrorKind, ReplyError};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::value::RawValue;

/// Longest name of a file, bytes: the limit of Linux's file systems.
pub(super) const MAX_FILENAME: usize = 255;

/// A checked request.
#[derive(Debug, PartialEq, Eq)]
pub struct Envelope {
    pub prompt: String,
    pub attachments: Vec<Attachment>,
}

/// A file that came with a prompt.
#[derive(Debug, PartialEq, Eq)]
pub struct Attachment {
    /// A plain name: neither a path nor `.` nor `..`.
    pub filename: String,
    pub content: Vec<u8>,
}

/// The fields of a request. They are raw because values are skipped without recursion: a session's thread has a small
/// stack, and the depth of a value is the caller's choice.
#[derive(Deserialize)]
struct Fields<'a> {
    #[serde(borrow)]
    prompt: Option<&'a RawValue>,
    #[serde(borrow)]
    attachments: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct AttachmentFields<'a> {
    #[serde(borrow)]
    filename: Option<&'a RawValue>,
    #[serde(borrow)]
    content: Option<&'a RawValue>,
}

fn text(value: Option<&RawValue>) -> Option<String> {
    serde_json::from_str(value?.get()).ok()
}

/// Reads a request.
///
/// # Errors
/// Status 400 and the reason.
pub fn parse(payload: &[u8]) -> Result<Envelope, ReplyError> {
    let json = payload.iter().find(|byte| !b"\t\n\r ".contains(byte)) == Some(&b'{');
    let envelope = if json {
        let fields: Fields<'_> =
            serde_json::from_slice(payload).map_err(|e| ReplyError::coded(ErrorKind::InvalidJson, e))?;
        let prompt =
            text(fields.prompt).ok_or_else(|| ReplyError::coded(ErrorKind::MissingPrompt, "prompt must be a text"))?;
        Envelope { prompt, attachments: fields.attachments.map_or(Ok(Vec::new()), attachments)? }
    } else {
        let prompt = std::str::from_utf8(payload)
            .map_err(|_| ReplyError::coded(ErrorKind::InvalidText, "the prompt is not UTF-8"))?;
        Envelope { prompt: prompt.to_string(), attachments: Vec::new() }
    };
    if envelope.prompt.trim().is_empty() {
        return Err(ReplyError::coded(ErrorKind::EmptyPrompt, "the prompt is empty"));
    }
    Ok(envelope)
}

fn attachments(list: &RawValue) -> Result<Vec<Attachment>, ReplyError> {
    let invalid = |what: String| ReplyError::coded(ErrorKind::InvalidAttachment, what);
    let list: Option<Vec<AttachmentFields<'_>>> = serde_json::from_str(list.get())
        .map_err(|_| invalid("attachments must be a list of objects with filename and content".into()))?;
    list.unwrap_or_default()
        .into_iter()
        .map(|fields| {
            let filename = text(fields.filename).filter(|name| is_plain_name(name)).ok_or_else(|| {
                invalid("a filename is a plain name of 1 to 255 bytes, no path and no control characters".into())
            })?;
            let content = text(fields.content).and_then(|content| STANDARD.decode(content).ok());
            match content {
                Some(content) => Ok(Attachment { filename, content }),
                None => Err(invalid(format!("the content of {filename:?} is no standard base64 with padding"))),
            }
        })
        .collect()
}

/// Control characters are refused because a name stands on a line of the prompt.
fn is_plain_name(name: &str) -> bool {
    (1..=MAX_FILENAME).contains(&name.len())
        && !matches!(name, "." | "..")
        && !name.chars().any(|c| matches!(c, '/' | '\\') || c.is_control())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_a_text_or_an_object() {
        let deep = format!(r#"{{"prompt":"hi","x":{}1{}}}"#, "[".repeat(5000), "]".repeat(5000));
        for (payload, prompt) in [
            ("hello", "hello"),
            (" [1] \n", " [1] \n"),
            ("\"{", "\"{"),
            ("\u{feff}{}", "\u{feff}{}"),
            (r#"{"prompt":"hi"}"#, "hi"),
            ("\t\r\n {\"prompt\":\"a\\nb\", \"session\":7}", "a\nb"),
            (deep.as_str(), "hi"),
            (r#"{"prompt":"hi","attachments":null}"#, "hi"),
            (r#"{"prompt":"hi","attachments":[]}"#, "hi"),
        ] {
            let expected = Envelope { prompt: prompt.into(), attachments: Vec::new() };
            assert_eq!(parse(payload.as_bytes()), Ok(expected), "{payload:.80}");
        }
    }

    #[test]
    fn files_are_decoded() {
        let payload =
            br#"{"prompt":"see","attachments":[{"filename":"a b.txt","content":"aGk=","mime":"x"},{"filename":"e","content":""}]}"#;
        let attachment =
            |filename: &str, content: &[u8]| Attachment { filename: filename.into(), content: content.into() };
        let expected =
            Envelope { prompt: "see".into(), attachments: vec![attachment("a b.txt", b"hi"), attachment("e", b"")] };
        assert_eq!(parse(payload), Ok(expected));
        let escaped = br#"{"prompt":"see","attachments":[{"filename":"\u0061","content":"\/\/\/\/"}]}"#;
        assert_eq!(parse(escaped).map(|e| e.attachments), Ok(vec![attachment("a", &[255, 255, 255])]));
    }

    #[test]
    fn what_cannot_be_asked_is_refused() {
        for (payload, code) in [
            (&b""[..], "empty_prompt"),
            (b" \n", "empty_prompt"),
            (b"\xff\xfe", "invalid_text"),
            (b"{", "invalid_json"),
            (b"{}", "missing_prompt"),
            (br#"{"prompt":7}"#, "missing_prompt"),
            (br#"{"prompt":null}"#, "missing_prompt"),
            (br#"{"body":"x"}"#, "missing_prompt"),
            (br#"{"prompt":""}"#, "empty_prompt"),
            (b"{\"prompt\":\"\xff\"}", "invalid_json"),
            (br#"{"prompt":"a","attachments":{}}"#, "invalid_attachment"),
            (br#"{"prompt":"a","attachments":["x"]}"#, "invalid_attachment"),
            (br#"{"prompt":"a","attachments":[{"content":""}]}"#, "invalid_attachment"),
            (br#"{"prompt":"a","attachments":[{"filename":"a"}]}"#, "invalid_attachment"),
        ] {
            let error = parse(payload).expect_err("refused");
            assert_eq!(error.status(), 400);
            assert!(
                error.code() == code && error.message.starts_with(code),
                "{}: {error}",
                String::from_utf8_lossy(payload)
            );
        }
        let long = "n".repeat(256);
        for filename in ["", ".", "..", "/", "a/b", "..\\\\x", "a\\u0000b", "a\\nb", &long] {
            let payload = format!(r#"{{"prompt":"a","attachments":[{{"filename":"{filename}","content":""}}]}}"#);
            assert!(parse(payload.as_bytes()).is_err(), "{filename:?}");
        }
        for content in ["aGk", "a Gk=", "aGk-", "aGk_", "====", "aGk=\\n"] {
            let payload = format!(r#"{{"prompt":"a","attachments":[{{"filename":"a","content":"{content}"}}]}}"#);
            assert!(parse(payload.as_bytes()).is_err(), "{content:?}");
        }
    }
}
