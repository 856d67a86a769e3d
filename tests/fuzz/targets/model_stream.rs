//! Any bytes as the stream of a model's answer, for each provider API: where they are split makes no difference, events
//! are those that a plain reading finds, what goes to the sink is what is in the message, and the message comes back from
//! a session file.
//!
//! An input starts with one byte that chooses the API.
#![no_main]

#[path = "../alike.rs"]
mod alike;
#[path = "../pieces.rs"]
mod pieces;

use alike::alike;
use libfuzzer_sys::fuzz_target;
use nats_pi_bridge::fuzzing::Cancel;
use nats_pi_bridge::fuzzing::model::{
    Answer, Api, Events, Model, Outcome, Rates, Request, Sink, Source, StreamEvent, ThinkingLevel, protocol, read,
};
use nats_pi_bridge::fuzzing::tolerant;
use nats_pi_bridge::fuzzing::transcript::{Block, Contents, Message, restore};
use pieces::{pieces, sizes_and_bytes};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io;

const APIS: [Api; 4] = [Api::AnthropicMessages, Api::OpenaiCompletions, Api::OpenaiResponses, Api::GoogleGenerativeAi];

fuzz_target!(|input: &[u8]| {
    let Some((choice, input)) = input.split_first() else { return };
    let Some((sizes, bytes)) = sizes_and_bytes(input) else { return };
    let expected = read_plainly(bytes);
    for sizes in [&[][..], sizes, &[1]] {
        assert_eq!(events(bytes, sizes), expected);
    }

    let model = model(usize::from(*choice));
    let (outcome, told) = decoded(&model, bytes, &[]);
    for sizes in [sizes, &[1]] {
        let (same, told_again) = decoded(&model, bytes, sizes);
        assert_eq!(told_again, told);
        assert_eq!((same.message, same.failure), (outcome.message.clone(), outcome.failure.clone()));
    }
    assert_eq!(outcome.failed(), outcome.failure.is_some());
    assert_eq!(outcome.failed(), outcome.message.error_message.is_some());
    streamed(&outcome, &told, model.api);
    kept(Message::Assistant(outcome.message));
});

/// Hands out pieces, one for each read.
struct Pieces<I>(I);

impl<'a, I: Iterator<Item = &'a [u8]>> io::Read for Pieces<I> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(piece) = self.0.next() else { return Ok(0) };
        buffer[..piece.len()].copy_from_slice(piece);
        Ok(piece.len())
    }
}

impl<'a, I: Iterator<Item = &'a [u8]>> Source for Pieces<I> {}

type Named = (Vec<u8>, Vec<u8>);

fn events(bytes: &[u8], sizes: &[u8]) -> Vec<Named> {
    let mut events = Events::new(Pieces(pieces(bytes, sizes)));
    let mut found = Vec::new();
    loop {
        while let Some(event) = events.next_event() {
            found.push((event.name.to_vec(), event.data.to_vec()));
        }
        if !events.fill().unwrap_or_else(|error| panic!("{error}")) {
            found.extend(events.rest().map(|event| (event.name.to_vec(), event.data.to_vec())));
            return found;
        }
    }
}

/// The events of a stream, by the rules of the standard, with what servers add to it: the end of the stream ends an event too,
/// an object at the beginning of a line is an event, and so is a field `error`.
fn read_plainly(bytes: &[u8]) -> Vec<Named> {
    let mut bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let mut found = Vec::new();
    let (mut name, mut data) = (Vec::new(), None::<Vec<u8>>);
    loop {
        let between = bytes.iter().take_while(|byte| b" \t[,]".contains(byte)).count();
        if data.is_none() && bytes.get(between) == Some(&b'{') {
            let (object, rest) = bytes[between..].split_at(object_length(&bytes[between..]));
            found.push((std::mem::take(&mut name), object.to_vec()));
            bytes = rest;
            continue;
        }
        let end = bytes.iter().position(|byte| matches!(byte, b'\r' | b'\n'));
        let (line, rest) = bytes.split_at(end.unwrap_or(bytes.len()));
        let colon = line.iter().position(|byte| *byte == b':').unwrap_or(line.len());
        let value = line.get(colon + 1..).unwrap_or_default();
        let value = value.strip_prefix(b" ").unwrap_or(value);
        let more = match &line[..colon] {
            [b'{', ..] | b"[DONE]" => Some(line),
            b"data" => Some(value),
            b"error" => {
                name = b"error".to_vec();
                Some(value)
            }
            b"event" => {
                name = value.to_vec();
                None
            }
            _ => None,
        };
        if let Some(more) = more {
            data = Some(data.map_or(more.to_vec(), |data| [&data, more].join(&b'\n')));
        }
        if line.is_empty() || end.is_none() {
            let event = data.take().filter(|data| !data.trim_ascii().is_empty());
            found.extend(event.map(|data| (std::mem::take(&mut name), data)));
            name.clear();
        }
        if end.is_none() {
            return found;
        }
        bytes = rest.strip_prefix(b"\r\n").unwrap_or(&rest[1..]);
    }
}

/// Up to where the brackets outside of strings are in balance, or all of it.
fn object_length(bytes: &[u8]) -> usize {
    let (mut depth, mut in_string, mut escaped) = (0, false, false);
    for (at, byte) in bytes.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => depth += 1,
            b'}' | b']' if !in_string => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return at + 1;
        }
    }
    bytes.len()
}

