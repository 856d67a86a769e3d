//! The command line, read by the table.

use super::failure::Failure;
use super::table::{self, Flag, VERBS, VerbRow, Words};
use crate::near;
use std::time::Duration;

/// How long an answer may take unless `--timeout` says otherwise. A session that is aborted or stopped may first have to
/// wait for a tool; nothing else takes more than moments.
pub(super) const DEFAULT_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest `--timeout`, seconds: a hundred years, so that no arithmetic with time can overflow.
const MAX_TIMEOUT: f64 = 100.0 * 366.0 * 86_400.0;

/// What the command line asks for.
#[derive(Debug)]
pub(super) enum Parsed {
    /// Print the usage or a subcommand's help.
    Help(Option<&'static VerbRow>),
    Version,
    Do(Invocation),
}

/// A subcommand with its options and words.
#[derive(Debug)]
pub(super) struct Invocation {
    pub row: &'static VerbRow,
    values: Vec<(Flag, String)>,
    pub words: Vec<String>,
}

impl Invocation {
    /// The option's value; the last one counts.
    pub(super) fn value(&self, flag: Flag) -> Option<&str> {
        self.values.iter().rev().find(|(f, _)| *f == flag).map(|(_, value)| value.as_str())
    }

    pub(super) fn has(&self, flag: Flag) -> bool {
        self.value(flag).is_some()
    }

    /// All values of an option, in their order.
    pub(super) fn all(&self, flag: Flag) -> impl Iterator<Item = &str> {
        self.values.iter().filter(move |(f, _)| *f == flag).map(|(_, value)| value.as_str())
    }

    /// The option that was given last of these.
    pub(super) fn last_of(&self, flags: &[Flag]) -> Option<Flag> {
        self.values.iter().rev().map(|(flag, _)| *flag).find(|flag| flags.contains(flag))
    }

    /// Takes the first word for the id of the session that is meant.
    pub(super) fn move_target(&mut self, id: &str) {
        self.words.remove(0);
        self.values.push((Flag::Session, id.to_string()));
    }

    /// The words as one message.
    pub(super) fn message(&self) -> String {
        self.words.join(" ").trim().to_string()
    }

