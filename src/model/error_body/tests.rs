use super::*;
use serde_json::json;

/// The status and the text of a body.
fn read(raw: &str) -> (Option<u16>, Option<String>) {
    let body = ErrorBody::read(raw);
    (body.status, body.text)
}

#[test]
fn bodies_of_the_world() {
    for (raw, status, text) in [
        // Anthropic.
        (
            r#"{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"},"request_id":"r"}"#,
            Some(529),
            "Overloaded (overloaded_error)",
        ),
        (
            r#"{"type":"invalid_request_error","message":"Unsupported foo"}"#,
            Some(400),
            "Unsupported foo (invalid_request_error)",
        ),
        (r#"{"type":"billing_error","message":"m"}"#, Some(402), "m (billing_error)"),
        (r#"{"type":"timeout_error","message":"m"}"#, Some(504), "m (timeout_error)"),
        (r#"{"type":"request_too_large","message":"m"}"#, Some(413), "m (request_too_large)"),
        // OpenAI, and those like it.
        (
            r#"{"error":{"message":"Slow down","type":"tokens","param":null,"code":"rate_limit_exceeded"}}"#,
            Some(429),
            "Slow down (rate_limit_exceeded, tokens)",
        ),
        (
            r#"{"error":{"message":"pay","type":"insufficient_quota","code":"insufficient_quota"}}"#,
            Some(429),
            "pay (insufficient_quota)",
        ),
        (
            r#"{"message":"m","type":"invalid_request_error","code":"invalid_api_key"}"#,
            Some(401),
            "m (invalid_api_key, invalid_request_error)",
        ),
        (r#"{"message":"m","type":"server_error","code":null}"#, Some(500), "m (server_error)"),
        (r#"{"message":"m","code":"server_is_overloaded"}"#, Some(503), "m (server_is_overloaded)"),
        (
            r#"{"type":"error","sequence_number":2,"error":{"type":"invalid_request_error","code":"invalid_prompt","message":"Unsupported foo","param":null}}"#,
            Some(400),
            "Unsupported foo (invalid_prompt, invalid_request_error)",
        ),
        // Azure.
        (
            r#"{"error":{"code":"429","message":"Please retry after 26 seconds."}}"#,
            Some(429),
            "Please retry after 26 seconds.",
        ),
        (r#"{"statusCode":401,"message":"Access denied"}"#, Some(401), "Access denied"),
        // Google: an object, a list around it.
        (
            r#"{"error":{"code":503,"message":"overloaded","status":"UNAVAILABLE"}}"#,
            Some(503),
            "overloaded (UNAVAILABLE)",
        ),
        (
            r#"[{"error":{"code":400,"message":"Unsupported foo","status":"INVALID_ARGUMENT"}}]"#,
            Some(400),
            "Unsupported foo (INVALID_ARGUMENT)",
        ),
        (r#"{"code":8,"message":"m","status":"RESOURCE_EXHAUSTED"}"#, Some(429), "m (8, RESOURCE_EXHAUSTED)"),
        // OpenRouter.
        (
            r#"{"error":{"message":"Provider returned error","code":429,"metadata":{"raw":"x is rate-limited upstream","provider_name":"P"}}}"#,
            Some(429),
            "Provider returned error: x is rate-limited upstream",
        ),
        (
            r#"{"message":"Provider returned error","code":400,"metadata":{"raw":"{\"error\":{\"message\":\"too long\",\"type\":\"model_error\"}}"}}"#,
            Some(400),
            "Provider returned error: too long (model_error)",
        ),
        (
            r#"{"error":{"code":"upstream_error","message":{"error":{"message":"inner"}}}}"#,
            Some(502),
            "inner (upstream_error)",
        ),
        // vLLM, llama.cpp, Ollama, FastAPI, LiteLLM.
        (
            r#"{"object":"error","message":"m","type":"BadRequestError","param":null,"code":400}"#,
            Some(400),
            "m (BadRequestError)",
        ),
        (r#"{"object":"error","message":"m","type":"NotFoundError"}"#, Some(404), "m (NotFoundError)"),
        (r#"{"error":"model 'x' not found"}"#, None, "model 'x' not found"),
        (r#"{"detail":"Not authenticated"}"#, None, "Not authenticated"),
        (
            r#"{"detail":[{"loc":["body"],"msg":"field required","type":"value_error.missing"}]}"#,
            None,
            "field required (value_error.missing)",
        ),
        (
            r#"{"error":{"message":"litellm.RateLimitError: x","type":"throttling_error","code":"429"}}"#,
            Some(429),
            "litellm.RateLimitError: x (throttling_error)",
        ),
        // Bedrock and its gateways.
        (
            r#"{"__type":"ThrottlingException","message":"Too many tokens"}"#,
            Some(429),
            "Too many tokens (ThrottlingException)",
        ),
        (r#"{"__type":"com.amazon#ValidationException","Message":"m"}"#, None, "m (com.amazon#ValidationException)"),
        // DeepSeek, Z.ai, DashScope, Cloudflare.
        (
            r#"{"error":{"message":"Insufficient Balance","type":"unknown_error","code":"invalid_request_error"}}"#,
            Some(400),
            "Insufficient Balance (invalid_request_error, unknown_error)",
        ),
        (r#"{"error":{"code":"1308","message":"Usage limit"}}"#, None, "Usage limit (1308)"),
        (
            r#"{"code":"Throttling","message":"Requests throttling triggered"}"#,
            Some(429),
            "Requests throttling triggered (Throttling)",
        ),
        (r#"{"success":false,"errors":[{"code":7003,"message":"no route"}],"messages":[]}"#, None, "no route (7003)"),
        (r#"{"choices":null,"base_resp":{"status_code":1004,"status_msg":"login fail"}}"#, None, "login fail (1004)"),
        // Texts alone, escapes, an event as the body.
        (r#""overloaded""#, None, "overloaded"),
        (r#"{"error":{"message":"\u4f60\u597d\n2"}}"#, None, "你好\n2"),
        ("event: error\ndata: {\"error\":{\"message\":\"m\",\"code\":404}}\n\n", Some(404), "m"),
    ] {
        assert_eq!(read(raw), (status, Some(text.to_string())), "{raw}");
    }
}

#[test]
fn other_bodies_say_nothing() {
    for raw in
        ["", "<html>502 Bad Gateway</html>", "{", "{}", "[]", "null", "7", r#"{"error":null}"#, r#"{"error":""}"#]
    {
        assert_eq!(read(raw), (None, None), "{raw}");
    }
    let deep = format!("{}\"x\"{}", r#"{"error":"#.repeat(100), "}".repeat(100));
    assert_eq!(read(&deep), (None, None));
}

#[test]
fn what_is_kept_of_a_body_has_bounds() {
    let nested = |depth: usize| format!("{}\"x\"{}", r#"{"error":"#.repeat(depth), "}".repeat(depth));
    assert_eq!(read(&nested(MAX_DEPTH)), (None, Some("x".to_string())));
    assert_eq!(read(&nested(MAX_DEPTH + 1)), (None, None));
    let errors: Vec<_> =
        (0..10 * MAX_PIECES).map(|n| json!({"message": format!("<{n}>"), "code": format!("k{n}")})).collect();
    let text = ErrorBody::read(&json!({ "errors": errors }).to_string()).text.expect("it has words");
    assert_eq!((text.matches('<').count(), text.matches('k').count()), (MAX_PIECES, MAX_PIECES));
    assert_eq!(quoted("é".repeat(2 * MAX_ERROR_CHARS).as_bytes()).chars().count(), MAX_ERROR_CHARS);
}
