use super::*;

fn decoder(bytes: &[u8]) -> Decoder {
    let mut decoder = Decoder::new(Limits { line: 1024, json_line: 4096, message: 1000 });
    feed(&mut decoder, bytes);
    decoder
}

fn feed(decoder: &mut Decoder, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        let space = decoder.space();
        let count = space.len().min(bytes.len());
        space[..count].copy_from_slice(&bytes[..count]);
        decoder.filled(count);
        bytes = &bytes[count..];
    }
}

#[test]
fn reads_what_a_server_says() {
    let delivery =
        |subject, sid, reply, headers, payload| ServerOp::Message(Delivery { subject, sid, reply, headers, payload });
    let table: &[(&[u8], ServerOp<'_>)] = &[
        (b"INFO {\"a\": 1} \r\n", ServerOp::Info(b"{\"a\": 1}")),
        (b"PING\r\n", ServerOp::Ping),
        (b"ping\n", ServerOp::Ping),
        (b"PONG\r\n", ServerOp::Pong),
        (b"+OK\r\n", ServerOp::Ok),
        (b"-ERR 'Stale Connection'\r\n", ServerOp::Error(b"Stale Connection")),
        (b"-ERR odd\r\n", ServerOp::Error(b"odd")),
        (b"MSG a.b 7 5\r\nhe\r\no\r\n", delivery(b"a.b", b"7", None, None, b"he\r\no")),
        (b"MSG a\t7  r.1 0\r\n\r\n", delivery(b"a", b"7", Some(b"r.1"), None, b"")),
        (b"HMSG a 7 12 14\r\nNATS/1.0\r\n\r\nhi\r\n", delivery(b"a", b"7", None, Some(b"NATS/1.0\r\n\r\n"), b"hi")),
        (b"HMSG a 7 r 0 2\r\nhi\r\n", delivery(b"a", b"7", Some(b"r"), Some(b""), b"hi")),
    ];
    for (bytes, expected) in table {
        let mut whole = decoder(bytes);
        assert_eq!(whole.next_server_op().expect("decodes").as_ref(), Some(expected), "{}", shown(bytes));
        assert_eq!(whole.buffered(), 0);
        let mut pieces = decoder(b"");
        for (at, byte) in bytes.iter().enumerate() {
            if at > 0 {
                assert_eq!(pieces.next_server_op(), Ok(None), "{} at {at}", shown(bytes));
            }
            feed(&mut pieces, &[*byte]);
        }
        assert_eq!(pieces.next_server_op().expect("decodes").as_ref(), Some(expected), "{} in pieces", shown(bytes));
    }
}

#[test]
fn reads_what_a_client_says() {
    let publication =
        |subject, reply, headers, payload| ClientOp::Publish(Publication { subject, reply, headers, payload });
    let table: &[(&[u8], ClientOp<'_>)] = &[
        (b"CONNECT {}\r\n", ClientOp::Connect(b"{}")),
        (b"SUB a.> 1\r\n", ClientOp::Subscribe { subject: b"a.>", queue: None, sid: b"1" }),
        (b"sub a q x9\r\n", ClientOp::Subscribe { subject: b"a", queue: Some(b"q"), sid: b"x9" }),
        (b"UNSUB 1\r\n", ClientOp::Unsubscribe { sid: b"1", max: None }),
        (b"UNSUB 1 5\r\n", ClientOp::Unsubscribe { sid: b"1", max: Some(5) }),
        (b"UNSUB 1 x\r\n", ClientOp::Unsubscribe { sid: b"1", max: None }),
        (b"PUB a 2\r\nhi\r\n", publication(b"a", None, None, b"hi")),
        (b"PUB a r 0\r\n\r\n", publication(b"a", Some(b"r"), None, b"")),
        (b"HPUB a r 12 13\r\nNATS/1.0\r\n\r\nx\r\n", publication(b"a", Some(b"r"), Some(b"NATS/1.0\r\n\r\n"), b"x")),
        (b"PING\r\n", ClientOp::Ping),
        (b"PONG\r\n", ClientOp::Pong),
    ];
    for (bytes, expected) in table {
        let mut decoder = decoder(bytes);
        assert_eq!(decoder.next_client_op().expect("decodes").as_ref(), Some(expected), "{}", shown(bytes));
        assert_eq!(decoder.buffered(), 0);
    }
}

#[test]
fn refuses_what_it_cannot_follow() {
    let bad = |text: &str| DecodeError::BadArguments(text.into());
    let table: &[(&[u8], DecodeError)] = &[
        (b"\r\n", DecodeError::UnknownOperation("".into())),
        (b"HTTP/1.1 400\r\n", DecodeError::UnknownOperation("HTTP/1.1 400".into())),
        (b"PUB a 0\r\n\r\n", DecodeError::UnknownOperation("PUB a 0".into())),
        (b"MSG a 1\r\n", bad("MSG a 1")),
        (b"MSG\r\n", bad("MSG")),
        (b"MSG a 1 b c 0\r\n\r\n", bad("MSG a 1 b c 0")),
        (b"MSG a 1 -1\r\n", bad("MSG a 1 -1")),
        (b"MSG a 1 99999999999999999999999\r\n", bad("MSG a 1 99999999999999999999999")),
        (b"MSG a b c d e f 1\r\n", bad("MSG a b c d e f 1")),
        (b"HMSG a 1 3 2\r\n", bad("HMSG a 1 3 2")),
        (b"MSG a 1 1001\r\n", DecodeError::MessageTooLarge { size: 1001, max: 1000 }),
        (b"MSG a 1 4294967295\r\n", DecodeError::MessageTooLarge { size: 4_294_967_295, max: 1000 }),
        (b"MSG a 1 2\r\nabcd", DecodeError::MissingLineEnd),
    ];
    for (bytes, expected) in table {
        let mut decoder = decoder(bytes);
        assert_eq!(decoder.next_server_op(), Err(expected.clone()), "{}", shown(bytes));
    }
    for bytes in [&b"UNSUB 1 2 3\r\n"[..], b"SUB a\r\n", b"SUB a b c d\r\n", b"PUB 1\r\n", b"UNSUB\r\n"] {
        assert!(matches!(decoder(bytes).next_client_op(), Err(DecodeError::BadArguments(_))), "{}", shown(bytes));
    }
}

#[test]
fn bounds_lines_and_takes_memory_only_for_what_arrived() {
    for (bytes, max) in [(vec![b'x'; 1025], 1024), ([&b"INFO "[..], &[b'x'; 4092]].concat(), 4096)] {
        assert_eq!(decoder(&bytes).next_server_op(), Err(DecodeError::LineTooLong { max }));
        let ended = [&bytes[..], b"\r\n"].concat();
        assert_eq!(decoder(&ended).next_server_op(), Err(DecodeError::LineTooLong { max }));
        assert_eq!(decoder(&bytes[..max]).next_server_op(), Ok(None));
    }
    // The longest line there may be, with a pause before the newline, and one that only seems to end there.
    let longest = [&b"-ERR "[..], &[b'x'; 1019], b"\r"].concat();
    for (rest, expected) in
        [(&b"\n"[..], Ok(Some(ServerOp::Error(&[b'x'; 1019])))), (b"x", Err(DecodeError::LineTooLong { max: 1024 }))]
    {
        let mut decoder = decoder(&longest);
        assert_eq!(decoder.next_server_op(), Ok(None));
        feed(&mut decoder, rest);
        assert_eq!(decoder.next_server_op(), expected);
    }
    let mut decoder = Decoder::new(Limits::default());
    feed(&mut decoder, b"MSG a 1 60000000\r\nabc");
    assert_eq!(decoder.next_server_op(), Ok(None));
    assert!(decoder.bytes.len() <= SMALL);
    let mut decoder = Decoder::new(Limits::default());
    let message = [&b"MSG a 1 300000\r\n"[..], &vec![b'y'; 300_000], b"\r\nPING\r\n"].concat();
    feed(&mut decoder, &message);
    assert!(
        matches!(decoder.next_server_op(), Ok(Some(ServerOp::Message(Delivery { payload, .. }))) if payload.len() == 300_000)
    );
    decoder.shrink();
    assert_eq!(decoder.bytes.len(), SMALL);
    assert_eq!(decoder.next_server_op(), Ok(Some(ServerOp::Ping)));
}

#[test]
fn writes_what_it_reads() {
    let mut out = Vec::new();
    put_connect(&mut out, b"{}");
    put_sub(&mut out, "a.*", None, 1);
    put_sub(&mut out, "b", Some("q"), 18);
    put_unsub(&mut out, 1);
    put_pub(&mut out, "s", None, &[], b"hi");
    put_pub(&mut out, "s", Some("r"), &[("K", "v"), ("K", "w")], b"hi");
    let expected = "CONNECT {}\r\nSUB a.* 1\r\nSUB b q 18\r\nUNSUB 1\r\nPUB s 2\r\nhi\r\n\
                    HPUB s r 24 26\r\nNATS/1.0\r\nK: v\r\nK: w\r\n\r\nhi\r\n";
    assert_eq!(String::from_utf8_lossy(&out), expected);
    let mut decoder = Decoder::new(Limits::default());
    feed(&mut decoder, &out);
    let mut count = 0;
    while decoder.next_client_op().expect("decodes").is_some() {
        count += 1;
    }
    assert_eq!((count, decoder.buffered()), (6, 0));
}

#[test]
fn writes_what_a_server_says() {
    let mut out = Vec::new();
    put_info(&mut out, b"{}");
    let message = Delivery { subject: b"a", sid: b"1", reply: None, headers: None, payload: b"hi" };
    put_msg(&mut out, &message);
    put_msg(&mut out, &Delivery { reply: Some(b"r"), headers: Some(b"NATS/1.0\r\n\r\n"), ..message });
    put_error(&mut out, "Stale Connection");
    let expected =
        "INFO {}\r\nMSG a 1 2\r\nhi\r\nHMSG a 1 r 12 14\r\nNATS/1.0\r\n\r\nhi\r\n-ERR 'Stale Connection'\r\n";
    assert_eq!(String::from_utf8_lossy(&out), expected);
}

/// Random bytes and cut-up valid input must end in an operation, a request for more, or an error; never a panic.
#[test]
fn survives_noise() {
    let mut random = fastrand::Rng::with_seed(7);
    let valid = b"INFO {}\r\nMSG a 1 5\r\nhello\r\nHMSG a 1 r 12 14\r\nNATS/1.0\r\n\r\nhi\r\nPING\r\n-ERR 'x'\r\n";
    for _ in 0..20_000 {
        let mut bytes = valid.to_vec();
        for _ in 0..random.usize(0..6) {
            let at = random.usize(..bytes.len());
            match random.u8(0..3) {
                0 => bytes[at] = random.u8(..),
                1 => drop(bytes.drain(at..bytes.len().min(at + random.usize(0..8)))),
                _ => bytes.insert(at, *random.choice(b" \r\n\t9MP\0").unwrap_or(&0)),
            }
            if bytes.is_empty() {
                break;
            }
        }
        let mut server = decoder(&bytes);
        while let Ok(Some(_)) = server.next_server_op() {}
        let mut client = decoder(&bytes);
        while let Ok(Some(_)) = client.next_client_op() {}
    }
}
