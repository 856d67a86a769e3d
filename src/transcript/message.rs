//! The message model, in the JSON form of PI's session files (version 3).

use super::schema::Schema;
use crate::clock::now_ms;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// One message of a transcript. `timestamp` fields are Unix time in milliseconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "role", rename_all = "camelCase")]
pub enum Message {
    User(UserMessage),
    Assistant(AssistantMessage),
    ToolResult(ToolResultMessage),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UserMessage {
    pub content: Content,
    pub timestamp: i64,
}

/// A user's words: plain text, or blocks where images are among them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Content {
    Text(String),
    Blocks(Vec<Block>),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AssistantMessage {
    pub content: Vec<Block>,
    /// Name of the provider API that was spoken, such as `anthropic-messages`.
    pub api: String,
    pub provider: String,
    /// The model's id as it was asked for.
    pub model: String,
    /// The model's id as the provider reported it, where that differs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response_model: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response_id: Option<String>,
    pub usage: Usage,
    pub stop_reason: StopReason,
    /// What went wrong; present with [`StopReason::Error`] and [`StopReason::Aborted`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_message: Option<String>,
    /// The provider's own word for the end, where it is none that [`StopReason`] stands for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub raw_stop_reason: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thinking_level: Option<String>,
    pub timestamp: i64,
    /// From the request to the end of the stream, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ToolResultMessage {
    pub tool_call_id: String,
    pub tool_name: String,
    pub content: Vec<Block>,
    /// Facts for people and programs; never sent to the model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<Value>,
    pub is_error: bool,
    /// How long the tool ran, in milliseconds; absent if it never began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<u64>,
    pub timestamp: i64,
}

/// One piece of a message.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Block {
    Text {
        text: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        text_signature: Option<String>,
    },
    Thinking {
        thinking: String,
        /// Opaque to us; sent back so that the model can go on from its own thoughts.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        thinking_signature: Option<String>,
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        redacted: bool,
    },
    ToolCall {
        id: String,
        name: String,
        arguments: Map<String, Value>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        thought_signature: Option<String>,
        /// Set when the model's argument text was no JSON object: the reason, with the text received.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        arguments_error: Option<String>,
    },
    Image {
        /// Base64, standard alphabet with padding.
        data: String,
        mime_type: String,
    },
}

impl Block {
    /// Its length in bytes of text, as in [`Message::chars`].
    pub fn chars(&self) -> u64 {
        match self {
            Block::Text { text, .. } => text.len() as u64,
            Block::Thinking { thinking, .. } => thinking.len() as u64,
            Block::ToolCall { name, arguments, .. } => {
                (name.len() + serde_json::to_string(arguments).map_or(0, |json| json.len())) as u64
            }
            Block::Image { .. } => IMAGE_CHARS,
        }
    }

    pub fn text(text: impl Into<String>) -> Block {
        Block::Text { text: text.into(), text_signature: None }
    }

    /// `data` is base64.
    pub fn image(data: String, mime_type: &str) -> Block {
        Block::Image { data, mime_type: mime_type.into() }
    }

    /// The text of a block of text; a thought is none.
    pub(crate) fn as_text(&self) -> Option<&str> {
        if let Block::Text { text, .. } = self { Some(text) } else { None }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum StopReason {
    Stop,
    /// The output limit cut the answer; tool calls in it must not run.
    Length,
    ToolUse,
    Error,
    Aborted,
}

/// Tokens of one request. `input` excludes what was read from or written to the provider's cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Usage {
    pub input: u64,
    pub output: u64,
    pub cache_read: u64,
    pub cache_write: u64,
    /// The part of `cache_write` that is kept for an hour.
    #[serde(rename = "cacheWrite1h", skip_serializing_if = "Option::is_none")]
    pub cache_write_1h: Option<u64>,
    /// The part of `output` that was thinking.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning: Option<u64>,
    pub total_tokens: u64,
    pub cost: Cost,
}

impl std::ops::AddAssign<&Usage> for Usage {
    fn add_assign(&mut self, other: &Usage) {
        for (sum, more) in [
            (&mut self.input, other.input),
            (&mut self.output, other.output),
            (&mut self.cache_read, other.cache_read),
            (&mut self.cache_write, other.cache_write),
            (&mut self.total_tokens, other.total_tokens),
        ] {
            *sum = sum.saturating_add(more);
        }
        for (sum, more) in [(&mut self.cache_write_1h, other.cache_write_1h), (&mut self.reasoning, other.reasoning)] {
            if let Some(more) = more {
                *sum = Some(sum.unwrap_or(0).saturating_add(more));
            }
        }
        let (cost, more) = (&mut self.cost, &other.cost);
        cost.input += more.input;
        cost.output += more.output;
        cost.cache_read += more.cache_read;
        cost.cache_write += more.cache_write;
        cost.total += more.total;
        cost.total_from_provider |= more.total_from_provider;
    }
}

/// US dollars.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Cost {
    pub input: f64,
    pub output: f64,
    pub cache_read: f64,
    pub cache_write: f64,
    pub total: f64,
    /// The provider named the total itself.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub total_from_provider: bool,
}

