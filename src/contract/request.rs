//! Requests to the daemon: their fields and the checks that need no daemon.

use super::error::{DaemonError, echo};
use super::identity::{OnRestart, Workspace};
use super::ids::{InstanceId, SessionId};
use crate::governance::budget::Budgets;
use crate::model::ThinkingLevel;
use crate::tools::runner::Narrowing;
use crate::traceparent::{TRACEPARENT, Traceparent};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::time::Duration;

/// A checked request.
#[derive(Debug, PartialEq)]
pub enum Request {
    /// Modes `run` and `session`.
    Create(Create),
    Stop {
        session_id: SessionId,
    },
    List(Page),
    Drain(Drain),
}

/// Modes `drain` and `undrain`: `{ok, host, draining, running, queued}`.
#[derive(Debug, PartialEq, Eq)]
pub struct Drain {
    /// Nothing new begins from now on; else it does again.
    pub on: bool,
    /// The daemon that is meant, where several serve the owner.
    pub host: Option<String>,
}

/// Which rows of `list` are wanted. They are in the order of their ids, those of sessions and of runs together.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
pub struct Page {
    /// Only those whose ids come after this text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    /// At most so many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
}

impl Page {
    fn read(fields: &Map<String, Value>) -> Result<Page, DaemonError> {
        let invalid = |message: String| DaemonError::InvalidRequest { message };
        let after = match fields.get("after") {
            None | Some(Value::Null) => None,
            Some(Value::String(after)) if after.len() <= MAX_OPTION => Some(after.clone()),
            Some(_) => return Err(invalid(format!("after must be a string of at most {MAX_OPTION} bytes"))),
        };
        let limit = match fields.get("limit") {
            None | Some(Value::Null) => None,
            Some(limit) => {
                let limit = limit.as_u64().and_then(|limit| usize::try_from(limit).ok()).filter(|limit| *limit > 0);
                Some(limit.ok_or_else(|| invalid("limit must be a whole number >= 1".into()))?)
            }
        };
        Ok(Page { after, limit })
    }

    /// Whether the row of this id may be on the page or on one behind it.
    pub(crate) fn reaches(&self, id: &str) -> bool {
        self.after.as_deref().is_none_or(|after| id > after)
    }
}

/// A request for a new session. Model, thinking level and lifetime are checked after the working directory, in the order
/// that the protocol gives them, so they are kept as they came.
#[derive(Debug, PartialEq)]
pub struct Create {
    /// Absent for an ephemeral run.
    pub session_id: Option<SessionId>,
    /// The first prompt; absent if the session shall wait for one.
    pub body: Option<String>,
    pub cwd: String,
    /// The session of whose tools one asks, which no caller can say itself.
    pub(crate) parent: Option<InstanceId>,
    options: Map<String, Value>,
}

/// Longest model, thinking level or caller's name, bytes. A name stays in every list; no such value needs more.
pub(crate) const MAX_OPTION: usize = 1024;

fn session_id(text: String) -> Result<SessionId, DaemonError> {
    SessionId::try_from(text.clone()).map_err(|_| DaemonError::InvalidSessionId { session_id: echo(&text) })
}

/// Checks the fields of a request whose mode is known.
///
/// # Errors
/// The first check that fails.
pub(crate) fn read(mode: &str, mut map: Map<String, Value>) -> Result<Request, DaemonError> {
    let (required, named): (&'static [&'static str], bool) = match mode {
        "run" => (&["body", "cwd"], false),
        "session" => (&["body", "cwd", "sessionId"], true),
        "stop" => (&["sessionId"], true),
        "list" => return Page::read(&map).map(Request::List),
        "drain" | "undrain" => {
            let host = match map.remove("host") {
                None | Some(Value::Null) => None,
                Some(Value::String(host)) => Some(host),
                Some(_) => return Err(DaemonError::InvalidRequest { message: "host must be a string".into() }),
            };
            return Ok(Request::Drain(Drain { on: mode == "drain", host }));
        }
        other => return Err(DaemonError::InvalidSessionMode { mode: echo(other) }),
    };
    let stop = mode == "stop";
    let present = |key: &&str| map.get(*key).and_then(Value::as_str).is_some_and(|text| !text.trim().is_empty());
    if !required.iter().all(present) {
        return Err(DaemonError::MissingFields { required });
    }
    let mut take = |key: &str| match map.remove(key) {
        Some(Value::String(text)) => text,
        _ => String::new(),
    };
    let session_id = named.then(|| session_id(take("sessionId"))).transpose()?;
    match session_id {
        Some(session_id) if stop => Ok(Request::Stop { session_id }),
        session_id => {
            let (body, cwd) = (Some(take("body")), take("cwd"));
            Ok(Request::Create(Create { session_id, body, cwd, parent: None, options: map }))
        }
    }
}

