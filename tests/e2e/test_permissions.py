"""The README's configuration of a server: its permissions say who may prompt, steer and answer."""

import json
import re
from pathlib import Path

import pytest

from support.agents import AgentClient, prompt
from support.bus import Bus, Stream
from support.model_script import Gate, ToolCall

README = (Path(__file__).parents[2] / "README.md").read_text()
EXAMPLE = re.search(r"```conf\n(.*?)```", README, re.DOTALL)[1]
USERS = ["daemon", "admin", "prompter", "steerer", "approver"]


@pytest.fixture
def guarded(own_server, own_bus, new_daemon, model, monkeypatch):
    """A server with the example's permissions, the daemon on it, and a connection for each user."""
    for user in USERS:
        monkeypatch.setenv(f"{user.upper()}_PASSWORD", f"secret-of-{user}")
    server = own_server(EXAMPLE)

    class Guarded:
        buses = {
            user: own_bus(server.url, user=user, password=f"secret-of-{user}", inbox_prefix=f"_INBOX.{user}".encode())
            for user in USERS[1:]
        }
        daemon = new_daemon(server.url, buses["admin"], owner="ada")

        def allowed(self, user, subject, payload=b""):
            """The answer to a request that this user may send."""
            return json.loads(self.buses[user].ask(subject, payload).data)

        def denied(self, user, subject, payload=b""):
            """The server does not let a request through."""
            bus = self.buses[user]
            stream = bus.request(subject, payload)
            bus.flush()
            # The daemon would have answered the first before the second.
            self.daemon.list()
            bus.flush()
            assert stream.pending() == 0, f"{user} may {subject}: {stream.message().data!r}"

    guarded = Guarded()
    guarded.daemon.config.update(user="daemon", password="secret-of-daemon", inboxPrefix="_INBOX.daemon")
    guarded.daemon.start()
    model.script("hello")
    guarded.daemon.session("worker", "hi", events=True).text()
    return guarded


def test_a_prompter_prompts_and_nothing_else(guarded, model):
    daemon, bus = guarded.daemon, guarded.buses["prompter"]
    # More messages than a server's default lets through.
    model.answer(lambda request: [f"piece {number} " for number in range(50)])
    assert "piece 49" in bus.request(daemon.subject("worker"), "go").text()
    assert "piece 49" in prompt(daemon, "worker", "go", bus=bus).ack().text()
    client = AgentClient(bus)
    agent = client.find("ada", "worker")
    assert "piece 49" in client.prompt(agent, "go").text
    assert client.status(agent).session == "worker"
    for verb in ("steer", "abort", "answer", "reject", "configure", "extend", "history", "inspect"):
        guarded.denied("prompter", f"{daemon.subject('worker')}.{verb}", {"prompt": "x"})
    guarded.denied("prompter", daemon.intake, {"sessionMode": "list"})
    guarded.denied("prompter", f"agents.spawn.pi-exec.{daemon.owner}.control", {"cwd": "/"})
    assert daemon.inspect("worker")["prompts"] == 4


def test_a_steerer_steers_what_it_watches(guarded, model):
    daemon, bus = guarded.daemon, guarded.buses["steerer"]
    events = bus.listen("agents.ev.ada.worker.input")
    gate = Gate()
    model.script([gate, ToolCall("bash", {"command": "true"})], "steered")
    stream = daemon.prompt("worker", "go")
    gate.wait_reached()
    assert json.loads(events.message().data)["data"]["text"] == "go"
    assert guarded.allowed("steerer", f"{daemon.subject('worker')}.steer", "left")["deliveredAs"] == "steer"
    gate.open()
    assert stream.text() == "steered"
    assert model.requests[-1].prompts[-1] == "left"
    assert guarded.allowed("steerer", f"{daemon.subject('worker')}.abort")["isIdle"] is True
    guarded.denied("steerer", daemon.subject("worker"), "x")
    guarded.denied("steerer", f"{daemon.subject('worker')}.answer", {"requestId": "q", "answers": []})
    guarded.denied("steerer", f"{daemon.subject('other')}.steer", "x")


def test_an_approver_answers_and_nothing_else(guarded, model):
    daemon, bus = guarded.daemon, guarded.buses["approver"]
    events: Stream = bus.listen("agents.ev.ada.*.question")
    question = {"question": "Sure?", "options": [{"label": "Yes"}, {"label": "No"}]}
    model.script([ToolCall("question", {"questions": [question]})], "done")
    stream = prompt(daemon, "worker", "go", bus=guarded.buses["prompter"]).ack()
    opened = json.loads(events.message().data)["data"]
    assert opened["action"] == "opened"
    # Whoever prompts may not answer, not even where the question came with the answer.
    kind, query = stream.next()
    assert kind == "query" and query["id"] == opened["requestId"]
    guarded.buses["prompter"].publish(query["reply_subject"], "Yes")
    guarded.buses["prompter"].flush()
    answer = {"requestId": opened["requestId"], "answers": [["No"]]}
    assert guarded.allowed("approver", f"{daemon.subject('worker')}.answer", answer)["answered"] is True
    assert stream.text() == "done"
    assert "No" in model.requests[-1].tool_results[-1][0]
    for verb in ("steer", "abort", "configure"):
        guarded.denied("approver", f"{daemon.subject('worker')}.{verb}", "x")
    guarded.denied("approver", daemon.subject("worker"), "x")


def test_the_daemon_may_do_all_that_it_does(guarded, new_daemon):
    """Nothing that it tried was refused: the server would have said so, and the log with it."""
    admin: Bus = guarded.buses["admin"]
    beats = admin.listen("agents.hb.pi-exec.ada.worker")
    assert json.loads(beats.message().data)["session"] == "worker"
    other = new_daemon(guarded.daemon.config["server"], admin, owner="ada")
    other.config.update(user="daemon", password="secret-of-daemon", inboxPrefix="_INBOX.daemon")
    other.start()
    for daemon in (guarded.daemon, other):
        daemon.wait_log("another nats-pi-bridge .* serves")
    for _ in range(4):
        assert [row["sessionId"] for row in guarded.daemon.list()["sessions"]] == ["worker"]
    for daemon in (guarded.daemon, other):
        assert "iolation" not in daemon.log_text()
