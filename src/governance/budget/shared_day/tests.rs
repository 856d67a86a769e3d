use super::document::{Document, rule};
use super::*;
use serde_json::json;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);

fn budgets(value: serde_json::Value) -> Budgets {
    Budgets::parse(&value).expect("budgets")
}

fn tokens(tokens: u64) -> Amounts {
    Amounts::request(0.0, tokens)
}

/// What happens to a request.
#[derive(Clone, Copy)]
enum Fault {
    None,
    /// The store never sees it.
    Lost,
    /// The store does it, and nobody hears of that.
    Unheard,
}

type Stored = Vec<(u64, Vec<u8>)>;

/// The documents of one day that several hosts share, all versions of them, as one of the hosts reaches them.
struct TestStore {
    all: Arc<Mutex<Stored>>,
    /// What happens to one request after the other, again from the first one on after the last.
    faults: Vec<Fault>,
    asked: u64,
    reads: AtomicU64,
    away: Arc<Mutex<Option<StoreError>>>,
}

impl TestStore {
    fn new(all: &Arc<Mutex<Stored>>, faults: &[Fault]) -> TestStore {
        TestStore {
            all: all.clone(),
            faults: faults.to_vec(),
            asked: 0,
            reads: AtomicU64::new(0),
            away: Arc::default(),
        }
    }

    fn fault(&self) -> Fault {
        let faults = self.faults.len().max(1);
        self.faults.get(usize::try_from(self.asked).expect("small") % faults).copied().unwrap_or(Fault::None)
    }

    fn is_there(&self) -> Result<(), StoreError> {
        match &*lock(&self.away) {
            Some(StoreError::Unknown(why)) => Err(StoreError::Unknown(why.clone())),
            Some(StoreError::Refused(why)) => Err(StoreError::Refused(why.clone())),
            None => Ok(()),
        }
    }
}

impl DayStore for TestStore {
    fn read(&self, _day: &str) -> Result<(u64, Vec<u8>), StoreError> {
        self.is_there()?;
        let all = lock(&self.all);
        // Where something goes wrong it is also the document before the last, every third time.
        let is_old = !self.faults.is_empty() && self.reads.fetch_add(1, Ordering::Relaxed).is_multiple_of(3);
        Ok(all.len().checked_sub(if is_old { 2 } else { 1 }).map_or_else(Default::default, |at| all[at].clone()))
    }

    fn replace(&mut self, _day: &str, version: u64, document: &[u8]) -> Result<Option<u64>, StoreError> {
        self.is_there()?;
        let fault = self.fault();
        self.asked += 1;
        if matches!(fault, Fault::Lost) {
            return Err(StoreError::Unknown("lost".into()));
        }
        let mut all = lock(&self.all);
        let last = all.last().map_or(0, |(version, _)| *version);
        let stored = (last == version).then(|| {
            // Versions have gaps, as other subjects of a stream have numbers of it.
            all.push((last + 3, document.to_vec()));
            last + 3
        });
        if matches!(fault, Fault::Unheard) { Err(StoreError::Unknown("unheard".into())) } else { Ok(stored) }
    }
}

fn host(store: TestStore, name: &str) -> SharedDay {
    SharedDay::start(Box::new(store), name.into()).expect("a thread")
}

fn answer(order: &DayOrder) -> Result<DayReservation, Refused> {
    order.answer().recv_timeout(PATIENCE).expect("an answer")
}

fn spent(all: &Arc<Mutex<Stored>>) -> Amounts {
    let last = lock(all).last().map(|(_, document)| document.clone()).expect("something is stored");
    serde_json::from_slice::<Document>(&last).expect("a document").spent
}

