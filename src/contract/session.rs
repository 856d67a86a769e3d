//! What is known of a session outside its own thread.

use super::identity::{SessionIdentity, SessionState};
use super::progress::{Day, Progress};
use crate::clock::now_ms;
use crate::governance::budget::{Budgets, Ledger, Spent};
use crate::model::{Model, ThinkingLevel};
use crate::sync::lock;
use crate::tools::runner::Sandbox;
use crate::transcript::Usage;
use crossbeam_channel::bounded;
use serde::Serialize;
use serde_json::Value;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::{Duration, Instant};

/// What becomes of an approval that nobody sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unattended {
    /// It is denied at once.
    Deny,
    /// It waits as long as one that somebody sees.
    Wait,
    /// It waits for so long.
    After(Duration),
}

impl Unattended {
    /// Reads the setting.
    pub(crate) fn parse(text: &str) -> Option<Unattended> {
        match text {
            "deny" => Some(Unattended::Deny),
            "wait" => Some(Unattended::Wait),
            seconds => seconds.parse().ok().map(|seconds: u32| Unattended::After(Duration::from_secs(seconds.into()))),
        }
    }
}

/// What of a session can be changed while it lives.
#[derive(Clone)]
pub(crate) struct SessionSettings {
    pub model: Arc<Model>,
    pub thinking: ThinkingLevel,
    /// A name for people; not the id.
    pub name: Option<String>,
    /// From creation or from the last extension; zero means no end.
    pub max_lifetime: Duration,
    /// When the session has to end.
    pub deadline: Option<Instant>,
    /// What the tools are confined to; never less than before.
    pub sandbox: Arc<Sandbox>,
    /// Where the transcript is kept; absent = nowhere.
    pub file: Option<PathBuf>,
}

/// Figures that the session keeps up to date and others read at any time.
pub(crate) struct SessionStats {
    settings: Mutex<SessionSettings>,
    running: AtomicBool,
    queued: AtomicUsize,
    pending: AtomicUsize,
    leaving: AtomicBool,
    listeners: AtomicUsize,
    prompts: AtomicU64,
    errors: AtomicU64,
    input: AtomicU64,
    output: AtomicU64,
    cache_read: AtomicU64,
    cache_write: AtomicU64,
    /// Billionths of a US dollar.
    cost: AtomicU64,
    last_activity_ms: AtomicI64,
    pub progress: Progress,
    spending: Mutex<Spending>,
    /// Why what others wrote down of this is out of date, and whom to wake then.
    outdated: Mutex<Option<&'static str>>,
    watcher: OnceLock<Arc<dyn Watcher>>,
    /// What others have written down says that it is idle. Nobody has written anything down while there is no watcher.
    shown_idle: AtomicBool,
}

/// What may be spent in the session, and what was.
#[derive(Clone, Default)]
struct Spending {
    budgets: Budgets,
    spent: Spent,
    /// Knows what others spend on the same day.
    ledger: Option<Arc<Ledger>>,
}

/// Writes down where clients find sessions, and what they do.
pub(crate) trait Watcher: Send + Sync {
    /// Something changed; it will be written down soon.
    fn outdated(&self);
    /// Does `then`, which must not wait, once everything that is true now is written down.
    fn when_written(&self, then: Box<dyn FnOnce() + Send>);
}

impl SessionStats {
    /// The session as its registry row has it, at this moment.
    pub(crate) fn state(&self, identity: &Arc<SessionIdentity>, running: bool) -> SessionState {
        let SessionSettings { file, name, model, thinking, .. } = self.settings();
        SessionState {
            identity: identity.clone(),
            file,
            name,
            model,
            thinking,
            is_idle: !running,
            has_pending_messages: self.queued() + self.pending() > 0,
        }
    }

    pub(crate) fn new(settings: SessionSettings) -> SessionStats {
        SessionStats {
            settings: Mutex::new(settings),
            running: AtomicBool::default(),
            queued: AtomicUsize::default(),
            pending: AtomicUsize::default(),
            leaving: AtomicBool::default(),
            listeners: AtomicUsize::default(),
            prompts: AtomicU64::default(),
            errors: AtomicU64::default(),
            input: AtomicU64::default(),
            output: AtomicU64::default(),
            cache_read: AtomicU64::default(),
            cache_write: AtomicU64::default(),
            cost: AtomicU64::default(),
            last_activity_ms: AtomicI64::new(now_ms()),
            progress: Progress::default(),
            spending: Mutex::default(),
            outdated: Mutex::default(),
            watcher: OnceLock::new(),
            shown_idle: AtomicBool::new(true),
        }
    }

