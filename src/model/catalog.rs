//! The built-in catalog of providers and models.
//!
//! `catalog.json` has the providers in the order in which a default model is looked for, and each model in a line of its
//! own. The program has the providers' own fields and the models' ids as they are, since most questions are about those,
//! and the models packed, provider by provider. A model is unpacked each time it is asked for and nothing of it is kept,
//! so that an idle daemon pays next to nothing for them.
//!
//! Fields of a provider that are used: `api` and `baseUrl` hold for models that do not name their own; `env` names the
//! variables that may hold the key, the first one set wins; `needs` names further variables, which fill `{NAME}` in
//! `baseUrl`; `keyHeader` is the header that takes the key as a bearer token in place of the API's own; `sessionHeader`
//! is one that has to name the session in every request; `headers` are sent with every request; `maxRequestBytes` and
//! `maxImages` limit a request. Fields of a model: `cost` is `[input, output, cacheRead, cacheWrite]` in US dollars per
//! million tokens, and `costTiers` lists the same for long prompts, each with the length that it is above, in front;
//! `contextWindow` and `maxTokens` are tokens; `thinkingLevelMap` and `compat` are as in `models.json`.

use super::definition::{Definition, ImageLimits, InputLimits};
use flate2::bufread::DeflateDecoder;
use serde::Deserialize;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::sync::LazyLock;

/// The providers with the ids of their models, one per line, as the build script wrote them.
const PROVIDERS: &str = include_str!(concat!(env!("OUT_DIR"), "/providers.jsonl"));

/// All models, as the build script packed them.
const PACKED: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/models.deflate"));

static CATALOG: LazyLock<Vec<Provider>> = LazyLock::new(|| {
    // No line can be wrong, as it is part of the program; the tests see that none is.
    PROVIDERS.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
});

/// A provider with what holds for all of its models.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Provider {
    pub id: &'static str,
    pub api: &'static str,
    pub base_url: &'static str,
    pub env: Vec<&'static str>,
    #[serde(default)]
    pub needs: Vec<&'static str>,
    pub key_header: Option<&'static str>,
    pub session_header: Option<&'static str>,
    #[serde(default)]
    headers: BTreeMap<&'static str, &'static str>,
    max_images: Option<u64>,
    max_request_bytes: Option<u64>,
    pub default_model: &'static str,
    /// Where in [`PACKED`] its models begin and end.
    packed: (usize, usize),
    /// The ids of its models, with a space between any two.
    models: &'static str,
}

/// All providers, in catalog order.
pub(super) fn providers() -> impl Iterator<Item = &'static Provider> {
    CATALOG.iter()
}

pub(super) fn provider(id: &str) -> Option<&'static Provider> {
    CATALOG.iter().find(|provider| provider.id == id)
}

impl Provider {
    /// The descriptions of its models, in lines of JSON.
    fn lines(&self) -> impl Iterator<Item = String> {
        let packed = PACKED.get(self.packed.0..self.packed.1).unwrap_or_default();
        BufReader::new(DeflateDecoder::new(packed)).lines().map_while(Result::ok)
    }

