//! What happens inside a session, as one closed type from which replies, the event log and the session file are derived.
//!
//! Names, order and JSON forms are those of the PI agent's session events.

use crate::contract::identity::SessionState;
use crate::contract::sender::AgentSender;
use crate::event_log::Content;
use crate::json::object;
use crate::model::ThinkingLevel;
use crate::tools::ChangedFiles;
use crate::tools::runner::Sandbox;
use crate::transcript::{Block, Message};
use serde::Serialize;
use serde_json::{Map, Value, json};
use std::path::PathBuf;
use std::sync::Arc;

#[derive(Clone, Debug)]
pub(crate) enum AgentEvent {
    /// A run begins: the model is about to be asked.
    AgentStart,
    /// A run ended, with the messages that it added. With `will_retry` another one follows by itself.
    AgentEnd {
        messages: Vec<Arc<Message>>,
        will_retry: bool,
    },
    /// Nothing happens by itself any more; the answer is complete.
    AgentSettled {
        aborted: bool,
    },
    /// One answer of the model and the tools it calls; counted from 0 in each run.
    TurnStart {
        index: u64,
    },
    TurnEnd {
        index: u64,
        /// The model's answer; absent if the turn ended before there was one.
        message: Option<Arc<Message>>,
        results: Vec<Arc<Message>>,
    },
    /// A message began; an assistant's has no content yet.
    MessageStart(Arc<Message>),
    /// A piece of the assistant's message. Only told while somebody listens.
    MessageUpdate(Delta),
    /// A message is complete and belongs to the transcript.
    MessageEnd(Arc<Message>),
    ToolExecutionStart {
        id: String,
        name: String,
        arguments: Map<String, Value>,
        /// What the tool is confined to, if it is.
        sandbox: Option<Arc<Sandbox>>,
    },
    /// An intermediate result, which replaces the one before. Only told while somebody listens.
    ToolExecutionUpdate {
        id: String,
        name: String,
        partial: Vec<Block>,
    },
    ToolExecutionEnd {
        id: String,
        name: String,
        content: Vec<Block>,
        details: Option<Value>,
        is_error: bool,
        /// Milliseconds; absent if the tool never began.
        duration_ms: Option<u64>,
        /// What the tool was confined to, if it was.
        sandbox: Option<Arc<Sandbox>>,
    },
    /// A call has changed files that make programs run later, outside of its sandbox: hooks, settings, builds.
    SensitiveFilesChanged {
        id: String,
        name: String,
        /// Within the working folder.
        paths: Vec<PathBuf>,
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
    /// The messages that wait to be taken into the run, all of them.
    QueueUpdate {
        steering: Vec<String>,
        follow_up: Vec<String>,
    },
    CompactionStart {
        reason: CompactionReason,
    },
    CompactionEnd {
        reason: CompactionReason,
        /// What became of it: the fields of the session file's compaction entry.
        result: Option<Value>,
        aborted: bool,
        will_retry: bool,
        error: Option<String>,
    },
    /// A request for a summary failed and is sent again after a delay.
    SummarizationRetryScheduled {
        attempt: u32,
        max_attempts: u32,
        delay_ms: u64,
        error: String,
    },
    /// The delay is over.
    SummarizationRetryAttemptStart {
        reason: CompactionReason,
    },
    /// There is a summary, or nothing more is done to get one.
    SummarizationRetryFinished,
    /// The session got a name, or lost it.
    SessionInfoChanged {
        name: Option<String>,
    },
    ModelSelect {
        model: Value,
        previous: Value,
    },
    ThinkingLevelSelect {
        level: ThinkingLevel,
        previous: ThinkingLevel,
    },
    /// A message arrived from outside.
    Input {
        text: String,
        images: usize,
        source: &'static str,
        /// `steer` or `followUp`, if it was not simply the next prompt.
        behavior: Option<&'static str>,
        from: Option<String>,
        /// Who sent it, where that is told in a way that can be proved.
        sender: Option<Box<AgentSender>>,
    },
    /// A question to a person was opened, answered or rejected; the payload is the `questions` module's.
    Question(Value),
    /// The session is there.
    BridgeStart(Box<SessionState>),
    /// The session is over.
    BridgeStop {
        reason: &'static str,
    },
    /// Nothing more comes of prompts that were accepted.
    Settled(Box<SettledPrompts>),
    /// Another event of the side channel itself, such as `bridge_emit`.
    Bridge {
        name: &'static str,
        data: Value,
    },
}

/// How accepted prompts ended.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SettledPrompts {
    pub reason: &'static str,
    pub prompt_ids: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// [`ReplyError::document`](super::error::ReplyError::document).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<Value>,
    pub duration_ms: u64,
    pub tool_calls: u64,
    #[serde(flatten)]
    pub changed: ChangedFiles,
}

