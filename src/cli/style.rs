//! How text stands out on a terminal.

/// What a piece of text is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// It matters less.
    Quiet,
    Strong,
    Code,
    Error,
    Added,
    Removed,
}

/// What may be done to text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Style {
    /// Bold and dim text.
    pub emphasis: bool,
    pub colour: bool,
}

impl Style {
    /// For standard output: everything on a terminal that knows control sequences, no colours with `NO_COLOR`, and nothing
    /// where it is no terminal or `plain` is wanted.
    pub(super) fn of_output(plain: bool) -> Style {
        let emphasis =
            !plain && std::io::IsTerminal::is_terminal(&std::io::stdout()) && super::terminal::knows_sequences();
        Style { emphasis, colour: emphasis && super::terminal::wants_colour() }
    }

    /// The control sequences that begin and end this role; both empty where it is shown like any other text.
    pub(super) fn codes(self, role: Role) -> (&'static str, &'static str) {
        match role {
            Role::Quiet if self.emphasis => ("\x1b[2m", "\x1b[22m"),
            Role::Strong if self.emphasis => ("\x1b[1m", "\x1b[22m"),
            Role::Code if self.colour => ("\x1b[36m", "\x1b[39m"),
            Role::Error | Role::Removed if self.colour => ("\x1b[31m", "\x1b[39m"),
            Role::Added if self.colour => ("\x1b[32m", "\x1b[39m"),
            Role::Quiet | Role::Strong | Role::Code | Role::Error | Role::Removed | Role::Added => ("", ""),
        }
    }

    /// The text, standing out; line by line, so that no sequence goes over a line's end.
    pub(super) fn paint(self, role: Role, text: &str) -> String {
        let (begin, end) = self.codes(role);
        if begin.is_empty() {
            return text.to_string();
        }
        let lines = text.split('\n').map(|line| match line {
            "" => String::new(),
            line => format!("{begin}{line}{end}"),
        });
        lines.collect::<Vec<_>>().join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_stands_out_as_far_as_it_may() {
        let all = Style { emphasis: true, colour: true };
        assert_eq!(all.paint(Role::Added, "a\n\nb"), "\x1b[32ma\x1b[39m\n\n\x1b[32mb\x1b[39m");
        let grey = Style { emphasis: true, colour: false };
        assert_eq!(grey.paint(Role::Added, "a"), "a");
        assert_eq!(grey.paint(Role::Strong, "a"), "\x1b[1ma\x1b[22m");
        assert_eq!(Style::default().paint(Role::Quiet, "a"), "a");
    }
}
