use super::*;
use crate::model::Outcome;
use crate::model::test_support::{TestServer, test_messages};
use serde_json::{Value, json};
use std::sync::Mutex;
use std::time::Instant;

/// What the model answers to one request: status and body, or a text, or a text with a stop reason.
#[derive(Clone)]
enum Answer {
    Text(&'static str, &'static str),
    ToolCall,
    Refusal(&'static str, &'static str),
}

fn stream(answer: &Answer) -> String {
    let (block, delta, reason) = match answer {
        Answer::Text(text, reason) => (json!({"type": "text"}), json!({"type": "text_delta", "text": text}), *reason),
        _ => (
            json!({"type": "tool_use", "id": "t", "name": "ls", "input": {}}),
            json!({"type": "input_json_delta", "partial_json": "{}"}),
            "tool_use",
        ),
    };
    let usage = json!({"input_tokens": 10, "output_tokens": 5});
    [
        json!({"type": "message_start", "message": {"id": "i", "usage": usage}}),
        json!({"type": "content_block_start", "index": 0, "content_block": block}),
        json!({"type": "content_block_delta", "index": 0, "delta": delta}),
        json!({"type": "content_block_stop", "index": 0}),
        json!({"type": "message_delta", "delta": {"stop_reason": reason}, "usage": {"output_tokens": 5}}),
        json!({"type": "message_stop"}),
    ]
    .iter()
    .map(|event| format!("event: {}\ndata: {event}\n\n", event["type"].as_str().unwrap_or("")))
    .collect()
}

/// A model that gives these answers, one a request, and the services to ask it.
struct Bench {
    server: TestServer,
    services: Services,
    dir: tempfile::TempDir,
}

fn bench(answers: &[Answer]) -> Bench {
    let answers = Mutex::new(answers.to_vec());
    let server = TestServer::new(move |_, connection| {
        while connection.request().is_some() {
            match answers.lock().expect("no panic").remove(0) {
                Answer::Refusal(status, body) => connection.respond(status, "", body),
                answer => {
                    connection.stream_head();
                    connection.chunk(&stream(&answer));
                    connection.last_chunk();
                }
            }
        }
    });
    let dir = tempfile::tempdir().expect("a directory");
    let write = |name: &str, content: Value| std::fs::write(dir.path().join(name), content.to_string());
    let model = json!({"id": "m", "contextWindow": 200_000, "maxTokens": 8192});
    let provider =
        json!({"baseUrl": server.url, "api": "anthropic-messages", "apiKey": "sk-secret", "models": [model]});
    write("models.json", json!({"providers": {"test": provider}})).expect("it writes");
    let settings = json!({"retry": {"baseDelayMs": 1}, "compaction": {"keepRecentTokens": 100}});
    write("settings.json", settings).expect("it writes");
    Bench { server, services: Services::new(dir.path(), Default::default()), dir }
}

/// Requests that nobody counts.
struct Free<'a>(&'a Services, &'a Cancel);

impl Requests for Free<'_> {
    fn send(&self, request: &Request<'_>, sink: &mut dyn Sink) -> Result<Outcome, Settled> {
        Ok(self.0.stream(request, self.1, sink))
    }
}

impl Bench {
    fn compact(
        &self,
        messages: &[Arc<Message>],
        focus: Option<&str>,
    ) -> (Result<Compaction, CompactError>, Vec<SummaryRetry>) {
        let mut notices = Vec::new();
        let result = self.compact_with(messages, focus, &Cancel::new(), &mut |notice| notices.push(notice));
        (result, notices)
    }

    fn compact_with(
        &self,
        messages: &[Arc<Message>],
        focus: Option<&str>,
        cancel: &Cancel,
        on_retry: &mut dyn FnMut(SummaryRetry),
    ) -> Result<Compaction, CompactError> {
        let (model, _) = self.services.resolve("test/m").expect("it is there");
        let (services, thinking) = (&self.services, ThinkingLevel::Off);
        let requests = &Free(services, cancel);
        let mut compactor = Compactor { services, model: &model, thinking, session: "s", cancel, on_retry, requests };
        let cut = compactor.plan(messages)?;
        compactor.compact(messages, &cut, focus)
    }

