//! The thread that keeps this host's card, and looks for sessions whose host is gone.
//!
//! A card that has expired is only a hint: a host that still answers is there, whatever its card says, since a server that
//! was away for a while lets all cards expire. Nor does it do harm to take a living host for a dead one: the next record
//! decides whose the session is.

use super::inbox::InboxPrompt;
use super::moving::{Preparing, Taker};
use super::rank::rank;
use super::record::{Kind, decode};
use super::{ASK_TIME, CARDS, Fleet, FleetOptions, LOGS};
use crate::clock::now_ms;
use crate::nats::jetstream::{JetStream, JetStreamError};
use crate::nats::{Message, PublishError, RequestError, Subscription};
use crate::threads::{self, Thread};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Between two looks at the cards of the others.
const LOOK: Duration = Duration::from_secs(2);
/// A card is renewed so often in its time to live.
const RENEWALS: u32 = 4;
/// After a reconnect the others have the time to live of so many cards to come back, too.
const RECONNECT_CARDS: u32 = 2;
/// The longest silence of a host that is asked whether it is there.
const SILENCE: Duration = Duration::from_secs(1);
/// Sessions of hosts that are gone are looked for this often by one of the hosts, even if no host went. Each looks more seldom
/// the more there are, so that what all of them read does not grow with their square.
const SCAN: Duration = Duration::from_secs(60);
/// The most hosts that are looked at. The server gives no more messages at a time.
const MOST: usize = 1024;
/// Sessions whose last records are asked for at a time.
const AT_A_TIME: usize = 256;
/// Hosts that wait until others had their chance wait this long for each.
const PER_RANK: Duration = Duration::from_secs(2);
/// What other hosts say may wait.
const QUESTIONS: usize = 1024;
/// Sessions that may wait for the main thread.
const FOUND: usize = 1024;
/// How long the main thread may take to tell callers that a session is over.
const TOLD_WITHIN: Duration = Duration::from_secs(5);
/// A card of a host that went is this message instead.
const MARKER: &str = "Nats-Marker-Reason";

/// What becomes of sessions whose hosts are gone.
pub(crate) enum Found {
    /// This host is to go on with it; with the last record of its owner before.
    Session { session: String, last: u64 },
    /// Its host is about to give it to this one, which shall listen for it; with what is needed of it beside its file.
    Coming { session: String, state: Vec<u8>, answer: Preparing },
    /// It waits for its host, and this host tells so to those who ask for it.
    Down { session: String, host: String },
    /// Its host is there again.
    Up { session: String },
    /// These prompts were put into the inbox of a session that is over. Nobody takes them, and their callers have to be told,
    /// which is done when the sender is dropped.
    Late { prompts: Vec<InboxPrompt>, done: Sender<()> },
}

/// Puts a session that has to be gone on with where this host keeps those of its own.
pub(crate) trait Install: Send + Sync {
    /// Whether the session is one of this host's.
    fn has(&self, session: &str) -> bool;

    /// Keeps a session: what is needed of it beside its file, and that.
    ///
    /// # Errors
    /// It cannot be kept, or is of no use here.
    fn install(&self, session: &str, state: &[u8], file: &[u8]) -> io::Result<()>;

    /// Whether a session that another host is about to give to this one could be kept here, as far as its folder goes. It may
    /// take most of a second.
    ///
    /// # Errors
    /// Why not.
    fn examine(&self, state: &[u8]) -> Result<(), String>;
}

/// This host among the others. Its card stays until it expires.
pub(crate) struct Hosts {
    found: Receiver<Found>,
    _here: [Subscription; 2],
    /// Ends the threads below.
    stop: Option<Sender<()>>,
    _threads: [Thread; 2],
}

struct Watch {
    fleet: Arc<Fleet>,
    taker: Arc<Taker>,
    /// The connection in use, and since when.
    connected: (u64, Instant),
    /// The sequence of our card.
    card: u64,
    renewed: Option<Instant>,
    scanned: Option<Instant>,
    /// Hosts with a card when we looked last.
    cards: BTreeSet<String>,
    /// Since when sessions wait for a host that is gone.
    waiting: BTreeMap<String, Instant>,
    /// Sessions of which this host tells that their host is gone.
    down: BTreeSet<String>,
}

