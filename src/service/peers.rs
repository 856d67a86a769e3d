//! The other daemons of the same owner. They share the intake's queue group, so that a request may reach a daemon that does
//! not have the session it is about; the daemons then ask each other. A daemon that is alone knows it and asks nobody.

use super::agents::nonces::SignedNonce;
use super::recent::Key;
use crate::contract::documents::{listing, row_id};
use crate::contract::ids::SessionId;
use crate::contract::request::Page;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// How long the others may take to answer. They answer in one step of their main loop; who takes longer is not there.
const ANSWER_TIME: Duration = Duration::from_secs(1);
/// How long a daemon that starts waits to hear of others before it takes requests. Without others the server says so at
/// once, so that this is only waited for in company, or where somebody listens to everything.
pub(crate) const HELLO_TIME: Duration = Duration::from_millis(100);
/// A daemon that was silent for so many intervals is gone, as with agents.
const MISSED: u32 = 3;

/// The subject on which the daemons of an owner talk to each other.
pub(crate) fn subject(owner: &str) -> String {
    format!("agents.peer.pi-exec.{owner}")
}

/// What daemons say to each other.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(tag = "op", rename_all = "lowercase")]
pub(crate) enum PeerMessage {
    /// Who is there? Answered with `Here`.
    Hello {
        host: String,
    },
    Here {
        host: String,
        /// What people call it, where the hosts of an owner are one service.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        name: Option<String>,
    },
    Gone {
        host: String,
    },
    /// A signed request was accepted, and is not to be accepted again.
    Accepted {
        host: String,
        #[serde(flatten)]
        signed: SignedNonce,
    },
    Ask {
        host: String,
        #[serde(flatten)]
        ask: Ask,
    },
    Answer {
        host: String,
        #[serde(flatten)]
        answer: Answer,
    },
}

/// A question to the others.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub(crate) struct Ask {
    /// Tells the answers to several questions apart.
    pub number: u64,
    /// Who has a session of this id?
    pub session: Option<SessionId>,
    /// Who has seen this request?
    pub key: Option<Key>,
    /// Whoever asks is about to do it, so that of two who ask at the same time one has to give way.
    #[serde(default)]
    pub claim: bool,
    /// Which sessions are there, as a wire has them: `intake`, `controller`, or `alias` for the controller by its other name?
    pub list: Option<String>,
    /// Which of them.
    #[serde(flatten)]
    pub page: Page,
    /// Who has accepted this signed request?
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signed: Option<SignedNonce>,
}

/// One daemon's answer.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub(crate) struct Answer {
    pub number: u64,
    #[serde(default, rename = "session")]
    pub has_session: bool,
    #[serde(default, rename = "seen")]
    pub has_seen: bool,
    /// It accepted the signed request itself.
    #[serde(default, rename = "accepted", skip_serializing_if = "std::ops::Not::not")]
    pub has_accepted: bool,
    /// A page of `list`.
    pub listing: Option<Value>,
}

impl PeerMessage {
    pub(crate) fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Reads a message; `None` for what a daemon of this version does not understand.
    pub(crate) fn decode(payload: &[u8]) -> Option<PeerMessage> {
        serde_json::from_slice(payload).ok()
    }
}

/// The other daemons, as far as they have been heard of.
pub(crate) struct PeerSet {
    me: String,
    interval: Duration,
    heard: BTreeMap<String, Instant>,
    /// What people call those that have a name.
    names: BTreeMap<String, String>,
}

impl PeerSet {
    pub(crate) fn new(me: &str, interval: Duration) -> PeerSet {
        PeerSet { me: me.to_string(), interval, heard: BTreeMap::new(), names: BTreeMap::new() }
    }

    /// A daemon is there. True if that is news.
    pub(crate) fn heard(&mut self, host: &str, now: Instant) -> bool {
        host != self.me && self.heard.insert(host.to_string(), now).is_none()
    }

    pub(crate) fn gone(&mut self, host: &str) {
        self.heard.remove(host);
        self.names.remove(host);
    }

    /// A daemon that is there has this name.
    pub(crate) fn named(&mut self, host: &str, name: String) {
        if self.heard.contains_key(host) {
            self.names.insert(host.to_string(), name);
        }
    }

    /// What people call a daemon.
    pub(crate) fn name<'a>(&'a self, host: &'a str) -> &'a str {
        self.names.get(host).map_or(host, String::as_str)
    }

