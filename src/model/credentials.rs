//! Who pays: the key or token for a provider. It is looked up for every request, in this order: `auth.json`, the
//! `apiKey` of `models.json`, the provider's environment variables. An entry in `auth.json` owns its provider: if it is
//! of no use, that is an error, and nothing further is tried.

mod stored;

use super::config_file::ConfigFile;
use super::model_info::{Api, Model, ModelError};
use super::models_json::ModelsJson;
use super::oauth::{self, Endpoints, Refresher};
use super::request::RequestError;
use super::secret_value::{Secret, evaluate};
use super::{catalog, http};
use crate::cancel::Cancel;
use crate::clock::now_ms;
use crate::sync::lock;
use std::borrow::Cow;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::{Arc, Once};
use stored::{AuthFile, Entry};

/// Anthropic's sign-in tokens carry this mark; they are bearer tokens, and a beta header has to go with them.
const ANTHROPIC_SIGN_IN: &str = "sk-ant-oat";

/// How a key is presented.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// In the API's own header.
    Key,
    Bearer,
    /// As bearer token of a signed-in Anthropic user.
    AnthropicSignIn,
}

/// Whether the model's requests carry a bearer token, or can do so.
fn takes_bearer(model: &Model, user: &ModelsJson) -> bool {
    // OpenRouter takes its keys as bearer tokens on all of its APIs.
    ["anthropic", "openrouter"].contains(&model.provider.as_str())
        || matches!(model.api, Api::OpenaiCompletions | Api::OpenaiResponses)
        || user.provider(&model.provider).is_some_and(|p| p.auth_header)
}

/// What a request carries to be let in.
#[derive(Debug)]
pub struct Authorization {
    /// `None` for a local server that asks for no key.
    pub secret: Option<Secret>,
    pub scheme: Scheme,
    /// Configured headers, evaluated.
    pub headers: Vec<(String, Secret)>,
}

/// The credentials of this user on this machine.
pub(super) struct Credentials {
    file: ConfigFile<AuthFile>,
    refresher: Refresher,
    environment: fn(&str) -> Option<String>,
    warned: Once,
}

