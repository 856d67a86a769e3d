//! The one table of subcommands and options: parsing, help and shell completions come from it.

/// An option. Options are named the same after every subcommand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flag {
    Pid,
    Socket,
    Session,
    Name,
    Cwd,
    BridgeDir,
    All,
    Json,
    Timeout,
    RequestId,
    Answers,
    Hash,
    Reason,
    ForSession,
    Event,
    Since,
    SinceSeq,
    MaxBytes,
    Raw,
    Auto,
    Steer,
    FollowUp,
    Now,
    Stream,
    Detach,
    Directory,
    Model,
    Thinking,
    MaxLifetime,
    From,
    Plain,
    Long,
    Image,
    Help,
}

/// What a shell offers for an option's value or for a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Offer {
    Nothing,
    Directories,
    Files,
    /// The values of a key in what `pi-bridge list --json` prints.
    Key(&'static str),
    OneOf(&'static [&'static str]),
}

/// One option.
#[derive(Debug)]
pub(super) struct FlagRow {
    pub flag: Flag,
    /// As they are typed; the first one is shown.
    pub names: &'static [&'static str],
    /// What its value is called in the help; absent for a switch.
    pub value: Option<&'static str>,
    pub offer: Offer,
    /// Whether the first client (pi-session-bridge) has it, and so takes it after every subcommand.
    pub original: bool,
    pub help: &'static str,
}

const fn switch(flag: Flag, names: &'static [&'static str], help: &'static str) -> FlagRow {
    FlagRow { flag, names, value: None, offer: Offer::Nothing, original: false, help }
}

const fn valued(flag: Flag, names: &'static [&'static str], value: &'static str, help: &'static str) -> FlagRow {
    FlagRow { flag, names, value: Some(value), offer: Offer::Nothing, original: false, help }
}

impl FlagRow {
    const fn original(self) -> FlagRow {
        FlagRow { original: true, ..self }
    }

    const fn offer(self, offer: Offer) -> FlagRow {
        FlagRow { offer, ..self }
    }
}

/// All options, in the order of the help. Two rows may share a name when no subcommand has both.
pub(super) const FLAGS: &[FlagRow] = &[
    valued(Flag::Pid, &["--pid"], "PID", "only the process with this id").original().offer(Offer::Key("pid")),
    valued(Flag::Socket, &["--socket"], "PATH", "this socket; nothing is looked up").original().offer(Offer::Files),
    valued(Flag::Session, &["--session"], "TEXT", "only sessions whose id or file contains this")
        .original()
        .offer(Offer::Key("sessionId")),
    valued(Flag::Name, &["--name"], "TEXT", "only sessions whose name contains this")
        .original()
        .offer(Offer::Key("sessionName")),
    valued(Flag::Cwd, &["--cwd"], "TEXT", "only sessions whose working directory contains this")
        .original()
        .offer(Offer::Directories),
    valued(Flag::BridgeDir, &["--bridge-dir"], "DIR", "where sessions are registered ($PI_BRIDGE_DIR)")
        .original()
        .offer(Offer::Directories),
    switch(Flag::All, &["--all"], "also what dead processes left behind").original(),
    switch(Flag::Json, &["--json"], "print JSON").original(),
    valued(Flag::Timeout, &["--timeout"], "SECONDS", "longest wait for an answer, 0 = no limit [60]"),
    valued(Flag::RequestId, &["--request-id"], "ID", "the question's requestId").original(),
    valued(Flag::Answers, &["--answers"], "JSON", "one list of labels for each part of the question").original(),
    valued(Flag::Hash, &["--hash"], "HASH", "the hash of the call that waits, as questions shows it"),
    valued(Flag::Reason, &["--reason"], "TEXT", "what the model is told of your reason"),
    switch(Flag::ForSession, &["--for-session"], "also further calls with the same command or file in this session"),
    valued(Flag::Event, &["--event"], "NAME", "only events of this name").original(),
    valued(Flag::Since, &["--since"], "TIME", "only events from this time on (ISO 8601, UTC)").original(),
    valued(Flag::SinceSeq, &["--since-seq"], "N", "only events after the one with this sequence number"),
    valued(Flag::MaxBytes, &["--max-bytes"], "N", "limit of the answer's size in bytes").original(),
    switch(Flag::Raw, &["--raw", "--verbose", "-v"], "with the events' whole content").original(),
    switch(Flag::Auto, &["--auto"], "prompt when idle, steer when busy").original(),
    switch(Flag::Steer, &["--steer"], "into the current work, at its next step").original(),
    switch(Flag::FollowUp, &["--follow-up", "--followUp"], "after the current work").original(),
    switch(Flag::Now, &["--now"], "at once; refused when busy").original(),
    switch(Flag::Stream, &["--stream"], "print the answer as it comes and wait for its end"),
    switch(Flag::Detach, &["--detach"], "do not wait for the answer"),
    valued(Flag::Directory, &["--cwd"], "DIR", "working directory of the new session [the current one]")
        .offer(Offer::Directories),
    valued(Flag::Model, &["--model"], "MODEL", "provider/model[:level]"),
    valued(Flag::Thinking, &["--thinking"], "LEVEL", "thinking level")
        .offer(Offer::OneOf(&["off", "minimal", "low", "medium", "high", "xhigh", "max"])),
    valued(Flag::MaxLifetime, &["--max-lifetime"], "SECONDS", "lifetime, 0 = no end"),
    valued(Flag::From, &["--from"], "NAME", "what you want to be called in lists"),
    switch(Flag::Long, &["--long"], "with the paths of the sockets"),
    valued(Flag::Image, &["--image"], "FILE", "an image that goes with the message; may be given more than once")
        .offer(Offer::Files),
    switch(Flag::Plain, &["--plain"], "plain lines: no line editor, no formatting, nothing that moves"),
    switch(Flag::Help, &["--help", "-h"], "print this, then exit"),
];

