//! What was said in a session: the message model and what is derived from it.

pub mod compaction;
pub mod message;

pub use message::{
    AssistantMessage, Block, Content, Cost, Message, StopReason, ToolResultMessage, ToolSpec, Usage, UserMessage,
    now_ms,
};
