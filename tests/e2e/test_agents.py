"""Sessions as agents of the Synadia Agent Protocol, seen through its published client and on the wire."""

import base64
import json
import stat
from pathlib import Path

import pytest
from synadia_ai.agents import Attachment
from synadia_ai.agents.errors import ProtocolError
from synadia_ai.agents.identity import Identity, signer_from_seed

from support.agents import AgentClient, Wire, prompt, prompt_subject
from support.bus import ERROR_CODE
from support.keys import new_user
from support.micro import validate
from support.model_script import Gate, ToolCall, Usage
from support.waiting import eventually


@pytest.fixture
def client(bus):
    return AgentClient(bus)


@pytest.fixture
def worker(daemon, model, client):
    """A session and its agent."""
    model.script("hello")
    daemon.session("worker", "hi").text()
    return client.find(daemon.owner, "worker")


# Discovery.


def test_sessions_and_the_controller_are_discovered(daemon, model, client, worker):
    found = client.discover(owner=daemon.owner)
    assert set(found) == {"worker", "control"}
    assert (worker.agent, worker.owner, worker.protocol_version) == ("pi-exec", daemon.owner, "0.3")
    assert worker.prompt_subject == prompt_subject(daemon, "worker")
    assert worker.metadata["session"] == "worker" and worker.metadata["role"] == "session"
    assert worker.metadata["cwd"] == str(daemon.cwd) and worker.metadata["model"] == "scripted/one"
    assert worker.description == f"worker — {daemon.cwd}"
    endpoints = {endpoint.name: endpoint for endpoint in worker.endpoints}
    assert set(endpoints) == {"prompt", "status"}
    assert all(endpoint.queue_group == "agents" for endpoint in worker.endpoints)
    assert worker.prompt_endpoint.attachments_ok is True
    assert worker.prompt_endpoint.max_payload_bytes == daemon.bus.connection.max_payload
    assert worker.supports_sender_identity and worker.min_sender_trust == "any"
    assert found["control"].metadata["role"] == "controller"
    assert {endpoint.name for endpoint in found["control"].endpoints} == {"prompt", "status", "spawn", "stop", "list"}
    assert client.bus.call(client.agents.ping(worker.instance_id))


def test_discovery_passes_every_clients_validation(daemon, worker):
    for verb in ("PING", "INFO", "STATS"):
        document = json.loads(daemon.bus.ask(f"$SRV.{verb}.agents.{worker.instance_id}").data)
        assert validate(document)["name"] == "agents"


@pytest.mark.parametrize("session", ["Worker_7", "x" * 64, "control"])
def test_every_session_id_has_an_agent(daemon, model, client, session):
    model.script("hello", "again")
    daemon.session(session, "hi").text()
    agents = client.discover(owner=daemon.owner)
    (agent,) = [agent for agent in agents.values() if agent.metadata["role"] == "session"]
    assert agent.metadata["session"] == session
    assert client.prompt(agent, "more").text == "again"


def test_a_stopped_session_is_no_agent_any_more(daemon, client, worker):
    daemon.stop_session("worker")
    assert set(client.discover(owner=daemon.owner)) == {"control"}
    assert not client.bus.call(client.agents.ping(worker.instance_id, timeout=0.5))


# Signs of life.


def test_heartbeats_tell_how_to_prompt(new_daemon, model, bus):
    daemon = new_daemon()
    daemon.config["heartbeatInterval"] = 1
    daemon.start()
    beats = bus.listen(f"agents.hb.pi-exec.{daemon.owner}.*")
    model.script("hello", "again")
    daemon.session("worker", "hi").text()
    seen = []

    def regular():
        message = beats.message()
        seen.append((message.subject.split(".")[-1], json.loads(message.data)))
        return [name for name, _ in seen].count("worker") >= 3 and "control" in [name for name, _ in seen]

    eventually(regular, "both agents beat")
    document = next(document for name, document in seen if name == "worker")
    assert (document["agent"], document["owner"], document["session"]) == ("pi-exec", daemon.owner, "worker")
    assert document["interval_s"] == 1 and document["ts"].endswith("Z") and document["protocol_version"] == "0.3"
    endpoint = document["endpoints"]["prompt"]
    assert Wire(bus.request(endpoint["subject"], "more")).ack().text() == "again"
    # The next one can only be of others.
    daemon.stop_session("worker")
    bus.flush()
    while beats.pending():
        beats.message()
    assert {beats.message().subject.split(".")[-1] for _ in range(2)} == {"control"}


