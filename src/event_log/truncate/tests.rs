use super::*;

const LIMITS: Limits = Limits { max_event_bytes: 8192, preview_bytes: 256 };
/// So small that everything is truncated that has a compact form.
const TINY: Limits = Limits { max_event_bytes: 0, preview_bytes: 256 };

fn data(compacted: &Truncated) -> Value {
    serde_json::from_str(&compacted.data).expect("it is JSON")
}

/// The whole of `data`, and what is missing in it.
fn compacted(event: &str, payload: Value, limits: Limits) -> (Value, Option<Loss>) {
    let compacted = truncate(event, payload, limits);
    (data(&compacted), compacted.loss)
}

/// An event that is larger than its compact form may be: the compact form, checked for its loss.
fn truncated(event: &str, mut payload: Value, limits: Limits) -> Value {
    payload["ballast"] = json!(["x".repeat(limits.max_event_bytes)]);
    let original = payload.to_string();
    let (data, loss) = compacted(event, payload, limits);
    assert_eq!(loss, Some(Loss { original_bytes: original.len(), original: Some(original) }));
    data
}

fn keys(value: &Value) -> Vec<&str> {
    value.as_object().expect("an object").keys().map(String::as_str).collect()
}

#[test]
fn an_answers_piece_has_its_whole_delta_beside_the_compact_fields() {
    let update = json!({"type": "message_update", "message": {"role": "assistant"},
        "assistantMessageEvent": {"type": "text_delta", "contentIndex": 1, "delta": "Grüße 🦀"}});
    let (data, loss) = compacted("message_update", update, LIMITS);
    assert_eq!(loss, None);
    assert_eq!(
        data,
        json!({"type": "message_update", "message": {"role": "assistant"},
            "assistantMessageEvent": {"type": "text_delta", "contentIndex": 1, "delta": "Grüße 🦀"},
            "role": "assistant", "contentIndex": 1,
            "deltaLength": 8, "deltaBytes": 12, "deltaPreview": "Grüße 🦀"})
    );
}

#[test]
fn a_delta_that_does_not_fit_is_cut_to_a_preview() {
    for (bytes, whole) in [(3500, true), (7700, true), (9000, false)] {
        for (nested, top) in [(true, false), (false, true)] {
            let delta = "x".repeat(bytes);
            let update =
                if nested { json!({"assistantMessageEvent": {"delta": delta}}) } else { json!({"delta": delta}) };
            let (data, loss) = compacted("message_update", update, LIMITS);
            assert_eq!(data["assistantMessageEvent"]["delta"].is_string(), whole && nested, "{bytes}");
            assert_eq!(data["delta"].is_string(), whole && top, "{bytes}");
            assert_eq!((&data["deltaBytes"], data["deltaTruncated"] == true), (&json!(bytes), !whole));
            assert_eq!(data["deltaPreview"].as_str().map(str::len), Some(256));
            // Nothing of a streaming event is spilled.
            assert_eq!(loss, (!whole).then_some(Loss { original_bytes: bytes, original: None }));
        }
    }
}

#[test]
fn a_cumulative_message_changes_nothing() {
    let update = |size: usize| {
        json!({"type": "message_update",
            "message": {"role": "assistant", "id": "m1", "content": [{"type": "text", "text": "x".repeat(size)}]},
            "assistantMessageEvent": {"type": "text_delta", "contentIndex": 0, "delta": "abc",
                "partial": {"content": "x".repeat(size)}}})
    };
    let (small, large) =
        (truncate("message_update", update(1000), LIMITS), truncate("message_update", update(1 << 20), LIMITS));
    assert_eq!(small, large);
    assert_eq!(data(&small)["messageId"], "m1");
    assert!(small.data.len() < 400, "{}", small.data);
}

#[test]
fn delta_and_identity_are_found_where_clients_and_models_put_them() {
    for (payload, expected) in [
        (
            json!({"role": "assistant", "contentIndex": 2, "type": "thinking", "messageId": "m", "delta": "ab"}),
            json!({"type": "thinking", "role": "assistant", "messageId": "m", "contentIndex": 2,
                "deltaLength": 2, "deltaBytes": 2, "deltaPreview": "ab", "delta": "ab"}),
        ),
        (
            json!({"assistantMessageEvent": {"message":
                {"role": "assistant", "contentIndex": 3, "id": "m2", "type": "text", "delta": "xyz"}}}),
            json!({"role": "assistant", "contentIndex": 3, "messageId": "m2", "type": "text",
                "assistantMessageEvent": {"delta": "xyz"},
                "deltaLength": 3, "deltaBytes": 3, "deltaPreview": "xyz"}),
        ),
        (
            json!({"message": {"role": "assistant", "content": "so far"}}),
            json!({"message": {"role": "assistant"}, "role": "assistant",
                "deltaLength": 6, "deltaBytes": 6, "deltaPreview": "so far", "delta": "so far"}),
        ),
        (json!({"type": "message_update"}), json!({"type": "message_update"})),
    ] {
        let (data, loss) = compacted("message_update", payload.clone(), LIMITS);
        assert_eq!((data, loss), (expected, None), "{payload}");
    }
}

