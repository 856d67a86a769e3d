//! ReportedUsage of tokens, as the OpenAI APIs and their many relatives report them.

use super::lenient::{Count, Flag, Number, Object};
use crate::transcript::Usage;
use serde::Deserialize;

/// ReportedUsage of tokens, under the names of either API: servers exist that use those of the other one, or both.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ReportedUsage {
    prompt_tokens: Count,
    input_tokens: Count,
    completion_tokens: Count,
    output_tokens: Count,
    total_tokens: Count,
    prompt_tokens_details: Object<Details>,
    input_tokens_details: Object<Details>,
    completion_tokens_details: Object<Details>,
    output_tokens_details: Object<Details>,
    prompt_cache_hit_tokens: Count,
    cached_tokens: Count,
    reasoning_tokens: Count,
    /// OpenRouter names the price itself; US dollars.
    cost: Number,
    is_byok: Flag,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Details {
    cached_tokens: Count,
    cache_write_tokens: Count,
    reasoning_tokens: Count,
}

/// The counts of an answer, as far as they are known: later ones replace earlier ones, and take nothing back by what they
/// leave out.
#[derive(Debug, Default)]
pub(super) struct KnownUsage {
    prompt: u64,
    output: u64,
    cached: u64,
    cache_write: u64,
    reasoning: Option<u64>,
    total: u64,
}

impl KnownUsage {
    pub(super) fn learn(&mut self, counts: &ReportedUsage) {
        let detail = |of: &[&Object<Details>], count: fn(&Details) -> Count| {
            of.iter().filter_map(|details| details.0.as_ref()).find_map(|details| count(details).0)
        };
        let prompt_details = [&counts.prompt_tokens_details, &counts.input_tokens_details];
        let output_details = [&counts.completion_tokens_details, &counts.output_tokens_details];
        let positive = |count: Option<u64>| count.filter(|count| *count > 0);
        let cached = detail(&prompt_details, |d| d.cached_tokens);
        let cached = cached.or(counts.prompt_cache_hit_tokens.0).or(counts.cached_tokens.0);
        let reasoning = detail(&output_details, |d| d.reasoning_tokens).or(counts.reasoning_tokens.0);
        for (known, count) in [
            (&mut self.prompt, positive(counts.prompt_tokens.0).or(counts.input_tokens.0)),
            (&mut self.output, positive(counts.completion_tokens.0).or(counts.output_tokens.0)),
            (&mut self.cached, cached),
            (&mut self.cache_write, detail(&prompt_details, |d| d.cache_write_tokens)),
            (&mut self.total, counts.total_tokens.0),
        ] {
            *known = positive(count).unwrap_or(*known);
        }
        self.reasoning = positive(reasoning).or(self.reasoning).or(reasoning);
    }

    /// The total that the server reported; 0 if it reported none.
    pub(super) fn total(&self) -> u64 {
        self.total
    }

    /// Writes down what is known. `counts` are those that were learnt last.
    pub(super) fn write(&self, counts: &ReportedUsage, usage: &mut Usage) {
        usage.cache_read = self.cached;
        usage.cache_write = self.cache_write;
        usage.input = self.prompt.saturating_sub(self.cached).saturating_sub(self.cache_write);
        usage.output = self.output;
        usage.reasoning = self.reasoning;
        if let Some(cost) = counts.cost.0.filter(|cost| *cost >= 0.0 && !counts.is_byok.0) {
            usage.cost.total = cost;
            usage.cost.total_from_provider = true;
        }
    }
}
