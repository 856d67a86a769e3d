//! How the many servers that speak `openai-completions` differ. What a server can do follows from its host or provider id,
//! by the table in `servers.json`; flags that a model states itself beat that. Servers nobody knows, and all on this
//! machine, get what is understood everywhere.
//!
//! The role `developer` is OpenAI's own: it goes to that provider and that host, since the prompt templates of others
//! refuse it, while every server takes `system`.

use super::catalog;
use super::http::is_loopback;
use super::model_info::Model;
use serde::Deserialize;
use serde_json::{Map, Value};
use std::sync::LazyLock;

/// The form in which a server takes a request to think.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum ThinkingFormat {
    Openai,
    Openrouter,
    Deepseek,
    Zai,
    Qwen,
    QwenChatTemplate,
    ChatTemplate,
    Baseten,
    Together,
    StringThinking,
    AntLing,
}

/// The headers by which a server knows that requests belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Affinity {
    None,
    /// `x-client-request-id` and `x-session-affinity`, and `session_id` too if so said.
    Openai {
        session_id: bool,
    },
    /// `x-session-id`
    Openrouter,
}

/// What a server understands, under PI's names for it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Compat {
    pub store: bool,
    pub developer_role: bool,
    pub reasoning_effort: bool,
    pub usage_in_streaming: bool,
    /// The server says why it stopped.
    pub finish_reason: bool,
    pub strict_mode: bool,
    pub long_cache_retention: bool,
    pub max_tokens_field: &'static str,
    pub thinking_format: ThinkingFormat,
    /// Prompt parts are marked for the cache as with Anthropic.
    pub cache_markers: bool,
    pub affinity: Affinity,
    pub tool_result_name: bool,
    pub assistant_after_tool_result: bool,
    pub thinking_as_text: bool,
    pub reasoning_content_always: bool,
    pub non_null_assistant_content: bool,
    pub tools_with_tool_history: bool,
    pub tool_stream: bool,
    pub prompt_cache_key: bool,
}

/// What is known of a server: which flags differ from those that hold for most.
#[derive(Deserialize)]
struct Server {
    /// Words of its hosts.
    #[serde(default)]
    hosts: Vec<&'static str>,
    /// What the catalog calls it, since it may be behind another host.
    #[serde(default)]
    providers: Vec<&'static str>,
    /// How the ids of the models begin that the row is about.
    #[serde(default)]
    models: &'static str,
    #[serde(default)]
    compat: Map<String, Value>,
}

/// The servers whose abilities are known. All rows that fit a model hold for it, later ones over earlier ones.
static SERVERS: LazyLock<Vec<Server>> = LazyLock::new(|| {
    // It cannot fail, as the file is part of the program; the tests see that it does not.
    serde_json::from_str(include_str!("servers.json")).unwrap_or_default()
});

impl Compat {
    /// What most hosted servers understand.
    const HOSTED: Compat = Compat {
        store: true,
        developer_role: false,
        reasoning_effort: true,
        usage_in_streaming: true,
        finish_reason: true,
        strict_mode: false,
        long_cache_retention: true,
        max_tokens_field: "max_completion_tokens",
        thinking_format: ThinkingFormat::Openai,
        cache_markers: false,
        affinity: Affinity::None,
        tool_result_name: false,
        assistant_after_tool_result: false,
        thinking_as_text: false,
        reasoning_content_always: false,
        non_null_assistant_content: false,
        tools_with_tool_history: false,
        tool_stream: false,
        prompt_cache_key: false,
    };

    /// What is understood everywhere.
    const UNKNOWN: Compat = Compat {
        store: false,
        reasoning_effort: false,
        long_cache_retention: false,
        max_tokens_field: "max_tokens",
        ..Compat::HOSTED
    };

    /// For this model at its server.
    pub(super) fn of(model: &Model) -> Compat {
        let mut compat = Compat::detect(model);
        compat.apply(&model.compat);
        compat
    }

    fn detect(model: &Model) -> Compat {
        // A server on this machine is what it is, whatever the provider is called.
        if is_loopback(&model.base_url) {
            return Compat::UNKNOWN;
        }
        let url = model.base_url.to_ascii_lowercase();
        let host = url.split_once("://").map_or(url.as_str(), |(_, rest)| rest).split('/').next().unwrap_or_default();
        let provider = model.provider.as_str();
        let is = |server: &&Server| {
            server.hosts.iter().any(|word| matches_word(host, word)) || server.providers.contains(&provider)
        };
        let mut rows = SERVERS.iter().filter(is).peekable();
        let known = rows.peek().is_some() || catalog::provider(provider).is_some();
        let mut compat = if known { Compat::HOSTED } else { Compat::UNKNOWN };
        rows.filter(|row| model.id.starts_with(row.models)).for_each(|row| compat.apply(&row.compat));
        compat
    }