fn eventually(what: impl Fn() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !what() {
        assert!(Instant::now() < end, "not in time");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn the_first_come_first_and_those_that_still_fit() {
    let (unread, _answers) = bounded(1);
    let of = |(id, want, limit): (u64, Want, serde_json::Value)| Order {
        id,
        want,
        budgets: budgets(limit),
        answer: unread.clone(),
    };
    let day = |limit: u64| json!({"day": {"tokens": limit, "time": 10}});
    for (spent, orders, expected) in [
        (0, vec![(1, Want::All(tokens(60)), day(100)), (2, Want::All(tokens(60)), day(100))], vec![Some(60), None]),
        (50, vec![(1, Want::All(tokens(51)), day(100)), (2, Want::All(tokens(50)), day(100))], vec![None, Some(50)]),
        (100, vec![(1, Want::All(tokens(1)), json!({}))], vec![Some(1)]),
        (90, vec![(1, Want::All(tokens(10)), day(95)), (2, Want::All(tokens(10)), day(100))], vec![None, Some(10)]),
        (
            0,
            vec![(1, Want::Time(8000), day(1)), (2, Want::Time(8000), day(1)), (3, Want::Time(8000), day(1))],
            vec![Some(8000), Some(2000), None],
        ),
        (7, vec![], vec![]),
    ] {
        let orders: Vec<Order> = orders.into_iter().map(of).collect();
        let (sum, rulings) = rule(tokens(spent), &orders);
        let granted: Vec<Option<u64>> = rulings
            .iter()
            .map(|ruling| ruling.granted.ok().map(|most| most.of(super::super::Unit::Tokens) + most.time_millis()))
            .collect();
        assert_eq!(granted, expected, "{spent}");
        let all = rulings.iter().filter_map(|ruling| ruling.granted.ok()).fold(tokens(spent), Amounts::plus);
        assert_eq!(sum, all);
        assert_eq!(
            rulings.iter().map(|ruling| ruling.order).collect::<Vec<_>>(),
            (1..).take(orders.len()).collect::<Vec<_>>()
        );
    }
}

#[test]
fn a_document_knows_the_last_change_of_each_process() {
    let mut document = Document::default();
    for number in 1..=300 {
        document = document.changed("often", number, tokens(number)).changed(&format!("p{number}"), 1, tokens(number));
        assert!(document.has("often", number) && !document.has("often", number - 1));
    }
    assert!(document.has("p300", 1) && !document.has("p1", 1), "those of long ago are forgotten");
    let text = serde_json::to_vec(&document).expect("it is written");
    assert_eq!(serde_json::from_slice::<Document>(&text).expect("it is read"), document);
    assert!(text.len() < 16 << 10, "{} bytes", text.len());
}

#[test]
fn racing_hosts_spend_exactly_what_there_is_whatever_gets_lost() {
    use Fault::{Lost, None, Unheard};
    for faults in [vec![None], vec![Unheard, None], vec![Lost, None, Unheard], vec![Unheard, Unheard, Lost]] {
        let all = Arc::default();
        let limits = budgets(json!({"day": {"requests": 50}}));
        let hosts = ["a", "b", "c"].map(|name| host(TestStore::new(&all, &faults), name));
        let granted: usize = std::thread::scope(|scope| {
            let sessions: Vec<_> = (0..24)
                .map(|number| {
                    let (host, limits) = (&hosts[number % 3], &limits);
                    scope.spawn(move || {
                        let take =
                            || answer(&host.order(limits, tokens(10))).map(|leave| leave.begin().expect("unused"));
                        let taken: Vec<DaySpending> = (0..5).filter_map(|_| take().ok()).collect();
                        let count = taken.len();
                        taken.into_iter().for_each(|spending| spending.settle(tokens(3)));
                        count
                    })
                })
                .collect();
            sessions.into_iter().map(|session| session.join().expect("no panic")).sum()
        });
        assert_eq!(granted, 50);
        drop(hosts);
        // What hosts had to settle when they ended is settled, and nothing was counted twice.
        assert_eq!(spent(&all), Amounts([0, 150, 50, 0]));
    }
}

#[test]
fn what_is_not_used_is_given_back_and_what_has_begun_stays_spent() {
    let all = Arc::default();
    let limits = budgets(json!({"day": {"tokens": 100}}));
    let (one, two) = (host(TestStore::new(&all, &[]), "a"), host(TestStore::new(&all, &[]), "b"));
    let unused = answer(&one.order(&limits, tokens(80))).expect("there is enough");
    assert!(matches!(answer(&two.order(&limits, tokens(21))), Err(Refused::Exceeded(_))));
    assert_eq!(one.spent_today(), tokens(80));
    drop(unused);
    assert_eq!(one.spent_today(), Amounts::default(), "its own host knows at once");
    eventually(|| spent(&all) == Amounts::default());
    // One that dies says nothing.
    let begun = answer(&two.order(&limits, tokens(90))).expect("there is enough").begin();
    drop(begun);
    drop(two);
    assert!(matches!(answer(&one.order(&limits, tokens(11))), Err(Refused::Exceeded(_))));
    assert!(answer(&one.order_anyway(tokens(11))).is_ok());
    one.spend(tokens(5));
    eventually(|| spent(&all) == Amounts([0, 95, 2, 0]));
    eventually(|| one.spent_today() == spent(&all));
}

#[test]
fn an_order_waits_for_the_store_and_can_be_given_up() {
    let all = Arc::default();
    let limits = budgets(json!({"day": {"requests": 1}}));
    let store = TestStore::new(&all, &[Fault::Unheard, Fault::Lost]);
    let away = store.away.clone();
    let host = host(store, "a");
    *lock(&away) = Some(StoreError::Unknown("it is away".into()));
    let given_up = host.order(&limits, tokens(1));
    assert!(given_up.answer().recv_timeout(Duration::from_millis(50)).is_err());
    drop(given_up);
    assert!(lock(&host.shared.book).orders.is_empty());
    let waits = host.order(&limits, tokens(1));
    *lock(&away) = None;
    let reservation = answer(&waits).expect("the other one wants nothing any more");
    // What is full is said at once, and what was reserved stays so.
    *lock(&away) = Some(StoreError::Refused("it is full".into()));
    let Err(Refused::Io(error)) = answer(&host.order(&limits, tokens(1))) else { panic!("it is refused") };
    assert_eq!(error.to_string(), "it is full");
    drop(reservation);
    *lock(&away) = None;
    eventually(|| spent(&all) == Amounts::default());
    assert!(answer(&host.order(&limits, tokens(1))).is_ok());
}

#[test]
fn what_is_removed_is_known_by_those_who_have_seen_it() {
    let all = Arc::default();
    let limits = budgets(json!({"day": {"requests": 2}}));
    let host = host(TestStore::new(&all, &[]), "a");
    let first = answer(&host.order(&limits, tokens(1)));
    lock(&all).clear();
    let second = answer(&host.order(&limits, tokens(1)));
    assert!(first.is_ok() && second.is_ok());
    assert_eq!(spent(&all), Amounts([0, 2, 2, 0]));
    assert!(matches!(answer(&host.order(&limits, tokens(1))), Err(Refused::Exceeded(_))));
}

#[test]
fn what_cannot_be_read_is_no_empty_day() {
    let all = Arc::new(Mutex::new(vec![(1, b"{}".to_vec()), (2, b"{}".to_vec())]));
    let host = host(TestStore::new(&all, &[]), "a");
    let Err(Refused::Io(error)) = answer(&host.order(&Budgets::default(), tokens(1))) else { panic!("it is refused") };
    assert!(error.to_string().contains("cannot be read"), "{error}");
}
