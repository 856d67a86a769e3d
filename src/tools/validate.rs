//! Bringing a model's arguments into the form of a tool's schema, and saying precisely where they do not fit.

use crate::transcript::ToolSpec;
use serde_json::{Map, Value};

/// How much of the received arguments an error repeats, in bytes: enough to see the mistake, not a whole file again.
const MAX_ECHO: usize = 4096;

/// Coerces `arguments` to the schema and validates them. Weak models write numbers as strings, booleans as words, `null`
/// for what they leave out, and one value where an array is due; all of that is taken as meant.
///
/// # Errors
/// The text for the model: each mistake with its dotted path, then the arguments as they were received.
pub(crate) fn check(spec: &ToolSpec, arguments: Map<String, Value>) -> Result<Map<String, Value>, String> {
    let mut coerced = Value::Object(arguments.clone());
    coerce(&mut coerced, spec.parameters.value());
    let mut problems = Vec::new();
    validate(&coerced, spec.parameters.value(), "", &mut problems);
    if problems.is_empty()
        && let Value::Object(coerced) = coerced
    {
        return Ok(coerced);
    }
    Err(failure(&spec.name, &problems, &Value::Object(arguments)))
}

fn failure(tool: &str, problems: &[String], received: &Value) -> String {
    let mut json = format!("{received:#}");
    if json.len() > MAX_ECHO {
        json.truncate(json.floor_char_boundary(MAX_ECHO));
        json.push_str("… [cut]");
    }
    let problems: String = problems.iter().map(|problem| format!("  - {problem}\n")).collect();
    format!("Validation failed for tool \"{tool}\":\n{problems}\nReceived arguments:\n{json}")
}

fn kind(schema: &Value) -> &str {
    schema["type"].as_str().unwrap_or_default()
}

fn required(schema: &Value) -> impl Iterator<Item = &str> {
    schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str)
}

fn coerce(value: &mut Value, schema: &Value) {
    match (kind(schema), &mut *value) {
        ("object", Value::Object(object)) => {
            let required: Vec<&str> = required(schema).collect();
            object.retain(|name, value| !value.is_null() || required.contains(&name.as_str()));
            for (name, value) in object.iter_mut() {
                if let Some(schema) = schema["properties"].get(name) {
                    coerce(value, schema);
                }
            }
        }
        ("array", Value::Array(items)) => items.iter_mut().for_each(|item| coerce(item, &schema["items"])),
        ("array", single) if !single.is_null() => {
            let mut item = single.take();
            coerce(&mut item, &schema["items"]);
            *value = Value::Array(vec![item]);
        }
        ("number", Value::String(text)) => {
            let number = text.trim().parse::<f64>().ok().and_then(serde_json::Number::from_f64);
            if let Some(number) = number {
                *value = Value::Number(number);
            }
        }
        ("boolean", Value::String(text)) => match text.as_str() {
            "true" => *value = Value::Bool(true),
            "false" => *value = Value::Bool(false),
            _ => {}
        },
        _ => {}
    }
}

fn validate(value: &Value, schema: &Value, path: &str, problems: &mut Vec<String>) {
    let fits = match kind(schema) {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        _ => true,
    };
    let below = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    if !fits {
        problems.push(format!("{}: must be {}", if path.is_empty() { "root" } else { path }, kind(schema)));
        return;
    }
    match value {
        Value::Object(object) => {
            for name in required(schema).filter(|name| !object.contains_key(*name)) {
                problems.push(format!("{}: must have required property '{name}'", below(name)));
            }
            for (name, value) in object {
                if let Some(schema) = schema["properties"].get(name) {
                    validate(value, schema, &below(name), problems);
                }
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                validate(item, &schema["items"], &below(&index.to_string()), problems);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn spec() -> ToolSpec {
        ToolSpec {
            name: "t".into(),
            description: String::new(),
            parameters: json!({"type": "object", "required": ["path"], "properties": {
                "path": {"type": "string"},
                "limit": {"type": "number"},
                "literal": {"type": "boolean"},
                "edits": {"type": "array", "items": {"type": "object", "required": ["old"],
                    "properties": {"old": {"type": "string"}, "n": {"type": "number"}}}},
            }})
            .into(),
        }
    }

    fn checked(arguments: Value) -> Result<Value, String> {
        let Value::Object(arguments) = arguments else { panic!("an object is needed") };
        check(&spec(), arguments).map(Value::Object)
    }

    #[test]
    fn sloppy_arguments_are_taken_as_meant() {
        for (given, taken) in [
            (json!({"path": "a"}), json!({"path": "a"})),
            (json!({"path": "a", "limit": "12"}), json!({"path": "a", "limit": 12.0})),
            (json!({"path": "a", "limit": " 1.5 "}), json!({"path": "a", "limit": 1.5})),
            (json!({"path": "a", "literal": "true"}), json!({"path": "a", "literal": true})),
            (json!({"path": "a", "literal": "false"}), json!({"path": "a", "literal": false})),
            (json!({"path": "a", "limit": null, "edits": null}), json!({"path": "a"})),
            (
                json!({"path": "a", "edits": {"old": "x", "n": "1"}}),
                json!({"path": "a", "edits": [{"old": "x", "n": 1.0}]}),
            ),
            (json!({"path": "a", "edits": [{"old": "x", "n": null}]}), json!({"path": "a", "edits": [{"old": "x"}]})),
            (json!({"path": "a", "unknown": 1}), json!({"path": "a", "unknown": 1})),
        ] {
            assert_eq!(checked(given.clone()), Ok(taken), "{given}");
        }
    }

    #[test]
    fn each_mistake_is_named_with_its_path() {
        let text = checked(json!({"limit": "many", "edits": [{"old": 1}, {}]})).expect_err("it must fail");
        assert_eq!(
            text,
            "Validation failed for tool \"t\":\n  - path: must have required property 'path'\n  - limit: must be number\n  \
             - edits.0.old: must be string\n  - edits.1.old: must have required property 'old'\n\nReceived arguments:\n{\n  \
             \"limit\": \"many\",\n  \"edits\": [\n    {\n      \"old\": 1\n    },\n    {}\n  ]\n}"
        );
        for (arguments, problem) in [
            (json!({"path": null}), "  - path: must be string\n"),
            (json!({"path": 7}), "  - path: must be string\n"),
            (json!({"path": "a", "limit": "NaN"}), "  - limit: must be number\n"),
            (json!({"path": "a", "limit": "inf"}), "  - limit: must be number\n"),
            (json!({"path": "a", "literal": "yes"}), "  - literal: must be boolean\n"),
            (json!({"path": "a", "edits": "text"}), "  - edits.0: must be object\n"),
        ] {
            let text = checked(arguments.clone()).expect_err("it must fail");
            assert!(text.contains(problem), "{arguments}: {text}");
        }
    }

    #[test]
    fn large_arguments_are_not_repeated_whole() {
        let text = checked(json!({"content": "ä".repeat(100_000)})).expect_err("it must fail");
        assert!(text.len() < MAX_ECHO + 300 && text.ends_with("… [cut]"), "{} bytes", text.len());
    }
}
