//! Who gets a message: a tree of the words of all subscribed patterns.

use super::peer::Subscription;
use crate::nats::subject::words;
use std::collections::HashMap;
use std::sync::Arc;

/// All subscriptions of all clients.
#[derive(Default)]
pub(super) struct Router {
    root: Node,
}

/// What follows after some words.
#[derive(Default)]
struct Node {
    /// By the next word, wildcards included.
    next: HashMap<Box<[u8]>, Node>,
    /// Patterns that end here.
    subscriptions: Vec<Arc<Subscription>>,
}

/// The subscriptions found so far.
#[derive(Default)]
struct Targets {
    list: Vec<Arc<Subscription>>,
    /// Where in `list` a queue group's member is, and among how many it was drawn.
    groups: Vec<(usize, usize)>,
}

impl Router {
    pub(super) fn add(&mut self, subscription: Arc<Subscription>) {
        let mut node = &mut self.root;
        for word in words(&subscription.pattern) {
            node = node.next.entry(word.into()).or_default();
        }
        node.subscriptions.push(subscription.clone());
    }

    pub(super) fn remove(&mut self, subscription: &Arc<Subscription>) {
        let path: Vec<&[u8]> = words(&subscription.pattern).collect();
        self.root.remove(&path, subscription);
    }

    /// The subscriptions that a message to `subject` goes to, among those for which `wanted` is true. Of a queue group one
    /// member is drawn. A subject with empty words reaches nobody.
    pub(super) fn targets(&self, subject: &[u8], wanted: impl Fn(&Subscription) -> bool) -> Vec<Arc<Subscription>> {
        let path: Vec<&[u8]> = words(subject).collect();
        let mut targets = Targets::default();
        if !path.iter().any(|word| word.is_empty()) {
            self.root.collect(&path, &mut |subscription| {
                if wanted(subscription) {
                    targets.add(subscription);
                }
            });
        }
        targets.list
    }
}

impl Node {
    fn is_empty(&self) -> bool {
        self.next.is_empty() && self.subscriptions.is_empty()
    }

    fn remove(&mut self, path: &[&[u8]], subscription: &Arc<Subscription>) {
        let Some((word, rest)) = path.split_first() else {
            self.subscriptions.retain(|other| !Arc::ptr_eq(other, subscription));
            return;
        };
        if let Some(node) = self.next.get_mut(*word) {
            node.remove(rest, subscription);
            if node.is_empty() {
                self.next.remove(*word);
            }
        }
    }

    fn collect(&self, path: &[&[u8]], found: &mut impl FnMut(&Arc<Subscription>)) {
        let Some((word, rest)) = path.split_first() else {
            self.subscriptions.iter().for_each(found);
            return;
        };
        if let Some(node) = self.next.get(&b">"[..]) {
            node.subscriptions.iter().for_each(&mut *found);
        }
        if let Some(node) = self.next.get(&b"*"[..]) {
            node.collect(rest, found);
        }
        // A word that looks like a wildcard in a published subject is only itself, and was found above.
        if !matches!(*word, b"*" | b">")
            && let Some(node) = self.next.get(*word)
        {
            node.collect(rest, found);
        }
    }
}

impl Targets {
    fn add(&mut self, subscription: &Arc<Subscription>) {
        // A group is its name, whatever patterns its members have: as with nats-server, a message goes to one of them.
        let same = |other: &Arc<Subscription>| other.queue == subscription.queue;
        if subscription.queue.is_none() {
            self.list.push(subscription.clone());
        } else if let Some((at, members)) = self.groups.iter_mut().find(|(at, _)| same(&self.list[*at])) {
            *members += 1;
            // Each of n members is drawn with the same chance: the n-th replaces its predecessor once in n times.
            if fastrand::usize(..*members) == 0 {
                self.list[*at] = subscription.clone();
            }
        } else {
            self.groups.push((self.list.len(), 1));
            self.list.push(subscription.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::peer::Peer;
    use std::net::{TcpListener, TcpStream};

    fn peer(id: u64) -> Arc<Peer> {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let socket = TcpStream::connect(listener.local_addr().expect("an address")).expect("connected");
        Arc::new(Peer::new(id, socket, 1000).expect("a peer"))
    }

    fn found(router: &Router, subject: &str, except: Option<u64>) -> Vec<String> {
        let targets = router.targets(subject.as_bytes(), |one| except != Some(one.peer.id));
        let mut sids: Vec<String> = targets.iter().map(|one| String::from_utf8_lossy(&one.sid).into_owned()).collect();
        sids.sort();
        sids
    }

    #[test]
    fn finds_literal_and_wildcard_patterns() {
        let mut router = Router::default();
        let peer = peer(1);
        let patterns = ["a", "a.b", "*", "a.*", "*.b", "a.>", ">", "*.*.c", "a.b.c", "a*"];
        let all: Vec<_> = patterns
            .iter()
            .map(|pattern| Arc::new(Subscription::new(peer.clone(), pattern.as_bytes(), None, pattern.as_bytes())))
            .collect();
        all.iter().for_each(|one| router.add(one.clone()));
        let table = [
            ("a", vec!["*", ">", "a"]),
            ("b", vec!["*", ">"]),
            ("a.b", vec!["*.b", ">", "a.*", "a.>", "a.b"]),
            ("x.b", vec!["*.b", ">"]),
            ("a.b.c", vec!["*.*.c", ">", "a.>", "a.b.c"]),
            ("a.b.c.d", vec![">", "a.>"]),
            ("a*", vec!["*", ">", "a*"]),
            ("a.*", vec![">", "a.*", "a.>"]),
            ("a.>", vec![">", "a.*", "a.>"]),
            ("a..b", vec![]),
            (".a", vec![]),
            ("", vec![]),
        ];
        for (subject, expected) in &table {
            assert_eq!(found(&router, subject, None), *expected, "{subject}");
        }
        assert!(found(&router, "a.b", Some(1)).is_empty(), "no echo");
        for one in &all {
            router.remove(one);
            router.remove(one);
            let sid = String::from_utf8_lossy(&one.sid).into_owned();
            assert!(!found(&router, &sid, None).contains(&sid));
        }
        assert!(router.root.is_empty(), "nothing is left behind");
    }

    #[test]
    fn draws_one_of_each_queue_group() {
        let mut router = Router::default();
        let (one, two) = (peer(1), peer(2));
        for (peer, pattern, queue, sid) in [
            (&one, "a", Some("q"), "q1"),
            (&two, "a", Some("q"), "q2"),
            (&two, "a", Some("q"), "q3"),
            (&one, "a", Some("r"), "r1"),
            (&one, "*", Some("q"), "q4"),
            (&one, "*", Some("s"), "w1"),
            (&one, "a", None, "p1"),
        ] {
            let subscription =
                Subscription::new(peer.clone(), pattern.as_bytes(), queue.map(str::as_bytes), sid.as_bytes());
            router.add(Arc::new(subscription));
        }
        let mut counts = [0; 4];
        for _ in 0..4000 {
            let mut sids = found(&router, "a", None);
            let drawn = sids.iter().position(|sid| sid.starts_with('q')).expect("one of the group");
            let drawn = sids.remove(drawn);
            counts[usize::from(drawn.as_bytes()[1] - b'1')] += 1;
            assert_eq!(sids, ["p1", "r1", "w1"]);
        }
        assert!(counts.iter().all(|count| (800..1200).contains(count)), "{counts:?}");
        let without_two = found(&router, "a", Some(2));
        assert!(matches!(&without_two[..], [p, q, r, w] if p == "p1" && q.starts_with('q') && r == "r1" && w == "w1"));
    }
}
