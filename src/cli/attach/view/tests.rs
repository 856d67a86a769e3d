use super::*;
use serde_json::json;

/// All that a terminal can do.
const STYLED: Style = Style { emphasis: true, colour: true };

fn event(name: &str, data: Value) -> Record {
    let Value::Object(event) = json!({"type": "event", "event": name, "data": data}) else { unreachable!() };
    event
}

/// What a view shows of these events, each of which comes a second after the one before.
fn shown(ansi: bool, events: &[(&str, Value)]) -> String {
    let mut view = View::new(if ansi { STYLED } else { Style::default() });
    let start = Instant::now();
    for (second, (name, data)) in (0..).zip(events) {
        view.event(&event(name, data.clone()), start + Duration::from_secs(second));
    }
    view.take()
}

fn delta(kind: &str, text: &str) -> (&'static str, Value) {
    let data = json!({"type": "message_update", "assistantMessageEvent": {"type": kind, "delta": text}});
    ("message_update", data)
}

fn answer(text: &str) -> (&'static str, Value) {
    let message = json!({"role": "assistant", "content": [{"type": "text", "text": text}], "stopReason": "stop",
        "usage": {"input": 10, "output": 5, "cost": {"total": 0.01}}});
    ("message_end", json!({"message": message}))
}

fn tool_start(id: &str, args: Value) -> (&'static str, Value) {
    ("tool_execution_start", json!({"toolCallId": id, "toolName": "bash", "args": args}))
}

fn tool_end(id: &str, failed: bool) -> (&'static str, Value) {
    ("tool_execution_end", json!({"toolCallId": id, "toolName": "bash", "isError": failed}))
}

#[test]
fn an_answer_is_shown_once_however_it_comes() {
    for (events, expected) in [
        (vec![delta("text_delta", "one "), delta("text_delta", "two"), answer("one two")], "one two\n"),
        (vec![answer("one two")], "one two\n"),
        (vec![delta("text_delta", "one"), answer("one two\n")], "one two\n"),
        (vec![delta("text_delta", "one\n"), answer("one\n")], "one\n"),
        (
            vec![delta("text_delta", "two"), answer("one two")],
            "two\n-- parts of this answer were missed; the whole of it:\none two\n",
        ),
        // Compacted: small fields in place of the nested ones, and previews in place of what is long.
        (
            vec![("message_update", json!({"type": "text_delta", "deltaPreview": "one"})), answer("one two")],
            "one two\n",
        ),
        // A session that does not say of what the piece is.
        (vec![("message_update", json!({"type": "message_update", "deltaPreview": "{"})), answer("one")], "one\n"),
        (vec![delta("toolcall_delta", "{\"a\":"), answer("")], ""),
        (
            vec![("message_end", json!({"role": "assistant", "truncated": true}))],
            "-- an answer that is too long to be shown here; pi-bridge history --raw has it\n",
        ),
        (vec![delta("text_delta", "a\u{1b}[2Jb"), answer("a\u{1b}[2Jb")], "a?[2Jb\n"),
        (
            vec![
                delta("thinking_delta", "hm, "),
                delta("thinking_delta", "yes"),
                delta("text_delta", "Yes"),
                answer("Yes"),
            ],
            "[thinking] hm, yes\nYes\n",
        ),
    ] {
        assert_eq!(shown(false, &events), expected, "{events:?}");
    }
    assert_eq!(shown(true, &[delta("thinking_delta", "hm")]), "\x1b[2m[thinking] \x1b[22m\x1b[2mhm\x1b[22m");
}

