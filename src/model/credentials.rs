//! Who pays: the key or token for a provider. It is looked up for every request, in this order: `auth.json`, the
//! `apiKey` of `models.json`, the provider's environment variables. An entry in `auth.json` owns its provider: if it is
//! of no use, that is an error, and nothing further is tried.

use super::config_file::ConfigFile;
use super::model_info::{Api, Model, ModelError};
use super::models_json::ModelsJson;
use super::oauth::{self, Endpoints, Refresher};
use super::request::RequestError;
use super::secret_value::{Secret, evaluate, variables};
use super::{catalog, http, odd_values};
use crate::cancel::Cancel;
use crate::transcript::now_ms;
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex, Once, PoisonError};

/// Anthropic's sign-in tokens carry this mark; they are bearer tokens, and a beta header has to go with them.
const ANTHROPIC_SIGN_IN: &str = "sk-ant-oat";

/// One provider's entry of `auth.json`. What PI writes beyond this is of no concern here.
enum Entry {
    ApiKey {
        /// Without one the entry only has variables.
        key: Option<String>,
        /// Variables for this provider's values, which beat those of the process.
        env: BTreeMap<String, String>,
    },
    Oauth {
        access: String,
        refresh: String,
        /// Unix time in milliseconds.
        expires: i64,
    },
    /// It is of no use; the reason, which names it.
    Odd(String),
}

impl Entry {
    /// Understands one entry; fields that can be done without may have any form.
    fn of(provider: &str, value: Value) -> Entry {
        let odd = |what: &str| Entry::Odd(format!("the entry \"{provider}\" {what}"));
        let mut fields = match odd_values::object(value) {
            Ok(fields) => fields,
            Err(what) => return odd(&format!("is {what}")),
        };
        let text = |fields: &mut Map<String, Value>, key: &str| match fields.remove(key) {
            Some(Value::String(text)) => Ok(Some(text)),
            None | Some(Value::Null) => Ok(None),
            Some(other) => Err(format!("has {} as \"{key}\", not a text", odd_values::kind(&other))),
        };
        match fields.get("type").and_then(Value::as_str) {
            Some("api_key") => match text(&mut fields, "key") {
                Ok(key) => {
                    let env = fields.remove("env").and_then(|env| odd_values::object(env).ok()).unwrap_or_default();
                    let variable = |(name, value): (String, Value)| Some((name, value.as_str()?.to_string()));
                    Entry::ApiKey { key, env: env.into_iter().filter_map(variable).collect() }
                }
                Err(what) => odd(&what),
            },
            Some("oauth") => match text(&mut fields, "access") {
                Ok(Some(access)) => Entry::Oauth {
                    access,
                    refresh: text(&mut fields, "refresh").ok().flatten().unwrap_or_default(),
                    // JavaScript may write a float; a cast saturates.
                    expires: fields.get("expires").and_then(Value::as_f64).unwrap_or_default() as i64,
                },
                Ok(None) => odd("has no \"access\" token"),
                Err(what) => odd(&what),
            },
            Some(_) => odd("has a kind of sign-in that is not supported: store an API key there"),
            None => odd("has no \"type\", which is \"api_key\" or \"oauth\""),
        }
    }
}

#[derive(Default)]
struct AuthFile {
    entries: BTreeMap<String, Entry>,
    /// What the file's `!commands` printed. It lives as long as this content of the file.
    printed: Mutex<BTreeMap<String, Secret>>,
}

fn parse_auth(text: &str, odd: &mut Vec<String>) -> Result<AuthFile, String> {
    // The parser's complaints about syntax name the place, and quote nothing.
    let value: Value = serde_json::from_str(text.trim_start_matches('\u{feff}')).map_err(|e| e.to_string())?;
    let fields = odd_values::object(value)?;
    let entries = fields.into_iter().map(|(provider, value)| (provider.clone(), Entry::of(&provider, value)));
    let entries: BTreeMap<String, Entry> = entries.collect();
    odd.extend(entries.values().filter_map(|entry| match entry {
        Entry::Odd(why) => Some(why.clone()),
        Entry::ApiKey { .. } | Entry::Oauth { .. } => None,
    }));
    Ok(AuthFile { entries, printed: Mutex::default() })
}

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
pub struct Credentials {
    file: ConfigFile<AuthFile>,
    refresher: Refresher,
    environment: fn(&str) -> Option<String>,
    warned: Once,
}

