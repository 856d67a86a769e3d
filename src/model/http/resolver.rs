//! Name resolution for an agent that talks to one server.
//!
//! ureq resolves the name for every request, in a thread of its own, even when the connection is there already. An agent
//! here serves one server and is dropped when a connection to it fails, so that the first answer is good for its life.

use crate::sync::lock;
use std::net::SocketAddr;
use std::sync::Mutex;
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;

#[derive(Debug, Default)]
pub(super) struct ServerResolver {
    inner: DefaultResolver,
    /// The host and port that were asked for, and where they are. A proxy is asked for by its own name.
    known: Mutex<Option<(String, Vec<SocketAddr>)>>,
}

impl Resolver for ServerResolver {
    fn resolve(&self, uri: &Uri, config: &Config, timeout: NextTimeout) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let name = uri.authority().map(ToString::to_string).unwrap_or_default();
        let known = || lock(&self.known);
        if let Some((_, addresses)) = known().as_ref().filter(|(asked, _)| *asked == name) {
            let mut resolved = self.empty();
            addresses.iter().for_each(|address| resolved.push(*address));
            return Ok(resolved);
        }
        let resolved = self.inner.resolve(uri, config, timeout)?;
        *known() = Some((name, resolved.iter().copied().collect()));
        Ok(resolved)
    }
}
