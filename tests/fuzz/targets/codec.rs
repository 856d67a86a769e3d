//! Any bytes, read as what a server says and as what a client says: nothing panics, where the bytes are split makes no
//! difference, and what is written again is read as the same.
#![no_main]

#[path = "../pieces.rs"]
mod pieces;

use libfuzzer_sys::fuzz_target;
use nats_pi_bridge::nats::codec::{self, ClientOp, DecodeError, Decoder, Limits, ServerOp};
use pieces::{pieces, sizes_and_bytes};

/// Small enough for the fuzzer to reach them all.
const LIMITS: Limits = Limits { line: 64, json_line: 256, message: 512 };

/// Operations in a form that outlives the decoder.
type Outcome = (Vec<String>, Option<DecodeError>);

fuzz_target!(|input: &[u8]| {
    let Some((sizes, bytes)) = sizes_and_bytes(input) else { return };
    for next in [next_server as fn(&mut Decoder) -> _, next_client] {
        let whole = decode(bytes, &[], next);
        assert_eq!(whole, decode(bytes, sizes, next));
        assert_eq!(whole, decode(bytes, &[1], next));
    }
});

/// Decodes `bytes` in pieces of these sizes.
fn decode(bytes: &[u8], sizes: &[u8], next: fn(&mut Decoder) -> Result<Option<String>, DecodeError>) -> Outcome {
    let mut decoder = Decoder::new(LIMITS);
    let mut operations = Vec::new();
    for piece in pieces(bytes, sizes) {
        feed(&mut decoder, piece);
        loop {
            match next(&mut decoder) {
                Ok(Some(operation)) => operations.push(operation),
                Ok(None) => break,
                Err(error) => return (operations, Some(error)),
            }
        }
        // Connections do this while they are idle, which may be in the middle of an operation.
        if piece.len() % 2 == 1 {
            decoder.shrink();
        }
    }
    (operations, None)
}

fn feed(decoder: &mut Decoder, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        let space = decoder.space();
        let count = space.len().min(bytes.len());
        assert!(count > 0, "there is always room");
        space[..count].copy_from_slice(&bytes[..count]);
        decoder.filled(count);
        bytes = &bytes[count..];
    }
}

fn next_server(decoder: &mut Decoder) -> Result<Option<String>, DecodeError> {
    let Some(operation) = decoder.next_server_op()? else { return Ok(None) };
    let mut written = Vec::new();
    match &operation {
        ServerOp::Message(delivery) => codec::put_msg(&mut written, delivery),
        ServerOp::Info(json) => codec::put_info(&mut written, json),
        _ => {}
    }
    if !written.is_empty() {
        let mut again = Decoder::new(Limits::default());
        feed(&mut again, &written);
        assert_eq!(again.next_server_op(), Ok(Some(operation)));
        assert_eq!(again.buffered(), 0);
        return Ok(Some(format!("{written:?}")));
    }
    Ok(Some(format!("{operation:?}")))
}

fn next_client(decoder: &mut Decoder) -> Result<Option<String>, DecodeError> {
    let Some(operation) = decoder.next_client_op()? else { return Ok(None) };
    let shown = format!("{operation:?}");
    let mut written = Vec::new();
    let text = |bytes| std::str::from_utf8(bytes).ok();
    match &operation {
        // Blocks are written from names and values; the target `headers` does that.
        ClientOp::Publish(publication) if publication.headers.is_none() => {
            let reply = publication.reply.map(text);
            if let (Some(subject), false) = (text(publication.subject), reply == Some(None)) {
                codec::put_pub(&mut written, subject, reply.flatten(), &[], publication.payload);
            }
        }
        ClientOp::Subscribe { subject, queue, sid } => {
            let queue = queue.map(text);
            let sid = text(sid).and_then(|sid| sid.parse().ok().filter(|number: &u64| number.to_string() == sid));
            if let (Some(subject), false, Some(sid)) = (text(subject), queue == Some(None), sid) {
                codec::put_sub(&mut written, subject, queue.flatten(), sid);
            }
        }
        ClientOp::Connect(json) => codec::put_connect(&mut written, json),
        _ => {}
    }
    if !written.is_empty() {
        let mut again = Decoder::new(Limits::default());
        feed(&mut again, &written);
        assert_eq!(again.next_client_op(), Ok(Some(operation)));
        assert_eq!(again.buffered(), 0);
    }
    Ok(Some(shown))
}
