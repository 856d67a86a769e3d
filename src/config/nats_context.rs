//! The context files of the `nats` command line tool: `<config dir>/context/<name>.json` says where a server is and who we
//! are to it.
//!
//! A setting that we cannot follow is an error, not something to pass over: whoever wrote it expects it to hold.

use crate::files;
use crate::nats::{AddressError, Auth, Options, ServerAddress, Tls, valid_subject};
use serde_json::{Map, Value};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// A context is some hundred bytes; more than this is something else.
const MAX_FILE: u64 = 1 << 20;
/// Where a context without `url` points, as with the `nats` tool.
const DEFAULT_SERVER: &str = "127.0.0.1:4222";

/// What a context file says. It has no `Debug`, because it holds secrets.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Context {
    /// Empty when the file names no server.
    pub servers: Vec<ServerAddress>,
    /// The first of: `creds`, `nkey`, `user_jwt`, `user`, `token`.
    pub auth: Auth,
    pub tls: Tls,
    pub inbox_prefix: Option<String>,
    pub description: Option<String>,
}

/// Why a context cannot be used. It never shows a value that may be secret.
#[derive(Debug)]
pub(crate) enum ContextError {
    BadName(String),
    Read { path: PathBuf, error: io::Error },
    NotJson { path: PathBuf, error: serde_json::Error },
    Field { path: PathBuf, field: String, problem: Problem },
}

/// What is wrong with a field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Problem {
    Unknown,
    /// Known to the `nats` tool and not to us.
    Unsupported,
    WrongType(&'static str),
    /// It means nothing without this other field.
    Needs(&'static str),
    Address(AddressError),
    BadInboxPrefix,
}

impl fmt::Display for ContextError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ContextError::BadName(name) => write!(out, "{name:?} cannot be the name of a NATS context"),
            ContextError::Read { path, error } => write!(out, "{}: {error}", path.display()),
            ContextError::NotJson { path, error } => write!(out, "{}: {error}", path.display()),
            ContextError::Field { path, field, problem } => write!(out, "{}: {field}: {problem}", path.display()),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Problem::Unknown => write!(out, "unknown field"),
            Problem::Unsupported => write!(out, "this setting is not supported"),
            Problem::WrongType(expected) => write!(out, "must be {expected}"),
            Problem::Needs(other) => write!(out, "must be given together with {other}"),
            Problem::Address(error) => write!(out, "{error}"),
            Problem::BadInboxPrefix => write!(out, "cannot be the beginning of a subject"),
        }
    }
}

impl std::error::Error for ContextError {}

/// Where the `nats` tool keeps its configuration: `$NATS_CONFIG_HOME`, `$XDG_CONFIG_HOME/nats` or `~/.config/nats`.
/// `variable` gives the value of an environment variable.
pub(crate) fn config_dir(variable: impl Fn(&str) -> Option<String>, home: &Path) -> PathBuf {
    let set = |name: &str| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("NATS_CONFIG_HOME")
        .or_else(|| Some(set("XDG_CONFIG_HOME")?.join("nats")))
        .unwrap_or_else(|| home.join(".config/nats"))
}

/// Reads the context `name` below the configuration directory `dir`, see [`config_dir`].
pub(crate) fn load(dir: &Path, name: &str, home: &Path) -> Result<Context, ContextError> {
    if name.is_empty() || name.starts_with('.') || name.contains("..") || name.contains(['/', '\\', '\0']) {
        return Err(ContextError::BadName(name.into()));
    }
    let path = dir.join("context").join(format!("{name}.json"));
    let text = read(&path).map_err(|error| ContextError::Read { path: path.clone(), error })?;
    let fields: Map<String, Value> =
        serde_json::from_slice(&text).map_err(|error| ContextError::NotJson { path: path.clone(), error })?;
    parse(fields, home).map_err(|(field, problem)| ContextError::Field { path, field, problem })
}

/// Reads a context, or one of the small files that a context names.
///
/// # Errors
/// What the system says, or that it is no file or too long.
pub(crate) fn read(path: &Path) -> io::Result<Vec<u8>> {
    files::read(path, MAX_FILE)
}

