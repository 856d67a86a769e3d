use super::*;
use serde_json::json;
use std::time::{Duration, Instant};

struct Bench {
    dir: tempfile::TempDir,
    log: EventLog,
}

impl Bench {
    fn new(settings: Settings) -> Bench {
        let dir = tempfile::tempdir().expect("a directory");
        let log = EventLog::new(settings, "s-1", dir.path().join("raw/7-s-1.jsonl"), 0);
        Bench { dir, log }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("raw/7-s-1.jsonl")
    }

    /// Publishes to a subscriber an event whose payload has about so many bytes.
    fn publish(&mut self, event: &'static str, bytes: usize) -> Value {
        let text: String = (0..bytes).map(|n| char::from(b'a' + u8::try_from(n % 26).expect("a letter"))).collect();
        record(&self.log.publish(event, json!({"text": text, "n": self.log.last_seq() + 1}), true))
    }

    fn history(&mut self, query: Value) -> Value {
        self.log.history(&self::query(query)).render()
    }

    /// Waits until everything is stored or has failed.
    fn settle(&self) {
        if let Some(spill) = &self.log.spill {
            let numbers: Vec<u64> = (1..=self.log.last_seq()).collect();
            spill.reader().wait(&numbers, Instant::now() + Duration::from_secs(30));
        }
    }
}

fn words(kept: &Kept) -> &Envelope {
    kept.words().expect("it is in words")
}

fn query(request: Value) -> HistoryQuery {
    let Value::Object(request) = request else { panic!("an object is needed") };
    HistoryQuery::from_json(&request)
}

fn record(envelope: &Envelope) -> Value {
    assert!(!envelope.line.contains('\n'));
    serde_json::from_str(&envelope.line).expect("it is JSON")
}

fn events(document: &Value) -> &Vec<Value> {
    document["events"].as_array().expect("a list")
}

fn seqs(document: &Value) -> Vec<u64> {
    events(document).iter().map(|event| event["seq"].as_u64().expect("a number")).collect()
}

fn bytes(document: &Value) -> usize {
    events(document).iter().map(|event| event.to_string().len()).sum()
}

fn first_line(value: &Value) -> &str {
    value.as_str().expect("a text").lines().next().expect("a line")
}

fn restored(document: &Value) -> usize {
    events(document).iter().filter(|event| event["rawRestored"] == true).count()
}

#[test]
fn events_are_numbered_and_name_their_session() {
    let mut bench = Bench::new(Settings::default());
    assert_eq!(bench.log.last_seq(), 0);
    for seq in 1..4 {
        let envelope = bench.log.publish("say \"hi\"", json!({"text": "ä"}), false);
        let mut record = record(&envelope);
        let timestamp = record["timestamp"].take();
        assert_eq!(timestamp, envelope.timestamp());
        assert_eq!((timestamp.as_str().map(str::len), envelope.seq), (Some(24), seq));
        assert_eq!(
            record,
            json!({"type": "event", "event": "say \"hi\"", "timestamp": null, "seq": seq, "session": "s-1", "data": {"text": "ä"}})
        );
    }
    assert_eq!(bench.log.last_seq(), 3);
}

#[test]
fn an_unused_log_is_small_and_touches_no_file() {
    let mut bench = Bench::new(Settings::default());
    assert!(size_of::<EventLog>() < 512, "{} bytes", size_of::<EventLog>());
    assert_eq!(bench.log.ring.capacity(), 0);
    assert_eq!(
        bench.history(json!({"raw": true})),
        json!({"events": [], "totalEvents": 0, "responseTruncated": false, "rawSpillPath": bench.path()})
    );
    assert!(!bench.dir.path().join("raw").exists());
}

#[test]
fn the_last_events_are_kept_by_number_and_by_bytes() {
    let mut bench = Bench::new(Settings { history_limit: 3, ..Settings::default() });
    for _ in 0..10 {
        bench.publish("e", 10);
    }
    assert_eq!(seqs(&bench.history(json!({}))), [8, 9, 10]);

    let mut bench = Bench::new(Settings { max_history_bytes: 1500, ..Settings::default() });
    for _ in 0..30 {
        bench.publish("e", 50);
    }
    let kept = seqs(&bench.history(json!({})));
    assert!(kept.len() > 3 && kept.len() < 30 && kept.last() == Some(&30), "{kept:?}");
    assert!(bench.log.ring_bytes <= 1500);
    bench.publish("e", 5000);
    assert_eq!(seqs(&bench.history(json!({}))), [31], "the last one stays, however large");
    assert_eq!(bench.log.ring_bytes, words(&bench.log.ring[0]).line.len());
}

