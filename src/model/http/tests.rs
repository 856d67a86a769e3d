use super::*;
use crate::model::test_support::TestServer;
use std::sync::mpsc;

const PATIENCE: Timeouts = Timeouts { first_byte: Duration::from_secs(10), idle: Duration::from_secs(10), total: None };

fn post(http: &Arc<Http>, server: &TestServer, timeouts: Timeouts, cancel: &Cancel) -> Result<Response, HttpError> {
    let headers = [("x-test".to_string(), "1".to_string())];
    http.post(&format!("{}/v1/x", server.url), &headers, b"{}", timeouts, cancel)
}

fn read(response: &mut Response) -> io::Result<String> {
    let mut text = String::new();
    response.read_to_string(&mut text).map(|_| text)
}

#[test]
fn connections_are_kept_for_the_next_request() {
    let server = TestServer::events("data: x\n\n");
    let http = Arc::new(Http::default());
    for _ in 0..3 {
        let mut response = post(&http, &server, PATIENCE, &Cancel::new()).expect("it answers");
        assert_eq!(response.status, 200);
        let mut first = [0; 4];
        response.read_exact(&mut first).expect("it reads");
        // The rest is left unread, as after a terminal event.
        response.complete();
    }
    assert_eq!(server.connections(), 1);
    let request = &server.requests()[0];
    assert!(
        request.head.starts_with("POST /v1/x HTTP/1.1\r\n") && request.head.contains("x-test: 1"),
        "{}",
        request.head
    );
    assert!(
        request.head.contains(concat!("user-agent: nats-pi-bridge/", env!("CARGO_PKG_VERSION"))),
        "{}",
        request.head
    );
    assert_eq!(request.body, "{}");
}

#[test]
fn an_unread_answer_closes_its_connection() {
    let server = TestServer::events("data: x\n\n");
    let http = Arc::new(Http::default());
    for _ in 0..2 {
        drop(post(&http, &server, PATIENCE, &Cancel::new()).expect("it answers"));
    }
    assert_eq!(server.connections(), 2);
}

#[test]
fn at_most_four_connections_wait_per_server() {
    let server = TestServer::events("data: x\n\n");
    let http = Arc::new(Http::default());
    let responses: Vec<_> =
        (0..6).map(|_| post(&http, &server, PATIENCE, &Cancel::new()).expect("it answers")).collect();
    responses.into_iter().for_each(Response::complete);
    assert_eq!(server.connections(), 6);
    assert_eq!(http.idle.lock().expect("no panic").len(), MAX_IDLE_PER_SERVER);
    http.idle.lock().expect("no panic").iter_mut().for_each(|p| p.since -= MAX_IDLE);
    post(&http, &server, PATIENCE, &Cancel::new()).expect("it answers").complete();
    assert_eq!(server.connections(), 7, "old connections are not used");
    assert_eq!(http.idle.lock().expect("no panic").len(), 1, "and do not stay");
}

#[test]
fn an_answer_that_never_ends_is_given_up_when_its_connection_is_needed() {
    let server = TestServer::new(|_, connection| {
        connection.request();
        connection.stream_head();
        connection.chunk("data: x\n\n");
        connection.wait_closed();
    });
    let http = Arc::new(Http::default());
    let begun = Instant::now();
    for _ in 0..2 {
        let mut response = post(&http, &server, PATIENCE, &Cancel::new()).expect("it answers");
        response.read_exact(&mut [0; 9]).expect("it reads");
        response.complete();
    }
    assert_eq!(server.connections(), 2);
    assert!(begun.elapsed() < PATIENCE.idle);
}