    /// Puts flags over what was known before.
    fn apply(&mut self, flags: &Map<String, Value>) {
        let set = |field: &mut bool, name: &str| {
            if let Some(value) = flags.get(name).and_then(Value::as_bool) {
                *field = value;
            }
        };
        set(&mut self.store, "supportsStore");
        set(&mut self.developer_role, "supportsDeveloperRole");
        set(&mut self.reasoning_effort, "supportsReasoningEffort");
        set(&mut self.usage_in_streaming, "supportsUsageInStreaming");
        set(&mut self.finish_reason, "supportsFinishReason");
        set(&mut self.strict_mode, "supportsStrictMode");
        set(&mut self.long_cache_retention, "supportsLongCacheRetention");
        set(&mut self.tool_result_name, "requiresToolResultName");
        set(&mut self.assistant_after_tool_result, "requiresAssistantAfterToolResult");
        set(&mut self.thinking_as_text, "requiresThinkingAsText");
        set(&mut self.reasoning_content_always, "requiresReasoningContentOnAssistantMessages");
        set(&mut self.non_null_assistant_content, "requiresNonNullAssistantContent");
        set(&mut self.tools_with_tool_history, "requiresToolsWithToolHistory");
        set(&mut self.tool_stream, "zaiToolStream");
        let word = |name: &str| flags.get(name).and_then(Value::as_str);
        match word("maxTokensField") {
            Some("max_tokens") => self.max_tokens_field = "max_tokens",
            Some("max_completion_tokens") => self.max_tokens_field = "max_completion_tokens",
            _ => {}
        }
        if let Some(Ok(format)) = flags.get("thinkingFormat").map(ThinkingFormat::deserialize) {
            self.thinking_format = format;
        }
        if let Some(format) = word("cacheControlFormat") {
            self.cache_markers = format == "anthropic";
        }
        if let Some(mode) = word("promptCacheKeyMode") {
            self.prompt_cache_key = mode == "enabled";
        }
        let wanted = flags.get("sendSessionAffinityHeaders").and_then(Value::as_bool);
        let format = match word("sessionAffinityFormat") {
            Some("openrouter") => Affinity::Openrouter,
            Some("openai-nosession") => Affinity::Openai { session_id: false },
            Some(_) => Affinity::Openai { session_id: true },
            None if self.affinity == Affinity::None => Affinity::Openai { session_id: true },
            None => self.affinity,
        };
        self.affinity = match wanted {
            Some(true) => format,
            Some(false) => Affinity::None,
            None => self.affinity,
        };
    }
}

