"""One-shot prompts."""

import re

import pytest

from support.daemon import MODELS
from support.model_script import Gate, Thinking, ToolCall, Usage
from support.waiting import eventually


def test_a_run_is_stopped_by_the_id_that_list_shows(daemon, model):
    gate = Gate()
    model.script(["begun ", gate, "never"])
    running = daemon.run("go")
    running.until("begun")
    [run] = [row["sessionId"] for row in daemon.list()["runs"]]
    assert daemon.stop_session(run) == {"ok": True, "sessionId": run}
    assert "stopped" in running.failure().text
    gate.open()
    assert daemon.list()["runs"] == []


def test_text_streams_piece_by_piece_and_ends_with_an_empty_message(daemon, model):
    gate = Gate()
    model.script(["Hello, ", gate, "world"])
    stream = daemon.run("greet")
    # The first piece arrives while the model is still held at the gate.
    assert stream.until("Hello, ") == "Hello, "
    gate.open()
    assert stream.text() == "Hello, world"
    daemon.assert_nothing_follows(stream)


@pytest.mark.parametrize("spec", MODELS.values(), ids=MODELS)
def test_each_provider_api_streams_text_and_runs_tools(daemon, model, spec):
    model.script(
        [Thinking("hidden "), "Looking. ", ToolCall("bash", {"command": "echo from-the-tool"})],
        "Done.",
    )
    # Only the model's text is sent, all of it: no thinking, no tool calls, no tool output.
    assert daemon.run("look", model=spec).text() == "Looking. Done."
    first, second = model.requests
    assert first.model == spec.split("/")[1]
    assert str(daemon.cwd) in first.system and "bash" in first.tool_names
    assert second.conversation == [("user", "look"), ("assistant", "Looking. ")]
    assert second.tool_results[0][0] == "from-the-tool\n"


@pytest.mark.parametrize("spec", MODELS.values(), ids=MODELS)
def test_each_provider_api_counts_tokens_the_same_way(daemon, model, spec):
    model.script(["ok", Usage(input=100, output=20, cache_read=3)])
    daemon.session("s", "x", model=spec).text()
    expected = {"input": 100, "output": 20, "cacheRead": 3, "cacheWrite": 0, "total": 123}
    assert daemon.inspect("s")["tokens"] == expected


def test_prompt_reaches_the_model_unchanged(daemon, model):
    model.script("ok")
    body = 'Grüße 👋 "quoted" \\ back\tslash\nsecond line {{template}}'
    assert daemon.run(body).text() == "ok"
    assert model.requests[0].prompts == [body]


def test_a_run_is_listed_while_it_works_and_is_gone_afterwards(daemon, model):
    gate = Gate()
    model.script(["a", gate])
    stream = daemon.run("wait", **{"from": "somebody"})
    stream.until("a")
    listing = daemon.list()
    assert listing["sessions"] == []
    (run,) = listing["runs"]
    assert re.fullmatch(r"run-[0-9a-f]+", run["sessionId"])
    gate.open()
    stream.text()
    eventually(lambda: daemon.list()["runs"] == [], "the run left the list")


def test_runs_share_no_memory(daemon, model):
    model.script("one", "two")
    daemon.run("first").text()
    daemon.run("second").text()
    assert model.requests[1].conversation == [("user", "second")]


def test_the_request_chooses_model_and_thinking_level(daemon, model):
    model.script("a", "b")
    daemon.run("x", model="scripted/thinker", thinkingLevel="high").text()
    daemon.run("x", model="scripted/thinker", thinkingLevel="off").text()
    deep, shallow = (request.body for request in model.requests)
    assert deep["model"] == shallow["model"] == "thinker"
    assert deep["thinking"]["type"] in ("enabled", "adaptive")
    assert shallow.get("thinking", {"type": "disabled"})["type"] == "disabled"


def test_a_run_ends_with_its_lifetime(daemon, model):
    gate = Gate()
    model.script(["begun", gate])
    stream = daemon.run("too long", maxLifetime=1)
    failed = stream.failure(timeout=5)
    assert failed.text.startswith("error: session expired")
    assert stream.so_far() == "begun"
    # The request to the model is given up, too.
    assert model.requests[0].left.wait(5)


def test_twenty_runs_at_once(daemon, model):
    """All requests are at the model together before any is answered."""
    gate = Gate()
    model.answer(lambda request: [gate, f"answer to {request.prompts[-1]}"])
    streams = [daemon.run(f"question {number}") for number in range(20)]
    model.wait_for(20)
    gate.open()
    assert [stream.text() for stream in streams] == [f"answer to question {number}" for number in range(20)]


def test_a_request_nobody_reads_the_answer_of_is_done_all_the_same(daemon, model, bus):
    model.script([ToolCall("write", {"path": "done.txt", "content": "x"})], "done")
    bus.publish(daemon.intake, {"sessionMode": "run", "body": "x", "cwd": str(daemon.cwd)})
    eventually(lambda: (daemon.cwd / "done.txt").exists(), "the run's work")
