//! Refreshing the sign-ins that PI keeps in `auth.json`, where the configuration names an endpoint for it. No vendor's
//! client id is built in: that would present this program as the vendor's own.
//!
//! Refresh tokens are good for one use as a rule, and PI and other daemons share the file. So there is one refresh at a
//! time per provider here, and one among processes by PI's lock; it runs on a thread of its own, to its end, whatever
//! becomes of the request that needed it.

mod auth_file;
mod endpoint;
mod lock;

use super::http::{Http, Timeouts};
use super::request::{Failure, RequestError};
use crate::cancel::Cancel;
use crate::clock::now_ms;
use crate::sync::lock;
use crate::threads;
use auth_file::{AuthDocument, Replacement, SignIn};
use crossbeam_channel::{Receiver, Sender, bounded, select};
pub(crate) use endpoint::Endpoints;
pub(super) use endpoint::VENDOR_ONLY;
use endpoint::{Endpoint, Renewed};
use lock::Lock;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io::Read;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::{Duration, Instant};

/// A token is refreshed when it ends within this time, in milliseconds; as PI does it.
const MARGIN_MS: i64 = 5 * 60_000;
/// How long an endpoint has for its answer, all included; as PI has it.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);
/// The largest answer, in bytes. Tokens have a few KiB at most.
const MAX_ANSWER: u64 = 256 << 10;
/// After a failure, a token that is still good is used for this long before the endpoint is asked again.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(30);
/// How long the end of this process waits for answers that are on their way: for one, and for the file.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(20);

/// Whether a token that ends then has to be refreshed.
pub(super) fn is_due(expires_ms: i64, now_ms: i64) -> bool {
    now_ms.saturating_add(MARGIN_MS) >= expires_ms
}

/// Refreshes sign-ins. Dropping it waits for refreshes that have begun, as what they get would be lost.
pub(super) struct Refresher(Arc<SharedRefresher>);

struct SharedRefresher {
    /// `auth.json`.
    path: PathBuf,
    endpoints: Endpoints,
    http: Arc<Http>,
    state: Mutex<State>,
    /// Cancelled when this process ends: refreshes that still wait for the lock give up.
    closing: Cancel,
}

#[derive(Default)]
struct State {
    /// The refreshes in progress, by provider.
    running: BTreeMap<String, Running>,
    /// When refreshing failed last, by provider.
    failed: BTreeMap<String, Instant>,
}

#[derive(Clone)]
struct Running {
    result: Arc<OnceLock<Result<(), RefreshError>>>,
    /// Disconnected when it is over.
    over: Receiver<Infallible>,
}

/// Why a sign-in was not refreshed, and what to do. Holds no secret.
#[derive(Clone, Debug, Default)]
struct RefreshError {
    text: String,
    /// HTTP status of the endpoint's answer, if there was one.
    status: Option<u16>,
}

impl RefreshError {
    fn new(text: impl Into<String>) -> RefreshError {
        RefreshError { text: text.into(), status: None }
    }
}

impl Refresher {
    pub(super) fn new(path: PathBuf, endpoints: Endpoints, http: Arc<Http>) -> Refresher {
        Refresher(Arc::new(SharedRefresher { path, endpoints, http, state: Mutex::default(), closing: Cancel::new() }))
    }

    /// Whether the configuration says where the provider's sign-in is refreshed.
    pub(super) fn serves(&self, provider: &str) -> bool {
        self.0.endpoints.get(provider).is_some()
    }

    /// Has the provider's sign-in refreshed in `auth.json`; waits for it. With `usable` its present token is still good, so
    /// that a failure is no more than a line in the log.
    ///
    /// # Errors
    ///
    /// Names the provider and the fix, or `cancel` came first, at which the refresh goes on.
    pub(super) fn refresh(&self, provider: &str, usable: bool, cancel: &Cancel) -> Result<(), RequestError> {
        let running = match self.0.join(provider, usable) {
            None => return Ok(()),
            Some(running) => running.map_err(|e| RefreshError::new(format!("no thread for it: {e}"))),
        };
        let result = running.and_then(|running| {
            // The action owns a sender, which goes with it.
            let (aborted, abort) = bounded::<Infallible>(0);
            let _guard = cancel.on_cancel(move || drop(aborted));
            select! {
                recv(running.over) -> _ => {}
                recv(abort) -> _ => {}
            }
            let ended_otherwise = || Err(RefreshError::new("it ended unexpectedly"));
            running.result.get().cloned().unwrap_or_else(ended_otherwise)
        });
        match result {
            Err(_) if cancel.is_cancelled() => Err(RequestError::aborted()),
            Err(error) if usable => {
                log::warn!("OAuth refresh failed for {provider}: {}; the token is still good for a while", error.text);
                Ok(())
            }
            Err(RefreshError { text, status }) => Err(RequestError {
                facts: Failure { status, ..Failure::default() },
                ..RequestError::new(format!("OAuth refresh failed for {provider}: {text}"))
            }),
            Ok(()) => Ok(()),
        }
    }
}

impl Drop for Refresher {
    fn drop(&mut self) {
        self.0.closing.cancel();
        let end = Instant::now() + CLOSE_TIMEOUT;
        let running = std::mem::take(&mut self.0.state().running);
        for (provider, running) in running {
            log::info!("waiting for the sign-in of {provider}");
            let _ = running.over.recv_deadline(end);
        }
    }
}

