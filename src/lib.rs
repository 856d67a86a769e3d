//! nats-pi-bridge: a headless host for coding agents.
//!
//! Dependencies between the modules point down: `daemon -> session -> turn -> {model, tools, transcript}`. `nats`
//! translates between the wire and the daemon's commands and events and knows nothing of the model; `model` and `tools`
//! know nothing of NATS or sessions. `cli` is the client `pi-bridge`: it shares the names of the side channel (`socket`) and
//! knows nothing else.
#![deny(unsafe_code)]

pub mod broker;
pub mod cancel;
pub mod cli;
pub mod config;
pub mod contract;
pub mod daemon;
pub mod event_log;
pub mod fault;
pub mod jsonc;
pub mod model;
pub mod nats;
pub mod prompt;
pub mod service;
pub mod session;
pub mod socket;
pub mod startup;
pub mod sys;
pub mod threads;
pub mod tolerant_json;
pub mod tools;
pub mod transcript;
pub mod trust_roots;
pub mod turn;
