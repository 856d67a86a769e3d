use super::*;
use crate::nats::Headers;
use serde_json::json;

/// Writes down what it gets.
#[derive(Default)]
pub(super) struct Record(Mutex<(String, Vec<Result<(), ReplyError>>)>);

impl Reply for Record {
    fn text(&self, text: &str, _cancel: &Cancel) {
        self.0.lock().expect("not poisoned").0.push_str(text);
    }
    fn restart(&self, restart: Restart) {
        self.0.lock().expect("not poisoned").0.push_str(&format!("[{}]", restart.attempt));
    }
    fn flush(&self) {}
    fn finish(&self, result: Result<(), ReplyError>) {
        self.0.lock().expect("not poisoned").1.push(result);
    }
}

impl Record {
    pub(super) fn got(&self) -> (usize, String, Vec<Result<(), ReplyError>>) {
        let (text, ends) = self.0.lock().expect("not poisoned").clone();
        (text.len(), text.chars().take(20).collect(), ends)
    }
}

pub(super) fn got(text: &str, ends: &[Result<(), ReplyError>]) -> (usize, String, Vec<Result<(), ReplyError>>) {
    (text.len(), text.to_string(), ends.to_vec())
}

pub(super) fn record() -> (Arc<Record>, Arc<dyn Reply>) {
    let record = Arc::new(Record::default());
    (record.clone(), record)
}

pub(super) fn id(id: &str) -> Key {
    ("a.b".to_string(), id.to_string())
}

pub(super) fn request(of: &str) -> NamedRequest {
    NamedRequest { key: id(of), digest: [0; 32], user: None }
}

#[test]
fn a_request_without_an_id_has_no_key() {
    for (header, expected) in [
        ("", None),
        ("Nats-Msg-Id: x1\r\n", Some("x1")),
        ("nats-msg-id: x1\r\n", Some("x1")),
        ("Nats-Msg-Id:\r\n", None),
        (&format!("Nats-Msg-Id: {}\r\n", "x".repeat(257)), None),
    ] {
        let headers = Some(Headers::from_block(format!("NATS/1.0\r\n{header}\r\n").into_bytes()));
        let message = Message { subject: "a.b".into(), reply: None, headers, payload: Vec::new() };
        assert_eq!(named(&message, None).map(|request| request.key), expected.map(id), "{header:.40}");
    }
}

#[test]
fn an_id_belongs_to_a_payload_and_to_whoever_signed_it() {
    let recent = Recent::default();
    let sent = |payload: &str, user: Option<&str>| {
        let headers = Some(Headers::from_block(b"NATS/1.0\r\nNats-Msg-Id: 1\r\n\r\n".to_vec()));
        let message = Message { subject: "a.b".into(), reply: None, headers, payload: payload.into() };
        let user = user.map(str::to_owned);
        let sender = user.map(|user| AgentSender { account: "A".into(), user, name: None, verified: true });
        named(&message, sender.as_ref()).expect("it has an id")
    };
    assert!(!recent.is_taken(&sent("x", None)));
    recent.answered(sent("x", None), json!(1), Instant::now());
    for (payload, user, taken) in [("x", None, false), ("x", Some("U1"), false), ("y", None, true), ("", None, true)] {
        assert_eq!(recent.is_taken(&sent(payload, user)), taken, "{payload} {user:?}");
    }
    recent.answered(sent("x", Some("U1")), json!(1), Instant::now());
    for (user, taken) in [(Some("U1"), false), (Some("U2"), true), (None, true)] {
        assert_eq!(recent.is_taken(&sent("x", user)), taken, "{user:?}");
    }
}

#[test]
fn a_second_caller_gets_the_whole_answer_and_its_own_end() {
    let (recent, cancel, now) = (Recent::default(), Cancel::new(), Instant::now());
    let ((first, first_reply), (second, second_reply), (third, third_reply)) = (record(), record(), record());
    assert!(!recent.join(&id("1"), || first_reply.clone()));
    let shared = recent.share(request("1"), first_reply, now);
    shared.text("one ", &cancel);
    assert!(recent.join(&id("1"), || second_reply.clone()));
    assert!(!recent.join(&id("2"), || second_reply.clone()), "another id is another request");
    shared.text("two", &cancel);
    assert_eq!((first.got(), second.got()), (got("one two", &[]), got("one two", &[])));
    shared.finish(Ok(()));
    shared.finish(Err(ReplyError::stopped()));
    shared.text("late", &cancel);
    assert!(recent.join(&id("1"), || third_reply.clone()));
    for record in [first, second, third] {
        assert_eq!(record.got(), got("one two", &[Ok(())]));
    }
    recent.tick(now + WINDOW - Duration::from_secs(1));
    assert_eq!(recent.kept.load(Ordering::Relaxed), 7);
    recent.tick(now + WINDOW);
    drop(shared);
    assert_eq!((recent.kept.load(Ordering::Relaxed), recent.requests().len()), (0, 0));
}

