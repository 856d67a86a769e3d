//! The events of an answer.

mod event;

use crate::json::{plain_text, tolerant};
use crate::model::answer::Answer;
use crate::model::lenient::{Object, Text};
use crate::model::protocol::{DONE, Decoder, Progress, stopped, stopped_by};
use crate::model::request::RequestError;
use crate::model::sse::Event;
use crate::model::stated_error::{self, is_error, provider_error, unusable};
use crate::transcript::StopReason;
use event::{AnyEvent, BlockStart, DeltaEvent, ReportedUsage};
use serde_json::Value;

/// Understands the answer's events.
#[derive(Default)]
pub(super) struct AnthropicDecoder {
    /// The blocks that have begun, those that have ended among them.
    blocks: Vec<StreamedBlock>,
    begun: bool,
    finished: bool,
    /// The stream said that it is over, as those of another API do.
    done: bool,
    /// The stop reason as it was sent, and the provider's words to it.
    stop: Option<(String, Option<String>)>,
}

/// A block that has begun.
struct StreamedBlock {
    /// The provider's number for it; servers exist that number nothing.
    number: Option<u64>,
    /// The answer's block.
    index: usize,
    kind: Kind,
    has_ended: bool,
    /// The arguments that came with the block's start, as some servers do it.
    input: Option<String>,
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Text,
    Thinking,
    Tool,
    /// Work that the provider does for itself, and what is not known. It cannot be shown.
    Skipped,
}

/// How the deltas of a server begin that names no events.
const UNNAMED_DELTA: &[u8] = br#"{"type":"content_block_delta","#;

impl Decoder for AnthropicDecoder {
    fn event(&mut self, event: Event<'_>, answer: &mut Answer<'_>) -> Result<Progress, RequestError> {
        if event.name == b"content_block_delta" || event.name.is_empty() && event.data.starts_with(UNNAMED_DELTA) {
            return self.delta(event.data, answer);
        }
        if event.name == b"ping" {
            return Ok(Progress::More);
        }
        if event.data == DONE {
            self.done = true;
            return Ok(Progress::More);
        }
        let mut repaired = String::new();
        let parsed = tolerant::parse(event.data, &mut repaired);
        let name = std::str::from_utf8(event.name).unwrap_or_default();
        let is_known = matches!(
            name,
            "message_start" | "content_block_start" | "content_block_stop" | "message_delta" | "message_stop"
        );
        let parsed: AnyEvent<'_> = match parsed {
            Ok(parsed) => parsed,
            Err(e) if matches!(name, "" | "content_block_start") => return Err(unusable(&e)),
            // Whatever was in it, the name says all that cannot be done without.
            Err(_) => AnyEvent::default(),
        };
        if is_error(parsed.error) {
            return Err(provider_error(&String::from_utf8_lossy(event.data)));
        }
        match if is_known { name } else { parsed.kind.as_str() } {
            "content_block_delta" => return self.delta(event.data, answer),
            "message_start" => {
                let opening = parsed.message.0.unwrap_or_default();
                self.open(opening.id, opening.model, &opening.usage, answer);
            }
            "content_block_start" => {
                if let Some(start) = parsed.content_block.0 {
                    self.start(parsed.index.0, start, answer);
                }
            }
            "content_block_stop" => self.stop_block(parsed.index.0, answer),
            "message_delta" => {
                if let Some(counts) = parsed.usage.0 {
                    counts.apply(&mut answer.message.usage);
                }
                let closing = parsed.delta.0.unwrap_or_default();
                self.stop_for(closing.stop_reason, &closing.stop_details);
                self.stop_for(parsed.stop_reason, &parsed.stop_details);
            }
            "message_stop" => {
                self.finished = true;
                return Ok(Progress::Done);
            }
            // The answer of a server that does not stream.
            "message" => {
                self.open(parsed.id, parsed.model, &parsed.usage, answer);
                for block in parsed.content.0 {
                    self.start(None, block, answer);
                    self.stop_block(None, answer);
                }
                self.stop_for(parsed.stop_reason, &parsed.stop_details);
                self.finished = true;
                return Ok(Progress::Done);
            }
            // Other kinds of events may have a message that is no error.
            "" | "error" if name.is_empty() => stated_error::check(event.data)?,
            _ => {}
        }
        Ok(Progress::More)
    }

    fn is_finished(&self) -> bool {
        self.finished || self.stop.is_some() || self.done
    }

    fn cut(&mut self, answer: &mut Answer<'_>) {
        for at in 0..self.blocks.len() {
            self.end_block(at, answer);
        }
    }

    fn end(&mut self, answer: &mut Answer<'_>) -> Result<StopReason, RequestError> {
        let has_content = !answer.message.content.is_empty();
        let is_whole = self.stop.is_some() || self.finished && (self.begun || has_content) || self.done && has_content;
        if !is_whole {
            return Err(RequestError::new("Stream ended before message_stop"));
        }
        let (reason, words) = self.stop.take().unwrap_or_default();
        let withheld = |why: &str| Err(RequestError::new(words.clone().unwrap_or_else(|| format!("{why} ({reason})"))));
        let stop = match reason.as_str() {
            // A server that names no reason has said all the same that the message is whole.
            "" | "end_turn" | "pause_turn" | "stop_sequence" | "tool_use" => stopped(answer),
            "max_tokens" => StopReason::Length,
            "refusal" => return withheld("The model refused to answer"),
            // Words of gateways for the same.
            "sensitive" | "content_filter" | "content_filtered" | "safety" | "guardrail_intervened" => {
                return withheld("The provider withheld the answer");
            }
            // This is no end of an answer, but one that a smaller context would not have.
            "model_context_window_exceeded" => {
                return Err(RequestError::new("Unhandled stop reason: model_context_window_exceeded"));
            }
            // The other APIs' words, from gateways that do not translate them.
            "length" | "max_output_tokens" => StopReason::Length,
            other => stopped_by(other, answer),
        };
        for at in 0..self.blocks.len() {
            self.end_block(at, answer);
        }
        Ok(stop)
    }
}

