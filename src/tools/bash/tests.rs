use super::super::processes;
use super::super::test_support::{Bench, text};
use super::*;

/// Longer than anything here takes, shorter than anybody's patience.
const LONG: Duration = Duration::from_secs(30);

fn bash(bench: &Bench, command: &str) -> ToolOutput {
    bench.run(&Bash, json!({"command": command}))
}

fn until(what: &str, condition: impl Fn() -> bool) {
    let end = Instant::now() + LONG;
    while !condition() {
        assert!(Instant::now() < end, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The process numbers that a command has written to a file, one per line.
fn pids(bench: &Bench, file: &str) -> Vec<i32> {
    bench.file(file).lines().map(|line| line.trim().parse().expect("a process number")).collect()
}

fn is_gone(pid: i32) -> bool {
    processes::find(pid).is_none()
}

fn lives(pid: i32) -> bool {
    processes::find(pid).is_some_and(|process| !process.zombie)
}

#[test]
fn output_and_exit_codes() {
    let bench = Bench::new();
    for (command, expected, is_error) in [
        ("echo hi", "hi\n", false),
        ("printf a; printf b >&2; printf c", "abc", false),
        ("true", "(no output)", false),
        ("echo out; exit 3", "out\n\n\nCommand exited with code 3", true),
        ("exit 1", "(no output)\n\nCommand exited with code 1", true),
        ("kill -9 $$", "(no output)\n\nCommand exited with code 137", true),
        ("nonexistent-program 2>/dev/null", "(no output)\n\nCommand exited with code 127", true),
        ("cat", "(no output)", false),
        ("printf 'caf\\xe9 \\xe2\\x82'", "caf\u{fffd} \u{fffd}", false),
        ("readlink /proc/$$/fd/0", "/dev/null\n", false),
        ("basename $(pwd)", "cwd\n", false),
    ] {
        let expected = ToolOutput { content: vec![Block::text(expected)], details: None, is_error };
        assert_eq!(bash(&bench, command), expected, "{command}");
    }
    assert!(!bench.spill_dir.exists(), "nothing had to be spilled");
}

#[test]
fn another_shell_and_what_it_runs_first() {
    let mut bench = Bench::new();
    bench.command_prefix = Some("greeting=hello".into());
    assert_eq!(text(&bash(&bench, "echo $greeting")), "hello\n");
    bench.shell = Some("/bin/echo".into());
    assert_eq!(text(&bash(&bench, "x")), "-c greeting=hello\nx\n");
    bench.shell = Some("/no/such/shell".into());
    assert!(bash(&bench, "x").is_error);
}

#[test]
fn the_environment_is_only_what_was_given() {
    let bench = Bench::new();
    let output = bash(&bench, "cut -z -d= -f1 /proc/self/environ | tr '\\0' '\\n' | sort");
    let names: Vec<&str> = text(&output).lines().collect();
    assert_eq!(names, ["BENCH", "HOME", "NATS_PI_BRIDGE_CALL", "PATH", "PWD", "SHLVL", "_"]);
}

#[test]
fn no_file_is_inherited() {
    let bench = Bench::new();
    bench.write("open", "");
    let _open = std::fs::File::open(bench.path("open")).expect("it opens");
    let _other = Group::spawn(Command::new("/bin/sleep").arg("600")).expect("it starts");
    // Whoever runs the tests may have left files open to all; ours are the ones to be seen, or not.
    let output = bash(&bench, "readlink /proc/$$/fd/0 /proc/$$/fd/1 /proc/$$/fd/2 /proc/$$/fd/*");
    let links: Vec<&str> = text(&output).lines().collect();
    assert_eq!(links[0], "/dev/null");
    assert!(links[1].starts_with("pipe:") && links[1] == links[2], "{links:?}");
    let ours = ["eventfd", "pidfd", "/cwd/"];
    assert!(links.iter().all(|link| ours.iter().all(|our| !link.contains(our))), "{links:?}");
}

#[test]
fn what_cannot_run_is_explained() {
    let mut bench = Bench::new();
    for (arguments, expected) in [
        (
            json!({"command": "echo a\0b"}),
            "The command contains a NUL character, which no program can take as an argument.",
        ),
        (
            json!({"command": "x".repeat(131_072)}),
            "The command is too long (128.0KB); write it to a file and run that.",
        ),
        (
            json!({"command": "true", "timeout": 0}),
            "Invalid timeout: 0. It must be more than 0 and at most 2147483.647 seconds.",
        ),
        (
            json!({"command": "true", "timeout": "-1"}),
            "Invalid timeout: -1.0. It must be more than 0 and at most 2147483.647 seconds.",
        ),
        (
            json!({"command": "true", "timeout": 2_147_484}),
            "Invalid timeout: 2147484. It must be more than 0 and at most 2147483.647 seconds.",
        ),
    ] {
        assert_eq!(bench.run(&Bash, arguments), ToolOutput::error(expected));
    }
    assert_eq!(text(&bench.run(&Bash, json!({"command": "echo ok", "timeout": 2_147_483}))), "ok\n");
    let longest = format!("true {}", "x".repeat(131_071 - 5));
    assert_eq!(text(&bash(&bench, &longest)), "(no output)");
    bench.cwd.push("missing");
    let expected = format!("Working directory does not exist: {}\nCannot execute bash commands.", bench.cwd.display());
    assert_eq!(bash(&bench, "true"), ToolOutput::error(expected));
}

#[test]
fn long_output_is_cut_and_spilled() {
    let bench = Bench::new();
    assert_eq!(bash(&bench, "seq 2000").details, None);
    let output = bash(&bench, "seq 2001; exit 1");
    let details = output.details.clone().expect("details");
    let path = details["fullOutputPath"].as_str().expect("a path");
    assert!(path.starts_with(bench.spill_dir.to_str().expect("a plain path")), "{path}");
    let end = format!("\n2001\n\n[Showing lines 2-2001 of 2001. Full output: {path}]\n\nCommand exited with code 1");
    assert!(text(&output).ends_with(&end) && output.is_error, "{output:?}");
    assert_eq!(std::fs::read_to_string(path).expect("it is read").lines().count(), 2001);
    let output = bash(&bench, "head -c 61440 /dev/zero | tr '\\0' x");
    assert!(text(&output).contains("\n\n[Showing last 50.0KB of line 1 (line is 60.0KB). Full output: "), "{output:?}");
}

#[test]
fn updates_come_at_once_and_then_as_the_output_grows() {
    let bench = Bench::new();
    bench.fifo("go");
    std::thread::scope(|scope| {
        let run = scope.spawn(|| bash(&bench, "echo one; cat go; echo two"));
        let count = || bench.updates.lock().expect("no panic").len();
        until("the output so far", || count() == 2);
        // Opening waits until the command has come to reading.
        drop(std::fs::File::options().write(true).open(bench.path("go")).expect("it opens"));
        assert_eq!(text(&run.join().expect("no panic")), "one\ntwo\n");
    });
    let updates = bench.updates.lock().expect("no panic");
    assert_eq!(updates[0], ToolOutput { content: vec![], details: None, is_error: false });
    assert_eq!(updates[1], ToolOutput::text("one\n"));
}

#[test]
fn updates_are_not_too_many() {
    let bench = Bench::new();
    let begun = Instant::now();
    assert!(!bash(&bench, "for i in $(seq 300); do echo $i; /bin/true; done").is_error);
    let most = 1 + begun.elapsed().as_millis() / UPDATE_EVERY.as_millis();
    assert!(bench.updates.lock().expect("no panic").len() as u128 <= most);
}

#[test]
fn a_background_child_that_holds_the_pipe_does_not_hold_the_call() {
    let bench = Bench::new();
    let begun = Instant::now();
    let output = bash(&bench, "sleep 600 & echo $! > pid; echo done");
    assert_eq!(output, ToolOutput::text("done\n"));
    assert!(begun.elapsed() < LONG);
    let pid = pids(&bench, "pid")[0];
    assert!(lives(pid), "what was left running on purpose goes on");
    child::kill_marked("HOME", bench.cwd.to_str().expect("a plain path"));
    until("it ends with its session", || !lives(pid));
}

#[test]
fn output_that_follows_soon_after_the_shell_is_still_taken() {
    let bench = Bench::new();
    let output = bash(&bench, "(while test -e /proc/$$/exe; do :; done; seq 1500) & echo 0");
    assert_eq!(text(&output).lines().count(), 1501);
}

#[test]
fn a_timeout_kills_at_once_what_ignores_signals() {
    let bench = Bench::new();
    let begun = Instant::now();
    let command = "echo $$ > pids; trap '' TERM INT HUP; echo begun; while :; do sleep 600; done";
    let output = bench.run(&Bash, json!({"command": command, "timeout": 1}));
    assert_eq!(output, ToolOutput::error("begun\n\n\nCommand timed out after 1 seconds"));
    assert!(begun.elapsed() < LONG, "it took {:?}", begun.elapsed());
    assert!(is_gone(pids(&bench, "pids")[0]));
}

#[test]
fn a_writer_that_the_shell_left_behind_does_not_hold_the_call() {
    let bench = Bench::new();
    let begun = Instant::now();
    let output = bash(&bench, "(while :; do echo x; sleep 0.01; done) & echo $! > pid");
    assert!(!output.is_error && text(&output).starts_with("x\nx\n"), "{output:?}");
    assert!(begun.elapsed() < LONG, "it took {:?}", begun.elapsed());
    assert!(lives(pids(&bench, "pid")[0]));
    child::kill_marked("HOME", bench.cwd.to_str().expect("a plain path"));
}

#[test]
fn what_programs_in_the_background_print_goes_on_into_the_spill_file() {
    let bench = Bench::new();
    bench.fifo("go");
    bench.fifo("go2");
    // The second line would end a program whose output nobody holds.
    let command = "(cat go; echo one; cat go2; echo two; touch printed) & echo begun";
    assert_eq!(bash(&bench, command), ToolOutput::text("begun\n"));
    for name in ["go", "go2"] {
        drop(std::fs::File::options().write(true).open(bench.path(name)).expect("it opens"));
    }
    let spilled = || {
        let mut files = bench.spill_dir.read_dir().ok()?.flatten();
        std::fs::read_to_string(files.next()?.path()).ok()
    };
    until("both lines are kept", || spilled().is_some_and(|text| text == "begun\none\ntwo\n"));
    until("the program has not been ended", || bench.path("printed").exists());
}

#[test]
fn the_operators_timeout_applies_to_calls_without_one_and_to_milliseconds() {
    let mut bench = Bench::new();
    bench.default_timeout = Some(Duration::from_millis(200));
    assert_eq!(bash(&bench, "sleep 600"), ToolOutput::error("Command timed out after 0.2 seconds"));
    let expected = "Command timed out after 0.2 seconds, the most that is allowed here. The timeout is a number of \
                    seconds, not of milliseconds.";
    let output = bench.run(&Bash, json!({"command": "sleep 600", "timeout": 120_000}));
    assert_eq!(output, ToolOutput::error(expected));
    let output = bench.run(&Bash, json!({"command": "sleep 0.3; echo ok", "timeout": 999}));
    assert_eq!(output, ToolOutput::text("ok\n"));
    bench.default_timeout = None;
    assert_eq!(bash(&bench, "sleep 0.3; echo ok"), ToolOutput::text("ok\n"));
}

#[test]
fn cancelling_kills_everything_at_once() {
    let bench = Bench::new();
    child::adopt_orphans().expect("it is allowed");
    // A child, one with a child in a session of its own, one whose parent has ended, and one that is stopped.
    let command = "echo so far; echo $$ >> pids; sleep 600 & echo $! >> pids; \
        setsid sh -c 'echo $$ >> pids; sleep 600 & echo $! >> pids; wait' & \
        setsid sh -c 'setsid sh -c \"echo \\$\\$ >> pids; exec sleep 600\" >/dev/null 2>&1 &' ; \
        (kill -STOP $BASHPID) & echo $! >> pids; \
        while [ $(wc -l < pids) -lt 6 ]; do sleep 0.01; done; touch ready; wait";
    std::thread::scope(|scope| {
        let run = scope.spawn(|| bash(&bench, command));
        until("all of them have begun", || bench.path("ready").exists());
        let begun = Instant::now();
        bench.cancel.cancel();
        assert_eq!(run.join().expect("no panic"), ToolOutput::error("so far\n\n\nCommand aborted"));
        assert!(begun.elapsed() < LONG, "it took {:?}", begun.elapsed());
    });
    for pid in pids(&bench, "pids") {
        assert!(is_gone(pid), "process {pid} is left: {:?}", processes::find(pid));
    }
    assert_eq!(bash(&bench, "touch not-again"), ToolOutput::error("Command aborted"));
    assert!(!bench.path("not-again").exists());
}

#[test]
fn a_program_that_closes_its_output_is_waited_for() {
    let bench = Bench::new();
    let output = bash(&bench, "exec >/dev/null 2>&1; sleep 0.2; touch f; exit 5");
    assert_eq!(output, ToolOutput::error("(no output)\n\nCommand exited with code 5"));
    assert!(bench.path("f").exists());
}

#[test]
fn endless_output_ends_with_the_timeout() {
    let bench = Bench::new();
    let output = bench.run(&Bash, json!({"command": "yes", "timeout": 0.5}));
    assert!(text(&output).ends_with("Command timed out after 0.5 seconds"), "{output:?}");
}

#[test]
fn huge_output_is_bounded_on_disk() {
    let bench = Bench::new();
    let output = bash(&bench, "yes | head -c 20000000");
    assert!(text(&output).ends_with("(its first 16.0MB)]"), "{}", &text(&output)[4000..]);
    let path = output.details.expect("details")["fullOutputPath"].as_str().expect("a path").to_owned();
    assert_eq!(std::fs::metadata(path).expect("it exists").len(), 16 * 1024 * 1024);
}

#[test]
fn processes_that_renew_themselves_end_with_their_call() {
    let bench = Bench::new();
    // Each renews itself in a session of its own and ends, faster than anyone can list them.
    bench.write("renew", "setsid sh renew >/dev/null 2>&1 &\n");
    let output = bench.run(&Bash, json!({"command": "sh renew; sh renew; sh renew; sleep 600", "timeout": 0.5}));
    assert_eq!(output, ToolOutput::error("Command timed out after 0.5 seconds"));
    let home = bench.cwd.to_str().expect("a plain path");
    let left =
        || processes::all().into_iter().filter(|p| !p.zombie && processes::has_variable(p, "HOME", home)).count();
    until("all of them are gone", || left() == 0);
}

#[test]
fn many_calls_leave_no_files_open() {
    let bench = Bench::new();
    let open = || std::fs::read_dir("/proc/self/fd").expect("it is listed").count();
    let before = open();
    for _ in 0..200 {
        assert_eq!(bash(&bench, "echo hi"), ToolOutput::text("hi\n"));
    }
    // Other tests open files meanwhile, but not so many.
    assert!(open() < before + 100, "{before} files were open, now {}", open());
}

#[test]
fn concurrent_calls_do_not_touch_each_other() {
    let bench = Bench::new();
    std::thread::scope(|scope| {
        let runs: Vec<_> = (0..8)
            .map(|n| {
                let bench = &bench;
                scope.spawn(move || {
                    let command = format!("setsid sleep 0.4; echo {n}");
                    let timeout = if n % 2 == 0 { json!(0.1) } else { json!(30) };
                    (n, bench.run(&Bash, json!({"command": command, "timeout": timeout})))
                })
            })
            .collect();
        for run in runs {
            let (n, output) = run.join().expect("no panic");
            let expected = if n % 2 == 0 {
                ToolOutput::error("Command timed out after 0.1 seconds")
            } else {
                ToolOutput::text(format!("{n}\n"))
            };
            assert_eq!(output, expected);
        }
    });
}
