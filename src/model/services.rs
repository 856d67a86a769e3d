//! The way in: models by name, their credentials, and requests to them.

use super::answer::Answer;
use super::config_file::ConfigFile;
use super::credentials::{Authorization, Credentials, process_environment};
use super::exchange::Exchange;
use super::http::{Http, Timeouts};
use super::local_model::LocalModel;
use super::model_info::{Api, Model, ModelError};
use super::models_json::ModelsJson;
use super::oauth::Endpoints;
use super::overflow::is_overflow;
use super::protocol::{HttpRequest, Protocol, RequestContext};
use super::registry::Registry;
use super::request::{Outcome, Request, RequestError, Sink};
use super::sendable::{Limits, MAX_REPAIRS, Refusal, Refused, Remedy, SendableOptions, remedy, sendable};
use super::settings::{self, QueueModes, RetrySettings, Settings, ToolSettings};
use super::thinking::ThinkingLevel;
use super::throttle::Throttle;
use super::usage::Most;
use super::{catalog, offline, provider_apis, usage};
use crate::cancel::Cancel;
use crate::sync::lock;
use crate::transcript::compaction::CompactionSettings;
use crate::transcript::{AssistantMessage, Message, StopReason};
use serde_json::Value;
use std::borrow::Cow;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

/// Models, and requests to them, by the settings of the user and perhaps of one project.
pub(crate) struct Services {
    shared: Arc<SharedServices>,
    /// What the project's settings say beside the user's.
    project: Option<ConfigFile<Value>>,
}

/// What all requests to models share: configuration, credentials, idle connections. One per daemon.
struct SharedServices {
    models: ConfigFile<ModelsJson>,
    settings: ConfigFile<Settings>,
    credentials: Credentials,
    http: Arc<Http>,
    throttle: Throttle,
    local: Box<dyn LocalModel>,
    environment: fn(&str) -> Option<String>,
    /// What providers refused to take.
    refused: Mutex<Arc<Refused>>,
    /// The model that was found last, since most sessions have the same.
    latest: Mutex<Option<Arc<Model>>>,
}

impl SharedServices {
    fn refused(&self) -> MutexGuard<'_, Arc<Refused>> {
        lock(&self.refused)
    }

    /// The model in memory once, however many sessions have it.
    fn keep(&self, model: Model) -> Arc<Model> {
        let mut latest = lock(&self.latest);
        match &*latest {
            Some(kept) if **kept == model => kept.clone(),
            _ => latest.insert(Arc::new(model)).clone(),
        }
    }
}

impl Services {
    /// Reads nothing yet: `models.json`, `auth.json` and `settings.json` in `agent_dir` are read when first needed, and
    /// again when they have changed. Sign-ins are refreshed at these endpoints only.
    pub(crate) fn new(agent_dir: &Path, endpoints: Endpoints) -> Services {
        Services::with_environment(agent_dir, endpoints, process_environment)
    }

    fn with_environment(agent_dir: &Path, endpoints: Endpoints, environment: fn(&str) -> Option<String>) -> Services {
        let http = Arc::new(Http::default());
        let shared = Arc::new(SharedServices {
            models: ConfigFile::new(agent_dir.join("models.json"), |text, odd| {
                let models = ModelsJson::parse(text)?;
                odd.extend(models.problems());
                Ok(models)
            }),
            settings: ConfigFile::new(agent_dir.join("settings.json"), Settings::read),
            credentials: Credentials::new(agent_dir, environment, endpoints, http.clone()),
            http,
            throttle: Throttle::default(),
            local: Box::new(offline::Offline::default()),
            environment,
            refused: Mutex::default(),
            latest: Mutex::default(),
        });
        Services { shared, project: None }
    }

    /// Services without files, keys and network, whose offline model is this one.
    #[cfg(test)]
    pub(crate) fn with_local_model(model: Box<dyn LocalModel>) -> Services {
        let mut services = Services::with_environment(Path::new("/nonexistent"), Endpoints::default(), |_| None);
        Arc::get_mut(&mut services.shared).expect("nobody else has it").local = model;
        services
    }

