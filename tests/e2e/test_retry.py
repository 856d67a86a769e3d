"""Requests that are tried again: when, how often, and how long a server may keep everybody waiting."""

import json
import time
from itertools import pairwise

import pytest

from support.daemon import MODELS
from support.model_script import Failure, Raw

pytestmark = pytest.mark.any_server

SLOW_DOWN = "slow down"
BUSY = Failure(529, "overloaded")


def settings(daemon, **retry):
    daemon.write_agent_file("settings.json", {"retry": {"baseDelayMs": 20, **retry}})


def test_retries_can_be_switched_off(daemon, model):
    settings(daemon, enabled=False)
    model.script(BUSY)
    assert "overloaded" in daemon.run("x").failure().text
    assert len(model.requests) == 1


def test_each_pause_is_twice_as_long_as_the_one_before(daemon, model):
    settings(daemon, baseDelayMs=150)
    times = []

    def answer(_request):
        times.append(time.monotonic())
        return Failure(500, "oops") if len(times) < 4 else "fine"

    model.answer(answer)
    assert daemon.run("x").text() == "fine"
    pauses = [later - earlier for earlier, later in pairwise(times)]
    assert [pause >= least for pause, least in zip(pauses, (0.15, 0.3, 0.6))] == [True] * 3, pauses


def test_the_count_of_retries_begins_anew_with_each_answer(daemon, model):
    settings(daemon, maxRetries=1)
    model.script(Failure(500, "oops"), "one", Failure(500, "oops"), "two")
    assert daemon.session("s", "x").text() == "one"
    assert daemon.prompt("s", "y").text() == "two"


def test_a_wait_beyond_the_limit_is_waited_for_in_parts(daemon, model):
    """The server's second is longer than what one pause may last; the model is not asked before it is over."""
    settings(daemon, provider={"maxRetryDelayMs": 300})
    model.script(Failure(429, SLOW_DOWN, {"Retry-After": "1"}), "fine")
    begun = time.monotonic()
    assert daemon.run("x").text() == "fine"
    assert time.monotonic() - begun >= 1.0
    assert len(model.requests) == 2


def test_a_wait_beyond_all_retries_ends_the_run_at_once(daemon, model):
    model.script(Failure(429, SLOW_DOWN, {"Retry-After": "3600"}))
    begun = time.monotonic()
    failed = daemon.run("x").failure()
    assert time.monotonic() - begun < 5
    assert "Server requested 3600s retry delay (max: 60s)" in failed.text and SLOW_DOWN in failed.text
    assert len(model.requests) == 1


def test_one_sessions_limit_holds_for_all_who_use_the_key(daemon, model):
    model.script(Failure(429, SLOW_DOWN, {"Retry-After": "1"}))
    model.answer(lambda _request: "fine")
    first = daemon.run("x")
    model.wait_for(1)
    refused = time.monotonic()
    others = [daemon.run("y") for _ in range(5)]
    assert [stream.text() for stream in (first, *others)] == ["fine"] * 6
    # The first request of the others may have left before the refusal arrived; none was refused.
    assert len(model.requests) == 7
    assert time.monotonic() - refused >= 0.9


def test_stop_ends_the_pause_before_a_retry(daemon, model):
    settings(daemon, baseDelayMs=60_000)
    model.script(Failure(500, "oops"))
    stream = daemon.session("s", "x")
    daemon.wait_log("attempt 1 of 3 in 60000 ms")
    begun = time.monotonic()
    assert daemon.stop_session("s")["ok"]
    assert stream.failure().text.startswith("error: ")
    assert time.monotonic() - begun < 10


def openai_error(message, **fields):
    return {"error": {"message": message, **fields}}


QUOTA = openai_error("You exceeded your current quota, please check your plan and billing details.", code="insufficient_quota")
RETRY_INFO = {"error": {"code": 429, "message": "Quota exceeded, see billing", "status": "RESOURCE_EXHAUSTED", "details": [
    {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "1s"}]}}


