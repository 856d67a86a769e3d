//! What daemon, sessions and wires say to each other. Types and pure functions only: no I/O, no threads, nothing of a wire.

pub mod control;
pub mod documents;
pub mod error;
pub mod event;
pub mod ids;
pub mod prompt;
pub mod reply;
pub mod request;
pub mod sender;
pub mod session;
pub mod wire;