impl Hosts {
    /// Takes part.
    ///
    /// # Errors
    /// The connection takes no subscription, or the system no thread.
    pub(crate) fn join(fleet: &Arc<Fleet>, install: Box<dyn Install>) -> Result<Hosts, String> {
        let (to, questions) = bounded::<Box<Message>>(QUESTIONS);
        let subscribe = |subject: String| {
            fleet.connection.subscribe(&subject, None, to.clone()).map_err(|e: PublishError| e.to_string())
        };
        let here = [subscribe(fleet.options.here_subject(fleet.host()))?, subscribe(fleet.options.inbox_subject("*"))?];
        let (found, receiver) = bounded(FOUND);
        let taker = Arc::new(Taker { fleet: fleet.clone(), install, found, taking: Mutex::default() });
        let of_thread = taker.clone();
        let answer = move || questions.iter().for_each(|message| of_thread.hear(&message));
        let (stop, stopped) = bounded(0);
        let mut watch = Watch {
            fleet: fleet.clone(),
            taker,
            connected: (0, Instant::now()),
            card: 0,
            renewed: None,
            scanned: None,
            cards: BTreeSet::new(),
            waiting: BTreeMap::new(),
            down: BTreeSet::new(),
        };
        let spawn = |name: &str, work: Box<dyn FnOnce() + Send>| {
            threads::spawn(name, threads::SMALL_STACK, work).map_err(|e| e.to_string())
        };
        let threads = [spawn("fleet-here", Box::new(answer))?, spawn("fleet", Box::new(move || watch.run(&stopped)))?];
        Ok(Hosts { found: receiver, _here: here, stop: Some(stop), _threads: threads })
    }

    /// Sessions to go on with.
    pub(crate) fn found(&self) -> &Receiver<Found> {
        &self.found
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        // The thread may be about to hand something over.
        self.found = crossbeam_channel::never();
        self.stop = None;
    }
}

impl Fleet {
    /// The hosts that have a card.
    pub(super) fn cards(&self) -> Result<BTreeSet<String>, JetStreamError> {
        with_card(&self.jetstream, &self.options)
    }

    /// Whether a host answers.
    pub(super) fn is_there(&self, host: &str) -> Result<bool, JetStreamError> {
        match self.connection.request(&self.options.here_subject(host), b"", SILENCE) {
            Ok(_) => Ok(true),
            Err(RequestError::NoResponders | RequestError::TimedOut) => Ok(false),
            Err(e) => Err(e.into()),
        }
    }
}

/// The hosts that have a card.
pub(super) fn with_card(jetstream: &JetStream, options: &FleetOptions) -> Result<BTreeSet<String>, JetStreamError> {
    let cards = jetstream.last_of_each(CARDS, &[&options.card_subject("*")], MOST, ASK_TIME)?;
    let cards = cards.iter().filter(|card| card.header(MARKER).is_none());
    Ok(cards.filter_map(|card| Some(card.subject.rsplit('.').next()?.to_owned())).collect())
}

