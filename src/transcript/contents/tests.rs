use super::*;

const HEADER: &str = r#"{"type":"session","version":3,"id":"s","timestamp":"2026-01-02T03:04:05.678Z","cwd":"/w"}"#;

fn parse(lines: &[&str]) -> Contents {
    Contents::parse(lines.join("\n").into_bytes()).expect("a session file")
}

/// A header and what follows.
fn with_header(lines: &[&str]) -> Contents {
    parse(&[&[HEADER], lines].concat())
}

fn read(path: &Path) -> io::Result<Contents> {
    read_file(&files::open(path, File::options().read(true), Links::Refuse)?.0)
}

fn ids(contents: &Contents) -> Vec<&str> {
    contents.ids().collect()
}

fn path(contents: &Contents) -> Vec<&str> {
    contents.active_path().into_iter().filter_map(|index| contents.id(index)).collect()
}

#[test]
fn a_header_alone_is_a_session_without_entries() {
    for header in [HEADER, r#"{"type":"session","id":"s","parentSession":"/p.jsonl"}"#] {
        let contents = parse(&[header]);
        assert!(ids(&contents).is_empty() && contents.leaf().is_none() && contents.active_path().is_empty());
    }
}

#[test]
fn what_is_no_session_file_is_told_so() {
    for (bytes, text) in [
        (&b""[..], "it is empty"),
        (b"\n \n", "does not begin"),
        (b"\0\0\0\0", "does not begin"),
        (b"hello\n", "does not begin"),
        (b"{\"type\":\"message\",\"id\":\"a\"}\n", "does not begin"),
        (b"{\"type\":\"session\",\"version\":3}\n", "does not begin"),
        (b"{\"type\":\"session\",\"id\":7}\n", "does not begin"),
        (b"{\"type\":\"session\",\"id\":\"s\",\"version\":4}\n", "version 4"),
    ] {
        let error = Contents::parse(bytes.to_vec()).expect_err("it must fail");
        assert_eq!(error.kind(), ErrorKind::InvalidData);
        assert!(error.to_string().contains(text), "{error}");
    }
}