    fn bodies(&self) -> Vec<Value> {
        self.server.requests().iter().map(|r| serde_json::from_str(&r.body).expect("JSON")).collect()
    }
}

fn prompt_of(body: &Value) -> &str {
    body["messages"][0]["content"][0]["text"].as_str().expect("a text")
}

fn user(text: &str) -> Value {
    json!({"role": "user", "content": text, "timestamp": 1})
}

fn answer(content: Value) -> Value {
    json!({"role": "assistant", "content": content, "api": "a", "provider": "p", "model": "m", "usage": {},
        "stopReason": "stop", "timestamp": 1})
}

fn says(text: &str) -> Value {
    answer(json!([{"type": "text", "text": text}]))
}

fn calls(name: &str, path: &str) -> Value {
    answer(json!([{"type": "toolCall", "id": "t", "name": name, "arguments": {"path": path}}]))
}

fn result(text: &str) -> Value {
    json!({"role": "toolResult", "toolCallId": "t", "toolName": "read", "content": [{"type": "text", "text": text}],
        "isError": false, "timestamp": 1})
}

/// Two turns, of which the second stays.
fn two_turns() -> Vec<Arc<Message>> {
    let long = "x".repeat(400);
    test_messages(json!([user("first"), calls("read", "a.rs"), result("A"), says("done"), user(&long), says("yes")]))
}

const SUMMARY: Answer = Answer::Text(" ## Goal\nx\n", "end_turn");

#[test]
fn the_older_part_is_summarised() {
    let bench = bench(&[SUMMARY]);
    let (result, notices) = bench.compact(&two_turns(), Some("the tests"));
    let done = result.expect("a summary");
    assert_eq!(done.summary, "## Goal\nx\n\n<read-files>\na.rs\n</read-files>");
    assert_eq!(compaction::summary_of(&done.message), Some(done.summary.as_str()));
    assert_eq!((done.first_kept, done.usage.total_tokens), (4, 15));
    assert!(done.tokens_after > 100 && done.tokens_before > 100, "{done:?}");
    assert_eq!(done.details.details(), json!({"readFiles": ["a.rs"], "modifiedFiles": []}));
    assert!(notices.is_empty());

    let body = bench.bodies().remove(0);
    assert!(prompt_of(&body).starts_with(
        "<conversation>\n[User]: first\n\n[Assistant tool calls]: read(path=\"a.rs\")\n\n[Tool result]: A\n\n[Assistant]: \
         done\n</conversation>"
    ));
    assert!(prompt_of(&body).ends_with("Additional focus: the tests"));
    assert_eq!(body["max_tokens"], 8192);
    assert_eq!(body["system"][0]["text"], prompts::SYSTEM);
    assert!(!body.to_string().contains("cache_control"), "what never comes again is not cached");
    assert_eq!(body.get("tools"), None);
}

#[test]
fn an_earlier_summary_is_brought_up_to_date() {
    let bench = bench(&[SUMMARY]);
    let old = "## Goal\nold\n\n<read-files>\nb.rs\n</read-files>\n\n<modified-files>\nc.rs\n</modified-files>";
    let mut messages = vec![Arc::new(compaction::summary_message(old, 1))];
    messages.extend(two_turns());
    let done = bench.compact(&messages, None).0.expect("a summary");
    assert_eq!(done.first_kept, 5);
    assert_eq!(done.details.details(), json!({"readFiles": ["a.rs", "b.rs"], "modifiedFiles": ["c.rs"]}));
    let body = bench.bodies().remove(0);
    assert!(prompt_of(&body).contains("<previous-summary>\n## Goal\nold\n</previous-summary>"));
    assert!(!prompt_of(&body).contains("compacted into the following summary"));
}

