"""More messages at once than anybody takes at a time: each is answered or refused, and none is the one that is lost."""

import json
from collections import Counter

from support.bus import StreamFailed
from support.model_script import Gate
from support.waiting import eventually

OFFLINE = "offline/demo"
ANSWER = "[offline/demo: no model, a built-in script]\nhi"


def flood(daemon, subject, payload, count):
    """Publishes many requests before any answer is waited for; returns their streams."""
    bus = daemon.bus
    streams = [bus.listen(bus.connection.new_inbox()) for _ in range(count)]

    async def publish():
        for stream in streams:
            await bus.connection.publish(subject, payload, reply=stream.inbox)

    bus.call(publish())
    return streams


def outcome(stream):
    try:
        return stream.text()
    except StreamFailed as refused:
        stream.terminator()
        assert refused.code == 429 and "queue_full" in refused.text
        return "refused"


def test_every_prompt_of_a_burst_is_answered_or_refused(daemon):
    daemon.session("s", "@echo ready", model=OFFLINE).text()
    streams = flood(daemon, daemon.subject("s"), b"@echo hi", 300)
    outcomes = Counter(outcome(stream) for stream in streams)
    assert set(outcomes) == {ANSWER, "refused"}, outcomes
    assert outcomes.total() == 300


def test_as_many_prompts_wait_as_the_queue_has_room_for(new_daemon):
    daemon = new_daemon().start("--max-queue", "500")
    daemon.session("s", "@echo ready", model=OFFLINE).text()
    streams = flood(daemon, daemon.subject("s"), b"@echo hi", 300)
    assert Counter(outcome(stream) for stream in streams) == {ANSWER: 300}


def test_every_inspection_of_a_burst_is_answered(daemon):
    daemon.session("s", "@echo ready", model=OFFLINE).text()
    streams = flood(daemon, daemon.subject("s") + ".inspect", b"", 500)
    assert {json.loads(stream.message().data)["sessionId"] for stream in streams} == {"s"}


def test_every_request_of_a_burst_to_the_intake_is_answered(daemon):
    streams = flood(daemon, daemon.intake, b'{"sessionMode":"list"}', 3000)
    assert all("sessions" in json.loads(stream.message().data) for stream in streams)


def test_an_abort_comes_through_a_burst_of_prompts(daemon, model):
    gate = Gate()
    model.script(["begun ", gate, "never"])
    running = daemon.session("s", "go")
    running.until("begun")
    streams = flood(daemon, daemon.subject("s"), b"more", 2000)
    assert "isIdle" in daemon.bus.ask_json(daemon.subject("s") + ".abort")
    assert "aborted" in running.failure().text
    gate.open()
    daemon.stop_session("s")
    for stream in streams:
        try:
            stream.text()
        except StreamFailed:
            stream.terminator()


def test_a_prompt_without_reply_subject_is_worked_on(daemon):
    daemon.session("s", "@echo ready", model=OFFLINE).text()
    daemon.bus.publish(daemon.subject("s"), "@echo unheard")
    eventually(lambda: "unheard" in json.dumps(daemon.bus.ask_json(daemon.subject("s") + ".history")), "its answer")


def test_a_request_without_reply_subject_makes_and_stops_a_session(daemon):
    create = {"sessionMode": "session", "sessionId": "s", "cwd": str(daemon.cwd), "body": "@echo x", "model": OFFLINE}
    daemon.bus.publish(daemon.intake, create)
    eventually(lambda: daemon.session_ids() == ["s"], "the session")
    daemon.bus.publish(daemon.intake, {"sessionMode": "stop", "sessionId": "s"})
    eventually(lambda: daemon.session_ids() == [], "its end")
