//! What a typed line means.

/// What to do with a typed line.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Typed {
    Nothing,
    /// A message, or the answer to a question that is open.
    Text(String),
    /// A command that is for the session, or a text that begins with a path.
    Command(String),
    Steer(String),
    FollowUp(String),
    Abort,
    Skip,
    Reject,
    Quit,
    Help,
    /// What the model is, or what it shall be; empty for a question. So are the next two.
    Model(String),
    Thinking(String),
    Name(String),
    /// With what the summary shall heed.
    Compact(String),
    /// Ends the session.
    Stop,
    /// Another session.
    Attach(String),
    /// What waits.
    Queue,
    /// Forgets it.
    ClearQueue,
    Cost,
    /// All of a tool's output: that of this number, or the last one.
    Output(Option<usize>),
    /// A command of ours that cannot be done; the text says why.
    Wrong(String),
}

/// A command of ours: its name, what it takes, what it does.
pub(super) const COMMANDS: &[(&str, &str, &str)] = &[
    ("follow", "TEXT", "after the current work"),
    ("steer", "TEXT", "into the current work, also while a question is open"),
    ("abort", "", "end the current work (Ctrl-C)"),
    ("skip", "", "leave a part of a question without an answer"),
    ("reject", "", "answer a question with no"),
    ("model", "[PROVIDER/MODEL]", "the session's model"),
    ("thinking", "[LEVEL]", "how much it thinks: off, minimal, low, medium, high, xhigh, max"),
    ("name", "[TEXT]", "what the session is called"),
    ("compact", "[TEXT]", "make the context smaller now, and what to heed in it"),
    ("queue", "[clear]", "the messages that wait; forget them"),
    ("cost", "", "tokens, cost and context of the session"),
    ("output", "[N]", "all of a tool's output, by default the last one's"),
    ("attach", "TARGET", "another session, by its id or name"),
    ("stop", "", "end the session"),
    ("help", "", "this list"),
    ("quit", "", "leave; the session goes on (Ctrl-D)"),
];

/// The thinking levels, for completion.
pub(super) const LEVELS: [&str; 7] = ["off", "minimal", "low", "medium", "high", "xhigh", "max"];

/// The list of our commands.
pub(super) fn help() -> String {
    let mut out = String::from(
        "-- a line prompts the session, or steers it while it is busy; with a question open, it is the answer\n",
    );
    for (name, takes, does) in COMMANDS {
        out.push_str(&format!("   {:<26} {does}\n", format!("/{name} {takes}")));
    }
    out.push_str(
        "-- other lines that begin with / are commands of the session (Tab lists them), or begin with a path\n",
    );
    out.push_str("-- Alt-Enter begins another line; Up, Down and Ctrl-R find what was typed before\n");
    out
}

/// Reads what a person typed.
pub(super) fn read(line: &str) -> Typed {
    let line = line.trim();
    let (command, text) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let text = text.trim_start();
    let command = match command.strip_prefix('/') {
        None if line.is_empty() => return Typed::Nothing,
        None => return Typed::Text(line.to_string()),
        Some(command) => command,
    };
    let own = |text: &str| text.to_string();
    match (command, text) {
        ("quit" | "exit", "") => Typed::Quit,
        ("abort", "") => Typed::Abort,
        ("skip", "") => Typed::Skip,
        ("reject", "") => Typed::Reject,
        ("help", "") => Typed::Help,
        ("stop", "") => Typed::Stop,
        ("cost", "") => Typed::Cost,
        ("queue", "") => Typed::Queue,
        ("queue", "clear") => Typed::ClearQueue,
        ("follow" | "steer", "") => Typed::Wrong(format!("/{command} needs a text")),
        ("attach", "") => Typed::Wrong("/attach needs the id or the name of a session".into()),
        ("attach", target) => Typed::Attach(own(target)),
        ("follow", text) => Typed::FollowUp(own(text)),
        ("steer", text) => Typed::Steer(own(text)),
        ("model", text) => Typed::Model(own(text)),
        ("thinking", text) => Typed::Thinking(own(text)),
        ("name", text) => Typed::Name(own(text)),
        ("compact", text) => Typed::Compact(own(text)),
        ("output", "") => Typed::Output(None),
        ("output", text) => match text.parse() {
            Ok(number) => Typed::Output(Some(number)),
            Err(_) => Typed::Wrong("/output takes the number that stands beside what was left out".into()),
        },
        _ => Typed::Command(own(line)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        for (line, expected) in [
            ("", Typed::Nothing),
            ("  \t", Typed::Nothing),
            (" fix  it ", Typed::Text("fix  it".into())),
            ("1,3", Typed::Text("1,3".into())),
            ("/quit", Typed::Quit),
            ("/abort ", Typed::Abort),
            ("/abort now", Typed::Command("/abort now".into())),
            ("/follow then test", Typed::FollowUp("then test".into())),
            ("/follow", Typed::Wrong("/follow needs a text".into())),
            ("/steer  left", Typed::Steer("left".into())),
            ("/skill:x a b", Typed::Command("/skill:x a b".into())),
            ("/followers", Typed::Command("/followers".into())),
            ("/etc/hosts is odd", Typed::Command("/etc/hosts is odd".into())),
            ("a /quit", Typed::Text("a /quit".into())),
            ("/model", Typed::Model(String::new())),
            ("/model a/b:high", Typed::Model("a/b:high".into())),
            ("/name two words", Typed::Name("two words".into())),
            ("/queue", Typed::Queue),
            ("/queue clear", Typed::ClearQueue),
            ("/output 12", Typed::Output(Some(12))),
            ("/output", Typed::Output(None)),
            ("one\n/quit", Typed::Text("one\n/quit".into())),
        ] {
            assert_eq!(read(line), expected, "{line:?}");
        }
        assert!(matches!(read("/output x"), Typed::Wrong(_)));
    }

    #[test]
    fn the_help_names_every_command() {
        for (name, takes, _) in COMMANDS {
            assert!(help().contains(&format!("/{name} {takes}")));
            let line = if takes.starts_with('T') { format!("/{name} x") } else { format!("/{name}") };
            assert!(!matches!(read(&line), Typed::Command(_) | Typed::Wrong(_)), "{name}");
        }
    }
}
