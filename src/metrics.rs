//! Figures for those who operate the daemon, kept by everything that happens and read by whoever asks.
//!
//! To count is an atomic addition. How many series there are is bounded whatever happens: labels that anybody outside can
//! choose, such as models, have so many values and then `other`. Names are those of the OpenTelemetry conventions for
//! generative AI where they have one, written as Prometheus writes them, and `pi_exec_` in front of our own.

mod histogram;
mod page;
mod process;
mod series;

use histogram::{DISK, Histogram};
pub(crate) use page::{Kind, Page};
use series::Table;
pub(crate) use series::{Outcome, Tokens};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Everything that the process counts.
pub(crate) struct Metrics {
    models: Table,
    tools: Table,
    /// From the beginning of the work on a prompt to its end, by the reason of the end.
    prompts: Table,
    disk: Histogram,
    counts: [AtomicU64; COUNTS.len()],
}

pub(crate) static METRICS: Metrics = Metrics {
    models: Table::new(),
    tools: Table::new(),
    prompts: Table::new(),
    disk: Histogram::new(),
    counts: [const { AtomicU64::new(0) }; COUNTS.len()],
};

/// What is only counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Count {
    Retry,
    Compaction,
    /// The gate let a call run.
    Allowed,
    /// A rule denied a call.
    Denied,
    /// Somebody, or nobody in time, was asked about a call.
    Asked,
    /// A request was refused because of a budget.
    OverBudget,
    DroppedReply,
    DroppedEvent,
    DroppedNotice,
    DroppedClient,
}

/// Two texts that belong together: a name with its help, a label with its value.
type Pair = (&'static str, &'static str);

const RETRIES: Pair = ("pi_exec_model_retries_total", "Requests to models that were sent again.");
const COMPACTIONS: Pair = ("pi_exec_compactions_total", "Summaries that took the place of older messages.");
const VERDICTS: Pair = ("pi_exec_gate_verdicts_total", "What the gate said to calls of tools and to requests.");
const DROPPED: Pair =
    ("pi_exec_dropped_total", "What did not arrive: 0 unless a server or a client takes nothing any more.");

/// All of [`Count`] in its order: the family with its help, and the label that tells it from others of the family.
const COUNTS: [(Pair, Option<Pair>); 10] = [
    (RETRIES, None),
    (COMPACTIONS, None),
    (VERDICTS, Some(("verdict", "allowed"))),
    (VERDICTS, Some(("verdict", "denied"))),
    (VERDICTS, Some(("verdict", "asked"))),
    (VERDICTS, Some(("verdict", "over_budget"))),
    (DROPPED, Some(("what", "reply"))),
    (DROPPED, Some(("what", "event"))),
    (DROPPED, Some(("what", "notice"))),
    (DROPPED, Some(("what", "socket_client"))),
];

impl Metrics {
    pub(crate) fn count(&self, what: Count) {
        if let Some(count) = self.counts.get(what as usize) {
            count.fetch_add(1, Relaxed);
        }
    }

    /// A request to a model is over.
    pub(crate) fn request(&self, [provider, model]: [&str; 2], time: Duration, outcome: Outcome, tokens: &Tokens) {
        let series = self.models.of([provider, model]);
        series.observe(outcome, time);
        series.add(tokens);
    }

    /// The answer to a request began so long after the request.
    pub(crate) fn first_chunk(&self, [provider, model]: [&str; 2], time: Duration) {
        self.models.of([provider, model]).observe_first_chunk(time);
    }

    /// A tool has run.
    pub(crate) fn tool(&self, name: &str, time: Duration, failed: bool) {
        self.tools.of([name, ""]).observe(if failed { Outcome::Failed } else { Outcome::Done }, time);
    }

    /// A prompt came to its end.
    pub(crate) fn prompt(&self, reason: &str, time: Duration) {
        self.prompts.of([reason, ""]).observe(Outcome::Done, time);
    }

    /// Does what waits for the disk.
    pub(crate) fn disk_wait<T>(&self, wait: impl FnOnce() -> T) -> T {
        let begun = Instant::now();
        let result = wait();
        self.disk.observe(&DISK, micros(begun.elapsed()));
        result
    }

