//! What happens inside a run, as one closed type from which every view of a session is derived.
//!
//! Names and order are those of the PI agent's session events.

use crate::transcript::{Block, Message};
use serde_json::{Map, Value};
use std::sync::Arc;

#[derive(Clone, Debug)]
pub enum AgentEvent {
    /// A run begins: the model is about to be asked.
    AgentStart,
    /// A run ended. With `will_retry` another one follows by itself.
    AgentEnd {
        will_retry: bool,
    },
    /// Nothing happens by itself any more; the answer is complete.
    AgentSettled {
        aborted: bool,
    },
    /// One answer of the model and the tools it calls.
    TurnStart,
    TurnEnd,
    /// An assistant message began to stream.
    MessageStart,
    /// A message is complete and belongs to the transcript.
    MessageEnd(Arc<Message>),
    ToolExecutionStart {
        id: String,
        name: String,
        arguments: Map<String, Value>,
    },
    /// An intermediate result, which replaces the one before.
    ToolExecutionUpdate {
        id: String,
        name: String,
        partial: Vec<Block>,
    },
    ToolExecutionEnd {
        id: String,
        name: String,
        is_error: bool,
        /// Milliseconds; absent if the tool never began.
        duration_ms: Option<u64>,
    },
    AutoRetryStart {
        attempt: u32,
        max_attempts: u32,
        delay_ms: u64,
        error: String,
    },
    AutoRetryEnd {
        success: bool,
        attempt: u32,
        final_error: Option<String>,
    },
}

impl AgentEvent {
    /// The event's name on every wire.
    pub fn name(&self) -> &'static str {
        match self {
            AgentEvent::AgentStart => "agent_start",
            AgentEvent::AgentEnd { .. } => "agent_end",
            AgentEvent::AgentSettled { .. } => "agent_settled",
            AgentEvent::TurnStart => "turn_start",
            AgentEvent::TurnEnd => "turn_end",
            AgentEvent::MessageStart => "message_start",
            AgentEvent::MessageEnd(_) => "message_end",
            AgentEvent::ToolExecutionStart { .. } => "tool_execution_start",
            AgentEvent::ToolExecutionUpdate { .. } => "tool_execution_update",
            AgentEvent::ToolExecutionEnd { .. } => "tool_execution_end",
            AgentEvent::AutoRetryStart { .. } => "auto_retry_start",
            AgentEvent::AutoRetryEnd { .. } => "auto_retry_end",
        }
    }
}
