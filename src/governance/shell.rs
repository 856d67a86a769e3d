//! Takes a shell command apart: which simple commands it runs, as far as its text says so.
//!
//! What a rule goes by has to hold for whatever bash makes of the text. So the reader follows bash's grammar for what it
//! knows, and gives up ([`Unreadable`]) on all else: what it returns names every command that bash will run by itself, and
//! maybe some that it does not get to. What programs do inside, such as a script or a makefile, no text of a command says.
//!
//! | file | has |
//! |---|---|
//! | `shell.rs` | [`Script`], lists and simple commands |
//! | `shell/words.rs` | words: quotes, expansions, substitutions |
//! | `shell/redirections.rs` | redirections and here-documents |
//! | `shell/launchers.rs` | commands that run other commands |

mod launchers;
mod redirections;
#[cfg(test)]
mod tests;
mod words;

use super::pattern::Pattern;
use redirections::HereDocument;
use words::Word;

/// Stands in a command for text that is only known when it runs. No command can have this character itself.
pub(crate) const ANY: char = '\0';
/// Signs of which each of their names has one.
const OF_SPECIAL: [char; 2] = ['S', 'P'];
/// How deep commands may be nested in each other.
const MAX_DEPTH: u8 = 16;
/// Variables by which bash runs what they say, or reads its input differently.
const SPECIAL: [&str; 7] = ["PS0", "PS4", "BASH_ENV", "BASH_FUNC", "SHELLOPTS", "BASHOPTS", "PROMPT_COMMAND"];

/// A command cannot be taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unreadable;

type Read<T> = Result<T, Unreadable>;

/// What a command runs.
#[derive(Debug, Default)]
pub(crate) struct Script {
    pub commands: Vec<Simple>,
    /// It does more than to run those commands: it substitutes, assigns, writes a file by redirection, or has one command
    /// run another.
    pub does_more: bool,
}

/// A simple command, without quotes, its words separated by one blank each.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Simple {
    pub text: String,
    /// Where in it the last part of the program's path begins.
    pub base: usize,
    /// The program's name is one word that can be read, so that the text up to the first blank is the program.
    pub is_named: bool,
}

/// Whether a command names this among what it runs, of which it was seen that it `ran`; `None` if the command cannot be taken
/// apart. For those who hold the reader against bash.
pub fn names(command: &str, ran: &str) -> Option<bool> {
    let script = Script::read(command).ok()?;
    let names = |simple: &Simple| Pattern::becoming(&simple.text[simple.base..]).surely_matches(ran);
    Some(script.commands.iter().any(names))
}

/// The text has the name of such a variable in it.
fn has_special(text: &str) -> bool {
    text.contains(OF_SPECIAL) && SPECIAL.iter().any(|special| text.contains(special))
}

impl Script {
    /// Takes a command apart.
    ///
    /// # Errors
    /// That is not possible.
    pub(crate) fn read(command: &str) -> Read<Script> {
        let mut script = Script::default();
        if command.contains(ANY) {
            return Err(Unreadable);
        }
        script.add(command, 0)?;
        Ok(script)
    }

    fn add(&mut self, text: &str, depth: u8) -> Read<()> {
        let chars: Vec<char> = text.chars().collect();
        Reader { chars: &chars, at: 0, depth, here_documents: Vec::new(), script: self }.list(End::Text)
    }

    fn push(&mut self, words: &[Word]) {
        let mut text = String::new();
        for (at, word) in words.iter().enumerate() {
            // A word that is nothing but an expansion may be no word at all, and then has no blank beside it.
            if at > 0 && !word.may_vanish() && !words[at - 1].may_vanish() {
                text.push(' ');
            }
            text.push_str(&word.text);
        }
        let name = words.first().map_or("", |word| &word.text);
        let base = name.rfind('/').map_or(0, |at| at + 1);
        let is_named = !name.is_empty() && !name.contains(|c: char| c == ANY || c.is_whitespace());
        self.commands.push(Simple { text, base, is_named });
    }
}

/// Where a list of commands ends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// With the text.
    Text,
    /// With a closing parenthesis.
    Parenthesis,
}

struct Reader<'r> {
    chars: &'r [char],
    at: usize,
    depth: u8,
    /// Whose text begins with the next line.
    here_documents: Vec<HereDocument>,
    script: &'r mut Script,
}