impl Create {
    /// A request for a session that waits for its first prompt.
    ///
    /// # Errors
    /// The first check that fails.
    pub fn without_prompt(mut options: Map<String, Value>) -> Result<Create, DaemonError> {
        let cwd = match options.remove("cwd") {
            Some(Value::String(cwd)) if !cwd.trim().is_empty() => cwd,
            _ => return Err(DaemonError::MissingFields { required: &["cwd"] }),
        };
        match options.remove("sessionId") {
            Some(Value::String(id)) => {
                Ok(Create { session_id: Some(session_id(id)?), body: None, cwd, parent: None, options })
            }
            other => Err(DaemonError::InvalidSessionId { session_id: echo(&other.unwrap_or_default().to_string()) }),
        }
    }

    /// The fields that are not required.
    pub fn options(&self) -> &Map<String, Value> {
        &self.options
    }

    fn option(&self, key: &str) -> Option<&Value> {
        self.options.get(key).filter(|value| !value.is_null())
    }

    fn text(&self, key: &str) -> Result<Option<&str>, DaemonError> {
        match self.option(key) {
            None => Ok(None),
            Some(Value::String(text)) if text.len() > MAX_OPTION => {
                Err(DaemonError::InvalidRequest { message: format!("{key} is longer than {MAX_OPTION} bytes") })
            }
            Some(Value::String(text)) => Ok(Some(text.as_str()).filter(|text| !text.is_empty())),
            Some(_) => Err(DaemonError::InvalidRequest { message: format!("{key} must be a string") }),
        }
    }

    /// The caller's name for itself; a label, never an authority.
    ///
    /// # Errors
    /// `invalid_request` for another type than string, and for a very long one.
    pub fn from(&self) -> Result<Option<&str>, DaemonError> {
        self.text("from")
    }

    /// The caller's place in a trace; a wrong one counts as none.
    pub(crate) fn trace(&self) -> Option<Traceparent> {
        Traceparent::parse(self.option(TRACEPARENT)?.as_str()?)
    }

    /// The model asked for.
    ///
    /// # Errors
    /// `invalid_request` for another type than string, and for a very long one.
    pub fn model(&self) -> Result<Option<&str>, DaemonError> {
        self.text("model")
    }

    /// The session file to go on with: its path, its session's id, or the beginning of that.
    ///
    /// # Errors
    /// `invalid_request` for another type than string, and for a very long one.
    pub fn resume(&self) -> Result<Option<&str>, DaemonError> {
        self.text("resume")
    }

    /// A name for people.
    ///
    /// # Errors
    /// `invalid_request` for another type than string, and for a very long one.
    pub fn name(&self) -> Result<Option<&str>, DaemonError> {
        self.text("name")
    }

    /// The tools asked for, as `tools::select` takes them.
    ///
    /// # Errors
    /// `invalid_request` for anything but a list of strings.
    pub fn tools(&self) -> Result<Option<Vec<String>>, DaemonError> {
        let Some(value) = self.option("tools") else { return Ok(None) };
        let names = value.as_array().map(|names| names.iter().map(|name| name.as_str().map(str::to_owned)).collect());
        names
            .flatten()
            .map(Some)
            .ok_or_else(|| DaemonError::InvalidRequest { message: "tools must be a list of names".into() })
    }

