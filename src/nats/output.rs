//! What waits to be sent: one bounded buffer of whole protocol operations.

use std::collections::VecDeque;

/// How long an operation is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lifetime {
    /// Kept over a reconnect: a message somebody published.
    Kept,
    /// Means something only on the connection for which it was written: SUB, UNSUB, PING, PONG.
    ThisConnection,
}

/// An operation's length in bytes, and its lifetime in the top bit: four bytes per waiting operation instead of eight.
#[derive(Clone, Copy)]
struct Operation(u32);

const THIS_CONNECTION: u32 = 1 << 31;

impl Operation {
    fn new(length: usize, lifetime: Lifetime) -> Operation {
        // Messages are checked against `codec::MAX_MESSAGE`, which is far below the top bit.
        let length = length as u32 & !THIS_CONNECTION;
        Operation(if lifetime == Lifetime::ThisConnection { length | THIS_CONNECTION } else { length })
    }

    fn length(self) -> usize {
        (self.0 & !THIS_CONNECTION) as usize
    }

    fn is_kept(self) -> bool {
        self.0 & THIS_CONNECTION == 0
    }
}

/// What an idle buffer may keep for the next burst, in bytes.
const KEPT_CAPACITY: usize = 64 << 10;

/// Unsent bytes in the order in which they go out, and where in them operations begin.
#[derive(Default)]
pub struct Output {
    bytes: Vec<u8>,
    /// Everything before this is sent.
    sent: usize,
    operations: VecDeque<Operation>,
    /// How much of the first operation is sent.
    sent_of_first: usize,
}

impl Output {
    /// How many bytes wait.
    pub fn len(&self) -> usize {
        self.bytes.len() - self.sent
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes that wait.
    pub fn unsent(&self) -> &[u8] {
        &self.bytes[self.sent..]
    }

    /// Appends the one operation that `write` appends to the buffer it is given.
    pub fn push(&mut self, lifetime: Lifetime, write: impl FnOnce(&mut Vec<u8>)) {
        let before = self.bytes.len();
        write(&mut self.bytes);
        self.operations.push_back(Operation::new(self.bytes.len() - before, lifetime));
    }

    /// Takes note that the first `count` unsent bytes were sent.
    pub fn consume(&mut self, count: usize) {
        self.sent += count;
        if self.sent >= self.bytes.len() {
            self.bytes.clear();
            self.operations.clear();
            (self.sent, self.sent_of_first) = (0, 0);
            if self.bytes.capacity() > KEPT_CAPACITY {
                (self.bytes, self.operations) = Default::default();
            }
            return;
        }
        self.sent_of_first += count;
        while let Some(first) = self.operations.front().filter(|first| first.length() <= self.sent_of_first) {
            self.sent_of_first -= first.length();
            self.operations.pop_front();
        }
        // Moving what is left costs no more than what was sent, and keeps the memory in proportion to what waits.
        if self.sent > self.bytes.len() / 2 {
            self.bytes.drain(..self.sent);
            self.sent = 0;
        }
    }

    /// Prepares for another connection: an operation that was sent in part is dropped (its rest would be garbage there),
    /// and so are those that meant something only on the old one.
    pub fn start_over(&mut self) {
        let mut kept = Output::default();
        let mut at = self.sent;
        let mut already_sent = self.sent_of_first;
        for operation in &self.operations {
            let end = at + operation.length() - already_sent;
            if operation.is_kept() && already_sent == 0 {
                kept.push(Lifetime::Kept, |bytes| bytes.extend_from_slice(&self.bytes[at..end]));
            }
            (at, already_sent) = (end, 0);
        }
        *self = kept;
    }

    /// Puts the operations of `first`, none of which is sent, before everything else.
    pub fn prepend(&mut self, mut first: Output) {
        first.bytes.extend_from_slice(self.unsent());
        first.operations.append(&mut self.operations);
        *self = first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output(operations: &[(&str, Lifetime)]) -> Output {
        let mut output = Output::default();
        for (text, lifetime) in operations {
            output.push(*lifetime, |bytes| bytes.extend_from_slice(text.as_bytes()));
        }
        output
    }

    #[test]
    fn keeps_whole_operations_over_a_reconnect() {
        use Lifetime::{Kept, ThisConnection};
        let operations = [("ab", Kept), ("cd", ThisConnection), ("efg", Kept), ("hi", Kept)];
        // (sent before the break, what is sent after it)
        let table = [
            (0, "abefghi"),
            (1, "efghi"),
            (2, "efghi"),
            (3, "efghi"),
            (4, "efghi"),
            (5, "hi"),
            (6, "hi"),
            (7, "hi"),
            (8, ""),
            (9, ""),
        ];
        for (sent, rest) in table {
            for step in [1, 2, 9] {
                let mut output = output(&operations);
                let mut left = sent;
                while left > 0 {
                    output.consume(left.min(step));
                    left -= left.min(step);
                }
                assert_eq!(output.unsent(), &b"abcdefghi"[sent..], "sent {sent} in steps of {step}");
                output.start_over();
                assert_eq!(output.unsent(), rest.as_bytes(), "sent {sent} in steps of {step}");
                let mut first = Output::default();
                first.push(ThisConnection, |bytes| bytes.extend_from_slice(b"SUB"));
                output.prepend(first);
                assert_eq!(output.unsent(), format!("SUB{rest}").as_bytes());
                output.consume(1);
                output.start_over();
                assert_eq!(output.unsent(), rest.as_bytes());
            }
        }
    }

    #[test]
    fn gives_memory_back() {
        let mut output = output(&[]);
        for _ in 0..1000 {
            output.push(Lifetime::Kept, |bytes| bytes.extend_from_slice(&[7; 1000]));
        }
        assert_eq!(output.len(), 1_000_000);
        output.consume(900_000);
        assert!(output.bytes.len() <= 200_000);
        output.consume(100_000);
        assert!(output.is_empty() && output.bytes.capacity() <= KEPT_CAPACITY);
        output.push(Lifetime::Kept, |bytes| bytes.extend_from_slice(b"x"));
        assert_eq!(output.unsent(), b"x");
    }
}