impl AnthropicDecoder {
    /// The hot path: one piece of text, thought or arguments. What it is counts for more than the block that it names.
    fn delta(&mut self, data: &[u8], answer: &mut Answer<'_>) -> Result<Progress, RequestError> {
        if let Some((number, text)) = plain_delta(data) {
            if let Some(index) = self.find(Some(number), Kind::Text, answer) {
                answer.text(index, text);
            }
            return Ok(Progress::More);
        }
        let mut repaired = String::new();
        let event: DeltaEvent<'_> = tolerant::parse(data, &mut repaired).map_err(|e| unusable(&e))?;
        let (number, delta) = (event.index.0, event.delta.0.unwrap_or_default());
        if let Some(text) = delta.text.filled()
            && let Some(index) = self.find(number, Kind::Text, answer)
        {
            answer.text(index, text);
        }
        if let Some(thinking) = delta.thinking.filled()
            && let Some(index) = self.find(number, Kind::Thinking, answer)
        {
            answer.thinking(index, thinking);
        }
        if let Some(signature) = delta.signature.filled() {
            self.sign(number, signature, answer);
        }
        if let Some(json) = delta.partial_json.0.as_deref().filter(|json| !json.is_empty())
            && let Some(index) = self.find(number, Kind::Tool, answer)
        {
            answer.tool_arguments(index, json);
        }
        Ok(Progress::More)
    }

    /// The answer's block that a delta goes into: the newest of this number that has not ended. A delta without a number, or
    /// one for blocks without, goes into the newest of its kind. Text and thoughts that nobody announced begin a block.
    fn find(&mut self, number: Option<u64>, kind: Kind, answer: &mut Answer<'_>) -> Option<usize> {
        let open = || self.blocks.iter().rev().filter(|block| !block.has_ended);
        let numbered = open().find(|block| block.number == number);
        if let Some(block) = numbered.filter(|block| block.kind == kind || block.kind == Kind::Skipped) {
            return (block.kind == kind).then_some(block.index);
        }
        let unnumbered = open().find(|block| block.kind == kind && (number.is_none() || block.number.is_none()));
        if let Some(block) = unnumbered {
            return Some(block.index);
        }
        let index = match kind {
            Kind::Text => answer.start_text(),
            Kind::Thinking => answer.start_thinking(),
            // Nobody knows whose arguments they are.
            Kind::Tool | Kind::Skipped => return None,
        };
        self.begin(number, index, kind, None, answer);
        Some(index)
    }

    /// Signatures may come after the end of their block.
    fn sign(&mut self, number: Option<u64>, signature: &str, answer: &mut Answer<'_>) {
        let thoughts = || self.blocks.iter().rev().filter(|block| block.kind == Kind::Thinking);
        let numbered = thoughts().find(|block| block.number == number);
        let Some(block) = numbered.or_else(|| thoughts().next()) else { return };
        let is_certain = numbered.is_some();
        if let Some(kept) = answer.thinking_signature(block.index).filter(|kept| is_certain || kept.is_empty()) {
            kept.push_str(signature);
        }
    }

