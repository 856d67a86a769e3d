//! Server-sent events, parsed in place from a stream that may be cut anywhere.
//!
//! Servers also answer with what is no event stream. An object at the beginning of a line is an event too, whether it stands
//! alone, in a list, or in a line of its own: so an answer that came whole, an error, and lists of chunks are read as they
//! arrive. A field `error` is an event of that name, and lines that are nothing of all this are kept as [`Events::stray`].
//!
//! [`Events::next_event`] never reads; [`Events::fill`] reads once. Between the two, a caller knows that everything which has
//! arrived was handed over.

use std::io::{self, ErrorKind, Read};
use std::ops::Range;

/// What one read may bring at first: more than a short answer has, and little enough to cost nothing where many wait.
const FIRST_READ: usize = 2 << 10;
/// What one read may bring at most: as much as the connection's own buffer holds, so that one read empties it.
const MAX_READ: usize = 32 << 10;
/// The longest event, in bytes.
const MAX_EVENT: usize = 10 << 20;
/// How much of what is no event is kept, in bytes: more than an error message quotes.
const MAX_STRAY: usize = 16 << 10;

/// One event of a stream.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Event<'a> {
    /// The `event` field; empty if there was none.
    pub name: &'a [u8],
    /// The `data` fields, joined by line feeds. Never empty or blank.
    pub data: &'a [u8],
}

/// An object that stands in the stream without being the data of an event, up to where it was read.
#[derive(Default)]
struct Object {
    /// How many objects and lists are open.
    depth: usize,
    in_string: bool,
    /// A backslash went before.
    escaped: bool,
}

/// The events of a stream.
pub struct Events<R> {
    reader: R,
    buffer: Vec<u8>,
    /// What the next read may bring.
    room: usize,
    /// Where the unfinished event begins.
    start: usize,
    /// Where the line begins that is not yet parsed.
    line: usize,
    /// Up to where the line was searched for its end.
    searched: usize,
    /// How much of the buffer is filled.
    end: usize,
    /// The last line ended with a CR at the end of what had arrived: a LF that follows belongs to it.
    skip_line_feed: bool,
    begun: bool,
    /// The unfinished event. Ranges are relative to `start`.
    name: Range<usize>,
    data: Range<usize>,
    has_data: bool,
    /// The data of the last event that had several `data` lines.
    joined: Vec<u8>,
    /// The unfinished event has several: `joined` counts, not `data`.
    is_joined: bool,
    /// The line that is not yet parsed is such an object.
    object: Option<Object>,
    has_objects: bool,
    stray: Vec<u8>,
}

impl<R: Read> Events<R> {
    pub fn new(reader: R) -> Events<R> {
        Events {
            reader,
            buffer: Vec::new(),
            room: FIRST_READ,
            start: 0,
            line: 0,
            searched: 0,
            end: 0,
            skip_line_feed: false,
            begun: false,
            name: 0..0,
            data: 0..0,
            has_data: false,
            joined: Vec::new(),
            is_joined: false,
            object: None,
            has_objects: false,
            stray: Vec::new(),
        }
    }

    pub fn reader(&self) -> &R {
        &self.reader
    }

    /// Whether some of the events were objects without a field's name before them.
    pub fn has_objects(&self) -> bool {
        self.has_objects
    }

    /// The beginning of what was sent and is part of no event.
    pub fn stray(&self) -> &[u8] {
        &self.stray
    }

    pub fn into_reader(self) -> R {
        self.reader
    }

