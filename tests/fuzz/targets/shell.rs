//! Any bytes, read as a shell command and as numbers of words and signs that make one: the first must not break the reader,
//! and of the second, where the reader can take it apart, bash runs nothing that the reader does not name.
#![no_main]

#[path = "../../../src/governance/shell/tests/bash.rs"]
mod bash;

use bash::Bash;
use libfuzzer_sys::fuzz_target;
use nats_pi_bridge::fuzzing::shell::names;
use std::sync::LazyLock;
use std::time::Duration;

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

static BASH: LazyLock<Bash> = LazyLock::new(Bash::new);

fuzz_target!(|bytes: &[u8]| {
    let _ = names(&String::from_utf8_lossy(bytes), "");
    let command: String = bytes.iter().take(40).filter_map(|byte| PIECES.get(usize::from(*byte))).copied().collect();
    if names(&command, "").is_none() {
        return;
    }
    for done in BASH.run(&command, LONGEST) {
        assert_eq!(names(&command, &done), Some(true), "{command:?} runs {done:?}");
    }
});