    fn lock(&self) -> MutexGuard<'_, SessionSettings> {
        lock(&self.settings)
    }

    /// What may be spent in the session.
    pub(crate) fn budgets(&self) -> Budgets {
        lock(&self.spending).budgets
    }

    pub(crate) fn set_budgets(&self, budgets: Budgets) {
        lock(&self.spending).budgets = budgets;
    }

    pub(crate) fn set_ledger(&self, ledger: Arc<Ledger>) {
        lock(&self.spending).ledger = Some(ledger);
    }

    pub(crate) fn set_spent(&self, spent: Spent) {
        lock(&self.spending).spent = spent;
    }

    /// What may be spent and what was, as documents have it; `None` where nothing is limited.
    pub(crate) fn budget_figures(&self) -> Option<Value> {
        let Spending { budgets, spent, ledger } = lock(&self.spending).clone();
        let spent = ledger.map_or(spent, |ledger| spent.on_day(ledger.spent_today()));
        (!budgets.is_empty()).then(|| budgets.figures(&spent))
    }

    /// What is in force now.
    pub(crate) fn settings(&self) -> SessionSettings {
        self.lock().clone()
    }

    /// Changes what is in force. Only the session's own thread does so.
    pub(crate) fn change(&self, change: impl FnOnce(&mut SessionSettings)) {
        let mut settings = self.lock();
        let before = settings.clone();
        change(&mut settings);
        let reason = if before.model.spec() != settings.model.spec() {
            "model_select"
        } else if before.thinking != settings.thinking {
            "thinking_level_select"
        } else if before.name != settings.name {
            "session_info_changed"
        } else {
            return;
        };
        drop(settings);
        self.outdated(reason);
    }

    /// Tells somebody, from now on, when what can be written down about the session changes. Only the first call counts.
    pub(crate) fn watch(&self, watcher: Arc<dyn Watcher>) {
        self.shown_idle.store(false, SeqCst);
        let _ = self.watcher.set(watcher);
    }

    /// Whether the session works on something, for somebody who writes it down.
    pub(crate) fn show_running(&self) -> bool {
        // In this order, so that a session that is done in between waits for what will be written.
        self.shown_idle.store(false, SeqCst);
        let running = self.running.load(SeqCst);
        self.shown_idle.store(!running, SeqCst);
        running
    }

    /// Waits, for `timeout` at most, until those who look it up find an idle session idle. Prompts that are over before
    /// anything is written down wait for nothing.
    pub(crate) fn wait_until_shown_idle(&self, timeout: Duration) {
        if self.running.load(SeqCst) || self.shown_idle.load(SeqCst) {
            return;
        }
        if let Some(watcher) = self.watcher.get() {
            let (written, wait) = bounded::<()>(0);
            watcher.when_written(Box::new(move || drop(written)));
            let _ = wait.recv_timeout(timeout);
        }
    }

    /// What was written down about the session is out of date; `reason` is the event that did it.
    pub(crate) fn outdated(&self, reason: &'static str) {
        *lock(&self.outdated) = Some(reason);
        if let Some(watcher) = self.watcher.get() {
            watcher.outdated();
        }
    }

    /// Why what was written down is out of date, if it is; it counts as brought up to date with this call.
    pub(crate) fn take_outdated(&self) -> Option<&'static str> {
        lock(&self.outdated).take()
    }

    /// When the session has to end.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.lock().deadline
    }

    /// Something happened just now.
    pub(crate) fn touch(&self) {
        self.last_activity_ms.store(now_ms(), Relaxed);
    }

    pub(crate) fn set_running(&self, running: bool) {
        if self.running.swap(running, SeqCst) != running {
            self.outdated(if running { "agent_start" } else { "agent_end" });
        }
    }

    pub(crate) fn set_queued(&self, prompts: usize) {
        self.queued.store(prompts, Relaxed);
    }

    /// Messages that wait to be taken into a running prompt.
    pub(crate) fn set_pending(&self, messages: usize) {
        self.pending.store(messages, Relaxed);
    }

    /// The session waits for its turn to come to a gate, to be gone on with by another process.
    pub(crate) fn set_leaving(&self, leaving: bool) {
        self.leaving.store(leaving, Relaxed);
    }

    /// The turn has to ask at each gate, whether or not anything waits.
    pub(crate) fn leaving(&self) -> bool {
        self.leaving.load(Relaxed)
    }

    pub(crate) fn set_listeners(&self, listeners: usize) {
        self.listeners.store(listeners, Relaxed);
    }

    /// Somebody listens, so that even the smallest events are worth telling.
    pub(crate) fn listened_to(&self) -> bool {
        self.listeners.load(Relaxed) > 0
    }

    pub(crate) fn count_prompt(&self) {
        self.prompts.fetch_add(1, Relaxed);
    }

    pub(crate) fn count_error(&self) {
        self.errors.fetch_add(1, Relaxed);
    }

    pub(crate) fn add_usage(&self, usage: &Usage) {
        self.progress.add_usage(usage);
        self.sum_up(usage);
    }

    fn sum_up(&self, usage: &Usage) {
        self.input.fetch_add(usage.input, Relaxed);
        self.output.fetch_add(usage.output, Relaxed);
        self.cache_read.fetch_add(usage.cache_read, Relaxed);
        self.cache_write.fetch_add(usage.cache_write, Relaxed);
        self.cost.fetch_add((usage.cost.total.max(0.0) * 1e9).round() as u64, Relaxed);
    }

    pub(crate) fn running(&self) -> bool {
        self.running.load(Relaxed)
    }

    pub(crate) fn queued(&self) -> usize {
        self.queued.load(Relaxed)
    }

    /// Messages that wait to be taken into a running prompt.
    pub(crate) fn pending(&self) -> usize {
        self.pending.load(Relaxed)
    }

    pub(crate) fn prompts(&self) -> u64 {
        self.prompts.load(Relaxed)
    }

    pub(crate) fn errors(&self) -> u64 {
        self.errors.load(Relaxed)
    }

    /// Input, output, cache-read and cache-write tokens of all requests, failed ones included.
    pub(crate) fn tokens(&self) -> [u64; 4] {
        [&self.input, &self.output, &self.cache_read, &self.cache_write].map(|n| n.load(Relaxed))
    }

    /// US dollars.
    pub(crate) fn cost(&self) -> f64 {
        self.cost.load(Relaxed) as f64 / 1e9
    }

    /// The figures of all prompts so far, to be kept over a restart.
    pub(crate) fn totals(&self, messages: usize) -> Totals {
        let [input, output, cache_read, cache_write] = self.tokens();
        Totals {
            prompts: self.prompts(),
            errors: self.errors(),
            input,
            output,
            cache_read,
            cache_write,
            cost: self.cost(),
            messages,
            today: self.progress.today(),
        }
    }

    /// Takes up figures that [`SessionStats::totals`] made.
    pub(crate) fn restore(&self, totals: &Value) {
        for (figure, key) in [
            (&self.prompts, "prompts"),
            (&self.errors, "errors"),
            (&self.input, "input"),
            (&self.output, "output"),
            (&self.cache_read, "cacheRead"),
            (&self.cache_write, "cacheWrite"),
        ] {
            figure.store(totals[key].as_u64().unwrap_or_default(), Relaxed);
        }
        let cost = totals["cost"].as_f64().unwrap_or_default();
        self.cost.store((cost.max(0.0) * 1e9).round() as u64, Relaxed);
        self.progress.restore(&totals["today"]);
    }

    /// Takes up what a session file says about the requests in it.
    pub(crate) fn restore_usage(&self, usage: &Usage) {
        for figure in [&self.input, &self.output, &self.cache_read, &self.cache_write, &self.cost] {
            figure.store(0, Relaxed);
        }
        self.sum_up(usage);
    }

    /// Unix time in milliseconds.
    pub(crate) fn last_activity_ms(&self) -> i64 {
        self.last_activity_ms.load(Relaxed)
    }
}

/// The figures of all prompts so far, as a session file has them.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Totals {
    prompts: u64,
    errors: u64,
    input: u64,
    output: u64,
    cache_read: u64,
    cache_write: u64,
    cost: f64,
    messages: usize,
    today: Day,
}
