//! Cutting bytes into lines.

/// Bytes that arrive in any pieces and leave as lines.
#[derive(Default)]
pub(super) struct LineBuffer {
    bytes: Vec<u8>,
    /// Where the next line begins. What is before it goes when more arrives, at once for all lines of a piece.
    start: usize,
    /// How far there is no line end, so that a long line is not searched again with every piece.
    searched: usize,
}

impl LineBuffer {
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.start);
        self.searched -= self.start;
        self.start = 0;
        self.bytes.extend_from_slice(bytes);
    }

    /// The next complete line, with its end: JSON does not mind it, and who passes lines on wants it.
    pub(super) fn next_line(&mut self) -> Option<Vec<u8>> {
        match memchr::memchr(b'\n', &self.bytes[self.searched..]) {
            None => {
                self.searched = self.bytes.len();
                None
            }
            Some(at) => {
                let end = self.searched + at + 1;
                let line = self.bytes[self.start..end].to_vec();
                (self.start, self.searched) = (end, end);
                Some(line)
            }
        }
    }

    /// How much has not left yet, in bytes.
    pub(super) fn partial(&self) -> usize {
        self.bytes.len() - self.start
    }

    /// Takes everything that is left.
    pub(super) fn take_rest(&mut self) -> Vec<u8> {
        let rest = self.bytes.split_off(self.start);
        *self = LineBuffer::default();
        rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_out_whole_however_they_arrive() {
        let input = b"one\r\n\n two \nthr\xc3\xa9e\r\r\nrest";
        let expected: [&[u8]; 4] = [b"one\r\n", b"\n", b" two \n", b"thr\xc3\xa9e\r\r\n"];
        for size in 1..=input.len() {
            let (mut buffer, mut lines) = (LineBuffer::default(), Vec::new());
            for piece in input.chunks(size) {
                buffer.push(piece);
                while let Some(line) = buffer.next_line() {
                    lines.push(line);
                }
            }
            assert_eq!(lines, expected, "in pieces of {size}");
            assert_eq!(buffer.partial(), 4);
            assert_eq!(buffer.take_rest(), b"rest");
            assert_eq!(buffer.next_line(), None);
        }
    }
}
