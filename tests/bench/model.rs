//! The model of `bench-load`: an HTTP server on loopback that speaks anthropic-messages and answers what the prompt orders.
//!
//! It stamps each piece of text right before it writes it. Its threads end with the program.

use std::io::{BufRead, BufReader, BufWriter, Result, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::client::PATIENCE;
use crate::pieces;

/// What a prompt orders: first calls of `bash`, one in a turn, then pieces of text.
#[derive(Clone, Copy)]
pub struct Order {
    pub tools: usize,
    pub pieces: usize,
    /// From one piece to the next; zero means as fast as they are read.
    pub period: Duration,
    /// Before the first piece, so that many streams at one pace do not send at the same moments.
    pub phase: Duration,
}

impl Order {
    /// Pieces as fast as they are read.
    pub fn pieces(pieces: usize) -> Order {
        Order { tools: 0, pieces, period: Duration::ZERO, phase: Duration::ZERO }
    }

    /// As text for a prompt.
    pub fn prompt(&self) -> String {
        let Order { tools, pieces, period, phase } = self;
        format!("order {tools} {pieces} {} {}", period.as_micros(), phase.as_micros())
    }

    fn parse(prompt: &str) -> Option<Order> {
        let numbers: Vec<u64> = prompt.strip_prefix("order ")?.split(' ').map_while(|word| word.parse().ok()).collect();
        let [tools, pieces, period, phase] = numbers[..] else { return None };
        let (period, phase) = (Duration::from_micros(period), Duration::from_micros(phase));
        Some(Order { tools: tools as usize, pieces: pieces as usize, period, phase })
    }

    /// The last order of a conversation, without the calls that have been answered since.
    fn of(request: &Value) -> Option<Order> {
        let mut results = 0;
        for message in request["messages"].as_array()?.iter().rev() {
            let content = &message["content"];
            let blocks = content.as_array().map(Vec::as_slice).unwrap_or_default();
            results += blocks.iter().filter(|block| block["type"] == "tool_result").count();
            let texts = blocks.iter().map(|block| &block["text"]).chain([content]);
            if let Some(order) = texts.filter_map(Value::as_str).find_map(Order::parse) {
                return Some(Order { tools: order.tools.saturating_sub(results), ..order });
            }
        }
        None
    }
}

/// Starts the model; returns its URL.
pub fn start() -> Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let url = format!("http://{}", listener.local_addr()?);
    let accept = move || {
        for connection in listener.incoming().flatten() {
            // A connection that breaks is one that the daemon has closed; anything else shows in what it receives.
            let serve = move || drop(serve(&connection));
            thread::Builder::new().name("answer".into()).spawn(serve).expect("started");
        }
    };
    thread::Builder::new().name("model".into()).spawn(accept)?;
    Ok(url)
}

/// Answers the requests of one connection.
fn serve(connection: &TcpStream) -> Result<()> {
    connection.set_nodelay(true)?;
    connection.set_write_timeout(Some(PATIENCE))?;
    let mut input = BufReader::new(connection);
    while let Some(body) = read_request(&mut input)? {
        let request: Value = serde_json::from_slice(&body)?;
        let mut output = BufWriter::with_capacity(32 << 10, connection);
        match Order::of(&request) {
            Some(order) => answer(&mut output, order)?,
            None => output.write_all(b"HTTP/1.1 400 No order\r\nContent-Length: 0\r\n\r\n")?,
        }
        output.flush()?;
    }
    Ok(())
}

/// The next body; `None` once the daemon has closed the connection.
fn read_request(input: &mut impl BufRead) -> Result<Option<Vec<u8>>> {
    let mut length = 0;
    let mut line = String::new();
    while input.read_line(&mut line)? > 0 {
        let (name, value) = line.trim_end().split_once(':').unwrap_or_default();
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse().unwrap_or_default();
        }
        if line.trim_end().is_empty() {
            let mut body = vec![0; length];
            input.read_exact(&mut body)?;
            return Ok(Some(body));
        }
        line.clear();
    }
    Ok(None)
}

/// Writes an event as one HTTP chunk.
fn put(output: &mut impl Write, data: &str, kind: &str) -> Result<()> {
    let event = format!("event: {kind}\ndata: {data}\n\n");
    write!(output, "{:x}\r\n{event}\r\n", event.len())
}

fn put_json(output: &mut impl Write, data: &Value) -> Result<()> {
    put(output, &data.to_string(), data["type"].as_str().unwrap_or_default())
}

fn answer(output: &mut impl Write, order: Order) -> Result<()> {
    output.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")?;
    let message = json!({"id": "m", "type": "message", "role": "assistant", "model": "bench", "content": [],
        "stop_reason": null, "usage": {"input_tokens": 1, "output_tokens": 1}});
    put_json(output, &json!({"type": "message_start", "message": message}))?;
    let calls = order.tools > 0;
    let block = if calls {
        json!({"type": "tool_use", "id": format!("call{}", order.tools), "name": "bash", "input": {}})
    } else {
        json!({"type": "text", "text": ""})
    };
    put_json(output, &json!({"type": "content_block_start", "index": 0, "content_block": block}))?;
    if calls {
        let delta = json!({"type": "input_json_delta", "partial_json": r#"{"command":"echo hi"}"#});
        put_json(output, &json!({"type": "content_block_delta", "index": 0, "delta": delta}))?;
    } else {
        put_pieces(output, order)?;
    }
    put_json(output, &json!({"type": "content_block_stop", "index": 0}))?;
    let reason = if calls { "tool_use" } else { "end_turn" };
    let delta = json!({"stop_reason": reason, "stop_sequence": null});
    put_json(output, &json!({"type": "message_delta", "delta": delta, "usage": {"output_tokens": 1}}))?;
    put_json(output, &json!({"type": "message_stop"}))?;
    output.write_all(b"0\r\n\r\n")
}

fn put_pieces(output: &mut impl Write, order: Order) -> Result<()> {
    let paced = !order.period.is_zero();
    if paced {
        output.flush()?;
    }
    let begin = Instant::now() + order.phase;
    let mut due = begin;
    for number in 0..order.pieces {
        if paced {
            thread::sleep(due.saturating_duration_since(Instant::now()));
            due += order.period;
        }
        // Text and not a document of serde_json, because the model must not be what is slow.
        let head = r#"{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":""#;
        put(output, &format!("{head}{}\"}}}}", pieces::piece(number)), "content_block_delta")?;
        if paced {
            output.flush()?;
        }
    }
    Ok(())
}
