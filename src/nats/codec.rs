//! The NATS protocol's text format, in both directions and without I/O: our client reads what a server says and writes
//! what a client says, a broker does the reverse, and both use this file.
//!
//! A [`Decoder`] holds the bytes read so far and hands out operations that borrow from it. The `put_*` functions append
//! one operation to a buffer.

use std::fmt;

/// The largest message (header block and payload) that is ever accepted, in bytes: nats-server's own ceiling for its
/// `max_payload` setting.
pub const MAX_MESSAGE: usize = 64 << 20;

/// What a peer may make us hold in memory before its input is refused; all in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// A control line other than INFO and CONNECT.
    pub line: usize,
    /// An INFO or CONNECT line, whose JSON grows with the cluster's addresses and with the claims of a JWT.
    pub json_line: usize,
    /// Header block and payload of one message together.
    pub message: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { line: 32 << 10, json_line: 1 << 20, message: MAX_MESSAGE }
    }
}

/// Why a peer's bytes cannot be understood. The stream is out of step after any of these, so the connection has to end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DecodeError {
    LineTooLong { max: usize },
    MessageTooLarge { size: u64, max: usize },
    UnknownOperation(String),
    BadArguments(String),
    MissingLineEnd,
}

impl fmt::Display for DecodeError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DecodeError::LineTooLong { max } => write!(out, "protocol line longer than {max} bytes"),
            DecodeError::MessageTooLarge { size, max } => write!(out, "message of {size} bytes, {max} are allowed"),
            DecodeError::UnknownOperation(line) => write!(out, "unknown protocol operation {line:?}"),
            DecodeError::BadArguments(line) => write!(out, "malformed protocol line {line:?}"),
            DecodeError::MissingLineEnd => write!(out, "payload not followed by a line end"),
        }
    }
}

impl std::error::Error for DecodeError {}

