//! Questions that a session has put to people, and their answers.
//!
//! The book of questions belongs to the session's actor. Whoever asked waits on its own thread for the result; whoever
//! answers, over whatever wire, is told at once whether the answer was taken. The first valid answer counts.
//!
//! Answers that are no option are allowed unless a question says `allowCustom: false`. Later versions of the protocol
//! ignore that word, as people were trapped by incomplete options; the first version honours it, and so do we, since a
//! program that asks for a closed choice has to get one.

use crate::clock::iso_time;
use crate::ids;
use serde_json::{Map, Value, json};

/// Questions that may be open in one session at a time, so that nobody fills its memory by asking.
const MAX_OPEN: usize = 64;

/// The open questions of one session, oldest first.
#[derive(Debug, Default)]
pub(super) struct Questions {
    open: Vec<Question>,
}

#[derive(Debug)]
struct Question {
    id: String,
    opened_at: String,
    /// Unix time in milliseconds after which nobody waits for the answer any more.
    deadline: Option<i64>,
    /// In its normal form.
    request: Value,
}

/// A question was opened.
#[derive(Debug, PartialEq)]
pub(super) struct Opened {
    pub id: String,
    /// Data of the event `question`.
    pub event: Value,
}

/// A question was answered or rejected.
#[derive(Debug, PartialEq)]
pub(super) struct Settled {
    pub id: String,
    /// Data of the event `question`.
    pub event: Value,
    /// For who asked: `{requestId, answers}`, or `{requestId, cancelled: true, error?}`.
    pub result: Value,
}

impl Questions {
    /// Opens a question. `source` says who asks (`tool`, `api`), `now` is Unix time in milliseconds, and after `deadline`
    /// [`Questions::expire`] rejects it.
    ///
    /// # Errors
    /// What is wrong with the request.
    pub(super) fn open(
        &mut self,
        request: Value,
        source: &str,
        now: i64,
        deadline: Option<i64>,
    ) -> Result<Opened, String> {
        let request = normalize(request)?;
        let id = request["id"].as_str().unwrap_or_default().to_owned();
        if self.open.iter().any(|question| question.id == id) {
            return Err(format!("Question request already pending: {id}"));
        }
        if self.open.len() >= MAX_OPEN {
            return Err(format!("Too many questions are pending: {MAX_OPEN}"));
        }
        let opened_at = iso_time(now);
        let event =
            json!({"action": "opened", "requestId": id, "openedAt": opened_at, "source": source, "request": request});
        self.open.push(Question { id: id.clone(), opened_at, deadline, request });
        Ok(Opened { id, event })
    }

    /// `{available: true, questions: [{requestId, openedAt, request}]}`, oldest first.
    pub(super) fn list(&self) -> Value {
        let questions: Vec<Value> = self
            .open
            .iter()
            .map(|q| json!({"requestId": q.id, "openedAt": q.opened_at, "request": q.request}))
            .collect();
        json!({"available": true, "questions": questions})
    }

    /// The question is open.
    pub(super) fn has(&self, id: &str) -> bool {
        self.find(id).is_ok()
    }

    /// Settles a question with one list of labels per tab.
    ///
    /// # Errors
    /// What is wrong with the answer; the question stays open.
    pub(super) fn answer(&mut self, id: &str, answers: &Value, source: &str, now: i64) -> Result<Settled, String> {
        let at = self.find(id)?;
        let answers = check(&self.open[at].request, answers)?;
        Ok(self.settle(at, "answered", json!({"answers": answers}), source, now))
    }

    /// Settles a question without an answer.
    ///
    /// # Errors
    /// There is no such question.
    pub(super) fn reject(&mut self, id: &str, source: &str, now: i64) -> Result<Settled, String> {
        let at = self.find(id)?;
        Ok(self.settle(at, "rejected", json!({"cancelled": true}), source, now))
    }

