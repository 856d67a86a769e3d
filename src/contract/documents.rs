//! The JSON documents about sessions: rows of `list`, and `inspect`.

use crate::clock::iso_time;
use crate::contract::session::{SessionIdentity, SessionStats};
use serde_json::{Map, Value, json};
use std::time::Instant;

/// What a session does at this moment, known only to its own thread.
pub(crate) struct Activity {
    pub current: Option<CurrentPrompt>,
    pub queue: Vec<QueuedPrompt>,
    pub messages: usize,
    /// Tokens that the last request took of the model's context.
    pub context_tokens: u64,
    pub last_error: Option<String>,
}

pub(crate) struct CurrentPrompt {
    pub from: Option<String>,
    pub running_ms: u64,
    pub tool_calls: u64,
}

pub(crate) struct QueuedPrompt {
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
    put("cwd", json!(identity.cwd.to_string_lossy()));
    put("model", json!(settings.model.spec()));
    put("thinkingLevel", json!(settings.thinking.as_str()));
    put("state", json!(if stats.running() { "running" } else { "idle" }));
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
    put("sandbox", identity.sandbox.facts());
    Value::Object(row)
}

/// A whole number where it is one, so that `1800` is not shown as `1800.0`.
fn seconds(value: f64) -> Value {
    if value.fract() == 0.0 { json!(value as u64) } else { json!(value) }
}

/// The answer to `<session>.inspect`.
pub(crate) fn inspection(identity: &SessionIdentity, stats: &SessionStats, activity: &Activity, now: Instant) -> Value {
    let mut document = summary(identity, stats, now);
    document["queue"] =
        activity.queue.iter().map(|p| json!({"from": p.from, "waitingMs": p.waiting_ms, "bytes": p.bytes})).collect();
    document["currentPrompt"] = activity
        .current
        .as_ref()
        .map_or(Value::Null, |p| json!({"from": p.from, "runningMs": p.running_ms, "toolCalls": p.tool_calls}));
    document["messages"] = json!(activity.messages);
    document["contextTokens"] = json!(activity.context_tokens);
    document["contextWindow"] = json!(stats.settings().model.context_window);
    document["lastError"] = json!(activity.last_error);
    document
}

/// The answer to `list`: as many rows as fit into `limit` bytes, and the truth about the rest.
pub(crate) fn listing(sessions: Vec<Value>, runs: Vec<Value>, limit: usize) -> Value {
    let mut room = limit.saturating_sub(200);
    let mut fit = |rows: Vec<Value>| -> (Vec<Value>, usize) {
        let all = rows.len();
        let kept: Vec<Value> = rows
            .into_iter()
            .take_while(|row| {
                let size = row.to_string().len() + 1;
                let fits = size <= room;
                room = room.saturating_sub(size);
                fits
            })
            .collect();
        let left_out = all - kept.len();
        (kept, left_out)
    };
    let (sessions, more_sessions) = fit(sessions);
    let (runs, more_runs) = fit(runs);
    let mut document = json!({"sessions": sessions, "runs": runs});
    if more_sessions + more_runs > 0 {
        document["omitted"] = json!({"sessions": more_sessions, "runs": more_runs});
    }
    document
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listing_never_exceeds_its_limit() {
        let rows: Vec<Value> = (0..100).map(|n| json!({"sessionId": format!("session-{n}")})).collect();
        let all = listing(rows.clone(), vec![], 1_000_000);
        assert_eq!(all["sessions"].as_array().map(Vec::len), Some(100));
        assert_eq!(all.get("omitted"), None);
        let some = listing(rows.clone(), rows, 1000);
        assert!(some.to_string().len() <= 1000);
        let kept = some["sessions"].as_array().map_or(0, Vec::len);
        assert!(kept > 10, "{kept}");
        assert_eq!(some["omitted"], json!({"sessions": 100 - kept, "runs": 100}));
    }

    #[test]
    fn whole_seconds_have_no_fraction() {
        assert_eq!(seconds(1800.0).to_string(), "1800");
        assert_eq!(seconds(1.5).to_string(), "1.5");
    }
}
