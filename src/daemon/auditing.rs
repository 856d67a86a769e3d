//! The audit log of the daemon: where it is, what it says of the daemon itself, and how its heads are published.

use super::Fatal;
use crate::config::Config;
use crate::governance::audit::{Audit, Head, sha256};
use crate::json::object;
use crate::nats::Connection;
use serde_json::json;
use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

/// Time for the last lines to be written, and the last head to be published.
const FLUSHED_WITHIN: Duration = Duration::from_secs(5);

/// Opens the log, if there is to be one. Without it nothing may be done that has to be in it.
pub(super) fn start(config: &Config, connection: &Connection) -> Result<Option<Arc<Audit>>, Fatal> {
    if !config.audit {
        return Ok(None);
    }
    let folder = config.audit_dir();
    let (connection, subject) = (connection.clone(), format!("agents.ev.{}.audit", config.owner));
    let publish = move |head: &Head| publish(&connection, &subject, head);
    let audit = Audit::start(&folder, Box::new(publish))
        .map_err(|e| Fatal::Failed(format!("no audit log can be kept in {}: {e}", folder.display())))?;
    let facts = json!({"version": env!("CARGO_PKG_VERSION"), "owner": config.owner,
        "configuration": sha256(config.report.as_bytes())});
    audit.record("daemon_started", object(facts));
    Ok(Some(Arc::new(audit)))
}

/// The daemon ends: nothing more comes.
pub(super) fn end(audit: &Audit) {
    audit.record("daemon_stopped", object(json!({})));
    audit.flush(FLUSHED_WITHIN);
}

/// Publishes a head, signed where our NATS user has a key.
fn publish(connection: &Connection, subject: &str, head: &Head) {
    let mut document = head.document();
    if let Some(user) = connection.identity() {
        let lines = head.lines();
        if let Some(signature) = user.sign(&lines.each_ref().map(|line| line as &dyn Display)) {
            document["user"] = json!(user.user);
            document["sig"] = json!(signature);
        }
    }
    if let Err(e) = connection.publish(subject, None, &[], document.to_string().as_bytes()) {
        log::debug!("a head of the audit log is not published: {e}");
    }
}
