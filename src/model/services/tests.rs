use super::*;
use crate::model::request::StreamEvent;
use crate::model::test_support::{Recorder, TestServer, test_messages, test_request};
use serde_json::{Value, json};
use std::sync::mpsc;
use std::time::{Duration, Instant};

fn no_environment(_: &str) -> Option<String> {
    None
}

/// Services with these files. The directory has to be kept.
fn services(files: &[(&str, Value)], environment: fn(&str) -> Option<String>) -> (Services, tempfile::TempDir) {
    let dir = tempfile::tempdir().expect("a directory");
    for (name, content) in files {
        std::fs::write(dir.path().join(name), content.to_string()).expect("it writes");
    }
    (Services::with_environment(dir.path(), Endpoints::default(), environment), dir)
}

/// Services whose provider `test` is this server.
fn services_at(server: &TestServer, api: &str) -> (Services, tempfile::TempDir) {
    let models =
        json!({"providers":{"test":{"baseUrl":server.url,"api":api,"apiKey":"sk-secret","models":[{"id":"m"}]}}});
    services(&[("models.json", models)], no_environment)
}

fn ask(services: &Services, cancel: &Cancel, sink: &mut dyn Sink) -> Outcome {
    let (model, _) = services.resolve("test/m").expect("it is there");
    let messages = test_messages(json!([{"role":"user","content":"Hello","timestamp":1}]));
    services.stream(&test_request(&model, &messages), cancel, sink)
}

const OPENING: &str = "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"id\":\"i\"}}\n\n\
    event: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":0,\"content_block\":{\"type\":\"text\"}}\n\n";
const DELTA: &str =
    "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"text\":\"hi\"}}\n\n";
const ENDING: &str = "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n";

#[test]
fn an_answer_over_http() {
    let server = TestServer::new(|_, connection| {
        while connection.request().is_some() {
            connection.stream_head();
            connection.chunk(OPENING);
            connection.chunk(&format!("{DELTA}{DELTA}"));
            connection.chunk(ENDING);
            connection.last_chunk();
        }
    });
    let (services, _dir) = services_at(&server, "anthropic-messages");
    for _ in 0..2 {
        let mut recorder = Recorder::default();
        let outcome = ask(&services, &Cancel::new(), &mut recorder);
        assert_eq!((outcome.message.text().as_str(), outcome.message.stop_reason), ("hihi", StopReason::Stop));
        assert_eq!(recorder.events(), ["start", "text0", "text0+hi", "text0+hi", "text0."]);
    }
    assert_eq!(server.connections(), 1);
    assert!(server.requests()[0].head.contains("x-api-key: sk-secret\r\n"));
}