fn model(choice: usize) -> Model {
    // Of the OpenAI-like servers, there are those that say why they stopped and those that do not.
    let says_why = choice & 4 == 0;
    Model {
        id: "m".into(),
        name: "M".into(),
        provider: "p".into(),
        api: APIS[choice % APIS.len()],
        base_url: "https://example.com".into(),
        reasoning: true,
        images: true,
        rates: Rates { input: 3.0, output: 15.0, cache_read: 0.3, cache_write: 3.75 },
        tiers: Vec::new(),
        context_window: 200_000,
        max_tokens: 8192,
        max_images: None,
        max_request_bytes: None,
        thinking_level_map: BTreeMap::new(),
        headers: Vec::new(),
        compat: serde_json::Map::from_iter([("supportsFinishReason".to_string(), json!(says_why))]),
    }
}

/// What a sink was told, by block.
#[derive(Debug, Default, PartialEq)]
struct Told {
    blocks: Vec<ToldBlock>,
}

#[derive(Debug, Default, PartialEq)]
struct ToldBlock {
    kind: &'static str,
    id: String,
    name: String,
    deltas: Vec<String>,
    ended: bool,
}

impl Told {
    fn start(&mut self, index: usize, kind: &'static str, id: &str, name: &str) {
        assert_eq!(index, self.blocks.len(), "blocks begin one after the other");
        self.blocks.push(ToldBlock { kind, id: id.into(), name: name.into(), ..ToldBlock::default() });
    }

    fn open(&mut self, index: usize, kind: &str) -> &mut ToldBlock {
        let block = &mut self.blocks[index];
        assert!(block.kind == kind && !block.ended, "{kind} {index} is open");
        block
    }
}

impl Sink for Told {
    fn event(&mut self, event: StreamEvent<'_>) {
        match event {
            StreamEvent::Start => panic!("only a connection is accepted"),
            StreamEvent::TextStart { index } => self.start(index, "text", "", ""),
            StreamEvent::ThinkingStart { index } => self.start(index, "thinking", "", ""),
            StreamEvent::ToolCallStart { index, id, name } => self.start(index, "call", id, name),
            StreamEvent::TextDelta { index, delta } => self.open(index, "text").deltas.push(delta.into()),
            StreamEvent::ThinkingDelta { index, delta } => self.open(index, "thinking").deltas.push(delta.into()),
            StreamEvent::ToolCallDelta { index, delta } => self.open(index, "call").deltas.push(delta.into()),
            StreamEvent::TextEnd { index } => self.open(index, "text").ended = true,
            StreamEvent::ThinkingEnd { index } => self.open(index, "thinking").ended = true,
            StreamEvent::ToolCallEnd { index } => self.open(index, "call").ended = true,
        }
    }

    fn drained(&mut self) {}
}

fn decoded(model: &Model, bytes: &[u8], sizes: &[u8]) -> (Outcome, Told) {
    let request = Request {
        model,
        system: "",
        messages: &[],
        tools: &[],
        thinking: ThinkingLevel::Off,
        session_id: None,
        session: "",
    };
    let Some(protocol) = protocol(model.api) else { panic!("only the offline model has none") };
    let mut decoder = (protocol.decoder)(model);
    let mut told = Told::default();
    let mut answer = Answer::new(&request, &mut told);
    // Ids that are made up have the time in them.
    answer.message.timestamp = 7;
    let mut events = Events::new(Pieces(pieces(bytes, sizes)));
    let result = read(&mut events, &mut *decoder, &mut answer, &Cancel::new());
    let mut outcome = answer.finish(&request, result.map(|(stop, _)| stop));
    outcome.message.duration_ms = None;
    (outcome, told)
}

/// The message has what the sink was told.
fn streamed(outcome: &Outcome, told: &Told, api: Api) {
    assert_eq!(outcome.message.content.len(), told.blocks.len());
    for (block, told) in outcome.message.content.iter().zip(&told.blocks) {
        let deltas = told.deltas.concat();
        assert!(told.deltas.iter().all(|delta| !delta.is_empty()));
        match block {
            Block::Text { text, .. } => assert_eq!((told.kind, text), ("text", &deltas)),
            Block::Thinking { redacted: true, .. } => assert_eq!((told.kind, deltas.as_str()), ("thinking", "")),
            Block::Thinking { thinking, .. } => assert_eq!((told.kind, thinking), ("thinking", &deltas)),
            Block::ToolCall { id, name, arguments, arguments_error, .. } => {
                assert_eq!((told.kind, id, name), ("call", &told.id, &told.name));
                // One API sends them again at the end, which counts.
                if api != Api::OpenaiResponses {
                    let expected = tolerant::arguments(&deltas);
                    assert_eq!(arguments, expected.as_ref().unwrap_or(&serde_json::Map::new()));
                    assert_eq!(arguments_error.as_ref(), expected.as_ref().err());
                }
            }
            Block::Image { .. } => panic!("nothing is painted"),
        }
    }
}

/// Writes a message as a session file has it, and reads it again.
fn kept(message: Message) {
    let header = json!({"type": "session", "version": 3, "id": "s"});
    let entry = json!({"type": "message", "id": "a", "parentId": null, "message": message});
    let file = Contents::parse(format!("{header}\n{entry}\n").into_bytes()).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(file.malformed, 0, "{entry}");
    let restored = restore(&file);
    let [same] = &restored.messages[..] else { panic!("it is a message: {entry}") };
    let same: Value = serde_json::to_value(&**same).unwrap_or_else(|error| panic!("{error}"));
    assert!(alike(&same, &entry["message"]), "{same}\n{entry}");
}