    /// Those who are there.
    pub(crate) fn present(&mut self, now: Instant) -> BTreeSet<String> {
        let patience = self.interval * MISSED;
        self.heard.retain(|_, heard| now.saturating_duration_since(*heard) <= patience);
        self.names.retain(|host, _| self.heard.contains_key(host));
        self.heard.keys().cloned().collect()
    }
}

/// What the others said about a request.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Verdict {
    /// Nobody else has to do with it.
    Ours,
    /// This daemon has seen the request, or has the session.
    Theirs { host: String, has_seen: bool },
    /// Another daemon accepted the very same signed request: somebody sent it again.
    Replayed,
}

/// A request that waits until the others have said what they know.
pub(crate) struct Pending<T> {
    pub ask: Ask,
    /// The request.
    pub work: T,
    /// The same request, sent again meanwhile.
    pub followers: Vec<T>,
    waiting: BTreeSet<String>,
    theirs: Option<Verdict>,
    pub listings: Vec<(String, Value)>,
    deadline: Instant,
}

impl<T> Pending<T> {
    pub(crate) fn new(ask: Ask, work: T, others: BTreeSet<String>, now: Instant) -> Pending<T> {
        let deadline = now + ANSWER_TIME;
        Pending { ask, work, followers: Vec::new(), waiting: others, theirs: None, listings: Vec::new(), deadline }
    }

    /// When it goes on without those who have not answered.
    pub(crate) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Another daemon answered.
    pub(crate) fn answer(&mut self, host: &str, answer: Answer) {
        self.waiting.remove(host);
        if answer.has_accepted {
            self.theirs = Some(Verdict::Replayed);
        } else if self.theirs != Some(Verdict::Replayed) && (answer.has_seen || answer.has_session) {
            self.theirs = Some(Verdict::Theirs { host: host.to_string(), has_seen: answer.has_seen });
        }
        self.listings.extend(answer.listing.map(|listing| (host.to_string(), listing)));
    }

    /// Another daemon asks about the same at the same time. One of both has to give way: the one whose name is greater.
    /// Returns whether we stay, by saying that it is ours.
    pub(crate) fn rival(&mut self, me: &str, host: &str, has_seen: bool) -> bool {
        if me < host {
            return true;
        }
        self.theirs = Some(Verdict::Theirs { host: host.to_string(), has_seen });
        false
    }

    /// Like [`Pending::rival`], where the other daemon asks about the very same signed request.
    pub(crate) fn replayed(&mut self, me: &str, host: &str) -> bool {
        if me < host {
            return true;
        }
        self.theirs = Some(Verdict::Replayed);
        false
    }

    /// What is to be done, once that is known. Of a signed request everybody has to be heard: one may have a session of that
    /// id, and another one may have accepted the request.
    pub(crate) fn verdict(&self, now: Instant) -> Option<Verdict> {
        let waits = self.ask.signed.is_some() && !self.waiting.is_empty() && now < self.deadline;
        match &self.theirs {
            Some(Verdict::Replayed) => self.theirs.clone(),
            Some(theirs) if !waits => Some(theirs.clone()),
            Some(_) => None,
            None if self.waiting.is_empty() || now >= self.deadline => Some(Verdict::Ours),
            None => None,
        }
    }
}

