use super::*;
use std::process::Stdio;

const LONG: Duration = Duration::from_secs(30);

fn until(what: &str, condition: impl Fn() -> bool) {
    let end = Instant::now() + LONG;
    while !condition() {
        assert!(Instant::now() < end, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn sh(command: &str) -> Command {
    let mut builder = Command::new("/bin/sh");
    builder.args(["-c", command]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    builder
}

#[test]
fn exit_codes_can_be_asked_for_again() {
    for (command, code) in [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", 137), ("kill -15 $$", 143)] {
        let group = Group::spawn(&mut sh(command)).expect("it starts");
        until("it ends", || group.exit_code().is_some());
        assert_eq!((group.exit_code(), group.exit_code()), (Some(code), Some(code)), "{command}");
    }
}

#[test]
fn dropping_kills_the_group_and_leaves_no_zombie() {
    let group = Group::spawn(&mut sh("sleep 600 & wait")).expect("it starts");
    let pid = group.pid.as_raw_pid();
    assert_eq!(group.exit_code(), None);
    drop(group);
    assert_eq!(processes::find(pid), None);
    assert!(!running().contains(&pid));
}

#[test]
fn orphans_are_reaped_and_the_children_of_others_are_not() {
    adopt_orphans().expect("it is allowed");
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("pid");
    // Somebody else's child, whose end must be left to its owner, however often orphans are reaped.
    let mut others = sh("exit 9").spawn().expect("it starts");
    // A group whose shell has ended, but whose owner has not looked yet.
    let group = Group::spawn(&mut sh("exit 8")).expect("it starts");
    let command = format!("setsid sh -c 'echo $$ > {}.new; mv {0}.new {0}; sleep 0.05' &", file.display());
    drop(Group::spawn(&mut sh(&command)).map(|group| until("it ends", || group.exit_code().is_some())));
    until("the orphan has begun", || file.exists());
    let orphan: i32 = std::fs::read_to_string(&file).expect("it is read").trim().parse().expect("a number");
    until("the orphan is gone", || {
        reap_orphans();
        processes::find(orphan).is_none()
    });
    reap_orphans();
    assert_eq!(group.exit_code(), Some(8));
    assert_eq!(others.wait().expect("its end is still there").code(), Some(9));
}

#[test]
fn only_the_marked_are_killed() {
    let mut marked = sh("setsid sleep 600 & setsid sleep 600 & wait");
    let marked = Group::spawn(marked.env("CHILD_TEST_MARK", "1")).expect("it starts");
    let other = Group::spawn(sh("sleep 600").env("CHILD_TEST_MARK", "11")).expect("it starts");
    let children = |group: &Group| {
        let pid = group.pid.as_raw_pid();
        processes::all().into_iter().filter(|process| process.parent == pid).collect::<Vec<Process>>()
    };
    until("its children have begun", || children(&marked).len() == 2);
    let children = children(&marked);
    kill_marked("CHILD_TEST_MARK", "1");
    assert_eq!(marked.exit_code(), Some(137));
    assert!(children.iter().all(|child| processes::find(child.pid).is_none_or(|found| found.zombie)));
    assert_eq!(other.exit_code(), None);
}
