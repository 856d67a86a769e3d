//! The text that a person types: editing, history, what was killed, searching.
//!
//! The keys are those of readline's Emacs mode, as far as people's fingers know them. It knows nothing of the screen.

use super::keys::Key;
use std::collections::VecDeque;
use unicode_width::UnicodeWidthChar;

/// Texts that are remembered.
const HISTORY: usize = 500;
/// Killed texts that are remembered.
const KILLS: usize = 20;

/// What a key led to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Edited {
    /// Nothing but what is shown may have changed.
    Shown,
    /// The text is complete.
    Submit(String),
    /// Ctrl-C; the text is gone.
    Interrupt {
        was_empty: bool,
    },
    /// Ctrl-D on an empty line.
    End,
    /// Tab: what can stand at the cursor is asked for.
    Complete,
    ClearScreen,
    Suspend,
    /// A paste that was too long to be taken.
    TooLong,
}

/// What the key before did, where that changes what this one does.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Last {
    Other,
    Kill,
    /// Where the yanked text begins, and which of the killed texts it is, counted from the newest.
    Yank(usize, usize),
}

struct Search {
    term: String,
    /// The place of what was found in the history.
    found: Option<usize>,
}

pub(crate) struct Editor {
    text: String,
    /// A byte, always between two characters.
    cursor: usize,
    history: VecDeque<String>,
    /// What of the history is shown; its length for none of it.
    at: usize,
    /// What was typed before the history was looked into.
    draft: String,
    kills: VecDeque<String>,
    last: Last,
    search: Option<Search>,
}

impl Editor {
    pub(crate) fn new() -> Editor {
        Editor {
            text: String::new(),
            cursor: 0,
            history: VecDeque::new(),
            at: 0,
            draft: String::new(),
            kills: VecDeque::new(),
            last: Last::Other,
            search: None,
        }
    }

    /// What stands before the text, the text, and the cursor as a byte of it.
    pub(crate) fn shown(&self) -> (String, &str, usize) {
        match &self.search {
            None => ("> ".into(), &self.text, self.cursor),
            Some(search) => {
                let found = search.found.and_then(|at| self.history.get(at)).map_or("", String::as_str);
                let failed = if search.found.is_none() && !search.term.is_empty() { "nothing has " } else { "" };
                (format!("({failed}search {:?}) ", search.term), found, found.find(&search.term).unwrap_or_default())
            }
        }
    }

    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// The text before the cursor, which a completion goes by.
    pub(crate) fn before_cursor(&self) -> &str {
        &self.text[..self.cursor]
    }

    /// Remembers a text.
    pub(crate) fn remember(&mut self, text: &str) {
        if !text.trim().is_empty() && self.history.back().is_none_or(|last| last != text) {
            if self.history.len() == HISTORY {
                self.history.pop_front();
            }
            self.history.push_back(text.to_string());
        }
        self.at = self.history.len();
    }