/// Whether `word` is in `text`, not as the end of a longer word: `x.ai` is in `api.x.ai`, but not in `chutex.ai`.
fn matches_word(text: &str, word: &str) -> bool {
    text.match_indices(word).any(|(at, _)| !text[..at].ends_with(|c: char| c.is_ascii_alphanumeric()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::test_support::test_model;
    use serde_json::json;

    fn compat(provider: &str, base_url: &str, id: &str, flags: Value) -> Compat {
        Compat::of(&Model {
            provider: provider.to_string(),
            base_url: base_url.to_string(),
            id: id.to_string(),
            compat: serde_json::from_value(flags).expect("flags"),
            ..test_model()
        })
    }

    #[test]
    fn servers_are_known_by_host_or_provider() {
        use ThinkingFormat::*;
        let (long, short) = ("max_completion_tokens", "max_tokens");
        // Provider, URL, id; then: store, developer role, reasoning effort, long cache, limit's field, thinking format.
        for (provider, url, id, expected) in [
            ("openai", "https://api.openai.com/v1", "gpt", (true, true, true, true, long, Openai)),
            ("openai", "https://llm.example.com/v1", "gpt", (true, true, true, true, long, Openai)),
            ("mine", "https://api.openai.com/v1", "gpt", (true, true, true, true, long, Openai)),
            ("groq", "https://api.groq.com/openai/v1", "m", (true, false, true, true, long, Openai)),
            ("groq", "https://llm.example.com/v1", "m", (true, false, true, true, long, Openai)),
            ("mine", "https://mine.openai.azure.com/v1", "m", (true, false, true, true, long, Openai)),
            ("nvidia", "https://integrate.api.nvidia.com/v1", "m", (false, false, false, false, short, Openai)),
            ("cerebras", "https://api.cerebras.ai/v1", "m", (false, false, true, true, long, Openai)),
            ("xai", "https://api.x.ai/v1", "m", (false, false, false, true, long, Openai)),
            ("mine", "https://api.x.ai/v1", "m", (false, false, false, true, long, Openai)),
            ("together", "https://api.together.ai/v1", "m", (false, false, false, false, short, Together)),
            ("c", "https://llm.chutes.ai/v1", "m", (false, false, true, true, short, Openai)),
            ("deepseek", "https://api.deepseek.com", "m", (false, false, true, true, short, Deepseek)),
            ("deepseek", "https://proxy.example.com", "m", (false, false, true, true, short, Deepseek)),
            ("zai", "https://api.z.ai/api/coding/paas/v4", "m", (false, false, false, true, short, Zai)),
            ("zai-coding-cn", "https://proxy.example.com", "m", (false, false, false, true, short, Zai)),
            ("g", "https://open.bigmodel.cn/api/v4", "m", (false, false, false, true, short, Zai)),
            ("moonshotai", "https://api.moonshot.ai/v1", "m", (false, false, false, true, short, Openai)),
            ("opencode", "https://opencode.ai/inference/openai/v1", "m", (false, false, true, true, long, Openai)),
            (
                "cloudflare-workers-ai",
                "https://api.cloudflare.com/client/v4",
                "m",
                (false, false, true, false, long, Openai),
            ),
            ("cf", "https://gateway.ai.cloudflare.com/v1", "m", (false, false, false, false, short, Openai)),
            ("ant-ling", "https://api.ant-ling.com/v1", "m", (false, false, false, false, short, AntLing)),
            ("openrouter", "https://openrouter.ai/api/v1", "m", (true, false, true, true, long, Openrouter)),
            ("openrouter", "https://openrouter.ai/api/v1", "openai/m", (true, false, true, true, long, Openrouter)),
            ("xiaomi-token-plan-sgp", "https://llm.example.com", "m", (true, false, true, true, long, Openai)),
            ("ollama", "http://localhost:11434/v1", "m", (false, false, false, false, short, Openai)),
            ("openai", "http://127.0.0.1:8080/v1", "m", (false, false, false, false, short, Openai)),
            ("mine", "https://llm.example.com/v1", "m", (false, false, false, false, short, Openai)),
            ("mine", "https://notx.ai/v1", "m", (false, false, false, false, short, Openai)),
        ] {
            let c = compat(provider, url, id, json!({}));
            let found = (
                c.store,
                c.developer_role,
                c.reasoning_effort,
                c.long_cache_retention,
                c.max_tokens_field,
                c.thinking_format,
            );
            assert_eq!(found, expected, "{provider} {url} {id}");
            assert_eq!(c.reasoning_content_always, provider == "deepseek", "{provider} {url}");
            assert_eq!(c.prompt_cache_key, url.contains("api.openai.com"), "{provider} {url}");
            assert!(c.usage_in_streaming && c.finish_reason && !c.strict_mode);
        }
        assert!(compat("openrouter", "https://openrouter.ai/api/v1", "anthropic/m", json!({})).cache_markers);
        assert!(!compat("openrouter", "https://openrouter.ai/api/v1", "m", json!({})).cache_markers);
    }

    #[test]
    fn every_row_says_something_that_is_understood() {
        assert!(SERVERS.len() > 10, "the table parses");
        for row in SERVERS.iter() {
            assert!(!row.hosts.is_empty() || !row.providers.is_empty());
            for provider in &row.providers {
                assert!(catalog::provider(provider).is_some(), "{provider}");
            }
            for (name, value) in &row.compat {
                let mut compat = Compat::HOSTED;
                compat.apply(&Map::from_iter([
                    ("sendSessionAffinityHeaders".to_string(), json!(true)),
                    (name.clone(), value.clone()),
                ]));
                assert_ne!(compat, Compat::HOSTED, "{name}: {value}");
            }
        }
    }

    #[test]
    fn explicit_flags_win() {
        let detected = compat("ollama", "http://localhost/v1", "m", json!({}));
        let c = compat(
            "ollama",
            "http://localhost/v1",
            "m",
            json!({"supportsStore":true,"maxTokensField":"max_completion_tokens",
            "thinkingFormat":"qwen","cacheControlFormat":"anthropic","requiresToolResultName":true,"promptCacheKeyMode":"enabled"}),
        );
        let expected = Compat {
            store: true,
            max_tokens_field: "max_completion_tokens",
            thinking_format: ThinkingFormat::Qwen,
            cache_markers: true,
            tool_result_name: true,
            prompt_cache_key: true,
            ..detected.clone()
        };
        assert_eq!(c, expected);
        assert_eq!(
            compat("ollama", "http://localhost/v1", "m", json!({"thinkingFormat":"?","supportsStore":"yes"})),
            detected
        );
    }

    #[test]
    fn affinity_headers() {
        use Affinity::*;
        let openrouter = "https://openrouter.ai/api/v1";
        for (url, flags, expected) in [
            ("https://h", json!({}), None),
            ("https://h", json!({"sendSessionAffinityHeaders":true}), Openai { session_id: true }),
            (
                "https://h",
                json!({"sendSessionAffinityHeaders":true,"sessionAffinityFormat":"openai-nosession"}),
                Openai { session_id: false },
            ),
            ("https://h", json!({"sendSessionAffinityHeaders":true,"sessionAffinityFormat":"openrouter"}), Openrouter),
            (openrouter, json!({}), Openrouter),
            (openrouter, json!({"sendSessionAffinityHeaders":true}), Openrouter),
            (openrouter, json!({"sendSessionAffinityHeaders":false}), None),
        ] {
            assert_eq!(compat("p", url, "m", flags.clone()).affinity, expected, "{url} {flags}");
        }
    }
}
