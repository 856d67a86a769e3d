//! The offline model: a built-in script in place of a model. It needs no network and no key, always answers the same,
//! and is used only where `offline/demo` is named. Its script follows these directives, each on a line of its
//! own in the prompt:
//!
//! - `@echo TEXT`: answer with TEXT
//! - `@recall`: repeat what the user said earlier in this session, one line each
//! - `@tool NAME {JSON}`: call a tool; one turn per line, then answer with the first line of each result
//! - `@parallel`: call all tools of the prompt in one turn
//! - `@stream N [every MS ms] [of BYTES bytes]`: answer with N pieces of text, paced and of that size
//! - `@think TEXT`: think TEXT before the answer
//! - `@fail KIND [N]`: fail: rate_limit, overloaded, auth, overflow, cut or refuse; with N, only the first N times
//! - `@length`: end as if the output limit had cut the answer

use super::answer::Answer;
use super::local_model::LocalModel;
use super::model_info::{Api, Model, Rates};
use super::request::{Failure, Request, RequestError};
use crate::cancel::Cancel;
use crate::sync::lock;
use crate::transcript::{AssistantMessage, Block, Content, Message, StopReason};
use serde::Deserialize;
use serde::de::value::StrDeserializer;
use std::collections::{BTreeMap, VecDeque};
use std::io::Write;
use std::sync::Mutex;
use std::time::Duration;

pub(crate) const PROVIDER: &str = "offline";
pub(crate) const ID: &str = "demo";

/// How every answer begins, so that nobody takes it for a model's.
pub(crate) const LABEL: &str = "[offline/demo: no model, a built-in script]";

const MAX_PIECES: u64 = 10_000_000;
/// The longest text of `@stream`, in bytes.
const MAX_STREAM: u64 = 256 << 20;
/// For how many prompts failures are counted at a time.
const MAX_COUNTED: usize = 1024;

/// The offline model's entry.
pub(crate) fn model() -> Model {
    Model {
        id: ID.to_string(),
        name: "Offline demo (no model)".to_string(),
        provider: PROVIDER.to_string(),
        api: Api::Offline,
        base_url: String::new(),
        reasoning: true,
        images: true,
        rates: Rates::default(),
        tiers: Vec::new(),
        context_window: 200_000,
        max_tokens: 64_000,
        max_images: None,
        max_request_bytes: None,
        thinking_level_map: BTreeMap::new(),
        headers: Vec::new(),
        compat: serde_json::Map::new(),
    }
}

/// What the prompt asks the script to do.
#[derive(Debug, Default, PartialEq)]
struct Script {
    lines: Vec<Line>,
    tools: Vec<(String, String)>,
    parallel: bool,
    thoughts: Vec<String>,
    fail: Option<(Fail, Option<u32>)>,
    length: bool,
}

/// A part of the answer.
#[derive(Debug, PartialEq)]
enum Line {
    Echo(String),
    Recall,
    Stream { pieces: u64, every: Duration, bytes: Option<usize> },
}

#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Fail {
    RateLimit,
    Overloaded,
    Auth,
    Overflow,
    Cut,
    Refuse,
}

impl Fail {
    fn parse(name: &str) -> Option<Fail> {
        Fail::deserialize(StrDeserializer::<serde::de::value::Error>::new(name)).ok()
    }

    /// As a provider would put it.
    fn failed(self) -> RequestError {
        let (status, text) = match self {
            Fail::RateLimit => (Some(429), "429: offline/demo: rate limit reached"),
            Fail::Overloaded => (Some(529), "529: offline/demo: overloaded"),
            Fail::Auth => (Some(401), "401: offline/demo: invalid key"),
            Fail::Overflow => (Some(400), "400: offline/demo: prompt is too long"),
            Fail::Cut => (None, "offline/demo: stream ended before message_stop"),
            Fail::Refuse => (None, "offline/demo: the model refused to answer"),
        };
        RequestError {
            facts: Failure { status, lost: matches!(self, Fail::Cut), ..Failure::default() },
            ..RequestError::new(text)
        }
    }
}