    /// Writes all of it down.
    pub(crate) fn write(&self, page: &mut Page) {
        let duration = "gen_ai_client_operation_duration_seconds";
        page.family(duration, Kind::Histogram, "Requests to models, runs of tools and prompts, from beginning to end.");
        self.models.each(|[provider, model], series| {
            let labels = [("gen_ai_operation_name", "chat"), ("gen_ai_provider_name", provider)];
            series.write_durations(page, duration, &[labels[0], labels[1], ("gen_ai_request_model", model)]);
        });
        self.tools.each(|[tool, _], series| {
            let labels = [("gen_ai_operation_name", "execute_tool"), ("gen_ai_tool_name", tool)];
            series.write_durations(page, duration, &labels);
        });
        self.prompts.each(|[reason, _], series| {
            let labels = [("gen_ai_operation_name", "invoke_agent"), ("reason", reason)];
            series.write_durations(page, duration, &labels);
        });
        let first = "gen_ai_client_operation_time_to_first_chunk_seconds";
        page.family(first, Kind::Histogram, "From a request to a model until its first thought, text or call comes.");
        self.models.each(|[provider, model], series| {
            let labels = [("gen_ai_operation_name", "chat"), ("gen_ai_provider_name", provider)];
            series.write_first_chunks(page, first, &[labels[0], labels[1], ("gen_ai_request_model", model)]);
        });
        let usage = "gen_ai_client_token_usage";
        page.family(usage, Kind::Histogram, "Tokens of a request to a model; input has what caches held in it.");
        self.models.each(|[provider, model], series| {
            series.write_usage(page, usage, &[("gen_ai_provider_name", provider), ("gen_ai_request_model", model)]);
        });
        let tokens = "pi_exec_model_tokens_total";
        page.family(tokens, Kind::Counter, "Tokens by the kinds that providers bill.");
        self.models.each(|[provider, model], series| {
            series.write_tokens(page, tokens, &[("gen_ai_provider_name", provider), ("gen_ai_request_model", model)]);
        });
        let cost = "pi_exec_model_cost_usd_total";
        page.family(cost, Kind::Counter, "What the requests cost, by the prices that are known, in US dollars.");
        self.models.each(|[provider, model], series| {
            let labels = [("gen_ai_provider_name", provider), ("gen_ai_request_model", model)];
            page.sample(cost, &labels, series.cost());
        });
        let disk = "pi_exec_disk_wait_seconds";
        page.family(disk, Kind::Histogram, "Waits until the disk has what must not get lost.");
        self.disk.write(page, disk, &[], &DISK);
        let mut family = "";
        for ((named, label), count) in COUNTS.iter().zip(&self.counts) {
            if named.0 != family {
                family = named.0;
                page.family(named.0, Kind::Counter, named.1);
            }
            page.sample(named.0, label.as_slice(), count.load(Relaxed) as f64);
        }
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fresh() -> Metrics {
        Metrics {
            models: Table::new(),
            tools: Table::new(),
            prompts: Table::new(),
            disk: Histogram::new(),
            counts: [const { AtomicU64::new(0) }; COUNTS.len()],
        }
    }

    #[test]
    fn counts_have_the_names_of_their_order() {
        let metrics = fresh();
        for (what, sample) in [
            (Count::Retry, "pi_exec_model_retries_total"),
            (Count::Compaction, "pi_exec_compactions_total"),
            (Count::Allowed, "pi_exec_gate_verdicts_total{verdict=\"allowed\"}"),
            (Count::Denied, "pi_exec_gate_verdicts_total{verdict=\"denied\"}"),
            (Count::Asked, "pi_exec_gate_verdicts_total{verdict=\"asked\"}"),
            (Count::OverBudget, "pi_exec_gate_verdicts_total{verdict=\"over_budget\"}"),
            (Count::DroppedReply, "pi_exec_dropped_total{what=\"reply\"}"),
            (Count::DroppedEvent, "pi_exec_dropped_total{what=\"event\"}"),
            (Count::DroppedNotice, "pi_exec_dropped_total{what=\"notice\"}"),
            (Count::DroppedClient, "pi_exec_dropped_total{what=\"socket_client\"}"),
        ] {
            metrics.count(what);
            let mut page = Page::default();
            metrics.write(&mut page);
            assert_eq!(page.document()[sample], 1.0, "{what:?}");
        }
    }

    #[test]
    fn there_are_no_more_series_than_the_tables_hold() {
        let metrics = fresh();
        let time = Duration::from_millis(5);
        for at in 0..1000 {
            let tokens = Tokens { input: 10, cache_read: 5, output: 1, cache_write: 0, cost: 0.5 };
            let model = ["p", &format!("m{at}")];
            metrics.request(model, time, Outcome::Done, &tokens);
            metrics.request(model, time, Outcome::Failed, &tokens);
            metrics.first_chunk(model, time);
        }
        let mut page = Page::default();
        metrics.write(&mut page);
        let text = page.text();
        let count = |needle: &str| text.lines().filter(|line| line.contains(needle)).count();
        assert_eq!(count("pi_exec_model_cost_usd_total{"), 33, "{text}");
        let other = "{gen_ai_provider_name=\"other\",gen_ai_request_model=\"other\"}";
        assert_eq!(page.document()[format!("pi_exec_model_cost_usd_total{other}")], 968.0);
        assert!(text.lines().count() < 3500 && text.len() < 1 << 19, "{}", text.len());
    }
}