#[test]
fn requests_are_read_leniently() {
    let default = HistoryQuery::default();
    let number = |limit| HistoryQuery { limit: Some(limit), ..default.clone() };
    let bytes = |bytes| HistoryQuery { max_bytes: Some(bytes), ..default.clone() };
    let since = |text: &str| HistoryQuery { since: Some(text.into()), ..default.clone() };
    let raw = HistoryQuery { raw: true, ..default.clone() };
    for (request, expected) in [
        (json!({}), default.clone()),
        (
            json!({"limit": null, "maxBytes": null, "event": null, "since": null, "raw": null, "sinceSeq": null}),
            default.clone(),
        ),
        (json!({"limit": 5}), number(5)),
        (json!({"limit": 5.9}), number(5)),
        (json!({"limit": " 12 "}), number(12)),
        (json!({"limit": "1e2"}), number(100)),
        (json!({"limit": 0}), default.clone()),
        (json!({"limit": -3}), default.clone()),
        (json!({"limit": 0.5}), default.clone()),
        (json!({"limit": "many"}), default.clone()),
        (json!({"limit": "NaN"}), default.clone()),
        (json!({"limit": "inf"}), default.clone()),
        (json!({"limit": [5]}), default.clone()),
        (json!({"limit": 1e300}), number(usize::MAX)),
        (json!({"maxBytes": 600}), bytes(600)),
        (json!({"max_bytes": "600"}), bytes(600)),
        (json!({"maxBytes": 0, "max_bytes": 7}), bytes(7)),
        (json!({"event": " input "}), HistoryQuery { event: Some("input".into()), ..default.clone() }),
        (json!({"event": "  ", "since": " "}), default.clone()),
        (json!({"event": 7, "since": 7}), default.clone()),
        (json!({"raw": true}), raw.clone()),
        (json!({"verbose": true}), raw),
        (json!({"raw": "true", "verbose": 1}), default.clone()),
        (json!({"sinceSeq": 0}), HistoryQuery { since_seq: Some(0), ..default.clone() }),
        (json!({"sinceSeq": "7"}), HistoryQuery { since_seq: Some(7), ..default.clone() }),
        (json!({"sinceSeq": -1}), default.clone()),
        (json!({"since": "2026-01-02T03:04:05Z"}), since("2026-01-02T03:04:05.000Z")),
        (json!({"since": "2026-01-02T03:04:05.1Z"}), since("2026-01-02T03:04:05.100Z")),
        (json!({"since": "2026-01-02T03:04:05.123456Z"}), since("2026-01-02T03:04:05.123Z")),
        (json!({"since": "2026-01-02 03:04:05+02:00"}), since("2026-01-02T01:04:05.000Z")),
        (json!({"since": "2026-01-02T03:04:05.5-00:30"}), since("2026-01-02T03:34:05.500Z")),
        (json!({"since": "2026-12-31T23:59:60Z"}), since("2026-12-31T23:59:59.000Z")),
        (json!({"since": "2026-01-02T03:04:05"}), since("2026-01-02T03:04:05")),
        (json!({"since": "2026-13-02T03:04:05Z"}), since("2026-13-02T03:04:05Z")),
        (json!({"since": "2026-01-02T03:04:05.Z+"}), since("2026-01-02T03:04:05.Z+")),
        (json!({"since": "yesterday"}), since("yesterday")),
        (json!({"since": "２０２６-01-02T03:04:05Z"}), since("２０２６-01-02T03:04:05Z")),
    ] {
        assert_eq!(query(request.clone()), expected, "{request}");
    }
}

#[test]
fn filters_apply_before_the_limit() {
    let mut bench = Bench::new(Settings::default());
    for n in 0..10 {
        bench.publish(if n % 2 == 0 { "even" } else { "odd" }, 10);
    }
    let document = bench.history(json!({"event": "odd", "limit": 2}));
    assert_eq!((seqs(&document), &document["totalEvents"]), (vec![8, 10], &json!(2)));
    assert_eq!(seqs(&bench.history(json!({"sinceSeq": 7}))), [8, 9, 10]);
    assert_eq!(seqs(&bench.history(json!({"sinceSeq": 7, "event": "even", "limit": "1"}))), [9]);
    assert_eq!(seqs(&bench.history(json!({"limit": 100}))).len(), 10);
}

