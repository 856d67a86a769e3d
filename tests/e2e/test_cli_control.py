"""pi-bridge against a fake daemon: what its control plane is asked for, and answers that are printed as they come."""

import json
import os

import pytest

from support.cli import HEADER, lines, one_line
from support.fake_bridge import event, response

pytestmark = pytest.mark.any_server


def chunks(request, *texts, end=None):
    records = [response(request, {"sessionId": "run-1"})]
    records += [{"type": "chunk", "id": request["id"], "data": text} for text in texts]
    return records + [{"type": "end", "id": request["id"], "success": True, **(end or {})}]


@pytest.fixture
def daemon(new_bridge):
    return new_bridge("daemon", role="daemon", sessionId=None)


def test_run_prints_the_answer_as_it_comes(cli, daemon, tmp_path):
    daemon.on("run", lambda request: [
        event("agent_start"), *chunks(request, "one ", "two")[:-1], {"type": "chunk", "id": "other", "data": "no"},
        chunks(request)[-1],
    ])
    done = cli("run", "say", "two", "--model", "offline/demo", "--thinking", "low", "--max-lifetime", "60", "--from", "me")
    assert (done.returncode, done.stdout, done.stderr) == (0, "one two\n", "")
    request = daemon.requests[0]
    assert request.pop("id") and request == {
        "type": "run", "body": "say two", "cwd": str(tmp_path), "model": "offline/demo", "thinkingLevel": "low",
        "from": "me", "maxLifetime": 60.0, "stream": True,
    }
    records = [json.loads(line) for line in lines(cli("run", "x", "--json").stdout)]
    assert [record["type"] for record in records] == ["response", "chunk", "chunk", "end"]


def test_a_run_that_begins_anew_says_so_on_a_line_of_its_own(cli, daemon):
    def answer(request):
        first, *rest, end = chunks(request, "hel", "hello")
        return [first, rest[0], {"type": "restart", "id": request["id"], "attempt": 2}, rest[1], end]

    daemon.on("run", answer)
    assert cli("run", "x").stdout == "hel\n[The answer begins anew: attempt 2]\nhello\n"
    records = [json.loads(line) for line in lines(cli("run", "x", "--json").stdout)]
    assert [record["type"] for record in records] == ["response", "chunk", "restart", "chunk", "end"]


def test_run_is_printed_before_it_ends(cli, daemon):
    daemon.on("run", lambda request: chunks(request, "first\n")[:-1])
    process = cli.start("run", "x")
    assert process.stdout.readline() == b"first\n"
    daemon.push(chunks(daemon.requests[0])[-1])
    assert process.wait(20) == 0


def test_a_run_that_fails(cli, daemon):
    daemon.on("run", lambda request: chunks(request, "half", end={"success": False, "error": "overloaded"}))
    done = cli("run", "x")
    assert (done.returncode, done.stdout, done.stderr) == (1, "half\n", "overloaded\n")
    daemon.on("run", lambda request: [response(request, error="busy: too many")])
    assert one_line(cli("run", "x")) == "busy: too many"
    daemon.on("run", lambda request: chunks(request, "half")[:-1])
    process = cli.start("run", "x")
    daemon.wait_request("run", 3)
    assert process.stdout.read(4) == b"half"
    daemon.drop_clients()
    assert process.wait(20) == 1 and process.stderr.read().startswith(b"Socket closed before the end")


def test_session_and_send_stream_too(cli, new_bridge, daemon, tmp_path):
    daemon.on("session", lambda request: chunks(request, "hello\n"))
    assert cli("session", "s1", "hi", "there", "--cwd", "sub").stdout == "hello\n"
    request = daemon.requests[-1]
    assert (request["sessionId"], request["body"], request["cwd"]) == ("s1", "hi there", f"{tmp_path}/sub")
    daemon.on("session", lambda request: {"sessionId": "s2"})
    done = cli("session", "s2", "hi", "--detach")
    assert done.returncode == 0 and json.loads(done.stdout)["data"] == {"sessionId": "s2"}
    assert "stream" not in daemon.requests[-1]
    session = new_bridge("s1", daemonSocketPath=str(daemon.path))
    session.on("prompt", lambda request: chunks(request, "again"))
    assert cli("send", "--stream", "more").stdout == "again\n"
    assert session.requests[-1]["stream"] is True


