"""What hosts that are one service remember together: requests that are sent again, used signatures, open questions."""

import json
import signal
from datetime import UTC, datetime, timedelta

import pytest

from support.agents import prompt_subject
from support.bus import ERROR_CODE
from support.keys import Signer
from support.model_script import Gate, Text, ToolCall
from support.waiting import eventually

SAME = {"Nats-Msg-Id": "request-1"}


@pytest.fixture
def hosts(own_server, own_bus, new_daemon, model, tmp_path):
    """Starts hosts of one owner on a server of their own."""
    server = own_server(f"jetstream {{ store_dir: '{tmp_path}/store' }}")
    bus, made = own_bus(server.url), []

    def start(name, **config):
        owner = {"owner": made[0].owner} if made else {}
        daemon = new_daemon(server.url, bus=bus, **owner)
        daemon.config |= {"fleet": True, "fleetHost": name, "fleetCardTime": 2, **config}
        made.append(daemon)
        return daemon.start()

    model.answer(lambda request: request.prompts[-1].upper())
    return start


def session(daemon, name, **fields):
    """Creates a session of any host, and returns its answer."""
    return daemon.session(name, "hello", workspace="shared", **fields).text()


def kill(daemon):
    daemon.signal(signal.SIGKILL)
    daemon.wait_exit()


def await_session(daemon, name):
    """The session is there, and takes requests."""

    def is_there():
        try:
            return daemon.bus.ask_json(f"{daemon.subject(name)}.inspect", timeout=1).get("host") == daemon.config["fleetHost"]
        except AssertionError:  # Nobody is there, or whoever was asked died before it answered.
            return False

    eventually(is_there, f"{name} is at {daemon.config['fleetHost']}")


def last_record(daemon, name):
    """The sequence and the bytes of what a session stored last."""
    last = {"last_by_subj": f"ag.log.{daemon.owner}.{name}"}
    record = daemon.bus.ask("$JS.API.DIRECT.GET.AGL", last)
    return int(record.headers["Nats-Sequence"]), record.data


def await_settled(daemon, name, behind=0):
    """It is stored behind this record that the prompt is over, so that nobody goes on with it. Returns the record's sequence."""

    def settled():
        sequence, record = last_record(daemon, name)
        return sequence if sequence > behind and b"settled" in record else None

    return eventually(settled, f"the end of a prompt of {name} is stored")


def test_a_request_is_answered_from_memory_by_the_next_host(hosts, model):
    first = hosts("h0")
    assert session(first, "s") == "HELLO"
    bus, subject = first.bus, first.subject("s")
    before = await_settled(first, "s")
    assert bus.request(subject, "once", SAME).text() == "ONCE"
    before = await_settled(first, "s", before)
    run = {"sessionMode": "run", "body": "a run", "cwd": "/"}
    assert bus.request(first.intake, run, SAME).text() == "A RUN"
    # It learns of both when it starts, and of the last one as it is answered.
    second = hosts("h1")
    assert bus.request(subject, "twice", {"Nats-Msg-Id": "request-2"}).text() == "TWICE"
    await_settled(first, "s", before)
    kill(first)
    await_session(second, "s")
    asked = len(model.requests)
    assert bus.request(subject, "once", SAME).text() == "ONCE"
    assert bus.request(subject, "twice", {"Nats-Msg-Id": "request-2"}).text() == "TWICE"
    assert bus.request(second.intake, run, SAME).text() == "A RUN"
    refused = bus.request(subject, "another", SAME).failure()
    assert refused.word == "duplicate_request"
    assert len(model.requests) == asked


def test_a_request_that_is_sent_again_joins_the_answer_at_the_next_host(hosts, model):
    first, second = hosts("h0"), hosts("h1")
    assert session(first, "s") == "HELLO"
    gates = []

    def answer(_request):
        gates.append(Gate())
        return [f"begin{len(gates)} ", gates[-1], "end"]

    model.answer(answer)
    owner, other = (first, second) if (first.state_dir / "s.json").exists() else (second, first)
    stream = first.bus.request(first.subject("s"), "go", SAME)
    stream.until("begin1 ")
    kill(owner)
    await_session(other, "s")
    stream.until("begin2 ")
    again = first.bus.request(first.subject("s"), "go", SAME)
    again.until("begin2 ")
    gates[1].open()
    assert stream.text().endswith("begin2 end") and again.text().endswith("begin2 end")
    assert len(gates) == 2
    gates[0].open()


