//! The bottom of a terminal: text above that is only ever appended to, and below it a status line and the input, which are
//! drawn anew.
//!
//! What is above belongs to the terminal, with its scrolling, copying and wrapping. The line at its end may still grow; its
//! rest is then written behind what is there, so that the terminal keeps it as one line.

use unicode_width::UnicodeWidthChar;

/// Columns between two stops of the tabulator.
const TAB: usize = 8;
/// Widest status line, columns: short lines survive when a terminal gets narrower.
const STATUS: usize = 100;

/// What stands below the text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Below {
    /// One line, without control sequences.
    pub status: Option<String>,
    /// What stands before the input.
    pub prompt: String,
    pub input: String,
    /// The cursor, as a byte of the input.
    pub cursor: usize,
}

/// The part that is drawn anew, as it stands on the screen.
struct Drawn {
    below: Below,
    /// How many rows below its first one the cursor is.
    cursor_row: usize,
}

pub(crate) struct Screen {
    columns: usize,
    rows: usize,
    /// Where the last line of the text ends, if it has not ended.
    column: usize,
    /// That line has filled its row exactly, so that a line end that follows is there already.
    full: bool,
    /// Whether the status line may be dimmed.
    dim: bool,
    drawn: Option<Drawn>,
}

impl Screen {
    pub(crate) fn new(columns: usize, rows: usize, dim: bool) -> Screen {
        Screen { columns: columns.max(2), rows: rows.max(2), column: 0, full: false, dim, drawn: None }
    }

    /// What brings the terminal to this: the text behind what is there already, and what stands below.
    pub(crate) fn draw(&mut self, text: &str, below: &Below) -> String {
        if text.is_empty() && self.drawn.as_ref().is_some_and(|drawn| drawn.below == *below) {
            return String::new();
        }
        let mut out = self.erase();
        self.append(&mut out, text);
        self.put_below(&mut out, below);
        out
    }

    /// Takes what stands below away; the cursor is then at the start of a line.
    pub(crate) fn leave(&mut self) -> String {
        let mut out = self.erase();
        if self.column > 0 {
            out.push_str("\r\n");
        }
        (self.column, self.full) = (0, false);
        out
    }

    /// Another size. What the terminal made of the rows is not known, so that an open line ends here.
    pub(crate) fn resize(&mut self, columns: usize, rows: usize) -> String {
        let mut out = String::new();
        if let Some(drawn) = self.drawn.take() {
            up(&mut out, drawn.cursor_row);
            out.push_str("\r\x1b[J");
        }
        *self = Screen::new(columns, rows, self.dim);
        out
    }

    /// Forgets everything, with the terminal.
    pub(crate) fn clear(&mut self) -> String {
        *self = Screen::new(self.columns, self.rows, self.dim);
        "\x1b[H\x1b[2J".into()
    }

    fn erase(&mut self) -> String {
        let mut out = String::new();
        if let Some(drawn) = self.drawn.take() {
            up(&mut out, drawn.cursor_row);
            out.push_str("\r\x1b[J");
            if self.column > 0 {
                up(&mut out, 1);
                right(&mut out, self.column);
            }
        }
        out
    }

    fn append(&mut self, out: &mut String, text: &str) {
        let mut chars = text.chars();
        while let Some(char) = chars.next() {
            match char {
                '\x1b' => {
                    // Colours and the like, which take no room.
                    out.push(char);
                    for char in chars.by_ref() {
                        out.push(char);
                        if char.is_ascii_alphabetic() {
                            break;
                        }
                    }
                }
                '\n' => {
                    if !std::mem::take(&mut self.full) {
                        out.push_str("\r\n");
                    }
                    self.column = 0;
                }
                '\t' => {
                    let stop = (self.column / TAB + 1) * TAB;
                    (self.column..stop).for_each(|_| self.put(out, ' '));
                }
                char => self.put(out, char),
            }
        }
        if self.column == self.columns {
            (self.column, self.full) = (0, true);
            out.push_str("\r\n");
        }
    }

    fn put(&mut self, out: &mut String, char: char) {
        let width = char.width().unwrap_or_default();
        self.full = false;
        self.column = if self.column + width > self.columns { width } else { self.column + width };
        out.push(char);
    }

    fn put_below(&mut self, out: &mut String, below: &Below) {
        if self.column > 0 {
            out.push_str("\r\n");
        }
        let status = below.status.as_deref().map(|status| cut(status, STATUS.min(self.columns - 1)));
        let room = self.rows.saturating_sub(1 + usize::from(status.is_some())).max(1);
        let (rows, cursor_row, cursor_column) = wrapped(&below.prompt, &below.input, below.cursor, self.columns);
        // Of an input that is larger than the screen, the part around the cursor is shown.
        let first = cursor_row.saturating_sub(room - 1);
        let shown = &rows[first..rows.len().min(first + room)];
        let mut lines: Vec<String> = status
            .map(|status| if self.dim { format!("\x1b[2m{status}\x1b[22m") } else { status })
            .into_iter()
            .collect();
        let cursor_row = lines.len() + cursor_row - first;
        lines.extend(shown.iter().cloned());
        out.push_str(&lines.join("\r\n"));
        up(out, lines.len() - 1 - cursor_row);
        out.push('\r');
        right(out, cursor_column);
        self.drawn = Some(Drawn { below: below.clone(), cursor_row });
    }
}

fn up(out: &mut String, rows: usize) {
    if rows > 0 {
        out.push_str(&format!("\x1b[{rows}A"));
    }
}

fn right(out: &mut String, columns: usize) {
    if columns > 0 {
        out.push_str(&format!("\x1b[{columns}C"));
    }
}