def test_the_client_tracks_liveness(daemon, client, worker):
    liveness = eventually(lambda: client.agents.liveness(worker.instance_id), "a heartbeat came")
    assert liveness.is_online and liveness.interval_s == 5


def test_status_is_a_fresh_heartbeat(daemon, client, worker):
    status = client.status(worker)
    assert (status.instance_id, status.session) == (worker.instance_id, "worker")
    assert status.endpoints["prompt"].subject == worker.prompt_subject
    assert client.status(client.find(daemon.owner, "control")).session == "control"


# Prompts.


def test_a_prompt_streams_typed_chunks(daemon, model, client, worker):
    model.script(["one ", "two"])
    said = client.prompt(worker, "go")
    assert (said.text, said.statuses) == ("one two", ["ack"])
    assert said.first.status == "ack"
    assert model.requests[-1].prompts[-1] == "go"
    model.script("a\n\"b\" \u001b[0m ü€😀")
    assert prompt(daemon, "worker", b' \r\n\t{"prompt":"more","unknown":{"x":1}}').ack().text() == "a\n\"b\" \u001b[0m ü€😀"


def test_a_queued_prompt_is_acknowledged_at_once(daemon, model, worker):
    gate = Gate()
    model.script(["busy", gate], "second")
    first = prompt(daemon, "worker", "one").ack()
    gate.wait_reached()
    second = prompt(daemon, "worker", "two").ack()
    gate.open()
    assert (first.text(), second.text()) == ("busy", "second")
    daemon.assert_nothing_follows(first.stream, second.stream)


def test_chunks_fit_when_they_are_encoded(own_server, own_bus, new_daemon, model):
    server = own_server("max_payload: 4096")
    bus = own_bus(server.url)
    daemon = new_daemon(server.url, bus).start()
    text = "\u001b\"ü\n€" * 3000
    model.script("hello", text)
    daemon.session("worker", "hi").text()
    wire = prompt(daemon, "worker", "go").ack()
    assert wire.text() == text
    assert max(wire.sizes) <= 4096 and sum(wire.sizes) < 4096 * len(wire.sizes)
    agent = AgentClient(bus).find(daemon.owner, "worker")
    assert agent.prompt_endpoint.metadata["max_payload"] == "4KB"


def test_both_wires_work_on_one_session_at_once(daemon, model, client, worker):
    model.answer(lambda request: request.prompts[-1].upper())
    streams = []
    for number in range(6):
        payload = f"number {number}"
        streams.append(prompt(daemon, "worker", payload) if number % 2 else daemon.prompt("worker", payload))
    texts = [stream.ack().text() if isinstance(stream, Wire) else stream.text() for stream in streams]
    assert texts == [f"NUMBER {number}" for number in range(6)]
    assert model.requests[-1].prompts[-6:] == [f"number {number}" for number in range(6)]
    assert daemon.inspect("worker")["prompts"] == 7


def test_requests_that_cannot_be_answered(daemon, model, client, worker):
    for payload, code in [
        (b"", "empty_prompt"),
        (b"\xff", "invalid_text"),
        (b"{", "invalid_json"),
        (b'{"prompt":7}', "missing_prompt"),
        (b'{"prompt":"x","attachments":[{"filename":"../x","content":""}]}', "invalid_attachment"),
        (b'{"prompt":"x","attachments":[{"filename":"x","content":"a-b_"}]}', "invalid_attachment"),
    ]:
        wire = prompt(daemon, "worker", payload)
        status, document = wire.failure()
        assert (status, document["error"]) == (400, code), payload
    with pytest.raises(ProtocolError, match="400"):
        client.prompt(worker, "x", attachments=[Attachment(filename="a/b", content="")])
    stats = json.loads(daemon.bus.ask(f"$SRV.STATS.agents.{worker.instance_id}").data)
    (endpoint,) = [endpoint for endpoint in stats["endpoints"] if endpoint["name"] == "prompt"]
    assert endpoint["num_errors"] == 7 and endpoint["last_error"].startswith("400:")
    # A message without reply subject is a prompt all the same.
    model.script("unheard", "fine")
    daemon.bus.publish(worker.prompt_subject, "nobody waits")
    assert client.prompt(worker, "go").text == "fine"
    assert model.requests[-1].prompts[-2:] == ["nobody waits", "go"]


def test_a_failed_answer_ends_with_its_error(daemon, model, worker):
    gate = Gate()
    model.script(["begun", gate])
    wire = prompt(daemon, "worker", "go").ack()
    assert wire.next() == ("response", "begun")
    gate.wait_reached()
    daemon.stop_session("worker")
    status, document = wire.failure()
    assert (status, document["error"]) == (404, "not_found")
    daemon.assert_nothing_follows(wire.stream)


