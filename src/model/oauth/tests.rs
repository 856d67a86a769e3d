use super::*;
use crate::model::test_support::{Connection, TestServer};
use serde_json::{Value, json};
use std::sync::mpsc;

const HOUR_MS: i64 = 3_600_000;
const ANSWER: &str = r#"{"access_token":"access-2","refresh_token":"refresh-2","expires_in":7200}"#;

/// A refresher whose one sign-in, of `p`, ends in `left` milliseconds.
struct Case {
    refresher: Refresher,
    path: PathBuf,
    _dir: tempfile::TempDir,
}

fn case(server: &TestServer, left: i64) -> Case {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("auth.json");
    let auth =
        json!({"p": {"type": "oauth", "access": "access-1", "refresh": "refresh-1", "expires": now_ms() + left}});
    std::fs::write(&path, auth.to_string()).expect("it writes");
    let setting = json!({"p": {"tokenUrl": format!("{}/token", server.url), "clientId": "c"}});
    let endpoints = Endpoints::parse(&setting.to_string()).expect("it is right");
    Case { refresher: Refresher::new(path.clone(), endpoints, Arc::default()), path, _dir: dir }
}

impl Case {
    fn entry(&self) -> Value {
        let text = std::fs::read_to_string(&self.path).expect("it reads");
        serde_json::from_str::<Value>(&text).expect("JSON")["p"].take()
    }
}

/// An endpoint that does this with each request.
fn endpoint(answer: impl Fn(&mut Connection) + Send + Sync + 'static) -> TestServer {
    TestServer::new(move |_, connection| {
        while connection.request().is_some() {
            answer(connection);
        }
    })
}

#[test]
fn many_callers_make_one_request() {
    let server = endpoint(|connection| connection.respond("200 OK", "", ANSWER));
    let case = case(&server, -1);
    std::thread::scope(|scope| {
        for _ in 0..50 {
            scope.spawn(|| case.refresher.refresh("p", false, &Cancel::new()).expect("it is refreshed"));
        }
    });
    let requests = server.requests();
    assert_eq!(requests.len(), 1);
    assert!(requests[0].head.starts_with("POST /token HTTP/1.1\r\n"), "{}", requests[0].head);
    assert_eq!(requests[0].body, "grant_type=refresh_token&refresh_token=refresh-1&client_id=c");
    let entry = case.entry();
    assert_eq!((&entry["access"], &entry["refresh"]), (&json!("access-2"), &json!("refresh-2")));
    let left = entry["expires"].as_i64().expect("a number") - now_ms();
    assert!((2 * HOUR_MS - 60_000..=2 * HOUR_MS).contains(&left), "{left}");
}

#[test]
fn a_fresh_sign_in_is_left_alone() {
    let server = endpoint(|connection| connection.respond("200 OK", "", ANSWER));
    let case = case(&server, HOUR_MS);
    case.refresher.refresh("p", true, &Cancel::new()).expect("there is nothing to do");
    assert!(server.requests().is_empty());
}

#[test]
fn failures_name_provider_and_fix_and_no_token() {
    for (status, body, expected, again) in [
        (
            "400 Bad Request",
            r#"{"error":"invalid_grant","error_description":"no refresh-1 here"}"#,
            "the endpoint answered 400 invalid_grant: no [token] here: sign in again with PI",
            Some(400),
        ),
        ("503 Busy", "refresh-1", "the endpoint answered 503: sign in again with PI", Some(503)),
        ("302 Found", "", "the endpoint answered 302: sign in again with PI", Some(302)),
        ("200 OK", r#"{"token":"refresh-1"}"#, "the answer has no usable access_token: check the network", None),
    ] {
        let server = endpoint(move |connection| connection.respond(status, "", body));
        let case = case(&server, -1);
        let failed = case.refresher.refresh("p", false, &Cancel::new()).expect_err(status);
        let begin = format!("OAuth refresh failed for p: {expected}");
        assert!(failed.text.starts_with(&begin), "{}", failed.text);
        assert!(!failed.text.contains("refresh-1") && !failed.text.contains("access-1"), "{}", failed.text);
        assert_eq!(failed.facts.status, again);
        assert_eq!(case.entry()["refresh"], "refresh-1");
        // Without a usable token each request asks anew; with one there is no hurry.
        case.refresher.refresh("p", false, &Cancel::new()).expect_err("again");
        case.refresher.refresh("p", true, &Cancel::new()).expect("the token is still good");
        assert_eq!(server.requests().len(), 2);
    }
}

#[test]
fn an_aborted_caller_leaves_at_once_and_the_refresh_ends() {
    let (go, gate) = mpsc::channel::<()>();
    let (asked, arrived) = mpsc::channel::<()>();
    let (gate, asked) = (Mutex::new(gate), Mutex::new(asked));
    let server = endpoint(move |connection| {
        asked.lock().expect("no panic").send(()).expect("the test waits");
        gate.lock().expect("no panic").recv_timeout(Duration::from_secs(10)).expect("it is opened");
        connection.respond("200 OK", "", ANSWER);
    });
    let case = case(&server, -1);
    let cancel = Cancel::new();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            let failed = case.refresher.refresh("p", false, &cancel).expect_err("it is cancelled");
            (failed.aborted, Instant::now())
        });
        arrived.recv_timeout(Duration::from_secs(10)).expect("it asks");
        let begun = Instant::now();
        cancel.cancel();
        let (aborted, then) = waiting.join().expect("no panic");
        assert!(aborted && then - begun < Duration::from_millis(300), "{:?}", then - begun);
    });
    assert_eq!(case.entry()["access"], "access-1");
    let Case { refresher, path, _dir } = case;
    go.send(()).expect("it waits");
    // Whoever ends the process waits for what is on its way.
    drop(refresher);
    let text = std::fs::read_to_string(path).expect("it reads");
    assert!(text.contains("refresh-2") && server.requests().len() == 1, "{text}");
}

#[test]
fn what_another_process_got_is_taken() {
    let server = endpoint(|connection| connection.respond("200 OK", "", ANSWER));
    let case = case(&server, -1);
    let lock = Lock::acquire(&case.path, &Cancel::new()).expect("nobody has it");
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| case.refresher.refresh("p", false, &Cancel::new()));
        let theirs = json!({"p": {"type": "oauth", "access": "a", "refresh": "r", "expires": now_ms() + HOUR_MS}});
        std::fs::write(&case.path, theirs.to_string()).expect("it writes");
        drop(lock);
        waiting.join().expect("no panic").expect("it is fresh");
    });
    assert!(server.requests().is_empty());
    assert_eq!(case.entry()["access"], "a");
}

#[test]
fn the_file_behind_a_link_is_written() {
    let server = endpoint(|connection| connection.respond("200 OK", "", ANSWER));
    let case = case(&server, -1);
    let real = case.path.with_file_name("real.json");
    std::fs::rename(&case.path, &real).expect("it moves");
    std::os::unix::fs::symlink(&real, &case.path).expect("a link");
    case.refresher.refresh("p", false, &Cancel::new()).expect("it is refreshed");
    assert!(case.path.is_symlink() && !real.is_symlink());
    assert_eq!(case.entry()["access"], "access-2");
}

#[test]
fn tokens_are_due_before_they_end() {
    for (expires, due) in [(0, true), (1000, true), (301_000, true), (301_001, false), (i64::MAX, false)] {
        assert_eq!(is_due(expires, 1000), due, "{expires}");
    }
}
