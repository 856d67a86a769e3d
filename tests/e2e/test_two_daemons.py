"""Two daemons of one owner: each request is done once, by the daemon that it belongs to, and answered once."""

import json

import pytest

from support import proc
from support.agents import AgentClient, prompt
from support.bridge import Bridge
from support.bus import ERROR_CODE
from support.model_script import Gate
from support.waiting import eventually

# Enough for the server to have sent some to either daemon.
MANY = 12


class Pair:
    """Two daemons that know each other, and a caller."""

    def __init__(self, new_daemon, bus):
        self.one = new_daemon()
        self.two = new_daemon(owner=self.one.owner)
        self.daemons = [self.one, self.two]
        for daemon in self.daemons:
            daemon.config["heartbeatInterval"] = 1
        self.one.start()
        self.two.start()
        for daemon in self.daemons:
            daemon.wait_log("another nats-pi-bridge .* serves")
        self.bus, self.owner, self.intake = bus, self.one.owner, self.one.intake

    def request(self, mode, headers=None, **fields):
        request = {"sessionMode": mode, "cwd": str(self.one.cwd), **fields}
        return self.bus.request(self.intake, request, headers)

    def ask(self, mode, **fields):
        return json.loads(self.request(mode, **fields).message().data)

    def owner_of(self, session):
        """Which of both has a session; exactly one does."""

        def where():
            return [any(f"session {session} started" in line for line in daemon.log) for daemon in self.daemons]

        # The line may still be on its way when the session has answered already.
        eventually(lambda: any(where()), f"{session} was started")
        started = where()
        assert sorted(started) == [False, True], session
        return self.daemons[started.index(True)]

    def fence(self):
        """What either daemon had sent before has arrived."""
        for _ in range(4):
            self.ask("list")
        self.bus.flush()


@pytest.fixture
def pair(new_daemon, bus, model):
    model.answer(lambda request: request.prompts[-1].upper())
    return Pair(new_daemon, bus)


@pytest.fixture
def sessions(pair):
    """Sessions that are spread over both."""
    names = [f"s{number}" for number in range(MANY)]
    streams = [pair.request("session", sessionId=name, body="hi") for name in names]
    assert [stream.text() for stream in streams] == ["HI"] * MANY
    owners = {pair.owner_of(name) for name in names}
    assert owners == set(pair.daemons), "both have some"
    return names


def test_every_wire_reaches_the_daemon_that_has_the_session(pair, sessions):
    for name in sessions:
        assert pair.one.prompt(name, "first").text() == "FIRST"
        assert prompt(pair.one, name, "second").ack().text() == "SECOND"
        assert pair.one.inspect(name)["prompts"] == 3
    client = AgentClient(pair.bus)
    found = client.discover(owner=pair.owner)
    assert set(found) == {*sessions, "control"}
    assert all(client.status(found[name]).instance_id == found[name].instance_id for name in sessions)


def test_a_list_has_the_sessions_of_both(pair, sessions):
    for _ in range(6):
        rows = pair.ask("list")["sessions"]
        assert sorted(row["sessionId"] for row in rows) == sorted(sessions)
        hosts = {row["sessionId"]: row["host"] for row in rows}
        assert all((hosts[a] == hosts[b]) == (pair.owner_of(a) == pair.owner_of(b)) for a in sessions for b in sessions)
        listed = pair.bus.ask_json(f"agents.list.pi-exec.{pair.owner}.control")["sessions"]
        assert sorted(row["session_id"] for row in listed) == sorted(sessions)


def test_a_stop_reaches_the_daemon_that_has_the_session(pair, sessions):
    streams = [pair.request("stop", sessionId=name) for name in sessions]
    for name, stream in zip(sessions, streams):
        assert json.loads(stream.message().data) == {"ok": True, "sessionId": name}
    assert pair.ask("list")["sessions"] == []
    for name in sessions:
        assert pair.ask("stop", sessionId=name) == {"error": "not_found", "sessionId": name}
    pair.fence()
    assert all(stream.pending() == 0 for stream in streams), "answered once"


def test_an_id_that_the_other_one_has_is_taken(pair, sessions):
    for name in sessions:
        refused = [pair.request("session", sessionId=name, body="again") for _ in range(3)]
        for stream in refused:
            assert json.loads(stream.message().data)["error"] == "session_exists"
        spawned = pair.bus.ask(f"agents.spawn.pi-exec.{pair.owner}.control", {"cwd": "/", "session_id": name})
        assert spawned.headers[ERROR_CODE] == "409"


def test_a_client_on_a_socket_cannot_take_the_others_id(pair, sessions):
    for name in sessions:
        with Bridge(pair.one.socket) as bridge:
            fields = {"body": "hi", "cwd": str(pair.one.cwd)}
            assert "exists" in bridge.refusal("session", sessionId=name, **fields)
            assert bridge.ask("session", sessionId=f"own-{name}", **fields)["sessionId"] == f"own-{name}"


def test_of_two_requests_for_one_id_exactly_one_wins(pair):
    for number in range(MANY):
        name = f"race-{number}"
        streams = [pair.request("session", sessionId=name, body="hi") for _ in range(4)]
        first = [stream.message().data for stream in streams]
        refused = [data for data in first if data.startswith(b"{")]
        assert len(refused) == 3 and all(json.loads(data)["error"] == "session_exists" for data in refused)
        pair.owner_of(name)


def test_a_repeated_request_is_done_once_whichever_daemon_gets_it(pair, model):
    for number in range(4):
        gate, before = Gate(), len(model.requests)
        model.script(["one ", gate, "two"])
        same = {"Nats-Msg-Id": f"run-{number}"}
        streams = [pair.request("run", headers=same, body="go") for _ in range(4)]
        for stream in streams:
            stream.until("one ")
        gate.open()
        assert [stream.text() for stream in streams] == ["one two"] * 4
        assert pair.request("run", headers=same, body="go").text() == "one two"
        assert len(model.requests) == before + 1
        pair.fence()
        assert all(stream.pending() == 0 for stream in streams)


def works(daemon):
    """Whether this very process works on a run: it has a thread for it."""
    return any(name.startswith("t-run") for name in proc.threads(daemon.pid))


def test_what_one_leaves_the_other_takes(pair, model):
    gate = Gate()
    model.answer(lambda request: ["held", gate] if request.prompts[-1] == "hold" else "ok")
    held = pair.request("run", body="hold")
    held.until("held")
    leaving, staying = sorted(pair.daemons, key=works, reverse=True)
    leaving.signal()
    leaving.wait_log("shutting down")
    for number in range(MANY):
        assert pair.request("run", body=f"go {number}").text() == "ok"
    gate.open()
    assert held.text() == "held"
    assert leaving.wait_exit() == 0
    assert staying.list()["runs"] == []


def test_a_daemon_that_was_killed_is_soon_forgotten(pair, sessions):
    pair.two.process.kill()
    pair.two.wait_exit()
    left = sorted(name for name in sessions if pair.owner_of(name) is pair.one)

    def alone():
        rows = pair.ask("list")["sessions"]
        return "host" not in rows[0] and sorted(row["sessionId"] for row in rows) == left

    eventually(alone, "the first is alone")
    assert pair.request("session", sessionId="new", body="hi").text() == "HI"