    /// Services for the sessions of a project, whose `.pi/settings.json` beats the user's settings. That file can name
    /// programs to run, so this is for trusted folders only.
    pub(crate) fn of_project(&self, folder: &Path) -> Services {
        let project = ConfigFile::new(folder.join(".pi/settings.json"), settings::document);
        Services { shared: self.shared.clone(), project: Some(project) }
    }

    /// The user's own settings; a broken file counts as empty.
    fn user_settings(&self) -> Arc<Settings> {
        self.shared.settings.get().unwrap_or_default()
    }

    /// The user trusts all projects, as the settings say.
    pub(crate) fn trusts_projects(&self) -> bool {
        self.user_settings().trusts_projects()
    }

    /// What is wrong with the user's files, one line each.
    pub(crate) fn problems(&self) -> Vec<String> {
        let shared = &self.shared;
        let project = self.project.as_ref().map(ConfigFile::problems).unwrap_or_default();
        [shared.settings.problems(), project, shared.models.problems(), shared.credentials.problems()].concat()
    }

    fn settings(&self) -> Arc<Settings> {
        let user = self.user_settings();
        let Some(project) = &self.project else { return user };
        // A broken one was reported when it was read.
        let merged = project.get().and_then(|document| user.with(&document).map(Arc::new));
        merged.unwrap_or(user)
    }

    /// When a failed request is tried again.
    pub(crate) fn retry_settings(&self) -> RetrySettings {
        self.settings().retry()
    }

    /// When the context of a session with this model is compacted, and how much of it is kept.
    pub(crate) fn compaction_settings(&self, model: &Model) -> CompactionSettings {
        self.settings().compaction(model)
    }

    /// How the queues of messages that wait for a running session are emptied.
    pub(crate) fn queue_modes(&self) -> QueueModes {
        self.settings().queue_modes()
    }

    /// What the settings say about tools.
    pub(crate) fn tool_settings(&self) -> ToolSettings {
        self.settings().tools()
    }

    /// The tools that the settings want for sessions that name none, as they are written there.
    pub(crate) fn default_tools(&self) -> Option<Vec<String>> {
        self.settings().default_tools.clone()
    }

    /// Where the settings want session files to be, as it is written there.
    pub(crate) fn session_dir(&self) -> Option<String> {
        self.settings().session_dir.clone()
    }

    /// The user's models. A broken file concerns only those that are not in the catalog.
    fn user_models(&self, model: &Model) -> Result<Arc<ModelsJson>, ModelError> {
        match self.shared.models.get() {
            Err(reason) if catalog::provider(&model.provider).is_none() => Err(ModelError::Invalid(reason)),
            user => Ok(user.unwrap_or_default()),
        }
    }

    /// The model that `spec` names (`provider/model`, or an id that is unique), with the thinking level that it asks for
    /// (`spec:level`).
    ///
    /// # Errors
    ///
    /// There is no such model (the error names similar ones), several have the name, or `models.json` is broken.
    pub(crate) fn resolve(&self, spec: &str) -> Result<(Arc<Model>, Option<ThinkingLevel>), ModelError> {
        let (user, broken) = match self.shared.models.get() {
            Ok(user) => (user, None),
            Err(reason) => (Arc::default(), Some(reason)),
        };
        let registry = Registry { user: &user, usable: &|p| self.shared.credentials.available(p, &user) };
        // What is named may be a part of the file that is of no use.
        let odd = |provider: &str, model: Option<&str>| {
            let id = spec.trim().strip_prefix(provider).and_then(|rest| rest.strip_prefix('/'));
            id.is_some_and(|id| model.is_none_or(|model| !model.is_empty() && id.starts_with(model)))
        };
        let broken = broken.or_else(|| user.problem(odd).map(|reason| format!("models.json: {reason}")));
        match (registry.resolve(spec), broken) {
            (Ok((model, level)), _) => Ok((self.shared.keep(model), level)),
            // The name may be in the file that cannot be read.
            (Err(error), Some(reason)) => Err(ModelError::Invalid(format!("{error} ({reason})"))),
            (Err(error), None) => Err(error),
        }
    }

