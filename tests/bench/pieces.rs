//! The text that the measured model sends: numbered and stamped pieces of one size, so that a receiver can tell what was
//! lost, doubled or reordered and how long each piece was on its way, however the pieces were cut or joined meanwhile.

use std::sync::LazyLock;
use std::time::Instant;

/// Bytes in a piece, which is about what a model sends at once.
pub(crate) const SIZE: usize = 20;

/// Nanoseconds on the clock that both ends share: they are threads of one program.
pub(crate) fn now() -> u64 {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    START.elapsed().as_nanos().try_into().unwrap_or(u64::MAX)
}

/// A piece that is written at this moment; none of its characters needs escaping in JSON.
pub(crate) fn piece(number: usize) -> String {
    format!("{number:06x}:{:012x};", now())
}

fn parse(piece: &[u8]) -> Option<(usize, u64)> {
    let (number, written) = std::str::from_utf8(piece).ok()?.strip_suffix(';')?.split_once(':')?;
    Some((usize::from_str_radix(number, 16).ok()?, u64::from_str_radix(written, 16).ok()?))
}

/// What went wrong with pieces, in numbers of them.
#[derive(Default)]
pub(crate) struct Faults {
    pub lost: usize,
    pub doubled: usize,
    pub reordered: usize,
    /// Text that is no piece, or came after the end.
    pub foreign: usize,
}

impl Faults {
    pub(crate) fn add(&mut self, other: &Faults) {
        self.lost += other.lost;
        self.doubled += other.doubled;
        self.reordered += other.reordered;
        self.foreign += other.foreign;
    }

    pub(crate) fn any(&self) -> bool {
        self.lost + self.doubled + self.reordered + self.foreign > 0
    }
}

/// One answer as it is received.
pub(crate) struct Received {
    /// By number, whether a piece has come.
    seen: Vec<bool>,
    next: usize,
    /// The beginning of a piece whose rest has not come.
    rest: Vec<u8>,
    /// Of each piece from writing to receiving, in nanoseconds.
    pub latencies: Vec<u64>,
    /// When the first piece was written.
    pub first_written: u64,
    /// When the last piece was received.
    pub last_received: u64,
    /// When the message that ends the answer was received; 0 before that.
    pub ended: u64,
}

impl Received {
    /// `expected` is the number of pieces in the answer.
    pub(crate) fn new(expected: usize) -> Received {
        let (seen, latencies) = (vec![false; expected], Vec::with_capacity(expected));
        Received { seen, next: 0, rest: Vec::new(), latencies, first_written: 0, last_received: 0, ended: 0 }
    }

    /// Takes what was received at `at`.
    pub(crate) fn take(&mut self, text: &[u8], at: u64, faults: &mut Faults) {
        self.rest.extend_from_slice(text);
        let whole = self.rest.len() / SIZE * SIZE;
        for piece in self.rest[..whole].chunks(SIZE) {
            let Some((number, written)) = parse(piece).filter(|(number, _)| *number < self.seen.len()) else {
                faults.foreign += 1;
                continue;
            };
            if self.seen[number] {
                faults.doubled += 1;
            } else if number < self.next {
                faults.reordered += 1;
            }
            self.seen[number] = true;
            self.next = self.next.max(number + 1);
            if self.latencies.is_empty() {
                self.first_written = written;
            }
            self.latencies.push(at.saturating_sub(written));
            self.last_received = at;
        }
        self.rest.drain(..whole);
    }

    /// Notes the end of the answer, and what is missing from it.
    pub(crate) fn end(&mut self, at: u64, faults: &mut Faults) {
        self.ended = at;
        faults.lost += self.seen.iter().filter(|seen| !**seen).count();
        faults.foreign += usize::from(!self.rest.is_empty());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The faults of an answer of four pieces, as [lost, doubled, reordered, foreign].
    fn faults(texts: &[&str]) -> [usize; 4] {
        let (mut received, mut faults) = (Received::new(4), Faults::default());
        for text in texts {
            received.take(text.as_bytes(), now(), &mut faults);
        }
        received.end(now(), &mut faults);
        [faults.lost, faults.doubled, faults.reordered, faults.foreign]
    }

    #[test]
    fn every_piece_is_accounted_for() {
        let [a, b, c, d] = [0, 1, 2, 3].map(piece);
        assert_eq!(a.len(), SIZE);
        assert_eq!(faults(&[&a, &b, &c, &d]), [0, 0, 0, 0]);
        assert_eq!(faults(&[&(a.clone() + &b), &(c.clone() + &d)]), [0, 0, 0, 0], "joined");
        assert_eq!(faults(&[&a[..7], &(a[7..].to_string() + &b + &c[..1]), &c[1..], &d]), [0, 0, 0, 0], "cut");
        assert_eq!(faults(&[&a, &b, &d]), [1, 0, 0, 0], "lost");
        assert_eq!(faults(&[]), [4, 0, 0, 0], "all lost");
        assert_eq!(faults(&[&a, &b, &c, &b, &d]), [0, 1, 0, 0], "doubled");
        assert_eq!(faults(&[&a, &c, &b, &d]), [0, 0, 1, 0], "out of order");
        assert_eq!(faults(&[&a, &b, &c, &d, "more"]), [0, 0, 0, 1], "text after the last piece");
        assert_eq!(faults(&[&a, &b, &c, &piece(4)]), [1, 0, 0, 1], "a piece that was not sent");
    }

    #[test]
    fn a_piece_says_when_it_was_written() {
        let (mut received, mut faults) = (Received::new(1), Faults::default());
        let before = now();
        let text = piece(0);
        let after = now();
        received.take(text.as_bytes(), after + 5_000, &mut faults);
        assert!((before..=after).contains(&received.first_written));
        assert_eq!(received.latencies, [after + 5_000 - received.first_written]);
    }
}
