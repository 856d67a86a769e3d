"""SIGHUP: the configuration is read again, and what can change counts from then on."""

import json
import signal

import pytest

from support.model_script import Gate, ToolCall
from support.waiting import eventually
from test_audit import lines
from test_supervisor import Systemd

pytestmark = pytest.mark.any_server


def told(daemon):
    return [line for line in daemon.log if "SIGHUP: " in line]


def states(daemon):
    return {row["sessionId"]: row["state"] for row in daemon.list()["sessions"]}


def reload(daemon, count=1):
    """Has the daemon read what is in `daemon.config` now; returns what it logs of the changes."""
    daemon.write_config()
    before = len(told(daemon))
    daemon.signal(signal.SIGHUP)
    return eventually(lambda: len(now := told(daemon)) >= before + count and now[before:], "SIGHUP has been heard")


def test_what_can_change_counts_from_then_on(new_daemon, model):
    daemon = new_daemon()
    daemon.config |= {"maxRunning": 1, "maxSessions": 3}
    daemon.start()
    gate = Gate()
    model.script(["a", gate, "b"], "second")
    one = daemon.session("one", "go")
    one.until("a")
    two = daemon.session("two", "go")
    eventually(lambda: states(daemon).get("two") == "queued", "the other prompt waits")
    # A prompt that waits gets its turn when the limit goes up.
    daemon.config |= {"maxRunning": 2, "rules": [{"tool": "bash", "match": "rm*", "do": "deny"}], "heartbeatInterval": 7}
    changed, left = reload(daemon, 2)
    assert changed.endswith("changed: maxRunning, rules") and left.endswith("takes up: heartbeatInterval")
    assert two.text() == "second"
    gate.open()
    assert one.text() == "ab"
    # Sessions keep the rules that they have begun with, and later ones have those of now.
    model.script([ToolCall("bash", {"command": "rm -f x && echo gone"}, id="a")], "done")
    daemon.prompt("one", "go").text()
    assert "gone" in model.requests[-1].tool_results[-1][0]
    model.script([ToolCall("bash", {"command": "rm -f x && echo gone"}, id="a")], "done")
    daemon.session("three", "go").text()
    assert "gone" not in model.requests[-1].tool_results[-1][0]
    daemon.config["maxSessions"] = 4
    assert daemon.refusal({"sessionMode": "run", "body": "x", "cwd": str(daemon.cwd)}).error == "busy"
    reload(daemon)
    model.script("fourth")
    assert daemon.run("go").text() == "fourth"


def test_a_wrong_file_changes_nothing_and_is_told(new_daemon, model):
    daemon = new_daemon()
    daemon.config["audit"] = True
    daemon.start()
    path = daemon.home / ".pi-exec/config.json"
    for text, why in (
        ("{\n\n  nonsense", "config.json: line 3: "),
        (json.dumps({**daemon.config, "defaultModel": "offline/demo", "maxSession": 3}), 'unknown key "maxSession"'),
        (json.dumps({**daemon.config, "defaultModel": "offline/demo", "maxQueue": 0}), '"maxQueue": "0" is no whole number'),
    ):
        before = len(told(daemon))
        path.write_text(text)
        daemon.signal(signal.SIGHUP)
        (line,) = eventually(lambda before=before: told(daemon)[before:], "it is told")
        assert "error: SIGHUP: the configuration stays as it was: " in line and why in line
    model.script("hello")
    assert daemon.run("go").text() == "hello"
    daemon.config["grace"] = 3
    assert reload(daemon)[0].endswith("changed: grace")
    recorded = eventually(
        lambda: [line for line in lines(daemon) if line["event"] == "configuration_changed"], "the change is recorded"
    )
    assert [line["changed"] for line in recorded] == [["grace"]]


def test_the_level_of_the_log_changes(new_daemon, model):
    daemon = new_daemon().start()
    daemon.discover()
    assert not any("debug: " in line for line in daemon.log)
    daemon.config["log"] = "trace"
    reload(daemon)
    model.script("hello")
    daemon.session("s", "go").text()
    daemon.wait_log("debug: .*leave for")


def test_systemd_is_told(new_daemon, tmp_path_factory):
    systemd = Systemd(str(name := tmp_path_factory.mktemp("sd") / "notify"))
    try:
        daemon = new_daemon()
        daemon.environment["NOTIFY_SOCKET"] = str(name)
        daemon.start()
        systemd.hear("READY=1")
        daemon.signal(signal.SIGHUP)
        message = systemd.hear("RELOADING=1", "READY=1").split("\n")
        assert message[0] == "RELOADING=1" and message[1].startswith("MONOTONIC_USEC=") and int(message[1][15:]) > 0
        assert systemd.hear("RELOADING=1", "READY=1") == "READY=1"
    finally:
        systemd.close()
