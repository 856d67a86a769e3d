//! What tools may do, as the operator says it, and how much of that this machine can enforce.

use super::confine::reachable;
use rustix::fs::Access;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

/// Whether runners without a network have a loopback device of their own, which is known when the first of them has tried.
static LOOPBACK: OnceLock<bool> = OnceLock::new();

/// What tools may read and write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Profile {
    /// They read what `workspace` reads, and write to their private folder only.
    ReadOnly,
    /// They write to the working folder, and read all but secrets.
    Workspace,
    /// They do what the daemon's user may do, in the daemon's own process.
    Off,
}

/// How much of a profile holds here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Level {
    None,
    /// System calls are filtered: network, sockets, ways around.
    Net,
    /// Files, too (Landlock).
    Files,
    /// Signals and abstract sockets, too (Landlock's sixth ABI, Linux 6.12, or namespaces of processes).
    Full,
}

/// What the tools of a session are confined to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Sandbox {
    pub profile: Profile,
    /// It is less than the configuration says.
    pub is_narrowed: bool,
    /// How much of it this machine can enforce.
    pub level: Level,
    /// Below this level no tool runs.
    pub required: Option<Level>,
    pub network: bool,
    /// Sockets with a path, such as those of Docker and of SSH agents.
    pub unix_sockets: bool,
    /// Folders and files that may be written beside the working folder.
    pub writable: Vec<PathBuf>,
    /// What must not be read, beside what is known to be secret.
    pub unreadable: Vec<PathBuf>,
    /// The home folder, in which secrets are.
    pub home: PathBuf,
    /// Where the agent's keys are.
    pub agent_dir: PathBuf,
    /// Bytes of memory of one process.
    pub memory: Option<u64>,
    /// Bytes of one file.
    pub file_size: Option<u64>,
    /// Processes of the user.
    pub processes: Option<u64>,
}

/// What a request asks for beside the configuration, which it may only narrow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Narrowing {
    pub profile: Option<Profile>,
    pub network: Option<bool>,
}

impl Narrowing {
    /// What nothing is narrower than.
    pub(crate) const MOST: Narrowing = Narrowing { profile: Some(Profile::ReadOnly), network: Some(false) };

    /// Reads `sandbox` and `network` of a request.
    ///
    /// # Errors
    /// A text that says what is no profile, or neither `on` nor `off`.
    pub(crate) fn read(profile: Option<&str>, network: Option<&str>) -> Result<Narrowing, String> {
        let profile = profile
            .map(|text| Profile::parse(text).ok_or_else(|| format!("sandbox {text:?} is not {}", Profile::NAMES)));
        let network = network.map(|text| match text {
            "on" => Ok(true),
            "off" => Ok(false),
            _ => Err(format!("network {text:?} is neither on nor off")),
        });
        Ok(Narrowing { profile: profile.transpose()?, network: network.transpose()? })
    }
}

/// Why tools cannot be kept from the network alone.
pub(crate) const UNCONFINED: &str = "network can only be off where there is a sandbox";

/// In the agent's folder: keys of providers.
const AGENT_SECRETS: [&str; 2] = ["auth.json", "models.json"];
/// In the home folder. They hold keys or passwords, or let whoever has them act as the user.
const SECRETS: [&str; 48] = [
    ".pi-exec",
    ".config/nats",
    ".ssh",
    ".gnupg",
    ".aws",
    ".azure",
    ".config/gcloud",
    ".config/gh",
    ".config/hub",
    ".config/op",
    ".config/sops",
    ".config/rclone",
    ".kube",
    ".docker",
    ".netrc",
    ".git-credentials",
    ".config/git/credentials",
    ".npmrc",
    ".yarnrc.yml",
    ".pypirc",
    ".cargo/credentials",
    ".cargo/credentials.toml",
    ".gem/credentials",
    ".m2/settings.xml",
    ".pgpass",
    ".vault-token",
    ".terraform.d/credentials.tfrc.json",
    ".password-store",
    ".local/share/keyrings",
    ".mozilla",
    ".config/google-chrome",
    ".config/chromium",
    ".config/BraveSoftware",
    ".config/microsoft-edge",
    ".config/vivaldi",
    ".config/opera",
    ".thunderbird",
    ".local/share/kwalletd",
    ".config/containers/auth.json",
    ".config/github-copilot",
    ".config/doctl",
    ".boto",
    ".s3cfg",
    ".my.cnf",
    ".claude/.credentials.json",
    ".codex/auth.json",
    ".gemini/oauth_creds.json",
    ".local/share/opencode/auth.json",
];
/// Elsewhere. Root could read them, and containers keep secrets there.
const SYSTEM_SECRETS: [&str; 8] = [
    "/etc/shadow",
    "/etc/shadow-",
    "/etc/gshadow",
    "/etc/gshadow-",
    "/etc/sudoers",
    "/etc/sudoers.d",
    "/run/secrets",
    "/var/run/secrets",
];

/// Whether this user can neither read nor search what is there, nor give itself leave to: that is kept from tools by the
/// system already. Hiding it would take a rule for each of its neighbours, two thirds of a runner's start (2 of 3 ms).
fn is_out_of_reach(path: &Path) -> bool {
    let refused = |access| matches!(rustix::fs::access(path, access), Err(Errno::ACCESS));
    let is_ours = path.symlink_metadata().is_ok_and(|metadata| metadata.uid() == rustix::process::geteuid().as_raw());
    refused(Access::READ_OK) && refused(Access::EXEC_OK) && !is_ours
}