/// What providers of the catalog want beside a key, at another address.
#[test]
fn requests_have_what_their_provider_wants() {
    let server =
        TestServer::events("data: {\"choices\":[{\"delta\":{\"content\":\"hi\"},\"finish_reason\":\"stop\"}]}\n\n");
    fn environment(name: &str) -> Option<String> {
        (name == "CLOUDFLARE_ACCOUNT_ID").then(|| "account".to_string())
    }
    let url = format!("{}/{{CLOUDFLARE_ACCOUNT_ID}}/{{CLOUDFLARE_GATEWAY_ID}}/v1", server.url);
    let models = json!({"providers":{
        "cloudflare-ai-gateway":{"baseUrl":url},
        "opencode":{"baseUrl":server.url},
        "nvidia":{"baseUrl":server.url}}});
    let auth = |gateway: Value| {
        json!({
            "cloudflare-ai-gateway":{"type":"api_key","key":"k","env":gateway},
            "opencode":{"type":"api_key","key":"k"},
            "nvidia":{"type":"api_key","key":"k"}})
    };
    let files = [("models.json", models), ("auth.json", auth(json!({"CLOUDFLARE_GATEWAY_ID":"gateway"})))];
    let (services, dir) = services(&files, environment);
    for (spec, present, absent) in [
        (
            "cloudflare-ai-gateway/workers-ai/@cf/moonshotai/kimi-k2.7-code",
            ["POST /account/gateway/v1/chat/completions ", "\ncf-aig-authorization: Bearer k\r\n"],
            ["\nauthorization:", "x-opencode-session"],
        ),
        (
            "cloudflare-ai-gateway/claude-fable-5",
            ["POST /account/gateway/v1/v1/messages ", "\ncf-aig-authorization: Bearer k\r\n"],
            ["\nauthorization:", "\nx-api-key:"],
        ),
        (
            "opencode/kimi-k2.7-code",
            ["\nauthorization: Bearer k\r\n", "\nx-opencode-session: s1\r\n"],
            ["cf-aig-authorization", "nvcf-"],
        ),
        (
            "nvidia/nvidia/nemotron-3.5-super-vl-120b-a12b",
            ["\nauthorization: Bearer k\r\n", "\nnvcf-poll-seconds: 3600\r\n"],
            ["cf-aig-authorization", "x-opencode-session"],
        ),
    ] {
        let (model, _) = services.resolve(spec).expect(spec);
        services.check_credentials(&model).expect(spec);
        // A summary is asked for without a cache, and names its session all the same.
        let request = Request { session_id: None, ..test_request(&model, &[]) };
        services.stream(&request, &Cancel::new(), &mut Recorder::default());
        let head = server.requests().pop().expect("it was sent").head;
        assert!(present.iter().all(|text| head.contains(text)), "{spec}: {head}");
        assert!(!absent.iter().any(|text| head.contains(text)), "{spec}: {head}");
    }
    std::fs::write(dir.path().join("auth.json"), auth(json!({})).to_string()).expect("it writes");
    let (model, _) = services.resolve("cloudflare-ai-gateway/claude-fable-5").expect("it is known");
    let error = services.check_credentials(&model).expect_err("no gateway").to_string();
    assert!(error.contains("cloudflare-ai-gateway") && error.contains("CLOUDFLARE_GATEWAY_ID"), "{error}");
    let sent = server.requests().len();
    let outcome = services.stream(&test_request(&model, &[]), &Cancel::new(), &mut Recorder::default());
    assert_eq!((outcome.message.error_message, server.requests().len()), (Some(error), sent));
}

#[test]
fn drains_come_exactly_when_a_read_may_wait() {
    let (go, gate) = mpsc::channel::<()>();
    let gate = std::sync::Mutex::new(gate);
    let server = TestServer::new(move |_, connection| {
        connection.request();
        connection.stream_head();
        let wait = || gate.lock().expect("no panic").recv_timeout(Duration::from_secs(10)).expect("it was drained");
        for part in [OPENING.to_string(), format!("{DELTA}{DELTA}"), format!("{}{ENDING}", DELTA)] {
            wait();
            connection.chunk(&part);
        }
    });
    struct Gate(mpsc::Sender<()>, Vec<&'static str>);
    impl Sink for Gate {
        fn event(&mut self, event: StreamEvent<'_>) {
            if let StreamEvent::TextDelta { .. } = event {
                self.1.push("+");
            }
        }
        fn drained(&mut self) {
            self.1.push("|");
            let _ = self.0.send(());
        }
    }
    let (services, _dir) = services_at(&server, "anthropic-messages");
    let mut sink = Gate(go, Vec::new());
    let outcome = ask(&services, &Cancel::new(), &mut sink);
    assert_eq!(outcome.message.stop_reason, StopReason::Stop);
    assert_eq!(sink.1.concat(), "||++|+", "after the head, and after each part but the last");
}

#[test]
fn the_last_event_is_the_end_whatever_the_server_does() {
    let server = TestServer::new(|_, connection| {
        connection.request();
        connection.stream_head();
        connection.chunk(&format!("{OPENING}{DELTA}{ENDING}"));
        connection.wait_closed();
    });
    let (services, _dir) = services_at(&server, "anthropic-messages");
    let begun = Instant::now();
    assert_eq!(ask(&services, &Cancel::new(), &mut Recorder::default()).message.stop_reason, StopReason::Stop);
    assert!(begun.elapsed() < Duration::from_secs(10));
}

#[test]
fn refusals_tell_status_body_and_wait_but_no_key() {
    let server = TestServer::new(|_, connection| {
        connection.request();
        connection.respond(
            "429 Too Many Requests",
            "retry-after: 3\r\n",
            &format!("slow down, sk-secret{}", "x".repeat(5000)),
        );
        connection.wait_closed();
    });
    let (services, _dir) = services_at(&server, "anthropic-messages");
    let mut recorder = Recorder::default();
    let outcome = ask(&services, &Cancel::new(), &mut recorder);
    let text = outcome.message.error_message.expect("an error");
    assert!(text.starts_with("429: slow down, [key]xxx") && text.len() <= 4010, "{text}");
    let failure = outcome.failure.expect("facts");
    assert_eq!((failure.status, failure.retry_after), (Some(429), Some(Duration::from_secs(3))));
    assert!(recorder.0.is_empty());
}

/// A server that refuses the first `refusals` requests, with these headers.
fn refusing(refusals: usize, headers: &'static str) -> TestServer {
    let asked = std::sync::atomic::AtomicUsize::new(0);
    TestServer::new(move |_, connection| {
        while connection.request().is_some() {
            if asked.fetch_add(1, std::sync::atomic::Ordering::SeqCst) < refusals {
                connection.respond("429 Too Many Requests", headers, "slow down");
            } else {
                connection.stream_head();
                connection.chunk(&format!("{OPENING}{DELTA}{ENDING}"));
                connection.last_chunk();
            }
        }
    })
}

#[test]
fn a_limit_holds_for_all_who_use_the_key() {
    let server = refusing(1, "retry-after-ms: 200\r\n");
    let (services, _dir) = services_at(&server, "anthropic-messages");
    let begun = Instant::now();
    assert_eq!(ask(&services, &Cancel::new(), &mut Recorder::default()).message.stop_reason, StopReason::Error);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let outcome = ask(&services, &Cancel::new(), &mut Recorder::default());
                assert_eq!(outcome.message.stop_reason, StopReason::Stop);
            });
        }
    });
    // The last of the three goes two places behind the first.
    assert!(begun.elapsed() >= Duration::from_millis(300), "{:?}", begun.elapsed());
    assert_eq!(server.requests().len(), 4);
}

