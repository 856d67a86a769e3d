//! The NATS client against a real nats-server (found in `NATS_SERVER` or the PATH) and against servers that misbehave.

// The peer is kept for being independent of our code, not for new projects.
#![allow(deprecated)]
// A test panics in such an arm.
#![allow(clippy::wildcard_enum_match_arm)]

mod auth;
mod basics;
mod fake;
mod faults;
mod jetstream;
mod keys;
mod probe;
mod server;
