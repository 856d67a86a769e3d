//! Any bytes, read as a request of the agent protocol and as the header that says who sent one: what is taken keeps the
//! promises of its types and is read the same when it is written again, and nobody is believed whose signature is not for
//! this request.
#![no_main]

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use libfuzzer_sys::fuzz_target;
use nats_pi_bridge::fuzzing::agents::{self, AgentSender, Attachment, ReplyError, SenderTrust, Senders};
use nats_pi_bridge::nats::{Headers, Message};
use serde_json::{Value, json};

/// What the headers among the seeds were signed for: the example key of the NATS documentation, this subject, these bytes
/// and this time.
const ACCOUNT: &str = "APP";
const USER: &str = "UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4";
const SUBJECT: &str = "agents.prompt.pi-exec.ada.worker";
const PAYLOAD: &[u8] = b"hi";
const TIME_MS: i64 = 1_767_323_045_000;
/// How far a request's time may be from ours, milliseconds.
const WINDOW_MS: i64 = 30_000;
/// Longest header that is looked into, bytes.
const MAX_HEADER: usize = 4096;

fuzz_target!(|bytes: &[u8]| {
    request(bytes);
    header(bytes);
});

fn request(payload: &[u8]) {
    let value = serde_json::from_slice::<Value>(payload).ok();
    let is_object = payload.trim_ascii_start().starts_with(b"{");
    let envelope = match agents::parse(payload) {
        Ok(envelope) => envelope,
        Err(error) => return refused(&error, &[400]),
    };
    assert!(!envelope.prompt.trim().is_empty());
    if !is_object {
        assert_eq!(envelope.prompt.as_bytes(), payload);
        assert!(envelope.attachments.is_empty());
    } else if let Some(value) = value {
        assert_eq!(value["prompt"], envelope.prompt);
        assert_eq!(value["attachments"].as_array().map_or(0, Vec::len), envelope.attachments.len());
    }
    for Attachment { filename, .. } in &envelope.attachments {
        assert!((1..=255).contains(&filename.len()) && !filename.contains(char::is_control), "{filename:?}");
        let path = std::path::Path::new(filename);
        assert!(path.file_name().is_some_and(|name| name == filename.as_str()), "a path: {filename:?}");
    }
    let attachments = envelope
        .attachments
        .iter()
        .map(|Attachment { filename, content }| json!({"filename": filename, "content": STANDARD.encode(content)}));
    let written = json!({"prompt": envelope.prompt, "attachments": attachments.collect::<Vec<_>>()});
    assert_eq!(agents::parse(written.to_string().as_bytes()), Ok(envelope));
}

fn header(value: &[u8]) {
    let trusting = Senders::new(SenderTrust::Any);
    let strict = Senders::new(SenderTrust::Signed);
    let said = identify(&trusting, value, TIME_MS);
    match (&said, identify(&strict, value, TIME_MS)) {
        (Ok(Some(sender)), proved) if sender.verified => {
            assert_eq!(
                (sender.account.as_str(), sender.user.as_str()),
                (ACCOUNT, USER),
                "somebody else signed nothing"
            );
            assert_eq!(proved, said);
            // Once, and only in its time.
            for senders in [&trusting, &strict] {
                assert_eq!(identify(senders, value, TIME_MS + 1).map_err(|error| error.status()), Err(401));
            }
            let late = Senders::new(SenderTrust::Any);
            for now_ms in [TIME_MS - 2 * WINDOW_MS - 1, TIME_MS + 2 * WINDOW_MS + 1] {
                assert_eq!(identify(&late, value, now_ms).map_err(|error| error.status()), Err(401));
            }
        }
        (Ok(_), proved) => assert_eq!(proved.map_err(|error| error.status()), Err(401), "this proves nothing"),
        (Err(error), proved) => assert_eq!(proved.as_ref(), Err(error)),
    }
    match said {
        Ok(None) => {}
        Ok(Some(sender)) => claim(&trusting, sender),
        Err(error) => refused(&error, &[400, 401]),
    }
}

/// What a sender says of itself is the same when it is said again without a signature.
fn claim(senders: &Senders, sender: AgentSender) {
    assert!(sender.user.len() == 56 && sender.user.starts_with('U'));
    assert!(!sender.account.is_empty() && !sender.account.contains(['.', ' ', '*', '>']));
    let name = sender.name.as_deref().unwrap_or_default();
    assert!(name.encode_utf16().count() <= 64 && !name.contains(char::is_control));
    let document = sender.document();
    assert_eq!(document["verified"], sender.verified);
    let mut header = document;
    header["v"] = json!(1);
    let header = header.to_string();
    // The fields that are added make the longest headers too long.
    if header.len() <= MAX_HEADER {
        let unproved = AgentSender { verified: false, ..sender };
        assert_eq!(identify(senders, header.as_bytes(), TIME_MS), Ok(Some(unproved)));
    }
}

fn identify(senders: &Senders, value: &[u8], now_ms: i64) -> Result<Option<AgentSender>, ReplyError> {
    let block = [b"NATS/1.0\r\nAgent-Sender: ", value, b"\r\n\r\n"].concat();
    let headers = Some(Headers::from_block(block));
    let message = Message { subject: SUBJECT.into(), reply: None, headers, payload: PAYLOAD.into() };
    senders.identify(&message, now_ms)
}

/// An error has a code for programs, and words that fit on one line.
fn refused(error: &ReplyError, statuses: &[u16]) {
    assert!(statuses.contains(&error.status()), "{error:?}");
    assert!(error.message.starts_with(&format!("{}: ", error.code())), "{error:?}");
    assert!(error.message.len() < 1200 && !error.message.contains(char::is_control), "{error:?}");
}
