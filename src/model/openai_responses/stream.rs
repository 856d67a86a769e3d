//! The events of an answer.

mod event;
mod items;

use super::request::TextSignature;
use crate::json::tolerant;
use crate::model::answer::Answer;
use crate::model::error_body::quoted;
use crate::model::openai_usage::KnownUsage;
use crate::model::protocol::{DONE, Decoder, Progress, stopped};
use crate::model::request::RequestError;
use crate::model::sse::Event;
use crate::model::stated_error::{self, provider_error, unusable};
use crate::transcript::{Block, StopReason};
use event::{Any, Delta, Kind, OutputItem, Response};
use items::{Item, Items, Moment};
use serde_json::Value;
use serde_json::value::RawValue;

/// Understands the answer's events.
#[derive(Default)]
pub(super) struct ResponsesDecoder {
    items: Items,
    /// How the response ended.
    ending: Option<Result<StopReason, RequestError>>,
    /// The server said that nothing will follow.
    done: bool,
}

impl Decoder for ResponsesDecoder {
    fn event(&mut self, event: Event<'_>, answer: &mut Answer<'_>) -> Result<Progress, RequestError> {
        if event.data == DONE {
            self.done = true;
            return Ok(Progress::Done);
        }
        match event_kind(named(&event)) {
            EventKind::Nothing => return Ok(Progress::More),
            EventKind::Piece(kind) => {
                self.piece(kind, event.data, answer)?;
                return Ok(Progress::More);
            }
            EventKind::Other => {}
        }
        let mut repaired = String::new();
        let parsed: Any<'_> = tolerant::parse(event.data, &mut repaired).map_err(|e| unusable(&e))?;
        // Some servers say it in one place only.
        let kind = parsed.kind.filled().unwrap_or_else(|| named(&event));
        if let EventKind::Piece(kind) = event_kind(kind) {
            self.piece(kind, event.data, answer)?;
            return Ok(Progress::More);
        }
        let number = parsed.output_index.0;
        match kind {
            "response.function_call_arguments.delta" => {
                let at = self.items.of_piece(Kind::Tool, number, parsed.item_id.as_str());
                if let (Some(at), Some(delta)) = (at, parsed.delta.0) {
                    answer.tool_arguments(self.items.0[at].index, &delta);
                }
            }
            "response.function_call_arguments.done" => {
                let at = self.items.of_piece(Kind::Tool, number, parsed.item_id.as_str());
                if let (Some(at), Some(whole)) = (at, parsed.arguments.0) {
                    arguments(self.items.0[at].index, &whole, answer);
                }
            }
            "response.reasoning_summary_part.done" => {
                if let Some(at) = self.items.of_piece(Kind::Thinking, number, parsed.item_id.as_str()) {
                    self.items.0[at].paragraph = true;
                }
            }
            "response.output_text.done" => {
                // Where no pieces came, this is all there is.
                let text = parsed.text.as_str();
                let at = self.items.of_piece(Kind::Text, number, parsed.item_id.as_str());
                let is_first = self.items.0.iter().all(|item| item.kind != Kind::Text);
                match at {
                    Some(at) if said(self.items.0[at].index, answer).is_empty() => {
                        answer.text(self.items.0[at].index, text);
                    }
                    None if is_first && !text.is_empty() => {
                        let item = OutputItem { id: parsed.item_id, ..OutputItem::default() };
                        let at = self.start(Kind::Text, number, &item, answer);
                        self.items.0[at].unannounced = true;
                        answer.text(self.items.0[at].index, text);
                    }
                    _ => {}
                }
            }
            "response.created" => {
                if let Some(raw) = parsed.response {
                    let mut repaired = String::new();
                    identify(&response(raw, &mut repaired)?, answer);
                }
            }
            "response.output_item.added" => {
                if let Some(raw) = parsed.item {
                    let mut repaired = String::new();
                    self.begin(number, &item(raw, &mut repaired)?, answer);
                }
            }
            "response.output_item.done" => {
                if let Some(raw) = parsed.item {
                    let mut repaired = String::new();
                    self.finish(number, raw, &item(raw, &mut repaired)?, answer);
                }
            }
            "response.completed"
            | "response.incomplete"
            | "response.failed"
            | "response.cancelled"
            | "response.done" => {
                let error = parsed.error;
                let mut repaired = String::new();
                let response = parsed.response.map(|raw| response(raw, &mut repaired)).transpose()?;
                self.end_with(kind, response.unwrap_or_default(), error, answer);
                return Ok(Progress::Done);
            }
            "" if parsed.object.as_str() == "response" => {
                let mut repaired = String::new();
                let response = tolerant::parse(event.data, &mut repaired).map_err(|e| unusable(&e))?;
                self.end_with("", response, None, answer);
                return Ok(Progress::Done);
            }
            "error" | "response.error" => return Err(provider_error(&String::from_utf8_lossy(event.data))),
            // Other kinds of events may have a message that is no error.
            "" => stated_error::check(event.data)?,
            _ => {}
        }
        Ok(Progress::More)
    }