impl Sandbox {
    /// Tools run in the daemon, as its user.
    pub(crate) fn is_off(&self) -> bool {
        self.profile == Profile::Off
    }

    /// None.
    #[cfg(test)]
    pub(crate) fn off() -> Sandbox {
        Sandbox {
            profile: Profile::Off,
            is_narrowed: false,
            level: Level::None,
            required: None,
            network: true,
            unix_sockets: true,
            writable: Vec::new(),
            unreadable: Vec::new(),
            home: PathBuf::new(),
            agent_dir: PathBuf::new(),
            memory: None,
            file_size: None,
            processes: None,
        }
    }

    /// What a session gets that asks for something of its own.
    ///
    /// # Errors
    /// A text that says what is more than the configuration allows.
    pub(crate) fn narrowed(self: &Arc<Sandbox>, asked: Narrowing) -> Result<Arc<Sandbox>, String> {
        if asked.profile.is_some_and(|profile| profile > self.profile) {
            return Err(format!("sandbox may only be narrowed, and it is {}", self.profile.as_str()));
        }
        if asked.network == Some(true) && !self.network {
            return Err("network may only be narrowed, and it is off".to_owned());
        }
        let narrowed = self.at_most(asked);
        if narrowed.is_off() && !narrowed.network { Err(UNCONFINED.to_owned()) } else { Ok(narrowed) }
    }

    /// Whether whoever has this sandbox may do all that the other one lets others do.
    pub(crate) fn covers(&self, other: &Sandbox) -> bool {
        other.profile <= self.profile && (self.network || !other.network)
    }

    /// What is left of it for a session that has asked for less.
    pub(crate) fn at_most(self: &Arc<Sandbox>, asked: Narrowing) -> Arc<Sandbox> {
        let profile = asked.profile.map_or(self.profile, |profile| profile.min(self.profile));
        let network = self.network && asked.network != Some(false);
        if (profile, network) == (self.profile, self.network) {
            return self.clone();
        }
        let mut narrowed = Sandbox { profile, network, is_narrowed: true, ..Sandbox::clone(self) };
        narrowed.level = reachable(&narrowed);
        Arc::new(narrowed)
    }

    /// What keeps a session as narrow over a restart.
    pub(crate) fn narrowing(&self) -> Narrowing {
        Narrowing { profile: Some(self.profile), network: Some(self.network) }
    }

    /// What everybody may know of it.
    pub(crate) fn facts(&self) -> Value {
        let mut facts = json!({
            "profile": self.profile.as_str(),
            "level": self.level.as_str(),
            "network": if self.network { "on" } else { "off" },
        });
        if let Some(loopback) = LOOPBACK.get().filter(|_| !self.network) {
            facts["loopback"] = json!(loopback);
        }
        facts
    }

    /// A runner without a network has come to have a loopback device of its own, or none.
    pub(super) fn found_loopback(&self, loopback: bool) {
        if !self.network {
            // It is the same each time.
            let _ = LOOPBACK.set(loopback);
        }
    }

    /// What does not hold although the profile says so; `None` = nothing is missing, or nothing was asked for.
    pub(crate) fn missing(&self) -> Option<&'static str> {
        match self.level {
            _ if self.is_off() => None,
            Level::None => Some("nothing of it can be enforced here: the kernel filters no system calls"),
            Level::Net => Some("files are not protected: the kernel has no Landlock"),
            Level::Files if self.unix_sockets => {
                Some("signals and sockets without a path are not refused: the kernel is older than 6.12")
            }
            Level::Files => Some(
                "signals to other processes are not refused: the kernel is older than 6.12, and has no namespaces for this user",
            ),
            Level::Full => None,
        }
    }

    /// All that must not be read, under each name that leads there.
    pub(super) fn secrets(&self) -> Vec<PathBuf> {
        let folders = [self.agent_dir.clone(), self.home.join(".pi/agent")];
        let own = folders.iter().flat_map(|folder| AGENT_SECRETS.map(|name| folder.join(name)));
        let named: Vec<PathBuf> = SECRETS
            .iter()
            .map(|name| self.home.join(name))
            .chain(SYSTEM_SECRETS.iter().map(PathBuf::from).filter(|path| !is_out_of_reach(path)))
            .chain(own)
            .chain(self.unreadable.iter().cloned())
            .collect();
        // Most are not there, which is found out sooner than where they would be.
        let real = named.iter().filter(|path| path.exists()).filter_map(|path| path.canonicalize().ok());
        let mut all: Vec<PathBuf> = real.chain(named.iter().cloned()).collect();
        all.sort();
        all.dedup();
        all
    }
}

impl Profile {
    pub(crate) const NAMES: &str = "read-only, workspace or off";

    pub(crate) fn parse(text: &str) -> Option<Profile> {
        [Profile::ReadOnly, Profile::Workspace, Profile::Off].into_iter().find(|profile| profile.as_str() == text)
    }

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Profile::ReadOnly => "read-only",
            Profile::Workspace => "workspace",
            Profile::Off => "off",
        }
    }
}

impl Level {
    pub(crate) const NAMES: &str = "none, net, files or full";

    pub(crate) fn parse(text: &str) -> Option<Level> {
        [Level::None, Level::Net, Level::Files, Level::Full].into_iter().find(|level| level.as_str() == text)
    }

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Level::None => "none",
            Level::Net => "net",
            Level::Files => "files",
            Level::Full => "full",
        }
    }
}
