//! The JSON documents about sessions: rows of `list`, and `inspect`.

use crate::clock::iso_time;
use crate::contract::identity::SessionIdentity;
use crate::contract::session::SessionStats;
use serde_json::{Map, Value, json};
use std::time::Instant;

/// Bytes of a page of `list` beside its rows: the names of its fields, `next`, and what daemons put around it when they tell
/// each other.
const LISTING_FRAME: usize = 320;

/// What a session does at this moment, known only to its own thread.
pub(crate) struct Activity {
    pub current: Option<CurrentPrompt>,
    pub queue: Vec<QueuedPrompt>,
    pub messages: usize,
}

pub(crate) struct CurrentPrompt {
    pub from: Option<String>,
    pub running_ms: u64,
    pub tool_calls: u64,
}

pub(crate) struct QueuedPrompt {
    pub id: String,
    /// How many prompts are begun until this one is, itself included.
    pub position: usize,
    pub from: Option<String>,
    pub waiting_ms: u64,
    pub bytes: usize,
}

/// One row of `list`.
pub(crate) fn summary(identity: &SessionIdentity, stats: &SessionStats, now: Instant) -> Value {
    let [input, output, cache_read, cache_write] = stats.tokens();
    let settings = stats.settings();
    let mut row = Map::new();
    let mut put = |key: &str, value: Value| row.insert(key.to_string(), value);
    put("sessionId", json!(identity.id));
    if let Some(subject) = &identity.subject {
        put("subject", json!(subject));
    }
    if let Some(host) = &identity.host {
        put("host", json!(host));
    }
    put("cwd", json!(identity.cwd.to_string_lossy()));
    if identity.workspace.moves() {
        put("workspace", json!(identity.workspace.as_str()));
    }
    put("model", json!(settings.model.spec()));
    put("thinkingLevel", json!(settings.thinking.as_str()));
    let state = match (stats.running(), stats.queued()) {
        (true, _) => "running",
        (false, 0) => "idle",
        (false, _) => "queued",
    };
    put("state", json!(state));
    if let Some(name) = &settings.name {
        put("name", json!(name));
    }
    if let Some(file) = &settings.file {
        put("sessionFile", json!(file.to_string_lossy()));
    }
    put("activeRequest", json!(stats.running()));
    put("queuedRequests", json!(stats.queued()));
    put("pendingMessages", json!(stats.pending()));
    put("maxLifetime", seconds(settings.max_lifetime.as_secs_f64()));
    let left = settings.deadline.map(|end| end.saturating_duration_since(now).as_secs_f64().ceil());
    put("remainingLifetime", left.map_or(Value::Null, seconds));
    put("createdAt", json!(iso_time(identity.created_ms)));
    put("lastActivity", json!(iso_time(stats.last_activity_ms())));
    put("prompts", json!(stats.prompts()));
    put("errors", json!(stats.errors()));
    put(
        "tokens",
        json!({"input": input, "output": output, "cacheRead": cache_read, "cacheWrite": cache_write,
            "total": input + output + cache_read + cache_write}),
    );
    put("cost", json!(stats.cost()));
    if let Some(from) = &identity.from {
        put("from", json!(from));
    }
    put("instanceId", json!(identity.instance_id));
    put("sandbox", stats.settings().sandbox.facts());
    if let Some(budgets) = stats.budget_figures() {
        put("budgets", budgets);
    }
    stats.progress.describe(&mut row, settings.model.context_window);
    Value::Object(row)
}

/// A whole number where it is one, so that `1800` is not shown as `1800.0`.
fn seconds(value: f64) -> Value {
    if value.fract() == 0.0 { json!(value as u64) } else { json!(value) }
}

/// The answer to `<session>.inspect`.
pub(crate) fn inspection(identity: &SessionIdentity, stats: &SessionStats, activity: &Activity, now: Instant) -> Value {
    let mut document = summary(identity, stats, now);
    let queued = |p: &QueuedPrompt| json!({"promptId": p.id, "position": p.position, "from": p.from, "waitingMs": p.waiting_ms, "bytes": p.bytes});
    document["queue"] = activity.queue.iter().map(queued).collect();
    document["currentPrompt"] = activity
        .current
        .as_ref()
        .map_or(Value::Null, |p| json!({"from": p.from, "runningMs": p.running_ms, "toolCalls": p.tool_calls}));
    document["messages"] = json!(activity.messages);
    document
}