    fn is_finished(&self) -> bool {
        self.ending.is_some()
    }

    fn cut(&mut self, answer: &mut Answer<'_>) {
        self.close(answer);
    }

    fn end(&mut self, answer: &mut Answer<'_>) -> Result<StopReason, RequestError> {
        if let Some(ending) = self.ending.take() {
            return ending;
        }
        // Some servers do not say how the response ended: it is whole if they say that nothing follows, or if its last item
        // is what an answer ends with, and has ended.
        let ended = self.items.0.iter().all(|item| item.ended);
        let is_last = self.items.0.last().is_some_and(|item| {
            item.kind == Kind::Tool || item.kind == Kind::Text && item.phase.as_deref() != Some("commentary")
        });
        let is_whole = self.done || ended && is_last;
        if self.items.0.is_empty() || !is_whole {
            return Err(RequestError::new("Stream ended before a terminal response event"));
        }
        self.close(answer);
        Ok(stopped(answer))
    }
}

/// What the type of an event calls for.
enum EventKind {
    /// The event holds a piece of text or thought.
    Piece(Kind),
    Other,
    /// The event need not be read. There are dozens of such types.
    Nothing,
}

fn event_kind(kind: &str) -> EventKind {
    match kind {
        "response.output_text.delta" | "response.refusal.delta" => EventKind::Piece(Kind::Text),
        "response.reasoning_summary_text.delta" | "response.reasoning_text.delta" => EventKind::Piece(Kind::Thinking),
        "response.function_call_arguments.delta"
        | "response.function_call_arguments.done"
        | "response.reasoning_summary_part.done"
        | "response.output_text.done"
        | "response.created"
        | "response.output_item.added"
        | "response.output_item.done"
        | "response.completed"
        | "response.incomplete"
        | "response.failed"
        | "response.cancelled"
        | "response.done"
        | "response.error" => EventKind::Other,
        "keepalive" | "ping" => EventKind::Nothing,
        kind if kind.starts_with("response.") => EventKind::Nothing,
        _ => EventKind::Other,
    }
}

/// The type of an event without parsing it: the event's name, or what its data begins with.
fn named<'a>(event: &Event<'a>) -> &'a str {
    let data = event.data.strip_prefix(b"{\"type\":\"").unwrap_or_default();
    let kind = match event.name {
        b"" | b"message" => data.split(|byte| *byte == b'"').next().unwrap_or_default(),
        name => name,
    };
    std::str::from_utf8(kind).unwrap_or_default()
}

fn item<'a>(raw: &'a RawValue, repaired: &'a mut String) -> Result<OutputItem<'a>, RequestError> {
    tolerant::parse(raw.get().as_bytes(), repaired).map_err(|e| unusable(&e))
}