def test_a_full_queue_is_429(new_daemon, model):
    daemon = new_daemon()
    daemon.config["maxQueue"] = 1
    daemon.start()
    gate = Gate()
    model.script("hello", ["busy", gate], "second")
    daemon.session("worker", "hi").text()
    first = prompt(daemon, "worker", "one").ack()
    gate.wait_reached()
    second = prompt(daemon, "worker", "two").ack()
    status, document = prompt(daemon, "worker", "three").failure()
    assert (status, document["error"]) == (429, "queue_full")
    gate.open()
    assert (first.text(), second.text()) == ("busy", "second")


# Attachments.


def attached(text):
    """The paths in front of a prompt, and what follows them."""
    block, prompt = text.split("\n\n", 1)
    title, *lines = block.split("\n")
    assert title == "[Attachments available at the following absolute paths]"
    assert all(line.startswith("- /") for line in lines)
    return [Path(line[2:]) for line in lines], prompt


def test_attachments_are_private_and_live_as_long_as_the_session(daemon, model, client, worker):
    model.script("seen", "again")
    files = [Attachment.from_bytes("notes.txt", b"hello"), Attachment.from_bytes("image.png", bytes(range(256)))]
    assert client.prompt(worker, "look", attachments=files).text == "seen"
    paths, text = attached(model.requests[-1].prompts[-1])
    assert text == "look" and [path.name for path in paths] == ["notes.txt", "image.png"]
    assert [path.read_bytes() for path in paths] == [b"hello", bytes(range(256))]
    for path in paths:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        assert str(daemon.cwd) not in str(path)
    # A later prompt may be about them, and may have files of the same name.
    client.prompt(worker, "again", attachments=[Attachment.from_bytes("notes.txt", b"other")])
    (other,), _ = attached(model.requests[-1].prompts[-1])
    assert paths[0].read_bytes() == b"hello" and other.read_bytes() == b"other"
    daemon.stop_session("worker")
    assert not any(path.exists() for path in [*paths, other])


def test_tools_read_attachments(daemon, model, client, worker):
    """They are kept where nothing else may be read, and this one comes when the session's tools are confined already."""
    model.script([ToolCall("bash", {"command": "echo begun"})], "begun")
    assert client.prompt(worker, "begin").text == "begun"

    def answer(request):
        paths, _ = attached(request.prompts[-1])
        return "read" if len(request.tool_results) > 1 else [ToolCall("bash", {"command": f"cat {paths[0]}; ls {paths[0].parents[2]}"})]

    model.answer(answer)
    assert client.prompt(worker, "look", attachments=[Attachment.from_bytes("notes.txt", b"what it says\n")]).text == "read"
    text = model.requests[-1].tool_results[-1][0]
    assert text.startswith("what it says\n") and daemon.inspect("worker")["sandbox"]["profile"] == "workspace"


def test_attachments_survive_a_restart(daemon, model, worker):
    model.script("seen", "still")
    content = base64.b64encode(b"keep me").decode()
    request = {"prompt": "look", "attachments": [{"filename": "a.txt", "content": content}]}
    assert prompt(daemon, "worker", request).ack().text() == "seen"
    (path,), _ = attached(model.requests[-1].prompts[-1])
    daemon.signal()
    assert daemon.wait_exit() == 0
    daemon.start()
    assert path.read_bytes() == b"keep me"
    assert prompt(daemon, "worker", "and now").ack().text() == "still"
    daemon.stop_session("worker")
    assert not path.exists()


def test_a_prompt_that_waits_is_answered_after_a_restart(daemon, model, worker):
    gate = Gate()
    model.script([gate, "never"])
    first = prompt(daemon, "worker", "one").ack()
    gate.wait_reached()
    second = prompt(daemon, "worker", "two").ack()
    daemon.process.kill()
    daemon.wait_exit()
    gate.open()
    model.script("to the first", "to the second")
    daemon.start()
    # Their callers were told before that the prompts were taken, and are not told again.
    assert first.rest() == [("response", "to the first")]
    # It was told as well that it waited, if the daemon still came to that.
    told = [(kind, data.split(":")[0]) for kind, data in second.rest()]
    assert told in ([("status", "queued"), ("response", "to the second")], [("response", "to the second")])


# What an answer tells beside its text.