/// What a subcommand does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    List,
    State,
    Commands,
    Stream,
    History,
    Send,
    Steer,
    FollowUp,
    Abort,
    Attach,
    Questions,
    Answer,
    Reject,
    Approve,
    Deny,
    Emit,
    Request,
    Run,
    Session,
    Sessions,
    Inspect,
    Top,
    Logs,
    Cancel,
    Stop,
    Drain,
    Undrain,
    Metrics,
    Shutdown,
    Completions,
    Help,
}

/// The words after a subcommand that are no options.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Words {
    None,
    /// At most one, which chooses a session.
    Target,
    /// At most one, which means something else.
    One,
    /// Any number, which make one message.
    Message,
}

/// One subcommand.
#[derive(Debug)]
pub(super) struct VerbRow {
    pub verb: Verb,
    pub name: &'static str,
    pub aliases: &'static [&'static str],
    /// The words in the usage line.
    pub arguments: &'static str,
    pub words: Words,
    /// What a shell offers for a word.
    pub offer: Offer,
    pub flags: &'static [&'static [Flag]],
    /// Whether the first client has it: such a subcommand takes every option that the first client has, used or not.
    pub original: bool,
    /// One line.
    pub help: &'static str,
    /// More lines for the subcommand's own help; may be empty.
    pub notes: &'static str,
}

/// Options that choose a session.
const TARGET: &[Flag] = &[Flag::Pid, Flag::Socket, Flag::Session, Flag::Name, Flag::Cwd, Flag::All];
/// Options that choose a daemon.
const DAEMON: &[Flag] = &[Flag::Pid, Flag::Socket];
const COMMON: &[Flag] = &[Flag::BridgeDir, Flag::Timeout, Flag::Json, Flag::Help];
const DELIVERY: &[Flag] = &[Flag::Auto, Flag::Steer, Flag::FollowUp, Flag::Now];
const CREATION: &[Flag] = &[Flag::Directory, Flag::Model, Flag::Thinking, Flag::MaxLifetime, Flag::From, Flag::Detach];

