"""Approvals at the command line: pi-bridge questions, approve, deny, and attach, with the daemon itself."""

import json

import pytest

from support.cli import Cli
from support.model_script import ToolCall
from support.waiting import eventually

pytestmark = pytest.mark.any_server


@pytest.fixture
def waiting(new_daemon, model):
    """Has a session `s` call `touch NAME`, which needs an approval, for each of some names; returns its daemon and a client."""
    daemon = new_daemon()
    daemon.config.update(rules=[{"tool": "bash", "match": "touch*", "do": "ask"}], unattended="wait")
    daemon.start()
    model.script("hello")
    daemon.session("s", "hi", tools=["bash"]).text()
    cli = Cli(daemon.bridge_dir, daemon.cwd)

    def prompt(*names):
        model.script([ToolCall("bash", {"command": f"touch {name}"}) for name in names], "done")
        return daemon.prompt("s", "go")

    yield daemon, cli, prompt
    cli.close()


def test_approve_and_deny(waiting, model):
    daemon, cli, prompt = waiting
    stream = prompt("one", "two")

    def listed():
        found = json.loads(cli("questions").stdout)["data"]["questions"]
        return len(found) == 2 and found

    one, two = (question["request"] for question in eventually(listed, "both wait"))
    assert (one["arguments"], two["arguments"]) == ({"command": "touch one"}, {"command": "touch two"})
    wrong = cli("approve", "--request-id", one["id"], "--hash", two["hash"])
    assert wrong.returncode == 1 and "stale_answer" in wrong.stdout + wrong.stderr
    done = cli("approve", "--request-id", one["id"], "--hash", one["hash"])
    assert done.returncode == 0, done.stderr
    done = cli("deny", "--request-id", two["id"], "--hash", two["hash"], "--reason", "one is enough")
    assert done.returncode == 0, done.stderr
    assert stream.text() == "done"
    assert model.requests[-1].tool_results[-1][0].startswith("denied: a person did not approve this call, and said: one is enough.")
    assert [(daemon.cwd / name).exists() for name in ("one", "two")] == [True, False]


def test_attach_asks_in_place(waiting):
    daemon, cli, prompt = waiting
    terminal = cli.terminal("attach")
    terminal.expect(r"-- session s in ")
    for typed, ran in [("3", False), ("not here", False), ("2", True), (None, True)]:
        (daemon.cwd / "one").unlink(missing_ok=True)
        stream = prompt("one")
        if typed:
            terminal.expect(r"\? May it run bash: touch one \[approval, by the rule bash touch\*\]")
            terminal.expect(r"1\) Allow\W")
            terminal.expect(r"2\) Allow for this session")
            terminal.expect(r"3\) Deny")
            terminal.type(typed)
        # The last one needs none, since the one before was for the session.
        assert stream.text() == "done"
        assert (daemon.cwd / "one").exists() is ran
    terminal.type("/quit")
    assert terminal.wait_exit() == 0
