//! Who decides: what a session's gate goes by when it says yes or no. The parts take values and return values or keep files of
//! their own; they know nothing of sessions and wires.

pub(crate) mod audit;
pub(crate) mod budget;
pub(crate) mod call;
mod pattern;
pub(crate) mod rules;
pub(crate) mod shell;
