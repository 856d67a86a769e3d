//! Counts of values by their size.

use super::page::Page;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Upper ends of the groups in which values are counted, beside the last one, which has none.
const GROUPS: usize = 14;

/// How values are grouped.
pub(super) struct Scale {
    /// The upper ends, in the unit in which values are observed.
    bounds: [u64; GROUPS],
    /// So many of that unit are one of the unit in which they are shown.
    unit: f64,
}

/// Times of operations, observed in microseconds and shown in seconds: the groups of the OpenTelemetry conventions, from 10 ms
/// to 82 s.
pub(super) const TIME: Scale = Scale { bounds: powers(10_000, 2), unit: 1e6 };
/// Tokens: the groups of the OpenTelemetry conventions, from 1 to 67 million.
pub(super) const TOKENS: Scale = Scale { bounds: powers(1, 4), unit: 1.0 };
/// Waits for a disk, observed in microseconds and shown in seconds, from 0.25 ms to 2 s.
pub(super) const DISK: Scale = Scale { bounds: powers(250, 2), unit: 1e6 };

const fn powers(first: u64, base: u64) -> [u64; GROUPS] {
    let mut bounds = [first; GROUPS];
    let mut at = 1;
    while at < GROUPS {
        bounds[at] = bounds[at - 1] * base;
        at += 1;
    }
    bounds
}

#[derive(Debug, Default)]
pub(super) struct Histogram {
    groups: [AtomicU64; GROUPS + 1],
    sum: AtomicU64,
}

impl Histogram {
    pub(super) const fn new() -> Histogram {
        Histogram { groups: [const { AtomicU64::new(0) }; GROUPS + 1], sum: AtomicU64::new(0) }
    }

    pub(super) fn observe(&self, scale: &Scale, value: u64) {
        let group = scale.bounds.iter().position(|bound| value <= *bound).unwrap_or(GROUPS);
        if let Some(group) = self.groups.get(group) {
            group.fetch_add(1, Relaxed);
        }
        self.sum.fetch_add(value, Relaxed);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.groups.iter().all(|group| group.load(Relaxed) == 0)
    }

    pub(super) fn write(&self, page: &mut Page, name: &str, labels: &[(&str, &str)], scale: &Scale) {
        let mut count = 0;
        let bucket = format!("{name}_bucket");
        let mut line = |end: &str, count: u64| {
            page.sample(&bucket, &[labels, &[("le", end)]].concat(), count as f64);
        };
        for (group, bound) in self.groups.iter().zip(scale.bounds) {
            count += group.load(Relaxed);
            line(&(bound as f64 / scale.unit).to_string(), count);
        }
        count += self.groups.last().map_or(0, |group| group.load(Relaxed));
        line("+Inf", count);
        page.sample(&format!("{name}_sum"), labels, self.sum.load(Relaxed) as f64 / scale.unit);
        page.sample(&format!("{name}_count"), labels, count as f64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_count_all_that_is_not_larger() {
        let histogram = Histogram::default();
        assert!(histogram.is_empty());
        for value in [0, 1, 2, 4, 5, 67_108_864, 67_108_865] {
            histogram.observe(&TOKENS, value);
        }
        let mut page = Page::default();
        histogram.write(&mut page, "x", &[("a", "b")], &TOKENS);
        let text = page.text();
        for line in [
            "x_bucket{a=\"b\",le=\"1\"} 2",
            "x_bucket{a=\"b\",le=\"4\"} 4",
            "x_bucket{a=\"b\",le=\"16\"} 5",
            "x_bucket{a=\"b\",le=\"67108864\"} 6",
            "x_bucket{a=\"b\",le=\"+Inf\"} 7",
            "x_sum{a=\"b\"} 134217741",
            "x_count{a=\"b\"} 7",
        ] {
            assert!(text.lines().any(|there| there == line), "{line}: {text}");
        }
        assert_eq!(TIME.bounds.last().map(|end| *end as f64 / TIME.unit), Some(81.92));
    }
}
