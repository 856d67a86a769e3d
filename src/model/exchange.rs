//! One request over HTTP, and its answer as a stream of events.

use super::answer::Answer;
use super::credentials::Authorization;
use super::error_body::{ErrorBody, quoted};
use super::http::{Http, HttpError, Response, Timeouts};
use super::protocol::{Decoder, HttpRequest, Progress};
use super::reading::{self, Source};
use super::request::{Failure, RequestError};
use super::secret_value::Secret;
use super::sse::Events;
use super::throttle::{Account, Throttle, too_long};
use super::waits;
use crate::cancel::Cancel;
use crate::transcript::StopReason;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// When a refused request is sent again before anybody hears of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct RetryPolicy {
    pub max_retries: u32,
    /// The longest wait that a server may ask for.
    pub longest_wait: Duration,
}

/// A request with all it takes to send it.
pub(super) struct Exchange<'a> {
    pub http: &'a Arc<Http>,
    pub throttle: &'a Throttle,
    pub http_request: &'a HttpRequest,
    pub authorization: &'a Authorization,
    pub timeouts: Timeouts,
    pub policy: RetryPolicy,
    pub cancel: &'a Cancel,
}

impl Exchange<'_> {
    /// Sends the request and feeds the answer to the decoder.
    pub(super) fn run(&self, decoder: &mut dyn Decoder, answer: &mut Answer<'_>) -> Result<StopReason, RequestError> {
        let result = self.accepted().and_then(|response| {
            answer.accepted();
            self.stream(response, decoder, answer)
        });
        if self.cancel.is_cancelled() && result.is_err() {
            return Err(RequestError::aborted());
        }
        result.map_err(|failed| RequestError { text: redact(failed.text, self.authorization), ..failed })
    }

    /// Sends the request until it is accepted, as often as the policy allows.
    fn accepted(&self) -> Result<Response, RequestError> {
        let secret = self.authorization.secret.as_ref().map_or("", Secret::reveal);
        let account = Account::new(&self.http_request.url, secret);
        let longest = self.policy.longest_wait;
        let mut attempt = 0;
        loop {
            self.throttle.wait(account, longest, self.cancel)?;
            let FailedAttempt { error, retryable } = match self.post() {
                Ok(response) => {
                    self.throttle.accepted(account, Instant::now());
                    return Ok(response);
                }
                Err(attempt) => attempt,
            };
            let Failure { status, retry_after, .. } = error.facts;
            if matches!(status, Some(429 | 503 | 529)) {
                self.throttle.refused(account, retry_after, Instant::now());
            }
            if let Some(asked) = retry_after.filter(|asked| *asked > longest) {
                let text = too_long(asked, longest, &error.text);
                return Err(RequestError { text, ..error });
            }
            if !retryable || attempt >= self.policy.max_retries {
                return Err(error);
            }
            if self.cancel.sleep(retry_after.unwrap_or_else(|| backoff(attempt, fastrand::f64()))) {
                return Err(RequestError::aborted());
            }
            attempt += 1;
        }
    }

    fn post(&self) -> Result<Response, FailedAttempt> {
        let HttpRequest { url, headers, body } = self.http_request;
        let posted = self.http.post(url, headers, body, self.timeouts, self.cancel);
        let response = posted.map_err(|error| {
            let text = error.to_string();
            let (retryable, error) = match error {
                HttpError::Connection(_) | HttpError::TimedOut(_) => (true, RequestError::lost(text)),
                HttpError::Cancelled => (false, RequestError::aborted()),
                HttpError::Invalid(_) | HttpError::Tls(_) => (false, RequestError::new(text)),
            };
            FailedAttempt { error, retryable }
        })?;
        if (200..300).contains(&response.status) { Ok(response) } else { Err(refused(response)) }
    }

    fn stream(
        &self,
        response: Response,
        decoder: &mut dyn Decoder,
        answer: &mut Answer<'_>,
    ) -> Result<StopReason, RequestError> {
        let mut events = Events::new(response);
        let (stop, progress) = reading::read(&mut events, decoder, answer, self.cancel)?;
        if progress == Progress::Done {
            events.into_reader().complete();
        }
        Ok(stop)
    }
}

