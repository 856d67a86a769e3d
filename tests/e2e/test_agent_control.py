"""The daemon's own doors, seen from its tools: closed unless the operator opens them, and then never to their own session."""

import json
import os
import sys

import pytest

from support.bridge import Bridge
from support.model_script import ToolCall
from support.waiting import eventually

pytestmark = pytest.mark.any_server
PYTHON = os.path.realpath(sys.executable)
REFUSED = "programs that an agent has started may not use this socket"

# Sends one request a line and prints one answer a line.
ASK = """
import json, socket, sys
s = socket.socket(socket.AF_UNIX)
s.connect(sys.argv[1])
lines = s.makefile()
print(lines.readline(), end="")
for n, request in enumerate(json.loads(sys.argv[2])):
    s.sendall(json.dumps({"id": n, **request}).encode() + b"\\n")
    while True:
        line = lines.readline()
        if not line or json.loads(line).get("id") == n and json.loads(line)["type"] == "response":
            print(line, end="")
            break
"""

# Leaves requests behind and is gone before anybody can look at it.
GONE = """
import os, socket, sys
for n in range(20):
    if os.fork() == 0:
        s = socket.socket(socket.AF_UNIX)
        try:
            s.connect(sys.argv[1])
            s.sendall(b'{"type":"shutdown","confirm":true}\\n')
        finally:
            os._exit(0)
    os.wait()
print("done")
"""


def bash(daemon, command, session="s"):
    daemon.model.script([ToolCall("bash", {"command": command})], "done")
    assert daemon.prompt(session, "go").text() == "done"
    return daemon.model.requests[-1].tool_results[-1][0]


def ask(daemon, *requests, socket=None, session="s"):
    (daemon.cwd / "ask.py").write_text(ASK)
    text = bash(daemon, f"{PYTHON} ask.py {socket or daemon.socket} '{json.dumps(requests)}'", session)
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def open_session(daemon, name, **fields):
    daemon.model.script("hello")
    assert daemon.session(name, "x", **fields).text() == "hello"


@pytest.fixture
def make(new_daemon, model):
    def start(profile="off", **config):
        daemon = new_daemon()
        daemon.config |= {"sandbox": profile, "unixSockets": True, **config}
        daemon.model = model
        daemon.start()
        open_session(daemon, "s")
        return daemon

    return start


@pytest.mark.parametrize("profile", ["off", "workspace", "read-only"])
def test_the_doors_are_closed(make, profile):
    daemon = make(profile)
    for file, code in {"ask.py": ASK, "gone.py": GONE}.items():
        (daemon.cwd / file).write_text(code)
    for socket in (daemon.socket, daemon.session_socket("s")):
        ways = [f"{PYTHON} ask.py {socket} []", f"env -i setsid -w {PYTHON} ask.py {socket} []"]
        for way in ways:
            assert REFUSED in bash(daemon, way), way
        # What has lost all its parents, and what has ended.
        orphan = f"(env -i setsid {PYTHON} ask.py {socket} [] > $TMPDIR/o 2>&1; touch $TMPDIR/e) & disown; until [ -e $TMPDIR/e ]; do sleep 0.02; done; cat $TMPDIR/o; rm $TMPDIR/e"
        assert REFUSED in bash(daemon, f"TMPDIR=$(mktemp -d); {orphan}")
        assert bash(daemon, f"{PYTHON} gone.py {socket}").endswith("done\n")
    assert daemon.session_ids() == ["s"] and daemon.running()
    # Its people still come in.
    with Bridge(daemon.socket) as bridge:
        assert bridge.ask("ping", session="s")["state"]["sessionId"] == "s"


@pytest.mark.parametrize("profile", ["off", "workspace"])
def test_other_sessions_where_that_is_granted(make, profile):
    daemon = make(profile, agentControl="others")
    open_session(daemon, "other")
    daemon.model.script([ToolCall("bash", {"command": f"{PYTHON} ask.py {daemon.socket} '" + json.dumps([
        {"type": "list"}, {"type": "inspect", "session": "other"}, {"type": "prompt", "session": "other", "message": "from a tool", "from": "the boss"},
    ]) + "'"})], answers := "done", "done")
    (daemon.cwd / "ask.py").write_text(ASK)
    with Bridge(daemon.session_socket("other")) as bridge:
        assert daemon.prompt("s", "go").text() == answers
        event = bridge.event("input")
        assert event["data"]["text"] == "from a tool" and event["data"]["from"] == "session:s"
    eventually(lambda: daemon.inspect("other")["prompts"] == 2, "the other one was prompted")


