use super::*;
use crate::model::model_info::Api;
use crate::model::provider_apis;
use crate::model::test_support::{test_messages, test_model};
use serde_json::{Value, json};

const PNG: &str = "iVBORw0KGgo=";

fn assistant(model: &str, stop: &str, content: Value) -> Value {
    json!({"role":"assistant","content":content,"api":"anthropic-messages","provider":"p","model":model,
        "usage":{},"stopReason":stop,"timestamp":1})
}

fn result(id: &str, content: Value) -> Value {
    json!({"role":"toolResult","toolCallId":id,"toolName":"t","content":content,"isError":false,"timestamp":1})
}

fn call(id: &str) -> Value {
    json!({"type":"toolCall","id":id,"name":"t","arguments":{}})
}

fn user(text: &str) -> Value {
    json!({"role":"user","content":text,"timestamp":1})
}

fn image(data: &str) -> Value {
    json!({"type":"image","data":data,"mimeType":"image/png"})
}

fn text(text: &str) -> Value {
    json!({"type":"text","text":text,"textSignature":"#"})
}

fn rules(api: Api) -> Rules {
    provider_apis::protocol(api).expect("an API").rules
}

/// What is said of every message that is sent: role, tool call id and name, the blocks' texts.
fn describe(messages: &[Arc<Message>]) -> Vec<String> {
    let parts = |blocks: &[Block]| {
        let part = |block: &Block| match block {
            Block::Text { text, text_signature } => format!("{text}{}", text_signature.as_deref().unwrap_or("")),
            Block::Thinking { thinking, .. } => format!("thinking:{thinking}"),
            Block::ToolCall { id, name, .. } if name == "t" => format!("call:{id}"),
            Block::ToolCall { id, name, .. } => format!("call:{id}:{name}"),
            Block::Image { mime_type, .. } => mime_type.clone(),
        };
        blocks.iter().map(part).collect::<Vec<_>>().join(",")
    };
    let describe = |message: &Message| match message {
        Message::User(UserMessage { content: Content::Text(text), .. }) => format!("user {text}"),
        Message::User(UserMessage { content: Content::Blocks(blocks), .. }) => format!("user {}", parts(blocks)),
        Message::Assistant(m) => format!("assistant {}", parts(&m.content)),
        Message::ToolResult(m) if m.tool_name == "t" => format!("result {} {}", m.tool_call_id, parts(&m.content)),
        Message::ToolResult(m) => format!("result {}:{} {}", m.tool_call_id, m.tool_name, parts(&m.content)),
    };
    messages.iter().map(|message| describe(message)).collect()
}

fn tool(name: &str) -> ToolSpec {
    ToolSpec { name: name.to_string(), description: "D".to_string(), parameters: json!({"type":"object"}).into() }
}

fn options<'a>(
    model: &'a Model,
    rules: &'a Rules,
    offered: &'a [&'a ToolSpec],
    refused: &'a Refused,
) -> SendableOptions<'a> {
    SendableOptions { model, rules, offered, block_images: false, limits: Limits::of(model), surplus: 0, refused }
}

fn run(model: &Model, messages: &[Value]) -> Vec<String> {
    let (rules, refused, offered) = (rules(model.api), Refused::default(), tool("bash"));
    describe(&sendable(&test_messages(json!(messages)), &options(model, &rules, &[&offered], &refused)))
}

#[test]
fn items_do_not_name_reasoning_that_is_left_out() {
    let model = Model { api: Api::OpenaiResponses, ..test_model() };
    let answer = |reasoning: Value| {
        let thought = json!({"type":"thinking","thinking":"hm","thinkingSignature":reasoning.to_string()});
        let said = |phase: Value| json!({"type":"text","text":"a","textSignature":phase.to_string()});
        let content = json!([
            thought,
            said(json!({"v":1,"id":"msg_1"})),
            said(json!({"v":1,"id":"msg_2","phase":"final"})),
            call("c|fc_1")
        ]);
        let mut message = assistant("m", "toolUse", content);
        message["api"] = json!("openai-responses");
        run(&model, &[user("u"), message, result("c|fc_1", json!([text("r")]))])
    };
    let whole = json!({"type":"reasoning","id":"rs_1","summary":[],"encrypted_content":"E"});
    let kept = r##"assistant thinking:hm,a{"v":1,"id":"msg_1"},a{"v":1,"id":"msg_2","phase":"final"},call:c|fc_1"##;
    assert_eq!(answer(whole), ["user u", kept, "result c|fc_1 r#"]);
    // Without its content the service does not know it again.
    let left_out = r##"assistant a,a{"v":1,"id":"","phase":"final"},call:c"##;
    assert_eq!(answer(json!({"type":"reasoning","id":"rs_1","summary":[]})), ["user u", left_out, "result c r#"]);
}

