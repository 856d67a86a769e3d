//! The `question` tool: the model asks people and waits for their answer. Nobody has to be there: the question stays open
//! for whoever comes, over whatever wire, until it is answered, rejected, or the run ends.

use super::tool::{Tool, ToolContext, ToolOutput};
use crate::transcript::ToolSpec;
use serde_json::{Map, Value, json};
use std::sync::LazyLock;

pub(super) struct Question;

static SPEC: LazyLock<ToolSpec> = LazyLock::new(|| {
    let text = |description: &str| json!({"type": "string", "description": description});
    let flag = |description: &str| json!({"type": "boolean", "description": description});
    ToolSpec {
        name: "question".into(),
        description:
            "Ask the user one or several questions, each with options to choose from, and wait for the answers.".into(),
        parameters: json!({
            "type": "object",
            "properties": {
                "header": text("Title of all questions together"),
                "questions": {"type": "array", "items": {
                    "type": "object",
                    "properties": {
                        "header": text("Short title of this question"),
                        "question": text("The question"),
                        "options": {"type": "array", "items": {
                            "type": "object",
                            "properties": {
                                "label": text("The option, in a few words; unique within the question"),
                                "description": text("What choosing it means"),
                            },
                            "required": ["label"],
                        }},
                        "multiple": flag("More than one option may be chosen"),
                        "allowCustom": flag("The user may answer in other words; true unless you say false"),
                    },
                    "required": ["question", "options"],
                }},
            },
            "required": ["questions"],
        })
        .into(),
    }
});

impl Tool for Question {
    fn spec(&self) -> &ToolSpec {
        &SPEC
    }

    fn snippet(&self) -> &'static str {
        "Ask the user, and wait for the answer"
    }

    fn rules(&self) -> &'static [&'static str] {
        &["Use question when a decision is the user's to make; put what you would choose first"]
    }

    /// Models put a single question at the top, and write options as mere texts.
    fn prepare(&self, mut arguments: Map<String, Value>) -> Map<String, Value> {
        if !arguments.contains_key("questions") && arguments.contains_key("options") {
            let header = arguments.get("header").cloned();
            arguments = Map::from_iter([("questions".to_owned(), json!([arguments]))]);
            arguments.extend(header.map(|header| ("header".to_owned(), header)));
        }
        let questions = arguments.get_mut("questions").and_then(Value::as_array_mut);
        let options =
            questions.into_iter().flatten().filter_map(|question| question.get_mut("options")?.as_array_mut());
        for option in options.flatten().filter(|option| option.is_string()) {
            *option = json!({"label": option.take()});
        }
        arguments
    }

    fn run(&self, arguments: &Map<String, Value>, context: &ToolContext<'_>) -> ToolOutput {
        let result = match (context.ask)(Value::Object(arguments.clone())) {
            Ok(result) => result,
            Err(reason) => return ToolOutput::error(reason),
        };
        let Some(answers) = result["answers"].as_array() else {
            let reason = result["error"].as_str().map(|reason| format!(": {reason}")).unwrap_or_default();
            return ToolOutput {
                details: Some(result),
                ..ToolOutput::error(format!("The question was not answered{reason}"))
            };
        };
        let questions = arguments.get("questions").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let text = readable(questions, answers);
        ToolOutput { details: Some(result), ..ToolOutput::text(text) }
    }
}

/// Each question, quoted, and what was chosen, one per line; with several questions each under its title.
fn readable(questions: &[Value], answers: &[Value]) -> String {
    let blocks = answers.iter().enumerate().map(|(at, chosen)| {
        let field = |name: &str| questions.get(at).and_then(|question| question[name].as_str()).map(str::trim);
        let number = format!("Question {}", at + 1);
        let header = field("header").filter(|header| !header.is_empty()).unwrap_or(&number);
        let question = field("question").filter(|question| !question.is_empty()).unwrap_or(header);
        let mut block = if answers.len() > 1 { format!("{header}\n") } else { String::new() };
        block.extend(question.lines().map(|line| format!("> {line}\n")));
        let labels: Vec<&str> = chosen.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        block + "\n" + if labels.is_empty() { "(no selection)".to_owned() } else { labels.join("\n") }.as_str()
    });
    blocks.collect::<Vec<_>>().join("\n\n")
}

