"""Budgets: nothing is asked of a model that was not reserved, and neither crashes nor races change what may be spent."""

import itertools
import json
import os
import re
import signal
import threading
from functools import partial
from pathlib import Path

import pytest

from support.bus import StreamFailed
from support.daemon import BINARY
from support.model_script import Gate, Text, ToolCall, Usage
from support.waiting import eventually

FAULTY = os.environ.get("NATS_PI_BRIDGE_FAULTY") or f"{BINARY}-fault"

# The writes that make a session, before anything can be spent: its file's header and three facts, and the daemon's note of it.
CREATION = 5
# What the scripted model costs, US dollars a token, and its longest answer.
INPUT, OUTPUT = 3e-6, 15e-6
LONGEST = 8192 * OUTPUT

pytestmark = pytest.mark.any_server


def limited(new_daemon, **budgets):
    daemon = new_daemon()
    daemon.config["budgets"] = budgets
    return daemon.start()


def answer(text="done", **usage):
    return [Text(text), Usage(**usage)]


def exceeded(stream):
    """The limit that a stream ends with, and what is said of it."""
    failed = stream.failure()
    assert (failed.word, failed.code) == ("budget_exceeded", 402)
    return re.fullmatch(r"error: budget_exceeded: (\w+\.\w+): (.*)", failed.text).groups()


def answered(streams, why):
    """How many have their answer; all others ended with that limit."""
    done = 0
    for stream in streams:
        try:
            assert stream.text() == "done"
            done += 1
        except StreamFailed as failed:
            assert f"budget_exceeded: {why}" in failed.text
    return done


def used(figures, period, unit):
    return figures["budgets"][period][unit]["used"]


def test_money_is_settled_with_what_a_request_came_to(new_daemon, model):
    daemon = limited(new_daemon, session={"money": 0.2}, day={"money": 10, "requests": 100})
    model.answer(lambda _request: answer(input=1000, output=2000))
    assert daemon.session("s", "go").text() == "done"
    facts = daemon.inspect("s")
    assert facts["budgets"] == {
        "session": {"money": {"used": pytest.approx(0.033), "allowed": 0.2}},
        "day": {"money": {"used": pytest.approx(0.033), "allowed": 10}, "requests": {"used": 1, "allowed": 100}},
    }
    assert daemon.prompt("s", "go").text() == "done"
    limit, words = exceeded(daemon.prompt("s", "go"))
    assert limit == "session.money" and words.startswith("$0.0660 of $0.2000 are used, and the next request may take $0.1")
    assert len(model.requests) == 2
    (row,) = daemon.list()["sessions"]
    assert used(row, "session", "money") == pytest.approx(0.066)
    # Another session has its own, and the day is the same for both.
    assert daemon.session("t", "go").text() == "done"
    assert used(daemon.inspect("t"), "session", "money") == pytest.approx(0.033)
    for session in "st":
        assert used(daemon.inspect(session), "day", "money") == pytest.approx(0.099)
    stats = [json.loads(daemon.bus.ask(f"$SRV.STATS.pi-exec.{facts['instanceId']}").data)]
    assert used(stats[0]["endpoints"][0]["data"], "session", "money") == pytest.approx(0.066)


def test_a_reservation_counts_while_its_request_runs(new_daemon, model):
    daemon = limited(new_daemon, day={"money": 0.2})
    gate = Gate()
    model.script(["begun", gate, Usage(input=10, output=10)])
    first = daemon.session("s", "go")
    gate.wait_reached()
    limit, _ = exceeded(daemon.run("go"))
    assert limit == "day.money" and LONGEST < used(daemon.inspect("s"), "day", "money") < 0.2
    gate.open()
    first.text()
    model.script("done")
    assert daemon.run("go").text() == "done"


def test_each_prompt_has_its_own_requests(new_daemon, model):
    daemon = limited(new_daemon, prompt={"requests": 2})
    model.script([ToolCall("bash", {"command": "true"})], "one")
    assert daemon.session("s", "go").text() == "one"
    model.script([ToolCall("bash", {"command": "true"})], [ToolCall("bash", {"command": "true"})])
    assert exceeded(daemon.prompt("s", "go")) == ("prompt.requests", "2 of 2 are used, and the next request may take 1")
    assert len(model.requests) == 4


