use super::super::{ToolResultMessage, Usage};
use super::*;

const NO_LIMIT: usize = usize::MAX;

fn user(chars: usize) -> Arc<Message> {
    Arc::new(Message::user("u".repeat(chars)))
}

fn answer(blocks: Vec<Block>, total_tokens: u64, stop_reason: StopReason) -> Arc<Message> {
    answer_at(100, blocks, total_tokens, stop_reason)
}

fn answer_at(timestamp: i64, content: Vec<Block>, total_tokens: u64, stop_reason: StopReason) -> Arc<Message> {
    Arc::new(Message::Assistant(AssistantMessage {
        content,
        api: String::new(),
        provider: String::new(),
        model: String::new(),
        response_model: None,
        response_id: None,
        usage: Usage { total_tokens, ..Usage::default() },
        stop_reason,
        error_message: None,
        raw_stop_reason: None,
        thinking_level: None,
        timestamp,
        duration_ms: None,
    }))
}

fn says(chars: usize) -> Arc<Message> {
    answer(vec![Block::text("a".repeat(chars))], 0, StopReason::Stop)
}

fn call_block(name: &str, path: &str) -> Block {
    let arguments = json!({"path": path}).as_object().cloned().unwrap_or_default();
    Block::ToolCall { id: "1".into(), name: name.into(), arguments, thought_signature: None, arguments_error: None }
}

fn calls(name: &str, path: &str) -> Arc<Message> {
    answer(vec![call_block(name, path)], 0, StopReason::ToolUse)
}

fn result(chars: usize) -> Arc<Message> {
    Arc::new(Message::ToolResult(ToolResultMessage {
        tool_call_id: "1".into(),
        tool_name: "read".into(),
        content: vec![Block::text("r".repeat(chars))],
        details: None,
        is_error: false,
        duration_ms: None,
        timestamp: 0,
    }))
}

#[test]
fn compaction_is_due_one_token_above_the_limit() {
    let settings = CompactionSettings { enabled: true, reserve_tokens: 16_384, keep_recent_tokens: 20_000 };
    for (tokens, window, enabled, expected) in [
        (200_000 - 16_384, 200_000, true, false),
        (200_000 - 16_384 + 1, 200_000, true, true),
        (200_000, 200_000, false, false),
        (1, 16_000, true, true),
    ] {
        let settings = CompactionSettings { enabled, ..settings };
        assert_eq!(should_compact(tokens, window, &settings), expected, "{tokens} {window} {enabled}");
    }
}

#[test]
fn the_cut_is_never_on_a_tool_result() {
    let turns = [user(400), says(400), user(400), calls("read", "x"), result(4000), says(40), user(40)];
    for (start, keep, expected) in [
        // The budget ends in the tool result: the cut is at the first message behind it.
        (0, 100, Some((5, Some(2)))),
        (0, 10, Some((6, None))),
        (0, 1022, Some((3, Some(2)))),
        (0, 1060, Some((2, None))),
        (0, 1150, Some((1, Some(0)))),
        // All of it is kept, or all but what was summarised before.
        (0, 1250, None),
        (0, 100_000, None),
        (1, 1150, None),
        (2, 100, Some((5, Some(2)))),
        // The turn's beginning is in an earlier summary.
        (3, 100, Some((5, None))),
        (6, 10, None),
    ] {
        let expected = expected.map(|(first_kept, turn_start)| Cut { first_kept, turn_start });
        assert_eq!(cut(&turns, start, keep), expected, "{start} {keep}");
    }
    assert_eq!(cut(&[], 0, 10), None);
    assert_eq!(cut(&[user(400)], 0, 10), None, "nothing is left to summarise");
    let ends_in_result = [user(4), calls("read", "x"), result(4000)];
    assert_eq!(cut(&ends_in_result, 0, 10), Some(Cut { first_kept: 1, turn_start: Some(0) }));
}

#[test]
fn tokens_are_the_providers_count_plus_an_estimate() {
    let counted = answer(vec![], 5000, StopReason::Stop);
    let failed = answer(vec![], 9000, StopReason::Error);
    let aborted = answer(vec![], 9000, StopReason::Aborted);
    let summary = Arc::new(summary_message("", 200));
    let of_summary = estimate(&summary);
    let later = answer_at(200, vec![], 700, StopReason::Stop);
    for (messages, expected) in [
        (vec![user(401), says(40)], 111),
        (vec![user(400), counted.clone(), user(40)], 5010),
        (vec![counted.clone(), failed, user(4)], 5001),
        (vec![counted.clone(), aborted, user(4)], 5001),
        // What was counted before the compaction does not hold after it.
        (vec![summary.clone(), counted.clone(), user(40)], of_summary + 10),
        (vec![summary, counted, later, user(40)], 710),
        (vec![], 0),
    ] {
        assert_eq!(context_tokens(&messages), expected, "{messages:?}");
    }
    let image = Message::User(UserMessage {
        content: Content::Blocks(vec![Block::Image { data: "A".repeat(9000), mime_type: "image/png".into() }]),
        timestamp: 0,
    });
    assert_eq!(estimate(&image), 1200);
}

