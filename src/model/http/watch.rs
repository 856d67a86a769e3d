//! A layer between ureq and its connections that bounds every wait for input and knows what has arrived. ureq's own
//! timeouts are fixed when a request begins; these can change while it runs.

use crate::sync::lock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use ureq::unversioned::transport::time::Duration as UreqDuration;
use ureq::unversioned::transport::{Buffers, ConnectionDetails, Connector, NextTimeout, Transport};
use ureq::{Error, Timeout};

/// What is allowed on, and known about, the connections of one agent.
#[derive(Debug, Default)]
pub(super) struct Watch {
    bound: Mutex<Bound>,
    /// A connection was made since the request began.
    connected: AtomicBool,
    /// Bytes that arrived since the request began.
    received: AtomicU64,
}

#[derive(Clone, Copy, Debug)]
enum Bound {
    /// Each wait may take so long.
    Each(Duration),
    /// All waits together end then.
    Until(Instant),
}

impl Default for Bound {
    fn default() -> Bound {
        Bound::Each(Duration::ZERO)
    }
}

impl Watch {
    /// A request begins, which may wait for `limit` each time.
    pub(super) fn begin(&self, limit: Duration) {
        self.connected.store(false, Ordering::Relaxed);
        self.received.store(0, Ordering::Relaxed);
        self.limit(limit);
    }

    /// From now on, each wait for input may take `limit`.
    pub(super) fn limit(&self, limit: Duration) {
        self.set(Bound::Each(limit));
    }

    /// From now on, all waits together have to end at `end`.
    pub(super) fn limit_until(&self, end: Instant) {
        self.set(Bound::Until(end));
    }

    /// The request used an old connection, on which nothing came back.
    pub(super) fn is_stale(&self) -> bool {
        !self.connected.load(Ordering::Relaxed) && self.received.load(Ordering::Relaxed) == 0
    }

    fn set(&self, bound: Bound) {
        *lock(&self.bound) = bound;
    }

    fn remaining(&self) -> Duration {
        match *lock(&self.bound) {
            Bound::Each(limit) => limit,
            Bound::Until(end) => end.saturating_duration_since(Instant::now()),
        }
    }
}

/// Makes connections, whatever is below the watch.
pub(super) type InnerConnector = dyn Connector<Out = Box<dyn Transport>>;

/// Makes connections and puts the watch over them.
#[derive(Debug)]
pub(super) struct WatchedConnector {
    inner: Arc<InnerConnector>,
    watch: Arc<Watch>,
}

impl WatchedConnector {
    pub(super) fn new(inner: Arc<InnerConnector>, watch: Arc<Watch>) -> WatchedConnector {
        WatchedConnector { inner, watch }
    }
}

impl Connector for WatchedConnector {
    type Out = WatchedTransport;

    fn connect(&self, details: &ConnectionDetails, chained: Option<()>) -> Result<Option<WatchedTransport>, Error> {
        self.watch.connected.store(true, Ordering::Relaxed);
        let inner = self.inner.connect(details, chained)?;
        Ok(inner.map(|inner| WatchedTransport { inner, watch: self.watch.clone() }))
    }
}

#[derive(Debug)]
pub(super) struct WatchedTransport {
    inner: Box<dyn Transport>,
    watch: Arc<Watch>,
}

impl Transport for WatchedTransport {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.inner.buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        self.inner.transmit_output(amount, timeout)
    }

    fn await_input(&mut self, mut timeout: NextTimeout) -> Result<bool, Error> {
        let limit = self.watch.remaining();
        if limit.is_zero() {
            return Err(Error::Timeout(Timeout::PerRead));
        }
        let limit = UreqDuration::Exact(limit);
        timeout.per_read = Some(limit);
        if limit < timeout.after {
            (timeout.after, timeout.reason) = (limit, Timeout::PerRead);
        }
        let before = self.inner.buffers().input().len();
        let result = self.inner.await_input(timeout);
        let arrived = self.inner.buffers().input().len().saturating_sub(before);
        self.watch.received.fetch_add(arrived as u64, Ordering::Relaxed);
        result
    }

    fn is_open(&mut self) -> bool {
        self.inner.is_open()
    }

    fn is_tls(&self) -> bool {
        self.inner.is_tls()
    }
}