    /// Reads once; false at the end of the stream.
    ///
    /// # Errors
    ///
    /// The reader's errors, and `InvalidData` if an event is too long.
    pub fn fill(&mut self) -> io::Result<bool> {
        if self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.line -= self.start;
            self.searched -= self.start;
            self.start = 0;
        }
        if self.end > MAX_EVENT {
            return Err(io::Error::new(ErrorKind::InvalidData, format!("an event is longer than {MAX_EVENT} bytes")));
        }
        let needed = self.end + self.room;
        if self.buffer.len() < needed {
            // A new one is zeroed at once; to grow would take six instructions for each byte.
            let mut larger = vec![0; needed.max(self.end * 2)];
            larger[..self.end].copy_from_slice(&self.buffer[..self.end]);
            self.buffer = larger;
        }
        loop {
            match self.reader.read(&mut self.buffer[self.end..]) {
                Ok(0) => return Ok(false),
                Ok(n) => {
                    self.end += n;
                    if self.end == self.buffer.len() {
                        self.room = MAX_READ;
                    }
                    return Ok(true);
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// The next event that has arrived completely.
    pub fn next_event(&mut self) -> Option<Event<'_>> {
        if !self.begun && !self.skip_byte_order_mark() {
            return None;
        }
        loop {
            if self.skip_line_feed && self.line < self.end {
                self.skip_line_feed = false;
                if self.buffer[self.line] == b'\n' {
                    self.line += 1;
                    self.searched = self.line;
                }
            }
            // Most lines begin with a field's name, which their first byte shows.
            if self.object.is_none()
                && self.searched == self.line
                && self.buffer[..self.end].get(self.line).is_some_and(|byte| *byte == b'{' || is_between(byte))
                && !self.has_data
            {
                match self.object_ahead() {
                    Some(true) => self.object = Some(Object::default()),
                    Some(false) => {}
                    None => return None,
                }
            }
            if self.object.is_some() {
                if !self.object_end() {
                    return None;
                }
                return Some(self.take());
            }
            let unsearched = &self.buffer[self.searched..self.end];
            let Some(length) = memchr::memchr2(b'\n', b'\r', unsearched) else {
                self.searched = self.end;
                return None;
            };
            let (from, to) = (self.line, self.searched + length);
            self.line = to + 1;
            if self.buffer[to] == b'\r' {
                match self.buffer[..self.end].get(self.line) {
                    Some(b'\n') => self.line += 1,
                    Some(_) => {}
                    None => self.skip_line_feed = true,
                }
            }
            self.searched = self.line;
            if from < to {
                self.field(from..to);
            } else if self.has_data && !self.is_blank() {
                return Some(self.take());
            } else {
                self.reset();
            }
        }
    }

    /// The event that the end of the stream left without its empty line, if there is one. Servers exist that end so.
    pub fn rest(&mut self) -> Option<Event<'_>> {
        if self.line < self.end {
            if self.object.take().is_some() {
                self.object_is_data(self.end);
            } else {
                self.field(self.line..self.end);
            }
            self.line = self.end;
            self.searched = self.end;
        }
        (self.has_data && !self.is_blank()).then(|| self.take())
    }

    /// Whether an object begins in the line that is not yet parsed; what belongs to a list around it is passed over. `None` if
    /// too little has arrived to tell.
    fn object_ahead(&mut self) -> Option<bool> {
        let arrived = &self.buffer[self.line..self.end];
        let Some(length) = arrived.iter().position(|byte| !is_between(byte)) else {
            // Blanks are not looked at again with every read.
            self.line += arrived.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
            self.searched = self.line;
            return None;
        };
        let is_object = arrived[length] == b'{';
        if is_object {
            self.line += length;
            self.searched = self.line;
        }
        Some(is_object)
    }

    /// Reads on in the object that the line begins with; false if its end has not arrived.
    fn object_end(&mut self) -> bool {
        let Some(object) = &mut self.object else { return false };
        for at in self.searched..self.end {
            let byte = self.buffer[at];
            match byte {
                _ if object.escaped => object.escaped = false,
                b'\\' if object.in_string => object.escaped = true,
                b'"' => object.in_string = !object.in_string,
                b'{' | b'[' if !object.in_string => object.depth += 1,
                b'}' | b']' if !object.in_string => object.depth -= 1,
                _ => {}
            }
            if object.depth == 0 {
                self.object = None;
                self.object_is_data(at + 1);
                self.line = at + 1;
                self.searched = self.line;
                return true;
            }
        }
        self.searched = self.end;
        false
    }

    fn object_is_data(&mut self, end: usize) {
        self.data = self.line - self.start..end - self.start;
        (self.has_data, self.has_objects) = (true, true);
    }

    /// Whether there is nothing in the data of the unfinished event, as it is with those that keep a connection open.
    fn is_blank(&self) -> bool {
        let data = if self.is_joined { &self.joined } else { &self.buffer[self.start..][self.data.clone()] };
        data.trim_ascii_start().is_empty()
    }

    /// Skips a byte order mark. False if too little has arrived to tell.
    fn skip_byte_order_mark(&mut self) -> bool {
        const MARK: &[u8] = b"\xef\xbb\xbf";
        let arrived = &self.buffer[..self.end];
        if arrived.len() < MARK.len() && MARK.starts_with(arrived) {
            return false;
        }
        if arrived.starts_with(MARK) {
            (self.start, self.line, self.searched) = (MARK.len(), MARK.len(), MARK.len());
        }
        self.begun = true;
        true
    }

    /// Takes in one line, which is not empty.
    fn field(&mut self, line: Range<usize>) {
        let bytes = &self.buffer[line.clone()];
        let (length, mut value) = match memchr::memchr(b':', bytes) {
            Some(colon) => (colon, line.start + colon + 1..line.end),
            None => (bytes.len(), line.end..line.end),
        };
        if self.buffer.get(value.start) == Some(&b' ') && !value.is_empty() {
            value.start += 1;
        }
        let relative = value.start - self.start..value.end - self.start;
        match &bytes[..length] {
            // Some servers break off in an event and write an error behind it.
            [b'{', ..] | b"[DONE]" => self.add_data(line),
            b"data" => self.add_data(value),
            b"event" => self.name = relative,
            b"error" => {
                self.name = line.start - self.start..line.start + length - self.start;
                self.add_data(value);
            }
            // Comments, and what is of no use here.
            b"" | b"id" | b"retry" => {}
            // What is between the objects of a list.
            _ if bytes.iter().all(is_between) => {}
            _ => {
                let room = MAX_STRAY.saturating_sub(self.stray.len());
                self.stray.extend(bytes.iter().chain(b"\n").take(room));
            }
        }
    }

    fn add_data(&mut self, value: Range<usize>) {
        if !self.has_data {
            self.data = value.start - self.start..value.end - self.start;
            self.has_data = true;
            return;
        }
        if !self.is_joined {
            let first = self.start + self.data.start..self.start + self.data.end;
            self.joined.clear();
            self.joined.extend_from_slice(&self.buffer[first]);
            self.is_joined = true;
        }
        self.joined.push(b'\n');
        self.joined.extend_from_slice(&self.buffer[value]);
    }

    fn take(&mut self) -> Event<'_> {
        let absolute = |r: &Range<usize>| self.start + r.start..self.start + r.end;
        let (name, data, joined) = (absolute(&self.name), absolute(&self.data), self.is_joined);
        self.reset();
        Event { name: &self.buffer[name], data: if joined { &self.joined } else { &self.buffer[data] } }
    }

