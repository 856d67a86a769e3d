//! `settings.json`: what of PI's settings concerns models and requests.

use super::exchange::RetryPolicy;
use super::model_info::Model;
use super::odd_values;
use super::thinking::{Budgets, ThinkingLevel};
use crate::json::comments;
use crate::transcript::compaction::CompactionSettings;
use serde::Deserialize;
use serde_json::{Map, Value};
use std::path::PathBuf;
use std::time::Duration;

/// How long a server may be silent where nothing is configured; PI's default.
const IDLE_TIMEOUT: Duration = Duration::from_secs(300);
/// The longest wait that a server may ask for where nothing is configured; PI's default.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// Tokens that are kept free for the next answer, and tokens of recent messages that a compaction keeps; PI's defaults.
const RESERVE_TOKENS: u64 = 16_384;
const KEEP_RECENT_TOKENS: u64 = 20_000;
/// With PI's defaults nothing could ever be compacted in a small window, so each of them is at most this part of it.
const SMALL_WINDOW_PART: u64 = 4;
/// Stands for "no limit", which is written as 0 or "disabled": every wait here has an end.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(24 * 3600);

#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Settings {
    pub default_provider: Option<String>,
    pub default_model: Option<String>,
    default_thinking_level: Option<String>,
    /// Levels by `provider/id`.
    model_thinking_levels: Map<String, Value>,
    pub thinking_budgets: Budgets,
    http_idle_timeout_ms: Option<Value>,
    http_proxy: Option<String>,
    default_project_trust: Option<String>,
    retry: Retry,
    compaction: Compaction,
    steering_mode: QueueMode,
    follow_up_mode: QueueMode,
    images: Images,
    shell_path: Option<String>,
    shell_command_prefix: Option<String>,
    /// Where session files are; as it is written, so that `~` is for the reader to resolve.
    pub session_dir: Option<String>,
    /// The tools of sessions that name none.
    pub default_tools: Option<Vec<String>>,
    /// All of it as it was read, for merging.
    #[serde(skip)]
    document: Value,
}

/// Lists that name what there is; those of a project are added to the user's.
const RESOURCES: [&str; 4] = ["skills", "prompts", "extensions", "packages"];

/// Puts the project's values over the user's.
fn merge(user: &mut Value, project: &Value) {
    match (user, project) {
        (Value::Object(user), Value::Object(project)) => {
            for (key, value) in project {
                match (user.get_mut(key), value) {
                    (Some(Value::Array(all)), Value::Array(more)) if RESOURCES.contains(&key.as_str()) => {
                        all.extend(more.iter().cloned());
                    }
                    (Some(old), value) => merge(old, value),
                    (None, value) => _ = user.insert(key.clone(), value.clone()),
                }
            }
        }
        (user, project) => *user = project.clone(),
    }
}

#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Images {
    auto_resize: Option<bool>,
    block_images: bool,
}

/// What the settings say about tools.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ToolSettings {
    /// The program that runs commands, in place of bash.
    pub shell: Option<PathBuf>,
    /// Runs before each command, in the same shell.
    pub command_prefix: Option<String>,
    /// Images that are too large for models are made smaller.
    pub resize_images: bool,
}

#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Compaction {
    enabled: Option<bool>,
    reserve_tokens: Option<u64>,
    keep_recent_tokens: Option<u64>,
    /// The two numbers, by `provider/id`.
    model_overrides: Map<String, Value>,
}

/// How many waiting messages are taken at a time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub(crate) enum QueueMode {
    #[default]
    #[serde(rename = "one-at-a-time")]
    OneAtATime,
    #[serde(rename = "all")]
    All,
}

/// How a session's two queues are emptied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct QueueModes {
    pub steering: QueueMode,
    pub follow_up: QueueMode,
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
pub(crate) struct RetrySettings {
    pub enabled: bool,
    pub max_retries: u32,
    base_delay_ms: u64,
    max_delay_ms: u64,
    /// The longest wait that a server may ask for.
    pub max_requested_delay_ms: u64,
}