    /// Puts in what all candidates, which stand for the text from byte `start` to the cursor, have in common; returns
    /// them where there are several and nothing could be put in.
    pub(crate) fn complete<'a>(&mut self, start: usize, candidates: &'a [String]) -> &'a [String] {
        let Some(first) = candidates.first() else { return &[] };
        let common = candidates.iter().fold(first.as_str(), |common, other| {
            let same = common.char_indices().zip(other.chars()).take_while(|((_, a), b)| a == b);
            &common[..same.last().map_or(0, |((at, c), _)| at + c.len_utf8())]
        });
        let mut insert = common.to_string();
        if candidates.len() == 1 && !insert.ends_with('/') {
            insert.push(' ');
        }
        if insert.len() <= self.cursor - start {
            return if candidates.len() > 1 { candidates } else { &[] };
        }
        self.text.replace_range(start..self.cursor, &insert);
        self.cursor = start + insert.len();
        &[]
    }

    /// Puts another text in place of what is typed.
    pub(crate) fn replace(&mut self, text: &str) {
        self.text = text.to_string();
        self.cursor = self.text.len();
    }

    /// Acts on a key.
    pub(crate) fn key(&mut self, key: Key) -> Edited {
        if self.search.is_some()
            && let Some(edited) = self.search_key(&key)
        {
            return edited;
        }
        let last = std::mem::replace(&mut self.last, Last::Other);
        match key {
            Key::Char(char) => self.insert(char.encode_utf8(&mut [0; 4])),
            Key::Paste(text) => self.insert(&text),
            Key::TooLong => return Edited::TooLong,
            Key::AltEnter => self.insert("\n"),
            Key::Enter => {
                let text = std::mem::take(&mut self.text);
                self.cursor = 0;
                self.remember(&text);
                return Edited::Submit(text);
            }
            Key::Tab => return Edited::Complete,
            Key::Backspace | Key::Ctrl('h') => self.delete(self.previous(), self.cursor),
            Key::Ctrl('d') if self.text.is_empty() => return Edited::End,
            Key::Delete | Key::Ctrl('d') => self.delete(self.cursor, self.next()),
            Key::Left | Key::Ctrl('b') => self.cursor = self.previous(),
            Key::Right | Key::Ctrl('f') => self.cursor = self.next(),
            Key::Home | Key::Ctrl('a') => self.cursor = self.line_start(),
            Key::End | Key::Ctrl('e') => self.cursor = self.line_end(),
            Key::WordLeft | Key::Alt('b') => self.cursor = self.word_start(is_word),
            Key::WordRight | Key::Alt('f') => self.cursor = self.word_end(),
            Key::Up | Key::Ctrl('p') => self.up(),
            Key::Down | Key::Ctrl('n') => self.down(),
            Key::Alt('<') | Key::PageUp => self.recall(0),
            Key::Alt('>') | Key::PageDown => self.recall(self.history.len()),
            Key::Ctrl('k') => self.kill(self.cursor, self.kill_end(), last),
            Key::Ctrl('u') => self.kill(self.line_start(), self.cursor, last),
            Key::Ctrl('w') => self.kill(self.word_start(|c| !c.is_whitespace()), self.cursor, last),
            Key::AltBackspace => self.kill(self.word_start(is_word), self.cursor, last),
            Key::Alt('d') => self.kill(self.cursor, self.word_end(), last),
            Key::Ctrl('y') => self.yank(0),
            Key::Alt('y') => {
                if let Last::Yank(start, number) = last {
                    self.text.replace_range(start..self.cursor, "");
                    self.cursor = start;
                    self.yank((number + 1) % self.kills.len().max(1));
                }
            }
            Key::Ctrl('t') => self.transpose(),
            Key::Ctrl('r') => self.search = Some(Search { term: String::new(), found: None }),
            Key::Ctrl('l') => return Edited::ClearScreen,
            Key::Ctrl('z') => return Edited::Suspend,
            Key::Ctrl('c') => {
                let was_empty = self.text.is_empty();
                self.text.clear();
                self.cursor = 0;
                self.at = self.history.len();
                return Edited::Interrupt { was_empty };
            }
            Key::Ctrl(_) | Key::Alt(_) | Key::Escape | Key::Other => {}
        }
        Edited::Shown
    }

    fn insert(&mut self, text: &str) {
        self.text.insert_str(self.cursor, text);
        self.cursor += text.len();
    }

    fn delete(&mut self, start: usize, end: usize) {
        self.text.replace_range(start..end, "");
        self.cursor = start;
    }

    fn kill(&mut self, start: usize, end: usize, last: Last) {
        if start == end {
            return;
        }
        let killed = self.text[start..end].to_string();
        match self.kills.front_mut().filter(|_| last == Last::Kill) {
            // What is killed piece by piece is yanked as a whole.
            Some(newest) if end == self.cursor && start < self.cursor => newest.insert_str(0, &killed),
            Some(newest) => newest.push_str(&killed),
            None => {
                self.kills.push_front(killed);
                self.kills.truncate(KILLS);
            }
        }
        self.delete(start, end);
        self.last = Last::Kill;
    }

    fn yank(&mut self, number: usize) {
        if let Some(text) = self.kills.get(number).cloned() {
            let start = self.cursor;
            self.insert(&text);
            self.last = Last::Yank(start, number);
        }
    }

    fn transpose(&mut self) {
        let middle = if self.cursor == self.text.len() { self.previous() } else { self.cursor };
        let start = self.before(middle);
        if start < middle {
            let end = self.after(middle);
            let swapped = format!("{}{}", &self.text[middle..end], &self.text[start..middle]);
            self.text.replace_range(start..end, &swapped);
            self.cursor = end;
        }
    }

    /// The begin of the character before a byte, with the marks that belong to it.
    fn before(&self, at: usize) -> usize {
        let mut chars = self.text[..at].char_indices().rev();
        chars.find(|(_, char)| char.width() != Some(0)).map_or(0, |(start, _)| start)
    }

    /// The end of the character at a byte, with the marks that belong to it.
    fn after(&self, at: usize) -> usize {
        let mut chars = self.text[at..].char_indices().skip(1);
        chars.find(|(_, char)| char.width() != Some(0)).map_or(self.text.len(), |(length, _)| at + length)
    }

    fn previous(&self) -> usize {
        self.before(self.cursor)
    }

    fn next(&self) -> usize {
        self.after(self.cursor)
    }

    fn line_start(&self) -> usize {
        self.text[..self.cursor].rfind('\n').map_or(0, |at| at + 1)
    }

    fn line_end(&self) -> usize {
        self.text[self.cursor..].find('\n').map_or(self.text.len(), |at| self.cursor + at)
    }

    /// The end of the line, or the line end itself where the cursor is there already.
    fn kill_end(&self) -> usize {
        let end = self.line_end();
        if end == self.cursor { self.next() } else { end }
    }

    fn word_start(&self, in_word: impl Fn(char) -> bool) -> usize {
        let before = self.text[..self.cursor].trim_end_matches(|c| !in_word(c));
        before.trim_end_matches(in_word).len()
    }

    fn word_end(&self) -> usize {
        let after = self.text[self.cursor..].trim_start_matches(|c| !is_word(c));
        self.text.len() - after.trim_start_matches(is_word).len()
    }

    fn up(&mut self) {
        let start = self.line_start();
        match start.checked_sub(1) {
            Some(end) => {
                let column = self.text[start..self.cursor].chars().count();
                let above = self.text[..end].rfind('\n').map_or(0, |at| at + 1);
                self.cursor = self.column(above, end, column);
            }
            None => self.recall(self.at.saturating_sub(1)),
        }
    }

    fn down(&mut self) {
        let end = self.line_end();
        if end < self.text.len() {
            let column = self.text[self.line_start()..self.cursor].chars().count();
            let below = end + 1;
            let end = self.text[below..].find('\n').map_or(self.text.len(), |at| below + at);
            self.cursor = self.column(below, end, column);
        } else {
            self.recall(self.at + 1);
        }
    }

    /// The place of a column, counted in characters, in the line between two bytes.
    fn column(&self, start: usize, end: usize, column: usize) -> usize {
        self.text[start..end].char_indices().nth(column).map_or(end, |(at, _)| start + at)
    }

    /// Shows a text of the history, or what was typed where there is none at that place.
    fn recall(&mut self, at: usize) {
        let at = at.min(self.history.len());
        if at == self.at {
            return;
        }
        if self.at == self.history.len() {
            self.draft = self.text.clone();
        }
        self.at = at;
        self.text = self.history.get(at).unwrap_or(&self.draft).clone();
        self.cursor = self.text.len();
    }

    /// Acts on a key while the history is searched; absent for one that ends the search and means what it always does.
    #[expect(clippy::wildcard_enum_match_arm, reason = "all other keys end the search")]
    fn search_key(&mut self, key: &Key) -> Option<Edited> {
        let search = self.search.as_mut()?;
        let mut from = self.history.len();
        match key {
            Key::Char(char) => search.term.push(*char),
            Key::Backspace => drop(search.term.pop()),
            Key::Ctrl('r') => from = search.found.unwrap_or(from),
            Key::Ctrl('c' | 'g') | Key::Escape => {
                self.search = None;
                return Some(Edited::Shown);
            }
            _ => {
                let found = self.search.take().and_then(|search| search.found);
                if let Some(at) = found {
                    self.recall(at);
                }
                return None;
            }
        }
        let term = search.term.as_str();
        let older = self.history.iter().take(from).rposition(|text| text.contains(term));
        if older.is_some() || from == self.history.len() {
            search.found = older.filter(|_| !term.is_empty());
        }
        Some(Edited::Shown)
    }
}