    /// What the tools are to be confined to, beside what the configuration says.
    ///
    /// # Errors
    /// `invalid_request` for what is no profile, or neither `on` nor `off`.
    pub(crate) fn sandbox(&self) -> Result<Narrowing, DaemonError> {
        let narrowing =
            Narrowing::read(self.text("sandbox")?.map(echo).as_deref(), self.text("network")?.map(echo).as_deref());
        narrowing.map_err(|message| DaemonError::InvalidRequest { message })
    }

    /// The rules that the request adds.
    ///
    /// # Errors
    /// `invalid_request` for anything but a list.
    pub(crate) fn rules(&self) -> Result<Vec<Value>, DaemonError> {
        match self.option("rules") {
            None => Ok(Vec::new()),
            Some(Value::Array(rules)) => Ok(rules.clone()),
            Some(_) => Err(DaemonError::InvalidRequest { message: "rules must be a list of rules".into() }),
        }
    }

    /// What may be spent in the session, beside what the configuration says.
    ///
    /// # Errors
    /// `invalid_request` for what is no budget.
    pub(crate) fn budgets(&self) -> Result<Budgets, DaemonError> {
        let budgets = self.option("budgets").map(Budgets::parse).transpose();
        budgets.map(Option::unwrap_or_default).map_err(|message| DaemonError::InvalidRequest { message })
    }

    /// A switch that the request sets.
    ///
    /// # Errors
    /// `invalid_request` for another type than boolean.
    pub fn switch(&self, key: &str) -> Result<Option<bool>, DaemonError> {
        match self.option(key) {
            None => Ok(None),
            Some(Value::Bool(on)) => Ok(Some(*on)),
            Some(_) => Err(DaemonError::InvalidRequest { message: format!("{key} must be true or false") }),
        }
    }

    /// The thinking level asked for.
    ///
    /// # Errors
    /// `invalid_request` for what is no level.
    pub fn thinking(&self) -> Result<Option<ThinkingLevel>, DaemonError> {
        let Some(text) = self.text("thinkingLevel")? else { return Ok(None) };
        ThinkingLevel::parse(text).map(Some).ok_or_else(|| DaemonError::InvalidRequest {
            message: format!("thinkingLevel {:?} is none of off, minimal, low, medium, high, xhigh, max", echo(text)),
        })
    }

    /// What is to become of a prompt that a restart of the host interrupts.
    ///
    /// # Errors
    /// `invalid_request` for anything else than the three words.
    pub fn on_restart(&self) -> Result<Option<OnRestart>, DaemonError> {
        let Some(text) = self.text("onRestart")? else { return Ok(None) };
        OnRestart::parse(text).map(Some).ok_or_else(|| DaemonError::InvalidRequest {
            message: format!("onRestart {:?} is none of continue, hold, end", echo(text)),
        })
    }

    /// Where else the working folder is.
    ///
    /// # Errors
    /// `invalid_request` for anything else than the three words.
    pub fn workspace(&self) -> Result<Workspace, DaemonError> {
        let Some(text) = self.text("workspace")? else { return Ok(Workspace::default()) };
        Workspace::parse(text).ok_or_else(|| DaemonError::InvalidRequest {
            message: format!("workspace {:?} is none of local, shared, git", echo(text)),
        })
    }

    /// It says nothing but a prompt, for a session of that id as it is.
    pub(crate) fn is_plain(&self) -> bool {
        let plain = ["sessionMode", "from", "workspace", TRACEPARENT];
        self.options.iter().all(|(key, value)| value.is_null() || plain.contains(&key.as_str()))
    }

    /// The lifetime asked for; zero means no end.
    ///
    /// # Errors
    /// `invalid_request` for anything but a finite number of seconds from 0 up.
    pub fn max_lifetime(&self) -> Result<Option<Duration>, DaemonError> {
        let Some(value) = self.option("maxLifetime") else { return Ok(None) };
        value
            .as_f64()
            .filter(|seconds| (0.0..1e10).contains(seconds))
            .map(|seconds| Some(Duration::from_secs_f64(seconds)))
            .ok_or_else(|| DaemonError::InvalidRequest {
                message: "maxLifetime must be a number of seconds >= 0".into(),
            })
    }
}