#[test]
fn a_tool_call_is_one_line() {
    let ls = || json!({"command": "ls -l\necho"});
    assert_eq!(shown(false, &[tool_start("1", ls()), tool_end("1", false)]), "[bash] ls -l... -> ok (1.0 s)\n");
    assert_eq!(
        shown(true, &[tool_start("1", ls()), tool_end("1", true)]),
        "\x1b[31m[bash] ls -l... -> failed (1.0 s)\x1b[39m\n"
    );
    let both = [tool_start("1", ls()), tool_start("2", json!({"x": 1})), tool_end("2", false), tool_end("1", false)];
    assert_eq!(shown(false, &both), "[bash] {\"x\":1} -> ok (1.0 s)\n[bash] ls -l... -> ok (3.0 s)\n");
    let compact = json!({"toolUseId": "1", "toolName": "read", "argsPreview": "{\"path\":\"/a\"}"});
    let end = json!({"toolUseId": "1", "toolName": "read", "isError": false, "durationMs": 40});
    let events = [("tool_execution_start", compact), ("tool_execution_end", end.clone())];
    assert_eq!(shown(false, &events), "[read] /a -> ok (0.0 s)\n");
    assert_eq!(shown(false, &[("tool_execution_end", end)]), "[read] -> ok (0.0 s)\n");
    let cut = json!({"toolCallId": "1", "toolName": "write", "argsPreview": "{\"path\":\"/a\",\"content"});
    let events = [("tool_execution_start", cut), ("tool_execution_end", json!({"toolCallId": "1"}))];
    assert_eq!(shown(false, &events), "[write] {\"path\":\"/a\",\"content -> ok (1.0 s)\n");
}

#[test]
fn what_a_run_used_is_summed_up() {
    let mut view = View::new(Style::default());
    let run = [("agent_start", json!({})), answer("a"), answer("b"), ("agent_end", json!({}))];
    for all in ["20 in, 10 out, $0.0200", "40 in, 20 out, $0.0400"] {
        run.iter().for_each(|(name, data)| view.event(&event(name, data.clone()), Instant::now()));
        assert!(std::mem::take(&mut view.ended));
        assert_eq!(view.run.to_string(), "20 in, 10 out, $0.0200");
        assert_eq!(view.seen.to_string(), all);
    }
    for (name, data) in [("agent_start", json!({})), ("agent_end", json!({}))] {
        view.event(&event(name, data), Instant::now());
    }
    assert!(!view.ended, "nothing was used");
}

#[test]
fn busy_from_the_start_of_a_run_to_its_last_end() {
    let mut view = View::new(Style::default());
    for (name, data, busy) in [
        ("message_end", json!({}), false),
        ("agent_start", json!({}), true),
        ("agent_end", json!({"willRetry": true}), true),
        ("agent_end", json!({"willRetry": false}), false),
        ("agent_start", json!({}), true),
        ("agent_end", json!({}), false),
    ] {
        view.event(&event(name, data), Instant::now());
        assert_eq!(view.busy, busy, "{name}");
    }
}

#[test]
fn what_went_wrong_is_told() {
    let end = |reason: &str, error: Value| {
        let message = json!({"role": "assistant", "content": [], "stopReason": reason, "errorMessage": error});
        shown(false, &[("message_end", json!({"message": message}))])
    };
    assert_eq!(end("error", json!("overloaded\nmore")), "! overloaded\n  more\n");
    assert_eq!(end("error", json!("a\n".repeat(9))), "! a\n  a\n  a\n  a\n  a\n  ...\n");
    assert_eq!(end("error", json!(null)), "! the model's answer failed\n");
    assert_eq!(end("aborted", json!("x")), "-- aborted\n");
    assert_eq!(end("toolUse", json!(null)), "");
    let retry = json!({"error": "429", "delayMs": 2500});
    assert_eq!(shown(false, &[("auto_retry_start", retry)]), "! 429; trying again in 2.5 s\n");
    let retry = json!({"errorMessage": "429", "delayMs": 500, "attempt": 2, "maxAttempts": 5});
    assert_eq!(shown(false, &[("auto_retry_start", retry)]), "! 429; trying again in 0.5 s (attempt 2 of 5)\n");
}