/// The process environment; an empty variable counts as not set.
pub fn process_environment(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

impl Credentials {
    /// Those of the agent's folder and the environment. Sign-ins are refreshed over `http`, where `endpoints` says so.
    pub fn new(
        agent_dir: &Path,
        environment: fn(&str) -> Option<String>,
        endpoints: Endpoints,
        http: Arc<http::Http>,
    ) -> Credentials {
        let path = agent_dir.join("auth.json");
        let refresher = Refresher::new(path.clone(), endpoints, http);
        Credentials { file: ConfigFile::new(path, parse_auth), refresher, environment, warned: Once::new() }
    }

    /// Has the sign-in that the model's requests need refreshed, if it ends soon and the configuration says how. Waits
    /// for that, with [`Credentials::authorize`] to follow.
    ///
    /// # Errors
    ///
    /// The sign-in is of no use any more (the text names provider and fix), or `cancel` came first.
    pub fn renew(&self, model: &Model, user: &ModelsJson, cancel: &Cancel) -> Result<(), RequestError> {
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
    pub fn problems(&self) -> Vec<String> {
        self.file.problems()
    }

    fn refreshable(&self, provider: &str, refresh: &str) -> bool {
        !refresh.is_empty() && self.refresher.serves(provider)
    }

    /// Whether there is something to try for this provider. Runs no command and asks nobody.
    pub fn available(&self, provider: &str, user: &ModelsJson) -> bool {
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
    pub fn address<'u>(&self, provider: &str, base_url: &'u str) -> Result<Cow<'u, str>, ModelError> {
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

    /// What [`Credentials::authorize`] would complain about, as far as it can be told without running a command.
    pub fn check(&self, model: &Model, user: &ModelsJson) -> Result<(), ModelError> {
        self.address(&model.provider, &model.base_url)?;
        match self.locate_for(model, user)? {
            Some(Located::Value { text, .. }) if text.starts_with('!') => Ok(()),
            Some(Located::Expired) => Ok(()),
            _ if model.headers.iter().any(|(_, text)| text.reveal().starts_with('!')) => Ok(()),
            _ => self.authorize(model, user).map(|_| ()),
        }
    }

    /// The credentials for one request.
    pub fn authorize(&self, model: &Model, user: &ModelsJson) -> Result<Authorization, ModelError> {
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

    /// The variables that hold keys, or may: for keeping them from child processes.
    pub fn environment_names(&self, user: &ModelsJson) -> Vec<String> {
        let mut names: Vec<String> = catalog::providers().flat_map(|p| &p.env).map(|name| name.to_string()).collect();
        if let Ok(file) = self.file.get() {
            for entry in file.entries.values() {
                if let Entry::ApiKey { key, env } = entry {
                    names.extend(key.iter().flat_map(|key| variables(key)).map(str::to_string));
                    names.extend(env.keys().cloned());
                }
            }
        }
        for (_, provider) in user.providers() {
            let headers = provider.headers.values().chain(provider.models.iter().flat_map(|m| m.headers.values()));
            let texts = headers.filter_map(Value::as_str).chain(provider.api_key.as_deref());
            names.extend(texts.flat_map(variables).map(str::to_string));
        }
        names.sort();
        names.dedup();
        names
    }

    fn stored(&self) -> Result<std::sync::Arc<AuthFile>, ModelError> {
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
        if cached && let Some(secret) = file.printed.lock().unwrap_or_else(PoisonError::into_inner).get(text) {
            return Ok(secret.clone());
        }
        let secret = evaluate(text, &|name: &str| self.variable(&file, provider, name))?;
        if cached {
            let mut printed = file.printed.lock().unwrap_or_else(PoisonError::into_inner);
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
    /// Of a sign-in that has not expired.
    Token(Secret),
    /// A sign-in that has, and can be refreshed.
    Expired,
    Variable {
        name: &'static str,
        value: Secret,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::test_support::test_model;
    use serde_json::json;

    fn environment(name: &str) -> Option<String> {
        ["OPENAI_API_KEY", "GROQ_API_KEY", "MINE"].contains(&name).then(|| format!("env-{name}"))
    }

    fn credentials(dir: &Path, endpoints: &Value) -> Credentials {
        let endpoints = Endpoints::parse(&endpoints.to_string()).expect("they are right");
        Credentials::new(dir, environment, endpoints, Arc::default())
    }

    fn model(provider: &str) -> Model {
        let api = match provider {
            "anthropic" | "minimax" => Api::AnthropicMessages,
            "openai" => Api::OpenaiResponses,
            "google" => Api::GoogleGenerativeAi,
            _ => Api::OpenaiCompletions,
        };
        let base_url = if provider == "local" { "http://127.0.0.1:1/v1" } else { "https://h/v1" };
        Model { provider: provider.to_string(), api, base_url: base_url.to_string(), ..test_model() }
    }

    fn authorize(provider: &str, auth: &Value, models: &Value) -> Result<(String, Scheme), ModelError> {
        let dir = tempfile::tempdir().expect("a directory");
        if !auth.is_null() {
            std::fs::write(dir.path().join("auth.json"), auth.to_string()).expect("it writes");
        }
        let user = ModelsJson::parse(&json!({ "providers": models }).to_string()).expect("it parses");
        let credentials = credentials(dir.path(), &json!({}));
        let model = model(provider);
        let checked = credentials.check(&model, &user).map_err(|e| e.to_string());
        let found = credentials.authorize(&model, &user);
        assert_eq!(checked.err(), found.as_ref().err().map(ToString::to_string), "the preflight tells the truth");
        found.map(|a| (a.secret.map(|s| s.reveal().to_string()).unwrap_or_default(), a.scheme))
    }

    #[test]
    fn the_order_of_sources() {
        let later = now_ms() + 60_000;
        let models =
            json!({"groq":{"apiKey":"$MINE"},"anthropic":{"apiKey":"m"},"other":{"apiKey":"k","authHeader":true}});
        for (provider, auth, expected, scheme) in [
            ("openai", json!(null), "env-OPENAI_API_KEY", Scheme::Key),
            ("openai", json!({"openai":{"type":"api_key","key":"stored"}}), "stored", Scheme::Key),
            ("groq", json!(null), "env-MINE", Scheme::Key),
            ("groq", json!({"groq":{"type":"api_key","key":"x-${MINE}","env":{"MINE":"own"}}}), "x-own", Scheme::Key),
            ("groq", json!({"groq":{"type":"api_key","key":"!echo ran"}}), "ran", Scheme::Key),
            ("anthropic", json!(null), "m", Scheme::Key),
            (
                "anthropic",
                json!({"anthropic":{"type":"oauth","access":"sk-ant-oat-1","expires":later}}),
                "sk-ant-oat-1",
                Scheme::AnthropicSignIn,
            ),
            (
                "anthropic",
                json!({"anthropic":{"type":"api_key","key":"sk-ant-oat-2"}}),
                "sk-ant-oat-2",
                Scheme::AnthropicSignIn,
            ),
            (
                "anthropic",
                json!({"anthropic":{"type":"oauth","access":"plain","expires":later}}),
                "plain",
                Scheme::Bearer,
            ),
            ("xai", json!({"xai":{"type":"oauth","access":"x","refresh":"r","expires":later}}), "x", Scheme::Bearer),
            ("openai", json!({"openai":{"type":"oauth","access":"o","expires":later}}), "o", Scheme::Bearer),
            ("other", json!({"other":{"type":"oauth","access":"t","expires":later}}), "t", Scheme::Bearer),
            ("other", json!(null), "k", Scheme::Bearer),
            // Others' odd entries do not matter, and neither does what an entry can do without.
            ("groq", json!({"openai":"sk","groq":{"type":"api_key","key":"k","env":[1]},"x":null}), "k", Scheme::Key),
            ("groq", json!({"groq":{"type":"api_key","key":"$A","env":{"A":"a","B":5}}}), "a", Scheme::Key),
            (
                "openai",
                json!({"openai":{"type":"api_key","key":null,"env":{"A":"a"}}}),
                "env-OPENAI_API_KEY",
                Scheme::Key,
            ),
            (
                "xai",
                json!({"xai":{"type":"oauth","access":"x","refresh":7,"expires":later as f64 + 0.5}}),
                "x",
                Scheme::Bearer,
            ),
            ("local", json!(null), "", Scheme::Bearer),
        ] {
            let found = authorize(provider, &auth, &models).unwrap_or_else(|e| panic!("{provider} {auth}: {e}"));
            assert_eq!(found, (expected.to_string(), scheme), "{provider} {auth}");
        }
    }

    #[test]
    fn refusals_name_provider_and_fix_and_no_key() {
        for (provider, auth, expected) in [
            ("deepseek", json!(null), "DEEPSEEK_API_KEY"),
            ("nobody", json!(null), "\"apiKey\" in models.json"),
            ("openai", json!({"openai":{"type":"api_key","key":"$GONE"}}), "GONE is not set (auth.json)"),
            ("openai", json!({"openai":{"type":"oauth","access":"secret","expires":0}}), "expired: sign in again"),
            ("openai", json!({"openai":{"type":"passkey","access":"secret"}}), "not supported"),
            (
                "openai-codex",
                json!({"openai-codex":{"type":"oauth","access":"secret","expires":i64::MAX}}),
                "not supported: use another provider",
            ),
            (
                "github-copilot",
                json!({"github-copilot":{"type":"oauth","access":"secret","expires":i64::MAX}}),
                "not supported: use another provider",
            ),
            (
                "google",
                json!({"google":{"type":"oauth","access":"secret","expires":i64::MAX}}),
                "the google-generative-ai API does not take the sign-in",
            ),
            (
                "minimax",
                json!({"minimax":{"type":"oauth","access":"secret","expires":i64::MAX}}),
                "the anthropic-messages API does not take the sign-in",
            ),
            ("anthropic", json!({"anthropic":{"type":"oauth","access":"secret","expires":5}}), "expired"),
            (
                "openai",
                json!({"openai":{"type":"api_key","key":["secret"]}}),
                "the entry \"openai\" has a list as \"key\", not a text",
            ),
            ("openai", json!({"openai":"secret"}), "auth.json: the entry \"openai\" is a text, not an object"),
            ("openai", json!({"openai":null}), "the entry \"openai\" is null, not an object"),
            ("openai", json!({"openai":{"key":"secret"}}), "the entry \"openai\" has no \"type\""),
            ("openai", json!({"openai":{"type":"oauth","refresh":"secret"}}), "has no \"access\" token"),
        ] {
            let error = authorize(provider, &auth, &json!({})).expect_err(provider).to_string();
            assert!(error.contains(expected) && error.contains(provider), "{error}");
            assert!(!error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn a_broken_file_is_named_and_not_quoted() {
        for (text, expected) in [
            ("\"secret\"", "a text, not an object"),
            ("[\"secret\"]", "a list, not an object"),
            ("{\"openai\":{\"key\":\"secret\"", "EOF while parsing an object at line 1 column 25"),
            ("", "EOF while parsing"),
        ] {
            let dir = tempfile::tempdir().expect("a directory");
            std::fs::write(dir.path().join("auth.json"), text).expect("it writes");
            let credentials = credentials(dir.path(), &json!({}));
            let error = credentials.authorize(&model("openai"), &ModelsJson::default()).expect_err("it is broken");
            let error = error.to_string();
            assert!(error.contains("/auth.json: ") && error.contains(expected), "{error}");
            assert!(!error.contains("secret"), "{error}");
            assert_eq!(credentials.problems().len(), 1);
        }
    }

    #[test]
    fn an_expired_sign_in_is_available_where_it_can_be_refreshed() {
        let endpoints = json!({"xai": {"tokenUrl": "https://h/", "clientId": "c"}});
        for (provider, refresh, expected) in
            [("xai", "r", true), ("xai", "", false), ("groq", "r", false), ("anthropic", "r", false)]
        {
            let dir = tempfile::tempdir().expect("a directory");
            let auth = json!({provider: {"type":"oauth","access":"a","refresh":refresh,"expires":5}});
            std::fs::write(dir.path().join("auth.json"), auth.to_string()).expect("it writes");
            let (credentials, user) = (credentials(dir.path(), &endpoints), ModelsJson::default());
            assert_eq!(credentials.available(provider, &user), expected, "{provider} {refresh:?}");
            assert_eq!(credentials.check(&model(provider), &user).is_ok(), expected, "{provider} {refresh:?}");
            // As long as nobody has refreshed it, it is of no use.
            assert!(credentials.authorize(&model(provider), &user).is_err());
        }
    }

    #[test]
    fn a_command_of_auth_json_runs_once() {
        let dir = tempfile::tempdir().expect("a directory");
        let log = dir.path().join("log");
        let auth = json!({"openai":{"type":"api_key","key":format!("!echo k; echo x >> {}", log.display())}});
        std::fs::write(dir.path().join("auth.json"), auth.to_string()).expect("it writes");
        let credentials = credentials(dir.path(), &json!({}));
        let model = model("openai");
        for _ in 0..2 {
            credentials.authorize(&model, &ModelsJson::default()).expect("it works");
        }
        assert_eq!(std::fs::read_to_string(log).expect("it ran"), "x\n");
    }

    #[test]
    fn names_of_key_variables() {
        let dir = tempfile::tempdir().expect("a directory");
        let auth = json!({"openai":{"type":"api_key","key":"a${ONE}","env":{"TWO":"x"}}});
        std::fs::write(dir.path().join("auth.json"), auth.to_string()).expect("it writes");
        let user = json!({"providers":{"p":{"apiKey":"$THREE","headers":{"H":"$FOUR"},"models":[{"id":"m","headers":{"I":"FIVE"}}]}}});
        let user = ModelsJson::parse(&user.to_string()).expect("it parses");
        let names = credentials(dir.path(), &json!({})).environment_names(&user);
        for name in ["ONE", "TWO", "THREE", "FOUR", "FIVE", "ANTHROPIC_API_KEY", "HF_TOKEN"] {
            assert!(names.iter().any(|n| n == name), "{name}");
        }
    }
}
