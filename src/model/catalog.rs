//! The built-in catalog of providers and models.
//!
//! `catalog.jsonl` has one provider per line, in the order in which a default model is looked for. The
//! program has it packed, as text of that kind shrinks to a tenth, and unpacks it when it is first asked for. Then it is
//! read in place: nothing is parsed before it is asked for, and nothing parsed is kept.
//!
//! Fields: `api` and `baseUrl` hold for models that do not name their own; `env` names the variables that may hold the
//! key, the first one set wins; `cost` is `[input, output, cacheRead, cacheWrite]` in US dollars per million tokens;
//! `contextWindow` and `maxTokens` are tokens; `thinkingLevelMap` and `compat` are as in `models.json`.

use super::definition::Definition;
use flate2::read::DeflateDecoder;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::io::Read;
use std::sync::LazyLock;

/// The catalog as the build script packed it.
const PACKED: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/catalog.deflate"));

static CATALOG: LazyLock<String> = LazyLock::new(|| {
    let mut catalog = String::with_capacity(256 * 1024);
    // It cannot fail, as what is unpacked is part of the program; the tests see that it does not.
    if let Err(error) = DeflateDecoder::new(PACKED).read_to_string(&mut catalog) {
        log::error!("the catalog of models is damaged: {error}");
    }
    catalog.shrink_to_fit();
    catalog
});

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

/// All providers, in catalog order.
pub fn providers() -> impl Iterator<Item = Provider> {
    CATALOG.lines().filter_map(|line| serde_json::from_str(line).ok())
}

pub fn provider(id: &str) -> Option<Provider> {
    let line = CATALOG.lines().find(|line| line_id(line) == id)?;
    serde_json::from_str(line).ok()
}

/// The ids of all providers, in catalog order.
pub fn provider_ids() -> impl Iterator<Item = &'static str> {
    CATALOG.lines().map(line_id)
}

/// Every line begins with its provider's id, which is thereby found without parsing the models.
fn line_id(line: &'static str) -> &'static str {
    line.strip_prefix(r#"{"id":""#).and_then(|rest| rest.split('"').next()).unwrap_or_default()
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
        assert_eq!(providers().count(), CATALOG.lines().count(), "every line parses");
        let mut models = 0;
        for (name, p) in provider_ids().zip(providers()) {
            assert_eq!(p.model_ids().count(), p.models.len(), "{name}");
            assert!(p.model(p.default_model).is_some(), "{name}");
            assert!(!p.env.is_empty() && provider(name).is_some_and(|q| q.env == p.env), "{name}");
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
