//! Searching one file after the other for the lines that match, in bounded memory and without reading a line at a time.

use super::pattern::Pattern;
use memchr::{memchr, memchr_iter, memrchr};
use std::io::{self, Read};

/// Bytes that are read at once.
const CHUNK: usize = 64 * 1024;
/// Memory in bytes (16 MiB) for the longest line, with the context before it; what follows a longer one is not searched.
pub(super) const MAX_LINE_BYTES: usize = 16 * 1024 * 1024;

/// What happens at a NUL byte.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Binary {
    /// The search ends there, since nobody would want to read the lines of such a file.
    Skip,
    /// It ends a line.
    Split,
}

/// A line that was found.
#[derive(Debug)]
pub(super) struct Line<'a> {
    /// It matches; else it is context of one that does.
    pub matches: bool,
    /// Counted from 1.
    pub number: u64,
    /// With its line feed, if it has one.
    pub bytes: &'a [u8],
}

/// Finds the lines that a pattern matches, and those around them.
pub(super) struct Searcher {
    pattern: Pattern,
    /// Lines to tell before and after each match.
    context: usize,
    /// Kept from file to file.
    buffer: Vec<u8>,
}

impl Searcher {
    pub(super) fn new(pattern: Pattern, context: usize) -> Searcher {
        Searcher { pattern, context, buffer: vec![0; CHUNK] }
    }

    /// Tells `found` of each line in its turn until it returns `false`.
    pub(super) fn search(
        &mut self,
        reader: impl Read,
        binary: Binary,
        mut found: impl FnMut(Line<'_>) -> bool,
    ) -> io::Result<()> {
        let mut window = Window { buffer: &mut self.buffer, reader, binary, end: 0, complete: 0, is_last: false };
        let mut place = Place { number: 1, ..Place::default() };
        while window.fill()? {
            let text = &window.buffer[..window.complete];
            if !place.lines(&mut self.pattern, text, self.context, &mut found)? {
                return Ok(());
            }
            place.roll(&mut window, self.context);
        }
        Ok(())
    }
}

/// The part of a file that is in memory.
struct Window<'a, R> {
    buffer: &'a mut Vec<u8>,
    reader: R,
    binary: Binary,
    /// What was read ends here.
    end: usize,
    /// The last whole line ends here.
    complete: usize,
    /// Nothing more can be read.
    is_last: bool,
}

impl<R: Read> Window<'_, R> {
    /// Reads at least one more whole line. `false` = there is none, or none that should be searched.
    fn fill(&mut self) -> io::Result<bool> {
        while !self.is_last {
            if self.end == self.buffer.len() {
                if self.end >= MAX_LINE_BYTES {
                    return Err(io::Error::other(format!("configured allocation limit ({MAX_LINE_BYTES}) exceeded")));
                }
                self.buffer.resize((2 * self.end).min(MAX_LINE_BYTES), 0);
            }
            let count = match self.reader.read(&mut self.buffer[self.end..]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                count => count?,
            };
            let start = self.end;
            self.end += count;
            self.is_last = count == 0;
            let read = &mut self.buffer[start..self.end];
            if memchr(0, read).is_some() {
                if self.binary == Binary::Skip {
                    return Ok(false);
                }
                read.iter_mut().filter(|byte| **byte == 0).for_each(|byte| *byte = b'\n');
            }
            let searched = self.complete;
            if let Some(at) = memrchr(b'\n', read) {
                self.complete = start + at + 1;
            } else if self.is_last {
                self.complete = self.end;
            }
            if self.complete > searched {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// How far the search is. All offsets are those of the buffer.
#[derive(Default)]
struct Place {
    /// What is before it has been searched.
    searched: usize,
    /// What is before it has been emitted or will not be, so that context does not repeat it.
    emitted: usize,
    /// Start of the line with this number.
    counted: usize,
    number: u64,
    /// Lines after the last match that are still to be emitted.
    owed: usize,
}

impl Place {
    /// Searches `text`, which ends with a whole line. `false` = `found` has had enough.
    fn lines(
        &mut self,
        pattern: &mut Pattern,
        text: &[u8],
        context: usize,
        found: &mut impl FnMut(Line<'_>) -> bool,
    ) -> io::Result<bool> {
        while self.searched < text.len() {
            let Some(at) = pattern.find(text, self.searched)? else { break };
            let start = line_start(text, self.searched, at);
            if start == text.len() {
                // An empty match after the last line feed is in no line.
                break;
            }
            let end = line_end(text, at);
            if !self.owed_lines(&text[..start], found) {
                return Ok(false);
            }
            let mut before = start;
            for _ in 0..context {
                if before > self.emitted {
                    before = line_start(text, self.emitted, before - 1);
                }
            }
            self.count_to(text, before);
            while self.counted < start {
                if !self.tell(text, false, found) {
                    return Ok(false);
                }
            }
            if !self.tell(text, true, found) {
                return Ok(false);
            }
            self.searched = end;
            self.owed = context;
        }
        self.searched = text.len();
        Ok(self.owed_lines(text, found))
    }

    /// Tells the context after the last match as far as `text` goes.
    fn owed_lines(&mut self, text: &[u8], found: &mut impl FnMut(Line<'_>) -> bool) -> bool {
        while self.owed > 0 && self.emitted < text.len() {
            self.owed -= 1;
            if !self.tell(text, false, found) {
                return false;
            }
        }
        true
    }

    /// Tells the line at the counted place.
    fn tell(&mut self, text: &[u8], matches: bool, found: &mut impl FnMut(Line<'_>) -> bool) -> bool {
        let end = line_end(text, self.counted);
        let line = Line { matches, number: self.number, bytes: &text[self.counted..end] };
        self.emitted = end;
        self.counted = end;
        self.number += 1;
        found(line)
    }

    fn count_to(&mut self, text: &[u8], offset: usize) {
        self.number += memchr_iter(b'\n', &text[self.counted..offset]).count() as u64;
        self.counted = offset;
    }

    /// Makes room in the buffer: all goes that was searched, but for the lines that may become context.
    fn roll<R>(&mut self, window: &mut Window<'_, R>, context: usize) {
        let text = &window.buffer[..window.complete];
        let mut keep = window.complete;
        for _ in 0..context {
            if keep > self.emitted {
                keep = line_start(text, self.emitted, keep - 1);
            }
        }
        self.count_to(text, keep);
        window.buffer.copy_within(keep..window.end, 0);
        window.end -= keep;
        window.complete -= keep;
        self.searched -= keep;
        self.counted -= keep;
        self.emitted = self.emitted.saturating_sub(keep);
    }
}

/// Start of the line that `at` is in, but not before `from`.
fn line_start(text: &[u8], from: usize, at: usize) -> usize {
    memrchr(b'\n', &text[from..at]).map_or(from, |found| from + found + 1)
}

/// End of the line that `at` is in, with its line feed.
fn line_end(text: &[u8], at: usize) -> usize {
    memchr(b'\n', &text[at..]).map_or(text.len(), |found| at + found + 1)
}