fn is_word(char: char) -> bool {
    char.is_alphanumeric() || char == '_'
}

#[cfg(test)]
mod tests {
    use super::super::keys::Decoder;
    use super::*;

    /// What an editor with this history shows, with `|` at the cursor, after these bytes.
    fn shown(history: &[&str], bytes: &str) -> String {
        let mut editor = Editor::new();
        history.iter().for_each(|text| editor.remember(text));
        typed(&mut editor, bytes);
        let (prompt, text, cursor) = editor.shown();
        format!("{}{}|{}", prompt.strip_prefix("> ").unwrap_or(&prompt), &text[..cursor], &text[cursor..])
    }

    fn typed(editor: &mut Editor, bytes: &str) -> Vec<Edited> {
        let mut decoder = Decoder::default();
        decoder.push(bytes.as_bytes());
        let mut keys: Vec<Key> = std::iter::from_fn(|| decoder.next_key()).collect();
        keys.extend(decoder.give_up());
        keys.into_iter().map(|key| editor.key(key)).collect()
    }

    #[test]
    fn editing() {
        for (bytes, expected) in [
            ("ab\x02c", "ac|b"),
            ("e\u{301}x\x02\x02y", "y|e\u{301}x"),
            ("e\u{301}\x7f", "|"),
            ("漢字\x1b[D\x7f", "|字"),
            ("one two\x1bb!", "one !|two"),
            ("one two\x01\x1bf!", "one!| two"),
            ("one two\x01\x04", "|ne two"),
            ("ab\x14", "ba|"),
            ("ab\x01\x06\x14", "ba|"),
            ("a\x14", "a|"),
            ("one two\x17", "one |"),
            ("one two\x17\x17\x19", "one two|"),
            ("one two\x01\x0b\x19\x19", "one twoone two|"),
            ("one two\x15", "|"),
            ("one\x15two\x15\x19\x1by", "one|"),
            ("one.two\x1b\x7f", "one.|"),
            ("one two\x01\x1bd\x1bd\x19", "one two|"),
            ("a\x1b\rb\x10\x05c", "ac|\nb"),
            ("ab\x1b\rc\x10\x0e!", "ab\nc!|"),
            ("one\x1b\rtwo\x10\x05\x0b", "one|two"),
            ("a\x1bOD\x1b[Cb\x1b[H\x1b[3~", "|b"),
            ("a\x1b[200~x\ny\x1b[201~b", "ax\nyb|"),
        ] {
            assert_eq!(shown(&[], bytes), expected, "{bytes:?}");
        }
    }

