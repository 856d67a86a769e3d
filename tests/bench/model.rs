//! The model of `bench-load`: an HTTP server on loopback that speaks anthropic-messages and answers what the prompt orders.
//!
//! It stamps each piece of text right before it writes it. Its threads end with the program.

use crate::client::PATIENCE;
use crate::pieces;
use std::io::{BufRead, BufReader, BufWriter, Result, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

/// What a prompt orders: first calls of `bash`, one in a turn, then pieces of text.
#[derive(Clone, Copy)]
pub(crate) struct Order {
    pub tools: usize,
    pub pieces: usize,
    /// From one piece to the next; zero means as fast as they are read.
    pub period: Duration,
    /// Before the first piece, so that many streams at one pace do not send at the same moments.
    pub phase: Duration,
}

impl Order {
    /// Pieces as fast as they are read.
    pub(crate) fn pieces(pieces: usize) -> Order {
        Order { tools: 0, pieces, period: Duration::ZERO, phase: Duration::ZERO }
    }

    /// As text for a prompt.
    pub(crate) fn prompt(&self) -> String {
        let Order { tools, pieces, period, phase } = self;
        format!("order {tools} {pieces} {} {}", period.as_micros(), phase.as_micros())
    }

    /// The last order in the body of a request, without the calls that have been answered since.
    fn of(request: &str) -> Option<Order> {
        let (_, rest) = request.rsplit_once("\"order ")?;
        let (order, later) = rest.split_once('"')?;
        let numbers: Vec<u64> = order.split(' ').map_while(|word| word.parse().ok()).collect();
        let [tools, pieces, period, phase] = numbers[..] else { return None };
        let tools = (tools as usize).saturating_sub(later.matches("\"tool_result\"").count());
        let (period, phase) = (Duration::from_micros(period), Duration::from_micros(phase));
        Some(Order { tools, pieces: pieces as usize, period, phase })
    }
}

/// Starts the model; returns its URL.
pub(crate) fn start() -> Result<String> {
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
        let mut output = BufWriter::with_capacity(32 << 10, connection);
        match Order::of(&body) {
            Some(order) => answer(&mut output, order)?,
            None => output.write_all(b"HTTP/1.1 400 No order\r\nContent-Length: 0\r\n\r\n")?,
        }
        output.flush()?;
    }
    Ok(())
}

/// The next body; `None` once the daemon has closed the connection.
fn read_request(input: &mut impl BufRead) -> Result<Option<String>> {
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
            return Ok(String::from_utf8(body).ok());
        }
        line.clear();
    }
    Ok(None)
}

/// Writes an event as one HTTP chunk. Text and not a document of serde_json, because the model must not be what is slow.
fn put(output: &mut impl Write, kind: &str, fields: &str) -> Result<()> {
    let event = format!("event: {kind}\ndata: {{\"type\":\"{kind}\"{fields}}}\n\n");
    write!(output, "{:x}\r\n{event}\r\n", event.len())
}

fn answer(output: &mut impl Write, order: Order) -> Result<()> {
    output.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")?;
    let message =
        r#"{"id":"m","type":"message","role":"assistant","model":"bench","content":[],"usage":{"input_tokens":1}}"#;
    put(output, "message_start", &format!(r#","message":{message}"#))?;
    let reason = if order.tools > 0 {
        let id = order.tools;
        let block = format!(r#"{{"type":"tool_use","id":"call{id}","name":"bash","input":{{}}}}"#);
        put(output, "content_block_start", &format!(r#","index":0,"content_block":{block}"#))?;
        let delta = r#"{"type":"input_json_delta","partial_json":"{\"command\":\"echo hi\"}"}"#;
        put(output, "content_block_delta", &format!(r#","index":0,"delta":{delta}"#))?;
        "tool_use"
    } else {
        put(output, "content_block_start", r#","index":0,"content_block":{"type":"text","text":""}"#)?;
        put_pieces(output, order)?;
        "end_turn"
    };
    put(output, "content_block_stop", r#","index":0"#)?;
    let delta = format!(r#","delta":{{"stop_reason":"{reason}"}},"usage":{{"output_tokens":1}}"#);
    put(output, "message_delta", &delta)?;
    put(output, "message_stop", "")?;
    output.write_all(b"0\r\n\r\n")
}

fn put_pieces(output: &mut impl Write, order: Order) -> Result<()> {
    let mut due = Instant::now() + order.phase;
    for number in 0..order.pieces {
        if !order.period.is_zero() {
            thread::sleep(due.saturating_duration_since(Instant::now()));
            due += order.period;
        }
        let text = pieces::piece(number);
        put(output, "content_block_delta", &format!(r#","index":0,"delta":{{"type":"text_delta","text":"{text}"}}"#))?;
        if !order.period.is_zero() {
            output.flush()?;
        }
    }
    Ok(())
}
