//! Light markdown: what is bold, code or a heading stands out, and everything else is as the model wrote it.

use crate::cli::style::{Role, Style};

/// A piece is held back while it is not known what it is, but not for longer than this, bytes.
const HELD: usize = 400;

/// An answer that comes in pieces.
#[derive(Debug, Default)]
pub(super) struct Markdown {
    style: Style,
    /// What has come of the line and is not shown yet.
    held: String,
    /// Something of the line is shown.
    begun: bool,
    /// How the whole line is shown.
    line: Option<Role>,
    /// Within a block of code.
    fenced: bool,
    /// The line is a row of a table, which is shown as it is.
    row: bool,
}

impl Markdown {
    pub(super) fn new(style: Style) -> Markdown {
        Markdown { style, ..Markdown::default() }
    }

    /// Takes a piece, which has no control characters but line ends and tabs; returns what can be shown now.
    pub(super) fn push(&mut self, text: &str) -> String {
        if !self.style.emphasis {
            return text.to_string();
        }
        let mut out = String::new();
        let mut pieces = text.split('\n');
        self.held.push_str(pieces.next().unwrap_or_default());
        for piece in pieces {
            self.end_line(&mut out);
            out.push('\n');
            self.held.push_str(piece);
        }
        self.proceed(&mut out, false);
        out
    }

    /// The rest of an answer that is complete.
    pub(super) fn finish(&mut self) -> String {
        let mut out = String::new();
        self.end_line(&mut out);
        *self = Markdown::new(self.style);
        out
    }

    fn end_line(&mut self, out: &mut String) {
        self.proceed(out, true);
        (self.begun, self.line, self.row) = (false, None, false);
    }

    /// Shows what is decided; all of it at the end of the line.
    fn proceed(&mut self, out: &mut String, ended: bool) {
        if !self.begun {
            if !ended && is_open_begin(&self.held) {
                return;
            }
            self.begin();
        }
        if let Some(role) = self.line {
            out.push_str(&self.style.paint(role, &std::mem::take(&mut self.held)));
        } else if self.row {
            out.push_str(&std::mem::take(&mut self.held));
        } else {
            let ended = ended || self.held.len() > HELD;
            let rest = inline(self.style, &self.held, ended, out);
            self.held.drain(..self.held.len() - rest);
        }
    }

    /// Decides what a line is by its begin.
    fn begin(&mut self) {
        self.begun = !self.held.is_empty();
        let text = self.held.trim_start();
        if text.starts_with("```") || text.starts_with("~~~") {
            self.fenced = !self.fenced;
            self.line = Some(Role::Quiet);
        } else if self.fenced {
            self.line = Some(Role::Code);
        } else if text.trim_start_matches('#').starts_with(' ') && text.starts_with('#') {
            self.line = Some(Role::Strong);
        } else {
            self.row = text.starts_with('|');
        }
    }
}

/// Whether the begin of a line may still become a fence or a heading.
fn is_open_begin(text: &str) -> bool {
    let text = text.trim_start();
    text.len() < 3 && text.chars().all(|c| c == '`')
        || text.chars().all(|c| c == '~') && text.len() < 3
        || text.chars().all(|c| c == '#') && text.len() <= 6
}

/// Shows a text up to the first mark whose end has not come; returns how many bytes are left, none where the line has ended.
fn inline(style: Style, text: &str, ended: bool, out: &mut String) -> usize {
    let mut rest = text;
    while let Some(at) = rest.find(['*', '`']) {
        let (before, from) = rest.split_at(at);
        out.push_str(before);
        let mark = if from.starts_with("**") { "**" } else { &from[..1] };
        // A star at the end may become two.
        if from == "*" && !ended {
            return from.len();
        }
        let inner = &from[mark.len()..];
        let is_begin = mark != "*" && !inner.starts_with(char::is_whitespace);
        match inner.find(mark).filter(|_| is_begin) {
            Some(0) => {
                // Two marks with nothing between them, such as two backticks.
                out.push_str(&from[..2 * mark.len()]);
                rest = &from[2 * mark.len()..];
            }
            Some(end) => {
                let role = if mark == "`" { Role::Code } else { Role::Strong };
                let shown = if style.codes(role).0.is_empty() { &from[..2 * mark.len() + end] } else { &inner[..end] };
                out.push_str(&style.paint(role, shown));
                rest = &inner[end + mark.len()..];
            }
            None if is_begin && !ended => return from.len(),
            None => {
                out.push_str(mark);
                rest = inner;
            }
        }
    }
    out.push_str(rest);
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str, size: usize) -> String {
        let mut markdown = Markdown::new(Style { emphasis: true, colour: true });
        let chars: Vec<char> = text.chars().collect();
        let mut out: String =
            chars.chunks(size).map(|piece| markdown.push(&piece.iter().collect::<String>())).collect();
        out.push_str(&markdown.finish());
        // Readable in a table, and the same however the pieces were cut.
        let names =
            [("\x1b[1m", "<b>"), ("\x1b[22m", "</>"), ("\x1b[36m", "<c>"), ("\x1b[39m", "</>"), ("\x1b[2m", "<q>")];
        let named = names.iter().fold(out, |out, (code, name)| out.replace(code, name));
        named.replace("</><c>", "").replace("</><b>", "").replace("</><q>", "")
    }

    #[test]
    fn marks_become_emphasis_however_they_come() {
        for (text, expected) in [
            ("plain text\nin lines\n", "plain text\nin lines\n"),
            ("a **bold** word", "a <b>bold</> word"),
            ("run `ls -l` now", "run <c>ls -l</> now"),
            ("2 ** 3 and 4 * 5", "2 ** 3 and 4 * 5"),
            ("a `lonely tick\nnext", "a `lonely tick\nnext"),
            ("**never ends", "**never ends"),
            ("*starred* text", "*starred* text"),
            ("* item with `code`\n- other", "* item with <c>code</>\n- other"),
            ("## Heading `x`\ntext", "<b>## Heading `x`</>\ntext"),
            ("#include <x>", "#include <x>"),
            ("| a | **b** |\n", "| a | **b** |\n"),
            ("```rust\nlet a = **b;\n```\n**x**", "<q>```rust</>\n<c>let a = **b;</>\n<q>```</>\n<b>x</>"),
            ("``", "``"),
            ("", ""),
        ] {
            for size in 1..=text.len().max(1) {
                assert_eq!(shown(text, size), expected, "{text:?} in pieces of {size}");
            }
        }
    }

    #[test]
    fn nothing_is_lost_without_emphasis() {
        let mut markdown = Markdown::new(Style::default());
        assert_eq!(markdown.push("a **b** `c"), "a **b** `c");
        assert_eq!(markdown.finish(), "");
    }

    #[test]
    fn a_long_line_is_not_held_back_for_ever() {
        let mut markdown = Markdown::new(Style { emphasis: true, colour: true });
        let long = format!("**{}", "x".repeat(HELD));
        assert_eq!(markdown.push(&long), long);
    }
}