    #[test]
    fn history() {
        let history = ["one", "two", "two", " ", "two lines\nof it"];
        for (bytes, expected) in [
            ("\x10", "two lines\nof it|"),
            ("\x10\x10\x10", "two|"),
            ("\x10\x10\x10\x10\x10\x10", "one|"),
            ("draft\x10\x0e", "draft|"),
            ("\x0e", "|"),
            ("\x1b<", "one|"),
            ("\x12ne", "(search \"ne\") two li|nes\nof it"),
            ("\x12ne\x12", "(search \"ne\") o|ne"),
            ("\x12ne\x12\x12", "(search \"ne\") o|ne"),
            ("\x12ne\x12\x05!", "one!|"),
            ("\x12x", "(nothing has search \"x\") |"),
            ("a\x12one\x07", "a|"),
        ] {
            assert_eq!(shown(&history, bytes), expected, "{bytes:?}");
        }
    }

    #[test]
    fn what_leads_to_more_than_a_change() {
        let mut editor = Editor::new();
        let mut last = |bytes: &str| typed(&mut editor, bytes).pop();
        assert_eq!(last("hello\r"), Some(Edited::Submit("hello".into())));
        assert_eq!(last("\x10\r"), Some(Edited::Submit("hello".into())));
        assert_eq!(last("x\x03"), Some(Edited::Interrupt { was_empty: false }));
        assert_eq!(last("\x03"), Some(Edited::Interrupt { was_empty: true }));
        assert_eq!(last("x\x04"), Some(Edited::Shown));
        assert_eq!(last("\x7f\x04"), Some(Edited::End));
        assert_eq!(last("\t"), Some(Edited::Complete));
        assert_eq!(last("\x12hel\r"), Some(Edited::Submit("hello".into())));
    }

    #[test]
    fn completion_puts_in_what_is_certain() {
        for (typed_text, start, candidates, text, listed) in [
            ("/mo", 0, &["/model"][..], "/model ", 0),
            ("/s", 0, &["/steer", "/stop"], "/st", 0),
            ("/st", 0, &["/steer", "/stop"], "/st", 2),
            ("x", 0, &[], "x", 0),
            ("/model o", 7, &["offline/"], "/model offline/", 0),
        ] {
            let mut editor = Editor::new();
            typed(&mut editor, typed_text);
            let candidates: Vec<String> = candidates.iter().map(|text| text.to_string()).collect();
            assert_eq!(editor.complete(start, &candidates).len(), listed, "{typed_text}");
            assert_eq!(editor.text(), text, "{typed_text}");
        }
    }
}
