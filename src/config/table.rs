//! The one table of settings: flags, environment variables, file keys, help and defaults come from it.

/// What a setting's text has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Text,
    /// Shown as `set` wherever settings are printed.
    Secret,
    /// A file or folder; `~/` is the home folder.
    Path,
    Switch,
    /// A whole number in a range, both ends included.
    Number {
        min: u64,
        max: u64,
    },
    /// A JSON list of texts in the file; separated by commas in a flag.
    List,
    /// A JSON object in the file; there is no flag for it.
    Object,
    /// A JSON list of objects in the file; there is no flag for it.
    Objects,
}

/// One setting.
pub(crate) struct Row {
    /// Key in the configuration file, and the name that `--check` prints.
    pub key: &'static str,
    /// Empty for what only the file can say.
    pub flag: &'static str,
    pub environment: Option<&'static str>,
    pub kind: Kind,
    pub default: Option<&'static str>,
    /// What the flag's argument is called in the help.
    pub argument: &'static str,
    pub help: &'static str,
}

const fn row(key: &'static str, flag: &'static str, kind: Kind, argument: &'static str, help: &'static str) -> Row {
    Row { key, flag, environment: None, kind, default: None, argument, help }
}

impl Row {
    const fn env(self, name: &'static str) -> Row {
        Row { environment: Some(name), ..self }
    }

    const fn or(self, default: &'static str) -> Row {
        Row { default: Some(default), ..self }
    }
}

/// A size; the largest is far above any that makes sense.
const BYTES: Kind = Kind::Number { min: 0, max: 1 << 40 };
const YEAR: u64 = 366 * 24 * 3600;

