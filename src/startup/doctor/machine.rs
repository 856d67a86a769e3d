//! The kernel, the limits of this process, and the clock.

use super::Finding;
use crate::clock::{iso_time, now_ms};
use crate::config::Config;
use crate::files;
use rustix::process::{Resource, getrlimit};
use std::path::Path;
use std::time::UNIX_EPOCH;

/// Files of a busy session: two of its own, two clients, a model, the pipes of a tool and its runner.
const FILES_OF_A_SESSION: u64 = 8;
/// Threads of a busy session: its own, a turn, a tool; and the processes of its runner and of a tool.
const TASKS_OF_A_SESSION: u64 = 5;
/// Pieces of memory of a thread: its stack and the guard below.
const MAPS_OF_A_SESSION: u64 = 8;
/// What the daemon itself needs of each, at most.
const OF_THE_DAEMON: u64 = 200;
/// The largest file of the kernel that is read here, bytes.
const MAX_FILE: u64 = 64 * 1024;

pub(super) fn examine(config: &Config) -> Vec<Finding> {
    let mut findings = vec![kernel(config)];
    let sessions = config.max_sessions as u64;
    let mut limit = |name: &'static str, limit: Option<u64>, each: u64, raise: &str| {
        let needed = sessions * each + OF_THE_DAEMON;
        let Some(limit) = limit else { return };
        let enough = limit.saturating_sub(OF_THE_DAEMON) / each;
        findings.push(if limit >= needed {
            Finding::ok("limits", format!("{name}: {limit}, enough for {sessions} busy sessions (maxSessions)"))
        } else {
            let text = format!("{name}: {limit}, enough for {enough} busy sessions, and maxSessions is {sessions}");
            Finding::warning("limits", text, format!("{raise} to {needed}, or set maxSessions to {enough}"))
        });
    };
    // The daemon raises the soft limit by itself.
    limit("nofile", getrlimit(Resource::Nofile).maximum, FILES_OF_A_SESSION, "raise LimitNOFILE of the unit");
    limit("nproc", getrlimit(Resource::Nproc).maximum, TASKS_OF_A_SESSION, "raise LimitNPROC of the unit");
    limit("TasksMax", tasks_max(), TASKS_OF_A_SESSION, "raise TasksMax of the unit");
    let maps = number(Path::new("/proc/sys/vm/max_map_count"));
    limit("max_map_count", maps, MAPS_OF_A_SESSION, "raise the sysctl vm.max_map_count");
    findings.push(clock());
    findings
}

fn kernel(config: &Config) -> Finding {
    let sandbox = &config.sandbox;
    let release = files::read_text(Path::new("/proc/sys/kernel/osrelease"), MAX_FILE).unwrap_or_default();
    let kernel = format!("Linux {}", release.trim());
    let text = format!("{kernel}, sandbox {} at level {}", sandbox.profile.as_str(), sandbox.level.as_str());
    let required = sandbox.required.is_some_and(|required| sandbox.level < required);
    match sandbox.missing() {
        None => Finding::ok("sandbox", text),
        Some(why) if required => Finding::failure(
            "sandbox",
            format!("{text}: {why}, and tools are refused below sandboxRequired"),
            "use a newer kernel, one with Landlock enabled (lsm=landlock,...), or set sandboxRequired lower",
        ),
        Some(why) => Finding::warning(
            "sandbox",
            format!("{text}: {why}"),
            "use a newer kernel, or one with Landlock enabled (lsm=landlock,...)",
        ),
    }
}

/// The least that one of the control groups above this process allows.
fn tasks_max() -> Option<u64> {
    let groups = files::read_text(Path::new("/proc/self/cgroup"), MAX_FILE).ok()?;
    let own = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let own = Path::new("/sys/fs/cgroup").join(own);
    own.ancestors().filter_map(|group| number(&group.join("pids.max"))).min()
}

/// The number in a file of the kernel; `None` = there is no such file, or no limit.
fn number(path: &Path) -> Option<u64> {
    files::read_text(path, MAX_FILE).ok()?.trim().parse().ok()
}

/// A clock that is behind the program's own file is wrong.
fn clock() -> Finding {
    let now = now_ms();
    let made = std::env::current_exe().and_then(|path| path.metadata()).and_then(|file| file.modified()).ok();
    let made = made.and_then(|time| time.duration_since(UNIX_EPOCH).ok()).map_or(0, |time| time.as_millis() as i64);
    match now >= made {
        true => Finding::ok("clock", iso_time(now)),
        false => Finding::failure(
            "clock",
            format!("it is {} here, which is before this program was made", iso_time(now)),
            "set the clock, for example with timedatectl set-ntp true: certificates and signatures depend on it",
        ),
    }
}