#[test]
fn since_is_compared_as_a_time_and_includes_it() {
    let mut bench = Bench::new(Settings::default());
    bench.publish("e", 10);
    let timestamp = words(&bench.log.ring[0]).timestamp();
    let second = &timestamp[..19];
    let last = format!("{}.999Z", second);
    let later = iso_time(now_ms() + 60_000);
    for (since, found) in [
        (timestamp.as_str(), 1),
        (&format!("{second}Z"), 1),
        (&format!("{second}+00:00"), 1),
        (second, 1),
        ("2001-01-01T00:00:00Z", 1),
        ("2001", 1),
        (&later, 0),
        ("garbage", 0),
    ] {
        assert_eq!(events(&bench.history(json!({"since": since}))).len(), found, "{since}");
    }
    assert_eq!(events(&bench.history(json!({"since": last}))).len(), usize::from(timestamp == last));
}

#[test]
fn a_replay_says_what_is_missing() {
    let mut bench = Bench::new(Settings { history_limit: 4, ..Settings::default() });
    let replay = |bench: &mut Bench, since| {
        let mut records: Vec<Value> = bench.log.replay(since).iter().map(|envelope| record(envelope)).collect();
        let mut gap = None;
        if records.first().is_some_and(|first| first["event"] == "bridge_gap") {
            let first = records.remove(0);
            assert_eq!(
                (&first["type"], &first["session"], &first["seq"]),
                (&json!("event"), &json!("s-1"), &first["data"]["to"])
            );
            gap = Some((first["data"]["from"].as_u64().expect("a number"), first["seq"].as_u64().expect("a number")));
        }
        (records.iter().map(|record| record["seq"].as_u64().expect("a number")).collect::<Vec<_>>(), gap)
    };
    assert_eq!(replay(&mut bench, 0), (vec![], None));
    for _ in 0..10 {
        bench.publish("e", 10);
    }
    for (since, expected) in [
        (0, (vec![7, 8, 9, 10], Some((1, 6)))),
        (3, (vec![7, 8, 9, 10], Some((4, 6)))),
        (6, (vec![7, 8, 9, 10], None)),
        (9, (vec![10], None)),
        (10, (vec![], None)),
        (11, (vec![7, 8, 9, 10], Some((1, 6)))),
    ] {
        assert_eq!(replay(&mut bench, since), expected, "{since}");
    }
    assert_eq!(bench.history(json!({"sinceSeq": 3}))["gap"], json!({"from": 4, "to": 6}));
    for request in [json!({"sinceSeq": 6}), json!({})] {
        assert_eq!(bench.history(request)["gap"], json!(null));
    }
}

#[test]
fn a_large_payload_comes_back_with_a_raw_query_only() {
    let mut bench = Bench::new(Settings::default());
    let live = bench.publish("message_end", 50_000);
    assert_eq!((&live["truncated"], &live["rawEventRef"]), (&json!(true), &json!("1")));
    assert_eq!(first_line(&live["rawError"]), "spill_pending=true");
    assert_eq!(live["rawEventPath"], json!(bench.path()));
    assert!(live["originalBytes"].as_u64().is_some_and(|bytes| bytes > 50_000));
    bench.settle();
    let plain = bench.history(json!({}));
    let event = &events(&plain)[0];
    assert_eq!(
        (&event["data"]["text"], &event["rawRestored"], &event["rawError"]),
        (&json!(null), &json!(null), &json!(null))
    );
    let raw = bench.history(json!({"raw": true}));
    let event = &events(&raw)[0];
    assert_eq!(event["data"]["text"].as_str().map(str::len), Some(50_000));
    assert_eq!((&event["rawRestored"], &event["truncated"]), (&json!(true), &json!(true)));
    assert_eq!((raw["rawErrors"].is_null(), &raw["responseTruncated"]), (true, &json!(false)));
    assert_eq!(std::fs::read_to_string(bench.path()).expect("it is read").lines().count(), 1);
    let path = bench.path();
    drop(bench.log);
    assert!(!path.exists());
}

