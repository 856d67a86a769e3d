//! The registry: one JSON file for each session or daemon.

use super::failure::Failure;
use super::output::printable;
use crate::files;
use crate::socket::PROTOCOL;
use rustix::process::{Pid, test_kill_process};
use serde_json::{Map, Value};
use std::collections::HashSet;
use std::io;
use std::path::Path;

/// The largest file that is read, in bytes; a row has some hundred.
const MAX_ROW: u64 = 1 << 20;

/// One file of the registry, with what we found out about it.
#[derive(Clone, Debug)]
pub(super) struct Row {
    document: Map<String, Value>,
    alive: bool,
    socket_exists: bool,
}

impl Row {
    /// A text of the document.
    pub(super) fn text(&self, key: &str) -> Option<&str> {
        self.document.get(key).and_then(Value::as_str)
    }

    /// The process id as text, as options have it; empty if there is none.
    pub(super) fn pid(&self) -> String {
        match self.document.get("pid") {
            Some(Value::String(text)) => text.clone(),
            Some(Value::Number(number)) => number.to_string(),
            _ => String::new(),
        }
    }

    /// The path of the socket, which is empty if there is none.
    pub(super) fn socket(&self) -> &str {
        self.text("socketPath").unwrap_or_default()
    }

    /// Whether it stands for a daemon and not for a session.
    pub(super) fn is_daemon(&self) -> bool {
        self.text("role") == Some("daemon")
    }

    /// The socket of the daemon that it belongs to, if it belongs to one.
    pub(super) fn daemon_socket(&self) -> Option<&str> {
        self.text("daemonSocketPath").or_else(|| self.is_daemon().then(|| self.socket()))
    }

    /// Whether nobody can be there: the process or the socket is gone, or it speaks something else.
    pub(super) fn is_stale(&self) -> bool {
        !self.alive || !self.socket_exists || self.text("protocol") != Some(PROTOCOL)
    }

    /// Whether it works on nothing, if it says so.
    pub(super) fn is_idle(&self) -> Option<bool> {
        self.document.get("isIdle").and_then(Value::as_bool)
    }

    /// Its model, as far as it is told.
    pub(super) fn model(&self) -> String {
        let text = |key: &str| self.document.get("model").and_then(|model| model[key].as_str());
        let provider = text("provider").map_or(String::new(), |provider| format!("{provider}/"));
        text("id").map_or(String::new(), |id| printable(&format!("{provider}{id}")).into_owned())
    }

    /// The document with what we found out.
    fn to_json(&self) -> Value {
        let mut document = self.document.clone();
        document.insert("alive".into(), self.alive.into());
        document.insert("socketExists".into(), self.socket_exists.into());
        document.insert("stale".into(), self.is_stale().into());
        Value::Object(document)
    }
}

/// What a row is made of; absent for a file that is none.
fn row(text: &str, is_alive: &dyn Fn(i32) -> bool, exists: &dyn Fn(&Path) -> bool) -> Option<Row> {
    let Ok(Value::Object(document)) = serde_json::from_str(text) else { return None };
    let pid = document.get("pid").and_then(Value::as_i64).and_then(|pid| i32::try_from(pid).ok());
    let alive = pid.is_some_and(|pid| pid > 0 && is_alive(pid));
    let socket = document.get("socketPath").and_then(Value::as_str);
    let socket_exists = socket.is_some_and(|path| exists(Path::new(path)));
    Some(Row { document, alive, socket_exists })
}

/// Whether a process runs; one that is not ours to signal does.
fn is_alive(pid: i32) -> bool {
    Pid::from_raw(pid).is_some_and(|pid| !matches!(test_kill_process(pid), Err(rustix::io::Errno::SRCH)))
}

/// Reads the registry, ordered by process id as text. A file that is no registry entry, or is being written, is left out.
/// Rows of what is gone are there only with `all`.
///
/// # Errors
/// The directory is there but cannot be read.
pub(super) fn read(bridge_directory: &Path, all: bool) -> Result<Vec<Row>, Failure> {
    let directory = bridge_directory.join("instances");
    let failed = |e: io::Error| Failure::Local(format!("Cannot read {}: {e}", directory.display()));
    let entries = match std::fs::read_dir(&directory) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(failed(e)),
    };
    let mut rows = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_some_and(|extension| extension == "json")
            && let Ok(text) = files::read_text(&path, MAX_ROW)
            && let Some(row) = row(&text, &is_alive, &|path| path.exists())
            && (all || !row.is_stale())
        {
            rows.push((row.pid(), path, row));
        }
    }
    rows.sort_by(|a, b| (&a.0, &a.1).cmp(&(&b.0, &b.1)));
    // A session that comes to be its daemon's only one has two rows for a moment, one of its own and one in the daemon's place.
    let mut seen = HashSet::new();
    rows.retain(|(pid, _, row)| {
        row.is_stale() || row.text("sessionId").is_none_or(|id| seen.insert((pid.clone(), id.to_owned())))
    });
    Ok(rows.into_iter().map(|(_, _, row)| row).collect())
}