/// All settings, in the order of the help.
pub(crate) const ROWS: &[Row] = &[
    row(
        "server",
        "--server",
        Kind::Text,
        "URL[,URL]",
        "NATS server; nats:// or tls://, user:password@ or token@ in front",
    )
    .env("NATS_URL"),
    row("context", "--context", Kind::Text, "NAME", "NATS context, as the nats command keeps them").env("NATS_CONTEXT"),
    row("listen", "--listen", Kind::Text, "ADDR:PORT", "where the embedded broker serves when no server is named")
        .or("127.0.0.1:4222"),
    row("noBroker", "--no-broker", Kind::Switch, "", "never serve a broker of our own"),
    row("creds", "--creds", Kind::Path, "FILE", "NATS credentials file (JWT and seed)"),
    row("nkey", "--nkey", Kind::Path, "FILE", "file with an NKEY seed"),
    row("user", "--user", Kind::Text, "NAME", "NATS user"),
    row("password", "--password", Kind::Secret, "TEXT", "NATS password; better kept in a context or the file"),
    row("token", "--token", Kind::Secret, "TEXT", "NATS token; better kept in a context or the file"),
    row("tlsCa", "--tls-ca", Kind::Path, "FILE", "certificate authority of the NATS server (PEM)"),
    row("tlsCert", "--tls-cert", Kind::Path, "FILE", "client certificate (PEM)"),
    row("tlsKey", "--tls-key", Kind::Path, "FILE", "key of the client certificate (PEM)"),
    row("tlsFirst", "--tls-first", Kind::Switch, "", "TLS handshake before the server's INFO"),
    row("inboxPrefix", "--inbox-prefix", Kind::Text, "SUBJECT", "prefix of our reply subjects [_INBOX]"),
    row("replyPrefixes", "--reply-prefixes", Kind::List, "TEXT[,TEXT]", "what reply subjects of requests begin with")
        .or("_INBOX.,_R_."),
    row("owner", "--owner", Kind::Text, "NAME", "the <owner> of agents.pi-exec.<owner> [$USER]").env("PI_EXEC_OWNER"),
    row("agentAlias", "--agent-alias", Kind::Text, "NAME", "be agents of this name as well, such as pi-headless"),
    row("agentDir", "--agent-dir", Kind::Path, "DIR", "auth.json, models.json, AGENTS.md of the PI agent")
        .env("PI_CODING_AGENT_DIR")
        .or("~/.pi/agent"),
    row("stateDir", "--state-dir", Kind::Path, "DIR", "what is remembered of sessions over a restart, per owner")
        .env("PI_EXEC_STATE_DIR")
        .or("~/.pi-exec/state"),
    row("noPersist", "--no-persist", Kind::Switch, "", "keep sessions in memory only, unless a request says otherwise"),
    row(
        "sessionDir",
        "--session-dir",
        Kind::Path,
        "DIR",
        "session files [sessions/ in the agent's folder, by project]",
    )
    .env("PI_CODING_AGENT_SESSION_DIR"),
    row("oauthRefresh", "", Kind::Object, "", "where sign-ins are refreshed: tokenUrl and clientId, by provider"),
    row("trustedFolders", "--trust", Kind::List, "DIR[,DIR]", "projects whose own .pi and .agents folders are used"),
    row(
        "tools",
        "--tools",
        Kind::List,
        "NAME[,NAME]",
        "tools of sessions that name none [read,bash,edit,write,question]",
    ),
    row("defaultModel", "--model", Kind::Text, "SPEC", "model of requests that name none: provider/model[:level]")
        .env("PI_EXEC_DEFAULT_MODEL"),
    row("defaultThinkingLevel", "--thinking", Kind::Text, "LEVEL", "off, minimal, low, medium, high, xhigh or max")
        .env("PI_EXEC_DEFAULT_THINKING_LEVEL"),
    row(
        "defaultMaxLifetime",
        "--max-lifetime",
        Kind::Number { min: 0, max: 100 * YEAR },
        "SECONDS",
        "lifetime of sessions that name none, 0 = no end",
    )
    .env("PI_EXEC_DEFAULT_MAX_LIFETIME")
    .or("1800"),
    row("maxSessions", "--max-sessions", Kind::Number { min: 1, max: 15_000 }, "N", "sessions and runs at a time")
        .or("2000"),
    row("maxQueue", "--max-queue", Kind::Number { min: 1, max: 10_000 }, "N", "prompts that may wait in one session")
        .or("32"),
    row(
        "maxRunning",
        "--max-running",
        Kind::Number { min: 0, max: 15_000 },
        "N",
        "prompts that are worked on at a time, fair between callers, 0 = no limit",
    )
    .or("0"),
    row(
        "maxSessionBytes",
        "--max-session-bytes",
        BYTES,
        "BYTES",
        "what a session may keep of attachments, of outputs and of waiting prompts, 0 = no limit",
    )
    .or("268435456"),
    row("maxHostBytes", "--max-host-bytes", BYTES, "BYTES", "what all sessions may keep of each, 0 = no limit")
        .or("2147483648"),
    row("grace", "--grace", Kind::Number { min: 0, max: 3600 }, "SECONDS", "time for running prompts at shutdown")
        .or("20"),
    row(
        "bashTimeout",
        "--bash-timeout",
        Kind::Number { min: 0, max: 2_147_483 },
        "SECONDS",
        "limit of commands whose call names none, 0 = no limit",
    )
    .or("600"),
    row(
        "questionTimeout",
        "--question-timeout",
        Kind::Number { min: 0, max: 100 * YEAR },
        "SECONDS",
        "how long the model's questions wait for an answer, 0 = no limit",
    )
    .or("1800"),
    row(
        "audit",
        "--audit",
        Kind::Switch,
        "",
        "record every decision and effect in a log that cannot be changed unnoticed",
    ),
    row("rules", "", Kind::Objects, "", "what tools may be called with: allow, ask, deny"),
    row("otherwise", "--otherwise", Kind::Text, "allow|ask|deny", "what becomes of calls that no rule is about")
        .or("allow"),
    row(
        "approvalTimeout",
        "--approval-timeout",
        Kind::Number { min: 0, max: 100 * YEAR },
        "SECONDS",
        "how long calls wait for an approval before they are denied, 0 = no limit",
    )
    .or("600"),
    row(
        "unattended",
        "--unattended",
        Kind::Text,
        "deny|wait|SECONDS",
        "what becomes of calls that need an approval while nobody is there",
    )
    .or("deny"),
    row("budgets", "", Kind::Object, "", "what may be spent on a prompt, in a session, on a day"),
    row("onBudget", "--on-budget", Kind::Text, "stop|ask", "what becomes of a request that a budget does not allow")
        .or("stop"),
    row(
        "budgetDir",
        "--budget-dir",
        Kind::Path,
        "DIR",
        "where daemons of one owner count together [in the state directory]",
    ),
    row("sandbox", "--sandbox", Kind::Text, "PROFILE", "what tools may do: read-only, workspace or off")
        .or("workspace"),
    row("sandboxRequired", "--sandbox-required", Kind::Text, "LEVEL", "no tool runs below this: net, files or full")
        .or("none"),
    row("network", "--network", Kind::Text, "on|off", "whether tools in a sandbox may use the network").or("on"),
    row("writable", "--writable", Kind::List, "PATH[,PATH]", "what they may write beside the working folder"),
    row("unreadable", "--unreadable", Kind::List, "PATH[,PATH]", "what they must not read beside the usual secrets"),
    row("unixSockets", "--unix-sockets", Kind::Switch, "", "they may use Unix sockets, such as Docker's"),
    row(
        "toolMemory",
        "--tool-memory",
        Kind::Text,
        "BYTES",
        "memory of one of their processes, such as 512M [no limit]",
    ),
    row("toolFileSize", "--tool-file-size", Kind::Text, "BYTES", "size of a file that they write [no limit]"),
    row(
        "toolProcesses",
        "--tool-processes",
        Kind::Number { min: 0, max: 1 << 22 },
        "N",
        "processes of the user, 0 = no limit",
    )
    .or("0"),
    row("toolEnvironment", "--tool-env", Kind::List, "NAME[,NAME]", "further variables that commands may see"),
    row("agentControl", "--agent-control", Kind::Text, "none|others", "which sessions agents may control by pi-bridge")
        .or("none"),
    row("secrets", "", Kind::Object, "", "what sessions may name as variables of their tools: values as in auth.json"),
    row(
        "heartbeatInterval",
        "--heartbeat-interval",
        Kind::Number { min: 1, max: 3600 },
        "SECONDS",
        "between two signs of life of an agent on NATS",
    )
    .or("5"),
    row(
        "onRestart",
        "--on-restart",
        Kind::Text,
        "continue|hold|end",
        "what becomes of a prompt that a restart interrupts, unless a request says otherwise",
    )
    .or("continue"),
    row(
        "fleet",
        "--fleet",
        Kind::Switch,
        "",
        "be one service with the owner's other hosts that have this set; needs JetStream of nats-server 2.11",
    ),
    row("fleetHost", "--fleet-host", Kind::Text, "NAME", "what this host is called among them [its host name]"),
    row(
        "fleetReplicas",
        "--fleet-replicas",
        Kind::Number { min: 1, max: 5 },
        "N",
        "servers that keep what hosts share",
    )
    .or("1"),
    row(
        "fleetCardTime",
        "--fleet-card-time",
        Kind::Number { min: 1, max: 3600 },
        "SECONDS",
        "how long after its last sign of life a host is looked for",
    )
    .or("12"),
    row("onSettled", "--on-settled", Kind::Text, "COMMAND", "gets a JSON line about each prompt that is settled"),
    row("metricsListen", "--metrics-listen", Kind::Text, "ADDR:PORT", "serve /metrics, /healthz and /readyz over HTTP"),
    row("events", "--events", Kind::Switch, "", "publish the events of all sessions on NATS"),
    row(
        "minSenderTrust",
        "--min-sender-trust",
        Kind::Text,
        "any|signed",
        "whose requests to take: anybody's, or only signed ones",
    )
    .or("any"),
    row(
        "trustedSenders",
        "--trusted-senders",
        Kind::List,
        "KEY[,KEY]",
        "public keys (U...) of the only users whose signatures count then [all]",
    ),
    row(
        "bridgeDir",
        "--bridge-dir",
        Kind::Path,
        "DIR",
        "where the side channel's sockets and registry are [<tmpdir>/pi-session-bridge-<uid>]",
    )
    .env("PI_BRIDGE_DIR"),
    row("noBridge", "--no-bridge", Kind::Switch, "", "no side channel over Unix sockets"),
    row("historyLimit", "--history-limit", Kind::Number { min: 1, max: 100_000 }, "N", "events that a session keeps")
        .env("PI_BRIDGE_HISTORY")
        .or("500"),
    row("maxHistoryBytes", "--max-history-bytes", BYTES, "BYTES", "their size together, 0 = no limit").or("4194304"),
    row(
        "maxHistoryResponseBytes",
        "--max-history-response-bytes",
        BYTES,
        "BYTES",
        "their size in one answer, 0 = no limit",
    )
    .or("1048576"),
    row("maxEventBytes", "--max-event-bytes", BYTES, "BYTES", "size from which an event is shortened").or("8192"),
    row("eventPreviewBytes", "--event-preview-bytes", BYTES, "BYTES", "size of what is shown of shortened texts")
        .or("256"),
    row("noRawEvents", "--no-raw-events", Kind::Switch, "", "never keep what was shortened in a file"),
    row("maxRawSpillBytes", "--max-raw-spill-bytes", BYTES, "BYTES", "size of that file, 0 = no limit").or("16777216"),
    row("refuseRoot", "--refuse-root", Kind::Switch, "", "do not start as root"),
    row("log", "--log", Kind::Text, "LEVEL", "error, warn, info, debug or trace").env("PI_EXEC_LOG").or("info"),
];