    /// The ids of its models.
    pub(super) fn model_ids(&self) -> impl Iterator<Item = &'static str> {
        self.models.split(' ')
    }

    /// The model of that id, which is matched exactly.
    pub(super) fn model(&self, id: &str) -> Option<Definition> {
        let at = self.model_ids().position(|known| known == id)?;
        self.definition(&self.lines().nth(at)?)
    }

    fn definition(&self, line: &str) -> Option<Definition> {
        serde_json::from_str(line).ok().map(|model| self.defaults().overlay(model))
    }

    /// What holds for all of its models, beside API and address.
    pub(super) fn defaults(&self) -> Definition {
        let header = |(name, value): (&&str, &&str)| (name.to_string(), Value::from(*value));
        Definition {
            headers: self.headers.iter().map(header).collect::<Map<_, _>>(),
            input_limits: InputLimits {
                max_request_bytes: self.max_request_bytes,
                images: ImageLimits { max_per_request: self.max_images },
            },
            ..Definition::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::definition::Inherited;
    use crate::model::model_info::Model;
    use crate::model::thinking::ThinkingLevel;

    fn whole(provider: &Provider, model: Definition) -> Model {
        let from = Inherited { provider: provider.id, api: Some(provider.api), base_url: Some(provider.base_url) };
        model.into_model(from).expect("it is whole")
    }

    fn model(provider_id: &str, id: &str) -> Model {
        let provider = provider(provider_id).expect("it is there");
        whole(provider, provider.model(id).expect("it is there"))
    }

    #[test]
    fn every_entry_is_a_model() {
        let (mut all, mut thinking, mut images, mut tiers) = (0, 0, 0, 0);
        assert_eq!(providers().count(), PROVIDERS.lines().count(), "every line is a provider");
        for provider in providers() {
            assert!(!provider.env.is_empty(), "{}", provider.id);
            assert!(provider.model(provider.default_model).is_some(), "{}", provider.id);
            assert_eq!(provider.lines().count(), provider.model_ids().count(), "{}", provider.id);
            for (line, id) in provider.lines().zip(provider.model_ids()) {
                let model = provider.definition(&line).unwrap_or_else(|| panic!("{}: {line}", provider.id));
                assert_eq!(model.id, id, "{}", provider.id);
                let model = whole(provider, model);
                let spec = model.spec();
                assert!(model.max_tokens > 0 && model.context_window >= model.max_tokens / 2, "{spec}");
                assert!(model.tiers.is_sorted_by(|a, b| a.above < b.above), "{spec}");
                // Every variable part of an address has a name that is known.
                let filled = provider.needs.iter().fold(model.base_url, |url, n| url.replace(&format!("{{{n}}}"), ""));
                assert!(!filled.contains(['{', '}']), "{spec}");
                all += 1;
                thinking += usize::from(model.reasoning);
                images += usize::from(model.images);
                tiers += usize::from(!model.tiers.is_empty());
            }
        }
        assert_eq!((providers().count(), all, thinking, images, tiers), (35, 1307, 1141, 960, 212));
        assert_eq!(providers().next().map(|p| p.id), Some("anthropic"));
        assert!(provider("nobody").is_none());
    }

    #[test]
    fn facts_of_providers_reach_their_models() {
        let opus = model("anthropic", "claude-opus-5-5");
        assert_eq!((opus.max_images, opus.max_request_bytes), (Some(600), Some(33_554_432)));
        let haiku = model("anthropic", "claude-haiku-4-5");
        assert_eq!((haiku.max_images, haiku.max_request_bytes), (Some(100), Some(33_554_432)), "its own limit");
        assert_eq!(model("groq", "openai/gpt-oss-120b").max_images, None);
        let headers = model("nvidia", provider("nvidia").expect("there").default_model).headers;
        let headers: Vec<_> = headers.iter().map(|(name, value)| (name.as_str(), value.reveal())).collect();
        assert_eq!(headers, [("NVCF-POLL-SECONDS", "3600")]);
        let gateway = provider("cloudflare-ai-gateway").expect("there");
        assert_eq!(gateway.key_header, Some("cf-aig-authorization"));
        assert_eq!(gateway.needs, ["CLOUDFLARE_ACCOUNT_ID", "CLOUDFLARE_GATEWAY_ID"]);
        assert_eq!(provider("opencode").expect("there").session_header, Some("x-opencode-session"));
    }

    #[test]
    fn levels_that_a_model_refuses_are_not_offered() {
        use ThinkingLevel::*;
        for (provider, id, asked, expected) in [
            ("openai", "gpt-6.2-sol", Off, Low),
            ("openai", "gpt-6.2-sol", Minimal, Low),
            ("anthropic", "claude-opus-5-5", Max, Max),
            ("anthropic", "claude-fable-5", Off, Minimal),
            ("deepseek", "deepseek-v4-pro", Low, High),
            ("groq", "llama-3.1-8b-instant", High, Off),
        ] {
            assert_eq!(model(provider, id).clamp(asked), expected, "{provider}/{id} {asked:?}");
        }
    }
}
