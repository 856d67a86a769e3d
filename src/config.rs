//! Configuration: flags > environment > file > default, resolved once into one immutable [`Config`].

mod bridge;
mod connection;
mod fleet;
pub(crate) mod nats_context;
mod reload;
mod rules;
mod sandbox;
mod settings;
mod table;
#[cfg(test)]
mod tests;

use crate::contract::identity::OnRestart;
use crate::contract::session::Unattended;
use crate::event_log;
use crate::fleet::FleetOptions;
use crate::governance::audit::Audit;
use crate::governance::budget::{Budgets, Ledger, OnBudget};
use crate::governance::rules::Rules;
use crate::model::{OauthEndpoints, ThinkingLevel};
use crate::nats::{self, nkey};
use crate::near;
use crate::prompt::UserFolders;
use crate::service::agents::SenderTrust;
use crate::service::host::HostOptions;
use crate::session::{Notices, SessionOptions};
use crate::socket::AgentControl;
use crate::sys;
use crate::tools::runner::Sandbox;
use crate::turn::{SecretTable, TurnOptions};
pub(crate) use bridge::BridgePlan;
pub(crate) use connection::{BrokerPlan, address_of};
use settings::{Settings, expand};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
pub(crate) use table::{Kind, ROWS};

/// Column in which the explanations of the help begin.
const HELP_COLUMN: usize = 30;
/// The public server of the reference's quick start.
const PUBLIC_SERVER: &str = "demo.nats.io";
/// The owner where nobody says who that is.
const UNKNOWN_OWNER: &str = "unknown";

/// What it means to be root, for somebody who may not have meant to.
const AS_ROOT: &str = "this daemon is root, and so are the programs that its sessions run: whoever may prompt one can change \
    everything on this machine or in this container, and read the agent's keys; sandbox confines them, refuseRoot forbids it";
const AS_ROOT_IN_A_SANDBOX: &str = "this daemon is root; the programs that its sessions run have no privileges, and reach what \
    sandbox lets them";

const WITHOUT_A_SANDBOX: &str = "sandbox is off: the programs that sessions run can do all that the daemon's user can, read its keys \
    included";

/// Everything the daemon was told, immutable from here on.
pub(crate) struct Config {
    pub nats: nats::Options,
    /// The server of our own that is started where no other is named and none is there.
    pub broker: Option<BrokerPlan>,
    /// Name of the NATS context in use, or `default`.
    pub context_name: String,
    /// One subject token.
    pub owner: String,
    /// A further name of the kind of agent that the controller and the sessions are.
    pub agent_alias: Option<String>,
    pub home: PathBuf,
    pub agent_dir: PathBuf,
    /// Where the agent's sign-ins are refreshed; nowhere else.
    pub oauth_refresh: OauthEndpoints,
    /// What is remembered of sessions over a restart; private to this owner.
    pub state_dir: PathBuf,
    /// Sessions are kept over a restart unless a request says otherwise.
    pub persist: bool,
    /// One folder for all session files, in place of the agent's own.
    pub session_dir: Option<PathBuf>,
    /// Projects below these folders may say how the agent works; absolute.
    pub trusted_folders: Vec<PathBuf>,
    /// The tools of sessions that name none, if they are not the usual ones.
    pub tools: Option<Vec<String>>,
    pub default_model: Option<String>,
    pub default_thinking: Option<ThinkingLevel>,
    /// Zero means no end.
    pub default_max_lifetime: Duration,
    pub max_sessions: usize,
    pub max_queue: usize,
    /// Prompts that are worked on at the same time; zero is no limit.
    pub max_running: usize,
    /// Bytes that a session may keep of each kind for its callers and its model, and all together; zero is no limit.
    pub max_session_bytes: u64,
    pub max_host_bytes: u64,
    pub grace: Duration,
    /// The operator's command that is told of each prompt that is settled.
    pub on_settled: Option<String>,
    /// How this host is one of several that are one service, if it is.
    pub fleet: Option<FleetOptions>,
    /// Where figures are served over HTTP.
    pub metrics_listen: Option<SocketAddr>,
    /// What becomes of a prompt that a restart interrupts, in sessions whose request does not say.
    pub on_restart: OnRestart,
    pub bash_timeout: Option<Duration>,
    /// What tools are confined to.
    pub sandbox: Arc<Sandbox>,
    /// Everything that is decided and done is recorded.
    pub audit: bool,
    /// What becomes of a request that a budget does not allow.
    pub on_budget: OnBudget,
    /// What may be spent; a session may have less.
    pub budgets: Budgets,
    /// Where it is kept what is spent; private to this owner.
    pub budget_dir: PathBuf,
    /// What programs that agents have started may ask on the side channel.
    pub agent_control: AgentControl,
    /// What sessions may have as variables by naming it.
    pub secrets: SecretTable,
    /// How long the model's questions wait for an answer; `None` = no limit.
    pub question_timeout: Option<Duration>,
    /// What tools may be called with.
    pub rules: Arc<Rules>,
    /// How long approvals wait for somebody; `None` = no limit.
    pub approval_timeout: Option<Duration>,
    /// What becomes of an approval that nobody sees.
    pub unattended: Unattended,
    /// The whole environment of child processes.
    pub tool_environment: Vec<(String, String)>,
    /// Between two signs of life of an agent.
    pub heartbeat_interval: Duration,
    /// Sessions publish their events on NATS unless told otherwise.
    pub events: bool,
    pub min_sender_trust: SenderTrust,
    /// What the reply subjects of requests have to begin with.
    pub reply_prefixes: Vec<String>,
    /// Public keys of the only users whose signatures count then; empty = all.
    pub trusted_senders: HashSet<String>,
    /// The side channel, unless it is forbidden.
    pub bridge: Option<BridgePlan>,
    /// Bounds of every session's events.
    pub event_log: event_log::Settings,
    pub log: String,
    /// Things the operator should know, one line each.
    pub warnings: Vec<String>,
    /// What `--check` prints.
    pub report: String,
    /// The texts of all settings that have one, by key.
    values: BTreeMap<&'static str, String>,
}

