"""Answers go to inboxes and nowhere else, wherever a request or a file says they should go."""

import json
import signal

import pytest

from support.model_script import Gate

MODES = ['{"sessionMode":"list"}', '{"sessionMode":"stop","sessionId":"nobody"}', "{", '{"sessionMode":"run","body":"x","cwd":"/"}']


@pytest.fixture
def worker(daemon, model):
    model.script("hello")
    daemon.session("worker", "hi").text()
    return daemon


def forbidden(daemon):
    """Subjects that a caller may name and that must not be published to."""
    return [daemon.intake, daemon.subject("worker"), f"{daemon.subject('worker')}.abort", f"agents.ev.{daemon.owner}.worker.agent_end",
            f"agents.hb.pi-exec.{daemon.owner}.worker", "replies.of.mine", "$SYS.x", "_INBOX"]


def test_nothing_is_published_to_other_subjects(worker, model, bus):
    heard = {subject: bus.listen(subject) for subject in forbidden(worker)}
    model.answer(lambda request: "Danger")
    for subject in heard:
        for payload in MODES:
            bus.publish(worker.intake, payload, reply=subject)
        bus.publish(worker.subject("worker"), "say it", reply=subject)
        for verb in ("inspect", "history", "abort", "explode"):
            bus.publish(f"{worker.subject('worker')}.{verb}", "{}", reply=subject)
        for verb in ("prompt", "status"):
            bus.publish(f"agents.{verb}.pi-exec.{worker.owner}.worker", '{"prompt":"x"}', reply=subject)
        for verb in ("list", "stop", "prompt"):
            bus.publish(f"agents.{verb}.pi-exec.{worker.owner}.control", "{}", reply=subject)
        bus.publish("$SRV.PING", "", reply=subject)
    # A prompt is worked on all the same; the one behind it has its answer when all of it is done.
    assert worker.prompt("worker", "the last").text() == "Danger"
    worker.discover()
    for subject, stream in heard.items():
        ours = [payload for payload in stream.payloads if payload not in (b"say it", b"{}")]
        while stream.pending():
            ours.append(stream.message().data)
        asked = {payload.encode() for payload in MODES} | {b"say it", b"the last", b"{}", b'{"prompt":"x"}'}
        said = [payload for payload in ours if payload not in asked and b'"event"' not in payload and b'"interval_s"' not in payload]
        assert said == [], subject
    assert worker.log_text().count("no answer goes to the reply subject") == 1


def test_prefixes_can_be_configured(new_daemon, model, bus):
    daemon = new_daemon()
    daemon.config["replyPrefixes"] = ["replies.", "_INBOX."]
    daemon.start()
    model.script("hello")
    heard = bus.listen("replies.mine")
    bus.publish(daemon.intake, json.dumps({"sessionMode": "run", "body": "x", "cwd": "/"}), reply="replies.mine")
    assert heard.text() == "hello"
    daemon.config["replyPrefixes"] = ["with space"]
    assert "replyPrefixes" in daemon.run_to_end("--check").stderr


def test_an_address_of_before_a_restart_is_checked_too(worker, model, bus):
    gate = Gate()
    model.script([gate, "never"])
    running = worker.prompt("worker", "one")
    gate.wait_reached()
    waiting = worker.prompt("worker", "two")
    worker.wait_session("worker", lambda facts: facts["queuedRequests"] == 1, "one waits")
    worker.signal(signal.SIGKILL)
    worker.wait_exit()
    (file,) = worker.session_files()
    for stream in (running, waiting):
        text = file.read_text()
        assert stream.inbox in text
        file.write_text(text.replace(stream.inbox, f"{worker.subject('worker')}.abort"))
    heard = bus.listen(f"{worker.subject('worker')}.abort")
    gate.open()
    model.answer(lambda request: "Danger")
    worker.start()
    assert worker.prompt("worker", "three").text() == "Danger"
    assert heard.pending() == 0
    assert "no answer goes to the reply subject" in worker.log_text()
