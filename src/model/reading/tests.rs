use super::*;
use crate::model::model_info::{Api, Model};
use crate::model::provider_apis;
use crate::model::request::{ABORTED, Outcome};
use crate::model::test_support::{Recorder, test_model, test_request};

/// Hands out its parts, one for each read, then an error if there is one.
struct Parts(Vec<Vec<u8>>, Option<ErrorKind>);

impl Read for Parts {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.0.is_empty() {
            return self.1.map_or(Ok(0), |kind| Err(kind.into()));
        }
        let length = self.0[0].len().min(buffer.len());
        buffer[..length].copy_from_slice(&self.0[0][..length]);
        self.0[0].drain(..length);
        if self.0[0].is_empty() {
            self.0.remove(0);
        }
        Ok(length)
    }
}

impl Source for Parts {}

fn read_parts(api: Api, parts: Parts) -> (Outcome, Option<Progress>) {
    let model = Model { api, ..test_model() };
    let request = test_request(&model, &[]);
    let mut decoder = (provider_apis::protocol(api).expect("an API").decoder)(&model);
    let mut recorder = Recorder::default();
    let mut answer = Answer::new(&request, &mut recorder);
    let result = read(&mut Events::new(parts), &mut *decoder, &mut answer, &Cancel::new());
    let progress = result.as_ref().ok().map(|(_, progress)| *progress);
    (answer.finish(&request, result.map(|(stop, _)| stop)), progress)
}

/// Reads a body in two pieces, cut anywhere, which makes no difference.
fn decoded(api: Api, body: &str) -> Outcome {
    let bytes = body.as_bytes();
    let (whole, _) = read_parts(api, Parts(vec![bytes.to_vec()], None));
    for at in 1..bytes.len() {
        let (cut, _) = read_parts(api, Parts(vec![bytes[..at].to_vec(), bytes[at..].to_vec()], None));
        assert_eq!(cut.message.content, whole.message.content, "cut at {at}");
        assert_eq!(
            (cut.message.error_message, cut.failure),
            (whole.message.error_message.clone(), whole.failure.clone())
        );
    }
    whole
}

const ALL: [Api; 4] = [Api::AnthropicMessages, Api::OpenaiCompletions, Api::OpenaiResponses, Api::GoogleGenerativeAi];

