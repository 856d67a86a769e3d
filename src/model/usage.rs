//! What a request costs, and how long its answer may be.

use super::model_info::{Model, Rates};
use super::request::{Outcome, Request};
use crate::transcript::{Block, Cost, Message, StopReason, Usage};

/// Every estimate of a prompt's tokens may be too low by so many at least.
const MIN_MARGIN: u64 = 4096;
/// But the margin is at most this part of the window, or small windows would leave no room for an answer.
const MARGIN_PART: u64 = 16;
/// Below so many tokens for the answer, the margin is given up first.
const MIN_ROOM: u64 = 32_768;

/// What a request may take at most, as far as that can be estimated.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Most {
    /// The prompt and the longest answer.
    pub tokens: u64,
    /// US dollars at list price; 0 where no price is known.
    pub dollars: f64,
}

/// What a request may take at most: all of its prompt new to the provider's cache, and the longest answer. A prompt that is
/// cached for an hour costs twice the input rate, which `long_cache` says.
pub(super) fn most(request: &Request<'_>, long_cache: bool) -> Most {
    let (prompt, answer) = (estimate(request), max_tokens(request));
    // The estimate may be too low where a higher rate begins.
    let rates = rates(request.model, prompt.saturating_add(prompt / 100 * 15));
    let hour = if long_cache { 2.0 * rates.input } else { 0.0 };
    let input = rates.input.max(rates.cache_write).max(hour);
    let dollars = (prompt as f64 * input + answer as f64 * rates.output) / 1e6;
    Most { tokens: prompt.saturating_add(answer), dollars }
}

/// What a request came to: what the provider counted, or an estimate of what it did not count because the answer was cut off
/// or it never counts. A request that was not `accepted` took nothing.
pub(crate) fn spent(request: &Request<'_>, outcome: &Outcome, accepted: bool) -> Most {
    let mut usage = outcome.message.usage;
    let counted = usage.total_tokens > 0;
    if counted && !outcome.failed() {
        return Most { tokens: uncached(&usage), dollars: usage.cost.total };
    }
    if !counted && !accepted {
        return Most::default();
    }
    let prompt = [usage.input, usage.cache_read, usage.cache_write].into_iter().fold(0, u64::saturating_add);
    if prompt == 0 {
        usage.input = estimate(request);
    }
    let said: u64 = outcome.message.content.iter().map(Block::chars).sum();
    usage.output = usage.output.max(said * 2 / 7);
    price(request.model, &mut usage);
    Most { tokens: uncached(&usage), dollars: usage.cost.total }
}

/// The tokens that were not read from a cache.
fn uncached(usage: &Usage) -> u64 {
    [usage.cache_write, usage.output].into_iter().fold(usage.input, u64::saturating_add)
}

/// The rates of a request whose prompt has so many tokens: a long one makes the whole request dearer, the answer included.
fn rates(model: &Model, prompt: u64) -> &Rates {
    model.tiers.iter().rev().find(|tier| tier.above < prompt).map_or(&model.rates, |tier| &tier.rates)
}

/// Fills in the total and the cost of `usage`, by the model's rates.
pub(super) fn price(model: &Model, usage: &mut Usage) {
    let parts = [usage.input, usage.cache_read, usage.cache_write];
    let prompt = parts.into_iter().fold(0, u64::saturating_add);
    let rates = rates(model, prompt);
    let dollars = |tokens: u64, rate: f64| tokens as f64 * rate / 1e6;
    let hour = usage.cache_write_1h.unwrap_or(0).min(usage.cache_write);
    let mut cost = Cost {
        input: dollars(usage.input, rates.input),
        output: dollars(usage.output, rates.output),
        cache_read: dollars(usage.cache_read, rates.cache_read),
        // What is cached for an hour costs twice the input rate.
        cache_write: dollars(usage.cache_write - hour, rates.cache_write) + dollars(hour, 2.0 * rates.input),
        ..Cost::default()
    };
    cost.total = cost.input + cost.output + cost.cache_read + cost.cache_write;
    if usage.cost.total_from_provider {
        (cost.total, cost.total_from_provider) = (usage.cost.total, true);
    }
    usage.cost = cost;
    if usage.total_tokens == 0 {
        usage.total_tokens = prompt.saturating_add(usage.output);
    }
}