/// What a server says. All parts borrow from the [`Decoder`].
#[derive(Debug, PartialEq, Eq)]
pub enum ServerOp<'a> {
    /// The JSON text.
    Info(&'a [u8]),
    Message(Delivery<'a>),
    Ping,
    Pong,
    Ok,
    /// The text without its quotes.
    Error(&'a [u8]),
}

/// A message on its way to a subscriber.
#[derive(Debug, PartialEq, Eq)]
pub struct Delivery<'a> {
    pub subject: &'a [u8],
    pub sid: &'a [u8],
    pub reply: Option<&'a [u8]>,
    /// The raw header block; `None` for a message without one.
    pub headers: Option<&'a [u8]>,
    pub payload: &'a [u8],
}

/// What a client says. All parts borrow from the [`Decoder`].
#[derive(Debug, PartialEq, Eq)]
pub enum ClientOp<'a> {
    /// The JSON text.
    Connect(&'a [u8]),
    Publish(Publication<'a>),
    Subscribe {
        subject: &'a [u8],
        queue: Option<&'a [u8]>,
        sid: &'a [u8],
    },
    /// `max` is the number of messages after which the subscription ends by itself; `None` ends it now.
    Unsubscribe {
        sid: &'a [u8],
        max: Option<u64>,
    },
    Ping,
    Pong,
}

/// A message on its way from a publisher.
#[derive(Debug, PartialEq, Eq)]
pub struct Publication<'a> {
    pub subject: &'a [u8],
    pub reply: Option<&'a [u8]>,
    /// The raw header block; `None` for a message without one.
    pub headers: Option<&'a [u8]>,
    pub payload: &'a [u8],
}

/// Bytes that were read and not yet understood. It starts small, grows with what arrives (never with what a peer merely
/// announces), and [`Decoder::shrink`] gives the memory back.
pub struct Decoder {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
    /// How much of the current line was searched for its end already: a line that arrives byte by byte is not searched
    /// from its beginning each time.
    searched: usize,
    /// How many bytes from `start` the current operation needs, when its control line has said so.
    wanted: usize,
    pub limits: Limits,
}

/// What an idle decoder holds, in bytes.
const SMALL: usize = 4 << 10;
/// The most that is read at once, in bytes.
const READ: usize = 64 << 10;
/// How much of a line an error shows, in bytes.
const SHOWN: usize = 64;

impl Decoder {
    pub fn new(limits: Limits) -> Decoder {
        Decoder { bytes: Vec::new(), start: 0, end: 0, searched: 0, wanted: 0, limits }
    }

    /// Where to read into next: at least 1 byte and at most 64 KiB. Call [`Decoder::filled`] afterwards.
    pub fn space(&mut self) -> &mut [u8] {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
        if self.end == self.bytes.len() {
            if self.start > self.bytes.len() / 2 {
                self.bytes.copy_within(self.start..self.end, 0);
                (self.start, self.end) = (0, self.end - self.start);
            } else {
                let size = (self.bytes.len() * 2).max(SMALL);
                self.bytes.resize(size, 0);
            }
        }
        let room = (self.bytes.len() - self.end).min(READ);
        &mut self.bytes[self.end..self.end + room]
    }

    /// Says that `count` bytes were read into [`Decoder::space`].
    pub fn filled(&mut self, count: usize) {
        self.end = (self.end + count).min(self.bytes.len());
    }

    /// How many bytes were read and not yet handed out.
    pub fn buffered(&self) -> usize {
        self.end - self.start
    }

    /// Returns memory that a burst or a large message took. Cheap when there is nothing to return.
    pub fn shrink(&mut self) {
        if self.bytes.len() > SMALL && self.buffered() < SMALL / 2 {
            self.bytes.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
            self.bytes.truncate(SMALL);
            self.bytes.shrink_to_fit();
        }
    }

    /// The next operation of a server, or `None` when more has to be read first.
    pub fn next_server_op(&mut self) -> Result<Option<ServerOp<'_>>, DecodeError> {
        let Some(frame) = self.next_frame()? else { return Ok(None) };
        Ok(Some(match frame.verb {
            Verb::Message | Verb::HeaderMessage => {
                let (headers, payload) = frame.split_body();
                let (subject, sid, reply) = match *frame.args.list() {
                    [subject, sid] => (subject, sid, None),
                    [subject, sid, reply] => (subject, sid, Some(reply)),
                    _ => return Err(bad_arguments(frame.line)),
                };
                ServerOp::Message(Delivery { subject, sid, reply, headers, payload })
            }
            Verb::Ping => ServerOp::Ping,
            Verb::Pong => ServerOp::Pong,
            Verb::Info => ServerOp::Info(frame.text),
            Verb::Ok => ServerOp::Ok,
            Verb::Error => ServerOp::Error(unquote(frame.text)),
            Verb::Connect | Verb::Publish | Verb::HeaderPublish | Verb::Subscribe | Verb::Unsubscribe => {
                return Err(DecodeError::UnknownOperation(shown(frame.line)));
            }
        }))
    }

    /// The next operation of a client, or `None` when more has to be read first.
    pub fn next_client_op(&mut self) -> Result<Option<ClientOp<'_>>, DecodeError> {
        let Some(frame) = self.next_frame()? else { return Ok(None) };
        Ok(Some(match frame.verb {
            Verb::Publish | Verb::HeaderPublish => {
                let (headers, payload) = frame.split_body();
                let (subject, reply) = match *frame.args.list() {
                    [subject] => (subject, None),
                    [subject, reply] => (subject, Some(reply)),
                    _ => return Err(bad_arguments(frame.line)),
                };
                ClientOp::Publish(Publication { subject, reply, headers, payload })
            }
            Verb::Subscribe => match *frame.args.list() {
                [subject, sid] => ClientOp::Subscribe { subject, queue: None, sid },
                [subject, queue, sid] => ClientOp::Subscribe { subject, queue: Some(queue), sid },
                _ => return Err(bad_arguments(frame.line)),
            },
            Verb::Unsubscribe => match *frame.args.list() {
                [sid] => ClientOp::Unsubscribe { sid, max: None },
                // What is no number is none, as in nats-server.
                [sid, max] => ClientOp::Unsubscribe { sid, max: number(max) },
                _ => return Err(bad_arguments(frame.line)),
            },
            Verb::Connect => ClientOp::Connect(frame.text),
            Verb::Ping => ClientOp::Ping,
            Verb::Pong => ClientOp::Pong,
            Verb::Info | Verb::Message | Verb::HeaderMessage | Verb::Ok | Verb::Error => {
                return Err(DecodeError::UnknownOperation(shown(frame.line)));
            }
        }))
    }

    /// Takes one whole operation off the buffer: its line, and its body if it has one.
    fn next_frame(&mut self) -> Result<Option<Frame<'_>>, DecodeError> {
        let bytes = &self.bytes[self.start..self.end];
        if bytes.len() < self.wanted {
            return Ok(None);
        }
        let Some(newline) = memchr::memchr(b'\n', &bytes[self.searched..]).map(|at| at + self.searched) else {
            let max = self.limits.line_limit(bytes);
            // A carriage return is no part of the line if the newline is what comes next.
            if bytes.strip_suffix(b"\r").unwrap_or(bytes).len() > max {
                return Err(DecodeError::LineTooLong { max });
            }
            self.searched = bytes.len();
            return Ok(None);
        };
        let line = bytes[..newline].strip_suffix(b"\r").unwrap_or(&bytes[..newline]);
        let max = self.limits.line_limit(bytes);
        if line.len() > max {
            return Err(DecodeError::LineTooLong { max });
        }
        let mut frame = Frame::parse(line, self.limits.message)?;
        let mut size = newline + 1;
        if let Some(body) = frame.body_size {
            size += body + 2;
            if bytes.len() < size {
                (self.searched, self.wanted) = (newline, size);
                return Ok(None);
            }
            if &bytes[size - 2..size] != b"\r\n" {
                return Err(DecodeError::MissingLineEnd);
            }
            frame.body = &bytes[newline + 1..size - 2];
        }
        (self.searched, self.wanted) = (0, 0);
        self.start += size;
        Ok(Some(frame))
    }
}

