use super::super::{EventLog, HistoryQuery, Settings};
use super::*;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

struct Dir(tempfile::TempDir);

impl Dir {
    fn new() -> Dir {
        Dir(tempfile::tempdir().expect("a directory"))
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("raw/7-s.jsonl")
    }

    fn spill(&self, max_bytes: u64) -> Spill {
        Spill::new(self.path(), max_bytes)
    }

    fn file(&self) -> String {
        std::fs::read_to_string(self.path()).unwrap_or_default()
    }
}

const TIME: &str = "2026-01-01T00:00:00.000Z";

/// Queues a payload without starting the writer's thread.
fn submit(spill: &Spill, payload: &str) -> Result<u64, String> {
    spill.shared.submit("e", TIME, &serde_json::to_string(payload).expect("JSON"))
}

/// Takes the oldest payload of the queue, as the writer does.
fn take(spill: &Spill) -> Option<Job> {
    spill.shared.lock().queue.pop_front()
}

/// Does the writer's work until the queue is empty.
fn drain(spill: &Spill) {
    while let Some(job) = take(spill) {
        spill.shared.write(&job);
    }
}

fn stored(spill: &Spill, payload: &str) -> u64 {
    let number = submit(spill, payload).expect("it is accepted");
    drain(spill);
    assert_eq!(spill.reader().stage(number), Stage::Stored);
    number
}

fn read(spill: &Spill, number: u64) -> String {
    spill.reader().read(number).expect("it is read").as_str().expect("a string").to_owned()
}

/// What the books say must be what the file is.
fn check(spill: &Spill, dir: &Dir) {
    let state = spill.shared.lock();
    assert_eq!(state.file_bytes, dir.file().len() as u64);
    let live: u64 =
        state.slots.values().filter(|slot| !matches!(slot.place, Place::Failed(_))).map(|slot| slot.bytes).sum();
    assert_eq!(state.live_bytes, live);
    assert_eq!((state.waiting, state.waiting_bytes), (0, 0));
}

fn reason(result: Result<u64, String>) -> String {
    let text = result.expect_err("it is refused");
    let (key, prose) = text.split_once('\n').expect("a line for programs and one for people");
    assert!(!prose.is_empty());
    key.to_owned()
}

#[test]
fn a_payload_is_one_line_and_comes_back() {
    let dir = Dir::new();
    let mut spill = dir.spill(0);
    let payload = "ä\n".repeat(40_000);
    let json = serde_json::to_string(&payload).expect("JSON");
    let number = spill.submit("s", "message_end", TIME, &json).expect("it is accepted");
    spill.reader().wait(&[number], Instant::now() + Duration::from_secs(30));
    assert_eq!(
        dir.file(),
        format!("{{\"ref\":\"1\",\"event\":\"message_end\",\"timestamp\":\"{TIME}\",\"data\":{json}}}\n")
    );
    assert_eq!(read(&spill, number), payload);
    check(&spill, &dir);
    let mode = |path: &Path| path.metadata().expect("it is there").permissions().mode() & 0o777;
    assert_eq!((mode(&dir.path()), mode(&dir.0.path().join("raw"))), (0o600, 0o700));
    let reader = spill.reader();
    drop(spill);
    assert!(!dir.path().exists(), "the file goes with the log");
    assert_eq!((reader.stage(number), reader.read(number)), (Stage::Gone, Err(NOT_RETAINED.into())));
}

#[test]
fn what_does_not_fit_is_refused_before_anything_is_written() {
    let dir = Dir::new();
    let tiny = dir.spill(16);
    assert_eq!(reason(submit(&tiny, "x")), "spill_max_bytes=16");
    assert!(!dir.0.path().join("raw").exists());

    let spill = dir.spill(300);
    stored(&spill, &"a".repeat(150));
    let before = (dir.file(), dir.path().metadata().expect("it is there").modified().expect("a time"));
    assert_eq!(reason(submit(&spill, &"b".repeat(150))), "spill_max_bytes=300");
    assert_eq!(before, (dir.file(), dir.path().metadata().expect("it is there").modified().expect("a time")));
    check(&spill, &dir);
}

#[test]
fn forgotten_payloads_make_room_and_the_file_never_grows_over_its_limit() {
    let dir = Dir::new();
    let spill = dir.spill(500);
    for round in 0..12 {
        let number = submit(&spill, &"x".repeat(200 + round)).expect("it is accepted");
        let job = take(&spill).expect("it is queued");
        spill.shared.write(&job);
        assert!(dir.file().len() <= 500, "{} bytes", dir.file().len());
        assert_eq!(read(&spill, number), "x".repeat(200 + round));
        spill.release(number);
    }
    assert_eq!(spill.shared.lock().live_bytes, 0);
    check(&spill, &dir);
}

