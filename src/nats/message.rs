//! A received message and its headers.

use std::str;

/// A message as it came from the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub subject: String,
    /// Where an answer is expected, if one is.
    pub reply: Option<String>,
    pub headers: Option<Headers>,
    pub payload: Vec<u8>,
}

impl Message {
    /// The status of a message from the server itself, such as 503 "no responders".
    pub fn status(&self) -> Option<u16> {
        self.headers.as_ref()?.status()
    }

    /// The first value of a header, see [`Headers::get`].
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.as_ref()?.get(name)
    }
}

/// A header block exactly as it came. It is looked into only when asked, and forgiving: the server forwards whatever a
/// publisher wrote, so a block or a line that is malformed yields nothing instead of an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Headers(Vec<u8>);

impl Headers {
    /// Takes a block as it is on the wire, `NATS/1.0` line included.
    pub fn from_block(block: Vec<u8>) -> Headers {
        Headers(block)
    }

    /// The length of the block, in bytes.
    pub fn size(&self) -> usize {
        self.0.len()
    }

    /// The first value of `name`, without white space around it. Upper and lower case of the name are the same, because
    /// some clients rewrite it.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.iter().find(|(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// Names and values in the order in which they came; names may repeat.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        let well_formed = self.version_line().is_some();
        self.lines().skip(1).filter(move |_| well_formed).filter_map(|line| {
            let (name, value) = str::from_utf8(line).ok()?.split_once(':')?;
            (!name.is_empty()).then(|| (name, value.trim()))
        })
    }

    /// The number after the version, for example 503.
    pub fn status(&self) -> Option<u16> {
        self.version_line()?.split_ascii_whitespace().next()?.parse().ok()
    }

    /// The text after the number, for example `No Responders`.
    pub fn description(&self) -> Option<&str> {
        self.version_line()?.trim().split_once(' ').map(|(_, text)| text.trim())
    }

    fn lines(&self) -> impl Iterator<Item = &[u8]> {
        self.0.split(|byte| *byte == b'\n')
    }

    /// What follows `NATS/1.0` on the first line.
    fn version_line(&self) -> Option<&str> {
        str::from_utf8(self.lines().next()?).ok()?.strip_prefix("NATS/1.0")
    }
}

/// Whether a header may leave in a message: a name of visible ASCII characters without a colon, a value without control
/// characters (a line break in it would start a header of its own).
pub(super) fn valid_header(name: &str, value: &str) -> bool {
    let name_ok = |byte: u8| byte.is_ascii_graphic() && byte != b':';
    let value_ok = |byte: u8| (byte >= b' ' && byte != 0x7f) || byte == b'\t';
    !name.is_empty() && name.bytes().all(name_ok) && value.bytes().all(value_ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_headers_and_shrugs_at_malformed_ones() {
        // Block, value of "Key", status, number of headers.
        type Row = (&'static [u8], Option<&'static str>, Option<u16>, usize);
        let table: &[Row] = &[
            (b"NATS/1.0\r\nKey: a b \r\nKey:c\r\n\r\n", Some("a b"), None, 2),
            (b"NATS/1.0\r\nkEY:\r\n\r\n", Some(""), None, 1),
            (b"NATS/1.0 503\r\n\r\n", None, Some(503), 0),
            (b"NATS/1.0 404 No Messages\r\nKey: x:y\r\n\r\n", Some("x:y"), Some(404), 1),
            (b"NATS/1.0\r\nno colon\r\nKey: v", Some("v"), None, 1),
            (b"NATS/1.0\r\nBad: \xff\r\nKey: v\r\n\r\n", Some("v"), None, 1),
            (b"NATS/1.0\r\n: v\r\n\r\n", None, None, 0),
            (b"Key: v\r\nKey: v\r\n\r\n", None, None, 0),
            (b"NATS/1.0 99999999\r\n\r\n", None, None, 0),
            (b"\xff\xfe", None, None, 0),
            (b"", None, None, 0),
        ];
        for (block, value, status, count) in table {
            let headers = Headers::from_block(block.to_vec());
            let shown = String::from_utf8_lossy(block);
            assert_eq!((headers.get("Key"), headers.status()), (*value, *status), "{shown:?}");
            assert_eq!(headers.iter().count(), *count, "{shown:?}");
        }
        let headers = Headers::from_block(b"NATS/1.0 503 No Responders\r\n\r\n".to_vec());
        assert_eq!(headers.description(), Some("No Responders"));
    }

    #[test]
    fn headers_cannot_smuggle_lines() {
        for (name, value, valid) in [
            ("A-b_1", "grüße, x: y", true),
            ("A", "", true),
            ("A", "a\tb", true),
            ("", "v", false),
            ("a b", "v", false),
            ("a:b", "v", false),
            ("ä", "v", false),
            ("A", "v\r\nB: w", false),
            ("A", "v\n", false),
            ("A", "v\0", false),
            ("A\r\n", "v", false),
        ] {
            assert_eq!(valid_header(name, value), valid, "{name:?}: {value:?}");
        }
    }
}