impl RetrySettings {
    /// Milliseconds before attempt 1, 2, ...: each twice as long as the one before, up to the limit.
    pub(crate) fn delay_ms(&self, attempt: u32) -> u64 {
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

/// Reads a `settings.json`, the user's or a project's. Values of the wrong kind are left out; `odd` gets a line for each.
///
/// # Errors
/// The text is no JSON, or no object.
pub(super) fn document(text: &str, odd: &mut Vec<String>) -> Result<Value, String> {
    let mut document = odd_values::object(comments::parse(text)?)?;
    document.values_mut().for_each(odd_values::whole_numbers);
    odd_values::leave_out(&mut document, &|value| Settings::deserialize(value).map(drop), odd);
    Ok(Value::Object(document))
}

impl Settings {
    /// The user's own settings, as [`document`] reads them, with its errors.
    pub(super) fn read(text: &str, odd: &mut Vec<String>) -> Result<Settings, String> {
        Settings::of(document(text, odd)?)
    }

    /// Settings in which nothing is odd.
    #[cfg(test)]
    pub(super) fn parse(text: &str) -> Result<Settings, String> {
        let mut odd = Vec::new();
        let settings = Settings::read(text, &mut odd)?;
        if odd.is_empty() { Ok(settings) } else { Err(odd.join("; ")) }
    }

    fn of(document: Value) -> Result<Settings, String> {
        let settings = Settings::deserialize(&document).map_err(|e| odd_values::without_value(&e))?;
        Ok(Settings { document, ..settings })
    }

    /// These settings with a project's over them, which [`document`] has read.
    ///
    /// # Errors
    /// The two do not fit together.
    pub(super) fn with(&self, project: &Value) -> Result<Settings, String> {
        let mut document = if self.document.is_null() { Value::Object(Map::new()) } else { self.document.clone() };
        if !project.is_null() {
            merge(&mut document, project);
        }
        Settings::of(document)
    }

    /// The proxy for requests to models. Only the user's own settings count, because whoever names it sees all traffic.
    pub(super) fn http_proxy(&self) -> Option<&str> {
        self.http_proxy.as_deref()
    }

    /// The user trusts all projects. Only the user's own settings count.
    pub(super) fn trusts_projects(&self) -> bool {
        self.default_project_trust.as_deref() == Some("always")
    }

    /// The level that is set for the model, or for all.
    pub(super) fn thinking_level(&self, spec: &str) -> Option<ThinkingLevel> {
        let own = self.model_thinking_levels.get(spec).and_then(Value::as_str);
        own.or(self.default_thinking_level.as_deref()).and_then(ThinkingLevel::parse)
    }

    /// PI's defaults where nothing is set: three attempts, after 2, 4 and 8 seconds.
    pub(super) fn retry(&self) -> RetrySettings {
        RetrySettings {
            enabled: self.retry.enabled.unwrap_or(true),
            max_retries: self.retry.max_retries.unwrap_or(3),
            base_delay_ms: self.retry.base_delay_ms.unwrap_or(2000),
            max_delay_ms: self.retry.max_agent_delay_ms.unwrap_or(60_000),
            max_requested_delay_ms: u64::try_from(self.retry_policy().longest_wait.as_millis()).unwrap_or(u64::MAX),
        }
    }

    /// When the context of a session with this model is compacted, and how much of it is kept.
    pub(super) fn compaction(&self, model: &Model) -> CompactionSettings {
        let own = self.compaction.model_overrides.get(&model.spec());
        let number = |key: &str, all: Option<u64>, default: u64| {
            let own = own.and_then(|own| own.get(key)).and_then(Value::as_u64);
            own.or(all).unwrap_or(default.min(model.context_window / SMALL_WINDOW_PART))
        };
        CompactionSettings {
            enabled: self.compaction.enabled.unwrap_or(true),
            reserve_tokens: number("reserveTokens", self.compaction.reserve_tokens, RESERVE_TOKENS),
            keep_recent_tokens: number("keepRecentTokens", self.compaction.keep_recent_tokens, KEEP_RECENT_TOKENS),
        }
    }

    /// Images are kept from models.
    pub(super) fn block_images(&self) -> bool {
        self.images.block_images
    }

    pub(super) fn tools(&self) -> ToolSettings {
        ToolSettings {
            shell: self.shell_path.as_ref().map(PathBuf::from),
            command_prefix: self.shell_command_prefix.clone(),
            resize_images: self.images.auto_resize.unwrap_or(true),
        }
    }

    pub(super) fn queue_modes(&self) -> QueueModes {
        QueueModes { steering: self.steering_mode, follow_up: self.follow_up_mode }
    }

    /// When a refused request is sent again at once.
    pub(super) fn retry_policy(&self) -> RetryPolicy {
        let provider = &self.retry.provider;
        let longest_wait = match provider.max_retry_delay_ms {
            None => LONGEST_WAIT,
            Some(0) => LONGEST_TIMEOUT,
            Some(ms) => Duration::from_millis(ms).min(LONGEST_TIMEOUT),
        };
        RetryPolicy { max_retries: provider.max_retries, longest_wait }
    }

    /// How long a server may be silent, before its answer and in it.
    pub(super) fn idle_timeout(&self) -> Duration {
        let configured = self.retry.provider.timeout_ms.as_ref().and_then(milliseconds);
        match configured.or_else(|| self.http_idle_timeout_ms.as_ref().and_then(milliseconds)) {
            None => IDLE_TIMEOUT,
            Some(0) => LONGEST_TIMEOUT,
            Some(ms) => Duration::from_millis(ms).min(LONGEST_TIMEOUT),
        }
    }
}

/// A time as PI takes it: a number, the text of one, or "disabled", which is 0. `None` for anything else.
fn milliseconds(value: &Value) -> Option<u64> {
    let number = match value.as_str().map(str::trim) {
        Some(text) if text.eq_ignore_ascii_case("disabled") => Some(0.0),
        Some(text) => text.parse().ok(),
        None => value.as_f64(),
    };
    // A cast from a float saturates.
    number.filter(|ms| *ms >= 0.0).map(|ms| ms as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::test_support::test_model;

    fn parse(text: &str) -> Settings {
        Settings::parse(text).expect("it parses")
    }

    #[test]
    fn an_odd_value_costs_itself() {
        for (text, odd) in [
            (
                r#"{"compaction": null, "shellPath": "/bin/sh"}"#,
                vec!["\"compaction\" is left out: invalid type: null, expected struct Compaction"],
            ),
            (
                r#"{"compaction": {"reserveTokens": "16384", "keepRecentTokens": 7.0, "enabled": null}, "shellPath": "/bin/sh"}"#,
                vec!["\"compaction.reserveTokens\" is left out: invalid type: string, expected u64"],
            ),
            (
                r#"{"retry": 3, "thinkingBudgets": {"low": -1}, "shellPath": "/bin/sh"}"#,
                vec![
                    "\"retry\" is left out: invalid type: integer, expected an object",
                    "\"thinkingBudgets.low\" is left out: invalid value: integer, expected u64",
                ],
            ),
            (
                r#"{"steeringMode": "some", "images": {"autoResize": {"secret": 1}}, "shellPath": "/bin/sh"}"#,
                vec![
                    "\"steeringMode\" is left out: unknown variant, expected `one-at-a-time` or `all`",
                    "\"images.autoResize\" is left out: invalid type: map, expected a boolean",
                ],
            ),
            (
                r#"{"retry": {"maxRetries": 2.0, "provider": {"maxRetries": 0.5, "timeoutMs": null}}, "shellPath": "/bin/sh"}"#,
                vec!["\"retry.provider.maxRetries\" is left out: invalid type: floating point, expected u32"],
            ),
            (r#"{"theme": null, "unknown": {"a": [null]}, "shellPath": "/bin/sh"}"#, vec![]),
        ] {
            let mut reported = Vec::new();
            let settings = Settings::read(text, &mut reported).expect("the rest holds");
            assert_eq!(
                (reported.iter().map(String::as_str).collect::<Vec<_>>(), settings.shell_path.as_deref()),
                (odd, Some("/bin/sh"))
            );
        }
        for text in ["[]", "null", "{", "\"a\"", ""] {
            assert!(Settings::read(text, &mut Vec::new()).is_err(), "{text}");
        }
        let model = test_model();
        let settings =
            Settings::read(r#"{"compaction":{"keepRecentTokens":7.0,"reserveTokens":1e3}}"#, &mut Vec::new());
        let compaction = settings.expect("it parses").compaction(&model);
        assert_eq!((compaction.keep_recent_tokens, compaction.reserve_tokens), (7, 1000));
    }

    #[test]
    fn what_only_the_user_may_set() {
        let user = parse(r#"{"httpProxy":"http://p","defaultProjectTrust":"always"}"#);
        assert_eq!((user.http_proxy(), user.trusts_projects()), (Some("http://p"), true));
        for other in ["ask", "never", "Always"] {
            assert!(!parse(&format!(r#"{{"defaultProjectTrust":"{other}"}}"#)).trusts_projects(), "{other}");
        }
        assert!(!Settings::default().trusts_projects());
    }

    #[test]
    fn pauses_double_up_to_a_limit() {
        let delays = |text: &str| {
            let retry = parse(text).retry();
            [1, 2, 3, 80].map(|attempt| retry.delay_ms(attempt))
        };
        assert_eq!(delays("{}"), [2000, 4000, 8000, 60_000]);
        assert_eq!(delays(r#"{"retry":{"baseDelayMs":5,"maxAgentDelayMs":15}}"#), [5, 10, 15, 15]);
    }

    #[test]
    fn room_is_kept_by_the_settings_of_all_or_of_the_model() {
        let all = r#"{"compaction":{"enabled":false,"reserveTokens":1000,"keepRecentTokens":2000}}"#;
        let own = r#"{"compaction":{"reserveTokens":1000,"modelOverrides":{"p/m":{"reserveTokens":7},"p/n":{"keepRecentTokens":8}}}}"#;
        for (text, window, enabled, reserve_tokens, keep_recent_tokens) in [
            ("{}", 200_000, true, 16_384, 20_000),
            ("{}", 32_000, true, 8000, 8000),
            (all, 32_000, false, 1000, 2000),
            (own, 200_000, true, 7, 20_000),
        ] {
            let settings = parse(text);
            let model = Model { context_window: window, ..test_model() };
            let expected = CompactionSettings { enabled, reserve_tokens, keep_recent_tokens };
            assert_eq!(settings.compaction(&model), expected, "{text} {window}");
        }
    }

    #[test]
    fn queues_are_emptied_one_at_a_time_unless_set_otherwise() {
        use QueueMode::{All, OneAtATime};
        for (text, steering, follow_up) in [
            ("{}", OneAtATime, OneAtATime),
            (r#"{"steeringMode":"all","followUpMode":"one-at-a-time"}"#, All, OneAtATime),
            (r#"{"followUpMode":"all"}"#, OneAtATime, All),
        ] {
            let modes = parse(text).queue_modes();
            assert_eq!(modes, QueueModes { steering, follow_up }, "{text}");
        }
    }

    #[test]
    fn a_project_has_the_last_word() {
        let user =
            r#"{"defaultModel":"u","retry":{"maxRetries":1,"baseDelayMs":5},"skills":["a"],"enabledModels":["x"]}"#;
        let user = parse(user);
        let project =
            r#"{"defaultModel":"p", /* more */ "retry":{"maxRetries":2},"skills":["b"],"enabledModels":["y"]}"#;
        let merged = user.with(&comments::parse(project).expect("it parses")).expect("it fits");
        assert_eq!(merged.default_model.as_deref(), Some("p"));
        assert_eq!((merged.retry().max_retries, merged.retry().delay_ms(1)), (2, 5));
        assert_eq!(merged.document["skills"], serde_json::json!(["a", "b"]));
        assert_eq!(merged.document["enabledModels"], serde_json::json!(["y"]));
        assert_eq!(user.with(&Value::Null).as_ref(), Ok(&user), "there is no such file");
        let alone = Settings::default().with(&comments::parse(r#"{"defaultModel":"p"}"#).expect("it parses"));
        assert_eq!(alone.expect("it fits").default_model.as_deref(), Some("p"));
        assert!(user.with(&comments::parse(r#"{"retry":3}"#).expect("it parses")).is_err());
    }

    #[test]
    fn tools_are_set_up() {
        let text = r#"{"shellPath":"/bin/zsh","shellCommandPrefix":"set -e","images":{"autoResize":false,"blockImages":true}}"#;
        let own = parse(text);
        let expected = ToolSettings {
            shell: Some("/bin/zsh".into()),
            command_prefix: Some("set -e".into()),
            resize_images: false,
        };
        assert_eq!((own.tools(), own.block_images()), (expected, true));
        let usual = Settings::default();
        let expected = ToolSettings { shell: None, command_prefix: None, resize_images: true };
        assert_eq!((usual.tools(), usual.block_images()), (expected, false));
    }

    #[test]
    fn settings_are_read() {
        let text = r#"{"defaultThinkingLevel":"low","modelThinkingLevels":{"p/m":"high","p/x":"odd"},
            "thinkingBudgets":{"low":7}, "theme":"dark", /* more */ }"#;
        let settings = parse(text);
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
            let policy = parse(text).retry_policy();
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
            (r#"{"httpIdleTimeoutMs":" 7000 "}"#, 7),
            (r#"{"httpIdleTimeoutMs":"soon","retry":{"provider":{"timeoutMs":-1}}}"#, 300),
        ] {
            let settings = parse(text);
            assert_eq!(settings.idle_timeout().as_secs(), seconds, "{text}");
        }
    }
}
