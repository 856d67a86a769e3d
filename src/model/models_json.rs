//! `models.json`: the user's own providers and models, and corrections of the built-in ones.

use super::definition::Definition;
use crate::jsonc;
use serde::Deserialize;
use serde_json::{Map, Value};

/// The file's content: providers in the file's order.
#[derive(Default)]
pub struct ModelsJson {
    providers: Vec<(String, UserProvider)>,
}

/// What the file says about one provider, built-in or not.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct UserProvider {
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
    /// Parses the file's text; the error names the provider whose entry is wrong.
    pub fn parse(text: &str) -> Result<ModelsJson, String> {
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct File {
            providers: Map<String, Value>,
        }
        let file: File = serde_json::from_str(&jsonc::to_json(text)).map_err(|e| e.to_string())?;
        let mut providers = Vec::new();
        for (id, value) in file.providers {
            let provider: UserProvider =
                serde_json::from_value(value).map_err(|e| format!("provider \"{id}\": {e}"))?;
            if let Some(at) = provider.models.iter().position(|m| m.id.is_empty()) {
                return Err(format!("provider \"{id}\": model {} has no \"id\"", at + 1));
            }
            for (model, value) in &provider.model_overrides {
                Definition::deserialize(value)
                    .map_err(|e| format!("provider \"{id}\", override of \"{model}\": {e}"))?;
            }
            providers.push((id, provider));
        }
        Ok(ModelsJson { providers })
    }

    pub fn provider(&self, id: &str) -> Option<&UserProvider> {
        self.providers.iter().find(|(known, _)| known == id).map(|(_, provider)| provider)
    }

    pub fn providers(&self) -> impl Iterator<Item = (&str, &UserProvider)> {
        self.providers.iter().map(|(id, provider)| (id.as_str(), provider))
    }
}

impl UserProvider {
    /// What the file lays over the model `id`: the provider's settings, then the override.
    pub fn corrections(&self, id: &str) -> [Definition; 2] {
        let provider = Definition {
            api: None,
            base_url: self.base_url.clone(),
            headers: self.headers.clone(),
            compat: self.compat.clone(),
            ..Definition::default()
        };
        let over = self.model_overrides.get(id).and_then(|value| Definition::deserialize(value).ok());
        [provider, over.unwrap_or_default()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_name_the_place() {
        for (text, expected) in [
            ("{", "EOF while parsing"),
            (r#"{"providers":{"a":{"models":[{"id":"x"},{"name":"y"}]}}}"#, "provider \"a\": model 2 has no \"id\""),
            (r#"{"providers":{"a":{"baseUrl":5}}}"#, "provider \"a\": invalid type"),
            (r#"{"providers":{"a":{"modelOverrides":{"m":{"maxTokens":"x"}}}}}"#, "provider \"a\", override of \"m\""),
        ] {
            let error = ModelsJson::parse(text).err().expect(text);
            assert!(error.starts_with(expected), "{error}");
        }
    }
}
