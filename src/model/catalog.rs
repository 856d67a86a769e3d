//! The built-in catalog of providers and models.
//!
//! `catalog.jsonl` has one provider per line, in the order in which a default model is looked for. The program has it
//! packed, as text of that kind shrinks to a tenth, and unpacks it when it is first asked for. Then it is read in place: a
//! provider's line is parsed when that provider is first asked for, and of it only the names are kept (some 25 KiB for
//! all), while models are parsed anew each time, so that an idle daemon pays next to nothing for it.
//!
//! Fields: `api` and `baseUrl` hold for models that do not name their own; `env` names the variables that may hold the
//! key, the first one set wins; `cost` is `[input, output, cacheRead, cacheWrite]` in US dollars per million tokens;
//! `contextWindow` and `maxTokens` are tokens; `thinkingLevelMap` and `compat` are as in `models.json`.

use super::definition::Definition;
use flate2::read::DeflateDecoder;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::io::Read;
use std::sync::{LazyLock, OnceLock};

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
pub struct Provider {
    pub api: &'static str,
    pub base_url: &'static str,
    pub env: Vec<&'static str>,
    pub default_model: &'static str,
    /// The most images that one request may hold.
    pub max_images: Option<u64>,
    /// The largest body of a request, in bytes.
    pub max_request_bytes: Option<u64>,
    /// Ids with the text of their models.
    models: Vec<(&'static str, &'static str)>,
}

/// A line of the catalog. It begins with its provider's id, so that nothing has to be parsed to find it.
struct Line {
    id: &'static str,
    text: &'static str,
    provider: OnceLock<Option<Provider>>,
}

fn lines() -> &'static [Line] {
    static LINES: OnceLock<Vec<Line>> = OnceLock::new();
    LINES.get_or_init(|| {
        let id = |text: &'static str| text.strip_prefix(r#"{"id":""#)?.split('"').next();
        CATALOG.lines().filter_map(|text| Some(Line { id: id(text)?, text, provider: OnceLock::new() })).collect()
    })
}

/// The ids of all providers, in catalog order.
pub fn provider_ids() -> impl Iterator<Item = &'static str> {
    lines().iter().map(|line| line.id)
}

pub fn provider(id: &str) -> Option<&'static Provider> {
    let line = lines().iter().find(|line| line.id == id)?;
    line.provider.get_or_init(|| Provider::parse(line.text)).as_ref()
}

impl Provider {
    fn parse(line: &'static str) -> Option<Provider> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Raw {
            api: &'static str,
            base_url: &'static str,
            env: Vec<&'static str>,
            default_model: &'static str,
            max_images: Option<u64>,
            max_request_bytes: Option<u64>,
            #[serde(borrow)]
            models: Vec<&'static RawValue>,
        }
        #[derive(Deserialize)]
        struct Id {
            id: &'static str,
        }
        let raw: Raw = serde_json::from_str(line).ok()?;
        let id = |text: &'static str| serde_json::from_str::<Id>(text).ok();
        let models = raw.models.iter().filter_map(|model| Some((id(model.get())?.id, model.get())));
        Some(Provider {
            api: raw.api,
            base_url: raw.base_url,
            env: raw.env,
            default_model: raw.default_model,
            max_images: raw.max_images,
            max_request_bytes: raw.max_request_bytes,
            models: models.collect(),
        })
    }

    /// The ids of its models.
    pub fn model_ids(&self) -> impl Iterator<Item = &'static str> {
        self.models.iter().map(|(id, _)| *id)
    }

    /// The model of that id, which is matched exactly.
    pub fn model(&self, id: &str) -> Option<Definition> {
        let (_, text) = self.models.iter().find(|(known, _)| *known == id)?;
        serde_json::from_str(text).ok()
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
            let text = lines().iter().find(|line| line.id == name).map_or("", |line| line.text);
            assert_eq!(p.models.len(), text.matches("{\"id\":").count() - 1, "{name}");
            assert!(p.model(p.default_model).is_some(), "{name}");
            assert!(!p.env.is_empty(), "{name}");
            for id in p.model_ids() {
                let from = Inherited {
                    provider: name,
                    api: Some(p.api),
                    base_url: Some(p.base_url),
                    max_images: p.max_images,
                    max_request_bytes: p.max_request_bytes,
                };
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
