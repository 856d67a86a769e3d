use super::*;
use crate::model::request::{Outcome, Sink, StreamEvent};
use crate::model::test_support::{Recorder, test_messages, test_request};
use serde_json::{Value, json};
use std::sync::Arc;

fn ask(offline: &Offline, messages: &[Arc<Message>], cancel: &Cancel, sink: &mut dyn Sink) -> Outcome {
    let model = model();
    let request = test_request(&model, messages);
    let mut answer = Answer::new(&request, sink);
    let result = offline.run(&request, cancel, &mut answer);
    answer.finish(&request, result)
}

/// The answer to the last of these prompts.
fn prompt(prompts: &[&str]) -> Outcome {
    let messages: Vec<_> = prompts.iter().map(|p| Arc::new(Message::user(*p))).collect();
    ask(&Offline::default(), &messages, &Cancel::new(), &mut Recorder::default())
}

#[test]
fn directives() {
    for (prompts, text, stop) in [
        (&["Hello\nthere"][..], "You said: Hello\nthere", StopReason::Stop),
        (&["@echo one\nnoise\n @echo two "], "one\ntwo", StopReason::Stop),
        (&["first\nline", "second", "@recall"], "first line\nsecond", StopReason::Stop),
        (&["@stream 3"], "piece 0 piece 1 piece 2 ", StopReason::Stop),
        (&["@stream 2 every 1 ms of 10 bytes"], "piece 0 ..piece 1 ..", StopReason::Stop),
        (&["@stream 1 of 3 bytes"], "pie", StopReason::Stop),
        (&["@length\n@echo x"], "x", StopReason::Length),
        (&["@length"], "You said: @length", StopReason::Length),
    ] {
        let outcome = prompt(prompts);
        assert_eq!(outcome.message.text(), format!("{LABEL}\n{text}"), "{prompts:?}");
        assert_eq!((outcome.message.stop_reason, outcome.failure), (stop, None), "{prompts:?}");
    }
    let outcome = prompt(&["@think a\n@think b\n@echo x"]);
    let thought = Block::Thinking { thinking: "a\nb".to_string(), thinking_signature: None, redacted: false };
    assert_eq!(outcome.message.content[0], thought);
    let usage = outcome.message.usage;
    assert_eq!((usage.input, usage.output), (6, ("a\nb".len() + LABEL.len() + "\nx".len()) as u64 / 4));
    assert_eq!(usage.cost.total, 0.0);
}

/// What the model calls and says, turn by turn, where every tool's result is its name and number.
fn turns(text: &str) -> Vec<String> {
    let offline = Offline::default();
    let mut messages = test_messages(json!([{"role":"user","content":text,"timestamp":1}]));
    let mut turns = Vec::new();
    loop {
        let outcome = ask(&offline, &messages, &Cancel::new(), &mut Recorder::default());
        let mut results = Vec::new();
        let mut parts = Vec::new();
        for block in &outcome.message.content {
            match block {
                Block::ToolCall { id, name, arguments, arguments_error, .. } => {
                    let arguments = Value::Object(arguments.clone());
                    parts.push(format!("{name} {arguments}{}", if arguments_error.is_some() { "!" } else { "" }));
                    results.push(
                        json!({"role":"toolResult","toolCallId":id,"toolName":name,"isError":false,"timestamp":1,
                        "content":[{"type":"text","text":format!("of {name}\nmore")}]}),
                    );
                }
                Block::Text { text, .. } => parts.push(text.clone()),
                _ => {}
            }
        }
        turns.push(parts.join(" + "));
        if outcome.message.stop_reason != StopReason::ToolUse {
            return turns;
        }
        messages.push(Arc::new(Message::Assistant(outcome.message)));
        messages.extend(test_messages(Value::Array(results)));
    }
}

#[test]
fn tools_are_called_in_order_and_their_results_shown() {
    let script = "@tool bash {\"command\":\"ls\"}\n@tool read\n@tool odd {x";
    let last = format!("{LABEL}\nbash: of bash\nread: of read\nodd: of odd");
    assert_eq!(turns(script), ["bash {\"command\":\"ls\"}", "read {}", "odd {}!", &last]);
    let all = "bash {\"command\":\"ls\"} + read {} + odd {}!";
    assert_eq!(turns(&format!("@parallel\n{script}")), [all, &last]);
}

#[test]
fn failures() {
    for (kind, status, text) in [
        ("rate_limit", Some(429), "rate limit"),
        ("overloaded", Some(529), "overloaded"),
        ("auth", Some(401), "invalid key"),
        ("overflow", Some(400), "prompt is too long"),
        ("cut", None, "stream ended before message_stop"),
        ("refuse", None, "refused"),
    ] {
        let outcome = prompt(&[&format!("@fail {kind}\n@echo said")]);
        assert_eq!(outcome.failure.as_ref().map(|f| f.status), Some(status), "{kind}");
        assert!(outcome.message.error_message.is_some_and(|e| e.contains(text)), "{kind}");
        assert_eq!(outcome.message.content.is_empty(), kind != "cut", "{kind}");
    }
}

#[test]
fn failures_can_be_the_first_ones_only() {
    let offline = Offline::default();
    let ask = |prompts: &[&str]| {
        let messages: Vec<_> = prompts.iter().map(|p| Arc::new(Message::user(*p))).collect();
        ask(&offline, &messages, &Cancel::new(), &mut Recorder::default()).message.stop_reason == StopReason::Error
    };
    assert_eq!([(); 3].map(|()| ask(&["@fail overloaded 2"])), [true, true, false]);
    assert_eq!([(); 2].map(|()| ask(&["x", "@fail overloaded 1"])), [true, false], "the next prompt counts anew");
    let full = (0..MAX_COUNTED).map(|n| (n.to_string(), 1));
    *offline.failures.lock().expect("no panic") = full.collect();
    ask(&["@fail cut 1"]);
    assert_eq!(offline.failures.lock().expect("no panic").len(), MAX_COUNTED, "what is counted has a bound");
}

#[test]
fn every_piece_is_drained() {
    let mut recorder = Recorder::default();
    let messages = [Arc::new(Message::user("@stream 2 of 3 bytes"))];
    ask(&Offline::default(), &messages, &Cancel::new(), &mut recorder);
    let label = format!("text0+{LABEL}");
    assert_eq!(
        recorder.0,
        ["start", "text0", &label, "|", "text0+\n", "|", "text0+pie", "|", "text0+pie", "|", "text0."]
    );
}

/// Cancels after some deltas.
struct Canceller(Cancel, u32);

impl Sink for Canceller {
    fn event(&mut self, event: StreamEvent<'_>) {
        if let StreamEvent::TextDelta { .. } = event {
            self.1 -= 1;
            if self.1 == 0 {
                self.0.cancel();
            }
        }
    }

    fn drained(&mut self) {}
}

#[test]
fn cancelling_keeps_what_was_said() {
    for script in ["@stream 1000", "@stream 1000 every 60000 ms"] {
        let cancel = Cancel::new();
        let after = if script.contains("every") { 2 } else { 3 };
        let messages = [Arc::new(Message::user(script))];
        let outcome = ask(&Offline::default(), &messages, &cancel, &mut Canceller(cancel.clone(), after));
        assert_eq!(outcome.message.stop_reason, StopReason::Aborted);
        assert_eq!(outcome.message.error_message.as_deref(), Some("Request was aborted"));
        assert!(outcome.message.text().starts_with(LABEL));
    }
}