/// The end of a refresh, however it comes about: those who wait go on, and the next one may begin.
struct End {
    shared: Arc<SharedRefresher>,
    provider: String,
    // Goes last: who goes on must not find this refresh again.
    _over: Sender<Infallible>,
}

impl Drop for End {
    fn drop(&mut self) {
        self.shared.state().running.remove(&self.provider);
    }
}

impl SharedRefresher {
    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// The provider's refresh, which is begun if there is none. `None` if it failed just now and there is no hurry.
    fn join(self: &Arc<SharedRefresher>, provider: &str, usable: bool) -> Option<std::io::Result<Running>> {
        let mut state = self.state();
        if let Some(running) = state.running.get(provider) {
            return Some(Ok(running.clone()));
        }
        if usable && state.failed.get(provider).is_some_and(|then| then.elapsed() < PAUSE_AFTER_FAILURE) {
            return None;
        }
        let (over, ends) = bounded(0);
        let running = Running { result: Arc::default(), over: ends };
        let (shared, name, result) = (self.clone(), provider.to_string(), running.result.clone());
        let thread = threads::spawn("oauth", threads::TURN_STACK, move || {
            // Made here, because it waits for the state, which is held until the thread has been entered there.
            let end = End { shared, provider: name, _over: over };
            let outcome = end.shared.run(&end.provider);
            match outcome {
                Ok(()) => end.shared.state().failed.remove(&end.provider),
                Err(_) => end.shared.state().failed.insert(end.provider.clone(), Instant::now()),
            };
            let _ = result.set(outcome);
        });
        match thread {
            // It goes on when nobody waits for it any more; `Refresher` waits at last.
            Ok(thread) => thread.abandon(),
            Err(e) => return Some(Err(e)),
        }
        state.running.insert(provider.to_string(), running.clone());
        Some(Ok(running))
    }

    /// Refreshes the provider's sign-in, unless another process has done so by the time the file is ours.
    fn run(&self, provider: &str) -> Result<(), RefreshError> {
        let failed = |e: std::io::Error| RefreshError::new(format!("{}: {e}", self.path.display()));
        let path = self.path.canonicalize().map_err(failed)?;
        let _lock = Lock::acquire(&path, &self.closing).map_err(RefreshError::new)?;
        let file = AuthDocument::read(&path).map_err(RefreshError::new)?;
        let sign_in = file.sign_in(provider).filter(|sign_in| is_due(sign_in.expires, now_ms()));
        let (Some(sign_in), Some(endpoint)) = (sign_in, self.endpoints.get(provider)) else { return Ok(()) };
        let replacement = Replacement::prepare(&path).map_err(failed)?;
        let renewed = self.ask(provider, endpoint, &sign_in)?;
        // Who edits the file by hand takes no lock, so it is read again. What is half written then counts for nothing.
        let mut file = AuthDocument::read(&path).unwrap_or(file);
        if !file.renew(provider, &sign_in.refresh, &renewed) {
            log::info!("the sign-in of {provider} was changed by another while it was refreshed");
            return Ok(());
        }
        replacement.finish(&file.text()).map_err(|e| {
            let path = self.path.display();
            RefreshError::new(format!("the new sign-in could not be written to {path} ({e}): sign in again with PI"))
        })?;
        log::info!("the sign-in of {provider} was refreshed");
        Ok(())
    }

    /// Asks the endpoint for new tokens.
    fn ask(&self, provider: &str, endpoint: &Endpoint, sign_in: &SignIn) -> Result<Renewed, RefreshError> {
        let unreachable = |e: &dyn std::fmt::Display| {
            RefreshError::new(format!("{e}: check the network, and \"oauthRefresh\" in the configuration"))
        };
        let (content_type, body) = endpoint.request(provider, &sign_in.refresh);
        let headers = [("content-type", content_type), ("accept", "application/json")];
        let headers = headers.map(|(name, value)| (name.to_string(), value.to_string()));
        let timeouts = Timeouts { first_byte: ANSWER_TIMEOUT, idle: ANSWER_TIMEOUT, total: Some(ANSWER_TIMEOUT) };
        // Nothing cancels this: the endpoint may have spent the refresh token already.
        let sent = self.http.post(&endpoint.token_url, &headers, &body, timeouts, &Cancel::new());
        let mut response = sent.map_err(|e| unreachable(&e))?;
        let status = response.status;
        if !(200..300).contains(&status) {
            let said = endpoint::error_text(&response.into_error_body(), &[&sign_in.access, &sign_in.refresh]);
            let said = if said.is_empty() { String::new() } else { format!(" {said}") };
            let path = self.path.display();
            let text =
                format!("the endpoint answered {status}{said}: sign in again with PI, or store an API key in {path}");
            return Err(RefreshError { text, status: Some(status) });
        }
        let mut answer = Vec::new();
        (&mut response).take(MAX_ANSWER).read_to_end(&mut answer).map_err(|e| unreachable(&e))?;
        endpoint::renewed(provider, &answer, now_ms()).map_err(|e| unreachable(&e))
    }
}

#[cfg(test)]
mod tests;
