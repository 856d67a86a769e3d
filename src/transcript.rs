//! The transcript of a session: the message model, the session file, and what is derived from both.

pub(crate) mod compaction;
pub(crate) mod contents;
pub(crate) mod elide;
pub(crate) mod locate;
pub(crate) mod message;
pub(crate) mod restore;
pub(crate) mod schema;
pub(crate) mod session_file;
pub(crate) mod shorten;
pub(crate) mod stored_message;

pub(crate) use message::{AssistantMessage, Cost, StopReason, ToolResultMessage, ToolSpec, Usage};
pub use message::{Block, Content, Message, UserMessage};
pub(crate) use schema::Schema;