    /// How long an answer may take; absent for no limit.
    ///
    /// # Errors
    /// `--timeout` is no number of seconds.
    pub(super) fn timeout(&self) -> Result<Option<Duration>, Failure> {
        match self.value(Flag::Timeout) {
            None => Ok(Some(DEFAULT_TIMEOUT)),
            Some(text) => {
                let seconds = seconds(Flag::Timeout, text)?;
                Ok(Some(Duration::from_secs_f64(seconds)).filter(|time| !time.is_zero()))
            }
        }
    }
}

/// A number of seconds that is not negative.
///
/// # Errors
/// The text is no such number, or an absurd one.
pub(super) fn seconds(flag: Flag, text: &str) -> Result<f64, Failure> {
    text.parse::<f64>()
        .ok()
        .filter(|seconds| (0.0..=MAX_TIMEOUT).contains(seconds))
        .ok_or_else(|| Failure::Usage(format!("{}: {text:?} is no number of seconds", flag.row().names[0])))
}

/// The integer that a text begins with, as JavaScript's `parseInt` reads it; the first client does so with numbers.
pub(super) fn leading_integer(text: &str) -> Option<i64> {
    let text = text.trim_start();
    let sign = usize::from(text.starts_with(['+', '-']));
    let digits = text[sign..].bytes().take_while(u8::is_ascii_digit).count();
    text[..sign + digits].parse().ok()
}

/// Reads the command line without the program's name.
///
/// # Errors
/// What is wrong with it.
pub(super) fn parse(arguments: &[String]) -> Result<Parsed, Failure> {
    let Some((name, rest)) = arguments.split_first() else { return Err(Failure::NoSubcommand) };
    match name.as_str() {
        "-h" | "--help" => return Ok(Parsed::Help(None)),
        "-V" | "--version" => return Ok(Parsed::Version),
        _ => {}
    }
    let row = table::verb(name).ok_or_else(|| {
        let hint = near::hint(name, VERBS.iter().flat_map(VerbRow::names));
        Failure::Usage(format!("Unknown subcommand: {name}{hint} (pi-bridge --help lists them)"))
    })?;
    let message = row.words == Words::Message;
    let mut invocation = Invocation { row, values: Vec::new(), words: Vec::new() };
    let mut rest = rest.iter();
    while let Some(argument) = rest.next() {
        if argument == "--" {
            invocation.words.extend(rest.by_ref().cloned());
            break;
        }
        // A long option may have its value behind an equals sign.
        let (option, attached) = match argument.split_once('=') {
            Some((option, value)) if option.starts_with("--") => (option, Some(value)),
            _ => (argument.as_str(), None),
        };
        match row.flag(option) {
            // Within a message, help is a word like any other.
            Some(flag) if flag.flag == Flag::Help && (!message || invocation.words.is_empty()) => {
                return Ok(Parsed::Help(Some(row)));
            }
            Some(flag) if flag.flag != Flag::Help && (flag.value.is_some() || attached.is_none()) => {
                let value = match (flag.value, attached) {
                    (None, _) => "",
                    (Some(_), Some(value)) => value,
                    (Some(_), None) => rest.next().map_or("", String::as_str),
                };
                if flag.value.is_some() && value.is_empty() {
                    return Err(Failure::Usage(format!("Missing value for {option}")));
                }
                invocation.values.push((flag.flag, value.to_string()));
            }
            Some(flag) if flag.flag == Flag::Help => invocation.words.push(argument.clone()),
            _ if !is_option(argument) => invocation.words.push(argument.clone()),
            _ => {
                let near = near::hint(option, row.flags().flat_map(|flag| flag.names).copied());
                let hint = if message { "; a message with such words goes behind --" } else { "" };
                return Err(Failure::Usage(format!("Unknown option for {}: {argument}{near}{hint}", row.name)));
            }
        }
    }
    let limit = match row.words {
        Words::None => 0,
        Words::Target | Words::One => 1,
        Words::Message => usize::MAX,
    };
    match invocation.words.get(limit) {
        Some(surplus) => Err(Failure::Usage(format!("Unexpected argument for {}: {surplus}", row.name))),
        None => Ok(Parsed::Do(invocation)),
    }
}

/// Whether a word can only be meant as an option: `-` alone and negative numbers are not.
fn is_option(word: &str) -> bool {
    word.strip_prefix('-').is_some_and(|rest| !rest.is_empty() && !rest.starts_with(|c: char| c.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Parsed, Failure> {
        parse(&line.split_whitespace().map(str::to_string).collect::<Vec<_>>())
    }

    fn invocation(line: &str) -> Invocation {
        match parsed(line) {
            Ok(Parsed::Do(invocation)) => invocation,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn words_and_options_are_told_apart() {
        for (line, words, options) in [
            ("send fix the tests", "fix|the|tests", &[][..]),
            ("send fix --pid 7 it", "fix|it", &[(Flag::Pid, "7")]),
            ("send --now --followUp x", "x", &[(Flag::Now, ""), (Flag::FollowUp, "")]),
            // An option of the first client is taken out of a message.
            ("send use --raw here", "use|here", &[(Flag::Raw, "")]),
            ("send use -- --colour here", "use|--colour|here", &[]),
            ("send -- use --raw -- here", "use|--raw|--|here", &[]),
            ("send what does git --help say", "what|does|git|--help|say", &[]),
            ("steer -", "-", &[]),
            ("history -5", "-5", &[]),
            ("history 20 -v", "20", &[(Flag::Raw, "")]),
            ("state --session=a=b", "", &[(Flag::Session, "a=b")]),
            ("state --raw alpha", "alpha", &[(Flag::Raw, "")]),
            ("run --cwd /x --model m do it", "do|it", &[(Flag::Directory, "/x"), (Flag::Model, "m")]),
            ("run -- --now", "--now", &[]),
            ("request -", "-", &[]),
            ("list --pid --json", "", &[(Flag::Pid, "--json")]),
        ] {
            let found = invocation(line);
            assert_eq!(found.words.join("|"), words, "{line}");
            let options: Vec<_> = options.iter().map(|(flag, value)| (*flag, value.to_string())).collect();
            assert_eq!(found.values, options, "{line}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (line, part) in [
            ("nonsense", "Unknown subcommand: nonsense"),
            ("state --pid", "Missing value for --pid"),
            ("state --pid=", "Missing value for --pid"),
            ("nonsens", "Unknown subcommand: nonsens (pi-bridge"),
            ("atach", "Unknown subcommand: atach; did you mean attach?"),
            ("state --nonsense", "Unknown option for state: --nonsense"),
            ("send use --straem here", "Unknown option for send: --straem; did you mean --stream?; a message"),
            ("steer use --colour here", "Unknown option for steer: --colour; a message with such words goes behind --"),
            ("follow-up use -x", "Unknown option for follow-up: -x"),
            ("send use --json=x here", "Unknown option for send: --json=x"),
            ("run --nonsense x", "behind --"),
            ("run --raw x", "Unknown option for run: --raw"),
            ("state a b", "Unexpected argument for state: b"),
            ("list a", "Unexpected argument for list: a"),
            ("stop --json=1 x", "Unknown option for stop: --json=1"),
        ] {
            let error = parsed(line).expect_err(line).to_string();
            assert!(error.contains(part), "{line}: {error}");
        }
        assert!(matches!(parse(&["state".into(), "--pid".into(), String::new()]), Err(Failure::Usage(_))));
        assert!(matches!(parsed(""), Err(Failure::NoSubcommand)));
    }

    #[test]
    fn help_and_version() {
        assert!(matches!(parsed("--help"), Ok(Parsed::Help(None))));
        assert!(matches!(parsed("-h x"), Ok(Parsed::Help(None))));
        assert!(matches!(parsed("--version"), Ok(Parsed::Version)));
        for line in ["send --help", "send -h x", "list --help", "stop x --help"] {
            assert!(matches!(parsed(line), Ok(Parsed::Help(Some(_)))), "{line}");
        }
    }

    #[test]
    fn timeouts() {
        let timeout = |line: &str| invocation(line).timeout();
        assert_eq!(timeout("state").ok(), Some(Some(DEFAULT_TIMEOUT)));
        assert_eq!(timeout("state --timeout 1.5").ok(), Some(Some(Duration::from_millis(1500))));
        assert_eq!(timeout("state --timeout 0").ok(), Some(None));
        for text in ["-1", "x", "1e300", "NaN", "inf"] {
            assert!(timeout(&format!("state --timeout {text}")).is_err(), "{text}");
        }
    }

    #[test]
    fn the_last_value_counts() {
        let found = invocation("send --pid 1 --pid 2 --now --auto x");
        assert_eq!(found.value(Flag::Pid), Some("2"));
        assert_eq!(found.last_of(&[Flag::Now, Flag::Auto]), Some(Flag::Auto));
        assert_eq!(found.last_of(&[Flag::Steer]), None);
    }

    #[test]
    fn integers_are_read_as_the_first_client_reads_them() {
        for (text, number) in [
            ("20", Some(20)),
            (" 20abc", Some(20)),
            ("-5", Some(-5)),
            ("+5", Some(5)),
            ("2.9", Some(2)),
            ("abc", None),
            ("", None),
            ("-", None),
            ("99999999999999999999", None),
        ] {
            assert_eq!(leading_integer(text), number, "{text:?}");
        }
    }
}
