//! What the tests of this module share: a model, a sink that writes down what it gets, and a tiny HTTP server.

use super::answer::Answer;
use super::credentials::{Authorization, Scheme};
use super::model_info::{Api, Model, Rates};
use super::protocol::{Decoder, HttpRequest, RequestContext};
use super::reading;
use super::request::{Outcome, Request, Sink, StreamEvent};
use super::secret_value::Secret;
use super::sendable::Refused;
use super::sse::Events;
use super::thinking::{Budgets, ThinkingLevel};
use crate::cancel::Cancel;
use crate::transcript::{AssistantMessage, Block, Message, ToolSpec};
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

pub(crate) fn test_model() -> Model {
    Model {
        id: "m".to_string(),
        name: "M".to_string(),
        provider: "p".to_string(),
        api: Api::AnthropicMessages,
        base_url: "http://127.0.0.1:9".to_string(),
        reasoning: false,
        images: true,
        rates: Rates::default(),
        tiers: Vec::new(),
        context_window: 200_000,
        max_tokens: 8192,
        max_images: None,
        max_request_bytes: None,
        thinking_level_map: BTreeMap::new(),
        headers: Vec::new(),
        compat: serde_json::Map::new(),
    }
}

/// A request without tools.
pub(crate) fn test_request<'a>(model: &'a Model, messages: &'a [Arc<Message>]) -> Request<'a> {
    Request {
        model,
        system: "",
        messages,
        tools: &[],
        thinking: ThinkingLevel::Off,
        session_id: Some("s1"),
        session: "s1",
    }
}

/// An answer of `model` without content.
pub(crate) fn assistant_message(model: &Model) -> AssistantMessage {
    let mut recorder = Recorder::default();
    Answer::new(&test_request(model, &[]), &mut recorder).message
}

/// Messages in the form of session files.
pub(crate) fn test_messages(messages: serde_json::Value) -> Vec<Arc<Message>> {
    let messages: Vec<Message> = serde_json::from_value(messages).expect("messages");
    messages.into_iter().map(Arc::new).collect()
}

/// What a provider's `prepare` makes of a request: the URL, the headers as lines, and the body.
pub(crate) fn http_request(
    model: &Model,
    (level, max_tokens, long_cache): (ThinkingLevel, u64, bool),
    messages: serde_json::Value,
    tools: &[&ToolSpec],
    prepare: fn(&RequestContext<'_>) -> HttpRequest,
) -> (String, Vec<String>, serde_json::Value) {
    let messages = test_messages(messages);
    let request = Request { system: "Be good.", thinking: level, tools, ..test_request(model, &messages) };
    let authorization = Authorization { secret: Some(Secret::new("k")), scheme: Scheme::Key, headers: Vec::new() };
    let http_request = prepare(&RequestContext {
        request: &request,
        model,
        messages: &messages,
        authorization: &authorization,
        max_tokens,
        budgets: Budgets { high: Some(8192), ..Budgets::default() },
        long_cache,
        refused: &Refused::default(),
    });
    let headers = http_request.headers.iter().map(|(name, value)| format!("{name}: {value}")).collect();
    (http_request.url, headers, serde_json::from_slice(&http_request.body).expect("JSON"))
}

/// Feeds a stream to a decoder, as `exchange` does, and returns what came of it.
pub(crate) fn decoded(model: &Model, mut decoder: impl Decoder, stream: &str) -> (Outcome, Recorder) {
    let request = test_request(model, &[]);
    let mut recorder = Recorder::default();
    let mut answer = Answer::new(&request, &mut recorder);
    let mut events = Events::new(stream.as_bytes());
    let result = reading::read(&mut events, &mut decoder, &mut answer, &Cancel::new()).map(|(stop, _)| stop);
    (answer.finish(&request, result), recorder)
}

/// Writes down events, one word or two for each; `|` stands for "drained".
#[derive(Default)]
pub(crate) struct Recorder(pub Vec<String>);

impl Sink for Recorder {
    fn event(&mut self, event: StreamEvent<'_>) {
        self.0.push(match event {
            StreamEvent::Start => "start".to_string(),
            StreamEvent::TextStart { index } => format!("text{index}"),
            StreamEvent::TextDelta { index, delta } => format!("text{index}+{delta}"),
            StreamEvent::TextEnd { index } => format!("text{index}."),
            StreamEvent::ThinkingStart { index } => format!("thinking{index}"),
            StreamEvent::ThinkingDelta { index, delta } => format!("thinking{index}+{delta}"),
            StreamEvent::ThinkingEnd { index } => format!("thinking{index}."),
            StreamEvent::ToolCallStart { index, id, name } => format!("tool{index} {id} {name}"),
            StreamEvent::ToolCallDelta { index, delta } => format!("tool{index}+{delta}"),
            StreamEvent::ToolCallEnd { index } => format!("tool{index}."),
        });
    }

    fn drained(&mut self) {
        self.0.push("|".to_string());
    }
}

impl Recorder {
    /// What was written down, without the drains.
    pub(crate) fn events(&self) -> Vec<&str> {
        self.0.iter().map(String::as_str).filter(|e| *e != "|").collect()
    }
}

/// No wait of a script lasts longer.
const DEADLINE: Duration = Duration::from_secs(20);

pub(crate) struct TestServer {
    pub url: String,
    connections: Arc<AtomicUsize>,
    requests: Arc<Mutex<Vec<TestRequest>>>,
}

#[derive(Clone, Debug)]
pub(crate) struct TestRequest {
    /// Request line and headers, names in lower case.
    pub head: String,
    pub body: String,
}

pub(crate) struct Connection {
    stream: BufReader<TcpStream>,
    requests: Arc<Mutex<Vec<TestRequest>>>,
}

impl TestServer {
    /// `script` gets each connection and its number, counted from 0. The connection is closed when it returns.
    pub(crate) fn new(script: impl Fn(usize, &mut Connection) + Send + Sync + 'static) -> TestServer {
        let listener = TcpListener::bind("127.0.0.1:0").expect("it binds");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let connections = Arc::new(AtomicUsize::new(0));
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (script, counter, list) = (Arc::new(script), connections.clone(), requests.clone());
        // The listener lives as long as the test process: nothing waits for this thread.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let number = counter.fetch_add(1, Ordering::SeqCst);
                stream.set_read_timeout(Some(DEADLINE)).expect("it is set");
                stream.set_nodelay(true).expect("it is set");
                let mut connection = Connection { stream: BufReader::new(stream), requests: list.clone() };
                let script = script.clone();
                std::thread::spawn(move || script(number, &mut connection));
            }
        });
        TestServer { url, connections, requests }
    }

    /// Answers every request with these events, as a chunked stream; connections are kept.
    pub(crate) fn events(events: &'static str) -> TestServer {
        TestServer::new(move |_, connection| {
            while connection.request().is_some() {
                connection.stream_head();
                connection.chunk(events);
                connection.last_chunk();
            }
        })
    }

    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    pub(crate) fn requests(&self) -> Vec<TestRequest> {
        self.requests.lock().expect("no panic").clone()
    }
}