#[test]
fn messages_are_made_fit() {
    let blocks = json!({"role":"user","content":[text("a"),image(PNG),image(PNG),text("b"),image(PNG)],"timestamp":1});
    let thoughts = json!([{"type":"thinking","thinking":"x"},{"type":"thinking","thinking":"","thinkingSignature":"s"},
        {"type":"thinking","thinking":" "},text("t"),call("c.")]);
    let blind = Model { images: false, ..test_model() };
    let omitted = "(image omitted: model does not support images)";
    let cases: Vec<(&str, Model, Vec<Value>, Vec<String>)> = vec![
        ("images kept", test_model(), vec![blocks.clone()], vec!["user a#,image/png,image/png,b#,image/png".into()]),
        ("images replaced", blind.clone(), vec![blocks], vec![format!("user a#,{omitted},b#,{omitted}")]),
        (
            "tool images replaced",
            blind,
            vec![user("u"), assistant("m", "toolUse", json!([call("c")])), result("c", json!([image(PNG)]))],
            vec![
                "user u".into(),
                "assistant call:c".into(),
                "result c (tool image omitted: model does not support images)".into(),
            ],
        ),
        (
            "damaged images, and such as are something else than they say",
            test_model(),
            vec![json!({"role":"user","content":[image("AAAA"),image("/9j/4A=="),image("iVBORw0KGg")],"timestamp":1})],
            vec![format!(
                "user {d},image/jpeg,{d}",
                d = "(image omitted: it is damaged, or of a format that models do not take)"
            )],
        ),
        (
            "own thoughts",
            test_model(),
            vec![user("u"), assistant("m", "stop", thoughts.clone()), result("c.", json!([]))],
            vec!["user u".into(), "assistant thinking:x,thinking:,t#,call:c_".into(), "result c_ ".into()],
        ),
        (
            "another model's thoughts and ids",
            test_model(),
            vec![user("u"), assistant("n", "stop", thoughts), result("c.", json!([]))],
            vec!["user u".into(), "assistant t,call:c_".into(), "result c_ ".into()],
        ),
        (
            "failed answers are left out",
            test_model(),
            vec![
                user("u"),
                assistant("m", "error", json!([call("c")])),
                result("c", json!([])),
                assistant("m", "aborted", json!([text("t")])),
            ],
            vec!["user u".into()],
        ),
        (
            "missing results, and such as come late or in another order",
            test_model(),
            vec![
                user("u"),
                assistant("m", "toolUse", json!([call("a"), call("b")])),
                result("b", json!([text("r")])),
                user("v"),
                assistant("m", "toolUse", json!([call("c")])),
                user("w"),
                result("c", json!([text("late")])),
                assistant("m", "toolUse", json!([call("d")])),
            ],
            vec![
                "user u".into(),
                "assistant call:a,call:b".into(),
                "result a No result provided".into(),
                "result b r#".into(),
                "user v".into(),
                "assistant call:c".into(),
                "result c late#".into(),
                "user w".into(),
                "assistant call:d".into(),
                "result d No result provided".into(),
            ],
        ),
        ("orphaned results", test_model(), vec![user("u"), result("x", json!([]))], vec!["user u".into()]),
        (
            "nothing but thoughts, or nothing at all",
            test_model(),
            vec![
                user(" "),
                assistant("m", "stop", json!([{"type":"thinking","thinking":"x","thinkingSignature":"s"},text(" ")])),
                assistant(
                    "m",
                    "stop",
                    json!([{"type":"thinking","thinking":"r","thinkingSignature":"s","redacted":true}]),
                ),
                json!({"role":"user","content":[],"timestamp":1}),
                assistant("m", "stop", json!([text("t"),{"type":"thinking","thinking":"x","thinkingSignature":"s"}])),
                user("go"),
            ],
            vec!["user (empty message)".into(), "user (empty message)".into(), "assistant t#".into(), "user go".into()],
        ),
        ("no message", test_model(), vec![], vec!["user (empty message)".into()]),
        (
            "answers at both ends",
            test_model(),
            vec![assistant("m", "stop", json!([text("a")]))],
            vec![format!("user {NO_BEGINNING}"), "assistant a#".into(), format!("user {GO_ON}")],
        ),
        (
            "ids that are empty, or there twice",
            test_model(),
            vec![
                user("u"),
                assistant("m", "toolUse", json!([call("a"), call("a"), call(""), call("")])),
                result("a", json!([text("1")])),
                result("", json!([text("3")])),
                result("a", json!([text("2")])),
                result("", json!([text("4")])),
                assistant("m", "toolUse", json!([call("a_2"), call("a")])),
            ],
            vec![
                "user u".into(),
                "assistant call:a,call:a_2,call:call_3,call:call_4".into(),
                "result a 1#".into(),
                "result a_2 2#".into(),
                "result call_3 3#".into(),
                "result call_4 4#".into(),
                "assistant call:a_2_2,call:a_3".into(),
                "result a_2_2 No result provided".into(),
                "result a_3 No result provided".into(),
            ],
        ),
        (
            "names that no provider takes",
            test_model(),
            vec![
                user("u"),
                assistant(
                    "m",
                    "toolUse",
                    json!([{"type":"toolCall","id":"a","name":"functions.bash","arguments":{}},
                    {"type":"toolCall","id":"b","name":"","arguments":{}},{"type":"toolCall","id":"c","name":"a b.c","arguments":{}}]),
                ),
                result("a", json!([text("r")])),
            ],
            vec![
                "user u".into(),
                "assistant call:a:bash,call:b:unnamed_tool,call:c:a_b_c".into(),
                "result a:bash r#".into(),
                "result b:unnamed_tool No result provided".into(),
                "result c:a_b_c No result provided".into(),
            ],
        ),
    ];
    for (name, model, messages, expected) in cases {
        assert_eq!(run(&model, &messages), expected, "{name}");
    }
}

