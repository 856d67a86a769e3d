//! The built-in catalog of providers and models.
//!
//! `catalog.jsonl` has one provider per line, in the order in which a default model is looked for. It is read in place:
//! nothing is parsed before it is asked for, and nothing parsed is kept, so that an idle daemon pays nothing for it.
//! Fields: `api` and `baseUrl` hold for models that do not name their own; `env` names the variables that may hold the
//! key, the first one set wins; `cost` is `[input, output, cacheRead, cacheWrite]` in US dollars per million tokens;
//! `contextWindow` and `maxTokens` are tokens; `thinkingLevelMap` and `compat` are as in `models.json`.

use super::definition::Definition;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::sync::OnceLock;

const CATALOG: &str = include_str!("catalog.jsonl");

/// One provider of the catalog.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Provider {
    pub api: &'static str,
    pub base_url: &'static str,
    pub env: Vec<&'static str>,
    pub default_model: &'static str,
    #[serde(borrow)]
    models: Vec<&'static RawValue>,
}

/// Every line with its provider's id, which it begins with, so that no model has to be parsed to find it.
fn lines() -> &'static [(&'static str, &'static str)] {
    static LINES: OnceLock<Vec<(&str, &str)>> = OnceLock::new();
    LINES.get_or_init(|| {
        let id = |line: &'static str| line.strip_prefix(r#"{"id":""#)?.split('"').next();
        CATALOG.lines().filter_map(|line| Some((id(line)?, line))).collect()
    })
}

/// The ids of all providers, in catalog order.
pub fn provider_ids() -> impl Iterator<Item = &'static str> {
    lines().iter().map(|(id, _)| *id)
}

pub fn provider(id: &str) -> Option<Provider> {
    let (_, line) = lines().iter().find(|(known, _)| *known == id)?;
    serde_json::from_str(line).ok()
}

impl Provider {
    /// The ids of its models.
    pub fn model_ids(&self) -> impl Iterator<Item = &'static str> {
        #[derive(Deserialize)]
        struct Id {
            id: &'static str,
        }
        self.models.iter().filter_map(|raw| serde_json::from_str::<Id>(raw.get()).ok()).map(|m| m.id)
    }

    /// The model of that id, which is matched exactly.
    pub fn model(&self, id: &str) -> Option<Definition> {
        let (_, raw) = self.model_ids().zip(&self.models).find(|(known, _)| *known == id)?;
        serde_json::from_str(raw.get()).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::definition::Inherited;

    #[test]
    fn every_entry_is_a_model() {
        assert_eq!(lines().len(), CATALOG.lines().count(), "every line begins with an id");
        let mut models = 0;
        for name in provider_ids() {
            let p = provider(name).expect("it parses");
            assert_eq!(p.model_ids().count(), p.models.len(), "{name}");
            assert!(p.model(p.default_model).is_some(), "{name}");
            assert!(!p.env.is_empty(), "{name}");
            for id in p.model_ids() {
                let from = Inherited { provider: name, api: Some(p.api), base_url: Some(p.base_url) };
                let model = p.model(id).expect("it parses").into_model(from).expect("it is whole");
                assert!(model.max_tokens > 0 && model.context_window >= model.max_tokens / 2, "{}", model.spec());
                models += 1;
            }
        }
        assert!(models > 600, "{models}");
        assert_eq!(provider_ids().next(), Some("anthropic"));
        assert!(provider("nobody").is_none());
    }
}
