//! What tools gave back: first and last lines at once, all of it when asked for.

use crate::cli::connection::Record;
use crate::cli::output::printable;
use crate::cli::style::{Role, Style};
use serde_json::Value;
use std::collections::VecDeque;

/// Lines of an output that are shown at its begin and at its end.
const FIRST: usize = 3;
const LAST: usize = 3;
/// Lines of a diff that are shown.
const DIFF: usize = 40;
/// How much of a line is shown, characters.
const LINE: usize = 200;
/// Outputs that can be asked for by their number.
const KEPT: usize = 100;
/// The largest output that is kept here, bytes; larger ones are asked of the session.
const KEPT_TEXT: usize = 16 * 1024;

/// The output of one call.
pub(super) struct Output {
    pub number: usize,
    pub label: String,
    /// The number of its event, by which the session knows it.
    pub seq: Option<u64>,
    /// All of it, if it is small.
    text: Option<String>,
}

/// The outputs of the last calls.
#[derive(Default)]
pub(super) struct Outputs {
    kept: VecDeque<Output>,
    count: usize,
}

impl Outputs {
    /// Takes up the end of a call; returns its number.
    pub(super) fn add(&mut self, label: &str, event: &Record) -> usize {
        let data = event.get("data").unwrap_or(&Value::Null);
        self.count += 1;
        if self.kept.len() == KEPT {
            self.kept.pop_front();
        }
        self.kept.push_back(Output {
            number: self.count,
            label: label.to_string(),
            seq: event.get("seq").and_then(Value::as_u64),
            text: text_of(data).filter(|text| text.len() <= KEPT_TEXT),
        });
        self.count
    }

    /// The output of this number, or the last one.
    pub(super) fn find(&self, number: Option<usize>) -> Option<&Output> {
        match number {
            Some(number) => self.kept.iter().find(|output| output.number == number),
            None => self.kept.back(),
        }
    }
}

impl Output {
    /// All of it, as it is shown; absent where it has to be asked for.
    pub(super) fn whole(&self) -> Option<String> {
        Some(whole(&self.label, self.text.as_deref()?))
    }
}

/// An output as a whole.
pub(super) fn whole(label: &str, text: &str) -> String {
    let text = printable(text.trim_end_matches('\n'));
    format!("{label}\n{text}\n")
}

/// The text of a call's result; absent where the event leaves it out because of its size.
pub(super) fn text_of(data: &Value) -> Option<String> {
    let blocks = data["result"]["content"].as_array()?;
    let text = |block: &Value| match block["type"].as_str() {
        Some("image") => Some("[image]".to_string()),
        _ => block["text"].as_str().map(str::to_string),
    };
    Some(blocks.iter().filter_map(text).collect::<Vec<_>>().join("\n"))
}

/// What of a call's result is shown below its line.
pub(super) fn excerpt(style: Style, data: &Value, number: usize) -> String {
    match data["result"]["details"]["diff"].as_str() {
        Some(diff) if data["isError"] != true => changes(style, diff, number),
        _ => match text_of(data) {
            Some(text) => ends(style, &text, number),
            None => match data["resultPreview"].as_str() {
                // The preview is that of JSON text, which is no use to a person but for its size.
                Some(_) => style.paint(Role::Quiet, &format!("    {} bytes (/output {number})\n", data["resultBytes"])),
                None => String::new(),
            },
        },
    }
}

/// The first and the last lines of an output.
fn ends(style: Style, text: &str, number: usize) -> String {
    let lines: Vec<&str> = text.trim_end().lines().collect();
    let hidden = lines.len().saturating_sub(FIRST + LAST);
    // A sign in place of a single line would save nothing.
    let hidden = if hidden == 1 { 0 } else { hidden };
    let mut out = String::new();
    for (at, line) in lines.iter().enumerate() {
        if hidden > 0 && at == FIRST {
            out.push_str(&format!("    ... {hidden} more lines (/output {number})\n"));
        }
        if hidden == 0 || at < FIRST || at >= FIRST + hidden {
            out.push_str(&format!("    {}\n", short(line)));
        }
    }
    style.paint(Role::Quiet, &out)
}

/// What an edit changed.
fn changes(style: Style, diff: &str, number: usize) -> String {
    let lines: Vec<&str> = diff.lines().collect();
    let mut out = String::new();
    for line in lines.iter().take(DIFF) {
        let role = match line.as_bytes().first() {
            Some(b'+') => Role::Added,
            Some(b'-') => Role::Removed,
            _ => Role::Quiet,
        };
        out.push_str(&format!("    {}\n", style.paint(role, &short(line))));
    }
    if lines.len() > DIFF {
        let more = format!("    ... {} more lines (/output {number})\n", lines.len() - DIFF);
        out.push_str(&style.paint(Role::Quiet, &more));
    }
    out
}

fn short(line: &str) -> String {
    let shown = printable(line);
    match shown.char_indices().nth(LINE) {
        Some((end, _)) => format!("{}...", &shown[..end]),
        None => shown.into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn result(text: &str) -> Value {
        json!({"result": {"content": [{"type": "text", "text": text}]}})
    }

    #[test]
    fn both_ends_of_an_output_are_shown() {
        let numbered = |count: usize| (1..=count).map(|n| format!("{n}\n")).collect::<String>();
        let shown = |count| excerpt(Style::default(), &result(&numbered(count)), 4);
        assert_eq!(shown(0), "");
        assert_eq!(shown(2), "    1\n    2\n");
        assert_eq!(shown(7), (1..=7).map(|n| format!("    {n}\n")).collect::<String>());
        assert_eq!(shown(8), "    1\n    2\n    3\n    ... 2 more lines (/output 4)\n    6\n    7\n    8\n");
        let cut = json!({"resultBytes": 9000, "resultPreview": "{"});
        assert_eq!(excerpt(Style::default(), &cut, 4), "    9000 bytes (/output 4)\n");
        assert_eq!(excerpt(Style::default(), &result(&"x".repeat(300)), 1).len(), 4 + LINE + 3 + 1);
    }

    #[test]
    fn edits_are_shown_as_changes() {
        let style = Style { emphasis: true, colour: true };
        let data = json!({"result": {"content": [], "details": {"diff": "-1 a\n+1 b\n 2 c"}}});
        assert_eq!(
            excerpt(style, &data, 1),
            "    \x1b[31m-1 a\x1b[39m\n    \x1b[32m+1 b\x1b[39m\n    \x1b[2m 2 c\x1b[22m\n"
        );
        let long = json!({"result": {"details": {"diff": "+x\n".repeat(50)}}});
        assert!(excerpt(Style::default(), &long, 7).ends_with("    +x\n    ... 10 more lines (/output 7)\n"));
        let mut failed = result("not found");
        failed["result"]["details"] = json!({"diff": "+x"});
        failed["isError"] = json!(true);
        assert_eq!(excerpt(Style::default(), &failed, 1), "    not found\n");
    }

    #[test]
    fn outputs_are_found_by_their_number() {
        let mut outputs = Outputs::default();
        assert!(outputs.find(None).is_none());
        for number in 1..=KEPT + 5 {
            let Value::Object(event) = json!({"seq": number, "data": result(&number.to_string())}) else {
                unreachable!()
            };
            assert_eq!(outputs.add("[bash] x", &event), number);
        }
        assert!(outputs.find(Some(5)).is_none() && outputs.find(Some(0)).is_none());
        let whole = |number| outputs.find(number).and_then(Output::whole);
        assert_eq!(whole(Some(6)).as_deref(), Some("[bash] x\n6\n"));
        assert_eq!(whole(None).as_deref(), Some("[bash] x\n105\n"));
    }
}
