use super::*;
use crate::model::test_support::{assistant_message, test_model};
use crate::transcript::{Block, Usage};
use std::time::{Duration, Instant};

/// Whether an error with this text counts as overflow.
fn on_text(text: &str) -> bool {
    let message = AssistantMessage {
        stop_reason: StopReason::Error,
        error_message: Some(text.to_string()),
        ..assistant_message(&test_model())
    };
    is_overflow(&message, &test_model())
}

#[test]
fn words_of_an_overlong_prompt() {
    for text in [
        "400: prompt is too long: 213462 tokens > 200000 maximum",
        "prompt too long; exceeded max context length by 5 tokens",
        "Prompt exceeds max length",
        "413: request_too_large",
        "Input is too long for requested model",
        "Your input exceeds the context window of this model",
        "exceeds the maximum context length of 1,000 tokens",
        "exceeds the model's maximum context length (128000)",
        "context window exceeded",
        "The input token count (1196265) exceeds the maximum number of tokens allowed",
        "maximum prompt length is 131072",
        "Please reduce the length of the messages",
        "This model's maximum context length is 8192 tokens",
        "exceeds the maximum allowed input length of 99,999 tokens",
        "The input (516368 tokens) is longer than the model's context length (262144 tokens)",
        "prompt token count exceeds the limit of 128000",
        "the request exceeds the available context size",
        "tokens to keep is greater than the context length",
        "context window exceeds limit (2013)",
        "exceeded model token limit",
        "prompt too large for model with 262144 maximum context length",
        "prompt has 9,000 tokens, but the configured context size is 8,192 tokens",
        "Unhandled stop reason: model_context_window_exceeded",
        "exceeded context length",
        "Range of input length should be [1, 98304]",
        "context_length_exceeded",
        "context length exceeded",
        "too many tokens",
        "token limit exceeded",
        "413 payload",
        "OpenAI API error (413): too big",
        "413: status code (no body)",
        "400: status code (no body)",
        // As servers were seen to say it.
        "400: {\"message\":\"input length and `max_tokens` exceed context limit: 184915 + 20000 > 204648, decrease input \
         length or `max_tokens` and try again\"}",
        "413: {\"error\":{\"type\":\"request_too_large\",\"message\":\"Request exceeds the maximum size\"}}",
        "Input tokens exceed the configured limit of 272000 tokens. Your messages resulted in 300000 tokens.",
        "'max_tokens' or 'max_completion_tokens' is too large: 2000. This model's maximum context length is 4096 tokens and \
         your request has 2104 input tokens (2000 > 4096 - 2104).",
        "This model's maximum context length is 2048 tokens. However, your request has 8 input tokens plus 2045 'max_tokens'.",
        "The maximum context length of DeepSeek-V3 is 8192. However, answering your request would take 9000 tokens.",
        "This endpoint's maximum context length is 1048576 tokens. However, you requested about 1293741 tokens",
        "You passed 202753 input tokens and requested 0 output tokens. However, the model's context length is only 202752 \
         tokens, resulting in a maximum input length of 202752 tokens.",
        "Input length (11680) exceeds model's maximum context length (4096).",
        "Input length (160062 tokens) exceeds the maximum allowed length (59862 tokens).",
        "The decoder prompt (length 20000) is longer than the maximum model length of 16384.",
        "max_tokens must be at least 1, got -7584. (parameter=max_tokens, value=-7584)",
        "Input prompt (9762 tokens) is too long and exceeds limit of 8192",
        "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. Given: 5000 `inputs` tokens",
        "`inputs` must have less than 4095 tokens. Given: 5000",
        "request (5000 tokens) exceeds the available context size (4096 tokens), try increasing it",
        "500: {\"error\":{\"code\":500,\"message\":\"Context size has been exceeded.\",\"type\":\"server_error\"}}",
        "Trying to keep the first 10136 tokens when context the overflows. However, the model is loaded with context length \
         of only 7866 tokens, which is not enough.",
        "The number of tokens to keep from the initial prompt is greater than the context length (n_keep: 13055>= n_ctx: 4096).",
        "Cannot truncate prompt with n_keep (4679) >= n_ctx (4096)",
        "Reached context length of 32000 tokens with model (arch: gpt-oss) that does not currently support it",
        "the input length exceeds the context length",
        "Invalid 'messages[1].content': string too long. Expected a string with maximum length 10485760",
        "Invalid 'input[5].output': string too long. Expected a string with maximum length 10485760",
        "Request payload size exceeds the limit: 20971520 bytes.",
        "Total tokens of image and text exceed max message tokens.",
        "the number of input tokens 9000 cannot exceed the total tokens limit 8192 for this model",
        "litellm.ContextWindowExceededError: litellm.BadRequestError",
        // A minute's tokens are fewer than this one request has.
        "429: Request too large for gpt-4o in organization org-1 on tokens per min (TPM): Limit 30000, Requested 61337. The \
         input or output tokens must be reduced in order to run successfully.",
        "413: Request too large for model `m` in organization `o` service tier `on_demand` on tokens per minute (TPM): Limit \
         6000, Requested 9000, please reduce your message size and try again. code: rate_limit_exceeded",
        "429: Extra usage is required for long context requests.",
    ] {
        assert!(on_text(text), "{text}");
    }
}

