//! The other daemons of the owner: who they are, and what they have to do with a request. See `service/peers.rs` for the rules.

use super::Daemon;
use super::clients::NewSession;
use super::fleet::remember_signed;
use super::requests::{Wire, Work};
use crate::clock::now_ms;
use crate::contract::error::DaemonError;
use crate::contract::ids::SessionId;
use crate::contract::request::{Create, Request};
use crate::fleet::Fleet;
use crate::nats::{Connection, Message, PublishError, Subscription};
use crate::service::agents::CalledAs;
use crate::service::agents::nonces::SignedNonce;
use crate::service::agents::sender;
use crate::service::host::Host;
use crate::service::peers::{self, Answer, Ask, HELLO_TIME, PeerMessage, PeerSet, Pending, Verdict};
use crate::service::session_subjects::session_subject;
use crossbeam_channel::{Receiver, Sender, bounded};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

/// Messages of other daemons that may wait for the main thread.
const WAITING: usize = 1024;
/// Requests that may wait for the others at a time.
const MAX_PENDING: usize = 256;
/// Headers of a request that is handed on: to which daemon, and the subject that it came to.
const TO: &str = "Pi-Exec-To";
const SUBJECT: &str = "Pi-Exec-Subject";

/// Whether the others had their chance to say that they are there.
enum Hello {
    NotSaid,
    /// Until then.
    Said(Instant),
    Heard,
}

/// A request that waits for what the others say.
enum HeldRequest {
    Work(Box<Work>),
    Client(NewSession),
}

/// What the main thread knows of the others.
pub(super) struct Peers {
    connection: Connection,
    subject: String,
    me: String,
    /// What people call this daemon, where the hosts of the owner are one service.
    name: Option<String>,
    peers: PeerSet,
    pending: Vec<Pending<HeldRequest>>,
    last_number: u64,
    hello: Hello,
    /// Where the others answer us.
    inbox: String,
    messages: Receiver<Box<Message>>,
    sender: Sender<Box<Message>>,
    _answers: Subscription,
    /// There once we have said hello.
    subscription: Option<Subscription>,
}

impl Peers {
    /// # Errors
    /// The connection takes no subscription.
    pub(super) fn new(host: &Host, fleet: Option<&Arc<Fleet>>) -> Result<Peers, PublishError> {
        let (sender, messages) = bounded(WAITING);
        let inbox = host.connection.new_inbox();
        let (connection, subject, me) = (host.connection.clone(), peers::subject(&host.owner), host.id.clone());
        let all = fleet.cloned();
        host.senders.tell(Box::new(move |signed| {
            if let Some(fleet) = &all {
                remember_signed(fleet, signed);
            }
            let accepted = PeerMessage::Accepted { host: me.clone(), signed: signed.clone() };
            if let Err(e) = connection.publish(&subject, None, &[], &accepted.encode()) {
                log::warn!("the other daemons of this owner do not hear what was accepted: {e}");
            }
        }));
        Ok(Peers {
            _answers: host.connection.subscribe(&inbox, None, sender.clone())?,
            connection: host.connection.clone(),
            subject: peers::subject(&host.owner),
            me: host.id.clone(),
            name: fleet.map(|fleet| fleet.host().to_owned()),
            peers: PeerSet::new(&host.id, host.heartbeat_interval),
            pending: Vec::new(),
            last_number: 0,
            hello: Hello::NotSaid,
            inbox,
            messages,
            sender,
            subscription: None,
        })
    }

    pub(super) fn messages(&self) -> &Receiver<Box<Message>> {
        &self.messages
    }

    /// Whether requests can be taken: before the others were heard of, a session of theirs would look like none.
    pub(super) fn is_ready(&self) -> bool {
        matches!(self.hello, Hello::Heard)
    }

