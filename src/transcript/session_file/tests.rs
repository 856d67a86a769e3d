use super::*;
use crate::transcript::restore::restore;
use crate::transcript::{AssistantMessage, Block, Content, Message, StopReason, ToolResultMessage, Usage, UserMessage};
use std::os::unix::fs::PermissionsExt;
use tempfile::TempDir;

const CREATED: &str = "2026-01-02T03:04:05.678Z";

fn home() -> (TempDir, PathBuf) {
    let home = tempfile::tempdir().expect("a folder");
    let path = home.path().join("deep/er/s.jsonl");
    (home, path)
}

fn create(path: &Path) -> SessionFile {
    SessionFile::create(path, "abc", CREATED, Path::new("/w"), Fields::new()).expect("created")
}

fn user(text: &str) -> Message {
    Message::User(UserMessage { content: Content::Text(text.into()), timestamp: 7 })
}

fn answer() -> Message {
    Message::Assistant(AssistantMessage {
        content: vec![
            Block::text("ü\0\u{2028}😀"),
            Block::Image { data: "AA==".into(), mime_type: "image/png".into() },
        ],
        api: "openai-completions".into(),
        provider: "p".into(),
        model: "m".into(),
        response_model: None,
        response_id: None,
        usage: Usage { input: 3, ..Usage::default() },
        stop_reason: StopReason::Stop,
        error_message: None,
        raw_stop_reason: None,
        thinking_level: None,
        timestamp: 8,
        duration_ms: Some(1),
    })
}

fn result() -> Message {
    Message::ToolResult(ToolResultMessage {
        tool_call_id: "c".into(),
        tool_name: "bash".into(),
        content: vec![Block::text("ok")],
        details: Some(json!({"x": [1.5, null]})),
        is_error: false,
        duration_ms: None,
        timestamp: 9,
    })
}

fn append_message(file: &mut SessionFile, message: &Message) -> io::Result<String> {
    file.append("message", &json!({"message": message}))
}

fn append_custom(file: &mut SessionFile, data: Value) -> io::Result<String> {
    file.append("custom", &json!({"customType": "record", "data": data}))
}

fn read(path: &Path) -> io::Result<Contents> {
    Contents::parse(std::fs::read(path)?)
}

fn size(path: &Path) -> u64 {
    path.metadata().expect("there").len()
}

fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).expect("read");
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

#[test]
fn a_new_file_is_private_and_has_a_header() {
    let (_home, path) = home();
    let parent = object(json!({"parentSession": "/p.jsonl"}));
    let file = SessionFile::create(&path, "abc", CREATED, Path::new("/w"), parent).expect("created");
    let mode = |path: &Path| path.metadata().expect("there").permissions().mode() & 0o777;
    let folder = path.parent().expect("a folder");
    assert_eq!((mode(&path), mode(folder), mode(folder.parent().expect("a folder"))), (0o600, 0o700, 0o700));
    let header =
        json!({"type":"session","version":3,"id":"abc","timestamp":CREATED,"cwd":"/w","parentSession":"/p.jsonl"});
    assert_eq!(lines(&path), [header]);
    assert_eq!(file.length, size(&path));
    assert_eq!(file.leaf.as_deref(), None);
    let again = SessionFile::create(&path, "abc", CREATED, Path::new("/w"), Fields::new()).expect_err("it is there");
    assert_eq!(again.kind(), ErrorKind::AlreadyExists);
}