impl Watch {
    fn run(&mut self, stopped: &Receiver<()>) {
        let renew_after = self.fleet.options.card_ttl / RENEWALS;
        let look = LOOK.min(renew_after);
        loop {
            if self.fleet.connection.is_connected() {
                let silent = self.renewed.map(|renewed| renewed.elapsed());
                if silent.is_some_and(|silent| silent >= self.fleet.options.card_ttl) {
                    self.fleet.verify();
                }
                if silent.is_none_or(|silent| silent >= renew_after) {
                    self.renew();
                }
                if self.others_had_time()
                    && let Err(e) = self.look()
                {
                    log::debug!("the other hosts cannot be looked at: {e}");
                }
            }
            match stopped.recv_timeout(look) {
                Err(RecvTimeoutError::Timeout) => {}
                Ok(()) | Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Where the server was away, all cards have expired and other hosts may not be back yet: they are not looked for before
    /// they had the time to come back.
    fn others_had_time(&mut self) -> bool {
        let (generation, now) = (self.fleet.connection.generation(), Instant::now());
        if self.connected.0 != generation {
            self.connected = (generation, now);
            self.scanned = None;
            // Nobody was told meanwhile what was put into inboxes.
            if let Err(e) = self.inboxes() {
                log::debug!("the inboxes of sessions cannot be looked at: {e}");
            }
        }
        let time = self.fleet.options.card_ttl * if generation > 1 { RECONNECT_CARDS } else { 1 };
        now.duration_since(self.connected.1) >= time
    }

    /// Shows the card for another while.
    fn renew(&mut self) {
        let (fleet, begun) = (&self.fleet, Instant::now());
        let subject = fleet.options.card_subject(fleet.host());
        let card = json!({"host": fleet.host(), "boot": fleet.boot, "version": env!("CARGO_PKG_VERSION"),
            "renewedAt": now_ms()});
        let (card, ttl) = (card.to_string(), Some(fleet.options.card_ttl));
        let put = |expected| fleet.jetstream.publish(&subject, Some(expected), None, ttl, card.as_bytes(), ASK_TIME);
        let put = match put(self.card) {
            // It has expired, or is that of the process before this one.
            Err(e) if e.is_wrong_sequence() => {
                let last = fleet.jetstream.last(CARDS, &subject, ASK_TIME);
                last.and_then(|last| put(last.map_or(0, |last| last.sequence)))
            }
            put => put,
        };
        match put {
            Ok(receipt) => {
                (self.card, self.renewed) = (receipt.sequence, Some(begun));
                fleet.is_seen(begun);
            }
            Err(e) => log::debug!("this host's card is not renewed: {e}"),
        }
    }

    /// Looks who is there, and for sessions of those who are not.
    fn look(&mut self) -> Result<(), JetStreamError> {
        let cards = self.fleet.cards()?;
        let someone_went = self.cards.difference(&cards).next().is_some();
        let hosts = u32::try_from(cards.len().max(1)).unwrap_or(u32::MAX);
        let due = self.scanned.is_none_or(|scanned| scanned.elapsed() >= SCAN * hosts);
        self.cards = cards;
        if someone_went || due || !self.waiting.is_empty() || !self.down.is_empty() {
            self.scan()?;
            self.scanned = Some(Instant::now());
        }
        Ok(())
    }

    /// Has sessions of this host look into their inboxes where something is in there; returns the others where something is.
    fn inboxes(&self) -> Result<Vec<String>, JetStreamError> {
        let (fleet, pattern) = (&self.fleet, self.fleet.options.inbox_subject("*"));
        let mut sessions: Vec<String> = fleet
            .jetstream
            .subjects(LOGS, &pattern, ASK_TIME)?
            .iter()
            .filter_map(|subject| Some(subject.rsplit('.').next()?.to_owned()))
            .collect();
        sessions.retain(|session| !fleet.look_into_inbox(session));
        Ok(sessions)
    }

    /// Has the callers told of prompts that were put into the inbox of a session that is over, and removes them.
    fn refuse_late(&self, session: &str) -> Result<(), JetStreamError> {
        let prompts = self.fleet.inbox(session, 0)?;
        let Some(last) = prompts.last().map(|last| last.sequence) else { return Ok(()) };
        let (done, told) = bounded(0);
        self.taker.tell(Found::Late { prompts, done });
        // Rather twice than not at all.
        if told.recv_timeout(TOLD_WITHIN) == Err(RecvTimeoutError::Disconnected) {
            self.fleet.clear_inbox(session, last)?;
        }
        Ok(())
    }

    fn scan(&mut self) -> Result<(), JetStreamError> {
        // In this order: a session that begins meanwhile is not taken for one that is over.
        let inboxes = self.inboxes()?;
        let subjects = self.fleet.jetstream.subjects(LOGS, &self.fleet.options.log_subject("*"), ASK_TIME)?;
        for session in inboxes {
            let log = self.fleet.options.log_subject(&session);
            let is_over = !subjects.contains(&log);
            if is_over && rank(&session, self.fleet.host(), self.cards.iter().map(String::as_str)) == 0 {
                self.refuse_late(&session)?;
            }
        }
        let mut lasts = Vec::new();
        for some in subjects.chunks(AT_A_TIME) {
            let some: Vec<&str> = some.iter().map(String::as_str).collect();
            lasts.extend(self.fleet.jetstream.last_of_each(LOGS, &some, AT_A_TIME, ASK_TIME)?);
        }
        let (mut there, mut waiting, mut down) = (BTreeMap::new(), BTreeMap::new(), BTreeSet::new());
        for last in lasts {
            let Some(session) = last.subject.rsplit('.').next().map(str::to_owned) else { continue };
            let Some((head, _)) = decode(&last.payload) else { continue };
            if head.host == self.fleet.host() && !self.taker.install.has(&session) {
                if head.kind == Kind::Give {
                    if !self.fleet.has_passed(&session) {
                        self.take(&session, "it was given to this host")?;
                    }
                } else {
                    self.fleet.clear(&session, last.sequence)?;
                }
            }
            if head.host == self.fleet.host() || head.kind == Kind::End || self.fleet.has_passed(&session) {
                continue;
            }
            if self.cards.contains(&head.host) {
                continue;
            }
            let is_there = match there.get(&head.host) {
                Some(is_there) => *is_there,
                None => {
                    let is_there = self.fleet.is_there(&head.host)?;
                    there.insert(head.host.clone(), is_there);
                    is_there
                }
            };
            if is_there || self.taker.install.has(&session) {
                continue;
            }
            let hosts = self.cards.iter().map(String::as_str);
            let rank = rank(&session, self.fleet.host(), hosts);
            if !head.shared {
                if rank == 0 {
                    if !self.down.contains(&session) {
                        self.taker.tell(Found::Down { session: session.clone(), host: head.host });
                    }
                    down.insert(session);
                }
                continue;
            }
            let since = *self.waiting.get(&session).unwrap_or(&Instant::now());
            waiting.insert(session.clone(), since);
            if since.elapsed() >= PER_RANK * u32::try_from(rank).unwrap_or(u32::MAX) {
                self.take(&session, &format!("its host {} is gone", head.host))?;
            }
        }
        for session in self.down.difference(&down) {
            self.taker.tell(Found::Up { session: session.clone() });
        }
        (self.waiting, self.down) = (waiting, down);
        Ok(())
    }

    fn take(&mut self, session: &str, why: &str) -> Result<(), JetStreamError> {
        log::info!("session {session}: {why}, and it goes on here");
        if !self.taker.take(session)? {
            self.fleet.pass(session);
        }
        Ok(())
    }
}