#[test]
fn damaged_lines_cost_only_themselves() {
    let a = r#"{"type":"message","id":"a","parentId":null,"timestamp":"1"}"#;
    let b = r#"{"type":"message","id":"b","parentId":"a","timestamp":"2"}"#;
    let c = r#"{"type":"message","id":"c","parentId":"b","timestamp":"3"}"#;
    let other_a = r#"{"type":"message","id":"a","parentId":"b","timestamp":"9"}"#;
    let after_other = r#"{"type":"message","id":"d","parentId":"a","timestamp":"10"}"#;
    let deep = format!("{{\"type\":\"x\",\"data\":{}1{}}}", "[".repeat(10_000), "]".repeat(10_000));
    for (what, lines, expected_path, malformed, duplicates) in [
        ("whole", vec![a, b, c], vec!["a", "b", "c"], 0, 0),
        ("torn in the middle", vec![a, r#"{"type":"mess"#, b], vec!["a", "b"], 1, 0),
        ("torn at the end", vec![a, b, &c[..20]], vec!["a", "b"], 1, 0),
        ("NUL bytes in between", vec![a, "\0\0\0\0", b], vec!["a", "b"], 1, 0),
        ("NUL bytes at the end", vec![a, b, "\0\0\0\0\0"], vec!["a", "b"], 1, 0),
        ("empty and blank lines", vec!["", a, "   ", b, "", ""], vec!["a", "b"], 0, 0),
        ("JSON that is no entry", vec!["5", "[]", "{}", r#"{"type":5}"#, a], vec!["a"], 4, 0),
        ("too deep", vec![a, &deep, b], vec!["a", "b"], 1, 0),
        ("a parent's line is missing", vec![a, c], vec!["a", "c"], 0, 0),
        ("the first line is missing", vec![b, c], vec!["b", "c"], 0, 0),
        ("a line twice", vec![a, b, b, c], vec!["a", "b", "c"], 0, 1),
        ("an older line again at the end", vec![a, b, c, a], vec!["a", "b", "c"], 0, 1),
        ("the whole file again, as PI does it", vec![a, b, HEADER, a, b, c], vec!["a", "b", "c"], 0, 3),
        ("two entries of one id", vec![a, b, other_a, after_other], vec!["a", "b", "a", "d"], 0, 0),
        ("a parent that comes later", vec![c, b, a], vec!["a"], 0, 0),
        ("its own parent", vec![a, r#"{"type":"x","id":"e","parentId":"e"}"#], vec!["a", "e"], 0, 0),
        ("a new root", vec![a, b, r#"{"type":"x","id":"e","parentId":null}"#], vec!["e"], 0, 0),
        ("a branch", vec![a, b, r#"{"type":"x","id":"e","parentId":"a"}"#], vec!["a", "e"], 0, 0),
        ("no parent named", vec![a, r#"{"type":"x","id":"e"}"#], vec!["a", "e"], 0, 0),
        ("Windows line ends", vec![a, "\r", b, "\r"], vec!["a", "b"], 0, 0),
    ] {
        let contents = with_header(&lines);
        assert_eq!(path(&contents), expected_path, "{what}");
        assert_eq!((contents.malformed, contents.duplicates), (malformed, duplicates), "{what}");
    }
}

#[test]
fn texts_that_only_javascript_can_hold_are_read() {
    let bytes = [
        "\u{feff}".as_bytes(),
        HEADER.as_bytes(),
        b"\n{\"type\":\"custom\",\"id\":\"a\",\"parentId\":null,\"data\":\"half \\ud83d pair\"}",
        b"\n{\"type\":\"custom\",\"id\":\"b\",\"parentId\":\"a\",\"data\":\"bad \xff byte\"}",
    ]
    .concat();
    let contents = Contents::parse(bytes).expect("a session file");
    assert_eq!((path(&contents), contents.malformed), (vec!["a", "b"], 0));
    let data = |index| contents.entry(index).and_then(|entry| Some(entry.get("data")?.as_str()?.to_string()));
    assert_eq!(data(0).as_deref(), Some("half  pair"));
    assert_eq!(data(1).as_deref(), Some("bad \u{fffd} byte"));
}

#[test]
fn version_one_gets_ids_and_links() {
    let lines = [r#"{"type":"session","id":"s"}"#, r#"{"type":"message"}"#, "garbage", r#"{"type":"compaction"}"#];
    let contents = parse(&lines);
    assert_eq!(ids(&contents), ["00000000", "00000001"]);
    assert_eq!(path(&contents), ["00000000", "00000001"]);
    let again = parse(&[&lines[..], &[r#"{"type":"custom","id":"x","parentId":"00000001"}"#]].concat());
    assert_eq!(path(&again), ["00000000", "00000001", "x"], "what was appended keeps its parent");
}

#[test]
fn usage_is_summed_over_every_branch() {
    let contents = with_header(&[
        r#"{"type":"message","id":"a","parentId":null,"timestamp":"1","message":{"role":"assistant","usage":{"input":1,"cost":{"total":0.5}}}}"#,
        r#"{"type":"message","id":"b","parentId":null,"timestamp":"2","message":{"role":"toolResult","usage":{"input":10}}}"#,
        r#"{"type":"message","id":"b","parentId":null,"timestamp":"2","message":{"role":"toolResult","usage":{"input":10}}}"#,
        r#"{"type":"compaction","id":"c","parentId":"b","usage":{"input":100,"cost":{"total":0.25}}}"#,
        r#"{"type":"usage","id":"d","parentId":"c","usage":{"input":1000}}"#,
        r#"{"type":"message","id":"e","parentId":"d","message":{"role":"assistant","usage":"much"}}"#,
    ]);
    assert_eq!((contents.usage.input, contents.usage.cost.total), (1111, 0.75));
}

#[test]
fn only_plain_files_of_a_bounded_size_are_read() {
    let home = tempfile::tempdir().expect("a folder");
    let path = |name: &str| home.path().join(name);
    std::fs::write(path("good"), HEADER).expect("a file");
    std::os::unix::fs::symlink(path("good"), path("link")).expect("a link");
    rustix::fs::mkfifoat(rustix::fs::CWD, path("fifo"), rustix::fs::Mode::from_raw_mode(0o600)).expect("a FIFO");
    // A hole: the size is there, the disk space is not.
    File::create(path("huge")).and_then(|file| file.set_len(MAX_FILE + 1)).expect("a file");
    for (name, expected) in [
        ("good", None),
        ("link", Some(ErrorKind::InvalidInput)),
        ("fifo", Some(ErrorKind::InvalidInput)),
        (".", Some(ErrorKind::IsADirectory)),
        ("none", Some(ErrorKind::NotFound)),
        ("huge", Some(ErrorKind::FileTooLarge)),
    ] {
        assert_eq!(read(&path(name)).err().map(|error| error.kind()), expected, "{name}");
    }
    std::fs::write(path("marked"), format!("\u{feff}{HEADER}")).expect("a file");
    for name in ["good", "marked"] {
        assert_eq!(read_id(&path(name)).expect("a header"), "s");
        assert!(read(&path(name)).is_ok());
    }
    assert_eq!(read_id(&path("link")).expect_err("a link").kind(), ErrorKind::InvalidInput);
    assert_eq!(read_id(&path("huge")).expect_err("no header").kind(), ErrorKind::InvalidData);
}
