//! What bash runs of a command. The fuzz target of the reader uses this, too.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A folder of programs that do nothing but tell that they ran.
pub(super) struct Bash(tempfile::TempDir);

impl Bash {
    pub(super) fn new() -> Bash {
        let folder = tempfile::tempdir().expect("a folder");
        for name in ["git", "ls", "rm", "push"] {
            let path = folder.path().join(name);
            let text = format!("#!/bin/sh\nt={name}\nfor a; do t=\"$t $a\"; done\nprintf '%s\\0' \"$t\" >> \"$RAN\"\n");
            std::fs::write(&path, text).expect("a program");
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            std::fs::set_permissions(&path, mode).expect("it may run");
        }
        Bash(folder)
    }

    /// The commands that ran. Bash is ended when it takes longer than `longest`.
    pub(super) fn run(&self, command: &str, longest: Duration) -> Vec<String> {
        let work = tempfile::tempdir().expect("a folder");
        // What runs in the background may go on for a moment, and writes into a file of its own then.
        let ran = work.path().join(".ran");
        let mut child = Command::new("bash")
            .args(["-c", command])
            .current_dir(work.path())
            .env_clear()
            .env("PATH", format!("{}:/usr/bin:/bin", self.0.path().display()))
            .env("RAN", &ran)
            .env("X", "push")
            .env("S", "git push")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("bash");
        let end = Instant::now() + longest;
        while child.try_wait().expect("a child").is_none() {
            if Instant::now() > end {
                let _ = child.kill();
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        let text = std::fs::read(&ran).unwrap_or_default();
        let records = text.split(|b| *b == 0).filter(|record| !record.is_empty());
        records.map(|record| String::from_utf8_lossy(record).into_owned()).collect()
    }
}
