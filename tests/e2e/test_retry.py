"""Requests that are tried again: when, how often, and how long a server may keep everybody waiting."""

import time

from support.model_script import Failure

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
    pauses = [later - earlier for earlier, later in zip(times, times[1:])]
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
    assert time.monotonic() - begun < 2
