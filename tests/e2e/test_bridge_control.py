"""The daemon's own socket: which session is meant, and the control plane."""

import socket

import pytest

from support.bridge import Bridge, BridgeClosed, Failed
from support.waiting import eventually

pytestmark = pytest.mark.any_server

OFFLINE = {"model": "offline/demo"}
LABEL = "[offline/demo: no model, a built-in script]\n"
BUSY = "@stream 5000 every 20 ms"


@pytest.fixture
def client(daemon):
    """A client of the daemon's own socket, without any session yet."""
    with Bridge(daemon.socket) as bridge:
        yield bridge


def create(client, session_id, body="@echo hi", **fields):
    """Makes a session and waits for the end of its first prompt."""
    request_id = f"create-{session_id}"
    client.exchange("session", id=request_id, sessionId=session_id, body=body, cwd="/", stream=True, **OFFLINE, **fields)
    return client.stream(request_id)


def test_without_a_session_only_the_daemon_answers(daemon, client):
    assert client.hello["state"]["role"] == "daemon"
    ping = client.ask("ping")
    assert ping["protocol"] == "pi-session-bridge.v1" and ping["state"]["pid"] == daemon.pid
    for kind in ("get_state", "history", "abort", "questions", "get_commands", "emit", "inspect"):
        assert client.refusal(kind) == "there is no session"
    assert client.refusal("prompt", message="x") == "there is no session"
    assert client.ask("subscribe", enabled=False) == {"enabled": False}
    assert client.refusal("get_state", session="none") == 'no session "none"'


def test_the_only_session_is_meant_and_two_have_to_be_told_apart(client):
    create(client, "a")
    assert client.ask("get_state")["sessionId"] == "a"
    create(client, "b")
    error = client.refusal("get_state")
    assert "2 sessions" in error and error.endswith("a, b")
    for name in "ab":
        assert client.ask("get_state", session=name)["sessionId"] == name
    assert client.ask("ping")["state"]["role"] == "daemon"
    assert client.ask("ping", session="b")["state"]["sessionId"] == "b"
    assert client.ask("stop", sessionId="a") == {"ok": True, "sessionId": "a"}
    assert client.ask("get_state")["sessionId"] == "b"


def test_events_of_the_only_session_come_by_themselves(daemon, client):
    create(client, "a")
    with Bridge(daemon.socket) as late:
        late.ask("emit", message="x")
        assert late.event("bridge_emit")["session"] == "a"
    # Who came before there was a session asked for nothing and hears nothing.
    assert not any(r["type"] == "event" for r in client.seen)


def test_events_of_chosen_sessions(client):
    for name in "abc":
        create(client, name)
    client.ask("subscribe", session="a")
    client.ask("subscribe", session="b")
    for name in "abc":
        client.ask("emit", session=name, message=name)
    assert [r["session"] for r in client.seen if r["type"] == "event"] == ["a", "b"]
    client.ask("subscribe", session="a", enabled=False)
    for name in "ab":
        client.ask("emit", session=name, message=name)
    assert [r["session"] for r in client.seen if r["type"] == "event"] == ["a", "b", "b"]


def test_a_sessions_socket_means_that_session(daemon, client):
    create(client, "a")
    create(client, "b")
    with Bridge(daemon.session_socket("a")) as own:
        assert own.ask("get_state")["sessionId"] == "a"
        assert own.ask("get_state", session="a")["sessionId"] == "a"
        assert 'session "a"' in own.refusal("get_state", session="b")
        assert str(daemon.socket) in own.refusal("list")
        assert str(daemon.socket) in own.refusal("run", body="x", cwd="/")


def test_run_streams_its_answer(client):
    response = client.exchange("run", id="r", body="@echo done", cwd="/", stream=True, **OFFLINE)
    assert response["success"] and response["data"]["sessionId"].startswith("run-")
    assert client.stream("r") == (LABEL + "done", {"type": "end", "id": "r", "success": True})
    eventually(lambda: client.ask("list")["runs"] == [], "the run is gone")


def test_a_run_ends_with_its_only_client(daemon, client):
    """Closed on both sides; a client that only sends nothing more still waits for the answer."""
    with Bridge(daemon.socket) as other:
        assert other.exchange("run", body=BUSY, cwd="/", stream=True, **OFFLINE)["success"]
        assert len(client.ask("list")["runs"]) == 1
    eventually(lambda: client.ask("list")["runs"] == [], "the run is over")
    with Bridge(daemon.socket) as other:
        other.send({"type": "run", "id": "r", "body": "@stream 5 every 100 ms", "cwd": "/", "stream": True, **OFFLINE})
        other.socket.shutdown(socket.SHUT_WR)
        assert other.stream("r")[1]["success"]


def test_run_without_a_stream_answers_at_once(client):
    data = client.ask("run", body=BUSY, cwd="/", **OFFLINE)
    run = data["sessionId"]
    assert [row["sessionId"] for row in client.ask("list")["runs"]] == [run]
    assert client.ask("abort", session=run)["isIdle"] is True
    eventually(lambda: client.ask("list")["runs"] == [], "the run is gone")
    assert not any(r["type"] == "chunk" for r in client.seen)


def test_a_run_that_fails_ends_with_the_reason(client):
    client.exchange("run", id=1, body="@fail auth", cwd="/", stream=True, **OFFLINE)
    end = client.stream(1)[1]
    assert end["success"] is False and "401" in end["error"]


