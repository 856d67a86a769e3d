//! Any bytes, read as a session file: it is refused and left as it was, or it can be gone on with and nothing is lost; and
//! what is restored from it, written to another file, is restored from that.
#![no_main]

#[path = "../alike.rs"]
mod alike;

use alike::alike;
use libfuzzer_sys::fuzz_target;
use nats_pi_bridge::fuzzing::transcript::{
    Content, Contents, Message, Restored, SessionFile, UserMessage, object, read_id, restore,
};
use serde_json::{Value, json};
use std::path::Path;

fuzz_target!(|bytes: &[u8]| {
    // In memory, if there is such a file system: every input is written several times.
    let memory = Path::new("/dev/shm");
    let folder = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    let folder = done(folder);
    let path = folder.path().join("damaged.jsonl");
    done(std::fs::write(&path, bytes));
    let contents = match Contents::parse(bytes.to_vec()) {
        Ok(contents) => contents,
        Err(error) => {
            assert_eq!(SessionFile::open(&path).err().map(|e| e.kind()), Some(error.kind()));
            assert_eq!(done(std::fs::read(&path)), bytes, "what is refused is left as it was");
            return;
        }
    };
    assert!(read_id(&path).is_ok());
    let entries = contents.ids().count();
    let lines = bytes.split(|byte| *byte == b'\n').count();
    assert!(1 + entries + contents.malformed + contents.duplicates <= lines);
    let branch = contents.active_path();
    assert!(branch.is_sorted_by(|one, next| one < next) && branch.last().copied() == entries.checked_sub(1));
    assert!((0..entries).all(|index| contents.entry(index).is_some() && contents.id(index).is_some()));
    let before = restore(&contents);
    assert_eq!(before.messages.len(), before.entry_ids.len());
    let on_branch: Vec<_> = branch.iter().filter_map(|index| contents.id(*index)).collect();
    assert!(before.entry_ids.iter().all(|id| on_branch.contains(&id.as_str())));

    gone_on_with(&path, bytes, &contents, &before);
    written_anew(&folder.path().join("new.jsonl"), &before);
});

/// Opens a file and appends to it.
fn gone_on_with(path: &Path, bytes: &[u8], contents: &Contents, before: &Restored) {
    let (mut file, opened) = done(SessionFile::open(path));
    assert!(opened.ids().eq(contents.ids()));
    let whole = done(std::fs::read(path));
    let kept = bytes.len().min(whole.len());
    assert_eq!(whole[..kept], bytes[..kept]);
    assert!(whole.ends_with(b"\n"), "the next entry has a line of its own");
    assert!(!bytes[kept..].contains(&b'\n') && whole[kept..].iter().all(|byte| *byte == b'\n'));

    let words = Message::User(UserMessage { content: Content::Text("more".into()), timestamp: 7 });
    let last = done(file.append("message", &json!({"message": words})));
    drop(file);
    let (file, after) = done(SessionFile::open(path));
    drop(file);
    assert!(done(std::fs::read(path)).starts_with(&whole), "nothing was changed");
    assert!(after.ids().eq(contents.ids().chain([&*last])));
    assert_eq!((after.duplicates, after.usage), (contents.duplicates, contents.usage));
    let after = restore(&after);
    assert_eq!(after.entry_ids.strip_suffix(&[last]), Some(&before.entry_ids[..]));
    assert_eq!(after.messages.split_last().map(|(last, rest)| (&**last, rest)), Some((&words, &before.messages[..])));
    assert_eq!((&after.name, &after.thinking, &after.model), (&before.name, &before.thinking, &before.model));
}

/// How many lists and objects are inside each other.
fn depth(value: &Value) -> usize {
    match value {
        Value::Array(list) => 1 + list.iter().map(depth).max().unwrap_or(0),
        Value::Object(map) => 1 + map.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

/// Writes what was restored to a new file, and restores it from there.
fn written_anew(path: &Path, before: &Restored) {
    // Some kinds of entries have their contents less deep than the entry of a message has, and what is near the limit of
    // the JSON parser would come to be beyond it.
    if before.messages.iter().any(|message| depth(&shown(message)) > 100) {
        return;
    }
    let mut file = done(SessionFile::create(path, "s", "2026-01-02T03:04:05.678Z", Path::new("/w"), object(json!({}))));
    let mut ids = Vec::new();
    for message in &before.messages {
        ids.push(done(file.append("message", &json!({"message": &**message}))));
    }
    for (kind, fields) in [
        ("session_info", before.name.as_ref().map(|name| json!({"name": name}))),
        ("model_change", before.model.as_ref().map(|(p, m)| json!({"provider": p, "modelId": m}))),
        ("thinking_level_change", before.thinking.as_ref().map(|level| json!({"thinkingLevel": level}))),
    ] {
        if let Some(fields) = fields {
            done(file.append(kind, &fields));
        }
    }
    drop(file);
    let contents = done(std::fs::read(path).and_then(Contents::parse));
    assert_eq!((contents.malformed, contents.duplicates), (0, 0));
    let after = restore(&contents);
    assert_eq!(after.entry_ids, ids);
    assert_eq!((&after.name, &after.thinking, &after.model), (&before.name, &before.thinking, &before.model));
    for (message, same) in before.messages.iter().zip(&after.messages) {
        let (message, same) = (shown(message), shown(same));
        assert!(alike(&message, &same), "{message}\n{same}");
    }
}

fn shown(message: &Message) -> Value {
    serde_json::to_value(message).unwrap_or_else(|error| panic!("{error}"))
}

fn done<T>(result: std::io::Result<T>) -> T {
    result.unwrap_or_else(|error| panic!("{error}"))
}