/// Why a session's context is made smaller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CompactionReason {
    Manual,
    Threshold,
    Overflow,
}

impl CompactionReason {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            CompactionReason::Manual => "manual",
            CompactionReason::Threshold => "threshold",
            CompactionReason::Overflow => "overflow",
        }
    }
}

/// A piece of an assistant's message.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Delta {
    pub kind: DeltaKind,
    /// Which block of the message.
    pub index: usize,
    /// Text, or a fragment of the arguments' JSON; empty for beginnings and ends.
    pub text: String,
    /// The call's id and the tool's name, with the beginning of a tool call.
    pub call: Option<(String, String)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DeltaKind {
    TextStart,
    Text,
    TextEnd,
    ThinkingStart,
    Thinking,
    ThinkingEnd,
    ToolCallStart,
    ToolCall,
    ToolCallEnd,
}

impl DeltaKind {
    fn as_str(self) -> &'static str {
        match self {
            DeltaKind::TextStart => "text_start",
            DeltaKind::Text => "text_delta",
            DeltaKind::TextEnd => "text_end",
            DeltaKind::ThinkingStart => "thinking_start",
            DeltaKind::Thinking => "thinking_delta",
            DeltaKind::ThinkingEnd => "thinking_end",
            DeltaKind::ToolCallStart => "toolcall_start",
            DeltaKind::ToolCall => "toolcall_delta",
            DeltaKind::ToolCallEnd => "toolcall_end",
        }
    }
}