impl Limits {
    fn line_limit(&self, line: &[u8]) -> usize {
        let is = |verb: &[u8]| line.len() >= verb.len() && line[..verb.len()].eq_ignore_ascii_case(verb);
        if is(b"INFO") || is(b"CONNECT") { self.json_line } else { self.line }
    }
}

/// The first word of a line. Both directions together: which of them may come is the caller's business.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verb {
    Info,
    Connect,
    Publish,
    HeaderPublish,
    Subscribe,
    Unsubscribe,
    Message,
    HeaderMessage,
    Ping,
    Pong,
    Ok,
    Error,
}

impl Verb {
    /// Case does not matter, as in nats-server.
    fn parse(word: &[u8]) -> Option<Verb> {
        const VERBS: [(&[u8], Verb); 12] = [
            (b"MSG", Verb::Message),
            (b"PUB", Verb::Publish),
            (b"HMSG", Verb::HeaderMessage),
            (b"HPUB", Verb::HeaderPublish),
            (b"PING", Verb::Ping),
            (b"PONG", Verb::Pong),
            (b"SUB", Verb::Subscribe),
            (b"UNSUB", Verb::Unsubscribe),
            (b"INFO", Verb::Info),
            (b"CONNECT", Verb::Connect),
            (b"+OK", Verb::Ok),
            (b"-ERR", Verb::Error),
        ];
        VERBS.iter().find(|(name, _)| name.eq_ignore_ascii_case(word)).map(|(_, verb)| *verb)
    }
}

/// One operation, cut out of the stream but not yet interpreted for a direction.
struct Frame<'a> {
    verb: Verb,
    line: &'a [u8],
    /// Everything after the verb.
    text: &'a [u8],
    /// The words after the verb, without the sizes of a body; empty for verbs whose text is not made of words.
    args: Args<'a>,
    header_size: Option<usize>,
    body_size: Option<usize>,
    body: &'a [u8],
}

