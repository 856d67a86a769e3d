//! Commands that run other commands, and those that change what others mean.

use super::words::Word;
use super::{ANY, MAX_DEPTH, Read, Reader, Unreadable, has_special};

/// A program whose operands are a command.
struct Launcher {
    name: &'static str,
    /// Letters of its options without a value, and of those with one.
    flags: &'static str,
    valued: &'static str,
    /// Its long options of both kinds.
    long: &'static [&'static str],
    long_valued: &'static [&'static str],
    /// Operands before the command.
    operands: usize,
    /// Assignments may stand before it.
    assigns: bool,
}

const fn launcher(name: &'static str, flags: &'static str, valued: &'static str) -> Launcher {
    Launcher { name, flags, valued, long: &[], long_valued: &[], operands: 0, assigns: false }
}

const LAUNCHERS: [Launcher; 13] = [
    Launcher {
        long: &["ignore-environment", "null"],
        long_valued: &["unset", "chdir"],
        assigns: true,
        ..launcher("env", "i0v", "uC")
    },
    launcher("nohup", "", ""),
    Launcher { long: &["ctty", "fork", "wait"], ..launcher("setsid", "cfw", "") },
    Launcher { long_valued: &["adjustment"], ..launcher("nice", "0123456789", "n") },
    Launcher { long: &["ignore"], long_valued: &["class", "classdata"], ..launcher("ionice", "t", "cn") },
    Launcher { long_valued: &["input", "output", "error"], ..launcher("stdbuf", "", "ioe") },
    Launcher {
        long: &["foreground", "preserve-status", "verbose"],
        long_valued: &["kill-after", "signal"],
        operands: 1,
        ..launcher("timeout", "fpv", "ks")
    },
    launcher("time", "pvaq", "fo"),
    launcher("command", "p", ""),
    launcher("builtin", "", ""),
    launcher("exec", "cl", "a"),
    Launcher {
        long: &["preserve-env", "non-interactive", "background", "set-home"],
        long_valued: &["user", "group", "host", "prompt", "chdir"],
        assigns: true,
        ..launcher("sudo", "AbEHnPSkK", "ughpCDRrtTU")
    },
    Launcher {
        long: &["null", "no-run-if-empty", "verbose", "exit", "interactive", "open-tty"],
        long_valued: &["arg-file", "delimiter", "max-args", "max-procs", "max-lines", "max-chars", "process-slot-var"],
        ..launcher("xargs", "0rtpxo", "adEsLnP")
    },
];

/// Programs that run others in ways that are not taken apart, and commands of the shell by which words get another meaning.
const UNREADABLE: [&str; 58] = [
    "alias",
    "at",
    "batch",
    "bind",
    "busybox",
    "bwrap",
    "chroot",
    "chrt",
    "compgen",
    "complete",
    "compopt",
    "csh",
    "declare",
    "doas",
    "enable",
    "entr",
    "expect",
    "fakeroot",
    "fc",
    "firejail",
    "fish",
    "flock",
    "hash",
    "jobs",
    "ksh",
    "let",
    "local",
    "ltrace",
    "mapfile",
    "mksh",
    "nsenter",
    "numactl",
    "parallel",
    "pkexec",
    "prlimit",
    "rbash",
    "readarray",
    "run0",
    "runuser",
    "screen",
    "script",
    "setarch",
    "setpriv",
    "shopt",
    "start-stop-daemon",
    "strace",
    "su",
    "systemd-run",
    "taskset",
    "tcsh",
    "tmux",
    "toybox",
    "typeset",
    "unbuffer",
    "unshare",
    "watch",
    "xvfb-run",
    "zsh",
];

/// Names of `set -o` that change nothing of how text is read.
const HARMLESS: [&str; 7] = ["errexit", "nounset", "pipefail", "xtrace", "verbose", "noglob", "noclobber"];