#[test]
fn what_happens_to_the_session_is_noted() {
    for (name, data, line) in [
        ("compaction_start", json!({"reason": "threshold"}), "-- making the context smaller"),
        ("compaction_end", json!({"result": {}}), "-- the context is smaller now"),
        ("compaction_end", json!({"errorMessage": "no answer"}), "! no answer"),
        ("bridge_gap", json!({"from": 3, "to": 9}), "-- the events 3 to 9 were missed"),
        ("bridge_pong", json!({"text": "hi"}), "-- pong: hi"),
        ("bridge_emit", json!({"message": "test"}), "-- emit: test"),
        ("model_select", json!({"model": {"id": "m"}}), "-- model: m"),
        ("thinking_level_select", json!({"level": "high"}), "-- thinking level: high"),
    ] {
        assert_eq!(shown(false, &[(name, data)]), format!("{line}\n"));
    }
    assert_eq!(shown(false, &[("something_new", json!({"x": 1}))]), "");
}

#[test]
fn messages_of_others_are_shown_and_our_own_are_not() {
    let mut view = View::new(Style::default());
    view.sent("mine");
    let said = |text: &str| event("message_end", json!({"message": {"role": "user", "content": text}}));
    for text in ["theirs\nin two lines\n", " mine", "mine"] {
        view.event(&said(text), Instant::now());
    }
    assert_eq!(view.take(), "> theirs\n> in two lines\n> mine\n");
    view.event(&said(&"line\n".repeat(100)), Instant::now());
    assert!(view.take().ends_with("> line\n-- and 88 more lines\n"));
}

#[test]
fn the_past_is_short_and_what_is_in_progress_goes_on() {
    let mut events: Vec<Record> = Vec::new();
    let mut add = |(name, data): (&str, Value)| {
        let mut event = event(name, data);
        event.insert("seq".into(), (events.len() + 1).into());
        events.push(event);
    };
    for number in 0..8 {
        add(("message_end", json!({"message": {"role": "user", "content": format!("question {number}")}})));
        add(answer(&format!("answer {number}\nwith more")));
    }
    add(tool_start("1", json!({"command": "sleep 9"})));
    add(("message_start", json!({})));
    add(delta("text_delta", "so "));
    let mut view = View::new(Style::default());
    view.busy = true;
    view.past(&events, Instant::now());
    let expected = "> question 5\nanswer 5...\n> question 6\nanswer 6...\n> question 7\nanswer 7...\nso ";
    assert_eq!(view.take(), expected);
    assert!(view.is_known(&events[18]));
    let (name, data) = answer("so far");
    let mut next = event(name, data);
    assert!(!view.is_known(&next), "without a number nobody can tell");
    next.insert("seq".into(), 20.into());
    assert!(!view.is_known(&next));
    view.event(&next, Instant::now());
    let (name, data) = tool_end("1", false);
    view.event(&event(name, data), Instant::now());
    assert!(view.take().starts_with("far\n[bash] sleep 9 -> ok ("));
}

#[test]
fn events_of_the_past_without_data_are_left_out() {
    let mut bare = event("message_end", Value::Null);
    bare.remove("data");
    let mut view = View::new(Style::default());
    view.busy = true;
    view.past(&[bare.clone(), event("message_end", json!({})), bare.clone()], Instant::now());
    assert_eq!((view.take(), View::prompts(&[bare]).count()), (String::new(), 0));
}

#[test]
fn results_that_are_too_large_are_asked_for() {
    let mut view = View::new(Style::default());
    let end =
        json!({"toolUseId": "1", "toolName": "bash", "isError": false, "resultBytes": 9000, "resultPreview": "{"});
    let mut cut = event("tool_execution_end", end);
    view.event(&cut, Instant::now());
    assert_eq!(view.take(), "[bash] -> ok\n    9000 bytes (/output 1)\n", "without a number nobody can ask for it");
    cut.insert("seq".into(), 7.into());
    view.event(&cut, Instant::now());
    let missing = view.missing.pop().expect("it is missing");
    assert_eq!((missing.label.as_str(), missing.number), ("[bash] -> ok", 2));
    assert_eq!(view.take(), "");
}
