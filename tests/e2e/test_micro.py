"""The micro service: what `nats micro list`, `info` and `stats` read."""

import json
import re
import subprocess
from datetime import UTC, datetime

import pytest

from support.daemon import BINARY
from support.micro import validate
from support.model_script import Gate
from support.waiting import eventually


class Services:
    """Asks the daemon's instances; the server has nobody else on it."""

    def __init__(self, bus):
        self.bus = bus

    def ask(self, verb, wanted, suffix=".pi-exec", payload=b""):
        """Takes `wanted` answers, checks them, and that no more have come. The suffix "" asks all services."""
        stream = self.bus.request(f"$SRV.{verb}{suffix}", payload)
        documents = [validate(json.loads(stream.message().data)) for _ in range(wanted)]
        # The answers of the next question are sent after all of these.
        self.bus.ask("$SRV.PING.pi-exec")
        self.bus.flush()
        assert stream.pending() == 0, "more answers than instances"
        kind = f"io.nats.micro.v1.{verb.lower()}_response"
        assert all(document["type"] == kind for document in documents)
        return documents

    def endpoint(self, instance, name):
        (stats,) = [json.loads(self.bus.ask(f"$SRV.STATS.pi-exec.{instance}").data)]
        (found,) = [endpoint for endpoint in stats["endpoints"] if endpoint["name"] == name]
        return found


@pytest.fixture
def alone(own_server, own_bus, new_daemon):
    """A daemon that has a NATS server to itself."""
    server = own_server()
    bus = own_bus(server.url)
    daemon = new_daemon(server.url, bus).start()
    daemon.services = Services(bus)
    return daemon


@pytest.mark.parametrize("verb", ["PING", "INFO", "STATS"])
def test_every_instance_answers_at_all_three_subjects(alone, model, verb):
    model.script("ok")
    alone.session("worker", "x").text()
    ids = {document["id"] for document in alone.services.ask(verb, 2)}
    # The controller and the session are agents of the agent protocol as well.
    agents = {document["id"] for document in alone.services.ask(verb, 2, ".agents")}
    assert len(ids | agents) == 4
    assert {document["id"] for document in alone.services.ask(verb, 4, "")} == ids | agents
    for instance in ids:
        document = json.loads(alone.bus.ask(f"$SRV.{verb}.pi-exec.{instance}", b"ignored body").data)
        assert validate(document)["id"] == instance
    for instance in agents:
        document = json.loads(alone.bus.ask(f"$SRV.{verb}.agents.{instance}").data)
        assert validate(document)["id"] == instance
    for nobody in (f"$SRV.{verb}.other", f"$SRV.{verb}.pi-exec.NOSUCHID", f"$SRV.{verb}.pi-exec.NO.SUCH"):
        assert alone.bus.is_silent(nobody, lambda: alone.services.ask("PING", 2))


def test_info_of_the_intake(alone):
    (info,) = alone.services.ask("INFO", 1)
    assert info["name"] == "pi-exec" and info["description"] == "intake"
    program = subprocess.run([BINARY, "--version"], capture_output=True, text=True, timeout=10).stdout
    assert info["version"] == program.split()[-1]
    (endpoint,) = info["endpoints"]
    expected = {"name": "intake", "subject": alone.intake, "queue_group": "q"}
    assert {name: endpoint[name] for name in expected} == expected


def test_info_of_a_session(alone, model):
    model.script("ok")
    alone.session("worker-1", "x").text()
    (info,) = [info for info in alone.services.ask("INFO", 2) if info["description"] != "intake"]
    assert info["name"] == "pi-exec"
    assert info["description"] == f"worker-1 — {alone.cwd}"
    subjects = {endpoint["name"]: endpoint["subject"] for endpoint in info["endpoints"]}
    control = ["abort", "steer", "follow_up", "clear", "compact", "history", "answer", "approve", "reject", "configure", "extend", "cancel"]
    verbs = {verb: f"{alone.subject('worker-1')}.{verb}" for verb in ["inspect", *control]}
    assert subjects == {"prompt": alone.subject("worker-1"), **verbs}
    assert info["metadata"]["sessionId"] == "worker-1" and info["metadata"]["cwd"] == str(alone.cwd)
    assert info["id"] == alone.inspect("worker-1")["instanceId"]


def test_a_run_is_no_instance(alone, model):
    gate = Gate()
    model.script([gate, "ok"])
    stream = alone.run("x")
    gate.wait_reached()
    alone.services.ask("PING", 1)
    gate.open()
    stream.text()