/// The names and ids of what is registered, for completion.
pub(super) fn names(bridge_directory: &Path) -> Vec<String> {
    let rows = read(bridge_directory, false).unwrap_or_default();
    let texts = rows.iter().flat_map(|row| [row.text("sessionName"), row.text("sessionId")]).flatten();
    texts.map(str::to_string).collect()
}

/// The rows as JSON, with `alive`, `socketExists` and `stale`.
pub(super) fn json<'a>(rows: impl IntoIterator<Item = &'a Row>) -> Value {
    rows.into_iter().map(Row::to_json).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use serde_json::json;

    /// A live row with these fields beside the obligatory ones.
    pub(crate) fn live(fields: Value) -> Row {
        let mut document = json!({"protocol": PROTOCOL, "pid": 10, "socketPath": "/s"});
        for (key, value) in fields.as_object().expect("fields") {
            document[key] = value.clone();
        }
        row(&document.to_string(), &|_| true, &|_| true).expect("a row")
    }

    #[test]
    fn a_row_is_stale_when_something_is_missing() {
        for (fields, alive, exists, stale) in [
            (json!({}), true, true, false),
            (json!({}), false, true, true),
            (json!({}), true, false, true),
            (json!({"pid": "10"}), true, true, true),
            (json!({"pid": 10.5}), true, true, true),
            (json!({"pid": 0}), true, true, true),
            (json!({"pid": -1}), true, true, true),
            (json!({"pid": 1_u64 << 40}), true, true, true),
            (json!({"protocol": "pi-session-bridge.v2"}), true, true, true),
            (json!({"protocol": null}), true, true, true),
            (json!({"socketPath": 5}), true, true, true),
        ] {
            let mut document = json!({"protocol": PROTOCOL, "pid": 10, "socketPath": "/s"});
            for (key, value) in fields.as_object().expect("fields") {
                document[key] = value.clone();
            }
            let row = row(&document.to_string(), &|_| alive, &|_| exists).expect("a row");
            assert_eq!(row.is_stale(), stale, "{fields} {alive} {exists}");
            assert_eq!(row.to_json()["stale"], stale);
        }
    }

    #[test]
    fn what_is_no_object_is_no_row() {
        for text in ["", "{", "null", "5", "\"x\"", "[]", "{}}"] {
            assert!(row(text, &|_| true, &|_| true).is_none(), "{text}");
        }
    }

    #[test]
    fn a_session_is_there_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let instances = folder.path().join("instances");
        std::fs::create_dir(&instances).expect("a folder");
        let pid = std::process::id();
        let write = |name: &str, id: Option<&str>, socket: &str| {
            let socket = folder.path().join(socket);
            std::fs::write(&socket, "").expect("written");
            let fields = json!({"protocol": PROTOCOL, "pid": pid, "socketPath": socket, "sessionId": id});
            std::fs::write(instances.join(name), fields.to_string()).expect("written");
        };
        let sockets = || -> Vec<String> {
            let rows = read(folder.path(), false).expect("rows");
            rows.iter().map(|row| row.socket().rsplit('/').next().unwrap_or_default().to_owned()).collect()
        };
        write(&format!("{pid}-a.json"), Some("a"), "a.sock");
        write(&format!("{pid}-b.json"), Some("b"), "b.sock");
        write(&format!("{pid}.json"), None, "daemon.sock");
        assert_eq!(sockets(), ["a.sock", "b.sock", "daemon.sock"]);
        write(&format!("{pid}.json"), Some("b"), "daemon.sock");
        assert_eq!(sockets(), ["a.sock", "b.sock"]);
        std::fs::remove_file(folder.path().join("b.sock")).expect("removed");
        assert_eq!(sockets(), ["a.sock", "daemon.sock"]);
    }

    #[test]
    fn processes() {
        assert!(is_alive(std::process::id() as i32));
        assert!(is_alive(1), "also when it is not ours to signal");
        assert!(!is_alive(i32::MAX));
    }
}
