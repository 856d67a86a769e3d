//! The folders: whose they are, who can read them, and how much room there is.

use super::Finding;
use crate::config::Config;
use crate::files;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

/// Below this a disk is about to be full, and below that it is, bytes.
const SCARCE: u64 = 1 << 30;
const FULL: u64 = 64 << 20;

pub(super) fn examine(config: &Config) -> Vec<Finding> {
    let sessions = config.session_dir.clone().unwrap_or_else(|| config.agent_dir.join("sessions"));
    let mut findings = vec![
        folder("stateDir", &config.state_dir, true),
        folder("agentDir", &config.agent_dir, false),
        folder("sessionDir", &sessions, false),
    ];
    findings.extend(config.bridge.as_ref().map(|bridge| folder("bridgeDir", &bridge.root, true)));
    findings.extend(secret("auth.json", &config.agent_dir.join("auth.json")));
    findings
}

/// A folder that the daemon writes into; one that is `private` must not be readable by others.
fn folder(name: &str, path: &Path, private: bool) -> Finding {
    let shown = path.display();
    let room = match files::room(path) {
        Ok(room) => room,
        Err(e) => {
            let fix = format!("let the daemon's user write there, or set {name}");
            return Finding::failure("folders", format!("{name} {shown}: {e}"), fix);
        }
    };
    let mebibytes = room >> 20;
    if room < FULL {
        let fix = format!("make room, or set {name} to another disk");
        return Finding::failure("folders", format!("{name} {shown}: {mebibytes} MiB left"), fix);
    }
    let Ok(metadata) = path.metadata() else {
        return Finding::ok("folders", format!("{name} {shown}: made when it is needed, {mebibytes} MiB left"));
    };
    let (mode, own) = (metadata.permissions().mode() & 0o777, rustix::process::geteuid().as_raw());
    let text = format!("{name} {shown}: mode {mode:04o}, {mebibytes} MiB left");
    if own != 0 && metadata.uid() != own {
        return Finding::warning(
            "folders",
            format!("{text}, owned by uid {}", metadata.uid()),
            format!("chown {own} {shown}"),
        );
    }
    let (forbidden, fix) = if private { (0o077, "go-rwx") } else { (0o022, "go-w") };
    if mode & forbidden != 0 {
        return Finding::warning("folders", text, format!("chmod {fix} {shown}"));
    }
    match room < SCARCE {
        true => Finding::warning("folders", text, "make room"),
        false => Finding::ok("folders", text),
    }
}

/// A file with keys, if it is there.
fn secret(name: &str, path: &Path) -> Option<Finding> {
    let mode = path.metadata().ok()?.permissions().mode() & 0o777;
    let text = format!("{name} {}: mode {mode:04o}", path.display());
    Some(match mode & 0o077 {
        0 => Finding::ok("folders", text),
        _ => Finding::warning(
            "folders",
            text + ", so that others can read keys",
            format!("chmod 600 {}", path.display()),
        ),
    })
}