fn response<'a>(raw: &'a RawValue, repaired: &'a mut String) -> Result<Response<'a>, RequestError> {
    tolerant::parse(raw.get().as_bytes(), repaired).map_err(|e| unusable(&e))
}

fn identify(response: &Response<'_>, answer: &mut Answer<'_>) {
    let message = &mut answer.message;
    if let Some(id) = response.id.filled().filter(|_| message.response_id.is_none()) {
        message.response_id = Some(id.to_string());
    }
    if let Some(model) =
        response.model.filled().filter(|model| message.response_model.is_none() && *model != message.model)
    {
        message.response_model = Some(model.to_string());
    }
}

/// What was said so far in a block of text or thoughts.
fn said<'a>(index: usize, answer: &'a Answer<'_>) -> &'a str {
    match answer.message.content.get(index) {
        Some(Block::Text { text, .. }) => text,
        Some(Block::Thinking { thinking, .. }) => thinking,
        _ => "",
    }
}

/// Takes in the whole arguments of a call. Empty ones take nothing back: some servers send them where they have nothing more
/// to say.
fn arguments(index: usize, whole: &str, answer: &mut Answer<'_>) {
    let empty = matches!(whole.trim(), "" | "{}");
    if !empty || !answer.has_tool_arguments(index) {
        answer.whole_tool_arguments(index, whole);
    }
}

impl ResponsesDecoder {
    /// The hot path: one piece of text or thought.
    fn piece(&mut self, kind: Kind, data: &[u8], answer: &mut Answer<'_>) -> Result<(), RequestError> {
        let mut repaired = String::new();
        let event: Delta<'_> = tolerant::parse(data, &mut repaired).map_err(|e| unusable(&e))?;
        let Some(delta) = event.delta.filled() else { return Ok(()) };
        let (number, id) = (event.output_index.0, event.item_id.as_str());
        let at = match self.items.of_piece(kind, number, id) {
            Some(at) => at,
            None if self.items.has_ended(kind, id) => return Ok(()),
            None => {
                let item = OutputItem { id: event.item_id, ..OutputItem::default() };
                let at = self.start(kind, number, &item, answer);
                self.items.0[at].unannounced = true;
                at
            }
        };
        let item = &mut self.items.0[at];
        match kind {
            Kind::Thinking => {
                if std::mem::take(&mut item.paragraph) {
                    answer.thinking(item.index, "\n\n");
                }
                answer.thinking(item.index, delta);
            }
            Kind::Text | Kind::Tool => answer.text(item.index, delta),
        }
        Ok(())
    }

    /// An item begins, if it has not begun before.
    fn begin(&mut self, number: Option<u64>, item: &OutputItem<'_>, answer: &mut Answer<'_>) {
        let Some(kind) = item.kind() else { return };
        let known = self.items.find(Moment::Beginning, kind, number, item);
        // A call without a name is not known as one before its end.
        if known.is_none() && (kind != Kind::Tool || item.name.filled().is_some()) {
            let at = self.start(kind, number, item, answer);
            self.items.0[at].initial = item.arguments().unwrap_or_default().to_string();
            answer.count(self.items.0[at].initial.len());
        }
    }

    fn start(&mut self, kind: Kind, number: Option<u64>, item: &OutputItem<'_>, answer: &mut Answer<'_>) -> usize {
        let index = match kind {
            Kind::Text => answer.start_text(),
            Kind::Thinking => answer.start_thinking(),
            Kind::Tool => answer.start_tool_call(&call_id(item), item.name.as_str()),
        };
        answer.count(item.id.as_str().len() + item.call_id.as_str().len());
        self.items.0.push(Item {
            kind,
            index,
            number,
            id: item.id.as_str().to_string(),
            call_id: item.call_id.as_str().to_string(),
            phase: item.phase.filled().map(str::to_string),
            initial: String::new(),
            paragraph: false,
            ended: false,
            unannounced: false,
            in_response: false,
        });
        self.items.0.len() - 1
    }

