//! The days of people on this machine, which begin at their midnight.

use crate::files;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use std::path::Path;

/// Where the system keeps the zones that `TZ` can name, and the one that holds where that names none.
const ZONES: &str = "/usr/share/zoneinfo";
const LOCAL: &str = "/etc/localtime";
/// The largest file of a zone that is read, in bytes; real ones have less than a tenth of it.
const MAX_FILE: u64 = 64 * 1024;

/// The zone of this machine, or UTC where it has none that can be read.
pub(super) fn local_zone() -> TimeZone {
    zone(std::env::var("TZ").ok().as_deref()).unwrap_or(TimeZone::UTC)
}

/// What `TZ` says: the name of a file below the zones, or the rules themselves in the notation of POSIX.
fn zone(name: Option<&str>) -> Option<TimeZone> {
    let Some(name) = name else { return read(Path::new(LOCAL)) };
    let name = name.trim_start_matches(':');
    let is_name = !name.is_empty() && !name.split('/').any(|part| part == "..");
    is_name.then(|| read(&Path::new(ZONES).join(name))).flatten().or_else(|| TimeZone::posix(name).ok())
}

fn read(path: &Path) -> Option<TimeZone> {
    let data = files::read(path, MAX_FILE).ok()?;
    TimeZone::tzif(&path.to_string_lossy(), &data).ok()
}

/// The date of a moment (Unix time in milliseconds), such as `2026-11-28`.
pub(super) fn date(zone: &TimeZone, unix_ms: i64) -> String {
    let timestamp = Timestamp::from_millisecond(unix_ms).unwrap_or(Timestamp::UNIX_EPOCH);
    zone.to_datetime(timestamp).date().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::parse_time;

    #[test]
    fn days_begin_at_local_midnight_whatever_the_clocks_do() {
        // Central European Time: summer time from the last Sunday of March, 02:00, to that of October, 03:00.
        let zone = zone(Some("CET-1CEST,M3.5.0,M10.5.0/3")).expect("rules");
        for (moment, expected) in [
            ("2026-03-28T22:59:59Z", "2026-03-28"),
            ("2026-03-28T23:00:00Z", "2026-03-29"),
            // That day has 23 hours.
            ("2026-03-29T21:59:59Z", "2026-03-29"),
            ("2026-03-29T22:00:00Z", "2026-03-30"),
            ("2026-10-24T21:59:59Z", "2026-10-24"),
            ("2026-10-24T22:00:00Z", "2026-10-25"),
            // And that one 25.
            ("2026-10-25T22:59:59Z", "2026-10-25"),
            ("2026-10-25T23:00:00Z", "2026-10-26"),
            ("1970-01-01T00:00:00Z", "1970-01-01"),
        ] {
            assert_eq!(date(&zone, parse_time(moment).expect("a time")), expected, "{moment}");
        }
        assert_eq!(date(&TimeZone::UTC, i64::MAX), "1970-01-01");
    }

    #[test]
    fn zones_are_named_or_spelled_out() {
        for (name, has_zone) in [
            ("UTC0", true),
            ("", false),
            ("../../etc/passwd", false),
            ("No/Such", false),
            (":EST5EDT,M3.2.0,M11.1.0", true),
        ] {
            assert_eq!(zone(Some(name)).is_some(), has_zone, "{name}");
        }
    }
}
