"""What a client of the side channel learns about sessions while they work: tables, the log, and settings that it changes."""

import pytest

from support.bridge import Bridge
from support.waiting import eventually

pytestmark = pytest.mark.any_server

OFFLINE = {"model": "offline/demo"}


@pytest.fixture
def client(daemon):
    """A client of the daemon's own socket, and a session `demo` that has answered once."""
    with Bridge(daemon.socket) as bridge:
        bridge.exchange("session", id="create", sessionId="demo", body="@echo hi", cwd="/", stream=True, **OFFLINE)
        bridge.stream("create")
        yield bridge


def row(client):
    (row,) = client.ask("list")["sessions"]
    return row


def test_what_goes_on_is_in_the_list(client):
    assert row(client)["doing"] is None
    client.ask("prompt", session="demo", message='@tool bash {"command":"sleep 30"}')
    doing = eventually(lambda: (found := row(client)["doing"]) and found["what"] == "tool" and found, "the tool runs")
    assert doing["label"] == "bash sleep 30" and doing["sinceMs"] >= 0
    assert client.ask("inspect", session="demo")["doing"]["what"] == "tool"
    client.ask("abort", session="demo")
    eventually(lambda: row(client)["doing"] is None, "nothing goes on")


def test_today_is_counted_and_kept(client, daemon):
    before = row(client)
    assert before["today"]["tokens"] == before["tokens"]["total"] > 0
    assert before["contextWindow"] == 200000 and before["contextTokens"] > 0 and before["lastError"] is None
    daemon.signal()
    daemon.wait_exit()
    daemon.start()
    with Bridge(daemon.socket) as again:
        assert eventually(lambda: again.ask("list")["sessions"], "the session is back")[0]["today"] == before["today"]


def test_settings_are_changed(client):
    state = client.ask("configure", session="demo", thinkingLevel="high", name="a name")
    assert state["sessionName"] == "a name"
    assert client.ask("get_state", session="demo")["sessionName"] == "a name"
    assert "Unknown model" in client.refusal("configure", session="demo", model="offline/nonsense")
    assert client.refusal("configure", session="demo", model=5) == "model must be a text"


def test_waiting_messages_are_forgotten(client):
    client.ask("prompt", session="demo", message='@tool bash {"command":"sleep 30"}')
    client.ask("follow_up", session="demo", message="later")
    assert client.ask("clear", session="demo") == {"steering": [], "followUp": ["later"]}
    client.ask("abort", session="demo")


def test_the_log_is_told_by_session(client, daemon):
    texts = [line["text"] for line in client.ask("logs", session="demo")["lines"]]
    assert texts[0] == "session demo started in /"
    assert client.ask("logs", session="demo", limit=1)["lines"][0]["session"] == "demo"
    client.ask("stop", sessionId="demo")

    def ended():
        return client.ask("logs", session="demo")["lines"][-1]["text"] == "session demo ended"

    eventually(ended, "the end is told, too")
    every = client.ask("logs")["lines"]
    assert any("session" not in line and line["level"] == "info" for line in every)
    assert client.ask("logs", session="nobody") == {"lines": []}