    /// Settles every question without an answer, oldest first.
    pub(super) fn reject_all(&mut self, source: &str, now: i64) -> Vec<Settled> {
        let mut settled = Vec::new();
        while !self.open.is_empty() {
            settled.push(self.settle(0, "rejected", json!({"cancelled": true}), source, now));
        }
        settled
    }

    /// Settles the questions whose time is up.
    pub(super) fn expire(&mut self, now: i64) -> Vec<Settled> {
        let mut settled = Vec::new();
        while let Some(at) = self.open.iter().position(|q| q.deadline.is_some_and(|deadline| deadline <= now)) {
            let outcome = json!({"cancelled": true, "error": "nobody answered in time"});
            settled.push(self.settle(at, "rejected", outcome, "tool", now));
        }
        settled
    }

    /// When [`Questions::expire`] has something to do next, Unix time in milliseconds.
    pub(super) fn deadline(&self) -> Option<i64> {
        self.open.iter().filter_map(|question| question.deadline).min()
    }

    fn find(&self, id: &str) -> Result<usize, String> {
        let id = id.trim();
        let at = self.open.iter().position(|question| question.id == id);
        at.ok_or_else(|| format!("No pending question request: {id}"))
    }

    fn settle(&mut self, at: usize, action: &str, outcome: Value, source: &str, now: i64) -> Settled {
        let Question { id, opened_at, request, .. } = self.open.remove(at);
        let mut result = json!({"requestId": id});
        if let (Value::Object(result), Value::Object(outcome)) = (&mut result, outcome) {
            result.extend(outcome);
        }
        let event = json!({"action": action, "requestId": id, "openedAt": opened_at, "closedAt": iso_time(now),
            "source": source, "request": request, "result": result});
        Settled { id, event, result }
    }
}

/// The text of a field, trimmed; none if it is blank or no text.
fn text<'v>(fields: &'v Map<String, Value>, name: &str) -> Option<&'v str> {
    fields.get(name).and_then(Value::as_str).map(str::trim).filter(|text| !text.is_empty())
}

/// A request in its normal form: `{id, header, questions: [{allowCustom, customLabel, customPlaceholder, header, multiple,
/// options: [{description, label}], question}]}`.
fn normalize(request: Value) -> Result<Value, String> {
    let Value::Object(request) = request else { return Err("question request must be an object".into()) };
    let given = request.get("questions").and_then(Value::as_array).filter(|questions| !questions.is_empty());
    let Some(given) = given else { return Err("questions must be a non-empty array".into()) };
    let tabs: Vec<Value> =
        given.iter().enumerate().map(|(at, tab)| normalize_tab(at, tab)).collect::<Result<_, _>>()?;
    let id = text(&request, "id").map_or_else(|| format!("que_{}", ids::nuid()), str::to_owned);
    let header = text(&request, "header").or_else(|| text(&request, "title")).map(Value::from);
    let header = header.unwrap_or_else(|| tabs[0]["header"].clone());
    Ok(json!({"id": id, "header": header, "questions": tabs}))
}

fn normalize_tab(at: usize, tab: &Value) -> Result<Value, String> {
    let nothing = Map::new();
    let tab = tab.as_object().unwrap_or(&nothing);
    let given = tab.get("options").and_then(Value::as_array).filter(|options| !options.is_empty());
    let Some(given) = given else { return Err(format!("questions[{at}].options must be a non-empty array")) };
    let mut labels: Vec<&str> = Vec::new();
    let mut options = Vec::new();
    for (number, option) in given.iter().enumerate() {
        let option = option.as_object().unwrap_or(&nothing);
        let Some(label) = text(option, "label") else {
            return Err(format!("questions[{at}].options[{number}].label is required"));
        };
        if labels.contains(&label) {
            return Err(format!("Duplicate option label in questions[{at}]: {label}"));
        }
        labels.push(label);
        options.push(json!({"description": text(option, "description").unwrap_or_default(), "label": label}));
    }
    Ok(json!({
        "allowCustom": tab.get("allowCustom") != Some(&Value::Bool(false)),
        "customLabel": text(tab, "customLabel").unwrap_or("Something else"),
        "customPlaceholder": text(tab, "customPlaceholder").unwrap_or("Type your answer, then press enter."),
        "header": text(tab, "header").map_or_else(|| format!("Question {}", at + 1), str::to_owned),
        "multiple": tab.get("multiple") == Some(&Value::Bool(true)),
        "options": options,
        "question": text(tab, "question").unwrap_or("Choose an option."),
    }))
}

