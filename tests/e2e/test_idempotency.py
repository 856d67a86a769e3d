"""A request that is sent twice under one `Nats-Msg-Id` is done once, and both callers get its outcome."""

import json

import pytest

from support.agents import prompt
from support.model_script import Gate

SAME = {"Nats-Msg-Id": "request-1"}


@pytest.fixture
def worker(daemon, model):
    model.script("hello")
    daemon.session("worker", "hi").text()
    return daemon


def test_a_second_caller_joins_the_running_answer(worker, model):
    gate = Gate()
    model.script(["one ", gate, "two"], "other")
    first = worker.bus.request(worker.subject("worker"), "go", SAME)
    first.until("one ")
    gate.wait_reached()
    second = worker.bus.request(worker.subject("worker"), "go", SAME)
    second.until("one ")
    gate.open()
    assert (first.text(), second.text()) == ("one two", "one two")
    # It is answered from memory when it is over.
    assert worker.bus.request(worker.subject("worker"), "go", SAME).text() == "one two"
    assert len(model.requests) == 2
    # Another id, and none, are other requests.
    assert worker.bus.request(worker.subject("worker"), "go", {"Nats-Msg-Id": "request-2"}).text() == "other"
    worker.assert_nothing_follows(first, second)


def test_another_request_does_not_get_the_answer(worker, model):
    """The id says nothing about who sends it, so that the payload has to be the same."""
    model.script("secret", "own")
    assert worker.bus.request(worker.subject("worker"), "go", SAME).text() == "secret"
    refused = worker.bus.request(worker.subject("worker"), "other", SAME).failure()
    assert "used for another request" in refused.text
    assert prompt(worker, "worker", "go", SAME).ack().text() == "own"
    status, document = prompt(worker, "worker", "other", SAME).failure()
    assert (status, document["error"]) == (409, "duplicate_request")
    assert len(model.requests) == 3


def test_the_agent_protocol_answers_twice_with_its_own_ack_and_end(worker, model):
    gate = Gate()
    model.script(["one ", gate, "two"])
    first = prompt(worker, "worker", "go", SAME).ack()
    assert first.next() == ("response", "one ")
    gate.wait_reached()
    second = prompt(worker, "worker", "go", SAME).ack()
    assert second.next() == ("response", "one ")
    gate.open()
    assert (first.text(), second.text()) == ("two", "two")
    assert prompt(worker, "worker", "go", SAME).ack().text() == "one two"
    assert len(model.requests) == 2


def test_a_failure_is_the_same_for_both(worker, model):
    gate = Gate()
    model.script([gate])
    first = worker.bus.request(worker.subject("worker"), "go", SAME)
    gate.wait_reached()
    second = worker.bus.request(worker.subject("worker"), "go", SAME)
    worker.bus.ask(f"{worker.subject('worker')}.abort")
    assert {first.failure().text, second.failure().text} == {"error: the prompt was aborted"}


def test_who_was_refused_for_lack_of_room_may_try_again(new_daemon, model):
    daemon = new_daemon()
    daemon.config["maxQueue"] = 1
    daemon.start()
    gate = Gate()
    model.script("hello", ["busy", gate], "queued", "at last")
    daemon.session("worker", "hi").text()
    busy = daemon.prompt("worker", "one")
    gate.wait_reached()
    queued = daemon.prompt("worker", "two")
    assert daemon.bus.request(daemon.subject("worker"), "three", SAME).failure().code == 429
    gate.open()
    assert (busy.text(), queued.text()) == ("busy", "queued")
    assert daemon.bus.request(daemon.subject("worker"), "three", SAME).text() == "at last"


def intake(daemon, request, headers=SAME):
    return daemon.bus.request(daemon.intake, {"cwd": str(daemon.cwd), **request}, headers)


def test_a_run_is_run_once(daemon, model):
    gate = Gate()
    model.script(["one ", gate, "two"])
    first = intake(daemon, {"sessionMode": "run", "body": "go"})
    gate.wait_reached()
    second = intake(daemon, {"sessionMode": "run", "body": "go"})
    second.until("one ")
    assert len(daemon.list()["runs"]) == 1
    gate.open()
    assert (first.text(), second.text()) == ("one two", "one two")
    assert len(model.requests) == 1


def test_a_session_is_made_once(daemon, model):
    model.script("hello")
    request = {"sessionMode": "session", "sessionId": "worker", "body": "hi"}
    assert intake(daemon, request).text() == "hello"
    assert intake(daemon, request).text() == "hello"
    assert daemon.session_ids() == ["worker"]
    # Another request for the same session is an error as ever.
    assert json.loads(intake(daemon, request, None).message().data)["error"] == "session_exists"


def test_a_session_is_stopped_once(worker):
    request = {"sessionMode": "stop", "sessionId": "worker"}
    for _ in range(2):
        assert json.loads(intake(worker, request).message().data) == {"ok": True, "sessionId": "worker"}
    assert json.loads(intake(worker, request, None).message().data)["error"] == "not_found"


def test_the_controller_starts_a_session_once(daemon):
    subject = f"agents.spawn.pi-exec.{daemon.owner}.control"
    made = [daemon.bus.ask_json(subject, {"cwd": str(daemon.cwd)}, headers=SAME) for _ in range(2)]
    assert made[0] == made[1] and daemon.session_ids() == [made[0]["session_id"]]


def test_a_refused_request_is_looked_at_anew(daemon, model):
    request = {"sessionMode": "session", "sessionId": "worker", "body": "hi"}
    refused = intake(daemon, {**request, "cwd": "/nonexistent"})
    assert json.loads(refused.message().data)["error"] == "session_create_failed"
    model.script("hello")
    assert intake(daemon, request).text() == "hello"
