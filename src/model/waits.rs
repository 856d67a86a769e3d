//! The waits that servers ask for: in headers, in the fields of an error's body, and in its words.

use std::time::Duration;

/// Longer waits than this mean "not today", and are as good as any number.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// What `value` seconds are, where that is a wait at all.
fn seconds(value: f64) -> Option<Duration> {
    Duration::try_from_secs_f64(value).ok().map(|wait| wait.min(LONGEST))
}

fn number(text: &str) -> Option<f64> {
    text.trim().parse::<f64>().ok().filter(|n| *n >= 0.0)
}

fn until(date: jiff::Timestamp, now: jiff::Timestamp) -> Duration {
    Duration::try_from(date.duration_since(now)).unwrap_or_default().min(LONGEST)
}

/// The wait that the headers of a response ask for. `header` finds a header's value by its name.
pub(super) fn in_headers<'a>(header: impl Fn(&str) -> Option<&'a str>, now: jiff::Timestamp) -> Option<Duration> {
    if let Some(millis) = header("retry-after-ms").and_then(number) {
        return seconds(millis / 1000.0);
    }
    let value = header("retry-after")?;
    // Seconds, a date (which counts as now if it is past), or `1m30s` of servers that know no better.
    if let Some(value) = number(value) {
        return seconds(value);
    }
    let date = jiff::fmt::rfc2822::parse(value.trim()).ok();
    date.map(|date| until(date.timestamp(), now)).or_else(|| duration(value.trim(), false))
}

/// The ends of the names of headers with limits, in the order of the services that send them: OpenAI and those like it,
/// OpenRouter and GitHub.
const LIMITS: &[&str] = &["-requests", "-tokens", ""];

/// When the limit of requests or tokens ends that the headers of a refusal show as used up. It counts only there: the
/// headers come with every response, and those of the limits that are not reached say nothing.
pub(super) fn until_reset<'a>(header: impl Fn(&str) -> Option<&'a str>, now: jiff::Timestamp) -> Option<Duration> {
    let ends = LIMITS.iter().filter_map(|limit| {
        let left = header(&format!("x-ratelimit-remaining{limit}")).and_then(number);
        let reset = header(&format!("x-ratelimit-reset{limit}"))?.trim();
        if left != Some(0.0) {
            return None;
        }
        match number(reset) {
            // Seconds or milliseconds of Unix time; no wait is that long.
            Some(time) if time > 1e11 => Some(until(jiff::Timestamp::from_millisecond(time as i64).ok()?, now)),
            Some(time) if time > 1e8 => Some(until(jiff::Timestamp::from_second(time as i64).ok()?, now)),
            Some(wait) => seconds(wait),
            None => duration(reset, false),
        }
    });
    ends.max()
}

/// Before a wait in the words or fields of an error, in lower case. Those of the first list are of the request, those of the
/// second of the limit, which may last longer than the request has to wait.
const RETRY: &[&str] = &[
    "try again in",
    "try again after",
    "retry in",
    "retry after",
    "retry again in",
    "retry again after",
    "retry_after",
    "retry-after",
    "retryafter",
    "retry delay",
    "retry_delay",
    "retrydelay",
    "please wait",
    "wait for",
];
const RESET: &[&str] =
    &["reset after", "resets after", "reset in", "resets in", "resets_in", "reset_in", "resetdelay", "available in"];
/// Between these and the number.
const FILLERS: &[&str] =
    &["_seconds", "_secs", "seconds", "about", "approximately", "around", "another", "at least", "for"];

/// The wait that the words or fields of an error ask for: `Please try again in 7m12.5s`, `"retryDelay": "34s"`,
/// `retry after 10 seconds`, `"retry_after_ms": 1500`. The longest one counts where there are several, since they are the
/// same wait in other precisions.
pub(super) fn in_words(text: &str) -> Option<Duration> {
    let text = text.to_lowercase();
    let longest = |phrases: &[&str]| {
        let waits =
            phrases.iter().flat_map(|phrase| text.match_indices(phrase).map(|(at, _)| &text[at + phrase.len()..]));
        waits.filter_map(behind_phrase).max()
    };
    longest(RETRY).or_else(|| longest(RESET))
}

/// The wait that the body of an error asks for, where an error of that status goes by with time. Elsewhere its words are of
/// something else.
pub(super) fn in_error(status: Option<u16>, body: &str) -> Option<Duration> {
    matches!(status, None | Some(402 | 403 | 408 | 409 | 425 | 429 | 499..)).then(|| in_words(body)).flatten()
}

fn behind_phrase(rest: &str) -> Option<Duration> {
    let (mut rest, millis) = match ["_ms", "ms", "_millis"].iter().find_map(|unit| rest.strip_prefix(unit)) {
        Some(rest) => (rest, true),
        None => (rest, false),
    };
    loop {
        rest = rest.trim_start_matches([' ', ':', '"', '\'', '\\', '=', '~', '(', '{', '*', '\n']);
        match FILLERS.iter().find_map(|filler| rest.strip_prefix(filler)) {
            Some(behind) => rest = behind,
            None => return duration(rest, millis),
        }
    }
}

/// Units by their names, in seconds.
const UNITS: &[(&[&str], f64)] = &[
    (&["ms", "msec", "msecs", "millisecond", "milliseconds"], 0.001),
    (&["s", "sec", "secs", "second", "seconds"], 1.0),
    (&["m", "min", "mins", "minute", "minutes"], 60.0),
    (&["h", "hr", "hrs", "hour", "hours"], 3600.0),
    (&["d", "day", "days"], 86_400.0),
];

/// The duration that a text begins with: `1s`, `6m0s`, `1 hour 5 minutes`. A number alone is seconds, or milliseconds if
/// `millis`, unless a word follows it: "in 3 attempts" is no wait.
fn duration(text: &str, millis: bool) -> Option<Duration> {
    let (mut rest, mut total, mut parts) = (text, 0.0, 0);
    loop {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (value, behind) = rest.split_at(digits);
        // A sentence's end is no part of its last number.
        let Some(value) = number(value.trim_end_matches('.')) else { break };
        let behind = behind.trim_start_matches(' ');
        let letters = behind.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(behind.len());
        let (word, next) = behind.split_at(letters);
        let unit = UNITS.iter().find(|(names, _)| names.contains(&word)).map(|(_, unit)| *unit);
        match unit {
            Some(unit) => total += value * unit,
            None if parts == 0 && word.is_empty() => return seconds(if millis { value / 1000.0 } else { value }),
            None => break,
        }
        parts += 1;
        rest = next.trim_start_matches([' ', ',']);
        rest = rest.strip_prefix("and ").unwrap_or(rest);
    }
    if parts > 0 { seconds(total) } else { None }
}

#[cfg(test)]
mod tests;
