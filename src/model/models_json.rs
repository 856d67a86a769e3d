//! `models.json`: the user's own providers and models, and corrections of the built-in ones.

use super::definition::Definition;
use super::odd_values;
use crate::json::comments;
use serde::Deserialize;
use serde_json::{Map, Value};

/// The file's content: providers in the file's order.
#[derive(Default)]
pub(super) struct ModelsJson {
    providers: Vec<(String, UserProvider)>,
    odd: Vec<Odd>,
}

/// A part of the file that is of no use.
struct Odd {
    provider: String,
    /// `None` = the whole provider; empty for a part that no request can name.
    model: Option<String>,
    /// Names the part, and says what is wrong with it.
    reason: String,
}

/// What the file says about one provider, built-in or not.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct UserProvider {
    pub base_url: Option<String>,
    pub api: Option<String>,
    /// In the value syntax of `credentials`.
    pub api_key: Option<String>,
    pub headers: Map<String, Value>,
    /// The key goes into an `Authorization: Bearer` header, whatever the API's own custom is.
    pub auth_header: bool,
    pub compat: Map<String, Value>,
    pub models: Vec<Definition>,
    /// Corrections by model id.
    pub model_overrides: Map<String, Value>,
}

impl ModelsJson {
    /// Parses the file's text. A provider or a model whose entry is wrong costs itself; see [`ModelsJson::problem`].
    ///
    /// # Errors
    /// The file is of no use.
    pub(super) fn parse(text: &str) -> Result<ModelsJson, String> {
        let mut file = odd_values::object(comments::parse(text)?)?;
        let mut found = ModelsJson::default();
        let providers = match file.remove("providers") {
            None | Some(Value::Null) => Map::new(),
            Some(value) => odd_values::object(value).map_err(|what| format!("\"providers\" is {what}"))?,
        };
        for (id, value) in providers {
            if let Some(provider) = found.understand(&id, value) {
                found.providers.push((id, provider));
            }
        }
        Ok(found)
    }

    /// One provider's entry, without its models and overrides that are of no use.
    fn understand(&mut self, id: &str, value: Value) -> Option<UserProvider> {
        let mut odd = |model: Option<&str>, reason: String| {
            self.odd.push(Odd { provider: id.to_string(), model: model.map(str::to_string), reason });
        };
        let mut fields = match odd_values::object(value) {
            Ok(fields) => fields,
            Err(what) => {
                odd(None, format!("provider \"{id}\" is {what}"));
                return None;
            }
        };
        // Null is what some programs write for what they do not know.
        fields.retain(|_, value| !value.is_null());
        let models = match fields.remove("models") {
            None => Vec::new(),
            Some(Value::Array(models)) => models,
            Some(other) => {
                odd(None, format!("provider \"{id}\": \"models\" is {}, not a list", odd_values::kind(&other)));
                return None;
            }
        };
        let mut provider: UserProvider = match serde_json::from_value(Value::Object(fields)) {
            Ok(provider) => provider,
            Err(e) => {
                odd(None, format!("provider \"{id}\": {}", odd_values::without_value(&e)));
                return None;
            }
        };
        for (at, value) in models.into_iter().enumerate() {
            let name = value.get("id").and_then(Value::as_str).map(str::to_string);
            match definition(value) {
                Ok(model) if model.id.is_empty() => {
                    odd(Some(""), format!("provider \"{id}\": model {} has no \"id\"", at + 1));
                }
                Ok(model) => provider.models.push(model),
                Err(why) => {
                    let shown = name.clone().map_or_else(|| (at + 1).to_string(), |name| format!("\"{name}\""));
                    odd(Some(name.as_deref().unwrap_or_default()), format!("provider \"{id}\": model {shown}: {why}"));
                }
            }
        }
        provider.model_overrides.retain(|model, value| match definition(value.clone()) {
            Ok(_) => true,
            Err(why) => {
                odd(Some(""), format!("provider \"{id}\": override of \"{model}\" is left out: {why}"));
                false
            }
        });
        Some(provider)
    }

    /// What is wrong with the file, one line each.
    pub(super) fn problems(&self) -> impl Iterator<Item = String> {
        self.odd.iter().map(|odd| odd.reason.clone())
    }