def test_tokens_are_those_that_no_cache_had(new_daemon, model):
    daemon = limited(new_daemon, session={"tokens": 100_000})
    model.script(answer(input=100, output=50, cache_read=5000, cache_write=7))
    daemon.session("s", "go").text()
    assert used(daemon.inspect("s"), "session", "tokens") == 157


def test_events_say_which_limit_it_was(new_daemon, model):
    daemon = limited(new_daemon, session={"requests": 1})
    events = daemon.bus.listen(f"agents.ev.{daemon.owner}.s.budget_exceeded")
    model.script("done")
    daemon.session("s", "go", events=True).text()
    exceeded(daemon.prompt("s", "go"))
    event = json.loads(events.message().data)
    assert event["data"] == {"type": "budget_exceeded", "limit": "session.requests", "used": 1, "allowed": 1, "needed": 1}


@pytest.mark.parametrize("steps", [["begun", Gate()], [ToolCall("bash", {"command": "sleep 600"})]], ids=["request", "tool"])
def test_time_ends_what_runs(new_daemon, model, steps):
    daemon = limited(new_daemon, prompt={"time": 0.4}, session={"time": 30})
    model.script(steps)
    stream = daemon.session("s", "go")
    assert exceeded(stream) == ("prompt.time", "0.4 s of 0.4 s are used")
    assert 0.4 <= used(daemon.inspect("s"), "session", "time") < 30
    model.script("done")
    assert daemon.prompt("s", "go").text() == "done"


def test_a_session_may_have_less_and_never_more(new_daemon, model):
    daemon = limited(new_daemon, session={"requests": 2})
    model.answer(lambda _request: "done")
    refusal = daemon.refusal({"sessionMode": "session", "sessionId": "s", "body": "go", "cwd": str(daemon.cwd),
                              "budgets": {"session": {"requests": 3}}})
    assert (refusal.error, refusal.code) == ("invalid_request", 400)
    assert refusal.document["message"] == "budgets.session.requests can only be made narrower than 2"
    daemon.session("s", "go", budgets={"prompt": {"tokens": 100_000}}).text()
    configure = f"{daemon.subject('s')}.configure"
    for budgets, words in [
        ({"session": {"requests": 3}}, "budgets.session.requests can only be made narrower than 2"),
        ({"session": {"requests": "1"}}, "invalid_request: budgets.session.requests must be a number >= 0"),
    ]:
        assert daemon.bus.ask_json(configure, {"budgets": budgets})["message"] == words
    daemon.bus.ask_json(configure, {"budgets": {"session": {"requests": 1}}})
    assert exceeded(daemon.prompt("s", "go"))[0] == "session.requests"
    # Over the agent protocol, where nothing is limited but by the request.
    spawn = daemon.bus.ask_json(f"agents.spawn.pi-exec.{daemon.owner}.control",
                                {"cwd": str(daemon.cwd), "session_id": "t", "budgets": {"prompt": {"requests": 0}}})
    assert spawn["session_id"] == "t"
    assert exceeded(daemon.prompt("t", "go"))[0] == "prompt.requests"
    daemon.signal()
    assert daemon.wait_exit() == 0
    daemon.start()
    for session, limit in (("s", "session.requests"), ("t", "prompt.requests")):
        assert exceeded(daemon.prompt(session, "go"))[0] == limit
    assert daemon.inspect("s")["budgets"]["prompt"]["tokens"]["allowed"] == 100_000


def test_what_is_no_budget_ends_the_start(new_daemon):
    daemon = new_daemon()
    daemon.config["budgets"] = {"day": {"euros": 5}}
    done = daemon.run_to_end()
    assert done.returncode == 78 and "budgets.day.euros is no limit" in done.stderr


def test_a_compaction_is_paid_for(new_daemon, model):
    daemon = new_daemon()
    daemon.write_agent_file("settings.json", {"retry": {"enabled": False}, "compaction": {"keepRecentTokens": 50}})
    daemon.config["budgets"] = {"session": {"requests": 3}}
    daemon.start()
    long = "All work and no play. " * 100
    model.answer(lambda _request: answer("fine", input=1, output=1))
    daemon.session("s", long).text()
    daemon.prompt("s", long).text()
    compact = f"{daemon.subject('s')}.compact"
    assert "summary" in daemon.bus.ask_json(compact)
    assert used(daemon.inspect("s"), "session", "requests") == 3
    assert exceeded(daemon.prompt("s", "go"))[0] == "session.requests"