impl AgentEvent {
    /// The event's name on every wire.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            AgentEvent::AgentStart => "agent_start",
            AgentEvent::AgentEnd { .. } => "agent_end",
            AgentEvent::AgentSettled { .. } => "agent_settled",
            AgentEvent::TurnStart { .. } => "turn_start",
            AgentEvent::TurnEnd { .. } => "turn_end",
            AgentEvent::MessageStart(_) => "message_start",
            AgentEvent::MessageUpdate(_) => "message_update",
            AgentEvent::MessageEnd(_) => "message_end",
            AgentEvent::ToolExecutionStart { .. } => "tool_execution_start",
            AgentEvent::ToolExecutionUpdate { .. } => "tool_execution_update",
            AgentEvent::ToolExecutionEnd { .. } => "tool_execution_end",
            AgentEvent::SensitiveFilesChanged { .. } => "sensitive_files_changed",
            AgentEvent::AutoRetryStart { .. } => "auto_retry_start",
            AgentEvent::AutoRetryEnd { .. } => "auto_retry_end",
            AgentEvent::QueueUpdate { .. } => "queue_update",
            AgentEvent::CompactionStart { .. } => "compaction_start",
            AgentEvent::CompactionEnd { .. } => "compaction_end",
            AgentEvent::SummarizationRetryScheduled { .. } => "summarization_retry_scheduled",
            AgentEvent::SummarizationRetryAttemptStart { .. } => "summarization_retry_attempt_start",
            AgentEvent::SummarizationRetryFinished => "summarization_retry_finished",
            AgentEvent::SessionInfoChanged { .. } => "session_info_changed",
            AgentEvent::ModelSelect { .. } => "model_select",
            AgentEvent::ThinkingLevelSelect { .. } => "thinking_level_select",
            AgentEvent::Input { .. } => "input",
            AgentEvent::Question(_) => "question",
            AgentEvent::BridgeStart(_) => "bridge_start",
            AgentEvent::BridgeStop { .. } => "bridge_stop",
            AgentEvent::Settled(_) => "settled",
            AgentEvent::Bridge { name, .. } => name,
        }
    }

    /// The event's payload, with its name as `type`.
    pub(crate) fn to_json(&self) -> Value {
        let mut payload = Map::new();
        payload.insert("type".into(), json!(self.name()));
        let mut put = |key: &str, value: Value| {
            if !value.is_null() {
                payload.insert(key.into(), value);
            }
        };
        match self {
            AgentEvent::AgentStart | AgentEvent::SummarizationRetryFinished => {}
            AgentEvent::AgentEnd { messages, will_retry } => {
                put("messages", list(messages));
                put("willRetry", json!(will_retry));
            }
            AgentEvent::AgentSettled { aborted } => put("aborted", json!(aborted)),
            AgentEvent::TurnStart { index } => put("turnIndex", json!(index)),
            AgentEvent::TurnEnd { index, message, results } => {
                put("turnIndex", json!(index));
                put("message", message.as_deref().map_or(Value::Null, document));
                put("toolResults", list(results));
            }
            AgentEvent::MessageStart(message) | AgentEvent::MessageEnd(message) => put("message", document(message)),
            AgentEvent::MessageUpdate(delta) => {
                put("message", json!({"role": "assistant"}));
                put("assistantMessageEvent", delta.to_json());
            }
            AgentEvent::ToolExecutionStart { id, name, arguments, sandbox } => {
                put("toolCallId", json!(id));
                put("toolName", json!(name));
                put("args", Value::Object(arguments.clone()));
                sandbox.iter().for_each(|sandbox| put("sandbox", sandbox.facts()));
            }
            AgentEvent::ToolExecutionUpdate { id, name, partial } => {
                put("toolCallId", json!(id));
                put("toolName", json!(name));
                put("partialResult", json!({"content": partial}));
            }
            AgentEvent::ToolExecutionEnd { id, name, content, details, is_error, duration_ms, sandbox } => {
                put("toolCallId", json!(id));
                put("toolName", json!(name));
                put("result", json!({"content": content, "details": details}));
                put("isError", json!(is_error));
                put("durationMs", json!(duration_ms));
                sandbox.iter().for_each(|sandbox| put("sandbox", sandbox.facts()));
            }
            AgentEvent::SensitiveFilesChanged { id, name, paths } => {
                put("toolCallId", json!(id));
                put("toolName", json!(name));
                put("paths", paths.iter().map(|path| path.to_string_lossy()).collect());
            }
            AgentEvent::AutoRetryStart { attempt, max_attempts, delay_ms, error }
            | AgentEvent::SummarizationRetryScheduled { attempt, max_attempts, delay_ms, error } => {
                put("attempt", json!(attempt));
                put("maxAttempts", json!(max_attempts));
                put("delayMs", json!(delay_ms));
                put("errorMessage", json!(error));
            }
            AgentEvent::AutoRetryEnd { success, attempt, final_error } => {
                put("success", json!(success));
                put("attempt", json!(attempt));
                put("finalError", json!(final_error));
            }
            AgentEvent::QueueUpdate { steering, follow_up } => {
                put("steering", json!(steering));
                put("followUp", json!(follow_up));
            }
            AgentEvent::CompactionStart { reason } => put("reason", json!(reason.as_str())),
            AgentEvent::CompactionEnd { reason, result, aborted, will_retry, error } => {
                put("reason", json!(reason.as_str()));
                put("result", result.clone().unwrap_or_default());
                put("aborted", json!(aborted));
                put("willRetry", json!(will_retry));
                put("errorMessage", json!(error));
            }
            AgentEvent::SummarizationRetryAttemptStart { reason } => {
                put("source", json!("compaction"));
                put("reason", json!(reason.as_str()));
            }
            AgentEvent::SessionInfoChanged { name } => put("name", json!(name)),
            AgentEvent::ModelSelect { model, previous } => {
                put("model", model.clone());
                put("previousModel", previous.clone());
                put("source", json!("set"));
            }
            AgentEvent::ThinkingLevelSelect { level, previous } => {
                put("level", json!(level.as_str()));
                put("previousLevel", json!(previous.as_str()));
            }
            AgentEvent::Input { text, images, source, behavior, from, sender } => {
                put("text", json!(text));
                if *images > 0 {
                    put("imagesCount", json!(images));
                }
                put("source", json!(source));
                put("streamingBehavior", json!(behavior));
                put("from", json!(from));
                put("sender", sender.as_ref().map_or(Value::Null, |sender| sender.document()));
            }
            AgentEvent::BridgeStart(state) => put("state", json!(state)),
            AgentEvent::BridgeStop { reason } => put("reason", json!(reason)),
            AgentEvent::Settled(prompts) => payload.extend(object(json!(prompts))),
            AgentEvent::Question(data) | AgentEvent::Bridge { data, .. } => {
                if let Value::Object(fields) = data {
                    payload.extend(fields.clone());
                }
            }
        }
        Value::Object(payload)
    }
}

