//! What `auth.json` holds: the keys and sign-ins that PI stores.

use crate::model::odd_values;
use crate::model::secret_value::Secret;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::sync::Mutex;

/// One provider's entry of `auth.json`; fields that PI writes beyond these do not matter here.
pub(super) enum Entry {
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
    /// The entry is of no use; the text names it and says why.
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
/// What `auth.json` holds, as far as requests need it.
pub(super) struct AuthFile {
    pub entries: BTreeMap<String, Entry>,
    /// What the file's `!commands` printed. It lives as long as this content of the file.
    pub printed: Mutex<BTreeMap<String, Secret>>,
}

/// Reads the file's text. An entry that is of no use costs itself.
pub(super) fn parse(text: &str, odd: &mut Vec<String>) -> Result<AuthFile, String> {
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
