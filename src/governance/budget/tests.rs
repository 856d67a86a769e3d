use super::*;

fn budgets(value: Value) -> Budgets {
    Budgets::parse(&value).expect("budgets")
}

#[test]
fn budgets_are_read_and_written() {
    for value in [
        json!({}),
        json!({"day": {"money": 0.000_000_001}}),
        json!({"prompt": {"money": 0.5, "tokens": 200_000, "requests": 50, "time": 600},
            "session": {"money": 5, "tokens": 0}, "day": {"money": 10.25, "time": 0.5}}),
    ] {
        assert_eq!(budgets(value.clone()).document(), value);
        assert_eq!(budgets(value.clone()).is_empty(), value == json!({}));
    }
    assert!(budgets(json!({"prompt": {}})).is_empty());
    assert!(budgets(json!({"day": {"time": 1}})).limits_time() && !budgets(json!({"day": {"money": 1}})).limits_time());
}

#[test]
fn what_is_no_budget_is_named() {
    for (value, expected) in [
        (json!(5), "budgets must be an object"),
        (json!({"week": {}}), "budgets.week is no budget; there are prompt, session, day"),
        (json!({"day": 5}), "budgets.day must be an object"),
        (json!({"day": {"euros": 5}}), "budgets.day.euros is no limit; there are money, tokens, requests, time"),
        (json!({"day": {"money": -1}}), "budgets.day.money must be a number >= 0"),
        (json!({"day": {"money": "5"}}), "budgets.day.money must be a number >= 0"),
        (json!({"day": {"money": 1e30}}), "budgets.day.money must be a number >= 0"),
        (json!({"day": {"money": null}}), "budgets.day.money must be a number >= 0"),
    ] {
        assert_eq!(Budgets::parse(&value), Err(expected.to_owned()), "{value}");
    }
}

#[test]
fn budgets_only_become_narrower() {
    let own = json!({"session": {"money": 5}, "day": {"requests": 10}});
    for (by, expected) in [
        (json!({}), Ok(own.clone())),
        (
            json!({"session": {"money": 5, "tokens": 7}}),
            Ok(json!({"session": {"money": 5, "tokens": 7}, "day": {"requests": 10}})),
        ),
        (json!({"day": {"requests": 0}}), Ok(json!({"session": {"money": 5}, "day": {"requests": 0}}))),
        (json!({"session": {"money": 5.01}}), Err("budgets.session.money can only be made narrower than 5".to_owned())),
    ] {
        let narrowed = budgets(own.clone()).narrowed(budgets(by.clone())).map(|budgets| budgets.document());
        assert_eq!(narrowed, expected, "{by}");
    }
    let wider = budgets(json!({"session": {"money": 9, "time": 1}}));
    assert_eq!(
        budgets(own).at_most(wider).document(),
        json!({"session": {"money": 5, "time": 1}, "day": {"requests": 10}})
    );
}

#[test]
fn the_limit_that_is_exceeded_is_named() {
    let limits =
        budgets(json!({"prompt": {"requests": 3}, "session": {"money": 1}, "day": {"tokens": 100, "time": 2}}));
    let spent = Spent::new(Amounts([0, 0, 2, 0]), Amounts([900_000_000, 0, 0, 0]), Amounts([0, 60, 0, 1500]));
    for (more, expected) in [
        (Amounts::request(0.1, 40), None),
        (Amounts::request(0.0, 41), Some("day.tokens: 60 of 100 are used, and the next request may take 41")),
        (
            Amounts::request(0.100_000_001, 40),
            Some("session.money: $0.9000 of $1.0000 are used, and the next request may take $0.1000"),
        ),
        (Amounts([0, 0, 2, 0]), Some("prompt.requests: 2 of 3 are used, and the next request may take 2")),
        (Amounts::millis(500), None),
        (Amounts::millis(501), Some("day.time: 1.5 s of 2 s are used")),
        (Amounts::default(), None),
    ] {
        assert_eq!(limits.exceeded(&spent, more).map(|e| e.to_string()).as_deref(), expected);
    }
    let exceeded = limits.exceeded(&spent, Amounts::request(0.0, 41)).expect("it is exceeded");
    assert_eq!(exceeded.document(), json!({"limit": "day.tokens", "used": 60, "allowed": 100, "needed": 41}));
    assert_eq!(limits.time_left(&spent), 500);
    let figures = json!({"prompt": {"requests": {"used": 2, "allowed": 3}},
        "session": {"money": {"used": 0.9, "allowed": 1}},
        "day": {"tokens": {"used": 60, "allowed": 100}, "time": {"used": 1.5, "allowed": 2}}});
    assert_eq!(limits.figures(&spent), figures);
}
