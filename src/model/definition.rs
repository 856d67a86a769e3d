//! A model as files describe it, and the layering of such descriptions: built-in catalog, then `models.json`.

use super::{Api, Model, Rates, Secret};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// For models whose file entry names no window; tokens.
const DEFAULT_CONTEXT_WINDOW: u64 = 128_000;
/// For models whose file entry names no output limit; tokens.
const DEFAULT_MAX_TOKENS: u64 = 16_384;

/// The description of a model, in the form of the catalog or of `models.json`. Absent fields are inherited.
#[derive(Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Definition {
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
    pub context_window: Option<u64>,
    pub max_tokens: Option<u64>,
    /// The catalog's way to limit the images of a request.
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
pub struct InputLimits {
    /// Of the whole body.
    pub max_request_bytes: Option<u64>,
    pub images: ImageLimits,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ImageLimits {
    pub max_per_request: Option<u64>,
}

/// US dollars per million tokens: `[input, output, cacheRead, cacheWrite]`, or by name.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(untagged)]
pub enum Price {
    List([f64; 4]),
    #[serde(rename_all = "camelCase")]
    Named {
        input: Option<f64>,
        output: Option<f64>,
        cache_read: Option<f64>,
        cache_write: Option<f64>,
    },
}

impl Price {
    /// The rates, where what is not named here is as in `below`.
    fn over(&self, below: Rates) -> Rates {
        match *self {
            Price::List([input, output, cache_read, cache_write]) => Rates { input, output, cache_read, cache_write },
            Price::Named { input, output, cache_read, cache_write } => Rates {
                input: input.unwrap_or(below.input),
                output: output.unwrap_or(below.output),
                cache_read: cache_read.unwrap_or(below.cache_read),
                cache_write: cache_write.unwrap_or(below.cache_write),
            },
        }
    }
}

/// What all models of a provider inherit.
#[derive(Clone, Copy, Debug)]
pub struct Inherited<'a> {
    pub provider: &'a str,
    pub api: Option<&'a str>,
    pub base_url: Option<&'a str>,
    pub max_images: Option<u64>,
    pub max_request_bytes: Option<u64>,
}

impl Definition {
    /// Puts `over` on top of this description: its fields win, objects field by field.
    pub fn overlay(mut self, over: Definition) -> Definition {
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
            id: self.id,
            name: over.name.or(self.name),
            api: over.api.or(self.api),
            base_url: over.base_url.or(self.base_url),
            reasoning: over.reasoning.or(self.reasoning),
            images: over.images.or(over.input.as_ref().map(|i| takes_images(i))).or(self.images),
            input: over.input.or(self.input),
            cost: price,
            context_window: over.context_window.or(self.context_window),
            max_tokens: over.max_tokens.or(self.max_tokens),
            max_images: over.max_images.or(over.input_limits.images.max_per_request).or(self.max_images),
            input_limits: InputLimits {
                max_request_bytes: over.input_limits.max_request_bytes.or(self.input_limits.max_request_bytes),
                images: ImageLimits {
                    max_per_request: over
                        .input_limits
                        .images
                        .max_per_request
                        .or(self.input_limits.images.max_per_request),
                },
            },
            thinking_level_map: (!levels.is_empty()).then_some(levels),
            headers: self.headers,
            compat: self.compat,
            sampling_params: self.sampling_params,
        }
    }

    /// The model, or why there is none.
    pub fn into_model(mut self, from: Inherited<'_>) -> Result<Model, String> {
        let spec = format!("{}/{}", from.provider, self.id);
        let api = self.api.as_deref().or(from.api).ok_or_else(|| format!("{spec} has no \"api\""))?;
        let api = Api::parse(api).ok_or_else(|| format!("{spec}: the API \"{api}\" is not supported"))?;
        let base_url =
            self.base_url.as_deref().or(from.base_url).ok_or_else(|| format!("{spec} has no \"baseUrl\""))?;
        if !self.sampling_params.is_empty() {
            self.compat.insert("samplingParams".to_string(), Value::Object(self.sampling_params));
        }
        Ok(Model {
            name: self.name.unwrap_or_else(|| self.id.clone()),
            id: self.id,
            provider: from.provider.to_string(),
            api,
            base_url: base_url.trim_end_matches('/').to_string(),
            reasoning: self.reasoning.unwrap_or(false),
            images: self.images.or(self.input.as_ref().map(|i| takes_images(i))).unwrap_or(false),
            rates: self.cost.map(|c| c.over(Rates::default())).unwrap_or_default(),
            context_window: self.context_window.unwrap_or(DEFAULT_CONTEXT_WINDOW),
            max_tokens: self.max_tokens.unwrap_or(DEFAULT_MAX_TOKENS),
            max_images: self.max_images.or(self.input_limits.images.max_per_request).or(from.max_images),
            max_request_bytes: self.input_limits.max_request_bytes.or(from.max_request_bytes),
            thinking_level_map: self.thinking_level_map.unwrap_or_default(),
            headers: self.headers.into_iter().filter_map(|(k, v)| Some((k, Secret::new(v.as_str()?)))).collect(),
            compat: self.compat,
        })
    }
}

fn takes_images(input: &[String]) -> bool {
    input.iter().any(|kind| kind == "image")
}

fn price_of(rates: Rates) -> Price {
    Price::List([rates.input, rates.output, rates.cache_read, rates.cache_write])
}

/// Puts `over` on top of `below`, nested objects field by field.
pub fn merge(below: &mut Map<String, Value>, over: Map<String, Value>) {
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

    const FROM: Inherited<'_> = Inherited {
        provider: "p",
        api: Some("openai-completions"),
        base_url: Some("http://h/v1/"),
        max_images: Some(600),
        max_request_bytes: None,
    };

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
    fn missing_and_unknown_facts_are_named() {
        let unknown = definition(json!({"id":"m","api":"smoke-signals"})).into_model(FROM).expect_err("unknown");
        assert_eq!(unknown, "p/m: the API \"smoke-signals\" is not supported");
        let none = Inherited { api: None, base_url: None, ..FROM };
        assert_eq!(definition(json!({"id":"m"})).into_model(none).expect_err("none"), "p/m has no \"api\"");
        let model = definition(json!({"id":"m"})).into_model(FROM).expect("defaults do");
        assert_eq!((model.name.as_str(), model.context_window, model.max_tokens), ("m", 128_000, 16_384));
    }
}
