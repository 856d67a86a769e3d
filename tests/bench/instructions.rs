//! How many instructions the daemon takes for each operation. Other than times, these numbers do not depend on what else
//! the machine does, so that a change that costs shows on any machine; so they are held against those that a file keeps.
//!
//! An operation's number is the difference between a daemon that did it many times and one that did only what comes
//! before, because a daemon's start takes as many as a hundred operations. All daemons do the same beforehand.

use crate::Caller;
use crate::model::Order;
use crate::processes::{Daemon, Setup};
use crate::report::Report;
use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::Path;

/// How often each operation is done, so that what happens by the clock meanwhile counts little.
const COUNT: usize = 60;
/// Pieces of the long answer.
const PIECES: usize = 20_000;
/// By how much a number may be above the one that is kept, as a share of that one: compilers differ, too.
const TOLERANCE: f64 = 0.1;

const RUN: &str = "instructions of a one-shot run";
const PROMPT: &str = "instructions of a follow-up prompt";
const CHUNK: &str = "instructions of a chunk";
const CREATION: &str = "instructions of a session's creation";

/// What one daemon does beyond the others.
type Work = fn(&mut Caller);

/// The operations, and how many of them each piece of work is.
const OPERATIONS: [(&str, Work, usize); 4] =
    [(RUN, runs, COUNT), (PROMPT, prompts, COUNT), (CHUNK, chunks, PIECES), (CREATION, creations, COUNT)];

fn runs(caller: &mut Caller) {
    let requests: Vec<_> = (0..COUNT).map(|_| caller.run(Order::pieces(1))).collect();
    caller.times(&requests);
}

fn prompts(caller: &mut Caller) {
    // Shared by several sessions, so that no conversation grows long.
    let prompt = |number| Caller::prompt(&session(number % crate::PROMPTED), Order::pieces(1));
    let requests: Vec<_> = (0..COUNT).map(prompt).collect();
    caller.times(&requests);
}

fn chunks(caller: &mut Caller) {
    caller.ask(&[Caller::prompt(&session(0), Order::pieces(PIECES))]);
}

fn creations(caller: &mut Caller) {
    for number in 0..COUNT {
        caller.create(&session(crate::PROMPTED + number));
    }
}

fn session(number: usize) -> String {
    format!("s{number}")
}

/// The instructions of a daemon that does what all of them do, and then `work`.
fn of_daemon(setup: &Setup, work: Work) -> u64 {
    let daemon = Daemon::start(setup);
    let mut caller = Caller::new(&daemon);
    runs(&mut caller);
    for number in 0..crate::PROMPTED {
        caller.create(&session(number));
    }
    work(&mut caller);
    daemon.instructions()
}

/// Counts and shows all of them.
pub(crate) fn count(setup: &Setup, report: &mut Report) -> Vec<(&'static str, f64)> {
    let before = of_daemon(setup, |_| {});
    let one = |(name, work, times): (&'static str, Work, usize)| {
        let each = of_daemon(setup, work).saturating_sub(before) as f64 / times as f64;
        report.row(name, "", vec![each], None);
        (name, each)
    };
    OPERATIONS.map(one).to_vec()
}

/// Which of the numbers are larger than the ones that a file keeps by more than the tolerance, in words.
pub(crate) fn grown(counts: &[(&str, f64)], file: &Path) -> io::Result<Vec<String>> {
    let text = fs::read_to_string(file)?;
    let line = |line: &'_ str| -> Option<(String, f64)> {
        let (name, rest) = line.split_once('\t')?;
        Some((name.to_string(), rest.split('\t').next()?.parse().ok()?))
    };
    let kept: HashMap<String, f64> = text.lines().filter_map(line).collect();
    let judge = |(name, now): &(&str, f64)| match kept.get(*name) {
        None => Some(format!("{name}: {} does not have it", file.display())),
        Some(kept) if *now > kept * (1.0 + TOLERANCE) => {
            Some(format!("{name}: {now:.0}, which is {:.0} % more than {kept:.0}", (now / kept - 1.0) * 100.0))
        }
        Some(_) => None,
    };
    Ok(counts.iter().filter_map(judge).collect())
}