def test_tool_calls_and_costs_are_told_where_asked_for(daemon, model):
    call = ToolCall("bash", {"command": "echo out; exit 3"}, id="call-1")
    model.script("hello", ["first ", call, Usage(input=1000, output=100)], ["then", Usage(input=1000, output=100)])
    daemon.session("worker", "hi", toolStatus=True).text()
    chunks = prompt(daemon, "worker", "go").ack().rest()
    kinds = [data.split(":")[0] if kind == "status" else kind for kind, data in chunks]
    assert kinds == ["response", "tool_use", "tool_result", "response", "cost"]
    use, result, cost = [json.loads(data.split(":", 1)[1]) for kind, data in chunks if kind == "status"]
    assert use["name"] == "bash" and use["input"] == {"command": "echo out; exit 3"}
    assert result["tool_use_id"] == use["id"] and result["is_error"] is True and "out" in result["output"]
    assert cost["turn_cost_usd"] == pytest.approx(2 * (1000 * 3 + 100 * 15) / 1e6)
    assert cost["total_cost_usd"] >= cost["turn_cost_usd"]
    # The pi-exec wire has nothing but text.
    model.script([ToolCall("bash", {"command": "true"})], "plain")
    assert daemon.prompt("worker", "go").text() == "plain"


def test_tool_calls_are_not_told_otherwise(daemon, model, client, worker):
    model.script([ToolCall("bash", {"command": "true"})], "quiet")
    assert client.prompt(worker, "go").statuses == ["ack"]
    configured = daemon.bus.ask_json(f"{daemon.subject('worker')}.configure", {"toolStatus": True})
    assert configured["sessionId"] == "worker"
    model.script([ToolCall("bash", {"command": "true"})], "loud")
    assert [status.split(":")[0] for status in client.prompt(worker, "go").statuses] == ["ack", "tool_use", "tool_result", "cost"]


# Questions.

QUESTION = {
    "question": "Deploy where?",
    "options": [{"label": "staging", "description": "safe"}, {"label": "production", "description": ""}],
}


def asking(model, *questions, then="done"):
    model.script([ToolCall("question", {"questions": list(questions)})], then)


def test_a_question_is_a_query_to_the_caller(daemon, model, client, worker):
    asking(model, QUESTION)
    said = client.prompt(worker, "go", answer=lambda query: "2")
    assert said.text == "done"
    (query,) = said.queries
    assert query.prompt == "Deploy where?\n1. staging: safe\n2. production"
    assert "production" in model.requests[-1].tool_results[-1][0]


def test_the_first_valid_answer_wins(daemon, model, client, worker):
    asking(model, {**QUESTION, "allowCustom": False})
    wire = prompt(daemon, "worker", "go").ack()
    kind, query = wire.next()
    assert kind == "query"
    # What is no option is no answer; another wire answers meanwhile.
    daemon.bus.publish(query["reply_subject"], "the moon")
    answer = {"requestId": query["id"], "answers": [["staging"]]}
    assert daemon.bus.ask_json(f"{daemon.subject('worker')}.answer", answer) == {"answered": True, "requestId": query["id"]}
    assert wire.text() == "done"
    assert "staging" in model.requests[-1].tool_results[-1][0]
    late = daemon.bus.ask(f"{daemon.subject('worker')}.answer", answer)
    assert late.headers[ERROR_CODE] == "404"


def test_a_question_of_a_pi_exec_prompt_waits_elsewhere(daemon, model, worker):
    asking(model, QUESTION)
    events = daemon.bus.listen(f"agents.ev.{daemon.owner}.worker.question")
    daemon.bus.ask_json(f"{daemon.subject('worker')}.configure", {"events": True})
    stream = daemon.prompt("worker", "go")
    opened = json.loads(events.message().data)["data"]
    rejected = daemon.bus.ask_json(f"{daemon.subject('worker')}.reject", {"requestId": opened["requestId"]})
    assert rejected == {"rejected": True, "requestId": opened["requestId"]}
    assert stream.text() == "done"


# The controller.


@pytest.fixture
def control(daemon):
    def ask(verb, **fields):
        message = daemon.bus.ask(f"agents.{verb}.pi-exec.{daemon.owner}.control", fields or b"")
        return message, json.loads(message.data)

    return ask