/// The limit for the answer, in tokens: the model's own, or what the context window has room for.
pub(super) fn max_tokens(request: &Request<'_>) -> u64 {
    let (window, limit) = (request.model.context_window, request.model.max_tokens);
    let estimate = estimate(request);
    let least = MIN_MARGIN.min(window / MARGIN_PART);
    let margin = least.max(estimate / 100 * 15);
    let mut room = window.saturating_sub(estimate).saturating_sub(margin);
    if room < MIN_ROOM {
        room = MIN_ROOM.min(window.saturating_sub(estimate).saturating_sub(least));
    }
    limit.min(room).max(1)
}

/// Tokens of the prompt: what the provider counted last, and 3.5 characters per token for what came after that.
fn estimate(request: &Request<'_>) -> u64 {
    let counted = request.messages.iter().enumerate().rev().find_map(|(at, message)| {
        let Message::Assistant(m) = &**message else { return None };
        let failed = matches!(m.stop_reason, StopReason::Error | StopReason::Aborted);
        (!failed && m.usage.total_tokens > 0).then_some((at + 1, m.usage.total_tokens))
    });
    let (from, tokens) = counted.unwrap_or((0, 0));
    let mut chars: u64 = request.messages[from..].iter().map(|m| m.chars()).sum();
    if from == 0 {
        chars += request.system.len() as u64;
        chars += request.tools.iter().map(|t| (t.description.len() + t.parameters.text().len()) as u64).sum::<u64>();
    }
    tokens.saturating_add(chars * 2 / 7)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::model_info::{Rates, Tier};
    use crate::model::test_support::test_model;
    use crate::model::thinking::ThinkingLevel;
    use serde_json::json;
    use std::sync::Arc;

    #[test]
    fn costs_are_by_the_rates() {
        let model =
            Model { rates: Rates { input: 3.0, output: 15.0, cache_read: 0.3, cache_write: 3.75 }, ..test_model() };
        let mut usage = Usage {
            input: 1000,
            output: 2000,
            cache_read: 10_000,
            cache_write: 4000,
            cache_write_1h: Some(1000),
            ..Usage::default()
        };
        price(&model, &mut usage);
        let cost = usage.cost;
        for (is, expected) in [
            (cost.input, 0.003),
            (cost.output, 0.03),
            (cost.cache_read, 0.003),
            (cost.cache_write, 0.01125 + 0.006),
            (cost.total, 0.05325),
        ] {
            assert!((is - expected).abs() < 1e-12, "{cost:?}");
        }
        assert_eq!(usage.total_tokens, 17_000);
    }

    #[test]
    fn long_prompts_cost_more() {
        let rates = |factor: f64| Rates {
            input: 2.0 * factor,
            output: 10.0 * factor,
            cache_read: 0.2 * factor,
            cache_write: 2.5 * factor,
        };
        let tiers = vec![Tier { above: 200_000, rates: rates(2.0) }, Tier { above: 500_000, rates: rates(3.0) }];
        let model = Model { rates: rates(1.0), tiers, ..test_model() };
        // Input, cache read, cache write, of that for an hour, output; then the costs of all, in dollars.
        for (tokens, expected) in [
            // 1e5*2 + 5e4*0.2 + 5e4*2.5 + 1000*10: exactly 200,000 are not above it.
            ([100_000, 50_000, 50_000, 0, 1000], [0.2, 0.01, 0.125, 0.01]),
            // One more, and everything costs twice as much.
            ([100_001, 50_000, 50_000, 0, 1000], [0.400_004, 0.02, 0.25, 0.02]),
            // An hour's cache costs twice that tier's input rate: 4 * 2 dollars for 40,000, 5 for the other 10,000.
            ([100_001, 50_000, 50_000, 40_000, 1000], [0.400_004, 0.02, 0.05 + 0.32, 0.02]),
            // What is read from the cache counts in full.
            ([1, 500_000, 0, 0, 2000], [0.000_006, 0.3, 0.0, 0.06]),
            // The answer's length does not count.
            ([1000, 0, 0, 0, 300_000], [0.002, 0.0, 0.0, 3.0]),
        ] {
            let [input, cache_read, cache_write, hour, output] = tokens;
            let mut usage =
                Usage { input, output, cache_read, cache_write, cache_write_1h: Some(hour), ..Usage::default() };
            price(&model, &mut usage);
            let cost = usage.cost;
            let found = [cost.input, cost.cache_read, cost.cache_write, cost.output, cost.total];
            let all = [expected.as_slice(), &[expected.iter().sum()]].concat();
            for (found, expected) in found.into_iter().zip(all) {
                assert!((found - expected).abs() < 1e-9, "{tokens:?} {cost:?}");
            }
        }
    }

    #[test]
    fn what_a_request_may_take_and_what_it_took() {
        let rates =
            |factor: f64| Rates { input: factor, output: 10.0 * factor, cache_read: 0.1, cache_write: 1.25 * factor };
        let tiers = vec![Tier { above: 100_000, rates: rates(2.0) }];
        let model = Model { rates: rates(1.0), tiers, max_tokens: 1000, context_window: 400_000, ..test_model() };
        let messages = |chars: usize| vec![Arc::new(Message::user("x".repeat(chars)))];
        let asked = |messages: &[Arc<Message>], check: &dyn Fn(&Request<'_>)| {
            check(&Request {
                model: &model,
                system: "",
                messages,
                tools: &[],
                thinking: ThinkingLevel::Off,
                session_id: None,
                session: "",
            });
        };
        let close = |found: Most, tokens: u64, dollars: f64| {
            assert!(found.tokens == tokens && (found.dollars - dollars).abs() < 1e-9, "{found:?} {tokens} {dollars}");
        };
        asked(&messages(7000), &|request| {
            close(most(request, false), 3000, 0.0125);
            close(most(request, true), 3000, 0.014);
        });
        // Near the end of a tier the higher rates are reckoned with.
        asked(&messages(315_000), &|request| close(most(request, false), 91_000, 0.245));
        let outcome = |usage: Usage, stop_reason: StopReason, said: &str| {
            let message = json!({"content": [{"type": "text", "text": said}], "api": "a", "provider": "p", "model": "m",
                "usage": usage, "stopReason": stop_reason, "timestamp": 1});
            Outcome { message: serde_json::from_value(message).expect("a message"), failure: None }
        };
        let counted = || {
            let mut usage = Usage { input: 10, output: 20, cache_read: 1000, cache_write: 4, ..Usage::default() };
            price(&model, &mut usage);
            usage
        };
        let said = "x".repeat(350);
        asked(&messages(7000), &|request| {
            let took = |usage, stop, said: &str, accepted| spent(request, &outcome(usage, stop, said), accepted);
            close(took(counted(), StopReason::Stop, &said, true), 34, 0.000_315);
            // Of an answer that was cut off the provider may have counted the beginning only.
            close(took(counted(), StopReason::Aborted, &said, true), 114, 0.001_115);
            close(took(Usage::default(), StopReason::Stop, &said, true), 2100, 0.003);
            close(took(Usage::default(), StopReason::Aborted, "", true), 2000, 0.002);
            close(took(Usage::default(), StopReason::Error, "", false), 0, 0.0);
        });
    }

    #[test]
    fn the_answer_s_limit_fits_into_the_window() {
        for (window, limit, prompt_tokens, expected) in [
            (200_000, 64_000, 10, 64_000),
            (200_000, 64_000, 140_000, 200_000 - 140_000 - 21_000),
            (200_000, 64_000, 199_000, 1),
            (100_000, 90_000, 40_000, 100_000 - 40_000 - 6000),
            (8192, 4096, 6000, 8192 - 6000 - 512),
            (8192, 4096, 7900, 1),
            (16_384, 16_384, 2000, 16_384 - 2000 - 1024),
        ] {
            let model = Model { context_window: window, max_tokens: limit, ..test_model() };
            let text = "x".repeat(prompt_tokens * 7 / 2);
            let messages = [Arc::new(Message::user(text))];
            let request = Request {
                model: &model,
                system: "",
                messages: &messages,
                tools: &[],
                thinking: ThinkingLevel::Off,
                session_id: Some("s"),
                session: "s",
            };
            assert_eq!(max_tokens(&request), expected, "{window} {limit} {prompt_tokens}");
        }
    }
}