#[cfg(test)]
mod tests {
    use super::super::test_support::{Bench, text};
    use super::*;

    /// A place in which this comes of every question.
    fn bench(answer: Result<Value, String>) -> Bench {
        let mut bench = Bench::new();
        bench.answer = answer;
        bench
    }

    /// What the model is told, and whether as an error, if these are the answers.
    fn told(arguments: Value, answer: Result<Value, String>) -> (String, bool) {
        let bench = bench(answer);
        let output = bench.run(&Question, arguments);
        (text(&output).to_owned(), output.is_error)
    }

    fn answers(answers: Value) -> Result<Value, String> {
        Ok(json!({"requestId": "que_1", "answers": answers}))
    }

    #[test]
    fn the_answer_comes_with_its_question_and_with_its_facts() {
        let bench = bench(answers(json!([["B"]])));
        let arguments =
            json!({"questions": [{"question": "Which path?", "options": [{"label": "A"}, {"label": "B"}]}]});
        let output = bench.run(&Question, arguments.clone());
        assert_eq!((text(&output), output.is_error), ("> Which path?\n\nB", false));
        assert_eq!(output.details, Some(json!({"requestId": "que_1", "answers": [["B"]]})));
        assert_eq!(*bench.asked.lock().expect("no panic"), [arguments]);
    }

    #[test]
    fn several_questions_are_told_one_by_one() {
        let tab =
            |header: &str, question: &str| json!({"header": header, "question": question, "options": [{"label": "A"}]});
        for (tabs, given, expected) in [
            (
                json!([tab("One", "1?"), tab("", "2?\nreally?")]),
                json!([["A"], ["B", "C"]]),
                "One\n> 1?\n\nA\n\nQuestion 2\n> 2?\n> really?\n\nB\nC",
            ),
            (json!([tab("One", "")]), json!([[]]), "> One\n\n(no selection)"),
            (json!([tab("", " ")]), json!([["A"]]), "> Question 1\n\nA"),
        ] {
            assert_eq!(told(json!({"questions": tabs}), answers(given)), (expected.to_owned(), false));
        }
    }

    #[test]
    fn sloppy_arguments_are_taken_as_meant() {
        let asked = json!({"questions": [{"question": "Q?", "options": [{"label": "A"}, {"label": "B"}]}]});
        for given in [
            json!({"question": "Q?", "options": ["A", {"label": "B"}]}),
            json!({"questions": {"question": "Q?", "options": [{"label": "A"}, {"label": "B"}]}}),
            json!({"questions": [{"question": "Q?", "options": ["A", "B"]}]}),
        ] {
            let bench = bench(answers(json!([["A"]])));
            assert!(!bench.run(&Question, given.clone()).is_error, "{given}");
            assert_eq!(*bench.asked.lock().expect("no panic"), std::slice::from_ref(&asked), "{given}");
        }
        let (text, is_error) = told(json!({"questions": [{"question": "Q?"}]}), answers(json!([[]])));
        assert!(is_error && text.contains("questions.0.options: must have required property"), "{text}");
    }

    #[test]
    fn a_question_without_an_answer_is_a_failure_that_says_why() {
        let arguments = json!({"questions": [{"question": "Q?", "options": ["A"]}]});
        for (answer, expected) in [
            (Err("Operation aborted".to_owned()), "Operation aborted"),
            (Ok(json!({"requestId": "q", "cancelled": true})), "The question was not answered"),
            (
                Ok(json!({"requestId": "q", "cancelled": true, "error": "nobody answered in time"})),
                "The question was not answered: nobody answered in time",
            ),
        ] {
            assert_eq!(told(arguments.clone(), answer), (expected.to_owned(), true));
        }
    }
}