    /// An item has ended, and this is all of it.
    fn finish(&mut self, number: Option<u64>, raw: &RawValue, item: &OutputItem<'_>, answer: &mut Answer<'_>) {
        let Some(kind) = item.kind() else { return };
        let known = self.items.find(Moment::End, kind, number, item);
        let at = known.unwrap_or_else(|| self.start(kind, number, item, answer));
        self.finish_at(at, Some(raw), item, answer);
    }

    fn finish_at(&mut self, at: usize, raw: Option<&RawValue>, item: &OutputItem<'_>, answer: &mut Answer<'_>) {
        let known = &mut self.items.0[at];
        if std::mem::replace(&mut known.ended, true) {
            return;
        }
        let index = known.index;
        let silent = said(index, answer).is_empty();
        match known.kind {
            Kind::Text => {
                if silent {
                    answer.text(index, item.text());
                }
                let id = if item.id.as_str().is_empty() { known.id.as_str() } else { item.id.as_str() };
                let phase = item.phase.filled().map(str::to_string).or_else(|| known.phase.clone());
                if !id.is_empty() {
                    let signature = TextSignature { v: 1, id: id.to_string(), phase: phase.clone() };
                    answer.sign_text(index, serde_json::to_string(&signature).unwrap_or_default());
                }
                known.phase = phase;
                answer.end_text(index);
            }
            Kind::Thinking => {
                if let Some(raw) = raw {
                    if silent {
                        answer.thinking(index, &event::thoughts(raw));
                    }
                    if let Some(signature) = answer.thinking_signature(index) {
                        raw.get().clone_into(signature);
                    }
                }
                answer.end_thinking(index);
            }
            Kind::Tool => {
                if let Some(whole) = item.arguments() {
                    arguments(index, whole, answer);
                }
                let initial = std::mem::take(&mut known.initial);
                if !answer.has_tool_arguments(index) {
                    answer.tool_arguments(index, &initial);
                }
                answer.end_tool_call(index);
            }
        }
    }

    /// Ends what is open.
    fn close(&mut self, answer: &mut Answer<'_>) {
        for at in 0..self.items.0.len() {
            self.finish_at(at, None, &OutputItem::default(), answer);
        }
    }

    /// The response has ended, by an event of this type.
    fn end_with(&mut self, kind: &str, response: Response<'_>, error: Option<&RawValue>, answer: &mut Answer<'_>) {
        identify(&response, answer);
        if let Some(counts) = &response.usage.0 {
            let mut known = KnownUsage::default();
            known.learn(counts);
            known.write(counts, &mut answer.message.usage);
            answer.message.usage.total_tokens = known.total();
        }
        for (position, raw) in event::items(response.output).into_iter().enumerate() {
            let mut repaired = String::new();
            if let Ok(item) = item(raw, &mut repaired) {
                self.compare(position as u64, raw, &item, answer);
            }
        }
        let status = match (response.status.as_str(), kind) {
            (status @ ("completed" | "incomplete" | "failed" | "cancelled"), _) => status,
            (_, "response.incomplete") => "incomplete",
            (_, "response.failed") => "failed",
            (_, "response.cancelled") => "cancelled",
            _ => "completed",
        };
        let incomplete = response.incomplete_details.0.unwrap_or_default();
        self.ending = Some(match (status, incomplete.reason.as_str()) {
            ("incomplete", "" | "max_output_tokens" | "max_tokens" | "length") => {
                self.close(answer);
                Ok(StopReason::Length)
            }
            ("incomplete", reason) => Err(RequestError::new(format!("Response incomplete: {reason}"))),
            ("failed" | "cancelled", _) => Err(failed(response.error.or(error))),
            _ => {
                self.close(answer);
                Ok(stopped(answer))
            }
        });
    }

