//! `settings.json`: what of PI's settings concerns models and requests.

use super::ThinkingLevel;
use super::exchange::RetryPolicy;
use super::jsonc;
use super::thinking::Budgets;
use serde::Deserialize;
use serde_json::{Map, Value};
use std::time::Duration;

/// How long a server may be silent where nothing is configured; PI's default.
const IDLE_TIMEOUT: Duration = Duration::from_secs(300);
/// The longest wait that a server may ask for where nothing is configured; PI's default.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// Stands for "no limit", which is written as 0 or "disabled": every wait here has an end.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(24 * 3600);

#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Settings {
    pub default_provider: Option<String>,
    pub default_model: Option<String>,
    default_thinking_level: Option<String>,
    /// Levels by `provider/id`.
    model_thinking_levels: Map<String, Value>,
    pub thinking_budgets: Budgets,
    http_idle_timeout_ms: Option<Value>,
    retry: Retry,
}

#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Retry {
    enabled: Option<bool>,
    max_retries: Option<u32>,
    base_delay_ms: Option<u64>,
    max_agent_delay_ms: Option<u64>,
    provider: ProviderRetry,
}

/// When a failed request is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetrySettings {
    pub enabled: bool,
    pub max_retries: u32,
    base_delay_ms: u64,
    max_delay_ms: u64,
}

impl RetrySettings {
    /// Milliseconds before attempt 1, 2, ...: each twice as long as the one before, up to the limit.
    pub fn delay_ms(&self, attempt: u32) -> u64 {
        let factor = 1_u64.checked_shl(attempt.saturating_sub(1)).unwrap_or(u64::MAX);
        self.base_delay_ms.saturating_mul(factor).min(self.max_delay_ms)
    }
}

#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ProviderRetry {
    timeout_ms: Option<Value>,
    max_retries: u32,
    /// Milliseconds; 0 = no limit.
    max_retry_delay_ms: Option<u64>,
}

impl Settings {
    pub fn parse(text: &str) -> Result<Settings, String> {
        serde_json::from_str(&jsonc::to_json(text)).map_err(|e| e.to_string())
    }

    /// The level that is set for the model, or for all.
    pub fn thinking_level(&self, spec: &str) -> Option<ThinkingLevel> {
        let own = self.model_thinking_levels.get(spec).and_then(Value::as_str);
        own.or(self.default_thinking_level.as_deref()).and_then(ThinkingLevel::parse)
    }

    /// PI's defaults where nothing is set: three attempts, after 2, 4 and 8 seconds.
    pub fn retry(&self) -> RetrySettings {
        RetrySettings {
            enabled: self.retry.enabled.unwrap_or(true),
            max_retries: self.retry.max_retries.unwrap_or(3),
            base_delay_ms: self.retry.base_delay_ms.unwrap_or(2000),
            max_delay_ms: self.retry.max_agent_delay_ms.unwrap_or(60_000),
        }
    }

    /// When a refused request is sent again at once.
    pub fn retry_policy(&self) -> RetryPolicy {
        let provider = &self.retry.provider;
        let longest_wait = match provider.max_retry_delay_ms {
            None => LONGEST_WAIT,
            Some(0) => LONGEST_TIMEOUT,
            Some(ms) => Duration::from_millis(ms).min(LONGEST_TIMEOUT),
        };
        RetryPolicy { max_retries: provider.max_retries, longest_wait }
    }

    /// How long a server may be silent, before its answer and in it.
    pub fn idle_timeout(&self) -> Duration {
        let configured = self.retry.provider.timeout_ms.as_ref().or(self.http_idle_timeout_ms.as_ref());
        match configured {
            None => IDLE_TIMEOUT,
            Some(value) => match value.as_u64() {
                Some(1..) => Duration::from_millis(value.as_u64().unwrap_or(0)).min(LONGEST_TIMEOUT),
                _ => LONGEST_TIMEOUT,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_limit() {
        let delays = |text: &str| {
            let retry = Settings::parse(text).expect("it parses").retry();
            [1, 2, 3, 80].map(|attempt| retry.delay_ms(attempt))
        };
        assert_eq!(delays("{}"), [2000, 4000, 8000, 60_000]);
        assert_eq!(delays(r#"{"retry":{"baseDelayMs":5,"maxAgentDelayMs":15}}"#), [5, 10, 15, 15]);
    }

    #[test]
    fn settings_are_read() {
        let text = r#"{"defaultThinkingLevel":"low","modelThinkingLevels":{"p/m":"high","p/x":"odd"},
            "thinkingBudgets":{"low":7}, "theme":"dark", /* more */ }"#;
        let settings = Settings::parse(text).expect("it parses");
        assert_eq!(settings.thinking_level("p/m"), Some(ThinkingLevel::High));
        assert_eq!(settings.thinking_level("p/n"), Some(ThinkingLevel::Low));
        assert_eq!(settings.thinking_level("p/x"), None);
        assert_eq!(settings.thinking_budgets.tokens(ThinkingLevel::Low), 7);
        assert_eq!(settings.thinking_budgets.tokens(ThinkingLevel::Max), 16384);
    }

    #[test]
    fn waits_have_an_end() {
        for (text, retries, seconds) in [
            ("{}", 0, 60),
            (r#"{"retry":{"provider":{"maxRetries":2,"maxRetryDelayMs":5000}}}"#, 2, 5),
            (r#"{"retry":{"provider":{"maxRetryDelayMs":0}}}"#, 0, 86_400),
        ] {
            let policy = Settings::parse(text).expect("it parses").retry_policy();
            assert_eq!((policy.max_retries, policy.longest_wait.as_secs()), (retries, seconds), "{text}");
        }
    }

    #[test]
    fn timeouts_have_an_end() {
        for (text, seconds) in [
            ("{}", 300),
            (r#"{"httpIdleTimeoutMs":5000}"#, 5),
            (r#"{"httpIdleTimeoutMs":5000,"retry":{"provider":{"timeoutMs":7000}}}"#, 7),
            (r#"{"httpIdleTimeoutMs":0}"#, 86_400),
            (r#"{"httpIdleTimeoutMs":"disabled"}"#, 86_400),
        ] {
            let settings = Settings::parse(text).expect("it parses");
            assert_eq!(settings.idle_timeout().as_secs(), seconds, "{text}");
        }
    }
}