#[test]
fn entries_are_linked_and_have_the_format_s_fields() {
    let (_home, path) = home();
    let mut file = create(&path);
    let first = append_message(&mut file, &user("hi")).expect("appended");
    let kinds = [
        ("model_change", json!({"provider": "p", "modelId": "m"})),
        ("compaction", json!({"summary": "S", "firstKeptEntryId": first, "tokensBefore": 9})),
        ("custom", json!({"customType": "our.record", "data": {"n": 1}})),
        ("from_the_future", json!({"x": 1})),
    ];
    let appended = kinds.clone().map(|(kind, fields)| file.append(kind, &fields).expect("appended"));
    file.sync().expect("synced");
    let ids: Vec<String> = std::iter::once(first).chain(appended).collect();
    assert_eq!(file.leaf.as_deref(), ids.last().map(String::as_str));
    assert!(ids.iter().all(|id| id.len() == 8 && short_id(id).is_some()), "{ids:?}");
    let message = ("message", json!({"message": {"role": "user", "content": "hi", "timestamp": 7}}));
    let expected = std::iter::once(message).chain(kinds).map(|(kind, mut fields)| {
        fields["type"] = json!(kind);
        fields
    });
    for (at, (mut line, expected)) in lines(&path).into_iter().skip(1).zip(expected).enumerate() {
        let fields = line.as_object_mut().expect("an object");
        assert_eq!(fields.keys().take(4).collect::<Vec<_>>(), ["type", "id", "parentId", "timestamp"]);
        assert_eq!(fields.remove("id"), Some(json!(ids[at])));
        assert_eq!(fields.remove("parentId"), Some(at.checked_sub(1).map_or(Value::Null, |before| json!(ids[before]))));
        let time = fields.remove("timestamp").expect("a time");
        assert!(time.as_str().is_some_and(|time| time.len() == CREATED.len() && time.ends_with('Z')), "{time}");
        assert_eq!(line, expected);
    }
    assert_eq!(lines(&path).len(), 6);
    assert_eq!(file.length, size(&path));
}

#[test]
fn every_kind_of_message_comes_back_from_the_file() {
    let (_home, path) = home();
    let messages = [
        user("a\nb"),
        Message::User(UserMessage { content: Content::Blocks(vec![Block::text("t")]), timestamp: 1 }),
        answer(),
        result(),
    ];
    let mut file = create(&path);
    let ids: Vec<String> =
        messages.iter().map(|message| append_message(&mut file, message).expect("appended")).collect();
    drop(file);
    let (file, contents) = SessionFile::open(&path).expect("opened");
    let restored = restore(&contents);
    assert_eq!(restored.messages.iter().map(|message| Message::clone(message)).collect::<Vec<_>>(), messages);
    assert_eq!(restored.entry_ids, ids);
    assert_eq!((contents.leaf(), file.leaf.as_deref()), (Some(&*ids[3]), Some(&*ids[3])));
    let text = std::fs::read_to_string(&path).expect("it is read");
    let header: Value = serde_json::from_str(text.lines().next().expect("a line")).expect("JSON");
    let expected = json!({"type": "session", "version": 3, "id": "abc", "timestamp": CREATED, "cwd": "/w"});
    assert_eq!(header, expected);
    assert_eq!(restored.usage.input, 3);
}

#[test]
fn arguments_of_any_depth_that_is_taken_come_back_from_the_file() {
    let (_home, path) = home();
    let mut file = create(&path);
    let mut messages = Vec::new();
    for depth in 1..200 {
        let text = format!("{}1{}", r#"{"a":"#.repeat(depth), "}".repeat(depth));
        let Ok(arguments) = crate::json::tolerant::arguments(&text) else { break };
        let (id, name) = ("c".to_string(), "bash".to_string());
        let call = Block::ToolCall { id, name, arguments, thought_signature: None, arguments_error: None };
        let Message::Assistant(mut message) = answer() else { panic!("an answer") };
        message.content = vec![call];
        messages.push(Message::Assistant(message));
        append_message(&mut file, &messages[depth - 1]).expect("appended");
    }
    assert!(messages.len() >= 64);
    let restored = restore(&read(&path).expect("read"));
    assert!(restored.messages.iter().map(|message| &**message).eq(&messages));
}

#[test]
fn a_file_cut_anywhere_can_be_gone_on_with() {
    let (home, path) = home();
    let mut file = create(&path);
    let mut ids = vec![append_message(&mut file, &user("ö\0ne")).expect("appended")];
    ids.push(append_message(&mut file, &answer()).expect("appended"));
    ids.push(append_message(&mut file, &result()).expect("appended"));
    ids.push(append_custom(&mut file, json!({"deep": [{"a": "}\n{"}]})).expect("appended"));
    drop(file);
    let whole = std::fs::read(&path).expect("read");
    let ends: Vec<usize> = whole.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at).collect();
    assert_eq!(ends.len(), 5);
    let cut = home.path().join("cut.jsonl");
    for length in 0..=whole.len() {
        std::fs::write(&cut, &whole[..length]).expect("written");
        let whole_lines = ends.iter().filter(|end| **end <= length).count();
        if whole_lines == 0 {
            assert_eq!(SessionFile::open(&cut).expect_err("no header").kind(), ErrorKind::InvalidData, "{length}");
            assert_eq!(std::fs::read(&cut).expect("read"), &whole[..length], "left as it was");
            continue;
        }
        let kept = &ids[..whole_lines - 1];
        let (mut file, contents) = SessionFile::open(&cut).expect("opened");
        assert_eq!(contents.ids().collect::<Vec<_>>(), kept, "{length}");
        let last = append_message(&mut file, &user("more")).expect("appended");
        assert_eq!(file.length, size(&cut));
        drop(file);
        let bytes = std::fs::read(&cut).expect("read");
        assert!(bytes.starts_with(&whole[..=ends[whole_lines - 1]]), "{length}");
        let (_, contents) = SessionFile::open(&cut).expect("opened again");
        assert_eq!((contents.malformed, contents.ids().count()), (0, whole_lines), "{length}");
        let path: Vec<_> = contents.active_path().into_iter().filter_map(|index| contents.id(index)).collect();
        assert_eq!(path, [kept, &[last]].concat(), "{length}");
    }
}