impl Config {
    /// Where this user's own files are.
    pub(crate) fn folders(&self) -> UserFolders {
        UserFolders { agent_dir: self.agent_dir.clone(), home: self.home.clone() }
    }

    /// Where the audit log is.
    pub(crate) fn audit_dir(&self) -> PathBuf {
        self.state_dir.join("audit")
    }

    /// The settings that sessions share.
    pub(crate) fn session_options(
        &self,
        ledger: Arc<Ledger>,
        audit: Option<Arc<Audit>>,
        notices: Option<Notices>,
    ) -> SessionOptions {
        SessionOptions {
            max_queue: self.max_queue,
            event_log: self.event_log.clone(),
            question_timeout: self.question_timeout,
            audit,
            approval_timeout: self.approval_timeout,
            unattended: self.unattended,
            on_budget: self.on_budget,
            ledger: Some(ledger),
            turn: Arc::new(TurnOptions {
                folders: self.folders(),
                tool_environment: self.tool_environment.clone(),
                bash_timeout: self.bash_timeout,
                secrets: self.secrets.clone(),
            }),
            notices,
        }
    }

    /// The settings of what the daemon says on NATS; `nonces` is where accepted signatures are kept.
    pub(crate) fn host_options(&self, nonces: Option<PathBuf>) -> HostOptions {
        HostOptions {
            owner: self.owner.clone(),
            agent_alias: self.agent_alias.clone(),
            heartbeat_interval: self.heartbeat_interval,
            events: self.events,
            min_sender_trust: self.min_sender_trust,
            reply_prefixes: self.reply_prefixes.clone(),
            trusted_senders: self.trusted_senders.clone(),
            nonces,
        }
    }

    /// The configuration names this folder among those whose projects are trusted. A session's folder had no links when the
    /// session was made; one that is brought back and has become a link is another folder, which nobody named.
    pub(crate) fn trusts(&self, folder: &Path) -> bool {
        let is_itself = || folder.canonicalize().is_ok_and(|real| real == folder);
        self.trusted_folders.iter().any(|trusted| folder.starts_with(trusted)) && is_itself()
    }
}

/// What was wrong with the configuration; `Display` names the place and the fix.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ConfigError {
    /// The command line is wrong: exit code 2.
    Usage(String),
    /// A file or variable is wrong: exit code 78 (`EX_CONFIG`).
    Invalid(String),
}

impl ConfigError {
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            ConfigError::Usage(_) => 2,
            ConfigError::Invalid(_) => 78,
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConfigError::Usage(text) | ConfigError::Invalid(text) => f.write_str(text),
        }
    }
}

/// What the command line asks for.
pub(crate) enum Command {
    /// `replaces` the process that does so, if there is one.
    Serve { config: Box<Config>, replaces: bool },
    /// Print the resolved configuration.
    Check(Box<Config>),
    /// Print this text.
    Print(String),
}