    /// The model for those who name none: that of the settings, else the first provider's default model, among those
    /// that there are credentials for. The offline model is never it.
    pub(crate) fn default_model(&self) -> Option<Arc<Model>> {
        let user = self.shared.models.get().unwrap_or_default();
        let registry = Registry { user: &user, usable: &|p| self.shared.credentials.available(p, &user) };
        let usable = |provider: &str, id: &str| {
            let model = registry.find(provider, id)?.ok()?;
            self.shared.credentials.check(&model, &user).ok().map(|()| self.shared.keep(model))
        };
        let settings = self.settings();
        if let (Some(provider), Some(id)) = (&settings.default_provider, &settings.default_model)
            && provider != offline::PROVIDER
            && let Some(model) = usable(provider, id)
        {
            return Some(model);
        }
        let providers = registry.provider_ids().into_iter().filter(|p| self.shared.credentials.available(p, &user));
        let providers: Vec<&str> = providers.collect();
        let default = |p: &&str| usable(p, catalog::provider(p)?.default_model);
        let first = |p: &&str| registry.model_ids(p).iter().find_map(|id| usable(p, id));
        providers.iter().find_map(default).or_else(|| providers.iter().find_map(first))
    }

    /// The providers that there are credentials for, with where these come from; never what they are.
    pub(crate) fn providers_with_keys(&self) -> Vec<(String, String)> {
        let user = self.shared.models.get().unwrap_or_default();
        let registry = Registry { user: &user, usable: &|p| self.shared.credentials.available(p, &user) };
        let providers = registry.provider_ids().into_iter().filter(|p| *p != offline::PROVIDER && (registry.usable)(p));
        let origin = |provider: &str| {
            let ids = registry.model_ids(provider);
            let mut models = ids.iter().filter_map(|id| registry.find(provider, id)?.ok());
            models.next().map(|model| self.shared.credentials.origin(&model, &user))
        };
        providers.filter_map(|p| Some((p.to_owned(), origin(p)?))).collect()
    }

    /// The thinking level for those who name none: that of the settings, else `medium`. Not clamped to the model.
    pub(crate) fn default_thinking(&self, model: &Model) -> ThinkingLevel {
        self.settings().thinking_level(&model.spec()).unwrap_or(ThinkingLevel::Medium)
    }

    /// Whether there are credentials for the model, as far as files and environment show it without any request or command.
    ///
    /// # Errors
    ///
    /// Names the provider, and what to do.
    pub(crate) fn check_credentials(&self, model: &Model) -> Result<(), ModelError> {
        if model.api == Api::Offline {
            return Ok(());
        }
        self.shared.credentials.check(model, &*self.user_models(model)?)
    }

    /// Where what the model's requests are paid with comes from, for people; never what it is.
    pub(crate) fn credentials_origin(&self, model: &Model) -> String {
        match self.user_models(model) {
            Ok(user) => self.shared.credentials.origin(model, &user),
            Err(error) => error.to_string(),
        }
    }

    /// Sends the request and hands the answer to `sink` as it comes. Returns when it is complete, failed or cancelled.
    pub(crate) fn stream(&self, request: &Request<'_>, cancel: &Cancel, sink: &mut dyn Sink) -> Outcome {
        let mut answer = Answer::new(request, sink);
        let result = match provider_apis::protocol(request.model.api) {
            _ if cancel.is_cancelled() => Err(RequestError::aborted()),
            None => self.shared.local.run(request, cancel, &mut answer),
            Some(protocol) => self.exchange(&protocol, request, cancel, &mut answer),
        };
        answer.finish(request, result)
    }

    /// What the request may take at most, as far as that can be estimated.
    pub(crate) fn most(&self, request: &Request<'_>) -> Most {
        usage::most(request, self.long_cache(request))
    }

    /// The user wants prompts to be cached for long, and this is one of many of its conversation.
    fn long_cache(&self, request: &Request<'_>) -> bool {
        request.session_id.is_some() && (self.shared.environment)("PI_CACHE_RETENTION").is_some_and(|v| v == "long")
    }