def test_session_takes_the_intakes_fields(daemon, client):
    text, end = create(client, "full", maxLifetime=60, thinkingLevel="low", **{"from": "tester"})
    assert end["success"] and text == LABEL + "hi"
    facts = client.ask("inspect", session="full")
    assert facts["from"] == "tester" and facts["maxLifetime"] == 60 and facts["cwd"] == "/"
    assert facts == {**daemon.inspect("full"), "remainingLifetime": facts["remainingLifetime"]}
    assert [row["sessionId"] for row in client.ask("list")["sessions"]] == daemon.session_ids() == ["full"]
    response = client.exchange("session", sessionId="second", body="@echo x", cwd="/", **OFFLINE)
    assert response["data"]["socketPath"] == str(daemon.session_socket("second"))
    assert response["data"]["subject"] == daemon.subject("second")


@pytest.mark.parametrize(
    ("kind", "fields", "code"),
    [
        ("run", {}, "missing_fields"),
        ("run", {"body": " ", "cwd": "/"}, "missing_fields"),
        ("session", {"body": "x", "cwd": "/"}, "missing_fields"),
        ("session", {"body": "x", "cwd": "/", "sessionId": "a b"}, "invalid_sessionId"),
        ("session", {"body": "x", "cwd": "/", "sessionId": "taken"}, "session_exists"),
        ("run", {"body": "x", "cwd": "/nowhere"}, "session_create_failed"),
        ("run", {"body": "x", "cwd": "/", "model": "none/such"}, "session_create_failed"),
        ("run", {"body": "x", "cwd": "/", "maxLifetime": -1}, "invalid_request"),
        ("stop", {}, "missing_fields"),
        ("stop", {"sessionId": "none"}, "not_found"),
    ],
)
def test_refusals_have_the_intakes_codes(client, kind, fields, code):
    create(client, "taken")
    response = client.exchange(kind, stream=True, **fields)
    assert response["success"] is False and response["code"] == code and response["error"].startswith(code)
    assert response["details"]["error"] == code
    assert client.ask("ping")
    assert not any(r["type"] == "end" and r["id"] == response["id"] for r in client.seen)


def test_stop_answers_when_the_session_is_over(daemon, client):
    create(client, "a")
    client.ask("prompt", id="busy", message=BUSY, stream=True)
    with Bridge(daemon.session_socket("a")) as own:
        assert client.ask("stop", sessionId="a") == {"ok": True, "sessionId": "a"}
        assert client.ask("list")["sessions"] == []
        found = own.wait_closed()
    # The event to those who subscribed, the plain record to all, then the end.
    assert found[-2]["event"] == "bridge_stop" and found[-2]["data"]["reason"] == "stopped"
    assert found[-1] == {"type": "bridge_stop", "reason": "stopped"}
    assert client.stream("busy")[1]["success"] is False
    assert not daemon.session_socket("a").exists()


def test_both_wires_can_stop_what_the_other_made(daemon, client):
    create(client, "mine")
    assert daemon.stop_session("mine") == {"ok": True, "sessionId": "mine"}
    daemon.session("theirs", "@echo x", **OFFLINE).text()
    assert client.ask("stop", sessionId="theirs")["ok"] is True
    assert daemon.list()["sessions"] == []


def test_shutdown_on_a_sessions_socket_ends_the_session(daemon, client):
    create(client, "a")
    create(client, "b")
    with Bridge(daemon.session_socket("a")) as own:
        assert own.ask("shutdown", confirm=True) == {"requested": True}
        assert own.wait_closed()[-1] == {"type": "bridge_stop", "reason": "stopped"}
    eventually(lambda: [r["sessionId"] for r in client.ask("list")["sessions"]] == ["b"], "only b is left")
    assert client.ask("shutdown", session="b", confirm=True) == {"requested": True}
    eventually(lambda: client.ask("list")["sessions"] == [], "none is left")
    assert daemon.running()


def test_shutdown_on_the_daemons_socket_ends_the_daemon(daemon, client):
    create(client, "a")
    with Bridge(daemon.session_socket("a")) as own, Bridge(daemon.session_socket("a")) as muted:
        muted.ask("subscribe", enabled=False)
        assert client.ask("shutdown", confirm=True) == {"requested": True}
        assert own.wait_closed()[-1] == {"type": "bridge_stop", "reason": "shutdown"}
        assert muted.wait_closed() == [{"type": "bridge_stop", "reason": "shutdown"}]
    assert client.wait_closed()[-1] == {"type": "bridge_stop", "reason": "shutdown"}
    assert daemon.wait_exit() == 0


def test_a_client_that_never_closes_does_not_hold_up_the_end(daemon):
    stuck = [Bridge(daemon.socket, read=False) for _ in range(5)]
    daemon.signal()
    assert daemon.wait_exit(10) == 0
    assert not daemon.socket.exists()
    for client in stuck:
        client.close()


def test_while_shutting_down_nothing_new_begins(daemon, client):
    create(client, "a")
    client.exchange("prompt", id="last", message="@stream 100 every 20 ms", stream=True)
    client.ask("shutdown", confirm=True)
    with pytest.raises(Failed, match="shutting_down"):
        client.ask("session", sessionId="late", body="x", cwd="/", **OFFLINE)
    # What runs may finish.
    assert client.stream("last")[1]["success"] is True
    with pytest.raises(BridgeClosed):
        client.next(lambda r: False)
    assert daemon.wait_exit() == 0