#[test]
fn a_turn_that_is_cut_through_has_a_summary_of_its_own() {
    let long = "x".repeat(400);
    let split = [user("do it"), calls("edit", "a.rs"), result("ok"), says(&long)];
    let turn = Answer::Text("## Original Request\ny", "end_turn");
    for (before, answers, summary) in [
        (vec![], vec![turn.clone()], "No prior history."),
        (vec![user("first"), says("done")], vec![SUMMARY, turn.clone()], "## Goal\nx"),
    ] {
        let bench = bench(&answers);
        let first_kept = before.len() + 3;
        let messages = test_messages(before.into_iter().chain(split.clone()).collect());
        let done = bench.compact(&messages, None).0.expect("a summary");
        let expected = format!(
            "{summary}\n\n---\n\n**Turn Context (split turn):**\n\n## Original Request\ny\n\n<modified-files>\na.rs\n\
             </modified-files>"
        );
        assert_eq!((done.summary, done.first_kept), (expected, first_kept));
        assert_eq!(done.usage.total_tokens, 15 * answers.len() as u64);
        let bodies = bench.bodies();
        assert!(prompt_of(bodies.last().expect("a request")).starts_with("<conversation>\n[User]: do it\n\n"));
    }
}

#[test]
fn answers_that_are_no_summary() {
    for (answer, reason) in [
        (Answer::Text("## Go", "max_tokens"), "the summary was cut off by the output limit"),
        (Answer::ToolCall, "the model called a tool in place of a summary"),
        (Answer::Text(" \n", "end_turn"), "the model's summary is empty"),
        (Answer::Refusal("400 Bad Request", "prompt is too long"), "400: prompt is too long"),
    ] {
        let bench = bench(&[answer]);
        let (result, notices) = bench.compact(&two_turns(), None);
        assert_eq!(result.expect_err("no summary"), CompactError::Failed(reason.into()));
        assert_eq!((notices.len(), bench.bodies().len()), (0, 1));
    }
}

#[test]
fn what_passes_is_tried_again() {
    const BUSY: Answer = Answer::Refusal("500 Oops", "overloaded");
    let scheduled = |attempt: u32| SummaryRetry::Scheduled {
        attempt,
        max_attempts: 3,
        delay_ms: 1 << (attempt - 1),
        error: "500: overloaded".into(),
    };
    let again = |attempt: u32| [scheduled(attempt), SummaryRetry::AttemptStart];
    let recovered = bench(&[BUSY, SUMMARY]);
    let (result, notices) = recovered.compact(&two_turns(), None);
    assert_eq!(result.expect("a summary").first_kept, 4);
    assert_eq!(notices, [&again(1)[..], &[SummaryRetry::Finished]].concat());

    let hopeless = bench(&[BUSY, BUSY, BUSY, BUSY]);
    let (result, notices) = hopeless.compact(&two_turns(), None);
    assert_eq!(result.expect_err("no summary"), CompactError::Failed("500: overloaded".into()));
    assert_eq!(notices, [&again(1)[..], &again(2), &again(3), &[SummaryRetry::Finished]].concat());
}

#[test]
fn it_can_be_cancelled_while_it_waits() {
    let bench = bench(&[Answer::Refusal("500 Oops", "overloaded")]);
    let settings = r#"{"retry":{"baseDelayMs":30000},"compaction":{"keepRecentTokens":100}}"#;
    std::fs::write(bench.dir.path().join("settings.json"), settings).expect("it writes");
    let begun = Instant::now();
    let cancel = Cancel::new();
    let result = bench.compact_with(&two_turns(), None, &cancel, &mut |_| cancel.cancel());
    assert_eq!(result.expect_err("cancelled"), CompactError::Cancelled);
    assert!(begun.elapsed() < Duration::from_secs(20));
}