@pytest.mark.parametrize(
    "failure",
    [
        Failure(429, QUOTA, {"Retry-After": "1"}),
        Failure(429, QUOTA, {"Retry-After-Ms": "1000"}),
        Failure(429, QUOTA, {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "1s"}),
        Failure(429, openai_error("Tokens are used up. Please try again in 1s. See https://x/billing", code="insufficient_quota")),
        Failure(429, openai_error("Quota exceeded. Please retry after 1 seconds.")),
        Failure(429, RETRY_INFO),
        Failure(429, {"error": {"message": "out of quota", "retry_after": 1}}),
        Failure(402, openai_error("more credits are needed"), {"Retry-After": "1"}),
        Failure(503, "<html>Service Unavailable</html>", {"Retry-After": "1"}),
    ],
    ids=["header", "milliseconds", "limit", "words", "azure", "RetryInfo", "field", "402", "503"],
)
@pytest.mark.parametrize("spec", MODELS.values(), ids=MODELS)
def test_a_stated_wait_is_waited_for_whatever_else_is_said(daemon, model, spec, failure):
    settings(daemon)
    model.script(failure, "fine")
    begun = time.monotonic()
    assert daemon.run("x", model=spec).text() == "fine"
    assert time.monotonic() - begun >= 0.95
    assert len(model.requests) == 2


@pytest.mark.parametrize(
    "failure",
    [
        Failure(429, QUOTA),
        Failure(429, openai_error("The quota of this account is used up; see the billing page.")),
        Failure(429, QUOTA, {"x-ratelimit-remaining-requests": "99", "x-ratelimit-reset-requests": "1s"}),
        Failure(402, openai_error("Insufficient credits. Add more credits and retry the request.")),
        Failure(400, openai_error("the schema has 'default' in 'timeout'; 503, try again in 1s")),
        Failure(400, openai_error("Provider returned error", code=400), {"Retry-After": "1"}),
        Failure(401, openai_error("session timed out, rate limit")),
        Failure(403, openai_error("overloaded with requests of others; error 500")),
        Failure(404, openai_error("no such model: gpt-500, server_error")),
        Failure(422, openai_error("connection reset")),
    ],
    ids=["quota", "no money", "another limit", "credits", "words", "wait", "401", "403", "404", "422"],
)
def test_what_stays_wrong_is_told_at_once(daemon, model, failure):
    settings(daemon)
    model.script(failure)
    failed = daemon.run("x", model=MODELS["openai-completions"]).failure()
    assert str(failure.status) in failed.text
    assert failed.word == "model_error" and failed.code == 500
    assert len(model.requests) == 1


@pytest.mark.parametrize("status", [408, 409, 425, 429, 499, 500, 502, 503, 504, 520, 524, 529])
def test_what_goes_by_is_tried_again(daemon, model, status):
    settings(daemon)
    model.script(Failure(status, "no words that say so"), "fine")
    assert daemon.run("x").text() == "fine"


@pytest.mark.parametrize(
    ("error", "again"),
    [
        ({"message": "read ECONNRESET", "type": "upstream"}, True),
        ({"message": "m", "type": "server_error"}, True),
        ({"message": "m", "code": "rate_limit_exceeded"}, True),
        ({"message": "m", "code": 502}, True),
        ("overloaded", True),
        ({"message": "no 'default' in 'timeout'", "type": "invalid_request_error"}, False),
        ({"message": "503", "code": "invalid_api_key"}, False),
        ({"message": "pay", "code": "insufficient_quota"}, False),
        ({"message": "Provider returned error", "code": 400, "metadata": {"raw": "upstream server error"}}, False),
        ({"message": "This account is not active", "type": "account_error"}, False),
    ],
    ids=str,
)
def test_errors_inside_a_stream_are_judged_like_answers(daemon, model, error, again):
    settings(daemon)
    model.script([Raw(f"data: {json.dumps({'error': error})}\n\n")], "fine")
    stream = daemon.run("x", model=MODELS["openai-completions"])
    if again:
        assert stream.text() == "fine"
    else:
        assert error["message"] in stream.failure().text
    assert len(model.requests) == 1 + again


def test_a_server_that_comes_back_is_found(daemon, model):
    """Nothing is said about a request when nobody listens; it is tried as often as any other."""
    settings(daemon)
    model.close()
    failed = daemon.run("x").failure()
    assert failed.text.startswith("error: Connection error: ")
    assert len([line for line in daemon.log if "attempt" in line]) == 3
