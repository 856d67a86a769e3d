//! A question of the session, asked part by part.

use super::approval;
use crate::cli::output::printable;
use serde_json::{Value, json};

/// A question that waits for an answer.
#[derive(Debug)]
pub(super) struct Question {
    pub id: String,
    /// For an approval: the hash of its call.
    pub hash: Option<String>,
    parts: Vec<Part>,
    /// The answers to the parts so far.
    answers: Vec<Vec<String>>,
}

#[derive(Debug)]
struct Part {
    header: String,
    question: String,
    /// Label and description.
    options: Vec<(String, String)>,
    multiple: bool,
    allow_custom: bool,
}

/// What an answer to a part leads to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reply {
    /// It is none; the text says why.
    Again(String),
    /// The next part is to be asked.
    Next,
    /// All parts are answered: the labels of each.
    Done(Value),
}

impl Question {
    /// Reads an entry of the list of questions, or the data of the event that opened one.
    pub(super) fn read(entry: &Value) -> Option<Question> {
        let hash = approval::hash(entry);
        let entry = if hash.is_some() { &approval::as_question(entry) } else { entry };
        let text = |value: &Value| value.as_str().unwrap_or_default().to_string();
        let part = |value: &Value| Part {
            header: text(&value["header"]),
            question: text(&value["question"]),
            options: value["options"]
                .as_array()
                .into_iter()
                .flatten()
                .map(|option| (text(&option["label"]), text(&option["description"])))
                .collect(),
            multiple: value["multiple"] == true,
            allow_custom: value["allowCustom"] != false,
        };
        let parts: Vec<Part> = entry["request"]["questions"].as_array()?.iter().map(part).collect();
        let id = entry["requestId"].as_str()?.to_string();
        (!parts.is_empty()).then_some(Question { id, hash, parts, answers: Vec::new() })
    }

    /// The part that is to be asked now, as it is shown.
    pub(super) fn ask(&self) -> String {
        let Some(part) = self.parts.get(self.answers.len()) else { return String::new() };
        let mut out = format!("? {}", part.question);
        if !part.header.is_empty() {
            out.push_str(&format!(" [{}]", part.header));
        }
        if self.parts.len() > 1 {
            out.push_str(&format!(" ({} of {})", self.answers.len() + 1, self.parts.len()));
        }
        for (number, (label, description)) in part.options.iter().enumerate() {
            out.push_str(&format!("\n  {}) {label}", number + 1));
            if !description.is_empty() {
                out.push_str(&format!(" - {description}"));
            }
        }
        let numbers = if part.multiple { "numbers such as 1,3" } else { "a number" };
        let custom = if part.allow_custom { ", or a text of your own" } else { "" };
        out.push_str(&format!("\n  ({numbers}{custom}; /skip, /reject)\n"));
        printable(&out).into_owned()
    }

    /// Takes the answer to the part that was asked.
    pub(super) fn answer(&mut self, line: &str) -> Reply {
        let Some(part) = self.parts.get(self.answers.len()) else { return self.proceed() };
        match part.labels(line.trim()) {
            Ok(labels) => {
                self.answers.push(labels);
                self.proceed()
            }
            Err(why) => Reply::Again(why),
        }
    }

    /// Leaves the part that was asked without an answer.
    pub(super) fn skip(&mut self) -> Reply {
        self.answers.push(Vec::new());
        self.proceed()
    }

    fn proceed(&self) -> Reply {
        if self.answers.len() < self.parts.len() { Reply::Next } else { Reply::Done(json!(self.answers)) }
    }
}

impl Part {
    /// The labels that a typed line stands for.
    fn labels(&self, line: &str) -> Result<Vec<String>, String> {
        let count = self.options.len();
        let range = if count == 1 { "1".to_string() } else { format!("a number from 1 to {count}") };
        if line.is_empty() {
            return Err(format!("type {range}, or /skip"));
        }
        if let Some((label, _)) = self.options.iter().find(|(label, _)| label == line) {
            return Ok(vec![label.clone()]);
        }
        let words = || line.split([',', ' ', '\t']).filter(|word| !word.is_empty());
        if !line.bytes().all(|b| b.is_ascii_digit() || matches!(b, b',' | b' ' | b'\t')) || words().next().is_none() {
            return match self.allow_custom {
                true => Ok(vec![line.to_string()]),
                false => Err(format!("type {range}")),
            };
        }
        let mut labels = Vec::new();
        for word in words() {
            let option = word.parse::<usize>().ok().and_then(|number| self.options.get(number.checked_sub(1)?));
            let Some((label, _)) = option else { return Err(format!("{word} is not {range}")) };
            if !labels.contains(label) {
                labels.push(label.clone());
            }
        }
        if labels.len() > 1 && !self.multiple {
            return Err("only one can be chosen".to_string());
        }
        Ok(labels)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(multiple: bool, custom: bool) -> Value {
        json!({"header": "Way", "question": "Which way?", "multiple": multiple, "allowCustom": custom,
            "options": [{"label": "Left", "description": ""}, {"label": "Right", "description": "the \u{1b}long one"},
                {"label": "42", "description": ""}]})
    }

    fn question(parts: &[Value]) -> Question {
        Question::read(&json!({"requestId": "q1", "request": {"questions": parts}})).expect("a question")
    }

    #[test]
    fn answers() {
        let again = |text: &str| Reply::Again(text.to_string());
        for (multiple, custom, line, expected) in [
            (false, true, "1", Reply::Done(json!([["Left"]]))),
            (false, true, " 2 ", Reply::Done(json!([["Right"]]))),
            (false, true, "Right", Reply::Done(json!([["Right"]]))),
            (false, true, "42", Reply::Done(json!([["42"]]))),
            (false, true, "straight on", Reply::Done(json!([["straight on"]]))),
            (false, false, "straight on", again("type a number from 1 to 3")),
            (false, true, "0", again("0 is not a number from 1 to 3")),
            (false, true, "4", again("4 is not a number from 1 to 3")),
            (false, true, "99999999999999999999999", again("99999999999999999999999 is not a number from 1 to 3")),
            (false, true, "1,2", again("only one can be chosen")),
            (false, true, "1,1", Reply::Done(json!([["Left"]]))),
            (false, true, "", again("type a number from 1 to 3, or /skip")),
            (true, true, "1,2,1", Reply::Done(json!([["Left", "Right"]]))),
            (true, true, " 2 1 ", Reply::Done(json!([["Right", "Left"]]))),
            (true, true, "1,9", again("9 is not a number from 1 to 3")),
            (true, true, "1, then 2", Reply::Done(json!([["1, then 2"]]))),
            (true, true, ",", Reply::Done(json!([[","]]))),
        ] {
            assert_eq!(question(&[part(multiple, custom)]).answer(line), expected, "{multiple} {custom} {line:?}");
        }
    }

    #[test]
    fn parts_are_asked_one_after_the_other() {
        let mut question = question(&[part(false, true), part(true, false)]);
        assert!(question.ask().contains("Which way? [Way] (1 of 2)\n  1) Left\n  2) Right - the ?long one\n"));
        assert_eq!(question.answer("1"), Reply::Next);
        assert!(question.ask().contains("(2 of 2)"));
        assert!(question.ask().contains("(numbers such as 1,3; /skip, /reject)"));
        assert_eq!(question.skip(), Reply::Done(json!([["Left"], []])));
    }

    #[test]
    fn what_is_no_question_is_none() {
        for entry in [json!({}), json!({"requestId": "q", "request": {"questions": []}}), json!({"request": {}})] {
            assert!(Question::read(&entry).is_none(), "{entry}");
        }
    }
}