impl Reader<'_> {
    fn peek(&self) -> Option<char> {
        self.chars.get(self.at).copied()
    }

    fn ahead(&self, by: usize) -> Option<char> {
        self.chars.get(self.at + by).copied()
    }

    /// Takes this text, if it comes next.
    fn take(&mut self, text: &str) -> bool {
        let comes = text.chars().enumerate().all(|(by, c)| self.ahead(by) == Some(c));
        if comes {
            self.at += text.chars().count();
        }
        comes
    }

    /// Blanks, and lines that go on in the next one.
    fn skip_blanks(&mut self) -> Read<()> {
        loop {
            match (self.peek(), self.ahead(1)) {
                (Some(' ' | '\t'), _) => self.at += 1,
                (Some('\\'), Some('\n')) => {
                    // Elsewhere it joins what stands before it with what comes after.
                    let before = self.at.checked_sub(1).map(|at| self.chars[at]);
                    if !matches!(before, None | Some(' ' | '\t' | '\n')) || !self.here_documents.is_empty() {
                        return Err(Unreadable);
                    }
                    self.at += 2;
                }
                _ => return Ok(()),
            }
        }
    }

    fn skip_comment(&mut self) {
        while self.peek().is_some_and(|c| c != '\n') {
            self.at += 1;
        }
    }

    /// The commands of a text of its own.
    fn nested(&mut self, text: &str) -> Read<()> {
        if self.depth >= MAX_DEPTH {
            return Err(Unreadable);
        }
        self.script.does_more = true;
        self.script.add(text, self.depth + 1)
    }

    /// The commands up to a closing parenthesis.
    fn parenthesized(&mut self) -> Read<()> {
        // Which text is whose would depend on bash's version.
        if self.depth >= MAX_DEPTH || !self.here_documents.is_empty() {
            return Err(Unreadable);
        }
        self.depth += 1;
        self.list(End::Parenthesis)?;
        self.depth -= 1;
        if self.here_documents.is_empty() { Ok(()) } else { Err(Unreadable) }
    }

    fn list(&mut self, end: End) -> Read<()> {
        loop {
            self.skip_blanks()?;
            match self.peek() {
                None if end == End::Text && self.here_documents.is_empty() => return Ok(()),
                None => return Err(Unreadable),
                Some('\n') => {
                    self.at += 1;
                    self.read_here_documents()?;
                }
                Some('#') => self.skip_comment(),
                // `;;` and its like belong to `case`.
                Some(';') if matches!(self.ahead(1), Some(';' | '&')) => return Err(Unreadable),
                Some('&') if self.ahead(1) == Some('>') => self.simple_command()?,
                Some(';' | '&' | '|') => self.at += 1,
                Some(')') if end == End::Parenthesis => {
                    self.at += 1;
                    return Ok(());
                }
                // Two are arithmetic.
                Some(')') => return Err(Unreadable),
                Some('(') if self.ahead(1) == Some('(') => return Err(Unreadable),
                Some('(') => {
                    self.at += 1;
                    self.parenthesized()?;
                    self.redirections_only()?;
                }
                Some(_) => self.simple_command()?,
            }
        }
    }

    /// What may stand behind a compound command.
    fn redirections_only(&mut self) -> Read<()> {
        loop {
            self.skip_blanks()?;
            match self.peek() {
                Some('&') if self.ahead(1) == Some('>') => {}
                None | Some('\n' | ';' | '&' | '|' | ')') => return Ok(()),
                Some(_) => {}
            }
            if !self.redirection()? {
                return Err(Unreadable);
            }
        }
    }

    /// A simple command, or a word of the grammar that stands where one could begin.
    fn simple_command(&mut self) -> Read<()> {
        let mut words: Vec<Word> = Vec::new();
        let mut begun = false;
        loop {
            self.skip_blanks()?;
            match self.peek() {
                Some('&') if self.ahead(1) == Some('>') => {}
                None | Some('\n' | ';' | '&' | '|' | ')') => break,
                Some('(') => return Err(Unreadable),
                Some('#') => self.skip_comment(),
                Some(_) => {}
            }
            if self.peek().is_none_or(|c| c == '\n') {
                break;
            }
            if self.redirection()? {
                begun = true;
                continue;
            }
            let word = self.word()?;
            if words.is_empty() && word.value_at.is_some() {
                self.assign(&word)?;
                begun = true;
            } else if !begun && words.is_empty() && !word.quoted {
                match &*word.text {
                    "if" | "then" | "elif" | "else" | "while" | "until" | "do" | "{" | "!" => return Ok(()),
                    "fi" | "done" | "}" => return self.redirections_only(),
                    "time" => {
                        self.skip_blanks()?;
                        if self.chars[self.at..].starts_with(&['-', 'p', ' ']) {
                            self.at += 3;
                        }
                        return Ok(());
                    }
                    "for" => return self.for_head(),
                    "case" | "esac" | "select" | "function" | "coproc" | "[[" => return Err(Unreadable),
                    _ => words.push(word),
                }
            } else {
                words.push(word);
            }
        }
        if words.is_empty() { Ok(()) } else { self.command(&words) }
    }

    fn assign(&mut self, word: &Word) -> Read<()> {
        self.script.does_more = true;
        let name = &word.text[..word.value_at.unwrap_or_default()];
        if name.starts_with("ENV=") || has_special(name) {
            return Err(Unreadable);
        }
        Ok(())
    }

    /// `for NAME in WORDS`, up to the list that it runs.
    fn for_head(&mut self) -> Read<()> {
        self.script.does_more = true;
        self.skip_blanks()?;
        let name = self.word()?;
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if name.quoted || !name.text.chars().all(is_name) || SPECIAL.contains(&&*name.text) || name.text == "ENV" {
            return Err(Unreadable);
        }
        self.skip_blanks()?;
        if self.peek() == Some('i') {
            let word = self.word()?;
            if word.text != "in" || word.quoted {
                return Err(Unreadable);
            }
            loop {
                self.skip_blanks()?;
                match self.peek() {
                    Some('\n' | ';') => break,
                    None | Some('&' | '|' | '(' | ')' | '#') => return Err(Unreadable),
                    Some('<' | '>') if self.ahead(1) != Some('(') => return Err(Unreadable),
                    Some(_) => drop(self.word()?),
                }
            }
        }
        match self.peek() {
            Some('\n' | ';') => Ok(()),
            _ => Err(Unreadable),
        }
    }
}