#[test]
fn too_long_a_wait_is_an_error_at_once_for_all() {
    let server = refusing(1, "retry-after: 120\r\n");
    let (services, _dir) = services_at(&server, "anthropic-messages");
    for expected in [
        "Server requested 120s retry delay (max: 60s). 429: slow down",
        "Server requested 120s retry delay (max: 60s). An earlier",
    ] {
        let outcome = ask(&services, &Cancel::new(), &mut Recorder::default());
        let text = outcome.message.error_message.expect("an error");
        assert!(text.starts_with(expected), "{text}");
    }
    assert_eq!(server.requests().len(), 1);
}

#[test]
fn requests_are_repeated_as_configured() {
    for (headers, status) in
        [("retry-after-ms: 1\r\n", StopReason::Stop), ("x-should-retry: false\r\n", StopReason::Error)]
    {
        let server = refusing(2, headers);
        let (services, dir) = services_at(&server, "anthropic-messages");
        std::fs::write(dir.path().join("settings.json"), r#"{"retry":{"provider":{"maxRetries":2}}}"#)
            .expect("it writes");
        let mut recorder = Recorder::default();
        assert_eq!(ask(&services, &Cancel::new(), &mut recorder).message.stop_reason, status, "{headers}");
        assert_eq!(
            recorder.events().iter().filter(|e| **e == "start").count(),
            usize::from(status == StopReason::Stop)
        );
    }
}

#[test]
fn a_cut_stream_keeps_its_text() {
    let server = TestServer::new(|_, connection| {
        connection.request();
        connection.stream_head();
        connection.chunk(&format!("{OPENING}{DELTA}"));
    });
    let (services, _dir) = services_at(&server, "anthropic-messages");
    let outcome = ask(&services, &Cancel::new(), &mut Recorder::default());
    assert_eq!((outcome.message.text().as_str(), outcome.message.stop_reason), ("hi", StopReason::Error));
    let text = outcome.message.error_message.expect("an error");
    assert!(text.starts_with("Connection lost"), "{text}");
}

#[test]
fn an_aborted_answer_keeps_its_text() {
    /// Cancels at the first delta.
    struct Canceller(Cancel);
    impl Sink for Canceller {
        fn event(&mut self, event: StreamEvent<'_>) {
            if let StreamEvent::TextDelta { .. } = event {
                self.0.cancel();
            }
        }
        fn drained(&mut self) {}
    }
    for chunked in [true, false] {
        let server = TestServer::new(move |_, connection| {
            connection.request();
            if chunked {
                connection.stream_head();
                connection.chunk(&format!("{OPENING}{DELTA}"));
            } else {
                // The end of such a body is the end of the connection, which is what cancelling looks like too.
                connection.write(&format!("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{OPENING}{DELTA}"));
            }
            connection.wait_closed();
        });
        let (services, _dir) = services_at(&server, "anthropic-messages");
        let cancel = Cancel::new();
        let outcome = ask(&services, &cancel, &mut Canceller(cancel.clone()));
        assert_eq!((outcome.message.text().as_str(), outcome.message.stop_reason), ("hi", StopReason::Aborted));
        assert_eq!(outcome.message.error_message.as_deref(), Some("Request was aborted"));
    }
}

#[test]
fn a_cancelled_request_is_not_sent() {
    let server = TestServer::events("");
    let (services, _dir) = services_at(&server, "anthropic-messages");
    let cancel = Cancel::new();
    cancel.cancel();
    assert_eq!(ask(&services, &cancel, &mut Recorder::default()).message.stop_reason, StopReason::Aborted);
    assert_eq!(server.connections(), 0);
}

#[test]
fn an_unreachable_server_is_a_connection_error() {
    let models =
        json!({"providers":{"test":{"baseUrl":"http://127.0.0.1:1","api":"anthropic-messages","models":[{"id":"m"}]}}});
    let (services, _dir) = services(&[("models.json", models)], no_environment);
    let outcome = ask(&services, &Cancel::new(), &mut Recorder::default());
    let text = outcome.message.error_message.expect("an error");
    assert!(text.starts_with("Connection error: ") && text.contains("refused"), "{text}");
}

#[test]
fn defaults() {
    fn groq(name: &str) -> Option<String> {
        (name == "GROQ_API_KEY").then(|| "k".to_string())
    }
    let set = |provider: &str, model: &str| json!({"defaultProvider":provider,"defaultModel":model,"defaultThinkingLevel":"low"});
    let auth = |provider: &str| json!({provider:{"type":"api_key","key":"k"}});
    let local = json!({"providers":{"local":{"baseUrl":"http://h","api":"openai-completions","apiKey":"k","models":[{"id":"m"}]}}});
    type Case = (Vec<(&'static str, Value)>, fn(&str) -> Option<String>, Option<&'static str>);
    let cases: Vec<Case> = vec![
        (vec![], no_environment, None),
        (vec![], groq, Some("groq/openai/gpt-oss-120b")),
        (vec![("auth.json", auth("openrouter"))], groq, Some("openrouter/moonshotai/kimi-k2.7-code")),
        (vec![("auth.json", auth("deepseek"))], groq, Some("groq/openai/gpt-oss-120b")),
        (vec![("auth.json", auth("deepseek"))], no_environment, Some("deepseek/deepseek-v4-pro")),
        // Without an account there is no address.
        (vec![("auth.json", auth("cloudflare-workers-ai"))], no_environment, None),
        (vec![("settings.json", set("groq", "llama-3.1-8b-instant"))], groq, Some("groq/llama-3.1-8b-instant")),
        (vec![("settings.json", set("xai", "grok-4.7"))], groq, Some("groq/openai/gpt-oss-120b")),
        (vec![("settings.json", set("offline", "demo"))], no_environment, None),
        (vec![("models.json", local)], no_environment, Some("local/m")),
    ];
    for (files, environment, expected) in cases {
        let (services, _dir) = services(&files, environment);
        let model = services.default_model();
        assert_eq!(model.as_ref().map(|m| m.spec()).as_deref(), expected, "{files:?}");
    }
    let (services, _dir) = services(&[("settings.json", set("a", "b"))], no_environment);
    assert_eq!(services.default_thinking(&offline::model()), ThinkingLevel::Low);
    assert_eq!(services.check_credentials(&offline::model()), Ok(()));
}

#[test]
fn a_broken_models_json_is_reported_and_spares_the_catalog() {
    let (services, dir) = services(&[], no_environment);
    std::fs::write(dir.path().join("models.json"), "{\"providers\":{").expect("it writes");
    assert!(services.resolve("anthropic/claude-opus-5-5").is_ok());
    let error = services.resolve("local/m").expect_err("unknown").to_string();
    assert!(error.contains("local/m") && error.contains("models.json: EOF"), "{error}");
    std::fs::write(
        dir.path().join("models.json"),
        r#"{"providers":{"local":{"baseUrl":"http://h","api":"openai-completions","models":[{"id":"m"}]}}}"#,
    )
    .expect("it writes");
    let (model, _) = services.resolve("local/m").expect("a running daemon sees the edit");
    std::fs::write(dir.path().join("models.json"), "oops").expect("it writes");
    let error = services.check_credentials(&model).expect_err("the file is broken again").to_string();
    assert!(error.contains("models.json: expected value"), "{error}");
    let outcome = services.stream(&test_request(&model, &[]), &Cancel::new(), &mut Recorder::default());
    assert_eq!(outcome.message.error_message, Some(error));
}

#[test]
fn a_refused_image_is_left_out_at_once_and_from_then_on() {
    let server = TestServer::new(|_, connection| {
        while let Some(request) = connection.request() {
            if request.body.contains("iVBORw0KGgo=") {
                connection.respond("400 Bad Request", "", "{\"error\":{\"message\":\"Could not process image\"}}");
            } else {
                connection.stream_head();
                connection.chunk(&format!("{OPENING}{DELTA}{ENDING}"));
                connection.last_chunk();
            }
        }
    });
    let models = json!({"providers":{"test":{"baseUrl":server.url,"api":"anthropic-messages","apiKey":"k",
        "models":[{"id":"m","input":["text","image"]}]}}});
    let (services, _dir) = services(&[("models.json", models)], no_environment);
    let (model, _) = services.resolve("test/m").expect("it is there");
    let image = json!({"type":"image","data":"iVBORw0KGgo=","mimeType":"image/png"});
    let messages =
        test_messages(json!([{"role":"user","content":[{"type":"text","text":"Look"},image],"timestamp":1}]));
    for requests in [2, 3] {
        let mut recorder = Recorder::default();
        let outcome = services.stream(&test_request(&model, &messages), &Cancel::new(), &mut recorder);
        assert_eq!((outcome.message.text().as_str(), outcome.message.error_message), ("hi", None));
        assert_eq!(recorder.events(), ["start", "text0", "text0+hi", "text0."]);
        assert_eq!(server.requests().len(), requests);
    }
    assert!(server.requests()[2].body.contains("could not process it"));
}

#[test]
fn a_refusal_that_names_nothing_to_leave_out_is_reported_at_once() {
    let server = TestServer::new(|_, connection| {
        while connection.request().is_some() {
            connection.respond("400 Bad Request", "", "Could not process image");
        }
    });
    let (services, _dir) = services_at(&server, "anthropic-messages");
    let outcome = ask(&services, &Cancel::new(), &mut Recorder::default());
    assert_eq!(outcome.message.error_message.as_deref(), Some("400: Could not process image"));
    assert_eq!(server.requests().len(), 1);
}

#[test]
fn requests_keep_within_the_limits_that_models_json_states() {
    let answer: &'static str = Box::leak(format!("{OPENING}{DELTA}{ENDING}").into_boxed_str());
    let server = TestServer::events(answer);
    let image = |letter: &str| json!({"type":"image","data":format!("iVBORw0KGgo{}=", letter.repeat(4000)),"mimeType":"image/png"});
    let content = json!([{"type":"text","text":"Look"}, image("A"), image("B"), image("C"), image("D")]);
    let messages = test_messages(json!([{"role":"user","content":content,"timestamp":1}]));
    for (limits, most, sent) in [
        (json!({}), usize::MAX, 4),
        (json!({"images":{"maxPerRequest":2}}), usize::MAX, 2),
        (json!({"maxRequestBytes":10_000}), 10_000, 2),
        (json!({"maxRequestBytes":100}), usize::MAX, 0),
    ] {
        let models = json!({"providers":{"test":{"baseUrl":server.url,"api":"anthropic-messages","apiKey":"k",
            "models":[{"id":"m","input":["text","image"],"inputLimits":limits}]}}});
        let (services, _dir) = services(&[("models.json", models)], no_environment);
        let (model, _) = services.resolve("test/m").expect("it is there");
        let request = test_request(&model, &messages);
        let outcome = services.stream(&request, &Cancel::new(), &mut Recorder::default());
        assert_eq!(outcome.message.error_message, None, "{limits}");
        let body = server.requests().pop().expect("it was sent").body;
        let images = ["A", "B", "C", "D"].iter().filter(|letter| body.contains(&letter.repeat(4000))).count();
        assert!(body.len() <= most && images == sent, "{limits}: {} bytes, {images} images", body.len());
        // The newest are sent.
        assert_eq!(body.contains(&"D".repeat(4000)), images > 0, "{limits}");
    }
}
