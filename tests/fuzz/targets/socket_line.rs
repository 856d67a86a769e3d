//! Any bytes from a client of the side channel: where they are split makes no difference to the lines, the lines are
//! those that a plain search for line ends finds, and what is asked for is the same when it is written in the usual words.
#![no_main]

#[path = "../pieces.rs"]
mod pieces;

use libfuzzer_sys::fuzz_target;
use nats_pi_bridge::fuzzing::HistoryQuery;
use nats_pi_bridge::fuzzing::socket::{
    DaemonRequest, Frame, Framer, ImagePart, Kind, PromptFields, Request, Slash, parse, slash,
};
use nats_pi_bridge::fuzzing::transcript::Block;
use pieces::{pieces, sizes_and_bytes};
use serde_json::{Map, Value, json};

/// The longest line with its LF, bytes: small enough for the fuzzer to reach it.
const LIMIT: usize = 512;

fuzz_target!(|input: &[u8]| {
    let Some((sizes, bytes)) = sizes_and_bytes(input) else { return };
    let expected = searched(bytes);
    for sizes in [&[][..], sizes, &[1]] {
        assert!(framed(bytes, sizes).iter().map(Option::as_deref).eq(expected.iter().copied()), "{expected:?}");
    }
    for line in expected.into_iter().flatten() {
        request(line);
    }
});

/// The lines of a stream that arrives in pieces; `None` is one that is too long.
fn framed(bytes: &[u8], sizes: &[u8]) -> Vec<Option<Vec<u8>>> {
    let mut framer = Framer::new(LIMIT);
    let mut lines = Vec::new();
    for piece in pieces(bytes, sizes) {
        framer.feed(piece, |frame| {
            lines.push(match frame {
                Frame::Line(line) => Some(line.to_vec()),
                Frame::TooLong(_) => None,
            });
        });
    }
    lines
}

/// The same by plain search.
fn searched(bytes: &[u8]) -> Vec<Option<&[u8]>> {
    let mut lines: Vec<_> = bytes.split(|byte| *byte == b'\n').collect();
    let unfinished = lines.pop().filter(|line| line.len() >= LIMIT);
    let line = |line| Some(line).filter(|line: &&[u8]| line.len() < LIMIT);
    let blank = |line: &Option<&[u8]>| line.is_some_and(|line| line.trim_ascii().is_empty());
    let end = |line: &[u8]| line.len() - usize::from(line.ends_with(b"\r"));
    let lines = lines.into_iter().chain(unfinished).map(line).filter(|line| !blank(line));
    lines.map(|line| line.map(|line| &line[..end(line)])).collect()
}

fn request(line: &[u8]) {
    let json = serde_json::from_slice::<Value>(line).ok();
    let fields = json.as_ref().and_then(Value::as_object);
    let field = |key: &str| fields.and_then(|fields| fields.get(key));
    let request = match parse(line) {
        Ok(request) => request,
        Err(refusal) => {
            assert!(!refusal.failure.message().is_empty());
            // Lines that are no strict JSON may still have an id.
            if json.is_some() {
                assert_eq!(refusal.id.as_ref(), field("id"));
                let asked = field("type").and_then(Value::as_str).unwrap_or("unknown");
                assert_eq!(refusal.command.as_deref(), Some(asked));
            }
            return;
        }
    };
    let head = &request.head;
    assert_eq!(head.id.as_ref(), field("id"));
    assert_eq!(Some(head.asked.as_str()), field("type").and_then(Value::as_str));
    assert_eq!(head.session.as_deref(), field("session").and_then(Value::as_str));
    // The usual name asks for the same.
    let mut usual = fields.cloned().unwrap_or_default();
    usual.insert("type".into(), head.command.into());
    let again = read(&Value::Object(usual));
    assert_eq!(again.head.command, head.command);
    assert_eq!(format!("{:?}", again.kind), format!("{:?}", request.kind));
    match request.kind {
        Kind::Prompt(fields) => prompt(&fields),
        Kind::History(query) => history(&query),
        Kind::Answer { question, .. } | Kind::Reject { question } => {
            assert!(!question.is_empty() && question.trim() == question);
        }
        Kind::Intake(request, _) => {
            if let DaemonRequest::Stop { session_id } = &*request {
                let stop = json!({"type": "stop", "sessionId": session_id});
                assert!(matches!(read(&stop).kind, Kind::Intake(same, false) if same == request));
            }
        }
        _ => {}
    }
}

fn read(request: &Value) -> Request {
    parse(request.to_string().as_bytes()).unwrap_or_else(|refusal| panic!("{request}: {}", refusal.failure.message()))
}

fn prompt(fields: &PromptFields) {
    let mut content = vec![json!(fields.text)];
    content.extend(fields.images.iter().map(|image| match image {
        ImagePart::Here(Block::Image { data, mime_type }) => {
            json!({"type": "image", "data": data, "mimeType": mime_type})
        }
        ImagePart::Along { mime_type } => json!({"type": "image", "descriptor": true, "mimeType": mime_type}),
        ImagePart::Here(other) => panic!("no image: {other:?}"),
    }));
    let deliver = fields.deliver.as_str();
    let request = json!({
        "type": "send", "content": content, "deliverAs": deliver, "from": fields.from, "stream": fields.stream,
        "traceparent": fields.trace.as_ref().map(|trace| trace.as_str()),
    });
    assert!(matches!(read(&request).kind, Kind::Prompt(same) if *same == *fields), "{request}");
    let name = |name: &str| {
        assert!(!name.is_empty() && !name.contains('/') && !name.contains(char::is_whitespace), "{name:?}");
        assert!(fields.text.strip_prefix('/').is_some_and(|rest| rest.starts_with(name)));
    };
    match slash(&fields.text) {
        Slash::None => assert!(!fields.text.starts_with("/bridge:ping ")),
        Slash::Status => name("bridge:status"),
        Slash::Ping(back) => {
            name("bridge:ping");
            assert!(!back.is_empty() && back.trim() == back);
        }
        Slash::Command(command) => name(command),
    }
}

fn history(query: &HistoryQuery) {
    let mut fields = Map::new();
    let numbers = [("limit", query.limit), ("maxBytes", query.max_bytes)];
    fields.extend(numbers.into_iter().filter_map(|(key, number)| Some((key.to_string(), json!(number?)))));
    fields.extend(query.since_seq.map(|number| ("sinceSeq".to_string(), json!(number.to_string()))));
    fields.extend(query.event.iter().map(|event| ("event".to_string(), json!(event))));
    fields.extend(query.since.iter().map(|since| ("since".to_string(), json!(since))));
    fields.insert("verbose".to_string(), json!(query.raw));
    assert_eq!(HistoryQuery::from_json(&fields), *query);
}
