//! Any bytes, read as a shell command and as numbers of words and signs that make one: the first must not break the reader,
//! and of the second, where the reader can take it apart, bash runs nothing that the reader does not name.
#![no_main]

use libfuzzer_sys::fuzz_target;
use nats_pi_bridge::fuzzing::shell::names;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::LazyLock;
use std::thread;
use std::time::{Duration, Instant};

/// What commands are put together from: nothing that can reach anything outside of the folder that they run in.
const PIECES: &[&str] = &[
    " ",
    " ",
    " ",
    "\n",
    ";",
    "; ",
    " && ",
    " || ",
    " | ",
    " & ",
    "(",
    ")",
    "{ ",
    "; }",
    "'",
    "\"",
    "\\",
    "\\\n",
    "`",
    "$(",
    "<(",
    "$((",
    "))",
    "${",
    "}",
    "$'",
    "$\"",
    "$X",
    "$S",
    "${X}",
    "\"$S\"",
    "${X:-",
    "#",
    " # ",
    "!",
    "! ",
    "~",
    "*",
    "?",
    "[",
    "]",
    "{a,b}",
    "=",
    ",",
    "<<E\n",
    "<<'E'\n",
    "<<-E\n",
    "\nE\n",
    "<<<",
    ">f",
    " 2>&1",
    " &>f",
    " <f",
    "git",
    "git push",
    "ls",
    "rm",
    "push",
    "a",
    "-c",
    "--",
    "'ls a'",
    "A=1 ",
    "env ",
    "nohup ",
    "timeout 5 ",
    "command ",
    "exec ",
    "eval ",
    "sh -c ",
    "bash -c ",
    "xargs ",
    "nice -n 1 ",
    "time ",
    "find . -maxdepth 0 -exec ",
    " {} +",
    " \\;",
    "trap ",
    " EXIT",
    "if ",
    "; then ",
    "; else ",
    "; fi",
    "for f in a; do ",
    "; done",
    "case a in a) ",
    ";; esac",
    "[[ ",
    " ]]",
    "f() { ",
    "\t",
    "1",
    "\\t",
    "\u{e9}",
];
/// How long bash may take for what takes milliseconds.
const LONGEST: Duration = Duration::from_secs(5);

/// A folder of programs that do nothing but tell that they ran, by name.
static PROGRAMS: LazyLock<tempfile::TempDir> = LazyLock::new(|| {
    let folder = tempfile::tempdir().expect("a folder");
    for name in ["git", "ls", "rm", "push"] {
        let path = folder.path().join(name);
        let text = format!("#!/bin/sh\nt={name}\nfor a; do t=\"$t $a\"; done\nprintf '%s\\0' \"$t\" >> \"$RAN\"\n");
        fs::write(&path, text).expect("a program");
        fs::set_permissions(&path, Permissions::from_mode(0o755)).expect("it may run");
    }
    folder
});

fuzz_target!(|bytes: &[u8]| {
    let _ = names(&String::from_utf8_lossy(bytes), "");
    let command: String = bytes.iter().take(40).filter_map(|byte| PIECES.get(usize::from(*byte))).copied().collect();
    if names(&command, "").is_none() {
        return;
    }
    let work = tempfile::tempdir().expect("a folder");
    let ran = work.path().join(".ran");
    run(&command, work.path(), &ran);
    let records = fs::read(&ran).unwrap_or_default();
    for record in records.split(|byte| *byte == 0).filter(|record| !record.is_empty()) {
        let done = String::from_utf8_lossy(record);
        assert_eq!(names(&command, &done), Some(true), "{command:?} runs {done:?}");
    }
});

fn run(command: &str, folder: &Path, ran: &Path) {
    let mut child = Command::new("bash")
        .args(["-c", command])
        .current_dir(folder)
        .env_clear()
        .env("PATH", format!("{}:/usr/bin:/bin", PROGRAMS.path().display()))
        .env("RAN", ran)
        .env("X", "push")
        .env("S", "git push")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("bash");
    let end = Instant::now() + LONGEST;
    while child.try_wait().expect("a child").is_none() {
        if Instant::now() > end {
            let _ = child.kill();
        }
        thread::sleep(Duration::from_micros(200));
    }
}
