//! Who gets a message: a table of the literal patterns, and a tree of the words of those with wildcards.
//!
//! Most patterns are literal (inboxes, subjects of sessions), and a table needs neither a node for each word nor a walk. All
//! work is linear in what is subscribed: a subscription knows its place, so that removing one does not search, and the groups
//! of a message are found by their names.

use super::peer::Subscription;
use crate::nats::subject::words;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// The most words of a pattern with wildcards. The walk through the tree calls itself once for each.
pub(super) const MAX_WORDS: usize = 64;
/// A table of at least so many places is made smaller when three quarters of it are empty.
const SHRINK_FROM: usize = 1024;
/// Up to so many queue groups of one message are searched one after the other, which is faster than a table of them.
const FEW_GROUPS: usize = 8;

/// All subscriptions of all clients.
#[derive(Default)]
pub(super) struct Router {
    literal: HashMap<Box<[u8]>, Subscribers>,
    wildcard: Node,
}

/// The subscriptions with one pattern. Each knows its place in the list.
#[derive(Default)]
struct Subscribers(Vec<Arc<Subscription>>);

/// What follows after some words.
#[derive(Default)]
struct Node {
    /// By the next word, wildcards included.
    next: HashMap<Box<[u8]>, Node>,
    /// Patterns that end here.
    subscribers: Subscribers,
}

/// The subscriptions found so far.
#[derive(Default)]
struct Targets<'a> {
    list: Vec<Arc<Subscription>>,
    /// Where in `list` a queue group's member is, and among how many it was drawn.
    groups: Vec<(usize, usize)>,
    /// Where in `groups` a group is, by its name, once there are more than a few.
    by_name: HashMap<&'a [u8], usize>,
}

/// Whether a word of the pattern stands for other words.
pub(super) fn has_wildcard(pattern: &[u8]) -> bool {
    words(pattern).any(|word| matches!(word, b"*" | b">"))
}

impl Router {
    pub(super) fn add(&mut self, subscription: Arc<Subscription>) {
        if !has_wildcard(&subscription.pattern) {
            self.literal.entry(subscription.pattern.clone()).or_default().add(subscription);
            return;
        }
        let mut node = &mut self.wildcard;
        for word in words(&subscription.pattern) {
            node = node.next.entry(word.into()).or_default();
        }
        node.subscribers.add(subscription.clone());
    }

    pub(super) fn remove(&mut self, subscription: &Arc<Subscription>) {
        if has_wildcard(&subscription.pattern) {
            let path: Vec<&[u8]> = words(&subscription.pattern).collect();
            self.wildcard.remove(&path, subscription);
        } else if let Some(subscribers) = self.literal.get_mut(&subscription.pattern) {
            subscribers.remove(subscription);
            if subscribers.0.is_empty() {
                self.literal.remove(&subscription.pattern);
                shrink(&mut self.literal);
            }
        }
    }

    /// The subscriptions that a message to `subject` goes to, among those for which `wanted` is true. Of a queue group one
    /// member is drawn. A subject with empty words reaches nobody.
    pub(super) fn targets<'a>(
        &'a self,
        subject: &[u8],
        wanted: impl Fn(&Subscription) -> bool,
    ) -> Vec<Arc<Subscription>> {
        let path: Vec<&[u8]> = words(subject).collect();
        let mut targets = Targets::default();
        if !path.iter().any(|word| word.is_empty()) {
            let mut add = |subscription: &'a Arc<Subscription>| {
                if wanted(subscription) {
                    targets.add(subscription);
                }
            };
            if let Some(subscribers) = self.literal.get(subject) {
                subscribers.0.iter().for_each(&mut add);
            }
            self.wildcard.collect(&path, &mut add);
        }
        targets.list
    }
}

impl Subscribers {
    fn add(&mut self, subscription: Arc<Subscription>) {
        subscription.place.store(self.0.len(), Ordering::Relaxed);
        self.0.push(subscription);
    }

