//! HTTP requests whose answers stream, and the idle connections that the next request may use.
//!
//! A request has a ureq agent for itself, because an agent is what can be shut down from another thread: cancelling one
//! turn must not cut the requests of others. After a clean end the agent is kept with its idle connection, and the next
//! request to the same server, of whichever session, takes it over. All agents share one TLS configuration, so that
//! even a new connection resumes a known TLS session.

mod proxy;
mod resolver;
mod tls;
mod watch;

use crate::cancel::{Cancel, OnCancel};
use crate::sync::lock;
use crate::trust_roots;
use resolver::ServerResolver;
use std::io::{self, Read};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tls::TlsConnector;
use ureq::unversioned::transport::{ConnectProxyConnector, Connector, TcpConnector};
use ureq::{Agent, BodyReader};
use watch::{InnerConnector, Watch, WatchedConnector};

/// Bounds for name resolution and for connecting, TLS included; shutting an agent down interrupts neither.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a server may refuse to take in a piece of the request.
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);
/// Response headers have to fit into the input buffer; larger ones waste memory per connection.
const INPUT_BUFFER: usize = 32 << 10;
const OUTPUT_BUFFER: usize = 16 << 10;
const MAX_IDLE_PER_SERVER: usize = 4;
const MAX_IDLE: Duration = Duration::from_secs(60);
/// How long the rest of an earlier answer is waited for before its connection is given up.
const FINISH_TIMEOUT: Duration = Duration::from_millis(100);
/// How much of the body of a failed request is kept, in bytes.
const MAX_ERROR_BODY: usize = 16 << 10;
/// How long the body of a failed request is waited for.
const ERROR_BODY_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a server may take.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Timeouts {
    /// Longest silence before the response headers.
    pub first_byte: Duration,
    /// Longest silence between two pieces of the body.
    pub idle: Duration,
    /// For everything together, from the name's resolution to the last piece. `None` = no limit.
    pub total: Option<Duration>,
}

/// Why there is no response, or no more of it.
#[derive(Debug, PartialEq)]
pub(super) enum HttpError {
    Cancelled,
    /// Nothing was sent: the address, a header or the proxy setting is of no use.
    Invalid(String),
    /// The server is not who it should be, or offers no encryption that is good enough. Trying again is of no use.
    Tls(String),
    /// No connection came about, or it was lost.
    Connection(String),
    TimedOut(String),
}

impl std::fmt::Display for HttpError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            HttpError::Cancelled => f.write_str("Request was aborted"),
            HttpError::Invalid(reason) => write!(f, "Invalid request: {reason}"),
            HttpError::Tls(reason) => write!(f, "TLS failure: {reason}"),
            HttpError::Connection(reason) => write!(f, "Connection error: {reason}"),
            HttpError::TimedOut(what) => write!(f, "Request timed out: {what}"),
        }
    }
}

/// Sends requests and keeps idle connections.
pub(super) struct Http {
    connector: Arc<InnerConnector>,
    /// The proxy that the user's settings name.
    proxy: Mutex<Option<String>>,
    idle: Mutex<Vec<IdleConnection>>,
}

/// An agent that waits for its next request.
struct IdleConnection {
    agent: ServerAgent,
    since: Instant,
    /// The answer before, whose end may still be on its way. Nobody waits for it until the connection is needed again.
    rest: BodyReader<'static>,
}

/// An agent with the server it talks to and the watch over its connections.
struct ServerAgent {
    server: String,
    agent: Agent,
    watch: Arc<Watch>,
}

impl Default for Http {
    fn default() -> Http {
        let connector = ().chain(ConnectProxyConnector::default()).chain(TcpConnector::default());
        let connector = Arc::new(connector.chain(TlsConnector::default()));
        Http { connector, proxy: Mutex::default(), idle: Mutex::default() }
    }
}

impl Http {
    /// Says which proxy counts where the environment names none. Connections that are there already go another way, so
    /// that a change closes them.
    pub(super) fn set_proxy(&self, setting: Option<&str>) {
        let mut proxy = lock(&self.proxy);
        if proxy.as_deref() != setting {
            *proxy = setting.map(str::to_string);
            lock(&self.idle).clear();
        }
    }

