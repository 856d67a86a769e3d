//! Any bytes, read as a header block: nothing panics, the ways to look into it agree, and what is sent on as headers is
//! read as the same names and values.
#![no_main]

use libfuzzer_sys::fuzz_target;
use nats_pi_bridge::nats::Headers;
use nats_pi_bridge::nats::codec::{self, ClientOp, Decoder, Limits};

fuzz_target!(|block: &[u8]| {
    let headers = Headers::from_block(block.to_vec());
    let (status, description) = (headers.status(), headers.description());
    let all: Vec<(&str, &str)> = headers.iter().collect();
    if !block.starts_with(b"NATS/1.0") {
        assert!(all.is_empty() && status.is_none() && description.is_none());
    }
    for (name, value) in &all {
        assert!(!name.is_empty() && !name.contains([':', '\n']) && !value.contains('\n'));
        assert_eq!(value.trim(), *value);
        let first = all.iter().find(|(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| *value);
        assert_eq!(headers.get(name), first);
        assert_eq!(headers.get(&name.to_ascii_uppercase()), first);
    }

    // Other names and values are never sent.
    let sent: Vec<(&str, &str)> = all
        .into_iter()
        .filter(|(name, value)| name.bytes().all(|byte| byte.is_ascii_graphic()) && !value.contains(is_control))
        .collect();
    let payload = b"payload\r\n";
    let mut written = Vec::new();
    codec::put_pub(&mut written, "a", None, &sent, payload);
    let mut decoder = Decoder::new(Limits::default());
    let mut rest = &written[..];
    while !rest.is_empty() {
        let space = decoder.space();
        let count = space.len().min(rest.len());
        space[..count].copy_from_slice(&rest[..count]);
        decoder.filled(count);
        rest = &rest[count..];
    }
    let Ok(Some(ClientOp::Publish(publication))) = decoder.next_client_op() else { panic!("it decodes") };
    assert_eq!(publication.payload, payload);
    assert_eq!(publication.headers.map_or(0, <[u8]>::len), codec::header_block_size(&sent));
    let again = Headers::from_block(publication.headers.unwrap_or_default().to_vec());
    assert_eq!(again.iter().collect::<Vec<_>>(), sent);
    assert_eq!((again.status(), again.description().unwrap_or_default()), (None, ""));
});

fn is_control(letter: char) -> bool {
    letter.is_ascii_control() && letter != '\t'
}
