//! An answer that is printed as it comes: `run`, `session` and `send --stream`.

use super::connection::{Connection, Deadline, Record, new_id, same_id};
use super::failure::Failure;
use super::moving::Moving;
use super::output;
use crate::contract::reply::Restart;
use serde_json::{Value, json};

/// Prints the answer to a request whose response has arrived, and waits for its end, however long the model works.
///
/// `since` is the number of the session's last event before the request: what happened between it and the response passed
/// unseen, and is asked for again where it is shown. `session` is named where the socket is not its own.
///
/// # Errors
/// The run failed, or the connection ended before it did.
pub(super) fn follow(
    connection: &mut Connection,
    id: &Value,
    session: Option<&str>,
    since: u64,
    json: bool,
) -> Result<(), Failure> {
    let mut line_is_open = false;
    let mut moving = Moving::new();
    if moving.is_on() {
        let mut request = json!({"id": new_id(), "type": "subscribe", "sinceSeq": since});
        if let Some(session) = session {
            request["session"] = session.into();
        }
        connection.send(&request, Deadline::after(None))?;
    }
    while let Some(record) = moving.next(connection, &mut line_is_open)? {
        let is_of = |session: &str| record.get("session").is_none_or(|found| found == session);
        if record.get("type").and_then(Value::as_str) == Some("event") && session.is_none_or(is_of) {
            moving.event(&record);
        }
        if !record.get("id").is_some_and(|found| same_id(found, id)) {
            continue;
        }
        moving.clear();
        let kind = record.get("type").and_then(Value::as_str);
        if json && matches!(kind, Some("chunk" | "restart" | "end")) {
            output::print(&format!("{}\n", Value::Object(record.clone())))?;
        }
        match kind {
            Some("chunk") if !json => {
                let text = record.get("data").and_then(Value::as_str).unwrap_or_default();
                output::print_answer(text)?;
                line_is_open = if text.is_empty() { line_is_open } else { !text.ends_with('\n') };
            }
            Some("restart") if !json => {
                let number = |name| record.get(name).and_then(Value::as_u64).and_then(|n| usize::try_from(n).ok());
                let attempt = number("attempt").and_then(|n| u32::try_from(n).ok()).unwrap_or_default();
                let whole = record.get("voidBytes").and_then(Value::as_str) == Some("all");
                let void_bytes = (!whole).then(|| number("voidBytes").unwrap_or_default());
                let line = Restart { attempt, void_bytes }.line();
                output::print(&format!("{}{line}\n", if line_is_open { "\n" } else { "" }))?;
                line_is_open = false;
            }
            Some("end") => {
                if line_is_open {
                    output::print("\n")?;
                }
                return outcome(&record);
            }
            _ => {}
        }
    }
    Err(Failure::Local("Socket closed before the end of the answer".into()))
}

/// What the last record of an answer says.
fn outcome(end: &Record) -> Result<(), Failure> {
    match end.get("success").and_then(Value::as_bool) {
        Some(true) => Ok(()),
        _ => Err(Failure::Local(error_of(end))),
    }
}

/// Why a request or a run failed, in one line.
pub(super) fn error_of(record: &Record) -> String {
    match record.get("error") {
        Some(Value::String(text)) => text.clone(),
        Some(other) if !other.is_null() => other.to_string(),
        _ => "It failed, and no reason was given".to_string(),
    }
}
