//! Configuration that people and programs wrote: a value of another kind than it should have costs itself and not its file.
//! Messages about a value name its place and its kind; its content may be a key, and is never quoted.

use serde_json::{Map, Value};

/// What is wrong with a value, in a parser's words without the value.
pub(super) fn without_value(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let (Some(value), Some(expected)) = (text.find(['"', '`']), text.rfind(", expected ")) else { return text };
    let (before, after) =
        (text.get(..value.min(expected)).unwrap_or_default(), text.get(expected..).unwrap_or_default());
    let after = match after.strip_prefix(", expected struct ") {
        Some(_) => ", expected an object",
        None => after,
    };
    format!("{}{after}", before.trim_end())
}

/// What kind of value this is.
pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// The object that a file has to be.
///
/// # Errors
/// The value is no object; the text names its kind.
pub(super) fn object(value: Value) -> Result<Map<String, Value>, String> {
    let Value::Object(fields) = value else { return Err(format!("{}, not an object", kind(&value))) };
    Ok(fields)
}

/// Makes whole numbers of those that were written as `16384.0`, as programs do that know one kind of number only.
pub(super) fn whole_numbers(value: &mut Value) {
    /// Up to here a float holds every whole number (2^53).
    const EXACT: f64 = 9_007_199_254_740_992.0;
    match value {
        Value::Number(number) => {
            if let Some(float) = number.as_f64().filter(|_| number.is_f64())
                && float.fract() == 0.0
                && float.abs() <= EXACT
            {
                *value = Value::from(float as i64);
            }
        }
        Value::Array(list) => list.iter_mut().for_each(whole_numbers),
        Value::Object(fields) => fields.values_mut().for_each(whole_numbers),
        Value::Null | Value::Bool(_) | Value::String(_) => {}
    }
}

/// Says why a document of this kind is not accepted.
type Check<'a> = &'a dyn Fn(&Value) -> Result<(), serde_json::Error>;

/// Takes out of a document what `check` does not accept, down to single fields of objects, and says so in `odd`.
pub(super) fn leave_out(document: &mut Map<String, Value>, check: Check<'_>, odd: &mut Vec<String>) {
    document.retain(|key, value| keeps(&mut vec![key.clone()], value, check, odd));
}

fn keeps(path: &mut Vec<String>, value: &mut Value, check: Check<'_>, odd: &mut Vec<String>) -> bool {
    let alone = |value: Value| {
        path.iter().rev().fold(value, |value, key| Value::Object(Map::from_iter([(key.clone(), value)])))
    };
    let Err(why) = check(&alone(value.clone())) else { return true };
    let holds_fields = check(&alone(Value::Object(Map::new()))).is_ok();
    if holds_fields && let Value::Object(fields) = value {
        fields.retain(|key, value| {
            path.push(key.clone());
            let kept = keeps(path, value, check, odd);
            path.pop();
            kept
        });
        return true;
    }
    odd.push(format!("\"{}\" is left out: {}", path.join("."), without_value(&why)));
    false
}
