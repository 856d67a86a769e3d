use super::*;
use crate::model::test_support::{test_messages, test_model};
use serde_json::json;

#[test]
fn what_refusals_complain_about() {
    use Complaint::*;
    for (status, text, expected) in [
        (400, "400: {\"message\":\"Could not process image\"}", Some(Image)),
        (400, "400: messages.3.content.1.image.source.base64: image cannot be empty", Some(Image)),
        (400, "400: image exceeds 5 MB maximum: 5316852 bytes > 5242880 bytes", Some(Image)),
        (404, "404: No endpoints found that support image input", Some(Image)),
        (500, "500: failed to load image", Some(Image)),
        (400, "400: At most 1 image(s) may be provided in one request.", Some(TooManyImages(Some(1)))),
        (400, "400: too many images and documents: 4 > 3", Some(TooManyImages(None))),
        (413, "413: <html>Request Entity Too Large</html>", Some(TooLarge)),
        (400, "400: Request payload size exceeds the limit: 20971520 bytes.", Some(TooLarge)),
        (400, "400: messages.1.content.0: Invalid `signature` in `thinking` block", Some(Thoughts)),
        (
            400,
            "400: The block is bound to a different conversation. Remove the block, or set `thinking.block_binding.prefix_mismatch_behavior`",
            Some(Thoughts),
        ),
        (400, "400: Item 'rs_1' of type 'reasoning' was provided without its required following item.", Some(Thoughts)),
        (400, "400: The encrypted content for item rs_1 could not be verified.", Some(Thoughts)),
        (
            400,
            "400: thinking.adaptive.block_binding: Extra inputs are not permitted",
            Some(Habit(super::Habit::NoBlockBinding)),
        ),
        (400, "400: Function call is missing a thought_signature in functionCall parts.", Some(Signatures)),
        (
            400,
            "400: Missing `reasoning_content` field in the assistant message",
            Some(Habit(super::Habit::WantsReasoning)),
        ),
        (400, "400: Unexpected message role.", Some(Habit(super::Habit::NoDeveloperRole))),
        (400, "400: Invalid request.", Some(Something)),
        (400, "400: prompt is too long: 210000 tokens > 200000 maximum", None),
        (401, "401: invalid key for the image service", None),
        (429, "429: too many images", None),
        (500, "500: overloaded", None),
    ] {
        let overflow = text.contains("prompt is too long");
        assert_eq!(complaint(&text.to_lowercase(), Some(status), overflow), expected, "{text}");
    }
}

/// Three images, the last one not answered yet, in messages with thoughts and signatures; and the body that is sent.
fn conversation() -> (Vec<Arc<Message>>, Vec<u8>) {
    let image = |data: &str| json!({"type":"image","data":data,"mimeType":"image/png"});
    let answer = |thought: &str| {
        json!({"role":"assistant","api":"anthropic-messages","provider":"p","model":"m","usage":{},"stopReason":"toolUse","timestamp":1,
            "content":[{"type":"thinking","thinking":thought,"thinkingSignature":format!("S{thought}")},
                {"type":"toolCall","id":thought,"name":"t","arguments":{},"thoughtSignature":"QUJD"}]})
    };
    let messages = test_messages(json!([
        {"role":"user","content":[image("AAAA"), image("BBBB")],"timestamp":1},
        answer("one"),
        {"role":"user","content":"go","timestamp":1},
        answer("two"),
        {"role":"toolResult","toolCallId":"two","toolName":"t","content":[image("CCCC")],"isError":false,"timestamp":1},
    ]));
    let body = json!({"messages":[{"role":"user","content":[{"source":{"data":"AAAA"}},{"source":{"data":"BBBB"}}]}],
        "input":[{"content":[{"image_url":"data:image/png;base64,AAAA"}]}]});
    (messages, body.to_string().into_bytes())
}

#[test]
fn what_is_left_out() {
    let (messages, body) = conversation();
    let adaptive = serde_json::from_value(json!({"forceAdaptiveThinking":true})).expect("flags");
    let (model, adaptive) = (test_model(), Model { compat: adaptive, ..test_model() });
    let known = ["AAAA", "BBBB", "CCCC", "Sone", "Stwo", "QUJD"];
    for (model, repairs, status, text, expected) in [
        (&model, 0, 400, "Could not process image", vec!["CCCC"]),
        (&model, 1, 400, "Could not process image", vec!["AAAA", "BBBB", "CCCC"]),
        (&model, 0, 400, "messages.0.content.1.image.source.base64: broken", vec!["BBBB"]),
        (&model, 0, 400, "Invalid image at input[0].content[0].image_url.", vec!["AAAA"]),
        (&model, 0, 400, "messages.7.content.1.image: broken", vec!["CCCC"]),
        (&model, 0, 400, "Invalid request.", vec!["CCCC"]),
        (&model, 1, 400, "Invalid request.", vec![]),
        (&model, 0, 413, "request_too_large", vec!["AAAA", "BBBB"]),
        (&model, 2, 413, "request_too_large", vec!["AAAA", "BBBB", "CCCC"]),
        (&model, 0, 400, "up to 2 images", vec!["AAAA"]),
        (&model, 0, 400, "too many images", vec!["AAAA", "BBBB"]),
        (&model, 0, 400, "Invalid `signature` in `thinking` block", vec!["Sone"]),
        (&adaptive, 0, 400, "Invalid `signature` in `thinking` block", vec!["Sone", "Stwo"]),
        (&model, 0, 400, "Corrupted thought signature.", vec!["Sone", "Stwo", "QUJD"]),
        (&model, 0, 400, "block_binding: extra inputs are not permitted", vec![]),
        (&model, 0, 400, "unknown role", vec![]),
        (&model, 0, 429, "Could not process image", vec![]),
    ] {
        let status = Some(status);
        let refusal = Refusal { model, text, status, overflow: false, sent: &messages, body: &body, repairs };
        let mut refused = Refused::default();
        if let Some(remedy) = remedy(&refusal) {
            remedy.add_to(&mut refused);
        }
        let left_out: Vec<&str> = known.into_iter().filter(|data| refused.why(model, data).is_some()).collect();
        assert_eq!(left_out, expected, "{text}, {repairs} repairs");
    }
}

#[test]
fn habits_are_learned_where_they_can_be_meant() {
    let model = test_model();
    for (text, body, habit) in [
        ("Unexpected message role.", "{\"role\":\"developer\"}", Habit::NoDeveloperRole),
        ("block_binding: not permitted", "{\"block_binding\":{}}", Habit::NoBlockBinding),
        ("reasoning_content is missing", "{}", Habit::WantsReasoning),
        ("missing thought_signature", "{}", Habit::WantsSignatures),
    ] {
        let body = body.as_bytes();
        let refusal = Refusal { model: &model, text, status: Some(400), overflow: false, sent: &[], body, repairs: 0 };
        let mut refused = Refused::default();
        remedy(&refusal).expect("a remedy").add_to(&mut refused);
        assert!(refused.has(&model, habit), "{text}");
    }
}