#[test]
fn every_refusal_says_why() {
    for (settings, subscribed, reason) in [
        (Settings { spill: false, ..Settings::default() }, true, "spill_enabled=false"),
        (Settings::default(), false, "spill_subscriber=false"),
        (Settings { max_spill_bytes: 20_000, ..Settings::default() }, true, "spill_max_bytes=20000"),
    ] {
        let mut bench = Bench::new(settings);
        let record =
            record(&bench.log.publish("tool_execution_end", json!({"result": "x".repeat(1_000_000)}), subscribed));
        assert_eq!(first_line(&record["rawError"]), reason);
        assert_eq!((&record["rawEventRef"], &record["rawEventPath"]), (&json!(null), &json!(null)));
        assert!(!bench.dir.path().join("raw").exists());
        let raw = bench.history(json!({"raw": true}));
        assert_eq!(first_line(&events(&raw)[0]["rawError"]), reason, "its own reason stays");
        assert_eq!(raw["rawErrors"], json!(null));
    }
}

#[test]
fn forgotten_events_make_room_in_the_file() {
    let settings = Settings { history_limit: 1, max_spill_bytes: 15_000, ..Settings::default() };
    let mut bench = Bench::new(settings);
    for _ in 0..5 {
        let record = bench.publish("message_end", 10_000);
        assert_eq!(first_line(&record["rawError"]), "spill_pending=true");
        bench.settle();
        assert!(bench.path().metadata().expect("it is there").len() <= 15_000);
        assert_eq!(restored(&bench.history(json!({"raw": true}))), 1);
    }
}

#[test]
fn an_answer_has_the_newest_events_that_fit() {
    let mut bench = Bench::new(Settings::default());
    for _ in 0..12 {
        bench.publish("e", 100);
    }
    let size = words(&bench.log.ring[0]).line.len();
    for (max_bytes, expected, truncated) in
        [(3 * size + 50, vec![10, 11, 12], true), (1, vec![12], true), (1 << 20, (1..=12).collect(), false)]
    {
        let document = bench.history(json!({"maxBytes": max_bytes}));
        assert_eq!(seqs(&document), expected, "{max_bytes}");
        assert_eq!((&document["responseTruncated"], &document["totalEvents"]), (&json!(truncated), &json!(12)));
    }
    bench.log.settings.max_response_bytes = size + 50;
    assert_eq!(seqs(&bench.history(json!({}))), [12], "without a number the log's own limit applies");
    bench.log.settings.max_response_bytes = 0;
    assert_eq!(seqs(&bench.history(json!({}))).len(), 12, "which may be none");
}

#[test]
fn raw_payloads_are_put_back_from_the_newest_on_as_long_as_they_fit() {
    let mut bench = Bench::new(Settings { max_event_bytes: 300, preview_bytes: 16, ..Settings::default() });
    for _ in 0..4 {
        bench.publish("message_end", 1000);
    }
    bench.settle();
    let compact: usize = bench.log.ring.iter().map(|kept| words(kept).line.len()).sum();
    let document = bench.history(json!({"raw": true, "maxBytes": compact + 1900}));
    let flags: Vec<bool> = events(&document).iter().map(|event| event["rawRestored"] == true).collect();
    assert_eq!(flags, [false, false, true, true]);
    assert_eq!(document["responseTruncated"], true);
    assert!(bytes(&document) <= compact + 1900, "{}", bytes(&document));
    let document = bench.history(json!({"raw": true, "maxBytes": 1}));
    assert_eq!((seqs(&document), restored(&document)), (vec![4], 1), "one event alone is always whole");
    // What is cut by the budget is not even read.
    assert_eq!(restored(&bench.history(json!({"raw": true}))), 4);
}

#[test]
fn unreadable_payloads_are_told_one_by_one() {
    let mut bench = Bench::new(Settings::default());
    for _ in 0..2 {
        bench.publish("message_end", 10_000);
    }
    bench.settle();
    let length = bench.path().metadata().expect("it is there").len();
    std::fs::write(bench.path(), "x".repeat(usize::try_from(length).expect("a size"))).expect("it is written");
    let document = bench.history(json!({"raw": true}));
    assert_eq!((restored(&document), &document["totalEvents"]), (0, &json!(2)));
    assert_eq!(first_line(&events(&document)[0]["rawError"]), "raw_ref_offset=0");
    let errors = document["rawErrors"].as_array().expect("a list");
    assert_eq!(errors.len(), 2);
    assert_eq!(first_line(&errors[0]), "message_end#1: raw_ref_offset=0");
    assert!(first_line(&errors[1]).starts_with("message_end#2: raw_ref_offset="));
    let document = bench.history(json!({"raw": true, "maxBytes": 1}));
    assert_eq!((seqs(&document), document["rawErrors"].as_array().map(Vec::len)), (vec![2], Some(1)));
}