def test_a_used_signature_is_refused_by_a_host_that_comes_later(hosts, model):
    first = hosts("h0", minSenderTrust="signed")
    signer, bus, spawn = Signer(), first.bus, f"agents.spawn.pi-exec.{first.owner}.control"
    new = json.dumps({"cwd": "/", "session_id": "s"})
    used = signer.headers(spawn, new)
    assert json.loads(bus.ask(spawn, new, headers=used).data)["session_id"] == "s"
    # The session is no reason to refuse it.
    stop, gone = f"agents.stop.pi-exec.{first.owner}.control", json.dumps({"session_id": "s"})
    assert json.loads(bus.ask(stop, gone, headers=signer.headers(stop, gone)).data)["ok"]
    kill(first)
    second = hosts("h1", minSenderTrust="signed")
    refused = bus.ask(spawn, new, headers=used)
    assert refused.headers[ERROR_CODE] == "401" and "used before" in json.loads(refused.data)["message"]
    made = bus.ask(spawn, new, headers=signer.headers(spawn, new))
    assert json.loads(made.data)["session_id"] == "s"
    await_session(second, "s")
    subject, payload = prompt_subject(second, "s"), json.dumps({"prompt": "go"})
    assert ERROR_CODE not in (bus.ask(subject, payload, headers=signer.headers(subject, payload)).headers or {})


def test_an_open_question_is_asked_again_by_the_next_host(hosts, model):
    first, second = hosts("h0"), hosts("h1")
    options = [{"label": "red"}, {"label": "blue"}]
    asks = {"questions": [{"question": "Which?", "header": "Colour", "options": options}]}
    model.script([Text("asking "), ToolCall("question", asks, id="q")], "chosen")
    events = first.bus.listen(f"agents.ev.{first.owner}.s.question")
    stream = first.session("s", "go", workspace="shared", events=True, tools=["question"])
    asked = json.loads(events.message().data)
    owner, other = (first, second) if (first.state_dir / "s.json").exists() else (second, first)
    kill(owner)
    await_session(other, "s")
    again = json.loads(events.message().data)
    assert again["seq"] > asked["seq"] and again["data"]["request"]["questions"] == asked["data"]["request"]["questions"]
    request = again["data"]["requestId"]
    answer = first.bus.ask_json(f"{first.subject('s')}.answer", {"requestId": request, "answers": [["blue"]]})
    assert answer["answered"], answer
    assert stream.text().endswith("chosen")
    ((told, failed),) = model.requests[-1].tool_results
    assert "blue" in told and not failed


def test_an_open_question_has_the_time_that_was_left(hosts, model):
    """It expires when it would have expired at the host that died, and its time does not begin anew with the next host."""
    time_open = 6
    first, second = hosts("h0", questionTimeout=time_open), hosts("h1", questionTimeout=time_open)
    options = [{"label": "red"}, {"label": "blue"}]
    asks = {"questions": [{"question": "Which?", "header": "Colour", "options": options}]}
    model.script([Text("asking "), ToolCall("question", asks, id="q")], "nobody")
    events = first.bus.listen(f"agents.ev.{first.owner}.s.question")
    stream = first.session("s", "go", workspace="shared", events=True, tools=["question"])
    opened = json.loads(events.message().data)["data"]["openedAt"]
    eventually(lambda: b"nats-pi-bridge.question" in last_record(first, "s")[1], "that it is asked is stored")
    kill(first if (first.state_dir / "s.json").exists() else second)
    assert json.loads(events.message().data)["data"]["openedAt"] == opened
    asked_again = datetime.now(UTC)
    closed = json.loads(events.message().data)["data"]
    assert closed["action"] != "answered" and closed["openedAt"] == opened
    was_open = datetime.fromisoformat(closed["closedAt"]) - datetime.fromisoformat(opened)
    assert was_open >= timedelta(seconds=time_open)
    assert datetime.fromisoformat(closed["closedAt"]) < asked_again + timedelta(seconds=time_open)
    assert stream.text().endswith("nobody")


def test_an_answer_that_was_taken_is_not_asked_for_again(hosts, model):
    first, second = hosts("h0"), hosts("h1")
    options = [{"label": "red"}, {"label": "blue"}]
    asks = {"questions": [{"question": "Which?", "header": "Colour", "options": options}]}
    gate = Gate()
    # Neither the first host nor the next one comes further before the test knows.
    model.answer(lambda request: [gate, Text("chosen")] if request.tool_results else [ToolCall("question", asks, id="q")])
    events = first.bus.listen(f"agents.ev.{first.owner}.s.question")
    stream = first.session("s", "go", workspace="shared", events=True, tools=["question"])
    request = json.loads(events.message().data)["data"]["requestId"]
    owner, other = (first, second) if (first.state_dir / "s.json").exists() else (second, first)
    answer = first.bus.ask_json(f"{first.subject('s')}.answer", {"requestId": request, "answers": [["blue"]]})
    kill(owner)
    assert answer["answered"], answer
    other.wait_log("session s started")
    gate.open()
    assert stream.text().endswith("chosen")
    ((told, failed),) = model.requests[-1].tool_results
    assert "blue" in told and not failed
    assert json.loads(events.message().data)["data"]["action"] == "answered"
    assert not events.pending(), "it is not asked again"
