//! Which models there are: the catalog with the user's `models.json` on top, and the offline model; and how the text a
//! caller writes becomes one of them.

use super::definition::{Definition, Inherited};
use super::model_info::{Model, ModelError};
use super::models_json::ModelsJson;
use super::thinking::ThinkingLevel;
use super::{catalog, offline};

/// At most so many suggestions are in an error.
const MAX_SUGGESTIONS: usize = 5;

/// The models as of now.
pub(super) struct Registry<'a> {
    pub user: &'a ModelsJson,
    /// Whether a provider has credentials: breaks ties between providers that have a model of the same id.
    pub usable: &'a dyn Fn(&str) -> bool,
}

impl Registry<'_> {
    /// Every provider's id: built-in ones in catalog order, then the user's own, then the offline one.
    pub(super) fn provider_ids(&self) -> Vec<&str> {
        let mut ids: Vec<&str> = catalog::providers().map(|p| p.id).collect();
        for (id, _) in self.user.providers() {
            if !ids.contains(&id) {
                ids.push(id);
            }
        }
        ids.push(offline::PROVIDER);
        ids
    }

    /// The ids of a provider's models.
    pub(super) fn model_ids(&self, provider: &str) -> Vec<&str> {
        if provider == offline::PROVIDER {
            return vec![offline::ID];
        }
        let user = self.user.provider(provider).into_iter().flat_map(|p| &p.models);
        let mut ids: Vec<&str> = user.map(|m| m.id.as_str()).collect();
        let own = ids.len();
        for id in catalog::provider(provider).into_iter().flat_map(|p| p.model_ids()) {
            if !ids[..own].contains(&id) {
                ids.push(id);
            }
        }
        ids
    }

    /// The model of exactly that name; an error if its description is of no use, `None` if there is none.
    pub(super) fn find(&self, provider: &str, id: &str) -> Option<Result<Model, ModelError>> {
        if provider == offline::PROVIDER {
            return (id == offline::ID).then(|| Ok(offline::model()));
        }
        let wrong = |of: &str, model: Option<&str>| of == provider && model.is_none_or(|model| model == id);
        if let Some(reason) = self.user.problem(wrong) {
            return Some(Err(ModelError::Invalid(format!("models.json: {reason}"))));
        }
        let built_in = catalog::provider(provider);
        let user = self.user.provider(provider);
        let own = user.and_then(|p| p.models.iter().find(|m| m.id == id));
        let definition = match (own, user) {
            (Some(own), Some(user)) => {
                let [provider, corrections] = user.corrections(id);
                let below = built_in.map_or_else(Definition::default, |p| p.defaults()).overlay(provider);
                below.overlay(own.clone()).overlay(corrections)
            }
            _ => {
                let known = built_in?.model(id)?;
                user.into_iter().flat_map(|p| p.corrections(id)).fold(known, Definition::overlay)
            }
        };
        let inherited = Inherited {
            provider,
            api: user.and_then(|p| p.api.as_deref()).or(built_in.map(|p| p.api)),
            base_url: user.and_then(|p| p.base_url.as_deref()).or(built_in.map(|p| p.base_url)),
        };
        Some(definition.into_model(inherited).map_err(|reason| ModelError::Invalid(format!("models.json: {reason}"))))
    }

    /// The model that `spec` names, with the thinking level it asks for. Names are matched without regard to case, in
    /// this order: `provider/model`, a bare id that is unique (or unique among providers with credentials), and either
    /// of these with `:level` behind it. The whole text is tried first, because ids may hold colons and slashes.
    pub(super) fn resolve(&self, spec: &str) -> Result<(Model, Option<ThinkingLevel>), ModelError> {
        let spec = spec.trim();
        if let Some(found) = self.named(spec)? {
            return Ok((found, None));
        }
        if let Some((front, level)) = spec.rsplit_once(':')
            && let Some(level) = ThinkingLevel::parse(level)
            && let Some(found) = self.named(front)?
        {
            return Ok((found, Some(level)));
        }
        Err(ModelError::Unknown { spec: spec.to_string(), near: self.near(spec) })
    }

    fn named(&self, name: &str) -> Result<Option<Model>, ModelError> {
        let in_provider = self.in_named_provider(name);
        // The named provider wins if it can be used; else an id that happens to look like `provider/model` may win.
        if let Some((provider, id)) = &in_provider
            && (self.usable)(provider)
        {
            return self.find(provider, id).transpose();
        }
        let mut owners = self.owners(name);
        let usable: Vec<_> = owners.iter().filter(|(provider, _)| (self.usable)(provider)).cloned().collect();
        // Where a provider is named, a mere likeness at another one that cannot even be used is a typing error.
        if usable.len() == 1 || self.provider_ids().iter().any(|p| after_provider(name, p).is_some()) {
            owners = usable;
        }
        match (in_provider, owners.as_slice()) {
            (Some(_), [(provider, id)]) if (self.usable)(provider) => self.find(provider, id).transpose(),
            (Some((provider, id)), _) => self.find(&provider, &id).transpose(),
            (None, []) => Ok(None),
            (None, [(provider, id)]) => self.find(provider, id).transpose(),
            (None, several) => Err(ModelError::Ambiguous {
                spec: name.to_string(),
                candidates: several.iter().map(|(provider, id)| format!("{provider}/{id}")).collect(),
            }),
        }
    }

    /// Reads `name` as `provider/model`. Provider ids may hold slashes: the longest one that fits counts.
    fn in_named_provider(&self, name: &str) -> Option<(String, String)> {
        let providers = self.provider_ids().into_iter();
        let mut fitting: Vec<_> = providers.filter_map(|id| Some((id, after_provider(name, id)?))).collect();
        fitting.sort_by_key(|(id, _)| std::cmp::Reverse(id.len()));
        fitting.into_iter().find_map(|(id, rest)| Some((id.to_string(), pick(&self.model_ids(id), rest)?)))
    }

    /// All `(provider, id)` whose id is `name`. The offline model has to be named with its provider.
    fn owners(&self, name: &str) -> Vec<(String, String)> {
        let providers = self.provider_ids().into_iter().filter(|p| *p != offline::PROVIDER);
        providers.filter_map(|p| Some((p.to_string(), pick(&self.model_ids(p), name)?))).collect()
    }

    /// Models whose name resembles `spec`, best first.
    fn near(&self, spec: &str) -> Vec<String> {
        let front = spec.rsplit_once(':').filter(|(_, level)| ThinkingLevel::parse(level).is_some());
        let wanted = front.map_or(spec, |(front, _)| front).to_ascii_lowercase();
        let wanted_id = wanted.rsplit('/').next().unwrap_or(&wanted);
        let mut near: Vec<(bool, bool, usize, String)> = Vec::new();
        for provider in self.provider_ids() {
            let named = after_provider(spec, provider).is_some();
            for id in self.model_ids(provider) {
                let name = format!("{provider}/{id}");
                let lower = name.to_ascii_lowercase();
                let id = lower.rsplit('/').next().unwrap_or(&lower);
                let distance = edit_distance(id, wanted_id);
                let alike = distance <= 2 || id.contains(wanted_id) || wanted_id.contains(id);
                // Beyond half of its length, a likeness is chance.
                if alike || distance * 2 <= wanted_id.len() {
                    near.push((!alike, !named, distance * 10 + edit_distance(&lower, &wanted), name));
                }
            }
        }
        near.sort();
        near.into_iter().take(MAX_SUGGESTIONS).map(|(.., name)| name).collect()
    }
}