    /// Removes a subscription if it is still there, and tells the last one, which takes its place, where it is now.
    fn remove(&mut self, subscription: &Arc<Subscription>) {
        let place = subscription.place.load(Ordering::Relaxed);
        if !self.0.get(place).is_some_and(|other| Arc::ptr_eq(other, subscription)) {
            return;
        }
        self.0.swap_remove(place);
        if let Some(moved) = self.0.get(place) {
            moved.place.store(place, Ordering::Relaxed);
        }
        if self.0.capacity() >= SHRINK_FROM && self.0.len() < self.0.capacity() / 4 {
            self.0.shrink_to(self.0.len() * 2);
        }
    }
}

/// Gives memory back when a table is mostly empty.
fn shrink<V>(table: &mut HashMap<Box<[u8]>, V>) {
    if table.capacity() >= SHRINK_FROM && table.len() < table.capacity() / 4 {
        table.shrink_to(table.len() * 2);
    }
}

impl Node {
    fn is_empty(&self) -> bool {
        self.next.is_empty() && self.subscribers.0.is_empty()
    }

    fn remove(&mut self, path: &[&[u8]], subscription: &Arc<Subscription>) {
        let Some((word, rest)) = path.split_first() else {
            self.subscribers.remove(subscription);
            return;
        };
        if let Some(node) = self.next.get_mut(*word) {
            node.remove(rest, subscription);
            if node.is_empty() {
                self.next.remove(*word);
                shrink(&mut self.next);
            }
        }
    }

    fn collect<'a>(&'a self, path: &[&[u8]], found: &mut impl FnMut(&'a Arc<Subscription>)) {
        let Some((word, rest)) = path.split_first() else {
            self.subscribers.0.iter().for_each(found);
            return;
        };
        if self.next.is_empty() {
            return;
        }
        if let Some(node) = self.next.get(&b">"[..]) {
            node.subscribers.0.iter().for_each(&mut *found);
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

impl<'a> Targets<'a> {
    fn add(&mut self, subscription: &'a Arc<Subscription>) {
        let Some(queue) = subscription.queue.as_deref() else {
            self.list.push(subscription.clone());
            return;
        };
        // A group is its name, whatever patterns its members have: as with nats-server, a message goes to one of them.
        let Some(group) = self.group(queue) else {
            if self.groups.len() >= FEW_GROUPS {
                self.by_name.insert(queue, self.groups.len());
            }
            self.groups.push((self.list.len(), 1));
            self.list.push(subscription.clone());
            return;
        };
        let Some((at, members)) = self.groups.get_mut(group) else { return };
        *members += 1;
        // Each of n members is drawn with the same chance: the n-th replaces its predecessor once in n times.
        if fastrand::usize(..*members) == 0
            && let Some(drawn) = self.list.get_mut(*at)
        {
            *drawn = subscription.clone();
        }
    }

    /// Where in `groups` the group of that name is: among the first few, or in the table of the others.
    fn group(&self, queue: &[u8]) -> Option<usize> {
        let named = |at: usize| self.list.get(at).and_then(|member| member.queue.as_deref()) == Some(queue);
        let first = self.groups.iter().take(FEW_GROUPS).position(|(at, _)| named(*at));
        first.or_else(|| self.by_name.get(queue).copied())
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
        assert!(router.wildcard.is_empty() && router.literal.is_empty(), "nothing is left behind");
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

    #[test]
    fn many_groups_and_members_take_linear_time() {
        const MANY: usize = 30_000;
        let mut router = Router::default();
        let peer = peer(1);
        let subscription = |pattern: &str, queue: &str, sid: usize| {
            let sid = sid.to_string();
            Arc::new(Subscription::new(peer.clone(), pattern.as_bytes(), Some(queue.as_bytes()), sid.as_bytes()))
        };
        let groups = (0..MANY).map(|number| subscription("a", &format!("q{number}"), number));
        let members = (0..MANY).map(|number| subscription("*", "q7", MANY + number));
        let all: Vec<_> = groups.chain(members).collect();
        // The time of this thread, because others run beside it.
        let used = || rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime).tv_sec;
        let start = used();
        all.iter().for_each(|one| router.add(one.clone()));
        assert_eq!(router.targets(b"a", |_| true).len(), MANY);
        all.iter().for_each(|one| router.remove(one));
        // Quadratic work takes some 10 s here, linear work 0.1 s.
        assert!(used() - start <= 2);
        assert!(router.wildcard.is_empty() && router.literal.is_empty());
        assert!(router.literal.capacity() < SHRINK_FROM);
    }
}
