//! One request over HTTP, and its answer as a stream of events.

use super::Failure;
use super::answer::{Answer, Failed};
use super::http::{Http, HttpError, Patience, Response};
use super::protocol::{Decoder, MAX_ERROR_CHARS, Prepared, Progress};
use super::secret_value::Secret;
use super::sse::Events;
use crate::cancel::Cancel;
use crate::transcript::StopReason;
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

/// Sends the request and feeds the answer to the decoder.
pub fn run(
    http: &Arc<Http>,
    prepared: &Prepared,
    secret: Option<&Secret>,
    patience: Patience,
    cancel: &Cancel,
    decoder: &mut dyn Decoder,
    answer: &mut Answer<'_>,
) -> Result<StopReason, Failed> {
    let result = attempt(http, prepared, patience, cancel, decoder, answer);
    if cancel.is_cancelled() && result.is_err() {
        return Err(Failed::aborted());
    }
    result.map_err(|failed| Failed { text: conceal(failed.text, secret), ..failed })
}

fn attempt(
    http: &Arc<Http>,
    prepared: &Prepared,
    patience: Patience,
    cancel: &Cancel,
    decoder: &mut dyn Decoder,
    answer: &mut Answer<'_>,
) -> Result<StopReason, Failed> {
    let response = http.post(&prepared.url, &prepared.headers, &prepared.body, patience, cancel).map_err(failed)?;
    if !(200..300).contains(&response.status) {
        return Err(refused(response));
    }
    answer.accepted();
    let mut events = Events::new(response);
    loop {
        while let Some(event) = events.next() {
            if decoder.event(event, answer)? == Progress::Done {
                let stop = decoder.end(answer)?;
                events.into_reader().complete();
                return Ok(stop);
            }
        }
        answer.drained();
        match events.fill() {
            Ok(true) => {}
            Ok(false) => break,
            Err(_) if cancel.is_cancelled() => return Err(Failed::aborted()),
            // Some servers just hang up after the last event; whether that was it is for the decoder to say.
            Err(e) => return decoder.end(answer).map_err(|_| lost(&e)),
        }
    }
    if cancel.is_cancelled() {
        return Err(Failed::aborted());
    }
    if let Some(rest) = events.rest() {
        // A cut event is no event; that the end is missing is what `end` complains about.
        let _ = decoder.event(rest, answer);
    }
    decoder.end(answer)
}

fn failed(error: HttpError) -> Failed {
    Failed { aborted: error == HttpError::Cancelled, ..Failed::new(error.to_string()) }
}

fn lost(error: &std::io::Error) -> Failed {
    Failed::new(match error.kind() {
        ErrorKind::TimedOut => format!("Request timed out: {error}"),
        ErrorKind::InvalidData => format!("Unusable response: {error}"),
        _ => format!("Connection lost: {error}"),
    })
}

/// An answer with a status that says no.
fn refused(response: Response) -> Failed {
    let status = response.status;
    let retry_after =
        retry_after(response.header("retry-after-ms"), response.header("retry-after"), jiff::Timestamp::now());
    let body = response.into_error_body();
    let body = match body.trim() {
        "" => "status code (no body)".to_string(),
        body => body.chars().take(MAX_ERROR_CHARS).collect(),
    };
    let facts = Failure { status: Some(status), retry_after };
    Failed { text: format!("{status}: {body}"), facts, aborted: false }
}

/// The wait a server asks for: milliseconds, seconds, or a date (which is never in the past).
fn retry_after(millis: Option<&str>, value: Option<&str>, now: jiff::Timestamp) -> Option<Duration> {
    let number = |text: &str| text.trim().parse::<f64>().ok().filter(|n| *n >= 0.0);
    let seconds = |n: f64| Duration::try_from_secs_f64(n).ok();
    if let Some(wait) = millis.and_then(number).and_then(|n| seconds(n / 1000.0)) {
        return Some(wait);
    }
    let value = value?;
    if let Some(wait) = number(value).and_then(seconds) {
        return Some(wait);
    }
    let date = jiff::fmt::rfc2822::parse(value.trim()).ok()?.timestamp();
    Some(Duration::try_from(date.duration_since(now)).unwrap_or_default())
}

/// The text without the secret, which a server may have quoted.
fn conceal(text: String, secret: Option<&Secret>) -> String {
    match secret {
        Some(secret) if text.contains(secret.reveal()) => text.replace(secret.reveal(), "[key]"),
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_that_servers_ask_for() {
        let now = jiff::fmt::rfc2822::parse("Fri, 20 Nov 2026 10:00:00 GMT").expect("a date").timestamp();
        for (millis, value, expected) in [
            (None, None, None),
            (Some("1500"), Some("9"), Some(1.5)),
            (Some("x"), Some("9"), Some(9.0)),
            (None, Some(" 0.25 "), Some(0.25)),
            (None, Some("Fri, 20 Nov 2026 10:01:30 GMT"), Some(90.0)),
            (None, Some("Fri, 20 Nov 2026 09:00:00 GMT"), Some(0.0)),
            (None, Some("-5"), None),
            (None, Some("1e300"), None),
            (None, Some("soon"), None),
        ] {
            let wait = retry_after(millis, value, now).map(|d| d.as_secs_f64());
            assert_eq!(wait, expected, "{millis:?} {value:?}");
        }
    }

    #[test]
    fn quoted_keys_are_taken_out() {
        let secret = Secret::new("sk-1");
        assert_eq!(conceal("401: bad key sk-1!".to_string(), Some(&secret)), "401: bad key [key]!");
        assert_eq!(conceal("401".to_string(), None), "401");
    }
}
