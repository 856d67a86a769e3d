"""A caller's place in a trace: in the events of its prompt, and in the environment of the tools that run for it."""

import json

import pytest

from support.agents import prompt_subject
from support.bridge import Bridge
from support.model_script import Gate, ToolCall
from support.session_files import kill, roles
from support.waiting import eventually
from test_shutdown_answers import client

IDS = "0af7651916cd43dd8448eb211c80319c-b7ad6b71692033{:02x}"


def trace(number):
    return f"00-{IDS.format(number)}-01"


def show(tag):
    return ToolCall("bash", {"command": f'echo "{tag}=${{TRACEPARENT-none}}"'}, id=tag)


def told(daemon, tag):
    """What a tool of that tag printed."""
    results = [text for text, *_ in daemon.model.requests[-1].tool_results]
    (found,) = [text for text in results if text.startswith(f"{tag}=")] or [str(results)]
    return found.strip().removeprefix(f"{tag}=")


def events(daemon, session="s"):
    return daemon.bus.ask_json(f"{daemon.subject(session)}.history")["events"]


def traces(found):
    """The traces of these events, in order and each once in a row: names of the first and the last event, and the trace."""
    runs = []
    for event in found:
        if not runs or runs[-1][2] != event.get("traceparent"):
            runs.append([event["event"], event["event"], event.get("traceparent")])
        runs[-1][1] = event["event"]
    return runs


@pytest.fixture
def traced(new_daemon, model):
    """A daemon that was started in a trace of its own, which is nobody's business."""
    daemon = new_daemon()
    daemon.environment["TRACEPARENT"] = trace(255)
    daemon.model = model
    return daemon.start()


def ways(daemon):
    """The ways in which a prompt with a trace can come to the session `s`."""
    bus, subject = daemon.bus, daemon.subject("s")

    def socket(value):
        with Bridge(daemon.session_socket("s")) as bridge:
            bridge.ask("prompt", message="go", traceparent=value, stream=True, id="t")
            bridge.next(lambda record: record["type"] == "end")

    def cli(value):
        pi_bridge = client(daemon)
        pi_bridge.environment["TRACEPARENT"] = value
        done = pi_bridge("send", "--stream", "go")
        assert done.returncode == 0, done.stderr

    return {
        "pi-exec": lambda value: bus.request(subject, "go", {"traceparent": value}).text(),
        "rewritten": lambda value: bus.request(subject, '{"body":"go"}', {"Traceparent": value}).text(),
        "agents": lambda value: finished(bus.request(prompt_subject(daemon, "s"), "go", {"traceparent": value})),
        "socket": socket,
        "cli": cli,
    }


def finished(stream):
    while stream.message().data:
        pass


@pytest.mark.any_server
def test_it_is_in_events_and_in_the_tools_environment(traced, model):
    model.script([show("first")], "done")
    fields = {"sessionMode": "session", "sessionId": "s", "body": "go", "cwd": str(traced.cwd)}
    traced.bus.request(traced.intake, fields, {"traceparent": trace(1)}).text()
    assert told(traced, "first") == trace(1)
    for number, (way, send) in enumerate(ways(traced).items(), 2):
        before = events(traced)[-1]["seq"]
        model.script([show(way)], "done")
        send(trace(number))
        assert told(traced, way) == trace(number), way
        new = [event for event in events(traced) if event["seq"] > before]
        assert traces(new) == [["input", "settled", trace(number)]], way
    # The next prompt is in no trace, and neither in the daemon's.
    for tag, value in (("none", None), ("wrong", "00-no-trace-01")):
        before = events(traced)[-1]["seq"]
        model.script([show(tag)], "done")
        traced.bus.request(traced.subject("s"), "go", {"traceparent": value} if value else None).text()
        assert told(traced, tag) == "none"
        assert not any("traceparent" in event for event in events(traced) if event["seq"] > before)


@pytest.mark.any_server
def test_each_prompt_keeps_its_own(traced, model):
    """A prompt that waits, and words that steer the one that is worked on, are in traces of their own until they are in the work."""
    gate = Gate()
    model.script([show("a"), gate], [show("b")], "done")
    first = traced.bus.request(traced.intake, {"sessionMode": "session", "sessionId": "s", "body": "go", "cwd": str(traced.cwd)}, {"traceparent": trace(1)})
    gate.wait_reached()
    second = traced.bus.request(traced.subject("s"), "next", {"traceparent": trace(2)})
    traced.wait_session("s", lambda facts: len(facts["queue"]) == 1, "the second prompt waits")
    traced.bus.ask_json(f"{traced.subject('s')}.steer", "left", headers={"traceparent": trace(3)})
    model.script([show("c")], "done")
    gate.open()
    first.text()
    second.text()
    assert told(traced, "c") == trace(2)
    assert {told(traced, tag) for tag in "ab"} == {trace(1)}
    found = events(traced)
    own = {(event["event"], event.get("traceparent")) for event in found}
    assert {("input", trace(number)) for number in (1, 2, 3)} <= own
    assert {("prompt_queued", trace(2)), ("settled", trace(1)), ("settled", trace(2))} <= own
    assert [event["data"]["toolCallId"] for event in found if event["event"] == "tool_execution_end" and event["traceparent"] == trace(1)] == ["a", "b"]


@pytest.mark.any_server
def test_it_outlives_a_restart(traced, model):
    """That of the prompt that is gone on with, and that of one that waits."""
    gate = Gate()
    model.script([show("a")], [gate, "never"])
    first = traced.bus.request(traced.intake, {"sessionMode": "session", "sessionId": "s", "body": "go", "cwd": str(traced.cwd)}, {"traceparent": trace(1)})
    gate.wait_reached()
    second = traced.bus.request(traced.subject("s"), "next", {"traceparent": trace(2)})
    traced.wait_session("s", lambda facts: len(facts["queue"]) == 1, "the second prompt waits")
    # The model is asked as soon as a tool has ended, and the session writes the result down meanwhile.
    eventually(lambda: roles(traced) == ["user", "assistant", "toolResult"], "the tool's result is on disk")
    kill(traced)
    gate.open()
    model.script([show("b")], "done")
    model.script([show("c")], "done")
    traced.start()
    first.text()
    second.text()
    assert [told(traced, tag) for tag in "abc"] == [trace(1), trace(1), trace(2)]
    settled = eventually(
        lambda: len(found := [event for event in events(traced) if event["event"] == "settled"]) == 2 and found, "both are settled"
    )
    assert [event["traceparent"] for event in settled] == [trace(1), trace(2)]
    interrupted = [event for event in events(traced) if event["event"] == "turn_interrupted"]
    assert [event["traceparent"] for event in interrupted] == [trace(1)]


@pytest.mark.any_server
def test_notices_have_it(new_daemon, model):
    daemon = new_daemon()
    notice = daemon.cwd / "notice"
    daemon.config["onSettled"] = f"cat > {notice}.part && mv {notice}.part {notice}"
    daemon.start()
    model.script("done")
    daemon.run("go", traceparent=trace(7)).text()
    eventually(notice.exists, "the notice is there")
    assert json.loads(notice.read_text())["traceparent"] == trace(7)