    fn open(&mut self, id: Text<'_>, model: Text<'_>, usage: &Object<ReportedUsage>, answer: &mut Answer<'_>) {
        self.begun = true;
        answer.message.response_id = id.owned();
        answer.message.response_model = model.owned().filter(|model| *model != answer.message.model);
        if let Some(counts) = &usage.0 {
            counts.apply(&mut answer.message.usage);
        }
    }

    fn stop_for(&mut self, reason: Text<'_>, details: &Value) {
        if let Some(reason) = reason.owned() {
            let words = details.as_str().or_else(|| details.get("explanation")?.as_str());
            self.stop = Some((reason, words.filter(|words| !words.is_empty()).map(str::to_string)));
        }
    }

    fn start(&mut self, number: Option<u64>, start: BlockStart<'_>, answer: &mut Answer<'_>) {
        let (index, kind, input) = match start.kind.as_str() {
            "text" => {
                let index = answer.start_text();
                answer.text(index, start.text.as_str());
                (index, Kind::Text, None)
            }
            "thinking" => {
                let index = answer.start_thinking();
                answer.thinking(index, start.thinking.as_str());
                if let Some(given) = start.signature.filled()
                    && let Some(signature) = answer.thinking_signature(index)
                {
                    signature.push_str(given);
                }
                (index, Kind::Thinking, None)
            }
            "redacted_thinking" => {
                answer.redacted_thinking(start.data.as_str());
                (0, Kind::Skipped, None)
            }
            "tool_use" => {
                let index = answer.start_tool_call(start.id.as_str(), start.name.as_str());
                let input = start.input.0.filter(|json| !matches!(json.trim(), "" | "{}" | "[]"));
                (index, Kind::Tool, input.map(|json| json.into_owned()))
            }
            _ => (0, Kind::Skipped, None),
        };
        self.begin(number, index, kind, input, answer);
    }

    /// A block begins. One that begins under a number in use is another block.
    fn begin(&mut self, number: Option<u64>, index: usize, kind: Kind, input: Option<String>, answer: &mut Answer<'_>) {
        if let Some(at) = self.blocks.iter().rposition(|block| !block.has_ended && block.number == number) {
            self.end_block(at, answer);
        }
        answer.count(input.as_ref().map_or(size_of::<StreamedBlock>(), String::len));
        self.blocks.push(StreamedBlock { number, index, kind, has_ended: false, input });
    }

    fn stop_block(&mut self, number: Option<u64>, answer: &mut Answer<'_>) {
        let newest = |is_it: &dyn Fn(&StreamedBlock) -> bool| {
            self.blocks.iter().rposition(|block| !block.has_ended && is_it(block))
        };
        let at = newest(&|block| block.number == number)
            .or_else(|| newest(&|block| number.is_none() || block.number.is_none()));
        if let Some(at) = at {
            self.end_block(at, answer);
        }
    }

    fn end_block(&mut self, at: usize, answer: &mut Answer<'_>) {
        let Some(block) = self.blocks.get_mut(at).filter(|block| !block.has_ended) else { return };
        block.has_ended = true;
        match block.kind {
            Kind::Text => answer.end_text(block.index),
            Kind::Thinking => answer.end_thinking(block.index),
            Kind::Tool => {
                if let Some(input) = block.input.take().filter(|_| !answer.has_tool_arguments(block.index)) {
                    answer.tool_arguments(block.index, &input);
                }
                answer.end_tool_call(block.index);
            }
            Kind::Skipped => {}
        }
    }
}

/// The block's number and the text of a delta that is written just as the API's own server writes those of text. They are
/// most of an answer's events, and the parser, which reads all forms there are, takes ten times as long for one.
fn plain_delta(data: &[u8]) -> Option<(u64, &str)> {
    let (number, rest) = data.strip_prefix(UNNAMED_DELTA)?.strip_prefix(br#""index":"#)?.split_first()?;
    let (text, rest) = plain_text(rest.strip_prefix(br#","delta":{"type":"text_delta","text":"#)?)?;
    let is_whole = rest.strip_prefix(b"}")?.trim_ascii_start() == b"}";
    (is_whole && number.is_ascii_digit() && !text.is_empty()).then(|| (u64::from(number - b'0'), text))
}

#[cfg(test)]
mod tests;
