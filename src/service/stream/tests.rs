use super::*;
use crate::broker::{Broker, BrokerOptions};
use crate::contract::error::ErrorKind;
use crate::nats::{Options, ServerAddress, Subscription};
use crate::service::reply_subjects::ReplySubjects;
use crossbeam_channel::Receiver;

#[test]
fn pieces_end_at_characters() {
    for (text, limit, end) in [
        ("", 4, 0),
        ("abc", 4, 3),
        ("abcd", 4, 4),
        ("abcde", 4, 4),
        ("aäö", 2, 1),
        ("aäö", 3, 3),
        ("€€", 4, 3),
        ("€", 1, 3),
    ] {
        assert_eq!(Form::Text.piece_end(text, limit), end, "{text:?} {limit}");
    }
}

#[test]
fn errors_fit_whatever_they_say() {
    for message in ["queue_full: 3 prompts", &"\u{1b}".repeat(5000), &"ä".repeat(5000)] {
        let error = ReplyError::new(ErrorKind::QueueFull, message);
        let document = Form::Agent.error(&error, 1000);
        assert!(document.len() <= 1000 && Form::Text.error(&error, 1000).len() <= 1000);
        let document: Value = serde_json::from_str(&document).expect("JSON");
        assert!(message.starts_with(document["message"].as_str().expect("a text")));
    }
    let short = ReplyError::stopped();
    assert_eq!(Form::Text.error(&short, 1000), "error: session stopped");
    assert_eq!(Form::Agent.error(&short, 1000), r#"{"error":"not_found","message":"session stopped"}"#);
}

/// Every error has the same word on both wires, and none of a provider's words takes its place.
#[test]
fn errors_have_codes_of_ours() {
    for kind in ErrorKind::ALL {
        for message in ["529: overloaded", "queue_full: x", ""] {
            let error = ReplyError::new(kind, message);
            assert_eq!(Form::Text.error(&error, 1000), format!("error: {message}"));
            let document: Value = serde_json::from_str(&Form::Agent.error(&error, 1000)).expect("JSON");
            assert_eq!(document, json!({"error": kind.code(), "message": message}));
        }
    }
}

/// A caller and a stream to it, on a server of their own.
struct Call {
    answers: Receiver<Box<Message>>,
    connection: Connection,
    stream: Stream,
    _subscription: Subscription,
    _broker: Broker,
}

fn call(form: Form) -> Call {
    let broker = Broker::start("127.0.0.1:0".parse().expect("an address"), BrokerOptions::default()).expect("a broker");
    let (events, connected) = bounded(8);
    let options = Options::new(vec![ServerAddress::from(broker.address())]);
    let connection = Connection::start(options, events).expect("a connection");
    connected.recv_timeout(Duration::from_secs(20)).expect("connected");
    let (sender, answers) = bounded(100);
    let subscription = connection.subscribe("caller", None, sender).expect("subscribed");
    let stream = Stream::new(&connection, "caller".into(), form);
    Call { answers, connection, stream, _subscription: subscription, _broker: broker }
}

impl Call {
    /// The payloads of what has arrived.
    fn heard(&self) -> Vec<String> {
        assert!(self.connection.round_trip(Duration::from_secs(20)));
        self.answers.try_iter().map(|message| String::from_utf8_lossy(&message.payload).into_owned()).collect()
    }
}

const ACK: &str = r#"{"type":"status","data":"ack"}"#;
const WORKING: &str = r#"{"type":"status","data":"working"}"#;

#[test]
fn silence_is_broken_until_the_end_and_never_after() {
    let call = call(Form::Agent);
    let (keep_alive, now) = (KeepAlive::default(), Instant::now());
    keep_alive.watch(&call.stream);
    call.stream.accepted();
    call.stream.accepted();
    keep_alive.tick(now + Duration::from_secs(19));
    assert_eq!(call.heard(), [ACK]);
    keep_alive.tick(now + Duration::from_secs(21));
    keep_alive.tick(now + Duration::from_secs(40));
    assert_eq!(call.heard(), [WORKING]);
    keep_alive.tick(now + Duration::from_secs(42));
    call.stream.text("late", &Cancel::new());
    keep_alive.tick(now + Duration::from_secs(20));
    call.stream.finish(Ok(()));
    keep_alive.tick(now + Duration::from_secs(100));
    assert_eq!(call.heard(), [WORKING, r#"{"type":"response","data":"late"}"#, ""]);
    drop(call.stream);
    keep_alive.tick(now);
    assert!(keep_alive.0.lock().expect("not poisoned").is_empty(), "a stream that is gone is not watched");
}

#[test]
fn the_acknowledgement_comes_first_and_not_before_an_error() {
    for (act, expected) in [
        (
            (|stream| stream.text("hi", &Cancel::new())) as fn(&Stream),
            vec![ACK, r#"{"type":"response","data":"hi"}"#, ""],
        ),
        (|stream| stream.message(WORKING.into()), vec![ACK, WORKING, ""]),
        (|_| {}, vec![ACK, ""]),
        (
            |stream| stream.finish(Err(ReplyError::queue_full(3))),
            vec![r#"{"error":"queue_full","message":"queue_full: 3 prompts are waiting already"}"#, ""],
        ),
    ] {
        let call = call(Form::Agent);
        act(&call.stream);
        call.stream.finish(Ok(()));
        assert_eq!(call.heard(), expected);
    }
    let text = call(Form::Text);
    text.stream.accepted();
    text.stream.text("hi", &Cancel::new());
    drop(text.stream.clone());
    assert_eq!(text.heard(), ["hi"]);
    text.stream.finish(Ok(()));
    text.stream.finish(Err(ReplyError::stopped()));
    assert_eq!(text.heard(), [""], "it ends once");
}

#[test]
fn a_stream_that_nobody_ends_fails() {
    let error = "internal_error: the answer was given up";
    let document = format!(r#"{{"error":"internal_error","message":"{error}"}}"#);
    for (form, expected) in [(Form::Text, format!("error: {error}")), (Form::Agent, document)] {
        let Call { answers, connection, stream, _subscription, _broker } = call(form);
        drop(stream);
        assert!(connection.round_trip(Duration::from_secs(20)));
        let heard: Vec<_> = answers.try_iter().map(|message| message.payload.to_vec()).collect();
        assert_eq!(heard, [expected.as_bytes(), b""]);
    }
}

#[test]
fn an_address_leads_back_to_the_caller() {
    let allowed = ReplySubjects::new(vec!["caller".into()]);
    let forged = json!({"text": "agents.pi-exec.ada"});
    for (form, expected) in [(Form::Text, "more"), (Form::Agent, r#"{"type":"response","data":"more"}"#)] {
        let call = call(form);
        let address = call.stream.address().expect("an address");
        let resumed = Stream::resume(&call.connection, &allowed, &address).expect("a stream");
        resumed.text("more", &Cancel::new());
        resumed.finish(Ok(()));
        assert_eq!(call.heard(), [expected, ""]);
        assert!(Stream::resume(&call.connection, &allowed, &json!({"pigeon": "caller"})).is_none());
        assert!(Stream::resume(&call.connection, &allowed, &forged).is_none());
    }
}

/// A second beginning is marked, and no text is merged over the mark, however it waits.
#[test]
fn an_answer_that_begins_anew_is_marked() {
    let status = r#"{"type":"status","data":"restart:{\"attempt\":2,\"voidBytes\":3}"}"#;
    for (form, mark) in
        [(Form::Text, "[The answer begins anew: attempt 2]".to_string()), (Form::Agent, status.to_string())]
    {
        for waits in [false, true] {
            let call = call(form);
            call.stream.state().greeting = None;
            if waits {
                // As if the caller had to be looked for.
                call.stream.state().generation += 1;
            }
            let cancel = Cancel::new();
            cancel.cancel();
            call.stream.text("hel", &cancel);
            call.stream.restart(Restart { attempt: 2, void_bytes: Some(3) });
            call.stream.text("hel", &cancel);
            call.stream.text("lo", &cancel);
            call.stream.finish(Ok(()));
            let heard = call.heard();
            let at = heard.iter().position(|message| *message == mark).expect("a mark");
            let text = |messages: &[String]| match form {
                Form::Text => messages.concat(),
                Form::Agent => messages
                    .iter()
                    .filter_map(|message| serde_json::from_str::<Value>(message).ok())
                    .filter_map(|message| message["data"].as_str().map(str::to_string))
                    .collect(),
            };
            assert_eq!((text(&heard[..at]), text(&heard[at + 1..])), ("hel".to_string(), "hello".to_string()));
        }
    }
    let call = call(Form::Text);
    call.stream.restart(Restart { attempt: 7, void_bytes: Some(0) });
    call.stream.finish(Err(ReplyError::model("529: Overloaded")));
    assert!(call.connection.round_trip(Duration::from_secs(20)));
    let header = |name: &str| call.answers.recv().ok().and_then(|message| message.header(name).map(str::to_string));
    assert_eq!(header(RESTART_HEADER).as_deref(), Some("7"));
    assert_eq!(header(CODE_HEADER).as_deref(), Some("model_error"));
}
