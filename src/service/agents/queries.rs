//! Questions in the middle of an answer: the session's pending questions, put to the caller who waits for the answer, on a
//! subject made for that.

use super::chunks;
use crate::contract::control::{Control, Settlement};
use crate::nats::{Connection, Message, Subscription};
use crate::service::control::SOURCE;
use crate::service::intake;
use crate::service::waiting_room::WaitingRoom;
use crate::sync::lock;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

/// The questions of one session that wait for an answer of a caller.
pub(crate) struct Queries {
    connection: Connection,
    /// Where answers go: to the session, with its other requests.
    to: Arc<WaitingRoom>,
    /// By the subject that the answer comes to.
    open: Mutex<HashMap<String, Query>>,
}

struct Query {
    id: String,
    /// What is asked: an object with `questions`.
    request: Value,
    /// For an approval: the hash of its call.
    hash: Option<String>,
    _subscription: Subscription,
}

/// An answer to a question of the session.
#[derive(Debug, PartialEq)]
pub(crate) struct QueryAnswer {
    /// The question's id.
    pub id: String,
    /// A list of labels for each part of the question.
    pub answers: Value,
    /// For an approval: the hash of its call.
    pub hash: Option<String>,
}

/// The answers to an approval.
const ALLOW: &str = "Allow";
const DENY: &str = "Deny";

impl QueryAnswer {
    /// What is asked of the session.
    pub(crate) fn into_control(self) -> Control {
        let Some(hash) = self.hash else {
            return Control::Answer { id: self.id, answers: self.answers, source: SOURCE };
        };
        let said = self.answers[0][0].as_str().unwrap_or_default().to_owned();
        let allow = said == ALLOW;
        // Any other words are a no, and say why.
        let reason = Some(said).filter(|said| !allow && said != DENY);
        Control::Approve(Settlement {
            id: self.id,
            hash,
            allow,
            for_session: false,
            reason,
            source: SOURCE,
            sender: None,
        })
    }
}

/// An approval as a question.
fn approval(request: &Value) -> Value {
    let text = |key: &str| request[key].as_str().unwrap_or_default();
    let rule = request["rule"].as_str().map_or_else(String::new, |rule| format!(" (rule: {rule})"));
    let question = format!("Allow {} {}{rule}?", text("tool"), request["arguments"]);
    json!({"questions": [{"question": question, "options": [{"label": ALLOW}, {"label": DENY}]}]})
}

impl Queries {
    pub(crate) fn new(connection: &Connection, to: Arc<WaitingRoom>) -> Queries {
        Queries { connection: connection.clone(), to, open: Mutex::default() }
    }

    fn open_queries(&self) -> MutexGuard<'_, HashMap<String, Query>> {
        lock(&self.open)
    }

    /// Opens a way to answer a question; returns the message that asks it, if there can be one.
    pub(crate) fn open(&self, id: &str, request: &Value) -> Option<String> {
        let inbox = self.connection.new_inbox();
        let subscription = self.connection.subscribe(&inbox, None, self.to.clone()).ok()?;
        let hash = request["hash"].as_str().map(str::to_owned);
        let request = if hash.is_some() { approval(request) } else { request.clone() };
        let message = chunks::query(id, &inbox, &prompt(&request));
        let query = Query { id: id.to_string(), request, hash, _subscription: subscription };
        self.open_queries().insert(inbox, query);
        Some(message)
    }

    /// A question is settled, whoever did it.
    pub(crate) fn close(&self, id: &str) {
        self.open_queries().retain(|_, query| query.id != id);
    }

    /// Reads a message that came to the subject of a question. The question stays open until the session settles it, so
    /// that an answer that does not fit is no harm.
    pub(crate) fn read(&self, message: &Message) -> Option<QueryAnswer> {
        let open = self.open_queries();
        let query = open.get(&message.subject)?;
        let text = intake::parse_prompt(&message.payload).map(|request| request.text).unwrap_or_default();
        Some(QueryAnswer { id: query.id.clone(), answers: answers(&query.request, &text), hash: query.hash.clone() })
    }
}

fn questions(request: &Value) -> &[Value] {
    request["questions"].as_array().map_or(&[], Vec::as_slice)
}

fn options(question: &Value) -> &[Value] {
    question["options"].as_array().map_or(&[], Vec::as_slice)
}