#[test]
fn a_tail_of_zeroes_is_cut_off_and_damage_before_it_stays() {
    let (_home, path) = home();
    drop(create(&path));
    let mut bytes = std::fs::read(&path).expect("read");
    bytes.extend_from_slice(b"gar\0bage\n");
    let kept = bytes.clone();
    bytes.extend_from_slice(&[0; 4096]);
    std::fs::write(&path, &bytes).expect("written");
    let (file, contents) = SessionFile::open(&path).expect("opened");
    assert_eq!(std::fs::read(&path).expect("read"), kept);
    assert_eq!((file.length, contents.malformed), (kept.len() as u64, 2));
}

#[test]
fn one_writer_at_a_time() {
    let (_home, path) = home();
    let file = create(&path);
    let error = SessionFile::open(&path).expect_err("the file is taken");
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
    assert!(error.to_string().contains("in use"), "{error}");
    assert!(read(&path).is_ok(), "reading needs no lock");
    drop(file);
    let (opened, _) = SessionFile::open(&path).expect("free again");
    assert_eq!(SessionFile::open(&path).expect_err("taken again").kind(), ErrorKind::WouldBlock);
    drop(opened);
}

#[test]
fn only_plain_files_are_opened() {
    let (home, path) = home();
    drop(create(&path));
    let link = home.path().join("link");
    std::os::unix::fs::symlink(&path, &link).expect("a link");
    let fifo = home.path().join("fifo");
    rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, rustix::fs::Mode::from_raw_mode(0o600)).expect("a FIFO");
    for path in [&link, &fifo] {
        assert_eq!(SessionFile::open(path).expect_err("refused").kind(), ErrorKind::InvalidInput);
    }
    let other = home.path().join("notes");
    std::fs::write(&other, "dear diary").expect("written");
    assert_eq!(SessionFile::open(&other).expect_err("refused").kind(), ErrorKind::InvalidData);
    assert_eq!(std::fs::read(&other).expect("read"), b"dear diary");
    assert_eq!(
        SessionFile::create(&link, "x", CREATED, Path::new("/"), Fields::new()).expect_err("there").kind(),
        ErrorKind::AlreadyExists
    );
}

#[test]
fn a_failed_write_leaves_the_file_as_it_was() {
    let (_home, path) = home();
    let mut file = create(&path);
    let first = append_message(&mut file, &user("one")).expect("appended");
    let before = std::fs::read(&path).expect("read");
    // A file that is open only for reading fails each write, as a full disk would.
    let writable = std::mem::replace(&mut file.file, File::open(&path).expect("opened"));
    assert!(append_message(&mut file, &user("two")).is_err());
    assert_eq!((std::fs::read(&path).expect("read"), file.leaf.as_deref()), (before.clone(), Some(&*first)));
    // Half a line was written, and could not be taken back at once.
    file.file = writable;
    std::fs::OpenOptions::new()
        .append(true)
        .open(&path)
        .and_then(|mut other| std::io::Write::write_all(&mut other, b"{\"type\":\"mess"))
        .expect("written");
    assert!(file.torn, "an unwritable file cannot be cut either");
    let third = append_message(&mut file, &user("three")).expect("appended");
    let contents = read(&path).expect("read");
    assert_eq!((contents.ids().collect::<Vec<_>>(), contents.malformed), (vec![&*first, &*third], 0));
    assert_eq!(file.length, size(&path));
}