impl Context {
    /// The files with keys that it names.
    pub(crate) fn keys(&self) -> Vec<PathBuf> {
        let credentials = match &self.auth {
            Auth::CredsFile(file) | Auth::NkeyFile(file) => Some(file),
            Auth::None | Auth::UserPassword { .. } | Auth::Token(_) | Auth::Jwt { .. } => None,
        };
        credentials.into_iter().chain(&self.tls.key).cloned().collect()
    }

    /// The options that follow from it. `servers`, if there are any, replace its own; without either it is the server on
    /// this host.
    pub(crate) fn into_options(self, servers: Vec<ServerAddress>) -> Options {
        let servers = if servers.is_empty() { self.servers } else { servers };
        let mut options = Options::new(servers);
        if options.servers.is_empty() {
            options.servers.extend(DEFAULT_SERVER.parse());
        }
        options.auth = self.auth;
        options.tls = self.tls;
        if let Some(prefix) = self.inbox_prefix {
            options.inbox_prefix = prefix;
        }
        options
    }
}

type FieldError = (String, Problem);

/// A file's fields, each of which may be taken once. What is left in the end is unknown.
struct Fields<'a> {
    left: Map<String, Value>,
    home: &'a Path,
}

impl Fields<'_> {
    /// A text; an empty one counts as unset.
    fn text(&mut self, name: &str) -> Result<Option<String>, FieldError> {
        match self.left.remove(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text).filter(|text| !text.is_empty())),
            Some(_) => Err((name.into(), Problem::WrongType("a string"))),
        }
    }

    fn flag(&mut self, name: &str) -> Result<bool, FieldError> {
        match self.left.remove(name) {
            None | Some(Value::Null) => Ok(false),
            Some(Value::Bool(flag)) => Ok(flag),
            Some(_) => Err((name.into(), Problem::WrongType("true or false"))),
        }
    }

    /// A path; `~/` in front stands for the home directory.
    fn path(&mut self, name: &str) -> Result<Option<PathBuf>, FieldError> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        Ok(Some(text.strip_prefix("~/").map_or_else(|| text.clone().into(), |rest| self.home.join(rest))))
    }

    /// Checks what nothing has asked for.
    fn finish(self) -> Result<(), FieldError> {
        for (name, value) in self.left {
            let unset = match &value {
                Value::Null | Value::Bool(false) => true,
                Value::String(text) => text.is_empty(),
                Value::Array(list) => list.is_empty(),
                Value::Bool(_) | Value::Number(_) | Value::Object(_) => false,
            };
            // These say how tools talk to a server's JetStream, and how they look; neither concerns a connection.
            let harmless = name.starts_with("jetstream_") || name == "color_scheme";
            let unsupported = name.starts_with("windows_") || matches!(name.as_str(), "nsc" | "socks_proxy");
            match (harmless, unsupported) {
                (true, _) => {}
                (_, true) if unset => {}
                (_, true) => return Err((name, Problem::Unsupported)),
                _ => return Err((name, Problem::Unknown)),
            }
        }
        Ok(())
    }
}

fn parse(fields: Map<String, Value>, home: &Path) -> Result<Context, FieldError> {
    let mut fields = Fields { left: fields, home };
    let servers = match fields.text("url")? {
        Some(url) => ServerAddress::parse_list(&url).map_err(|error| ("url".into(), Problem::Address(error)))?,
        None => Vec::new(),
    };
    let inbox_prefix = fields.text("inbox_prefix")?;
    if inbox_prefix.as_ref().is_some_and(|prefix| !valid_subject(prefix)) {
        return Err(("inbox_prefix".into(), Problem::BadInboxPrefix));
    }
    let context = Context {
        servers,
        auth: parse_auth(&mut fields)?,
        tls: parse_tls(&mut fields)?,
        inbox_prefix,
        description: fields.text("description")?,
    };
    fields.finish()?;
    Ok(context)
}

