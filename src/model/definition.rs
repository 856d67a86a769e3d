//! A model as files describe it, and the layering of such descriptions: built-in catalog, then `models.json`.

use super::model_info::{Api, Model, Rates, Tier};
use super::secret_value::Secret;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// For models whose file entry names no window; tokens.
const DEFAULT_CONTEXT_WINDOW: u64 = 128_000;
/// For models whose file entry names no output limit; tokens.
const DEFAULT_MAX_TOKENS: u64 = 16_384;

/// The description of a model, in the form of the catalog or of `models.json`. Absent fields are inherited.
#[derive(Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Definition {
    pub id: String,
    pub name: Option<String>,
    pub api: Option<String>,
    pub base_url: Option<String>,
    pub reasoning: Option<bool>,
    /// The catalog's way to say that the model takes images.
    pub images: Option<bool>,
    /// The way of `models.json` to say so: `["text", "image"]`.
    pub input: Option<Vec<String>>,
    pub cost: Option<Price>,
    /// The catalog's way to state prices of long prompts.
    pub cost_tiers: Option<Vec<ListTier>>,
    #[serde(deserialize_with = "whole")]
    pub context_window: Option<u64>,
    #[serde(deserialize_with = "whole")]
    pub max_tokens: Option<u64>,
    /// The catalog's way to limit the images of a request.
    #[serde(deserialize_with = "whole")]
    pub max_images: Option<u64>,
    /// The way of `models.json` to limit a request.
    pub input_limits: InputLimits,
    pub thinking_level_map: Option<BTreeMap<String, Option<String>>>,
    pub headers: Map<String, Value>,
    pub compat: Map<String, Value>,
    /// Fields for the request's body, such as a temperature.
    pub sampling_params: Map<String, Value>,
}

/// The most that one request may hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct InputLimits {
    /// The size of the whole body.
    #[serde(deserialize_with = "whole")]
    pub max_request_bytes: Option<u64>,
    pub images: ImageLimits,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct ImageLimits {
    #[serde(deserialize_with = "whole")]
    pub max_per_request: Option<u64>,
}

/// US dollars per million tokens: `[input, output, cacheRead, cacheWrite]`, or by name.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(untagged)]
pub(super) enum Price {
    List([f64; 4]),
    #[serde(rename_all = "camelCase")]
    Named {
        input: Option<f64>,
        output: Option<f64>,
        cache_read: Option<f64>,
        cache_write: Option<f64>,
        tiers: Option<Vec<NamedTier>>,
    },
}

/// `[above, input, output, cacheRead, cacheWrite]`: the length of prompts that the rates are for, in tokens, and the rates.
pub(super) type ListTier = [f64; 5];

/// The rates of long prompts by name.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct NamedTier {
    input_tokens_above: f64,
    input: f64,
    output: f64,
    cache_read: f64,
    cache_write: f64,
}

impl Price {
    /// The rates, where what is not named here is as in `below`.
    fn over(&self, below: Rates) -> Rates {
        match *self {
            Price::List([input, output, cache_read, cache_write]) => Rates { input, output, cache_read, cache_write },
            Price::Named { input, output, cache_read, cache_write, .. } => Rates {
                input: input.unwrap_or(below.input),
                output: output.unwrap_or(below.output),
                cache_read: cache_read.unwrap_or(below.cache_read),
                cache_write: cache_write.unwrap_or(below.cache_write),
            },
        }
    }

    fn tiers(&self) -> Option<Vec<ListTier>> {
        let Price::Named { tiers: Some(tiers), .. } = self else { return None };
        let list = |t: &NamedTier| [t.input_tokens_above, t.input, t.output, t.cache_read, t.cache_write];
        Some(tiers.iter().map(list).collect())
    }
}

/// What all models of a provider inherit.
#[derive(Clone, Copy, Debug)]
pub(super) struct Inherited<'a> {
    pub provider: &'a str,
    pub api: Option<&'a str>,
    pub base_url: Option<&'a str>,
}