/// A connection that is reset at the moment it is used the second time.
#[test]
fn a_stale_connection_is_replaced_silently() {
    let server = TestServer::new(|number, connection| {
        connection.request();
        connection.stream_head();
        connection.last_chunk();
        // The first connection takes the second request in and is closed without a word.
        if number == 0 {
            connection.request();
        } else {
            connection.wait_closed();
        }
    });
    let http = Arc::new(Http::default());
    for _ in 0..2 {
        let mut response = post(&http, &server, PATIENCE, &Cancel::new()).expect("it answers");
        assert_eq!(read(&mut response).expect("it reads"), "");
        response.complete();
    }
    assert_eq!((server.connections(), server.requests().len()), (2, 3));
}

#[test]
fn a_new_connection_that_is_closed_is_an_error() {
    let server = TestServer::new(|_, connection| {
        connection.request();
    });
    let error = post(&Arc::new(Http::default()), &server, PATIENCE, &Cancel::new()).err();
    assert!(matches!(error, Some(HttpError::Connection(_))), "{error:?}");
    assert_eq!(server.connections(), 1);
}

#[test]
fn silence_has_an_end_before_and_in_the_answer() {
    let server = TestServer::new(|_, connection| {
        let body = connection.request().map(|r| r.head.contains("/answer")).unwrap_or(false);
        if body {
            connection.stream_head();
            connection.chunk("data: x\n\n");
        }
        connection.wait_closed();
    });
    let http = Arc::new(Http::default());
    let short = Duration::from_millis(50);
    let early = Timeouts { first_byte: short, ..PATIENCE };
    let error = http.post(&server.url, &[], b"", early, &Cancel::new()).err();
    assert!(matches!(error, Some(HttpError::TimedOut(_))), "{error:?}");
    let late = Timeouts { idle: short, ..PATIENCE };
    let mut response =
        http.post(&format!("{}/answer", server.url), &[], b"", late, &Cancel::new()).expect("it answers");
    assert_eq!(read(&mut response).expect_err("silence").kind(), io::ErrorKind::TimedOut);
}

#[test]
fn a_limit_for_all_together_holds_however_busy_the_server_is() {
    let server = TestServer::new(|_, connection| {
        connection.request();
        connection.stream_head();
        for _ in 0..500 {
            connection.chunk("x");
            std::thread::sleep(Duration::from_millis(10));
        }
        connection.last_chunk();
    });
    let timeouts = Timeouts { total: Some(Duration::from_millis(200)), ..PATIENCE };
    let begun = Instant::now();
    let mut response = post(&Arc::new(Http::default()), &server, timeouts, &Cancel::new()).expect("it answers");
    assert_eq!(read(&mut response).expect_err("too long").kind(), io::ErrorKind::TimedOut);
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
}

#[test]
fn a_cut_body_is_an_error() {
    let server = TestServer::new(|_, connection| {
        connection.request();
        connection.stream_head();
        connection.chunk("data: x\n\n");
    });
    let mut response = post(&Arc::new(Http::default()), &server, PATIENCE, &Cancel::new()).expect("it answers");
    assert!(read(&mut response).is_err());
}

#[test]
fn failed_requests_tell_why_and_keep_the_connection() {
    let server = TestServer::new(|_, connection| {
        while connection.request().is_some() {
            connection.respond("429 Too Many Requests", "retry-after: 7\r\n", "{\"error\":\"slow down\"}");
        }
    });
    let http = Arc::new(Http::default());
    for _ in 0..2 {
        let response = post(&http, &server, PATIENCE, &Cancel::new()).expect("it answers");
        assert_eq!((response.status, response.header("retry-after")), (429, Some("7")));
        assert_eq!(response.into_error_body(), "{\"error\":\"slow down\"}");
    }
    assert_eq!(server.connections(), 1);
}

#[test]
fn redirects_are_not_followed() {
    let server = TestServer::new(|_, connection| {
        connection.request();
        connection.respond("307 Temporary Redirect", "location: /elsewhere\r\n", "");
        connection.wait_closed();
    });
    let response = post(&Arc::new(Http::default()), &server, PATIENCE, &Cancel::new()).expect("it answers");
    assert_eq!((response.status, server.requests().len()), (307, 1));
}

