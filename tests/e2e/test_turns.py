"""How many prompts are worked on at a time, whose turn it is, and what an operator who drains a host lets begin."""

import json
import time

from support import agents
from support.bridge import Bridge
from support.model_script import Gate
from support.waiting import eventually


def bounded(new_daemon, **config):
    daemon = new_daemon()
    daemon.config.update(config)
    return daemon.start()


class Gated:
    """A model whose answers wait until they are let go, one after the other."""

    def __init__(self, model):
        self.begun = []
        self._gates = {}
        model.answer(self._answer)

    def _answer(self, request):
        name = request.prompts[-1]
        gate = self._gates[name] = Gate()
        self.begun.append(name)
        return [gate, f"done {name}"]

    def wait(self, count):
        """The prompt that was begun as the so-manieth."""
        eventually(lambda: len(self.begun) >= count, f"{count} prompts were begun")
        return self.begun[count - 1]

    def release(self, name):
        """Lets the answer to a prompt go, once it was begun."""
        eventually(lambda: self._gates.get(name), f"{name} was begun").open()


def wait_runs(daemon, running, queued):
    wanted = ["queued"] * queued + ["running"] * running
    eventually(lambda: sorted(run["state"] for run in daemon.list()["runs"]) == wanted, f"{running} runs work, {queued} wait")


def waits(daemon, session, count):
    return daemon.wait_session(session, lambda facts: facts["queuedRequests"] == count, f"{count} prompts wait")["queue"]


def test_no_more_run_than_may(new_daemon, model):
    gated = Gated(model)
    daemon = bounded(new_daemon, maxRunning=2)
    runs = [daemon.run(f"r{number}") for number in range(4)]
    gated.wait(2)
    wait_runs(daemon, 2, 2)
    assert len(gated.begun) == 2
    for count in range(4):
        gated.release(gated.wait(count + 1))
    assert sorted(run.text() for run in runs) == [f"done r{number}" for number in range(4)]


def test_callers_take_turns(new_daemon, model):
    gated = Gated(model)
    daemon = bounded(new_daemon, maxRunning=1)
    first = daemon.run("flood-0", **{"from": "flood"})
    gated.wait(1)
    streams = [first]
    # One at a time, so that their order is known.
    for name in ["flood-1", "flood-2", "flood-3", "b-1", "c-1", "b-2"]:
        streams.append(daemon.run(name, **{"from": name.split("-")[0]}))
        wait_runs(daemon, 1, len(streams) - 1)
    for count in range(7):
        gated.release(gated.wait(count + 1))
    assert [stream.text() for stream in streams]
    assert gated.begun == ["flood-0", "b-1", "c-1", "flood-1", "b-2", "flood-2", "flood-3"]


def test_a_prompt_that_waits_is_told_its_place_and_can_be_taken_back(new_daemon, model):
    gated = Gated(model)
    daemon = bounded(new_daemon, maxRunning=1)
    for name in ("one", "two"):
        stream = daemon.session(name, "hello-" + name)
        gated.release("hello-" + name)
        stream.text()
    running = daemon.prompt("one", "long")
    gated.wait(3)
    wire = agents.prompt(daemon, "two", "waits").ack()
    kind, status = wire.next()
    word, _, told = status.partition(":")
    assert (kind, word) == ("status", "queued")
    told = json.loads(told)
    assert told["position"] == 1
    second = daemon.prompt("two", {"body": "waits too", "from": "me"})
    queue = waits(daemon, "two", 2)
    assert [(row["position"], row["from"]) for row in queue] == [(1, None), (2, "me")]
    assert queue[0]["promptId"] == told["promptId"]
    assert daemon.inspect("two")["state"] == "queued"
    cancel = f"{daemon.subject('two')}.cancel"
    assert daemon.bus.ask_json(cancel, told) == {"cancelled": True, "promptId": told["promptId"]}
    assert wire.failure() == (500, {"error": "aborted", "message": "the prompt was cancelled"})
    assert [row["position"] for row in waits(daemon, "two", 1)] == [1]
    assert daemon.bus.ask_json(cancel, told)["error"] == "not_found"
    events = daemon.bus.ask_json(f"{daemon.subject('two')}.history", {"event": "prompt_queued"})["events"]
    assert [event["data"]["position"] for event in events] == [1, 2]
    with Bridge(daemon.session_socket("two")) as client:
        assert client.ask("cancel", promptId=queue[1]["promptId"])["cancelled"]
        assert "promptId required" in client.refusal("cancel")
    assert second.failure().word == "aborted"
    gated.release("long")
    assert running.text() == "done long"
    assert "waits" not in gated.begun
    assert daemon.inspect("two")["state"] == "idle"


def test_what_is_worked_on_is_not_taken_back(new_daemon, model):
    gated = Gated(model)
    daemon = bounded(new_daemon)
    running = daemon.session("one", "first")
    gated.wait(1)
    waiting = daemon.prompt("one", "second")
    (row,) = waits(daemon, "one", 1)
    gated.release("first")
    assert running.text() == "done first"
    gated.wait(2)
    assert daemon.bus.ask_json(f"{daemon.subject('one')}.cancel", row)["error"] == "busy"
    gated.release("second")
    assert waiting.text() == "done second"


