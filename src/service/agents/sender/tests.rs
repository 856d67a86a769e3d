use super::*;
use crate::nats::Headers;
use crate::nats::nkey::UserKey;
use serde_json::json;

/// The example seed of the NATS documentation on nkeys.
const SEED: &str = "SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY";
const USER: &str = "UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4";
const SUBJECT: &str = "agents.prompt.pi-exec.ada.worker";
const TIME: &str = "2026-01-02T03:04:05Z";
const TIME_MS: i64 = 1_767_323_045_000;

fn message(headers: &[(&str, &str)], payload: &[u8]) -> Message {
    let mut block = String::from("NATS/1.0\r\n");
    for (name, value) in headers {
        block.push_str(&format!("{name}: {value}\r\n"));
    }
    let headers = Some(Headers::from_block((block + "\r\n").into_bytes()));
    Message { subject: SUBJECT.into(), reply: Some("r".into()), headers, payload: payload.into() }
}

/// The fields of a header signed over `payload`.
fn signed(payload: &[u8], nonce: &str) -> Value {
    let hash: String = digest(&SHA256, payload).as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    let input = format!("AGENT-SENDER-V1\nAPP\n{USER}\n{SUBJECT}\n{TIME}\n{nonce}\n{hash}\n");
    let signature = UserKey::from_seed(SEED).expect("a seed").sign(&input);
    json!({"v": 1, "account": "APP", "user": USER, "name": "Ada", "sub": SUBJECT, "ts": TIME, "nonce": nonce, "sig": signature})
}

fn identify(senders: &Senders, header: &Value, payload: &[u8], now_ms: i64) -> Result<Option<AgentSender>, u16> {
    let header = header.to_string();
    senders.identify(&message(&[("Agent-Sender", &header)], payload), now_ms).map_err(|error| error.status())
}

#[test]
fn a_signature_proves_the_sender_once() {
    let senders = Senders::new(SenderTrust::Signed);
    let sender = AgentSender { account: "APP".into(), user: USER.into(), name: Some("Ada".into()), verified: true };
    assert_eq!(identify(&senders, &signed(b"hi", "n1"), b"hi", TIME_MS), Ok(Some(sender.clone())));
    assert_eq!(identify(&senders, &signed(b"hi", "n1"), b"hi", TIME_MS), Err(401), "it cannot be used again");
    assert_eq!(identify(&senders, &signed(b"hi", "n2"), b"hi", TIME_MS), Ok(Some(sender.clone())));
    assert_eq!(identify(&senders, &signed(b"", "n3"), b"", TIME_MS - 29_000), Ok(Some(sender.clone())));
    for now_ms in [TIME_MS - 30_001, TIME_MS + 30_001] {
        assert_eq!(identify(&senders, &signed(b"hi", "n4"), b"hi", now_ms), Err(401));
    }
    assert_eq!(
        identify(&senders, &signed(b"hi", "n4"), b"hi", TIME_MS + 30_000),
        Ok(Some(sender)),
        "nothing was kept of it"
    );
    assert_eq!(identify(&senders, &signed(b"hi", "n5"), b"other", TIME_MS), Err(401));
    assert!(Senders::new(SenderTrust::Any).identify(&message(&[], b""), TIME_MS).is_ok_and(|sender| sender.is_none()));
}

#[test]
fn a_signature_fits_only_what_was_signed() {
    let senders = Senders::new(SenderTrust::Any);
    for (key, value) in [
        ("account", "OTHER"),
        ("sub", "agents.prompt.pi-exec.ada.other"),
        ("ts", "2026-01-02T03:04:06Z"),
        ("nonce", "another"),
        ("user", "UCXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4"),
    ] {
        let mut header = signed(b"hi", "n1");
        header[key] = json!(value);
        let status = identify(&senders, &header, b"hi", TIME_MS).expect_err(key);
        assert_eq!(status, if key == "user" { 400 } else { 401 }, "{key}");
    }
    // A refused signature does not use its nonce up.
    assert!(identify(&senders, &signed(b"hi", "n1"), b"hi", TIME_MS).is_ok());
}

#[test]
fn claims_are_told_apart_and_refused_where_proof_is_wanted() {
    let claim = json!({"v": 1, "account": "$G", "user": USER});
    let any = Senders::new(SenderTrust::Any);
    let sender = identify(&any, &claim, b"", TIME_MS).expect("accepted").expect("a sender");
    assert_eq!(sender.document(), json!({"account": "$G", "user": USER, "verified": false}));
    let strict = Senders::new(SenderTrust::Signed);
    assert_eq!(identify(&strict, &claim, b"", TIME_MS), Err(401));
    assert_eq!(strict.identify(&message(&[], b""), TIME_MS).map_err(|e| e.status()), Err(401));
    let unknown = json!({"v": 2, "whatever": true});
    assert_eq!(identify(&any, &unknown, b"", TIME_MS), Ok(None));
    assert_eq!(identify(&strict, &unknown, b"", TIME_MS), Err(401));
}