def test_no_session_that_may_do_more(make):
    """Who prompts a session has it act: that is no way to more than its own may do."""
    daemon = make("workspace", agentControl="others", secrets={"TOKEN": "s3cret-value"})
    (daemon.cwd / "in").mkdir()
    rule = [{"tool": "write", "do": "deny"}]
    open_session(daemon, "own", sandbox="read-only", network="off", rules=rule, budgets={"session": {"requests": 50}}, cwd=str(daemon.cwd / "in"))
    narrow = {"sandbox": "read-only", "network": "off", "rules": rule, "budgets": {"session": {"requests": 50}}, "cwd": str(daemon.cwd / "in")}
    wider = {"sandbox": "workspace", "network": "on", "rules": [], "budgets": {"session": {"requests": 60}}, "cwd": str(daemon.cwd), "secrets": ["TOKEN"]}
    for key, value in wider.items():
        open_session(daemon, f"wide-{key}", **{**narrow, key: value})
    open_session(daemon, "same", **narrow)
    (daemon.cwd / "in/ask.py").write_text(ASK)
    requests = [{"type": "prompt", "session": name, "message": "x"} for name in [*(f"wide-{key}" for key in wider), "same"]]
    daemon.model.answer(lambda request: [ToolCall("bash", {"command": f"{PYTHON} ask.py {daemon.socket} '{json.dumps(requests)}'"})] if request.prompts[-1] == "go" and not request.tool_results else "fine")
    assert daemon.prompt("own", "go").text() == "fine"
    (result,) = [request.tool_results[-1][0] for request in daemon.model.requests if request.tool_results]
    found = [json.loads(line) for line in result.splitlines() if line.startswith("{")]
    assert [answer.get("code") for answer in found[1:]] == ["forbidden"] * len(wider) + [None], found


@pytest.mark.parametrize("profile", ["off", "workspace"])
def test_never_its_own_session(make, profile):
    daemon = make(profile, agentControl="others")
    open_session(daemon, "other")
    own = [{"type": kind, "session": "s", "message": "x", "requestId": "q", "answers": [], "confirm": True}
           for kind in ("prompt", "steer", "abort", "history", "subscribe", "inspect", "questions", "answer", "reject", "compact", "get_state", "emit", "shutdown")]
    others = [{"type": kind, "session": "other", "message": "x", "requestId": "q", "answers": [], "confirm": True}
              for kind in ("answer", "reject", "shutdown", "emit")]
    daemons = [{"type": "shutdown", "confirm": True}, {"type": "stop", "sessionId": "s"}]
    found = ask(daemon, *own, *others, *daemons)
    assert found[0]["type"] == "bridge_hello" and len(found) == 1 + len(own) + len(others) + len(daemons)
    assert [answer["code"] for answer in found[1:]] == ["forbidden"] * (len(found) - 1), found
    # Its own socket is none for it, either.
    assert [answer.get("code") for answer in ask(daemon, {"type": "abort"}, socket=daemon.session_socket("s"))[1:]] == ["forbidden"]
    assert sorted(daemon.session_ids()) == ["other", "s"]


def test_its_sessions_can_do_no_more_and_end_with_it(make):
    daemon = make("workspace", agentControl="others", secrets={"TOKEN": "s3cret-value"})
    (daemon.cwd / "in").mkdir()
    new = {"type": "session", "body": "x", "cwd": str(daemon.cwd / "in")}
    wrong = [{"sandbox": "off"}, {"cwd": "/"}, {"cwd": str(daemon.home)}, {"secrets": ["TOKEN"]}]
    requests = [{**new, "sessionId": f"wrong{n}", **fields} for n, fields in enumerate(wrong)]
    right = [{**new, "sessionId": "child", "sandbox": "read-only", "from": "me"}, {**new, "sessionId": "stays", "detached": True}]
    (daemon.cwd / "ask.py").write_text(ASK)
    command = f"{PYTHON} ask.py {daemon.socket} '{json.dumps([*requests, *right])}'"
    # The children ask the model in an order of their own.
    daemon.model.answer(lambda request: [ToolCall("bash", {"command": command})] if request.prompts == ["x", "go"] and not request.tool_results else "fine")
    assert daemon.prompt("s", "go").text() == "fine"
    results = [request.tool_results[-1][0] for request in daemon.model.requests if request.tool_results]
    found = [json.loads(line) for line in results[-1].splitlines()][1:]
    assert [answer["success"] for answer in found] == [False] * 4 + [True] * 2, found
    rows = {row["sessionId"]: row for row in daemon.list()["sessions"]}
    assert set(rows) == {"s", "child", "stays"}
    assert rows["child"]["sandbox"]["profile"] == "read-only" and rows["stays"]["sandbox"]["profile"] == "workspace"
    assert rows["child"]["from"] == rows["stays"]["from"] == "session:s"
    daemon.stop_session("s")
    eventually(lambda: daemon.session_ids() == ["stays"], "the child has ended with its parent")


def test_what_is_neither_is_refused(new_daemon):
    done = new_daemon().run_to_end("--agent-control", "all")
    assert done.returncode == 2 and "neither none nor others" in done.stderr
