//! The processes of this machine, as /proc tells them.

use crate::files;
use std::collections::HashSet;
use std::io::Read;
use std::path::Path;

/// Most bytes of a process's environment that are looked at (2 MiB, as much as the kernel gives a new program by default).
const MAX_ENVIRONMENT: u64 = 2 * 1024 * 1024;
/// Most bytes of a process's line of figures; 52 numbers and a name of 16 bytes at most.
const MAX_STAT: u64 = 4096;

/// One process. Its number may be used again after its end; number and start together are unique.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Process {
    pub pid: i32,
    pub parent: i32,
    pub group: i32,
    pub session: i32,
    /// When it began, in clock ticks since boot.
    pub start: u64,
    /// It has ended and waits for its parent to take note.
    pub zombie: bool,
}

/// All processes that can be seen; those that end meanwhile may be missing.
pub(super) fn all() -> Vec<Process> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    entries.flatten().filter_map(|entry| find(entry.file_name().to_str()?.parse().ok()?)).collect()
}

/// The process of that number.
pub(super) fn find(pid: i32) -> Option<Process> {
    parse(&files::read(Path::new(&format!("/proc/{pid}/stat")), MAX_STAT).ok()?)
}

/// Reads a line of `/proc/PID/stat`. The name, in parentheses, may contain anything, parentheses included.
fn parse(stat: &[u8]) -> Option<Process> {
    let name_start = stat.iter().position(|b| *b == b'(')?;
    let name_end = stat.iter().rposition(|b| *b == b')')?;
    let pid = std::str::from_utf8(&stat[..name_start]).ok()?.trim().parse().ok()?;
    let fields: Vec<&str> = std::str::from_utf8(stat.get(name_end + 1..)?).ok()?.split_ascii_whitespace().collect();
    Some(Process {
        pid,
        zombie: matches!(*fields.first()?, "Z" | "X"),
        parent: fields.get(1)?.parse().ok()?,
        group: fields.get(2)?.parse().ok()?,
        session: fields.get(3)?.parse().ok()?,
        start: fields.get(19)?.parse().ok()?,
    })
}

/// The process was started with this variable, or is a copy of one that was. False if that is not ours to know.
pub(super) fn has_variable(process: &Process, name: &str, value: &str) -> bool {
    variable(process, name).is_some_and(|found| found == value.as_bytes())
}

/// The same for any of these variables, each with its value.
pub(super) fn has_any(process: &Process, variables: &[(String, String)]) -> bool {
    let Some(environment) = environment(process) else { return false };
    variables.iter().any(|(name, value)| first_value(&environment, name) == Some(value.as_bytes()))
}

/// The value of the variable with which the process was started; `None` also if that is not ours to know.
pub(super) fn variable(process: &Process, name: &str) -> Option<Vec<u8>> {
    first_value(&environment(process)?, name).map(<[u8]>::to_vec)
}

fn first_value<'e>(environment: &'e [u8], name: &str) -> Option<&'e [u8]> {
    environment.split(|b| *b == 0).find_map(|entry| entry.strip_prefix(name.as_bytes())?.strip_prefix(b"="))
}

fn environment(process: &Process) -> Option<Vec<u8>> {
    let mut environment = Vec::new();
    let (file, _) = files::open_regular(Path::new(&format!("/proc/{}/environ", process.pid))).ok()?;
    file.take(MAX_ENVIRONMENT).read_to_end(&mut environment).ok()?;
    Some(environment)
}

/// How many filters of system calls hold for the process, or, where the kernel does not count them, whether any does. Nobody
/// gets rid of one.
pub(super) fn filters(process: &Process) -> u32 {
    /// Most bytes of what the kernel says of a process for people.
    const MAX_STATUS: u64 = 16 * 1024;
    let status = files::read(Path::new(&format!("/proc/{}/status", process.pid)), MAX_STATUS).unwrap_or_default();
    let number = |name: &str| {
        let mut lines = status.split(|b| *b == b'\n');
        let value = lines.find_map(|line| line.strip_prefix(name.as_bytes()))?;
        std::str::from_utf8(value).ok()?.trim().parse().ok()
    };
    number("Seccomp_filters:").or_else(|| number("Seccomp:")).unwrap_or_default()
}

/// The name under which the kernel shows the process.
pub(super) fn name(pid: i32) -> Option<Vec<u8>> {
    files::read(Path::new(&format!("/proc/{pid}/comm")), MAX_STAT).ok()
}

/// Those of `processes` that `is_root` names and everything that descends from them.
pub(super) fn with_descendants(processes: &[Process], is_root: impl Fn(&Process) -> bool) -> Vec<Process> {
    let mut members: Vec<Process> = processes.iter().filter(|process| is_root(process)).copied().collect();
    let mut known: HashSet<i32> = members.iter().map(|process| process.pid).collect();
    loop {
        let more: Vec<Process> = processes
            .iter()
            .filter(|process| known.contains(&process.parent) && !known.contains(&process.pid))
            .copied()
            .collect();
        if more.is_empty() {
            return members;
        }
        known.extend(more.iter().map(|process| process.pid));
        members.extend(more);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(pid: i32, parent: i32, group: i32) -> Process {
        Process { pid, parent, group, session: 1, start: 1, zombie: false }
    }

    #[test]
    fn stat_lines_are_read_whatever_the_name() {
        let rest = "17 42 43 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 987654 1000 10";
        for name in ["bash", "a b", ") R 1 (", "(((", "\u{fffd}"] {
            let found = parse(format!("99 ({name}) S {rest}\n").as_bytes());
            assert_eq!(
                found,
                Some(Process { pid: 99, parent: 17, group: 42, session: 43, start: 987_654, zombie: false }),
                "{name}"
            );
        }
        assert_eq!(parse(format!("99 (x) Z {rest}").as_bytes()).map(|process| process.zombie), Some(true));
        for damaged in ["", "99", "99 (x", "99 (x)", "99 (x) S 1 2", "x (x) S 1 2 3"] {
            assert_eq!(parse(damaged.as_bytes()), None, "{damaged}");
        }
    }

    #[test]
    fn descendants_are_found_in_any_order() {
        let list = [
            process(5, 4, 1),
            process(2, 1, 2),
            process(3, 2, 2),
            process(4, 3, 9),
            process(6, 1, 2),
            process(7, 1, 7),
        ];
        let pids = |group: i32| {
            let mut pids: Vec<i32> =
                with_descendants(&list, |process| process.group == group).iter().map(|process| process.pid).collect();
            pids.sort_unstable();
            pids
        };
        assert_eq!(pids(2), [2, 3, 4, 5, 6], "members of the group and what descends from them");
        assert_eq!(pids(9), [4, 5]);
        assert_eq!(pids(8), [] as [i32; 0]);
        // A loop cannot be, but the list is no snapshot of one moment.
        let looped = [process(1, 2, 1), process(2, 1, 1)];
        assert_eq!(with_descendants(&looped, |process| process.pid == 1).len(), 2);
    }

    #[test]
    fn this_process_is_seen() {
        let own = i32::try_from(std::process::id()).expect("it fits");
        let found = find(own).expect("it is there");
        assert!(all().contains(&found) && !found.zombie);
        assert!(has_variable(&found, "PATH", &std::env::var("PATH").expect("tests have a PATH")));
        assert!(!has_variable(&found, "PAT", "H"));
        assert_eq!(find(i32::MAX), None);
    }
}
