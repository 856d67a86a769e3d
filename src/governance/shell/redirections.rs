//! Redirections and here-documents.

use super::{ANY, Read, Reader, Unreadable};

/// A here-document whose text is still to come.
pub(super) struct HereDocument {
    /// The line that ends it.
    end: String,
    /// Tabs in front of its lines do not count.
    strips_tabs: bool,
    /// Nothing in it is expanded.
    is_literal: bool,
}

impl Reader<'_> {
    /// Takes a redirection, if one comes next.
    pub(super) fn redirection(&mut self) -> Read<bool> {
        let begin = self.at;
        while self.peek().is_some_and(|c| c.is_ascii_digit()) {
            self.at += 1;
        }
        let is_process = matches!(self.peek(), Some('<' | '>')) && self.ahead(1) == Some('(');
        let is_both = self.at == begin && self.peek() == Some('&') && self.ahead(1) == Some('>');
        if is_process && self.at > begin || !(is_both || matches!(self.peek(), Some('<' | '>'))) {
            self.at = begin;
            return Ok(false);
        }
        if is_process {
            return Ok(false);
        }
        if self.take("<<<") {
            self.target()?;
        } else if self.take("<<") {
            let strips_tabs = self.take("-");
            self.skip_blanks()?;
            let end = self.target()?;
            if end.text.contains(ANY) || end.text.contains('\n') {
                return Err(Unreadable);
            }
            self.here_documents.push(HereDocument { is_literal: end.quoted, end: end.text, strips_tabs });
        } else if self.take("<&") || self.take(">&") {
            let writes = self.chars[self.at - 2] == '>';
            let to = self.target()?.text;
            if !to.chars().all(|c| c.is_ascii_digit() || c == '-') {
                if !writes {
                    return Err(Unreadable);
                }
                self.written(&to);
            }
        } else if self.take("&>>")
            || self.take("&>")
            || self.take(">>")
            || self.take(">|")
            || self.take("<>")
            || self.take(">")
        {
            let to = self.target()?.text;
            self.written(&to);
        } else if self.take("<") {
            let from = self.target()?.text;
            // Some of its devices are connections.
            if from.starts_with("/dev/") || from.starts_with(ANY) {
                self.written(&from);
            }
        }
        Ok(true)
    }

    fn written(&mut self, to: &str) {
        self.script.does_more |= to != "/dev/null";
    }

    /// The word behind a redirection's sign.
    fn target(&mut self) -> Read<super::Word> {
        self.skip_blanks()?;
        let begin = self.at;
        let word = self.word()?;
        if self.at == begin { Err(Unreadable) } else { Ok(word) }
    }

    /// The texts that begin with the line that begins here.
    pub(super) fn read_here_documents(&mut self) -> Read<()> {
        for document in std::mem::take(&mut self.here_documents) {
            let mut text: Vec<char> = Vec::new();
            loop {
                let rest = &self.chars[self.at.min(self.chars.len())..];
                let length = rest.iter().position(|c| *c == '\n').unwrap_or(rest.len());
                let line = &rest[..length];
                let is_last = length == rest.len();
                let tabs = line.iter().take_while(|c| document.strips_tabs && **c == '\t').count();
                self.at += length + usize::from(!is_last);
                if line[tabs..].iter().copied().eq(document.end.chars()) {
                    break;
                }
                // A line that goes on in the next one might hide the end.
                if is_last || !document.is_literal && line.ends_with(&['\\']) {
                    return Err(Unreadable);
                }
                text.extend(&line[tabs..]);
                text.push('\n');
            }
            if !document.is_literal {
                let mut reader = Reader {
                    chars: &text,
                    at: 0,
                    depth: self.depth,
                    here_documents: Vec::new(),
                    script: &mut *self.script,
                };
                reader.expanded_text()?;
            }
        }
        Ok(())
    }
}