impl AgentEvent {
    /// Where nobody listens, it may be kept as it is until somebody asks: what it says is in the transcript as well, or takes
    /// no more memory so than in words.
    #[expect(clippy::wildcard_enum_match_arm, reason = "the others are put into words at once")]
    pub(crate) fn may_wait(&self) -> bool {
        match self {
            AgentEvent::AgentStart
            | AgentEvent::AgentEnd { .. }
            | AgentEvent::AgentSettled { .. }
            | AgentEvent::TurnStart { .. }
            | AgentEvent::TurnEnd { .. }
            | AgentEvent::MessageStart(_)
            | AgentEvent::MessageEnd(_)
            | AgentEvent::Input { .. }
            | AgentEvent::BridgeStart(_)
            | AgentEvent::BridgeStop { .. } => true,
            AgentEvent::Settled(prompts) => prompts.changed.files.is_empty(),
            _ => false,
        }
    }
}

impl Content for AgentEvent {
    fn name(&self) -> &'static str {
        self.name()
    }

    fn to_json(&self) -> Value {
        self.to_json()
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "the others are small, or do not wait")]
    fn bytes(&self) -> usize {
        let size = |messages: &[Arc<Message>]| messages.iter().map(|message| message.bytes()).sum();
        match self {
            AgentEvent::AgentEnd { messages, .. } => size(messages),
            AgentEvent::TurnEnd { message, results, .. } => {
                message.as_deref().map_or(0, Message::bytes) + size(results)
            }
            AgentEvent::MessageStart(message) | AgentEvent::MessageEnd(message) => message.bytes(),
            AgentEvent::Input { text, .. } => text.len(),
            _ => 0,
        }
    }
}

impl Delta {
    fn to_json(&self) -> Value {
        let mut event = json!({"type": self.kind.as_str(), "contentIndex": self.index});
        if !self.text.is_empty() {
            event["delta"] = json!(self.text);
        }
        if let Some((id, name)) = &self.call {
            event["id"] = json!(id);
            event["toolName"] = json!(name);
        }
        event
    }
}

fn document(message: &Message) -> Value {
    serde_json::to_value(message).unwrap_or_default()
}

fn list(messages: &[Arc<Message>]) -> Value {
    messages.iter().map(|message| document(message)).collect()
}
