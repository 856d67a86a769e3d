use super::chain::NO_HASH;
use super::verify::Unfit;
use super::*;
use crate::clock::parse_time;
use std::os::unix::fs::PermissionsExt;
use std::sync::Mutex;

/// A log of so many lines beside the first, which begins in one month and ends in the next.
fn log(lines: usize) -> (tempfile::TempDir, Vec<Head>) {
    let dir = tempfile::tempdir().expect("a folder");
    let mut files = LogFiles::open(dir.path()).expect("it opens");
    let heads = (0..lines).map(|number| {
        let time = if number < lines / 2 { "2026-10-31T23:59:59Z" } else { "2026-11-01T00:00:00Z" };
        let facts = json!({"session": "s", "number": number});
        let record = Record {
            at: parse_time(time).expect("a time"),
            event: "gate",
            facts: facts.as_object().cloned().expect("an object"),
        };
        files.append(&[record]).expect("it is written");
        files.head().clone()
    });
    let heads = heads.collect();
    (dir, heads)
}

fn seen(head: &Head) -> Seen {
    Seen { head: head.clone(), signature: None }
}

fn unfit(folder: &Path, heads: &[Seen]) -> String {
    verify(folder, heads).expect_err("it does not fit").to_string()
}

#[test]
fn a_log_goes_on_over_months_and_starts() {
    let (dir, heads) = log(10);
    assert_eq!(months_of(dir.path()), ["2026-10.jsonl", "2026-11.jsonl"]);
    let mode = |name: &str| dir.path().join(name).metadata().expect("it is there").permissions().mode() & 0o777;
    assert_eq!((mode(""), mode("2026-11.jsonl")), (0o700, 0o600));
    // Each file begins with a line of its own.
    assert_eq!(
        verify(dir.path(), &[]).expect("it fits"),
        Verified { first: 1, last: 12, torn: 0, heads: 0, foreign: 0 }
    );
    let mut files = LogFiles::open(dir.path()).expect("it opens");
    assert_eq!((&files.head().log, files.head().seq), (&heads[0].log, 12));
    // A clock that goes back does not go back in the log.
    let back = Record { at: 0, event: "x", facts: Map::new() };
    files.append(&[back]).expect("it is written");
    let all: Vec<Seen> = heads.iter().map(seen).collect();
    assert_eq!(
        verify(dir.path(), &all).expect("it fits"),
        Verified { first: 1, last: 13, torn: 0, heads: 10, foreign: 0 }
    );
    // Old months may be put away.
    std::fs::remove_file(dir.path().join("2026-10.jsonl")).expect("it is removed");
    assert_eq!(
        verify(dir.path(), &all).expect("it fits"),
        Verified { first: 7, last: 13, torn: 0, heads: 5, foreign: 0 }
    );
}

fn months_of(folder: &Path) -> Vec<String> {
    files::months(folder).expect("they are listed")
}

#[test]
fn every_change_of_a_byte_is_found_where_it_is() {
    let (dir, _) = log(6);
    let path = dir.path().join("2026-11.jsonl");
    let whole = std::fs::read(&path).expect("it is read");
    for at in 0..whole.len() {
        let mut changed = whole.clone();
        changed[at] ^= 1;
        std::fs::write(&path, &changed).expect("it is written");
        let line = 1 + whole[..at].iter().filter(|byte| **byte == b'\n').count();
        if at + 1 == whole.len() {
            assert!(verify(dir.path(), &[]).expect("it looks torn").torn > 0);
        } else {
            assert!(unfit(dir.path(), &[]).starts_with(&format!("2026-11.jsonl:{line}: the line is not what")), "{at}");
        }
    }
}