impl Script {
    fn parse(prompt: &str) -> Script {
        let mut script = Script::default();
        for line in prompt.lines() {
            let line = line.trim();
            let (directive, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
            let rest = rest.trim();
            match directive {
                "@echo" => script.lines.push(Line::Echo(rest.to_string())),
                "@recall" => script.lines.push(Line::Recall),
                "@tool" => {
                    let (name, arguments) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
                    script.tools.push((name.to_string(), arguments.trim().to_string()));
                }
                "@parallel" => script.parallel = true,
                "@stream" => script.lines.extend(parse_stream(rest)),
                "@think" => script.thoughts.push(rest.to_string()),
                "@fail" => {
                    let mut words = rest.split_whitespace();
                    if let Some(kind) = words.next().and_then(Fail::parse) {
                        script.fail = Some((kind, words.next().and_then(|n| n.parse().ok())));
                    }
                }
                "@length" => script.length = true,
                _ => {}
            }
        }
        script
    }
}

/// `N [every MS ms] [of BYTES bytes]`
fn parse_stream(text: &str) -> Option<Line> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let pieces = words.first()?.parse::<u64>().ok()?.min(MAX_PIECES);
    let after = |word: &str| {
        let at = words.iter().position(|w| *w == word)?;
        words.get(at + 1)?.parse::<u64>().ok()
    };
    let bytes = after("of").map(|n| n.clamp(1, MAX_STREAM));
    let most = MAX_STREAM / bytes.unwrap_or(16);
    Some(Line::Stream {
        pieces: pieces.min(most),
        every: Duration::from_millis(after("every").unwrap_or(0)),
        bytes: bytes.and_then(|n| usize::try_from(n).ok()),
    })
}

/// Runs scripts. What it remembers is only how often prompts have failed on purpose.
#[derive(Default)]
pub(crate) struct Offline {
    failures: Mutex<VecDeque<(String, u32)>>,
}

impl LocalModel for Offline {
    fn run(&self, request: &Request<'_>, cancel: &Cancel, answer: &mut Answer<'_>) -> Result<StopReason, RequestError> {
        let run = Run::new(request);
        let fail = run.script.fail.and_then(|(kind, times)| self.counts(&run, request, times).then_some(kind));
        if let Some(kind) = fail
            && kind != Fail::Cut
        {
            return Err(kind.failed());
        }
        answer.message.usage.input = run.prompt_chars / 4;
        answer.accepted();
        let result = run.speak(cancel, answer, fail.is_some());
        answer.message.usage.output = spoken(&answer.message) / 4;
        match fail {
            // A cut comes after what was said; cancelling in the meantime comes first.
            Some(kind) => result.and(Err(kind.failed())),
            None => result,
        }
    }
}

impl Offline {
    /// Whether this attempt at the prompt is one of the first `times`; all are if there is no number.
    fn counts(&self, run: &Run<'_>, request: &Request<'_>, times: Option<u32>) -> bool {
        let Some(times) = times else { return true };
        // A retry sends the same prompt again; the next prompt is one more user message.
        let key = format!("{} {}", request.session_id.unwrap_or_default(), run.prompts.len());
        let mut failures = lock(&self.failures);
        let at = failures.iter().position(|(known, _)| *known == key).unwrap_or_else(|| {
            if failures.len() >= MAX_COUNTED {
                failures.pop_front();
            }
            failures.push_back((key, 0));
            failures.len() - 1
        });
        let count = &mut failures[at].1;
        *count += 1;
        *count <= times
    }
}

fn spoken(message: &AssistantMessage) -> u64 {
    let chars = |block: &Block| match block {
        Block::Text { text, .. } => text.len() as u64,
        Block::Thinking { thinking, .. } => thinking.len() as u64,
        Block::ToolCall { .. } | Block::Image { .. } => 16,
    };
    message.content.iter().map(chars).sum()
}

/// One request and what it asks for.
struct Run<'a> {
    script: Script,
    /// What the user said so far; the last one is the prompt.
    prompts: Vec<String>,
    /// Name and first line of each tool result since the prompt.
    results: Vec<(&'a str, &'a str)>,
    /// Tool calls made since the prompt.
    called: usize,
    /// Makes tool call ids unique in the session.
    turn: usize,
    prompt_chars: u64,
}