/// One page of `list` for all daemons, of at most `bytes`, made of a page of each: every row says whose it is. What comes
/// after the end of a page that is not the last one of its daemon has to wait for the next page, so that no row is left out.
pub(crate) fn merge(own: (&str, Value), others: &[(String, Value)], page: &Page, bytes: usize) -> Value {
    let others = others.iter().map(|(host, listing)| (host.as_str(), listing));
    let pages: Vec<(&str, &Value)> = std::iter::once((own.0, &own.1)).chain(others).collect();
    let end = pages.iter().filter_map(|(_, listing)| listing["next"].as_str()).min();
    // A daemon that knows of no pages tells all that it has.
    let wanted = |id: &str| page.reaches(id) && end.is_none_or(|end| id <= end);
    let mut rows = Vec::new();
    for (host, listing) in pages {
        for (name, named) in [("sessions", true), ("runs", false)] {
            for row in listing[name].as_array().into_iter().flatten().filter(|row| row_id(row).is_some_and(wanted)) {
                let mut row = row.clone();
                if row["host"].is_null() {
                    row["host"] = json!(host);
                }
                rows.push((named, row));
            }
        }
    }
    rows.sort_by(|(_, one), (_, other)| row_id(one).cmp(&row_id(other)));
    let mut merged = listing(rows.into_iter(), page.limit, bytes);
    if let (None, Some(end)) = (merged.get("next"), end) {
        merged["next"] = json!(end);
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signed() -> SignedNonce {
        SignedNonce { user: "U".into(), nonce: "n".into(), time: 1 }
    }

    fn peers(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_string()).collect()
    }

    #[test]
    fn messages_survive_the_way() {
        let host = "H".to_string();
        let key = ("agents.pi-exec.ada".to_string(), "id.1".to_string());
        for message in [
            PeerMessage::Hello { host: host.clone() },
            PeerMessage::Here { host: host.clone(), name: None },
            PeerMessage::Here { host: host.clone(), name: Some("h0".into()) },
            PeerMessage::Gone { host: host.clone() },
            PeerMessage::Accepted { host: host.clone(), signed: signed() },
            PeerMessage::Ask {
                host: host.clone(),
                ask: Ask {
                    number: 7,
                    session: Some("a".to_owned().try_into().expect("an id")),
                    key: Some(key),
                    claim: true,
                    list: Some("intake".into()),
                    page: Page { after: Some("a".into()), limit: Some(7) },
                    signed: Some(signed()),
                },
            },
            PeerMessage::Ask { host: host.clone(), ask: Ask::default() },
            PeerMessage::Answer {
                host: host.clone(),
                answer: Answer {
                    number: 7,
                    has_session: true,
                    has_seen: false,
                    has_accepted: true,
                    listing: Some(json!({"sessions": []})),
                },
            },
        ] {
            let encoded = message.encode();
            assert_eq!(PeerMessage::decode(&encoded), Some(message), "{}", String::from_utf8_lossy(&encoded));
        }
        for payload in ["", "{}", r#"{"op":"here"}"#, r#"{"op":"new","host":"H"}"#, r#"{"op":"ask","host":"H"}"#] {
            assert_eq!(PeerMessage::decode(payload.as_bytes()), None, "{payload}");
        }
    }

    /// Daemons of different versions may serve the same owner.
    #[test]
    fn messages_are_those_of_every_version() {
        let ask = Ask {
            number: 7,
            session: Some("a".to_owned().try_into().expect("an id")),
            key: Some(("s".into(), "i".into())),
            ..Ask::default()
        };
        let answer = Answer { number: 7, has_session: true, ..Answer::default() };
        for (message, document) in [
            (PeerMessage::Hello { host: "H".into() }, json!({"op": "hello", "host": "H"})),
            (
                PeerMessage::Ask { host: "H".into(), ask },
                json!({"op": "ask", "host": "H", "number": 7, "session": "a", "key": ["s", "i"], "claim": false, "list": null}),
            ),
            (
                PeerMessage::Answer { host: "H".into(), answer },
                json!({"op": "answer", "host": "H", "number": 7, "session": true, "seen": false, "listing": null}),
            ),
        ] {
            assert_eq!(serde_json::to_value(&message).expect("it is a document"), document);
        }
        let bare = br#"{"number":1,"host":"H","op":"ask"}"#;
        let expected = PeerMessage::Ask { host: "H".into(), ask: Ask { number: 1, ..Ask::default() } };
        assert_eq!(PeerMessage::decode(bare), Some(expected));
    }

    #[test]
    fn who_is_silent_for_long_is_gone() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let mut known = PeerSet::new("me", 5 * second);
        assert!(!known.heard("me", start), "we hear ourselves");
        assert!(known.heard("a", start) && known.heard("b", start));
        assert!(!known.heard("a", start + 10 * second));
        assert_eq!(known.present(start + 15 * second), peers(&["a", "b"]));
        assert_eq!(known.present(start + 16 * second), peers(&["a"]));
        known.gone("a");
        assert!(known.present(start + 16 * second).is_empty());
    }

    #[test]
    fn a_request_goes_on_when_all_have_answered_or_one_has_it() {
        let now = Instant::now();
        let pending = || Pending::new(Ask::default(), (), peers(&["a", "b"]), now);
        let mut free = pending();
        free.answer("a", Answer::default());
        assert_eq!(free.verdict(now), None);
        free.answer("stranger", Answer::default());
        assert_eq!(free.verdict(now), None);
        free.answer("b", Answer::default());
        assert_eq!(free.verdict(now), Some(Verdict::Ours));
        let mut taken = pending();
        taken.answer("b", Answer { has_session: true, ..Answer::default() });
        assert_eq!(taken.verdict(now), Some(Verdict::Theirs { host: "b".into(), has_seen: false }));
        assert_eq!(pending().verdict(now + ANSWER_TIME), Some(Verdict::Ours), "who does not answer is not there");
    }

    #[test]
    fn a_signed_request_waits_for_all_and_is_done_by_one() {
        let now = Instant::now();
        let pending = || Pending::new(Ask { signed: Some(signed()), ..Ask::default() }, (), peers(&["a", "b"]), now);
        let (has_session, has_accepted) =
            (Answer { has_session: true, ..Answer::default() }, Answer { has_accepted: true, ..Answer::default() });
        let mut theirs = pending();
        theirs.answer("a", has_session.clone());
        assert_eq!(theirs.verdict(now), None);
        theirs.answer("b", Answer::default());
        assert_eq!(theirs.verdict(now), Some(Verdict::Theirs { host: "a".into(), has_seen: false }));
        for answers in [[&has_session, &has_accepted], [&has_accepted, &has_session]] {
            let mut replayed = pending();
            for (host, answer) in ["a", "b"].iter().zip(answers) {
                replayed.answer(host, answer.clone());
            }
            assert_eq!(replayed.verdict(now), Some(Verdict::Replayed));
        }
        let (mut here, mut there) = (pending(), pending());
        assert!(here.replayed("a", "b") && !there.replayed("b", "a"));
        assert_eq!(there.verdict(now), Some(Verdict::Replayed));
    }

    #[test]
    fn of_two_rivals_exactly_one_stays() {
        let now = Instant::now();
        for (one, other) in [("a", "b"), ("b", "a"), ("x1", "x10")] {
            let mut here = Pending::new(Ask::default(), (), peers(&[other]), now);
            let mut there = Pending::new(Ask::default(), (), peers(&[one]), now);
            let (stays_here, stays_there) = (here.rival(one, other, true), there.rival(other, one, true));
            assert!(stays_here != stays_there, "{one} {other}");
            let (gives_way, winner) = if stays_here { (&there, one) } else { (&here, other) };
            assert_eq!(gives_way.verdict(now), Some(Verdict::Theirs { host: winner.into(), has_seen: true }));
        }
    }

    #[test]
    fn a_merged_page_says_whose_the_rows_are_and_leaves_none_out() {
        let row = |id: &str| json!({"sessionId": id});
        let page = |ids: &[&str], next: Option<&str>| {
            let mut page = json!({"sessions": ids.iter().map(|id| row(id)).collect::<Vec<_>>(), "runs": []});
            next.into_iter().for_each(|next| page["next"] = json!(next));
            page
        };
        let all = Page::default();
        let merged = merge(("me", page(&["b"], None)), &[("other".into(), page(&["a"], None))], &all, 10_000);
        let sessions = json!([{"sessionId": "a", "host": "other"}, {"sessionId": "b", "host": "me"}]);
        assert_eq!(merged, json!({"sessions": sessions, "runs": []}));
        // (our page, the other's, what is asked for, bytes, the ids of the merged page, its next)
        for (own, other, asked, bytes, ids, next) in [
            (page(&["a", "d"], None), page(&["b", "c"], Some("c")), all.clone(), 9999, "abc", Some("c")),
            (page(&["a", "b"], Some("b")), page(&["c"], Some("c")), all.clone(), 9999, "ab", Some("b")),
            (
                page(&["a", "d"], None),
                page(&["b"], None),
                Page { limit: Some(2), ..all.clone() },
                9999,
                "ab",
                Some("b"),
            ),
            (
                page(&["c"], None),
                page(&["a", "b", "d"], None),
                Page { after: Some("b".into()), ..all.clone() },
                9999,
                "cd",
                None,
            ),
            (page(&["a"], None), page(&["b"], None), all.clone(), 370, "a", Some("a")),
        ] {
            let merged = merge(("me", own), &[("other".into(), other)], &asked, bytes);
            let found: String = merged["sessions"].as_array().into_iter().flatten().filter_map(row_id).collect();
            assert_eq!((found.as_str(), merged["next"].as_str()), (ids, next), "{merged}");
        }
    }
}