/// The question as a person reads it.
fn prompt(request: &Value) -> String {
    let mut text = String::new();
    let parts = questions(request);
    for question in parts {
        if !text.is_empty() {
            text.push('\n');
        }
        text.push_str(question["question"].as_str().unwrap_or_default());
        for (number, option) in (1..).zip(options(question)) {
            text.push_str(&format!("\n{number}. {}", option["label"].as_str().unwrap_or_default()));
            if let Some(description) = option["description"].as_str().filter(|text| !text.is_empty()) {
                text.push_str(&format!(": {description}"));
            }
        }
        if question["multiple"] == true {
            text.push_str("\n(several, separated by commas)");
        }
        text.push('\n');
    }
    if parts.len() > 1 {
        text.push_str("\nAnswer with one line for each question.");
    }
    text.trim_end().to_string()
}

/// The answers in a text: the lists themselves as JSON, or a line for each question with numbers or labels of options, or
/// anything else as a custom answer. Whether they are allowed is for the session to say.
fn answers(request: &Value, text: &str) -> Value {
    if let Ok(lists @ Value::Array(_)) = serde_json::from_str(text.trim()) {
        return lists;
    }
    let parts = questions(request);
    if let [question] = parts {
        return json!([answer(question, text)]);
    }
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    (0..parts.len().max(lines.len()))
        .map(|at| match (parts.get(at), lines.get(at)) {
            (Some(question), Some(line)) => answer(question, line),
            (None, Some(line)) => vec![(*line).to_string()],
            (_, None) => Vec::new(),
        })
        .collect()
}

fn answer(question: &Value, text: &str) -> Vec<String> {
    let label = |text: &str| -> Option<String> {
        let labels: Vec<&str> = options(question).iter().filter_map(|option| option["label"].as_str()).collect();
        let number: Option<usize> = text.parse().ok();
        let named = labels.iter().find(|label| label.trim().eq_ignore_ascii_case(text));
        let numbered = || labels.get(number?.checked_sub(1)?);
        named.or_else(numbered).map(|label| (*label).to_string())
    };
    let text = text.trim();
    let several = || text.split(',').map(|part| label(part.trim())).collect::<Option<Vec<String>>>();
    match label(text) {
        Some(found) => vec![found],
        None if text.is_empty() => Vec::new(),
        None if question["multiple"] == true => several().unwrap_or_else(|| vec![text.to_string()]),
        None => vec![text.to_string()],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> Value {
        json!({"questions": [
            {"question": "Deploy?", "options": [{"label": "Yes", "description": "now"}, {"label": "No", "description": ""}]},
            {"question": "Where?", "multiple": true, "options": [{"label": "eu"}, {"label": "us"}, {"label": "2"}]},
        ]})
    }

    #[test]
    fn a_question_is_readable() {
        assert_eq!(
            prompt(&request()),
            "Deploy?\n1. Yes: now\n2. No\n\nWhere?\n1. eu\n2. us\n3. 2\n(several, separated by commas)\n\nAnswer with \
             one line for each question."
        );
        assert_eq!(prompt(&json!({})), "");
    }

    #[test]
    fn answers_are_numbers_labels_lists_or_free_text() {
        let one = json!({"questions": [request()["questions"][0]]});
        for (text, expected) in [
            ("1", json!([["Yes"]])),
            (" yes\n", json!([["Yes"]])),
            ("No", json!([["No"]])),
            ("3", json!([["3"]])),
            ("0", json!([["0"]])),
            ("maybe,\nlater", json!([["maybe,\nlater"]])),
            ("", json!([[]])),
            (r#"[["No"]]"#, json!([["No"]])),
        ] {
            assert_eq!(answers(&one, text), expected, "{text:?}");
        }
        for (text, expected) in [
            ("1\n1,3", json!([["Yes"], ["eu", "2"]])),
            ("No\n2", json!([["No"], ["2"]])),
            ("No\nus, EU", json!([["No"], ["us", "eu"]])),
            ("No\nus, moon", json!([["No"], ["us, moon"]])),
            ("No", json!([["No"], []])),
            ("1\n2\n3", json!([["Yes"], ["2"], ["3"]])),
        ] {
            assert_eq!(answers(&request(), text), expected, "{text:?}");
        }
    }
}