impl<'a> Frame<'a> {
    fn parse(line: &'a [u8], max_message: usize) -> Result<Frame<'a>, DecodeError> {
        let word_end = line.iter().position(|byte| is_blank(*byte)).unwrap_or(line.len());
        let verb = Verb::parse(&line[..word_end]).ok_or_else(|| DecodeError::UnknownOperation(shown(line)))?;
        let text = line[word_end..].trim_ascii();
        let mut frame =
            Frame { verb, line, text, args: Args::default(), header_size: None, body_size: None, body: b"" };
        if matches!(verb, Verb::Info | Verb::Connect | Verb::Ping | Verb::Pong | Verb::Ok | Verb::Error) {
            return Ok(frame);
        }
        frame.args = Args::split(text).ok_or_else(|| bad_arguments(line))?;
        if matches!(verb, Verb::Subscribe | Verb::Unsubscribe) {
            return Ok(frame);
        }
        let total = frame.args.pop_number().ok_or_else(|| bad_arguments(line))?;
        if total > max_message as u64 {
            return Err(DecodeError::MessageTooLarge { size: total, max: max_message });
        }
        if matches!(verb, Verb::HeaderPublish | Verb::HeaderMessage) {
            let header = frame.args.pop_number().ok_or_else(|| bad_arguments(line))?;
            if header > total {
                return Err(bad_arguments(line));
            }
            frame.header_size = Some(header as usize);
        }
        // Checked before the body is waited for: a line that is wrong must not make us wait for bytes it misnames.
        let subjects = if matches!(verb, Verb::Message | Verb::HeaderMessage) { 2..=3 } else { 1..=2 };
        if !subjects.contains(&frame.args.count) {
            return Err(bad_arguments(line));
        }
        frame.body_size = Some(total as usize);
        Ok(frame)
    }

    fn split_body(&self) -> (Option<&'a [u8]>, &'a [u8]) {
        match self.header_size {
            Some(size) => (Some(&self.body[..size]), &self.body[size..]),
            None => (None, self.body),
        }
    }
}

/// The words of a line: HMSG has the most, five.
#[derive(Default)]
struct Args<'a> {
    words: [&'a [u8]; 5],
    count: usize,
}

impl<'a> Args<'a> {
    fn split(text: &'a [u8]) -> Option<Args<'a>> {
        let mut args = Args::default();
        for word in text.split(|byte| is_blank(*byte)).filter(|word| !word.is_empty()) {
            *args.words.get_mut(args.count)? = word;
            args.count += 1;
        }
        Some(args)
    }

    fn list(&self) -> &[&'a [u8]] {
        &self.words[..self.count]
    }

    fn pop_number(&mut self) -> Option<u64> {
        self.count = self.count.checked_sub(1)?;
        number(self.words[self.count])
    }
}

fn is_blank(byte: u8) -> bool {
    byte == b' ' || byte == b'\t'
}

/// Decimal digits only, as nats-server reads them; no sign and nothing that overflows.
fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0u64, |value, digit| {
        let digit = digit.checked_sub(b'0').filter(|digit| *digit <= 9)?;
        value.checked_mul(10)?.checked_add(digit.into())
    })
}

fn unquote(text: &[u8]) -> &[u8] {
    text.strip_prefix(b"'").and_then(|text| text.strip_suffix(b"'")).unwrap_or(text)
}

fn shown(line: &[u8]) -> String {
    String::from_utf8_lossy(&line[..line.len().min(SHOWN)]).into_owned()
}

fn bad_arguments(line: &[u8]) -> DecodeError {
    DecodeError::BadArguments(shown(line))
}

pub const OK: &[u8] = b"+OK\r\n";
pub const PING: &[u8] = b"PING\r\n";
pub const PONG: &[u8] = b"PONG\r\n";
const HEADER_VERSION: &[u8] = b"NATS/1.0";