#[test]
fn what_could_not_be_read_again_is_refused() {
    let (_home, path) = home();
    let mut file = create(&path);
    let error = append_custom(&mut file, json!("x".repeat(MAX_LINE))).expect_err("too long");
    assert_eq!(error.kind(), ErrorKind::FileTooLarge);
    let length = file.length;
    file.file.set_len(MAX_FILE - 10).expect("a hole");
    assert_eq!(append_message(&mut file, &user("x")).expect_err("too large").kind(), ErrorKind::FileTooLarge);
    file.file.set_len(length).expect("cut");
    append_message(&mut file, &user("x")).expect("appended");
    assert_eq!(lines(&path).len(), 2);
}

#[test]
fn ids_are_unique_in_the_file() {
    let (_home, path) = home();
    let mut file = create(&path);
    for number in 0..500 {
        append_custom(&mut file, json!(number)).expect("appended");
    }
    let (taken, leaf) = (file.ids.clone(), file.leaf.clone());
    drop(file);
    let (file, contents) = SessionFile::open(&path).expect("opened");
    assert_eq!((contents.ids().count(), file.ids.len()), (500, 500));
    assert_eq!((&file.ids, &file.leaf), (&taken, &leaf), "a new writer knows the ids of the one before");
}

#[test]
fn whatever_happened_to_a_file_it_is_refused_or_gone_on_with() {
    let (home, path) = home();
    let mut file = create(&path);
    let first = append_message(&mut file, &user("one")).expect("appended");
    append_message(&mut file, &answer()).expect("appended");
    append_message(&mut file, &result()).expect("appended");
    let compaction = json!({"summary": "S", "firstKeptEntryId": first, "tokensBefore": 9});
    file.append("compaction", &compaction).expect("appended");
    file.append("context_edit", &json!({"targetId": first, "replacement": null})).expect("appended");
    drop(file);
    let whole = std::fs::read(&path).expect("read");
    let damaged = home.path().join("damaged.jsonl");
    let mut gone_on_with = 0;
    for seed in 0..500 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut bytes = whole.clone();
        for _ in 0..random.usize(1..4) {
            let from = random.usize(..=bytes.len());
            let to = (from + random.usize(..80)).min(bytes.len());
            let piece = bytes[from..to].to_vec();
            match random.u8(..5) {
                0 => drop(bytes.drain(from..to)),
                1 => bytes[from..to].fill(0),
                2 => bytes[from..to].iter_mut().for_each(|byte| *byte = random.u8(..)),
                3 => drop(bytes.splice(from..from, piece)),
                _ => drop(bytes.splice(from..to, *b"\n")),
            }
        }
        std::fs::write(&damaged, &bytes).expect("written");
        let Ok((mut file, before)) = SessionFile::open(&damaged) else {
            assert_eq!(std::fs::read(&damaged).expect("read"), bytes, "{seed}: what is refused is left as it was");
            continue;
        };
        gone_on_with += 1;
        let restored = restore(&before);
        assert_eq!(restored.messages.len(), restored.entry_ids.len(), "{seed}");
        assert!(before.active_path().is_sorted(), "{seed}");
        let last = append_message(&mut file, &user("more")).expect("appended");
        drop(file);
        let after = read(&damaged).expect("read");
        assert_eq!(after.ids().collect::<Vec<_>>(), before.ids().chain([&*last]).collect::<Vec<_>>(), "{seed}");
        assert_eq!(restore(&after).entry_ids.last(), Some(&last), "{seed}");
    }
    assert!(gone_on_with > 250, "most of the damage is not to the header: {gone_on_with}");
}