impl Reader<'_> {
    /// Takes note of a command, and of those that it runs.
    pub(super) fn command(&mut self, words: &[Word]) -> Read<()> {
        self.script.push(words);
        let name = &words[0];
        if !name.is_known() || words.iter().any(|word| has_special(&word.text)) {
            return Err(Unreadable);
        }
        let base = name.text.rsplit('/').next().unwrap_or_default();
        if UNREADABLE.binary_search(&base).is_ok() {
            return Err(Unreadable);
        }
        match base {
            "sh" | "bash" | "dash" | "ash" => self.shell(words),
            "eval" => self.eval(&words[1..]),
            "trap" => self.trap(&words[1..]),
            "find" => self.find(words),
            "." | "source" => is_file(words.get(1)),
            "set" => set(&words[1..]),
            "test" | "[" => test(&words[1..]),
            "printf" => printf(&words[1..]),
            "read" | "unset" | "export" | "readonly" | "getopts" | "wait" => names(&words[1..]),
            _ => match LAUNCHERS.iter().find(|launcher| launcher.name == base) {
                Some(launcher) => self.launch(launcher, &words[1..]),
                None => Ok(()),
            },
        }
    }

    fn launch(&mut self, launcher: &Launcher, words: &[Word]) -> Read<()> {
        self.script.does_more = true;
        let Some(command) = launcher.command(words)? else { return Ok(()) };
        let mut command = command.to_vec();
        if launcher.name == "xargs" && !command.is_empty() {
            command.push(Word::unknown());
        }
        if command.is_empty() { Ok(()) } else { self.inner(&command) }
    }

    /// A command that another one runs.
    fn inner(&mut self, words: &[Word]) -> Read<()> {
        if self.depth >= MAX_DEPTH {
            return Err(Unreadable);
        }
        self.depth += 1;
        self.command(words)?;
        self.depth -= 1;
        Ok(())
    }

    /// A shell of its own, with a command or a file.
    fn shell(&mut self, words: &[Word]) -> Read<()> {
        let mut words = words[1..].iter().peekable();
        let mut runs_text = false;
        while let Some(option) = words.next_if(|word| word.text.starts_with(['-', '+'])) {
            if !option.is_known() || option.text.len() == 1 {
                return Err(Unreadable);
            }
            match option.text.strip_prefix("--") {
                Some("") => break,
                Some("login" | "noprofile" | "norc" | "posix") => continue,
                Some(_) => return Err(Unreadable),
                None => {}
            }
            for letter in option.text.chars().skip(1) {
                match letter {
                    'c' => runs_text = true,
                    'o' => {
                        let name = words.next().ok_or(Unreadable)?;
                        if !HARMLESS.contains(&&*name.text) {
                            return Err(Unreadable);
                        }
                    }
                    'e' | 'u' | 'x' | 'l' | 'v' | 'f' => {}
                    _ => return Err(Unreadable),
                }
            }
        }
        match words.next() {
            Some(text) if runs_text && text.is_known() => self.nested(&text.text),
            file if !runs_text => is_file(file),
            _ => Err(Unreadable),
        }
    }

    fn eval(&mut self, words: &[Word]) -> Read<()> {
        if !words.iter().all(Word::is_known) {
            return Err(Unreadable);
        }
        let texts: Vec<&str> = words.iter().map(|word| &*word.text).collect();
        self.nested(&texts.join(" "))
    }

    fn trap(&mut self, words: &[Word]) -> Read<()> {
        let words = words.strip_prefix(&[Word { text: "--".into(), ..Word::default() }]).unwrap_or(words);
        match words.first() {
            Some(text) if text.text.starts_with('-') => Ok(()),
            Some(text) if text.is_known() => self.nested(&text.text),
            Some(_) => Err(Unreadable),
            None => Ok(()),
        }
    }

    fn find(&mut self, words: &[Word]) -> Read<()> {
        let is_end = |word: &Word| word.text == ";" || word.text == "+";
        // What is not known yet could be an option that runs what follows, up to an end.
        if words.iter().any(|word| word.splits) {
            return Err(Unreadable);
        }
        if let Some(at) = words.iter().position(|word| word.text.starts_with(ANY))
            && words[at..].iter().any(is_end)
        {
            return Err(Unreadable);
        }
        let mut rest = words;
        while let Some(at) = rest.iter().position(|word| matches!(&*word.text, "-exec" | "-execdir" | "-ok" | "-okdir"))
        {
            self.script.does_more = true;
            let command = &rest[at + 1..];
            let is_many = |at: usize| command[at].text == "+" && at > 0 && command[at - 1].text == "{}";
            let end = (0..command.len()).find(|at| command[*at].text == ";" || is_many(*at)).ok_or(Unreadable)?;
            let filled: Vec<Word> = command[..end]
                .iter()
                .map(|word| Word { text: word.text.replace("{}", &ANY.to_string()), ..word.clone() })
                .collect();
            if filled.is_empty() {
                return Err(Unreadable);
            }
            self.inner(&filled)?;
            rest = &command[end..];
        }
        Ok(())
    }
}