    /// Why the file does not have a model that `named` accepts, by provider and id; of a provider that is of no use as a
    /// whole, the id is `None`.
    pub(super) fn problem(&self, named: impl Fn(&str, Option<&str>) -> bool) -> Option<&str> {
        self.odd.iter().find(|odd| named(&odd.provider, odd.model.as_deref())).map(|odd| odd.reason.as_str())
    }

    pub(super) fn provider(&self, id: &str) -> Option<&UserProvider> {
        self.providers.iter().find(|(known, _)| known == id).map(|(_, provider)| provider)
    }

    pub(super) fn providers(&self) -> impl Iterator<Item = (&str, &UserProvider)> {
        self.providers.iter().map(|(id, provider)| (id.as_str(), provider))
    }
}

/// A model's description or a correction of one.
fn definition(value: Value) -> Result<Definition, String> {
    let mut fields = odd_values::object(value).map_err(|what| format!("it is {what}"))?;
    fields.retain(|_, value| !value.is_null());
    serde_json::from_value(Value::Object(fields)).map_err(|e| odd_values::without_value(&e))
}

impl UserProvider {
    /// What the file lays over the model `id`: the provider's settings, then the override.
    pub(super) fn corrections(&self, id: &str) -> [Definition; 2] {
        let provider = Definition {
            api: None,
            base_url: self.base_url.clone(),
            headers: self.headers.clone(),
            compat: self.compat.clone(),
            ..Definition::default()
        };
        let over = self.model_overrides.get(id).and_then(|value| definition(value.clone()).ok());
        [provider, over.unwrap_or_default()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_file_is_an_error() {
        for (text, expected) in [
            ("{", "EOF while parsing"),
            ("[]", "a list, not an object"),
            (r#"{"providers":["secret"]}"#, "\"providers\" is a list, not an object"),
        ] {
            let error = ModelsJson::parse(text).err().expect(text);
            assert!(error.starts_with(expected) && !error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn an_odd_part_costs_itself_and_is_named() {
        let good = r#""good":{"baseUrl":"http://h","models":[{"id":"m"}]}"#;
        for (odd, model, expected) in [
            (r#""a":"secret""#, None, "provider \"a\" is a text, not an object"),
            (r#""a":{"baseUrl":5}"#, None, "provider \"a\": invalid type: integer, expected a string"),
            (r#""a":{"headers":"secret"}"#, None, "provider \"a\": invalid type: string, expected"),
            (r#""a":{"models":{}}"#, None, "provider \"a\": \"models\" is an object, not a list"),
            (r#""a":{"models":[{"id":"x"},{"name":"y"}]}"#, Some(""), "provider \"a\": model 2 has no \"id\""),
            (
                r#""a":{"models":[{"id":"x"},{"id":"y","input":7}]}"#,
                Some("y"),
                "provider \"a\": model \"y\": invalid type",
            ),
            (r#""a":{"models":[{"id":"x"},"secret"]}"#, Some(""), "provider \"a\": model 2: it is a text"),
            (
                r#""a":{"models":[{"id":"x"}],"modelOverrides":{"m":{"maxTokens":"secret"}}}"#,
                Some(""),
                "provider \"a\": override of \"m\"",
            ),
        ] {
            let models = ModelsJson::parse(&format!("{{\"providers\":{{{odd},{good}}}}}")).expect(odd);
            let [problem] = &models.problems().collect::<Vec<_>>()[..] else { panic!("one is wrong: {odd}") };
            assert!(problem.starts_with(expected) && !problem.contains("secret"), "{problem}");
            assert_eq!(models.problem(|provider, id| (provider, id) == ("a", model)), Some(problem.as_str()));
            assert_eq!(models.provider("good").map(|p| p.models.len()), Some(1));
            // The rest of the provider holds, if only a part of it was wrong.
            assert_eq!(models.provider("a").map(|p| p.models.len()), model.map(|_| 1), "{odd}");
        }
    }

    #[test]
    fn null_is_what_is_not_known() {
        let text = r#"{"providers":{"a":{"baseUrl":null,"headers":null,"models":[{"id":"m","headers":null,"maxTokens":null,
            "compat":null,"thinkingLevelMap":{"off":null}}],"modelOverrides":null}},"more":null}"#;
        let models = ModelsJson::parse(text).expect("it parses");
        assert_eq!((models.problems().count(), models.provider("a").map(|p| p.models.len())), (0, Some(1)));
        assert!(ModelsJson::parse(r#"{"providers":null}"#).is_ok());
    }
}
