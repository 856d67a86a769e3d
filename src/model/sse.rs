//! Server-sent events, parsed in place from a stream that may be cut anywhere.
//!
//! [`Events::next`] never reads; [`Events::fill`] reads once. Between the two, a caller knows that everything which has
//! arrived was handed over.

use std::io::{self, ErrorKind, Read};
use std::ops::Range;

/// What one read may bring: as much as the connection's own buffer holds, so that one read empties it.
const READ_SIZE: usize = 32 << 10;
/// The longest event, in bytes.
const MAX_EVENT: usize = 10 << 20;

/// One event.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Event<'a> {
    /// The `event` field; empty if there was none.
    pub name: &'a [u8],
    /// The `data` fields, joined by line feeds.
    pub data: &'a [u8],
}

/// The events of a stream.
pub struct Events<R> {
    reader: R,
    buffer: Vec<u8>,
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
}

impl<R: Read> Events<R> {
    pub fn new(reader: R) -> Events<R> {
        Events {
            reader,
            buffer: Vec::new(),
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
        }
    }

    pub fn into_reader(self) -> R {
        self.reader
    }

    /// Reads once; false at the end of the stream.
    ///
    /// # Errors
    ///
    /// Those of the reader, and `InvalidData` if an event is too long.
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
        if self.buffer.len() < self.end + READ_SIZE {
            self.buffer.resize((self.end + READ_SIZE).max(self.end * 2), 0);
        }
        loop {
            match self.reader.read(&mut self.buffer[self.end..]) {
                Ok(0) => return Ok(false),
                Ok(n) => {
                    self.end += n;
                    return Ok(true);
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// The next event that has arrived completely.
    pub fn next(&mut self) -> Option<Event<'_>> {
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
            } else if self.has_data {
                return Some(self.take());
            } else {
                self.reset();
            }
        }
    }

    /// The event that the end of the stream left without its empty line, if there is one. Servers exist that end so.
    pub fn rest(&mut self) -> Option<Event<'_>> {
        if self.line < self.end {
            self.field(self.line..self.end);
            self.line = self.end;
            self.searched = self.end;
        }
        self.has_data.then(|| self.take())
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
            b"data" if !self.has_data => {
                self.data = relative;
                self.has_data = true;
            }
            b"data" => {
                if !self.is_joined {
                    let first = self.start + self.data.start..self.start + self.data.end;
                    self.joined.clear();
                    self.joined.extend_from_slice(&self.buffer[first]);
                    self.is_joined = true;
                }
                self.joined.push(b'\n');
                self.joined.extend_from_slice(&self.buffer[value]);
            }
            b"event" => self.name = relative,
            // Comments, `id`, `retry`, and whatever else there may be.
            _ => {}
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Hands out its parts, one for each read.
    struct Parts(std::vec::IntoIter<Vec<u8>>);

    impl Read for Parts {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let Some(part) = self.0.next() else { return Ok(0) };
            buffer[..part.len()].copy_from_slice(&part);
            Ok(part.len())
        }
    }

    fn parse(parts: Vec<Vec<u8>>) -> Vec<(String, String)> {
        let parts: Vec<_> = parts.into_iter().filter(|p| !p.is_empty()).collect();
        let mut events = Events::new(Parts(parts.into_iter()));
        let own = |e: Event<'_>| (String::from_utf8_lossy(e.name).into(), String::from_utf8_lossy(e.data).into());
        let mut list = Vec::new();
        loop {
            while let Some(event) = events.next() {
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
    fn an_event_is_there_as_soon_as_its_end_is() {
        for line_end in ["\n", "\r\n", "\r"] {
            let parts = format!("data: x{line_end}{line_end}|data: y{line_end}{line_end}");
            let parts: Vec<_> = parts.split('|').map(|p| p.as_bytes().to_vec()).collect();
            let mut events = Events::new(Parts(parts.into_iter()));
            for expected in [b"x", b"y"] {
                assert!(events.fill().expect("it reads"));
                assert_eq!(events.next().map(|e| e.data), Some(&expected[..]), "{line_end:?}");
                assert_eq!(events.next(), None);
            }
        }
    }

    #[test]
    fn long_events_grow_the_buffer_up_to_a_limit() {
        let long = "x".repeat(3 * READ_SIZE);
        let stream = format!("data: {long}\ndata: {long}\n\ndata: y\n\n");
        let parts = stream.as_bytes().chunks(READ_SIZE).map(<[u8]>::to_vec).collect();
        let events = parse(parts);
        assert_eq!((events.len(), events[0].1.len()), (2, 2 * long.len() + 1));
        let mut endless = Events::new(io::repeat(b'x'));
        let error = loop {
            match endless.fill() {
                Ok(_) => assert_eq!(endless.next(), None),
                Err(e) => break e,
            }
        };
        assert_eq!(error.kind(), ErrorKind::InvalidData);
    }
}