fn parse_auth(fields: &mut Fields<'_>) -> Result<Auth, FieldError> {
    // All are read before one is chosen, so that a mistake in the others is seen too.
    let (creds, nkey) = (fields.path("creds")?, fields.path("nkey")?);
    let (jwt, seed) = (fields.text("user_jwt")?, fields.text("user_seed")?);
    let (user, password, token) = (fields.text("user")?, fields.text("password")?, fields.text("token")?);
    if seed.is_some() && jwt.is_none() {
        return Err(("user_seed".into(), Problem::Needs("user_jwt")));
    }
    if password.is_some() && user.is_none() {
        return Err(("password".into(), Problem::Needs("user")));
    }
    Ok(if let Some(creds) = creds {
        Auth::CredsFile(creds)
    } else if let Some(nkey) = nkey {
        Auth::NkeyFile(nkey)
    } else if let Some(jwt) = jwt {
        Auth::Jwt { jwt, seed }
    } else if let Some(user) = user {
        Auth::UserPassword { user, password: password.unwrap_or_default() }
    } else if let Some(token) = token {
        Auth::Token(token)
    } else {
        Auth::None
    })
}

fn parse_tls(fields: &mut Fields<'_>) -> Result<Tls, FieldError> {
    let (ca, cert, key) = (fields.path("ca")?, fields.path("cert")?, fields.path("key")?);
    match (&cert, &key) {
        (Some(_), None) => return Err(("cert".into(), Problem::Needs("key"))),
        (None, Some(_)) => return Err(("key".into(), Problem::Needs("cert"))),
        _ => {}
    }
    Ok(Tls { required: false, first: fields.flag("tls_first")?, ca, cert, key })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::fs;

    fn parsed(value: Value) -> Result<Context, FieldError> {
        let Value::Object(fields) = value else { panic!("an object") };
        parse(fields, Path::new("/home/u"))
    }

    #[test]
    fn reads_every_field() {
        let context = parsed(json!({
            "description": "d", "url": "nats://a:1,tls://b", "token": "", "user": "", "password": "",
            "creds": "~/c.creds", "nkey": "", "cert": "cert.pem", "key": "/abs/key.pem", "ca": "~/ca.pem",
            "nsc": "", "jetstream_domain": "x", "jetstream_api_prefix": "y", "jetstream_event_prefix": "",
            "inbox_prefix": "_INBOX.mine", "user_jwt": "", "color_scheme": "dark", "tls_first": true,
            "socks_proxy": "", "windows_cert_store": "", "windows_ca_certs_match": [], "windows_cert_match": null
        }));
        let context = context.unwrap_or_else(|error| panic!("{error:?}"));
        assert_eq!(context.servers.iter().map(ToString::to_string).collect::<Vec<_>>(), ["a:1", "tls://b:4222"]);
        assert!(context.auth == Auth::CredsFile("/home/u/c.creds".into()));
        let path = |text: &str| Some(PathBuf::from(text));
        let tls = Tls {
            required: false,
            first: true,
            ca: path("/home/u/ca.pem"),
            cert: path("cert.pem"),
            key: path("/abs/key.pem"),
        };
        assert_eq!(context.tls, tls);
        assert_eq!(context.description.as_deref(), Some("d"));
        let options = context.clone().into_options(Vec::new());
        assert_eq!((options.inbox_prefix.as_str(), options.servers.len()), ("_INBOX.mine", 2));
        let replaced = context.into_options(ServerAddress::parse_list("c").expect("valid"));
        assert_eq!(replaced.servers.iter().map(ToString::to_string).collect::<Vec<_>>(), ["c:4222"]);
        let empty = parsed(json!({})).unwrap_or_else(|error| panic!("{error:?}")).into_options(Vec::new());
        assert_eq!((empty.servers[0].to_string().as_str(), empty.inbox_prefix.as_str()), (DEFAULT_SERVER, "_INBOX"));
    }

    #[test]
    fn credentials_have_an_order() {
        let all = [
            ("creds", "c", Auth::CredsFile("c".into())),
            ("nkey", "~/n", Auth::NkeyFile("/home/u/n".into())),
            ("user_jwt", "j", Auth::Jwt { jwt: "j".into(), seed: None }),
            ("user", "u", Auth::UserPassword { user: "u".into(), password: String::new() }),
            ("token", "t", Auth::Token("t".into())),
        ];
        for first in 0..all.len() {
            let fields = all[first..].iter().map(|(name, value, _)| ((*name).to_owned(), json!(value))).collect();
            assert!(parsed(Value::Object(fields)).is_ok_and(|context| context.auth == all[first].2), "{first}");
        }
        let context = parsed(json!({"user_jwt": "j", "user_seed": "s", "user": "u", "password": "p"}));
        assert!(context.is_ok_and(|context| context.auth == Auth::Jwt { jwt: "j".into(), seed: Some("s".into()) }));
        let context = parsed(json!({"user": "u", "password": "p", "token": "t"}));
        let expected = Auth::UserPassword { user: "u".into(), password: "p".into() };
        assert!(context.is_ok_and(|context| context.auth == expected));
    }

    #[test]
    fn refuses_what_it_cannot_follow() {
        let table = [
            (json!({"nsc": "nsc://op/acc/user"}), "nsc", Problem::Unsupported),
            (json!({"socks_proxy": "socks5://x"}), "socks_proxy", Problem::Unsupported),
            (json!({"windows_cert_store": "user"}), "windows_cert_store", Problem::Unsupported),
            (json!({"windows_ca_certs_match": ["x"]}), "windows_ca_certs_match", Problem::Unsupported),
            (json!({"ulr": "nats://x"}), "ulr", Problem::Unknown),
            (json!({"ulr": ""}), "ulr", Problem::Unknown),
            (json!({"url": "wss://x"}), "url", Problem::Address(AddressError::WebSocket)),
            (json!({"url": "a,"}), "url", Problem::Address(AddressError::Empty)),
            (json!({"url": 7}), "url", Problem::WrongType("a string")),
            (json!({"password": 12345, "user": "u"}), "password", Problem::WrongType("a string")),
            (json!({"tls_first": "yes"}), "tls_first", Problem::WrongType("true or false")),
            (json!({"inbox_prefix": "a.>"}), "inbox_prefix", Problem::BadInboxPrefix),
            (json!({"inbox_prefix": "a."}), "inbox_prefix", Problem::BadInboxPrefix),
            (json!({"cert": "c"}), "cert", Problem::Needs("key")),
            (json!({"key": "k"}), "key", Problem::Needs("cert")),
            (json!({"user_seed": "s"}), "user_seed", Problem::Needs("user_jwt")),
            (json!({"password": "p", "token": "t"}), "password", Problem::Needs("user")),
        ];
        for (value, field, problem) in table {
            let shown = value.to_string();
            let Err(error) = parsed(value) else { panic!("{shown} was accepted") };
            assert_eq!(error, (field.into(), problem), "{shown}");
        }
    }

    #[test]
    fn loads_files_by_name() {
        let dir = tempfile::tempdir().expect("a directory");
        fs::create_dir(dir.path().join("context")).expect("created");
        let write = |name: &str, text: &str| fs::write(dir.path().join("context").join(name), text).expect("written");
        write("good.json", r#"{"url": "h", "token": "s3cret"}"#);
        write("bad.json", r#"{"url": "h""#);
        write("list.json", "[]");
        write("field.json", r#"{"password": 12345, "user": "u"}"#);
        fs::write(dir.path().join("outside.json"), "{}").expect("written");
        assert!(load(dir.path(), "good", dir.path()).is_ok_and(|context| context.auth == Auth::Token("s3cret".into())));
        let message = |name: &str| load(dir.path(), name, dir.path()).map(|_| ()).expect_err(name).to_string();
        for name in ["", ".hidden", "../outside", "a/b", "a\\b", "a..b", "a\0"] {
            assert!(message(name).contains("cannot be the name"), "{name:?}");
        }
        assert!(message("missing").contains("missing.json"));
        assert!(message("bad").contains("line 1"));
        assert!(message("list").contains("list.json"));
        let field = message("field");
        assert!(field.contains("field.json: password: must be a string") && !field.contains("12345"), "{field}");
    }

    #[test]
    fn finds_the_directory() {
        let find = |set: &[(&str, &str)]| {
            let variable = |name: &str| set.iter().find(|(other, _)| *other == name).map(|(_, v)| (*v).to_string());
            config_dir(variable, Path::new("/h"))
        };
        for (set, dir) in [
            (&[("NATS_CONFIG_HOME", "/n"), ("XDG_CONFIG_HOME", "/x")][..], "/n"),
            (&[("NATS_CONFIG_HOME", ""), ("XDG_CONFIG_HOME", "/x")], "/x/nats"),
            (&[], "/h/.config/nats"),
        ] {
            assert_eq!(find(set), Path::new(dir), "{set:?}");
        }
    }
}
