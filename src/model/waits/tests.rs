use super::*;

fn now() -> jiff::Timestamp {
    jiff::fmt::rfc2822::parse("Fri, 20 Nov 2026 10:00:00 GMT").expect("a date").timestamp()
}

/// Finds headers in a list of names and values.
fn lookup<'a>(headers: &'a [(&'a str, &'a str)]) -> impl Fn(&str) -> Option<&'a str> {
    move |name| headers.iter().find(|(known, _)| *known == name).map(|(_, value)| *value)
}

#[test]
fn waits_in_headers() {
    for (millis, value, expected) in [
        (None, None, None),
        (Some("1500"), Some("9"), Some(1.5)),
        (Some("x"), Some("9"), Some(9.0)),
        (None, Some(" 0.25 "), Some(0.25)),
        (None, Some("1m30s"), Some(90.0)),
        (None, Some("Fri, 20 Nov 2026 10:01:30 GMT"), Some(90.0)),
        (None, Some("Fri, 20 Nov 2026 09:00:00 GMT"), Some(0.0)),
        (None, Some("-5"), None),
        (None, Some("1e300"), None),
        (None, Some("1e18"), Some(86_400.0)),
        (None, Some("Fri, 20 Nov 2099 10:01:30 GMT"), Some(86_400.0)),
        (None, Some("soon"), None),
    ] {
        let given = [("retry-after-ms", millis), ("retry-after", value)];
        let headers: Vec<(&str, &str)> = given.iter().filter_map(|(name, value)| Some((*name, (*value)?))).collect();
        let wait = in_headers(lookup(&headers), now()).map(|wait| wait.as_secs_f64());
        assert_eq!(wait, expected, "{millis:?} {value:?}");
    }
}

#[test]
fn limits_that_are_used_up_end_some_time() {
    let requests = |left, reset| [("x-ratelimit-remaining-requests", left), ("x-ratelimit-reset-requests", reset)];
    let plain = |left, reset| [("x-ratelimit-remaining", left), ("x-ratelimit-reset", reset)];
    let tokens = |left, reset| [("x-ratelimit-remaining-tokens", left), ("x-ratelimit-reset-tokens", reset)];
    for (headers, expected) in [
        (requests("0", "1s").to_vec(), Some(1.0)),
        (requests("0", "6m0s").to_vec(), Some(360.0)),
        (requests("0", "17.5ms").to_vec(), Some(0.0175)),
        (requests("3", "6m0s").to_vec(), None),
        (tokens("0", "12").to_vec(), Some(12.0)),
        (plain("0", "1795168810000").to_vec(), Some(10.0)),
        (plain("0", "1795168810").to_vec(), Some(10.0)),
        (plain("0", "1795168000").to_vec(), Some(0.0)),
        (plain("0", "soon").to_vec(), None),
        (vec![("x-ratelimit-reset", "5")], None),
        ([requests("0", "1s"), tokens("0", "3s")].concat(), Some(3.0)),
        ([requests("0", "1s"), tokens("9", "3s")].concat(), Some(1.0)),
    ] {
        let wait = until_reset(lookup(&headers), now()).map(|wait| wait.as_secs_f64());
        assert_eq!(wait, expected, "{headers:?}");
    }
}

#[test]
fn waits_in_words() {
    for (text, expected) in [
        // OpenAI, Groq.
        ("Limit 6000, Used 5034, Requested 1443. Please try again in 4.77s. Visit https://x/billing", Some(4.77)),
        ("Please try again in 20s.", Some(20.0)),
        ("Please try again in 7m12.5s.", Some(432.5)),
        ("Please try again in 1h0m5s", Some(3605.0)),
        ("Please try again in 6ms", Some(0.006)),
        ("Please try again in 1 day and 2 hours", Some(86_400.0)),
        // Azure.
        ("Please retry after 26 seconds. Please go here", Some(26.0)),
        ("Try again in 30 seconds", Some(30.0)),
        // Moonshot.
        ("max organization concurrency: 1, please try again after 1 seconds", Some(1.0)),
        // Gemini, its command line service, and gateways that quote it.
        ("Please retry in 58.934310785s.", Some(58.934_310_785)),
        (r#""@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"15s""#, Some(15.0)),
        (r#"\"retryDelay\": \"2.463586755s\""#, Some(2.463_586_755)),
        (r#""retryDelay": {"seconds": 34, "nanos": 74824224}"#, Some(34.0)),
        ("retryDelay\": \"1s\" Please retry in 1.2s", Some(1.2)),
        ("Your quota will reset after 18h20m30s.", Some(66_030.0)),
        (r#""quotaResetDelay":"2.5s""#, Some(2.5)),
        // Cloudflare, Discord, LiteLLM and others.
        (r#"{"retry_after":30}"#, Some(30.0)),
        (r#"{"retry_after_seconds": 1.5}"#, Some(1.5)),
        (r#"{"retry_after_ms": 1500}"#, Some(1.5)),
        (r#"{"retryAfter":"2"}"#, Some(2.0)),
        (r#"{"resets_in_seconds": 120}"#, Some(120.0)),
        ("Rate limit exceeded. Retry-After: 3", Some(3.0)),
        ("Please wait 10 seconds before the next request", Some(10.0)),
        ("try again in about 5 minutes", Some(300.0)),
        ("Limit resets in 2 min. Try again in 3 s", Some(3.0)),
        // None of these is a wait.
        ("Please try again later", None),
        ("try again in a few minutes", None),
        ("gave up: retry in 3 attempts", None),
        ("retry after", None),
        ("limit 10 per minute", None),
        ("", None),
    ] {
        let wait = in_words(text).map(|wait| wait.as_secs_f64());
        assert_eq!(wait, expected, "{text}");
    }
}