#[test]
fn malformed_headers_are_refused() {
    let senders = Senders::new(SenderTrust::Any);
    let long = "x".repeat(65);
    for (key, value) in [
        ("v", json!("1")),
        ("v", json!(true)),
        ("account", json!("")),
        ("account", json!("a.b")),
        ("account", json!(7)),
        ("account", json!("AB".repeat(28))),
        ("user", json!("U")),
        ("user", json!(null)),
        ("name", json!(long)),
        ("name", json!("a\u{1}")),
        ("sub", json!("a b")),
        ("sub", json!("a.*")),
        ("ts", json!("2026-01-02 03:04:05Z")),
        ("ts", json!("2026-13-02T03:04:05Z")),
        ("ts", json!("2026-01-02T03:04:05+00:00")),
        ("nonce", json!("")),
        ("nonce", json!(long)),
        ("nonce", json!("a b")),
        ("sig", json!("AAAA")),
        ("sig", json!("=")),
    ] {
        let mut header = signed(b"hi", "n");
        header[key] = value.clone();
        assert_eq!(identify(&senders, &header, b"hi", TIME_MS), Err(400), "{key}: {value}");
    }
    for missing in ["v", "account", "user", "sub", "ts", "nonce"] {
        let mut header = signed(b"hi", "n");
        header.as_object_mut().expect("an object").remove(missing);
        assert_eq!(identify(&senders, &header, b"hi", TIME_MS), Err(400), "without {missing}");
    }
    for value in ["", "x", "[]", "\"1\"", &"x".repeat(5000)] {
        let result = senders.identify(&message(&[("Agent-Sender", value)], b""), TIME_MS);
        assert_eq!(result.map_err(|e| e.status()), Err(400), "{value:.20}");
    }
    let twice = senders.identify(&message(&[("Agent-Sender", "{}"), ("agent-sender", "{}")], b""), TIME_MS);
    assert_eq!(twice.map_err(|e| e.status()), Err(400));
}

#[test]
fn only_trusted_users_count_where_proof_is_wanted() {
    let other = "UCDUW5V44EBDBIK2FL4CTNDBQFNGBEZVJHSZGQVKRHASN4AV4IWPB5NT";
    // (demanded, trusted users, what becomes of a good signature)
    for (trust, trusted, taken) in [
        (SenderTrust::Signed, vec![], true),
        (SenderTrust::Signed, vec![other, USER], true),
        (SenderTrust::Signed, vec![other], false),
        (SenderTrust::Any, vec![other], true),
    ] {
        let senders = Senders::trusting(trust, trusted.iter().map(|key| key.to_string()).collect(), None);
        let result = senders.identify(&message(&[(HEADER, &signed(b"hi", "n").to_string())], b"hi"), TIME_MS);
        assert_eq!(result.map_err(|e| e.code()).map(|_| ()), if taken { Ok(()) } else { Err("sender_forbidden") });
    }
}

#[test]
fn our_own_signatures_are_those_of_the_protocol() {
    let key = UserKey::from_seed("SUAEJ6GDK6FSSB54LD45Q7W25AW7NUT7MVLBABIR5MIPFUTBW7ZNPK2KYE").expect("a seed");
    let payload = br#"{"agent":"pi-exec","owner":"alice","session":"demo","instance_id":"VMKS6MHK71PCPWGY38A7N5","ts":"2026-11-27T12:00:00Z","interval_s":5}"#;
    let parts = SignedParts {
        account: "$G",
        user: "UCDUW5V44EBDBIK2FL4CTNDBQFNGBEZVJHSZGQVKRHASN4AV4IWPB5NT",
        subject: "agents.hb.pi-exec.alice.demo",
        time: "2026-11-27T12:00:00Z",
        nonce: "nonce-hb-0001",
    };
    let sign =
        |lines: &[&dyn Display]| Some(key.sign(&lines.iter().map(|line| format!("{line}\n")).collect::<String>()));
    let header: Value = serde_json::from_str(&parts.header(payload, sign).expect("signed")).expect("JSON");
    let expected = "QVmvI6MpHLVkNNWEBBlHmcPYYRVCiC4835aoZnFpbR4OrBKCTHPYziO7cVbL9CEBDJc19UcTVl7BVUu-s3xFDQ";
    assert_eq!((header["sig"].as_str(), header["v"].as_u64()), (Some(expected), Some(1)));
}

#[test]
fn times_are_read() {
    for (text, expected) in [
        ("1970-01-01T00:00:00Z", Some(0)),
        (TIME, Some(TIME_MS)),
        ("2024-02-29T23:59:59.9Z", Some(1_709_251_199_900)),
        ("2024-03-01T00:00:00.123456789Z", Some(1_709_251_200_123)),
        ("2000-12-31T12:00:00Z", Some(978_264_000_000)),
        ("1969-12-31T23:59:59Z", Some(-1000)),
        ("2026-01-02T03:04:05", None),
        ("2026-01-02T03:04:05.Z", None),
        ("2026-01-02T03:04:05.xZ", None),
        ("2026-01-02T24:04:05Z", None),
        ("+026-01-02T03:04:05Z", None),
        ("2026-01-02T03:04:05.1€Z", None),
        ("€", None),
        ("", None),
    ] {
        assert_eq!(unix_ms(text), expected, "{text}");
    }
}
