//! What of a configuration can change while the daemon runs, and the rest, which cannot.

use super::Config;

/// What counts at once.
const AT_ONCE: [&str; 4] = ["maxSessions", "maxRunning", "grace", "log"];
/// What counts for sessions and runs that begin, or are taken up again, from now on.
const FOR_NEW_SESSIONS: [&str; 34] = [
    "noPersist",
    "trustedFolders",
    "tools",
    "defaultModel",
    "defaultThinkingLevel",
    "defaultMaxLifetime",
    "maxQueue",
    "bashTimeout",
    "questionTimeout",
    "rules",
    "otherwise",
    "approvalTimeout",
    "unattended",
    "budgets",
    "onBudget",
    "sandbox",
    "sandboxRequired",
    "network",
    "writable",
    "unreadable",
    "unixSockets",
    "toolMemory",
    "toolFileSize",
    "toolProcesses",
    "toolEnvironment",
    "secrets",
    "onRestart",
    "historyLimit",
    "maxHistoryBytes",
    "maxHistoryResponseBytes",
    "maxEventBytes",
    "eventPreviewBytes",
    "noRawEvents",
    "maxRawSpillBytes",
];

/// The settings whose values are others than before, by their keys.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Changed {
    /// They count from now on.
    pub taken: Vec<&'static str>,
    /// They need another process.
    pub left: Vec<&'static str>,
}

impl Config {
    /// Takes over from another configuration what can change while the daemon runs.
    pub(crate) fn take(&mut self, new: Config) -> Changed {
        let keys = self.values.keys().chain(new.values.keys()).copied();
        let mut changed: Vec<&str> = keys.filter(|key| self.values.get(key) != new.values.get(key)).collect();
        changed.sort_unstable();
        changed.dedup();
        let can_change = |key: &&str| AT_ONCE.contains(key) || FOR_NEW_SESSIONS.contains(key);
        let (taken, left): (Vec<_>, Vec<_>) = changed.into_iter().partition(can_change);
        for key in &taken {
            match new.values.get(key) {
                Some(value) => self.values.insert(key, value.clone()),
                None => self.values.remove(key),
            };
        }
        self.persist = new.persist;
        self.trusted_folders = new.trusted_folders;
        self.tools = new.tools;
        self.default_model = new.default_model;
        self.default_thinking = new.default_thinking;
        self.default_max_lifetime = new.default_max_lifetime;
        self.max_sessions = new.max_sessions;
        self.max_queue = new.max_queue;
        self.max_running = new.max_running;
        self.grace = new.grace;
        self.on_restart = new.on_restart;
        self.bash_timeout = new.bash_timeout;
        self.on_budget = new.on_budget;
        self.budgets = new.budgets;
        self.secrets = new.secrets;
        self.question_timeout = new.question_timeout;
        self.rules = new.rules;
        self.approval_timeout = new.approval_timeout;
        self.unattended = new.unattended;
        self.tool_environment = new.tool_environment;
        self.event_log = new.event_log;
        self.log = new.log;
        self.report = new.report;
        // The rest of it hangs on the agent's folder, which stays.
        if new.agent_dir == self.agent_dir {
            self.sandbox = new.sandbox;
        }
        self.warnings = new.warnings;
        Changed { taken, left }
    }
}

#[cfg(test)]
mod tests {
    use super::super::table::ROWS;
    use super::*;

    #[test]
    fn what_can_change_is_in_the_table_and_in_the_documents() {
        let settings = include_str!("SETTINGS.md");
        let documented = |heading: &str| {
            let line = settings.lines().find(|line| line.starts_with(&format!("| {heading} |"))).expect(heading);
            line.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>()
        };
        for (heading, keys) in
            [("at once", &AT_ONCE[..]), ("sessions and runs that begin later", &FOR_NEW_SESSIONS[..])]
        {
            let mut documented = documented(heading);
            let mut keys = keys.to_vec();
            documented.sort();
            keys.sort_unstable();
            assert_eq!(documented, keys, "{heading}");
            assert!(keys.iter().all(|key| ROWS.iter().any(|row| row.key == *key)), "{heading}");
        }
    }
}
