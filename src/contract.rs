//! What daemon, sessions and wires say to each other. Types and pure functions only: no I/O, no threads, nothing of a wire.

pub(crate) mod control;
pub(crate) mod denial;
pub(crate) mod documents;
pub(crate) mod environment;
pub(crate) mod error;
pub(crate) mod event;
pub(crate) mod identity;
pub(crate) mod ids;
pub(crate) mod progress;
pub(crate) mod prompt;
pub(crate) mod reply;
pub(crate) mod request;
pub(crate) mod sender;
pub(crate) mod session;
pub(crate) mod wire;