/// What follows `provider/` in `name`, if it begins so.
fn after_provider<'n>(name: &'n str, provider: &str) -> Option<&'n str> {
    let (front, rest) = name.split_at_checked(provider.len())?;
    rest.strip_prefix('/').filter(|_| front.eq_ignore_ascii_case(provider))
}

/// The id that is `name`: exactly, or but for case.
fn pick(ids: &[&str], name: &str) -> Option<String> {
    let exact = ids.iter().find(|id| **id == name);
    exact.or_else(|| ids.iter().find(|id| id.eq_ignore_ascii_case(name))).map(|id| id.to_string())
}

/// How many bytes have to be inserted, removed or replaced to turn one into the other (Levenshtein).
fn edit_distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.bytes().enumerate() {
            let above = row[j + 1];
            row[j + 1] = if x == y { diagonal } else { 1 + diagonal.min(above).min(row[j]) };
            diagonal = above;
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::model_info::Api;

    const USER: &str = r#"{"providers":{
        "local":{"baseUrl":"http://127.0.0.1:1/v1","api":"openai-completions","compat":{"a":1},
            "models":[{"id":"qwen:7b"},{"id":"gpt-6.1-sol"}]},
        "anthropic":{"baseUrl":"http://proxy","modelOverrides":{"claude-opus-5-5":{"maxTokens":7}}},
        "broken":{"models":[{"id":"x"}]}}}"#;

    fn resolve(spec: &str, usable: &[&str]) -> Result<(String, Option<ThinkingLevel>), ModelError> {
        let user = ModelsJson::parse(USER).expect("it parses");
        let usable = |p: &str| usable.contains(&p);
        let (model, level) = Registry { user: &user, usable: &usable }.resolve(spec)?;
        Ok((model.spec(), level))
    }

    #[test]
    fn specs_find_models() {
        use ThinkingLevel::High;
        for (spec, usable, expected, level) in [
            ("anthropic/claude-opus-5-5", &[][..], "anthropic/claude-opus-5-5", None),
            (" Anthropic/Claude-Opus-5-5:high", &[], "anthropic/claude-opus-5-5", Some(High)),
            ("claude-opus-5-5", &["anthropic"], "anthropic/claude-opus-5-5", None),
            ("qwen:7b", &[], "local/qwen:7b", None),
            ("local/qwen:7b:high", &[], "local/qwen:7b", Some(High)),
            ("openrouter/anthropic/claude-opus-4.5:high", &[], "openrouter/anthropic/claude-opus-4.5", Some(High)),
            ("gpt-6.1-sol", &["local"], "local/gpt-6.1-sol", None),
            ("anthropic/claude-opus-5.5", &["openrouter"], "openrouter/anthropic/claude-opus-5.5", None),
            ("openai/gpt-oss-120b", &["groq"], "groq/openai/gpt-oss-120b", None),
            ("offline/demo", &[], "offline/demo", None),
        ] {
            let found = resolve(spec, usable).unwrap_or_else(|e| panic!("{spec}: {e}"));
            assert_eq!(found, (expected.to_string(), level), "{spec}");
        }
    }

    #[test]
    fn failures_say_what_to_write_instead() {
        let error = resolve("anthropic/claude-opus-5.5:high", &[]).expect_err("a typo");
        assert!(error.to_string().contains("; similar: anthropic/claude-opus-5-5, "), "{error}");
        let error = resolve("gpt-6.1-sol", &[]).expect_err("several have it");
        assert!(matches!(&error, ModelError::Ambiguous { candidates, .. } if candidates.len() > 1), "{error}");
        let error = resolve("broken/x", &[]).expect_err("no api");
        assert_eq!(error.to_string(), "models.json: broken/x has no \"api\"");
        assert!(matches!(resolve("demo", &[]), Err(ModelError::Unknown { .. })), "offline only by its full name");
        assert!(matches!(resolve("", &[]), Err(ModelError::Unknown { .. })));
    }

    #[test]
    fn the_user_s_file_corrects_the_catalog() {
        let user = ModelsJson::parse(USER).expect("it parses");
        let registry = Registry { user: &user, usable: &|_| false };
        let model = registry.find("anthropic", "claude-opus-5-5").expect("there").expect("whole");
        assert_eq!((model.base_url.as_str(), model.max_tokens, model.images), ("http://proxy", 7, true));
        let model = registry.find("local", "qwen:7b").expect("there").expect("whole");
        assert_eq!((model.api, model.compat.get("a").is_some()), (Api::OpenaiCompletions, true));
        assert!(registry.find("local", "nothing").is_none());
    }

    #[test]
    fn distances() {
        for (a, b, n) in [("", "", 0), ("abc", "", 3), ("", "ab", 2), ("kitten", "sitting", 3), ("a.b", "a-b", 1)] {
            assert_eq!(edit_distance(a, b), n);
        }
    }
}
