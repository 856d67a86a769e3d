//! Sums of tokens and cost.

use serde_json::Value;
use std::fmt;

/// What some of the model's answers used.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Totals {
    /// Tokens sent, those from the provider's cache included.
    input: u64,
    cached: u64,
    output: u64,
    /// US dollars.
    cost: f64,
}

impl Totals {
    /// Adds the usage of one answer, as messages carry it.
    pub(super) fn add(&mut self, usage: &Value) {
        let tokens = |key: &str| usage[key].as_u64().unwrap_or_default();
        let cached = tokens("cacheRead");
        self.input =
            self.input.saturating_add(tokens("input")).saturating_add(cached).saturating_add(tokens("cacheWrite"));
        self.cached = self.cached.saturating_add(cached);
        self.output = self.output.saturating_add(tokens("output"));
        self.cost += usage["cost"]["total"].as_f64().unwrap_or_default();
    }

    pub(super) fn is_empty(&self) -> bool {
        self.input == 0 && self.output == 0
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in", Tokens(self.input))?;
        if self.cached > 0 {
            write!(f, " ({} cached)", Tokens(self.cached))?;
        }
        write!(f, ", {} out, ${:.4}", Tokens(self.output), self.cost)
    }
}

/// A number of tokens, as people read it.
pub(in crate::cli) fn tokens(count: u64) -> String {
    Tokens(count).to_string()
}

/// An amount of money; nothing is known as nothing.
pub(in crate::cli) fn dollars(amount: Option<f64>) -> String {
    format!("${:.4}", amount.unwrap_or_default())
}

/// A number of tokens: exact while it is small.
struct Tokens(u64);

impl fmt::Display for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0..10_000 => write!(f, "{}", self.0),
            10_000..1_000_000 => write!(f, "{:.1}k", self.0 as f64 / 1e3),
            _ => write!(f, "{:.1}M", self.0 as f64 / 1e6),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn sums() {
        let mut totals = Totals::default();
        assert!(totals.is_empty());
        totals.add(&json!({"input": 100, "output": 20, "cost": {"total": 0.0102}}));
        assert_eq!(totals.to_string(), "100 in, 20 out, $0.0102");
        totals
            .add(&json!({"input": 1, "output": 1_500_000, "cacheRead": 20_000, "cacheWrite": 5, "cost": {"total": 1}}));
        assert_eq!(totals.to_string(), "20.1k in (20.0k cached), 1.5M out, $1.0102");
        let before = totals;
        for nothing in [json!(null), json!({}), json!({"input": -1, "output": "x", "cost": 5})] {
            totals.add(&nothing);
            assert_eq!(totals, before);
        }
    }
}