    /// When there is something to do even if nobody says anything.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let hello = if let Hello::Said(until) = self.hello { Some(until) } else { None };
        self.pending.iter().map(Pending::deadline).chain(hello).min()
    }

    /// The connection stands. The first time the others are greeted before we listen ourselves, because then the server
    /// says at once if there is nobody.
    pub(super) fn connected(&mut self) {
        if self.subscription.is_none() {
            self.say(PeerMessage::Hello { host: self.me.clone() });
            self.hello = Hello::Said(Instant::now() + HELLO_TIME);
            match self.connection.subscribe(&self.subject, None, self.sender.clone()) {
                Ok(subscription) => self.subscription = Some(subscription),
                Err(e) => log::warn!("other daemons of this owner will not be heard: {e}"),
            }
        }
        self.announce();
    }

    /// Tells the others that we are there. To be called at every heartbeat.
    pub(super) fn announce(&self) {
        if self.connection.is_connected() {
            self.say(self.here());
        }
    }

    fn here(&self) -> PeerMessage {
        PeerMessage::Here { host: self.me.clone(), name: self.name.clone() }
    }

    /// Whether others are there.
    pub(super) fn are_there(&mut self) -> bool {
        !self.peers.present(Instant::now()).is_empty()
    }

    /// What this daemon is called among those of its owner.
    pub(super) fn me(&self) -> &str {
        self.name.as_deref().unwrap_or(&self.me)
    }

    /// Whether that, or its id, is this daemon's.
    pub(super) fn is_me(&self, name: &str) -> bool {
        name == self.me() || name == self.me
    }

    /// What another one is called.
    pub(super) fn name<'a>(&'a self, host: &'a str) -> &'a str {
        self.peers.name(host)
    }

    /// Tells the others not to wait for us any more. True if there are any.
    pub(super) fn leave(&mut self) -> bool {
        self.say(PeerMessage::Gone { host: self.me.clone() });
        self.are_there()
    }

    fn ask(&mut self, ask: Ask, held: HeldRequest, others: BTreeSet<String>, now: Instant) {
        self.last_number += 1;
        let ask = Ask { number: self.last_number, ..ask };
        self.say(PeerMessage::Ask { host: self.me.clone(), ask: ask.clone() });
        self.pending.push(Pending::new(ask, held, others, now));
    }

    fn say(&self, message: PeerMessage) {
        self.send(&self.subject, &message);
    }

    fn send(&self, subject: &str, message: &PeerMessage) {
        if let Err(e) = self.connection.publish(subject, Some(&self.inbox), &[], &message.encode()) {
            log::warn!("the other daemons of this owner do not hear: {e}");
        }
    }

    /// Hands a request on, as it came.
    fn forward(&self, message: &Message, host: &str) -> Result<(), PublishError> {
        if !self.connection.takes_headers() {
            return Err(PublishError::NoHeaders);
        }
        let mut headers = vec![(TO, host), (SUBJECT, message.subject.as_str())];
        headers.extend(message.headers.iter().flat_map(|headers| headers.iter()));
        self.connection.publish(&self.subject, message.reply.as_deref(), &headers, &message.payload)
    }
}

/// What the others have to be asked about a request, if anything.
fn question(work: &Work) -> Ask {
    let key = work.named.as_ref().map(|named| named.key.clone());
    let ask = Ask { key, signed: work.signed.clone(), ..Ask::default() };
    match &work.request {
        Request::List(page) => {
            let list = match work.wire {
                Wire::Intake => "intake",
                Wire::Controller(_, CalledAs::Itself) => "controller",
                Wire::Controller(_, CalledAs::Alias) => "alias",
            };
            Ask { list: Some(list.into()), page: page.clone(), ..ask }
        }
        Request::Stop { session_id } => Ask { session: Some(session_id.clone()), ..ask },
        Request::Drain(_) => ask,
        Request::Create(create) => {
            Ask { session: create.session_id.clone(), claim: create.session_id.is_some() || ask.key.is_some(), ..ask }
        }
    }
}

impl Daemon {
    /// Begins with a request: at once if nobody else can have to do with it.
    pub(super) fn begin(&mut self, work: Work) {
        let Some(work) = self.hold(work) else { return };
        let now = Instant::now();
        let others = self.peers.peers.present(now);
        let ours = match &work.request {
            Request::Stop { session_id } => {
                let session_id = session_id.clone();
                self.named(&session_id).is_some()
            }
            // Only who is meant can tell, and all others would have to be asked.
            Request::Drain(_) => return self.begin_drain(work, &others),
            Request::Create(_) | Request::List(_) => false,
        };
        if let (false, Some(other)) = (self.takes_work(), others.first()) {
            return self.hand_on(&work, other);
        }
        let seen = work.named.as_ref().is_some_and(|named| self.host.recent.has_seen(&named.key));
        let ask = question(&work);
        if others.is_empty() || ours || seen || ask == Ask::default() || self.peers.pending.len() >= MAX_PENDING {
            return self.perform(work);
        }
        let same = |pending: &&mut Pending<HeldRequest>| ask.key.is_some() && pending.ask.key == ask.key;
        if let Some(pending) = self.peers.pending.iter_mut().find(same) {
            return pending.followers.push(HeldRequest::Work(Box::new(work)));
        }
        if let Some(error) =
            ask.session.as_ref().filter(|id| ask.claim && self.is_claimed(id)).map(|id| self.session_exists(id))
        {
            return self.refuse(work.wire, &work.message, &error);
        }
        self.peers.ask(ask, HeldRequest::Work(Box::new(work)), others, now);
    }

