//! An approval, asked like a question of one part.

use crate::cli::output::one_line;
use serde_json::{Value, json};

const ALLOW: &str = "Allow";
const FOR_SESSION: &str = "Allow for this session";
const DENY: &str = "Deny";
/// How much of a call's arguments is shown, characters.
const MAX_SHOWN: usize = 4000;

/// The hash of the call, if an entry of the list of questions, or an event, is about an approval.
pub(super) fn hash(entry: &Value) -> Option<String> {
    let hash = entry["request"]["hash"].as_str().filter(|_| entry["kind"] == "approval");
    hash.map(str::to_owned)
}

/// The approval in the form of a question.
pub(super) fn as_question(entry: &Value) -> Value {
    let request = &entry["request"];
    let text = |key: &str| request[key].as_str().unwrap_or_default();
    let arguments = match (text("tool"), request["arguments"]["command"].as_str()) {
        ("bash", Some(command)) => command.to_owned(),
        _ => request["arguments"].to_string(),
    };
    let (asked, like) = match text("tool") {
        "model_request" => ("May a request exceed a budget".to_owned(), "and further requests beyond this limit"),
        tool => (format!("May it run {tool}"), "and further calls with the same command or file"),
    };
    // All of it, as whoever allows it has to see it.
    let shown: String = arguments.chars().take(MAX_SHOWN).collect();
    let rule = Some(text("rule")).filter(|rule| !rule.is_empty());
    let header = rule.map_or_else(|| "approval".to_owned(), |rule| format!("approval, by the rule {rule}"));
    json!({"requestId": entry["requestId"], "request": {"questions": [{
        "header": header,
        "question": format!("{asked}: {shown}"),
        "options": [{"label": ALLOW}, {"label": FOR_SESSION, "description": like}, {"label": DENY}],
    }]}})
}

/// What is sent for the answer to it. Words of one's own are a no, and say why.
pub(super) fn settlement(id: &str, hash: &str, answers: &Value) -> Value {
    let said = answers[0][0].as_str().unwrap_or(DENY);
    let mut fields = json!({"requestId": id, "hash": hash, "allow": matches!(said, ALLOW | FOR_SESSION)});
    match said {
        FOR_SESSION => fields["forSession"] = json!(true),
        ALLOW | DENY => {}
        reason => fields["reason"] = json!(reason),
    }
    fields
}

/// What became of one that was open here.
pub(super) fn outcome(data: &Value) -> String {
    let why = data["result"]["denied"]["reason"].as_str().unwrap_or_default();
    match data["action"].as_str() {
        Some("allowed") => "the approval was given elsewhere".to_owned(),
        _ => format!("the approval was denied: {}", one_line(why, 200)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn approvals_are_questions_whose_answers_settle_them() {
        let entry = json!({"requestId": "a", "kind": "approval", "request": {"id": "a", "tool": "bash", "hash": "h",
            "arguments": {"command": "git\npush"}, "rule": "bash git*"}});
        assert_eq!(hash(&entry).as_deref(), Some("h"));
        assert_eq!(hash(&json!({"requestId": "q", "request": {"questions": []}})), None);
        let question = as_question(&entry);
        assert_eq!(question["request"]["questions"][0]["question"], "May it run bash: git\npush");
        for (said, expected) in [
            (json!([["Allow"]]), json!({"requestId": "a", "hash": "h", "allow": true})),
            (
                json!([["Allow for this session"]]),
                json!({"requestId": "a", "hash": "h", "allow": true, "forSession": true}),
            ),
            (json!([["Deny"]]), json!({"requestId": "a", "hash": "h", "allow": false})),
            (json!([[]]), json!({"requestId": "a", "hash": "h", "allow": false})),
            (json!([["use make"]]), json!({"requestId": "a", "hash": "h", "allow": false, "reason": "use make"})),
        ] {
            assert_eq!(settlement("a", "h", &said), expected);
        }
    }
}