#[test]
fn what_is_right_already_is_not_copied() {
    let messages = test_messages(json!([
        {"role":"user","content":[text("a"),image(PNG)],"timestamp":1},
        assistant("m", "toolUse", json!([{"type":"thinking","thinking":"x","thinkingSignature":"s"},text("t"),call("c")])),
        result("c", json!([image(PNG)])),
        user("u"),
    ]));
    let (model, refused) = (test_model(), Refused::default());
    let sent = sendable(&messages, &options(&model, &rules(model.api), &[], &refused));
    assert_eq!(sent.len(), messages.len());
    assert!(sent.iter().zip(&messages).all(|(sent, message)| Arc::ptr_eq(sent, message)));
}

#[test]
fn deep_arguments_are_left_out() {
    let mut deep = json!(1);
    for _ in 0..MAX_DEPTH {
        deep = json!([deep]);
    }
    for (arguments, expected) in [(json!({"a": deep[0]}), false), (json!({"a": deep}), true)] {
        let call = json!({"type":"toolCall","id":"c","name":"t","arguments":arguments});
        let messages = test_messages(json!([user("u"), assistant("m", "toolUse", json!([call]))]));
        let (model, refused) = (test_model(), Refused::default());
        let sent = sendable(&messages, &options(&model, &rules(model.api), &[], &refused));
        let Message::Assistant(answer) = &*sent[1] else { panic!("an answer") };
        assert!(matches!(&answer.content[0], Block::ToolCall { arguments, .. } if arguments.is_empty() == expected));
    }
}

#[test]
fn images_are_left_out_by_the_settings_by_number_and_by_size() {
    let images = |n: usize| json!({"role":"user","content":vec![image(PNG); n],"timestamp":1});
    let messages = test_messages(json!([images(3), user("u"), images(3)]));
    let (model, refused) = (test_model(), Refused::default());
    let rules = rules(model.api);
    let base = options(&model, &rules, &[], &refused);
    let sent = |options: SendableOptions<'_>| {
        let sent = format!("{:?}", sendable(&messages, &options));
        (sent.matches("image/png").count(), sent.matches("more images than fit").count())
    };
    let limits = |images| Limits { bytes: 40, images };
    assert_eq!(sent(SendableOptions { limits: limits(6), ..base }), (6, 0));
    // Of four, one is a step.
    let base = options(&model, &rules, &[], &refused);
    assert_eq!(sent(SendableOptions { limits: limits(4), ..base }), (4, 1));
    // 12 bytes each, in steps of 10: 20 are two.
    let base = options(&model, &rules, &[], &refused);
    assert_eq!(sent(SendableOptions { limits: limits(6), surplus: 11, ..base }), (4, 1));
    let base = options(&model, &rules, &[], &refused);
    let blocked = format!("{:?}", sendable(&messages, &SendableOptions { block_images: true, ..base }));
    assert_eq!((blocked.matches("Image reading is disabled.").count(), blocked.matches("image/png").count()), (2, 0));
}