    /// Begins with a client's request for a session.
    pub(super) fn begin_for_client(&mut self, new: NewSession) {
        let now = Instant::now();
        let others = self.peers.peers.present(now);
        match &new.create.session_id {
            Some(id) if self.is_claimed(id) => (new.respond)(Err(self.session_exists(id))),
            Some(id) if !others.is_empty() && self.peers.pending.len() < MAX_PENDING => {
                let ask = Ask { session: Some(id.clone()), claim: true, ..Ask::default() };
                self.peers.ask(ask, HeldRequest::Client(new), others, now);
            }
            _ => self.create_for_client(new),
        }
    }

    /// Whether a session of this id is about to be made here.
    fn is_claimed(&self, session_id: &str) -> bool {
        let claims =
            |pending: &Pending<HeldRequest>| pending.ask.claim && pending.ask.session.as_deref() == Some(session_id);
        self.peers.pending.iter().any(claims)
    }

    /// Accepted signatures are told to the others while there are any.
    pub(super) fn note_company(&mut self) {
        let shared = self.peers.are_there() || self.fleet.is_some();
        self.host.senders.set_shared(shared);
    }

    /// Takes a message of another daemon.
    pub(super) fn peer(&mut self, message: Message) {
        let now = Instant::now();
        if let Some(to) = message.header(TO) {
            if to == self.peers.me {
                self.handed_on(message);
            }
            return;
        }
        if message.status() == Some(503) {
            return self.peers.hello = Hello::Heard;
        }
        let Some(said) = PeerMessage::decode(&message.payload) else { return };
        match said {
            PeerMessage::Hello { host } if host != self.peers.me => {
                let here = self.peers.here();
                message.reply.iter().for_each(|reply| self.peers.send(reply, &here));
            }
            PeerMessage::Here { host, name } => {
                let is_new = self.peers.peers.heard(&host, now);
                name.into_iter().for_each(|name| self.peers.peers.named(&host, name));
                if is_new {
                    log::info!("another nats-pi-bridge ({host}) serves {} as well", self.host.owner);
                    self.peers.announce();
                }
                self.note_company();
            }
            PeerMessage::Gone { host } => {
                self.peers.peers.gone(&host);
                self.note_company();
                self.peers.pending.iter_mut().for_each(|pending| pending.answer(&host, Answer::default()));
            }
            PeerMessage::Ask { host, ask } if host != self.peers.me => {
                self.peers.peers.heard(&host, now);
                self.note_company();
                let answer = PeerMessage::Answer { answer: self.peer_answer(&host, &ask), host: self.peers.me.clone() };
                message.reply.iter().for_each(|reply| self.peers.send(reply, &answer));
            }
            PeerMessage::Answer { host, answer } => {
                let asked = self.peers.pending.iter_mut().find(|pending| pending.ask.number == answer.number);
                asked.into_iter().for_each(|pending| pending.answer(&host, answer.clone()));
            }
            PeerMessage::Accepted { host, signed } if host != self.peers.me => {
                self.host.senders.accepted_by_another(&signed, now_ms());
            }
            PeerMessage::Hello { .. } | PeerMessage::Ask { .. } | PeerMessage::Accepted { .. } => {}
        }
        self.advance_peers();
    }

    fn peer_answer(&mut self, host: &str, ask: &Ask) -> Answer {
        let mut answer = Answer {
            number: ask.number,
            has_session: ask.session.as_deref().is_some_and(|id| self.named(id).is_some()),
            has_seen: ask.key.as_ref().is_some_and(|key| self.host.recent.has_seen(key)),
            has_accepted: false,
            listing: None,
        };
        if let Some(signed) = &ask.signed {
            answer.has_accepted = self.has_accepted(host, signed);
        }
        if let Some(wire) = &ask.list {
            let wire = match wire.as_str() {
                "controller" => Wire::Controller("list", CalledAs::Itself),
                "alias" => Wire::Controller("list", CalledAs::Alias),
                _ => Wire::Intake,
            };
            answer.listing = Some(self.list(wire, &ask.page));
        }
        let peers = &mut self.peers;
        for pending in peers.pending.iter_mut().filter(|pending| ask.claim && pending.ask.claim) {
            let same_request = ask.key.is_some() && pending.ask.key == ask.key;
            let same_session = ask.session.is_some() && pending.ask.session == ask.session;
            if (same_request || same_session) && pending.rival(&peers.me, host, same_request) {
                answer.has_session |= same_session;
                answer.has_seen |= same_request;
            }
        }
        answer
    }