impl<'a> Run<'a> {
    fn new(request: &Request<'a>) -> Run<'a> {
        let mut run = Run {
            script: Script::default(),
            prompts: Vec::new(),
            results: Vec::new(),
            called: 0,
            turn: request.messages.len(),
            prompt_chars: request.system.len() as u64 + request.messages.iter().map(|m| m.chars()).sum::<u64>(),
        };
        for message in request.messages {
            match &**message {
                Message::User(user) => {
                    run.prompts.push(match &user.content {
                        Content::Text(text) => text.clone(),
                        Content::Blocks(blocks) => {
                            blocks.iter().filter_map(Block::as_text).collect::<Vec<_>>().join("\n")
                        }
                    });
                    run.results.clear();
                    run.called = 0;
                }
                Message::Assistant(m) if matches!(m.stop_reason, StopReason::Error | StopReason::Aborted) => {}
                Message::Assistant(m) => {
                    run.called += m.content.iter().filter(|b| matches!(b, Block::ToolCall { .. })).count();
                }
                Message::ToolResult(m) => {
                    let text = m.content.iter().find_map(Block::as_text).unwrap_or("");
                    run.results.push((&m.tool_name, text.lines().next().unwrap_or("")));
                }
            }
        }
        run.script = Script::parse(run.prompts.last().map_or("", String::as_str));
        run
    }

    fn speak(&self, cancel: &Cancel, answer: &mut Answer<'_>, cut: bool) -> Result<StopReason, RequestError> {
        if !self.script.thoughts.is_empty() && self.called == 0 {
            let index = answer.start_thinking();
            answer.thinking(index, &self.script.thoughts.join("\n"));
            answer.drained();
            answer.end_thinking(index);
        }
        let waiting = self.script.tools.get(self.called..).unwrap_or_default();
        if !waiting.is_empty() {
            let batch = if self.script.parallel { waiting } else { &waiting[..1] };
            for (at, (name, arguments)) in batch.iter().enumerate() {
                let index = answer.start_tool_call(&format!("offline_{}_{at}", self.turn), name);
                answer.tool_arguments(index, arguments);
                answer.end_tool_call(index);
            }
            answer.drained();
            return Ok(if self.script.length { StopReason::Length } else { StopReason::ToolUse });
        }
        let index = answer.start_text();
        self.text(index, cancel, answer)?;
        if !cut {
            answer.end_text(index);
        }
        Ok(if self.script.length { StopReason::Length } else { StopReason::Stop })
    }

    fn text(&self, index: usize, cancel: &Cancel, answer: &mut Answer<'_>) -> Result<(), RequestError> {
        let mut say = |text: &str| {
            if cancel.is_cancelled() {
                return Err(RequestError::aborted());
            }
            answer.text(index, text);
            answer.drained();
            Ok(())
        };
        say(LABEL)?;
        for line in &self.script.lines {
            match line {
                Line::Echo(text) => say(&format!("\n{text}"))?,
                Line::Recall => {
                    let earlier = self.prompts.split_last().map_or(&[][..], |(_, earlier)| earlier);
                    for text in earlier {
                        say(&format!("\n{}", text.split_whitespace().collect::<Vec<_>>().join(" ")))?;
                    }
                }
                Line::Stream { pieces, every, bytes } => {
                    say("\n")?;
                    let mut piece = Vec::new();
                    for number in 0..*pieces {
                        if !every.is_zero() && cancel.sleep(*every) {
                            return Err(RequestError::aborted());
                        }
                        write_piece(&mut piece, number, *bytes);
                        say(std::str::from_utf8(&piece).unwrap_or_default())?;
                    }
                }
            }
        }
        for (name, first_line) in &self.results {
            say(&format!("\n{name}: {first_line}"))?;
        }
        if self.script == (Script { length: self.script.length, ..Script::default() }) {
            let prompt = self.prompts.last().map_or("", String::as_str).trim();
            let quote: String = prompt.chars().take(200).collect();
            let more = if quote.len() < prompt.len() { "…" } else { "" };
            say(&format!("\nYou said: {quote}{more}"))?;
        }
        Ok(())
    }
}

/// A numbered piece of text, filled up or cut to `bytes`.
fn write_piece(piece: &mut Vec<u8>, number: u64, bytes: Option<usize>) {
    piece.clear();
    // Writing into memory has no way to fail.
    let _ = write!(piece, "piece {number} ");
    if let Some(bytes) = bytes {
        piece.resize(bytes, b'.');
    }
}

#[cfg(test)]
mod tests;
