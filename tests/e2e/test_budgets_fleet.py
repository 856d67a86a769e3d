"""Budgets of a day over several hosts: all of them together spend no more than it has, whichever of them dies or is cut off."""

import itertools
import json
import os
import signal
from functools import partial
from pathlib import Path

import pytest

from support.bridge import Bridge
from support.daemon import BINARY
from support.fleet import LONG_CARD, Fleet
from support.fleet_chaos import Servers
from support.model_script import Gate, Text, ToolCall, Usage
from support.waiting import eventually
from test_budgets import LONGEST, answered, counted, exceeded, used
from test_metrics import figures, shown

FAULTY = os.environ.get("NATS_PI_BRIDGE_FAULTY") or f"{BINARY}-fault"
# What a document counts, and how many of that are one of a budget's.
UNITS = {"money": 1e9, "tokens": 1, "requests": 1, "time": 1000}
FIRST_WRITE = 4


def start(fleet, count=2, replicas=1, **day):
    fleet.start(count, budgets={"day": day}, metricsListen="127.0.0.1:0", fleetCardTime=LONG_CARD, fleetReplicas=replicas)


def stored(fleet, unit="requests"):
    """What all hosts have spent, as the server has it. A test may begin before midnight."""
    ask, subject = fleet.bus.ask_json, f"ag.mem.{fleet.hosts[0].owner}.day.*"
    days = ask("$JS.API.STREAM.INFO.AGM", {"subjects_filter": subject})["state"].get("subjects") or {}
    documents = [ask("$JS.API.DIRECT.GET.AGM", {"last_by_subj": day}) for day in days]
    return sum(document["spent"][list(UNITS).index(unit)] for document in documents) / UNITS[unit]


def metric(host, unit="requests"):
    """What a host shows of all hosts."""
    return figures(host)[shown("pi_exec_budget_day", unit=unit, what="used")]


def at_each(fleet, **fields):
    """A session of each host, in the order of the hosts; and how many prompts that took."""
    found, prompts = {}, 0
    while len(found) < len(fleet.hosts):
        name = f"at{prompts}"
        assert fleet.hosts[0].session(name, "begin", **fields).text()
        found.setdefault(fleet.hosts.index(fleet.owner_of(name)), name)
        prompts += 1
    return [found[place] for place in range(len(found))], prompts


@pytest.mark.parametrize("servers", [1, 3])
def test_racing_hosts_spend_exactly_what_a_day_has(servers, new_daemon, own_bus, model, tmp_path):
    made = Servers(tmp_path, servers)
    try:
        race(Fleet(made.all[0], own_bus(made.urls), new_daemon, model), model, servers)
    finally:
        made.stop()


def race(fleet, model, replicas):
    start(fleet, 3, replicas, requests=40)
    model.answer(lambda _request: "done")
    streams = [fleet.hosts[0].run("go") for _ in range(120)]
    done = answered(streams, "day.requests: 40 of 40 are used")
    assert (done, len(model.requests), stored(fleet)) == (40, 40, 40)
    spent = [counted(host) for host in fleet.hosts]
    assert sum(settled for _, settled in spent) >= 40 and sum(1 for reserved, _ in spent if reserved) > 1, spent
    for host in fleet.hosts:
        eventually(lambda host=host: metric(host) == 40, "each shows what all have spent")
    # Another host finds it spent, and so does one that was started again.
    fleet.hosts[0].signal()
    assert fleet.hosts[0].wait_exit() == 0
    fleet.hosts[0].start()
    assert exceeded(fleet.hosts[0].run("go"))[0] == "day.requests" and len(model.requests) == 40
    eventually(lambda: metric(fleet.hosts[0]) == 40, "it is shown after a restart")


def test_a_difference_goes_back_to_all(fleet, model):
    start(fleet, money=2 * LONGEST)
    model.answer(lambda _request: ["done", Usage(input=10, output=10)])
    (one, two), _ = at_each(fleet)
    gate = Gate()
    model.answer(lambda request: ["begun", gate, Usage(input=10, output=10)] if request.prompts[-1] == "go" else "done")
    first = fleet.hosts[0].prompt(one, "go")
    gate.wait_reached()
    assert exceeded(fleet.hosts[0].prompt(two, "other"))[0] == "day.money"
    for name in (one, two):
        eventually(lambda name=name: used(fleet.hosts[0].inspect(name), "day", "money") > LONGEST, "both show what is reserved")
    gate.open()
    first.text()
    assert fleet.hosts[0].prompt(two, "other").text() == "done"
    eventually(lambda: stored(fleet, "money") < 0.1 * LONGEST, "it is settled")
    rows = fleet.hosts[0].list()["sessions"]
    assert all(used(row, "day", "money") < 2 * LONGEST for row in rows)