impl Connection {
    /// Reads the next request; `None` once the client has closed the connection.
    pub(crate) fn request(&mut self) -> Option<TestRequest> {
        let mut head = String::new();
        loop {
            let mut line = String::new();
            if self.stream.read_line(&mut line).ok()? == 0 {
                return None;
            }
            if line == "\r\n" {
                break;
            }
            match line.split_once(':') {
                Some((name, value)) => head.push_str(&format!("{}:{value}", name.to_ascii_lowercase())),
                None => head.push_str(&line),
            }
        }
        let length = head.lines().find_map(|l| l.strip_prefix("content-length: ")?.parse().ok()).unwrap_or(0);
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).ok()?;
        let request = TestRequest { head, body: String::from_utf8_lossy(&body).into_owned() };
        self.requests.lock().expect("no panic").push(request.clone());
        Some(request)
    }

    pub(crate) fn write(&mut self, text: &str) {
        // A client that is gone is part of some tests.
        let _ = self.stream.get_mut().write_all(text.as_bytes());
    }

    pub(crate) fn stream_head(&mut self) {
        self.write("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n");
    }

    pub(crate) fn chunk(&mut self, text: &str) {
        self.write(&format!("{:x}\r\n{text}\r\n", text.len()));
    }

    pub(crate) fn last_chunk(&mut self) {
        self.write("0\r\n\r\n");
    }

    /// A whole response that is no stream.
    pub(crate) fn respond(&mut self, status: &str, headers: &str, body: &str) {
        self.write(&format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n{headers}\r\n{body}", body.len()));
    }

    /// Waits until the client closes the connection.
    pub(crate) fn wait_closed(&mut self) {
        let _ = self.stream.read(&mut [0; 64]);
    }
}

/// Text, thoughts and calls of an answer in a few words; ids that were made up are `?`.
pub(crate) fn brief(outcome: &Outcome) -> Vec<String> {
    let mut found: Vec<_> = outcome
        .message
        .content
        .iter()
        .map(|block| match block {
            Block::Text { text, .. } => text.clone(),
            Block::Thinking { thinking, .. } => format!("({thinking})"),
            Block::ToolCall { id, name, arguments, arguments_error: None, .. } => {
                let id = if id.starts_with("call_") { "?" } else { id };
                format!("{id} {name} {}", Value::Object(arguments.clone()))
            }
            Block::ToolCall { id, name, .. } => format!("{id} {name} unusable"),
            Block::Image { .. } => String::new(),
        })
        .collect();
    found.extend(outcome.message.error_message.clone().map(|error| format!("error: {error}")));
    found
}
