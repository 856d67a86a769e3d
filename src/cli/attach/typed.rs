//! What a typed line means.

/// What to do with a typed line.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Typed {
    Nothing,
    /// A message, or the answer to a question that is open.
    Text(String),
    /// A command that is for the session.
    Command(String),
    Steer(String),
    FollowUp(String),
    Abort,
    Skip,
    Reject,
    Quit,
    Help,
    /// A command of ours that is not complete; the text says what is missing.
    Incomplete(&'static str),
}

/// Reads a line that a person typed.
pub(super) fn read(line: &str) -> Typed {
    let line = line.trim();
    let (command, text) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let text = text.trim_start();
    match (command, text) {
        ("", _) => Typed::Nothing,
        ("/quit" | "/exit", "") => Typed::Quit,
        ("/abort", "") => Typed::Abort,
        ("/skip", "") => Typed::Skip,
        ("/reject", "") => Typed::Reject,
        ("/help", "") => Typed::Help,
        ("/follow", "") => Typed::Incomplete("/follow needs a text"),
        ("/steer", "") => Typed::Incomplete("/steer needs a text"),
        ("/follow", text) => Typed::FollowUp(text.to_string()),
        ("/steer", text) => Typed::Steer(text.to_string()),
        _ if line.starts_with('/') => Typed::Command(line.to_string()),
        _ => Typed::Text(line.to_string()),
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
            ("/follow", Typed::Incomplete("/follow needs a text")),
            ("/steer  left", Typed::Steer("left".into())),
            ("/skill:x a b", Typed::Command("/skill:x a b".into())),
            ("/followers", Typed::Command("/followers".into())),
            ("a /quit", Typed::Text("a /quit".into())),
        ] {
            assert_eq!(read(line), expected, "{line:?}");
        }
    }
}