/// Reads the command line, the environment and the configuration file.
///
/// # Errors
/// [`ConfigError`], with the exit code that fits.
pub(crate) fn from_command_line(
    arguments: Vec<std::ffi::OsString>,
    environment: HashMap<String, String>,
) -> Result<Command, ConfigError> {
    let mut args = pico_args::Arguments::from_vec(arguments);
    if args.contains(["-h", "--help"]) {
        return Ok(Command::Print(help()));
    }
    if args.contains(["-V", "--version"]) {
        return Ok(Command::Print(format!("nats-pi-bridge {}\n", env!("CARGO_PKG_VERSION"))));
    }
    let (check, replaces) = (args.contains("--check"), args.contains("--replace"));
    let usage = |e: pico_args::Error| ConfigError::Usage(format!("{e}; see --help"));
    let file: Option<String> = args.opt_value_from_str("--config").map_err(usage)?;
    let mut flags = HashMap::new();
    for row in ROWS.iter().filter(|row| !row.flag.is_empty()) {
        if row.kind == Kind::Switch {
            if args.contains(row.flag) {
                flags.insert(row.key, "true".to_string());
            }
        } else if let Some(text) = args.opt_value_from_str::<_, String>(row.flag).map_err(usage)? {
            flags.insert(row.key, text);
        }
    }
    if let Some(rest) = args.finish().first() {
        let rest = rest.to_string_lossy();
        let own = ["--config", "--check", "--version", "--help"];
        let hint = near::hint(&rest, ROWS.iter().map(|row| row.flag).chain(own));
        return Err(ConfigError::Usage(format!("unknown argument {rest}{hint}; see --help")));
    }
    let config = Box::new(settings::resolve(flags, file, &environment)?.into_config(&environment)?);
    Ok(if check { Command::Check(config) } else { Command::Serve { config, replaces } })
}

fn help() -> String {
    let mut out = String::from(
        "nats-pi-bridge: hosts coding-agent sessions and serves them over NATS\n\nUsage: nats-pi-bridge [options]\n\n",
    );
    // What is too long for the column has a line of its own, so that all explanations begin there.
    let mut line = |left: String, text: &str| {
        let left = left.trim_end();
        let gap = if left.len() > HELP_COLUMN - 3 { format!("\n{:HELP_COLUMN$}", "") } else { " ".to_string() };
        out.push_str(&format!("  {left:<width$}{gap}{text}\n", width = HELP_COLUMN - 3));
    };
    line("--config FILE".into(), "configuration file [~/.pi-exec/config.json]");
    for row in ROWS.iter().filter(|row| !row.flag.is_empty()) {
        let default = row.default.map(|d| format!(" [{d}]")).unwrap_or_default();
        let environment = row.environment.map(|e| format!(" (${e})")).unwrap_or_default();
        line(format!("{} {}", row.flag, row.argument), &format!("{}{default}{environment}", row.help));
    }
    line(
        "doctor [--json]".into(),
        "look whether machine, keys, folders and NATS are as the daemon needs them, then exit",
    );
    line("audit verify".into(), "look whether the audit log is as it was written, then exit");
    line("--replace".into(), "take over from the process that serves here, without a lost prompt");
    line("--check".into(), "print the resolved configuration, then exit");
    line("--version".into(), "print the version, then exit");
    line("--help".into(), "print this, then exit");
    out
}

/// Makes one subject token of a user's name: lower case, other characters than letters, digits, `_` and `-` become `-`.
fn sanitise_owner(name: &str) -> String {
    let mapped: String = name
        .chars()
        .map(|c| c.to_ascii_lowercase())
        .map(|c| if c.is_ascii_alphanumeric() || c == '_' || c == '-' { c } else { '-' })
        .collect();
    match mapped.trim_matches('-') {
        "" => UNKNOWN_OWNER.to_string(),
        token => token.to_string(),
    }
}