#[test]
fn a_preview_ends_between_characters() {
    let limits = Limits { max_event_bytes: 64, preview_bytes: 64 };
    let (data, _) = compacted("message_update", json!({"delta": "ä🦀".repeat(100_000)}), limits);
    let preview = data["deltaPreview"].as_str().expect("a preview");
    assert_eq!(preview, "ä🦀".repeat(10) + "ä");
    assert_eq!(data["deltaLength"], 300_000);
}

#[test]
fn tool_events_keep_identity_sizes_and_previews() {
    let result = json!({"content": [{"type": "text", "text": "r".repeat(10_000)}]});
    let end = json!({"type": "tool_execution_end", "toolCallId": "t1", "toolName": "bash", "status": "done", "isError": false,
        "artifact_path": "/a", "logPath": "/l", "durationMs": 5, "args": {"command": "ls"}, "result": result});
    let (data, loss) = compacted("tool_execution_end", end, LIMITS);
    assert!(loss.is_some_and(|loss| loss.original.is_some_and(|original| original.contains("rrr"))));
    assert_eq!(data["result"], Value::Null);
    assert_eq!(data["resultBytes"], result.to_string().len());
    assert_eq!(data["resultPreview"].as_str().map(str::len), Some(256));
    assert_eq!(data["argsPreview"], r#"{"command":"ls"}"#);
    for (key, value) in [
        ("type", json!("tool_execution_end")),
        ("toolCallId", json!("t1")),
        ("toolUseId", json!("t1")),
        ("toolName", json!("bash")),
        ("status", json!("done")),
        ("isError", json!(false)),
        ("artifactPath", json!("/a")),
        ("logPath", json!("/l")),
        ("durationMs", json!(5)),
    ] {
        assert_eq!(data[key], value, "{key}");
    }
}

#[test]
fn tool_identity_is_found_under_every_name() {
    for identity in [
        json!({"toolCallId": "t", "name": "bash", "status": "failed", "isError": true, "error": "no"}),
        json!({"tool_call_id": "t", "tool_name": "bash", "status": "failed", "is_error": true, "error": "no"}),
        json!({"tool_use_id": "t", "toolName": "bash", "status": "failed", "isError": true, "error": "no"}),
        json!({"toolCall": {"id": "t", "name": "bash", "status": "failed", "isError": true}, "error": "no"}),
        json!({"toolExecution": {"toolUseId": "t", "tool_name": "bash", "status": "failed", "isError": true}, "error": "no"}),
    ] {
        let data = truncated("tool_execution_start", identity.clone(), LIMITS);
        let found = ["toolUseId", "toolName", "status", "isError", "errorBytes", "errorPreview"].map(|key| &data[key]);
        assert_eq!(json!(found), json!(["t", "bash", "failed", true, 2, "no"]), "{identity}");
    }
}

#[test]
fn a_small_payload_goes_out_whole_with_its_compact_fields_and_is_not_marked() {
    for (event, payload, added) in [
        (
            "tool_execution_end",
            json!({"type": "tool_execution_end", "toolCallId": "t", "toolName": "ls", "result": "ok", "isError": false}),
            json!({"toolUseId": "t", "resultBytes": 2, "resultPreview": "ok"}),
        ),
        (
            "input",
            json!({"type": "input", "text": "hi", "source": "rpc"}),
            json!({"textBytes": 2, "textLength": 2, "textPreview": "hi"}),
        ),
        (
            "agent_end",
            json!({"type": "agent_end", "messages": [{"role": "assistant", "content": "Yes."}], "willRetry": false}),
            json!({"messagesCount": 1, "finalTextBytes": 4, "finalTextLength": 4, "finalTextPreview": "Yes."}),
        ),
        (
            "session_info_changed",
            json!({"type": "session_info_changed", "name": "päule"}),
            json!({"nameBytes": 6, "nameLength": 5, "namePreview": "päule"}),
        ),
        ("session_tree", json!({"a": 1}), json!({"bytes": 7, "preview": r#"{"a":1}"#})),
    ] {
        let mut expected = payload.clone();
        expected.as_object_mut().expect("an object").extend(added.as_object().expect("an object").clone());
        assert_eq!(compacted(event, payload, LIMITS), (expected, None), "{event}");
    }
}

#[test]
fn the_limit_is_on_what_goes_out() {
    let payload = |bytes: usize| json!({"text": "x".repeat(bytes)});
    for bytes in 3700..4200 {
        let limits = Limits { max_event_bytes: 4096, preview_bytes: 16 };
        let compacted = truncate("input", payload(bytes), limits);
        assert!(compacted.data.len() <= 4096, "{bytes}: {}", compacted.data.len());
        assert_eq!(compacted.loss.is_some(), data(&compacted)["text"].is_null(), "{bytes}");
    }
}

#[test]
fn an_intermediate_result_goes_out_whole_or_not_at_all() {
    let update = |size: usize| {
        json!({"type": "tool_execution_update", "toolCallId": "t", "toolName": "bash",
            "partialResult": {"content": [{"type": "text", "text": "\n".repeat(size)}]}})
    };
    let (data, loss) = compacted("tool_execution_update", update(10), LIMITS);
    assert_eq!((data["partialResult"]["content"][0]["text"].as_str(), loss), (Some("\n".repeat(10).as_str()), None));
    // Escaped it is twice as long, which is only known once it is serialised.
    for size in [5000, 1 << 20] {
        let (data, loss) = compacted("tool_execution_update", update(size), LIMITS);
        assert_eq!(
            data,
            json!({"type": "tool_execution_update", "toolCallId": "t", "toolName": "bash", "toolUseId": "t"}),
        );
        assert_eq!(loss, Some(Loss { original_bytes: 0, original: None }));
    }
}

#[test]
fn the_end_of_a_run_keeps_outcome_count_and_last_text() {
    let mut messages = vec![json!({"role": "assistant", "content": [{"type": "text", "text": "t".repeat(400)}]}); 60];
    messages.push(
        json!({"role": "assistant", "content": [{"type": "text", "text": "Last."}, {"type": "text", "text": " "}]}),
    );
    messages.push(json!({"role": "user", "content": "  "}));
    let end = json!({"type": "agent_end", "messages": messages, "status": "done", "stopReason": "stop", "willRetry": false,
        "usage": {"input": 1}});
    assert_eq!(
        truncated("agent_end", end, LIMITS),
        json!({"type": "agent_end", "status": "done", "stopReason": "stop", "willRetry": false, "usage": {"input": 1},
            "messagesCount": 62, "finalTextBytes": 5, "finalTextLength": 5, "finalTextPreview": "Last."})
    );
    for (payload, count, text) in [
        (json!({"message": {"role": "assistant", "content": "one"}}), json!(1), "one"),
        (json!({"messages": [], "content": "two"}), json!(0), "two"),
        (json!({"content": [{"type": "text", "text": "three"}]}), json!(null), "three"),
        (json!({"text": " ", "finalText": "four"}), json!(null), "four"),
    ] {
        let data = truncated("agent_end", payload.clone(), LIMITS);
        assert_eq!((&data["messagesCount"], &data["finalTextPreview"]), (&count, &json!(text)), "{payload}");
    }
}

#[test]
fn input_keeps_how_it_was_delivered() {
    let long = "w".repeat(9000);
    for (given, kept) in [
        (json!("follow_up"), json!("followUp")),
        (json!("follow-up"), json!("followUp")),
        (json!("followUp"), json!("followUp")),
        (json!("steer"), json!("steer")),
        (json!("other"), json!(null)),
        (json!(null), json!(null)),
    ] {
        let input = json!({"text": long, "images": [{"data": "AA=="}], "source": "rpc", "streamingBehavior": given});
        let (data, loss) = compacted("input", input, LIMITS);
        assert!(loss.is_some() && data["text"].is_null() && data["images"].is_null());
        assert_eq!(
            (&data["imagesCount"], &data["source"], &data["textTruncated"]),
            (&json!(1), &json!("rpc"), &json!(true))
        );
        assert_eq!((&data["textBytes"], &data["textLength"]), (&json!(9000), &json!(9000)));
        if kept.is_string() {
            assert_eq!(data["streamingBehavior"], kept, "{given}");
        }
    }
    let idle = truncated("input", json!({"text": "go", "source": "extension"}), LIMITS);
    assert_eq!(keys(&idle), ["text", "source", "textBytes", "textLength", "textPreview"]);
}

#[test]
fn a_long_name_is_previewed_and_a_missing_one_leaves_nothing() {
    let limits = Limits { preview_bytes: 32, ..LIMITS };
    assert_eq!(
        truncated("session_info_changed", json!({"name": "n".repeat(500)}), limits),
        json!({"nameBytes": 500, "nameLength": 500, "namePreview": "n".repeat(32), "nameTruncated": true})
    );
    for name in [json!(null), json!(7)] {
        let data = truncated("session_info_changed", json!({"name": name}), limits);
        assert!(keys(&data).iter().all(|key| *key == "name"), "{data}");
    }
}

#[test]
fn session_compact_and_session_tree_keep_size_and_beginning() {
    for event in ["session_compact", "session_tree"] {
        let data = truncated(event, json!({"summary": "s".repeat(500)}), LIMITS);
        assert_eq!(keys(&data), ["bytes", "preview", "truncated"]);
        assert!(data["preview"].as_str().is_some_and(|preview| preview.starts_with(r#"{"summary":"sss"#)));
    }
}

#[test]
fn events_of_other_names_pass_through_until_they_are_too_large() {
    let small = json!({"message": "hi", "list": [1, {"deep": null}]});
    assert_eq!(compacted("bridge_emit", small.clone(), LIMITS), (small, None));
    let limits = Limits { max_event_bytes: 1024, ..LIMITS };
    let large = json!({"blob": "b".repeat(1_500_000)});
    let (data, loss) = compacted("custom", large.clone(), limits);
    assert_eq!(
        data,
        json!({"summary": "custom: 1500011 bytes, more than an event may have", "truncated": true,
            "originalBytes": 1_500_011, "maxBytes": 1024})
    );
    assert_eq!(loss, Some(Loss { original_bytes: 1_500_011, original: Some(large.to_string()) }));
}

#[test]
fn a_large_event_still_says_who_and_what_it_is_about() {
    let text = "t".repeat(20_000);
    let usage = json!({"input": 5, "output": 7, "cost": {"total": 0.25}});
    let message = json!({"role": "assistant", "content": [{"type": "text", "text": text}], "model": "m", "stopReason": "stop",
        "usage": usage, "timestamp": 1});
    let kept = json!({"role": "assistant", "model": "m", "stopReason": "stop", "usage": usage, "timestamp": 1});
    let (data, _) = compacted("message_end", json!({"type": "message_end", "message": message}), LIMITS);
    assert_eq!((&data["type"], &data["message"]), (&json!("message_end"), &kept));
    assert_eq!((&data["truncated"], data["originalBytes"].as_u64().is_some_and(|n| n > 20_000)), (&json!(true), true));

    let turn = json!({"type": "turn_end", "turnIndex": 3, "message": message, "toolResults": [{"content": text}]});
    let (data, _) = compacted("turn_end", turn, LIMITS);
    assert_eq!((&data["turnIndex"], &data["message"], &data["toolResults"]), (&json!(3), &kept, &Value::Null));

    let question = json!({"action": "opened", "requestId": "que_1", "openedAt": "2026-01-01T00:00:00.000Z", "source": "tool",
        "request": {"header": "Pick", "questions": [{"question": text}]}});
    let (data, _) = compacted("question", question, LIMITS);
    let found = ["action", "requestId", "openedAt", "source", "request"].map(|key| &data[key]);
    assert_eq!(json!(found), json!(["opened", "que_1", "2026-01-01T00:00:00.000Z", "tool", {"header": "Pick"}]));

    let start = json!({"state": {"pid": 7, "sessionId": "s", "model": {"id": "m"}, "junk": text}});
    let (data, _) = compacted("bridge_start", start, LIMITS);
    assert_eq!(data["state"], json!({"pid": 7, "sessionId": "s", "model": {"id": "m"}}));
}

#[test]
fn identity_that_does_not_fit_either_is_left_out() {
    let many: Fields = (0..2000).map(|n| (format!("key{n}"), json!(n))).collect();
    for event in ["custom", "input", "tool_execution_end"] {
        let (data, loss) = compacted(event, Value::Object(many.clone()), LIMITS);
        assert_eq!(keys(&data), ["summary", "truncated", "originalBytes", "maxBytes"], "{event}");
        assert!(loss.is_some_and(|loss| loss.original.is_some()));
    }
}

#[test]
fn payloads_that_are_no_objects_pass_through() {
    for event in
        ["message_update", "tool_execution_update", "tool_execution_end", "input", "agent_end", "session_tree", "x"]
    {
        for payload in [json!(null), json!("text"), json!(7), json!([1, 2])] {
            assert_eq!(compacted(event, payload.clone(), LIMITS), (payload, None), "{event}");
        }
    }
}

#[test]
fn original_bytes_are_those_of_the_payloads_json() {
    for payload in [json!({"text": "ä\n\"🦀"}), json!({"text": ""}), json!({"a": [1.5, null, {"b": true}]})] {
        for event in ["input", "agent_end", "session_compact", "custom"] {
            let (_, loss) = compacted(event, payload.clone(), TINY);
            assert_eq!(loss.map(|loss| loss.original_bytes), Some(payload.to_string().len()), "{event} {payload}");
        }
    }
}
