//! Text in UTF-16, as a byte order mark tells, read as UTF-8.

use std::io::{self, Read};

const CHUNK: usize = 8 * 1024;

/// The text of a file in UTF-8, or, if no byte order mark tells its encoding, its bytes as they are.
pub(in crate::tools) fn text<'a>(mut file: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let mut start = Vec::new();
    file.by_ref().take(3).read_to_end(&mut start)?;
    let unit = match start[..] {
        [0xff, 0xfe, ..] => u16::from_le_bytes,
        [0xfe, 0xff, ..] => u16::from_be_bytes,
        [0xef, 0xbb, 0xbf] => return Ok(Box::new(file)),
        _ => return Ok(Box::new(io::Cursor::new(start).chain(file))),
    };
    let file = io::Cursor::new(start.split_off(2)).chain(file);
    Ok(Box::new(Utf16 { file, unit, raw: Vec::new(), text: Vec::new(), consumed: 0 }))
}

struct Utf16<R> {
    file: R,
    unit: fn([u8; 2]) -> u16,
    /// Bytes that are not decoded yet.
    raw: Vec<u8>,
    /// Text that is to be read, from `consumed` on.
    text: Vec<u8>,
    consumed: usize,
}

impl<R: Read> Read for Utf16<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.consumed == self.text.len() {
            let count = self.file.by_ref().take(CHUNK as u64).read_to_end(&mut self.raw)?;
            if count == 0 && self.raw.is_empty() {
                return Ok(0);
            }
            self.decode(count == 0);
        }
        let count = (&self.text[self.consumed..]).read(buffer)?;
        self.consumed += count;
        Ok(count)
    }
}

impl<R> Utf16<R> {
    /// Decodes what was read; the first half of a character waits for the second one unless it `is_last`.
    fn decode(&mut self, is_last: bool) {
        let (pairs, rest) = self.raw.as_chunks::<2>();
        let mut units: Vec<u16> = pairs.iter().map(|pair| (self.unit)(*pair)).collect();
        let mut kept = rest.len();
        if !is_last && units.last().is_some_and(|unit| (0xd800..0xdc00).contains(unit)) {
            units.pop();
            kept += 2;
        }
        let mut text = String::from_utf16_lossy(&units);
        if is_last {
            if kept > 0 {
                text.push(char::REPLACEMENT_CHARACTER);
            }
            kept = 0;
        }
        self.raw.drain(..self.raw.len() - kept);
        self.text = text.into_bytes();
        self.consumed = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(data: &[u8]) -> Vec<u8> {
        let mut decoded = Vec::new();
        text(data).expect("it is opened").read_to_end(&mut decoded).expect("it is read");
        decoded
    }

    #[test]
    fn byte_order_marks_are_understood() {
        let long = "aä\u{1f600}".repeat(CHUNK);
        for unit in [u16::to_le_bytes, u16::to_be_bytes] {
            for odd in ["", "x"] {
                let written: Vec<u8> = format!("\u{feff}{odd}{long}").encode_utf16().flat_map(unit).collect();
                assert!(read(&written) == format!("{odd}{long}").as_bytes());
            }
        }
        for (data, expected) in [
            (&b"\xef\xbb\xbfa"[..], "a".as_bytes()),
            (b"\xef\xbb", b"\xef\xbb"),
            (b"plain text", b"plain text"),
            (b"", b""),
            (b"\xff\xfe", b""),
            (b"\xff\xfea\0b", "a\u{fffd}".as_bytes()),
            (b"\xff\xfe\x3d\xd8a\0", "\u{fffd}a".as_bytes()),
            (b"\xfe\xff\0a\xd8\x3d", "a\u{fffd}".as_bytes()),
        ] {
            assert_eq!(read(data), expected, "{data:?}");
        }
    }
}
