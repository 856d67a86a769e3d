//! The time of day, and how it is written.

use std::time::{SystemTime, UNIX_EPOCH};

/// Unix time in milliseconds.
pub(crate) fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// RFC 3339 in UTC with milliseconds, such as `2026-01-02T03:04:05.678Z`; empty for years that no calendar has.
pub(crate) fn iso_time(unix_ms: i64) -> String {
    jiff::Timestamp::from_millisecond(unix_ms).map(|t| format!("{t:.3}")).unwrap_or_default()
}

/// Reads RFC 3339 with a zone, as Unix time in milliseconds.
pub(crate) fn parse_time(text: &str) -> Option<i64> {
    text.parse::<jiff::Timestamp>().ok().map(jiff::Timestamp::as_millisecond)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_the_session_files_have_them() {
        assert_eq!(iso_time(1_700_000_000_120), "2023-11-14T22:13:20.120Z");
        assert_eq!(iso_time(i64::MAX), "");
    }

    #[test]
    fn times_are_read_with_any_zone_and_precision() {
        for (text, expected) in [
            ("1970-01-01T00:00:00Z", Some(0)),
            ("2023-11-14T22:13:20.120Z", Some(1_700_000_000_120)),
            ("2023-11-15T00:13:20.1209+02:00", Some(1_700_000_000_120)),
            ("1969-12-31T23:59:59.999Z", Some(-1)),
            ("2023-11-14T22:13:20", None),
            ("2023-02-29T00:00:00Z", None),
            ("", None),
        ] {
            assert_eq!(parse_time(text), expected, "{text}");
        }
    }
}