/// Size in bytes of the header block that [`put_pub`] writes for `headers`; 0 for none.
pub fn header_block_size(headers: &[(&str, &str)]) -> usize {
    if headers.is_empty() {
        return 0;
    }
    let lines: usize = headers.iter().map(|(name, value)| name.len() + 2 + value.len() + 2).sum();
    HEADER_VERSION.len() + 2 + lines + 2
}

/// PUB, or HPUB when there are headers. The caller has checked subjects and headers.
pub fn put_pub(out: &mut Vec<u8>, subject: &str, reply: Option<&str>, headers: &[(&str, &str)], payload: &[u8]) {
    let header_size = header_block_size(headers);
    out.reserve(payload.len() + header_size + subject.len() + reply.map_or(0, str::len) + 64);
    put_words(out, if headers.is_empty() { b"PUB" } else { b"HPUB" }, &[subject.as_bytes()]);
    if let Some(reply) = reply {
        put_words(out, b"", &[reply.as_bytes()]);
    }
    if header_size > 0 {
        put_number(out, header_size);
    }
    put_number(out, header_size + payload.len());
    out.extend_from_slice(b"\r\n");
    if header_size > 0 {
        out.extend_from_slice(HEADER_VERSION);
        out.extend_from_slice(b"\r\n");
        for (name, value) in headers {
            for part in [name.as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
                out.extend_from_slice(part);
            }
        }
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(payload);
    out.extend_from_slice(b"\r\n");
}

pub fn put_sub(out: &mut Vec<u8>, subject: &str, queue: Option<&str>, sid: u64) {
    put_words(out, b"SUB", &[subject.as_bytes()]);
    if let Some(queue) = queue {
        put_words(out, b"", &[queue.as_bytes()]);
    }
    put_number(out, sid as usize);
    out.extend_from_slice(b"\r\n");
}

pub fn put_unsub(out: &mut Vec<u8>, sid: u64) {
    put_words(out, b"UNSUB", &[]);
    put_number(out, sid as usize);
    out.extend_from_slice(b"\r\n");
}

pub fn put_connect(out: &mut Vec<u8>, json: &[u8]) {
    put_words(out, b"CONNECT", &[json]);
    out.extend_from_slice(b"\r\n");
}

pub fn put_info(out: &mut Vec<u8>, json: &[u8]) {
    put_words(out, b"INFO", &[json]);
    out.extend_from_slice(b"\r\n");
}

/// MSG, or HMSG when there is a header block, which is passed on as it is.
pub fn put_msg(out: &mut Vec<u8>, message: &Delivery<'_>) {
    let Delivery { subject, sid, reply, headers, payload } = message;
    let header_size = headers.map_or(0, <[u8]>::len);
    out.reserve(payload.len() + header_size + subject.len() + sid.len() + reply.map_or(0, <[u8]>::len) + 64);
    put_words(out, if headers.is_some() { b"HMSG" } else { b"MSG" }, &[subject, sid]);
    if let Some(reply) = reply {
        put_words(out, b"", &[reply]);
    }
    if headers.is_some() {
        put_number(out, header_size);
    }
    put_number(out, header_size + payload.len());
    for part in [b"\r\n", headers.unwrap_or_default(), payload, b"\r\n"] {
        out.extend_from_slice(part);
    }
}

pub fn put_error(out: &mut Vec<u8>, text: &str) {
    for part in ["-ERR '", text, "'\r\n"] {
        out.extend_from_slice(part.as_bytes());
    }
}

fn put_words(out: &mut Vec<u8>, verb: &[u8], words: &[&[u8]]) {
    out.extend_from_slice(verb);
    for word in words {
        out.push(b' ');
        out.extend_from_slice(word);
    }
}

/// A space and the number in decimal; `write!` would take several times as long.
fn put_number(out: &mut Vec<u8>, mut number: usize) {
    let mut digits = [b' '; 21];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at - 1..]);
}

#[cfg(test)]
mod tests;