def test_what_a_host_that_dies_had_reserved_stays_spent(fleet, model):
    start(fleet, requests=10)
    model.answer(lambda _request: "done")
    (one, two), before = at_each(fleet)
    gate = Gate()
    model.answer(lambda request: ["begun", gate] if request.prompts[-1] == "go" and not gate.opened.is_set() else "done")
    fleet.hosts[0].prompt(one, "go")
    gate.wait_reached()
    fleet.hosts[0].signal(signal.SIGKILL)
    fleet.hosts[0].wait_exit()
    gate.open()
    assert stored(fleet) == before + 1
    assert fleet.hosts[1].prompt(two, "other").text() == "done"
    # It goes on with the prompt, which takes another request.
    fleet.hosts[0].start()
    eventually(lambda: len(model.requests) == before + 3, "it has gone on")
    eventually(lambda: metric(fleet.hosts[0]) == metric(fleet.hosts[1]) == before + 3, "both show all of it")
    for _ in range(10 - before - 3):
        assert fleet.hosts[1].prompt(two, "other").text() == "done"
    assert exceeded(fleet.hosts[1].prompt(two, "other"))[0] == "day.requests"
    assert len(model.requests) == 10


@pytest.mark.parametrize("way", ["it comes back", "abort"])
def test_a_request_waits_while_nats_is_away(fleet, model, way):
    start(fleet, requests=10)
    gate = Gate()
    tool = ToolCall("bash", {"command": f"touch {fleet.cwd / 'ran'}"})
    model.answer(lambda request: ["done"] if request.tool_results else [Text("begun "), gate, tool])
    # Nothing of it is stored, so that its tools need no server.
    stream = fleet.hosts[0].session("s", "go", persist=False)
    stream.until("begun ")
    owner = next(host for host in fleet.hosts if "session s started" in host.log_text())
    fleet.server.stop()
    owner.wait_log("disconnected")
    gate.open()
    owner.wait_log("requests to models wait")
    assert (fleet.cwd / "ran").exists() and len(model.requests) == 1
    with Bridge(owner.session_socket("s")) as client:
        if way == "abort":
            assert client.ask("abort")
            eventually(lambda: not client.ask("inspect")["activeRequest"], "it has ended")
        fleet.server.start()
        if way == "abort":
            owner.wait_log("reconnected")
            model.answer(lambda _request: "again")
            eventually(lambda: stored(fleet) == 1, "what was aborted is not counted")
            assert fleet.hosts[0].prompt("s", "again").text() == "again"
        else:
            assert stream.text() == "begun done"
    eventually(lambda: stored(fleet) == len(model.requests) == 2, "each request is counted once")


def test_hosts_share_the_time_of_a_day(fleet, model):
    start(fleet, time=11)
    model.answer(lambda _request: "done")
    (one, two), _ = at_each(fleet)
    model.answer(lambda _request: [ToolCall("bash", {"command": "sleep 600"})])
    # The first slice is 10 s long, and what is left is the other one's.
    fleet.hosts[0].prompt(one, "go")
    eventually(lambda: used(fleet.hosts[0].inspect(one), "day", "time") > 9, "the first has its time")
    limit, words = exceeded(fleet.hosts[0].prompt(two, "go"))
    assert limit == "day.time" and words.endswith("of 11 s are used")
    eventually(lambda: stored(fleet, "time") > 10.5, "both slices are counted")
    assert stored(fleet, "time") <= 11
    fleet.hosts[0].bus.ask_json(f"{fleet.hosts[0].subject(one)}.abort")
    eventually(lambda: stored(fleet, "time") < 10, "what it did not use goes back")


@pytest.mark.skipif(not Path(FAULTY).exists(), reason="needs a build with the feature `fault`; scripts/test makes one")
def test_no_crash_makes_spent_what_is_not_counted(fleet, model):
    """A host dies in or behind each write of a prompt with two requests; what the model has seen is counted, and at most one more."""

    def step(request):
        call = ToolCall("bash", {"command": "true"}, id=f"call_{len(request.tool_results)}")
        return [Text("Done.") if request.tool_results else call, Usage(input=5, output=5)]

    def asked():
        """The requests of this round; one of a process that was killed before may still have come."""
        return sum(f"go {n}." in json.dumps(request.body) for request in model.requests)

    def is_dead_or_done(daemon):
        return not daemon.running() or (asked() == 2 and not daemon.inspect_if_there("s")["activeRequest"])

    model.answer(step)
    for n in itertools.count(FIRST_WRITE):
        fleet.hosts.clear()
        daemon = fleet.host(budgets={"day": {"requests": 3}})
        daemon.binary = FAULTY
        daemon.environment["NATS_PI_BRIDGE_FAULT"] = f"write:{n}:{'torn' if n % 2 else 'kill-after'}"
        daemon.start()
        daemon.session("s", f"go {n}.")
        eventually(partial(is_dead_or_done, daemon), "dead or done")
        if daemon.running():
            eventually(lambda: stored(fleet) == asked() == 2, "each request is counted once")
            break
        assert daemon.wait_exit() == -signal.SIGKILL
        assert asked() <= stored(fleet) <= asked() + 1, n
        daemon.close()
    assert n > FIRST_WRITE + 3
