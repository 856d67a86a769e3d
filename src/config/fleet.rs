//! The settings of hosts that are one service.

use super::{ConfigError, Settings, sanitise_owner};
use crate::files;
use crate::fleet::FleetOptions;
use std::path::Path;
use std::time::Duration;

/// The system's name of this host.
const HOST_NAME: &str = "/proc/sys/kernel/hostname";

impl Settings {
    /// How this host is one of several, if it is. The server inside has no JetStream.
    pub(super) fn fleet(&self, owner: &str, has_broker: bool) -> Result<Option<FleetOptions>, ConfigError> {
        if self.text("fleet") != Some("true") {
            return Ok(None);
        }
        if has_broker {
            return Err(self.wrong("fleet", "hosts share a nats-server with JetStream; name it with server"));
        }
        let named = self.text("fleetHost").map(str::to_owned);
        let host = named.or_else(|| files::read_text(Path::new(HOST_NAME), 256).ok()).unwrap_or_default();
        Ok(Some(FleetOptions {
            owner: owner.to_owned(),
            host: sanitise_owner(host.trim()),
            replicas: usize::try_from(self.number("fleetReplicas")).unwrap_or(1),
            card_ttl: Duration::from_secs(self.number("fleetCardTime")),
        }))
    }
}
