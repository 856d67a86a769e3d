"""`--replace` while somebody decides: what was spent, what is recorded and what waits for an approval is the same afterwards."""

import itertools
import json

import pytest

from support.bridge import Bridge
from support.model_script import Gate, Text, ToolCall, Usage
from support.waiting import eventually

pytestmark = pytest.mark.any_server

ASK = {"tool": "bash", "match": "touch*", "do": "ask"}
# What the scripted model costs, US dollars a token.
INPUT, OUTPUT = 3e-6, 15e-6


def started(new_daemon, **config):
    daemon = new_daemon()
    daemon.config.update(rules=[ASK], unattended="wait", **config)
    return daemon.start()


def answer(*pieces):
    return [*(Text(piece) if isinstance(piece, str) else piece for piece in pieces), Usage(input=100, output=10)]


def used(daemon, period, unit):
    return daemon.inspect("s")["budgets"][period][unit]["used"]


def approvals(daemon):
    """The approvals that are open, once there is one."""

    def asked():
        try:
            client = Bridge(daemon.session_socket("s"))
        except (FileNotFoundError, ConnectionRefusedError):
            # It has no socket yet, or one that does not take connections yet.
            return None
        with client:
            return client.ask("questions")["questions"]

    return eventually(asked, "it is asked")


def log(daemon):
    """The audit log's lines, after it was found to be whole."""
    done = daemon.run_to_end("audit", "verify")
    assert done.returncode == 0, done
    files = sorted((daemon.state_dir / "audit").glob("*.jsonl"))
    return [json.loads(line) for path in files for line in path.read_text().splitlines()]


@pytest.mark.parametrize("allow", [True, False])
def test_an_approval_is_settled_there(new_daemon, model, allow):
    daemon = started(new_daemon, audit=True, budgets={"session": {"money": 1, "requests": 3}, "day": {"tokens": 100_000}})
    model.script(answer(ToolCall("bash", {"command": "touch ran"}, id="call_1")), answer("done"))
    stream = daemon.session("s", "go")
    (before,) = approvals(daemon)
    daemon.replace()
    assert approvals(daemon) == [before]
    assert not (daemon.cwd / "ran").exists()
    assert (used(daemon, "session", "requests"), used(daemon, "day", "tokens")) == (1, 110)
    request = before["request"]
    with Bridge(daemon.session_socket("s")) as client:
        stale = client.exchange("approve", requestId=request["id"], hash="0" * 64, allow=True)
        assert stale["code"] == "stale_answer"
        client.ask("approve", requestId=request["id"], hash=request["hash"], allow=allow)
        again = client.exchange("approve", requestId=request["id"], hash=request["hash"], allow=True)
        assert again["code"] == "stale_answer"
    assert stream.text() == "done" and stream.restarts == []
    assert (daemon.cwd / "ran").exists() == allow
    assert used(daemon, "session", "requests") == 2
    assert used(daemon, "session", "money") == pytest.approx(2 * (100 * INPUT + 10 * OUTPUT))
    daemon.signal()
    assert daemon.wait_exit() == 0
    lines = log(daemon)
    assert [line["allowed"] for line in lines if line["event"] == "approval"] == [allow]
    assert [line["call"] for line in lines if line["event"] == "tool_begun"] == ["call_1"] * allow
    assert [line["event"] for line in lines if line["event"] == "session_created"] == ["session_created"]


@pytest.mark.parametrize("audit", [True, False])
def test_what_was_spent_stays_spent(new_daemon, model, audit):
    """Also of a prompt that moves between two of its requests, and that has a limit of its own."""
    daemon = started(new_daemon, audit=audit, budgets={"prompt": {"requests": 3}, "session": {"tokens": 10_000_000}})
    gate = Gate()
    call = ToolCall("bash", {"command": "true"})
    model.script([Text("One. "), gate, call, Usage(input=100, output=10)], *itertools.repeat(answer(call), 3))
    stream = daemon.session("s", "go")
    stream.until("One. ")
    old = daemon.begin_replacing()
    daemon.wait_log("takes over")
    gate.open()
    assert stream.failure().text.startswith("error: budget_exceeded: prompt.requests: ")
    daemon.wait_log("took over")
    assert old.wait(15) == 0
    assert len(model.requests) == 3
    assert (used(daemon, "prompt", "requests"), used(daemon, "session", "tokens")) == (3, 330)
    daemon.replace()
    assert used(daemon, "session", "tokens") == 330
    daemon.signal()
    assert daemon.wait_exit() == 0
    if audit:
        lines = log(daemon)
        gate = [line["allowed"] for line in lines if line["event"] == "gate" and "model" in line]
        assert gate == [True] * 3 + [False]
        assert [line.get("resumed", False) for line in lines if line["event"] == "prompt"] == [False, True]
