"""The registry at the moment of an answer: rows and sockets are right when `session`, `spawn` or `stop` is answered, and when
a prompt's answer has ended."""

import json

from support.bridge import Bridge, rows
from support.model_script import ToolCall

ROUNDS = 20


def found(daemon):
    """The daemon's own row, and the ids of the sessions that have rows."""
    table = rows(daemon.bridge_dir)
    front = table.pop(f"{daemon.pid}.json")
    return front, sorted(row["sessionId"] for row in table.values())


def test_rows_are_right_when_a_stop_is_answered(daemon, model):
    daemon_row = None
    for _ in range(ROUNDS):
        for name in ("one", "two"):
            model.script("hi")
            daemon.session(name, "x").text()
        assert found(daemon)[1] == ["one", "two"]
        assert daemon.stop_session("two")["ok"] is True
        front, others = found(daemon)
        assert (front.get("sessionId"), others) == ("one", [])
        assert not daemon.session_socket("two").exists()
        daemon.stop_session("one")
        daemon_row, others = found(daemon)
        assert (daemon_row["role"], daemon_row["sessions"], others) == ("daemon", 0, [])


def test_rows_are_right_when_a_session_is_answered(daemon, model):
    with Bridge(daemon.socket) as client:
        for round_ in range(ROUNDS):
            model.script("hi")
            made = client.ask("session", sessionId=f"s{round_}", cwd=str(daemon.cwd), body="x")
            assert made["sessionId"] == f"s{round_}"
            front, others = found(daemon)
            assert front.get("sessionId") == "s0" if round_ == 0 else len(others) == round_ + 1
    spawned = daemon.bus.ask_json(f"agents.spawn.pi-exec.{daemon.owner}.control", {"cwd": str(daemon.cwd), "session_id": "last"})
    assert spawned["session_id"] == "last" and "last" in found(daemon)[1]


def test_rows_are_right_when_a_prompts_answer_has_ended(daemon, model):
    """Some prompts are over before anything is written down, some take longer than that."""
    model.script("hi")
    daemon.session("s", "x").text()
    assert found(daemon)[0]["isIdle"] is True
    for seconds in [0, 0.04, 0.05, 0.06, 0.2] * 4:
        model.script([ToolCall("bash", {"command": f"sleep {seconds}"})], "done")
        assert daemon.prompt("s", "go").text() == "done"
        assert found(daemon)[0]["isIdle"] is True, json.dumps(found(daemon))
