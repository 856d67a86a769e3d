//! nats-pi-bridge: a headless host for coding agents.
//!
//! Dependencies between the modules point down: `daemon -> session -> turn -> {model, tools, transcript}`. `nats`
//! translates between the wire and the daemon's commands and events and knows nothing of the model; `model` and `tools`
//! know nothing of NATS or sessions. `cli` is the client `pi-bridge`: it shares the names of the side channel (`socket`) and
//! knows nothing else.
#![deny(unsafe_code)]
// Tests make their own files, and know what they are.
#![cfg_attr(not(test), warn(clippy::disallowed_methods))]

pub mod cancel;
pub mod cli;
pub mod clock;
pub mod compact;
pub mod config;
pub mod daemon;
pub mod event_log;
pub mod events;
pub mod fault;
pub mod files;
pub mod ids;
pub mod images;
pub mod json;
pub mod model;
#[expect(clippy::disallowed_methods, reason = "it stands alone, and is handed the function that reads files")]
pub mod nats;
pub mod nats_context;
pub mod prompt;
pub mod questions;
pub mod reply;
pub mod session;
pub mod socket;
pub mod startup;
pub mod state_dir;
pub mod sync;
pub mod sys;
pub mod threads;
pub mod tools;
pub mod transcript;
pub mod trust_roots;
pub mod turn;

pub use json::{comments as jsonc, tolerant as tolerant_json};