/// What an image counts for where lengths are compared with a model's context; the PI agent's number.
pub(super) const IMAGE_CHARS: u64 = 4800;

impl Message {
    pub fn user(text: impl Into<String>) -> Message {
        Message::User(UserMessage { content: Content::Text(text.into()), timestamp: now_ms() })
    }

    /// The message's length in bytes of text, which is what its characters are counted by: near enough, and cheap.
    pub fn chars(&self) -> u64 {
        let blocks = match self {
            Message::User(m) => match &m.content {
                Content::Text(text) => return text.len() as u64,
                Content::Blocks(blocks) => blocks,
            },
            Message::Assistant(m) => &m.content,
            Message::ToolResult(m) => &m.content,
        };
        blocks.iter().map(Block::chars).sum()
    }

    /// About what it takes in memory, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        let blocks: &[Block] = match self {
            Message::User(UserMessage { content: Content::Text(text), .. }) => return text.len(),
            Message::User(UserMessage { content: Content::Blocks(blocks), .. }) => blocks,
            Message::Assistant(m) => &m.content,
            Message::ToolResult(m) => &m.content,
        };
        let image = |block: &Block| if let Block::Image { data, .. } = block { data.len() } else { 0 };
        blocks.iter().map(|block| image(block) + usize::try_from(block.chars()).unwrap_or(usize::MAX)).sum()
    }

    /// Whether images are among what a user said or a tool returned.
    pub fn has_images(&self) -> bool {
        let blocks = match self {
            Message::User(UserMessage { content: Content::Blocks(blocks), .. }) => blocks,
            Message::ToolResult(result) => &result.content,
            Message::User(_) | Message::Assistant(_) => return false,
        };
        blocks.iter().any(|block| matches!(block, Block::Image { .. }))
    }

    /// When the message was made, Unix time in milliseconds.
    pub fn timestamp(&self) -> i64 {
        match self {
            Message::User(m) => m.timestamp,
            Message::Assistant(m) => m.timestamp,
            Message::ToolResult(m) => m.timestamp,
        }
    }
}

impl AssistantMessage {
    /// The answer's text: all text blocks, joined without separator.
    pub fn text(&self) -> String {
        self.content.iter().filter_map(Block::as_text).collect()
    }

    /// It answers what was asked, and calls for nothing more.
    pub fn is_final(&self) -> bool {
        matches!(self.stop_reason, StopReason::Stop | StopReason::Length) && !self.has_tool_calls()
    }

    pub fn has_tool_calls(&self) -> bool {
        self.content.iter().any(|b| matches!(b, Block::ToolCall { .. }))
    }
}

/// A tool as it is declared to the model.
#[derive(Clone, Debug)]
pub struct ToolSpec {
    pub name: String,
    pub description: String,
    pub parameters: Schema,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn messages_keep_the_session_files_form() {
        for json in [
            json!({"role":"user","content":"hi","timestamp":1}),
            json!({"role":"user","content":[{"type":"text","text":"hi"},{"type":"image","data":"AA==","mimeType":"image/png"}],"timestamp":1}),
            json!({"role":"toolResult","toolCallId":"t1","toolName":"bash","content":[{"type":"text","text":"ok"}],"isError":false,"timestamp":1}),
            json!({"role":"assistant","content":[{"type":"thinking","thinking":"hm","thinkingSignature":"s"},
                {"type":"toolCall","id":"t1","name":"bash","arguments":{"command":"ls"}}],
                "api":"anthropic-messages","provider":"anthropic","model":"m",
                "usage":{"input":1,"output":2,"cacheRead":0,"cacheWrite":0,"totalTokens":3,
                    "cost":{"input":0.0,"output":0.0,"cacheRead":0.0,"cacheWrite":0.0,"total":0.0}},
                "stopReason":"toolUse","timestamp":1}),
        ] {
            let message: Message = serde_json::from_value(json.clone()).expect("it parses");
            assert_eq!(serde_json::to_value(&message).expect("it serialises"), json);
        }
    }

    #[test]
    fn usage_adds_up_and_never_overflows() {
        let cost = Cost { input: 0.5, total: 1.5, ..Cost::default() };
        let one = Usage { input: 1, output: u64::MAX, reasoning: Some(4), cost, ..Usage::default() };
        let mut sum = one;
        sum += &one;
        assert_eq!((sum.input, sum.output, sum.reasoning, sum.cache_write_1h), (2, u64::MAX, Some(8), None));
        assert_eq!((sum.cost.input, sum.cost.total), (1.0, 3.0));
    }
}