def test_a_session_of_the_first_implementation_cannot_stream(cli, bridge):
    assert "cannot stream" in one_line(cli("send", "--stream", "x"))
    assert bridge.requests == []


# The daemon's control plane.


def test_control_goes_to_the_daemon(cli, new_bridge, daemon):
    for name in ("one", "one2"):
        new_bridge(name, sessionName=name, daemonSocketPath=str(daemon.path))
    for arguments, expected in [
        (["sessions"], {"type": "list"}),
        (["stop", "one"], {"type": "stop", "sessionId": "one"}),
        (["stop", "gone"], {"type": "stop", "sessionId": "gone"}),
        (["inspect", "one2"], {"type": "inspect", "session": "one2"}),
        (["inspect", "--name", "one2"], {"type": "inspect", "session": "one2"}),
        (["shutdown"], {"type": "shutdown", "confirm": True}),
    ]:
        assert cli(*arguments).returncode == 0, arguments
        request = daemon.requests[-1]
        assert request.pop("id") and request == expected, arguments


def test_a_part_of_a_name_does_not_end_a_session(cli, new_bridge, daemon):
    session = new_bridge("demo2", daemonSocketPath=str(daemon.path))
    for kind in ("stop", "get_state"):
        daemon.on(kind, lambda request: [response(request, error="not_found")])
    assert cli("stop", "demo").returncode == 1
    assert daemon.requests[-1]["sessionId"] == "demo"
    assert cli("shutdown", "demo2").returncode == 0
    assert session.requests[-1]["confirm"] is True and "session" not in session.requests[-1]
    assert cli("shutdown", "demo").stderr.startswith("No such session: demo; did you mean demo2?")


def test_the_daemon_of_a_single_session(cli, new_bridge):
    path = str(cli.directory / "only.sock")
    daemon = new_bridge("only", sessionId="s1", daemonSocketPath=path)
    for arguments, expected in [
        (["stop"], {"type": "stop", "sessionId": "s1"}),
        (["inspect"], {"type": "inspect", "session": "s1"}),
        (["sessions"], {"type": "list"}),
        (["shutdown", "s1"], {"type": "shutdown", "confirm": True, "session": "s1"}),
        (["shutdown"], {"type": "shutdown", "confirm": True}),
    ]:
        assert cli(*arguments).returncode == 0, arguments
        request = daemon.requests[-1]
        assert request.pop("id") and request == expected, arguments


def test_several_daemons(cli, new_bridge):
    one = new_bridge("one", role="daemon", sessionId=None)
    two = new_bridge("two", role="daemon", sessionId=None, pid=1)
    done = cli("run", "x")
    assert done.returncode == 1 and done.stderr.startswith("Multiple matching pi session bridges")
    assert lines(done.stdout)[0].startswith(HEADER)
    # A name that nobody knows is no matter of several daemons.
    for daemon in (one, two):
        daemon.on("get_state", lambda request: [response(request, error="no session")])
    assert cli("stop", "nobody").stderr.startswith("No such session: nobody")
    two.on("get_state", lambda request: {})
    assert cli("stop", "somebody").returncode == 0 and two.requests[-1]["sessionId"] == "somebody"
    one.on("run", lambda request: chunks(request, "one"))
    assert cli("run", "x", "--pid", os.getpid()).stdout == "one\n"


def test_shutdown_of_a_session_without_a_daemon(cli, bridge):
    assert cli("shutdown").returncode == 0
    assert bridge.requests[0]["confirm"] is True
    assert "has no daemon" in one_line(cli("stop"))