/// An attempt at a request that was not accepted.
struct FailedAttempt {
    error: RequestError,
    /// The request may be sent again.
    retryable: bool,
}

/// How long an answer that is whole is waited for to end, so that what follows a reason to stop is not lost where there is
/// more, and nobody waits for a server that keeps the connection open. Longer than the pauses in answers whose every piece
/// names the reason.
const END_TIMEOUT: Duration = Duration::from_secs(6);

impl Source for Response {
    fn expect_end(&self) {
        self.limit_until(Instant::now() + END_TIMEOUT);
    }
}

/// The wait before another attempt, where the server asks for none; `random` is between 0 and 1.
fn backoff(attempt: u32, random: f64) -> Duration {
    Duration::from_secs_f64((0.5 * f64::from(1 << attempt.min(4))).min(8.0) * (1.0 - random * 0.25))
}

/// An answer with a status that says no.
fn refused(response: Response) -> FailedAttempt {
    let status = response.status;
    let retryable = match response.header("x-should-retry") {
        Some("true") => true,
        Some("false") => false,
        _ => matches!(status, 408 | 409 | 425 | 429 | 500..),
    };
    let now = jiff::Timestamp::now();
    let stated = waits::in_headers(|name| response.header(name), now);
    let reset = (status == 429).then(|| waits::until_reset(|name| response.header(name), now)).flatten();
    let body = response.into_error_body();
    let retry_after = stated.or_else(|| waits::in_error(Some(status), &body)).or(reset);
    let words = match body.trim() {
        "" => "status code (no body)".to_string(),
        body => quoted(ErrorBody::read(body).text.as_deref().unwrap_or(body).as_bytes()),
    };
    let facts = Failure { status: Some(status), retry_after, lost: false };
    FailedAttempt { retryable, error: RequestError { text: format!("{status}: {words}"), facts, aborted: false } }
}

/// Shorter values are no secrets, but what people write where a key is asked for and none is needed; bytes.
const MIN_SECRET: usize = 8;

/// The text without the secrets, which a server may have quoted.
fn redact(mut text: String, authorization: &Authorization) -> String {
    let configured = authorization.headers.iter().map(|(_, value)| value);
    for secret in authorization.secret.iter().chain(configured).map(Secret::reveal) {
        if secret.len() >= MIN_SECRET && text.contains(secret) {
            text = text.replace(secret, "[key]");
        }
        // The text may have been cut inside the secret.
        let mut parts = (MIN_SECRET..secret.len()).rev().filter_map(|length| secret.get(..length));
        if let Some(length) = parts.find(|part| text.ends_with(part)).map(str::len) {
            text.truncate(text.len() - length);
            text.push_str("[key]");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::credentials::Scheme;

    #[test]
    fn quoted_keys_are_taken_out() {
        let header = |value: &str| ("h".to_string(), Secret::new(value));
        let authorization = Authorization {
            secret: Some(Secret::new("sk-12345")),
            scheme: Scheme::Key,
            headers: vec![header("h-123456"), header("api")],
        };
        let text = "401: bad key sk-12345, h-123456 in api".to_string();
        assert_eq!(redact(text, &authorization), "401: bad key [key], [key] in api");
    }

    #[test]
    fn a_key_that_the_end_of_an_error_cuts_is_taken_out() {
        let secret = Some(Secret::new("sk-1234567890"));
        let authorization = Authorization { secret, scheme: Scheme::Key, headers: Vec::new() };
        for (end, expected) in [
            ("sk-1234567890", "[key]"),
            ("sk-123456789", "[key]"),
            ("sk-12345", "[key]"),
            // Shorter beginnings say nothing of the key.
            ("sk-1234", "sk-1234"),
            ("sk-12345.", "sk-12345."),
            ("é", "é"),
        ] {
            assert_eq!(redact(format!("401: bad {end}"), &authorization), format!("401: bad {expected}"));
        }
    }

    #[test]
    fn waits_between_attempts() {
        for (attempt, random, ms) in [(0, 0.0, 500), (1, 0.0, 1000), (4, 0.0, 8000), (99, 0.0, 8000), (1, 1.0, 750)] {
            assert_eq!(backoff(attempt, random), Duration::from_millis(ms));
        }
    }
}