#[test]
fn errors_in_place_of_an_answer_have_the_server_s_words() {
    for (body, words, status) in [
        (r#"{"error":{"message":"no such thing","code":404}}"#, "404: no such thing", Some(404)),
        ("{\n  \"error\": {\n    \"message\": \"a } b\",\n    \"code\": 400\n  }\n}\n", "400: a } b", Some(400)),
        (
            r#"[{"error":{"code":400,"message":"bad","status":"INVALID_ARGUMENT"}}]"#,
            "400: bad (INVALID_ARGUMENT)",
            Some(400),
        ),
        (r#"[ {"error":{"type":"overloaded_error","message":"Full"}} ]"#, "529: Full (overloaded_error)", Some(529)),
        ("data: {\"error\":\"no more\"}\n\n", "no more", None),
        ("data: {\"error\":\"no more\"}", "no more", None),
        ("data: data: {\"error\":\"twice\"}\n\n", "twice", None),
        ("data: [{\"error\":\"listed\"}]\n\n", "listed", None),
        ("event: error\ndata: {\"message\":\"m\",\"code\":\"c\"}\n\n", "m (c)", None),
        ("event: error\ndata: just words\n\n", "just words", None),
        ("event: error\n{\"message\":\"m\"}\n", "m", None),
        ("error: {\"code\":400,\"message\":\"m\"}\n\ndata: [DONE]\n\n", "400: m", Some(400)),
        ("error: m\n\n", "m", None),
        (r#"{"detail":"Not Found"}"#, "Not Found", None),
        ("data: {\"code\":401,\"message\":\"m\"}\n\ndata: [DONE]\n\n", "401: m", Some(401)),
        (
            "<!DOCTYPE html>\n<html><body>Please sign in</body></html>\n\n",
            "The server sent no event stream: <!DOCTYPE html>\n<html><body>Please sign in</body></html>",
            None,
        ),
        ("no healthy upstream", "The server sent no event stream: no healthy upstream", None),
    ] {
        for api in ALL {
            let outcome = decoded(api, body);
            assert_eq!(outcome.message.error_message.as_deref(), Some(words), "{api:?} {body}");
            assert_eq!(outcome.failure.and_then(|failure| failure.status), status, "{api:?} {body}");
        }
    }
}

#[test]
fn what_says_nothing_costs_nothing() {
    let answer =
        "data: {\"candidates\":[{\"content\":{\"parts\":[{\"text\":\"hello\"}]},\"finishReason\":\"STOP\"}]}\n\n";
    for more in [
        "data:\n\n",
        "data: \n\n",
        "data: null\n\n",
        "data: 7\n\n",
        "data: pong\n\n",
        ": ping\n\n",
        "event: x\n\n",
        "\n\n",
        "retry: 1\nid: 2\n\n",
        "data: \"[DONE]\"\n\n",
        "data: [DONE] \n\n",
        "data: []\n\n",
        "data: \"x\"\n\n",
        "data: [1]\n\n",
    ] {
        let outcome = decoded(Api::GoogleGenerativeAi, &format!("{more}{answer}{more}"));
        assert_eq!((outcome.message.text().as_str(), outcome.failure), ("hello", None), "{more}");
    }
}

#[test]
fn chunks_without_an_event_stream_around_them() {
    let chunk = |text: &str| {
        format!(r#"{{"candidates":[{{"content":{{"parts":[{{"text":"{text}"}}]}},"finishReason":"STOP"}}]}}"#)
    };
    let (one, two) = (chunk("o{ne "), chunk("two"));
    let pretty: serde_json::Value = serde_json::from_str(&two).expect("JSON");
    let pretty = serde_json::to_string_pretty(&pretty).expect("JSON");
    for body in [
        format!("[{one},{two}]"),
        format!("[{one}\r\n,\r\n{two}\r\n]\r\n"),
        format!("{one}\n{two}\n"),
        format!("\u{feff}[{one},\n{pretty}\n]"),
        format!("data: {one}\n\n{two}"),
        format!("data: {one}\n\n{two}\n[DONE]\n"),
        // Without the empty lines.
        format!("data: {one}\ndata: {two}\ndata: [DONE]\n"),
        format!("event: a\ndata: {one}\nevent: b\ndata: {two}\ndata: {{\"cut"),
    ] {
        let outcome = decoded(Api::GoogleGenerativeAi, &body);
        assert_eq!((outcome.message.text().as_str(), outcome.failure), ("o{ne two", None), "{body}");
    }
}

#[test]
fn an_error_behind_a_cut_event_is_read() {
    for body in [
        "data: {\"candidates\":[{\"con\ndata: {\"error\":{\"message\":\"gone\",\"code\":404}}\n\n",
        "data: {\"candidates\":[{\"con\n{\"error\":{\"message\":\"gone\",\"code\":404}}\n\n",
        "data: {\"candidates\":[{\"con\ndata: {\"error\":{\"message\":\"gone\",\"code\":404}}",
    ] {
        let outcome = decoded(Api::GoogleGenerativeAi, body);
        assert_eq!(outcome.message.error_message.as_deref(), Some("404: gone"), "{body}");
    }
    let outcome = decoded(Api::GoogleGenerativeAi, "data: {\"candidates\":hello}\n\n");
    assert!(outcome.message.error_message.is_some_and(|text| text.starts_with("Unusable event in the stream")));
}

#[test]
fn lost_connections() {
    let text = "data: {\"candidates\":[{\"content\":{\"parts\":[{\"text\":\"hello\"}]}}]}\n\n";
    let stop = "data: {\"candidates\":[{\"finishReason\":\"STOP\"}]}";
    for (body, end, expected) in [
        (text.to_string(), None, Err("Stream ended without a finish reason")),
        (text.to_string(), Some(ErrorKind::ConnectionReset), Err("Connection lost: connection reset")),
        (text.to_string(), Some(ErrorKind::TimedOut), Err("Request timed out: timed out")),
        (format!("{text}{stop}"), None, Ok(Progress::Done)),
        (format!("{text}{stop}"), Some(ErrorKind::ConnectionReset), Ok(Progress::More)),
        (format!("{text}{stop}\n\n"), Some(ErrorKind::TimedOut), Ok(Progress::More)),
        (format!("{text}{stop}\n\ndata: {{\"cut"), None, Ok(Progress::Done)),
        (format!("{text}data: oh dear\n\n"), None, Err("Stream ended without a finish reason: oh dear")),
        (format!("{text}oh dear"), None, Err("Stream ended without a finish reason: oh dear")),
    ] {
        let (outcome, progress) = read_parts(Api::GoogleGenerativeAi, Parts(vec![body.clone().into_bytes()], end));
        assert_eq!(outcome.message.text(), "hello");
        let result = match &outcome.message.error_message {
            Some(text) => Err(text.as_str()),
            None => progress.ok_or("it ended"),
        };
        assert_eq!(result, expected, "{body} {end:?}");
    }
    let cancel = Cancel::new();
    cancel.cancel();
    let model = Model { api: Api::GoogleGenerativeAi, ..test_model() };
    let request = test_request(&model, &[]);
    let mut decoder = (provider_apis::protocol(model.api).expect("an API").decoder)(&model);
    let mut recorder = Recorder::default();
    let mut answer = Answer::new(&request, &mut recorder);
    let result = read(&mut Events::new(text.as_bytes()), &mut *decoder, &mut answer, &cancel);
    assert_eq!(result.map_err(|failed| failed.text), Err(ABORTED.to_string()));
}

#[test]
fn an_answer_without_end_is_cut_at_a_limit() {
    let text = "x".repeat(1 << 20);
    let event = |delta: String| format!("data: {{\"type\":\"content_block_delta\",\"index\":0,\"delta\":{delta}}}\n\n");
    let start =
        |block: &str| format!("data: {{\"type\":\"content_block_start\",\"index\":0,\"content_block\":{block}}}\n\n");
    for (first, event) in [
        (String::new(), event(format!("{{\"text\":\"{text}\"}}"))),
        (start("{\"type\":\"thinking\"}"), event(format!("{{\"signature\":\"{text}\"}}"))),
        (
            start("{\"type\":\"tool_use\",\"id\":\"a\",\"name\":\"t\"}"),
            event(format!("{{\"partial_json\":\"{text}\"}}")),
        ),
        (String::new(), start("{\"type\":\"text\"}").repeat(1 << 10)),
    ] {
        let stream = first + &event.repeat(18);
        let parts = stream.as_bytes().chunks(32 << 10).map(<[u8]>::to_vec).collect();
        let (outcome, progress) = read_parts(Api::AnthropicMessages, Parts(parts, Some(ErrorKind::Other)));
        assert_eq!((outcome.message.stop_reason, progress), (StopReason::Length, Some(Progress::More)));
        let kept = serde_json::to_string(&outcome.message).expect("JSON").len();
        assert!(kept < 18 << 20, "{kept}");
    }
}