#[test]
fn everybody_is_told_where_the_answer_begins_anew() {
    let (recent, cancel, now) = (Recent::default(), Cancel::new(), Instant::now());
    let ((first, first_reply), (second, second_reply), (third, third_reply)) = (record(), record(), record());
    let shared = recent.share(request("1"), first_reply, now);
    let restart = |attempt| shared.restart(Restart { attempt, void_bytes: Some(1) });
    shared.text("a", &cancel);
    restart(2);
    assert!(recent.join(&id("1"), || second_reply.clone()));
    shared.text("b", &cancel);
    restart(3);
    shared.text("c", &cancel);
    shared.finish(Ok(()));
    restart(4);
    assert!(recent.join(&id("1"), || third_reply.clone()));
    for record in [first, second, third] {
        assert_eq!(record.got(), got("a[2]b[3]c", &[Ok(())]));
    }
}

#[test]
fn a_request_is_remembered_as_long_as_it_runs() {
    let (recent, now) = (Recent::default(), Instant::now());
    let shared = recent.share(request("1"), record().1, now);
    recent.tick(now + 10 * WINDOW);
    assert!(recent.join(&id("1"), || record().1));
    shared.finish(Ok(()));
    recent.tick(now + 10 * WINDOW);
    assert!(!recent.join(&id("1"), || record().1));
}

#[test]
fn who_was_turned_away_may_come_again() {
    let (recent, now) = (Recent::default(), Instant::now());
    recent.share(request("1"), record().1, now).finish(Err(ReplyError::queue_full(3)));
    assert!(!recent.join(&id("1"), || record().1));
    recent.share(request("2"), record().1, now).finish(Err(ReplyError::model("model")));
    let (again, reply) = record();
    assert!(recent.join(&id("2"), || reply.clone()));
    assert_eq!(again.got(), got("", &[Err(ReplyError::model("model"))]));
}

#[test]
fn a_long_answer_is_not_kept_but_reaches_those_who_are_there() {
    let (recent, cancel, now) = (Recent::default(), Cancel::new(), Instant::now());
    let ((first, first_reply), (second, second_reply), (late, late_reply)) = (record(), record(), record());
    let shared = recent.share(request("1"), first_reply, now);
    shared.text("a", &cancel);
    assert!(recent.join(&id("1"), || second_reply.clone()));
    let long = "ä".repeat(MAX_TEXT / 2 + 1);
    shared.text(&long, &cancel);
    assert!(recent.kept.load(Ordering::Relaxed) == 0);
    assert!(recent.join(&id("1"), || late_reply.clone()));
    assert_eq!(late.got().2.first().map(|end| end.as_ref().map_err(|e| e.status())), Some(Err(409)));
    shared.text("z", &cancel);
    shared.finish(Ok(()));
    for record in [first, second] {
        assert_eq!((record.got().0, record.got().2), (long.len() + 2, vec![Ok(())]));
    }
}

#[test]
fn what_is_remembered_is_bounded() {
    let (recent, now) = (Recent::default(), Instant::now());
    for n in 0..MAX_REQUESTS {
        recent.answered(request(&n.to_string()), json!(n), now + Duration::from_millis(n as u64));
    }
    assert_eq!(recent.document(&id("0")), Some(json!(0)));
    recent.share(request("x"), record().1, now + Duration::from_secs(60));
    assert_eq!(recent.requests().len(), MAX_REQUESTS);
    assert_eq!(recent.document(&id("0")), None);
    assert_eq!([id("1"), id("x"), id("0")].map(|key| recent.has_seen(&key)), [true, true, false]);
}

#[test]
fn callers_join_while_text_flows() {
    let (recent, now) = (Recent::default(), Instant::now());
    let shared = recent.share(request("1"), record().1, now);
    let expected: String = (0..2000).map(|n| format!("{n},")).collect();
    let records: Vec<Arc<Record>> = std::thread::scope(|scope| {
        scope.spawn(|| {
            for n in 0..2000 {
                shared.text(&format!("{n},"), &Cancel::new());
            }
            shared.finish(Ok(()));
        });
        let join = || {
            let (record, reply) = record();
            assert!(recent.join(&id("1"), || reply.clone()));
            record
        };
        (0..200).map(|_| join()).collect()
    });
    for record in records {
        let (text, ends) = record.0.lock().expect("not poisoned").clone();
        assert_eq!((text == expected, ends), (true, vec![Ok(())]));
    }
}