#[test]
fn the_order_decides_and_no_clock() {
    let bench = bench(&[SUMMARY]);
    let mut messages = vec![Arc::new(compaction::summary_message("## Goal\nold", i64::MAX))];
    messages.extend(two_turns());
    assert_eq!(bench.compact(&messages, None).0.expect("a summary").first_kept, 5);
}

/// A turn with a long task, of which the end stays.
fn long_task() -> Vec<Arc<Message>> {
    let task = format!("TASK{}END", "x".repeat(100_000));
    test_messages(json!([user("never touch prod"), says("yes"), user(&task), says("done"), user(&"x".repeat(400))]))
}

const TOO_LONG: Answer = Answer::Refusal("400 Bad Request", "prompt is too long");

#[test]
fn a_summary_request_that_is_too_long_is_made_shorter() {
    let bench = bench(&[TOO_LONG, Answer::Text("## Go", "max_tokens"), SUMMARY]);
    let (result, _) = bench.compact(&long_task(), None);
    assert_eq!(result.expect("a summary").summary, "## Goal\nx");
    let bodies = bench.bodies();
    let lengths: Vec<usize> = bodies.iter().map(|body| prompt_of(body).len()).collect();
    assert!(lengths[0] > 100_000 && lengths[1] < 60_000 && lengths[2] < 30_000, "{lengths:?}");
    for body in &bodies {
        for part in ["never touch prod", "[User]: TASKx", "xEND\n\n", "[Assistant]: done"] {
            assert!(prompt_of(body).contains(part), "{part}");
        }
    }
    let hopeless = self::bench(&[TOO_LONG, TOO_LONG, TOO_LONG, TOO_LONG]);
    let (result, _) = hopeless.compact(&long_task(), None);
    assert_eq!(result.expect_err("no summary"), CompactError::Failed("400: prompt is too long".into()));
}

#[test]
fn excerpts_take_the_place_of_a_summary() {
    let bench = bench(&[]);
    let (model, _) = bench.services.resolve("test/m").expect("it is there");
    let (cancel, services, thinking) = (Cancel::new(), &bench.services, ThinkingLevel::Off);
    let requests = &Free(services, &cancel);
    let compactor =
        Compactor { services, model: &model, thinking, session: "s", cancel: &cancel, on_retry: &mut |_| (), requests };
    let mut messages =
        vec![Arc::new(compaction::summary_message("## Goal\nold\n\n<read-files>\nb.rs\n</read-files>", 1))];
    messages.extend(long_task());
    let cut = Cut { first_kept: 5, turn_start: None };
    let done = compactor.excerpt(&messages, &cut, "400: no", 4000);
    assert_eq!(
        (done.first_kept, done.tokens_after),
        (5, compaction::tokens(&[done.message.clone(), messages[5].clone()]))
    );
    assert!(done.summary.len() < 4500, "{}", done.summary);
    for part in
        ["400: no", "## Goal\nold", "never touch prod", "[User]: TASKx", "xEND", "<read-files>\nb.rs\n</read-files>"]
    {
        assert!(done.summary.contains(part), "{part}: {}", done.summary);
    }
    assert!(bench.bodies().is_empty());
}

#[test]
fn there_may_be_nothing_to_do() {
    let bench = bench(&[]);
    let fresh = test_messages(json!([user("hello"), says("hi")]));
    assert_eq!(bench.compact(&fresh, None).0.expect_err("too small"), CompactError::Nothing);
    let mut compacted = vec![Arc::new(compaction::summary_message("## Goal", 2))];
    assert_eq!(bench.compact(&compacted, None).0.expect_err("nothing new"), CompactError::AlreadyCompacted);
    compacted.extend(two_turns().split_off(4));
    assert_eq!(bench.compact(&compacted, None).0.expect_err("nothing new"), CompactError::AlreadyCompacted);
    assert!(bench.bodies().is_empty());
}