/// As much of a line as fits into so many columns, with a sign where something is missing.
pub(crate) fn cut(text: &str, columns: usize) -> String {
    let width = |text: &str| text.chars().map(|c| c.width().unwrap_or_default()).sum::<usize>();
    if width(text) <= columns {
        return text.to_string();
    }
    let mut out = String::new();
    let mut left = columns.saturating_sub(3);
    for char in text.chars() {
        let Some(rest) = left.checked_sub(char.width().unwrap_or_default()) else { break };
        left = rest;
        out.push(char);
    }
    out + &"..."[..columns.min(3)]
}

/// An input in rows of so many columns, and row and column of the cursor, which is a byte of the input.
fn wrapped(prompt: &str, input: &str, cursor: usize, columns: usize) -> (Vec<String>, usize, usize) {
    let mut rows = vec![String::new()];
    let mut column = 0;
    let mut place = None;
    let characters = prompt.chars().map(|c| (None, c)).chain(input.char_indices().map(|(at, c)| (Some(at), c)));
    for (at, char) in characters {
        let shown = match char {
            '\n' => None,
            '\t' => Some(' '),
            c if c.is_control() => Some('?'),
            c => Some(c),
        };
        let width = shown.and_then(UnicodeWidthChar::width).unwrap_or_default();
        if column + width > columns || (column == columns && width > 0) {
            rows.push(String::new());
            column = 0;
        }
        if at == Some(cursor) {
            place = Some((rows.len() - 1, column));
        }
        match shown {
            Some(shown) => {
                rows.last_mut().into_iter().for_each(|row| row.push(shown));
                column += width;
            }
            None => {
                rows.push(String::new());
                column = 0;
            }
        }
    }
    if column == columns {
        // The cursor behind a full row stands at the start of the next.
        rows.push(String::new());
        column = 0;
    }
    let (row, column) = place.unwrap_or((rows.len() - 1, column));
    // A line end behind a full row is where the cursor is drawn in the next one.
    if column == columns { (rows, row + 1, 0) } else { (rows, row, column) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn below(status: Option<&str>, input: &str) -> Below {
        Below { status: status.map(str::to_string), prompt: "> ".into(), input: input.to_string(), cursor: input.len() }
    }

    #[test]
    fn what_is_the_same_is_not_drawn_again() {
        let mut screen = Screen::new(20, 5, false);
        assert_eq!(screen.draw("", &below(None, "a")), "> a\r\x1b[3C");
        assert_eq!(screen.draw("", &below(None, "a")), "");
        assert_eq!(screen.draw("", &below(None, "ab")), "\r\x1b[J> ab\r\x1b[4C");
    }

    #[test]
    fn text_grows_where_it_ends() {
        let mut screen = Screen::new(10, 5, false);
        assert_eq!(screen.draw("one ", &below(Some("s"), "")), "one \r\ns\r\n> \r\x1b[2C");
        assert_eq!(screen.draw("two", &below(Some("s"), "")), "\x1b[1A\r\x1b[J\x1b[1A\x1b[4Ctwo\r\ns\r\n> \r\x1b[2C");
        assert_eq!(screen.draw("\n", &below(None, "")), "\x1b[1A\r\x1b[J\x1b[1A\x1b[7C\r\n> \r\x1b[2C");
        assert_eq!(screen.leave(), "\r\x1b[J");
    }

    #[test]
    fn a_row_that_is_just_full_is_no_line() {
        let mut screen = Screen::new(4, 5, false);
        assert_eq!(screen.draw("abcd", &below(None, "")), "abcd\r\n> \r\x1b[2C");
        assert_eq!(screen.draw("\nx", &below(None, "")), "\r\x1b[Jx\r\n> \r\x1b[2C");
        assert_eq!(screen.draw("漢字", &below(None, "")), "\r\x1b[J\x1b[1A\x1b[1C漢字\r\n> \r\x1b[2C");
        assert_eq!(screen.column, 2, "the second one has no room in the first row");
    }

    #[test]
    fn inputs_are_wrapped() {
        for (input, cursor, rows, place) in [
            ("", 0, &["> "][..], (0, 2)),
            ("abc", 3, &["> abc"], (0, 5)),
            ("abcd", 4, &["> abcd", ""], (1, 0)),
            ("abcde", 4, &["> abcd", "e"], (1, 0)),
            ("a\nb", 1, &["> a", "b"], (0, 3)),
            ("abcd\nb", 4, &["> abcd", "b"], (1, 0)),
            ("abc漢", 3, &["> abc", "漢"], (1, 0)),
            ("a\tb\u{1b}", 4, &["> a b?", ""], (1, 0)),
        ] {
            let (found, row, column) = wrapped("> ", input, cursor, 6);
            let found: Vec<&str> = found.iter().map(String::as_str).collect();
            assert_eq!((found.as_slice(), (row, column)), (rows, place), "{input:?}");
        }
    }

    #[test]
    fn of_a_large_input_the_part_around_the_cursor_is_shown() {
        let mut screen = Screen::new(20, 4, false);
        let drawn = screen.draw("", &below(Some("s"), "1\n2\n3\n4\n5"));
        assert_eq!(drawn, "s\r\n4\r\n5\r\x1b[1C");
    }

    #[test]
    fn lines_are_cut() {
        for (text, columns, expected) in
            [("abcdef", 6, "abcdef"), ("abcdefg", 6, "abc..."), ("漢字漢字", 6, "漢..."), ("abcd", 2, "..")]
        {
            assert_eq!(cut(text, columns), expected);
        }
    }
}