    /// The next event begins here.
    fn reset(&mut self) {
        self.start = self.line;
        self.name = 0..0;
        (self.has_data, self.is_joined) = (false, false);
    }
}

/// What may stand between objects that are in a list, and before and behind them.
fn is_between(byte: &u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'[' | b',' | b']')
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Hands out its parts, one for each read.
    struct Parts(std::vec::IntoIter<Vec<u8>>);

    impl Read for Parts {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let Some(part) = self.0.as_mut_slice().first_mut() else { return Ok(0) };
            let length = part.len().min(buffer.len());
            buffer[..length].copy_from_slice(&part[..length]);
            part.drain(..length);
            if part.is_empty() {
                self.0.next();
            }
            Ok(length)
        }
    }

    fn parse(parts: Vec<Vec<u8>>) -> Vec<(String, String)> {
        let parts: Vec<_> = parts.into_iter().filter(|p| !p.is_empty()).collect();
        let mut events = Events::new(Parts(parts.into_iter()));
        let own = |e: Event<'_>| (String::from_utf8_lossy(e.name).into(), String::from_utf8_lossy(e.data).into());
        let mut list = Vec::new();
        loop {
            while let Some(event) = events.next_event() {
                list.push(own(event));
            }
            if !events.fill().expect("it reads") {
                list.extend(events.rest().map(own));
                return list;
            }
        }
    }

    const STREAM: &str = "\u{feff}: hello\n\nevent: a\ndata: one\n\nid: 7\ndata:two\ndata\ndata:  three\nretry: 1\n\n\
        event: lost\n\ndata: [DONE]\n\ndata: ü\nevent:b\n\ndata: rest";

    #[test]
    fn any_split_and_any_line_end_gives_the_same_events() {
        let expected = [("a", "one"), ("", "two\n\n three"), ("", "[DONE]"), ("b", "ü"), ("", "rest")];
        for line_end in ["\n", "\r\n", "\r"] {
            let stream = STREAM.replace('\n', line_end).into_bytes();
            for first in 0..=stream.len() {
                for second in [first, (first + 1).min(stream.len()), (first + 7).min(stream.len()), stream.len()] {
                    let parts =
                        vec![stream[..first].to_vec(), stream[first..second].to_vec(), stream[second..].to_vec()];
                    let events = parse(parts);
                    let events: Vec<_> = events.iter().map(|(n, d)| (n.as_str(), d.as_str())).collect();
                    assert_eq!(events, expected, "{line_end:?} cut at {first} and {second}");
                }
            }
            let bytes = stream.iter().map(|b| vec![*b]).collect();
            assert_eq!(parse(bytes).len(), expected.len());
        }
    }

    #[test]
    fn objects_errors_and_what_is_no_event() {
        for (stream, expected, stray) in [
            ("{\"a\":\"}\\\"\"}{\"b\":[{}]} , {}", &["{\"a\":\"}\\\"\"}", "{\"b\":[{}]}", "{}"][..], ""),
            ("[{\"a\":\n1}\n,\n{}\n]\n", &["{\"a\":\n1}", "{}"], ""),
            ("data: x\n{\"a\":1}\n\n", &["x\n{\"a\":1}"], ""),
            ("event: n\n{}\ndata: y\n\n", &["n={}", "y"], ""),
            ("error: z\n\nerror\n\n", &["error=z"], ""),
            ("{\"cut\":", &["{\"cut\":"], ""),
            ("data:\n\ndata: \n\nevent: e\ndata\ndata\n\ndata: x\n\ndata: ", &["x"], ""),
            ("<p>\n:c\nid: 1\nretry\nOh: no\n\n", &[], "<p>\nOh: no\n"),
        ] {
            for size in 1..=stream.len() {
                let mut events = Events::new(Parts(
                    stream.as_bytes().chunks(size).map(<[u8]>::to_vec).collect::<Vec<_>>().into_iter(),
                ));
                let mut found: Vec<String> = Vec::new();
                let text = |e: Event<'_>| {
                    let data = String::from_utf8_lossy(e.data);
                    if e.name.is_empty() { data.into() } else { format!("{}={data}", String::from_utf8_lossy(e.name)) }
                };
                loop {
                    while let Some(event) = events.next_event() {
                        found.push(text(event));
                    }
                    if !events.fill().expect("it reads") {
                        found.extend(events.rest().map(text));
                        break;
                    }
                }
                assert_eq!(found, expected, "{stream} in pieces of {size}");
                assert_eq!(String::from_utf8_lossy(events.stray()), stray, "{stream}");
                assert_eq!(events.has_objects(), stream.starts_with(['[', '{']) || stream.contains("n\n{"), "{stream}");
            }
        }
    }

    #[test]
    fn an_event_is_there_as_soon_as_its_end_is() {
        for line_end in ["\n", "\r\n", "\r"] {
            let parts = format!("data: x{line_end}{line_end}|data: y{line_end}{line_end}");
            let parts: Vec<_> = parts.split('|').map(|p| p.as_bytes().to_vec()).collect();
            let mut events = Events::new(Parts(parts.into_iter()));
            for expected in [b"x", b"y"] {
                assert!(events.fill().expect("it reads"));
                assert_eq!(events.next_event().map(|e| e.data), Some(&expected[..]), "{line_end:?}");
                assert_eq!(events.next_event(), None);
            }
        }
    }

    #[test]
    fn long_events_grow_the_buffer_up_to_a_limit() {
        let long = "x".repeat(3 * MAX_READ);
        let stream = format!("data: {long}\ndata: {long}\n\ndata: y\n\n");
        let parts = stream.as_bytes().chunks(MAX_READ).map(<[u8]>::to_vec).collect();
        let events = parse(parts);
        assert_eq!((events.len(), events[0].1.len()), (2, 2 * long.len() + 1));
        let mut endless = Events::new(io::repeat(b'x'));
        let error = loop {
            match endless.fill() {
                Ok(_) => assert_eq!(endless.next_event(), None),
                Err(e) => break e,
            }
        };
        assert_eq!(error.kind(), ErrorKind::InvalidData);
    }
}
