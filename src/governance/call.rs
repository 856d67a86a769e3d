//! A call of a tool as people see it when they are asked about it, and how it is told from others.

use super::rules::Target;
use crate::ids;
use ring::digest::{Context, SHA256};
use serde_json::{Map, Value, json};

/// How much of each text among the arguments is shown, bytes, and of all together: an event has room for it.
const MAX_SHOWN: usize = 2048;
const MAX_ARGUMENTS: usize = 6 * 1024;
/// Beginnings of keys of well-known providers, and names behind which secrets stand.
const KEYS: [&str; 12] =
    ["sk-", "ghp_", "gho_", "ghs_", "github_pat_", "glpat-", "xoxb-", "xoxp-", "AKIA", "ASIA", "AIza", "npm_"];
const NAMES: [&str; 8] = ["password", "passwd", "token", "secret", "apikey", "api_key", "api-key", "bearer"];
const REDACTED: &str = "[redacted]";

/// What an approval is bound to: this very call.
pub(crate) fn call_hash(id: &str, tool: &str, arguments: &Map<String, Value>) -> String {
    let mut context = Context::new(&SHA256);
    for part in [id, tool] {
        context.update(part.as_bytes());
        context.update(&[0]);
    }
    context.update(&serde_json::to_vec(arguments).unwrap_or_default());
    ids::hex(context.finish().as_ref())
}

/// What calls have in common that are allowed together: the command to the byte, the tool and the file, the limit of a budget, or
/// else all arguments.
pub(crate) fn likeness(tool: &str, target: &Target, arguments: &Map<String, Value>) -> String {
    match target {
        Target::Command(_) => {
            format!("{tool} {}", arguments.get("command").and_then(Value::as_str).unwrap_or_default())
        }
        Target::Path { real, .. } => format!("{tool} {real}"),
        Target::Budget(limit) => format!("{tool} {limit}"),
        Target::Other => format!("{tool} {}", json!(arguments)),
    }
}

/// The arguments without what looks like a secret, and not too long.
pub(crate) fn shown_arguments(arguments: &Map<String, Value>) -> Value {
    let mut left = MAX_ARGUMENTS;
    Value::Object(arguments.iter().map(|(name, value)| (cut(name, 100), shown(value, name, &mut left))).collect())
}

fn shown(value: &Value, name: &str, left: &mut usize) -> Value {
    match value {
        Value::String(_) if is_secret_name(name) => json!(REDACTED),
        Value::String(text) => {
            let text = cut(&redacted(text), MAX_SHOWN.min(*left));
            *left -= text.len().min(*left);
            json!(text)
        }
        Value::Array(list) => list.iter().take(32).map(|value| shown(value, name, left)).collect(),
        Value::Object(fields) => Value::Object(
            fields.iter().take(32).map(|(name, value)| (cut(name, 100), shown(value, name, left))).collect(),
        ),
        Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
    }
}

fn cut(text: &str, bytes: usize) -> String {
    match text.len() > bytes {
        true => format!("{}… ({} bytes)", &text[..text.floor_char_boundary(bytes)], text.len()),
        false => text.to_owned(),
    }
}

fn is_secret_name(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    NAMES.iter().any(|secret| name.ends_with(secret))
}

/// A text without words that look like secrets: keys of well-known forms, and what stands behind a name such as `token=`.
fn redacted(text: &str) -> String {
    let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '+' | '/' | '~');
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    let mut follows_name = false;
    while let Some(start) = rest.find(is_part) {
        let between = &rest[..start];
        let end = rest[start..].find(|c| !is_part(c)).map_or(rest.len(), |length| start + length);
        let word = &rest[start..end];
        out.push_str(between);
        let joins = !between.contains('\n') && between.chars().all(|c| " =:\"'".contains(c));
        let is_key = KEYS.iter().any(|key| word.starts_with(key)) && word.len() >= 16;
        let is_value = follows_name && joins && word.len() >= 4;
        out.push_str(if is_key || is_value { REDACTED } else { word });
        // `token` alone is a word like others; what counts is the sign behind it.
        let behind = &rest[end..];
        let is_bearer = word.eq_ignore_ascii_case("bearer");
        follows_name = is_secret_name(word)
            && (is_bearer || behind.trim_start_matches(['"', '\'']).starts_with(['=', ':']) || word.starts_with("--"));
        rest = behind;
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(value: Value) -> Map<String, Value> {
        value.as_object().cloned().expect("an object")
    }

    #[test]
    fn secrets_are_not_shown() {
        for (text, expected) in [
            ("git push origin main", "git push origin main"),
            ("curl -H 'Authorization: Bearer abcd.efgh'", "curl -H 'Authorization: Bearer [redacted]'"),
            ("API_TOKEN=abcdef make", "API_TOKEN=[redacted] make"),
            ("mysql --password hunter22", "mysql --password [redacted]"),
            ("mysql --password=hunter22", "mysql --password=[redacted]"),
            ("export K=sk-ant-0123456789abcdef", "export K=[redacted]"),
            ("{\"api_key\": \"abcdef\"}", "{\"api_key\": \"[redacted]\"}"),
            ("the token is here", "the token is here"),
        ] {
            assert_eq!(redacted(text), expected);
        }
        assert_eq!(
            shown_arguments(&arguments(json!({"password": "x", "n": 3}))),
            json!({"password": "[redacted]", "n": 3})
        );
    }

    #[test]
    fn what_is_shown_is_bounded() {
        let long = "ä".repeat(100_000);
        let shown = shown_arguments(&arguments(
            json!({"path": "a", "content": long, "edits": vec![json!({"new": long}); 100]}),
        ));
        assert!(shown.to_string().len() < 12_000, "{}", shown.to_string().len());
        assert!(shown["content"].as_str().is_some_and(|text| text.ends_with("… (200000 bytes)")));
    }

    #[test]
    fn a_hash_is_of_one_call() {
        let call = arguments(json!({"command": "git push"}));
        let hash = call_hash("t1", "bash", &call);
        assert_eq!(hash.len(), 64);
        assert_eq!(hash, call_hash("t1", "bash", &call));
        for other in [
            call_hash("t2", "bash", &call),
            call_hash("t1", "write", &call),
            call_hash("t1", "bash", &arguments(json!({"command": "git push "}))),
        ] {
            assert_ne!(other, hash);
        }
        let target = Target::command("git push", None);
        assert_eq!(likeness("bash", &target, &call), "bash git push");
    }
}