/// The process environment; an empty variable counts as not set.
pub(super) fn process_environment(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// The value of a secret of the host's, which is written as the keys of `auth.json` are. May run a program.
///
/// # Errors
/// Why there is none; never with a part of it.
pub(crate) fn host_secret(text: &str) -> Result<Secret, String> {
    evaluate(text, &process_environment)
}

impl Credentials {
    /// Credentials from the agent's folder and the environment. Sign-ins are refreshed over `http`, where `endpoints` says so.
    pub(super) fn new(
        agent_dir: &Path,
        environment: fn(&str) -> Option<String>,
        endpoints: Endpoints,
        http: Arc<http::Http>,
    ) -> Credentials {
        let path = agent_dir.join("auth.json");
        let refresher = Refresher::new(path.clone(), endpoints, http);
        Credentials { file: ConfigFile::new(path, stored::parse), refresher, environment, warned: Once::new() }
    }

    /// Has the sign-in that the model's requests need refreshed, if it ends soon and the configuration says how. Waits
    /// for that, with [`Credentials::authorize`] to follow.
    ///
    /// # Errors
    ///
    /// The sign-in is of no use any more (the text names provider and fix), or `cancel` came first.
    pub(super) fn renew(&self, model: &Model, user: &ModelsJson, cancel: &Cancel) -> Result<(), RequestError> {
        let provider = &model.provider;
        let file = self.stored().map_err(|e| RequestError::new(e.to_string()))?;
        match file.entries.get(provider) {
            Some(Entry::Oauth { refresh, expires, .. })
                if self.refreshable(provider, refresh)
                    && takes_bearer(model, user)
                    && oauth::is_due(*expires, now_ms()) =>
            {
                self.refresher.refresh(provider, *expires > now_ms(), cancel)
            }
            _ => Ok(()),
        }
    }

    /// What is wrong with `auth.json`, one line each.
    pub(super) fn problems(&self) -> Vec<String> {
        self.file.problems()
    }

    fn refreshable(&self, provider: &str, refresh: &str) -> bool {
        !refresh.is_empty() && self.refresher.serves(provider)
    }

    /// Whether there is something to try for this provider. Runs no command and asks nobody.
    pub(super) fn available(&self, provider: &str, user: &ModelsJson) -> bool {
        let base_url = user.provider(provider).and_then(|p| p.base_url.as_deref());
        // A server on this machine may ask for no key.
        let local = || base_url.is_some_and(http::is_loopback);
        let base_url = base_url.or_else(|| catalog::provider(provider).map(|p| p.base_url)).unwrap_or_default();
        self.locate(provider, user).is_ok_and(|found| found.is_some() || local())
            && self.address(provider, base_url).is_ok()
    }

    /// `base_url` with the values that the provider's addresses are made of, such as an account's number.
    ///
    /// # Errors
    /// Names the variable that is not set.
    pub(super) fn address<'u>(&self, provider: &str, base_url: &'u str) -> Result<Cow<'u, str>, ModelError> {
        let mut address = Cow::Borrowed(base_url);
        let file = self.stored()?;
        for name in catalog::provider(provider).into_iter().flat_map(|p| &p.needs) {
            let placeholder = format!("{{{name}}}");
            if address.contains(&placeholder) {
                let value = self.variable(&file, provider, name).ok_or_else(|| {
                    let path = self.file.path().display();
                    let fix = format!("set {name}, or add it to \"env\" of the entry \"{provider}\" in {path}");
                    ModelError::Credentials { provider: provider.to_string(), fix }
                })?;
                address = Cow::Owned(address.replace(&placeholder, &value));
            }
        }
        Ok(address)
    }

    /// A variable's value: the one stored with the provider's key, else that of the environment.
    fn variable(&self, file: &AuthFile, provider: &str, name: &str) -> Option<String> {
        let own = match file.entries.get(provider) {
            Some(Entry::ApiKey { env, .. }) => env.get(name).cloned(),
            _ => None,
        };
        own.or_else(|| (self.environment)(name))
    }

    /// What [`Credentials::authorize`] would complain about, as far as that needs no command to be run.
    pub(super) fn check(&self, model: &Model, user: &ModelsJson) -> Result<(), ModelError> {
        self.address(&model.provider, &model.base_url)?;
        match self.locate_for(model, user)? {
            Some(Located::Value { text, .. }) if text.starts_with('!') => Ok(()),
            Some(Located::Expired) => Ok(()),
            _ if model.headers.iter().any(|(_, text)| text.reveal().starts_with('!')) => Ok(()),
            _ => self.authorize(model, user).map(|_| ()),
        }
    }

    /// The credentials for one request.
    pub(super) fn authorize(&self, model: &Model, user: &ModelsJson) -> Result<Authorization, ModelError> {
        let provider = &model.provider;
        let refused = |fix: String| ModelError::Credentials { provider: provider.clone(), fix };
        let (secret, mut scheme) = match self.locate_for(model, user)? {
            Some(Located::Token(token)) => (Some(token), Scheme::Bearer),
            Some(Located::Expired) => return Err(refused(self.sign_in_again())),
            Some(Located::Value { text, origin }) => {
                let secret = self.value(&text, provider, origin).map_err(|e| refused(format!("{e} ({origin})")))?;
                (Some(secret), Scheme::Key)
            }
            Some(Located::Variable { name, value }) => {
                let bearer = name == "ANTHROPIC_AUTH_TOKEN";
                (Some(value), if bearer { Scheme::Bearer } else { Scheme::Key })
            }
            None if http::is_loopback(&model.base_url) => (None, Scheme::Bearer),
            None => return Err(refused(self.advice(provider))),
        };
        let marked = secret.as_ref().is_some_and(|s| s.reveal().contains(ANTHROPIC_SIGN_IN));
        if model.api == Api::AnthropicMessages && marked {
            scheme = Scheme::AnthropicSignIn;
        } else if user.provider(provider).is_some_and(|p| p.auth_header) || provider == "openrouter" {
            // OpenRouter takes its keys as bearer tokens on all of its APIs.
            scheme = Scheme::Bearer;
        }
        let mut headers = Vec::new();
        for (name, text) in &model.headers {
            let value = self.value(text.reveal(), provider, Origin::ModelsJson);
            headers.push((name.clone(), value.map_err(|e| refused(format!("header {name}: {e} (models.json)")))?));
        }
        Ok(Authorization { secret, scheme, headers })
    }

    fn stored(&self) -> Result<Arc<AuthFile>, ModelError> {
        let file = self.file.get().map_err(ModelError::Invalid)?;
        self.warned.call_once(|| {
            if let Ok(meta) = self.file.path().metadata()
                && meta.permissions().mode() & 0o077 != 0
            {
                log::warn!("{} can be read by others: run chmod 600 on it", self.file.path().display());
            }
        });
        Ok(file)
    }

    /// What there is for the model. A sign-in is good for those models only whose API takes it.
    fn locate_for(&self, model: &Model, user: &ModelsJson) -> Result<Option<Located>, ModelError> {
        let located = self.locate(&model.provider, user)?;
        if matches!(located, Some(Located::Token(_) | Located::Expired)) && !takes_bearer(model, user) {
            let (api, path) = (model.api.as_str(), self.file.path().display());
            let fix = format!("the {api} API does not take the sign-in in {path}: store an API key there");
            return Err(ModelError::Credentials { provider: model.provider.clone(), fix });
        }
        Ok(located)
    }

    /// Where what a model's requests are paid with comes from, for people; never what it is.
    pub(super) fn origin(&self, model: &Model, user: &ModelsJson) -> String {
        let path = self.file.path().display();
        match self.locate_for(model, user) {
            Ok(Some(Located::Value { origin, .. })) => format!("key in {origin}"),
            Ok(Some(Located::Token(_))) => format!("sign-in in {path}"),
            Ok(Some(Located::Expired)) => format!("sign-in in {path}, to be refreshed"),
            Ok(Some(Located::Variable { name, .. })) => format!("key in ${name}"),
            Ok(None) => "without a key".into(),
            Err(error) => error.to_string(),
        }
    }

    fn sign_in_again(&self) -> String {
        let path = self.file.path().display();
        format!(
            "the sign-in in {path} has expired: sign in again with PI, store an API key there, or configure \
             \"oauthRefresh\""
        )
    }

    fn locate(&self, provider: &str, user: &ModelsJson) -> Result<Option<Located>, ModelError> {
        let refused = |fix: String| Err(ModelError::Credentials { provider: provider.to_string(), fix });
        let path = self.file.path().display();
        match self.stored()?.entries.get(provider) {
            Some(Entry::ApiKey { key: Some(key), .. }) => {
                return Ok(Some(Located::Value { text: key.clone(), origin: Origin::AuthJson }));
            }
            Some(Entry::Oauth { .. }) if oauth::VENDOR_ONLY.contains(&provider) => {
                return refused(format!(
                    "the sign-in in {path} is for the vendor's own programs only, and not supported: use another \
                     provider, or an API key"
                ));
            }
            Some(Entry::Oauth { access, refresh, expires }) => {
                return if *expires > now_ms() {
                    Ok(Some(Located::Token(Secret::new(access.clone()))))
                } else if self.refreshable(provider, refresh) {
                    Ok(Some(Located::Expired))
                } else {
                    refused(self.sign_in_again())
                };
            }
            Some(Entry::Odd(why)) => return refused(format!("{path}: {why}")),
            Some(Entry::ApiKey { key: None, .. }) | None => {}
        }
        if let Some(text) = user.provider(provider).and_then(|p| p.api_key.clone()) {
            return Ok(Some(Located::Value { text, origin: Origin::ModelsJson }));
        }
        let names = catalog::provider(provider).map_or(&[][..], |p| &p.env);
        Ok(names.iter().find_map(|name| {
            (self.environment)(name).map(|value| Located::Variable { name, value: Secret::new(value) })
        }))
    }

    /// Evaluates a configured value. What a command of `auth.json` printed is kept for as long as the file is unchanged.
    fn value(&self, text: &str, provider: &str, origin: Origin) -> Result<Secret, String> {
        let file = self.stored().map_err(|e| e.to_string())?;
        let cached = origin == Origin::AuthJson && text.starts_with('!');
        if cached && let Some(secret) = lock(&file.printed).get(text) {
            return Ok(secret.clone());
        }
        let secret = evaluate(text, &|name: &str| self.variable(&file, provider, name))?;
        if cached {
            let mut printed = lock(&file.printed);
            printed.insert(text.to_string(), secret.clone());
        }
        Ok(secret)
    }

    fn advice(&self, provider: &str) -> String {
        let variable = catalog::provider(provider).and_then(|p| p.env.last().copied());
        let path = self.file.path().display();
        match variable {
            Some(name) => format!("set {name}, or add \"{provider}\" to {path}"),
            None => format!("give it an \"apiKey\" in models.json, or add \"{provider}\" to {path}"),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    AuthJson,
    ModelsJson,
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Origin::AuthJson => "auth.json",
            Origin::ModelsJson => "models.json",
        })
    }
}

enum Located {
    /// A configured value that has yet to be evaluated.
    Value {
        text: String,
        origin: Origin,
    },
    /// The token of a sign-in that has not expired.
    Token(Secret),
    /// A sign-in that has, and can be refreshed.
    Expired,
    Variable {
        name: &'static str,
        value: Secret,
    },
}

#[cfg(test)]
mod tests;
