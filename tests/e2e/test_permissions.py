"""The example's configuration of a server: it separates who may prompt, steer and answer."""

import json
from pathlib import Path

import pytest

from support.agents import AgentClient, prompt
from support.bus import Bus, NoResponders, Stream
from support.model_script import Gate, ToolCall

EXAMPLE = (Path(__file__).parents[2] / "tests/examples/nats-server.conf").read_text()
USERS = ["daemon", "admin", "prompter", "steerer", "approver"]


@pytest.fixture
def guarded(own_server, own_bus, new_daemon, model, monkeypatch):
    """A server with the example's configuration, the daemon on it, and a connection for each user."""
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
            """The server does not let a request through: for this user nobody is there."""
            with pytest.raises(NoResponders):
                self.buses[user].ask(subject, payload)

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


def test_a_prompter_cannot_have_the_daemon_do_it(guarded, model):
    """An answer goes to the subject that the request names. Whoever prompts also chooses the words of the answer, and must
    not get it taken for somebody else's request, nor for an event, nor for an answer to another one."""
    daemon, bus = guarded.daemon, guarded.buses["prompter"]
    admin, approver = guarded.buses["admin"], guarded.buses["approver"]
    model.script("hello")
    daemon.session("other", "hi", events=True).text()
    # A question stays open, to which an answer could be forged.
    events = approver.listen("agents.ev.ada.other.question")
    model.script(ToolCall("question", {"questions": [{"question": "Sure?", "options": [{"label": "forged"}]}]}))
    asked = daemon.prompt("other", "ask")
    question = json.loads(events.message().data)["data"]["requestId"]
    before = settings(daemon.inspect("other"))
    quiet = [bus.listen(subject) for bus, subject in (
        (admin, "agents.ev.ada.other.>"), (admin, "agents.hb.pi-exec.ada.forged"), (admin, "_INBOX.admin.forged"),
        (approver, "agents.ev.ada.other.question"), (approver, "_INBOX.approver.forged"),
    )]
    forged = {
        daemon.intake: {"sessionMode": "session", "sessionId": "forged", "body": "x", "cwd": "/"},
        "agents.spawn.pi-exec.ada.control": {"cwd": "/", "session_id": "forged"},
        "agents.stop.pi-exec.ada.control": {"session_id": "other"},
        f"{daemon.subject('other')}.configure": {"name": "forged"},
        f"{daemon.subject('other')}.extend": {"maxLifetime": 7},
        f"{daemon.subject('other')}.steer": {"prompt": "forged"},
        f"{daemon.subject('other')}.abort": {},
        f"{daemon.subject('other')}.answer": {"requestId": question, "answers": [["forged"]]},
        "agents.ev.ada.other.question": {"event": "question", "data": {"action": "forged"}},
        "agents.hb.pi-exec.ada.forged": {"agent": "forged"},
        "_INBOX.admin.forged": {"forged": True},
        "_INBOX.approver.forged": {"forged": True},
    }
    for subject, payload in forged.items():
        # Said directly, and by the model in its answer.
        bus.publish(subject, payload)
        model.script(json.dumps(payload), "told")
        bus.publish(daemon.subject("worker"), "say it", reply=subject)
        # The next prompt of the same session is answered after that one.
        assert bus.request(daemon.subject("worker"), "go").text() == "told"
    assert settings(daemon.inspect("other")) == before
    assert set(daemon.session_ids()) == {"worker", "other"}
    for user in (admin, approver):
        user.flush()
    assert [stream.inbox for stream in quiet if stream.pending()] == []
    assert asked.pending() == 0, "the open question was settled"


def settings(document):
    """What somebody else's request could have changed of a session."""
    return [document.get(key) for key in ("name", "maxLifetime", "model", "activeRequest", "pendingMessages")]
