//! SIGHUP: the configuration is read again, and what can change while the daemon runs counts from then on. One that is wrong
//! changes nothing.

use super::{Daemon, Phase};
use crate::config::Config;
use crate::governance::audit::sha256;
use crate::json::object;
use crate::threads;
use crossbeam_channel::{Receiver, Sender, bounded};
use serde_json::json;
use std::sync::Arc;

/// Reads the configuration as it was read at the start.
pub(crate) type Reread = Arc<dyn Fn() -> Result<Box<Config>, String> + Send + Sync>;

/// What has been read, or why it cannot be.
pub(super) type Reloaded = Result<Box<Config>, String>;

pub(super) struct Reloading {
    reread: Reread,
    sender: Sender<Reloaded>,
    pub results: Receiver<Reloaded>,
    /// A thread reads, since disks may take their time.
    reads: bool,
    /// Another signal came meanwhile.
    again: bool,
}

impl Reloading {
    pub(super) fn new(reread: Reread) -> Reloading {
        let (sender, results) = bounded(1);
        Reloading { reread, sender, results, reads: false, again: false }
    }
}

impl Daemon {
    /// Begins to read the configuration again.
    pub(super) fn reload(&mut self) {
        if !matches!(self.phase, Phase::Serving) {
            return log::info!("SIGHUP: the configuration is not read again, since this process is about to end");
        }
        if self.reloading.reads {
            self.reloading.again = true;
            return;
        }
        self.supervisor.reloading();
        let (reread, sender, ledger) =
            (self.reloading.reread.clone(), self.reloading.sender.clone(), self.ledger.clone());
        let read = move || {
            let config = reread().and_then(|config| match config.budgets.is_empty() {
                true => Ok(config),
                // What was spent so far has to be known before anything is limited.
                false => ledger.open().map(|()| config).map_err(|e| format!("no budgets can be kept: {e}")),
            });
            let _ = sender.send(config);
        };
        match threads::spawn("reload", threads::TURN_STACK, read) {
            Ok(thread) => {
                // What hangs keeps nobody from ending.
                thread.abandon();
                self.reloading.reads = true;
            }
            Err(e) => self.reloaded(Err(format!("no thread can be started: {e}"))),
        }
    }

    /// Takes over what was read.
    pub(super) fn reloaded(&mut self, read: Reloaded) {
        self.reloading.reads = false;
        match read {
            Ok(config) => self.take_configuration(*config),
            Err(why) => log::error!("SIGHUP: the configuration stays as it was: {why}"),
        }
        self.supervisor.ready();
        if std::mem::take(&mut self.reloading.again) {
            self.reload();
        }
    }

    fn take_configuration(&mut self, config: Config) {
        let before = std::mem::take(&mut self.config.warnings);
        let changed = self.config.take(config);
        // The command line has been read, so that the level is one.
        log::set_max_level(self.config.log.parse().unwrap_or(log::max_level()));
        self.slots.set_limit(self.config.max_running);
        let notices = self.session_options.notices.clone();
        self.session_options = Arc::new(self.config.session_options(self.ledger.clone(), self.audit.clone(), notices));
        for warning in self.config.warnings.iter().filter(|warning| !before.contains(warning)) {
            log::warn!("{warning}");
        }
        if let Some(audit) = &self.audit {
            let facts = json!({"changed": changed.taken, "configuration": sha256(self.config.report.as_bytes())});
            audit.record("configuration_changed", object(facts));
        }
        let named = |keys: &[&str]| if keys.is_empty() { "nothing".to_string() } else { keys.join(", ") };
        log::info!("SIGHUP: the configuration was read again; changed: {}", named(&changed.taken));
        if !changed.left.is_empty() {
            log::warn!("SIGHUP: only another process (--replace) takes up: {}", changed.left.join(", "));
        }
    }
}
