//! Writing to what must survive a crash, with faults on request: the crash tests end the daemon at exactly the n-th
//! write.
//!
//! Session files and session records are written through [`write_all`] and nothing else. A build with the cargo feature
//! `fault` obeys the environment variable `NATS_PI_BRIDGE_FAULT=write:<n>:<what>`, where n counts these writes in the
//! whole process from 1, and `what` is one of:
//!
//! | what | the n-th write |
//! |---|---|
//! | `kill` | is preceded by SIGKILL to this process |
//! | `kill-after` | is followed by it |
//! | `torn` | writes the first half of its bytes, then SIGKILL |
//! | `enospc` | writes the first half of its bytes, then fails with `ENOSPC` |
//!
//! `NATS_PI_BRIDGE_LANDLOCK=<n>` has it behave as on a kernel whose Landlock has ABI n at most, 0 for none at all.
//!
//! Without the feature none of this is in the binary.

use std::io::{self, Write};

/// Variables by which faults are asked for, which are handed on to runners.
#[cfg(not(feature = "fault"))]
pub(crate) const VARIABLES: &[&str] = &[];

/// Variables by which faults are asked for, which are handed on to runners.
#[cfg(feature = "fault")]
pub(crate) const VARIABLES: &[&str] = &["NATS_PI_BRIDGE_LANDLOCK"];

/// The newest ABI of Landlock that there is.
#[cfg(not(feature = "fault"))]
pub(crate) fn landlock() -> i32 {
    i32::MAX
}

/// The newest ABI of Landlock that there is.
#[cfg(feature = "fault")]
pub(crate) fn landlock() -> i32 {
    VARIABLES.first().and_then(|name| std::env::var(name).ok()?.parse().ok()).unwrap_or(i32::MAX)
}

/// Writes all of `bytes`, in one `write(2)` unless the system takes less than that.
///
/// # Errors
/// The system's; part of the bytes may have been written.
#[cfg(not(feature = "fault"))]
pub(crate) fn write_all(file: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    file.write_all(bytes)
}

/// Writes all of `bytes`, unless this is the write that the environment names.
///
/// # Errors
/// The system's, and the one asked for; part of the bytes may have been written.
#[cfg(feature = "fault")]
pub(crate) fn write_all(file: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    use injected::Fault;
    let half = bytes.get(..bytes.len() / 2).unwrap_or_default();
    match injected::next() {
        None => file.write_all(bytes),
        Some(Fault::Kill) => injected::kill(),
        Some(Fault::KillAfter) => file.write_all(bytes).and_then(|()| injected::kill()),
        Some(Fault::Torn) => file.write_all(half).and_then(|()| injected::kill()),
        Some(Fault::NoSpace) => {
            file.write_all(half)?;
            Err(io::Error::from_raw_os_error(rustix::io::Errno::NOSPC.raw_os_error()))
        }
    }
}

#[cfg(feature = "fault")]
mod injected {
    use std::io;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) enum Fault {
        Kill,
        KillAfter,
        Torn,
        NoSpace,
    }

    /// What the next write has to suffer.
    pub(super) fn next() -> Option<Fault> {
        static PLAN: OnceLock<Option<(u64, Fault)>> = OnceLock::new();
        static WRITES: AtomicU64 = AtomicU64::new(0);
        let plan = PLAN.get_or_init(|| parse(&std::env::var("NATS_PI_BRIDGE_FAULT").ok()?));
        let count = WRITES.fetch_add(1, Ordering::Relaxed) + 1;
        plan.filter(|(at, _)| *at == count).map(|(_, fault)| fault)
    }

    fn parse(text: &str) -> Option<(u64, Fault)> {
        let (at, what) = text.strip_prefix("write:")?.split_once(':')?;
        let fault = match what {
            "kill" => Fault::Kill,
            "kill-after" => Fault::KillAfter,
            "torn" => Fault::Torn,
            "enospc" => Fault::NoSpace,
            _ => return None,
        };
        Some((at.parse().ok()?, fault))
    }

    /// Ends this process as `kill -9` does: nothing is flushed, nothing is told to anybody.
    pub(super) fn kill() -> io::Result<()> {
        rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL)?;
        // The signal is delivered before the call returns to this thread, so this is only what the compiler wants.
        Ok(())
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn faults_are_named_in_the_environment() {
            for (text, expected) in [
                ("write:1:kill", Some((1, Fault::Kill))),
                ("write:20:kill-after", Some((20, Fault::KillAfter))),
                ("write:3:torn", Some((3, Fault::Torn))),
                ("write:3:enospc", Some((3, Fault::NoSpace))),
                ("write:x:kill", None),
                ("sync:1:kill", None),
                ("write:1:explode", None),
                ("", None),
            ] {
                assert_eq!(parse(text), expected, "{text}");
            }
        }
    }
}
