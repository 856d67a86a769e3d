//! What was set, where, and how it is read: flags > environment > file > default.

use super::ConfigError;
use super::table::{Kind, ROWS, Row};
use crate::files;
use crate::near;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The largest file that is read, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    Flag(&'static str),
    Environment(&'static str),
    File,
    Default,
}

impl Origin {
    /// The higher one wins.
    pub(super) fn rank(&self) -> u8 {
        match self {
            Origin::Flag(_) => 3,
            Origin::Environment(_) => 2,
            Origin::File => 1,
            Origin::Default => 0,
        }
    }
}

pub(super) struct Setting {
    pub(super) text: String,
    pub(super) origin: Origin,
}

/// The settings that have a value, by key.
pub(super) struct Settings {
    pub(super) values: BTreeMap<&'static str, Setting>,
    pub(super) file: PathBuf,
    pub(super) home: PathBuf,
}

/// `path` with a leading `~/` replaced.
pub(super) fn expand(path: &str, home: &Path) -> PathBuf {
    match path.strip_prefix("~/") {
        Some(rest) => home.join(rest),
        None if path == "~" => home.to_path_buf(),
        None => PathBuf::from(path),
    }
}

/// Every setting from the strongest place that names it: flags, environment, file, default.
///
/// # Errors
/// A file that cannot be read, a key that is none, or a value that is not of its setting's kind.
pub(super) fn resolve(
    flags: HashMap<&'static str, String>,
    file: Option<String>,
    environment: &HashMap<String, String>,
) -> Result<Settings, ConfigError> {
    let home = PathBuf::from(environment.get("HOME").map_or("/", String::as_str));
    let path = file.as_deref().map_or_else(|| home.join(".pi-exec/config.json"), |f| expand(f, &home));
    let map = read_file(&path, file.is_some())?;
    for key in map.keys() {
        if !ROWS.iter().any(|row| row.key == key) {
            let hint = near::hint(key, ROWS.iter().map(|row| row.key));
            return Err(ConfigError::Invalid(format!("{}: unknown key {key:?}{hint}", path.display())));
        }
    }
    let mut values = BTreeMap::new();
    for row in ROWS {
        let from_environment =
            row.environment.and_then(|name| Some((name, environment.get(name)?))).filter(|(_, text)| !text.is_empty());
        let (text, origin) = if let Some(text) = flags.get(row.key) {
            (text.clone(), Origin::Flag(row.flag))
        } else if let Some((name, text)) = from_environment {
            (text.clone(), Origin::Environment(name))
        } else if let Some(value) = map.get(row.key).filter(|v| !v.is_null()) {
            let text = file_text(row, value).ok_or_else(|| {
                ConfigError::Invalid(format!("{}: {:?} has the wrong type of value", path.display(), row.key))
            })?;
            (text, Origin::File)
        } else if let Some(default) = row.default {
            (default.to_string(), Origin::Default)
        } else {
            continue;
        };
        check_text(row, &text).map_err(|why| at(&origin, row, &path, &why))?;
        values.insert(row.key, Setting { text, origin });
    }
    Ok(Settings { values, file: path, home })
}

/// An error about one setting, which names the place that it came from.
fn at(origin: &Origin, row: &Row, file: &Path, why: &str) -> ConfigError {
    match origin {
        Origin::Flag(flag) => ConfigError::Usage(format!("{flag}: {why}")),
        Origin::Environment(name) => ConfigError::Invalid(format!("${name}: {why}")),
        Origin::File => ConfigError::Invalid(format!("{}: {:?}: {why}", file.display(), row.key)),
        Origin::Default => ConfigError::Invalid(format!("{}: {why}", row.key)),
    }
}

impl Settings {
    pub(super) fn text(&self, key: &str) -> Option<&str> {
        self.values.get(key).map(|s| s.text.as_str()).filter(|text| !text.is_empty())
    }

    pub(super) fn number(&self, key: &str) -> u64 {
        // Every number has a default and was checked when it was read.
        self.text(key).and_then(|text| text.parse().ok()).unwrap_or_default()
    }

    /// A time in seconds; zero is none.
    pub(super) fn limit(&self, key: &str) -> Option<Duration> {
        Some(Duration::from_secs(self.number(key))).filter(|time| !time.is_zero())
    }

    pub(super) fn path(&self, key: &str) -> Option<PathBuf> {
        self.text(key).map(|text| expand(text, &self.home))
    }

    pub(super) fn absolute(&self, key: &str) -> Result<Option<PathBuf>, ConfigError> {
        let path = self.path(key).map(std::path::absolute).transpose();
        path.map_err(|e| self.wrong(key, &e.to_string()))
    }

    pub(super) fn list(&self, key: &str) -> Vec<String> {
        let items = self.text(key).unwrap_or_default().split(',').map(|item| item.trim().to_string());
        items.filter(|item| !item.is_empty()).collect()
    }

    pub(super) fn wrong(&self, key: &str, why: &str) -> ConfigError {
        match (self.values.get(key), ROWS.iter().find(|row| row.key == key)) {
            (Some(setting), Some(row)) => at(&setting.origin, row, &self.file, why),
            _ => ConfigError::Invalid(format!("{key}: {why}")),
        }
    }

    pub(super) fn origin(&self, key: &str) -> String {
        match self.values.get(key).map(|s| &s.origin) {
            Some(Origin::Flag(flag)) => (*flag).to_string(),
            Some(Origin::Environment(name)) => format!("${name}"),
            Some(Origin::File) => self.file.display().to_string(),
            Some(Origin::Default) | None => "default".to_string(),
        }
    }
}

fn read_file(path: &Path, named: bool) -> Result<Map<String, Value>, ConfigError> {
    let invalid = |what: String| ConfigError::Invalid(format!("{}: {what}", path.display()));
    let text = match files::read_text(path, MAX_FILE) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound && !named => return Ok(Map::new()),
        Err(e) => return Err(invalid(e.to_string())),
    };
    match serde_json::from_str(text.trim_start_matches('\u{feff}')) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(_) => Err(invalid("not a JSON object".into())),
        Err(e) => Err(invalid(format!("line {}: {e}", e.line()))),
    }
}

/// A value of the file as text, if its type fits the row.
fn file_text(row: &Row, value: &Value) -> Option<String> {
    match (row.kind, value) {
        (Kind::Text | Kind::Secret | Kind::Path, Value::String(text)) => Some(text.clone()),
        (Kind::Object, Value::Object(_)) => Some(value.to_string()),
        (Kind::Objects, Value::Array(items)) if items.iter().all(Value::is_object) => Some(value.to_string()),
        (Kind::Switch, Value::Bool(on)) => Some(on.to_string()),
        (Kind::Number { .. }, Value::Number(number)) => Some(number.to_string()),
        (Kind::List, Value::Array(items)) => {
            items.iter().map(Value::as_str).collect::<Option<Vec<_>>>().map(|names| names.join(","))
        }
        _ => None,
    }
}

/// Says why `text` is no value for the row.
fn check_text(row: &Row, text: &str) -> Result<(), String> {
    match row.kind {
        Kind::Number { min, max } => match text.parse::<u64>() {
            Ok(number) if (min..=max).contains(&number) => Ok(()),
            _ => Err(format!("{text:?} is no whole number from {min} to {max}")),
        },
        Kind::Switch if text != "true" && text != "false" => Err(format!("{text:?} is neither true nor false")),
        Kind::Text | Kind::Secret | Kind::Path | Kind::Switch | Kind::List | Kind::Object | Kind::Objects => Ok(()),
    }
}
