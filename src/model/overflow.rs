//! Answers, and refusals, that mean that the context is too long for the model.

use super::error_words::matches_any;
use super::model_info::Model;
use crate::transcript::{AssistantMessage, StopReason};

/// Whether the model's context was too long. What helps depends on the stop reason:
///
/// - `error`: the server refused the prompt. After compaction the same request may succeed.
/// - `length`: the window was full before the answer reached the model's own limit. The same holds. A server that counts no
///   tokens, or has a lower limit of its own for answers, has not filled the window, and what it said is the answer.
/// - `stop`: the server took a prompt that is longer than the model's window, and dropped part of it. The answer is
///   to be kept; compaction is due before the next request.
pub(crate) fn is_overflow(message: &AssistantMessage, model: &Model) -> bool {
    let usage = &message.usage;
    let prompt = usage.input.saturating_add(usage.cache_read);
    match message.stop_reason {
        StopReason::Error => {
            let text = message.error_message.as_deref().unwrap_or("").to_lowercase();
            matches_any(&text, TOO_LARGE_AT_ANY_RATE)
                || !matches_any(&text, NO_OVERFLOW) && matches_any(&text, OVERFLOW) && !answer_fills_window(&text)
        }
        StopReason::Stop => prompt > model.context_window,
        StopReason::Length => {
            let used = prompt.saturating_add(usage.cache_write).saturating_add(usage.output);
            // Part of an answer is given up only for a window that is full beyond doubt; thoughts alone are no answer.
            let percent = if message.text().trim().is_empty() { 90 } else { 99 };
            usage.output < model.max_tokens && used >= model.context_window / 100 * percent
        }
        StopReason::ToolUse | StopReason::Aborted => false,
    }
}

/// Whether the limit that was asked for the answer takes the server's whole window by itself, so that no prompt is short
/// enough. OpenAI's words, and those of vLLM.
fn answer_fills_window(text: &str) -> bool {
    let behind = |words: &str| {
        let rest = &text[text.find(words)? + words.len()..];
        number(rest.split(|c: char| !is_digit(c)).next()?)
    };
    let before = |words: &str| number(text[..text.find(words)?].rsplit(|c: char| !is_digit(c)).next()?);
    let answer = before(" in the completion").or_else(|| behind("is too large: ")).or_else(|| before(" 'max_tokens'"));
    answer.zip(behind("maximum context length is ")).is_some_and(|(answer, window)| answer >= window)
}

fn is_digit(c: char) -> bool {
    c.is_ascii_digit() || matches!(c, ',' | '_')
}

fn number(text: &str) -> Option<u64> {
    text.replace([',', '_'], "").parse().ok()
}

/// Limits on what an account may send at once. Servers call them rate limits; but no wait helps, and a shorter context does.
const TOO_LARGE_AT_ANY_RATE: &[&str] = &[
    // OpenAI, of a request above the tokens of a whole minute; Groq, of the same.
    "request too large for*tokens must be reduced",
    "request too large for*reduce your message size",
    // Anthropic, of a context above 200,000 tokens that the account does not include.
    "required for long context requests",
    "long context beta is not yet available",
];

/// Words that look like an overlong prompt and mean something else: limits of rate and quota, and of images.
const NO_OVERFLOW: &[&str] = &[
    "^throttling error:",
    "^service unavailable:",
    "^429",
    "throttlingexception",
    "rate?limit",
    "too many requests",
    "please wait before trying",
    "per?minute",
    "per?day",
    "daily",
    "monthly",
    "quota",
    "image exceeds",
    "images exceed",
];

/// The words of servers whose limit was passed, as they are, or as their gateways repeat them.
const OVERFLOW: &[&str] = &[
    // Anthropic (also at Bedrock, Vertex), which counts the limit for the answer in as well.
    "prompt is too long",
    "prompt too long",
    "request_too_large",
    "request exceeds the maximum size",
    "exceed context limit",
    // Bedrock and Databricks; others say nearly the same.
    "input is too long",
    "input?too?long",
    "input length too long",
    // OpenAI, Azure, and everybody who copies their words: vLLM, DeepSeek, OpenRouter, Groq, Together, Cerebras.
    "exceeds the context window",
    "context?length?exceeded",
    "context?window?exceeded",
    "maximum context length is # token",
    "maximum context length of # token",
    "maximum context length*however",
    "reduce the length of the messages",
    "reduce the length of the prompt",
    "reduce the length of the input",
    "reduce your prompt",
    "input tokens exceed",
    "content': string too long",
    "text': string too long",
    "output': string too long",
    // vLLM, SGLang, TGI and what is built on them.
    "exceeds the maximum context length",
    "exceeds maximum context length",
    "exceeds the model's maximum context length",
    "exceeds model's maximum context length",
    "exceeds the model's context",
    "exceeds the maximum context window",
    "longer than the model's context length",
    "longer than the maximum model length",
    "model's context length is only # tokens",
    "max_tokens must be at least 1, got -",
    "exceeds the maximum allowed length",
    "exceeds maximum allowed input length",
    "exceeds the maximum allowed input length",
    "is too long and exceeds limit of",
    "inputs` tokens + `max_new_tokens` must be <=",
    "inputs` must have less than # tokens",
    // llama.cpp.
    "exceeds the available context size",
    "exceed_context_size",
    "context size has been exceeded",
    "n_keep*n_ctx",
    // LM Studio.
    "greater than the context length",
    "context length of only # tokens",
    "reached context length of # tokens",
    // Ollama.
    "exceeded context length",
    "exceeded max context length",
    "exceeds maximum context",
    "exceeds context length",
    "exceeds the context length",
    // Google.
    "input token count*exceeds the maximum",
    "payload size exceeds the limit",
    // GitHub Copilot.
    "token*exceeds the limit of #",
    "exceeds the limit of # token",
    "max_prompt_tokens_exceeded",
    // xAI, Mistral, MiniMax, Moonshot, Z.ai, Qwen, Doubao, Cohere, watsonx, in this order.
    "maximum prompt length is #",
    "too large for model with # maximum context length",
    "context window exceeds limit",
    "exceeded model token limit",
    "prompt exceeds max length",
    "\"code\":\"1261\"",
    "range of input length should be",
    "exceed max message tokens",
    "too many tokens",
    "input tokens*cannot exceed",
    // Gateways: LiteLLM's class, OpenCode's, and the stop reason of Claude.
    "contextwindowexceeded",
    "prompt has # tokens, but the configured context size is # tokens",
    "model_context_window_exceeded",
    "token limit exceeded",
    "^413",
    "api error (413):",
    // Cerebras says no more than this.
    "^400*status code (no body)",
    "^413*status code (no body)",
];

#[cfg(test)]
mod tests;