/// A subcommand of the first client that is asked of a session, with nothing but a target.
const fn session(verb: Verb, name: &'static str, aliases: &'static [&'static str], help: &'static str) -> VerbRow {
    VerbRow {
        verb,
        name,
        aliases,
        arguments: "[TARGET]",
        words: Words::Target,
        offer: Offer::Key("sessionId"),
        flags: &[TARGET, COMMON],
        original: true,
        help,
        notes: TARGET_NOTES,
    }
}

/// A subcommand that takes a message.
const fn message(verb: Verb, name: &'static str, aliases: &'static [&'static str], help: &'static str) -> VerbRow {
    VerbRow {
        verb,
        name,
        aliases,
        arguments: "[TARGET] MESSAGE...",
        words: Words::Message,
        offer: Offer::Nothing,
        flags: &[TARGET, DELIVERY, COMMON],
        original: true,
        help,
        notes: MESSAGE_NOTES,
    }
}

/// A subcommand of our own for a daemon.
const fn daemon(verb: Verb, name: &'static str, flags: &'static [&'static [Flag]], help: &'static str) -> VerbRow {
    VerbRow {
        verb,
        name,
        aliases: &[],
        arguments: "",
        words: Words::None,
        offer: Offer::Nothing,
        flags,
        original: false,
        help,
        notes: "",
    }
}

const TARGET_NOTES: &str = "\
TARGET is a session's id, its name, a part of either, or a process id. Without one, and without the options
that choose, there has to be exactly one session.
";
const MESSAGE_NOTES: &str = "\
The words are joined with spaces; '-' alone reads the message from standard input. Options may stand anywhere, so a
message with words that look like options goes behind '--'.

TARGET is the whole id or name of a session. It is looked for where there are several sessions and no option
chooses one; with one session all words are the message.
";
const CREATION_NOTES: &str = "\
Prints the answer as it comes, and fails if the run fails; --json prints the daemon's records instead, one a line.
The words are joined with spaces; '-' alone reads the message from standard input. A message with words that look like
options goes behind '--'.
";
const ATTACH_NOTES: &str = "\
Shows the session's answers as they come, its tool calls, tokens and cost. What you type is a prompt when the
session is idle, and steers it when it is busy. Questions are asked in place: answer with the number of an
option, several as 1,3, or with a text of your own.

  /help          all commands                    /follow TEXT   after the current work
  /model, /thinking, /name, /compact             change the session
  /queue, /cost, /output N                       what waits, what was used, all of a tool's output
  /abort, Ctrl-C end the current work; Ctrl-C twice, or when idle: leave
  /stop          end the session                 /quit, Ctrl-D  leave; the session goes on

The line is edited with readline's keys; Tab completes, Ctrl-R searches, Alt-Enter begins another line. A pasted text
is one message. Other lines that begin with / are commands of the session, or begin with a path. What is piped in is
sent line by line, and its answers are waited for.
";

const TOP_NOTES: &str = "\
  Up, Down, j, k  choose a row               Enter   attach to it; /quit leads back
  /               filter by any text         < >     sort by another column, r: backwards
  s               stop the session (twice)   q       leave
";

/// All subcommands, in the order of the help.
pub(super) const VERBS: &[VerbRow] = &[
    VerbRow {
        arguments: "",
        words: Words::None,
        offer: Offer::Nothing,
        flags: &[TARGET, &[Flag::Long], COMMON],
        notes: "TODAY is what was spent since midnight UTC, when the budgets of a day begin anew as well.\n",
        ..session(Verb::List, "list", &[], "the table of live sessions and runs")
    },
    session(Verb::State, "state", &[], "what a session is doing"),
    session(Verb::Commands, "commands", &[], "the session's / commands"),
    VerbRow {
        flags: &[TARGET, &[Flag::SinceSeq], COMMON],
        ..session(Verb::Stream, "stream", &[], "print every record as it comes, one JSON object a line")
    },
    VerbRow {
        arguments: "[LIMIT]",
        words: Words::One,
        offer: Offer::Nothing,
        flags: &[TARGET, &[Flag::Raw, Flag::Event, Flag::Since, Flag::SinceSeq, Flag::MaxBytes], COMMON],
        notes: "",
        ..session(Verb::History, "history", &[], "the last events")
    },
    VerbRow {
        flags: &[TARGET, DELIVERY, &[Flag::Stream, Flag::Image], COMMON],
        ..message(Verb::Send, "send", &[], "send a message: a prompt when idle, steering when busy")
    },
    message(Verb::Steer, "steer", &[], "send a message into the current work"),
    message(Verb::FollowUp, "follow-up", &["followUp"], "send a message for after the current work"),
    VerbRow { original: false, ..session(Verb::Abort, "abort", &[], "end the current work") },
    VerbRow {
        original: false,
        flags: &[TARGET, &[Flag::Plain, Flag::BridgeDir, Flag::Timeout, Flag::Help]],
        notes: ATTACH_NOTES,
        ..session(Verb::Attach, "attach", &[], "watch and steer a session in the terminal")
    },
    session(Verb::Questions, "questions", &["question-list"], "the questions that wait for an answer"),
    VerbRow {
        arguments: "--request-id ID JSON",
        words: Words::One,
        offer: Offer::Nothing,
        flags: &[TARGET, &[Flag::RequestId, Flag::Answers], COMMON],
        notes: "JSON is one list of labels for each part of the question, such as [[\"Stop here\"]].\n",
        ..session(Verb::Answer, "answer", &["reply"], "answer a question")
    },
    VerbRow {
        arguments: "--request-id ID",
        words: Words::None,
        offer: Offer::Nothing,
        flags: &[TARGET, &[Flag::RequestId], COMMON],
        notes: "",
        ..session(Verb::Reject, "reject", &[], "reject a question")
    },
    VerbRow {
        arguments: "--request-id ID --hash HASH",
        words: Words::None,
        offer: Offer::Nothing,
        flags: &[TARGET, &[Flag::RequestId, Flag::Hash, Flag::ForSession], COMMON],
        original: false,
        notes: "",
        ..session(Verb::Approve, "approve", &[], "allow a tool's call that waits for an approval")
    },
    VerbRow {
        arguments: "--request-id ID --hash HASH",
        words: Words::None,
        offer: Offer::Nothing,
        flags: &[TARGET, &[Flag::RequestId, Flag::Hash, Flag::Reason], COMMON],
        original: false,
        notes: "",
        ..session(Verb::Deny, "deny", &[], "do not allow it")
    },
    VerbRow {
        arguments: "[MESSAGE...]",
        flags: &[TARGET, COMMON],
        notes: "",
        ..message(Verb::Emit, "emit", &[], "publish a test event; no model is asked")
    },
    VerbRow {
        arguments: "JSON|-",
        words: Words::One,
        offer: Offer::Nothing,
        notes: "'-' reads the request from standard input. An id is added if there is none.\n",
        ..session(Verb::Request, "request", &["raw"], "send a request as it is")
    },
    VerbRow {
        arguments: "MESSAGE...",
        words: Words::Message,
        notes: CREATION_NOTES,
        ..daemon(Verb::Run, "run", &[DAEMON, CREATION, COMMON], "have a daemon work on one prompt and forget it")
    },
    VerbRow {
        arguments: "ID MESSAGE...",
        words: Words::Message,
        notes: CREATION_NOTES,
        ..daemon(Verb::Session, "session", &[DAEMON, CREATION, COMMON], "have a daemon start a session that stays")
    },
    daemon(Verb::Sessions, "sessions", &[DAEMON, COMMON], "the daemon's sessions and runs"),
    VerbRow {
        arguments: "[TARGET]",
        words: Words::Target,
        offer: Offer::Key("sessionId"),
        ..daemon(Verb::Inspect, "inspect", &[TARGET, COMMON], "a session's facts, from its daemon")
    },
    VerbRow {
        notes: TOP_NOTES,
        ..daemon(
            Verb::Top,
            "top",
            &[&[Flag::BridgeDir, Flag::Help]],
            "that table, live, to sort, filter, attach and stop",
        )
    },
    VerbRow {
        arguments: "[TARGET]",
        words: Words::Target,
        offer: Offer::Key("sessionId"),
        notes: "The daemon keeps the last lines of its log about each session; without a TARGET all of them are printed.\n",
        ..daemon(Verb::Logs, "logs", &[TARGET, COMMON], "what the daemon logged about a session")
    },
    VerbRow {
        arguments: "PROMPT-ID",
        words: Words::One,
        notes: "PROMPT-ID is in the queue that inspect shows. What is being worked on is ended with abort.\n",
        ..daemon(Verb::Cancel, "cancel", &[TARGET, COMMON], "take back a prompt that waits")
    },
    VerbRow {
        arguments: "[TARGET]",
        words: Words::Target,
        offer: Offer::Key("sessionId"),
        ..daemon(Verb::Stop, "stop", &[TARGET, COMMON], "end a session")
    },
    VerbRow {
        notes: "Running prompts go on to their end, prompts that wait stay where they are; undrain lets them begin.\n",
        ..daemon(Verb::Drain, "drain", &[DAEMON, COMMON], "let a daemon begin nothing new")
    },
    daemon(Verb::Undrain, "undrain", &[DAEMON, COMMON], "let a daemon begin new work again"),
    VerbRow {
        notes: "Prints them as Prometheus reads them; --json prints the daemon's record.\n",
        ..daemon(Verb::Metrics, "metrics", &[DAEMON, COMMON], "the figures of a daemon")
    },
    VerbRow {
        arguments: "[TARGET]",
        words: Words::Target,
        offer: Offer::Key("sessionId"),
        notes: "With a TARGET, or an option that chooses a session, that session ends; otherwise the daemon does.\n",
        ..daemon(Verb::Shutdown, "shutdown", &[TARGET, COMMON], "end a daemon, or one session")
    },
    VerbRow {
        arguments: "bash|zsh|fish",
        words: Words::One,
        offer: Offer::OneOf(&["bash", "zsh", "fish"]),
        notes: "\
bash: source <(pi-bridge completions bash)
zsh:  pi-bridge completions zsh > DIRECTORY-OF-$fpath/_pi-bridge
fish: pi-bridge completions fish > ~/.config/fish/completions/pi-bridge.fish
",
        ..daemon(Verb::Completions, "completions", &[&[Flag::Help]], "print completions for a shell")
    },
    VerbRow {
        arguments: "[SUBCOMMAND]",
        words: Words::One,
        ..daemon(Verb::Help, "help", &[&[Flag::Help]], "print help")
    },
];

impl Flag {
    /// Its row.
    pub(super) fn row(self) -> &'static FlagRow {
        // Every variant has its row, which a test shows; the first row stands in where that would be broken.
        FLAGS.iter().find(|row| row.flag == self).unwrap_or(&FLAGS[0])
    }
}

impl VerbRow {
    /// Its options, in the order of the help.
    pub(super) fn flags(&self) -> impl Iterator<Item = &'static FlagRow> {
        let flags = self.flags;
        FLAGS.iter().filter(move |row| flags.iter().any(|group| group.contains(&row.flag)))
    }

    /// The option of this name after this subcommand. An option of its own comes before one that it merely takes.
    pub(super) fn flag(&self, name: &str) -> Option<&'static FlagRow> {
        let named = |row: &&FlagRow| row.names.contains(&name);
        self.flags().find(named).or_else(|| FLAGS.iter().filter(|row| self.original && row.original).find(named))
    }

    /// Its name and aliases.
    pub(super) fn names(&self) -> impl Iterator<Item = &'static str> {
        std::iter::once(self.name).chain(self.aliases.iter().copied())
    }
}