/// The answers in their normal form: trimmed, without blanks and repetitions. An empty list is an answer, too: nothing was
/// chosen.
fn check(request: &Value, answers: &Value) -> Result<Vec<Vec<String>>, String> {
    let Some(answers) = answers.as_array() else {
        return Err("answers must be an array of per-tab label arrays".into());
    };
    let tabs = request["questions"].as_array().map(Vec::as_slice).unwrap_or_default();
    if answers.len() != tabs.len() {
        return Err(format!("answers length ({}) must match questions length ({})", answers.len(), tabs.len()));
    }
    tabs.iter().zip(answers).enumerate().map(|(at, (tab, answer))| check_tab(at, tab, answer)).collect()
}

fn check_tab(at: usize, tab: &Value, answer: &Value) -> Result<Vec<String>, String> {
    let Some(entries) = answer.as_array() else { return Err(format!("answers[{at}] must be an array")) };
    let options = tab["options"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut chosen: Vec<String> = Vec::new();
    for entry in entries {
        let Some(label) = entry.as_str() else { return Err(format!("answers[{at}] entries must be strings")) };
        let label = label.trim();
        if label.is_empty() || chosen.iter().any(|known| known == label) {
            continue;
        }
        if tab["allowCustom"] == false && !options.iter().any(|option| option["label"] == label) {
            return Err(format!("answers[{at}] contains invalid label: {label}"));
        }
        chosen.push(label.to_owned());
    }
    if chosen.len() > 1 && tab["multiple"] != true {
        return Err(format!("answers[{at}] accepts only one label because multiple=false"));
    }
    Ok(chosen)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-01-01T00:00:00Z.
    const NOW: i64 = 1_767_225_600_000;

    fn request(tab: Value) -> Value {
        json!({"id": "que_1", "questions": [tab]})
    }

    fn opened(tab: Value) -> Questions {
        let mut questions = Questions::default();
        questions.open(request(tab), "tool", NOW, None).expect("it is valid");
        questions
    }

    #[test]
    fn a_request_is_brought_into_its_normal_form() {
        let mut questions = Questions::default();
        let opened = questions
            .open(json!({"questions": [{"options": [{"label": " A "}, {"label": "B"}]}]}), "tool", NOW, None)
            .expect("it is valid");
        assert!(opened.id.starts_with("que_") && opened.id.len() > 12, "{}", opened.id);
        let normal = json!({"id": opened.id, "header": "Question 1", "questions": [{
            "allowCustom": true, "customLabel": "Something else",
            "customPlaceholder": "Type your answer, then press enter.", "header": "Question 1", "multiple": false,
            "options": [{"description": "", "label": "A"}, {"description": "", "label": "B"}],
            "question": "Choose an option."}]});
        assert_eq!(
            opened.event,
            json!({"action": "opened", "requestId": opened.id, "openedAt": "2026-01-01T00:00:00.000Z", "source": "tool",
                "request": normal})
        );
        assert_eq!(
            questions.list(),
            json!({"available": true, "questions": [
                {"requestId": opened.id, "openedAt": "2026-01-01T00:00:00.000Z", "request": normal}]})
        );
    }

    #[test]
    fn what_a_request_says_is_kept() {
        let tab = json!({"header": "Where", "question": "Where to?", "multiple": true, "allowCustom": false,
            "customLabel": "Else", "customPlaceholder": "type", "options": [{"label": "A", "description": "first"}]});
        for (title, header) in [
            (json!({"header": "H", "title": "T"}), "H"),
            (json!({"title": "T"}), "T"),
            (json!({"header": " "}), "Where"),
        ] {
            let mut given = request(tab.clone());
            given.as_object_mut().expect("an object").extend(title.as_object().expect("an object").clone());
            let opened = Questions::default().open(given, "api", NOW, None).expect("it is valid");
            assert_eq!(
                (opened.id.as_str(), &opened.event["request"]),
                ("que_1", &json!({"id": "que_1", "header": header, "questions": [tab]}))
            );
        }
        for (given, multiple) in [(json!("true"), false), (json!(1), false), (json!(null), false), (json!(true), true)]
        {
            let questions = opened(json!({"multiple": given, "options": [{"label": "A"}]}));
            assert_eq!(questions.list()["questions"][0]["request"]["questions"][0]["multiple"], multiple, "{given}");
        }
    }

    #[test]
    fn each_mistake_in_a_request_is_named() {
        let ok = json!({"options": [{"label": "A"}]});
        for (request, error) in [
            (json!([]), "question request must be an object"),
            (json!(null), "question request must be an object"),
            (json!({}), "questions must be a non-empty array"),
            (json!({"questions": []}), "questions must be a non-empty array"),
            (json!({"questions": {}}), "questions must be a non-empty array"),
            (json!({"questions": [ok, {}]}), "questions[1].options must be a non-empty array"),
            (json!({"questions": [{"options": []}]}), "questions[0].options must be a non-empty array"),
            (json!({"questions": ["text"]}), "questions[0].options must be a non-empty array"),
            (
                json!({"questions": [{"options": [{"label": "A"}, {"label": " "}]}]}),
                "questions[0].options[1].label is required",
            ),
            (json!({"questions": [{"options": [7]}]}), "questions[0].options[0].label is required"),
            (
                json!({"questions": [ok, {"options": [{"label": "A"}, {"label": " A"}]}]}),
                "Duplicate option label in questions[1]: A",
            ),
        ] {
            let result = Questions::default().open(request.clone(), "tool", NOW, None);
            assert_eq!(result.map(|opened| opened.id), Err(error.to_owned()), "{request}");
        }
    }

    #[test]
    fn an_id_is_open_once_and_not_too_many_are() {
        let mut questions = opened(json!({"options": [{"label": "A"}]}));
        let again = questions.open(request(json!({"options": [{"label": "A"}]})), "tool", NOW, None);
        assert_eq!(again, Err("Question request already pending: que_1".into()));
        questions.reject("que_1", "bridge", NOW).expect("it is open");
        for _ in 0..MAX_OPEN {
            questions
                .open(json!({"questions": [{"options": [{"label": "A"}]}]}), "tool", NOW, None)
                .expect("there is room");
        }
        assert!(questions.open(request(json!({"options": [{"label": "A"}]})), "tool", NOW, None).is_err());
    }

    #[test]
    fn valid_answers_are_brought_into_their_normal_form() {
        let one = json!({"options": [{"label": "A"}, {"label": "B"}]});
        let many = json!({"options": [{"label": "A"}, {"label": "B"}], "multiple": true});
        let closed = json!({"options": [{"label": "A"}, {"label": "B"}], "multiple": true, "allowCustom": false});
        for (tab, answer, expected) in [
            (&one, json!(["B"]), json!(["B"])),
            (&one, json!([" B ", "B", ""]), json!(["B"])),
            (&one, json!([]), json!([])),
            (&one, json!([" "]), json!([])),
            (&one, json!([" my own words "]), json!(["my own words"])),
            (&many, json!(["B", "other", "A", "B"]), json!(["B", "other", "A"])),
            (&closed, json!(["B", "A"]), json!(["B", "A"])),
        ] {
            let settled =
                opened(tab.clone()).answer("que_1", &json!([answer]), "bridge", NOW + 5).expect("it is valid");
            assert_eq!(settled.result, json!({"requestId": "que_1", "answers": [expected]}), "{answer}");
            assert_eq!(settled.event["result"], settled.result);
        }
    }

    #[test]
    fn each_mistake_in_an_answer_is_named_and_leaves_the_question_open() {
        let mut questions = opened(json!({"options": [{"label": "A"}, {"label": "B"}], "allowCustom": false}));
        for (answers, error) in [
            (json!("A"), "answers must be an array of per-tab label arrays"),
            (json!(null), "answers must be an array of per-tab label arrays"),
            (json!([]), "answers length (0) must match questions length (1)"),
            (json!([["A"], ["B"]]), "answers length (2) must match questions length (1)"),
            (json!(["A"]), "answers[0] must be an array"),
            (json!([[1]]), "answers[0] entries must be strings"),
            (json!([["C"]]), "answers[0] contains invalid label: C"),
            (json!([["A", "B"]]), "answers[0] accepts only one label because multiple=false"),
        ] {
            assert_eq!(questions.answer("que_1", &answers, "bridge", NOW), Err(error.to_owned()), "{answers}");
        }
        questions.answer(" que_1 ", &json!([["A"]]), "bridge", NOW).expect("it is still open");
        let late = questions.answer("que_1", &json!([["A"]]), "bridge", NOW);
        assert_eq!(late, Err("No pending question request: que_1".into()));
        assert_eq!(questions.reject("que_1", "bridge", NOW), Err("No pending question request: que_1".into()));
    }

    #[test]
    fn closing_events_are_complete_by_themselves() {
        let mut questions = opened(json!({"options": [{"label": "A"}]}));
        let request = questions.list()["questions"][0]["request"].clone();
        let settled = questions.answer("que_1", &json!([["A"]]), "bridge", NOW + 1500).expect("it is valid");
        assert_eq!(
            settled.event,
            json!({"action": "answered", "requestId": "que_1", "openedAt": "2026-01-01T00:00:00.000Z",
                "closedAt": "2026-01-01T00:00:01.500Z", "source": "bridge", "request": request,
                "result": {"requestId": "que_1", "answers": [["A"]]}})
        );
        assert_eq!(questions.list()["questions"], json!([]));
    }

    #[test]
    fn the_end_rejects_everything_in_order() {
        let mut questions = Questions::default();
        for id in ["a", "b", "c"] {
            let request = json!({"id": id, "questions": [{"options": [{"label": "A"}]}]});
            questions.open(request, "tool", NOW, None).expect("it is valid");
        }
        questions.answer("b", &json!([[]]), "bridge", NOW).expect("it is open");
        let settled = questions.reject_all("shutdown", NOW);
        let told: Vec<_> = settled.iter().map(|s| (s.id.as_str(), &s.event["action"], &s.event["source"])).collect();
        assert_eq!(
            told,
            [("a", &json!("rejected"), &json!("shutdown")), ("c", &json!("rejected"), &json!("shutdown"))]
        );
        assert_eq!(settled[0].result, json!({"requestId": "a", "cancelled": true}));
        assert!(questions.reject_all("shutdown", NOW).is_empty());
    }

    #[test]
    fn questions_expire_when_their_time_is_up() {
        let mut questions = Questions::default();
        assert_eq!(questions.deadline(), None);
        for (id, deadline) in [("late", Some(NOW + 20)), ("never", None), ("soon", Some(NOW + 10))] {
            let request = json!({"id": id, "questions": [{"options": [{"label": "A"}]}]});
            questions.open(request, "tool", NOW, deadline).expect("it is valid");
        }
        assert_eq!((questions.deadline(), questions.expire(NOW + 9)), (Some(NOW + 10), vec![]));
        let expired = questions.expire(NOW + 10);
        assert_eq!(expired.len(), 1);
        assert_eq!(
            expired[0].result,
            json!({"requestId": "soon", "cancelled": true, "error": "nobody answered in time"})
        );
        assert_eq!(
            (questions.deadline(), questions.expire(NOW + 50).len(), questions.deadline()),
            (Some(NOW + 20), 1, None)
        );
    }
}
