//! Figures by labels whose values come from outside: so many values have figures of their own, and all others share one.

use super::histogram::{Histogram, TIME, TOKENS};
use super::micros;
use super::page::Page;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Values with figures of their own.
const OWN: usize = 32;
/// How much of a value is kept, characters.
const LENGTH: usize = 80;
const OTHER: &str = "other";

/// How an operation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Done,
    Failed,
    /// Somebody ended it.
    Cancelled,
}

/// What a request to a model took.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tokens {
    pub input: u64,
    pub output: u64,
    pub cache_read: u64,
    pub cache_write: u64,
    /// US dollars.
    pub cost: f64,
}

/// The figures of one value.
#[derive(Debug, Default)]
pub(super) struct Series {
    labels: [String; 2],
    /// In the order of [`Outcome`].
    durations: [Histogram; 3],
    first_chunks: Histogram,
    /// Tokens in and out of each request.
    usage: [Histogram; 2],
    tokens: [AtomicU64; 4],
    /// Billionths of a US dollar.
    cost: AtomicU64,
}

impl Series {
    pub(super) fn observe(&self, outcome: Outcome, time: Duration) {
        if let Some(durations) = self.durations.get(outcome as usize) {
            durations.observe(&TIME, micros(time));
        }
    }

    pub(super) fn observe_first_chunk(&self, time: Duration) {
        self.first_chunks.observe(&TIME, micros(time));
    }

    pub(super) fn add(&self, tokens: &Tokens) {
        let Tokens { input, output, cache_read, cache_write, cost } = *tokens;
        let all_input = input + cache_read + cache_write;
        for (histogram, tokens) in self.usage.iter().zip([all_input, output]).filter(|_| all_input + output > 0) {
            histogram.observe(&TOKENS, tokens);
        }
        for (sum, tokens) in self.tokens.iter().zip([input, output, cache_read, cache_write]) {
            sum.fetch_add(tokens, Relaxed);
        }
        self.cost.fetch_add((cost.max(0.0) * 1e9).round() as u64, Relaxed);
    }

    /// US dollars.
    pub(super) fn cost(&self) -> f64 {
        self.cost.load(Relaxed) as f64 / 1e9
    }

    pub(super) fn write_durations(&self, page: &mut Page, name: &str, labels: &[(&str, &str)]) {
        let errors: [&[(&str, &str)]; 3] = [&[], &[("error_type", "error")], &[("error_type", "cancelled")]];
        for (histogram, error) in self.durations.iter().zip(errors).filter(|(histogram, _)| !histogram.is_empty()) {
            histogram.write(page, name, &[labels, error].concat(), &TIME);
        }
    }

    pub(super) fn write_first_chunks(&self, page: &mut Page, name: &str, labels: &[(&str, &str)]) {
        if !self.first_chunks.is_empty() {
            self.first_chunks.write(page, name, labels, &TIME);
        }
    }

    pub(super) fn write_usage(&self, page: &mut Page, name: &str, labels: &[(&str, &str)]) {
        for (histogram, kind) in self.usage.iter().zip(["input", "output"]).filter(|(usage, _)| !usage.is_empty()) {
            histogram.write(page, name, &[labels, &[("gen_ai_token_type", kind)]].concat(), &TOKENS);
        }
    }

    pub(super) fn write_tokens(&self, page: &mut Page, name: &str, labels: &[(&str, &str)]) {
        for (sum, kind) in self.tokens.iter().zip(["input", "output", "cache_read", "cache_write"]) {
            page.sample(name, &[labels, &[("kind", kind)]].concat(), sum.load(Relaxed) as f64);
        }
    }
}

/// The figures of all values, in the order in which they came.
pub(super) struct Table {
    own: [OnceLock<Box<Series>>; OWN],
    other: OnceLock<Box<Series>>,
}

impl Table {
    pub(super) const fn new() -> Table {
        Table { own: [const { OnceLock::new() }; OWN], other: OnceLock::new() }
    }

    /// The figures of this value, or of all others.
    pub(super) fn of(&self, labels: [&str; 2]) -> &Series {
        let labels = labels.map(cut);
        let made = || Box::new(Series { labels: labels.map(str::to_owned), ..Series::default() });
        // Who comes first gets the place, and whoever meant it as well looks again.
        let mut places = self.own.iter().map(|place| place.get_or_init(made));
        let own = places.find(|series| series.labels.iter().zip(labels).all(|(label, wanted)| label == wanted));
        own.unwrap_or_else(|| {
            let other = labels.map(|label| if label.is_empty() { String::new() } else { OTHER.to_owned() });
            self.other.get_or_init(|| Box::new(Series { labels: other, ..Series::default() }))
        })
    }

    pub(super) fn each(&self, mut look: impl FnMut([&str; 2], &Series)) {
        for series in self.own.iter().chain([&self.other]).filter_map(OnceLock::get) {
            let [first, second] = &series.labels;
            look([first, second], series);
        }
    }
}

/// The beginning of a text.
fn cut(text: &str) -> &str {
    text.char_indices().nth(LENGTH).map_or(text, |(end, _)| &text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_has_one_place_whoever_comes_first() {
        let table = Table::new();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for at in 0..64 {
                        table.of([&format!("m{}", at % 8), ""]).observe(Outcome::Done, Duration::from_millis(1));
                    }
                });
            }
        });
        let mut page = Page::default();
        let mut names = Vec::new();
        table.each(|[name, _], series| {
            names.push(name.to_owned());
            series.write_durations(&mut page, "x", &[("n", name)]);
        });
        names.sort();
        assert_eq!(names, ["m0", "m1", "m2", "m3", "m4", "m5", "m6", "m7"]);
        for name in names {
            assert_eq!(page.document()[format!("x_count{{n=\"{name}\"}}")], 64.0, "{name}");
        }
    }

    #[test]
    fn long_values_are_cut() {
        let table = Table::new();
        table.of([&"ä".repeat(1000), ""]);
        table.each(|[name, _], _| assert_eq!(name, "ä".repeat(LENGTH)));
    }
}
