"""The server's permissions of the example: who approves calls of tools, and that a subscriber in another account is somebody."""

import json

from support.model_script import ToolCall
from test_permissions import guarded as guarded

ASK = {"tool": "bash", "match": "touch*", "do": "ask"}


def test_only_an_approver_approves(guarded, model):
    daemon, approver = guarded.daemon, guarded.buses["approver"]
    create = {"sessionMode": "session", "sessionId": "asks", "body": "go", "cwd": str(daemon.cwd), "tools": ["bash"], "rules": [ASK]}
    model.script([ToolCall("bash", {"command": "touch ran"})], "done")
    events = approver.listen("agents.ev.ada.*.question")
    approver.flush()
    stream = guarded.buses["admin"].request(daemon.intake, create)
    request = json.loads(events.message().data)["data"]["request"]
    settlement = {"requestId": request["id"], "hash": request["hash"], "allow": True}
    for user in ("prompter", "steerer"):
        guarded.denied(user, f"{daemon.subject('asks')}.approve", settlement)
    assert not (daemon.cwd / "ran").exists()
    assert guarded.allowed("approver", f"{daemon.subject('asks')}.approve", settlement)["allowed"] is True
    assert stream.text() == "done"
    assert (daemon.cwd / "ran").exists()
    # With the approver gone nobody is there, and the server says so across accounts.
    events.leave()
    approver.flush()
    model.script([ToolCall("bash", {"command": "touch again"})], "done")
    assert guarded.buses["admin"].request(daemon.subject("asks"), "go").text() == "done"
    text, error = model.requests[-1].tool_results[-1]
    assert error and "nobody is there" in text