#[test]
fn writing_anew_keeps_every_live_payload_intact() {
    let dir = Dir::new();
    let spill = dir.spill(4000);
    let mut kept: VecDeque<(u64, String)> = VecDeque::new();
    for round in 0..200 {
        let payload = format!("{round} ä🦀").repeat(10 + round % 40);
        while let Some((number, _)) = kept.front()
            && spill.shared.lock().live_bytes + 700 > 4000
        {
            spill.release(*number);
            kept.pop_front();
        }
        kept.push_back((stored(&spill, &payload), payload));
        for (number, payload) in &kept {
            assert_eq!(read(&spill, *number), *payload);
        }
        check(&spill, &dir);
    }
    assert!(dir.file().len() <= 4000);
    let left: Vec<_> = dir.path().parent().expect("a folder").read_dir().expect("it is listed").collect();
    assert_eq!(left.len(), 1, "the copy has become the file");
}

#[test]
fn a_reader_that_began_before_the_file_was_written_anew_still_finds_its_payload() {
    let dir = Dir::new();
    let spill = dir.spill(500);
    let first = stored(&spill, &"a".repeat(150));
    let second = stored(&spill, &"b".repeat(150));
    let old = spill.shared.lock().file.clone().expect("a file");
    spill.release(first);
    stored(&spill, &"c".repeat(150));
    assert_eq!(read(&spill, second), "b".repeat(150));
    let mut line = vec![0; 150];
    old.read_exact_at(&mut line, 60).expect("the old file is still there");
    assert!(line.contains(&b'a'));
}

#[test]
fn the_queue_is_bounded_by_number_and_by_bytes() {
    let large = "x".repeat(1_000_000);
    for (payload, most) in [(large.as_str(), 16), ("tiny", 64)] {
        for in_flight in [false, true] {
            let dir = Dir::new();
            let spill = dir.spill(0);
            let first = submit(&spill, payload).expect("it is accepted");
            let job = if in_flight { take(&spill) } else { None };
            for _ in 1..most {
                submit(&spill, payload).expect("it is accepted");
            }
            assert_eq!(reason(submit(&spill, payload)), "spill_queue_full=true");
            if let Some(job) = job {
                spill.shared.write(&job);
            }
            drain(&spill);
            let numbers: Vec<u64> = dir
                .file()
                .lines()
                .map(|line| {
                    serde_json::from_str::<Value>(line).expect("JSON")["ref"]
                        .as_str()
                        .expect("text")
                        .parse()
                        .expect("a number")
                })
                .collect();
            assert_eq!(numbers, (first..first + most).collect::<Vec<u64>>());
            check(&spill, &dir);
            submit(&spill, payload).expect("there is room again");
        }
    }
}

#[test]
fn a_payload_that_is_forgotten_while_it_waits_is_never_written() {
    let dir = Dir::new();
    let spill = dir.spill(0);
    let numbers: Vec<u64> = (0..5).map(|n| submit(&spill, &n.to_string()).expect("it is accepted")).collect();
    for number in &numbers[..4] {
        spill.release(*number);
    }
    drain(&spill);
    assert_eq!(dir.file().lines().count(), 1);
    assert_eq!(read(&spill, numbers[4]), "4");
    check(&spill, &dir);
}

#[test]
fn a_payload_that_is_forgotten_while_it_is_written_leaves_the_books_right() {
    let dir = Dir::new();
    let spill = dir.spill(300);
    let number = submit(&spill, &"a".repeat(150)).expect("it is accepted");
    let job = take(&spill).expect("it is queued");
    spill.release(number);
    spill.shared.write(&job);
    assert_eq!(spill.shared.lock().live_bytes, 0);
    check(&spill, &dir);
    stored(&spill, &"b".repeat(150));
    assert!(dir.file().len() <= 300);
}

#[test]
fn the_end_cancels_what_waits_and_removes_what_was_in_flight() {
    let dir = Dir::new();
    let mut spill = dir.spill(0);
    for _ in 0..8 {
        let payload = serde_json::to_string(&"x".repeat(1 << 20)).expect("JSON");
        spill.submit("s", "e", TIME, &payload).expect("it is accepted");
    }
    let shared = spill.shared.clone();
    drop(spill);
    assert!(!dir.path().exists());
    let state = shared.lock();
    assert_eq!((state.waiting, state.waiting_bytes, state.live_bytes, state.queue.len()), (0, 0, 0, 0));
}

#[test]
fn a_failed_write_gives_its_room_back_and_the_next_may_succeed() {
    let dir = Dir::new();
    std::fs::write(dir.0.path().join("raw"), "in the way").expect("it is written");
    let spill = dir.spill(300);
    let number = submit(&spill, &"a".repeat(150)).expect("it is accepted");
    drain(&spill);
    let Stage::Failed(text) = spill.reader().stage(number) else { panic!("it must fail") };
    assert!(text.starts_with(&format!("error_code=EEXIST path={}\n", dir.path().display())), "{text}");
    assert_eq!(spill.shared.lock().live_bytes, 0);
    std::fs::remove_file(dir.0.path().join("raw")).expect("it is removed");
    stored(&spill, &"b".repeat(150));
    spill.release(number);
    check(&spill, &dir);
}

