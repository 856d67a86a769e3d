//! What is known of a session outside its own thread.

use crate::model::{Model, ThinkingLevel};
use crate::transcript::{Usage, now_ms};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// What a session was created with; never changes.
pub struct Info {
    pub id: String,
    /// Identifies this one life of the session: to discovery, to the model's prompt cache, to commands.
    pub instance_id: String,
    /// A named session stays until it is stopped or expires; another one ends with its only prompt.
    pub named: bool,
    pub cwd: PathBuf,
    pub model: Arc<Model>,
    pub thinking: ThinkingLevel,
    /// The label that the creator gave itself.
    pub from: Option<String>,
    /// Zero means no end.
    pub max_lifetime: Duration,
    pub created: Instant,
    /// Unix time in milliseconds.
    pub created_ms: i64,
}

impl Info {
    /// When the session has to end.
    pub fn deadline(&self) -> Option<Instant> {
        if self.max_lifetime.is_zero() { None } else { self.created.checked_add(self.max_lifetime) }
    }
}

/// Figures that the session keeps up to date and others read at any time.
#[derive(Debug, Default)]
pub struct Facts {
    running: AtomicBool,
    queued: AtomicUsize,
    prompts: AtomicU64,
    errors: AtomicU64,
    input: AtomicU64,
    output: AtomicU64,
    cache_read: AtomicU64,
    cache_write: AtomicU64,
    /// Billionths of a US dollar.
    cost: AtomicU64,
    last_activity_ms: AtomicI64,
}

impl Facts {
    pub fn new() -> Facts {
        let facts = Facts::default();
        facts.touch();
        facts
    }

    /// Something happened just now.
    pub fn touch(&self) {
        self.last_activity_ms.store(now_ms(), Relaxed);
    }

    pub fn set_running(&self, running: bool) {
        self.running.store(running, Relaxed);
    }

    pub fn set_queued(&self, prompts: usize) {
        self.queued.store(prompts, Relaxed);
    }

    pub fn count_prompt(&self) {
        self.prompts.fetch_add(1, Relaxed);
    }

    pub fn count_error(&self) {
        self.errors.fetch_add(1, Relaxed);
    }

    pub fn add_usage(&self, usage: &Usage) {
        self.input.fetch_add(usage.input, Relaxed);
        self.output.fetch_add(usage.output, Relaxed);
        self.cache_read.fetch_add(usage.cache_read, Relaxed);
        self.cache_write.fetch_add(usage.cache_write, Relaxed);
        self.cost.fetch_add((usage.cost.total.max(0.0) * 1e9).round() as u64, Relaxed);
    }

    pub fn running(&self) -> bool {
        self.running.load(Relaxed)
    }

    pub fn queued(&self) -> usize {
        self.queued.load(Relaxed)
    }

    pub fn prompts(&self) -> u64 {
        self.prompts.load(Relaxed)
    }

    pub fn errors(&self) -> u64 {
        self.errors.load(Relaxed)
    }

    /// Input, output, cache-read and cache-write tokens of all requests, failed ones included.
    pub fn tokens(&self) -> [u64; 4] {
        [&self.input, &self.output, &self.cache_read, &self.cache_write].map(|n| n.load(Relaxed))
    }

    /// US dollars.
    pub fn cost(&self) -> f64 {
        self.cost.load(Relaxed) as f64 / 1e9
    }

    /// Unix time in milliseconds.
    pub fn last_activity_ms(&self) -> i64 {
        self.last_activity_ms.load(Relaxed)
    }
}