    /// The request and its answer. A request whose history is refused is repaired and sent again; see `sendable`.
    fn exchange(
        &self,
        protocol: &Protocol,
        request: &Request<'_>,
        cancel: &Cancel,
        answer: &mut Answer<'_>,
    ) -> Result<StopReason, RequestError> {
        let settings = self.settings();
        let model = request.model;
        let failed = |e: ModelError| RequestError::new(e.to_string());
        let user = self.user_models(model).map_err(failed)?;
        self.shared.http.set_proxy(self.user_settings().http_proxy());
        self.shared.credentials.renew(model, &user, cancel)?;
        let authorization = self.shared.credentials.authorize(model, &user).map_err(failed)?;
        let address = self.shared.credentials.address(&model.provider, &model.base_url).map_err(failed)?;
        let model = &match address {
            Cow::Borrowed(_) => Cow::Borrowed(model),
            Cow::Owned(base_url) => Cow::Owned(Model { base_url, ..model.clone() }),
        };
        let idle = settings.idle_timeout();
        let mut refused = self.shared.refused().clone();
        let mut remedies: Vec<Remedy> = Vec::new();
        loop {
            let (messages, http_request) = self.prepare(protocol, request, model, &settings, &authorization, &refused);
            let exchange = Exchange {
                http: &self.shared.http,
                throttle: &self.shared.throttle,
                http_request: &http_request,
                authorization: &authorization,
                timeouts: Timeouts { first_byte: idle, idle, total: None },
                policy: settings.retry_policy(),
                cancel,
            };
            let result = exchange.run((protocol.decoder)(model).as_mut(), answer);
            let remedy = match &result {
                Ok(_) => {
                    if !remedies.is_empty() {
                        let mut shared = self.shared.refused();
                        let shared = Arc::make_mut(&mut shared);
                        remedies.iter().for_each(|remedy| remedy.add_to(shared));
                    }
                    None
                }
                Err(failed) if !failed.aborted && answer.message.content.is_empty() && remedies.len() < MAX_REPAIRS => {
                    remedy(&Refusal {
                        model,
                        text: &failed.text,
                        status: failed.facts.status,
                        overflow: overflow(answer, failed, model),
                        sent: &messages,
                        body: &http_request.body,
                        repairs: remedies.len(),
                    })
                    .map(|remedy| (remedy, &failed.text))
                }
                Err(_) => None,
            };
            let Some((remedy, text)) = remedy else { return result };
            log::warn!("{}: sent once more without {}, because of: {text}", model.spec(), remedy.what);
            remedy.add_to(Arc::make_mut(&mut refused));
            remedies.push(remedy);
        }
    }

    /// The messages as they are sent, and the HTTP request with them. If that is longer than the provider takes, the oldest
    /// images are left out.
    fn prepare(
        &self,
        protocol: &Protocol,
        request: &Request<'_>,
        model: &Model,
        settings: &Settings,
        authorization: &Authorization,
        refused: &Refused,
    ) -> (Vec<Arc<Message>>, HttpRequest) {
        let mut options = SendableOptions {
            model,
            rules: &protocol.rules,
            offered: request.tools,
            block_images: settings.block_images(),
            limits: Limits::of(model),
            surplus: 0,
            refused,
        };
        loop {
            let messages = sendable(request.messages, &options);
            let http_request = (protocol.prepare)(&RequestContext {
                request,
                model,
                messages: &messages,
                authorization,
                max_tokens: usage::max_tokens(request),
                budgets: settings.thinking_budgets,
                long_cache: self.long_cache(request),
                refused,
            });
            let surplus = http_request.body.len().saturating_sub(options.limits.bytes);
            // Once is enough, since nothing but images is left out and all that have to go have gone.
            if surplus == 0 || options.surplus > 0 || !messages.iter().any(|message| message.has_images()) {
                return (messages, http_request);
            }
            options.surplus = surplus;
        }
    }
}

/// Whether a failure means that the context is too long.
fn overflow(answer: &Answer<'_>, failed: &RequestError, model: &Model) -> bool {
    let error_message = Some(failed.text.clone());
    is_overflow(&AssistantMessage { stop_reason: StopReason::Error, error_message, ..answer.message.clone() }, model)
}

#[cfg(test)]
mod tests;
