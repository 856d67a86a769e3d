"""What callers and models make the daemon keep is bounded, and nothing is kept for a prompt that is refused."""

import base64
import json

import pytest

from support.agents import prompt
from support.bus import StreamFailed
from support.keys import new_user
from support.model_script import Gate, ToolCall

CODE = "quota_exceeded"


def attached(daemon, session, size, text="look", **options):
    """Sends a prompt with a file of so many bytes."""
    content = base64.b64encode(b"a" * size).decode()
    payload = {"prompt": text, "attachments": [{"filename": "file", "content": content}]}
    return prompt(daemon, session, json.dumps(payload), **options)


def refusal(stream):
    return stream.failure()[1]["error"]


def stored(daemon, session):
    """The names and sizes of the files that came with a session's prompts."""
    folder = daemon.state_dir / f"{session}.files"
    return sorted((path.parent.name, path.stat().st_size) for path in folder.glob("*/*"))


@pytest.fixture
def daemon(new_daemon, model):
    model.answer(lambda _request: "ok")
    return new_daemon()


def begin(daemon, *sessions, **config):
    daemon.config.update(config)
    daemon.start()
    for session in sessions:
        daemon.session(session, "hi").text()
    return daemon


def test_files_of_one_session(daemon):
    begin(daemon, "one", "two", maxSessionBytes=100_000)
    assert attached(daemon, "one", 60_000).ack().text() == "ok"
    assert refusal(attached(daemon, "one", 60_000)) == CODE
    assert stored(daemon, "one") == [("1", 60_000)]
    assert daemon.prompt("one", "without a file").text() == "ok"
    assert attached(daemon, "one", 30_000).ack().text() == "ok"
    assert attached(daemon, "two", 60_000).ack().text() == "ok"
    # They are there after a restart, and count.
    daemon.signal()
    daemon.wait_exit()
    daemon.start()
    assert refusal(attached(daemon, "one", 20_000)) == CODE
    assert stored(daemon, "one") == [("1", 60_000), ("2", 30_000)]
    # They go with the session.
    daemon.stop_session("one")
    daemon.session("one", "again").text()
    assert attached(daemon, "one", 90_000).ack().text() == "ok"


def test_files_of_all_sessions(daemon):
    begin(daemon, "one", "two", maxHostBytes=100_000)
    assert attached(daemon, "one", 60_000).ack().text() == "ok"
    status, document = attached(daemon, "two", 60_000).failure()
    assert (status, document["error"]) == (500, CODE) and "host" in document["message"]
    daemon.stop_session("one")
    assert attached(daemon, "two", 60_000).ack().text() == "ok"


def test_waiting_prompts(daemon, model):
    begin(daemon, "one", maxSessionBytes=10_000)
    gate = Gate()
    model.answer(lambda request: ["held", gate] if request.prompts[-1] == "hold" else "ok")
    held = daemon.prompt("one", "hold")
    held.until("held")
    waits = daemon.prompt("one", "w" * 8000)
    daemon.wait_session("one", lambda facts: facts["queuedRequests"] == 1, "it waits")
    with pytest.raises(StreamFailed) as failed:
        daemon.prompt("one", "x" * 8000).text()
    assert "507" in str(failed.value) and CODE in str(failed.value)
    steering = f"{daemon.subject('one')}.steer"
    assert json.loads(daemon.bus.ask(steering, "y" * 8000).data)["error"] == CODE
    assert "deliveredAs" in json.loads(daemon.bus.ask(steering, "short").data)
    gate.open()
    assert held.text() == "heldok" and waits.text() == "ok"
    # What waited is worked on, and takes no room any more.
    for _ in range(3):
        assert daemon.prompt("one", "z" * 8000).text() == "ok"


def test_nothing_is_stored_for_a_prompt_that_finds_the_queue_full(daemon, model):
    begin(daemon, "one", maxQueue=1)
    gate = Gate()
    model.answer(lambda request: ["held", gate] if request.prompts[-1] == "hold" else "ok")
    held = daemon.prompt("one", "hold")
    held.until("held")
    waits = attached(daemon, "one", 10)
    waits.ack()
    assert refusal(attached(daemon, "one", 20)) == "queue_full"
    assert stored(daemon, "one") == [("1", 10)]
    gate.open()
    assert held.text() == "held" and waits.text() == "ok"


def test_nothing_is_stored_while_the_daemon_ends(daemon, model):
    # A prompt that waits would wait for the next start otherwise.
    begin(daemon, "one", onRestart="end")
    gate = Gate()
    model.answer(lambda _request: ["held", gate])
    held = daemon.prompt("one", "hold")
    held.until("held")
    daemon.signal()
    # Whether it waits already or is refused at once: the session knows of the end when this has failed.
    assert daemon.prompt("one", "late").failure()
    assert refusal(attached(daemon, "one", 10)) == "shutting_down"
    gate.open()
    assert held.text() == "held" and daemon.wait_exit() == 0
    assert stored(daemon, "one") == []


def test_nothing_is_stored_for_strangers(daemon):
    begin(daemon, "one")
    daemon.signal()
    daemon.wait_exit()
    daemon.config.update(minSenderTrust="signed", trustedSenders=[new_user()[0]])
    daemon.start()
    assert refusal(attached(daemon, "one", 10)) == "signature_required"
    assert stored(daemon, "one") == []


def test_a_prompt_that_is_sent_again_is_stored_once(daemon):
    begin(daemon, "one")
    for _ in range(2):
        assert attached(daemon, "one", 10, headers={"Nats-Msg-Id": "m1"}).ack().text() == "ok"
    assert stored(daemon, "one") == [("1", 10)]


def test_outputs_of_programs(daemon, model):
    begin(daemon, "one", maxSessionBytes=100_000)
    many = "yes line | head -n 200000"
    for expected in ("(its first 97.7KB)]", "Full output could not be kept: the session's 97.7KB"):
        model.script([ToolCall("bash", {"command": many})], "done")
        assert daemon.prompt("one", "go").text() == "done"
        (result,) = [text for text, _ in model.requests[-1].tool_results[-1:]]
        assert expected in result, result[-300:]
    daemon.stop_session("one")
    daemon.session("one", "again").text()
    model.script([ToolCall("bash", {"command": many})], "done")
    assert daemon.prompt("one", "go").text() == "done"
    assert "(its first 97.7KB)]" in model.requests[-1].tool_results[-1][0]
