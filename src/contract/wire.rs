//! What a session asks of the wire that it can be reached on.

/// How a session behaves on NATS; absent = as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WireSettings {
    /// Events are published.
    pub events: Option<bool>,
    /// Callers of the agent protocol are told of tool calls and costs.
    pub tool_status: Option<bool>,
}
