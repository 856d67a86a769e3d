//! What tools are confined to, from its settings.

use super::{ConfigError, Settings, expand};
use crate::contract::environment::is_variable;
use crate::socket::AgentControl;
use crate::tools::runner::{Level, Profile, Sandbox, UNCONFINED, reachable};
use crate::turn::SecretTable;
use std::path::PathBuf;

impl Settings {
    /// `keys` are files by which this daemon can be reached.
    pub(super) fn sandbox(&self, agent_dir: PathBuf, keys: Vec<PathBuf>) -> Result<Sandbox, ConfigError> {
        let text = |key| self.text(key).unwrap_or_default();
        let profile = Profile::parse(text("sandbox"))
            .ok_or_else(|| self.wrong("sandbox", &format!("{:?} is not {}", text("sandbox"), Profile::NAMES)))?;
        let required = Level::parse(text("sandboxRequired")).ok_or_else(|| {
            self.wrong("sandboxRequired", &format!("{:?} is not {}", text("sandboxRequired"), Level::NAMES))
        })?;
        let network = match text("network") {
            "on" => true,
            "off" => false,
            other => return Err(self.wrong("network", &format!("{other:?} is neither on nor off"))),
        };
        if profile == Profile::Off && required > Level::None {
            return Err(self.wrong("sandboxRequired", "sandbox is off, which reaches no level"));
        }
        if profile == Profile::Off && !network {
            return Err(self.wrong("network", UNCONFINED));
        }
        let mut sandbox = Sandbox {
            profile,
            is_narrowed: false,
            level: Level::None,
            required: Some(required).filter(|required| *required > Level::None),
            network,
            unix_sockets: self.text("unixSockets") == Some("true"),
            writable: self.paths("writable")?,
            unreadable: [self.paths("unreadable")?, self.own_secrets(keys)?].concat(),
            home: self.home.clone(),
            agent_dir,
            memory: self.bytes("toolMemory")?,
            file_size: self.bytes("toolFileSize")?,
            processes: Some(self.number("toolProcesses")).filter(|number| *number > 0),
        };
        sandbox.level = reachable(&sandbox);
        Ok(sandbox)
    }

    /// What this daemon reads or keeps that tools must not see, wherever it is.
    fn own_secrets(&self, mut found: Vec<PathBuf>) -> Result<Vec<PathBuf>, ConfigError> {
        found.push(self.file.clone());
        for key in ["creds", "nkey", "tlsKey", "stateDir", "budgetDir"] {
            found.extend(self.path(key));
        }
        // A relative path is one in the daemon's folder, and a runner has another one.
        let found: Result<Vec<PathBuf>, _> = found.into_iter().map(std::path::absolute).collect();
        let usual = self.home.join(".pi-exec");
        let found = found.map(|found| found.into_iter().filter(|path| !path.starts_with(&usual)).collect());
        found.map_err(|e| ConfigError::Invalid(format!("a path of the settings cannot be made absolute: {e}")))
    }

    pub(super) fn agent_control(&self) -> Result<AgentControl, ConfigError> {
        let text = self.text("agentControl").unwrap_or_default();
        AgentControl::parse(text)
            .ok_or_else(|| self.wrong("agentControl", &format!("{text:?} is neither none nor others")))
    }

    /// What sessions may have as variables by naming it. No message tells a value.
    pub(super) fn secrets(&self) -> Result<SecretTable, ConfigError> {
        let text = self.text("secrets").unwrap_or("{}");
        let table: SecretTable = serde_json::from_str(text)
            .map_err(|_| self.wrong("secrets", "each has to be a text, as keys in auth.json"))?;
        match table.keys().find(|name| !is_variable(name)) {
            Some(name) => Err(self.wrong("secrets", &format!("{name:?} is no name of a variable"))),
            None => Ok(table),
        }
    }

    /// Absolute paths.
    fn paths(&self, key: &str) -> Result<Vec<PathBuf>, ConfigError> {
        let paths = self.list(key).into_iter().map(|path| std::path::absolute(expand(&path, &self.home)));
        paths.collect::<Result<_, _>>().map_err(|e| self.wrong(key, &e.to_string()))
    }

    /// A size, in bytes or with `K`, `M` or `G` behind it; nothing and zero are none.
    fn bytes(&self, key: &str) -> Result<Option<u64>, ConfigError> {
        let Some(text) = self.text(key) else { return Ok(None) };
        size(text)
            .map(|size| Some(size).filter(|size| *size > 0))
            .ok_or_else(|| self.wrong(key, &format!("{text:?} is no number of bytes, such as 1048576, 512M or 2G")))
    }
}

fn size(text: &str) -> Option<u64> {
    let (number, unit) = match text.as_bytes().last()? {
        b'K' | b'k' => (&text[..text.len() - 1], 1 << 10),
        b'M' | b'm' => (&text[..text.len() - 1], 1 << 20),
        b'G' | b'g' => (&text[..text.len() - 1], 1 << 30),
        _ => (text, 1_u64),
    };
    number.parse::<u64>().ok()?.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::size;

    #[test]
    fn sizes_are_read() {
        for (text, expected) in [
            ("0", Some(0)),
            ("1048576", Some(1 << 20)),
            ("512M", Some(512 << 20)),
            ("2g", Some(2 << 30)),
            ("7K", Some(7 << 10)),
            ("", None),
            ("M", None),
            ("-1", None),
            ("1.5G", None),
            ("99999999999G", None),
        ] {
            assert_eq!(size(text), expected, "{text}");
        }
    }
}