#[test]
fn conversations_become_text() {
    let thought = Block::Thinking { thinking: "hm".into(), thinking_signature: None, redacted: false };
    let both = answer(vec![thought, Block::text("I look"), call_block("ls", "b")], 0, StopReason::ToolUse);
    let failed = answer(vec![Block::text("half a w"), call_block("read", "c")], 0, StopReason::Aborted);
    let text = serialise(&[user(2), calls("read", "a.rs"), result(2500), failed, both, says(3)], NO_LIMIT);
    let expected = format!(
        "[User]: uu\n\n[Assistant tool calls]: read(path=\"a.rs\")\n\n[Tool result]: {}\n\n[... 500 more characters left \
         out]\n\n[Assistant]: I look\n\n[Assistant tool calls]: ls(path=\"b\")\n\n[Assistant]: aaa",
        "r".repeat(2000)
    );
    assert_eq!(text, expected);
    assert_eq!(shortened(&"ä".repeat(1001)), format!("{}\n\n[... 2 more characters left out]", "ä".repeat(1000)));
}

#[test]
fn of_a_conversation_that_is_too_long_the_newest_part_is_left() {
    let messages = [user(10), says(1000), user(20)];
    assert_eq!(serialise(&messages, 100), format!("[2 older messages left out]\n\n[User]: {}", "u".repeat(20)));
    assert_eq!(serialise(&messages, 5), "[3 older messages left out]");
}

#[test]
fn a_changed_file_is_not_listed_as_read() {
    let mut files = Files::default();
    let failed = answer(vec![call_block("write", "never")], 0, StopReason::Error);
    files.note(&[calls("read", "a"), calls("read", "b"), calls("edit", "b"), failed]);
    files.note(&[calls("write", "c"), calls("ls", "d")]);
    assert_eq!(files.details(), json!({"readFiles": ["a"], "modifiedFiles": ["b", "c"]}));
    assert_eq!(files.blocks(), "\n\n<read-files>\na\n</read-files>\n\n<modified-files>\nb\nc\n</modified-files>");
    assert_eq!(Files::default().blocks(), "");
}

#[test]
fn summaries_are_put_together_and_taken_apart() {
    let set = |paths: &[&str]| paths.iter().map(|p| p.to_string()).collect::<BTreeSet<_>>();
    for (read, modified) in [(set(&[]), set(&[])), (set(&["a", "b"]), set(&[])), (set(&["a"]), set(&["c d"]))] {
        let files = Files { read, modified };
        let text = summary_text(Some("## Goal\nx"), None, &files);
        assert_eq!(Files::split(&text), ("## Goal\nx", files));
    }
    let split_turn = summary_text(None, Some("## Original Request\ny"), &Files::default());
    assert_eq!(split_turn, "No prior history.\n\n---\n\n**Turn Context (split turn):**\n\n## Original Request\ny");
    assert_eq!(Files::split(&split_turn), (split_turn.as_str(), Files::default()));
}

#[test]
fn a_summary_is_known_again_as_a_message() {
    let message = summary_message("## Goal\nx", 7);
    assert_eq!(summary_of(&message), Some("## Goal\nx"));
    assert_eq!(message.timestamp(), 7);
    for other in [Message::user("The conversation history before this point"), Message::user("")] {
        assert!(!is_summary(&other));
    }
    let Message::User(UserMessage { content: Content::Text(text), .. }) = message else { panic!("a user's text") };
    assert_eq!(
        text,
        "The conversation history before this point was compacted into the following summary:\n\n\
         <summary>\n## Goal\nx\n</summary>"
    );
}

#[test]
fn prompts_carry_what_is_to_be_summarised() {
    let initial = prompts::history("[User]: hi", None, None);
    assert!(initial.starts_with("<conversation>\n[User]: hi\n</conversation>\n\n"));
    let update = prompts::history("[User]: hi", Some("## Goal\nold"), Some("the tests"));
    assert!(update.contains("</conversation>\n\n<previous-summary>\n## Goal\nold\n</previous-summary>\n\n"));
    assert!(update.ends_with("\n\nAdditional focus: the tests"));
    for heading in ["Goal", "Constraints & Preferences", "Progress", "Key Decisions", "Next Steps", "Critical Context"]
    {
        assert!(
            initial.contains(&format!("\n## {heading}\n")) && update.contains(&format!("\n## {heading}\n")),
            "{heading}"
        );
    }
    let turn = prompts::turn_prefix("[User]: hi");
    assert!(turn.starts_with("<conversation>\n[User]: hi\n</conversation>\n\n"));
    for heading in ["Original Request", "Progress So Far", "Context Needed to Continue"] {
        assert!(turn.contains(&format!("## {heading}\n")), "{heading}");
    }
}