/// How long a request goes on after it was cancelled, with a server that falls silent before or in its answer.
fn cancelled(in_body: bool) -> Duration {
    let (reached, silent) = mpsc::channel();
    let server = TestServer::new(move |_, connection| {
        connection.request();
        if in_body {
            connection.stream_head();
            connection.chunk("data: x\n\n");
        }
        let _ = reached.send(());
        connection.wait_closed();
    });
    let (http, cancel) = (Arc::new(Http::default()), Cancel::new());
    let canceller = {
        let cancel = cancel.clone();
        std::thread::spawn(move || {
            silent.recv_timeout(Duration::from_secs(10)).expect("the server is reached");
            let begun = Instant::now();
            cancel.cancel();
            begun
        })
    };
    let error = match post(&http, &server, PATIENCE, &cancel) {
        Ok(mut response) => read(&mut response).err().map(|_| HttpError::Cancelled),
        Err(e) => Some(e),
    };
    assert_eq!(error, Some(HttpError::Cancelled));
    let took = canceller.join().expect("it cancels").elapsed();
    assert!(http.idle.lock().expect("no panic").is_empty());
    took
}

#[test]
fn cancelling_takes_effect_at_once() {
    for in_body in [false, true] {
        let took = cancelled(in_body);
        assert!(took < Duration::from_millis(300), "in the body: {in_body}: {took:?}");
    }
}

#[test]
fn cancelling_hits_nobody_else() {
    let server = TestServer::events("data: x\n\n");
    let (http, cancel) = (Arc::new(Http::default()), Cancel::new());
    post(&http, &server, PATIENCE, &cancel).expect("it answers").complete();
    let mut other = post(&http, &server, PATIENCE, &Cancel::new()).expect("it answers");
    cancel.cancel();
    assert_eq!(read(&mut other).expect("it reads"), "data: x\n\n");
    assert_eq!(server.connections(), 1);
    assert_eq!(post(&http, &server, PATIENCE, &cancel).err(), Some(HttpError::Cancelled));
}

#[test]
fn a_server_of_unknown_identity_is_no_connection_error() {
    let wrapped = io::Error::new(
        io::ErrorKind::InvalidData,
        rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer),
    );
    let error = explain(ureq::Error::Io(wrapped));
    assert!(matches!(&error, HttpError::Tls(reason) if reason.contains("UnknownIssuer")), "{error:?}");
    let plain = explain(ureq::Error::Io(io::ErrorKind::ConnectionReset.into()));
    assert!(matches!(plain, HttpError::Connection(_)), "{plain:?}");
}

#[test]
fn addresses() {
    for (url, server, loopback) in [
        ("http://localhost:11434/v1", Some("http://localhost:11434"), true),
        ("http://127.8.9.1/v1", Some("http://127.8.9.1"), true),
        ("https://u:p@[::1]:8/x", Some("https://u:p@[::1]:8"), true),
        ("https://api.example.com?x", Some("https://api.example.com"), false),
        ("http://localhost.example.com", Some("http://localhost.example.com"), false),
        ("ftp://localhost", None, false),
        ("nonsense", None, false),
        ("http:///x", None, false),
    ] {
        assert_eq!(server_of(url).as_deref(), server, "{url}");
        assert_eq!(is_loopback(url), loopback, "{url}");
    }
    let error = Arc::new(Http::default()).post("nonsense", &[], b"", PATIENCE, &Cancel::new()).err();
    assert!(matches!(error, Some(HttpError::Invalid(_))), "{error:?}");
    let bad = [("x".to_string(), "sk\nsecret".to_string())];
    let error = Arc::new(Http::default()).post("http://localhost:1", &bad, b"", PATIENCE, &Cancel::new()).err();
    assert!(matches!(&error, Some(HttpError::Invalid(text)) if !text.contains("secret")), "{error:?}");
}
