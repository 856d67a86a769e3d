//! Words: quotes, expansions and substitutions.

use super::{ANY, Read, Reader, SPECIAL, Unreadable};

/// A word, without its quotes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Word {
    /// With [`ANY`] where something is expanded.
    pub text: String,
    /// A part of it, or all, was quoted.
    pub quoted: bool,
    /// What is expanded may become several words, or none.
    pub splits: bool,
    /// It is a pattern of file names, which may become several words.
    pub is_pattern: bool,
    /// It begins like an assignment: where the value does.
    pub value_at: Option<usize>,
}

impl Word {
    /// Text that is only known later.
    pub(super) fn unknown() -> Word {
        Word { text: ANY.to_string(), splits: true, ..Word::default() }
    }

    pub(super) fn may_vanish(&self) -> bool {
        self.splits && self.text.chars().all(|c| c == ANY)
    }

    /// It is one word, with this very text.
    pub(super) fn is_known(&self) -> bool {
        !self.splits && !self.is_pattern && !self.text.contains(ANY)
    }
}

impl Reader<'_> {
    /// A word, which begins here.
    pub(super) fn word(&mut self) -> Read<Word> {
        let mut word = Word::default();
        // From here on the word is a pattern that cannot be told from text.
        let mut bracket = None;
        let mut braces = false;
        while let Some(c) = self.peek() {
            match c {
                ' ' | '\t' | '\n' | ';' | '&' | '|' | '(' | ')' => break,
                '<' | '>' if self.ahead(1) == Some('(') => {
                    self.at += 2;
                    self.script.does_more = true;
                    self.parenthesized()?;
                    word.text.push(ANY);
                    continue;
                }
                '<' | '>' => break,
                '\\' => {
                    self.at += 1;
                    word.quoted = true;
                    word.text.push(self.peek().filter(|c| *c != '\n').ok_or(Unreadable)?);
                }
                '\'' => {
                    word.quoted = true;
                    self.single_quoted(&mut word.text)?;
                    continue;
                }
                '"' => {
                    word.quoted = true;
                    self.double_quoted(&mut word)?;
                    continue;
                }
                '$' => {
                    self.dollar(&mut word, false)?;
                    continue;
                }
                '`' => {
                    self.backquoted()?;
                    word.text.push(ANY);
                    word.splits = true;
                    continue;
                }
                '*' | '?' => {
                    word.is_pattern = true;
                    word.text.push(ANY);
                }
                '[' if word.text.is_empty() && !word.quoted && matches!(self.ahead(1), Some(' ' | '\t' | '[')) => {
                    word.text.push('[');
                    if self.ahead(1) == Some('[') {
                        self.at += 1;
                        word.text.push('[');
                    }
                }
                '[' => {
                    bracket.get_or_insert(word.text.len());
                }
                '{' if self.ahead(1) == Some('}') => {
                    self.at += 1;
                    word.text.push_str("{}");
                }
                '{' if word.text.is_empty() && !word.quoted && matches!(self.ahead(1), Some(' ' | '\t' | '\n')) => {
                    word.text.push('{');
                }
                '{' => braces = true,
                '~' if word.text.is_empty() || word.text.ends_with(['=', ':']) => word.text.push(ANY),
                '=' if word.value_at.is_none() && !word.quoted && is_name(&word.text) => {
                    word.text.push('=');
                    word.value_at = Some(word.text.len());
                }
                c if c.is_control() || c.is_whitespace() => return Err(Unreadable),
                c => word.text.push(c),
            }
            self.at += 1;
        }
        if let Some(at) = bracket {
            word.text.truncate(at);
            word.text.push(ANY);
            word.is_pattern = true;
            word.value_at = word.value_at.filter(|value_at| *value_at <= at);
        }
        if braces {
            word.text.truncate(word.value_at.unwrap_or_default());
            word.text.push(ANY);
            word.splits = true;
        }
        Ok(word)
    }

    /// A character within quotes. A line that ends there does not begin a here-document.
    fn quoted(&mut self) -> Read<char> {
        let c = self.peek().ok_or(Unreadable)?;
        if c == '\n' && !self.here_documents.is_empty() {
            return Err(Unreadable);
        }
        self.at += 1;
        Ok(c)
    }

    fn single_quoted(&mut self, text: &mut String) -> Read<()> {
        self.at += 1;
        loop {
            match self.quoted()? {
                '\'' => return Ok(()),
                c => text.push(c),
            }
        }
    }

    fn double_quoted(&mut self, word: &mut Word) -> Read<()> {
        self.at += 1;
        loop {
            match self.peek().ok_or(Unreadable)? {
                '"' => {
                    self.at += 1;
                    return Ok(());
                }
                '\\' => {
                    match self.ahead(1).ok_or(Unreadable)? {
                        c @ ('$' | '`' | '"' | '\\') => word.text.push(c),
                        // It may join what is an expansion then.
                        '\n' if matches!(self.chars[self.at - 1], '$' | '`') || !self.here_documents.is_empty() => {
                            return Err(Unreadable);
                        }
                        '\n' => {}
                        c => word.text.extend(['\\', c]),
                    }
                    self.at += 2;
                }
                '$' => self.dollar(word, true)?,
                '`' => {
                    self.backquoted()?;
                    word.text.push(ANY);
                }
                _ => {
                    let c = self.quoted()?;
                    word.text.push(c);
                }
            }
        }
    }

    /// The text of a here-document whose end is not quoted.
    pub(super) fn expanded_text(&mut self) -> Read<()> {
        let mut word = Word::default();
        while let Some(c) = self.peek() {
            match c {
                '\\' => self.at += 2,
                '$' => self.dollar(&mut word, true)?,
                '`' => self.backquoted()?,
                _ => self.at += 1,
            }
        }
        Ok(())
    }

    /// What a dollar sign begins, within double quotes or outside.
    fn dollar(&mut self, word: &mut Word, in_quotes: bool) -> Read<()> {
        self.at += 1;
        match self.peek() {
            Some('(') if self.ahead(1) == Some('(') => {
                self.at += 2;
                self.arithmetic()?;
            }
            Some('(') => {
                self.at += 1;
                self.script.does_more = true;
                self.parenthesized()?;
                word.splits |= !in_quotes;
            }
            Some('{') => {
                self.at += 1;
                let splits = self.parameter(in_quotes)?;
                word.splits |= splits;
            }
            Some('\'') if !in_quotes => {
                word.quoted = true;
                return self.ansi_quoted(&mut word.text);
            }
            Some('"') if !in_quotes => return Err(Unreadable),
            Some('[') => return Err(Unreadable),
            Some(c) if c.is_ascii_alphabetic() || c == '_' => {
                self.name();
                word.splits |= !in_quotes;
            }
            // Numbers, as these are, stay one word.
            Some('#' | '?' | '$' | '!') => self.at += 1,
            Some('@') => {
                self.at += 1;
                word.splits = true;
            }
            Some('*' | '-' | '0'..='9') => {
                self.at += 1;
                word.splits |= !in_quotes;
            }
            _ => {
                word.text.push('$');
                return Ok(());
            }
        }
        word.text.push(ANY);
        Ok(())
    }

    fn name(&mut self) -> String {
        let begin = self.at;
        while self.peek().is_some_and(|c| c.is_ascii_alphanumeric() || c == '_') {
            self.at += 1;
        }
        self.chars[begin..self.at].iter().collect()
    }

    /// Arithmetic of numbers. A variable's value could have commands in it, which bash runs.
    fn arithmetic(&mut self) -> Read<()> {
        let mut open = 0;
        loop {
            match self.peek().ok_or(Unreadable)? {
                ')' if open == 0 => return if self.take("))") { Ok(()) } else { Err(Unreadable) },
                ')' => open -= 1,
                '(' => open += 1,
                '0'..='9'
                | ' '
                | '+'
                | '-'
                | '*'
                | '/'
                | '%'
                | '<'
                | '>'
                | '='
                | '!'
                | '&'
                | '|'
                | '^'
                | '~'
                | '?'
                | ':' => {}
                _ => return Err(Unreadable),
            }
            self.at += 1;
        }
    }

    /// The rest of `${`. Returns whether it may become several words or none.
    fn parameter(&mut self, in_quotes: bool) -> Read<bool> {
        let counts = self.peek() == Some('#') && self.ahead(1) != Some('}');
        if counts {
            self.at += 1;
        }
        let mut splits = !in_quotes && !counts;
        match self.peek().ok_or(Unreadable)? {
            '@' => {
                splits = !counts;
                self.at += 1;
            }
            '*' | '#' | '?' | '$' | '-' => self.at += 1,
            c if c.is_ascii_alphanumeric() || c == '_' => {
                let name = self.name();
                if name == "ENV" || SPECIAL.contains(&&*name) {
                    return Err(Unreadable);
                }
            }
            _ => return Err(Unreadable),
        }
        if self.take("[") {
            splits |= self.peek() == Some('@') && !counts;
            let list = matches!(self.peek(), Some('@' | '*'));
            while self.peek().is_some_and(|c| c.is_ascii_digit() || list && matches!(c, '@' | '*')) {
                self.at += 1;
            }
            if !self.take("]") {
                return Err(Unreadable);
            }
        }
        if self.take("}") {
            return Ok(splits);
        }
        if self.peek() == Some(':') && self.ahead(1).is_some_and(|c| c.is_ascii_digit() || c == ' ') {
            while self.peek().is_some_and(|c| c.is_ascii_digit() || matches!(c, ' ' | ':' | '-')) {
                self.at += 1;
            }
            return if self.take("}") { Ok(splits) } else { Err(Unreadable) };
        }
        if counts || !matches!(self.peek(), Some(':' | '-' | '=' | '+' | '?' | '#' | '%' | '/' | '^' | ',')) {
            return Err(Unreadable);
        }
        self.take(":");
        if !matches!(self.peek(), Some('-' | '=' | '+' | '?' | '#' | '%' | '/' | '^' | ',')) {
            return Err(Unreadable);
        }
        let mut word = Word::default();
        loop {
            match self.peek().ok_or(Unreadable)? {
                '}' => break,
                '$' => self.dollar(&mut word, in_quotes)?,
                '\'' | '"' | '\\' | '`' | '{' | '<' | '>' | '\n' => return Err(Unreadable),
                _ => self.at += 1,
            }
        }
        self.at += 1;
        Ok(splits)
    }

    /// A command between backquotes.
    fn backquoted(&mut self) -> Read<()> {
        self.at += 1;
        let begin = self.at;
        while self.peek().ok_or(Unreadable)? != '`' {
            if self.peek() == Some('\\') || !self.here_documents.is_empty() {
                return Err(Unreadable);
            }
            self.at += 1;
        }
        let text: String = self.chars[begin..self.at].iter().collect();
        self.at += 1;
        self.nested(&text)
    }

    /// `$'...'`, with the escapes that are one letter.
    fn ansi_quoted(&mut self, text: &mut String) -> Read<()> {
        self.at += 1;
        loop {
            match self.quoted()? {
                '\'' => return Ok(()),
                '\\' => text.push(match self.quoted()? {
                    'n' => '\n',
                    't' => '\t',
                    'r' => '\r',
                    c @ ('\\' | '\'' | '"' | '?') => c,
                    _ => return Err(Unreadable),
                }),
                c => text.push(c),
            }
        }
    }
}

/// The text is a variable's name, maybe with the `+` that appends to it.
fn is_name(text: &str) -> bool {
    let name = text.strip_suffix('+').unwrap_or(text);
    let first = name.chars().next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
    first && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}
