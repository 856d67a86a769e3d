use super::*;
use crate::governance::budget::Period;
use serde_json::json;
use std::io::Write;

const NONE: Amounts = Amounts([0; 4]);

fn budgets(value: serde_json::Value) -> Budgets {
    Budgets::parse(&value).expect("budgets")
}

fn payer<'a>(session: &'a str, prompt: &'a str, budgets: &'a Budgets) -> Payer<'a> {
    Payer { session, prompt, budgets }
}

fn spent(ledger: &Ledger, payer: Payer<'_>) -> [u64; 3] {
    let spent = ledger.spent(payer).expect("it is read");
    [Period::Prompt, Period::Session, Period::Day].map(|period| spent.of(period).of(super::super::Unit::Tokens))
}

#[test]
fn reservations_count_until_they_are_settled_and_over_restarts() {
    let dir = tempfile::tempdir().expect("a folder");
    let folder = dir.path().join("b");
    let limits = budgets(json!({"prompt": {"tokens": 100}, "session": {"tokens": 150}, "day": {"tokens": 200}}));
    let (one, two, other) = (payer("s", "1", &limits), payer("s", "2", &limits), payer("t", "3", &limits));
    let tokens = |tokens| Amounts::request(0.0, tokens);
    let ledger = Ledger::new(folder.clone());
    let (first, _) = ledger.reserve(one, tokens(80)).expect("there is enough");
    assert!(matches!(ledger.reserve(one, tokens(21)), Err(Refused::Exceeded(_))), "of the prompt");
    assert_eq!(spent(&ledger, one), [80, 80, 80]);
    ledger.settle(one, &first, tokens(30));
    assert_eq!(spent(&ledger, one), [30, 30, 30]);
    let (open, _) = ledger.reserve(two, tokens(100)).expect("it is another prompt");
    assert!(matches!(ledger.reserve(two, tokens(21)), Err(Refused::Exceeded(_))), "of the session");
    assert!(matches!(ledger.reserve(other, tokens(71)), Err(Refused::Exceeded(_))), "of the day");

    // A second daemon sees the same, and what either of them spends.
    let second = Ledger::new(folder.clone());
    assert_eq!(spent(&second, two), [100, 130, 130]);
    let (theirs, _) = second.reserve(other, tokens(70)).expect("there is enough");
    assert!(matches!(ledger.reserve(other, tokens(1)), Err(Refused::Exceeded(_))));
    second.settle(other, &theirs, tokens(10));
    assert_eq!(spent(&ledger, other), [10, 10, 140]);

    // What a crash left open stays spent, also in a file that was written anew, and can still be settled.
    drop((ledger, second));
    let third = Ledger::new(folder);
    assert_eq!(spent(&third, two), [100, 130, 140]);
    third.with(|state, _| Ok(state.rewrite(&third.folder)?)).expect("it is written anew");
    assert_eq!(spent(&third, two), [100, 130, 140]);
    third.settle(two, &open, NONE);
    third.settle(two, &open, NONE);
    assert_eq!(spent(&third, two), [0, 30, 40]);
    assert_eq!(third.spent_today().of(super::super::Unit::Tokens), 40);
    third.forget("s");
    assert_eq!(spent(&third, two), [0, 0, 40]);
}

#[test]
fn a_torn_line_is_no_line_and_what_was_deleted_is_gone() {
    let dir = tempfile::tempdir().expect("a folder");
    let folder = dir.path().join("b");
    let limits = Budgets::default();
    let own = payer("s", "1", &limits);
    let ledger = Ledger::new(folder.clone());
    ledger.reserve(own, Amounts::request(0.0, 5)).expect("there is no limit");
    let mut file = File::options().append(true).open(path(&folder)).expect("it opens");
    write!(file, "{{\"reserve\":{{\"id\":\"x\"").expect("it is written");
    ledger.reserve(own, Amounts::request(0.0, 7)).expect("there is no limit");
    assert_eq!(spent(&ledger, own), [12, 12, 12]);
    assert_eq!(spent(&Ledger::new(folder.clone()), own), [12, 12, 12]);
    std::fs::remove_file(path(&folder)).expect("it is deleted");
    assert_eq!(spent(&ledger, own), [0, 0, 0]);
}

#[test]
fn time_is_reserved_in_slices_of_what_is_left() {
    let dir = tempfile::tempdir().expect("a folder");
    let ledger = Ledger::new(dir.path().join("b"));
    let limits = budgets(json!({"prompt": {"time": 25}}));
    let own = payer("s", "1", &limits);
    for expected in [10_000, 10_000, 5000] {
        let (slice, _) = ledger.reserve_time(own, 10_000).expect("there is time");
        assert_eq!(slice.most, Amounts::millis(expected));
    }
    assert!(matches!(ledger.reserve_time(own, 10_000), Err(Refused::Exceeded(_))));
}

#[test]
fn racing_sessions_spend_no_more_than_there_is() {
    let dir = tempfile::tempdir().expect("a folder");
    let folder = dir.path().join("b");
    let limits = budgets(json!({"day": {"money": 1}}));
    // Two daemons, ten sessions each.
    let ledgers = [Ledger::new(folder.clone()), Ledger::new(folder.clone())];
    let granted: usize = std::thread::scope(|scope| {
        let sessions: Vec<_> = (0..20)
            .map(|number| {
                let (ledger, limits) = (&ledgers[number % 2], &limits);
                scope.spawn(move || {
                    let session = number.to_string();
                    let take = || ledger.reserve(payer(&session, "p", limits), Amounts::request(0.07, 1));
                    (0..10).filter(|_| take().is_ok()).count()
                })
            })
            .collect();
        sessions.into_iter().map(|session| session.join().expect("no panic")).sum()
    });
    assert_eq!(granted, 14, "14 times 7 cents are 98");
}