#[test]
fn deltas_that_nobody_keeps_are_noted_as_far_as_there_is_room() {
    let mut bench = Bench::new(Settings { max_event_bytes: 400, preview_bytes: 16, ..Settings::default() });
    for _ in 0..300 {
        let update = json!({"assistantMessageEvent": {"type": "text_delta", "delta": "d".repeat(1000)}});
        let live = record(&bench.log.publish("message_update", update, true));
        assert_eq!(
            (&live["truncated"], &live["originalBytes"], &live["rawError"]),
            (&json!(true), &json!(1000), &json!(null))
        );
    }
    assert!(bench.log.spill.is_none(), "streaming events are not spilled");
    let compact: usize = bench.log.ring.iter().map(|kept| words(kept).line.len()).sum();
    let note = quoted(spill::NOT_RETAINED).len() + 12;
    let most = compact + 2 * note + note / 2;
    let document = bench.history(json!({"raw": true, "maxBytes": most}));
    let noted: Vec<u64> = events(&document)
        .iter()
        .filter(|event| event["rawError"].is_string())
        .map(|event| {
            assert_eq!(first_line(&event["rawError"]), "raw_retained=false");
            event["seq"].as_u64().expect("a number")
        })
        .collect();
    assert_eq!((events(&document).len(), noted, &document["responseTruncated"]), (300, vec![299, 300], &json!(true)));
    assert!(bytes(&document) <= most);
    let one = bench.history(json!({"raw": true, "maxBytes": 1}));
    assert_eq!((seqs(&one), first_line(&events(&one)[0]["rawError"])), (vec![300], "raw_retained=false"));
    assert!(events(&bench.history(json!({}))).iter().all(|event| event["rawError"].is_null()));
}

#[test]
fn a_snapshot_outlives_the_log() {
    let mut bench = Bench::new(Settings::default());
    bench.publish("message_end", 10_000);
    bench.publish("e", 10);
    let snapshot = bench.log.history(&query(json!({"raw": true})));
    drop(bench.log);
    let document = snapshot.render();
    assert_eq!(seqs(&document), [1, 2]);
    assert_eq!(first_line(&events(&document)[0]["rawError"]), "raw_retained=false");
}

/// Content of about so many bytes.
struct Text(usize);

impl Content for Text {
    fn name(&self) -> &'static str {
        "e"
    }

    fn to_json(&self) -> Value {
        json!({"text": "x".repeat(self.0)})
    }

    fn bytes(&self) -> usize {
        self.0
    }
}

#[test]
fn what_nobody_listens_to_is_put_into_words_when_somebody_asks() {
    let mut bench = Bench::new(Settings::default());
    for bytes in [5, 20_000] {
        bench.log.keep(Text(bytes));
        bench.log.publish("e", Text(bytes).to_json(), false);
    }
    assert_eq!(bench.log.ring.iter().filter(|kept| kept.words().is_some()).count(), 2);
    assert_eq!(seqs(&bench.history(json!({}))), [1, 2, 3, 4]);
    let mut records: Vec<Value> = bench.log.replay(0).iter().map(|envelope| record(envelope)).collect();
    for record in &mut records {
        assert!(record["timestamp"].take().is_string());
        record["seq"].take();
    }
    assert_eq!((&records[0], &records[2]), (&records[1], &records[3]), "the words are those that were told at once");
    assert_eq!(records[2]["truncated"], true);
    let bytes = bench.log.ring.iter().map(|kept| words(kept).line.len()).sum::<usize>();
    assert_eq!((bench.log.ring_bytes, bench.log.unworded_bytes), (bytes, 0));
}

#[test]
fn what_is_not_in_words_is_bounded_as_well() {
    let mut bench = Bench::new(Settings { history_limit: 3, max_history_bytes: 1000, ..Settings::default() });
    let unworded = |bench: &Bench| bench.log.ring.iter().filter(|kept| kept.words().is_none()).count();
    for _ in 0..5 {
        bench.log.keep(Text(300));
    }
    assert_eq!((unworded(&bench), bench.log.unworded_bytes), (3, 900));
    assert_eq!(seqs(&bench.history(json!({}))), [4, 5], "as many as there is room for in words");
    bench.log.keep(Text(MAX_UNWORDED));
    assert_eq!((unworded(&bench), bench.log.unworded_bytes), (1, MAX_UNWORDED));
    bench.log.keep(Text(1));
    assert_eq!((unworded(&bench), bench.log.unworded_bytes), (0, 0), "they hold no more than so many bytes");
    assert!(bench.log.ring_bytes <= 1000);
}