    /// Whether a signed request that another daemon asks about was accepted here. If both ask about it at the same time, one
    /// gives way.
    fn has_accepted(&mut self, host: &str, signed: &SignedNonce) -> bool {
        let asked = |pending: &&mut Pending<HeldRequest>| pending.ask.signed.as_ref() == Some(signed);
        match self.peers.pending.iter_mut().find(asked) {
            None => self.host.senders.is_ours(signed),
            Some(pending) => {
                let stays = pending.replayed(&self.peers.me, host);
                if !stays {
                    self.host.senders.leave_to_another(signed);
                }
                stays
            }
        }
    }

    /// Goes on with what need not wait any longer.
    pub(super) fn advance_peers(&mut self) {
        let now = Instant::now();
        if matches!(self.peers.hello, Hello::Said(until) if until <= now) {
            self.peers.hello = Hello::Heard;
        }
        while let Some((at, verdict)) =
            self.peers.pending.iter().enumerate().find_map(|(at, pending)| Some((at, pending.verdict(now)?)))
        {
            let pending = self.peers.pending.remove(at);
            match pending.work {
                HeldRequest::Work(work) => self.decided(*work, verdict, pending.listings),
                HeldRequest::Client(new) => match &new.create.session_id {
                    Some(id) if verdict != Verdict::Ours => (new.respond)(Err(self.session_exists(id))),
                    _ => self.create_for_client(new),
                },
            }
            for follower in pending.followers {
                if let HeldRequest::Work(work) = follower {
                    self.begin(*work);
                }
            }
        }
    }

    fn decided(&mut self, work: Work, verdict: Verdict, listings: Vec<(String, serde_json::Value)>) {
        match (verdict, &work.request) {
            (Verdict::Replayed, _) => {
                let error = DaemonError::Unauthorized { message: sender::used_before().message };
                self.refuse(work.wire, &work.message, &error);
            }
            (Verdict::Theirs { host, has_seen: true }, _) | (Verdict::Theirs { host, .. }, Request::Stop { .. }) => {
                self.hand_on(&work, &host);
            }
            (Verdict::Theirs { .. }, Request::Create(Create { session_id: Some(id), .. })) => {
                self.refuse(work.wire, &work.message, &self.session_exists(id));
            }
            (_, Request::List(page)) if !listings.is_empty() => {
                let own = (self.peers.me.as_str(), self.list(work.wire, page));
                let document = peers::merge(own, &listings, page, self.connection.max_payload());
                self.answer(work.wire, &work.message, &document, Instant::now());
            }
            _ => self.perform(work),
        }
    }

    fn session_exists(&self, session_id: &SessionId) -> DaemonError {
        let subject = session_subject(&self.host.owner, session_id);
        DaemonError::SessionExists { session_id: session_id.clone(), subject }
    }

    /// Lets another daemon do what a request asks; it also gives the answer.
    pub(super) fn hand_on(&self, work: &Work, host: &str) {
        if let Err(e) = self.peers.forward(&work.message, host) {
            let error =
                DaemonError::Busy { message: format!("it cannot be handed on to the daemon it belongs to: {e}") };
            self.refuse(work.wire, &work.message, &error);
        }
    }

    /// Another daemon handed a request on, so that it is done here whatever others know.
    fn handed_on(&mut self, message: Message) {
        let Some(subject) = message.header(SUBJECT).map(str::to_string) else { return };
        let mut message = Message { subject, ..message };
        self.host.reply_subjects.check(&mut message);
        let Some(work) = self.understand(message, true) else { return };
        let key = work.named.as_ref().map(|named| named.key.clone());
        let same = |pending: &&mut Pending<HeldRequest>| key.is_some() && pending.ask.key == key;
        match self.peers.pending.iter_mut().find(same) {
            Some(pending) => pending.followers.push(HeldRequest::Work(Box::new(work))),
            None => self.perform(work),
        }
    }
}
