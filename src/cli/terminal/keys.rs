//! What a terminal sends, as keys.

/// Longest text that is taken in one paste, bytes: a session takes no longer record either.
pub(crate) const MAX_PASTE: usize = 1024 * 1024;
const PASTE_BEGIN: &[u8] = b"\x1b[200~";
const PASTE_END: &[u8] = b"\x1b[201~";
/// Longest control sequence that is waited for, bytes; none of a terminal's is half as long.
const MAX_SEQUENCE: usize = 32;

/// One key, or what stands for several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Key {
    Char(char),
    /// A text that was pasted, with its line ends as `\n`.
    Paste(String),
    /// A paste of more than [`MAX_PASTE`] bytes, which is dropped.
    TooLong,
    Enter,
    Tab,
    Backspace,
    Delete,
    Left,
    Right,
    Up,
    Down,
    Home,
    End,
    PageUp,
    PageDown,
    WordLeft,
    WordRight,
    Escape,
    /// With the small letter.
    Ctrl(char),
    /// Alt, or Escape before it.
    Alt(char),
    /// Alt-Enter.
    AltEnter,
    AltBackspace,
    Other,
}

/// Bytes of a terminal that arrive in any pieces and leave as keys.
#[derive(Default)]
pub(crate) struct Decoder {
    bytes: Vec<u8>,
    /// Where it was found that the end of a paste is not, so that a long one is not searched again with each piece.
    searched: usize,
    /// A paste that is dropped because of its length is under way.
    dropping: bool,
}

impl Decoder {
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Whether a key has begun and may end with what comes next.
    pub(crate) fn is_waiting(&self) -> bool {
        !self.bytes.is_empty() && !self.bytes.starts_with(PASTE_BEGIN) && !self.dropping
    }

    /// The next key that has arrived.
    pub(crate) fn next_key(&mut self) -> Option<Key> {
        if self.dropping || self.bytes.starts_with(PASTE_BEGIN) {
            return self.paste();
        }
        let (key, length) = read(&self.bytes)?;
        self.bytes.drain(..length);
        Some(key)
    }

    /// The key that has begun, when nothing more came for a while: a terminal sends its sequences in one piece.
    pub(crate) fn give_up(&mut self) -> Option<Key> {
        let first = *self.bytes.first()?;
        let alone = self.bytes.len() == 1;
        self.bytes.clear();
        Some(if first == 0x1b && alone { Key::Escape } else { Key::Other })
    }

    fn paste(&mut self) -> Option<Key> {
        let from = self.searched.saturating_sub(PASTE_END.len());
        match memchr::memmem::find(&self.bytes[from..], PASTE_END) {
            Some(at) => {
                let text = self.bytes.drain(..from + at + PASTE_END.len()).collect::<Vec<u8>>();
                self.searched = 0;
                if std::mem::take(&mut self.dropping) {
                    return Some(Key::TooLong);
                }
                let text = String::from_utf8_lossy(&text[PASTE_BEGIN.len()..text.len() - PASTE_END.len()]);
                Some(Key::Paste(text.replace("\r\n", "\n").replace('\r', "\n")))
            }
            None => {
                self.searched = self.bytes.len();
                if self.bytes.len() > MAX_PASTE {
                    self.dropping = true;
                    self.bytes.drain(..self.bytes.len() - PASTE_END.len());
                    self.searched = 0;
                }
                None
            }
        }
    }
}

/// The key that bytes begin with, and how many of them it takes; absent where more have to come.
fn read(bytes: &[u8]) -> Option<(Key, usize)> {
    let first = *bytes.first()?;
    Some(match first {
        b'\r' | b'\n' => (Key::Enter, 1),
        b'\t' => (Key::Tab, 1),
        0x08 | 0x7f => (Key::Backspace, 1),
        0x1b => return escape(bytes),
        0x01..=0x1a => (Key::Ctrl(char::from(first + b'a' - 1)), 1),
        0x00 | 0x1c..=0x1f => (Key::Other, 1),
        0x20..=0x7e => (Key::Char(char::from(first)), 1),
        0x80.. => return character(bytes),
    })
}

fn character(bytes: &[u8]) -> Option<(Key, usize)> {
    let head = &bytes[..bytes.len().min(4)];
    let text = match std::str::from_utf8(head) {
        Ok(text) => text,
        Err(e) if e.valid_up_to() > 0 => std::str::from_utf8(&head[..e.valid_up_to()]).unwrap_or_default(),
        // Its end is still to come.
        Err(e) if e.error_len().is_none() => return None,
        Err(_) => return Some((Key::Other, 1)),
    };
    let char = text.chars().next()?;
    Some((if char.is_control() { Key::Other } else { Key::Char(char) }, char.len_utf8()))
}