#[test]
fn lines_that_are_gone_doubled_or_moved_are_found() {
    let (dir, heads) = log(6);
    let path = dir.path().join("2026-11.jsonl");
    let whole = std::fs::read_to_string(&path).expect("it is read");
    let lines: Vec<&str> = whole.lines().collect();
    assert_eq!(lines.len(), 4);
    for (order, expected) in [
        (vec![0, 2, 3], "2026-11.jsonl:2: line 7 follows line 5: lines are missing"),
        (vec![1, 2, 3], "2026-11.jsonl:1: line 6 follows line 4: lines are missing"),
        (vec![0, 1, 1, 2, 3], "2026-11.jsonl:3: line 6 follows line 6: a line is there twice"),
        (vec![0, 2, 1, 3], "2026-11.jsonl:2: line 7 follows line 5: lines are missing"),
        (vec![0, 1, 2, 0, 3], "2026-11.jsonl:4: line 5 follows line 7: a line is out of its order, or there twice"),
    ] {
        let text: String = order.iter().map(|at| format!("{}\n", lines[*at])).collect();
        std::fs::write(&path, text).expect("it is written");
        assert_eq!(unfit(dir.path(), &[]), expected, "{order:?}");
    }
    // An end that was cut off is only known by a head.
    let cut: String = lines[..3].iter().map(|line| format!("{line}\n")).collect();
    std::fs::write(&path, &cut).expect("it is written");
    assert_eq!(verify(dir.path(), &[]).expect("it fits").last, 7);
    let last = seen(&heads[5]);
    assert_eq!(
        unfit(dir.path(), std::slice::from_ref(&last)),
        "head 8 of 2026-11-01T00:00:00.000Z: the log ends with line 7: its end was cut off"
    );
    // The same cut in the middle of a line.
    std::fs::write(&path, &whole[..whole.len() - 5]).expect("it is written");
    let torn = verify(dir.path(), &[]).expect("it fits");
    assert!(torn.torn > 100 && torn.last == 7);
    assert!(matches!(verify(dir.path(), std::slice::from_ref(&last)), Err(Unfit::Head { seq: 8, .. })));
    // A log that was written anew from there on.
    let mut files = LogFiles::open(dir.path()).expect("it opens");
    files.append(&[Record::new("gate", Map::new())]).expect("it is written");
    assert_eq!(unfit(dir.path(), &[last]), "head 8 of 2026-11-01T00:00:00.000Z: the log has another line there");
}

#[test]
fn a_log_with_a_wrong_end_is_not_gone_on_with() {
    let (dir, _) = log(4);
    let path = dir.path().join("2026-11.jsonl");
    let text = std::fs::read_to_string(&path).expect("it is read").replace("\"number\":3", "\"number\":4");
    std::fs::write(&path, text).expect("it is written");
    let error = LogFiles::open(dir.path()).map(drop).expect_err("it does not fit");
    assert!(error.to_string().contains("the last line does not fit"), "{error}");
}

#[test]
fn two_writers_make_one_chain_and_notice_what_is_gone() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut writers = [0, 1].map(|_| LogFiles::open(dir.path()).expect("it opens"));
    for _ in 0..3 {
        for writer in &mut writers {
            writer.append(&[Record::new("gate", Map::new())]).expect("it is written");
        }
    }
    assert_eq!(verify(dir.path(), &[]).expect("it fits").last, 7);
    let name = months_of(dir.path()).pop().expect("a file");
    std::fs::remove_file(dir.path().join(name)).expect("it is removed");
    let error = writers[1].append(&[Record::new("gate", Map::new())]).expect_err("lines are gone");
    assert!(error.to_string().contains("are gone"), "{error}");
}

#[test]
fn effects_wait_for_the_disk_and_heads_are_told() {
    let dir = tempfile::tempdir().expect("a folder");
    let heads = Arc::new(Mutex::new(Vec::new()));
    let published = heads.clone();
    let publish: Publish = Box::new(move |head| published.lock().expect("no panic").push(head.clone()));
    let audit = Audit::start(dir.path(), publish).expect("it starts");
    assert!(audit.record("started", Map::new()));
    let (sender, done) = bounded(1);
    let path = dir.path().to_path_buf();
    let check: Then = Box::new(move |written| {
        let last = verify(&path, &[]).map(|verified| verified.last).unwrap_or_default();
        let _ = sender.send((written, last));
    });
    audit.record_first(vec![("gate", Map::new()), ("tool_begun", Map::new())], check);
    assert_eq!(done.recv_timeout(Duration::from_secs(20)), Ok((Ok(()), 4)));
    audit.publish_head();
    drop(audit);
    let heads = heads.lock().expect("no panic");
    assert!(heads.iter().all(|head| head.seq == 4) && !heads.is_empty());
    let seen: Vec<Seen> = heads.iter().map(seen).collect();
    assert_eq!(verify(dir.path(), &seen).expect("it fits").heads, seen.len());
    assert_ne!(heads[0].hash, NO_HASH);
}