impl Definition {
    /// Puts `over` on top of this description: its fields win, objects field by field.
    pub(super) fn overlay(mut self, over: Definition) -> Definition {
        let cost_tiers = over.tiers().or_else(|| self.tiers());
        let max_images = over.images_per_request().or(self.images_per_request());
        let price = match (self.cost, over.cost) {
            (Some(below), Some(over)) => Some(price_of(over.over(below.over(Rates::default())))),
            (below, over) => over.or(below),
        };
        let mut levels = self.thinking_level_map.unwrap_or_default();
        levels.extend(over.thinking_level_map.unwrap_or_default());
        merge(&mut self.headers, over.headers);
        merge(&mut self.compat, over.compat);
        merge(&mut self.sampling_params, over.sampling_params);
        Definition {
            id: if self.id.is_empty() { over.id } else { self.id },
            name: over.name.or(self.name),
            api: over.api.or(self.api),
            base_url: over.base_url.or(self.base_url),
            reasoning: over.reasoning.or(self.reasoning),
            images: over.images.or(over.input.as_ref().map(|i| takes_images(i))).or(self.images),
            input: over.input.or(self.input),
            cost: price,
            cost_tiers,
            context_window: over.context_window.or(self.context_window),
            max_tokens: over.max_tokens.or(self.max_tokens),
            max_images,
            input_limits: InputLimits {
                max_request_bytes: over.input_limits.max_request_bytes.or(self.input_limits.max_request_bytes),
                ..InputLimits::default()
            },
            thinking_level_map: (!levels.is_empty()).then_some(levels),
            headers: self.headers,
            compat: self.compat,
            sampling_params: self.sampling_params,
        }
    }

    fn tiers(&self) -> Option<Vec<ListTier>> {
        self.cost.as_ref().and_then(Price::tiers).or_else(|| self.cost_tiers.clone())
    }

    fn images_per_request(&self) -> Option<u64> {
        self.max_images.or(self.input_limits.images.max_per_request)
    }

    /// The model, or why there is none.
    pub(super) fn into_model(mut self, from: Inherited<'_>) -> Result<Model, String> {
        let spec = format!("{}/{}", from.provider, self.id);
        let api = self.api.as_deref().or(from.api).ok_or_else(|| format!("{spec} has no \"api\""))?;
        let api = Api::parse(api).ok_or_else(|| format!("{spec}: the API \"{api}\" is not supported"))?;
        let base_url =
            self.base_url.as_deref().or(from.base_url).ok_or_else(|| format!("{spec} has no \"baseUrl\""))?;
        let tier = |[above, input, output, cache_read, cache_write]: ListTier| Tier {
            // A cast from a float saturates.
            above: above as u64,
            rates: Rates { input, output, cache_read, cache_write },
        };
        let mut tiers: Vec<Tier> = self.tiers().into_iter().flatten().map(tier).collect();
        tiers.sort_by_key(|tier| tier.above);
        let max_images = self.images_per_request();
        if !self.sampling_params.is_empty() {
            self.compat.insert("samplingParams".to_string(), Value::Object(self.sampling_params));
        }
        Ok(Model {
            max_images,
            name: self.name.unwrap_or_else(|| self.id.clone()),
            id: self.id,
            provider: from.provider.to_string(),
            api,
            base_url: base_url.trim_end_matches('/').to_string(),
            reasoning: self.reasoning.unwrap_or(false),
            images: self.images.or(self.input.as_ref().map(|i| takes_images(i))).unwrap_or(false),
            tiers,
            rates: self.cost.map(|c| c.over(Rates::default())).unwrap_or_default(),
            context_window: self.context_window.unwrap_or(DEFAULT_CONTEXT_WINDOW),
            max_tokens: self.max_tokens.unwrap_or(DEFAULT_MAX_TOKENS),
            max_request_bytes: self.input_limits.max_request_bytes,
            thinking_level_map: self.thinking_level_map.unwrap_or_default(),
            headers: self.headers.into_iter().filter_map(|(k, v)| Some((k, Secret::new(v.as_str()?)))).collect(),
            compat: self.compat,
        })
    }
}

/// A number of things, which some programs write as `16384.0`.
fn whole<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    let number: Option<serde_json::Number> = Option::deserialize(deserializer)?;
    let Some(number) = number else { return Ok(None) };
    let float = || number.as_f64().filter(|f| *f >= 0.0 && f.fract() == 0.0).map(|f| f as u64);
    let whole = number.as_u64().or_else(float);
    whole.map(Some).ok_or_else(|| serde::de::Error::custom(format!("{number} is no whole number of things")))
}

fn takes_images(input: &[String]) -> bool {
    input.iter().any(|kind| kind == "image")
}

fn price_of(rates: Rates) -> Price {
    Price::List([rates.input, rates.output, rates.cache_read, rates.cache_write])
}

