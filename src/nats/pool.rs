//! Which server to try next, and when.

use super::address::ServerAddress;
use std::time::Duration;

/// The wait after a round in which every server failed: it doubles from the first to the second value.
const DELAY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));
/// A connection that stood for less counts as a failed attempt, so that a server that accepts us and throws us out again
/// is not asked without a pause.
const STABLE: Duration = DELAY.1;
/// A cluster of more servers than this is not worth remembering in full.
const MAX_DISCOVERED: usize = 64;

/// The servers we know, and how the last attempts went.
pub(super) struct Pool {
    configured: Vec<ServerAddress>,
    discovered: Vec<ServerAddress>,
    next: usize,
    /// Attempts since the last pause or stable connection.
    attempts: usize,
    delay: Duration,
}

impl Pool {
    pub(super) fn new(configured: Vec<ServerAddress>) -> Pool {
        Pool { configured, discovered: Vec::new(), next: 0, attempts: 0, delay: Duration::ZERO }
    }

    pub(super) fn len(&self) -> usize {
        self.configured.len() + self.discovered.len()
    }

    /// The server to try, and how long to wait before that; `None` when there are no servers. The wait is spread by
    /// `jitter` (0 to 1) between half and all of its length: after an outage not everybody comes back at one moment.
    pub(super) fn next_attempt(&mut self, jitter: f64) -> Option<(ServerAddress, Duration)> {
        let mut wait = Duration::ZERO;
        if self.attempts >= self.len() {
            self.attempts = 0;
            self.delay = (self.delay * 2).clamp(DELAY.0, DELAY.1);
            wait = self.delay.mul_f64(0.5 + jitter.clamp(0.0, 1.0) / 2.0);
        }
        let index = self.next % self.len().max(1);
        let server = self.configured.iter().chain(&self.discovered).nth(index)?.clone();
        self.next = index + 1;
        self.attempts += 1;
        Some((server, wait))
    }

    /// Takes note of a connection that has ended after `lived`. The same server is tried first, unless it is `leaving`.
    pub(super) fn disconnected(&mut self, lived: Duration, leaving: bool) {
        if lived >= STABLE {
            (self.attempts, self.delay) = (0, Duration::ZERO);
        }
        if !leaving {
            self.next = self.next.saturating_sub(1);
        }
    }

    /// Takes note of the addresses that the server at `from` names. They share its demand for TLS and its user info, and
    /// an IP address shows a certificate with its name.
    pub(super) fn discovered(&mut self, from: &ServerAddress, urls: &[String]) {
        let mut discovered = Vec::new();
        for address in urls.iter().take(MAX_DISCOVERED).filter_map(|url| url.parse::<ServerAddress>().ok()) {
            let same = |other: &ServerAddress| other.host == address.host && other.port == address.port;
            if self.configured.iter().chain(&discovered).any(same) {
                continue;
            }
            let name = from.tls_name.clone().unwrap_or_else(|| from.host.clone());
            let is_ip = address.host.parse::<std::net::IpAddr>().is_ok();
            discovered.push(ServerAddress {
                tls: from.tls || address.tls,
                user_info: from.user_info.clone(),
                tls_name: is_ip.then_some(name),
                ..address
            });
        }
        self.discovered = discovered;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(list: &str) -> Pool {
        Pool::new(ServerAddress::parse_list(list).expect("addresses"))
    }

    fn attempts(pool: &mut Pool, count: usize) -> Vec<(String, u128)> {
        let one = |_| pool.next_attempt(1.0).map(|(server, wait)| (server.to_string(), wait.as_millis()));
        (0..count).filter_map(one).collect()
    }

    fn row(server: &str, wait: u128) -> (String, u128) {
        (format!("{server}:4222"), wait)
    }

    #[test]
    fn waits_after_each_round_and_longer_each_time() {
        let waits: Vec<u128> = attempts(&mut pool("a"), 8).into_iter().map(|(_, wait)| wait).collect();
        assert_eq!(waits, [0, 100, 200, 400, 800, 1600, 2000, 2000]);
        let expected = [row("a", 0), row("b", 0), row("a", 100), row("b", 0), row("a", 200)];
        assert_eq!(attempts(&mut pool("a,b"), 5), expected);
        assert_eq!(attempts(&mut Pool::new(Vec::new()), 3), []);
        let mut low = pool("a");
        low.next_attempt(0.0);
        assert_eq!(low.next_attempt(0.0).map(|(_, wait)| wait), Some(Duration::from_millis(50)));
    }

    #[test]
    fn goes_back_to_the_server_that_was_lost_and_away_from_one_that_leaves() {
        let mut pool = pool("a,b,c");
        assert_eq!(attempts(&mut pool, 2), [row("a", 0), row("b", 0)]);
        pool.disconnected(STABLE, false);
        assert_eq!(attempts(&mut pool, 2), [row("b", 0), row("c", 0)]);
        pool.disconnected(STABLE, true);
        assert_eq!(attempts(&mut pool, 1), [row("a", 0)]);
    }

    #[test]
    fn a_server_that_throws_us_out_is_not_asked_without_pause() {
        let mut pool = pool("a");
        attempts(&mut pool, 1);
        pool.disconnected(Duration::from_millis(5), false);
        assert_eq!(attempts(&mut pool, 1), [row("a", 100)]);
        pool.disconnected(Duration::from_millis(5), false);
        assert_eq!(attempts(&mut pool, 1), [row("a", 200)]);
        pool.disconnected(STABLE, false);
        assert_eq!(attempts(&mut pool, 2), [row("a", 0), row("a", 100)]);
    }

    #[test]
    fn discovers_servers() {
        let mut pool = pool("tls://token@a");
        let from = pool.configured[0].clone();
        let urls = ["a:4222", "10.0.0.1:5", "10.0.0.1:5", "b.example:4222", "ws://c", "::"].map(String::from);
        pool.discovered(&from, &urls);
        let names: Vec<_> =
            pool.discovered.iter().map(|server| (server.to_string(), server.tls_name.clone())).collect();
        let expected = [
            ("tls://10.0.0.1:5".into(), Some("a".into())),
            ("tls://b.example:4222".into(), None),
            ("tls://[::]:4222".into(), Some("a".into())),
        ];
        assert_eq!(names, expected);
        assert!(pool.discovered.iter().all(|server| server.tls && server.user_info == from.user_info));
        pool.discovered(&from, &[]);
        assert_eq!(pool.len(), 1);
    }
}
