//! The transcript of a session: the message model, the session file, and what is derived from both.

pub mod compaction;
pub mod contents;
pub mod elide;
pub mod locate;
pub mod message;
pub mod restore;
pub mod session_file;
pub mod shorten;
pub mod stored_message;

pub use crate::clock::{iso_time, now_ms};
pub use crate::json::object;
pub use message::{
    AssistantMessage, Block, Content, Cost, Message, StopReason, ToolResultMessage, ToolSpec, Usage, UserMessage,
};