    /// Sends `body` and waits for the response headers. Any status is a response.
    pub(super) fn post(
        self: &Arc<Http>,
        url: &str,
        headers: &[(String, String)],
        body: &[u8],
        timeouts: Timeouts,
        cancel: &Cancel,
    ) -> Result<Response, HttpError> {
        let server =
            server_of(url).ok_or_else(|| HttpError::Invalid("the base URL is not an http(s) URL".to_string()))?;
        let mut agent = self.check_out(&server);
        loop {
            let reused = agent.is_some();
            let used = match agent.take() {
                Some(agent) => agent,
                None => self.new_agent(&server)?,
            };
            used.watch.begin(timeouts.first_byte);
            let agent = used.agent.clone();
            let guard = cancel.on_cancel(move || agent.shutdown());
            let mut request = used.agent.post(url);
            if timeouts.total.is_some() {
                request = request.config().timeout_global(timeouts.total).build();
            }
            for (name, value) in headers {
                request = request.header(name, value);
            }
            match request.send(body) {
                Ok(response) => {
                    used.watch.limit(timeouts.idle);
                    let (parts, body) = response.into_parts();
                    return Ok(Response {
                        status: parts.status.as_u16(),
                        headers: parts.headers,
                        body: body.into_reader(),
                        agent: used,
                        http: self.clone(),
                        cancel: cancel.clone(),
                        _guard: guard,
                    });
                }
                Err(_) if cancel.is_cancelled() => return Err(HttpError::Cancelled),
                // The server may close an idle connection at the moment it is used. Nothing came back on it, so the
                // request is sent once more, on a connection that is certainly new.
                Err(ureq::Error::Io(_)) if reused && used.watch.is_stale() => {}
                Err(e) => return Err(explain(e)),
            }
        }
    }

    fn new_agent(&self, server: &str) -> Result<ServerAgent, HttpError> {
        let watch = Arc::new(Watch::default());
        let setting = lock(&self.proxy).clone();
        let environment = |name: &str| std::env::var(name).ok();
        let proxy = if is_loopback(server) { None } else { proxy::choose(server, setting.as_deref(), &environment)? };
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_resolve(Some(CONNECT_TIMEOUT))
            .timeout_per_write(Some(WRITE_TIMEOUT))
            .max_redirects(0)
            .max_redirects_will_error(false)
            .input_buffer_size(INPUT_BUFFER)
            .output_buffer_size(OUTPUT_BUFFER)
            .max_idle_connections(1)
            .max_idle_connections_per_host(1)
            .max_idle_age(MAX_IDLE)
            .proxy(proxy)
            .user_agent(concat!("nats-pi-bridge/", env!("CARGO_PKG_VERSION")))
            .build();
        let connector = WatchedConnector::new(self.connector.clone(), watch.clone());
        let agent = Agent::with_parts(config, connector, ServerResolver::default());
        Ok(ServerAgent { server: server.to_string(), agent, watch })
    }

    /// The agent of that server that was used last. Old ones are dropped on the way.
    fn check_out(&self, server: &str) -> Option<ServerAgent> {
        let IdleConnection { agent, rest, .. } = {
            let mut idle = lock(&self.idle);
            idle.retain(|p| p.since.elapsed() < MAX_IDLE);
            let at = idle.iter().rposition(|p| p.agent.server == server)?;
            idle.remove(at)
        };
        agent.watch.limit_until(Instant::now() + FINISH_TIMEOUT);
        finish(rest);
        Some(agent)
    }

    fn keep(&self, agent: ServerAgent, rest: BodyReader<'static>) {
        let mut idle = lock(&self.idle);
        idle.retain(|p| p.since.elapsed() < MAX_IDLE);
        let same = idle.iter().filter(|p| p.agent.server == agent.server).count();
        if same >= MAX_IDLE_PER_SERVER
            && let Some(oldest) = idle.iter().position(|p| p.agent.server == agent.server)
        {
            idle.remove(oldest);
        }
        idle.push(IdleConnection { agent, since: Instant::now(), rest });
    }
}

/// Reads an answer's end, whereupon its connection goes back into the agent. If the end does not come, the connection is
/// closed, and the agent makes another one.
fn finish(mut rest: BodyReader<'static>) {
    let mut buffer = [0; 1024];
    // What follows the last event is a few bytes; an answer that goes on is not worth reading.
    for _ in 0..8 {
        if !matches!(rest.read(&mut buffer), Ok(1..)) {
            return;
        }
    }
}

/// An answer: status, headers, and the body as a reader.
pub(super) struct Response {
    pub status: u16,
    headers: ureq::http::HeaderMap,
    body: BodyReader<'static>,
    agent: ServerAgent,
    http: Arc<Http>,
    cancel: Cancel,
    _guard: OnCancel,
}