def test_stop_takes_the_instance_away(alone, model):
    model.script("a", "b")
    alone.session("goes", "x").text()
    alone.session("stays", "x").text()
    gone = alone.inspect("goes")["instanceId"]
    alone.stop_session("goes")
    assert alone.bus.is_silent(f"$SRV.PING.pi-exec.{gone}", lambda: alone.services.ask("PING", 2))
    left = alone.services.ask("INFO", 2)
    assert sorted(info["description"] for info in left) == sorted(["intake", f"stays — {alone.cwd}"])


def test_an_id_lasts_as_long_as_its_instance(alone, model):
    (first,), (again,) = alone.services.ask("PING", 1), alone.services.ask("PING", 1)
    assert first == again
    model.script("a", "b")
    alone.session("s", "x").text()
    before = alone.inspect("s")["instanceId"]
    alone.stop_session("s")
    alone.session("s", "x").text()
    assert alone.inspect("s")["instanceId"] != before


def test_counters_of_the_intake(alone):
    (ping,) = alone.services.ask("PING", 1)
    before = alone.services.endpoint(ping["id"], "intake")
    for _ in range(3):
        alone.list()
    alone.bus.ask(alone.intake, "no json")
    after = alone.services.endpoint(ping["id"], "intake")
    assert after["num_requests"] - before["num_requests"] == 4
    assert after["num_errors"] - before["num_errors"] == 1
    assert before["last_error"] == "" and re.match(r"400:\s?\S", after["last_error"])
    assert after["processing_time"] > before["processing_time"]
    assert after["average_processing_time"] == after["processing_time"] // after["num_requests"]
    assert after["processing_time"] < 10e9, "nanoseconds of a few short requests"


def test_counters_of_a_session(alone, model):
    gate = Gate()
    model.script("one", "two", ["three", gate])
    alone.session("s", "x").text()
    instance = alone.inspect("s")["instanceId"]
    alone.prompt("s", "y").text()
    alone.prompt("s", "").failure()

    def settled():
        prompt = alone.services.endpoint(instance, "prompt")
        return prompt["num_errors"] == 1 and prompt

    prompt = eventually(settled, "the blank prompt is counted")
    # The first prompt came through the intake.
    assert prompt["num_requests"] == 2
    assert prompt["last_error"].startswith("400:")
    # How long a prompt takes is how long it works, not how long it takes to accept it.
    stream = alone.prompt("s", "z")
    begun = datetime.now(UTC)
    stream.until("three")
    gate.wait_reached()
    worked = (datetime.now(UTC) - begun).total_seconds()
    gate.open()
    stream.text()
    eventually(lambda: alone.services.endpoint(instance, "prompt")["num_requests"] == 3, "the prompt is counted")
    eventually(
        lambda: alone.services.endpoint(instance, "prompt")["processing_time"] >= worked * 1e9 * 0.5,
        "the time of the prompt is counted",
    )
    assert alone.services.endpoint(instance, "inspect")["num_requests"] == 1


def test_started_is_when_the_instance_began(alone, model):
    model.script("ok")
    before = datetime.now(UTC).timestamp()
    alone.session("s", "x").text()
    after = datetime.now(UTC).timestamp()
    instance = alone.inspect("s")["instanceId"]
    stats = json.loads(alone.bus.ask(f"$SRV.STATS.pi-exec.{instance}").data)
    started = datetime.fromisoformat(stats["started"]).timestamp()
    assert before - 0.001 <= started <= after


def test_discovery_without_reply_subject_does_no_harm(alone):
    for verb in ("PING", "INFO", "STATS"):
        alone.bus.publish(f"$SRV.{verb}")
        alone.bus.publish(f"$SRV.{verb}.pi-exec")
    alone.services.ask("PING", 1)


def test_fifty_sessions_are_discovered(alone, model):
    model.answer(lambda request: "ok")
    streams = [alone.session(f"s{number}", "x") for number in range(50)]
    for stream in streams:
        stream.text()
    described = {info["description"] for info in alone.services.ask("INFO", 51, ".pi-exec")}
    assert described == {"intake"} | {f"s{number} — {alone.cwd}" for number in range(50)}
    assert len({stats["id"] for stats in alone.services.ask("STATS", 51)}) == 51


def test_two_daemons_of_one_owner_share_the_intake(alone, new_daemon, model):
    """Each request is answered once, by one of them."""
    other = new_daemon(alone.config["server"], alone.bus, owner=alone.owner)
    other.start()
    streams = [alone.bus.request(alone.intake, {"sessionMode": "list"}) for _ in range(20)]
    for stream in streams:
        stream.message()
    alone.services.ask("PING", 2)
    assert all(stream.pending() == 0 for stream in streams)