impl Launcher {
    /// The command among its words; `None` where it only looks one up.
    fn command<'w>(&self, words: &'w [Word]) -> Read<Option<&'w [Word]>> {
        let mut at = 0;
        while at < words.len() {
            let text = &*one_word(words.get(at))?.text;
            // It could be an option.
            if text.starts_with(ANY) || text.starts_with('-') && text.contains(ANY) {
                return Err(Unreadable);
            }
            if text == "--" {
                at += 1;
                break;
            }
            if let Some(long) = text.strip_prefix("--") {
                let name = long.split('=').next().unwrap_or_default();
                match (self.long_valued.contains(&name), long.contains('=')) {
                    (true, false) => at += 1,
                    (true, true) => {}
                    (false, _) if self.long.contains(&name) => {}
                    (false, _) => return Err(Unreadable),
                }
            } else if text.len() > 1 && text.starts_with('-') {
                let mut letters = text[1..].chars();
                while let Some(letter) = letters.next() {
                    if self.name == "command" && matches!(letter, 'v' | 'V') {
                        return Ok(None);
                    }
                    if self.valued.contains(letter) {
                        if letters.as_str().is_empty() {
                            at += 1;
                            one_word(words.get(at))?;
                        }
                        break;
                    }
                    if !self.flags.contains(letter) {
                        return Err(Unreadable);
                    }
                }
            } else if text != "-" || self.name != "env" {
                break;
            }
            at += 1;
        }
        for _ in 0..self.operands {
            one_word(words.get(at))?;
            at += 1;
        }
        while self.assigns && words.get(at).is_some_and(|word| word.text.contains('=')) {
            let word = one_word(words.get(at))?;
            if word.text.starts_with([ANY, '=']) || word.text.starts_with("ENV=") {
                return Err(Unreadable);
            }
            at += 1;
        }
        Ok(Some(words.get(at..).unwrap_or_default()))
    }
}

/// A word that stays one, whatever is expanded in it.
fn one_word(word: Option<&Word>) -> Read<&Word> {
    word.filter(|word| !word.splits && !word.is_pattern).ok_or(Unreadable)
}

/// A file of commands, which is not what comes through a pipe.
fn is_file(word: Option<&Word>) -> Read<()> {
    match word {
        Some(file) if file.is_known() && !["/dev/", "/proc/", "-"].iter().any(|no| file.text.starts_with(no)) => Ok(()),
        _ => Err(Unreadable),
    }
}

fn set(words: &[Word]) -> Read<()> {
    let mut words = words.iter();
    while let Some(word) = words.next() {
        match &*word.text {
            _ if !word.is_known() => return Err(Unreadable),
            "--" => return Ok(()),
            "-o" | "+o" => {
                let name = words.next().ok_or(Unreadable)?;
                if !HARMLESS.contains(&&*name.text) {
                    return Err(Unreadable);
                }
            }
            "-eo" | "-euo" | "-exo" | "-euxo" | "-xeuo" | "-ueo" => {
                if words.next().is_none_or(|name| !HARMLESS.contains(&&*name.text)) {
                    return Err(Unreadable);
                }
            }
            text if text.starts_with(['-', '+']) && text.chars().skip(1).all(|c| "euxvfC".contains(c)) => {}
            _ => return Err(Unreadable),
        }
    }
    Ok(())
}

/// The index of an element that a test looks for may be arithmetic, and that may be a command.
fn test(words: &[Word]) -> Read<()> {
    let odd = |word: &Word| word.text.contains(['[', ANY]);
    let may_look = words.windows(2).any(|two| two[0].text.starts_with(ANY) && odd(&two[1]));
    let looks = words.iter().any(|word| matches!(&*word.text, "-v" | "-R") || word.splits);
    if may_look || looks { Err(Unreadable) } else { Ok(()) }
}

fn printf(words: &[Word]) -> Read<()> {
    match words.first() {
        Some(first) if first.splits || first.is_pattern || first.text.starts_with("-v") => Err(Unreadable),
        Some(first) if first.text.starts_with(ANY) && words.len() > 1 => Err(Unreadable),
        _ => Ok(()),
    }
}

/// Names of variables, which must be plain ones.
fn names(words: &[Word]) -> Read<()> {
    let odd = |word: &Word| {
        let name = word.text.split('=').next().unwrap_or_default();
        name == "ENV" || name.contains(['[', ANY])
    };
    if words.iter().any(odd) { Err(Unreadable) } else { Ok(()) }
}