fn escape(bytes: &[u8]) -> Option<(Key, usize)> {
    match *bytes.get(1)? {
        b'[' => sequence(bytes),
        b'O' => {
            let key = match *bytes.get(2)? {
                b'A' => Key::Up,
                b'B' => Key::Down,
                b'C' => Key::Right,
                b'D' => Key::Left,
                b'H' => Key::Home,
                b'F' => Key::End,
                b'M' => Key::Enter,
                _ => Key::Other,
            };
            Some((key, 3))
        }
        b'\r' | b'\n' => Some((Key::AltEnter, 2)),
        0x08 | 0x7f => Some((Key::AltBackspace, 2)),
        0x1b => Some((Key::Escape, 1)),
        byte @ 0x20..=0x7e => Some((Key::Alt(char::from(byte.to_ascii_lowercase())), 2)),
        _ => Some((Key::Other, 2)),
    }
}

/// A control sequence: parameters, then the byte that says what it is.
fn sequence(bytes: &[u8]) -> Option<(Key, usize)> {
    let rest = &bytes[2..];
    let Some(length) = rest.iter().position(|byte| (0x40..=0x7e).contains(byte)) else {
        return (bytes.len() > MAX_SEQUENCE).then_some((Key::Other, bytes.len()));
    };
    let parameters = std::str::from_utf8(&rest[..length]).unwrap_or_default();
    let mut numbers = parameters.split(';').map(|text| text.parse::<u16>().unwrap_or_default());
    let (number, modifier) = (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default());
    let by_word = modifier > 2;
    let key = match (rest[length], number) {
        (b'A', _) => Key::Up,
        (b'B', _) => Key::Down,
        (b'C', _) if by_word => Key::WordRight,
        (b'D', _) if by_word => Key::WordLeft,
        (b'C', _) => Key::Right,
        (b'D', _) => Key::Left,
        (b'H', _) | (b'~', 1 | 7) => Key::Home,
        (b'F', _) | (b'~', 4 | 8) => Key::End,
        (b'~', 3) => Key::Delete,
        (b'~', 5) => Key::PageUp,
        (b'~', 6) => Key::PageDown,
        _ => Key::Other,
    };
    Some((key, 2 + length + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(bytes: &[u8]) -> Vec<Key> {
        let mut decoder = Decoder::default();
        decoder.push(bytes);
        let mut keys: Vec<Key> = std::iter::from_fn(|| decoder.next_key()).collect();
        keys.extend(decoder.give_up());
        keys
    }

    #[test]
    fn every_key_is_told() {
        for (bytes, expected) in [
            (&b"a\r"[..], vec![Key::Char('a'), Key::Enter]),
            ("é漢".as_bytes(), vec![Key::Char('é'), Key::Char('漢')]),
            (b"\x01\x7f\t", vec![Key::Ctrl('a'), Key::Backspace, Key::Tab]),
            (b"\x1b[A\x1bOB\x1b[1;5C\x1b[D", vec![Key::Up, Key::Down, Key::WordRight, Key::Left]),
            (b"\x1b[3~\x1b[H\x1b[4~\x1b[6~", vec![Key::Delete, Key::Home, Key::End, Key::PageDown]),
            (b"\x1bb\x1b\x7f\x1b\r", vec![Key::Alt('b'), Key::AltBackspace, Key::AltEnter]),
            (b"\x1b", vec![Key::Escape]),
            (b"\x1b[1;", vec![Key::Other]),
            (b"\xff\x80x", vec![Key::Other, Key::Other, Key::Char('x')]),
            (b"\x1b[200~one\r\ntwo\rthree\x1b[201~!", vec![Key::Paste("one\ntwo\nthree".into()), Key::Char('!')]),
            (b"\x1b[200~\x1b[201~", vec![Key::Paste(String::new())]),
        ] {
            assert_eq!(keys(bytes), expected, "{bytes:?}");
        }
    }

    #[test]
    fn keys_may_come_in_pieces() {
        let input = "é\x1b[1;5Cx\x1b[200~a\rb漢\x1b[201~\x1b[A".as_bytes();
        for size in 1..=input.len() {
            let mut decoder = Decoder::default();
            let mut found = Vec::new();
            for piece in input.chunks(size) {
                decoder.push(piece);
                found.extend(std::iter::from_fn(|| decoder.next_key()));
            }
            let paste = Key::Paste("a\nb漢".into());
            assert_eq!(found, [Key::Char('é'), Key::WordRight, Key::Char('x'), paste, Key::Up], "in pieces of {size}");
            assert!(!decoder.is_waiting());
        }
    }

    #[test]
    fn a_paste_that_is_too_long_is_dropped_whole() {
        let mut decoder = Decoder::default();
        decoder.push(PASTE_BEGIN);
        let mut found = Vec::new();
        for _ in 0..3 * MAX_PASTE / 1000 {
            decoder.push(&[b'x'; 1000]);
            found.extend(std::iter::from_fn(|| decoder.next_key()));
            assert!(decoder.bytes.len() <= MAX_PASTE + 1000);
        }
        decoder.push(b"\x1b[201~y");
        found.extend(std::iter::from_fn(|| decoder.next_key()));
        assert_eq!(found, [Key::TooLong, Key::Char('y')]);
    }
}