/// The answer to `list`: the first of these rows, which are in the order of their ids and say whether they are named
/// sessions; at most `limit` of them, and not more than fit into a message of `bytes`. `next` is there if that is not all.
pub(crate) fn listing(rows: impl Iterator<Item = (bool, Value)>, limit: Option<usize>, bytes: usize) -> Value {
    let mut room = bytes.saturating_sub(LISTING_FRAME);
    let (mut sessions, mut runs, mut next) = (Vec::new(), Vec::new(), None);
    let mut last = None;
    for (named, mut row) in rows {
        let mut size = row.to_string().len() + 1;
        if size > room && last.is_none() {
            // A page without rows would be the last one.
            row = shortened(&row);
            size = row.to_string().len() + 1;
        }
        if last.is_some() && (size > room || limit.is_some_and(|limit| sessions.len() + runs.len() >= limit)) {
            next = last;
            break;
        }
        room = room.saturating_sub(size);
        last = row_id(&row).map(str::to_string);
        if named { sessions.push(row) } else { runs.push(row) }
    }
    let mut document = json!({"sessions": sessions, "runs": runs});
    if let Some(next) = next {
        document["next"] = json!(next);
    }
    document
}

/// The id of a row of `list`, as the intake and as the controller write it.
pub(crate) fn row_id(row: &Value) -> Option<&str> {
    row["sessionId"].as_str().or_else(|| row["session_id"].as_str())
}

/// What is left of a row that no message has room for.
fn shortened(row: &Value) -> Value {
    let names = ["sessionId", "session_id", "host"];
    let mut left: Map<String, Value> =
        names.into_iter().filter_map(|name| Some((name.to_string(), row.get(name)?.clone()))).collect();
    left.insert("truncated".to_string(), json!(true));
    Value::Object(left)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_never_exceeds_its_limits_and_no_row_is_lost() {
        let rows: Vec<(bool, Value)> =
            (0..100).map(|n| (n % 3 > 0, json!({"sessionId": format!("session-{n:02}")}))).collect();
        let ids = |page: &Value| -> Vec<String> {
            let tables = ["sessions", "runs"].map(|name| page[name].as_array().cloned().unwrap_or_default());
            let mut ids: Vec<_> = tables.concat().iter().filter_map(row_id).map(str::to_string).collect();
            ids.sort();
            ids
        };
        for (limit, bytes, pages) in
            [(None, 1_000_000, 1), (Some(30), 1_000_000, 4), (Some(25), 1_000_000, 4), (None, 1000, 4)]
        {
            let (mut found, mut after, mut asked) = (Vec::new(), String::new(), 0);
            loop {
                let left = rows.iter().filter(|(_, row)| row_id(row).is_some_and(|id| id > after.as_str())).cloned();
                let page = listing(left, limit, bytes);
                assert!(page.to_string().len() <= bytes && ids(&page).len() <= limit.unwrap_or(100));
                found.extend(ids(&page));
                asked += 1;
                match page["next"].as_str() {
                    Some(next) => after = next.to_string(),
                    None => break,
                }
            }
            assert_eq!(found.len(), 100, "{limit:?} {bytes}");
            assert!(found.is_sorted() && asked == pages, "{asked} pages for {limit:?} {bytes}");
        }
    }

    #[test]
    fn a_row_that_is_too_long_for_any_page_is_named() {
        let row = |id: &str| (true, json!({"sessionId": id, "cwd": "x".repeat(2000), "host": "h"}));
        let page = listing([row("a"), row("b")].into_iter(), None, 1000);
        let named = json!({"sessionId": "a", "host": "h", "truncated": true});
        assert_eq!(page, json!({"sessions": [named], "runs": [], "next": "a"}));
    }

    #[test]
    fn whole_seconds_have_no_fraction() {
        assert_eq!(seconds(1800.0).to_string(), "1800");
        assert_eq!(seconds(1.5).to_string(), "1.5");
    }
}