#[test]
fn when_the_file_cannot_be_written_anew_what_it_has_stays_readable() {
    let dir = Dir::new();
    let spill = dir.spill(500);
    let first = stored(&spill, &"a".repeat(150));
    let second = stored(&spill, &"b".repeat(150));
    spill.release(first);
    let copy = dir.path().with_extension("jsonl.compact");
    std::fs::create_dir(&copy).expect("a folder is in the way");
    let third = submit(&spill, &"c".repeat(150)).expect("it is accepted");
    drain(&spill);
    let Stage::Failed(text) = spill.reader().stage(third) else { panic!("it must fail") };
    assert!(text.starts_with(&format!("error_code=EISDIR path={}\n", copy.display())), "{text}");
    assert_eq!(read(&spill, second), "b".repeat(150));
    std::fs::remove_dir(&copy).expect("it is removed");
    assert_eq!(read(&spill, stored(&spill, &"d".repeat(150))), "d".repeat(150));
    check(&spill, &dir);
}

#[test]
fn a_file_that_somebody_cut_or_wrote_to_is_found_out() {
    let dir = Dir::new();
    let spill = dir.spill(500);
    let numbers = [stored(&spill, &"a".repeat(150)), stored(&spill, &"b".repeat(150))];
    let len = dir.file().len();
    let file = File::options().write(true).open(dir.path()).expect("it opens");
    file.write_all_at(b"garbage", 0).expect("it is written");
    file.set_len(len as u64 - 10).expect("it is cut");
    let reader = spill.reader();
    let texts = numbers.map(|number| reader.read(number).expect_err("it cannot be read"));
    assert!(texts[0].starts_with("raw_ref_offset=0\n"), "{}", texts[0]);
    assert!(texts[1].starts_with(&format!("error_code=EIO path={}\n", dir.path().display())), "{}", texts[1]);
    spill.release(numbers[0]);
    let third = submit(&spill, &"c".repeat(150)).expect("it is accepted");
    drain(&spill);
    assert!(matches!(reader.stage(third), Stage::Failed(text) if text.starts_with("error_code=EIO ")));
}

#[test]
fn a_link_in_place_of_the_file_is_not_followed() {
    let dir = Dir::new();
    std::fs::create_dir(dir.0.path().join("raw")).expect("a folder");
    std::fs::write(dir.0.path().join("target"), "untouched").expect("it is written");
    std::os::unix::fs::symlink("../target", dir.path()).expect("a link");
    let spill = dir.spill(0);
    let number = submit(&spill, "x").expect("it is accepted");
    drain(&spill);
    assert!(matches!(spill.reader().stage(number), Stage::Failed(text) if text.starts_with("error_code=EINVAL ")));
    assert_eq!(std::fs::read_to_string(dir.0.path().join("target")).expect("it is read"), "untouched");
}

#[test]
fn waiting_ends_when_the_payloads_are_stored_forgotten_or_late() {
    let dir = Dir::new();
    let spill = dir.spill(0);
    let numbers = [submit(&spill, "a").expect("it is accepted"), submit(&spill, "b").expect("it is accepted")];
    let reader = spill.reader();
    reader.wait(&numbers, Instant::now() + Duration::from_millis(1));
    assert_eq!(reader.stage(numbers[1]), Stage::Pending);
    let far = Instant::now() + Duration::from_secs(30);
    std::thread::scope(|scope| {
        scope.spawn(|| reader.wait(&numbers, far));
        drain(&spill);
    });
    reader.wait(&numbers, far);
    reader.wait(&[99], far);
    assert!(Instant::now() < far);
}

#[test]
fn a_pending_payload_is_told_at_once_and_waited_for_when_it_is_asked_for() {
    let dir = Dir::new();
    let mut log = EventLog::new(Settings::default(), "s", dir.path(), 0);
    // A log that believes its writer to be at work, while that is done here.
    let mut spill = dir.spill(0);
    spill.thread = Some(spawn("idle", SMALL_STACK, || {}).expect("a thread"));
    log.spill = Some(spill);
    log.publish("message_end", serde_json::json!({"text": "x".repeat(10_000)}), true);
    let plain = log.history(&HistoryQuery::default()).render();
    assert_eq!(plain["events"][0]["rawError"], PENDING);
    let raw = log.history(&HistoryQuery { raw: true, ..HistoryQuery::default() });
    let document = std::thread::scope(|scope| {
        let rendering = scope.spawn(|| raw.render());
        drain(log.spill.as_ref().expect("it was begun"));
        rendering.join().expect("it returns")
    });
    let event = &document["events"][0];
    assert_eq!((event["rawRestored"] == true, event["rawError"].is_null()), (true, true), "{event}");
}