/// Puts `over` on top of `below`, nested objects field by field.
pub(super) fn merge(below: &mut Map<String, Value>, over: Map<String, Value>) {
    for (key, value) in over {
        match (below.get_mut(&key), value) {
            (Some(Value::Object(below)), Value::Object(over)) => merge(below, over),
            (_, value) => {
                below.insert(key, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn definition(value: Value) -> Definition {
        serde_json::from_value(value).expect("a definition")
    }

    const FROM: Inherited<'_> =
        Inherited { provider: "p", api: Some("openai-completions"), base_url: Some("http://h/v1/") };

    #[test]
    fn overlays_win_field_by_field() {
        let below = definition(json!({"id":"m","reasoning":true,"images":true,"cost":[1,2,3,4],"contextWindow":10,
            "thinkingLevelMap":{"low":"l","off":null},"compat":{"a":1,"deep":{"x":1}}}));
        let over = definition(json!({"input":["text"],"cost":{"output":9},"maxTokens":5,"headers":{"H":"v"},
            "thinkingLevelMap":{"low":"L"},"compat":{"deep":{"y":2}}}));
        let model = below.overlay(over).into_model(FROM).expect("a model");
        assert_eq!(model.rates, Rates { input: 1.0, output: 9.0, cache_read: 3.0, cache_write: 4.0 });
        assert_eq!((model.images, model.reasoning, model.context_window, model.max_tokens), (false, true, 10, 5));
        assert_eq!(model.base_url, "http://h/v1");
        assert_eq!(model.headers, [("H".to_string(), Secret::new("v"))]);
        assert_eq!(Value::Object(model.compat), json!({"a":1,"deep":{"x":1,"y":2}}));
        assert_eq!(model.thinking_level_map.get("low"), Some(&Some("L".to_string())));
        assert_eq!(model.thinking_level_map.get("off"), Some(&None));
    }

    #[test]
    fn prices_of_long_prompts() {
        let tier = |above, factor: f64| Tier {
            above,
            rates: Rates { input: factor, output: 2.0 * factor, cache_read: 0.0, cache_write: 0.5 },
        };
        let catalog = json!({"id":"m","cost":[1,2,0,0.5],"costTiers":[[200000,2,4,0,0.5],[500000,3,6,0,0.5]]});
        let named = json!({"cost":{"input":9,"tiers":[
            {"inputTokensAbove":300000.0,"input":5,"output":10,"cacheRead":0,"cacheWrite":0.5},
            {"inputTokensAbove":100000,"input":4,"output":8,"cacheRead":0,"cacheWrite":0.5}]}});
        for (over, tiers, input) in [
            (json!({}), vec![tier(200_000, 2.0), tier(500_000, 3.0)], 1.0),
            // What is not named stays as it was.
            (json!({"cost":{"input":7}}), vec![tier(200_000, 2.0), tier(500_000, 3.0)], 7.0),
            (named, vec![tier(100_000, 4.0), tier(300_000, 5.0)], 9.0),
            (json!({"cost":{"tiers":[]}}), vec![], 1.0),
        ] {
            let model = definition(catalog.clone()).overlay(definition(over)).into_model(FROM).expect("a model");
            assert_eq!((model.tiers, model.rates.input), (tiers, input));
        }
        let partial = json!({"cost":{"tiers":[{"inputTokensAbove":1,"input":1}]}});
        assert!(serde_json::from_value::<Definition>(partial).is_err(), "a tier has all its rates");
    }

    #[test]
    fn whole_numbers_may_have_a_point() {
        let model = definition(json!({"id":"m","contextWindow":16384.0,"maxTokens":1e3,
            "inputLimits":{"maxRequestBytes":5.0,"images":{"maxPerRequest":7,"maxPerMessage":3,"resize":{"maxWidth":1}}}}))
        .into_model(FROM)
        .expect("a model");
        assert_eq!((model.context_window, model.max_tokens), (16_384, 1000));
        assert_eq!((model.max_request_bytes, model.max_images), (Some(5), Some(7)));
        for wrong in [json!(0.5), json!(-1), json!("16384"), json!([1])] {
            assert!(serde_json::from_value::<Definition>(json!({"id":"m","maxTokens":wrong})).is_err(), "{wrong}");
        }
    }

    #[test]
    fn missing_and_unknown_facts_are_named() {
        let unknown = definition(json!({"id":"m","api":"smoke-signals"})).into_model(FROM).expect_err("unknown");
        assert_eq!(unknown, "p/m: the API \"smoke-signals\" is not supported");
        let none = Inherited { api: None, base_url: None, ..FROM };
        assert_eq!(definition(json!({"id":"m"})).into_model(none).expect_err("none"), "p/m has no \"api\"");
        let model = definition(json!({"id":"m"})).into_model(FROM).expect("defaults do");
        assert_eq!((model.name.as_str(), model.context_window, model.max_tokens), ("m", 128_000, 16_384));
    }
}