#[test]
fn words_that_only_look_like_it() {
    for text in [
        "Throttling error: Too many tokens, please wait before trying again.",
        "Service unavailable: too many tokens",
        "rate limit: too many tokens per minute",
        "Too many requests, too many tokens",
        "429: too many tokens",
        "maximum context length is many tokens",
        "Too many tokens, please wait before trying again.",
        "400: Tokens per minute limit exceeded - too many tokens processed.",
        "400: Daily token limit exceeded",
        "429: Rate limit reached for gpt-4 on tokens per min (TPM): Limit 10000, Used 8554, Requested 3082. Please try again \
         in 9.816s.",
        "image exceeds the limit of 5 MB",
        "Invalid 'input[2].name': string too long. Expected a string with maximum length 64",
        "Invalid 'tools[0].function.description': string too long. Expected a string with maximum length 1024",
        "The number of tools exceeds the limit of 128",
        "max_tokens: 100000 > 64000, which is the maximum allowed number of output tokens for this model",
        "This model's maximum context length is 16384 tokens. However, you requested 16500 tokens (116 in the messages, \
         16,384 in the completion). Please reduce the length of the messages or completion.",
        "'max_tokens' or 'max_completion_tokens' is too large: 8192. This model's maximum context length is 4096 tokens and \
         your request has 2104 input tokens (8192 > 4096 - 2104).",
        "This model's maximum context length is 2048 tokens. However, your request has 8 input tokens plus 2048 'max_tokens'.",
        "max_tokens is too large: 100000. This model supports at most 16384 completion tokens.",
        "Invalid max_tokens value, the valid range of max_tokens is [1, 8192]",
        "error 413 in the middle",
        "overloaded",
        "",
    ] {
        assert!(!on_text(text), "{text}");
    }
}

#[test]
fn answers_that_overflowed() {
    let model = test_model();
    for (stop_reason, input, cache_read, output, text, expected) in [
        // The window has 200,000 tokens.
        (StopReason::Stop, 100_000, 100_001, 5, "x", true),
        (StopReason::Stop, 100_000, 100_000, 5, "x", false),
        (StopReason::Length, 100_000, 98_000, 0, "", true),
        // The model's limit for an answer is 8192 tokens.
        (StopReason::Length, 100_000, 91_000, 8191, "", true),
        (StopReason::Length, 100_000, 91_000, 8192, "", false),
        // The server has a limit of its own, or counts nothing.
        (StopReason::Length, 100_000, 0, 128, "x", false),
        (StopReason::Length, 0, 0, 0, "x", false),
        (StopReason::Length, 0, 0, 0, "", false),
        // What was said is given up only for a window that is full.
        (StopReason::Length, 100_000, 97_000, 500, "x", false),
        (StopReason::Length, 100_000, 97_000, 500, " ", true),
        (StopReason::Length, 100_000, 97_000, 1000, "x", true),
        (StopReason::ToolUse, 300_000, 0, 1, "x", false),
        (StopReason::Aborted, 300_000, 0, 1, "x", false),
    ] {
        let usage = Usage { input, cache_read, output, ..Usage::default() };
        let content = vec![Block::text(text)];
        let message = AssistantMessage { stop_reason, usage, content, ..assistant_message(&model) };
        assert_eq!(is_overflow(&message, &model), expected, "{stop_reason:?} {input} {cache_read} {output} {text:?}");
    }
}

#[test]
fn long_texts_take_no_long_time() {
    let begun = Instant::now();
    assert!(!on_text(&"input token count ".repeat(250)));
    assert!(begun.elapsed() < Duration::from_secs(5));
}
