"""A host that drains, or ends, leaves its sessions to the other hosts: nobody notices, nothing is lost and nothing runs twice."""

import signal
import time

import pytest

from support import agents
from support.bridge import Bridge
from support.bus import RESTART
from support.fleet import LONG_CARD, TOOLS
from support.model_script import Text, ToolCall
from support.waiting import eventually

# More prompts than come while a session goes from one host to the other.
MANY = 500
CALLS = [f"call{number}" for number in range(TOOLS)]


@pytest.fixture
def hosts(fleet):
    """Two hosts that know each other."""
    fleet.start(fleetCardTime=LONG_CARD)
    for host in fleet.hosts:
        eventually(lambda host=host: fleet.has_card(host), "it has a card")
    return fleet


def drain(host, on=True):
    with Bridge(host.socket) as client:
        return client.ask("drain" if on else "undrain")


def terminate(host):
    host.signal(signal.SIGTERM)


def is_at(fleet, name, host):
    eventually(lambda: fleet.has(host, name), f"{name} is there")
    for other in fleet.others(host):
        eventually(lambda other=other: not fleet.has(other, name), f"{name} is nowhere else")


@pytest.mark.parametrize("leave", [drain, terminate], ids=["drain", "SIGTERM"])
def test_an_idle_session_goes_to_another_host(hosts, leave):
    hosts.model.answer(lambda request: request.prompts[-1].upper())
    assert hosts.session("s", "hello", events=True).text() == "HELLO"
    owner = hosts.owner_of("s")
    (other,) = hosts.others(owner)
    stops = hosts.bus.listen(f"agents.ev.{owner.owner}.s.bridge_stop")
    leave(owner)
    assert b'"reason":"moved"' in stops.message().data
    is_at(hosts, "s", other)
    # Nobody had to look for a host that is gone, and no prompt in between is refused.
    assert other.prompt("s", "again").text() == "AGAIN"
    assert hosts.model.requests[-1].prompts == ["hello", "again"]
    assert [head["kind"] for head in hosts.records("s") if head["kind"] in ("new", "give", "own")] == ["new", "give", "own"]
    if leave is terminate:
        assert owner.wait_exit() == 0


@pytest.mark.parametrize("leave", [drain, terminate], ids=["drain", "SIGTERM"])
@pytest.mark.parametrize("answer", [0, TOOLS])
def test_a_turn_goes_on_at_another_host(hosts, leave, answer):
    """It leaves before the next tool, or at its end, and its caller does not notice; the prompt that waits goes along."""
    gate, stream = hosts.at_work(answer)
    owner = hosts.owner_of("s")
    (other,) = hosts.others(owner)
    waiting = owner.prompt("s", "next")
    owner.wait_session("s", lambda facts: facts["queuedRequests"] == 1, "the second one waits")
    leave(owner)
    owner.wait_log("draining|shutting down")
    gate.open()
    assert stream.text() == "0 1 2 3 end" and not stream.restarts
    assert waiting.text() == "3 end" and not waiting.restarts
    is_at(hosts, "s", other)
    assert hosts.calls() == CALLS


def test_what_is_in_the_middle_of_a_tool_goes_on_when_the_time_is_up(fleet):
    """As after a crash, but at once: its caller gets a mark, and the tool is ended and does not run again."""
    hosts = fleet.start(fleetCardTime=LONG_CARD, grace=0)
    begun = hosts.cwd / "begun"
    tool = ToolCall("bash", {"command": f"echo once >> {hosts.log}; touch {begun}; sleep 60; echo twice >> {hosts.log}"})
    hosts.model.script([Text("first "), tool], "second")
    stream = hosts.session("s", "go")
    eventually(begun.exists, "the tool has begun")
    owner = hosts.owner_of("s")
    (other,) = hosts.others(owner)
    eventually(lambda: hosts.has_card(other), "the other one can be asked")
    terminate(owner)
    assert stream.text().endswith("second")
    assert [mark.headers[RESTART] for _, mark in stream.restarts] == ["2"]
    ((result, _),) = hosts.model.requests[-1].tool_results
    assert "interrupted, outcome unknown" in result
    assert owner.wait_exit() == 0
    is_at(hosts, "s", other)
    assert hosts.calls() == ["once"]


def test_where_no_host_takes_it_a_session_stays(hosts):
    gate, stream = hosts.at_work(0)
    owner = hosts.owner_of("s")
    (other,) = hosts.others(owner)
    drain(other)
    drain(owner)
    owner.wait_log("draining")
    gate.open()
    assert stream.text() == "0 1 2 3 end" and not stream.restarts
    assert hosts.has(owner, "s") and not hosts.has(other, "s")
    # It goes as soon as there is a host that takes it.
    drain(other, on=False)
    is_at(hosts, "s", other)
    hosts.model.answer(lambda request: request.prompts[-1].upper())
    assert other.prompt("s", "again").text() == "AGAIN"


def test_a_session_that_cannot_move_stays_with_its_host(hosts):
    hosts.model.answer(lambda request: request.prompts[-1].upper())
    assert hosts.hosts[0].session("s", "hello").text() == "HELLO"
    owner = hosts.owner_of("s")
    drain(owner)
    assert owner.prompt("s", "again").failure().word == "draining"
    drain(owner, on=False)
    assert owner.prompt("s", "again").text() == "AGAIN"
    assert hosts.has(owner, "s")


def test_files_that_came_with_prompts_are_not_left_behind(hosts):
    hosts.model.answer(lambda request: request.prompts[-1].partition("\n")[0].upper())
    assert hosts.session("s", "hello").text() == "HELLO"
    owner = hosts.owner_of("s")
    wire = agents.prompt(owner, "s", {"prompt": "look", "attachments": [{"filename": "note", "content": "bm90ZQ=="}]})
    wire.ack().rest()
    drain(owner)
    assert owner.prompt("s", "again").failure().word == "draining"
    (note,) = (owner.state_dir / "s.files").rglob("*note*")
    assert note.read_text() == "note"


def test_sessions_go_back_and_forth(hosts):
    """Prompts that come at any time are answered, each once and in order."""
    hosts.model.answer(lambda request: request.prompts[-1].upper())
    assert hosts.session("s", "p0").text() == "P0"
    owner = hosts.owner_of("s")
    sent = 0
    for _ in range(4):
        (other,) = hosts.others(owner)
        streams = []
        drain(owner)
        while not hosts.has(other, "s") or hosts.has(owner, "s") or not streams:
            assert len(streams) < MANY, "the session does not go"
            sent += 1
            streams.append((f"P{sent}", owner.prompt("s", f"p{sent}")))
            time.sleep(0.02)
        for text, stream in streams:
            assert stream.text() == text and not stream.restarts
        drain(owner, on=False)
        owner = other
    assert sorted(hosts.model.requests[-1].prompts) == sorted(f"p{number}" for number in range(sent + 1))
