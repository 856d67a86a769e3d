//! Thinking levels: their names, which of them a model supports, and what they are worth in tokens.

use super::model_info::Model;
use serde::Deserialize;

/// How much a model thinks before it answers, in ascending order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ThinkingLevel {
    Off,
    Minimal,
    Low,
    Medium,
    High,
    Xhigh,
    Max,
}

const ALL: [(ThinkingLevel, &str); 7] = [
    (ThinkingLevel::Off, "off"),
    (ThinkingLevel::Minimal, "minimal"),
    (ThinkingLevel::Low, "low"),
    (ThinkingLevel::Medium, "medium"),
    (ThinkingLevel::High, "high"),
    (ThinkingLevel::Xhigh, "xhigh"),
    (ThinkingLevel::Max, "max"),
];

impl ThinkingLevel {
    /// The level of that name, which is matched exactly.
    pub fn parse(name: &str) -> Option<ThinkingLevel> {
        ALL.iter().find(|(_, n)| *n == name).map(|(level, _)| *level)
    }

    /// The level's name, as users, files and the wire know it.
    pub fn as_str(self) -> &'static str {
        ALL[self as usize].1
    }
}

impl Model {
    /// The supported level nearest to `level`: itself, else the next higher one, else the next lower one.
    pub fn clamp(&self, level: ThinkingLevel) -> ThinkingLevel {
        let supported = |l: &&(ThinkingLevel, &str)| self.supports(l.0);
        let higher = ALL.iter().filter(|(l, _)| *l >= level).find(supported);
        let lower = || ALL.iter().rev().filter(|(l, _)| *l < level).find(supported);
        higher.or_else(lower).map_or(ThinkingLevel::Off, |(l, _)| *l)
    }

    fn supports(&self, level: ThinkingLevel) -> bool {
        if !self.reasoning {
            return level == ThinkingLevel::Off;
        }
        match self.thinking_level_map.get(level.as_str()) {
            Some(value) => value.is_some(),
            // The two highest levels exist only where a model says so.
            None => level < ThinkingLevel::Xhigh,
        }
    }

    /// What the provider calls `level`, where the model's map says so.
    pub(super) fn mapped(&self, level: ThinkingLevel) -> Option<&str> {
        self.thinking_level_map.get(level.as_str())?.as_deref()
    }

    /// The model always thinks: nothing may be sent to switch it off.
    pub(super) fn thinks_always(&self) -> bool {
        matches!(self.thinking_level_map.get("off"), Some(None))
    }
}

/// Tokens of thought per level, for providers that want a number. Missing levels have PI's defaults.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Budgets {
    pub minimal: Option<u64>,
    pub low: Option<u64>,
    pub medium: Option<u64>,
    pub high: Option<u64>,
}

impl Budgets {
    /// Tokens for `level`, where the user has set them.
    pub fn configured(&self, level: ThinkingLevel) -> Option<u64> {
        match level {
            ThinkingLevel::Off => None,
            ThinkingLevel::Minimal => self.minimal,
            ThinkingLevel::Low => self.low,
            ThinkingLevel::Medium => self.medium,
            ThinkingLevel::High | ThinkingLevel::Xhigh | ThinkingLevel::Max => self.high,
        }
    }

    /// Tokens for `level`; 0 for `off`. The levels above `high` share its budget.
    pub fn tokens(&self, level: ThinkingLevel) -> u64 {
        self.configured(level).unwrap_or(match level {
            ThinkingLevel::Off => 0,
            ThinkingLevel::Minimal => 1024,
            ThinkingLevel::Low => 2048,
            ThinkingLevel::Medium => 8192,
            ThinkingLevel::High | ThinkingLevel::Xhigh | ThinkingLevel::Max => 16384,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::test_support::test_model;

    #[test]
    fn names_round_trip() {
        for (level, name) in ALL {
            assert_eq!((level.as_str(), ThinkingLevel::parse(name)), (name, Some(level)));
        }
        assert_eq!(ThinkingLevel::parse("High"), None);
    }

    #[test]
    fn clamp_goes_up_first_then_down() {
        use ThinkingLevel::*;
        let null = |names: &[&str]| names.iter().map(|n| (n.to_string(), None)).collect::<Vec<_>>();
        let cases = [
            (false, vec![], High, Off),
            (true, vec![], Off, Off),
            (true, vec![], Xhigh, High),
            (true, vec![("xhigh".to_string(), Some("x".to_string()))], Max, Xhigh),
            (true, null(&["off", "minimal"]), Off, Low),
            (true, null(&["medium"]), Medium, High),
            (true, null(&["medium", "high"]), Medium, Low),
        ];
        for (reasoning, map, asked, expected) in cases {
            let model = Model { reasoning, thinking_level_map: map.clone().into_iter().collect(), ..test_model() };
            assert_eq!(model.clamp(asked), expected, "{reasoning} {map:?} {asked:?}");
        }
    }
}
