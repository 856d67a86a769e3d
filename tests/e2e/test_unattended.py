"""The configurations of the README's section about agents that nobody watches do what it says."""

import json
import os
import signal
import subprocess
import sys

import pytest

from support.documents import ROOT, blocks
from support.model_script import Text, ToolCall, Usage


def config(words):
    """The README's configuration that has these words."""
    (found,) = [body for _, body in blocks("README.md", "json") if words in body]
    return json.loads(found)


def results(model, daemon, calls, **fields):
    """What became of calls in a run: the first word of each result, or none for one that is no error."""
    model.script(calls, "done")
    assert daemon.run("go", **fields).text() == "done"
    return [text.split(":")[0] if error else None for text, error in model.requests[-1].tool_results]


@pytest.mark.any_server
def test_the_runner_of_a_ci(new_daemon, model):
    daemon = new_daemon()
    daemon.config.update(config("cargo publish"))
    daemon.start()
    cargo = daemon.cwd / "cargo"
    cargo.write_text("#!/bin/sh\necho $*\n")
    cargo.chmod(0o755)
    (daemon.cwd / "src").mkdir()
    for name in ("src/a.rs", "b.rs"):
        (daemon.cwd / name).write_text("old")
    edits = [{"oldText": "old", "newText": "new"}]
    found = results(model, daemon, [
        ToolCall("read", {"path": "b.rs"}),
        ToolCall("edit", {"path": "src/a.rs", "edits": edits}),
        ToolCall("edit", {"path": "b.rs", "edits": edits}),
        ToolCall("bash", {"command": "./cargo test && ./cargo build"}),
        ToolCall("bash", {"command": "cargo build && cargo publish"}),
        ToolCall("bash", {"command": "cargo test; rm b.rs"}),
        ToolCall("bash", {"command": "rm b.rs"}),
    ])
    # A program that the rule does not name, wherever it is, is another one.
    assert found == [None, None, "denied", "denied", "denied", "denied", "denied"]
    assert [(daemon.cwd / name).read_text() for name in ("src/a.rs", "b.rs")] == ["new", "old"]
    assert results(model, daemon, [ToolCall("bash", {"command": "cargo --version || true"})])[0] in (None, "denied")


def test_the_bot_of_a_team(new_daemon, model, nats_server):
    daemon = new_daemon()
    daemon.config.update(config("approvalTimeout"))
    daemon.start()
    git = daemon.cwd / "bin"
    git.mkdir()
    (git / "git").write_text("#!/bin/sh\necho pushed > pushed\n")
    (git / "git").chmod(0o755)
    push = [ToolCall("bash", {"command": f"PATH={git}:$PATH; git push origin main"})]
    force = [ToolCall("bash", {"command": "git push --force"})]
    model.script("hello")
    daemon.session("worker", "hi").text()

    def told(calls):
        model.script(calls, "done")
        assert daemon.prompt("worker", "go").text() == "done"
        return model.requests[-1].tool_results[-1]

    assert "nobody is there" in told(push)[0]
    bot = subprocess.Popen(
        [sys.executable, ROOT / "tests/examples/approver.py", "--server", nats_server.url, "--owner", daemon.owner],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ,
    )
    try:
        assert bot.stdout.readline() == "waiting for approvals\n"
        for said, expected in [("use a branch\n", "and said: use a branch"), ("yes\n", "(no output)")]:
            bot.stdin.write(said)
            bot.stdin.flush()
            assert expected in told(push)[0]
            assert (daemon.cwd / "pushed").exists() is said.startswith("yes")
        assert told(force)[0].startswith("denied: the rule \"bash git push --force*\" does not allow")
    finally:
        bot.send_signal(signal.SIGKILL)
        bot.wait(10)


@pytest.mark.any_server
def test_the_box_at_the_edge(new_daemon, model):
    daemon = new_daemon()
    daemon.config.update(config('"budgets"'))
    daemon.start()
    calls = [ToolCall("bash", {"command": f"sudo -n systemctl {word} no-such-unit"}) for word in ("restart", "stop")]
    calls += [ToolCall("bash", {"command": "echo systemctl status"}), ToolCall("write", {"path": "/etc/x", "content": ""})]
    # At 15 dollars for a million tokens that leaves too little for another longest answer.
    model.script(calls, [Text("done"), Usage(output=130_000)])
    assert daemon.run("go").text() == "done"
    assert [text.split(":")[0] for text, error in model.requests[-1].tool_results if error] == ["denied"] * 3
    daemon.signal(signal.SIGKILL)
    daemon.wait_exit()
    daemon.start()
    failed = daemon.run("go").failure()
    assert (failed.word, failed.code) == ("budget_exceeded", 402)
    assert "day.money" in failed.text and len(model.requests) == 2