impl Response {
    /// The header's value, if it is there and text.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// From here on, all waits for more of the answer together have to end at `end`.
    pub(super) fn limit_until(&self, end: Instant) {
        self.agent.watch.limit_until(end);
    }

    /// Takes note that the answer is complete, whatever may still follow it, and leaves the connection to the next
    /// request. An answer dropped without this closes its connection.
    pub(super) fn complete(self) {
        let Response { body, agent, http, cancel, _guard, .. } = self;
        // From here on, a cancel must not hit whoever uses the connection next; one that came before this has done so.
        drop(_guard);
        if !cancel.is_cancelled() {
            http.keep(agent, body);
        }
    }

    /// The body of a failed request, as far as it arrives soon. The connection is kept if the body ends.
    pub(super) fn into_error_body(mut self) -> String {
        self.agent.watch.limit_until(Instant::now() + ERROR_BODY_TIMEOUT);
        let mut body = Vec::new();
        let whole = (&mut self.body).take(MAX_ERROR_BODY as u64).read_to_end(&mut body).is_ok();
        if whole && body.len() < MAX_ERROR_BODY {
            self.complete();
        }
        String::from_utf8_lossy(&body).into_owned()
    }
}

impl Read for Response {
    /// Errors are of kind `Interrupted` never, `TimedOut` if the server was silent for too long.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.body.read(buffer) {
            // A cancelled read looks like the end of a body that only the end of the connection delimits.
            Ok(0) if self.cancel.is_cancelled() => Err(io::ErrorKind::ConnectionAborted.into()),
            Err(e) if e.get_ref().is_some_and(is_timeout) => {
                Err(io::Error::new(io::ErrorKind::TimedOut, "the server was silent for too long"))
            }
            result => result,
        }
    }
}

fn is_timeout(error: &(dyn std::error::Error + Send + Sync + 'static)) -> bool {
    matches!(error.downcast_ref(), Some(ureq::Error::Timeout(_)))
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "what is left are failures of the connection, and ureq may add more"
)]
fn explain(error: ureq::Error) -> HttpError {
    match error {
        ureq::Error::Timeout(what) => HttpError::TimedOut(what.to_string()),
        ureq::Error::HostNotFound => HttpError::Connection("the host name was not found (getaddrinfo)".to_string()),
        ureq::Error::BadUri(_) | ureq::Error::Http(_) | ureq::Error::InvalidProxyUrl => {
            // Their texts may quote what they complain about, such as a header's value.
            HttpError::Invalid("an address, a header or the proxy setting has a wrong form".to_string())
        }
        ureq::Error::Rustls(_) | ureq::Error::Tls(_) => HttpError::Tls(untrusted(&error)),
        // A handshake's failure comes wrapped.
        ureq::Error::Io(ref e) if e.get_ref().is_some_and(|inner| inner.is::<rustls::Error>()) => {
            HttpError::Tls(untrusted(&error))
        }
        _ => HttpError::Connection(deepest(&error)),
    }
}

/// The text of a TLS error, with what helps where nobody who is trusted stands for the server.
fn untrusted(error: &dyn std::error::Error) -> String {
    let text = deepest(error);
    if text.contains("UnknownIssuer") { format!("{text}; {}", trust_roots::ADVICE) } else { text }
}

/// The error's text, with that of its innermost cause where it is not part of it.
fn deepest(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    let innermost = cause.to_string();
    if !text.contains(&innermost) {
        text = format!("{text}: {innermost}");
    }
    text
}

/// `scheme://host:port` of a URL.
fn server_of(url: &str) -> Option<String> {
    let (scheme, rest) = url.split_once("://")?;
    let authority = rest.split(['/', '?', '#']).next().filter(|a| !a.is_empty())?;
    matches!(scheme, "http" | "https").then(|| format!("{scheme}://{authority}"))
}

/// Whether the URL's host is this machine, by its name or address.
pub(super) fn is_loopback(url: &str) -> bool {
    let Some(server) = server_of(url) else { return false };
    let authority = server.split_once("://").map_or("", |(_, authority)| authority);
    let host = authority.rsplit('@').next().unwrap_or_default();
    let bare = match host.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    bare.eq_ignore_ascii_case("localhost") || bare.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback())
}

#[cfg(test)]
mod tests;
