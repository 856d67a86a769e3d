//! Which host goes on with a session: rendezvous hashing, by which all hosts come to the same order without asking each other.

use ring::digest::{SHA256, digest};

/// The place of `me` among the hosts for this session; 0 is the first.
pub(super) fn rank<'a>(session: &str, me: &str, hosts: impl IntoIterator<Item = &'a str>) -> usize {
    let own = weight(session, me);
    hosts.into_iter().filter(|host| *host != me && weight(session, host) > own).count()
}

/// The hosts that may go on with this session, the first one first.
pub(super) fn in_order(session: &str, mut hosts: Vec<String>) -> Vec<String> {
    hosts.sort_by_cached_key(|host| std::cmp::Reverse(weight(session, host)));
    hosts
}

fn weight(session: &str, host: &str) -> ([u8; 32], String) {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest(&SHA256, format!("{session}\n{host}").as_bytes()).as_ref());
    (bytes, host.to_owned())
}

#[cfg(test)]
mod tests {
    use super::{in_order, rank};

    #[test]
    fn hosts_agree_and_share() {
        let hosts = ["a", "b", "c"];
        let mut first = [0; 3];
        for number in 0..300 {
            let session = format!("s{number}");
            let order = in_order(&session, hosts.map(str::to_owned).to_vec());
            let by_order: Vec<usize> = order.iter().map(|me| rank(&session, me, hosts)).collect();
            assert_eq!(by_order, [0, 1, 2], "{session}");
            let mut ranks: Vec<usize> = hosts.iter().map(|me| rank(&session, me, hosts)).collect();
            first[ranks.iter().position(|rank| *rank == 0).expect("somebody is first")] += 1;
            ranks.sort_unstable();
            assert_eq!(ranks, [0, 1, 2], "{session}");
        }
        assert!(first.iter().all(|count| *count > 50), "{first:?}");
    }
}