def test_two_daemons_share_a_day(new_daemon, model, tmp_path):
    one = new_daemon()
    two = new_daemon(owner=one.owner)
    for daemon in (one, two):
        daemon.config["budgets"] = {"day": {"requests": 4}}
        daemon.config["budgetDir"] = str(tmp_path / "shared")
        daemon.start()
    model.answer(lambda _request: "done")
    # The server has either of them do some.
    streams = [one.run("go") for _ in range(8)]
    assert answered(streams, "day.requests: 4 of 4") == 4 == len(model.requests)
    assert (tmp_path / "shared" / one.owner).stat().st_mode & 0o777 == 0o700


def test_a_hundred_sessions_race_for_the_last_dollar(new_daemon, model):
    """Whatever they are granted is within the limit, also while all of it runs; nothing is granted beyond it."""
    daemon = limited(new_daemon, day={"money": 1})
    running, most, lock = 0, 0, threading.Lock()

    def spend(_request):
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        return answer(input=1000, output=1000)

    model.answer(spend)
    streams = [daemon.run("go") for _ in range(100)]
    done = answered(streams, "day.money")
    spent = done * (1000 * INPUT + 1000 * OUTPUT)
    assert done == len(model.requests) and 0 < spent <= 1
    # Each reserves more than the longest answer costs, so that no more can have been granted at once.
    assert done >= int((1 - LONGEST * 1.2) / (LONGEST * 1.2))
    model.requests.clear()
    facts = json.loads(daemon.bus.ask("$SRV.STATS.pi-exec").data)
    assert used(facts["endpoints"][0]["data"], "day", "money") == pytest.approx(spent)


def counted(daemon):
    """What the ledger's lines add up to, of requests: those that were settled, and the reservations that were not."""
    path = daemon.state_dir / "budgets/ledger.jsonl"
    reserved = settled = 0
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        reserved += entry.get("reserve", {"most": [0, 0, 0, 0]})["most"][2]
        settled += "settle" in entry
    return reserved, settled


def is_dead_or_done(daemon):
    return not daemon.running() or not daemon.inspect_if_there("s")["activeRequest"]


def is_quiet(daemon):
    return not any(row["activeRequest"] for row in daemon.list()["sessions"])



@pytest.mark.skipif(not Path(FAULTY).exists(), reason="needs a build with the feature `fault`; scripts/test makes one")
def test_no_crash_makes_spent_what_is_not_counted(new_daemon, model):
    """The daemon dies in or behind each write of a prompt with two requests, and goes on; the model never sees more than is
    counted."""

    def step(request):
        call = ToolCall("bash", {"command": "true"}, id=f"call_{len(request.tool_results)}")
        return [Text("Done.") if request.tool_results else call, Usage(input=5, output=5)]

    def asked():
        """The requests of this round; one of a process that was killed before may still have come."""
        return sum(f"go {n}." in json.dumps(request.body) for request in model.requests)

    model.answer(step)
    for n in itertools.count(CREATION + 1):
        daemon = new_daemon(binary=FAULTY)
        daemon.config["budgets"] = {"day": {"requests": 3}}
        daemon.environment["NATS_PI_BRIDGE_FAULT"] = f"write:{n}:{'torn' if n % 2 else 'kill-after'}"
        daemon.start()
        daemon.session("s", f"go {n}.")
        eventually(partial(is_dead_or_done, daemon), "dead or done")
        if daemon.running():
            assert counted(daemon) == (2, 2)
            break
        assert daemon.wait_exit() == -signal.SIGKILL
        before, _ = counted(daemon)
        assert asked() <= before <= asked() + 1, n
        del daemon.environment["NATS_PI_BRIDGE_FAULT"]
        daemon.start()
        eventually(partial(is_quiet, daemon), "it has gone on")
        # In this order, as more may be counted and asked at any time.
        requests = asked()
        reserved, _ = counted(daemon)
        assert requests <= reserved <= 3, n
        daemon.close()
    assert n > 10