def test_a_prompt_that_was_taken_back_stays_so_over_a_restart(new_daemon, model):
    gated = Gated(model)
    daemon = bounded(new_daemon)
    daemon.session("one", "first")
    gated.wait(1)
    daemon.prompt("one", "second")
    (row,) = waits(daemon, "one", 1)
    assert daemon.bus.ask_json(f"{daemon.subject('one')}.cancel", row)["cancelled"]
    daemon.process.kill()
    daemon.wait_exit()
    daemon.start()
    # The first one is gone on with.
    gated.wait(2)
    assert daemon.inspect("one")["queue"] == []
    gated.release("first")
    daemon.wait_session("one", lambda facts: facts["state"] == "idle", "it is done")
    assert "second" not in gated.begun


def test_what_waits_for_a_slot_survives_a_crash(new_daemon, model):
    gated = Gated(model)
    daemon = bounded(new_daemon, maxRunning=1)
    stream = daemon.session("one", "first")
    gated.wait(1)
    gated.release("first")
    stream.text()
    daemon.run("long")
    gated.wait(2)
    wire = agents.prompt(daemon, "one", "waits").ack()
    assert wire.next()[1].startswith("queued:")
    daemon.process.kill()
    daemon.wait_exit()
    daemon.start()
    # The run that was interrupted is gone on with, whether there is a slot or not.
    first = gated.wait(3)
    gated.release(first)
    gated.release("waits" if first == "long" else "long")
    assert wire.text().endswith("done waits")


def test_drain_and_undrain(new_daemon, model):
    gated = Gated(model)
    daemon = bounded(new_daemon)
    stream = daemon.session("one", "first")
    gated.wait(1)
    waiting = daemon.prompt("one", "second")
    waits(daemon, "one", 1)
    answer = daemon.bus.ask_json(daemon.intake, {"sessionMode": "drain"})
    assert {**answer, "host": ""} == {"ok": True, "host": "", "draining": True, "running": 1, "queued": 1}
    assert daemon.refusal({"sessionMode": "run", "body": "x", "cwd": "/"}).error == "draining"
    assert daemon.prompt("one", "third").failure().word == "draining"
    # What runs may be helped to its end.
    steered = daemon.bus.ask_json(f"{daemon.subject('one')}.steer", "left")
    assert steered["deliveredAs"] == "steer"
    gated.release("first")
    gated.release("left")
    assert stream.text().startswith("done first")
    facts = daemon.wait_session("one", lambda facts: not facts["activeRequest"], "what ran has ended")
    assert (facts["state"], facts["queuedRequests"]) == ("queued", 1)
    assert "second" not in gated.begun
    answer = daemon.bus.ask_json(daemon.intake, {"sessionMode": "undrain", "host": answer["host"]})
    assert answer["draining"] is False
    gated.release("second")
    assert waiting.text() == "done second"
    assert daemon.refusal({"sessionMode": "drain", "host": "nobody"}).error == "invalid_request"


def test_pi_bridge_drains(daemon, cli, model):
    model.answer(lambda _request: "hi")
    there = ("--bridge-dir", str(daemon.bridge_dir))
    done = cli("drain", *there)
    assert done.returncode == 0 and json.loads(done.stdout)["data"]["draining"], done
    assert daemon.refusal({"sessionMode": "run", "body": "x", "cwd": "/"}).error == "draining"
    assert cli("undrain", *there).returncode == 0
    assert daemon.run("x").text() == "hi"


def test_while_one_of_two_daemons_is_drained_the_other_one_works(new_daemon, model):
    model.answer(lambda _request: "hi")
    one = bounded(new_daemon, heartbeatInterval=1)
    two = new_daemon(owner=one.owner)
    two.config["heartbeatInterval"] = 1
    two.start()
    two.wait_log("another nats-pi-bridge")
    one.wait_log("another nats-pi-bridge")
    why = one.refusal({"sessionMode": "drain"})
    assert why.error == "invalid_request" and "name one as host" in why.document["message"]
    one.session("a", "hi").text()
    hosts = [host.strip() for host in why.document["message"].split("host: ")[1].split(",")]
    assert len(hosts) == 2
    answer = one.bus.ask_json(one.intake, {"sessionMode": "drain", "host": hosts[0]})
    assert (answer["host"], answer["draining"]) == (hosts[0], True)
    assert {one.run("x").text() for _ in range(20)} == {"hi"}
    assert one.bus.ask_json(one.intake, {"sessionMode": "undrain", "host": hosts[0]})["draining"] is False
    assert {one.run("x").text() for _ in range(5)} == {"hi"}


def test_who_finds_no_room_is_told_at_once(new_daemon, model):
    """Within 10 ms; here ten times as much, for machines that are busy with something else."""
    gated = Gated(model)
    daemon = bounded(new_daemon, maxRunning=1, maxSessions=4, maxQueue=1)
    daemon.session("s", "held")
    gated.wait(1)
    for number in range(3):
        daemon.run(f"r{number}")
    wait_runs(daemon, 0, 3)
    daemon.prompt("s", "queued")
    waits(daemon, "s", 1)
    times = []
    for _ in range(40):
        for send, code in [(lambda: daemon.run("x"), "busy"), (lambda: daemon.prompt("s", "x"), "queue_full")]:
            begun = time.monotonic()
            message = send().message()
            times.append(time.monotonic() - begun)
            assert code in message.headers["Nats-Service-Error"]
    times.sort()
    assert times[len(times) // 2] < 0.1, times