def test_the_controller_starts_lists_and_stops_sessions(daemon, model, client, control):
    _, spawned = control("spawn", cwd=str(daemon.cwd), session_id="made", max_lifetime_s=600)
    assert (spawned["session_id"], spawned["cwd"], spawned["max_lifetime_s"]) == ("made", str(daemon.cwd), 600)
    agent = client.find(daemon.owner, "made")
    assert (spawned["subject"], spawned["instance_id"]) == (agent.prompt_subject, agent.instance_id)
    model.script("hi")
    assert client.prompt(agent, "go").text == "hi"
    _, other = control("spawn", cwd=str(daemon.cwd))
    assert other["session_id"].startswith("sess-") and other["model"] == "scripted/one"
    _, listing = control("list")
    assert [row["session_id"] for row in listing["sessions"]] == ["made", other["session_id"]]
    assert 590 <= listing["sessions"][0]["remaining_lifetime_s"] <= 600
    assert control("stop", session_id="made")[1] == {"ok": True, "session_id": "made"}
    assert daemon.session_ids() == [other["session_id"]]


def test_the_controller_refuses_with_coded_errors(daemon, control):
    control("spawn", cwd=str(daemon.cwd), session_id="taken")
    for verb, fields, status, code in [
        ("spawn", {}, "400", "missing_fields"),
        ("spawn", {"cwd": "/nonexistent"}, "400", "session_create_failed"),
        ("spawn", {"cwd": "/", "session_id": "a.b"}, "400", "invalid_sessionId"),
        ("spawn", {"cwd": "/", "session_id": "taken"}, "409", "session_exists"),
        ("stop", {"session_id": "nobody"}, "404", "not_found"),
    ]:
        message, document = control(verb, **fields)
        assert (message.headers[ERROR_CODE], document["error"]) == (status, code), (verb, fields)


def test_a_prompt_to_the_controller_gets_help(daemon, client):
    controller = client.find(daemon.owner, "control")
    said = client.prompt(controller, "what can you do?")
    assert said.statuses == ["ack"] and f"agents.spawn.pi-exec.{daemon.owner}.control" in said.text


# Who asks.


@pytest.fixture
def signing(own_server, own_bus, new_daemon):
    """A daemon behind a server that knows users by their keys, and a client that signs."""
    key, seed = new_user()
    server = own_server(f"authorization {{ users: [ {{ nkey: {key} }}, {{ user: plain, password: secret }} ] }}")
    plain = own_bus(server.url, user="plain", password="secret")
    daemon = new_daemon(server.url, plain)
    daemon.config.update(user="plain", password="secret")

    class Signing:
        user = key
        bus = own_bus(server.url, nkeys_seed_str=seed)
        client = AgentClient(bus, identity=Identity(signer=signer_from_seed(seed), name="Ada"))

    Signing.daemon = daemon
    return Signing


def test_a_verified_sender_reaches_the_session(signing, model):
    daemon = signing.daemon.start()
    model.script("hello", "signed")
    daemon.session("worker", "hi", events=True).text()
    agent = signing.client.find(daemon.owner, "worker")
    events = daemon.bus.listen(f"agents.ev.{daemon.owner}.worker.input")
    assert signing.client.prompt(agent, "go").text == "signed"
    data = json.loads(events.message().data)["data"]
    assert data["text"] == "go"
    assert data["sender"] == {"account": "$G", "user": signing.user, "name": "Ada", "verified": True}
    entries = Path(daemon.inspect("worker")["sessionFile"]).read_text()
    assert signing.user in entries


def test_only_signed_requests_where_that_is_demanded(signing, model):
    daemon = signing.daemon
    daemon.config["minSenderTrust"] = "signed"
    daemon.start()
    refused = daemon.session("worker", "hi").message()
    assert refused.headers[ERROR_CODE] == "401"
    spawn = f"agents.spawn.pi-exec.{daemon.owner}.control"
    body = json.dumps({"cwd": str(daemon.cwd), "session_id": "worker"}).encode()
    made = signing.bus.call(signing.client.agents.request_signed(spawn, body))
    assert json.loads(made.data)["session_id"] == "worker"
    agent = signing.client.find(daemon.owner, "worker")
    assert agent.min_sender_trust == "signed"
    model.script("signed")
    assert signing.client.prompt(agent, "go").text == "signed"
    status, document = prompt(daemon, "worker", "unsigned").failure()
    assert (status, document["error"]) == (401, "signature_required")
    assert daemon.prompt("worker", "unsigned").failure().code == 401
    assert daemon.bus.ask(f"{daemon.subject('worker')}.abort").headers[ERROR_CODE] == "401"
    # Looking is never refused.
    assert daemon.inspect("worker")["sessionId"] == "worker"
    assert daemon.session_ids() == ["worker"]
    unsigned = AgentClient(daemon.bus)
    assert unsigned.status(unsigned.find(daemon.owner, "worker")).session == "worker"
