//! Which host goes on with a session: rendezvous hashing, by which all hosts come to the same order without asking each other.

use ring::digest::{SHA256, digest};

/// The place of `me` among the hosts for this session; 0 is the first.
pub(super) fn rank<'a>(session: &str, me: &str, hosts: impl IntoIterator<Item = &'a str>) -> usize {
    let own = weight(session, me);
    hosts.into_iter().filter(|host| *host != me && weight(session, host) > own).count()
}

fn weight(session: &str, host: &str) -> ([u8; 32], String) {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest(&SHA256, format!("{session}\n{host}").as_bytes()).as_ref());
    (bytes, host.to_owned())
}

#[cfg(test)]
mod tests {
    use super::rank;

    #[test]
    fn hosts_agree_and_share() {
        let hosts = ["a", "b", "c"];
        let mut first = [0; 3];
        for number in 0..300 {
            let session = format!("s{number}");
            let mut ranks: Vec<usize> = hosts.iter().map(|me| rank(&session, me, hosts)).collect();
            first[ranks.iter().position(|rank| *rank == 0).expect("somebody is first")] += 1;
            ranks.sort_unstable();
            assert_eq!(ranks, [0, 1, 2], "{session}");
        }
        assert!(first.iter().all(|count| *count > 50), "{first:?}");
    }
}