/// The subcommand of this name or alias.
pub(super) fn verb(name: &str) -> Option<&'static VerbRow> {
    VERBS.iter().find(|row| row.names().any(|n| n == name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_option_is_used_and_has_its_row() {
        for row in FLAGS {
            assert_eq!(row.flag.row().flag, row.flag);
            assert!(VERBS.iter().any(|verb| verb.flags().any(|f| f.flag == row.flag)), "{:?} is unused", row.flag);
        }
        for verb in VERBS {
            for flag in verb.flags.iter().flat_map(|group| group.iter()) {
                assert_eq!(flag.row().flag, *flag, "{flag:?} of {} has no row", verb.name);
            }
        }
    }

    #[test]
    fn names_are_unique() {
        let mut verbs = HashSet::new();
        for name in VERBS.iter().flat_map(VerbRow::names) {
            assert!(verbs.insert(name), "{name} twice");
        }
        for verb in VERBS {
            let mut flags = HashSet::new();
            for name in verb.flags().flat_map(|row| row.names) {
                assert!(flags.insert(name), "{name} twice after {}", verb.name);
            }
        }
    }

    #[test]
    fn a_word_is_offered_only_where_one_is_taken() {
        for verb in VERBS {
            let taken = matches!(verb.words, Words::Target | Words::One);
            assert!(taken || verb.offer == Offer::Nothing, "{}", verb.name);
            assert_eq!(verb.words == Words::Target, matches!(verb.offer, Offer::Key(_)), "{}", verb.name);
        }
    }

    #[test]
    fn a_subcommands_own_option_comes_first() {
        let flag = |verb_name: &str, name: &str| verb(verb_name).and_then(|v| v.flag(name)).map(|row| row.flag);
        assert_eq!(flag("run", "--cwd"), Some(Flag::Directory));
        assert_eq!(flag("state", "--cwd"), Some(Flag::Cwd));
        assert_eq!(flag("followUp", "--followUp"), Some(Flag::FollowUp));
        assert_eq!(flag("state", "--raw"), Some(Flag::Raw), "taken and not used, as the first client does");
        assert_eq!(flag("run", "--raw"), None);
        assert_eq!(flag("state", "--model"), None);
    }
}
