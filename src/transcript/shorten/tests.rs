use super::super::compaction::{summary_message, tokens};
use super::*;
use serde_json::json;

fn user(text: &str) -> Value {
    json!({"role": "user", "content": text, "timestamp": 1})
}

fn says(content: Value) -> Value {
    json!({"role": "assistant", "content": content, "api": "a", "provider": "p", "model": "m", "usage": {},
        "stopReason": "toolUse", "timestamp": 1})
}

fn result(text: &str) -> Value {
    json!({"role": "toolResult", "toolCallId": "t", "toolName": "read", "content": [{"type": "text", "text": text}],
        "isError": false, "timestamp": 1})
}

fn parsed(messages: Value) -> Vec<Arc<Message>> {
    let messages: Vec<Message> = serde_json::from_value(messages).expect("messages");
    messages.into_iter().map(Arc::new).collect()
}

fn after(messages: &[Arc<Message>], budget: u64) -> (Vec<usize>, Vec<Arc<Message>>) {
    let shortened = shorten(messages, budget);
    let mut now = messages.to_vec();
    let at = shortened.iter().map(|(at, _)| *at).collect();
    for (at, message) in shortened {
        now[at] = message;
    }
    (at, now)
}

fn letters(letter: &str, length: usize) -> String {
    format!("<{letter}>{}</{letter}>", letter.repeat(length))
}

#[test]
fn results_give_way_before_words_and_words_before_calls() {
    let call =
        json!({"type": "toolCall", "id": "t", "name": "write", "arguments": {"content": letters("c", 40_000), "n": 1}});
    let (words, read) = (letters("u", 40_000), letters("r", 40_000));
    let messages = parsed(json!([user(&words), says(json!([call])), result(&read), result("ok")]));
    for (budget, changed) in [
        (30_100, vec![]),
        (30_000, vec![2]),
        (25_000, vec![2]),
        (22_000, vec![0, 2]),
        (10_500, vec![0, 2]),
        (9_000, vec![0, 1, 2]),
        (600, vec![0, 1, 2]),
    ] {
        let (at, now) = after(&messages, budget);
        assert_eq!(at, changed, "{budget}");
        assert!(tokens(&now) <= budget, "{budget}: {}", tokens(&now));
        let text = format!("{now:?}");
        for end in ["<u>", "</u>", "<c>", "</c>", "<r>", "</r>"] {
            assert!(text.contains(end), "{budget} {end}");
        }
        // Once is enough, and it depends on nothing else.
        assert!(shorten(&now, budget).is_empty(), "{budget}");
        assert_eq!(after(&messages, budget).1, now);
    }
    // There is an end to it.
    let (_, now) = after(&messages, 0);
    assert!(tokens(&now) < 400, "{}", tokens(&now));
    assert!(shorten(&now, 0).is_empty());
}

#[test]
fn many_results_of_one_turn_share_the_room() {
    let mut list = vec![user("read them"), says(json!([{"type": "text", "text": "yes"}]))];
    list.extend((0..18).map(|_| result(&letters("r", 50_000))));
    list.push(result("small"));
    let messages = parsed(list.into());
    let (at, now) = after(&messages, 100_000);
    assert_eq!(at, (2..20).collect::<Vec<_>>());
    assert!((95_000..=100_000).contains(&tokens(&now)), "{}", tokens(&now));
}

#[test]
fn the_oldest_images_give_way() {
    let image = json!({"type": "image", "data": "AAAA", "mimeType": "image/png"});
    let seen = json!({"role": "toolResult", "toolCallId": "t", "toolName": "read", "content": [image, image], "isError": false,
        "timestamp": 1});
    let asked = json!({"role": "user", "content": [{"type": "text", "text": "look"}, image], "timestamp": 1});
    let messages = parsed(json!([seen, seen, asked]));
    for (budget, left) in [(6001, 5), (5000, 4), (2500, 2), (1400, 1), (100, 0)] {
        let (_, now) = after(&messages, budget);
        let text = format!("{now:?}");
        assert_eq!(text.matches("image/png").count(), left, "{budget}");
        assert_eq!(text.matches("An image is left out here").count(), 5 - left, "{budget}");
    }
}

#[test]
fn summaries_and_thoughts_stay_whole() {
    let long = "x".repeat(40_000);
    let mut messages = vec![Arc::new(summary_message(&long, 1))];
    messages.extend(parsed(json!([says(json!([{"type": "thinking", "thinking": long, "thinkingSignature": "s"}]))])));
    assert!(shorten(&messages, 10).is_empty());
}