impl Settings {
    fn into_config(self, environment: &HashMap<String, String>) -> Result<Config, ConfigError> {
        let context = self.context(environment)?;
        let keys = context.as_ref().map(nats_context::Context::keys).unwrap_or_default();
        let keys = [keys, vec![self.context_folder(environment)]].concat();
        let broker = self.broker()?;
        let (nats, server_origin) = self.nats(context, environment)?;
        let (owner, owner_origin) = match (self.text("owner"), environment.get("USER").filter(|user| !user.is_empty()))
        {
            (Some(name), _) => (sanitise_owner(name), self.origin("owner")),
            (None, Some(user)) => (sanitise_owner(user), "$USER".to_string()),
            (None, None) => match sys::user_name() {
                Some(user) => (sanitise_owner(&user), "the system's name of this user".to_string()),
                None => (sanitise_owner(""), "default".to_string()),
            },
        };
        let default_thinking = match self.text("defaultThinkingLevel") {
            None => None,
            Some(text) => Some(
                ThinkingLevel::parse(text)
                    .ok_or_else(|| self.wrong("defaultThinkingLevel", &format!("{text:?} is no thinking level")))?,
            ),
        };
        let agent_alias = self.agent_alias()?;
        let fleet = self.fleet(&owner, broker.is_some())?;
        let metrics_listen = self.text("metricsListen").map(|_| self.address("metricsListen")).transpose()?;
        let log = self.text("log").unwrap_or("info").to_string();
        if log.parse::<log::LevelFilter>().is_err() {
            return Err(self.wrong("log", &format!("{log:?} is no log level")));
        }
        let on_restart = self.text("onRestart").unwrap_or_default();
        let on_restart = OnRestart::parse(on_restart)
            .ok_or_else(|| self.wrong("onRestart", &format!("{on_restart:?} is none of continue, hold, end")))?;
        let trust = self.text("minSenderTrust").unwrap_or_default();
        let min_sender_trust = SenderTrust::parse(trust)
            .ok_or_else(|| self.wrong("minSenderTrust", &format!("{trust:?} is neither any nor signed")))?;
        let trusted_senders: HashSet<String> = self.list("trustedSenders").into_iter().collect();
        if let Some(key) = trusted_senders.iter().find(|key| nkey::public_key(key, nkey::USER).is_none()) {
            return Err(self.wrong("trustedSenders", &format!("{key:?} is no user's public key (U...)")));
        }
        let servers = nats.servers.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        let sandbox = self.sandbox(self.absolute("agentDir")?.unwrap_or_default(), keys)?;
        let secrets = self.secrets()?;
        let secret_names = secrets.keys().cloned().collect::<Vec<_>>().join(",");
        let secret_names = if secrets.is_empty() { "-".to_string() } else { secret_names };
        let mut warnings = Vec::new();
        if rustix::process::geteuid().is_root() {
            if self.text("refuseRoot") == Some("true") {
                let why = "this process is root; start it as another user, or allow it";
                return Err(ConfigError::Invalid(self.wrong("refuseRoot", why).to_string()));
            }
            let what = if sandbox.is_off() { AS_ROOT } else { AS_ROOT_IN_A_SANDBOX };
            warnings.push(what.to_string());
        } else if sandbox.is_off() {
            warnings.push(WITHOUT_A_SANDBOX.to_string());
        }
        if !trusted_senders.is_empty() && min_sender_trust == SenderTrust::Any {
            warnings.push("trustedSenders keeps nobody out unless minSenderTrust is signed".to_string());
        }
        if nats.servers.iter().any(|server| server.host.eq_ignore_ascii_case(PUBLIC_SERVER)) {
            warnings.push(format!(
                "{PUBLIC_SERVER} is a public server: anybody on it can read what the agent says and can make it run \
                 programs on this machine"
            ));
        }
        if owner == UNKNOWN_OWNER {
            warnings.push(format!(
                "this user has no name, so that the owner is {UNKNOWN_OWNER:?}, like everywhere else where that is so; set \
                 --owner, or $USER"
            ));
        }
        let is_set = |name: &str| self.values.contains_key(name);
        if ["password", "token"].iter().any(|key| is_set(key) && self.origin(key).starts_with("--")) {
            warnings.push("a secret on the command line can be seen by every user of this machine".to_string());
        }
        if let Some(missing) = sandbox.missing() {
            warnings.push(format!(
                "the sandbox reaches level {} only: {missing}{}",
                sandbox.level.as_str(),
                if sandbox.required.is_some_and(|level| sandbox.level < level) { "; tools are refused" } else { "" }
            ));
        }
        let (bridge, event_log) = (self.bridge(environment)?, self.event_log());
        let names = self.list("toolEnvironment");
        let trusted =
            self.list("trustedFolders").into_iter().map(|path| std::path::absolute(expand(&path, &self.home)));
        let trusted: Vec<PathBuf> =
            trusted.collect::<Result<_, _>>().map_err(|e| self.wrong("trustedFolders", &e.to_string()))?;
        // Sessions' folders have no links in them either. A folder that is not there yet is trusted by its name.
        let trusted_folders = trusted.into_iter().map(|path| std::fs::canonicalize(&path).unwrap_or(path)).collect();
        let oauth_refresh = OauthEndpoints::parse(self.text("oauthRefresh").unwrap_or("{}"))
            .map_err(|why| self.wrong("oauthRefresh", &why))?;
        let budgets = serde_json::from_str(self.text("budgets").unwrap_or("{}")).unwrap_or_default();
        let budgets = Budgets::parse(&budgets).map_err(|why| self.wrong("budgets", &why))?;
        let state_dir = self.absolute("stateDir")?.unwrap_or_default().join(&owner);
        let budget_dir = self.absolute("budgetDir")?.map(|folder| folder.join(&owner));
        let tools = self.text("tools").map(|_| crate::tools::select(&self.list("tools"), &[])).transpose();
        let inherited: Vec<(String, String)> = environment.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
        let report = self.report(&[
            ("server", servers, server_origin),
            ("broker", broker.as_ref().map_or("off".into(), |b| b.listen.to_string()), self.broker_origin()),
            ("owner", owner.clone(), owner_origin),
            ("subject", format!("agents.pi-exec.{owner}"), "owner".to_string()),
            ("secrets", secret_names, self.origin("secrets")),
            ("sandboxLevel", sandbox.level.as_str().to_string(), "what this machine can enforce".to_string()),
            (
                "bridgeDir",
                bridge.as_ref().map_or("off".into(), |bridge| bridge.root.display().to_string()),
                self.origin(if bridge.is_some() { "bridgeDir" } else { "noBridge" }),
            ),
        ]);
        Ok(Config {
            context_name: self.text("context").unwrap_or("default").to_string(),
            nats,
            broker,
            agent_dir: self.absolute("agentDir")?.unwrap_or_default(),
            oauth_refresh,
            audit: self.text("audit") == Some("true"),
            budgets,
            budget_dir: budget_dir.unwrap_or_else(|| state_dir.join("budgets")),
            state_dir,
            persist: self.text("noPersist") != Some("true"),
            session_dir: self.absolute("sessionDir")?,
            trusted_folders,
            tools: tools.map_err(|why| self.wrong("tools", &why))?,
            owner,
            agent_alias,
            default_model: self.text("defaultModel").map(str::to_string),
            default_thinking,
            default_max_lifetime: Duration::from_secs(self.number("defaultMaxLifetime")),
            max_sessions: self.number("maxSessions") as usize,
            max_queue: self.number("maxQueue") as usize,
            max_running: self.number("maxRunning") as usize,
            max_session_bytes: self.number("maxSessionBytes"),
            max_host_bytes: self.number("maxHostBytes"),
            grace: Duration::from_secs(self.number("grace")),
            on_settled: self.text("onSettled").map(str::to_string),
            fleet,
            metrics_listen,
            bash_timeout: self.limit("bashTimeout"),
            sandbox: Arc::new(sandbox),
            secrets,
            agent_control: self.agent_control()?,
            question_timeout: self.limit("questionTimeout"),
            rules: Arc::new(self.rules()?),
            approval_timeout: self.limit("approvalTimeout"),
            unattended: self.unattended()?,
            on_budget: self.on_budget()?,
            tool_environment: crate::tools::child_environment(&inherited, &names, &[]),
            heartbeat_interval: Duration::from_secs(self.number("heartbeatInterval")),
            events: self.text("events") == Some("true"),
            min_sender_trust,
            on_restart,
            reply_prefixes: self.reply_prefixes()?,
            trusted_senders,
            home: self.home,
            bridge,
            event_log,
            log,
            warnings,
            report,
            values: self.values.into_iter().map(|(key, setting)| (key, setting.text)).collect(),
        })
    }

    /// One line a setting: name, value, where it came from. Secrets are shown as `set`.
    fn report(&self, derived: &[(&str, String, String)]) -> String {
        let mut out = String::new();
        let mut line = |name: &str, value: &str, origin: &str| out.push_str(&format!("{name} = {value}  ({origin})\n"));
        for (name, value, origin) in derived {
            line(name, value, origin);
        }
        for row in ROWS.iter().filter(|row| !derived.iter().any(|(name, ..)| *name == row.key)) {
            let value = match self.text(row.key) {
                None => "-".to_string(),
                Some(_) if row.kind == Kind::Secret => "set".to_string(),
                Some(text) if row.kind == Kind::Path => expand(text, &self.home).display().to_string(),
                Some(text) => text.to_string(),
            };
            line(row.key, &value, &self.origin(row.key));
        }
        out
    }
}