    /// Takes in an item that the whole response has at this place: what did not come before comes now, and of what did
    /// come, the rest.
    fn compare(&mut self, position: u64, raw: &RawValue, item: &OutputItem<'_>, answer: &mut Answer<'_>) {
        let Some(kind) = item.kind() else { return };
        let known = self.items.find(Moment::End, kind, Some(position), item).or_else(|| self.alike(kind, item, answer));
        let lacks_text = |known: &Item| {
            kind == Kind::Text && known.ended && said(known.index, answer).is_empty() && !item.text().is_empty()
        };
        let at = match known.filter(|at| !lacks_text(&self.items.0[*at])) {
            Some(at) => at,
            None => self.start(kind, Some(position), item, answer),
        };
        self.items.0[at].in_response = true;
        if self.items.0[at].ended {
            if kind == Kind::Thinking {
                encrypt(self.items.0[at].index, item.encrypted_content.as_str(), answer);
            }
        } else {
            self.finish_at(at, Some(raw), item, answer);
        }
    }

    /// The item that is this one under another id: some servers make up new ones for the whole response.
    fn alike(&self, kind: Kind, item: &OutputItem<'_>, answer: &Answer<'_>) -> Option<usize> {
        self.items.0.iter().position(|known| {
            known.kind == kind
                && !known.in_response
                && match (kind, answer.message.content.get(known.index)) {
                    (Kind::Thinking, _) => true,
                    (Kind::Text, Some(Block::Text { text, .. })) => {
                        let (text, whole) = (text.trim(), item.text().trim());
                        text.contains(whole) || !text.is_empty() && whole.contains(text)
                    }
                    (Kind::Tool, Some(Block::ToolCall { name, arguments, .. })) => {
                        let whole = tolerant::arguments(item.arguments().unwrap_or_default());
                        known.ended && name == item.name.as_str() && whole.as_ref() == Ok(arguments)
                    }
                    _ => false,
                }
        })
    }
}

/// Fills in what a reasoning item has to go back with, if it came without that.
fn encrypt(index: usize, encrypted: &str, answer: &mut Answer<'_>) {
    let Some(signature) = answer.thinking_signature(index).filter(|_| !encrypted.is_empty()) else { return };
    let Ok(Value::Object(mut item)) = serde_json::from_str::<Value>(signature) else { return };
    let has_some = item.get("encrypted_content").and_then(Value::as_str).is_some_and(|known| !known.is_empty());
    if !has_some {
        item.insert("encrypted_content".to_string(), encrypted.into());
        *signature = Value::Object(item).to_string();
    }
}

/// The id of a call's block: the call's own id and that of its item.
fn call_id(item: &OutputItem<'_>) -> String {
    match (item.call_id.as_str(), item.id.as_str()) {
        (call, "") => call.to_string(),
        ("", id) => format!("{id}|{id}"),
        (call, id) => format!("{call}|{id}"),
    }
}

/// The error of a response that failed.
fn failed(error: Option<&RawValue>) -> RequestError {
    let raw = error.map_or("null", RawValue::get);
    let value: Value = serde_json::from_str(raw).unwrap_or_default();
    let field = |name: &str| match value.get(name) {
        Some(Value::String(text)) => Some(text.clone()),
        Some(Value::Number(number)) => Some(number.to_string()),
        _ => None,
    };
    let code = field("code").or_else(|| field("type")).unwrap_or_else(|| "failed".to_string());
    let words = field("message").unwrap_or_else(|| match &value {
        Value::Null => String::new(),
        Value::String(words) => words.clone(),
        value @ (Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_)) => value.to_string(),
    });
    let text = format!("{code}: {}", quoted(words.as_bytes()));
    RequestError { facts: provider_error(raw).facts, ..RequestError::new(text) }
}

#[cfg(test)]
mod server_tests;
#[cfg(test)]
mod tests;
